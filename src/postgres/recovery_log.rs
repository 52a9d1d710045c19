//! What a recovering server says of itself in its log, with `lc_messages = C`: PostgreSQL 13 to 18.

use crate::domain::lsn::Lsn;

/// What is known of a recovery from the lines that it has written so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryLog {
    /// Replay begins here.
    pub redo_starts: Option<Lsn>,
    /// The data is consistent from here on.
    pub consistent: Option<Lsn>,
    /// Where it stopped, in its own words.
    pub stopped: Option<String>,
    /// The end of what it replayed, where it says so.
    pub redo_done: Option<Lsn>,
    /// True once recovery is over and the server takes writes.
    pub is_complete: bool,
    /// The first line that ends a server: `FATAL` or `PANIC`, with what follows it.
    pub fatal: Option<String>,
    /// Settings of ours are smaller than the source's were.
    pub lacks_settings: bool,
    /// The last lines, as they are.
    last: Vec<String>,
}

/// So many lines are kept for whoever wants to see them.
const LINES_KEPT: usize = 20;

/// `recovery stopping before commit of transaction 742, time 2026-11-25 03:30:39.69+00` and its like, in all versions.
const STOPPING: &str = "recovery stopping ";

/// Sessions that come too early are refused with these words; that ends no server.
const REFUSED_SESSIONS: [&str; 6] = [
    "the database system is starting up",
    "the database system is not yet accepting connections",
    "the database system is not accepting connections",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "terminating connection",
];

/// What a message must say to be the fault of what was restored, not of this host.
const FAULTS_OF_THE_BACKUP: [&str; 19] = [
    "recovery ended before configured recovery target was reached",
    "WAL ends before end of online backup",
    "WAL ends before consistent recovery point",
    "could not locate required checkpoint record",
    "could not locate a valid checkpoint record",
    "invalid checkpoint record",
    "could not find redo location referenced by checkpoint record",
    "requested timeline",
    "unexpected timeline ID",
    "invalid page in block",
    "WAL contains references to invalid pages",
    "is corrupted",
    "read only 0 of",
    "incorrect checksum",
    "could not access status of transaction",
    "invalid lp",
    "failed to find parent",
    "invalid data in file",
    "was generated with wal_level=minimal",
];

impl RecoveryLog {
    /// Takes in the next lines.
    pub fn add(&mut self, text: &str) {
        text.lines().for_each(|line| self.line(line));
    }

    fn line(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.last.len() == LINES_KEPT {
            self.last.remove(0);
        }
        self.last.push(line.to_owned());
        let after = |marker: &str| line.split_once(marker).map(|(_, said)| said.trim());
        if let Some(said) = after("FATAL:  ").or_else(|| after("PANIC:  ")) {
            let is_refusal = REFUSED_SESSIONS.iter().any(|words| said.starts_with(words));
            // A role or a database that is not there is the session's matter too.
            let is_session_s =
                is_refusal || said.contains("does not exist") || said.contains("is not currently accepting");
            // What is known to be the backup's fault says more than what came before it.
            if !is_session_s && (self.fatal.is_none() || is_fault(said)) {
                self.fatal = Some(said.to_owned());
            }
        }
        if line.contains("insufficient parameter settings") {
            self.lacks_settings = true;
        }
        let Some(said) = after("LOG:  ") else { return };
        let lsn = |words: &str| said.strip_prefix(words)?.split_whitespace().next()?.trim_end_matches(',').parse().ok();
        self.redo_starts = self.redo_starts.or_else(|| lsn("redo starts at "));
        self.consistent = self
            .consistent
            .or_else(|| lsn("consistent recovery state reached at "))
            .or_else(|| lsn("consistent recovery state reached after "));
        self.redo_done = lsn("redo done at ").or(self.redo_done);
        if said.starts_with(STOPPING) {
            self.stopped = Some(said.to_owned());
        }
        self.is_complete |= said.starts_with("archive recovery complete");
    }

