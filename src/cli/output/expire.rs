//! What `expire`, `delete` and `keep` print: a verdict with its reason for everything, and what became of it.

use std::collections::BTreeMap;
use std::io::Write;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::table::{Align, table};
use super::{Style, clean, emit, emit_json};
use crate::cli::invocation::OutputFormat;
use crate::cli::quantity::human_size;
use crate::cli::zone::rfc3339;
use crate::commands::debris::Debris;
use crate::commands::deletion::Deleted;
use crate::commands::expire::{ExpireRequest, Expired};
use crate::domain::barman_retention::Keep;
use crate::domain::expiry::intent;
use crate::domain::retention::Wish;
use crate::domain::timeline::TimelineId;
use crate::domain::wal_needs::WalVerdict;
use crate::error::Result;

/// The word for a verdict.
const GOES: &str = "goes";

/// What a directory is called that is no backup.
const NO_RECORD: &str = "directory without backup.info";

/// More names of one kind than this are counted only.
const NAMED: usize = 5;

/// The verdicts of an expiry, and what became of them. Field by field the JSON document.
///
/// JSON: times RFC 3339 in UTC, LSNs `16/B374D848`, sizes bytes of the store, unknown fields null.
#[derive(Debug, Clone, Serialize)]
pub struct ExpiryView {
    /// The cluster's name in the store.
    pub server: String,
    /// Whether nothing was to be deleted.
    pub dry_run: bool,
    /// The policy, in its long form; null when none was given.
    pub policy: Option<String>,
    /// What it promises.
    pub promise: Option<String>,
    /// Where its window begins.
    pub since: Option<String>,
    /// How many restorable backups stay at least.
    pub minimum_redundancy: u64,
    /// Where a base backup begins that lies elsewhere.
    pub floor_lsn: Option<String>,
    /// Backups that can be restored, before.
    pub restorable_backups: usize,
    /// The end of the oldest of them that stays: no earlier moment can be recovered to.
    pub reaches_back_to: Option<String>,
    /// Every backup.
    pub backups: Vec<BackupLine>,
    /// Every stretch of WAL.
    pub wal: Vec<WalLine>,
    /// What is left over.
    pub debris: DebrisView,
    /// Backups that were to go and stay after all, because of what was found at the second look.
    pub stay_after_all: Vec<StayLine>,
    /// What was deleted; null in a dry run and where nothing was to go.
    pub deleted: Option<DeletedView>,
    #[serde(skip)]
    reached: Option<DateTime<Utc>>,
    #[serde(skip)]
    falls_short: bool,
}

/// A backup and its verdict.
#[derive(Debug, Clone, Serialize)]
pub struct BackupLine {
    /// Its id.
    pub id: String,
    /// When it ended.
    pub ended: Option<String>,
    /// What its objects come to.
    pub stored_bytes: Option<u64>,
    /// Whether it can be restored.
    pub restorable: bool,
    /// `stays` or `goes`.
    pub verdict: &'static str,
    /// The reason.
    pub why: String,
    #[serde(skip)]
    ended_at: Option<DateTime<Utc>>,
}

/// A stretch of WAL and its verdict.
#[derive(Debug, Clone, Serialize)]
pub struct WalLine {
    /// The timeline.
    pub timeline: u32,
    /// The first segment.
    pub first: String,
    /// The last segment.
    pub last: String,
    /// How many.
    pub segments: u64,
    /// What they come to: exact for whole directories, else in proportion.
    pub stored_bytes: u64,
    /// `stays` or `goes`.
    pub verdict: &'static str,
    /// The reason.
    pub why: String,
}

/// A backup that stays after all.
#[derive(Debug, Clone, Serialize)]
pub struct StayLine {
    /// Its id.
    pub id: String,
    /// The reason.
    pub why: String,
}

/// What is left over.
#[derive(Debug, Clone, Serialize)]
pub struct DebrisView {
    /// Backups that failed or were given up.
    pub backups: Vec<String>,
    /// Directories without a `backup.info`.
    pub directories: Vec<String>,
    /// What both come to.
    pub stored_bytes: u64,
    /// Uploads that were never ended; null where the store does not tell, or was not asked.
    pub uploads: Option<Vec<String>>,
    /// WAL objects of no bytes: they stay.
    pub empty_wal: Vec<String>,
}

