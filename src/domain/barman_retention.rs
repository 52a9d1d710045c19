//! Which backups go, as `barman-cloud-backup-delete` 3.19.1 decides it: the policy, the keeps, the minimum redundancy.
//!
//! Which WAL goes with them is decided in [`crate::domain::wal_removal`].

use chrono::{DateTime, FixedOffset, TimeDelta};

use crate::domain::backup::BackupStatus;

/// Barman's month, whatever the calendar says.
const DAYS_PER_MONTH: i64 = 31;

/// Why a backup must not be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// For itself: the WAL from its beginning to its end is enough.
    Standalone,
    /// As the start of recoveries to any later moment: all WAL since its beginning.
    Full,
}

impl Keep {
    /// What an annotation says: its first line counts, and anything that is not `standalone` means full (Barman 3.19.1).
    #[must_use]
    pub fn of_annotation(content: &str) -> Self {
        if content.split('\n').next().is_some_and(|line| line.trim() == Self::Standalone.word()) {
            Self::Standalone
        } else {
            Self::Full
        }
    }

    /// The word for it in annotations, arguments and answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Full => "full",
        }
    }
}

/// What the rules must know about one entry of the catalogue. Entries are given in the order of their ids.
#[derive(Debug, Clone, PartialEq)]
pub struct RetainedBackup {
    /// Its id, the name of its directory.
    pub id: String,
    /// How far it came.
    pub status: BackupStatus,
    /// Its timeline.
    pub timeline: Option<i64>,
    /// Where its WAL begins: 24 hexadecimal digits, if all is well.
    pub begin_wal: Option<String>,
    /// Where its own WAL ends.
    pub end_wal: Option<String>,
    /// When it was begun.
    pub begin_time: Option<DateTime<FixedOffset>>,
    /// When it ended.
    pub end_time: Option<DateTime<FixedOffset>>,
    /// The backup it is incremental to. Barman's cloud commands make none such.
    pub parent: Option<String>,
    /// The backups that are incremental to it.
    pub children: Option<String>,
    /// Whether it is to be kept.
    pub keep: Option<Keep>,
}

impl RetainedBackup {
    /// True for what the rules of Barman call a backup among its entries.
    pub(crate) fn is_usable(&self) -> bool {
        match &self.status {
            BackupStatus::Done => true,
            BackupStatus::Other(word) => word == "WAITING_FOR_WALS",
            BackupStatus::Started | BackupStatus::Failed => false,
        }
    }
}

/// When a backup is no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionPolicy {
    /// All but so many of the newest.
    Redundancy(u64),
    /// All that no recovery to a moment within so many days needs.
    RecoveryWindow {
        /// The length of the window.
        days: i64,
    },
}

impl RetentionPolicy {
    /// Reads `REDUNDANCY <n>` or `RECOVERY WINDOW OF <n> DAY[S]|WEEK[S]|MONTH[S]` in upper or lower case; a month has 31
    /// days. None for anything else: Barman's text about it is [`Self::refusal`].
    ///
    /// Barman 3.19.1 also knows the word `main`, and fails on it. A number too large to be counted is the largest there is.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let digits = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        match words[..] {
            ["redundancy", number] if digits(number) => Some(Self::Redundancy(number.parse().unwrap_or(u64::MAX))),
            ["recovery", "window", "of", number, unit] if digits(number) => {
                let unit_days = match unit {
                    "day" | "days" => 1,
                    "week" | "weeks" => 7,
                    "month" | "months" => DAYS_PER_MONTH,
                    _ => return None,
                };
                Some(Self::RecoveryWindow { days: number.parse().unwrap_or(i64::MAX).saturating_mul(unit_days) })
            }
            _ => None,
        }
    }

    /// What Barman 3.19.1 says to a text that is no policy, before it ends with 3.
    #[must_use]
    pub fn refusal(text: &str) -> String {
        format!("Could not create retention policy {text}: Cannot parse option retention_policy: {text}")
    }
}

/// A policy together with what it is applied under.
#[derive(Debug, Clone, Copy)]
pub struct Retention<'a> {
    /// The policy.
    pub policy: RetentionPolicy,
    /// No fewer backups than this stay.
    pub minimum_redundancy: u64,
    /// The present.
    pub now: DateTime<FixedOffset>,
    /// The server's name, for messages.
    pub server: &'a str,
}

/// What a policy says about a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// The ids of the backups that are to go, oldest first.
    pub obsolete: Vec<String>,
    /// What the operator is to hear, in Barman's words.
    pub warnings: Vec<String>,
}

