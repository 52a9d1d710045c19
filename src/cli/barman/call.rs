//! What was typed on a `barman-cloud-*` command line, typed; and what is printed when it is no call.

use std::ffi::OsString;
use std::path::PathBuf;

use super::argparse::{self, Ending};
use super::typed::{Refused, Typed};
use super::{grammar, usage};
use crate::cli::invocation::AddressingStyle;
use crate::domain::barman_retention::Keep as Retained;
use crate::domain::compression::{BarmanLevel, Compression};

/// The release whose command line this is, and which `--version` answers: scripts and operators ask for it to learn
/// what the command can do.
const BARMAN_VERSION: &str = "3.19.1";
/// How wide the terminal is when nobody says.
const DEFAULT_COLUMNS: usize = 80;

/// One of the nine commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `barman-cloud-wal-archive`
    WalArchive,
    /// `barman-cloud-wal-restore`
    WalRestore,
    /// `barman-cloud-backup`
    Backup,
    /// `barman-cloud-backup-list`
    BackupList,
    /// `barman-cloud-backup-show`
    BackupShow,
    /// `barman-cloud-backup-delete`
    BackupDelete,
    /// `barman-cloud-backup-keep`
    BackupKeep,
    /// `barman-cloud-check-wal-archive`
    CheckWalArchive,
    /// `barman-cloud-restore`
    Restore,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::WalArchive,
        Self::WalRestore,
        Self::Backup,
        Self::BackupList,
        Self::BackupShow,
        Self::BackupDelete,
        Self::BackupKeep,
        Self::CheckWalArchive,
        Self::Restore,
    ];

    /// `barman-cloud-wal-archive`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WalArchive => "barman-cloud-wal-archive",
            Self::WalRestore => "barman-cloud-wal-restore",
            Self::Backup => "barman-cloud-backup",
            Self::BackupList => "barman-cloud-backup-list",
            Self::BackupShow => "barman-cloud-backup-show",
            Self::BackupDelete => "barman-cloud-backup-delete",
            Self::BackupKeep => "barman-cloud-backup-keep",
            Self::CheckWalArchive => "barman-cloud-check-wal-archive",
            Self::Restore => "barman-cloud-restore",
        }
    }

    /// The inverse of [`Program::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name)
    }
}

/// A command line that Barman 3.19.1 would act on, with its defaults in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The command.
    pub program: Program,
    /// The provider, and how to get at it.
    pub cloud: Cloud,
    /// `-v` counted up, `-q` counted down.
    pub verbosity: i8,
    /// `-t`: look whether the bucket can be reached and is there, and do nothing else.
    pub test: bool,
    /// The URL as typed. Whether it is one is for later: Barman 3.19.1 ends with 4 when it is not.
    pub url: String,
    /// The server's name below the URL.
    pub server: String,
    /// What to do there.
    pub work: Work,
}

/// Whose storage it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// `aws-s3`, and whatever speaks its protocol.
    S3,
    /// `azure-blob-storage`
    Azure,
    /// `google-cloud-storage`
    Gcs,
}

/// The options that concern the store. Those of another provider than the chosen one are without effect, as in Barman.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// `--cloud-provider`
    pub provider: Provider,
    /// S3: `--endpoint-url`; may be empty.
    pub endpoint_url: Option<String>,
    /// S3: `--aws-profile`, `--profile`.
    pub aws_profile: Option<String>,
    /// S3: `--read-timeout`, any number.
    pub read_timeout_s: Option<i64>,
    /// S3: `--addressing-style`
    pub addressing_style: Option<AddressingStyle>,
    /// Azure: `--azure-credential`
    pub azure_credential: Option<AzureCredential>,
    /// S3: `--encryption`
    pub encryption: Option<S3Encryption>,
    /// S3: `--sse-kms-key-id`
    pub sse_kms_key_id: Option<String>,
    /// Google: `--kms-key-name`
    pub kms_key_name: Option<String>,
    /// Azure: `--encryption-scope`
    pub encryption_scope: Option<String>,
}

