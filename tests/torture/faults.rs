//! A store that misbehaves: what was acknowledged is there, what is not known is not said, and nothing half done looks done.

use std::collections::BTreeMap;
use std::path::Path;

use super::scene::{Scene, Source, backup_words, content, expect_one_of, name};
use super::{number, play_all};
use crate::harness::{ENDING, Random, S3Server, TestStore, Trouble, files_below};

/// So many failed calls in a row end the troubles: the scenario is about what they left.
const PATIENCE: usize = 12;

/// What may end a command that only reads.
const WRONG: &[Trouble] = &[Trouble::WrongByteInAnswer, Trouble::Status(403, "AccessDenied")];

#[test]
fn a_store_that_misbehaves_loses_nothing_and_is_never_believed_too_much() {
    let source = Source::new();
    play_all("fault scenarios", number("BARBACK_TORTURE_FAULTS", 16), |seed, tally| {
        let mut random = Random(seed);
        // Six seeds in a row have one of each.
        let (kind, play): (_, fn(&mut Scene, Option<&Source>)) = match seed % 18 {
            0 | 6 | 8 | 12 | 14 | 16 => ("archive", |scene, _| archive(scene)),
            1 | 7 | 13 | 15 => ("fetch WAL", |scene, _| fetch_wal(scene)),
            2 | 9 => ("backup", back_up),
            3 | 10 | 17 => ("restore", |scene, _| restore(scene)),
            4 | 11 => ("expire", |scene, _| expire(scene)),
            _ => ("look", |scene, _| look(scene)),
        };
        let is_of_backups = matches!(kind, "restore" | "look");
        let store = match (is_of_backups, &source) {
            (true, Some(source)) => Some(source.copy()),
            (true, None) => return,
            // They are slow to start, and some of the time is enough.
            (false, _) => match random.below(12) {
                0 => TestStore::minio(),
                1 if kind != "backup" => Some(TestStore::gcs(crate::harness::GcsServer::start())),
                2 if kind != "backup" => TestStore::azurite(),
                _ => None,
            },
        };
        let mut scene = Scene::new(seed, store.unwrap_or_else(|| TestStore::s3(S3Server::start())));
        play(&mut scene, source.as_ref());
        tally.add(format!("scenarios: {kind}"), 1);
        for (trouble, times) in scene.proxy().met() {
            tally.add(format!("met: {trouble:?}"), times);
        }
    });
}

/// PostgreSQL's archiver at work: each segment again and again until it is told that it is archived.
fn archive(scene: &mut Scene) {
    let seed = scene.random.next();
    let pg_wal = scene.pg_wal();
    let names: Vec<String> = (1..=3 + scene.random.below(5)).map(name).collect();
    for name in &names {
        scene.ready(name, &content(name, seed));
    }
    let jobs = scene.random.pick(&["1", "2", "4"]).to_string();
    scene.break_by(70, ENDING);
    for name in &names {
        let call = |scene: &Scene, file: &Path| {
            scene.broken(&["wal-archive", "--retry-timeout", "5", "--jobs", &jobs]).arg(file).run()
        };
        if scene.random.chance(10) {
            // Another cluster's segment of this name, or this one's from before it was set back.
            let other = scene.dir.write(&format!("other-{name}"), content(name, seed ^ 6));
            let imposter = scene.dir.create_dir("imposter").join(name);
            std::fs::rename(other, &imposter).unwrap();
            if scene.stored(name).is_some_and(|stored| stored == content(name, seed)) {
                expect_one_of(&call(scene, &imposter), &[2, 4]);
                assert!(scene.stored(name).unwrap() == content(name, seed), "{name} was replaced");
            }
        }
        for tries in 0.. {
            if tries == PATIENCE {
                scene.proxy().heal();
            }
            let code = expect_one_of(&call(scene, &pg_wal.join(name)), &[0, 2, 4]);
            if code == 0 {
                let stored = scene.stored(name).unwrap_or_else(|| panic!("{name} was acknowledged and is not there"));
                assert!(stored == content(name, seed), "{name} was acknowledged and is another");
                break;
            }
            assert!(tries < PATIENCE, "{name} cannot be archived in a store without troubles");
        }
        // The server may crash before it remembers that it was told.
        if scene.random.chance(80) {
            scene.done(name);
        }
    }
    scene.proxy().heal();
    let fetched = scene.dir.create_dir("fetched").join("RECOVERYXLOG");
    for name in &names {
        scene.direct(&["wal-archive"]).arg(pg_wal.join(name)).success();
        scene.direct(&["wal-restore", name]).arg(&fetched).success();
        assert!(std::fs::read(&fetched).unwrap() == content(name, seed), "{name} came back as another");
    }
    assert_eq!(scene.store.wal_keys().len(), names.len(), "{:?}", scene.store.wal_keys());
}

