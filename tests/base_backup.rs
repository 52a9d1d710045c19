//! A base backup of a running server is complete, consistent and laid out as documented, and so is its WAL.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper of tests fails the test that called it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::harness::{
    Cluster, ClusterOptions, Minio, PgVersion, Postgres, S3Server, StoreEnv, TestDir, barback, barback_binary,
    check_pgbench, for_each_version, id_of, on_disk, on_s3, restore_copy, running_cluster, start_copy, take_backup,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_backup_under_load_is_consistent_with_every_codec_and_number_of_jobs() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let s3 = S3Server::start();
        let env = on_s3(&s3);
        let cluster = running_cluster(&dir, version, ClusterOptions::default(), 1);
        let load = cluster.pgbench_run(&["-n", "-c", "2", "-T", "200"]).start();
        for (jobs, codec) in [("1", "none"), ("2", "gzip"), ("4", "lz4"), ("1", "zstd"), ("4", "snappy")] {
            let backup = take_backup(&cluster, &env, &["--jobs", jobs, "--compression", codec]);
            let name = format!("copy-{codec}");
            let mut copy = restore_copy(&dir, &name, version, &env, &["--backup", &id_of(&backup)]);
            start_copy(&mut copy);
            check_pgbench(&copy);
            copy.amcheck();
            copy.stop("immediate");
        }
        drop(load);
    });
}

#[test]
fn the_bucket_holds_what_the_index_says_under_the_names_that_barman_uses() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let s3 = S3Server::start();
        let env = on_s3(&s3);
        let cluster = running_cluster(&dir, version, ClusterOptions::default(), 1);
        let space = dir.create_dir("space");
        cluster.psql(&format!("CREATE TABLESPACE side LOCATION '{}'", space.display()));
        cluster.psql("CREATE TABLE in_side TABLESPACE side AS SELECT generate_series(1, 1000) AS n");
        let oid = cluster.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'side'");
        let backup = take_backup(&cluster, &env, &["--jobs", "3", "--name", "nightly"]);
        let base = format!("pfx/main/base/{}/", id_of(&backup));

        let names: BTreeSet<String> =
            s3.keys().iter().filter_map(|key| key.strip_prefix(&base)).map(str::to_owned).collect();
        for expected in [
            "backup.info",
            "barback.json",
            "barback-tables.json.zst",
            "backup_manifest.zst",
            "data.tar.zst",
            "data_0001.tar.zst",
        ] {
            assert!(names.contains(expected), "no {expected} among {names:?}");
        }
        assert!(names.contains(&format!("{oid}.tar.zst")), "no part of tablespace {oid} among {names:?}");

        check_index(&s3, &base, &names);
        check_backup_info(&s3, &base, version, &oid);

        let moved = dir.join("moved").display().to_string();
        let mut copy = restore_copy(&dir, "copy", version, &env, &["--tablespace", &format!("side={moved}")]);
        start_copy(&mut copy);
        assert_eq!(copy.psql("SELECT sum(n) FROM in_side"), "500500");
        assert_eq!(copy.psql(&format!("SELECT pg_tablespace_location({oid})")), moved);
    });
}

/// Every part and the manifest: the length and digest of the object, and nothing in the directory beside them.
fn check_index(s3: &S3Server, base: &str, names: &BTreeSet<String>) {
    let read = |name: &str| std::fs::read(s3.object(&format!("{base}{name}"))).unwrap();
    let index: Value = serde_json::from_slice(&read("barback.json")).unwrap();
    let mut listed: BTreeSet<String> =
        ["backup.info", "barback.json", "barback-tables.json.zst"].map(str::to_owned).into();
    let objects = index["parts"].as_array().unwrap().iter().chain([&index["manifest"]]);
    for object in objects {
        let name = object["name"].as_str().unwrap();
        let content = read(name);
        let digest = ring::digest::digest(&ring::digest::SHA256, &content);
        let hex = digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(object["bytes"], content.len(), "{name}");
        assert_eq!(object["sha256"], hex, "{name}");
        assert!(listed.insert(name.to_owned()), "{name} is listed twice");
    }
    assert_eq!(&listed, names);
}

