//! Whether WAL leaves the host as fast as it is written, and whether what PostgreSQL believes to be archived is in the archive.

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::finding::{Finding, Severity};
use crate::domain::host::{ArchiverFacts, HostState, Slot};
use crate::domain::measure::{count_of, human_duration, human_size};
use crate::domain::recovery_target::postgresql_time;
use crate::domain::segment::{SegmentName, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::window::WalInventory;

/// One segment under way and one that has just been completed are everyday life.
const WAITING_IS_NORMAL: u64 = 2;

/// More segments than this, or
const WAITING_IS_A_PROBLEM: u64 = 100;

/// a longer wait, are not made up for by a moment's patience.
const WAIT_IS_A_PROBLEM: TimeDelta = TimeDelta::hours(1);

/// A volume that is full so soon is tonight's problem.
const FULL_IS_A_PROBLEM: TimeDelta = TimeDelta::hours(24);

/// Where nobody knows how fast a volume fills, this part of it must be free.
const LEAST_FREE_PERCENT: u64 = 10;

/// A slot that nobody uses may keep so much: what a short outage of its owner costs.
const KEPT_BY_IDLE_SLOT_BYTES: u64 = 1 << 30;

/// A slot in use is behind when it keeps more than this.
const KEPT_BY_ACTIVE_SLOT_BYTES: u64 = 16 << 30;

/// So many names are said in full.
const NAMED: usize = 3;

/// What is known of the archive's WAL.
#[derive(Debug, Clone, Copy)]
pub struct ArchivedWal<'a> {
    /// Its segments, listed after the server was asked.
    pub wal: &'a WalInventory,
    /// The history of the server's timeline, as far as the archive or the server has it.
    pub history: Option<&'a TimelineHistory>,
}

/// Everything that is to be said of the WAL on its way; `archive` is none where the archive could not be looked at.
#[must_use]
pub fn findings(state: &HostState, archive: Option<ArchivedWal<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(archiver) = state.archiver.as_ref().filter(|_| state.archives_now()) {
        findings.push(failing(state, archiver));
        findings.extend(archive.and_then(|archive| belief(state, archiver, archive)));
    }
    findings.extend(backlog(state));
    findings.extend(volume(state));
    findings.extend(archive.and_then(|archive| left_behind(state, archive)));
    findings.extend(slots(state));
    findings
}

fn failing(state: &HostState, archiver: &ArchiverFacts) -> Finding {
    let code = "archiver";
    let at = |time: Option<DateTime<Utc>>| time.map_or_else(|| "never".to_owned(), |time| postgresql_time(&time));
    if archiver.is_failing() {
        let file = archiver.last_failed_wal.as_deref().unwrap_or("a file");
        let since = match archiver.last_archived_time {
            Some(time) => format!("nothing was archived since {}", postgresql_time(&time)),
            None => "nothing was ever archived".to_owned(),
        };
        let what = format!(
            "archiving fails: \"{file}\" last at {}, {} in all; {since}",
            at(archiver.last_failed_time),
            count_of(archiver.failed_count, "time")
        );
        let next = match &state.data_directory {
            Some(pgdata) => format!("barback wal-archive {}/pg_wal/{file}", pgdata.display()),
            None => format!("in the data directory: barback wal-archive pg_wal/{file}"),
        };
        let why = "what was committed since is on this host alone, and WAL piles up until its volume is full";
        return Finding::new(Severity::Problem, code, what, why).with_next(next);
    }
    let Some(last) = &archiver.last_archived_wal else {
        return Finding::new(
            Severity::Warning,
            code,
            "nothing was archived yet",
            "that archiving works is shown by the first segment that is in the archive",
        )
        .with_next("SELECT pg_switch_wal(); then check again");
    };
    let what = format!("PostgreSQL archived \"{last}\" last, at {}", at(archiver.last_archived_time));
    let once = match archiver.failed_count {
        0 => String::new(),
        count => format!(
            "; {} before, \"{}\" last",
            count_of(count, "failure"),
            archiver.last_failed_wal.as_deref().unwrap_or("?")
        ),
    };
    Finding::good(code, format!("{what}{once}"))
}

/// Holds what PostgreSQL believes against what the store has.
fn belief(state: &HostState, archiver: &ArchiverFacts, archive: ArchivedWal<'_>) -> Option<Finding> {
    let code = "archived-wal";
    let last = archiver.last_archived_wal.as_deref()?;
    let claimed = claimed_segment(last, state)?;
    let missing = missing_of(claimed, state, archive);
    if missing.is_empty() {
        return Some(Finding::good(
            code,
            format!("segment \"{claimed}\", which PostgreSQL calls archived, is in the archive"),
        ));
    }
    let what =
        format!("PostgreSQL believes it has archived up to \"{last}\"; the archive does not have {}", names(&missing));
    let why =
        "PostgreSQL removes what it believes to be archived: a restore can never go beyond the first that is missing";
    let next = match &state.data_directory {
        Some(pgdata) => format!("barback wal-archive --all {}/pg_wal, then barback backup", pgdata.display()),
        None => "barback wal-archive --all with the server's pg_wal, then barback backup".to_owned(),
    };
    Some(Finding::new(Severity::Problem, code, what, why).with_next(next))
}

