//! The policies of `docs/policies` are enough, each for its own commands, and for nothing else: on a MinIO that enforces them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    BUCKET, Cluster, ClusterOptions, Fault, Finished, Minio, Postgres, Run, S3Server, StoreEnv, TestDir, TestStore,
    backup_run, barback, barback_binary, block_on, id_of, list_backups, restore_copy, s3_client, start_copy,
    take_backup,
};

/// Uncompressed in the smallest parts, so that the tar of a small cluster is an upload in parts.
const MANY_PARTS: [&str; 6] = ["--compression", "none", "--part-size", "5MiB", "--jobs", "2"];

const PATIENCE: Duration = Duration::from_mins(1);

/// A MinIO, and a cluster that archives there as somebody who may write.
struct Guarded {
    minio: Minio,
    dir: TestDir,
    cluster: Cluster,
    writer: StoreEnv,
    bucket: &'static str,
}

impl Guarded {
    /// None, said aloud, without PostgreSQL or MinIO.
    fn start() -> Option<Self> {
        Self::start_in(BUCKET)
    }

    fn start_in(bucket: &'static str) -> Option<Self> {
        let version = Postgres::newest()?;
        let minio = Minio::start()?;
        if bucket != BUCKET {
            minio.make_locked_bucket(bucket, 1);
        }
        let dir = TestDir::new();
        let writer = env_of(&minio, &dir, bucket, &policy("writer", bucket));
        let command = format!("{} wal-archive %p", barback_binary().display());
        let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", command).envs(&writer);
        let mut cluster = Cluster::init(&dir, &version, options);
        cluster.start();
        cluster.pgbench(&["-i", "-q", "-s", "2"]);
        Some(Self { minio, dir, cluster, writer, bucket })
    }

    fn with(&self, policy_name: &str) -> StoreEnv {
        env_of(&self.minio, &self.dir, self.bucket, &policy(policy_name, self.bucket))
    }

    /// All keys there are, as its owner sees them.
    fn keys(&self) -> Vec<String> {
        let client = s3_client(&self.minio.env());
        let listed: Vec<_> = block_on(client.list(None).try_collect()).unwrap();
        let mut keys: Vec<String> = listed.into_iter().map(|object| object.location.to_string()).collect();
        keys.sort();
        keys
    }

    /// Every object there is, and what changes when it is written anew.
    fn objects(&self) -> Vec<(String, String)> {
        let client = s3_client(&self.minio.env());
        let listed: Vec<_> = block_on(client.list(None).try_collect()).unwrap();
        let mut objects: Vec<_> = listed
            .into_iter()
            .map(|object| (object.location.to_string(), format!("{:?} {}", object.e_tag, object.last_modified)))
            .collect();
        objects.sort();
        objects
    }

    /// Panics unless `run` ends with `code`, says `words`, and leaves every object as it was.
    fn refuses(&self, run: Run, code: i32, words: &str) {
        let before = self.objects();
        let finished = run.run().expect_code(code);
        assert!(finished.stderr.contains(words), "\"{words}\" is not in: {}", finished.stderr);
        assert_eq!(self.objects(), before, "{}", finished.stderr);
    }
}

/// A policy of the documentation, filled in for the archive `main` below `pfx` in `bucket`.
fn policy(name: &str, bucket: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/policies/{name}.json"));
    let text = std::fs::read_to_string(path).unwrap();
    text.replace("BUCKET", bucket).replace("PREFIX", "pfx").replace("SERVER", "main")
}

fn env_of(minio: &Minio, dir: &TestDir, bucket: &str, policy: &str) -> StoreEnv {
    let mut env = minio.env_of(policy);
    env.push(("BARBACK_STORE".into(), format!("s3://{bucket}/pfx")));
    env.push(("BARBACK_CACHE_DIR".into(), dir.join("cache").display().to_string()));
    env
}

fn run(env: &StoreEnv, words: &[&str]) -> Run {
    barback(words).envs(env)
}

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{}{}", finished.stdout, finished.stderr))
}

/// What a check says that is not as it should be, and is said of the store.
fn worse_of_store(finished: &Finished) -> Vec<String> {
    let document = json(finished);
    let findings = document["check"]["findings"].as_array().unwrap();
    let of_store = ["store", "create-only", "lifecycle", "clock"];
    let worse = findings.iter().filter(|finding| finding["severity"] != "ok");
    let codes = worse.map(|finding| finding["code"].as_str().unwrap().to_owned());
    codes.filter(|code| of_store.iter().any(|beginning| code.starts_with(beginning))).collect()
}

