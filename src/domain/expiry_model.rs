//! A naive model of an archive that is expired and killed at any moment: plain sets of names, replayed segment by segment.
//!
//! It knows histories, time and bytes, and nothing of how the rules are made. Time goes with the WAL; a moment is a byte of a
//! path. What the model can reach before, and a policy promises, it must reach after any number of steps.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::barman_retention::Keep;
use crate::domain::expiry::{ExpiryPlan, Holdings, Orphan, Step, plan, steps};
use crate::domain::lsn::Lsn;
use crate::domain::retention::{Held, Policy, Rules, Wish};
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::window::WalInventory;

/// All LSNs are multiples of a quarter of a segment, and start just below the end of a log so that runs cross it.
const QUARTERS: u64 = 4;
const SEGMENTS: u64 = 12;
const TIMELINES: u32 = 5;

/// A timeline: its parent and the quarter it left it at.
#[derive(Debug, Clone, Copy)]
struct Born {
    parent: u32,
    at: u64,
}

#[derive(Debug, Clone)]
struct Taken {
    /// Ids are not in the order of WAL.
    id: String,
    timeline: u32,
    begin: u64,
    end: u64,
    status: BackupStatus,
    damaged: bool,
    keep: Option<Keep>,
    /// Days ago, of those that are STARTED.
    began_days_ago: i64,
}

#[derive(Debug, Clone)]
struct World {
    size: SegmentSize,
    born: Vec<Born>,
    lost_histories: BTreeSet<u32>,
    wal: BTreeSet<(u32, u64)>,
    taken: Vec<Taken>,
    policy: Policy,
    minimum: u64,
    archived_late: i64,
}

/// What is in the bucket.
#[derive(Debug, Clone, PartialEq)]
struct State {
    records: BTreeSet<String>,
    directories: BTreeSet<String>,
    wal: BTreeSet<(u32, u64)>,
}

