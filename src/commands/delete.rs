//! Deleting backups and the WAL that only they needed: one by name, or those that a policy no longer wants.
//!
//! Barman's order: for each backup its tar archives, then `backup.info`, then WAL. What breaks off leaves a backup without
//! all of its archives, which the next call deletes; never one that lacks WAL.

use chrono::{DateTime, FixedOffset};
use futures::StreamExt;

use crate::commands::answer::{Answer, Refusal, RefusalKind};
use crate::commands::archive::Archive;
use crate::commands::backup_records::{Records, read_keep};
use crate::domain::barman_retention::{Retention, RetentionPolicy, check_deletion};
use crate::domain::wal_removal::{ArchivedWal, Deletion, WalRule, deletions, wal_name};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::backup_record::BackupRecord;
use crate::layout::keys::{BACKUP_INFO_NAME, BACKUP_MANIFEST_NAME, PART_INDEX_NAME, TABLE_SNAPSHOT_NAME};
use crate::layout::python_literal::Literal;
use crate::layout::tar_objects::tar_objects;
use crate::store::{Listed, Place};

/// What Barman 3.19.1 says where single objects could not be deleted: the log has them.
const SOME_FAILED: &str = "Error from cloud provider while deleting objects - please check the command output.";

/// Objects asked about their locks at the same time.
const LOOKS_IN_FLIGHT: usize = 8;

/// So many keys stand in one line of the log: readers of logs take no more than 64 KiB for a line.
const LOGGED_KEYS: usize = 100;

/// Which backups are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwanted {
    /// The one called so, see [`Records::resolve`]; none when the word is empty.
    Backup(String),
    /// Those that the policy of this text no longer wants; none when the text is empty.
    Policy(String),
}

/// What `backup-delete` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which backups.
    pub unwanted: Unwanted,
    /// No fewer backups than this stay.
    pub minimum_redundancy: u64,
    /// Say what would be deleted, and delete nothing.
    pub dry_run: bool,
    /// Objects deleted in one request: at least 1, at most what the store takes, which is the default.
    pub batch_size: Option<usize>,
    /// Ask of each object whether a lock keeps it, before the first is deleted.
    pub check_object_lock: bool,
    /// The present, in the zone of messages.
    pub now: DateTime<FixedOffset>,
}

/// A step that a dry run leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// Deleting the objects with these keys.
    Objects(Vec<String>),
    /// Deleting all WAL whose key begins so.
    Prefix(String),
}

/// Deletes backups, and the WAL that no remaining one needs; gives the ids. In a dry run, `left_out` hears of each step.
///
/// Refused, in Barman's words: a catalogue with an entry that cannot be read; a backup that is kept, or that the minimum
/// redundancy needs; a text that is no policy; a backup that could not be deleted, for whatever reason, or that a lock keeps. It
/// ends there: the older ones are gone. WAL that could not be deleted is logged and changes nothing, as in Barman 3.19.1.
///
/// Errors: `NotFound` and `Usage` of [`Records::resolve`]; `Mismatch` for a backup of disk snapshots, of which nothing is
/// deleted; the store's.
pub async fn delete(
    archive: &Archive,
    request: &DeleteRequest,
    left_out: &mut dyn FnMut(LeftOut) -> Result<()>,
) -> Result<Answer<Vec<String>>> {
    let records = Records::load_with_keeps(archive).await?;
    if !records.unreadable.is_empty() {
        let ids = Literal::List(records.unreadable.into_iter().map(Literal::Str).collect());
        return Ok(Answer::refused(format!(
            "Cannot read the following backups: {ids}\n\
             Unsafe to proceed with deletion due to failure reading backup catalog"
        )));
    }
    let ids = match choose(archive, request, &records).await? {
        Answer::Given(ids) => ids,
        Answer::Refused(refusal) => return Ok(Answer::Refused(refusal)),
    };
    let by_policy = matches!(request.unwanted, Unwanted::Policy(_));
    let plan = deletions(&records.retained(), &ids, by_policy, request.now.to_utc());
    let mut run = Run { archive, request, left_out, wal: None };
    let mut deleted = Vec::new();
    for deletion in &plan {
        let record = records.backups.iter().map(|backup| &backup.record).find(|record| record.id() == deletion.id);
        if let Some(refusal) = run.delete_backup(record.expect("a plan is made of records")).await? {
            return Ok(Answer::Refused(refusal));
        }
        if let Some(rule) = &deletion.wal {
            run.delete_wal(&deletion.id, rule, &plan).await?;
        }
        deleted.push(deletion.id.clone());
    }
    Ok(Answer::Given(deleted))
}

