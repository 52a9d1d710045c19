//! The third way: a base backup of a running cluster.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use crate::codec::tar::Attributes;
use crate::commands::archive::{Archive, WalCompression};
use crate::commands::catalog;
use crate::commands::copy::{Copy, LastFile, Manifest, Source};
use crate::commands::interrupt::Interrupt;
use crate::commands::part_upload::{PARTS_IN_MEMORY, RateLimit, UploadLimits};
use crate::commands::progress::Progress;
use crate::commands::wal_presence::{NeededWal, WalShipped, pg_wal_of};
use crate::domain::backup::{Backup, BackupId, BackupName, BackupStatus, CopyStats};
use crate::domain::compression::Compression;
use crate::domain::segment::SegmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::backup_info;
use crate::layout::keys::PartFamily;
use crate::layout::manifest::{ManifestWriter, WalRange};
use crate::layout::part_index::{ManifestObject, Part, PartIndex, SCHEMA};
use crate::postgres::archive_status;
use crate::postgres::base_backup::{self, BackupLabel, BackupStart, BackupStop};
use crate::postgres::connection::Session;
use crate::postgres::conninfo::Conninfo;
use crate::postgres::data_directory::WalkRoot;
use crate::postgres::server::ServerFacts;
use crate::postgres::{configuration, pg_control};
use crate::store::{Metadata, Put};

/// What a backup is asked for.
#[derive(Debug)]
pub struct BackupRequest {
    /// How to reach the server.
    pub conninfo: Conninfo,
    /// The data directory, when it is not where the server says (another mount, another container).
    pub pgdata: Option<PathBuf>,
    /// A name for people.
    pub name: Option<BackupName>,
    /// Workers that read, compress and upload.
    pub jobs: usize,
    /// How parts are compressed.
    pub compression: Compression,
    /// At which level; the format's default when none.
    pub level: Option<i32>,
    /// How WAL is compressed that the backup has to ship itself.
    pub wal_compression: WalCompression,
    /// Ask for an immediate checkpoint instead of a spread one.
    pub fast: bool,
    /// Bytes per second all workers together may upload.
    pub max_rate_bytes_per_s: Option<u64>,
    /// The size of one multipart-upload part.
    pub part_size_bytes: usize,
    /// How long to wait for the last WAL segment.
    pub wal_timeout: Duration,
    /// When the backup is taken; its id.
    pub now: DateTime<Utc>,
}

/// A finished backup.
#[derive(Debug, Clone)]
pub struct BackupDone {
    /// What the catalogue now says.
    pub backup: Backup,
    /// Bytes of content read.
    pub content_bytes: u64,
    /// Files copied.
    pub files: u64,
    /// Bytes stored, parts and manifest.
    pub stored_bytes: u64,
    /// Parts stored.
    pub parts: usize,
    /// WAL segments needed, and shipped by the backup itself.
    pub wal: WalShipped,
    /// How long each phase took.
    pub phases: Vec<(&'static str, Duration)>,
}

/// A tar takes this much content before the next is begun: enough of them to restore in parallel.
const TAR_SIZE_BYTES: u64 = 512 << 20;

/// Barman's four digits of part number end at 9999; large clusters get larger tars long before.
const MOST_TARS: u64 = 4000;

/// A firewall forgets silent connections; the one that must stop the backup is used this often.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);

/// Takes a base backup.
///
/// The parts come first, then the manifest and the index, `backup.info` last: it is the commit, and it says DONE only
/// after every WAL segment from begin to end is in the store. On any failure and on SIGINT or SIGTERM the server
/// leaves backup mode, open uploads are aborted and the backup is recorded as FAILED.
///
/// Memory: (`jobs` + 1) × 4 × part size, and the codecs' own; nothing is staged on disk. Needs a multi-threaded
/// runtime. Errors: `Local` for PostgreSQL and the data directory, `Unreachable`, `Denied`, `Interrupted`.
pub async fn backup(archive: &Archive, request: BackupRequest, progress: Arc<Progress>) -> Result<BackupDone> {
    let mut interrupt = Interrupt::listen()?;
    let session = Session::connect(&request.conninfo).await?;
    let mut facts = ServerFacts::read(&session).await?;
    let pgdata = check_data_directory(&request, &facts)?;
    let configuration = configuration::outside_data_directory(&pgdata, &facts)?;
    // Now, so that a tablespace that cannot be read is known before anything is sent.
    facts.renew_tablespaces(&session, &pgdata).await?;
    hold_wal(&session, &facts).await?;
    progress.phase("start", 0);
    let started = Instant::now();
    let label = format!("barback {}", request.now.format("%Y-%m-%d %H:%M:%S UTC"));
    let start = tokio::select! {
        start = base_backup::start(&session, &facts, &label, request.fast) => start?,
        stopped = interrupt.signalled() => return Err(stopped),
    };
    facts.renew_tablespaces(&session, &pgdata).await?;
    let (id, mut record) = claim_id(archive, &request, &facts, &start).await?;
    let run =
        Run { archive, request: &request, session: &session, facts: &facts, pgdata, configuration, progress, started };
    match run.to_the_end(&id, &mut record, &mut interrupt).await {
        Ok(done) => {
            close(session).await;
            Ok(done)
        }
        Err(error) => {
            // Closing the session is what takes the server out of backup mode.
            close(session).await;
            Err(record_failure(archive, record, error).await)
        }
    }
}

/// One backup on its way, from the started server to the commit.
struct Run<'a> {
    archive: &'a Archive,
    request: &'a BackupRequest,
    session: &'a Session,
    facts: &'a ServerFacts,
    pgdata: PathBuf,
    /// Configuration that lies outside the data directory: path in the copy, content.
    configuration: Vec<(String, Vec<u8>)>,
    progress: Arc<Progress>,
    started: Instant,
}

