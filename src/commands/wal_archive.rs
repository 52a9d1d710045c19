//! The first way: one WAL file from `pg_wal` into the archive.

use std::path::{Path, PathBuf};

use crate::commands::archive::{Archive, Archived, WalCompression};
use crate::domain::segment::WalFileName;
use crate::error::{Error, Result};

/// What `archive_command` asks for.
#[derive(Debug, Clone)]
pub struct WalArchiveRequest {
    /// The file, as PostgreSQL's `%p` gives it; its last component is the WAL name.
    pub path: PathBuf,
    /// How to store it.
    pub compression: WalCompression,
}

/// Archives one WAL file. One request to the store when all is well.
///
/// When this returns, the store has confirmed the object. Errors: see [`Archive::archive_file`]; `Usage` for a path
/// whose last component is no WAL name.
pub async fn wal_archive(archive: &Archive, request: &WalArchiveRequest) -> Result<Archived> {
    let name = wal_name(&request.path)?;
    archive
        .archive_file(&name, &request.path, request.compression)
        .await
        .map_err(|error| error.context(format!("could not archive WAL file \"{name}\"")))
}

fn wal_name(path: &Path) -> Result<WalFileName> {
    let refuse = || Error::usage(format!("\"{}\" does not end in the name of a WAL file", path.display()));
    path.file_name().and_then(|name| name.to_str()).ok_or_else(refuse)?.parse().map_err(|_| refuse())
}
