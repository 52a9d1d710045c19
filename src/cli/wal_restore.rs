//! `wal-restore`: hands over what lies ready, else asks the store, and starts the helper that fetches ahead.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::invocation::{Settings, StoreSettings, WalRestoreArgs, own_command_argv};
use super::native_requests;
use super::quantity::parse_duration;
use super::run::{Surroundings, multi_threaded, single_threaded};
use super::store::{Traffic, identity, open, server_prefix};
use crate::commands::fetch_ahead::{Helper, fetch_ahead};
use crate::commands::wal_restore::wal_restore;
use crate::commands::wal_restore_ahead::{Call, Recovery};
use crate::domain::delivery::{Delivery, Outcome};
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::ServerPrefix;

/// The helper does not insist: what it cannot have, the call that needs it asks for as long as it may.
const HELPER_RETRY_S: u64 = 5;

fn traffic() -> Traffic {
    Traffic { upload: 0, download: SegmentSize::MAX.bytes(), writes: false }
}

/// Restores one file, or is the helper that fetches segments ahead.
pub(super) fn run(args: WalRestoreArgs, settings: &Settings, around: &Surroundings<'_>) -> Result<()> {
    if args.fetch_ahead {
        return help(&args, settings, around);
    }
    let Some(journal) = args.journal.clone() else { return restore(args, settings, around).map(drop) };
    let (begun, name) = (Instant::now(), args.name);
    let outcome = restore(args, settings, around);
    let delivery = Delivery { name, outcome: came_to(&outcome), took: begun.elapsed() };
    if let Err(cause) = add_to(&journal, &delivery) {
        tracing::warn!("{}", Error::local("write file", &journal, cause));
    }
    outcome.map(drop)
}

fn came_to(outcome: &Result<Came>) -> Outcome {
    match outcome {
        Ok(Came::Ready) => Outcome::Ready,
        Ok(Came::Late) => Outcome::Late,
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Outcome::Absent,
            ErrorKind::Corrupt | ErrorKind::Mismatch => Outcome::Damaged,
            _ => Outcome::Unknown,
        },
    }
}

fn add_to(journal: &Path, delivery: &Delivery) -> std::io::Result<()> {
    // One write: calls follow each other, and whoever reads meanwhile sees whole lines.
    OpenOptions::new().append(true).open(journal)?.write_all(format!("{delivery}\n").as_bytes())
}

/// How a file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// It lay ready.
    Ready,
    /// The store was asked.
    Late,
}

fn restore(args: WalRestoreArgs, settings: &Settings, around: &Surroundings<'_>) -> Result<Came> {
    if args.jobs < 2 {
        return ask_the_store(args, settings, around);
    }
    let begun = begin(&args, settings, around);
    let call = begun.inspect_err(|error| tracing::warn!("{error}; no WAL is fetched ahead")).ok();
    match (call, args.name) {
        (Some(call), WalFileName::Segment(segment)) => restore_segment(&args, segment, call, (settings, around)),
        (Some(mut call), _) => {
            // Recovery asks for histories where WAL ends.
            call.report();
            ask_the_store(args, settings, around)
        }
        (None, _) => ask_the_store(args, settings, around),
    }
}

fn restore_segment(
    args: &WalRestoreArgs,
    segment: SegmentName,
    mut call: Call,
    (settings, around): (&Settings, &Surroundings<'_>),
) -> Result<Came> {
    let came = if call.deliver(segment) {
        if call.was_ready() { Came::Ready } else { Came::Late }
    } else {
        let outcome = ask_the_store(args.clone(), settings, around);
        match &outcome {
            Ok(_) => call.fetched(segment),
            Err(error) if error.kind() == ErrorKind::NotFound => call.report(),
            Err(_) => {}
        }
        outcome?
    };
    if call.needs_helper()
        && let Err(error) = start_helper(args, settings, &call)
    {
        tracing::warn!("{error}; no WAL is fetched ahead");
    }
    Ok(came)
}

fn begin(args: &WalRestoreArgs, settings: &Settings, around: &Surroundings<'_>) -> Result<Call> {
    let (store, server) = place(settings, around)?;
    Call::begin(&recovery(args, &store, &server))
}

fn place(settings: &Settings, around: &Surroundings<'_>) -> Result<(String, ServerPrefix)> {
    Ok((identity(&settings.store, around.environment)?, server_prefix(&settings.store)?))
}

fn recovery<'a>(args: &'a WalRestoreArgs, store: &'a str, server: &'a ServerPrefix) -> Recovery<'a> {
    Recovery { destination: &args.destination, store, server, idle: args.idle }
}

