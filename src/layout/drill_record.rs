//! What a drill leaves behind: the report of one drill, as an object in the store and as `drill.json`.
//!
//! Records are only ever added, under numbers that go up by one, and each holds the digest of the one before it: a record that was
//! changed or taken away shows. They hold names, counts and times, and never the content of a row.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::drill::{CheckOutcome, DrillLevel};
use crate::domain::verification::Verdict;
use crate::error::Result;
use crate::layout::json_document::DocumentKind;
use crate::layout::json_time::{as_rfc3339, as_rfc3339_or_none};
use crate::layout::part_index::as_text;

/// The version of the format this crate writes and reads.
pub const SCHEMA: u32 = 1;

/// How long a record may be.
pub const MAX_BYTES: usize = 4 << 20;

const KIND: DocumentKind = DocumentKind { what: "the record of a drill", schema: SCHEMA, most_bytes: MAX_BYTES as u64 };

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
    /// `plan`, `verify`, `fetch`, `sync`, `consistency`, `replay`, `prove`, `promote`, `checks`, `stop`, `pages`, `clean up`.
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
    /// When the last drill that passed at level 3 ended: this one, or the last one before it.
    #[must_use]
    pub fn last_passed_so_far(&self) -> Option<DateTime<Utc>> {
        let has_passed = self.verdict == Verdict::Pass && self.level == DrillLevel::Recovery;
        if has_passed { Some(self.ended) } else { self.last_passed }
    }

    /// The record as JSON that people can read, with a line feed at the end.
    pub fn to_json(&self) -> Result<String> {
        KIND.write(self)
    }

    /// Reads a record.
    ///
    /// Errors: `Corrupt` for other bytes, `Mismatch` for a newer schema.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        KIND.read(json)
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

