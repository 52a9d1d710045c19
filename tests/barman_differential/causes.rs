//! What each command does when something stands in its way: exit codes that schedulers and operators act on.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::bucket;
use super::duel::{Duel, Seen, Words};
use crate::harness::{
    BARMAN_COMMANDS, Certificate, Face, Fault, Filling, Minio, S3Server, TestDir, give_away, pass_over, segment,
};

const SEGMENT: &str = "000000010000000000000005";
/// Nobody listens there, so that a backup ends before it begins.
const NO_POSTGRES: &str = "host=/nonexistent user=postgres dbname=postgres";

#[test]
fn nothing_there_is_told_from_something_wrong() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(|dir| local_state(dir, &server));
    let codes = every_command(&mut duel, Words::Heads, &[], "s3://bkt/pfx");
    assert_eq!(codes, [0, 1, 0, 1, 0, 1, 0, 0, 1]);
    for command in
        ["wal-restore", "check-wal-archive", "backup-list", "backup-show", "backup-keep", "backup-delete", "restore"]
    {
        duel.same(command, &words(command, "s3://bkt/pfx"));
    }
    duel.same("backup-show", &["s3://bkt/pfx", "main", "noname"]);
    duel.same("backup-show", &["s3://bkt/pfx", "main", "last"]);
    duel.alike("backup-keep", &["--target", "full", "s3://bkt/pfx", "main", "20260101T000000"]);
    duel.same("backup-keep", &["-r", "s3://bkt/pfx", "main", "20260101T000000"]);
    duel.same("backup-delete", &["-r", "REDUNDANCY 1", "s3://bkt/pfx", "main"]);
    duel.same("restore", &["s3://bkt/pfx", "main", "auto", "to"]);
    for target in [
        ["--target-tli", "1"],
        ["--target-tli", "current"],
        ["--target-time", "noon"],
        ["--target-lsn", "x"],
        ["--tablespace", "a:/b"],
    ] {
        duel.same("restore", &[&target[..], &["s3://bkt/pfx", "main", "auto", "to"]].concat());
    }
    duel.same("wal-restore", &["-p", "-1", "s3://bkt/pfx", "main", "000000010000000000000009", "to"]);
    tests_of_the_connection(&mut duel, Words::Same, &[], 0);
    duel.end();
}

#[test]
fn a_server_that_cannot_be_reached_is_4_and_2_only_where_the_connection_is_tested() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(|dir| local_state(dir, &server));
    let refused = format!("http://127.0.0.1:{}", closed_port());
    let env = [("AWS_ENDPOINT_URL", refused.as_str())];
    let codes = every_command(&mut duel, Words::Heads, &env, "s3://bkt/pfx");
    assert_eq!(codes, [4, 4, 2, 1, 4, 4, 4, 4, 4]);
    tests_of_the_connection(&mut duel, Words::Heads, &env, 2);
    let env = [("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")];
    for (command, code) in [("wal-archive", 4), ("wal-restore", 4), ("check-wal-archive", 2), ("backup-list", 4)] {
        assert_eq!(duel.compare(Words::Heads, &env, command, &words(command, "s3://bkt/pfx")).code, code);
    }
    let test = [&["-t"], &words("backup", "s3://bkt/pfx")[..]].concat();
    assert_eq!(duel.compare(Words::Heads, &env, "backup", &test).code, 2);
    duel.end();
}

#[test]
fn a_server_that_refuses_or_stumbles_is_4_for_everything() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(|dir| local_state(dir, &server));
    for status in [403, 503] {
        server.refuse_all(status);
        let codes = every_command(&mut duel, Words::Heads, &[], "s3://bkt/pfx");
        assert_eq!(codes, [4, 4, 4, 1, 4, 4, 4, 4, 4]);
    }
    tests_of_the_connection(&mut duel, Words::Heads, &[], 4);
    server.fault_when(|_| Some(Fault::Disconnect));
    for command in ["wal-archive", "wal-restore", "check-wal-archive", "backup-list", "restore"] {
        assert_eq!(duel.alike(command, &words(command, "s3://bkt/pfx")).code, 4);
    }
    // A proxy that knows no such page must not end recovery, nor a slow-down be taken for the end of the archive.
    for status in [404, 429, 500] {
        server.refuse_all(status);
        for command in ["wal-restore", "backup-list"] {
            assert_eq!(duel.alike(command, &words(command, "s3://bkt/pfx")).code, 4);
        }
    }
    duel.end();
}

