//! The second face where the differential suite cannot reach: by link, without a passwd entry, on a read-only root file
//! system, on Azure and Google, and beside the native face.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::harness::{
    Filling, Run, S3Server, SYSTEM_IDENTIFIER, TestDir, TestStore, barback, barback_binary, for_each_store, segment,
    segment_of, server_user, skip,
};

const NAME: &str = "000000010000000000000005";

fn wal(dir: &TestDir) -> String {
    dir.write(NAME, segment(NAME, 1, Filling::Compressible, 5)).display().to_string()
}

#[test]
fn a_link_of_each_name_answers_and_installing_them_twice_is_no_error() {
    let dir = TestDir::new();
    let bin = dir.create_dir("bin");
    for _ in 0..2 {
        let made = barback(&["install-links"]).arg(&bin).success();
        assert_eq!(made.stdout.lines().count(), 9, "{}", made.stdout);
    }
    for link in std::fs::read_dir(&bin).unwrap() {
        let link = link.unwrap().path();
        let name = link.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(Run::new(&link).arg("--version").success().stdout, format!("{name} 3.19.1\n"));
    }
}

#[test]
fn what_one_face_archives_the_other_restores_without_a_second_object() {
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let path = wal(&dir);
    let place = ["s3://bkt/pfx", "main"];
    let barman = |command: &str| barback(&[command]).envs(&s3.env()).env("TMPDIR", dir.path().display().to_string());
    let native = |words: &[&str]| {
        barback(words).envs(&s3.env()).env("BARBACK_STORE", "s3://bkt/pfx").env("BARBACK_CACHE_DIR", "/nonexistent/x")
    };
    barman("barman-cloud-wal-archive").arg("--zstd").args(place).arg(&path).success();
    native(&["wal-archive", &path]).success();
    let to = dir.join("restored").display().to_string();
    native(&["wal-restore", NAME, &to]).success();
    barman("barman-cloud-wal-restore").args(place).args([NAME, &to]).success();
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&path).unwrap());
    let wals: Vec<_> = s3.keys().into_iter().filter(|key| key.contains("/wals/")).collect();
    assert_eq!(wals, [format!("pfx/main/wals/0000000100000000/{NAME}.zst")]);
}

#[test]
fn other_content_is_replaced_only_when_that_habit_is_asked_for() {
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let path = wal(&dir);
    let archive = || {
        barback(&["barman-cloud-wal-archive", "s3://bkt/pfx", "main", &path])
            .envs(&s3.env())
            .env("TMPDIR", dir.path().display().to_string())
    };
    archive().success();
    dir.write(NAME, segment(NAME, 1, Filling::Compressible, 6));
    let refused = archive().run().expect_code(4);
    assert!(refused.stderr.contains("was not replaced"), "{}", refused.stderr);
    archive().env("BARBACK_BARMAN_QUIRKS", "overwrite-wal").success();
    let stored = std::fs::read(s3.object(&format!("pfx/main/wals/0000000100000000/{NAME}"))).unwrap();
    assert_eq!(stored, std::fs::read(&path).unwrap());
    let typo = archive().env("BARBACK_BARMAN_QUIRKS", "overwrite").run().expect_code(3);
    assert!(typo.stderr.contains("overwrite-wal, unchecked-wal"), "{}", typo.stderr);
}

#[test]
fn an_answer_that_could_not_be_had_can_stop_recovery() {
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let to = dir.join("restored").display().to_string();
    let restore = || {
        barback(&["barman-cloud-wal-restore", "s3://bkt/pfx", "main", NAME, &to])
            .envs(&s3.env())
            .env("BARBACK_RETRY_TIMEOUT_S", "0")
    };
    s3.refuse_all(503);
    restore().run().expect_code(4);
    restore().env("BARBACK_BARMAN_UNKNOWN_EXIT", "255").run().expect_code(255);
    // A code that would tell PostgreSQL that all is well, or that the WAL ends here.
    let wrong = restore().env("BARBACK_BARMAN_UNKNOWN_EXIT", "0").run().expect_code(255);
    assert!(wrong.stderr.contains("is no exit code from 126 to 255"), "{}", wrong.stderr);
    s3.heal();
    restore().env("BARBACK_BARMAN_UNKNOWN_EXIT", "255").run().expect_code(1);
    let misspelled = restore().arg("--bogus").env("BARBACK_BARMAN_UNKNOWN_EXIT", "255");
    misspelled.run().expect_code(255);
}

