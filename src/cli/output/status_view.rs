//! The state of an archive as `status` and its metrics show it, field by field the JSON document.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::clean;
use crate::cli::zone::rfc3339;
use crate::commands::archive_state::ArchiveState;
use crate::commands::drill_records::NewestDrill;
use crate::commands::survey::Surveyed;
use crate::domain::archive_health::{gap_words, is_running};
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::finding::Finding;
use crate::domain::host::HostState;
use crate::domain::recoverability::{Interval, TimelineState};
use crate::error::Result;
use crate::layout::drill_record::DrillRecord;

/// The state of an archive. Field by field the JSON document.
///
/// JSON: times RFC 3339 in UTC, LSNs `16/B374D848`, sizes bytes, durations seconds, unknown fields null.
#[derive(Debug, Clone, Serialize)]
pub struct StatusView {
    /// The cluster's name in the store.
    pub server: String,
    /// The store's URL.
    pub store: String,
    /// The clusters whose backups are there; one, if all is well.
    pub system_identifiers: Vec<String>,
    /// When it was looked at.
    pub checked_at: String,
    /// The moments that can be recovered to along the latest timeline; null when there are none.
    pub recovery: Option<RecoveryView>,
    /// Every timeline, ascending.
    pub timelines: Vec<TimelineView>,
    /// Missing WAL.
    pub gaps: Vec<GapView>,
    /// Base backups.
    pub backups: BackupsView,
    /// The newest verifications on record.
    pub verifications: Vec<VerificationView>,
    /// The last drill on record; null when there never was one.
    pub drill: Option<DrillView>,
    /// What everything comes to in the store.
    pub stored: StoredView,
    /// The server on this host, where it was asked.
    pub host: Option<HostView>,
    /// What somebody should know, the worst first.
    pub findings: Vec<FindingView>,
    #[serde(skip)]
    pub(super) now: DateTime<Utc>,
    #[serde(skip)]
    pub(super) chart: Option<Chart>,
}

/// From when to when the latest timeline can be recovered.
#[derive(Debug, Clone, Serialize)]
pub struct RecoveryView {
    /// The timeline.
    pub timeline: u32,
    /// The end of the oldest backup that leads without a gap to the end.
    pub from_time: String,
    /// The same as an LSN.
    pub from_lsn: String,
    /// That backup.
    pub from_backup: String,
    /// When the last segment in reach was stored: no commit in it is younger.
    pub to_time: Option<String>,
    /// The end of the WAL in reach.
    pub to_lsn: String,
    /// The last segment in reach.
    pub last_segment: Option<String>,
    /// How long ago that segment was stored: at most so much work is lost with the server.
    pub rpo_s: Option<i64>,
    /// From the first moment to the last.
    pub window_s: Option<i64>,
}

/// One timeline.
#[derive(Debug, Clone, Serialize)]
pub struct TimelineView {
    /// Its number.
    pub timeline: u32,
    /// The timeline it grew out of.
    pub parent: Option<u32>,
    /// Where.
    pub parent_lsn: Option<String>,
    /// False when its history file is not there, so that PostgreSQL cannot follow it.
    pub history_known: bool,
    /// Complete segments.
    pub segments: u64,
    /// The last of them.
    pub last_segment: Option<String>,
    /// When it was stored.
    pub last_stored: Option<String>,
    /// What can be recovered along the path to this timeline.
    pub intervals: Vec<IntervalView>,
}

/// Any moment between its ends can be recovered to.
#[derive(Debug, Clone, Serialize)]
pub struct IntervalView {
    /// The first backup that leads into it.
    pub first_backup: String,
    /// How many backups do.
    pub backups: usize,
    /// The end of the first of them.
    pub from_time: String,
    /// The same as an LSN.
    pub from_lsn: String,
    /// When the last segment was stored.
    pub to_time: Option<String>,
    /// The end of the WAL in reach.
    pub to_lsn: String,
    /// Whether WAL goes on behind a gap.
    pub ends_in_gap: bool,
}

/// Missing segments in a row.
#[derive(Debug, Clone, Serialize)]
pub struct GapView {
    /// The first.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many.
    pub segments: u64,
    #[serde(skip)]
    pub(super) words: String,
}

