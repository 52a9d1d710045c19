//! A backup's files laid down as they were, and nothing more: the restore of `barman-cloud-restore`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::commands::archive::Archive;
use crate::commands::backup_records::prove_bucket;
use crate::commands::catalog;
use crate::commands::extract::Modes;
use crate::commands::interrupt::Interrupt;
use crate::commands::parts;
use crate::commands::progress::Progress;
use crate::commands::rate_limit::RateLimit;
use crate::commands::target_directory;
use crate::commands::unpack::{self, Destination, Fetch};
use crate::domain::backup::{Backup, BackupStatus, Tablespace};
use crate::domain::barman_choice::{self, Refusal, Wanted};
use crate::error::{Error, Result};
use crate::layout::keys::PartFamily;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct LayDownRequest {
    /// Which backup.
    pub wanted: Wanted,
    /// The directory to fill: absent or empty.
    pub directory: PathBuf,
    /// Tablespaces that go elsewhere, by name; names that the backup does not know are passed over.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// Parts fetched at the same time.
    pub jobs: usize,
    /// Whether a backup that is not complete is laid down all the same, as Barman 3.19.1 does.
    pub any_status: bool,
}

/// A backup that was laid down.
#[derive(Debug)]
pub struct LaidDown {
    /// Which one.
    pub backup: Backup,
    /// Files written.
    pub files: u64,
    /// Bytes of content written.
    pub content_bytes: u64,
}

/// Why nothing, or not everything, was laid down.
#[derive(Debug)]
pub enum LayDownFailure {
    /// The answer is no. Nothing was touched.
    Refused(Refusal),
    /// Something went wrong. The directory, if it was made, has no control file.
    Failed(Error),
}

impl From<Refusal> for LayDownFailure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for LayDownFailure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Lays a backup down: its files as they are in the tars, tablespaces linked, `pg_wal` made where it is missing. No
/// settings are written, none are taken out, and no target is checked.
///
/// `global/pg_control` is put in place last, when everything else is durable: what is not finished does not start.
/// Requests: by id one read, else a listing of the backups and one read for each; a listing of the backup, and its parts.
/// Needs a multi-threaded runtime. Errors: [`Refusal`]s for what Barman answers with a text of its own; `Corrupt`,
/// `Unreachable`, `Denied`, `Local`, `Interrupted`.
pub async fn lay_down(
    archive: &Archive,
    request: &LayDownRequest,
    progress: Arc<Progress>,
) -> Result<LaidDown, LayDownFailure> {
    let backup = choose(archive, request).await?;
    tracing::info!("restoring from backup {}", backup.id);
    check_usable(&backup, request)?;
    refuse_full(&request.directory)?;
    let present = parts::list(archive, &backup).await?;
    if let Some(family) = parts::missing_family(archive, &backup, &present) {
        let base = format!("{}{family}", archive.prefix.backup_dir(&backup.id));
        return Err(Refusal::MissingFile(base).into());
    }
    let directory = target_directory::absolute(&request.directory)?;
    let tablespaces = map_tablespaces(&backup, request)?;
    for (_, target) in &tablespaces {
        refuse_full(target)?;
    }
    let mut found = parts::find_among(archive, &backup, &present).await?.parts;
    // Barman's backups may lie beside tars of tablespaces that their record does not know; it passes over these.
    let is_known = |family: PartFamily| match family {
        PartFamily::Data => true,
        PartFamily::Tablespace(oid) => tablespaces.iter().any(|(tablespace, _)| tablespace.oid == oid),
    };
    found.retain(|part| is_known(part.family));
    let mut interrupt = Interrupt::listen()?;
    let destination = Destination::open(&directory, &tablespaces)?;
    progress.phase("fetch", backup.cluster_size_bytes.unwrap_or(0));
    let fetch = Fetch {
        parts: found,
        jobs: request.jobs,
        rate: RateLimit::default(),
        modes: Modes::OfSource,
        progress: Arc::clone(&progress),
    };
    let unfinished = |error| unpack::unfinished(error, &backup.id, &directory);
    let leftover = destination.fetch(archive, fetch, &mut interrupt).await.map_err(unfinished)?;
    progress.phase("finish", 0);
    destination.create_missing(&[wal_directory(&backup), "pg_tblspc"]).map_err(unfinished)?;
    destination.link_tablespaces().map_err(unfinished)?;
    if backup.status == BackupStatus::Done {
        destination.put_backup_label(&backup).and_then(|()| destination.seal(&leftover)).map_err(unfinished)?;
    } else if leftover.control.is_some() {
        destination.seal(&leftover).map_err(unfinished)?;
    } else {
        destination.make_durable(&leftover).map_err(unfinished)?;
    }
    Ok(LaidDown { files: leftover.files, content_bytes: leftover.content_bytes, backup })
}

/// One backup that is named by its id is read alone: what is wrong with others does not concern it.
async fn choose(archive: &Archive, request: &LayDownRequest) -> Result<Backup, LayDownFailure> {
    if let Wanted::Id(id) = &request.wanted {
        let Some(backup) = catalog::read(archive, id).await? else {
            prove_bucket(archive).await?;
            return Err(Refusal::NoSuchBackup(id.clone()).into());
        };
        return Ok(backup);
    }
    let loaded = catalog::load(archive).await?;
    for (id, error) in &loaded.unreadable {
        tracing::warn!("Unable to open backup.info file for {id}: {error}");
    }
    let newest =
        if request.wanted.asks_for_newest_timeline() { catalog::newest_timeline(archive).await? } else { None };
    let chosen = barman_choice::choose(&request.wanted, &loaded.catalog, newest, request.any_status)?;
    Ok(chosen.clone())
}

fn check_usable(backup: &Backup, request: &LayDownRequest) -> Result<(), Refusal> {
    if backup.is_snapshot {
        return Err(Refusal::Snapshot(backup.id.clone()));
    }
    if backup.status != BackupStatus::Done && !request.any_status {
        return Err(Refusal::NotDone(backup.id.clone(), backup.status.clone()));
    }
    Ok(())
}

/// Where each tablespace goes: where it was, or, with links resolved, where the request says.
fn map_tablespaces(backup: &Backup, request: &LayDownRequest) -> Result<Vec<(Tablespace, PathBuf)>> {
    let mut known = BTreeMap::new();
    for (name, place) in &request.tablespaces {
        if backup.tablespaces.iter().any(|tablespace| tablespace.name == *name) {
            known.insert(name.clone(), target_directory::resolved(&target_directory::absolute(place)?));
        }
    }
    target_directory::map_tablespaces(&backup.tablespaces, &known, None)
}

fn refuse_full(directory: &Path) -> Result<(), LayDownFailure> {
    let is_full = match std::fs::read_dir(directory) {
        Ok(entries) => entries.take(1).count() > 0,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => false,
        Err(cause) => return Err(Error::local("look into directory", directory, cause).into()),
    };
    if is_full { Err(Refusal::NotEmpty(directory.to_owned()).into()) } else { Ok(()) }
}

/// Version 10 renamed it.
fn wal_directory(backup: &Backup) -> &'static str {
    if backup.version.is_some_and(|version| version.major() < 10) { "pg_xlog" } else { "pg_wal" }
}
