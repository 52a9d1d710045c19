//! What a verification leaves in the store: one object for each backup and each stretch of WAL it was through with.
//!
//! Records are only ever added, so that credentials that cannot overwrite or delete are enough. A record's name says all
//! that planning needs, which makes one listing enough to know what was verified when.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::backup::BackupId;
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::verification::{Degree, Depth, Finding, Findings, Verdict};
use crate::domain::verify_choice::Stretch;
use crate::error::{Error, Result};
use crate::layout::json_document::DocumentKind;
use crate::layout::json_time::{as_rfc3339, as_rfc3339_or_none};
use crate::layout::part_index::as_text;

/// The version of the format this crate writes and reads.
pub const SCHEMA: u32 = 1;

/// How long a record may be: a hundred findings of a thousand letters are less, however they are escaped.
pub const MAX_BYTES: usize = 1 << 20;

const KIND: DocumentKind =
    DocumentKind { what: "the record of a verification", schema: SCHEMA, most_bytes: MAX_BYTES as u64 };

/// How many findings a record names; it counts all.
const FINDINGS_NAMED: usize = 100;

/// How much of a finding a record holds, in letters.
const FINDING_CHARS: usize = 500;

/// The time in a record's name: sorts as text, and two runs never begin a record in one microsecond.
const NAME_TIME: &str = "%Y%m%dT%H%M%S%.6f";

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// One backup.
    Backup(BackupId),
    /// The WAL of some backups, by names.
    Wal,
    /// Segments that follow each other on one timeline.
    Stretch {
        /// The first of them.
        first: SegmentName,
        /// The last of them.
        last: SegmentName,
    },
}

impl Subject {
    /// The segments of `stretch`.
    #[must_use]
    pub fn of_stretch(stretch: Stretch, size: SegmentSize) -> Self {
        let (first, last) = stretch.ends(size);
        Self::Stretch { first, last }
    }

    /// The stretch it is, when segments are of `size`; none for what is no stretch.
    #[must_use]
    pub fn stretch(&self, size: SegmentSize) -> Option<Stretch> {
        let Self::Stretch { first, last } = self else { return None };
        let stretch = Stretch { timeline: first.timeline, first: first.number(size), last: last.number(size) };
        (first.timeline == last.timeline && stretch.first <= stretch.last).then_some(stretch)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(id) => write!(f, "{id}"),
            Self::Wal => f.write_str("wal"),
            Self::Stretch { first, last } => write!(f, "wal.{first}.{last}"),
        }
    }
}

impl FromStr for Subject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::corrupt(format!("\"{}\" is not what a verification is of", text.escape_debug()));
        match text.split('.').collect::<Vec<_>>()[..] {
            ["wal"] => Ok(Self::Wal),
            ["wal", first, last] => Ok(Self::Stretch {
                first: first.parse().map_err(|_| refuse())?,
                last: last.parse().map_err(|_| refuse())?,
            }),
            [id] => id.parse().map(Self::Backup).map_err(|_| refuse()),
            _ => Err(refuse()),
        }
    }
}

/// What the name of a record says: `20261125T031500.123456-20261123T205300-deep-pass.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordName {
    /// When the verification ended, to the microsecond.
    pub ended: DateTime<Utc>,
    /// What it was of.
    pub subject: Subject,
    /// How close it looked.
    pub depth: Depth,
    /// What it came to.
    pub verdict: Verdict,
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ended, subject, depth, verdict } = self;
        write!(f, "{}-{subject}-{depth}-{verdict}.json", ended.format(NAME_TIME))
    }
}

impl FromStr for RecordName {
    type Err = Error;

    /// Errors: `Corrupt` for any name that is not written so.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::corrupt(format!("\"{}\" is not the name of a verification", text.escape_debug()));
        let stem = text.strip_suffix(".json").ok_or_else(refuse)?;
        let [time, subject, depth, verdict] = stem.split('-').collect::<Vec<_>>()[..] else { return Err(refuse()) };
        let name = Self {
            ended: NaiveDateTime::parse_from_str(time, NAME_TIME).map_err(|_| refuse())?.and_utc(),
            subject: subject.parse()?,
            depth: depth.parse()?,
            verdict: verdict.parse()?,
        };
        if name.to_string() == text { Ok(name) } else { Err(refuse()) }
    }
}

