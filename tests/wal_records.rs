//! Records of real WAL are read as PostgreSQL's own `pg_waldump` reads them, across switches, crashes and promotions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::Path;

use crate::harness::{Cluster, ClusterOptions, PgVersion, TestDir, for_each_version, running_cluster, skip};
use barback::domain::segment::{SegmentName, SegmentSize};
use barback::wal::records::{RecordReader, SegmentFindings};

/// Keeps every segment, small ones, in `archive`.
fn archiving(archive: &Path) -> ClusterOptions {
    ClusterOptions::default()
        .wal_segment_mb(1)
        .set("archive_mode", "on")
        .set("archive_command", format!("cp %p '{}/%f'", archive.display()))
        .set("autovacuum", "off")
}

/// Every segment of the archive in the order of its path: of those with one number the newest timeline's.
fn path_through(archive: &Path) -> Vec<SegmentName> {
    let names = std::fs::read_dir(archive)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().and_then(|name| name.parse::<SegmentName>().ok()));
    let mut names: Vec<SegmentName> = names.collect();
    names.sort_by_key(|name| (name.log, name.segment, name.timeline));
    let newest =
        |at: usize| names.get(at + 1).is_none_or(|next| (next.log, next.segment) != (names[at].log, names[at].segment));
    (0..names.len()).filter(|at| newest(*at)).map(|at| names[at]).collect()
}

fn read(archive: &Path, names: &[SegmentName]) -> Vec<SegmentFindings> {
    let mut reader = RecordReader::new(SegmentSize::new(1 << 20).unwrap());
    names
        .iter()
        .map(|name| reader.segment(*name, &std::fs::read(archive.join(name.to_string())).unwrap()).unwrap())
        .collect()
}

/// Records and commits, with the last commit's time, as `pg_waldump` prints them.
fn waldump(version: &PgVersion, archive: &Path, names: &[SegmentName]) -> Option<(u64, String)> {
    let own = version.bindir.join("pg_waldump");
    if !own.is_file() {
        skip(&format!("pg_waldump on PostgreSQL {}", version.major), "its package has none");
        return None;
    }
    let (first, last) = (names.first()?.to_string(), names.last()?.to_string());
    let dumped = version.run("pg_waldump").env("TZ", "UTC").arg("-p").arg(archive).args([first, last]).run();
    let records = dumped.stdout.lines().filter(|line| line.starts_with("rmgr: ")).count() as u64;
    let commit = dumped.stdout.lines().rfind(|line| line.contains("desc: COMMIT ")).unwrap();
    let time = commit.split_once("desc: COMMIT ").unwrap().1.split(" UTC").next().unwrap();
    Some((records, time.to_owned()))
}

/// Our account of `names` is that of `pg_waldump`.
fn expect_same(version: &PgVersion, archive: &Path, names: &[SegmentName]) {
    let findings = read(archive, names);
    let Some((records, last)) = waldump(version, archive, names) else { return };
    assert_eq!(findings.iter().map(|found| found.records).sum::<u64>(), records);
    let ours = findings.iter().filter_map(|found| found.last_commit).next_back().unwrap();
    assert_eq!(ours.format("%Y-%m-%d %H:%M:%S%.6f").to_string(), last);
}

#[test]
fn every_record_and_commit_of_a_busy_server_is_read_across_crashes_and_switches() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let archive = dir.create_dir("archive");
        let mut cluster = running_cluster(&dir, version, archiving(&archive), 1);
        cluster.pgbench(&["-n", "-c", "4", "-t", "300"]);
        cluster.stop("immediate");
        cluster.start();
        cluster.psql("CREATE TABLE wide AS SELECT repeat(md5(n::text), 200) AS text FROM generate_series(1, 3000) n");
        cluster.psql("BEGIN; INSERT INTO wide VALUES ('never'); ROLLBACK");
        cluster.psql("SELECT pg_logical_emit_message(true, 'prefix', repeat('long', 700000))");
        cluster.archive_everything();
        cluster.pgbench(&["-n", "-c", "2", "-t", "100"]);
        cluster.archive_everything();
        let names = path_through(&archive);
        assert!(names.len() > 8, "{names:?}");
        expect_same(version, &archive, &names);
        // From anywhere.
        let middle = &names[names.len() / 2..];
        assert!(read(&archive, middle).iter().map(|found| found.records).sum::<u64>() > 0);
    });
}

#[test]
fn the_path_through_a_promotion_is_read_to_its_end() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let archive = dir.create_dir("archive");
        let primary = running_cluster(&dir, version, archiving(&archive).name("primary"), 1);
        let mut standby = Cluster::standby_of(&primary, &dir, "standby");
        standby.start();
        primary.pgbench(&["-n", "-c", "2", "-t", "200"]);
        let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        standby.wait_until(&replayed, "t", std::time::Duration::from_mins(1));
        standby.promote();
        standby.wait_until("SELECT pg_is_in_recovery()", "f", std::time::Duration::from_mins(1));
        standby.pgbench(&["-n", "-c", "2", "-t", "200"]);
        standby.archive_everything();
        let names = path_through(&archive);
        assert!(names.iter().any(|name| name.timeline.number() == 1) && names.last().unwrap().timeline.number() == 2);
        let findings = read(&archive, &names);
        assert!(findings.iter().all(|found| found.records > 0));
        assert!(findings.iter().filter_map(|found| found.last_commit).is_sorted());
    });
}

/// As PostgreSQL's own test of it does: the end of a long record is lost in a crash, and the server goes on behind it.
#[test]
fn a_record_whose_end_was_lost_in_a_crash_is_given_up_as_the_server_gave_it_up() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let archive = dir.create_dir("archive");
        let mut cluster = running_cluster(&dir, version, archiving(&archive), 1);
        cluster.archive_everything();
        cluster.psql("SELECT pg_logical_emit_message(false, '', repeat('x', 1500000))");
        cluster.psql("CREATE TABLE written_out (n int)");
        let last = cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
        cluster.stop("immediate");
        std::fs::remove_file(cluster.data().join("pg_wal").join(&last)).unwrap();
        cluster.start();
        cluster.psql("CREATE TABLE after_the_crash (n int)");
        cluster.archive_everything();
        let first_page = std::fs::read(archive.join(&last)).unwrap();
        assert_eq!(first_page[2] & 0x08, 0x08, "the page says so");
        expect_same(version, &archive, &path_through(&archive));
    });
}
