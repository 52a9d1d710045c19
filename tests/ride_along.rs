//! `wal-archive --jobs`: segments that ride along are acknowledged later by a receipt, and by nothing else that looks like one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{
    ClusterOptions, Fault, Filling, Finished, Random, Run, S3Server, Site, TestStore, for_each_store, for_each_version,
    give_away, segment, segment_of,
};

#[test]
fn what_is_ready_rides_along_on_every_store() {
    for_each_store(|store| {
        let pg_wal = PgWal::new(store);
        let names = pg_wal.ready(1..=6);
        // What is not ready stays, and so does what is no segment.
        pg_wal.put(&name(7), &content(&name(7)));
        pg_wal.put("archive_status/00000002.history.ready", b"");
        pg_wal.archive(&names[0], 0);
        assert_eq!(store.wal_keys().len(), 6, "{:?}", store.wal_keys());
        pg_wal.archive_each(&names[1..]);
        for name in &names {
            let restored = pg_wal.directory.join("restored");
            store.run(&["wal-restore", name]).arg(&restored).success();
            assert_eq!(fs::read(&restored).unwrap(), content(name), "{name}");
        }
    });
}

#[test]
fn a_call_with_neighbours_puts_each_once_and_later_calls_ask_nothing() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = PgWal::new(&store);
    let names = pg_wal.ready(1..=9);
    pg_wal.archive(&names[0], 0);
    store.server().forget_requests();
    pg_wal.ready(10..=17);
    pg_wal.archive(&name(10), 0);
    let seen = store.server().requests();
    let of = |method: &str| seen.iter().filter(|seen| seen.method == method).count();
    assert_eq!((of("GET"), of("PUT"), seen.len()), (1, 8, 9), "{seen:#?}");
    // Nothing that is asked of the store is answered from here on, and nothing needs to be.
    store.server().forget_requests();
    store.server().refuse_all(500);
    pg_wal.archive_each(&(11..=17).map(name).collect::<Vec<_>>());
    assert_eq!(store.server().requests().len(), 0);
}

#[test]
fn a_neighbour_that_fails_fails_only_itself_and_gets_no_receipt() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = PgWal::new(&store);
    let names = pg_wal.ready(1..=5);
    // One is refused by the store, one is damaged, one is in the archive with other content.
    let refused = names[1].clone();
    pg_wal.put(&names[2], &content(&names[2])[..4096]);
    store.write(&format!("main/wals/0000000100000000/{}.zst", names[3]), b"another's");
    store.server().fault_when(move |seen| seen.target.contains(&refused).then_some(Fault::Status(403)));
    let said = pg_wal.archive(&names[0], 0).stderr;
    for failed in &names[1..4] {
        assert!(!pg_wal.has_receipt(failed), "{failed}");
    }
    assert!(pg_wal.has_receipt(&names[4]), "{said}");
    // Each is told of in its turn.
    pg_wal.archive(&names[1], 2);
    pg_wal.archive(&names[2], 4);
    pg_wal.archive(&names[3], 4);
    pg_wal.archive(&names[4], 0);
    store.server().heal();
    pg_wal.archive(&names[1], 0);
}

#[test]
fn without_the_requested_segment_the_answer_is_no_whatever_became_of_the_others() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = PgWal::new(&store);
    let names = pg_wal.ready(1..=5);
    let refused = names[0].clone();
    store.server().fault_when(move |seen| seen.target.contains(&refused).then_some(Fault::Status(403)));
    for _ in 0..3 {
        pg_wal.archive(&names[0], 2);
    }
    let stored: BTreeSet<String> = store.wal_keys().into_iter().collect();
    for name in &names[1..] {
        let is_stored = stored.iter().any(|key| key.contains(name));
        assert!(is_stored || !pg_wal.has_receipt(name), "{name} has a receipt and is not there");
    }
    store.server().heal();
    pg_wal.archive_each(&names);
    assert_eq!(store.wal_keys().len(), 5);
}

