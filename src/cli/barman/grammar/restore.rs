//! The command that fetches a backup: `restore`.

use super::{AZURE, Arg, GCS, Group, Key, OPTIONS, S3, Takes, option, positional, values};

const TARGET: Group = Group::AtMostOne("target");

pub(super) static RESTORE: &[Arg] = &[
    positional(Key::Backup, "backup_id", Takes::One(values::text), "a backup's ID or name, or auto"),
    positional(Key::RecoveryDir, "recovery_dir", Takes::One(values::path), "the directory to fill"),
    option(
        Key::Tablespace,
        &["--tablespace"],
        "NAME:LOCATION",
        values::path,
        "put a tablespace somewhere else; may be repeated",
    ),
    option(
        Key::SnapshotRecoveryInstance,
        &["--snapshot-recovery-instance"],
        "SNAPSHOT_RECOVERY_INSTANCE",
        values::text,
        "for backups made of snapshots: the machine that has the new disks",
    ),
    option(Key::OtherSnapshot, &["--snapshot-recovery-zone"], "GCP_ZONE", values::text, "old name of --gcp-zone")
        .below(OPTIONS),
    option(
        Key::OtherSnapshot,
        &["--aws-region"],
        "AWS_REGION",
        values::text,
        "for backups made of snapshots: the region of the machine",
    )
    .below(S3),
    option(
        Key::OtherSnapshot,
        &["--gcp-zone"],
        "GCP_ZONE",
        values::text,
        "for backups made of snapshots: the zone of the machine",
    )
    .below(GCS),
    option(
        Key::OtherSnapshot,
        &["--azure-resource-group"],
        "AZURE_RESOURCE_GROUP",
        values::text,
        "for backups made of snapshots: the resource group of the machine",
    )
    .below(AZURE),
    option(
        Key::TargetTli,
        &["--target-tli"],
        "TARGET_TLI",
        values::target_timeline,
        "with auto: the timeline to choose a backup for, or latest",
    ),
    option(
        Key::TargetLsn,
        &["--target-lsn"],
        "TARGET_LSN",
        values::text,
        "with auto: the position in the WAL to choose a backup for",
    )
    .of(TARGET),
    option(
        Key::TargetTime,
        &["--target-time"],
        "TARGET_TIME",
        values::text,
        "with auto: the moment to choose a backup for",
    )
    .of(TARGET),
];
