//! One command, both programs: what a script can see of each, side by side, and every difference collected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::harness::{Barman, Face, Finished, TestDir};

/// How much of what is said on stderr must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// Every message, to the letter.
    Same,
    /// Every message up to its last part, in which Barman 3.19.1 repeats what Python's libraries say.
    Heads,
    /// Nothing of it; both may be talkative or silent.
    Any,
}

/// What a script can see of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The exit code.
    pub code: i32,
    /// stdout.
    pub out: String,
    /// The messages on stderr, without time and process id.
    pub said: Vec<String>,
    /// What the call left behind, as the duel looks at it.
    pub left: String,
}

/// Both programs in one place, from one state, and the differences between them so far.
pub struct Duel<'a> {
    /// Real Barman.
    pub barman: Barman,
    /// Local files of both.
    pub dir: TestDir,
    env: Vec<(String, String)>,
    prepare: Box<dyn Fn(&TestDir) + 'a>,
    look: Box<dyn Fn(&TestDir) -> String + 'a>,
    calls: usize,
    differences: Vec<String>,
}

impl<'a> Duel<'a> {
    /// Both in the environment `env`; `None`, said aloud, without a Barman.
    pub fn new(env: Vec<(String, String)>) -> Option<Self> {
        Some(Self {
            barman: Barman::find()?,
            dir: TestDir::new(),
            env,
            prepare: Box::new(|_| ()),
            look: Box::new(|_| String::new()),
            calls: 0,
            differences: Vec::new(),
        })
    }

    /// Restores the state that both start from, before each call.
    #[must_use]
    pub fn prepared_by(mut self, prepare: impl Fn(&TestDir) + 'a) -> Self {
        self.prepare = Box::new(prepare);
        self
    }

    /// Describes the state that a call left, to be compared too.
    #[must_use]
    pub fn looking_at(mut self, look: impl Fn(&TestDir) -> String + 'a) -> Self {
        self.look = Box::new(look);
        self
    }

    /// The environment of every call.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// Runs both; they must do the same and use the same words. What Barman did.
    pub fn same(&mut self, command: &str, args: &[&str]) -> Seen {
        self.compare(Words::Same, &[], command, args)
    }

    /// Runs both; they must do the same, and say the same before they come to the details.
    pub fn alike(&mut self, command: &str, args: &[&str]) -> Seen {
        self.compare(Words::Heads, &[], command, args)
    }

    /// The same in a changed environment.
    pub fn compare(&mut self, words: Words, env: &[(&str, &str)], command: &str, args: &[&str]) -> Seen {
        let [theirs, ours] = self.barman.both().map(|face| self.call(&face, env, command, args));
        let (mut expected, mut found) = (theirs.clone(), ours);
        for seen in [&mut expected, &mut found] {
            match words {
                Words::Same => (),
                Words::Heads => {
                    // Barman has no hints.
                    seen.said.retain(|message| !message.starts_with("HINT: "));
                    seen.said.iter_mut().for_each(|message| *message = head(message));
                }
                Words::Any => seen.said.clear(),
            }
        }
        self.calls += 1;
        if expected != found {
            let mut text = format!("barman-cloud-{command} {args:?}");
            for (name, value) in env {
                _ = write!(text, " {name}={value}");
            }
            note(&mut text, "exit code", &expected.code, &found.code);
            note(&mut text, "stdout", &expected.out, &found.out);
            note(&mut text, "stderr", &expected.said, &found.said);
            let [theirs_only, ours_only] = [(&expected, &found), (&found, &expected)].map(|(one, other)| {
                let others: BTreeSet<&str> = other.left.lines().collect();
                one.left.lines().filter(|line| !others.contains(line)).collect::<Vec<_>>()
            });
            note(&mut text, "left behind", &theirs_only, &ours_only);
            self.differences.push(text);
        }
        theirs
    }

