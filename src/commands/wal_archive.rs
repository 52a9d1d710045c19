//! The first way: one WAL file from `pg_wal` into the archive.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::commands::archive::{Archive, Archived, ContentCheck, IfOther, Storing, WalCompression};
use crate::domain::segment::WalFileName;
use crate::error::{Error, Result};

/// What `archive_command` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalArchiveRequest {
    /// The file, as PostgreSQL's `%p` gives it; its last component is the WAL name.
    pub path: PathBuf,
    /// How to store it.
    pub compression: WalCompression,
    /// What to do when other content lies under its key.
    pub if_other: IfOther,
    /// Whether the file must be what its name says.
    pub check: ContentCheck,
    /// When.
    pub now: DateTime<Utc>,
}

/// Archives one WAL file: one read, one pass, one put.
///
/// When all is well, a segment costs one PUT and one small GET, which asks whose archive this is and rides along while the
/// segment is compressed; any other file costs one PUT. The first segment in an archive also records whose it is.
///
/// When this returns, the store has confirmed the object. The same content a second time is success, whoever stored it first.
///
/// Errors: `Mismatch` or `Corrupt` for a file that is not what its name says, `Mismatch` when the archive belongs to another
/// cluster, `Conflict` when it holds other content under this name, `Usage` for a path whose last component is no WAL name, `Unreachable`, `Denied`, `Local`.
/// Memory: the file and its compressed form.
pub async fn wal_archive(archive: &Archive, request: &WalArchiveRequest) -> Result<Archived> {
    let name = wal_name(&request.path)?;
    let &WalArchiveRequest { ref path, compression, if_other, check, now } = request;
    archive
        .archive_file(&name, path, Storing { compression, if_other, check, now })
        .await
        .map_err(|error| error.context(format!("could not archive WAL file \"{name}\"")))
}

fn wal_name(path: &Path) -> Result<WalFileName> {
    let refuse = || Error::usage(format!("\"{}\" does not end in the name of a WAL file", path.display()));
    path.file_name().and_then(|name| name.to_str()).ok_or_else(refuse)?.parse().map_err(|_| refuse())
}
