//! `barback expire`, `delete` and `keep`: what goes, what stays, and what is kept whatever else is said.

use std::io::Write;

use clap::Args;

use super::invocation::{OutputFormat, Settings};
use super::output::{self, ExpiryView, KeepView};
use super::run::{Surroundings, single_threaded};
use super::store::{Traffic, open};
use crate::commands::expire::{ExpireRequest, Expired, expire};
use crate::commands::keep::{KeepAction, keep_existing};
use crate::domain::barman_retention::Keep;
use crate::domain::lsn::Lsn;
use crate::domain::retention::{Policy, Wish};
use crate::error::{Error, ErrorKind, Result};

/// `[expire]` in the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ExpireLayer {
    pub policy: Option<Policy>,
    pub minimum_redundancy: Option<u64>,
}

impl ExpireLayer {
    /// This layer, and `lower` wherever it says nothing.
    pub fn or(self, lower: Self) -> Self {
        Self {
            policy: self.policy.or(lower.policy),
            minimum_redundancy: self.minimum_redundancy.or(lower.minimum_redundancy),
        }
    }
}

/// How many restorable backups stay at least.
pub(super) fn minimum_redundancy(text: &str) -> Result<u64> {
    text.parse().ok().filter(|minimum| *minimum > 0).ok_or_else(|| {
        let shown = text.escape_debug();
        Error::usage(format!("\"{shown}\" is not a minimum redundancy: it must be a number, and 1 at least"))
    })
}

/// The words of `expire`.
#[derive(Debug, Args)]
pub(super) struct ExpireOptions {
    /// 30d, 4w, 3m, 'RECOVERY WINDOW OF 30 DAYS' or 'REDUNDANCY 3'
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
    /// How many restorable backups stay whatever the policy says [default: 1]
    #[arg(long, value_name = "N", value_parser = minimum_redundancy)]
    minimum_redundancy: Option<u64>,
    /// Where a base backup begins that lies elsewhere, such as a disk snapshot: older WAL may go
    #[arg(long, value_name = "LSN")]
    floor_lsn: Option<Lsn>,
    /// Remove what failed and killed runs left behind more than a day ago
    #[arg(long)]
    debris: bool,
    /// Print the verdicts and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// The words of `delete`.
#[derive(Debug, Args)]
pub(super) struct DeleteOptions {
    /// An id, a name, latest or oldest
    #[arg(value_name = "ID")]
    id: String,
    /// Refuse when fewer restorable backups than this would stay [default: 1]
    #[arg(long, value_name = "N", value_parser = minimum_redundancy)]
    pub minimum_redundancy: Option<u64>,
    /// Print the verdicts and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// The words of `keep`.
#[derive(Debug, Args)]
pub(super) struct KeepOptions {
    /// An id, a name, latest or oldest
    #[arg(value_name = "ID")]
    id: String,
    /// Keep it for itself, with only the WAL that makes it consistent
    #[arg(long, conflicts_with = "release")]
    standalone: bool,
    /// Keep it no longer
    #[arg(long)]
    release: bool,
}

/// `expire`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpireArgs {
    /// What is promised; none where only WAL before a floor or debris is to go.
    pub policy: Option<Policy>,
    /// How many restorable backups stay at least.
    pub minimum_redundancy: u64,
    /// Where a base backup begins that lies elsewhere.
    pub floor_lsn: Option<Lsn>,
    /// Remove debris.
    pub debris: bool,
    /// Delete nothing.
    pub dry_run: bool,
}

/// `delete ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteArgs {
    /// An id, a name, `latest` or `oldest`.
    pub id: String,
    /// How many restorable backups stay at least.
    pub minimum_redundancy: u64,
    /// Delete nothing.
    pub dry_run: bool,
}

/// `keep ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepArgs {
    /// An id, a name, `latest` or `oldest`.
    pub id: String,
    /// How it is to be kept; none: no longer.
    pub keep: Option<Keep>,
}

impl ExpireOptions {
    pub fn layer(&self) -> ExpireLayer {
        ExpireLayer { policy: self.policy, minimum_redundancy: self.minimum_redundancy }
    }

