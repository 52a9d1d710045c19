//! What holds for every command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::super::argparse::Takes;
use super::super::call::{Asked, Exit, Program, parse};
use super::super::grammar;

/// A word that some option takes, for each kind of value that there is.
const VALUES: [&str; 14] =
    ["3", "12MB", "k,v", "high", "AES256", "aws-s3", "path", "default", "full", "latest", "a:/b", "name", "-1", ""];

/// One option with a value that it takes.
fn typed(program: Program) -> Vec<Vec<String>> {
    let options = grammar::arguments(program).into_iter().filter(|argument| !argument.is_positional());
    options
        .filter_map(|option| {
            // The first option for snapshots is remembered: there order matters.
            let name = option.names.last().filter(|name| **name != "--snapshot-instance")?.to_string();
            let taken =
                |read: &dyn Fn(&str) -> bool| VALUES.iter().find(|value| read(value)).map(|value| (*value).to_owned());
            match &option.takes {
                Takes::Help | Takes::Version => None,
                Takes::Nothing => Some(vec![name]),
                Takes::OneOf(choices, _) => Some(vec![name, choices[0].to_owned()]),
                Takes::One(read) | Takes::AtMostOne(read) | Takes::Any(read) => {
                    Some(vec![name, taken(&|value| read(value.as_ref()).is_ok())?])
                }
            }
        })
        .collect()
}

fn program() -> impl Strategy<Value = Program> {
    select(Program::ALL.as_slice())
}

/// A few options of one command, in one order and in another.
fn shuffled() -> impl Strategy<Value = (Program, Vec<Vec<String>>, Vec<Vec<String>>)> {
    program().prop_flat_map(|program| {
        let options = typed(program);
        let some =
            subsequence(options.clone(), 0..=options.len().min(8)).prop_filter("no two of a group", move |chosen| {
                // What excludes one another is refused in any order, but with another text.
                parse_line(program, chosen).is_ok()
            });
        some.prop_flat_map(move |chosen| (Just(program), Just(chosen.clone()), Just(chosen).prop_shuffle()))
    })
}

fn asked(program: Program) -> Asked<'static> {
    Asked { program, name: program.name(), columns: None }
}

fn parse_line(program: Program, options: &[Vec<String>]) -> Result<super::super::call::Call, Exit> {
    let positionals = grammar::arguments(program).into_iter().filter(|argument| argument.is_positional()).count();
    let needed: &[&str] = match program {
        Program::BackupDelete
            if !options.iter().any(|option| ["--backup-id", "--retention-policy"].contains(&option[0].as_str())) =>
        {
            &["-b", "x"]
        }
        Program::BackupKeep
            if !options.iter().any(|option| ["--release", "--status", "--target"].contains(&option[0].as_str())) =>
        {
            &["-r"]
        }
        _ => &[],
    };
    let words = options.iter().flatten().map(OsString::from);
    // The terminator, as the last option may be one that takes every word.
    let end = needed.iter().map(OsString::from).chain(["--".into()]).chain(vec!["x".into(); positionals]);
    parse(asked(program), &words.chain(end).collect::<Vec<_>>())
}

/// Words that look like options, values and neither.
fn word() -> impl Strategy<Value = OsString> {
    let spellings: Vec<&'static str> = Program::ALL
        .into_iter()
        .flat_map(|program| grammar::arguments(program).into_iter().flat_map(|argument| argument.names.iter().copied()))
        .collect();
    let cut =
        (select(spellings.clone()), any::<Index>()).prop_map(|(name, end)| name[..=end.index(name.len())].to_owned());
    let joined = (select(spellings), select(VALUES.as_slice())).prop_map(|(name, value)| format!("{name}={value}"));
    prop_oneof![
        cut.prop_map(OsString::from),
        joined.prop_map(OsString::from),
        select(VALUES.as_slice()).prop_map(OsString::from),
        "-{0,2}[a-zA-Z0-9=., -]{0,6}".prop_map(OsString::from),
        any::<String>().prop_map(OsString::from),
        vec(1_u8.., 0..6).prop_map(OsString::from_vec),
    ]
}

proptest! {
    #[test]
    fn no_command_line_panics(program in program(), line in vec(word(), 0..12), columns in 0_usize..300) {
        let asked = Asked { columns: Some(columns), ..asked(program) };
        if let Err(Exit::Usage { stderr }) = parse(asked, &line) {
            prop_assert!(stderr.starts_with("usage: ") && stderr.contains(": error: ") && stderr.ends_with('\n'));
        }
    }

    #[test]
    fn the_order_of_options_does_not_matter((program, one, other) in shuffled()) {
        prop_assert_eq!(parse_line(program, &one), parse_line(program, &other));
    }
}
