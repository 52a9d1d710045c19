//! What can be told of an `archive_command` by reading it: whether it calls barback, for which archive, and whether its exit code
//! is the one of what archives.
//!
//! PostgreSQL believes an exit code of 0 and recycles the segment. A line that ends in `|| true` therefore loses WAL for as long as
//! archiving fails, with `failed_count` at 0. A script that is called instead cannot be seen into: only the store tells.

/// What an `archive_command` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveCommand {
    /// Whether it calls `wal-archive` of either face.
    pub calls_barback: bool,
    /// The part behind what archives that gives the whole another exit code: `|| true`, `&`.
    pub swallowed_by: Option<String>,
    /// The store it names, if it does.
    pub store: Option<String>,
    /// The server it names, if it does.
    pub server: Option<String>,
    /// Whether it is told which file to archive.
    pub names_the_file: bool,
}

/// The program's word, in either face.
const WAL_ARCHIVE: &str = "wal-archive";

/// The other face's program.
const BARMAN_WAL_ARCHIVE: &str = "barman-cloud-wal-archive";

/// Programs whose `-c` is followed by a command line of its own.
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "ksh", "zsh"];

/// Scripts within scripts are read so deep.
const DEPTH: usize = 3;

/// Reads a command as a POSIX shell takes it apart; what it cannot follow it leaves alone.
#[must_use]
pub fn read(command: &str) -> ArchiveCommand {
    // Only a shell that was asked to fails for a failure in front of a pipe.
    let mut found = read_script(command, command.contains("pipefail"), DEPTH);
    found.names_the_file = command.contains("%p");
    found
}

fn read_script(script: &str, is_whole_pipe: bool, depth: usize) -> ArchiveCommand {
    let steps = steps(script);
    let names_it = |step: &Step| step.words.iter().any(|word| word.contains(WAL_ARCHIVE));
    let takes_file = |step: &Step| step.words.iter().any(|word| word.contains("%p"));
    let at = steps.iter().position(names_it).or_else(|| steps.iter().rposition(takes_file)).unwrap_or(0);
    let Some(step) = steps.get(at) else { return ArchiveCommand::default() };
    let mut found = match inner_script(step).filter(|_| depth > 0) {
        Some(inner) => read_script(inner, is_whole_pipe, depth - 1),
        None => ArchiveCommand {
            calls_barback: calls_barback(&step.words),
            store: option(&step.words, "--store")
                .or_else(|| step.words.iter().find(|word| word.contains("://")).cloned()),
            server: option(&step.words, "--server").or_else(|| word_after_url(&step.words)),
            ..ArchiveCommand::default()
        },
    };
    found.swallowed_by = found.swallowed_by.or_else(|| swallowed_by(&steps[at..], is_whole_pipe));
    found
}

/// Other programs have a word of that name too.
fn calls_barback(words: &[String]) -> bool {
    let program = |word: &'_ str| word.rsplit('/').next().unwrap_or_default().to_owned();
    words.iter().any(|word| program(word) == BARMAN_WAL_ARCHIVE)
        || (words.iter().any(|word| program(word).starts_with("barback"))
            && words.iter().any(|word| word == WAL_ARCHIVE))
}

/// One command of a line, and the operator behind it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    words: Vec<String>,
    operator: &'static str,
}

/// What follows the command that archives, which is the first of `steps`, and hides its failure.
fn swallowed_by(steps: &[Step], is_whole_pipe: bool) -> Option<String> {
    for (at, step) in steps.iter().enumerate() {
        let rest = &steps[at + 1..];
        let said =
            || format!("{} {}", step.operator, rest.first().map(|next| next.words.join(" ")).unwrap_or_default());
        let hides = match step.operator {
            "&" => true,
            "|" => !is_whole_pipe,
            "||" => !rest.iter().any(fails),
            ";" => match rest.first() {
                None => false,
                Some(next) if is_closing(next) => continue,
                Some(_) => !rest.iter().any(|next| fails(next) || hands_on_a_code(next)),
            },
            _ => false,
        };
        if hides {
            return Some(said().trim_end().to_owned());
        }
        if step.operator == "||" {
            // Somebody took care of the failure.
            return None;
        }
    }
    None
}

