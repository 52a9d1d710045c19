//! Base backups pass between Barman 3.19.1 and us, both ways, in every format that both know.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{
    Cluster, ClusterOptions, Fault, PgVersion, Postgres, Run, S3Server, TestDir, archive_of, check_pgbench,
    files_below, for_each_version, give_away, running_cluster, skip, store_options,
};
use barback::commands::archive::{Archive, ContentCheck, WalCompression};
use barback::commands::backup::{
    self, BackupDone, BackupFailure, BackupRequest, FRUGAL_MEMORY_PER_JOB_BYTES, Naming, Stage, Tables, WalWait,
};
use barback::commands::lay_down::{LaidDown, LayDownFailure, LayDownRequest, lay_down};
use barback::commands::memory::Buffers;
use barback::commands::progress::Progress;
use barback::domain::backup::BackupStatus;
use barback::domain::barman_choice::{Refusal, TargetWords, Wanted};
use barback::domain::compression::Compression;
use barback::error::ErrorKind;
use barback::layout::backup_info;
use barback::postgres::configuration::Form;
use barback::postgres::conninfo::Conninfo;
use barback::store::StoreOptions;
use chrono::{DateTime, NaiveDateTime, Utc};

const STORE: &str = "s3://bkt/pfx";
const PATIENCE: Duration = Duration::from_mins(2);
/// Of `fixtures/barman-3.19.1`, oldest first.
const FIXTURE: [(&str, &str); 4] =
    [("20261123T083817", "fx1"), ("20261123T083822", "fx2"), ("20261123T083826", "fx3"), ("20261123T083832", "fx4")];
/// Regular files in the tars of each, but for the control file.
const FILES: u64 = 378;
/// The formats both tools know for tars, with Barman's option.
const CODECS: [(Compression, &[&str]); 5] = [
    (Compression::Gzip, &["--gzip"]),
    (Compression::Bzip2, &["--bzip2"]),
    (Compression::Snappy, &["--snappy"]),
    (Compression::Lz4, &["--lz4"]),
    (Compression::None, &[]),
];

#[test]
fn what_we_back_up_barman_restores_and_postgresql_starts() {
    let Some(barman) = Barman::find() else { return };
    let Some(version) = Postgres::newest() else { return };
    let site = Site::with_guests(&version);
    for (codec, _) in CODECS {
        pass_to_barman(&site, &barman, codec);
    }
}

#[test]
fn every_version_s_backup_is_restored_by_barman() {
    let Some(barman) = Barman::find() else { return };
    for_each_version(|version| pass_to_barman(&Site::with_guests(version), &barman, Compression::Gzip));
}

/// We back up, Barman restores; every file is the one that was backed up, and the copy recovers.
fn pass_to_barman(site: &Site, barman: &Barman, codec: Compression) {
    // Small tars, so that there are several of them and directories come in others than their files do.
    // And what barback's own command keeps beside them.
    let request = BackupRequest {
        compression: codec,
        max_tar_bytes: Some(256 << 10),
        tables: Tables::Recorded,
        ..site.request()
    };
    let done = site.back_up(request).unwrap();
    let id = done.backup.id.to_string();
    assert!(done.parts > 5, "{} parts", done.parts);
    assert!(done.wal.needed > 0);
    let listed = barman.run("backup-list", &[STORE, "main"]).envs(&site.s3.env()).success().stdout;
    assert!(listed.lines().any(|line| line.starts_with(&id)), "{listed}");

    let (theirs, ours) = (site.dir.join(format!("theirs-{codec}")), site.dir.join(format!("ours-{codec}")));
    barman.restore(site, &id, &theirs).success();
    site.lay_down(&id, &ours).unwrap();
    assert_same_trees(&theirs, &ours, |_| false);
    assert_same_trees(&site.moved(&theirs), &site.moved(&ours), |_| false);
    verify(site, &theirs, &id);
    let mut cluster = site.start_copy(&theirs, barman);
    check_pgbench(&cluster);
    assert_eq!(cluster.psql("SELECT sum(n) FROM in_side"), "500500");
    assert!(cluster.psql("SELECT pg_read_file('unié.txt')").starts_with("ü"));
    cluster.stop("fast");
}

