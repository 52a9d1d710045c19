//! The documents tell the truth: their commands run, their links lead somewhere, every setting and flag is in them.
//!
//! How a block of a document is tried goes by its language. `sh`: run as it stands, one script for each document. In
//! README.md also `toml` (the host's configuration file; only the bucket is another), `ini` (the server's settings),
//! `crontab` (the command is run once) and `console` (its make targets must exist). `/usr/local/bin/barback` is the
//! binary under test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use barback::cli::config::KEYS;

use crate::harness::{Cluster, ClusterOptions, Postgres, Run, S3Server, TestDir, barback, barback_binary};

/// Where the documents say that barback is installed.
const INSTALLED: &str = "/usr/local/bin/barback";

/// The bucket of the documents' examples, and that of the test's server.
const BUCKETS: (&str, &str) = ("s3://my-bucket/", "s3://bkt/");

/// A script of a document runs servers, backups and restores.
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(4);

#[test]
fn the_readme_works_from_top_to_bottom() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let readme = Document::read("README.md");

    let toml = readme.only("toml").replace(BUCKETS.0, BUCKETS.1);
    assert!(toml.contains(BUCKETS.1), "the configuration no longer names the bucket {}", BUCKETS.0);
    let config = dir.write("barback.toml", toml);
    let mut env = s3.env();
    env.push(("BARBACK_CONFIG".into(), config.display().to_string()));
    env.push(("BARBACK_CACHE_DIR".into(), dir.join("cache").display().to_string()));
    let mut options = private_server(&dir).envs(&env);
    for (name, value) in settings(&installed_here(&readme.only("ini"))) {
        options = options.set(&name, value);
    }
    let mut cluster = Cluster::init(&dir, &version, options);
    cluster.start();
    env.extend(user_environment(&dir, &cluster));

    // Stops the copy where the script does not come to it.
    let _copy = Cluster::open(&dir, &dir.join("copy"), &version);
    let said = run_script(&readme.script().replace(BUCKETS.0, BUCKETS.1), &dir, &env);
    assert!(said.lines().any(|line| line.trim() == "1000"), "the rows are not back:\n{said}");
    assert_eq!(cluster.psql("SELECT count(*) FROM orders"), "1000");

    // The checkpoint of an unhurried backup would take its time.
    cluster.psql("CHECKPOINT");
    for line in readme.only("crontab").lines() {
        let command = line.splitn(6, ' ').nth(5).expect("five fields and a command");
        assert!(line.split(' ').take(5).all(|field| field.bytes().all(|byte| b"0123456789*/,-".contains(&byte))));
        run_script(&installed_here(command), &dir, &env);
    }
    let list = barback(&["list", "-o", "json"]).envs(&env).success().stdout;
    assert_eq!(list.matches("\"DONE\"").count(), 2, "{list}");
}

#[test]
fn a_backup_is_restored_by_hand_as_the_formats_say() {
    let Some(version) = Postgres::newest() else { return };
    let Some(with) = ["zstd", "gzip"].into_iter().find(|program| is_program(program)) else {
        panic!("neither zstd nor gzip is installed");
    };
    let dir = TestDir::new();
    let store = dir.file_store("archive");
    let archive = format!("{} wal-archive --compression {with} --store {store} %p", barback_binary().display());
    let options = private_server(&dir).set("archive_mode", "on").set("archive_command", archive);
    let mut cluster = Cluster::init(&dir, &version, options);
    cluster.start();
    let space = dir.create_dir("space");
    cluster.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    cluster.psql("CREATE TABLE here AS SELECT generate_series(1, 1000)");
    cluster.psql("CREATE TABLE there TABLESPACE space AS SELECT generate_series(1, 1000)");
    let taken = barback(&["backup", "--fast", "--compression", with, "--store", &store, "-d"])
        .arg(cluster.connect_string())
        .success();
    cluster.psql("INSERT INTO there SELECT generate_series(1001, 1500)");
    cluster.archive_everything();

    let formats = Document::read("docs/formats.md");
    let mut script = formats.script();
    if with != "zstd" {
        // The manifest is always compressed with zstd.
        script = formats.script_without("backup_manifest.zst");
    }
    let mut env = user_environment(&dir, &cluster);
    env.push(("STORE".into(), format!("{}/main", dir.join("archive").display())));
    env.push(("ID".into(), taken.stdout.trim().to_owned()));
    let _stopped_at_the_end = Cluster::open(&dir, &dir.join("copy"), &version);
    run_script(&script, &dir, &env);
    let copy = |sql: &str| {
        let psql = version.run("psql").args(["-XAt", "-p", "5433", "-c", sql]).envs(&env).success();
        psql.stdout.trim().to_owned()
    };
    assert_eq!(copy("SELECT count(*) FROM here"), "1000");
    assert_eq!(copy("SELECT count(*) FROM there"), "1500");
    let location = copy("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'");
    assert!(location.starts_with(&dir.join("copy.tablespaces").display().to_string()), "{location}");
}