impl Retention<'_> {
    /// Applies the policy to the complete (`DONE`) backups, in the order of their ids as Barman 3.19.1 does; all others stay.
    ///
    /// Kept backups stay and count. What Barman dies of is left alone: a backup without an end time, and one that others
    /// are incremental to.
    #[must_use]
    pub fn judge(&self, backups: &[RetainedBackup]) -> Judgement {
        let mut judged = Judgement::default();
        let newest_first =
            backups.iter().rev().filter(|backup| backup.status == BackupStatus::Done && backup.parent.is_none());
        match self.policy {
            RetentionPolicy::Redundancy(asked) => {
                let wanted = asked.max(self.minimum_redundancy);
                if wanted > asked {
                    judged.warnings.push(format!(
                        "Retention policy redundancy ({asked}) is lower than the required minimum redundancy ({wanted}). \
                         Enforce {wanted}."
                    ));
                }
                for (backup, newer) in newest_first.zip(0_u64..) {
                    if newer >= wanted && may_go(backup) {
                        judged.obsolete.push(backup.id.clone());
                    }
                }
            }
            RetentionPolicy::RecoveryWindow { days } => self.judge_window(days, newest_first, &mut judged),
        }
        judged.obsolete.reverse();
        judged
    }

    /// The newest backup that ended before the window is the last that is needed.
    fn judge_window<'b>(
        &self,
        days: i64,
        newest_first: impl Iterator<Item = &'b RetainedBackup>,
        judged: &mut Judgement,
    ) {
        // A window that begins before all time holds every backup.
        let Some(point) = TimeDelta::try_days(days).and_then(|window| self.now.checked_sub_signed(window)) else {
            return;
        };
        let (mut covered, mut staying) = (false, 0);
        for backup in newest_first {
            if !covered {
                covered = backup.end_time.is_some_and(|end| end < point);
                staying += 1;
            } else if !may_go(backup) {
                staying += 1;
            } else if staying < self.minimum_redundancy {
                staying += 1;
                judged.warnings.push(format!(
                    "Keeping obsolete backup {} for server {} (older than {}) due to minimum redundancy requirements ({})",
                    backup.id,
                    self.server,
                    point.format("%Y-%m-%d %H:%M:%S%.6f%:z"),
                    self.minimum_redundancy
                ));
            } else {
                judged.obsolete.push(backup.id.clone());
            }
        }
    }
}

fn may_go(backup: &RetainedBackup) -> bool {
    backup.keep.is_none() && backup.children.is_none() && backup.end_time.is_some()
}

