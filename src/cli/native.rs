//! The grammar of `barback <command>`, and from an argument list to a typed invocation.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;

use super::check::CheckArgs;
use super::config::{self, DEFAULT_PATH, Layer};
use super::exit_code::{self, Caller};
use super::invocation::{
    AddressingStyle, BackupArgs, Command, Invocation, LogFormat, LogSettings, RestoreArgs, Run, Settings,
    StoreSettings, WalArchiveArgs, WalRestoreArgs,
};
use super::native_grammar::{Cli, DrillCommand, GlobalOptions, RestoreOptions, WalArchiveOptions, Words, absolute};
use super::status::{HostArgs, StatusArgs};
use super::wal_archive_all::{DEFAULT_JOBS, WalArchiveAllArgs};
use super::zone::Zone;
use super::{log, output};
use crate::commands::memory;
use crate::error::{Error, ErrorKind, Result};

/// Two workers keep a disk and a network busy without starving the server they run beside.
const DEFAULT_BACKUP_JOBS: usize = 2;

/// One upload request: S3's 10,000 parts of it hold 78 GiB, more than one archive part.
const DEFAULT_PART_SIZE_BYTES: u64 = 8 << 20;

/// Long enough for a store that is down for a moment; the segment itself is shipped by the backup.
const DEFAULT_WAL_TIMEOUT: Duration = Duration::from_mins(10);

/// Long enough to ride out a fail-over of the store, short enough that recovery does not seem to hang.
const DEFAULT_RETRY_TIMEOUT_S: u64 = 60;

/// More parts fetched at once gain nothing on one host's disk.
const MAX_DEFAULT_RESTORE_JOBS: usize = 8;

/// More segments at once come no faster than one server replays them.
const MAX_DEFAULT_WAL_RESTORE_JOBS: usize = 4;

/// Recovery that asks for nothing for so long waits for something else than WAL, or is over.
const DEFAULT_IDLE: Duration = Duration::from_secs(30);

/// Reads `argv` (with the program's name first) and the environment, and the configuration file they lead to.
///
/// `local` is this host's zone, used to explain a time without an offset.
///
/// Errors: [`Exit`], which knows what to print (help too) and the exit code.
pub fn parse(
    argv: Vec<OsString>,
    env: &BTreeMap<String, String>,
    local: Zone,
) -> std::result::Result<Invocation, Exit> {
    parse_with(argv, env, local, Path::new(DEFAULT_PATH))
}

fn parse_with(
    argv: Vec<OsString>,
    env: &BTreeMap<String, String>,
    local: Zone,
    default_config: &Path,
) -> std::result::Result<Invocation, Exit> {
    let likely = likely_caller(&argv);
    let cli = Cli::try_parse_from(argv).map_err(|error| Exit::from_clap(error, likely))?;
    let caller = if matches!(cli.command, Words::WalRestore(_)) { Caller::Recovery } else { Caller::Anyone };
    invocation(cli, env, local, default_config)
        .map_err(|error| Exit::Refused { code: exit_code::of(error.kind(), caller), error })
}

/// Writes the completion script for `shell`.
pub fn completions(shell: Shell, out: &mut dyn Write) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "barback", &mut script);
    output::emit(out, &script)
}

/// Why there is nothing to run: help was asked for, or the words cannot be used.
#[derive(Debug)]
pub enum Exit {
    /// clap has the text: help and version for stdout, a complaint for stderr.
    Grammar {
        /// Prints itself, coloured on a terminal.
        error: Box<clap::Error>,
        /// The exit code.
        code: u8,
    },
    /// Names, values or configuration cannot be used.
    Refused {
        /// What and why.
        error: Error,
        /// The exit code.
        code: u8,
    },
}

