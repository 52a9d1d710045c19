//! The commands for WAL: `wal-archive`, `wal-restore`, `check-wal-archive`.

use super::{
    AZURE, Arg, COMPRESSION, ENCRYPTION_HELP, ENCRYPTION_SCOPE, Group, KMS_KEY_NAME, Key, S3, SSE_KMS_KEY_ID, TAGS,
    Takes, any, choice, flag, option, positional, values,
};

const HISTORY_TAGS: Group = Group::AtMostOne("history tags");

pub(super) static ARCHIVE: &[Arg] = &[
    positional(Key::WalPath, "wal_path", Takes::AtMostOne(values::path), "the file to store: %p of archive_command"),
    flag(Key::Gzip, &["-z", "--gzip"], "compress with gzip").of(COMPRESSION),
    flag(Key::Bzip2, &["-j", "--bzip2"], "compress with bzip2").of(COMPRESSION),
    flag(Key::Xz, &["--xz"], "compress with xz").of(COMPRESSION),
    flag(Key::Snappy, &["--snappy"], "compress with snappy").of(COMPRESSION),
    flag(Key::Zstd, &["--zstd"], "compress with zstd").of(COMPRESSION),
    flag(Key::Lz4, &["--lz4"], "compress with lz4").of(COMPRESSION),
    option(
        Key::CompressionLevel,
        &["--compression-level"],
        "COMPRESSION_LEVEL",
        values::level,
        "low, medium, high, or a level of the compression's own",
    ),
    any(Key::Tags, &["--tags"], "TAGS_LIST", values::csv_tag, "KEY,VALUE of each tag for what is stored").of(TAGS),
    option(Key::Tag, &["--tag"], "TAGS_APPEND", values::tag, "KEY,VALUE of one tag; may be repeated").of(TAGS),
    any(
        Key::HistoryTags,
        &["--history-tags"],
        "HISTORY_TAGS_LIST",
        values::csv_tag,
        "KEY,VALUE of each tag for a history file, in place of its other tags",
    )
    .of(HISTORY_TAGS),
    option(
        Key::HistoryTag,
        &["--history-tag"],
        "HISTORY_TAGS_APPEND",
        values::tag,
        "KEY,VALUE of one tag for a history file; may be repeated",
    )
    .of(HISTORY_TAGS),
    KMS_KEY_NAME,
    Arg {
        metavar: "ENCRYPTION",
        ..choice(Key::Encryption, &["-e", "--encryption"], &["AES256", "aws:kms"], ENCRYPTION_HELP).below(S3)
    },
    SSE_KMS_KEY_ID,
    ENCRYPTION_SCOPE,
    option(
        Key::MaxBlockSize,
        &["--max-block-size"],
        "MAX_BLOCK_SIZE",
        values::size,
        "the size of one block of what is stored in several (4MB)",
    )
    .below(AZURE),
    option(
        Key::MaxConcurrency,
        &["--max-concurrency"],
        "MAX_CONCURRENCY",
        values::positive_int,
        "how many blocks go up at once (1)",
    )
    .below(AZURE),
    option(
        Key::MaxSinglePutSize,
        &["--max-single-put-size"],
        "MAX_SINGLE_PUT_SIZE",
        values::size,
        "up to which size one request stores it all (64MB)",
    )
    .below(AZURE),
];

pub(super) static RESTORE: &[Arg] = &[
    flag(Key::NoPartial, &["--no-partial"], "never take a file's .partial in its place"),
    option(
        Key::Parallel,
        &["-p", "--parallel"],
        "PARALLEL",
        values::int,
        "how many files to fetch at once, this one and those after it (0: only this one)",
    ),
    option(
        Key::SpoolDir,
        &["--spool-dir"],
        "SPOOL_DIR",
        values::path,
        "where files that were fetched ahead wait (/var/tmp/walrestore)",
    ),
    positional(Key::WalName, "wal_name", Takes::One(values::text), "the file to fetch: %f of restore_command"),
    positional(Key::WalDest, "wal_dest", Takes::One(values::path), "where it goes: %p of restore_command"),
];

pub(super) static CHECK: &[Arg] = &[option(
    Key::Timeline,
    &["--timeline"],
    "TIMELINE",
    values::positive_int,
    "the first timeline whose WAL files are in the way",
)];
