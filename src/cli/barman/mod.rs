//! The second face: the nine `barman-cloud-*` commands, as Barman 3.19.1 answers to them.
//!
//! `call` says what was typed, `requests` what that asks of the commands, `run` carries it out, `ending` how it ends.
//! What Barman does and this face does not, or the other way round, is in `docs/compatibility.md`.

mod argparse;
pub mod call;
pub mod ending;
mod grammar;
mod hook;
mod log;
pub mod output;
mod python;
mod quirks;
mod requests;
mod run;
mod typed;
mod usage;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal, Write, stderr};
use std::path::Path;

use call::{Asked, Call, Exit, Program};
use quirks::Quirks;

use super::progress::Screen;
use super::run::Surroundings;

/// The command that `argv` calls by one of Barman's names, and the words behind it: by the program's own name (a link), or
/// as its first argument. `None`: the native face is meant.
#[must_use]
pub fn called(argv: &[OsString]) -> Option<(Program, &[OsString])> {
    let named = |word: &OsString| Program::from_name(Path::new(word).file_name()?.to_str()?);
    let (name, words) = argv.split_first()?;
    if let Some(program) = named(name) {
        return Some((program, words));
    }
    let (first, rest) = words.split_first()?;
    Program::from_name(first.to_str()?).map(|program| (program, rest))
}

/// Reads the words, carries the call out, prints, and returns the exit code.
pub fn answer(program: Program, words: &[OsString], environment: &BTreeMap<String, String>, out: &mut dyn Write) -> u8 {
    let columns = environment.get("COLUMNS").and_then(|text| text.parse().ok());
    let screen = Screen::new(false);
    let parsed = call::parse(Asked { program, name: program.name(), columns }, words);
    if let Err(error) = log::init(parsed.as_ref().map_or(0, |call| call.verbosity), &screen) {
        drop(writeln!(stderr(), "{error}"));
        return ending::OTHER;
    }
    let code = match parsed {
        Ok(call) => start(&call, &screen, environment, out),
        Err(exit) => print(&exit, out),
    };
    // Whatever kept us from finding out proves nothing about the archive, the words included.
    let is_unknown = program == Program::WalRestore && code > ending::FAILED;
    if is_unknown { unknown_exit(environment).unwrap_or(code) } else { code }
}

fn start(call: &Call, screen: &Screen, environment: &BTreeMap<String, String>, out: &mut dyn Write) -> u8 {
    let quirks = match Quirks::from_env(environment) {
        Ok(quirks) => quirks,
        Err(error) => {
            tracing::error!("{error}");
            return ending::USAGE;
        }
    };
    let around = Surroundings { environment, now: chrono::Utc::now(), screen, charts: (false, stderr().is_terminal()) };
    run::run(call, quirks, &around, out)
}

fn print(exit: &Exit, out: &mut dyn Write) -> u8 {
    match exit {
        Exit::Printed { stdout } => {
            // A reader that has gone away has read enough.
            drop(out.write_all(stdout.as_bytes()).and_then(|()| out.flush()));
            return ending::DONE;
        }
        Exit::Usage { stderr: text } | Exit::Bare { stderr: text } => drop(stderr().write_all(text.as_bytes())),
        Exit::Logged { message } => tracing::error!("{message}"),
    }
    ending::USAGE
}

/// The variable that names the exit code of a restore of WAL that could not find out.
const UNKNOWN_EXIT: &str = "BARBACK_BARMAN_UNKNOWN_EXIT";

/// What the environment asks for in place of Barman's codes 2 to 4: one at which PostgreSQL stops recovery instead of ending
/// it. A value that is none means the same wish, spelled wrong.
fn unknown_exit(environment: &BTreeMap<String, String>) -> Option<u8> {
    let text = environment.get(UNKNOWN_EXIT).filter(|text| !text.is_empty())?;
    if let Ok(code @ STOPS_RECOVERY..) = text.parse() {
        return Some(code);
    }
    let text = text.escape_debug();
    tracing::error!(
        "environment variable {UNKNOWN_EXIT}: \"{text}\" is no exit code from {STOPS_RECOVERY} to 255: 255 is used"
    );
    Some(u8::MAX)
}

/// PostgreSQL takes lower codes of a `restore_command` for the end of the WAL (see [`super::exit_code::of`]).
const STOPS_RECOVERY: u8 = 126;
