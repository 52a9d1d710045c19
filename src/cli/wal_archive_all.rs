//! `wal-archive --all DIR`: from its words to its answer.

use std::io::Write;
use std::path::PathBuf;

use super::invocation::Settings;
use super::native_requests::wal_compression;
use super::output::{self, ShipOutcome};
use super::run::{Surroundings, single_threaded};
use super::store::{Traffic, open};
use crate::commands::wal_archive_all::{PgWal, ShipRequest, Shipped, ShippedAll, wal_archive_all};
use crate::error::{Error, Result};
use crate::wal::completeness::Completeness;

/// One file is compressed while the one before it is on its way.
pub(super) const DEFAULT_JOBS: usize = 2;

/// `wal-archive --all DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalArchiveAllArgs {
    /// The cluster's `pg_wal`.
    pub directory: PathBuf,
    /// Files on their way at once, 1 to 64.
    pub jobs: usize,
}

/// Ships what is missing, and prints what became of each file.
///
/// Errors: the command's, after the answer; that of the first refused file when there was one.
pub(super) fn run(
    args: &WalArchiveAllArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    // Before the store is asked for anything.
    let pg_wal = PgWal::read(&args.directory)?;
    let bytes = pg_wal.largest_bytes;
    let request =
        ShipRequest { compression: wal_compression(settings.wal_compression), jobs: args.jobs, now: around.now };
    let all = single_threaded()?.block_on(async {
        let traffic = Traffic { upload: bytes, download: bytes, writes: true };
        let archive = open(&settings.store, around.environment, traffic).await?;
        wal_archive_all(&archive, &pg_wal, request).await
    })?;
    output::wal_shipped(out, around.stdout(settings), settings.log.verbosity > 0, &outcome(&all))?;
    ended(all)
}

fn outcome(all: &ShippedAll) -> ShipOutcome {
    let mut outcome = ShipOutcome::default();
    for (name, shipped) in &all.files {
        let (word, reason) = match shipped {
            Shipped::Stored => ("archived", None),
            Shipped::AlreadyThere => ("there already", None),
            Shipped::Unfinished(verdict) => ("not complete", Some(why(*verdict).to_owned())),
            Shipped::Refused(error) => ("refused", Some(error.to_string())),
        };
        outcome.add(name.to_string(), word, reason);
    }
    outcome
}

fn why(verdict: Completeness) -> &'static str {
    match verdict {
        Completeness::Complete => "it is complete",
        Completeness::NotBegun => "it is set aside for later use, and holds no WAL of this name",
        Completeness::MayGrow => "no later WAL shows that there is no more to come",
    }
}

/// The error of what was refused or stopped, if there is any.
fn ended(all: ShippedAll) -> Result<()> {
    if let Some(error) = all.stopped {
        return Err(error);
    }
    let mut refused = all.files.into_iter().filter_map(|(_, shipped)| match shipped {
        Shipped::Refused(error) => Some(error),
        _ => None,
    });
    let Some(first) = refused.next() else { return Ok(()) };
    let others = refused.count();
    let error = if others == 0 {
        first
    } else {
        let hint = first.hint().map(str::to_owned);
        let error = Error::new(first.kind(), format!("{first} (and {others} more files were refused)"));
        hint.into_iter().fold(error, Error::with_hint)
    };
    Err(error)
}
