//! `kill -9` at any moment of any command: nothing acknowledged is missing, nothing half done looks done, and the next run works.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::faults::{contents, expect_whole_backups};
use super::scene::{Scene, Source, backup_words, content, expect_one_of, name};
use super::{Tally, number, play_all};
use crate::harness::{FaultPlan, Run, S3Server, TestStore, Trouble};

/// How long each kind of command takes when nobody kills it; learned from the first of its kind.
type Durations = Mutex<BTreeMap<&'static str, Duration>>;

type Play = fn(&mut Killing<'_>);

/// What a killed process started must be gone after so long.
const ORPHANS_PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn killed_at_any_moment_no_command_leaves_a_lie_behind() {
    let source = Source::new();
    let durations = Durations::default();
    play_all("kills", number("BARBACK_TORTURE_KILLS", 16), |seed, tally| {
        let kinds: [(&'static str, Play); 8] = [
            ("wal-archive", archive),
            ("wal-archive to a directory", archive_to_directory),
            ("wal-restore", fetch_wal),
            ("backup", back_up),
            ("restore", restore),
            ("expire", expire),
            ("verify", verify),
            ("drill", drill),
        ];
        // Eight seeds in a row have one of each.
        let at = [0, 1, 2, 3, 4, 5, 6, 7, 0, 2, 3, 4, 0, 2];
        let (kind, play) = kinds[at[usize::try_from(seed).unwrap() % at.len()]];
        let store = match (kind, &source) {
            ("restore" | "verify" | "drill", Some(source)) => source.copy(),
            ("restore" | "verify" | "drill" | "backup", None) => return,
            ("wal-archive to a directory", _) => TestStore::directory(),
            _ => TestStore::s3(S3Server::start()),
        };
        let scene = Scene::new(seed, store);
        let mut killing = Killing { scene, source: source.as_ref(), kind, durations: &durations, tally };
        play(&mut killing);
    });
}

struct Killing<'a> {
    scene: Scene,
    source: Option<&'a Source>,
    kind: &'static str,
    durations: &'a Durations,
    tally: &'a Tally,
}

impl Killing<'_> {
    /// How long this kind of command takes, by `run` where nobody knows yet.
    fn measure(&self, run: impl FnOnce()) -> Duration {
        let known = self.durations.lock().expect("no panic happens under this lock").get(self.kind).copied();
        known.unwrap_or_else(|| {
            let begun = Instant::now();
            run();
            let took = begun.elapsed();
            self.durations.lock().expect("no panic happens under this lock").insert(self.kind, took);
            took
        })
    }

    /// Runs `run` and kills it at a moment drawn from all the time that it takes; true when that came before its end.
    fn kill(&mut self, run: impl Fn(&Scene) -> Run, undo: impl FnOnce(&Scene)) -> bool {
        let duration = self.measure(|| {
            run(&self.scene).run();
            undo(&self.scene);
        });
        if self.scene.is_behind_proxy() && self.scene.random.chance(50) {
            // Somewhat slower, so that more moments lie between two requests.
            let plan = FaultPlan { seed: self.scene.random.next(), percent: 40, kinds: vec![Trouble::Dripping] };
            self.scene.proxy().break_by(plan);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap();
        let moment = Duration::from_micros(self.scene.random.below(micros + micros / 10));
        let running = run(&self.scene).start();
        std::thread::sleep(moment);
        running.signal(Signal::KILL);
        let was_killed = running.wait().code() == 137;
        if self.scene.is_behind_proxy() {
            self.scene.proxy().heal();
        }
        // What one took is no measure of the next: so that most are killed, and at every moment.
        let mut durations = self.durations.lock().expect("no panic happens under this lock");
        let learned = if was_killed { duration.mul_f64(1.03) } else { duration.mul_f64(0.8) };
        durations.insert(self.kind, learned);
        drop(durations);
        let what = if was_killed { "killed" } else { "ended before its kill" };
        self.tally.add(format!("{}: {what}", self.kind), 1);
        was_killed
    }
}

fn archive(killing: &mut Killing<'_>) {
    let seed = killing.scene.random.next();
    let pg_wal = killing.scene.pg_wal();
    let names: Vec<String> = (1..=1 + killing.scene.random.below(5)).map(name).collect();
    for name in &names {
        killing.scene.ready(name, &content(name, seed));
    }
    let jobs = killing.scene.random.pick(&["1", "2", "4"]).to_string();
    let call = |scene: &Scene, name: &str| scene.broken(&["wal-archive", "--jobs", &jobs]).arg(pg_wal.join(name));
    killing.kill(|scene| call(scene, &names[0]), forget);
    let scene = &killing.scene;
    // Whatever is acknowledged without the store's answer must be there: a receipt of what was sent before the kill.
    scene.proxy().set_down(true);
    for name in &names {
        let run = call(scene, name).arg("--retry-timeout").arg("0").run();
        if expect_one_of(&run, &[0, 2, 4]) == 0 {
            assert!(scene.stored(name).is_some(), "{name} has a receipt and is not there");
        }
    }
    scene.proxy().set_down(false);
    for name in &names {
        // What is there already is whole.
        let before = scene.stored(name);
        assert!(before.is_none_or(|stored| stored == content(name, seed)), "{name} is in the store, and is another");
        call(scene, name).success();
        assert!(scene.stored(name).unwrap() == content(name, seed));
    }
}

fn forget(scene: &Scene) {
    scene.store.wal_keys().iter().for_each(|key| scene.store.remove(key));
    // Receipts vouch for what was there.
    let _ = std::fs::remove_dir_all(scene.dir.join("cache"));
    scene.dir.create_dir("cache");
}

/// On a file system the store is nobody's but ours: an object appears whole there or not at all.
fn archive_to_directory(killing: &mut Killing<'_>) {
    let seed = killing.scene.random.next();
    let file = killing.scene.pg_wal().join(name(1));
    killing.scene.ready(&name(1), &content(&name(1), seed));
    let call = |scene: &Scene| scene.direct(&["wal-archive"]).arg(&file);
    killing.kill(call, forget);
    let scene = &killing.scene;
    let stored = scene.stored(&name(1));
    assert!(stored.is_none_or(|stored| stored == content(&name(1), seed)), "half an object has its final name");
    call(scene).success();
    assert!(scene.stored(&name(1)).unwrap() == content(&name(1), seed));
}

fn fetch_wal(killing: &mut Killing<'_>) {
    let seed = killing.scene.random.next();
    let pg_wal = killing.scene.pg_wal();
    let names: Vec<String> = (1..=1 + killing.scene.random.below(5)).map(name).collect();
    for name in &names {
        killing.scene.ready(name, &content(name, seed));
        killing.scene.direct(&["wal-archive"]).arg(pg_wal.join(name)).success();
        std::fs::remove_file(pg_wal.join(name)).unwrap();
        killing.scene.done(name);
    }
    let jobs = killing.scene.random.pick(&["1", "2", "4"]).to_string();
    let destination = pg_wal.join("RECOVERYXLOG");
    let call = |scene: &Scene, name: &str| {
        let call = scene.broken(&["wal-restore", "--jobs", &jobs, name]).arg(&destination);
        call.in_dir(scene.dir.join("data")).env("BARBACK_WAL_RESTORE_IDLE", "1s")
    };
    killing.kill(|scene| call(scene, &names[0]), |_| drop(std::fs::remove_file(&destination)));
    let is_whole = |name: &str| std::fs::read(&destination).unwrap() == content(name, seed);
    assert!(!destination.exists() || is_whole(&names[0]), "half a segment is there for PostgreSQL to read");
    for name in &names {
        let _ = std::fs::remove_file(&destination);
        call(&killing.scene, name).success();
        assert!(is_whole(name), "{name} came as another");
    }
    wait_until_gone(&pg_wal);
    let left: Vec<String> = names_in(&pg_wal).into_iter().filter(|name| !name.starts_with("RECOVERY")).collect();
    assert_eq!(left, ["archive_status"], "debris is left in pg_wal");
}

fn back_up(killing: &mut Killing<'_>) {
    let cluster = &killing.source.unwrap().cluster;
    let words = backup_words(cluster);
    killing.kill(|scene| scene.broken(&words), |_| ());
    expect_whole_backups(&killing.scene, 0);
    // Its session ended with it, and with that the backup mode.
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'barback'";
    cluster.wait_until(sessions, "0", ORPHANS_PATIENCE);
    killing.scene.direct(&words).success();
    expect_whole_backups(&killing.scene, 1);
}

fn restore(killing: &mut Killing<'_>) {
    let (good, copy) = (killing.scene.dir.join("good"), killing.scene.dir.join("copy"));
    killing.scene.direct(&["restore"]).arg(&good).success();
    let call = |scene: &Scene| scene.broken(&["restore"]).arg(&copy);
    let was_killed = killing.kill(call, |_| std::fs::remove_dir_all(&copy).unwrap());
    if copy.join("global/pg_control").exists() {
        assert!(contents(&copy) == contents(&good), "an unfinished copy can be started");
    }
    if was_killed && std::fs::read_dir(&copy).is_ok_and(|mut entries| entries.next().is_some()) {
        // It is not gone on with, and nothing in it is touched.
        let again = call(&killing.scene).run().expect_code(4);
        let is_told = again.stderr.contains("interrupted restore") || !copy.join("base").exists();
        assert!(is_told || copy.join("global/pg_control").exists(), "{}", again.stderr);
    }
    let _ = std::fs::remove_dir_all(&copy);
    call(&killing.scene).success();
    assert!(contents(&copy) == contents(&good));
}

fn expire(killing: &mut Killing<'_>) {
    let words = ["expire", "--policy", "REDUNDANCY 1"];
    // The first shows how long it takes, on an archive of its own: the names of these backups are of the moment they were made in.
    killing.measure(|| {
        let other = TestStore::s3(S3Server::start());
        crate::expire::archive(&other);
        other.run(&words).success();
    });
    let ids = crate::expire::archive(&killing.scene.store);
    killing.kill(|scene| scene.broken(&words), |_| ());
    let keys = killing.scene.store.keys();
    assert!((25..=30).all(|number| keys.contains(&crate::expire::wal_key(number))), "{keys:?}");
    killing.scene.direct(&words).success();
    assert_eq!(crate::expire::segments(&killing.scene.store), (25..=30).collect::<Vec<u64>>());
    assert_eq!(crate::expire::ids(&killing.scene.store).into_iter().collect::<Vec<_>>(), [ids[2].clone()]);
}

fn verify(killing: &mut Killing<'_>) {
    killing.kill(|scene| scene.broken(&["verify", "--deep"]), |_| ());
    killing.scene.direct(&["verify", "--deep"]).success();
    killing.scene.direct(&["status"]).success();
}

fn drill(killing: &mut Killing<'_>) {
    let scratch = killing.scene.dir.create_dir("drill");
    let bindir = killing.source.unwrap().cluster.version().bindir.display().to_string();
    let words = ["drill", "--workdir", &scratch.display().to_string(), "--target", "immediate", "--pg-bindir", &bindir];
    killing.kill(|scene| scene.broken(&words), |_| ());
    wait_until_gone(&scratch);
    killing.scene.direct(&words).success();
    assert_eq!(names_in(&scratch), [""; 0], "the next drill swept what the killed one left");
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until no process works in `directory`; panics with those that still do.
fn wait_until_gone(directory: &Path) {
    let begun = Instant::now();
    loop {
        let left = processes_in(directory);
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < ORPHANS_PATIENCE, "processes are left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The command lines of what runs in `directory` or names it; our own test is none of it.
fn processes_in(directory: &Path) -> Vec<String> {
    let name = directory.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let works_there = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
        if (works_there || command.contains(&name)) && !command.is_empty() {
            found.push(command);
        }
    }
    found
}
