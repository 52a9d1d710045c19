//! The paths of an archive: from every timeline in it back to where it came from, as far as histories tell.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::domain::lsn::Lsn;
use crate::domain::timeline::{TimelineHistory, TimelineId};

/// One path for each timeline whose ancestry is known, and the timelines of which nobody knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paths {
    known: BTreeMap<TimelineId, TimelineHistory>,
    /// Those that only a descendant's history tells: nothing recovers to them.
    inferred: BTreeSet<TimelineId>,
    unknown: BTreeSet<TimelineId>,
}

/// Whether WAL of one timeline can follow WAL of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    /// A path leads there.
    Yes,
    /// Its path is known and comes from elsewhere.
    No,
    /// Its history is not in the archive.
    Unknown,
}

impl Paths {
    /// The paths to `timelines` and to all that `histories` tell of.
    ///
    /// The first timeline needs no history. One whose own is missing is found in those that grew out of it.
    #[must_use]
    pub fn new(
        timelines: impl IntoIterator<Item = TimelineId>,
        histories: &BTreeMap<TimelineId, TimelineHistory>,
    ) -> Self {
        let mut paths = Self::default();
        for history in histories.values() {
            paths.known.insert(history.timeline, history.clone());
        }
        for history in histories.values() {
            let legs = history.legs();
            for (at, leg) in legs.iter().enumerate() {
                let ancestors = legs[..at].iter().filter_map(|leg| Some((leg.timeline, leg.end?))).collect();
                let inferred = TimelineHistory { timeline: leg.timeline, ancestors };
                if let Entry::Vacant(place) = paths.known.entry(leg.timeline) {
                    place.insert(inferred);
                    paths.inferred.insert(leg.timeline);
                }
            }
        }
        for timeline in timelines.into_iter().chain([TimelineId::FIRST]) {
            if timeline == TimelineId::FIRST {
                paths.known.insert(timeline, TimelineHistory::root(timeline));
                paths.inferred.remove(&timeline);
            } else if !paths.known.contains_key(&timeline) {
                paths.unknown.insert(timeline);
            }
        }
        paths
    }

    /// Every path that is known.
    pub fn known(&self) -> impl Iterator<Item = &TimelineHistory> {
        self.known.values()
    }

    /// Every path that a recovery can be told to take: PostgreSQL wants the history of the timeline it goes to.
    pub fn passable(&self) -> impl Iterator<Item = &TimelineHistory> {
        self.known.values().filter(|path| !self.inferred.contains(&path.timeline))
    }

    /// Every timeline, ascending.
    #[must_use]
    pub fn timelines(&self) -> BTreeSet<TimelineId> {
        self.known.keys().chain(&self.unknown).copied().collect()
    }

    /// Whether a path that holds the byte at `lsn` of timeline `from` leads to timeline `to`.
    #[must_use]
    pub fn leads(&self, (from, lsn): (TimelineId, Lsn), to: TimelineId) -> Leads {
        if from == to {
            return Leads::Yes;
        }
        if to < from {
            return Leads::No;
        }
        match self.known.get(&to) {
            None => Leads::Unknown,
            // Where a path leaves a timeline at this very byte, nothing was written on it since: both claim it.
            Some(path) => {
                let holds = path.end_of(from).is_some_and(|end| end.is_none_or(|end| lsn <= end));
                if holds { Leads::Yes } else { Leads::No }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn a_lost_history_is_found_in_that_of_a_descendant() {
        let third = TimelineHistory::parse(timeline(3), "1 0/100\n2 0/200\n").unwrap();
        let paths = Paths::new([timeline(2), timeline(4)], &BTreeMap::from([(timeline(3), third)]));
        let second = paths.known().find(|path| path.timeline == timeline(2)).unwrap();
        assert_eq!(second.ancestors, [(timeline(1), Lsn(0x100))]);
        assert_eq!(paths.timelines().len(), 4);
        assert_eq!(paths.passable().map(|path| path.timeline.number()).collect::<Vec<_>>(), [1, 3]);
        for (from, to, expected) in [
            ((1, 0x50), 3, Leads::Yes),
            ((1, 0x100), 3, Leads::Yes),
            ((1, 0x101), 3, Leads::No),
            ((1, 0x50), 2, Leads::Yes),
            ((2, 0x150), 1, Leads::No),
            ((2, 0x250), 3, Leads::No),
            ((1, 0x50), 4, Leads::Unknown),
            ((4, 0x50), 4, Leads::Yes),
        ] {
            let place = (timeline(from.0), Lsn(from.1));
            assert_eq!(paths.leads(place, timeline(to)), expected, "{from:?} to {to}");
        }
    }
}
