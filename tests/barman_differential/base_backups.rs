//! Base backups of real PostgreSQL taken by one and used by the other: listed, shown, restored, started, kept, deleted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::bucket;
use super::duel::{Duel, Seen};
use crate::harness::{Cluster, ClusterOptions, Face, Postgres, S3Server, barback_binary, give_away};

const PLACE: [&str; 2] = ["s3://bkt/pfx", "main"];
/// Option and suffix.
const CODECS: [(&str, &str); 5] =
    [("", ""), ("--gzip", ".gz"), ("--bzip2", ".bz2"), ("--snappy", ".snappy"), ("--lz4", ".lz4")];
/// Rows in the table and in the one of the tablespace.
const ROWS: &str = "20000|1000";

#[test]
fn ours_in_every_codec_are_barman_s_to_use() {
    both_use(|ours, theirs| (ours, theirs));
}

#[test]
fn barman_s_in_every_codec_are_ours_to_use() {
    both_use(|ours, theirs| (theirs, ours));
}

#[test]
fn a_backup_whose_store_goes_away_fails_alike() {
    let Some(version) = Postgres::newest() else { return };
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut cluster = Cluster::init(&duel.dir, &version, ClusterOptions::default().wal_segment_mb(1));
    cluster.start();
    let connection = cluster.connect_string();
    let args = ["-d", &connection, "--immediate-checkpoint", "--name", "broken", PLACE[0], PLACE[1]];
    // Nothing works, then everything but the data.
    server.refuse_all(403);
    for face in duel.barman.both() {
        let seen = duel.call(&face, &[], "backup", &args);
        assert_eq!((seen.code, seen.out.as_str()), (1, ""), "{}: {seen:?}", face.name());
        assert!(seen.said[0].starts_with("ERROR: Backup failed uploading data ("), "{}: {seen:?}", face.name());
    }
    server.fault_when(|seen| seen.target.contains("/data.tar").then_some(crate::harness::Fault::Status(403)));
    for face in duel.barman.both() {
        bucket::empty(&server);
        let seen = duel.call(&face, &[], "backup", &args);
        assert_eq!((seen.code, seen.out.as_str()), (1, ""), "{}: {seen:?}", face.name());
        let listed = duel.call(&face, &[], "backup-list", &["--format", "json", PLACE[0], PLACE[1]]);
        let record = &json(&listed)["backups_list"][0];
        assert_eq!(record["status"], "FAILED", "{}: {record}", face.name());
        assert_eq!(record["end_time"], Value::Null, "{}: {record}", face.name());
        let error = record["error"].as_str().unwrap();
        assert!(error.starts_with("failure uploading data ("), "{}: {error}", face.name());
    }
}