/// A drill as one may turn out, for tests of whoever reads or shows records.
#[cfg(test)]
#[expect(clippy::too_many_lines, reason = "a drill has many sides")]
pub(crate) fn example() -> DrillRecord {
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let phase = |name: &str, began_ms: u64, took_ms: u64, bytes: Option<u64>, shares: &[(&str, u64)]| DrillPhase {
        name: name.to_owned(),
        began_ms,
        took_ms,
        bytes,
        shares: shares
            .iter()
            .map(|(name, took_ms)| PhaseShare { name: (*name).to_owned(), took_ms: *took_ms })
            .collect(),
    };
    let check =
        |name: &str, kind: &str, database: Option<&str>, expected: &str, found: &str, took_ms: u64| DrillCheck {
            name: name.to_owned(),
            kind: kind.to_owned(),
            database: database.map(str::to_owned),
            outcome: CheckOutcome::Pass,
            expected: Some(expected.to_owned()),
            found: Some(found.to_owned()),
            detail: None,
            took_ms,
        };
    DrillRecord {
        schema: SCHEMA,
        sequence: Some(12),
        previous_sha256: Some("9f2c61d0a7f3be5483c2a4de0b90c15d7748ac0f5e3b1d926ab7f04c8e5d3179".to_owned()),
        last_passed: Some(at("2026-08-24T03:41:12Z")),
        started: at("2026-11-24T03:15:00Z"),
        ended: at("2026-11-24T03:49:22.470Z"),
        level: DrillLevel::Recovery,
        verdict: Verdict::Pass,
        reason: None,
        hint: None,
        place: DrillPlace {
            store: "s3://backups/production".to_owned(),
            server: "main".to_owned(),
            system_identifier: Some("7711472810298602207".to_owned()),
            host: "drill-7".to_owned(),
            user: "postgres".to_owned(),
            barback: "0.1.0".to_owned(),
            postgresql: Some("18.4".to_owned()),
        },
        backup: Some(DrilledBackup {
            id: "20261123T083817".to_owned(),
            name: Some("nightly".to_owned()),
            major_version: Some(18),
            ended: Some(at("2026-11-23T08:57:40.120Z")),
            end_lsn: Some("16/A40001C8".to_owned()),
            bytes: Some(128_849_018_880),
            stored_bytes: Some(44_339_671_040),
        }),
        target: DrillTarget {
            asked: "random".to_owned(),
            seed: Some(8_151_623_042),
            time: Some(at("2026-11-23T17:03:11.500Z")),
            lsn: None,
            timeline: Some(3),
            action: Some("promote".to_owned()),
        },
        proof: Some(TargetProof {
            postgresql_said: Some(
                "recovery stopping before commit of transaction 8214377, time 2026-11-23 17:03:12.718203+00".to_owned(),
            ),
            replay_lsn: Some("1E/71A4E7F0".to_owned()),
            last_replayed: Some(at("2026-11-23T17:03:11.094417Z")),
            next_commit: Some(at("2026-11-23T17:03:12.718203Z")),
            next_commit_lsn: Some("1E/71A4E820".to_owned()),
            timeline: Some(4),
            ended_as: Some("promoted".to_owned()),
        }),
        phases: vec![
            phase("plan", 0, 1_840, None, &[]),
            phase(
                "fetch",
                1_840,
                1_092_160,
                Some(44_339_671_040),
                &[("download", 5_812_000), ("unpack and write", 2_446_000)],
            ),
            phase("sync", 1_094_000, 37_310, None, &[]),
            phase("consistency", 1_131_310, 8_420, None, &[]),
            phase(
                "replay",
                1_139_730,
                403_600,
                Some(33_554_432_000),
                &[("replaying", 381_200), ("waiting for WAL", 22_400)],
            ),
            phase("promote", 1_543_330, 3_110, None, &[]),
            phase("checks", 1_546_440, 489_900, None, &[]),
            phase("stop", 2_036_340, 1_720, None, &[]),
            phase("clean up", 2_038_060, 24_410, None, &[]),
        ],
        checks: vec![
            check("page checksums", "pages", None, "no damaged page", "15728640 pages", 214_800),
            DrillCheck {
                detail: Some("its budget was 3 min; the largest relations were left out".to_owned()),
                ..check("pg_amcheck", "amcheck", Some("shop"), "no damage", "41 of 52 relations", 180_000)
            },
            check("invalid indexes", "indexes", Some("shop"), "0", "0", 120),
            DrillCheck {
                outcome: CheckOutcome::Notice,
                detail: Some("table \"public.carts\" has 38 % fewer rows than when the backup was taken".to_owned()),
                ..check("tables", "tables", Some("shop"), "64 tables", "64 tables", 860)
            },
            check("orders are there", "sql", Some("shop"), "at least 48000000", "48213907", 61_300),
            check("newest order", "freshness", Some("shop"), "at most 5 min before the target", "406 ms before", 2_410),
            DrillCheck {
                outcome: CheckOutcome::Skipped,
                expected: None,
                found: None,
                detail: Some("there is no table \"events\" in it".to_owned()),
                ..check("events of the day", "sql", Some("analytics"), "", "", 90)
            },
        ],
        recovery: Some(RecoveryTime {
            total_ms: 1_546_440,
            objective_ms: Some(1_800_000),
            bottleneck: Some("store".to_owned()),
            replayed_bytes: 33_554_432_000,
            segments: 2000,
            late_segments: 31,
            starved_ms: 22_400,
            replay_bytes_per_s: Some(88_023_169),
            wal_bytes_per_hour: Some(4_100_000_000),
            base_interval_ms: Some(86_400_000),
            worst_case_ms: Some(2_260_700),
            needed_interval_ms: Some(50_760_000),
            sentence: Some(
                "At 84 MiB/s of replay and 3.8 GiB of WAL an hour, a recovery just before the next base backup takes \
                 37 min 41 s. To keep 30 min 00 s, take a base backup every 14 h 06 min."
                    .to_owned(),
            ),
        }),
        peak_memory_bytes: Some(141_557_760),
        notes: vec!["pg_cron was left out of shared_preload_libraries: it is not installed on this host".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_record_is_written_as_documented() {
        let formats = include_str!("../../docs/formats.md");
        let json = example().to_json().unwrap();
        assert!(formats.contains(json.trim_end()), "docs/formats.md shows another record than\n{json}");
    }

    #[test]
    fn a_record_is_read_back_with_unknown_fields_and_without_empty_ones() {
        let record = example();
        let json = record.to_json().unwrap();
        assert_eq!(DrillRecord::from_json(json.as_bytes()).unwrap(), record);
        let more = json.replacen('{', "{ \"later\": [1, {}],", 1);
        assert_eq!(DrillRecord::from_json(more.as_bytes()).unwrap(), record);
        let bare = DrillRecord {
            sequence: None,
            previous_sha256: None,
            last_passed: None,
            backup: None,
            target: DrillTarget::default(),
            proof: None,
            phases: Vec::new(),
            checks: Vec::new(),
            recovery: None,
            ..record
        };
        assert_eq!(DrillRecord::from_json(bare.to_json().unwrap().as_bytes()).unwrap(), bare);
    }

    #[test]
    fn other_schemas_levels_and_lengths_are_refused() {
        let json = example().to_json().unwrap();
        let kind = |json: &str| DrillRecord::from_json(json.as_bytes()).unwrap_err().kind();
        assert_eq!(kind(&json.replace("\"schema\": 1", "\"schema\": 2")), ErrorKind::Mismatch);
        assert_eq!(kind(&json.replace("\"level\": 3", "\"level\": 4")), ErrorKind::Corrupt);
        assert_eq!(kind(&json.replace("\"verdict\": \"pass\"", "\"verdict\": \"good\"")), ErrorKind::Corrupt);
        assert_eq!(kind(&" ".repeat(MAX_BYTES + 1)), ErrorKind::Corrupt);
    }

    #[test]
    fn only_a_pass_at_level_3_counts_as_passed() {
        let record = example();
        assert_eq!(record.last_passed_so_far(), Some(record.ended));
        for other in [
            DrillRecord { verdict: Verdict::Inconclusive, ..example() },
            DrillRecord { verdict: Verdict::Fail, ..example() },
            DrillRecord { level: DrillLevel::Bytes, ..example() },
        ] {
            assert_eq!(other.last_passed_so_far(), record.last_passed);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = DrillRecord::from_json(&bytes);
        }

        /// Bytes of a real record with one of them changed.
        #[test]
        fn a_damaged_record_is_read_or_refused(at in any::<prop::sample::Index>(), byte: u8) {
            let mut json = example().to_json().unwrap().into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            let _ = DrillRecord::from_json(&json);
        }
    }
}
