//! The drill on real PostgreSQL: passes where all is well, and for each fault the right verdict with the right reason.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Cluster, ClusterOptions, Fault, Finished, PgVersion, Postgres, Run, S3Server, Site, files_below, for_each_version,
    snapshot,
};

/// What a drill answered.
struct Drilled {
    code: i32,
    record: Value,
    said: String,
}

impl Drilled {
    fn of(finished: &Finished) -> Self {
        let record = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|_| panic!("no record: {} {}", finished.stdout, finished.stderr));
        Self { code: finished.code(), record, said: finished.stderr.clone() }
    }

    /// Panics unless it came to `verdict`, with the exit code that goes with it and a reason that holds `words`.
    fn expect(&self, verdict: &str, words: &str) -> &Self {
        let code = match verdict {
            "pass" => 0,
            "fail" => 1,
            _ => 5,
        };
        let reason = self.record["reason"].as_str().unwrap_or_default();
        let all = format!("{:#}\n{}", self.record, self.said);
        assert_eq!((self.record["verdict"].as_str().unwrap(), self.code), (verdict, code), "{all}");
        assert!(reason.contains(words), "\"{words}\" is not in \"{reason}\"\n{all}");
        self
    }
}

/// A site with a cluster, a backup of it, and transactions after that in the archive.
struct Place {
    site: Site,
    primary: Cluster,
    backup: String,
}

impl Place {
    fn on_files(version: &PgVersion) -> Self {
        Self::on(Site::on_files(version))
    }

    fn on(site: Site) -> Self {
        let primary = site.primary(ClusterOptions::default());
        primary.psql("CREATE TABLE orders (n int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())");
        primary.psql("INSERT INTO orders SELECT generate_series(1, 1000)");
        let backup = site.backup(&primary);
        for first in [1001, 2001, 3001] {
            primary.psql(&format!("INSERT INTO orders SELECT generate_series({first}, {})", first + 999));
            primary.psql("SELECT pg_switch_wal()");
        }
        primary.archive_everything();
        Self { site, primary, backup }
    }

    fn workdir(&self) -> PathBuf {
        let workdir = self.site.dir.join("drills");
        if !workdir.exists() {
            self.site.dir.create_dir("drills");
        }
        workdir
    }

    fn drill(&self, args: &[&str]) -> Drilled {
        Drilled::of(&self.drill_run(args).run())
    }

    fn drill_run(&self, args: &[&str]) -> Run {
        let bindir = self.site.version.bindir.display().to_string();
        let mut run = self.site.barback(&["drill", "-o", "json"]).args(args);
        if !args.contains(&"--pg-bindir") {
            run = run.args(["--pg-bindir", &bindir]);
        }
        if !args.contains(&"--workdir") {
            run = run.arg("--workdir").arg(self.workdir());
        }
        run
    }

    /// Panics if a drill left anything: a server, a directory, an object.
    fn expect_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.workdir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        expect_no_server_below(&self.workdir());
        // The source goes on as if nothing had been.
        assert_eq!(self.primary.psql("SELECT count(*) FROM orders"), "4000");
    }
}

/// How many servers run on a directory below this one.
fn servers_below(directory: &Path) -> usize {
    let below = directory.display().to_string();
    let is_one = |process: std::fs::DirEntry| {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let is_server = command.split('\0').next().is_some_and(|program| program.ends_with("postgres"));
        is_server && command.contains(&below)
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().join("cmdline").exists())
        .map(is_one)
        .filter(|is| *is)
        .count()
}

fn expect_no_server_below(directory: &Path) {
    assert_eq!(servers_below(directory), 0, "a server runs on a directory below {}", directory.display());
}

