//! wal-archive and wal-restore as PostgreSQL calls them: requests counted, servers that fail, processes that die, real WAL.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{
    Cluster, ClusterOptions, Fault, Filling, Postgres, Run, S3Server, TestStore, barback_binary, segment,
};

const SEGMENT: &str = "000000010000000000000005";
const SEGMENT_KEY: &str = "main/wals/0000000100000000/000000010000000000000005";
const IDENTITY_KEY: &str = "main/barback/identity.json";
const PROBE_KEY: &str = "main/barback/create-only-probe";
/// What wal-restore says when it could not find out.
const UNKNOWN: i32 = 255;

/// Set low so that a store that never answers is given up soon, and high enough for a first retry.
const SHORT_RETRY: [&str; 2] = ["--retry-timeout", "3"];

#[test]
fn archiving_is_one_put_beside_the_question_whose_archive_it_is_and_restoring_is_one_get() {
    let store = TestStore::s3(S3Server::start());
    let server = store.server();
    archive(&store, SEGMENT, 1, 0);
    // The first call looks whether somebody else's backups or WAL are there, and records whose the archive is. Its first
    // call to a server that is not AWS asks whether it honours create-only puts.
    assert_eq!(requests(server), ["GET identity", "LIST", "LIST", "PUT probe", "PUT probe", "PUT identity", "PUT wal"]);
    archive(&store, "000000010000000000000006", 1, 0);
    archive(&store, "000000010000000000000007", 1, 0);
    assert_eq!(requests(server), ["GET identity", "PUT wal", "GET identity", "PUT wal"]);
    // The same content again: refused by the store, then compared by its metadata alone.
    archive(&store, SEGMENT, 1, 0);
    assert_eq!(requests(server), ["GET identity", "PUT wal", "HEAD wal"]);
    // A history names no cluster, and asks nothing.
    let history = local_file(&store, "00000002.history", b"1\t0/5000000\twhy\n");
    store.run(&["wal-archive"]).arg(history).success();
    assert_eq!(requests(server), ["PUT wal"]);

    restore(&store, SEGMENT, &[], 0);
    assert_eq!(requests(server), ["GET wal"]);
    restore(&store, SEGMENT, &["--compression", "gzip"], 0);
    assert_eq!(requests(server), ["GET wal", "LIST", "GET wal"]);
    restore(&store, "000000010000000000000009", &[], 1);
    assert_eq!(requests(server), ["GET wal", "LIST"]);
}

#[test]
fn a_file_that_is_refused_sends_nothing() {
    let store = TestStore::s3(S3Server::start());
    let file = local_file(&store, SEGMENT, &segment("000000010000000000000006", 1, Filling::Compressible, 1));
    store.run(&["wal-archive"]).arg(file).run().expect_code(4);
    store.run(&["wal-archive", "nonsense"]).run().expect_code(3);
    assert_eq!(store.server().requests(), []);
}

#[test]
fn a_server_that_ignores_create_only_still_overwrites_nothing_and_is_asked_once() {
    let store = TestStore::s3(S3Server::ignoring_create_only());
    let server = store.server();
    archive(&store, SEGMENT, 1, 0);
    assert_eq!(
        requests(server),
        [
            "GET identity",
            "LIST",
            "LIST",
            "PUT probe",
            "PUT probe",
            "HEAD identity",
            "PUT identity",
            "HEAD wal",
            "PUT wal"
        ]
    );
    let object = store.read(&format!("{SEGMENT_KEY}.zst")).unwrap();
    server.forget_requests();

    archive(&store, SEGMENT, 1, 0);
    assert_eq!(requests(server), ["GET identity", "HEAD wal", "HEAD wal"]);
    let refused = archive(&store, SEGMENT, 2, 4);
    assert!(refused.contains("it was not replaced"), "{refused}");
    assert!(!requests(server).iter().any(|request| request.starts_with("PUT")));
    archive(&store, "000000010000000000000006", 1, 0);
    assert_eq!(requests(server), ["GET identity", "HEAD wal", "PUT wal"]);
    assert_eq!(store.read(&format!("{SEGMENT_KEY}.zst")).unwrap(), object);
    assert!(store.keys().contains(&PROBE_KEY.to_owned()));
}