/// Holds a restored copy against the manifest that our backup keeps beside its parts.
fn verify(site: &Site, copy: &Path, id: &str) {
    let packed = std::fs::read(site.s3.object(&format!("pfx/main/base/{id}/backup_manifest.zst"))).unwrap();
    let manifest = copy.join("backup_manifest");
    std::fs::write(&manifest, zstd::stream::decode_all(packed.as_slice()).unwrap()).unwrap();
    give_away(&manifest);
    Cluster::open(&site.dir, copy, &site.version).verify_backup();
    std::fs::remove_file(manifest).unwrap();
}

#[test]
fn what_barman_backs_up_we_restore_as_barman_does() {
    let Some(barman) = Barman::find() else { return };
    let Some(version) = Postgres::newest() else { return };
    let site = Site::with_guests(&version);
    for (codec, option) in CODECS {
        let id = barman.back_up(&site, option);
        let (theirs, ours) = (site.dir.join(format!("theirs-{codec}")), site.dir.join(format!("ours-{codec}")));
        barman.restore(&site, &id, &theirs).success();
        let laid = site.lay_down(&id, &ours).unwrap();
        assert_eq!(laid.backup.status, BackupStatus::Done);
        // Barman gives its label mode 0644 and to root; PostgreSQL renames and removes it either way.
        assert_same_trees(&theirs, &ours, |_| false);
        assert_same_trees(&site.moved(&theirs), &site.moved(&ours), |_| false);
        assert_eq!(std::fs::read_to_string(ours.join("hard")).unwrap(), "linked");
        let mut cluster = site.start_copy(&ours, &barman);
        check_pgbench(&cluster);
        assert_eq!(cluster.psql("SELECT sum(n) FROM in_side"), "500500");
        cluster.stop("fast");
    }
}

#[test]
fn a_backup_has_the_habits_it_is_asked_for() {
    for_each_version(|version| {
        let site = Site::with_guests(version);
        std::fs::create_dir(site.cluster.data().join("log")).unwrap();
        std::fs::write(site.cluster.data().join("log/old.log"), "x").unwrap();
        let clock = NaiveDateTime::parse_from_str("20260102T030405", "%Y%m%dT%H%M%S").unwrap();
        let request = BackupRequest {
            naming: Naming::as_barman(clock),
            compression: Compression::Lz4,
            name: Some("nightly".parse().unwrap()),
            ..site.request()
        };
        let done = site.back_up(request).unwrap();
        assert_eq!(done.backup.id.as_str(), "20260102T030405");
        let label = done.backup.backup_label.clone().unwrap();
        assert!(label.contains("LABEL: Barman backup cloud 20260102T030405\n"), "{label}");
        assert!(site.cluster.log().contains("\"barman_20260102T030405\""), "no restore point in the server's log");
        let again = site.back_up(BackupRequest { naming: Naming::as_barman(clock), ..site.request() }).unwrap();
        assert_eq!(again.backup.id.as_str(), "20260102T030406", "the id was taken");

        let copy = site.dir.join("copy");
        site.lay_down("nightly", &copy).unwrap();
        assert!(copy.join("log").is_dir() && !copy.join("log/old.log").exists());
        // The tablespace without an object in it has a tar as well.
        let oid = site.cluster.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'empty'");
        assert!(site.s3.keys().contains(&format!("pfx/main/base/20260102T030405/{oid}.tar.lz4")));
        // What ends recovery is in the last tar of the data directory, and nothing else is.
        let prefix = "pfx/main/base/20260102T030405/data";
        let last = site.s3.keys().into_iter().filter(|key| key.starts_with(prefix)).max().unwrap();
        let unpacked = lz4_flex::frame::FrameDecoder::new(std::fs::File::open(site.s3.object(&last)).unwrap());
        let mut tar = tar::Archive::new(unpacked);
        let members = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        assert_eq!(members.collect::<Vec<_>>(), ["global/pg_control", "backup_label"]);
    });
}

