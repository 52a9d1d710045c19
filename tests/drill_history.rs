//! The records of drills on every kind of store: numbered without a gap, chained, and listed whatever was done to them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use barback::commands::drill_records::{append, history};
use barback::domain::drill::DrillLevel;
use barback::domain::verification::Verdict;
use barback::error::ErrorKind;
use barback::layout::drill_record::DrillRecord;
use chrono::{TimeDelta, Utc};
use serde_json::Value;

use crate::harness::{S3Server, TestDir, TestStore, archive_of, barback, block_on, for_each_store};

/// The record that `docs/formats.md` shows.
pub fn example() -> DrillRecord {
    let page = include_str!("../docs/formats.md");
    let section = page.split_once("\n## Drills\n").expect("the page has drills").1;
    let json = section.split_once("```json\n").expect("it shows one").1.split_once("```").unwrap().0;
    DrillRecord::from_json(json.as_bytes()).unwrap()
}

/// One that is not recorded yet, as a drill leaves it.
fn unrecorded(verdict: Verdict, level: DrillLevel) -> DrillRecord {
    DrillRecord { sequence: None, previous_sha256: None, last_passed: None, verdict, level, ..example() }
}

fn key(number: u64) -> String {
    format!("main/barback/drills/{number:08}.json")
}

/// Records drills that passed, failed, and passed at a lower level.
fn record_three(store: &TestStore) -> Vec<DrillRecord> {
    let drills = [
        (Verdict::Pass, DrillLevel::Recovery),
        (Verdict::Fail, DrillLevel::Recovery),
        (Verdict::Pass, DrillLevel::Bytes),
    ];
    block_on(async {
        let archive = archive_of(store.options()).await;
        let mut records = Vec::new();
        for (at, (verdict, level)) in drills.into_iter().enumerate() {
            let mut record = unrecorded(verdict, level);
            record.ended += TimeDelta::days(i64::try_from(at).unwrap());
            append(&archive, &mut record).await.unwrap();
            records.push(record);
        }
        records
    })
}

#[test]
fn drills_are_numbered_and_chained_on_every_store() {
    for_each_store(|store| {
        let records = record_three(store);
        assert_eq!(records.iter().map(|record| record.sequence.unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(records[0].previous_sha256, None);
        let passed: Vec<_> = records.iter().map(|record| record.last_passed).collect();
        assert_eq!(passed, [None, Some(records[0].ended), Some(records[0].ended)]);
        for record in &records {
            let stored = store.read(&key(record.sequence.unwrap())).unwrap().content;
            assert_eq!(String::from_utf8(stored).unwrap(), record.to_json().unwrap(), "drill.json is the record");
        }
        let seen = block_on(async { history(&archive_of(store.options()).await).await.unwrap() });
        assert_eq!(seen.records, records);
        assert!(seen.chain.whole, "{:?}", seen.chain);

        let text = store.run(&["drill", "history"]).success().stdout;
        assert!(text.contains("The chain of 3 records is whole."), "{text}");
        let csv = store.run(&["drill", "history", "-o", "csv"]).success().stdout;
        assert_eq!(csv.lines().count(), 4, "{csv}");
    });
}

#[test]
fn drills_that_end_at_the_same_moment_each_get_a_number() {
    // The in-process S3 server looks and then writes, so that two of one instant are both told that they were first.
    for store in [Some(TestStore::directory()), TestStore::minio(), TestStore::azurite()].into_iter().flatten() {
        block_on(async {
            let archive = archive_of(store.options()).await;
            let appends = (0..5).map(async |at| {
                let mut record = unrecorded(Verdict::Pass, DrillLevel::Recovery);
                // What is the same to the last byte is the same drill, whose first answer was lost.
                record.started += TimeDelta::microseconds(at);
                append(&archive, &mut record).await.unwrap();
                record.sequence.unwrap()
            });
            let mut numbers = futures::future::join_all(appends).await;
            numbers.sort_unstable();
            assert_eq!(numbers, [1, 2, 3, 4, 5], "{:?}", archive.store.place());
            let seen = history(&archive).await.unwrap();
            assert!(seen.chain.whole, "{:?}", seen.chain);
        });
    }
}

#[test]
fn a_removed_changed_or_spoiled_record_shows_and_ends_with_1() {
    type Change<'c> = (&'c dyn Fn(&TestStore), &'c [&'c str]);
    let listed = |store: &TestStore, code: i32| {
        let text = store.run(&["drill", "history"]).run().expect_code(code).stdout;
        let json = store.run(&["drill", "history", "-o", "json"]).run().expect_code(code).stdout;
        let document: Value = serde_json::from_str(&json).unwrap();
        let faults = document["chain"]["faults"].as_array().unwrap().iter();
        let codes = faults.map(|fault| format!("{} {}", fault["record"], fault["code"].as_str().unwrap())).collect();
        (text, codes)
    };
    let changes: [Change<'_>; 4] = [
        (&|store| store.remove(&key(2)), &["2 missing"]),
        (&|store| store.remove(&key(1)), &["1 missing"]),
        (&|store| store.write(&key(2), b"{}"), &["2 unreadable", "3 digest"]),
        (
            &|store| {
                let content = store.read(&key(2)).unwrap().content;
                let content =
                    String::from_utf8(content).unwrap().replace("\"verdict\": \"fail\"", "\"verdict\": \"pass\"");
                store.write(&key(2), content.as_bytes());
            },
            &["3 digest"],
        ),
    ];
    for (change, expected) in changes {
        let store = TestStore::directory();
        record_three(&store);
        change(&store);
        let (text, codes): (String, Vec<String>) = listed(&store, 1);
        assert_eq!(codes, expected);
        assert!(text.contains("is broken:\n"), "{text}");
        // Whatever is wrong, the next drill is recorded, and does not hide it.
        let mut next = unrecorded(Verdict::Pass, DrillLevel::Recovery);
        block_on(async { append(&archive_of(store.options()).await, &mut next).await.unwrap() });
        assert_eq!(next.sequence, Some(4));
        assert_eq!(listed(&store, 1).1, codes);
    }
    let store = TestStore::directory();
    record_three(&store);
    store.remove(&key(2));
    let csv = store.run(&["drill", "history", "-o", "csv"]).run().expect_code(1);
    assert!(csv.stderr.contains("record 2 is missing"), "{}", csv.stderr);
}