/// The object is removed behind barback's back, so that only a call that sends it again can bring it back.
#[test]
fn what_is_not_the_file_that_was_confirmed_is_sent_again() {
    type Trick = fn(&PgWal<'_>, &str);
    let tricks: [(&str, Trick); 8] = [
        ("written again, same bytes", |pg_wal, name| pg_wal.put(name, &content(name))),
        ("other bytes, its times set back", |pg_wal, name| {
            let path = pg_wal.directory.join(name);
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            let mut bytes = content(name);
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, bytes).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        }),
        ("another file in its place", |pg_wal, name| {
            pg_wal.put("new", &content(name));
            fs::rename(pg_wal.directory.join("new"), pg_wal.directory.join(name)).unwrap();
        }),
        ("renamed away and back", |pg_wal, name| {
            fs::rename(pg_wal.directory.join(name), pg_wal.directory.join("away")).unwrap();
            fs::rename(pg_wal.directory.join("away"), pg_wal.directory.join(name)).unwrap();
        }),
        ("receipts gone", |pg_wal, _| fs::remove_dir_all(pg_wal.receipts().unwrap()).unwrap()),
        ("a receipt that others may write to", |pg_wal, name| {
            let receipt = pg_wal.receipts().unwrap().join(name);
            fs::set_permissions(receipt, fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("an old receipt", |pg_wal, name| {
            pg_wal.edit_receipt(name, |receipt| receipt["confirmed"] = "2026-01-01T00:00:00Z".into());
        }),
        ("another segment's receipt", |pg_wal, name| {
            let receipts = pg_wal.receipts().unwrap();
            fs::copy(receipts.join(self::name(3)), receipts.join(name)).unwrap();
            give_away(&receipts.join(name));
        }),
    ];
    for (what, trick) in tricks {
        let store = TestStore::directory();
        let pg_wal = PgWal::new(&store);
        let names = pg_wal.ready(1..=3);
        pg_wal.archive(&names[0], 0);
        assert!(pg_wal.has_receipt(&names[1]), "{what}");
        let key = store.wal_keys().into_iter().find(|key| key.contains(&names[1])).unwrap();
        store.remove(&key);
        trick(&pg_wal, &names[1]);
        pg_wal.archive(&names[1], 0);
        assert!(store.read(&key).is_some(), "{what}: acknowledged out of thin air");
    }
}

/// A file system that keeps no time of change, or a clock that stood still: the content itself is looked at.
#[test]
fn a_receipt_whose_file_looks_the_same_is_held_against_its_content() {
    let store = TestStore::directory();
    let pg_wal = PgWal::new(&store);
    let names = pg_wal.ready(1..=2);
    pg_wal.archive(&names[0], 0);
    let key = store.wal_keys().into_iter().find(|key| key.contains(&names[1])).unwrap();
    for field in ["checksum", "length"] {
        store.remove(&key);
        pg_wal.edit_receipt(&names[1], |receipt| receipt[field] = (receipt[field].as_u64().unwrap() ^ 1).into());
        pg_wal.archive(&names[1], 0);
        assert!(store.read(&key).is_some(), "{field}");
        pg_wal.ready(1..=2);
        pg_wal.archive(&names[0], 0);
    }
}

#[test]
fn a_receipt_is_of_one_store_one_server_and_one_pg_wal() {
    let (store, other) = (TestStore::directory(), TestStore::directory());
    let pg_wal = PgWal::new(&store);
    let names = pg_wal.ready(1..=2);
    pg_wal.archive(&names[0], 0);
    assert!(pg_wal.has_receipt(&names[1]));
    let file = pg_wal.directory.join(&names[1]);
    let cache = store.dir.join("cache").display().to_string();
    // Another bucket, remembered by the same host.
    let elsewhere = other.run(&["wal-archive", "--jobs", "4"]).env("BARBACK_CACHE_DIR", &cache);
    elsewhere.arg(&file).success();
    assert_eq!(other.wal_keys().len(), 1);
    // Another server's name.
    store.run(&["wal-archive", "--jobs", "4", "--server", "other"]).arg(&file).success();
    assert_eq!(store.keys().iter().filter(|key| key.starts_with("other/wals/")).count(), 1);
    // A clone of the volume, elsewhere on this host: it holds the same, so that the archive has it.
    let clone = PgWal { directory: store.dir.create_dir("clone").join("pg_wal"), store: &store };
    clone.create();
    fs::copy(&file, clone.directory.join(&names[1])).unwrap();
    give_away(&clone.directory.join(&names[1]));
    let key = store.wal_keys().into_iter().find(|key| key.starts_with("main/") && key.contains(&names[1])).unwrap();
    store.remove(&key);
    clone.archive(&names[1], 0);
    assert!(store.read(&key).is_some(), "the clone believed the receipt of the original");
}

/// A volume that was rolled back goes on and writes other WAL under the same names.
#[test]
fn a_volume_that_was_rolled_back_is_not_acknowledged_by_its_receipts() {
    let store = TestStore::directory();
    let pg_wal = PgWal::new(&store);
    let names = pg_wal.ready(1..=3);
    pg_wal.archive(&names[0], 0);
    for name in &names[1..] {
        pg_wal.put(name, &segment(name, 1, Filling::Compressible, 2));
        let said = pg_wal.archive(name, 4).stderr;
        assert!(said.contains("other content"), "{said}");
    }
}

#[test]
fn a_stranger_s_segment_does_not_ride_along() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = PgWal::new(&store);
    let names = pg_wal.ready(1..=3);
    pg_wal.put(&names[1], &segment_of(7_000_000_000_000_000_001, &names[1], 1, Filling::Compressible, 1));
    pg_wal.archive(&names[0], 0);
    assert_eq!(store.wal_keys().len(), 2, "{:?}", store.wal_keys());
    pg_wal.archive(&names[1], 4);
}

#[test]
fn a_store_that_stalls_on_a_neighbour_does_not_stall_the_archiver() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = PgWal::new(&store);
    let names = pg_wal.ready(1..=3);
    let stalled = names[2].clone();
    let for_long = Duration::from_mins(10);
    store.server().fault_when(move |seen| seen.target.contains(&stalled).then_some(Fault::Delay(for_long)));
    let said = pg_wal.run(&names[0]).timeout(Duration::from_secs(45)).run().expect_code(0).stderr;
    assert!(said.contains("gave up on WAL beside"), "{said}");
    assert!(pg_wal.has_receipt(&names[1]) && !pg_wal.has_receipt(&names[2]));
}

#[test]
fn killed_at_any_moment_nothing_has_a_receipt_that_is_not_in_the_store() {
    let mut random = Random(7);
    for _ in 0..12 {
        let store = TestStore::s3(S3Server::start());
        let pg_wal = PgWal::new(&store);
        let names = pg_wal.ready(1..=12);
        let running = pg_wal.run(&names[0]).start();
        std::thread::sleep(Duration::from_millis(random.below(250)));
        running.signal(Signal::KILL);
        running.wait();
        let stored = store.wal_keys();
        for name in &names[1..] {
            let is_stored = stored.iter().any(|key| key.contains(name));
            assert!(is_stored || !pg_wal.has_receipt(name), "{name} has a receipt and is not there");
        }
        pg_wal.archive_each(&names);
        assert_eq!(store.wal_keys().len(), names.len());
    }
}

#[test]
fn postgresql_s_archiver_gets_through_its_queue_and_everything_can_be_recovered() {
    for_each_version(|version| {
        let site = Site::on_files(version);
        let cluster = site.primary(ClusterOptions::default().wal_segment_mb(1));
        let command = cluster.psql("SHOW archive_command");
        cluster.psql("ALTER SYSTEM SET archive_command = 'false'");
        cluster.psql("SELECT pg_reload_conf()");
        cluster.pgbench(&["-i", "-s", "2", "-q"]);
        // Segments have piled up; from here on they are archived while more come.
        let command = command.replace("wal-archive", "-vv wal-archive --jobs 4");
        cluster.psql(&format!("ALTER SYSTEM SET archive_command = '{command}'"));
        cluster.psql("SELECT pg_reload_conf()");
        cluster.pgbench(&["-c", "2", "-T", "3", "-n"]);
        cluster.archive_everything();
        site.barback(&["backup", "--fast", "-d"]).arg(cluster.connect_string()).success();
        cluster.pgbench(&["-c", "2", "-T", "2", "-n"]);
        cluster.archive_everything();
        let verified = site.barback(&["verify", "--all", "--deep"]).success().stdout;
        assert!(verified.contains("Passed"), "{verified}");
        assert!(!cluster.log().contains("could not archive"), "{}", cluster.log());
        assert!(cluster.log().contains("was archived by an earlier call"), "nothing rode along: {}", cluster.log());
    });
}

/// A directory that looks like PostgreSQL's.
struct PgWal<'a> {
    directory: PathBuf,
    store: &'a TestStore,
}

