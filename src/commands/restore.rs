//! The fourth way: a data directory restored from a base backup, ready to replay WAL to a chosen moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use crate::commands::archive::Archive;
use crate::commands::catalog;
use crate::commands::extract::{Leftover, Modes, fetch_file};
use crate::commands::interrupt::Interrupt;
use crate::commands::last_commit::{LastCommit, Outlook, outlook};
use crate::commands::parts::{self, BackupParts};
use crate::commands::progress::Progress;
use crate::commands::rate_limit::RateLimit;
use crate::commands::target_directory::{self, Spaces};
use crate::commands::unpack::{self, Destination, Fetch};
use crate::disk::beneath::{Cursor, Standing};
use crate::domain::backup::{BackupStatus, Tablespace};
use crate::domain::recovery_target::TargetRequest;
use crate::domain::restore_plan::{PlanInput, RestorePlan, plan};
use crate::error::{Error, Result};
use crate::layout::part_index::DamagedFile;
use crate::postgres::settings;

/// What a restore is asked for.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The directory to fill: absent or empty.
    pub directory: PathBuf,
    /// Which backup, by id, name, `latest` or `oldest`; chosen for the target when none.
    pub backup: Option<String>,
    /// The moment, and what to do there.
    pub target: TargetRequest,
    /// Tablespaces that go elsewhere, by name.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// Where all others go, each into a directory of its own; each where it was when none.
    pub tablespaces_below: Option<PathBuf>,
    /// Parts fetched at the same time.
    pub jobs: usize,
    /// The most to read from the store, in bytes per second, all parts together.
    pub max_rate_bytes_per_s: Option<u64>,
    /// Whether recovery settings are written; without them the files are only laid down.
    pub with_recovery: bool,
    /// Whether the copy keeps its archive settings instead of `archive_mode = off`.
    pub keep_archiving: bool,
    /// The `restore_command` to write, `%f` and `%p` included.
    pub restore_command: String,
    /// PostgreSQL's programs that will run the copy, if known: their major version is checked.
    pub pg_bindir: Option<PathBuf>,
    /// Now.
    pub now: DateTime<Utc>,
}

/// A restore that was decided and checked, and has touched nothing.
#[derive(Debug)]
pub struct PreparedRestore {
    /// Which backup, timeline and window.
    pub plan: RestorePlan,
    /// The directory, absolute.
    pub directory: PathBuf,
    /// Where each tablespace goes.
    pub tablespaces: Vec<(Tablespace, PathBuf)>,
    /// Settings that will stand in `postgresql.auto.conf`.
    pub settings: Vec<(String, String)>,
    /// Space needed and free, where known.
    pub spaces: Spaces,
    /// Bytes to fetch.
    pub stored_bytes: u64,
    /// Parts to fetch.
    pub parts: usize,
    /// The last commit in the archive, where the target is a time.
    pub last_commit: Option<LastCommit>,
    /// What was checked, in words.
    pub checks: Vec<String>,
    fetch: BackupParts,
}

/// A finished restore.
#[derive(Debug)]
pub struct RestoreDone {
    /// What was planned, and is now so.
    pub prepared: PreparedRestore,
    /// Files written.
    pub files: u64,
    /// Bytes of content written.
    pub content_bytes: u64,
    /// How long each phase took.
    pub phases: Vec<(&'static str, Duration)>,
}

/// Files that PostgreSQL or an earlier recovery left in the source and that would mislead the copy.
const LEFTOVERS: [&str; 6] =
    ["recovery.signal", "standby.signal", "postmaster.pid", "postmaster.opts", "tablespace_map", "recovery.conf"];

/// Directories a server insists on, whose content no backup carries.
const EMPTY_DIRECTORIES: [&str; 12] = [
    "pg_wal",
    "pg_wal/archive_status",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
];

/// What must not stand in the copy's `postgresql.conf`: paths of the source. Settings of an earlier recovery must not
/// either: a target would count as a second one, and `archive_cleanup_command` would delete from another's archive.
const MISLEADING_SETTINGS: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];

/// No configuration file is longer than this.
const CONFIGURATION_LIMIT_BYTES: u64 = 16 << 20;

/// What a restore is made of, wherever it goes.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Which backup, timeline and window.
    pub(crate) plan: RestorePlan,
    /// When the complete backups ended, in order.
    pub(crate) backup_times: Vec<DateTime<Utc>>,
    last_commit: Option<LastCommit>,
    checks: Vec<String>,
    fetch: BackupParts,
}

impl Chosen {
    /// Bytes to fetch.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.fetch.parts.iter().map(|part| part.bytes).sum()
    }

    /// Pages that the backup found damaged already when it read them.
    pub(crate) fn damaged(&self) -> &[DamagedFile] {
        &self.fetch.damaged
    }
}

