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

    /// Where this path leaves `timeline`.
    ///
    /// Returns `None` when `timeline` is not on the path, `Some(None)` when it is the path's tip (no end),
    /// `Some(Some(lsn))` when the path leaves it at `lsn`.
    #[must_use]
    pub fn end_of(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.ancestors.iter().find(|(ancestor, _)| *ancestor == timeline).map(|(_, end)| Some(*end))
    }

    /// The timeline that holds the byte at `lsn` on this path.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.ancestors.iter().find(|(_, end)| lsn < *end).map_or(self.timeline, |(timeline, _)| *timeline)
    }
}
