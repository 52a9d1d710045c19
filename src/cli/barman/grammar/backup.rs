//! The command that takes a backup: `backup`.

use super::{
    AZURE, Arg, COMPRESSION, ENCRYPTION_HELP, ENCRYPTION_SCOPE, GCS, Group, KMS_KEY_NAME, Key, S3, SSE_KMS_KEY_ID,
    TAGS, any, choice, flag, option, values,
};

const LOCK_END: Group = Group::AtMostOne("end of a snapshot's lock");

pub(super) static BACKUP: &[Arg] = &[
    flag(Key::Gzip, &["-z", "--gzip"], "compress with gzip").of(COMPRESSION),
    flag(Key::Bzip2, &["-j", "--bzip2"], "compress with bzip2").of(COMPRESSION),
    flag(Key::Snappy, &["--snappy"], "compress with snappy").of(COMPRESSION),
    flag(Key::Lz4, &["--lz4"], "compress with lz4").of(COMPRESSION),
    option(Key::Host, &["-h", "--host"], "HOST", values::text, "the server's host or socket directory"),
    option(Key::Port, &["-p", "--port"], "PORT", values::text, "the server's port"),
    option(Key::User, &["-U", "--user"], "USER", values::text, "the user to connect as"),
    flag(Key::ImmediateCheckpoint, &["--immediate-checkpoint"], "begin with a checkpoint at full speed"),
    option(Key::Jobs, &["-J", "--jobs"], "JOBS", values::positive_int, "how many uploads run at once (2)"),
    option(
        Key::MaxArchiveSize,
        &["-S", "--max-archive-size"],
        "MAX_ARCHIVE_SIZE",
        values::size,
        "how large one archive of the backup may grow (100GB)",
    ),
    option(
        Key::MinChunkSize,
        &["--min-chunk-size"],
        "MIN_CHUNK_SIZE",
        values::size,
        "the least size of one upload request",
    ),
    option(Key::MaxBandwidth, &["--max-bandwidth"], "MAX_BANDWIDTH", values::size, "the most to upload in one second"),
    option(
        Key::Dbname,
        &["-d", "--dbname"],
        "DBNAME",
        values::text,
        "the database to connect to, or a whole connection string (postgres)",
    ),
    option(Key::Name, &["-n", "--name"], "BACKUP_NAME", values::backup_name, "a name to find the backup by"),
    option(
        Key::SnapshotInstance,
        &["--snapshot-instance"],
        "SNAPSHOT_INSTANCE",
        values::text,
        "for a backup made of snapshots: the machine that has the disks",
    ),
    option(
        Key::SnapshotDisk,
        &["--snapshot-disk"],
        "NAME",
        values::text,
        "for a backup made of snapshots: a disk; may be repeated",
    ),
    other(&["--snapshot-zone"], "GCP_ZONE", "old name of --gcp-zone"),
    other(&["--snapshot-gcp-project"], "GCP_PROJECT", "old name of --gcp-project").below(GCS),
    other(&["--gcp-project"], "GCP_PROJECT", "the project of the snapshots").below(GCS),
    KMS_KEY_NAME,
    other(&["--gcp-zone"], "GCP_ZONE", "the zone of the disks").below(GCS),
    any(Key::Tags, &["--tags"], "TAGS_LIST", values::csv_tag, "KEY,VALUE of each tag for what is stored").of(TAGS),
    option(Key::Tag, &["--tag"], "TAGS_APPEND", values::tag, "KEY,VALUE of one tag; may be repeated").of(TAGS),
    choice(Key::Encryption, &["-e", "--encryption"], &["AES256", "aws:kms"], ENCRYPTION_HELP).below(S3),
    SSE_KMS_KEY_ID,
    other(&["--aws-region"], "AWS_REGION", "the region of the machine and its disks").below(S3),
    option(
        Key::OtherSnapshot,
        &["--aws-await-snapshots-timeout"],
        "AWS_AWAIT_SNAPSHOTS_TIMEOUT",
        values::positive_int,
        "for how many seconds to wait for snapshots (3600)",
    )
    .below(S3),
    choice(
        Key::OtherSnapshot,
        &["--aws-snapshot-lock-mode"],
        &["governance", "compliance"],
        "how a snapshot is locked",
    )
    .below(S3),
    option(
        Key::OtherSnapshot,
        &["--aws-snapshot-lock-cool-off-period"],
        "AWS_SNAPSHOT_LOCK_COOL_OFF_PERIOD",
        values::lock_cool_off_period,
        "for how many hours, 1 to 72, a lock in compliance mode can still be changed",
    )
    .below(S3),
    option(
        Key::OtherSnapshot,
        &["--aws-snapshot-lock-expiration-date"],
        "AWS_SNAPSHOT_LOCK_EXPIRATION_DATE",
        values::lock_expiration_date,
        "when a lock ends: YYYY-MM-DDThh:mm:ss.sssZ",
    )
    .of(LOCK_END)
    .below(S3),
    option(
        Key::OtherSnapshot,
        &["--aws-snapshot-lock-duration"],
        "AWS_SNAPSHOT_LOCK_DURATION",
        values::lock_duration,
        "after how many days, 1 to 36500, a lock ends",
    )
    .of(LOCK_END)
    .below(S3),
    ENCRYPTION_SCOPE,
    other(&["--azure-subscription-id"], "AZURE_SUBSCRIPTION_ID", "the subscription of the machine").below(AZURE),
    other(&["--azure-resource-group"], "AZURE_RESOURCE_GROUP", "the resource group of the machine").below(AZURE),
];

/// An option for snapshots whose value matters to nothing else.
const fn other(names: &'static [&'static str], metavar: &'static str, help: &'static str) -> Arg {
    option(Key::OtherSnapshot, names, metavar, values::text, help)
}