/// Decides what to restore and checks all that can be checked; touches nothing.
///
/// Requests: a listing of the backups and of the WAL, one small read for each backup and timeline history, one for
/// the index; for a target that is a time, one to four segments. Errors: `NotFound` for a target outside the window, naming
/// both ends, or for a time after the last commit; `Mismatch` for other versions;
/// `Corrupt` for a backup whose parts are not all there; `Local` for a directory that cannot be used.
pub async fn prepare(archive: &Archive, request: &RestoreRequest) -> Result<PreparedRestore> {
    place(choose(archive, request).await?, request)
}

/// The part of [`prepare`] that is about this host.
pub(crate) fn place(chosen: Chosen, request: &RestoreRequest) -> Result<PreparedRestore> {
    let stored_bytes = chosen.stored_bytes();
    let Chosen { plan, last_commit, mut checks, fetch, backup_times: _ } = chosen;
    let directory = target_directory::absolute(&request.directory)?;
    let (wanted, below) = (&request.tablespaces, request.tablespaces_below.as_deref());
    let tablespaces = target_directory::map_tablespaces(&plan.backup.tablespaces, wanted, below)?;
    target_directory::check_empty(&directory, &tablespaces)?;
    checks.push("the directory is empty or absent, and no server runs on it".to_owned());
    let spaces = target_directory::check_space(&directory, &tablespaces, &plan.backup, fetch.content_bytes())?;
    if let (Some(bindir), Some(version)) = (&request.pg_bindir, plan.backup.version) {
        target_directory::check_binaries(bindir, version)?;
        checks.push(format!("the binaries in \"{}\" are of major version {}", bindir.display(), version.major()));
    }
    let settings = recovery_settings(&plan, request);
    let parts = fetch.parts.len();
    Ok(PreparedRestore {
        plan,
        directory,
        tablespaces,
        settings,
        spaces,
        stored_bytes,
        parts,
        last_commit,
        checks,
        fetch,
    })
}

/// The part of [`prepare`] that has nothing to do with this host: which backup leads to the target, and whether it is all there.
pub(crate) async fn choose(archive: &Archive, request: &RestoreRequest) -> Result<Chosen> {
    let mut loaded = catalog::load(archive).await?;
    if let Some(error) = request.backup.as_deref().and_then(|word| loaded.take_unreadable(word)) {
        return Err(error);
    }
    for (_, error) in &loaded.unreadable {
        tracing::warn!("{error}; this backup is left out of account");
    }
    let (inventory, histories) = catalog::read_wal(archive).await?;
    let done = loaded.catalog.backups().iter().filter(|backup| backup.status == BackupStatus::Done);
    let mut backup_times: Vec<_> = done.filter_map(|backup| backup.end_time).map(|time| time.to_utc()).collect();
    backup_times.sort();
    let mut plan = plan(&PlanInput {
        catalog: loaded.catalog,
        inventory,
        histories,
        request: request.target.clone(),
        backup: request.backup.clone(),
        now: request.now,
    })?;
    plan.warnings
        .extend(loaded.unreadable.iter().map(|(id, _)| format!("backup \"{id}\" cannot be read and was left out")));
    let mut checks = vec!["the target lies inside the recoverable window".to_owned()];
    let outlook = if request.with_recovery { outlook(archive, &mut plan).await? } else { Outlook::NotAsked };
    let last_commit = match outlook {
        Outlook::Stops(last_commit) => {
            checks.push("a transaction ended after the target, where recovery will stop".to_owned());
            last_commit
        }
        Outlook::Unknown | Outlook::NotAsked => None,
    };
    let fetch = parts::find(archive, &plan.backup).await?;
    checks.push(format!("all {} parts of the backup are in the store, with their sizes", fetch.parts.len()));
    Ok(Chosen { plan, backup_times, last_commit, checks, fetch })
}

