//! Clusters that archive into a store, backups of them, and directories restored from there.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cluster::{Checked, Cluster, ClusterOptions};
use super::directory::TestDir;
use super::postgres::PgVersion;
use super::process::{Run, barback, barback_binary};
use super::s3_server::{BUCKET, S3Server};

/// How long a server may take to replay what a test wrote.
const REPLAY_PATIENCE: Duration = Duration::from_mins(1);

/// One test's directory with a store that its clusters share.
#[derive(Debug)]
pub struct Site {
    /// Where everything of the test lies.
    pub dir: TestDir,
    /// The PostgreSQL of all its clusters.
    pub version: PgVersion,
    /// The store's URL.
    pub store: String,
    env: Vec<(String, String)>,
}

impl Site {
    /// A site whose store is the directory `store`.
    pub fn on_files(version: &PgVersion) -> Self {
        let dir = TestDir::new();
        let store = dir.file_store("store");
        Self { dir, version: version.clone(), store, env: Vec::new() }
    }

    /// A site whose store is the bucket of `server`; servers get the credentials in their environment.
    pub fn on_s3(version: &PgVersion, server: &S3Server) -> Self {
        let store = format!("s3://{BUCKET}/pfx");
        Self { dir: TestDir::new(), version: version.clone(), store, env: server.env() }
    }

    /// A running cluster in the directory `data` that archives every segment.
    pub fn primary(&self, options: ClusterOptions) -> Cluster {
        // The store is given in words: a copy that keeps archiving has nothing but this setting.
        let archive = format!("{} --store {} wal-archive %p", barback_binary().display(), self.store);
        let options = options
            .set("archive_mode", "on")
            .set("archive_command", &archive)
            .set("autovacuum", "off")
            .set("track_commit_timestamp", "on")
            .envs(&self.env);
        let mut cluster = Cluster::init(&self.dir, &self.version, options);
        cluster.start();
        cluster
    }

    /// Our binary with the store and its credentials in the environment.
    pub fn barback<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Run {
        barback(args).env("BARBACK_STORE", &self.store).envs(&self.env)
    }

    /// Takes a base backup of `cluster`; its id.
    pub fn backup(&self, cluster: &Cluster) -> String {
        let connect = cluster.connect_string();
        let taken = self.barback(&["backup", "--fast", "-d", &connect]).success();
        taken.stdout.trim().to_owned()
    }

    /// `restore` into the directory `name`, about to be run.
    pub fn restore_run(&self, name: &str, args: &[&str]) -> Run {
        self.barback(&["restore"]).arg(self.dir.join(name)).args(["-o", "json"]).args(args)
    }

    /// Restores into the directory `name`, checks what lies there, and opens it, not started.
    pub fn restore(&self, name: &str, args: &[&str]) -> Restored {
        let finished = self.restore_run(name, args).success();
        let answer: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
        let backup_id = answer["restore"]["backup_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        let cluster = self.open(name);
        check_modes(cluster.data());
        cluster.verify_backup();
        Restored { cluster, backup_id }
    }

    /// The cluster restored into `name`, with nothing in its environment but the store's credentials.
    pub fn open(&self, name: &str) -> Cluster {
        Cluster::open(&self.dir, &self.dir.join(name), &self.version).envs(&self.env)
    }

    /// The one object of the file store whose path ends in `end`, before any suffix of compression.
    pub fn stored_file(&self, end: &str) -> PathBuf {
        let found: Vec<PathBuf> = files_below(&self.dir.join("store"))
            .into_iter()
            .filter(|path| path.to_string_lossy().contains(&format!("/{end}")))
            .collect();
        let [one] = found.as_slice() else { panic!("{end} is not one object of the store: {found:?}") };
        one.clone()
    }
}

/// A directory that was restored and checked.
#[derive(Debug)]
pub struct Restored {
    /// The cluster in it.
    pub cluster: Cluster,
    /// Where it came from.
    pub backup_id: String,
}

impl Restored {
    /// Starts a copy that ends recovery by itself, checks its relations, and lets `look` at it; stopped afterwards.
    pub fn promoted<T>(mut self, look: impl FnOnce(&Cluster) -> T) -> T {
        self.cluster.start();
        self.cluster.wait_until("SELECT pg_is_in_recovery()", "f", REPLAY_PATIENCE);
        assert_eq!(self.cluster.amcheck(), Checked::Passed);
        let seen = look(&self.cluster);
        self.cluster.stop("fast");
        seen
    }
}

/// Every file and directory below `root`, with all that must not change about it: mode, size, time, content's length.
pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64)> {
    let mut seen = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let facts = std::fs::symlink_metadata(&path).unwrap();
        if facts.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen.insert(path, (facts.mode(), facts.len(), facts.mtime(), facts.mtime_nsec()));
    }
    seen
}

/// Every plain file below `root`.
pub fn files_below(root: &Path) -> Vec<PathBuf> {
    snapshot(root).into_keys().filter(|path| path.is_file()).collect()
}

/// PostgreSQL refuses to start otherwise.
fn check_modes(root: &Path) {
    for (path, (mode, ..)) in snapshot(root) {
        let expected = if path.is_symlink() {
            continue;
        } else if path.is_dir() {
            0o700
        } else {
            0o600
        };
        assert_eq!(std::fs::Permissions::from_mode(mode).mode() & 0o7777, expected, "{}", path.display());
    }
}
