//! A base backup that is stopped, or whose store or server fails, leaves nothing open behind and says what happened.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper of tests fails the test that called it")]

use std::time::{Duration, Instant};

use crate::harness::{
    Cluster, ClusterOptions, Fault, Finished, PgVersion, Postgres, Running, S3Server, StoreEnv, TestDir, backup_run,
    barback, files_named, id_of, list_backups, on_disk, on_s3, restore_copy, running_cluster, start_copy, take_backup,
};
use rustix::process::Signal;
use serde_json::Value;

/// How long a test waits for something to happen in another process.
const PATIENCE: Duration = Duration::from_mins(1);
/// Uncompressed in the smallest parts, so that a small cluster is many requests and every tar an upload in parts.
const MANY_PARTS: [&str; 6] = ["--compression", "none", "--part-size", "5MiB", "--jobs", "2"];
/// The server's side of a base backup that is going on.
const BACKUP_SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backup%' \
    AND pid <> pg_backend_pid()";

#[test]
fn a_signal_stops_a_backup_and_nothing_stays_open_on_s3() {
    for_signals(|version, signal, name| {
        let dir = TestDir::new();
        let s3 = S3Server::start();
        let env = on_s3(&s3);
        let cluster = running_cluster(&dir, version, ClusterOptions::default(), 2);
        slow_parts(&s3);
        let running = backup_run(&cluster, &env, &MANY_PARTS).start();
        wait_for_parts(&s3, 2);
        let finished = stop_with(running, signal);
        s3.heal();

        assert_eq!(finished.code(), 4, "{}", finished.stderr);
        assert!(finished.stderr.contains(&format!("stopped by {name}")), "{}", finished.stderr);
        assert_failed(&env, &format!("stopped by {name}"));
        assert_server_is_free(&cluster);
        assert_no_upload_is_open(&s3);
        assert_next_backup_works(&dir, &cluster, &env);
        assert_no_upload_is_open(&s3);
    });
}

#[test]
fn a_signal_stops_a_backup_and_no_staged_file_stays_in_a_directory() {
    for_signals(|version, signal, name| {
        let dir = TestDir::new();
        let env = on_disk(&dir, "store");
        let cluster = running_cluster(&dir, version, ClusterOptions::default(), 2);
        let running = backup_run(&cluster, &env, &MANY_PARTS).args(["--max-rate", "2MiB"]).start();
        // Not the record of identity or of the backup, which are staged too.
        wait_until("a staged part", || !files_named(&dir.join("store"), ".tar#").is_empty());
        let finished = stop_with(running, signal);

        assert_eq!(finished.code(), 4, "{}", finished.stderr);
        assert_failed(&env, &format!("stopped by {name}"));
        assert_server_is_free(&cluster);
        assert_eq!(files_named(&dir.join("store"), "#"), Vec::<std::path::PathBuf>::new());
        assert_next_backup_works(&dir, &cluster, &env);
    });
}

#[test]
fn a_store_that_refuses_in_the_middle_ends_the_backup_with_2() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 2);
    let mut parts = 0;
    s3.fault_when(move |seen| {
        let is_part = seen.method == "PUT" && seen.target.contains("partNumber=");
        parts += usize::from(is_part);
        (is_part && parts > 2).then_some(Fault::Status(403))
    });
    let finished = backup_run(&cluster, &env, &MANY_PARTS).run();
    s3.heal();
    assert_eq!(finished.code(), 2, "{}", finished.stderr);
    assert_failed(&env, "could not upload a part of object");
    assert_server_is_free(&cluster);
    assert_no_upload_is_open(&s3);
    assert_next_backup_works(&dir, &cluster, &env);
}

#[test]
fn a_store_that_refuses_everything_in_the_middle_leaves_no_restorable_backup() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 2);
    let mut parts = 0;
    s3.fault_when(move |seen| {
        parts += usize::from(seen.method == "PUT" && seen.target.contains("partNumber="));
        (parts > 2).then_some(Fault::Status(403))
    });
    let finished = backup_run(&cluster, &env, &MANY_PARTS).run();
    s3.heal();
    assert_eq!(finished.code(), 2, "{}", finished.stderr);
    assert_eq!(list_backups(&env)[0]["status"], "STARTED", "FAILED could not be recorded");
    assert_server_is_free(&cluster);
    barback(&["restore"]).arg(dir.join("nothing")).envs(&env).run().expect_code(1);
    assert_next_backup_works(&dir, &cluster, &env);
}

/// Story 10: every upload is confirmed, and one object is not there (or shorter) when all is done.
#[test]
fn a_backup_whose_store_lost_a_part_is_never_called_done() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 1);
    for (is_lost, complaint) in [(true, "data.tar.lz4\" is not there"), (false, "data.tar.lz4\" is 7 bytes long")] {
        let root = s3.root();
        s3.fault_when(move |seen| {
            if seen.method == "PUT" && seen.target.contains("/barback.json") {
                for part in files_named(&root, "data.tar.lz4") {
                    if is_lost { std::fs::remove_file(part) } else { std::fs::write(part, "shorter") }.unwrap();
                }
            }
            None
        });
        let finished = backup_run(&cluster, &env, &["--compression", "lz4"]).run();
        s3.heal();
        assert_eq!(finished.code(), 4, "{}", finished.stderr);
        assert!(finished.stderr.contains(complaint), "{}", finished.stderr);
        assert!(finished.stderr.contains("HINT: The store lost what it had confirmed"), "{}", finished.stderr);
        assert_eq!(list_backups(&env).last().unwrap()["status"], "FAILED");
        assert_server_is_free(&cluster);
    }
    barback(&["restore"]).arg(dir.join("nothing")).envs(&env).run().expect_code(1);
}

