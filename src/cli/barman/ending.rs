//! How a call of the barman face ends: exit codes and the last line, as Barman 3.19.1 gives them.

use super::call::Program;
use crate::commands::answer::{Refusal, RefusalKind};
use crate::error::Error;

/// Done.
pub const DONE: u8 = 0;
/// The store answered, and the answer is no.
pub const FAILED: u8 = 1;
/// No connection to the store; only where a connection test was asked for.
pub const NO_CONNECTION: u8 = 2;
/// The words cannot be used.
pub const USAGE: u8 = 3;
/// Anything else: Barman's commands catch every other exception and end with this.
pub const OTHER: u8 = 4;

/// Why a call did not come to its good end.
#[derive(Debug)]
pub enum Stop {
    /// It ended with a code and a line for the log, in Barman's words.
    Said {
        /// The exit code.
        code: u8,
        /// The line.
        text: String,
    },
    /// Something failed that Barman has no words for.
    Failed(Error),
}

impl Stop {
    /// Exit code 1 with `text`.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Said { code: FAILED, text: text.into() }
    }

    /// Exit code 2: a connection test that found nobody, because of `cause`.
    pub fn no_connection(cause: &str) -> Self {
        Self::Said { code: NO_CONNECTION, text: format!("Can't connect to cloud provider: {cause}") }
    }

    /// Exit code 3 with `text`.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Said { code: USAGE, text: text.into() }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Stop {
    fn from(Refusal { text, kind }: Refusal) -> Self {
        let code = match kind {
            RefusalKind::Operation => FAILED,
            RefusalKind::Network => NO_CONNECTION,
            RefusalKind::Usage => USAGE,
        };
        Self::Said { code, text }
    }
}

/// What Barman 3.19.1 puts in front of the text of whatever went wrong otherwise.
fn failure_prefix(program: Program) -> &'static str {
    match program {
        Program::WalArchive => "Barman cloud WAL archiver exception",
        Program::WalRestore => "Barman cloud WAL restore exception",
        Program::Backup => "Barman cloud backup exception",
        Program::BackupList => "Barman cloud backup list exception",
        Program::BackupShow => "Barman cloud backup show exception",
        Program::BackupDelete => "Barman cloud backup delete exception",
        Program::BackupKeep => "Barman cloud keep exception",
        Program::CheckWalArchive => "Barman cloud WAL archive check exception",
        Program::Restore => "Barman cloud restore exception",
    }
}

/// The last line about an error.
pub fn failure_text(program: Program, error: &Error) -> String {
    format!("{}: {}", failure_prefix(program), with_hint(error))
}

/// An error and its hint, on one line: those who read the log take each line for a message of its own.
pub fn with_hint(error: &Error) -> String {
    error.hint().map_or_else(|| error.to_string(), |hint| format!("{error}. HINT: {hint}"))
}
