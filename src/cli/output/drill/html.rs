//! The page for people: verdict, timeline, proof, checks, recovery time, earlier drills and evidence, in one file.
//!
//! It asks nothing of anybody: no script, no picture, no font, no link. Whatever was not written here is escaped.

use std::time::Duration;

use super::markup::{Escaped, Percent, joined, terms};
use super::{chart, earlier, headline, history_chart, level_words, outcomes, proof, sentence, took, utc};
use crate::cli::quantity::{count_of, human_duration, human_rate, human_size};
use crate::commands::drill_records::DrillHistory;
use crate::domain::drill::{CheckOutcome, DrillLevel};
use crate::domain::verification::Verdict;
use crate::layout::drill_record::{DrillCheck, DrillRecord, RecoveryTime};

/// How the page looks: on a screen, in the dark, on a phone, on paper.
const STYLE_SHEET: &str = include_str!("page.css");

/// The text of `drill.html`. Times are in UTC. `history`: the drills on record, with or without this one.
#[must_use]
pub fn html(record: &DrillRecord, history: Option<&DrillHistory>) -> String {
    let sections = [
        ("", tiles(record)),
        ("Where the time went", chart::timeline(record)),
        (target_title(record), if is_recovery(record) { proof::section(record) } else { String::new() }),
        ("What was checked", checks(record)),
        ("How long a recovery takes", record.recovery.as_ref().map_or(String::new(), recovery)),
        ("Worth knowing", notes(record)),
        ("Drills so far", past(record, history)),
        ("Where, and with what", place(record)),
        ("Evidence", evidence(record, history)),
    ];
    let body = joined(sections.iter().filter(|(_, text)| !text.is_empty()).map(|(title, text)| {
        let title = if title.is_empty() { String::new() } else { format!("<h2>{title}</h2>\n") };
        format!("<section>\n{title}{text}</section>\n")
    }));
    let word = verdict_word(record.verdict);
    let style = STYLE_SHEET.split_once("*/").map_or(STYLE_SHEET, |(_, rules)| rules);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{word}: {}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{}{body}{SIGNATURES}</main>\n{}</body>\n</html>\n",
        Escaped(&format!("recovery drill of {}, {}", record.place.server, record.started.format("%Y-%m-%d"))),
        head(record),
        foot(record),
    )
}

/// For paper: who has read it.
const SIGNATURES: &str = "<section class=\"paper\">\n<h2>Reviewed</h2>\n\
                          <p class=\"sign-here\"><span>Name</span><span>Date</span><span>Signature</span></p>\n</section>\n";

fn is_recovery(record: &DrillRecord) -> bool {
    record.level == DrillLevel::Recovery && !record.target.asked.is_empty()
}

fn target_title(record: &DrillRecord) -> &'static str {
    match &record.proof {
        None => "The target",
        Some(_) if proof::is_past(record) => "The target, and what was reached",
        Some(_) => "The target, and the proof that it was met",
    }
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "Passed",
        Verdict::Fail => "Failed",
        Verdict::Inconclusive => "Inconclusive",
    }
}

fn head(record: &DrillRecord) -> String {
    let (class, sign) = history_chart::looks(record.verdict);
    let number = record.sequence.map_or(String::new(), |number| format!(" No. {number}"));
    let meaning = match record.verdict {
        Verdict::Pass => "",
        Verdict::Fail => "The backup or the archive is at fault.",
        Verdict::Inconclusive => "The drill could not be carried through, which says nothing about the backup.",
    };
    let said = headline(record);
    let hint = record.hint.as_ref().filter(|_| record.verdict != Verdict::Pass);
    let hint = hint.map_or(String::new(), |hint| {
        format!("<p class=\"hint\"><b>What to do</b> {}</p>\n", Escaped(&sentence(hint)))
    });
    let meaning = if meaning.is_empty() { String::new() } else { format!("<p class=\"meaning\">{meaning}</p>\n") };
    let took = (record.ended - record.started).to_std().unwrap_or_default();
    format!(
        "<header class=\"{class}\">\n<p class=\"over\">Recovery drill{number} <span>server <b>{}</b></span></p>\n\
         <h1><span class=\"seal\" aria-hidden=\"true\">{sign}</span>{}</h1>\n{meaning}<p class=\"lead\">{}</p>\n{hint}\
         <p class=\"when\">{} to {} · {} · level {} of 3: {}</p>\n</header>\n",
        Escaped(&record.place.server),
        verdict_word(record.verdict),
        Escaped(&said),
        record.started.format("%-d %B %Y, %H:%M:%S"),
        if record.started.date_naive() == record.ended.date_naive() {
            record.ended.format("%H:%M:%S UTC")
        } else {
            record.ended.format("%-d %B %Y, %H:%M:%S UTC")
        },
        human_duration(took),
        record.level,
        level_words(record.level),
    )
}

