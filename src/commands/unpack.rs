//! What every restore does with the parts of a backup: it fetches them into place, links the tablespaces, and seals the
//! directory when all else is done.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::commands::archive::Archive;
use crate::commands::extract::{Extraction, Leftover, Modes, create_directory};
use crate::commands::interrupt::Interrupt;
use crate::commands::object_stream::PartToFetch;
use crate::commands::ownership::Owner;
use crate::commands::progress::Progress;
use crate::commands::rate_limit::RateLimit;
use crate::disk;
use crate::domain::backup::{Backup, BackupId, Tablespace};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::PartFamily;

/// Where a backup's files go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination<'a> {
    /// The data directory.
    pub(crate) directory: &'a Path,
    /// Where each tablespace goes.
    pub(crate) tablespaces: &'a [(Tablespace, PathBuf)],
}

/// How its parts are fetched.
pub(crate) struct Fetch {
    pub(crate) parts: Vec<PartToFetch>,
    pub(crate) jobs: usize,
    pub(crate) rate: RateLimit,
    pub(crate) modes: Modes,
    pub(crate) progress: Arc<Progress>,
}

impl Destination<'_> {
    /// Makes the directories and unpacks every part into them, all but what [`Destination::seal`] is for.
    pub(crate) async fn fetch(&self, archive: &Archive, fetch: Fetch, interrupt: &mut Interrupt) -> Result<Leftover> {
        create_directory(self.directory, 0o700)?;
        let mut roots = BTreeMap::from([(PartFamily::Data, self.directory.to_owned())]);
        for (tablespace, directory) in self.tablespaces {
            create_directory(directory, 0o700)?;
            roots.insert(PartFamily::Tablespace(tablespace.oid), directory.clone());
        }
        let extraction = Extraction {
            archive: archive.clone(),
            parts: largest_first(fetch.parts),
            roots,
            jobs: fetch.jobs,
            modes: fetch.modes,
            rate: fetch.rate,
            interrupt: interrupt.clone(),
            progress: fetch.progress,
            runtime: Handle::current(),
        };
        let mut working = tokio::task::spawn_blocking(move || extraction.run());
        tokio::select! {
            outcome = &mut working => outcome.map_err(died)?,
            stopped = interrupt.signalled() => {
                interrupt.stop();
                let outcome = working.await;
                tracing::debug!("the restore stopped: {}", outcome.is_ok());
                Err(stopped)
            }
        }
    }

    /// Makes the directories called `names` where they are not there.
    pub(crate) fn create_missing(&self, names: &[&str]) -> Result<()> {
        let missing = names.iter().map(|name| self.directory.join(name)).filter(|path| !path.is_dir());
        missing.into_iter().try_for_each(|path| create_directory(&path, 0o700))
    }

    /// Links the tablespaces into the data directory.
    pub(crate) fn link_tablespaces(&self) -> Result<()> {
        for (tablespace, target) in self.tablespaces {
            let link = self.directory.join("pg_tblspc").join(tablespace.oid.to_string());
            std::os::unix::fs::symlink(target, &link).map_err(|cause| Error::local("create link", &link, cause))?;
        }
        Ok(())
    }

    /// The label comes with the parts; a backup that keeps it in `backup.info` alone gets it from there.
    pub(crate) fn put_backup_label(&self, backup: &Backup) -> Result<()> {
        let path = self.directory.join("backup_label");
        if path.exists() {
            return Ok(());
        }
        let label = backup.backup_label.as_ref().ok_or_else(|| {
            Error::corrupt("could not finish the restore: the backup holds no backup_label")
                .with_hint("Without it PostgreSQL would start from a wrong checkpoint.")
        })?;
        disk::publish(&path, label.as_bytes())
    }

    /// Makes everything durable and, last of all, puts `global/pg_control` in place: from then on a server can start.
    ///
    /// Errors: `Local`; `Corrupt` for a backup without a control file.
    pub(crate) fn seal(&self, leftover: &Leftover) -> Result<()> {
        let no_control = || Error::corrupt("could not finish the restore: the backup holds no global/pg_control");
        let control = leftover.control.as_ref().ok_or_else(no_control)?;
        let owner = self.make_durable(leftover)?;
        let control_file = self.directory.join("global/pg_control");
        disk::publish(&control_file, &control.content)?;
        std::fs::set_permissions(&control_file, Permissions::from_mode(control.mode))
            .map_err(|cause| Error::local("set permissions of", &control_file, cause))?;
        owner.map_or(Ok(()), |owner| owner.take(&control_file))
    }

    /// Gives everything to its owner and onto the disk.
    pub(crate) fn make_durable(&self, leftover: &Leftover) -> Result<Option<Owner>> {
        let owner = Owner::wanted(self.directory, leftover.owner);
        let targets = self.tablespaces.iter().map(|(_, target)| target.as_path());
        for place in targets.chain([self.directory]) {
            owner.map_or(Ok(()), |owner| owner.take_all(place))?;
            sync_file_system(place)?;
        }
        Ok(owner)
    }
}

/// What is said of a restore that broke off.
pub(crate) fn unfinished(error: Error, id: &BackupId, directory: &Path) -> Error {
    let hint = format!("\"{}\" is unfinished and cannot start: empty it and try again.", directory.display());
    let hint = error.hint().map_or(hint.clone(), |first| format!("{first} {hint}"));
    error.context(format!("could not restore backup \"{id}\"")).with_hint(hint)
}

#[allow(clippy::needless_pass_by_value, reason = "used with map_err")]
pub(crate) fn died(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Bug, format!("the restore failed: {error}"))
}

/// The longest parts first, so that no worker is left alone with one at the end.
fn largest_first(mut parts: Vec<PartToFetch>) -> Vec<PartToFetch> {
    parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.key.cmp(&b.key)));
    parts
}

/// One call for thousands of files; Linux reports write-back errors from it since 5.8.
fn sync_file_system(directory: &Path) -> Result<()> {
    let failed = |cause| Error::local("sync the file system of", directory, cause);
    let handle = File::open(directory).map_err(failed)?;
    rustix::fs::syncfs(&handle).map_err(|cause| failed(cause.into()))
}
