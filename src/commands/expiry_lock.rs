//! How expiries and backups on different hosts keep out of each other's way: each writes what it is about to do, and then looks
//! what the others have written. Whoever looks last sees the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::commands::archive::Archive;
use crate::commands::process_identity;
use crate::domain::segment::SegmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::expiry_lock::{self, ExpiryLock, LIFE};
use crate::store::{Listed, Metadata};

/// Between two looks at whether an expiry is over.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A lock in the store.
#[derive(Debug, Clone)]
pub(crate) struct SeenLock {
    pub(crate) object: Listed,
    /// What it says; none where it cannot be read.
    pub(crate) lock: Option<ExpiryLock>,
}

impl SeenLock {
    /// True when whoever wrote it deletes nothing any more; `now` by a clock that differs by less than an hour from the store's.
    pub(crate) fn is_dead(&self, now: DateTime<Utc>) -> bool {
        let is_gone = self.lock.as_ref().is_some_and(|lock| lock.is_over || process_identity::is_gone(&lock.process));
        is_gone || expiry_lock::is_dead(self.object.modified, now)
    }

    /// Who wrote it, in words.
    pub(crate) fn who(&self) -> String {
        match &self.lock {
            Some(lock) => format!("process {} on host \"{}\", begun {}", lock.pid, lock.host, lock.started),
            None => format!("\"{}\", which cannot be read", self.object.key),
        }
    }
}

/// Every lock there is: one listing, and a small request for each.
pub(crate) async fn read_locks(archive: &Archive) -> Result<Vec<SeenLock>> {
    let mut listed = Vec::new();
    archive.store.list(&archive.prefix.expiries(), None, |object| listed.push(object)).await?;
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    read_listed(archive, listed).await
}

/// The same for locks that a listing has shown.
pub(crate) async fn read_listed(archive: &Archive, listed: Vec<Listed>) -> Result<Vec<SeenLock>> {
    let mut seen = Vec::new();
    for object in listed {
        let lock = match archive.store.get(&object.key, expiry_lock::LIMIT_BYTES).await {
            Ok(fetched) => ExpiryLock::from_json(&fetched.content),
            // Its expiry ended meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.kind() == ErrorKind::Corrupt => Err(error),
            Err(error) => return Err(error),
        };
        let lock = lock.inspect_err(|error| tracing::warn!("\"{}\": {error}", object.key)).ok();
        seen.push(SeenLock { object, lock });
    }
    Ok(seen)
}

/// An expiry that has said what it is about to do, and that nobody else is at work.
#[derive(Debug)]
pub(crate) struct Announced<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) lock: ExpiryLock,
    key: String,
    /// Locks of expiries that died; they go with ours.
    dead: Vec<SeenLock>,
    /// From before it was written: both clocks, because one stands still while the host sleeps and the other can be set.
    since: (Instant, DateTime<Utc>),
}

impl<'a> Announced<'a> {
    /// Writes the lock, then looks whether another expiry is at work: then ours is taken back.
    ///
    /// Needs no conditional write: each lock has a name of its own, and of two that are written at the same time at least one is
    /// seen by the other's writer. Which locks are dead is told by the store's clock alone, or by the host they came from.
    ///
    /// Errors: `Conflict` where another expiry is at work; the store's.
    pub(crate) async fn begin(archive: &'a Archive, lock: ExpiryLock) -> Result<Self> {
        let since = (Instant::now(), Utc::now());
        let key = archive.prefix.expiry(&lock.id);
        archive.store.put(&key, lock.to_json()?, &Metadata::new()).await?;
        let mut announced = Self { archive, lock, key, dead: Vec::new(), since };
        match announced.look_around().await {
            Ok(()) => Ok(announced),
            Err(error) => {
                announced.end().await;
                Err(error)
            }
        }
    }