/// The fields of Barman 3.19.1, in its order, with values it can read.
fn check_backup_info(s3: &S3Server, base: &str, version: &PgVersion, tablespace: &str) {
    let fixture = "fixtures/barman-3.19.1/bucket/pfx/main/base/20261123T083826/backup.info";
    let fixture = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).unwrap();
    let info = std::fs::read_to_string(s3.object(&format!("{base}backup.info"))).unwrap();
    let names = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_once('=').expect("a field").0.to_owned()).collect()
    };
    assert_eq!(names(&info), names(&fixture));
    let fields: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(fields["status"], "DONE");
    assert_eq!(fields["backup_name"], "nightly");
    assert_eq!(fields["server_name"], "cloud");
    assert_eq!(fields["error"], "None");
    assert_eq!(fields["timeline"], "1");
    assert_eq!(fields["xlog_segment_size"], "16777216");
    assert!(fields["version"].starts_with(&version.major.to_string()) && fields["version"].len() == 6);
    assert!(fields["backup_label"].starts_with("'START WAL LOCATION: ") && fields["backup_label"].ends_with("\\n'"));
    assert!(fields["tablespaces"].starts_with(&format!("[('side', {tablespace}, '/tmp/")));
    assert!(fields["begin_time"].ends_with("+00:00") && fields["end_time"].ends_with("+00:00"));
}

#[test]
fn an_idle_database_without_an_archiver_gives_a_restorable_backup() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let env = on_disk(&dir, "store");
        let cluster = running_cluster(&dir, version, ClusterOptions::default().set("archive_mode", "off"), 1);
        // Twice: the second finds the server just where the first left it.
        for name in ["copy-1", "copy-2"] {
            let backup = take_backup(&cluster, &env, &[]);
            assert_wal_is_there(&dir, &backup, 16 << 20);
            let mut copy = restore_copy(&dir, name, version, &env, &["--backup", &id_of(&backup)]);
            start_copy(&mut copy);
            assert_eq!(copy.psql("SELECT count(*) FROM pgbench_accounts"), "100000");
        }
        let slots = cluster.psql("SELECT count(*) FROM pg_replication_slots");
        assert_eq!(slots, "0", "the slot that held the WAL is gone");
    });
}

/// Every segment from the backup's begin to its end lies in the file store.
fn assert_wal_is_there(dir: &TestDir, backup: &Value, segment_bytes: u64) {
    let lsn = |name: &str| -> u64 {
        let (high, low) = backup[name].as_str().unwrap().split_once('/').unwrap();
        u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
    };
    let per_file = (1_u64 << 32) / segment_bytes;
    for number in lsn("begin_lsn") / segment_bytes..=(lsn("end_lsn") - 1) / segment_bytes {
        let segment = format!("00000001{:08X}{:08X}", number / per_file, number % per_file);
        let path = dir.join(format!("store/main/wals/{}/{segment}.zst", &segment[..16]));
        assert!(path.is_file(), "{} is not there", path.display());
    }
}

#[test]
fn checkpoints_during_a_backup_without_an_archiver_do_not_take_its_wal_away() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let options = ClusterOptions::default().wal_segment_mb(1).set("min_wal_size", "2MB").set("max_wal_size", "2MB");
    let cluster = running_cluster(&dir, &version, options, 2);
    // Uncompressed and throttled, the copy takes long enough for several checkpoints to pass.
    let slow = ["--compression", "none", "--max-rate", "16MiB", "--part-size", "5MiB"];
    let copying = crate::harness::backup_run(&cluster, &env, &slow).start();
    cluster.wait_until("SELECT count(*) FROM pg_replication_slots WHERE active", "1", PATIENCE);
    let first = cluster.psql("SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()");
    cluster.psql("CREATE TABLE filler (text text)");
    for _ in 0..4 {
        cluster.psql("INSERT INTO filler SELECT repeat(md5(n::text), 20) FROM generate_series(1, 4000) n");
        cluster.psql("CHECKPOINT");
    }
    assert_ne!(cluster.psql("SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()"), first);
    let finished = copying.wait().expect_code(0);
    let backup = serde_json::from_str::<Value>(&finished.stdout).unwrap()["backup"].clone();
    assert_wal_is_there(&dir, &backup, 1 << 20);
    let mut copy = restore_copy(&dir, "copy", &version, &env, &[]);
    start_copy(&mut copy);
    check_pgbench(&copy);
}

