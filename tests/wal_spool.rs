//! Segments fetched ahead, and what recovery is given of them: requests counted, stores and disks that fail, processes that die.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use barback::codec::compression::compress;
use barback::commands::archive::{Archive, Archived, ContentCheck, IfOther, WalCompression};
use barback::commands::spool::{SpoolLayout, SpoolOptions};
use barback::commands::wal_archive::{WalArchiveRequest, wal_archive};
use barback::commands::wal_restore::{BackupHistories, PartialPolicy, WalRestoreRequest, wal_restore};
use barback::domain::compression::Compression;
use barback::error::{Error, ErrorKind};
use barback::layout::keys::ServerPrefix;
use barback::store::{Store, StoreOptions};

use crate::harness::{Fault, Filling, Run, S3Server, TestStore, block_on, give_away, segment, store_options};

/// Segment number `number` of 1 MiB on timeline 1.
fn name(number: u64) -> String {
    format!("00000001{:08X}{:08X}", number >> 12, number & 0xFFF)
}

/// What a test of this file stands on: a server that counts, and a spool that is not there yet.
struct Site {
    store: TestStore,
    server: &'static str,
    spool: PathBuf,
    layout: fn(&StoreOptions) -> SpoolLayout,
    segments: usize,
    partial: PartialPolicy,
    check: ContentCheck,
}

impl Site {
    fn new() -> Self {
        let store = TestStore::s3(S3Server::start());
        let spool = store.dir.join("spool");
        Self {
            store,
            server: "main",
            spool,
            layout: keyed,
            segments: 0,
            partial: PartialPolicy::LastResort,
            check: ContentCheck::Checked,
        }
    }

    /// Fetching `segments` at once.
    fn ahead(segments: usize) -> Self {
        Self { segments, ..Self::new() }
    }

    /// Puts segments as Barman does: no metadata.
    fn put(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let content = compress(Compression::Zstd, None, &content(number)).unwrap();
            self.store.write(&format!("{}.zst", key(self.server, &name(number))), &content);
        }
        self.store.server().forget_requests();
    }

    fn request(&self, name: &str, destination: &Path, options: &StoreOptions) -> WalRestoreRequest {
        WalRestoreRequest {
            name: name.parse().unwrap(),
            destination: destination.to_owned(),
            expected: None,
            partial: self.partial,
            backup_histories: BackupHistories::Absent,
            check: self.check,
            spool: Some(SpoolOptions {
                directory: self.spool.clone(),
                layout: (self.layout)(options),
                segments: self.segments,
            }),
        }
    }

    /// What came to the destination, which was not there before and is not there after.
    fn restore(&self, name: &str) -> Result<Vec<u8>, Error> {
        let destination = self.store.dir.join("RECOVERYXLOG");
        let options = options_of(&self.store);
        let outcome = block_on(async {
            let archive = open(options.clone(), self.server).await;
            wal_restore(&archive, &self.request(name, &destination, &options)).await
        });
        assert_eq!(destination.exists(), outcome.is_ok());
        outcome.map(|()| {
            let content = std::fs::read(&destination).unwrap();
            std::fs::remove_file(&destination).unwrap();
            content
        })
    }

    fn expect(&self, number: u64) {
        let restored = self.restore(&name(number)).unwrap_or_else(|error| panic!("{}: {error}", name(number)));
        assert!(restored == content(number), "{} came back changed", name(number));
    }

    /// The requests since the last look: `LIST`, `GET` and the segment's number.
    fn requests(&self) -> Vec<String> {
        let seen = self.store.server().requests();
        self.store.server().forget_requests();
        let mut short: Vec<String> = seen.iter().map(short).collect();
        // Those that are sent at once arrive in any order.
        short.sort_by_key(|text| text != "LIST");
        let from = short.iter().position(|text| text != "LIST").unwrap_or(short.len());
        short[from..].sort();
        short
    }

    /// Where segments are kept, once there are any.
    fn keyed_directory(&self) -> PathBuf {
        let entries: Vec<_> = std::fs::read_dir(&self.spool).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [directory] = &entries[..] else { panic!("{entries:?}") };
        let name = directory.file_name().unwrap().to_str().unwrap();
        assert!(name.len() == 24 && name.starts_with("barback-"), "{name}");
        directory.clone()
    }

    fn kept(&self) -> Vec<String> {
        names_in(&self.keyed_directory())
    }

    /// The same call as a process of the unprivileged user, which can be killed and is refused what root is not.
    fn call(&self, name: &str, destination: &Path) -> Run {
        let program = self.program();
        Run::new(program).args(CALL_ONLY).envs(&self.store.env()).env(CALLED, self.words(name, destination))
    }

    /// The same, with a new and small file system at `mount`.
    fn call_with_small_disk(&self, mount: &Path, kib: u32, name: &str, destination: &Path) -> Run {
        let script = format!(
            "mount -t tmpfs -o size={kib}k tmpfs {0} && {1} {2}; code=$?; ls -A {0}; exit $code",
            mount.display(),
            self.program().display(),
            CALL_ONLY.join(" ")
        );
        let run = Run::new("unshare").args(["--map-root-user", "--mount", "sh", "-c", &script]);
        run.envs(&self.store.env()).env(CALLED, self.words(name, destination))
    }

    fn program(&self) -> PathBuf {
        let program = self.store.dir.join("wal-restore");
        if !program.exists() {
            let this = std::env::current_exe().unwrap();
            std::fs::hard_link(&this, &program).or_else(|_| std::fs::copy(&this, &program).map(drop)).unwrap();
        }
        program
    }

    fn words(&self, name: &str, destination: &Path) -> String {
        format!("{name} {} {} {}", destination.display(), self.spool.display(), self.segments)
    }
}

