//! A bucket that barman-cloud 3.19.1 wrote: our commands read all of it, and PostgreSQL recovers from it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::write::GzEncoder;
use serde_json::Value;

use crate::harness::{Cluster, Postgres, TestStore};

/// Of `fixtures/barman-3.19.1`, oldest first: id, name, how its parts are compressed, how many there are.
const BACKUPS: [(&str, &str, &str, usize); 4] = [
    ("20261123T083817", "fx1", "gz", 7),
    ("20261123T083822", "fx2", "snappy", 6),
    ("20261123T083826", "fx3", "lz4", 5),
    ("20261123T083832", "fx4", "bz2", 2),
];

/// What our restore adds to the members of Barman's tars: empty directories that a server insists on.
const ADDED: [&str; 1] = ["pg_wal/archive_status"];

#[test]
fn list_tells_of_each_backup_what_barman_tells() {
    let store = bucket();
    let expected: Value = serde_json::from_str(&fixture_text("expected/backup-list.json")).unwrap();
    let expected = expected["backups_list"].as_array().unwrap().clone();
    let ours: Value = serde_json::from_str(&store.run(&["list", "-o", "json"]).success().stdout).unwrap();
    let ours = ours["backups"].as_array().unwrap();
    assert_eq!((ours.len(), expected.len()), (4, 4));
    for (ours, theirs) in ours.iter().zip(&expected) {
        for (our_key, their_key) in [
            ("id", "backup_id"),
            ("name", "backup_name"),
            ("status", "status"),
            ("cluster_size_bytes", "cluster_size"),
            ("timeline", "timeline"),
            ("begin_lsn", "begin_xlog"),
            ("end_lsn", "end_xlog"),
            ("begin_segment", "begin_wal"),
            ("end_segment", "end_wal"),
            ("segment_size_bytes", "xlog_segment_size"),
            ("server_version_num", "version"),
            ("system_identifier", "systemid"),
            ("data_directory", "pgdata"),
            ("config_file", "config_file"),
            ("hba_file", "hba_file"),
            ("ident_file", "ident_file"),
        ] {
            assert!(!theirs[their_key].is_null(), "{their_key}");
            assert_eq!(ours[our_key], theirs[their_key], "{our_key}");
        }
        assert_eq!(ours["restorable"], Value::Bool(true));
        for (ours, theirs) in
            [("begin_time", "begin_time_iso"), ("end_time", "end_time_iso")].map(|(a, b)| (&ours[a], &theirs[b]))
        {
            assert_eq!(ours.as_str().unwrap(), theirs.as_str().unwrap().replace("+00:00", "Z"));
        }
        let tablespace = &ours["tablespaces"][0];
        assert_eq!(
            [&tablespace["name"], &tablespace["oid"], &tablespace["location"]],
            [&theirs["tablespaces"][0][0], &theirs["tablespaces"][0][1], &theirs["tablespaces"][0][2]]
        );
    }
}

#[test]
fn list_and_show_name_every_backup_in_text_and_by_any_name() {
    let store = bucket();
    let list = store.run(&["list"]).success().stdout;
    assert_eq!(list.lines().count(), 5, "{list}");
    for ((id, name, ..), line) in BACKUPS.iter().zip(list.lines().skip(1)) {
        assert!(line.starts_with(id) && line.contains(name) && line.contains("DONE"), "{line}");
        let by_id = store.run(&["show", id]).success().stdout;
        assert_eq!(by_id, store.run(&["show", name]).success().stdout);
        for fact in
            [id, name, "7711281960404649938", "15.20", "/tmp/bmn/pg/data", "ts1 (OID 16389)", "START TIMELINE: 1"]
        {
            assert!(by_id.contains(fact), "{fact} is missing:\n{by_id}");
        }
        let json: Value = serde_json::from_str(&store.run(&["show", name, "-o", "json"]).success().stdout).unwrap();
        assert_eq!((json["schema"].as_u64(), json["backup"]["id"].as_str()), (Some(1), Some(*id)));
    }
    let show = |name: &str| store.run(&["show", name]).success().stdout;
    assert_eq!(show("latest"), show("fx4"));
    assert_eq!(show("oldest"), show("fx1"));
    store.run(&["show", "fx5"]).run().expect_code(1);
    store.run(&["list", "--server", "other"]).success();
}

