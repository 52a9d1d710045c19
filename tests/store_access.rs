//! How barback gets at an S3 store: credentials, region, addressing, certificates, and the layers of settings for real calls.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::harness::{Certificate, Filling, Run, S3Server, TestDir, barback, segment};

const SEGMENT: &str = "000000010000000000000005";
const OBJECT: &str = "wals/0000000100000000/000000010000000000000005.zst";
/// The harness's servers take these.
const KEYS: (&str, &str) = ("testkey", "sk-that-nobody-may-print-8Wq3");

#[test]
fn a_profile_gives_credentials_and_region() {
    let (dir, server) = (TestDir::new(), S3Server::start());
    let credentials =
        dir.write_secret("credentials", profile("[ops]", KEYS.0, KEYS.1) + &profile("[wrong]", KEYS.0, "nonsense"));
    let config = dir.write("config", "[profile ops]\nregion = eu-test-7\n[profile wrong]\nregion = eu-test-7\n");
    let files = [("AWS_SHARED_CREDENTIALS_FILE", credentials), ("AWS_CONFIG_FILE", config)];
    let files = files.map(|(name, path)| (name.to_owned(), path.display().to_string()));
    let call = |words: &[&str]| {
        server.forget_requests();
        on(&server, &dir, words).arg("--endpoint-url").arg(server.endpoint()).envs(&files)
    };
    call(&["wal-archive", "--aws-profile", "ops"]).arg(local_file(&dir)).success();
    assert!(server.requests().iter().all(|seen| seen.region == "eu-test-7"), "{:?}", server.requests());
    let restored = dir.join("restored");
    call(&["wal-restore", SEGMENT, "--aws-profile", "ops"]).arg(&restored).success();
    assert!(restored.exists());
    // The profile's name from the environment; a region that is given wins over the profile's.
    call(&["list", "--region", "eu-test-8"]).env("AWS_PROFILE", "ops").success();
    assert!(server.requests().iter().all(|seen| seen.region == "eu-test-8"), "{:?}", server.requests());
    call(&["list"]).env("AWS_PROFILE", "ops").env("AWS_REGION", "eu-test-9").success();
    assert!(server.requests().iter().all(|seen| seen.region == "eu-test-9"), "{:?}", server.requests());
    // A profile that is asked for wins over keys in the environment.
    let keys = [("AWS_ACCESS_KEY_ID", KEYS.0), ("AWS_SECRET_ACCESS_KEY", "nonsense")];
    let keys = keys.map(|(name, value)| (name.to_owned(), value.to_owned()));
    call(&["list", "--aws-profile", "ops"]).envs(&keys).success();
    call(&["list"]).envs(&keys).run().expect_code(2);
    // But `AWS_PROFILE` beside keys gives no more than the region, as with the AWS tools.
    call(&["list"]).envs(&keys).env("AWS_PROFILE", "ops").run().expect_code(2);
    call(&["list"]).envs(&keys).env("AWS_SECRET_ACCESS_KEY", KEYS.1).env("AWS_PROFILE", "wrong").success();
    assert!(server.requests().iter().all(|seen| seen.region == "eu-test-7"), "{:?}", server.requests());

    call(&["wal-archive", "--aws-profile", "wrong"]).arg(local_file(&dir)).run().expect_code(2);
    call(&["wal-restore", SEGMENT, "/nowhere", "--aws-profile", "wrong"]).run().expect_code(255);
    let nobody = call(&["list", "--aws-profile", "nobody"]).run().expect_code(2);
    assert!(nobody.stderr.contains("nobody"), "{}", nobody.stderr);
}

#[test]
fn the_default_profile_of_the_home_directory_is_found() {
    let (dir, server) = (TestDir::new(), S3Server::start());
    dir.create_dir(".aws");
    dir.write_secret(".aws/credentials", profile("[default]", KEYS.0, KEYS.1));
    // Run sets HOME to the directory it runs in.
    let call = || on(&server, &dir, &["wal-archive"]).arg(local_file(&dir)).env("AWS_ENDPOINT_URL", server.endpoint());
    call().in_dir(dir.path()).success();
    assert_eq!(server.requests()[0].region, "us-east-1");
    let nothing = call().run().expect_code(2);
    assert!(nothing.stderr.contains("credential"), "{}", nothing.stderr);
}

