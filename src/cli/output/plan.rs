//! What `restore --plan` prints.

use std::io::Write;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::table::fields;
use super::{Style, clean, emit, emit_json};
use crate::cli::invocation::OutputFormat;
use crate::cli::quantity::human_size;
use crate::cli::zone::rfc3339;
use crate::domain::recovery_target::{RecoveryTarget, TargetRequest};
use crate::error::Result;

/// A restore that has been thought through and not begun. Field by field the JSON document, under `"plan"`.
///
/// JSON: times RFC 3339 in UTC, LSNs `16/B374D848`, sizes bytes, unknown fields null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanView {
    /// The chosen backup's id.
    pub backup_id: String,
    /// Its name.
    pub backup_name: Option<String>,
    /// When it ended; a target must lie after.
    #[serde(serialize_with = "time")]
    pub backup_end_time: Option<DateTime<Utc>>,
    /// Where it ended; a target must lie after.
    pub backup_end_lsn: Option<String>,
    /// The timeline recovery follows, resolved to its number.
    pub timeline: u32,
    /// Where recovery stops; null for files only.
    pub target: Option<TargetView>,
    /// Which moments the store can bring back.
    pub window: WindowView,
    /// Segments between the backup's begin and the target or the end of the archive.
    pub wal_segments: u64,
    /// The directory to fill.
    pub directory: String,
    /// Tablespaces: name and directory.
    pub tablespaces: Vec<(String, String)>,
    /// Bytes the restored files need.
    pub space_needed_bytes: Option<u64>,
    /// Bytes free in the target's file system.
    pub space_free_bytes: Option<u64>,
    /// Parts to be fetched and their stored size.
    pub parts: Option<(u64, u64)>,
    /// Lines that go into `postgresql.auto.conf`; empty with `--no-recovery`.
    pub settings: Vec<String>,
    /// What was checked and found good.
    pub checks: Vec<String>,
    /// What the operator should know before going on.
    pub warnings: Vec<String>,
}

/// Where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetView {
    /// `latest`, `immediate`, `time`, `lsn`, `xid` or `name`.
    pub kind: &'static str,
    /// The target when it is an LSN, a transaction or a name.
    pub value: Option<String>,
    /// The target when it is a time.
    #[serde(serialize_with = "time")]
    pub time: Option<DateTime<Utc>>,
    /// Whether the target itself is replayed.
    pub inclusive: bool,
    /// What the server does there: `pause`, `promote` or `shutdown`.
    pub action: String,
}

impl From<&TargetRequest> for TargetView {
    fn from(request: &TargetRequest) -> Self {
        let (kind, value, time) = match &request.target {
            RecoveryTarget::Latest => ("latest", None, None),
            RecoveryTarget::Immediate => ("immediate", None, None),
            RecoveryTarget::Time(time) => ("time", None, Some(time.to_utc())),
            RecoveryTarget::Lsn(lsn) => ("lsn", Some(lsn.to_string()), None),
            RecoveryTarget::Xid(xid) => ("xid", Some(xid.to_string()), None),
            RecoveryTarget::Name(name) => ("name", Some(name.clone()), None),
        };
        Self { kind, value, time, inclusive: request.inclusive, action: request.action.to_string() }
    }
}

/// Both ends of the recovery window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowView {
    /// The end of the oldest usable backup.
    #[serde(serialize_with = "time")]
    pub from_time: Option<DateTime<Utc>>,
    /// The same as an LSN.
    pub from_lsn: Option<String>,
    /// When the last reachable segment was archived.
    #[serde(serialize_with = "time")]
    pub to_time: Option<DateTime<Utc>>,
    /// Where that segment ends.
    pub to_lsn: Option<String>,
    /// The last commit in it or the segments before it; only looked for when the target is a time.
    #[serde(serialize_with = "time")]
    pub last_commit_time: Option<DateTime<Utc>>,
    /// Where its record begins.
    pub last_commit_lsn: Option<String>,
}

