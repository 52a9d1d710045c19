//! What `backup` and `restore` print when they are done.

use std::io::Write;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::table::{Align, fields, table};
use super::{Style, clean, emit, emit_json};
use crate::cli::invocation::OutputFormat;
use crate::cli::quantity::{human_duration, human_rate, human_size};
use crate::error::Result;
use crate::layout::part_index::{DamagedFile, damage_line};

/// The longest bar of a chart, in cells.
const CHART_WIDTH: u128 = 24;

/// One step of a command and the wall time it took. JSON: `{"name": …, "seconds": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// For how long.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub duration: Duration,
}

/// A base backup that has been taken. Field by field the JSON document, under `"backup"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupOutcome {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Bytes of the files copied.
    pub size_bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Files copied.
    pub files: u64,
    /// Wall time from start to commit.
    #[serde(rename = "duration_s", serialize_with = "seconds")]
    pub duration: Duration,
    /// Where replay begins.
    pub begin_lsn: String,
    /// Where the copy is consistent.
    pub end_lsn: String,
    /// WAL segments in the store that the copy needs.
    pub wal_segments: usize,
    /// Of these, those the backup had to ship itself because no archiver had.
    pub wal_segments_shipped: usize,
    /// What the time went into.
    pub phases: Vec<Phase>,
    /// Relation files with damaged pages, `{"path": …, "blocks": […], "count": …}`; null when pages carry no checksums.
    pub damaged: Option<Vec<DamagedFile>>,
}

/// A data directory that has been restored. Field by field the JSON document, under `"restore"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreOutcome {
    /// The backup it came from.
    pub backup_id: String,
    /// The directory that was filled.
    pub directory: String,
    /// Bytes of the files written.
    pub size_bytes: u64,
    /// Files written.
    pub files: u64,
    /// Wall time.
    #[serde(rename = "duration_s", serialize_with = "seconds")]
    pub duration: Duration,
    /// What the time went into.
    pub phases: Vec<Phase>,
    /// The command to type next, such as `pg_ctl -D /srv/copy start`.
    pub next: String,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Prints the id alone, for `id=$(barback backup)`; as JSON the whole outcome. The summary for people is
/// [`backup_summary`].
pub fn backup_taken(out: &mut dyn Write, style: Style, outcome: &BackupOutcome) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        backup: &'a BackupOutcome,
    }
    match style.format {
        OutputFormat::Json => emit_json(out, &Document { backup: outcome }),
        OutputFormat::Text => emit(out, format!("{}\n", outcome.id).as_bytes()),
    }
}

/// What to tell people on stderr about a backup.
#[must_use]
pub fn backup_summary(style: Style, outcome: &BackupOutcome) -> String {
    let named = outcome.name.as_deref().map_or(String::new(), |name| format!(" \"{}\"", clean(name)));
    let entries = [
        ("size", format!("{} in {} files", human_size(outcome.size_bytes), outcome.files)),
        ("stored", format!("{}{}", human_size(outcome.stored_bytes), ratio(outcome.size_bytes, outcome.stored_bytes))),
        ("took", took(outcome.size_bytes, outcome.duration)),
        ("WAL", format!("{} to {}, {}", outcome.begin_lsn, outcome.end_lsn, wal_segments(outcome))),
        ("pages", damage(outcome)),
    ];
    let chart = phases(style, &outcome.phases);
    format!("Backup {}{named} is complete\n\n{}{chart}", outcome.id, fields(2, &entries))
}

/// Prints what was restored and what to do next.
pub fn restored(out: &mut dyn Write, style: Style, outcome: &RestoreOutcome) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        restore: &'a RestoreOutcome,
    }
    if style.format == OutputFormat::Json {
        return emit_json(out, &Document { restore: outcome });
    }
    let entries = [
        ("backup", clean(&outcome.backup_id)),
        ("size", format!("{} in {} files", human_size(outcome.size_bytes), outcome.files)),
        ("took", took(outcome.size_bytes, outcome.duration)),
    ];
    let mut text = format!("Restored \"{}\"\n\n", clean(&outcome.directory));
    text += &fields(2, &entries);
    text += &phases(style, &outcome.phases);
    for warning in &outcome.warnings {
        text.extend(["\n  ! ", &clean(warning)]);
    }
    if !outcome.warnings.is_empty() {
        text.push('\n');
    }
    text.extend(["\nNext: ", &clean(&outcome.next), "\n"]);
    emit(out, text.as_bytes())
}

fn wal_segments(outcome: &BackupOutcome) -> String {
    let counted = match outcome.wal_segments {
        1 => "1 segment".to_owned(),
        many => format!("{many} segments"),
    };
    match outcome.wal_segments_shipped {
        0 => counted,
        shipped => format!("{counted}, {shipped} shipped by this backup"),
    }
}

/// Nothing when there is none: the error that follows says the rest.
fn damage(outcome: &BackupOutcome) -> String {
    let files = outcome.damaged.as_deref().unwrap_or_default();
    if files.is_empty() { String::new() } else { clean(&format!("damaged in {}", damage_line(files))) }
}

fn took(bytes: u64, duration: Duration) -> String {
    format!("{} ({})", human_duration(duration), human_rate(bytes, duration))
}

