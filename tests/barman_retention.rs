//! What `backup-delete` removes is what Barman 3.19.1 removes, on hundreds of random catalogues, but for what a backup needs.
//!
//! Barman itself answers, in dry runs against an S3 server that holds each catalogue; we decide on the same listing.
//! `BARBACK_CATALOGUES` says how many (300), `BARBACK_SEED` which.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::{BTreeMap, BTreeSet};

use barback::cli::barman::output;
use barback::commands::delete::LeftOut;
use barback::domain::backup::BackupStatus;
use barback::domain::barman_retention::{Keep, RetainedBackup, Retention, RetentionPolicy, check_deletion};
use barback::domain::wal_removal::{ArchivedWal, Deletion, deletions, wal_name};
use barback::layout::backup_record::BackupRecord;
use barback::layout::tar_objects::tar_objects;
use chrono::{DateTime, TimeDelta, Utc};

use crate::harness::{BarmanProcess, Random, S3Server};

const CATALOGUES: u64 = 300;
const SEED: u64 = 0x3191;

#[test]
fn what_goes_is_what_barman_says_but_for_what_a_remaining_backup_needs() {
    let server = S3Server::start();
    let Some(mut barman) = BarmanProcess::start(&server.env()) else { return };
    let number = |name: &str, otherwise| std::env::var(name).map_or(otherwise, |value| value.parse().unwrap());
    let (seed, count) = (number("BARBACK_SEED", SEED), number("BARBACK_CATALOGUES", CATALOGUES));
    let mut seen = Seen::default();
    for at in 0..count {
        let case = Case::random(seed.wrapping_mul(1_000_003).wrapping_add(at), at);
        case.put(&server);
        case.compare(&mut barman, &mut seen);
        case.remove(&server);
    }
    eprintln!("{count} catalogues: {seen:?}");
    // A comparison that never sees a rule at work proves nothing of it.
    let enough = usize::try_from(count / 50).unwrap();
    for (what, times) in [
        ("refused", seen.refused),
        ("deletions with WAL", seen.with_wal),
        ("directories", seen.directories),
        ("WAL that is needed", seen.needed),
        ("foreign objects", seen.foreign),
    ] {
        assert!(times >= enough, "{what} came up {times} times only");
    }
}

/// How often the interesting things came up.
#[derive(Debug, Default)]
struct Seen {
    refused: usize,
    with_wal: usize,
    directories: usize,
    needed: usize,
    foreign: usize,
}

/// A catalogue, an archive, and a call.
struct Case {
    name: String,
    backups: Vec<BackupFiles>,
    keys: Vec<String>,
    unwanted: Unwanted,
    minimum: u64,
    now: DateTime<Utc>,
}

/// What a backup's directory says about it.
struct BackupFiles {
    id: String,
    info: String,
    keep: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum Unwanted {
    Backup(String),
    Policy(String),
}

const SUFFIXES: [&str; 7] = ["", ".gz", ".bz2", ".xz", ".snappy", ".zst", ".lz4"];

/// A cluster as it goes on from backup to backup.
struct Cluster {
    now: DateTime<Utc>,
    time: DateTime<Utc>,
    timeline: u64,
    position: u64,
    /// Whether ids, times and positions may come in different orders.
    disorder: bool,
}

impl Cluster {
    fn go_on(&mut self, random: &mut Random) {
        self.time += TimeDelta::hours(24 * random.signed_below(6) + 1);
        if random.chance(20) {
            self.timeline += 1 + random.below(2);
        }
        self.position += random.below(0xA0);
        if self.disorder && random.chance(35) {
            // Another cluster's backups, or a recovery to an earlier moment.
            self.position = self.position.saturating_sub(random.below(0x200));
            self.timeline = 1 + random.below(3);
        }
    }

    fn segment(&self, position: u64) -> String {
        format!("{:08X}{:08X}{:08X}", self.timeline, position / 0x100, position % 0x100)
    }

