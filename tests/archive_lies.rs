//! Ways in which an archive could say "archived" and lie, or take one cluster's WAL for another's: each is caught.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{
    Cluster, ClusterOptions, Fault, Filling, Finished, Postgres, Run, S3Server, SYSTEM_IDENTIFIER, Site, TestStore,
    barback_binary, files_below, for_each_store, segment, segment_of,
};

const FIVE: &str = "000000010000000000000005";
const SIX: &str = "000000010000000000000006";
const IDENTITY: &str = "main/barback/identity.json";

/// A cluster that is not the one [`segment`] comes from.
const STRANGER: u64 = 7_000_000_000_000_000_001;

#[test]
fn a_new_cluster_under_an_old_name_is_refused_and_shown_both_identifiers() {
    for_each_store(|store| {
        archive(store, FIVE, &ours(FIVE), 0);
        let identity = store.read(IDENTITY).unwrap();
        let text = String::from_utf8(identity.content.clone()).unwrap();
        assert!(text.starts_with(&format!("{{\"schema\":1,\"system_identifier\":\"{SYSTEM_IDENTIFIER}\"")), "{text}");

        // The same name as before, and one that was never there: nothing of it gets in.
        for name in [FIVE, SIX] {
            let said = archive(store, name, &strangers(name), 4).stderr;
            for wanted in [STRANGER.to_string(), SYSTEM_IDENTIFIER.to_string()] {
                assert!(said.contains(&wanted), "{wanted} is missing: {said}");
            }
            let hint = said.split("HINT: ").nth(1).unwrap_or_else(|| panic!("no way on is shown: {said}"));
            assert!(hint.contains("another server name") && hint.contains("main/\""), "{hint}");
        }
        assert_eq!(store.wal_keys().len(), 1, "{:?}", store.keys());
        assert_eq!(store.read(IDENTITY).unwrap(), identity);
        // Both ways on are ways on.
        let file = local_file(store, FIVE, &strangers(FIVE));
        store.run(&["wal-archive", "--server", "other"]).arg(&file).success();
        for key in store.keys().iter().filter(|key| key.starts_with("main/")) {
            store.remove(key);
        }
        let again = store.run(&["wal-archive"]).arg(&file).run();
        if store.is_s3() {
            let said = again.expect_code(0).stderr;
            assert!(said.contains(&format!("belonged to cluster {SYSTEM_IDENTIFIER}")), "{said}");
        } else {
            // A directory looks the same where the archive is only not mounted: the host has to be told.
            let said = again.expect_code(2).stderr;
            let path = said.split('"').find(|word| word.contains("cache/identity-")).unwrap();
            std::fs::remove_file(path).unwrap();
            store.run(&["wal-archive"]).arg(&file).success();
        }
    });
}

#[test]
fn an_archive_that_barman_filled_belongs_to_the_cluster_of_its_newest_backup_and_wal() {
    for_each_store(|store| {
        let info = |identifier: u64| format!("systemid={identifier}\nstatus=DONE\n");
        let put = |key: &str, content: &[u8]| store.write(&format!("main/{key}"), content);
        // An older cluster of that name was left behind for good: what is newest counts.
        put("base/20200101T000000/backup.info", info(STRANGER).as_bytes());
        put("base/20260101T000000/backup.info", info(SYSTEM_IDENTIFIER).as_bytes());
        put("base/20270101T000000/backup.info", b"damaged \xFF");
        put("wals/0000000100000000/000000010000000000000003", b"");
        archive(store, FIVE, &strangers(FIVE), 4);
        assert!(store.read(IDENTITY).is_none());
        archive(store, FIVE, &ours(FIVE), 0);
        assert!(store.read(IDENTITY).is_some());

        // Without a backup the newest segment tells, whatever it is compressed with; a history before it tells nothing.
        let server = |name: &str| ["--server".to_owned(), name.to_owned()];
        for codec in ["none", "gzip", "bzip2", "xz", "zstd", "lz4", "snappy"] {
            let noise = segment_of(STRANGER, FIVE, 1, Filling::Noise, 1);
            let file = local_file(store, FIVE, &noise);
            store.run(&["wal-archive", "--compression", codec]).arg(&file).args(server(codec)).success();
            // As it looks when Barman wrote it.
            for key in store.keys().into_iter().filter(|key| key.starts_with(&format!("{codec}/"))) {
                let content = store.read(&key).unwrap().content;
                store.remove(&key);
                if !key.contains("identity") {
                    store.write(&key, &content);
                }
            }
            if !store.is_s3() {
                std::fs::remove_dir_all(store.dir.join("cache")).unwrap();
            }
            let said = archive_to(store, codec, SIX, &ours(SIX), 4).stderr;
            assert!(said.contains(FIVE) && said.contains(&STRANGER.to_string()), "{codec}: {said}");
            archive_to(store, codec, SIX, &strangers(SIX), 0);
        }
    });
}

