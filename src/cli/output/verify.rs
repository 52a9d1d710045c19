//! What `verify` prints.

use std::io::Write;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::table::{Align, table};
use super::{Style, clean, emit, emit_json};
use crate::cli::invocation::OutputFormat;
use crate::cli::quantity::{human_duration, human_rate, human_size};
use crate::cli::zone::rfc3339;
use crate::commands::verify_report::{BackupReport, Share, Stop, Verification, WalReport};
use crate::domain::verification::{Degree, Depth, Finding, Findings, Verdict};
use crate::error::Result;

/// So many findings are printed; a document has them all.
const FINDINGS_SHOWN: usize = 1000;

/// What is said of what was not looked at for want of time or share.
const LEFT: &str = "left for another run";

/// Prints what a verification found.
///
/// JSON: `{"schema": 1, "server": …, "verdict": "pass"|"fail"|"inconclusive", "depth": …, "backups": […], "wal": […],
/// "findings": […], …}`; see the fields below. Findings of a backup or of a stretch of WAL stand with it. What was not looked
/// at this time has no verdict: it passed at `passed_at`, is `left` for another run, or was `skipped` for a reason.
pub fn verified(out: &mut dyn Write, style: Style, server: &str, answer: &Verification) -> Result<()> {
    match style.format {
        OutputFormat::Json => emit_json(out, &Document::of(server, answer)),
        OutputFormat::Text => emit(out, text(style, answer).as_bytes()),
    }
}

fn text(style: Style, answer: &Verification) -> String {
    let mut text = String::new();
    if !answer.backups.is_empty() {
        let headings = [
            ("BACKUP", Align::Left),
            ("OBJECTS", Align::Right),
            ("BYTES", Align::Right),
            ("DEPTH", Align::Left),
            ("VERDICT", Align::Left),
            ("", Align::Left),
        ];
        let rows: Vec<Vec<String>> = answer.backups.iter().map(|report| backup_row(style, report)).collect();
        text += &table(&headings, &rows);
    }
    let wal = answer.wal_joined();
    if !wal.is_empty() {
        let headings = [
            ("TIMELINE", Align::Right),
            ("FIRST SEGMENT", Align::Left),
            ("LAST SEGMENT", Align::Left),
            ("SEGMENTS", Align::Right),
            ("BYTES", Align::Right),
            ("DEPTH", Align::Left),
            ("VERDICT", Align::Left),
            ("", Align::Left),
        ];
        let rows: Vec<Vec<String>> = wal.iter().map(|report| wal_row(style, report)).collect();
        text.extend(["\n", &table(&headings, &rows)]);
    }
    text += &findings_text(answer);
    text.extend(["\n", &ending(style, answer)]);
    text
}

fn backup_row(style: Style, report: &BackupReport) -> Vec<String> {
    let counted = |number: u64, shown: String| if number > 0 { shown } else { String::new() };
    let (depth, verdict, note) = told(style, &report.share, &report.findings);
    let note = if report.is_left { LEFT.to_owned() } else { note };
    vec![
        report.id.to_string(),
        counted(report.objects, report.objects.to_string()),
        counted(report.bytes, human_size(report.bytes)),
        depth,
        verdict,
        note,
    ]
}

fn wal_row(style: Style, report: &WalReport) -> Vec<String> {
    let (depth, verdict, note) = told(style, &report.share, &report.findings);
    vec![
        report.stretch.timeline.to_string(),
        report.first.to_string(),
        report.last.to_string(),
        report.stretch.segments().to_string(),
        if report.bytes > 0 { human_size(report.bytes) } else { String::new() },
        depth,
        verdict,
        note,
    ]
}

/// Depth, verdict and note of what was looked at, or not.
fn told(style: Style, share: &Share, findings: &Findings) -> (String, String, String) {
    match share {
        Share::Looked(depth) => (depth.to_string(), findings.verdict().to_string(), String::new()),
        Share::Recent(at) => (String::new(), String::new(), format!("passed {}", style.zone.both(*at))),
        Share::Left => (String::new(), String::new(), LEFT.to_owned()),
        Share::Skipped(why) => (String::new(), String::new(), clean(why)),
    }
}

