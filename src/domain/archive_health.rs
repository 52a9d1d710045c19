//! What somebody should know about an archive, from what one look at its names has shown.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::finding::{Finding, Severity};
use crate::domain::recoverability::{Gap, Recoverability};
use crate::domain::recovery_target::postgresql_time;
use crate::domain::timeline::TimelineId;
use crate::domain::verification::{Depth, Verdict};

/// A backup job that runs once a day is late after this.
const LEAST_LATE: TimeDelta = TimeDelta::hours(25);

/// Backups whose distances tell how often one is taken.
const BACKUPS_FOR_RHYTHM: usize = 8;

/// With no segment for so long either nothing was written, or nothing reaches the store.
const QUIET_FOR: TimeDelta = TimeDelta::hours(24);

/// A daily job that rolls over everything each month has looked at every backup within this time.
const VERIFIED_WITHIN: TimeDelta = TimeDelta::days(35);

/// A backup that began longer ago and is still `STARTED` was given up: its client was killed.
const LONGEST_RUN: TimeDelta = TimeDelta::days(1);

/// So many findings of one kind are told one by one.
const TOLD_EACH: usize = 10;

/// The newest verification of one thing at one depth that is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The id of the backup, or `wal`.
    pub subject: String,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// How closely it was looked.
    pub depth: Depth,
    /// What came of it.
    pub verdict: Verdict,
}

/// What one look has shown.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveFacts<'a> {
    /// The catalogue.
    pub backups: &'a [Backup],
    /// What it is good for.
    pub recoverability: &'a Recoverability,
    /// Backups whose `backup.info` cannot be read: directory and reason.
    pub unreadable: &'a [(String, String)],
    /// Timelines whose history file cannot be read, with the reason.
    pub unreadable_histories: &'a [(TimelineId, String)],
    /// Directories below `base/` without a `backup.info`.
    pub leftovers: usize,
    /// Keys of WAL objects of no bytes.
    pub empty_wal: &'a [String],
    /// How many objects nobody understands, and the first of them.
    pub strangers: (u64, Option<&'a str>),
    /// The newest verifications on record.
    pub verifications: &'a [Verification],
    /// The time it is.
    pub now: DateTime<Utc>,
}

/// Everything worth saying, the worst first; one finding that all is well when there is nothing.
#[must_use]
pub fn findings(facts: &ArchiveFacts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(facts.backups_there());
    found.extend(facts.unreadable_things());
    found.extend(facts.unusable_backups());
    found.extend(facts.gaps());
    found.extend(facts.histories());
    found.extend(facts.clusters());
    found.extend(facts.last_backup());
    found.extend(facts.damaged_pages());
    found.extend(facts.quiet_archive());
    found.extend(facts.verification());
    found.extend(facts.debris());
    found.sort_by_key(|finding| finding.severity);
    if found.is_empty() {
        found.push(Finding::good("archive", "backups and WAL are complete from the oldest backup on"));
    }
    found
}

