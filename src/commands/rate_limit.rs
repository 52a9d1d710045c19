//! How fast bytes may go to the store, or come from it, all workers together.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::commands::interrupt::Interrupt;
use crate::commands::progress::Progress;
use crate::error::Result;

/// What a limit on the rate lets through at once.
const PACE_BYTES: usize = 64 << 10;

/// A rate limit sleeps no longer than this before it asks whether to stop.
const LONGEST_NAP: Duration = Duration::from_millis(200);

/// A limit on bytes per second shared by everything that moves bytes; cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct RateLimit {
    bytes_per_s: Option<u64>,
    /// Whether every object has the rate for itself, and whole parts of it are held back only.
    pub(crate) is_loose: bool,
    /// When the bytes let through so far will have passed at the rate.
    free_at: Arc<std::sync::Mutex<Option<Instant>>>,
}

impl RateLimit {
    /// At most `bytes_per_s`; no limit when none.
    #[must_use]
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        Self { bytes_per_s, ..Self::default() }
    }

    /// As Barman 3.19.1 counts: each object by itself, between its parts, so that one with a single part is not held back.
    #[must_use]
    pub fn loose(bytes_per_s: Option<u64>) -> Self {
        Self { bytes_per_s, is_loose: true, ..Self::default() }
    }

    /// What holds for one more object.
    pub(crate) fn of_another_object(&self) -> Self {
        if self.is_loose { Self::loose(self.bytes_per_s) } else { self.clone() }
    }

    /// After how much of an object its writer is held back.
    pub(crate) fn pace_bytes(&self, part_size_bytes: usize) -> usize {
        if self.is_loose { part_size_bytes } else { PACE_BYTES }
    }

    /// Sleeps until `bytes` more may pass; the error says that nothing more is to.
    pub(crate) fn wait_for(&self, bytes: usize, interrupt: &Interrupt) -> Result<()> {
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

/// Bytes from the store, no faster than they may come, until somebody says stop.
pub(crate) struct Paced<'a, R> {
    pub(crate) content: R,
    pub(crate) rate: &'a RateLimit,
    pub(crate) interrupt: &'a Interrupt,
    /// Where they are counted, unless that is done elsewhere.
    pub(crate) progress: Option<&'a Progress>,
}

impl<R: Read> Read for Paced<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt.check().map_err(io::Error::other)?;
        let length = self.content.read(buffer)?;
        self.rate.wait_for(length, self.interrupt).map_err(io::Error::other)?;
        if let Some(progress) = self.progress {
            progress.add_bytes(length as u64);
        }
        Ok(length)
    }
}
