//! Whether a backup can be restored along a path of timelines, and how far its WAL then leads, whatever the target.

use chrono::{DateTime, Utc};

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::lsn::Lsn;
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::window::{Reach, WalInventory};

/// Where a complete backup begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The timeline it was begun on.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub begin: Lsn,
    /// Where replay must come to.
    pub end: Lsn,
    /// When it ended.
    pub end_time: DateTime<Utc>,
}

/// Why a backup does not lead along a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreachable {
    /// It lies on another branch: nothing is wrong with it.
    OffThePath(String),
    /// WAL that it needs is not there.
    Incomplete(String),
}

impl Unreachable {
    /// The reason, as the rest of a sentence.
    #[must_use]
    pub fn into_words(self) -> String {
        match self {
            Self::OffThePath(why) | Self::Incomplete(why) => why,
        }
    }
}

/// The bounds of a backup that is `DONE` and does not contradict itself; the reason, as the rest of a sentence, for any other.
pub fn bounds_of(backup: &Backup) -> Result<Bounds, String> {
    if backup.status != BackupStatus::Done {
        return Err(format!("it is {}, not DONE", backup.status));
    }
    let (Some(timeline), Some(begin), Some(end), Some(segment), Some(end_time), true) = (
        backup.timeline,
        backup.begin_lsn,
        backup.end_lsn,
        backup.begin_segment,
        backup.end_time,
        backup.is_restorable(),
    ) else {
        return Err("it does not say where it begins and ends".to_owned());
    };
    let size = backup.segment_size;
    if segment.timeline != timeline || segment.number(size) != size.segment_of(begin) || end < begin {
        return Err(format!(
            "it contradicts itself: begin LSN {begin}, end LSN {end}, begin segment \"{segment}\", \
             timeline {timeline}, segments of {} bytes",
            size.bytes()
        ));
    }
    Ok(Bounds { timeline, begin, end, end_time: end_time.to_utc() })
}

/// How far a backup leads along `path`: at least to its own end.
pub fn reach_along(
    backup: &Backup,
    bounds: &Bounds,
    path: &TimelineHistory,
    wal: &WalInventory,
) -> Result<Reach, Unreachable> {
    check_on_path(backup, path, (bounds.begin, bounds.end)).map_err(Unreachable::OffThePath)?;
    let timeline = bounds.timeline;
    match wal.recoverable_from(backup, path) {
        Some(reach) if reach.complete_to_end_of_backup => Ok(reach),
        Some(reach) => {
            Err(Unreachable::Incomplete(format!("segment \"{}\", which it needs, is not in the archive", reach.next)))
        }
        None => Err(Unreachable::Incomplete(format!(
            "timeline {timeline} is not on the path to timeline {}",
            path.timeline
        ))),
    }
}

/// Refuses a backup whose WAL, from begin to end, is not all on the path.
pub(crate) fn check_on_path(backup: &Backup, path: &TimelineHistory, (begin, end): (Lsn, Lsn)) -> Result<(), String> {
    let legs = path.legs();
    // A standby may change timelines during a backup: it then ends on another one than it began on.
    for timeline in backup.timeline.into_iter().chain(backup.end_segment.map(|segment| segment.timeline)) {
        let Some(leg) = legs.iter().find(|leg| leg.timeline == timeline) else {
            return Err(format!("timeline {timeline} is not on the path to timeline {}", path.timeline));
        };
        if backup.timeline == Some(timeline) && begin < leg.begin {
            return Err(format!("it begins at LSN {begin}, before timeline {timeline} does at LSN {}", leg.begin));
        }
        let last = backup.end_segment.map_or(backup.timeline, |segment| Some(segment.timeline));
        if let Some(left) = leg.end.filter(|left| if last == Some(timeline) { end > *left } else { begin >= *left }) {
            return Err(format!(
                "it ends at LSN {end}, after the path to timeline {} leaves timeline {timeline} at LSN {left}",
                path.timeline
            ));
        }
    }
    Ok(())
}
