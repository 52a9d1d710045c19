//! Whether recovery stopped where it should: by what PostgreSQL said, by what it replayed, and by what the archive holds after that.

use chrono::{DateTime, Utc};

use crate::commands::archive::Archive;
use crate::commands::drill_log::{Stopped, to_micros};
use crate::commands::wal_restore::read_segment;
use crate::domain::delivery::Deliveries;
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::{RecoveryTarget, TargetRequest, postgresql_time};
use crate::domain::restore_plan::RestorePlan;
use crate::domain::segment::SegmentName;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::drill_record::TargetProof;
use crate::postgres::recovery::RecoveryState;
use crate::wal::records::RecordReader;

/// In so many segments after the stop the next transaction is looked for.
const SEGMENTS: u64 = 16;

/// Where recovery stopped.
pub(crate) struct Reached<'a> {
    pub(crate) state: RecoveryState,
    /// In PostgreSQL's own words.
    pub(crate) said: Option<String>,
    pub(crate) deliveries: &'a Deliveries,
}

/// What the archive holds beyond a stop.
#[derive(Debug, Default)]
struct Beyond {
    /// The first transaction that ended there.
    next: Option<(Lsn, DateTime<Utc>)>,
    /// Where its records end; none where that was not looked for.
    end: Option<Lsn>,
}

/// Proves that recovery stopped at the target, and nowhere before it.
///
/// Reads up to sixteen segments. Errors: a failure where it did not, with both values; the store's.
pub(crate) async fn prove(
    archive: &Archive,
    plan: &RestorePlan,
    target: &TargetRequest,
    reached: &Reached<'_>,
) -> Result<TargetProof, Stopped> {
    let replayed = reached.state.replayed.ok_or_else(|| missed("the server does not say what it has replayed"))?;
    let beyond = look_beyond(archive, plan, replayed, &target.target).await?;
    let last = reached.state.last_transaction;
    if let (RecoveryTarget::Latest, Some(missing)) = (&target.target, plan.reach.missing) {
        let message = format!("WAL goes on in the archive after {replayed}, but segment \"{missing}\" is missing");
        return Err(missed(message));
    }
    check(target, reached, replayed, last, &beyond)?;
    Ok(TargetProof {
        postgresql_said: reached.said.clone(),
        replay_lsn: Some(replayed.to_string()),
        last_replayed: last.map(to_micros),
        next_commit: beyond.next.map(|(_, time)| to_micros(time)),
        next_commit_lsn: beyond.next.map(|(lsn, _)| lsn.to_string()),
        timeline: Some(plan.timeline.number()),
        ended_as: None,
    })
}

fn check(
    target: &TargetRequest,
    reached: &Reached<'_>,
    replayed: Lsn,
    last: Option<DateTime<Utc>>,
    beyond: &Beyond,
) -> Result<(), Stopped> {
    let said = reached.said.as_deref().unwrap_or_default();
    let says = |words: &str| {
        if said.contains(words) {
            return Ok(());
        }
        Err(missed(format!("PostgreSQL was to stop at {}, it says \"{said}\"", target.target)))
    };
    match &target.target {
        RecoveryTarget::Latest => match beyond.end {
            Some(end) if replayed < end => {
                let absent = reached.deliveries.absent.last();
                let why = absent.map_or_else(String::new, |name| format!("; \"{name}\" was asked for and not found"));
                Err(missed(format!("replay ended at {replayed}, the archive goes on to {end}{why}")))
            }
            Some(_) => Ok(()),
            None => {
                let message = "could not find out where the archive ends: its last segments hold no whole record";
                Err(Stopped::inconclusive(Error::new(ErrorKind::Local, message)))
            }
        },
        RecoveryTarget::Time(time) => {
            let time = time.to_utc();
            let is_past = |found: DateTime<Utc>| if target.inclusive { found > time } else { found >= time };
            if let Some(last) = last.filter(|last| is_past(*last)) {
                let (last, time) = (postgresql_time(&last), postgresql_time(&time));
                return Err(missed(format!("the last transaction replayed is of {last}, the target is {time}")));
            }
            if let Some((lsn, next)) = beyond.next.filter(|(_, next)| !is_past(*next)) {
                let (next, time) = (postgresql_time(&next), postgresql_time(&time));
                return Err(missed(format!(
                    "the transaction at {lsn} is of {next} and was not replayed, the target is {time}"
                )));
            }
            says("recovery stopping ")
        }
        RecoveryTarget::Lsn(lsn) => {
            if target.inclusive && replayed < *lsn {
                return Err(missed(format!("replay ended at {replayed}, the target is {lsn}")));
            }
            says("WAL location (LSN)")
        }
        RecoveryTarget::Xid(xid) => says(&format!("transaction {}", xid & 0xFFFF_FFFF)),
        RecoveryTarget::Name(name) => says(&format!("restore point \"{name}\"")),
        RecoveryTarget::Immediate => says("consistency"),
    }
}

/// The first transaction that ended at `from` or later on the path of `plan`, and, for the end of the WAL, where that is.
async fn look_beyond(archive: &Archive, plan: &RestorePlan, from: Lsn, target: &RecoveryTarget) -> Result<Beyond> {
    let Some(last) = plan.reach.last else { return Ok(Beyond::default()) };
    let size = plan.backup.segment_size;
    let wants_end = *target == RecoveryTarget::Latest;
    let (first, end) = (size.segment_of(from), last.number(size));
    // For the end of the WAL nothing but the last segments tells.
    let begin = if wants_end { first.max(end.saturating_sub(1)).min(end) } else { first };
    let legs = plan.history.legs();
    let mut reader = RecordReader::new(size).until(plan.reach.lsn).looking_from(from);
    let mut beyond = Beyond::default();
    for number in (begin..=end).take(usize::try_from(SEGMENTS).unwrap_or(1)) {
        let leg = legs.iter().rfind(|leg| size.segment_of(leg.begin) <= number);
        let name = SegmentName::from_number(leg.map_or(last.timeline, |leg| leg.timeline), number, size);
        let content = match read_segment(archive, name).await {
            Ok(content) => content,
            // What lies beyond the target speaks against no recovery to it.
            Err(error)
                if !wants_end
                    && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Mismatch) =>
            {
                break;
            }
            Err(error) => return Err(error),
        };
        match reader.segment(name, &content) {
            Ok(_) => beyond.end = reader.records_end(),
            Err(_) if !wants_end => break,
            Err(error) => return Err(error),
        }
        beyond.next = reader.transaction_found();
        if beyond.next.is_some() && !wants_end {
            break;
        }
    }
    Ok(beyond)
}

fn missed(message: impl Into<String>) -> Stopped {
    Stopped::fail(Error::corrupt(format!("recovery did not stop at its target: {}", message.into())))
}
