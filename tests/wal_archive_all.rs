//! `wal-archive --all`: whatever an archiver left behind in `pg_wal` gets into the archive, and nothing that is not finished.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{
    Cluster, ClusterOptions, Filling, Finished, PgVersion, Postgres, S3Server, Site, TestStore, for_each_version,
    give_away, segment, segment_of,
};

/// How long a server may take for anything.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn what_is_finished_is_shipped_once_and_the_rest_is_named() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = made_up_pg_wal(&store);
    put(&pg_wal, "000000010000000000000005", &whole("000000010000000000000005"));
    put(&pg_wal, "000000010000000000000006", &whole("000000010000000000000006"));
    // Timeline 2 left timeline 1 inside segment 7.
    put(&pg_wal, "000000010000000000000007", &whole("000000010000000000000007"));
    put(&pg_wal, "archive_status/000000010000000000000007.done", b"");
    put(&pg_wal, "00000002.history", b"1\t0/780000\tno recovery target specified\n");
    let copied = whole("000000010000000000000007");
    put(&pg_wal, "000000020000000000000007", &copied);
    put(&pg_wal, "000000020000000000000008", &whole("000000020000000000000008"));
    // Recycled: called as a later segment, and not written to.
    put(&pg_wal, "000000020000000000000009", &whole("000000010000000000000003"));
    put(&pg_wal, "000000010000000000000004.00000028.backup", b"START WAL LOCATION: 0/400028\n");

    let answer = ship(&store, &pg_wal, &[], 0);
    let archived =
        ["000000010000000000000005", "000000010000000000000006", "00000002.history", "000000020000000000000007"];
    assert_eq!(named(&answer, "archived"), archived);
    let unfinished = [
        "000000010000000000000004.00000028.backup",
        "000000010000000000000007",
        "000000020000000000000008",
        "000000020000000000000009",
    ];
    assert_eq!(named(&answer, "not complete"), unfinished);
    assert_eq!(store.wal_keys().len(), archived.len());
    // A second run sends none of it again: two directories of segments, and the history.
    store.server().forget_requests();
    let again = ship(&store, &pg_wal, &[], 0);
    assert_eq!(named(&again, "there already"), archived);
    assert_eq!(store.server().count("PUT"), 0);
    let listings = store.server().requests().iter().filter(|seen| seen.target.contains("list-type")).count();
    assert_eq!(listings, 3);
    // What PostgreSQL asks for is finished.
    put(&pg_wal, "archive_status/000000020000000000000008.ready", b"");
    put(&pg_wal, "archive_status/000000010000000000000004.00000028.backup.ready", b"");
    let more = ship(&store, &pg_wal, &["--jobs", "1"], 0);
    assert_eq!(named(&more, "archived"), ["000000010000000000000004.00000028.backup", "000000020000000000000008"]);
    assert_eq!(std::fs::read_dir(pg_wal.join("archive_status")).unwrap().count(), 3);

    let text = store.run(&["wal-archive", "--all"]).arg(&pg_wal).success().stdout;
    assert!(text.starts_with("archived"), "{text}");
    let text = store.run(&["-v", "wal-archive", "--all"]).arg(&pg_wal).success().stdout;
    assert!(text.contains("00000002.history there already\n"), "{text}");
}

#[test]
fn what_is_refused_is_named_and_keeps_nothing_else() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = made_up_pg_wal(&store);
    let names = ["000000010000000000000005", "000000010000000000000006", "000000010000000000000007"];
    for name in names {
        put(&pg_wal, name, &whole(name));
        put(&pg_wal, &format!("archive_status/{name}.ready"), b"");
    }
    // One was cut short in pg_wal, and of one the archive holds an empty object, which is none.
    put(&pg_wal, names[0], &whole(names[0])[..8192]);
    store.write(&format!("main/wals/0000000100000000/{}.zst", names[1]), b"");
    // Another server was promoted to the same timeline.
    put(&pg_wal, "00000002.history", b"1\t0/780000\twhy\n");
    store.run(&["wal-archive", "--compression", "gzip"]).arg(pg_wal.join("00000002.history")).success();
    put(&pg_wal, "00000002.history", b"1\t0/790000\twhy\n");

    let finished = run(&store, &pg_wal, &[]).expect_code(4);
    let answer = parse(&finished);
    assert_eq!(named(&answer, "archived"), [names[2]]);
    assert_eq!(named(&answer, "refused"), [names[0], names[1], "00000002.history"]);
    assert!(
        finished.stderr.contains("8192 bytes long") && finished.stderr.contains("and 2 more"),
        "{}",
        finished.stderr
    );
    assert_eq!(store.read(&format!("main/wals/0000000100000000/{}.zst", names[1])).unwrap().content, b"");
    // The same history under another suffix is the same, and no second one is stored.
    put(&pg_wal, "00000002.history", b"1\t0/780000\twhy\n");
    let answer = parse(&run(&store, &pg_wal, &[]).expect_code(4));
    assert!(named(&answer, "there already").contains(&"00000002.history".to_owned()), "{answer}");
    assert_eq!(store.keys().iter().filter(|key| key.contains(".history")).count(), 1);
}

