//! What a script learns from how barback ended.

use crate::error::ErrorKind;

/// Done, and durable.
pub const DONE: u8 = 0;
/// The thing asked for is not there, or the answer is "no".
pub const ABSENT: u8 = 1;
/// The store could not be reached or refused us, after the retry budget.
pub const STORE: u8 = 2;
/// Arguments, names or configuration cannot be used.
pub const USAGE: u8 = 3;
/// Anything else: wrong cluster, corrupt bytes, local disk, PostgreSQL.
pub const FAILED: u8 = 4;
/// The store or this host failed, so that nothing was learned about what was to be looked at.
pub const INCONCLUSIVE: u8 = 5;
/// Only `wal-restore`: we could not find out whether the segment exists.
pub const UNKNOWN: u8 = 255;

/// Whose answer the exit code is: PostgreSQL reads `wal-restore`'s in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// An operator, cron or the archiver.
    Anyone,
    /// PostgreSQL in recovery, through `restore_command`.
    Recovery,
}

/// The exit code for an error of `kind`.
///
/// PostgreSQL takes codes 1 to 125 of a `restore_command` as "there is no such segment: the WAL ends here" and then
/// ends recovery, so that a server would be promoted with data missing; above 125 it stops and says so (source:
/// `RestoreArchivedFile` in `xlogarchive.c`, `wait_result_is_any_signal` in `wait_error.c`). Hence only a proved
/// absence may be 1 for [`Caller::Recovery`]. Even a usage error is 255 there: a typing mistake in `restore_command`
/// proves nothing about the archive.
#[must_use]
pub fn of(kind: ErrorKind, caller: Caller) -> u8 {
    match (kind, caller) {
        (ErrorKind::NotFound, _) => ABSENT,
        (_, Caller::Recovery) => UNKNOWN,
        (ErrorKind::Unreachable | ErrorKind::Denied, Caller::Anyone) => STORE,
        (ErrorKind::Usage, Caller::Anyone) => USAGE,
        (
            ErrorKind::Conflict
            | ErrorKind::Mismatch
            | ErrorKind::Corrupt
            | ErrorKind::Local
            | ErrorKind::Interrupted
            | ErrorKind::Bug,
            Caller::Anyone,
        ) => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_code() {
        for (kind, anyone, recovery) in [
            (ErrorKind::NotFound, 1, 1),
            (ErrorKind::Unreachable, 2, 255),
            (ErrorKind::Denied, 2, 255),
            (ErrorKind::Usage, 3, 255),
            (ErrorKind::Conflict, 4, 255),
            (ErrorKind::Mismatch, 4, 255),
            (ErrorKind::Corrupt, 4, 255),
            (ErrorKind::Local, 4, 255),
            (ErrorKind::Interrupted, 4, 255),
            (ErrorKind::Bug, 4, 255),
        ] {
            assert_eq!(of(kind, Caller::Anyone), anyone, "{kind:?}");
            assert_eq!(of(kind, Caller::Recovery), recovery, "{kind:?}");
        }
    }
}
