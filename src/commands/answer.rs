//! The answer of a request that may be refused for a reason that is no failure.

/// What a request came to, when nothing failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Answer<T> {
    /// It was carried out.
    Given(T),
    /// It was not, and nothing was changed unless the text says so.
    Refused(Refusal),
}

/// Why a request is refused: text for people, kind for exit codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The whole text, in Barman's words where scripts look for them.
    pub text: String,
    /// What kind of reason it is.
    pub kind: RefusalKind,
}

/// The kinds of refusal that Barman 3.19.1 tells apart by its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The store answered and what is in it forbids the request: 1.
    Operation,
    /// There is no connection to the store: 2.
    Network,
    /// What was asked for cannot be understood: 3.
    Usage,
}

impl<T> Answer<T> {
    /// A refusal because of what is in the store.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::Refused(Refusal { text: text.into(), kind: RefusalKind::Operation })
    }
}
