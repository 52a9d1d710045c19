//! One cluster's archive: a store and the place in it where the cluster's objects lie.

use std::path::Path;

use chrono::{DateTime, Utc};

use crate::codec::digest::Sha256;
use crate::commands::seal::{self, Crew, Sealed};
use crate::commands::unseal::unseal;
use crate::domain::cluster::SystemIdentifier;
use crate::domain::compression::Compression;
use crate::domain::segment::WalFileName;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::content_facts::ContentFacts;
use crate::layout::keys::ServerPrefix;
use crate::store::{Fetched, Place, Put, Store};
use crate::wal::proof;

/// A store and a cluster's name in it.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Where the objects are.
    pub store: Store,
    /// Under which keys.
    pub prefix: ServerPrefix,
}

/// How WAL is compressed on its way into the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalCompression {
    /// The format, which is also the key's suffix.
    pub codec: Compression,
    /// The format's own level; its default when none.
    pub level: Option<i32>,
}

/// What archiving does about an object with other content under the file's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfOther {
    /// It stays, and archiving fails: two clusters may share the archive.
    Refuse,
    /// It is overwritten without a look at it, as by `barman-cloud-wal-archive` 3.19.1. What was there is lost.
    Replace,
}

/// Whether the bytes of a WAL file are held against its name, on their way in or out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCheck {
    /// A segment must be as long as its header says, and be the one its name says; see [`proof::check`].
    Checked,
    /// Any bytes will do, none at all included, as with Barman 3.19.1. Digests in an object's metadata still count.
    Unchecked,
}

/// How a WAL file is put into the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Storing {
    pub(crate) compression: WalCompression,
    pub(crate) if_other: IfOther,
    pub(crate) check: ContentCheck,
    /// When: recorded beside the archive's identity by the first file.
    pub(crate) now: DateTime<Utc>,
}

/// What became of a WAL file that was to be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archived {
    /// It was stored now.
    Stored,
    /// The very same content was in the archive already.
    AlreadyThere,
}

/// No WAL file is longer than the largest segment.
pub(crate) const WAL_LIMIT_BYTES: u64 = 1 << 30;

/// No timeline history is longer, to which each promotion adds a line of under 200 bytes, and no backup's history.
pub(crate) const HISTORY_LIMIT_BYTES: u64 = 1 << 20;

/// What headers may add to content that does not compress, beside the hundredth that bzip2 does.
const HEADERS_BYTES: u64 = 64 << 10;

/// The most that the WAL file called `name` holds. Where any bytes will do, so will as many as a segment has.
pub(crate) fn most_bytes(name: &WalFileName, check: ContentCheck) -> u64 {
    match (name, check) {
        (WalFileName::TimelineHistory(_) | WalFileName::BackupHistory(..), ContentCheck::Checked) => {
            HISTORY_LIMIT_BYTES
        }
        _ => WAL_LIMIT_BYTES,
    }
}

impl Archive {
    /// Archives the WAL file at `path`: one read, one pass, one put, create-only unless other content may be replaced.
    ///
    /// The content is checked against the file's name, and a segment's cluster against the one this archive belongs to,
    /// before anything is sent, unless that is waived. Returns after the store confirmed the object.
    ///
    /// Errors: `Mismatch` or `Corrupt` for a file that is not what its name says, `Mismatch` for another cluster's archive,
    /// `Conflict` when the archive holds other content under this name, `Unreachable`, `Denied`, `Local`. Memory: the file's
    /// compressed form, and, unless that is zstd, the file.
    pub(crate) async fn archive_file(&self, name: &WalFileName, path: &Path, how: Storing) -> Result<Archived> {
        let sealed = self.seal_and_admit(name, path, how, Crew::Two).await?;
        self.send(name, &sealed.facts, sealed.content, how).await
    }

    /// Makes the file ready, and sees to it that its cluster may write here. The store is asked whose archive it is while
    /// the file is read, digested and compressed; the connection that brings the answer then takes the put.
    pub(crate) async fn seal_and_admit(
        &self,
        name: &WalFileName,
        path: &Path,
        how: Storing,
        crew: Crew,
    ) -> Result<Sealed> {
        if how.check == ContentCheck::Checked {
            seal::check_first_page(name, path)?;
        }
        let asking = async {
            let asks = self.asks_identity(name, how.check);
            if asks { self.read_identity().await.map(Some) } else { Ok(None) }
        };
        let (sealed, answer) = tokio::try_join!(seal_beside(name, path, how, crew), asking)?;
        if let Some(recorded) = answer {
            self.admit(sealed.facts.system_identifier, recorded, how.now).await?;
        }
        Ok(sealed)
    }

