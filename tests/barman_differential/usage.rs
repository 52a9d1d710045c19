//! What is wrong with the words themselves: no store is asked.

use super::duel::{Duel, Words};
use crate::harness::BARMAN_COMMANDS;

const PLACE: [&str; 2] = ["s3://bkt/pfx", "main"];
const SEGMENT: &str = "000000010000000000000005";

#[test]
fn versions_and_the_errors_common_to_all_are_the_same() {
    let Some(mut duel) = Duel::new(Vec::new()) else { return };
    for command in BARMAN_COMMANDS {
        duel.same(command, &["--version"]);
        duel.same(command, &["--versio"]);
        for args in
            [&[][..], &["-q", "-v"], &["--bogus", "s3://bkt/pfx", "main"], &["--cloud-provider", "foo"], &["--v"]]
        {
            duel.same(command, args);
        }
        duel.same(command, &["s3://bkt/pfx", "main", "a", "b", "c", "d"]);
    }
    duel.end();
}

#[test]
fn help_ends_well_and_h_is_a_host() {
    let Some(duel) = Duel::new(Vec::new()) else { return };
    for command in BARMAN_COMMANDS {
        for face in duel.barman.both() {
            // The text is each program's own; it names every option, whoever wrote it.
            let help = face.run(command, &["--help"]).success().stdout;
            assert!(help.starts_with(&format!("usage: barman-cloud-{command} ")), "{}: {help}", face.name());
            assert!(help.contains("--cloud-provider"), "{}: {help}", face.name());
        }
    }
    let mut duel = duel;
    duel.same("backup", &["-h"]);
    duel.same("restore", &["-h"]);
    duel.end();
}

#[test]
fn values_are_refused_in_the_same_words() {
    let Some(mut duel) = Duel::new(Vec::new()) else { return };
    let cases: [(&str, &[&str]); 37] = [
        ("wal-archive", &["-z", "-j"]),
        ("wal-archive", &["-zj"]),
        ("wal-archive", &["--lz4", "--gzip"]),
        ("wal-archive", &["--gzip=3"]),
        ("wal-archive", &["--s"]),
        ("wal-archive", &["--compression-level", "foo"]),
        ("wal-archive", &["--compression-level"]),
        ("wal-archive", &["--tag", "nocomma"]),
        ("wal-archive", &["--tag", "aws:x,y"]),
        ("wal-archive", &["--tag", "a,b", "--tags", "c,d", "--"]),
        ("wal-archive", &["--tags", "x", "--"]),
        ("wal-archive", &["--tags", "s3://bkt/pfx", "main", "--"]),
        ("wal-archive", &["--history-tags", "a,b,c", "--"]),
        ("wal-archive", &["-e", "foo"]),
        ("wal-archive", &["--max-block-size", "10M"]),
        ("wal-archive", &["--max-block-size", "0"]),
        ("wal-archive", &["--max-single-put-size", "x"]),
        ("wal-archive", &["--max-concurrency", "0"]),
        ("wal-archive", &["--max-concurrency", "x"]),
        ("wal-archive", &["--read-timeout", "x"]),
        ("wal-archive", &["--addressing-style", "foo"]),
        ("wal-restore", &["-p", "x"]),
        ("backup", &["-J", "0"]),
        ("backup", &["-S", "10M"]),
        ("backup", &["--min-chunk-size", "-1"]),
        ("backup", &["--max-bandwidth", "1.5"]),
        ("backup", &["--name", "last"]),
        ("backup", &["--name", ""]),
        ("backup", &["--name", "20260101T000000"]),
        ("backup", &["--zstd"]),
        ("backup", &["-z", "--snappy"]),
        ("backup", &["--aws-snapshot-lock-mode", "foo"]),
        ("backup", &["--aws-snapshot-lock-duration", "0"]),
        ("backup-delete", &["-b", "20260101T000000", "-r", "REDUNDANCY 1"]),
        ("backup-delete", &["-b", "20260101T000000", "-m", "-1"]),
        ("backup-delete", &["-b", "20260101T000000", "--batch-size", "x"]),
        ("check-wal-archive", &["--timeline", "x"]),
    ];
    for (command, args) in cases {
        let behind: &[&str] = match command {
            "wal-archive" => &[SEGMENT],
            "wal-restore" => &[SEGMENT, "to"],
            _ => &[],
        };
        duel.same(command, &[args, &PLACE, behind].concat());
    }
    for args in [&["--target", "foo"][..], &["-r", "-s"], &["-s", "--target", "full"], &[]] {
        duel.same("backup-keep", &[args, &PLACE, &["last"]].concat());
    }
    for args in
        [&["--target-tli", "foo"][..], &["--target-tli", "0"], &["--target-time", "noon", "--target-lsn", "0/1"]]
    {
        duel.same("restore", &[args, &PLACE, &["auto", "to"]].concat());
    }
    duel.end();
}

#[test]
fn names_and_files_that_cannot_be_meant_are_refused_before_the_store_is_asked() {
    let Some(mut duel) = Duel::new(Vec::new()) else { return };
    let archive = |file: &'static str| [&PLACE[..], &[file]].concat();
    for file in ["nonsense", "00000001000000000000000G", "dir/nonsense", "000000010000000000000005/", "."] {
        duel.same("wal-archive", &archive(file));
        duel.same("wal-archive", &[&["-t"], &archive(file)[..]].concat());
        duel.same("wal-restore", &[&archive(file)[..], &["to"]].concat());
    }
    // Barman 3.19.1 shows a stack trace here; the code is the same.
    duel.compare(Words::Any, &[], "wal-archive", &PLACE);
    duel.compare(Words::Any, &[], "wal-archive", &[&["-t"], &PLACE[..]].concat());
    for command in BARMAN_COMMANDS {
        for url in ["http://foo", "bkt/pfx", "s3:/bkt", "s3://"] {
            let behind: &[&str] = match command {
                "wal-archive" => &["main", SEGMENT],
                "wal-restore" => &["main", SEGMENT, "to"],
                "backup-show" => &["main", "last"],
                "backup-keep" => &["main", "-s", "last"],
                "backup-delete" => &["main", "-b", "last"],
                "restore" => &["main", "last", "to"],
                _ => &["main"],
            };
            duel.same(command, &[&[url], behind].concat());
        }
    }
    duel.end();
}