    /// A backup taken now, and names of WAL around it.
    fn back_up(&self, random: &mut Random) -> (BackupFiles, Vec<String>) {
        let skew_h = if self.disorder && random.chance(60) { random.signed_below(400) - 200 } else { 0 };
        let id = (self.time + TimeDelta::hours(skew_h)).format("%Y%m%dT%H%M%S").to_string();
        let end = self.position + random.below(3) * random.below(0x60);
        let status =
            *random.pick(&["DONE", "DONE", "DONE", "DONE", "DONE", "DONE", "FAILED", "STARTED", "WAITING_FOR_WALS"]);
        // Begun long ago and given up, or at work now.
        let at_work = status == "STARTED" && random.chance(50);
        let begin = if at_work { self.now - TimeDelta::hours(5) } else { self.time };
        let once_ended = |value: String| if status == "STARTED" { "None".to_owned() } else { value };
        let info = format!(
            "begin_time={}\nbegin_wal={}\nend_time={}\nend_wal={}\nstatus={status}\ntablespaces={}\ntimeline={}\n",
            begin.format("%Y-%m-%d %H:%M:%S%.6f+00:00"),
            self.segment(self.position),
            once_ended((begin + TimeDelta::minutes(7)).format("%Y-%m-%d %H:%M:%S+00:00").to_string()),
            once_ended(self.segment(end)),
            random.pick(&["None", "[('ts1', 16389, '/t')]", "[('b', 200, '/b'), ('a', 99, '/a')]"]),
            self.timeline,
        );
        let keep = *random.pick(&[None, None, None, None, Some("full"), Some("standalone"), Some("standalone")]);
        let mut wal = Vec::new();
        for _ in 0..random.below(4) {
            wal.push(self.segment((self.position + random.below(5)).saturating_sub(2)));
            wal.push(self.segment(random.below(self.position + 0x120)));
        }
        if random.chance(50) {
            wal.extend([format!("{}.00000028.backup", self.segment(self.position)), self.segment(end)]);
        }
        if random.chance(30) {
            wal.push(format!("{}.partial", self.segment(end)));
        }
        if random.chance(20) {
            wal.push(format!("{:08X}.history", self.timeline));
        }
        (BackupFiles { id, info, keep }, wal)
    }
}

impl Case {
    fn random(seed: u64, at: u64) -> Self {
        let mut random = Random(seed);
        let now = Utc::now();
        let mut cluster = Cluster {
            now,
            // Never near the edge of a window of whole days: Barman looks at its own clock.
            time: now - TimeDelta::hours(13 + 24 * 20),
            timeline: 1 + random.below(2),
            position: random.below(0x180),
            disorder: random.chance(50),
        };
        let (mut backups, mut wal_names) = (BTreeMap::new(), BTreeSet::new());
        for _ in 0..=random.below(6) {
            cluster.go_on(&mut random);
            let (backup, wal) = cluster.back_up(&mut random);
            wal_names.extend(wal);
            backups.entry(backup.id.clone()).or_insert(backup);
        }
        let mut case = Self {
            name: format!("c{at}"),
            backups: backups.into_values().collect(),
            keys: Vec::new(),
            unwanted: Unwanted::Backup("20200101T000000".to_owned()),
            minimum: if random.chance(85) { 0 } else { random.below(5) },
            now,
        };
        if random.chance(35) && !case.backups.is_empty() {
            // With the oldest goes the most WAL.
            let chosen = if random.chance(60) { &case.backups[0] } else { random.pick(&case.backups) };
            case.unwanted = Unwanted::Backup(chosen.id.clone());
        } else if random.chance(97) {
            let number = random.below(4);
            let policy = match random.below(3) {
                0 => format!("REDUNDANCY {number}"),
                1 => format!("recovery window of {} days", 1 + 3 * number),
                _ => format!("Recovery Window Of {number} WEEK"),
            };
            case.unwanted = Unwanted::Policy(policy);
        }
        case.keys = case.random_keys(&mut random, &wal_names);
        case
    }

