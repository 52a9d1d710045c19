//! `wal-restore --jobs`: segments that lie ready when recovery asks, and the helper that sees to it: counted, killed, and gone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use barback::codec::compression::compress;
use barback::domain::compression::Compression;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    ClusterOptions, Fault, Filling, Finished, PgVersion, Postgres, Run, S3Server, Site as Clusters, TestStore, barback,
    give_away, segment,
};

/// How long something that takes a moment may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store with segments, and a data directory that recovers from it.
struct Site {
    store: TestStore,
    data: PathBuf,
    megabytes: u64,
    idle: &'static str,
}

impl Site {
    fn new(store: TestStore) -> Self {
        let data = data_directory(&store, "data");
        Self { store, data, megabytes: 1, idle: "1s" }
    }

    fn on_s3() -> Self {
        Self::new(TestStore::s3(S3Server::start()))
    }

    /// One that is not over as long as the test runs.
    fn patient() -> Self {
        let mut site = Self::on_s3();
        site.idle = "5m";
        site
    }

    /// Puts segments as Barman does: no metadata.
    fn put(&self, timeline: u32, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let content = compress(Compression::Zstd, None, &self.content(timeline, number)).unwrap();
            self.store.write(&format!("{}.zst", self.key(timeline, number)), &content);
        }
    }

    fn name(&self, timeline: u32, number: u64) -> String {
        let in_a_log = 4096 / self.megabytes;
        format!("{timeline:08X}{:08X}{:08X}", number / in_a_log, number % in_a_log)
    }

    fn key(&self, timeline: u32, number: u64) -> String {
        let name = self.name(timeline, number);
        format!("main/wals/{}/{name}", &name[..16])
    }

    fn content(&self, timeline: u32, number: u64) -> Vec<u8> {
        segment(&self.name(timeline, number), self.megabytes, Filling::Compressible, 1)
    }

    fn call(&self, name: &str) -> Run {
        let run = self.store.run(&["wal-restore", "--jobs", "3", "--retry-timeout", "2", name, "pg_wal/RECOVERYXLOG"]);
        run.in_dir(&self.data).env("BARBACK_WAL_RESTORE_IDLE", self.idle)
    }

    /// Restores a segment as PostgreSQL has it done, and takes it away as PostgreSQL does.
    fn expect(&self, timeline: u32, number: u64) -> Finished {
        let name = self.name(timeline, number);
        let finished = self.call(&name).success();
        let destination = self.data.join("pg_wal/RECOVERYXLOG");
        assert!(std::fs::read(&destination).unwrap() == self.content(timeline, number), "{name} came back changed");
        std::fs::remove_file(destination).unwrap();
        finished
    }

    /// How often each segment of timeline 1 was got, from number 1 on.
    fn gets(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let seen = self.store.server().requests();
        let got = |name: &str| {
            seen.iter().filter(|one| one.method == "GET" && one.target.contains(&format!("/{name}."))).count()
        };
        numbers.into_iter().map(|number| got(&self.name(1, number))).collect()
    }

    fn spool(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.data.join("pg_wal")).unwrap();
        let mut spools = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".barback-spool-")));
        let spool = spools.next();
        assert_eq!(spools.next(), None);
        spool
    }

    fn kept(&self, timeline: u32, number: u64) -> Option<PathBuf> {
        self.spool().map(|spool| spool.join(self.name(timeline, number))).filter(|path| path.exists())
    }

    fn wait_until_kept(&self, number: u64) -> PathBuf {
        wait_for("the segment to lie ready", || self.kept(1, number))
    }

    /// The helper of this data directory.
    fn helper(&self) -> Option<Pid> {
        helper_in(&self.data)
    }

    fn wait_for_helper(&self) -> Pid {
        wait_for("a helper", || self.helper())
    }

    fn wait_until_nothing_is_left(&self) {
        wait_for("the helper to end", || self.helper().is_none().then_some(()));
        assert_eq!(std::fs::read_dir(self.data.join("pg_wal")).unwrap().count(), 0);
    }
}

/// A test that fails must not leave a process behind for minutes.
impl Drop for Site {
    fn drop(&mut self) {
        if let Some(helper) = self.helper() {
            let _ = kill_process(helper, Signal::TERM);
        }
    }
}

fn data_directory(store: &TestStore, name: &str) -> PathBuf {
    let data = store.dir.create_dir(name);
    store.dir.create_dir(&format!("{name}/pg_wal"));
    data
}