/// Backups in every codec by one, and all that the other can do with each.
fn both_use(order: impl Fn(Face, Face) -> (Face, Face)) {
    let Some(version) = Postgres::newest() else { return };
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let (taker, user) = order(Face::Ours, Face::Theirs(duel.barman.clone()));
    let archive = format!("{} barman-cloud-wal-archive --zstd s3://bkt/pfx main %p", barback_binary().display());
    let options = ClusterOptions::default()
        .wal_segment_mb(1)
        .set("archive_mode", "on")
        .set("archive_command", archive)
        .envs(&server.env());
    let mut cluster = Cluster::init(&duel.dir, &version, options);
    cluster.start();
    let tablespace = duel.dir.create_dir("ts1");
    cluster.psql(&format!("CREATE TABLESPACE ts1 LOCATION '{}'", tablespace.display()));
    cluster.psql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    cluster.psql("CREATE TABLE tt TABLESPACE ts1 AS SELECT n FROM generate_series(1, 1000) n");
    let connection = cluster.connect_string();
    for (at, (option, suffix)) in CODECS.into_iter().enumerate() {
        let name = format!("{}{at}", taker.name());
        let mut args = vec!["-d", &connection, "--immediate-checkpoint", "--name", &name, "-J", "2"];
        args.extend((!option.is_empty()).then_some(option));
        quiet(&duel.call(&taker, &[], "backup", &[&args[..], &PLACE].concat()));
        let keys = server.keys();
        for tar in ["data.tar", "tar"] {
            let end = format!("{tar}{suffix}");
            assert!(keys.iter().any(|key| key.contains("/base/") && key.ends_with(&end)), "{end}: {keys:?}");
        }
    }
    cluster.archive_everything();
    cluster.stop("fast");

    same_catalogue(&duel, &taker);
    for at in 0..CODECS.len() {
        let name = format!("{}{at}", taker.name());
        let [mine, others] = [&taker, &user].map(|face| restore(&duel, face, &name));
        assert_eq!(mine.0, others.0, "{name}: data directory");
        assert_eq!(mine.1, others.1, "{name}: tablespace");
        start(&duel, &user, &name, &version);
    }
    keep_and_delete(&duel, &server, &user, &format!("{}1", taker.name()));
    // One by the taker itself, and all the others by a policy of the user.
    quiet(&duel.call(&taker, &[], "backup-delete", &["-b", &format!("{}0", taker.name()), PLACE[0], PLACE[1]]));
    quiet(&duel.call(&user, &[], "backup-delete", &["-r", "REDUNDANCY 0", PLACE[0], PLACE[1]]));
    let left: Vec<String> = server.keys().into_iter().filter(|key| key.contains("/base/")).collect();
    let foreign: Vec<&String> = left.iter().filter(|key| !is_only_ours(key)).collect();
    assert_eq!(foreign, Vec::<&String>::new());
    for face in duel.barman.both() {
        let listed = duel.call(&face, &[], "backup-list", &["--format", "json", PLACE[0], PLACE[1]]);
        assert_eq!(listed.out, "{\"backups_list\": []}\n", "{}", face.name());
        assert_eq!(duel.call(&face, &[], "check-wal-archive", &PLACE).code, 1, "{}", face.name());
    }
}

/// What only barback writes beside a backup, and Barman's delete therefore leaves.
fn is_only_ours(key: &str) -> bool {
    key.contains("manifest") || key.contains("barback")
}

/// Both must say the same of what `taker` wrote.
fn same_catalogue(duel: &Duel<'_>, taker: &Face) {
    let both = |command: &str, args: &[&str]| {
        let [theirs, ours] = duel.barman.both().map(|face| duel.call(&face, &[], command, args));
        assert_eq!(theirs, ours, "{command} {args:?}");
        theirs
    };
    for format in ["console", "json"] {
        both("backup-list", &["--format", format, PLACE[0], PLACE[1]]);
        for at in 0..CODECS.len() {
            both("backup-show", &["--format", format, PLACE[0], PLACE[1], &format!("{}{at}", taker.name())]);
        }
    }
    let shown = both("backup-show", &["--format", "json", PLACE[0], PLACE[1], &format!("{}0", taker.name())]);
    let record = &json(&shown)["cloud"];
    for (field, expected) in [("status", "DONE"), ("server_name", "cloud"), ("data_checksums", "on")] {
        assert_eq!(record[field], expected, "{record}");
    }
    assert!(record["end_time_iso"].is_string() && record["systemid"].is_string(), "{record}");
    assert_eq!(record["timeline"], 1, "{record}");
    both("check-wal-archive", &PLACE);
}

type Tree = BTreeMap<PathBuf, (u32, u64, u32)>;

/// Restores into directories named for the restorer; both, as modes, lengths and digests.
fn restore(duel: &Duel<'_>, face: &Face, backup: &str) -> (Tree, Tree) {
    let (data, tablespace) = places(duel, face, backup);
    let rule = format!("ts1:{}", tablespace.display());
    let args = ["--tablespace", &rule, PLACE[0], PLACE[1], backup, data.to_str().unwrap()];
    quiet(&duel.call(face, &[], "restore", &args));
    (tree(&data), tree(&tablespace))
}

