//! Which WAL backups need to be rolled forward to now, along every timeline that leads on from them, and what of it is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::backup::Backup;
use crate::domain::lsn::Lsn;
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::verify_choice::Stretch;
use crate::domain::window::WalInventory;

/// The WAL from some backups' begins to now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NeededWal {
    /// What is there, by timeline and number.
    pub present: Vec<Stretch>,
    /// What is not there on the way to the newest timeline.
    pub missing: Vec<Stretch>,
    /// What is not there on branches that were left: needed only by who goes back to them.
    pub missing_beside: Vec<Stretch>,
    /// Timelines that hold WAL and cannot be reached, because their history is not there.
    pub without_history: Vec<TimelineId>,
}

/// Follows the WAL from the begin of every one of `backups` to the newest segment of each timeline that leads on from it.
///
/// A segment in which a path changes timelines is needed under the newer one's name, whose copy holds all that came before;
/// so a timeline that was left is needed up to the segment before. Backups that do not say where they begin need nothing
/// here, nor do those of another segment size than `size`.
#[must_use]
pub fn needed_wal(
    backups: &[&Backup],
    wal: &WalInventory,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    size: SegmentSize,
) -> NeededWal {
    let (mut wanted, mut beside): (Vec<Stretch>, Vec<Stretch>) = (Vec::new(), Vec::new());
    let backups: Vec<&Backup> = backups.iter().copied().filter(|backup| backup.segment_size == size).collect();
    for backup in &backups {
        let paths = paths_from(backup, wal, histories);
        let newest = paths.last().map(|path| path.timeline);
        for path in &paths {
            let stretches = stretches(backup, path, wal, size);
            if Some(path.timeline) == newest { &mut wanted } else { &mut beside }.extend(stretches);
        }
    }
    let wanted = joined(wanted);
    let present = |stretch: &Stretch| -> Vec<Stretch> {
        let timeline = stretch.timeline;
        let runs = wal.runs_between(timeline, stretch.first, stretch.last, size);
        joined(runs.map(|(first, last)| Stretch { timeline, first, last }).collect())
    };
    let all = joined(wanted.iter().chain(&beside).copied().collect());
    let all_missing: Vec<Stretch> = all.iter().flat_map(|stretch| without(*stretch, &present(stretch))).collect();
    let missing = wanted.iter().flat_map(|stretch| without(*stretch, &present(stretch))).collect::<Vec<_>>();
    NeededWal {
        present: all.iter().flat_map(present).collect(),
        missing_beside: all_missing.iter().flat_map(|stretch| without(*stretch, &missing)).collect(),
        missing,
        without_history: without_history(&backups, wal, histories),
    }
}

/// So many segments that a backup lacks are named: a `backup.info` may say that it ended where the WAL can never come to.
const MISSING_NAMED: usize = 1000;

