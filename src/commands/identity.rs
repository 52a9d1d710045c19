//! Whose archive this is: one cluster's, recorded by its first file, asked of the store for every later one.

use std::collections::BTreeMap;
use std::io::Read;

use chrono::{DateTime, Utc};

use crate::codec::compression;
use crate::commands::archive::Archive;
use crate::commands::catalog;
use crate::domain::backup::BackupId;
use crate::domain::cluster::SystemIdentifier;
use crate::domain::compression::Compression;
use crate::domain::segment::{SegmentName, WalFileName};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::content_facts::ContentFacts;
use crate::layout::identity::{Identity, MAX_BYTES};
use crate::store::{Listed, Metadata, Note, Place, Put};
use crate::wal::page_header::SegmentHeader;

/// Backups, newest first, that are asked whose they are until one can tell.
const BACKUPS_ASKED: usize = 5;

/// WAL segments, newest first, that are asked the same.
const SEGMENTS_ASKED: usize = 5;

/// Timelines, highest first, whose newest segments are compared. A cluster that has seen more promotions has WAL there.
const TIMELINES_ASKED: usize = 16;

/// So much of a compressed segment yields its first bytes: no codec has larger blocks.
const BEGINNING_BYTES: u64 = 5 << 20;

impl Archive {
    /// Asks the store which cluster this prefix belongs to; none when nobody has recorded it yet. One GET.
    ///
    /// Errors: the store's; `Denied` says which right is missing; `Corrupt` or `Mismatch` for a record that cannot be read.
    pub(crate) async fn read_identity(&self) -> Result<Option<Identity>> {
        let key = self.prefix.identity();
        match self.store.get(&key, MAX_BYTES).await {
            Ok(fetched) => Identity::from_json(&fetched.content)
                .map(Some)
                .map_err(|error| error.context(format!("could not use object \"{key}\""))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::Denied => Err(error.with_hint(
                "Whoever archives must be allowed to read and write below barback/ of the server's prefix, and to list.",
            )),
            Err(error) => Err(error),
        }
    }

    /// Lets cluster `ours` write here, or refuses it; `recorded` is the store's answer of a moment ago.
    ///
    /// An empty prefix becomes `ours`, and so does one whose newest backup and newest segment are, which costs some
    /// requests once. A file that names no cluster (`ours` is none) is let in, and records nothing.
    ///
    /// Errors: `Mismatch` with both identifiers for another cluster's prefix; `Unreachable` for a directory that this host
    /// has seen with an identity and that has none now; the store's.
    pub(crate) async fn admit(
        &self,
        ours: Option<SystemIdentifier>,
        recorded: Option<Identity>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let note = self.store.note("identity", &self.prefix.root());
        let remembered = note.as_ref().and_then(Note::read);
        let recorded = match recorded {
            // Somebody may have recorded it, and noted that, since the store was asked.
            None if remembered.is_some() => self.read_identity().await?,
            recorded => recorded,
        };
        let owner = match (recorded, ours) {
            (Some(recorded), _) => {
                self.compare_cluster(recorded.system_identifier, ours, &self.prefix.identity())?;
                recorded.system_identifier
            }
            (None, None) => return self.expect_no_identity(note.as_ref(), remembered.as_deref()),
            (None, Some(ours)) => {
                self.expect_no_identity(note.as_ref(), remembered.as_deref())?;
                self.adopt(ours, now).await?;
                ours
            }
        };
        if let Some(note) = note {
            note.write(&owner.to_string());
        }
        Ok(())
    }

    /// Asks and admits: for whoever has nothing else to do meanwhile.
    pub(crate) async fn claim_for(&self, ours: SystemIdentifier, now: DateTime<Utc>) -> Result<()> {
        let recorded = self.read_identity().await?;
        self.admit(Some(ours), recorded, now).await
    }

    /// What this host remembers may only speak against the store: in a directory without the identity that was seen there
    /// before, the archive is not mounted, and "archived" would be said of a file on the disk below.
    fn expect_no_identity(&self, note: Option<&Note>, remembered: Option<&str>) -> Result<()> {
        let Some((note, theirs)) = note.zip(remembered) else { return Ok(()) };
        let place = self.store.place();
        if !matches!(place, Place::Directory(_)) {
            tracing::warn!(
                "the archive of server \"{}\" in {place} belonged to cluster {theirs}, and has no identity any more; \
                 it gets one again",
                self.prefix.server()
            );
            return Ok(());
        }
        let message = format!(
            "could not find the archive of server \"{}\" in {place}: it belonged to cluster {theirs}, and is not there \
             now: is it mounted?",
            self.prefix.server()
        );
        let path = note.path().display();
        Err(Error::new(ErrorKind::Unreachable, message)
            .with_hint(format!("Mount it; if it was emptied on purpose, remove \"{path}\", which remembers it.")))
    }

    /// Records `ours` as the owner, unless what lies here is another's.
    async fn adopt(&self, ours: SystemIdentifier, now: DateTime<Utc>) -> Result<()> {
        if let Some((theirs, key)) = self.cluster_of_newest_backup().await? {
            self.compare_cluster(theirs, Some(ours), &key)?;
        }
        if let Some((theirs, key)) = self.cluster_of_newest_segment().await? {
            self.compare_cluster(theirs, Some(ours), &key)?;
        }
        let key = self.prefix.identity();
        let json = Identity { system_identifier: ours, recorded: now }.to_json();
        match self.store.put_new(&key, json.into(), &Metadata::new(), &self.prefix.dialect_probe()).await? {
            Put::Created => Ok(()),
            Put::AlreadyThere => match self.read_identity().await? {
                Some(recorded) => self.compare_cluster(recorded.system_identifier, Some(ours), &key),
                // It was there a moment ago: somebody else is at work on this very object.
                None => Err(Error::new(ErrorKind::Unreachable, format!("object \"{key}\" vanished while it was read"))),
            },
        }
    }

    fn compare_cluster(&self, theirs: SystemIdentifier, ours: Option<SystemIdentifier>, key: &str) -> Result<()> {
        let Some(ours) = ours.filter(|ours| *ours != theirs) else { return Ok(()) };
        let root = self.prefix.root();
        let message = format!(
            "the archive of server \"{}\" in {} belongs to the cluster with system identifier {theirs} (so says \
             \"{key}\"), and this is the cluster with system identifier {ours}",
            self.prefix.server(),
            self.store.place()
        );
        Err(Error::new(ErrorKind::Mismatch, message).with_hint(format!(
            "Archive this cluster under another server name; or, if cluster {theirs} and all its backups are given up for \
             good, move or remove everything below \"{root}\" first. Nothing was written."
        )))
    }

    /// The cluster of the newest backup whose record can be read, finished or not, and the record's key.
    async fn cluster_of_newest_backup(&self) -> Result<Option<(SystemIdentifier, String)>> {
        let directories = self.store.list_directories(&self.prefix.base()).await?;
        let mut ids: Vec<BackupId> =
            directories.iter().filter_map(|directory| self.prefix.backup_from_dir_key(directory)).collect();
        ids.sort_unstable();
        for id in ids.iter().rev().take(BACKUPS_ASKED) {
            match catalog::read(self, id).await {
                Ok(backup) => {
                    if let Some(theirs) = backup.and_then(|backup| backup.system_identifier) {
                        return Ok(Some((theirs, self.prefix.backup_info(id))));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => tracing::warn!("{error}; older backups are asked"),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The cluster of the newest segment that can be read, and its key.
    async fn cluster_of_newest_segment(&self) -> Result<Option<(SystemIdentifier, String)>> {
        for (_, object, codec) in self.newest_segments().await? {
            match self.cluster_of_segment(&object.key, codec).await {
                Ok(theirs) => return Ok(Some((theirs, object.key))),
                Err(error) if error.kind() == ErrorKind::Corrupt => tracing::warn!("{error}; older WAL is asked"),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Some of the newest segments, newest first. A new cluster's first timeline comes after an old one's fifth, so that
    /// the last segments of each timeline are compared by when they were written.
    async fn newest_segments(&self) -> Result<Vec<(SegmentName, Listed, Compression)>> {
        let mut last_directories = BTreeMap::new();
        let mut directories = self.store.list_directories(&self.prefix.wals()).await?;
        directories.sort_unstable();
        for directory in directories {
            if let Some(timeline) = self.prefix.timeline_of_wal_directory(&directory) {
                last_directories.insert(timeline, directory);
            }
        }
        let mut found = Vec::new();
        for directory in last_directories.into_values().rev().take(TIMELINES_ASKED) {
            let mut here = Vec::new();
            let take = |object: Listed| {
                let name = self.prefix.wal_from_key(&object.key);
                if let (Some((WalFileName::Segment(name), codec)), 1..) = (name, object.bytes) {
                    here.push((name, object, codec));
                }
            };
            self.store.list(&directory, None, take).await?;
            here.sort_unstable_by_key(|(name, ..)| std::cmp::Reverse(*name));
            here.truncate(SEGMENTS_ASKED);
            found.extend(here);
        }
        found.sort_by_key(|(name, object, _)| std::cmp::Reverse((object.modified, *name)));
        found.truncate(SEGMENTS_ASKED);
        Ok(found)
    }

    /// Whose segment lies at `key`: what its metadata says, or else its first page.
    pub(crate) async fn cluster_of_segment(&self, key: &str, codec: Compression) -> Result<SystemIdentifier> {
        let metadata = self.store.head(key).await?.map(|(_, metadata)| metadata).unwrap_or_default();
        let said = ContentFacts::from_metadata(&metadata).and_then(|facts| facts.system_identifier);
        if let Some(theirs) = said {
            return Ok(theirs);
        }
        let unreadable = || format!("could not read the first page of WAL object \"{key}\"");
        let beginning = self.store.get_range(key, 0..BEGINNING_BYTES).await?;
        let mut page = Vec::new();
        // Whatever is wrong behind the first page is no concern of this question.
        let outcome = compression::decoder(codec, &beginning[..])?.take(8192).read_to_end(&mut page);
        SegmentHeader::parse(&page).map(|header| header.system_identifier).map_err(|error| match outcome {
            Ok(_) => error.context(unreadable()),
            Err(cause) => Error::corrupt(format!("{}: {cause}", unreadable())),
        })
    }
}