#[test]
fn configuration_from_elsewhere_comes_as_it_is_under_its_own_name() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let etc = dir.create_dir("etc");
    let hba = dir.write("etc/rules.conf", "local all all trust # kept\n");
    let (hba, absent) = (hba.display().to_string(), etc.join("absent").display().to_string());
    // Of the three files in use, only that of users' names may be missing.
    let options = ClusterOptions::default().set("hba_file", &hba).set("ident_file", absent);
    let site = Site::of(dir, &version, options);
    let (id, copy) = (site.back_up(site.request()).unwrap().backup.id, site.dir.join("copy"));
    site.lay_down(id.as_str(), &copy).unwrap();
    assert_eq!(std::fs::read_to_string(copy.join("rules.conf")).unwrap(), "local all all trust # kept\n");
    let settings = std::fs::read_to_string(copy.join("postgresql.conf")).unwrap();
    assert!(settings.contains(&format!("hba_file = '{hba}'\n")), "settings were changed");
    assert!(!copy.join("absent").exists());
}

#[test]
fn the_server_s_word_is_taken_for_its_wal_when_that_is_asked_for() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let elsewhere = dir.create_dir("wal");
    let archive = format!("cp %p {}/%f", elsewhere.display());
    let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", archive);
    let site = Site::of(dir, &version, options);
    let done = site.back_up(BackupRequest { wal: WalWait::Server, ..site.request() }).unwrap();
    assert_eq!(done.wal.needed, 0);
    assert!(site.s3.keys().iter().all(|key| !key.contains("/wals/")), "{:?}", site.s3.keys());
    let segment = done.backup.begin_segment.unwrap().to_string();
    assert!(elsewhere.join(segment).is_file(), "the stop did not wait for the archiver");
}

#[test]
fn a_failure_tells_how_far_the_backup_had_come() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::with_guests(&version);
    let nowhere = site.cluster.connect_string().replace("port=2", "port=3");
    let request = BackupRequest { conninfo: conninfo(&nowhere), ..site.request() };
    assert_eq!(site.back_up(request).unwrap_err().stage, Stage::Connecting);
    let request = BackupRequest { pgdata: Some(site.dir.join("elsewhere")), ..site.request() };
    assert_eq!(site.back_up(request).unwrap_err().stage, Stage::Preparing);
    assert_eq!(site.s3.keys(), Vec::<String>::new());

    site.s3.fault_when(|seen| seen.target.contains(".tar").then_some(Fault::Status(403)));
    let request = BackupRequest { name: Some("nightly".parse().unwrap()), ..site.request() };
    let failure = site.back_up(request).unwrap_err();
    site.s3.heal();
    let Stage::Running(Some(id)) = failure.stage.clone() else { panic!("{failure:?}") };
    assert_eq!(failure.cause.kind(), ErrorKind::Denied);
    let info = std::fs::read_to_string(site.s3.object(&format!("pfx/main/base/{id}/backup.info"))).unwrap();
    let record = backup_info::parse(&id, &info).unwrap();
    let text = failure.cause.to_string();
    let first_line = text.lines().next().unwrap();
    assert_eq!(record.error, Some(format!("failure uploading data ({first_line})")));
    assert_eq!((record.status, record.end_time, record.name.as_deref()), (BackupStatus::Failed, None, Some("nightly")));
    assert!(barback::error::Error::from(failure).to_string().contains(id.as_str()));
}

#[test]
fn a_backup_that_the_server_refuses_to_begin_is_recorded_as_failed() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::with_guests(&version);
    site.cluster.psql("CREATE ROLE weak LOGIN");
    site.cluster.psql("GRANT pg_monitor TO weak");
    let weak = site.cluster.connect_string().replace("user=postgres", "user=weak");
    let failure = site.back_up(BackupRequest { conninfo: conninfo(&weak), ..site.request() }).unwrap_err();
    let Stage::Running(Some(id)) = failure.stage else { panic!("{failure:?}") };
    let info = std::fs::read_to_string(site.s3.object(&format!("pfx/main/base/{id}/backup.info"))).unwrap();
    let record = backup_info::parse(&id, &info).unwrap();
    assert_eq!((record.status, record.begin_time, record.end_time), (BackupStatus::Failed, None, None));
    assert!(record.error.is_some_and(|error| error.contains("permission denied for function pg_backup_start")));
    if let Some(barman) = Barman::find() {
        let listed = barman.run("backup-list", &[STORE, "main"]).envs(&site.s3.env()).success().stdout;
        assert!(listed.contains(id.as_str()) && listed.contains("FAILED"), "{listed}");
    }
}

