//! What somebody should know about an archive or a host: one line each, with why it matters and what to do.

use std::fmt;

/// How much a finding matters, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A promise is broken or about to be: somebody must act.
    Problem,
    /// Not what it should be; nothing is lost yet.
    Warning,
    /// It could not be found out.
    Unknown,
    /// As it should be.
    Good,
}

impl Severity {
    /// The word for it in every output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Good => "ok",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A word for programs that stays the same from version to version: `wal-gap`.
    pub code: &'static str,
    /// What was found, with the values.
    pub what: String,
    /// Why it matters; empty where all is well.
    pub why: String,
    /// The command to type, or the setting to change, where there is one.
    pub next: Option<String>,
}

impl Finding {
    /// A finding without a next step.
    #[must_use]
    pub fn new(severity: Severity, code: &'static str, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { severity, code, what: what.into(), why: why.into(), next: None }
    }

    /// All is well here.
    #[must_use]
    pub fn good(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Severity::Good, code, what, "")
    }

    /// The same with the next step.
    #[must_use]
    pub fn with_next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }
}
