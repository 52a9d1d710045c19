//! What can be recovered: for every timeline the stretches of WAL that a backup leads into, the holes between, the latest moment.
//!
//! From names alone, as a listing shows them: what the objects hold is for `verify` to say.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::domain::backup::{Backup, BackupId, BackupStatus};
use crate::domain::lsn::Lsn;
use crate::domain::restorable::{Bounds, bounds_of, check_on_path, reach_along};
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::window::{Reach, WalInventory, stretches};

/// More holes than this in one path are counted, not described.
const GAPS_DESCRIBED: usize = 1000;

/// What an archive is good for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recoverability {
    /// Every timeline that has WAL, a history file or a backup, ascending.
    pub timelines: Vec<TimelineState>,
    /// Holes in the WAL that a backup would need to lead further, each once, in the order of their paths.
    pub gaps: Vec<Gap>,
    /// How many holes there are beyond those described.
    pub further_gaps: u64,
    /// Backups that say `DONE` and cannot be restored on any path, with the reason as the rest of a sentence.
    pub unusable: Vec<(BackupId, String)>,
    /// The backups that can be restored on some path.
    pub restorable: BTreeSet<BackupId>,
}

/// What there is of one timeline, and of the path that leads to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineState {
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline it grew out of and where, for all but the first; none also where the history is not there.
    pub parent: Option<(TimelineId, Lsn)>,
    /// True for a timeline above 1 whose history file is not there (or not readable): PostgreSQL cannot recover along it.
    pub history_is_missing: bool,
    /// The complete segments of this timeline.
    pub segments: u64,
    /// The last of them, by name.
    pub last: Option<SegmentName>,
    /// When that was stored.
    pub newest: Option<DateTime<Utc>>,
    /// What can be reached along the path to this timeline, oldest first.
    pub intervals: Vec<Interval>,
}

/// Any moment from `from_lsn` to `to_lsn` can be recovered to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// The backups that lead into it, oldest first by LSN; never empty.
    pub backups: Vec<BackupId>,
    /// The end of the first of them.
    pub from_lsn: Lsn,
    /// When it ended, by the server's clock.
    pub from_time: DateTime<Utc>,
    /// The end of the WAL in reach.
    pub to_lsn: Lsn,
    /// When its last segment was stored: no commit in it is younger. None when that is not known.
    pub to_time: Option<DateTime<Utc>>,
    /// That segment.
    pub last: Option<SegmentName>,
    /// The first segment that is not there.
    pub next: SegmentName,
    /// Whether WAL goes on behind it.
    pub ends_in_gap: bool,
}

/// Segments that are not there, while later ones of the same path are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The first that is missing.
    pub first: SegmentName,
    /// The last that is missing in a row.
    pub last: SegmentName,
    /// How many.
    pub segments: u64,
}

impl Gap {
    /// The names of all that are missing.
    pub fn names(self, size: SegmentSize) -> impl Iterator<Item = SegmentName> {
        let first = self.first.number(size);
        (first..first.saturating_add(self.segments))
            .map(move |number| SegmentName::from_number(self.first.timeline, number, size))
    }
}

/// Everything that the answer depends on.
#[derive(Debug, Clone, Copy)]
pub struct Holdings<'a> {
    /// The catalogue.
    pub backups: &'a [Backup],
    /// The WAL.
    pub wal: &'a WalInventory,
    /// The content of every history file that can be read.
    pub histories: &'a BTreeMap<TimelineId, TimelineHistory>,
}

impl Recoverability {
    /// Looks at every path there is. Time grows with timelines × backups; memory with what is found.
    #[must_use]
    pub fn of(holdings: Holdings<'_>) -> Self {
        let mut found = Self::default();
        let mut reasons: BTreeMap<&BackupId, String> = BTreeMap::new();
        let mut complete: Vec<(&Backup, Bounds)> = Vec::new();
        for backup in holdings.backups.iter().filter(|backup| backup.status == BackupStatus::Done) {
            match bounds_of(backup) {
                Ok(bounds) => complete.push((backup, bounds)),
                Err(why) => drop(reasons.insert(&backup.id, why)),
            }
        }
        complete.sort_by_key(|(backup, bounds)| (bounds.begin, bounds.end, &backup.id));
        let mut gaps = BTreeSet::new();
        for timeline in holdings.timelines() {
            let path = holdings.path_to(timeline);
            let mut state = holdings.state_of(timeline, path.as_ref());
            if let Some(path) = &path {
                let walk = Walk { holdings, path, complete: &complete };
                state.intervals = walk.intervals(&mut found.restorable, &mut reasons);
                found.further_gaps += walk.gaps(&mut gaps, &mut found.gaps);
            }
            found.timelines.push(state);
        }
        for (backup, bounds) in &complete {
            if !found.restorable.contains(&backup.id) && !reasons.contains_key(&backup.id) {
                let why = format!("the history of timeline {} is not in the archive", bounds.timeline);
                reasons.insert(&backup.id, why);
            }
        }
        let unusable = reasons.into_iter().filter(|(id, _)| !found.restorable.contains(*id));
        found.unusable = unusable.map(|(id, why)| (id.clone(), why)).collect();
        found
    }