#[test]
fn a_broken_archiver_is_stood_in_for() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", "false");
    let cluster = running_cluster(&dir, &version, options, 1);
    let backup = take_backup(&cluster, &env, &[]);
    assert_wal_is_there(&dir, &backup, 16 << 20);
    start_copy(&mut restore_copy(&dir, "copy", &version, &env, &[]));
}

#[test]
fn a_working_archiver_is_left_to_its_work() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let s3 = S3Server::start();
        let env = on_s3(&s3);
        let cluster = running_cluster(&dir, version, archiving(&env), 1);
        take_backup(&cluster, &env, &[]);
        let is_wal = |seen: &&crate::harness::Seen| seen.method == "PUT" && seen.target.contains("/wals/");
        let mut puts: BTreeMap<String, usize> = BTreeMap::new();
        for seen in s3.requests().iter().filter(is_wal) {
            *puts.entry(seen.target.clone()).or_default() += 1;
        }
        assert!(!puts.is_empty(), "the archiver has archived nothing");
        assert!(puts.values().all(|times| *times == 1), "shipped by the backup too: {puts:?}");
        start_copy(&mut restore_copy(&dir, "copy", version, &env, &[]));
    });
}

#[test]
fn a_base_backup_and_its_restore_take_no_more_than_one_request_for_each_8_mib() {
    /// Requests that are made once, whatever the size: identity, claim, listings, manifest, index; and the last part of each
    /// worker's tar and its upload's begin and end.
    const ONCE: usize = 30;
    const MIB: usize = 1 << 20;
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 10);
    s3.forget_requests();
    let backup = take_backup(&cluster, &env, &["--compression", "none", "--jobs", "2"]);
    let stored = usize::try_from(backup["stored_bytes"].as_u64().unwrap()).unwrap();
    assert!(stored > 100 * MIB, "{stored} bytes are too few to tell");
    let allowed = stored / (8 * MIB) + ONCE;
    let made = |what: &str| {
        let seen = s3.requests();
        let list: Vec<_> = seen.iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
        assert!(seen.len() <= allowed, "{what}: {} requests for {stored} bytes:\n{}", seen.len(), list.join("\n"));
        assert!(seen.iter().all(|seen| seen.method != "HEAD"), "{what}:\n{}", list.join("\n"));
    };
    made("backup");
    s3.forget_requests();
    let mut copy = restore_copy(&dir, "copy", &version, &env, &[]);
    made("restore");
    start_copy(&mut copy);
    check_pgbench(&copy);
}

fn archiving(env: &StoreEnv) -> ClusterOptions {
    let command = format!("{} wal-archive %p", barback_binary().display());
    ClusterOptions::default().set("archive_mode", "on").set("archive_command", command).envs(env)
}

#[test]
fn a_standby_is_backed_up_whether_its_primary_is_idle_or_busy() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let s3 = S3Server::start();
        let env = on_s3(&s3);
        let primary = running_cluster(&dir, version, archiving(&env).name("primary"), 1);
        let mut standby = Cluster::standby_of(&primary, &dir, "standby");
        standby.start();
        for (name, busy) in [("idle", false), ("busy", true)] {
            let load = busy.then(|| primary.pgbench_run(&["-n", "-c", "2", "-T", "200"]).start());
            let backup = take_backup(&standby, &env, &["--name", name]);
            drop(load);
            let mut copy = restore_copy(&dir, name, version, &env, &["--backup", &id_of(&backup)]);
            start_copy(&mut copy);
            check_pgbench(&copy);
            copy.amcheck();
        }
    });
}

#[test]
fn an_idle_primary_without_an_archiver_lets_its_standby_s_backup_finish() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let primary = running_cluster(&dir, &version, ClusterOptions::default().name("primary"), 1);
    let mut standby = Cluster::standby_of(&primary, &dir, "standby");
    standby.start();
    let backup = take_backup(&standby, &env, &[]);
    assert_wal_is_there(&dir, &backup, 16 << 20);
    let mut copy = restore_copy(&dir, "copy", &version, &env, &[]);
    start_copy(&mut copy);
    check_pgbench(&copy);
}

