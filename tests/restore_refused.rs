//! What restore refuses: each refusal says why and what is possible, has its exit code, and leaves the directory alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::Path;

use crate::harness::{Cluster, ClusterOptions, PgVersion, Postgres, Site, files_below, snapshot};

/// An archive with two backups, rows between them, and a gap in the WAL behind the second.
struct Archive {
    site: Site,
    primary: Cluster,
    first: String,
    second: String,
    /// Before the first backup, as time and as LSN.
    early: (String, String),
    /// LSN just after the row that was written between the backups.
    between: String,
    /// The last segment that is archived.
    last_segment: String,
}

impl Archive {
    fn write(version: &PgVersion) -> Self {
        let site = Site::on_files(version);
        let primary = site.primary(ClusterOptions::default().wal_segment_mb(1));
        primary.psql("CREATE TABLE t (n int)");
        let early = (now(&primary), primary.psql("SELECT pg_current_wal_lsn()"));
        let first = site.backup(&primary);
        primary.psql("INSERT INTO t VALUES (1)");
        primary.archive_everything();
        let between = primary.psql("SELECT pg_current_wal_lsn()");
        primary.psql("INSERT INTO t VALUES (2)");
        let second = site.backup(&primary);
        primary.psql("INSERT INTO t VALUES (3)");
        let last_segment = primary.archive_everything();
        Self { site, primary, first, second, early, between, last_segment }
    }

    /// Refused with `code` and nothing touched; what was said.
    fn refused(&self, code: i32, args: &[&str]) -> String {
        let (store, copy) = (self.site.dir.join("store"), self.site.dir.join("copy"));
        let before = snapshot(&store);
        let refused = self.site.restore_run("copy", args).run().expect_code(code);
        assert!(refused.stdout.is_empty(), "{}", refused.stdout);
        assert!(!copy.exists() && snapshot(&store) == before, "a refusal touched something");
        refused.stderr
    }

    /// The same, because of the recovery window, both ends of which are named as time and LSN.
    fn out_of_window(&self, args: &[&str], why: &str) {
        let text = self.refused(1, args);
        assert!(text.contains(why), "{args:?}: {text}");
        let window = text.split_once(" reach from ").map(|(_, rest)| rest).unwrap_or_default();
        assert_eq!(window.matches("+00 (LSN ").count(), 2, "{args:?}: {text}");
    }
}

fn now(cluster: &Cluster) -> String {
    cluster.psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'")
}

/// Changes one byte in the middle of `path`.
fn flip_a_byte(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0x20;
    std::fs::write(path, content).unwrap();
}

#[test]
fn a_target_outside_the_window_is_refused_with_both_ends() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::write(&version);
    let Archive { early: (early_time, early_lsn), second, between, .. } = &archive;
    archive.out_of_window(&["--target-time", early_time], "after the target");
    archive.out_of_window(&["--target-lsn", early_lsn], "after the target");
    archive.out_of_window(&["--target-time", "2094-01-01T00:00:00Z"], "in the future");
    archive.out_of_window(&["--target-lsn", "F/0"], "the archive ends at");
    archive.out_of_window(&["--target-lsn", between, "--backup", second], "after the target");
    let text = archive.refused(1, &["--target-lsn", between, "--backup", second]);
    assert!(
        text.contains(&format!("HINT:  backup \"{}\" leads", archive.first)) || text.contains(&archive.first),
        "{text}"
    );
    archive.refused(1, &["--backup", "20010101T000000"]);
}

#[test]
fn missing_wal_in_the_middle_is_refused_or_kept_out_of_the_way() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::write(&version);
    let Archive { site, primary, first, second, between, .. } = &archive;
    primary.psql("INSERT INTO t VALUES (4)");
    let gap = primary.archive_everything();
    primary.psql("INSERT INTO t VALUES (5)");
    primary.archive_everything();
    let (beyond, beyond_time) = (primary.psql("SELECT pg_current_wal_lsn() - 64"), now(primary));
    std::fs::remove_file(site.stored_file(&gap)).unwrap();
    archive.out_of_window(&["--target-lsn", &beyond], &format!("segment \"{gap}\" is missing"));
    archive.out_of_window(&["--target-time", &beyond_time], &format!("segment \"{gap}\" is missing"));
    let plan = site.restore_run("copy", &["--plan"]).success().stdout;
    assert!(plan.contains(&gap) && plan.contains("nothing committed after"), "{plan}");

    // A gap within the newer backup: the older one serves what lies before, and nothing serves what lies after.
    let shown = site.barback(&["show", second, "-o", "json"]).success().stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let segment = shown["backup"]["begin_segment"].as_str().unwrap_or_else(|| panic!("{shown}")).to_owned();
    std::fs::remove_file(site.stored_file(&format!("{segment}.zst"))).unwrap();
    let text = archive.refused(1, &["--backup", second]);
    assert!(text.contains(&segment) && text.contains("is not in the archive"), "{text}");
    let restored = site.restore("before", &["--target-lsn", between, "--target-action", "promote"]);
    assert_eq!(&restored.backup_id, first);
    restored.promoted(|copy| assert_eq!(copy.psql("SELECT string_agg(n::text, ' ') FROM t"), "1"));
}