impl Exit {
    fn from_clap(error: clap::Error, caller: Caller) -> Self {
        let code = if error.use_stderr() { exit_code::of(ErrorKind::Usage, caller) } else { exit_code::DONE };
        Self::Grammar { error: Box::new(error), code }
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Grammar { code, .. } | Self::Refused { code, .. } => *code,
        }
    }

    /// Prints what there is to say, on the right stream.
    pub fn print(&self) {
        match self {
            // A reader that has gone away has read enough.
            Self::Grammar { error, .. } => drop(error.print()),
            Self::Refused { error, .. } => log::report(error, "barback", LogFormat::Text, &mut std::io::stderr()),
        }
    }
}

/// Who reads the exit code, as far as words that could not be parsed tell. In doubt it is recovery: 255 instead of 3
/// costs an operator nothing, 3 instead of 255 would end recovery early.
#[must_use]
pub fn likely_caller(argv: &[OsString]) -> Caller {
    if argv.iter().any(|word| word == "wal-restore") { Caller::Recovery } else { Caller::Anyone }
}

/// True when a call of `wal-restore` has started this process to fetch ahead; nobody reads how it ends.
#[must_use]
pub fn is_helper(argv: &[OsString]) -> bool {
    likely_caller(argv) == Caller::Recovery && argv.iter().any(|word| word == "--fetch-ahead")
}

fn invocation(cli: Cli, env: &BTreeMap<String, String>, local: Zone, default_config: &Path) -> Result<Invocation> {
    let flags = cli.layer()?;
    let is_csv = cli.is_csv();
    let said = flags.or(Layer::from_env(env)?);
    let run = match cli.command {
        Words::Completions { shell } => return Ok(Invocation::Completions(shell)),
        Words::InstallLinks { directory } => return Ok(Invocation::InstallLinks(directory)),
        Words::Version => return Ok(Invocation::Version(said.output.unwrap_or_default())),
        command => command,
    };
    let (config_path, explicit) = config_path(&cli.global, env, default_config)?;
    let file = config_path.as_deref().map(Layer::from_file).transpose()?.unwrap_or_default();
    let merged = said.clone().or(file.clone()).or(Layer::from_aws_env(env));
    let store = store_settings(&merged)?;
    let explicit_config = config_path.as_deref().filter(|_| explicit);
    let wal_restore_jobs = match (said.wal_restore.jobs, file.wal_restore.jobs) {
        (None, Some(_)) => None,
        // Counting cores takes longer than all else here, and most calls archive WAL.
        (None, None) if !matches!(run, Words::Restore(_) | Words::Drill(_)) => None,
        (said, _) => Some(said.unwrap_or_else(jobs_of_a_copy)),
    };
    let handed_on = hand_on(&store, explicit_config, |says| !says(&said) && says(&file));
    let settings = Settings {
        store,
        wal_compression: merged.wal.choice(),
        output: merged.output.unwrap_or_default(),
        log: LogSettings {
            verbosity: verbosity(&cli.global),
            filter: env.get("BARBACK_LOG").filter(|text| !text.is_empty()).cloned(),
            format: merged.log_format.unwrap_or_default(),
        },
        progress: !cli.global.no_progress && cli.global.quiet == 0,
        config_path,
        handed_on,
        wal_restore_jobs,
    };
    let mut command = command(run, merged, local)?;
    if let Command::DrillHistory(args) = &mut command {
        args.is_csv = is_csv;
    }
    Ok(Invocation::Run(Box::new(Run { settings, command })))
}

fn verbosity(global: &GlobalOptions) -> i8 {
    let count = |times: u8| i8::try_from(times).unwrap_or(i8::MAX);
    count(global.verbose).saturating_sub(count(global.quiet))
}

/// The configuration file to read, and whether it was named; absolute, because `restore_command` runs elsewhere.
fn config_path(
    global: &GlobalOptions,
    env: &BTreeMap<String, String>,
    default_config: &Path,
) -> Result<(Option<PathBuf>, bool)> {
    let from_env = || env.get("BARBACK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    match global.config.clone().or_else(from_env) {
        Some(path) => Ok((Some(absolute(&path)?), true)),
        // Only "is not there" means that there is none: a file that cannot be looked at must not be skipped silently.
        None => match std::fs::metadata(default_config) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((None, false)),
            _ => Ok((Some(default_config.to_owned()), false)),
        },
    }
}

