//! A server in recovery, asked where it is, and told to end it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::connection::{QUICK, Session, local};
use crate::domain::lsn::Lsn;
use crate::domain::timeline::TimelineId;
use crate::error::Result;

/// How long ending recovery may take: a checkpoint is begun, and a new timeline.
const PROMOTE: Duration = Duration::from_mins(10);

/// Between two looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// Where a server's recovery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryState {
    /// False once it is over.
    pub is_in_recovery: bool,
    /// It has stopped at its target, or was told to.
    pub is_paused: bool,
    /// The end of the last record that was replayed; it stays when recovery is over.
    pub replayed: Option<Lsn>,
    /// The time of the last transaction that was replayed.
    pub last_transaction: Option<DateTime<Utc>>,
}

impl RecoveryState {
    /// Asks `session`: one question. Errors: `Local`.
    pub async fn read(session: &Session) -> Result<Self> {
        let paused = match session.version().major() {
            ..14 => "pg_is_wal_replay_paused()",
            _ => "pg_get_wal_replay_pause_state() = 'paused'",
        };
        let sql = format!(
            "SELECT r::text AS in_recovery, (CASE WHEN r THEN {paused} ELSE false END)::text AS paused, \
             pg_last_wal_replay_lsn()::text AS lsn, \
             to_char(pg_last_xact_replay_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS time \
             FROM pg_is_in_recovery() r"
        );
        let row = session.row("ask where recovery is", &sql, &[], QUICK).await?;
        let time = match row.optional("time")? {
            None => None,
            Some(_) => Some(row.parse("time")?),
        };
        let replayed = match row.optional("lsn")? {
            None => None,
            Some(_) => Some(row.parse("lsn")?),
        };
        Ok(Self {
            is_in_recovery: row.get("in_recovery")? == "true",
            is_paused: row.get("paused")? == "true",
            replayed,
            last_transaction: time,
        })
    }
}

/// Ends recovery that is paused at its target, and waits until the server takes writes. Errors: `Local`.
pub async fn promote(session: &Session) -> Result<()> {
    // `pg_promote` is noticed within a second; going on at the target ends recovery too, at once.
    session.rows("end recovery", "SELECT pg_wal_replay_resume()", &[], QUICK).await?;
    let begun = std::time::Instant::now();
    while begun.elapsed() < PROMOTE {
        if !RecoveryState::read(session).await?.is_in_recovery {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(local(format!("could not end recovery: the server is still in it after {} s", PROMOTE.as_secs())))
}

/// The timeline that a server which takes writes is on. Errors: `Local`.
pub async fn timeline(session: &Session) -> Result<Option<TimelineId>> {
    let sql = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline";
    let row = session.row("ask for the timeline", sql, &[], QUICK).await?;
    Ok(u32::from_str_radix(row.get("timeline")?, 16).ok().and_then(TimelineId::new))
}
