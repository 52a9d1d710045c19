//! Python argparse's habits, as of 3.11: which words are options, what each takes, and which error comes first.
//!
//! Knows nothing of the commands: [`parse`] turns a table of [`Argument`]s and the words of a command line into
//! [`Occurrence`]s in the order typed. What an occurrence means (last one wins, counting, collecting) is the caller's.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::python;

/// One option or positional argument: `K` tells the caller which, `V` is what its values are read as.
#[derive(Debug)]
pub(super) struct Argument<K, V: 'static> {
    /// Which one it is; two options may mean the same.
    pub key: K,
    /// The spellings of an option, with their dashes; none for a positional argument.
    pub names: &'static [&'static str],
    /// What stands for its value in the usage text; an option with choices shows those where this is empty.
    pub metavar: &'static str,
    /// What follows it.
    pub takes: Takes<V>,
    /// Which arguments it excludes.
    pub group: Group,
    /// The heading of the help text below which it is explained.
    pub section: &'static str,
    /// Its explanation.
    pub help: &'static str,
}

/// What an argument takes.
#[derive(Debug)]
pub(super) enum Takes<V: 'static> {
    /// Nothing: prints the help and ends.
    Help,
    /// Nothing: prints the version and ends.
    Version,
    /// Nothing.
    Nothing,
    /// One word.
    One(Read<V>),
    /// One of these words.
    OneOf(&'static [&'static str], Read<V>),
    /// A positional argument that may be left out.
    AtMostOne(Read<V>),
    /// An option with every word up to the next option or `--`.
    Any(Read<V>),
}

/// Reads one word.
pub(super) type Read<V> = fn(&OsStr) -> Result<V, Refusal>;

/// Why a word cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// `invalid <kind> value: '<word>'`.
    Invalid(&'static str),
    /// A text of its own, to be printed after the argument's name.
    Said(String),
    /// A text that ends the command with nothing around it.
    Bare(String),
}

/// Arguments that exclude one another name the same group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// Excludes nothing.
    None,
    /// At most one of the group.
    AtMostOne(&'static str),
    /// Exactly one of the group.
    ExactlyOne(&'static str),
}

/// An argument as it was typed.
#[derive(Debug, PartialEq)]
pub(super) struct Occurrence<K, V> {
    /// The argument's key.
    pub key: K,
    /// The option's full name, `--gzip` for `--gz`; empty for a positional argument.
    pub name: &'static str,
    /// The words it took.
    pub values: Vec<V>,
}

/// Why parsing ended before the last word.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The help was asked for.
    Help,
    /// The version was asked for.
    Version,
    /// A mistake, to be printed below the usage text.
    Mistake(String),
    /// A text to be printed with nothing around it.
    Bare(String),
}

impl<K, V> Argument<K, V> {
    /// True for an argument that is known by its place.
    pub(super) fn is_positional(&self) -> bool {
        self.names.is_empty()
    }

    /// `-z/--gzip`, or what stands for a positional argument in the usage text.
    fn title(&self) -> String {
        if self.is_positional() { self.metavar.to_owned() } else { self.names.join("/") }
    }

    fn is_required(&self) -> bool {
        self.is_positional() && matches!(self.takes, Takes::One(_) | Takes::OneOf(..))
    }

    fn mistake(&self, said: &str) -> Ending {
        Ending::Mistake(format!("argument {}: {said}", self.title()))
    }
}

/// Reads the words of a command line, without the program's name.
///
/// Errors: in argparse's order. An ambiguous abbreviation anywhere comes first, then whatever is wrong from left to
/// right, then missing arguments, missing groups, and what is left over.
pub(super) fn parse<K: Copy, V>(
    arguments: &[&'static Argument<K, V>],
    words: &[OsString],
) -> Result<Vec<Occurrence<K, V>>, Ending> {
    let kinds = classify_all(arguments, words)?;
    let positionals = (0..arguments.len()).filter(|at| arguments[*at].is_positional()).collect();
    let mut parser = Parser {
        arguments,
        words,
        kinds,
        positionals,
        seen: vec![false; arguments.len()],
        found: Vec::new(),
        left_over: Vec::new(),
    };
    parser.run()?;
    parser.finish()
}

/// What a word is, before anything is read.
#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    /// A value or a positional argument.
    Word,
    /// The first `--`; everything after it is a `Word`.
    Dashes,
    /// Looks like an option and is none.
    Unknown,
    Option(Spelling<'a>),
}

/// An option, and what was joined to it by `=` or, after a single letter, by nothing.
#[derive(Debug, Clone, Copy)]
struct Spelling<'a> {
    argument: usize,
    name: &'static str,
    joined: Option<&'a OsStr>,
}

