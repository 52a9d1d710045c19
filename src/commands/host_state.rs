//! The state of the server on this host: what it answers, and what its data directory shows beside that.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

pub use crate::domain::host::{ArchiverFacts, HostState};

use crate::commands::wal_presence::pg_wal_of;
use crate::domain::cluster::SystemIdentifier;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::connection::Session;
use crate::postgres::conninfo::Conninfo;
use crate::postgres::pg_control::{self, ClusterState};
use crate::postgres::{archive_status, archiver, wal_directory};

/// Asks the server that `conninfo` leads to, and looks into its data directory: `pgdata`, else where the server says it is, if
/// that is a directory of this host.
///
/// What the role or the user may not see is none, and named in [`HostState::unknown`]. Five queries; time and memory grow with
/// the number of files in `pg_wal`.
///
/// Errors: `Local` when the server cannot be asked; `Mismatch` when `pgdata` is the directory of another cluster.
pub async fn read(conninfo: &Conninfo, pgdata: Option<&Path>) -> Result<HostState> {
    let session = Session::connect(conninfo).await?;
    let asked = ask(&session).await;
    let closed = session.close().await;
    let (mut state, place) = asked?;
    closed?;
    match pgdata.map(Path::to_owned).or(place) {
        Some(directory) => look_beside(&mut state, &directory, pgdata.is_some())?,
        None => state.unknown.push(
            "the server does not tell where its data directory is: GRANT pg_read_all_settings, or give --pgdata"
                .to_owned(),
        ),
    }
    Ok(state)
}

/// What the data directory alone shows, of a server that does not answer. Blocking.
///
/// Errors: `Local`, `Corrupt` or `Mismatch` when there is no control file that can be read.
pub fn read_without_server(pgdata: &Path, now: DateTime<Utc>) -> Result<HostState> {
    let control = pg_control::read_consistent(&pgdata.join("global/pg_control"))?;
    let mut state = HostState {
        data_checksums: control.data_checksums,
        in_recovery: matches!(control.state, ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery),
        ..HostState::new(now, control.system_identifier, control.segment_size, control.timeline)
    };
    look_into(&mut state, pgdata);
    Ok(state)
}

async fn ask(session: &Session) -> Result<(HostState, Option<PathBuf>)> {
    let server = archiver::server(session).await?;
    let settings = archiver::settings(session).await?;
    let place = archiver::data_directory(&settings);
    let waiting = archiver::waiting(session).await?;
    let (ready_segments, ready_since) = waiting.map_or((None, None), |(segments, since)| (Some(segments), since));
    let state = HostState {
        data_checksums: server.data_checksums,
        in_recovery: server.in_recovery,
        version: Some(session.version()),
        current_lsn: server.current_lsn,
        archive_mode: settings.get("archive_mode").map(str::to_owned),
        settings: Some(settings),
        archiver: Some(archiver::archiver(session).await?),
        slots: archiver::slots(session).await?,
        ready_segments,
        ready_bytes: ready_segments.map(|segments| segments * server.segment_size.bytes()),
        ready_since,
        ..HostState::new(server.now, server.system_identifier, server.segment_size, server.timeline)
    };
    Ok((state, place))
}

/// Adds what `directory` shows, once it has proved to be the server's.
fn look_beside(state: &mut HostState, directory: &Path, was_named: bool) -> Result<()> {
    match identifier_of(directory) {
        Ok(found) if found == state.system_identifier => look_into(state, directory),
        Ok(found) if was_named => {
            let message = format!(
                "data directory \"{}\" belongs to another cluster: its system identifier is {found}, the server's is {}",
                directory.display(),
                state.system_identifier
            );
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        // The server's path means something else on this host.
        Ok(_) => state.unknown.push(format!("\"{}\" is of another cluster on this host", directory.display())),
        Err(error) => state.unknown.push(error.to_string()),
    }
    Ok(())
}

fn identifier_of(directory: &Path) -> Result<SystemIdentifier> {
    pg_control::read_consistent(&directory.join("global/pg_control")).map(|control| control.system_identifier)
}

fn look_into(state: &mut HostState, directory: &Path) {
    let pg_wal = pg_wal_of(directory);
    state.data_directory = Some(directory.to_owned());
    match wal_directory::waiting(&pg_wal) {
        Ok(waiting) => {
            state.ready_segments = Some(waiting.segments);
            state.ready_bytes = Some(waiting.segments * state.segment_size.bytes());
            state.ready_since = waiting.since.map(DateTime::from);
        }
        Err(error) => state.unknown.push(error.to_string()),
    }
    match wal_directory::segments_nobody_waits_for(&pg_wal) {
        Ok(mut segments) => {
            segments.retain(|segment| segment.timeline < state.timeline);
            state.earlier_segments = segments;
        }
        Err(error) => state.unknown.push(error.to_string()),
    }
    match archive_status::read_history(&pg_wal, state.timeline) {
        // A timeline above the first without its file is not known to stand alone.
        Ok(history) => state.history = Some(history).filter(|known| !known.ancestors.is_empty()),
        Err(error) => state.unknown.push(error.to_string()),
    }
    match wal_directory::room(&pg_wal) {
        Ok(room) => {
            (state.wal_free_bytes, state.wal_total_bytes) = (Some(room.free_bytes), Some(room.total_bytes));
        }
        Err(error) => state.unknown.push(error.to_string()),
    }
}
