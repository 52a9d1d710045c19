//! The harness itself: its servers start, answer and misbehave as asked, so that other tests may trust them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::Path;
use std::time::Duration;

use object_store::path::Path as Key;
use object_store::{Error as StoreError, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload};
use rustix::process::Signal;

use crate::harness::{
    BARMAN_COMMANDS, BARMAN_VERSION, Barman, Checked, Cluster, ClusterOptions, DiskError, DiskFaults, Fault, FaultPlan,
    FaultProxy, Minio, Run, S3Server, TestDir, Trouble, WebServer, barback, block_on, for_each_version, s3_client,
};

#[test]
fn every_version_starts_and_answers_and_is_checked() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let options = ClusterOptions::default().wal_segment_mb(1).set("application_name", "it's");
        let mut cluster = Cluster::init(&dir, version, options);
        cluster.start();
        assert_eq!(cluster.psql("SELECT 1"), "1");
        assert_eq!(cluster.psql("SHOW wal_segment_size"), "1MB");
        assert_eq!(cluster.psql("SHOW data_checksums"), "on");
        assert!(cluster.psql("SHOW server_version_num").starts_with(&version.major.to_string()));
        assert!(cluster.try_psql("SELECT nonsense").unwrap_err().contains("nonsense"));
        assert_eq!(cluster.amcheck(), Checked::Passed);
        cluster.stop("fast");
        assert!(!cluster.is_running());
    });
}

#[test]
fn archive_command_runs_in_the_environment_that_was_given() {
    let Some(version) = crate::harness::Postgres::newest() else { return };
    let dir = TestDir::new();
    let wals = dir.create_dir("wals");
    let options = ClusterOptions::default()
        .data_checksums(false)
        .set("archive_mode", "on")
        .set("archive_command", "cp %p \"$WALS/%f\"")
        .env("WALS", wals.display().to_string());
    let mut cluster = Cluster::init(&dir, &version, options);
    cluster.start();
    assert_eq!(cluster.psql("SHOW data_checksums"), "off");
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    let segment = cluster.archive_everything();
    assert!(wals.join(&segment).is_file());
}

#[test]
fn a_standby_follows_its_primary_and_passes_verification() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let mut primary = Cluster::init(&dir, version, ClusterOptions::default());
        primary.start();
        let mut standby = Cluster::standby_of(&primary, &dir, "standby");
        assert_eq!(standby.verify_backup(), Checked::Passed);
        standby.start();
        primary.psql("CREATE TABLE seen AS SELECT 42 AS n");
        standby.wait_until("SELECT n FROM seen", "42", Duration::from_secs(30));
        standby.promote();
        assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "f");
        primary.stop("immediate");
    });
}

#[test]
fn a_server_that_cannot_start_says_so() {
    let Some(version) = crate::harness::Postgres::newest() else { return };
    let dir = TestDir::new();
    let mut cluster = Cluster::init(&dir, &version, ClusterOptions::default().set("shared_buffers", "nonsense"));
    assert_ne!(cluster.try_start().code(), 0);
    assert!(cluster.log().contains("nonsense"), "{}", cluster.log());
}

#[test]
fn s3_refuses_to_overwrite_on_a_create_only_put() {
    let server = S3Server::start();
    assert!(create_twice(&server.env()).is_err_and(|error| matches!(error, StoreError::AlreadyExists { .. })));
    assert_eq!(server.count("PUT"), 2);
    assert_eq!(server.keys(), ["pfx/one"]);
    assert_eq!(std::fs::read(server.object("pfx/one")).unwrap(), b"first");
}

#[test]
fn s3_that_ignores_create_only_overwrites() {
    let server = S3Server::ignoring_create_only();
    assert!(create_twice(&server.env()).is_ok());
    assert_eq!(std::fs::read(server.object("pfx/one")).unwrap(), b"second");
}

#[test]
fn s3_refuses_a_wrong_secret() {
    let server = S3Server::start();
    let mut env = server.env();
    env[1].1 = "wrongsecret".into();
    assert!(create_twice(&env).is_err());
    assert!(server.keys().is_empty());
}

