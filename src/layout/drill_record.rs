//! What a drill leaves behind: the report of one drill, as an object in the store and as `drill.json`.
//!
//! Records are only ever added, under numbers that go up by one, and each holds the digest of the one before it: a record that was
//! changed or taken away shows. They hold names, counts and times, and never the content of a row.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::drill::{CheckOutcome, DrillLevel};
use crate::domain::verification::Verdict;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::json_time::{as_rfc3339, as_rfc3339_or_none};
use crate::layout::part_index::as_text;

/// The version of the format this crate writes and reads.
pub const SCHEMA: u32 = 1;

/// How long a record may be.
pub const MAX_BYTES: usize = 4 << 20;

/// One drill.
///
/// Stored as pretty-printed JSON. Times are RFC 3339 in UTC, durations whole milliseconds, sizes bytes, LSNs and ids text. Unknown
/// fields are passed over, so that fields can be added without a new schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// The version of the format, [`SCHEMA`].
    pub schema: u32,
    /// Its number among the drills of this archive, from 1; none while it is not recorded in the store.
    pub sequence: Option<u64>,
    /// SHA-256 of the bytes of the record before it; none for the first one.
    pub previous_sha256: Option<String>,
    /// When the last drill before it that passed at level 3 ended.
    #[serde(default, with = "as_rfc3339_or_none")]
    pub last_passed: Option<DateTime<Utc>>,
    /// When it was begun.
    #[serde(with = "as_rfc3339")]
    pub started: DateTime<Utc>,
    /// When it was through.
    #[serde(with = "as_rfc3339")]
    pub ended: DateTime<Utc>,
    /// How far it went.
    #[serde(with = "as_level")]
    pub level: DrillLevel,
    /// What it came to.
    #[serde(with = "as_text")]
    pub verdict: Verdict,
    /// Why it did not pass, in one sentence; none when it did.
    pub reason: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// Where and with what it was done.
    pub place: DrillPlace,
    /// What was restored; none when no backup could be chosen.
    pub backup: Option<DrilledBackup>,
    /// What it was to be brought to.
    pub target: DrillTarget,
    /// Whether and how that was reached; none when recovery did not get so far, and below level 3.
    pub proof: Option<TargetProof>,
    /// What was done, in order. Phases that run at the same time overlap.
    pub phases: Vec<DrillPhase>,
    /// What was looked at in the recovered database, in order.
    pub checks: Vec<DrillCheck>,
    /// How long a recovery takes; none below level 3 and when it was not finished.
    pub recovery: Option<RecoveryTime>,
    /// The most memory that barback itself took, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// What is worth knowing, one sentence each.
    pub notes: Vec<String>,
}

/// Where and with what a drill was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillPlace {
    /// The store's URL.
    pub store: String,
    /// The cluster's name inside the store.
    pub server: String,
    /// The cluster's number, where it is known.
    pub system_identifier: Option<String>,
    /// The host on which it was done.
    pub host: String,
    /// The user who did it.
    pub user: String,
    /// This program's version.
    pub barback: String,
    /// PostgreSQL's version here.
    pub postgresql: Option<String>,
}

/// The backup that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledBackup {
    /// Its id.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// PostgreSQL's major version in it.
    pub major_version: Option<u32>,
    /// When it ended.
    #[serde(default, with = "as_rfc3339_or_none")]
    pub ended: Option<DateTime<Utc>>,
    /// The LSN at which it ended.
    pub end_lsn: Option<String>,
    /// The size of the cluster in it.
    pub bytes: Option<u64>,
    /// Its size in the store.
    pub stored_bytes: Option<u64>,
}

/// What a drill was to bring the backup to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillTarget {
    /// As it was asked for: `latest`, `random`, `time 2026-06-08 11:32:00+00`, `lsn 16/B374D848`.
    pub asked: String,
    /// With what number a random one was drawn: the same number and the same archive give the same target.
    pub seed: Option<u64>,
    /// The time, where it is one.
    #[serde(default, with = "as_rfc3339_or_none")]
    pub time: Option<DateTime<Utc>>,
    /// The LSN, where it is one.
    pub lsn: Option<String>,
    /// The timeline that was followed.
    pub timeline: Option<u32>,
    /// `promote` or `pause`.
    pub action: Option<String>,
}