/// The ids of the backups that are to go, oldest first.
async fn choose(archive: &Archive, request: &DeleteRequest, records: &Records) -> Result<Answer<Vec<String>>> {
    let server = archive.prefix.server();
    let backups = records.retained();
    match &request.unwanted {
        Unwanted::Backup(word) | Unwanted::Policy(word) if word.is_empty() => Ok(Answer::Given(Vec::new())),
        Unwanted::Backup(word) => {
            let id = records.resolve(word, server)?;
            let known = backups.iter().find(|backup| backup.id == id);
            let keep = match known {
                Some(backup) => backup.keep,
                None => read_keep(archive, &id).await?,
            };
            if let Err(text) = check_deletion(&backups, &id, keep, request.minimum_redundancy, server) {
                return Ok(Answer::refused(text));
            }
            if known.is_none() {
                tracing::warn!("Backup {id} does not exist");
            }
            Ok(Answer::Given(known.map(|backup| backup.id.clone()).into_iter().collect()))
        }
        Unwanted::Policy(text) => {
            let Some(policy) = RetentionPolicy::parse(text) else {
                let text = RetentionPolicy::refusal(text);
                return Ok(Answer::Refused(Refusal { text, kind: RefusalKind::Usage }));
            };
            let minimum_redundancy = request.minimum_redundancy;
            let judged = Retention { policy, minimum_redundancy, now: request.now, server }.judge(&backups);
            for warning in &judged.warnings {
                tracing::warn!("{warning}");
            }
            Ok(Answer::Given(judged.obsolete))
        }
    }
}

/// One call of [`delete`].
struct Run<'a> {
    archive: &'a Archive,
    request: &'a DeleteRequest,
    left_out: &'a mut dyn FnMut(LeftOut) -> Result<()>,
    /// The WAL that may go, listed when first needed.
    wal: Option<ArchivedWal>,
}

