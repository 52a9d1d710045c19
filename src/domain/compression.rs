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
