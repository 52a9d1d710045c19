//! Timelines and their ancestry, as `.history` files tell it.

use std::fmt;
use std::str::FromStr;

use crate::domain::lsn::Lsn;
use crate::error::{Error, Result};

/// A timeline's number: 1 for a new cluster, one more after every promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(u32);

impl TimelineId {
    /// The timeline `initdb` starts on.
    pub const FIRST: Self = Self(1);

    /// A timeline number; 0 is none.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for TimelineId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| Error::usage(format!("\"{text}\" is not a timeline")))
    }
}

/// A timeline together with the timelines it grew out of, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline this is the history of.
    pub timeline: TimelineId,
    /// Each ancestor with the LSN at which the next timeline left it, oldest first.
    pub ancestors: Vec<(TimelineId, Lsn)>,
}

impl TimelineHistory {
    /// A timeline without ancestors, as `initdb` makes it.
    #[must_use]
    pub fn root(timeline: TimelineId) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the content of `<timeline>.history`: lines of `parent timeline`, `switch LSN`, free text.
    ///
    /// Errors: `Corrupt` for a line PostgreSQL would refuse too: no number, no LSN, timelines not ascending,
    /// an ancestor that is not older than `timeline` (source: PostgreSQL `readTimeLineHistory`).
    pub fn parse(timeline: TimelineId, content: &str) -> Result<Self> {
        let mut ancestors: Vec<(TimelineId, Lsn)> = Vec::new();
        for line in content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let refuse =
                || Error::corrupt(format!("line \"{line}\" of the history of timeline {timeline} is not valid"));
            let mut words = line.split_whitespace();
            let parent: TimelineId = words.next().and_then(|word| word.parse().ok()).ok_or_else(refuse)?;
            let switch: Lsn = words.next().and_then(|word| word.parse().ok()).ok_or_else(refuse)?;
            if parent >= timeline || ancestors.last().is_some_and(|(before, _)| *before >= parent) {
                return Err(refuse());
            }
            ancestors.push((parent, switch));
        }
        Ok(Self { timeline, ancestors })
    }

    /// Every timeline of the file with the LSN it begins at, oldest first, as PostgreSQL's `readTimeLineHistory` reads
    /// them: each begins where the one before it was left, the oldest at zero.
    #[must_use]
    pub fn begins(&self) -> Vec<(TimelineId, Lsn)> {
        let timelines = self.ancestors.iter().map(|(timeline, _)| *timeline).chain([self.timeline]);
        let begins = [Lsn(0)].into_iter().chain(self.ancestors.iter().map(|(_, end)| *end));
        timelines.zip(begins).collect()
    }

    /// The stretches of WAL this path is made of, oldest first, without holes or overlaps.
    ///
    /// A history may name timelines that are *not* on the path: a recovery towards timeline 2 that stops before 2 was
    /// born writes `1 0/5000000`, `2 0/3000000` for timeline 3, because PostgreSQL calls the timeline it aimed at the
    /// parent (`StartupXLOG`). The byte at an LSN is on the newest timeline begun by then (`tliOfPointInHistory`); so
    /// here timeline 1 is left at 0/3000000 and timeline 2 has no part in it.
    #[must_use]
    pub fn legs(&self) -> Vec<Leg> {
        let mut legs: Vec<Leg> = Vec::new();
        for (timeline, begin) in self.begins().into_iter().rev() {
            let end = legs.last().map(|newer| newer.begin);
            if end.is_none_or(|end| begin < end) {
                legs.push(Leg { timeline, begin, end });
            }
        }
        legs.reverse();
        legs
    }

    /// Where this path leaves `timeline`.
    ///
    /// Returns `None` when `timeline` is not on the path, `Some(None)` when it is the path's tip (no end),
    /// `Some(Some(lsn))` when the path leaves it at `lsn`.
    #[must_use]
    pub fn end_of(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        self.legs().into_iter().find(|leg| leg.timeline == timeline).map(|leg| leg.end)
    }

    /// The timeline that holds the byte at `lsn` on this path.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.begins().into_iter().rfind(|(_, begin)| *begin <= lsn).map_or(self.timeline, |(timeline, _)| timeline)
    }

    /// The LSN from which on this path and `other` hold different WAL; none when they are the same path.
    #[must_use]
    pub fn parts_from(&self, other: &Self) -> Option<Lsn> {
        let (ours, theirs) = (self.legs(), other.legs());
        let at = ours.iter().zip(&theirs).position(|(our, their)| our != their)?;
        let (our, their) = (&ours[at], &theirs[at]);
        if our.timeline != their.timeline || our.begin != their.begin {
            return Some(our.begin.min(their.begin));
        }
        our.end.into_iter().chain(their.end).min()
    }
}