fn classify_all<'a, K, V>(
    arguments: &[&'static Argument<K, V>],
    words: &'a [OsString],
) -> Result<Vec<Kind<'a>>, Ending> {
    let mut kinds = Vec::with_capacity(words.len());
    for word in words {
        if word == "--" {
            kinds.push(Kind::Dashes);
            kinds.resize(words.len(), Kind::Word);
            break;
        }
        kinds.push(classify(arguments, word)?);
    }
    Ok(kinds)
}

fn classify<'a, K, V>(arguments: &[&'static Argument<K, V>], word: &'a OsStr) -> Result<Kind<'a>, Ending> {
    let bytes = word.as_bytes();
    if bytes.first() != Some(&b'-') {
        return Ok(Kind::Word);
    }
    if let Some((argument, name)) = option_named(arguments, bytes) {
        return Ok(Kind::Option(Spelling { argument, name, joined: None }));
    }
    if bytes.len() == 1 {
        return Ok(Kind::Word);
    }
    if let Some((before, after)) = split_at_equals(bytes)
        && let Some((argument, name)) = option_named(arguments, before)
    {
        return Ok(Kind::Option(Spelling { argument, name, joined: Some(after) }));
    }
    let candidates = candidates(arguments, bytes);
    match candidates.as_slice() {
        [only] => Ok(Kind::Option(*only)),
        [] if is_negative_number(word) || bytes.contains(&b' ') => Ok(Kind::Word),
        [] => Ok(Kind::Unknown),
        several => {
            let names: Vec<&str> = several.iter().map(|spelling| spelling.name).collect();
            let text = format!("ambiguous option: {} could match {}", python::printed(word), names.join(", "));
            Err(Ending::Mistake(text))
        }
    }
}

/// All options that a word, which is no option's full name, can be short for.
fn candidates<'a, K, V>(arguments: &[&'static Argument<K, V>], bytes: &'a [u8]) -> Vec<Spelling<'a>> {
    let is_long = bytes.starts_with(b"--");
    let (prefix, joined) = match split_at_equals(bytes) {
        Some((before, after)) if is_long => (before, Some(after)),
        _ => (bytes, None),
    };
    let (letter, rest) = bytes.split_at(2);
    let candidates = all_names(arguments).filter_map(|(argument, name)| {
        if !is_long && name.as_bytes() == letter {
            return Some(Spelling { argument, name, joined: Some(OsStr::from_bytes(rest)) });
        }
        name.as_bytes().starts_with(prefix).then_some(Spelling { argument, name, joined })
    });
    candidates.collect()
}

fn all_names<K, V>(arguments: &[&'static Argument<K, V>]) -> impl Iterator<Item = (usize, &'static str)> {
    arguments.iter().enumerate().flat_map(|(at, argument)| argument.names.iter().map(move |name| (at, *name)))
}

fn option_named<K, V>(arguments: &[&'static Argument<K, V>], wanted: &[u8]) -> Option<(usize, &'static str)> {
    all_names(arguments).find(|(_, name)| name.as_bytes() == wanted)
}

fn split_at_equals(bytes: &[u8]) -> Option<(&[u8], &OsStr)> {
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    Some((&bytes[..at], OsStr::from_bytes(&bytes[at + 1..])))
}

/// `-1`, `-.5`, `-1.5`, with a newline at the end or not: a value, as no option looks like that.
fn is_negative_number(word: &OsStr) -> bool {
    let Some(number) = word.to_str().and_then(|text| text.strip_prefix('-')) else { return false };
    let number = number.strip_suffix('\n').unwrap_or(number);
    let all_digits = |text: &str| text.chars().all(|c| python::decimal(c).is_some());
    let (whole, last) = number.split_once('.').unwrap_or(("", number));
    !last.is_empty() && all_digits(whole) && all_digits(last)
}

/// A command line in the course of being read.
struct Parser<'a, K: 'static, V: 'static> {
    arguments: &'a [&'static Argument<K, V>],
    words: &'a [OsString],
    kinds: Vec<Kind<'a>>,
    /// The positional arguments that are still to come.
    positionals: Vec<usize>,
    seen: Vec<bool>,
    found: Vec<Occurrence<K, V>>,
    left_over: Vec<&'a OsStr>,
}

