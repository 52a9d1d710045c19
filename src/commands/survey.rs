//! What a server's prefix holds, seen in one pass over its names: backups with their objects, WAL, and whatever else lies there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;

use crate::codec::compression;
use crate::commands::archive::Archive;
use crate::commands::catalog::{BACKUP_INFO_LIMIT_BYTES, read_histories};
use crate::domain::backup::Backup;
use crate::domain::barman_retention::Keep;
use crate::domain::compression::Compression;
use crate::domain::segment::WalFileName;
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::window::WalInventory;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::backup_info;
use crate::layout::catalog_cache::{self, CatalogCache, Edition};
use crate::layout::keys::BACKUP_INFO_NAME;
use crate::store::{Listed, Metadata, Place};

/// Small objects read at the same time.
const READS_IN_FLIGHT: usize = 16;

/// Listings of WAL that run side by side: a page takes the store longer than its way.
const LISTINGS_IN_FLIGHT: usize = 4;

/// Fewer directories of WAL than this are listed in one go.
const FEWEST_DIRECTORIES_TO_SPLIT: usize = 32;

/// Digits in the name of a directory of segments: timeline and log.
const HASH_DIRECTORY_LENGTH: usize = 16;

/// A cache is written anew when it would have spared at least this many requests.
const READS_WORTH_CACHING: usize = 16;

/// So many keys of objects that nobody understands are named.
const STRANGERS_NAMED: usize = 20;

/// So many keys of empty WAL objects are named.
const EMPTY_WAL_NAMED: usize = 1000;

/// The annotation's place in a backup's directory.
const KEEP_NAME: &str = "annotations/keep";

/// What a server's prefix holds.
#[derive(Debug)]
pub struct Survey {
    /// Every backup whose `backup.info` can be read, by id.
    pub backups: Vec<Surveyed>,
    /// The directories of those whose `backup.info` cannot be read, with the reason. Whoever judges a catalogue must tell of
    /// them: it is never shorter than the truth.
    pub unreadable: Vec<(String, Error)>,
    /// The complete segments; an object of no bytes is none.
    pub wal: WalInventory,
    /// The content of every `.history` file.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// The timelines whose `.history` file is there and cannot be read, with the reason.
    pub unreadable_histories: Vec<(TimelineId, Error)>,
    /// What all WAL objects come to in the store.
    pub wal_bytes: u64,
    /// How many WAL objects there are, histories and `.partial` segments among them.
    pub wal_objects: u64,
    /// Directories below `base/` without a `backup.info`.
    pub leftovers: Vec<Leftover>,
    /// Objects below `barback/`, by key.
    pub ours: Vec<Listed>,
    /// The first keys of objects that nobody understands; they are never touched.
    pub strangers: Vec<String>,
    /// How many such objects there are.
    pub stranger_count: u64,
    /// The first keys of WAL objects of no bytes.
    pub empty_wal: Vec<String>,
    /// Why these credentials may not look for keep annotations that Barman 3.19.1 writes for a URL that ends in `/`: nothing may
    /// be deleted by this survey then.
    pub hidden_keeps: Option<String>,
    /// What the objects of unreadable backups come to.
    unreadable_bytes: u64,
    /// The texts that were read, for the next survey.
    cache: CatalogCache,
    /// How many texts the last cache did not have.
    read: usize,
}

/// A backup and its objects.
#[derive(Debug, Clone, PartialEq)]
pub struct Surveyed {
    /// What its `backup.info` says.
    pub backup: Backup,
    /// Its keep annotation.
    pub keep: Option<Keep>,
    /// All objects of its directory, by key.
    pub objects: Vec<Listed>,
}

/// What is left in the directory of a backup that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The directory's name.
    pub id: String,
    /// Its objects, by key.
    pub objects: Vec<Listed>,
}

impl Surveyed {
    /// What the backup's objects come to in the store.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).sum()
    }
}

impl Survey {
    /// What everything below the server's prefix comes to in the store.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let objects = self.leftovers.iter().flat_map(|leftover| &leftover.objects).chain(&self.ours);
        let backups: u64 = self.backups.iter().map(Surveyed::stored_bytes).sum();
        self.wal_bytes + self.unreadable_bytes + backups + objects.map(|object| object.bytes).sum::<u64>()
    }

    /// The backups, for rules that need nothing else of them.
    #[must_use]
    pub fn catalog(&self) -> Vec<Backup> {
        self.backups.iter().map(|surveyed| surveyed.backup.clone()).collect()
    }

    /// How many small objects had to be read because the cache did not have them as the listing shows them.
    #[must_use]
    pub fn texts_read(&self) -> usize {
        self.read
    }

    /// Spares the next survey the requests for what this one has read, when there were many.
    ///
    /// Not to be allowed to write, or not to be able to, costs nothing but those requests, and is no error.
    pub async fn remember(&self, archive: &Archive) {
        if self.read < READS_WORTH_CACHING {
            return;
        }
        let sealed = self.cache.to_json().and_then(|json| compression::compress(Compression::Zstd, None, &json));
        let put = async |content| archive.store.put(&archive.prefix.catalog_cache(), content, &Metadata::new()).await;
        match sealed {
            Ok(content) => match put(content).await {
                Ok(()) => tracing::debug!("{} texts of the catalogue are cached in the store", self.cache.len()),
                Err(error) => tracing::info!("the catalogue is not cached in the store: {error}"),
            },
            Err(error) => tracing::info!("{error}"),
        }
    }
}

