//! The third way: a base backup of a running cluster.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::codec::tar::Attributes;
use crate::commands::archive::{Archive, ContentCheck};
pub use crate::commands::backup_request::{
    BackupDone, BackupFailure, BackupRequest, FRUGAL_MEMORY_PER_JOB_BYTES, Naming, Stage, Tables, WalWait,
};
use crate::commands::catalog_entry::{self, Ended, Took};
use crate::commands::copy::{Copy, LastFile, Manifest, Source};
use crate::commands::expiry_lock::{self, SeenLock};
use crate::commands::interrupt::Interrupt;
use crate::commands::page_checks::PageChecks;
use crate::commands::part_upload::{Buffers, UploadLimits};
use crate::commands::parts;
use crate::commands::progress::Progress;
use crate::commands::rate_limit::RateLimit;
use crate::commands::table_snapshot;
use crate::commands::wal_presence::{NeededWal, WalShipped, pg_wal_of};
use crate::domain::backup::{Backup, BackupId};
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::backup_info;
use crate::layout::keys::PartFamily;
use crate::layout::manifest::{ManifestWriter, WalRange};
use crate::layout::part_index::{ManifestObject, Part, PartIndex, SCHEMA};
use crate::postgres::archive_status;
use crate::postgres::base_backup::{self, BackupLabel, BackupStop, StopWait};
use crate::postgres::configuration;
use crate::postgres::connection::Session;
use crate::postgres::data_directory::WalkRoot;
use crate::postgres::pg_control::{self, ControlFile};
use crate::postgres::server::ServerFacts;
use crate::store::Metadata;

/// A tar takes this much content before the next is begun: enough of them to restore in parallel.
const TAR_SIZE_BYTES: u64 = 512 << 20;

/// Barman's four digits of part number end at 9999; large clusters get larger tars long before.
const MOST_TARS: u64 = 4000;

/// A firewall forgets silent connections; the one that must stop the backup is used this often.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);

/// Takes a base backup.
///
/// The parts come first, then the manifest and the index, `backup.info` last: it is the commit, and it says DONE only
/// after the store has listed all of them in their full length and every WAL segment from begin to end is in the store, or, with [`WalWait::Server`], after the server said so. On
/// any failure and on SIGINT or SIGTERM the server leaves backup mode, open uploads are aborted and the backup is recorded
/// as FAILED.
///
/// Memory: what `buffers` says, 10 MiB for the manifest, and the codecs' own; nothing is staged on disk. Needs a
/// multi-threaded runtime. Errors: `Local` for PostgreSQL and the data directory, `Unreachable`, `Denied`,
/// `Interrupted`; each with how far the backup had come.
pub async fn backup(
    archive: &Archive,
    request: BackupRequest,
    progress: Arc<Progress>,
) -> Result<BackupDone, BackupFailure> {
    let preparing = || BackupFailure::at(Stage::Preparing);
    let mut interrupt = Interrupt::listen().map_err(preparing())?;
    let session = Session::connect(&request.conninfo).await.map_err(BackupFailure::at(Stage::Connecting))?;
    let mut ready = get_ready(&session, &request).await.map_err(preparing())?;
    progress.phase("start", 0);
    let started = Instant::now();
    let starting = start(archive, &request, &session, &mut ready, &mut interrupt).await;
    let record = match starting {
        Ok(record) => record,
        Err(cause) => {
            close(session).await;
            // A store that failed a moment ago is not asked for the same again.
            let is_the_server_s = matches!(cause.kind(), ErrorKind::Local | ErrorKind::Interrupted);
            let id = if is_the_server_s && request.naming.records_failure_as_barman {
                catalog_entry::record_failed_start(archive, &request, &ready.facts, &cause).await
            } else {
                None
            };
            return Err(BackupFailure { stage: Stage::Running(id), cause });
        }
    };
    let in_the_way = match expiries_in_the_way(archive, &request, &record).await {
        Ok(locks) => locks,
        Err(cause) => {
            close(session).await;
            catalog_entry::record_failure(archive, &request, &record, &cause).await;
            return Err(BackupFailure { stage: Stage::Running(Some(record.id)), cause });
        }
    };
    let run = Run {
        archive,
        in_the_way,
        request: &request,
        buffers: request.buffers,
        session: &session,
        facts: &ready.facts,
        pgdata: ready.pgdata,
        control: ready.control,
        configuration: ready.configuration,
        progress,
        started,
    };
    let outcome = run.to_the_end(&record, &mut interrupt).await;
    // Closing the session is what takes the server out of backup mode, should it still be in it.
    close(session).await;
    match outcome {
        Ok(done) => Ok(done),
        Err(cause) => {
            catalog_entry::record_failure(archive, &request, &record, &cause).await;
            Err(BackupFailure { stage: Stage::Running(Some(record.id)), cause })
        }
    }
}

