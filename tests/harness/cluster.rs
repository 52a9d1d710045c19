//! One PostgreSQL cluster of a test: made, opened or copied, started, asked and stopped.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::directory::{TestDir, give_away};
use super::postgres::PgVersion;
use super::process::{Finished, Run};
use super::secrets::expect_no_secret;
use super::skip::skip;

/// Servers listen on a socket in their test's directory only, so a port need only be unique there.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);
/// How long a test waits for a server's background work before it fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// How much of a server's log a failing test shows.
const LOG_TAIL_LINES: usize = 40;

/// How `Cluster::init` makes a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    name: String,
    wal_segment_mb: u32,
    data_checksums: bool,
    initdb_args: Vec<String>,
    settings: Vec<(String, String)>,
    env: Vec<(String, String)>,
}

/// A cluster in a test's directory; its server, when running, is stopped on drop.
#[derive(Debug)]
pub struct Cluster {
    version: PgVersion,
    data: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    port: u16,
    env: Vec<(String, String)>,
}

/// The answer of a checking program that not every PostgreSQL package has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// It ran and found nothing wrong; damage is a panic, never a value.
    Passed,
    /// It is not there, which was said aloud.
    Unavailable,
}

impl Default for ClusterOptions {
    /// A cluster in the directory `data`: 16 MB segments, data checksums, a small server that never calls fsync.
    fn default() -> Self {
        Self {
            name: "data".into(),
            wal_segment_mb: 16,
            data_checksums: true,
            initdb_args: Vec::new(),
            settings: Vec::new(),
            env: Vec::new(),
        }
    }
}

impl ClusterOptions {
    /// The data directory's name in the test's directory, where a test has several clusters.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// A power of two from 1 to 1024.
    #[must_use]
    pub fn wal_segment_mb(mut self, megabytes: u32) -> Self {
        self.wal_segment_mb = megabytes;
        self
    }

    /// Whether pages carry checksums.
    #[must_use]
    pub fn data_checksums(mut self, on: bool) -> Self {
        self.data_checksums = on;
        self
    }

    /// One more argument of initdb, such as `--allow-group-access`.
    #[must_use]
    pub fn initdb_arg(mut self, arg: impl Into<String>) -> Self {
        self.initdb_args.push(arg.into());
        self
    }

    /// One line of `postgresql.conf`; the value is quoted here.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// One variable in the server's environment, and so in that of its `archive_command`.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Such variables, as `S3Server::env` gives them.
    #[must_use]
    pub fn envs(mut self, env: &[(String, String)]) -> Self {
        self.env.extend_from_slice(env);
        self
    }
}

impl Cluster {
    /// A new, stopped cluster, superuser `postgres` without password.
    pub fn init(dir: &TestDir, version: &PgVersion, options: ClusterOptions) -> Self {
        let ClusterOptions { name, wal_segment_mb, data_checksums, initdb_args, settings, env } = options;
        let cluster = Self::at(dir, &dir.join(name), version, env);
        let mut initdb = version
            .run("initdb")
            .args(["-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"])
            .arg(format!("--wal-segsize={wal_segment_mb}"))
            .args(&initdb_args)
            .arg("-D")
            .arg(&cluster.data);
        if data_checksums {
            initdb = initdb.arg("--data-checksums");
        } else if version.major >= 18 {
            // The default since 18 is with checksums.
            initdb = initdb.arg("--no-data-checksums");
        }
        initdb.success();
        cluster.append_settings(&SMALL_SERVER.map(|(name, value)| (name.to_owned(), value.to_owned())));
        cluster.append_settings(&settings);
        cluster
    }

    /// The cluster in `data`, such as a restored one, which must be owned by the unprivileged user. Nothing is written.
    pub fn open(dir: &TestDir, data: &Path, version: &PgVersion) -> Self {
        Self::at(dir, data, version, Vec::new())
    }

