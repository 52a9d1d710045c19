//! `barback drill`: its words, what they ask for, and what its answer means for the exit code.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};

use super::invocation::{OutputFormat, Settings, restore_command_argv};
use super::native_grammar::{TargetOptions, absolute};
use super::quantity::parse_duration;
use super::run::Surroundings;
use super::store::{Traffic, open};
use super::zone::Zone;
use super::{config, drill_checks, exit_code, output};
use crate::commands::drill::{DrillRequest, Drilled, drill};
use crate::commands::drill_records::{self, DrillHistory};
use crate::commands::drill_target::Wanted;
use crate::commands::memory;
use crate::commands::progress::Progress;
use crate::commands::restore::REQUEST_BYTES;
use crate::disk;
use crate::domain::drill::DrillLevel;
use crate::domain::recovery_target::{RecoveryTarget, TargetAction, TargetRequest};
use crate::domain::verification::Verdict;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::drill_record::{DrillPlace, DrillRecord};
use crate::postgres::os_user;
use crate::postgres::private_server::{KEEPER, become_server};

/// The words of `drill`.
#[derive(Debug, Args)]
pub struct DrillOptions {
    /// Recover to latest, to a random moment, or until the backup is consistent: latest, random or immediate [default: latest]
    #[arg(long = "target", value_name = "WORD", group = "target", hide_possible_values = true)]
    moment: Option<Moment>,
    /// Draw the random moment with this number: the same number and the same archive give the same moment
    #[arg(long, value_name = "NUMBER", requires = "moment")]
    seed: Option<u64>,
    #[command(flatten)]
    target: TargetOptions,
    /// An id, a name, latest or oldest [default: chosen for the target]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// How far to go: 1 looks at names, 2 reads every byte, 3 recovers a server [default: 3]
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    level: Option<DrillLevel>,
    /// Where the copy is made, and removed again [default: TMPDIR, or /tmp]
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Where PostgreSQL's programs are [default: those of the backup's version on the PATH or where packages put them]
    #[arg(long, value_name = "DIR")]
    pg_bindir: Option<PathBuf>,
    /// A superuser of the cluster, to look into the copy as [default: the one that the backup names, or postgres]
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// A file that says what to look for in the recovered database
    #[arg(long, value_name = "FILE")]
    checks: Option<PathBuf>,
    /// How long a recovery may take, as 30m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    objective: Option<Duration>,
    /// Write drill.html, drill.json, drill.xml and drill.prom into this directory
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Record nothing in the store, for credentials that may only read
    #[arg(long)]
    no_record: bool,
    /// Leave the copy where it is when the drill does not pass
    #[arg(long)]
    keep_on_failure: bool,
    /// Parts to fetch at once [default: twice the cores, 8 at most]
    #[arg(long, value_name = "N", value_parser = config::jobs)]
    pub(super) jobs: Option<usize>,
    /// Download at most this much a second, as 50MiB
    #[arg(long, value_name = "SIZE", value_parser = config::max_rate)]
    pub(super) max_rate: Option<u64>,
    /// Hold at most this much in memory, whatever the jobs [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = config::max_memory)]
    pub(super) max_memory: Option<usize>,
}

/// A target that is named by a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Moment {
    Latest,
    Random,
    Immediate,
}

/// `drill`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillArgs {
    wanted: Wanted,
    asked: String,
    action: TargetAction,
    backup: Option<String>,
    level: DrillLevel,
    workdir: Option<PathBuf>,
    pg_bindir: Option<PathBuf>,
    role: Option<String>,
    checks: Option<PathBuf>,
    objective: Option<Duration>,
    keep_on_failure: bool,
    report: Option<PathBuf>,
    is_recorded: bool,
    jobs: usize,
    max_memory_bytes: usize,
    max_rate_bytes_per_s: Option<u64>,
}

