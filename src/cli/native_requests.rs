//! From the native face's words to what is asked of the commands: pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::invocation::{BackupArgs, CompressionChoice, Settings, WalArchiveArgs, WalRestoreArgs};
use crate::commands::archive::{ContentCheck, IfOther, WalCompression};
use crate::commands::backup::{BackupRequest, Naming, Tables, WalWait};
use crate::commands::memory::{self, Buffers};
use crate::commands::wal_archive::WalArchiveRequest;
use crate::commands::wal_restore::{BackupHistories, PartialPolicy, WalRestoreRequest};
use crate::error::{Error, Result};
use crate::postgres::configuration::Form;
use crate::postgres::conninfo::Conninfo;

/// What `wal-archive` asks for.
pub(super) fn wal_archive(args: WalArchiveArgs, settings: &Settings, now: DateTime<Utc>) -> WalArchiveRequest {
    WalArchiveRequest {
        path: args.path,
        compression: wal_compression(settings.wal_compression),
        if_other: IfOther::Refuse,
        check: ContentCheck::Checked,
        ride_along: None,
        now,
    }
}

/// What `wal-restore` asks for.
pub(super) fn wal_restore(args: WalRestoreArgs, settings: &Settings) -> WalRestoreRequest {
    WalRestoreRequest {
        name: args.name,
        destination: args.destination,
        expected: Some(settings.wal_compression.codec),
        partial: PartialPolicy::LastResort,
        backup_histories: BackupHistories::Restored,
        check: ContentCheck::Checked,
        spool: None,
    }
}

/// What `backup` asks for, in the environment that libpq would see.
///
/// Errors: `Usage` for a connection string or a part size that cannot be used.
pub(super) fn backup(
    args: BackupArgs,
    settings: &Settings,
    env: &BTreeMap<String, String>,
    now: DateTime<Utc>,
) -> Result<BackupRequest> {
    let wanted = usize::try_from(args.part_size_bytes)
        .map_err(|_| Error::usage("the part size is larger than this machine's memory"))?;
    let CompressionChoice { codec, level } = args.compression;
    let buffers = memory::for_backup(args.max_memory_bytes, args.jobs, wanted, codec, level)?;
    say_what_gave_way(&buffers, args.jobs, wanted);
    Ok(BackupRequest {
        conninfo: Conninfo::resolve(args.dbname.as_deref(), env)?,
        pgdata: args.pgdata,
        name: args.name,
        naming: Naming::in_utc(now),
        buffers,
        compression: args.compression.codec,
        level: args.compression.level,
        wal_compression: wal_compression(settings.wal_compression),
        fast: args.fast,
        max_rate_bytes_per_s: args.max_rate_bytes,
        has_loose_rate: false,
        max_tar_bytes: None,
        configuration: Form::FitForCopy,
        with_logs: true,
        tables: Tables::Recorded,
        check: ContentCheck::Checked,
        wal: WalWait::Store,
        wal_timeout: args.wal_timeout,
        now,
    })
}

/// Fewer workers or smaller parts than were asked for, for want of memory.
pub(super) fn say_what_gave_way(buffers: &Buffers, jobs: usize, part_size_bytes: usize) {
    let Buffers { workers, part_size_bytes: size, .. } = *buffers;
    if workers < jobs || size < part_size_bytes {
        tracing::warn!(
            "memory leaves room for {workers} workers of {jobs}, and for parts of {size} bytes of {part_size_bytes}"
        );
    }
}

pub(super) fn wal_compression(choice: CompressionChoice) -> WalCompression {
    WalCompression { codec: choice.codec, level: choice.level }
}
