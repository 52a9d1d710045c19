//! Base backups taken, restored and looked at through our binary, as an operator would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, ClusterOptions};
use super::directory::TestDir;
use super::postgres::PgVersion;
use super::process::{Run, barback};
use super::s3_server::S3Server;

/// How long a restored copy may replay.
const RECOVERY_PATIENCE: Duration = Duration::from_mins(2);
/// The store of these tests on a test's own S3 server.
const STORE: &str = "s3://bkt/pfx";

/// Variables that lead barback to a store.
pub type StoreEnv = Vec<(String, String)>;

/// The way to the store `s3://bkt/pfx` on `s3`.
pub fn on_s3(s3: &S3Server) -> StoreEnv {
    let mut env = s3.env();
    env.push(("BARBACK_STORE".into(), STORE.into()));
    env
}

/// The way to a `file://` store in the directory `name`.
pub fn on_disk(dir: &TestDir, name: &str) -> StoreEnv {
    vec![("BARBACK_STORE".into(), dir.file_store(name))]
}

/// `barback backup --fast` of `cluster`, answering in JSON, about to be run.
pub fn backup_run(cluster: &Cluster, env: &StoreEnv, args: &[&str]) -> Run {
    barback(&["backup", "--fast", "-o", "json", "-d", &cluster.connect_string()]).args(args).envs(env)
}

/// Takes a base backup and returns what it said of itself, the object `backup` of its JSON.
pub fn take_backup(cluster: &Cluster, env: &StoreEnv, args: &[&str]) -> Value {
    let finished = backup_run(cluster, env, args).success();
    let document: Value = serde_json::from_str(&finished.stdout).unwrap();
    document["backup"].clone()
}

/// The id in what `take_backup` returned.
pub fn id_of(backup: &Value) -> String {
    backup["id"].as_str().unwrap().to_owned()
}

/// Restores into the directory `name`: a stopped cluster that finds the store on its own when started.
pub fn restore_copy(dir: &TestDir, name: &str, version: &PgVersion, env: &StoreEnv, args: &[&str]) -> Cluster {
    let path = dir.join(name);
    barback(&["restore"]).arg(&path).args(args).envs(env).success();
    Cluster::open(dir, &path, version).envs(env)
}

/// Checks a restored directory against its manifest, starts it and waits until it is a primary.
pub fn start_copy(copy: &mut Cluster) {
    copy.verify_backup();
    copy.start();
    copy.wait_until("SELECT pg_is_in_recovery()", "f", RECOVERY_PATIENCE);
}

/// A started cluster without an archiver, with pgbench's tables at `scale` where that is not 0.
pub fn running_cluster(dir: &TestDir, version: &PgVersion, options: ClusterOptions, scale: u32) -> Cluster {
    let mut cluster = Cluster::init(dir, version, options);
    cluster.start();
    if scale > 0 {
        cluster.pgbench(&["-i", "-q", "-s", &scale.to_string()]);
    }
    cluster
}

/// Panics unless pgbench's four tables agree with each other, as they do after any whole number of transactions.
pub fn check_pgbench(cluster: &Cluster) {
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) - coalesce((SELECT sum(delta) FROM pgbench_history), 0), \
         (SELECT sum(tbalance) FROM pgbench_tellers) - (SELECT sum(bbalance) FROM pgbench_branches), \
         (SELECT sum(abalance) FROM pgbench_accounts) - (SELECT sum(bbalance) FROM pgbench_branches)";
    assert_eq!(cluster.psql(sums), "0|0|0", "pgbench's tables disagree after recovery");
}

/// The backups that `barback list` shows.
pub fn list_backups(env: &StoreEnv) -> Vec<Value> {
    let document: Value = serde_json::from_str(&barback(&["list", "-o", "json"]).envs(env).success().stdout).unwrap();
    document["backups"].as_array().unwrap().clone()
}

/// All regular files below `directory` whose names hold `part`, sorted.
pub fn files_named(directory: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
