//! What `drill history` prints: the drills on record, and whether the row of records is whole.

use std::io::Write;

use serde::Serialize;

use super::super::table::{Align, table};
use super::super::{Style, clean, emit, emit_json};
use super::{target_words, took, universal};
use crate::cli::invocation::OutputFormat;
use crate::cli::quantity::count_of;
use crate::cli::zone::rfc3339;
use crate::domain::drill::CheckOutcome;
use crate::error::Result;
use crate::layout::drill_chain::DrillChain;
use crate::layout::drill_record::DrillRecord;

/// Prints drills and what is to be said of the chain.
///
/// JSON: `{"schema": 1, "server": "main", "drills": [RECORD, …], "chain": {…}}`, records as they are in the store.
pub fn history(
    out: &mut dyn Write,
    style: Style,
    server: &str,
    shown: &[&DrillRecord],
    chain: &DrillChain,
) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        server: &'a str,
        drills: &'a [&'a DrillRecord],
        chain: &'a DrillChain,
    }
    match style.format {
        OutputFormat::Json => emit_json(out, &Document { server, drills: shown, chain }),
        OutputFormat::Text => emit(out, text(style, server, shown, chain).as_bytes()),
    }
}

fn text(style: Style, server: &str, shown: &[&DrillRecord], chain: &DrillChain) -> String {
    if chain.records == 0 {
        return format!("No drills of server \"{}\" are on record.\n", clean(server));
    }
    let rows: Vec<Vec<String>> = shown.iter().map(|record| row(style, record)).collect();
    let headings = [
        ("NUMBER", Align::Right),
        ("ENDED (UTC)", Align::Left),
        ("ENDED (LOCAL)", Align::Left),
        ("LEVEL", Align::Right),
        ("VERDICT", Align::Left),
        ("BACKUP", Align::Left),
        ("TARGET", Align::Left),
        ("RECOVERY", Align::Right),
        ("OBJECTIVE", Align::Right),
        ("REASON", Align::Left),
    ];
    let drills = if rows.is_empty() { "No drills since then.\n".to_owned() } else { table(&headings, &rows) };
    format!("{drills}\n{}", chain_words(chain))
}

fn row(style: Style, record: &DrillRecord) -> Vec<String> {
    let local = Some(style.zone.at(record.ended)).filter(|local| local.offset().local_minus_utc() != 0);
    let recovery = record.recovery.as_ref();
    vec![
        record.sequence.map_or(String::new(), |number| number.to_string()),
        record.ended.format("%Y-%m-%d %H:%M:%S").to_string(),
        local.map_or(String::new(), |local| local.format("%Y-%m-%d %H:%M:%S %:z").to_string()),
        record.level.to_string(),
        record.verdict.to_string(),
        record.backup.as_ref().map_or(String::new(), |backup| clean(&backup.id)),
        clean(&short_target(record)),
        recovery.map_or(String::new(), |recovery| took(recovery.total_ms)),
        recovery.and_then(|recovery| recovery.objective_ms).map_or(String::new(), took),
        clean(record.reason.as_deref().unwrap_or("")),
    ]
}

/// `2026-11-23 17:03:11`, `LSN 16/B374D848`, or what was asked for.
fn short_target(record: &DrillRecord) -> String {
    let target = &record.target;
    match (target.time, &target.lsn) {
        (Some(time), _) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        (None, Some(lsn)) => format!("LSN {lsn}"),
        (None, None) => target.asked.clone(),
    }
}

/// That the chain is whole, or what is wrong with it.
fn chain_words(chain: &DrillChain) -> String {
    let records = count_of(chain.records, "record");
    if chain.whole {
        let digest = chain.last_sha256.as_deref().unwrap_or("unknown");
        return format!("The chain of {records} is whole. SHA-256 of the last one: {digest}\n");
    }
    let faults = chain.faults.iter().map(|fault| format!("  {}\n", clean(&fault.what)));
    format!("The chain of {records} is broken:\n{}", faults.collect::<String>())
}

