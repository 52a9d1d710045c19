//! The plan of an expiry: a verdict for every backup and every stretch of WAL, and the steps in the order that makes it
//! harmless to be killed between any two of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::backup::Backup;
use crate::domain::lsn::Lsn;
use crate::domain::paths::Paths;
use crate::domain::retention::{BackupVerdict, Held, NeedsWal, Policy, Rules, Verdict, Wish, judge};
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::wal_needs::{Need, Needed, WalRules, WalVerdict};
use crate::domain::window::WalInventory;
use crate::error::Result;

/// What an archive holds, as far as the rules care.
#[derive(Debug, Clone)]
pub struct Holdings<'a> {
    /// Every backup whose record can be read.
    pub backups: Vec<Held<'a>>,
    /// The ids of those whose record cannot: nobody knows what they need.
    pub unreadable: Vec<String>,
    /// Directories without a record that were written to of late: Barman writes the record of a backup at its end.
    pub unrecorded: Vec<String>,
    /// Directories without a record that are to go.
    pub orphans: Vec<Orphan>,
    /// The complete segments.
    pub wal: &'a WalInventory,
    /// What the history files say.
    pub histories: &'a BTreeMap<TimelineId, TimelineHistory>,
    /// Where a base backup that lies elsewhere begins: WAL since then is needed.
    pub floor: Option<Lsn>,
}

/// A directory of a backup that is none (any more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its name.
    pub id: String,
    /// Why it goes.
    pub why: String,
}

/// What is to become of an archive.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpiryPlan {
    /// Every backup, in the order given; then the unreadable ones and the orphans.
    pub backups: Vec<BackupVerdict>,
    /// Every stretch of complete segments.
    pub wal: Vec<WalVerdict>,
    /// The rule for all other WAL: partial segments, backup histories.
    pub rules: WalRules,
    /// How many backups can be restored.
    pub restorable: usize,
    /// Ids of those that have no record: only their directory goes.
    pub orphans: Vec<String>,
}

/// One deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A backup's record: after that it is no backup any more.
    Record(String),
    /// Whatever else lies in a backup's directory.
    Directory(String),
    /// Segments, from the first to the last, with their companions.
    Wal(SegmentName, SegmentName),
}

/// Judges an archive.
///
/// Errors: `Conflict` where a backup that is to be deleted must stay.
pub fn plan(holdings: &Holdings<'_>, rules: &Rules) -> Result<ExpiryPlan> {
    let timelines = holdings.wal.timelines().into_iter().chain(holdings.wal.history_files());
    let of_backups = holdings.backups.iter().filter_map(|held| held.backup.timeline);
    let paths = Paths::new(timelines.chain(of_backups), holdings.histories);
    let mut backups = judge(&holdings.backups, holdings.wal, &paths, rules)?;
    let restorable = backups.iter().filter(|backup| backup.restorable).count();
    if restorable == 0 && matches!(rules.wish, Wish::Policy(_)) {
        for backup in backups.iter_mut().filter(|backup| backup.verdict.goes) {
            backup.verdict = Verdict::stays("nothing goes while no backup can be restored");
            backup.needs = NeedsWal::Since;
        }
    }
    let mut needs = needs(holdings, &backups);
    if rules.wish == Wish::Debris {
        needs.push(Need { what: Needed::Everything, why: "no policy is given".to_owned() });
    }
    let mut wal_rules = WalRules::new(&needs, &paths, segment_size(holdings));
    if let Wish::Delete(id) = &rules.wish {
        let gone: Vec<Need> = holdings
            .backups
            .iter()
            .zip(&backups)
            .filter(|(_, verdict)| verdict.id == *id && verdict.verdict.goes)
            .map(|(held, _)| need(held.backup, NeedsWal::Since, String::new()))
            .collect();
        wal_rules = wal_rules.only(&gone, &paths);
    }
    let unreadable = holdings.unreadable.iter().map(|id| (id, Verdict::stays("its backup.info cannot be read")));
    let orphans = holdings.orphans.iter().map(|orphan| (&orphan.id, Verdict::goes(orphan.why.clone())));
    backups.extend(unreadable.chain(orphans).map(|(id, verdict)| BackupVerdict {
        id: id.clone(),
        verdict,
        needs: NeedsWal::Nothing,
        restorable: false,
    }));
    Ok(ExpiryPlan {
        wal: wal_rules.stretches(holdings.wal),
        rules: wal_rules,
        backups,
        restorable,
        orphans: holdings.orphans.iter().map(|orphan| orphan.id.clone()).collect(),
    })
}

