//! Credentials that end while a command is at work are renewed, and files that hold tokens are read again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{TimeDelta, Utc};

use crate::harness::{Fault, Filling, Finished, Run, S3Server, TestDir, WebServer, barback, segment};

const FIRST: (&str, &str) = ("firstkeyinuse", "secretofthefirstkey");
const SECOND: (&str, &str) = ("secondkeyinuse", "secretofthesecondkey");

/// Renewed five minutes before their end: these are fresh for two seconds.
fn end_of_the_first() -> String {
    (Utc::now() + TimeDelta::seconds(302)).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn end_of_the_second() -> String {
    (Utc::now() + TimeDelta::hours(1)).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A server that takes both keys and half a second for each object, and a `pg_wal` that it takes some seconds to ship.
fn place() -> (TestDir, S3Server, PathBuf) {
    let (dir, server) = (TestDir::new(), S3Server::with_keys(&[FIRST, SECOND]));
    server.fault_when(|seen| (seen.method == "PUT").then_some(Fault::Delay(Duration::from_millis(500))));
    dir.create_dir("data");
    let pg_wal = dir.create_dir("data/pg_wal");
    dir.create_dir("data/pg_wal/archive_status");
    for number in 1..=14 {
        let name = format!("0000000100000000{number:08X}");
        dir.write(&format!("data/pg_wal/{name}"), segment(&name, 1, Filling::Compressible, 1));
        dir.write(&format!("data/pg_wal/archive_status/{name}.ready"), "");
    }
    (dir, server, pg_wal)
}

fn ship(server: &S3Server, dir: &TestDir, pg_wal: &PathBuf) -> Run {
    barback(&["wal-archive", "--jobs", "2", "--all"])
        .arg(pg_wal)
        .env("BARBACK_STORE", "s3://bkt/pfx")
        .env("BARBACK_CACHE_DIR", dir.join("cache").display().to_string())
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .env("AWS_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

/// The same with the credentials that a script prints.
fn ship_with(script: &str, server: &S3Server, dir: &TestDir, pg_wal: &PathBuf) -> Finished {
    let program = dir.write("give-keys", script);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = dir.write("config", format!("[profile ops]\ncredential_process = {}\n", program.display()));
    ship(server, dir, pg_wal)
        .args(["--aws-profile", "ops"])
        .env("AWS_CONFIG_FILE", config.display().to_string())
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        .success()
}

/// Both keys were used, one after the other, and every segment is there.
fn expect_renewed(server: &S3Server, finished: &Finished) {
    let signed: Vec<bool> = server
        .requests()
        .iter()
        .map(|seen| seen.header("authorization").unwrap().contains(&format!("Credential={}/", SECOND.0)))
        .collect();
    let (first, last) = (signed.first(), signed.last());
    assert_eq!((first, last), (Some(&false), Some(&true)), "{signed:?} {}", finished.stderr);
    let wal = server.keys().iter().filter(|key| key.contains("/wals/")).count();
    assert_eq!(wal, 14, "{:?}", server.keys());
}

#[test]
fn credentials_of_a_process_are_renewed_before_they_end() {
    let (dir, server, pg_wal) = place();
    let answer = |(key, secret): (&str, &str), end: String| {
        format!(
            "{{\"Version\": 1, \"AccessKeyId\": \"{key}\", \"SecretAccessKey\": \"{secret}\", \"Expiration\": \"{end}\"}}"
        )
    };
    dir.write("second", answer(SECOND, end_of_the_second()));
    dir.write("answer", answer(FIRST, end_of_the_first()));
    let (now, next) = (dir.join("answer"), dir.join("second"));
    // The next time it is asked, it gives the second.
    let program = format!("#!/bin/sh\ncat {0}\ncp {1} {0}\n", now.display(), next.display());
    let finished = ship_with(&program, &server, &dir, &pg_wal);
    expect_renewed(&server, &finished);
}

#[test]
fn credentials_that_cannot_be_renewed_are_used_until_they_end() {
    let (dir, server, pg_wal) = place();
    let end = end_of_the_first();
    let (key, secret) = FIRST;
    let program = format!(
        "#!/bin/sh\n[ -e {asked} ] && exit 1\ntouch {asked}\necho '{{\"Version\": 1, \"AccessKeyId\": \"{key}\", \
         \"SecretAccessKey\": \"{secret}\", \"Expiration\": \"{end}\"}}'\n",
        asked = dir.join("asked").display()
    );
    let finished = ship_with(&program, &server, &dir, &pg_wal);
    assert!(finished.stderr.contains("could not renew the credentials"), "{}", finished.stderr);
    assert_eq!(server.keys().iter().filter(|key| key.contains("/wals/")).count(), 14);
}

#[test]
fn a_projected_token_is_read_again_when_the_credentials_that_it_gave_end() {
    let (dir, server, pg_wal) = place();
    let token = dir.write("token", "the-first-token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let rotated = token.clone();
    // As Amazon EKS gives credentials to pods.
    let agent = WebServer::start(move |seen, _| {
        let is_first = seen.header("authorization") == Some("the-first-token");
        let ((key, secret), end) = if is_first { (FIRST, end_of_the_first()) } else { (SECOND, end_of_the_second()) };
        // As the kubelet does long before a token ends.
        std::fs::write(&rotated, "the-second-token").unwrap();
        let answer = format!(
            "{{\"AccessKeyId\": \"{key}\", \"SecretAccessKey\": \"{secret}\", \"Token\": \"session\", \"Expiration\": \"{end}\"}}"
        );
        (200, answer)
    });
    let finished = ship(&server, &dir, &pg_wal)
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v1/credentials", agent.endpoint()))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.display().to_string())
        .success();
    expect_renewed(&server, &finished);
    let tokens: Vec<_> = agent.requests().iter().map(|seen| seen.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(tokens, ["the-first-token", "the-second-token"]);
}
