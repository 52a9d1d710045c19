//! What a verification answers.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::backup::BackupId;
use crate::domain::lsn::Lsn;
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::timeline::TimelineId;
use crate::domain::verification::{Degree, Depth, Finding, Findings, Verdict};
use crate::domain::verify_choice::Stretch;
use crate::error::Error;

/// How much of something was looked at this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// All of it, as close as this.
    Looked(Depth),
    /// Nothing, because it passed then.
    Recent(DateTime<Utc>),
    /// Nothing: another run will.
    Left,
    /// Nothing, for this reason.
    Skipped(String),
}

/// What ended a verification before it was through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked it to.
    Signal(String),
    /// The time that it was given.
    Time,
    /// The store did not answer any more.
    Store,
}

/// A backup that was verified, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// Its id.
    pub id: BackupId,
    /// How much of it was looked at.
    pub share: Share,
    /// Whether a closer look was left for another run.
    pub is_left: bool,
    /// Its objects.
    pub objects: u64,
    /// What they come to, or how many bytes were read.
    pub bytes: u64,
    /// What was found.
    pub findings: Findings,
}

impl BackupReport {
    /// A report of which nothing is known yet.
    #[must_use]
    pub fn of(id: &BackupId) -> Self {
        Self { id: id.clone(), share: Share::Left, is_left: false, objects: 0, bytes: 0, findings: Findings::default() }
    }
}

/// Segments that follow each other, which were verified, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReport {
    /// The first of them.
    pub first: SegmentName,
    /// The last of them.
    pub last: SegmentName,
    /// The same by number.
    pub stretch: Stretch,
    /// About what they come to in the store, or how many bytes were read.
    pub bytes: u64,
    /// How much of them was looked at.
    pub share: Share,
    /// What was found.
    pub findings: Findings,
    /// The time of the last commit in them, where they were read and there is one.
    pub last_commit: Option<DateTime<Utc>>,
}

impl WalReport {
    /// A report of which nothing is known yet.
    #[must_use]
    pub fn of(stretch: Stretch, bytes: u64, size: SegmentSize) -> Self {
        let (first, last) = stretch.ends(size);
        let findings = Findings::default();
        Self { first, last, stretch, bytes, share: Share::Left, findings, last_commit: None }
    }

    fn goes_on_in(&self, next: &Self) -> bool {
        let follows = self.stretch.timeline == next.stretch.timeline && self.stretch.last + 1 == next.stretch.first;
        follows && self.share == next.share && self.findings.total() == 0 && next.findings.total() == 0
    }
}

/// How far the newest backup that was verified can be rolled forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recoverable {
    /// The timeline of the last segment.
    pub timeline: TimelineId,
    /// The end of the WAL in reach.
    pub lsn: Lsn,
    /// When its last segment was stored, if that is known.
    pub stored: Option<DateTime<Utc>>,
    /// The time of its last commit, where it was read.
    pub last_commit: Option<DateTime<Utc>>,
}

/// What a verification found.
#[derive(Debug)]
pub struct Verification {
    /// How close it was to look.
    pub depth: Depth,
    /// The backups, by id.
    pub backups: Vec<BackupReport>,
    /// The WAL that they need, by timeline.
    pub wal: Vec<WalReport>,
    /// What was found about the catalogue and the names of the WAL.
    pub findings: Findings,
    /// How far recovery leads.
    pub recoverable: Option<Recoverable>,
    /// What ended it before it was through.
    pub stop: Option<Stop>,
    /// Why what was found is not recorded, where it should be.
    pub unrecorded: Option<Error>,
    /// How long it took.
    pub took: Duration,
}

impl Verification {
    /// What all of it comes to. Damage outweighs what nobody knows; a run whose time was up has passed if it got anywhere.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let of_backups = self.backups.iter().map(|report| report.findings.verdict());
        let of_wal = self.wal.iter().map(|report| report.findings.verdict());
        let found = of_backups.chain(of_wal).max().unwrap_or(Verdict::Pass).max(self.findings.verdict());
        let of_stop = match self.stop {
            None => Verdict::Pass,
            Some(Stop::Time) if self.looked() > 0 => Verdict::Pass,
            Some(_) => Verdict::Inconclusive,
        };
        found.max(of_stop)
    }

    /// How many backups and stretches of WAL were looked at as close as was asked for.
    #[must_use]
    pub fn looked(&self) -> usize {
        let wanted = Share::Looked(self.depth);
        let backups = self.backups.iter().filter(|report| report.share == wanted).count();
        backups + self.wal.iter().filter(|report| report.share == wanted).count()
    }

    /// How many backups and stretches of WAL are left for another run.
    #[must_use]
    pub fn left(&self) -> usize {
        let is_left = |share: &Share| *share == Share::Left;
        let backups = self.backups.iter().filter(|report| report.is_left || is_left(&report.share)).count();
        backups + self.wal.iter().filter(|report| is_left(&report.share)).count()
    }

    /// The WAL, with what follows each other and was looked at alike in one report each.
    #[must_use]
    pub fn wal_joined(&self) -> Vec<WalReport> {
        let mut joined: Vec<WalReport> = Vec::new();
        for next in &self.wal {
            match joined.last_mut().filter(|before| before.goes_on_in(next)) {
                Some(before) => {
                    before.last = next.last;
                    before.stretch.last = next.stretch.last;
                    before.bytes += next.bytes;
                    before.last_commit = before.last_commit.max(next.last_commit);
                }
                None => joined.push(next.clone()),
            }
        }
        joined
    }

    /// Everything that was found and is named.
    #[must_use]
    pub fn all_findings(&self) -> Vec<&Finding> {
        let of_backups = self.backups.iter().flat_map(|report| report.findings.named());
        let of_wal = self.wal.iter().flat_map(|report| report.findings.named());
        of_backups.chain(of_wal).chain(self.findings.named()).collect()
    }

    /// How many findings of a degree there are in all.
    #[must_use]
    pub fn count(&self, degree: Degree) -> u64 {
        let of_backups: u64 = self.backups.iter().map(|report| report.findings.count(degree)).sum();
        let of_wal: u64 = self.wal.iter().map(|report| report.findings.count(degree)).sum();
        of_backups + of_wal + self.findings.count(degree)
    }
}
