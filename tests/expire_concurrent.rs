//! Backups and expiries on different hosts at the same time: whoever looks last sees the other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use barback::domain::segment::SegmentName;
use barback::layout::expiry_lock::ExpiryLock;
use barback::layout::keys::ServerPrefix;
use chrono::{TimeDelta, Utc};
use serde_json::Value;

use crate::harness::{
    Cluster, ClusterOptions, Fault, Postgres, S3Server, Seen, TestStore, backup_run, barback_binary, id_of,
    list_backups, restore_copy, running_cluster, start_copy, take_backup,
};

/// A server that archives into the store.
fn archiving(store: &TestStore, version: &crate::harness::PgVersion) -> Cluster {
    let command = format!("{} wal-archive %p", barback_binary().display());
    let options = ClusterOptions::default()
        .wal_segment_mb(1)
        .set("archive_mode", "on")
        .set("archive_command", &command)
        .envs(&store.env());
    running_cluster(&store.dir, version, options, 0)
}

/// What an expiry on another host would say that may delete WAL up to this segment.
fn foreign_lock(up_to: &str, backups: &[String]) -> ExpiryLock {
    let last: SegmentName = up_to.parse().unwrap();
    ExpiryLock {
        id: "20260101T000000.000000-elsewhere-1".to_owned(),
        host: "elsewhere".to_owned(),
        pid: 1,
        process: "another-boot pid:[1] 1 1".to_owned(),
        started: Utc::now(),
        wal_up_to: BTreeMap::from([(last.timeline, last)]),
        backups: backups.to_vec(),
        is_over: false,
    }
}

fn lock_key(lock: &ExpiryLock) -> String {
    ServerPrefix::new("", "main").unwrap().expiry(&lock.id)
}

/// Requests in the order the store saw them, as method and what is asked for.
fn order_of(server: &S3Server, wanted: &[(&str, &str)]) -> Vec<usize> {
    let seen = server.requests();
    let find = |(method, part): &(&str, &str)| {
        let at = seen.iter().position(|seen| seen.method == *method && seen.target.contains(part));
        at.unwrap_or_else(|| {
            panic!("no {method} of {part} among {:#?}", seen.iter().map(|seen| &seen.target).collect::<Vec<_>>())
        })
    };
    wanted.iter().map(find).collect()
}