#[test]
fn every_wal_file_comes_back_as_its_codec_s_own_program_unpacks_it() {
    let store = bucket();
    let mut suffixes = BTreeMap::new();
    let keys = store.wal_keys();
    for key in &keys {
        let file = key.rsplit('/').next().unwrap();
        let suffix =
            ["gz", "bz2", "xz", "zst", "lz4", "snappy"].into_iter().find(|end| file.ends_with(&format!(".{end}")));
        let name = suffix.map_or(file, |suffix| &file[..file.len() - suffix.len() - 1]);
        let kind = name.split_once('.').map_or("segment", |(_, kind)| kind.rsplit('.').next().unwrap());
        *suffixes.entry((kind, suffix.unwrap_or("none"))).or_insert(0) += 1;
        if name.ends_with(".partial") {
            continue;
        }
        let back = restore(&store, name, 0);
        assert!(kind != "segment" || back.len() == 1 << 20, "{name} has {} bytes", back.len());
        assert!(back == unpacked(suffix, &store.read(key).unwrap().content), "{name} came back changed");
    }
    // All six formats and none were among them.
    let segments: Vec<_> = suffixes.keys().filter(|(kind, _)| *kind == "segment").map(|(_, suffix)| *suffix).collect();
    assert_eq!(segments, ["bz2", "gz", "lz4", "none", "snappy", "xz", "zst"]);
    assert_eq!(suffixes[&("history", "gz")], 1);
    assert_eq!(suffixes[&("backup", "gz")], 6);
    assert_eq!(suffixes[&("partial", "gz")], 1);
}

#[test]
fn a_partial_whose_bytes_are_another_timeline_s_is_refused_and_a_true_one_is_delivered() {
    let store = bucket();
    let name = "000000010000000000000020";
    let key = format!("main/wals/0000000100000000/{name}.partial.gz");
    // The fixture's is a copy of timeline 2's segment, whose first page says so: neither delivered nor called absent.
    let destination = store.dir.join("RECOVERYXLOG");
    let said = store.run(&["wal-restore", name]).arg(&destination).run().expect_code(255).stderr;
    assert!(said.contains("000000020000000000000020") && !destination.exists(), "{said}");
    // With timeline 1 in its first page it is what its name says.
    let mut content = unpacked(Some("gz"), &store.read(&key).unwrap().content);
    content[4] = 1;
    store.remove(&key);
    store.write(key.trim_end_matches(".gz"), &content);
    assert!(restore(&store, name, 0) == content);
    // Absent is only what is not there in any form.
    restore(&store, "000000010000000000000021", 1);
    restore(&store, "000000010000000000000007", 1);
    restore(&store, "00000003.history", 1);
}

#[test]
fn all_four_backups_come_back_file_by_file() {
    for (id, name, suffix, parts) in BACKUPS {
        let store = bucket();
        let (data, tablespace) = (store.dir.join("data"), store.dir.join("ts1"));
        let argument = format!("ts1={}", tablespace.display());
        // Files only, and not a setting more than Barman restores.
        let restore = store.run(&["restore", "--backup", name, "--no-recovery", "--keep-archiving"]).arg(&data);
        restore.args(["--tablespace", &argument]).success();

        let archives = members(id);
        assert_eq!(archives.len(), parts);
        let mut expected: BTreeMap<PathBuf, Member> = BTreeMap::new();
        for (archive, listed) in archives {
            let root = if archive.starts_with("data") { &data } else { &tablespace };
            expected.extend(listed.into_iter().map(|(path, member)| (joined(root, &path), member)));
        }
        expected.insert(data.join("pg_tblspc/16389"), Member::Link(tablespace.clone()));
        expected.entry(tablespace.clone()).or_insert(Member::Directory { mode: 0o700 });
        for added in ADDED {
            expected.entry(data.join(added)).or_insert(Member::Directory { mode: 0o700 });
        }
        let mut found = BTreeMap::new();
        walk(&data, &mut found);
        walk(&tablespace, &mut found);
        let (expected_paths, found_paths): (Vec<_>, Vec<_>) = (expected.keys().collect(), found.keys().collect());
        assert_eq!(found_paths, expected_paths, "{name}");
        for (path, member) in &expected {
            assert_eq!(&found[path], member, "{name}: {}", path.display());
        }
        // And the bytes, by a reader of tar that is not ours.
        let mut compared = 0;
        for key in store.keys().iter().filter(|key| key.contains(id) && key.ends_with(&format!(".tar.{suffix}"))) {
            let root = if key.contains("/data") { &data } else { &tablespace };
            compared += compare_tar(&unpacked(Some(suffix), &store.read(key).unwrap().content), root);
        }
        let files = expected.values().filter(|member| matches!(member, Member::File { .. })).count();
        assert_eq!(compared, files, "{name}");
    }
}

