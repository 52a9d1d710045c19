//! Barman 3.19.1 itself, the peer that our second face is held against.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::process::{Run, barback};
use super::skip::skip;

/// The version whose behaviour is the contract.
pub const BARMAN_VERSION: &str = "3.19.1";
/// Its nine commands, without the `barman-cloud-` in front.
pub const BARMAN_COMMANDS: [&str; 9] = [
    "wal-archive",
    "wal-restore",
    "check-wal-archive",
    "backup",
    "backup-list",
    "backup-show",
    "backup-keep",
    "backup-delete",
    "restore",
];
/// No single call may take longer; most take half a second.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);

/// An installed Barman 3.19.1.
#[derive(Debug, Clone)]
pub struct Barman {
    bindir: PathBuf,
}

/// Who runs a command: the two must not be told apart.
#[derive(Debug, Clone)]
pub enum Face {
    /// Barman 3.19.1.
    Theirs(Barman),
    /// Our binary, `barback barman-cloud-<command>`.
    Ours,
}

impl Barman {
    /// The one that `tools/get-barman.sh` installs or finds; `None`, said aloud, when there is none (a panic where servers
    /// are required).
    pub fn find() -> Option<Self> {
        static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
        let Some(bindir) = FOUND.get_or_init(find) else {
            skip("the differential tests", "no Barman 3.19.1; tools/get-barman.sh installs it");
            return None;
        };
        Some(Self { bindir: bindir.clone() })
    }

    /// Where its programs are, for a server's `archive_command`.
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// `barman-cloud-<command>` with `args`, about to be run.
    pub fn run<S: AsRef<OsStr>>(&self, command: &str, args: &[S]) -> Run {
        calm(Run::new(self.bindir.join(format!("barman-cloud-{command}"))).args(args))
    }

    /// It and we, in this order.
    pub fn both(&self) -> [Face; 2] {
        [Face::Theirs(self.clone()), Face::Ours]
    }
}

impl Face {
    /// `barman-cloud-<command>` with `args`, about to be run.
    pub fn run<S: AsRef<OsStr>>(&self, command: &str, args: &[S]) -> Run {
        match self {
            Self::Theirs(barman) => barman.run(command, args),
            Self::Ours => calm(barback(&[format!("barman-cloud-{command}")]).args(args)),
        }
    }

    /// How a failing test names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Theirs(_) => "Barman",
            Self::Ours => "barback",
        }
    }
}

/// Neither asks a metadata service that is not there, nor repeats a request that was made to fail.
fn calm(run: Run) -> Run {
    run.env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_MAX_ATTEMPTS", "1")
        .env("BARBACK_RETRY_TIMEOUT_S", "0")
        .timeout(CALL_TIMEOUT)
}

fn find() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("BARBACK_BARMAN_BIN").map(PathBuf::from).into_iter().collect();
    places.extend(super::postgres::tools_dirs().map(|dir| dir.join(format!("barman-{BARMAN_VERSION}/bin"))));
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let expected = format!("barman-cloud-backup {BARMAN_VERSION}");
    places.into_iter().find(|dir| {
        let program = dir.join("barman-cloud-backup");
        program.is_file() && Run::new(program).arg("--version").run().stdout.trim_end() == expected
    })
}
