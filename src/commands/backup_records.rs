//! The catalogue as Barman sees it: raw records with their keep annotations, and the words people call backups by.

use futures::StreamExt;

use crate::commands::answer::Answer;
use crate::commands::archive::Archive;
use crate::commands::catalog::BACKUP_INFO_LIMIT_BYTES;
use crate::domain::backup::{BackupId, BackupStatus};
use crate::domain::barman_retention::{Keep, RetainedBackup};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::backup_record::BackupRecord;
use crate::store::Place;

/// Backups whose objects are read at the same time; up to three requests each.
const BACKUPS_IN_FLIGHT: usize = 8;

/// An annotation is one word; of more than this the first line is no word.
const ANNOTATION_LIMIT_BYTES: u64 = 4096;

/// One entry of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogRecord {
    /// What its `backup.info` says.
    pub record: BackupRecord,
    /// Its keep annotation, where they were asked for.
    pub keep: Option<Keep>,
}

/// Which keep annotations are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    None,
    /// Those in the second place too, where these credentials may read there.
    Visible,
    All,
}

/// Every entry of the catalogue, by id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Records {
    /// The entries that can be read.
    pub backups: Vec<CatalogRecord>,
    /// The ids of the others. They have been warned of.
    pub unreadable: Vec<String>,
}

impl Records {
    /// Loads the catalogue: one listing, and for each backup one small request, eight at a time.
    ///
    /// As in Barman 3.19.1 every directory counts, a directory without `backup.info` is passed over, and damage is warned
    /// of. Errors: the store's; what could not be read is never left out.
    pub async fn load(archive: &Archive) -> Result<Self> {
        Self::load_each(archive, Keeps::None).await
    }

    /// The same with keep annotations, which cost one or two small requests more for each backup.
    pub async fn load_with_keeps(archive: &Archive) -> Result<Self> {
        Self::load_each(archive, Keeps::All).await
    }

    /// The same with those that these credentials may see, for people to look at: nothing may be deleted by it.
    pub async fn load_with_visible_keeps(archive: &Archive) -> Result<Self> {
        Self::load_each(archive, Keeps::Visible).await
    }