/// Where Azure's credentials come from, before what the environment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AzureCredential {
    /// Whoever is logged in with Azure's command line.
    AzureCli,
    /// The machine's own identity.
    ManagedIdentity,
    /// Azure's default chain.
    Default,
}

/// How S3 encrypts what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Encryption {
    /// `AES256`: with S3's own key.
    Aes256,
    /// `aws:kms`: with a key of the key management service.
    Kms,
}

/// What each command is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// `wal-archive`
    WalArchive(WalArchive),
    /// `wal-restore`
    WalRestore(WalRestore),
    /// `backup`
    Backup(Box<Backup>),
    /// `backup-list`
    List {
        /// The shape of stdout.
        format: Format,
    },
    /// `backup-show`
    Show {
        /// An ID, a name, or a word like `latest`.
        backup: String,
        /// The shape of stdout.
        format: Format,
    },
    /// `backup-delete`
    Delete(Delete),
    /// `backup-keep`
    Keep(Keep),
    /// `check-wal-archive`
    CheckWalArchive {
        /// `--timeline`: WAL of earlier timelines does not count.
        timeline: Option<u64>,
    },
    /// `restore`
    Restore(Box<Restore>),
}

/// The shape of stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table.
    Console,
    /// Any other word than `console` means JSON to Barman 3.19.1.
    Json,
}

/// A tag's key and value.
pub type Tag = (String, String);

/// `wal-archive`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalArchive {
    /// The file, as PostgreSQL's `%p` gives it. None only where a hook script gets it from the environment; anybody
    /// else must be refused.
    pub path: Option<PathBuf>,
    /// None: stored as it is.
    pub compression: Option<Compression>,
    /// None: the codec's own.
    pub level: Option<BarmanLevel>,
    /// Tags of the object.
    pub tags: Vec<Tag>,
    /// Tags of a history file instead of `tags`; None, or an empty `--history-tags`: the same.
    pub history_tags: Option<Vec<Tag>>,
    /// Azure: the size of one block.
    pub max_block_size: u64,
    /// Azure: how many blocks at once.
    pub max_concurrency: u64,
    /// Azure: up to which size one request takes it all.
    pub max_single_put_size: u64,
}

/// `wal-restore`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRestore {
    /// What PostgreSQL's `%f` gives. Whether it is the name of a WAL file is for later.
    pub name: String,
    /// Where it goes, `%p`.
    pub destination: PathBuf,
    /// `--no-partial`: never the `.partial` file in its place.
    pub no_partial: bool,
    /// How many files to fetch at once; below 2 only the one asked for.
    pub parallel: u64,
    /// Where files that were fetched ahead wait.
    pub spool_dir: PathBuf,
}

/// `backup`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// One of the four that Barman 3.19.1 has for backups, or none.
    pub compression: Compression,
    /// The server's host or socket directory; None: libpq's default.
    pub host: Option<String>,
    /// Its port; None: libpq's default.
    pub port: Option<String>,
    /// Who connects; None: libpq's default.
    pub user: Option<String>,
    /// The database, or where it is empty or has a `=`: the whole connection string.
    pub dbname: String,
    /// Checkpoint at once instead of spread out.
    pub immediate_checkpoint: bool,
    /// How many upload at once.
    pub jobs: usize,
    /// At which size an archive is closed and the next one begun.
    pub max_archive_size: u64,
    /// The least size of one upload request.
    pub min_chunk_size: Option<u64>,
    /// Bytes per second.
    pub max_bandwidth: Option<u64>,
    /// A name for people; no ID and no word like `latest`.
    pub name: Option<String>,
    /// Tags of every object.
    pub tags: Vec<Tag>,
    /// The first option typed that makes Barman take a snapshot of disks instead: `--snapshot-instance` or
    /// `--snapshot-disk`. The other options for snapshots are without effect where neither of these is.
    pub snapshot_option: Option<String>,
}