    /// A stopped standby of `primary` in the directory `name`, copied with `pg_basebackup`; start it yourself.
    pub fn standby_of(primary: &Self, dir: &TestDir, name: &str) -> Self {
        let standby = Self::at(dir, &dir.join(name), &primary.version, primary.env.clone());
        let copy = primary.version.run("pg_basebackup").args(["-X", "stream", "-c", "fast", "--no-sync"]);
        copy.arg("-d").arg(primary.connect_string()).arg("-D").arg(&standby.data).success();
        // Not -R: a newer pg_basebackup writes connection options that an older server refuses.
        let signal = standby.data.join("standby.signal");
        std::fs::write(&signal, "").unwrap();
        give_away(&signal);
        append_settings(
            &standby.data.join("postgresql.auto.conf"),
            &[("primary_conninfo".into(), primary.connect_string())],
        );
        standby
    }

    fn at(dir: &TestDir, data: &Path, version: &PgVersion, env: Vec<(String, String)>) -> Self {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let log = dir.join(format!("server-{port}.log"));
        Self { version: version.clone(), data: data.to_owned(), socket_dir: dir.path().to_owned(), log, port, env }
    }

    /// Adds variables to the environment of the next start, for the `restore_command` of a restored cluster.
    #[must_use]
    pub fn envs(mut self, env: &[(String, String)]) -> Self {
        self.env.extend_from_slice(env);
        self
    }

    /// Starts the server and waits until it answers; panics with the end of its log otherwise.
    pub fn start(&mut self) {
        let outcome = self.try_start();
        assert!(outcome.code() == 0, "could not start {}: {}{}", self.data.display(), outcome.stderr, self.log_tail());
    }

    /// Starts the server, for tests in which that may fail: look at the exit code and at `log`.
    pub fn try_start(&mut self) -> Finished {
        // Given here and not in postgresql.conf: a restored copy must not meet its source's socket.
        let options = format!("-p {} -k '{}' -c listen_addresses=''", self.port, self.socket_dir.display());
        self.pg_ctl("start").args(["-t", "120", "-o", &options, "-l"]).arg(&self.log).run()
    }

    /// Stops the server, `fast`, `smart` or `immediate`, and waits for its end.
    pub fn stop(&mut self, mode: &str) {
        self.pg_ctl("stop").args(["-t", "120", "-m", mode]).success();
    }

    /// Makes a standby a primary, and waits.
    pub fn promote(&self) {
        self.pg_ctl("promote").success();
    }

    /// True while the server's process lives.
    pub fn is_running(&self) -> bool {
        self.pg_ctl("status").run().code() == 0
    }

    /// What `sql` answers in database `postgres`: unaligned, `|` between columns, no header; panics on an error.
    pub fn psql(&self, sql: &str) -> String {
        self.try_psql(sql).unwrap_or_else(|error| panic!("{sql}: {error}{}", self.log_tail()))
    }

    /// The same, with the server's complaint as the error.
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        let psql = self.version.run("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
        let outcome = psql.arg("-d").arg(self.connect_string()).args(["-c", sql]).run();
        if outcome.code() == 0 { Ok(outcome.stdout.trim_end().to_owned()) } else { Err(outcome.stderr) }
    }

    /// Runs pgbench in database `postgres`, such as `["-i", "-s", "1"]` or `["-T", "2"]`.
    pub fn pgbench(&self, args: &[&str]) -> Finished {
        self.pgbench_run(args).success()
    }

    /// pgbench about to be run, to be started beside something else.
    pub fn pgbench_run(&self, args: &[&str]) -> Run {
        let port = self.port.to_string();
        let host = self.socket_dir.display().to_string();
        self.version.run("pgbench").args(["-h", &host, "-p", &port, "-U", "postgres"]).args(args).arg("postgres")
    }

