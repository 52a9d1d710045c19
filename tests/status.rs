//! One screen that tells the truth about an archive: on every kind of store, as text, document and metrics.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeSet;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::harness::{
    ClusterOptions, S3Server, StoreEnv, TestDir, TestStore, for_each_store, for_each_version, on_s3, running_cluster,
    take_backup,
};

const HISTORY: &str = "1\t0/5800000\tno recovery target specified\n";

/// A `backup.info` of a backup within segment `number` of timeline `timeline`.
fn info(ended: DateTime<Utc>, timeline: u32, number: u32) -> String {
    let time = ended.format("%Y-%m-%d %H:%M:%S+00:00");
    format!(
        "begin_offset=40\nbegin_time={time}\nbegin_wal={timeline:08X}00000000{number:08X}\nbegin_xlog=0/{number:X}000028\n\
         end_offset=256\nend_time={time}\nend_wal={timeline:08X}00000000{number:08X}\nend_xlog=0/{number:X}000100\n\
         status=DONE\nsystemid=7711281960404649938\ntimeline={timeline}\nversion=150020\nxlog_segment_size=16777216\n"
    )
}

fn write_backup(store: &TestStore, ended: DateTime<Utc>, timeline: u32, number: u32) -> String {
    let id = ended.format("%Y%m%dT%H%M%S").to_string();
    store.write(&format!("main/base/{id}/backup.info"), info(ended, timeline, number).as_bytes());
    store.write(&format!("main/base/{id}/data.tar"), b"tar");
    id
}

fn write_wal(store: &TestStore, timeline: u32, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let name = format!("{timeline:08X}00000000{number:08X}");
        store.write(&format!("main/wals/{timeline:08X}00000000/{name}.gz"), b"wal");
    }
}

fn document(store: &TestStore) -> Value {
    serde_json::from_str(&store.run(&["status", "-o", "json"]).success().stdout).unwrap()
}

fn codes(document: &Value) -> Vec<&str> {
    let findings = document["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

#[test]
fn window_gaps_and_timelines_are_told_on_every_store() {
    for_each_store(|store| {
        let now = Utc::now();
        let first = write_backup(store, now - TimeDelta::hours(30), 1, 2);
        let second = write_backup(store, now - TimeDelta::hours(6), 2, 6);
        write_wal(store, 1, [2, 3, 5]);
        write_wal(store, 2, [5, 6, 8]);
        store.write("main/wals/00000002.history", HISTORY.as_bytes());

        let seen = document(store);
        assert_eq!(seen["recovery"]["from_backup"], second, "{seen}");
        assert_eq!(seen["recovery"]["to_lsn"], "0/7000000");
        assert_eq!(seen["recovery"]["timeline"], 2);
        assert_eq!(seen["timelines"][0]["intervals"][0]["first_backup"], first);
        assert_eq!(seen["timelines"][0]["intervals"][0]["to_lsn"], "0/4000000");
        assert_eq!(seen["timelines"][1]["parent_lsn"], "0/5800000");
        let missing: Vec<_> =
            seen["gaps"].as_array().unwrap().iter().map(|gap| gap["first"].as_str().unwrap()).collect();
        assert_eq!(missing, ["000000010000000000000004", "000000020000000000000007"]);
        assert_eq!(codes(&seen), ["wal-gap", "wal-gap"]);
        let text = store.run(&["status"]).success().stdout;
        assert!(text.contains("WAL segment \"000000010000000000000004\" is missing"), "{text}");
        let metrics = store.run(&["status", "--metrics"]).success().stdout;
        assert!(metrics.contains("barback_wal_gaps{server=\"main\"} 2\n"), "{metrics}");
        assert!(metrics.contains("barback_backups{server=\"main\",state=\"restorable\"} 2\n"), "{metrics}");
    });
}

#[test]
fn a_done_backup_whose_end_is_not_in_the_store_is_not_called_a_backup() {
    let store = TestStore::directory();
    let id = write_backup(&store, Utc::now() - TimeDelta::hours(2), 1, 2);
    write_wal(&store, 1, [1]);
    let seen = document(&store);
    assert_eq!(seen["recovery"], Value::Null);
    assert_eq!(codes(&seen), ["no-backup", "backup-unusable"]);
    assert!(seen["findings"][1]["what"].as_str().unwrap().contains(&id), "{seen}");
    let metrics = store.run(&["status", "--metrics"]).success().stdout;
    assert!(metrics.contains("barback_last_available_backup_timestamp_seconds{server=\"main\"} 0\n"), "{metrics}");
}

#[test]
fn a_store_that_does_not_answer_has_no_status() {
    let store = TestStore::s3(S3Server::start());
    store.server().refuse_all(500);
    let refused = store.run(&["status", "--retry-timeout", "1"]).run().expect_code(2);
    assert_eq!(refused.stdout, "");
    store.server().refuse_all(403);
    store.run(&["status", "--metrics"]).run().expect_code(2);
    let dir = TestDir::new();
    let url = format!("file://{}", dir.join("unmounted").display());
    crate::harness::barback(&["status", "--store", &url]).run().expect_code(2);
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_printed() {
    let store = TestStore::directory();
    write_backup(&store, Utc::now() - TimeDelta::hours(2), 1, 2);
    write_wal(&store, 1, [2, 3]);
    let drill = crate::drill_history::example().to_json().unwrap();
    store.write("main/barback/drills/00000012.json", drill.as_bytes());
    let metrics = store.run(&["status", "--metrics"]).success().stdout;
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let printed: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let documented: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let always: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.contains("with `--host`"))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(printed, always);
    let alerts = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/alerts.yml")).unwrap();
    for word in alerts.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| word.starts_with("barback_")) {
        assert!(documented.contains(word), "{word} in alerts.yml is no metric");
    }
}

#[test]
fn a_real_cluster_s_status_is_good_until_a_segment_is_lost() {
    for_each_version(|version| {
        let s3 = S3Server::start();
        let env: StoreEnv = on_s3(&s3);
        let dir = TestDir::new();
        let command = format!("{} wal-archive %p", crate::harness::barback_binary().display());
        let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", &command);
        let primary = running_cluster(&dir, version, options.envs(&env), 0);
        take_backup(&primary, &env, &[]);
        for _ in 0..3 {
            primary.pgbench(&["-i", "-s", "1"]);
            primary.archive_everything();
        }
        let status = || -> Value {
            let answer = crate::harness::barback(&["status", "-o", "json"]).envs(&env).success();
            serde_json::from_str(&answer.stdout).unwrap()
        };
        let host = crate::harness::barback(&["status", "--host", "--metrics"])
            .env("BARBACK_BACKUP_DBNAME", primary.connect_string())
            .envs(&env)
            .success();
        for line in ["barback_host_up{server=\"main\"} 1", "barback_archive_lag_segments{server=\"main\"} 0"] {
            assert!(host.stdout.lines().any(|printed| printed == line), "{line}: {}", host.stdout);
        }
        let before = status();
        assert_eq!(codes(&before), ["archive"], "{before}");
        assert_eq!(before["backups"]["restorable"], 1);

        let begin = before["timelines"][0]["last_segment"].as_str().unwrap().to_owned();
        let lost = s3.keys().into_iter().rfind(|key| key.contains("/wals/") && !key.contains(&begin)).unwrap();
        std::fs::remove_file(s3.object(&lost)).unwrap();
        let after = status();
        assert!(codes(&after).contains(&"wal-gap"), "{after}");
        assert!(lost.contains(after["gaps"][0]["first"].as_str().unwrap()), "{lost} {after}");
    });
}