    /// The timeline that PostgreSQL takes for the latest: the highest whose history is known.
    #[must_use]
    pub fn latest_timeline(&self) -> Option<&TimelineState> {
        self.timelines.iter().rev().find(|state| !state.history_is_missing)
    }

    /// Where recovery along the latest timeline can begin and end: its last interval.
    #[must_use]
    pub fn latest(&self) -> Option<&Interval> {
        self.latest_timeline()?.intervals.last()
    }

    /// The oldest interval of the latest timeline.
    #[must_use]
    pub fn oldest(&self) -> Option<&Interval> {
        self.latest_timeline()?.intervals.first()
    }
}

impl Holdings<'_> {
    /// Segments are of the size that the newest backup says, else that the names speak for, else PostgreSQL's default.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        let of_backup = self.backups.iter().filter(|backup| backup.begin_lsn.is_some()).max_by_key(|backup| &backup.id);
        of_backup
            .map(|backup| backup.segment_size)
            .or_else(|| self.wal.likely_segment_size())
            .unwrap_or(SegmentSize::DEFAULT)
    }

    fn timelines(&self) -> BTreeSet<TimelineId> {
        let done = self.backups.iter().filter(|backup| backup.status == BackupStatus::Done);
        let wal = self.wal.timelines().into_iter().chain(self.wal.history_files());
        wal.chain(self.histories.keys().copied()).chain(done.filter_map(|backup| backup.timeline)).collect()
    }

    fn path_to(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        if timeline == TimelineId::FIRST {
            return Some(TimelineHistory::root(timeline));
        }
        self.histories.get(&timeline).filter(|history| history.timeline == timeline).cloned()
    }

    fn state_of(&self, timeline: TimelineId, path: Option<&TimelineHistory>) -> TimelineState {
        let size = self.segment_size();
        let parent = path.and_then(|path| {
            let legs = path.legs();
            let at = legs.iter().position(|leg| leg.timeline == timeline).filter(|at| *at > 0)?;
            Some((legs[at - 1].timeline, legs[at].begin))
        });
        let (mut segments, mut last) = (0, None);
        for (first, end) in self.wal.runs_between(timeline, 0, u64::MAX, size) {
            segments += end - first + 1;
            last = Some(SegmentName::from_number(timeline, end, size));
        }
        TimelineState {
            timeline,
            parent,
            history_is_missing: path.is_none(),
            segments,
            last,
            newest: self.wal.newest_of(timeline),
            intervals: Vec::new(),
        }
    }
}

/// One path, and the backups that may lie on it.
struct Walk<'a, 'p> {
    holdings: Holdings<'a>,
    path: &'p TimelineHistory,
    /// By where they begin.
    complete: &'p [(&'a Backup, Bounds)],
}