#[test]
fn s3_fails_as_often_as_asked_and_then_works() {
    let server = S3Server::start();
    server.fail_next(2, 503);
    assert!(create_twice(&server.env()).is_err_and(|error| matches!(error, StoreError::AlreadyExists { .. })));
    assert_eq!(server.count("PUT"), 4, "{:?}", server.requests());

    server.refuse_all(403);
    server.forget_requests();
    let get = |key| block_on(async { s3_client(&server.env()).get(&Key::from(key)).await });
    assert!(get("pfx/one").is_err());
    assert_eq!((server.count("GET"), server.requests()[0].target.as_str()), (1, "/bkt/pfx/one"));

    server.heal();
    assert!(get("pfx/one").is_ok());

    let mut cut = false;
    server.fault_when(move |_| (!std::mem::replace(&mut cut, true)).then_some(Fault::Disconnect));
    assert!(get("pfx/one").is_ok(), "a client tries again after a lost connection");
}

#[test]
fn minio_refuses_to_overwrite_on_a_create_only_put() {
    let Some(server) = Minio::start() else { return };
    assert!(create_twice(&server.env()).is_err_and(|error| matches!(error, StoreError::AlreadyExists { .. })));
}

#[test]
fn programs_run_unprivileged_and_their_end_and_memory_are_seen() {
    let finished = Run::new("/bin/sh").args(["-c", "id -u; echo oops >&2; sleep 0.1; exit 7"]).run().expect_code(7);
    assert_ne!(finished.stdout.trim(), "0");
    assert_eq!(finished.stderr, "oops\n");
    assert!((100..100_000).contains(&finished.peak_rss_kib), "{} KiB", finished.peak_rss_kib);

    let sleeper = Run::new("/bin/sleep").arg("60").start();
    // Before setpriv has become the program, the signal would hit setpriv, which is as mortal.
    sleeper.signal(Signal::TERM);
    assert_eq!(sleeper.wait().code(), 128 + 15);
}

#[test]
#[should_panic(expected = "still running after")]
fn a_program_past_its_deadline_fails_the_test() {
    Run::new("/bin/sleep").arg("60").timeout(Duration::from_millis(100)).run();
}

#[test]
fn our_binary_can_be_run_by_the_unprivileged_user() {
    let none: [&str; 0] = [];
    let finished = barback(&none).run();
    assert_ne!(finished.code(), 126, "it was found but could not be executed");
    assert_ne!(finished.code(), 127, "it was not found");
}

/// Puts `pfx/one` twice, create-only; the answer to the second.
fn create_twice(env: &[(String, String)]) -> Result<(), StoreError> {
    let client = s3_client(env);
    let put = async |content: &'static str| {
        client
            .put_opts(&Key::from("pfx/one"), PutPayload::from_static(content.as_bytes()), PutMode::Create.into())
            .await
    };
    block_on(async {
        put("first").await?;
        put("second").await.map(|_| ())
    })
}

#[test]
fn barman_answers_under_all_its_names_and_backs_up_into_the_test_server() {
    let Some(barman) = Barman::find() else { return };
    for command in BARMAN_COMMANDS {
        let version = barman.run(command, &["--version"]).success().stdout;
        assert_eq!(version, format!("barman-cloud-{command} {BARMAN_VERSION}\n"));
    }
    let Some(version) = crate::harness::Postgres::newest() else { return };
    let (dir, server) = (TestDir::new(), S3Server::start());
    let mut cluster = Cluster::init(&dir, &version, ClusterOptions::default().wal_segment_mb(1));
    cluster.start();
    let place = ["s3://bkt/pfx".to_owned(), "main".to_owned()];
    let backup = barman.run("backup", &["-d", &cluster.connect_string(), "--immediate-checkpoint"]);
    backup.args(&place).envs(&server.env()).success();
    let listed = barman.run("backup-list", &place).envs(&server.env()).success().stdout;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(server.keys().iter().any(|key| key.ends_with("/data.tar")), "{:?}", server.keys());
}

