//! What `status` prints: one screen for people, one document for programs.

use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::status_view::{Chart, FindingView, GapView, HostView, StatusView};
use super::table::{Align, fields, table};
use super::{Style, clean, emit, emit_json};
use crate::cli::invocation::OutputFormat;
use crate::cli::quantity::{human_duration, human_size};
use crate::domain::recovery_target::postgresql_time;
use crate::error::Result;

/// Columns of the chart of the recovery window.
const CHART_WIDTH: usize = 60;

/// More gaps than this are in the JSON document only.
const GAPS_SHOWN: usize = 10;

/// Prints the state of an archive.
///
/// JSON: [`StatusView`] with `"schema": 1`.
pub fn status(out: &mut dyn Write, style: Style, view: &StatusView) -> Result<()> {
    match style.format {
        OutputFormat::Json => emit_json(out, view),
        OutputFormat::Text => emit(out, text(style, view).as_bytes()),
    }
}

fn text(style: Style, view: &StatusView) -> String {
    let cluster = match &view.system_identifiers[..] {
        [cluster] => format!(", cluster {cluster}"),
        _ => String::new(),
    };
    let heading = format!("server \"{}\" in {}{cluster}\n", clean(&view.server), clean(&view.store));
    let chart = view.chart.as_ref().filter(|_| style.charts).map_or(String::new(), |chart| draw(chart, view.now));
    let timelines = if view.timelines.len() > 1 { timelines(view) } else { String::new() };
    let paragraphs =
        [heading, fields(0, &summary(style, view)), chart, timelines, gaps(&view.gaps), findings(&view.findings)];
    let paragraphs: Vec<String> = paragraphs.into_iter().filter(|paragraph| !paragraph.is_empty()).collect();
    paragraphs.join("\n")
}

fn gaps(gaps: &[GapView]) -> String {
    let more = gaps.len().saturating_sub(GAPS_SHOWN);
    let more = (more > 0).then(|| format!("and {more} more gaps: see status -o json"));
    let lines = gaps.iter().take(GAPS_SHOWN).map(|gap| gap.words.clone()).chain(more);
    lines.map(|line| line + "\n").collect()
}