/// One verification.
///
/// Stored as pretty-printed JSON; everything that is not a count is text. Unknown fields are passed over, so that fields
/// can be added without a new schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRecord {
    /// The version of the format, [`SCHEMA`].
    pub schema: u32,
    /// What was verified.
    #[serde(with = "as_text")]
    pub subject: Subject,
    /// When it was begun.
    #[serde(with = "as_rfc3339")]
    pub started: DateTime<Utc>,
    /// When it was through.
    #[serde(with = "as_rfc3339")]
    pub ended: DateTime<Utc>,
    /// How close it looked.
    #[serde(with = "as_text")]
    pub depth: Depth,
    /// What it came to.
    #[serde(with = "as_text")]
    pub verdict: Verdict,
    /// Objects looked at.
    pub checked_objects: u64,
    /// What they come to in the store, or, deep, how many of their bytes were read.
    pub checked_bytes: u64,
    /// The first hundred findings.
    pub findings: Vec<RecordedFinding>,
    /// How many there were.
    pub finding_count: u64,
    /// Of WAL: the segments' size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_bytes: Option<u64>,
    /// Of WAL whose bytes were read: the time of its last commit.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_rfc3339_or_none")]
    pub last_commit: Option<DateTime<Utc>>,
}

/// A finding as a record holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFinding {
    /// How bad it is.
    #[serde(with = "as_text")]
    pub degree: Degree,
    /// What it is about.
    pub object: String,
    /// What is wrong.
    pub what: String,
}

impl From<&Finding> for RecordedFinding {
    fn from(finding: &Finding) -> Self {
        let cut = |text: &str| text.chars().take(FINDING_CHARS).collect();
        Self { degree: finding.degree, object: cut(&finding.object), what: cut(&finding.what) }
    }
}

impl VerifyRecord {
    /// A record of `subject`, begun and ended at these times; times are kept to the microsecond.
    #[must_use]
    pub fn new(subject: Subject, depth: Depth, times: (DateTime<Utc>, DateTime<Utc>), findings: &Findings) -> Self {
        Self {
            schema: SCHEMA,
            subject,
            started: times.0.trunc_subsecs(6),
            ended: times.1.trunc_subsecs(6),
            depth,
            verdict: findings.verdict(),
            checked_objects: 0,
            checked_bytes: 0,
            findings: findings.named().into_iter().take(FINDINGS_NAMED).map(RecordedFinding::from).collect(),
            finding_count: findings.total(),
            segment_bytes: None,
            last_commit: None,
        }
    }

    /// What is known of a record whose content was not read: counts are 0, and no finding is named.
    #[must_use]
    pub fn of_name(name: &RecordName) -> Self {
        let mut record = Self::new(name.subject.clone(), name.depth, (name.ended, name.ended), &Findings::default());
        record.verdict = name.verdict;
        record
    }

    /// The record's name.
    #[must_use]
    pub fn name(&self) -> RecordName {
        RecordName { ended: self.ended, subject: self.subject.clone(), depth: self.depth, verdict: self.verdict }
    }

    /// The record as JSON that people can read, with a line feed at the end.
    pub fn to_json(&self) -> Result<String> {
        KIND.write(self)
    }

