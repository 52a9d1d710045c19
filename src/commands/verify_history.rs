//! What earlier verifications left in the store, and one more beside them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::commands::archive::Archive;
use crate::domain::archive_health::Verification;
use crate::domain::backup::BackupId;
use crate::domain::segment::SegmentSize;
use crate::domain::verification::{Depth, Verdict};
use crate::domain::verify_choice::Look;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::ServerPrefix;
use crate::layout::verify_record::{MAX_BYTES, RecordName, Subject, VerifyRecord};
use crate::store::{Listed, Metadata};

/// Of verifications that did not pass, so many are read for what they found.
const RECORDS_READ: usize = 20;

/// Earlier verifications, as the names of their records tell.
#[derive(Debug, Clone, Default)]
pub struct VerifyHistory {
    names: Vec<RecordName>,
}

impl VerifyHistory {
    /// Those among the objects that a listing of `barback/` has shown; other objects are passed over.
    #[must_use]
    pub fn of(prefix: &ServerPrefix, listed: &[Listed]) -> Self {
        let directory = prefix.verifications();
        let names = listed.iter().filter_map(|object| object.key.strip_prefix(&directory)?.parse().ok());
        Self { names: names.collect() }
    }

    /// When the backup last passed at `depth` or deeper; none when it failed since, or never passed.
    #[must_use]
    pub fn last_pass(&self, id: &BackupId, depth: Depth) -> Option<DateTime<Utc>> {
        let subject = Subject::Backup(id.clone());
        // A quick look that failed speaks against a deep one that passed.
        let tells = |name: &&RecordName| match name.verdict {
            Verdict::Pass => name.depth >= depth,
            Verdict::Fail => true,
            Verdict::Inconclusive => false,
        };
        let newest =
            self.names.iter().filter(|name| name.subject == subject).filter(tells).max_by_key(|name| name.ended);
        newest.filter(|name| name.verdict == Verdict::Pass).map(|name| name.ended)
    }

    /// The looks at WAL that read its bytes and came to something.
    #[must_use]
    pub fn looks(&self, size: SegmentSize) -> Vec<Look> {
        let tells = |name: &&RecordName| name.depth == Depth::Deep && name.verdict != Verdict::Inconclusive;
        let look = |name: &RecordName| {
            let passed = name.verdict == Verdict::Pass;
            Some(Look { stretch: name.subject.stretch(size)?, at: name.ended, passed })
        };
        self.names.iter().filter(tells).filter_map(look).collect()
    }

    /// What reading WAL came to last, over all stretches: damage that no later look has cleared, else the newest pass.
    fn newest_of_stretches(&self) -> Option<Verification> {
        // Any size will do to tell whether one stretch lies within another: names are compared in the same way.
        let looks = self.looks(SegmentSize::DEFAULT);
        let is_cleared = |look: &&Look| {
            let covers = |later: &&Look| {
                let (inner, outer) = (look.stretch, later.stretch);
                inner.timeline == outer.timeline && outer.first <= inner.first && inner.last <= outer.last
            };
            looks.iter().filter(|later| later.passed && later.at > look.at).any(|later| covers(&later))
        };
        let failed =
            looks.iter().filter(|look| !look.passed).filter(|look| !is_cleared(look)).max_by_key(|look| look.at);
        let newest = failed.or_else(|| looks.iter().filter(|look| look.passed).max_by_key(|look| look.at))?;
        let verdict = if newest.passed { Verdict::Pass } else { Verdict::Fail };
        Some(Verification { subject: Subject::Wal.to_string(), at: newest.at, depth: Depth::Deep, verdict })
    }

    /// The newest verification of each subject and depth.
    #[must_use]
    pub fn newest(&self) -> BTreeMap<(Subject, Depth), &RecordName> {
        let mut newest: BTreeMap<(Subject, Depth), &RecordName> = BTreeMap::new();
        for name in &self.names {
            let of = newest.entry((name.subject.clone(), name.depth)).or_insert(name);
            if of.ended < name.ended {
                *of = name;
            }
        }
        newest
    }
}

/// The newest verification of each backup, of all WAL by names and of WAL that was read, as `wal`, at each depth: from the
/// objects that a listing of `barback/` has shown, without a request.
#[must_use]
pub fn newest_verifications(prefix: &ServerPrefix, listed: &[Listed]) -> Vec<Verification> {
    let history = VerifyHistory::of(prefix, listed);
    let mut newest: Vec<Verification> = history
        .newest()
        .into_iter()
        .filter(|((subject, _), _)| !matches!(subject, Subject::Stretch { .. }))
        .map(|((subject, depth), name)| Verification {
            subject: subject.to_string(),
            at: name.ended,
            depth,
            verdict: name.verdict,
        })
        .collect();
    newest.extend(history.newest_of_stretches());
    newest
}

/// The newest verification of each subject, among the objects that a listing of `barback/` has shown: by the backup's id;
/// under `wal` that of all WAL by names, under `wal.<first>.<last>` those of WAL that was read.
///
/// What a record's name says is all that is known of those that passed; of those that did not, the newest twenty are read.
/// Errors: the store's. A record that vanished or cannot be read is known by its name alone.
pub async fn load_verify_records(archive: &Archive, listed: &[Listed]) -> Result<BTreeMap<String, VerifyRecord>> {
    let history = VerifyHistory::of(&archive.prefix, listed);
    let mut newest: BTreeMap<String, RecordName> = BTreeMap::new();
    for ((subject, _), name) in history.newest() {
        let of = newest.entry(subject.to_string()).or_insert_with(|| name.clone());
        if of.ended < name.ended {
            of.clone_from(name);
        }
    }
    let mut bad: Vec<&RecordName> = newest.values().filter(|name| name.verdict != Verdict::Pass).collect();
    bad.sort_by_key(|name| std::cmp::Reverse(name.ended));
    let mut records: BTreeMap<String, VerifyRecord> = BTreeMap::new();
    for name in bad.into_iter().take(RECORDS_READ) {
        if let Some(record) = read(archive, name).await? {
            records.insert(name.subject.to_string(), record);
        }
    }
    for (subject, name) in newest {
        records.entry(subject).or_insert_with(|| VerifyRecord::of_name(&name));
    }
    Ok(records)
}