    /// One call by one of them, from the prepared state.
    pub fn call(&self, face: &Face, env: &[(&str, &str)], command: &str, args: &[&str]) -> Seen {
        (self.prepare)(&self.dir);
        let run = face.run(command, args).envs(&self.env).in_dir(self.dir.path());
        let run = env.iter().fold(run, |run, (name, value)| run.env(*name, *value));
        let finished = run.run();
        let left = (self.look)(&self.dir);
        let seen = seen(&finished, left);
        if std::env::var_os("BARBACK_SHOW").is_some() {
            eprintln!("{:7} {command} {args:?} {env:?}: {} {:?} {:?}", face.name(), seen.code, seen.out, seen.said);
        }
        seen
    }

    /// Panics, with all of them, when there was a difference.
    pub fn end(self) {
        let Self { calls, differences, .. } = &self;
        let found = differences.len();
        assert!(
            found == 0,
            "{found} of {calls} calls differ (- Barman 3.19.1, + barback):\n{}",
            differences.join("\n")
        );
    }
}

/// What can be seen of a finished call.
pub fn seen(finished: &Finished, left: String) -> Seen {
    Seen { code: finished.code(), out: finished.stdout.clone(), said: messages(&finished.stderr), left }
}

fn note<T: PartialEq + std::fmt::Debug>(text: &mut String, what: &str, theirs: &T, ours: &T) {
    if theirs != ours {
        _ = write!(text, "\n  {what}:\n    - {theirs:?}\n    + {ours:?}");
    }
}

/// stderr as messages: time and process id cut off, usage and stack traces reduced to their first and last line.
fn messages(stderr: &str) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for line in stderr.lines() {
        let line = without_stamp(line);
        let of_block = messages.last().is_some_and(|last| last.starts_with("usage: ") || last.starts_with("Traceback"));
        if of_block && line.starts_with(' ') {
            continue;
        }
        let line = if line.starts_with("usage: ") {
            line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        } else {
            // Without repeating there is nothing to reach; Barman's SDK says so where it was told not to repeat.
            without_clock(&line.replace(" (reached max retries: 0)", ""))
        };
        messages.push(line);
    }
    messages
}

/// `2026-11-23 08:40:54,488 [18767] ERROR: text` without the first two fields, which no other line is.
fn without_stamp(line: &str) -> &str {
    let form = "0000-00-00 00:00:00,000 [";
    let is_stamp = line.len() > form.len()
        && line
            .bytes()
            .zip(form.bytes())
            .all(|(byte, form)| if form == b'0' { byte.is_ascii_digit() } else { byte == form });
    let rest = is_stamp.then(|| line[form.len()..].split_once("] ")).flatten();
    match rest {
        Some((process, message)) if process.bytes().all(|byte| byte.is_ascii_digit()) => message,
        _ => line,
    }
}

/// The beginning of a recovery window is the time of the call, to the microsecond.
fn without_clock(line: &str) -> String {
    match line.split_once("(older than ") {
        Some((before, rest)) => {
            format!("{before}(older than then){}", rest.split_once(')').map_or("", |(_, after)| after))
        }
        None => line.to_owned(),
    }
}

/// `ERROR: Barman cloud restore exception: what a library said` without the library.
fn head(message: &str) -> String {
    let head = message.split(": ").take(2).collect::<Vec<_>>().join(": ");
    head.split(" (").next().unwrap_or_default().to_owned()
}

/// Every file below `directory` with its length and a digest, one a line: the state of a bucket or a directory.
pub fn listing(directory: &Path) -> String {
    let mut files = BTreeMap::new();
    collect(directory, directory, &mut files);
    files.into_iter().fold(String::new(), |mut text, (path, content)| {
        _ = writeln!(text, "{} {} {:08x}", path.display(), content.len(), crc32c::crc32c(&content));
        text
    })
}

fn collect(root: &Path, directory: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).expect("the walk began there").to_owned();
            files.insert(name, std::fs::read(&path).unwrap_or_default());
        }
    }
}
