//! Which WAL goes with a deleted backup: the rules of `barman-cloud-backup-delete` 3.19.1, and one above them.
//!
//! Barman goes by the order of ids and by names compared as text. Ids are local times of whoever took the backup, so that
//! order is not the order of WAL: a clock set back, or two clients, and Barman removes WAL that a remaining backup needs.
//! Here every object that Barman would remove is held against what the remaining backups need; what they need stays.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::backup::BackupStatus;
use crate::domain::barman_retention::{Keep, RetainedBackup};
use crate::domain::compression::Compression;

/// A backup that began longer ago and is still `STARTED` was given up: its client was killed.
const LONGEST_BACKUP: TimeDelta = TimeDelta::days(7);

/// The WAL file that an object somewhere below `wals/` holds, by its name alone and without its suffix; none for anything else.
///
/// Barman 3.19.1 recognises WAL by the last component of the key, in whatever directory it lies, and cuts off at most one
/// suffix.
#[must_use]
pub fn wal_name(key: &str) -> Option<&str> {
    let (name, _) = Compression::split_suffix(key.rsplit('/').next().unwrap_or(key));
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<&str> = name.splitn(4, '.').collect();
    let valid = match words[..] {
        [segment] | [segment, "partial"] => hex(segment, 24),
        [timeline, "history"] => hex(timeline, 8),
        [segment, offset, "backup"] => hex(segment, 24) && hex(offset, 8),
        _ => false,
    };
    valid.then_some(name)
}

/// The timeline in the name of a WAL file, 0 among them.
#[must_use]
pub fn timeline_of(name: &str) -> Option<u32> {
    u32::from_str_radix(name.get(..8)?, 16).ok()
}

/// A segment's timeline, log and number within the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    timeline: u32,
    log: u32,
    number: u32,
}

impl Segment {
    /// The segment that begins the name of a WAL file.
    fn of(name: &str) -> Option<Self> {
        let digits = name.get(..24).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let word = |at: usize| u32::from_str_radix(&digits[at..at + 8], 16).ok();
        Some(Self { timeline: word(0)?, log: word(8)?, number: word(16)? })
    }

    fn position(self) -> (u32, u32) {
        (self.log, self.number)
    }
}

/// WAL that must stay for one backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// All, because nobody knows where the backup's WAL begins.
    Everything,
    /// From a segment on, on its timeline and on all that may have grown out of it.
    Since(Segment),
    /// From a segment to another.
    Between(Segment, Segment),
}

impl Need {
    fn of(backup: &RetainedBackup) -> Self {
        let segment = |name: &Option<String>| name.as_deref().and_then(Segment::of);
        match (segment(&backup.begin_wal), segment(&backup.end_wal), backup.keep) {
            (Some(begin), Some(end), Some(Keep::Standalone)) => Self::Between(begin, end),
            (Some(begin), ..) => Self::Since(begin),
            (None, ..) => Self::Everything,
        }
    }

    fn covers(self, segment: Segment) -> bool {
        let since = |begin: Segment| segment.timeline >= begin.timeline && segment.position() >= begin.position();
        match self {
            Self::Everything => true,
            Self::Since(begin) => since(begin),
            Self::Between(begin, end) => {
                since(begin) && segment.timeline <= end.timeline && segment.position() <= end.position()
            }
        }
    }
}

/// One backup that goes, and what becomes of the WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The backup's id.
    pub id: String,
    /// Which WAL goes with it; none where an older backup needs all there is.
    pub wal: Option<WalRule>,
}

/// What deleting the backups `ids` of the catalogue does to the WAL, one after another in the order given.
///
/// `by_policy`: Barman 3.19.1 looks past older backups that are kept for themselves only when a policy deletes, not when a
/// backup is named. An id that is not in the catalogue is passed over.
#[must_use]
pub fn deletions(backups: &[RetainedBackup], ids: &[String], by_policy: bool, now: DateTime<Utc>) -> Vec<Deletion> {
    let mut there: Vec<&RetainedBackup> = backups.iter().collect();
    let mut deletions = Vec::new();
    for id in ids {
        if let Some(at) = there.iter().position(|backup| backup.id == *id) {
            deletions.push(Deletion { id: id.clone(), wal: WalRule::new(&there, at, by_policy, now) });
            there.remove(at);
        }
    }
    deletions
}