#[test]
fn archiving_and_backup_work_without_the_right_to_delete() {
    let Some(site) = Guarded::start() else { return };
    let (cluster, writer) = (&site.cluster, &site.writer);
    let first = id_of(&take_backup(cluster, writer, &MANY_PARTS));
    let segment = cluster.archive_everything();
    let path = cluster.data().join("pg_wal").join(&segment);
    run(writer, &["wal-archive"]).arg(&path).success();
    run(writer, &["wal-archive", "--all"]).arg(cluster.data().join("pg_wal")).success();
    let second = id_of(&take_backup(cluster, writer, &MANY_PARTS));
    cluster.archive_everything();

    let checked = run(writer, &["check", "-o", "json", "-d", &cluster.connect_string()]).run().expect_code(0);
    assert_eq!(worse_of_store(&checked), Vec::<String>::new(), "{}", checked.stdout);
    assert!(checked.stdout.contains("this host may not delete objects"), "{}", checked.stdout);
    let status = run(writer, &["status", "--host"]).env("BARBACK_BACKUP_DBNAME", cluster.connect_string()).run();
    assert_eq!(status.code(), 0, "{}{}", status.stdout, status.stderr);
    run(writer, &["verify", "--all"]).success();
    run(writer, &["show", &first]).success();
    assert_eq!(list_backups(writer).iter().map(id_of).collect::<Vec<_>>(), [first.clone(), second.clone()]);

    // Whoever takes this host over deletes nothing.
    let may_not = "these credentials may not delete";
    site.refuses(run(writer, &["expire", "--policy", "REDUNDANCY 1"]), 2, may_not);
    site.refuses(run(writer, &["delete", &first]), 2, may_not);
    run(writer, &["keep", &first]).success();
    site.refuses(run(writer, &["keep", &first, "--release"]), 2, "AccessDenied");
    let barman = ["barman-cloud-backup-delete", "s3://bkt/pfx", "main", "-b", &second];
    site.refuses(run(writer, &barman), 4, "AccessDenied");
    let mut copy = restore_copy(&site.dir, "copy", cluster.version(), writer, &[]);
    start_copy(&mut copy);
}

#[test]
fn a_backup_that_is_stopped_leaves_nothing_open_without_the_right_to_delete() {
    let Some(site) = Guarded::start() else { return };
    let stopped = |env: &StoreEnv| {
        let running = backup_run(&site.cluster, env, &MANY_PARTS).args(["--max-rate", "4MiB"]).start();
        let began = Instant::now();
        while site.minio.open_uploads() == 0 {
            assert!(began.elapsed() < PATIENCE, "no upload was begun");
            std::thread::sleep(Duration::from_millis(20));
        }
        running.signal(Signal::TERM);
        running.wait().expect_code(4)
    };
    stopped(&site.writer);
    assert_eq!(site.minio.open_uploads(), 0);
    assert_eq!(list_backups(&site.writer)[0]["status"], "FAILED");

    // Without the right to abort, what is left is said.
    let less = env_of(
        &site.minio,
        &site.dir,
        BUCKET,
        &policy("writer", BUCKET).replace("s3:AbortMultipartUpload", "s3:GetObjectTagging"),
    );
    let finished = stopped(&less);
    assert!(finished.stderr.contains("could not abort upload of object"), "{}", finished.stderr);
    assert!(site.minio.open_uploads() > 0);
    take_backup(&site.cluster, &less, &MANY_PARTS);
    // The janitor clears it away, but not before it is a day old.
    let document = json(&run(&site.with("janitor"), &["expire", "--debris", "-o", "json"]).success());
    assert_eq!(document["deleted"], Value::Null, "{document}");
}

