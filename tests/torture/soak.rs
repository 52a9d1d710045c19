//! A cluster that is busy for a day, in minutes: small segments, a store that misbehaves all the time, backups and expiries
//! beside it; and at the end copies of it at moments drawn from all that is left.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Tally, number};
use crate::harness::{
    Cluster, ClusterOptions, ENDING, FaultPlan, FaultProxy, PASSING, Postgres, Random, Run, TestDir, TestStore,
    barback, barback_binary, check_pgbench,
};

/// The archiver is waited for when it is so many segments behind.
const BEHIND: usize = 150;

/// No soak takes longer: an archiver that does not come forward is a failure and not a reason to wait.
const LONGEST: Duration = Duration::from_mins(40);

/// A row that was committed, and how its moment can be named.
struct Moment {
    number: u64,
    time: String,
    xid: String,
    /// The WAL's end when it was there.
    lsn: String,
}

struct Soak {
    dir: TestDir,
    store: TestStore,
    proxy: FaultProxy,
    random: Mutex<Random>,
    tally: Tally,
    /// Segments that were archived, of those to archive.
    archived: AtomicU64,
    wanted: u64,
    is_over: AtomicBool,
    /// How many rows there are, and how many there were when the last backup ended; none while one is being taken.
    written: AtomicU64,
    backed_up_at: Mutex<Option<u64>>,
    /// The most memory that a process of each command had, in KiB, in each fifth of the time.
    peaks: Mutex<BTreeMap<(String, u64), u64>>,
}

#[test]
fn a_busy_cluster_on_a_store_that_misbehaves_comes_back_at_any_moment() {
    let (Some(version), Some(store)) = (Postgres::newest(), TestStore::minio()) else { return };
    let wanted = number("BARBACK_TORTURE_SEGMENTS", 40);
    let begun = Instant::now();
    let proxy = FaultProxy::before(&store.endpoint().unwrap());
    let seed = number("BARBACK_TORTURE_SEED", 1);
    let soak = Soak {
        dir: TestDir::new(),
        store,
        proxy,
        random: Mutex::new(Random(seed)),
        tally: Tally::default(),
        archived: AtomicU64::new(0),
        wanted,
        is_over: AtomicBool::new(false),
        written: AtomicU64::new(0),
        backed_up_at: Mutex::default(),
        peaks: Mutex::default(),
    };
    soak.dir.create_dir("cache");
    let archive = format!("{} wal-archive --jobs 2 %p", barback_binary().display());
    let options = ClusterOptions::default()
        .wal_segment_mb(1)
        .set("archive_mode", "on")
        .set("archive_command", archive)
        .set("track_commit_timestamp", "on")
        .set("max_wal_size", "32MB")
        .set("checkpoint_timeout", "30s")
        .envs(&soak.env());
    let mut cluster = Cluster::init(&soak.dir, &version, options);
    cluster.start();
    cluster.pgbench(&["-i", "-q", "-s", "1"]);
    cluster.psql("CREATE TABLE moments (number bigint PRIMARY KEY)");
    soak.proxy.break_by(FaultPlan { seed, percent: 3, kinds: [PASSING, ENDING].concat() });
    let moments = std::thread::scope(|threads| {
        threads.spawn(|| soak.watch_memory());
        threads.spawn(|| soak.switch_off_and_on());
        threads.spawn(|| soak.back_up(&cluster));
        let moments = soak.write(&cluster);
        soak.is_over.store(true, Ordering::Relaxed);
        moments
    });
    soak.tally.add("moments", moments.len() as u64);
    cluster.stop("fast");
    let took = begun.elapsed();
    soak.proxy.set_down(false);
    // What the server could not archive before it was stopped.
    soak.until_done("wal-archive --all", || {
        soak.barback(&["wal-archive", "--all"]).arg(cluster.data().join("pg_wal")).run().code() == 0
    });
    for round in 0..5 {
        soak.recover(&cluster, &moments, round);
    }
    for (trouble, times) in soak.proxy.met() {
        soak.tally.add(format!("met: {trouble:?}"), times);
    }
    soak.tally.print(&format!("soak: {wanted} segments in {took:.0?}, with recoveries {:.0?}", begun.elapsed()));
    soak.expect_flat_memory();
}

impl Soak {
    fn env(&self) -> Vec<(String, String)> {
        let mut env = self.proxy.through(&self.store.env());
        env.push(("BARBACK_CACHE_DIR".into(), self.dir.join("cache").display().to_string()));
        env.push(("BARBACK_RETRY_TIMEOUT_S".into(), "10".into()));
        env
    }

    fn barback(&self, args: &[&str]) -> Run {
        barback(args).envs(&self.env())
    }

