//! Listing, showing, keeping and deleting: the same tables, the same JSON, and the same objects gone.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use super::bucket::{self, fixture};
use super::duel::{Duel, Words, listing};
use crate::harness::{Fault, S3Server};

const PLACE: [&str; 2] = ["s3://bkt/pfx", "main"];
/// fx1 to fx4 of the fixture; fx2 is kept.
const IDS: [&str; 4] = ["20261123T083817", "20261123T083822", "20261123T083826", "20261123T083832"];

#[test]
fn real_backups_are_listed_and_shown_alike() {
    let server = S3Server::start();
    let Some(mut duel) = Duel::new(server.env()) else { return };
    bucket::fill(&server, &fixture());
    for format in ["console", "json", "anything"] {
        assert!(duel.same("backup-list", &[&["--format", format], &PLACE[..]].concat()).out.contains("fx4"));
        for id in IDS {
            duel.same("backup-show", &[&["--format", format], &PLACE[..], &[id]].concat());
        }
    }
    for backup in ["fx1", "first", "oldest", "last", "latest", "last-failed", "latest-full", "FX1", "fx", "2026", ""] {
        duel.same("backup-show", &[&PLACE[..], &[backup]].concat());
        duel.same("backup-keep", &[&["-s"], &PLACE[..], &[backup]].concat());
    }
    for verbosity in ["-v", "-q", "-qq"] {
        duel.compare(Words::Any, &[], "backup-list", &[&[verbosity], &PLACE[..]].concat());
        duel.compare(Words::Any, &[], "backup-show", &[&["--format=json", verbosity], &PLACE[..], &["last"]].concat());
    }
    // Nothing in other places, and the same where the URL ends in a slash.
    for place in [["s3://bkt/pf", "main"], ["s3://bkt", "main"], ["s3://bkt/pfx", "mai"], ["s3://bkt/pfx/main", "main"]]
    {
        duel.same("backup-list", &place);
        duel.same("backup-show", &[place[0], place[1], "fx1"]);
    }
    duel.same("backup-show", &["s3://bkt/pfx/", "main", "fx1"]);
    duel.same("backup-keep", &["-s", "s3://bkt/pfx/", "main", "fx1"]);
    duel.end();
}

#[test]
fn records_that_no_run_of_barman_wrote_are_read_alike() {
    let server = S3Server::start();
    let Some(mut duel) = Duel::new(server.env()) else { return };
    bucket::empty(&server);
    let written = odd_records();
    for (place, record) in &written {
        put(&server.object(&format!("pfx/{place}/backup.info")), record);
    }
    put(&server.object("pfx/odd/base/20260105T000000/annotations/keep"), "standalone");
    put(&server.object("pfx/odd/base/20260106T000000/annotations/keep"), "full");
    put(&server.object("pfx/odd/base/20260190T000000/data.tar"), "no record beside it");
    put(&server.object("pfx/odd/base/stray"), "not a directory");
    let mut servers: Vec<&str> = written.iter().map(|(place, _)| place.split('/').next().unwrap()).collect();
    servers.dedup();
    for name in servers {
        for format in ["console", "json"] {
            duel.alike("backup-list", &["--format", format, "s3://bkt/pfx", name]);
        }
    }
    for (place, _) in &written {
        let (name, id) = (place.split('/').next().unwrap(), place.rsplit('/').next().unwrap());
        for format in ["console", "json"] {
            duel.alike("backup-show", &["--format", format, "s3://bkt/pfx", name, id]);
        }
    }
    for backup in ["twice", "last", "first", "last-failed", "naïve"] {
        duel.alike("backup-show", &["s3://bkt/pfx", "odd", backup]);
    }
    duel.end();
}

#[test]
fn keeping_and_releasing_change_the_same_objects() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(|_| with_odd_states(&server)).looking_at(|_| bucket::objects(&server));
    for target in ["full", "standalone"] {
        for backup in [IDS[0], "fx2", "last", "20260101T000000", "20260102T000000", "20260103T000000", "nobody"] {
            duel.alike("backup-keep", &[&["--target", target], &PLACE[..], &[backup]].concat());
        }
    }
    for backup in [IDS[0], IDS[1], "fx2", "20260101T000000", "20260103T000000", "nobody"] {
        duel.alike("backup-keep", &[&["--release"], &PLACE[..], &[backup]].concat());
        duel.alike("backup-keep", &[&["--status"], &PLACE[..], &[backup]].concat());
    }
    duel.end();
}