/// What a client reads that asks once through a proxy with this trouble alone, and how many requests came through.
fn asked_through(trouble: Trouble) -> (String, usize) {
    use std::io::{Read as _, Write as _};
    let server = WebServer::start(|_, body| (200, format!("hello {body}")));
    let proxy = FaultProxy::before(&server.endpoint());
    proxy.break_by(FaultPlan { seed: 1, percent: 100, kinds: vec![trouble] });
    let env = proxy.through(&[("URL".to_owned(), server.address())]);
    let mut client = std::net::TcpStream::connect(&env[0].1).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let request = b"PUT /bkt/key HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nConnection: close\r\n\r\nworld";
    let mut answer = Vec::new();
    // A reset may come while we write, and while we read.
    let _ = client.write_all(request).and_then(|()| client.read_to_end(&mut answer));
    (String::from_utf8_lossy(&answer).into_owned(), server.requests().len())
}

#[test]
fn the_proxy_breaks_what_it_is_asked_to_break() {
    let whole = "hello world";
    for trouble in [Trouble::Refused, Trouble::ResetBeforeBody, Trouble::ResetInBody, Trouble::ResetAfterBody] {
        assert_eq!(asked_through(trouble), (String::new(), 0), "{trouble:?}");
    }
    assert_eq!(asked_through(Trouble::Silent), (String::new(), 0));
    assert_eq!(asked_through(Trouble::LostAnswer), (String::new(), 1));
    for trouble in [Trouble::ResetInAnswer, Trouble::CutAnswer] {
        let (answer, requests) = asked_through(trouble);
        assert!(!answer.contains(whole) && requests == 1, "{trouble:?}: {answer}");
    }
    let (answer, requests) = asked_through(Trouble::Status(503, "SlowDown"));
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("<Code>SlowDown</Code>") && requests == 0,
        "{answer}"
    );
    for trouble in [Trouble::WrongByteInAnswer, Trouble::WrongByteInRequest] {
        let (answer, requests) = asked_through(trouble);
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && !answer.contains(whole) && requests == 1,
            "{trouble:?}: {answer}"
        );
    }
    assert_eq!(asked_through(Trouble::AnsweredTwice).0.matches(whole).count(), 2);
    assert_eq!(asked_through(Trouble::CarriedOutTwice).1, 2);
    for trouble in [Trouble::Late, Trouble::Dripping] {
        assert!(asked_through(trouble).0.ends_with(whole), "{trouble:?}");
    }
    let (answer, _) = asked_through(Trouble::ClockAhead);
    let date = answer.lines().find_map(|line| line.strip_prefix("date: ")).unwrap_or_else(|| panic!("{answer}"));
    let ahead = chrono::DateTime::parse_from_rfc2822(date).unwrap().to_utc() - chrono::Utc::now();
    assert!((3500..3700).contains(&ahead.num_seconds()), "{ahead}");
}

#[test]
fn a_disk_fails_where_and_as_it_is_asked_to() {
    let dir = TestDir::new();
    let (there, elsewhere) = (dir.create_dir("there"), dir.create_dir("elsewhere"));
    let faults = DiskFaults { percent: 100, seed: 1, error: DiskError::Full, calls: "write" };
    let seen = dir.write("seen", "");
    let copy =
        |to: &Path| faults.below(&there, &seen, Run::new("/bin/sh").arg("-c").arg("echo x > $0/file").arg(to)).run();
    assert_ne!(copy(&there).code(), 0);
    assert_eq!(std::fs::read(there.join("file")).unwrap(), b"");
    assert_ne!(std::fs::read(&seen).unwrap(), b"");
    assert_eq!(copy(&elsewhere).code(), 0);
}

/// The text is that of the hook in `cli/panic.rs`.
#[test]
#[should_panic(expected = "panicked:")]
fn a_run_that_panics_fails_its_test_whatever_code_it_ends_with() {
    Run::new("/bin/sh").args(["-c", "echo 'barback: this is a fault of barback 0.1.0, at x: y' >&2"]).run();
}