fn id(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn hour(hours: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap() + TimeDelta::hours(hours)
}

fn worlds() -> impl Strategy<Value = World> {
    let quarter = || 0..SEGMENTS * QUARTERS;
    let born = prop::collection::vec((any::<prop::sample::Index>(), quarter()), TIMELINES as usize - 1);
    let lost = prop::collection::btree_set(2..=TIMELINES, 0..2);
    let places = usize::try_from(SEGMENTS * u64::from(TIMELINES)).unwrap();
    let present = prop::collection::vec(prop::bool::weighted(0.95), places);
    let status = prop_oneof![
        8 => Just(BackupStatus::Done),
        1 => Just(BackupStatus::Failed),
        1 => Just(BackupStatus::Started),
        1 => Just(BackupStatus::Other("EMPTY".to_owned())),
    ];
    let keep = prop_oneof![6 => Just(None), 1 => Just(Some(Keep::Full)), 2 => Just(Some(Keep::Standalone))];
    let backup = (1..=TIMELINES, quarter(), 1..7_u64, status, prop::bool::weighted(0.1), keep, 0..12_i64);
    let taken = prop::collection::vec(backup, 0..9);
    let order = Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle();
    let policy = prop_oneof![
        2 => (1..4_i64).prop_map(|days| Policy::Window { days }),
        1 => (1..4_u64).prop_map(Policy::Redundancy),
    ];
    (20..=30_u32, born, lost, present, (taken, order), policy, 0..4_u64, 0..20_i64).prop_map(
        |(power, born, lost_histories, present, (taken, order), policy, minimum, archived_late)| {
            let size = SegmentSize::new(1 << power).unwrap();
            let born = born.into_iter().enumerate().map(|(at, (parent, lsn))| {
                let parent = u32::try_from(parent.index(at + 1)).unwrap() + 1;
                Born { parent, at: lsn }
            });
            let born = born.collect();
            let mut world = World {
                size,
                born,
                lost_histories,
                wal: BTreeSet::new(),
                taken: Vec::new(),
                policy,
                minimum,
                archived_late,
            };
            let places = (1..=TIMELINES).flat_map(|timeline| (0..SEGMENTS).map(move |number| (timeline, number)));
            // A timeline has WAL from the segment it was born in on.
            let wal = places
                .zip(present)
                .filter(|((timeline, number), present)| *present && world.born_at(*timeline) / QUARTERS <= *number);
            world.wal = wal.map(|((timeline, number), _)| (timeline, world.first() + number)).collect();
            let taken =
                taken.into_iter().zip(order).map(|((timeline, begin, length, status, damaged, keep, began), at)| {
                    let begin = begin.max(world.born_at(timeline));
                    Taken {
                        id: format!("202606{:02}T000000", at + 1),
                        timeline,
                        begin,
                        end: begin + length,
                        status,
                        damaged,
                        keep,
                        began_days_ago: began,
                    }
                });
            world.taken = taken.collect();
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

    fn born_at(&self, timeline: u32) -> u64 {
        if timeline == 1 {
            return 0;
        }
        let born = self.born[timeline as usize - 2];
        // A timeline cannot be left before it began.
        born.at.max(self.born_at(born.parent))
    }

    fn ancestors(&self, timeline: u32) -> Vec<(TimelineId, Lsn)> {
        if timeline == 1 {
            return Vec::new();
        }
        let parent = self.born[timeline as usize - 2].parent;
        let mut ancestors = self.ancestors(parent);
        ancestors.push((id(parent), self.lsn(self.born_at(timeline))));
        ancestors
    }

    /// The timeline that holds a quarter of the path to `tip`.
    fn holder(&self, tip: u32, quarter: u64) -> u32 {
        if tip == 1 || quarter >= self.born_at(tip) {
            tip
        } else {
            self.holder(self.born[tip as usize - 2].parent, quarter)
        }
    }

    /// The path's timelines, newest first.
    fn lineage(&self, tip: u32) -> Vec<u32> {
        if tip == 1 { vec![1] } else { [vec![tip], self.lineage(self.born[tip as usize - 2].parent)].concat() }
    }

    /// A quarter is a twelfth of a day; each later branch is a little later.
    fn time(&self, timeline: u32, quarter: u64) -> DateTime<Utc> {
        hour(i64::try_from(quarter).unwrap() * 2 + i64::try_from(self.lineage(timeline).len()).unwrap() * 5)
    }

    fn now() -> DateTime<Utc> {
        hour(i64::try_from(SEGMENTS * QUARTERS).unwrap() * 2 + 24)
    }

    fn histories(&self) -> BTreeMap<TimelineId, TimelineHistory> {
        let known = (2..=TIMELINES).filter(|timeline| !self.lost_histories.contains(timeline));
        known.map(|t| (id(t), TimelineHistory { timeline: id(t), ancestors: self.ancestors(t) })).collect()
    }

    fn record(&self, taken: &Taken) -> Backup {
        let mut backup = Backup::new(taken.id.parse().unwrap());
        backup.status = taken.status.clone();
        backup.segment_size = self.size;
        backup.timeline = Some(id(taken.timeline));
        let begin = self.lsn(taken.begin);
        backup.begin_lsn = Some(begin);
        backup.begin_segment =
            Some(SegmentName::from_number(id(taken.timeline), self.size.segment_of(begin), self.size));
        backup.begin_time = Some((Self::now() - TimeDelta::days(taken.began_days_ago)).fixed_offset());
        if matches!(taken.status, BackupStatus::Done) {
            backup.end_lsn = Some(self.lsn(taken.end));
            backup.end_time = Some(self.time(taken.timeline, taken.end).fixed_offset());
        }
        if taken.damaged {
            backup.mark_damaged_pages("1 file");
        }
        backup
    }

    fn whole(&self) -> State {
        let ids: BTreeSet<String> = self.taken.iter().map(|taken| taken.id.clone()).collect();
        State { records: ids.clone(), directories: ids, wal: self.wal.clone() }
    }

    /// What an expiry makes of a state; `begun` are the ids that the lock of a killed one names.
    fn judge(&self, state: &State, begun: &BTreeSet<String>) -> ExpiryPlan {
        let mut inventory = WalInventory::new();
        for (timeline, number) in &state.wal {
            let name = SegmentName::from_number(id(*timeline), *number, self.size);
            let stored =
                self.time(*timeline, (number - self.first() + 1) * QUARTERS) + TimeDelta::hours(self.archived_late);
            inventory.add(&WalFileName::Segment(name), stored);
        }
        let present = self.taken.iter().filter(|taken| state.records.contains(&taken.id));
        let backups: Vec<(Backup, Option<Keep>)> = present.map(|taken| (self.record(taken), taken.keep)).collect();
        let held =
            backups.iter().map(|(backup, keep)| Held { backup, keep: *keep, bound: None, debris: None }).collect();
        let unfinished = state.directories.difference(&state.records).filter(|id| begun.contains(*id)).cloned();
        let histories = self.histories();
        let holdings = Holdings {
            backups: held,
            unreadable: Vec::new(),
            unrecorded: Vec::new(),
            orphans: unfinished.map(|id| Orphan { id, why: "unfinished".to_owned() }).collect(),
            wal: &inventory,
            histories: &histories,
            floor: None,
        };
        let rules = Rules { wish: Wish::Policy(self.policy), minimum_redundancy: self.minimum, now: Self::now() };
        plan(&holdings, &rules).unwrap()
    }

    fn carry_out(&self, state: &mut State, step: &Step) {
        match step {
            Step::Record(id) => assert!(state.records.remove(id)),
            Step::Directory(id) => {
                assert!(!state.records.contains(id), "the record goes first");
                assert!(state.directories.remove(id));
            }
            Step::Wal(first, last) => state.wal.retain(|(timeline, number)| {
                let within = (first.number(self.size)..=last.number(self.size)).contains(number);
                *timeline != first.timeline.number() || !within
            }),
        }
    }

    /// How far, in quarters, a replay from `begin` gets along the path to `tip`, as `XLogFileReadAnyTLI` reads.
    fn replay(&self, state: &State, tip: u32, begin: u64) -> u64 {
        let (mut at, mut current) = (begin, 0);
        loop {
            let number = at / QUARTERS;
            let lineage = self.lineage(tip);
            let begun = lineage.iter().filter(|timeline| self.born_at(**timeline) / QUARTERS <= number);
            let mut candidates = begun.take_while(|timeline| **timeline >= current);
            let Some(found) = candidates.find(|t| state.wal.contains(&(**t, self.first() + number))) else { return at };
            current = *found;
            while at / QUARTERS == number {
                if self.holder(*found, at) != self.holder(tip, at) {
                    return at;
                }
                at += 1;
            }
        }
    }

    /// The quarters that can be reached from a backup along the path to `tip`: none, or from its end to where WAL ends.
    fn reach(&self, state: &State, taken: &Taken, tip: u32) -> Option<(u64, u64)> {
        let on_path = (taken.begin..taken.end).all(|quarter| self.holder(tip, quarter) == taken.timeline)
            && self.lineage(tip).contains(&taken.timeline);
        let usable = taken.status == BackupStatus::Done
            && !taken.damaged
            && state.records.contains(&taken.id)
            && state.directories.contains(&taken.id);
        let known = tip == 1 || !self.lost_histories.contains(&tip);
        if !(on_path && usable && known) {
            return None;
        }
        let to = self.replay(state, tip, taken.begin);
        // The first segment must be there, even where a backup holds no WAL.
        (to > taken.begin && to >= taken.end).then_some((taken.end, to))
    }

    /// All moments there are, as a path's tip and a quarter.
    fn moments(&self, state: &State, from: impl Fn(&Taken) -> bool) -> BTreeSet<(u32, u64)> {
        let mut moments = BTreeSet::new();
        for taken in self.taken.iter().filter(|taken| from(taken)) {
            for tip in 1..=TIMELINES {
                let reach = self.reach(state, taken, tip);
                moments.extend(reach.into_iter().flat_map(|(from, to)| (from..=to).map(move |quarter| (tip, quarter))));
            }
        }
        moments
    }

    fn restorable<'a>(&'a self, state: &'a State) -> Vec<&'a Taken> {
        let mut found: Vec<&Taken> =
            self.taken.iter().filter(|taken| !self.moments(state, |t| t.id == taken.id).is_empty()).collect();
        found.sort_by_key(|taken| {
            std::cmp::Reverse((self.time(taken.timeline, taken.end), self.lsn(taken.end), taken.id.clone()))
        });
        found
    }

    /// Everything promised about `whole` that is not so in `state`.
    fn broken(&self, whole: &State, state: &State) -> Vec<String> {
        let mut broken = Vec::new();
        if let Some(since) = self.policy.since(Self::now()) {
            let promised: BTreeSet<(u32, u64)> = self
                .moments(whole, |_| true)
                .into_iter()
                .filter(|(tip, quarter)| self.time(self.holder(*tip, *quarter), *quarter) >= since)
                .collect();
            let kept = self.moments(state, |_| true);
            broken.extend(promised.difference(&kept).map(|moment| format!("moment {moment:?} of the window")));
        }
        let before = self.restorable(whole);
        let wanted = match self.policy {
            Policy::Redundancy(count) => count.max(self.minimum).max(1),
            Policy::Window { .. } => self.minimum.max(1),
        };
        let newest = before.iter().take(usize::try_from(wanted).unwrap());
        for taken in newest.copied().chain(self.taken.iter().filter(|taken| taken.keep == Some(Keep::Full))) {
            let only = |state: &State| self.moments(state, |other| other.id == taken.id);
            if only(whole) != only(state) {
                broken.push(format!("moments from {taken:?}"));
            }
        }
        for taken in self.taken.iter().filter(|taken| taken.keep == Some(Keep::Standalone)) {
            let ends = |state: &State| (1..=TIMELINES).any(|tip| self.reach(state, taken, tip).is_some());
            if ends(whole) && !ends(state) {
                broken.push(format!("the end of {taken:?}"));
            }
        }
        let running =
            self.taken.iter().filter(|taken| taken.status == BackupStatus::Started && taken.began_days_ago < 7);
        for taken in running {
            let own = |state: &State| -> BTreeSet<u64> {
                let of = state.wal.iter().filter(|(timeline, number)| {
                    *timeline == taken.timeline && *number >= self.first() + taken.begin / QUARTERS
                });
                of.map(|(_, number)| *number).collect()
            };
            if own(whole) != own(state) {
                broken.push(format!("WAL of the running {taken:?}"));
            }
        }
        broken
    }
}

/// A promotion copies the segment it happens in, and the older timeline's own may never have been archived.
#[test]
fn the_end_of_a_kept_backup_stays_where_only_a_later_timeline_has_its_segment() {
    let taken = |id: &str, timeline, (begin, end), keep| Taken {
        id: id.to_owned(),
        timeline,
        begin,
        end,
        status: BackupStatus::Done,
        damaged: false,
        keep,
        began_days_ago: 0,
    };
    let world = World {
        size: SegmentSize::new(1 << 20).unwrap(),
        born: [0, 12, 0, 9].map(|at| Born { parent: 1, at }).to_vec(),
        lost_histories: BTreeSet::new(),
        wal: [(1, 12286), (5, 12287), (5, 12290), (5, 12291)].into(),
        taken: vec![
            taken("20260601T000000", 5, (20, 21), None),
            taken("20260602T000000", 1, (5, 9), Some(Keep::Standalone)),
        ],
        policy: Policy::Window { days: 1 },
        minimum: 0,
        archived_late: 0,
    };
    let (whole, mut state) = (world.whole(), world.whole());
    for step in steps(&world.judge(&whole, &BTreeSet::new())) {
        world.carry_out(&mut state, &step);
    }
    assert!(state.wal.contains(&(5, 12287)));
    assert_eq!(world.broken(&whole, &state), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whatever_is_promised_can_be_restored_after_any_number_of_steps(
        world in worlds(),
        killed in any::<prop::sample::Index>(),
    ) {
        let whole = world.whole();
        let first = world.judge(&whole, &BTreeSet::new());
        let todo = steps(&first);
        let begun: BTreeSet<String> = first.going().map(|backup| backup.id.clone()).collect();
        let (mut state, mut states) = (whole.clone(), vec![whole.clone()]);
        for step in &todo {
            world.carry_out(&mut state, step);
            states.push(state.clone());
        }
        for (done, state) in states.iter().enumerate() {
            let broken = world.broken(&whole, state);
            prop_assert!(broken.is_empty(), "after {} of {:?}: {:?}\n{:?}", done, todo, broken, first);
        }
        // Killed anywhere, the next one ends where the first would have, and has nothing to do after that.
        let mut resumed = states[killed.index(states.len())].clone();
        for step in steps(&world.judge(&resumed, &begun)) {
            world.carry_out(&mut resumed, &step);
            let broken = world.broken(&whole, &resumed);
            prop_assert!(broken.is_empty(), "{:?}", broken);
        }
        prop_assert_eq!(&resumed, &state);
        prop_assert!(steps(&world.judge(&resumed, &begun)).is_empty());
        // Every verdict has a reason, and every segment one verdict.
        let judged: u64 = first.wal.iter().map(|stretch| stretch.segments).sum();
        prop_assert_eq!(judged, whole.wal.len() as u64);
        prop_assert!(first.backups.iter().all(|backup| !backup.verdict.why.is_empty()));
        prop_assert!(first.wal.iter().all(|stretch| !stretch.verdict.why.is_empty()));
        prop_assert!(first.wal.iter().all(|stretch| first.rules.verdict(stretch.last) == stretch.verdict));
    }

    #[test]
    fn a_backup_counts_as_restorable_exactly_when_the_model_can_restore_it(world in worlds()) {
        let whole = world.whole();
        let judged = world.judge(&whole, &BTreeSet::new());
        for backup in &judged.backups {
            let taken = world.taken.iter().find(|taken| taken.id == backup.id).unwrap();
            let expected = !world.moments(&whole, |other| other.id == taken.id).is_empty();
            prop_assert_eq!(backup.restorable, expected, "{:?}", taken);
        }
    }

    #[test]
    fn deleting_one_backup_takes_nothing_from_the_others(world in worlds(), which in any::<prop::sample::Index>()) {
        prop_assume!(!world.taken.is_empty());
        let whole = world.whole();
        let target = &world.taken[which.index(world.taken.len())];
        let Ok(judged) = world.judge_deletion(&whole, &target.id) else { return Ok(()) };
        let mut state = whole.clone();
        for step in steps(&judged) {
            world.carry_out(&mut state, &step);
            for other in world.taken.iter().filter(|other| other.id != target.id) {
                let only = |state: &State| world.moments(state, |taken| taken.id == other.id);
                prop_assert_eq!(only(&whole), only(&state), "{:?}", other);
            }
        }
        prop_assert!(judged.going().all(|backup| backup.id == target.id));
        let gone: Vec<&(u32, u64)> = whole.wal.difference(&state.wal).collect();
        prop_assert!(gone.iter().all(|(timeline, number)| {
            *timeline >= target.timeline && *number >= world.first() + target.begin / QUARTERS
        }), "{:?}", gone);
    }
}

impl World {
    fn judge_deletion(&self, state: &State, target: &str) -> crate::error::Result<ExpiryPlan> {
        let mut inventory = WalInventory::new();
        for (timeline, number) in &state.wal {
            let name = SegmentName::from_number(id(*timeline), *number, self.size);
            inventory.add(&WalFileName::Segment(name), Self::now());
        }
        let backups: Vec<(Backup, Option<Keep>)> =
            self.taken.iter().map(|taken| (self.record(taken), taken.keep)).collect();
        let held =
            backups.iter().map(|(backup, keep)| Held { backup, keep: *keep, bound: None, debris: None }).collect();
        let histories = self.histories();
        let holdings = Holdings {
            backups: held,
            unreadable: Vec::new(),
            unrecorded: Vec::new(),
            orphans: Vec::new(),
            wal: &inventory,
            histories: &histories,
            floor: None,
        };
        let wish = Wish::Delete(target.to_owned());
        plan(&holdings, &Rules { wish, minimum_redundancy: self.minimum, now: Self::now() })
    }
}