#[test]
fn a_reader_restores_and_drills_and_writes_nothing() {
    let Some(site) = Guarded::start() else { return };
    let reader = site.with("reader");
    let id = id_of(&take_backup(&site.cluster, &site.writer, &[]));
    let segment = site.cluster.archive_everything();
    let before = site.keys();

    run(&reader, &["restore", "--plan"]).arg(site.dir.join("copy")).success();
    let mut copy = restore_copy(&site.dir, "copy", site.cluster.version(), &reader, &[]);
    start_copy(&mut copy);
    site.dir.create_dir("wal");
    run(&reader, &["wal-restore", &segment]).arg(site.dir.join("wal/segment")).success();
    // The end of the WAL is told from a refusal.
    run(&reader, &["wal-restore", "0000000100000000000000F0"]).arg(site.dir.join("wal/none")).run().expect_code(1);
    run(&reader, &["wal-restore", "00000002.history"]).arg(site.dir.join("wal/none")).run().expect_code(1);
    for words in
        [&["list"][..], &["show", &id], &["status"], &["drill", "history"], &["verify", "--all", "--no-record"]]
    {
        run(&reader, words).success();
    }
    let drill = |words: &[&str]| {
        let workdir = site.dir.join("drills");
        if !workdir.exists() {
            site.dir.create_dir("drills");
        }
        run(&reader, &["drill", "--workdir"]).arg(workdir).args(words)
    };
    for level in ["1", "2"] {
        drill(&["--level", level, "--no-record"]).success();
    }
    let bindir = site.cluster.version().bindir.display().to_string();
    drill(&["--level", "3", "--no-record", "--pg-bindir", &bindir]).success();
    assert_eq!(site.keys(), before);

    // What writes says that it may not.
    site.refuses(drill(&["--level", "1"]), 0, "the drill is not recorded: could not write object");
    site.refuses(run(&reader, &["verify"]), 0, "the verification is not recorded");
    let path = site.cluster.data().join("pg_wal").join(site.cluster.archive_everything());
    site.refuses(run(&reader, &["wal-archive"]).arg(&path), 2, "could not write object");
    let other = site.dir.join("00000009.history");
    std::fs::write(&other, "1\t0/5000000\tno recovery target specified\n").unwrap();
    site.refuses(run(&reader, &["wal-archive"]).arg(&other), 2, "could not write object");
    site.refuses(backup_run(&site.cluster, &reader, &[]), 2, "could not write object");
    site.refuses(run(&reader, &["keep", &id]), 2, "could not write object");
    take_backup(&site.cluster, &site.writer, &[]);
    site.refuses(run(&reader, &["expire", "--policy", "REDUNDANCY 1"]), 2, "these credentials may not delete");
    site.refuses(run(&reader, &["delete", &id]), 2, "these credentials may not delete");
    let checked = run(&reader, &["check", "-o", "json", "-d", "host=/nonexistent"]).run().expect_code(1);
    assert_eq!(worse_of_store(&checked), ["store-put", "store-multipart", "lifecycle"], "{}", checked.stdout);
}

#[test]
fn a_janitor_deletes_and_neither_reads_data_nor_writes_it() {
    let Some(site) = Guarded::start() else { return };
    let janitor = site.with("janitor");
    let ids: Vec<String> = (0..3)
        .map(|_| {
            let id = id_of(&take_backup(&site.cluster, &site.writer, &["--compression", "gzip"]));
            site.cluster.archive_everything();
            id
        })
        .collect();
    run(&janitor, &["keep", &ids[0]]).success();
    let kept = json(&run(&janitor, &["expire", "--policy", "REDUNDANCY 1", "-o", "json"]).success());
    assert_eq!(kept["deleted"]["backups"], serde_json::json!([ids[1]]), "{kept}");
    run(&janitor, &["keep", &ids[0], "--release"]).success();
    run(&janitor, &["delete", &ids[0]]).success();
    for words in [&["list"][..], &["show", &ids[2]], &["status"]] {
        run(&janitor, words).success();
    }
    run(&janitor, &["expire", "--debris"]).success();
    assert!(!site.keys().iter().any(|key| key.contains("/expiry/")), "the lock is left");

    site.dir.create_dir("wal");
    let segment = site.cluster.archive_everything();
    let wal = site.dir.join("wal/segment");
    site.refuses(run(&janitor, &["wal-restore", &segment]).arg(&wal), 255, "could not read object");
    site.refuses(run(&janitor, &["restore"]).arg(site.dir.join("copy")), 2, "could not read object");
    let other = site.dir.join("00000009.history");
    std::fs::write(&other, "1\t0/5000000\tno recovery target specified\n").unwrap();
    site.refuses(run(&janitor, &["wal-archive"]).arg(&other), 2, "could not write object");
    site.refuses(backup_run(&site.cluster, &janitor, &[]), 2, "could not write object");
    // What is left can be restored.
    let mut copy = restore_copy(&site.dir, "copy", site.cluster.version(), &site.with("reader"), &[]);
    start_copy(&mut copy);
}