/// Which WAL goes with one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRule {
    /// WAL before this segment goes.
    until: String,
    until_segment: Segment,
    /// The timelines of other entries.
    protected_timelines: BTreeSet<i64>,
    /// First and last segment of older backups that are kept for themselves.
    protected_ranges: Vec<(String, String)>,
    needs: Vec<Need>,
}

impl WalRule {
    /// The rule for deleting the backup at `at`. None where no WAL goes: an older backup needs it, or it is not known where
    /// the WAL that must stay begins (there Barman 3.19.1 fails, after it has deleted the backup).
    fn new(backups: &[&RetainedBackup], at: usize, by_policy: bool, now: DateTime<Utc>) -> Option<Self> {
        let (older, newer) = (&backups[..at], &backups[at + 1..]);
        let mut protected_ranges = Vec::new();
        for backup in older.iter().filter(|backup| backup.is_usable()) {
            if backup.keep != Some(Keep::Standalone) || !by_policy {
                return None;
            }
            protected_ranges.push((backup.begin_wal.clone()?, backup.end_wal.clone()?));
        }
        let until_backup = newer.iter().find(|backup| backup.is_usable()).unwrap_or(&backups[at]);
        let until = until_backup.begin_wal.clone()?;
        // The backup that goes is among them: Barman 3.19.1 means to leave it out, and compares objects that are never the
        // same. So the last backup of a timeline protects that timeline once more.
        let protected_timelines = backups
            .iter()
            .filter_map(|backup| backup.timeline)
            .filter(|timeline| Some(*timeline) != until_backup.timeline)
            .collect();
        let remaining = older.iter().chain(newer).filter(|backup| backup.is_usable() || is_running(backup, now));
        let needs = remaining.map(|backup| Need::of(backup)).collect();
        Some(Self { until_segment: Segment::of(&until)?, until, protected_timelines, protected_ranges, needs })
    }

    /// No key of a WAL file in its place that goes is greater than this, which lies below `wals` (ending in `/`).
    #[must_use]
    pub fn last_key(&self, wals: &str) -> String {
        format!("{wals}{}/{}", self.until[..16].to_uppercase(), self.until)
    }

    /// True for a directory that goes as a whole where the store can delete by prefix.
    fn removes_directory(&self, timeline: u32, log: u32) -> bool {
        let in_range = |range: &(String, String)| match (Segment::of(&range.0), Segment::of(&range.1)) {
            (Some(begin), Some(end)) => {
                (begin.timeline..=end.timeline).contains(&timeline) && (begin.log..=end.log).contains(&log)
            }
            _ => true,
        };
        timeline == self.until_segment.timeline
            && log < self.until_segment.log
            && !self.protected_timelines.contains(&i64::from(timeline))
            && !self.protected_ranges.iter().any(in_range)
    }

    /// True for a WAL file that Barman 3.19.1 removes where it does not remove its directory.
    fn removes(&self, name: &str) -> bool {
        let stem = if name.ends_with(".backup") { &name[..24] } else { name };
        let in_range = |(begin, end): &(String, String)| begin.as_str() <= stem && stem <= end.as_str();
        !name.ends_with(".history")
            && name < self.until.as_str()
            && timeline_of(name).is_some_and(|timeline| !self.protected_timelines.contains(&i64::from(timeline)))
            && !self.protected_ranges.iter().any(in_range)
    }

    fn is_needed(&self, name: &str) -> bool {
        Segment::of(name).is_some_and(|segment| self.needs.iter().any(|need| need.covers(segment)))
    }
}

/// The objects of an archive, through all the deletions of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedWal {
    /// The prefix of all of them, ending in `/`.
    wals: String,
    keys: BTreeSet<String>,
    by_name: BTreeMap<String, String>,
    /// What has been given as an object.
    taken: BTreeSet<String>,
}