/// Base backups by what they are good for.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BackupsView {
    /// All entries of the catalogue, readable or not.
    pub total: usize,
    /// Those that can be restored.
    pub restorable: usize,
    /// Those that say DONE and cannot be.
    pub unusable: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that run, or were given up less than a day ago.
    pub running: usize,
    /// Those that are kept from expiry.
    pub kept: usize,
    /// The restorable backup that ended last.
    pub last: Option<LastBackupView>,
    /// When the last failed one was begun.
    pub last_failed: Option<String>,
}

/// The last restorable backup.
#[derive(Debug, Clone, Serialize)]
pub struct LastBackupView {
    /// Its id.
    pub id: String,
    /// When it ended.
    pub end_time: Option<String>,
    /// How long ago.
    pub age_s: Option<i64>,
    /// How long it took.
    pub duration_s: Option<f64>,
    /// What it comes to in the store.
    pub stored_bytes: u64,
    /// The size of the cluster then.
    pub cluster_size_bytes: Option<u64>,
}

/// A verification on record.
#[derive(Debug, Clone, Serialize)]
pub struct VerificationView {
    /// The backup's id, or `wal`.
    pub subject: String,
    /// `quick` or `deep`.
    pub depth: String,
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: String,
    /// When.
    pub at: String,
    /// How long ago.
    pub age_s: i64,
}

/// The last drill on record.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DrillView {
    /// Its number.
    pub sequence: u64,
    /// Why its record cannot be read; then there is nothing else.
    pub error: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
    /// How long ago.
    pub age_s: Option<i64>,
    /// How far it went, 1 to 3.
    pub level: Option<u8>,
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: Option<String>,
    /// Why it did not pass.
    pub reason: Option<String>,
    /// The backup that was restored.
    pub backup: Option<String>,
    /// How long recovery took.
    pub recovery_s: Option<f64>,
    /// How long it may take.
    pub objective_s: Option<f64>,
    /// How long it would take just before the next base backup.
    pub worst_case_s: Option<f64>,
    /// When a drill last passed at level 3, this one or one before it.
    pub last_passed: Option<String>,
    /// How long ago.
    pub last_passed_age_s: Option<i64>,
}

/// Bytes in the store.
#[derive(Debug, Clone, Serialize)]
pub struct StoredView {
    /// Of backups.
    pub backup_bytes: u64,
    /// Of WAL.
    pub wal_bytes: u64,
    /// All there is below the server's prefix, as far as barback knows it.
    pub total_bytes: u64,
    /// WAL objects.
    pub wal_objects: u64,
}

/// How far the server on this host is ahead of the archive. What could not be asked is null.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HostView {
    /// Why the server did not answer; then there is nothing else.
    pub error: Option<String>,
    /// Its cluster.
    pub system_identifier: Option<String>,
    /// The timeline it writes or follows.
    pub timeline: Option<u32>,
    /// True for a standby.
    pub in_recovery: Option<bool>,
    /// Where its WAL ends.
    pub current_lsn: Option<String>,
    /// WAL that is on the server and not in reach of a recovery.
    pub lag_bytes: Option<u64>,
    /// Complete segments of it.
    pub lag_segments: Option<u64>,
    /// Segments that PostgreSQL waits to archive.
    pub ready_segments: Option<u64>,
    /// Since when the first of them waits.
    pub ready_since: Option<String>,
    /// The last file for which `archive_command` said it was archived.
    pub last_archived_wal: Option<String>,
    /// The last for which it failed.
    pub last_failed_wal: Option<String>,
    /// How often it failed.
    pub failed_count: Option<u64>,
    /// Free bytes where `pg_wal` lies.
    pub wal_free_bytes: Option<u64>,
}

/// A finding.
#[derive(Debug, Clone, Serialize)]
pub struct FindingView {
    /// `problem`, `warning`, `unknown` or `ok`.
    pub severity: &'static str,
    /// The word that stays the same from version to version.
    pub code: &'static str,
    /// What was found.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to type.
    pub next: Option<String>,
}

impl From<&Finding> for FindingView {
    fn from(finding: &Finding) -> Self {
        Self {
            severity: finding.severity.word(),
            code: finding.code,
            what: clean(&finding.what),
            why: clean(&finding.why),
            next: finding.next.as_deref().map(clean),
        }
    }
}

/// Which stretches of time can be recovered, and when backups ended.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) reachable: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    pub(super) backups: Vec<DateTime<Utc>>,
}

