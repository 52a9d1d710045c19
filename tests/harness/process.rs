//! Programs run as the unprivileged user, in a clean environment, with a deadline and their peak memory measured.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::secrets::{expect_no_secret, expect_no_secret_argument};

/// `nobody`: PostgreSQL refuses to run as root.
const UNPRIVILEGED_ID: u32 = 65534;
/// No single program of a test may take longer.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(5);
/// How our binary tells of a panic.
const FAULT: &str = "barback: this is a fault of barback ";
/// How often a running program is looked at: its end, its deadline, its memory.
const POLL: Duration = Duration::from_millis(5);

/// Our binary with `args`, in an environment without any AWS_, PG or BARBACK_ variable of the developer.
pub fn barback<S: AsRef<OsStr>>(args: &[S]) -> Run {
    Run::new(barback_binary()).args(args)
}

/// Our binary at a place that the unprivileged user can reach: for `archive_command` and `restore_command`.
///
/// A link (else a copy) in `/tmp`, one per test process; those of processes that are gone are swept here.
pub fn barback_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        sweep_binaries();
        let dir = PathBuf::from(format!("/tmp/bb-bin-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (built, public) = (Path::new(env!("CARGO_BIN_EXE_barback")), dir.join("barback"));
        if std::fs::hard_link(built, &public).is_err() {
            std::fs::copy(built, &public).unwrap();
        }
        public
    })
}

/// A program about to be run.
///
/// As root it runs as `nobody` (through setpriv); its environment holds PATH, HOME, USER, LANG and what is given here; its
/// working directory is `/` unless given, since the crate's may be closed to `nobody`.
#[derive(Debug, Clone)]
pub struct Run {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    dir: PathBuf,
    timeout: Duration,
}

/// A program that runs. Dropped while running, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    command: String,
    started: Instant,
    timeout: Duration,
    peak_rss_kib: u64,
    /// Of our own binary: what it may not say.
    env: Option<Vec<(String, String)>>,
}

/// A program that ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All it printed, as UTF-8 with replacements.
    pub stdout: String,
    /// All it complained about, as UTF-8 with replacements.
    pub stderr: String,
    /// From start to end.
    #[allow(dead_code, reason = "the bench of scale reads it")]
    pub took: Duration,
    /// The most memory it held, in KiB (`VmHWM`, sampled every 5 ms).
    pub peak_rss_kib: u64,
    command: String,
}

impl Run {
    /// `program` without arguments.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: PathBuf::from("/"),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one variable; the last setting of a name wins.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets variables, as `S3Server::env` gives them.
    #[must_use]
    pub fn envs(mut self, env: &[(String, String)]) -> Self {
        self.env.extend_from_slice(env);
        self
    }

    /// Runs it in `dir`.
    #[must_use]
    pub fn in_dir(mut self, dir: impl AsRef<Path>) -> Self {
        dir.as_ref().clone_into(&mut self.dir);
        self
    }

    /// Kills it, and fails the test, after `timeout` instead of five minutes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end, good or bad; panics at the deadline.
    pub fn run(self) -> Finished {
        self.start().wait()
    }

    /// Runs it to its end; panics, with all it said, unless it exits with 0.
    pub fn success(self) -> Finished {
        self.run().expect_code(0)
    }

    /// Starts it and returns at once.
    pub fn start(self) -> Running {
        let is_ours = self.program.starts_with(barback_binary().parent().unwrap());
        if is_ours {
            expect_no_secret_argument(&self.args, &self.env);
        }
        let mut command = self.command();
        let text = format!("{} {:?}", self.program.display(), self.args);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("could not run {text}: {error}"));
        let stdout = child.stdout.take().map(|pipe| std::thread::spawn(move || read_all(pipe)));
        let stderr = child.stderr.take().map(|pipe| std::thread::spawn(move || read_all(pipe)));
        Running {
            child,
            stdout,
            stderr,
            command: text,
            started: Instant::now(),
            timeout: self.timeout,
            peak_rss_kib: 0,
            env: is_ours.then_some(self.env),
        }
    }

    fn command(&self) -> Command {
        let mut command = match server_user() {
            Some(id) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={id}")).arg(format!("--regid={id}")).arg("--clear-groups");
                command.arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let user = if server_user().is_some() { "nobody".into() } else { std::env::var("USER").unwrap_or_default() };
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.dir)
            .env("USER", user)
            .env("LANG", "C.UTF-8")
            .env("RUST_BACKTRACE", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Running {
    /// Sends `signal`, such as `rustix::process::Signal::TERM`; no error when it has just ended.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, signal);
    }

    /// True while it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; panics at the deadline.
    pub fn wait(mut self) -> Finished {
        let status = loop {
            self.sample_memory();
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > self.timeout {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let said = self.said();
                panic!("still running after {:?}: {}\n{said}", self.timeout, self.command);
            }
            std::thread::sleep(POLL);
        };
        let finished = Finished {
            status,
            took: self.started.elapsed(),
            stdout: join(self.stdout.take()),
            stderr: join(self.stderr.take()),
            peak_rss_kib: self.peak_rss_kib,
            command: std::mem::take(&mut self.command),
        };
        if let Some(env) = &self.env {
            expect_no_secret(&finished.command, &finished.stdout, env);
            expect_no_secret(&finished.command, &finished.stderr, env);
        }
        // Whatever code it ended with: a panic is never an answer.
        assert!(!finished.stderr.contains(FAULT), "{} panicked:\n{}", finished.command, finished.stderr);
        finished
    }

    /// `VmHWM` only grows while a process lives, and starts again at exec, so the last reading is the peak.
    fn sample_memory(&mut self) {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())) else { return };
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kib) = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()) {
            self.peak_rss_kib = kib;
        }
    }

    fn said(&mut self) -> String {
        format!("stdout: {}\nstderr: {}", join(self.stdout.take()), join(self.stderr.take()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Finished {
    /// Its exit code; 128 + N when signal N ended it, as a shell says it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Panics, with all it said, unless it ended with `code`.
    pub fn expect_code(self, code: i32) -> Self {
        assert!(
            self.code() == code,
            "{} ended with {} and not {code}\nstdout: {}\nstderr: {}",
            self.command,
            self.code(),
            self.stdout,
            self.stderr
        );
        self
    }
}

/// The id that servers run under when we are root; `None` when we are somebody else, who runs them.
pub fn server_user() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(UNPRIVILEGED_ID)
}

fn read_all(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn join(reader: Option<JoinHandle<String>>) -> String {
    reader.and_then(|handle| handle.join().ok()).unwrap_or_default()
}

/// Removes the links of test processes that no longer run: a process cannot clean up behind its own end.
fn sweep_binaries() {
    for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("bb-bin-")).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
