//! Data directories as they are found in the field: odd files, odd places, odd configuration, and ways to the server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{
    Cluster, ClusterOptions, Postgres, TestDir, backup_run, barback, check_pgbench, for_each_version, give_away,
    on_disk, restore_copy, running_cluster, start_copy, take_backup,
};

const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn segments_of_1_and_64_mb_and_thousands_of_relations_are_backed_up() {
    let newest = Postgres::newest();
    for_each_version(|version| {
        let many = if newest.as_ref() == Some(version) { 5000 } else { 500 };
        for (megabytes, relations) in [(1, many), (64, 10)] {
            let dir = TestDir::new();
            let env = on_disk(&dir, "store");
            let options = ClusterOptions::default().wal_segment_mb(megabytes).set("max_locks_per_transaction", "512");
            let cluster = running_cluster(&dir, version, options, 0);
            cluster.psql(&format!(
                "DO $$ BEGIN FOR n IN 1..{relations} LOOP \
                 EXECUTE format('CREATE TABLE small_%s AS SELECT %s AS n', n, n); END LOOP; END $$"
            ));
            let backup = take_backup(&cluster, &env, &["--jobs", "2"]);
            assert!(backup["files"].as_u64().unwrap() > relations, "{backup}");
            let mut copy = restore_copy(&dir, "copy", version, &env, &[]);
            start_copy(&mut copy);
            let counted = "SELECT count(*) FROM pg_class WHERE relname LIKE 'small_%' AND relfilenode <> 0";
            assert_eq!(copy.psql(counted), relations.to_string());
            assert_eq!(copy.psql(&format!("SELECT n FROM small_{relations}")), relations.to_string());
            assert_eq!(copy.psql("SHOW wal_segment_size"), format!("{megabytes}MB"));
        }
    });
}

#[test]
fn of_unlogged_tables_only_the_init_fork_is_kept_and_of_temporary_ones_nothing() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let env = on_disk(&dir, "store");
        let cluster = running_cluster(&dir, version, ClusterOptions::default(), 0);
        cluster.psql("CREATE UNLOGGED TABLE volatile AS SELECT generate_series(1, 50000) AS n");
        cluster.psql("CREATE TABLE kept AS SELECT generate_series(1, 100) AS n");
        let path = cluster.psql("SELECT pg_relation_filepath('volatile')");
        // A session that keeps its temporary table while the backup runs.
        let holds = "CREATE TEMP TABLE short_lived AS SELECT generate_series(1, 50000) AS n";
        let psql = version.run("psql").args(["-X", "-d", &cluster.connect_string()]);
        let psql = psql.args(["-c", holds, "-c", "SELECT pg_sleep(300)"]);
        let session = psql.start();
        cluster.wait_until("SELECT count(*) FROM pg_class WHERE relname = 'short_lived'", "1", PATIENCE);
        cluster.wait_until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1", PATIENCE);
        let temporary = |data: &Path| {
            let files = crate::harness::files_named(&data.join("base"), "");
            files.iter().filter(|file| file.file_name().unwrap().to_string_lossy().starts_with('t')).count()
        };
        assert!(temporary(cluster.data()) > 0, "the temporary table has no file");

        take_backup(&cluster, &env, &[]);
        drop(session);
        let mut copy = restore_copy(&dir, "copy", version, &env, &[]);
        let file = copy.data().join(&path);
        assert!(!file.exists(), "{} came along", file.display());
        assert!(copy.data().join(format!("{path}_init")).exists());
        assert_eq!(temporary(copy.data()), 0);
        start_copy(&mut copy);
        assert_eq!(copy.psql("SELECT count(*) FROM volatile"), "0");
        assert_eq!(copy.psql("SELECT sum(n) FROM kept"), "5050");
    });
}

#[test]
fn files_that_grow_shrink_and_vanish_underfoot_do_no_harm() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 1);
    let extra = dir.create_dir("data/extra");
    let stop = Arc::new(AtomicBool::new(false));
    let churning = std::thread::spawn({
        let (extra, stop) = (extra.clone(), Arc::clone(&stop));
        move || churn(&extra, &stop)
    });
    let mut copies = Vec::new();
    for round in 0..4 {
        take_backup(&cluster, &env, &["--jobs", "4", "--compression", "none"]);
        copies.push(restore_copy(&dir, &format!("copy-{round}"), &version, &env, &["--backup", "latest"]));
    }
    stop.store(true, Ordering::Relaxed);
    churning.join().unwrap();
    for mut copy in copies {
        start_copy(&mut copy);
        check_pgbench(&copy);
        copy.stop("immediate");
    }
}

/// Makes files of changing sizes and takes them away again, until told to stop.
fn churn(directory: &Path, stop: &AtomicBool) {
    let content = vec![b'x'; 300_000];
    let mut turn = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        let path = directory.join(format!("file-{}", turn % 200));
        match turn / 200 % 4 {
            0 | 2 => {
                std::fs::write(&path, &content[..content.len() - turn % 1000]).unwrap();
                give_away(&path);
            }
            1 => {
                // It may have been removed in a turn before.
                let _ = std::fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(10));
            }
            _ => drop(std::fs::remove_file(&path)),
        }
        turn += 1;
    }
}

