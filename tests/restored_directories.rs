//! What stands in a restored directory: tablespaces where they were asked to be, and nothing of an earlier recovery.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use crate::harness::{Cluster, ClusterOptions, PgVersion, Run, Site, for_each_version, snapshot};

/// Creates tablespaces `one` and `two`, the second's name and directory in need of quotes, with a table and an index in each.
fn with_tablespaces(site: &Site, primary: &Cluster) -> [String; 2] {
    let dirs = ["ts1", "two = 2%"].map(|name| site.dir.create_dir(name).display().to_string());
    primary.psql(&format!("CREATE TABLESPACE one LOCATION '{}'", dirs[0]));
    primary.psql(&format!("CREATE TABLESPACE \"t w.o\" LOCATION '{}'", dirs[1]));
    primary.psql("CREATE TABLE a TABLESPACE one AS SELECT generate_series(1, 2000) AS n");
    primary.psql("CREATE TABLE b TABLESPACE \"t w.o\" AS SELECT generate_series(1, 3000) AS n");
    primary.psql("CREATE INDEX ON a (n) TABLESPACE \"t w.o\"");
    dirs
}

fn locations(cluster: &Cluster) -> String {
    cluster.psql(
        "SELECT string_agg(pg_tablespace_location(oid), ' ' ORDER BY spcname) FROM pg_tablespace WHERE oid > 16000",
    )
}

fn check_rows(cluster: &Cluster) {
    assert_eq!(cluster.psql("SELECT (SELECT sum(n) FROM a), (SELECT sum(n) FROM b)"), "2001000|4501501");
}

fn tablespaces_go_where_they_are_sent_or_where_they_were(version: &PgVersion) {
    let site = Site::on_files(version);
    let mut primary = site.primary(ClusterOptions::default());
    let [one, two] = with_tablespaces(&site, &primary);
    site.backup(&primary);
    primary.psql("INSERT INTO b VALUES (1)");
    primary.archive_everything();
    primary.stop("fast");
    let places = || [one.as_str(), two.as_str()].map(|place| snapshot(place.as_ref()));
    let before = places();

    let refused = site.restore_run("copy", &[]).run().expect_code(4);
    assert!(
        refused.stderr.contains("directory of tablespace \"one\"") && refused.stderr.contains("--tablespace one=DIR")
    );
    assert!(!site.dir.join("copy").exists());
    let (new_one, new_two) = (site.dir.join("new1"), site.dir.join("new 2"));
    let mapped = [format!("one={}", new_one.display()), format!("t w.o={}", new_two.display())];
    // The name ends at the first equals sign; one with such a sign in it is said by its directory's side.
    let refused = site.restore_run("copy", &["--tablespace", &mapped[0], "--tablespace", &mapped[1]]).run();
    assert_eq!(refused.code(), 0, "{}", refused.stderr);
    let mut copy = site.open("copy");
    copy.verify_backup();
    copy.start();
    copy.wait_until("SELECT pg_is_in_recovery()", "f", std::time::Duration::from_mins(1));
    check_rows(&copy);
    copy.amcheck();
    assert_eq!(locations(&copy), format!("{} {}", new_one.display(), new_two.display()));
    copy.psql("INSERT INTO a VALUES (2); DELETE FROM b");
    copy.stop("fast");
    assert!(places() == before, "the source's tablespaces were touched");

    // In place, once the source has gone.
    let gone = site.dir.create_dir("gone");
    for (place, name) in [(&one, "ts1"), (&two, "ts2")] {
        std::fs::rename(place, gone.join(name)).unwrap();
    }
    site.restore("in-place", &[]).promoted(|copy| {
        check_rows(copy);
        assert_eq!(locations(copy), format!("{one} {two}"));
    });
}

#[test]
fn tablespaces_go_where_they_are_sent_or_where_they_were_and_the_source_is_left_alone() {
    for_each_version(tablespaces_go_where_they_are_sent_or_where_they_were);
}

