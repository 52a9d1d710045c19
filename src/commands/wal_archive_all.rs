//! Every finished WAL file of a `pg_wal` that the archive does not hold: what a failover, a shutdown or a broken archiver left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use futures::StreamExt;

use crate::codec::digest::Sha256;
use crate::commands::archive::{
    Archive, Archived, ContentCheck, HISTORY_LIMIT_BYTES, IfOther, Storing, WalCompression,
};
use crate::disk;
use crate::domain::cluster::SystemIdentifier;
use crate::domain::segment::{SegmentName, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::content_facts::ContentFacts;
use crate::postgres::archive_status::{self, Status};
use crate::wal::completeness::{Candidate, Completeness, judge};
use crate::wal::proof;

/// The size of a WAL page, whose header is all that is looked at.
const FIRST_PAGE_BYTES: u64 = 8192;

/// How files are to be shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShipRequest {
    /// How to store them.
    pub compression: WalCompression,
    /// Files on their way at once; memory grows with it.
    pub jobs: usize,
    /// When.
    pub now: DateTime<Utc>,
}

/// What lies in a `pg_wal`, in the order of time.
#[derive(Debug, Clone)]
pub struct PgWal {
    directory: PathBuf,
    files: Vec<(WalFileName, Completeness)>,
    /// The cluster of its newest segment that has been begun.
    system_identifier: Option<SystemIdentifier>,
    /// The length of its longest file.
    pub largest_bytes: u64,
}

/// What became of a file.
#[derive(Debug)]
pub enum Shipped {
    /// It was stored now.
    Stored,
    /// The archive held it already.
    AlreadyThere,
    /// It is no finished file yet, or holds no WAL of its name.
    Unfinished(Completeness),
    /// It could not be archived; nothing was replaced.
    Refused(Error),
}

/// How far it went.
#[derive(Debug, Default)]
pub struct ShippedAll {
    /// Every file that was looked at, in the order of time.
    pub files: Vec<(WalFileName, Shipped)>,
    /// Why the rest were not.
    pub stopped: Option<Error>,
}

impl PgWal {
    /// Looks at the names and first pages in `directory`, and asks nobody. Nothing in it is changed. Blocking.
    ///
    /// Errors: `Usage` for a directory that is no `pg_wal`, `Local`.
    pub fn read(directory: &Path) -> Result<Self> {
        if !archive_status::is_pg_wal(directory) {
            let message =
                format!("\"{}\" is no pg_wal: there is no directory archive_status in it", directory.display());
            return Err(Error::usage(message).with_hint("Give the directory pg_wal of a data directory."));
        }
        let names = archive_status::wal_files(directory)?;
        let statuses = archive_status::statuses(directory)?;
        let histories = histories(directory)?;
        let (mut candidates, mut largest_bytes) = (Vec::new(), 0);
        for name in &names {
            let WalFileName::Segment(segment) = *name else { continue };
            let Some((page, length)) = first_page(&directory.join(name.to_string()))? else { continue };
            largest_bytes = length.max(largest_bytes);
            let history = histories.get(&segment.timeline);
            let is_ready = statuses.get(name) == Some(&Status::Ready);
            candidates.push(Candidate::new(segment, is_ready, &page, length, history));
        }
        let segments: BTreeMap<SegmentName, Completeness> = judge(&candidates, &histories).into_iter().collect();
        let verdict = |name: WalFileName| match name {
            // One that has gone meanwhile is no concern of ours any more.
            WalFileName::Segment(segment) => segments.get(&segment).copied(),
            // PostgreSQL writes it under this name, and notes something about it when it is written.
            WalFileName::BackupHistory(..) if !statuses.contains_key(&name) => Some(Completeness::MayGrow),
            // These appear whole.
            _ => Some(Completeness::Complete),
        };
        let files = names.iter().filter_map(|name| Some((*name, verdict(*name)?))).collect();
        let system_identifier = candidates.iter().rev().find_map(Candidate::system_identifier);
        Ok(Self { directory: directory.to_owned(), files, system_identifier, largest_bytes })
    }
}

/// Archives every finished file of `pg_wal` that the archive does not hold, oldest first and create-only.
///
/// Safe at any time: on a primary, a standby, a cluster that is stopped or was promoted. `archive_status` is left as it is,
/// so that PostgreSQL's own archiver does what it would have done. A file that is refused, because the archive holds
/// other content under its name or it is not what its name says, does not keep the others; a store that fails does.
///
/// One listing for each directory of 4 GiB of WAL and for each history, one GET and one PUT for each file that is shipped.
/// Memory: `jobs` files and their compressed forms.
///
/// Errors: `Mismatch` for another cluster's archive, the store's while it is listed; later ones are in the answer.
pub async fn wal_archive_all(archive: &Archive, pg_wal: &PgWal, request: ShipRequest) -> Result<ShippedAll> {
    if let Some(ours) = pg_wal.system_identifier {
        archive.claim_for(ours, request.now).await?;
    }
    let ship = Ship { archive, pg_wal, request, present: present(archive, pg_wal).await? };
    let shipping = pg_wal.files.iter().map(async |(name, verdict)| (*name, ship.one(name, *verdict).await));
    let mut shipping = futures::stream::iter(shipping).buffered(request.jobs.max(1));
    let mut all = ShippedAll::default();
    while let Some((name, outcome)) = shipping.next().await {
        let outcome = match outcome {
            Ok(shipped) => shipped,
            Err(error) if concerns_one_file(error.kind()) => Shipped::Refused(error),
            Err(error) => {
                all.stopped = Some(error);
                break;
            }
        };
        all.files.push((name, outcome));
    }
    Ok(all)
}