fn store_settings(merged: &Layer) -> Result<StoreSettings> {
    let url = merged.store.clone().ok_or_else(|| {
        Error::usage("no store is given").with_hint(
            "Give it with --store URL, in the environment as BARBACK_STORE, or as store = \"URL\" in the configuration \
             file (/etc/barback.toml, or the one named by --config); a URL is s3://bucket/prefix or file:///dir.",
        )
    })?;
    Ok(StoreSettings {
        url,
        server: merged.server.clone().unwrap_or_else(|| "main".to_owned()),
        endpoint_url: merged.endpoint_url.as_deref().map(config::endpoint_url).transpose()?,
        addressing_style: merged.addressing_style.unwrap_or_default(),
        aws_profile: merged.aws_profile.clone(),
        region: merged.region.clone(),
        ca_bundle: merged.ca_bundle.as_deref().map(absolute).transpose()?,
        retry_timeout_s: merged.retry_timeout_s.unwrap_or(DEFAULT_RETRY_TIMEOUT_S),
        cache_dir: merged.cache_dir.clone(),
        // Words of Barman's commands; here the bucket's own rules do.
        readable_credentials: crate::store::ReadableByOthers::Refuse,
        read_timeout_s: None,
        tags: Vec::new(),
        encryption: None,
        azure_credential: None,
    })
}

/// Recovery replays on one core; the others fetch for it.
fn jobs_of_a_copy() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).clamp(2, MAX_DEFAULT_WAL_RESTORE_JOBS)
}

/// Whether a layer says anything about one setting.
type Says = fn(&Layer) -> bool;

/// The options that lead another process to the same store; `only_in_file` tells which settings the file gives.
fn hand_on(store: &StoreSettings, config: Option<&Path>, only_in_file: impl Fn(Says) -> bool) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| words.extend([option.into(), value]);
    if let Some(path) = config {
        add("--config", path.into());
    }
    add("--store", store.url.clone().into());
    add("--server", store.server.clone().into());
    if !store.url.starts_with("file:") {
        let style = store.addressing_style.to_possible_value().map(|word| word.get_name().to_owned());
        let style = style.filter(|_| store.addressing_style != AddressingStyle::Auto);
        let options: [(&str, Option<OsString>, Says); 5] = [
            ("--endpoint-url", store.endpoint_url.clone().map(Into::into), |layer| layer.endpoint_url.is_some()),
            ("--s3-addressing-style", style.map(Into::into), |layer| layer.addressing_style.is_some()),
            ("--aws-profile", store.aws_profile.clone().map(Into::into), |layer| layer.aws_profile.is_some()),
            ("--region", store.region.clone().map(Into::into), |layer| layer.region.is_some()),
            ("--ca-bundle", store.ca_bundle.clone().map(Into::into), |layer| layer.ca_bundle.is_some()),
        ];
        for (option, value, says) in options {
            if let Some(value) = value.filter(|_| !only_in_file(says)) {
                add(option, value);
            }
        }
    }
    if store.retry_timeout_s != DEFAULT_RETRY_TIMEOUT_S && !only_in_file(|layer| layer.retry_timeout_s.is_some()) {
        add("--retry-timeout", store.retry_timeout_s.to_string().into());
    }
    words
}