#[test]
fn what_is_known_of_a_server_lies_in_the_cache_directory_named_by_file_or_environment() {
    let store = TestStore::s3(S3Server::start());
    let server = store.server();
    let cache = store.dir.join("named/in/a/file");
    let config = store.dir.write("barback.toml", format!("cache_dir = \"{}\"\n", cache.display()));
    let file = local_file(&store, SEGMENT, &segment(SEGMENT, 1, Filling::Compressible, 1));
    // The environment would win over the file.
    let call = || {
        let env = store.env().into_iter().filter(|(name, _)| name != "BARBACK_CACHE_DIR").collect::<Vec<_>>();
        crate::harness::barback(&["wal-archive", "--config"]).arg(&config).arg(&file).envs(&env).success();
    };
    call();
    assert!(requests(server).ends_with(&["PUT probe", "PUT probe", "PUT identity", "PUT wal"].map(str::to_owned)));
    call();
    assert_eq!(requests(server), ["GET identity", "PUT wal", "HEAD wal"]);
    // The server's answer, and whose the archive was.
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 2);
    // Without what it remembered the probe object, which stays, makes the question cheaper.
    std::fs::remove_dir_all(&cache).unwrap();
    call();
    assert_eq!(requests(server), ["GET identity", "PUT probe", "PUT wal", "HEAD wal"]);
    // A cache that cannot be written costs the question on every call and nothing else.
    let taken = store.dir.write("taken", "");
    for _ in 0..2 {
        store.run(&["wal-archive"]).arg(&file).env("BARBACK_CACHE_DIR", taken.display().to_string()).success();
        assert_eq!(requests(server), ["GET identity", "PUT probe", "PUT wal", "HEAD wal"]);
    }
}

#[test]
fn a_server_that_stumbles_is_asked_again() {
    let store = TestStore::s3(S3Server::start());
    let server = store.server();
    archive(&store, SEGMENT, 1, 0);
    for status in [500, 503, 429] {
        let name = format!("000000010000000000000{status}");
        let mut left = 2;
        server.fault_when(move |seen| {
            let fails = seen.method == "PUT" && left > 0;
            left -= i32::from(fails);
            fails.then_some(Fault::Status(status))
        });
        server.forget_requests();
        archive(&store, &name, 1, 0);
        assert_eq!(requests(server), ["GET identity", "PUT wal", "PUT wal", "PUT wal"], "{status}");
        server.fail_next(2, status);
        archive(&store, &name, 1, 0);
        let asked_again = ["GET identity", "GET identity", "GET identity", "PUT wal", "HEAD wal"];
        assert_eq!(requests(server), asked_again, "{status}");
        server.fail_next(2, status);
        restore(&store, &name, &[], 0);
        assert_eq!(requests(server), ["GET wal", "GET wal", "GET wal"], "{status}");
        // Also while it is about to learn that there is nothing.
        let mut left = 1;
        server.fault_when(move |seen| {
            let listing = seen.target.contains("list-type");
            if listing && left > 0 {
                left -= 1;
                return Some(Fault::Status(status));
            }
            None
        });
        restore(&store, "000000010000000000000FFF", &[], 1);
        assert_eq!(requests(server), ["GET wal", "LIST", "LIST"], "{status}");
        server.heal();
    }
}

#[test]
fn a_connection_that_breaks_is_made_again_whether_the_object_was_stored_or_not() {
    let store = TestStore::s3(S3Server::start());
    let server = store.server();
    archive(&store, SEGMENT, 1, 0);
    let break_first = |fault: Fault, times: usize| {
        let mut left = times;
        server.fault_when(move |seen| {
            let breaks = left > 0 && !seen.target.contains("identity");
            left -= usize::from(breaks);
            breaks.then_some(fault)
        });
        server.forget_requests();
    };
    break_first(Fault::Disconnect, 2);
    archive(&store, "000000010000000000000006", 1, 0);
    assert_eq!(requests(server), ["GET identity", "PUT wal", "PUT wal", "PUT wal"]);
    // Its own retry finds the object there, and compares.
    break_first(Fault::LoseAnswer, 1);
    archive(&store, "000000010000000000000007", 1, 0);
    assert_eq!(requests(server), ["GET identity", "PUT wal", "PUT wal", "HEAD wal"]);
    for name in ["000000010000000000000006", "000000010000000000000007"] {
        break_first(Fault::Disconnect, 2);
        restore(&store, name, &[], 0);
        assert_eq!(requests(server), ["GET wal", "GET wal", "GET wal"]);
    }
}

