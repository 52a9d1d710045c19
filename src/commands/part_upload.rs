//! A stream of bytes cut into equal parts and uploaded while it is still being written.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::codec::digest::{Sha256, Sha256Builder};
use crate::codec::local_failure;
use crate::commands::interrupt::Interrupt;
use crate::commands::rate_limit::RateLimit;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Metadata, Store, Upload};

/// Parts of one object on their way to the store at the same time.
const PARTS_IN_FLIGHT: usize = 2;

/// How many parts one open object may hold in memory: in flight, waiting for that, and the one being filled.
const PARTS_IN_MEMORY: usize = PARTS_IN_FLIGHT + 2;

/// With fewer, nothing could be filled while a part is on its way.
pub(crate) const FEWEST_PARTS_IN_MEMORY: usize = 2;

/// More threads than this only take turns.
const MOST_WORKERS: usize = 64;

/// S3 takes no smaller part but the last.
pub(crate) const SMALLEST_PART_BYTES: usize = 5 << 20;

/// How long an upload that is given up waits for the parts that are on their way.
const LAST_PARTS_MAY_TAKE: Duration = Duration::from_secs(5);

/// Parts on their way.
type Sending = FuturesUnordered<BoxFuture<'static, Result<()>>>;

/// What is known about an uploaded object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// Its size.
    pub bytes: u64,
    /// The digest of its bytes, as sent.
    pub sha256: Sha256,
}

/// A `Write` for blocking threads whose bytes become one object. Nothing is visible before [`PartUpload::finish`];
/// dropped without it, the upload is aborted.
#[derive(Debug)]
pub struct PartUpload {
    /// The part being filled, and its place in memory.
    filling: Option<(Vec<u8>, OwnedSemaphorePermit)>,
    part_size_bytes: usize,
    room: Arc<Semaphore>,
    queue: Option<mpsc::Sender<Piece>>,
    uploader: Option<JoinHandle<Result<()>>>,
    runtime: Handle,
    digest: Sha256Builder,
    bytes: Arc<AtomicU64>,
    rate: RateLimit,
    /// Bytes taken that the rate does not know of yet.
    unpaced: usize,
    interrupt: Interrupt,
}

/// What bounds an upload.
#[derive(Debug, Clone)]
pub struct UploadLimits {
    /// The size of one part of it.
    pub part_size_bytes: usize,
    /// How many parts of it may be in memory at once; two at least.
    pub parts_in_memory: usize,
    /// How fast it may go.
    pub rate: RateLimit,
    /// When this says stop, the upload is given up, at whatever point it is.
    pub interrupt: Interrupt,
}

/// How many workers of a copy there are, and what each of them may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// Workers, each with one open object.
    pub workers: usize,
    /// The size of a part.
    pub part_size_bytes: usize,
    /// Parts of one object in memory at once.
    pub parts_in_memory: usize,
}

impl Buffers {
    /// What was asked for, cut down to `limit` bytes of parts in memory: first fewer parts wait, then there are fewer
    /// workers, and when even one worker is too much, parts become smaller.
    #[must_use]
    pub fn within(limit: usize, jobs: usize, wanted_bytes: usize) -> Self {
        let jobs = jobs.clamp(1, MOST_WORKERS);
        let largest = (limit / FEWEST_PARTS_IN_MEMORY).max(SMALLEST_PART_BYTES);
        let part_size_bytes = wanted_bytes.clamp(SMALLEST_PART_BYTES, largest);
        let workers = (limit / (FEWEST_PARTS_IN_MEMORY * part_size_bytes)).clamp(1, jobs);
        let parts_in_memory = (limit / (workers * part_size_bytes)).clamp(FEWEST_PARTS_IN_MEMORY, PARTS_IN_MEMORY);
        Self { workers, part_size_bytes, parts_in_memory }
    }
}

#[derive(Debug)]
enum Piece {
    /// A part, and the place in memory it takes until the store has it.
    Part(Bytes, OwnedSemaphorePermit),
    End,
}

