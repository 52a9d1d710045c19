//! The short way of `wal-restore`: a segment that lies ready is handed over without a request, and a helper is called that
//! fetches the next ones while PostgreSQL replays.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::commands::replay_spool::ReplaySpool;
use crate::domain::fetch_ahead::{Course, Pace};
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::error::{Error, Result};
use crate::layout::keys::ServerPrefix;

/// A helper that has a segment on its way is waited for this long: beyond that the store stalls on it, and is asked again.
const WAIT_FOR_HELPER: Duration = Duration::from_secs(30);

/// Between two looks at whether it came.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Which recovery a call belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Recovery<'a> {
    /// Where its segments go, as `%p` gives it.
    pub destination: &'a Path,
    /// What tells the store from every other.
    pub store: &'a str,
    /// Whose archive it reads.
    pub server: &'a ServerPrefix,
    /// After how long without a new request it is taken to be over.
    pub idle: Duration,
}

/// One call of a recovery that has its segments fetched ahead.
///
/// Nothing here is an error: whatever goes wrong is said, and the caller asks the store as if there were no spool.
#[derive(Debug)]
pub struct Call {
    spool: ReplaySpool,
    destination: PathBuf,
    idle: Duration,
    course: Option<Course>,
    begun: Instant,
    begun_ms: u64,
    /// The next segments will be asked for soon, and nobody fetches them.
    needs_helper: bool,
    /// What was delivered lay ready.
    was_ready: bool,
}

impl Call {
    /// Looks where the recovery is, and says what its helper has to say. Errors: `Local` where there is no such directory.
    pub fn begin(recovery: &Recovery<'_>) -> Result<Self> {
        let (begun, begun_ms) = (Instant::now(), now_ms());
        let spool = ReplaySpool::of(recovery.destination, recovery.store, recovery.server)?;
        let course = spool.course();
        if course.is_some() {
            spool.take_log().iter().for_each(|line| repeat(line));
        }
        let (destination, idle) = (recovery.destination.to_owned(), recovery.idle);
        Ok(Self { spool, destination, idle, course, begun, begun_ms, needs_helper: false, was_ready: false })
    }

    /// Hands `segment` over if it lies ready, or comes while a helper has it on its way.
    pub fn deliver(&mut self, segment: SegmentName) -> bool {
        // Before anything else: the helper says what it fetches before it looks at this, and so never fetches it once more.
        // What another timeline has not got must not lead away from this one.
        if let Some(course) = self.course.filter(|course| course.requested.timeline == segment.timeline) {
            self.note(course.asked(segment));
        }
        if self.take(segment) {
            self.delivered(segment, None);
            return true;
        }
        while self.spool.is_announced(segment) && self.spool.has_helper() && self.begun.elapsed() < WAIT_FOR_HELPER {
            std::thread::sleep(LOOK_EVERY);
        }
        let came = self.course.is_some() && self.take(segment);
        if came {
            self.delivered(segment, Some(self.begun.elapsed()));
        }
        came
    }

    /// Takes note that the caller has fetched `segment` to the destination itself.
    pub fn fetched(&mut self, segment: SegmentName) {
        self.delivered(segment, Some(self.begun.elapsed()));
    }

    /// True when a helper is to be started for the segments that come next.
    #[must_use]
    pub fn needs_helper(&self) -> bool {
        self.needs_helper
    }

    /// True when what was delivered lay ready: recovery did not wait for it.
    #[must_use]
    pub fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Where the helper's stderr goes: it must not keep the server's log open. Errors: `Local`.
    pub fn helper_log(&self) -> Result<File> {
        self.spool.open_log()
    }

    /// Says how fast WAL came, where recovery has come to an end of it.
    pub fn report(&mut self) {
        let Some(course) = self.course.filter(|course| course.total.ready + course.total.late > 1) else { return };
        tracing::info!("{} since the last report", course.total);
        self.note(Course { total: Pace::since(now_ms()), ..course });
    }

    fn take(&self, segment: SegmentName) -> bool {
        self.spool.has(segment) && self.spool.segments().deliver(&WalFileName::Segment(segment), &self.destination)
    }

    /// Notes where recovery is now, and whether it will need a helper.
    fn delivered(&mut self, segment: SegmentName, waited: Option<Duration>) {
        self.was_ready = waited.is_none();
        let now_ms = now_ms();
        let waited_ms = waited.map(|waited| u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        let before = self.course;
        let course = match before {
            Some(course) => course.asked(segment),
            None => match self.first(segment) {
                Ok(size) => Course::begin(segment, size, self.begun_ms),
                Err(error) => {
                    tracing::warn!("{error}; no WAL is fetched ahead");
                    return;
                }
            },
        };
        let mut course = course.delivered(waited_ms, now_ms);
        if course.pace.is_over(now_ms) {
            if course.pace.is_starved(now_ms) {
                tracing::warn!("WAL is replayed faster than it comes: {} in the last minute or more", course.pace);
            }
            course.pace = Pace::since(now_ms);
        }
        // Who takes longer for a segment than a helper waits for the next request needs none: it follows a primary.
        let replayed_ms = before.map_or(0, |before| self.begun_ms.saturating_sub(before.delivered_ms));
        let is_at_work = u128::from(replayed_ms) < self.idle.as_millis();
        self.needs_helper = self.note(course) && course.is_forward && is_at_work && !self.spool.has_helper();
    }

    /// Makes the spool; how long segments are.
    fn first(&self, segment: SegmentName) -> Result<SegmentSize> {
        let failed = |cause| Error::local("look for file", &self.destination, cause);
        let size = SegmentSize::new(std::fs::metadata(&self.destination).map_err(failed)?.len())?;
        self.spool.segments().prepare(segment)?;
        Ok(size)
    }

    /// True when it could be noted.
    fn note(&mut self, course: Course) -> bool {
        self.course = Some(course);
        match self.spool.note(&course) {
            Ok(()) => true,
            // A helper that took recovery to be over has removed it just now.
            Err(_) if !self.spool.directory().exists() => {
                self.course = None;
                false
            }
            Err(error) => {
                tracing::warn!("{error}; no WAL is fetched ahead");
                false
            }
        }
    }
}

/// Says a line of the helper's log, which begins with our name, its time before that.
fn repeat(line: &str) {
    let said = line.split_once("barback: ").map_or(line, |(_, said)| said);
    match said.split_once(": ") {
        Some(("warning" | "error", said)) => tracing::warn!("while fetching WAL ahead: {said}"),
        Some(("info" | "debug" | "trace", said)) => tracing::info!("while fetching WAL ahead: {said}"),
        _ => tracing::warn!("while fetching WAL ahead: {said}"),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
