//! What goes, what stays, and what is said about it: expire, delete and keep on real stores, killed and hindered.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use barback::domain::backup::{Backup, BackupStatus};
use barback::domain::cluster::{ServerVersion, SystemIdentifier};
use barback::domain::lsn::Lsn;
use barback::domain::segment::{SegmentName, SegmentSize};
use barback::domain::timeline::TimelineId;
use barback::layout::backup_info;
use chrono::{TimeDelta, Utc};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    ClusterOptions, Finished, Postgres, Random, Run, SYSTEM_IDENTIFIER, TestStore, barback_binary, block_on,
    check_pgbench, for_each_store, id_of, restore_copy, running_cluster, signed, start_copy, take_backup,
};

const DAY: Duration = Duration::from_hours(24);

fn segment(number: u64) -> String {
    SegmentName::from_number(TimelineId::FIRST, number, SegmentSize::DEFAULT).to_string()
}

pub(crate) fn wal_key(number: u64) -> String {
    let name = segment(number);
    format!("main/wals/{}/{name}.zst", &name[..16])
}

/// A backup that ended so many days ago, and whose WAL is the segment `number`.
fn record(days_ago: i64, number: u64) -> Backup {
    let ended = Utc::now() - TimeDelta::days(days_ago);
    let mut backup = Backup::new(ended.format("%Y%m%dT%H%M%S").to_string().parse().unwrap());
    let start = SegmentSize::DEFAULT.start_of(number).bytes();
    backup.status = BackupStatus::Done;
    backup.system_identifier = Some(SystemIdentifier(SYSTEM_IDENTIFIER));
    backup.version = Some(ServerVersion(150_000));
    backup.timeline = Some(TimelineId::FIRST);
    (backup.begin_lsn, backup.end_lsn) = (Some(Lsn(start + 40)), Some(Lsn(start + 400)));
    (backup.begin_segment, backup.end_segment) = (segment(number).parse().ok(), segment(number).parse().ok());
    (backup.begin_time, backup.end_time) = (Some(ended.fixed_offset()), Some(ended.fixed_offset()));
    backup
}

/// Puts a backup with two parts into the store; gives its id.
fn put_backup(store: &TestStore, backup: &Backup) -> String {
    let directory = format!("main/base/{}", backup.id);
    let ours = ["backup_manifest.zst", "barback.json", "barback-tables.json.zst"];
    for name in ["data.tar.zst", "data_0001.tar.zst"].iter().chain(&ours) {
        store.write(&format!("{directory}/{name}"), b"content");
    }
    store.write(&format!("{directory}/backup.info"), backup_info::write(backup).as_bytes());
    backup.id.to_string()
}

/// An archive of segments 1 to 30 and of backups 10, 6 and 2 days old, in segments 5, 15 and 25; gives their ids.
pub(crate) fn archive(store: &TestStore) -> [String; 3] {
    (1..=30).for_each(|number| store.write(&wal_key(number), b"segment"));
    [(10, 5), (6, 15), (2, 25)].map(|(days_ago, number)| put_backup(store, &record(days_ago, number)))
}

fn expire(store: &TestStore, words: &[&str]) -> Run {
    store.run(&["expire"]).args(words)
}

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap()
}

fn verdict<'a>(document: &'a Value, id: &str) -> (&'a str, &'a str) {
    let backups = document["backups"].as_array().unwrap();
    let backup = backups.iter().find(|backup| backup["id"] == id).unwrap_or_else(|| panic!("{id} has no verdict"));
    (backup["verdict"].as_str().unwrap(), backup["why"].as_str().unwrap())
}

/// The numbers of the segments that are there.
pub(crate) fn segments(store: &TestStore) -> Vec<u64> {
    (1..=30).filter(|number| store.read(&wal_key(*number)).is_some()).collect()
}

pub(crate) fn ids(store: &TestStore) -> BTreeSet<String> {
    let keys = store.keys();
    keys.iter().filter_map(|key| Some(key.split_once("/base/")?.1.split_once('/')?.0.to_owned())).collect()
}