#[test]
fn a_failure_at_the_very_end_leaves_a_record_without_an_end() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::with_guests(&version);
    site.s3.fault_when(|seen| seen.target.contains("barback.json").then_some(Fault::Status(403)));
    let failure = site.back_up(site.request()).unwrap_err();
    site.s3.heal();
    let Stage::Running(Some(id)) = &failure.stage else { panic!("{failure:?}") };
    let info = std::fs::read_to_string(site.s3.object(&format!("pfx/main/base/{id}/backup.info"))).unwrap();
    let record = backup_info::parse(id, &info).unwrap();
    assert_eq!((record.status, record.end_time, record.end_lsn), (BackupStatus::Failed, None, None));
    // Its name, its id and the target all lead past it.
    let refused = site.lay_down(id.as_str(), &site.dir.join("copy")).unwrap_err();
    assert_eq!(refusal(refused), Refusal::NotDone(id.clone(), BackupStatus::Failed));
    assert_eq!(refusal(site.lay_down("auto", &site.dir.join("copy")).unwrap_err()), Refusal::NoCandidate);
}

/// What `barman-cloud-backup` gives to so many jobs, in parts of 10 MiB.
fn frugal(jobs: usize) -> Buffers {
    Buffers::within(2 * FRUGAL_MEMORY_PER_JOB_BYTES, jobs, 10 << 20)
}

#[test]
fn a_limit_on_the_rate_holds_for_a_single_small_part_too() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::with_guests(&version);
    let rate = 1 << 20;
    let begun = Instant::now();
    let request = BackupRequest {
        compression: Compression::Lz4,
        max_rate_bytes_per_s: Some(rate),
        buffers: frugal(1),
        ..site.request()
    };
    let done = site.back_up(request).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let allowed = seconds * f64::from(u32::try_from(rate).unwrap()) + f64::from(1 << 18);
    let stored = f64::from(u32::try_from(done.stored_bytes).unwrap());
    assert!(stored > 2e6 && stored <= allowed, "{stored} bytes in {seconds} s");
    let begun = Instant::now();
    let request = BackupRequest {
        compression: Compression::Lz4,
        max_rate_bytes_per_s: Some(1000),
        has_loose_rate: true,
        ..site.request()
    };
    site.back_up(request).unwrap();
    assert!(begun.elapsed() < PATIENCE, "tars of one part each were held back");
}

#[test]
fn every_backup_of_the_fixture_is_laid_down_as_it_is_in_its_tars() {
    let site = Fixture::new();
    for (id, name) in FIXTURE {
        let copy = site.dir.join(id);
        let laid = site.lay_down(name, TargetWords::default(), &copy).unwrap();
        assert_eq!((laid.backup.id.as_str(), laid.files), (id, FILES));
        let mode = |path: &str| std::fs::symlink_metadata(copy.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode(""), mode("emptydir"), mode("unié.txt"), mode("PG_VERSION")), (0o700, 0o755, 0o644, 0o600));
        assert_eq!(std::fs::read_link(copy.join("mylink")).unwrap(), Path::new("/etc/hostname"));
        let moved = site.dir.join(format!("{id}-ts"));
        assert_eq!(std::fs::read_link(copy.join("pg_tblspc/16389")).unwrap(), moved);
        for left_alone in ["pg_wal/archive_status", "recovery.signal", "backup_manifest"] {
            assert!(!copy.join(left_alone).exists(), "{left_alone}");
        }
        let settings = std::fs::read_to_string(copy.join("postgresql.auto.conf")).unwrap();
        assert!(!settings.contains("archive_mode") && settings.len() == 88, "{settings}");
        if let Some(barman) = Barman::find() {
            let theirs = site.dir.join(format!("{id}-theirs"));
            barman.restore_moved(&site.s3, id, &theirs, &format!("ts1:{}-ts", theirs.display())).success();
            assert_same_trees(&theirs, &copy, |_| false);
            assert_same_trees(&site.dir.join(format!("{id}-theirs-ts")), &moved, |_| false);
        }
    }
}