#[test]
fn a_good_backup_passes_on_every_version_and_leaves_nothing() {
    for_each_version(|version| {
        let place = Place::on_files(version);
        let objects = snapshot(&place.site.dir.join("store"));
        let drilled = place.drill(&["--objective", "30m"]);
        drilled.expect("pass", "");
        let record = &drilled.record;
        assert_eq!(record["backup"]["id"], place.backup.as_str());
        assert_eq!(record["proof"]["ended_as"], "promoted", "{record:#}");
        assert_eq!(record["proof"]["timeline"], 2, "{record:#}");
        let phases: Vec<&str> =
            record["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
        for phase in ["plan", "fetch", "sync", "consistency", "replay", "prove", "stop", "clean up"] {
            assert!(phases.contains(&phase), "{phases:?}");
        }
        assert!(record["recovery"]["segments"].as_u64().unwrap() >= 4, "{record:#}");
        assert!(record["recovery"]["replayed_bytes"].as_u64().unwrap() > 1 << 20, "{record:#}");
        place.expect_clean();
        let after = snapshot(&place.site.dir.join("store"));
        let new: Vec<_> = after.keys().filter(|path| !objects.contains_key(*path)).collect();
        assert!(new.iter().all(|path| path.to_string_lossy().contains("/barback")), "{new:?}");
    });
}

#[test]
fn on_s3_and_in_every_level() {
    let Some(version) = Postgres::newest() else { return };
    let s3 = S3Server::start();
    let place = Place::on(Site::on_s3(&version, &s3));
    for level in ["1", "2", "3"] {
        place.drill(&["--level", level]).expect("pass", "");
    }
    place.expect_clean();
}

#[test]
fn every_kind_of_target_is_reached_and_proved() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    place.primary.psql("SELECT pg_create_restore_point('a point')");
    let time = place.primary.psql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'");
    let lsn = place.primary.psql("SELECT pg_current_wal_lsn()");
    place.primary.psql("INSERT INTO orders SELECT generate_series(4001, 4001)");
    let xid = place.primary.psql("BEGIN; DELETE FROM orders WHERE n = 4001; SELECT pg_current_xact_id(); COMMIT");
    let xid = xid.lines().find(|line| line.parse::<u64>().is_ok()).unwrap().to_owned();
    place.primary.psql("CREATE TABLE later ()");
    place.primary.archive_everything();
    for (args, said) in [
        (vec!["--target-time", time.as_str()], "recovery stopping before commit"),
        (vec!["--target-lsn", lsn.as_str()], "recovery stopping after WAL location"),
        (vec!["--target-xid", xid.as_str()], "recovery stopping after commit of transaction"),
        (vec!["--target-name", "a point"], "recovery stopping at restore point \"a point\""),
        (vec!["--target", "immediate"], "recovery stopping after reaching consistency"),
        (vec!["--target-time", time.as_str(), "--target-action", "pause"], "recovery stopping before commit"),
    ] {
        let drilled = place.drill(&args);
        drilled.expect("pass", "");
        let proof = &drilled.record["proof"];
        assert!(proof["postgresql_said"].as_str().unwrap().contains(said), "{args:?} {proof:#}");
        let expected = if args.contains(&"pause") { "paused" } else { "promoted" };
        assert_eq!(proof["ended_as"], expected, "{args:?}");
        if args[0] == "--target-time" {
            let at = |value: &Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
            let target = at(&drilled.record["target"]["time"]);
            assert!(at(&proof["last_replayed"]) <= target && target < at(&proof["next_commit"]), "{proof:#}");
        }
    }
    place.expect_clean();
}

#[test]
fn a_random_moment_is_drawn_from_the_window_and_again_with_its_seed() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    let first = place.drill(&["--target", "random"]);
    first.expect("pass", "");
    let seed = first.record["target"]["seed"].as_u64().unwrap().to_string();
    let again = place.drill(&["--target", "random", "--seed", &seed]);
    again.expect("pass", "");
    assert_eq!(first.record["target"], again.record["target"]);
    place.expect_clean();
}

