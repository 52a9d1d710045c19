//! A plain directory as a store: what a file system does not promise by itself.

use std::path::Path;

use object_store::local::LocalFileSystem;

use super::failure;
use crate::error::{Error, ErrorKind, Result};

/// A directory that is missing is an unreachable store, not an empty one: an unmounted archive must not read as
/// "the WAL ends here". Only its last component is ever created.
pub(super) fn open(root: &Path, may_create: bool) -> Result<LocalFileSystem> {
    if may_create && !root.exists() {
        std::fs::create_dir(root)
            .or_else(|cause| if root.is_dir() { Ok(()) } else { Err(cause) })
            .map_err(|cause| Error::local("create store directory", root, cause).as_kind(ErrorKind::Unreachable))?;
        if let Some(parent) = root.parent() {
            crate::disk::sync_directory(parent).map_err(|cause| Error::local("sync directory", parent, cause))?;
        }
    }
    if !root.is_dir() {
        let message = format!("could not open store \"file://{}\": there is no such directory", root.display());
        return Err(Error::new(ErrorKind::Unreachable, message)
            .with_hint("Is the archive mounted? The first wal-archive or backup creates the last path component."));
    }
    let files = LocalFileSystem::new_with_prefix(root)
        .map_err(|error| failure::describe("open store", &root.display().to_string(), error))?;
    Ok(files.with_fsync(true))
}

/// A file that is there need not be on disk: whoever wrote it may have been killed before the last fsync, or never
/// calls it. Callers say "archived" on the strength of it.
pub(super) fn make_durable(root: &Path, key: &str) -> Result<()> {
    let path = root.join(key);
    let synced = std::fs::File::open(&path).and_then(|file| file.sync_all());
    synced.map_err(|cause| Error::local("sync file", &path, cause))?;
    for directory in path.ancestors().skip(1).take_while(|directory| directory.starts_with(root)) {
        crate::disk::sync_directory(directory).map_err(|cause| Error::local("sync directory", directory, cause))?;
    }
    Ok(())
}

/// An archive has something in it from its first `wal-archive` on.
pub(super) fn refuse_empty(root: &Path) -> Result<()> {
    let failed = |cause| Error::local("read store directory", root, cause).as_kind(ErrorKind::Unreachable);
    if std::fs::read_dir(root).map_err(failed)?.next().is_some() {
        return Ok(());
    }
    let message = format!("could not use store \"file://{}\": there is nothing in the directory", root.display());
    Err(Error::new(ErrorKind::Unreachable, message)
        .with_hint("Is the archive mounted? An empty directory proves no absence; wal-archive puts the first file in."))
}