#[test]
fn words_and_targets_choose_among_barman_s_backups_and_pass_over_debris() {
    let site = Fixture::new();
    for (id, status) in [("20261123T090000", "FAILED"), ("20261123T090001", "STARTED")] {
        site.put(&format!("pfx/main/base/{id}/backup.info"), format!("status={status}\ntimeline=1\n").as_bytes());
        site.put(&format!("pfx/main/base/{id}/data.tar.gz"), b"debris");
    }
    site.put("pfx/main/base/20261123T090002/data.tar.gz", b"without a record");
    site.put("pfx/main/base/20261123T090003/backup.info", b"this is none\n");
    let by = |time, lsn, timeline| TargetWords { time, lsn, timeline };
    for (number, (word, target, expected)) in [
        ("auto", TargetWords::default(), "20261123T083832"),
        ("auto", by(Some("2026-11-23 08:38:24Z"), None, None), "20261123T083822"),
        ("auto", by(None, Some("0/1900100"), None), "20261123T083826"),
        ("auto", by(None, None, Some("1")), "20261123T083832"),
        ("last", TargetWords::default(), "20261123T083832"),
        ("oldest", TargetWords::default(), "20261123T083817"),
        ("20261123T083822", TargetWords::default(), "20261123T083822"),
    ]
    .into_iter()
    .enumerate()
    {
        let laid = site.lay_down(word, target, &site.dir.join(format!("copy-{number}"))).unwrap();
        assert_eq!(laid.backup.id.as_str(), expected, "{word} {target:?}");
    }
    let copy = site.dir.join("copy");
    let refused = |word: &str, target| refusal(site.lay_down(word, target, &copy).unwrap_err()).text("main");
    let plain = TargetWords::default();
    let no_candidate = "Cannot find any candidate backup for recovery.";
    assert_eq!(refused("auto", by(None, None, Some("2"))), no_candidate);
    // The fixture's WAL has come to timeline 2, on which there is no backup.
    assert_eq!(refused("auto", by(None, None, Some("latest"))), no_candidate);
    assert_eq!(refused("20261123T090002", plain), "Backup 20261123T090002 for server main does not exists");
    assert!(refused("20261123T090000", plain).contains("has status FAILED"));
    assert!(refused("20261123T090001", plain).contains("has status STARTED"));
    assert!(refused("last-failed", plain).contains("20261123T090000"));
    let failed = site.lay_down("20261123T090003", plain, &copy).unwrap_err();
    assert!(matches!(failed, LayDownFailure::Failed(error) if error.kind() == ErrorKind::Corrupt));
    assert!(!copy.exists());
}

#[test]
fn what_is_in_the_way_or_missing_is_refused_before_anything_is_written() {
    let site = Fixture::new();
    let (full, copy) = (site.dir.create_dir("full"), site.dir.join("copy"));
    std::fs::write(full.join("x"), "").unwrap();
    let plain = TargetWords::default();
    let refused = |word: &str, directory: &Path| refusal(site.lay_down(word, plain, directory).unwrap_err());
    assert_eq!(
        refused("fx1", &full).text("main"),
        format!("Destination {} already exists and it is not empty", full.display())
    );
    let moved = site.dir.create_dir("copy-ts");
    std::fs::write(moved.join("x"), "").unwrap();
    assert_eq!(refused("fx1", &copy), Refusal::NotEmpty(moved.clone()));
    std::fs::remove_dir_all(&moved).unwrap();

    std::fs::remove_file(site.s3.object("pfx/main/base/20261123T083822/16389.tar.snappy")).unwrap();
    std::fs::remove_file(site.s3.object("pfx/main/base/20261123T083817/data.tar.gz")).unwrap();
    std::fs::remove_file(site.s3.object("pfx/main/base/20261123T083826/data_0002.tar.lz4")).unwrap();
    assert_eq!(refused("fx1", &copy).text("main"), "Missing file pfx/main/base/20261123T083817/data.* for server main");
    assert_eq!(
        refused("fx2", &copy).text("main"),
        "Missing file pfx/main/base/20261123T083822/16389.* for server main"
    );
    let hole = site.lay_down("fx3", plain, &copy).unwrap_err();
    assert!(matches!(hole, LayDownFailure::Failed(error) if error.to_string().contains("part 2 of data is not there")));
    assert!(!copy.exists());

    // Without its last tar, of which nothing tells, everything comes but what would start.
    let site = Fixture::new();
    std::fs::remove_file(site.s3.object("pfx/main/base/20261123T083817/data_0005.tar.gz")).unwrap();
    let failed = site.lay_down("fx1", plain, &copy).unwrap_err();
    assert!(matches!(failed, LayDownFailure::Failed(error) if error.kind() == ErrorKind::Corrupt));
    assert!(copy.join("PG_VERSION").is_file() && !copy.join("global/pg_control").exists());
}

