//! A backup's entry in the catalogue while it is taken: claimed when it begins, completed, or marked as failed.

use std::path::Path;
use std::time::Duration;

use chrono::TimeDelta;

use crate::commands::archive::Archive;
use crate::commands::backup_request::BackupRequest;
use crate::commands::catalog;
use crate::domain::backup::{Backup, BackupId, BackupStatus, CopyStats};
use crate::domain::segment::SegmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::backup_info;
use crate::layout::part_index::{DamagedFile, damage_line};
use crate::postgres::base_backup::{BackupLabel, BackupStart, BackupStop};
use crate::postgres::server::ServerFacts;
use crate::store::{Metadata, Put};

/// Records STARTED under an id nobody has: two clients in one second must not share a directory.
pub(crate) async fn claim(
    archive: &Archive,
    request: &BackupRequest,
    facts: &ServerFacts,
    start: &BackupStart,
) -> Result<Backup> {
    claim_with(archive, request, |id| started(&id, facts, Some(start))).await
}

/// Records FAILED for a backup that the server would not begin, as Barman 3.19.1 does: whoever looks for the last failure
/// finds it. Its id, where it could be recorded.
pub(crate) async fn record_failed_start(
    archive: &Archive,
    request: &BackupRequest,
    facts: &ServerFacts,
    error: &Error,
) -> Option<BackupId> {
    let entry = claim_with(archive, request, |id| failed(started(&id, facts, None), request, error)).await;
    entry.map_err(|unrecorded| tracing::warn!("the failure is not recorded: {unrecorded}")).ok().map(|entry| entry.id)
}

async fn claim_with(archive: &Archive, request: &BackupRequest, entry: impl Fn(BackupId) -> Backup) -> Result<Backup> {
    const TRIES: i64 = 10;
    for later in 0..TRIES {
        let id = BackupId::from_clock(request.naming.clock + TimeDelta::seconds(later));
        let key = archive.prefix.backup_info(&id);
        let record = entry(id.clone());
        let info = backup_info::write(&record);
        let probe = archive.prefix.dialect_probe();
        let put = archive.store.put_new(&key, info.clone().into(), &Metadata::new(), &probe).await?;
        // The answer to our own put may have been lost: two backups never begin in the same microsecond.
        let is_ours = match put {
            Put::Created => true,
            Put::AlreadyThere => match archive.store.get(&key, catalog::BACKUP_INFO_LIMIT_BYTES).await {
                Ok(there) => there.content == info,
                // Another's, which an expiry has deleted since.
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            },
        };
        if is_ours {
            return Ok(record);
        }
        tracing::info!("backup id {id} is taken, trying the next second");
    }
    let message = format!("could not find a free backup id in {TRIES} s from {}", request.naming.clock);
    Err(Error::new(ErrorKind::Conflict, message))
}

fn started(id: &BackupId, facts: &ServerFacts, start: Option<&BackupStart>) -> Backup {
    let path_text = |path: &Path| path.to_string_lossy().into_owned();
    let size = facts.segment_size;
    Backup {
        status: BackupStatus::Started,
        system_identifier: Some(facts.system_identifier),
        version: Some(facts.version),
        pgdata: Some(path_text(&facts.data_directory)),
        config_file: facts.config_file.as_deref().map(path_text),
        hba_file: facts.hba_file.as_deref().map(path_text),
        ident_file: facts.ident_file.as_deref().map(path_text),
        included_files: (!facts.included_files.is_empty())
            .then(|| facts.included_files.iter().map(|path| path_text(path)).collect()),
        timeline: start.map(|start| start.timeline),
        begin_lsn: start.map(|start| start.lsn),
        begin_segment: start.map(|start| SegmentName::from_number(start.timeline, size.segment_of(start.lsn), size)),
        begin_time: start.map(|start| start.time),
        segment_size: size,
        cluster_size_bytes: facts.cluster_size_bytes,
        data_checksums: Some(facts.data_checksums),
        tablespaces: facts.tablespaces.clone(),
        summarize_wal: facts.summarize_wal.clone(),
        ..Backup::new(id.clone())
    }
}

/// What the server said at the end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) stop: BackupStop,
    pub(crate) label: BackupLabel,
}

/// How long a backup took.
#[derive(Debug)]
pub(crate) struct Took<'a> {
    pub(crate) total: Duration,
    pub(crate) workers: usize,
    pub(crate) phases: &'a [(&'static str, Duration)],
}

/// The entry of a backup that is complete, marked where pages of the cluster are `damaged`.
pub(crate) fn done(
    started: &Backup,
    request: &BackupRequest,
    ended: &Ended,
    took: &Took<'_>,
    damaged: &[DamagedFile],
) -> Backup {
    let Ended { stop, label } = ended;
    let size = started.segment_size;
    let seconds = |name: &str| {
        took.phases.iter().filter(|(phase, _)| *phase == name).map(|(_, took)| took.as_secs_f64()).sum::<f64>()
    };
    let mut record = Backup {
        // Where replay begins is what the label says, and nothing that was asked beside the start.
        timeline: Some(label.start_timeline),
        begin_lsn: Some(label.start_lsn),
        begin_segment: Some(label.start_segment),
        status: BackupStatus::Done,
        name: request.name.as_ref().map(|name| name.as_str().to_owned()),
        end_lsn: Some(stop.lsn),
        // Barman 3.19.1 names the segment that *holds* the end LSN, the next one when it lies on a boundary.
        end_segment: Some(SegmentName::from_number(stop.timeline, size.segment_of(stop.lsn), size)),
        end_time: Some(stop.time),
        backup_label: Some(stop.label.clone()),
        copy_stats: Some(CopyStats {
            total_time_s: took.total.as_secs_f64(),
            number_of_workers: u32::try_from(took.workers).unwrap_or(u32::MAX),
            copy_time_s: seconds("copy"),
            serialized_copy_time_s: seconds("copy"),
            ..CopyStats::default()
        }),
        ..started.clone()
    };
    if !damaged.is_empty() {
        record.mark_damaged_pages(&damage_line(damaged));
    }
    record
}

/// Says FAILED in the catalogue, without an end: who reads times only must not take it for a backup. A record that
/// could not be written leaves STARTED, which is no more restorable.
pub(crate) async fn record_failure(archive: &Archive, request: &BackupRequest, started: &Backup, error: &Error) {
    let info = backup_info::write(&failed(started.clone(), request, error)).into();
    let key = archive.prefix.backup_info(&started.id);
    if let Err(unrecorded) = archive.store.put(&key, info, &Metadata::new()).await {
        tracing::warn!("the backup stays recorded as STARTED: {unrecorded}");
    }
}

fn failed(started: Backup, request: &BackupRequest, error: &Error) -> Backup {
    let text = error.to_string();
    let first_line = text.lines().next().unwrap_or_default();
    let mut record = Backup { status: BackupStatus::Failed, ..started };
    if request.naming.records_failure_as_barman {
        // Barman 3.19.1 writes the field so, and the name into the last record of any backup.
        record.error = Some(format!("failure uploading data ({first_line})"));
        record.name = request.name.as_ref().map(|name| name.as_str().to_owned());
    } else {
        record.error = Some(first_line.to_owned());
    }
    record
}
