//! A disk that fails: calls of a program on files below a directory end with an error, as often as a seed says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::process::{Run, barback_binary};

/// Errors that a disk or its file system gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// ENOSPC
    Full,
    /// EIO
    Broken,
    /// EROFS
    ReadOnly,
    /// EMFILE, of the process: too many files are open.
    NoMoreFiles,
}

/// Which calls fail.
#[derive(Debug, Clone)]
pub struct DiskFaults {
    /// So many in a hundred.
    pub percent: u64,
    /// The same seed, the same calls.
    pub seed: u64,
    /// With this error.
    pub error: DiskError,
    /// `open`, `read`, `write`, `fsync`, `syncfs`, `rename`, `link`, `mkdir`, with commas between them.
    pub calls: &'static str,
}

impl DiskFaults {
    /// `run` with these faults below `directory`; the file `seen`, which it may write to, grows by a byte with each.
    pub fn below(&self, directory: &Path, seen: &Path, run: Run) -> Run {
        // The numbers of Linux on x86-64 and ARM64.
        let errno = match self.error {
            DiskError::Full => 28,
            DiskError::Broken => 5,
            DiskError::ReadOnly => 30,
            DiskError::NoMoreFiles => 24,
        };
        let Self { percent, seed, calls, .. } = self;
        run.env("BARBACK_DISK_FAULTS_SEEN", seen.display().to_string())
            .env("LD_PRELOAD", library().display().to_string())
            .env("BARBACK_DISK_FAULTS", format!("{percent} {seed} {errno} {} {calls}", directory.display()))
    }
}

/// Compiled when it is first used, by the compiler that Rust links with.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = barback_binary().with_file_name("disk_faults.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harness/disk_faults.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source).arg("-ldl");
        let outcome = compiler.output().unwrap_or_else(|error| panic!("could not run cc: {error}"));
        assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
        library
    })
}