impl StatusView {
    /// What there is to show of `state`.
    #[must_use]
    pub fn of(state: &ArchiveState, server: &str, store: &str) -> Self {
        let ArchiveState { survey, backups, recoverability, now, .. } = state;
        let mut clusters: Vec<_> = backups.iter().filter_map(|backup| backup.system_identifier).collect();
        clusters.sort_unstable();
        clusters.dedup();
        let backup_bytes = survey.backups.iter().map(Surveyed::stored_bytes).sum();
        Self {
            server: server.to_owned(),
            store: store.to_owned(),
            system_identifiers: clusters.iter().map(ToString::to_string).collect(),
            checked_at: rfc3339(*now),
            recovery: recoverability
                .latest_timeline()
                .and_then(|latest| Some(recovery_view(latest, latest.intervals.last()?, *now))),
            timelines: recoverability.timelines.iter().map(timeline_view).collect(),
            gaps: recoverability
                .gaps
                .iter()
                .map(|gap| GapView {
                    first: gap.first.to_string(),
                    last: gap.last.to_string(),
                    segments: gap.segments,
                    words: gap_words(*gap),
                })
                .collect(),
            backups: backups_view(state),
            verifications: state
                .verifications
                .iter()
                .map(|seen| VerificationView {
                    subject: seen.subject.clone(),
                    depth: seen.depth.to_string(),
                    verdict: seen.verdict.to_string(),
                    at: rfc3339(seen.at),
                    age_s: (*now - seen.at).num_seconds(),
                })
                .collect(),
            stored: StoredView {
                backup_bytes,
                wal_bytes: survey.wal_bytes,
                total_bytes: survey.stored_bytes(),
                wal_objects: survey.wal_objects,
            },
            drill: None,
            host: None,
            findings: state.findings().iter().map(FindingView::from).collect(),
            now: *now,
            chart: chart_of(state),
        }
    }
}

impl StatusView {
    /// Adds what the newest record of a drill says.
    pub fn add_drill(&mut self, newest: &NewestDrill) {
        self.drill = Some(match &newest.record {
            Ok(record) => drill_view(newest.sequence, record, self.now),
            Err(error) => {
                DrillView { sequence: newest.sequence, error: Some(error.to_string()), ..DrillView::default() }
            }
        });
    }

    /// Adds what the server on this host said, or that it did not answer.
    pub fn add_host(&mut self, host: &Result<HostState>, archive: &ArchiveState) {
        self.host = Some(match host {
            Ok(host) => host_view(host, archive),
            Err(error) => HostView { error: Some(error.to_string()), ..HostView::default() },
        });
    }
}

fn drill_view(sequence: u64, record: &DrillRecord, now: DateTime<Utc>) -> DrillView {
    let seconds = |millis: u64| Duration::from_millis(millis).as_secs_f64();
    let age = |time: DateTime<Utc>| (now - time).num_seconds();
    let recovery = record.recovery.as_ref();
    let last_passed = record.last_passed_so_far();
    DrillView {
        sequence,
        error: None,
        ended: Some(rfc3339(record.ended)),
        age_s: Some(age(record.ended)),
        level: Some(record.level.into()),
        verdict: Some(record.verdict.to_string()),
        reason: record.reason.clone(),
        backup: record.backup.as_ref().map(|backup| backup.id.clone()),
        recovery_s: recovery.map(|recovery| seconds(recovery.total_ms)),
        objective_s: recovery.and_then(|recovery| recovery.objective_ms).map(seconds),
        worst_case_s: recovery.and_then(|recovery| recovery.worst_case_ms).map(seconds),
        last_passed: last_passed.map(rfc3339),
        last_passed_age_s: last_passed.map(age),
    }
}

fn host_view(host: &HostState, archive: &ArchiveState) -> HostView {
    let archiver = host.archiver.as_ref();
    let lag_bytes = host.current_lsn.map(|current| {
        let timelines = &archive.recoverability.timelines;
        let path = timelines.iter().find(|state| state.timeline == host.timeline);
        // A timeline without a segment of its own: nothing of what it wrote is stored.
        let stored = path.and_then(|state| state.intervals.last()).map_or(0, |interval| interval.to_lsn.bytes());
        current.bytes().saturating_sub(stored)
    });
    HostView {
        error: None,
        system_identifier: Some(host.system_identifier.to_string()),
        timeline: Some(host.timeline.number()),
        in_recovery: Some(host.in_recovery),
        current_lsn: host.current_lsn.map(|lsn| lsn.to_string()),
        lag_bytes,
        lag_segments: lag_bytes.map(|bytes| bytes / host.segment_size.bytes()),
        ready_segments: host.ready_segments,
        ready_since: host.ready_since.map(rfc3339),
        last_archived_wal: archiver.and_then(|archiver| archiver.last_archived_wal.clone()),
        last_failed_wal: archiver.and_then(|archiver| archiver.last_failed_wal.clone()),
        failed_count: archiver.map(|archiver| archiver.failed_count),
        wal_free_bytes: host.wal_free_bytes,
    }
}