fn ask_the_store(args: WalRestoreArgs, settings: &Settings, around: &Surroundings<'_>) -> Result<Came> {
    single_threaded()?.block_on(async {
        let archive = open(&settings.store, around.environment, traffic()).await?;
        wal_restore(&archive, &native_requests::wal_restore(args, settings)).await.map(|()| Came::Late)
    })
}

/// Starts this program anew. It inherits the environment, where secrets are, and nothing that somebody waits for the end of:
/// neither the pipe to the server's log nor the caller's.
fn start_helper(args: &WalRestoreArgs, settings: &Settings, call: &Call) -> Result<()> {
    let failed = |cause| Error::new(ErrorKind::Local, format!("could not start this program anew: {cause}"));
    let exe = std::env::current_exe().map_err(failed)?;
    let words = own_command_argv(settings, &exe, "wal-restore")?;
    let mut command = Command::new(exe);
    command.args(&words[1..]).args(["--compression", &settings.wal_compression.codec.to_string()]);
    command.args(["--jobs", &args.jobs.to_string(), "--fetch-ahead"]);
    match settings.log.verbosity {
        1.. => command.arg(format!("-{}", "v".repeat(settings.log.verbosity.unsigned_abs().into()))),
        0 => &mut command,
        ..0 => command.arg(format!("-{}", "q".repeat(settings.log.verbosity.unsigned_abs().into()))),
    };
    command.arg(args.name.to_string()).arg(&args.destination);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(call.helper_log()?);
    // Nobody waits for its end: it outlives this process.
    command.spawn().map(drop).map_err(failed)
}

fn help(args: &WalRestoreArgs, settings: &Settings, around: &Surroundings<'_>) -> Result<()> {
    let (store, server) = place(settings, around)?;
    let helper =
        Helper { recovery: recovery(args, &store, &server), jobs: args.jobs, expected: settings.wal_compression.codec };
    let patience =
        StoreSettings { retry_timeout_s: settings.store.retry_timeout_s.min(HELPER_RETRY_S), ..settings.store.clone() };
    let runtime = multi_threaded()?;
    let ended = runtime.block_on(async {
        let archive = open(&patience, around.environment, traffic()).await?;
        fetch_ahead(&archive, &helper).await
    })?;
    // Waits for what is being written.
    drop(runtime);
    if let Some(ended) = ended {
        ended.clear();
    }
    Ok(())
}

/// Shorter pauses are part of any recovery, and the process that waits lives no longer.
const IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(10);

/// `[wal_restore]`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct WalRestoreLayer {
    pub jobs: Option<usize>,
    pub idle: Option<Duration>,
}

impl WalRestoreLayer {
    /// This layer, and `lower` wherever it says nothing.
    pub fn or(self, lower: Self) -> Self {
        Self { jobs: self.jobs.or(lower.jobs), idle: self.idle.or(lower.idle) }
    }
}

/// After how long without a new request a recovery is over.
pub(super) fn idle(text: &str) -> Result<Duration> {
    let duration = parse_duration(text)?;
    if !IDLE.contains(&duration) {
        return Err(Error::usage(format!("\"{text}\" cannot be waited for: it must be from 1s to 10m")));
    }
    Ok(duration)
}