impl DrillOptions {
    /// With what all settings together allow in memory, and how many parts they fetch at once.
    pub(super) fn args(
        self,
        max_memory_bytes: usize,
        jobs: usize,
        max_rate: Option<u64>,
        local: Zone,
    ) -> Result<DrillArgs> {
        let action = self.target.target_action.unwrap_or(TargetAction::Promote);
        if action == TargetAction::Shutdown {
            return Err(Error::usage(
                "a server that shuts down at the target cannot be looked into: pause or promote it",
            ));
        }
        let given = self.target.request(local)?;
        let like = |target| TargetRequest { target, ..given.clone() };
        let wanted = match self.moment {
            None => Wanted::Given(given.clone()),
            Some(Moment::Latest) => Wanted::Given(like(RecoveryTarget::Latest)),
            Some(Moment::Immediate) => Wanted::Given(like(RecoveryTarget::Immediate)),
            Some(Moment::Random) => {
                Wanted::Random { seed: self.seed.unwrap_or_else(any_seed), like: like(RecoveryTarget::Latest) }
            }
        };
        if self.seed.is_some() && !matches!(wanted, Wanted::Random { .. }) {
            return Err(Error::usage("--seed draws a random moment: it needs --target random"));
        }
        let asked = match &wanted {
            Wanted::Random { .. } => "random".to_owned(),
            Wanted::Given(request) => match &request.target {
                RecoveryTarget::Latest => "latest".to_owned(),
                RecoveryTarget::Immediate => "immediate".to_owned(),
                RecoveryTarget::Time(time) => format!("time {time}"),
                RecoveryTarget::Lsn(lsn) => format!("lsn {lsn}"),
                RecoveryTarget::Xid(xid) => format!("xid {xid}"),
                RecoveryTarget::Name(name) => format!("name {name}"),
            },
        };
        Ok(DrillArgs {
            wanted,
            asked,
            action,
            backup: self.backup,
            level: self.level.unwrap_or(DrillLevel::Recovery),
            workdir: self.workdir.as_deref().map(absolute).transpose()?,
            pg_bindir: self.pg_bindir.as_deref().map(absolute).transpose()?,
            role: self.role,
            checks: self.checks.as_deref().map(absolute).transpose()?,
            objective: self.objective,
            keep_on_failure: self.keep_on_failure,
            report: self.report.as_deref().map(absolute).transpose()?,
            is_recorded: !self.no_record,
            jobs: memory::for_readers(max_memory_bytes, jobs),
            max_memory_bytes,
            max_rate_bytes_per_s: max_rate,
        })
    }
}

impl DrillArgs {
    /// A moment that has not come is a slip of whoever wrote it, and says nothing about backups.
    fn refuse_the_future(&self, now: DateTime<Utc>) -> Result<()> {
        match &self.wanted {
            Wanted::Given(TargetRequest { target: RecoveryTarget::Time(time), .. }) if *time > now => {
                Err(Error::usage(format!("could not drill to {time}: it has not come yet")))
            }
            _ => Ok(()),
        }
    }
}