    fn random_keys(&self, random: &mut Random, wal_names: &BTreeSet<String>) -> Vec<String> {
        let mut keys = BTreeSet::new();
        let tars = ["data.tar.gz", "data_0001.tar.gz", "16389.tar.lz4", "200.tar", "99.tar", "99_0001.tar.bz2"];
        for BackupFiles { id, .. } in &self.backups {
            for tar in tars {
                if random.chance(70) {
                    keys.insert(format!("{}base/{id}/{tar}", self.prefix()));
                }
            }
        }
        for name in wal_names {
            let directory = if name.len() >= 24 { format!("{}/", &name[..16]) } else { String::new() };
            for _ in 0..=random.below(8) / 7 {
                keys.insert(format!("{}wals/{directory}{name}{}", self.prefix(), random.pick(&SUFFIXES)));
            }
            if random.chance(3) {
                let elsewhere = *random.pick(&["", "zz/", "0000000100000000/", "0000000100000001/sub/"]);
                keys.insert(format!("{}wals/{elsewhere}{name}{}", self.prefix(), random.pick(&SUFFIXES)));
            }
            if random.chance(4) {
                keys.insert(format!(
                    "{}wals/{directory}{}",
                    self.prefix(),
                    random.pick(&["notes", "x.gz", "sub/notes"])
                ));
            }
            if random.chance(3) {
                keys.insert(format!("{}wals/{directory}{name}{}", self.prefix(), random.pick(&[".gz.gz", ".tmp"])));
            }
        }
        keys.into_iter().collect()
    }

    fn prefix(&self) -> String {
        format!("{}/main/", self.name)
    }