/// `backup-delete`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// What goes.
    pub what: Which,
    /// How many backups must stay.
    pub minimum_redundancy: u64,
    /// Say what would go, and leave it.
    pub dry_run: bool,
    /// How many objects one request deletes; any number, to be brought into the provider's limits.
    pub batch_size: Option<i64>,
    /// Look for locks on a backup's objects first.
    pub check_object_lock: bool,
}

/// Which backups to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// `--backup-id`: an ID, a name, or a word like `oldest`.
    Id(String),
    /// `--retention-policy` as typed: `RECOVERY WINDOW OF 7 DAYS`. Whether it is one is for later.
    Policy(String),
}

/// `backup-keep`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// An ID, a name, or a word like `latest`.
    pub backup: String,
    /// What to do about it.
    pub what: KeepAction,
}

/// What `backup-keep` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAction {
    /// No longer keep it.
    Release,
    /// Say how it is kept.
    Status,
    /// Keep it.
    Target(Retained),
}

/// `restore`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// An ID, a name, a word like `latest`, or `auto`.
    pub backup: String,
    /// The directory to fill.
    pub directory: PathBuf,
    /// Tablespaces by name, with their new places.
    pub tablespaces: Vec<(OsString, PathBuf)>,
    /// With `auto`: the moment, as typed.
    pub target_time: Option<String>,
    /// With `auto`: the LSN, as typed.
    pub target_lsn: Option<String>,
    /// With `auto`: the timeline.
    pub target_tli: Option<TargetTimeline>,
    /// `--snapshot-recovery-instance` where it was typed. Barman 3.19.1 overlooks it unless the backup is made of
    /// snapshots.
    pub snapshot_option: Option<String>,
}

/// `--target-tli`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    /// `current`
    Current,
    /// `latest`
    Latest,
    /// A timeline's number.
    Id(u64),
}

/// Why there is no call, and what to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Help or version, for stdout; exit 0.
    Printed {
        /// With its newline.
        stdout: String,
    },
    /// The usage text and what is wrong, for stderr as it stands; exit 3.
    Usage {
        /// With its newline.
        stderr: String,
    },
    /// What is wrong with a tag, for stderr without the log's prefix; exit 3.
    Bare {
        /// With its newline.
        stderr: String,
    },
    /// What is wrong, for the log as an error; exit 3.
    Logged {
        /// Perhaps of two lines, without a newline at its end.
        message: String,
    },
}

/// Who is asked, and on what.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The command.
    pub program: Program,
    /// What it is called in texts: the last part of `argv[0]`.
    pub name: &'a str,
    /// How wide the terminal is, if that is known: texts are wrapped to two characters less.
    pub columns: Option<usize>,
}

/// Reads the words behind the command's name.
///
/// Errors: [`Exit`], with the texts of Barman 3.19.1 (`fixtures/barman-argv`); only its help is told in other words.
pub fn parse(asked: Asked<'_>, words: &[OsString]) -> Result<Call, Exit> {
    let arguments = grammar::arguments(asked.program);
    let columns = asked.columns.unwrap_or(DEFAULT_COLUMNS);
    let mistake = |text: &str| {
        let usage = usage::usage(asked.name, &arguments, columns);
        Exit::Usage { stderr: format!("{usage}{}: error: {text}\n", asked.name) }
    };
    let found = argparse::parse(&arguments, words).map_err(|ending| match ending {
        Ending::Help => {
            let about = grammar::about(asked.program);
            Exit::Printed { stdout: usage::help(asked.name, about, &arguments, columns) }
        }
        Ending::Version => Exit::Printed { stdout: format!("{} {BARMAN_VERSION}\n", asked.name) },
        Ending::Mistake(text) => mistake(&text),
        Ending::Bare(text) => Exit::Bare { stderr: format!("{text}\n") },
    })?;
    Typed(found).call(asked.program).map_err(|refused| match refused {
        Refused::Missing(what) => mistake(&format!("the following arguments are required: {what}")),
        Refused::Logged(message) => Exit::Logged { message },
    })
}
