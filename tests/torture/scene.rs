//! One scenario's place: a store, a proxy before it that breaks things, a directory, and a server's name of its own.

use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{
    Cluster, ClusterOptions, FaultPlan, FaultProxy, Filling, Finished, PASSING, Postgres, Random, Run, S3Server,
    TestDir, TestStore, Trouble, barback, on_s3, running_cluster, segment,
};

/// Everything one scenario has to itself.
pub(super) struct Scene {
    pub(super) random: Random,
    pub(super) store: TestStore,
    /// None before a directory, which has no server.
    proxy: Option<FaultProxy>,
    pub(super) dir: TestDir,
    /// The name in the store.
    pub(super) server: String,
}

impl Scene {
    pub(super) fn new(seed: u64, store: TestStore) -> Self {
        let dir = TestDir::new();
        dir.create_dir("cache");
        let proxy = store.endpoint().map(|endpoint| FaultProxy::before(&endpoint));
        Self { random: Random(seed), store, proxy, dir, server: "main".to_owned() }
    }

    /// barback, on the way that nothing breaks.
    pub(super) fn direct<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Run {
        self.with_env(args, &self.store.env())
    }

    /// barback, through the proxy.
    pub(super) fn broken<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Run {
        self.with_env(args, &self.proxy().through(&self.store.env()))
    }

    fn with_env<S: AsRef<std::ffi::OsStr>>(&self, args: &[S], env: &[(String, String)]) -> Run {
        // Another one than for the direct way: each remembers what it learned of its server.
        let cache = self.dir.join("cache").display().to_string();
        barback(args)
            .envs(env)
            .env("BARBACK_SERVER", &self.server)
            .env("BARBACK_CACHE_DIR", cache)
            .timeout(Duration::from_mins(4))
    }

    /// From now on troubles as often as the seed says: those that pass alone in so many scenarios of a hundred, in the others
    /// also these.
    pub(super) fn break_by(&mut self, passing_percent: u64, others: &[Trouble]) {
        let mut kinds = PASSING.to_vec();
        if !self.random.chance(passing_percent) {
            kinds.extend_from_slice(others);
        }
        // Without TLS, what is sent to Azure and Google carries no digest that they would hold it against.
        kinds.retain(|kind| *kind != Trouble::WrongByteInRequest || self.store.knows_what_was_sent());
        // A few kinds at a time: what they do together differs from what all of them do.
        let mut chosen: Vec<_> = (0..=self.random.below(5)).map(|_| *self.random.pick(&kinds)).collect();
        if self.random.chance(2) {
            // Rarely: each costs the half minute after which a silent server is given up.
            chosen.push(Trouble::Silent);
        }
        chosen.dedup();
        let plan = FaultPlan { seed: self.random.next(), percent: 5 + self.random.below(40), kinds: chosen };
        self.proxy().break_by(plan);
    }

    /// What a failing disk counts its failures in.
    pub(super) fn disk_faults_file(&self) -> PathBuf {
        let file = self.dir.join("disk-faults");
        if file.exists() { file } else { self.dir.write("disk-faults", "") }
    }

    /// How many calls have failed.
    pub(super) fn disk_faults(&self) -> u64 {
        std::fs::metadata(self.disk_faults_file()).unwrap().len()
    }

    pub(super) fn is_behind_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    pub(super) fn proxy(&self) -> &FaultProxy {
        self.proxy.as_ref().expect("a directory is never asked through a proxy")
    }

    /// The segment behind `key` in the store, unpacked; none where there is none.
    pub(super) fn stored(&self, name: &str) -> Option<Vec<u8>> {
        let object = self.store.read(&format!("{}/wals/{}/{name}.zst", self.server, &name[..16]))?;
        Some(zstd::decode_all(object.content.as_slice()).unwrap_or_else(|error| panic!("{name} is damaged: {error}")))
    }

    /// The directory `pg_wal` in a data directory, with `archive_status`.
    pub(super) fn pg_wal(&self) -> PathBuf {
        self.dir.create_dir("data");
        self.dir.create_dir("data/pg_wal");
        self.dir.create_dir("data/pg_wal/archive_status");
        self.dir.join("data/pg_wal")
    }

    /// Puts a segment there that waits to be archived.
    pub(super) fn ready(&self, name: &str, content: &[u8]) {
        self.dir.write(&format!("data/pg_wal/{name}"), content);
        self.dir.write(&format!("data/pg_wal/archive_status/{name}.ready"), b"");
    }

    /// PostgreSQL's mark that it was archived.
    pub(super) fn done(&self, name: &str) {
        let status = self.dir.join("data/pg_wal/archive_status");
        std::fs::rename(status.join(format!("{name}.ready")), status.join(format!("{name}.done"))).unwrap();
    }
}

pub(super) fn name(number: u64) -> String {
    format!("0000000100000000{number:08X}")
}

/// A segment of 1 MiB that only this seed has.
pub(super) fn content(name: &str, seed: u64) -> Vec<u8> {
    let filling = if seed.is_multiple_of(3) { Filling::Noise } else { Filling::Compressible };
    segment(name, 1, filling, seed)
}

/// One running cluster that every scenario backs up, and one good backup of it.
pub(super) struct Source {
    pub(super) cluster: Cluster,
    /// Its bucket holds one backup of the server `main`, and its WAL.
    archive: S3Server,
    _dir: TestDir,
}

impl Source {
    /// None where there is no PostgreSQL, which is said.
    pub(super) fn new() -> Option<Self> {
        let version = Postgres::newest()?;
        let dir = TestDir::new();
        let cluster = running_cluster(&dir, &version, ClusterOptions::default().set("autovacuum", "off"), 1);
        let archive = S3Server::start();
        barback(&backup_words(&cluster)).envs(&on_s3(&archive)).success();
        Some(Self { cluster, archive, _dir: dir })
    }

    /// A store of its own with a copy of the backup.
    pub(super) fn copy(&self) -> TestStore {
        TestStore::s3(S3Server::copy_of(&self.archive))
    }
}

/// The words of a backup of `cluster`; small parts, so that there are several.
pub(super) fn backup_words(cluster: &Cluster) -> Vec<String> {
    let connect = cluster.connect_string();
    ["backup", "--fast", "-o", "json", "--part-size", "5MiB", "--compression", "none", "-d", &connect]
        .map(str::to_owned)
        .to_vec()
}

/// Panics unless `finished` ended with one of `codes`; the code.
pub(super) fn expect_one_of(finished: &Finished, codes: &[i32]) -> i32 {
    let code = finished.code();
    assert!(codes.contains(&code), "ended with {code}, not one of {codes:?}\n{}\n{}", finished.stdout, finished.stderr);
    let said = finished.stdout.len() + finished.stderr.len();
    assert!(code == 0 || said > 0, "ended with {code} without a word");
    code
}