    fn put(&self, server: &S3Server) {
        let put = |key: &str, content: &str| {
            let path = server.object(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        for BackupFiles { id, info, keep } in &self.backups {
            put(&format!("{}base/{id}/backup.info", self.prefix()), info);
            if let Some(keep) = keep {
                put(&format!("{}base/{id}/annotations/keep", self.prefix()), keep);
            }
        }
        self.keys.iter().for_each(|key| put(key, "x"));
    }

    fn remove(&self, server: &S3Server) {
        let _ = std::fs::remove_dir_all(server.object(&self.name));
    }

    fn retained(&self) -> Vec<(BackupRecord, RetainedBackup)> {
        let read = |BackupFiles { id, info, keep }: &BackupFiles| {
            let record = BackupRecord::parse(id, info).unwrap();
            let retained = record.retained(keep.map(Keep::of_annotation));
            (record, retained)
        };
        self.backups.iter().map(read).collect()
    }

    fn compare(&self, barman: &mut BarmanProcess, seen: &mut Seen) {
        let (option, word) = match &self.unwanted {
            Unwanted::Backup(id) => ("-b", id),
            Unwanted::Policy(text) => ("-r", text),
        };
        let url = format!("s3://{}/{}", crate::harness::BUCKET, self.name);
        let minimum = self.minimum.to_string();
        let words = ["backup-delete", "--dry-run", option, word, "-m", &minimum, &url, "main"];
        let theirs = barman.run(&words);
        let ours = self.decide();
        let story = || {
            let backups: Vec<_> = self
                .backups
                .iter()
                .map(|BackupFiles { id, info, keep }| format!("{id} keep {keep:?}\n{info}"))
                .collect();
            format!("{words:?}\n{}\n{}\nBarman's stderr: {}", backups.join("\n"), self.keys.join("\n"), theirs.stderr)
        };
        let Ok(steps) = ours else {
            seen.refused += 1;
            let text = ours.unwrap_err();
            if theirs.code == 0 {
                assert!(self.only_failed_backups_would_be_left(), "{text}\n{}", story());
            } else {
                // How many backups there are is counted in two ways.
                let text = text.split("current redundancy").next().unwrap();
                assert!(theirs.code == 1 && theirs.stderr.contains(text), "{text}\n{}", story());
            }
            return;
        };
        assert_eq!(theirs.code, 0, "{}", story());
        let exact = steps.iter().all(|step| step.needed.is_empty());
        let mut printed = Vec::new();
        for left_out in steps.iter().flat_map(|step| &step.left_out) {
            output::not_deleted(&mut printed, left_out).unwrap();
        }
        let printed = String::from_utf8(printed).unwrap();
        if exact {
            assert_eq!(printed, theirs.stdout, "{}", story());
        }
        seen.with_wal += usize::from(theirs.stdout.contains("/wals/"));
        seen.directories += usize::from(printed.contains("under prefix"));
        seen.needed += usize::from(!exact);
        let (ours, theirs) = (self.steps(&printed), self.steps(&theirs.stdout));
        assert_eq!(ours.len(), theirs.len(), "{printed}\n{}", story());
        let (mut gone, mut gone_at_barman) = (BTreeSet::new(), BTreeSet::new());
        let mut remaining: Vec<RetainedBackup> = self.retained().into_iter().map(|(_, retained)| retained).collect();
        for ((id, ours), (_, theirs)) in ours.into_iter().zip(theirs) {
            remaining.retain(|backup| backup.id != id);
            gone.extend(ours.iter().copied());
            gone_at_barman.extend(theirs.iter().copied());
            for key in &ours {
                assert!(gone_at_barman.contains(key), "Barman leaves {key}\n{}", story());
                let is_kept = self.is_foreign(key) || self.is_needed(key, &remaining);
                // A dry run names directories in which foreign objects stay.
                assert!(self.is_foreign(key) || !is_kept, "{key} goes with {id}\n{printed}\n{}", story());
            }
            for key in theirs.difference(&gone) {
                let is_kept = self.is_foreign(key) || self.is_needed(key, &remaining);
                assert!(is_kept, "{key} stays with {id}\n{printed}\n{}", story());
            }
            seen.foreign += usize::from(theirs.iter().any(|key| self.is_foreign(key)));
        }
    }

    /// The keys that each backup takes with it, by the lines of a dry run.
    fn steps(&self, printed: &str) -> Vec<(String, BTreeSet<&str>)> {
        let mut steps: Vec<(String, BTreeSet<&str>)> = Vec::new();
        let base = format!("{}base/", self.prefix());
        for line in printed.lines() {
            if let Some((_, rest)) = line.split_once(&base) {
                steps.push((rest.split('/').next().unwrap().to_owned(), BTreeSet::new()));
            }
            let (_, keys) = steps.last_mut().expect("a backup's own objects come first");
            keys.extend(self.keys_of(line).into_iter().filter(|key| key.contains("/wals/")));
        }
        steps
    }

    /// True for what is no WAL file in its directory.
    fn is_foreign(&self, key: &str) -> bool {
        let below = key.strip_prefix(&format!("{}wals/", self.prefix())).unwrap();
        let name = below.rsplit('/').next().unwrap();
        wal_name(key).is_none()
            || (name.len() >= 24 && !below.starts_with(&format!("{}/", &name[..16])))
            || below.split('/').count() > 2
    }

    /// Told by the text of names alone, unlike the rule: does a backup that stays need this WAL file?
    fn is_needed(&self, key: &str, remaining: &[RetainedBackup]) -> bool {
        let name = key.rsplit('/').next().unwrap();
        let Some((timeline, place)) = name.get(..24).map(|name| name.split_at(8)) else { return false };
        remaining.iter().any(|backup| {
            let running = backup.status == BackupStatus::Started
                && self.now - backup.begin_time.unwrap().to_utc() < TimeDelta::days(7);
            let usable = ["DONE", "WAITING_FOR_WALS"].contains(&backup.status.to_string().as_str());
            let (begin_timeline, begin) = backup.begin_wal.as_deref().unwrap().split_at(8);
            let since = timeline >= begin_timeline && place >= begin;
            let standalone_end = backup.end_wal.as_deref().filter(|_| backup.keep == Some(Keep::Standalone));
            let before = standalone_end.is_none_or(|end| timeline <= &end[..8] && place <= &end[8..]);
            (running || usable) && since && before
        })
    }

    /// Every key that lines of a dry run name, in full or by a prefix.
    fn keys_of(&self, printed: &str) -> BTreeSet<&str> {
        let mut named = BTreeSet::new();
        for line in printed.lines() {
            let prefix = line.split_once(" under prefix ").and_then(|(_, rest)| rest.split_once(" due to "));
            for key in &self.keys {
                if prefix.map_or_else(|| line.contains(&format!("'{key}'")), |(prefix, _)| key.starts_with(prefix)) {
                    named.insert(key.as_str());
                }
            }
        }
        named
    }

    /// Our minimum redundancy counts complete backups only.
    fn only_failed_backups_would_be_left(&self) -> bool {
        let retained = self.retained();
        let Unwanted::Backup(id) = &self.unwanted else { return false };
        let is_done = |backup: &RetainedBackup| backup.status == BackupStatus::Done;
        let done = retained.iter().filter(|(_, backup)| is_done(backup)).count() as u64;
        retained.iter().any(|(_, backup)| backup.id == *id && is_done(backup)) && done <= self.minimum
    }

    fn decide(&self) -> Result<Vec<Decided>, String> {
        let catalogue = self.retained();
        let backups: Vec<RetainedBackup> = catalogue.iter().map(|(_, retained)| retained.clone()).collect();
        let ids = match &self.unwanted {
            Unwanted::Backup(id) => {
                let keep = backups.iter().find(|backup| backup.id == *id).and_then(|backup| backup.keep);
                check_deletion(&backups, id, keep, self.minimum, "main")?;
                vec![id.clone()]
            }
            Unwanted::Policy(text) => {
                let policy = RetentionPolicy::parse(text).unwrap();
                let now = self.now.fixed_offset();
                Retention { policy, minimum_redundancy: self.minimum, now, server: "main" }.judge(&backups).obsolete
            }
        };
        let by_policy = matches!(self.unwanted, Unwanted::Policy(_));
        let wals = format!("{}wals/", self.prefix());
        let archived = self.keys.iter().filter(|key| key.starts_with(&wals)).cloned();
        let mut archived = ArchivedWal::new(&wals, archived);
        let decide = |deletion: Deletion| {
            let (record, _) = catalogue.iter().find(|(record, _)| record.id() == deletion.id).unwrap();
            let directory = format!("{}base/{}/", self.prefix(), deletion.id);
            let oids: Vec<i64> =
                record.tablespaces().iter().map(|[_, oid, _]| oid.to_string().parse().unwrap()).collect();
            let mut objects = tar_objects(&directory, self.keys.iter().map(String::as_str), &oids, "main").keys;
            objects.push(format!("{directory}backup.info"));
            let mut decided = Decided { left_out: vec![LeftOut::Objects(objects)], needed: Vec::new() };
            if let Some(rule) = deletion.wal {
                let removal = archived.take(&rule, true);
                decided.left_out.extend(removal.directories.into_iter().map(|(prefix, _)| LeftOut::Prefix(prefix)));
                if !removal.objects.is_empty() {
                    decided.left_out.push(LeftOut::Objects(removal.objects));
                }
                decided.needed = removal.needed;
            }
            decided
        };
        Ok(deletions(&backups, &ids, by_policy, self.now).into_iter().map(decide).collect())
    }
}

/// What becomes of one backup.
#[derive(Debug)]
struct Decided {
    left_out: Vec<LeftOut>,
    needed: Vec<String>,
}