impl<'a, K: Copy + 'static, V> Parser<'a, K, V> {
    /// Options and positional arguments in turn, up to the last option; then what follows it.
    fn run(&mut self) -> Result<(), Ending> {
        let mut at = 0;
        while let Some(option) = self.next_option(at) {
            if at != option {
                let end = self.take_positionals(at)?;
                if end > at {
                    at = end;
                    continue;
                }
                self.left_over.extend(self.words[at..option].iter().map(OsString::as_os_str));
            }
            at = self.take_option(option)?;
        }
        let end = self.take_positionals(at)?;
        self.left_over.extend(self.words[end..].iter().map(OsString::as_os_str));
        Ok(())
    }

    fn next_option(&self, from: usize) -> Option<usize> {
        let mut rest = self.kinds[from..].iter();
        rest.position(|kind| matches!(kind, Kind::Option(_) | Kind::Unknown)).map(|ahead| from + ahead)
    }

    /// As many positional arguments as the words from here have values for, all at once: one that may be left out is
    /// left out when the words before the next option do not suffice, and never comes back.
    fn take_positionals(&mut self, from: usize) -> Result<usize, Ending> {
        let mut at = from;
        for count in self.match_positionals(from) {
            let argument = self.positionals.remove(0);
            let words = self.words[at..at + count].iter().map(OsString::as_os_str).collect();
            self.take(argument, "", words)?;
            at += count;
        }
        Ok(at)
    }

    /// How many words each of the next positional arguments takes, for as many of them as can have their share.
    fn match_positionals(&self, from: usize) -> Vec<usize> {
        let mut longest_first = (1..=self.positionals.len()).rev();
        longest_first.find_map(|many| self.match_exactly(&self.positionals[..many], from)).unwrap_or_default()
    }

    fn match_exactly(&self, positionals: &[usize], from: usize) -> Option<Vec<usize>> {
        let Some((first, rest)) = positionals.split_first() else { return Some(Vec::new()) };
        let start = self.skip_dashes(from);
        let after_a_word = matches!(self.kinds.get(start), Some(Kind::Word)).then(|| self.skip_dashes(start + 1));
        let may_be_left_out = matches!(self.arguments[*first].takes, Takes::AtMostOne(_));
        let ends = [after_a_word, may_be_left_out.then_some(start)];
        ends.into_iter().flatten().find_map(|end| {
            let mut counts = self.match_exactly(rest, end)?;
            counts.insert(0, end - from);
            Some(counts)
        })
    }

    fn skip_dashes(&self, at: usize) -> usize {
        at + self.kinds[at.min(self.kinds.len())..].iter().take_while(|kind| matches!(kind, Kind::Dashes)).count()
    }

    /// One option, or several letters behind one dash, with the words they take; returns the place behind them.
    fn take_option(&mut self, at: usize) -> Result<usize, Ending> {
        let Kind::Option(mut spelling) = self.kinds[at] else {
            self.left_over.push(&self.words[at]);
            return Ok(at + 1);
        };
        let mut bundle = Vec::new();
        let (end, words) = loop {
            let argument = self.arguments[spelling.argument];
            let Some(joined) = spelling.joined else {
                let end = at + 1 + self.count_values(argument, at + 1)?;
                break (end, self.words[at + 1..end].iter().map(OsString::as_os_str).collect());
            };
            if !matches!(argument.takes, Takes::Help | Takes::Version | Takes::Nothing) {
                break (at + 1, vec![joined]);
            }
            bundle.push(spelling);
            spelling = self
                .next_letter(spelling.name, joined)
                .ok_or_else(|| argument.mistake(&format!("ignored explicit argument {}", python::repr(joined))))?;
        };
        for letter in bundle {
            self.take(letter.argument, letter.name, Vec::new())?;
        }
        self.take(spelling.argument, spelling.name, words)?;
        Ok(end)
    }

    /// The option of the first letter that is joined to `name`, which takes nothing: `-v` of `-tv`.
    fn next_letter(&self, name: &str, joined: &'a OsStr) -> Option<Spelling<'a>> {
        let (letter, rest) = joined.as_bytes().split_first()?;
        if name.starts_with("--") {
            return None;
        }
        let (argument, name) = option_named(self.arguments, &[b'-', *letter])?;
        Some(Spelling { argument, name, joined: (!rest.is_empty()).then_some(OsStr::from_bytes(rest)) })
    }

    /// How many of the words from here an option takes.
    fn count_values(&self, argument: &Argument<K, V>, from: usize) -> Result<usize, Ending> {
        let available = self.kinds[from..].iter().take_while(|kind| matches!(kind, Kind::Word)).count();
        match argument.takes {
            Takes::Help | Takes::Version | Takes::Nothing => Ok(0),
            Takes::One(_) | Takes::OneOf(..) if available == 0 => Err(argument.mistake("expected one argument")),
            Takes::One(_) | Takes::OneOf(..) => Ok(1),
            Takes::AtMostOne(_) => Ok(available.min(1)),
            Takes::Any(_) => Ok(available),
        }
    }

    /// Reads an argument's words, then checks that nothing it excludes came before it.
    fn take(&mut self, at: usize, name: &'static str, mut words: Vec<&OsStr>) -> Result<(), Ending> {
        let argument = self.arguments[at];
        // Also where it is a value: `--dbname=--` gives no name at all.
        if let Some(dashes) = words.iter().position(|word| *word == "--") {
            words.remove(dashes);
        }
        let values = words.iter().map(|word| read(argument, word)).collect::<Result<Vec<V>, Ending>>()?;
        let left_out = words.is_empty() && matches!(argument.takes, Takes::AtMostOne(_));
        self.refuse_excluded(at)?;
        self.seen[at] = true;
        match argument.takes {
            Takes::Help => return Err(Ending::Help),
            Takes::Version => return Err(Ending::Version),
            _ if left_out => {}
            _ => self.found.push(Occurrence { key: argument.key, name, values }),
        }
        Ok(())
    }

    fn refuse_excluded(&self, at: usize) -> Result<(), Ending> {
        let argument = self.arguments[at];
        let others = self.arguments.iter().enumerate().filter(|(other, _)| *other != at);
        let excluded = others
            .filter(|(_, other)| argument.group != Group::None && other.group == argument.group)
            .find(|(other, _)| self.seen[*other]);
        match excluded {
            Some((_, other)) => Err(argument.mistake(&format!("not allowed with argument {}", other.title()))),
            None => Ok(()),
        }
    }

    /// What can be said only when all words are read.
    fn finish(self) -> Result<Vec<Occurrence<K, V>>, Ending> {
        let unseen = self.arguments.iter().zip(&self.seen).filter(|(_, seen)| !**seen);
        let missing: Vec<_> =
            unseen.filter(|(argument, _)| argument.is_required()).map(|(one, _)| one.title()).collect();
        if !missing.is_empty() {
            let text = format!("the following arguments are required: {}", missing.join(", "));
            return Err(Ending::Mistake(text));
        }
        if let Some(titles) = self.unsatisfied_group() {
            return Err(Ending::Mistake(format!("one of the arguments {} is required", titles.join(" "))));
        }
        if !self.left_over.is_empty() {
            let words: Vec<String> = self.left_over.iter().map(|word| python::printed(word)).collect();
            return Err(Ending::Mistake(format!("unrecognized arguments: {}", words.join(" "))));
        }
        Ok(self.found)
    }

    /// The members of the first group of which one is needed and none was typed.
    fn unsatisfied_group(&self) -> Option<Vec<String>> {
        let members = |group: Group| (0..self.arguments.len()).filter(move |at| self.arguments[*at].group == group);
        let groups = self.arguments.iter().map(|argument| argument.group);
        let mut needed = groups.filter(|group| matches!(group, Group::ExactlyOne(_)));
        let unsatisfied = needed.find(|group| !members(*group).any(|at| self.seen[at]))?;
        Some(members(unsatisfied).map(|at| self.arguments[at].title()).collect())
    }
}

fn read<K, V>(argument: &Argument<K, V>, word: &OsStr) -> Result<V, Ending> {
    let (choices, read): (&[&str], _) = match argument.takes {
        Takes::One(read) | Takes::AtMostOne(read) | Takes::Any(read) => (&[], read),
        Takes::OneOf(choices, read) => (choices, read),
        Takes::Help | Takes::Version | Takes::Nothing => {
            return Err(argument.mistake(&format!("ignored explicit argument {}", python::repr(word))));
        }
    };
    if !choices.is_empty() && !choices.iter().any(|choice| word == *choice) {
        let shown: Vec<String> = choices.iter().map(|choice| python::repr(choice.as_ref())).collect();
        let (word, shown) = (python::repr(word), shown.join(", "));
        return Err(argument.mistake(&format!("invalid choice: {word} (choose from {shown})")));
    }
    read(word).map_err(|refusal| match refusal {
        Refusal::Invalid(kind) => argument.mistake(&format!("invalid {kind} value: {}", python::repr(word))),
        Refusal::Said(text) => argument.mistake(&text),
        Refusal::Bare(text) => Ending::Bare(text),
    })
}
