//! What a server says about its archiving: settings, `pg_stat_archiver`, slots, and the queue before the archiver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use tokio_postgres::error::SqlState;

use super::connection::{Answer, QUICK, Session, local};
use crate::domain::cluster::SystemIdentifier;
use crate::domain::host::{ArchiverFacts, SETTINGS, Settings, Slot};
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentSize;
use crate::domain::timeline::TimelineId;
use crate::error::Result;

/// What every role may ask of any server.
#[derive(Debug, Clone)]
pub struct Server {
    /// The server's clock.
    pub now: DateTime<Utc>,
    /// Its cluster.
    pub system_identifier: SystemIdentifier,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// The timeline it writes, or the newest one it has replayed.
    pub timeline: TimelineId,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// True for a standby.
    pub in_recovery: bool,
    /// Where the WAL ends: written on a primary, replayed on a standby.
    pub current_lsn: Option<Lsn>,
}

/// Who the server is and how far its WAL goes: one query.
pub async fn server(session: &Session) -> Result<Server> {
    // A checkpoint may be long after a promotion: the name of what is written tells the timeline at once.
    let sql = "SELECT clock_timestamp()::text AS now, system.system_identifier::text AS system_identifier, \
         (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size') AS segment_size, \
         current_setting('data_checksums') AS data_checksums, pg_is_in_recovery()::text AS in_recovery, \
         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS lsn, \
         CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END AS segment, \
         greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline)::text AS timeline \
         FROM pg_control_system() AS system, pg_control_checkpoint() AS checkpoint, pg_control_recovery() AS recovery";
    let row = session.row("read the server's state", sql, &[], QUICK).await?;
    let written = row.optional("segment")?.and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok());
    let timeline = match written.and_then(TimelineId::new) {
        Some(timeline) => timeline,
        None => row.parse("timeline")?,
    };
    Ok(Server {
        now: time(&row, "now")?.ok_or_else(|| local("could not learn \"now\" from the server: it is null"))?,
        system_identifier: row.parse("system_identifier")?,
        segment_size: SegmentSize::new(row.parse("segment_size")?)?,
        timeline,
        data_checksums: row.get("data_checksums")? == "on",
        in_recovery: row.get("in_recovery")? == "true",
        current_lsn: row.optional("lsn")?.map(str::parse).transpose()?,
    })
}

/// The settings that archiving depends on; one that the role may not see is left out.
pub async fn settings(session: &Session) -> Result<Settings> {
    let sql = "SELECT name, setting, pending_restart::text AS pending FROM pg_settings WHERE name = ANY($1)";
    let names: Vec<&str> = SETTINGS.to_vec();
    let rows = session.rows("read the server's settings", sql, &[&names], QUICK).await?;
    let (mut values, mut pending_restart) = (BTreeMap::new(), BTreeSet::new());
    for row in &rows {
        let name = row.get("name")?;
        values.insert(name.to_owned(), row.get("setting")?.to_owned());
        if row.get("pending")? == "true" {
            pending_restart.insert(name.to_owned());
        }
    }
    Ok(Settings { values, pending_restart })
}

/// Where the server says its data directory is; none when the role may not see it.
#[must_use]
pub fn data_directory(settings: &Settings) -> Option<PathBuf> {
    settings.get("data_directory").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// `pg_stat_archiver`.
pub async fn archiver(session: &Session) -> Result<ArchiverFacts> {
    let sql = "SELECT archived_count::text AS archived, last_archived_wal, last_archived_time::text AS archived_time, \
         failed_count::text AS failed, last_failed_wal, last_failed_time::text AS failed_time, \
         stats_reset::text AS reset FROM pg_stat_archiver";
    let row = session.row("read pg_stat_archiver", sql, &[], QUICK).await?;
    let text = |column: &str| row.optional(column).map(|text| text.map(str::to_owned));
    Ok(ArchiverFacts {
        archived_count: row.parse("archived")?,
        failed_count: row.parse("failed")?,
        last_archived_wal: text("last_archived_wal")?,
        last_archived_time: time(&row, "archived_time")?,
        last_failed_wal: text("last_failed_wal")?,
        last_failed_time: time(&row, "failed_time")?,
        stats_reset: time(&row, "reset")?,
    })
}

/// Every replication slot, by name.
pub async fn slots(session: &Session) -> Result<Vec<Slot>> {
    let inactive = if session.version().major() >= 17 { "inactive_since::text" } else { "NULL::text" };
    let sql = format!(
        "SELECT slot_name::text AS name, active::text AS active, restart_lsn::text AS lsn, wal_status, \
         {inactive} AS inactive_since FROM pg_replication_slots ORDER BY slot_name"
    );
    let rows = session.rows("read the replication slots", &sql, &[], QUICK).await?;
    rows.iter()
        .map(|row| {
            Ok(Slot {
                name: row.get("name")?.to_owned(),
                is_active: row.get("active")? == "true",
                restart_lsn: row.optional("lsn")?.map(str::parse).transpose()?,
                wal_status: row.optional("wal_status")?.map(str::to_owned),
                inactive_since: time(row, "inactive_since")?,
            })
        })
        .collect()
}

/// How many complete segments wait for the archiver, and since when the first file does, as the server sees its own
/// directory; none for a role that is neither a superuser nor in `pg_monitor`.
pub async fn waiting(session: &Session) -> Result<Option<(u64, Option<DateTime<Utc>>)>> {
    let sql = "SELECT count(*) FILTER (WHERE name ~ '^[0-9A-F]{24}[.]ready$')::text AS segments, \
         min(modification)::text AS since FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    match session.row("read what waits to be archived", sql, &[], QUICK).await {
        Ok(row) => Ok(Some((row.parse("segments")?, time(&row, "since")?))),
        Err(failure) if failure.is(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// The session's settings make times read `2026-06-08 11:32:00.123456+00`.
fn time(row: &Answer, column: &str) -> Result<Option<DateTime<Utc>>> {
    let Some(text) = row.optional(column)? else { return Ok(None) };
    DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z")
        .map(|time| Some(time.to_utc()))
        .map_err(|cause| local(format!("could not understand the server's time \"{text}\": {cause}")))
}