#[test]
fn one_backup_is_deleted_with_the_same_objects() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(|_| with_odd_states(&server)).looking_at(|_| bucket::objects(&server));
    for backup in
        [IDS[0], IDS[1], IDS[2], IDS[3], "fx1", "first", "last", "20260101T000000", "20260102T000000", "nobody"]
    {
        duel.alike("backup-delete", &[&["-b", backup], &PLACE[..]].concat());
        duel.alike("backup-delete", &[&["--dry-run", "-b", backup], &PLACE[..]].concat());
    }
    for size in ["1", "0", "-1", "5000"] {
        duel.alike("backup-delete", &[&["-b", IDS[2], "--batch-size", size], &PLACE[..]].concat());
    }
    duel.end();
}

#[test]
fn a_policy_deletes_the_same_backups_and_their_wal() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let template = duel.dir.create_dir("template");
    a_year(&template);
    let mut duel = duel.prepared_by(|_| bucket::fill(&server, &template)).looking_at(|_| bucket::objects(&server));
    for policy in ["REDUNDANCY 0", "redundancy 1", " Redundancy  3 ", "REDUNDANCY 99"] {
        duel.same("backup-delete", &[&["-r", policy], &PLACE[..]].concat());
    }
    for window in ["7 DAYS", "1 day", "2 WEEKS", "1 MONTH", "2 months", "0 DAYS", "52 weeks"] {
        let policy = format!("RECOVERY WINDOW OF {window}");
        duel.same("backup-delete", &[&["-r", &policy], &PLACE[..]].concat());
    }
    duel.same("backup-delete", &[&["--dry-run", "-r", "recovery window of 7 days"], &PLACE[..]].concat());
    duel.same("backup-delete", &[&["--dry-run", "-r", "REDUNDANCY 1"], &PLACE[..]].concat());
    for redundancy in ["2", "4", "20"] {
        duel.alike("backup-delete", &[&["-m", redundancy, "-r", "REDUNDANCY 1"], &PLACE[..]].concat());
        duel.alike("backup-delete", &[&["-m", redundancy, "-r", "RECOVERY WINDOW OF 1 DAY"], &PLACE[..]].concat());
    }
    for policy in ["nonsense", "REDUNDANCY", "REDUNDANCY -1", "RECOVERY WINDOW OF 1 YEARS", "WINDOW OF 1 DAY", ""] {
        duel.same("backup-delete", &[&["-r", policy], &PLACE[..]].concat());
    }
    duel.end();
}

#[test]
fn a_delete_that_cannot_go_on_stops_alike() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(|_| bucket::fill(&server, &fixture())).looking_at(|_| bucket::objects(&server));
    // Every bulk request, then only those for WAL: the first keeps the backup, the second is forgiven.
    server.fault_when(|seen| seen.target.contains("?delete").then_some(Fault::Status(403)));
    duel.alike("backup-delete", &[&["-b", IDS[0]], &PLACE[..]].concat());
    server.heal();
    let mut duel = duel.prepared_by(|_| {
        bucket::fill(&server, &fixture());
        put(&server.object("pfx/main/base/20260101T000000/backup.info"), "no equals sign\n");
    });
    for which in [["-b", IDS[0]], ["-r", "REDUNDANCY 1"]] {
        duel.alike("backup-delete", &[&which, &PLACE[..]].concat());
    }
    duel.end();
}

#[test]
fn an_archive_that_is_not_empty_is_said_alike() {
    let server = S3Server::start();
    let Some(mut duel) = Duel::new(server.env()) else { return };
    bucket::fill(&server, &fixture());
    let wals = "pfx/odd/wals/0000000100000000";
    put(&server.object(&format!("{wals}/nothing-postgresql-writes.gz")), "x");
    put(&server.object(&format!("{wals}/000000010000000000000005.gz.gz")), "x");
    put(&server.object("pfx/one/wals/0000000100000000/000000010000000000000005.partial.zst"), "x");
    put(&server.object("pfx/history/wals/00000003.history"), "x");
    for server in ["main", "odd", "one", "history", "nowhere"] {
        duel.same("check-wal-archive", &["s3://bkt/pfx", server]);
        for timeline in ["1", "2", "3", "4"] {
            duel.same("check-wal-archive", &["--timeline", timeline, "s3://bkt/pfx", server]);
        }
    }
    duel.end();
}

