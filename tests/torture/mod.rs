//! Faults and kills drawn from a seed: a slice of them in every run of the suite, many in `make torture`.
//!
//! `BARBACK_TORTURE_SEED` is the first seed, `BARBACK_TORTURE_FAULTS`, `BARBACK_TORTURE_KILLS` and `BARBACK_TORTURE_SEGMENTS`
//! say how many. A failure names its seed; that seed and a count of 1 play it again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a helper of tests fails the test that called it"
)]

mod disks;
mod faults;
mod kills;
mod scene;
mod soak;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number in the environment variable `name`, else `otherwise`.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What was done, and how often; printed at the end.
#[derive(Debug, Default)]
struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    fn add(&self, what: impl Into<String>, times: u64) {
        *self.0.lock().expect("no panic happens under this lock").entry(what.into()).or_default() += times;
    }

    fn print(&self, title: &str) {
        eprintln!("{title}:");
        for (what, times) in &*self.0.lock().expect("no panic happens under this lock") {
            eprintln!("  {times:>8}  {what}");
        }
    }
}

/// Scenarios at once: much of their time they wait for what is late.
const THREADS: usize = 4;

/// Runs `play` for `count` seeds; every failed seed is named at the end, with the way to play it again.
fn play_all(kind: &str, count: u64, play: impl Fn(u64, &Tally) + Sync) {
    let first = number("BARBACK_TORTURE_SEED", 1);
    let (next, failed, tally) = (AtomicU64::new(first), Mutex::new(Vec::new()), Tally::default());
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    // What panicked has said why on stderr.
                    if catch_unwind(AssertUnwindSafe(|| play(seed, &tally))).is_err() {
                        failed.lock().expect("no panic happens under this lock").push(seed);
                    }
                }
            });
        }
    });
    tally.print(&format!("{count} {kind}"));
    let failed = failed.into_inner().expect("no panic happens under this lock");
    assert!(
        failed.is_empty(),
        "{kind} failed with the seeds {failed:?}; one is played again with BARBACK_TORTURE_SEED=<seed> and a count of 1"
    );
}