#[test]
fn a_rate_limit_holds() {
    const RATE_MIB: f64 = 10.0;
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 1);
    let args = ["--compression", "none", "--max-rate", "10MiB", "--part-size", "5MiB", "--jobs", "2"];
    let backup = take_backup(&cluster, &env, &args);
    let stored_mib = backup["stored_bytes"].as_f64().unwrap() / f64::from(1 << 20);
    let seconds = backup["duration_s"].as_f64().unwrap();
    assert!(stored_mib > 30.0, "{stored_mib} MiB are too few to tell");
    assert!(stored_mib / seconds < 2.0 * RATE_MIB, "{stored_mib} MiB in {seconds} s");
    let begun = Instant::now();
    barback(&["restore", "--jobs", "8", "--max-rate", "10MiB"]).arg(dir.join("copy")).envs(&env).success();
    let seconds = begun.elapsed().as_secs_f64();
    assert!(stored_mib / seconds < 2.0 * RATE_MIB, "{stored_mib} MiB came in {seconds} s");
}

#[test]
fn two_backups_in_one_second_have_ids_of_their_own() {
    let Some(version) = Postgres::newest() else { return };
    // Not on s3s-fs, which looks for the object first and writes it later: two writers in one instant both succeed there.
    let minio = Minio::start();
    let dir = TestDir::new();
    let mut stores = vec![on_disk(&dir, "store")];
    stores.extend(minio.as_ref().map(|minio| {
        let mut env = minio.env();
        env.push(("BARBACK_STORE".into(), "s3://bkt/pfx".into()));
        env
    }));
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 0);
    for (number, env) in stores.iter().enumerate() {
        three_at_once(&dir, &cluster, env, &format!("store-{number}"));
    }
}

fn three_at_once(dir: &TestDir, cluster: &Cluster, env: &StoreEnv, name: &str) {
    let started: Vec<_> = (0..3).map(|_| crate::harness::backup_run(cluster, env, &[]).start()).collect();
    let ids: BTreeSet<String> = started
        .into_iter()
        .map(|running| {
            let stdout = running.wait().expect_code(0).stdout;
            id_of(&serde_json::from_str::<Value>(&stdout).unwrap()["backup"])
        })
        .collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(crate::harness::list_backups(env).len(), 3);
    for id in &ids {
        let args = ["--backup", id, "--target-immediate"];
        let copy = restore_copy(dir, &format!("{name}-{id}"), cluster.version(), env, &args);
        copy.verify_backup();
    }
}

#[test]
fn memory_does_not_grow_with_the_cluster() {
    const LIMIT_KIB: u64 = 200 << 10;
    const ALLOWED_KIB: u64 = 96 << 10;
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 20);
    let backup = crate::harness::backup_run(&cluster, &env, &["--jobs", "2", "--compression", "none"]).success();
    assert!(backup.peak_rss_kib < LIMIT_KIB, "the backup held {} KiB", backup.peak_rss_kib);
    let copy = dir.join("copy");
    let restore = barback(&["restore", "--jobs", "2"]).arg(&copy).envs(&env).success();
    assert!(restore.peak_rss_kib < LIMIT_KIB, "the restore held {} KiB", restore.peak_rss_kib);
    // However many jobs are asked for, an allowance is kept.
    let many = ["--jobs", "64", "--max-memory", "96MiB"];
    let backup = crate::harness::backup_run(&cluster, &env, &many).success();
    assert!(backup.peak_rss_kib < ALLOWED_KIB, "the backup held {} KiB", backup.peak_rss_kib);
    assert!(backup.stderr.contains("memory leaves room for"), "{}", backup.stderr);
    let restore = barback(&["restore"]).args(many).arg(dir.join("another")).envs(&env).success();
    assert!(restore.peak_rss_kib < ALLOWED_KIB, "the restore held {} KiB", restore.peak_rss_kib);
    let refused =
        crate::harness::backup_run(&cluster, &env, &["--compression", "xz", "--compression-level", "9"]).run();
    assert!(refused.expect_code(3).stderr.contains("of memory, more than the 256 MiB allowed"));
    eprintln!("peak memory: backup {} KiB, restore {} KiB", backup.peak_rss_kib, restore.peak_rss_kib);
    let uploads = crate::harness::files_named(&s3.root(), ".upload");
    assert!(uploads.is_empty(), "uploads left open: {uploads:?}");
}
