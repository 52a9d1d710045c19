//! WAL segments, their sizes and the names of files in `pg_wal`.

use std::fmt;
use std::str::FromStr;

use crate::domain::lsn::Lsn;
use crate::domain::timeline::TimelineId;
use crate::error::{Error, Result};

/// A cluster's `wal_segment_size`: a power of two from 1 MiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// PostgreSQL's default, 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);
    /// The largest size `initdb --wal-segsize` takes.
    pub const MAX: Self = Self(1 << 30);

    /// A size PostgreSQL would accept.
    pub fn new(bytes: u64) -> Result<Self> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => Ok(Self(size)),
            _ => Err(Error::corrupt(format!("{bytes} bytes is not a WAL segment size"))),
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many segments make up one "log" of 4 GiB, the middle part of a segment's name.
    #[must_use]
    pub fn segments_per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }

    /// The number, counted from the beginning of the WAL, of the segment that holds the byte at `lsn`.
    #[must_use]
    pub fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.bytes() / self.bytes()
    }

    /// The number of the segment that holds the last byte *before* `lsn`; an end LSN on a boundary needs no more.
    #[must_use]
    pub fn segment_before(self, lsn: Lsn) -> u64 {
        lsn.bytes().saturating_sub(1) / self.bytes()
    }

    /// Where segment `number` starts; beyond the last LSN there is, that last one.
    #[must_use]
    pub fn start_of(self, number: u64) -> Lsn {
        Lsn(number.saturating_mul(self.bytes()))
    }
}

/// The 24 hexadecimal digits of a segment: timeline, log, segment within the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline the segment was written on.
    pub timeline: TimelineId,
    /// Which 4 GiB of WAL.
    pub log: u32,
    /// Which segment of them.
    pub segment: u32,
}

impl SegmentName {
    /// The name of segment `number` (counted from the beginning of the WAL) on `timeline`.
    #[must_use]
    pub fn from_number(timeline: TimelineId, number: u64, size: SegmentSize) -> Self {
        let per_log = size.segments_per_log();
        // Only a number beyond the last LSN there is does not fit.
        let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self { timeline, log: low(number / per_log), segment: low(number % per_log) }
    }

    /// The segment's number from the beginning of the WAL, when segments are of `size`.
    #[must_use]
    pub fn number(&self, size: SegmentSize) -> u64 {
        u64::from(self.log) * size.segments_per_log() + u64::from(self.segment)
    }

    /// The LSN of the segment's first byte, when segments are of `size`.
    #[must_use]
    pub fn start(&self, size: SegmentSize) -> Lsn {
        Lsn(u64::from(self.log) << 32 | (u64::from(self.segment) * size.bytes()))
    }

    /// The segment after this one on the same timeline.
    #[must_use]
    pub fn next(&self, size: SegmentSize) -> Self {
        Self::from_number(self.timeline, self.number(size) + 1, size)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.number(), self.log, self.segment)
    }
}

impl FromStr for SegmentName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::usage(format!("\"{text}\" is not the name of a WAL segment"));
        if text.len() != 24 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        let word = |range| u32::from_str_radix(&text[range], 16).expect("eight hexadecimal digits");
        let timeline = TimelineId::new(word(0..8)).ok_or_else(refuse)?;
        Ok(Self { timeline, log: word(8..16), segment: word(16..24) })
    }
}

/// The name of a file PostgreSQL archives: a segment or one of its companions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFileName {
    /// A complete segment.
    Segment(SegmentName),
    /// The last, incomplete segment of a timeline that was left by a promotion: `<segment>.partial`.
    Partial(SegmentName),
    /// A base backup's history file: `<segment>.<offset>.backup`.
    BackupHistory(SegmentName, u32),
    /// A timeline's ancestry: `<timeline>.history`.
    TimelineHistory(TimelineId),
}

impl WalFileName {
    /// The segment this file belongs to; none for a timeline history.
    #[must_use]
    pub fn segment(&self) -> Option<SegmentName> {
        match *self {
            Self::Segment(name) | Self::Partial(name) | Self::BackupHistory(name, _) => Some(name),
            Self::TimelineHistory(_) => None,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => write!(f, "{name}"),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::BackupHistory(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
            Self::TimelineHistory(timeline) => write!(f, "{:08X}.history", timeline.number()),
        }
    }
}

impl FromStr for WalFileName {
    type Err = Error;

