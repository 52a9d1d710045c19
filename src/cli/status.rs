//! `barback status`: the state of an archive on one screen, as a document, or as metrics.

use std::io::Write;

use clap::Args;

use super::invocation::Settings;
use super::output::{self, StatusView};
use super::run::{Surroundings, single_threaded};
use super::store::{Traffic, open};
use crate::commands::archive_state::ArchiveState;
use crate::error::Result;

/// What `status` can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StatusArgs {
    /// Print Prometheus metrics, for the node exporter's textfile collector
    #[arg(long)]
    pub metrics: bool,
}

/// Looks at the whole archive and prints what it is good for.
pub(super) fn run(
    args: &StatusArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let state = single_threaded()?.block_on(async {
        let archive = open(&settings.store, around.environment, Traffic::SMALL_READS).await?;
        ArchiveState::read(&archive, around.now).await
    })?;
    let view = StatusView::of(&state, &settings.store.server, &settings.store.url);
    if args.metrics { output::metrics(out, &view) } else { output::status(out, around.stdout(settings), &view) }
}
