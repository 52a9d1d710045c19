//! `check`: what keeps a host from archiving is found, said in one line, and told apart from what could not be found out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use barback::commands::host_state::{self, HostState};
use barback::error::ErrorKind;
use barback::postgres::conninfo::Conninfo;
use chrono::TimeDelta;
use serde_json::Value;

use crate::harness::{
    Cluster, ClusterOptions, Fault, Minio, PgVersion, Postgres, Run, S3Server, Seen, Site, TestDir, barback,
    barback_binary, block_on, for_each_store, for_each_version,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// What a check said, and how it ended.
struct Said {
    code: i32,
    findings: Vec<Value>,
}

impl Said {
    fn of(run: Run) -> Self {
        let finished = run.args(["-o", "json"]).run();
        let document: Value = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", finished.stdout, finished.stderr));
        assert_eq!(document["schema"], 1);
        Self { code: finished.code(), findings: document["check"]["findings"].as_array().unwrap().clone() }
    }

    /// Severity and code of everything that is not as it should be; the disk of the machine that runs the tests may be.
    fn worse(&self) -> Vec<(&str, &str)> {
        let bad = self.findings.iter().filter(|finding| finding["severity"] != "ok" && finding["code"] != "wal-volume");
        bad.map(|finding| (finding["severity"].as_str().unwrap(), finding["code"].as_str().unwrap())).collect()
    }

    fn problems(&self) -> Vec<&str> {
        self.worse().into_iter().filter(|(severity, _)| *severity == "problem").map(|(_, code)| code).collect()
    }

    fn finding(&self, code: &str) -> &Value {
        let found = self.findings.iter().find(|finding| finding["code"] == code);
        found.unwrap_or_else(|| panic!("nothing is said of {code}: {:#?}", self.findings))
    }

    fn what(&self, code: &str) -> &str {
        self.finding(code)["what"].as_str().unwrap()
    }

    fn next(&self, code: &str) -> &str {
        self.finding(code)["next"].as_str().unwrap()
    }
}

fn check(site: &Site, cluster: &Cluster) -> Said {
    Said::of(site.barback(&["check", "-d", &cluster.connect_string()]))
}

fn archive_timeout() -> ClusterOptions {
    ClusterOptions::default().set("archive_timeout", "60")
}

/// A cluster whose `archive_command` is this one, with what leads to the store in its environment.
fn cluster_with(site: &Site, env: &[(String, String)], command: &str) -> Cluster {
    let options = archive_timeout().set("archive_mode", "on").set("archive_command", command).envs(env);
    let mut cluster = Cluster::init(&site.dir, &site.version, options);
    cluster.start();
    cluster
}

/// What archives into the site's store, in the words that a site gives its clusters.
fn archive_command(site: &Site) -> String {
    format!("{} --store {} wal-archive %p", barback_binary().display(), site.store)
}

fn switch_wal(cluster: &Cluster) -> String {
    cluster.psql("SELECT pg_create_restore_point('x')");
    cluster.psql("SELECT pg_walfile_name(pg_switch_wal())")
}

fn wait_for_failure(cluster: &Cluster) {
    cluster.wait_until("SELECT failed_count > 0 FROM pg_stat_archiver", "t", PATIENCE);
}

fn newest() -> Option<PgVersion> {
    Postgres::newest()
}

fn state_of(cluster: &Cluster, pgdata: Option<&Path>) -> barback::error::Result<HostState> {
    let conninfo = Conninfo::resolve(Some(&cluster.connect_string()), &BTreeMap::new()).unwrap();
    block_on(host_state::read(&conninfo, pgdata))
}

#[test]
fn the_state_of_a_host_is_what_the_server_and_its_directory_say() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", "false");
        let mut cluster = Cluster::init(&dir, version, options);
        cluster.start();
        cluster.psql("SELECT pg_create_physical_replication_slot('idle', true)");
        switch_wal(&cluster);
        wait_for_failure(&cluster);
        let state = state_of(&cluster, None).unwrap();
        let identifier = cluster.psql("SELECT system_identifier FROM pg_control_system()");
        assert_eq!(state.system_identifier.to_string(), identifier);
        assert_eq!(state.archive_mode.as_deref(), Some("on"));
        assert_eq!(state.settings.as_ref().unwrap().get("archive_command"), Some("false"));
        let archiver = state.archiver.as_ref().unwrap();
        assert!(archiver.is_failing() && archiver.archived_count == 0, "{archiver:?}");
        assert_eq!((state.ready_segments, state.ready_bytes), (Some(1), Some(16 << 20)));
        assert!(state.ready_since.is_some() && state.wal_free_bytes > Some(0));
        assert_eq!(state.slots.len(), 1);
        assert!(state.kept_by(&state.slots[0]) > Some(0), "{:?} {:?}", state.slots, state.current_lsn);
        assert_eq!(state.data_directory.as_deref(), Some(cluster.data()));
        assert!(state.earlier_segments.is_empty() && state.unknown.is_empty(), "{:?}", state.unknown);

        // The same server seen by a role that may see little, and the directory without the server.
        cluster.psql("CREATE ROLE little LOGIN");
        let conninfo = cluster.connect_string().replace("user=postgres", "user=little");
        let conninfo = Conninfo::resolve(Some(&conninfo), &BTreeMap::new()).unwrap();
        let little = block_on(host_state::read(&conninfo, None)).unwrap();
        assert_eq!((little.ready_segments, little.data_directory), (None, None));
        assert_eq!(little.unknown.len(), 1, "{:?}", little.unknown);
        let named = block_on(host_state::read(&conninfo, Some(cluster.data()))).unwrap();
        assert_eq!(named.ready_segments, Some(1));

        let other = Cluster::init(&dir, version, ClusterOptions::default().name("other"));
        assert_eq!(state_of(&cluster, Some(other.data())).unwrap_err().kind(), ErrorKind::Mismatch);

        cluster.stop("immediate");
        assert!(state_of(&cluster, None).is_err());
        let alone = host_state::read_without_server(cluster.data(), state.now).unwrap();
        assert_eq!(alone.system_identifier, state.system_identifier);
        assert_eq!((alone.ready_segments, alone.archiver), (Some(1), None));
    });
}