#[test]
fn a_store_that_gives_no_answer_is_2_for_the_archiver_and_255_for_recovery() {
    let store = TestStore::s3(S3Server::start());
    archive(&store, SEGMENT, 1, 0);
    let file =
        local_file(&store, "000000010000000000000006", &segment("000000010000000000000006", 1, Filling::Noise, 1));
    let destination = store.dir.join("RECOVERYXLOG");
    // All at once, because each waits until its time is up.
    let call = |why: &str, env: &[(String, String)], archiving: bool| {
        let start = |run: Run| run.args(SHORT_RETRY).envs(env).start();
        let list = start(store.run(&["list"]));
        let restores = [SEGMENT, "000000010000000000000009", "00000002.history"]
            .map(|name| start(store.run(&["wal-restore", name]).arg(&destination)));
        if archiving {
            let archived = start(store.run(&["wal-archive"]).arg(&file)).wait().expect_code(2);
            assert!(archived.stderr.contains("could not archive WAL file"), "{why}: {}", archived.stderr);
        }
        for restored in restores {
            let restored = restored.wait().expect_code(UNKNOWN);
            assert!(restored.stderr.contains("could not restore WAL file"), "{why}: {}", restored.stderr);
        }
        list.wait().expect_code(2);
        assert!(!destination.exists(), "{why}");
    };
    let env = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];

    store.server().refuse_all(503);
    call("503", &[], true);
    store.server().refuse_all(403);
    call("403", &[], true);
    store.server().fault_when(|_| Some(Fault::Disconnect));
    call("disconnected", &[], true);
    store.server().heal();
    call("connection refused", &env("AWS_ENDPOINT_URL", &format!("http://127.0.0.1:{}", closed_port())), true);
    call("no such host", &env("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000"), true);
    call("wrong secret", &env("AWS_SECRET_ACCESS_KEY", "wrongsecret"), true);
    call("unknown key", &env("AWS_ACCESS_KEY_ID", "stranger"), true);
    // s3s-fs makes a bucket of any name on a put; MinIO is asked below.
    call("missing bucket", &env("BARBACK_STORE", "s3://no-such-bucket/pfx"), false);
    assert_eq!(store.wal_keys(), [format!("{SEGMENT_KEY}.zst")]);
}

#[test]
fn a_missing_bucket_of_a_real_server_is_unreachable_and_not_empty() {
    let Some(store) = TestStore::minio() else { return };
    let file = local_file(&store, SEGMENT, &segment(SEGMENT, 1, Filling::Compressible, 1));
    let elsewhere = ["--store", "s3://no-such-bucket/pfx"];
    let said = store.run(&["wal-archive"]).arg(&file).args(elsewhere).run().expect_code(2).stderr;
    assert!(said.contains("HINT: "), "{said}");
    for name in [SEGMENT, "00000002.history"] {
        store.run(&["wal-restore", name, "/nowhere"]).args(elsewhere).run().expect_code(UNKNOWN);
    }
    store.run(&["list"]).args(elsewhere).run().expect_code(2);
    let wrong = store.run(&["wal-archive"]).arg(&file).env("AWS_SECRET_ACCESS_KEY", "wrongsecret").run();
    wrong.expect_code(2);
    let wrong = store.run(&["wal-restore", SEGMENT, "/nowhere"]).env("AWS_SECRET_ACCESS_KEY", "wrongsecret").run();
    wrong.expect_code(UNKNOWN);
}

