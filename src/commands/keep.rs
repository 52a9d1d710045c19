//! Keeping a backup from being deleted: reading, writing and removing its annotation.

use chrono::Utc;

use crate::commands::answer::Answer;
use crate::commands::archive::Archive;
use crate::commands::backup_records::{Records, keep_keys, prove_bucket, read_annotation, read_keep, read_record};
use crate::commands::catalog;
use crate::commands::expiry_lock::{self, SeenLock};
use crate::domain::backup::{Backup, BackupId, BackupStatus};
use crate::domain::barman_retention::Keep;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Metadata;

/// What is to be done with a backup's annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAction {
    /// Look.
    Status,
    /// Keep it.
    Set(Keep),
    /// Keep it no longer.
    Release,
}

/// What `backup-keep` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepRequest {
    /// The backup: an id or another word for it, see [`Records::resolve`].
    pub backup: String,
    /// What to do.
    pub action: KeepAction,
    /// The store's URL ends in `/`. Barman 3.19.1, called with that URL, looks for annotations in another place than it
    /// looks for backups in; a new annotation is put there too, so that it also holds for Barman.
    pub url_ends_in_slash: bool,
}

/// Reads, writes or removes an annotation; gives what it is then.
///
/// Refused, in Barman's words: keeping a backup that is not complete. Like Barman 3.19.1, an id that is not there has no
/// annotation, and releasing it succeeds. Errors: `NotFound` for keeping an id that is not there, where Barman fails on its
/// own account; `Corrupt` for keeping one whose record cannot be read.
pub async fn keep(archive: &Archive, request: &KeepRequest) -> Result<Answer<Option<Keep>>> {
    let id = id_of(archive, &request.backup).await?;
    match request.action {
        KeepAction::Status => {
            let keep = read_keep(archive, &id).await?;
            if keep.is_none() {
                prove_bucket(archive).await?;
            }
            Ok(Answer::Given(keep))
        }
        KeepAction::Set(keep) => set(archive, &id, keep, request.url_ends_in_slash).await,
        KeepAction::Release => {
            let keys = keep_keys(archive, &id);
            let (ours, others) = keys.split_first().expect("there is always the first place");
            for key in others {
                // Where there can be no such object, it cannot be deleted either.
                if read_annotation(archive, key).await?.is_some() {
                    archive.store.delete(key).await?;
                }
            }
            archive.store.delete(ours).await?;
            Ok(Answer::Given(None))
        }
    }
}

/// Whether there is an annotation in the second place; where these credentials may not look, it is left alone: the first says
/// enough.
async fn is_annotated(archive: &Archive, key: &str) -> Result<bool> {
    match read_annotation(archive, key).await {
        Err(error) if error.kind() == ErrorKind::Denied => Ok(false),
        annotation => Ok(annotation?.is_some()),
    }
}

async fn set(archive: &Archive, id: &str, keep: Keep, everywhere: bool) -> Result<Answer<Option<Keep>>> {
    let server = archive.prefix.server();
    let Some(record) = read_record(archive, id).await? else {
        prove_bucket(archive).await?;
        return Err(Error::new(ErrorKind::NotFound, format!("Backup {id} for server {server} does not exist")));
    };
    if record.status() != BackupStatus::Done {
        let status = record.status();
        return Ok(Answer::refused(format!(
            "Cannot add keep to backup {id} because it has status {status}. Only backups with status DONE can be kept."
        )));
    }
    let keys = keep_keys(archive, id);
    let (ours, others) = keys.split_first().expect("there is always the first place");
    archive.store.put(ours, keep.word().into(), &Metadata::new()).await?;
    for key in others {
        // What is left there from before would count beside the new word. It is not deleted: there are servers to which both
        // places are the same.
        if everywhere || is_annotated(archive, key).await? {
            archive.store.put(key, keep.word().into(), &Metadata::new()).await?;
        }
    }
    Ok(Answer::Given(Some(keep)))
}

/// Keeps a backup that is there, or keeps it no longer; gives it, and how it is kept then. `word`: an id, a name, `latest` or
/// `oldest`.
///
/// An expiry that is at work may have looked before the annotation was there: where it means to delete this very backup, its end is
/// waited for, and whether the backup is still there is told.
///
/// Errors: `NotFound`; `Conflict` for keeping one that is not complete; `Corrupt`; the store's.
pub async fn keep_existing(archive: &Archive, word: &str, action: KeepAction) -> Result<(Backup, Option<Keep>)> {
    let backup = find(archive, word).await?;
    let id = backup.id.to_string();
    if matches!(action, KeepAction::Set(_)) && backup.status != BackupStatus::Done {
        let message = format!("could not keep backup \"{id}\": it is {}, not DONE", backup.status);
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    let request = KeepRequest { backup: id.clone(), action, url_ends_in_slash: false };
    let now = match keep(archive, &request).await? {
        Answer::Given(now) => now,
        Answer::Refused(refusal) => return Err(Error::new(ErrorKind::Conflict, refusal.text)),
    };
    if now.is_some() {
        let locks = expiry_lock::read_locks(archive).await?;
        let means_it = |seen: &SeenLock| seen.lock.as_ref().is_none_or(|lock| lock.backups.contains(&id));
        let locks: Vec<SeenLock> =
            locks.into_iter().filter(|seen| means_it(seen) && !seen.is_dead(Utc::now())).collect();
        expiry_lock::wait_for(archive, &locks).await?;
        if !locks.is_empty() && catalog::read(archive, &backup.id).await?.is_none() {
            let message = format!("could not keep backup \"{id}\": an expire that was at work has deleted it");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
    }
    Ok((backup, now))
}

async fn find(archive: &Archive, word: &str) -> Result<Backup> {
    if let Ok(id) = word.parse::<BackupId>()
        && let Some(backup) = catalog::read(archive, &id).await?
    {
        return Ok(backup);
    }
    catalog::load(archive).await?.find(word).cloned()
}

async fn id_of(archive: &Archive, word: &str) -> Result<String> {
    if word.parse::<BackupId>().is_ok() {
        return Ok(word.to_owned());
    }
    Records::load(archive).await?.resolve(word, archive.prefix.server())
}
