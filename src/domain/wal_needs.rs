//! Which WAL stays and which goes, for any segment of any timeline, and for the stretches there are.
//!
//! The order of LSNs is the same on every timeline, so WAL before the beginning of everything that stays is of no use to
//! anybody, whatever is known about its timeline. Beyond that, what is not understood stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::lsn::Lsn;
use crate::domain::paths::{Leads, Paths};
use crate::domain::retention::Verdict;
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::timeline::TimelineId;
use crate::domain::window::WalInventory;

/// WAL that must stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) what: Needed,
    pub(crate) why: String,
}

/// Which WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needed {
    /// All there is.
    Everything,
    /// From the segment that holds an LSN on, on a timeline and all that may have grown out of it; on every timeline when
    /// none is known.
    Since(Option<TimelineId>, Lsn),
    /// The segments that hold the bytes from the first to the second LSN, on these timelines and all that may have grown out
    /// of them.
    Between((TimelineId, Lsn), (TimelineId, Lsn)),
}

/// The line between WAL that stays and WAL that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRules {
    /// The size of every segment; none where that is not known.
    size: Option<SegmentSize>,
    everything: Option<String>,
    /// A floor, for where the size of segments is not known.
    floor: Option<Lsn>,
    lines: BTreeMap<TimelineId, Line>,
    /// For timelines that nobody has seen so far.
    other: Line,
    /// The WAL that one backup needs, where no other may go.
    only: Option<Box<WalRules>>,
}

/// The rules for one timeline; segments by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Line {
    since: Option<(u64, String)>,
    between: Vec<(u64, u64, String)>,
    /// From here on a backup may need it, for all that is known.
    doubt: Option<u64>,
    /// From here on it is newer than the beginning of the newest backup.
    newest: Option<u64>,
    is_branch: bool,
}

/// Segments without a hole, all with the same verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalVerdict {
    /// The first of them.
    pub first: SegmentName,
    /// The last of them.
    pub last: SegmentName,
    /// How many there are.
    pub segments: u64,
    /// What becomes of them.
    pub verdict: Verdict,
}

impl Line {
    fn needed_by(&self, number: u64) -> Option<&str> {
        let since = self.since.iter().find(|(from, _)| number >= *from).map(|(_, why)| why);
        let between = || self.between.iter().find(|(from, to, _)| (*from..=*to).contains(&number)).map(|(.., why)| why);
        since.or_else(between).map(String::as_str)
    }
}

impl WalRules {
    /// Draws the line. `size` is that of every segment; none where that is not known, and then only what lies whole "logs" (4
    /// GiB) before a floor goes.
    pub(crate) fn new(needs: &[Need], paths: &Paths, size: Option<SegmentSize>) -> Self {
        let everything = needs.iter().find(|need| need.what == Needed::Everything).map(|need| need.why.clone());
        let since = || {
            needs.iter().filter_map(|need| {
                if let Needed::Since(from, lsn) = need.what { Some((need, from, lsn)) } else { None }
            })
        };
        let newest = since().map(|(_, _, lsn)| lsn).max();
        let floor = since().filter(|(_, from, _)| from.is_none()).map(|(_, _, lsn)| lsn).min();
        let mut rules = Self { size, everything, floor, lines: BTreeMap::new(), other: Line::default(), only: None };
        let Some(size) = size else { return rules };
        let line = |timeline: Option<TimelineId>| {
            let mut line = Line { newest: newest.map(|lsn| size.segment_of(lsn)), ..Line::default() };
            for (need, from, lsn) in since() {
                let number = size.segment_of(lsn);
                let leads = match (from, timeline) {
                    (None, _) => Leads::Yes,
                    (Some(_), None) => Leads::Unknown,
                    (Some(from), Some(timeline)) => paths.leads((from, lsn), timeline),
                };
                match leads {
                    Leads::Yes if line.since.as_ref().is_none_or(|(known, _)| number < *known) => {
                        line.since = Some((number, need.why.clone()));
                    }
                    Leads::Unknown => line.doubt = Some(line.doubt.map_or(number, |known| known.min(number))),
                    Leads::No => line.is_branch = true,
                    Leads::Yes => {}
                }
            }
            for need in needs {
                if let (Needed::Between(begin, end), Some(timeline)) = (need.what, timeline)
                    // A promotion copies the segment it happens in: that of the older timeline may never have been archived.
                    && ((begin.0..=end.0).contains(&timeline) || paths.leads(begin, timeline) != Leads::No)
                {
                    line.between.push((size.segment_of(begin.1), size.segment_of(end.1), need.why.clone()));
                }
            }
            line
        };
        rules.other = line(None);
        rules.lines = paths.timelines().into_iter().map(|timeline| (timeline, line(Some(timeline)))).collect();
        rules
    }