fn places(duel: &Duel<'_>, face: &Face, backup: &str) -> (PathBuf, PathBuf) {
    let place = |what: &str| duel.dir.join(format!("{}-{backup}-{what}", face.name()));
    (place("data"), place("ts1"))
}

/// Recovers what `face` restored, with WAL that `face` fetches.
fn start(duel: &Duel<'_>, face: &Face, backup: &str, version: &crate::harness::PgVersion) {
    let (data, tablespace) = places(duel, face, backup);
    let program = match face {
        Face::Theirs(barman) => barman.bindir().join("barman-cloud-wal-restore").display().to_string(),
        Face::Ours => format!("{} barman-cloud-wal-restore", barback_binary().display()),
    };
    let mut cluster = Cluster::open(&duel.dir, &data, version).envs(duel.env());
    cluster.append_settings(&[
        ("restore_command".into(), format!("{program} {} {} %f %p", PLACE[0], PLACE[1])),
        ("archive_mode".into(), "off".into()),
    ]);
    let signal = data.join("recovery.signal");
    fs::write(&signal, "").unwrap();
    give_away(&signal);
    cluster.start();
    cluster.wait_until("SELECT pg_is_in_recovery()", "f", Duration::from_mins(2));
    assert_eq!(cluster.psql("SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM tt)"), ROWS);
    cluster.stop("immediate");
    fs::remove_dir_all(&data).unwrap();
    fs::remove_dir_all(&tablespace).unwrap();
}

/// `user` keeps a backup, is refused its deletion, releases it, deletes it: nothing of Barman's layout stays.
fn keep_and_delete(duel: &Duel<'_>, server: &S3Server, user: &Face, backup: &str) {
    let call = |command: &str, args: &[&str]| duel.call(user, &[], command, args);
    quiet(&call("backup-keep", &["--target", "full", PLACE[0], PLACE[1], backup]));
    for face in duel.barman.both() {
        let status = duel.call(&face, &[], "backup-keep", &["-s", PLACE[0], PLACE[1], backup]);
        assert_eq!(status.out, "Keep: full\n", "{}", face.name());
        assert_eq!(duel.call(&face, &[], "backup-delete", &["-b", backup, PLACE[0], PLACE[1]]).code, 1);
    }
    quiet(&call("backup-keep", &["-r", PLACE[0], PLACE[1], backup]));
    let shown = json(&call("backup-show", &["--format", "json", PLACE[0], PLACE[1], backup]));
    let id = shown["cloud"]["backup_id"].as_str().unwrap().to_owned();
    quiet(&call("backup-delete", &["-b", backup, PLACE[0], PLACE[1]]));
    let left: Vec<String> = server.keys().into_iter().filter(|key| key.contains(&id) && !is_only_ours(key)).collect();
    assert_eq!(left, Vec::<String>::new(), "{}", user.name());
}

fn quiet(seen: &Seen) {
    assert_eq!((seen.code, seen.out.as_str(), &seen.said), (0, "", &Vec::new()));
}

fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.out).unwrap_or_else(|error| panic!("{error}: {seen:?}"))
}

/// Every entry below `root` with its mode, and for files length and digest; a link by its length.
fn tree(root: &Path) -> Tree {
    let mut entries = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let facts = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).expect("the walk began there").to_owned();
            if facts.is_dir() {
                entries.insert(name, (facts.mode(), 0, 0));
                pending.push(path);
            } else if facts.is_symlink() {
                // To a directory of the restorer's own name.
                entries.insert(name, (facts.mode(), 0, 0));
            } else {
                let content = fs::read(&path).unwrap();
                entries.insert(name, (facts.mode(), facts.len(), crc32c::crc32c(&content)));
            }
        }
    }
    entries
}
