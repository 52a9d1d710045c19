//! The nine grammars of Barman 3.19.1 as tables. Their order is that of the usage text; what is explained is told in
//! our own words.

mod backup;
mod catalogue;
mod restore;
mod wal;

use super::argparse::{Argument, Group, Read, Takes};
use super::call::Program;
use super::values::{self, Value};

/// An argument of a `barman-cloud-*` command.
pub(super) type Arg = Argument<Key, Value>;

/// Which argument it is. Options that Barman 3.19.1 keeps in one place have one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Url,
    Server,
    Backup,
    WalPath,
    WalName,
    WalDest,
    RecoveryDir,
    Ending,
    Verbose,
    Quiet,
    Test,
    CloudProvider,
    EndpointUrl,
    AwsProfile,
    ReadTimeout,
    AddressingStyle,
    AzureCredential,
    Gzip,
    Bzip2,
    Xz,
    Snappy,
    Zstd,
    Lz4,
    CompressionLevel,
    Tags,
    Tag,
    HistoryTags,
    HistoryTag,
    KmsKeyName,
    Encryption,
    SseKmsKeyId,
    EncryptionScope,
    MaxBlockSize,
    MaxConcurrency,
    MaxSinglePutSize,
    NoPartial,
    Parallel,
    SpoolDir,
    Host,
    Port,
    User,
    Dbname,
    ImmediateCheckpoint,
    Jobs,
    MaxArchiveSize,
    MinChunkSize,
    MaxBandwidth,
    Name,
    SnapshotInstance,
    SnapshotDisk,
    /// Matters only beside the two before it.
    OtherSnapshot,
    Format,
    BackupId,
    RetentionPolicy,
    MinimumRedundancy,
    DryRun,
    BatchSize,
    CheckObjectLock,
    Release,
    Status,
    KeepTarget,
    Timeline,
    Tablespace,
    SnapshotRecoveryInstance,
    TargetTli,
    TargetLsn,
    TargetTime,
}

const POSITIONAL: &str = "positional arguments";
const OPTIONS: &str = "options";
const S3: &str = "options for aws-s3";
const AZURE: &str = "options for azure-blob-storage";
const GCS: &str = "options for google-cloud-storage";

const VERBOSITY: Group = Group::AtMostOne("verbosity");
const COMPRESSION: Group = Group::AtMostOne("compression");
const TAGS: Group = Group::AtMostOne("tags");

/// All arguments of a command, in the order of the usage text.
pub(super) fn arguments(program: Program) -> Vec<&'static Arg> {
    let url = if writes(program) { &DESTINATION_URL } else { &SOURCE_URL };
    let own = match program {
        Program::WalArchive => wal::ARCHIVE,
        Program::WalRestore => wal::RESTORE,
        Program::Backup => backup::BACKUP,
        Program::BackupList => catalogue::LIST,
        Program::BackupShow => catalogue::SHOW,
        Program::BackupDelete => catalogue::DELETE,
        Program::BackupKeep => catalogue::KEEP,
        Program::CheckWalArchive => wal::CHECK,
        Program::Restore => restore::RESTORE,
    };
    [url].into_iter().chain(COMMON).chain(own).collect()
}

/// What stands for the URL in the usage text.
pub(super) fn url_metavar(program: Program) -> &'static str {
    if writes(program) { DESTINATION_URL.metavar } else { SOURCE_URL.metavar }
}

fn writes(program: Program) -> bool {
    matches!(program, Program::WalArchive | Program::Backup | Program::CheckWalArchive)
}

/// What a command is for, for its help.
pub(super) fn about(program: Program) -> &'static str {
    match program {
        Program::WalArchive => "Stores a WAL file of PostgreSQL in a bucket; meant for archive_command.",
        Program::WalRestore => "Fetches a WAL file for PostgreSQL out of a bucket; meant for restore_command.",
        Program::Backup => "Takes a base backup of a PostgreSQL server on this host into a bucket.",
        Program::BackupList => "Lists the base backups in a bucket.",
        Program::BackupShow => "Shows what is known about one base backup.",
        Program::BackupDelete => "Deletes base backups, and the WAL files that no other backup needs.",
        Program::BackupKeep => "Protects a base backup from deletion by policy, or ends its protection.",
        Program::CheckWalArchive => "Makes sure that a bucket has no WAL files of an earlier server of this name.",
        Program::Restore => "Fetches a base backup out of a bucket into a directory.",
    }
}