#[test]
fn of_several_timelines_the_one_written_last_tells_whose_an_archive_is() {
    let store = TestStore::s3(S3Server::start());
    // An upgraded cluster begins again on timeline 1, above the segments of its predecessor.
    let old = "000000050000000000000002";
    store.write(&format!("main/wals/0000000500000000/{old}"), &strangers(old));
    std::thread::sleep(Duration::from_millis(1100));
    store.write(&format!("main/wals/0000000100000000/{FIVE}"), &ours(FIVE));
    archive(&store, SIX, &strangers(SIX), 4);
    archive(&store, SIX, &ours(SIX), 0);
}

#[test]
fn emptiness_is_no_identity_and_a_filled_archive_takes_its_cluster_back() {
    let store = TestStore::s3(S3Server::start());
    archive(&store, FIVE, &ours(FIVE), 0);
    // A host that remembers nothing, as after a failover: what counts is in the store.
    std::fs::remove_dir_all(store.dir.join("cache")).unwrap();
    archive(&store, SIX, &ours(SIX), 0);
    // A host that remembers another cluster, as after a restore onto it, is not led astray either.
    for note in std::fs::read_dir(store.dir.join("cache")).unwrap() {
        let path = note.unwrap().path();
        if path.to_string_lossy().contains("identity-") {
            std::fs::write(&path, format!("{STRANGER}\n")).unwrap();
        }
    }
    archive(&store, "000000010000000000000007", &strangers("000000010000000000000007"), 4);
    archive(&store, "000000010000000000000007", &ours("000000010000000000000007"), 0);
}

#[test]
fn two_new_clusters_that_begin_at_once_do_not_share_an_archive() {
    // The in-process S3 server looks and writes in two steps.
    let honest = (0..5).flat_map(|_| [Some(TestStore::directory()), TestStore::minio()]).flatten();
    for store in honest {
        let files =
            [(FIVE, ours(FIVE)), (SIX, strangers(SIX))].map(|(name, content)| local_file(&store, name, &content));
        let runs = files.map(|file| store.run(&["wal-archive"]).arg(file).start());
        let ended = runs.map(crate::harness::Running::wait);
        let codes = [ended[0].code(), ended[1].code()];
        assert!(codes == [0, 4] || codes == [4, 0], "{codes:?}: {}{}", ended[0].stderr, ended[1].stderr);
        assert_eq!(store.wal_keys().len(), 1, "{}", store.url());
    }
}

#[test]
fn an_identity_that_cannot_be_read_lets_nothing_in() {
    let store = TestStore::s3(S3Server::start());
    archive(&store, FIVE, &ours(FIVE), 0);
    let identity = store.read(IDENTITY).unwrap().content;
    for (content, wanted) in [(&b"{"[..], "identity"), (b"{\"schema\":2}", "newer version"), (b"", "identity")] {
        store.write(IDENTITY, content);
        let said = archive(&store, SIX, &ours(SIX), 4).stderr;
        assert!(said.contains(wanted), "{said}");
    }
    store.write(IDENTITY, &identity);
    store.server().fault_when(|seen| seen.target.contains("identity").then_some(Fault::Status(403)));
    let said = archive(&store, SIX, &ours(SIX), 2).stderr;
    assert!(said.contains("HINT: Whoever archives must be allowed to read"), "{said}");
    store.server().fault_when(|seen| seen.target.contains("identity").then_some(Fault::Status(503)));
    store.run(&["wal-archive", "--retry-timeout", "1"]).arg(store.dir.join("pg_wal").join(SIX)).run().expect_code(2);
    store.server().heal();
    assert_eq!(store.wal_keys().len(), 1);
}

#[test]
fn the_question_whose_archive_it_is_takes_no_connection_of_its_own() {
    let store = TestStore::s3(S3Server::start());
    archive(&store, FIVE, &ours(FIVE), 0);
    store.server().forget_requests();
    archive(&store, SIX, &ours(SIX), 0);
    assert_eq!((store.server().requests().len(), store.server().connections()), (2, 1));
}

