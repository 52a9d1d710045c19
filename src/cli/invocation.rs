//! What the caller asked for: settings and commands, typed, complete and with every default in place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap_complete::Shell;

use super::check::CheckArgs;
use super::drill::DrillArgs;
use super::drill_history::HistoryArgs;
use super::exit_code::Caller;
use super::expire::{DeleteArgs, ExpireArgs, KeepArgs};
use super::status::StatusArgs;
use super::verify::VerifyArgs;
use super::wal_archive_all::WalArchiveAllArgs;
use crate::domain::backup::BackupName;
use crate::domain::compression::Compression;
use crate::domain::recovery_target::TargetRequest;
use crate::domain::segment::WalFileName;
use crate::error::{Error, Result};
use crate::store::{AzureCredential, Encryption, ReadableByOthers};

/// A parsed command line. Only [`Invocation::Run`] has read configuration: the others work on a host
/// whose configuration is broken.
#[derive(Debug)]
pub enum Invocation {
    /// A command that works on a store.
    Run(Box<Run>),
    /// Print the completion script for a shell: `native::completions`.
    Completions(Shell),
    /// Make the links of the other face in a directory: `links::install`.
    InstallLinks(PathBuf),
    /// Print the version: `output::version`.
    Version(OutputFormat),
}

/// A command that works on a store, with its settings.
#[derive(Debug)]
pub struct Run {
    /// What holds for every command.
    pub settings: Settings,
    /// What to do.
    pub command: Command,
}

/// What holds for every command, after merging flags, environment, file and defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the objects are.
    pub store: StoreSettings,
    /// How WAL is compressed, and which suffix `wal-restore` tries first; the flags of `wal-archive` and `wal-restore`
    /// are in it already.
    pub wal_compression: CompressionChoice,
    /// The shape of stdout.
    pub output: OutputFormat,
    /// How stderr talks.
    pub log: LogSettings,
    /// False when progress bars were switched off; they show only on a terminal anyway.
    pub progress: bool,
    /// The configuration file that was read.
    pub config_path: Option<PathBuf>,
    /// Options that give another process these same store settings; see [`restore_command_argv`].
    pub(super) handed_on: Vec<OsString>,
    /// The `--jobs` of the `restore_command` of a copy; none where the configuration file says it, and where no copy is made.
    pub(super) wal_restore_jobs: Option<usize>,
}

/// Where the objects are and how to get at them. Holds no secret: those come from the AWS credential chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// `s3://bucket/prefix` or `file:///dir`; known to have a scheme and no user name or password.
    pub url: String,
    /// The cluster's name inside the store.
    pub server: String,
    /// The S3 endpoint, `https://host:port`.
    pub endpoint_url: Option<String>,
    /// How the bucket's name gets into the URL.
    pub addressing_style: AddressingStyle,
    /// The profile in `~/.aws` to take credentials and region from.
    pub aws_profile: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// A PEM file of certificate authorities to trust beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// For how long a request that fails transiently is repeated.
    pub retry_timeout_s: u64,
    /// How long nothing at all may come back; `None`: sized by what a request moves.
    pub read_timeout_s: Option<u64>,
    /// Tags of every object written.
    pub tags: Vec<(String, String)>,
    /// How the store encrypts what is written.
    pub encryption: Option<Encryption>,
    /// Which Azure credential to use; `None`: what the environment gives.
    pub azure_credential: Option<AzureCredential>,
    /// Where what was learned about a store may be remembered between calls.
    pub cache_dir: Option<PathBuf>,
    /// What is done with files of credentials that everybody may read.
    pub readable_credentials: ReadableByOthers,
}

/// How an S3 bucket's name gets into the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum AddressingStyle {
    /// Virtual-hosted on AWS, path on any other endpoint.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    Virtual,
}

/// The shape of stdout for commands that answer with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: documents that carry `"schema": 1`.
    Json,
}

/// The shapes that flags can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AnswerShape {
    /// [`OutputFormat::Text`].
    Text,
    /// [`OutputFormat::Json`].
    Json,
    /// Rows for a spreadsheet; of `drill history` alone.
    Csv,
}

/// The shape of the lines on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people and the PostgreSQL log.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How stderr talks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// `-v` counted up, `-q` counted down.
    pub verbosity: i8,
    /// `BARBACK_LOG`: a level or tracing directives; used when neither `-v` nor `-q` is given.
    pub filter: Option<String>,
    /// Text or JSON.
    pub format: LogFormat,
}

/// A compression with its level; `None` is the codec's own default level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionChoice {
    /// The format.
    pub codec: Compression,
    /// Its level. Whether the codec knows it is for the codec to say.
    pub level: Option<i32>,
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// `wal-archive PATH`; compressed as `Settings::wal_compression` says.
    WalArchive(WalArchiveArgs),
    /// `wal-archive --all DIR`; compressed alike.
    WalArchiveAll(WalArchiveAllArgs),
    /// `wal-restore NAME DEST`; looks for `Settings::wal_compression`'s suffix first.
    WalRestore(WalRestoreArgs),
    /// `backup`; WAL it has to ship itself is compressed as `Settings::wal_compression` says.
    Backup(BackupArgs),
    /// `restore DIR`.
    Restore(Box<RestoreArgs>),
    /// `list`.
    List,
    /// `show ID`.
    Show {
        /// An id, a name, `latest` or `oldest`.
        id: String,
    },
    /// `drill`.
    Drill(Box<DrillArgs>),
    /// `status`.
    Status(StatusArgs),
    /// `verify [ID|--all]`.
    Verify(VerifyArgs),
    /// `drill history`.
    DrillHistory(HistoryArgs),
    /// `check`.
    Check(CheckArgs),
    /// `expire`.
    Expire(ExpireArgs),
    /// `delete ID`.
    Delete(DeleteArgs),
    /// `keep ID`.
    Keep(KeepArgs),
}

