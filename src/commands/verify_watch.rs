//! When a verification ends before it is through: by a signal, when its time is up, or with the store.

use std::pin::pin;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::commands::interrupt::Interrupt;
use crate::commands::verify_report::Stop;
use crate::error::Result;

/// Looks at the clock and at signals while others work.
#[derive(Debug)]
pub(crate) struct Watch {
    interrupt: Interrupt,
    pub(crate) begun: Instant,
    deadline: Option<Instant>,
    pub(crate) stop: Option<Stop>,
}

impl Watch {
    pub(crate) fn new(interrupt: Interrupt, max_duration: Option<Duration>) -> Self {
        let begun = Instant::now();
        Self { interrupt, begun, deadline: max_duration.and_then(|most| begun.checked_add(most)), stop: None }
    }

    /// The time it is, by a clock that does not jump.
    pub(crate) fn now(&self, at_begin: DateTime<Utc>) -> DateTime<Utc> {
        at_begin + self.begun.elapsed()
    }

    /// True when nothing more is to be begun.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.stop.is_none() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.stop = Some(Stop::Time);
        }
        self.stop.is_some()
    }

    /// Works until it is done; a signal or the end of the time makes it stop early, which it does by itself.
    pub(crate) async fn watch<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let deadline = self.deadline;
        let time = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = &mut work => return done,
            error = self.interrupt.signalled() => self.stop = Some(Stop::Signal(error.to_string())),
            () = time => self.stop = Some(Stop::Time),
        }
        self.interrupt.stop();
        work.await
    }

    /// Work that has nothing to finish: a signal ends it at once.
    pub(crate) async fn interruptible<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            error = self.interrupt.signalled() => {
                self.stop = Some(Stop::Signal(error.to_string()));
                Err(error)
            }
        }
    }
}
