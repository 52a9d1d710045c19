//! Which WAL the archive holds, and how far a backup can be rolled forward with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};

use crate::domain::backup::Backup;
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::postgresql_time;
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};

/// The complete segments of an archive, as names tell.
///
/// Built from a listing in any order, names may repeat. Memory is proportional to the number of contiguous runs within
/// each 4 GiB "log", not to the number of segments. Runs are kept per log and joined when asked, because only the backup
/// that asks knows the segment size, and with it which name follows the last one of a log.
#[derive(Debug, Clone, Default)]
pub struct WalInventory {
    runs: BTreeMap<SegmentName, Run>,
    history_files: BTreeSet<TimelineId>,
}

/// Segments without a hole, all of one timeline and log; the first is the run's key.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// The last segment's number within the log.
    last: u32,
    /// When the last segment was stored.
    modified: DateTime<Utc>,
}

/// How far the WAL goes on from a backup without a hole, along one path of timelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// False when WAL between begin and end of the backup is not there: such a backup cannot be restored.
    pub complete_to_end_of_backup: bool,
    /// The last segment before the first hole; none when even the first is not there.
    pub last: Option<SegmentName>,
    /// The end of the WAL that is there: the end of `last`, or where the path leaves `last`'s timeline within it.
    pub lsn: Lsn,
    /// When `last` was stored, no commit in it is younger; none when that is not known.
    pub modified: Option<DateTime<Utc>>,
    /// The first segment that is not there.
    pub next: SegmentName,
    /// `next`, when later segments of the path are there: a gap, not the end of the archive.
    pub missing: Option<SegmentName>,
    /// The timeline whose segment PostgreSQL would replay beyond `lsn` in place of `next`, though the path has left it.
    ///
    /// It asks for each segment under older timelines too (`XLogFileReadAnyTLI`) and would follow the abandoned branch
    /// without a word. Only a target that stops recovery before `lsn` prevents that.
    pub strays_onto: Option<TimelineId>,
}

/// The moments that can be reached: from the end of a backup to the end of its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryWindow {
    /// The end of the (oldest) backup, by the server's clock.
    pub from_time: DateTime<Utc>,
    /// The end of the (oldest) backup.
    pub from_lsn: Lsn,
    /// When the last segment in reach was stored; none when that is not known.
    pub to_time: Option<DateTime<Utc>>,
    /// The end of the WAL in reach.
    pub to_lsn: Lsn,
}

impl fmt::Display for RecoveryWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to_time = self.to_time.map_or_else(|| "an unknown time".to_owned(), |time| postgresql_time(&time));
        let from_time = postgresql_time(&self.from_time);
        write!(f, "from {from_time} (LSN {}) to {to_time} (LSN {})", self.from_lsn, self.to_lsn)
    }
}

impl WalInventory {
    /// An inventory of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a file of the archive into account; `modified` is when it was stored.
    ///
    /// Of segments stored twice the earlier time counts, as no commit in them can be younger. `.partial` segments and
    /// backup history files are no WAL to rely on and change nothing.
    pub fn add(&mut self, name: &WalFileName, modified: DateTime<Utc>) {
        match *name {
            WalFileName::Segment(segment) => self.add_segment(segment, modified),
            WalFileName::TimelineHistory(timeline) => {
                self.history_files.insert(timeline);
            }
            WalFileName::Partial(_) | WalFileName::BackupHistory(..) => {}
        }
    }

    fn add_segment(&mut self, name: SegmentName, modified: DateTime<Utc>) {
        let same_log = |other: &SegmentName| (other.timeline, other.log) == (name.timeline, name.log);
        let mut first = name;
        if let Some((key, run)) = self.runs.range_mut(..=name).next_back().filter(|(key, _)| same_log(key)) {
            if run.last == name.segment {
                run.modified = run.modified.min(modified);
            }
            if run.last >= name.segment {
                return;
            }
            if run.last + 1 == name.segment {
                first = *key;
            }
        }
        let after = name.segment.checked_add(1).map(|segment| SegmentName { segment, ..name });
        let joined = after.and_then(|after| self.runs.remove(&after));
        self.runs.insert(first, joined.unwrap_or(Run { last: name.segment, modified }));
    }

