//! Which backups stay and which go: what the policy, the minimum redundancy and the keeps promise, each with its reason.
//!
//! A promise is about restores, not about files: a backup that lacks WAL or has damaged pages fulfils none. What each backup
//! that stays needs of the WAL is said here, [`crate::domain::wal_needs`] draws the line from it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::barman_retention::Keep;
use crate::domain::paths::Paths;
use crate::domain::recovery_target::postgresql_time;
use crate::domain::restorable::{Unreachable, bounds_of, reach_along};
use crate::domain::timeline::TimelineHistory;
use crate::domain::window::WalInventory;
use crate::error::{Error, ErrorKind, Result};

/// A month of a policy is never shorter than one of the calendar.
const DAYS_PER_MONTH: i64 = 31;

/// The longest window that makes sense, and that can be counted: a thousand years.
const LONGEST_WINDOW_DAYS: i64 = 366_000;

/// A backup that began longer ago and is still `STARTED` was given up: its client was killed.
pub const LONGEST_BACKUP: TimeDelta = TimeDelta::days(7);

/// How far the clocks of server and store may differ. Too much costs an old backup a day more; too little breaks a promise.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::days(1);

/// What is promised about the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Every moment of so many days before now that can be restored.
    Window {
        /// The length of the window.
        days: i64,
    },
    /// So many of the newest backups that can be restored, each to any later moment.
    Redundancy(u64),
}

impl FromStr for Policy {
    type Err = Error;

    /// Reads `30d`, `4w`, `3m` (of 31 days), `RECOVERY WINDOW OF 30 DAYS`, `REDUNDANCY 3`, in either case.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::usage(format!("\"{}\" is not a retention policy", text.escape_debug()))
                .with_hint("Write 30d, 4w, 3m, 'RECOVERY WINDOW OF 30 DAYS' or 'REDUNDANCY 3'.")
        };
        let lower = text.to_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<i64>().ok()).flatten().filter(|number| *number > 0)
        };
        let window = |count: &str, unit: &str| {
            let unit_days = match unit {
                "d" | "day" | "days" => 1,
                "w" | "week" | "weeks" => 7,
                "m" | "month" | "months" => DAYS_PER_MONTH,
                _ => return None,
            };
            let days = number(count)?.checked_mul(unit_days).filter(|days| *days <= LONGEST_WINDOW_DAYS)?;
            Some(Self::Window { days })
        };
        let policy = match words[..] {
            ["redundancy", count] => number(count).and_then(|count| u64::try_from(count).ok()).map(Self::Redundancy),
            ["recovery", "window", "of", count, unit] if unit.len() > 1 => window(count, unit),
            [short] if short.is_ascii() && short.len() > 1 => {
                let (count, unit) = short.split_at(short.len() - 1);
                window(count, unit)
            }
            _ => None,
        };
        policy.ok_or_else(refuse)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { days: 1 } => f.write_str("RECOVERY WINDOW OF 1 DAY"),
            Self::Window { days } => write!(f, "RECOVERY WINDOW OF {days} DAYS"),
            Self::Redundancy(count) => write!(f, "REDUNDANCY {count}"),
        }
    }
}

impl Policy {
    /// Where the window begins; none for a policy without one.
    #[must_use]
    pub fn since(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Window { days } => Some(now - TimeDelta::days(days)),
            Self::Redundancy(_) => None,
        }
    }
}

/// Whether something stays or goes, and why, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// True for what goes.
    pub goes: bool,
    /// The reason.
    pub why: String,
}

impl Verdict {
    /// It stays.
    #[must_use]
    pub fn stays(why: impl Into<String>) -> Self {
        Self { goes: false, why: why.into() }
    }

    /// It goes.
    #[must_use]
    pub fn goes(why: impl Into<String>) -> Self {
        Self { goes: true, why: why.into() }
    }
}

/// One readable entry of the catalogue.
#[derive(Debug, Clone)]
pub struct Held<'a> {
    /// What its `backup.info` says.
    pub backup: &'a Backup,
    /// Whether it is to be kept.
    pub keep: Option<Keep>,
    /// Why it cannot be deleted, whatever the rules say.
    pub bound: Option<Bound>,
    /// Why it is debris, to be removed as such; counts only for backups that failed or were given up.
    pub debris: Option<String>,
}