fn command(words: Words, merged: Layer, local: Zone) -> Result<Command> {
    Ok(match words {
        Words::WalArchive(WalArchiveOptions { all: Some(directory), .. }) => {
            let jobs = merged.wal_archive_jobs.unwrap_or(DEFAULT_JOBS);
            Command::WalArchiveAll(WalArchiveAllArgs { directory, jobs })
        }
        Words::WalArchive(options) => {
            let path = options.path.ok_or_else(|| Error::usage("there is no file to archive"))?;
            Command::WalArchive(WalArchiveArgs { path, jobs: merged.wal_archive_jobs.unwrap_or(1) })
        }
        Words::WalRestore(options) => Command::WalRestore(WalRestoreArgs {
            name: options.name,
            destination: options.destination,
            jobs: merged.wal_restore.jobs.unwrap_or(1),
            idle: merged.wal_restore.idle.unwrap_or(DEFAULT_IDLE),
            fetch_ahead: options.fetch_ahead,
            journal: options.journal,
        }),
        Words::Backup(options) => Command::Backup(BackupArgs {
            dbname: merged.backup.dbname,
            pgdata: merged.backup.pgdata,
            name: options.name,
            jobs: merged.backup.jobs.unwrap_or(DEFAULT_BACKUP_JOBS),
            compression: merged.backup.compression.choice(),
            fast: merged.backup.fast.unwrap_or(false),
            max_rate_bytes: merged.backup.max_rate_bytes,
            max_memory_bytes: merged.max_memory_bytes.unwrap_or(memory::DEFAULT_BYTES),
            part_size_bytes: merged.backup.part_size_bytes.unwrap_or(DEFAULT_PART_SIZE_BYTES),
            wal_timeout: merged.backup.wal_timeout.unwrap_or(DEFAULT_WAL_TIMEOUT),
        }),
        Words::Restore(options) => Command::Restore(Box::new(restore_args(*options, &merged, local)?)),
        Words::Expire(options) => Command::Expire(options.args(merged.expire)?),
        Words::Delete(options) => Command::Delete(options.args(merged.expire)),
        Words::Keep(options) => Command::Keep(options.args()),
        Words::List => Command::List,
        Words::Show { id } => Command::Show { id },
        Words::Status(options) => Command::Status(StatusArgs {
            metrics: options.metrics,
            host: options.host.then_some(HostArgs { dbname: merged.backup.dbname, pgdata: merged.backup.pgdata }),
        }),
        Words::Verify(args) => Command::Verify(args.within(merged.max_memory_bytes)),
        Words::Drill(words) => match words.command {
            Some(DrillCommand::History(options)) => Command::DrillHistory(options.args(local)),
            None => {
                let (memory, jobs) = (max_memory(&merged), restore_jobs(&merged));
                Command::Drill(Box::new(words.options.args(memory, jobs, merged.restore_max_rate_bytes, local)?))
            }
        },
        Words::Check(_) => Command::Check(CheckArgs { dbname: merged.backup.dbname, pgdata: merged.backup.pgdata }),
        Words::Completions { .. } | Words::InstallLinks { .. } | Words::Version => {
            return Err(Error::new(ErrorKind::Bug, "a command without a store came to one with a store"));
        }
    })
}

fn max_memory(merged: &Layer) -> usize {
    merged.max_memory_bytes.unwrap_or(memory::DEFAULT_BYTES)
}

fn restore_jobs(merged: &Layer) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    merged.restore_jobs.unwrap_or_else(|| (2 * cores()).min(MAX_DEFAULT_RESTORE_JOBS))
}

fn restore_args(options: RestoreOptions, merged: &Layer, local: Zone) -> Result<RestoreArgs> {
    let mut tablespaces = BTreeMap::new();
    for (name, directory) in options.tablespaces {
        if tablespaces.insert(name.clone(), absolute(&directory)?).is_some() {
            return Err(Error::usage(format!("tablespace \"{name}\" is given two directories")));
        }
    }
    Ok(RestoreArgs {
        directory: absolute(&options.directory)?,
        backup: options.backup,
        request: options.target.request(local)?,
        tablespaces,
        jobs: memory::for_readers(max_memory(merged), restore_jobs(merged)),
        max_rate_bytes: merged.restore_max_rate_bytes,
        plan: options.plan,
        recovery: !options.no_recovery,
        pg_bindir: options.pg_bindir.as_deref().map(absolute).transpose()?,
        keep_archiving: options.keep_archiving,
    })
}

#[cfg(test)]
mod tests;