#[test]
fn a_listing_as_json_reads_no_keeps() {
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let info = s3.object("pfx/main/base/20260101T000000/backup.info");
    std::fs::create_dir_all(info.parent().unwrap()).unwrap();
    std::fs::write(&info, "status=DONE\n").unwrap();
    for (format, requests) in [("json", 2), ("console", 4)] {
        s3.forget_requests();
        let list = barback(&["barman-cloud-backup-list", "--format", format, "s3://bkt/pfx", "main"]);
        list.envs(&s3.env()).in_dir(dir.path()).success();
        assert_eq!(s3.requests().len(), requests, "{format}: {:?}", s3.requests());
    }
}

#[test]
fn a_store_that_is_away_for_a_moment_is_asked_again() {
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let path = wal(&dir);
    barback(&["barman-cloud-wal-archive", "s3://bkt/pfx", "main", &path]).envs(&s3.env()).success();
    s3.fail_next(4, 503);
    let to = dir.join("restored").display().to_string();
    barback(&["barman-cloud-wal-restore", "s3://bkt/pfx", "main", NAME, &to]).envs(&s3.env()).success();
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&path).unwrap());
}

#[test]
fn a_segment_costs_two_requests_to_archive_two_to_restore_and_one_to_know_that_it_is_absent() {
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let path = wal(&dir);
    let run = |command: &str, words: &[&str]| {
        barback(&[command, "s3://bkt/pfx", "main"])
            .args(words)
            .envs(&s3.env())
            .env("TMPDIR", dir.path().display().to_string())
            .run()
    };
    // The first call to a server that is not AWS learns whether it honours create-only puts.
    run("barman-cloud-wal-archive", &[&path]).expect_code(0);
    let to = dir.join("restored").display().to_string();
    let next = dir.write("000000010000000000000006", segment("000000010000000000000006", 1, Filling::Compressible, 6));
    let next = next.display().to_string();
    for (command, words, code, requests) in [
        // One of them asks whose archive it is, while the segment is read.
        ("barman-cloud-wal-archive", vec![next.as_str()], 0, 2),
        ("barman-cloud-wal-restore", vec![NAME, &to], 0, 2),
        ("barman-cloud-wal-restore", vec!["000000010000000000000007", &to], 1, 1),
        ("barman-cloud-check-wal-archive", vec![], 1, 2),
    ] {
        s3.forget_requests();
        run(command, &words).expect_code(code);
        assert_eq!(s3.requests().len(), requests, "{command} {words:?}: {:?}", s3.requests());
    }
}

#[test]
fn wal_of_another_cluster_is_refused_unless_content_is_not_to_be_checked() {
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let archive = |path: &str, quirks: &str| {
        let run = barback(&["barman-cloud-wal-archive", "s3://bkt/pfx", "main", path]).envs(&s3.env());
        run.env("TMPDIR", dir.path().display().to_string()).env("BARBACK_BARMAN_QUIRKS", quirks).run()
    };
    archive(&wal(&dir), "").expect_code(0);
    let name = "000000010000000000000006";
    let strangers = dir.write(name, segment_of(77, name, 1, Filling::Compressible, 6)).display().to_string();
    let said = archive(&strangers, "").expect_code(4).stderr;
    assert!(said.contains("ERROR: Barman cloud WAL archiver exception: could not archive WAL file"), "{said}");
    assert!(said.contains("system identifier 77") && said.contains(&SYSTEM_IDENTIFIER.to_string()), "{said}");
    archive(&strangers, "unchecked-wal").expect_code(0);
    assert!(s3.keys().contains(&format!("pfx/main/wals/0000000100000000/{name}")), "{:?}", s3.keys());
}