/// Why a backup cannot be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// The store's object lock holds it; and until when, in words.
    Locked(String),
    /// It was tried, and failed so.
    Failed(String),
    /// That it would go was not announced before.
    Unannounced,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// What no promise of a policy needs is to go.
    Policy(Policy),
    /// One backup is to go.
    Delete(String),
    /// No backup is to go; WAL that none needs may.
    WalOnly,
    /// Nothing but debris is to go.
    Debris,
}

/// What a wish is applied under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// What is asked for.
    pub wish: Wish,
    /// So many of the newest restorable backups stay, whatever is asked for; at least 1.
    pub minimum_redundancy: u64,
    /// The present.
    pub now: DateTime<Utc>,
}

/// What a backup that stays needs of the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeedsWal {
    /// All since its beginning: recoveries start from it.
    Since,
    /// What makes it consistent.
    Own,
    /// None.
    Nothing,
}

/// What the rules say about one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupVerdict {
    /// Its id.
    pub id: String,
    /// Whether it stays.
    pub verdict: Verdict,
    /// What it needs if it stays.
    pub needs: NeedsWal,
    /// Whether it can be restored: it is complete, with all WAL to its end, and no page of it is known to be damaged.
    pub restorable: bool,
}

/// Judges every backup, in the order given. Errors: `Conflict` where a backup that is to be deleted must stay.
pub fn judge(backups: &[Held<'_>], wal: &WalInventory, paths: &Paths, rules: &Rules) -> Result<Vec<BackupVerdict>> {
    let entries: Vec<Entry<'_>> = backups.iter().map(|held| Entry::new(held, wal, paths)).collect();
    let mut newest_first: Vec<usize> = (0..entries.len()).filter(|at| entries[*at].is_done()).collect();
    newest_first.sort_by(|a, b| entries[*b].age().cmp(&entries[*a].age()));
    let mut reasons: Vec<Option<String>> = vec![None; entries.len()];
    match rules.wish {
        Wish::Policy(Policy::Redundancy(count)) => keep_newest(&entries, &newest_first, count, &mut reasons),
        Wish::Policy(policy @ Policy::Window { .. }) => {
            let since = policy.since(rules.now).expect("a window has a beginning");
            keep_window(&entries, wal, paths, since, &mut reasons);
        }
        Wish::Delete(_) | Wish::WalOnly | Wish::Debris => {}
    }
    let minimum = rules.minimum_redundancy.max(1);
    let counted = newest_first.iter().filter(|at| entries[**at].unfit.is_none());
    for at in counted.take(usize::try_from(minimum).unwrap_or(usize::MAX)) {
        reasons[*at].get_or_insert_with(|| match minimum {
            1 => "newest restorable backup: the minimum redundancy asks for one".to_owned(),
            _ => format!("newest of {minimum} restorable backups the minimum redundancy asks for"),
        });
    }
    let verdict = |(entry, reason): (&Entry<'_>, Option<String>)| entry.verdict(reason, rules, &newest_first, &entries);
    let verdicts: Vec<BackupVerdict> = entries.iter().zip(reasons).map(verdict).collect();
    if let Wish::Delete(id) = &rules.wish {
        refuse_deletion(id, &entries, &verdicts, rules)?;
    }
    Ok(verdicts)
}

/// A backup and what was found out about it.
struct Entry<'a> {
    held: &'a Held<'a>,
    /// Why it does not count towards any promise.
    unfit: Option<String>,
    damaged: bool,
}

impl<'a> Entry<'a> {
    fn new(held: &'a Held<'a>, wal: &WalInventory, paths: &Paths) -> Self {
        let backup = held.backup;
        let damaged = backup.damaged_pages().is_some();
        let unfit = if backup.is_snapshot {
            Some("it is one of disk snapshots".to_owned())
        } else if damaged {
            Some("it holds damaged pages".to_owned())
        } else {
            unfit_everywhere(backup, wal, paths)
        };
        Self { held, unfit, damaged }
    }

    fn backup(&self) -> &Backup {
        self.held.backup
    }

    fn is_done(&self) -> bool {
        self.backup().status == BackupStatus::Done
    }

    fn end_time(&self) -> Option<DateTime<Utc>> {
        self.backup().end_time.map(|time| time.to_utc())
    }

    /// Orders backups by when they ended; ids of Barman are local times and may run backwards.
    fn age(&self) -> impl Ord + use<> {
        (self.end_time(), self.backup().end_lsn, self.backup().id.as_str().to_owned())
    }

    /// `promised`: what a policy or the minimum redundancy wants it for.
    fn verdict(&self, promised: Option<String>, rules: &Rules, newest_first: &[usize], all: &[Self]) -> BackupVerdict {
        let (verdict, needs) = self.judge(promised, rules, newest_first, all);
        BackupVerdict {
            id: self.backup().id.to_string(),
            needs: if verdict.goes { NeedsWal::Nothing } else { needs },
            verdict,
            restorable: self.unfit.is_none(),
        }
    }

    fn judge(
        &self,
        promised: Option<String>,
        rules: &Rules,
        newest_first: &[usize],
        all: &[Self],
    ) -> (Verdict, NeedsWal) {
        let backup = self.backup();
        let unneeded = match &rules.wish {
            Wish::Delete(id) if *id == backup.id.as_str() => Verdict::goes("asked for"),
            Wish::Delete(_) => Verdict::stays("not asked for"),
            Wish::WalOnly | Wish::Debris => Verdict::stays("no policy is given"),
            Wish::Policy(policy) => self.unwanted(*policy, rules.now, newest_first, all),
        };
        if let Some(Bound::Failed(why)) = &self.held.bound {
            return (Verdict::stays(format!("could not be deleted: {why}")), NeedsWal::Since);
        }
        if self.held.bound == Some(Bound::Unannounced) && unneeded.goes {
            return (Verdict::stays("for the next call: it came up while this one began"), NeedsWal::Since);
        }
        if backup.is_snapshot {
            return (Verdict::stays("disk snapshots, which barback does not manage"), NeedsWal::Since);
        }
        match &backup.status {
            BackupStatus::Started if is_running(backup, rules.now) && self.held.debris.is_none() => {
                return (Verdict::stays("running, or its client was killed less than a week ago"), NeedsWal::Since);
            }
            BackupStatus::Started | BackupStatus::Failed => {
                let asked = matches!(&rules.wish, Wish::Delete(id) if *id == backup.id.as_str());
                let word = if backup.status == BackupStatus::Failed { "failed" } else { "given up" };
                let verdict = match &self.held.debris {
                    _ if asked => unneeded,
                    Some(why) => Verdict::goes(format!("debris: {why}")),
                    None => Verdict::stays(format!("{word}, and not needed: expire --debris removes it after a day")),
                };
                return (verdict, NeedsWal::Nothing);
            }
            BackupStatus::Other(word) => {
                return (Verdict::stays(format!("its status {word} is not understood")), NeedsWal::Since);
            }
            BackupStatus::Done => {}
        }
        let (verdict, needs) = match (self.held.keep, promised) {
            (Some(Keep::Full), _) => (Verdict::stays("kept: full"), NeedsWal::Since),
            (_, Some(why)) if matches!(rules.wish, Wish::Policy(_)) => (Verdict::stays(why), NeedsWal::Since),
            // Where no policy says that nobody wants to recover from it, a kept backup counts in full, as in Barman.
            (Some(Keep::Standalone), _) if matches!(rules.wish, Wish::Policy(_)) => {
                (Verdict::stays("kept: standalone"), NeedsWal::Own)
            }
            (Some(Keep::Standalone), _) => (Verdict::stays("kept: standalone"), NeedsWal::Since),
            _ => (unneeded, NeedsWal::Since),
        };
        match &self.held.bound {
            Some(Bound::Locked(until)) if verdict.goes => (Verdict::stays(until.clone()), NeedsWal::Own),
            _ => (verdict, needs),
        }
    }

    /// What a policy says about a complete backup that no promise needs.
    fn unwanted(&self, policy: Policy, now: DateTime<Utc>, newest_first: &[usize], all: &[Self]) -> Verdict {
        let Some(ended) = self.end_time() else {
            return Verdict::stays("it does not say when it ended");
        };
        let useless = self.unfit.as_ref().map_or(String::new(), |why| format!(", and it cannot be restored: {why}"));
        if let Some(since) = policy.since(now) {
            return Verdict::goes(format!(
                "ended {}, before the window; no moment since {} needs it{useless}",
                postgresql_time(&ended),
                postgresql_time(&since)
            ));
        }
        let newer = newest_first.iter().filter(|at| all[**at].unfit.is_none() && all[**at].age() > self.age());
        Verdict::goes(format!("{} newer backups can be restored{useless}", newer.count()))
    }
}

/// True for a backup that may be on its way this very moment: it will need the WAL since it began.
#[must_use]
pub fn is_running(backup: &Backup, now: DateTime<Utc>) -> bool {
    backup.status == BackupStatus::Started
        && backup.begin_time.is_none_or(|begin| now.signed_duration_since(begin) < LONGEST_BACKUP)
}

/// Why a backup cannot be restored along any path; none where it can along one.
fn unfit_everywhere(backup: &Backup, wal: &WalInventory, paths: &Paths) -> Option<String> {
    let bounds = match bounds_of(backup) {
        Ok(bounds) => bounds,
        Err(why) => return Some(why),
    };
    let mut why = None;
    for path in paths.passable() {
        match reach_along(backup, &bounds, path, wal) {
            Ok(_) => return None,
            // What a backup lacks on its own path says more than that it is not on another.
            Err(Unreachable::Incomplete(cause)) => why = Some(cause),
            Err(Unreachable::OffThePath(cause)) => {
                why.get_or_insert(cause);
            }
        }
    }
    why
}

fn leads_along(backup: &Backup, path: &TimelineHistory, wal: &WalInventory) -> bool {
    bounds_of(backup).is_ok_and(|bounds| reach_along(backup, &bounds, path, wal).is_ok())
}

/// The newest `count` that can be restored, and whatever is newer than the last of them.
fn keep_newest(entries: &[Entry<'_>], newest_first: &[usize], count: u64, reasons: &mut [Option<String>]) {
    let mut found = 0;
    for at in newest_first {
        if found == count {
            break;
        }
        let reason = match &entries[*at].unfit {
            None => {
                found += 1;
                format!("number {found} of the {count} newest restorable backups")
            }
            Some(why) => format!("newer than the {count} newest restorable backups; not counted: {why}"),
        };
        reasons[*at] = Some(reason);
    }
}

/// All that ended within the window, and for each path that was written to within it the newest restorable one before.
fn keep_window(
    entries: &[Entry<'_>],
    wal: &WalInventory,
    paths: &Paths,
    since: DateTime<Utc>,
    reasons: &mut [Option<String>],
) {
    let is_within = |entry: &Entry<'_>| entry.end_time().is_some_and(|end| end >= since);
    for (entry, reason) in entries.iter().zip(&mut *reasons).filter(|(entry, _)| entry.is_done() && is_within(entry)) {
        *reason = Some(match &entry.unfit {
            None => format!("ended within the window, since {}", postgresql_time(&since)),
            Some(why) => format!("ended within the window; not counted: {why}"),
        });
    }
    let oldest = since.checked_sub_signed(CLOCK_TOLERANCE).unwrap_or(since);
    for path in paths.known().filter(|path| wal.newest_of(path.timeline).is_some_and(|newest| newest >= oldest)) {
        let mut older: Vec<usize> = (0..entries.len())
            .filter(|at| entries[*at].is_done() && entries[*at].end_time().is_some() && !is_within(&entries[*at]))
            .filter(|at| !entries[*at].backup().is_snapshot)
            .collect();
        older.sort_by_key(|at| std::cmp::Reverse((entries[*at].backup().end_lsn, entries[*at].end_time())));
        let fits = |at: &&usize| leads_along(entries[**at].backup(), path, wal);
        let good = older.iter().filter(|at| !entries[**at].damaged).find(fits);
        // A damaged backup is better than none at all.
        if let Some(at) = good.or_else(|| older.iter().find(fits)) {
            let only = if entries[*at].damaged { "; it holds damaged pages, but no other leads there" } else { "" };
            reasons[*at].get_or_insert_with(|| {
                format!("needed to recover to any moment since {}{only}", postgresql_time(&since))
            });
        }
    }
}

fn refuse_deletion(id: &str, entries: &[Entry<'_>], verdicts: &[BackupVerdict], rules: &Rules) -> Result<()> {
    let refuse = |why: &str| Error::new(ErrorKind::Conflict, format!("could not delete backup \"{id}\": {why}"));
    let Some((entry, verdict)) = entries.iter().zip(verdicts).find(|(_, verdict)| verdict.id == id) else {
        return Ok(());
    };
    if let Some(keep) = entry.held.keep {
        return Err(refuse(&format!("it is kept ({})", keep.word()))
            .with_hint(format!("barback keep {id} --release, if it is wanted no longer.")));
    }
    if !verdict.verdict.goes {
        return match entry.held.bound {
            // That it is locked is an answer, and no error.
            Some(Bound::Locked(_)) => Ok(()),
            _ => Err(refuse(&verdict.verdict.why)),
        };
    }
    let others = verdicts.iter().filter(|other| other.restorable && other.id != id).count() as u64;
    let minimum = rules.minimum_redundancy.max(1);
    if verdict.restorable && others < minimum {
        let left = match others {
            0 => "no other backup can be restored".to_owned(),
            1 => "only one other backup can be restored".to_owned(),
            _ => format!("only {others} other backups can be restored"),
        };
        return Err(refuse(&format!("{left}, and the minimum redundancy is {minimum}")).with_hint(
            "The minimum is expire.minimum_redundancy in the configuration, or --minimum-redundancy; it is never less than 1.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expiry::{ExpiryPlan, Holdings, plan};
    use crate::domain::lsn::Lsn;
    use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
    use crate::domain::timeline::TimelineId;

    const MIB: u64 = 1 << 20;

    fn day(day: i64) -> DateTime<Utc> {
        "2026-06-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::days(day - 1)
    }

    fn segment(number: u64) -> SegmentName {
        SegmentName::from_number(TimelineId::FIRST, number, SegmentSize::DEFAULT)
    }

    /// A complete backup that began and ended in segment `at`, on that day of June.
    fn backup(at: u64) -> Backup {
        let mut backup = Backup::new(format!("202606{at:02}T000000").parse().unwrap());
        backup.status = BackupStatus::Done;
        backup.timeline = Some(TimelineId::FIRST);
        backup.begin_lsn = Some(Lsn(at * 16 * MIB + 40));
        backup.end_lsn = Some(Lsn(at * 16 * MIB + 400));
        backup.begin_segment = Some(segment(at));
        backup.end_segment = Some(segment(at));
        let day = day(i64::try_from(at).unwrap());
        (backup.begin_time, backup.end_time) = (Some(day.fixed_offset()), Some(day.fixed_offset()));
        backup
    }

    struct Archive {
        backups: Vec<(Backup, Option<Keep>)>,
        wal: WalInventory,
        floor: Option<Lsn>,
        unreadable: Vec<String>,
        unrecorded: Vec<String>,
    }

    /// Backups on those days, and a segment for each day from the 1st to the 20th.
    fn archive(days: &[u64]) -> Archive {
        let mut wal = WalInventory::new();
        for at in 1..=20 {
            wal.add(&WalFileName::Segment(segment(at)), day(i64::try_from(at).unwrap()) + TimeDelta::hours(23));
        }
        let backups = days.iter().map(|at| (backup(*at), None)).collect();
        Archive { backups, wal, floor: None, unreadable: Vec::new(), unrecorded: Vec::new() }
    }

    impl Archive {
        fn judge(&self, wish: Wish, minimum_redundancy: u64) -> Result<ExpiryPlan> {
            let held = self
                .backups
                .iter()
                .map(|(backup, keep)| Held { backup, keep: *keep, bound: None, debris: None })
                .collect();
            let histories = std::collections::BTreeMap::<TimelineId, TimelineHistory>::new();
            let holdings = Holdings {
                backups: held,
                unreadable: self.unreadable.clone(),
                unrecorded: self.unrecorded.clone(),
                orphans: Vec::new(),
                wal: &self.wal,
                histories: &histories,
                floor: self.floor,
            };
            plan(&holdings, &Rules { wish, minimum_redundancy, now: day(20) })
        }

        /// The days of backups that go, and the segments.
        fn gone(&self, wish: &str, minimum_redundancy: u64) -> (Vec<u64>, Vec<u64>) {
            gone(&self.judge(Wish::Policy(wish.parse().unwrap()), minimum_redundancy).unwrap())
        }
    }

    fn gone(plan: &ExpiryPlan) -> (Vec<u64>, Vec<u64>) {
        let size = SegmentSize::DEFAULT;
        let stretches = plan.wal.iter().filter(|stretch| stretch.verdict.goes);
        let segments = stretches.flat_map(|stretch| stretch.first.number(size)..=stretch.last.number(size)).collect();
        (plan.going().map(|backup| backup.id[6..8].parse().unwrap()).collect(), segments)
    }

    #[test]
    fn policies_are_read_in_all_their_spellings() {
        let window = |days| Policy::Window { days };
        for (text, expected) in [
            ("30d", window(30)),
            ("4w", window(28)),
            ("3m", window(93)),
            ("RECOVERY WINDOW OF 30 DAYS", window(30)),
            ("recovery window of 1 week", window(7)),
            ("Recovery  Window of 2 MONTHS", window(62)),
            ("REDUNDANCY 3", Policy::Redundancy(3)),
        ] {
            let policy: Policy = text.parse().unwrap();
            assert_eq!(policy, expected, "{text}");
            assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy);
        }
        for text in [
            "",
            "d",
            "30",
            "0d",
            "-1d",
            "30 d",
            "1y",
            "é",
            "1é",
            "REDUNDANCY 0",
            "REDUNDANCY -1",
            "REDUNDANCY",
            "RECOVERY WINDOW OF 30 d",
            "RECOVERY WINDOW OF 0 DAYS",
            "99999999999999999999d",
            "400000d",
            "9223372036854775807w",
        ] {
            assert_eq!(text.parse::<Policy>().unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }

    #[test]
    fn a_window_keeps_the_newest_backup_before_it() {
        assert_eq!(archive(&[2, 5, 9, 15]).gone("10d", 1), (vec![2, 5], vec![1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(archive(&[2, 5, 9, 15]).gone("11d", 1), (vec![2], vec![1, 2, 3, 4]));
        assert_eq!(archive(&[2, 5, 9, 15]).gone("30d", 1), (vec![], vec![1]));
    }

    #[test]
    fn redundancy_counts_only_what_can_be_restored() {
        let mut archive = archive(&[2, 5, 9, 15]);
        assert_eq!(archive.gone("REDUNDANCY 2", 1).0, [2, 5]);
        archive.backups[3].0.mark_damaged_pages("1 file");
        assert_eq!(archive.gone("REDUNDANCY 2", 1).0, [2]);
        archive.backups[2].0.status = BackupStatus::Failed;
        assert!(archive.gone("REDUNDANCY 2", 1).0.is_empty());
        // Nor does a backup count that lacks WAL.
        archive.backups[2].0.status = BackupStatus::Done;
        archive.wal = WalInventory::new();
        for at in (1..=20).filter(|at| *at != 9) {
            archive.wal.add(&WalFileName::Segment(segment(at)), day(20));
        }
        assert_eq!(archive.gone("REDUNDANCY 1", 1).0, [2]);
        let plan = archive.judge(Wish::Policy("REDUNDANCY 1".parse().unwrap()), 1).unwrap();
        assert_eq!(
            plan.backups[2].verdict.why,
            "newer than the 1 newest restorable backups; not counted: segment \"000000010000000000000009\", which it needs, \
             is not in the archive"
        );
    }

    #[test]
    fn the_minimum_redundancy_holds_against_any_window() {
        assert_eq!(archive(&[2, 5, 9, 15]).gone("1d", 3).0, [2]);
        // Even where nothing was archived for long: the newest backup of a dead server stays.
        let mut dead = archive(&[2, 5]);
        dead.wal = WalInventory::new();
        (1..=6).for_each(|at| dead.wal.add(&WalFileName::Segment(segment(at)), day(6)));
        assert_eq!(dead.gone("1d", 0), (vec![2], vec![1, 2, 3, 4]));
    }

    #[test]
    fn kept_backups_stay_with_what_their_keep_says() {
        let mut archive = archive(&[2, 5, 9, 15]);
        archive.backups[0].1 = Some(Keep::Standalone);
        assert_eq!(archive.gone("REDUNDANCY 1", 1), (vec![5, 9], [vec![1], (3..15).collect()].concat()));
        archive.backups[1].1 = Some(Keep::Full);
        assert_eq!(archive.gone("REDUNDANCY 1", 1), (vec![9], vec![1, 3, 4]));
    }

    #[test]
    fn a_running_backup_needs_its_wal_and_one_given_up_does_not() {
        let mut archive = archive(&[3, 5, 9, 15]);
        let running = &mut archive.backups[0].0;
        (running.status, running.end_lsn, running.end_time) = (BackupStatus::Started, None, None);
        running.begin_time = Some(day(19).fixed_offset());
        assert_eq!(archive.gone("REDUNDANCY 1", 1), (vec![5, 9], vec![1, 2]));
        archive.backups[0].0.begin_time = Some(day(12).fixed_offset());
        assert_eq!(archive.gone("REDUNDANCY 1", 1), (vec![5, 9], (1..15).collect()));
    }

    #[test]
    fn no_wal_goes_while_somebody_may_need_it_whom_nobody_can_ask() {
        let mut unknown = archive(&[5, 15]);
        unknown.unreadable.push("20260601T000000".to_owned());
        assert_eq!(unknown.gone("REDUNDANCY 1", 1), (vec![5], vec![]));
        let mut unknown = archive(&[5, 15]);
        unknown.unrecorded.push("20260620T000000".to_owned());
        assert_eq!(unknown.gone("REDUNDANCY 1", 1), (vec![5], vec![]));
    }

    #[test]
    fn nothing_goes_while_no_backup_can_be_restored() {
        let mut broken = archive(&[5, 15]);
        for (backup, _) in &mut broken.backups {
            backup.mark_damaged_pages("1 file");
        }
        assert_eq!(broken.gone("1d", 1), (vec![], vec![]));
        assert_eq!(archive(&[]).gone("1d", 1), (vec![], vec![]));
    }

    #[test]
    fn with_a_floor_wal_before_it_goes_without_any_backup() {
        let mut foreign = archive(&[]);
        // In the same 4 GiB as the floor: nobody says how large its segments are.
        foreign.floor = Some(Lsn(10 * 16 * MIB + 5));
        assert_eq!(gone(&foreign.judge(Wish::WalOnly, 1).unwrap()), (vec![], vec![]));
        foreign.floor = Some(Lsn(1 << 32));
        assert_eq!(gone(&foreign.judge(Wish::WalOnly, 1).unwrap()), (vec![], (1..=20).collect()));
        // A backup tells, and needs its own WAL all the same.
        let mut both = archive(&[5]);
        both.floor = Some(Lsn(10 * 16 * MIB));
        assert_eq!(gone(&both.judge(Wish::WalOnly, 1).unwrap()), (vec![], (1..5).collect()));
        both.floor = Some(Lsn(3 * 16 * MIB));
        assert_eq!(gone(&both.judge(Wish::WalOnly, 1).unwrap()), (vec![], vec![1, 2]));
    }

    #[test]
    fn deleting_by_name_is_refused_where_it_breaks_a_promise() {
        let mut archive = archive(&[2, 5, 9]);
        let delete = |archive: &Archive, day: u64, minimum| {
            archive.judge(Wish::Delete(format!("202606{day:02}T000000")), minimum)
        };
        assert_eq!(gone(&delete(&archive, 2, 1).unwrap()), (vec![2], vec![2, 3, 4]));
        assert_eq!(gone(&delete(&archive, 5, 1).unwrap()), (vec![5], vec![]));
        let error = delete(&archive, 5, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(
            error.to_string().contains("only 2 other backups can be restored, and the minimum redundancy is 3"),
            "{error}"
        );
        archive.backups[1].1 = Some(Keep::Standalone);
        assert!(delete(&archive, 5, 1).unwrap_err().to_string().ends_with("it is kept (standalone)"));
        archive.backups.truncate(1);
        assert!(delete(&archive, 2, 0).unwrap_err().to_string().contains("no other backup can be restored"));
        // What cannot be restored breaks no promise.
        archive.backups[0].0.status = BackupStatus::Failed;
        assert_eq!(gone(&delete(&archive, 2, 1).unwrap()).0, [2]);
    }

    #[test]
    fn a_damaged_backup_stays_where_no_other_leads() {
        let mut archive = archive(&[2, 5, 15]);
        archive.backups[0].0.mark_damaged_pages("1 file");
        assert_eq!(archive.gone("10d", 1).0, [2]);
        archive.backups[1].0.mark_damaged_pages("1 file");
        assert_eq!(archive.gone("10d", 1).0, [2]);
        let plan = archive.judge(Wish::Policy("10d".parse().unwrap()), 1).unwrap();
        assert!(plan.backups[1].verdict.why.ends_with("it holds damaged pages, but no other leads there"));
    }
}