/// Changes a bit in the one object of the store whose name holds `part`.
fn damage(place: &Place, part: &str) {
    let path = place.site.stored_file(part);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_in_a_part_is_the_backup_s_fault() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    damage(&place, "data.tar");
    place.drill(&[]).expect("fail", "data.tar");
    place.drill(&["--level", "2"]).expect("fail", "damage");
    place.drill(&["--level", "1"]).expect("pass", "");
    place.expect_clean();
}

/// The name of the segment that the first rows after the backup went to.
fn segment_after(place: &Place) -> String {
    let store = place.site.dir.join("store");
    let mut names: Vec<String> = files_below(&store)
        .into_iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().split('.').next()?.to_owned()))
        .filter(|name| name.len() == 24 && name.starts_with("00000001"))
        .collect();
    names.sort();
    names.dedup();
    names[names.len() - 2].clone()
}

#[test]
fn a_flipped_byte_in_a_wal_segment_is_the_backup_s_fault() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    let segment = segment_after(&place);
    damage(&place, &format!("0000000100000000/{segment}"));
    let drilled = place.drill(&[]);
    drilled.expect("fail", &segment);
    place.drill(&["--level", "2"]).expect("fail", &segment);
    place.expect_clean();
}

#[test]
fn a_missing_segment_and_a_missing_part_are_the_backup_s_fault_at_every_level() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    let lsn = place.primary.psql("SELECT pg_current_wal_lsn()");
    place.primary.psql("CREATE TABLE later ()");
    place.primary.archive_everything();
    let segment = segment_after(&place);
    std::fs::remove_file(place.site.stored_file(&format!("0000000100000000/{segment}"))).unwrap();
    for level in ["1", "3"] {
        place.drill(&["--level", level, "--target-lsn", &lsn]).expect("fail", "");
    }
    let other = Place::on_files(&version);
    std::fs::remove_file(other.site.stored_file("data.tar")).unwrap();
    for level in ["1", "2", "3"] {
        other.drill(&["--level", level]).expect("fail", "data.tar");
    }
    place.expect_clean();
}

#[test]
fn a_hole_in_the_wal_fails_a_drill_to_the_end_of_it() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    let segment = segment_after(&place);
    std::fs::remove_file(place.site.stored_file(&format!("0000000100000000/{segment}"))).unwrap();
    for level in ["1", "3"] {
        place.drill(&["--level", level]).expect("fail", &segment);
    }
    place.expect_clean();
}

#[test]
fn a_slip_of_the_caller_is_no_drill() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    for args in [["--backup", "20200101T000000"], ["--target-time", "2999-01-01 00:00:00+00"]] {
        let finished = place.drill_run(&args).run().expect_code(3);
        assert!(finished.stdout.is_empty(), "{}", finished.stdout);
    }
    let history = place.site.barback(&["drill", "history", "-o", "json"]).run().stdout;
    assert!(history.contains("\"drills\": []"), "{history}");
}

#[test]
fn a_target_outside_the_window_is_said_to_be_out_of_reach() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    place.drill(&["--target-time", "2020-01-01 00:00:00+00"]).expect("fail", "2020-01-01");
    place.drill(&["--target-lsn", "FF/0"]).expect("fail", "FF/0");
    // Nothing has that name, and recovery goes to the end in search of it.
    place.drill(&["--target-name", "never made"]).expect("fail", "recovery target was reached");
    place.expect_clean();
}

#[test]
fn a_host_that_cannot_do_it_says_nothing_about_the_backup() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    let nowhere = place.site.dir.join("nowhere").display().to_string();
    place.drill(&["--pg-bindir", &nowhere]).expect("inconclusive", &format!("could not run \"{nowhere}/postgres\""));
    place.drill(&["--workdir", &nowhere]).expect("inconclusive", "nowhere");
    let inside = place.primary.data().join("base").display().to_string();
    place.drill(&["--workdir", &inside]).expect("inconclusive", "inside the data directory");
    place.drill(&["--role", "nobody_of_that_name"]).expect("inconclusive", "nobody_of_that_name");
    place.expect_clean();
}