async fn read(archive: &Archive, name: &RecordName) -> Result<Option<VerifyRecord>> {
    let key = format!("{}{name}", archive.prefix.verifications());
    match archive.store.get(&key, MAX_BYTES as u64).await {
        Ok(fetched) => Ok(VerifyRecord::from_json(&fetched.content)
            .inspect_err(|error| tracing::warn!("could not use \"{key}\": {error}"))
            .ok()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts records beside those that are there.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    archive: &'a Archive,
    is_on: bool,
    /// Why a record is not there that should be; no further one is tried.
    pub(crate) failure: Option<Error>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(archive: &'a Archive, is_on: bool) -> Self {
        Self { archive, is_on, failure: None }
    }

    /// Puts a record; create-only, since none is ever changed.
    pub(crate) async fn put(&mut self, record: &VerifyRecord) {
        if !self.is_on || self.failure.is_some() {
            return;
        }
        let prefix = &self.archive.prefix;
        let key = format!("{}{}", prefix.verifications(), record.name());
        let outcome = match record.to_json() {
            Ok(json) => self
                .archive
                .store
                .put_new(&key, json.into_bytes(), &Metadata::new(), &prefix.dialect_probe())
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        self.failure = outcome.map_err(|error| error.context("the verification is not recorded")).err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(names: &[&str]) -> VerifyHistory {
        let prefix = ServerPrefix::new("pfx", "main").unwrap();
        let listed = |name: &&str| Listed {
            key: format!("pfx/main/barback/{name}"),
            bytes: 1,
            modified: DateTime::UNIX_EPOCH,
            e_tag: None,
        };
        VerifyHistory::of(&prefix, &names.iter().map(listed).collect::<Vec<_>>())
    }

    fn last_pass(names: &[&str], depth: Depth) -> Option<String> {
        let last = history(names).last_pass(&"20261101T000000".parse().unwrap(), depth);
        last.map(|time| time.format("%m%d").to_string())
    }

    #[test]
    fn a_deep_pass_is_a_quick_one_too_and_a_failure_undoes_either() {
        let quick = "verify/20261103T000000.000000-20261101T000000-quick-pass.json";
        let deep = "verify/20261102T000000.000000-20261101T000000-deep-pass.json";
        let failed = "verify/20261104T000000.000000-20261101T000000-quick-fail.json";
        let unknown = "verify/20261105T000000.000000-20261101T000000-deep-inconclusive.json";
        let other = "verify/20261106T000000.000000-20261101T000001-deep-pass.json";
        assert_eq!(last_pass(&[quick, deep, other], Depth::Quick).as_deref(), Some("1103"));
        assert_eq!(last_pass(&[quick, deep, other], Depth::Deep).as_deref(), Some("1102"));
        assert_eq!(last_pass(&[deep, unknown], Depth::Quick).as_deref(), Some("1102"));
        assert_eq!(last_pass(&[quick, other], Depth::Deep), None);
        assert_eq!(last_pass(&[quick, deep, failed, unknown], Depth::Deep), None);
        assert_eq!(last_pass(&["identity.json", "verify/x.json", "verify/sub/y"], Depth::Quick), None);
    }

    #[test]
    fn only_wal_that_was_read_counts_as_looked_at() {
        let names = [
            "verify/20261103T000000.000000-wal-quick-pass.json",
            "verify/20261103T000000.000000-wal.000000010000000000000002.000000010000000000000009-deep-pass.json",
            "verify/20261104T000000.000000-wal.000000010000000000000003.000000010000000000000003-deep-fail.json",
            "verify/20261105T000000.000000-wal.000000010000000000000002.000000010000000000000009-deep-inconclusive.json",
        ];
        let looks = history(&names).looks(SegmentSize::DEFAULT);
        let told: Vec<_> = looks.iter().map(|look| (look.stretch.first, look.stretch.last, look.passed)).collect();
        assert_eq!(told, [(2, 9, true), (3, 3, false)]);
        assert_eq!(history(&names).newest().len(), 3);
        // Damage stays until a later look at all of it has passed.
        let last = |names: &[&str]| history(names).newest_of_stretches().map(|seen| (seen.verdict, seen.at));
        let (failed_at, later) = (history(&names[2..3]).names[0].ended, "verify/20261106T000000.000000-wal.");
        assert_eq!(last(&names), Some((Verdict::Fail, failed_at)));
        let whole = format!("{later}000000010000000000000001.000000010000000000000004-deep-pass.json");
        assert_eq!(last(&[&names[..], &[&whole]].concat()).unwrap().0, Verdict::Pass);
        let other = format!("{later}000000010000000000000004.000000010000000000000009-deep-pass.json");
        assert_eq!(last(&[&names[..], &[&other]].concat()).unwrap().0, Verdict::Fail);
        assert_eq!(last(&names[..1]), None);
    }
}