#[test]
fn both_sides_write_what_they_are_about_to_do_before_they_look() {
    let Some(version) = Postgres::newest() else { return };
    let store = TestStore::s3(S3Server::start());
    let cluster = archiving(&store, &version);
    store.server().forget_requests();
    let first = id_of(&take_backup(&cluster, &store.env(), &[]));
    let told = format!("/base/{first}/backup.info");
    let [said, looked] = order_of(store.server(), &[("PUT", &told), ("GET", "barback%2Fexpiry%2F")])[..] else {
        panic!()
    };
    assert!(said < looked, "a backup looked for expiries before it was in the catalogue");

    take_backup(&cluster, &store.env(), &[]);
    store.server().forget_requests();
    store.run(&["expire", "--policy", "REDUNDANCY 1"]).success();
    let seen = store.server().requests();
    let said = seen.iter().position(|seen| seen.method == "PUT" && seen.target.contains("/barback/expiry/")).unwrap();
    let looks = |what: &str| {
        let looks = seen.iter().enumerate().filter(|(_, seen)| seen.method == "GET" && seen.target.contains(what));
        looks.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let catalogue = looks("prefix=pfx%2Fmain%2Fbase%2F");
    // Before the lock, the right to delete is tried on what is not there.
    let deletes = |seen: &Seen| seen.target.contains("delete") || seen.method == "DELETE";
    let deleted = said + seen[said..].iter().position(deletes).unwrap();
    assert!(catalogue.iter().any(|at| (said..deleted).contains(at)), "no look between the lock and the first deletion");
    assert!(looks("barback%2Fexpiry%2F").iter().any(|at| (said..deleted).contains(at)), "no look for other expiries");
}

#[test]
fn a_backup_waits_for_an_expiry_that_may_delete_its_wal_and_only_for_such() {
    let Some(version) = Postgres::newest() else { return };
    let store = TestStore::s3(S3Server::start());
    let cluster = archiving(&store, &version);
    // One that only deletes what is older does not concern it.
    let harmless = foreign_lock("000000010000000000000001", &[]);
    store.write(&lock_key(&harmless), &harmless.to_json().unwrap());
    let begun = Instant::now();
    take_backup(&cluster, &store.env(), &[]);
    let unhindered = begun.elapsed();

    let lock = foreign_lock("0000000100000000000000FF", &[]);
    store.write(&lock_key(&lock), &lock.to_json().unwrap());
    let mut running = backup_run(&cluster, &store.env(), &["-v"]).start();
    std::thread::sleep(unhindered + Duration::from_secs(3));
    assert!(running.is_running(), "it did not wait");
    store.remove(&lock_key(&lock));
    let finished = running.wait().expect_code(0);
    assert!(finished.stderr.contains("waiting for an expire to end"), "{}", finished.stderr);
    assert!(finished.stderr.contains("on host \"elsewhere\""), "{}", finished.stderr);
}

#[test]
fn wal_that_an_expiry_deletes_under_a_backup_is_not_missed_silently() {
    let Some(version) = Postgres::newest() else { return };
    let store = TestStore::s3(S3Server::start());
    let cluster = archiving(&store, &version);
    let lock = foreign_lock("0000000100000000000000FF", &[]);
    store.write(&lock_key(&lock), &lock.to_json().unwrap());
    let mut running = backup_run(&cluster, &store.env(), &["--wal-timeout", "5s"]).start();
    let until = Instant::now() + Duration::from_mins(1);
    // The other host's expiry did not see this backup, and takes what it needs; then it ends.
    while !cluster.psql("SELECT count(*) FROM pg_stat_archiver WHERE archived_count > 1").starts_with('1') {
        assert!(Instant::now() < until && running.is_running());
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(2));
    store.wal_keys().iter().filter(|key| !key.ends_with(".history")).for_each(|key| store.remove(key));
    store.remove(&lock_key(&lock));
    let finished = running.wait();
    let backups = list_backups(&store.env());
    if finished.code() == 0 {
        // The server still had it, and the backup brought it back.
        let begin = backups[0]["begin_segment"].as_str().unwrap().to_owned();
        assert!(store.wal_keys().iter().any(|key| key.contains(&begin)), "{begin} is not in {:?}", store.wal_keys());
    } else {
        assert_eq!(backups[0]["status"], "FAILED");
    }
}

#[test]
fn an_expiry_sees_a_backup_that_began_before_its_lock_was_written() {
    let store = TestStore::s3(S3Server::start());
    let Some(version) = Postgres::newest() else { return };
    let cluster = archiving(&store, &version);
    take_backup(&cluster, &store.env(), &[]);
    take_backup(&cluster, &store.env(), &[]);
    // Between the first look and the lock another backup begins, with WAL as old as a standby's.
    let old = store.read(&format!("main/base/{}/backup.info", list_backups(&store.env())[0]["id"].as_str().unwrap()));
    let text = String::from_utf8(old.unwrap().content).unwrap();
    let now = Utc::now().format("%Y-%m-%d %H:%M:%S+00:00").to_string();
    let started: String = text
        .lines()
        .map(|line| match line.split_once('=') {
            Some(("status", _)) => "status=STARTED\n".to_owned(),
            Some(("begin_time", _)) => format!("begin_time={now}\n"),
            Some((name @ ("end_time" | "end_xlog" | "end_wal" | "end_offset"), _)) => format!("{name}=None\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let later = (Utc::now() + TimeDelta::minutes(1)).format("%Y%m%dT%H%M%S").to_string();
    let place = store.server().object(&format!("pfx/main/base/{later}/backup.info"));
    store.server().fault_when(move |seen| {
        if seen.method == "PUT" && seen.target.contains("/barback/expiry/") && !place.exists() {
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(&place, &started).unwrap();
        }
        None
    });
    let before = store.wal_keys();
    let said = store.run(&["expire", "--policy", "REDUNDANCY 1", "-o", "json"]).success();
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(document["deleted"]["backups"].as_array().unwrap().len(), 1);
    let begin =
        list_backups(&store.env()).iter().find(|backup| backup["id"] == later.as_str()).unwrap()["begin_segment"]
            .clone();
    let needed = |key: &&String| key.rsplit('/').next().unwrap() >= begin.as_str().unwrap();
    let after = store.wal_keys();
    let lost: Vec<&String> = before.iter().filter(needed).filter(|key| !after.contains(key)).collect();
    assert!(lost.is_empty(), "the running backup needs {lost:?}");
}

#[test]
fn of_two_expiries_one_goes_on_at_most() {
    let store = TestStore::s3(S3Server::start());
    let Some(version) = Postgres::newest() else { return };
    let cluster = archiving(&store, &version);
    (0..3).for_each(|_| drop(take_backup(&cluster, &store.env(), &[])));
    let lock = foreign_lock("000000010000000000000001", &[]);
    store.write(&lock_key(&lock), &lock.to_json().unwrap());
    let refused = store.run(&["expire", "--policy", "REDUNDANCY 1"]).run().expect_code(4);
    assert!(
        refused.stderr.contains("another expire is at work: process 1 on host \"elsewhere\""),
        "{}",
        refused.stderr
    );
    assert_eq!(list_backups(&store.env()).len(), 3);
    assert_eq!(store.keys().iter().filter(|key| key.contains("/expiry/")).count(), 1, "its own lock is left");
    // Two hours later it is void, by the store's clock.
    let file =
        std::fs::File::options().write(true).open(store.server().object(&format!("pfx/{}", lock_key(&lock)))).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_mins(121)).unwrap();
    store.run(&["expire", "--policy", "REDUNDANCY 1"]).success();
    assert!(!store.keys().iter().any(|key| key.contains("/expiry/")));

    (0..3).for_each(|_| drop(take_backup(&cluster, &store.env(), &[])));
    store.server().fault_when(|seen| {
        let slow = seen.target.contains("expiry") || seen.target.contains("delete");
        slow.then_some(Fault::Delay(Duration::from_millis(200)))
    });
    let both: Vec<_> = (0..2).map(|_| store.run(&["expire", "--policy", "REDUNDANCY 1"]).start()).collect();
    let codes: Vec<i32> = both.into_iter().map(|running| running.wait().code()).collect();
    assert!(codes.iter().all(|code| [0, 4].contains(code)), "{codes:?}");
    assert!(!store.keys().iter().any(|key| key.contains("/expiry/")));
    store.server().heal();
    store.run(&["expire", "--policy", "REDUNDANCY 1"]).success();
    assert_eq!(list_backups(&store.env()).len(), 1);
}

#[test]
fn keeping_a_backup_that_an_expiry_means_to_delete_waits_for_the_truth() {
    let store = TestStore::s3(S3Server::start());
    let Some(version) = Postgres::newest() else { return };
    let cluster = archiving(&store, &version);
    let id = id_of(&take_backup(&cluster, &store.env(), &[]));
    let lock = foreign_lock("000000010000000000000001", std::slice::from_ref(&id));
    store.write(&lock_key(&lock), &lock.to_json().unwrap());
    let mut running = store.run(&["keep", &id]).start();
    std::thread::sleep(Duration::from_secs(2));
    assert!(running.is_running(), "it did not wait");
    store.remove(&format!("main/base/{id}/backup.info"));
    store.remove(&lock_key(&lock));
    let finished = running.wait().expect_code(1);
    assert!(finished.stderr.contains("an expire that was at work has deleted it"), "{}", finished.stderr);
}

/// A standby's backup begins at its last restartpoint, which may be older than the newest backup of the primary.
#[test]
fn backups_of_a_standby_and_expiries_at_the_same_time_leave_only_backups_that_restore() {
    let Some(version) = Postgres::newest() else { return };
    let store = TestStore::s3(S3Server::start());
    let env = store.env();
    let primary = archiving(&store, &version);
    let mut standby = Cluster::standby_of(&primary, &store.dir, "standby");
    standby.start();
    take_backup(&primary, &env, &[]);
    let until = Instant::now() + Duration::from_secs(25);
    let expiring = {
        let store_env = env.clone();
        std::thread::spawn(move || {
            let mut codes = Vec::new();
            while Instant::now() < until {
                let run = crate::harness::barback(&["expire", "--policy", "REDUNDANCY 1", "-q"]).envs(&store_env);
                codes.push(run.run().code());
            }
            codes
        })
    };
    let mut taken = 0;
    while Instant::now() < until {
        primary.psql("SELECT pg_logical_emit_message(false, '', repeat('x', 300000)); SELECT pg_switch_wal()");
        take_backup(&primary, &env, &[]);
        let finished = backup_run(&standby, &env, &[]).run();
        taken += i32::from(finished.code() == 0);
    }
    let codes = expiring.join().unwrap();
    assert!(taken > 0 && codes.len() > 2 && codes.iter().all(|code| *code == 0), "{taken} backups, {codes:?}");
    primary.archive_everything();
    let done: Vec<String> = list_backups(&env)
        .iter()
        .filter(|backup| backup["status"] == "DONE")
        .map(|backup| backup["id"].as_str().unwrap().to_owned())
        .collect();
    assert!(!done.is_empty());
    for (at, id) in done.iter().enumerate() {
        let mut copy = restore_copy(&store.dir, &format!("copy{at}"), &version, &env, &["--backup", id]);
        start_copy(&mut copy);
        copy.stop("immediate");
    }
}