    fn draw(&self, limit: u64) -> u64 {
        self.random.lock().expect("no panic happens under this lock").below(limit)
    }

    fn until_done(&self, what: &str, mut attempt: impl FnMut() -> bool) {
        for _ in 0..30 {
            if attempt() {
                return self.tally.add(format!("{what}: done"), 1);
            }
            self.tally.add(format!("{what}: failed, and said so"), 1);
        }
        panic!("{what} failed thirty times");
    }

    /// Rows one after the other, the end of a segment after each, until enough was archived.
    fn write(&self, cluster: &Cluster) -> Vec<Moment> {
        let bench =
            cluster.pgbench_run(&["-c", "2", "-R", "120", "-T", "3600"]).timeout(Duration::from_hours(1)).start();
        let (mut moments, begun) = (Vec::new(), Instant::now());
        let expect_progress = || {
            let archived = self.archived.load(Ordering::Relaxed);
            assert!(begun.elapsed() < LONGEST, "{archived} of {} segments after {LONGEST:?}", self.wanted);
        };
        while self.archived.load(Ordering::Relaxed) < self.wanted || self.is_backup_too_young() {
            let number = moments.len() as u64 + 1;
            cluster.psql(&format!("INSERT INTO moments VALUES ({number})"));
            let found = cluster.psql(&format!(
                "SELECT pg_xact_commit_timestamp(xmin), xmin, pg_current_wal_insert_lsn(), pg_switch_wal(), \
                 (SELECT archived_count FROM pg_stat_archiver) FROM moments WHERE number = {number}"
            ));
            let [time, xid, lsn, _, archived] = found.split('|').collect::<Vec<_>>().try_into().unwrap();
            moments.push(Moment { number, time: time.to_owned(), xid: xid.to_owned(), lsn: lsn.to_owned() });
            self.archived.store(archived.parse().unwrap(), Ordering::Relaxed);
            self.written.store(number, Ordering::Relaxed);
            expect_progress();
            while waiting(cluster.data()) > BEHIND {
                expect_progress();
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        drop(bench);
        let failed = cluster.psql("SELECT failed_count FROM pg_stat_archiver").parse().unwrap();
        self.tally.add("wal-archive: failed, and said so", failed);
        moments
    }

    fn set_backed_up_at(&self, rows: Option<u64>) {
        *self.backed_up_at.lock().expect("no panic happens under this lock") = rows;
    }

    /// True while there are few rows to recover to behind the last backup.
    fn is_backup_too_young(&self) -> bool {
        let at = *self.backed_up_at.lock().expect("no panic happens under this lock");
        at.is_none_or(|at| self.written.load(Ordering::Relaxed) < at + 20)
    }

    /// Three backups, and an expiry after each tenth of the way.
    fn back_up(&self, cluster: &Cluster) {
        let tenth = || self.archived.load(Ordering::Relaxed) * 10 / self.wanted;
        let mut last = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let now = tenth();
            if last == Some(now) {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            last = Some(now);
            if [0, 3, 6].contains(&now) {
                let connect = cluster.connect_string();
                self.set_backed_up_at(None);
                self.until_done("backup", || self.barback(&["backup", "--fast", "-d", &connect]).run().code() == 0);
                self.set_backed_up_at(Some(self.written.load(Ordering::Relaxed)));
            }
            let expired = self.barback(&["expire", "--policy", "REDUNDANCY 2"]).run();
            assert!([0, 1, 2, 4].contains(&expired.code()), "{}", expired.stderr);
            self.tally.add(format!("expire: ended with {}", expired.code()), 1);
        }
    }

    /// Now and then the store is away for some seconds.
    fn switch_off_and_on(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let (good, bad) = (5_000 + self.draw(20_000), 1_000 + self.draw(5_000));
            for (is_down, millis) in [(false, good), (true, bad)] {
                self.proxy.set_down(is_down);
                self.tally.add("outages", u64::from(is_down));
                let until = Instant::now() + Duration::from_millis(millis);
                while Instant::now() < until && !self.is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        self.proxy.set_down(false);
    }

    fn watch_memory(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let fifth = (self.archived.load(Ordering::Relaxed) * 5 / self.wanted).min(4);
            for (command, kib) in living_commands(&self.dir.path().display().to_string()) {
                let mut peaks = self.peaks.lock().expect("no panic happens under this lock");
                let peak = peaks.entry((command, fifth)).or_default();
                *peak = kib.max(*peak);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A copy at a moment drawn from all that the archive still reaches, on the store as it is.
    fn recover(&self, source: &Cluster, moments: &[Moment], round: usize) {
        let listed = self.store.run(&["list", "-o", "json"]).success();
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
        let done = listed["backups"].as_array().unwrap().iter().filter(|backup| backup["status"] == "DONE");
        let mut ends: Vec<(u64, &str)> =
            done.map(|backup| (lsn(backup["end_lsn"].as_str().unwrap()), backup["id"].as_str().unwrap())).collect();
        ends.sort_unstable();
        let (first_end, _) = ends[0];
        // A backup ends some milliseconds behind its last LSN: for a time before that it is refused. So is the time of the last
        // commit of all, behind which PostgreSQL would find no later one to stop at.
        let reachable = moments[..moments.len() - 2].iter().filter(|moment| lsn(&moment.lsn) > first_end);
        let reachable: Vec<&Moment> = reachable.skip(3).collect();
        let moment = reachable[usize::try_from(self.draw(reachable.len() as u64)).unwrap()];
        // Names alone do not tell where a transaction lies: of these targets, only that one needs to be told its backup.
        let (_, before) = ends.iter().rfind(|(end, _)| *end < lsn(&moment.lsn)).unwrap();
        let target = match round % 3 {
            0 => vec!["--target-time", &moment.time],
            1 => vec!["--target-xid", &moment.xid, "--backup", before],
            _ => vec!["--target-lsn", &moment.lsn],
        };
        let name = format!("copy-{round}");
        let path = self.dir.join(&name);
        self.until_done("restore", || {
            let _ = std::fs::remove_dir_all(&path);
            let run =
                self.barback(&["restore", "--target-action", "promote", "--no-progress"]).args(&target).arg(&path);
            let finished = run.run();
            let can_start = path.join("global/pg_control").exists();
            assert_eq!(finished.code() == 0, can_start, "{target:?}: {}", finished.stderr);
            if finished.code() != 0 {
                eprintln!("{target:?}: {}", finished.stderr);
            }
            finished.code() == 0
        });
        let mut copy = Cluster::open(&self.dir, &path, source.version()).envs(&self.env());
        copy.verify_backup();
        // A store that refuses stops recovery; the next start goes on.
        self.until_done("recovery", || {
            let is_up = copy.try_start().code() == 0;
            let begun = Instant::now();
            while is_up && copy.is_running() && begun.elapsed() < Duration::from_mins(3) {
                if copy.try_psql("SELECT pg_is_in_recovery()").as_deref() == Ok("f") {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let fatal = copy.log().lines().rfind(|line| line.contains("FATAL")).map(str::to_owned);
            eprintln!("{target:?} of {} rows: {fatal:?}", moments.len());
            false
        });
        let seen = copy.psql("SELECT max(number), count(*) FROM moments");
        assert_eq!(seen, format!("{0}|{0}", moment.number), "{target:?}, played again with this seed");
        check_pgbench(&copy);
        copy.stop("fast");
        std::fs::remove_dir_all(&path).unwrap();
        self.tally.add(format!("exact at {}", target[0]), 1);
    }

    /// In the last fifth no command held more than in the first, but for what chance gives; of a short soak too little is seen.
    fn expect_flat_memory(&self) {
        const ENOUGH: u64 = 1000;
        let peaks = self.peaks.lock().expect("no panic happens under this lock");
        for ((command, fifth), kib) in &*peaks {
            eprintln!("  {command}, fifth {}: {:.1} MiB at most", fifth + 1, mib(*kib));
        }
        let of = |fifth| peaks.get(&("wal-archive".to_owned(), fifth)).copied();
        if self.wanted >= ENOUGH
            && let (Some(first), Some(last)) = (of(0), of(4))
        {
            assert!(last <= first + first / 4 + (4 << 10), "wal-archive grew from {first} to {last} KiB");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "memory is far below 2^52 KiB")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// How many segments wait to be archived.
fn waiting(data: &Path) -> usize {
    let entries = std::fs::read_dir(data.join("pg_wal/archive_status")).unwrap();
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(".ready")).count()
}

/// Each process of ours that lives and has `mark` in its environment: its command, and the most memory it had in KiB.
fn living_commands(mark: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "barback\n")
            && std::fs::read(path.join("environ")).is_ok_and(|all| String::from_utf8_lossy(&all).contains(mark))
            && let (Ok(words), Ok(status)) =
                (std::fs::read(path.join("cmdline")), std::fs::read_to_string(path.join("status")))
        {
            let words = String::from_utf8_lossy(&words).into_owned();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
            if let (Some(command), Some(kib)) = (words.split('\0').nth(1), kib) {
                found.push((command.to_owned(), kib));
            }
        }
    }
    found
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) + u64::from_str_radix(low, 16).unwrap()
}