fn keyed(options: &StoreOptions) -> SpoolLayout {
    SpoolLayout::Keyed { store: options.identity() }
}

fn shared(_: &StoreOptions) -> SpoolLayout {
    SpoolLayout::Shared
}

fn key(server: &str, name: &str) -> String {
    format!("{server}/wals/{}/{name}", &name[..16])
}

fn content(number: u64) -> Vec<u8> {
    segment(&name(number), 1, Filling::Compressible, 1)
}

fn short(seen: &crate::harness::Seen) -> String {
    if seen.target.contains("list-type") {
        return "LIST".to_owned();
    }
    let name = seen.target.rsplit('/').next().unwrap();
    format!("{} {}", seen.method, u64::from_str_radix(&name[21..24], 16).unwrap())
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn options_of(store: &TestStore) -> StoreOptions {
    options_from(&store.url(), store.env())
}

fn options_from(url: &str, env: impl IntoIterator<Item = (String, String)>) -> StoreOptions {
    StoreOptions { retry_timeout_s: 3, ..store_options(url, env) }
}

async fn open(options: StoreOptions, server: &str) -> Archive {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let prefix = ServerPrefix::new(options.place.prefix(), server).unwrap();
    Archive { store: Box::pin(Store::open(&options)).await.unwrap(), prefix }
}

/// The one test that a process of this very program is to run.
const CALL_ONLY: [&str; 3] = ["--exact", "wal_spool::a_call_by_another_test_restores_its_segment", "--nocapture"];
/// The variable that says what it is to restore.
const CALLED: &str = "BARBACK_TEST_CALL";

#[test]
fn a_call_by_another_test_restores_its_segment() {
    let Ok(call) = std::env::var(CALLED) else { return };
    let [name, destination, spool, segments] = call.split(' ').collect::<Vec<_>>()[..] else { panic!("{call}") };
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::stderr);
    subscriber.init();
    let env = || std::env::vars().filter(|(name, _)| name != CALLED);
    let options = options_from(&std::env::var("BARBACK_STORE").unwrap(), env());
    let request = WalRestoreRequest {
        name: name.parse().unwrap(),
        destination: destination.into(),
        expected: None,
        partial: PartialPolicy::LastResort,
        backup_histories: BackupHistories::Absent,
        check: ContentCheck::Checked,
        spool: Some(SpoolOptions {
            directory: spool.into(),
            layout: keyed(&options),
            segments: segments.parse().unwrap(),
        }),
    };
    let outcome = block_on(async { wal_restore(&open(options, "main").await, &request).await });
    let code = outcome.map_or_else(
        |error| {
            eprintln!("{error}");
            if error.kind() == ErrorKind::Local { 4 } else { 1 }
        },
        |()| 0,
    );
    leave(code);
}