    /// The same, and only WAL that `needs` covers may go.
    pub(crate) fn only(mut self, needs: &[Need], paths: &Paths) -> Self {
        self.only = Some(Box::new(Self::new(needs, paths, self.size)));
        self
    }

    /// What becomes of WAL in the place of segment `name`: the segment itself and its companions.
    #[must_use]
    pub fn verdict(&self, name: SegmentName) -> Verdict {
        if let Some(why) = &self.everything {
            return Verdict::stays(why.clone());
        }
        let Some(size) = self.size else {
            let ends_by_floor = self.floor.is_some_and(|floor| (u64::from(name.log) + 1) << 32 <= floor.bytes());
            return if ends_by_floor {
                Verdict::goes("older than the floor")
            } else {
                Verdict::stays("no backup says how large its segments are")
            };
        };
        if u64::from(name.segment) >= size.segments_per_log() {
            return Verdict::stays(format!("its name is none of a segment of {} bytes", size.bytes()));
        }
        let (number, line) = (name.number(size), self.line(name.timeline));
        if let Some(why) = line.needed_by(number) {
            return Verdict::stays(why);
        }
        if line.doubt.is_some_and(|from| number >= from) {
            return Verdict::stays(format!("timeline {} is not understood: its history is not there", name.timeline));
        }
        if line.newest.is_some_and(|from| number >= from) {
            return Verdict::stays("newer than the beginning of the newest backup, whatever its timeline");
        }
        match &self.only {
            Some(only) if only.line(name.timeline).needed_by(number).is_none() => {
                Verdict::stays("no backup needs it, and never the one that goes: expire removes it")
            }
            Some(_) => Verdict::goes("only the backup that goes needed it"),
            None if line.is_branch => Verdict::goes("no backup that stays leads to it"),
            None => Verdict::goes("older than everything that stays"),
        }
    }

    fn line(&self, timeline: TimelineId) -> &Line {
        self.lines.get(&timeline).unwrap_or(&self.other)
    }

    /// The stretches of WAL there are, each with its verdict, by timeline and place.
    #[must_use]
    pub fn stretches(&self, wal: &WalInventory) -> Vec<WalVerdict> {
        let mut stretches: Vec<WalVerdict> = Vec::new();
        for (first, last) in wal.runs() {
            for (first, last) in self.pieces(first, last) {
                let piece = WalVerdict {
                    first,
                    last,
                    segments: u64::from(last.segment - first.segment) + 1,
                    verdict: self.verdict(first),
                };
                match stretches.last_mut() {
                    Some(before) if before.verdict == piece.verdict && self.follows(before.last, first) => {
                        before.last = last;
                        before.segments += piece.segments;
                    }
                    _ => stretches.push(piece),
                }
            }
        }
        stretches
    }

    /// Parts of a run, within which the verdict is the same.
    fn pieces(&self, first: SegmentName, last: SegmentName) -> Vec<(SegmentName, SegmentName)> {
        let mut begins = BTreeSet::from([first.segment]);
        if let Some(size) = self.size {
            let per_log = size.segments_per_log();
            let start = u64::from(first.log) * per_log;
            let mut add = |number: u64| {
                let within = number.checked_sub(start).and_then(|within| u32::try_from(within).ok());
                begins.extend(within.filter(|within| (first.segment..=last.segment).contains(within)));
            };
            // What no segment can be called.
            add(start + per_log);
            for rules in [Some(self), self.only.as_deref()].into_iter().flatten() {
                let line = rules.line(first.timeline);
                line.since.iter().for_each(|(from, _)| add(*from));
                line.between.iter().for_each(|(from, to, _)| {
                    add(*from);
                    add(to + 1);
                });
                line.doubt.into_iter().chain(line.newest).for_each(&mut add);
            }
        }
        let begins: Vec<u32> = begins.into_iter().collect();
        let ends = begins.iter().skip(1).map(|next| next - 1).chain([last.segment]);
        let place = |segment: u32| SegmentName { segment, ..first };
        begins.iter().zip(ends).map(|(from, to)| (place(*from), place(to))).collect()
    }

    fn follows(&self, before: SegmentName, after: SegmentName) -> bool {
        let next_within = before.log == after.log && before.segment.checked_add(1) == Some(after.segment);
        let next_log = self.size.is_some_and(|size| {
            before.log.checked_add(1) == Some(after.log)
                && after.segment == 0
                && u64::from(before.segment) + 1 == size.segments_per_log()
        });
        before.timeline == after.timeline && (next_within || next_log)
    }
}
