//! The rules of the house that a machine can check: layers, purity, length, and what must never be committed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A file longer than this, before its tests, has more than one reason to exist.
const MAX_PRODUCTION_LINES: usize = 500;

/// Which modules of the crate a module may name, beside itself. `lib.rs` may name all.
const LAYERS: [(&str, &[&str]); 12] = [
    ("error", &[]),
    ("secret", &[]),
    ("domain", &["error"]),
    ("layout", &["domain", "error"]),
    ("wal", &["domain", "error"]),
    ("codec", &["layout", "wal", "domain", "error"]),
    ("disk", &["error"]),
    ("store", &["disk", "secret", "error"]),
    ("postgres", &["disk", "layout", "wal", "domain", "secret", "error"]),
    ("commands", &["store", "postgres", "disk", "codec", "layout", "wal", "domain", "secret", "error"]),
    ("cli", &["commands", "store", "postgres", "disk", "codec", "layout", "wal", "domain", "secret", "error"]),
    ("main", &["cli", "error"]),
];

/// Modules that can be read on a train: time, ids and bytes come in as arguments.
const PURE: [&str; 3] = ["domain", "layout", "wal"];

/// What a pure module may not touch.
const IMPURE: [&str; 12] = [
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "tokio",
    "async fn",
    "SystemTime",
    "Instant::now",
    "Utc::now",
    "Local::now",
    "rand",
];

/// Unfinished or switched-off work, split so that this very file does not contain it.
const UNFINISHED: [&str; 4] =
    [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("db", "g!("), concat!("#[ig", "nore")];

/// Beginnings of paths that exist on one machine only, split for the same reason.
const ONE_MACHINE: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];

#[test]
fn layers_name_only_what_lies_below_them() {
    expect_none(&check(
        &["src"],
        |path, text| {
            if is_tests_only(path) { Vec::new() } else { foreign_edges(&module_of(path), text) }
        },
    ));
}

#[test]
fn pure_layers_touch_nothing_outside() {
    expect_none(&check(
        &["src"],
        |path, text| {
            if is_tests_only(path) { Vec::new() } else { impure_words(&module_of(path), text) }
        },
    ));
}

#[test]
fn no_file_has_more_lines_than_one_reason_needs() {
    expect_none(&check(&["src"], |path, text| if is_tests_only(path) { Vec::new() } else { too_long(text) }));
}

#[test]
fn every_file_begins_by_saying_why_it_exists() {
    // Scripts and results beside the benches have forms of their own.
    let is_rust = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    let finding = |path: &Path, text: &str| if is_rust(path) { missing_purpose(text) } else { Vec::new() };
    expect_none(&check(&["src", "tests", "benches"], finding));
}

#[test]
fn nothing_is_unfinished_or_switched_off() {
    expect_none(&check(&["src", "tests", "benches"], |_, text| occurrences(&UNFINISHED, text)));
}

#[test]
fn nothing_names_the_paths_of_one_machine() {
    let everywhere =
        ["src", "tests", "benches", "tools", "docs", "Makefile", "README.md", "CONTRIBUTING.md", ".ci/run"];
    expect_none(&check(&everywhere, |_, text| machine_paths(text)));
}

#[test]
fn every_file_of_tests_is_run() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let main = std::fs::read_to_string(tests.join("main.rs")).expect("the suite has a main.rs");
    let named: BTreeSet<&str> = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    let entries = std::fs::read_dir(&tests).expect("tests are a directory");
    let there: BTreeSet<String> = entries
        .map(|entry| {
            entry.expect("a directory can be read").path().file_stem().unwrap_or_default().to_string_lossy().into()
        })
        .filter(|name| name != "main")
        .collect();
    let forgotten: Vec<_> = there.iter().filter(|name| !named.contains(name.as_str())).collect();
    assert!(!named.is_empty() && forgotten.is_empty(), "tests/main.rs does not name {forgotten:?}");
}

/// Runs `rule` on every text file under `places` of the crate; findings with their file in front.
fn check(places: &[&str], rule: impl Fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for place in places {
        collect_files(&crate_dir.join(place), &mut files);
    }
    assert!(!files.is_empty(), "no file was found, so nothing was checked");
    files.sort();
    let findings = files.iter().flat_map(|file| {
        let relative = file.strip_prefix(crate_dir).expect("the walk began there");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        rule(relative, &text).into_iter().map(|finding| format!("{}:{finding}", relative.display())).collect::<Vec<_>>()
    });
    findings.collect()
}