/// What a manager looks at first.
fn tiles(record: &DrillRecord) -> String {
    let mut tiles = Vec::new();
    let mut tile = |title: &str, value: &str, class: &str, below: &str| {
        tiles.push(format!(
            "<div class=\"tile {class}\"><h3>{title}</h3><p class=\"big\">{}</p>{below}</div>\n",
            Escaped(value)
        ));
    };
    if let Some(recovery) = &record.recovery {
        let (class, below) = against(recovery.total_ms, recovery.objective_ms);
        tile("Recovery took", &took(recovery.total_ms), class, &below);
        if let Some(worst) = recovery.worst_case_ms {
            let (class, below) = against(worst, recovery.objective_ms);
            let below = format!("<p>just before the next base backup</p>{below}");
            tile("At the worst moment", &took(worst), class, &below);
        }
    }
    // Of a drill that broke off it would stand there alone, and say nothing of it.
    let is_through = record.recovery.is_some() || record.verdict == Verdict::Pass;
    if let Some(bytes) = record.backup.as_ref().and_then(|backup| backup.bytes).filter(|_| is_through) {
        let replayed = record.recovery.as_ref().map(|recovery| recovery.replayed_bytes).filter(|bytes| *bytes > 0);
        let replayed =
            replayed.map_or(String::new(), |bytes| format!("<p>and {} of WAL replayed</p>", human_size(bytes)));
        tile("Cluster", &human_size(bytes), "", &replayed);
    }
    let outcomes = outcomes(record);
    if let Some((worst, count)) = outcomes.first() {
        let others: Vec<String> =
            outcomes[1..].iter().map(|(outcome, count)| format!("{count} {}", outcome_words(*outcome))).collect();
        let class = if *worst == CheckOutcome::Fail { "bad" } else { "" };
        let below = if others.is_empty() { String::new() } else { format!("<p>{}</p>", others.join(", ")) };
        tile("Checks", &format!("{count} {}", outcome_words(*worst)), class, &below);
    }
    let words = record.recovery.as_ref().and_then(|recovery| recovery.sentence.as_ref());
    let words = words.map_or(String::new(), |words| format!("<p class=\"outlook\">{}</p>\n", Escaped(words)));
    if tiles.is_empty() { words } else { format!("<div class=\"tiles\">\n{}</div>\n{words}", tiles.concat()) }
}

/// How a time stands to the objective: a class, and a bar with words.
fn against(millis: u64, objective: Option<u64>) -> (&'static str, String) {
    let Some(objective) = objective else { return ("", "<p>no objective was set</p>".to_owned()) };
    let (class, sign, words) = if millis > objective {
        ("bad", "✕", format!("{} longer than the objective, {}", unbroken(millis - objective), unbroken(objective)))
    } else {
        ("good", "✓", format!("within the objective, {}", unbroken(objective)))
    };
    let scale = millis.max(objective);
    let bar = format!(
        "<svg class=\"meter\" aria-hidden=\"true\" width=\"100%\" height=\"10\"><rect class=\"track\" width=\"100%\" y=\"2\" height=\"6\" rx=\"3\"/>\
         <rect class=\"fill\" width=\"{}\" y=\"2\" height=\"6\" rx=\"3\"/><rect class=\"limit\" x=\"{}\" width=\"2\" height=\"10\"/></svg>",
        Percent(millis, scale),
        Percent((objective * 199 / 200).min(objective), scale),
    );
    (class, format!("{bar}<p><span class=\"sign\">{sign}</span> {words}</p>"))
}

