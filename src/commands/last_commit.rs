//! How far recovery to a time can go: when the last transactions in the archive ended.

use chrono::{DateTime, Utc};

use crate::commands::archive::Archive;
use crate::commands::wal_restore::read_segment;
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::{RecoveryTarget, postgresql_time};
use crate::domain::restore_plan::RestorePlan;
use crate::domain::segment::SegmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::wal::records::RecordReader;

/// So many segments are looked into before a target is refused: records are written in another order than clocks are read,
/// but not by so much.
const SEGMENTS: u64 = 3;

/// The last commit that the archive holds on the path of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCommit {
    /// When it was made, by the server's clock.
    pub time: DateTime<Utc>,
    /// Where its record begins.
    pub lsn: Lsn,
}

/// What is known about a target that is a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// A transaction ended after it: there recovery stops.
    Stops(Option<LastCommit>),
    /// Nobody knows. The plan warns.
    Unknown,
    /// The target is no time.
    NotAsked,
}

/// What some segments say, read in order.
#[derive(Debug, Default)]
struct Seen {
    commit: Option<LastCommit>,
    latest_end: Option<DateTime<Utc>>,
}

/// Whether recovery along `plan` can stop at its target, if that is a time: PostgreSQL replays to the end of the WAL in search
/// of a transaction that ended later, and fails there when it has met none.
///
/// Reads the last segment in reach, and before it refuses the last three in order. Errors: `NotFound` when transactions ended
/// there, but none after the target; the store's, but what cannot be used is a warning.
pub(crate) async fn outlook(archive: &Archive, plan: &mut RestorePlan) -> Result<Outlook> {
    let (RecoveryTarget::Time(target), Some(last)) = (&plan.request.target, plan.reach.last) else {
        return Ok(Outlook::NotAsked);
    };
    let (target, inclusive) = (target.to_utc(), plan.request.inclusive);
    // `recoveryStopsBefore`: the transactions of the target's own time are still replayed, unless it is exclusive.
    let stops = |end: DateTime<Utc>| if inclusive { end > target } else { end >= target };
    let looks = [vec![last], last_segments(plan, last)];
    for (names, is_last) in looks.iter().zip([false, true]) {
        let seen = match look(archive, plan, names).await {
            Ok(seen) => seen,
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Mismatch | ErrorKind::NotFound) => {
                plan.warnings.push(format!("{error}; recovery fails if nothing was committed after the target"));
                return Ok(Outlook::Unknown);
            }
            Err(error) => return Err(error),
        };
        match seen.latest_end {
            Some(end) if stops(end) => return Ok(Outlook::Stops(seen.commit)),
            Some(end) if is_last => return Err(refusal(plan, &seen, end)),
            _ => {}
        }
    }
    plan.warnings.push(format!(
        "no transaction ended in the last {} segment(s) in reach: recovery fails if nothing was committed after the target",
        looks[1].len()
    ));
    Ok(Outlook::Unknown)
}

/// The last commit in reach of `plan`; none where the last three segments hold none, or cannot be used.
///
/// Reads one to three segments. Errors: the store's.
pub(crate) async fn last_commit(archive: &Archive, plan: &RestorePlan) -> Result<Option<LastCommit>> {
    let Some(last) = plan.reach.last else { return Ok(None) };
    match look(archive, plan, &last_segments(plan, last)).await {
        Ok(seen) => Ok(seen.commit),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Mismatch | ErrorKind::NotFound) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The last segments of the path, oldest first, none from before the backup.
fn last_segments(plan: &RestorePlan, last: SegmentName) -> Vec<SegmentName> {
    let size = plan.backup.segment_size;
    let (begin, end) = (plan.backup.begin_lsn.map_or(0, |lsn| size.segment_of(lsn)), last.number(size));
    let legs = plan.history.legs();
    let first = begin.max((end + 1).saturating_sub(SEGMENTS)).min(end);
    let before = (first..end).map(|number| {
        let timeline =
            legs.iter().rfind(|leg| size.segment_of(leg.begin) <= number).map_or(last.timeline, |leg| leg.timeline);
        SegmentName::from_number(timeline, number, size)
    });
    before.chain([last]).collect()
}

async fn look(archive: &Archive, plan: &RestorePlan, names: &[SegmentName]) -> Result<Seen> {
    let mut reader = RecordReader::new(plan.backup.segment_size).until(plan.reach.lsn);
    let mut seen = Seen::default();
    for name in names {
        let content = read_segment(archive, *name).await?;
        let found = reader.segment(*name, &content)?;
        if let (Some(time), Some(lsn)) = (found.last_commit, found.last_commit_lsn) {
            seen.commit = Some(LastCommit { time, lsn });
        }
        seen.latest_end = seen.latest_end.max(found.latest_end);
    }
    Ok(seen)
}

fn refusal(plan: &RestorePlan, seen: &Seen, end: DateTime<Utc>) -> Error {
    let (target, window, timeline) = (&plan.request.target, &plan.window, plan.timeline);
    let last = match seen.commit {
        Some(commit) => format!("the last commit is of {} (LSN {})", postgresql_time(&commit.time), commit.lsn),
        None => format!("the last transaction ended at {}", postgresql_time(&end)),
    };
    let message = format!(
        "could not plan a restore to {target}: no transaction that ended after it is in the archive, {last}, and PostgreSQL \
         stops at a time only where a later one ended; backups and WAL on timeline {timeline} reach {window}"
    );
    Error::new(ErrorKind::NotFound, message).with_hint(format!(
        "Leave out the target to restore everything up to that last commit, which is all that is archived of the time before the \
         target; or give a --target-time before {}; or archive the WAL first that the server still has.",
        postgresql_time(&end)
    ))
}