    /// True when what ended the server can only lie in what was restored.
    #[must_use]
    pub fn is_fault_of_the_backup(&self) -> bool {
        self.fatal.as_deref().is_some_and(is_fault)
    }

    /// The last line that `program` added to it, without what comes before its name.
    #[must_use]
    pub fn last_of(&self, program: &str) -> Option<&str> {
        self.last.iter().rev().find_map(|line| line.split_once(program)).map(|(_, said)| said)
    }

    /// The last thing it said, for a server that ended without a reason.
    #[must_use]
    pub fn last_line(&self) -> Option<&str> {
        self.last.last().map(String::as_str)
    }
}

fn is_fault(said: &str) -> bool {
    // What the system said is this host's matter, whatever was being read.
    let is_system_s =
        ["Input/output error", "No space left", "Too many open files", "Permission denied", "Cannot allocate"];
    !is_system_s.iter().any(|words| said.contains(words))
        && FAULTS_OF_THE_BACKUP.iter().any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTING: &str = "\
2026-11-25 13:00:00.000 GMT [7] LOG:  starting PostgreSQL 15.18
2026-11-25 13:00:00.010 GMT [9] LOG:  starting point-in-time recovery to 2026-11-25 12:00:00+00
2026-11-25 13:00:00.020 GMT [9] LOG:  redo starts at 0/2000028
2026-11-25 13:00:00.021 GMT [11] FATAL:  the database system is starting up
2026-11-25 13:00:00.030 GMT [9] LOG:  consistent recovery state reached at 0/2000100
";

    #[test]
    fn a_recovery_is_followed_to_its_target() {
        let mut log = RecoveryLog::default();
        log.add(STARTING);
        assert_eq!(log.redo_starts, Some(Lsn(0x0200_0028)));
        assert_eq!(log.consistent, Some(Lsn(0x0200_0100)));
        assert_eq!((&log.stopped, &log.fatal, log.is_complete), (&None, &None, false));
        log.add("x LOG:  recovery stopping before commit of transaction 742, time 2026-11-25 12:00:01+00\n");
        log.add("x LOG:  redo done at 0/5000060 system usage: CPU: user: 0.00 s\n");
        log.add("x LOG:  archive recovery complete\n");
        let stopped = "recovery stopping before commit of transaction 742, time 2026-11-25 12:00:01+00";
        assert_eq!(log.stopped.as_deref(), Some(stopped));
        assert_eq!((log.redo_done, log.is_complete), (Some(Lsn(0x0500_0060)), true));
    }

    #[test]
    fn what_ends_a_server_is_told_from_what_refuses_a_session() {
        let mut log = RecoveryLog::default();
        log.add("x FATAL:  role \"postgres\" does not exist\nx FATAL:  terminating connection due to unexpected postmaster exit\n");
        assert_eq!(log.fatal, None);
        log.add("x FATAL:  recovery ended before configured recovery target was reached\n");
        assert!(log.is_fault_of_the_backup());
        let mut other = RecoveryLog::default();
        other.add("x FATAL:  could not map anonymous shared memory: Cannot allocate memory\n");
        assert!(other.fatal.is_some() && !other.is_fault_of_the_backup());
        let mut disk = RecoveryLog::default();
        disk.add("x FATAL:  could not read block 7 in file \"base/5/1259\": Input/output error\n");
        assert!(!disk.is_fault_of_the_backup());
        disk.add("x PANIC:  could not access status of transaction 742\n");
        assert!(disk.is_fault_of_the_backup());
        let mut lacking = RecoveryLog::default();
        lacking.add("x WARNING:  hot standby is not possible because of insufficient parameter settings\n");
        assert!(lacking.lacks_settings);
    }

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let mut log = RecoveryLog::default();
        (0..100).for_each(|number| log.add(&format!("line {number}\n\n")));
        assert_eq!((log.last_line(), log.last.len()), (Some("line 99"), LINES_KEPT));
        log.add("barback: error: no\nx LOG:  y\n");
        assert_eq!(log.last_of("barback: error: "), Some("no"));
    }
}