    async fn look_around(&mut self) -> Result<()> {
        let locks = read_locks(self.archive).await?;
        let own = locks.iter().find(|seen| seen.object.key == self.key);
        let Some(now) = own.map(|own| own.object.modified) else {
            let message = format!("object \"{}\" is not listed although it was written just now", self.key);
            return Err(Error::new(ErrorKind::Unreachable, message));
        };
        let (dead, alive): (Vec<_>, Vec<_>) =
            locks.into_iter().filter(|seen| seen.object.key != self.key).partition(|seen| seen.is_dead(now));
        if let Some(other) = alive.first() {
            let message = format!("another expire is at work: {}", other.who());
            return Err(Error::new(ErrorKind::Conflict, message).with_hint(
                "Wait until it has ended. If it was killed on another host, its lock is void two hours after it was written.",
            ));
        }
        self.dead = dead;
        Ok(())
    }

    /// Errors: `Local` when the life of the lock is over: nothing may be deleted any more.
    pub(crate) fn check_alive(&self) -> Result<()> {
        let slept = Utc::now().signed_duration_since(self.since.1);
        if self.since.0.elapsed().as_secs() < LIFE.num_seconds().unsigned_abs() && slept < LIFE {
            return Ok(());
        }
        let message = "could not finish within an hour, after which an expiry's lock no longer protects it";
        Err(Error::new(ErrorKind::Local, message).with_hint("Run it again: it goes on where it stopped."))
    }

    /// Lets the lock be until it is void: here at the end of this process, elsewhere two hours after it was written.
    pub(crate) fn leave(self) {
        tracing::warn!(
            "the store did not answer: \"{}\" stays, and hinders expiries on other hosts for two hours",
            self.key
        );
    }

    /// Leaves the lock as that of an expiry that is over and did not delete all it had begun: it hinders nobody, and the next
    /// expiry learns from it which directories without a record are of no use. The dead ones' are named in it too.
    pub(crate) async fn end_unfinished(self) {
        let lock = ExpiryLock { is_over: true, wal_up_to: BTreeMap::new(), ..self.lock.clone() };
        let written = match lock.to_json() {
            Ok(json) => self.archive.store.put(&self.key, json, &Metadata::new()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!("{error}");
            return self.leave();
        }
        self.remove(self.dead.iter().map(|seen| &seen.object.key)).await;
    }

    /// Takes the lock back, with those of the dead. What cannot be taken back is void after two hours.
    pub(crate) async fn end(self) {
        self.remove(self.dead.iter().map(|seen| &seen.object.key).chain([&self.key])).await;
    }

    async fn remove(&self, keys: impl Iterator<Item = &String>) {
        for key in keys {
            if let Err(error) = self.archive.store.delete(key).await {
                tracing::warn!("{error}; it is void two hours after it was written");
            }
        }
    }
}

/// The expiries that may delete WAL which a backup needs that begins in `begin`. The backup must have said so before.
pub(crate) async fn in_the_way(archive: &Archive, begin: SegmentName) -> Result<Vec<SeenLock>> {
    let locks = read_locks(archive).await?;
    let now = Utc::now();
    let concerns = |seen: &SeenLock| seen.lock.as_ref().is_none_or(|lock| lock.may_delete_since(begin));
    Ok(locks.into_iter().filter(|seen| concerns(seen) && !seen.is_dead(now)).collect())
}

/// Returns when all of `locks` are gone or dead, which takes an hour at most from when they were seen.
pub(crate) async fn wait_for(archive: &Archive, locks: &[SeenLock]) -> Result<()> {
    let begun = Instant::now();
    // An expiry deletes nothing later than an hour after it wrote its lock; a request on its way has some minutes.
    let longest = LIFE.to_std().unwrap_or_default() + Duration::from_mins(10);
    for seen in locks {
        tracing::info!("waiting for an expire to end that may delete WAL this backup needs: {}", seen.who());
        while begun.elapsed() < longest && !seen.is_dead(Utc::now()) {
            if archive.store.head(&seen.object.key).await?.is_none() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}
