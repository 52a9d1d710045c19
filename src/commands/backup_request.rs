//! What a base backup is asked for, and how it can end.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};

use crate::commands::archive::{ContentCheck, WalCompression};
use crate::commands::memory::Buffers;
use crate::commands::wal_presence::WalShipped;
use crate::domain::backup::{Backup, BackupId, BackupName};
use crate::domain::compression::Compression;
use crate::error::Error;
use crate::layout::part_index::DamagedFile;
use crate::postgres::configuration::Form;
use crate::postgres::conninfo::Conninfo;

/// Memory for parts on their way that one job of a frugal backup gets: two of Barman 3.19.1's 21 MB, or four of 10 MiB.
/// With its two jobs the whole process stays below 128 MiB.
pub const FRUGAL_MEMORY_PER_JOB_BYTES: usize = 42 << 20;

/// What a backup is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRequest {
    /// How to reach the server.
    pub conninfo: Conninfo,
    /// The data directory, when it is not where the server says (another mount, another container).
    pub pgdata: Option<PathBuf>,
    /// A name for people.
    pub name: Option<BackupName>,
    /// What the backup calls itself.
    pub naming: Naming,
    /// How many workers read, compress and upload, and what each may hold.
    pub buffers: Buffers,
    /// How parts are compressed.
    pub compression: Compression,
    /// At which level; the format's default when none.
    pub level: Option<i32>,
    /// How WAL is compressed that the backup has to ship itself.
    pub wal_compression: WalCompression,
    /// Ask for an immediate checkpoint instead of a spread one.
    pub fast: bool,
    /// Bytes per second all workers together may upload.
    pub max_rate_bytes_per_s: Option<u64>,
    /// Whether each tar has that rate for itself, and is held back between its parts only (Barman 3.19.1).
    pub has_loose_rate: bool,
    /// A tar that has come to more than this in the store, checked before each member, is closed and the next begun; it
    /// may be closed earlier, so that there are enough of them to restore in parallel. None: no such limit.
    pub max_tar_bytes: Option<u64>,
    /// What is done to configuration that lies outside the data directory.
    pub configuration: Form,
    /// Whether the content of `log` and `pg_log` is backed up.
    pub with_logs: bool,
    /// Whether the server must be the cluster that the archive belongs to.
    pub check: ContentCheck,
    /// Whether a snapshot of the cluster's tables is kept beside the parts.
    pub tables: Tables,
    /// Whose word it takes that the WAL the backup needs is archived.
    pub wal: WalWait,
    /// How long to wait for the last WAL segment.
    pub wal_timeout: Duration,
    /// When the backup is taken.
    pub now: DateTime<Utc>,
}

/// Whose word a backup takes that the WAL it needs is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalWait {
    /// The store's: it is looked for there, and what nobody archives is shipped.
    Store,
    /// The server's, whose stop function waits for its archiver where it has one.
    Server,
}

/// What becomes of the names and sizes of a cluster's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// They are recorded, for a drill to compare with.
    Recorded,
    /// Nobody asks for them.
    PassedOver,
}

/// What a backup calls itself, on the server and in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// What the clock shows when the backup is taken; the first id that is tried.
    pub clock: NaiveDateTime,
    /// The text of the label.
    pub label: String,
    /// Before the id, the name of a restore point that a primary is asked for when the backup has stopped.
    pub restore_point_prefix: Option<&'static str>,
    /// Whether a failed backup is recorded in Barman's words, and with the name it was to have.
    pub records_failure_as_barman: bool,
}

impl Naming {
    /// As barback's own command names them: ids in UTC, no restore point.
    #[must_use]
    pub fn in_utc(now: DateTime<Utc>) -> Self {
        Self {
            clock: now.naive_utc(),
            label: format!("barback {}", now.format("%Y-%m-%d %H:%M:%S UTC")),
            restore_point_prefix: None,
            records_failure_as_barman: false,
        }
    }

    /// As Barman 3.19.1 does: ids read off the clock on the client's wall, because backups of both tools in one bucket
    /// are ordered, and expire, by their ids.
    #[must_use]
    pub fn as_barman(wall_clock: NaiveDateTime) -> Self {
        Self {
            clock: wall_clock,
            label: format!("Barman backup cloud {}", BackupId::from_clock(wall_clock)),
            restore_point_prefix: Some("barman_"),
            records_failure_as_barman: true,
        }
    }
}

/// A finished backup.
#[derive(Debug, Clone)]
pub struct BackupDone {
    /// What the catalogue now says.
    pub backup: Backup,
    /// Bytes of content read.
    pub content_bytes: u64,
    /// Files copied.
    pub files: u64,
    /// Bytes stored, parts and manifest.
    pub stored_bytes: u64,
    /// Parts stored.
    pub parts: usize,
    /// WAL segments needed, and shipped by the backup itself.
    pub wal: WalShipped,
    /// How long each phase took.
    pub phases: Vec<(&'static str, Duration)>,
    /// Relation files of the cluster with damaged pages; none when pages carry no checksums. The backup is kept, and marked.
    pub damaged: Option<Vec<DamagedFile>>,
}

/// How far a backup came that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// PostgreSQL could not be reached, or did not let us in.
    Connecting,
    /// Before the server was asked to begin: nothing was changed anywhere.
    Preparing,
    /// After that; with the id under which it is recorded as failed, once it had one.
    Running(Option<BackupId>),
}

/// A backup that failed.
#[derive(Debug)]
pub struct BackupFailure {
    /// When.
    pub stage: Stage,
    /// Why.
    pub cause: Error,
}

impl BackupFailure {
    pub(crate) fn at(stage: Stage) -> impl FnOnce(Error) -> Self {
        move |cause| Self { stage, cause }
    }
}

impl From<BackupFailure> for Error {
    /// The cause, with the id in front where there is one.
    fn from(BackupFailure { stage, cause }: BackupFailure) -> Self {
        match stage {
            Stage::Running(Some(id)) => cause.context(format!("could not take base backup \"{id}\"")),
            _ => cause,
        }
    }
}