#[test]
fn a_store_that_goes_away_says_nothing_about_the_backup() {
    let Some(version) = Postgres::newest() else { return };
    let s3 = S3Server::start();
    let place = Place::on(Site::on_s3(&version, &s3));
    // While the base backup is fetched, and while WAL is.
    for part in ["data.tar", "/wals/"] {
        s3.fault_when(move |seen| {
            let is_content = seen.method == "GET" && seen.target.contains(part) && !seen.target.contains("list-type");
            is_content.then_some(Fault::Status(503))
        });
        place.drill(&["--retry-timeout", "1"]).expect("inconclusive", "");
    }
    s3.fault_when(|_| None);
    place.drill(&[]).expect("pass", "");
    place.expect_clean();
}

#[test]
fn a_drill_that_is_told_to_stop_leaves_neither_server_nor_directory() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    // Long enough after the beginning that there is something to leave.
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::KILL] {
        let started = place.drill_run(&[]).start();
        let until = std::time::Instant::now() + Duration::from_mins(1);
        while !has_server(&place.workdir()) && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(servers_below(&place.workdir()) > 0, "the look for servers does not see a running one");
        started.signal(signal);
        let finished = started.wait();
        if signal == Signal::KILL {
            // Nobody could clean up; the system ended the server, and the next drill removes the directory.
            let until = std::time::Instant::now() + Duration::from_secs(20);
            while has_server(&place.workdir()) && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            expect_no_server_below(&place.workdir());
            place.drill(&[]).expect("pass", "");
        } else if signal == Signal::HUP && ignores_hangups() {
            // As under `nohup`, which is how these tests may have been started: who asked for that does not want it heard.
            Drilled::of(&finished).expect("pass", "");
        } else {
            Drilled::of(&finished).expect("inconclusive", "stopped by SIG");
        }
        place.expect_clean();
    }
}

/// Whether this process, and so what it starts, ignores SIGHUP.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
}

fn has_server(workdir: &Path) -> bool {
    let directories = std::fs::read_dir(workdir).into_iter().flatten().flatten();
    directories.into_iter().any(|entry| {
        let pid = std::fs::read_to_string(entry.path().join("data/postmaster.pid")).unwrap_or_default();
        pid.lines().next().is_some_and(|pid| Path::new("/proc").join(pid).exists())
    })
}

#[test]
fn a_copy_is_kept_where_that_was_asked_for_and_it_did_not_pass() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    place.drill(&["--keep-on-failure"]).expect("pass", "");
    place.expect_clean();
    let drilled = place.drill(&["--keep-on-failure", "--target-name", "never made"]);
    drilled.expect("fail", "");
    let note = drilled.record["notes"].to_string();
    let kept: Vec<_> = std::fs::read_dir(place.workdir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert!(note.contains(&kept[0].display().to_string()), "{note}");
    assert!(kept[0].join("data/PG_VERSION").exists() && kept[0].join("server.log").exists());
}

#[test]
fn nothing_of_the_source_s_configuration_reaches_the_copy() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let marker = site.dir.join("archived-by-a-copy");
    let options = ClusterOptions::default()
        .set("max_connections", "150")
        .set("max_locks_per_transaction", "100")
        .set("listen_addresses", "127.0.0.1");
    let primary = site.primary(options);
    primary.psql("CREATE TABLE orders AS SELECT n FROM generate_series(1, 4000) n");
    // What ALTER SYSTEM says overrides the configuration file.
    primary.psql(&format!("ALTER SYSTEM SET archive_command = 'touch {}; false'", marker.display()));
    primary.psql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'");
    primary.psql("ALTER SYSTEM SET max_wal_senders = '3'");
    let backup = site.backup(&primary);
    primary.psql("CREATE TABLE later ()");
    primary.archive_everything();
    let place = Place { site, primary, backup };
    place.drill(&[]).expect("pass", "");
    assert!(!marker.exists());
    place.expect_clean();
}