impl ArchiveFacts<'_> {
    fn done(&self) -> impl Iterator<Item = &Backup> {
        self.backups.iter().filter(|backup| backup.status == BackupStatus::Done)
    }

    /// The restorable backup that ended last.
    fn last_restorable(&self) -> Option<&Backup> {
        let restorable = |backup: &&Backup| self.recoverability.restorable.contains(&backup.id);
        self.done().filter(restorable).max_by_key(|backup| (backup.end_time, &backup.id))
    }

    fn backups_there(&self) -> Option<Finding> {
        let take_one = "barback backup";
        if !self.recoverability.restorable.is_empty() {
            return None;
        }
        let what = match self.done().count() {
            0 => "there is no complete base backup".to_owned(),
            count => format!("none of {count} complete base backups can be restored"),
        };
        let why = "without one nothing at all can be recovered, however much WAL there is";
        Some(Finding::new(Severity::Problem, "no-backup", what, why).with_next(take_one))
    }

    fn unreadable_things(&self) -> Vec<Finding> {
        let infos = self.unreadable.iter().map(|(id, reason)| {
            let what = format!("backup \"{id}\" cannot be judged: {reason}");
            Finding::new(Severity::Problem, "backup-unreadable", what, "it may be the one that is needed")
        });
        let histories = self.unreadable_histories.iter().map(|(timeline, reason)| {
            let what = format!("the history of timeline {timeline} cannot be read: {reason}");
            let why = "PostgreSQL cannot recover along that timeline";
            Finding::new(Severity::Problem, "history-unreadable", what, why)
        });
        told_each(infos.chain(histories).collect())
    }

    fn unusable_backups(&self) -> Vec<Finding> {
        let unusable = self.recoverability.unusable.iter().map(|(id, why)| {
            Finding::new(
                Severity::Problem,
                "backup-unusable",
                format!("backup \"{id}\" says DONE and cannot be restored: {why}"),
                "PostgreSQL would end with \"WAL ends before end of online backup\"",
            )
            .with_next("on a server that still has the segment: barback wal-archive --all \"$PGDATA/pg_wal\"")
        });
        told_each(unusable.collect())
    }

    fn gaps(&self) -> Vec<Finding> {
        let gaps = self.recoverability.gaps.iter().map(|gap| {
            let stuck = self.intervals_ending_at(*gap);
            let why = match stuck {
                Some((backup, lsn)) => {
                    format!("nothing after LSN {lsn} can be recovered from backup \"{backup}\" or those before it")
                }
                None => "nothing behind it can be recovered from a backup before it".to_owned(),
            };
            Finding::new(Severity::Problem, "wal-gap", gap_words(*gap), why).with_next(
                "on a server or standby that still has them: barback wal-archive --all \"$PGDATA/pg_wal\"; \
                 else: barback backup",
            )
        });
        let mut found = told_each(gaps.collect());
        if self.recoverability.further_gaps > 0 {
            let what = format!("there are {} further gaps", self.recoverability.further_gaps);
            found.push(Finding::new(Severity::Problem, "wal-gap", what, "see those above"));
        }
        found
    }

    /// The last backup that leads up to the gap, and how far.
    fn intervals_ending_at(&self, gap: Gap) -> Option<(&crate::domain::backup::BackupId, crate::domain::lsn::Lsn)> {
        let intervals = self.recoverability.timelines.iter().flat_map(|state| &state.intervals);
        let ending = intervals.filter(|interval| interval.ends_in_gap && interval.next == gap.first);
        ending.filter_map(|interval| Some((interval.backups.last()?, interval.to_lsn))).max_by_key(|(_, lsn)| *lsn)
    }

    fn histories(&self) -> Vec<Finding> {
        let known: BTreeSet<TimelineId> = self.unreadable_histories.iter().map(|(timeline, _)| *timeline).collect();
        let missing = self.recoverability.timelines.iter().filter(|state| state.history_is_missing);
        let missing = missing.filter(|state| !known.contains(&state.timeline)).map(|state| {
            let file = format!("{:08X}.history", state.timeline.number());
            Finding::new(
                Severity::Problem,
                "history-missing",
                format!("\"{file}\" is not in the archive, though WAL or a backup of timeline {} is", state.timeline),
                "PostgreSQL cannot recover along that timeline",
            )
            .with_next(format!("on a server that has it: barback wal-archive \"$PGDATA/pg_wal/{file}\""))
        });
        told_each(missing.collect())
    }

    fn clusters(&self) -> Option<Finding> {
        let clusters: BTreeSet<_> = self.backups.iter().filter_map(|backup| backup.system_identifier).collect();
        if clusters.len() < 2 {
            return None;
        }
        let names: Vec<String> = clusters.iter().map(ToString::to_string).collect();
        Some(
            Finding::new(
                Severity::Problem,
                "two-clusters",
                format!("the backups are of {} clusters: {}", names.len(), names.join(", ")),
                "WAL of one cannot be replayed over a backup of another",
            )
            .with_next("give each cluster a --server name of its own"),
        )
    }

    fn last_backup(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let last = self.last_restorable();
        if let Some((last, end)) = last.and_then(|last| Some((last, last.end_time?.to_utc()))) {
            let age = self.now - end;
            let late = self.rhythm().map_or(LEAST_LATE, |usual| (usual * 2).max(LEAST_LATE));
            if age > late {
                let what = format!("the last restorable backup, \"{}\", is {} old", last.id, age_words(age));
                let why = "the older it is, the more WAL a recovery has to replay";
                found.push(Finding::new(Severity::Warning, "backup-old", what, why).with_next("barback backup"));
            }
        }
        let failed = self.backups.iter().filter(|backup| backup.status == BackupStatus::Failed).max_by_key(|b| &b.id);
        if let Some(failed) = failed
            && last.is_none_or(|last| (failed.begin_time, &failed.id) > (last.begin_time, &last.id))
        {
            let error = failed.error.as_deref().unwrap_or("it does not say why");
            let what = format!("the last attempt at a backup, \"{}\", failed: {error}", failed.id);
            let why = "the next one may fail for the same reason";
            found.push(Finding::new(Severity::Warning, "backup-failed", what, why).with_next("barback backup"));
        }
        found
    }

    /// The usual time between two backups: the median of the last few.
    fn rhythm(&self) -> Option<TimeDelta> {
        let mut ends: Vec<DateTime<Utc>> = self.done().filter_map(|backup| Some(backup.end_time?.to_utc())).collect();
        ends.sort_unstable();
        let recent = &ends[ends.len().saturating_sub(BACKUPS_FOR_RHYTHM)..];
        let mut distances: Vec<TimeDelta> = recent.windows(2).map(|pair| pair[1] - pair[0]).collect();
        distances.sort_unstable();
        distances.get(distances.len() / 2).copied()
    }

    fn damaged_pages(&self) -> Vec<Finding> {
        let damaged =
            self.done().filter_map(|backup| Some((backup, backup.damaged_pages()?))).map(|(backup, pages)| {
                Finding::new(
                    Severity::Problem,
                    "damaged-pages",
                    format!("backup \"{}\" was taken of a cluster with damaged pages: {pages}", backup.id),
                    "its damaged blocks cannot be read after a restore either",
                )
                .with_next(format!("barback show {}", backup.id))
            });
        told_each(damaged.collect())
    }

    fn quiet_archive(&self) -> Option<Finding> {
        let newest = self.recoverability.timelines.iter().filter_map(|state| state.newest).max()?;
        let age = self.now - newest;
        (age > QUIET_FOR).then(|| {
            let what = format!("no WAL has been stored for {}, since {}", age_words(age), postgresql_time(&newest));
            let why = "what the server wrote since is nowhere but on the server";
            Finding::new(Severity::Warning, "archive-quiet", what, why).with_next("on the server's host: barback check")
        })
    }

    fn verification(&self) -> Vec<Finding> {
        let there = |subject: &str| subject == "wal" || self.backups.iter().any(|backup| backup.id.as_str() == subject);
        let failed = self.verifications.iter().filter(|seen| seen.verdict == Verdict::Fail && there(&seen.subject));
        let failed = failed.map(|seen| {
            let what = format!(
                "verification found damage in {} on {}",
                subject_words(&seen.subject),
                postgresql_time(&seen.at)
            );
            let next = match seen.subject.as_str() {
                "wal" => "barback verify --all --deep".to_owned(),
                id => format!("barback verify {id} --deep"),
            };
            Finding::new(Severity::Problem, "verify-failed", what, "a restore may end there").with_next(next)
        });
        let mut found = told_each(failed.collect());
        if let Some(last) = self.last_restorable() {
            let seen = self.verifications.iter().filter(|seen| {
                seen.subject == last.id.as_str()
                    && seen.verdict == Verdict::Pass
                    && self.now - seen.at < VERIFIED_WITHIN
            });
            if seen.count() == 0 && last.end_time.is_some_and(|end| self.now - end.to_utc() > QUIET_FOR) {
                let what = format!("the last restorable backup, \"{}\", has not been verified", last.id);
                let why = "objects can be lost or damaged after they were stored";
                let next = format!("barback verify {}", last.id);
                found.push(Finding::new(Severity::Warning, "unverified", what, why).with_next(next));
            }
        }
        found
    }

    fn debris(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let empty = self.empty_wal.iter().map(|key| {
            let why = "an interrupted upload by another tool: the segment is not archived";
            Finding::new(Severity::Problem, "empty-wal", format!("WAL object \"{key}\" has no bytes"), why)
        });
        found.extend(told_each(empty.collect()));
        let given_up = self.backups.iter().filter(|backup| {
            let ran_out = backup.begin_time.is_none_or(|begin| self.now.signed_duration_since(begin) > LONGEST_RUN);
            backup.status == BackupStatus::Failed || (backup.status == BackupStatus::Started && ran_out)
        });
        let (given_up, leftovers) = (given_up.count(), self.leftovers);
        if given_up + leftovers > 0 {
            let what =
                format!("{given_up} failed or abandoned backups and {leftovers} directories of none take up space");
            let why = "nothing can be restored from them";
            found.push(
                Finding::new(Severity::Warning, "debris", what, why).with_next("barback expire --debris --dry-run"),
            );
        }
        if let (count @ 1.., first) = self.strangers {
            let what = format!("{count} objects are nothing barback knows, \"{}\" for one", first.unwrap_or_default());
            found.push(Finding::new(Severity::Unknown, "strangers", what, "barback never touches them"));
        }
        found
    }
}