/// Carries a prepared restore out: fetches and verifies the parts, writes the recovery settings, and puts
/// `global/pg_control` in place last of all, so that a directory that is not finished never starts.
///
/// Durable when it returns. Needs a multi-threaded runtime. Errors: `Corrupt` for a part that is damaged,
/// `Unreachable`, `Denied`, `Local`, `Interrupted`; the directory is then left without a control file.
pub async fn restore(
    archive: &Archive,
    request: &RestoreRequest,
    prepared: PreparedRestore,
    progress: Arc<Progress>,
) -> Result<RestoreDone> {
    let mut interrupt = Interrupt::listen()?;
    let begun = Instant::now();
    progress.phase("fetch", prepared.plan.backup.cluster_size_bytes.unwrap_or(0));
    let fetch = Fetch {
        parts: prepared.fetch.parts.clone(),
        jobs: request.jobs,
        rate: RateLimit::new(request.max_rate_bytes_per_s),
        modes: Modes::ForPostgres,
        progress: Arc::clone(&progress),
    };
    let unfinished = |error| unpack::unfinished(error, &prepared.plan.backup.id, &prepared.directory);
    let destination = Destination::open(&prepared.directory, &prepared.tablespaces)?;
    let leftover = destination.fetch(archive, fetch, &mut interrupt).await.map_err(unfinished)?;
    let mut phases = vec![("fetch", begun.elapsed())];
    let finishing = Instant::now();
    progress.phase("finish", 0);
    if let Some(manifest) = &prepared.fetch.manifest {
        let (archive, manifest, runtime) = (archive.clone(), manifest.clone(), Handle::current());
        let (root, name) = (Arc::clone(&destination.data), Path::new("backup_manifest"));
        let fetching = tokio::task::spawn_blocking(move || fetch_file(&runtime, &archive, &manifest, (&root, name)));
        fetching.await.map_err(unpack::died)??;
    }
    finish(request, &prepared, &destination, &leftover)?;
    phases.push(("finish", finishing.elapsed()));
    Ok(RestoreDone { files: leftover.files, content_bytes: leftover.content_bytes, phases, prepared })
}

fn recovery_settings(plan: &RestorePlan, request: &RestoreRequest) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    if request.with_recovery {
        settings.push(("restore_command".to_owned(), request.restore_command.clone()));
        let targets = plan.request.settings(plan.timeline);
        settings.extend(targets.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    if !request.keep_archiving {
        // A clone that archives into its source's archive destroys it.
        settings.push(("archive_mode".to_owned(), "off".to_owned()));
    }
    settings
}

/// One request of a restore moves at most this much.
pub const REQUEST_BYTES: u64 = crate::commands::object_stream::READ_BYTES;

/// Everything after the last part, in the order in which it must become durable.
fn finish(
    request: &RestoreRequest,
    prepared: &PreparedRestore,
    destination: &Destination,
    leftover: &Leftover,
) -> Result<()> {
    let mut cursor = destination.data.cursor();
    for name in LEFTOVERS.map(Path::new) {
        cursor.remove(name).map_err(|cause| Error::local("remove file", &cursor.full(name), cause))?;
    }
    destination.create_missing(&EMPTY_DIRECTORIES)?;
    destination.link_tablespaces()?;
    destination.put_backup_label(&prepared.plan.backup)?;
    write_settings(request, prepared, &mut cursor)?;
    destination.seal(leftover)
}

fn write_settings(request: &RestoreRequest, prepared: &PreparedRestore, cursor: &mut Cursor<'_>) -> Result<()> {
    let configuration = Path::new("postgresql.conf");
    let mut ours = prepared.settings.clone();
    let text = read_configuration(cursor, configuration)?;
    // A link is PostgreSQL's to follow, with the rights of its user: we read what it leads to as little as we write there.
    let is_link = text.is_none() && stands(cursor, configuration)? == Some(Standing::Link);
    if is_link {
        tracing::warn!(
            "the copy's postgresql.conf is a symbolic link: paths of the source are left in what it leads to"
        );
    }
    if request.with_recovery && (is_link || text.as_deref().is_some_and(settings::includes_others)) {
        let others =
            settings::NO_RECOVERY_SETTINGS.into_iter().filter(|(name, _)| ours.iter().all(|(our, _)| our != name));
        let others: Vec<_> = others.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        ours.splice(..0, others);
    }
    if let Some(text) = text {
        let (text, removed) = settings::neutralise(&text, &MISLEADING_SETTINGS);
        if !removed.is_empty() {
            tracing::warn!("commented out in the copy's postgresql.conf: {}", removed.join(", "));
            cursor.publish(configuration, text.as_bytes(), |_| Ok(()))?;
        }
    }
    let automatic = Path::new("postgresql.auto.conf");
    let existing = read_configuration(cursor, automatic)?.unwrap_or_default();
    cursor.publish(automatic, settings::auto_conf(&existing, &ours).as_bytes(), |_| Ok(()))?;
    if request.with_recovery {
        cursor.publish(Path::new("recovery.signal"), b"", |_| Ok(()))?;
    }
    Ok(())
}

fn stands(cursor: &mut Cursor<'_>, path: &Path) -> Result<Option<Standing>> {
    cursor.standing(path).map_err(|cause| Error::local("look at", &cursor.full(path), cause))
}

/// The text of a regular file, if there is one.
fn read_configuration(cursor: &mut Cursor<'_>, path: &Path) -> Result<Option<String>> {
    if stands(cursor, path)? != Some(Standing::File) {
        return Ok(None);
    }
    let content = cursor.read_at_most(path, CONFIGURATION_LIMIT_BYTES)?;
    // PostgreSQL reads the file as bytes: a comment in another encoding is no reason to stop.
    Ok(Some(String::from_utf8(content).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())))
}