/// Prints `view`.
pub fn plan(out: &mut dyn Write, style: Style, view: &PlanView) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        plan: &'a PlanView,
    }
    match style.format {
        OutputFormat::Json => emit_json(out, &Document { plan: view }),
        OutputFormat::Text => emit(out, text(style, view).as_bytes()),
    }
}

fn text(style: Style, view: &PlanView) -> String {
    let name = view.backup_name.as_deref().map_or(String::new(), |name| format!(" \"{}\"", clean(name)));
    let tablespaces: Vec<String> =
        view.tablespaces.iter().map(|(name, dir)| clean(&format!("{name} in {dir}"))).collect();
    let mut text = String::from("Restore plan (nothing has been touched)\n\n");
    text += &fields(
        2,
        &[
            ("backup", format!("{}{name}", clean(&view.backup_id))),
            ("ended", moment(style, view.backup_end_time, view.backup_end_lsn.as_deref())),
            ("target", view.target.as_ref().map_or("none, files only".to_owned(), |view| target(style, view))),
            ("timeline", view.timeline.to_string()),
            ("window from", moment(style, view.window.from_time, view.window.from_lsn.as_deref())),
            ("window to", moment(style, view.window.to_time, view.window.to_lsn.as_deref())),
            ("last commit", moment(style, view.window.last_commit_time, view.window.last_commit_lsn.as_deref())),
            ("WAL to replay", count(view.wal_segments, "segment")),
            ("directory", clean(&view.directory)),
            ("tablespaces", tablespaces.join("\n")),
            ("space", space(view)),
            (
                "to fetch",
                view.parts.map_or(String::new(), |(n, bytes)| format!("{}, {}", count(n, "part"), human_size(bytes))),
            ),
        ],
    );
    for (title, mark, lines) in [
        ("Settings to be written to postgresql.auto.conf", " ", &view.settings),
        ("Checked", "+", &view.checks),
        ("Warnings", "!", &view.warnings),
    ] {
        if !lines.is_empty() {
            text.extend(["\n", title, "\n"]);
            for line in lines {
                text.extend(["  ", mark, " ", &clean(line), "\n"]);
            }
        }
    }
    text
}

fn target(style: Style, view: &TargetView) -> String {
    let side = if view.inclusive { "just after" } else { "just before" };
    let value = clean(view.value.as_deref().unwrap_or(""));
    let place = match (view.kind, view.time) {
        ("latest", _) => return "the end of the WAL in the store, then promote".to_owned(),
        ("immediate", _) => "as soon as the copy is consistent".to_owned(),
        (_, Some(time)) => format!("{side} {}", style.zone.both(time)),
        ("lsn", _) => format!("{side} LSN {value}"),
        ("xid", _) => format!("{side} transaction {value}"),
        (_, None) => format!("restore point \"{value}\""),
    };
    format!("{place}, then {}", clean(&view.action))
}

fn moment(style: Style, time: Option<DateTime<Utc>>, lsn: Option<&str>) -> String {
    match (time, lsn) {
        (Some(time), Some(lsn)) => format!("{}, LSN {lsn}", style.zone.both(time)),
        (Some(time), None) => style.zone.both(time),
        (None, Some(lsn)) => format!("LSN {lsn}"),
        (None, None) => String::new(),
    }
}