#[test]
fn the_role_of_the_operations_page_may_take_backups() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let store = dir.file_store("archive");
    let mut cluster = Cluster::init(&dir, &version, private_server(&dir));
    cluster.start();
    cluster.psql(&Document::read("docs/operations.md").only("sql"));
    let conninfo = cluster.connect_string().replace("user=postgres", "user=barback");
    let backup = barback(&["backup", "--fast", "--store", &store, "-d", &conninfo]).success();
    assert!(!backup.stderr.contains("warning"), "{}", backup.stderr);
}

#[test]
fn only_tried_blocks_say_that_they_can_be_run() {
    for document in Document::all() {
        let tried: &[&str] = match document.name.as_str() {
            "README.md" => &["sh", "toml", "ini", "crontab", "console"],
            // Read in `cli/drill_checks.rs`.
            "docs/drill-checks.md" => &["toml"],
            "docs/formats.md" => &["sh", "text", "json"],
            "docs/operations.md" => &["sql", "text", "json"],
            _ => &["text"],
        };
        for block in &document.blocks {
            let language = block.language.as_str();
            assert!(tried.contains(&language), "{}:{}: nobody tries \"{language}\"", document.name, block.line);
        }
    }
}

#[test]
fn every_make_target_in_the_documents_exists() {
    let makefile = std::fs::read_to_string(at("Makefile")).unwrap();
    for document in Document::all() {
        for target in document.text.split(['`', '\n']).filter_map(|words| words.trim().strip_prefix("make ")) {
            let target = target.split_whitespace().next().unwrap_or_default();
            let exists = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
            assert!(exists, "{}: there is no make target \"{target}\"", document.name);
        }
    }
    let readme = Document::read("README.md");
    for line in readme.blocks.iter().filter(|block| block.language == "console").flat_map(|block| block.text.lines()) {
        let from = line.strip_prefix("sudo install -m 755 ").and_then(|rest| rest.strip_suffix(INSTALLED));
        match from {
            Some(from) => assert!(makefile.contains(from.trim()), "make does not build \"{from}\""),
            None => assert!(line.starts_with("make "), "nobody tries \"{line}\""),
        }
    }
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    for document in Document::all() {
        for target in links(&document.text) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let base = Path::new(&document.name).parent().unwrap_or(Path::new(""));
            let path = if file.is_empty() { PathBuf::from(&document.name) } else { base.join(file) };
            assert!(at(&path).exists(), "{}: \"{target}\" leads nowhere", document.name);
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(at(&path)).unwrap();
                let found = text.lines().filter(|line| line.starts_with('#')).any(|line| anchor_of(line) == anchor);
                assert!(found, "{}: \"{target}\" has no such heading", document.name);
            }
        }
    }
}

#[test]
fn every_setting_and_flag_is_documented_and_no_other() {
    let configuration = Document::read("docs/configuration.md").text;
    for key in KEYS {
        let env = format!("BARBACK_{}", key.replace('.', "_").to_ascii_uppercase());
        let row = configuration.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for \"{key}\""));
        assert!(row.contains(&format!("`{env}`")), "the row of \"{key}\" does not name {env}");
    }
    let rows = configuration.lines().filter(|line| line.contains("| `BARBACK_")).count();
    assert_eq!(rows, KEYS.len(), "docs/configuration.md has rows of keys that do not exist");

    let known = flags_of_every_command();
    let documented = flags(&configuration);
    let missing: Vec<_> = known.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not say what {missing:?} do");
    // The page about Barman's options has a test of its own.
    let is_ours = |name: &str| !name.starts_with("docs/decisions/") && name != "docs/compatibility.md";
    for document in Document::all().iter().filter(|document| is_ours(&document.name)) {
        let unknown: Vec<_> = flags_of_barback(&document.text).filter(|flag| !known.contains(flag)).collect();
        assert!(unknown.is_empty(), "{} names flags that do not exist: {unknown:?}", document.name);
    }
}