/// The segments that make `backup` consistent and are not there, under the names of its own timeline and of those that
/// a promotion during the backup began, the first thousand; none when one of its paths has all of them.
#[must_use]
pub fn missing_of_backup(
    backup: &Backup,
    wal: &WalInventory,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> Vec<SegmentName> {
    let size = backup.segment_size;
    let (Some(own), Some(begin), Some(end)) = (backup.timeline, backup.begin_lsn, backup.end_lsn) else {
        return Vec::new();
    };
    let paths = paths_from(backup, wal, histories);
    let is_complete = |path: &TimelineHistory| {
        wal.recoverable_from(backup, path).is_some_and(|reach| reach.complete_to_end_of_backup)
    };
    if paths.iter().any(is_complete) {
        return Vec::new();
    }
    // The last byte's segment may be that of a promotion, of which the backup's own path knows nothing.
    let path = paths.last();
    let names = (size.segment_of(begin)..=size.segment_before(end).max(size.segment_of(begin))).filter_map(|number| {
        let end = size.start_of(number + 1);
        let newest = path.map(|path| path.timeline_at(Lsn(end.bytes() - 1)));
        let name = |timeline| SegmentName::from_number(timeline, number, size);
        let is_there = newest.into_iter().chain([own]).any(|timeline| wal.contains(name(timeline)));
        (!is_there).then(|| name(own))
    });
    names.take(MISSING_NAMED).collect()
}

/// The histories that lead on from where `backup` begins, its own timeline's first.
fn paths_from(
    backup: &Backup,
    wal: &WalInventory,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> Vec<TimelineHistory> {
    let (Some(own), Some(begin)) = (backup.timeline, backup.begin_lsn) else { return Vec::new() };
    let timelines: BTreeSet<TimelineId> = wal.timelines().into_iter().chain(histories.keys().copied()).collect();
    let later = timelines.into_iter().filter(|timeline| *timeline > own);
    let known = |timeline: TimelineId| histories.get(&timeline).cloned();
    let own = known(own).unwrap_or_else(|| TimelineHistory::root(own));
    let leads_on = |path: &TimelineHistory| Some(path.timeline_at(begin)) == backup.timeline;
    [own].into_iter().chain(later.filter_map(known).filter(leads_on)).collect()
}

/// What `path` asks for from the begin of `backup` on.
fn stretches(backup: &Backup, path: &TimelineHistory, wal: &WalInventory, size: SegmentSize) -> Vec<Stretch> {
    let (Some(own), Some(begin)) = (backup.timeline, backup.begin_lsn) else { return Vec::new() };
    let from = size.segment_of(begin);
    let end = backup.end_lsn.map_or(from, |end| size.segment_before(end).max(from));
    let legs = path.legs().into_iter().skip_while(|leg| leg.timeline != own);
    let stretches = legs.filter_map(|leg| {
        let first = size.segment_of(leg.begin).max(from);
        let last = if let Some(end) = leg.end {
            size.segment_of(end).checked_sub(1)?
        } else {
            let newest = wal.runs_between(leg.timeline, 0, u64::MAX, size).last().map(|(_, last)| last);
            // Without any segment nobody has written on the newest timeline yet, unless the backup did.
            newest.max((leg.timeline == own || end >= first).then_some(end))?
        };
        (first <= last).then_some(Stretch { timeline: leg.timeline, first, last })
    });
    stretches.collect()
}

fn without_history(
    backups: &[&Backup],
    wal: &WalInventory,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> Vec<TimelineId> {
    let Some(oldest) = backups.iter().filter_map(|backup| backup.timeline).min() else { return Vec::new() };
    let needs_one = |timeline: &TimelineId| *timeline > TimelineId::FIRST && *timeline >= oldest;
    let timelines = wal.timelines().into_iter().filter(needs_one);
    timelines.filter(|timeline| !histories.contains_key(timeline)).collect()
}

/// The same segments, each in one stretch only, ascending.
fn joined(mut stretches: Vec<Stretch>) -> Vec<Stretch> {
    stretches.sort_unstable();
    let mut joined: Vec<Stretch> = Vec::new();
    for next in stretches {
        match joined.last_mut() {
            Some(before) if before.timeline == next.timeline && next.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(next.last);
            }
            _ => joined.push(next),
        }
    }
    joined
}

/// What of `stretch` is in none of `others`, which are joined.
fn without(stretch: Stretch, others: &[Stretch]) -> Vec<Stretch> {
    let mut left = Vec::new();
    let mut first = stretch.first;
    for other in others.iter().filter(|other| other.timeline == stretch.timeline && other.last >= stretch.first) {
        if other.first > stretch.last {
            break;
        }
        if other.first > first {
            left.push(Stretch { first, last: other.first - 1, ..stretch });
        }
        first = first.max(other.last.saturating_add(1));
    }
    if first <= stretch.last {
        left.push(Stretch { first, ..stretch });
    }
    left
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(MIB).unwrap()
    }

    fn on(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn backup(timeline: u32, begin: u64, end: u64) -> Backup {
        Backup {
            timeline: Some(on(timeline)),
            begin_lsn: Some(Lsn(begin)),
            end_lsn: Some(Lsn(end)),
            segment_size: size(),
            ..Backup::new("20260608T113200".parse().unwrap())
        }
    }

    fn archive(segments: &[(u32, u64)]) -> WalInventory {
        let mut wal = WalInventory::new();
        for (timeline, number) in segments {
            let name = SegmentName::from_number(on(*timeline), *number, size());
            wal.add(&crate::domain::segment::WalFileName::Segment(name), DateTime::UNIX_EPOCH);
        }
        wal
    }

    fn histories(texts: &[(u32, &str)]) -> BTreeMap<TimelineId, TimelineHistory> {
        texts.iter().map(|(of, text)| (on(*of), TimelineHistory::parse(on(*of), text).unwrap())).collect()
    }

    fn numbers(stretches: &[Stretch]) -> Vec<(u32, u64, u64)> {
        stretches.iter().map(|stretch| (stretch.timeline.number(), stretch.first, stretch.last)).collect()
    }

    #[test]
    fn a_hole_is_missing_and_the_end_of_the_archive_is_not() {
        let wal = archive(&[(1, 1), (1, 2), (1, 3), (1, 6), (1, 7)]);
        let two = backup(1, 2 * MIB + 40, 3 * MIB);
        let needed = needed_wal(&[&two], &wal, &BTreeMap::new(), size());
        assert_eq!(numbers(&needed.present), [(1, 2, 3), (1, 6, 7)]);
        assert_eq!(numbers(&needed.missing), [(1, 4, 5)]);
        assert!(needed.missing_beside.is_empty() && needed.without_history.is_empty());
        assert!(missing_of_backup(&two, &wal, &BTreeMap::new()).is_empty());
        let five = backup(1, 5 * MIB + 40, 8 * MIB + 1);
        let names: Vec<String> =
            missing_of_backup(&five, &wal, &BTreeMap::new()).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["000000010000000000000005", "000000010000000000000008"]);
        let needed = needed_wal(&[&five], &wal, &BTreeMap::new(), size());
        assert_eq!(numbers(&needed.missing), [(1, 5, 5), (1, 8, 8)]);
    }

    #[test]
    fn the_segment_of_a_promotion_is_needed_under_the_newer_timeline_only() {
        let wal = archive(&[(1, 2), (1, 3), (2, 4), (2, 5)]);
        let known = histories(&[(2, "1\t0/480000\twhy\n")]);
        let two = backup(1, 2 * MIB, 2 * MIB + 500);
        let needed = needed_wal(&[&two], &wal, &known, size());
        assert_eq!(numbers(&needed.present), [(1, 2, 3), (2, 4, 5)]);
        assert!(needed.missing.is_empty() && needed.missing_beside.is_empty());
        let needed = needed_wal(&[&two], &archive(&[(1, 2), (2, 5)]), &known, size());
        assert_eq!(numbers(&needed.missing), [(1, 3, 3), (2, 4, 4)]);
    }

    #[test]
    fn a_branch_that_was_left_is_looked_at_and_its_holes_are_told_apart() {
        let wal = archive(&[(1, 2), (1, 3), (1, 4), (1, 6), (2, 4), (2, 5)]);
        let known = histories(&[(2, "1\t0/480000\twhy\n")]);
        let needed = needed_wal(&[&backup(1, 2 * MIB, 2 * MIB + 500)], &wal, &known, size());
        assert_eq!(numbers(&needed.present), [(1, 2, 4), (1, 6, 6), (2, 4, 5)]);
        assert!(needed.missing.is_empty());
        assert_eq!(numbers(&needed.missing_beside), [(1, 5, 5)]);
        // A backup on the left branch, after it was left, needs that branch alone.
        let needed = needed_wal(&[&backup(1, 5 * MIB, 6 * MIB)], &wal, &known, size());
        assert_eq!(numbers(&needed.missing), [(1, 5, 5)]);
    }

    #[test]
    fn wal_of_a_timeline_without_a_history_is_told_of() {
        let wal = archive(&[(1, 2), (2, 3), (3, 3)]);
        let needed =
            needed_wal(&[&backup(1, 2 * MIB, 2 * MIB + 9)], &wal, &histories(&[(2, "1\t0/300000\t\n")]), size());
        assert_eq!(needed.without_history, [on(3)]);
        let needed = needed_wal(&[&backup(3, 3 * MIB, 3 * MIB + 9)], &wal, &BTreeMap::new(), size());
        assert_eq!(needed.without_history, [on(3)]);
    }

    #[test]
    fn a_promotion_during_a_backup_leaves_it_whole() {
        let known = histories(&[(2, "1\t0/380000\twhy\n")]);
        let across = backup(1, 2 * MIB, 4 * MIB + 9);
        let wal = archive(&[(1, 2), (2, 3), (2, 4)]);
        assert!(missing_of_backup(&across, &wal, &known).is_empty());
        assert_eq!(missing_of_backup(&across, &archive(&[(1, 2), (2, 4)]), &known).len(), 1);
    }

    #[test]
    fn a_backup_that_ends_where_no_wal_can_come_to_costs_neither_time_nor_memory() {
        let missing = missing_of_backup(&backup(1, 2 * MIB, u64::MAX), &archive(&[(1, 2)]), &BTreeMap::new());
        assert_eq!((missing.len(), missing[0].to_string().as_str()), (MISSING_NAMED, "000000010000000000000003"));
        let without_timeline = Backup { timeline: None, ..backup(1, 2 * MIB, u64::MAX) };
        assert!(missing_of_backup(&without_timeline, &archive(&[(1, 2)]), &BTreeMap::new()).is_empty());
    }

    #[test]
    fn a_name_from_nowhere_costs_no_time() {
        let mut wal = archive(&[(1, 2)]);
        wal.add(&"00000001FFFFFFF0000000FF".parse().unwrap(), DateTime::UNIX_EPOCH);
        let needed = needed_wal(&[&backup(1, 2 * MIB, 2 * MIB + 9)], &wal, &BTreeMap::new(), size());
        assert_eq!(needed.missing.len(), 1);
        assert!(needed.missing[0].segments() > 1 << 40);
    }

    proptest! {
        #[test]
        fn present_and_missing_are_the_whole_without_overlap(
            segments in prop::collection::btree_set((1..4_u32, 0..30_u64), 0..40),
            backups in prop::collection::vec((1..4_u32, 0..20_u64, 1..5_u64), 1..4),
            switches in (1..20_u64, 1..20_u64),
        ) {
            let segments: Vec<_> = segments.into_iter().collect();
            let wal = archive(&segments);
            let (second, third) = (switches.0, switches.0 + switches.1);
            let lsn = |number: u64| Lsn(number * MIB + 99);
            let known = histories(&[
                (2, &format!("1\t{}\twhy\n", lsn(second))),
                (3, &format!("1\t{}\twhy\n2\t{}\twhy\n", lsn(second), lsn(third))),
            ]);
            let backups: Vec<Backup> = backups
                .iter()
                .map(|(timeline, begin, length)| backup(*timeline, begin * MIB + 40, (begin + length) * MIB))
                .collect();
            let needed = needed_wal(&backups.iter().collect::<Vec<_>>(), &wal, &known, size());
            let all = |stretches: &[Stretch]| -> Vec<(u32, u64)> {
                stretches.iter().flat_map(|one| (one.first..=one.last).map(|number| (one.timeline.number(), number))).collect()
            };
            for found in all(&needed.present) {
                prop_assert!(segments.contains(&found), "{found:?} is not there");
            }
            for missing in all(&needed.missing).into_iter().chain(all(&needed.missing_beside)) {
                prop_assert!(!segments.contains(&missing), "{missing:?} is there");
            }
            let together = [all(&needed.present), all(&needed.missing), all(&needed.missing_beside)].concat();
            let distinct: BTreeSet<_> = together.iter().collect();
            prop_assert_eq!(distinct.len(), together.len());
            // Every backup's own WAL is part of it, and a backup is whole just when nothing of that is missing.
            for backup in &backups {
                let own = backup.timeline.unwrap().number();
                let begin = backup.begin_lsn.unwrap().bytes() / MIB;
                let first = all(&needed.present).contains(&(own, begin)) || all(&needed.missing).contains(&(own, begin))
                    || all(&needed.missing_beside).contains(&(own, begin))
                    || known.values().any(|path| path.timeline_at(Lsn((begin + 1) * MIB - 1)).number() != own);
                prop_assert!(first, "the first segment of {backup:?}");
            }
        }
    }
}