#[test]
fn an_incomplete_backup_is_laid_down_only_on_demand() {
    let site = Fixture::new();
    let key = "pfx/main/base/20261123T083832/backup.info";
    let info = std::fs::read_to_string(site.s3.object(key)).unwrap();
    let started: Vec<&str> = info.lines().filter(|line| !line.starts_with("end_")).collect();
    let failed = started.join("\n") + "\n";
    site.put(key, failed.replace("status=DONE", "status=FAILED").as_bytes());
    let copy = site.dir.join("copy");
    let request = |any_status| LayDownRequest { any_status, ..site.request("fx4", TargetWords::default(), &copy) };
    assert!(matches!(refusal(site.run(&request(false)).unwrap_err()), Refusal::NotDone(..)));
    assert_eq!(site.run(&request(true)).unwrap().files, FILES);
    assert!(copy.join("global/pg_control").is_file());
}

#[test]
fn a_record_with_comments_and_gaps_is_enough_and_a_snapshot_is_refused() {
    let site = Fixture::new();
    let key = "pfx/main/base/20261123T083832/backup.info";
    site.put(key, b"# a comment\n\nstatus=DONE\ntablespaces=[('ts1', 16389, '/nowhere/ts1')]\nbackup_label=None\n");
    let copy = site.dir.join("copy");
    assert_eq!(site.lay_down("20261123T083832", TargetWords::default(), &copy).unwrap().files, FILES);
    site.put(key, b"status=DONE\nsnapshots_info={'provider': 'aws', 'provider_info': {}, 'snapshots': []}\n");
    let refused = refusal(site.lay_down("last", TargetWords::default(), &site.dir.join("two")).unwrap_err());
    assert!(matches!(refused, Refusal::Snapshot(_)), "{refused:?}");
}

fn refusal(failure: LayDownFailure) -> Refusal {
    match failure {
        LayDownFailure::Refused(refusal) => refusal,
        LayDownFailure::Failed(error) => panic!("not refused, but failed: {error}"),
    }
}

/// What stands at a path: its mode and its content or its target.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(PathBuf),
}

/// Compares two restored directories, but for the targets of links in `pg_tblspc`, which differ of necessity.
fn assert_same_trees(theirs: &Path, ours: &Path, is_excused: impl Fn(&Path) -> bool) {
    let (left, right) = (tree(theirs), tree(ours));
    let names = |tree: &BTreeMap<PathBuf, There>| tree.keys().cloned().collect::<BTreeSet<_>>();
    let missing: Vec<_> = names(&left).symmetric_difference(&names(&right)).cloned().collect();
    assert!(missing.is_empty(), "on one side only: {missing:?}");
    for (path, there) in &left {
        if !path.starts_with("pg_tblspc") && !is_excused(path) {
            assert!(there == &right[path], "\"{}\" differs: {}", path.display(), shown(there, &right[path]));
        }
    }
}

fn shown(theirs: &There, ours: &There) -> String {
    let shape = |there: &There| match there {
        There::File(mode, content) => format!("file {mode:o} of {} bytes", content.len()),
        There::Directory(mode) => format!("directory {mode:o}"),
        There::Link(target) => format!("link to {}", target.display()),
    };
    format!("{} there, {} here", shape(theirs), shape(ours))
}

fn tree(root: &Path) -> BTreeMap<PathBuf, There> {
    let mut seen = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let facts = std::fs::symlink_metadata(&path).unwrap();
        let mode = facts.permissions().mode() & 0o7777;
        let there = if facts.is_symlink() {
            There::Link(std::fs::read_link(&path).unwrap())
        } else if facts.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            // A tablespace's own directory is not in its tar: Barman leaves its mode to the umask.
            There::Directory(if path == root { 0 } else { mode })
        } else {
            There::File(mode, std::fs::read(&path).unwrap())
        };
        seen.insert(path.strip_prefix(root).unwrap().to_owned(), there);
    }
    seen
}