#[test]
fn a_host_that_archives_is_told_that_all_is_well() {
    for_each_version(|version| {
        let s3 = S3Server::start();
        let site = Site::on_s3(version, &s3);
        let cluster = site.primary(archive_timeout());
        site.backup(&cluster);
        cluster.archive_everything();
        let before = s3.keys();
        let said = check(&site, &cluster);
        // This server has no lifecycle rules to ask for.
        assert_eq!(said.worse(), [("unknown", "lifecycle")]);
        assert_eq!(said.code, 0);
        for code in ["store-put", "store-get", "store-list", "store-delete", "store-delete-batch", "store-multipart"] {
            assert_eq!(said.finding(code)["severity"], "ok", "{code}");
        }
        assert_eq!(said.finding("create-only")["severity"], "ok");
        assert_eq!(said.finding("clock-skew")["severity"], "ok");
        assert_eq!(said.finding("archived-wal")["severity"], "ok");
        assert_eq!(s3.keys(), before, "what was made to try the store is gone");

        let text = site.barback(&["check", "-d", &cluster.connect_string()]).run().stdout;
        let first = text.lines().find(|line| line.trim_start().starts_with("ok")).unwrap();
        assert!(text.starts_with("s3://bkt/pfx, server \"main\"\n\nSTORE\n  unknown  "), "{text}");
        assert!(first.starts_with("  ok       "), "{text}");
    });
}