    /// Reads a file name (no directory, no compression suffix); digits of either case.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::usage(format!("\"{text}\" is not the name of a WAL file"));
        let hex = |digits: &str| {
            let valid = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then(|| u32::from_str_radix(digits, 16).ok()).flatten().ok_or_else(refuse)
        };
        let segment = |name: &str| name.parse::<SegmentName>().map_err(|_| refuse());
        let words: Vec<&str> = text.split('.').collect();
        match words[..] {
            [name] => Ok(Self::Segment(segment(name)?)),
            [name, "partial"] => Ok(Self::Partial(segment(name)?)),
            [name, offset, "backup"] => Ok(Self::BackupHistory(segment(name)?, hex(offset)?)),
            [name, "history"] => TimelineId::new(hex(name)?).map(Self::TimelineHistory).ok_or_else(refuse),
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes() -> impl Strategy<Value = SegmentSize> {
        (20..=30_u32).prop_map(|power| SegmentSize::new(1 << power).unwrap())
    }

    fn names() -> impl Strategy<Value = SegmentName> {
        (1..=u32::MAX, any::<u32>(), any::<u32>()).prop_map(|(timeline, log, segment)| SegmentName {
            timeline: TimelineId::new(timeline).unwrap(),
            log,
            segment,
        })
    }

    fn files() -> impl Strategy<Value = WalFileName> {
        prop_oneof![
            names().prop_map(WalFileName::Segment),
            names().prop_map(WalFileName::Partial),
            (names(), any::<u32>()).prop_map(|(name, offset)| WalFileName::BackupHistory(name, offset)),
            names().prop_map(|name| WalFileName::TimelineHistory(name.timeline)),
        ]
    }

    proptest! {
        #[test]
        fn file_names_round_trip_in_either_case(file in files()) {
            let text = file.to_string();
            prop_assert_eq!(text.parse::<WalFileName>().unwrap(), file);
            let digits = text.split('.').next().unwrap();
            let lower = text.replacen(digits, &digits.to_lowercase(), 1);
            prop_assert_eq!(lower.parse::<WalFileName>().unwrap(), file);
        }

        #[test]
        fn text_never_makes_the_reader_panic_and_what_is_read_is_written_alike(text in "[0-9A-Fa-f.backuphistoryl é]{0,45}") {
            if let Ok(file) = text.parse::<WalFileName>() {
                prop_assert!(file.to_string().eq_ignore_ascii_case(&text));
            }
        }

        #[test]
        fn names_and_numbers_agree_for_every_size(size in sizes(), lsn: u64, timeline in 1..=u32::MAX) {
            let timeline = TimelineId::new(timeline).unwrap();
            let number = size.segment_of(Lsn(lsn));
            let name = SegmentName::from_number(timeline, number, size);
            prop_assert_eq!(name.number(size), number);
            prop_assert_eq!(name.timeline, timeline);
            prop_assert!(u64::from(name.segment) < size.segments_per_log());
            prop_assert_eq!(u64::from(name.log), lsn >> 32);
            prop_assert_eq!(name.start(size), size.start_of(number));
            prop_assert!(name.start(size) <= Lsn(lsn) && lsn - name.start(size).bytes() < size.bytes());
        }

        #[test]
        fn the_next_segment_starts_where_this_one_ends(size in sizes(), lsn in 0..u64::MAX - (1 << 31)) {
            let name = SegmentName::from_number(TimelineId::FIRST, size.segment_of(Lsn(lsn)), size);
            prop_assert_eq!(name.next(size).start(size).bytes(), name.start(size).bytes() + size.bytes());
            prop_assert!(name < name.next(size));
        }

        #[test]
        fn an_end_on_a_boundary_needs_only_the_segment_before(size in sizes(), number in 1..1_000_000_u64, offset: u64) {
            let boundary = size.start_of(number);
            prop_assert_eq!(size.segment_before(boundary), number - 1);
            prop_assert_eq!(size.segment_of(boundary), number);
            let inside = Lsn(boundary.bytes() + 1 + offset % (size.bytes() - 1));
            prop_assert_eq!(size.segment_before(inside), number);
        }

        #[test]
        fn only_powers_of_two_from_one_mebibyte_to_one_gibibyte_are_sizes(bytes: u64) {
            prop_assert_eq!(SegmentSize::new(bytes).is_ok(), (20..=30).any(|power| bytes == 1 << power));
        }
    }

    #[test]
    fn the_last_segment_there_can_be_has_no_overflowing_end() {
        for power in 20..=30 {
            let size = SegmentSize::new(1 << power).unwrap();
            assert_eq!(size.start_of(size.segment_of(Lsn(u64::MAX)) + 1), Lsn(u64::MAX));
        }
        for bytes in [0, (1 << 20) - 1, 1 << 19, 1 << 31, 3 << 20, 1 << 40] {
            assert!(SegmentSize::new(bytes).is_err(), "{bytes}");
        }
    }

    #[test]
    fn text_that_names_no_wal_file_is_refused() {
        let name = "000000010000000000000001";
        for text in ["", ".", "00000000.history", "0000000A.History", "000000000000000000000001"] {
            assert!(text.parse::<WalFileName>().is_err(), "{text}");
        }
        for suffix in [".", ".gz", ".partial.partial", ".0000028.backup", ".00000028.backup.x", ".history", "0", " "] {
            assert!(format!("{name}{suffix}").parse::<WalFileName>().is_err(), "{suffix}");
        }
    }
}
