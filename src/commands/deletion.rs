//! Deleting what a plan lets go: batch after batch, while the lock that announced it is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::commands::archive::Archive;
use crate::commands::expiry_lock::Announced;
use crate::commands::interrupt::Interrupt;
use crate::commands::survey::Survey;
use crate::domain::backup::BackupId;
use crate::domain::expiry::ExpiryPlan;
use crate::domain::segment::SegmentName;
use crate::domain::timeline::TimelineId;
use crate::domain::wal_needs::WalRules;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::{
    BACKUP_INFO_NAME, BACKUP_MANIFEST_NAME, PART_INDEX_NAME, TABLE_SNAPSHOT_NAME, parse_part_file_name,
};
use crate::store::Listed;

/// Keys of WAL held at a time: 8 TB of WAL in segments of 16 MiB. What is beyond goes with the next call.
const MOST_WAL_KEYS: usize = 500_000;

/// One request, with all its repetitions: together with an hour of deleting it must end before the lock is void.
const LONGEST_REQUEST: Duration = Duration::from_mins(30);

/// The annotation's place in a backup's directory.
const KEEP_NAME: &str = "annotations/keep";

/// What was deleted, and what could not be.
#[derive(Debug, Default)]
pub struct Deleted {
    /// The backups whose record is gone.
    pub backups: Vec<String>,
    /// Complete segments, and their companions.
    pub wal_objects: u64,
    /// All that was deleted, in the store.
    pub bytes: u64,
    /// Uploads that were ended.
    pub uploads: u64,
    /// Objects that could not be deleted, and why.
    pub failures: Vec<(String, Error)>,
    /// Objects that the store keeps under a lock.
    pub locked: Vec<String>,
    /// Objects in the directories of backups that nobody understands: they stay.
    pub strangers: Vec<String>,
    /// More WAL goes with the next call.
    pub more_wal: bool,
}

/// The WAL objects that may go, as a listing shows them.
#[derive(Debug)]
pub(crate) struct WalObjects {
    /// The last segment of each timeline that may go.
    up_to: BTreeMap<TimelineId, SegmentName>,
    objects: Vec<(SegmentName, Box<str>, u64)>,
    is_complete: bool,
}

impl WalObjects {
    pub(crate) fn up_to(up_to: BTreeMap<TimelineId, SegmentName>) -> Self {
        Self { up_to, objects: Vec::new(), is_complete: true }
    }

    pub(crate) fn add(&mut self, segment: SegmentName, object: &Listed) {
        if self.up_to.get(&segment.timeline).is_none_or(|last| segment > *last) {
            return;
        }
        if self.objects.len() == MOST_WAL_KEYS {
            self.is_complete = false;
        } else {
            self.objects.push((segment, object.key.clone().into_boxed_str(), object.bytes));
        }
    }
}

/// One call's deletions.
pub(crate) struct Deletion<'a> {
    archive: &'a Archive,
    announced: &'a Announced<'a>,
    interrupt: &'a Interrupt,
    pub(crate) deleted: Deleted,
}

impl<'a> Deletion<'a> {
    pub(crate) fn new(archive: &'a Archive, announced: &'a Announced<'a>, interrupt: &'a Interrupt) -> Self {
        Self { archive, announced, interrupt, deleted: Deleted::default() }
    }

    /// Deletes the records of backups that go; gives those of which it failed, and why.
    ///
    /// Errors: where a whole request failed, so that nobody knows what is gone.
    pub(crate) async fn records(&mut self, survey: &Survey, plan: &ExpiryPlan) -> Result<Vec<(String, String)>> {
        let going: BTreeSet<&str> = plan.going().map(|backup| backup.id.as_str()).collect();
        let surveyed = survey.backups.iter().filter(|surveyed| going.contains(surveyed.backup.id.as_str()));
        let key = |id: &BackupId| self.archive.prefix.backup_info(id);
        let records: Vec<(String, String)> =
            surveyed.map(|surveyed| (surveyed.backup.id.to_string(), key(&surveyed.backup.id))).collect();
        let keys = records.iter().map(|(_, key)| (key.clone(), 0)).collect();
        let failed = self.delete(keys).await?;
        let mut kept_on = Vec::new();
        for (id, key) in records {
            match failed.get(&key) {
                Some(why) => kept_on.push((id, why.clone())),
                None => self.deleted.backups.push(id),
            }
        }
        Ok(kept_on)
    }