impl ArchivedWal {
    /// An archive of the objects with these `keys`, all of which begin with `wals` (ending in `/`).
    ///
    /// Of a WAL file that is stored more than once, in two formats say, the object listed last stands for all, as in Barman
    /// 3.19.1: the others stay until their whole directory goes, or for a later call.
    #[must_use]
    pub fn new(wals: &str, keys: impl IntoIterator<Item = String>) -> Self {
        let keys: BTreeSet<String> = keys.into_iter().collect();
        let by_name = keys.iter().filter_map(|key| Some((wal_name(key)?.to_owned(), key.clone()))).collect();
        Self { wals: wals.to_owned(), keys, by_name, taken: BTreeSet::new() }
    }

    /// What goes by a rule. Where the store does not delete by prefix, no directory goes as a whole.
    ///
    /// What is given as an object is not given again; what goes with a directory is, until it is [forgotten](Self::forget).
    /// So it is in Barman 3.19.1, and dry runs show it.
    #[must_use]
    pub fn take(&mut self, rule: &WalRule, deletes_prefixes: bool) -> WalRemoval {
        let directories = if deletes_prefixes { self.whole_directories(rule) } else { BTreeMap::new() };
        let mut removal = WalRemoval::default();
        self.by_name.retain(|name, key| {
            if !rule.removes(name) || directories.keys().any(|prefix| key.starts_with(prefix.as_str())) {
                return true;
            }
            let is_needed = rule.is_needed(name);
            if is_needed { &mut removal.needed } else { &mut removal.objects }.push(key.clone());
            is_needed
        });
        for (prefix, found) in directories {
            if found.needed.is_empty() {
                removal.directories.push((prefix, found.removed));
            } else {
                removal.needed.extend(found.needed);
                removal.objects.extend(found.removed.into_iter().filter(|key| !self.taken.contains(key)));
            }
        }
        self.taken.extend(removal.objects.iter().cloned());
        removal.objects.sort();
        removal.needed.sort();
        removal
    }

    /// Knows no more of objects that have been deleted.
    pub fn forget(&mut self, gone: &BTreeSet<String>) {
        self.keys.retain(|key| !gone.contains(key));
        self.by_name.retain(|_, key| !gone.contains(key));
    }

    /// The directories of which Barman 3.19.1 deletes whatever begins with their prefix. Foreign objects stay here: only WAL
    /// files in their place go.
    fn whole_directories(&self, rule: &WalRule) -> BTreeMap<String, WholeDirectory> {
        let mut directories: BTreeMap<String, WholeDirectory> = BTreeMap::new();
        for key in &self.keys {
            let below = key.strip_prefix(self.wals.as_str()).and_then(|below| below.split_once('/'));
            let Some((directory, file)) = below else { continue };
            if hash_directory(directory).is_none_or(|(timeline, log)| !rule.removes_directory(timeline, log)) {
                continue;
            }
            let found = directories.entry(format!("{}{directory}/", self.wals)).or_default();
            let in_place = |name: &&str| name.get(..16).is_some_and(|hash| hash.eq_ignore_ascii_case(directory));
            if let Some(name) = wal_name(file).filter(|_| !file.contains('/')).filter(in_place) {
                if rule.is_needed(name) { &mut found.needed } else { &mut found.removed }.push(key.clone());
            }
        }
        directories
    }
}

#[derive(Debug, Default)]
struct WholeDirectory {
    removed: Vec<String>,
    needed: Vec<String>,
}

/// The objects that go with a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WalRemoval {
    /// Directories of which all WAL goes, as prefixes ending in `/`, with the keys of that WAL.
    pub directories: Vec<(String, Vec<String>)>,
    /// Further keys that go, in their order.
    pub objects: Vec<String>,
    /// Keys that Barman 3.19.1 would remove, and a backup that stays needs.
    pub needed: Vec<String>,
}

/// The timeline and log that a directory of segments is named after.
fn hash_directory(name: &str) -> Option<(u32, u32)> {
    let valid = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let word = |digits: &str| u32::from_str_radix(digits, 16).ok();
    valid.then(|| Some((word(&name[..8])?, word(&name[8..])?))).flatten()
}

