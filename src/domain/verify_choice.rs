//! What a verification that may not look at everything looks at: what was looked at longest ago.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::timeline::TimelineId;

/// Something that is verified as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit<K> {
    /// Which thing it is.
    pub key: K,
    /// How many bytes looking at it reads.
    pub bytes: u64,
    /// When it last passed at the depth that is asked for; none when it never did.
    pub last: Option<DateTime<Utc>>,
}

/// How much may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// A share of all bytes, in millionths.
    Millionths(u32),
    /// So many bytes.
    Bytes(u64),
}

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The time it is.
    pub now: DateTime<Utc>,
    /// What passed less than this ago is left out.
    pub max_age: Option<Duration>,
    /// When so much has been chosen, nothing more is.
    pub sample: Option<Sample>,
}

/// What is looked at, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<K> {
    /// To be looked at: what never passed first, then what passed longest ago.
    pub chosen: Vec<Unit<K>>,
    /// Left out because it passed not long ago.
    pub recent: Vec<Unit<K>>,
    /// Left for another time because this time's share is used up.
    pub left: Vec<Unit<K>>,
}

/// Chooses among `units`: those that passed within the last `max_age` are left out, of the others those that passed longest
/// ago are taken until the sample is used up.
///
/// The unit that reaches the sample is still taken, so that every run gets on, whatever the sizes: with a share of 5 %
/// twenty runs go round everything. Equal units keep their order. The same units, limits and time give the same choice.
#[must_use]
pub fn choose<K>(units: Vec<Unit<K>>, limits: &Limits) -> Choice<K> {
    let total: u64 = units.iter().map(|unit| unit.bytes).sum();
    let budget = limits.sample.map(|sample| match sample {
        Sample::Bytes(bytes) => bytes,
        Sample::Millionths(share) => {
            u64::try_from((u128::from(total) * u128::from(share)).div_ceil(1_000_000)).unwrap_or(u64::MAX)
        }
    });
    let is_recent = |unit: &Unit<K>| {
        let age = unit.last.map(|last| limits.now.signed_duration_since(last));
        // A clock that ran ahead is no reason to look at nothing for years.
        age.zip(limits.max_age).is_some_and(|(age, most)| age.to_std().is_ok_and(|age| age < most))
    };
    let (recent, mut rest): (Vec<_>, Vec<_>) = units.into_iter().partition(is_recent);
    rest.sort_by_key(|unit| unit.last);
    let (mut chosen, mut left, mut taken) = (Vec::new(), Vec::new(), 0_u64);
    for unit in rest {
        let is_enough = budget.is_some_and(|budget| taken >= budget && !chosen.is_empty());
        if is_enough {
            left.push(unit);
        } else {
            taken = taken.saturating_add(unit.bytes);
            chosen.push(unit);
        }
    }
    Choice { chosen, recent, left }
}

/// Segments of one timeline that follow each other, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stretch {
    /// The timeline in their names.
    pub timeline: TimelineId,
    /// The first segment's number.
    pub first: u64,
    /// The last segment's number; not below `first`.
    pub last: u64,
}

impl Stretch {
    /// How many segments it is.
    #[must_use]
    pub fn segments(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// The names of the first and the last.
    #[must_use]
    pub fn ends(&self, size: SegmentSize) -> (SegmentName, SegmentName) {
        let name = |number| SegmentName::from_number(self.timeline, number, size);
        (name(self.first), name(self.last))
    }

    /// The same segments, cut where a directory of the archive ends: every 4 GiB of WAL.
    pub fn by_directory(self, size: SegmentSize) -> impl Iterator<Item = Self> {
        let per_log = size.segments_per_log();
        (self.first / per_log..=self.last / per_log).map(move |log| Self {
            first: self.first.max(log * per_log),
            last: self.last.min(log.saturating_add(1).saturating_mul(per_log) - 1),
            ..self
        })
    }
}

/// A look at a stretch that came to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What was looked at.
    pub stretch: Stretch,
    /// When.
    pub at: DateTime<Utc>,
    /// Whether it passed.
    pub passed: bool,
}