/// The last segment that must be in the archive when `file` is.
fn claimed_segment(file: &str, state: &HostState) -> Option<SegmentName> {
    match file.parse().ok()? {
        WalFileName::Segment(segment) => Some(segment),
        // The segment a backup began in need not be complete when its history file is archived.
        WalFileName::BackupHistory(segment, _) => {
            let before = segment.number(state.segment_size).checked_sub(1)?;
            Some(SegmentName::from_number(segment.timeline, before, state.segment_size))
        }
        WalFileName::Partial(_) | WalFileName::TimelineHistory(_) => None,
    }
}

/// From the newest segment that is there up to `claimed`.
fn missing_of(claimed: SegmentName, state: &HostState, archive: ArchivedWal<'_>) -> Missing {
    let size = state.segment_size;
    let number = claimed.number(size);
    let newest = archive.wal.runs_between(claimed.timeline, 0, number, size).last().map(|(_, last)| last);
    // A timeline of which nothing is there begins somewhere: where its history says.
    let begin = archive.history.and_then(|history| begin_of(history, claimed.timeline)).map(|lsn| size.segment_of(lsn));
    let first = newest.map_or(begin.unwrap_or(number).min(number), |newest| newest + 1);
    Missing {
        names: (first..=number)
            .take(NAMED)
            .map(|number| SegmentName::from_number(claimed.timeline, number, size))
            .collect(),
        count: (number + 1).saturating_sub(first),
        last: claimed,
    }
}

fn begin_of(history: &TimelineHistory, timeline: TimelineId) -> Option<crate::domain::lsn::Lsn> {
    let begins = history.begins();
    begins.iter().find(|(known, begin)| *known == timeline && begin.bytes() > 0).map(|(_, begin)| *begin)
}

