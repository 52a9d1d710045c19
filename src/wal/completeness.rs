//! Which files of `pg_wal` are whole segments: told by PostgreSQL, or by the WAL that follows them.

use std::collections::BTreeMap;

use crate::domain::cluster::SystemIdentifier;
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentName;
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::error::Result;
use crate::wal::page_header::SegmentHeader;
use crate::wal::proof;

/// A file of `pg_wal` that is called as a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: SegmentName,
    /// PostgreSQL asks its archiver for it: there is a `.ready` file. A `.done` file is no such word: a standby and
    /// `pg_basebackup` leave one for the segment in which their stream ended.
    pub is_ready: bool,
    /// The first page, where it is that of the segment of this name. A file that is set aside for later use, or recycled
    /// and not yet written to, has another.
    begun: Option<SegmentHeader>,
}

/// Whether a file is a whole segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// It is: nothing will be written to it any more.
    Complete,
    /// Nothing of this segment has been written yet: the file is there for later use, with older WAL or none in it.
    NotBegun,
    /// It holds WAL of this segment, and no later segment shows that there will be no more of it.
    MayGrow,
}

impl Candidate {
    /// What can be told of a file of `length_bytes` that begins with `first_page`; `history` is that of the name's timeline.
    #[must_use]
    pub fn new(
        name: SegmentName,
        is_ready: bool,
        first_page: &[u8],
        length_bytes: u64,
        history: Option<&TimelineHistory>,
    ) -> Self {
        let header = || -> Result<SegmentHeader> {
            proof::check_segment(name, first_page, length_bytes, history)?;
            SegmentHeader::parse(first_page)
        };
        Self { name, is_ready, begun: header().ok() }
    }

    /// The cluster that wrote it, where its first page is its own.
    #[must_use]
    pub fn system_identifier(&self) -> Option<SystemIdentifier> {
        self.begun.map(|header| header.system_identifier)
    }
}

/// How far WAL is known to have gone on, timeline by timeline.
struct Reached<'a> {
    candidates: &'a [Candidate],
    /// The highest segment of a timeline that has been begun.
    begun: BTreeMap<(SystemIdentifier, TimelineId), u64>,
    /// The highest place at which a later timeline that has been begun left this one.
    left: BTreeMap<(SystemIdentifier, TimelineId), Lsn>,
}

