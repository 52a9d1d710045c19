//! Which segments are fetched before recovery asks for them, and what it costs recovery when they are not ready.

use std::fmt;
use std::str::FromStr;

use crate::domain::segment::{SegmentName, SegmentSize};
use crate::error::{Error, Result};

/// Waiting is worth a warning when it took this share of the time,
const STARVED_SHARE: u64 = 10;

/// and this much of it. It is judged, and said at most, once in
const STARVED_MS: u64 = 1000;

/// so long.
const REPORT_EVERY_MS: u64 = 60_000;

/// How a request follows the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The same segment once more.
    Again,
    /// The next one, on the same timeline or on a later one, where recovery may begin with the same number.
    Forward,
    /// Backward, or over a gap: recovery begins anew, or it is `pg_rewind`.
    Elsewhere,
}

/// How request `now` follows `last`.
#[must_use]
pub fn step(last: SegmentName, now: SegmentName, size: SegmentSize) -> Step {
    let (before, here) = (last.number(size), now.number(size));
    let is_next = here == before + 1;
    let is_switch = now.timeline > last.timeline && (here == before || is_next);
    if now == last {
        Step::Again
    } else if is_switch || (now.timeline == last.timeline && is_next) {
        Step::Forward
    } else {
        Step::Elsewhere
    }
}

/// Where one recovery is: what it asked for last, and how long it had to wait.
///
/// As text it is one line of numbers, for the processes of that recovery alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// The segment that was asked for last.
    pub requested: SegmentName,
    /// How long segments are.
    pub size: SegmentSize,
    /// False after a step elsewhere: the next segments are not known to be the ones it will ask for.
    pub is_forward: bool,
    /// When it last got a segment, in milliseconds since 1970.
    pub delivered_ms: u64,
    /// How it goes now, over a minute or a little more.
    pub pace: Pace,
    /// How it went since the last report.
    pub total: Pace,
}

/// How well segments came in time, over a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// When the period began, in milliseconds since 1970.
    pub begun_ms: u64,
    /// Segments that lay ready.
    pub ready: u64,
    /// Segments that recovery had to wait for,
    pub late: u64,
    /// and for how long, all together.
    pub waited_ms: u64,
}

impl Course {
    /// The course that begins with a segment that was delivered.
    #[must_use]
    pub fn begin(requested: SegmentName, size: SegmentSize, now_ms: u64) -> Self {
        let pace = Pace::since(now_ms);
        Self { requested, size, is_forward: true, delivered_ms: now_ms, pace, total: pace }
    }

    /// The course once `segment` is asked for.
    #[must_use]
    pub fn asked(self, segment: SegmentName) -> Self {
        let is_forward = match step(self.requested, segment, self.size) {
            Step::Again => self.is_forward,
            Step::Forward => true,
            Step::Elsewhere => false,
        };
        Self { requested: segment, is_forward, ..self }
    }

    /// The course once it was delivered, after a wait of `waited_ms` if it was not ready.
    #[must_use]
    pub fn delivered(self, waited_ms: Option<u64>, now_ms: u64) -> Self {
        let pace = self.pace.and(waited_ms);
        Self { delivered_ms: now_ms, pace, total: self.total.and(waited_ms), ..self }
    }

    /// True when `segment` was asked for already, so that recovery fetches it itself if it must.
    #[must_use]
    pub fn has_reached(&self, segment: SegmentName) -> bool {
        segment.timeline == self.requested.timeline && segment <= self.requested
    }

    /// The segments it will ask for next, at most `segments` and `bytes` of them.
    pub fn window(&self, segments: u64, bytes: u64) -> impl Iterator<Item = SegmentName> + use<> {
        let (timeline, size) = (self.requested.timeline, self.size);
        let next = self.requested.number(size) + 1;
        let count = segments.min(bytes / size.bytes());
        (next..next + count).map(move |number| SegmentName::from_number(timeline, number, size))
    }
}

impl Pace {
    /// A period that begins.
    #[must_use]
    pub fn since(begun_ms: u64) -> Self {
        Self { begun_ms, ..Self::default() }
    }

    fn and(self, waited_ms: Option<u64>) -> Self {
        match waited_ms {
            None => Self { ready: self.ready.saturating_add(1), ..self },
            Some(waited) => {
                Self { late: self.late.saturating_add(1), waited_ms: self.waited_ms.saturating_add(waited), ..self }
            }
        }
    }

    /// True when the period is long enough to judge.
    #[must_use]
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.begun_ms) >= REPORT_EVERY_MS
    }

    /// True when recovery could have been noticeably faster until `now_ms`.
    #[must_use]
    pub fn is_starved(&self, now_ms: u64) -> bool {
        let period_ms = now_ms.saturating_sub(self.begun_ms);
        self.waited_ms >= STARVED_MS && self.waited_ms.saturating_mul(STARVED_SHARE) > period_ms
    }
}