/// All findings, the worst first.
fn findings_text(answer: &Verification) -> String {
    let of_backups = answer.backups.iter().map(|report| &report.findings);
    let of_wal = answer.wal.iter().map(|report| &report.findings);
    let mut named: Vec<&Finding> =
        [&answer.findings].into_iter().chain(of_backups).chain(of_wal).flat_map(Findings::named).collect();
    named.sort_by_key(|finding| finding.degree);
    if named.is_empty() {
        return String::new();
    }
    let mut lines: Vec<String> = named.iter().take(FINDINGS_SHOWN).map(|finding| clean(&finding.to_string())).collect();
    let total: u64 = [Degree::Damage, Degree::Unknown, Degree::Notice].map(|degree| answer.count(degree)).iter().sum();
    let more = total.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    format!("\n{}\n", lines.join("\n"))
}

/// How far it leads, why it ended, what is left, and the verdict.
fn ending(style: Style, answer: &Verification) -> String {
    let mut lines = Vec::new();
    if let Some(recoverable) = &answer.recoverable {
        let when = match (recoverable.last_commit, recoverable.stored) {
            (Some(commit), _) => format!(", last commit {}", style.zone.both(commit)),
            (None, Some(stored)) => format!(", stored {}", style.zone.both(stored)),
            (None, None) => String::new(),
        };
        lines.push(format!("Recoverable to LSN {} on timeline {}{when}", recoverable.lsn, recoverable.timeline));
    }
    lines.extend(answer.stop.as_ref().map(|stop| match stop {
        Stop::Signal(why) => format!("Not through: {}", clean(why)),
        Stop::Time => "Not through: the time was up; run it again with --max-age to go on".to_owned(),
        Stop::Store => "Not through: the store does not answer any more".to_owned(),
    }));
    let left = answer.left();
    if left > 0 {
        lines.push(format!("Left for another run: {left} of {}", left + answer.looked()));
    }
    lines.push(last_line(answer));
    lines.join("\n") + "\n"
}

fn last_line(answer: &Verification) -> String {
    let looked = answer.wal.iter().filter(|report| matches!(report.share, Share::Looked(_)));
    let bytes: u64 = answer.backups.iter().map(|report| report.bytes).chain(looked.map(|report| report.bytes)).sum();
    let how = match answer.depth {
        Depth::Deep => format!("{} read ({})", human_size(bytes), human_rate(bytes, answer.took)),
        Depth::Quick => "by names and sizes".to_owned(),
    };
    let verdict = match (answer.verdict(), answer.count(Degree::Damage), answer.count(Degree::Unknown)) {
        (Verdict::Pass, ..) => "Passed".to_owned(),
        (Verdict::Fail, 1, _) => "Failed: 1 damage".to_owned(),
        (Verdict::Fail, damages, _) => format!("Failed: {damages} damages"),
        (Verdict::Inconclusive, _, 0) => "Inconclusive".to_owned(),
        (Verdict::Inconclusive, _, unknown) => format!("Inconclusive: {unknown} could not be looked at"),
    };
    format!("{verdict}; {}, {how}", human_duration(answer.took))
}

#[derive(Serialize)]
struct Document<'a> {
    server: &'a str,
    verdict: String,
    depth: String,
    backups: Vec<BackupView>,
    wal: Vec<WalView>,
    findings: Vec<FindingView>,
    finding_counts: Counts,
    recoverable: Option<RecoverableView>,
    /// `signal`, `time` or `store`, when it ended before it was through.
    stopped_by: Option<&'static str>,
    left: usize,
    /// False when a record is missing that should be there.
    is_recorded: bool,
    duration_s: f64,
}

#[derive(Serialize)]
struct BackupView {
    id: String,
    objects: u64,
    bytes: u64,
    #[serde(flatten)]
    share: ShareView,
    findings: Vec<FindingView>,
}

