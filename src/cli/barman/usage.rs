//! The usage text above an error, wrapped as Python's argparse wraps it, and the help text.

use super::argparse::{Argument, Group, Takes};

/// What is printed before the program's name.
const PREFIX: &str = "usage: ";
/// Where explanations begin, in characters.
const HELP_COLUMN: usize = 24;
/// Explanations are never squeezed into fewer characters.
const NARROWEST_HELP: usize = 11;

/// The usage text, with a newline at its end, on a terminal of `columns` characters.
pub(super) fn usage<K, V>(program: &str, arguments: &[&'static Argument<K, V>], columns: usize) -> String {
    let width = columns.saturating_sub(2);
    let (positionals, options): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| argument.is_positional());
    let options = options_text(&options);
    let positionals = positionals.iter().map(|argument| value_text(argument)).collect::<Vec<_>>().join(" ");
    let all = [program, &options, &positionals].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    let on_one_line = format!("{PREFIX}{}\n", all.join(" "));
    if length(on_one_line.trim_end()) <= width {
        return on_one_line;
    }
    let indent = length(PREFIX) + length(program) + 1;
    let lines = if 4 * (indent - 1) <= 3 * width {
        let mut lines = wrap(std::iter::once(program).chain(wrappable(&options)), indent, Some(PREFIX), width);
        lines.extend(wrap(wrappable(&positionals).into_iter(), indent, None, width));
        lines
    } else {
        let indent = length(PREFIX);
        let together = wrappable(&options).into_iter().chain(wrappable(&positionals));
        let mut lines = wrap(together, indent, None, width);
        if lines.len() > 1 {
            lines = wrap(wrappable(&options).into_iter(), indent, None, width);
            lines.extend(wrap(wrappable(&positionals).into_iter(), indent, None, width));
        }
        lines.insert(0, program.to_owned());
        lines
    };
    format!("{PREFIX}{}\n", lines.join("\n"))
}

/// The help text: usage, `about`, and every argument below the heading of its section.
pub(super) fn help<K, V>(program: &str, about: &str, arguments: &[&'static Argument<K, V>], columns: usize) -> String {
    let width = columns.saturating_sub(2);
    let mut text = format!("{}\n{}\n", usage(program, arguments, columns), fill(about, width).join("\n"));
    let mut sections: Vec<&str> = Vec::new();
    for argument in arguments {
        if !sections.contains(&argument.section) {
            sections.push(argument.section);
        }
    }
    for section in sections {
        text.extend(["\n", section, ":\n"]);
        for argument in arguments.iter().filter(|argument| argument.section == section) {
            text.push_str(&explanation(argument, width));
        }
    }
    text
}

/// `  -z, --gzip              what it does`.
fn explanation<K, V>(argument: &Argument<K, V>, width: usize) -> String {
    let value = value_text(argument);
    let spellings: Vec<String> = if argument.is_positional() {
        vec![argument.metavar.to_owned()]
    } else {
        argument.names.iter().map(|name| format!("{name} {value}").trim_end().to_owned()).collect()
    };
    let mut text = format!("  {}", spellings.join(", "));
    let indent = format!("\n{}", " ".repeat(HELP_COLUMN));
    let space = HELP_COLUMN.checked_sub(length(&text)).filter(|space| *space >= 2);
    text.push_str(&space.map_or_else(|| indent.clone(), |space| " ".repeat(space)));
    text.push_str(&fill(argument.help, width.saturating_sub(HELP_COLUMN).max(NARROWEST_HELP)).join(&indent));
    text.push('\n');
    text
}

/// Words in lines of at most `width` characters.
fn fill(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if line.is_empty() {
            line.push_str(word);
        } else if length(line) + 1 + length(word) <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// All options in order, each in brackets; arguments that exclude one another share a pair when they stand together.
fn options_text<K, V>(options: &[&&'static Argument<K, V>]) -> String {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(option) = options.get(at) {
        let together = members_from(options, at);
        let invocations: Vec<String> = options[at..at + together].iter().map(|option| invocation(option)).collect();
        let one = invocations.join(" | ");
        let needed = together > 1 && matches!(option.group, Group::ExactlyOne(_));
        parts.push(if needed { format!("({one})") } else { format!("[{one}]") });
        at += together;
    }
    parts.join(" ")
}

/// How many options from `at` are one group, whole and in one piece; 1 where there is none.
fn members_from<K, V>(options: &[&&'static Argument<K, V>], at: usize) -> usize {
    let group = options[at].group;
    if group == Group::None {
        return 1;
    }
    let is_member = |option: &&&&'static Argument<K, V>| option.group == group;
    let all = options.iter().filter(is_member).count();
    if options[at..].iter().take_while(is_member).count() == all { all } else { 1 }
}

/// `-J JOBS`.
fn invocation<K, V>(option: &Argument<K, V>) -> String {
    let name = option.names.first().copied().unwrap_or_default();
    format!("{name} {}", value_text(option)).trim_end().to_owned()
}

/// What stands for the value: `JOBS`, `{full,standalone}`, `[TAGS_LIST ...]`; nothing for a flag.
fn value_text<K, V>(argument: &Argument<K, V>) -> String {
    let metavar = argument.metavar;
    match argument.takes {
        Takes::Help | Takes::Version | Takes::Nothing => String::new(),
        Takes::OneOf(choices, _) if metavar.is_empty() => format!("{{{}}}", choices.join(",")),
        Takes::One(_) | Takes::OneOf(..) => metavar.to_owned(),
        Takes::AtMostOne(_) => format!("[{metavar}]"),
        Takes::Any(_) => format!("[{metavar} ...]"),
    }
}

/// The pieces between which a line may be broken: what is in brackets, up to the first closing one before a space, and
/// single words. So `[--tags [X ...] | --tag Y]` falls into four, as in argparse of Python 3.11.
fn wrappable(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = bracketed(rest, '(', ')')
            .or_else(|| bracketed(rest, '[', ']'))
            .or_else(|| rest.find(' '))
            .unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    parts
}

/// Where the brackets end that `text` begins with.
fn bracketed(text: &str, open: char, close: char) -> Option<usize> {
    if !text.starts_with(open) {
        return None;
    }
    let mut ends = text.match_indices(close).map(|(at, _)| at + close.len_utf8());
    ends.find(|end| text[*end..].is_empty() || text[*end..].starts_with(' '))
}

/// Joins `parts` to lines of at most `width` characters, indented. With a prefix the first line is not indented, as it
/// stands behind that.
fn wrap<'a>(parts: impl Iterator<Item = &'a str>, indent: usize, prefix: Option<&str>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line: Vec<&str> = Vec::new();
    // One less than what is filled, as every part counts the space before it; the prefix ends with one.
    let mut filled = prefix.map_or(indent, length) - 1;
    let indented = |line: &[&str]| format!("{}{}", " ".repeat(indent), line.join(" "));
    for part in parts {
        if filled + 1 + length(part) > width && !line.is_empty() {
            lines.push(indented(&line));
            line.clear();
            filled = indent - 1;
        }
        line.push(part);
        filled += length(part) + 1;
    }
    if !line.is_empty() {
        lines.push(indented(&line));
    }
    if let (Some(_), Some(first)) = (prefix, lines.first_mut()) {
        first.drain(..indent);
    }
    lines
}

fn length(text: &str) -> usize {
    text.chars().count()
}