/// The deletions, in their order: first the records, so that what is on its way out is no backup for anybody; then what they
/// recorded; WAL last, the oldest first. Whatever was not reached is found again by the next plan.
#[must_use]
pub fn steps(plan: &ExpiryPlan) -> Vec<Step> {
    let going = || plan.backups.iter().filter(|backup| backup.verdict.goes).map(|backup| backup.id.clone());
    let orphans: BTreeSet<&String> = plan.orphans.iter().collect();
    let records = going().filter(|id| !orphans.contains(id)).map(Step::Record);
    let mut wal: Vec<&WalVerdict> = plan.wal.iter().filter(|stretch| stretch.verdict.goes).collect();
    wal.sort_by_key(|stretch| (stretch.first.log, stretch.first.segment, stretch.first.timeline));
    let wal = wal.into_iter().map(|stretch| Step::Wal(stretch.first, stretch.last));
    records.chain(going().map(Step::Directory)).chain(wal).collect()
}

/// What must stay of the WAL.
fn needs(holdings: &Holdings<'_>, backups: &[BackupVerdict]) -> Vec<Need> {
    let everything = |why: String| Need { what: Needed::Everything, why };
    let mut needs: Vec<Need> = Vec::new();
    if let Some(id) = holdings.unreadable.first() {
        needs.push(everything(format!("backup.info of backup {id} cannot be read: nobody knows what it needs")));
    }
    if let Some(id) = holdings.unrecorded.first() {
        needs.push(everything(format!("a backup without a record may be running in {id}: nobody knows what it needs")));
    }
    for (held, judged) in holdings.backups.iter().zip(backups).filter(|(_, judged)| !judged.verdict.goes) {
        let BackupVerdict { id, verdict, needs: what, .. } = judged;
        let why = match what {
            NeedsWal::Nothing => continue,
            NeedsWal::Own => format!("backup {id} needs it to be consistent: {}", verdict.why),
            NeedsWal::Since if held.backup.end_lsn.is_none() => {
                format!("backup {id} needs all since it began: {}", verdict.why)
            }
            NeedsWal::Since => format!("needed to recover from backup {id} to any later moment"),
        };
        needs.push(need(held.backup, *what, why));
    }
    if let Some(floor) = holdings.floor {
        let why = format!("the floor: a base backup that lies elsewhere needs all since LSN {floor}");
        needs.push(Need { what: Needed::Since(None, floor), why });
    } else if backups.iter().all(|backup| !backup.restorable) {
        needs.push(everything("nothing goes while no backup can be restored".to_owned()));
    }
    needs
}

fn need(backup: &Backup, needs: NeedsWal, why: String) -> Need {
    let what = match (needs, backup.begin_lsn, backup.timeline, backup.end_lsn) {
        (NeedsWal::Own, Some(begin), Some(timeline), Some(end)) => {
            let last = backup.end_segment.map_or(timeline, |segment| segment.timeline.max(timeline));
            Needed::Between((timeline, begin), (last, end))
        }
        (_, Some(begin), timeline, _) => Needed::Since(timeline, begin),
        _ => Needed::Everything,
    };
    let why =
        if what == Needed::Everything { format!("backup {} does not say where it begins", backup.id) } else { why };
    Need { what, why }
}

/// The size of all segments, where the backups agree about it.
fn segment_size(holdings: &Holdings<'_>) -> Option<SegmentSize> {
    let with_wal = holdings.backups.iter().filter(|held| held.backup.begin_lsn.is_some());
    let sizes: BTreeSet<SegmentSize> = with_wal.map(|held| held.backup.segment_size).collect();
    if sizes.len() == 1 { sizes.first().copied() } else { None }
}

impl ExpiryPlan {
    /// The backups that go.
    pub fn going(&self) -> impl Iterator<Item = &BackupVerdict> {
        self.backups.iter().filter(|backup| backup.verdict.goes)
    }

    /// Complete segments that go.
    #[must_use]
    pub fn segments_going(&self) -> u64 {
        self.wal.iter().filter(|stretch| stretch.verdict.goes).map(|stretch| stretch.segments).sum()
    }

    /// The last segment that goes, on each timeline.
    #[must_use]
    pub fn last_going(&self) -> BTreeMap<TimelineId, SegmentName> {
        let going = self.wal.iter().filter(|stretch| stretch.verdict.goes);
        going.map(|stretch| (stretch.last.timeline, stretch.last)).collect()
    }
}

/// What a policy asks for, in a sentence.
#[must_use]
pub fn intent(policy: Policy, now: chrono::DateTime<chrono::Utc>) -> String {
    match policy.since(now) {
        Some(since) => format!("every moment since {}", crate::domain::recovery_target::postgresql_time(&since)),
        None => match policy {
            Policy::Redundancy(1) => "the newest backup, and every moment since it".to_owned(),
            _ => "the newest backups, and every moment since the oldest of them".to_owned(),
        },
    }
}
