//! From a parsed command line to an exit code: builds what the commands need, calls one, prints its answer.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::runtime::{Builder, Runtime};

use crate::cli::invocation::{self, BackupArgs, Command, RestoreArgs, Settings, WalArchiveArgs};
use crate::cli::native_requests;
use crate::cli::output::{self, BackupOutcome, Phase, PlanView, RestoreOutcome, Style, TargetView, WindowView};
use crate::cli::progress::Screen;
use crate::cli::store::{Traffic, open, receipts};
use crate::cli::zone::Zone;
use crate::cli::{
    check, damage, drill, drill_history, exit_code, expire, status, verify, wal_archive_all, wal_restore,
};
use crate::commands::backup::{self, BackupDone};
use crate::commands::catalog;
use crate::commands::progress::Progress;
use crate::commands::restore::{self, PreparedRestore, REQUEST_BYTES, RestoreDone, RestoreRequest};
use crate::commands::ride_along::RideAlong;
use crate::commands::wal_archive::{WalArchiveRequest, wal_archive};
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentSize;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{os_user, settings};

/// What surrounds a call: read once in `main`, passed down from there.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The process's environment.
    pub environment: &'a BTreeMap<String, String>,
    /// The time it is.
    pub now: DateTime<Utc>,
    /// The terminal, or whatever stderr is.
    pub screen: &'a Screen,
    /// Whether stdout and stderr are terminals, where bars may be drawn.
    pub charts: (bool, bool),
}

impl Surroundings<'_> {
    pub(super) fn stdout(&self, settings: &Settings) -> Style {
        Style { format: settings.output, zone: Zone::Host, charts: self.charts.0 }
    }

    pub(super) fn stderr(&self, settings: &Settings) -> Style {
        Style { format: settings.output, zone: Zone::Host, charts: self.charts.1 }
    }
}

/// Threads that move bytes between sockets and workers; the workers themselves are threads of their own.
const IO_THREADS: usize = 2;

/// Carries a command out and writes its answer to `out`; gives the exit code of an answer, which may be "no".
///
/// Errors: the command's; `Local` when `out` cannot be written.
pub fn run(run: invocation::Run, around: &Surroundings<'_>, out: &mut dyn Write) -> Result<u8> {
    let settings = run.settings;
    let done = match run.command {
        Command::WalArchive(args) => archive_wal(args, &settings, around),
        Command::WalArchiveAll(args) => wal_archive_all::run(&args, &settings, around, out),
        Command::WalRestore(args) => wal_restore::run(args, &settings, around),
        Command::Backup(args) => multi_threaded()?.block_on(take_backup(&settings, args, around, out)),
        Command::Restore(args) => multi_threaded()?.block_on(restore_backup(&settings, *args, around, out)),
        Command::List => single_threaded()?.block_on(async {
            let archive = open(&settings.store, around.environment, Traffic::SMALL_READS).await?;
            let loaded = catalog::load(&archive).await?;
            output::list(out, around.stdout(&settings), &settings.store.server, loaded.catalog.backups())?;
            loaded.complete()
        }),
        Command::Drill(args) => return multi_threaded()?.block_on(drill::run(*args, &settings, around, out)),
        Command::Verify(args) => return multi_threaded()?.block_on(verify::run(args, &settings, around, out)),
        Command::Show { id } => single_threaded()?.block_on(async {
            let archive = open(&settings.store, around.environment, Traffic::SMALL_READS).await?;
            let mut loaded = catalog::load(&archive).await?;
            output::show(out, around.stdout(&settings), loaded.find(&id)?)
        }),
        Command::Status(args) => status::run(&args, &settings, around, out),
        Command::DrillHistory(args) => {
            return single_threaded()?.block_on(drill_history::run(args, &settings, around, out));
        }
        Command::Check(args) => return multi_threaded()?.block_on(check::run(&settings, args, around, out)),
        Command::Expire(args) => expire::run_expire(&args, &settings, around, out),
        Command::Delete(args) => expire::run_delete(&args, &settings, around, out),
        Command::Keep(args) => expire::run_keep(&args, &settings, around, out),
    };
    done.map(|()| exit_code::DONE)
}