/// A copy that was restored, promoted and then given settings an administrator's recovery may have left behind.
fn restored_before(site: &Site) -> Cluster {
    let mut primary = site.primary(ClusterOptions::default());
    primary.psql("CREATE TABLE t AS SELECT 1 AS n");
    site.backup(&primary);
    primary.archive_everything();
    primary.stop("fast");
    let mut copy = site.restore("once", &[]).cluster;
    copy.start();
    copy.wait_until("SELECT pg_is_in_recovery()", "f", std::time::Duration::from_mins(1));
    copy.stop("fast");
    copy
}

fn earlier_recovery_settings_are_not_repeated(version: &PgVersion) {
    let site = Site::on_files(version);
    let mut source = restored_before(&site);
    let touch = |name: &str| format!("touch {}", site.dir.join(name).display());
    // The newest way and the oldest: a file of its own, and lines at the end of postgresql.conf.
    site.dir
        .write("once/extra.conf", "recovery_target_time = '2020-01-01 00:00:00+00'\nrecovery_min_apply_delay = '1h'\n");
    source.append_settings(&[
        ("include_if_exists".into(), "extra.conf".into()),
        ("recovery_target_timeline".into(), "1".into()),
        ("recovery_target_action".into(), "shutdown".into()),
        ("recovery_target_inclusive".into(), "off".into()),
        ("restore_command".into(), touch("old-restore-command-ran")),
        ("archive_cleanup_command".into(), touch("cleanup-ran")),
        ("recovery_end_command".into(), touch("end-command-ran")),
    ]);
    let automatic = std::fs::read_to_string(source.data().join("postgresql.auto.conf")).unwrap();
    assert!(automatic.contains("restore_command") && automatic.contains("recovery_target_timeline"), "{automatic}");
    source.start();
    source.psql("INSERT INTO t VALUES (2)");
    let connect = source.connect_string();
    site.barback(&["--server", "second", "backup", "--fast", "-d", &connect]).success();
    source.psql("INSERT INTO t VALUES (3)");
    let (segment, lsn) =
        (source.psql("SELECT pg_walfile_name(pg_current_wal_lsn())"), source.psql("SELECT pg_current_wal_lsn()"));
    source.psql("INSERT INTO t VALUES (4); SELECT pg_switch_wal()");
    let segment = source.data().join("pg_wal").join(segment);
    site.barback(&["--server", "second", "wal-archive"]).arg(segment).success();
    source.stop("fast");

    let target = ["--target-lsn", &lsn, "--target-action", "promote"];
    let finished = site.barback(&["--server", "second", "restore"]).arg(site.dir.join("twice")).args(target).success();
    assert!(finished.stderr.contains("archive_cleanup_command"), "{}", finished.stderr);
    let mut copy = site.open("twice");
    // postgresql.conf is not what it was: its old recovery settings are comments now, and nothing else may differ.
    let verify = version.run("pg_verifybackup").args(["-n", "-e", "-i", "postgresql.conf"]);
    Run::success(verify.arg(copy.data()));
    copy.start();
    copy.wait_until("SELECT pg_is_in_recovery()", "f", std::time::Duration::from_mins(1));
    copy.amcheck();
    assert_eq!(copy.psql("SELECT string_agg(n::text, ' ') FROM t"), "1 2 3");
    for name in ["restore_command", "recovery_target_timeline", "recovery_target_time", "archive_mode"] {
        let text = std::fs::read_to_string(copy.data().join("postgresql.auto.conf")).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with(&format!("{name} "))).count(), 1, "{text}");
    }
    copy.psql("CHECKPOINT");
    for ran in ["old-restore-command-ran", "cleanup-ran", "end-command-ran"] {
        assert!(!site.dir.join(ran).exists(), "the copy did what an earlier recovery was told: {ran}");
    }
    let leftovers = ["recovery.signal", "standby.signal", "backup_label", "tablespace_map"];
    assert!(leftovers.iter().all(|name| !copy.data().join(name).exists()), "recovery is over");
}

#[test]
fn a_cluster_that_was_restored_before_is_backed_up_and_restored_without_its_old_recovery_settings() {
    for_each_version(earlier_recovery_settings_are_not_repeated);
}