#[test]
fn odd_names_links_and_modes_come_back_as_they_were() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let env = on_disk(&dir, "store");
        let wal = dir.join("elsewhere-wal");
        let options = ClusterOptions::default().initdb_arg("--waldir").initdb_arg(wal.display().to_string());
        let mut cluster = Cluster::init(&dir, version, options.initdb_arg("--allow-group-access"));
        let linked = dir.write("linked.conf", "work_mem = '5MB'\n");
        symlink(&linked, cluster.data().join("linked.conf")).unwrap();
        cluster.append_settings(&[("include".into(), "linked.conf".into())]);
        let odd = cluster.data().join("odd");
        let names = odd_files(&dir, &odd);
        symlink("nowhere", odd.join("dangling")).unwrap();
        cluster.start();
        cluster.pgbench(&["-i", "-q", "-s", "1"]);
        take_backup(&cluster, &env, &[]);
        cluster.stop("immediate");

        let mut copy = restore_copy(&dir, "copy", version, &env, &[]);
        // The copy stands on its own: what the source linked to may be gone.
        std::fs::remove_file(&linked).unwrap();
        std::fs::remove_dir_all(&wal).unwrap();
        for name in &names {
            let restored = copy.data().join("odd").join(name);
            assert_eq!(std::fs::read(&restored).unwrap(), name.as_os_str().as_bytes(), "{}", restored.display());
        }
        assert_eq!(std::fs::read_link(copy.data().join("odd/dangling")).unwrap(), Path::new("nowhere"));
        assert!(copy.data().join("pg_wal").symlink_metadata().unwrap().is_dir());
        assert_eq!(mode(copy.data()), 0o750);
        assert_eq!(mode(&copy.data().join("PG_VERSION")), 0o640);
        std::fs::remove_file(copy.data().join("odd/dangling")).unwrap();
        start_copy(&mut copy);
        assert_eq!(copy.psql("SHOW work_mem"), "5MB");
        check_pgbench(&copy);
    });
}

/// Files below `directory` whose content is their own name.
fn odd_files(dir: &TestDir, directory: &Path) -> Vec<PathBuf> {
    let deep: PathBuf = (0..3).map(|_| "d".repeat(90)).collect();
    let names: Vec<PathBuf> = vec![
        PathBuf::from(OsStr::from_bytes(b"latin1-\xe4\xf6\xfc")),
        PathBuf::from("it's \"quoted\" \\ and spaced"),
        PathBuf::from("line\nbreak"),
        PathBuf::from("-rf"),
        PathBuf::from("ünïcödé"),
        PathBuf::from("n".repeat(250)),
        deep.join("f".repeat(120)),
    ];
    dir.create_dir(directory.strip_prefix(dir.path()).unwrap().to_str().unwrap());
    for name in &names {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, name.as_os_str().as_bytes()).unwrap();
    }
    for path in crate::harness::files_named(directory, "") {
        give_away(&path);
    }
    for depth in 1..=3 {
        give_away(&directory.join(deep.iter().take(depth).collect::<PathBuf>()));
    }
    names
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn configuration_outside_the_data_directory_comes_along_and_the_copy_uses_its_own() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let env = on_disk(&dir, "store");
        let mut cluster = Cluster::init(&dir, version, ClusterOptions::default());
        let etc = as_debian_does(&dir, &cluster);
        // pg_ctl is told the configuration's directory there, and so finds the data directory in it.
        let start = version.run("pg_ctl").args(["start", "-w", "-t", "60", "-D"]).arg(&etc);
        let options = format!("-p 5432 -k '{}' -c listen_addresses=''", dir.path().display());
        let log = dir.join("debian.log");
        start.args(["-o", &options, "-l"]).arg(&log).success();
        let conninfo = format!("host={} port=5432 user=postgres dbname=postgres", dir.path().display());
        let psql = |sql: &str| {
            let answer = version.run("psql").args(["-X", "-A", "-t", "-q", "-d", &conninfo]).args(["-c", sql]);
            answer.success().stdout.trim().to_owned()
        };
        psql("CREATE TABLE t AS SELECT 42 AS n");
        assert_eq!(psql("SHOW config_file"), etc.join("postgresql.conf").display().to_string());
        barback(&["backup", "--fast", "-d", &conninfo]).envs(&env).success();
        cluster.stop("immediate");

        let mut copy = restore_copy(&dir, "copy", version, &env, &[]);
        // Nothing of the source may be needed, or used.
        std::fs::rename(&etc, dir.join("gone")).unwrap();
        std::fs::rename(cluster.data(), dir.join("gone-data")).unwrap();
        start_copy(&mut copy);
        assert_eq!(copy.psql("SELECT n FROM t"), "42");
        assert_eq!(copy.psql("SHOW work_mem"), "7MB", "a setting of the configuration outside");
        for (setting, file) in
            [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
        {
            assert_eq!(copy.psql(&format!("SHOW {setting}")), copy.data().join(file).display().to_string());
        }
        assert_eq!(copy.psql("SHOW data_directory"), copy.data().display().to_string());
        copy.stop("immediate");
    });
}

