//! That the target was met, as a picture: the last commit that was replayed, the target, and the next commit, in a line.

use chrono::{DateTime, Utc};

use super::markup::{Escaped, joined, terms};
use super::{target_words, universal, utc_exact};
use crate::cli::quantity::human_duration;
use crate::layout::drill_record::{DrillRecord, TargetProof};

/// The target, and how it was reached; what was asked for alone where recovery did not get so far.
pub(super) fn section(record: &DrillRecord) -> String {
    let asked = Escaped(&target_words(record, universal())).to_string();
    let Some(proof) = &record.proof else {
        return format!("<p>Target: <b>{asked}</b>. It was not reached in this drill.</p>\n");
    };
    let said = proof.postgresql_said.as_ref().map_or(String::new(), |said| {
        format!(
            "<figure class=\"said\"><figcaption>What PostgreSQL said</figcaption><code>{}</code></figure>\n",
            Escaped(said)
        )
    });
    let facts = terms(&[
        ("Replayed up to", proof.replay_lsn.as_ref().map(|lsn| format!("LSN {lsn}"))),
        ("Timeline", timelines(record, proof)),
        ("Server then", proof.ended_as.clone()),
    ]);
    format!("{}{said}{facts}", line(record, proof))
}

/// Whether something was replayed that is younger than the target.
pub(super) fn is_past(record: &DrillRecord) -> bool {
    let last = record.proof.as_ref().and_then(|proof| proof.last_replayed);
    record.target.time.zip(last).is_some_and(|(target, last)| last > target)
}

fn timelines(record: &DrillRecord, proof: &TargetProof) -> Option<String> {
    match (record.target.timeline, proof.timeline) {
        (Some(followed), Some(now)) if followed != now => Some(format!("{followed} was followed, {now} begun")),
        (followed, now) => now.or(followed).map(|timeline| timeline.to_string()),
    }
}

/// Three points in the order they must have. They are as far apart whatever lies between them.
fn line(record: &DrillRecord, proof: &TargetProof) -> String {
    let target = record.target.time;
    let lsn = |lsn: &Option<String>| lsn.as_ref().map(|lsn| format!("LSN {lsn}"));
    let words = |time: Option<DateTime<Utc>>, place: Option<String>| {
        time.map(utc_exact).into_iter().chain(place).collect::<Vec<_>>()
    };
    let (reached, last) = match (proof.last_replayed, target.is_none() && record.target.lsn.is_some()) {
        (time, true) => ("Replayed up to", words(time, lsn(&proof.replay_lsn))),
        (Some(time), false) => ("Last commit replayed", vec![utc_exact(time)]),
        (None, false) => ("Replayed up to", words(None, lsn(&proof.replay_lsn))),
    };
    let next = words(proof.next_commit, lsn(&proof.next_commit_lsn));
    let is_past = is_past(record);
    let before = target.zip(proof.last_replayed).map(|(target, last)| distance(last, target));
    let after = target.zip(proof.next_commit).map(|(target, next)| distance(next, target));
    let wanted = target
        .map(utc_exact)
        .or_else(|| lsn(&record.target.lsn))
        .map_or_else(|| vec!["the end of the WAL".to_owned()], |wanted| vec![wanted]);
    let drawn = record.target.seed.map(|seed| format!("drawn at random, seed {seed}"));
    let none = || vec!["there is none".to_owned()];
    let points = [
        (if is_past { "last bad" } else { "last" }, reached, last, before),
        ("aim", "Target", wanted, drawn),
        ("next", "Next commit in the archive", if next.is_empty() { none() } else { next }, after),
    ];
    let items =
        joined(points.iter().filter(|(_, _, lines, _)| !lines.is_empty()).map(|(class, title, lines, away)| {
            let lines = joined(lines.iter().map(|line| format!("<span>{}</span>", Escaped(line))));
            let away = away.as_ref().map_or(String::new(), |away| format!("<em>{away}</em>"));
            format!("<li class=\"{class}\"><b>{title}</b>{lines}{away}</li>\n")
        }));
    format!("<ol class=\"line\">\n{items}</ol>\n")
}

/// `406 ms before the target`.
fn distance(time: DateTime<Utc>, target: DateTime<Utc>) -> String {
    let away = (time - target).abs().to_std().unwrap_or_default();
    let long = if away.as_millis() == 0 { "less than 1 ms".to_owned() } else { human_duration(away) };
    match time.cmp(&target) {
        std::cmp::Ordering::Less => format!("{long} before the target"),
        std::cmp::Ordering::Equal => "at the target".to_owned(),
        std::cmp::Ordering::Greater => format!("{long} after the target"),
    }
}