#[test]
fn a_directory_that_is_in_use_or_not_fit_is_refused() {
    let Some(version) = Postgres::newest() else { return };
    let mut archive = Archive::write(&version);
    let refuse = |archive: &Archive, name: &str, code: i32, args: &[&str], why: &str| {
        let text = archive.site.restore_run(name, args).run().expect_code(code).stderr;
        assert!(text.contains(why), "{text}");
    };
    refuse(&archive, "data", 4, &[], "a server runs there");
    assert_eq!(archive.primary.psql("SELECT count(*) FROM t"), "3");
    archive.primary.stop("fast");
    let before = snapshot(archive.site.dir.path());
    refuse(&archive, "data", 4, &[], "it is not empty");
    refuse(&archive, "store", 4, &["--plan"], "it is not empty");
    refuse(&archive, "copy", 3, &["--tablespace", "fast=/tmp/x"], "the backup has no tablespace \"fast\"");
    refuse(&archive, "copy", 3, &["--target-xid", "900", "--target-immediate"], "cannot be used with");
    if let Some(other) = Postgres::version(16) {
        let bindir = other.bindir.display().to_string();
        refuse(
            &archive,
            "copy",
            4,
            &["--pg-bindir", &bindir],
            &format!("the backup is of PostgreSQL {}", version.major),
        );
    }
    let right = version.bindir.display().to_string();
    archive.site.restore_run("copy", &["--plan", "--pg-bindir", &right]).success();
    assert!(snapshot(archive.site.dir.path()) == before, "a refusal touched something");
}

#[test]
fn a_time_without_an_offset_is_refused_with_its_three_readings() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let args = ["--target-time", "2026-06-08 11:32:00"];
    let text = site.restore_run("copy", &args).env("TZ", "Europe/Berlin").run().expect_code(3).stderr;
    for reading in ["2026-06-08 11:32:00+00 in UTC", "2026-06-08 11:32:00+02:00 in this host", "timezone setting"] {
        assert!(text.contains(reading), "{text}");
    }
    let winter = ["--target-time", "2026-01-08 11:32:00"];
    let text = site.restore_run("copy", &winter).env("TZ", "Europe/Berlin").run().expect_code(3).stderr;
    assert!(text.contains("2026-01-08 11:32:00+01:00 in this host"), "whatever the season of the test: {text}");
    assert!(!site.dir.join("copy").exists());
}

#[test]
fn a_damaged_part_is_named_and_leaves_a_directory_that_cannot_start() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::write(&version);
    let part = archive.site.stored_file(&format!("{}/data.tar", archive.second));
    flip_a_byte(&part);
    let refused = archive.site.restore_run("copy", &[]).run().expect_code(4);
    let name = part.file_name().unwrap().to_str().unwrap();
    assert!(refused.stderr.contains(name) && refused.stderr.contains("cannot start"), "{}", refused.stderr);
    assert!(refused.stdout.is_empty());
    let copy = archive.site.dir.join("copy");
    assert!(!files_below(&copy).contains(&copy.join("global/pg_control")));
    assert_ne!(archive.site.open("copy").try_start().code(), 0);
    // The way out that the hint names.
    std::fs::remove_dir_all(&copy).unwrap();
    archive.site.restore("copy", &["--backup", &archive.first]).promoted(|copy| {
        assert_eq!(copy.psql("SELECT count(*) FROM t"), "3");
    });
}

#[test]
fn a_missing_shortened_or_unreadable_part_is_refused_before_anything_is_touched() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::write(&version);
    let part = archive.site.stored_file(&format!("{}/data.tar", archive.second));
    let content = std::fs::read(&part).unwrap();
    std::fs::write(&part, &content[..content.len() - 1]).unwrap();
    let name = part.file_name().unwrap().to_str().unwrap();
    assert!(archive.refused(4, &[]).contains(&format!("/{name}\" is {} bytes long", content.len() - 1)));
    std::fs::remove_file(&part).unwrap();
    assert!(archive.refused(4, &[]).contains(&format!("/{name}\" is not there")));
    std::fs::write(&part, content).unwrap();
    let info = archive.site.stored_file(&format!("{}/backup.info", archive.second));
    std::fs::write(&info, "begin_wal=").unwrap();
    assert!(archive.refused(4, &["--backup", &archive.second]).contains("backup.info"));
}

#[test]
fn a_damaged_backup_info_is_told_of_and_does_not_stand_in_the_way_of_other_backups() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::write(&version);
    let info = archive.site.stored_file(&format!("{}/backup.info", archive.second));
    std::fs::write(&info, "begin_wal=").unwrap();
    let listed = archive.site.barback(&["list"]).run().expect_code(4);
    assert!(listed.stdout.contains(&archive.first) && listed.stderr.contains(&archive.second), "{listed:?}");
    archive.site.barback(&["show", &archive.first]).success();
    archive.site.barback(&["show", &archive.second]).run().expect_code(4);
    let planned = archive.site.restore_run("copy", &["--plan"]).success();
    assert!(planned.stderr.contains("backup.info") && planned.stdout.contains("cannot be read"), "{planned:?}");
    assert_eq!(archive.site.restore("copy", &[]).backup_id, archive.first);
}

#[test]
fn a_damaged_manifest_leaves_a_directory_that_cannot_start() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::write(&version);
    flip_a_byte(&archive.site.stored_file(&format!("{}/backup_manifest", archive.second)));
    let refused = archive.site.restore_run("copy", &[]).run().expect_code(4);
    assert!(refused.stderr.contains("backup_manifest"), "{}", refused.stderr);
    assert!(!archive.site.dir.join("copy/global/pg_control").exists());
}

#[test]
fn a_damaged_segment_stops_recovery_instead_of_ending_it() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::write(&version);
    flip_a_byte(&archive.site.stored_file(&archive.last_segment));
    let mut copy = archive.site.restore("copy", &[]).cluster;
    let _ = copy.try_start();
    let started = std::time::Instant::now();
    while copy.is_running() {
        assert!(started.elapsed() < std::time::Duration::from_mins(1), "{}", copy.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let log = copy.log();
    assert!(log.contains("FATAL:  could not restore file") && log.contains(&archive.last_segment), "{log}");
    assert!(!log.contains("selected new timeline"), "{log}");
}