impl PartUpload {
    /// Begins an object; the upload runs as a task of `runtime`, which must be a multi-threaded one.
    pub fn begin(runtime: &Handle, store: &Store, key: String, limits: UploadLimits) -> Self {
        let UploadLimits { part_size_bytes, parts_in_memory, rate, interrupt } = limits;
        let parts_in_memory = parts_in_memory.max(FEWEST_PARTS_IN_MEMORY);
        // The end needs a place too; parts are held back by the memory they take, not by the queue.
        let (queue, pieces) = mpsc::channel(parts_in_memory + 1);
        let uploader = runtime.spawn(upload(store.clone(), key, pieces, interrupt.clone()));
        Self {
            filling: None,
            part_size_bytes,
            room: Arc::new(Semaphore::new(parts_in_memory)),
            queue: Some(queue),
            uploader: Some(uploader),
            runtime: runtime.clone(),
            digest: Sha256Builder::new(),
            bytes: Arc::default(),
            rate,
            unpaced: 0,
            interrupt,
        }
    }

    /// How many bytes it has taken so far, to be asked by whoever cannot reach it any more.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// Sends what is left and makes the object visible. Durable when it returns.
    pub fn finish(mut self) -> Result<Uploaded> {
        self.pace_end()
            .and_then(|()| self.send_filled())
            .and_then(|()| self.send(Piece::End))
            .map_err(local_failure)?;
        self.queue = None;
        self.join()?;
        let digest = std::mem::take(&mut self.digest);
        Ok(Uploaded { bytes: self.bytes.load(Ordering::Relaxed), sha256: digest.finish() })
    }

    fn join(&mut self) -> Result<()> {
        let Some(uploader) = self.uploader.take() else {
            return Err(Error::new(ErrorKind::Bug, "an upload was waited for twice"));
        };
        wait_for(&self.runtime, uploader)
            .map_err(|error| Error::new(ErrorKind::Bug, format!("an upload task failed: {error}")))?
    }

    /// The part being filled; begun when there is room for it, which an upload that failed makes too.
    fn filling(&mut self) -> io::Result<&mut Vec<u8>> {
        if self.filling.is_none() {
            let waiting = Arc::clone(&self.room).acquire_owned();
            let place = match Arc::clone(&self.room).try_acquire_owned() {
                Ok(place) => place,
                Err(_) => tokio::task::block_in_place(|| self.runtime.block_on(waiting)).map_err(io::Error::other)?,
            };
            self.filling = Some((Vec::with_capacity(self.part_size_bytes), place));
        }
        let missing = || io::Error::other(Error::new(ErrorKind::Bug, "a part was not begun"));
        self.filling.as_mut().map(|(part, _)| part).ok_or_else(missing)
    }

    fn send_filled(&mut self) -> io::Result<()> {
        match self.filling.take() {
            Some((part, place)) if !part.is_empty() => self.send(Piece::Part(part.into(), place)),
            _ => Ok(()),
        }
    }

    fn pace_end(&mut self) -> io::Result<()> {
        if self.rate.is_loose { Ok(()) } else { self.pace() }
    }

    /// Waits until what was taken before may have passed.
    fn pace(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.unpaced);
        self.rate.wait_for(bytes, &self.interrupt).map_err(io::Error::other)
    }

    fn send(&mut self, piece: Piece) -> io::Result<()> {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.blocking_send(piece).is_ok());
        if sent {
            return Ok(());
        }
        // The store's own error travels inside the io::Error through tar and codec, and comes out as it went in.
        self.queue = None;
        Err(io::Error::other(self.join().err().unwrap_or_else(|| Error::new(ErrorKind::Bug, "an upload ended early"))))
    }
}

impl Write for PartUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part_size_bytes = self.part_size_bytes;
        let part = self.filling()?;
        let taken = bytes.len().min(part_size_bytes - part.len());
        part.extend_from_slice(&bytes[..taken]);
        let is_full = part.len() == part_size_bytes;
        self.digest.update(&bytes[..taken]);
        self.bytes.fetch_add(taken as u64, Ordering::Relaxed);
        self.unpaced += taken;
        if self.unpaced >= self.rate.pace_bytes(part_size_bytes) {
            self.pace()?;
        }
        if is_full {
            self.send_filled()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PartUpload {
    /// Without `finish`, closing the queue tells the uploader to abort; it is waited for, so that no upload dangles.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(uploader) = self.uploader.take() {
            let outcome = wait_for(&self.runtime, uploader);
            tracing::debug!("an unfinished upload was given up: {outcome:?}");
        }
    }
}

/// Waits for a task on a blocking thread, and on one of the runtime's own too: an error's way out drops uploads anywhere.
fn wait_for<T>(runtime: &Handle, task: JoinHandle<T>) -> std::result::Result<T, tokio::task::JoinError> {
    tokio::task::block_in_place(|| runtime.block_on(task))
}