/// How much smaller it became: `, 4.2 times smaller`.
fn ratio(size: u64, stored: u64) -> String {
    match (u128::from(size) * 10).checked_div(u128::from(stored)) {
        Some(tenths) if tenths > 10 => format!(", {}.{} times smaller", tenths / 10, tenths % 10),
        _ => String::new(),
    }
}

/// Where the time went, longest bar for the longest phase.
fn phases(style: Style, phases: &[Phase]) -> String {
    if phases.is_empty() {
        return String::new();
    }
    let longest = phases.iter().map(|phase| phase.duration.as_micros()).max().unwrap_or(0).max(1);
    let rows: Vec<Vec<String>> = phases
        .iter()
        .map(|phase| {
            let bar = if style.charts { bar(phase.duration.as_micros(), longest) } else { String::new() };
            vec![clean(&phase.name), human_duration(phase.duration), bar]
        })
        .collect();
    let headings = [("PHASE", Align::Left), ("TOOK", Align::Right), ("", Align::Left)];
    let mut text = String::from("\n");
    for line in table(&headings, &rows).lines() {
        text.extend(["  ", line, "\n"]);
    }
    text
}

/// A bar of eighths of a cell; something that took any time shows at least the thinnest one.
fn bar(part: u128, whole: u128) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = part.saturating_mul(CHART_WIDTH * 8).checked_div(whole).unwrap_or(0).clamp(1, CHART_WIDTH * 8);
    let cells = usize::try_from(eighths / 8).unwrap_or(0);
    let rest = usize::try_from(eighths % 8).unwrap_or(0);
    "█".repeat(cells) + EIGHTHS[rest]
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    duration.as_secs_f64().serialize(serializer)
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;
    use crate::cli::zone::Zone;

    fn style(format: OutputFormat, charts: bool) -> Style {
        Style { format, zone: Zone::Fixed(FixedOffset::east_opt(0).unwrap()), charts }
    }

    fn steps() -> Vec<Phase> {
        [("start", 1_000), ("copy", 12_000), ("wait for WAL", 0)]
            .map(|(name, millis)| Phase { name: name.to_owned(), duration: Duration::from_millis(millis) })
            .to_vec()
    }

    fn taken() -> BackupOutcome {
        BackupOutcome {
            id: "20260608T113200".to_owned(),
            name: Some("nightly".to_owned()),
            size_bytes: 3 << 29,
            stored_bytes: 384 << 20,
            files: 1_234,
            duration: Duration::from_secs(13),
            begin_lsn: "0/2000028".to_owned(),
            end_lsn: "0/2000100".to_owned(),
            wal_segments: 3,
            wal_segments_shipped: 1,
            phases: steps(),
            damaged: Some(Vec::new()),
        }
    }

    fn restore() -> RestoreOutcome {
        RestoreOutcome {
            backup_id: "20260608T113200".to_owned(),
            directory: "/srv/copy".to_owned(),
            size_bytes: 1 << 30,
            files: 1_000,
            duration: Duration::from_secs(8),
            phases: steps(),
            next: "pg_ctl -D /srv/copy start".to_owned(),
            warnings: vec!["archiving is off in the copy".to_owned()],
        }
    }

    #[test]
    fn a_script_gets_the_id_alone() {
        let mut out = Vec::new();
        backup_taken(&mut out, style(OutputFormat::Text, true), &taken()).unwrap();
        assert_eq!(out, b"20260608T113200\n");
        let mut out = Vec::new();
        backup_taken(&mut out, style(OutputFormat::Json, true), &taken()).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(document["schema"], 1);
        assert_eq!(document["backup"]["duration_s"], 13.0);
        assert_eq!(document["backup"]["wal_segments"], 3);
        assert_eq!(document["backup"]["wal_segments_shipped"], 1);
        assert_eq!(document["backup"]["phases"][1]["seconds"], 12.0);
    }

    #[test]
    fn people_get_a_summary_with_bars_on_a_terminal() {
        assert_eq!(
            backup_summary(style(OutputFormat::Text, true), &taken()),
            "\
Backup 20260608T113200 \"nightly\" is complete

  size    1.5 GiB in 1234 files
  stored  384 MiB, 4.0 times smaller
  took    13.0 s (118 MiB/s)
  WAL     0/2000028 to 0/2000100, 3 segments, 1 shipped by this backup

  PHASE           TOOK
  start          1.0 s  ██
  copy          12.0 s  ████████████████████████
  wait for WAL    0 ms  ▏
"
        );
        assert!(!backup_summary(style(OutputFormat::Text, false), &taken()).contains('█'));
    }

    #[test]
    fn a_restore_ends_with_what_to_type_next() {
        let mut out = Vec::new();
        restored(&mut out, style(OutputFormat::Text, false), &restore()).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
Restored \"/srv/copy\"

  backup  20260608T113200
  size    1 GiB in 1000 files
  took    8.0 s (128 MiB/s)

  PHASE           TOOK
  start          1.0 s
  copy          12.0 s
  wait for WAL    0 ms

  ! archiving is off in the copy

Next: pg_ctl -D /srv/copy start
"
        );
        let mut out = Vec::new();
        restored(&mut out, style(OutputFormat::Json, false), &restore()).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(document["restore"]["directory"], "/srv/copy");
    }
}