/// A time that stays on one line.
fn unbroken(millis: u64) -> String {
    took(millis).replace(' ', "\u{a0}")
}

fn outcome_words(outcome: CheckOutcome) -> &'static str {
    match outcome {
        CheckOutcome::Pass => "passed",
        CheckOutcome::Fail => "failed",
        CheckOutcome::Inconclusive => "inconclusive",
        CheckOutcome::Skipped => "skipped",
        CheckOutcome::Notice => "with a notice",
    }
}

fn checks(record: &DrillRecord) -> String {
    if record.checks.is_empty() {
        return String::new();
    }
    let rows = joined(record.checks.iter().map(check_row));
    format!(
        "<table class=\"stack checks\">\n<thead><tr><th>Outcome</th><th>Check</th><th>Database</th><th>Expected</th><th>Found</th>\
         <th class=\"n\">Took</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    )
}

fn check_row(check: &DrillCheck) -> String {
    let (class, sign) = match check.outcome {
        CheckOutcome::Pass => ("pass", "✓"),
        CheckOutcome::Fail => ("fail", "✕"),
        CheckOutcome::Inconclusive => ("inconclusive", "?"),
        CheckOutcome::Skipped => ("skipped", "–"),
        CheckOutcome::Notice => ("notice", "!"),
    };
    let cell = |label: &str, text: &Option<String>| {
        let text = text.as_deref().unwrap_or("");
        let class = if text.is_empty() { "empty" } else { "" };
        format!("<td data-label=\"{label}\" class=\"{class}\">{}</td>", Escaped(text))
    };
    let detail = check.detail.as_ref().map_or(String::new(), |detail| format!("<small>{}</small>", Escaped(detail)));
    format!(
        "<tr class=\"{class}\"><td data-label=\"Outcome\"><span class=\"badge {class}\">{sign} {}</span></td><td data-label=\"Check\">{}{detail}</td>{}{}{}\
         <td data-label=\"Took\" class=\"n\">{}</td></tr>\n",
        check.outcome,
        Escaped(&check.name),
        cell("Database", &check.database),
        cell("Expected", &check.expected),
        cell("Found", &check.found),
        took(check.took_ms),
    )
}

fn recovery(recovery: &RecoveryTime) -> String {
    let bars = [
        ("Measured", Some(recovery.total_ms)),
        ("At the worst moment", recovery.worst_case_ms),
        ("Objective", recovery.objective_ms),
    ];
    let longest = bars.iter().filter_map(|(_, millis)| *millis).max().unwrap_or(0);
    let is_late = |millis: u64| recovery.objective_ms.is_some_and(|objective| millis > objective);
    let bars = joined(bars
        .iter()
        .filter_map(|(name, millis)| {
            let millis = (*millis)?;
            let class = match *name {
                "Objective" => "due",
                _ if is_late(millis) => "bad",
                _ => "good",
            };
            Some(format!(
                "<li><span>{name}</span><svg aria-hidden=\"true\" width=\"100%\" height=\"16\"><rect class=\"{class}\" width=\"{}\" y=\"1\" \
                 height=\"14\" rx=\"2\"/></svg><b>{}</b></li>\n",
                Percent::visible(millis, longest),
                took(millis)
            ))
        }));
    let replayed = format!("{} in {}", human_size(recovery.replayed_bytes), count_of(recovery.segments, "segment"));
    let late = match recovery.late_segments {
        0 => "none came late".to_owned(),
        late => format!("{} for {}", took(recovery.starved_ms), count_of(late, "segment")),
    };
    let facts = terms(&[
        ("Most of the time took", recovery.bottleneck.clone()),
        ("WAL replayed", Some(replayed)),
        ("Speed of replay", recovery.replay_bytes_per_s.map(|bytes| human_rate(bytes, Duration::from_secs(1)))),
        ("Waited for WAL", Some(late)),
        ("WAL written an hour", recovery.wal_bytes_per_hour.map(human_size)),
        ("Time between base backups", recovery.base_interval_ms.map(took)),
        ("To keep the objective, one every", recovery.needed_interval_ms.map(took)),
    ]);
    format!("<ul class=\"compare\">\n{bars}</ul>\n{facts}")
}

fn notes(record: &DrillRecord) -> String {
    let notes = joined(record.notes.iter().map(|note| format!("<li>{}</li>\n", Escaped(&sentence(note)))));
    if notes.is_empty() { notes } else { format!("<ul class=\"notes\">\n{notes}</ul>\n") }
}

fn past(record: &DrillRecord, history: Option<&DrillHistory>) -> String {
    let Some(history) = history else {
        return "<p>The records of earlier drills could not be read.</p>\n".to_owned();
    };
    let mut drills = earlier(record, history);
    if drills.is_empty() {
        return "<p>This is the first drill on record.</p>\n".to_owned();
    }
    drills.push(record);
    format!("{}{}", history_chart::chart(&drills), history_chart::table(&drills))
}

fn place(record: &DrillRecord) -> String {
    let place = &record.place;
    let backup = record.backup.as_ref();
    let ended = backup.and_then(|backup| backup.ended).map(utc);
    let name = backup.map(|backup| match &backup.name {
        Some(name) => format!("{} ({name})", backup.id),
        None => backup.id.clone(),
    });
    terms(&[
        ("Archive", Some(place.store.clone())),
        ("Server", Some(place.server.clone())),
        ("Cluster", place.system_identifier.clone()),
        ("Backup", name),
        ("Backup ended", ended),
        ("Backup ended at", backup.and_then(|backup| backup.end_lsn.as_ref()).map(|lsn| format!("LSN {lsn}"))),
        ("Cluster’s size in it", backup.and_then(|backup| backup.bytes).map(human_size)),
        ("Size in the store", backup.and_then(|backup| backup.stored_bytes).map(human_size)),
        ("PostgreSQL of the backup", backup.and_then(|backup| backup.major_version).map(|version| version.to_string())),
        ("PostgreSQL of the drill", place.postgresql.clone()),
        ("barback", Some(place.barback.clone())),
        ("Done on host", Some(place.host.clone())),
        ("Done by user", Some(place.user.clone())),
        ("Memory that barback took", record.peak_memory_bytes.map(human_size)),
    ])
}

fn evidence(record: &DrillRecord, history: Option<&DrillHistory>) -> String {
    let Some(sequence) = record.sequence else {
        return "<p>This drill is not recorded in the store: its report is the only trace of it.</p>\n".to_owned();
    };
    let before = match (&record.previous_sha256, sequence) {
        (Some(digest), _) => Some(digest.clone()),
        (None, 1) => Some("there is none: this is the first".to_owned()),
        (None, _) => Some("unknown".to_owned()),
    };
    let chain = history.map(|history| match &history.chain.faults[..] {
        [] => history.chain.last.map_or_else(
            || "no record was there yet".to_owned(),
            |last| format!("whole, from the first record to number {last}"),
        ),
        faults => faults.iter().map(|fault| fault.what.as_str()).collect::<Vec<_>>().join("; "),
    });
    let is_broken = history.is_some_and(|history| !history.chain.whole);
    let facts = terms(&[
        ("Number of this record", Some(sequence.to_string())),
        ("SHA-256 of the one before", before),
        (if is_broken { "The chain is broken" } else { "Chain of all records" }, chain),
        ("Last passed at level 3 before", record.last_passed.map(utc)),
    ]);
    let class = if is_broken { "evidence bad" } else { "evidence" };
    format!(
        "<div class=\"{class}\">\n{facts}</div>\n<p class=\"fine\">The record of each drill is kept in the archive and holds the digest of the \
         one before it: a record that was changed or taken away shows in <code>barback drill history</code>. This page was made from \
         <code>drill.json</code>, which is that record byte for byte.</p>\n"
    )
}

fn foot(record: &DrillRecord) -> String {
    format!(
        "<footer>Made by barback {} from the drill’s record. Names, counts and times only: no content of a row is in it. All times \
         are UTC.</footer>\n",
        Escaped(&record.place.barback)
    )
}
