//! An archive that goes away in the middle of recovery stops PostgreSQL; it never ends recovery with data missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, ClusterOptions, PgVersion, Postgres, S3Server, Site, for_each_version};

const PATIENCE: Duration = Duration::from_mins(1);

/// An archive with rows 1 to 4 in four segments, of which the backup needs only the first; those segments' names.
fn four_segments(site: &Site) -> Vec<String> {
    let mut primary = site.primary(ClusterOptions::default().wal_segment_mb(1));
    primary.psql("CREATE TABLE t AS SELECT 1 AS n");
    site.backup(&primary);
    let segments = (2..=4).map(|n| {
        primary.psql(&format!("INSERT INTO t VALUES ({n})"));
        primary.archive_everything()
    });
    let segments = segments.collect();
    primary.stop("fast");
    segments
}

fn expect_fatal_end(copy: &mut Cluster, restarted: usize) {
    copy.try_start();
    let started = Instant::now();
    while copy.is_running() {
        assert!(started.elapsed() < PATIENCE, "{}", copy.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = copy.log();
    assert_eq!(log.matches("FATAL:  could not restore file").count(), restarted, "{log}");
    assert!(log.contains("child process exited with exit code 255"), "{log}");
    assert!(!log.contains("selected new timeline"), "it was promoted: {log}");
    assert!(copy.data().join("recovery.signal").exists(), "the next start goes on with recovery");
}

fn expect_all_rows(copy: &mut Cluster) {
    copy.start();
    copy.wait_until("SELECT pg_is_in_recovery()", "f", PATIENCE);
    assert_eq!(copy.psql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t"), "1 2 3 4");
    copy.amcheck();
}

fn a_store_that_is_moved_away(version: &PgVersion) {
    let site = Site::on_files(version);
    let segments = four_segments(&site);
    let mut copy = site.restore("copy", &["--retry-timeout", "1"]).cluster;
    // The store goes at the moment the third segment is asked for: before it, barback's own command has served two.
    let automatic = std::fs::read_to_string(copy.data().join("postgresql.auto.conf")).unwrap();
    let written = automatic.lines().find_map(|line| line.strip_prefix("restore_command = '")).unwrap();
    let command = written.trim_end_matches('\'').replace("%f", "$1").replace("%p", "$2");
    let (store, away) = (site.dir.join("store"), site.dir.join("away"));
    let script = format!(
        "#!/bin/sh\n[ $1 = {} ] && [ ! -e {asked} ] && touch {asked} && mv {} {}\nexec {command}\n",
        segments[1],
        store.display(),
        away.display(),
        asked = site.dir.join("asked").display()
    );
    let script = site.dir.write("fetch.sh", script);
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let line = format!("restore_command = '{} %f %p'\n", script.display());
    site.dir.write("copy/postgresql.auto.conf", automatic + &line);

    expect_fatal_end(&mut copy, 1);
    let log = copy.log();
    assert!(away.exists() && !store.exists(), "recovery never came to the third segment: {log}");
    assert!(log.contains(&format!("restored log file \"{}\"", segments[0])), "it was not the middle: {log}");
    // As long as it is away, recovery does not start again either.
    expect_fatal_end(&mut copy, 2);
    std::fs::rename(&away, &store).unwrap();
    expect_all_rows(&mut copy);
}

#[test]
fn a_store_moved_away_in_the_middle_of_recovery_stops_it_and_its_return_completes_it() {
    for_each_version(a_store_that_is_moved_away);
}

#[test]
fn an_s3_service_that_fails_stops_recovery_and_its_return_completes_it() {
    let Some(version) = Postgres::newest() else { return };
    let server = S3Server::start();
    let site = Site::on_s3(&version, &server);
    let segments = four_segments(&site);
    let mut copy = site.restore("copy", &["--retry-timeout", "1"]).cluster;
    let asked = segments[1].clone();
    let mut down = false;
    server.fault_when(move |seen| {
        down |= seen.target.contains(&asked);
        down.then_some(crate::harness::Fault::Status(503))
    });
    expect_fatal_end(&mut copy, 1);
    server.heal();
    expect_all_rows(&mut copy);
}

#[test]
fn credentials_that_are_refused_stop_recovery() {
    let Some(version) = Postgres::newest() else { return };
    let server = S3Server::start();
    let site = Site::on_s3(&version, &server);
    four_segments(&site);
    let copy = site.restore("copy", &["--retry-timeout", "1"]).cluster;
    let mut copy = copy.envs(&[("AWS_SECRET_ACCESS_KEY".to_owned(), "wrongsecret".to_owned())]);
    expect_fatal_end(&mut copy, 1);
}