static DESTINATION_URL: Arg =
    positional(Key::Url, "destination_url", Takes::One(values::text), "where to store: s3://BUCKET/PATH or the like");
static SOURCE_URL: Arg =
    positional(Key::Url, "source_url", Takes::One(values::text), "where it is stored: s3://BUCKET/PATH or the like");

static COMMON: &[Arg] = &[
    positional(Key::Server, "server_name", Takes::One(values::text), "the PostgreSQL server's name below the URL"),
    Arg { takes: Takes::Version, ..flag(Key::Ending, &["-V", "--version"], "print the version and stop") },
    Arg { takes: Takes::Help, ..flag(Key::Ending, &["--help"], "print this text and stop") },
    flag(Key::Verbose, &["-v", "--verbose"], "log more; may be repeated").of(VERBOSITY),
    flag(Key::Quiet, &["-q", "--quiet"], "log less; may be repeated").of(VERBOSITY),
    flag(Key::Test, &["-t", "--test"], "only see whether the bucket can be reached"),
    choice(
        Key::CloudProvider,
        &["--cloud-provider"],
        &["aws-s3", "azure-blob-storage", "google-cloud-storage"],
        "whose storage it is; aws-s3 (the default) stands for everything that speaks its protocol",
    ),
    option(Key::EndpointUrl, &["--endpoint-url"], "ENDPOINT_URL", values::text, "the address of the S3 service")
        .below(S3),
    option(
        Key::AwsProfile,
        &["-P", "--aws-profile"],
        "AWS_PROFILE",
        values::text,
        "the section of the AWS configuration to use",
    )
    .below(S3),
    option(Key::AwsProfile, &["--profile"], "AWS_PROFILE", values::text, "old name of --aws-profile").below(S3),
    option(
        Key::ReadTimeout,
        &["--read-timeout"],
        "READ_TIMEOUT",
        values::int,
        "for how many seconds to wait for an answer",
    )
    .below(S3),
    choice(
        Key::AddressingStyle,
        &["--addressing-style"],
        &["auto", "virtual", "path"],
        "whether the bucket's name goes into the host name or into the path",
    )
    .below(S3),
    choice(
        Key::AzureCredential,
        &["--azure-credential", "--credential", "--default"],
        &["azure-cli", "managed-identity", "default"],
        "where credentials come from, instead of the environment",
    )
    .below(AZURE),
];

const KMS_KEY_NAME: Arg =
    option(Key::KmsKeyName, &["--kms-key-name"], "KMS_KEY_NAME", values::text, "the key to encrypt with").below(GCS);
const SSE_KMS_KEY_ID: Arg = option(
    Key::SseKmsKeyId,
    &["--sse-kms-key-id"],
    "SSE_KMS_KEY_ID",
    values::text,
    "the key's ID or ARN; needs --encryption aws:kms",
)
.below(S3);

const ENCRYPTION_SCOPE: Arg = option(
    Key::EncryptionScope,
    &["--encryption-scope"],
    "ENCRYPTION_SCOPE",
    values::text,
    "the encryption scope to store with",
)
.below(AZURE);
const ENCRYPTION_HELP: &str = "have it encrypted: AES256, or aws:kms for a key of the key management service";

const fn flag(key: Key, names: &'static [&'static str], help: &'static str) -> Arg {
    Arg { key, names, metavar: "", takes: Takes::Nothing, group: Group::None, section: OPTIONS, help }
}

const fn option(
    key: Key,
    names: &'static [&'static str],
    metavar: &'static str,
    read: Read<Value>,
    help: &'static str,
) -> Arg {
    Arg { metavar, takes: Takes::One(read), ..flag(key, names, help) }
}

const fn choice(key: Key, names: &'static [&'static str], choices: &'static [&'static str], help: &'static str) -> Arg {
    Arg { takes: Takes::OneOf(choices, values::text), ..flag(key, names, help) }
}

const fn any(
    key: Key,
    names: &'static [&'static str],
    metavar: &'static str,
    read: Read<Value>,
    help: &'static str,
) -> Arg {
    Arg { metavar, takes: Takes::Any(read), ..flag(key, names, help) }
}

const fn positional(key: Key, metavar: &'static str, takes: Takes<Value>, help: &'static str) -> Arg {
    Arg { key, names: &[], metavar, takes, group: Group::None, section: POSITIONAL, help }
}

impl Arg {
    const fn of(mut self, group: Group) -> Self {
        self.group = group;
        self
    }

    const fn below(mut self, section: &'static str) -> Self {
        self.section = section;
        self
    }
}
