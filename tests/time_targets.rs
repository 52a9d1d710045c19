//! Recovery to a time stops only where a transaction ended later: what is archived of an idle database bounds the target.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use crate::harness::{Cluster, ClusterOptions, Postgres, S3Server, Site, for_each_version};
use serde_json::Value;

const MICROSECONDS: &str = "'YYYY-MM-DD HH24:MI:SS.US'";

fn now(cluster: &Cluster) -> String {
    cluster.psql(&format!("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', {MICROSECONDS}) || '+00'"))
}

/// Commits a row; the commit's time, and the microsecond before.
fn commit(cluster: &Cluster, n: u32) -> (String, String) {
    let xid = cluster.psql(&format!("INSERT INTO t VALUES ({n}) RETURNING pg_current_xact_id()"));
    let answer = cluster.psql(&format!(
        "SELECT to_char(at AT TIME ZONE 'UTC', {MICROSECONDS}) || '+00', \
         to_char((at - interval '1 microsecond') AT TIME ZONE 'UTC', {MICROSECONDS}) || '+00' \
         FROM pg_xact_commit_timestamp('{xid}'::xid) at"
    ));
    let (time, before) = answer.split_once('|').unwrap();
    (time.to_owned(), before.to_owned())
}

fn rows(cluster: &Cluster) -> String {
    cluster.psql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t")
}

fn restored_rows(site: &Site, name: &str, args: &[&str]) -> String {
    let args = [args, &["--target-action", "promote"]].concat();
    site.restore(name, if args.len() > 2 { &args } else { &[] }).promoted(rows)
}

#[test]
fn on_an_idle_database_a_time_after_the_last_commit_is_refused_before_anything_is_restored() {
    for_each_version(|version| {
        let site = Site::on_files(version);
        let mut primary = site.primary(ClusterOptions::default());
        primary.psql("CREATE TABLE t (n int)");
        site.backup(&primary);
        commit(&primary, 1);
        let (last, before_last) = commit(&primary, 2);
        let idle = now(&primary);
        // What an idle server still writes, and archives, is no transaction.
        primary.archive_everything();
        primary.psql("CHECKPOINT");
        primary.archive_everything();
        primary.stop("fast");

        for target in [idle.as_str(), last.as_str()] {
            let refused = site.restore_run("copy", &["--target-time", target]).run().expect_code(1);
            let trimmed = last.trim_end_matches("+00").trim_end_matches('0').trim_end_matches('.');
            for told in [
                format!("the last commit is of {trimmed}"),
                " (LSN 0/".to_owned(),
                "HINT: Leave out the target".to_owned(),
            ] {
                assert!(refused.stderr.contains(&told), "{told}: {}", refused.stderr);
            }
            assert!(refused.stdout.is_empty() && !site.dir.join("copy").exists());
        }
        assert_eq!(restored_rows(&site, "just-before", &["--target-time", &before_last]), "1");
        assert_eq!(restored_rows(&site, "exclusive", &["--target-time", &last, "--exclusive"]), "1");
        assert_eq!(restored_rows(&site, "as-advised", &[]), "1 2");
    });
}

#[test]
fn a_transaction_that_was_rolled_back_after_the_target_is_where_recovery_stops() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut primary = site.primary(ClusterOptions::default());
    primary.psql("CREATE TABLE t (n int)");
    site.backup(&primary);
    commit(&primary, 1);
    let target = now(&primary);
    primary.psql("BEGIN; INSERT INTO t VALUES (2); ROLLBACK");
    primary.archive_everything();
    primary.stop("fast");
    assert_eq!(restored_rows(&site, "copy", &["--target-time", &target]), "1");
}

#[test]
fn a_plan_for_a_time_shows_the_last_commit_and_reads_no_more_than_the_last_segment() {
    let Some(version) = Postgres::newest() else { return };
    let s3 = S3Server::start();
    let site = Site::on_s3(&version, &s3);
    let mut primary = site.primary(ClusterOptions::default());
    primary.psql("CREATE TABLE t (n int)");
    site.backup(&primary);
    let (target, _) = commit(&primary, 1);
    for n in 2..5 {
        primary.archive_everything();
        commit(&primary, n);
    }
    let (last, _) = commit(&primary, 5);
    let segment = primary.archive_everything();
    primary.stop("fast");

    let before = s3.requests().len();
    let plan = site.restore_run("copy", &["--plan", "--target-time", &target]).success().stdout;
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let expected = last.replace(' ', "T").replace("+00", "Z");
    let shown = plan["plan"]["window"]["last_commit_time"].as_str().unwrap();
    assert_eq!(shown.trim_end_matches('Z').trim_end_matches('0'), expected.trim_end_matches('Z').trim_end_matches('0'));
    assert!(plan["plan"]["window"]["last_commit_lsn"].is_string(), "{plan}");
    let read: Vec<String> = s3.requests()[before..]
        .iter()
        .filter(|seen| seen.method == "GET" && seen.target.contains("/wals/") && !seen.target.contains("list-type"))
        .map(|seen| seen.target.clone())
        .collect();
    assert!(!read.is_empty() && read.iter().all(|target| target.contains(&segment)), "{read:?}");

    let latest = site.restore_run("copy", &["--plan"]).success().stdout;
    let latest: Value = serde_json::from_str(&latest).unwrap();
    assert_eq!(latest["plan"]["window"]["last_commit_time"], Value::Null, "only a time needs it");
}

#[test]
fn a_last_segment_that_is_damaged_is_told_and_keeps_nobody_from_an_earlier_time() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut primary = site.primary(ClusterOptions::default());
    primary.psql("CREATE TABLE t (n int)");
    site.backup(&primary);
    let (first, _) = commit(&primary, 1);
    commit(&primary, 2);
    primary.archive_everything();
    commit(&primary, 3);
    let segment = primary.archive_everything();
    primary.stop("fast");
    let path = site.stored_file(&segment);
    let mut content = std::fs::read(&path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0x55;
    std::fs::write(&path, content).unwrap();
    let plan = site.restore_run("copy", &["--plan", "--target-time", &first]).success().stdout;
    assert!(plan.contains(&segment) && plan.contains("recovery fails if nothing was committed"), "{plan}");
    // PostgreSQL reads ahead and may meet the damage; whether it does is for it to say.
    assert!(site.restore("copy", &["--target-time", &first]).cluster.data().join("global/pg_control").is_file());
}
