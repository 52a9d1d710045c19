//! Damaged pages: told from sound ones as PostgreSQL tells them, and found by a backup without false alarms.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::harness::{
    Cluster, ClusterOptions, Finished, PgVersion, Postgres, S3Server, StoreEnv, TestDir, backup_run, barback,
    check_pgbench, files_below, for_each_version, id_of, list_backups, on_disk, on_s3, restore_copy, running_cluster,
    start_copy, take_backup,
};
use barback::codec::page_checksum::PageChecker;
use barback::postgres::pg_control;
use barback::postgres::relation_file::relation_blocks;
use serde_json::{Value, json};

const PAGE: u64 = 8192;
const SEGMENT: u64 = 16 << 20;

/// A running cluster in which no background work reads or writes tables.
fn quiet_cluster(dir: &TestDir, version: &PgVersion, options: ClusterOptions, scale: u32) -> Cluster {
    running_cluster(dir, version, options.set("autovacuum", "off"), scale)
}

/// Path of `relation` in the data directory.
fn file_of(cluster: &Cluster, relation: &str) -> String {
    cluster.psql(&format!("SELECT pg_relation_filepath('{relation}')"))
}

/// Changes files of a cluster that does not run meanwhile, so that no page of them is cached.
fn while_stopped(cluster: &mut Cluster, change: impl FnOnce(&Path)) {
    cluster.stop("fast");
    change(cluster.data());
    cluster.start();
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn summary(json: &Finished) -> Value {
    serde_json::from_str::<Value>(&json.stdout).unwrap()["backup"].clone()
}

/// Pages and damaged pages of every relation file of a stopped cluster, as we see them.
fn check_all(data: &Path) -> (u64, u64) {
    let control = pg_control::read_consistent(&data.join("global/pg_control")).unwrap();
    let mut sums = (0, 0);
    for path in files_below(data) {
        let Some(first) = relation_blocks(path.strip_prefix(data).unwrap(), control.blocks_per_segment) else {
            continue;
        };
        let mut checker = PageChecker::new(control.block_bytes as usize, first, None);
        checker.update(&std::fs::read(&path).unwrap());
        let found = checker.finish();
        sums = (sums.0 + found.pages, sums.1 + found.damaged);
    }
    sums
}

/// The same as `pg_checksums` sees them.
fn pg_checksums(cluster: &Cluster) -> (u64, u64) {
    let said = cluster.version().run("pg_checksums").args(["--check", "-D"]).arg(cluster.data()).run().stdout;
    let number = |title: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(title)).unwrap_or_else(|| panic!("{said}"));
        line.trim().parse().unwrap()
    };
    (number("Blocks scanned:"), number("Bad checksums:"))
}

#[test]
fn every_page_of_a_real_cluster_is_judged_as_pg_checksums_judges_it() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let mut cluster = quiet_cluster(&dir, version, ClusterOptions::default(), 2);
        cluster.psql("CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000) n");
        cluster.psql("VACUUM");
        let table = file_of(&cluster, "pgbench_accounts");
        cluster.stop("fast");
        let sound = check_all(cluster.data());
        assert!(sound.0 > 5000, "{sound:?}");
        assert_eq!((sound, 0), (pg_checksums(&cluster), 0));
        for block in [0, 3, 1000] {
            overwrite(&cluster.data().join(&table), block * PAGE + 5000, b"damage");
        }
        assert_eq!(check_all(cluster.data()), (sound.0, 3));
        assert_eq!(pg_checksums(&cluster), (sound.0, 3));
        cluster.start();
    });
}

