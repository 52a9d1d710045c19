//! Running `pg_amcheck`: PostgreSQL's own program that holds tables against their rules and indexes against their tables.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::inspection::LocalServer;
use super::private_server::RunAs;
use crate::error::{Error, ErrorKind, Result};

/// The program's name in PostgreSQL's directory of programs, from version 14 on.
pub const PROGRAM: &str = "pg_amcheck";

/// How much of its output is kept; the rest is read and dropped, or it would wait for ever.
const KEPT_BYTES: u64 = 64 << 10;

/// How often the program is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How long it may take to cancel what it asked for.
const GOODBYE: Duration = Duration::from_secs(5);

/// So many lines of its report are passed on.
const LINES_TOLD: usize = 20;

/// What is not set by a database or role, for the checks to run to their end and for event triggers to stay silent.
const OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off \
     -c session_replication_role=replica -c lc_messages=C";

/// Which databases it looks at, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, on a server that may be changed: the extension is made where it is missing, and parents of index pages are checked.
    All,
    /// These, on a server in recovery: as far as that allows.
    InRecovery(Vec<String>),
}

/// One run.
#[derive(Debug)]
pub struct Amcheck<'a> {
    /// The program.
    pub program: &'a Path,
    /// The server.
    pub server: LocalServer<'a>,
    /// User and group to run it as.
    pub run_as: Option<RunAs>,
    /// What it looks at.
    pub scope: Scope,
    /// How many relations at once.
    pub jobs: usize,
    /// How long it may take.
    pub budget: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AmcheckEnd {
    /// Everything was looked at, and is as it should be.
    Sound,
    /// Something is damaged: the first lines of what it says, names and what is wrong.
    Damaged(Vec<String>),
    /// It could not look at everything, and why.
    Failed(String),
    /// Its time was up; nothing was found until then.
    OutOfTime,
}