#[test]
fn an_archive_command_that_swallows_errors_is_found_though_failed_count_is_zero() {
    for_each_version(|version| {
        let s3 = S3Server::start();
        let site = Site::on_s3(version, &s3);
        let cluster = cluster_with(&site, &s3.env(), &format!("{} || true", archive_command(&site)));
        site.backup(&cluster);
        cluster.archive_everything();
        // The store refuses, as it does once a certificate or a key has run out.
        s3.fault_when(|seen| (seen.method == "PUT" && seen.target.contains("/wals/")).then_some(Fault::Status(403)));
        let (lost, last) = (cluster.archive_everything(), cluster.archive_everything());
        assert_eq!(cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
        let said = check(&site, &cluster);
        assert_eq!(said.code, 1);
        assert_eq!(said.problems(), ["archive-command-hides-failure", "archived-wal"]);
        assert!(said.what("archive-command-hides-failure").contains("\"|| true\""));
        let what = said.what("archived-wal");
        assert!(what.contains(&lost) && what.contains(&last), "{what}");
        let fix = said.next("archive-command-hides-failure");
        assert!(fix.starts_with("ALTER SYSTEM SET archive_command = '") && fix.contains(" %p'; SELECT"), "{fix}");
    });
}

#[test]
fn a_script_that_ends_with_0_whatever_happened_is_found_by_what_the_bucket_holds() {
    let Some(version) = newest() else { return };
    let s3 = S3Server::start();
    let site = Site::on_s3(&version, &s3);
    let command = archive_command(&site).replace("%p", "\"$1\"");
    let script = site.dir.write("archive.sh", format!("#!/bin/sh\n{command} 2>/dev/null\nexit 0\n"));
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let cluster = cluster_with(&site, &s3.env(), &format!("{} %p", script.display()));
    site.backup(&cluster);
    cluster.archive_everything();
    assert_eq!(check(&site, &cluster).worse(), [("unknown", "lifecycle"), ("warning", "archive-command")]);
    s3.fault_when(|seen| (seen.method == "PUT" && seen.target.contains("/wals/")).then_some(Fault::Status(403)));
    let lost = cluster.archive_everything();
    let said = check(&site, &cluster);
    assert_eq!(said.problems(), ["archived-wal"]);
    assert!(said.what("archived-wal").ends_with(&format!("does not have \"{lost}\"")), "{}", said.what("archived-wal"));
    assert_eq!(said.code, 1);
}

#[test]
fn a_cluster_that_never_archived_is_not_called_healthy() {
    for_each_version(|version| {
        let s3 = S3Server::start();
        let site = Site::on_s3(version, &s3);
        let mut cluster = cluster_with(&site, &s3.env(), "");
        site.backup(&cluster);
        switch_wal(&cluster);
        assert_eq!(cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0", "PostgreSQL calls that no failure");
        let said = check(&site, &cluster);
        assert_eq!(said.code, 1);
        assert_eq!(said.problems(), ["archive-command"]);
        assert_eq!(said.what("archive-command"), "archive_command is empty");

        cluster.append_settings(&[("archive_mode".into(), "off".into())]);
        cluster.stop("fast");
        cluster.start();
        let said = check(&site, &cluster);
        assert_eq!((said.code, said.problems()), (1, vec!["archive-mode"]));
        assert!(said.next("archive-mode").starts_with("ALTER SYSTEM SET archive_mode = 'on'"));
    });
}

#[test]
fn a_wal_object_without_content_is_no_segment() {
    let Some(version) = newest() else { return };
    let s3 = S3Server::start();
    let site = Site::on_s3(&version, &s3);
    let cluster = site.primary(archive_timeout());
    site.backup(&cluster);
    let segment = cluster.archive_everything();
    let key = s3.keys().into_iter().find(|key| key.contains(&format!("/{segment}."))).unwrap();
    std::fs::write(s3.object(&key), b"").unwrap();
    let said = check(&site, &cluster);
    assert_eq!(said.code, 1);
    assert_eq!(said.problems(), ["archived-wal", "empty-wal"]);
    assert!(said.what("empty-wal").contains(&key));
}

/// One segment blocks the queue: the archive has other content under its name.
fn blocked(site: &Site, s3: &S3Server) -> (Cluster, String) {
    let options = archive_timeout().wal_segment_mb(1).set("max_wal_size", "256MB");
    let cluster = site.primary(options);
    site.backup(&cluster);
    cluster.archive_everything();
    let next = cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let directory = format!("pfx/main/wals/{}", &next[..16]);
    let path = s3.object(&format!("{directory}/{next}.zst"));
    std::fs::write(&path, b"of an earlier life").unwrap();
    switch_wal(&cluster);
    wait_for_failure(&cluster);
    (cluster, next)
}

#[test]
fn a_segment_that_blocks_the_queue_is_named_with_the_command_that_shows_why() {
    let Some(version) = newest() else { return };
    let s3 = S3Server::start();
    let site = Site::on_s3(&version, &s3);
    let (cluster, blocking) = blocked(&site, &s3);
    for _ in 0..101 {
        switch_wal(&cluster);
    }
    let said = check(&site, &cluster);
    assert_eq!(said.code, 1);
    assert_eq!(said.problems(), ["archiver", "wal-waiting"]);
    assert!(said.what("archiver").contains(&format!("\"{blocking}\"")), "{}", said.what("archiver"));
    assert!(said.what("wal-waiting").starts_with("102 segments (102 MiB)"), "{}", said.what("wal-waiting"));
    // What it says to type shows the reason.
    let next = said.next("archiver");
    let path = next.strip_prefix("barback wal-archive ").unwrap();
    let typed = site.barback(&["wal-archive", path]).run();
    assert!(typed.code() != 0 && typed.stderr.contains("archive"), "{}", typed.stderr);
}

#[test]
fn segments_pushed_ahead_do_not_make_the_queue_look_empty() {
    let Some(version) = newest() else { return };
    let s3 = S3Server::start();
    let site = Site::on_s3(&version, &s3);
    let (cluster, blocking) = blocked(&site, &s3);
    for _ in 0..4 {
        let later = switch_wal(&cluster);
        site.barback(&["wal-archive"]).arg(cluster.data().join("pg_wal").join(&later)).success();
    }
    let said = check(&site, &cluster);
    assert!(said.what("archiver").contains(&blocking));
    assert!(said.what("wal-waiting").starts_with("5 segments"), "{}", said.what("wal-waiting"));
    assert_eq!(said.finding("wal-waiting")["severity"], "warning");
    assert_eq!(said.problems(), ["archiver"]);
}

#[test]
fn a_store_that_is_full_and_a_server_that_is_down_are_both_seen() {
    let Some(version) = newest() else { return };
    let s3 = S3Server::start();
    let site = Site::on_s3(&version, &s3);
    let mut cluster = site.primary(archive_timeout());
    site.backup(&cluster);
    cluster.archive_everything();
    s3.fault_when(|seen| (seen.method == "PUT").then_some(Fault::Status(507)));
    switch_wal(&cluster);
    let patience = ["--retry-timeout", "1"];
    cluster.stop("immediate");
    let connect = cluster.connect_string();
    let run = site.barback(&["check", "-d", &connect, "--pgdata"]).arg(cluster.data()).args(patience);
    let said = Said::of(run);
    assert_eq!(said.code, 1);
    assert_eq!(said.problems(), ["store-put", "wal-waiting"]);
    assert!(said.what("store-put").contains("507"), "{}", said.what("store-put"));
    assert!(said.next("wal-waiting").starts_with("barback wal-archive --all "));
    assert_eq!(said.finding("server-unreachable")["severity"], "unknown");
}

#[test]
fn a_store_that_cannot_be_reached_is_said_at_once_and_the_server_is_checked_all_the_same() {
    let Some(version) = newest() else { return };
    let s3 = S3Server::start();
    let site = Site::on_s3(&version, &s3);
    let cluster = site.primary(archive_timeout());
    cluster.archive_everything();
    drop(s3);
    switch_wal(&cluster);
    let connect = cluster.connect_string();
    let said = Said::of(site.barback(&["check", "-d", &connect, "--retry-timeout", "1"]));
    assert_eq!(said.code, 2);
    assert_eq!(said.problems(), ["store-unreachable"]);
    assert_eq!(said.finding("archive-command")["severity"], "ok");
    assert!(said.what("wal-waiting").contains("wait to be archived"));

    let nowhere = format!("file://{}", site.dir.join("nowhere").display());
    let run = barback(&["check", "-d", &connect, "--store", &nowhere]);
    let said = Said::of(run);
    assert_eq!((said.code, said.finding("store-unreachable")["severity"].as_str()), (2, Some("problem")));
    assert!(!site.dir.join("nowhere").exists(), "a check makes no archive");
}

#[test]
fn a_mount_point_without_its_archive_is_left_empty() {
    let dir = TestDir::new();
    let store = dir.file_store("archive");
    let said = Said::of(barback(&["check", "--store", &store]));
    assert_eq!((said.code, said.finding("store-unreachable")["severity"].as_str()), (2, Some("problem")));
    assert_eq!(std::fs::read_dir(dir.join("archive")).unwrap().count(), 0);
}

#[test]
fn a_lifecycle_rule_that_would_eat_the_archive_is_found() {
    let Some(version) = newest() else { return };
    let Some(minio) = Minio::start() else { return };
    let dir = TestDir::new();
    let mut env = minio.env();
    env.push(("BARBACK_STORE".into(), "s3://bkt/pfx".into()));
    env.push(("BARBACK_CACHE_DIR".into(), dir.join("cache").display().to_string()));
    let command = format!("{} wal-archive %p", barback_binary().display());
    let options = archive_timeout().set("archive_mode", "on").set("archive_command", &command).envs(&env);
    let mut cluster = Cluster::init(&dir, &version, options);
    cluster.start();
    barback(&["backup", "--fast", "-d", &cluster.connect_string()]).envs(&env).success();
    cluster.archive_everything();
    let check = || Said::of(barback(&["check", "-d", &cluster.connect_string()]).envs(&env));
    let well = check();
    assert_eq!((well.code, well.worse()), (0, Vec::new()));

    let rule = |prefix: &str, days: u32| {
        format!(
            "<LifecycleConfiguration><Rule><ID>tidy up</ID><Filter><Prefix>{prefix}</Prefix></Filter>\
             <Status>Enabled</Status><Expiration><Days>{days}</Days></Expiration></Rule></LifecycleConfiguration>"
        )
    };
    minio.set_lifecycle(&rule("logs/", 3));
    assert_eq!(check().worse(), []);
    minio.set_lifecycle(&rule("pfx/", 30));
    let said = check();
    assert_eq!((said.code, said.problems()), (1, vec!["lifecycle"]));
    let what = said.what("lifecycle");
    assert!(what.contains("\"tidy up\"") && what.contains("30 days"), "{what}");
}

#[test]
fn a_server_that_ignores_create_only_puts_is_told_of() {
    let s3 = S3Server::ignoring_create_only();
    let said = checked_store(&s3, |_| None);
    assert_eq!(said.finding("create-only")["severity"], "warning");
}

#[test]
fn a_clock_that_is_off_is_found_by_the_store_s_own() {
    for (seconds, severity, word) in
        [(3600, "problem", "behind"), (-3600, "problem", "ahead"), (90, "warning", "behind")]
    {
        let s3 = S3Server::with_clock_ahead(TimeDelta::seconds(seconds));
        let said = checked_store(&s3, |_| None);
        assert_eq!(said.finding("clock-skew")["severity"], severity, "{seconds}");
        assert!(said.what("clock-skew").contains(word), "{}", said.what("clock-skew"));
    }
}

/// A check of the store alone, with one segment in it, by a client of whom some requests are refused.
fn checked_store(s3: &S3Server, refuses: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) -> Said {
    let env = crate::harness::on_s3(s3);
    let key = "pfx/main/wals/0000000100000000/000000010000000000000002.zst";
    let path = s3.object(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"wal").unwrap();
    s3.fault_when(refuses);
    let said = Said::of(barback(&["check", "-d", "host=/nonexistent", "--retry-timeout", "1"]).envs(&env));
    s3.heal();
    said
}

/// Whether a request is refused.
type Refuses = Box<dyn Fn(&Seen) -> bool + Send>;

#[test]
fn every_right_is_known_by_trying_it() {
    let is_key = |seen: &Seen| seen.target.contains("/barback/check-probe-");
    let denied = Some(Fault::Status(403));
    let table: [(&str, &str, Refuses); 5] = [
        ("store-put", "s3:PutObject", Box::new(move |seen| seen.method == "PUT" && is_key(seen))),
        ("store-get", "s3:GetObject", Box::new(move |seen| seen.method == "GET" && is_key(seen))),
        ("store-list", "s3:ListBucket", Box::new(|seen| seen.target.contains("list-type=2") || seen.method == "HEAD")),
        ("store-multipart", "s3:AbortMultipartUpload", Box::new(|seen| seen.target.contains("uploads"))),
        (
            "store-multipart",
            "s3:AbortMultipartUpload",
            Box::new(|seen| seen.method == "DELETE" && seen.target.contains("uploadId")),
        ),
    ];
    for (code, action, refuses) in table {
        let s3 = S3Server::start();
        let said = checked_store(&s3, move |seen| refuses(seen).then_some(()).and(denied));
        let finding = said.finding(code);
        assert_eq!(finding["severity"], "problem", "{code}: {finding}");
        assert!(finding["next"].as_str().unwrap().contains(action), "{finding}");
        assert!(said.problems().contains(&code) && said.code == 1);
        let rights = said.worse().into_iter().filter(|(_, code)| code.starts_with("store-")).count();
        assert_eq!(rights, 1, "nothing else is blamed: {:?}", said.worse());
    }
}

#[test]
fn every_kind_of_store_is_tried_and_left_as_it_was() {
    for_each_store(|store| {
        store.write("main/wals/0000000100000000/000000010000000000000002.zst", b"wal");
        let said = Said::of(store.run(&["check", "-d", "host=/nonexistent"]));
        assert_eq!(said.problems(), ["no-backup"], "of the store nothing");
        for code in ["store-put", "store-get", "store-list", "store-delete", "store-delete-batch", "create-only"] {
            assert_eq!(said.finding(code)["severity"], "ok", "{}", said.finding(code));
        }
        assert_eq!(store.keys().len(), 1, "{:?}", store.keys());
    });
}

#[test]
fn without_the_right_to_delete_one_object_is_left_and_said_and_used_again() {
    let s3 = S3Server::start();
    let refuses =
        |seen: &Seen| (seen.method == "DELETE" || seen.target.contains("?delete")).then_some(Fault::Status(403));
    for _ in 0..2 {
        let said = checked_store(&s3, refuses);
        let finding = said.finding("store-delete");
        assert_eq!(finding["severity"], "ok", "{finding}");
        let left: Vec<String> = s3.keys().into_iter().filter(|key| key.contains("check-probe")).collect();
        let [key] = &left[..] else { panic!("{left:?}") };
        assert!(finding["what"].as_str().unwrap().contains(key), "{finding}");
    }
    // It is cleared away by the first that may.
    assert_eq!(checked_store(&s3, |_| None).finding("store-delete")["severity"], "ok");
    assert!(s3.keys().iter().all(|key| !key.contains("check-probe")));
}

#[test]
fn segments_that_a_failover_left_behind_are_found_though_marked_as_done() {
    for_each_version(|version| {
        let s3 = S3Server::start();
        let site = Site::on_s3(version, &s3);
        // The old primary has stopped archiving; its standby streams what it writes.
        let options = archive_timeout().set("archive_mode", "on").set("archive_command", "false").envs(&s3.env());
        let mut primary = Cluster::init(&site.dir, version, options.set("wal_keep_size", "1GB"));
        primary.start();
        site.backup(&primary);
        let mut standby = Cluster::standby_of(&primary, &site.dir, "standby");
        standby.append_settings(&[("archive_command".into(), archive_command(&site))]);
        standby.start();
        let said = check(&site, &standby);
        assert!(said.what("archive-mode").contains("standby"), "{}", said.what("archive-mode"));
        assert_eq!(said.problems(), Vec::<&str>::new());
        let stranded = [switch_wal(&primary), switch_wal(&primary)];
        primary.psql("SELECT pg_create_restore_point('last')");
        let lsn = primary.psql("SELECT pg_current_wal_lsn()");
        standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t", PATIENCE);
        primary.stop("immediate");
        standby.promote();
        standby.archive_everything();
        let said = check(&site, &standby);
        assert_eq!(said.code, 1);
        let finding = said.finding("wal-left-behind");
        assert_eq!(finding["severity"], "problem");
        for segment in &stranded {
            assert!(finding["what"].as_str().unwrap().contains(segment), "{finding}");
        }
        assert!(said.next("wal-left-behind").ends_with("standby/pg_wal"), "{finding}");
    });
}

#[test]
fn another_cluster_s_archive_is_told_apart_by_both_identifiers() {
    let Some(version) = newest() else { return };
    let s3 = S3Server::start();
    let site = Site::on_s3(&version, &s3);
    let first = site.primary(archive_timeout());
    site.backup(&first);
    let identifier = |cluster: &Cluster| cluster.psql("SELECT system_identifier FROM pg_control_system()");
    let mut second = Cluster::init(&site.dir, &version, archive_timeout().name("second"));
    second.start();
    let said = check(&site, &second);
    let finding = said.finding("identity");
    assert_eq!((said.code, finding["severity"].as_str()), (1, Some("problem")));
    let what = finding["what"].as_str().unwrap();
    assert!(what.contains(&identifier(&first)) && what.contains(&identifier(&second)), "{what}");
}

#[test]
fn a_check_sends_no_request_for_each_object() {
    let s3 = S3Server::start();
    let requests = |s3: &S3Server| {
        s3.forget_requests();
        checked_store(s3, |_| None);
        s3.requests().len()
    };
    let few = requests(&s3);
    for number in 0..200 {
        let path = s3.object(&format!("pfx/main/wals/0000000100000000/0000000100000000000000{number:02X}.zst"));
        std::fs::write(path, b"wal").unwrap();
    }
    assert_eq!(requests(&s3), few);
    assert!(few < 40, "{few}");
}