#[test]
fn every_option_of_the_second_face_has_its_row_and_no_other() {
    let page = Document::read("docs/compatibility.md").text;
    let options = page.split_once("## Every option").expect("the page lists them").1;
    let sections: Vec<(&str, &str)> = options.split("### ").filter_map(|section| section.split_once('\n')).collect();
    let of = |name: &str| {
        sections.iter().filter(|(heading, _)| heading.contains(name)).map(|(_, text)| *text).collect::<String>()
    };
    let common = of("All commands");
    for command in crate::harness::BARMAN_COMMANDS {
        let name = format!("`barman-cloud-{command}`");
        let help = barback(&[format!("barman-cloud-{command}"), "--help".to_owned()]).success().stdout;
        let usage: String = help.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        let known = flags(&help.replace(&usage, ""));
        let rows: String = [common.as_str(), &of(&name)].concat();
        let listed: String =
            rows.lines().filter_map(|row| row.strip_prefix("| ")?.split(" | ").next()).collect::<Vec<_>>().join(" ");
        let documented = flags(&listed);
        assert!(!of(&name).is_empty(), "docs/compatibility.md has no section of {name}");
        let missing: Vec<_> = known.difference(&documented).collect();
        assert!(missing.is_empty(), "docs/compatibility.md does not say of {name} what {missing:?} do");
        let unknown: Vec<_> = documented.difference(&known).collect();
        assert!(unknown.is_empty(), "docs/compatibility.md says of {name} what does not exist: {unknown:?}");
    }
}

#[test]
fn every_difference_from_barman_names_a_test_that_there_is() {
    let page = Document::read("docs/compatibility.md").text;
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| what |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    let tests = [sources(&at("tests")), sources(&at("src"))].concat();
    for row in &rows {
        let test = row.trim_end_matches(" |").rsplit("| ").next().unwrap().trim_matches('`');
        assert!(tests.contains(&format!("fn {test}()")), "there is no test \"{test}\" of: {row}");
    }
    assert!(rows.len() > 20, "{rows:?}");
}

#[test]
fn every_lie_has_tests_that_there_are() {
    let page = Document::read("docs/promises.md").text;
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let told: Vec<u32> = rows.iter().filter_map(|cells| cells[1].parse().ok()).collect();
    let expected: Vec<u32> = (1..=13).chain(21..=25).chain(44..=50).collect();
    assert_eq!(told, expected);
    for cells in rows.iter().filter(|cells| cells[1].parse::<u32>().is_ok()) {
        let names: Vec<_> = cells[4].split('`').filter_map(|name| name.split_once("::")).collect();
        assert!(!names.is_empty(), "story {} has no test", cells[1]);
        for (file, name) in names {
            let source = std::fs::read_to_string(at(format!("tests/{file}.rs"))).unwrap_or_default();
            let definition = format!("#[test]\nfn {name}()");
            assert!(source.contains(&definition), "story {}: there is no test {file}::{name}", cells[1]);
        }
    }
}