/// Barman 3.19.1 asks with HEAD whether the bucket is there, which who may list a part of it may not ask.
#[test]
fn the_barman_face_works_without_the_right_to_delete_or_to_look_at_the_bucket() {
    let Some(site) = Guarded::start() else { return };
    let (cluster, writer) = (&site.cluster, &site.writer);
    let barman = |words: &[&str]| run(writer, words).env("PGUSER", "postgres");
    let place = ["s3://bkt/pfx", "main"];
    let segment = cluster.archive_everything();
    let path = cluster.data().join("pg_wal").join(&segment).display().to_string();
    barman(&["barman-cloud-wal-archive", "--test", place[0], place[1], &path]).success();
    barman(&["barman-cloud-wal-archive", "--gzip", place[0], place[1], &path]).success();
    barman(&["barman-cloud-backup", "-J", "2", "-d", &cluster.connect_string(), place[0], place[1]]).success();
    barman(&["barman-cloud-backup-list", place[0], place[1]]).success();
    barman(&["barman-cloud-backup-list", "--format", "json", place[0], place[1]]).success();
    barman(&["barman-cloud-backup-show", place[0], place[1], "latest"]).success();
    let there = barman(&["barman-cloud-check-wal-archive", place[0], place[1]]).run().expect_code(1);
    assert!(there.stderr.contains("Expected empty archive"), "{}", there.stderr);
    site.dir.create_dir("wal");
    let wal = site.dir.join("wal/segment").display().to_string();
    barman(&["barman-cloud-wal-restore", place[0], place[1], &segment, &wal]).success();
    barman(&["barman-cloud-wal-restore", place[0], place[1], "0000000100000000000000F0", &wal]).run().expect_code(1);
}

/// S3 wants a digest of whatever is put into such a bucket.
#[test]
fn a_bucket_that_locks_everything_takes_wal_and_backups_and_expire_lets_them_be() {
    let Some(site) = Guarded::start_in("locked") else { return };
    let ids: Vec<String> = (0..2)
        .map(|_| {
            let id = id_of(&take_backup(&site.cluster, &site.writer, &MANY_PARTS));
            site.cluster.archive_everything();
            id
        })
        .collect();
    let checked = run(&site.writer, &["check", "-o", "json", "-d", "host=/nonexistent"]).run();
    assert_eq!(worse_of_store(&checked), Vec::<String>::new(), "{}", checked.stdout);
    let janitor = site.with("janitor");
    for _ in 0..2 {
        let document = json(&run(&janitor, &["expire", "--policy", "REDUNDANCY 1", "-o", "json"]).success());
        let backups = document["backups"].as_array().unwrap();
        let first = backups.iter().find(|backup| backup["id"] == ids[0].as_str()).unwrap();
        assert_eq!(first["verdict"], "stays", "{first}");
        assert!(first["why"].as_str().unwrap().starts_with("locked by the store until "), "{first}");
        // What no backup needs is hidden, and stays in the store for as long as it is locked.
        let gone = &document["deleted"]["backups"];
        assert!(gone.as_array().is_none_or(Vec::is_empty), "{document}");
    }
    let kept = run(&janitor, &["delete", &ids[0]]).success();
    assert!(kept.stdout.contains("locked by the store until "), "{}", kept.stdout);
    let mut copy = restore_copy(&site.dir, "copy", site.cluster.version(), &site.with("reader"), &[]);
    start_copy(&mut copy);
}

/// AWS tells only who may list the whole bucket that an object is not there; to others it says that access is denied.
#[test]
fn rights_to_list_a_part_of_the_bucket_are_enough_where_absence_is_called_denied() {
    let store = TestStore::s3(S3Server::start());
    let root = store.server().root();
    store.server().fault_when(move |seen| {
        let path = seen.target.split('?').next().unwrap();
        let asks = (seen.method == "GET" || seen.method == "HEAD") && !seen.target.contains("list-type=2");
        (asks && !root.join(path.trim_start_matches('/')).is_file()).then_some(Fault::Status(403))
    });
    let name = "000000010000000000000001";
    let path = store.dir.join(name);
    std::fs::write(&path, crate::harness::segment(name, 16, crate::harness::Filling::Compressible, 1)).unwrap();
    for _ in 0..2 {
        store.run(&["wal-archive"]).arg(&path).success();
    }
    let restored = store.dir.join("restored");
    store.dir.create_dir("out");
    store.run(&["wal-restore", name]).arg(store.dir.join("out/there")).success();
    store.run(&["wal-restore", "000000010000000000000002"]).arg(&restored).run().expect_code(1);
    store.run(&["status"]).success();
    // A refusal of what is there stays one.
    store
        .server()
        .fault_when(|seen| (seen.method == "GET" && seen.target.contains("/wals/")).then_some(Fault::Status(403)));
    store.run(&["wal-restore", name]).arg(store.dir.join("out/again")).run().expect_code(255);
}