fn age(path: &Path, by: Duration) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn a_dry_run_says_what_a_real_run_does_on_every_store() {
    for_each_store(|store| {
        let [first, second, third] = archive(store);
        let before = store.keys();
        let planned = expire(store, &["--policy", "REDUNDANCY 2", "--dry-run"]).success();
        assert_eq!(store.keys(), before, "a dry run deleted something");
        let done = expire(store, &["--policy", "REDUNDANCY 2"]).success();
        // All but the last line, which tells what would be from what was.
        let verdicts = |finished: &Finished| {
            let lines: Vec<&str> = finished.stdout.trim_end().lines().collect();
            lines[..lines.len() - 1].join("\n")
        };
        assert_eq!(verdicts(&planned), verdicts(&done));
        assert!(planned.stdout.contains("Would delete 1 backup, 14 WAL segments, about"), "{}", planned.stdout);
        assert!(done.stdout.contains("Deleted 1 backup, 14 WAL objects, "), "{}", done.stdout);
        assert_eq!(ids(store), BTreeSet::from([second, third]));
        assert_eq!(segments(store), (15..=30).collect::<Vec<_>>());
        assert!(!store.keys().iter().any(|key| key.contains(&first)), "something of {first} is left");
        assert!(!store.keys().iter().any(|key| key.contains("barback/expiry/")), "the lock is left");
        let again = json(&expire(store, &["--policy", "REDUNDANCY 2", "-o", "json"]).success());
        assert_eq!((again["schema"].as_u64(), again["deleted"].is_null()), (Some(1), true));
    });
}

#[test]
fn what_survives_an_expiry_restores_and_starts() {
    let Some(version) = Postgres::newest() else { return };
    let store = TestStore::s3(crate::harness::S3Server::start());
    let env = store.env();
    let command = format!("{} wal-archive %p", barback_binary().display());
    let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", &command).envs(&env);
    let cluster = running_cluster(&store.dir, &version, options, 1);
    let backups: Vec<String> = (0..3)
        .map(|_| {
            cluster.pgbench(&["-n", "-t", "200"]);
            id_of(&take_backup(&cluster, &env, &[]))
        })
        .collect();
    cluster.pgbench(&["-n", "-t", "200"]);
    cluster.archive_everything();
    let history = cluster.psql("SELECT count(*) FROM pgbench_history");
    let document = json(&expire(&store, &["--policy", "REDUNDANCY 2", "-o", "json"]).success());
    assert_eq!(document["deleted"]["backups"], serde_json::json!([backups[0]]));
    assert!(document["deleted"]["wal_objects"].as_u64().unwrap() > 0);
    for (name, backup) in [("older", &backups[1]), ("newer", &backups[2])] {
        let mut copy = restore_copy(&store.dir, name, &version, &env, &["--backup", backup]);
        start_copy(&mut copy);
        check_pgbench(&copy);
        assert_eq!(copy.psql("SELECT count(*) FROM pgbench_history"), history);
    }
}

/// Story 44: a retention of 60 days was taken for one of 7 years, while every weekly test restore went well.
#[test]
fn a_policy_that_promises_more_than_there_is_says_so() {
    let store = TestStore::directory();
    let [first, ..] = archive(&store);
    let finished = expire(&store, &["--policy", "RECOVERY WINDOW OF 12 MONTHS", "--dry-run"]).success();
    assert!(finished.stdout.contains("Policy RECOVERY WINDOW OF 372 DAYS: every moment since "), "{}", finished.stdout);
    assert!(finished.stdout.contains("! That is less than the policy asks for"), "{}", finished.stdout);
    let document = json(&expire(&store, &["--policy", "7d", "--dry-run", "-o", "json"]).success());
    let (word, why) = verdict(&document, &first);
    assert!(word == "stays" && why.starts_with("needed to recover to any moment since "), "{word}: {why}");
    assert!(document["reaches_back_to"].as_str().unwrap() < document["since"].as_str().unwrap());
}

