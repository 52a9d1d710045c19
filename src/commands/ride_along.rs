//! Ready segments that are archived beside the one the archiver asks for, so that its next calls find their answer here.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::sync::{Semaphore, watch};

use crate::commands::archive::{Archive, Archived, Storing, seal_beside};
use crate::commands::receipts::Receipts;
use crate::commands::seal::Crew;
use crate::domain::cluster::SystemIdentifier;
use crate::domain::segment::{SegmentName, WalFileName};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::archive_status::{self, Status};

/// For how long segments go on being begun: the archiver, and a server that wants to stop, wait for the end of the call.
const BEGUN_WITHIN: Duration = Duration::from_secs(2);

/// How long those that were begun may take once the requested segment is archived: a store that stalls on one of them must not
/// stall the archiver.
const GRACE: Duration = Duration::from_secs(15);

/// No more ride along with one call, however many are ready.
const MOST: usize = 256;

/// Who rides along, and where that is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RideAlong {
    /// Segments in hand at once, the requested one among them: each takes its compressed form and 1 MiB of memory.
    pub jobs: usize,
    /// No more of them are compressed at once than there are cores; the rest are on their way.
    pub compressing: usize,
    /// What the archiver's next calls are answered from.
    pub receipts: Receipts,
}

/// Archives `segment`, and others that are ready beside it, each of which gets a receipt once the store has confirmed it.
///
/// Only the requested one decides: what becomes of the others is said in the log. They are sent after the requested one's
/// cluster was let in, and only if they are of the same.
pub(crate) async fn archive_with_neighbours(
    archive: &Archive,
    segment: SegmentName,
    path: &Path,
    how: Storing,
    ride: &RideAlong,
) -> Result<Archived> {
    let (announce, admitted) = watch::channel(None);
    let name = WalFileName::Segment(segment);
    let hands = &Semaphore::new(ride.jobs);
    let mut requested = pin!(async move {
        // Polled before the others: it never waits for one of them.
        let _hand = hands.acquire().await;
        let sealed = archive.seal_and_admit(&name, path, how, Crew::Two).await?;
        announce.send_replace(sealed.facts.system_identifier);
        archive.send(&name, &sealed.facts, sealed.content, how).await
    });
    let neighbours = Neighbours { archive, how, ride, hands, admitted };
    let mut riding = pin!(neighbours.ride(segment, path));
    let outcome = tokio::select! {
        biased;
        outcome = &mut requested => outcome?,
        () = &mut riding => return requested.await,
    };
    if tokio::time::timeout(GRACE, riding).await.is_err() {
        tracing::warn!("gave up on WAL beside \"{segment}\" after {} s; the archiver will ask for it", GRACE.as_secs());
    }
    Ok(outcome)
}

struct Neighbours<'a> {
    archive: &'a Archive,
    how: Storing,
    ride: &'a RideAlong,
    /// One for each segment that may be in memory.
    hands: &'a Semaphore,
    /// The cluster of the requested segment, once it may write here.
    admitted: watch::Receiver<Option<SystemIdentifier>>,
}

impl Neighbours<'_> {
    /// Archives what is ready after `requested`, the oldest first.
    async fn ride(&self, requested: SegmentName, path: &Path) {
        let begun = Instant::now();
        let (receipts, pg_wal) = (self.ride.receipts.clone(), path.parent().unwrap_or(Path::new("")).to_owned());
        let looking = tokio::task::spawn_blocking(move || {
            receipts.tidy(requested);
            ready_after(requested, &pg_wal, &receipts)
        });
        let ready = match looking.await {
            Ok(Ok(ready)) => ready,
            Ok(Err(error)) => return tracing::info!("{error}; no other WAL rides along"),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let compressing = &Semaphore::new(self.ride.compressing);
        let all = futures::stream::iter(ready).for_each_concurrent(None, |(segment, path)| async move {
            let _hand = self.hands.acquire().await;
            let turn = compressing.acquire().await;
            if begun.elapsed() > BEGUN_WITHIN {
                return;
            }
            match self.one(segment, path, turn).await {
                Ok(()) => tracing::debug!("\"{segment}\" is archived too"),
                Err(error) => tracing::info!("could not archive WAL file \"{segment}\" ahead: {error}"),
            }
        });
        all.await;
    }

    async fn one<T>(&self, segment: SegmentName, path: PathBuf, turn: T) -> Result<()> {
        let name = WalFileName::Segment(segment);
        let mut sealed = seal_beside(&name, &path, self.how, Crew::One).await?;
        drop(turn);
        let mut admitted = self.admitted.clone();
        let gone = || Error::new(ErrorKind::Interrupted, "the segment that was asked for could not be archived");
        let owner = *admitted.wait_for(Option::is_some).await.map_err(|_| gone())?;
        if sealed.facts.system_identifier != owner {
            let said = |cluster: Option<SystemIdentifier>| cluster.map_or("none".to_owned(), |it| it.to_string());
            let (ours, theirs) = (said(sealed.facts.system_identifier), said(owner));
            let message = format!("it is of cluster {ours}, the segment that was asked for of cluster {theirs}");
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        let content = std::mem::take(&mut sealed.content);
        self.archive.send(&name, &sealed.facts, content, self.how).await?;
        let key = self.archive.wal_key(&name, self.how.compression.codec);
        let receipts = self.ride.receipts.clone();
        let writing = tokio::task::spawn_blocking(move || receipts.write(segment, &key, &sealed));
        writing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// The segments after `requested` that PostgreSQL wants archived and that have no receipt yet, and where they lie. Blocking.
fn ready_after(requested: SegmentName, pg_wal: &Path, receipts: &Receipts) -> Result<Vec<(SegmentName, PathBuf)>> {
    if !archive_status::is_pg_wal(pg_wal) {
        return Ok(Vec::new());
    }
    let ready = archive_status::statuses(pg_wal)?.into_iter().filter_map(|(name, status)| match (name, status) {
        (WalFileName::Segment(segment), Status::Ready) if segment > requested => Some(segment),
        _ => None,
    });
    let with_paths = ready.map(|segment| (segment, pg_wal.join(segment.to_string())));
    Ok(with_paths.filter(|(segment, path)| !receipts.hold(*segment, path)).take(MOST).collect())
}