#[test]
fn a_truncated_segment_is_refused_before_it_is_sent() {
    let store = TestStore::s3(S3Server::start());
    let whole = ours(FIVE);
    for length in [0, 39, 8192, whole.len() / 2, whole.len() - 1] {
        archive(&store, FIVE, &whole[..length], 4);
    }
    assert_eq!(store.server().requests(), []);
    archive(&store, FIVE, &whole, 0);
    // One that was cut in the store is noticed by whoever wants it, and by whoever archives it again.
    let key = store.wal_keys().remove(0);
    let object = store.read(&key).unwrap();
    std::fs::write(store.server().object(&format!("pfx/{key}")), &object.content[..object.content.len() / 2]).unwrap();
    store.run(&["wal-restore", FIVE]).arg(store.dir.join("pg_wal/RECOVERYXLOG")).run().expect_code(255);
}

#[test]
fn a_full_or_unwritable_store_never_says_archived() {
    let store = TestStore::s3(S3Server::start());
    archive(&store, FIVE, &ours(FIVE), 0);
    let file = local_file(&store, SIX, &ours(SIX));
    let attempt = |code: i32| store.run(&["wal-archive", "--retry-timeout", "1"]).arg(&file).run().expect_code(code);
    for status in [507, 500, 403] {
        store.server().fault_when(move |seen| (seen.method == "PUT").then_some(Fault::Status(status)));
        let said = attempt(2).stderr;
        assert!(said.contains("could not archive WAL file"), "{status}: {said}");
    }
    store.server().heal();
    assert_eq!(store.wal_keys().len(), 1);
    attempt(0);

    let store = TestStore::directory();
    archive(&store, FIVE, &ours(FIVE), 0);
    let taken = store.dir.join("archive/main/wals/0000000100000000");
    std::fs::rename(&taken, store.dir.join("aside")).unwrap();
    std::fs::write(&taken, "no directory").unwrap();
    let said = archive(&store, SIX, &ours(SIX), 2).stderr + &archive(&store, FIVE, &ours(FIVE), 2).stderr;
    assert_eq!(said.matches("could not archive WAL file").count(), 2, "{said}");
}

#[test]
fn a_disk_that_takes_half_a_segment_never_says_archived() {
    let store = TestStore::directory();
    archive(&store, FIVE, &ours(FIVE), 0);
    let file = local_file(&store, SIX, &segment(SIX, 1, Filling::Noise, 9));
    // Blocks of 512 bytes or 1 KiB: no file of half a megabyte fits.
    let limited = "trap '' XFSZ; ulimit -f 400; exec \"$0\" \"$@\"";
    let archive = ["wal-archive", "--compression", "none"];
    let run = Run::new("/bin/sh").args(["-c", limited]).arg(barback_binary()).args(archive).arg(&file);
    let said = run.envs(&store.env()).run().expect_code(2).stderr;
    assert!(said.contains("could not archive WAL file"), "{said}");
    assert_eq!(store.wal_keys().len(), 1, "{:?}", store.wal_keys());
    store.run(&archive).arg(&file).success();
}

#[test]
fn archived_is_said_only_after_the_store_s_own_answer() {
    let store = TestStore::s3(S3Server::start());
    archive(&store, FIVE, &ours(FIVE), 0);
    let file = local_file(&store, SIX, &ours(SIX));
    // The object is stored and the answer never comes: nobody may say "archived" on the strength of having sent it.
    store.server().fault_when(|seen| (seen.method == "PUT").then_some(Fault::Delay(Duration::from_mins(1))));
    store.server().forget_requests();
    let mut running = store.run(&["wal-archive"]).arg(&file).start();
    while store.server().count("PUT") == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.is_running(), "it ended before the store answered");
    running.signal(Signal::TERM);
    assert_ne!(running.wait().code(), 0);
    // Nothing was kept for later anywhere but in the store: the next call sends the file itself.
    store.server().heal();
    store.server().forget_requests();
    store.run(&["wal-archive"]).arg(&file).success();
    assert_eq!(store.server().count("PUT"), 1);
}