    /// Reads a record.
    ///
    /// Errors: `Corrupt` for more than 1 MiB and for what is no such JSON; `Mismatch` for another schema.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        KIND.read(json)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn record() -> VerifyRecord {
        let findings: Findings =
            [Finding::damage("pfx/main/base/x/data.tar.zst", "it is not there")].into_iter().collect();
        let times = (at("2026-11-25T03:15:00Z"), at("2026-11-25T03:16:00.1234567Z"));
        VerifyRecord {
            checked_objects: 4,
            checked_bytes: 1 << 40,
            ..VerifyRecord::new("20261123T205300".parse().unwrap(), Depth::Deep, times, &findings)
        }
    }

    #[test]
    fn a_record_is_written_as_documented() {
        let formats = include_str!("../../docs/formats.md");
        let json = record().to_json().unwrap();
        assert!(formats.contains(json.trim_end()), "docs/formats.md shows another record than\n{json}");
        let name = record().name().to_string();
        assert_eq!(name, "20261125T031600.123456-20261123T205300-deep-fail.json");
        assert!(formats.contains(&name));
    }

    #[test]
    fn records_and_their_names_are_read_back_and_unknown_fields_passed_over() {
        let stretch: Subject = "wal.000000010000000000000002.000000010000000000000009".parse().unwrap();
        let record = VerifyRecord {
            subject: stretch.clone(),
            segment_bytes: Some(1 << 24),
            last_commit: Some(at("2026-11-25T01:00:00.5Z")),
            ..record()
        };
        let json = record.to_json().unwrap();
        assert_eq!(VerifyRecord::from_json(json.as_bytes()).unwrap(), record);
        let more = json.replacen('{', "{ \"later\": [1, {}],", 1);
        assert_eq!(VerifyRecord::from_json(more.as_bytes()).unwrap(), record);
        assert_eq!(record.name().to_string().parse::<RecordName>().unwrap(), record.name());
        let size = SegmentSize::DEFAULT;
        let two_to_nine = stretch.stretch(size).unwrap();
        assert_eq!((two_to_nine.first, two_to_nine.last), (2, 9));
        assert_eq!(Subject::of_stretch(two_to_nine, size), stretch);
        let other = json.replace("\"schema\": 1", "\"schema\": 2");
        assert_eq!(VerifyRecord::from_json(other.as_bytes()).unwrap_err().kind(), ErrorKind::Mismatch);
        assert_eq!(VerifyRecord::from_json(&vec![b' '; MAX_BYTES + 1]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn names_that_are_not_written_so_are_refused() {
        let good = record().name().to_string();
        assert!(good.parse::<RecordName>().is_ok());
        for (from, to) in [
            (".json", ""),
            ("deep", "Deep"),
            ("pass", "maybe"),
            ("fail", ""),
            (".123456", ""),
            ("-2026", "2026"),
            ("T0316", "T0361"),
        ] {
            let name = good.replacen(from, to, 1);
            assert!(name == good || name.parse::<RecordName>().is_err(), "{name}");
        }
        let backwards: Subject = "wal.000000010000000000000009.000000010000000000000002".parse().unwrap();
        assert_eq!(backwards.stretch(SegmentSize::DEFAULT), None);
        assert_eq!(Subject::Wal.stretch(SegmentSize::DEFAULT), None);
    }

    #[test]
    fn a_thousand_long_findings_make_a_record_that_is_read_again() {
        let long = "\u{1}".repeat(5000);
        let findings: Findings = (0..1500).map(|_| Finding::damage(long.clone(), long.clone())).collect();
        let times = (at("2026-11-25T03:15:00Z"), at("2026-11-25T03:16:00Z"));
        let record = VerifyRecord::new(Subject::Wal, Depth::Quick, times, &findings);
        assert_eq!((record.findings.len(), record.finding_count), (100, 1500));
        let json = record.to_json().unwrap();
        assert_eq!(VerifyRecord::from_json(json.as_bytes()).unwrap(), record);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            let _ = VerifyRecord::from_json(&bytes);
            let _ = VerifyRecord::from_json(text.as_bytes());
            let _ = text.parse::<RecordName>();
            let _ = text.parse::<Subject>();
        }

        /// Bytes of a real record with some of them changed.
        #[test]
        fn a_damaged_record_is_read_or_refused(at in any::<prop::sample::Index>(), byte: u8) {
            let mut json = record().to_json().unwrap().into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            let _ = VerifyRecord::from_json(&json);
        }
    }
}
