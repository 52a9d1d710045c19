//! What a drill is shown as: on a terminal, and in the files that it leaves for people and for other programs.
//!
//! Everything here is made from a record alone, so that a report can be made again from what lies in the store.

mod chart;
mod history;
mod history_chart;
mod html;
mod junit;
mod markup;
mod prometheus;
mod proof;
mod text;

use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, SubsecRound, Utc};

pub use self::history::{history, history_csv};
pub use self::html::html;
pub use self::junit::junit;
pub use self::prometheus::prometheus;
pub use self::text::summary;
use super::{Style, emit};
use crate::cli::invocation::OutputFormat;
use crate::cli::quantity::human_duration;
use crate::cli::zone::Zone;
use crate::commands::drill_records::DrillHistory;
use crate::domain::drill::{CheckOutcome, DrillLevel};
use crate::domain::verification::Verdict;
use crate::error::Result;
use crate::layout::drill_record::DrillRecord;

/// The files of a report: their names, and what is to be in them.
///
/// `drill.json` has the very bytes of the record in the store. `history`: the drills on record, with or without this one, in order;
/// none where they could not be read.
pub fn report_files(record: &DrillRecord, history: Option<&DrillHistory>) -> Result<[(&'static str, String); 4]> {
    Ok([
        ("drill.json", record.to_json()?),
        ("drill.html", html(record, history)),
        ("drill.xml", junit(record)),
        ("drill.prom", prometheus(record)),
    ])
}

/// Prints what came of a drill: [`summary`], or the record itself.
pub fn drilled(out: &mut dyn Write, style: Style, record: &DrillRecord) -> Result<()> {
    match style.format {
        OutputFormat::Json => emit(out, record.to_json()?.as_bytes()),
        OutputFormat::Text => emit(out, summary(style, record).as_bytes()),
    }
}

/// What the verdict means, in one sentence.
fn headline(record: &DrillRecord) -> String {
    let backup =
        record.backup.as_ref().map_or_else(|| "The archive".to_owned(), |backup| format!("Backup {}", backup.id));
    if record.verdict != Verdict::Pass {
        let reason = record.reason.as_deref().unwrap_or("no reason is on record");
        return sentence(reason);
    }
    match record.level {
        DrillLevel::Names => format!("{backup} is complete as far as names and sizes tell, and no WAL is missing."),
        DrillLevel::Bytes => format!("Every byte of {} was read, and is what was stored.", lower_first(&backup)),
        DrillLevel::Recovery => {
            let checks =
                if record.checks.is_empty() { "" } else { ", and what was looked at in it is as it should be" };
            format!("{backup} was restored, and a server was recovered from it{checks}.")
        }
    }
}

/// What the level means.
fn level_words(level: DrillLevel) -> &'static str {
    match level {
        DrillLevel::Names => "names and sizes",
        DrillLevel::Bytes => "every byte",
        DrillLevel::Recovery => "a recovered server",
    }
}

/// What the drill was to reach.
fn target_words(record: &DrillRecord, zone: Zone) -> String {
    let target = &record.target;
    let moment =
        target.time.map(|time| zone.both(time)).or_else(|| target.lsn.as_ref().map(|lsn| format!("LSN {lsn}")));
    match (target.asked.as_str(), moment) {
        ("random", Some(moment)) => {
            let seed = target.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
            format!("{moment} (drawn at random{seed})")
        }
        ("latest", Some(moment)) => format!("the end of the WAL, {moment}"),
        ("latest", None) => "the end of the WAL".to_owned(),
        (_, Some(moment)) => moment,
        (asked, None) => asked.to_owned(),
    }
}

fn took(millis: u64) -> String {
    human_duration(Duration::from_millis(millis))
}

/// UTC to the second, for pages that are read anywhere.
fn utc(time: DateTime<Utc>) -> String {
    utc_exact(time.trunc_subsecs(0))
}

/// UTC with whatever fraction there is.
fn utc_exact(time: DateTime<Utc>) -> String {
    universal().both(time)
}

fn universal() -> Zone {
    Zone::Fixed(FixedOffset::east_opt(0).expect("no offset is one"))
}

/// With a capital, unless it begins with a name, and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let word = text.split(' ').next().unwrap_or_default();
    let is_word = word.trim_end_matches([',', ':']).chars().all(char::is_alphabetic);
    let first = letters.next().filter(|_| is_word);
    let rest = if first.is_some() { letters.as_str() } else { text };
    let first: String = first.into_iter().flat_map(char::to_uppercase).collect();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{rest}{end}")
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_lowercase).collect();
    format!("{first}{}", letters.as_str())
}

/// How many checks came to what, the worst first, without those that none came to.
fn outcomes(record: &DrillRecord) -> Vec<(CheckOutcome, usize)> {
    let all = [
        CheckOutcome::Fail,
        CheckOutcome::Inconclusive,
        CheckOutcome::Pass,
        CheckOutcome::Notice,
        CheckOutcome::Skipped,
    ];
    let count = |outcome| record.checks.iter().filter(|check| check.outcome == outcome).count();
    all.into_iter().map(|outcome| (outcome, count(outcome))).filter(|(_, count)| *count > 0).collect()
}

/// The drills on record before this one, the oldest first.
fn earlier<'h>(record: &DrillRecord, history: &'h DrillHistory) -> Vec<&'h DrillRecord> {
    let is_before = |other: &&DrillRecord| match record.sequence {
        Some(own) => other.sequence.is_some_and(|number| number < own),
        None => other.ended <= record.started,
    };
    history.records.iter().filter(is_before).collect()
}

#[cfg(test)]
mod tests;
