//! One cluster's archive: a store and the place in it where the cluster's objects lie.

use std::path::Path;

use crate::codec::compression;
use crate::codec::digest::Sha256;
use crate::disk;
use crate::domain::compression::Compression;
use crate::domain::segment::{SegmentSize, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::content_facts::ContentFacts;
use crate::layout::keys::ServerPrefix;
use crate::store::{Put, Store};
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

/// What compression may add to content that does not compress.
const COMPRESSION_SLACK_BYTES: u64 = 16 << 20;

impl Archive {
    /// Archives the WAL file at `path`: one read, one pass, one create-only put.
    ///
    /// The content is checked against the file's name before anything is sent. Returns after the store confirmed the
    /// object; an object that is there already is compared and never replaced.
    ///
    /// Errors: `Mismatch` or `Corrupt` for a file that is not what its name says, `Conflict` when the archive holds
    /// other content under this name, `Unreachable`, `Denied`, `Local`. Memory: the file and its compressed form.
    pub async fn archive_file(&self, name: &WalFileName, path: &Path, with: WalCompression) -> Result<Archived> {
        let content = disk::read_at_most(path, WAL_LIMIT_BYTES)?;
        let history = name.segment().and_then(|segment| read_history_beside(path, segment.timeline));
        let system_identifier = proof::check(name, &content, history.as_ref())?;
        let digest = Sha256::of(&content);
        let facts = ContentFacts { sha256: digest.to_string(), length: content.len() as u64, system_identifier };
        let sealed = if with.codec == Compression::None {
            content
        } else {
            let sealed = compression::compress(with.codec, with.level, &content)?;
            drop(content);
            sealed
        };
        let key = format!("{}{}", self.prefix.wal(name), with.codec.suffix());
        match self.store.put_new(&key, sealed, &facts.to_metadata(), &self.prefix.dialect_probe()).await? {
            Put::Created => Ok(Archived::Stored),
            Put::AlreadyThere => self.compare(&key, with.codec, digest).await,
        }
    }

    /// Success when the object at `key` holds content of `digest`, a conflict naming both digests otherwise.
    async fn compare(&self, key: &str, codec: Compression, digest: Sha256) -> Result<Archived> {
        let Some((_, metadata)) = self.store.head(key).await? else {
            // It was there a moment ago: somebody else is at work on this very object.
            let message = format!("object \"{key}\" vanished while it was compared");
            return Err(Error::new(ErrorKind::Unreachable, message));
        };
        let there = match ContentFacts::from_metadata(&metadata) {
            Some(facts) => facts.sha256,
            // Barman's objects and files carry no digest: read the content.
            None => Sha256::of(&self.read_sealed(key, codec).await?.0).to_string(),
        };
        if there == digest.to_string() {
            return Ok(Archived::AlreadyThere);
        }
        let message = format!(
            "the archive holds other content under \"{key}\": SHA-256 {there} there, {digest} here; it was not replaced"
        );
        Err(Error::new(ErrorKind::Conflict, message).with_hint(
            "Two clusters may share this archive, or this one was set back to an earlier state: \
             archive under another --server name.",
        ))
    }

    /// Reads and decompresses a WAL object, and checks it against the facts in its metadata, if any.
    pub(crate) async fn read_sealed(&self, key: &str, codec: Compression) -> Result<(Vec<u8>, Option<ContentFacts>)> {
        let fetched = self.store.get(key, WAL_LIMIT_BYTES + COMPRESSION_SLACK_BYTES).await?;
        let facts = ContentFacts::from_metadata(&fetched.metadata);
        let doing = || format!("could not unpack object \"{key}\"");
        let content = match codec {
            Compression::None => Vec::from(fetched.content),
            _ => compression::decompress(codec, &fetched.content, WAL_LIMIT_BYTES)
                .map_err(|error| error.context(doing()))?,
        };
        if let Some(facts) = &facts {
            let digest = Sha256::of(&content).to_string();
            if facts.length != content.len() as u64 || facts.sha256 != digest {
                let message = format!(
                    "object \"{key}\" is damaged: {} bytes with SHA-256 {} were archived, {} bytes with {digest} came back",
                    facts.length,
                    facts.sha256,
                    content.len()
                );
                return Err(Error::corrupt(message));
            }
        }
        Ok((content, facts))
    }
}

/// The history of `timeline` from the same `pg_wal`, when it lies there. It only sharpens a check, so a history that
/// cannot be read is treated like one that is not there.
fn read_history_beside(path: &Path, timeline: TimelineId) -> Option<TimelineHistory> {
    if timeline == TimelineId::FIRST {
        return Some(TimelineHistory::root(timeline));
    }
    let beside = path.with_file_name(WalFileName::TimelineHistory(timeline).to_string());
    let content = disk::read_at_most(&beside, SegmentSize::MAX.bytes()).ok()?;
    TimelineHistory::parse(timeline, std::str::from_utf8(&content).ok()?).ok()
}
