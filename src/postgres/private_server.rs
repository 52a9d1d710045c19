//! A server of our own on a copied data directory, which nobody else can reach and which does not outlive us.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::connection::Session;
use super::conninfo::{Conninfo, of_options};
use crate::error::{Error, ErrorKind, Result};

/// How long a server may take to stop: it writes a checkpoint.
const STOP: Duration = Duration::from_mins(5);
/// How long it may take when it is told not to.
const STOP_AT_ONCE: Duration = Duration::from_secs(20);
/// Between two looks at whether it has stopped.
const PAUSE: Duration = Duration::from_millis(20);

/// The word by which this program starts a server that ends when it does; see [`become_server`].
pub const KEEPER: &str = "keep-server";

/// A user and a group to run a server as, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// How a private server is started.
#[derive(Debug, Clone)]
pub struct PrivateServer<'a> {
    /// PostgreSQL's programs.
    pub bindir: &'a Path,
    /// The copied data directory.
    pub data_directory: &'a Path,
    /// A directory of ours for its socket, for its user alone.
    pub sockets: &'a Path,
    /// What its socket is called by.
    pub port: u16,
    /// What it says goes to the end of this file.
    pub log: &'a Path,
    /// Settings that no file may change.
    pub settings: &'a [(String, String)],
    /// Its user; this process's own where none.
    pub run_as: Option<RunAs>,
    /// This program, which starts it.
    pub keeper: &'a Path,
}

/// A private server that was started. Dropped, it is killed.
#[derive(Debug)]
pub struct RunningServer {
    child: Child,
    sockets: PathBuf,
    port: u16,
    has_ended: bool,
}

impl PrivateServer<'_> {
    /// Starts it. It listens on no network address.
    ///
    /// The thread that calls this must live as long as the server: the system ends the server with it, whatever that dies of.
    /// Errors: `Local`.
    pub fn start(&self) -> Result<RunningServer> {
        let failed = |cause| Error::local("start", &self.program(), cause);
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(self.log).map_err(failed)?;
        let mut command = Command::new(self.keeper);
        command.arg(KEEPER).arg(std::process::id().to_string()).arg(self.program()).arg("-D").arg(self.data_directory);
        for (name, value) in self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.arg("-c").arg(format!("port={}", self.port));
        command.arg("-c").arg(format!("unix_socket_directories={}", self.sockets.display()));
        command.arg("-c").arg("listen_addresses=");
        command.current_dir(self.data_directory);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        // A signal from a terminal is for us: we stop it in our own time.
        command.process_group(0);
        if let Some(RunAs { uid, gid }) = self.run_as {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().map_err(failed)?;
        Ok(RunningServer { child, sockets: self.sockets.to_owned(), port: self.port, has_ended: false })
    }

    fn program(&self) -> PathBuf {
        self.bindir.join("postgres")
    }
}

impl RunningServer {
    /// How it ended, if it has. Errors: `Local`.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let ended = self.child.try_wait().map_err(|cause| local("wait for", &cause))?;
        self.has_ended |= ended.is_some();
        Ok(ended)
    }

    /// A session with it as `role`. Errors: as [`Session::connect`].
    pub async fn connect(&self, role: &str, database: &str) -> Result<Session> {
        let sockets = self.sockets.display().to_string();
        let words = of_options(Some(&sockets), Some(&self.port.to_string()), Some(role), database);
        Session::connect(&Conninfo::resolve(Some(&words), &BTreeMap::new())?).await
    }

    /// Stops it, cleanly, or within some minutes at all. Blocking. True when it was clean. Errors: `Local`.
    pub fn stop(&mut self) -> Result<bool> {
        // Fast, then immediate, then by force.
        for (signal, patience) in [(Signal::INT, STOP), (Signal::QUIT, STOP_AT_ONCE), (Signal::KILL, STOP_AT_ONCE)] {
            if let Some(ended) = self.end(signal, patience)? {
                return Ok(signal == Signal::INT && ended.success());
            }
        }
        Err(Error::new(ErrorKind::Local, "could not stop the server of the drill: it does not end"))
    }

    /// Ends it without a checkpoint: nothing on its disk is wanted any more. Blocking.
    pub fn kill(&mut self) {
        for (signal, patience) in [(Signal::QUIT, STOP_AT_ONCE), (Signal::KILL, STOP_AT_ONCE)] {
            if !matches!(self.end(signal, patience), Ok(None)) {
                return;
            }
        }
        tracing::error!("the server of the drill, process {}, does not end", self.child.id());
    }

    fn end(&mut self, signal: Signal, patience: Duration) -> Result<Option<ExitStatus>> {
        let since = Instant::now();
        if self.has_ended || self.ended()?.is_some() {
            return self.child.try_wait().map_err(|cause| local("wait for", &cause));
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(Err(cause)) = pid.map(|pid| kill_process(pid, signal)) {
            tracing::debug!("could not signal the server of the drill: {cause}");
        }
        while since.elapsed() < patience {
            if let Some(ended) = self.ended()? {
                return Ok(Some(ended));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if !self.has_ended {
            self.kill();
        }
    }
}

/// Turns this process into the program that `argv` holds behind the number of the process that started it. The system ends it with
/// `SIGQUIT` (an immediate shutdown) as soon as that process is gone.
///
/// Returns only with an error: `Local`.
pub fn become_server(argv: &[std::ffi::OsString]) -> Result<std::convert::Infallible> {
    let (Some(starter), Some(program)) = (argv.first(), argv.get(1)) else {
        return Err(Error::usage(format!("{KEEPER} is for this program's own use")));
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::QUIT))
        .map_err(|cause| local("prepare", &cause.into()))?;
    // It may have gone before that.
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().to_string());
    if parent.as_deref() != starter.to_str() {
        return Err(Error::new(ErrorKind::Interrupted, "whoever wanted a server is gone"));
    }
    let cause = Command::new(program).args(&argv[2..]).exec();
    Err(Error::local("run", Path::new(program), cause))
}