async fn take_backup(
    settings: &Settings,
    args: BackupArgs,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let archive =
        open(&settings.store, around.environment, Traffic { upload: args.part_size_bytes, download: 0, writes: true })
            .await?;
    let request = native_requests::backup(args, settings, &as_libpq_sees_it(around.environment), around.now)?;
    let progress = Arc::new(Progress::default());
    let drawing = around.screen.draw(Arc::clone(&progress));
    let outcome = backup::backup(&archive, request, progress).await;
    drop(drawing);
    let done = outcome?;
    let damage = damage::of(&done);
    let outcome = backup_outcome(done);
    if settings.log.verbosity >= 0 {
        let summary = output::backup_summary(around.stderr(settings), &outcome);
        // A closed stderr is no reason to call a finished backup a failure.
        let _ = around.screen.write(summary.as_bytes());
    }
    output::backup_taken(out, around.stdout(settings), &outcome)?;
    damage.map_or(Ok(()), Err)
}

async fn restore_backup(
    settings: &Settings,
    args: RestoreArgs,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let archive =
        open(&settings.store, around.environment, Traffic { upload: 0, download: REQUEST_BYTES, writes: false })
            .await?;
    let exe = std::env::current_exe()
        .map_err(|cause| Error::new(ErrorKind::Local, format!("could not find this program's own path: {cause}")))?;
    let words = invocation::restore_command_argv(settings, &exe)?;
    let request = RestoreRequest {
        directory: args.directory,
        backup: args.backup,
        target: args.request,
        tablespaces: args.tablespaces,
        tablespaces_below: None,
        jobs: args.jobs,
        max_rate_bytes_per_s: args.max_rate_bytes,
        with_recovery: args.recovery,
        keep_archiving: args.keep_archiving,
        restore_command: settings::restore_command(&words, " %f \"%p\""),
        pg_bindir: args.pg_bindir,
        now: around.now,
    };
    let prepared = restore::prepare(&archive, &request).await?;
    if args.plan {
        return output::plan(out, around.stdout(settings), &plan_view(&prepared, &request));
    }
    let progress = Arc::new(Progress::default());
    let drawing = around.screen.draw(Arc::clone(&progress));
    let outcome = restore::restore(&archive, &request, prepared, progress).await;
    drop(drawing);
    output::restored(out, around.stdout(settings), &restore_outcome(&outcome?))
}

/// libpq asks the system who we are, not `$USER`, which another user's shell may have left behind.
pub(super) fn as_libpq_sees_it(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut environment = environment.clone();
    if let Some(name) = os_user::name() {
        environment.insert("USER".to_owned(), name);
    }
    environment
}

fn backup_outcome(done: BackupDone) -> BackupOutcome {
    let lsn = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
    BackupOutcome {
        id: done.backup.id.to_string(),
        begin_lsn: lsn(done.backup.begin_lsn),
        end_lsn: lsn(done.backup.end_lsn),
        name: done.backup.name,
        size_bytes: done.content_bytes,
        stored_bytes: done.stored_bytes,
        files: done.files,
        duration: done.phases.iter().map(|(_, took)| *took).sum(),
        wal_segments: done.wal.needed,
        wal_segments_shipped: done.wal.shipped,
        phases: phases(&done.phases),
        damaged: done.damaged,
    }
}

fn restore_outcome(done: &RestoreDone) -> RestoreOutcome {
    let directory = done.prepared.directory.display().to_string();
    RestoreOutcome {
        backup_id: done.prepared.plan.backup.id.to_string(),
        next: format!("pg_ctl -D {} start", settings::shell_quote(&directory)),
        directory,
        size_bytes: done.content_bytes,
        files: done.files,
        duration: done.phases.iter().map(|(_, took)| *took).sum(),
        phases: phases(&done.phases),
        warnings: done.prepared.plan.warnings.clone(),
    }
}