    /// Puts what was made ready. The store has confirmed it when this returns.
    pub(crate) async fn send(
        &self,
        name: &WalFileName,
        facts: &ContentFacts,
        content: Vec<u8>,
        how: Storing,
    ) -> Result<Archived> {
        let codec = how.compression.codec;
        let key = self.wal_key(name, codec);
        let metadata = facts.to_metadata();
        if how.if_other == IfOther::Replace {
            return self.store.put(&key, content, &metadata).await.map(|()| Archived::Stored);
        }
        match self.store.put_new(&key, content, &metadata, &self.prefix.dialect_probe()).await? {
            Put::Created => Ok(Archived::Stored),
            Put::AlreadyThere => self.compare(name, &key, codec, facts).await,
        }
    }

    /// Where a WAL file lies that is stored with `codec`.
    pub(crate) fn wal_key(&self, name: &WalFileName, codec: Compression) -> String {
        format!("{}{}", self.prefix.wal(name), codec.suffix())
    }

    /// Only segments name their cluster. In a directory, where asking costs nothing, every file asks: that the identity is
    /// gone shows that the archive is not mounted.
    fn asks_identity(&self, name: &WalFileName, check: ContentCheck) -> bool {
        let names_cluster = matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_));
        check == ContentCheck::Checked && (names_cluster || matches!(self.store.place(), Place::Directory(_)))
    }

    /// Success when the object at `key` holds the very content of `ours`, a conflict naming both digests otherwise.
    pub(crate) async fn compare(
        &self,
        name: &WalFileName,
        key: &str,
        codec: Compression,
        ours: &ContentFacts,
    ) -> Result<Archived> {
        let Some((_, metadata)) = self.store.head(key).await? else {
            // It was there a moment ago: somebody else is at work on this very object.
            let message = format!("object \"{key}\" vanished while it was compared");
            return Err(Error::new(ErrorKind::Unreachable, message));
        };
        let (there, cluster) = if let Some(facts) = ContentFacts::from_metadata(&metadata) {
            (facts.sha256, facts.system_identifier)
        } else {
            // Barman's objects and files carry no digest: read the content.
            let most = most_bytes(name, ContentCheck::Checked).max(ours.length);
            let content = self.read_sealed(key, codec, most).await?.0;
            (Sha256::of(&content).to_string(), proof::check(name, &content, None).unwrap_or_default())
        };
        if there == ours.sha256 {
            return Ok(Archived::AlreadyThere);
        }
        let here = &ours.sha256;
        let message = format!(
            "the archive holds other content under \"{key}\": SHA-256 {there} there, {here} here; it was not replaced"
        );
        Err(Error::new(ErrorKind::Conflict, message).with_hint(why_other(cluster, ours.system_identifier)))
    }

    /// Reads and decompresses a WAL object that holds `most_bytes` at most, and checks it against the facts in its metadata,
    /// if any.
    pub(crate) async fn read_sealed(
        &self,
        key: &str,
        codec: Compression,
        most_bytes: u64,
    ) -> Result<(Vec<u8>, Option<ContentFacts>)> {
        unseal(key, codec, self.get_sealed(key, most_bytes).await?, most_bytes)
    }

    /// Gets a WAL object that holds `most_bytes` at most, as it is stored.
    pub(crate) async fn get_sealed(&self, key: &str, most_bytes: u64) -> Result<Fetched> {
        self.store.get(key, most_bytes + most_bytes / 64 + HEADERS_BYTES).await
    }
}

/// [`seal::seal`], on a thread of its own.
pub(crate) async fn seal_beside(name: &WalFileName, path: &Path, how: Storing, crew: Crew) -> Result<Sealed> {
    let (name, path) = (*name, path.to_owned());
    let sealing = tokio::task::spawn_blocking(move || seal::seal(&name, &path, how.compression, how.check, crew));
    sealing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Why an archive may hold other content under the name of one of our files, and what to do.
fn why_other(theirs: Option<SystemIdentifier>, ours: Option<SystemIdentifier>) -> String {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs == ours => format!(
            "Both are of cluster {ours}: this copy of it was set back to an earlier state, or is a clone, and went on on \
             the same timeline. If it is the one to keep, archive it under another server name and take a base backup \
             there; else stop it."
        ),
        (Some(theirs), Some(ours)) => format!(
            "The archive's is of cluster {theirs}, this one of cluster {ours}: two clusters share this archive. Archive \
             one of them under another server name."
        ),
        _ => {
            "Two clusters may share this archive, or this one was set back to an earlier state: archive under another \
              server name."
                .to_owned()
        }
    }
}