/// `false`, `exit 1`, and `exit` alone, which hands on what was before it.
fn fails(step: &Step) -> bool {
    match step.words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["false", ..] | ["exit" | "return"] => true,
        ["exit" | "return", code, ..] => {
            code.bytes().all(|byte| byte.is_ascii_digit()) && code.bytes().any(|b| b != b'0')
        }
        _ => false,
    }
}

fn hands_on_a_code(step: &Step) -> bool {
    matches!(&step.words[..], [exit, code, ..] if matches!(exit.as_str(), "exit" | "return") && code.starts_with('$'))
}

fn is_closing(step: &Step) -> bool {
    matches!(step.words.first().map(String::as_str), Some("}" | ")" | "fi"))
}

/// The line behind `sh -c`.
fn inner_script(step: &Step) -> Option<&str> {
    let name = |word: &str| word.rsplit('/').next().is_some_and(|name| SHELLS.contains(&name));
    let shell = step.words.iter().position(|word| name(word))?;
    let flag = step.words[shell..].iter().position(|word| word.starts_with('-') && word.ends_with('c'))?;
    step.words.get(shell + flag + 1).map(String::as_str)
}

fn option(words: &[String], name: &str) -> Option<String> {
    let at = words
        .iter()
        .position(|word| word == name || word.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))?;
    match words[at].split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None => words.get(at + 1).cloned(),
    }
}

/// Barman's commands take the URL and the server one after the other.
fn word_after_url(words: &[String]) -> Option<String> {
    let is_barman = words.iter().any(|word| word.ends_with(BARMAN_WAL_ARCHIVE));
    let url = words.iter().position(|word| word.contains("://") && !word.starts_with('-')).filter(|_| is_barman)?;
    words.get(url + 1).cloned()
}

