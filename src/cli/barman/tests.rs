//! The command lines of Barman 3.19.1, recorded and made up, against ours.
//!
//! `fixtures/barman-argv` is written by `tools/record-barman-argv.py`, which runs Barman's own commands.

mod cloudnativepg;
mod properties;
mod recorded;
mod same_job;

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::call::{Asked, Call, Exit, Program, parse};
use super::{UNKNOWN_EXIT, unknown_exit};

/// The width for which usage texts were recorded beside the errors.
const COLUMNS: usize = 80;

fn ask(program: Program, words: &[&str]) -> Result<Call, Exit> {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    parse(Asked { program, name: program.name(), columns: Some(COLUMNS) }, &words)
}

/// What stderr gets of a command line that is refused with exit 3.
fn stderr_of(outcome: Result<Call, Exit>) -> String {
    match outcome {
        Err(Exit::Usage { stderr } | Exit::Bare { stderr }) => stderr,
        other => panic!("this is no refusal: {other:?}"),
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn every_program_is_found_by_its_name_and_prints_a_version_that_operators_can_read() {
    for program in Program::ALL {
        assert_eq!(Program::from_name(program.name()), Some(program));
        let stdout = format!("{} 3.19.1\n", program.name());
        assert_eq!(ask(program, &["--version"]), Err(Exit::Printed { stdout: stdout.clone() }));
        assert_eq!(ask(program, &["-V", "whatever", "--bogus"]), Err(Exit::Printed { stdout }));
    }
    assert_eq!(Program::from_name("barman-cloud"), None);
}

#[test]
fn the_help_explains_every_option_and_argument() {
    for program in Program::ALL {
        let Err(Exit::Printed { stdout }) = ask(program, &["--help"]) else { panic!("no help of {program:?}") };
        for argument in super::grammar::arguments(program) {
            let invocation = argument.names.iter().next_back().copied().unwrap_or(argument.metavar);
            let explained = stdout.lines().any(|line| line.starts_with("  ") && words(line).contains(&invocation));
            assert!(explained, "{invocation} is not explained by {program:?}:\n{stdout}");
        }
        assert!(stdout.starts_with("usage: ") && stdout.ends_with('\n'), "{stdout}");
        let (_, explanations) = stdout.split_once("\n\n").unwrap();
        let too_wide = |line: &&str| line.len() > COLUMNS - 2 && !line.starts_with("  -");
        assert_eq!(explanations.lines().find(too_wide), None);
    }
}

#[test]
fn an_error_names_the_program_as_it_was_called() {
    let asked = Asked { program: Program::BackupList, name: "list-backups", columns: None };
    let stderr = stderr_of(parse(asked, &["x".into()]));
    assert!(stderr.starts_with("usage: list-backups [-V] [--help] [-v | -q] [-t]\n"), "{stderr}");
    assert!(stderr.ends_with("\nlist-backups: error: the following arguments are required: server_name\n"), "{stderr}");
}

#[test]
fn bytes_that_are_no_utf8_are_paths_and_never_names() {
    use std::os::unix::ffi::OsStringExt as _;
    let odd = || OsString::from_vec(b"a\xffb".to_vec());
    let asked = |program: Program| Asked { program, name: program.name(), columns: None };
    let call = parse(asked(Program::WalArchive), &["x".into(), "s".into(), odd()]).unwrap();
    let super::call::Work::WalArchive(archive) = call.work else { panic!("{:?}", call.work) };
    assert_eq!(archive.path, Some(odd().into()));
    for (line, error) in [
        (vec!["x".into(), odd()], "argument server_name: 'a\\udcffb' is not UTF-8\n"),
        (vec!["x".into(), "s".into(), odd()], "unrecognized arguments: a\\udcffb\n"),
        (vec!["x".into(), "s".into(), "-J".into(), odd()], "argument -J/--jobs: 'a\\udcffb' is not a valid input\n"),
        (
            vec!["x".into(), "s".into(), "--read-timeout".into(), odd()],
            "argument --read-timeout: invalid int value: 'a\\udcffb'\n",
        ),
        (vec!["x".into(), "s".into(), "--tags".into(), odd()], "Invalid tag format: a\\udcffb\n"),
    ] {
        let stderr = stderr_of(parse(asked(Program::Backup), &line));
        assert!(stderr.ends_with(error), "{stderr}");
    }
}

#[test]
fn a_second_terminator_leaves_a_positional_argument_without_a_value() {
    // Barman 3.19.1 goes on with an empty list for a name.
    let stderr = stderr_of(ask(Program::WalArchive, &words("x -- -- 000000010000000000000001")));
    assert!(stderr.ends_with("error: the following arguments are required: server_name\n"), "{stderr}");
}

#[test]
fn a_bad_tablespace_rule_is_told_by_the_log_unless_only_the_store_is_tested() {
    let message =
        "Invalid tablespace relocation rule 'a'\nHINT: The valid syntax for a relocation rule is NAME:LOCATION";
    let line = words("--tablespace b:/c --tablespace a x s latest /d");
    assert_eq!(ask(Program::Restore, &line), Err(Exit::Logged { message: message.to_owned() }));
    assert!(ask(Program::Restore, &[&["-t"], line.as_slice()].concat()).is_ok());
}

#[test]
fn a_code_that_would_end_recovery_is_never_taken_for_one_that_stops_it() {
    let asked = |text: &str| unknown_exit(&BTreeMap::from([(UNKNOWN_EXIT.to_owned(), text.to_owned())]));
    assert_eq!(unknown_exit(&BTreeMap::new()), None);
    let answers = ["", "126", "255", "0", "1", "125", "256", "yes"].map(asked);
    assert_eq!(answers[..3], [None, Some(126), Some(255)]);
    assert!(answers[3..].iter().all(|answer| *answer == Some(255)), "{answers:?}");
}
