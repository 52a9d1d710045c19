//! What one host says about its server: settings, archiver, queue of WAL, slots; facts alone, no judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::cluster::{ServerVersion, SystemIdentifier};
use crate::domain::lsn::Lsn;
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::timeline::{TimelineHistory, TimelineId};

/// A server at one moment, as it answers itself and as its data directory shows it.
///
/// What could not be asked is none, and what could not be read of it is said in `unknown`.
#[derive(Debug, Clone, PartialEq)]
pub struct HostState {
    /// The server's clock; this host's where there was no connection.
    pub now: DateTime<Utc>,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// The timeline it writes or follows.
    pub timeline: TimelineId,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// True for a standby.
    pub in_recovery: bool,
    /// None without a connection.
    pub version: Option<ServerVersion>,
    /// Where the WAL ends: written on a primary, replayed on a standby.
    pub current_lsn: Option<Lsn>,
    /// `archive_mode`: `off`, `on` or `always`.
    pub archive_mode: Option<String>,
    /// The settings that archiving depends on (see [`SETTINGS`]), as far as the role may see them; none without a connection.
    pub settings: Option<Settings>,
    /// `pg_stat_archiver`.
    pub archiver: Option<ArchiverFacts>,
    /// Every replication slot.
    pub slots: Vec<Slot>,
    /// Segments that wait to be archived: `.ready` files of complete segments.
    pub ready_segments: Option<u64>,
    /// What these come to.
    pub ready_bytes: Option<u64>,
    /// Since when the first of all `.ready` files waits.
    pub ready_since: Option<DateTime<Utc>>,
    /// The data directory, where this host can look into it.
    pub data_directory: Option<PathBuf>,
    /// Complete segments of earlier timelines that lie in `pg_wal` and wait for nobody.
    pub earlier_segments: BTreeSet<SegmentName>,
    /// The history of `timeline`, where `pg_wal` shows it.
    pub history: Option<TimelineHistory>,
    /// What is free where `pg_wal` lies.
    pub wal_free_bytes: Option<u64>,
    /// What that file system holds in all.
    pub wal_total_bytes: Option<u64>,
    /// What could not be found out, each with the reason.
    pub unknown: Vec<String>,
}

/// The settings that are asked for.
pub const SETTINGS: [&str; 8] = [
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "wal_level",
    "full_page_writes",
    "max_slot_wal_keep_size",
    "data_directory",
];

/// Values of [`SETTINGS`] by name; numbers are in the server's own units (seconds, megabytes).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// What is in force.
    pub values: BTreeMap<String, String>,
    /// Those whose value in the files comes into force with a restart only.
    pub pending_restart: BTreeSet<String>,
}

impl Settings {
    /// The value of a setting; none where the role may not see it or this version has none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// What PostgreSQL's archiver has counted (`pg_stat_archiver`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiverFacts {
    /// Files for which `archive_command` ended with 0.
    pub archived_count: u64,
    /// Times it ended otherwise.
    pub failed_count: u64,
    /// The last file of the first kind.
    pub last_archived_wal: Option<String>,
    /// When that was.
    pub last_archived_time: Option<DateTime<Utc>>,
    /// The last file of the second kind.
    pub last_failed_wal: Option<String>,
    /// When that was.
    pub last_failed_time: Option<DateTime<Utc>>,
    /// Since when this is counted.
    pub stats_reset: Option<DateTime<Utc>>,
}

impl ArchiverFacts {
    /// True when the last attempt that is known ended badly.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.last_failed_time.is_some() && self.last_failed_time > self.last_archived_time
    }
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody uses it.
    pub is_active: bool,
    /// WAL before this is not kept for it; none for one that was never used.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Since when nobody uses it, from version 17 on.
    pub inactive_since: Option<DateTime<Utc>>,
}

impl HostState {
    /// A primary of which nothing else is known.
    #[must_use]
    pub fn new(
        now: DateTime<Utc>,
        system_identifier: SystemIdentifier,
        segment_size: SegmentSize,
        timeline: TimelineId,
    ) -> Self {
        Self {
            now,
            system_identifier,
            segment_size,
            timeline,
            data_checksums: false,
            in_recovery: false,
            version: None,
            current_lsn: None,
            archive_mode: None,
            settings: None,
            archiver: None,
            slots: Vec::new(),
            ready_segments: None,
            ready_bytes: None,
            ready_since: None,
            data_directory: None,
            earlier_segments: BTreeSet::new(),
            history: None,
            wal_free_bytes: None,
            wal_total_bytes: None,
            unknown: Vec::new(),
        }
    }

    /// How fast the WAL that waits has piled up, in bytes a second: what waits, over the time since the first of it did. None
    /// where nothing waits, or not long enough to tell.
    #[must_use]
    pub fn piling_up_bytes_per_s(&self) -> Option<u64> {
        /// Less is one bulk load, and no rate.
        const LONG_ENOUGH: TimeDelta = TimeDelta::minutes(1);
        let waited = self.now - self.ready_since?;
        let seconds = u64::try_from(waited.num_seconds()).ok().filter(|_| waited >= LONG_ENOUGH)?;
        self.ready_bytes?.checked_div(seconds).filter(|rate| *rate > 0)
    }

    /// The WAL a slot keeps, in bytes.
    #[must_use]
    pub fn kept_by(&self, slot: &Slot) -> Option<u64> {
        Some(self.current_lsn?.bytes().saturating_sub(slot.restart_lsn?.bytes()))
    }

    /// True where PostgreSQL archives what this server writes or receives: not on a standby with `archive_mode = on`.
    #[must_use]
    pub fn archives_now(&self) -> bool {
        match self.archive_mode.as_deref() {
            Some("always") => true,
            Some("on") => !self.in_recovery,
            _ => false,
        }
    }
}
