//! Words of a drill: how far it goes, and what a check of it came to.

use std::fmt;
use std::str::FromStr;

use crate::domain::verification::{Verdict, words};
use crate::error::{Error, Result};

/// How far a drill goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DrillLevel {
    /// Names: the catalogue, whose archive it is, and that no WAL is missing.
    Names,
    /// Every byte is downloaded and verified.
    Bytes,
    /// A server is recovered and looked into.
    Recovery,
}

impl From<DrillLevel> for u8 {
    fn from(level: DrillLevel) -> Self {
        match level {
            DrillLevel::Names => 1,
            DrillLevel::Bytes => 2,
            DrillLevel::Recovery => 3,
        }
    }
}

impl TryFrom<u8> for DrillLevel {
    type Error = Error;

    fn try_from(level: u8) -> Result<Self> {
        match level {
            1 => Ok(Self::Names),
            2 => Ok(Self::Bytes),
            3 => Ok(Self::Recovery),
            _ => Err(Error::usage(format!("{level} is not a level of a drill: 1, 2 or 3"))),
        }
    }
}

impl fmt::Display for DrillLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u8::from(*self))
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckOutcome {
    /// As expected.
    Pass,
    /// Not as expected, and the backup is at fault.
    Fail,
    /// It could not be carried out, or was not through when its time was up.
    Inconclusive,
    /// There is nothing to look at.
    Skipped,
    /// Worth knowing, and no reason to distrust the backup.
    Notice,
}

impl CheckOutcome {
    /// What it says about the drill.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Fail => Verdict::Fail,
            Self::Inconclusive => Verdict::Inconclusive,
            Self::Pass | Self::Skipped | Self::Notice => Verdict::Pass,
        }
    }
}

words!(
    CheckOutcome,
    "an outcome of a check",
    Pass = "pass",
    Fail = "fail",
    Inconclusive = "inconclusive",
    Skipped = "skipped",
    Notice = "notice"
);