impl Amcheck<'_> {
    /// Runs it. Blocking. The program is ended when its time is up and as soon as `is_stopped`.
    ///
    /// Errors: `Local` when it cannot be run, `Interrupted` when it was stopped.
    pub fn run(&self, is_stopped: &dyn Fn() -> bool) -> Result<AmcheckEnd> {
        let failed = |cause: io::Error| Error::local("run", self.program, cause);
        let began = Instant::now();
        let mut child = self.command().spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take().map(drain), child.stderr.take().map(drain));
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break Some(status);
            }
            if began.elapsed() >= self.budget || is_stopped() {
                end(&mut child).map_err(failed)?;
                break None;
            }
            thread::sleep(POLL);
        };
        let said = [stdout, stderr].map(|pipe| pipe.and_then(|reader| reader.join().ok()).unwrap_or_default());
        if is_stopped() {
            return Err(Error::new(ErrorKind::Interrupted, format!("{PROGRAM} was stopped")));
        }
        Ok(outcome(status, &said[0], &said[1]))
    }

    fn command(&self) -> Command {
        let LocalServer { sockets, port, role } = self.server;
        let mut command = Command::new(self.program);
        // With --verbose the server's errors come with their SQLSTATE, by which damage is told from accidents.
        command
            .args(["--no-password", "--verbose", "--heapallindexed"])
            .arg(format!("--jobs={}", self.jobs))
            .arg("--host")
            .arg(sockets)
            .arg(format!("--port={port}"))
            .arg(format!("--username={role}"));
        match &self.scope {
            Scope::All => command.args(["--all", "--install-missing", "--parent-check"]),
            Scope::InRecovery(databases) => {
                // `--database` takes a pattern, in which quotes make a name of anything.
                let pattern = |name: &String| format!("--database=\"{}\"", name.replace('"', "\"\""));
                command.args(databases.iter().map(pattern))
            }
        };
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("PGAPPNAME", super::inspection::APPLICATION_NAME)
            .env("PGOPTIONS", OPTIONS)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(RunAs { uid, gid }) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Asks the program to cancel what it asked the server for, and ends it.
fn end(child: &mut Child) -> io::Result<()> {
    // It may just have ended by itself.
    let _ = kill_process(Pid::from_child(child), Signal::INT);
    let asked = Instant::now();
    while asked.elapsed() < GOODBYE {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    child.kill()?;
    child.wait().map(drop)
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        // What cannot be read any more is missing from a message, no more.
        let _ = pipe.by_ref().take(KEPT_BYTES).read_to_end(&mut kept);
        let _ = io::copy(&mut pipe, &mut io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// What a run comes to; `status` is none when it was ended.
fn outcome(status: Option<ExitStatus>, stdout: &str, stderr: &str) -> AmcheckEnd {
    let Report { damage, accidents } = Report::read(stdout);
    if !damage.is_empty() {
        return AmcheckEnd::Damaged(damage);
    }
    let complaint = || {
        let of_server = accidents.first().cloned();
        let own = stderr.lines().rfind(|line| line.contains("error: ")).map(str::to_owned);
        of_server.or(own).unwrap_or_else(|| "it does not say why".to_owned())
    };
    match status {
        // When it is ended it complains about having been ended.
        None => AmcheckEnd::OutOfTime,
        Some(status) if status.success() => AmcheckEnd::Sound,
        Some(status) => AmcheckEnd::Failed(format!("{PROGRAM} ended with {status}: {}", complaint())),
    }
}

/// What the program says on standard output (`pg_amcheck.c`): a line that names a relation and ends in `:`, and indented below it
/// what is wrong with it, in words of its own or as the server's error.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    /// The first lines about damage. Errors whose SQLSTATE does not mean damage are left out, for they may hold content: an
    /// expression of an index is run on rows.
    damage: Vec<String>,
    /// The SQLSTATEs of other errors, with the relation.
    accidents: Vec<String>,
}

impl Report {
    fn read(stdout: &str) -> Self {
        let mut report = Self::default();
        let mut relation = "";
        for line in stdout.lines() {
            let Some(what) = line.strip_prefix("    ") else {
                if let Some(named) = line.strip_suffix(':') {
                    relation = named;
                }
                continue;
            };
            let what = what.trim();
            let is_found = match what.strip_prefix("ERROR:").map(str::trim_start) {
                Some(error) if error.starts_with("XX001:") || error.starts_with("XX002:") => true,
                Some(error) => {
                    let state: String = error.chars().take_while(char::is_ascii_alphanumeric).collect();
                    report.accidents.push(format!("{relation}: SQLSTATE {state}"));
                    false
                }
                // What follows an error: DETAIL, HINT, CONTEXT, LOCATION, and lines of these.
                None => !relation.starts_with("btree") && is_own_finding(what),
            };
            if is_found && !relation.is_empty() && report.damage.len() < LINES_TOLD {
                report.damage.push(format!("{relation}: {what}"));
            }
        }
        report
    }
}

/// The program's words about a table begin in lower case; the server's begin with a title.
fn is_own_finding(what: &str) -> bool {
    what.starts_with(|first: char| first.is_ascii_lowercase()) && !what.contains("LOCATION:")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn ended(code: i32, stdout: &str, stderr: &str) -> AmcheckEnd {
        outcome(Some(ExitStatus::from_raw(code << 8)), stdout, stderr)
    }

    const DAMAGE: &str = "btree index \"shop.public.orders_pkey\":\n    \
         ERROR:  XX002: item order invariant violated for index \"orders_pkey\"\n    \
         DETAIL:  Lower index tid=(1,2) (points to heap tid=(0,1)) page lsn=0/1.\n    \
         LOCATION:  bt_target_page_check, verify_nbtree.c:1234\n\
         query was: SELECT something\n\
         heap table \"shop.public.orders\", block 3, offset 2:\n    \
         line pointer redirection to item at offset 9 exceeds maximum offset 4\n";

    #[test]
    fn damage_is_told_by_name_and_without_details() {
        assert_eq!(
            ended(2, DAMAGE, ""),
            AmcheckEnd::Damaged(vec![
                "btree index \"shop.public.orders_pkey\": ERROR:  XX002: item order invariant violated for index \"orders_pkey\""
                    .to_owned(),
                "heap table \"shop.public.orders\", block 3, offset 2: line pointer redirection to item at offset 9 exceeds \
                 maximum offset 4"
                    .to_owned(),
            ])
        );
        // It counts too when the time was up afterwards.
        assert!(matches!(outcome(None, DAMAGE, ""), AmcheckEnd::Damaged(_)));
    }

    #[test]
    fn an_error_that_is_no_damage_is_an_accident_and_its_text_is_not_passed_on() {
        let said = "btree index \"shop.public.by_number\":\n    ERROR:  22P02: invalid input syntax for type integer: \"Smith\"\n    \
             CONTEXT:  smith\n";
        let AmcheckEnd::Failed(why) = ended(2, said, "") else { panic!("no failure") };
        assert!(why.contains("btree index \"shop.public.by_number\": SQLSTATE 22P02"), "{why}");
        assert!(!why.to_lowercase().contains("smith"), "{why}");
    }

    #[test]
    fn a_run_that_was_ended_says_nothing_and_a_good_one_is_sound() {
        let cancelled = "btree index \"a.b.c\":\n    ERROR:  57014: canceling statement due to user request\n";
        assert_eq!(outcome(None, cancelled, ""), AmcheckEnd::OutOfTime);
        assert_eq!(ended(0, "", "pg_amcheck: in database \"shop\": using amcheck version \"1.3\""), AmcheckEnd::Sound);
        let complaint = "pg_amcheck: error: connection to server failed\n";
        let AmcheckEnd::Failed(why) = ended(1, "", complaint) else { panic!("no failure") };
        assert!(why.ends_with("connection to server failed"), "{why}");
    }

    #[test]
    fn a_report_of_thousands_of_lines_is_cut() {
        let AmcheckEnd::Damaged(lines) = ended(2, &DAMAGE.repeat(1000), "") else { panic!("no damage") };
        assert_eq!(lines.len(), LINES_TOLD);
    }
}