#[derive(Serialize)]
struct WalView {
    timeline: u32,
    first: String,
    last: String,
    segments: u64,
    bytes: u64,
    #[serde(flatten)]
    share: ShareView,
    last_commit: Option<String>,
    findings: Vec<FindingView>,
}

#[derive(Serialize)]
struct ShareView {
    depth: Option<String>,
    verdict: Option<String>,
    passed_at: Option<String>,
    left: bool,
    skipped: Option<String>,
}

#[derive(Serialize)]
struct FindingView {
    degree: String,
    object: String,
    what: String,
}

#[derive(Serialize)]
struct Counts {
    damage: u64,
    unknown: u64,
    notice: u64,
}

#[derive(Serialize)]
struct RecoverableView {
    timeline: u32,
    lsn: String,
    stored: Option<String>,
    last_commit: Option<String>,
}

impl<'a> Document<'a> {
    fn of(server: &'a str, answer: &Verification) -> Self {
        let time = |time: Option<DateTime<Utc>>| time.map(rfc3339);
        Self {
            server,
            verdict: answer.verdict().to_string(),
            depth: answer.depth.to_string(),
            backups: answer.backups.iter().map(BackupView::of).collect(),
            wal: answer.wal_joined().iter().map(WalView::of).collect(),
            findings: finding_views(&answer.findings),
            finding_counts: Counts {
                damage: answer.count(Degree::Damage),
                unknown: answer.count(Degree::Unknown),
                notice: answer.count(Degree::Notice),
            },
            recoverable: answer.recoverable.as_ref().map(|recoverable| RecoverableView {
                timeline: recoverable.timeline.number(),
                lsn: recoverable.lsn.to_string(),
                stored: time(recoverable.stored),
                last_commit: time(recoverable.last_commit),
            }),
            stopped_by: answer.stop.as_ref().map(|stop| match stop {
                Stop::Signal(_) => "signal",
                Stop::Time => "time",
                Stop::Store => "store",
            }),
            left: answer.left(),
            is_recorded: answer.unrecorded.is_none(),
            duration_s: answer.took.as_secs_f64(),
        }
    }
}

impl BackupView {
    fn of(report: &BackupReport) -> Self {
        Self {
            id: report.id.to_string(),
            objects: report.objects,
            bytes: report.bytes,
            share: ShareView {
                left: report.is_left || report.share == Share::Left,
                ..ShareView::of(&report.share, &report.findings)
            },
            findings: finding_views(&report.findings),
        }
    }
}

impl WalView {
    fn of(report: &WalReport) -> Self {
        Self {
            timeline: report.stretch.timeline.number(),
            first: report.first.to_string(),
            last: report.last.to_string(),
            segments: report.stretch.segments(),
            bytes: report.bytes,
            share: ShareView::of(&report.share, &report.findings),
            last_commit: report.last_commit.map(rfc3339),
            findings: finding_views(&report.findings),
        }
    }
}

impl ShareView {
    fn of(share: &Share, findings: &Findings) -> Self {
        let nothing = Self { depth: None, verdict: None, passed_at: None, left: false, skipped: None };
        match share {
            Share::Looked(depth) => {
                Self { depth: Some(depth.to_string()), verdict: Some(findings.verdict().to_string()), ..nothing }
            }
            Share::Recent(at) => Self { passed_at: Some(rfc3339(*at)), ..nothing },
            Share::Left => Self { left: true, ..nothing },
            Share::Skipped(why) => Self { skipped: Some(why.clone()), ..nothing },
        }
    }
}

