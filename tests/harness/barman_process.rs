//! Barman 3.19.1 answering call after call in one process: starting it takes half a second.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::postgres::tools_dirs;
use super::skip::skip;

/// Barman's cloud commands, led to a store by its environment; see `tools/barman-retention-oracle.py`.
#[derive(Debug)]
pub struct BarmanProcess {
    child: Child,
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a call printed and ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// All of it.
    pub stdout: String,
    /// All of it, with the times of the log.
    pub stderr: String,
    /// The exit code.
    pub code: i64,
}

impl BarmanProcess {
    /// Starts it; `None`, said aloud, when there is no Barman (a panic where servers are required).
    pub fn start(env: &[(String, String)]) -> Option<Self> {
        let named = std::env::var_os("BARBACK_BARMAN_BIN").map(PathBuf::from);
        let places = named.into_iter().chain(tools_dirs().map(|dir| dir.join("barman-3.19.1/bin")));
        let Some(python) = places.map(|bin| bin.join("python")).find(|python| python.is_file()) else {
            skip("the catalogue beside Barman", "no Barman 3.19.1; tools/get-barman.sh installs it");
            return None;
        };
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/barman-retention-oracle.py"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC")
            .env("HOME", "/nonexistent")
            .envs(env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (calls, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Self { child, calls, answers })
    }

    /// Runs a command, the first of the words without its `barman-cloud-`.
    pub fn run(&mut self, words: &[&str]) -> Answered {
        writeln!(self.calls, "{}", json!(words)).unwrap();
        let mut line = String::new();
        assert!(self.answers.read_line(&mut line).unwrap() > 0, "Barman went away");
        let answer: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        Answered { stdout: text("stdout"), stderr: text("stderr"), code: answer["code"].as_i64().unwrap() }
    }
}

impl Drop for BarmanProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