/// Looks at everything below the server's prefix.
///
/// Requests: one listing, a page for each thousand objects, several pages at a time; one for each timeline history; one
/// for each `backup.info` and keep annotation that is not in the cache as the listing shows it. Memory: some 200 bytes for
/// each object of a backup, and what backups' texts come to; WAL costs none but for gaps.
///
/// Errors: the store's; never a shorter answer than the truth. `Unreachable` for a directory with nothing in it, which is how
/// the mount point of an archive looks that is not mounted.
pub async fn survey(archive: &Archive) -> Result<Survey> {
    survey_with(archive, &mut |_, _, _| {}).await
}

/// The same; `each_wal` sees every WAL object as it passes, in any order.
pub async fn survey_with(
    archive: &Archive,
    each_wal: &mut (dyn FnMut(&Listed, &WalFileName, Compression) + '_),
) -> Result<Survey> {
    let prefix = &archive.prefix;
    let found = RefCell::new(Found::default());
    let each_wal = RefCell::new(each_wal);
    let base =
        async { archive.store.list(&prefix.base(), None, |object| found.borrow_mut().add_base(archive, object)).await };
    let ours = async { archive.store.list(&prefix.ours(), None, |object| found.borrow_mut().ours.push(object)).await };
    let take_wal = |object: Listed| {
        let wal = found.borrow_mut().add_wal(archive, &object);
        if let Some((name, codec)) = wal {
            (each_wal.borrow_mut())(&object, &name, codec);
        }
    };
    let wals = list_wals(archive, &take_wal);
    let elsewhere = async {
        match slashed_keeps(archive).await {
            Ok(keeps) => Ok((keeps, None)),
            Err(error) if error.kind() == ErrorKind::Denied => {
                tracing::info!("annotations that keep backups may be hidden from these credentials: {error}");
                Ok((BTreeMap::new(), Some(error.to_string())))
            }
            Err(error) => Err(error),
        }
    };
    let ((slashed, hidden_keeps), others, cache, ..) =
        futures::try_join!(elsewhere, others(archive), load_cache(archive), base, ours, wals)?;
    let mut found = found.into_inner();
    if found.is_empty() && matches!(archive.store.place(), Place::Directory(_)) {
        // Says that an empty directory proves nothing, where the store is one.
        archive.store.list_names("", "").await?;
    }
    found.strangers.extend(others);
    let (histories, unreadable_histories) = read_histories(archive, std::mem::take(&mut found.histories)).await?;
    let mut survey = Survey {
        backups: Vec::new(),
        unreadable: Vec::new(),
        wal: found.wal,
        histories,
        unreadable_histories,
        wal_bytes: found.wal_bytes,
        wal_objects: found.wal_objects,
        leftovers: Vec::new(),
        ours: found.ours,
        stranger_count: found.strangers.count,
        strangers: found.strangers.named,
        empty_wal: found.empty_wal,
        hidden_keeps,
        unreadable_bytes: 0,
        cache: CatalogCache::default(),
        read: 0,
    };
    survey.ours.sort_by(|a, b| a.key.cmp(&b.key));
    survey.read_backups(archive, found.directories, &slashed, &cache).await?;
    Ok(survey)
}

impl Survey {
    async fn read_backups(
        &mut self,
        archive: &Archive,
        directories: BTreeMap<String, Vec<Listed>>,
        slashed: &BTreeMap<String, Listed>,
        cache: &CatalogCache,
    ) -> Result<()> {
        let reads = directories.into_iter().map(async |(id, mut objects)| {
            objects.sort_by(|a, b| a.key.cmp(&b.key));
            let directory = format!("{}{id}/", archive.prefix.base());
            let object = |name: &str| {
                let key = format!("{directory}{name}");
                objects.binary_search_by(|object| object.key.cmp(&key)).ok().map(|at| &objects[at])
            };
            let (info, keep) = (object(BACKUP_INFO_NAME), object(KEEP_NAME));
            let slashed_name = format!("/{id}/{KEEP_NAME}");
            let texts = futures::join!(
                read_text(archive, cache, format!("{id}/{BACKUP_INFO_NAME}"), info),
                read_text(archive, cache, format!("{id}/{KEEP_NAME}"), keep),
                read_text(archive, cache, slashed_name, slashed.get(&id)),
            );
            (id, objects, texts)
        });
        let mut reads = futures::stream::iter(reads).buffered(READS_IN_FLIGHT);
        while let Some((id, objects, (info, keep, slashed))) = reads.next().await {
            let keeps = [keep, slashed].map(|text| self.take_keep(text));
            let [keep, slashed] = keeps;
            let keep = keep?.max(slashed?);
            match self.take_info(&id, info) {
                Ok(Some(backup)) => self.backups.push(Surveyed { backup, keep, objects }),
                Ok(None) => self.leftovers.push(Leftover { id, objects }),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.unreadable_bytes += objects.iter().map(|object| object.bytes).sum::<u64>();
                    self.unreadable.push((id, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_info(&mut self, id: &str, info: Result<Option<Text>>) -> Result<Option<Backup>> {
        let Some(text) = info? else { return Ok(None) };
        let no_id = |_| Error::corrupt(format!("could not read backup.info of backup \"{id}\": that is no backup id"));
        let backup = backup_info::parse(&id.parse().map_err(no_id)?, &text.content)?;
        self.keep_text(text);
        Ok(Some(backup))
    }

    /// Of an annotation that cannot be read it is only known that somebody wanted the backup kept.
    fn take_keep(&mut self, keep: Result<Option<Text>>) -> Result<Option<Keep>> {
        match keep {
            Ok(None) => Ok(None),
            Ok(Some(text)) => {
                let keep = Keep::of_annotation(&text.content);
                self.keep_text(text);
                Ok(Some(keep))
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(Keep::Full)),
            Err(error) => Err(error),
        }
    }

    fn keep_text(&mut self, text: Text) {
        self.read += usize::from(!text.is_cached);
        if let Some(edition) = text.edition {
            self.cache.insert(text.name, edition, text.content);
        }
    }
}

/// A small object's text.
struct Text {
    name: String,
    content: String,
    /// None where the store does not say which content it is.
    edition: Option<Edition>,
    is_cached: bool,
}

/// The text of the object that a listing showed, or that vanished since; from the cache where it is the same.
async fn read_text(
    archive: &Archive,
    cache: &CatalogCache,
    name: String,
    listed: Option<&Listed>,
) -> Result<Option<Text>> {
    let Some(listed) = listed else { return Ok(None) };
    let edition = listed.e_tag.clone().map(|e_tag| Edition { e_tag, bytes: listed.bytes, modified: listed.modified });
    if let Some(text) = edition.as_ref().and_then(|edition| cache.text(&name, edition)) {
        let content = text.to_owned();
        return Ok(Some(Text { name, content, edition, is_cached: true }));
    }
    let content = match archive.store.get(&listed.key, BACKUP_INFO_LIMIT_BYTES).await {
        Ok(fetched) => fetched.content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let not_text = |_| Error::corrupt(format!("object \"{}\" is not UTF-8 text", listed.key));
    let content = String::from_utf8(content.to_vec()).map_err(not_text)?;
    // What was written since the listing is not of its edition: the next survey will read it again.
    let edition = edition.filter(|edition| edition.bytes == content.len() as u64);
    Ok(Some(Text { name, content, edition, is_cached: false }))
}

/// The cache of the last survey; an empty one where there is none, or none that can be read.
async fn load_cache(archive: &Archive) -> Result<CatalogCache> {
    let key = archive.prefix.catalog_cache();
    let fetched = match archive.store.get(&key, catalog_cache::LIMIT_BYTES).await {
        Ok(fetched) => fetched,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(CatalogCache::default()),
        Err(error) => {
            tracing::info!("the catalogue is read without its cache: {error}");
            return Ok(CatalogCache::default());
        }
    };
    let read = compression::decompress(Compression::Zstd, &fetched.content, catalog_cache::LIMIT_BYTES)
        .and_then(|json| CatalogCache::from_json(&json));
    Ok(read.unwrap_or_else(|error| {
        tracing::info!("the catalogue is read without its cache: {error}");
        CatalogCache::default()
    }))
}

/// Keep annotations in the place where Barman 3.19.1 puts them for a URL that ends in `/`, by backup.
async fn slashed_keeps(archive: &Archive) -> Result<BTreeMap<String, Listed>> {
    let mut keeps = BTreeMap::new();
    // For a directory both places are the same.
    let Some(base) =
        archive.prefix.base_of_slashed_url().filter(|_| !matches!(archive.store.place(), Place::Directory(_)))
    else {
        return Ok(keeps);
    };
    let take = |object: Listed| {
        let id = object.key.strip_prefix(&base).and_then(|below| below.split_once('/'));
        if let Some((id, KEEP_NAME)) = id {
            keeps.insert(id.to_owned(), object);
        }
    };
    archive.store.list(base.trim_end_matches('/'), None, take).await?;
    Ok(keeps)
}

/// Objects and directories directly below the server's prefix that are none of the three it is made of.
async fn others(archive: &Archive) -> Result<Vec<String>> {
    let prefix = &archive.prefix;
    let known = [prefix.base(), prefix.wals(), prefix.ours()];
    let directories = archive.store.list_directories(&prefix.root()).await?;
    Ok(directories.into_iter().filter(|directory| !known.contains(directory)).collect())
}

/// Lists all WAL; several listings side by side where the store can list by the beginning of a name.
///
/// Each is of the directories of sixteen logs, 64 GiB of WAL. To begin a listing in the middle instead would make `MinIO` walk
/// all names before: four such listings took it half as long again as one.
async fn list_wals(archive: &Archive, each: &dyn Fn(Listed)) -> Result<()> {
    let (store, wals) = (&archive.store, archive.prefix.wals());
    if matches!(store.place(), Place::Directory(_) | Place::Azure { .. }) {
        return store.list(&wals, None, each).await;
    }
    let (directories, objects) = store.list_level(&wals).await?;
    if directories.len() < FEWEST_DIRECTORIES_TO_SPLIT {
        return store.list(&wals, None, each).await;
    }
    objects.into_iter().for_each(each);
    let below = |key: &str| key.strip_prefix(wals.as_str()).map(str::to_owned);
    let beginnings: BTreeSet<String> =
        directories.iter().filter_map(|directory| below(directory)).map(beginning_of).collect();
    let listings = beginnings.iter().map(async |beginning| {
        let mut found = store.list_names(&wals, beginning).await?;
        // A key is looked for under one beginning alone, however it goes on.
        found.retain(|object| {
            let directory = below(&object.key).and_then(|key| key.split_once('/').map(|(name, _)| format!("{name}/")));
            directory.is_some_and(|directory| beginning_of(directory) == *beginning)
        });
        Ok::<_, Error>(found)
    });
    let mut listings = futures::stream::iter(listings).buffer_unordered(LISTINGS_IN_FLIGHT);
    while let Some(found) = listings.next().await {
        found?.into_iter().for_each(each);
    }
    Ok(())
}

/// What the listing is asked for in which the directory `name` (ending in `/`) is found: a log's but for its last digit, and any
/// other's whole name.
fn beginning_of(mut name: String) -> String {
    if name.len() == HASH_DIRECTORY_LENGTH + 1
        && name.bytes().take(HASH_DIRECTORY_LENGTH).all(|b| b.is_ascii_hexdigit())
    {
        name.truncate(HASH_DIRECTORY_LENGTH - 1);
    }
    name
}

/// Keys that nobody understands.
#[derive(Debug, Default)]
struct Strangers {
    named: Vec<String>,
    count: u64,
}

impl Strangers {
    fn extend(&mut self, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            self.count += 1;
            if self.named.len() < STRANGERS_NAMED {
                self.named.push(key);
            }
        }
    }
}

/// What the listings have shown so far.
#[derive(Debug, Default)]
struct Found {
    directories: BTreeMap<String, Vec<Listed>>,
    ours: Vec<Listed>,
    wal: WalInventory,
    histories: BTreeMap<TimelineId, (String, Compression)>,
    wal_bytes: u64,
    wal_objects: u64,
    empty_wal: Vec<String>,
    strangers: Strangers,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.ours.is_empty() && self.wal_objects == 0 && self.strangers.count == 0
    }

    fn add_base(&mut self, archive: &Archive, object: Listed) {
        let base = archive.prefix.base();
        match object.key.strip_prefix(&base).and_then(|below| below.split_once('/')) {
            Some((id, file)) if !file.is_empty() => self.directories.entry(id.to_owned()).or_default().push(object),
            _ => self.strangers.extend([object.key]),
        }
    }

    fn add_wal(&mut self, archive: &Archive, object: &Listed) -> Option<(WalFileName, Compression)> {
        let Some((name, codec)) = archive.prefix.wal_from_key(&object.key) else {
            self.strangers.extend([object.key.clone()]);
            return None;
        };
        self.wal_objects += 1;
        self.wal_bytes += object.bytes;
        if object.bytes == 0 {
            if self.empty_wal.len() < EMPTY_WAL_NAMED {
                self.empty_wal.push(object.key.clone());
            }
        } else if let WalFileName::TimelineHistory(timeline) = name {
            self.histories.insert(timeline, (object.key.clone(), codec));
        } else {
            self.wal.add(&name, object.modified);
        }
        Some((name, codec))
    }
}