#[test]
fn a_store_that_refuses_to_list_makes_absence_unknown() {
    let store = TestStore::s3(S3Server::start());
    archive(&store, SEGMENT, 1, 0);
    store.server().fault_when(|seen| seen.target.contains("list-type").then_some(Fault::Status(403)));
    restore(&store, "000000010000000000000009", &[], UNKNOWN);
    restore(&store, SEGMENT, &[], 0);
}

#[test]
fn a_bit_that_flips_in_the_store_is_found_by_the_digest() {
    let store = TestStore::s3(S3Server::start());
    let file = local_file(&store, SEGMENT, &segment(SEGMENT, 1, Filling::Noise, 1));
    store.run(&["wal-archive", "--compression", "none"]).arg(&file).success();
    let object = store.server().object(&format!("pfx/{SEGMENT_KEY}"));
    let good = std::fs::read(&object).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&object, &bad).unwrap();
    let said = restore(&store, SEGMENT, &["--compression", "none"], UNKNOWN);
    assert!(said.contains("is damaged"), "{said}");
    std::fs::write(&object, &good).unwrap();
    restore(&store, SEGMENT, &["--compression", "none"], 0);
}

#[test]
fn killed_while_the_answer_is_slow_it_leaves_no_destination() {
    let store = TestStore::s3(S3Server::start());
    archive(&store, SEGMENT, 1, 0);
    let restored = store.dir.create_dir("restored");
    let destination = restored.join("RECOVERYXLOG");
    for signal in [Signal::KILL, Signal::TERM] {
        store.server().forget_requests();
        store.server().fault_when(|_| Some(Fault::Delay(Duration::from_mins(1))));
        let running = store.run(&["wal-restore", SEGMENT]).arg(&destination).start();
        while store.server().count("GET") == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        running.signal(signal);
        // PostgreSQL stops recovery for signals too; 1 to 125 would end it.
        let code = running.wait().code();
        assert!(code > 125, "{code}");
        assert_eq!(std::fs::read_dir(&restored).unwrap().count(), 0);
    }
    store.server().heal();
    store.run(&["wal-restore", SEGMENT]).arg(&destination).success();
    assert!(destination.exists());
}

#[test]
fn a_destination_that_exists_is_replaced_as_a_whole() {
    let store = TestStore::s3(S3Server::start());
    let file = archive_file(&store, SEGMENT, 1);
    let destination = store.dir.write("RECOVERYXLOG", "what an earlier call left");
    store.run(&["wal-restore", SEGMENT]).arg(&destination).success();
    assert!(std::fs::read(&destination).unwrap() == std::fs::read(file).unwrap());
    // Relative to the current directory, as PostgreSQL gives both paths.
    store.run(&["wal-archive", "pg_wal/000000010000000000000005"]).in_dir(store.dir.path()).success();
    store.run(&["wal-restore", SEGMENT, "here"]).in_dir(store.dir.path()).success();
    assert!(store.dir.join("here").exists());
}

#[test]
fn a_segment_of_16_megabytes_is_archived_in_less_than_48_mebibytes() {
    let store = TestStore::s3(S3Server::start());
    for (at, filling) in [Filling::Compressible, Filling::Noise].into_iter().enumerate() {
        for codec in ["none", "gzip", "zstd", "lz4", "snappy", "bzip2"] {
            let file = local_file(&store, SEGMENT, &segment(SEGMENT, 16, filling, 1));
            let server = format!("{codec}{at}");
            let archive = store.run(&["wal-archive", "--server", &server, "--compression", codec]);
            let archived = archive.arg(file).success();
            eprintln!("wal-archive, {filling:?}, {codec}: {} KiB", archived.peak_rss_kib);
            // Noise is in memory twice for a moment. That leaves a build for debugging, which is 5 MiB larger, no room.
            if filling == Filling::Compressible || !cfg!(debug_assertions) {
                assert!(archived.peak_rss_kib < 48 << 10, "{codec}, {filling:?}: {} KiB", archived.peak_rss_kib);
            }
        }
    }
}