impl<'a> PgWal<'a> {
    fn new(store: &'a TestStore) -> Self {
        let made = Self { directory: store.dir.create_dir("pgdata").join("pg_wal"), store };
        made.create();
        made
    }

    fn create(&self) {
        fs::create_dir_all(self.directory.join("archive_status")).unwrap();
        give_away(&self.directory);
        give_away(&self.directory.join("archive_status"));
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.directory.join(name), content).unwrap();
        give_away(&self.directory.join(name));
    }

    /// Segments that PostgreSQL wants archived; their names.
    fn ready(&self, numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
        let names: Vec<String> = numbers.map(name).collect();
        for name in &names {
            self.put(name, &content(name));
            self.put(&format!("archive_status/{name}.ready"), b"");
        }
        names
    }

    fn run(&self, name: &str) -> Run {
        self.store.run(&["-v", "wal-archive", "--jobs", "4"]).arg(self.directory.join(name))
    }

    /// As the archiver calls; what barback said.
    fn archive(&self, name: &str, code: i32) -> Finished {
        let finished = self.run(name).run().expect_code(code);
        if code == 0 {
            let _ = fs::remove_file(self.directory.join(format!("archive_status/{name}.ready")));
        }
        finished
    }

    fn archive_each(&self, names: &[String]) {
        for name in names {
            self.archive(name, 0);
        }
    }

    /// Where the receipts are, if there are any.
    fn receipts(&self) -> Option<PathBuf> {
        let cache = self.store.dir.join("cache");
        fs::read_dir(cache).ok()?.map(|entry| entry.unwrap().path()).find(|path| is_receipts(path))
    }

    fn has_receipt(&self, name: &str) -> bool {
        self.receipts().is_some_and(|receipts| receipts.join(name).exists())
    }

    fn edit_receipt(&self, name: &str, edit: impl FnOnce(&mut serde_json::Value)) {
        let path = self.receipts().unwrap().join(name);
        let mut receipt = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut receipt);
        fs::write(&path, serde_json::to_vec(&receipt).unwrap()).unwrap();
    }
}

fn is_receipts(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("receipts-")
}

fn name(number: u32) -> String {
    format!("0000000100000000{number:08X}")
}

fn content(name: &str) -> Vec<u8> {
    segment(name, 1, Filling::Compressible, 1)
}
