//! The helper of a recovery: a process of its own that fetches segments into the spool while PostgreSQL replays earlier ones.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use crate::commands::archive::{Archive, ContentCheck};
use crate::commands::interrupt::Interrupt;
use crate::commands::prefetch::{UNPACKING, keep};
use crate::commands::replay_spool::ReplaySpool;
use crate::commands::wal_restore::find_complete;
use crate::commands::wal_restore_ahead::Recovery;
use crate::domain::compression::Compression;
use crate::domain::fetch_ahead::Course;
use crate::domain::segment::SegmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::wal_directory;

/// Credentials, addresses and memory do not grow older than this; the next call starts a new helper.
const LIFE: Duration = Duration::from_mins(10);

/// At least so many segments are kept ahead, and so many for each job: what a store takes a second longer for must not be
/// noticed.
const AHEAD: u64 = 8;
const AHEAD_PER_JOB: u64 = 4;

/// Nor more bytes than this,
const AHEAD_BYTES: u64 = 1 << 30;

/// nor more than one part in so many of what is free: the server needs room in `pg_wal` itself.
const OF_FREE_ROOM: u64 = 4;

/// Objects on their way hold no more memory than this; a larger one comes alone.
const IN_FLIGHT_BYTES: u64 = 256 << 20;

/// Between two looks at where recovery is.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How often it is tried to be the helper.
const ATTEMPTS: usize = 5;

/// How soon a segment that was not there, or a store that did not answer, is asked for again: at first, and at most.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// What a helper does.
#[derive(Debug, Clone, Copy)]
pub struct Helper<'a> {
    /// For which recovery.
    pub recovery: Recovery<'a>,
    /// Segments on their way at once.
    pub jobs: usize,
    /// The format to look for first.
    pub expected: Compression,
}

/// Why a helper ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Signal,
    SpoolGone,
    ServerStopped,
    Idle,
    OldAge,
    Disk(String),
}

/// A helper that has ended, and still keeps others from beginning.
#[derive(Debug)]
pub struct Ended {
    spool: ReplaySpool,
    end: End,
    _lock: File,
}

impl Ended {
    /// Removes the spool; to be called once nothing that was unpacked is being written any more.
    pub fn clear(self) {
        self.spool.clear();
        tracing::info!("no more WAL is fetched ahead: {}", self.end);
    }
}

/// Fetches the segments that recovery will ask for next until it asks no more. None where another helper is at work.
///
/// No more than one helper, 1 GiB and a quarter of the free room for each recovery; it lives for ten minutes at most. One
/// request for each segment, two more where it is stored in another format than the last one, and two every few seconds where
/// the archive ends. What cannot be had is left to the call that asks for it.
///
/// Errors: `Local` where signals cannot be caught or the destination's directory cannot be found.
pub async fn fetch_ahead(archive: &Archive, helper: &Helper<'_>) -> Result<Option<Ended>> {
    // A terminal's signals, and the server's to the group of its children, are not for us. Fails only for who leads one.
    let _ = rustix::process::setsid();
    let recovery = &helper.recovery;
    let spool = ReplaySpool::of(recovery.destination, recovery.store, recovery.server)?;
    let mut interrupt = Interrupt::listen()?;
    let Some(lock) = become_helper(&spool).await else { return Ok(None) };
    spool.sweep();
    let state = State { archive, helper, spool: &spool, begun: Instant::now(), had_server: spool.has_server() };
    let end = tokio::select! {
        end = state.run() => end,
        _ = interrupt.signalled() => End::Signal,
    };
    Ok(Some(Ended { spool, end, _lock: lock }))
}

/// A call that looks for a helper is in the way for a moment.
async fn become_helper(spool: &ReplaySpool) -> Option<File> {
    for _ in 0..ATTEMPTS {
        if let Some(lock) = spool.become_helper() {
            return Some(lock);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "a signal asked for it",
            Self::SpoolGone => "the spool was removed",
            Self::ServerStopped => "the server has stopped",
            Self::Idle => "nothing was asked for",
            Self::OldAge => "another helper takes over",
            Self::Disk(error) => error,
        })
    }
}

/// Segments that are not fetched now.
#[derive(Debug, Default)]
struct Setbacks {
    /// Those that are damaged or refused: the call that asks for them says why.
    unusable: BTreeSet<SegmentName>,
    /// The first one that is not there or cannot be had, and when it is asked for again.
    pause: Option<Pause>,
    /// There was no room, and that was said.
    is_out_of_room: bool,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    segment: SegmentName,
    delay: Duration,
    until: Instant,
}