#[test]
fn what_cannot_be_restored_is_refused_alike() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    bucket::fill(&server, &fixture());
    let full = duel.dir.create_dir("full");
    fs::write(full.join("file"), "in the way").unwrap();
    let mut duel = duel.looking_at(|dir| listing(dir.path()));
    for words in [
        ["--tablespace", "foo", IDS[0], "to"],
        ["--tablespace", "ts1:full", IDS[0], "to"],
        ["--tablespace", "ts1:to-ts1", IDS[0], "full"],
        ["--tablespace", "ts1:to-ts1", "fx9", "to"],
        ["--tablespace", "ts1:to-ts1", "20260101T000000", "to"],
        ["--tablespace", "ts1:to-ts1", "last-failed", "to"],
        ["--target-tli", "7", "auto", "to"],
        ["--target-tli", "current", "auto", "to"],
        ["--target-time", "2026-11-23 08:00:00+00", "auto", "to"],
        ["--target-time", "noon", "auto", "to"],
        ["--target-lsn", "0/1", "auto", "to"],
        ["--target-lsn", "x", "auto", "to"],
    ] {
        duel.alike("restore", &[&words[..2], &PLACE[..], &words[2..]].concat());
    }
    duel.end();
}

#[test]
fn what_only_we_pass_over_are_unknown_fields_and_other_words_for_keeping() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    bucket::empty(&server);
    put(&server.object("pfx/future/base/20260101T000000/backup.info"), &record(&[("from_the_future", Some("1"))]));
    let waiting = [("status", Some("WAITING_FOR_WALS"))];
    put(&server.object("pfx/main/base/20260101T000000/backup.info"), &record(&waiting));
    put(&server.object("pfx/main/base/20260102T000000/backup.info"), &record(&[]));
    for (keep, listed) in [("whatever", "KEEP:WHATEVER"), ("", "")] {
        put(&server.object("pfx/main/base/20260102T000000/annotations/keep"), keep);
        for (face, listed) in duel.barman.both().into_iter().zip([listed, "KEEP:FULL"]) {
            let out = duel.call(&face, &[], "backup-list", &PLACE).out;
            assert_eq!(out.contains("KEEP"), !listed.is_empty(), "{}: {out}", face.name());
            assert!(out.contains(listed), "{}: {out}", face.name());
        }
    }
    for (face, code) in duel.barman.both().into_iter().zip([1, 0]) {
        for command in ["backup-list", "backup-show"] {
            let backup = (command == "backup-show").then_some("20260101T000000");
            let words: Vec<&str> = ["s3://bkt/pfx", "future"].into_iter().chain(backup).collect();
            let seen = duel.call(&face, &[], command, &words);
            assert_eq!((seen.code, seen.out.is_empty()), (code, code == 1), "{}: {seen:?}", face.name());
        }
        // Callers take a backup with an end for one that can be restored.
        let shown =
            duel.call(&face, &[], "backup-show", &[&["--format=json"], &PLACE[..], &["20260101T000000"]].concat());
        assert_eq!(shown.out.contains("end_time_iso"), code == 1, "{}: {shown:?}", face.name());
    }
}

#[test]
fn backups_that_nobody_can_restore_make_no_redundancy() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let duel = duel.prepared_by(|_| with_odd_states(&server));
    // Four are DONE; Barman 3.19.1 counts the failed and the unfinished one too.
    for (redundancy, codes) in [("3", [0, 0]), ("4", [0, 1]), ("6", [1, 1])] {
        for (face, code) in duel.barman.both().into_iter().zip(codes) {
            let seen = duel.call(&face, &[], "backup-delete", &["-b", IDS[0], "-m", redundancy, PLACE[0], PLACE[1]]);
            assert_eq!(seen.code, code, "{} {redundancy}: {seen:?}", face.name());
            let refused = "due to minimum redundancy requirements (minimum redundancy = ";
            assert_eq!(seen.said.iter().any(|said| said.contains(refused)), code == 1, "{}: {seen:?}", face.name());
        }
    }
}