/// Takes a line apart at the shell's operators; quotes are taken off.
fn steps(script: &str) -> Vec<Step> {
    let mut steps = vec![Step::default()];
    let mut word: Option<String> = None;
    let mut chars = script.chars().peekable();
    while let Some(c) = chars.next() {
        let operator = match c {
            '\'' | '"' => {
                let text = word.get_or_insert_default();
                while let Some(inner) = chars.next().filter(|inner| *inner != c) {
                    // Within double quotes only these lose their meaning.
                    let is_escape = c == '"' && inner == '\\' && matches!(chars.peek(), Some('"' | '\\' | '$' | '`'));
                    text.extend(if is_escape { chars.next() } else { Some(inner) });
                }
                continue;
            }
            '\\' => {
                word.get_or_insert_default().extend(chars.next());
                continue;
            }
            // `2>&1`, `>&2`: no background.
            '>' | '<' => {
                word.get_or_insert_default().push(c);
                if let Some(and) = chars.next_if(|next| *next == '&') {
                    word.get_or_insert_default().push(and);
                }
                continue;
            }
            '&' if chars.peek() == Some(&'>') => {
                word.get_or_insert_default().push(c);
                continue;
            }
            '&' if chars.next_if_eq(&'&').is_some() => "&&",
            '|' if chars.next_if_eq(&'|').is_some() => "||",
            '|' if chars.next_if_eq(&'&').is_some() => "|",
            '&' => "&",
            '|' => "|",
            ';' | '\n' => ";",
            c if c.is_whitespace() => "",
            c => {
                word.get_or_insert_default().push(c);
                continue;
            }
        };
        let last = steps.last_mut().expect("there is always one");
        last.words.extend(word.take());
        if !operator.is_empty() && !last.words.is_empty() {
            last.operator = operator;
            steps.push(Step::default());
        }
    }
    steps.last_mut().expect("there is always one").words.extend(word);
    steps.retain(|step| !step.words.is_empty());
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_hides_a_failure_is_found_and_what_hands_it_on_is_not() {
        for (command, expected) in [
            ("barback wal-archive %p", None),
            ("barback wal-archive %p 2>&1", None),
            ("/usr/bin/timeout 60 barback wal-archive '%p' >> /var/log/x 2>&1", None),
            ("test -f /x && barback wal-archive %p && touch /y", None),
            ("barback wal-archive %p || exit 1", None),
            ("barback wal-archive %p || { logger failed; exit 1; }", None),
            ("barback wal-archive %p || false", None),
            ("barback wal-archive %p; exit $?", None),
            ("barback wal-archive %p; code=$?; logger done; exit $code", None),
            ("set -e; barback wal-archive %p", None),
            ("{ barback wal-archive %p; }", None),
            ("bash -o pipefail -c 'barback wal-archive %p | tee -a /var/log/x'", None),
            ("barback wal-archive %p || true", Some("|| true")),
            ("barback wal-archive %p ||true", Some("|| true")),
            ("barback wal-archive %p || :", Some("|| :")),
            ("barback wal-archive %p || exit 0", Some("|| exit 0")),
            ("barback wal-archive %p || logger 'it failed'", Some("|| logger it failed")),
            ("barback wal-archive %p && touch /y || true", Some("|| true")),
            ("barback wal-archive %p; exit 0", Some("; exit 0")),
            ("barback wal-archive %p; true", Some("; true")),
            ("barback wal-archive %p &", Some("&")),
            ("barback wal-archive %p & exit 0", Some("& exit 0")),
            ("barback wal-archive %p | tee -a /var/log/x", Some("| tee -a /var/log/x")),
            ("sh -c 'barback wal-archive %p || true'", Some("|| true")),
            ("/bin/bash -c \"barback wal-archive %p; exit 0\"", Some("; exit 0")),
            ("cp %p /archive/%f || true", Some("|| true")),
            ("test ! -f /archive/%f && cp %p /archive/%f", None),
            ("echo '|| true' && barback wal-archive %p", None),
        ] {
            assert_eq!(read(command).swallowed_by.as_deref(), expected, "{command}");
        }
    }

    #[test]
    fn who_is_called_for_which_archive_is_read() {
        let look = |command: &str| {
            let read = read(command);
            (read.calls_barback, read.store.unwrap_or_default(), read.server.unwrap_or_default(), read.names_the_file)
        };
        let owned = |calls, store: &str, server: &str, file| (calls, store.to_owned(), server.to_owned(), file);
        for (command, expected) in [
            ("barback wal-archive %p", owned(true, "", "", true)),
            ("barback --store s3://b/p --server=db wal-archive %p", owned(true, "s3://b/p", "db", true)),
            ("barback wal-archive --store='s3://b/p' \"%p\"", owned(true, "s3://b/p", "", true)),
            ("barman-cloud-wal-archive --gzip s3://b/p db %p", owned(true, "s3://b/p", "db", true)),
            ("barback barman-cloud-wal-archive s3://b/p db %p", owned(true, "s3://b/p", "db", true)),
            ("sh -c 'barback --server db wal-archive %p'", owned(true, "", "db", true)),
            ("barback wal-archive", owned(true, "", "", false)),
            ("/controller/manager wal-archive --log-destination /x %p", owned(false, "", "", true)),
            ("/opt/barback-0.1/bin/barback wal-archive %p", owned(true, "", "", true)),
            ("/usr/local/bin/archive.sh %p", owned(false, "", "", true)),
            ("", owned(false, "", "", false)),
        ] {
            assert_eq!(look(command), expected, "{command}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(command in "[a-z%p|&;'\"\\\\ \\n<>(){}$=-]{0,60}", any: String) {
            let _ = (read(&command), read(&any));
        }
    }
}