/// Damages blocks 7 and 9 of a table, block 2 of a table in a tablespace and block 0 of a free space map.
fn damage(cluster: &mut Cluster, space: &Path) -> Vec<Value> {
    cluster.psql(&format!("CREATE TABLESPACE side LOCATION '{}'", space.display()));
    cluster.psql("CREATE TABLE in_side TABLESPACE side AS SELECT repeat('x', 500) FROM generate_series(1, 1000)");
    cluster.psql("VACUUM");
    let files = ["pgbench_accounts", "in_side", "pgbench_tellers"].map(|table| file_of(cluster, table));
    let [accounts, side, tellers] = &files;
    let map = format!("{tellers}_fsm");
    while_stopped(cluster, |data| {
        // One keeps its header, and with it its age; nothing of the other is left.
        overwrite(&data.join(accounts), 7 * PAGE + 100, b"damage");
        overwrite(&data.join(accounts), 9 * PAGE, &[0xFF; 8192]);
        overwrite(&data.join(side), 2 * PAGE + 8000, b"damage");
        overwrite(&data.join(&map), PAGE - 100, b"damage");
    });
    let file = |path: &str, blocks: &[u32]| json!({ "path": path, "blocks": blocks, "count": blocks.len() });
    let mut expected = vec![file(accounts, &[7, 9]), file(side, &[2]), file(&map, &[0])];
    expected.sort_by_key(|file| file["path"].as_str().unwrap().to_owned());
    expected
}

#[test]
fn damaged_pages_are_named_and_the_backup_is_kept_and_marked() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let s3 = S3Server::start();
        let env = on_s3(&s3);
        let mut cluster = quiet_cluster(&dir, version, ClusterOptions::default(), 1);
        let expected = damage(&mut cluster, &dir.create_dir("space"));

        let failed = backup_run(&cluster, &env, &["--jobs", "2"]).run().expect_code(4);
        let backup = summary(&failed);
        assert_eq!(backup["damaged"], json!(expected));
        let id = id_of(&backup);
        let accounts = file_of(&cluster, "pgbench_accounts");
        for told in [
            format!("damaged page(s) in \"{accounts}\": blocks 7, 9"),
            format!("backup \"{id}\" is complete and kept, but 4 page(s) of the cluster are damaged: "),
            "HINT: Find out what is damaged (SELECT pg_filenode_relation(".to_owned(),
        ] {
            assert!(failed.stderr.contains(&told), "{told}: {}", failed.stderr);
        }

        let read = |name: &str| std::fs::read_to_string(s3.object(&format!("pfx/main/base/{id}/{name}"))).unwrap();
        let index: Value = serde_json::from_str(&read("barback.json")).unwrap();
        assert_eq!((&index["damaged"], &index["block_bytes"]), (&json!(expected), &json!(8192)));
        let info = read("backup.info");
        assert!(info.starts_with("# barback: damaged pages in \"") && info.contains("\nstatus=DONE\n"), "{info}");
        let listed = &list_backups(&env)[0];
        assert_eq!((&listed["status"], &listed["restorable"]), (&json!("DONE"), &json!(true)));
        assert!(
            listed["damaged_pages"].as_str().unwrap().contains(&format!("\"{accounts}\": blocks 7, 9")),
            "{listed}"
        );
        let shown = barback(&["list"]).envs(&env).success().stdout;
        assert!(shown.contains("DONE, damaged pages"), "{shown}");

        let moved = dir.join("moved").display().to_string();
        let mut copy = restore_copy(&dir, "copy", version, &env, &["--tablespace", &format!("side={moved}")]);
        start_copy(&mut copy);
        assert_eq!(copy.psql("SELECT count(*) FROM pgbench_branches"), "1");
        assert!(copy.try_psql("SELECT sum(abalance) FROM pgbench_accounts").unwrap_err().contains("invalid page"));
    });
}

#[test]
fn a_script_gets_the_id_of_a_backup_of_damaged_pages_and_a_code_that_stops_it() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let mut cluster = quiet_cluster(&dir, &version, ClusterOptions::default(), 1);
    damage(&mut cluster, &dir.create_dir("space"));
    let args = ["backup", "--fast", "-q", "-d", &cluster.connect_string()];
    let failed = barback(&args).envs(&env).run().expect_code(4);
    assert_eq!(failed.stdout.trim(), list_backups(&env)[0]["id"].as_str().unwrap());
}