fn finding_views(findings: &Findings) -> Vec<FindingView> {
    let view = |finding: &Finding| FindingView {
        degree: finding.degree.to_string(),
        object: finding.object.clone(),
        what: finding.what.clone(),
    };
    findings.named().into_iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::FixedOffset;

    use super::*;
    use crate::cli::zone::Zone;
    use crate::commands::verify_report::Recoverable;
    use crate::domain::lsn::Lsn;
    use crate::domain::segment::SegmentSize;
    use crate::domain::timeline::TimelineId;
    use crate::domain::verify_choice::Stretch;

    fn style(format: OutputFormat) -> Style {
        Style { format, zone: Zone::Fixed(FixedOffset::east_opt(0).unwrap()), charts: false }
    }

    fn answer() -> Verification {
        let at = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let report = |id: &str, share| BackupReport { share, ..BackupReport::of(&id.parse().unwrap()) };
        let mut damaged = report("20261103T000000", Share::Looked(Depth::Deep));
        (damaged.objects, damaged.bytes) = (4, 3 << 29);
        damaged
            .findings
            .push(Finding::damage("pfx/main/base/20261103T000000/data.tar.zst", "its SHA-256 is a, the index says b"));
        let wal = |first, last, share| {
            let stretch = Stretch { timeline: TimelineId::FIRST, first, last };
            WalReport { share, ..WalReport::of(stretch, 1 << 20, SegmentSize::DEFAULT) }
        };
        Verification {
            depth: Depth::Deep,
            backups: vec![
                report("20261101T000000", Share::Recent(at)),
                report("20261102T000000", Share::Skipped("it is FAILED".to_owned())),
                damaged,
            ],
            wal: vec![
                wal(2, 255, Share::Looked(Depth::Deep)),
                wal(256, 300, Share::Looked(Depth::Deep)),
                wal(301, 302, Share::Left),
            ],
            findings: [Finding::notice("00000001000000000000000A", "odd")].into_iter().collect(),
            recoverable: Some(Recoverable {
                timeline: TimelineId::FIRST,
                lsn: Lsn(0x1_2F00_0000),
                stored: None,
                last_commit: Some(at),
            }),
            stop: Some(Stop::Time),
            unrecorded: None,
            took: Duration::from_secs(4),
        }
    }

    #[test]
    fn people_see_a_table_the_findings_and_one_last_line() {
        let mut out = Vec::new();
        verified(&mut out, style(OutputFormat::Text), "main", &answer()).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
BACKUP           OBJECTS    BYTES  DEPTH  VERDICT
20261101T000000                                    passed 2026-11-18 11:06:40 UTC
20261102T000000                                    it is FAILED
20261103T000000        4  1.5 GiB  deep   fail

TIMELINE  FIRST SEGMENT             LAST SEGMENT              SEGMENTS  BYTES  DEPTH  VERDICT
       1  000000010000000000000002  00000001000000010000002C       299  2 MiB  deep   pass
       1  00000001000000010000002D  00000001000000010000002E         2  1 MiB                  left for another run

damage: pfx/main/base/20261103T000000/data.tar.zst: its SHA-256 is a, the index says b
notice: 00000001000000000000000A: odd

Recoverable to LSN 1/2F000000 on timeline 1, last commit 2026-11-18 11:06:40 UTC
Not through: the time was up; run it again with --max-age to go on
Left for another run: 1 of 4
Failed: 1 damage; 4.0 s, 1.5 GiB read (385 MiB/s)
"
        );
    }

    #[test]
    fn programs_get_every_field() {
        let mut out = Vec::new();
        verified(&mut out, style(OutputFormat::Json), "main", &answer()).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&document["schema"], &document["verdict"]), (&1.into(), &"fail".into()));
        assert_eq!(document["backups"][0]["passed_at"], "2026-11-18T11:06:40Z");
        assert_eq!(document["backups"][1]["skipped"], "it is FAILED");
        assert_eq!(document["backups"][2]["findings"][0]["degree"], "damage");
        assert_eq!(document["wal"][0]["segments"], 299);
        assert_eq!(document["wal"][1]["left"], true);
        assert_eq!(document["recoverable"]["lsn"], "1/2F000000");
        assert_eq!((&document["stopped_by"], &document["left"]), (&"time".into(), &1.into()));
        assert_eq!(document["finding_counts"]["notice"], 1);
    }
}
