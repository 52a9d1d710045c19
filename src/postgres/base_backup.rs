//! Begin and end of a base backup on the server, and the label that ties the copy to its WAL.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, FixedOffset};

use super::connection::{Answer, QUICK, Session};
use super::conninfo::Conninfo;
use super::server::ServerFacts;
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentName;
use crate::domain::timeline::TimelineId;
use crate::error::{Error, ErrorKind, Result};

/// A begin waits for a checkpoint, spread over at most `checkpoint_timeout`, which may be set to a day.
const START_DEADLINE: Duration = Duration::from_hours(25);
/// An end writes a record and switches segments; only a very busy or stuck disk makes it slow.
const STOP_DEADLINE: Duration = Duration::from_mins(10);

/// Where a backup began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStart {
    /// Where replay must begin.
    pub lsn: Lsn,
    /// The timeline of that place.
    pub timeline: TimelineId,
    /// The server's clock once the backup had begun.
    pub time: DateTime<FixedOffset>,
}

/// Where a backup ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStop {
    /// Where replay must at least come to.
    pub lsn: Lsn,
    /// The text of `backup_label`, which must lie in the restored data directory.
    pub label: String,
    /// The timeline of `lsn`.
    pub timeline: TimelineId,
    /// The server's clock once the backup had ended.
    pub time: DateTime<FixedOffset>,
}

/// Begins a base backup; it lives as long as `session`, which must be the one that stops it.
///
/// `fast` asks for an immediate checkpoint; without it this may take as long as `checkpoint_timeout`.
/// Errors: `Local`; for missing rights with the `GRANT` to run.
pub async fn start(session: &Session, facts: &ServerFacts, label: &str, fast: bool) -> Result<BackupStart> {
    let function = if has_new_names(facts) { "pg_backup_start($1, $2)" } else { "pg_start_backup($1, $2, false)" };
    // The start's timeline is that of the checkpoint it made, or, on a standby, of the last restart point.
    let sql = format!(
        "SELECT start.lsn::text AS lsn, (SELECT timeline_id FROM pg_control_checkpoint())::text AS timeline, \
         clock_timestamp()::text AS time FROM {function} AS start(lsn)"
    );
    let answer = session.row("start the base backup", &sql, &[&label, &fast], START_DEADLINE).await;
    let row = answer.map_err(|failure| failure.or_grant(&grants(session, facts)))?;
    Ok(BackupStart { lsn: row.parse("lsn")?, timeline: row.parse("timeline")?, time: time(&row)? })
}

/// Whether the end of a base backup waits until the server's archiver has its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopWait {
    /// It does not.
    No,
    /// It does, up to this long: a primary with an archiver, and a standby whose `archive_mode` is `always`.
    ForArchiver(Duration),
}

/// Ends the base backup of this session.
///
/// A primary switches to a new WAL segment, so that the last one needed is complete. A standby cannot: its last
/// segment completes when the primary fills it. Errors: `Local`; among them a standby that was promoted meanwhile.
pub async fn stop(session: &Session, facts: &ServerFacts, wait: StopWait) -> Result<BackupStop> {
    let (waits, deadline) = match wait {
        StopWait::No => (false, STOP_DEADLINE),
        StopWait::ForArchiver(longest) => (true, STOP_DEADLINE + longest),
    };
    let function = if has_new_names(facts) { "pg_backup_stop($1)" } else { "pg_stop_backup(false, $1)" };
    let end_timeline = if facts.in_recovery {
        "(SELECT min_recovery_end_timeline FROM pg_control_recovery())::text"
    } else {
        "(SELECT timeline_id FROM pg_control_checkpoint())::text"
    };
    let sql = format!(
        "SELECT lsn::text AS lsn, labelfile, {end_timeline} AS timeline, clock_timestamp()::text AS time \
         FROM {function}"
    );
    let answer = session.row("stop the base backup", &sql, &[&waits], deadline).await;
    let row = answer.map_err(|failure| failure.or_grant(&grants(session, facts)))?;
    Ok(BackupStop {
        lsn: row.parse("lsn")?,
        label: row.get("labelfile")?.to_owned(),
        timeline: row.parse("timeline")?,
        time: time(&row)?,
    })
}