/// A running cluster with two tablespaces and strange guests in its data directory, and a server for its backups.
struct Site {
    cluster: Cluster,
    s3: S3Server,
    version: PgVersion,
    dir: TestDir,
}

impl Site {
    fn with_guests(version: &PgVersion) -> Self {
        let site = Self::of(TestDir::new(), version, ClusterOptions::default());
        let space = site.dir.create_dir("space");
        let empty = site.dir.create_dir("empty");
        site.cluster.psql(&format!("CREATE TABLESPACE side LOCATION '{}'", space.display()));
        site.cluster.psql(&format!("CREATE TABLESPACE empty LOCATION '{}'", empty.display()));
        site.cluster.psql("CREATE TABLE in_side TABLESPACE side AS SELECT generate_series(1, 1000) AS n");
        let data = site.cluster.data();
        for (name, content) in [("unié.txt", "ü"), ("linked", "linked")] {
            std::fs::write(data.join(name), content).unwrap();
            give_away(&data.join(name));
        }
        std::fs::hard_link(data.join("linked"), data.join("hard")).unwrap();
        site
    }

    fn of(dir: TestDir, version: &PgVersion, options: ClusterOptions) -> Self {
        let cluster = running_cluster(&dir, version, options.wal_segment_mb(1).set("log_statement", "all"), 1);
        Self { cluster, s3: S3Server::start(), version: version.clone(), dir }
    }

    fn request(&self) -> BackupRequest {
        BackupRequest {
            conninfo: conninfo(&self.cluster.connect_string()),
            pgdata: None,
            name: None,
            naming: Naming::as_barman(Utc::now().naive_utc()),
            buffers: frugal(2),
            compression: Compression::Gzip,
            level: None,
            wal_compression: WalCompression { codec: Compression::Gzip, level: None },
            fast: true,
            max_rate_bytes_per_s: None,
            has_loose_rate: false,
            max_tar_bytes: Some(100 << 30),
            configuration: Form::AsItIs,
            with_logs: false,
            tables: Tables::PassedOver,
            check: ContentCheck::Checked,
            wal: WalWait::Store,
            wal_timeout: PATIENCE,
            now: Utc::now(),
        }
    }

    fn back_up(&self, request: BackupRequest) -> Result<BackupDone, BackupFailure> {
        on_runtime(async {
            let archive = archive(&self.s3).await;
            backup::backup(&archive, request, Arc::new(Progress::default())).await
        })
    }

    fn lay_down(&self, word: &str, directory: &Path) -> Result<LaidDown, LayDownFailure> {
        let tablespaces = ["side", "empty"].map(|name| (name.to_owned(), self.moved_one(directory, name)));
        let mut request = lay_down_request(word, TargetWords::default(), directory)?;
        request.tablespaces = tablespaces.into();
        on_runtime(async { lay_down(&archive(&self.s3).await, &request, Arc::new(Progress::default())).await })
    }

    /// Where the tablespace goes that is not empty.
    fn moved(&self, directory: &Path) -> PathBuf {
        self.moved_one(directory, "side")
    }

    fn moved_one(&self, directory: &Path, name: &str) -> PathBuf {
        self.dir.join(format!("{}-{name}", directory.file_name().unwrap().display()))
    }

    /// Starts a copy that gets its WAL through Barman, and waits for its promotion.
    fn start_copy(&self, copy: &Path, barman: &Barman) -> Cluster {
        let signal = copy.join("recovery.signal");
        std::fs::write(&signal, "").unwrap();
        give_away(&signal);
        let mut cluster = Cluster::open(&self.dir, copy, &self.version).envs(&self.s3.env());
        let command = format!("{}/barman-cloud-wal-restore {STORE} main %f %p", barman.bindir.display());
        cluster.append_settings(&[("restore_command".into(), command), ("archive_mode".into(), "off".into())]);
        cluster.start();
        cluster.wait_until("SELECT pg_is_in_recovery()", "f", PATIENCE);
        cluster
    }
}