/// True for a backup that may be on its way this very moment: it will need the WAL since it began.
fn is_running(backup: &RetainedBackup, now: DateTime<Utc>) -> bool {
    backup.status == BackupStatus::Started
        && backup.begin_time.is_none_or(|begin| now.signed_duration_since(begin) < LONGEST_BACKUP)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WALS: &str = "p/main/wals/";

    fn now() -> DateTime<Utc> {
        "2026-02-01T00:00:00Z".parse().unwrap()
    }

    fn segment(timeline: u32, position: u32) -> String {
        format!("{timeline:08X}{:08X}{:08X}", position / 256, position % 256)
    }

    /// A backup whose WAL is one segment.
    fn backup(day: u32, status: BackupStatus, timeline: u32, position: u32, keep: Option<Keep>) -> RetainedBackup {
        RetainedBackup {
            id: format!("202601{day:02}T000000"),
            status,
            timeline: Some(timeline.into()),
            begin_wal: Some(segment(timeline, position)),
            end_wal: Some(segment(timeline, position)),
            begin_time: Some(format!("2026-01-{day:02}T00:00:00Z").parse::<DateTime<Utc>>().unwrap().fixed_offset()),
            end_time: None,
            parent: None,
            children: None,
            keep,
        }
    }

    fn done(day: u32, timeline: u32, position: u32) -> RetainedBackup {
        backup(day, BackupStatus::Done, timeline, position, None)
    }

    fn key(name: &str) -> String {
        let directory = if name.len() < 24 { String::new() } else { format!("{}/", &name[..16]) };
        format!("{WALS}{directory}{name}")
    }

    fn archive(names: &[String]) -> ArchivedWal {
        ArchivedWal::new(WALS, names.iter().map(|name| key(name)))
    }

    fn segments(timeline: u32, positions: impl IntoIterator<Item = u32>) -> Vec<String> {
        positions.into_iter().map(|position| segment(timeline, position)).collect()
    }

    /// What goes with the backups of those days; a directory as its prefix.
    fn gone(backups: &[RetainedBackup], days: &[u32], by_policy: bool, archive: &mut ArchivedWal) -> Vec<String> {
        let ids: Vec<String> = days.iter().map(|day| format!("202601{day:02}T000000")).collect();
        let mut gone = Vec::new();
        for deletion in deletions(backups, &ids, by_policy, now()) {
            let Some(rule) = deletion.wal else { continue };
            let removal = archive.take(&rule, true);
            gone.extend(removal.directories.into_iter().map(|(prefix, _)| prefix));
            gone.extend(removal.objects);
        }
        gone.into_iter()
            .map(|key| {
                key.strip_prefix(WALS).unwrap().rsplit_once('/').map_or(key.clone(), |(directory, name)| {
                    if name.is_empty() { format!("{directory}/") } else { name.to_owned() }
                })
            })
            .collect()
    }

    #[test]
    fn wal_is_known_by_its_name_wherever_it_lies() {
        for (key, name) in [
            ("a/wals/0000000100000000/000000010000000000000008.gz", Some("000000010000000000000008")),
            ("000000010000000000000008", Some("000000010000000000000008")),
            ("x/00000000000000000000000a.00000028.backup.lz4", Some("00000000000000000000000a.00000028.backup")),
            ("x/00000001000000000000000A.partial.zst", Some("00000001000000000000000A.partial")),
            ("x/0000000a.history.snappy", Some("0000000a.history")),
            ("x/000000010000000000000008.gz.gz", None),
            ("x/000000010000000000000008.tmp", None),
            ("x/000000010000000000000008.", None),
            ("x/00000001", None),
            ("x/00000001.partial", None),
            ("x/000000010000000000000008.history", None),
            ("x/000000010000000000000008.28.backup", None),
            ("x/00000001000000000000000G", None),
            ("x/é00000010000000000000008", None),
            ("x/", None),
        ] {
            assert_eq!(wal_name(key), name, "{key}");
        }
        assert_eq!(timeline_of("0000000a.history"), Some(10));
    }

    #[test]
    fn wal_before_the_next_backup_goes_and_histories_stay() {
        let backups = [done(1, 1, 0x10), backup(2, BackupStatus::Failed, 1, 0x15, None), done(3, 1, 0x20)];
        let mut names = segments(1, [0x0F, 0x10, 0x1F, 0x20, 0x21]);
        names.extend(["00000001.history".to_owned(), format!("{}.partial", segment(1, 0x1F))]);
        names.push(format!("{}.00000028.backup.gz", segment(1, 0x10)));
        assert_eq!(
            gone(&backups, &[1], false, &mut archive(&names)),
            [
                "00000001000000000000000F",
                "000000010000000000000010",
                "000000010000000000000010.00000028.backup.gz",
                "00000001000000000000001F",
                "00000001000000000000001F.partial"
            ]
        );
    }

    #[test]
    fn nothing_goes_while_an_older_backup_needs_it() {
        let backups = [done(1, 1, 0x10), done(2, 1, 0x20), done(3, 1, 0x30)];
        assert!(gone(&backups, &[2], true, &mut archive(&segments(1, 0..0x40))).is_empty());
    }

    #[test]
    fn with_the_last_backup_goes_what_lies_before_it_only() {
        assert_eq!(gone(&[done(1, 1, 2)], &[1], false, &mut archive(&segments(1, 0..5))), segments(1, 0..2));
    }

    #[test]
    fn a_policy_looks_past_an_older_backup_kept_for_itself_and_a_name_does_not() {
        let backups =
            [backup(1, BackupStatus::Done, 1, 0x10, Some(Keep::Standalone)), done(2, 1, 0x20), done(3, 1, 0x30)];
        let names = segments(1, [0x0F, 0x10, 0x11, 0x20, 0x30]);
        assert!(gone(&backups, &[2], false, &mut archive(&names)).is_empty());
        assert_eq!(gone(&backups, &[2], true, &mut archive(&names)), segments(1, [0x0F, 0x11, 0x20]));
    }

    #[test]
    fn whole_directories_go_but_those_that_a_kept_backup_touches() {
        let kept = backup(1, BackupStatus::Done, 1, 0x110, Some(Keep::Standalone));
        let backups = [kept, done(2, 1, 0x280), done(3, 1, 0x310)];
        let names = segments(1, [0x001, 0x10F, 0x110, 0x111, 0x2FF, 0x301, 0x311]);
        assert_eq!(
            gone(&backups, &[2], true, &mut archive(&names)),
            [vec!["0000000100000000/".to_owned(), "0000000100000002/".to_owned()], segments(1, [0x10F, 0x111, 0x301])]
                .concat()
        );
        // Where a store does not delete by prefix, each object is named.
        let rule = deletions(&backups, &["20260102T000000".to_owned()], true, now()).remove(0).wal.unwrap();
        let removal = archive(&names).take(&rule, false);
        assert!(removal.directories.is_empty());
        let expected: Vec<String> =
            segments(1, [0x001, 0x10F, 0x111, 0x2FF, 0x301]).iter().map(|name| key(name)).collect();
        assert_eq!(removal.objects, expected);
    }

    #[test]
    fn lower_timelines_go_only_when_no_other_entry_is_on_them() {
        let names = [segments(1, [1, 0x50]), segments(2, [0x10, 0x50]), segments(3, [0x01])].concat();
        let third = done(3, 2, 0x40);
        let backups = [done(1, 2, 0x20), backup(2, BackupStatus::Failed, 1, 5, None), third.clone()];
        assert_eq!(gone(&backups, &[1], false, &mut archive(&names)), segments(2, [0x10]));
        let backups = [done(1, 2, 0x20), third.clone()];
        assert_eq!(
            gone(&backups, &[1], false, &mut archive(&names)),
            [segments(1, [1, 0x50]), segments(2, [0x10])].concat()
        );
        // Barman's own mistake: the backup that goes protects its timeline.
        let backups = [done(1, 1, 0x20), third];
        assert_eq!(gone(&backups, &[1], false, &mut archive(&names)), segments(2, [0x10]));
    }

    #[test]
    fn of_a_segment_stored_twice_the_object_listed_last_goes() {
        let names = ["", ".gz", ".zst"].map(|suffix| format!("{}{suffix}", segment(1, 1)));
        let backups = [done(1, 1, 3), done(2, 1, 4)];
        let mut archive = archive(&names);
        assert_eq!(gone(&backups, &[1], false, &mut archive), ["000000010000000000000001.zst"]);
        assert!(gone(&backups, &[1], false, &mut archive).is_empty(), "the others stay for this call");
    }

    #[test]
    fn a_backup_without_a_readable_begin_removes_no_wal() {
        let mut backups = [done(1, 1, 0x10), done(2, 1, 0x20)];
        for begin in [None, Some("rubbish".to_owned()), Some("é".repeat(20))] {
            backups[1].begin_wal = begin;
            assert!(gone(&backups, &[1], true, &mut archive(&segments(1, 0..0x20))).is_empty());
        }
    }

    /// Barman 3.19.1 would remove the segments 5 to 0x1F, of which the backup of the 3rd needs all.
    #[test]
    fn what_a_remaining_backup_needs_stays_when_ids_are_not_in_the_order_of_wal() {
        let backups = [done(1, 1, 0x10), done(2, 1, 0x20), done(3, 1, 0x05)];
        let names = segments(1, [0x04, 0x05, 0x10, 0x1F, 0x20]);
        assert_eq!(gone(&backups, &[1], true, &mut archive(&names)), segments(1, [0x04]));
        // Kept for itself it needs no more than its own.
        let mut kept = backups;
        kept[2].keep = Some(Keep::Standalone);
        assert_eq!(gone(&kept, &[1], true, &mut archive(&names)), segments(1, [0x04, 0x10, 0x1F]));
    }

    /// Barman 3.19.1 would wipe the directory.
    #[test]
    fn a_directory_of_which_something_is_needed_goes_piece_by_piece() {
        let backups = [done(1, 1, 0x110), done(2, 1, 0x120), done(3, 1, 0x05)];
        let mut archive = archive(&segments(1, [0x04, 0x05, 0x06]));
        assert_eq!(gone(&backups, &[1], true, &mut archive), segments(1, [0x04]));
    }

    #[test]
    fn a_backup_begun_within_a_week_needs_its_wal_and_an_older_unfinished_one_does_not() {
        let names = segments(1, [0x04, 0x06]);
        for (day, expected) in [(30, vec![segment(1, 0x04)]), (24, names.clone())] {
            let running = backup(day, BackupStatus::Started, 1, 0x05, None);
            let backups = [done(1, 1, 0x10), running.clone()];
            assert_eq!(gone(&backups, &[1], true, &mut archive(&names)), expected, "begun on the {day}th");
            let unknown = RetainedBackup { begin_time: None, ..running };
            assert_eq!(gone(&[done(1, 1, 0x10), unknown], &[1], true, &mut archive(&names)), segments(1, [0x04]));
        }
    }

    #[test]
    fn a_remaining_backup_whose_begin_is_unknown_needs_everything() {
        let mut backups = [done(1, 1, 0x10), done(2, 1, 0x20), done(3, 1, 0x30)];
        backups[2].begin_wal = None;
        assert!(gone(&backups, &[1], true, &mut archive(&segments(1, 0..0x20))).is_empty());
    }

    /// Barman 3.19.1 deletes whatever begins with the prefix.
    #[test]
    fn foreign_objects_in_a_directory_that_goes_stay() {
        let backups = [done(1, 1, 0x110)];
        let keys = ["000000010000000000000001.gz", "notes", "sub/000000010000000000000002", "000000020000000000000003"]
            .map(|name| format!("{WALS}0000000100000000/{name}"));
        let rule = deletions(&backups, &["20260101T000000".to_owned()], true, now()).remove(0).wal.unwrap();
        let removal = ArchivedWal::new(WALS, keys.clone()).take(&rule, true);
        assert_eq!(removal.directories, [(format!("{WALS}0000000100000000/"), vec![keys[0].clone()])]);
        assert!(removal.objects.is_empty());
    }

    #[test]
    fn no_key_beyond_the_last_one_goes() {
        let rule = deletions(&[done(1, 1, 0x110)], &["20260101T000000".to_owned()], true, now()).remove(0).wal.unwrap();
        assert_eq!(rule.last_key(WALS), "p/main/wals/0000000100000001/000000010000000100000010");
    }

    /// Told by the text of names alone, unlike the rule.
    fn is_needed(name: &str, by: &RetainedBackup) -> bool {
        let (timeline, position) = name[..24].split_at(8);
        let (from_timeline, from) = by.begin_wal.as_deref().unwrap().split_at(8);
        let (to_timeline, to) = by.end_wal.as_deref().unwrap().split_at(8);
        let recent = by.status == BackupStatus::Started && now() - by.begin_time.unwrap().to_utc() < TimeDelta::days(7);
        (by.status == BackupStatus::Done || recent)
            && timeline >= from_timeline
            && position >= from
            && (by.keep != Some(Keep::Standalone) || (timeline <= to_timeline && position <= to))
    }

    fn any_backup(day: u32) -> impl Strategy<Value = RetainedBackup> {
        (0..6_usize, 1..4_u32, 0..0x300_u32, 0..0x180_u32, 0..5_usize).prop_map(
            move |(status, timeline, position, length, keep)| {
                let status = [BackupStatus::Started, BackupStatus::Failed].get(status).cloned();
                let keep =
                    [Some(Keep::Full), Some(Keep::Standalone), Some(Keep::Standalone)].get(keep).copied().flatten();
                let end_wal = Some(segment(timeline, position + length));
                RetainedBackup {
                    end_wal,
                    ..backup(day, status.unwrap_or(BackupStatus::Done), timeline, position, keep)
                }
            },
        )
    }

    fn any_catalogue() -> impl Strategy<Value = Vec<RetainedBackup>> {
        [4, 9, 17, 24, 27, 30, 31].map(any_backup).prop_map(Vec::from)
    }

    fn any_names() -> impl Strategy<Value = Vec<String>> {
        let suffixes = ["", ".gz", ".partial", ".partial.zst", ".00000028.backup", ".tmp"];
        let any = (1..4_u32, 0..0x500_u32, 0..suffixes.len())
            .prop_map(move |(timeline, position, suffix)| segment(timeline, position) + suffixes[suffix]);
        prop::collection::vec(any, 0..60)
    }

    proptest! {
        #[test]
        fn no_wal_goes_that_a_remaining_backup_needs(
            backups in any_catalogue(),
            names in any_names(),
            order in prop::sample::subsequence((0..7_usize).collect::<Vec<_>>(), 0..7),
            by_policy: bool,
            deletes_prefixes: bool,
        ) {
            let ids: Vec<String> = order.iter().map(|at| backups[*at].id.clone()).collect();
            let mut archive = archive(&names);
            let mut remaining = backups.clone();
            for deletion in deletions(&backups, &ids, by_policy, now()) {
                remaining.retain(|backup| backup.id != deletion.id);
                let Some(rule) = deletion.wal else { continue };
                let removal = archive.take(&rule, deletes_prefixes);
                prop_assert!(deletes_prefixes || removal.directories.is_empty());
                for key in removal.directories.iter().flat_map(|(_, keys)| keys).chain(&removal.objects) {
                    let name = wal_name(key);
                    prop_assert!(name.is_some_and(|name| !name.ends_with(".history")), "{key} is no WAL");
                    let by = remaining.iter().find(|backup| is_needed(name.unwrap(), backup));
                    prop_assert!(by.is_none(), "{key} is needed by {by:?}");
                    prop_assert!(key.as_str() <= rule.last_key(WALS).as_str());
                }
                for key in &removal.needed {
                    prop_assert!(remaining.iter().any(|backup| is_needed(wal_name(key).unwrap(), backup)), "{key} is not needed");
                }
            }
        }

        #[test]
        fn hostile_names_do_no_harm(names in prop::collection::vec(".{0,40}", 0..10), begin in ".{0,30}", end in ".{0,30}") {
            let kept = RetainedBackup {
                begin_wal: Some(begin.clone()),
                end_wal: Some(end),
                ..backup(1, BackupStatus::Done, 1, 0, Some(Keep::Standalone))
            };
            let backups = [kept, done(2, 1, 0x100), RetainedBackup { begin_wal: Some(begin), ..done(3, 1, 0) }];
            let mut archive = ArchivedWal::new(WALS, names.iter().map(|name| format!("{WALS}{name}")));
            for deletion in deletions(&backups, &["20260102T000000".to_owned()], true, now()) {
                if let Some(rule) = deletion.wal {
                    let _ = (archive.take(&rule, true), rule.last_key(WALS));
                }
            }
        }
    }
}