fn space(view: &PlanView) -> String {
    match (view.space_needed_bytes, view.space_free_bytes) {
        (Some(needed), Some(free)) => format!("{} needed, {} free", human_size(needed), human_size(free)),
        (Some(needed), None) => format!("{} needed", human_size(needed)),
        (None, Some(free)) => format!("{} free", human_size(free)),
        (None, None) => String::new(),
    }
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
fn time<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    time.map(rfc3339).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;
    use crate::cli::zone::Zone;
    use crate::domain::recovery_target::{TargetAction, TargetTimeline};

    fn target(target: RecoveryTarget) -> TargetView {
        let (timeline, action) = (TargetTimeline::Latest, TargetAction::Promote);
        TargetView::from(&TargetRequest { target, inclusive: false, timeline, action })
    }

    fn view() -> PlanView {
        PlanView {
            backup_id: "20260608T020000".to_owned(),
            backup_name: Some("nightly".to_owned()),
            backup_end_time: "2026-06-08T02:04:05Z".parse().ok(),
            backup_end_lsn: Some("16/B4000000".to_owned()),
            timeline: 2,
            target: Some(target(RecoveryTarget::Time("2026-06-08T13:32:00+02:00".parse().unwrap()))),
            window: WindowView {
                from_time: "2026-06-01T02:04:05Z".parse().ok(),
                from_lsn: Some("10/28".to_owned()),
                to_time: None,
                to_lsn: Some("17/0".to_owned()),
                last_commit_time: "2026-06-08T12:00:00Z".parse().ok(),
                last_commit_lsn: Some("16/FFFF0028".to_owned()),
            },
            wal_segments: 76,
            directory: "/srv/copy".to_owned(),
            tablespaces: vec![("fast".to_owned(), "/mnt/fast".to_owned()), ("slow".to_owned(), "/mnt/slow".to_owned())],
            space_needed_bytes: Some(3 << 29),
            space_free_bytes: Some(200 << 30),
            parts: Some((4, 300 << 20)),
            settings: vec!["archive_mode = 'off'".to_owned(), "recovery_target_inclusive = 'false'".to_owned()],
            checks: vec!["directory is empty".to_owned()],
            warnings: vec![],
        }
    }

    fn printed(view: &PlanView, format: OutputFormat) -> String {
        let zone = Zone::Fixed(FixedOffset::east_opt(7200).unwrap());
        let mut out = Vec::new();
        plan(&mut out, Style { format, zone, charts: false }, view).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_plan_reads_top_to_bottom() {
        assert_eq!(
            printed(&view(), OutputFormat::Text),
            "\
Restore plan (nothing has been touched)

  backup         20260608T020000 \"nightly\"
  ended          2026-06-08 02:04:05 UTC (04:04:05 +02:00), LSN 16/B4000000
  target         just before 2026-06-08 11:32:00 UTC (13:32:00 +02:00), then promote
  timeline       2
  window from    2026-06-01 02:04:05 UTC (04:04:05 +02:00), LSN 10/28
  window to      LSN 17/0
  last commit    2026-06-08 12:00:00 UTC (14:00:00 +02:00), LSN 16/FFFF0028
  WAL to replay  76 segments
  directory      /srv/copy
  tablespaces    fast in /mnt/fast
                 slow in /mnt/slow
  space          1.5 GiB needed, 200 GiB free
  to fetch       4 parts, 300 MiB

Settings to be written to postgresql.auto.conf
    archive_mode = 'off'
    recovery_target_inclusive = 'false'

Checked
  + directory is empty
"
        );
    }

    #[test]
    fn every_kind_of_target_is_told() {
        for (kind, told) in [
            (RecoveryTarget::Latest, "the end of the WAL in the store, then promote"),
            (RecoveryTarget::Immediate, "as soon as the copy is consistent, then promote"),
            (RecoveryTarget::Lsn("16/0".parse().unwrap()), "just before LSN 16/0, then promote"),
            (RecoveryTarget::Xid(777), "just before transaction 777, then promote"),
            (RecoveryTarget::Name("p1".to_owned()), "restore point \"p1\", then promote"),
        ] {
            let text = printed(&PlanView { target: Some(target(kind)), ..view() }, OutputFormat::Text);
            assert!(text.contains(&format!("target         {told}\n")), "{told}: {text}");
        }
        let text = printed(&PlanView { target: None, ..view() }, OutputFormat::Text);
        assert!(text.contains("target         none, files only\n"), "{text}");
    }

    #[test]
    fn the_document_has_a_schema_and_utc_times() {
        let document: serde_json::Value = serde_json::from_str(&printed(&view(), OutputFormat::Json)).unwrap();
        assert_eq!(document["schema"], 1);
        assert_eq!(document["plan"]["target"]["time"], "2026-06-08T11:32:00Z");
        assert!(document["plan"]["window"]["to_time"].is_null());
        assert_eq!(document["plan"]["tablespaces"][0][1], "/mnt/fast");
    }
}