/// Story 46: all WAL went, a permanent backup went, the WAL of a pinned backup went.
#[test]
fn a_kept_backup_keeps_what_it_needs_and_cannot_be_deleted() {
    for_each_store(|store| {
        let [first, second, third] = archive(store);
        let said = store.run(&["keep", &first, "--standalone"]).success();
        assert_eq!(said.stdout, format!("Backup {first} is kept: standalone, with the WAL that makes it consistent\n"));
        let annotation = format!("main/base/{first}/annotations/keep");
        assert_eq!(store.read(&annotation).unwrap().content, b"standalone");
        let refused = store.run(&["delete", &first]).run().expect_code(4);
        assert!(refused.stderr.contains("it is kept (standalone)"), "{}", refused.stderr);
        expire(store, &["--policy", "REDUNDANCY 1"]).success();
        assert_eq!(ids(store), BTreeSet::from([first.clone(), third.clone()]));
        assert_eq!(segments(store), [vec![5], (25..=30).collect()].concat());
        let said = store.run(&["keep", &first, "--release", "-o", "json"]).success();
        assert!(json(&said)["backup"]["keep"].is_null());
        assert!(store.read(&annotation).is_none());
        expire(store, &["--policy", "REDUNDANCY 1"]).success();
        assert_eq!(ids(store), BTreeSet::from([third]));
        store.run(&["keep", &second]).run().expect_code(1);
    });
}

/// Story 47: incrementals and broken backups were counted until no full one was left.
#[test]
fn only_backups_that_can_be_restored_count_as_redundancy() {
    let store = TestStore::directory();
    let [first, second, third] = archive(&store);
    let failed = Backup { status: BackupStatus::Failed, ..record(1, 28) };
    put_backup(&store, &failed);
    store.remove(&wal_key(25));
    let document = json(&expire(&store, &["--policy", "REDUNDANCY 1", "--dry-run", "-o", "json"]).success());
    assert_eq!(verdict(&document, &first).0, "goes");
    assert_eq!(verdict(&document, &second), ("stays", "number 1 of the 1 newest restorable backups"));
    let (word, why) = verdict(&document, &third);
    assert!(word == "stays" && why.contains("not counted: segment") && why.contains(&segment(25)), "{word}: {why}");
    // Nor does anything go when none can be restored.
    for number in [5, 15] {
        store.remove(&wal_key(number));
    }
    let before = store.keys();
    let refused = expire(&store, &["--policy", "1d"]).run().expect_code(1);
    assert!(refused.stderr.contains("no backup of it can be restored"), "{}", refused.stderr);
    assert_eq!(store.keys(), before);
    let refused = store.run(&["delete", &second, "--minimum-redundancy", "2"]).run();
    assert_eq!(refused.code(), 0, "what cannot be restored breaks no promise: {}", refused.stderr);
    assert_eq!(segments(&store).len(), 27, "while no backup can be restored no WAL goes");
}

/// Story 48: a filter for temporary files took live manifests for garbage.
#[test]
fn what_is_not_understood_and_what_is_another_server_s_stays() {
    for_each_store(|store| {
        let [first, ..] = archive(store);
        let strange = [
            format!("main/base/{first}/.hidden"),
            format!("main/base/{first}/data.tar.zst.tmp"),
            "main/wals/0000000100000000/000000010000000000000001.tmp".to_owned(),
            "main/wals/0000000100000000/.000000010000000000000002.zst".to_owned(),
            "main/notes".to_owned(),
            "main2/wals/0000000100000000/000000010000000000000001.zst".to_owned(),
            "other/base/20200101T000000/backup.info".to_owned(),
        ];
        for key in &strange {
            store.write(key, b"precious");
        }
        store.write("main/wals/00000002.history", b"1\t0/5000000\tx\n");
        let finished = expire(store, &["--policy", "REDUNDANCY 1"]).success();
        assert!(finished.stdout.contains("Not understood, and still there: "), "{}", finished.stdout);
        for key in strange.iter().map(String::as_str).chain(["main/wals/00000002.history"]) {
            assert!(store.read(key).is_some(), "{key} is gone");
        }
        assert_eq!(segments(store), (25..=30).collect::<Vec<_>>());
    });
}

