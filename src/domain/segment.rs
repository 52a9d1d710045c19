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

    /// Where segment `number` starts.
    #[must_use]
    pub fn start_of(self, number: u64) -> Lsn {
        Lsn(number * self.bytes())
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
        let low = |value: u64| u32::try_from(value & 0xFFFF_FFFF).expect("masked to 32 bits");
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