#[test]
fn a_store_that_fails_ends_it_and_another_cluster_s_archive_gets_nothing() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = made_up_pg_wal(&store);
    for number in 5..9 {
        let name = format!("00000001000000000000000{number}");
        put(&pg_wal, &name, &whole(&name));
    }
    let mut left = 1;
    store.server().fault_when(move |seen| {
        let segment = seen.method == "PUT" && seen.target.contains("/wals/");
        left -= i32::from(segment);
        (segment && left < 0).then_some(crate::harness::Fault::Status(403))
    });
    let finished = run(&store, &pg_wal, &["--jobs", "1"]).expect_code(2);
    assert_eq!(named(&parse(&finished), "archived"), ["000000010000000000000005"]);
    store.server().heal();
    assert_eq!(named(&ship(&store, &pg_wal, &[], 0), "archived").len(), 2);

    let stranger = "000000010000000000000009";
    put(&pg_wal, "000000010000000000000008", &segment_of(77, "000000010000000000000008", 1, Filling::Noise, 1));
    put(&pg_wal, stranger, &segment_of(77, stranger, 1, Filling::Noise, 1));
    let keys = store.keys();
    let said = run(&store, &pg_wal, &[]).expect_code(4).stderr;
    assert!(said.contains("system identifier 77"), "{said}");
    assert_eq!(store.keys(), keys);
}

#[test]
fn only_a_pg_wal_is_taken_and_words_that_do_not_go_together_are_refused() {
    let store = TestStore::s3(S3Server::start());
    let pg_wal = made_up_pg_wal(&store);
    let said = run(&store, pg_wal.parent().unwrap(), &[]).expect_code(3).stderr;
    assert!(said.contains("is no pg_wal") && said.contains("HINT"), "{said}");
    run(&store, &pg_wal.join("nowhere"), &[]).expect_code(3);
    run(&store, &pg_wal, &["000000010000000000000005"]).expect_code(3);
    store.run(&["wal-archive"]).run().expect_code(3);
    assert_eq!(store.server().requests(), []);
    // A pg_wal without a segment is one.
    assert_eq!(named(&ship(&store, &pg_wal, &[], 0), "archived"), [""; 0]);
}

#[test]
fn a_segment_that_the_store_lost_is_shipped_again_while_the_server_runs() {
    for_each_version(|version| {
        let site = Site::on_files(version);
        let cluster = site.primary(keeping_wal());
        site.backup(&cluster);
        rows(&cluster, "before");
        let lost = cluster.archive_everything();
        rows(&cluster, "after");
        cluster.archive_everything();
        std::fs::remove_file(site.stored_file(&lost)).unwrap();

        let answer = ship_at(&site, &cluster, 0);
        assert_eq!(named(&answer, "archived"), [lost]);
        let seen = site.restore("copy", &[]).promoted(|copy| copy.psql("SELECT string_agg(word, ' ') FROM t"));
        assert_eq!(seen, "before after");
    });
}

