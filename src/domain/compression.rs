//! The compression formats of the Barman layout, by word and by suffix.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How an object's content is compressed. The object key's suffix is the truth about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Stored as it is.
    None,
    /// RFC 1952, one or more members.
    Gzip,
    /// bzip2, one or more streams.
    Bzip2,
    /// The .xz container.
    Xz,
    /// Zstandard frames.
    Zstd,
    /// LZ4 frames (not the bare block format).
    Lz4,
    /// Snappy's framing format.
    Snappy,
}

impl Compression {
    /// Every format, plain first.
    pub const ALL: [Self; 7] = [Self::None, Self::Gzip, Self::Bzip2, Self::Xz, Self::Zstd, Self::Lz4, Self::Snappy];

    /// What Barman appends to the key: `.zst`; nothing for `None`.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Bzip2 => ".bz2",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::Lz4 => ".lz4",
            Self::Snappy => ".snappy",
        }
    }

    /// Cuts a compression suffix off `name`; a name without one is `None`-compressed.
    #[must_use]
    pub fn split_suffix(name: &str) -> (&str, Self) {
        Self::ALL
            .into_iter()
            .filter(|codec| *codec != Self::None)
            .find_map(|codec| Some((name.strip_suffix(codec.suffix())?, codec)))
            .unwrap_or((name, Self::None))
    }

    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|codec| codec.word() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::word).join(", ");
            Error::usage(format!("\"{text}\" is not a compression: choose from {words}"))
        })
    }
}

/// A level as `barman-cloud-*` takes it after `--compression-level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BarmanLevel {
    /// `low`.
    Low,
    /// `medium`, and what is taken when nothing is said.
    #[default]
    Medium,
    /// `high`.
    High,
    /// A number in the format's own scale. Any number will do: Barman 3.19.1 moves one that is out of range to the nearest in it.
    Number(i64),
}

/// Our level that stores what Barman 3.19.1 would store at `level`, within 5 %, in the least time; none for formats without levels.
///
/// Whole 16 MiB segments of PostgreSQL 15, five of them: three of inserts, updates and deletes of uuid, jsonb, md5 text and
/// timestamps under three indexes, one of `pgbench -i`, one of `pgbench`. Bytes against what `barman-cloud-wal-archive` 3.19.1
/// stored (or its compression library, called as it calls it), in the worst of the five; time of one thread, mean of the five.
///
/// | format | Barman | ours | worst size | ours | the same level |
/// |---|---|---|---|---|---|
/// | gzip | 1 to 4 | 1 | +3.8 % | 69 ms | |
/// | gzip | 5 | 3 | +3.8 % | 89 ms | |
/// | gzip | 6, `medium` | 6 | +5.0 % | 151 ms | |
/// | gzip | 7 to 9 | 7 | +1.1 % | 240 ms | 718 ms |
/// | zstd | 0 to 5, `medium` is 4 | 1 | +1.4 % | 24 ms | 55 ms |
/// | zstd | 6 to 12, `high` is 9 | 6 | +3.3 % | 148 ms | 268 ms |
/// | lz4 | 0 to 2 | 0 | +0.5 % | 20 ms | |
/// | lz4 | 3 to 16, `medium` is 6 | 3 | +4.7 % | 116 ms, on two threads half of it | 184 ms |
/// | xz | 1 to 3, `medium` is 3 | 1 | +1.1 % | 1.3 s | 4.8 s |
///
/// What is not in the table is taken as it is. zstd's level 4 is no misprint: on WAL it is slower *and* stores more than level 1.
/// Measured 2026-11 on two shared cores; sizes do not depend on that.
#[must_use]
pub fn barman_level(codec: Compression, level: BarmanLevel) -> Option<i32> {
    let (lowest, highest, named) = match codec {
        Compression::None | Compression::Snappy => return None,
        Compression::Gzip => (1, 9, [1, 6, 9]),
        Compression::Bzip2 => (1, 9, [1, 5, 9]),
        Compression::Xz => (1, 9, [1, 3, 5]),
        Compression::Zstd => (-22, 22, [1, 4, 9]),
        Compression::Lz4 => (0, 16, [0, 6, 10]),
    };
    let theirs = match level {
        BarmanLevel::Low => named[0],
        BarmanLevel::Medium => named[1],
        BarmanLevel::High => named[2],
        BarmanLevel::Number(number) => i32::try_from(number.clamp(lowest, highest)).ok()?,
    };
    Some(match (codec, theirs) {
        (Compression::Gzip, 1..=4) | (Compression::Zstd, 0..=5) | (Compression::Xz, 1..=3) => 1,
        (Compression::Gzip, 5) | (Compression::Lz4, 3..) => 3,
        (Compression::Gzip, 7..) => 7,
        (Compression::Zstd, 6..=12) => 6,
        (Compression::Lz4, 0..=2) => 0,
        _ => theirs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_and_nothing_lead_to_the_measured_levels() {
        use BarmanLevel::{High, Low, Medium, Number};
        let cases = [
            (Compression::Gzip, [Low, Medium, High], [1, 6, 7]),
            (Compression::Bzip2, [Low, Medium, High], [1, 5, 9]),
            (Compression::Xz, [Low, Medium, High], [1, 1, 5]),
            (Compression::Zstd, [Low, Medium, High], [1, 1, 6]),
            (Compression::Lz4, [Low, Medium, High], [0, 3, 3]),
            (Compression::Zstd, [Number(-7), Number(0), Number(19)], [-7, 1, 19]),
            (Compression::Xz, [Number(3), Number(4), Number(9)], [1, 4, 9]),
        ];
        for (codec, levels, ours) in cases {
            assert_eq!(levels.map(|level| barman_level(codec, level).unwrap()), ours, "{codec}");
        }
        assert_eq!(BarmanLevel::default(), Medium);
        assert_eq!(barman_level(Compression::Snappy, High), None);
        assert_eq!(barman_level(Compression::None, Number(3)), None);
    }

    #[test]
    fn a_number_out_of_range_is_the_nearest_in_range() {
        let at = |codec, number| barman_level(codec, BarmanLevel::Number(number)).unwrap();
        for codec in [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd, Compression::Lz4] {
            assert_eq!(at(codec, i64::MAX), at(codec, 99), "{codec}");
            assert_eq!(at(codec, i64::MIN), at(codec, -99), "{codec}");
        }
        assert_eq!((at(Compression::Zstd, 99), at(Compression::Zstd, -99)), (22, -22));
        assert_eq!((at(Compression::Bzip2, 99), at(Compression::Bzip2, 0)), (9, 1));
    }
}