impl Command {
    /// Who reads the exit code.
    #[must_use]
    pub fn caller(&self) -> Caller {
        if matches!(self, Self::WalRestore(_)) { Caller::Recovery } else { Caller::Anyone }
    }
}

/// `wal-archive PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalArchiveArgs {
    /// The file, as PostgreSQL's `%p` gives it: relative to the data directory, which is the current directory.
    pub path: PathBuf,
    /// Segments on their way at once, 1 to 64: this one, and others that are ready.
    pub jobs: usize,
}

/// `wal-restore NAME DEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRestoreArgs {
    /// The file asked for, `%f`.
    pub name: WalFileName,
    /// Where it goes, `%p`: relative to the data directory, which is the current directory.
    pub destination: PathBuf,
    /// Segments fetched at once while recovery replays earlier ones, 1 to 64; with 1 none is fetched ahead.
    pub jobs: usize,
    /// After how long without a request recovery is over.
    pub idle: Duration,
    /// It is the helper that fetches ahead, not a call of recovery.
    pub fetch_ahead: bool,
    /// A drill's file, to which a line is added.
    pub journal: Option<PathBuf>,
}

/// `backup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupArgs {
    /// The connection string, without a password; `None`: libpq's defaults and `PG*` variables.
    pub dbname: Option<String>,
    /// The data directory, absolute; `None`: what the server says.
    pub pgdata: Option<PathBuf>,
    /// A name for people.
    pub name: Option<BackupName>,
    /// Workers, 1 to 64.
    pub jobs: usize,
    /// How the parts are compressed.
    pub compression: CompressionChoice,
    /// Checkpoint at once instead of spread out.
    pub fast: bool,
    /// The most to read from the data directory, in bytes per second, all workers together.
    pub max_rate_bytes: Option<u64>,
    /// All that may be in memory.
    pub max_memory_bytes: usize,
    /// The size of one upload request, 5 MiB to 512 MiB.
    pub part_size_bytes: u64,
    /// How long to wait after the copy for the WAL it needs to be in the store.
    pub wal_timeout: Duration,
}

/// `restore DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreArgs {
    /// The directory to fill, absolute.
    pub directory: PathBuf,
    /// An id, a name, `latest` or `oldest`; `None`: chosen for the target.
    pub backup: Option<String>,
    /// Where recovery stops.
    pub request: TargetRequest,
    /// New directories (absolute) of tablespaces, by name; others go where they were.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// Parts fetched at once, 1 to 64, as far as memory allows.
    pub jobs: usize,
    /// The most to read from the store, in bytes per second, all parts together.
    pub max_rate_bytes: Option<u64>,
    /// Only say what would be done.
    pub plan: bool,
    /// Write recovery settings; false for files only.
    pub recovery: bool,
    /// Where PostgreSQL's programs are, to check that the version fits.
    pub pg_bindir: Option<PathBuf>,
    /// Leave the archive settings of the copy as they were; otherwise it gets `archive_mode = off`, so that it can never
    /// write into its source's archive.
    pub keep_archiving: bool,
}

/// The words of a command that restores WAL from the same store: for `restore_command`, which adds `%f` and `%p`.
///
/// `exe` is this program's absolute path. Options that came from flags or the environment are written out, because the
/// server that runs the command has neither (nor may it have `AWS_REGION` and its like); those from a configuration file are not, except the store and the server,
/// but an explicitly named file is. No secret is among them: none can be among the settings. The words are not quoted
/// for a shell.
///
/// Errors: `Usage` when a path is not UTF-8, which the server's settings cannot hold.
pub fn restore_command_argv(settings: &Settings, exe: &Path) -> Result<Vec<String>> {
    let mut words = own_command_argv(settings, exe, "wal-restore")?;
    words.extend(["--compression".to_owned(), settings.wal_compression.codec.to_string()]);
    if let Some(jobs) = settings.wal_restore_jobs {
        words.extend(["--jobs".to_owned(), jobs.to_string()]);
    }
    Ok(words)
}

/// The words of this program's `command` on the same store, in the manner of [`restore_command_argv`].
pub(super) fn own_command_argv(settings: &Settings, exe: &Path, command: &str) -> Result<Vec<String>> {
    let words = [exe.as_os_str().to_owned(), command.into()].into_iter().chain(settings.handed_on.iter().cloned());
    let refuse = |word: OsString| {
        Error::usage(format!("could not write {command}'s command: \"{}\" is not UTF-8", word.to_string_lossy()))
    };
    words.map(|word| word.into_string().map_err(refuse)).collect()
}