fn helper_in(data: &Path) -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let helps = |pid: &i32| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let is_ours = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|path| path == data);
        is_ours && read("cmdline").split(|byte| *byte == 0).any(|word| word == b"--fetch-ahead")
    };
    pids.find(helps).and_then(Pid::from_raw)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn sixty_four_segments_come_with_one_get_each_and_afterwards_nothing_is_left() {
    let site = Site::on_s3();
    site.put(1, 1..=64);
    site.store.server().forget_requests();
    for number in 1..=64 {
        site.expect(1, number);
    }
    site.call(&site.name(1, 65)).run().expect_code(1);
    assert_eq!(site.gets(1..=64), [1; 64]);
    let beyond = |target: &str| (65..=72).any(|number| target.contains(&site.name(1, number)));
    for seen in site.store.server().requests() {
        let is_plain = seen.method == "GET" && !seen.target.contains("list-type");
        assert!(is_plain || beyond(&seen.target), "{seen:?}");
    }
    site.wait_until_nothing_is_left();
}

#[test]
fn from_a_directory_segments_of_every_size_come_as_they_were_archived() {
    for (megabytes, count) in [(1, 64), (16, 12), (64, 4)] {
        let mut site = Site::new(TestStore::directory());
        site.megabytes = megabytes;
        // Over the end of a directory of the archive, and of 4 GiB of WAL.
        let first = 4096 / megabytes - 2;
        site.put(1, first..first + count);
        for number in first..first + count {
            site.expect(1, number);
        }
        site.call(&site.name(1, first + count)).run().expect_code(1);
        site.wait_until_nothing_is_left();
    }
}

#[test]
fn what_lies_ready_is_handed_over_without_a_request() {
    let site = Site::patient();
    site.put(1, 1..=6);
    site.expect(1, 1);
    (2..=6).for_each(|number| drop(site.wait_until_kept(number)));
    site.store.server().refuse_all(503);
    (2..=6).for_each(|number| drop(site.expect(1, number)));
    // Now there is none, and nobody knows whether there is one.
    site.call(&site.name(1, 7)).run().expect_code(255);
}

#[test]
fn a_helper_that_is_killed_costs_a_request_and_another_one_takes_over() {
    let site = Site::patient();
    site.put(1, 1..=40);
    site.expect(1, 1);
    let slow = site.name(1, 4);
    site.store
        .server()
        .fault_when(move |seen| seen.target.contains(&slow).then_some(Fault::Delay(Duration::from_secs(1))));
    let first = site.wait_for_helper();
    site.expect(1, 2);
    // In the middle of a fetch, which then looks as if it went on.
    kill_process(first, Signal::KILL).unwrap();
    wait_for("its end", || (site.helper() != Some(first)).then_some(()));
    site.store.server().heal();
    for number in 3..=40 {
        site.expect(1, number);
    }
    assert_ne!(site.wait_for_helper(), first);
}

#[test]
fn a_helper_that_is_asked_to_stop_removes_the_spool_and_says_0() {
    let site = Site::patient();
    site.put(1, 1..=9);
    site.expect(1, 1);
    site.wait_until_kept(2);
    kill_process(site.wait_for_helper(), Signal::TERM).unwrap();
    site.wait_until_nothing_is_left();
    site.expect(1, 2);
    // A postmaster that is the first process of its container would take anything else for a crash of its own.
    site.call("nonsense").args(["--fetch-ahead"]).run().expect_code(0);
    let call = site.call(&site.name(1, 3)).args(["--fetch-ahead"]).env("BARBACK_STORE", "file:///nowhere");
    call.run().expect_code(0);
}

#[test]
fn a_file_in_the_spool_that_is_not_the_segment_is_fetched_again() {
    let site = Site::patient();
    site.put(1, 1..=9);
    site.expect(1, 1);
    let (second, third) = (site.wait_until_kept(2), site.wait_until_kept(3));
    std::fs::write(&second, &site.content(1, 2)[..1000]).unwrap();
    std::fs::write(&third, site.content(1, 4)).unwrap();
    let said = site.expect(1, 2).stderr;
    assert!(said.contains("could not use file"), "{said}");
    site.expect(1, 3);
    site.expect(1, 4);
    assert_eq!(site.gets([2, 3, 4]), [2, 2, 1]);
}