impl<'a> Walk<'a, '_> {
    fn intervals(
        &self,
        restorable: &mut BTreeSet<BackupId>,
        reasons: &mut BTreeMap<&'a BackupId, String>,
    ) -> Vec<Interval> {
        let mut intervals: Vec<Interval> = Vec::new();
        let mut known: Option<(SegmentSize, Reach)> = None;
        for (backup, bounds) in self.complete {
            let reach = match self.reach(backup, bounds, known.as_ref()) {
                Ok(Some(reach)) => reach,
                Ok(None) => continue,
                Err(why) => {
                    reasons.insert(&backup.id, why);
                    continue;
                }
            };
            restorable.insert(backup.id.clone());
            let extends = intervals.last().is_some_and(|last| last.to_lsn == reach.lsn && last.from_lsn <= reach.lsn);
            match intervals.last_mut().filter(|_| extends) {
                Some(last) => {
                    if bounds.end < last.from_lsn {
                        (last.from_lsn, last.from_time) = (bounds.end, bounds.end_time);
                    }
                    last.backups.push(backup.id.clone());
                }
                None => intervals.push(Interval {
                    backups: vec![backup.id.clone()],
                    from_lsn: bounds.end,
                    from_time: bounds.end_time,
                    to_lsn: reach.lsn,
                    to_time: reach.modified,
                    last: reach.last,
                    next: reach.next,
                    ends_in_gap: reach.missing.is_some(),
                }),
            }
            known = Some((backup.segment_size, reach));
        }
        intervals
    }

    /// How far a backup leads along the path; none when it lies on another branch. `known` is the reach of a backup that
    /// began earlier: one that begins within it leads as far, and need not be followed through thousands of logs again.
    fn reach(
        &self,
        backup: &Backup,
        bounds: &Bounds,
        known: Option<&(SegmentSize, Reach)>,
    ) -> Result<Option<Reach>, String> {
        if check_on_path(backup, self.path, (bounds.begin, bounds.end)).is_err() {
            return Ok(None);
        }
        if let Some((_, reach)) = known.filter(|(size, reach)| *size == backup.segment_size && bounds.end <= reach.lsn)
        {
            return Ok(Some(reach.clone()));
        }
        reach_along(backup, bounds, self.path, self.holdings.wal)
            .map(Some)
            .map_err(super::restorable::Unreachable::into_words)
    }

    /// Holes behind the begin of the oldest backup of the path (its first segment when there is none) that are not in `seen`
    /// yet; returns how many more there are than are described.
    fn gaps(&self, seen: &mut BTreeSet<Gap>, described: &mut Vec<Gap>) -> u64 {
        let size = self.holdings.segment_size();
        let on_path = |(backup, bounds): &&(&Backup, Bounds)| {
            check_on_path(backup, self.path, (bounds.begin, bounds.end)).is_ok() && backup.segment_size == size
        };
        let oldest =
            self.complete.iter().find(on_path).map(|(_, bounds)| (bounds.timeline, size.segment_of(bounds.begin)));
        let root = self.path.legs().first().map_or(TimelineId::FIRST, |leg| leg.timeline);
        let Some(stretches) = stretches(oldest.map_or(root, |(timeline, _)| timeline), self.path, size) else {
            return 0;
        };
        let mut expected = oldest.map(|(_, begin)| begin);
        let (mut pending, mut further) = (Vec::new(), 0);
        for stretch in stretches {
            let from = expected.unwrap_or(0).max(stretch.first);
            // What is missing at the end of an older timeline counts once WAL is there behind it.
            for (first, last) in self.holdings.wal.runs_between(stretch.timeline, from, stretch.last, size) {
                let mut holes = std::mem::take(&mut pending);
                if let Some(at) = expected.filter(|at| *at < first) {
                    holes.push(hole(stretch.timeline, at.max(stretch.first), first - 1, size));
                }
                for gap in holes.into_iter().filter(|gap| gap.segments > 0 && seen.insert(*gap)) {
                    if described.len() < GAPS_DESCRIBED { described.push(gap) } else { further += 1 }
                }
                expected = Some(last + 1);
            }
            if let Some(at) = expected.filter(|at| *at <= stretch.last && stretch.last != u64::MAX) {
                let first = at.max(stretch.first);
                if first <= stretch.last {
                    pending.push(hole(stretch.timeline, first, stretch.last, size));
                }
                expected = Some(stretch.last + 1);
            }
        }
        further
    }
}