    /// Asks `sql` until it answers `expected`; panics, with the last answer, after `timeout`.
    pub fn wait_until(&self, sql: &str, expected: &str, timeout: Duration) {
        let started = Instant::now();
        loop {
            let answer = self.try_psql(sql);
            if answer.as_deref() == Ok(expected) {
                return;
            }
            assert!(
                started.elapsed() < timeout,
                "{sql}: still {answer:?} and not {expected:?} after {timeout:?}{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the current segment and waits until `archive_command` has succeeded for it; the segment's name.
    pub fn archive_everything(&self) -> String {
        // Without a record since the last switch there would be nothing to end.
        self.psql("SELECT pg_create_restore_point('end of segment')");
        let segment = self.psql("SELECT pg_walfile_name(pg_switch_wal())");
        let sql = format!("SELECT left(last_archived_wal, 24) COLLATE \"C\" >= '{segment}' FROM pg_stat_archiver");
        self.wait_until(&sql, "t", PATIENCE);
        segment
    }

    /// `host=... port=... user=postgres dbname=postgres`, for libpq and for barback's `-d`.
    pub fn connect_string(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_dir.display(), self.port)
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its PostgreSQL.
    pub fn version(&self) -> &PgVersion {
        &self.version
    }

    /// All that the server has logged since the first start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Adds lines to `postgresql.conf`; the values are quoted here.
    pub fn append_settings(&self, settings: &[(String, String)]) {
        append_settings(&self.data.join("postgresql.conf"), settings);
    }

    /// `pg_verifybackup` of this data directory, which must not have been started yet, by the `backup_manifest` in it.
    ///
    /// WAL is not parsed: a restored directory gets its WAL from the archive.
    pub fn verify_backup(&self) -> Checked {
        if !self.version.has("pg_verifybackup") {
            skip(
                &format!("pg_verifybackup on PostgreSQL {}", self.version.major),
                "the program is missing or does not run",
            );
            return Checked::Unavailable;
        }
        self.version.run("pg_verifybackup").args(["-n", "-e"]).arg(&self.data).success();
        Checked::Passed
    }

    /// `pg_amcheck` of every database of the running server, which must be a primary: it creates the extension.
    pub fn amcheck(&self) -> Checked {
        let offered = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'";
        if self.psql(offered) == "0" {
            skip(&format!("pg_amcheck on PostgreSQL {}", self.version.major), "its package has no amcheck extension");
            return Checked::Unavailable;
        }
        let (host, port) = (self.socket_dir.display().to_string(), self.port.to_string());
        let amcheck = self.version.run("pg_amcheck").args(["-h", &host, "-p", &port, "-U", "postgres"]);
        amcheck.args(["--all", "--install-missing"]).success();
        Checked::Passed
    }

    fn pg_ctl(&self, command: &str) -> Run {
        self.version.run("pg_ctl").args([command, "-w", "-D"]).arg(&self.data).envs(&self.env)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("\n--- the end of {}\n{}\n---", self.log.display(), tail.join("\n"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What archive_command and restore_command say is in the server's log.
        if !std::thread::panicking() && self.log.is_file() {
            expect_no_secret(&format!("the log {}", self.log.display()), &self.log(), &self.env);
        }
        if self.data.join("postmaster.pid").exists() {
            self.pg_ctl("stop").args(["-t", "30", "-m", "immediate"]).run();
        }
    }
}

fn append_settings(path: &Path, settings: &[(String, String)]) {
    let mut text = std::fs::read_to_string(path).unwrap();
    for (name, value) in settings {
        writeln!(text, "{name} = '{}'", value.replace('\'', "''")).unwrap();
    }
    std::fs::write(path, text).unwrap();
    give_away(path);
}

/// Several servers run at once on two cores, and their data dies with the test.
const SMALL_SERVER: [(&str, &str); 8] = [
    ("shared_buffers", "16MB"),
    ("max_connections", "20"),
    ("max_wal_senders", "4"),
    ("fsync", "off"),
    ("wal_level", "replica"),
    ("huge_pages", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("lc_messages", "C"),
];