#[test]
fn the_hole_that_a_failover_leaves_is_filled_and_recovery_crosses_the_promotion() {
    for_each_version(|version| {
        let site = Site::on_files(version);
        let mut primary = site.primary(keeping_wal());
        site.backup(&primary);
        let mut standby = Cluster::standby_of(&primary, &site.dir, "standby");
        standby.start();
        break_archiving(&primary);
        let mut streamed = Vec::new();
        for word in ["one", "two", "three"] {
            rows(&primary, word);
            streamed.push(primary.psql("SELECT pg_walfile_name(pg_switch_wal())"));
        }
        rows(&primary, "four");
        let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
        standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t", PATIENCE);
        primary.stop("fast");
        standby.promote();
        rows(&standby, "five");
        standby.archive_everything();

        // The lie: PostgreSQL takes what it streamed for archived, and never asks for it.
        let status = standby.data().join("pg_wal/archive_status");
        for name in &streamed {
            assert!(status.join(format!("{name}.done")).exists(), "{name}");
            assert!(!is_stored(&site, name), "{name}");
        }
        let finished = ship_at(&site, &standby, 0);
        let archived = named(&finished, "archived");
        assert!(streamed.iter().all(|name| archived.contains(name)), "{streamed:?}: {archived:?}");
        // The segment in which the timeline was left is marked as archived too, and is no whole one.
        let unfinished = named(&finished, "not complete");
        let left: Vec<&String> = unfinished.iter().filter(|name| name.starts_with("00000001")).collect();
        let done = |name: &&&String| status.join(format!("{name}.done")).exists();
        assert!(left.iter().all(|name| !is_stored(&site, name)), "{unfinished:?}");
        eprintln!(
            "left behind on timeline 1: {left:?}, marked .done: {:?}",
            left.iter().filter(done).collect::<Vec<_>>()
        );

        let seen = site.restore("copy", &[]).promoted(|copy| copy.psql("SELECT string_agg(word, ' ') FROM t"));
        assert_eq!(seen, "one two three four five");
    });
}

#[test]
fn what_a_broken_archiver_left_at_shutdown_is_shipped_from_the_stopped_cluster() {
    for_each_version(|version| {
        let site = Site::on_files(version);
        let mut cluster = site.primary(keeping_wal());
        site.backup(&cluster);
        break_archiving(&cluster);
        rows(&cluster, "one");
        cluster.psql("SELECT pg_switch_wal()");
        rows(&cluster, "two");
        // PostgreSQL ends the segment at a clean shutdown, and gives the archiver up soon.
        cluster.stop("fast");

        let answer = ship_at(&site, &cluster, 0);
        assert!(named(&answer, "archived").len() >= 2, "{answer}");
        let last = named(&answer, "not complete");
        assert!(last.iter().all(|name| !is_stored(&site, name)) && !last.is_empty(), "{answer}");
        let seen = site.restore("copy", &[]).promoted(|copy| copy.psql("SELECT string_agg(word, ' ') FROM t"));
        assert_eq!(seen, "one two");
        // Again, and after the cluster has come back.
        assert_eq!(named(&ship_at(&site, &cluster, 0), "archived"), [""; 0]);
        cluster.start();
        ship_at(&site, &cluster, 0);
        cluster.psql("ALTER SYSTEM RESET archive_command");
        cluster.psql("SELECT pg_reload_conf()");
        rows(&cluster, "three");
        cluster.archive_everything();
        let seen = site.restore("second", &[]).promoted(|copy| copy.psql("SELECT string_agg(word, ' ') FROM t"));
        assert_eq!(seen, "one two three");
    });
}

#[test]
fn without_an_archiver_only_segments_that_wal_has_gone_beyond_are_shipped() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut cluster = unarchived(&site, &version, &[("wal_keep_size", "1GB")]);
    site.backup(&cluster);
    rows(&cluster, "complete");
    cluster.psql("SELECT pg_switch_wal()");
    rows(&cluster, "open");
    let open = cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    for state in ["running", "stopped"] {
        let answer = ship_at(&site, &cluster, 0);
        assert!(named(&answer, "not complete").contains(&open), "{state}: {answer}");
        assert!(!is_stored(&site, &open), "{state}");
        if state == "running" {
            cluster.stop("fast");
        }
    }
    let seen = site.restore("copy", &[]).promoted(|copy| copy.psql("SELECT string_agg(word, ' ') FROM t"));
    assert_eq!(seen, "complete");
}