fn hole(timeline: TimelineId, first: u64, last: u64, size: SegmentSize) -> Gap {
    Gap {
        first: SegmentName::from_number(timeline, first, size),
        last: SegmentName::from_number(timeline, last, size),
        segments: (last + 1).saturating_sub(first),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 64 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(SIZE).unwrap()
    }

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn name(number: u32, at: u64) -> SegmentName {
        SegmentName::from_number(timeline(number), at, size())
    }

    fn moment(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000 + 60 * minute, 0).unwrap()
    }

    fn backup(at: usize, number: u32, begin: Lsn, end: Lsn) -> Backup {
        let minute = i64::try_from(at).unwrap();
        let mut backup = Backup::new(BackupId::from_clock(moment(minute).naive_utc()));
        backup.status = BackupStatus::Done;
        backup.timeline = Some(timeline(number));
        backup.segment_size = size();
        (backup.begin_lsn, backup.end_lsn) = (Some(begin), Some(end));
        backup.begin_segment = Some(name(number, size().segment_of(begin)));
        backup.end_time = Some(moment(minute).fixed_offset());
        backup
    }

    fn inventory(names: &BTreeSet<SegmentName>) -> WalInventory {
        let mut wal = WalInventory::new();
        for name in names {
            wal.add(&crate::domain::segment::WalFileName::Segment(*name), moment(0));
        }
        wal
    }

    fn histories(switch: Lsn) -> BTreeMap<TimelineId, TimelineHistory> {
        let two = TimelineHistory { timeline: timeline(2), ancestors: vec![(timeline(1), switch)] };
        BTreeMap::from([(timeline(2), two)])
    }

    #[test]
    fn a_hole_ends_one_interval_and_a_later_backup_begins_the_next() {
        let names: BTreeSet<SegmentName> = [1, 2, 3, 7, 8].map(|at| name(1, at)).into();
        let backups = [
            backup(0, 1, Lsn(SIZE), Lsn(SIZE + 10)),
            backup(1, 1, Lsn(2 * SIZE), Lsn(2 * SIZE + 10)),
            backup(2, 1, Lsn(5 * SIZE), Lsn(5 * SIZE + 10)),
            backup(3, 1, Lsn(7 * SIZE), Lsn(7 * SIZE + 10)),
        ];
        let (wal, histories) = (inventory(&names), BTreeMap::new());
        let found = Recoverability::of(Holdings { backups: &backups, wal: &wal, histories: &histories });
        let [first] = &found.timelines[..] else { panic!("{found:?}") };
        assert_eq!(first.segments, 5);
        let bounds: Vec<_> = first.intervals.iter().map(|interval| (interval.from_lsn, interval.to_lsn)).collect();
        assert_eq!(bounds, [(Lsn(SIZE + 10), Lsn(4 * SIZE)), (Lsn(7 * SIZE + 10), Lsn(9 * SIZE))]);
        assert_eq!(first.intervals[0].backups.len(), 2);
        assert!(first.intervals[0].ends_in_gap && !first.intervals[1].ends_in_gap);
        assert_eq!(found.gaps, [Gap { first: name(1, 4), last: name(1, 6), segments: 3 }]);
        assert_eq!(found.gaps[0].names(size()).collect::<Vec<_>>(), [4, 5, 6].map(|at| name(1, at)));
        let [(id, why)] = &found.unusable[..] else { panic!("{found:?}") };
        assert_eq!(*id, backups[2].id);
        assert_eq!(why, "segment \"000000010000000000000005\", which it needs, is not in the archive");
    }

    #[test]
    fn a_timeline_without_its_history_leads_nowhere_and_says_so() {
        let names: BTreeSet<SegmentName> = [name(1, 1), name(2, 2)].into();
        let backups = [backup(0, 2, Lsn(2 * SIZE), Lsn(2 * SIZE + 10))];
        let (wal, histories) = (inventory(&names), BTreeMap::new());
        let found = Recoverability::of(Holdings { backups: &backups, wal: &wal, histories: &histories });
        assert!(found.timelines[1].history_is_missing);
        assert!(found.restorable.is_empty());
        assert_eq!(found.unusable[0].1, "the history of timeline 2 is not in the archive");
        assert_eq!(found.latest_timeline().unwrap().timeline, timeline(1));
    }

    #[test]
    fn the_segment_size_is_told_by_names_where_no_backup_says_it() {
        let likely = |names: &[&str]| {
            let names = names.iter().map(|name| name.parse().unwrap()).collect();
            inventory(&names).likely_segment_size().map(SegmentSize::bytes)
        };
        assert_eq!(likely(&["00000001000000000000003F", "000000010000000100000000"]), Some(64 << 20));
        assert_eq!(likely(&["0000000100000000000000FF", "000000010000000100000000"]), Some(16 << 20));
        assert_eq!(likely(&["000000010000000000000FFF", "000000010000000100000000"]), Some(1 << 20));
        assert_eq!(likely(&["000000010000000000000123"]), Some(8 << 20));
        assert_eq!(likely(&["000000010000000000000003"]), None);
        assert_eq!(likely(&["0000000100000000000000FE", "000000010000000100000000"]), None);
    }

    /// Segment by segment, on plain names: where replay from `begin` comes to along timeline 1, or 1 and 2.
    fn naive_reach(names: &BTreeSet<SegmentName>, switch: Option<Lsn>, backup: &Backup) -> Lsn {
        let on = |at: u64| match switch {
            Some(switch) if at >= size().segment_of(switch) => 2,
            _ => 1,
        };
        let mut at = size().segment_of(backup.begin_lsn.unwrap());
        if backup.timeline == Some(timeline(2)) {
            at = at.max(size().segment_of(switch.unwrap()));
        }
        let mut reached = backup.begin_lsn.unwrap();
        while names.contains(&name(on(at), at)) {
            at += 1;
            reached = size().start_of(at);
        }
        match switch {
            // The older timeline's copy of the segment of the switch serves up to the switch.
            Some(switch)
                if at == size().segment_of(switch)
                    && backup.timeline == Some(timeline(1))
                    && names.contains(&name(1, at))
                    && switch > reached =>
            {
                switch
            }
            _ => reached,
        }
    }

    proptest! {
        #[test]
        fn intervals_and_gaps_are_those_that_segment_by_segment_replay_finds(
            ones in prop::collection::btree_set(0..24_u64, 0..24),
            twos in prop::collection::btree_set(0..24_u64, 0..20),
            switch in (3 * SIZE..20 * SIZE).prop_map(Lsn),
            places in prop::collection::vec((0..22 * SIZE, 0..SIZE * 3, any::<bool>()), 0..6),
        ) {
            let first_of_two = size().segment_of(switch);
            let names: BTreeSet<SegmentName> = ones.iter().map(|at| name(1, *at))
                .chain(twos.iter().filter(|at| **at >= first_of_two).map(|at| name(2, *at))).collect();
            let backups: Vec<Backup> = places.iter().enumerate().filter_map(|(at, (begin, length, second))| {
                let (begin, end) = (Lsn(*begin), Lsn(begin + length));
                let number = if *second { 2 } else { 1 };
                (number == 1 || begin >= switch).then(|| backup(at, number, begin, end))
            }).collect();
            // It says how large segments are, and is nothing to recover from.
            let failed = Backup { status: BackupStatus::Failed, ..backup(9, 1, Lsn(0), Lsn(0)) };
            let catalog: Vec<Backup> = backups.iter().cloned().chain([failed]).collect();
            let (wal, histories) = (inventory(&names), histories(switch));
            let found = Recoverability::of(Holdings { backups: &catalog, wal: &wal, histories: &histories });

            let mut restorable = BTreeSet::new();
            let mut missing = BTreeSet::new();
            for (number, path) in [(1, None), (2, Some(switch))] {
                let on_path: Vec<&Backup> = backups.iter().filter(|backup| match path {
                    None => backup.timeline == Some(timeline(1)),
                    Some(switch) => {
                        backup.timeline == Some(timeline(2)) || backup.end_lsn.unwrap() <= switch
                    }
                }).collect();
                let mut expected: BTreeMap<Lsn, (Lsn, BTreeSet<BackupId>)> = BTreeMap::new();
                for backup in &on_path {
                    let to = naive_reach(&names, path, backup);
                    let end = backup.end_lsn.unwrap();
                    if to >= end && to > backup.begin_lsn.unwrap() {
                        restorable.insert(backup.id.clone());
                        let entry = expected.entry(to).or_insert((end, BTreeSet::new()));
                        entry.0 = entry.0.min(end);
                        entry.1.insert(backup.id.clone());
                    }
                }
                let state = found.timelines.iter().find(|state| state.timeline == timeline(number));
                let intervals: BTreeMap<Lsn, (Lsn, BTreeSet<BackupId>)> = state.map_or_else(BTreeMap::new, |state| {
                    state.intervals.iter().map(|interval| {
                        (interval.to_lsn, (interval.from_lsn, interval.backups.iter().cloned().collect()))
                    }).collect()
                });
                prop_assert_eq!(&intervals, &expected, "timeline {}", number);

                let on = |at: u64| if path.is_some() && at >= first_of_two { 2 } else { 1 };
                let last = (0..30).rfind(|at| names.contains(&name(on(*at), *at)));
                let begin = on_path.iter().map(|backup| size().segment_of(backup.begin_lsn.unwrap())).min();
                let from = begin.or_else(|| (0..30).find(|at| names.contains(&name(on(*at), *at))));
                if let (Some(last), Some(from), Some(_)) = (last, from, state) {
                    missing.extend((from..last).map(|at| name(on(at), at)).filter(|name| !names.contains(name)));
                }
            }
            prop_assert_eq!(&found.restorable, &restorable);
            let named: BTreeSet<SegmentName> = found.gaps.iter().flat_map(|gap| gap.names(size())).collect();
            prop_assert_eq!(named, missing);
            prop_assert_eq!(found.unusable.len() + found.restorable.len(), backups.len());
        }
    }
}