/// Drills, records, reports and prints, and gives the exit code: 0 passed, 1 the backup is at fault, 5 nothing was learned about
/// it.
///
/// Errors: where it passed and that could not be recorded though it might have been, or not reported; words and settings that
/// cannot be used.
pub(super) async fn run(
    args: DrillArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<u8> {
    // The store must be there: a directory is not made for what it should hold.
    let traffic = Traffic { upload: 0, download: REQUEST_BYTES, writes: false };
    let archive = match open(&settings.store, around.environment, traffic).await {
        Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Denied | ErrorKind::Local) => {
            tracing::error!("{error}; nothing was learned about the backup");
            return Ok(exit_code::INCONCLUSIVE);
        }
        opened => opened?,
    };
    args.refuse_the_future(around.now)?;
    let (report, is_recorded) = (args.report.clone(), args.is_recorded);
    let request = request(args, settings, around)?;
    let progress = Arc::new(Progress::default());
    let drawing = around.screen.draw(Arc::clone(&progress));
    let outcome = drill(&archive, &request, progress).await;
    drop(drawing);
    let Drilled { mut record, is_interrupted } = outcome?;
    let recorded =
        if is_recorded && !is_interrupted { drill_records::append(&archive, &mut record).await } else { Ok(()) };
    let recorded = recorded.map_err(|error| error.context("the drill is not recorded"));
    let reported = match &report {
        None => Ok(()),
        Some(directory) => {
            let history = drill_records::history(&archive).await;
            let history =
                history.inspect_err(|error| tracing::warn!("{error}; the report shows no earlier drills")).ok();
            write_report(directory, &record, history.as_ref())
        }
    };
    output::drill::drilled(out, around.stdout(settings), &record)?;
    if let (Some(directory), OutputFormat::Text, Ok(())) = (&report, settings.output, &reported) {
        output::emit(out, format!("report: {}\n", directory.join("drill.html").display()).as_bytes())?;
    }
    let may_pass = record.verdict == Verdict::Pass;
    for outcome in [recorded, reported] {
        match outcome {
            Err(error) if may_pass && error.kind() != ErrorKind::Denied => return Err(error),
            Err(error) => tracing::warn!("{error}"),
            Ok(()) => {}
        }
    }
    Ok(match record.verdict {
        Verdict::Pass => exit_code::DONE,
        Verdict::Fail => exit_code::ABSENT,
        Verdict::Inconclusive => exit_code::INCONCLUSIVE,
    })
}

/// Errors: `Local`.
fn write_report(directory: &Path, record: &DrillRecord, history: Option<&DrillHistory>) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|cause| Error::local("create directory", directory, cause))?;
    for (name, content) in output::drill::report_files(record, history)? {
        disk::publish(&directory.join(name), content.as_bytes())?;
    }
    Ok(())
}

fn request(args: DrillArgs, settings: &Settings, around: &Surroundings<'_>) -> Result<DrillRequest> {
    let exe = std::env::current_exe()
        .map_err(|cause| Error::new(ErrorKind::Local, format!("could not find this program's own path: {cause}")))?;
    Ok(DrillRequest {
        level: args.level,
        wanted: args.wanted,
        asked: args.asked,
        action: args.action,
        backup: args.backup,
        workdir: args.workdir.unwrap_or_else(std::env::temp_dir),
        pg_bindir: args.pg_bindir,
        path: around.environment.get("PATH").cloned(),
        role: args.role,
        checks: args.checks.as_deref().map(drill_checks::read).transpose()?.unwrap_or_default(),
        objective: args.objective,
        keep_on_failure: args.keep_on_failure,
        jobs: args.jobs,
        max_memory_bytes: args.max_memory_bytes,
        max_rate_bytes_per_s: args.max_rate_bytes_per_s,
        restore_command: restore_command_argv(settings, &exe)?,
        exe,
        place: DrillPlace {
            store: settings.store.url.clone(),
            server: settings.store.server.clone(),
            user: os_user::name().unwrap_or_default(),
            barback: env!("CARGO_PKG_VERSION").to_owned(),
            ..DrillPlace::default()
        },
        now: around.now,
    })
}

/// Becomes the server of a drill, where this process was started for that. Returns only where it was not, with none, or where
/// it cannot be.
#[must_use]
pub fn keep_server(argv: &[OsString]) -> Option<Error> {
    let (_, rest) = argv.split_first()?;
    let (_, words) = rest.split_first().filter(|(word, _)| *word == KEEPER)?;
    match become_server(words) {
        Ok(never) => match never {},
        Err(error) => Some(error),
    }
}

/// A number that the next drill will not have.
fn any_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Such numbers are read out and typed again.
    u64::from(since.subsec_nanos()) ^ (since.as_secs() & 0xFFFF_FFFF) ^ u64::from(std::process::id())
}

fn level(text: &str) -> Result<DrillLevel> {
    text.parse::<u8>().map_err(|_| Error::usage(format!("\"{text}\" is not 1, 2 or 3")))?.try_into()
}

fn duration(text: &str) -> Result<Duration> {
    parse_duration(text)
}