/// Whether a backup that is named may be deleted; the error is Barman's text, with which it ends with 1.
///
/// `backups` is the whole catalogue. As in Barman 3.19.1 an id that is not there is judged as well. Failed backups count
/// towards the minimum redundancy when one of them is to go, but not when a complete one is: nobody can restore from them,
/// and Barman deletes the last complete backup over a pile of failed ones.
pub fn check_deletion(
    backups: &[RetainedBackup],
    id: &str,
    keep: Option<Keep>,
    minimum_redundancy: u64,
    server: &str,
) -> Result<(), String> {
    if keep.is_some() {
        return Err(format!(
            "Skipping delete of backup {id} for server {server} as it has a current keep request. If you really want to \
             delete this backup please remove the keep and try again."
        ));
    }
    let is_complete = backups.iter().any(|backup| backup.id == id && backup.status == BackupStatus::Done);
    let counts = |backup: &&RetainedBackup| match backup.status {
        BackupStatus::Done => true,
        BackupStatus::Started => false,
        BackupStatus::Failed | BackupStatus::Other(_) => !is_complete,
    };
    let redundancy = backups.iter().filter(counts).count();
    if minimum_redundancy > 0 && minimum_redundancy >= redundancy as u64 {
        return Err(format!(
            "Skipping delete of backup {id} for server {server} due to minimum redundancy requirements (minimum redundancy \
             = {minimum_redundancy}, current redundancy = {redundancy})"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<FixedOffset> {
        DateTime::parse_from_rfc3339(text).unwrap()
    }

    /// A complete backup of that day in January.
    fn backup(day: u32) -> RetainedBackup {
        RetainedBackup {
            id: format!("202601{day:02}T000000"),
            status: BackupStatus::Done,
            timeline: Some(1),
            begin_wal: None,
            end_wal: None,
            begin_time: None,
            end_time: Some(at(&format!("2026-01-{day:02}T00:00:00Z"))),
            parent: None,
            children: None,
            keep: None,
        }
    }

    fn judged(policy: &str, minimum_redundancy: u64, backups: &[RetainedBackup]) -> (Vec<String>, Vec<String>) {
        let policy = RetentionPolicy::parse(policy).unwrap();
        let retention = Retention { policy, minimum_redundancy, now: at("2026-01-20T00:00:00Z"), server: "main" };
        let judged = retention.judge(backups);
        let day = |id: String| id[6..8].to_owned();
        (judged.obsolete.into_iter().map(day).collect(), judged.warnings)
    }

    fn obsolete(policy: &str, minimum_redundancy: u64, backups: &[RetainedBackup]) -> Vec<String> {
        judged(policy, minimum_redundancy, backups).0
    }

    #[test]
    fn policies_are_read_as_barman_reads_them() {
        use RetentionPolicy::{RecoveryWindow, Redundancy};
        for (text, policy) in [
            ("REDUNDANCY 2", Some(Redundancy(2))),
            (" Redundancy \t 0 \n", Some(Redundancy(0))),
            ("redundancy 99999999999999999999", Some(Redundancy(u64::MAX))),
            ("RECOVERY WINDOW OF 3 DAYS", Some(RecoveryWindow { days: 3 })),
            ("recovery  window of 1 day", Some(RecoveryWindow { days: 1 })),
            ("recovery window of 2 weeks", Some(RecoveryWindow { days: 14 })),
            ("recovery window of 2 month", Some(RecoveryWindow { days: 62 })),
            ("recovery window of 9223372036854775807 weeks", Some(RecoveryWindow { days: i64::MAX })),
            ("recovery window of 1 hours", None),
            ("recovery window of 1 dayss", None),
            ("recovery window of days", None),
            ("redundancy", None),
            ("redundancy -1", None),
            ("redundancy +1", None),
            ("redundancy 1 2", None),
            ("main", None),
            ("", None),
        ] {
            assert_eq!(RetentionPolicy::parse(text), policy, "{text:?}");
        }
        assert_eq!(
            RetentionPolicy::refusal("x y"),
            "Could not create retention policy x y: Cannot parse option retention_policy: x y"
        );
    }

    #[test]
    fn an_annotation_s_first_line_counts_and_anything_but_standalone_is_full() {
        for (content, keep) in [
            ("standalone", Keep::Standalone),
            ("standalone\nfull", Keep::Standalone),
            ("full", Keep::Full),
            ("", Keep::Full),
        ] {
            assert_eq!(Keep::of_annotation(content), keep);
        }
        assert!(Keep::Full > Keep::Standalone, "of two the one that keeps more counts");
    }

    #[test]
    fn redundancy_counts_kept_backups_and_never_takes_them() {
        let mut backups: Vec<_> = (1..=5).map(backup).collect();
        assert_eq!(obsolete("redundancy 2", 0, &backups), ["01", "02", "03"]);
        backups[0].keep = Some(Keep::Full);
        backups[4].keep = Some(Keep::Standalone);
        assert_eq!(obsolete("redundancy 2", 0, &backups), ["02", "03"]);
        assert_eq!(obsolete("redundancy 0", 0, &backups), ["02", "03", "04"]);
        let (days, warnings) = judged("redundancy 2", 3, &backups);
        assert_eq!(days, ["02"]);
        assert_eq!(
            warnings,
            ["Retention policy redundancy (2) is lower than the required minimum redundancy (3). Enforce 3."]
        );
    }

    #[test]
    fn a_window_keeps_the_newest_backup_that_ended_before_it() {
        let mut backups: Vec<_> = [1, 3, 10, 15, 18].map(backup).into();
        assert_eq!(obsolete("recovery window of 7 days", 0, &backups), ["01", "03"]);
        assert_eq!(obsolete("recovery window of 10 days", 0, &backups), ["01"], "the 10th is in the window");
        assert_eq!(obsolete("recovery window of 1 month", 0, &backups), [""; 0]);
        assert_eq!(obsolete("recovery window of 99999999999 weeks", 0, &backups), [""; 0]);
        backups[0].keep = Some(Keep::Full);
        assert_eq!(obsolete("recovery window of 0 days", 0, &backups), ["03", "10", "15"]);
    }

    #[test]
    fn the_minimum_redundancy_keeps_the_newest_of_the_obsolete_and_says_so() {
        let mut backups: Vec<_> = (1..=6).map(backup).collect();
        backups[1].keep = Some(Keep::Full);
        let (days, warnings) = judged("recovery window of 7 days", 4, &backups);
        assert_eq!(days, ["01"]);
        assert_eq!(warnings.len(), 3);
        assert_eq!(
            warnings[0],
            "Keeping obsolete backup 20260105T000000 for server main (older than 2026-01-13 00:00:00.000000+00:00) due to \
             minimum redundancy requirements (4)"
        );
    }

    #[test]
    fn a_policy_leaves_alone_what_is_not_complete_or_cannot_be_judged() {
        let mut backups: Vec<_> = (1..=5).map(backup).collect();
        backups[0].status = BackupStatus::Failed;
        backups[1].status = BackupStatus::Started;
        backups[2].end_time = None;
        backups[3].children = Some("20260105T000000".to_owned());
        backups[4].parent = Some("20260104T000000".to_owned());
        for policy in ["redundancy 0", "recovery window of 1 day"] {
            assert_eq!(obsolete(policy, 0, &backups), [""; 0]);
        }
    }

    fn named(backups: &[RetainedBackup], id: &str, minimum_redundancy: u64) -> Result<(), String> {
        let keep = backups.iter().find(|backup| backup.id == id).and_then(|backup| backup.keep);
        check_deletion(backups, id, keep, minimum_redundancy, "main")
    }

    #[test]
    fn a_kept_backup_is_not_deleted_by_name() {
        let kept = RetainedBackup { keep: Some(Keep::Full), ..backup(1) };
        assert_eq!(
            named(&[kept], "20260101T000000", 0).unwrap_err(),
            "Skipping delete of backup 20260101T000000 for server main as it has a current keep request. If you really want to \
             delete this backup please remove the keep and try again."
        );
    }

    #[test]
    fn the_minimum_redundancy_counts_as_barman_counts_for_what_is_not_complete() {
        let mut backups: Vec<_> = (1..=4).map(backup).collect();
        backups[0].status = BackupStatus::Failed;
        backups[1].status = BackupStatus::Started;
        assert!(named(&backups, "20260101T000000", 2).is_ok());
        assert_eq!(
            named(&backups, "20260101T000000", 3).unwrap_err(),
            "Skipping delete of backup 20260101T000000 for server main due to minimum redundancy requirements (minimum \
             redundancy = 3, current redundancy = 3)"
        );
        assert!(
            named(&backups, "20250101T000000", 5)
                .unwrap_err()
                .ends_with("(minimum redundancy = 5, current redundancy = 3)")
        );
        assert!(named(&[], "20250101T000000", 0).is_ok());
    }

    /// Barman 3.19.1 would delete the only complete backup here.
    #[test]
    fn failed_backups_do_not_stand_in_for_complete_ones() {
        let mut backups: Vec<_> = (1..=3).map(backup).collect();
        backups[1].status = BackupStatus::Failed;
        backups[2].status = BackupStatus::Failed;
        assert!(
            named(&backups, "20260101T000000", 1)
                .unwrap_err()
                .ends_with("(minimum redundancy = 1, current redundancy = 1)")
        );
        assert!(named(&backups, "20260102T000000", 1).is_ok());
    }

    fn any_catalogue() -> impl Strategy<Value = Vec<RetainedBackup>> {
        let any = (0..40_i64, 0..5_u8, 0..4_u8).prop_map(|(hours_ago, status, keep)| RetainedBackup {
            status: [
                BackupStatus::Done,
                BackupStatus::Done,
                BackupStatus::Done,
                BackupStatus::Failed,
                BackupStatus::Started,
            ][usize::from(status)]
            .clone(),
            keep: [None, None, Some(Keep::Full), Some(Keep::Standalone)][usize::from(keep)],
            end_time: Some(DateTime::<Utc>::UNIX_EPOCH.fixed_offset() - TimeDelta::hours(hours_ago * 12)),
            ..backup(1)
        });
        prop::collection::vec(any, 0..12).prop_map(|mut backups| {
            for (at, backup) in backups.iter_mut().enumerate() {
                backup.id = format!("202601{:02}T000000", at + 1);
            }
            backups
        })
    }

    proptest! {
        #[test]
        fn no_policy_takes_kept_or_unfinished_backups_or_more_than_the_minimum(
            backups in any_catalogue(), days in 0..20_i64, number in 0..6_u64, minimum_redundancy in 0..5_u64, window: bool
        ) {
            let policy =
                if window { RetentionPolicy::RecoveryWindow { days } } else { RetentionPolicy::Redundancy(number) };
            let now = DateTime::<Utc>::UNIX_EPOCH.fixed_offset();
            let judged = Retention { policy, minimum_redundancy, now, server: "main" }.judge(&backups);
            let goes = |backup: &&RetainedBackup| judged.obsolete.contains(&backup.id);
            for backup in backups.iter().filter(goes) {
                prop_assert!(backup.status == BackupStatus::Done && backup.keep.is_none());
            }
            let done = |backup: &&RetainedBackup| backup.status == BackupStatus::Done;
            let (all, gone) = (backups.iter().filter(done).count(), judged.obsolete.len());
            prop_assert!(gone == 0 || (all - gone) as u64 >= minimum_redundancy);
            prop_assert!(judged.obsolete.is_sorted());
            // Whatever goes by a window, a complete backup from before it stays.
            if window && gone > 0 {
                let point = now - TimeDelta::days(days);
                let stays = |backup: &&RetainedBackup| done(backup) && !goes(backup);
                prop_assert!(backups.iter().filter(stays).any(|backup| backup.end_time.unwrap() < point));
            }
        }
    }
}