/// True for a backup that may be on its way this very moment.
#[must_use]
pub fn is_running(backup: &Backup, now: DateTime<Utc>) -> bool {
    backup.status == BackupStatus::Started
        && backup.begin_time.is_some_and(|begin| now.signed_duration_since(begin) <= LONGEST_RUN)
}

/// A gap in words: `WAL segment "…" is missing`, or `3 WAL segments are missing: "…" to "…"`.
#[must_use]
pub fn gap_words(gap: Gap) -> String {
    match gap.segments {
        1 => format!("WAL segment \"{}\" is missing", gap.first),
        count => format!("{count} WAL segments are missing: \"{}\" to \"{}\"", gap.first, gap.last),
    }
}

fn subject_words(subject: &str) -> String {
    if subject == "wal" { "the WAL".to_owned() } else { format!("backup \"{subject}\"") }
}

/// A duration as people say it, in its largest unit.
fn age_words(age: TimeDelta) -> String {
    match age {
        age if age >= TimeDelta::days(2) => format!("{} days", age.num_days()),
        age if age >= TimeDelta::hours(2) => format!("{} hours", age.num_hours()),
        age => format!("{} minutes", age.num_minutes()),
    }
}

/// The first few, and how many more of their kind there are.
fn told_each(mut findings: Vec<Finding>) -> Vec<Finding> {
    let more = findings.len().saturating_sub(TOLD_EACH);
    findings.truncate(TOLD_EACH);
    if let Some(last) = findings.last().filter(|_| more > 0).cloned() {
        findings.push(Finding { what: format!("and {more} more like this"), next: None, ..last });
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::backup::BackupId;
    use crate::domain::cluster::SystemIdentifier;
    use crate::domain::lsn::Lsn;
    use crate::domain::recoverability::Holdings;
    use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
    use crate::domain::timeline::TimelineHistory;
    use crate::domain::window::WalInventory;

    const SEGMENT: u64 = 16 << 20;

    fn now() -> DateTime<Utc> {
        "2026-02-01T00:00:00Z".parse().unwrap()
    }

    fn hours_ago(hours: i64) -> DateTime<Utc> {
        now() - TimeDelta::hours(hours)
    }

    fn name(number: u64) -> SegmentName {
        SegmentName::from_number(TimelineId::FIRST, number, SegmentSize::DEFAULT)
    }

    /// A complete backup that lies in one segment.
    fn backup(ended: DateTime<Utc>, number: u64) -> Backup {
        let mut backup = Backup::new(BackupId::from_clock(ended.naive_utc()));
        backup.status = BackupStatus::Done;
        backup.timeline = Some(TimelineId::FIRST);
        (backup.begin_lsn, backup.end_lsn) = (Some(Lsn(number * SEGMENT)), Some(Lsn(number * SEGMENT + 100)));
        backup.begin_segment = Some(name(number));
        (backup.begin_time, backup.end_time) = (Some(ended.fixed_offset()), Some(ended.fixed_offset()));
        backup
    }

    struct Given {
        backups: Vec<Backup>,
        segments: Vec<u64>,
        stored: DateTime<Utc>,
        verifications: Vec<Verification>,
        unreadable: Vec<(String, String)>,
        empty_wal: Vec<String>,
        leftovers: usize,
        strangers: u64,
    }

    impl Given {
        /// Three daily backups, the last an hour old, and all the WAL since the first.
        fn healthy() -> Self {
            Self {
                backups: vec![backup(hours_ago(49), 2), backup(hours_ago(25), 5), backup(hours_ago(1), 8)],
                segments: (2..10).collect(),
                stored: hours_ago(0),
                verifications: Vec::new(),
                unreadable: Vec::new(),
                empty_wal: Vec::new(),
                leftovers: 0,
                strangers: 0,
            }
        }

        fn found(&self) -> Vec<Finding> {
            let mut wal = WalInventory::new();
            for number in &self.segments {
                wal.add(&WalFileName::Segment(name(*number)), self.stored);
            }
            let histories: BTreeMap<TimelineId, TimelineHistory> = BTreeMap::new();
            let recoverability =
                Recoverability::of(Holdings { backups: &self.backups, wal: &wal, histories: &histories });
            findings(&ArchiveFacts {
                backups: &self.backups,
                recoverability: &recoverability,
                unreadable: &self.unreadable,
                unreadable_histories: &[],
                leftovers: self.leftovers,
                empty_wal: &self.empty_wal,
                strangers: (self.strangers, Some("main/wals/x")),
                verifications: &self.verifications,
                now: now(),
            })
        }
    }

    fn codes(findings: &[Finding]) -> Vec<(Severity, &'static str)> {
        findings.iter().map(|finding| (finding.severity, finding.code)).collect()
    }

    #[test]
    fn an_archive_without_fault_has_one_good_finding() {
        assert_eq!(codes(&Given::healthy().found()), [(Severity::Good, "archive")]);
    }

    #[test]
    fn a_gap_is_named_with_what_it_costs() {
        let mut given = Given::healthy();
        given.segments.retain(|number| *number != 6);
        let found = given.found();
        assert_eq!(codes(&found), [(Severity::Problem, "wal-gap")]);
        assert_eq!(found[0].what, "WAL segment \"000000010000000000000006\" is missing");
        let last = &given.backups[1].id;
        assert_eq!(
            found[0].why,
            format!("nothing after LSN 0/6000000 can be recovered from backup \"{last}\" or those before it")
        );
        given.segments.retain(|number| *number != 7);
        assert!(given.found()[0].what.starts_with("2 WAL segments are missing: "), "{:?}", given.found());
    }

    #[test]
    fn a_backup_that_says_done_and_lacks_wal_is_a_problem() {
        let mut given = Given::healthy();
        given.segments.retain(|number| *number != 8);
        let found = given.found();
        assert_eq!(
            codes(&found),
            [(Severity::Problem, "backup-unusable"), (Severity::Problem, "wal-gap"), (Severity::Warning, "unverified")]
        );
        given.segments.clear();
        assert_eq!(codes(&given.found())[0], (Severity::Problem, "no-backup"));
        given.backups.clear();
        assert_eq!(given.found()[0].what, "there is no complete base backup");
    }

    #[test]
    fn a_backup_is_old_when_twice_the_usual_time_has_passed() {
        let mut given = Given::healthy();
        given.backups.pop();
        assert_eq!(codes(&given.found()), [(Severity::Warning, "unverified")], "25 hours are no more than 48");
        given.verifications.push(verified(&given.backups[1], 3, Verdict::Pass));
        assert!(codes(&given.found()).contains(&(Severity::Good, "archive")));
        given.backups = vec![backup(hours_ago(73), 2), backup(hours_ago(49), 5)];
        assert!(codes(&given.found()).contains(&(Severity::Warning, "backup-old")), "49 hours are more than 48");
    }

    fn verified(backup: &Backup, days: i64, verdict: Verdict) -> Verification {
        Verification { subject: backup.id.to_string(), at: hours_ago(24 * days), depth: Depth::Quick, verdict }
    }

    #[test]
    fn damage_found_by_a_verification_is_a_problem_until_the_backup_is_gone() {
        let mut given = Given::healthy();
        let gone = backup(hours_ago(1000), 1);
        given.verifications = vec![verified(&given.backups[0], 3, Verdict::Fail), verified(&gone, 3, Verdict::Fail)];
        let found = given.found();
        assert_eq!(codes(&found), [(Severity::Problem, "verify-failed")]);
        assert!(found[0].what.contains(given.backups[0].id.as_str()), "{found:?}");
    }

    #[test]
    fn a_failure_matters_until_a_later_backup_succeeds() {
        let mut given = Given::healthy();
        let failed =
            Backup { status: BackupStatus::Failed, error: Some("disk full".to_owned()), ..backup(hours_ago(2), 7) };
        given.backups.insert(2, failed);
        assert_eq!(codes(&given.found()), [(Severity::Warning, "debris")]);
        given.backups.pop();
        let found = given.found();
        assert!(
            found.iter().any(|finding| finding.code == "backup-failed" && finding.what.contains("disk full")),
            "{found:?}"
        );
    }

    #[test]
    fn a_running_backup_is_no_debris_and_one_given_up_is() {
        let mut given = Given::healthy();
        let started = |hours| Backup { status: BackupStatus::Started, ..backup(hours_ago(hours), 9) };
        given.backups.push(started(2));
        assert_eq!(codes(&given.found()), [(Severity::Good, "archive")]);
        assert!(is_running(given.backups.last().unwrap(), now()));
        given.backups.push(started(30));
        assert_eq!(codes(&given.found()), [(Severity::Warning, "debris")]);
    }

    #[test]
    fn silence_two_clusters_strangers_and_damage_are_told() {
        let mut given = Given::healthy();
        given.stored = hours_ago(30);
        assert_eq!(codes(&given.found()), [(Severity::Warning, "archive-quiet")]);
        given.stored = now();
        given.backups[0].system_identifier = Some(SystemIdentifier(1));
        given.backups[1].system_identifier = Some(SystemIdentifier(2));
        given.backups[2].mark_damaged_pages("\"base/5/16384\": block 7");
        given.strangers = 3;
        given.empty_wal = vec!["main/wals/x".to_owned()];
        given.leftovers = 1;
        let expected = [
            (Severity::Problem, "two-clusters"),
            (Severity::Problem, "damaged-pages"),
            (Severity::Problem, "empty-wal"),
            (Severity::Warning, "debris"),
            (Severity::Unknown, "strangers"),
        ];
        assert_eq!(codes(&given.found()), expected);
    }

    #[test]
    fn many_of_a_kind_are_told_as_a_few_and_a_number() {
        let mut given = Given::healthy();
        given.unreadable = (0..30).map(|at| (at.to_string(), "why".to_owned())).collect();
        let found = given.found();
        assert_eq!(found.len(), TOLD_EACH + 1);
        assert_eq!(found[TOLD_EACH].what, "and 20 more like this");
    }
}