#[test]
fn a_spool_that_others_may_write_to_is_not_used() {
    let site = Site::patient();
    site.put(1, 1..=9);
    site.expect(1, 1);
    site.wait_until_kept(2);
    let helper = site.wait_for_helper();
    kill_process(helper, Signal::KILL).unwrap();
    wait_for("its end", || site.helper().is_none().then_some(()));
    std::fs::set_permissions(site.spool().unwrap(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let said = site.expect(1, 2).stderr;
    assert!(said.contains("others than this user may write to it"), "{said}");
    assert_eq!(site.gets([2]), [2]);
}

#[test]
fn two_data_directories_do_not_take_each_other_s_segments() {
    let site = Site::patient();
    site.put(1, 1..=4);
    site.expect(1, 1);
    site.wait_until_kept(2);
    // The same names in another archive.
    let mut other = Site::patient();
    other.put(1, 1..=1);
    other.data = data_directory(&site.store, "other");
    other.expect(1, 1);
    other.call(&other.name(1, 2)).run().expect_code(1);
    // The same archive, and another data directory.
    let call = site.call(&site.name(1, 2)).in_dir(data_directory(&site.store, "third"));
    call.success();
    let third = helper_in(&site.store.dir.join("third")).unwrap();
    assert!(site.kept(1, 2).is_some());
    assert_eq!(site.gets([2]), [2]);
    kill_process(third, Signal::TERM).unwrap();
}

#[test]
fn backward_access_fetches_nothing_ahead() {
    let site = Site::patient();
    site.put(1, 1..=60);
    site.expect(1, 30);
    // Twelve ahead of it, as recovery might begin here.
    site.wait_until_kept(42);
    for number in (10..30).rev() {
        site.expect(1, number);
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(site.gets(1..=60), (1..=60).map(|number| usize::from((10..=42).contains(&number))).collect::<Vec<_>>());
    // From here on it goes forward.
    site.expect(1, 11);
    site.wait_until_kept(12);
    (12..=29).for_each(|number| drop(site.expect(1, number)));
}

#[test]
fn recovery_that_changes_to_another_timeline_gets_that_timeline_s_segments() {
    let site = Site::patient();
    site.put(1, 1..=9);
    site.put(2, 5..=9);
    (1..=4).for_each(|number| drop(site.expect(1, number)));
    site.wait_until_kept(7);
    // A timeline that has nothing there is asked for first.
    site.call(&site.name(3, 5)).run().expect_code(1);
    assert!(site.kept(1, 6).is_some(), "what was fetched for the other timeline is still there");
    (5..=9).for_each(|number| drop(site.expect(2, number)));
    wait_for("the other timeline to be dropped", || site.kept(1, 6).is_none().then_some(()));
    site.call(&site.name(2, 10)).run().expect_code(1);
}

#[test]
fn an_absent_segment_is_absent_until_it_is_there() {
    let site = Site::patient();
    site.put(1, 1..=3);
    (1..=3).for_each(|number| drop(site.expect(1, number)));
    for _ in 0..3 {
        site.call(&site.name(1, 4)).run().expect_code(1);
    }
    site.put(1, 4..=4);
    site.expect(1, 4);
    site.put(1, 5..=30);
    (5..=30).for_each(|number| drop(site.expect(1, number)));
}

#[test]
fn segments_in_another_format_than_expected_are_fetched_ahead_as_well() {
    let site = Site::patient();
    for number in 1..=20 {
        let content = compress(Compression::Gzip, None, &site.content(1, number)).unwrap();
        site.store.write(&format!("{}.gz", site.key(1, number)), &content);
    }
    site.expect(1, 1);
    site.wait_until_kept(13);
    site.store.server().forget_requests();
    (2..=13).for_each(|number| drop(site.expect(1, number)));
    assert_eq!(site.gets(2..=13), [0; 12]);
}

#[test]
fn an_incomplete_segment_is_never_fetched_ahead() {
    let site = Site::patient();
    site.put(1, 1..=1);
    site.store.write(&format!("{}.partial", site.key(1, 2)), &site.content(1, 2));
    site.expect(1, 1);
    let (server, name) = (site.store.server(), site.name(1, 2));
    let asked =
        || server.requests().iter().any(|seen| seen.target.contains("list-type") && seen.target.contains(&name));
    wait_for("the helper to look for it", || asked().then_some(()));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(site.kept(1, 2), None);
    site.expect(1, 2);
}

#[test]
fn a_store_that_is_away_is_255_and_what_the_helper_met_is_said_by_the_next_call() {
    let site = Site::patient();
    site.put(1, 1..=1);
    site.put(1, 3..=4);
    site.store.write(&format!("{}.zst", site.key(1, 2)), b"no frame");
    site.expect(1, 1);
    site.wait_until_kept(4);
    let refused = site.call(&site.name(1, 2)).run().expect_code(255);
    assert!(refused.stderr.contains("while fetching WAL ahead: could not fetch WAL file"), "{}", refused.stderr);
    site.store.server().refuse_all(503);
    site.expect(1, 3);
    site.expect(1, 4);
    site.call(&site.name(1, 5)).run().expect_code(255);
    site.call("00000002.history").run().expect_code(255);
}

#[test]
fn how_long_recovery_waited_is_said_where_wal_ends() {
    let site = Site::patient();
    site.put(1, 1..=5);
    (1..=5).for_each(|number| drop(site.expect(1, number)));
    let said = site.call("00000002.history").args(["-v"]).run().expect_code(1).stderr;
    assert!(said.contains("recovery waited ") && said.contains(" of 5 segments"), "{said}");
    let said = site.call("00000002.history").args(["-v"]).run().expect_code(1).stderr;
    assert!(!said.contains("recovery waited "), "{said}");
}

#[test]
fn with_one_job_nothing_is_started_and_nothing_is_touched() {
    let site = Site::patient();
    site.put(1, 1..=2);
    let words = ["wal-restore", &site.name(1, 1), "pg_wal/RECOVERYXLOG"];
    site.store.run(&words).in_dir(&site.data).success();
    assert_eq!((site.spool(), site.helper()), (None, None));
}

fn recovers(version: &PgVersion) {
    let server = S3Server::start();
    let site = Clusters::on_s3(version, &server);
    let mut primary = site.primary(ClusterOptions::default());
    primary.psql("CREATE TABLE t (n int, filler text)");
    site.backup(&primary);
    for n in 1..=12 {
        primary.psql(&format!("INSERT INTO t SELECT {n}, repeat('x', 1000) FROM generate_series(1, 1000)"));
        primary.psql("SELECT pg_switch_wal()");
    }
    primary.archive_everything();
    primary.stop("fast");
    server.forget_requests();
    let copy = site.restore("copy", &[]);
    let data = copy.cluster.data().to_owned();
    let written = std::fs::read_to_string(data.join("postgresql.auto.conf")).unwrap();
    assert!(written.contains("wal-restore") && written.contains(" --jobs "), "{written}");
    copy.promoted(|copy| {
        assert_eq!(copy.psql("SELECT count(*), count(DISTINCT n) FROM t"), "12000|12");
        assert_eq!(copy.psql("SELECT timeline_id FROM pg_control_checkpoint()"), "2");
    });
    // The helper ends with the server, and takes everything with it.
    wait_for("the helper to end", || helper_in(&data).is_none().then_some(()));
    let left: Vec<_> =
        std::fs::read_dir(data.join("pg_wal")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('.')), "{left:?}");
    // What PostgreSQL asks for once more at the end may be got twice.
    let wal = |seen: &&crate::harness::Seen| seen.target.contains("/wals/0000000100000000/");
    let gets: Vec<String> = server.requests().iter().filter(wal).map(|seen| seen.target.clone()).collect();
    let distinct: std::collections::BTreeSet<&String> = gets.iter().collect();
    assert!(gets.len() <= distinct.len() + 4, "{gets:?}");
}

#[test]
fn on_postgresql_15_a_copy_recovers_with_segments_fetched_ahead() {
    let Some(version) = Postgres::version(15) else { return };
    recovers(&version);
}

#[test]
fn on_postgresql_18_a_copy_recovers_with_segments_fetched_ahead() {
    let Some(version) = Postgres::version(18) else { return };
    recovers(&version);
}

#[test]
fn neither_a_backup_nor_whoever_archives_what_was_left_behind_takes_a_spool_for_wal() {
    let store = TestStore::directory();
    let data = data_directory(&store, "data");
    let spool = store.dir.create_dir("data/pg_wal/.barback-spool-0123456789abcdef");
    store.dir.create_dir("data/pg_wal/archive_status");
    let name = "000000010000000000000003";
    std::fs::write(spool.join(name), segment(name, 1, Filling::Compressible, 1)).unwrap();
    give_away(&spool.join(name));
    barback(&["wal-archive", "--all"]).arg(data.join("pg_wal")).envs(&store.env()).run();
    assert_eq!(store.wal_keys(), [""; 0]);
}