    pub fn args(self, merged: ExpireLayer) -> Result<ExpireArgs> {
        if merged.policy.is_none() && self.floor_lsn.is_none() && !self.debris {
            return Err(Error::usage("no retention policy is given").with_hint(
                "Give it with --policy '30d', in the environment as BARBACK_EXPIRE_POLICY, or as policy = \"30d\" in section \
                 [expire] of the configuration file.",
            ));
        }
        Ok(ExpireArgs {
            policy: merged.policy,
            minimum_redundancy: merged.minimum_redundancy.unwrap_or(1),
            floor_lsn: self.floor_lsn,
            debris: self.debris,
            dry_run: self.dry_run,
        })
    }
}

impl DeleteOptions {
    pub fn args(self, merged: ExpireLayer) -> DeleteArgs {
        let minimum_redundancy = merged.minimum_redundancy.unwrap_or(1);
        DeleteArgs { id: self.id, minimum_redundancy, dry_run: self.dry_run }
    }
}

impl KeepOptions {
    pub fn args(self) -> KeepArgs {
        let keep = if self.standalone { Keep::Standalone } else { Keep::Full };
        KeepArgs { id: self.id, keep: (!self.release).then_some(keep) }
    }
}

/// Expires by policy and prints every verdict.
pub(super) fn run_expire(
    args: &ExpireArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let wish = match (args.policy, args.floor_lsn) {
        (Some(policy), _) => Wish::Policy(policy),
        (None, Some(_)) => Wish::WalOnly,
        (None, None) => Wish::Debris,
    };
    let request = ExpireRequest {
        wish,
        minimum_redundancy: args.minimum_redundancy,
        floor: args.floor_lsn,
        debris: args.debris,
        dry_run: args.dry_run,
        now: around.now,
    };
    let expired = run(&request, settings, around, out)?;
    if args.policy.is_some() && args.floor_lsn.is_none() && expired.plan.restorable == 0 {
        let server = &settings.store.server;
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("could not expire anything of server \"{server}\": no backup of it can be restored"),
        )
        .with_hint("Take a backup: barback backup. Until one can be restored, nothing goes."));
    }
    Ok(())
}

/// Deletes one backup and prints every verdict.
pub(super) fn run_delete(
    args: &DeleteArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let request = ExpireRequest {
        wish: Wish::Delete(args.id.clone()),
        minimum_redundancy: args.minimum_redundancy,
        floor: None,
        debris: false,
        dry_run: args.dry_run,
        now: around.now,
    };
    run(&request, settings, around, out).map(drop)
}

fn run(
    request: &ExpireRequest,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<Expired> {
    let style = around.stdout(settings);
    let view = |expired: &Expired| ExpiryView::of(expired, request, &settings.store.server);
    let expired = single_threaded()?.block_on(async {
        let traffic = if request.dry_run { Traffic::SMALL_READS } else { Traffic::SMALL_WRITES };
        let archive = open(&settings.store, around.environment, traffic).await?;
        // People see what goes before it goes; a document comes in one piece.
        let mut show = |expired: &Expired| match style.format {
            OutputFormat::Text => output::expiry_verdicts(out, style, &view(expired)),
            OutputFormat::Json => Ok(()),
        };
        expire(&archive, request, &mut show).await
    })?;
    output::expiry_outcome(out, style, &view(&expired))?;
    match expired.deleted.as_ref().and_then(|deleted| deleted.failures.first().map(|first| (deleted, first))) {
        None => Ok(expired),
        Some((deleted, (_, error))) => {
            let message = format!("{} objects could not be deleted, the first: {error}", deleted.failures.len());
            Err(Error::new(error.kind(), message)
                .with_hint("What goes is gone but for these; the next call tries again."))
        }
    }
}

/// Keeps a backup, or keeps it no longer, and prints what holds now.
pub(super) fn run_keep(
    args: &KeepArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let action = args.keep.map_or(KeepAction::Release, KeepAction::Set);
    let (backup, keep) = single_threaded()?.block_on(async {
        let archive = open(&settings.store, around.environment, Traffic::SMALL_WRITES).await?;
        keep_existing(&archive, &args.id, action).await
    })?;
    output::kept(out, around.stdout(settings), &KeepView { id: backup.id.to_string(), name: backup.name, keep })
}