#[allow(clippy::exit, reason = "the process is no test but the call of one")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}

#[test]
fn the_next_segments_come_with_the_first_and_are_delivered_without_a_request() {
    let mut site = Site::ahead(4);
    site.put(1..=6);
    site.expect(1);
    assert_eq!(site.requests(), ["LIST", "GET 1", "GET 2", "GET 3", "GET 4"]);
    assert_eq!(site.kept(), [name(2), name(3), name(4)]);
    let facts = std::fs::metadata(site.keyed_directory()).unwrap();
    assert_eq!(facts.mode() & 0o777, 0o700);
    for number in 2..=4 {
        site.expect(number);
    }
    assert_eq!(site.requests(), [""; 0]);
    assert_eq!(site.kept(), [""; 0]);
    site.expect(5);
    assert_eq!(site.requests(), ["LIST", "GET 5", "GET 6"]);
    // A call that fetches nothing ahead takes what an earlier one did.
    site.segments = 0;
    site.expect(6);
    assert_eq!(site.requests(), [""; 0]);
}

#[test]
fn without_fetching_ahead_nothing_is_touched_beside_the_destination() {
    let mut site = Site::new();
    site.put(1..=2);
    site.expect(1);
    assert_eq!(site.requests(), ["LIST", "GET 1"]);
    let absent = site.restore(&name(7)).unwrap_err();
    assert_eq!((absent.kind(), site.requests()), (ErrorKind::NotFound, vec!["LIST".to_owned()]));
    let absent = site.restore("00000002.history").unwrap_err();
    assert_eq!((absent.kind(), site.requests()), (ErrorKind::NotFound, vec!["LIST".to_owned()]));
    assert!(!site.spool.exists());
    // Nor when there is nothing to fetch.
    site.segments = 8;
    assert_eq!(site.restore(&name(7)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(site.requests(), ["LIST"]);
    site.expect(2);
    assert_eq!(site.requests(), ["LIST", "GET 2"]);
    assert!(!site.spool.exists());
}

#[test]
fn what_is_kept_already_is_not_fetched_again_and_what_is_over_is_removed() {
    let site = Site::ahead(3);
    site.put([1, 2, 3, 4, 5, 6, 9]);
    site.expect(1);
    site.expect(2);
    assert_eq!(site.kept(), [name(3)]);
    site.requests();
    // Recovery went back, as after a restart.
    site.expect(2);
    assert_eq!(site.requests(), ["LIST", "GET 2", "GET 4"]);
    assert_eq!(site.kept(), [name(3), name(4)]);
    // And on, past what was kept; there is a gap, and the end.
    site.expect(6);
    assert_eq!(site.requests(), ["LIST", "GET 6", "GET 9"]);
    assert_eq!(site.kept(), [name(9)]);
}

#[test]
fn the_directory_of_the_next_4_gib_is_looked_into_where_the_first_may_end() {
    let site = Site::ahead(4);
    site.put(0xFFC..=0x1002);
    site.expect(0xFFC);
    assert_eq!(site.requests(), ["LIST", "GET 4092", "GET 4093", "GET 4094", "GET 4095"]);
    (0xFFD..=0xFFE).for_each(|number| site.expect(number));
    std::fs::remove_dir_all(&site.spool).unwrap();
    site.expect(0xFFE);
    assert_eq!(site.requests(), ["LIST", "LIST", "GET 0", "GET 1", "GET 4094", "GET 4095"]);
    (0xFFF..=0x1001).for_each(|number| site.expect(number));
    assert_eq!(site.requests(), [""; 0]);
}

#[test]
fn clusters_and_stores_do_not_take_each_other_s_segments() {
    let mut site = Site::ahead(3);
    site.put(1..=3);
    site.expect(1);
    let elsewhere = Site { spool: site.spool.clone(), segments: 3, ..Site::new() };
    assert_eq!(elsewhere.restore(&name(2)).unwrap_err().kind(), ErrorKind::NotFound);
    site.server = "other";
    assert_eq!(site.restore(&name(2)).unwrap_err().kind(), ErrorKind::NotFound);
    site.server = "main";
    site.requests();
    site.expect(2);
    assert_eq!(site.requests(), [""; 0]);
}

#[test]
fn a_neighbour_that_cannot_be_had_is_left_out() {
    let site = Site::ahead(8);
    site.put(1..=6);
    // Number 3 is another segment under its name, number 4 is cut, number 5 is refused.
    let other = compress(Compression::Zstd, None, &content(9)).unwrap();
    site.store.write(&format!("{}.zst", key("main", &name(3))), &other);
    site.store.write(&format!("{}.zst", key("main", &name(4))), &other[..other.len() / 2]);
    let fifth = name(5);
    site.store.server().fault_when(move |seen| seen.target.contains(&fifth).then_some(Fault::Status(403)));
    site.expect(1);
    assert_eq!(site.kept(), [name(2), name(6)]);
    // Its own turn is another matter.
    assert_eq!(site.restore(&name(3)).unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(site.restore(&name(4)).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(site.restore(&name(5)).unwrap_err().kind(), ErrorKind::Denied);
    site.store.server().heal();
    site.expect(5);
}

#[test]
fn the_requested_segment_s_failure_is_the_call_s() {
    let site = Site::ahead(3);
    site.put(1..=3);
    let first = name(1);
    site.store.server().fault_when(move |seen| {
        let is_it = seen.target.contains(&first) && !seen.target.contains("list-type");
        is_it.then_some(Fault::Status(503))
    });
    assert_eq!(site.restore(&name(1)).unwrap_err().kind(), ErrorKind::Unreachable);
    site.store.server().fault_when(|seen| seen.target.contains("list-type").then_some(Fault::Status(503)));
    assert_eq!(site.restore(&name(1)).unwrap_err().kind(), ErrorKind::Unreachable);
}

#[test]
fn a_store_that_stalls_on_a_neighbour_holds_recovery_up_for_15_seconds_at_most() {
    let site = Site::ahead(4);
    site.put(1..=4);
    let third = name(3);
    site.store.server().fault_when(move |seen| {
        let is_it = seen.target.contains(&third) && !seen.target.contains("list-type");
        is_it.then_some(Fault::Delay(Duration::from_mins(2)))
    });
    let begun = Instant::now();
    site.expect(1);
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    assert_eq!(site.kept(), [name(2), name(4)]);
}

/// What somebody did to a file in the spool.
type Spoil = fn(&Path);

#[test]
fn a_file_in_the_spool_that_is_not_the_segment_is_removed_and_the_segment_fetched() {
    let mut site = Site::ahead(2);
    site.put(1..=3);
    let long_ago = SystemTime::now() - Duration::from_hours(2);
    let spoil: [(&str, Spoil); 6] = [
        ("cut", |file| std::fs::write(file, &content(2)[..1 << 19]).unwrap()),
        ("empty", |file| std::fs::write(file, b"").unwrap()),
        ("longer", |file| std::fs::write(file, [content(2), vec![0]].concat()).unwrap()),
        ("another", |file| std::fs::write(file, content(3)).unwrap()),
        ("zeroes", |file| std::fs::write(file, vec![0; 1 << 20]).unwrap()),
        ("a link", |file| {
            let elsewhere = file.parent().unwrap().parent().unwrap().join("elsewhere");
            std::fs::rename(file, &elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, file).unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        site.expect(1);
        let file = site.keyed_directory().join(name(2));
        spoil(&file);
        site.requests();
        site.segments = 0;
        site.expect(2);
        assert_eq!(site.requests(), ["LIST", "GET 2"], "{what}");
        assert!(file.symlink_metadata().is_err(), "{what}");
        let _ = std::fs::remove_file(site.spool.join("elsewhere"));
        site.segments = 2;
    }
    // What lies for hours may be of a cluster that was made anew under the same name.
    site.expect(1);
    let file = site.keyed_directory().join(name(2));
    std::fs::File::open(&file).unwrap().set_modified(long_ago).unwrap();
    site.requests();
    site.expect(2);
    assert_eq!(site.requests(), ["LIST", "GET 2", "GET 3"]);
}

#[test]
fn a_spool_that_others_may_write_to_is_not_used() {
    let site = Site::ahead(2);
    site.put(1..=2);
    site.expect(1);
    let directory = site.keyed_directory();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    site.requests();
    site.expect(2);
    assert_eq!(site.requests(), ["LIST", "GET 2"]);
    assert_eq!(names_in(&directory), [name(2)]);
}

#[test]
fn what_a_killed_call_left_half_written_is_swept_later() {
    let site = Site::ahead(2);
    site.put(1..=3);
    site.expect(1);
    let half = |of: u64| site.keyed_directory().join(format!(".{}.barback-4711", name(of)));
    std::fs::write(half(2), b"half").unwrap();
    std::fs::write(half(3), b"half, and being written").unwrap();
    std::fs::File::open(half(2)).unwrap().set_modified(SystemTime::now() - Duration::from_hours(2)).unwrap();
    site.expect(2);
    assert_eq!(site.kept(), [format!(".{}.barback-4711", name(3))]);
}

#[test]
fn a_spool_that_cannot_be_made_or_written_costs_a_warning_and_no_more() {
    let mut site = Site::ahead(4);
    site.put(1..=4);
    let destination = site.store.dir.create_dir("restored").join("RECOVERYXLOG");
    let closed = site.store.dir.create_dir("closed");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
    let file = site.store.dir.write("file", "");
    for spool in [closed.clone(), closed.join("below"), file.clone(), file.join("below"), "/proc/nowhere".into()] {
        site.spool = spool;
        let called = site.call(&name(1), &destination).success();
        assert!(called.stderr.contains("no WAL is fetched ahead"), "{}", called.stderr);
        assert!(std::fs::read(&destination).unwrap() == content(1));
        std::fs::remove_file(&destination).unwrap();
        assert_eq!(site.requests(), ["LIST", "GET 1"]);
    }
    // It was there, and then the file system became read-only.
    site.spool = site.store.dir.join("spool");
    give_away(&std::fs::create_dir(&site.spool).map(|()| site.spool.clone()).unwrap());
    site.call(&name(1), &destination).success();
    assert_eq!(site.kept(), [name(2), name(3), name(4)]);
    std::fs::remove_file(site.keyed_directory().join(name(3))).unwrap();
    std::fs::set_permissions(site.keyed_directory(), std::fs::Permissions::from_mode(0o500)).unwrap();
    site.requests();
    let called = site.call(&name(2), &destination).success();
    assert!(called.stderr.contains("is fetched from the store"), "{}", called.stderr);
    assert!(called.stderr.contains("no more WAL is fetched ahead"), "{}", called.stderr);
    assert!(std::fs::read(&destination).unwrap() == content(2));
    assert_eq!(site.requests(), ["LIST", "GET 2", "GET 3"]);
    std::fs::set_permissions(site.keyed_directory(), std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_full_disk_below_the_spool_costs_a_warning_and_below_the_destination_is_a_local_failure() {
    let mut site = Site::ahead(5);
    let (full, restored) = (site.store.dir.create_dir("full"), site.store.dir.create_dir("restored"));
    let namespaces =
        Run::new("unshare").args(["--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs"]).arg(&full);
    if namespaces.run().code() != 0 {
        return eprintln!("SKIPPED: a full disk: no file system can be mounted");
    }
    site.put(1..=5);
    site.spool = full.join("spool");
    let destination = restored.join("RECOVERYXLOG");
    let called = site.call_with_small_disk(&full, 2500, &name(1), &destination).success();
    assert!(called.stderr.contains("no more WAL is fetched ahead"), "{}", called.stderr);
    assert!(called.stderr.contains("No space left"), "{}", called.stderr);
    assert!(std::fs::read(&destination).unwrap() == content(1));

    site.spool = site.store.dir.join("spool");
    give_away(&std::fs::create_dir(&site.spool).map(|()| site.spool.clone()).unwrap());
    let destination = full.join("RECOVERYXLOG");
    // Without what was fetched ahead, and with it, which comes from another file system.
    for (number, good) in [(1, None), (2, Some(restored.join("RECOVERYXLOG")))] {
        if let Some(good) = good {
            site.call(&name(1), &good).success();
        }
        let called = site.call_with_small_disk(&full, 700, &name(number), &destination).run().expect_code(4);
        assert!(called.stderr.contains("No space left"), "{}", called.stderr);
        assert!(!called.stdout.contains("RECOVERYXLOG"), "{}", called.stdout);
    }
}

#[test]
fn a_destination_that_cannot_be_written_is_a_local_failure_and_stays_as_it_was() {
    let site = Site::ahead(2);
    site.put(1..=2);
    give_away(&std::fs::create_dir(&site.spool).map(|()| site.spool.clone()).unwrap());
    let good = site.store.dir.create_dir("restored").join("RECOVERYXLOG");
    site.call(&name(1), &good).success();
    let closed = site.store.dir.create_dir("closed");
    std::fs::write(closed.join("old"), "as it was").unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
    for destination in [closed.join("new"), closed.join("old"), closed.join("no/such/directory"), closed.clone()] {
        for number in [1, 2] {
            let called = site.call(&name(number), &destination).run().expect_code(4);
            assert!(called.stderr.contains("could not write file"), "{}", called.stderr);
        }
    }
    assert_eq!(names_in(&closed), ["old"]);
    assert_eq!(std::fs::read(closed.join("old")).unwrap(), b"as it was");
    // What was fetched ahead is still there for a better destination.
    site.requests();
    site.call(&name(2), &good).success();
    assert_eq!(site.requests(), [""; 0]);
}

#[test]
fn a_spool_on_another_file_system_delivers_by_copy() {
    let mut site = Site::ahead(2);
    site.put(1..=2);
    let elsewhere = tempfile::Builder::new().prefix("bb-").tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    if device(elsewhere.path()) == device(site.store.dir.path()) {
        return eprintln!("SKIPPED: a spool on another file system: /dev/shm is not one");
    }
    site.spool = elsewhere.path().join("spool");
    site.expect(1);
    site.requests();
    site.expect(2);
    assert_eq!((site.requests(), site.kept()), (vec![], vec![]));
}

#[test]
fn calls_at_the_same_time_each_get_every_segment_whole() {
    let site = Site::ahead(5);
    site.put(1..=12);
    give_away(&std::fs::create_dir(&site.spool).map(|()| site.spool.clone()).unwrap());
    let restored = site.store.dir.create_dir("restored");
    // Made once, before all run it.
    site.program();
    let site = &site;
    std::thread::scope(|scope| {
        for caller in 0..3 {
            let destination = restored.join(format!("RECOVERYXLOG{caller}"));
            scope.spawn(move || {
                for number in 1..=12 {
                    site.call(&name(number), &destination).success();
                    assert!(std::fs::read(&destination).unwrap() == content(number), "{number}");
                }
            });
        }
    });
    // Nothing half-written, and nothing but whole segments.
    for kept in site.kept() {
        let content = std::fs::read(site.keyed_directory().join(&kept)).unwrap();
        assert!(content == segment(&kept, 1, Filling::Compressible, 1), "{kept}");
    }
}

#[test]
fn killed_at_any_moment_a_call_leaves_whole_files_only() {
    let site = Site::ahead(9);
    let name = |number: u64| format!("0000000100000000{number:08X}");
    let content = |number: u64| segment(&name(number), 4, Filling::Noise, 1);
    for number in 1..=9 {
        site.store.write(&key("main", &name(number)), &content(number));
    }
    give_away(&std::fs::create_dir(&site.spool).map(|()| site.spool.clone()).unwrap());
    let destination = site.store.dir.create_dir("restored").join("RECOVERYXLOG");
    site.call(&name(1), &destination).success();
    let directory = site.keyed_directory();
    let (mut killed, mut kept) = (0, 0);
    for step in 0..24 {
        for file in names_in(&directory).into_iter().map(|name| directory.join(name)).chain([destination.clone()]) {
            let _ = std::fs::remove_file(file);
        }
        let mut running = site.call(&name(1), &destination).start();
        // Mostly that is while another file is being written.
        while running.is_running() && names_in(&directory).len() < step % 8 {
            std::thread::sleep(Duration::from_millis(1));
        }
        running.signal(Signal::KILL);
        killed += usize::from(running.wait().code() == 137);
        assert!(!destination.exists() || std::fs::read(&destination).unwrap() == content(1));
        for whole in names_in(&directory).into_iter().filter(|name| !name.starts_with('.')) {
            let number = u64::from_str_radix(&whole[16..], 16).unwrap();
            assert!(std::fs::read(directory.join(&whole)).unwrap() == content(number), "{whole} is cut");
            kept += 1;
        }
    }
    eprintln!("{killed} of 24 calls were killed, {kept} segments were kept");
    assert!(killed > 2 && kept > 2);
    let whole = site.call(&name(1), &destination).success();
    assert!(std::fs::read(&destination).unwrap() == content(1), "{}", whole.stderr);
}

#[test]
fn a_shared_spool_delivers_what_lies_there_under_the_plain_name() {
    let mut site = Site { layout: shared, ..Site::ahead(3) };
    site.put(1..=4);
    site.expect(1);
    assert_eq!(names_in(&site.spool), [name(2), name(3)]);
    // Whoever put it there, and for whichever server.
    site.server = "other";
    site.requests();
    site.expect(2);
    assert_eq!(site.requests(), [""; 0]);
    std::fs::write(site.spool.join("00000002.history"), "1\t0/580000\twhy\n").unwrap();
    assert_eq!(site.restore("00000002.history").unwrap(), b"1\t0/580000\twhy\n");
    // What is cut is delivered only to those who asked for no checks, which is all that Barman 3.19.1 has.
    site.server = "main";
    std::fs::write(site.spool.join(name(3)), b"cut").unwrap();
    site.expect(3);
    assert_eq!(site.requests(), ["LIST", "GET 3", "GET 4"]);
    site.check = ContentCheck::Unchecked;
    std::fs::write(site.spool.join(name(4)), b"cut").unwrap();
    assert_eq!(site.restore(&name(4)).unwrap(), b"cut");
    assert_eq!(site.requests(), [""; 0]);
}

#[test]
fn every_suffix_in_one_archive_is_found_and_partial_segments_come_last_or_as_barman_orders_them() {
    let mut site = Site::new();
    for (number, codec) in (1..).zip(Compression::ALL) {
        let object = compress(codec, None, &content(number)).unwrap();
        site.store.write(&format!("{}{}", key("main", &name(number)), codec.suffix()), &object);
    }
    for number in 1..=7 {
        site.expect(number);
        assert_eq!(site.requests()[..1], ["LIST"]);
    }
    // Number 20 is there whole in a suffix behind `.partial`, number 21 as a partial one only.
    let whole = compress(Compression::Snappy, None, &content(20)).unwrap();
    site.store.write(&format!("{}.snappy", key("main", &name(20))), &whole);
    let left = |number: u64| segment(&name(number), 1, Filling::Noise, 5);
    for number in [20, 21] {
        let partial = compress(Compression::Gzip, None, &left(number)).unwrap();
        site.store.write(&format!("{}.partial.gz", key("main", &name(number))), &partial);
    }
    site.store.server().forget_requests();
    let absent = |site: &Site, name: &str, requests: &[&str]| {
        let error = site.restore(name).unwrap_err();
        assert_eq!(
            (error.kind(), site.requests()),
            (ErrorKind::NotFound, requests.iter().map(|&one| one.into()).collect())
        );
    };
    let partial_name = |number: u64| format!("{}.partial", name(number));
    site.expect(20);
    assert!(site.restore(&name(21)).unwrap() == left(21));
    assert_eq!(site.requests(), ["LIST", "LIST", "GET 20", "GET 21"]);
    assert!(site.restore(&partial_name(20)).unwrap() == left(20));
    site.requests();
    site.partial = PartialPolicy::Never;
    site.expect(20);
    site.requests();
    absent(&site, &name(21), &["LIST"]);
    absent(&site, &partial_name(21), &[]);
    site.partial = PartialPolicy::BarmanOrder;
    assert!(site.restore(&name(20)).unwrap() == left(20));
    assert!(site.restore(&name(21)).unwrap() == left(21));
    // Partial ones are never fetched ahead.
    site.segments = 4;
    site.partial = PartialPolicy::LastResort;
    site.expect(7);
    assert_eq!(site.kept(), [name(20)]);
    site.requests();
    // Barman 3.19.1 never delivers these.
    let backup = format!("{}.00000028.backup", name(5));
    site.store.write(&format!("{}.gz", key("main", &backup)), b"irrelevant");
    site.requests();
    absent(&site, &backup, &[]);
}

#[test]
fn what_is_archived_twice_is_compared_with_whatever_is_there() {
    let site = Site::new();
    let archive_with = |number: u64, content: &[u8], if_other: IfOther, check: ContentCheck| {
        site.store.dir.create_dir("pg_wal");
        let request = WalArchiveRequest {
            path: site.store.dir.write(&format!("pg_wal/{}", name(number)), content),
            compression: WalCompression { codec: Compression::Zstd, level: None },
            if_other,
            check,
            ride_along: None,
            now: "2026-11-25T12:00:00Z".parse().unwrap(),
        };
        block_on(async { wal_archive(&open(options_of(&site.store), "main").await, &request).await })
    };
    let archive = |number, content: &[u8]| archive_with(number, content, IfOther::Refuse, ContentCheck::Checked);
    let noise = segment(&name(1), 1, Filling::Noise, 3);
    // Barman was here first.
    site.put([1]);
    assert_eq!(archive(1, &content(1)).unwrap(), Archived::AlreadyThere);
    assert_eq!(archive(1, &noise).unwrap_err().kind(), ErrorKind::Conflict);
    site.expect(1);
    // Overwriting needs no look at what is there, and is one request beside the question whose archive it is.
    site.store.server().forget_requests();
    assert_eq!(archive_with(1, &noise, IfOther::Replace, ContentCheck::Checked).unwrap(), Archived::Stored);
    assert_eq!(site.store.server().requests().len(), 2);
    assert!(site.restore(&name(1)).unwrap() == noise);
    // Without checks any bytes are a WAL file, as Barman has it.
    for content in [&b""[..], b"not a segment"] {
        assert_eq!(archive(2, content).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert_eq!(archive_with(2, b"", IfOther::Refuse, ContentCheck::Unchecked).unwrap(), Archived::Stored);
    assert_eq!(site.restore(&name(2)).unwrap_err().kind(), ErrorKind::Corrupt);
    let site = Site { check: ContentCheck::Unchecked, ..site };
    assert_eq!(site.restore(&name(2)).unwrap(), b"");
}