/// What is known before the server is asked to begin.
struct Ready {
    facts: ServerFacts,
    pgdata: PathBuf,
    control: ControlFile,
    configuration: Vec<(String, Vec<u8>)>,
}

async fn get_ready(session: &Session, request: &BackupRequest) -> Result<Ready> {
    let mut facts = ServerFacts::read(session).await?;
    let (pgdata, control) = check_data_directory(request, &facts)?;
    let configuration = configuration::outside_data_directory(&pgdata, &facts, request.configuration)?;
    // Now, so that a tablespace that cannot be read is known before anything is sent.
    facts.renew_tablespaces(session, &pgdata).await?;
    hold_wal(session, &facts).await?;
    Ok(Ready { facts, pgdata, control, configuration })
}

/// Begins the backup on the server and in the catalogue, in an archive that is this cluster's.
async fn start(
    archive: &Archive,
    request: &BackupRequest,
    session: &Session,
    ready: &mut Ready,
    interrupt: &mut Interrupt,
) -> Result<Backup> {
    if request.check == ContentCheck::Checked {
        archive.claim_for(ready.facts.system_identifier, request.now).await?;
    }
    let start = tokio::select! {
        start = base_backup::start(session, &ready.facts, &request.naming.label, request.fast) => start?,
        stopped = interrupt.signalled() => return Err(stopped),
    };
    ready.facts.renew_tablespaces(session, &ready.pgdata).await?;
    catalog_entry::claim(archive, request, &ready.facts, &start).await
}

/// The expiries that had begun before this backup said that it begins, and so may not respect it. Who takes the server's word
/// that WAL is archived does not look into the store for it, neither before nor after.
async fn expiries_in_the_way(archive: &Archive, request: &BackupRequest, record: &Backup) -> Result<Vec<SeenLock>> {
    match (request.wal, record.begin_segment) {
        (WalWait::Store, Some(begin)) => expiry_lock::in_the_way(archive, begin).await,
        _ => Ok(Vec::new()),
    }
}

/// One backup on its way, from the started server to the commit.
struct Run<'a> {
    archive: &'a Archive,
    /// Expiries that may delete WAL this backup needs.
    in_the_way: Vec<SeenLock>,
    request: &'a BackupRequest,
    buffers: Buffers,
    session: &'a Session,
    facts: &'a ServerFacts,
    pgdata: PathBuf,
    /// The control file before the backup began.
    control: ControlFile,
    /// Configuration that lies outside the data directory: path in the copy, content.
    configuration: Vec<(String, Vec<u8>)>,
    progress: Arc<Progress>,
    started: Instant,
}