fn expect_none(findings: &[String]) {
    assert!(findings.is_empty(), "the house has {} fault(s):\n{}", findings.len(), findings.join("\n"));
}

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        collect_files(&entry.path(), files);
    }
}

/// `src/domain/lsn.rs` -> `domain`, `src/error.rs` -> `error`.
fn module_of(path: &Path) -> String {
    let first =
        path.components().nth(1).map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    first.trim_end_matches(".rs").to_owned()
}

/// `src/x/tests.rs` belongs to the tests of `src/x.rs`.
fn is_tests_only(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs")
}

/// Lines with their numbers, up to the tests, with comments emptied.
fn production_code(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let tests_begin = (0..lines.len()).find(|&at| begins_tests(&lines[at..])).unwrap_or(lines.len());
    lines[..tests_begin].iter().enumerate().map(|(at, line)| (at + 1, without_comment(line))).collect()
}

/// An inline test module; `mod tests;` keeps the code below it in view.
fn begins_tests(lines: &[&str]) -> bool {
    lines[0] == "#[cfg(test)]"
        && lines[1..]
            .iter()
            .find(|line| !line.starts_with("#["))
            .is_some_and(|line| line.split_whitespace().any(|word| word == "mod") && line.ends_with('{'))
}

/// Cuts at `//`, but not inside `https://`.
fn without_comment(line: &str) -> String {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| from + at) {
        if !line[..at].ends_with(':') {
            return line[..at].to_owned();
        }
        from = at + 2;
    }
    line.to_owned()
}

fn foreign_edges(module: &str, text: &str) -> Vec<String> {
    if module == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("1: the module \"{module}\" has no place among the layers")];
    };
    let roots = if module == "main" { ["barback::", "crate::"] } else { ["crate::", "super::"] };
    let code = production_code(text);
    let known = |name: &str| LAYERS.iter().any(|(layer, _)| *layer == name);
    let mut findings = Vec::new();
    for at in 0..code.len() {
        let line = &code[at].1;
        for (column, root) in roots.iter().flat_map(|root| line.match_indices(*root)) {
            let rest = &line[column + root.len()..];
            let following = code[at + 1..].iter().map(|(_, line)| line.as_str());
            for name in named_modules(rest, following) {
                // Names that are no layer are items of lib.rs or macros.
                if name != module && known(&name) && !allowed.contains(&name.as_str()) {
                    findings.push(format!("{}: {module} names {name}", code[at].0));
                }
            }
        }
    }
    findings
}

/// The modules named after `crate::`: one, or in `{a::b, c::{d, e}}` the first word of each top-level item.
fn named_modules<'a>(rest: &'a str, following: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let Some(group) = rest.strip_prefix('{') else {
        return vec![rest.chars().take_while(|&c| is_word(c)).collect()];
    };
    let (mut names, mut word, mut depth, mut fresh) = (Vec::new(), String::new(), 1, true);
    for c in std::iter::once(group).chain(following).flat_map(|line| line.chars().chain(['\n'])) {
        if fresh && is_word(c) {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            names.push(std::mem::take(&mut word));
            fresh = false;
        }
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn impure_words(module: &str, text: &str) -> Vec<String> {
    if !PURE.contains(&module) {
        return Vec::new();
    }
    let code = production_code(text);
    let found = code.iter().flat_map(|(number, line)| {
        let words = IMPURE.iter().filter(|word| has_word(line, word));
        words.map(move |word| format!("{number}: {module} is pure and names {word}"))
    });
    found.collect()
}

/// True when `word` stands in `line` on its own and not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_name)
            && !line[at + word.len()..].chars().next().is_some_and(is_name)
    })
}

fn too_long(text: &str) -> Vec<String> {
    let lines = production_code(text).len();
    if lines <= MAX_PRODUCTION_LINES {
        return Vec::new();
    }
    vec![format!("{lines}: {lines} lines before the tests, {MAX_PRODUCTION_LINES} are allowed")]
}

fn missing_purpose(text: &str) -> Vec<String> {
    let says_why =
        text.lines().next().is_some_and(|line| line.strip_prefix("//! ").is_some_and(|why| !why.trim().is_empty()));
    if says_why { Vec::new() } else { vec!["1: the first line must be `//! ` and why the file exists".to_owned()] }
}

fn occurrences(words: &[&str], text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(at, line)| {
            words.iter().filter(|word| line.contains(**word)).map(move |word| format!("{}: {word}", at + 1))
        })
        .collect()
}