#[test]
fn of_a_path_that_is_there_twice_the_last_member_stays_and_a_hard_link_is_a_file() {
    // Barman stores configuration from elsewhere under its base name in the last part, whatever the data directory
    // holds under that name; and what pg_upgrade --link left linked, as hard links.
    let store = bucket();
    let (id, name, suffix, _) = BACKUPS[0];
    let part = |number: &str| format!("main/base/{id}/data{number}.tar.{suffix}");
    add_members(&store, &part(""), |tar| {
        add_file(tar, "pg_hba.conf", b"stale\n");
        add_file(tar, "conf.d/16400", b"one relation\n");
        let mut link = member(tar::EntryType::Link, 0);
        tar.append_link(&mut link, "conf.d/16401", "./conf.d/16400").unwrap();
        let mut link = member(tar::EntryType::Symlink, 0);
        tar.append_link(&mut link, "shared.conf", "/etc/hostname").unwrap();
        add_file(tar, "own.conf", b"first\n");
    });
    add_members(&store, &part("_0005"), |tar| {
        add_file(tar, "pg_hba.conf", b"in force\n");
        add_file(tar, "shared.conf", b"a file\n");
        let mut link = member(tar::EntryType::Symlink, 0);
        tar.append_link(&mut link, "own.conf", "nowhere").unwrap();
    });
    for jobs in ["1", "4"] {
        let data = store.dir.join(format!("data-{jobs}"));
        let argument = format!("ts1={}", store.dir.join(format!("ts1-{jobs}")).display());
        let restore = store.run(&["restore", "--backup", name, "--jobs", jobs, "--no-recovery"]).arg(&data);
        restore.args(["--tablespace", &argument]).success();
        let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
        assert_eq!((read("pg_hba.conf"), read("shared.conf")), ("in force\n".to_owned(), "a file\n".to_owned()));
        assert_eq!((read("conf.d/16400"), read("conf.d/16401")), ("one relation\n".to_owned(), read("conf.d/16400")));
        assert_eq!(std::fs::read_link(data.join("own.conf")).unwrap(), Path::new("nowhere"));
        assert_eq!(crate::harness::files_named(&data, ".barback"), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_plan_follows_the_timeline_that_is_asked_for_and_refuses_one_that_is_not_there() {
    let store = bucket();
    let plan = |backup: &str, timeline: &str| {
        let argument = format!("ts1={}", store.dir.join("ts1").display());
        let plan = store.run(&["restore", "--plan", "-o", "json", "--backup", backup, "--target-timeline", timeline]);
        plan.args(["--tablespace", &argument]).arg(store.dir.join("data")).run()
    };
    for (timeline, expected, end) in
        [("latest", 2, "0/2100000"), ("2", 2, "0/2100000"), ("1", 1, "0/2000000"), ("current", 1, "0/2000000")]
    {
        for (_, backup, ..) in BACKUPS {
            let said = plan(backup, timeline).expect_code(0).stdout;
            let json: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(json["plan"]["timeline"].as_u64(), Some(expected), "{timeline}: {said}");
            assert!(said.contains(&format!("\"{end}\"")), "{timeline}: {said}");
        }
    }
    let refused = plan("fx1", "3");
    assert_ne!(refused.code(), 0);
    assert!(refused.stderr.contains('3'), "{}", refused.stderr);
    // The recorded place of the tablespace is not on this host, but the name is checked first.
    let unknown = store.run(&["restore", "--plan", "--tablespace", "nope=/x"]).arg(store.dir.join("data")).run();
    assert!(unknown.expect_code(3).stderr.contains("ts1"));
    assert!(!store.dir.join("data").exists());
}

#[test]
fn postgresql_recovers_from_it_to_the_end_of_each_timeline() {
    let Some(version) = Postgres::version(15) else { return };
    let runs = BACKUPS.map(|(_, name, ..)| (name, "latest", "1,2")).into_iter().chain([("fx1", "1", "1")]);
    for (name, timeline, followed) in runs {
        let store = bucket();
        // The fixture's hand-made partial would stop recovery on timeline 1, as it should.
        store.remove("main/wals/0000000100000000/000000010000000000000020.partial.gz");
        let data = store.dir.join("data");
        let argument = format!("ts1={}", store.dir.join("ts1").display());
        let restore = store.run(&["restore", "--backup", name, "--target-timeline", timeline]).arg(&data);
        restore.args(["--tablespace", &argument]).success();
        let mut cluster = Cluster::open(&store.dir, &data, &version);
        cluster.start();
        wait_for_promotion(&cluster);
        let counts = ask(&cluster, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM tt)");
        assert_eq!(counts, "4400|2004", "{name}, timeline {timeline}");
        // The promoted copy tells on which timelines it came: 2 was begun, so it is 3 either way.
        let history = ask(&cluster, "SELECT pg_read_file('pg_wal/00000003.history')");
        let ancestors: Vec<_> = history.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(ancestors.join(","), followed, "{history}");
        assert_eq!(ask(&cluster, "SHOW archive_mode"), "off");
        assert_eq!(ask(&cluster, "SELECT pg_relation_filepath('tt') LIKE 'pg_tblspc/16389/%'"), "t");
        cluster.stop("fast");
    }
}

#[test]
fn a_drill_of_barman_s_backup_passes() {
    let Some(version) = Postgres::version(15) else { return };
    let store = bucket();
    store.remove("main/wals/0000000100000000/000000010000000000000020.partial.gz");
    let workdir = store.dir.create_dir("drills");
    let drill = store.run(&["drill", "-o", "json", "--role", "pgtest", "--pg-bindir"]).arg(&version.bindir);
    let finished = drill.arg("--workdir").arg(&workdir).success();
    let record: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(record["verdict"], "pass", "{record:#}");
    assert_eq!(record["target"]["timeline"], 2, "{record:#}");
    assert_eq!(std::fs::read_dir(&workdir).unwrap().count(), 0);
}

fn wait_for_promotion(cluster: &Cluster) {
    let started = Instant::now();
    while ask(cluster, "SELECT pg_is_in_recovery()") != "f" {
        assert!(started.elapsed() < Duration::from_mins(1), "it is still in recovery");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// As the one superuser of the fixture's cluster.
fn ask(cluster: &Cluster, sql: &str) -> String {
    let place = cluster.connect_string().replace("user=postgres", "user=pgtest");
    let psql = cluster.version().run("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
    psql.args(["-d", &place, "-c", sql]).success().stdout.trim_end().to_owned()
}

/// What stands at a path after a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Directory { mode: u32 },
    File { mode: u32, bytes: u64 },
    Link(PathBuf),
}

/// A copy of the fixture as a `file://` store.
fn bucket() -> TestStore {
    let store = TestStore::directory();
    let root = fixture("bucket/pfx");
    let mut pending = vec![root.clone()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let key = path.strip_prefix(&root).unwrap().to_str().unwrap();
                store.write(key, &std::fs::read(&path).unwrap());
            }
        }
    }
    store
}

/// Rewrites the part at `key`, with more members behind its own.
fn add_members(store: &TestStore, key: &str, add: impl FnOnce(&mut tar::Builder<GzEncoder<Vec<u8>>>)) {
    let old = unpacked(Some("gz"), &store.read(key).unwrap().content);
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let end = old.chunks(512).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap() + 1;
    tar.get_mut().write_all(&old[..end * 512]).unwrap();
    add(&mut tar);
    let packed = tar.into_inner().unwrap().finish().unwrap();
    store.write(key, &packed);
}

fn add_file(tar: &mut tar::Builder<GzEncoder<Vec<u8>>>, path: &str, content: &[u8]) {
    tar.append_data(&mut member(tar::EntryType::Regular, content.len() as u64), path, content).unwrap();
}

fn member(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_size(size);
    header
}

fn fixture(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1").join(below)
}

fn fixture_text(below: &str) -> String {
    std::fs::read_to_string(fixture(below)).unwrap()
}

fn restore(store: &TestStore, name: &str, code: i32) -> Vec<u8> {
    let destination = store.dir.create_dir("restored").join("RECOVERYXLOG");
    let _ = std::fs::remove_file(&destination);
    store.run(&["wal-restore", name]).arg(&destination).run().expect_code(code);
    if code == 0 { std::fs::read(&destination).unwrap() } else { Vec::new() }
}

/// Unpacked by the libraries directly, past our own readers.
fn unpacked(suffix: Option<&str>, content: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read + '_> = match suffix {
        None => Box::new(content),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(content)),
        Some("bz2") => Box::new(bzip2::read::MultiBzDecoder::new(content)),
        Some("xz") => Box::new(liblzma::read::XzDecoder::new_multi_decoder(content)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(content).unwrap()),
        Some("lz4") => Box::new(lz4_flex::frame::FrameDecoder::new(content)),
        Some("snappy") => Box::new(snap::read::FrameDecoder::new(content)),
        Some(other) => panic!("no reader of {other}"),
    };
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The tars of a backup and their members, as they should lie on disk: modes by our rule, 0700 and 0600 with group
/// reading where the source allowed it.
fn members(id: &str) -> Vec<(String, Vec<(PathBuf, Member)>)> {
    let mut archives: Vec<(String, Vec<_>)> = Vec::new();
    for line in fixture_text(&format!("members-{id}.txt")).lines() {
        if let Some(title) = line.strip_prefix("== ") {
            archives.push((title.split_once(' ').unwrap().0.to_owned(), Vec::new()));
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let mode = u32::from_str_radix(words[1], 8).unwrap();
        let member = match words[0] {
            "5" => Member::Directory { mode: 0o700 | mode & 0o050 },
            "0" => Member::File { mode: 0o600 | mode & 0o040, bytes: words[4].parse().unwrap() },
            "2" => Member::Link(words[7].into()),
            other => panic!("a member of type {other}"),
        };
        archives.last_mut().unwrap().1.push((words[5].into(), member));
    }
    archives
}

/// Without the dots that Barman writes into some names.
fn joined(root: &Path, member: &Path) -> PathBuf {
    let parts = member.components().filter(|part| *part != std::path::Component::CurDir);
    parts.fold(root.to_owned(), |path, part| path.join(part))
}

fn walk(path: &Path, found: &mut BTreeMap<PathBuf, Member>) {
    let facts = std::fs::symlink_metadata(path).unwrap();
    let mode = facts.permissions().mode() & 0o7777;
    let member = if facts.is_symlink() {
        Member::Link(std::fs::read_link(path).unwrap())
    } else if facts.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), found);
        }
        Member::Directory { mode }
    } else {
        Member::File { mode, bytes: facts.len() }
    };
    found.insert(path.to_owned(), member);
}

/// Compares every file of a tar with what lies under `root`; how many there were.
fn compare_tar(bytes: &[u8], root: &Path) -> usize {
    let mut compared = 0;
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let path = joined(root, &entry.path().unwrap());
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert!(std::fs::read(&path).unwrap() == content, "{}", path.display());
            compared += 1;
        }
    }
    compared
}
