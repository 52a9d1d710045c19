//! `expiry/<id>.json`: what a running expiry says of itself, so that backups and other expiries can keep out of its way.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::segment::SegmentName;
use crate::domain::timeline::TimelineId;
use crate::error::{Error, ErrorKind, Result};

/// The version of the format.
const SCHEMA: u32 = 1;

/// More than any such object needs; its ids are its bulk.
pub const LIMIT_BYTES: u64 = 4 << 20;

/// An expiry deletes nothing after so long.
pub const LIFE: TimeDelta = TimeDelta::hours(1);

/// An expiry that began longer ago is dead. The second hour is for requests on their way, and for clocks that differ.
pub const DEAD_AFTER: TimeDelta = TimeDelta::hours(2);

/// True when an expiry whose lock was written at one time deletes nothing any more at another, both by the same clock or by two
/// that differ by less than an hour.
#[must_use]
pub fn is_dead(written: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now.signed_duration_since(written) > DEAD_AFTER
}

/// What a running expiry says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiryLock {
    /// Its name, unique for all times.
    pub id: String,
    /// The host it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// What tells that process from all others, for whoever is on the same host; empty where nothing does.
    pub process: String,
    /// When it began, by its own clock.
    pub started: DateTime<Utc>,
    /// The last segment it may delete, on each timeline.
    pub wal_up_to: BTreeMap<TimelineId, SegmentName>,
    /// The backups it may delete: their directories are of no use any more once the record is gone.
    pub backups: Vec<String>,
    /// It deletes nothing any more, and something of these backups may be left: for the next one to know of.
    pub is_over: bool,
}

#[derive(Serialize, Deserialize)]
struct Document {
    schema: u32,
    id: String,
    host: String,
    pid: u32,
    #[serde(default)]
    process: String,
    started: DateTime<Utc>,
    wal_up_to: Vec<String>,
    backups: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_over: bool,
}

impl ExpiryLock {
    /// True when it may delete WAL that is needed from `begin` on, on that segment's timeline or one that grew out of it.
    #[must_use]
    pub fn may_delete_since(&self, begin: SegmentName) -> bool {
        self.wal_up_to
            .values()
            .any(|last| last.timeline >= begin.timeline && (last.log, last.segment) >= (begin.log, begin.segment))
    }

    /// As JSON, with a line feed at the end.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let document = Document {
            schema: SCHEMA,
            id: self.id.clone(),
            host: self.host.clone(),
            pid: self.pid,
            process: self.process.clone(),
            started: self.started,
            wal_up_to: self.wal_up_to.values().map(ToString::to_string).collect(),
            backups: self.backups.clone(),
            is_over: self.is_over,
        };
        let mut json = serde_json::to_vec_pretty(&document)
            .map_err(|error| Error::new(ErrorKind::Bug, format!("could not write an expiry's lock: {error}")))?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads one. Errors: `Corrupt` for anything else, another schema among it.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let refuse = |why: String| Error::corrupt(format!("could not read an expiry's lock: {why}"));
        let document: Document = serde_json::from_slice(json).map_err(|error| refuse(error.to_string()))?;
        if document.schema != SCHEMA {
            return Err(refuse(format!("its schema is {}, this program reads {SCHEMA}", document.schema)));
        }
        let mut wal_up_to = BTreeMap::new();
        for name in &document.wal_up_to {
            let name: SegmentName = name.parse().map_err(|error: Error| refuse(error.to_string()))?;
            wal_up_to.insert(name.timeline, name);
        }
        Ok(Self {
            id: document.id,
            host: document.host,
            pid: document.pid,
            process: document.process,
            started: document.started,
            wal_up_to,
            backups: document.backups,
            is_over: document.is_over,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> ExpiryLock {
        let last: SegmentName = "000000020000000100000010".parse().unwrap();
        ExpiryLock {
            id: "20260608T113200.000001-host-7".to_owned(),
            host: "host".to_owned(),
            pid: 7,
            process: "boot ns 7 1".to_owned(),
            started: "2026-06-08T11:32:00Z".parse().unwrap(),
            wal_up_to: BTreeMap::from([(last.timeline, last)]),
            backups: vec!["20260101T000000".to_owned()],
            is_over: false,
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_anything_else_is_refused() {
        let json = lock().to_json().unwrap();
        assert_eq!(ExpiryLock::from_json(&json).unwrap(), lock());
        let text = String::from_utf8(json).unwrap();
        for other in
            [text.replace("\"schema\": 1", "\"schema\": 2"), text.replace("0000000200", "000000020"), "{}".into()]
        {
            assert!(ExpiryLock::from_json(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn a_lock_concerns_whoever_needs_wal_before_its_bound() {
        for (begin, concerned) in [
            ("000000020000000100000010", true),
            ("000000020000000100000011", false),
            ("000000010000000000000001", true),
            ("000000030000000000000001", false),
            ("000000010000000200000000", false),
        ] {
            assert_eq!(lock().may_delete_since(begin.parse().unwrap()), concerned, "{begin}");
        }
    }

    #[test]
    fn a_lock_dies_after_two_hours() {
        let at = |minutes| lock().started + TimeDelta::minutes(minutes);
        assert!(!is_dead(at(0), at(120)) && is_dead(at(0), at(121)) && !is_dead(at(0), at(-600)));
    }
}