/// A path counts when it begins there: `/srv/<word>/` is somebody's own business.
fn machine_paths(text: &str) -> Vec<String> {
    let begins = |line: &str, at: usize| {
        !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_-./}>*)".contains(c))
    };
    let lines = text.lines().enumerate();
    let found = lines.flat_map(|(number, line)| {
        let paths = ONE_MACHINE.iter().filter(move |path| line.match_indices(**path).any(|(at, _)| begins(line, at)));
        paths.map(move |path| format!("{}: {path}", number + 1))
    });
    found.collect()
}

mod the_checks_themselves {
    use super::*;

    #[test]
    fn a_forbidden_edge_is_found_in_every_way_to_write_it() {
        assert_eq!(foreign_edges("store", "//! x\nuse crate::postgres::Server;"), ["2: store names postgres"]);
        assert_eq!(foreign_edges("domain", "fn f() -> crate::wal::Page {}"), ["1: domain names wal"]);
        assert_eq!(
            foreign_edges("wal", "use crate::{\n    domain::{lsn, codec},\n    disk,\n};"),
            ["1: wal names disk"]
        );
        assert_eq!(foreign_edges("wal", "use crate::{error::Result, layout::keys};"), ["1: wal names layout"]);
        assert_eq!(foreign_edges("wal", "use super::super::disk;"), ["1: wal names disk"]);
        assert_eq!(foreign_edges("main", "use barback::commands;"), ["1: main names commands"]);
        assert_eq!(foreign_edges("utils", "").len(), 1);
    }

    #[test]
    fn an_allowed_edge_a_comment_and_a_test_are_left_alone() {
        assert!(foreign_edges("commands", "use crate::{store, postgres::x, commands::y};").is_empty());
        assert!(foreign_edges("domain", "/// See [`crate::store`].\nuse crate::error::Result;").is_empty());
        assert!(foreign_edges("domain", "#[cfg(test)]\nmod tests {\n    use crate::codec;\n}").is_empty());
        assert!(foreign_edges("lib", "use crate::cli;").is_empty());
    }

    #[test]
    fn code_below_a_test_module_of_its_own_file_stays_in_view() {
        assert_eq!(foreign_edges("wal", "#[cfg(test)]\nmod tests;\nuse crate::disk;"), ["3: wal names disk"]);
        assert_eq!(foreign_edges("wal", "#[cfg(test)]\nuse crate::error::E;\nuse crate::disk;"), ["3: wal names disk"]);
    }

    #[test]
    fn an_impure_word_is_found_in_pure_layers_only() {
        assert_eq!(impure_words("domain", "let t = Utc::now();"), ["1: domain is pure and names Utc::now"]);
        assert_eq!(impure_words("layout", "use std::fs;\nuse tokio::time;").len(), 2);
        assert!(impure_words("wal", "// std::fs\nlet operand = brand; let randomly = 1;").is_empty());
        assert!(impure_words("wal", "#[cfg(test)]\nmod tests {\n use std::fs;\n}").is_empty());
        assert!(impure_words("store", "use std::fs;").is_empty());
    }

    #[test]
    fn a_long_file_is_found_by_its_production_lines() {
        let long = "x\n".repeat(MAX_PRODUCTION_LINES + 1);
        assert_eq!(too_long(&long).len(), 1);
        let mostly_tests = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "x\n".repeat(MAX_PRODUCTION_LINES));
        assert!(too_long(&mostly_tests).is_empty());
    }

    #[test]
    fn a_file_without_a_purpose_is_found() {
        assert_eq!(missing_purpose("use std::fmt;\n").len(), 1);
        assert_eq!(missing_purpose("//!\n").len(), 1);
        assert_eq!(missing_purpose("").len(), 1);
        assert!(missing_purpose("//! Names of things.\n").is_empty());
    }

    #[test]
    fn unfinished_work_is_found() {
        for word in UNFINISHED {
            assert_eq!(occurrences(&UNFINISHED, &format!("fine\n    {word}\n")).len(), 1, "{word}");
        }
        assert!(occurrences(&UNFINISHED, "a list of things to do!").is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found_where_it_begins() {
        for path in ONE_MACHINE {
            assert_eq!(machine_paths(&format!("see `{path}me`")).len(), 1, "{path}");
            assert!(machine_paths(&format!("see /srv{path}me")).is_empty(), "{path}");
        }
    }
}