#[test]
fn the_barman_face_says_it_in_its_log_and_ends_as_barman_does() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let mut cluster = quiet_cluster(&dir, &version, ClusterOptions::default(), 1);
    damage(&mut cluster, &dir.create_dir("space"));
    let connect = cluster.connect_string();
    let args = ["barman-cloud-backup", "--immediate-checkpoint", "-d", &connect, "s3://bkt/pfx", "main"];
    let finished = barback(&args).envs(&s3.env()).run().expect_code(0);
    assert_eq!(finished.stdout, "");
    let line = finished.stderr.lines().find(|line| line.contains("ERROR: ")).unwrap_or_default();
    assert!(line.contains("4 page(s) of the cluster are damaged"), "{}", finished.stderr);
}

#[test]
fn a_busy_cluster_raises_no_false_alarm() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let env = on_disk(&dir, "store");
        // Buffers so few that pages are written all the time.
        let options = ClusterOptions::default().set("shared_buffers", "2MB").set("autovacuum_naptime", "1s");
        let cluster = running_cluster(&dir, version, options, 8);
        let load = cluster.pgbench_run(&["-n", "-c", "4", "-T", "300"]).start();
        for codec in ["none", "lz4", "none", "lz4"] {
            let backup = take_backup(&cluster, &env, &["--jobs", "3", "--compression", codec]);
            assert_eq!(backup["damaged"], json!([]));
            cluster.psql("CHECKPOINT");
        }
        drop(load);
        let mut copy = restore_copy(&dir, "copy", version, &env, &[]);
        start_copy(&mut copy);
        check_pgbench(&copy);
        copy.stop("fast");
        assert_eq!(check_all(copy.data()).1, 0);
    });
}

#[test]
fn a_page_that_replay_writes_anew_is_passed_over_and_one_from_the_future_is_not() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let mut cluster = quiet_cluster(&dir, &version, ClusterOptions::default(), 1);
    let table = file_of(&cluster, "pgbench_accounts");
    let aged = |data: &Path, block: u64, lsn: u64| {
        let (high, low) = (u32::try_from(lsn >> 32).unwrap(), u32::try_from(lsn & 0xFFFF_FFFF).unwrap());
        overwrite(&data.join(&table), block * PAGE, &[high.to_le_bytes(), low.to_le_bytes()].concat());
    };
    // A backup begins with a new segment: the next but one, for the server is stopped in the one between.
    let ended = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())");
    let begin = (u64::from_str_radix(&ended[16..], 16).unwrap() + 2) * SEGMENT + 0x28;
    while_stopped(&mut cluster, |data| {
        aged(data, 3, begin);
        aged(data, 7, begin + 3 * SEGMENT);
    });
    let backup = summary(&backup_run(&cluster, &env, &[]).run().expect_code(4));
    assert_eq!(backup["begin_lsn"], format!("0/{begin:X}"));
    assert_eq!(backup["damaged"], json!([{ "path": table, "blocks": [7], "count": 1 }]));
}

#[test]
fn a_cluster_without_checksums_is_not_looked_at_and_told_only_on_request() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env: StoreEnv = on_disk(&dir, "store");
    let cluster = quiet_cluster(&dir, &version, ClusterOptions::default().data_checksums(false), 1);
    let quiet = backup_run(&cluster, &env, &[]).success();
    assert_eq!(summary(&quiet)["damaged"], Value::Null);
    assert!(!quiet.stderr.contains("checksum"), "{}", quiet.stderr);
    let told = backup_run(&cluster, &env, &["-v"]).success();
    assert!(told.stderr.contains("pages are not checksummed"), "{}", told.stderr);
    let index = crate::harness::files_named(&dir.join("store"), "barback.json");
    let text = std::fs::read_to_string(&index[0]).unwrap();
    assert!(!text.contains("damaged") && text.contains("\"block_bytes\": 8192"), "{text}");
}