/// As `CloudNativePG` runs it: a user without a name, a root file system that nobody can write to.
#[test]
fn nothing_is_written_but_where_it_may_be_and_no_user_name_is_needed() {
    let unshared = Command::new("unshare").args(["--mount", "true"]).output();
    if server_user().is_none() || !unshared.is_ok_and(|output| output.status.success()) {
        skip("a read-only root file system", "making one takes root and unshare");
        return;
    }
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let path = wal(&dir);
    let work = dir.create_dir("work");
    std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o777)).unwrap();
    let run = |words: &[&str]| {
        let script = "mount --make-rprivate / && mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro / && \
                      exec setpriv --reuid=31337 --regid=31337 --clear-groups --inh-caps=-all \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&work).arg(barback_binary()).args(words).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", &work).current_dir("/");
        command.envs(s3.env());
        command.output().unwrap()
    };
    let to = work.join("restored").display().to_string();
    let spool = work.join("spool").display().to_string();
    let nowhere = "/var/tmp/walrestore";
    for words in [
        vec!["barman-cloud-wal-archive", "--gzip", "s3://bkt/pfx", "main", &path],
        vec!["barman-cloud-wal-restore", "s3://bkt/pfx", "main", NAME, &to],
        vec!["barman-cloud-wal-restore", "-p", "4", "--spool-dir", &spool, "s3://bkt/pfx", "main", NAME, &to],
        vec!["barman-cloud-wal-restore", "-p", "4", "--spool-dir", nowhere, "s3://bkt/pfx", "main", NAME, &to],
        vec!["barman-cloud-backup-list", "--format", "json", "s3://bkt/pfx", "main"],
    ] {
        let output = run(&words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&path).unwrap());
    let unwritable = run(&["barman-cloud-wal-restore", "s3://bkt/pfx", "main", NAME, "/var/tmp/restored"]);
    assert_eq!(unwritable.status.code(), Some(4), "{}", String::from_utf8_lossy(&unwritable.stderr));
    assert!(!Path::new("/var/tmp/restored").exists());
}

/// `--cloud-provider` and URL of a store, as Barman takes them; none where Barman has no such store.
fn place(store: &TestStore) -> Option<(&'static str, String)> {
    let url = store.url();
    let (scheme, _) = url.split_once("://")?;
    let provider = match scheme {
        "s3" => "aws-s3",
        "gs" => "google-cloud-storage",
        "http" | "https" | "az" => "azure-blob-storage",
        _ => return None,
    };
    Some((provider, url))
}

#[test]
fn every_provider_s_store_is_archived_to_listed_checked_and_restored_from() {
    for_each_store(|store| {
        let Some((provider, url)) = place(store) else { return };
        let path = wal(&store.dir);
        let run = |command: &str, words: &[&str]| {
            store
                .run(&[&format!("barman-cloud-{command}"), "--cloud-provider", provider])
                .args(words.iter().filter(|word| word.starts_with('-')))
                .args([url.as_str(), "main"])
                .args(words.iter().filter(|word| !word.starts_with('-')))
                .env("TMPDIR", store.dir.path().display().to_string())
                .run()
        };
        run("backup-list", &["-t"]).expect_code(0);
        run("check-wal-archive", &[]).expect_code(0);
        for codec in ["--gzip", "--snappy"] {
            run("wal-archive", &[codec, "--tag=team,dba", &path]).expect_code(0);
        }
        let refused = run("check-wal-archive", &[]).expect_code(1);
        assert!(refused.stderr.contains("Expected empty archive"), "{}", refused.stderr);
        let to = store.dir.join("restored").display().to_string();
        run("wal-restore", &[NAME, &to]).expect_code(0);
        assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&path).unwrap());
        run("wal-restore", &["000000010000000000000006", &to]).expect_code(1);
        let listed = run("backup-list", &["--format=json"]).expect_code(0);
        assert_eq!(listed.stdout, "{\"backups_list\": []}\n");
        run("backup-delete", &["--retention-policy=RECOVERY WINDOW OF 7 DAYS"]).expect_code(0);
        run("backup-keep", &["-s", "20260101T000000"]).expect_code(0);
        let absent = run("backup-show", &["20260101T000000"]).expect_code(1);
        assert!(
            absent.stderr.ends_with("Backup 20260101T000000 for server main does not exist\n"),
            "{}",
            absent.stderr
        );
    });
}