/// Moves the configuration out as Debian does, and leaves an old one behind, as people do.
fn as_debian_does(dir: &TestDir, cluster: &Cluster) -> PathBuf {
    let etc = dir.create_dir("etc");
    dir.create_dir("etc/conf.d");
    let data = cluster.data();
    let own = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
    let (data_directory, outside) = (data.display(), etc.display());
    let text = format!(
        "{own}\nwork_mem = '7MB'\ninclude_dir = 'conf.d'\ndata_directory = '{data_directory}'\n\
         hba_file = '{outside}/pg_hba.conf'\nident_file = '{outside}/pg_ident.conf'\n\
         external_pid_file = '{outside}/server.pid'\n"
    );
    dir.write("etc/postgresql.conf", text);
    for name in ["pg_hba.conf", "pg_ident.conf"] {
        let content = std::fs::read(data.join(name)).unwrap();
        dir.write(&format!("etc/{name}"), content);
        std::fs::remove_file(data.join(name)).unwrap();
    }
    dir.write("data/postgresql.conf", "work_mem = 'an old file that nobody reads'\n");
    dir.write("data/pg_hba.conf", "an old file that nobody reads\n");
    etc
}

#[test]
fn the_server_is_reached_by_socket_by_tcp_and_by_the_environment() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 0);
    let port = cluster.psql("SHOW port");
    let socket = dir.path().display().to_string();
    backup_run(&cluster, &env, &[]).success();
    let by_environment = barback(&["backup", "--fast"]).envs(&env).env("PGHOST", &socket).env("PGPORT", &port);
    by_environment.env("PGUSER", "postgres").env("PGDATABASE", "postgres").success();
    let uri = format!("postgresql://postgres@/postgres?host={socket}&port={port}");
    barback(&["backup", "--fast", "-d", &uri]).envs(&env).success();

    // The options that start a server here switch TCP off, so this one is started by hand.
    let mut second = Cluster::init(&dir, &version, ClusterOptions::default().name("tcp"));
    let tcp_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let options = format!("-p {tcp_port} -k '{socket}' -c listen_addresses=127.0.0.1");
    let start = version.run("pg_ctl").args(["start", "-w", "-t", "60", "-o", &options, "-D"]).arg(second.data());
    start.arg("-l").arg(dir.join("tcp.log")).success();
    let tcp = format!("host=127.0.0.1 port={tcp_port} user=postgres dbname=postgres");
    let args = ["backup", "--fast", "--server", "second", "-d", &tcp];
    barback(&args).envs(&env).success();
    // The wrong cluster's directory is not backed up under this server's name.
    let data = cluster.data().display().to_string();
    let wrong = barback(&args).args(["--pgdata", &data]).envs(&env).run().expect_code(4);
    assert!(wrong.stderr.contains("belongs to another cluster"), "{}", wrong.stderr);
    second.stop("immediate");
}

#[test]
fn a_role_with_the_rights_a_backup_needs_takes_one_and_is_told_what_it_lacks() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let env = on_disk(&dir, "store");
        let cluster = running_cluster(&dir, version, ClusterOptions::default(), 0);
        cluster.psql("CREATE ROLE helper LOGIN");
        let conninfo = cluster.connect_string().replace("user=postgres", "user=helper");
        let backup = || barback(&["backup", "--fast", "-d", &conninfo]).envs(&env).run();
        // The hints lead, one after the other, to a role that works.
        let mut granted = Vec::new();
        let finished = loop {
            let finished = backup();
            if finished.code() == 0 {
                break finished;
            }
            // The last one belongs to the error; warnings before it have hints too.
            let hint = finished.stderr.rsplit_once("Run as a superuser: ");
            let (_, statements) = hint.unwrap_or_else(|| panic!("no hint after {granted:?}: {}", finished.stderr));
            let statements = statements.lines().next().unwrap().trim().to_owned();
            assert!(!granted.contains(&statements), "granted in vain: {statements}");
            cluster.psql(&statements);
            granted.push(statements);
        };
        let all = granted.join("; ");
        for right in ["pg_read_all_settings", "pg_backup_start", "pg_backup_stop", "pg_switch_wal"] {
            assert!(all.contains(right), "{right} was never asked for: {all}");
        }
        assert_eq!(cluster.psql("SELECT rolsuper FROM pg_roles WHERE rolname = 'helper'"), "f");
        // Without REPLICATION no slot holds the WAL: said aloud, with what to do.
        assert!(finished.stderr.contains("ALTER ROLE \"helper\" REPLICATION"), "{}", finished.stderr);
        cluster.psql("ALTER ROLE helper REPLICATION");
        let last = backup().expect_code(0);
        assert!(!last.stderr.contains("ALTER ROLE"), "{}", last.stderr);
        start_copy(&mut restore_copy(&dir, "copy", version, &env, &[]));
    });
}