#[test]
fn settings_that_the_source_raised_after_its_backup_are_followed() {
    for_each_version(|version| {
        let site = Site::on_files(version);
        let mut primary = site.primary(ClusterOptions::default());
        primary.psql("CREATE TABLE orders AS SELECT n FROM generate_series(1, 4000) n");
        let backup = site.backup(&primary);
        primary.psql("ALTER SYSTEM SET max_connections = 333");
        primary.psql("ALTER SYSTEM SET max_prepared_transactions = 44");
        primary.stop("fast");
        primary.start();
        primary.psql("CREATE TABLE later ()");
        primary.archive_everything();
        let place = Place { site, primary, backup };
        place.drill(&[]).expect("pass", "");
        place.expect_clean();
    });
}

#[test]
fn root_drills_with_a_server_that_is_not_root() {
    if !rustix::process::geteuid().is_root() {
        return crate::harness::pass_over("a drill as root", "this user is not root");
    }
    let Some(version) = Postgres::newest() else { return };
    let s3 = S3Server::start();
    let place = Place::on(Site::on_s3(&version, &s3));
    let workdir = tempfile::Builder::new().prefix("bb").tempdir().unwrap();
    std::fs::set_permissions(workdir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let finished = std::process::Command::new(crate::harness::barback_binary())
        .args(["drill", "-o", "json", "--target", "immediate", "--store", &place.site.store, "--pg-bindir"])
        .arg(&version.bindir)
        .arg("--workdir")
        .arg(workdir.path())
        .envs(s3.env())
        .output()
        .unwrap();
    let record: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(record["verdict"], "pass", "{record:#}\n{}", String::from_utf8_lossy(&finished.stderr));
    assert_eq!(record["place"]["user"], "root");
    assert_eq!(std::fs::read_dir(workdir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_looked_for_in_the_data_decides() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    let checks = |equal: u32, within: &str| {
        let text = format!(
            "[[check]]\nname = \"all orders\"\nquery = \"select count(*) from orders\"\nequal = {equal}\n\n\
             [[check]]\nname = \"fresh orders\"\nquery = \"select max(at) from orders\"\nnewest_within = \"{within}\"\n"
        );
        place.site.dir.write("checks.toml", text).display().to_string()
    };
    let good = place.drill(&["--checks", &checks(4000, "1h")]);
    good.expect("pass", "");
    let outcome = |drilled: &Drilled, name: &str| {
        let checks = drilled.record["checks"].as_array().unwrap().clone();
        let one = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{checks:#?}"));
        one["outcome"].as_str().unwrap().to_owned()
    };
    for name in ["all orders", "fresh orders", "pages", "tables", "indexes"] {
        assert_eq!(outcome(&good, name), "pass", "{name}");
    }
    let wrong = place.drill(&["--checks", &checks(4001, "1h"), "--keep-on-failure"]);
    wrong.expect("fail", "all orders");
    assert_eq!((outcome(&wrong, "all orders"), outcome(&wrong, "fresh orders")), ("fail".into(), "pass".into()));
    // What was kept is nobody's to remove but the operator's.
    place.drill(&["--level", "1"]).expect("pass", "");
    place.drill(&[]).expect("pass", "");
    let kept: Vec<_> = std::fs::read_dir(place.workdir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    std::fs::remove_dir_all(&kept[0]).unwrap();
    let broken = place.site.dir.write("checks.toml", "[[check]]\nname = 7\n").display().to_string();
    assert_eq!(place.drill_run(&["--checks", &broken]).run().code(), 3);
    place.expect_clean();
}

#[test]
fn a_page_that_was_damaged_in_the_source_already_is_found_in_the_copy() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut primary = site.primary(ClusterOptions::default().data_checksums(true));
    primary.psql("CREATE TABLE orders AS SELECT n, repeat('x', 500) FROM generate_series(1, 4000) n");
    let file = primary.psql("SELECT pg_relation_filepath('orders')");
    primary.stop("fast");
    let path = primary.data().join(&file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3 * 8192 + 4000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    primary.start();
    let connect = primary.connect_string();
    let taken = site.barback(&["backup", "--fast", "-d", &connect]).run();
    assert!(taken.stderr.contains("damaged") || taken.code() != 0, "{}", taken.stderr);
    primary.psql("CREATE TABLE later ()");
    primary.archive_everything();
    let place = Place { site, primary, backup: String::new() };
    let drilled = place.drill(&[]);
    drilled.expect("fail", "pages");
    let pages = drilled.record["checks"].as_array().unwrap().iter().find(|check| check["name"] == "pages").cloned();
    let detail = pages.unwrap()["detail"].to_string();
    assert!(detail.contains(&file) && detail.contains("already when the backup was taken"), "{detail}");
    assert!(std::fs::read_dir(place.workdir()).unwrap().next().is_none());
}

#[test]
fn a_disk_without_room_says_nothing_about_the_backup() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    // As if the cluster had been larger than any disk.
    let info = place.site.stored_file("backup.info");
    let text = std::fs::read_to_string(&info).unwrap();
    let larger = |line: &str| {
        if line.starts_with("cluster_size=") { "cluster_size=1000000000000000".to_owned() } else { line.to_owned() }
    };
    let text: Vec<String> = text.lines().map(larger).collect();
    std::fs::write(&info, text.join("\n") + "\n").unwrap();
    place.drill(&[]).expect("inconclusive", "no room");
    // Names take none.
    place.drill(&["--level", "1"]).expect("pass", "");
    place.expect_clean();
}

#[test]
fn a_drill_reports_and_is_recorded_unless_it_was_told_to_stop_or_not_to() {
    let Some(version) = Postgres::newest() else { return };
    let place = Place::on_files(&version);
    let report = place.site.dir.create_dir("report");
    let history = || {
        let finished = place.site.barback(&["drill", "history", "-o", "json"]).run();
        let history: Value = serde_json::from_str(&finished.stdout).unwrap();
        history["drills"].as_array().unwrap().len()
    };
    let shown = report.display().to_string();
    let drilled = place.drill(&["--report", &shown, "--objective", "30m"]);
    drilled.expect("pass", "");
    assert_eq!(drilled.record["sequence"], 1);
    let json: Value = serde_json::from_slice(&std::fs::read(report.join("drill.json")).unwrap()).unwrap();
    assert_eq!(json, drilled.record);
    for (name, words) in [("drill.html", "<svg"), ("drill.xml", "<testsuite"), ("drill.prom", "barback_drill_")] {
        let text = std::fs::read_to_string(report.join(name)).unwrap();
        assert!(text.contains(words), "{name}: {text}");
    }
    assert!(drilled.said.contains("fetch took "), "one line for each phase: {}", drilled.said);
    assert_eq!(history(), 1);
    place.drill(&["--no-record", "--level", "1"]).expect("pass", "");
    assert_eq!(history(), 1);
    place.drill(&["--target-lsn", "FF/0"]).expect("fail", "");
    assert_eq!(history(), 2);
    let started = place.drill_run(&[]).start();
    std::thread::sleep(Duration::from_millis(200));
    started.signal(Signal::TERM);
    let finished = started.wait();
    if !finished.stdout.is_empty() {
        Drilled::of(&finished).expect("inconclusive", "stopped by SIG");
    }
    assert_eq!(history(), 2);
    let status = place.site.barback(&["status"]).run().stdout;
    assert!(status.to_lowercase().contains("drill"), "{status}");
    place.expect_clean();
}
