//! The commands for backups that are there: `backup-list`, `backup-show`, `backup-delete`, `backup-keep`.

use super::{Arg, Group, Key, Takes, choice, flag, option, positional, values};

const WHICH: Group = Group::ExactlyOne("which backups");
const KEEP_ACTION: Group = Group::ExactlyOne("what to do");

const FORMAT: Arg = option(Key::Format, &["--format"], "FORMAT", values::text, "console (the default) or json");
const BACKUP: Arg = positional(Key::Backup, "backup_id", Takes::One(values::text), "a backup's ID or name");

pub(super) static LIST: &[Arg] = &[FORMAT];

pub(super) static SHOW: &[Arg] = &[BACKUP, FORMAT];

pub(super) static DELETE: &[Arg] = &[
    option(Key::BackupId, &["-b", "--backup-id"], "BACKUP_ID", values::text, "a backup's ID or name").of(WHICH),
    option(
        Key::MinimumRedundancy,
        &["-m", "--minimum-redundancy"],
        "MINIMUM_REDUNDANCY",
        values::non_negative_int,
        "how many backups must be there after it (0)",
    ),
    option(
        Key::RetentionPolicy,
        &["-r", "--retention-policy"],
        "RETENTION_POLICY",
        values::text,
        "delete what this policy no longer needs, such as \"RECOVERY WINDOW OF 7 DAYS\"",
    )
    .of(WHICH),
    flag(Key::DryRun, &["--dry-run"], "print what would go, and leave it"),
    option(
        Key::BatchSize,
        &["--batch-size"],
        "DELETE_BATCH_SIZE",
        values::int,
        "how many objects one request deletes, within the provider's limits",
    ),
    flag(
        Key::CheckObjectLock,
        &["--check-object-lock"],
        "leave backups of which an object is locked; costs one request for each object",
    ),
];

pub(super) static KEEP: &[Arg] = &[
    BACKUP,
    flag(Key::Release, &["-r", "--release"], "end the backup's protection").of(KEEP_ACTION),
    flag(Key::Status, &["-s", "--status"], "print how the backup is protected").of(KEEP_ACTION),
    choice(
        Key::KeepTarget,
        &["--target"],
        &["full", "standalone"],
        "protect the backup, and with it all later WAL (full) or only the WAL it needs by itself (standalone)",
    )
    .of(KEEP_ACTION),
];