/// How the target was reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetProof {
    /// Where PostgreSQL says it stopped, in its own words, without the line's prefix.
    pub postgresql_said: Option<String>,
    /// The end of the last record that was replayed.
    pub replay_lsn: Option<String>,
    /// The time of the last transaction that was replayed.
    #[serde(default, with = "as_rfc3339_or_none")]
    pub last_replayed: Option<DateTime<Utc>>,
    /// The time of the first commit in the archive that was not replayed; none where there is none.
    #[serde(default, with = "as_rfc3339_or_none")]
    pub next_commit: Option<DateTime<Utc>>,
    /// Where that commit's record begins.
    pub next_commit_lsn: Option<String>,
    /// The timeline after recovery.
    pub timeline: Option<u32>,
    /// `promoted` or `paused`.
    pub ended_as: Option<String>,
}

/// Something a drill did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillPhase {
    /// `plan`, `verify`, `fetch`, `sync`, `start`, `replay`, `promote`, `checks`, `stop`, `clean up`.
    pub name: String,
    /// When it began, from the beginning of the drill.
    pub began_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// What went through it.
    pub bytes: Option<u64>,
    /// Of what its time was made up, where that is known; of workers side by side, all their time together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<PhaseShare>,
}

/// A part of the time of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseShare {
    /// On what it was spent: `download`, `unpack and write`, `waiting for WAL`, `replaying`.
    pub name: String,
    /// How much.
    pub took_ms: u64,
}

/// Something a drill looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCheck {
    /// What it is called in reports.
    pub name: String,
    /// `pages`, `amcheck`, `indexes`, `tables`, `sql`, `freshness`.
    pub kind: String,
    /// The database, where it was one.
    pub database: Option<String>,
    /// What it came to.
    #[serde(with = "as_text")]
    pub outcome: CheckOutcome,
    /// What was expected.
    pub expected: Option<String>,
    /// What was found: a number, a name or a time of ours, never the content of a row.
    pub found: Option<String>,
    /// What there is to say beside that.
    pub detail: Option<String>,
    /// How long it took.
    pub took_ms: u64,
}

/// How long a recovery takes, measured and foreseen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryTime {
    /// From the beginning to a server that takes connections.
    pub total_ms: u64,
    /// How long it may take.
    pub objective_ms: Option<u64>,
    /// What took most of the time: `store`, `processor or disk`, `replay`, `waiting for WAL`.
    pub bottleneck: Option<String>,
    /// WAL that was replayed.
    pub replayed_bytes: u64,
    /// Segments that were restored.
    pub segments: u64,
    /// Segments that recovery had to wait for.
    pub late_segments: u64,
    /// How long it waited for them, all together.
    pub starved_ms: u64,
    /// How fast WAL was replayed.
    pub replay_bytes_per_s: Option<u64>,
    /// How fast the cluster wrote WAL of late.
    pub wal_bytes_per_hour: Option<u64>,
    /// The longest time between two base backups of late.
    pub base_interval_ms: Option<u64>,
    /// How long a recovery takes just before the next base backup.
    pub worst_case_ms: Option<u64>,
    /// How often a base backup must be taken to keep the objective.
    pub needed_interval_ms: Option<u64>,
    /// That in words, for whoever must decide.
    pub sentence: Option<String>,
}

impl DrillRecord {
    /// The record as JSON that people can read, with a line feed at the end.
    pub fn to_json(&self) -> Result<String> {
        let fail = |error: serde_json::Error| {
            Error::new(ErrorKind::Bug, format!("could not write the record of a drill: {error}"))
        };
        let mut json = serde_json::to_string_pretty(self).map_err(fail)?;
        json.push('\n');
        Ok(json)
    }

    /// Reads a record.
    ///
    /// Errors: `Corrupt` for other bytes, `Mismatch` for a newer schema.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let corrupt = |why: String| Error::corrupt(format!("could not read the record of a drill: {why}"));
        if json.len() > MAX_BYTES {
            return Err(corrupt(format!("its {} bytes are more than {MAX_BYTES}", json.len())));
        }
        let Version { schema } = serde_json::from_slice(json).map_err(|error| corrupt(error.to_string()))?;
        if schema != SCHEMA {
            let message = format!("could not read the record of a drill: its schema is {schema}, not {SCHEMA}");
            return Err(Error::new(ErrorKind::Mismatch, message).with_hint("Use a newer version of barback."));
        }
        serde_json::from_slice(json).map_err(|error| corrupt(error.to_string()))
    }
}

/// A level as its number.
mod as_level {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::domain::drill::DrillLevel;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub fn serialize<S: Serializer>(level: &DrillLevel, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8((*level).into())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DrillLevel, D::Error> {
        u8::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}