/// PostgreSQL in recovery: what is there comes whole, only what is not there is said to be absent.
fn fetch_wal(scene: &mut Scene) {
    let seed = scene.random.next();
    let pg_wal = scene.pg_wal();
    let (first, last) = (1, 2 + scene.random.below(6));
    for name in (first..=last).map(name) {
        scene.ready(&name, &content(&name, seed));
        scene.direct(&["wal-archive"]).arg(pg_wal.join(&name)).success();
        std::fs::remove_file(pg_wal.join(&name)).unwrap();
    }
    let jobs = scene.random.pick(&["1", "1", "2", "4"]).to_string();
    scene.break_by(60, WRONG);
    let wanted = (first..=last + 1).map(name).chain(["00000002.history".to_owned()]);
    for name in wanted {
        let is_there = name.len() == 24 && name <= self::name(last);
        let destination = pg_wal.join("RECOVERYXLOG");
        for tries in 0.. {
            if tries == PATIENCE {
                scene.proxy().heal();
            }
            let _ = std::fs::remove_file(&destination);
            let call = scene.broken(&["wal-restore", "--retry-timeout", "5", "--jobs", &jobs, &name]).arg(&destination);
            let call = call.in_dir(scene.dir.join("data")).env("BARBACK_WAL_RESTORE_IDLE", "1s");
            let code = expect_one_of(&call.run(), if is_there { &[0, 255] } else { &[1, 255] });
            assert_eq!(destination.exists(), code == 0, "{name}: ended with {code}");
            if code == 0 {
                assert!(std::fs::read(&destination).unwrap() == content(&name, seed), "{name} came as another");
            }
            if code < 255 {
                break;
            }
            assert!(tries < PATIENCE, "{name} cannot be fetched from a store without troubles");
        }
    }
}

/// A backup that is called complete can be restored; one that is not is not called so.
fn back_up(scene: &mut Scene, source: Option<&Source>) {
    let Some(source) = source else { return };
    scene.break_by(70, ENDING);
    for tries in 0.. {
        if tries == 3 {
            scene.proxy().heal();
        }
        let words = backup_words(&source.cluster);
        let finished = scene.broken(&words).arg("--retry-timeout").arg("10").run();
        let code = expect_one_of(&finished, &[0, 2, 4]);
        expect_whole_backups(scene, usize::from(code == 0));
        if code == 0 {
            break;
        }
        assert!(tries < 3, "no backup can be taken in a store without troubles: {}", finished.stderr);
    }
}

/// Every backup that says DONE can be restored, and there are so many of them at least.
pub(super) fn expect_whole_backups(scene: &Scene, at_least: usize) {
    let listed = scene.direct(&["list", "-o", "json"]).success();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let done = listed["backups"].as_array().unwrap().iter().filter(|backup| backup["status"] == "DONE");
    let ids: Vec<&str> = done.map(|backup| backup["id"].as_str().unwrap()).collect();
    assert!(ids.len() >= at_least, "{listed}");
    for id in ids {
        // Not `verify`: nobody archives the WAL between two of them, which it calls a hole.
        let copy = scene.dir.join("whole");
        scene.direct(&["restore", "--backup", id, "--target-immediate"]).arg(&copy).success();
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

/// A copy that can be started is the whole one.
fn restore(scene: &mut Scene) {
    let good = scene.dir.join("good");
    scene.direct(&["restore"]).arg(&good).success();
    scene.break_by(60, WRONG);
    for tries in 0.. {
        if tries == 4 {
            scene.proxy().heal();
        }
        let copy = scene.dir.join(format!("copy-{tries}"));
        let jobs = (1 + scene.random.below(6)).to_string();
        let finished = scene.broken(&["restore", "--retry-timeout", "10", "--jobs", &jobs]).arg(&copy).run();
        if expect_one_of(&finished, &[0, 1, 2, 4]) == 0 {
            assert!(contents(&copy) == contents(&good), "the copy is not what was backed up");
            return;
        }
        assert!(!copy.join("global/pg_control").exists(), "an unfinished copy can be started: {}", finished.stderr);
        assert!(tries < 4, "nothing can be restored from a store without troubles: {}", finished.stderr);
    }
}

/// What lies in a copy, without the settings that name its directory.
pub(super) fn contents(copy: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = files_below(copy).into_iter().filter(|path| !path.ends_with("postgresql.auto.conf"));
    files.map(|path| (path.strip_prefix(copy).unwrap().display().to_string(), std::fs::read(&path).unwrap())).collect()
}

/// An expiry that was hindered takes nothing too much, and the next one ends where it would have.
fn expire(scene: &mut Scene) {
    let ids = crate::expire::archive(&scene.store);
    let words = ["expire", "--policy", "REDUNDANCY 1", "--retry-timeout", "5"];
    scene.break_by(60, ENDING);
    for _ in 0..4 {
        let code = expect_one_of(&scene.broken(&words).run(), &[0, 1, 2, 4]);
        let keys = scene.store.keys();
        let needed = (25..=30).all(|number| keys.contains(&crate::expire::wal_key(number)));
        assert!(needed && keys.contains(&format!("main/base/{}/backup.info", ids[2])), "{keys:?}");
        if code == 0 {
            break;
        }
    }
    scene.proxy().heal();
    let said = scene.direct(&words).success();
    let left = crate::expire::segments(&scene.store);
    assert_eq!(left, (25..=30).collect::<Vec<u64>>(), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(crate::expire::ids(&scene.store).into_iter().collect::<Vec<_>>(), [ids[2].clone()]);
}

/// Nothing bad is said about an archive that is whole, whatever its store does but give other bytes.
fn look(scene: &mut Scene) {
    scene.break_by(60, ENDING);
    let looks: [&[&str]; 5] = [
        &["verify"],
        &["verify", "--deep"],
        &["drill", "--level", "1"],
        &["drill", "--level", "2"],
        &["list", "-o", "json"],
    ];
    let expected = scene.direct(&["list", "-o", "json"]).success().stdout;
    for _ in 0..3 {
        let look = *scene.random.pick(&looks);
        let finished = scene.broken(look).args(["--retry-timeout", "5"]).run();
        // 5 is "could not find out".
        let code = expect_one_of(&finished, &[0, 2, 5]);
        assert!(look[0] != "list" || code != 0 || finished.stdout == expected, "{}", finished.stdout);
    }
}