/// What was deleted.
#[derive(Debug, Clone, Serialize)]
pub struct DeletedView {
    /// Backups.
    pub backups: Vec<String>,
    /// WAL objects.
    pub wal_objects: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Uploads ended.
    pub uploads: u64,
    /// Objects that could not be deleted, with the reason.
    pub failures: BTreeMap<String, String>,
    /// Objects that the store keeps under a lock.
    pub locked: Vec<String>,
    /// Objects beside a deleted backup's that nobody understands: they stay.
    pub strangers: Vec<String>,
    /// More WAL goes with the next call.
    pub more_wal: bool,
}

/// A backup and how it is kept.
#[derive(Debug, Clone)]
pub struct KeepView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// How it is kept.
    pub keep: Option<Keep>,
}

impl ExpiryView {
    /// What there is to print.
    #[must_use]
    pub fn of(expired: &Expired, request: &ExpireRequest, server: &str) -> Self {
        let policy = if let Wish::Policy(policy) = request.wish { Some(policy) } else { None };
        let since = policy.and_then(|policy| policy.since(request.now));
        let plan = &expired.plan;
        let backups = plan.backups.iter().map(|backup| BackupLine {
            id: backup.id.clone(),
            ended_at: expired.ended.get(&backup.id).copied(),
            ended: expired.ended.get(&backup.id).map(|ended| rfc3339(*ended)),
            stored_bytes: expired.stored_bytes.get(&backup.id).copied(),
            restorable: backup.restorable,
            verdict: word(backup.verdict.goes),
            why: backup.verdict.why.clone(),
        });
        let wal = plan.wal.iter().map(|stretch| WalLine {
            timeline: stretch.first.timeline.number(),
            first: stretch.first.to_string(),
            last: stretch.last.to_string(),
            segments: stretch.segments,
            stored_bytes: bytes_of(stretch, &expired.wal_bytes),
            verdict: word(stretch.verdict.goes),
            why: stretch.verdict.why.clone(),
        });
        let stay = expired.changed.iter().map(|(id, why)| StayLine { id: id.clone(), why: why.clone() });
        Self {
            server: server.to_owned(),
            dry_run: request.dry_run,
            policy: policy.map(|policy| policy.to_string()),
            promise: policy.map(|policy| intent(policy, request.now)),
            since: since.map(rfc3339),
            minimum_redundancy: request.minimum_redundancy,
            floor_lsn: request.floor.map(|floor| floor.to_string()),
            restorable_backups: plan.restorable,
            reaches_back_to: expired.reaches_back_to.map(rfc3339),
            reached: expired.reaches_back_to,
            falls_short: since.zip(expired.reaches_back_to).is_some_and(|(since, reached)| reached > since),
            backups: backups.collect(),
            wal: wal.collect(),
            debris: DebrisView::of(&expired.debris),
            stay_after_all: stay.collect(),
            deleted: expired.deleted.as_ref().map(DeletedView::of),
        }
    }
}

impl DebrisView {
    fn of(debris: &Debris) -> Self {
        Self {
            backups: debris.backups.iter().map(|(id, ..)| id.clone()).collect(),
            directories: debris.directories.iter().map(|(orphan, _)| orphan.id.clone()).collect(),
            stored_bytes: debris.bytes(),
            uploads: debris.uploads.as_ref().map(|uploads| uploads.iter().map(|upload| upload.key.clone()).collect()),
            empty_wal: debris.empty_wal.clone(),
        }
    }
}

impl DeletedView {
    fn of(deleted: &Deleted) -> Self {
        Self {
            backups: deleted.backups.clone(),
            wal_objects: deleted.wal_objects,
            bytes: deleted.bytes,
            uploads: deleted.uploads,
            failures: deleted.failures.iter().map(|(key, error)| (key.clone(), error.to_string())).collect(),
            locked: deleted.locked.clone(),
            strangers: deleted.strangers.clone(),
            more_wal: deleted.more_wal,
        }
    }
}

fn word(goes: bool) -> &'static str {
    if goes { GOES } else { "stays" }
}

/// What a stretch comes to, from what each directory of segments does.
fn bytes_of(stretch: &WalVerdict, logs: &BTreeMap<(TimelineId, u32), (u64, u64)>) -> u64 {
    let timeline = stretch.first.timeline;
    let within = logs.range((timeline, stretch.first.log)..=(timeline, stretch.last.log));
    let (bytes, objects) = within.fold((0_u64, 0_u64), |sum, (_, log)| (sum.0 + log.0, sum.1 + log.1));
    let share = u128::from(bytes) * u128::from(stretch.segments.min(objects));
    share.checked_div(u128::from(objects)).and_then(|share| u64::try_from(share).ok()).unwrap_or(0)
}

