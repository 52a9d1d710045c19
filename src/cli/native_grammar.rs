//! The words of `barback <command>`: every option, its help, and what clap can check of it.

#![expect(clippy::doc_markdown, reason = "these doc comments are help texts, which show back-ticks as they are")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

use super::check::CheckOptions;
use super::config::{self, CompressionLayer, Layer};
use super::drill::DrillOptions;
use super::drill_history::HistoryOptions;
use super::expire::{DeleteOptions, ExpireOptions, KeepOptions};
use super::invocation::{AddressingStyle, AnswerShape, LogFormat, OutputFormat};
use super::status::StatusOptions;
use super::verify::VerifyArgs;
use super::zone::Zone;
use crate::domain::backup::BackupName;
use crate::domain::compression::Compression;
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::{RecoveryTarget, TargetAction, TargetRequest, TargetTimeline, parse_target_time};
use crate::domain::segment::WalFileName;
use crate::error::{Error, Result};

/// Archives PostgreSQL's WAL, takes base backups, and restores a data directory to a chosen moment.
#[derive(Debug, Parser)]
#[command(
    name = "barback",
    version,
    disable_help_subcommand = false,
    max_term_width = 100,
    after_help = "Settings come from flags, then the environment, then the configuration file. A setting's name in the \
                  environment is BARBACK_ and its key in capitals: BARBACK_STORE, BARBACK_BACKUP_JOBS.\n\n\
                  In postgresql.conf:\n  \
                  archive_command = 'barback wal-archive %p'\n  \
                  restore_command = 'barback wal-restore %f %p'\n\n\
                  Exit codes: 0 done, 1 not there, 2 store unreachable or refused, 3 usage, 4 anything else;\n\
                  wal-restore: 1 only when the file is proved absent, otherwise 255."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub global: GlobalOptions,
    #[command(subcommand)]
    pub command: Words,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct GlobalOptions {
    /// Configuration file (TOML) [env: BARBACK_CONFIG] [default: /etc/barback.toml when there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the backups are: s3://, az://, gs:// and a bucket, or file:///dir [env: BARBACK_STORE]
    #[arg(long, global = true, value_name = "URL")]
    pub store: Option<String>,
    /// The cluster's name inside the store [env: BARBACK_SERVER] [default: main]
    #[arg(long, global = true, value_name = "NAME")]
    pub server: Option<String>,
    /// Shape of the answer: text or json; of drill history csv too [env: BARBACK_OUTPUT] [default: text]
    #[arg(short, long, global = true, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<AnswerShape>,
    /// URL of an S3 service other than AWS
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// How S3 URLs name the bucket: auto, path or virtual [default: auto]
    #[arg(long, global = true, value_name = "STYLE", hide_possible_values = true)]
    pub s3_addressing_style: Option<AddressingStyle>,
    /// Profile in ~/.aws to take credentials from
    #[arg(long, global = true, value_name = "NAME")]
    pub aws_profile: Option<String>,
    /// Region of the bucket
    #[arg(long, global = true, value_name = "NAME")]
    pub region: Option<String>,
    /// PEM file of certificate authorities to trust beside the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    /// How long to repeat requests that fail for a passing reason [default: 60]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = config::retry_timeout_s)]
    pub retry_timeout: Option<u64>,
    /// Say more; twice for details [env: BARBACK_LOG, a level]
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say less: only errors; twice for only the last one
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
    /// Shape of the lines on stderr: text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,
    /// Draw no progress bar (they are drawn on terminals only)
    #[arg(long, global = true)]
    pub no_progress: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Words {
    /// Archive a WAL file, for archive_command
    #[command(after_help = "Example, in postgresql.conf:\n  archive_command = 'barback wal-archive %p'\n\n\
                            Exits 0 only when the store has confirmed the object. A file that is already there with the \
                            same content is a success; with other content it is an error, and is never overwritten.\n\n\
                            After a failover, a shutdown or a long outage:\n  \
                            barback wal-archive --all /var/lib/postgresql/15/main/pg_wal")]
    WalArchive(WalArchiveOptions),
    /// Restore a WAL file, for restore_command
    #[command(after_help = "Example, in postgresql.conf:\n  restore_command = 'barback wal-restore %f %p'\n\n\
                            Exits 0 when the file is in place, 1 when it is proved absent (PostgreSQL then takes the WAL \
                            to end there), 255 when nobody knows (PostgreSQL stops instead of losing data).")]
    WalRestore(WalRestoreOptions),
    /// Take a base backup of the running server on this host, and print its id
    #[command(after_help = "Examples:\n  barback backup -d 'host=/run/postgresql user=postgres'\n  \
                            barback backup --name before-upgrade --jobs 4 --fast\n\n\
                            Passwords come from ~/.pgpass, PGPASSFILE or PGPASSWORD.")]
    Backup(BackupOptions),
    /// Restore a data directory, ready to start and recover to a target
    #[command(after_help = "Examples:\n  barback restore /var/lib/postgresql/15/copy\n  \
                            barback restore /srv/copy --target-time '2026-06-08 11:32:00+00' --target-action promote\n  \
                            barback restore /srv/copy --target-lsn 16/B374D848 --exclusive --plan\n\n\
                            Times need an offset: Z, +02, +02:00. Without a target, all WAL in the store is replayed.")]
    Restore(Box<RestoreOptions>),
    /// List the backups
    #[command(after_help = "Example:\n  barback list -o json")]
    List,
    /// Show all that is known about one backup
    #[command(after_help = "Examples:\n  barback show latest\n  barback show 20260608T113200 -o json")]
    Show {
        /// An id, a name, latest or oldest
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Prove that a backup restores: recover a copy, look into it, clean up
    #[command(after_help = "Examples:\n  barback drill\n  barback drill --target random --objective 2h\n  \
                            barback drill --level 1\n\n\
                            Exits 0 when it passed, 1 when the backup is at fault, 5 when this host or the store was.")]
    Drill(Box<DrillWords>),
    /// Show what can be recovered, what is missing, and what should be done
    #[command(after_help = "Examples:\n  barback status\n  \
                            barback status --host -o json\n\n\
                            Computed from the names in the store, whatever was said when they were written.")]
    Status(StatusOptions),
    /// Is everything there: every object of a backup, and all WAL from its begin to now
    #[command(
        after_help = "Examples:\n  barback verify\n  barback verify --all --deep --sample 5% --max-duration 2h\n\n\
                            Exits 0 when everything that was looked at is as it should be, 1 when something is missing or \
                            damaged, 5 when not everything could be looked at."
    )]
    Verify(VerifyArgs),
    /// Look whether this host can archive, and what keeps it from it
    #[command(after_help = "Examples:\n  barback check -d 'host=/run/postgresql user=postgres'\n  \
                            barback check -o json\n\n\
                            One line for each finding: what, why it matters, what to type. Exits 0 without a problem, 1 with \
                            one, 2 when the store cannot be reached. Run it as the user PostgreSQL runs as.")]
    Check(CheckOptions),
    /// Delete what the retention policy no longer needs, each with its reason
    #[command(after_help = "Examples:\n  barback expire --policy 30d --dry-run\n  \
                            barback expire --policy 'RECOVERY WINDOW OF 4 WEEKS' --minimum-redundancy 2\n  \
                            barback expire --debris --dry-run\n\n\
                            A dry run prints what a real run prints, and deletes nothing.")]
    Expire(ExpireOptions),
    /// Delete one backup and the WAL that only it needed
    #[command(after_help = "Example:\n  barback delete 20260608T113200 --dry-run")]
    Delete(DeleteOptions),
    /// Keep a backup whatever the retention policy says, with all WAL since it
    #[command(after_help = "Examples:\n  barback keep 20260608T113200\n  barback keep before-upgrade --standalone\n  \
                            barback keep 20260608T113200 --release")]
    Keep(KeepOptions),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  barback completions bash > /etc/bash_completion.d/barback")]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Make links under the names of Barman's cloud commands
    #[command(after_help = "Example:\n  barback install-links /usr/local/bin\n\n\
                            Nine links barman-cloud-*. A file of that name that is no link to barback is left alone, and \
                            then none is made.")]
    InstallLinks {
        /// The directory for the links, one of the caller's PATH
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print the version
    Version,
}

/// The words behind `drill`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct DrillWords {
    #[command(subcommand)]
    pub command: Option<DrillCommand>,
    #[command(flatten)]
    pub options: DrillOptions,
}

