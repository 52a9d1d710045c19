//! Reading the catalogue: which backups there are, and which WAL.

use std::collections::BTreeMap;

use futures::StreamExt;

use crate::commands::archive::{Archive, HISTORY_LIMIT_BYTES};
use crate::domain::backup::{Backup, BackupId};
use crate::domain::catalog::Catalog;
use crate::domain::compression::Compression;
use crate::domain::segment::WalFileName;
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::window::WalInventory;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::backup_info;

/// A `backup.info` is a few kilobytes; one of a megabyte is none.
pub(crate) const BACKUP_INFO_LIMIT_BYTES: u64 = 1 << 20;

/// `backup.info` objects read at the same time.
const READS_IN_FLIGHT: usize = 8;

/// The backups there are, and those of which only the id is known.
#[derive(Debug)]
pub struct Loaded {
    /// Every backup whose `backup.info` can be read.
    pub catalog: Catalog,
    /// The others, with the reason. Whoever shows a catalogue must tell of them: it is never shorter than the truth.
    pub unreadable: Vec<(BackupId, Error)>,
}

impl Loaded {
    /// The reason why the backup called `word` cannot be read, if that is so.
    pub(crate) fn take_unreadable(&mut self, word: &str) -> Option<Error> {
        let at = self.unreadable.iter().position(|(id, _)| id.as_str() == word)?;
        Some(self.unreadable.swap_remove(at).1)
    }

    /// An error for the first backup that cannot be read, if there is one.
    pub fn complete(self) -> Result<()> {
        self.unreadable.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The backup called `word`. Errors: why it cannot be read; else as [`Catalog::find`].
    pub fn find(&mut self, word: &str) -> Result<&Backup> {
        match self.take_unreadable(word) {
            Some(error) => Err(error),
            None => self.catalog.find(word),
        }
    }
}

/// Reads every `backup.info`: one listing, and one small request for each backup, eight at a time.
///
/// A directory without a `backup.info` is no backup. Damage to one backup's must not stand in the way of another's
/// restore, so it is reported beside the catalogue. Errors: the store's.
pub async fn load(archive: &Archive) -> Result<Loaded> {
    let directories = archive.store.list_directories(&archive.prefix.base()).await?;
    let ids: Vec<BackupId> =
        directories.iter().filter_map(|directory| archive.prefix.backup_from_dir_key(directory)).collect();
    let reads = ids.into_iter().map(async |id| (read(archive, &id).await, id));
    let mut reads = futures::stream::iter(reads).buffered(READS_IN_FLIGHT);
    let (mut backups, mut unreadable) = (Vec::new(), Vec::new());
    while let Some((outcome, id)) = reads.next().await {
        match outcome {
            Ok(backup) => backups.extend(backup),
            Err(error) if error.kind() == ErrorKind::Corrupt => unreadable.push((id, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(Loaded { catalog: Catalog::new(backups), unreadable })
}

/// Reads one `backup.info`; none when there is no such backup. Errors: `Corrupt` for one that cannot be read.
pub(crate) async fn read(archive: &Archive, id: &BackupId) -> Result<Option<Backup>> {
    let key = archive.prefix.backup_info(id);
    let fetched = match archive.store.get(&key, BACKUP_INFO_LIMIT_BYTES).await {
        Ok(fetched) => fetched,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = std::str::from_utf8(&fetched.content)
        .map_err(|_| Error::corrupt(format!("could not read \"{key}\": it is not UTF-8 text")))?;
    backup_info::parse(id, text).map(Some).map_err(|error| error.context(format!("could not read \"{key}\"")))
}

/// The timeline of the last WAL file by name, which is the newest one that anything was archived on. One listing.
pub(crate) async fn newest_timeline(archive: &Archive) -> Result<Option<TimelineId>> {
    let mut newest = None;
    archive
        .store
        .list(&archive.prefix.wals(), None, |object| {
            let timeline = archive.prefix.wal_from_key(&object.key).map(|(name, _)| match name {
                WalFileName::TimelineHistory(timeline) => timeline,
                WalFileName::Segment(segment)
                | WalFileName::Partial(segment)
                | WalFileName::BackupHistory(segment, _) => segment.timeline,
            });
            newest = newest.max(timeline);
        })
        .await?;
    Ok(newest)
}

/// Which WAL the archive holds, from names alone, and the timeline histories in it.
///
/// One listing; memory grows with the number of gaps, not of segments. Each history costs a request.
pub async fn read_wal(archive: &Archive) -> Result<(WalInventory, BTreeMap<TimelineId, TimelineHistory>)> {
    let mut inventory = WalInventory::default();
    let mut histories: BTreeMap<TimelineId, (String, Compression)> = BTreeMap::new();
    archive
        .store
        .list(&archive.prefix.wals(), None, |object| {
            let Some((name, codec)) = archive.prefix.wal_from_key(&object.key) else { return };
            if let WalFileName::TimelineHistory(timeline) = name {
                histories.insert(timeline, (object.key, codec));
            } else {
                inventory.add(&name, object.modified);
            }
        })
        .await?;
    match read_histories(archive, histories).await? {
        (parsed, unreadable) if unreadable.is_empty() => Ok((inventory, parsed)),
        (_, mut unreadable) => Err(unreadable.swap_remove(0).1),
    }
}

/// Timeline histories, and those that cannot be read, with the reason.
pub(crate) type Histories = (BTreeMap<TimelineId, TimelineHistory>, Vec<(TimelineId, Error)>);

/// Reads the history files with these keys, one request each.
pub(crate) async fn read_histories(
    archive: &Archive,
    files: BTreeMap<TimelineId, (String, Compression)>,
) -> Result<Histories> {
    let (mut parsed, mut unreadable) = (BTreeMap::new(), Vec::new());
    for (timeline, (key, codec)) in files {
        match read_history(archive, timeline, &key, codec).await {
            Ok(history) => drop(parsed.insert(timeline, history)),
            Err(error) if error.kind() == ErrorKind::Corrupt => unreadable.push((timeline, error)),
            Err(error) => return Err(error),
        }
    }
    Ok((parsed, unreadable))
}

async fn read_history(
    archive: &Archive,
    timeline: TimelineId,
    key: &str,
    codec: Compression,
) -> Result<TimelineHistory> {
    let (content, _) = archive.read_sealed(key, codec, HISTORY_LIMIT_BYTES).await?;
    let unreadable = |_| Error::corrupt(format!("could not read \"{key}\": it is not UTF-8 text"));
    let text = String::from_utf8(content).map_err(unreadable)?;
    TimelineHistory::parse(timeline, &text).map_err(|error| error.context(format!("could not read \"{key}\"")))
}