/// Prints every verdict, for people.
pub fn expiry_verdicts(out: &mut dyn Write, style: Style, view: &ExpiryView) -> Result<()> {
    let mut lines = Vec::new();
    if let (Some(policy), Some(promise)) = (&view.policy, &view.promise) {
        lines.push(format!("Policy {policy}: {promise}"));
    }
    if let Some(floor) = &view.floor_lsn {
        lines.push(format!("Floor LSN {floor}: all WAL since then, for a base backup that lies elsewhere"));
    }
    let (restorable, minimum) = (view.restorable_backups, view.minimum_redundancy);
    lines.push(format!("Restorable backups: {restorable}; the minimum is {minimum}"));
    if let Some(reached) = view.reached {
        lines.push(format!("Recovery reaches back to {}", style.zone.both(reached)));
    }
    if view.falls_short {
        lines.push("! That is less than the policy asks for: no older backup can be restored.".to_owned());
    }
    let tables = [(view.backups.is_empty(), backup_table(view)), (view.wal.is_empty(), wal_table(view))];
    lines.extend(
        tables.into_iter().filter(|(is_empty, _)| !is_empty).map(|(_, table)| format!("\n{}", table.trim_end())),
    );
    emit(out, format!("{}\n\n", lines.join("\n")).as_bytes())
}

fn backup_table(view: &ExpiryView) -> String {
    let rows: Vec<Vec<String>> = view
        .backups
        .iter()
        .map(|backup| {
            vec![
                clean(&backup.id),
                backup.ended_at.map_or(String::new(), |ended| ended.format("%Y-%m-%d %H:%M:%S").to_string()),
                backup.stored_bytes.map_or(String::new(), human_size),
                backup.verdict.to_owned(),
                clean(&backup.why),
            ]
        })
        .collect();
    let headings = [
        ("BACKUP", Align::Left),
        ("ENDED (UTC)", Align::Left),
        ("STORED", Align::Right),
        ("VERDICT", Align::Left),
        ("WHY", Align::Left),
    ];
    table(&headings, &rows)
}

fn wal_table(view: &ExpiryView) -> String {
    let row = |stretch: &WalLine| {
        vec![
            stretch.timeline.to_string(),
            stretch.first.clone(),
            stretch.last.clone(),
            stretch.segments.to_string(),
            human_size(stretch.stored_bytes),
            stretch.verdict.to_owned(),
            clean(&stretch.why),
        ]
    };
    let rows: Vec<Vec<String>> = view.wal.iter().map(row).collect();
    let headings = [
        ("TIMELINE", Align::Right),
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("SEGMENTS", Align::Right),
        ("STORED", Align::Right),
        ("VERDICT", Align::Left),
        ("WHY", Align::Left),
    ];
    table(&headings, &rows)
}

/// Prints what became of it; as JSON everything.
pub fn expiry_outcome(out: &mut dyn Write, style: Style, view: &ExpiryView) -> Result<()> {
    if style.format == OutputFormat::Json {
        return emit_json(out, view);
    }
    let stays = |stay: &StayLine| format!("Backup {} stays after all: {}", clean(&stay.id), clean(&stay.why));
    let mut lines: Vec<String> = view.stay_after_all.iter().map(stays).collect();
    lines.extend(debris_lines(&view.debris));
    match &view.deleted {
        Some(deleted) => lines.extend(deleted_lines(deleted)),
        None => lines.push(what_would_go(view)),
    }
    emit(out, format!("{}\n", lines.join("\n")).as_bytes())
}

fn what_would_go(view: &ExpiryView) -> String {
    let backups = view.backups.iter().filter(|backup| backup.verdict == GOES);
    let wal = view.wal.iter().filter(|stretch| stretch.verdict == GOES);
    let bytes = backups.clone().filter_map(|backup| backup.stored_bytes).sum::<u64>()
        + wal.clone().map(|stretch| stretch.stored_bytes).sum::<u64>();
    let (backups, segments) = (backups.count() as u64, wal.map(|stretch| stretch.segments).sum::<u64>());
    if (backups, segments) == (0, 0) {
        return "Nothing goes.".to_owned();
    }
    let (backups, segments) = (counted(backups, "backup"), counted(segments, "WAL segment"));
    format!("Would delete {backups}, {segments}, about {}", human_size(bytes))
}