impl Run<'_> {
    /// Deletes a backup's own objects.
    async fn delete_backup(&mut self, record: &BackupRecord) -> Result<Option<Refusal>> {
        let (id, store) = (record.id(), &self.archive.store);
        if record.literal("snapshots_info").is_some() {
            let message =
                format!("could not delete backup \"{id}\": it is one of disk snapshots, which barback does not manage");
            return Err(Error::new(ErrorKind::Mismatch, message).with_hint(
                "delete the snapshots by the cloud provider's means, or the backup with Barman's own command",
            ));
        }
        let directory = format!("{}{id}/", self.archive.prefix.base());
        let mut keys = Vec::new();
        store.list(&directory, None, |object| keys.push(object.key)).await?;
        keys.sort();
        let oid = |[_, oid, _]: [&Literal; 3]| match oid {
            Literal::Int(oid) => Some(*oid),
            _ => None,
        };
        let oids: Vec<i64> = record.tablespaces().into_iter().filter_map(oid).collect();
        let tars = tar_objects(&directory, keys.iter().map(String::as_str), &oids, self.archive.prefix.server());
        for warning in &tars.warnings {
            tracing::warn!("{warning}");
        }
        let info = format!("{directory}{BACKUP_INFO_NAME}");
        let all: Vec<String> = tars.keys.iter().cloned().chain([info.clone()]).collect();
        if self.request.dry_run {
            (self.left_out)(LeftOut::Objects(all))?;
            return Ok(None);
        }
        if let Err(cause) = self.delete_whole(&tars.keys, &info).await {
            let text = format!("Could not delete backup {id}: {cause}");
            return Ok(Some(Refusal { text, kind: RefusalKind::Operation }));
        }
        // What barback puts beside a backup. Without the backup it is of no use, and Barman would leave it.
        let ours =
            [PART_INDEX_NAME, BACKUP_MANIFEST_NAME, TABLE_SNAPSHOT_NAME].map(|name| format!("{directory}{name}"));
        let ours: Vec<String> = keys.into_iter().filter(|key| ours.contains(key)).collect();
        if let Err(cause) = self.delete_objects(&ours).await {
            tracing::warn!("could not delete the index and manifest of backup {id}: {cause}");
        }
        tracing::info!("deleted backup {id}");
        Ok(None)
    }

    /// Deletes archives and, once they are gone, the record. The error is the cause alone.
    async fn delete_whole(&self, archives: &[String], info: &str) -> Result<(), String> {
        let info = [info.to_owned()];
        if self.request.check_object_lock {
            self.refuse_locked(archives.iter().chain(&info)).await?;
        }
        self.delete_objects(archives).await?;
        self.delete_objects(&info).await
    }

    /// Deletes the WAL that goes with a backup. The listing ends where none of `plan` takes any.
    async fn delete_wal(&mut self, id: &str, rule: &WalRule, plan: &[Deletion]) -> Result<()> {
        let (store, wals) = (&self.archive.store, self.archive.prefix.wals());
        if self.wal.is_none() {
            let last = plan.iter().filter_map(|deletion| Some(deletion.wal.as_ref()?.last_key(&wals))).max();
            let is_ordered = !matches!(store.place(), Place::Directory(_));
            let mut keys = Vec::new();
            let take = |object: Listed| {
                let is_beyond = last.as_ref().is_some_and(|last| object.key > *last);
                keys.push(object.key);
                !(is_ordered && is_beyond)
            };
            store.list_while(&wals, None, take).await?;
            self.wal = Some(ArchivedWal::new(&wals, keys));
        }
        let wal = self.wal.as_mut().expect("it was listed just now");
        let removal = wal.take(rule, store.deletes_prefixes());
        if let Some(first) = removal.needed.first() {
            tracing::warn!(
                "Keeping {} WAL files that other backups need, although they are older than the backups that stay, the \
                 first {}",
                removal.needed.len(),
                wal_name(first).unwrap_or(first)
            );
        }
        if self.request.dry_run {
            for (prefix, _) in removal.directories {
                (self.left_out)(LeftOut::Prefix(prefix))?;
            }
            if !removal.objects.is_empty() {
                (self.left_out)(LeftOut::Objects(removal.objects))?;
            }
            return Ok(());
        }
        let whole = removal.directories.into_iter().flat_map(|(_, keys)| keys);
        let gone: Vec<String> = whole.chain(removal.objects).collect();
        if let Err(cause) = self.delete_objects(&gone).await {
            let (shown, more) = gone.split_at(gone.len().min(LOGGED_KEYS));
            let shown = Literal::List(shown.iter().cloned().map(Literal::Str).collect());
            let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            tracing::error!("Could not delete the following WALs for backup {id}: {shown}{more}, Reason: {cause}");
        } else if let Some(wal) = &mut self.wal {
            wal.forget(&gone.into_iter().collect());
        }
        Ok(())
    }

    /// Deletes objects, batch after batch; one that cannot be deleted does not keep the rest. The error is the cause alone.
    async fn delete_objects(&self, keys: &[String]) -> Result<(), String> {
        let store = &self.archive.store;
        let limit = store.batch_limit();
        let batch = self.request.batch_size.unwrap_or(limit).clamp(1, limit);
        let mut any_failed = false;
        for keys in keys.chunks(batch) {
            for (key, error) in store.delete_batch(keys).await.map_err(|error| error.to_string())? {
                tracing::error!("Deletion of object {key} failed: {error}");
                any_failed = true;
            }
        }
        if any_failed { Err(SOME_FAILED.to_owned()) } else { Ok(()) }
    }

    /// Refuses where a lock keeps one of the objects: then none of them is touched. Barman 3.19.1 looks batch by batch, and
    /// not at `backup.info`.
    async fn refuse_locked(&self, keys: impl Iterator<Item = &String>) -> Result<(), String> {
        let store = &self.archive.store;
        let looks = keys.map(async |key| (key, store.is_locked(key).await));
        let mut looks = futures::stream::iter(looks).buffered(LOOKS_IN_FLIGHT);
        let mut any_locked = false;
        while let Some((key, locked)) = looks.next().await {
            if locked.map_err(|error| error.to_string())? {
                tracing::error!("Cannot delete locked object {key}: Object is locked");
                any_locked = true;
            }
        }
        if any_locked { Err(SOME_FAILED.to_owned()) } else { Ok(()) }
    }
}