/// One run: what is asked for, and what the archive held when it began.
struct Ship<'a> {
    archive: &'a Archive,
    pg_wal: &'a PgWal,
    request: ShipRequest,
    present: BTreeSet<WalFileName>,
}

impl Ship<'_> {
    async fn one(&self, name: &WalFileName, verdict: Completeness) -> Result<Shipped> {
        if verdict != Completeness::Complete {
            return Ok(Shipped::Unfinished(verdict));
        }
        if self.present.contains(name) {
            return Ok(Shipped::AlreadyThere);
        }
        let path = self.pg_wal.directory.join(name.to_string());
        let doing = || format!("could not archive WAL file \"{name}\"");
        if matches!(name, WalFileName::TimelineHistory(_)) && self.holds_history(name, &path).await? {
            return Ok(Shipped::AlreadyThere);
        }
        let ShipRequest { compression, now, .. } = self.request;
        let how = Storing { compression, if_other: IfOther::Refuse, check: ContentCheck::Checked, now };
        match self.archive.archive_file(name, &path, how).await {
            Ok(Archived::Stored) => Ok(Shipped::Stored),
            Ok(Archived::AlreadyThere) => Ok(Shipped::AlreadyThere),
            // Archived by PostgreSQL, and recycled, since we looked.
            Err(_) if !path.exists() && self.is_present(name).await? => Ok(Shipped::AlreadyThere),
            Err(error) => Err(error.context(doing())),
        }
    }

    /// Whether the archive holds the very history, under whatever suffix: two servers that were promoted to one timeline
    /// have histories of one name.
    async fn holds_history(&self, name: &WalFileName, path: &Path) -> Result<bool> {
        let wals = self.archive.prefix.wals();
        for object in self.archive.store.list_names(&wals, &name.to_string()).await? {
            if let Some((there, codec)) = self.archive.prefix.wal_from_key(&object.key)
                && there == *name
            {
                let content = disk::read_at_most(path, HISTORY_LIMIT_BYTES)?;
                proof::check(name, &content, None)?;
                let sha256 = Sha256::of(&content).to_string();
                let ours = ContentFacts { sha256, length: content.len() as u64, system_identifier: None };
                self.archive.compare(name, &object.key, codec, &ours).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_present(&self, name: &WalFileName) -> Result<bool> {
        let key = self.archive.prefix.wal(name);
        let (directory, begins) = key.rsplit_once('/').expect("a WAL key lies in a directory");
        Ok(!self.archive.store.list_names(&format!("{directory}/"), begins).await?.is_empty())
    }
}

/// What the archive holds of the finished files, histories left out: one listing for each directory they would lie in.
async fn present(archive: &Archive, pg_wal: &PgWal) -> Result<BTreeSet<WalFileName>> {
    let finished = pg_wal.files.iter().filter(|(_, verdict)| *verdict == Completeness::Complete);
    let directories: BTreeSet<String> =
        finished.filter_map(|(name, _)| Some(archive.prefix.wal_directory(&name.segment()?))).collect();
    let mut present = BTreeSet::new();
    for directory in directories {
        let take = |object: crate::store::Listed| {
            // Nothing is no WAL file, whatever it is called.
            if object.bytes > 0 {
                present.extend(archive.prefix.wal_from_key(&object.key).map(|(name, _)| name));
            }
        };
        archive.store.list(&directory, None, take).await?;
    }
    Ok(present)
}

/// True for failures that say nothing about the next file.
fn concerns_one_file(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Conflict | ErrorKind::Mismatch | ErrorKind::Corrupt | ErrorKind::Local)
}

/// The histories in `pg_wal`. One that cannot be read proves nothing, and is said to be so when it is archived.
fn histories(pg_wal: &Path) -> Result<BTreeMap<TimelineId, TimelineHistory>> {
    let mut histories = BTreeMap::from([(TimelineId::FIRST, TimelineHistory::root(TimelineId::FIRST))]);
    for timeline in archive_status::history_files(pg_wal)? {
        match archive_status::read_history(pg_wal, timeline) {
            Ok(history) => _ = histories.insert(timeline, history),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    Ok(histories)
}

/// The beginning of a file and its length; none when it has been recycled since its name was read.
fn first_page(path: &Path) -> Result<Option<(Vec<u8>, u64)>> {
    match disk::read_beginning(path, FIRST_PAGE_BYTES) {
        Ok(found) => Ok(Some(found)),
        Err(_) if !path.exists() => Ok(None),
        Err(error) => Err(error),
    }
}
