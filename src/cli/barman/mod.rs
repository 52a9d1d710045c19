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
    match call::parse(Asked { program, name: program.name(), columns }, words) {
        Ok(call) => start(&call, environment, out),
        Err(exit) => print(&exit, out),
    }
}

fn start(call: &Call, environment: &BTreeMap<String, String>, out: &mut dyn Write) -> u8 {
    let screen = Screen::new(false);
    if let Err(error) = log::init(call.verbosity, &screen) {
        return refuse(&error.to_string());
    }
    let quirks = match Quirks::from_env(environment) {
        Ok(quirks) => quirks,
        Err(error) => {
            tracing::error!("{error}");
            return ending::USAGE;
        }
    };
    let around =
        Surroundings { environment, now: chrono::Utc::now(), screen: &screen, charts: (false, stderr().is_terminal()) };
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
        Exit::Logged { message } => {
            // Only errors of the words come here, and `-qq` silences them as everything else: the log is not set up for
            // a call that is none.
            return refuse(message);
        }
    }
    ending::USAGE
}

fn refuse(message: &str) -> u8 {
    let time = chrono::Local::now().format("%Y-%m-%d %H:%M:%S,%3f");
    drop(writeln!(stderr(), "{time} [{}] ERROR: {message}", std::process::id()));
    ending::USAGE
}