#[test]
fn an_archive_that_is_not_mounted_says_so_and_takes_nothing() {
    let store = TestStore::directory();
    archive(&store, FIVE, &ours(FIVE), 0);
    let root = store.dir.join("archive");
    let mounted = store.dir.join("mounted elsewhere");
    std::fs::rename(&root, &mounted).unwrap();
    store.dir.create_dir("archive");
    for (name, content) in [(SIX, ours(SIX)), (FIVE, ours(FIVE)), ("00000002.history", b"1\t0/5000000\twhy\n".to_vec())]
    {
        let said = archive(&store, name, &content, 2).stderr;
        assert!(said.contains("is it mounted?") && said.contains("HINT: Mount it"), "{said}");
    }
    assert_eq!(store.keys(), [""; 0]);
    std::fs::remove_dir(&root).unwrap();
    // It is created when it is missing, and that does not help.
    archive(&store, SIX, &ours(SIX), 2);
    std::fs::remove_dir(&root).unwrap();
    std::fs::rename(&mounted, &root).unwrap();
    archive(&store, SIX, &ours(SIX), 0);
}

#[test]
fn a_history_names_no_cluster_and_founds_no_archive() {
    for_each_store(|store| {
        let history = b"1\t0/5000000\tno recovery target specified\n";
        archive(store, "00000002.history", history, 0);
        assert!(store.read(IDENTITY).is_none());
        archive(store, FIVE, &strangers(FIVE), 0);
        archive(store, "00000003.history", b"2\t0/6000000\twhy\n", 0);
        archive(store, SIX, &ours(SIX), 4);
        archive(store, &format!("{SIX}.partial"), &ours(SIX), 4);
    });
}

#[test]
fn a_cluster_that_was_set_back_and_two_clusters_are_told_apart() {
    for_each_store(|store| {
        archive(store, FIVE, &ours(FIVE), 0);
        let before = store.read(&store.wal_keys()[0]).unwrap();
        let said = archive(store, FIVE, &segment(FIVE, 1, Filling::Compressible, 2), 4).stderr;
        assert!(said.contains("it was not replaced"), "{said}");
        assert!(
            said.contains(&format!("Both are of cluster {SYSTEM_IDENTIFIER}")) && said.contains("set back"),
            "{said}"
        );
        assert_eq!(store.read(&store.wal_keys()[0]).unwrap(), before);
        // WAL of two clusters in one place, as Barman leaves it.
        let key = format!("main/wals/0000000100000000/{SIX}");
        store.write(&key, &strangers(SIX));
        let said = store
            .run(&["wal-archive", "--compression", "none"])
            .arg(local_file(store, SIX, &ours(SIX)))
            .run()
            .expect_code(4)
            .stderr;
        assert!(said.contains(&format!("is of cluster {STRANGER}")) && said.contains("two clusters share"), "{said}");
        assert_eq!(store.read(&key).unwrap().content, strangers(SIX));
    });
}

#[test]
fn a_backup_of_another_cluster_is_refused_before_the_server_is_asked_to_begin() {
    let Some(version) = Postgres::newest() else { return };
    let store = TestStore::s3(S3Server::start());
    archive(&store, FIVE, &ours(FIVE), 0);
    let keys = store.keys();
    let options = ClusterOptions::default().set("log_statement", "all");
    let mut cluster = Cluster::init(&store.dir, &version, options);
    cluster.start();
    let backup =
        |server: &str| store.run(&["backup", "--fast", "--server", server, "-d", &cluster.connect_string()]).run();
    let said = backup("main").expect_code(4).stderr;
    assert!(said.contains(&SYSTEM_IDENTIFIER.to_string()), "{said}");
    assert!(said.contains(&cluster.psql("SELECT system_identifier FROM pg_control_system()")), "{said}");
    assert!(!cluster.log().contains("pg_backup_start"), "the server was asked to begin");
    assert_eq!(store.keys(), keys);
    // A backup may be the first that comes, and then the archive is its cluster's.
    backup("other").expect_code(0);
    archive_to(&store, "other", FIVE, &ours(FIVE), 4);
}

#[test]
fn a_cluster_that_was_initialised_anew_archives_nothing_and_its_server_says_why() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut old = site.primary(small_segments());
    old.archive_everything();
    old.stop("fast");
    let before = stored(&site);
    let new = site.primary(small_segments().name("again"));
    new.psql("SELECT pg_create_restore_point('x'); SELECT pg_switch_wal()");
    wait_for_failure(&new);
    let log = new.log();
    let identifier = new.psql("SELECT system_identifier FROM pg_control_system()");
    assert!(log.contains(&format!("this is the cluster with system identifier {identifier}")), "{log}");
    assert!(log.contains("HINT: Archive this cluster under another server name"), "{log}");
    assert!(stored(&site) == before, "the old cluster's archive was touched");
}