#[test]
fn a_credential_process_is_asked() {
    let (dir, server) = (TestDir::new(), S3Server::start());
    let answer = format!(
        "#!/bin/sh\necho asked >> {}\necho '{{\"Version\": 1, \"AccessKeyId\": \"{}\", \"SecretAccessKey\": \"{}\"}}'\n",
        dir.join("asked").display(),
        KEYS.0,
        KEYS.1
    );
    let program = dir.write("give-keys", answer);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!("[profile ops]\ncredential_process = {}\nregion = eu-test-7\n", program.display());
    let config = dir.write("config", config);
    let call = |program: &str| {
        on(&server, &dir, &["wal-archive", "--aws-profile", "ops"])
            .arg(local_file(&dir))
            .env("AWS_ENDPOINT_URL", server.endpoint())
            .env("AWS_CONFIG_FILE", program)
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    };
    call(&config.display().to_string()).success();
    assert_eq!(server.requests()[0].region, "eu-test-7");
    // Once a call, whatever the number of requests.
    assert_eq!(std::fs::read_to_string(dir.join("asked")).unwrap(), "asked\n");
    dir.write("give-keys", "#!/bin/sh\nexit 1\n");
    call(&config.display().to_string()).run().expect_code(2);
}

#[test]
fn no_secret_is_ever_said() {
    let (dir, server) = (TestDir::new(), S3Server::start());
    let secret = "wJalrXUtnFEMIsecret";
    let session = "FwoGZXIvYXdzEsession";
    let credentials = dir.write_secret(
        "credentials",
        profile("[ops]", KEYS.0, KEYS.1)
            + &profile("[wrong]", KEYS.0, secret)
            + "aws_session_token = "
            + session
            + "\n",
    );
    let calls: [(&str, &[(&str, &str)]); 3] = [
        ("--aws-profile=ops", &[]),
        ("--aws-profile=wrong", &[]),
        (
            "--region=us-east-1",
            &[("AWS_ACCESS_KEY_ID", KEYS.0), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_SESSION_TOKEN", session)],
        ),
    ];
    for (option, env) in calls {
        for loud in ["-vv", "-vvv", "--log-format=json"] {
            let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let said = on(&server, &dir, &["wal-archive", loud, option])
                .arg(local_file(&dir))
                .envs(&env)
                .env("AWS_ENDPOINT_URL", server.endpoint())
                .env("AWS_SHARED_CREDENTIALS_FILE", credentials.display().to_string())
                .run();
            assert_eq!(said.code(), if option.ends_with("ops") { 0 } else { 2 }, "{}", said.stderr);
            for word in [secret, session, KEYS.1] {
                assert!(!said.stderr.contains(word) && !said.stdout.contains(word), "{option} {loud}: {}", said.stderr);
            }
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let (dir, server) = (TestDir::new(), S3Server::start());
    let file = dir.write(
        "barback.toml",
        format!(
            "store = \"s3://bkt/file\"\nserver = \"f\"\nendpoint_url = \"{}\"\nregion = \"eu-file-1\"\n\
             [wal]\ncompression = \"none\"\n",
            server.endpoint()
        ),
    );
    let keys = [("AWS_ACCESS_KEY_ID", KEYS.0), ("AWS_SECRET_ACCESS_KEY", KEYS.1), ("AWS_REGION", "eu-aws-1")];
    let keys = keys.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let call = |words: &[&str]| {
        server.forget_requests();
        barback(&["wal-archive"])
            .args(words)
            .arg(local_file(&dir))
            .arg("--config")
            .arg(&file)
            .envs(&keys)
            .env("BARBACK_CACHE_DIR", dir.join("cache").display().to_string())
    };
    let stored = || server.keys().into_iter().filter(|key| key.contains("/wals/")).collect::<Vec<_>>();
    call(&[]).success();
    assert_eq!(stored(), [format!("file/f/{}", OBJECT.trim_end_matches(".zst"))]);
    assert_eq!(server.requests()[0].region, "eu-file-1");

    let env = [
        ("BARBACK_STORE", "s3://bkt/env"),
        ("BARBACK_SERVER", "e"),
        ("BARBACK_WAL_COMPRESSION", "gzip"),
        ("BARBACK_REGION", "eu-env-1"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    call(&[]).envs(&env).success();
    assert!(stored().contains(&format!("env/e/{}", OBJECT.replace(".zst", ".gz"))), "{:?}", stored());
    assert_eq!(server.requests()[0].region, "eu-env-1");

    let flags = ["--store", "s3://bkt/flag", "--server", "g", "--compression", "xz", "--region", "eu-flag-1"];
    call(&flags).envs(&env).success();
    assert!(stored().contains(&format!("flag/g/{}", OBJECT.replace(".zst", ".xz"))), "{:?}", stored());
    assert_eq!(server.requests()[0].region, "eu-flag-1");

    dir.write("barback.toml", "stroe = \"s3://bkt/file\"\n");
    let refused = call(&flags).run().expect_code(3);
    assert!(refused.stderr.contains("stroe") && refused.stderr.contains("\"store\""), "{}", refused.stderr);
    // What cannot be read proves nothing about the archive.
    barback(&["wal-restore", SEGMENT, "/nowhere", "--config"]).arg(&file).run().expect_code(255);
    barback(&["wal-restore", SEGMENT, "/nowhere"]).run().expect_code(255);
    assert_eq!(stored().len(), 3);
}

#[test]
fn a_bucket_is_named_in_the_path_or_in_the_host_as_asked() {
    let (dir, server) = (TestDir::new(), S3Server::virtual_hosted("s3.test"));
    let call = |style: &str, endpoint: &str| {
        server.forget_requests();
        on(&server, &dir, &["wal-archive", "--s3-addressing-style", style, "--endpoint-url", endpoint])
            .arg(local_file(&dir))
            .envs(&keys())
            .args(["--retry-timeout", "1"])
            // No name server knows the host; a proxy need not ask one.
            .env("http_proxy", server.endpoint())
            .run()
    };
    // Objects, and listings of the bucket: the first segment of an archive looks what is there.
    for (style, host, object, listing) in [
        ("virtual", "bkt.s3.test", "/pfx/main/", "/?"),
        ("path", "s3.test", "/bkt/pfx/main/", "/bkt?"),
        ("auto", "s3.test", "/bkt/pfx/main/", "/bkt?"),
    ] {
        call(style, "http://s3.test").expect_code(0);
        let requests = server.requests();
        assert!(!requests.is_empty());
        for seen in requests {
            assert_eq!(seen.host, host, "{style}");
            let is_told_so = seen.target.starts_with(object) || seen.target.starts_with(listing);
            assert!(is_told_so, "{style}: {}", seen.target);
        }
    }
    assert!(server.object(&format!("pfx/main/{OBJECT}")).exists());
    // An address has no names below it.
    let refused = call("virtual", "http://127.0.0.1:9000").expect_code(3);
    assert!(refused.stderr.contains("127.0.0.1"), "{}", refused.stderr);
    call("sideways", "http://s3.test").expect_code(3);
}

#[test]
fn a_store_behind_tls_is_trusted_only_with_its_authority() {
    let dir = TestDir::new();
    let Some(certificate) = Certificate::make(&dir) else { return };
    let server = S3Server::with_tls(&certificate);
    let authority = certificate.authority.display().to_string();
    let call = |words: &[&str]| {
        on(&server, &dir, words).envs(&keys()).env("AWS_ENDPOINT_URL", server.endpoint()).args(["--retry-timeout", "1"])
    };
    call(&["wal-archive", "--ca-bundle", &authority]).arg(local_file(&dir)).success();
    call(&["wal-restore", SEGMENT]).arg(dir.join("restored")).env("AWS_CA_BUNDLE", &authority).success();
    assert_eq!(std::fs::read(dir.join("restored")).unwrap(), std::fs::read(local_file(&dir)).unwrap());
    // With a profile the same bundle counts.
    dir.create_dir(".aws");
    dir.write_secret(".aws/credentials", profile("[ops]", KEYS.0, KEYS.1));
    call(&["list", "--aws-profile", "ops", "--ca-bundle", &authority]).in_dir(dir.path()).success();

    server.forget_requests();
    let distrusted = call(&["wal-archive"]).arg(local_file(&dir)).run().expect_code(2);
    assert!(distrusted.stderr.to_lowercase().contains("certificate"), "{}", distrusted.stderr);
    call(&["wal-restore", SEGMENT, "/nowhere"]).run().expect_code(255);
    assert_eq!(server.requests(), []);
    // A bundle that is none is a mistake of ours, not of the network.
    let no_bundle = dir.write("empty.pem", "").display().to_string();
    call(&["list", "--ca-bundle", &no_bundle]).run().expect_code(3);
    call(&["list", "--ca-bundle", "/nowhere/ca.pem"]).run().expect_code(4);
}

/// barback in an environment that knows the store and nothing of credentials.
fn on(server: &S3Server, dir: &TestDir, words: &[&str]) -> Run {
    assert!(server.endpoint().contains("127.0.0.1"));
    barback(words)
        .env("BARBACK_STORE", "s3://bkt/pfx")
        .env("BARBACK_CACHE_DIR", dir.join("cache").display().to_string())
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

fn keys() -> Vec<(String, String)> {
    [("AWS_ACCESS_KEY_ID", KEYS.0), ("AWS_SECRET_ACCESS_KEY", KEYS.1)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn profile(title: &str, key: &str, secret: &str) -> String {
    format!("{title}\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
}

fn local_file(dir: &TestDir) -> PathBuf {
    dir.create_dir("pg_wal");
    dir.write(&format!("pg_wal/{SEGMENT}"), segment(SEGMENT, 1, Filling::Compressible, 1))
}