    async fn load_each(archive: &Archive, keeps: Keeps) -> Result<Self> {
        let base = archive.prefix.base();
        let directories = archive.store.list_directories(&base).await?;
        let id_of = |directory: &String| Some(directory.strip_prefix(&base)?.trim_end_matches('/').to_owned());
        let mut ids: Vec<String> = directories.iter().filter_map(id_of).collect();
        ids.sort();
        let reads = ids.into_iter().map(async |id| {
            let keep = async {
                match keeps {
                    Keeps::None => Ok(None),
                    Keeps::Visible | Keeps::All => read_keeps(archive, &id, keeps).await,
                }
            };
            let (record, keep) = futures::join!(read_record(archive, &id), keep);
            (record, keep, id)
        });
        let mut reads = futures::stream::iter(reads).buffered(BACKUPS_IN_FLIGHT);
        let mut records = Self::default();
        while let Some((record, keep, id)) = reads.next().await {
            match record {
                Ok(Some(record)) => records.backups.push(CatalogRecord { record, keep: keep? }),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!("Unable to open backup.info file for {id}: {error}");
                    records.unreadable.push(id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// The id of the backup called `word`: an id, there or not; `first` or `oldest`, `last` or `latest` of those that are
    /// not `STARTED`; `last-failed`; else a name.
    ///
    /// A failed backup can be the last, as in Barman 3.19.1. Errors, in Barman's words: `NotFound`, and `Usage` for a name
    /// that several backups bear.
    pub fn resolve(&self, word: &str, server: &str) -> Result<String> {
        if is_id(word) {
            return Ok(word.to_owned());
        }
        let mut ended = self.records().filter(|record| record.status() != BackupStatus::Started);
        let found = match word {
            "first" | "oldest" => ended.next(),
            "last" | "latest" => ended.next_back(),
            "last-failed" => ended.rfind(|record| record.status() == BackupStatus::Failed),
            _ => {
                let named: Vec<_> = self.records().filter(|record| record.text("backup_name") == Some(word)).collect();
                if named.len() > 1 {
                    let ids = named.iter().map(|record| record.id()).collect::<Vec<_>>().join(" ");
                    return Err(Error::usage(format!(
                        "Multiple backups found matching name '{word}' (try using backup ID instead): {ids}"
                    )));
                }
                named.first().copied()
            }
        };
        found.map(|record| record.id().to_owned()).ok_or_else(|| unknown(word, server))
    }

    /// What the retention rules must know of each.
    pub(crate) fn retained(&self) -> Vec<RetainedBackup> {
        self.backups.iter().map(|backup| backup.record.retained(backup.keep)).collect()
    }

    fn records(&self) -> impl DoubleEndedIterator<Item = &BackupRecord> {
        self.backups.iter().map(|backup| &backup.record)
    }
}

/// The record of the backup called `word`, see [`Records::resolve`]. One request for an id, the whole catalogue for other
/// words. Refused, in Barman's words, for an id that is not there.
pub async fn find_record(archive: &Archive, word: &str) -> Result<Answer<BackupRecord>> {
    let server = archive.prefix.server();
    if is_id(word) {
        if let Some(record) = read_record(archive, word).await? {
            return Ok(Answer::Given(record));
        }
        prove_bucket(archive).await?;
        return Ok(Answer::refused(format!("Backup {word} for server {server} does not exist")));
    }
    let records = Records::load(archive).await?;
    let id = records.resolve(word, server)?;
    let found = records.backups.into_iter().find(|backup| backup.record.id() == id);
    found.map(|backup| Answer::Given(backup.record)).ok_or_else(|| unknown(word, server))
}

/// The keep annotation of a backup: also where Barman 3.19.1 puts it for a URL that ends in `/`. Of two that differ the one
/// that keeps more counts.
pub async fn read_keep(archive: &Archive, id: &str) -> Result<Option<Keep>> {
    read_keeps(archive, id, Keeps::All).await
}

async fn read_keeps(archive: &Archive, id: &str, keeps: Keeps) -> Result<Option<Keep>> {
    let keys = keep_keys(archive, id);
    let answers = futures::future::join_all(keys.iter().map(|key| read_annotation(archive, key))).await;
    // Rights for what lies below the server's prefix do not reach into the second place.
    let is_hidden = |at: usize, answer: &Result<_>| {
        let is_denied = matches!(answer, Err(error) if error.kind() == ErrorKind::Denied);
        keeps == Keeps::Visible && at > 0 && is_denied
    };
    let mut visible = answers.into_iter().enumerate().filter(|(at, answer)| !is_hidden(*at, answer));
    visible.try_fold(None, |kept: Option<Keep>, (_, answer)| Ok(kept.max(answer?)))
}

/// Every place where a backup's keep annotation may be, the first of them ours.
pub(crate) fn keep_keys(archive: &Archive, id: &str) -> Vec<String> {
    let mut keys = vec![archive.prefix.keep_annotation(id)];
    // For a directory both are the same.
    if !matches!(archive.store.place(), Place::Directory(_)) {
        keys.extend(archive.prefix.keep_annotation_of_slashed_url(id));
    }
    keys
}

/// The annotation in one place.
pub(crate) async fn read_annotation(archive: &Archive, key: &str) -> Result<Option<Keep>> {
    match archive.store.get(key, ANNOTATION_LIMIT_BYTES).await {
        Ok(fetched) => Ok(Some(Keep::of_annotation(&String::from_utf8_lossy(&fetched.content)))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(Keep::Full)),
        Err(error) => Err(error),
    }
}

/// None where there is no `backup.info`. Errors: `Corrupt` with the cause alone, or the store's.
pub(crate) async fn read_record(archive: &Archive, id: &str) -> Result<Option<BackupRecord>> {
    let key = format!("{}{id}/backup.info", archive.prefix.base());
    let fetched = match archive.store.get(&key, BACKUP_INFO_LIMIT_BYTES).await {
        Ok(fetched) => fetched,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text =
        std::str::from_utf8(&fetched.content).map_err(|error| Error::corrupt(format!("no UTF-8 text: {error}")))?;
    BackupRecord::parse(id, text).map(Some)
}

/// An object that is not there proves nothing where the bucket is not there: a listing tells.
pub(crate) async fn prove_bucket(archive: &Archive) -> Result<()> {
    archive.store.list_directories(&archive.prefix.root()).await.map(drop)
}

fn is_id(word: &str) -> bool {
    word.parse::<BackupId>().is_ok()
}

fn unknown(word: &str, server: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("Unknown backup '{word}' for server '{server}'"))
}