/// PostgreSQL's programs of that major version on this host: beside those on the `PATH`, or where packages put them.
///
/// None when there is none of that version.
#[must_use]
pub fn find_bindir(major: u32, path: Option<&str>) -> Option<PathBuf> {
    let on_path = path.unwrap_or_default().split(':').filter(|part| !part.is_empty()).map(PathBuf::from);
    let packaged = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        format!("/usr/lib/postgresql{major}/bin"),
        format!("/usr/libexec/postgresql{major}"),
        format!("/opt/homebrew/opt/postgresql@{major}/bin"),
        "/usr/local/pgsql/bin".to_owned(),
    ];
    on_path.chain(packaged.map(PathBuf::from)).find(|bindir| major_version(bindir) == Some(major))
}

/// The major version of `postgres` in a directory; none where it does not run.
#[must_use]
pub fn major_version(bindir: &Path) -> Option<u32> {
    major_of(&version_text(bindir)?)
}

/// The major version in what `postgres --version` says: `postgres (PostgreSQL) 15.18 (Debian …)`; a beta says `18beta1`.
#[must_use]
pub fn major_of(version_text: &str) -> Option<u32> {
    let word = version_text.split_whitespace().nth(2)?;
    let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// What `postgres --version` says there: `postgres (PostgreSQL) 15.18 (Debian …)`.
#[must_use]
pub fn version_text(bindir: &Path) -> Option<String> {
    let answer = Command::new(bindir.join("postgres")).arg("--version").stdin(Stdio::null()).output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// What the configuration in `data_directory` says about `setting`, include files and all; none where it cannot be read.
#[must_use]
pub fn configured(bindir: &Path, data_directory: &Path, setting: &str, run_as: Option<RunAs>) -> Option<String> {
    let mut command = Command::new(bindir.join("postgres"));
    command.arg("-C").arg(setting).arg("-D").arg(data_directory).current_dir(data_directory).stdin(Stdio::null());
    if let Some(RunAs { uid, gid }) = run_as {
        command.uid(uid).gid(gid);
    }
    let answer = command.output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// Where PostgreSQL's loadable libraries lie for the programs in `bindir`; none when they are not found.
#[must_use]
pub fn library_directory(bindir: &Path) -> Option<PathBuf> {
    let told = Command::new(bindir.join("pg_config")).arg("--pkglibdir").stdin(Stdio::null()).output();
    let told = told.ok().filter(|answer| answer.status.success());
    let told = told.map(|answer| PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()));
    let root = bindir.parent().unwrap_or(Path::new("/"));
    let near = ["lib", "lib/postgresql", "lib64", "lib64/postgresql", "lib64/pgsql"].map(|name| root.join(name));
    told.into_iter().chain(near).find(|directory| has_library(directory, "plpgsql"))
}

/// Whether the library `name` is installed in `directory`.
#[must_use]
pub fn has_library(directory: &Path, name: &str) -> bool {
    let bare = name.trim().trim_start_matches("$libdir/").trim_end_matches(".so");
    let is_plain = !bare.is_empty() && !bare.contains('/');
    is_plain && fs::metadata(directory.join(format!("{bare}.so"))).is_ok_and(|facts| facts.is_file())
}

fn local(verb: &str, cause: &std::io::Error) -> Error {
    Error::new(ErrorKind::Local, format!("could not {verb} the server of the drill: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_told_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("auto_explain.so"), "").unwrap();
        assert!(has_library(dir.path(), "auto_explain") && has_library(dir.path(), "$libdir/auto_explain"));
        assert!(!has_library(dir.path(), "pg_cron") && !has_library(dir.path(), ""));
        assert!(!has_library(dir.path(), "../auto_explain"));
    }

    #[test]
    fn there_is_no_server_of_a_version_that_never_was() {
        assert_eq!(find_bindir(4711, Some("/bin:/usr/bin")), None);
        assert_eq!(major_version(Path::new("/nowhere")), None);
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!((major_of("postgres (PostgreSQL) 18beta1"), major_of("bash 5")), (Some(18), None));
    }
}
