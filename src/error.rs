//! The one error type: a kind that decides retry and exit code, a text for the reader at 3 a.m.

use std::error::Error as StdError;

/// What went wrong, as far as a caller may care; text is for people, kinds are for code.
///
/// A kind answers three questions: is a retry worth it, which exit code, may the caller go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The segment, backup or object is proved not to be there.
    NotFound,
    /// It is there already, with different content.
    Conflict,
    /// Network, time-out, throttling, a server that answers 5xx: nobody knows, try again.
    Unreachable,
    /// Credentials or rights were refused.
    Denied,
    /// Arguments, names, URLs or settings cannot be used.
    Usage,
    /// Another cluster, timeline or version than expected.
    Mismatch,
    /// Bytes fail a check.
    Corrupt,
    /// The local disk or the PostgreSQL server failed.
    Local,
    /// A signal asked us to stop.
    Interrupted,
    /// A promise of our own is broken.
    Bug,
}

impl ErrorKind {
    /// True when the same request may succeed a moment later.
    #[must_use]
    pub fn is_transient(self) -> bool {
        self == Self::Unreachable
    }
}

/// An error with a kind, a message in PostgreSQL's wording and, when the reader can act, a hint.
///
/// `Display` prints the message alone (`could not archive segment "…": connection refused`); the hint is
/// printed by `cli` on a line of its own. The cause's text is already part of the message.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `message` follows the house wording: lower case, no full stop, object quoted.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// A usage error: arguments, names or settings.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Bytes that fail a check.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// A failed local file or directory operation: `could not <verb> "<path>": <cause>`.
    pub fn local(verb: &str, path: &std::path::Path, cause: std::io::Error) -> Self {
        let message = format!("could not {verb} \"{}\": {cause}", path.display());
        Self::new(ErrorKind::Local, message).with_source(cause)
    }

    /// Adds one sentence on what the reader can do; it begins with a capital, as PostgreSQL's hints do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        let mut hint: String = hint.into();
        if !hint.starts_with("barback")
            && let Some(first) = hint.get_mut(..1)
        {
            first.make_ascii_uppercase();
        }
        self.hint = Some(hint);
        self
    }

    /// Keeps the cause for `source()`; its text must already be in the message.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts what was being done in front: `could not archive segment "X"` + `: ` + the message so far.
    #[must_use]
    pub fn context(mut self, doing: impl std::fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// The same error under another kind, where a caller knows better what it means.
    #[must_use]
    pub fn as_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What went wrong, for code.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the reader can do, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}