/// Writes a named point into the WAL that recovery can stop at. Errors: `Local`, for missing rights among others.
pub async fn create_restore_point(session: &Session, name: &str) -> Result<()> {
    let sql = "SELECT pg_create_restore_point($1)::text AS lsn";
    session.row("create a restore point", sql, &[&name], QUICK).await?;
    Ok(())
}

/// Asks the primary that the standby behind `session` follows to switch to a new segment: an idle primary would never
/// complete the segment a standby's backup ends in.
///
/// Connects as the standby itself does (`primary_conninfo`; a password may come from its password file). Errors:
/// `Local` when the standby follows nobody, or the primary cannot be reached or refuses.
pub async fn switch_wal_on_primary(session: &Session) -> Result<()> {
    let sql = "SELECT setting::text AS conninfo FROM pg_settings WHERE name = 'primary_conninfo' AND setting <> ''";
    let answer = session.row("ask the standby for its primary", sql, &[], QUICK).await?;
    let mut conninfo = Conninfo::resolve(Some(answer.get("conninfo")?), &BTreeMap::new())?;
    "postgres".clone_into(&mut conninfo.dbname);
    let primary = Session::connect(&conninfo).await?;
    let switched =
        primary.row("switch WAL on the primary", "SELECT pg_switch_wal()::text AS lsn", &[], STOP_DEADLINE).await;
    primary.close().await?;
    switched?;
    Ok(())
}

/// How far a server's `pg_wal` reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPosition {
    /// Every byte before this is on disk there.
    pub written: Lsn,
    /// Every segment before this, a segment's start, is complete there.
    pub complete: Lsn,
}

/// Asks how far `pg_wal` reaches: flushed on a primary, received or replayed on a standby.
pub async fn last_complete_position(session: &Session, facts: &ServerFacts) -> Result<WalPosition> {
    let place = if facts.in_recovery {
        "greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
    } else {
        "pg_current_wal_flush_lsn()"
    };
    let sql = format!("SELECT {place}::text AS lsn");
    let written: Lsn = session.row("ask for the WAL position", &sql, &[], QUICK).await?.parse("lsn")?;
    let complete = facts.segment_size.start_of(facts.segment_size.segment_of(written));
    Ok(WalPosition { written, complete })
}

/// Makes the server keep its WAL from the last checkpoint on, until the session ends: a temporary replication slot.
///
/// Errors: `Local`; for a role without `REPLICATION` with the statement to run, and when all slots are taken.
pub async fn hold_wal(session: &Session) -> Result<()> {
    let sql = "SELECT slot_name::text FROM pg_create_physical_replication_slot($1, true, true)";
    let slot = format!("barback_{}", session.backend_pid());
    let answer = session.row("create a temporary replication slot", sql, &[&slot], QUICK).await;
    answer.map_err(|failure| failure.or_grant(&format!("ALTER ROLE {} REPLICATION", session.role())))?;
    Ok(())
}

/// Version 15 renamed the functions and dropped exclusive backups.
fn has_new_names(facts: &ServerFacts) -> bool {
    facts.version.major() >= 15
}

/// The statements that allow a role to take backups.
fn grants(session: &Session, facts: &ServerFacts) -> String {
    let functions: &[&str] = if has_new_names(facts) {
        &["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)", "pg_switch_wal()"]
    } else {
        &["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)", "pg_switch_wal()"]
    };
    let grant = |function: &&str| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {}", session.role());
    functions.iter().map(grant).collect::<Vec<_>>().join("; ")
}

/// The session's settings make times read `2026-06-08 11:32:00.123456+00`.
fn time(row: &Answer) -> Result<DateTime<FixedOffset>> {
    let text = row.get("time")?;
    DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").map_err(|cause| {
        Error::new(ErrorKind::Local, format!("could not understand the server's time \"{text}\": {cause}"))
    })
}

