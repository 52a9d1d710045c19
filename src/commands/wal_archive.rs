//! The first way: one WAL file from `pg_wal` into the archive.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::commands::archive::{Archive, Archived, ContentCheck, IfOther, Storing, WalCompression};
use crate::commands::receipts::Receipts;
use crate::commands::ride_along::{RideAlong, archive_with_neighbours};
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
    /// What is archived beside it; nothing when none.
    pub ride_along: Option<RideAlong>,
    /// When.
    pub now: DateTime<Utc>,
}

impl WalArchiveRequest {
    /// True when an earlier call has archived this very segment beside another one, and the store has confirmed that: there is
    /// nothing left to do. Asks nobody; see [`Receipts::vouch_for`].
    #[must_use]
    pub fn is_done(&self, receipts: &Receipts) -> bool {
        match wal_name(&self.path) {
            Ok(WalFileName::Segment(segment)) => receipts.vouch_for(segment, &self.path),
            _ => false,
        }
    }
}

/// Archives one WAL file: one read, one pass, one put.
///
/// When all is well, a segment costs one PUT and one small GET, which asks whose archive this is and rides along while the
/// segment is compressed; any other file costs one PUT. The first segment in an archive also records whose it is.
///
/// With `ride_along`, other segments that are ready are archived at the same time; each gets a receipt, which answers for it
/// later ([`WalArchiveRequest::is_done`]). That they fail costs a log line, and at most 15 s.
///
/// When this returns, the store has confirmed the object. The same content a second time is success, whoever stored it first.
///
/// Errors: `Mismatch` or `Corrupt` for a file that is not what its name says, `Mismatch` when the archive belongs to another
/// cluster, `Conflict` when it holds other content under this name, `Usage` for a path whose last component is no WAL name, `Unreachable`, `Denied`, `Local`.
/// Memory: the compressed form, and, unless that is zstd, the file; for each segment in hand.
pub async fn wal_archive(archive: &Archive, request: &WalArchiveRequest) -> Result<Archived> {
    let name = wal_name(&request.path)?;
    let &WalArchiveRequest { ref path, compression, if_other, check, ref ride_along, now } = request;
    let how = Storing { compression, if_other, check, now };
    let outcome = match (ride_along, name) {
        (Some(ride), WalFileName::Segment(segment)) => archive_with_neighbours(archive, segment, path, how, ride).await,
        _ => archive.archive_file(&name, path, how).await,
    };
    outcome.map_err(|error| error.context(format!("could not archive WAL file \"{name}\"")))
}

fn wal_name(path: &Path) -> Result<WalFileName> {
    let refuse = || Error::usage(format!("\"{}\" does not end in the name of a WAL file", path.display()));
    path.file_name().and_then(|name| name.to_str()).ok_or_else(refuse)?.parse().map_err(|_| refuse())
}
