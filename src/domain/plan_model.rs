//! A naive model of recovery, byte by byte and segment by segment, that window and plan are compared with.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::catalog::Catalog;
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::{RecoveryTarget, TargetAction, TargetRequest, TargetTimeline};
use crate::domain::restore_plan::{PlanInput, plan};
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::window::WalInventory;

/// All LSNs are multiples of a quarter of a segment, and start just below the end of a log so that runs cross it.
const QUARTERS: u64 = 4;
const SEGMENTS: u64 = 8;

#[derive(Debug, Clone)]
struct World {
    size: SegmentSize,
    /// Timeline 2 left 1, and 3 left 2, at these LSNs (not always in order: see `TimelineHistory::legs`).
    switches: [u64; 2],
    wal: BTreeSet<(u32, u64)>,
    backups: Vec<(u32, u64, u64, i64, bool)>,
    target: RecoveryTarget,
    timeline: TargetTimeline,
    named: Option<usize>,
}

fn id(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn minute(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap() + TimeDelta::minutes(minute)
}

/// When segment `number` is stored: each a minute after the one before, whatever the timeline.
fn stored(world: &World, number: u64) -> DateTime<Utc> {
    minute(i64::try_from(number - world.first()).unwrap())
}

fn worlds() -> impl Strategy<Value = World> {
    let quarter = || 0..SEGMENTS * QUARTERS;
    let present = prop::collection::vec(prop::bool::weighted(0.93), usize::try_from(SEGMENTS * 3).unwrap());
    let target = prop_oneof![
        3 => quarter().prop_map(|at| RecoveryTarget::Lsn(Lsn(at))),
        3 => (-1..12_i64, 0..4_i64).prop_map(|(at, part)| {
            RecoveryTarget::Time((minute(at) + TimeDelta::seconds(part * 20)).fixed_offset())
        }),
        1 => Just(RecoveryTarget::Latest),
        1 => Just(RecoveryTarget::Immediate),
        1 => Just(RecoveryTarget::Xid(700)),
    ];
    let timeline = prop_oneof![
        Just(TargetTimeline::Latest),
        Just(TargetTimeline::Current),
        (1..4_u32).prop_map(|number| TargetTimeline::Number(id(number))),
    ];
    let backup = (1..4_u32, quarter(), 0..6_u64, 0..10_i64, prop::bool::weighted(0.9));
    let backups = prop::collection::vec(backup, 0..5);
    let named = prop::option::weighted(0.3, 0..5_usize);
    (20..=30_u32, [quarter(), quarter()], present, backups, target, (timeline, named)).prop_map(
        |(power, switches, present, backups, target, (timeline, named))| {
            let size = SegmentSize::new(1 << power).unwrap();
            let mut world = World { size, switches, wal: BTreeSet::new(), backups, target, timeline, named };
            if let RecoveryTarget::Lsn(at) = world.target {
                world.target = RecoveryTarget::Lsn(world.lsn(at.bytes()));
            }
            let places = (1..4_u32).flat_map(|timeline| (0..SEGMENTS).map(move |number| (timeline, number)));
            let first = world.first();
            let wal = places.zip(present).filter(|(_, present)| *present);
            world.wal = wal.map(|((timeline, number), _)| (timeline, first + number)).collect();
            world
        },
    )
}

impl World {
    fn first(&self) -> u64 {
        self.size.segments_per_log() * 3 - 3
    }

    fn lsn(&self, quarter: u64) -> Lsn {
        Lsn(self.size.start_of(self.first()).bytes() + quarter * (self.size.bytes() / QUARTERS))
    }

    fn history(&self, timeline: u32) -> TimelineHistory {
        let ancestors = [(id(1), self.lsn(self.switches[0])), (id(2), self.lsn(self.switches[1]))];
        TimelineHistory { timeline: id(timeline), ancestors: ancestors[..timeline as usize - 1].to_vec() }
    }

    fn inventory(&self, order: impl Iterator<Item = (u32, u64)>) -> WalInventory {
        let mut inventory = WalInventory::new();
        for (timeline, number) in order {
            let name = SegmentName::from_number(id(timeline), number, self.size);
            inventory.add(&WalFileName::Segment(name), stored(self, number));
        }
        inventory
    }

    fn backup(&self, index: usize) -> Backup {
        let (timeline, begin, length, ended, done) = self.backups[index];
        let (begin, end) = (self.lsn(begin), self.lsn(begin + length));
        let mut backup = Backup::new(format!("2026010{index}T000000").parse().unwrap());
        backup.status = if done { BackupStatus::Done } else { BackupStatus::Failed };
        backup.segment_size = self.size;
        backup.timeline = Some(id(timeline));
        (backup.begin_lsn, backup.end_lsn) = (Some(begin), Some(end));
        backup.begin_segment = Some(SegmentName::from_number(id(timeline), self.size.segment_of(begin), self.size));
        backup.end_time = Some(minute(ended).fixed_offset());
        backup
    }
}

/// What a simulated PostgreSQL would replay of the path, and what it would do then.
#[derive(Debug, PartialEq)]
struct Replay {
    lsn: Lsn,
    next: u64,
    strays_onto: Option<TimelineId>,
    last: Option<(u32, u64)>,
}

/// Reads segment by segment as `XLogFileReadAnyTLI` does, and looks at every quarter of a segment whether it holds the
/// path's own bytes.
fn replay(world: &World, path: &TimelineHistory, begin: Lsn) -> Replay {
    let quarter = world.size.bytes() / QUARTERS;
    let (mut at, mut current, mut last) = (begin, 0, None);
    loop {
        let number = world.size.segment_of(at);
        let stop = |lsn, last, strays_onto| Replay { lsn, next: number, strays_onto, last };
        let begun = |timeline: &u32| {
            let born = path.ancestors.get((*timeline as usize).wrapping_sub(2)).map_or(0, |(_, born)| born.bytes());
            world.size.segment_of(Lsn(born)) <= number
        };
        let candidates = (1..=path.timeline.number()).rev().filter(begun);
        let found = candidates.take_while(|timeline| *timeline >= current).find(|t| world.wal.contains(&(*t, number)));
        let Some(timeline) = found else { return stop(at, last, None) };
        current = timeline;
        while world.size.segment_of(at) == number {
            if world.history(timeline).timeline_at(at) != path.timeline_at(at) {
                return stop(at, last, Some(id(timeline)));
            }
            last = Some((timeline, number));
            at = Lsn(at.bytes() + quarter);
        }
    }
}

/// True when `backup` leads to the target along `path`, by the rules and the replay above.
fn leads(world: &World, backup: &Backup, path: &TimelineHistory, now: DateTime<Utc>) -> bool {
    let (begin, end) = (backup.begin_lsn.unwrap(), backup.end_lsn.unwrap());
    let timeline = backup.timeline.unwrap();
    let quarter = world.size.bytes() / QUARTERS;
    let bytes = (begin.bytes()..end.bytes().max(begin.bytes() + 1)).step_by(usize::try_from(quarter).unwrap());
    let on_path = bytes.map(Lsn).all(|at| path.timeline_at(at) == timeline);
    let empty_at_leave = path.end_of(timeline) == Some(Some(begin)) && begin == end;
    let replay = replay(world, path, begin);
    if backup.status != BackupStatus::Done || replay.last.is_none() || replay.lsn < end || !(on_path || empty_at_leave)
    {
        return false;
    }
    let later = |number: u64| {
        let newest = (1..=path.timeline.number()).rev();
        let owner = newest.into_iter().find(|t| {
            let born = path.ancestors.get((*t as usize).wrapping_sub(2)).map_or(0, |(_, born)| born.bytes());
            world.size.segment_of(Lsn(born)) <= number
        });
        world.wal.contains(&(owner.unwrap(), number))
    };
    let gap = (replay.next + 1..world.first() + SEGMENTS).any(later);
    match &world.target {
        RecoveryTarget::Immediate => true,
        RecoveryTarget::Lsn(target) => end <= *target && *target < replay.lsn,
        RecoveryTarget::Time(time) => {
            let tolerance = TimeDelta::seconds(if gap { 0 } else { 60 });
            replay.strays_onto.is_none()
                && backup.end_time.unwrap() <= *time
                && *time <= now
                && time.to_utc() <= stored(world, replay.last.unwrap().1) + tolerance
        }
        _ => replay.strays_onto.is_none(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn reach_is_what_a_simulated_postgresql_replays(world in worlds(), timeline in 1..4_u32, shuffled in any::<prop::sample::Index>()) {
        // Twice over and turned around: neither order nor repetition may matter.
        let mut order: Vec<_> = world.wal.iter().chain(&world.wal).copied().collect();
        if !order.is_empty() {
            let turn = shuffled.index(order.len());
            order.rotate_left(turn);
            order[..turn].reverse();
        }
        let inventory = world.inventory(order.into_iter());
        let path = world.history(timeline);
        for index in 0..world.backups.len() {
            let backup = world.backup(index);
            let Some(reach) = inventory.recoverable_from(&backup, &path) else {
                prop_assert!(path.end_of(backup.timeline.unwrap()).is_none());
                continue;
            };
            let begin = backup.begin_lsn.unwrap();
            if path.timeline_at(begin) != backup.timeline.unwrap() {
                continue;
            }
            let expected = replay(&world, &path, begin);
            let last = expected.last.map(|(timeline, number)| SegmentName::from_number(id(timeline), number, world.size));
            prop_assert_eq!((reach.lsn, reach.last, reach.strays_onto), (expected.lsn, last, expected.strays_onto));
            prop_assert_eq!(reach.next.number(world.size), expected.next);
            prop_assert_eq!(reach.complete_to_end_of_backup, last.is_some() && expected.lsn >= backup.end_lsn.unwrap());
            if let (Some(modified), Some((_, number))) = (reach.modified, expected.last) {
                prop_assert_eq!(modified, stored(&world, number));
            }
            prop_assert!(reach.modified.is_some() || reach.last.is_none() || reach.strays_onto.is_some());
        }
    }

    #[test]
    fn plan_accepts_exactly_what_the_rules_allow(world in worlds()) {
        let now = minute(9) + TimeDelta::seconds(40);
        let histories: BTreeMap<_, _> = (2..4).map(|timeline| (id(timeline), world.history(timeline))).collect();
        let named = world.named.filter(|index| *index < world.backups.len());
        let backups: Vec<Backup> = (0..world.backups.len()).map(|index| world.backup(index)).collect();
        let input = PlanInput {
            catalog: Catalog::new(backups.clone()),
            inventory: world.inventory(world.wal.iter().copied()),
            histories,
            request: TargetRequest { target: world.target.clone(), inclusive: true, timeline: world.timeline, action: TargetAction::Pause },
            backup: named.map(|index| backups[index].id.to_string()),
            now,
        };
        let path = |backup: &Backup| world.history(match world.timeline {
            TargetTimeline::Latest => 3,
            TargetTimeline::Current => backup.timeline.unwrap().number(),
            TargetTimeline::Number(timeline) => timeline.number(),
        });
        let asked: Vec<&Backup> = backups.iter().enumerate().filter(|(index, _)| named.is_none_or(|named| named == *index)).map(|(_, b)| b).collect();
        let serving: Vec<&Backup> = asked.into_iter().filter(|backup| leads(&world, backup, &path(backup), now)).collect();
        match plan(&input) {
            Ok(plan) => {
                let chosen = serving.iter().find(|backup| backup.id == plan.backup.id);
                prop_assert!(chosen.is_some(), "{} does not lead there", plan.backup.id);
                prop_assert_eq!(plan.history, path(&plan.backup));
                let newer = |backup: &&&Backup| if world.timeline == TargetTimeline::Current {
                    backup.end_time > plan.backup.end_time
                } else {
                    backup.end_lsn > plan.backup.end_lsn
                };
                prop_assert_eq!(serving.iter().find(newer), None, "a newer one was passed over");
            }
            Err(error) => {
                prop_assert!(serving.is_empty(), "{} leads there: {}", serving[0].id, error);
                prop_assert!(error.hint().is_some());
                prop_assert!(error.to_string().contains(" reach from ") || error.to_string().contains("nothing can be reached"));
            }
        }
    }
}