impl Run<'_> {
    async fn to_the_end(&self, record: &Backup, interrupt: &mut Interrupt) -> Result<BackupDone> {
        let id = &record.id;
        let copy = Arc::new(self.copy_of(record, interrupt)?);
        let mut phases = vec![("checkpoint", self.started.elapsed())];
        let copying = Instant::now();
        self.progress.phase("copy", self.facts.cluster_size_bytes.unwrap_or(0));
        let mut stored = self.attended(interrupt, &copy, Copy::run).await?;
        phases.push(("copy", copying.elapsed()));

        let stopping = Instant::now();
        self.progress.phase("stop", 0);
        let tables = table_snapshot::look(self.request, interrupt).await;
        // A backup of a standby is consistent only if the control file is copied after everything else.
        let control = pg_control::read_consistent(&control_file(&self.pgdata))?;
        let stop = self.stop(interrupt).await?;
        table_snapshot::keep(self.archive, self.request, id, tables, interrupt).await;
        self.mark_restore_point(id).await;
        let last = self.last_files(control, &stop)?;
        let ended = Ended { label: BackupLabel::parse(&stop.label)?, stop };
        let damaged = copy.pages.as_ref().map(|pages| pages.finish(ended.stop.lsn));
        let torn = copy.pages.as_ref().map(PageChecks::torn).unwrap_or_default();
        stored.push(self.attended(interrupt, &copy, move |copy| copy.last_tar(&last)).await?);
        phases.push(("stop", stopping.elapsed()));

        self.let_expiries_end(interrupt).await?;
        let waiting = Instant::now();
        self.progress.phase("wal", 0);
        let ranges = self.wal_ranges(&ended)?;
        let needed = self.needed_wal(ranges.clone());
        let wal = match self.request.wal {
            WalWait::Server => WalShipped::default(),
            WalWait::Store => tokio::select! {
                wal = needed.ensure() => wal?,
                stopped = interrupt.signalled() => return Err(stopped),
            },
        };
        phases.push(("wal", waiting.elapsed()));

        let committing = Instant::now();
        self.progress.phase("commit", 0);
        let manifest = self.attended(interrupt, &copy, move |copy| copy.finish_manifest(&ranges)).await?;
        let manifest_bytes = manifest.bytes;
        stored.sort_by(|a, b| a.name.cmp(&b.name));
        let took = Took { total: self.started.elapsed(), workers: self.buffers.workers, phases: &phases };
        let record = catalog_entry::done(record, self.request, &ended, &took, damaged.as_deref().unwrap_or_default());
        let index = PartIndex { damaged, torn, ..self.index_of(&ended, id, stored, manifest) };
        let json = index.to_json()?;
        let json_bytes = json.len() as u64;
        self.archive.store.put(&self.archive.prefix.part_index(id), json.into(), &Metadata::new()).await?;
        parts::prove_stored(self.archive, &record, &index, json_bytes).await?;
        let info = backup_info::write(&record);
        self.archive.store.put(&self.archive.prefix.backup_info(id), info.into(), &Metadata::new()).await?;
        phases.push(("commit", committing.elapsed()));
        Ok(BackupDone {
            backup: record,
            content_bytes: copy.content_bytes.load(Ordering::Relaxed),
            files: index.parts.iter().map(|part| part.files).sum(),
            stored_bytes: index.parts.iter().map(|part| part.bytes).sum::<u64>() + manifest_bytes,
            parts: index.parts.len(),
            wal,
            phases,
            damaged: index.damaged,
        })
    }

    /// After this, what is in the archive of the WAL this backup needs stays there.
    async fn let_expiries_end(&self, interrupt: &mut Interrupt) -> Result<()> {
        if self.in_the_way.is_empty() {
            return Ok(());
        }
        self.progress.phase("wait for expire", 0);
        tokio::select! {
            waited = expiry_lock::wait_for(self.archive, &self.in_the_way) => waited,
            stopped = interrupt.signalled() => Err(stopped),
        }
    }

    /// Ends the backup on the server.
    async fn stop(&self, interrupt: &mut Interrupt) -> Result<BackupStop> {
        let wait = match self.request.wal {
            WalWait::Store => StopWait::No,
            WalWait::Server => StopWait::ForArchiver(self.request.wal_timeout),
        };
        tokio::select! {
            stop = base_backup::stop(self.session, self.facts, wait) => stop,
            stopped = interrupt.signalled() => Err(stopped),
        }
    }

    /// A name for people who recover to the end of this backup; without it, it is as good.
    async fn mark_restore_point(&self, id: &BackupId) {
        let Some(prefix) = self.request.naming.restore_point_prefix.filter(|_| !self.facts.in_recovery) else { return };
        let name = format!("{prefix}{id}");
        match base_backup::create_restore_point(self.session, &name).await {
            Ok(()) => tracing::info!("restore point '{name}' was created"),
            Err(error) => tracing::warn!("{error}; the backup does without"),
        }
    }

    fn index_of(&self, ended: &Ended, id: &BackupId, parts: Vec<Part>, manifest: ManifestObject) -> PartIndex {
        let Ended { stop, label } = ended;
        let size = self.facts.segment_size;
        PartIndex {
            schema: SCHEMA,
            backup_id: id.clone(),
            system_identifier: self.facts.system_identifier,
            server_version: self.facts.version,
            timeline: label.start_timeline,
            begin_lsn: label.start_lsn,
            end_lsn: stop.lsn,
            begin_segment: label.start_segment,
            end_segment: SegmentName::from_number(stop.timeline, size.segment_before(stop.lsn), size),
            compression: self.request.compression,
            parts,
            manifest: Some(manifest),
            damaged: None,
            torn: Vec::new(),
            block_bytes: Some(self.control.block_bytes),
        }
    }

    /// Runs blocking work of the copy on its own thread while the session is kept alive and signals are heard. Always
    /// waits for the work to end: no upload is left open behind an error.
    async fn attended<T: Send + 'static>(
        &self,
        interrupt: &mut Interrupt,
        copy: &Arc<Copy>,
        work: impl FnOnce(&Copy) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(copy);
        let mut working = tokio::task::spawn_blocking(move || work(&shared));
        let trouble = tokio::select! {
            outcome = &mut working => {
                let outcome = outcome.map_err(|error| worker_died(&error))?;
                // A worker may hear of a signal before we do, and can say less about it.
                let interrupted = |error: &Error| error.kind() == ErrorKind::Interrupted;
                return if outcome.as_ref().is_err_and(interrupted) { interrupt.check().and(outcome) } else { outcome };
            }
            stopped = interrupt.signalled() => stopped,
            lost = keep_alive(self.session) => lost.context("lost the session that must stop the backup"),
        };
        interrupt.stop();
        // Whatever the work says now, it only says because it was told to stop.
        let outcome = working.await;
        tracing::debug!("the copy stopped: {}", outcome.is_ok());
        Err(trouble)
    }

    fn copy_of(&self, record: &Backup, interrupt: &Interrupt) -> Result<Copy> {
        let id = &record.id;
        let runtime = Handle::current();
        let Buffers { workers, part_size_bytes, parts_in_memory } = self.buffers;
        tracing::debug!("{workers} workers hold at most {parts_in_memory} parts of {part_size_bytes} bytes each");
        let rate = self.request.max_rate_bytes_per_s;
        let rate = if self.request.has_loose_rate { RateLimit::loose(rate) } else { RateLimit::new(rate) };
        let writer = ManifestWriter::new(self.facts.version, self.facts.system_identifier);
        let sources = self.sources();
        let share = self.facts.cluster_size_bytes.unwrap_or(0) / MOST_TARS;
        Ok(Copy {
            archive: self.archive.clone(),
            id: id.clone(),
            numbers: sources.iter().map(|_| AtomicU32::new(0)).collect(),
            content_bytes: AtomicU64::new(0),
            sources,
            jobs: workers,
            compression: self.request.compression,
            level: self.request.level,
            limits: UploadLimits { part_size_bytes, parts_in_memory, rate, interrupt: interrupt.clone() },
            tar_size_bytes: TAR_SIZE_BYTES.max(share),
            max_tar_bytes: self.request.max_tar_bytes,
            interrupt: interrupt.clone(),
            progress: Arc::clone(&self.progress),
            pages: PageChecks::of(&self.control, record.begin_lsn.unwrap_or(Lsn(0))),
            manifest: Mutex::new(Manifest::begin(writer, &runtime, self.archive, id, interrupt)?),
            runtime,
        })
    }

    /// Tablespaces first, as Barman does, the data directory last.
    fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        for tablespace in &self.facts.tablespaces {
            sources.push(Source {
                family: PartFamily::Tablespace(tablespace.oid),
                root: WalkRoot::tablespace(Path::new(&tablespace.location), self.facts.tablespace_directory()),
                manifest_prefix: format!("pg_tblspc/{}/", tablespace.oid),
            });
        }
        let locations = self.facts.tablespaces.iter().map(|tablespace| PathBuf::from(&tablespace.location)).collect();
        let replaced = self.configuration.iter().map(|(path, _)| PathBuf::from(path)).collect();
        let root = WalkRoot::data_directory(&self.pgdata, self.facts.version, locations).without(replaced);
        let root = if self.request.with_logs { root } else { root.without_logs() };
        sources.push(Source { family: PartFamily::Data, root, manifest_prefix: String::new() });
        sources
    }

    /// The configuration from elsewhere, then the control file, the backup label last.
    fn last_files(&self, control: ControlFile, stop: &BackupStop) -> Result<Vec<LastFile>> {
        let owner = self.owner()?;
        let file = |path: &str, content: Vec<u8>| LastFile { path: path.to_owned(), content, attributes: owner };
        let mut files: Vec<LastFile> =
            self.configuration.iter().map(|(path, content)| file(path, content.clone())).collect();
        files.push(file("global/pg_control", control.raw));
        files.push(file("backup_label", stop.label.clone().into_bytes()));
        Ok(files)
    }

    /// The data directory's owner, with the modes of its files.
    fn owner(&self) -> Result<Attributes> {
        use std::os::unix::fs::MetadataExt;
        let facts = std::fs::metadata(&self.pgdata)
            .map_err(|cause| Error::local("look at data directory", &self.pgdata, cause))?;
        let mode = 0o600 | (facts.mode() & 0o040);
        Ok(Attributes { mode, uid: facts.uid(), gid: facts.gid(), mtime: self.request.now.timestamp() })
    }

    /// What replay needs: one range, or one for each timeline when a standby followed a promotion meanwhile.
    fn wal_ranges(&self, ended: &Ended) -> Result<Vec<WalRange>> {
        let Ended { stop, label } = ended;
        let history = archive_status::read_history(&pg_wal_of(&self.pgdata), stop.timeline)?;
        let legs = history.legs().into_iter().map(|leg| WalRange {
            timeline: leg.timeline,
            start: leg.begin.max(label.start_lsn),
            end: leg.end.map_or(stop.lsn, |end| end.min(stop.lsn)),
        });
        Ok(legs.filter(|range| range.start < range.end).collect())
    }

    fn needed_wal(&self, ranges: Vec<WalRange>) -> NeededWal<'_> {
        NeededWal {
            archive: self.archive,
            session: self.session,
            facts: self.facts,
            pg_wal: pg_wal_of(&self.pgdata),
            ranges,
            compression: self.request.wal_compression,
            timeout: self.request.wal_timeout,
            now: self.request.now,
        }
    }
}