/// Prints drills as rows for a spreadsheet, with their headings: RFC 4180, but for line feeds at the ends of lines.
pub fn history_csv(out: &mut dyn Write, shown: &[&DrillRecord]) -> Result<()> {
    let headings = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let rows = shown.iter().map(|record| COLUMNS.iter().map(|(_, value)| value(record)).collect());
    let lines = std::iter::once(headings).chain(rows).map(|cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| csv_cell(cell)).collect();
        cells.join(",") + "\n"
    });
    emit(out, lines.collect::<String>().as_bytes())
}

/// A column's name, and what is in it.
type Column = (&'static str, fn(&DrillRecord) -> String);

const COLUMNS: [Column; 29] = [
    ("number", |record| number(record.sequence)),
    ("started", |record| rfc3339(record.started)),
    ("ended", |record| rfc3339(record.ended)),
    ("level", |record| record.level.to_string()),
    ("verdict", |record| record.verdict.to_string()),
    ("reason", |record| plain(record.reason.as_ref())),
    ("store", |record| record.place.store.clone()),
    ("server", |record| record.place.server.clone()),
    ("system_identifier", |record| plain(record.place.system_identifier.as_ref())),
    ("host", |record| record.place.host.clone()),
    ("user", |record| record.place.user.clone()),
    ("barback", |record| record.place.barback.clone()),
    ("postgresql", |record| plain(record.place.postgresql.as_ref())),
    ("backup", |record| record.backup.as_ref().map_or(String::new(), |backup| backup.id.clone())),
    ("target", |record| target_words(record, universal())),
    ("replay_lsn", |record| plain(record.proof.as_ref().and_then(|proof| proof.replay_lsn.as_ref()))),
    ("last_replayed", |record| {
        record.proof.as_ref().and_then(|proof| proof.last_replayed).map_or(String::new(), rfc3339)
    }),
    ("next_commit", |record| record.proof.as_ref().and_then(|proof| proof.next_commit).map_or(String::new(), rfc3339)),
    ("recovery_ms", |record| number(record.recovery.as_ref().map(|recovery| recovery.total_ms))),
    ("objective_ms", |record| number(record.recovery.as_ref().and_then(|recovery| recovery.objective_ms))),
    ("worst_case_ms", |record| number(record.recovery.as_ref().and_then(|recovery| recovery.worst_case_ms))),
    ("replayed_bytes", |record| number(record.recovery.as_ref().map(|recovery| recovery.replayed_bytes))),
    ("checks_passed", |record| checks(record, CheckOutcome::Pass)),
    ("checks_failed", |record| checks(record, CheckOutcome::Fail)),
    ("checks_inconclusive", |record| checks(record, CheckOutcome::Inconclusive)),
    ("checks_with_notice", |record| checks(record, CheckOutcome::Notice)),
    ("checks_skipped", |record| checks(record, CheckOutcome::Skipped)),
    ("last_passed", |record| record.last_passed.map_or(String::new(), rfc3339)),
    ("previous_sha256", |record| plain(record.previous_sha256.as_ref())),
];

fn plain(text: Option<&String>) -> String {
    text.cloned().unwrap_or_default()
}

fn number(number: Option<u64>) -> String {
    number.map_or(String::new(), |number| number.to_string())
}

fn checks(record: &DrillRecord, outcome: CheckOutcome) -> String {
    record.checks.iter().filter(|check| check.outcome == outcome).count().to_string()
}

/// A cell, in quotes where it must be. A spreadsheet takes what begins with one of `=+-@` for a formula: an apostrophe in front
/// makes it text.
fn csv_cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;
    use crate::cli::zone::Zone;
    use crate::domain::verification::Verdict;
    use crate::layout::drill_chain::{ChainFault, DrillLink};
    use crate::layout::drill_record::example;

    fn plainly() -> Style {
        Style { format: OutputFormat::Text, zone: universal(), charts: false }
    }

    fn failed() -> DrillRecord {
        DrillRecord {
            sequence: Some(13),
            verdict: Verdict::Fail,
            reason: Some("part \"data.tar.zst\", the first,\nis damaged".to_owned()),
            recovery: None,
            ..example()
        }
    }

    fn printed(shown: &[&DrillRecord], chain: &DrillChain, style: Style) -> String {
        let mut out = Vec::new();
        history(&mut out, style, "main", shown, chain).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn whole() -> DrillChain {
        DrillChain { records: 2, whole: true, last: Some(13), last_sha256: Some("abc".to_owned()), faults: Vec::new() }
    }

    #[test]
    fn drills_line_up_and_the_chain_has_the_last_word() {
        let text = printed(&[&example(), &failed()], &whole(), plainly());
        let expected = "\
NUMBER  ENDED (UTC)          LEVEL  VERDICT  BACKUP           TARGET                  RECOVERY    OBJECTIVE  REASON
    12  2026-11-24 03:49:22      3  pass     20261123T083817  2026-11-23 17:03:11  25 min 46 s  30 min 00 s
    13  2026-11-24 03:49:22      3  fail     20261123T083817  2026-11-23 17:03:11                            part \"data.tar.zst\", the first,\u{fffd}is damaged

The chain of 2 records is whole. SHA-256 of the last one: abc
";
        assert_eq!(text, expected);
        let east = Style { zone: Zone::Fixed(FixedOffset::east_opt(3600).unwrap()), ..plainly() };
        assert!(printed(&[&example()], &whole(), east).contains("  2026-11-24 04:49:22 +01:00  "));
        assert!(printed(&[], &whole(), plainly()).starts_with("No drills since then.\n\nThe chain of 2 records"));
        let none = printed(&[], &DrillChain::of(&[]), plainly());
        assert_eq!(none, "No drills of server \"main\" are on record.\n");
    }

    #[test]
    fn a_broken_chain_says_where() {
        let link = DrillLink { sequence: 12, sha256: Some("abc".to_owned()), record: Ok(example()) };
        let text = printed(&[&example()], &DrillChain::of(&[link]), plainly());
        assert!(text.ends_with("The chain of 1 record is broken:\n  records 1 to 11 are missing\n"), "{text}");
    }

    #[test]
    fn the_document_holds_the_records_as_they_are() {
        let chain = DrillChain {
            whole: false,
            faults: vec![ChainFault { record: 1, code: "missing", what: "records 1 to 11 are missing".to_owned() }],
            ..whole()
        };
        let json = printed(&[&example()], &chain, Style { format: OutputFormat::Json, ..plainly() });
        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(document["schema"], 1);
        assert_eq!(document["drills"][0], serde_json::to_value(example()).unwrap());
        assert_eq!(document["chain"]["whole"], false);
        assert_eq!(document["chain"]["faults"][0]["code"], "missing");
    }

    #[test]
    fn cells_are_quoted_where_they_must_and_are_never_formulas() {
        for (text, cell) in [
            ("plain text", "plain text"),
            ("a,b", "\"a,b\""),
            ("say \"yes\"", "\"say \"\"yes\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("@x,y", "\"'@x,y\""),
        ] {
            assert_eq!(csv_cell(text), cell);
        }
        let mut out = Vec::new();
        history_csv(&mut out, &[&example(), &failed()]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "a head, a row, and a row with a line feed in it: {text}");
        assert_eq!(lines[0].split(',').count(), COLUMNS.len());
        // The target is in quotes, for there is a comma in it.
        assert_eq!(lines[1].split(',').count(), COLUMNS.len() + 1, "{}", lines[1]);
        assert!(lines[1].starts_with("12,2026-11-24T03:15:00Z,2026-11-24T03:49:22.470000Z,3,pass,,"), "{}", lines[1]);
    }
}
