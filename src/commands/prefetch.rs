//! Fetching the segments that recovery will ask for next into the spool, beside the one it asks for now and never at its expense.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use tokio::sync::Semaphore;

use crate::commands::archive::{Archive, ContentCheck, WAL_LIMIT_BYTES};
use crate::commands::spool::Spool;
use crate::commands::unseal::SealedObject;
use crate::domain::compression::Compression;
use crate::domain::segment::SegmentName;
use crate::error::{Error, ErrorKind, Result};

/// No more objects are on their way at once: beyond that a link is full.
const IN_FLIGHT: usize = 8;

/// Nor more bytes of them than this, in KiB; a larger one comes alone. With two segments being unpacked and the requested one
/// that is what memory is taken.
const IN_FLIGHT_KIB: u32 = 64 << 10;

/// How many are decompressed, checked and written at once.
pub(crate) const UNPACKING: usize = 2;

/// An object that holds a segment which will be asked for soon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) segment: SegmentName,
    pub(crate) key: String,
    pub(crate) codec: Compression,
    pub(crate) bytes: u64,
}

/// Fetches `neighbours` of `requested` that the spool does not hold into it, several at a time, the first ones first.
///
/// Whatever fails is said and left out: recovery will ask for it in its turn. A spool that cannot be written to ends it all.
/// Dropped, it stops; what is being written then still becomes whole.
pub(crate) async fn fetch_ahead(
    archive: &Archive,
    spool: &Spool,
    requested: SegmentName,
    neighbours: Vec<Neighbour>,
    check: ContentCheck,
) {
    let missing: Vec<Neighbour> = neighbours.into_iter().filter(|one| !spool.holds(one.segment)).collect();
    if missing.is_empty() {
        return;
    }
    if let Err(error) = spool.prepare(requested) {
        tracing::warn!("{error}; no WAL is fetched ahead");
        return;
    }
    let (room, unpacking) = (&Semaphore::new(IN_FLIGHT_KIB as usize), &Semaphore::new(UNPACKING));
    let gave_up = &AtomicBool::new(false);
    let fetches = futures::stream::iter(missing).for_each_concurrent(IN_FLIGHT, |neighbour| async move {
        let kib = u32::try_from(neighbour.bytes >> 10).unwrap_or(u32::MAX).min(IN_FLIGHT_KIB);
        let _room = room.acquire_many(kib).await;
        if gave_up.load(Ordering::Relaxed) {
            return;
        }
        match fetch_one(archive, spool, &neighbour, check, unpacking).await {
            Err(error) if error.kind() == ErrorKind::Local => {
                if !gave_up.swap(true, Ordering::Relaxed) {
                    tracing::warn!("{error}; no more WAL is fetched ahead");
                }
            }
            Err(error) => tracing::info!("could not fetch WAL file \"{}\" ahead: {error}", neighbour.segment),
            Ok(()) => {}
        }
    });
    fetches.await;
}

async fn fetch_one(
    archive: &Archive,
    spool: &Spool,
    neighbour: &Neighbour,
    check: ContentCheck,
    unpacking: &Semaphore,
) -> Result<()> {
    let fetched = archive.get_sealed(&neighbour.key, WAL_LIMIT_BYTES).await?;
    let Neighbour { segment, key, codec, .. } = neighbour.clone();
    keep(spool, segment, SealedObject { key, codec, fetched }, check, unpacking).await
}

/// Unpacks and checks what arrived, and keeps it in the spool; as many at once as `unpacking` allows.
///
/// Errors: `Corrupt` and `Mismatch` for what is not the segment of that name; `Local`.
pub(crate) async fn keep(
    spool: &Spool,
    segment: SegmentName,
    arrived: SealedObject,
    check: ContentCheck,
    unpacking: &Semaphore,
) -> Result<()> {
    let _turn = unpacking.acquire().await;
    let spool = spool.clone();
    // Sockets are served meanwhile.
    let outcome = tokio::task::spawn_blocking(move || spool.keep(segment, arrived, check)).await;
    outcome.map_err(|cause| Error::new(ErrorKind::Bug, format!("a thread that unpacked WAL ended: {cause}")))?
}