/// What `backup_label` says (PostgreSQL `build_backup_content`, `read_backup_label`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// The segment of that place.
    pub start_segment: SegmentName,
    /// The checkpoint record replay starts with.
    pub checkpoint_lsn: Lsn,
    /// Whether the copy was taken of a standby.
    pub from_standby: bool,
    /// The timeline of the start; its line exists since version 11.
    pub start_timeline: TimelineId,
    /// The label the backup was given.
    pub label: String,
}

impl BackupLabel {
    /// Reads the file's text. Errors: `Corrupt` for a missing or malformed line, or a timeline that is not the
    /// segment's.
    pub fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.ok_or_else(|| Error::corrupt(format!("could not read the backup label: it has no line \"{name}\"")))
        };
        let refuse = |name: &str, value: &str| {
            let value = value.escape_debug();
            Error::corrupt(format!("could not read the backup label: its line \"{name}\" says \"{value}\""))
        };
        let start = field("START WAL LOCATION")?;
        let (start_lsn, start_segment) = start
            .strip_suffix(')')
            .and_then(|start| start.split_once(" (file "))
            .and_then(|(lsn, file)| Some((lsn.parse().ok()?, file.parse::<SegmentName>().ok()?)))
            .ok_or_else(|| refuse("START WAL LOCATION", start))?;
        let checkpoint = field("CHECKPOINT LOCATION")?;
        let from = field("BACKUP FROM")?;
        let timeline = field("START TIMELINE")?;
        let start_timeline: TimelineId = timeline.parse().map_err(|_| refuse("START TIMELINE", timeline))?;
        if start_timeline != start_segment.timeline {
            let why =
                format!("its start timeline is {start_timeline}, its start segment is of {}", start_segment.timeline);
            return Err(Error::corrupt(format!("could not read the backup label: {why}")));
        }
        Ok(Self {
            start_lsn,
            start_segment,
            checkpoint_lsn: checkpoint.parse().map_err(|_| refuse("CHECKPOINT LOCATION", checkpoint))?,
            from_standby: match from {
                // Version 13 says "master".
                "primary" | "master" => false,
                "standby" => true,
                _ => return Err(refuse("BACKUP FROM", from)),
            },
            start_timeline,
            label: field("LABEL")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/1300028 (file 000000010000000000000013)\n\
        CHECKPOINT LOCATION: 0/1300060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-23 08:37:43 UTC\nLABEL: Barman backup cloud 20261123T083743\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_is_read() {
        let label = BackupLabel::parse(LABEL).unwrap();
        assert_eq!(label.start_lsn, Lsn(0x0130_0028));
        assert_eq!(label.start_segment.to_string(), "000000010000000000000013");
        assert_eq!(label.checkpoint_lsn, Lsn(0x0130_0060));
        assert!(!label.from_standby);
        assert_eq!(label.label, "Barman backup cloud 20261123T083743");
        let by_version_13 = BackupLabel::parse(&LABEL.replace("FROM: primary", "FROM: master")).unwrap();
        assert!(!by_version_13.from_standby);
        let standby = LABEL.replace("FROM: primary", "FROM: standby") + "INCREMENTAL FROM LSN: 0/1\n";
        assert!(BackupLabel::parse(&standby).unwrap().from_standby);
    }

    #[test]
    fn a_damaged_label_is_refused_with_its_line() {
        for (from, to, part) in [
            ("START WAL LOCATION: 0/", "START WAL LOCATION: x/", "\"START WAL LOCATION\""),
            (" (file 0", " (file z", "\"START WAL LOCATION\""),
            ("CHECKPOINT LOCATION", "CHECK", "no line \"CHECKPOINT LOCATION\""),
            ("FROM: primary", "FROM: home", "\"BACKUP FROM\" says \"home\""),
            ("TIMELINE: 1", "TIMELINE: 0", "\"START TIMELINE\" says \"0\""),
            ("TIMELINE: 1", "TIMELINE: 2", "its start timeline is 2, its start segment is of 1"),
        ] {
            let error = BackupLabel::parse(&LABEL.replace(from, to)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(BackupLabel::parse("").is_err());
    }
}
