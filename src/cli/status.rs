//! `barback status`: the state of an archive on one screen, as a document, or as metrics.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::invocation::Settings;
use super::output::{self, StatusView};
use super::run::{Surroundings, as_libpq_sees_it, single_threaded};
use super::store::{Traffic, open};
use crate::commands::archive_state::ArchiveState;
use crate::commands::{drill_records, host_state};
use crate::error::Result;
use crate::postgres::conninfo::Conninfo;

/// The words behind `status`.
#[derive(Debug, Args)]
pub(super) struct StatusOptions {
    /// Ask the server on this host too, reached as by backup: how far it is ahead of the archive
    #[arg(long)]
    pub host: bool,
    /// Print Prometheus metrics, for the node exporter's textfile collector
    #[arg(long)]
    pub metrics: bool,
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusArgs {
    /// Print metrics instead of a screen.
    pub metrics: bool,
    /// How to reach the server on this host, where it is to be asked too.
    pub host: Option<HostArgs>,
}

/// The server on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostArgs {
    /// The connection string, without a password; `None`: libpq's defaults and `PG*` variables.
    pub dbname: Option<String>,
    /// The data directory, absolute; `None`: what the server says.
    pub pgdata: Option<PathBuf>,
}

/// Looks at the whole archive and prints what it is good for.
///
/// A server that does not answer is said in place of what it would have told: the archive's state is the same without it.
pub(super) fn run(
    args: &StatusArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let view = single_threaded()?.block_on(look(args, settings, around))?;
    if args.metrics { output::metrics(out, &view) } else { output::status(out, around.stdout(settings), &view) }
}

async fn look(args: &StatusArgs, settings: &Settings, around: &Surroundings<'_>) -> Result<StatusView> {
    let archive = open(&settings.store, around.environment, Traffic::SMALL_READS).await?;
    let state = ArchiveState::read(&archive, around.now).await?;
    let mut view = StatusView::of(&state, &settings.store.server, &settings.store.url);
    if let Some(newest) = drill_records::newest(&archive, &state.survey.ours).await? {
        view.add_drill(&newest);
    }
    if let Some(HostArgs { dbname, pgdata }) = &args.host {
        let conninfo = Conninfo::resolve(dbname.as_deref(), &as_libpq_sees_it(around.environment))?;
        view.add_host(&host_state::read(&conninfo, pgdata.as_deref()).await, &state);
    }
    Ok(view)
}
