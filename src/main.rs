//! Picks the face that is meant, runs one command and turns its outcome into an exit code.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use barback::cli::exit_code::{self, Caller};
use barback::cli::invocation::{Invocation, LogFormat, Run};
use barback::cli::progress::Screen;
use barback::cli::run::{Surroundings, run};
use barback::cli::zone::Zone;
use barback::cli::{barman, drill, links, log, native, output, panic};
use barback::error::{Error, ErrorKind, Result};

fn main() -> ExitCode {
    // Everything barback writes holds a cluster's data: nobody else may read it.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        // Only a second call in the same process can fail, and then the provider is there.
        debug_assert!(false, "main runs once");
    }
    panic::explain_panics();
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let argv: Vec<OsString> = std::env::args_os().collect();
    if native::is_helper(&argv) {
        // Its parent ends before it. In a container the postmaster is then told of its end, and takes any code but 0 and 1
        // for a crash of one of its own (process_pm_child_exit in postmaster.c): it would start the whole server anew.
        let _ = std::panic::catch_unwind(|| called(argv, &environment));
        return ExitCode::SUCCESS;
    }
    if let Some(error) = drill::keep_server(&argv) {
        return end_plainly(Err(error));
    }
    let caller = native::likely_caller(&argv);
    // Rust's own code for a panic is 101, which PostgreSQL takes for "no such file" and ends recovery.
    let code = std::panic::catch_unwind(|| called(argv, &environment));
    code.unwrap_or_else(|_| ExitCode::from(exit_code::of(ErrorKind::Bug, caller)))
}

fn called(argv: Vec<OsString>, environment: &BTreeMap<String, String>) -> ExitCode {
    if let Some((program, words)) = barman::called(&argv) {
        return ExitCode::from(barman::answer(program, words, environment, &mut stdout()));
    }
    match native::parse(argv, environment, Zone::Host) {
        Ok(Invocation::Run(invocation)) => {
            let (caller, format) = (invocation.command.caller(), invocation.settings.log.format);
            end(start(*invocation, environment), caller, format)
        }
        Ok(Invocation::Version(format)) => end_plainly(output::version(&mut stdout(), format)),
        Ok(Invocation::InstallLinks(directory)) => end_plainly(install_links(&directory)),
        Ok(Invocation::Completions(shell)) => end_plainly(native::completions(shell, &mut stdout())),
        Err(exit) => {
            exit.print();
            ExitCode::from(exit.code())
        }
    }
}

fn start(invocation: Run, environment: &BTreeMap<String, String>) -> Result<u8> {
    let screen = Screen::new(invocation.settings.progress);
    log::init(&invocation.settings.log, &screen)?;
    let around = Surroundings {
        environment,
        now: chrono::Utc::now(),
        screen: &screen,
        charts: (stdout().is_terminal(), stderr().is_terminal()),
    };
    run(invocation, &around, &mut stdout())
}

fn install_links(directory: &Path) -> Result<()> {
    let exe = std::env::current_exe()
        .map_err(|cause| Error::new(ErrorKind::Local, format!("could not find this program's own path: {cause}")))?;
    output::links_installed(&mut stdout(), &links::install(directory, &exe)?)
}

fn end_plainly(outcome: Result<()>) -> ExitCode {
    end(outcome.map(|()| exit_code::DONE), Caller::Anyone, LogFormat::Text)
}

fn end(outcome: Result<u8>, caller: Caller, format: LogFormat) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::report(&error, "barback", format, &mut stderr());
            ExitCode::from(exit_code::of(error.kind(), caller))
        }
    }
}