/// Cuts `stretch` into pieces that passed at different times, in order. What failed after it had passed counts as never passed.
#[must_use]
pub fn by_age(stretch: Stretch, looks: &[Look]) -> Vec<(Stretch, Option<DateTime<Utc>>)> {
    let is_touching = |other: &Stretch| {
        other.timeline == stretch.timeline && other.first <= stretch.last && other.last >= stretch.first
    };
    let touching: Vec<&Look> = looks.iter().filter(|look| is_touching(&look.stretch)).collect();
    let mut begins: Vec<u64> = touching
        .iter()
        .flat_map(|look| [look.stretch.first, look.stretch.last.saturating_add(1)])
        .filter(|begin| (stretch.first..=stretch.last).contains(begin))
        .chain([stretch.first])
        .collect();
    begins.sort_unstable();
    begins.dedup();
    let ends = begins.iter().skip(1).map(|begin| begin - 1).chain([stretch.last]);
    let mut pieces: Vec<(Stretch, Option<DateTime<Utc>>)> = Vec::new();
    for (first, last) in begins.iter().copied().zip(ends) {
        let covering = touching.iter().filter(|look| look.stretch.first <= first && look.stretch.last >= last);
        let newest = covering.max_by_key(|look| (look.at, !look.passed));
        let at = newest.filter(|look| look.passed).map(|look| look.at);
        match pieces.last_mut() {
            Some((piece, same)) if *same == at => piece.last = last,
            _ => pieces.push((Stretch { first, last, ..stretch }, at)),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(number: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(number * 86_400, 0).unwrap()
    }

    fn unit(key: u32, bytes: u64, last: Option<i64>) -> Unit<u32> {
        Unit { key, bytes, last: last.map(day) }
    }

    fn keys(units: &[Unit<u32>]) -> Vec<u32> {
        units.iter().map(|unit| unit.key).collect()
    }

    fn limits(now: i64, max_age_days: Option<u64>, sample: Option<Sample>) -> Limits {
        let max_age = max_age_days.map(|days| Duration::from_secs(days * 86_400));
        Limits { now: day(now), max_age, sample }
    }

    #[test]
    fn what_never_passed_comes_first_then_what_passed_longest_ago() {
        let units = vec![unit(1, 10, Some(5)), unit(2, 10, None), unit(3, 10, Some(2)), unit(4, 10, None)];
        let choice = choose(units, &limits(9, None, Some(Sample::Bytes(25))));
        assert_eq!(keys(&choice.chosen), [2, 4, 3]);
        assert_eq!(keys(&choice.left), [1]);
    }

    #[test]
    fn what_passed_not_long_ago_is_left_out_and_a_clock_that_ran_ahead_counts_as_never() {
        let units = vec![unit(1, 10, Some(99)), unit(2, 10, Some(70)), unit(3, 10, Some(69)), unit(4, 10, Some(101))];
        let choice = choose(units, &limits(100, Some(30), None));
        assert_eq!(keys(&choice.recent), [1]);
        assert_eq!(keys(&choice.chosen), [3, 2, 4]);
    }

    #[test]
    fn one_unit_is_taken_however_small_the_sample_and_empty_ones_do_not_stall_it() {
        let units = vec![unit(1, 1 << 40, None), unit(2, 1, None)];
        assert_eq!(keys(&choose(units, &limits(1, None, Some(Sample::Millionths(1)))).chosen), [1]);
        let units = vec![unit(1, 0, None), unit(2, 0, None)];
        assert_eq!(choose(units, &limits(1, None, Some(Sample::Bytes(0)))).chosen.len(), 1);
    }

    proptest! {
        /// A daily run with a share of 1/n has been everywhere after n days, and goes on round.
        #[test]
        fn a_sample_goes_round_everything(
            sizes in prop::collection::vec(1..1000_u64, 1..40),
            runs in 1..30_u32,
        ) {
            let share = Sample::Millionths(1_000_000_u32.div_ceil(runs));
            let mut units: Vec<Unit<u32>> =
                sizes.iter().zip(0_u32..).map(|(bytes, key)| unit(key, *bytes, None)).collect();
            for today in 1..=i64::from(2 * runs) {
                let choice = choose(units.clone(), &limits(today, None, Some(share)));
                prop_assert!(!choice.chosen.is_empty());
                for chosen in &choice.chosen {
                    units.iter_mut().find(|unit| unit.key == chosen.key).unwrap().last = Some(day(today));
                }
                if today >= i64::from(runs) {
                    let oldest = units.iter().map(|unit| unit.last).min().unwrap();
                    prop_assert!(oldest.is_some_and(|oldest| oldest > day(today - i64::from(runs) - 1)),
                        "on day {today} something was last looked at on {oldest:?}");
                }
            }
        }

        #[test]
        fn nothing_is_lost_or_taken_twice(
            ages in prop::collection::vec((prop::option::of(0..200_i64), 0..100_u64), 0..30),
            max_age in prop::option::of(0..200_u64),
            sample in prop::option::of(0..2000_u64),
        ) {
            let units: Vec<_> =
                ages.iter().zip(0_u32..).map(|((last, bytes), key)| unit(key, *bytes, *last)).collect();
            let choice = choose(units, &limits(100, max_age, sample.map(Sample::Bytes)));
            let mut all: Vec<u32> = [keys(&choice.chosen), keys(&choice.recent), keys(&choice.left)].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..u32::try_from(ages.len()).unwrap()).collect::<Vec<_>>());
        }

        #[test]
        fn pieces_by_age_follow_each_other_and_tell_each_segments_latest_pass(
            (first, length) in (0..40_u64, 0..40_u64),
            looks in prop::collection::vec((1..3_u32, 0..60_u64, 0..20_u64, 0..9_i64, prop::bool::weighted(0.8)), 0..8),
        ) {
            let on = |timeline| TimelineId::new(timeline).unwrap();
            let stretch = Stretch { timeline: on(1), first, last: first + length };
            let looks: Vec<_> = looks
                .into_iter()
                .map(|(timeline, first, more, at, passed)| {
                    Look { stretch: Stretch { timeline: on(timeline), first, last: first + more }, at: day(at), passed }
                })
                .collect();
            let pieces = by_age(stretch, &looks);
            prop_assert_eq!(pieces[0].0.first, first);
            prop_assert_eq!(pieces[pieces.len() - 1].0.last, first + length);
            for pair in pieces.windows(2) {
                prop_assert_eq!(pair[0].0.last + 1, pair[1].0.first);
                prop_assert_ne!(pair[0].1, pair[1].1);
            }
            for number in first..=first + length {
                let of_it = |look: &&Look| {
                    look.stretch.timeline == on(1) && (look.stretch.first..=look.stretch.last).contains(&number)
                };
                let latest = looks.iter().filter(of_it).map(|look| look.at).max();
                let failed = looks.iter().filter(of_it).any(|look| Some(look.at) == latest && !look.passed);
                let piece = pieces.iter().find(|(piece, _)| (piece.first..=piece.last).contains(&number)).unwrap();
                prop_assert_eq!(piece.1, latest.filter(|_| !failed));
            }
        }
    }

    #[test]
    fn stretches_are_cut_where_directories_end() {
        let stretch = Stretch { timeline: TimelineId::FIRST, first: 250, last: 600 };
        let cut: Vec<_> = stretch.by_directory(SegmentSize::DEFAULT).map(|part| (part.first, part.last)).collect();
        assert_eq!(cut, [(250, 255), (256, 511), (512, 600)]);
    }
}