    /// The timelines whose `.history` file is in the archive: those a caller has to read.
    pub fn history_files(&self) -> impl Iterator<Item = TimelineId> + '_ {
        self.history_files.iter().copied()
    }

    /// The timelines that have complete segments, ascending.
    #[must_use]
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut timelines: Vec<TimelineId> = self.runs.keys().map(|name| name.timeline).collect();
        timelines.dedup();
        timelines
    }

    /// Segments without a hole, all of one timeline and log, as their first and last; ascending.
    pub fn runs(&self) -> impl Iterator<Item = (SegmentName, SegmentName)> + '_ {
        self.runs.iter().map(|(first, run)| (*first, SegmentName { segment: run.last, ..*first }))
    }

    /// True when the complete segment is in the archive.
    #[must_use]
    pub fn contains(&self, name: SegmentName) -> bool {
        self.runs.range(..=name).next_back().is_some_and(|(first, run)| {
            (first.timeline, first.log) == (name.timeline, name.log) && run.last >= name.segment
        })
    }

    /// When the last segment of `timeline` was stored.
    #[must_use]
    pub fn newest_of(&self, timeline: TimelineId) -> Option<DateTime<Utc>> {
        let first = SegmentName { timeline, log: 0, segment: 0 };
        let last = SegmentName { timeline, log: u32::MAX, segment: u32::MAX };
        self.runs.range(first..=last).next_back().map(|(_, run)| run.modified)
    }

    /// True when any of the segments numbered `from` to `to` of `timeline` is there.
    #[must_use]
    pub fn any_between(&self, timeline: TimelineId, from: u64, to: u64, size: SegmentSize) -> bool {
        from <= to && self.runs_between(timeline, from, to, size).next().is_some()
    }

    /// The contiguous runs among the segments numbered `from` to `to` of `timeline`, as first and last number, ascending. Two
    /// that touch each other where a log ends are given as two.
    pub fn runs_between(
        &self,
        timeline: TimelineId,
        from: u64,
        to: u64,
        size: SegmentSize,
    ) -> impl Iterator<Item = (u64, u64)> + '_ {
        let per_log = size.segments_per_log();
        let log_of = |number: u64| u32::try_from(number / per_log).unwrap_or(u32::MAX);
        let first = SegmentName { timeline, log: log_of(from), segment: 0 };
        let last = SegmentName { timeline, log: log_of(to.max(from)), segment: u32::MAX };
        self.runs.range(first..=last).filter_map(move |(name, run)| {
            let end = name.number(size) - u64::from(name.segment) + u64::from(run.last).min(per_log - 1);
            let run = (name.number(size).max(from), end.min(to));
            (u64::from(name.segment) < per_log && run.0 <= run.1).then_some(run)
        })
    }

    /// The segment size that the names speak for, when they do: a log that is followed by the next one ends with its last
    /// segment, and no segment of a log can be numbered higher than there are.
    #[must_use]
    pub fn likely_segment_size(&self) -> Option<SegmentSize> {
        let of_last = |last: u32| SegmentSize::new((1_u64 << 32) / (u64::from(last) + 1)).ok();
        let mut ends = self.runs.iter().filter_map(|(first, run)| {
            let next = SegmentName { log: first.log.checked_add(1)?, segment: 0, ..*first };
            self.contains(next).then_some(run.last)
        });
        ends.find_map(of_last).or_else(|| {
            let highest = self.runs.values().map(|run| run.last).max()?;
            let most = (u64::from(highest) + 1).next_power_of_two();
            (most > SegmentSize::DEFAULT.segments_per_log()).then(|| of_last(u32::try_from(most - 1).ok()?)).flatten()
        })
    }

    /// Follows the WAL from `backup`'s begin along the path of `history`, until a segment is not there.
    ///
    /// A segment in which the path changes timelines is looked for under the newest timeline begun by its end, whose
    /// copy holds everything before the switch too; an older timeline's copy serves up to where the path leaves it.
    ///
    /// Returns `None` when the backup does not say where it begins and ends, or begins off the path.
    #[must_use]
    pub fn recoverable_from(&self, backup: &Backup, history: &TimelineHistory) -> Option<Reach> {
        let (begin, end, size) = (backup.begin_lsn?, backup.end_lsn?, backup.segment_size);
        let stretches = stretches(backup.timeline?, history, size)?;
        let mut at = size.segment_of(begin);
        let mut reach = Reach {
            complete_to_end_of_backup: false,
            last: None,
            lsn: begin,
            modified: None,
            next: SegmentName::from_number(history.timeline, at, size),
            missing: None,
            strays_onto: None,
        };
        for (index, stretch) in stretches.iter().enumerate() {
            if stretch.last < at {
                continue;
            }
            let run = self.run_from(SegmentName::from_number(stretch.timeline, at, size), stretch.last, size);
            if let Some((last, modified)) = run {
                reach.last = Some(SegmentName::from_number(stretch.timeline, last, size));
                reach.lsn = size.start_of(last + 1);
                reach.modified = modified;
                at = last + 1;
                if last == stretch.last {
                    continue;
                }
            }
            reach.next = SegmentName::from_number(stretch.timeline, at, size);
            let later = stretches[index..]
                .iter()
                .any(|later| self.any_between(later.timeline, later.first.max(at + 1), later.last, size));
            reach.missing = later.then_some(reach.next);
            if run.is_none() {
                self.fall_back(&mut reach, history, size);
            }
            break;
        }
        reach.complete_to_end_of_backup = reach.last.is_some() && reach.lsn >= end;
        Some(reach)
    }

    /// The last segment, up to `limit`, of those that follow each other from `first` on, and when it was stored.
    fn run_from(&self, first: SegmentName, limit: u64, size: SegmentSize) -> Option<(u64, Option<DateTime<Utc>>)> {
        let last_of_log = size.segments_per_log() - 1;
        let mut found = None;
        let mut name = first;
        while self.contains(name) {
            let (_, run) = self.runs.range(..=name).next_back()?;
            let last = u64::from(run.last).min(last_of_log);
            let number = name.number(size) - u64::from(name.segment) + last;
            if number >= limit {
                // Only the time of a run's last segment is known.
                let exact = number == limit && last == u64::from(run.last);
                return Some((limit, exact.then_some(run.modified)));
            }
            found = Some((number, (last == u64::from(run.last)).then_some(run.modified)));
            if last < last_of_log || name.log == u32::MAX {
                break;
            }
            name = SegmentName { log: name.log + 1, segment: 0, ..name };
        }
        found
    }

    /// Does as PostgreSQL does when `reach.next` is the first segment wanted of its timeline and not there: looks under
    /// the older timelines, but none older than that of the segment before.
    fn fall_back(&self, reach: &mut Reach, history: &TimelineHistory, size: SegmentSize) {
        let number = reach.next.number(size);
        let oldest = reach.last.map_or(TimelineId::FIRST, |last| last.timeline);
        let mut left_at = Lsn(u64::MAX);
        for (timeline, begin) in history.begins().into_iter().rev() {
            let copy = SegmentName { timeline, ..reach.next };
            let wanted = (oldest..reach.next.timeline).contains(&timeline) && size.segment_of(begin) <= number;
            if wanted && self.contains(copy) {
                reach.strays_onto = Some(timeline);
                if left_at > reach.lsn {
                    (reach.last, reach.lsn, reach.modified) = (Some(copy), left_at, None);
                }
                return;
            }
            left_at = left_at.min(begin);
        }
    }
}