/// One stretch of a path: the WAL of `timeline` from `begin` up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// The timeline this WAL was written on.
    pub timeline: TimelineId,
    /// Its first byte.
    pub begin: Lsn,
    /// Where the path leaves it, the first byte of the next leg; none at the tip.
    pub end: Option<Lsn>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Histories as PostgreSQL writes them: timelines ascend, switch points need not.
    fn histories() -> impl Strategy<Value = TimelineHistory> {
        prop::collection::vec((1..4_u32, 1..40_u64), 0..6).prop_map(|steps| {
            let mut number = 0;
            let ancestors = steps.into_iter().map(|(step, at)| {
                number += step;
                (timeline(number), Lsn(at))
            });
            let ancestors = ancestors.collect();
            TimelineHistory { timeline: timeline(number + 1), ancestors }
        })
    }

    proptest! {
        #[test]
        fn timeline_at_and_end_of_agree(history in histories(), lsn in 0..50_u64) {
            let holder = history.timeline_at(Lsn(lsn));
            let end = history.end_of(holder);
            prop_assert!(end.is_some(), "timeline {} holds {} but is not on the path", holder, lsn);
            prop_assert!(end.flatten().is_none_or(|end| Lsn(lsn) < end));
            for leg in history.legs() {
                let inside = leg.begin <= Lsn(lsn) && leg.end.is_none_or(|end| Lsn(lsn) < end);
                prop_assert_eq!(inside, leg.timeline == holder, "{:?} at {}", leg, lsn);
            }
        }

        #[test]
        fn legs_follow_each_other_from_zero_to_the_tip(history in histories()) {
            let legs = history.legs();
            prop_assert_eq!(legs[0].begin, Lsn(0));
            prop_assert_eq!(legs[legs.len() - 1].timeline, history.timeline);
            prop_assert_eq!(legs[legs.len() - 1].end, None);
            for pair in legs.windows(2) {
                prop_assert_eq!(pair[0].end, Some(pair[1].begin));
                prop_assert!(pair[0].timeline < pair[1].timeline && pair[0].begin < pair[1].begin);
            }
        }

        #[test]
        fn two_paths_hold_the_same_timelines_until_they_part(ours in histories(), theirs in histories()) {
            let first_difference = (0..60).find(|lsn| ours.timeline_at(Lsn(*lsn)) != theirs.timeline_at(Lsn(*lsn)));
            prop_assert_eq!(ours.parts_from(&theirs), first_difference.map(Lsn));
            prop_assert_eq!(theirs.parts_from(&ours), first_difference.map(Lsn));
        }

        #[test]
        fn a_written_history_is_read_back(history in histories()) {
            let lines = history.ancestors.iter().map(|(parent, at)| format!("{parent}\t{at}\tno recovery target specified\n\n"));
            let content: String = lines.collect();
            prop_assert_eq!(TimelineHistory::parse(history.timeline, &content).unwrap(), history);
        }

        #[test]
        fn no_content_makes_the_reader_panic(content in ".{0,80}") {
            let _ = TimelineHistory::parse(timeline(9), &content);
        }
    }

    #[test]
    fn a_timeline_aimed_at_but_never_reached_is_not_on_the_path() {
        let content = "1\t0/5000000\tbefore 0/5000000\n\n2\t0/3000000\tbefore 0/3000000\n";
        let history = TimelineHistory::parse(timeline(3), content).unwrap();
        assert_eq!(history.end_of(timeline(1)), Some(Some(Lsn(0x300_0000))));
        assert_eq!(history.end_of(timeline(2)), None);
        assert_eq!(history.end_of(timeline(3)), Some(None));
        assert_eq!(history.timeline_at(Lsn(0x2FF_FFFF)), timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x400_0000)), timeline(3));
    }

    #[test]
    fn histories_postgresql_would_refuse_are_refused() {
        for content in ["x", "1", "1 zero", "0 0/1", "3 0/1", "4 0/1", "2 0/1\n1 0/2", "1 0/1\n1 0/2"] {
            assert!(TimelineHistory::parse(timeline(3), content).is_err(), "{content}");
        }
        let content = "# a comment\n\n 1\t0/2A\treason in words\n";
        let history = TimelineHistory::parse(timeline(3), content).unwrap();
        assert_eq!(history.ancestors, [(TimelineId::FIRST, Lsn(0x2A))]);
    }
}