/// Uploads the pieces: in one request when there is but one part, in parts otherwise.
async fn upload(store: Store, key: String, mut pieces: mpsc::Receiver<Piece>, interrupt: Interrupt) -> Result<()> {
    let metadata = Metadata::new();
    let put = async |content: Vec<u8>| {
        tokio::select! {
            put = store.put(&key, content, &metadata) => put,
            () = interrupt.stopped() => Err(given_up(&key)),
        }
    };
    let (first, its_place) = match pieces.recv().await {
        Some(Piece::Part(part, place)) => (part, place),
        Some(Piece::End) => return put(Vec::new()).await,
        None => return Err(given_up(&key)),
    };
    let second = match pieces.recv().await {
        Some(Piece::Part(part, place)) => (part, place),
        Some(Piece::End) => return put(first.into()).await,
        None => return Err(given_up(&key)),
    };
    let first = (first, its_place);
    let mut parts = store.begin_upload(&key).await?;
    let mut sending = Sending::new();
    let sent = tokio::select! {
        sent = send_parts(&mut parts, &mut sending, [first, second], &key, pieces) => sent,
        () = interrupt.stopped() => Err(given_up(&key)),
    };
    let outcome = match sent {
        Ok(()) => parts.complete().await,
        Err(error) => {
            // A part that lands after the abort would stay in the store, and be paid for.
            let landed = async { while sending.next().await.is_some() {} };
            if tokio::time::timeout(LAST_PARTS_MAY_TAKE, landed).await.is_err() {
                tracing::debug!("parts of object \"{key}\" are still on their way");
            }
            drop(sending);
            Err(error)
        }
    };
    if outcome.is_err()
        && let Err(error) = parts.abort().await
    {
        tracing::warn!("{error}; its parts stay in the store until a lifecycle rule removes them");
    }
    outcome
}

async fn send_parts(
    parts: &mut Upload,
    sending: &mut Sending,
    first: [(Bytes, OwnedSemaphorePermit); 2],
    key: &str,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<()> {
    let mut send = |part: Bytes, place: OwnedSemaphorePermit| {
        let sent = parts.send_part(part);
        async move {
            let sent = sent.await;
            drop(place);
            sent
        }
        .boxed()
    };
    for (part, place) in first {
        sending.push(send(part, place));
    }
    loop {
        if sending.len() >= PARTS_IN_FLIGHT {
            if let Some(sent) = sending.next().await {
                sent?;
            }
            continue;
        }
        tokio::select! {
            piece = pieces.recv() => match piece {
                Some(Piece::Part(part, place)) => sending.push(send(part, place)),
                Some(Piece::End) => break,
                None => return Err(given_up(key)),
            },
            Some(sent) = sending.next() => sent?,
        }
    }
    while let Some(sent) = sending.next().await {
        sent?;
    }
    Ok(())
}

fn given_up(key: &str) -> Error {
    Error::new(ErrorKind::Interrupted, format!("the upload of object \"{key}\" was given up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_in_memory_give_way_to_the_limit_before_workers_and_workers_before_the_size_of_a_part() {
        const MIB: usize = 1 << 20;
        let within = |limit, jobs, part| {
            let found = Buffers::within(limit * MIB, jobs, part * MIB);
            (found.workers, found.part_size_bytes / MIB, found.parts_in_memory)
        };
        assert_eq!(within(84, 2, 10), (2, 10, 4));
        assert_eq!(within(84, 2, 14), (2, 14, 3));
        assert_eq!(within(84, 2, 21), (2, 21, 2));
        assert_eq!(within(84, 2, 22), (1, 22, 3));
        assert_eq!(within(84, 2, 42), (1, 42, 2));
        assert_eq!(within(84, 2, 5000), (1, 42, 2));
        assert_eq!(within(84, 2, 1), (2, 5, 4));
        assert_eq!(within(84, 0, 10), (1, 10, 4));
        for (limit, jobs, part) in [(84, 2, 7), (84, 2, 30), (42, 1, 100), (336, 8, 64), (2688, 64, 21)] {
            let (workers, size, parts) = within(limit, jobs, part);
            assert!(workers * size * parts <= limit, "{limit} {jobs} {part}");
        }
    }
}