#[test]
fn a_volume_that_was_rolled_back_overwrites_nothing_and_is_told_so() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut cluster = site.primary(small_segments());
    cluster.archive_everything();
    cluster.stop("fast");
    let snapshot = site.dir.join("snapshot");
    Run::new("/bin/cp").arg("-a").arg(cluster.data()).arg(&snapshot).success();
    cluster.start();
    cluster.psql("CREATE TABLE t AS SELECT 1 AS the_first_life");
    cluster.archive_everything();
    cluster.archive_everything();
    cluster.stop("fast");
    let before = stored(&site);

    let mut back = Cluster::open(&site.dir, &snapshot, &version);
    back.start();
    back.psql("CREATE TABLE t AS SELECT 2 AS the_second_life; SELECT pg_switch_wal()");
    wait_for_failure(&back);
    let log = back.log();
    assert!(log.contains("Both are of cluster") && log.contains("set back to an earlier state"), "{log}");
    back.stop("immediate");
    assert!(stored(&site) == before, "the first life's WAL was touched");
}

#[test]
fn a_clone_that_kept_the_archive_command_cannot_write_into_the_original_archive_under_other_bytes() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let cluster = site.primary(small_segments());
    let mut clone = Cluster::standby_of(&cluster, &site.dir, "clone");
    std::fs::remove_file(clone.data().join("standby.signal")).unwrap();
    cluster.psql("CREATE TABLE t AS SELECT 1 AS original");
    for _ in 0..3 {
        cluster.archive_everything();
    }
    let before = stored(&site);
    clone.start();
    clone.psql("CREATE TABLE t AS SELECT 2 AS clone; SELECT pg_switch_wal()");
    wait_for_failure(&clone);
    assert!(clone.log().contains("is a clone"), "{}", clone.log());
    clone.stop("immediate");
    assert!(stored(&site) == before, "the original's WAL was touched");
    // The original goes on.
    cluster.archive_everything();
}

#[test]
fn a_store_that_was_away_costs_no_segment() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let cluster = site.primary(small_segments());
    let first = cluster.archive_everything();
    let (store, away) = (site.dir.join("store"), site.dir.join("away"));
    std::fs::rename(&store, &away).unwrap();
    // As a mount point looks without its mount.
    site.dir.create_dir("store");
    for _ in 0..4 {
        cluster.psql("SELECT pg_create_restore_point('x'); SELECT pg_switch_wal()");
    }
    wait_for_failure(&cluster);
    assert!(cluster.log().contains("is it mounted?"), "{}", cluster.log());
    assert!(stored(&site).is_empty(), "something was put below the mount point");
    std::fs::remove_dir(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    let last = cluster.archive_everything();
    let number = |name: &str| u64::from_str_radix(&name[16..], 16).unwrap();
    let segments: Vec<u64> = stored(&site)
        .into_keys()
        .filter_map(|path| Some(number(path.file_name()?.to_str()?.strip_suffix(".zst").filter(|n| n.len() == 24)?)))
        .collect();
    assert_eq!(segments, (segments[0]..=number(&last)).collect::<Vec<_>>());
    assert!(number(&last) >= number(&first) + 4);
}

fn small_segments() -> ClusterOptions {
    ClusterOptions::default().wal_segment_mb(1)
}

fn wait_for_failure(cluster: &Cluster) {
    cluster.wait_until("SELECT failed_count > 0 FROM pg_stat_archiver", "t", Duration::from_mins(1));
}

/// The objects of a file store, and their contents.
fn stored(site: &Site) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(&site.dir.join("store")).into_iter();
    files.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Archives `content` under `name`; what barback said.
fn archive(store: &TestStore, name: &str, content: &[u8], code: i32) -> Finished {
    archive_to(store, "main", name, content, code)
}

fn archive_to(store: &TestStore, server: &str, name: &str, content: &[u8], code: i32) -> Finished {
    let file = local_file(store, name, content);
    store.run(&["wal-archive", "--server", server]).arg(file).run().expect_code(code)
}

fn local_file(store: &TestStore, name: &str, content: &[u8]) -> PathBuf {
    store.dir.create_dir("pg_wal");
    store.dir.write(&format!("pg_wal/{name}"), content)
}

fn ours(name: &str) -> Vec<u8> {
    segment(name, 1, Filling::Compressible, 1)
}

fn strangers(name: &str) -> Vec<u8> {
    segment_of(STRANGER, name, 1, Filling::Compressible, 1)
}
