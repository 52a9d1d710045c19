//! Faults that were found by reading: what once told a lie or lost data, each with the shortest way to it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper of tests fails the test that called it")]

use std::time::Duration;

use crate::harness::{
    Cluster, ClusterOptions, Fault, Postgres, S3Server, TestDir, backup_run, barback, list_backups, on_disk, on_s3,
    restore_copy, running_cluster, start_copy, take_backup,
};
use rustix::process::{Pid, Signal, kill_process};

/// How long a test waits for something to happen in another process.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_tablespace_made_while_the_backup_waits_for_its_checkpoint_is_in_the_backup() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let cluster = running_cluster(&dir, &version, ClusterOptions::default().wal_segment_mb(1), 0);
    let location = dir.create_dir("ts");
    let checkpointer = cluster.psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
    let checkpointer = Pid::from_raw(checkpointer.parse().unwrap()).unwrap();

    kill_process(checkpointer, Signal::STOP).unwrap();
    let backup = backup_run(&cluster, &env, &[]).start();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backup_start%' AND state = 'active' \
        AND pid <> pg_backend_pid()";
    cluster.wait_until(waiting, "1", PATIENCE);
    cluster.psql(&format!("CREATE TABLESPACE late LOCATION '{}'", location.display()));
    cluster.psql("CREATE TABLE kept TABLESPACE late AS SELECT 42 AS n");
    kill_process(checkpointer, Signal::CONT).unwrap();
    backup.wait().expect_code(0);

    let elsewhere = format!("late={}", dir.join("ts-copy").display());
    let mut copy = restore_copy(&dir, "copy", &version, &env, &["--tablespace", &elsewhere]);
    start_copy(&mut copy);
    assert_eq!(copy.psql("SELECT n FROM kept"), "42");
}

#[test]
fn a_tablespace_that_is_not_mounted_here_stops_the_backup_before_it_begins() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let cluster = running_cluster(&dir, &version, ClusterOptions::default().wal_segment_mb(1), 0);
    let location = dir.create_dir("ts");
    cluster.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", location.display()));
    // As in a container that has the data directory and not the tablespace: an empty mount point.
    std::fs::rename(&location, dir.join("ts-away")).unwrap();
    dir.create_dir("ts");
    let refused = backup_run(&cluster, &env, &[]).run().expect_code(4);
    assert!(refused.stderr.contains("could not find tablespace \"far\""), "{}", refused.stderr);
    assert!(list_backups(&env).is_empty());
    std::fs::remove_dir(&location).unwrap();
    std::fs::rename(dir.join("ts-away"), &location).unwrap();
    take_backup(&cluster, &env, &[]);
}

#[test]
fn a_backup_whose_wal_name_another_cluster_took_is_not_done() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let other = ClusterOptions::default().name("other");
    let other = running_cluster(&dir, &version, other, 0);
    let mut last = String::new();
    for _ in 0..6 {
        other.psql("SELECT pg_create_restore_point('x')");
        last = other.psql("SELECT pg_walfile_name(pg_switch_wal())");
        barback(&["wal-archive"]).arg(other.data().join("pg_wal").join(&last)).envs(&env).success();
    }
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 0);
    assert!(cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())") < last, "the names must overlap");
    let refused = backup_run(&cluster, &env, &[]).run().expect_code(4);
    assert!(refused.stderr.contains("belongs to the cluster with system identifier"), "{}", refused.stderr);
    assert!(list_backups(&env).is_empty(), "nothing is begun in another cluster's archive");

    // As where two clusters began in the same moment on a server that ignores create-only writes.
    let identity = dir.join("store/main/barback/identity.json");
    let identifier = |cluster: &Cluster| cluster.psql("SELECT system_identifier FROM pg_control_system()");
    let recorded = std::fs::read_to_string(&identity).unwrap();
    assert!(recorded.contains(&identifier(&other)), "{recorded}");
    std::fs::write(&identity, recorded.replace(&identifier(&other), &identifier(&cluster))).unwrap();
    let refused = backup_run(&cluster, &env, &[]).run().expect_code(4);
    assert!(refused.stderr.contains("it is of cluster"), "{}", refused.stderr);
    assert_eq!(list_backups(&env)[0]["status"], "FAILED");
}

#[test]
fn a_store_that_is_busy_has_stored_nothing_and_is_asked_again() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default().wal_segment_mb(1), 0);
    // S3's OperationAborted is a 409. The first write of backup.info says STARTED, the second DONE.
    let busy_writes = |s3: &S3Server, mut busy: usize| {
        let mut writes = 0;
        s3.fault_when(move |seen| {
            writes += usize::from(seen.method == "PUT" && seen.target.contains("backup.info"));
            let fails = writes > 1 && busy > 0 && seen.method == "PUT";
            busy -= usize::from(fails);
            fails.then_some(Fault::Status(409))
        });
    };
    busy_writes(&s3, 2);
    take_backup(&cluster, &env, &[]);
    assert_eq!(list_backups(&env)[0]["status"], "DONE");

    busy_writes(&s3, usize::MAX);
    let failed = backup_run(&cluster, &env, &["--retry-timeout", "1"]).run().expect_code(2);
    assert!(failed.stderr.contains("409"), "{}", failed.stderr);
    s3.heal();
    assert_eq!(list_backups(&env).iter().filter(|backup| backup["status"] == "DONE").count(), 1);
}

#[test]
fn what_root_restores_belongs_to_the_clusters_own_user() {
    let (Some(version), true) = (Postgres::newest(), rustix::process::geteuid().is_root()) else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let cluster = running_cluster(&dir, &version, ClusterOptions::default().wal_segment_mb(1), 0);
    let location = dir.create_dir("ts");
    cluster.psql(&format!("CREATE TABLESPACE far LOCATION '{}'", location.display()));
    cluster.psql("CREATE TABLE kept TABLESPACE far AS SELECT 42 AS n");
    take_backup(&cluster, &env, &[]);

    // Not through the harness, which never runs anything as root.
    let mut restore = std::process::Command::new(crate::harness::barback_binary());
    restore.args(["restore", "--tablespace"]).arg(format!("far={}", dir.join("ts-copy").display()));
    let outcome = restore.arg(dir.join("copy")).envs(env.iter().cloned()).output().unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    let mut copy = Cluster::open(&dir, &dir.join("copy"), &version).envs(&env);
    start_copy(&mut copy);
    assert_eq!(copy.psql("SELECT n FROM kept"), "42");
}

#[test]
fn a_lost_answer_to_the_first_record_leaves_no_second_backup_behind() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default().wal_segment_mb(1), 0);
    let mut lost = false;
    s3.fault_when(move |seen| {
        let loses = !lost && seen.method == "PUT" && seen.target.contains("backup.info");
        lost |= loses;
        loses.then_some(Fault::LoseAnswer)
    });
    take_backup(&cluster, &env, &[]);
    let statuses: Vec<_> = list_backups(&env).iter().map(|backup| backup["status"].clone()).collect();
    assert_eq!(statuses, ["DONE"]);
}

/// Seen under another user's `HOME`: no backup was taken, though no password was needed.
#[test]
fn a_password_file_that_cannot_be_read_is_passed_over() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let mut env = on_disk(&dir, "store");
    let passfile = dir.write("pgpass", "*:*:*:*:secret\n");
    std::fs::set_permissions(&passfile, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    env.push(("PGPASSFILE".into(), passfile.display().to_string()));
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 0);
    let finished = backup_run(&cluster, &env, &[]).success();
    assert!(finished.stderr.contains("cannot be read"), "{}", finished.stderr);
}