/// The fixture's bucket on a server, in which tablespace `ts1` goes to a directory beside the data directory.
struct Fixture {
    s3: S3Server,
    dir: TestDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { s3: S3Server::start(), dir: TestDir::new() };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1/bucket");
        for path in files_below(&root) {
            let key = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            fixture.put(&key, &std::fs::read(&path).unwrap());
        }
        fixture
    }

    fn put(&self, key: &str, content: &[u8]) {
        let path = self.s3.object(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn request(&self, word: &str, target: TargetWords<'_>, directory: &Path) -> LayDownRequest {
        let mut request = lay_down_request(word, target, directory).unwrap();
        let moved = self.dir.join(format!("{}-ts", directory.file_name().unwrap().display()));
        request.tablespaces = BTreeMap::from([("ts1".to_owned(), moved), ("unknown".to_owned(), "/x".into())]);
        request
    }

    fn lay_down(&self, word: &str, target: TargetWords<'_>, directory: &Path) -> Result<LaidDown, LayDownFailure> {
        self.run(&self.request(word, target, directory))
    }

    fn run(&self, request: &LayDownRequest) -> Result<LaidDown, LayDownFailure> {
        on_runtime(async { lay_down(&archive(&self.s3).await, request, Arc::new(Progress::default())).await })
    }
}

fn lay_down_request(word: &str, target: TargetWords<'_>, directory: &Path) -> Result<LayDownRequest, LayDownFailure> {
    let utc = |_: NaiveDateTime| *DateTime::<Utc>::UNIX_EPOCH.fixed_offset().offset();
    Ok(LayDownRequest {
        wanted: Wanted::read(word, target, utc)?,
        directory: directory.to_owned(),
        tablespaces: BTreeMap::new(),
        jobs: 3,
        any_status: false,
    })
}

/// Barman's own programs.
struct Barman {
    bindir: PathBuf,
}

impl Barman {
    fn find() -> Option<Self> {
        let named = std::env::var_os("BARBACK_BARMAN_BIN").map(PathBuf::from);
        let bindir = named.unwrap_or_else(|| "/var/cache/barback-tools/barman-3.19.1/bin".into());
        if !bindir.join("barman-cloud-restore").is_file() {
            skip("Barman 3.19.1", "it is not installed");
            return None;
        }
        Some(Self { bindir })
    }

    fn run(&self, command: &str, args: &[&str]) -> Run {
        Run::new(self.bindir.join(format!("barman-cloud-{command}"))).args(args)
    }

    /// Backs the site up in tars of a megabyte; the id.
    fn back_up(&self, site: &Site, options: &[&str]) -> String {
        let connect = site.cluster.connect_string();
        let run = self.run("backup", &["-v", "--immediate-checkpoint", "-S", "1MB", "-d", &connect]).args(options);
        let said = run.args([STORE, "main"]).envs(&site.s3.env()).success().stderr;
        // Without an archiver the WAL goes to the bucket by hand.
        site.cluster.psql("SELECT pg_switch_wal()");
        for entry in std::fs::read_dir(site.cluster.data().join("pg_wal")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let key = format!("pfx/main/wals/0000000100000000/{}", path.file_name().unwrap().display());
                let object = site.s3.object(&key);
                std::fs::create_dir_all(object.parent().unwrap()).unwrap();
                std::fs::copy(path, object).unwrap();
            }
        }
        said.split("Starting backup '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap().to_owned()
    }

    /// Restores with both tablespaces beside the copy.
    fn restore(&self, site: &Site, id: &str, directory: &Path) -> Run {
        let rules = ["side", "empty"].map(|name| format!("{name}:{}", site.moved_one(directory, name).display()));
        let run = self.run("restore", &[STORE, "main", id]).arg(directory).envs(&site.s3.env());
        run.args(rules.iter().flat_map(|rule| ["--tablespace", rule]))
    }

    fn restore_moved(&self, s3: &S3Server, id: &str, directory: &Path, rule: &str) -> Run {
        self.run("restore", &[STORE, "main", id]).arg(directory).args(["--tablespace", rule]).envs(&s3.env())
    }
}

fn conninfo(text: &str) -> Conninfo {
    Conninfo::resolve_named(text, &BTreeMap::new(), "barman_cloud_backup").unwrap()
}

async fn archive(s3: &S3Server) -> Archive {
    archive_of(StoreOptions { retry_timeout_s: 10, may_create_directory: true, ..store_options(STORE, s3.env()) }).await
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}
