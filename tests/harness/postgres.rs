//! Which PostgreSQL versions this machine has, and where their programs are.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::process::Run;
use super::skip::skip;

/// The versions that end-to-end tests run on.
const WANTED: [u32; 3] = [15, 16, 18];
/// Without these there is no server.
const SERVER_PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// The installed versions.
#[derive(Debug)]
pub struct Postgres;

/// One installed major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgVersion {
    /// 15, 16 or 18.
    pub major: u32,
    /// Where its `postgres` is; client programs may lie elsewhere, see `tool`.
    pub bindir: PathBuf,
}

impl Postgres {
    /// Those of 15, 16 and 18 that are here, oldest first. A missing one is said aloud, or a panic where servers are required.
    ///
    /// Looked for in `BARBACK_PG<N>_BIN`, the distributions' directories, PATH and the tools directories; nothing is installed.
    pub fn versions() -> Vec<PgVersion> {
        WANTED.iter().filter_map(|&major| Self::version(major)).collect()
    }

    /// One version by its number, for tests that need not run on all.
    pub fn version(major: u32) -> Option<PgVersion> {
        let found = installed().iter().find(|version| version.major == major).cloned();
        if found.is_none() {
            skip(&format!("PostgreSQL {major}"), "not installed; tools/get-postgres.sh fetches it");
        }
        found
    }

    /// The newest version here, for tests where any will do.
    pub fn newest() -> Option<PgVersion> {
        Self::versions().pop()
    }
}

/// Runs `test` on every version here, oldest first, and names the version on which it fails.
pub fn for_each_version(mut test: impl FnMut(&PgVersion)) {
    for version in Postgres::versions() {
        eprintln!("--- on PostgreSQL {}", version.major);
        test(&version);
    }
}

impl PgVersion {
    /// The program `name`; panics when no version has it, see `find_tool`.
    pub fn tool(&self, name: &str) -> PathBuf {
        let found = self.find_tool(name);
        found.unwrap_or_else(|| panic!("no {name} for PostgreSQL {} in \"{}\"", self.major, self.bindir.display()))
    }

    /// This version's own program `name`, else the next newer version's: a server-only package has no `psql`, and client
    /// programs work with older servers.
    pub fn find_tool(&self, name: &str) -> Option<PathBuf> {
        let newer = installed().iter().filter(|other| other.major >= self.major);
        newer.map(|version| version.bindir.join(name)).find(|path| path.is_file())
    }

    /// That program, about to be run as the unprivileged user.
    pub fn run(&self, name: &str) -> Run {
        Run::new(self.tool(name))
    }

    /// True when `find_tool` finds the program and it answers.
    pub fn has(&self, name: &str) -> bool {
        self.find_tool(name).is_some_and(|path| Run::new(path).arg("--version").run().code() == 0)
    }
}

/// Where tools/get-*.sh put what they fetch.
pub fn tools_dirs() -> impl Iterator<Item = PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/barback-tools"));
    let named = std::env::var_os("BARBACK_TOOLS").map(PathBuf::from);
    [named, Some("/var/cache/barback-tools".into()), home].into_iter().flatten()
}

fn installed() -> &'static [PgVersion] {
    static INSTALLED: OnceLock<Vec<PgVersion>> = OnceLock::new();
    INSTALLED.get_or_init(|| WANTED.iter().filter_map(|&major| find(major)).collect())
}

fn find(major: u32) -> Option<PgVersion> {
    let mut places: Vec<PathBuf> =
        std::env::var_os(format!("BARBACK_PG{major}_BIN")).map(PathBuf::from).into_iter().collect();
    places.push(format!("/usr/lib/postgresql/{major}/bin").into());
    places.push(format!("/usr/pgsql-{major}/bin").into());
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).filter_map(|dir| {
        let program = dir.join("postgres").canonicalize().ok()?;
        program.parent().map(Path::to_owned)
    }));
    places.extend(tools_dirs().map(|dir| dir.join(format!("postgresql-{major}/bin"))));
    let bindir = places.into_iter().find(|dir| is_usable(major, dir))?;
    Some(PgVersion { major, bindir })
}

/// Asks the program itself, as the user who will run it.
fn is_usable(major: u32, bindir: &Path) -> bool {
    if SERVER_PROGRAMS.iter().any(|name| !bindir.join(name).is_file()) {
        return false;
    }
    let answer = Run::new(bindir.join("postgres")).arg("--version").run();
    let version = answer.stdout.strip_prefix("postgres (PostgreSQL) ").unwrap_or_default();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    answer.code() == 0 && digits.parse() == Ok(major)
}
