//! A disk that is full, broken, read-only or out of files: a clear error, the right code, and nothing half done that looks done.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::scene::{Scene, Source, backup_words, content, expect_one_of, name};
use super::{number, play_all};
use crate::harness::{DiskError, DiskFaults, Random, Run, S3Server, TestStore};

/// So many failed calls in a row end the troubles.
const PATIENCE: usize = 8;

#[test]
fn a_disk_that_fails_is_told_of_and_nothing_is_called_done_that_is_not() {
    let (source, failed) = (Source::new(), AtomicU64::new(0));
    play_all("disk scenarios", number("BARBACK_TORTURE_DISKS", 10), |seed, tally| {
        let mut random = Random(seed ^ 0xD15C);
        let Some(source) = &source else { return };
        // Five seeds in a row have one of each.
        let (kind, store, play): (_, _, fn(&mut Scene, &Source, &DiskFaults)) = match seed % 5 {
            0 => ("wal-archive to a directory", TestStore::directory(), archive),
            1 => ("wal-restore", TestStore::s3(S3Server::start()), fetch_wal),
            2 => ("restore", source.copy(), restore),
            3 => ("backup to a directory", TestStore::directory(), back_up),
            _ => ("expire in a directory", TestStore::directory(), expire),
        };
        let error = *random.pick(&[DiskError::Full, DiskError::Broken, DiskError::ReadOnly, DiskError::NoMoreFiles]);
        let calls = match error {
            DiskError::NoMoreFiles => "open",
            DiskError::ReadOnly => "open,rename,mkdir,link,write",
            DiskError::Full => *random.pick(&["write", "write,rename,mkdir,link,fsync", "fsync,syncfs"]),
            DiskError::Broken => {
                *random.pick(&["read", "write", "fsync,syncfs", "read,write,fsync,syncfs,rename,link"])
            }
        };
        let faults = DiskFaults { percent: 2 + random.below(60), seed, error, calls };
        let mut scene = Scene::new(seed, store);
        play(&mut scene, source, &faults);
        tally.add(format!("{kind}: scenarios"), 1);
        tally.add(format!("{kind}: calls that failed with {error:?}"), scene.disk_faults());
        failed.fetch_add(scene.disk_faults(), Ordering::Relaxed);
    });
    assert!(source.is_none() || failed.into_inner() > 0, "no disk failed: does the library reach the calls?");
}

/// Runs it until it succeeds, at last without faults; `look` sees each code.
fn until_done(
    scene: &Scene,
    faults: &DiskFaults,
    below: &Path,
    run: impl Fn(&Scene) -> Run,
    mut look: impl FnMut(i32),
) {
    for tries in 0..=PATIENCE as u64 {
        let run = run(scene);
        let is_last = tries == PATIENCE as u64;
        let faults = DiskFaults { seed: faults.seed ^ (tries << 32), ..faults.clone() };
        let finished = if is_last { run.run() } else { faults.below(below, &scene.disk_faults_file(), run).run() };
        let code = expect_one_of(&finished, if is_last { &[0] } else { &[0, 1, 2, 4, 255] });
        look(code);
        if code == 0 {
            return;
        }
    }
}

fn archive(scene: &mut Scene, _: &Source, faults: &DiskFaults) {
    let seed = scene.random.next();
    let file = scene.pg_wal().join(name(1));
    scene.ready(&name(1), &content(&name(1), seed));
    let store = scene.store.dir.join("archive");
    let run = |scene: &Scene| scene.direct(&["wal-archive"]).arg(&file);
    until_done(scene, faults, &store, run, |code| {
        let stored = scene.stored(&name(1));
        assert!(code != 0 || stored.is_some(), "an object was acknowledged and is not there");
        assert!(stored.is_none_or(|stored| stored == content(&name(1), seed)), "half an object has its final name");
    });
}