fn phases(phases: &[(&'static str, Duration)]) -> Vec<Phase> {
    phases.iter().map(|(name, duration)| Phase { name: (*name).to_owned(), duration: *duration }).collect()
}

fn plan_view(prepared: &PreparedRestore, request: &RestoreRequest) -> PlanView {
    let plan = &prepared.plan;
    PlanView {
        backup_id: plan.backup.id.to_string(),
        backup_name: plan.backup.name.clone(),
        backup_end_time: plan.backup.end_time.map(|time| time.to_utc()),
        backup_end_lsn: plan.backup.end_lsn.map(|lsn| lsn.to_string()),
        timeline: plan.timeline.number(),
        target: request.with_recovery.then(|| TargetView::from(&plan.request)),
        window: WindowView {
            from_time: Some(plan.window.from_time),
            from_lsn: Some(plan.window.from_lsn.to_string()),
            to_time: plan.window.to_time,
            to_lsn: Some(plan.window.to_lsn.to_string()),
            last_commit_time: prepared.last_commit.map(|commit| commit.time),
            last_commit_lsn: prepared.last_commit.map(|commit| commit.lsn.to_string()),
        },
        wal_segments: plan.wal_segments(),
        directory: prepared.directory.display().to_string(),
        tablespaces: prepared
            .tablespaces
            .iter()
            .map(|(tablespace, target)| (tablespace.name.clone(), target.display().to_string()))
            .collect(),
        space_needed_bytes: prepared.spaces.needed_bytes,
        space_free_bytes: prepared.spaces.free_bytes,
        parts: Some((prepared.parts as u64, prepared.stored_bytes)),
        settings: prepared.settings.iter().map(|(name, value)| format!("{name} = '{value}'")).collect(),
        checks: prepared.checks.clone(),
        warnings: plan.warnings.clone(),
    }
}

/// One file at a time needs no threads, and starting them costs more than the file.
pub(super) fn single_threaded() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().map_err(|cause| no_runtime(&cause))
}

pub(super) fn multi_threaded() -> Result<Runtime> {
    Builder::new_multi_thread().worker_threads(IO_THREADS).enable_all().build().map_err(|cause| no_runtime(&cause))
}

fn archive_wal(args: WalArchiveArgs, settings: &Settings, around: &Surroundings<'_>) -> Result<()> {
    let jobs = args.jobs;
    let request = native_requests::wal_archive(args, settings, around.now);
    let receipts = if jobs > 1 { receipts(&settings.store, around.environment, &request.path)? } else { None };
    // Before anything is set up to ask the store: while WAL piles up, most calls end here.
    if receipts.as_ref().is_some_and(|receipts| request.is_done(receipts)) {
        tracing::debug!("\"{}\" was archived by an earlier call", request.path.display());
        return Ok(());
    }
    let (runtime, ride_along) = match receipts {
        None => (single_threaded()?, None),
        Some(receipts) => {
            let compressing = std::thread::available_parallelism().map_or(1, usize::from);
            // One more for the requested segment; each keeps memory that it has used once.
            let mut builder = Builder::new_current_thread();
            let runtime = builder.max_blocking_threads(compressing + 1).enable_all().build();
            (runtime.map_err(|cause| no_runtime(&cause))?, Some(RideAlong { jobs, compressing, receipts }))
        }
    };
    let request = WalArchiveRequest { ride_along, ..request };
    // The time a request may take is sized by what it moves; a file that cannot be looked at fails later.
    let bytes = std::fs::metadata(&request.path).map_or(SegmentSize::MAX.bytes(), |facts| facts.len());
    let traffic = Traffic { upload: bytes, download: bytes, writes: true };
    runtime.block_on(async {
        let archive = open(&settings.store, around.environment, traffic).await?;
        wal_archive(&archive, &request).await.map(drop)
    })
}

fn no_runtime(cause: &std::io::Error) -> Error {
    Error::new(ErrorKind::Local, format!("could not start: {cause}"))
}