fn control_file(pgdata: &Path) -> PathBuf {
    pgdata.join("global/pg_control")
}

/// The server and the directory must be the same cluster: a stale mount would be backed up without a word.
fn check_data_directory(request: &BackupRequest, facts: &ServerFacts) -> Result<(PathBuf, ControlFile)> {
    let pgdata = request.pgdata.clone().unwrap_or_else(|| facts.data_directory.clone());
    let control = pg_control::read_consistent(&control_file(&pgdata)).map_err(|error| {
        error.with_hint("barback reads the data directory itself: run it on the server's host, or give --pgdata.")
    })?;
    if control.system_identifier != facts.system_identifier {
        let message = format!(
            "data directory \"{}\" belongs to another cluster: its system identifier is {}, the server's is {}",
            pgdata.display(),
            control.system_identifier,
            facts.system_identifier
        );
        return Err(Error::new(ErrorKind::Mismatch, message));
    }
    Ok((pgdata, control))
}

/// Without an archiver, a checkpoint during the copy would recycle WAL the backup needs: hold it with a slot that
/// ends with the session. Where there is an archiver, `.ready` files hold it, and a slot would fill the disk.
async fn hold_wal(session: &Session, facts: &ServerFacts) -> Result<()> {
    if facts.archives_wal() {
        return Ok(());
    }
    if let Err(error) = base_backup::hold_wal(session).await {
        let remedy = error.hint().map_or(String::new(), |hint| format!(" ({hint})"));
        tracing::warn!("{error}{remedy}; a long backup may find its first WAL segments recycled, and will say so");
    }
    Ok(())
}

/// A backup is what it is by now, whether the goodbye is heard or not.
async fn close(session: Session) {
    if let Err(error) = session.close().await {
        tracing::warn!("{error}");
    }
}

async fn keep_alive(session: &Session) -> Error {
    let pinging = async {
        loop {
            tokio::time::sleep(KEEP_ALIVE_EVERY).await;
            if let Err(error) = session.ping().await {
                return error;
            }
        }
    };
    tokio::select! {
        error = session.lost() => error,
        error = pinging => error,
    }
}

fn worker_died(error: &tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Bug, format!("the copy failed: {error}"))
}