/// A record as fx1's, with some fields changed; `None` leaves a field out.
fn record(changes: &[(&str, Option<&str>)]) -> String {
    let mut fields: Vec<(String, String)> =
        fs::read_to_string(fixture().join("pfx/main/base/20261123T083817/backup.info"))
            .unwrap()
            .lines()
            .map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap())
            .collect();
    for (name, value) in changes {
        fields.retain(|(field, _)| field != name);
        fields.extend(value.map(|value| ((*name).to_owned(), value.to_owned())));
    }
    fields.sort();
    fields.iter().fold(String::new(), |mut text, (name, value)| {
        _ = writeln!(text, "{name}={value}");
        text
    })
}

/// Records by their directory below `pfx/`: one server of readable ones, and one for each way to be unreadable.
fn odd_records() -> Vec<(&'static str, String)> {
    let unfinished = [("end_time", "None"), ("end_wal", "None"), ("end_xlog", "None"), ("end_offset", "None")];
    let with = |changes: &[(&str, &str)]| {
        let changes: Vec<_> = changes.iter().map(|(name, value)| (*name, Some(*value))).collect();
        record(&changes)
    };
    let started =
        [&[("status", "STARTED"), ("backup_label", "None"), ("copy_stats", "None")], &unfinished[..]].concat();
    let failed = [&[("status", "FAILED"), ("error", "failure uploading data (disk full)")], &unfinished[..]].concat();
    vec![
        ("odd/base/20260101T000000", with(&started)),
        ("odd/base/20260102T000000", with(&failed)),
        ("odd/base/20260103T000000", "status=DONE\n".to_owned()),
        ("odd/base/20260104T000000", record(&[("backup_name", None), ("tablespaces", Some("None"))])),
        ("odd/base/20260105T000000", with(&[("backup_name", "twice"), ("status", "DONE")])),
        ("odd/base/20260106T000000", with(&[("backup_name", "twice"), ("cluster_size", "1023")])),
        ("odd/base/20260107T000000", with(&[("backup_name", "naïve"), ("pgdata", "/srv/größe")])),
        ("odd/base/20260108T000000", with(&[("end_time", "2026-11-23 23:59:59+02:00"), ("cluster_size", "None")])),
        ("odd/base/20260109T000000", with(&[("begin_time", "2026-03-01 01:02:03.000004-03:30")])),
        ("odd/base/20260110T000000", with(&[("cluster_size", "1099511627776"), ("summarize_wal", "on")])),
        ("odd/base/20260111T000000", with(&[("included_files", "['/etc/a.conf', '/etc/b.conf']")])),
        ("odd/base/20260112T000000", with(&[("tablespaces", "[('a', 1, '/a'), (\"b'c\", 2, '/b c')]")])),
        ("odd/base/20260113T000000", with(&[("copy_stats", "{'copy_time': 90061.5, 'total_time': 90061.5}")])),
        ("odd/base/20260114T000000", with(&[("copy_stats", "{'copy_time': 0, 'total_time': 0.5}")])),
        ("odd/base/20260115T000000", with(&[("copy_stats", "{'copy_time': 0.5, 'total_time': 61}")])),
        ("odd/base/20260116T000000", with(&[("compression", "gzip"), ("mode", "rsync"), ("size", "5")])),
        ("odd/base/20260117T000000", format!("# a comment\n\n  {}", record(&[]))),
        ("odd/base/20260118T000000", with(&[("status", "EMPTY"), ("error", "it is=so"), ("end_time", "None")])),
        (
            "odd/base/20260119T000000",
            with(&[("backup_label", "\"it's a \\\"label\\\"\\n\""), ("server_name", "other")]),
        ),
        ("odd/base/20260120T000000", with(&[("parent_backup_id", "20260119T000000"), ("data_checksums", "None")])),
        ("empty/base/20260101T000000", String::new()),
        ("garbage/base/20260101T000000", "no equals sign\n".to_owned()),
        ("status/base/20260101T000000", with(&[("status", "FINE"), ("end_time", "None")])),
        ("number/base/20260101T000000", with(&[("timeline", "one")])),
        ("literal/base/20260101T000000", with(&[("tablespaces", "[('a', ")])),
        ("time/base/20260101T000000", with(&[("end_time", "yesterday")])),
        ("named/base/not-an-id", with(&[])),
    ]
}

