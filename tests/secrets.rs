//! Secrets are used and never said: not at any level of detail, not when things fail, not in what is written for others to read.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use barback::store::{ReadableByOthers, Store};

use crate::harness::{
    ClusterOptions, Postgres, Run, S3Server, StoreEnv, TEST_PASSWORD, TestDir, TestStore, WebServer, barback, block_on,
    expect_no_secret, files_below, on_s3, running_cluster, segment,
};

/// A password as nobody has one by accident, in the `sig` of a token.
const SIGNATURE: &str = "c2lnLXRoYXQtbm9ib2R5LW1heS1wcmludA%3D%3D";

/// Every file below `directory`, as text.
fn expect_no_secret_below(directory: &Path, env: &StoreEnv) {
    for path in files_below(directory) {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        expect_no_secret(&path.display().to_string(), &text, env);
    }
}

/// The harness looks through what each run says; here is what it looks at beside: files, and every level of detail.
#[test]
fn nothing_that_is_said_or_written_holds_a_secret_at_any_level() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let mut env = on_s3(&s3);
    env.push(("BARBACK_CACHE_DIR".into(), dir.join("cache").display().to_string()));
    env.push(("PGPASSWORD".into(), TEST_PASSWORD.into()));
    let command = format!("{} wal-archive -vvv %p", crate::harness::barback_binary().display());
    let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", command).envs(&env);
    let cluster = running_cluster(&dir, &version, options, 1);
    cluster.psql(&format!("ALTER ROLE postgres PASSWORD '{TEST_PASSWORD}'"));
    let hba = cluster.data().join("pg_hba.conf");
    std::fs::write(&hba, "local all all scram-sha-256\nlocal replication all scram-sha-256\n").unwrap();
    let connect = cluster.connect_string();
    let run = |words: &[&str]| -> Run { barback(words).envs(&env) };
    for level in ["-v", "-vv", "-vvv"] {
        for format in ["text", "json"] {
            let detail = [level, "--log-format", format];
            run(&["backup", "--fast", "-o", format, "-d", &connect]).args(detail).success();
            run(&["check", "-o", format, "-d", &connect]).args(detail).run();
            run(&["status", "-o", format]).args(detail).success();
            run(&["verify", "-o", format]).args(detail).success();
        }
    }
    cluster.archive_everything();
    run(&["status", "--metrics", "-vvv"]).success();
    let bindir = version.bindir.display().to_string();
    let report = dir.create_dir("report");
    run(&["drill", "-vvv", "--pg-bindir", &bindir, "--report"])
        .arg(&report)
        .arg("--workdir")
        .arg(dir.create_dir("drills"))
        .success();
    run(&["restore", "-vvv"]).arg(dir.join("copy")).success();
    expect_no_secret_below(&report, &env);
    expect_no_secret_below(&dir.join("copy"), &env);
    expect_no_secret_below(&dir.join("cache"), &env);

    // Where nothing works, causes are told, with URLs and answers in them.
    for status in [400, 403, 500] {
        s3.refuse_all(status);
        for words in [&["list"][..], &["check", "-d", &connect], &["backup", "-d", &connect], &["status"]] {
            run(words).args(["-vvv", "--retry-timeout", "1"]).run();
        }
    }
    s3.heal();
    let wrong = format!("{connect} host=127.0.0.1 port=1");
    run(&["backup", "-vvv", "-d", &wrong]).run().expect_code(4);
    let written = format!("{connect} password={TEST_PASSWORD}");
    let refused = Run::new(crate::harness::barback_binary()).env("BARBACK_BACKUP_DBNAME", written).args(["backup"]);
    refused.envs(&env).run().expect_code(3);
}

#[test]
fn a_token_in_a_url_is_not_told_with_it() {
    let (dir, server) = (TestDir::new(), WebServer::start(|_, _| (403, "no".to_owned())));
    let name = "000000010000000000000005";
    dir.create_dir("pg_wal");
    let filling = crate::harness::Filling::Compressible;
    let file = dir.write(&format!("pg_wal/{name}"), segment(name, 1, filling, 1));
    let token = format!("sv=2021-10-04&sp=rwdl&sig={SIGNATURE}");
    for words in [&["wal-archive"][..], &["list"], &["check"], &["status"]] {
        let run = barback(words).args(["-vvv", "--retry-timeout", "1", "--store"]);
        let run = run.arg(format!("{}/acc/bkt", server.endpoint())).env("AZURE_STORAGE_SAS_TOKEN", &token);
        let run = if words[0] == "wal-archive" { run.arg(&file) } else { run };
        assert_ne!(run.run().code(), 0);
    }
}

#[test]
fn a_file_of_credentials_that_others_may_write_or_read_is_refused_with_what_closes_it() {
    let store = TestStore::s3(S3Server::start());
    let env: Vec<_> = store.env().into_iter().filter(|(name, _)| !name.contains("KEY")).collect();
    let value = |name: &str| store.env().into_iter().find(|(known, _)| known == name).unwrap().1;
    let keys = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        value("AWS_ACCESS_KEY_ID"),
        value("AWS_SECRET_ACCESS_KEY")
    );
    let file = store.dir.write("credentials", keys);
    store.write("main/wals/0000000100000000/000000010000000000000002.zst", b"wal");
    let list = |words: &[&str], mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        barback(words)
            .envs(&env)
            .env("AWS_SHARED_CREDENTIALS_FILE", file.display().to_string())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .run()
    };
    assert_eq!(list(&["list"], 0o600).code(), 0);
    assert_eq!(list(&["list"], 0o640).code(), 0);
    let refused = list(&["list"], 0o666).expect_code(3);
    assert!(refused.stderr.contains("HINT: Close it: chmod go-w "), "{}", refused.stderr);
    // Kubernetes gives a volume's group this right.
    let of_group = list(&["list"], 0o660).expect_code(0);
    assert!(of_group.stderr.contains("can be written by its group"), "{}", of_group.stderr);
    // The second face is used in the place of a program that takes such files. One in memory may be a secret that
    // Kubernetes mounts.
    let barman = ["barman-cloud-backup-list", "s3://bkt/pfx", "main"];
    let warned = list(&barman, 0o604).expect_code(0);
    let ours = list(&["list"], 0o604);
    if i128::from(rustix::fs::statfs(&file).unwrap().f_type) == 0x0102_1994 {
        assert_eq!((ours.code(), warned.stderr.as_str()), (0, ""));
    } else {
        assert!(warned.stderr.contains("can be read by everybody"), "{}", warned.stderr);
        assert!(ours.expect_code(3).stderr.contains("HINT: Close it: chmod 600 "));
    }
    list(&barman, 0o602).expect_code(4);
}

/// The check of every run can fail: here the secret is where no secret belongs, and is quoted.
#[test]
#[should_panic(expected = "said a secret")]
fn a_run_that_says_a_secret_fails_its_test() {
    barback(&["list"]).env("PGPASSWORD", TEST_PASSWORD).env("BARBACK_STORE", format!("file:///{TEST_PASSWORD}")).run();
}

#[test]
fn options_of_a_store_print_no_secret() {
    let store = TestStore::s3(S3Server::start());
    let options = store.options();
    let opened = block_on(Box::pin(Store::open(&options))).unwrap();
    expect_no_secret("Debug", &format!("{options:?} {opened:?} {:?}", ReadableByOthers::Refuse), &store.env());
}