/// Story 49: deletes failed on some stores, nobody heard of it, and storage grew for ever.
#[test]
fn what_could_not_be_deleted_is_told_of_and_the_rest_goes() {
    let store = TestStore::directory();
    let [first, second, third] = archive(&store);
    let root = store.dir.join("archive");
    let held = root.join(format!("main/base/{first}"));
    std::fs::set_permissions(&held, std::fs::Permissions::from_mode(0o500)).unwrap();
    let finished = expire(&store, &["--policy", "REDUNDANCY 1", "-o", "json"]).run();
    std::fs::set_permissions(&held, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!([2, 4].contains(&finished.code()), "{} {}", finished.code(), finished.stderr);
    assert!(finished.stderr.contains("1 objects could not be deleted, the first: "), "{}", finished.stderr);
    let document = json(&finished);
    assert_eq!(document["deleted"]["backups"], serde_json::json!([second]));
    assert_eq!(document["stay_after_all"][0]["id"], first.as_str());
    // The WAL of the backup that is still there stays with it.
    assert_eq!(ids(&store), BTreeSet::from([first, third]));
    assert_eq!(segments(&store), (5..=30).collect::<Vec<_>>());

    // A store that refuses as a whole is an unreachable store.
    let store = TestStore::s3(crate::harness::S3Server::start());
    archive(&store);
    store.server().fault_when(|seen| {
        let deletes = seen.method == "DELETE" || seen.target.contains("?delete");
        deletes.then_some(crate::harness::Fault::Status(403))
    });
    let finished = expire(&store, &["--policy", "REDUNDANCY 1"]).run().expect_code(2);
    assert!(finished.stderr.contains("could not delete"), "{}", finished.stderr);
}

#[test]
fn what_is_left_of_a_deleted_backup_goes_with_the_next_expiry_and_holds_no_wal() {
    let store = TestStore::s3(crate::harness::S3Server::start());
    let [first, _, third] = archive(&store);
    // Its record goes, and then one of its parts cannot be deleted.
    let part = format!("main/base/{first}/data_0001.tar.zst");
    let stubborn = part.clone();
    store.server().fault_when(move |seen| {
        let deletes = seen.method == "DELETE" || seen.target.contains("?delete");
        (deletes && (seen.target.contains(&stubborn) || seen.target.contains("?delete")))
            .then_some(crate::harness::Fault::Status(403))
    });
    expire(&store, &["--policy", "REDUNDANCY 1"]).run().expect_code(2);
    store.server().heal();
    store.remove(&format!("main/base/{first}/backup.info"));
    assert!(store.read(&part).is_some());
    expire(&store, &["--policy", "REDUNDANCY 1"]).success();
    assert_eq!((ids(&store), segments(&store)), (BTreeSet::from([third]), (25..=30).collect()));
    assert!(!store.keys().iter().any(|key| key.contains("/expiry/")), "{:?}", store.keys());
}

/// Story 50: with base backups elsewhere, WAL was never purged.
#[test]
fn with_a_floor_wal_goes_without_any_backup_in_the_catalogue() {
    let store = TestStore::directory();
    for log in 0..3_u32 {
        let name = format!("00000001{log:08X}00000001");
        store.write(&format!("main/wals/{}/{name}.zst", &name[..16]), b"segment");
    }
    let refused = expire(&store, &["--policy", "1d"]).run().expect_code(1);
    assert!(refused.stderr.contains("no backup of it can be restored"), "{}", refused.stderr);
    let finished = expire(&store, &["--floor-lsn", "2/5000000"]).success();
    assert!(finished.stdout.contains("Deleted 0 backups, 2 WAL objects"), "{}", finished.stdout);
    assert_eq!(store.wal_keys().len(), 1);
    expire(&store, &[]).run().expect_code(3);
}

#[test]
fn killed_anywhere_the_next_one_ends_where_it_would_have() {
    let expected = {
        let store = TestStore::s3(crate::harness::S3Server::start());
        archive(&store);
        expire(&store, &["--policy", "REDUNDANCY 1"]).success();
        (segments(&store), store.keys().len())
    };
    let mut random = Random(7);
    for at in 0..12_u64 {
        let store = TestStore::s3(crate::harness::S3Server::start());
        archive(&store);
        let (mut deletions, stop_at) = (0, at % 5);
        // Each deletion takes its time, so that a kill falls between two of them, or into one.
        store.server().fault_when(move |seen| {
            let deletes = seen.method == "DELETE" || seen.target.contains("?delete");
            deletions += u64::from(deletes);
            (deletes && deletions > stop_at).then_some(crate::harness::Fault::Delay(Duration::from_millis(300)))
        });
        let running = expire(&store, &["--policy", "REDUNDANCY 1"]).env("BARBACK_CACHE_DIR", "/tmp").start();
        std::thread::sleep(Duration::from_millis(40 + random.below(700)));
        running.signal(Signal::KILL);
        running.wait();
        store.server().heal();
        expire(&store, &["--policy", "REDUNDANCY 1"]).success();
        assert_eq!((segments(&store), store.keys().len()), expected, "round {at}: {:?}", store.keys());
    }
}

#[test]
fn debris_is_counted_and_removed_when_it_is_old() {
    let store = TestStore::directory();
    archive(&store);
    let root = store.dir.join("archive");
    let failed = put_backup(&store, &Backup { status: BackupStatus::Failed, ..record(3, 28) });
    let fresh = put_backup(&store, &Backup { status: BackupStatus::Failed, ..record(4, 28) });
    let given_up = put_backup(&store, &Backup { status: BackupStatus::Started, ..record(9, 28) });
    store.write("main/base/20200101T000000/data.tar.gz", b"left over");
    store.write("main/base/20200102T000000/data.tar.gz", b"may be running");
    store.write("main/wals/0000000100000000/000000010000000000000020.zst#1", b"torn");
    store.write("main/wals/0000000100000000/000000010000000000000021.zst#2", b"being written");
    for key in store.keys().iter().filter(|key| [&failed, &given_up].iter().any(|id| key.contains(*id))) {
        age(&root.join(key), DAY * 8);
    }
    age(&root.join("main/base/20200101T000000/data.tar.gz"), DAY * 2);
    age(&root.join("main/wals/0000000100000000/000000010000000000000020.zst#1"), DAY * 2);
    let before = store.keys();
    let said = expire(&store, &["--policy", "30d"]).success();
    assert!(
        said.stdout.contains("Debris: 2 failed or abandoned backups, 1 directory without backup.info ("),
        "{}",
        said.stdout
    );
    let said = expire(&store, &["--debris", "--dry-run"]).success();
    assert!(said.stdout.contains("1 unfinished upload"), "{}", said.stdout);
    assert_eq!(store.keys(), before);
    expire(&store, &["--debris"]).success();
    let left = ids(&store);
    assert!(!left.contains(&failed) && !left.contains(&given_up) && !left.contains("20200101T000000"), "{left:?}");
    assert!(left.contains(&fresh) && left.contains("20200102T000000"), "{left:?}");
    assert!(!root.join("main/wals/0000000100000000/000000010000000000000020.zst#1").exists());
    assert!(root.join("main/wals/0000000100000000/000000010000000000000021.zst#2").exists());
    assert_eq!(segments(&store).len(), 30, "debris is no WAL");
}

#[test]
fn one_backup_goes_by_name_with_the_wal_that_only_it_needed() {
    let store = TestStore::directory();
    let [first, second, _] = archive(&store);
    store.run(&["delete", "20200101T000000"]).run().expect_code(1);
    let refused = store.run(&["delete", &first, "--minimum-redundancy", "3"]).run().expect_code(4);
    assert!(refused.stderr.contains("expire.minimum_redundancy"), "{}", refused.stderr);
    store.run(&["delete", &second]).success();
    assert_eq!(segments(&store).len(), 30, "the older backup needs it all");
    store.run(&["delete", "oldest", "--dry-run"]).success();
    store.run(&["delete", "oldest"]).success();
    assert_eq!(segments(&store), [(1..5).collect::<Vec<_>>(), (25..=30).collect()].concat());
    let refused = store.run(&["delete", "latest"]).run().expect_code(4);
    assert!(refused.stderr.contains("no other backup can be restored"), "{}", refused.stderr);
}

#[test]
fn uploads_that_nobody_ends_are_aborted_after_a_day_and_those_of_a_running_backup_are_not() {
    let store = TestStore::s3(crate::harness::S3Server::start());
    archive(&store);
    let running = put_backup(&store, &Backup { status: BackupStatus::Started, ..record(3, 28) });
    let old = (Utc::now() - TimeDelta::days(2)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let fresh = (Utc::now() - TimeDelta::hours(20)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let of_running = format!("pfx/main/base/{running}/data_0002.tar.zst");
    store.server().tell_of_uploads(&[
        ("pfx/main/base/20200101T000000/data.tar.zst", "first", &old),
        ("pfx/main/base/20200102T000000/data.tar.zst", "second", &fresh),
        (&of_running, "third", &old),
        ("pfx/main2/base/20200101T000000/data.tar.zst", "fourth", &old),
    ]);
    let said = expire(&store, &["--debris", "--dry-run"]).success();
    assert!(said.stdout.contains("Debris: 1 unfinished upload ("), "{}", said.stdout);
    store.server().forget_requests();
    // s3s-fs knows none of them: that an upload is gone already is no failure.
    store.server().fault_when(|seen| {
        (seen.method == "DELETE" && seen.target.contains("uploadId=")).then_some(crate::harness::Fault::Status(404))
    });
    let said = expire(&store, &["--debris"]).success();
    assert!(said.stdout.contains("Deleted 0 backups, 0 WAL objects, 1 unfinished upload"), "{}", said.stdout);
    let seen = store.server().requests();
    let aborted: Vec<&String> = seen
        .iter()
        .filter(|seen| seen.method == "DELETE")
        .map(|seen| &seen.target)
        .filter(|t| t.contains("uploadId"))
        .collect();
    assert_eq!(aborted, ["/bkt/pfx/main/base/20200101T000000/data.tar.zst?uploadId=first"]);
    assert!(ids(&store).contains(&running));
    // A server that cannot list uploads has none that anybody knows of.
    let store = TestStore::s3(crate::harness::S3Server::start());
    archive(&store);
    let document = json(&expire(&store, &["--debris", "-o", "json"]).success());
    assert!(document["debris"]["uploads"].is_null());
}

#[test]
fn a_locked_backup_is_a_state_and_no_error() {
    let Some(minio) = crate::harness::Minio::start() else { return };
    let env = minio.env();
    signed(&env, "PUT", "/locked", &[("x-amz-bucket-object-lock-enabled", "true")], "");
    let later = (Utc::now() + TimeDelta::hours(1)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let client = AmazonS3Builder::new()
        .with_bucket_name("locked")
        .with_endpoint(&env.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL").unwrap().1)
        .with_access_key_id(&env.iter().find(|(name, _)| name == "AWS_ACCESS_KEY_ID").unwrap().1)
        .with_secret_access_key(&env.iter().find(|(name, _)| name == "AWS_SECRET_ACCESS_KEY").unwrap().1)
        .with_allow_http(true)
        .build()
        .unwrap();
    let put = |key: &str, content: Vec<u8>| {
        let key = Key::parse(format!("pfx/{key}")).unwrap();
        block_on(async { client.put(&key, PutPayload::from(content)).await }).unwrap();
    };
    let backups = [(10, 5), (6, 15), (2, 25)].map(|(days_ago, number)| record(days_ago, number));
    for backup in &backups {
        put(&format!("main/base/{}/data.tar.zst", backup.id), b"content".to_vec());
        put(&format!("main/base/{}/backup.info", backup.id), backup_info::write(backup).into_bytes());
    }
    (1..=30).for_each(|number| put(&wal_key(number), b"segment".to_vec()));
    // Object lock wants a digest: that of "x" in MD5.
    let part = format!("/locked/pfx/main/base/{}/data.tar.zst", backups[0].id);
    let retained = [
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-object-lock-retain-until-date", later.as_str()),
        ("content-md5", "ndTkYSaMgDT1yFZOFVxnpg=="),
    ];
    signed(&env, "PUT", &part, &retained, "x");

    let run =
        |words: &[&str]| crate::harness::barback(words).envs(&env).env("BARBACK_STORE", "s3://locked/pfx").success();
    let document = json(&run(&["expire", "--policy", "REDUNDANCY 1", "-o", "json"]));
    let [first, second, third] = backups.map(|backup| backup.id.to_string());
    let (word, why) = verdict(&document, &first);
    assert!(word == "stays" && why.starts_with("locked by the store until "), "{word}: {why}");
    assert_eq!(document["deleted"]["backups"], serde_json::json!([second]));
    let listed = json(&run(&["list", "-o", "json"]));
    let listed: Vec<&str> =
        listed["backups"].as_array().unwrap().iter().map(|backup| backup["id"].as_str().unwrap()).collect();
    assert_eq!(listed, [first, third]);
    // Its own WAL stays with it.
    let left = json(&run(&["expire", "--policy", "REDUNDANCY 1", "--dry-run", "-o", "json"]));
    let first_stretch = &left["wal"][0];
    assert_eq!(
        (first_stretch["first"].as_str(), first_stretch["segments"].as_u64()),
        (Some(segment(5).as_str()), Some(1))
    );
}