#[derive(Debug, Subcommand)]
pub(super) enum DrillCommand {
    /// List the drills on record, and say whether the row of records is whole
    #[command(after_help = "Examples:\n  barback drill history\n  barback drill history --since 90d -o csv\n  \
                            barback drill history --since 2026-01-01 -o json\n\n\
                            Each record holds the digest of the one before it. Exits 0 when the row is whole, 1 when a record \
                            is missing, was changed or cannot be read.")]
    History(HistoryOptions),
}

#[derive(Debug, Args)]
pub(super) struct WalArchiveOptions {
    /// The file to archive: %p
    #[arg(value_name = "PATH", required_unless_present = "all")]
    pub path: Option<PathBuf>,
    /// Archive every finished file of this pg_wal that is not in the store
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    pub all: Option<PathBuf>,
    /// Segments on their way at once: others that are ready ride along [default: 1; with --all: 2]
    #[arg(long, value_name = "N", value_parser = config::jobs)]
    pub jobs: Option<usize>,
    /// none, gzip, bzip2, xz, zstd, lz4 or snappy [default: zstd]
    #[arg(long, value_name = "WORD")]
    pub compression: Option<Compression>,
    /// Level of the compression [default for zstd: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub compression_level: Option<i32>,
}

#[derive(Debug, Args)]
pub(super) struct WalRestoreOptions {
    /// The file asked for: %f
    #[arg(value_name = "NAME")]
    pub name: WalFileName,
    /// Where to put it: %p
    #[arg(value_name = "DEST")]
    pub destination: PathBuf,
    /// The compression to look for first; all are found [default: zstd]
    #[arg(long, value_name = "WORD")]
    pub compression: Option<Compression>,
    /// Segments to fetch at once while PostgreSQL replays; 1 fetches none ahead [default: 1]
    #[arg(long, value_name = "N", value_parser = config::jobs)]
    pub jobs: Option<usize>,
    /// This is the process that fetches them
    #[arg(long, hide = true)]
    pub fetch_ahead: bool,
    /// What the call came to is added to this file
    #[arg(long, hide = true, value_name = "FILE")]
    pub journal: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct BackupOptions {
    /// Connection string or URI, by libpq's rules [default: the PG* variables]
    #[arg(short, long, value_name = "CONNINFO")]
    pub dbname: Option<String>,
    /// The data directory on this host [default: what the server says]
    #[arg(long, value_name = "DIR")]
    pub pgdata: Option<PathBuf>,
    /// A name to remember the backup by
    #[arg(long, value_name = "NAME")]
    pub name: Option<BackupName>,
    /// Workers that read, compress and upload [default: 2]
    #[arg(long, value_name = "N", value_parser = config::jobs)]
    pub jobs: Option<usize>,
    /// none, gzip, bzip2, xz, zstd, lz4 or snappy [default: zstd]
    #[arg(long, value_name = "WORD")]
    pub compression: Option<Compression>,
    /// Level of the compression [default for zstd: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub compression_level: Option<i32>,
    /// Start with an immediate checkpoint instead of a spread one
    #[arg(long)]
    pub fast: bool,
    /// Upload at most this much a second, as 50MiB
    #[arg(long, value_name = "SIZE", value_parser = config::max_rate)]
    pub max_rate: Option<u64>,
    /// Hold at most this much in memory, whatever the jobs [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = config::max_memory)]
    pub max_memory: Option<usize>,
    /// Size of one upload request, 5MiB to 512MiB [default: 8MiB]
    #[arg(long, value_name = "SIZE", value_parser = config::part_size)]
    pub part_size: Option<u64>,
    /// How long to wait for the backup's WAL to be in the store [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = config::wait)]
    pub wal_timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct RestoreOptions {
    /// The directory to fill; it must be empty or not exist
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// An id, a name, latest or oldest [default: chosen for the target]
    #[arg(long, value_name = "ID")]
    pub backup: Option<String>,
    /// Put a tablespace into another directory; may be repeated
    #[arg(long = "tablespace", value_name = "NAME=DIR", value_parser = tablespace)]
    pub tablespaces: Vec<(String, PathBuf)>,
    /// Parts to fetch at once [default: twice the cores, 8 at most]
    #[arg(long, value_name = "N", value_parser = config::jobs)]
    pub jobs: Option<usize>,
    /// Download at most this much a second, as 50MiB
    #[arg(long, value_name = "SIZE", value_parser = config::max_rate)]
    pub max_rate: Option<u64>,
    /// Hold at most this much in memory, whatever the jobs [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = config::max_memory)]
    pub max_memory: Option<usize>,
    /// Say what would be done, and touch nothing
    #[arg(long)]
    pub plan: bool,
    /// Restore the files only: no recovery target, no recovery.signal
    #[arg(long, conflicts_with_all = ["target", "target_action", "exclusive", "target_timeline"])]
    pub no_recovery: bool,
    /// Where PostgreSQL's programs are, to check that their version fits
    #[arg(long, value_name = "DIR")]
    pub pg_bindir: Option<PathBuf>,
    /// Leave archive_mode as it was [default: off in the copy]
    #[arg(long)]
    pub keep_archiving: bool,
    #[command(flatten)]
    pub target: TargetOptions,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Recovery target (one at most)")]
pub(super) struct TargetOptions {
    /// Recover to a commit time, with its offset
    #[arg(long, value_name = "TIME", group = "target")]
    pub target_time: Option<String>,
    /// Recover to a place in the WAL
    #[arg(long, value_name = "LSN", group = "target")]
    pub target_lsn: Option<Lsn>,
    /// Recover to a transaction
    #[arg(long, value_name = "XID", group = "target", value_parser = clap::value_parser!(u64).range(3..))]
    pub target_xid: Option<u64>,
    /// Recover to a point named with pg_create_restore_point()
    #[arg(long, value_name = "NAME", group = "target")]
    pub target_name: Option<String>,
    /// Recover only until the copy is consistent
    #[arg(long, group = "target")]
    pub target_immediate: bool,
    /// Stop just before the target (time, LSN or transaction) instead of just after
    #[arg(long, requires = "target", conflicts_with_all = ["target_name", "target_immediate"])]
    pub exclusive: bool,
    /// Timeline to follow: a number, latest or current [default: latest]
    #[arg(long, value_name = "TIMELINE")]
    pub target_timeline: Option<TargetTimeline>,
    /// What the server does at the target: pause, promote or shutdown [default: pause]
    #[arg(long, value_name = "ACTION", requires = "target")]
    pub target_action: Option<TargetAction>,
}

impl TargetOptions {
    pub fn request(self, local: Zone) -> Result<TargetRequest> {
        let target = if let Some(text) = self.target_time {
            RecoveryTarget::Time(parse_target_time(&text, |written| local.offset_at(written))?)
        } else if let Some(lsn) = self.target_lsn {
            RecoveryTarget::Lsn(lsn)
        } else if let Some(xid) = self.target_xid {
            RecoveryTarget::Xid(xid)
        } else if let Some(name) = self.target_name {
            RecoveryTarget::Name(name)
        } else if self.target_immediate {
            RecoveryTarget::Immediate
        } else {
            RecoveryTarget::Latest
        };
        // PostgreSQL pauses at a target unless told otherwise, and promotes at the end of the WAL whatever it was told.
        let action = if target == RecoveryTarget::Latest { TargetAction::Promote } else { TargetAction::Pause };
        let request = TargetRequest {
            target,
            inclusive: !self.exclusive,
            timeline: self.target_timeline.unwrap_or(TargetTimeline::Latest),
            action: self.target_action.unwrap_or(action),
        };
        request.validate()?;
        Ok(request)
    }
}

impl Cli {
    /// What the flags say. Texts that may hold a secret by mistake are checked here: clap would repeat them.
    pub fn layer(&self) -> Result<Layer> {
        let global = &self.global;
        let mut layer = Layer {
            store: check("--store", global.store.as_deref(), config::store_url)?,
            server: check("--server", global.server.as_deref(), config::server_name)?,
            output: self.output()?,
            endpoint_url: check("--endpoint-url", global.endpoint_url.as_deref(), config::endpoint_url)?,
            addressing_style: global.s3_addressing_style,
            aws_profile: check("--aws-profile", global.aws_profile.as_deref(), config::one_word)?,
            region: check("--region", global.region.as_deref(), config::one_word)?,
            ca_bundle: global.ca_bundle.as_deref().map(absolute).transpose()?,
            retry_timeout_s: global.retry_timeout,
            log_format: global.log_format,
            ..Layer::default()
        };
        match &self.command {
            Words::WalArchive(options) => {
                layer.wal = CompressionLayer { codec: options.compression, level: options.compression_level };
                layer.wal_archive_jobs = options.jobs;
            }
            Words::WalRestore(options) => {
                layer.wal.codec = options.compression;
                layer.wal_restore.jobs = options.jobs;
            }
            Words::Backup(options) => {
                layer.backup = options.layer()?;
                layer.max_memory_bytes = options.max_memory;
            }
            Words::Restore(options) => {
                layer.restore_jobs = options.jobs;
                layer.restore_max_rate_bytes = options.max_rate;
                layer.max_memory_bytes = options.max_memory;
            }
            Words::Drill(words) => {
                let options = &words.options;
                layer.restore_jobs = options.jobs;
                layer.restore_max_rate_bytes = options.max_rate;
                layer.max_memory_bytes = options.max_memory;
            }
            Words::Verify(options) => layer.max_memory_bytes = options.max_memory,
            Words::Check(options) => layer.backup = options.layer()?,
            Words::Expire(options) => layer.expire = options.layer(),
            Words::Delete(options) => layer.expire.minimum_redundancy = options.minimum_redundancy,
            Words::List
            | Words::Show { .. }
            | Words::Status(_)
            | Words::Keep(_)
            | Words::Completions { .. }
            | Words::InstallLinks { .. }
            | Words::Version => {}
        }
        Ok(layer)
    }
}

impl Cli {
    /// Whether rows for a spreadsheet are asked for.
    pub fn is_csv(&self) -> bool {
        self.global.output == Some(AnswerShape::Csv)
    }

    fn is_drill_history(&self) -> bool {
        matches!(&self.command, Words::Drill(words) if words.command.is_some())
    }

    /// What other shape is asked for.
    fn output(&self) -> Result<Option<OutputFormat>> {
        match self.global.output {
            Some(AnswerShape::Csv) if !self.is_drill_history() => {
                Err(Error::usage("csv is for \"drill history\" alone").with_hint("Use -o text or -o json."))
            }
            None | Some(AnswerShape::Csv) => Ok(None),
            Some(AnswerShape::Text) => Ok(Some(OutputFormat::Text)),
            Some(AnswerShape::Json) => Ok(Some(OutputFormat::Json)),
        }
    }
}

impl BackupOptions {
    pub fn layer(&self) -> Result<config::BackupLayer> {
        Ok(config::BackupLayer {
            jobs: self.jobs,
            compression: CompressionLayer { codec: self.compression, level: self.compression_level },
            part_size_bytes: self.part_size,
            max_rate_bytes: self.max_rate,
            dbname: check("--dbname", self.dbname.as_deref(), config::conninfo)?,
            pgdata: self.pgdata.as_deref().map(absolute).transpose()?,
            fast: self.fast.then_some(true),
            wal_timeout: self.wal_timeout,
        })
    }
}

fn check(option: &str, text: Option<&str>, read: fn(&str) -> Result<String>) -> Result<Option<String>> {
    text.map(|text| read(text).map_err(|error| error.context(option))).transpose()
}

fn tablespace(text: &str) -> Result<(String, PathBuf)> {
    match text.split_once('=') {
        Some((name, directory)) if !name.is_empty() && !directory.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(directory)))
        }
        _ => Err(Error::usage(format!("\"{}\" is not of the form NAME=DIR", text.escape_debug()))),
    }
}

/// `path` as seen from every directory; nothing is looked up.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Error::usage(format!("\"{}\" cannot be used as a path: {error}", path.display())))
}
