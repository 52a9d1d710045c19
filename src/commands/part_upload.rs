//! A stream of bytes cut into equal parts and uploaded while it is still being written.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::codec::digest::{Sha256, Sha256Builder};
use crate::codec::local_failure;
use crate::commands::interrupt::Interrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Metadata, Store, Upload};

/// Parts of one object on their way to the store at the same time.
const PARTS_IN_FLIGHT: usize = 2;

/// Parts cut but not yet taken by the uploader, per object.
const PARTS_QUEUED: usize = 1;

/// How many parts one open object may hold in memory: in flight, queued, and the one being filled. The memory of a
/// backup is this × part size × (jobs + 1), and the codecs' own.
pub const PARTS_IN_MEMORY: usize = PARTS_IN_FLIGHT + PARTS_QUEUED + 1;

/// How long an upload that is given up waits for the parts that are on their way.
const LAST_PARTS_MAY_TAKE: Duration = Duration::from_secs(5);

/// A rate limit sleeps no longer than this before it asks whether to stop.
const LONGEST_NAP: Duration = Duration::from_millis(200);

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
    buffer: Vec<u8>,
    part_size_bytes: usize,
    queue: Option<mpsc::Sender<Piece>>,
    uploader: Option<JoinHandle<Result<()>>>,
    runtime: Handle,
    digest: Sha256Builder,
    bytes: u64,
    rate: RateLimit,
    interrupt: Interrupt,
}

/// What bounds an upload.
#[derive(Debug, Clone)]
pub struct UploadLimits {
    /// The size of one part of it.
    pub part_size_bytes: usize,
    /// How fast it may go.
    pub rate: RateLimit,
    /// When this says stop, the upload is given up, at whatever point it is.
    pub interrupt: Interrupt,
}

#[derive(Debug)]
enum Piece {
    Part(Bytes),
    End,
}

impl PartUpload {
    /// Begins an object; the upload runs as a task of `runtime`, which must be a multi-threaded one.
    pub fn begin(runtime: &Handle, store: &Store, key: String, limits: UploadLimits) -> Self {
        let UploadLimits { part_size_bytes, rate, interrupt } = limits;
        let (queue, pieces) = mpsc::channel(PARTS_QUEUED);
        let uploader = runtime.spawn(upload(store.clone(), key, pieces, interrupt.clone()));
        Self {
            buffer: Vec::with_capacity(part_size_bytes),
            part_size_bytes,
            queue: Some(queue),
            uploader: Some(uploader),
            runtime: runtime.clone(),
            digest: Sha256Builder::new(),
            bytes: 0,
            rate,
            interrupt,
        }
    }

    /// Sends what is left and makes the object visible. Durable when it returns.
    pub fn finish(mut self) -> Result<Uploaded> {
        self.send_buffer().and_then(|()| self.send(Piece::End)).map_err(local_failure)?;
        self.queue = None;
        self.join()?;
        let digest = std::mem::take(&mut self.digest);
        Ok(Uploaded { bytes: self.bytes, sha256: digest.finish() })
    }

    fn join(&mut self) -> Result<()> {
        let Some(uploader) = self.uploader.take() else {
            return Err(Error::new(ErrorKind::Bug, "an upload was waited for twice"));
        };
        wait_for(&self.runtime, uploader)
            .map_err(|error| Error::new(ErrorKind::Bug, format!("an upload task failed: {error}")))?
    }

    fn send_buffer(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.buffer, Vec::with_capacity(self.part_size_bytes));
        self.rate.wait_for(part.len(), &self.interrupt).map_err(io::Error::other)?;
        self.send(Piece::Part(part.into()))
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
        let taken = bytes.len().min(self.part_size_bytes - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.digest.update(&bytes[..taken]);
        self.bytes += taken as u64;
        if self.buffer.len() == self.part_size_bytes {
            self.send_buffer()?;
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
    let first = match pieces.recv().await {
        Some(Piece::Part(part)) => part,
        Some(Piece::End) => return put(Vec::new()).await,
        None => return Err(given_up(&key)),
    };
    let second = match pieces.recv().await {
        Some(Piece::Part(part)) => part,
        Some(Piece::End) => return put(first.into()).await,
        None => return Err(given_up(&key)),
    };
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
    first: [Bytes; 2],
    key: &str,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<()> {
    for part in first {
        sending.push(parts.send_part(part).boxed());
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
                Some(Piece::Part(part)) => sending.push(parts.send_part(part).boxed()),
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

/// A limit on bytes per second shared by everything that uploads; cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct RateLimit {
    bytes_per_s: Option<u64>,
    /// When the bytes let through so far will have passed at the rate.
    free_at: std::sync::Arc<std::sync::Mutex<Option<Instant>>>,
}

impl RateLimit {
    /// At most `bytes_per_s`; no limit when none.
    #[must_use]
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        Self { bytes_per_s, ..Self::default() }
    }

    /// Sleeps until `bytes` more may be sent; the error says that nothing more is to be sent.
    fn wait_for(&self, bytes: usize, interrupt: &Interrupt) -> Result<()> {
        let Some(rate) = self.bytes_per_s.filter(|rate| *rate > 0) else { return Ok(()) };
        #[allow(clippy::cast_precision_loss, reason = "a rate limit needs no more than 53 bits")]
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let now = Instant::now();
        let begins = {
            let mut free_at = self.free_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let begins = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(begins + takes);
            begins
        };
        loop {
            interrupt.check()?;
            let left = begins.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LONGEST_NAP));
        }
    }
}