#[test]
fn every_message_the_operations_page_explains_is_one_of_ours() {
    let source = sources(&at("src"));
    let operations = Document::read("docs/operations.md").text;
    let (_, below) = operations.split_once("\n## Messages\n").expect("the page has a list of messages");
    let table =
        below.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let mut seen = 0;
    for row in table {
        let column = row.split('|').nth(1).unwrap();
        for piece in column.split('`').skip(1).step_by(2).flat_map(|message| message.split('…')) {
            let piece = piece.trim().trim_end_matches([':', ',']);
            assert!(source.contains(piece), "docs/operations.md explains \"{piece}\", which nothing says");
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} messages are explained");
}

#[test]
fn every_number_of_the_performance_page_stands_in_the_results_it_names() {
    let page = Document::read("docs/performance.md").text;
    let (_, rest) = page.split_once("<!-- results").expect("the page has results");
    let (block, _) = rest.split_once("<!-- end of results -->").expect("the results end");
    let named = links(block).into_iter().filter_map(|target| target.strip_prefix("../")?.strip_suffix(".jsonl"));
    let results: String = named.map(|name| std::fs::read_to_string(at(format!("{name}.md"))).unwrap()).collect();
    let rows: Vec<&str> = block.lines().filter(|line| line.starts_with("| ")).collect();
    for row in &rows {
        assert!(results.lines().any(|line| line == *row), "nobody measured this: {row}");
    }
    assert!(rows.len() > 20, "only {} rows", rows.len());
}

/// A document and its fenced blocks.
struct Document {
    name: String,
    text: String,
    blocks: Vec<Block>,
}

struct Block {
    language: String,
    text: String,
    line: usize,
}

impl Document {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(at(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (line.strip_prefix("```"), open.as_mut()) {
                (Some(language), None) => {
                    open = Some(Block { language: language.into(), text: String::new(), line: number + 1 });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.text.extend([line, "\n"]),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{name}: a block is not closed");
        Self { name: name.to_owned(), text, blocks }
    }

    fn all() -> Vec<Self> {
        let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned(), "CHANGELOG.md".to_owned()];
        for directory in ["docs", "docs/decisions"] {
            for entry in std::fs::read_dir(at(directory)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                    names.push(format!("{directory}/{name}"));
                }
            }
        }
        assert!(names.len() > 8, "{names:?}");
        names.iter().map(|name| Self::read(name)).collect()
    }

    /// The one block in `language`.
    fn only(&self, language: &str) -> String {
        let mut blocks = self.blocks.iter().filter(|block| block.language == language);
        match (blocks.next(), blocks.next()) {
            (Some(block), None) => block.text.clone(),
            (first, _) => panic!("{}: {} blocks in {language}", self.name, if first.is_some() { "more" } else { "no" }),
        }
    }

    /// Every `sh` block, in order, each announced on stderr.
    fn script(&self) -> String {
        self.script_without("\0")
    }

    fn script_without(&self, unwanted: &str) -> String {
        let blocks = self.blocks.iter().filter(|block| block.language == "sh" && !block.text.contains(unwanted));
        let announced = blocks.map(|block| format!("echo '== {}:{}' >&2\n{}", self.name, block.line, block.text));
        let script = announced.collect::<Vec<_>>().concat();
        assert!(!script.is_empty(), "{} has nothing to run", self.name);
        script
    }
}

fn sources(directory: &Path) -> String {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths
        .map(|path| if path.is_dir() { sources(&path) } else { std::fs::read_to_string(path).unwrap() })
        .collect::<Vec<_>>()
        .join("\n")
}

fn at(name: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Copies inherit these, so that nothing listens outside the test's directory.
fn private_server(dir: &TestDir) -> ClusterOptions {
    ClusterOptions::default()
        .set("unix_socket_directories", dir.path().display().to_string())
        .set("listen_addresses", "")
}

/// What the shell of the user PostgreSQL runs as has.
fn user_environment(dir: &TestDir, cluster: &Cluster) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = cluster
        .connect_string()
        .split(' ')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (format!("PG{}", if name == "dbname" { "database" } else { name }), value.to_owned()))
        .map(|(name, value)| (name.to_ascii_uppercase(), value))
        .collect();
    let programs = cluster.version().tool("psql").parent().unwrap().display().to_string();
    let ours = barback_binary().parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    env.push(("PATH".into(), format!("{ours}:{}:{programs}:{path}", cluster.version().bindir.display())));
    env.push(("PGDATA".into(), cluster.data().display().to_string()));
    env.push(("COPY".into(), dir.join("copy").display().to_string()));
    env
}

/// Runs `script` as the user PostgreSQL runs as; what it said, stderr last.
fn run_script(script: &str, dir: &TestDir, env: &[(String, String)]) -> String {
    let script = format!("set -euo pipefail\n{script}");
    let run = Run::new("bash").args(["-c", &script]).envs(env).in_dir(dir.path()).timeout(SCRIPT_TIMEOUT).success();
    format!("{}{}", run.stdout, run.stderr)
}

fn is_program(name: &str) -> bool {
    Run::new("sh").args(["-c", &format!("command -v {name}")]).run().code() == 0
}

fn installed_here(text: &str) -> String {
    assert!(text.contains(INSTALLED), "\"{text}\" no longer names {INSTALLED}");
    text.replace(INSTALLED, &barback_binary().display().to_string())
}

/// `name = 'value'` lines.
fn settings(text: &str) -> Vec<(String, String)> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('\'').to_owned())).collect()
}

/// The targets of `[text](target)`, outside fenced blocks.
fn links(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    let after = outside.flat_map(|prose| prose.split("](").skip(1));
    after.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// The anchor GitHub gives a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

fn flags_of_every_command() -> BTreeSet<String> {
    let commands = [
        "",
        "wal-archive",
        "wal-restore",
        "backup",
        "restore",
        "drill",
        "list",
        "show",
        "status",
        "verify",
        "drill",
        "drill history",
        "check",
        "expire",
        "delete",
        "keep",
        "completions",
        "install-links",
        "version",
    ];
    let top = barback(&["--help"]).success().stdout;
    for line in top.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty()) {
        let command = line.split_whitespace().next().unwrap();
        assert!(command == "help" || commands.contains(&command), "the documents' test does not know {command}");
    }
    let helps = commands.iter().map(|command| {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        barback(&words).success().stdout
    });
    helps.flat_map(|help| flags(&help)).collect()
}

/// Words such as `--target-time`.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let flags = words.filter(|word| word.strip_prefix("--").is_some_and(|rest| rest.starts_with(char::is_alphabetic)));
    flags.map(|flag| flag.trim_end_matches('-').to_owned()).collect()
}

/// The flags in a document that are said of barback: on lines that name no other program's.
fn flags_of_barback(text: &str) -> impl Iterator<Item = String> {
    const OTHERS: [&str; 6] = ["cargo ", "pg_basebackup", "initdb", "barman-cloud-", "run.sh", "make peers"];
    let lines = text.lines().filter(|line| !OTHERS.iter().any(|other| line.contains(other)));
    lines.flat_map(flags).collect::<Vec<_>>().into_iter()
}