fn fetch_wal(scene: &mut Scene, _: &Source, faults: &DiskFaults) {
    let seed = scene.random.next();
    let pg_wal = scene.pg_wal();
    scene.ready(&name(1), &content(&name(1), seed));
    scene.direct(&["wal-archive"]).arg(pg_wal.join(name(1))).success();
    let destination = pg_wal.join("RECOVERYXLOG");
    let run = |scene: &Scene| scene.direct(&["wal-restore", &name(1)]).arg(&destination);
    until_done(scene, faults, &pg_wal, run, |code| {
        // 1 would end recovery.
        assert!([0, 255].contains(&code), "ended with {code}");
        assert!(destination.exists() || code != 0);
        let is_whole = || std::fs::read(&destination).unwrap() == content(&name(1), seed);
        assert!(!destination.exists() || is_whole(), "half a segment is there for PostgreSQL to read");
    });
}

fn restore(scene: &mut Scene, _: &Source, faults: &DiskFaults) {
    let (good, copy) = (scene.dir.join("good"), scene.dir.join("copy"));
    scene.direct(&["restore"]).arg(&good).success();
    let run = |scene: &Scene| {
        let _ = std::fs::remove_dir_all(&copy);
        scene.direct(&["restore"]).arg(&copy)
    };
    until_done(scene, faults, &copy, run, |code| {
        if copy.join("global/pg_control").exists() {
            assert!(
                super::faults::contents(&copy) == super::faults::contents(&good),
                "an unfinished copy can be started"
            );
        }
        assert!(code != 0 || copy.join("global/pg_control").exists());
    });
}

fn back_up(scene: &mut Scene, source: &Source, faults: &DiskFaults) {
    let store = scene.store.dir.join("archive");
    let words = backup_words(&source.cluster);
    until_done(
        scene,
        faults,
        &store,
        |scene| scene.direct(&words),
        |code| {
            super::faults::expect_whole_backups(scene, usize::from(code == 0));
        },
    );
}

fn expire(scene: &mut Scene, _: &Source, faults: &DiskFaults) {
    let ids = crate::expire::archive(&scene.store);
    let store = scene.store.dir.join("archive");
    let words = ["expire", "--policy", "REDUNDANCY 1"];
    until_done(
        scene,
        faults,
        &store,
        |scene| scene.direct(&words),
        |_| {
            let keys = scene.store.keys();
            let needed = (25..=30).all(|number| keys.contains(&crate::expire::wal_key(number)));
            assert!(needed && keys.contains(&format!("main/base/{}/backup.info", ids[2])), "{keys:?}");
        },
    );
    scene.direct(&words).success();
    assert_eq!(crate::expire::segments(&scene.store), (25..=30).collect::<Vec<u64>>());
}

/// A sync that failed once is not tried again on the same file: the kernel has dropped what it could not write.
#[test]
fn what_could_not_be_synced_is_never_called_done() {
    let Some(source) = Source::new() else { return };
    let faults = DiskFaults { percent: 100, seed: 1, error: DiskError::Broken, calls: "fsync" };
    let scene = Scene::new(1, TestStore::directory());
    let file = scene.pg_wal().join(name(1));
    scene.ready(&name(1), &content(&name(1), 1));
    let archive = scene.direct(&["wal-archive"]).arg(&file);
    expect_one_of(&faults.below(&scene.store.dir.join("archive"), &scene.disk_faults_file(), archive).run(), &[2, 4]);
    scene.direct(&["wal-archive"]).arg(&file).success();
    let destination = scene.dir.create_dir("fetched").join("RECOVERYXLOG");
    let fetch = scene.direct(&["wal-restore", &name(1)]).arg(&destination);
    faults.below(&scene.dir.join("fetched"), &scene.disk_faults_file(), fetch).run().expect_code(255);
    assert!(!destination.exists());
    // Each of a restore's: of the files that it writes whole, and of the file system with all the others.
    for calls in ["fsync", "syncfs"] {
        let (scene, faults) = (Scene::new(2, source.copy()), DiskFaults { calls, ..faults.clone() });
        let copy = scene.dir.join("copy");
        let restore = scene.direct(&["restore"]).arg(&copy);
        faults.below(&copy, &scene.disk_faults_file(), restore).run().expect_code(4);
        assert!(!copy.join("global/pg_control").exists() && scene.disk_faults() > 0, "{calls}");
    }
}