/// Tells for each of `candidates`, all of one `pg_wal`, whether it is complete. `histories` are those found beside them.
///
/// PostgreSQL writes WAL in order, and flushes a segment before it begins the next: a segment is whole once a later one of
/// its timeline has been begun, or one of a timeline that left it behind this segment's end. So it is on a primary, on a
/// standby, and on disk after any crash.
#[must_use]
pub fn judge(
    candidates: &[Candidate],
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> Vec<(SegmentName, Completeness)> {
    let reached = Reached::new(candidates, histories);
    reached.candidates.iter().map(|candidate| (candidate.name, reached.judge(candidate))).collect()
}

impl<'a> Reached<'a> {
    fn new(candidates: &'a [Candidate], histories: &BTreeMap<TimelineId, TimelineHistory>) -> Self {
        let mut begun = BTreeMap::new();
        for candidate in candidates {
            if let Some(header) = candidate.begun {
                let highest = begun.entry((header.system_identifier, candidate.name.timeline)).or_default();
                *highest = candidate.name.number(header.segment_size).max(*highest);
            }
        }
        let mut left = BTreeMap::new();
        for &(cluster, timeline) in begun.keys() {
            for leg in histories.get(&timeline).into_iter().flat_map(TimelineHistory::legs) {
                if let Some(end) = leg.end {
                    let furthest = left.entry((cluster, leg.timeline)).or_insert(end);
                    *furthest = end.max(*furthest);
                }
            }
        }
        Self { candidates, begun, left }
    }

    fn judge(&self, candidate: &Candidate) -> Completeness {
        let Candidate { name, is_ready, begun } = candidate;
        if *is_ready {
            return Completeness::Complete;
        }
        let Some(header) = begun else { return Completeness::NotBegun };
        let path = (header.system_identifier, name.timeline);
        let goes_on = self.begun.get(&path).is_some_and(|highest| *highest > name.number(header.segment_size));
        let end = name.next(header.segment_size).start(header.segment_size);
        if goes_on || self.left.get(&path).is_some_and(|left| *left >= end) {
            Completeness::Complete
        } else {
            Completeness::MayGrow
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::segment::SegmentSize;
    use crate::wal::page_header::tests::header_bytes;

    const SIZE: u64 = 1 << 20;

    fn name(timeline: u32, number: u64) -> SegmentName {
        SegmentName::from_number(TimelineId::new(timeline).unwrap(), number, SegmentSize::new(SIZE).unwrap())
    }

    /// A file called as segment `number`, with the first page of segment `holds`.
    fn file(timeline: u32, number: u64, holds: u64) -> Candidate {
        let page = header_bytes(timeline, holds * SIZE, 77, 1 << 20);
        Candidate::new(name(timeline, number), false, &page, SIZE, None)
    }

    fn whole(timeline: u32, number: u64) -> Candidate {
        file(timeline, number, number)
    }

    fn judged(candidates: &[Candidate], histories: &[(u32, &str)]) -> Vec<Completeness> {
        let parse = |&(timeline, text): &(u32, &str)| {
            let timeline = TimelineId::new(timeline).unwrap();
            (timeline, TimelineHistory::parse(timeline, text).unwrap())
        };
        let histories = histories.iter().map(parse).collect();
        judge(candidates, &histories).into_iter().map(|(_, verdict)| verdict).collect()
    }

    use Completeness::{Complete, MayGrow, NotBegun};

    #[test]
    fn a_segment_is_complete_once_a_later_one_has_been_begun() {
        assert_eq!(judged(&[whole(1, 5), whole(1, 6), file(1, 7, 3)], &[]), [Complete, MayGrow, NotBegun]);
        assert_eq!(judged(&[whole(1, 5), whole(1, 9)], &[]), [Complete, MayGrow]);
        assert_eq!(judged(&[whole(1, 5)], &[]), [MayGrow]);
    }

    #[test]
    fn recycled_and_empty_files_prove_nothing() {
        let zeroes = Candidate::new(name(1, 6), false, &[0; 40], SIZE, None);
        let short = Candidate::new(name(1, 7), false, &header_bytes(1, 7 * SIZE, 77, 1 << 20), SIZE - 1, None);
        assert_eq!(judged(&[whole(1, 5), zeroes, short, file(1, 8, 2)], &[]), [MayGrow, NotBegun, NotBegun, NotBegun]);
    }

    #[test]
    fn another_cluster_s_segment_proves_nothing() {
        let foreign = Candidate::new(name(1, 6), false, &header_bytes(1, 6 * SIZE, 78, 1 << 20), SIZE, None);
        assert_eq!(judged(&[whole(1, 5), foreign], &[]), [MayGrow, MayGrow]);
    }

    #[test]
    fn what_postgresql_asks_its_archiver_for_is_complete() {
        let ready = Candidate { is_ready: true, ..whole(1, 5) };
        assert_eq!(judged(&[ready], &[]), [Complete]);
        // Whether it is what its name says is found out, and said, when it is archived.
        assert_eq!(judged(&[Candidate { is_ready: true, ..file(1, 5, 4) }], &[]), [Complete]);
    }

    #[test]
    fn a_timeline_that_was_left_inside_a_segment_leaves_it_incomplete() {
        // Timeline 2 leaves timeline 1 in the middle of segment 6.
        let files = [whole(1, 5), whole(1, 6), whole(2, 6)];
        assert_eq!(judged(&files, &[(2, "1\t0/680000\twhy\n")]), [Complete, MayGrow, MayGrow]);
        assert_eq!(judged(&[whole(1, 5), whole(2, 6)], &[(2, "1\t0/680000\twhy\n")]), [Complete, MayGrow]);
        // Without the history nobody knows where.
        assert_eq!(judged(&[whole(1, 5), whole(2, 6)], &[]), [MayGrow, MayGrow]);
        // A history alone may have come from the archive.
        assert_eq!(judged(&[whole(1, 5)], &[(2, "1\t0/680000\twhy\n")]), [MayGrow]);
        // Left exactly at its end.
        assert_eq!(judged(&[whole(1, 5), whole(2, 6)], &[(2, "1\t0/600000\twhy\n")]), [Complete, MayGrow]);
    }

    #[test]
    fn an_ancestor_two_promotions_away_counts_too() {
        let history = "1\t0/680000\twhy\n2\t0/880000\twhy\n";
        assert_eq!(judged(&[whole(1, 5), whole(1, 6), whole(3, 8)], &[(3, history)]), [Complete, MayGrow, MayGrow]);
        assert_eq!(judged(&[whole(2, 7), whole(2, 8), whole(3, 8)], &[(3, history)]), [Complete, MayGrow, MayGrow]);
    }

    proptest! {
        /// A naive model: a server writes up to a place on one timeline; behind it lie recycled files.
        #[test]
        fn whatever_a_server_has_written_only_what_lies_before_its_last_segment_is_complete(
            first in 1..50_u64, written in 1..10_u64, ahead in 0..5_u64, ready: u16, removed: u16,
        ) {
            let mut files = Vec::new();
            let last = first + written - 1;
            for number in first..=last + ahead {
                if removed >> (number % 16) & 1 == 1 && number < last {
                    continue;
                }
                let holds = if number <= last { number } else { number.saturating_sub(written + ahead) };
                let is_ready = number < last && ready >> (number % 16) & 1 == 1;
                files.push(Candidate { is_ready, ..file(1, number, holds) });
            }
            for (name, verdict) in judge(&files, &BTreeMap::new()) {
                let number = name.number(SegmentSize::new(SIZE).unwrap());
                prop_assert_eq!(verdict == Complete, number < last, "segment {}, the last is {}", number, last);
            }
        }
    }
}