/// Segments that are not where they should be.
struct Missing {
    names: Vec<SegmentName>,
    count: u64,
    last: SegmentName,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn names(missing: &Missing) -> String {
    let quoted: Vec<String> = missing.names.iter().map(|name| format!("\"{name}\"")).collect();
    if missing.count <= missing.names.len() as u64 {
        quoted.join(", ")
    } else {
        format!("{} … \"{}\" ({})", quoted.join(", "), missing.last, count_of(missing.count, "segment"))
    }
}

fn backlog(state: &HostState) -> Option<Finding> {
    let code = "wal-waiting";
    let segments = state.ready_segments?;
    let waited = state.ready_since.map(|since| (state.now - since).max(TimeDelta::zero()));
    let is_long = waited.is_some_and(|waited| waited > WAIT_IS_A_PROBLEM);
    let for_so_long = waited
        .and_then(|waited| waited.to_std().ok())
        .map(|waited| format!(", the first for {}", human_duration(waited)))
        .unwrap_or_default();
    let size = human_size(state.ready_bytes.unwrap_or(0));
    let what = format!("{} ({size}) wait to be archived{for_so_long}", count_of(segments, "segment"));
    let is_down = state.settings.is_none();
    let severity = match () {
        () if segments > WAITING_IS_A_PROBLEM || is_long => Severity::Problem,
        // Nobody will come for them before it is started again.
        () if is_down && (segments > 0 || waited.is_some()) => Severity::Problem,
        () if segments > WAITING_IS_NORMAL => Severity::Warning,
        () => return Some(Finding::good(code, what)),
    };
    let pg_wal = state
        .data_directory
        .as_ref()
        .map_or_else(|| "PGDATA/pg_wal".to_owned(), |pgdata| format!("{}/pg_wal", pgdata.display()));
    let (why, next) = if is_down {
        ("the server does not answer: they are on this host alone", format!("barback wal-archive --all {pg_wal}"))
    } else {
        (
            "they are on this host alone, and PostgreSQL keeps them until its volume is full",
            format!("look for archive_command in the server's log; barback wal-archive --all {pg_wal}"),
        )
    };
    Some(Finding::new(severity, code, what, why).with_next(next))
}

/// Only told of while archiving does not keep up, or where little is left.
fn volume(state: &HostState) -> Option<Finding> {
    let code = "wal-volume";
    let (free, total) = (state.wal_free_bytes?, state.wal_total_bytes?);
    let falls_behind = state.ready_segments.is_some_and(|segments| segments > WAITING_IS_NORMAL)
        || (state.archives_now() && state.archiver.as_ref().is_some_and(ArchiverFacts::is_failing));
    let is_low = free < total / 100 * LEAST_FREE_PERCENT;
    let room = format!("{} of {} are free where pg_wal lies", human_size(free), human_size(total));
    let why = "PostgreSQL stops when it cannot write WAL";
    let next = "let archiving work again, or make the volume larger; never remove files from pg_wal by hand";
    if !falls_behind {
        return Some(if is_low {
            Finding::new(Severity::Warning, code, room, why).with_next("make the volume larger")
        } else {
            Finding::good(code, room)
        });
    }
    let until_full = state.piling_up_bytes_per_s().and_then(|rate| {
        let seconds = i64::try_from(free / rate).ok()?;
        TimeDelta::try_seconds(seconds).map(|time| (rate, time))
    });
    Some(match until_full {
        Some((rate, time)) => {
            let severity = if time < FULL_IS_A_PROBLEM || is_low { Severity::Problem } else { Severity::Warning };
            let in_words = human_duration(time.to_std().unwrap_or_default());
            let what = format!("{room}; WAL piles up at {}/s and fills them in {in_words}", human_size(rate));
            Finding::new(severity, code, what, why).with_next(next)
        }
        None if is_low => {
            Finding::new(Severity::Problem, code, format!("{room} while archiving does not keep up"), why)
                .with_next(next)
        }
        None => Finding::good(code, room),
    })
}

/// Segments of earlier timelines that a promotion left in `pg_wal`: marked as done by the standby that streamed them, though
/// nobody archived them.
fn left_behind(state: &HostState, archive: ArchivedWal<'_>) -> Option<Finding> {
    let size = state.segment_size;
    let history = archive.history;
    let is_needed = |segment: &&SegmentName| {
        let number = segment.number(size);
        // The segment in which the timeline was left goes on under the newer one's name.
        let left_at = history.and_then(|history| left_at(history, segment.timeline)).map(|lsn| size.segment_of(lsn));
        let is_before_switch = left_at.is_none_or(|left_at| number < left_at);
        let is_there = (segment.timeline.number()..=state.timeline.number())
            .filter_map(TimelineId::new)
            .any(|timeline| archive.wal.contains(SegmentName::from_number(timeline, number, size)));
        is_before_switch && !is_there
    };
    let stranded: Vec<SegmentName> = state.earlier_segments.iter().filter(is_needed).copied().collect();
    let last = *stranded.last()?;
    let missing = Missing { names: stranded.iter().take(NAMED).copied().collect(), count: stranded.len() as u64, last };
    let what = format!(
        "after a change of timelines, {} lie in pg_wal and not in the archive, and no archiver will take them",
        names(&missing)
    );
    let why = "the archive has a hole there: what was committed then can be restored from this host's pg_wal alone, which will be recycled";
    let pg_wal = state
        .data_directory
        .as_ref()
        .map_or_else(|| "PGDATA/pg_wal".to_owned(), |pgdata| format!("{}/pg_wal", pgdata.display()));
    Some(
        Finding::new(Severity::Problem, "wal-left-behind", what, why)
            .with_next(format!("barback wal-archive --all {pg_wal}")),
    )
}

fn left_at(history: &TimelineHistory, timeline: TimelineId) -> Option<crate::domain::lsn::Lsn> {
    history.ancestors.iter().find(|(known, _)| *known == timeline).map(|(_, end)| *end)
}

fn slots(state: &HostState) -> Vec<Finding> {
    let mut findings: Vec<Finding> = state.slots.iter().filter_map(|slot| pinned_by(state, slot)).collect();
    let limit = state.settings.as_ref().and_then(|settings| settings.get("max_slot_wal_keep_size"));
    if !state.slots.is_empty() && limit == Some("-1") {
        findings.push(
            Finding::new(
                Severity::Warning,
                "slot-limit",
                format!(
                    "{} may keep WAL without a limit: max_slot_wal_keep_size is -1",
                    count_of(state.slots.len() as u64, "slot")
                ),
                "a standby or subscriber that stays away fills the volume, and the server stops",
            )
            .with_next("ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'; SELECT pg_reload_conf()"),
        );
    }
    findings
}

fn pinned_by(state: &HostState, slot: &Slot) -> Option<Finding> {
    let name = &slot.name;
    let drop = format!("SELECT pg_drop_replication_slot('{}'), if nobody comes back for it", name.replace('\'', "''"));
    if slot.wal_status.as_deref() == Some("lost") {
        let why = "whoever used it must be made anew; the slot itself keeps nothing any more";
        return Some(
            Finding::new(Severity::Warning, "slot-lost", format!("slot \"{name}\" has lost its WAL"), why)
                .with_next(drop),
        );
    }
    let kept = state.kept_by(slot)?;
    let limit = if slot.is_active { KEPT_BY_ACTIVE_SLOT_BYTES } else { KEPT_BY_IDLE_SLOT_BYTES };
    // A slot alone may fill what is left.
    let fills = state.wal_free_bytes.is_some_and(|free| kept > free);
    if kept <= limit && !fills {
        return None;
    }
    let idle = match (slot.is_active, slot.inactive_since) {
        (true, _) => "in use".to_owned(),
        (false, Some(since)) => format!("not used since {}", postgresql_time(&since)),
        (false, None) => "not in use".to_owned(),
    };
    let severity = if fills { Severity::Problem } else { Severity::Warning };
    let what = format!("slot \"{name}\" ({idle}) keeps {} of WAL", human_size(kept));
    let next = if slot.is_active { format!("see why the user of slot \"{name}\" is behind") } else { drop };
    Some(
        Finding::new(severity, "slot-keeps-wal", what, "WAL that a slot keeps is not recycled, though it is archived")
            .with_next(next),
    )
}

#[cfg(test)]
mod tests;