#[test]
fn credentials_that_are_wrong_or_missing_are_4() {
    let server = S3Server::start();
    let without: Vec<_> = server.env().into_iter().filter(|(name, _)| name.ends_with("URL")).collect();
    let Some(duel) = Duel::new(without) else { return };
    let mut duel = duel.prepared_by(|dir| local_state(dir, &server));
    let wrong =
        [("AWS_ACCESS_KEY_ID", "testkey"), ("AWS_SECRET_ACCESS_KEY", "wrongsecret"), ("AWS_REGION", "us-east-1")];
    for env in [&[("AWS_REGION", "us-east-1")][..], &wrong] {
        for command in ["wal-archive", "wal-restore", "check-wal-archive", "backup-list", "backup-delete"] {
            assert_eq!(duel.compare(Words::Heads, env, command, &words(command, "s3://bkt/pfx")).code, 4);
        }
        let test = [&["-t"], &words("backup", "s3://bkt/pfx")[..]].concat();
        assert_eq!(duel.compare(Words::Heads, env, "backup", &test).code, 4);
    }
    duel.end();
}

#[test]
fn a_certificate_that_is_not_trusted_is_4_and_a_bundle_makes_it_good() {
    let dir = TestDir::new();
    let Some(certificate) = Certificate::make(&dir) else { return };
    let (server, plain) = (S3Server::with_tls(&certificate), S3Server::start());
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(|dir| local_state(dir, &server));
    let no_tls = plain.endpoint().replace("http:", "https:");
    for env in [&[][..], &[("AWS_ENDPOINT_URL", no_tls.as_str())]] {
        for command in ["wal-archive", "wal-restore", "check-wal-archive", "backup-list"] {
            let Seen { code, .. } = duel.compare(Words::Heads, env, command, &words(command, "s3://bkt/pfx"));
            assert_eq!(code, 4);
        }
        let test = [&["-t"], &words("restore", "s3://bkt/pfx")[..]].concat();
        assert_eq!(duel.compare(Words::Heads, env, "restore", &test).code, 4);
    }
    let bundle = certificate.authority.display().to_string();
    for command in ["wal-archive", "backup-list"] {
        let trusted =
            duel.compare(Words::Same, &[("AWS_CA_BUNDLE", &bundle)], command, &words(command, "s3://bkt/pfx"));
        assert_eq!(trusted.code, 0);
    }
    duel.end();
}

#[test]
fn a_bucket_that_is_not_there_is_4_and_1_where_the_connection_is_tested_and_the_check_makes_it() {
    // s3s-fs makes a bucket of any name; MinIO answers as AWS does.
    let Some(minio) = Minio::start() else { return };
    let Some(duel) = Duel::new(minio.env()) else { return };
    let mut duel = duel.prepared_by(write_segment);
    let url = "s3://no-such-bucket/pfx";
    let commands = BARMAN_COMMANDS.into_iter().filter(|command| *command != "check-wal-archive");
    let codes: Vec<i32> = commands.map(|command| duel.alike(command, &words(command, url)).code).collect();
    assert_eq!(codes, [4, 4, 1, 4, 4, 4, 4, 4]);
    for command in BARMAN_COMMANDS {
        let seen = duel.same(command, &[&["-t"], &words(command, url)[..]].concat());
        // Barman 3.19.1's check tests the connection and not the bucket.
        assert_eq!(seen.code, i32::from(command != "check-wal-archive"), "{command}");
    }
    for (face, url) in duel.barman.both().into_iter().zip(["s3://made-by-barman/pfx", "s3://made-by-barback/pfx"]) {
        for command in ["check-wal-archive", "backup-list", "check-wal-archive"] {
            let seen = duel.call(&face, &[], command, &[url, "main"]);
            assert_eq!((seen.code, seen.said), (0, Vec::new()), "{}", face.name());
        }
    }
    duel.end();
}

#[test]
fn a_file_that_cannot_be_read_is_not_archived() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(|dir| local_state(dir, &server)).looking_at(|_| bucket::objects(&server));
    duel.dir.create_dir("000000010000000000000006");
    let closed = duel.dir.write("000000010000000000000007", segment(SEGMENT, 1, Filling::Compressible, 1));
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    for file in ["000000010000000000000006", "000000010000000000000007", "000000010000000000000008"] {
        for options in [&[][..], &["--zstd"]] {
            let seen = duel.alike("wal-archive", &[options, &["s3://bkt/pfx", "main", file]].concat());
            assert_eq!((seen.code, seen.left.as_str()), (4, ""), "{file}");
        }
    }
    duel.end();
}

