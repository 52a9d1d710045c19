//! A base backup as the catalogue knows it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, NaiveDateTime};

use crate::domain::cluster::{ServerVersion, SystemIdentifier};
use crate::domain::lsn::Lsn;
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::timeline::TimelineId;
use crate::error::{Error, Result};

/// A backup's id, `YYYYMMDDThhmmss`: the second it was started, and its directory in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

impl BackupId {
    /// The id of a backup started when a clock showed `time`. Barback's own ids are in UTC, so that no clock change can
    /// make two alike; Barman's are what the client's wall clock shows.
    #[must_use]
    pub fn from_clock(time: NaiveDateTime) -> Self {
        Self(time.format("%Y%m%dT%H%M%S").to_string())
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BackupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let valid = text.len() == 15
            && text.bytes().enumerate().all(|(at, byte)| if at == 8 { byte == b'T' } else { byte.is_ascii_digit() });
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| Error::usage(format!("\"{text}\" is not a backup id such as 20260608T113200")))
    }
}

/// The words Barman reserves beside backup ids; no backup may be called so (Barman 3.19.1).
const RESERVED_NAMES: [&str; 9] =
    ["latest", "last", "oldest", "first", "last-failed", "latest-full", "last-full", "auto", "all"];

/// A name a person gave a backup: not empty, no id, no reserved word, one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupName(String);

impl BackupName {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::usage(format!("\"{}\" cannot name a backup: {why}", text.escape_debug())));
        if text.trim().is_empty() {
            refuse("it is empty")
        } else if text.trim() != text || text.chars().any(char::is_control) {
            refuse("it has white space around it or control characters in it")
        } else if RESERVED_NAMES.contains(&text) {
            refuse("it is a reserved word")
        } else if text.parse::<BackupId>().is_ok() {
            refuse("it looks like a backup id")
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

/// What the comment begins with that marks a backup of damaged pages.
const DAMAGED_PAGES: &str = "barback: damaged pages in ";

/// How far a backup came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupStatus {
    /// Begun; still running, or its client was killed.
    Started,
    /// Everything a restore needs is in the store.
    Done,
    /// Given up, with the reason in `error`.
    Failed,
    /// A word of Barman's that its cloud commands do not write: `EMPTY`, `WAITING_FOR_WALS`, `SYNCING`.
    Other(String),
}

impl fmt::Display for BackupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "STARTED",
            Self::Done => "DONE",
            Self::Failed => "FAILED",
            Self::Other(word) => word,
        })
    }
}

impl From<&str> for BackupStatus {
    fn from(word: &str) -> Self {
        match word {
            "STARTED" => Self::Started,
            "DONE" => Self::Done,
            "FAILED" => Self::Failed,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its name in SQL.
    pub name: String,
    /// Its OID: the name of its link in `pg_tblspc` and of its parts in the bucket.
    pub oid: u32,
    /// The directory it lay in when the backup was taken.
    pub location: String,
}

/// How long a copy took, in seconds; `per_item` by tablespace OID and `data`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CopyStats {
    /// From start to stop.
    pub total_time_s: f64,
    /// Workers that copied.
    pub number_of_workers: u32,
    /// Wall time of copying.
    pub copy_time_s: f64,
    /// Sum of the workers' times.
    pub serialized_copy_time_s: f64,
    /// Wall time by item.
    pub copy_time_per_item_s: BTreeMap<String, f64>,
    /// Sum of the workers' times by item.
    pub serialized_copy_time_per_item_s: BTreeMap<String, f64>,
}

/// Everything `backup.info` says about one base backup (fields of Barman 3.19.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// The backup's id, from its directory.
    pub id: BackupId,
    /// The name a person gave it.
    pub name: Option<String>,
    /// How far it came.
    pub status: BackupStatus,
    /// The cluster it was taken of.
    pub system_identifier: Option<SystemIdentifier>,
    /// The server's version.
    pub version: Option<ServerVersion>,
    /// The data directory it was taken of.
    pub pgdata: Option<String>,
    /// Where `postgresql.conf` lay.
    pub config_file: Option<String>,
    /// Where `pg_hba.conf` lay.
    pub hba_file: Option<String>,
    /// Where `pg_ident.conf` lay.
    pub ident_file: Option<String>,
    /// Further configuration files in use.
    pub included_files: Option<Vec<String>>,
    /// The timeline it was begun on.
    pub timeline: Option<TimelineId>,
    /// Where replay must begin.
    pub begin_lsn: Option<Lsn>,
    /// Where replay must at least come to for the copy to be consistent.
    pub end_lsn: Option<Lsn>,
    /// The segment of `begin_lsn`.
    pub begin_segment: Option<SegmentName>,
    /// The segment of `end_lsn`.
    pub end_segment: Option<SegmentName>,
    /// When it was begun, by the server's clock.
    pub begin_time: Option<DateTime<FixedOffset>>,
    /// When it ended, by the server's clock.
    pub end_time: Option<DateTime<FixedOffset>>,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// The sum of all tablespaces, in bytes.
    pub cluster_size_bytes: Option<u64>,
    /// Whether data pages carry checksums.
    pub data_checksums: Option<bool>,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// The text of the backup label.
    pub backup_label: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// How long it took.
    pub copy_stats: Option<CopyStats>,
    /// Whether it is a set of disk snapshots, which hold its files instead of the store.
    pub is_snapshot: bool,
    /// The `summarize_wal` setting, from PostgreSQL 17 on.
    pub summarize_wal: Option<String>,
    /// Lines written as `# …` comments: Barman accepts them, and an unknown field would stop every Barman command.
    pub comments: Vec<String>,
}

impl Backup {
    /// A backup of which nothing is known but its id; its status is `EMPTY`.
    #[must_use]
    pub fn new(id: BackupId) -> Self {
        Self {
            id,
            name: None,
            status: BackupStatus::Other("EMPTY".to_owned()),
            system_identifier: None,
            version: None,
            pgdata: None,
            config_file: None,
            hba_file: None,
            ident_file: None,
            included_files: None,
            timeline: None,
            begin_lsn: None,
            end_lsn: None,
            begin_segment: None,
            end_segment: None,
            begin_time: None,
            end_time: None,
            segment_size: SegmentSize::DEFAULT,
            cluster_size_bytes: None,
            data_checksums: None,
            tablespaces: Vec::new(),
            backup_label: None,
            error: None,
            copy_stats: None,
            is_snapshot: false,
            summarize_wal: None,
            comments: Vec::new(),
        }
    }

    /// Where the cluster's pages were damaged when the backup read them, as a comment of its record tells; none when no such
    /// page was found, or none was looked for.
    #[must_use]
    pub fn damaged_pages(&self) -> Option<&str> {
        self.comments.iter().find_map(|comment| comment.strip_prefix(DAMAGED_PAGES))
    }

    /// Marks it as a backup of damaged pages; `line` says where.
    pub fn mark_damaged_pages(&mut self, line: &str) {
        self.comments.push(format!("{DAMAGED_PAGES}{line}"));
    }

    /// True when the backup is complete and says all that a restore must know.
    #[must_use]
    pub fn is_restorable(&self) -> bool {
        self.status == BackupStatus::Done
            && self.timeline.is_some()
            && self.begin_lsn.is_some()
            && self.end_lsn.is_some()
            && self.begin_segment.is_some()
            && self.end_time.is_some()
    }
}