/// What the server said at the end.
struct Ended {
    stop: BackupStop,
    label: BackupLabel,
}

impl Run<'_> {
    async fn to_the_end(&self, id: &BackupId, record: &mut Backup, interrupt: &mut Interrupt) -> Result<BackupDone> {
        let copy = Arc::new(self.copy_of(id, interrupt)?);
        let mut phases = vec![("checkpoint", self.started.elapsed())];
        let copying = Instant::now();
        self.progress.phase("copy", self.facts.cluster_size_bytes.unwrap_or(0));
        let mut parts = self.attended(interrupt, &copy, Copy::run).await?;
        phases.push(("copy", copying.elapsed()));

        let stopping = Instant::now();
        self.progress.phase("stop", 0);
        // A backup of a standby is consistent only if the control file is copied after everything else.
        let control = pg_control::read_consistent(&control_file(&self.pgdata))?;
        let stop = base_backup::stop(self.session, self.facts).await?;
        let last = self.last_files(control, &stop)?;
        let ended = Ended { label: BackupLabel::parse(&stop.label)?, stop };
        parts.push(self.attended(interrupt, &copy, move |copy| copy.last_tar(&last)).await?);
        phases.push(("stop", stopping.elapsed()));

        let waiting = Instant::now();
        self.progress.phase("wal", 0);
        let ranges = self.wal_ranges(&ended)?;
        let needed = self.needed_wal(ranges.clone());
        let wal = tokio::select! {
            wal = needed.ensure() => wal?,
            stopped = interrupt.signalled() => return Err(stopped),
        };
        phases.push(("wal", waiting.elapsed()));

        let committing = Instant::now();
        self.progress.phase("commit", 0);
        let manifest = self.attended(interrupt, &copy, move |copy| copy.finish_manifest(&ranges)).await?;
        let manifest_bytes = manifest.bytes;
        parts.sort_by(|a, b| a.name.cmp(&b.name));
        self.complete(record, &ended, &phases);
        let index = self.index_of(&ended, record, parts, manifest);
        let json = index.to_json()?;
        self.archive.store.put(&self.archive.prefix.part_index(id), json.into(), &Metadata::new()).await?;
        let info = backup_info::write(record);
        self.archive.store.put(&self.archive.prefix.backup_info(id), info.into(), &Metadata::new()).await?;
        phases.push(("commit", committing.elapsed()));
        Ok(BackupDone {
            backup: record.clone(),
            content_bytes: copy.content_bytes.load(Ordering::Relaxed),
            files: index.parts.iter().map(|part| part.files).sum(),
            stored_bytes: index.parts.iter().map(|part| part.bytes).sum::<u64>() + manifest_bytes,
            parts: index.parts.len(),
            wal,
            phases,
        })
    }

    fn index_of(&self, ended: &Ended, record: &Backup, parts: Vec<Part>, manifest: ManifestObject) -> PartIndex {
        let Ended { stop, label } = ended;
        let size = self.facts.segment_size;
        PartIndex {
            schema: SCHEMA,
            backup_id: record.id.clone(),
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

    fn copy_of(&self, id: &BackupId, interrupt: &Interrupt) -> Result<Copy> {
        let runtime = Handle::current();
        let parts_bytes = (self.request.jobs + 1) * PARTS_IN_MEMORY * self.request.part_size_bytes;
        tracing::debug!("parts take at most {parts_bytes} bytes of memory");
        let writer = ManifestWriter::new(self.facts.version, self.facts.system_identifier);
        let sources = self.sources();
        let share = self.facts.cluster_size_bytes.unwrap_or(0) / MOST_TARS;
        Ok(Copy {
            archive: self.archive.clone(),
            id: id.clone(),
            numbers: sources.iter().map(|_| AtomicU32::new(0)).collect(),
            content_bytes: AtomicU64::new(0),
            sources,
            jobs: self.request.jobs,
            compression: self.request.compression,
            level: self.request.level,
            limits: UploadLimits {
                part_size_bytes: self.request.part_size_bytes,
                rate: RateLimit::new(self.request.max_rate_bytes_per_s),
                interrupt: interrupt.clone(),
            },
            tar_size_bytes: TAR_SIZE_BYTES.max(share),
            interrupt: interrupt.clone(),
            progress: Arc::clone(&self.progress),
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
        sources.push(Source {
            family: PartFamily::Data,
            root: WalkRoot::data_directory(&self.pgdata, self.facts.version, locations).without(replaced),
            manifest_prefix: String::new(),
        });
        sources
    }

    /// The configuration from elsewhere, then the control file, the backup label last.
    fn last_files(&self, control: pg_control::ControlFile, stop: &BackupStop) -> Result<Vec<LastFile>> {
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
        }
    }

    fn complete(&self, record: &mut Backup, ended: &Ended, phases: &[(&'static str, Duration)]) {
        let Ended { stop, label } = ended;
        let size = self.facts.segment_size;
        // Where replay begins is what the label says, and nothing that was asked beside the start.
        record.timeline = Some(label.start_timeline);
        record.begin_lsn = Some(label.start_lsn);
        record.begin_segment = Some(label.start_segment);
        record.status = BackupStatus::Done;
        record.name = self.request.name.as_ref().map(|name| name.as_str().to_owned());
        record.end_lsn = Some(stop.lsn);
        // Barman 3.19.1 names the segment that *holds* the end LSN, the next one when it lies on a boundary.
        record.end_segment = Some(SegmentName::from_number(stop.timeline, size.segment_of(stop.lsn), size));
        record.end_time = Some(stop.time);
        record.backup_label = Some(stop.label.clone());
        let seconds = |name: &str| {
            phases.iter().filter(|(phase, _)| *phase == name).map(|(_, took)| took.as_secs_f64()).sum::<f64>()
        };
        record.copy_stats = Some(CopyStats {
            total_time_s: self.started.elapsed().as_secs_f64(),
            number_of_workers: u32::try_from(self.request.jobs).unwrap_or(u32::MAX),
            copy_time_s: seconds("copy"),
            serialized_copy_time_s: seconds("copy"),
            ..CopyStats::default()
        });
    }
}

fn control_file(pgdata: &Path) -> PathBuf {
    pgdata.join("global/pg_control")
}

/// The server and the directory must be the same cluster: a stale mount would be backed up without a word.
fn check_data_directory(request: &BackupRequest, facts: &ServerFacts) -> Result<PathBuf> {
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
    Ok(pgdata)
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

/// Records STARTED under an id nobody has: two clients in one second must not share a directory.
async fn claim_id(
    archive: &Archive,
    request: &BackupRequest,
    facts: &ServerFacts,
    start: &BackupStart,
) -> Result<(BackupId, Backup)> {
    const TRIES: i64 = 10;
    for later in 0..TRIES {
        let id = BackupId::from_time(request.now + chrono::TimeDelta::seconds(later));
        let record = started(&id, facts, start);
        let key = archive.prefix.backup_info(&id);
        let info = backup_info::write(&record);
        let probe = archive.prefix.dialect_probe();
        let put = archive.store.put_new(&key, info.clone().into(), &Metadata::new(), &probe).await?;
        // The answer to our own put may have been lost: two backups never begin in the same microsecond.
        if put == Put::Created || archive.store.get(&key, catalog::BACKUP_INFO_LIMIT_BYTES).await?.content == info {
            return Ok((id, record));
        }
        tracing::info!("backup id {id} is taken, trying the next second");
    }
    Err(Error::new(ErrorKind::Conflict, format!("could not find a free backup id in {TRIES} s from {}", request.now)))
}

fn started(id: &BackupId, facts: &ServerFacts, start: &BackupStart) -> Backup {
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
        timeline: Some(start.timeline),
        begin_lsn: Some(start.lsn),
        begin_segment: Some(SegmentName::from_number(start.timeline, size.segment_of(start.lsn), size)),
        begin_time: Some(start.time),
        segment_size: size,
        cluster_size_bytes: facts.cluster_size_bytes,
        data_checksums: Some(facts.data_checksums),
        tablespaces: facts.tablespaces.clone(),
        summarize_wal: facts.summarize_wal.clone(),
        ..Backup::new(id.clone())
    }
}

/// Says FAILED in the catalogue. The first error is the one that is returned; a record that could not be written
/// leaves STARTED, which is no more restorable.
async fn record_failure(archive: &Archive, mut record: Backup, error: Error) -> Error {
    record.status = BackupStatus::Failed;
    record.error = Some(error.to_string().lines().next().unwrap_or_default().to_owned());
    let info = backup_info::write(&record).into();
    let key = archive.prefix.backup_info(&record.id);
    if let Err(unrecorded) = archive.store.put(&key, info, &Metadata::new()).await {
        tracing::warn!("the backup stays recorded as STARTED: {unrecorded}");
    }
    error.context(format!("could not take base backup \"{}\"", record.id))
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