#[test]
fn all_that_postgresql_archives_comes_back_byte_for_byte() {
    for (major, megabytes) in [(15, 1), (16, 16), (18, 64)] {
        let Some(version) = Postgres::version(major) else { continue };
        eprintln!("--- PostgreSQL {major}, segments of {megabytes} MB");
        let store = TestStore::s3(S3Server::start());
        let copies = store.dir.create_dir("copies");
        let options = || {
            ClusterOptions::default()
                .wal_segment_mb(megabytes)
                .set("archive_mode", "on")
                .set("archive_command", archive_command(&copies))
                .set("max_wal_size", format!("{}MB", megabytes * 4))
                .set("min_wal_size", format!("{}MB", megabytes * 2))
                .set("wal_keep_size", "1GB")
                .envs(&store.env())
        };
        let mut primary = Cluster::init(&store.dir, &version, options());
        primary.start();
        // Its backup writes a `.backup` file into the archive.
        let mut standby = Cluster::standby_of(&primary, &store.dir, "standby");
        primary.psql("CREATE TABLE t AS SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n");
        primary.archive_everything();
        primary.psql("INSERT INTO t SELECT n, repeat('y', 100) FROM generate_series(1, 1000) n");
        let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
        standby.start();
        let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        standby.wait_until(&caught_up, "t", Duration::from_mins(1));
        primary.stop("fast");
        // Its promotion writes a `.history` and, for the segment it happens in, a `.partial`.
        standby.promote();
        standby.archive_everything();
        standby.stop("fast");

        let names: Vec<String> = std::fs::read_dir(&copies)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for kind in [".history", ".backup", ".partial"] {
            assert!(names.iter().any(|name| name.ends_with(kind)), "{kind} is missing among {names:?}");
        }
        assert!(names.iter().filter(|name| name.len() == 24).count() >= 3, "{names:?}");
        for name in &names {
            let copy = std::fs::read(copies.join(name)).unwrap();
            assert!(name.len() != 24 || copy.len() == (megabytes as usize) << 20);
            restore(&store, name, &[], 0);
            assert!(
                std::fs::read(store.dir.join("restored/RECOVERYXLOG")).unwrap() == copy,
                "{name} came back changed"
            );
        }
        assert_eq!(store.wal_keys().len(), names.len());
    }
}

/// Archives by barback and keeps a copy of what was archived.
fn archive_command(copies: &Path) -> String {
    format!("{} wal-archive %p && cp %p {}/%f", barback_binary().display(), copies.display())
}

/// Archives a made-up segment; what barback said.
fn archive(store: &TestStore, name: &str, seed: u64, code: i32) -> String {
    let file = local_file(store, name, &segment(name, 1, Filling::Compressible, seed));
    store.run(&["wal-archive"]).arg(file).run().expect_code(code).stderr
}

fn archive_file(store: &TestStore, name: &str, seed: u64) -> PathBuf {
    let file = local_file(store, name, &segment(name, 1, Filling::Compressible, seed));
    store.run(&["wal-archive"]).arg(&file).success();
    file
}

fn local_file(store: &TestStore, name: &str, content: &[u8]) -> PathBuf {
    store.dir.create_dir("pg_wal");
    store.dir.write(&format!("pg_wal/{name}"), content)
}

/// Restores to `restored/RECOVERYXLOG`, which did not exist; what barback said.
fn restore(store: &TestStore, name: &str, options: &[&str], code: i32) -> String {
    let destination = store.dir.create_dir("restored").join("RECOVERYXLOG");
    let _ = std::fs::remove_file(&destination);
    let said = store.run(&["wal-restore", name]).arg(&destination).args(options).run().expect_code(code).stderr;
    assert_eq!(destination.exists(), code == 0);
    said
}

/// The requests since the last look, in short.
fn requests(server: &S3Server) -> Vec<String> {
    let seen = server.requests();
    server.forget_requests();
    let short = |seen: &crate::harness::Seen| {
        if seen.target.contains("list-type") {
            return "LIST".to_owned();
        }
        let what = if seen.target.ends_with(PROBE_KEY) {
            "probe"
        } else if seen.target.ends_with(IDENTITY_KEY) {
            "identity"
        } else if seen.target.contains("/wals/") {
            "wal"
        } else {
            &seen.target
        };
        format!("{} {what}", seen.method)
    };
    seen.iter().map(short).collect()
}

/// A port of this host on which nobody listens.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
