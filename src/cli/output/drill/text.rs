//! What came of a drill, on one screen: the verdict first.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use super::super::table::{Align, fields, table};
use super::super::{Style, clean};
use super::markup::joined;
use super::{headline, level_words, outcomes, target_words, took};
use crate::cli::quantity::{human_duration, human_rate, human_size};
use crate::domain::verification::Verdict;
use crate::layout::drill_record::{DrillPhase, DrillRecord, RecoveryTime};

/// Columns of the chart of the phases.
const CHART_WIDTH: u64 = 40;

/// The summary for a terminal: verdict, why and what to do, target and proof, phases, checks, and how long a recovery takes.
#[must_use]
pub fn summary(style: Style, record: &DrillRecord) -> String {
    let paragraphs = [
        verdict(record),
        fields(0, &facts(style, record)),
        phases(style, record),
        checks(record),
        record
            .recovery
            .as_ref()
            .and_then(|recovery| recovery.sentence.as_ref())
            .map_or(String::new(), |words| format!("{}\n", clean(words))),
        joined(record.notes.iter().map(|note| format!("note: {}\n", clean(note)))),
    ];
    paragraphs.into_iter().filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("\n")
}

fn verdict(record: &DrillRecord) -> String {
    let word = match record.verdict {
        Verdict::Pass => "PASSED",
        Verdict::Fail => "FAILED",
        Verdict::Inconclusive => "INCONCLUSIVE",
    };
    let hint = record.hint.as_ref().filter(|_| record.verdict != Verdict::Pass);
    let hint = hint.map_or(String::new(), |hint| format!("do: {}\n", clean(hint)));
    format!("{word}  {}\n{hint}", clean(&headline(record)))
}

fn facts(style: Style, record: &DrillRecord) -> Vec<(&'static str, String)> {
    let span = (record.ended - record.started).to_std().unwrap_or_default();
    let number = record.sequence.map_or(String::new(), |number| format!("number {number}, "));
    let place = &record.place;
    let drill = format!(
        "{number}level {} ({}), {}, {}",
        record.level,
        level_words(record.level),
        style.zone.both(record.started.trunc_subsecs(0)),
        human_duration(span)
    );
    let mut lines = vec![
        ("server", clean(&format!("\"{}\" in {}", place.server, place.store))),
        ("drill", drill),
        ("backup", clean(&backup(style, record))),
        ("target", clean(&target_words(record, style.zone))),
    ];
    lines.extend(proof(style, record));
    lines.extend(record.recovery.as_ref().map(|recovery| ("recovery", recovery_words(recovery))));
    lines
}

fn backup(style: Style, record: &DrillRecord) -> String {
    let Some(backup) = &record.backup else { return String::new() };
    let name = backup.name.as_ref().map_or(String::new(), |name| format!(" \"{name}\""));
    let size = backup.bytes.map_or(String::new(), |bytes| format!(", {}", human_size(bytes)));
    let ended =
        backup.ended.map_or(String::new(), |time| format!(", ended {}", style.zone.both(time.trunc_subsecs(0))));
    format!("{}{name}{size}{ended}", backup.id)
}

fn proof(style: Style, record: &DrillRecord) -> Vec<(&'static str, String)> {
    let Some(proof) = &record.proof else { return Vec::new() };
    let place = |time: Option<DateTime<Utc>>, lsn: Option<&String>| {
        let time = time.map(|time| style.zone.both(time));
        let lsn = lsn.map(|lsn| format!("LSN {lsn}"));
        clean(&[time, lsn].into_iter().flatten().collect::<Vec<_>>().join(", "))
    };
    let end = proof.timeline.map_or(String::new(), |timeline| format!(", on timeline {timeline}"));
    vec![
        ("replayed to", place(None, proof.replay_lsn.as_ref())),
        ("last commit", place(proof.last_replayed, None)),
        ("next commit", place(proof.next_commit, proof.next_commit_lsn.as_ref())),
        ("PostgreSQL", clean(proof.postgresql_said.as_deref().unwrap_or(""))),
        ("ended", proof.ended_as.as_ref().map_or(String::new(), |word| clean(&format!("{word}{end}")))),
    ]
}

fn recovery_words(recovery: &RecoveryTime) -> String {
    let objective = match recovery.objective_ms {
        None => String::new(),
        Some(objective) if objective < recovery.total_ms => {
            format!(", LONGER than the {} it may take", took(objective))
        }
        Some(objective) => format!(" of the {} it may take", took(objective)),
    };
    let most = recovery.bottleneck.as_ref().map_or(String::new(), |what| format!("; most of it: {}", clean(what)));
    format!("{}{objective}{most}", took(recovery.total_ms))
}

fn phases(style: Style, record: &DrillRecord) -> String {
    if record.phases.is_empty() {
        return String::new();
    }
    let end = record.phases.iter().map(|phase| phase.began_ms.saturating_add(phase.took_ms)).max().unwrap_or(0);
    let rows: Vec<Vec<String>> = record
        .phases
        .iter()
        .map(|phase| {
            let rate = |bytes| human_rate(bytes, Duration::from_millis(phase.took_ms));
            vec![
                clean(&phase.name),
                took(phase.took_ms),
                phase.bytes.map_or(String::new(), human_size),
                phase.bytes.map_or(String::new(), rate),
                if style.charts { bar(phase, end) } else { String::new() },
            ]
        })
        .collect();
    let headings = [
        ("PHASE", Align::Left),
        ("TOOK", Align::Right),
        ("SIZE", Align::Right),
        ("RATE", Align::Right),
        ("", Align::Left),
    ];
    table(&headings, &rows)
}

/// When a phase ran, in a line that is the whole drill; the shortest shows too.
fn bar(phase: &DrillPhase, end: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let scaled = |millis: u64, cells: u64| {
        let scaled = (u128::from(millis) * u128::from(cells)).checked_div(u128::from(end)).unwrap_or(0);
        usize::try_from(scaled).unwrap_or(0)
    };
    let before = scaled(phase.began_ms, CHART_WIDTH).min(usize::try_from(CHART_WIDTH).unwrap_or(1) - 1);
    let eighths = scaled(phase.took_ms, CHART_WIDTH * 8).max(1);
    format!("{}{}{}", " ".repeat(before), "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

fn checks(record: &DrillRecord) -> String {
    if record.checks.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = record
        .checks
        .iter()
        .map(|check| {
            let text = |text: &Option<String>| clean(text.as_deref().unwrap_or(""));
            vec![
                check.outcome.to_string(),
                clean(&check.name),
                text(&check.database),
                text(&check.expected),
                text(&check.found),
                took(check.took_ms),
                text(&check.detail),
            ]
        })
        .collect();
    let headings = [
        ("CHECK", Align::Left),
        ("NAME", Align::Left),
        ("DATABASE", Align::Left),
        ("EXPECTED", Align::Left),
        ("FOUND", Align::Left),
        ("TOOK", Align::Right),
        ("DETAIL", Align::Left),
    ];
    let counted: Vec<String> =
        outcomes(record).into_iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    format!("{}checks: {}\n", table(&headings, &rows), counted.join(", "))
}