struct State<'a> {
    archive: &'a Archive,
    helper: &'a Helper<'a>,
    spool: &'a ReplaySpool,
    begun: Instant,
    had_server: bool,
}

type Fetched = (SegmentName, Result<Compression>);

impl State<'_> {
    async fn run(&self) -> End {
        let unpacking = Semaphore::new(UNPACKING);
        let mut fetches = FuturesUnordered::new();
        let mut fetching = BTreeSet::new();
        let mut setbacks = Setbacks::default();
        let mut guess = self.helper.expected;
        let mut last: Option<(SegmentName, Instant)> = None;
        let (mut seen, mut has_ended) = (None, false);
        loop {
            // Between two segments of recovery there are many looks, and nothing new at most of them.
            let Some(mark) = self.spool.course_mark() else { return End::SpoolGone };
            if seen != Some(mark) || has_ended || setbacks.is_over() {
                let Some(course) = self.spool.course() else { return End::SpoolGone };
                if last.is_none_or(|(requested, _)| requested != course.requested) {
                    last = Some((course.requested, Instant::now()));
                    self.follow(&course, &mut setbacks);
                }
                for segment in self.next(&course, &fetching, &mut setbacks) {
                    match self.begin(segment) {
                        Ok(true) => {
                            fetching.insert(segment);
                            fetches.push(self.fetch(segment, guess, &unpacking));
                        }
                        Ok(false) => {}
                        Err(error) => return End::Disk(error.to_string()),
                    }
                }
                (seen, has_ended) = (Some(mark), false);
            }
            if let Some(end) = self.end(last.map_or(self.begun, |(_, moved)| moved)) {
                return end;
            }
            tokio::select! {
                Some((segment, outcome)) = fetches.next(), if !fetches.is_empty() => {
                    has_ended = true;
                    fetching.remove(&segment);
                    match outcome {
                        Ok(codec) => {
                            guess = codec;
                            setbacks.got(segment);
                        }
                        Err(error) if error.kind() == ErrorKind::Local => return End::Disk(error.to_string()),
                        Err(error) => setbacks.add(segment, &error),
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Recovery is elsewhere than a moment ago: what it will not ask for now goes.
    fn follow(&self, course: &Course, setbacks: &mut Setbacks) {
        let window: BTreeSet<SegmentName> = self.window(course).collect();
        // The segment that is asked for may be on its way to recovery this very moment.
        self.spool.retain(|segment| segment == course.requested || window.contains(&segment));
        setbacks.unusable.retain(|segment| window.contains(segment));
        if setbacks.pause.is_some_and(|pause| !window.contains(&pause.segment)) {
            setbacks.pause = None;
        }
    }

    fn window(&self, course: &Course) -> impl Iterator<Item = SegmentName> + use<> {
        course.window(AHEAD.max(AHEAD_PER_JOB * self.helper.jobs as u64), AHEAD_BYTES.max(course.size.bytes()))
    }

    /// Why to end now; recovery asked for something new `moved` ago. Where the archive ends it does not.
    fn end(&self, moved: Instant) -> Option<End> {
        if self.had_server && !self.spool.has_server() {
            Some(End::ServerStopped)
        } else if moved.elapsed() > self.helper.recovery.idle {
            Some(End::Idle)
        } else {
            (self.begun.elapsed() > LIFE).then_some(End::OldAge)
        }
    }

    /// Which segments to begin with now.
    fn next(&self, course: &Course, fetching: &BTreeSet<SegmentName>, setbacks: &mut Setbacks) -> Vec<SegmentName> {
        if !course.is_forward {
            return Vec::new();
        }
        let most = (IN_FLIGHT_BYTES / course.size.bytes()).clamp(1, self.helper.jobs as u64);
        let jobs = usize::try_from(most).unwrap_or(1).saturating_sub(fetching.len());
        if jobs == 0 {
            return Vec::new();
        }
        let (held, missing): (Vec<SegmentName>, Vec<SegmentName>) =
            self.window(course).partition(|segment| self.spool.has(*segment));
        let wanted: Vec<SegmentName> = missing
            .into_iter()
            .take_while(|segment| setbacks.goes_on(*segment))
            .filter(|segment| !fetching.contains(segment) && !setbacks.unusable.contains(segment))
            .take(jobs)
            .collect();
        if wanted.is_empty() {
            return wanted;
        }
        let (size, ours) = (course.size.bytes(), held.len() as u64);
        let free = wal_directory::room(self.spool.directory()).map_or(0, |room| room.free_bytes);
        let share = (free + ours * size) / OF_FREE_ROOM / size;
        let fits = share.saturating_sub(ours + fetching.len() as u64);
        if fits == 0 && ours == 0 && fetching.is_empty() && !std::mem::replace(&mut setbacks.is_out_of_room, true) {
            tracing::warn!("there is no room for WAL that is fetched ahead: {free} bytes are free");
        }
        wanted.into_iter().take(usize::try_from(fits).unwrap_or(usize::MAX)).collect()
    }

    /// Announces a fetch; false where recovery has come to that segment meanwhile, and fetches it itself.
    fn begin(&self, segment: SegmentName) -> Result<bool> {
        self.spool.announce(segment)?;
        let is_needed = self.spool.course().is_some_and(|course| !course.has_reached(segment));
        if !is_needed {
            self.spool.withdraw(segment);
        }
        Ok(is_needed)
    }

    async fn fetch(&self, segment: SegmentName, guess: Compression, unpacking: &Semaphore) -> Fetched {
        let fetched = async {
            let arrived = find_complete(self.archive, segment, guess).await?;
            let codec = arrived.codec;
            keep(self.spool.segments(), segment, arrived, ContentCheck::Checked, unpacking).await?;
            Ok(codec)
        };
        let outcome = fetched.await;
        self.spool.withdraw(segment);
        (segment, outcome)
    }
}

impl Setbacks {
    /// False where what lies before `segment`, or itself, is to be waited for.
    fn goes_on(&self, segment: SegmentName) -> bool {
        self.pause.is_none_or(|pause| segment < pause.segment || (segment == pause.segment && pause.is_over()))
    }

    /// True when what was not there is to be asked for again.
    fn is_over(&self) -> bool {
        self.pause.is_some_and(Pause::is_over)
    }

    fn got(&mut self, segment: SegmentName) {
        if self.pause.is_some_and(|pause| pause.segment == segment) {
            self.pause = None;
        }
    }

    fn add(&mut self, segment: SegmentName, error: &Error) {
        let is_absent = error.kind() == ErrorKind::NotFound;
        if !is_absent {
            tracing::warn!("could not fetch WAL file \"{segment}\": {error}");
        }
        if !is_absent && error.kind() != ErrorKind::Unreachable {
            self.unusable.insert(segment);
            return;
        }
        if self.pause.is_some_and(|pause| pause.segment < segment) {
            return;
        }
        let known = self.pause.filter(|pause| pause.segment == segment);
        let delay = known.map_or(AGAIN_AFTER.0, |pause| (pause.delay * 2).min(AGAIN_AFTER.1));
        self.pause = Some(Pause { segment, delay, until: Instant::now() + delay });
    }
}

impl Pause {
    fn is_over(self) -> bool {
        Instant::now() >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> SegmentName {
        SegmentName { segment: number, ..("000000010000000000000000").parse().unwrap() }
    }

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "why")
    }

    #[test]
    fn nothing_is_fetched_beyond_the_end_of_the_archive_until_it_is_asked_for_again() {
        let mut setbacks = Setbacks::default();
        setbacks.add(name(7), &error(ErrorKind::NotFound));
        setbacks.add(name(9), &error(ErrorKind::NotFound));
        assert!(setbacks.goes_on(name(6)) && !setbacks.goes_on(name(7)) && !setbacks.goes_on(name(8)));
        setbacks.add(name(6), &error(ErrorKind::NotFound));
        assert!(!setbacks.goes_on(name(6)));
        setbacks.got(name(6));
        assert!(setbacks.goes_on(name(9)));
    }

    #[test]
    fn a_damaged_segment_is_left_out_and_those_after_it_are_not() {
        let mut setbacks = Setbacks::default();
        setbacks.add(name(7), &error(ErrorKind::Corrupt));
        assert!(setbacks.unusable.contains(&name(7)) && setbacks.goes_on(name(8)));
    }

    #[test]
    fn a_store_that_does_not_answer_is_asked_less_and_less_often() {
        let mut setbacks = Setbacks::default();
        let mut delays = Vec::new();
        for _ in 0..5 {
            setbacks.add(name(7), &error(ErrorKind::Unreachable));
            delays.push(setbacks.pause.unwrap().delay.as_secs());
        }
        assert_eq!(delays, [1, 2, 4, 5, 5]);
    }
}