fn debris_lines(debris: &DebrisView) -> Vec<String> {
    let uploads = debris.uploads.as_ref().map_or(0, Vec::len);
    let kinds = [
        (debris.backups.len(), "failed or abandoned backup"),
        (debris.directories.len(), NO_RECORD),
        (uploads, "unfinished upload"),
    ];
    let kinds: Vec<String> =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, noun)| counted(*count as u64, noun)).collect();
    let mut lines = Vec::new();
    if !kinds.is_empty() {
        let bytes = human_size(debris.stored_bytes);
        lines.push(format!("Debris: {} ({bytes}); expire --debris removes it", kinds.join(", ")));
    }
    if !debris.empty_wal.is_empty() {
        lines.push(format!("Empty WAL objects, which stay: {}", named(&debris.empty_wal)));
    }
    lines
}

fn deleted_lines(deleted: &DeletedView) -> Vec<String> {
    let failures: Vec<String> = deleted.failures.keys().cloned().collect();
    let still_there = [
        (&deleted.locked, "Locked by the store, and still there"),
        (&deleted.strangers, "Not understood, and still there"),
        (&failures, "Could not be deleted"),
    ];
    let still_there = still_there.into_iter().filter(|(names, _)| !names.is_empty());
    let mut lines: Vec<String> = still_there.map(|(names, what)| format!("{what}: {}", named(names))).collect();
    if deleted.more_wal {
        lines.push("More WAL goes with the next call.".to_owned());
    }
    let mut what = vec![counted(deleted.backups.len() as u64, "backup"), counted(deleted.wal_objects, "WAL object")];
    if deleted.uploads > 0 {
        what.push(counted(deleted.uploads, "unfinished upload"));
    }
    lines.push(format!("Deleted {}, {}", what.join(", "), human_size(deleted.bytes)));
    lines
}

fn named(names: &[String]) -> String {
    let text = names.iter().take(NAMED).map(|name| clean(name)).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{text} and {} more", names.len() - NAMED) } else { text }
}

fn counted(count: u64, noun: &str) -> String {
    match (count, noun) {
        (1, _) => format!("1 {noun}"),
        (_, NO_RECORD) => format!("{count} directories without backup.info"),
        _ => format!("{count} {noun}s"),
    }
}

/// Prints how a backup is kept: a sentence, or `{"schema": 1, "backup": {"id": …, "keep": "full"}}`.
pub fn kept(out: &mut dyn Write, style: Style, view: &KeepView) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        backup: Kept<'a>,
    }
    #[derive(Serialize)]
    struct Kept<'a> {
        id: &'a str,
        name: Option<&'a str>,
        keep: Option<&'a str>,
    }
    let KeepView { id, name, keep } = view;
    if style.format == OutputFormat::Json {
        let backup = Kept { id, name: name.as_deref(), keep: keep.map(Keep::word) };
        return emit_json(out, &Document { backup });
    }
    let how = match keep {
        Some(Keep::Full) => "is kept: full, with all WAL since it began",
        Some(Keep::Standalone) => "is kept: standalone, with the WAL that makes it consistent",
        None => "is not kept: it goes when no promise needs it",
    };
    let name = name.as_ref().map_or(String::new(), |name| format!(" \"{}\"", clean(name)));
    emit(out, format!("Backup {id}{name} {how}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_takes_its_share_of_its_directories() {
        let timeline = TimelineId::FIRST;
        let logs = BTreeMap::from([((timeline, 0), (1000, 10)), ((timeline, 1), (300, 10))]);
        let stretch = |first: &str, last: &str, segments| WalVerdict {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
            segments,
            verdict: crate::domain::retention::Verdict::goes("x"),
        };
        assert_eq!(bytes_of(&stretch("000000010000000000000000", "000000010000000000000004", 5), &logs), 500);
        assert_eq!(bytes_of(&stretch("000000010000000000000000", "000000010000000100000009", 20), &logs), 1300);
        assert_eq!(bytes_of(&stretch("000000020000000000000000", "000000020000000000000004", 5), &logs), 0);
    }

    #[test]
    fn counts_and_names_read_well() {
        assert_eq!(counted(1, "backup") + &counted(2, "backup"), "1 backup2 backups");
        assert_eq!(counted(2, "directory without backup.info"), "2 directories without backup.info");
        let names: Vec<String> = (0..7).map(|number| number.to_string()).collect();
        assert_eq!(named(&names), "0, 1, 2, 3, 4 and 2 more");
    }
}