#[test]
fn a_destination_that_cannot_be_written_is_4() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let mut duel = duel.prepared_by(write_segment);
    duel.call(&Face::Theirs(duel.barman.clone()), &[], "wal-archive", &["-z", "s3://bkt/pfx", "main", SEGMENT]);
    duel.dir.create_dir("directory");
    let read_only = duel.dir.create_dir("read-only");
    std::fs::set_permissions(&read_only, std::fs::Permissions::from_mode(0o555)).unwrap();
    for to in ["no/such/directory", "directory", "read-only/to", "/dev/full"] {
        // Barman 3.19.1 says it twice, at two levels of its own.
        let seen = duel.compare(Words::Any, &[], "wal-restore", &["s3://bkt/pfx", "main", SEGMENT, to]);
        assert_eq!(seen.code, 4, "{to}: {seen:?}");
    }
    let tiny = duel.dir.create_dir("tiny");
    if let Some(mounted) = TinyDisk::mount(&tiny) {
        let args = ["s3://bkt/pfx", "main", SEGMENT, "tiny/to"];
        let seen = duel.compare(Words::Any, &[], "wal-restore", &args);
        assert_eq!(seen.code, 4, "{seen:?}");
        // What Barman left is in the way of nobody; we leave nothing.
        let _ = std::fs::remove_file(tiny.join("to"));
        assert_eq!(duel.call(&Face::Ours, &[], "wal-restore", &args).code, 4);
        assert_eq!(std::fs::read_dir(&tiny).unwrap().count(), 0);
        drop(mounted);
    }
    duel.end();
}

#[test]
fn an_object_that_is_no_archive_is_4_and_never_an_empty_segment() {
    let server = S3Server::start();
    let Some(mut duel) = Duel::new(server.env()) else { return };
    for suffix in ["gz", "bz2", "xz", "zst", "lz4", "snappy"] {
        bucket::empty(&server);
        let object = server.object(&format!("pfx/main/wals/0000000100000000/{SEGMENT}.{suffix}"));
        std::fs::create_dir_all(object.parent().unwrap()).unwrap();
        std::fs::write(&object, "nothing that was ever compressed").unwrap();
        let args = ["s3://bkt/pfx", "main", SEGMENT, "to"];
        if suffix == "snappy" {
            // Barman 3.19.1 delivers an empty file, and says that all went well.
            let theirs = duel.call(&Face::Theirs(duel.barman.clone()), &[], "wal-restore", &args);
            assert_eq!((theirs.code, std::fs::read(duel.dir.join("to")).unwrap()), (0, Vec::new()));
            let _ = std::fs::remove_file(duel.dir.join("to"));
            assert_eq!(duel.call(&Face::Ours, &[], "wal-restore", &args).code, 4);
        } else {
            assert_eq!(duel.compare(Words::Any, &[], "wal-restore", &args).code, 4, "{suffix}");
            let _ = std::fs::remove_file(duel.dir.join("to"));
            duel.call(&Face::Ours, &[], "wal-restore", &args);
        }
        assert!(!duel.dir.join("to").exists(), "{suffix}");
    }
    duel.end();
}

/// Runs all nine commands; Barman's codes, in the order of `BARMAN_COMMANDS`.
fn every_command(duel: &mut Duel<'_>, words_as: Words, env: &[(&str, &str)], url: &str) -> Vec<i32> {
    let codes = BARMAN_COMMANDS.iter().map(|command| duel.compare(words_as, env, command, &words(command, url)).code);
    codes.collect()
}

/// All nine with `--test`; Barman must end each with `code`.
fn tests_of_the_connection(duel: &mut Duel<'_>, words_as: Words, env: &[(&str, &str)], code: i32) {
    for command in BARMAN_COMMANDS {
        let test = [&["--test"], &words(command, "s3://bkt/pfx")[..]].concat();
        assert_eq!(duel.compare(words_as, env, command, &test).code, code, "{command}");
    }
}

/// A call of `command` that would find nothing in an empty bucket.
fn words<'a>(command: &str, url: &'a str) -> Vec<&'a str> {
    match command {
        "wal-archive" => vec![url, "main", SEGMENT],
        "wal-restore" => vec![url, "main", "000000010000000000000009", "to"],
        "backup" => vec!["-d", NO_POSTGRES, url, "main"],
        "backup-show" => vec![url, "main", "20260101T000000"],
        "backup-keep" => vec!["-s", url, "main", "20260101T000000"],
        "backup-delete" => vec!["-b", "20260101T000000", url, "main"],
        "restore" => vec![url, "main", "20260101T000000", "to"],
        _ => vec![url, "main"],
    }
}

/// An empty bucket, and a segment to archive.
fn local_state(dir: &TestDir, server: &S3Server) {
    bucket::empty(server);
    write_segment(dir);
}

fn write_segment(dir: &TestDir) {
    dir.write(SEGMENT, segment(SEGMENT, 1, Filling::Compressible, 1));
}

fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A file system of 64 KiB; unmounted on drop.
struct TinyDisk<'a>(&'a Path);

impl<'a> TinyDisk<'a> {
    /// `None`, said aloud, where nothing may be mounted.
    fn mount(at: &'a Path) -> Option<Self> {
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(at).status();
        if !mount.is_ok_and(|status| status.success()) {
            pass_over("a full file system", "nothing may be mounted here");
            return None;
        }
        give_away(at);
        Some(Self(at))
    }
}

impl Drop for TinyDisk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}