    /// Deletes what the records recorded. Objects that nobody understands stay.
    pub(crate) async fn directories(&mut self, survey: &Survey, plan: &ExpiryPlan) -> Result<()> {
        let going: BTreeSet<&str> = plan.going().map(|backup| backup.id.as_str()).collect();
        let backups = survey.backups.iter().map(|surveyed| (surveyed.backup.id.as_str(), &surveyed.objects));
        let leftovers = survey.leftovers.iter().map(|leftover| (leftover.id.as_str(), &leftover.objects));
        let mut keys = Vec::new();
        for (id, objects) in backups.chain(leftovers).filter(|(id, _)| going.contains(id)) {
            let directory = format!("{}{id}/", self.archive.prefix.base());
            for object in objects {
                match object.key.strip_prefix(&directory) {
                    Some(BACKUP_INFO_NAME) => {}
                    Some(name) if is_understood(name) => keys.push((object.key.clone(), object.bytes)),
                    _ => self.deleted.strangers.push(object.key.clone()),
                }
            }
        }
        self.delete(keys).await.map(drop)
    }

    /// Deletes WAL, the oldest first.
    pub(crate) async fn wal(&mut self, mut wal: WalObjects, rules: &WalRules) -> Result<()> {
        wal.objects.retain(|(segment, ..)| rules.verdict(*segment).goes);
        wal.objects.sort_by_key(|(segment, ..)| (segment.log, segment.segment, segment.timeline));
        self.deleted.more_wal = !wal.is_complete;
        for batch in wal.objects.chunks(self.archive.store.batch_limit()) {
            let keys: Vec<_> = batch.iter().map(|(_, key, bytes)| (key.to_string(), *bytes)).collect();
            let count = keys.len();
            let failed = self.delete(keys).await?;
            self.deleted.wal_objects += (count - failed.len()) as u64;
        }
        Ok(())
    }

    /// Deletes objects, given with their size; gives the keys of those that are still there, and why.
    async fn delete(&mut self, objects: Vec<(String, u64)>) -> Result<BTreeMap<String, String>> {
        let store = &self.archive.store;
        let mut failed = BTreeMap::new();
        for batch in objects.chunks(store.batch_limit()) {
            self.interrupt.check()?;
            self.announced.check_alive()?;
            let keys: Vec<String> = batch.iter().map(|(key, _)| key.clone()).collect();
            let request = tokio::time::timeout(LONGEST_REQUEST, store.delete_batch(&keys));
            let too_long = |_| Error::new(ErrorKind::Unreachable, "could not delete objects: the store took too long");
            for (key, error) in request.await.map_err(too_long)?? {
                failed.insert(key.clone(), error.to_string());
                self.take_failure(key, error).await;
            }
            let gone = batch.iter().filter(|(key, _)| !failed.contains_key(key));
            self.deleted.bytes += gone.map(|(_, bytes)| bytes).sum::<u64>();
        }
        Ok(failed)
    }

    /// That a lock keeps an object is no failure.
    async fn take_failure(&mut self, key: String, error: Error) {
        let is_denied = error.kind() == ErrorKind::Denied;
        if is_denied && self.archive.store.is_locked(&key).await.unwrap_or(false) {
            self.deleted.locked.push(key);
        } else {
            tracing::warn!("{error}");
            self.deleted.failures.push((key, error));
        }
    }
}

/// True for names that Barman's cloud commands or barback give to objects of a backup.
fn is_understood(name: &str) -> bool {
    [PART_INDEX_NAME, BACKUP_MANIFEST_NAME, TABLE_SNAPSHOT_NAME, KEEP_NAME].contains(&name)
        || parse_part_file_name(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_understood_goes_with_a_backup() {
        for name in [
            "data.tar",
            "data_0001.tar.gz",
            "16389.tar.zst",
            "barback.json",
            "barback-tables.json.zst",
            "annotations/keep",
        ] {
            assert!(is_understood(name), "{name}");
        }
        for name in ["notes.txt", ".hidden", "data.tar.gz.tmp", "annotations/other", "sub/data.tar", "manifest.tmp"] {
            assert!(!is_understood(name), "{name}");
        }
    }

    #[test]
    fn wal_beyond_the_announced_bound_is_never_taken() {
        let last: SegmentName = "000000010000000000000005".parse().unwrap();
        let mut wal = WalObjects::up_to(BTreeMap::from([(last.timeline, last)]));
        for name in [
            "000000010000000000000004",
            "000000010000000000000005",
            "000000010000000000000006",
            "000000020000000000000001",
        ] {
            let modified = chrono::DateTime::UNIX_EPOCH;
            wal.add(name.parse().unwrap(), &Listed { key: name.to_owned(), bytes: 1, modified, e_tag: None });
        }
        assert_eq!(wal.objects.len(), 2);
    }
}
