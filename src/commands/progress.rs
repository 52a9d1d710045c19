//! Counters a long command keeps and a progress bar reads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Under this target a command says what it is through with, one line for each phase.
pub const PHASES: &str = "barback::phase";

/// How far a command has come. Shared as `Arc<Progress>` between workers and whoever draws it.
///
/// Counting is one relaxed atomic addition: cheap enough for every buffer. The numbers are for people; nothing may be
/// decided by them.
#[derive(Debug, Default)]
pub struct Progress {
    phase: Mutex<&'static str>,
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    files: AtomicU64,
    waited_ns: AtomicU64,
    worked_ns: AtomicU64,
}

/// What [`Progress`] stood at when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// What is being done, `copying files`; empty before the first phase.
    pub phase: &'static str,
    /// Bytes to do in this phase; 0 when nobody knows.
    pub total_bytes: u64,
    /// Bytes done in this phase. May pass `total_bytes`: a cluster grows while it is copied.
    pub done_bytes: u64,
    /// Files done in this phase.
    pub files: u64,
}

impl Progress {
    /// Begins phase `name` of `total_bytes` (0 when unknown); the counters start again at zero.
    pub fn phase(&self, name: &'static str, total_bytes: u64) {
        let mut phase = self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *phase = name;
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
        self.done_bytes.store(0, Ordering::Relaxed);
        self.files.store(0, Ordering::Relaxed);
    }

    /// Counts `bytes` as done.
    pub fn add_bytes(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `files` as done.
    pub fn add_files(&self, files: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
    }

    /// Counts time that a worker waited for the store, and all its time with it.
    pub fn add_time(&self, waited: Duration, worked: Duration) {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(nanos(waited), Ordering::Relaxed);
        self.worked_ns.fetch_add(nanos(worked), Ordering::Relaxed);
    }

    /// What all workers waited for the store, and worked with that included, since the beginning.
    #[must_use]
    pub fn waited_and_worked(&self) -> (Duration, Duration) {
        let read = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        (read(&self.waited_ns), read(&self.worked_ns))
    }

    /// Where it stands now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let phase = self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Snapshot {
            phase: *phase,
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_phase_starts_at_zero() {
        let progress = Progress::default();
        assert_eq!(progress.snapshot(), Snapshot { phase: "", total_bytes: 0, done_bytes: 0, files: 0 });
        progress.phase("copying files", 100);
        progress.add_bytes(30);
        progress.add_files(2);
        assert_eq!(
            progress.snapshot(),
            Snapshot { phase: "copying files", total_bytes: 100, done_bytes: 30, files: 2 }
        );
        progress.phase("waiting for WAL", 0);
        assert_eq!(progress.snapshot(), Snapshot { phase: "waiting for WAL", total_bytes: 0, done_bytes: 0, files: 0 });
    }

    #[test]
    fn workers_may_count_at_once() {
        let progress = Progress::default();
        progress.phase("copying files", 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| progress.add_bytes(3)));
            }
        });
        assert_eq!(progress.snapshot().done_bytes, 12_000);
    }
}