#[test]
fn a_killed_backup_stays_started_and_is_never_restored() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 2);
    slow_parts(&s3);
    let running = backup_run(&cluster, &env, &MANY_PARTS).start();
    wait_for_parts(&s3, 2);
    running.signal(Signal::KILL);
    assert_eq!(running.wait().code(), 137);
    s3.heal();

    let backups = list_backups(&env);
    assert_eq!((backups.len(), &backups[0]["status"]), (1, &Value::from("STARTED")));
    let killed = id_of(&backups[0]);
    let target = dir.join("nothing");
    let by_choice = barback(&["restore"]).arg(&target).envs(&env).run();
    assert_eq!(by_choice.code(), 1, "{}", by_choice.stderr);
    let by_name = barback(&["restore", "--backup", &killed]).arg(&target).envs(&env).run();
    assert_ne!(by_name.code(), 0);
    assert!(by_name.stderr.contains("STARTED"), "{}", by_name.stderr);
    assert!(!target.exists());
    assert_server_is_free(&cluster);
    assert_next_backup_works(&dir, &cluster, &env);
}

#[test]
fn a_server_that_dies_in_the_middle_fails_the_backup() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let mut cluster = running_cluster(&dir, &version, ClusterOptions::default(), 2);
    slow_parts(&s3);
    let running = backup_run(&cluster, &env, &MANY_PARTS).start();
    wait_for_parts(&s3, 2);
    cluster.stop("immediate");
    let finished = running.wait();
    s3.heal();
    assert_eq!(finished.code(), 4, "{}", finished.stderr);
    assert_failed(&env, "lost the session that must stop the backup");
    assert_no_upload_is_open(&s3);
    cluster.start();
    assert_next_backup_works(&dir, &cluster, &env);
}

#[test]
fn a_second_signal_is_not_needed_while_the_store_hangs() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 2);
    // Longer than the deadline of this test's programs: only a backup that gives such a request up can end in time.
    s3.fault_when(|seen| seen.target.contains("partNumber=").then_some(Fault::Delay(Duration::from_mins(30))));
    let running = backup_run(&cluster, &env, &MANY_PARTS).timeout(Duration::from_mins(1)).start();
    wait_for_parts(&s3, 2);
    let finished = stop_with(running, Signal::TERM);
    s3.heal();
    assert_eq!(finished.code(), 4, "{}", finished.stderr);
    assert_failed(&env, "stopped by SIGTERM");
    assert_server_is_free(&cluster);
    assert_no_upload_is_open(&s3);
}

fn for_signals(mut test: impl FnMut(&PgVersion, Signal, &str)) {
    let (oldest, newest) = (Postgres::versions().into_iter().next(), Postgres::newest());
    for (version, signal, name) in [(oldest, Signal::TERM, "SIGTERM"), (newest, Signal::INT, "SIGINT")] {
        if let Some(version) = version {
            test(&version, signal, name);
        }
    }
}

/// Every part takes a second, so that a copy is going on for a while.
fn slow_parts(s3: &S3Server) {
    s3.fault_when(|seen| seen.target.contains("partNumber=").then_some(Fault::Delay(Duration::from_secs(1))));
}

fn wait_for_parts(s3: &S3Server, number: usize) {
    wait_until("parts on their way", || {
        s3.requests().iter().filter(|seen| seen.target.contains("partNumber=")).count() >= number
    });
}

fn stop_with(running: Running, signal: Signal) -> Finished {
    running.signal(signal);
    running.wait()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "no {what} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The one backup there is says FAILED, and why.
fn assert_failed(env: &StoreEnv, reason: &str) {
    let backups = list_backups(env);
    assert_eq!((backups.len(), &backups[0]["status"]), (1, &Value::from("FAILED")), "{backups:?}");
    let shown = barback(&["show", &id_of(&backups[0]), "-o", "json"]).envs(env).success().stdout;
    assert!(shown.contains(reason), "no \"{reason}\" in {shown}");
}

/// No session of a backup, no slot of one.
fn assert_server_is_free(cluster: &Cluster) {
    cluster.wait_until(BACKUP_SESSIONS, "0", PATIENCE);
    cluster.wait_until("SELECT count(*) FROM pg_replication_slots", "0", PATIENCE);
}

/// s3s-fs keeps an open upload's parts and facts in files beside the bucket.
fn assert_no_upload_is_open(s3: &S3Server) {
    let open = files_named(&s3.root(), ".upload");
    assert!(open.is_empty(), "uploads left open: {open:?}");
}

fn assert_next_backup_works(dir: &TestDir, cluster: &Cluster, env: &StoreEnv) {
    let backup = take_backup(cluster, env, &[]);
    let mut copy = restore_copy(dir, "copy", cluster.version(), env, &[]);
    start_copy(&mut copy);
    assert_eq!(copy.psql("SELECT count(*) FROM pgbench_accounts"), "200000");
    let statuses = list_backups(env);
    let done: Vec<_> = statuses.iter().filter(|backup| backup["status"] == "DONE").map(id_of).collect();
    assert_eq!(done, [id_of(&backup)]);
}