#[test]
fn since_leaves_out_drills_and_never_a_fault() {
    let store = TestStore::directory();
    let records = record_three(&store);
    let numbers = |since: &str, code: i32| -> Vec<u64> {
        let answer = store.run(&["drill", "history", "-o", "json", "--since", since]).run().expect_code(code);
        let document: Value = serde_json::from_str(&answer.stdout).unwrap();
        document["drills"].as_array().unwrap().iter().map(|drill| drill["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&records[1].ended.to_rfc3339(), 0), [2, 3]);
    assert_eq!(numbers("2026-11-26", 0), [3]);
    let age = (Utc::now() - records[0].ended).num_days().max(0) + 2;
    assert_eq!(numbers(&format!("{age}d"), 0), [1, 2, 3]);
    store.remove(&key(1));
    assert_eq!(numbers("2126-01-01", 1), [0_u64; 0]);
    store.run(&["drill", "history", "--since", "soon"]).run().expect_code(3);
}

#[test]
fn an_archive_without_drills_has_an_empty_history_and_an_empty_directory_none() {
    let store = TestStore::directory();
    store.write("main/base/20261123T083817/backup.info", b"status=FAILED\n");
    let answer = store.run(&["drill", "history"]).success().stdout;
    assert_eq!(answer, "No drills of server \"main\" are on record.\n");
    let csv = store.run(&["drill", "history", "-o", "csv"]).success().stdout;
    assert!(csv.starts_with("number,started,ended,level,verdict,") && csv.lines().count() == 1, "{csv}");
    let dir = TestDir::new();
    let url = dir.file_store("empty");
    barback(&["drill", "history", "--store", &url]).run().expect_code(2);
    store.run(&["list", "-o", "csv"]).run().expect_code(3);
}

#[test]
fn credentials_that_may_only_read_are_refused_and_the_record_is_as_it_was() {
    let store = TestStore::s3(S3Server::start());
    record_three(&store);
    store.server().refuse_all(403);
    let mut record = unrecorded(Verdict::Pass, DrillLevel::Recovery);
    let before = record.clone();
    let error = block_on(async { append(&archive_of(store.options()).await, &mut record).await.unwrap_err() });
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(record, before);
}

#[test]
fn status_tells_of_the_last_drill_and_of_the_last_that_passed() {
    let store = TestStore::directory();
    store.write("main/base/20261123T083817/backup.info", b"status=FAILED\n");
    let status = |words: &[&str]| store.run(&[&["status"], words].concat()).success().stdout;
    assert!(status(&[]).contains("last drill  never: nothing has proved yet"), "{}", status(&[]));
    assert!(status(&["--metrics"]).contains("barback_drill_last_passed_timestamp_seconds{server=\"main\"} 0\n"));
    let json: Value = serde_json::from_str(&status(&["-o", "json"])).unwrap();
    assert_eq!(json["drill"], Value::Null);

    let records = record_three(&store);
    let json: Value = serde_json::from_str(&status(&["-o", "json"])).unwrap();
    assert_eq!(json["drill"]["sequence"], 3);
    assert_eq!(json["drill"]["level"], 2);
    assert_eq!(json["drill"]["recovery_s"], 1546.44);
    assert_eq!(json["drill"]["last_passed"], barback::cli::zone::rfc3339(records[0].ended));
    let text = status(&[]);
    assert!(text.contains("last drill    pass (level 2), "), "{text}");
    assert!(text.contains("drill passed  "), "{text}");
    let metrics = status(&["--metrics"]);
    let passed =
        format!("barback_drill_last_passed_timestamp_seconds{{server=\"main\"}} {}\n", records[0].ended.timestamp());
    assert!(metrics.contains(&passed), "{metrics}");
    assert!(metrics.contains("barback_drill_last_verdict{server=\"main\",verdict=\"pass\"} 1\n"), "{metrics}");

    store.write(&key(4), b"no record");
    let text = status(&[]);
    assert!(text.contains("could not read the record of a drill"), "a status is not worse for it: {text}");
}