/// The segments, by number, that PostgreSQL first looks for under one timeline's name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) timeline: TimelineId,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// The path from timeline `from` to its tip; none when `from` is not on it.
pub(crate) fn stretches(from: TimelineId, history: &TimelineHistory, size: SegmentSize) -> Option<Vec<Stretch>> {
    let legs = history.legs();
    let start = legs.iter().position(|leg| leg.timeline == from)?;
    let stretches = legs[start..].iter().filter_map(|leg| {
        let last = leg.end.map_or(Some(u64::MAX), |end| size.segment_of(end).checked_sub(1))?;
        Some(Stretch { timeline: leg.timeline, first: size.segment_of(leg.begin), last })
    });
    Some(stretches.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(minute * 60, 0).unwrap()
    }

    fn add(inventory: &mut WalInventory, name: &str, minute: i64) {
        inventory.add(&name.parse().unwrap(), at(minute));
    }

    #[test]
    fn memory_grows_with_holes_not_with_segments() {
        let mut inventory = WalInventory::new();
        for segment in (0..256_u32).step_by(2).chain((1..256).step_by(2)) {
            add(&mut inventory, &format!("0000000100000007{segment:08X}"), 0);
        }
        assert_eq!(inventory.runs.len(), 1);
        add(&mut inventory, "000000010000000800000001", 0);
        add(&mut inventory, "000000010000000700000003", 0);
        assert_eq!(inventory.runs.len(), 2);
    }

    #[test]
    fn a_run_keeps_the_time_of_its_last_segment_whatever_the_order() {
        for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
            let mut inventory = WalInventory::new();
            for minute in order {
                // Stored out of order: the last segment came first. Each is listed twice, the second time as a later copy.
                add(&mut inventory, &format!("00000001000000000000000{minute}"), 10 - minute);
                add(&mut inventory, &format!("00000001000000000000000{minute}"), 20);
            }
            assert_eq!(inventory.newest_of(TimelineId::FIRST), Some(at(7)), "{order:?}");
        }
    }

    #[test]
    fn partial_segments_and_backup_history_files_are_no_wal() {
        let mut inventory = WalInventory::new();
        add(&mut inventory, "000000010000000000000001.partial", 0);
        add(&mut inventory, "000000010000000000000001.00000028.backup", 0);
        add(&mut inventory, "00000002.history", 0);
        assert!(inventory.timelines().is_empty());
        assert!(!inventory.contains("000000010000000000000001".parse().unwrap()));
        assert_eq!(inventory.history_files().collect::<Vec<_>>(), [TimelineId::new(2).unwrap()]);
    }

    #[test]
    fn names_no_segment_of_that_size_can_have_are_not_taken_for_the_next_log() {
        let mut inventory = WalInventory::new();
        // With 16 MiB segments a log ends at FF; 100 is no segment, least of all the first of log 1.
        add(&mut inventory, "0000000100000000000000FF", 0);
        add(&mut inventory, "000000010000000000000100", 0);
        let size = SegmentSize::DEFAULT;
        assert!(!inventory.any_between(TimelineId::FIRST, 256, u64::MAX, size));
        assert!(inventory.any_between(TimelineId::FIRST, 255, 255, size));
        let last = inventory.run_from("0000000100000000000000FF".parse().unwrap(), u64::MAX, size);
        assert_eq!(last, Some((255, None)));
    }

    #[test]
    fn the_last_segment_there_can_be_ends_the_run() {
        let mut inventory = WalInventory::new();
        add(&mut inventory, "00000001FFFFFFFF000000FF", 0);
        let size = SegmentSize::DEFAULT;
        let mut backup = Backup::new("20260101T000000".parse().unwrap());
        backup.timeline = Some(TimelineId::FIRST);
        (backup.begin_lsn, backup.end_lsn) = (Some(Lsn(u64::MAX - 9)), Some(Lsn(u64::MAX)));
        let reach = inventory.recoverable_from(&backup, &TimelineHistory::root(TimelineId::FIRST)).unwrap();
        assert_eq!((reach.lsn, reach.complete_to_end_of_backup), (Lsn(u64::MAX), true));
        assert_eq!(reach.last.map(|last| last.number(size)), Some(size.segment_of(Lsn(u64::MAX))));
    }
}