#[test]
fn while_a_server_recycles_what_is_read_nothing_torn_is_shipped() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let cluster = unarchived(&site, &version, &[("max_wal_size", "8MB"), ("min_wal_size", "2MB")]);
    cluster.psql("CREATE TABLE filled (n int, filling text)");
    let fill = "INSERT INTO filled SELECT n, repeat('x', 500) FROM generate_series(1, 4000) n; CHECKPOINT";
    let names = || -> Vec<String> {
        let stored = crate::harness::files_below(&site.dir.join("store")).into_iter();
        let names = stored.filter_map(|path| path.file_name()?.to_str()?.get(..24).map(str::to_owned));
        names.filter(|name| name.starts_with("00000001")).collect()
    };
    let begun = Instant::now();
    let done = || begun.elapsed() > PATIENCE || (begun.elapsed() > Duration::from_secs(5) && names().len() > 3);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !done() {
                cluster.psql(fill);
            }
        });
        while !writer.is_finished() {
            // A segment may be recycled while it is read, and is then gone.
            let finished = site.barback(&["wal-archive", "-o", "json", "--all"]).arg(pg_wal_of(&cluster)).run();
            assert!([0, 4].contains(&finished.code()), "{}", finished.stderr);
        }
    });
    let names = names();
    assert!(!names.is_empty());
    for name in &names {
        let to = site.dir.create_dir("restored").join("RECOVERYXLOG");
        site.barback(&["wal-restore", name]).arg(&to).success();
        let content = std::fs::read(&to).unwrap();
        let start = u64::from_str_radix(&name[16..], 16).unwrap() << 20;
        for (page, bytes) in (0_u64..).zip(content.chunks(8192)) {
            let address = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
            assert_eq!(address, start + page * 8192, "page {page} of {name}");
        }
    }
}

/// A running cluster whose WAL nobody archives.
fn unarchived(site: &Site, version: &PgVersion, settings: &[(&str, &str)]) -> Cluster {
    let options = ClusterOptions::default().wal_segment_mb(1).set("autovacuum", "off");
    let options = settings.iter().fold(options, |options, (name, value)| options.set(name, *value));
    let mut cluster = Cluster::init(&site.dir, version, options);
    cluster.start();
    cluster
}

fn keeping_wal() -> ClusterOptions {
    ClusterOptions::default().wal_segment_mb(1).set("wal_keep_size", "1GB")
}

fn break_archiving(cluster: &Cluster) {
    cluster.psql("ALTER SYSTEM SET archive_command = 'false'");
    cluster.psql("SELECT pg_reload_conf()");
    cluster.wait_until("SHOW archive_command", "false", PATIENCE);
    // A call of the archiver may still be on its way with the old one.
    cluster.psql("SELECT pg_switch_wal()");
    cluster.psql("CREATE TABLE IF NOT EXISTS t (word text)");
    cluster.psql("SELECT pg_switch_wal()");
    cluster.wait_until("SELECT failed_count > 0 FROM pg_stat_archiver", "t", PATIENCE);
}

fn rows(cluster: &Cluster, word: &str) {
    cluster.psql("CREATE TABLE IF NOT EXISTS t (word text)");
    cluster.psql(&format!("INSERT INTO t VALUES ('{word}')"));
}

fn is_stored(site: &Site, name: &str) -> bool {
    crate::harness::files_below(&site.dir.join("store"))
        .iter()
        .any(|path| path.file_name().unwrap().to_str().unwrap().trim_end_matches(".zst") == name)
}

fn pg_wal_of(cluster: &Cluster) -> PathBuf {
    cluster.data().join("pg_wal")
}

fn ship_at(site: &Site, cluster: &Cluster, code: i32) -> serde_json::Value {
    let run = site.barback(&["wal-archive", "-o", "json", "--all"]).arg(pg_wal_of(cluster)).run();
    parse(&run.expect_code(code))
}

fn made_up_pg_wal(store: &TestStore) -> PathBuf {
    let pg_wal = store.dir.create_dir("pgdata").join("pg_wal");
    std::fs::create_dir_all(pg_wal.join("archive_status")).unwrap();
    give_away(&pg_wal);
    give_away(&pg_wal.join("archive_status"));
    pg_wal
}

fn put(pg_wal: &Path, name: &str, content: &[u8]) {
    std::fs::write(pg_wal.join(name), content).unwrap();
    give_away(&pg_wal.join(name));
}

fn whole(name: &str) -> Vec<u8> {
    segment(name, 1, Filling::Compressible, 1)
}

fn run(store: &TestStore, pg_wal: &Path, options: &[&str]) -> Finished {
    store.run(&["wal-archive", "-o", "json", "--all"]).arg(pg_wal).args(options).run()
}

fn ship(store: &TestStore, pg_wal: &Path, options: &[&str], code: i32) -> serde_json::Value {
    parse(&run(store, pg_wal, options).expect_code(code))
}

fn parse(finished: &Finished) -> serde_json::Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
}

/// The files that came to `outcome`.
fn named(answer: &serde_json::Value, outcome: &str) -> Vec<String> {
    let files = answer["wal_archive"]["files"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let those = files.iter().filter(|file| file["outcome"] == outcome);
    those.map(|file| file["name"].as_str().unwrap().to_owned()).collect()
}
