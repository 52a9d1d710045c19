//! What every restore does with the parts of a backup: it fetches them into place, links the tablespaces, and seals the
//! directory when all else is done.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::commands::archive::Archive;
use crate::commands::extract::{Extraction, Leftover, Modes};
use crate::commands::interrupt::Interrupt;
use crate::commands::object_stream::PartToFetch;
use crate::commands::ownership::Owner;
use crate::commands::progress::Progress;
use crate::commands::rate_limit::RateLimit;
use crate::disk::beneath::{Beneath, Standing};
use crate::domain::backup::{Backup, BackupId, Tablespace};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::PartFamily;

/// Where a backup's files go: directories that were opened once, and below which everything is written.
#[derive(Debug)]
pub(crate) struct Destination {
    /// The data directory.
    pub(crate) data: Arc<Beneath>,
    /// Where each tablespace goes, by its OID.
    tablespaces: Vec<(u32, Arc<Beneath>)>,
}

/// How its parts are fetched.
pub(crate) struct Fetch {
    pub(crate) parts: Vec<PartToFetch>,
    pub(crate) jobs: usize,
    pub(crate) rate: RateLimit,
    pub(crate) modes: Modes,
    pub(crate) progress: Arc<Progress>,
}

impl Destination {
    /// Makes the directories where they are not there, and opens them.
    ///
    /// Errors: `Local`, also for one that is not empty: somebody may have come after the checks that said it was.
    pub(crate) fn open(directory: &Path, tablespaces: &[(Tablespace, PathBuf)]) -> Result<Self> {
        let make = |path: &Path| {
            let made = Beneath::make(path)?;
            if made.is_empty()? {
                made.set_mode(0o700)?;
                return Ok(Arc::new(made));
            }
            let message = format!("could not use directory \"{}\": it is not empty", path.display());
            Err(Error::new(ErrorKind::Local, message))
        };
        let data = make(directory)?;
        let made = tablespaces.iter().map(|(tablespace, target)| Ok((tablespace.oid, make(target)?)));
        Ok(Self { data, tablespaces: made.collect::<Result<_>>()? })
    }

    /// Unpacks every part, all but what [`Destination::seal`] is for.
    pub(crate) async fn fetch(&self, archive: &Archive, fetch: Fetch, interrupt: &mut Interrupt) -> Result<Leftover> {
        let tablespaces = self.tablespaces.iter().map(|(oid, root)| (PartFamily::Tablespace(*oid), Arc::clone(root)));
        let roots: BTreeMap<_, _> = tablespaces.chain([(PartFamily::Data, Arc::clone(&self.data))]).collect();
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
        let mut cursor = self.data.cursor();
        names.iter().map(Path::new).try_for_each(|name| {
            let made = cursor.directory_if_missing(name, 0o700);
            made.map_err(|cause| Error::local("create directory", &cursor.full(name), cause))
        })
    }

    /// Links the tablespaces into the data directory.
    pub(crate) fn link_tablespaces(&self) -> Result<()> {
        let mut cursor = self.data.cursor();
        for (oid, root) in &self.tablespaces {
            let link = Path::new("pg_tblspc").join(oid.to_string());
            let made = cursor.symlink(root.path(), &link);
            made.map_err(|cause| Error::local("create link", &cursor.full(&link), cause))?;
        }
        Ok(())
    }

    /// The label comes with the parts; a backup that keeps it in `backup.info` alone gets it from there.
    pub(crate) fn put_backup_label(&self, backup: &Backup) -> Result<()> {
        let (path, mut cursor) = (Path::new("backup_label"), self.data.cursor());
        let full = cursor.full(path);
        match cursor.standing(path).map_err(|cause| Error::local("look at", &full, cause))? {
            None => {}
            Some(Standing::File) => return Ok(()),
            Some(_) => {
                return Err(Error::corrupt(format!("could not use \"{}\": it is no regular file", full.display())));
            }
        }
        let label = backup.backup_label.as_ref().ok_or_else(|| {
            Error::corrupt("could not finish the restore: the backup holds no backup_label")
                .with_hint("Without it PostgreSQL would start from a wrong checkpoint.")
        })?;
        cursor.publish(path, label.as_bytes(), |_| Ok(()))
    }

    /// Makes everything durable and, last of all, puts `global/pg_control` in place: from then on a server can start.
    ///
    /// Errors: `Local`; `Corrupt` for a backup without a control file.
    pub(crate) fn seal(&self, leftover: &Leftover) -> Result<()> {
        let no_control = || Error::corrupt("could not finish the restore: the backup holds no global/pg_control");
        let control = leftover.control.as_ref().ok_or_else(no_control)?;
        let owner = self.make_durable(leftover)?;
        self.data.cursor().publish(Path::new("global/pg_control"), &control.content, |file| {
            file.set_permissions(PermissionsExt::from_mode(control.mode))?;
            owner.map_or(Ok(()), |owner| owner.take_file(file))
        })
    }

    /// Gives everything to its owner and onto the disk.
    pub(crate) fn make_durable(&self, leftover: &Leftover) -> Result<Option<Owner>> {
        let owner = Owner::wanted(&self.data, leftover.owner);
        for root in self.tablespaces.iter().map(|(_, root)| root).chain([&self.data]) {
            owner.map_or(Ok(()), |owner| owner.take_all(root))?;
            root.sync_file_system()?;
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