fn summary<'l>(style: Style, view: &StatusView) -> Vec<(&'l str, String)> {
    let time = |text: &str| text.parse::<DateTime<Utc>>().map_or_else(|_| text.to_owned(), |at| style.zone.both(at));
    let ago = |seconds: i64| human_duration(TimeDelta::seconds(seconds.max(0)).to_std().unwrap_or_default());
    let mut lines: Vec<(&str, String)> = Vec::new();
    match &view.recovery {
        None => lines.push(("recovery", "nothing can be recovered".to_owned())),
        Some(recovery) => {
            let from =
                format!("{} (LSN {}, backup {})", time(&recovery.from_time), recovery.from_lsn, recovery.from_backup);
            let to = recovery.to_time.as_deref().map_or_else(|| "an unknown time".to_owned(), time);
            lines.push(("recovery from", from));
            lines.push(("recovery to", format!("{to} (LSN {}, timeline {})", recovery.to_lsn, recovery.timeline)));
            if let (Some(segment), Some(rpo)) = (&recovery.last_segment, recovery.rpo_s) {
                lines.push(("last WAL stored", format!("{segment}, {} ago", ago(rpo))));
            }
        }
    }
    let backups = &view.backups;
    let other: Vec<String> = [
        (backups.unusable, "cannot be restored"),
        (backups.failed, "failed"),
        (backups.running, "running"),
        (backups.kept, "kept"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    let other = if other.is_empty() { String::new() } else { format!("; {}", other.join(", ")) };
    lines.push(("backups", format!("{} restorable of {}{other}", backups.restorable, backups.total)));
    if let Some(last) = &backups.last {
        let age = last.age_s.map_or(String::new(), |age| format!(", {} ago", ago(age)));
        lines.push(("last backup", format!("{}{age}, {} stored", last.id, human_size(last.stored_bytes))));
    }
    lines.push(("verified", verified(view, &ago)));
    lines.extend(
        drilled(view, &ago).into_iter().zip(["last drill", "drill passed"]).map(|(words, label)| (label, words)),
    );
    lines.extend(view.host.as_ref().map(|host| ("this host", host_words(host))));
    lines.push((
        "stored",
        format!(
            "{}: backups {}, WAL {} in {} objects",
            human_size(view.stored.total_bytes),
            human_size(view.stored.backup_bytes),
            human_size(view.stored.wal_bytes),
            view.stored.wal_objects
        ),
    ));
    lines
}

/// How far the server is ahead, as one line.
fn host_words(host: &HostView) -> String {
    if let Some(error) = &host.error {
        return clean(error);
    }
    let lag = host.lag_bytes.map(|bytes| {
        let segments = host.lag_segments.unwrap_or_default();
        format!("{} ahead of the archive ({segments} whole segments)", human_size(bytes))
    });
    let ready = host.ready_segments.map(|ready| format!("{ready} segments wait to be archived"));
    let failing =
        host.failed_count.filter(|failed| *failed > 0).map(|failed| format!("archiving failed {failed} times"));
    let words: Vec<String> = [lag, ready, failing].into_iter().flatten().collect();
    let lsn = host.current_lsn.as_deref().unwrap_or("unknown");
    format!("LSN {lsn}, timeline {}: {}", host.timeline.unwrap_or_default(), words.join(", "))
}

fn verified(view: &StatusView, ago: &dyn Fn(i64) -> String) -> String {
    let newest = view.verifications.iter().filter(|seen| seen.subject != "wal").min_by_key(|seen| seen.age_s);
    match newest {
        None => "never".to_owned(),
        Some(seen) => {
            format!("backup {}: {} ({}), {} ago", clean(&seen.subject), seen.verdict, seen.depth, ago(seen.age_s))
        }
    }
}

/// The last drill, and when one last passed where that is another one.
fn drilled(view: &StatusView, ago: &dyn Fn(i64) -> String) -> Vec<String> {
    let Some(drill) = &view.drill else {
        return vec!["never: nothing has proved yet that a backup restores, and how long that takes".to_owned()];
    };
    if let Some(error) = &drill.error {
        return vec![clean(error)];
    }
    let time = |seconds: f64| human_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let recovery = match (drill.recovery_s, drill.objective_s) {
        (Some(took), Some(objective)) => format!(", recovered in {} (objective {})", time(took), time(objective)),
        (Some(took), None) => format!(", recovered in {}", time(took)),
        (None, _) => String::new(),
    };
    let verdict = drill.verdict.as_deref().unwrap_or_default();
    let reason = drill.reason.as_deref().map_or(String::new(), |reason| format!(": {}", clean(reason)));
    let last = format!(
        "{verdict} (level {}), {} ago{recovery}{reason}",
        drill.level.unwrap_or_default(),
        ago(drill.age_s.unwrap_or_default())
    );
    let passed = match drill.last_passed_age_s {
        None => Some("never at level 3".to_owned()),
        Some(age) => drill
            .last_passed
            .as_ref()
            .filter(|_| drill.last_passed != drill.ended)
            .map(|at| format!("{} ago at level 3 ({})", ago(age), at)),
    };
    std::iter::once(last).chain(passed).collect()
}

fn timelines(view: &StatusView) -> String {
    let rows: Vec<Vec<String>> = view
        .timelines
        .iter()
        .map(|timeline| {
            let parent = match (timeline.parent, &timeline.parent_lsn) {
                (Some(parent), Some(lsn)) => format!("{parent} at {lsn}"),
                _ if !timeline.history_known => "unknown".to_owned(),
                _ => String::new(),
            };
            let last = timeline.intervals.last();
            vec![
                timeline.timeline.to_string(),
                parent,
                timeline.segments.to_string(),
                timeline.last_segment.clone().unwrap_or_default(),
                last.map_or_else(|| "no".to_owned(), |last| format!("LSN {} to {}", last.from_lsn, last.to_lsn)),
            ]
        })
        .collect();
    let headings = [
        ("TIMELINE", Align::Right),
        ("FROM", Align::Left),
        ("SEGMENTS", Align::Right),
        ("LAST SEGMENT", Align::Left),
        ("RECOVERABLE", Align::Left),
    ];
    table(&headings, &rows)
}

/// Findings, one a line: severity, what, and below it why and what to type.
pub(super) fn findings(findings: &[FindingView]) -> String {
    let widest = findings.iter().map(|finding| finding.severity.len()).max().unwrap_or(0);
    let lines = findings.iter().flat_map(|finding| {
        let why = (!finding.why.is_empty()).then(|| format!("{:widest$}  why: {}\n", "", finding.why));
        let next = finding.next.as_ref().map(|next| format!("{:widest$}  do:  {next}\n", ""));
        let what = format!("{:<widest$}  {}\n", finding.severity, finding.what);
        [Some(what), why, next].into_iter().flatten()
    });
    lines.collect()
}

/// A line from the first backup to now: `█` can be recovered to, `·` cannot, and below it `^` where backups ended.
fn draw(chart: &Chart, now: DateTime<Utc>) -> String {
    let Some(first) = chart.reachable.iter().map(|(from, _)| *from).min().filter(|first| *first < now) else {
        return String::new();
    };
    let columns = i64::try_from(CHART_WIDTH).unwrap_or(1);
    let span = (now - first).num_seconds().max(1);
    let column = |time: DateTime<Utc>| {
        usize::try_from((time - first).num_seconds().clamp(0, span) * (columns - 1) / span).unwrap_or(0)
    };
    let (mut bar, mut marks) = (vec!['·'; CHART_WIDTH], vec![' '; CHART_WIDTH]);
    for (from, to) in &chart.reachable {
        bar[column(*from)..=column(*to).max(column(*from))].fill('█');
    }
    for end in chart.backups.iter().filter(|end| **end >= first) {
        marks[column(*end)] = '^';
    }
    let (bar, marks): (String, String) = (bar.into_iter().collect(), marks.into_iter().collect());
    format!("{bar}  now\n{}\n{}\n", marks.trim_end(), postgresql_time(&first))
}