fn recovery_view(latest: &TimelineState, interval: &Interval, now: DateTime<Utc>) -> RecoveryView {
    RecoveryView {
        timeline: latest.timeline.number(),
        from_time: rfc3339(interval.from_time),
        from_lsn: interval.from_lsn.to_string(),
        from_backup: interval.backups.first().map(ToString::to_string).unwrap_or_default(),
        to_time: interval.to_time.map(rfc3339),
        to_lsn: interval.to_lsn.to_string(),
        last_segment: interval.last.map(|last| last.to_string()),
        rpo_s: interval.to_time.map(|time| (now - time).num_seconds().max(0)),
        window_s: interval.to_time.map(|time| (time - interval.from_time).num_seconds().max(0)),
    }
}

fn timeline_view(state: &TimelineState) -> TimelineView {
    TimelineView {
        timeline: state.timeline.number(),
        parent: state.parent.map(|(parent, _)| parent.number()),
        parent_lsn: state.parent.map(|(_, lsn)| lsn.to_string()),
        history_known: !state.history_is_missing,
        segments: state.segments,
        last_segment: state.last.map(|last| last.to_string()),
        last_stored: state.newest.map(rfc3339),
        intervals: state
            .intervals
            .iter()
            .map(|interval| IntervalView {
                first_backup: interval.backups.first().map(ToString::to_string).unwrap_or_default(),
                backups: interval.backups.len(),
                from_time: rfc3339(interval.from_time),
                from_lsn: interval.from_lsn.to_string(),
                to_time: interval.to_time.map(rfc3339),
                to_lsn: interval.to_lsn.to_string(),
                ends_in_gap: interval.ends_in_gap,
            })
            .collect(),
    }
}

fn backups_view(state: &ArchiveState) -> BackupsView {
    let ArchiveState { survey, backups, recoverability, now, .. } = state;
    let count = |is: &dyn Fn(&Backup) -> bool| backups.iter().filter(|backup| is(backup)).count();
    let restorable = survey.backups.iter().filter(|of| recoverability.restorable.contains(&of.backup.id));
    let last = restorable.max_by_key(|surveyed| (surveyed.backup.end_time, &surveyed.backup.id));
    let failed = backups.iter().filter(|backup| backup.status == BackupStatus::Failed);
    BackupsView {
        total: backups.len() + survey.unreadable.len(),
        restorable: recoverability.restorable.len(),
        unusable: recoverability.unusable.len(),
        failed: count(&|backup| backup.status == BackupStatus::Failed),
        running: count(&|backup| is_running(backup, *now)),
        kept: survey.backups.iter().filter(|surveyed| surveyed.keep.is_some()).count(),
        last: last.map(|surveyed| {
            let backup = &surveyed.backup;
            let end = backup.end_time.map(|time| time.to_utc());
            let took = end.zip(backup.begin_time).and_then(|(end, begin)| (end - begin.to_utc()).to_std().ok());
            LastBackupView {
                id: backup.id.to_string(),
                end_time: end.map(rfc3339),
                age_s: end.map(|end| (*now - end).num_seconds()),
                duration_s: took.map(|took| took.as_secs_f64()),
                stored_bytes: surveyed.stored_bytes(),
                cluster_size_bytes: backup.cluster_size_bytes,
            }
        }),
        last_failed: failed.filter_map(|backup| backup.begin_time).max().map(|time| rfc3339(time.to_utc())),
    }
}

fn chart_of(state: &ArchiveState) -> Option<Chart> {
    let latest = state.recoverability.latest_timeline()?;
    let span = |interval: &Interval| (interval.from_time, interval.to_time.unwrap_or(interval.from_time));
    let ends = state.backups.iter().filter(|backup| state.recoverability.restorable.contains(&backup.id));
    Some(Chart {
        reachable: latest.intervals.iter().map(span).collect(),
        backups: ends.filter_map(|backup| Some(backup.end_time?.to_utc())).collect(),
    })
}