impl fmt::Display for Pace {
    /// `recovery waited 1.2 s for 3 of 64 segments`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, tenths) = (self.waited_ms / 1000, self.waited_ms % 1000 / 100);
        let all = self.ready.saturating_add(self.late);
        write!(f, "recovery waited {seconds}.{tenths} s for {} of {all} segments", self.late)
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, size, is_forward, delivered_ms, pace, total } = self;
        write!(f, "{requested} {} {} {delivered_ms}", size.bytes(), u8::from(*is_forward))?;
        for Pace { begun_ms, ready, late, waited_ms } in [pace, total] {
            write!(f, " {begun_ms} {ready} {late} {waited_ms}")?;
        }
        writeln!(f)
    }
}

impl FromStr for Course {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::corrupt(format!("\"{}\" is not where a recovery is", text.escape_debug()));
        let (name, numbers) = text.trim_end().split_once(' ').ok_or_else(refuse)?;
        let numbers: Vec<u64> =
            numbers.split(' ').map(|word| word.parse().map_err(|_| refuse())).collect::<Result<_>>()?;
        let [size, forward, delivered_ms, rest @ ..] = &numbers[..] else { return Err(refuse()) };
        let pace = |numbers: &[u64]| match numbers {
            &[begun_ms, ready, late, waited_ms] => Ok(Pace { begun_ms, ready, late, waited_ms }),
            _ => Err(refuse()),
        };
        let (now, total) = rest.split_at_checked(4).ok_or_else(refuse)?;
        Ok(Self {
            requested: name.parse()?,
            size: SegmentSize::new(*size)?,
            is_forward: *forward == 1,
            delivered_ms: *delivered_ms,
            pace: pace(now)?,
            total: pace(total)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Course {
        Course::begin(name(text), SegmentSize::DEFAULT, 1000)
    }

    #[test]
    fn only_the_next_segment_is_a_step_forward() {
        for (last, now, expected) in [
            ("000000010000000000000005", "000000010000000000000006", Step::Forward),
            ("0000000100000000000000FF", "000000010000000100000000", Step::Forward),
            ("000000010000000000000005", "000000020000000000000005", Step::Forward),
            ("000000010000000000000005", "000000030000000000000006", Step::Forward),
            ("000000010000000000000005", "000000010000000000000005", Step::Again),
            ("000000010000000000000005", "000000010000000000000004", Step::Elsewhere),
            ("000000010000000000000005", "000000010000000000000007", Step::Elsewhere),
            ("000000010000000000000005", "000000020000000000000004", Step::Elsewhere),
            ("000000020000000000000005", "000000010000000000000006", Step::Elsewhere),
        ] {
            assert_eq!(step(name(last), name(now), SegmentSize::DEFAULT), expected, "{last} {now}");
        }
    }

    #[test]
    fn backward_access_stops_fetching_ahead_until_it_goes_forward_again() {
        let course = at("000000010000000000000009").asked(name("000000010000000000000008"));
        assert!(!course.is_forward);
        assert!(!course.asked(name("000000010000000000000007")).is_forward);
        assert!(!course.asked(name("000000010000000000000008")).is_forward);
        assert!(course.asked(name("000000010000000000000009")).is_forward);
    }

    #[test]
    fn the_window_is_bounded_in_segments_and_bytes_and_crosses_4_gib() {
        let course = at("0000000100000000000000FE");
        let names = |segments, bytes| course.window(segments, bytes).map(|one| one.to_string()).collect::<Vec<_>>();
        assert_eq!(names(2, u64::MAX), ["0000000100000000000000FF", "000000010000000100000000"]);
        assert_eq!(names(8, 40 << 20).len(), 2);
        assert!(names(8, 0).is_empty());
        assert!(course.has_reached(name("0000000100000000000000FE")));
        assert!(!course.has_reached(name("0000000100000000000000FF")));
        assert!(!course.has_reached(name("000000020000000000000001")));
    }

    #[test]
    fn waiting_is_said_when_it_was_a_tenth_of_a_minute_or_more() {
        let pace = Pace { begun_ms: 1000, ready: 61, late: 3, waited_ms: 6_100 };
        assert_eq!(pace.to_string(), "recovery waited 6.1 s for 3 of 64 segments");
        assert!(pace.is_over(61_000) && !pace.is_over(60_999));
        assert!(pace.is_starved(61_000) && !pace.is_starved(62_001));
        assert!(!Pace { waited_ms: 900, ..pace }.is_starved(2_000));
    }

    #[test]
    fn a_course_is_read_back_as_it_was_written() {
        let course = at("00000001000000000000000A").asked(name("00000001000000000000000B"));
        let course = course.delivered(Some(7), 2000).delivered(None, 3000);
        assert_eq!(course.total, Pace { begun_ms: 1000, ready: 1, late: 1, waited_ms: 7 });
        let course = Course { pace: Pace::since(3000), ..course };
        assert_eq!(course.to_string().parse::<Course>().unwrap(), course);
        for text in ["", "x", "00000001000000000000000A 1 1 1 1 1 1 1", "00000001000000000000000A 16777216 1 1 1 1 1 1"]
        {
            assert!(text.parse::<Course>().is_err(), "{text}");
        }
    }
}