/// The fixture with a backup of each unfinished state before its own.
fn with_odd_states(server: &S3Server) {
    bucket::fill(server, &fixture());
    for (id, status) in
        [("20260101T000000", "STARTED"), ("20260102T000000", "FAILED"), ("20260103T000000", "WAITING_FOR_WALS")]
    {
        let base = format!("pfx/main/base/{id}");
        put(
            &server.object(&format!("{base}/backup.info")),
            &record(&[("status", Some(status)), ("backup_name", None)]),
        );
        put(&server.object(&format!("{base}/data.tar.gz")), "as far as it went");
        put(&server.object(&format!("{base}/unknown.object")), "of somebody else");
    }
}

/// A year of backups, newest a day old: two timelines, kept ones, failed ones, WAL under one name twice.
fn a_year(template: &Path) {
    let now = Utc::now();
    // Days ago, status, timeline, the segment it begins with, kept how.
    let backups = [
        (300, "DONE", 1, 0x0000_0001_u64, None),
        (100, "DONE", 1, 0x0000_00FE, Some("standalone")),
        (65, "DONE", 1, 0x0000_0102, None),
        (50, "FAILED", 1, 0x0000_0140, None),
        (40, "DONE", 1, 0x0000_0180, None),
        (20, "DONE", 2, 0x0000_0210, Some("full")),
        (10, "STARTED", 2, 0x0000_0220, None),
        (9, "DONE", 2, 0x0000_0225, None),
        (5, "DONE", 2, 0x0000_0310, None),
        (1, "DONE", 2, 0x0000_0320, None),
    ];
    for (days_ago, status, timeline, number, keep) in backups {
        let end = now - TimeDelta::days(days_ago);
        let id = end.format("%Y%m%dT%H%M%S").to_string();
        let begin_wal = wal_name(timeline, number);
        let (begin, end) = (time(end - TimeDelta::minutes(5)), time(end));
        let timeline = timeline.to_string();
        let fields = [
            ("status", Some(status)),
            ("timeline", Some(timeline.as_str())),
            ("begin_wal", Some(begin_wal.as_str())),
            ("end_wal", Some(begin_wal.as_str())),
            ("begin_time", Some(begin.as_str())),
            ("end_time", if status == "STARTED" { Some("None") } else { Some(end.as_str()) }),
            ("backup_name", None),
        ];
        let base = template.join(format!("pfx/main/base/{id}"));
        put(&base.join("backup.info"), &record(&fields));
        for object in ["data.tar", "data_0001.tar", "16389.tar", "backup_manifest"] {
            put(&base.join(object), object);
        }
        if let Some(keep) = keep {
            put(&base.join("annotations/keep"), keep);
        }
    }
    for number in (0x01..0x320).step_by(0x10).chain([0xFF, 0x102]) {
        for timeline in 1..=2 {
            if timeline == 2 && number < 0x1F0 {
                continue;
            }
            let name = wal_name(timeline, number);
            put(&template.join(format!("pfx/main/wals/{}/{name}.gz", &name[..16])), &name);
        }
    }
    let first = wal_name(1, 1);
    let logs = template.join(format!("pfx/main/wals/{}", &first[..16]));
    put(&logs.join(format!("{first}.zst")), "the same segment again");
    put(&logs.join(format!("{first}.00000028.backup.gz")), "label");
    put(&logs.join("not-of-postgresql"), "somebody else's");
    let last = wal_name(1, 0x1F8);
    put(&template.join(format!("pfx/main/wals/{}/{last}.partial.gz", &last[..16])), "cut");
    put(&template.join("pfx/main/wals/00000002.history.gz"), "1\t0/1F000000\tno recovery target\n");
}

fn wal_name(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number >> 8, number & 0xFF)
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.6f+00:00").to_string()
}

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}
