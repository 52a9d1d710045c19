//! What `list` and `show` print.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, Utc};
use serde::Serialize;

use super::table::{Align, fields, table};
use super::{Style, clean, emit, emit_json};
use crate::cli::invocation::OutputFormat;
use crate::cli::quantity::{human_duration, human_size};
use crate::cli::zone::rfc3339;
use crate::domain::backup::Backup;
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentName;
use crate::domain::timeline::TimelineId;
use crate::error::Result;

/// Prints the catalogue of `server`, in the order given.
///
/// JSON: `{"schema": 1, "server": "main", "backups": [BACKUP, …]}`, where BACKUP is as in [`show`].
pub fn list(out: &mut dyn Write, style: Style, server: &str, backups: &[Backup]) -> Result<()> {
    #[derive(Serialize)]
    struct List<'a> {
        server: &'a str,
        backups: Vec<BackupView<'a>>,
    }
    match style.format {
        OutputFormat::Json => emit_json(out, &List { server, backups: backups.iter().map(BackupView::of).collect() }),
        OutputFormat::Text if backups.is_empty() => {
            emit(out, format!("No backups of server \"{}\".\n", clean(server)).as_bytes())
        }
        OutputFormat::Text => emit(out, list_text(style, backups).as_bytes()),
    }
}

/// Prints all that is known about one backup.
///
/// JSON: `{"schema": 1, "backup": {…}}`. Fields that are not known are null. Times are RFC 3339 in UTC, LSNs `16/B374D848`,
/// sizes bytes, durations seconds; `system_identifier` is a string because it does not fit a JavaScript number.
pub fn show(out: &mut dyn Write, style: Style, backup: &Backup) -> Result<()> {
    #[derive(Serialize)]
    struct Show<'a> {
        backup: BackupView<'a>,
    }
    match style.format {
        OutputFormat::Json => emit_json(out, &Show { backup: BackupView::of(backup) }),
        OutputFormat::Text => emit(out, show_text(style, backup).as_bytes()),
    }
}

fn list_text(style: Style, backups: &[Backup]) -> String {
    let rows: Vec<Vec<String>> = backups
        .iter()
        .map(|backup| {
            let time = backup.end_time.map(|time| time.to_utc());
            let local = time.map(|time| style.zone.at(time)).filter(|local| local.offset().local_minus_utc() != 0);
            vec![
                backup.id.to_string(),
                clean(backup.name.as_deref().unwrap_or("")),
                clean(&status(backup)),
                time.map_or(String::new(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string()),
                local.map_or(String::new(), |local| local.format("%Y-%m-%d %H:%M:%S %:z").to_string()),
                duration(backup).map_or(String::new(), human_duration),
                backup.cluster_size_bytes.map_or(String::new(), human_size),
                text(backup.timeline),
                text(backup.begin_lsn),
                text(backup.end_lsn),
            ]
        })
        .collect();
    let headings = [
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("STATUS", Align::Left),
        ("ENDED (UTC)", Align::Left),
        ("ENDED (LOCAL)", Align::Left),
        ("TOOK", Align::Right),
        ("SIZE", Align::Right),
        ("TIMELINE", Align::Right),
        ("BEGIN", Align::Right),
        ("END", Align::Right),
    ];
    table(&headings, &rows)
}

fn show_text(style: Style, backup: &Backup) -> String {
    let time = |time: Option<DateTime<FixedOffset>>| time.map_or(String::new(), |time| style.zone.both(time.to_utc()));
    let place = |lsn: Option<Lsn>, segment: Option<SegmentName>| {
        segment.map_or(text(lsn), |segment| format!("{} in {segment}", text(lsn)))
    };
    let plain = |value: &Option<String>| clean(value.as_deref().unwrap_or(""));
    let checksums = backup.data_checksums.map_or("", |on| if on { "on" } else { "off" });
    let tablespaces: Vec<String> = backup
        .tablespaces
        .iter()
        .map(|space| clean(&format!("{} (OID {}) in {}", space.name, space.oid, space.location)))
        .collect();
    let label: Vec<String> = backup.backup_label.iter().flat_map(|label| label.lines()).map(clean).collect();
    let entries = [
        ("backup", backup.id.to_string()),
        ("name", plain(&backup.name)),
        ("status", clean(&backup.status.to_string())),
        ("damaged pages", clean(backup.damaged_pages().unwrap_or(""))),
        ("error", plain(&backup.error)),
        ("restorable", if backup.is_restorable() { "yes" } else { "no" }.to_owned()),
        ("begin time", time(backup.begin_time)),
        ("end time", time(backup.end_time)),
        ("took", duration(backup).map_or(String::new(), human_duration)),
        ("size", backup.cluster_size_bytes.map_or(String::new(), human_size)),
        ("timeline", text(backup.timeline)),
        ("begin", place(backup.begin_lsn, backup.begin_segment)),
        ("end", place(backup.end_lsn, backup.end_segment)),
        ("segment size", human_size(backup.segment_size.bytes())),
        ("PostgreSQL", text(backup.version)),
        ("system identifier", text(backup.system_identifier)),
        ("data checksums", checksums.to_owned()),
        ("data directory", plain(&backup.pgdata)),
        ("postgresql.conf", plain(&backup.config_file)),
        ("pg_hba.conf", plain(&backup.hba_file)),
        ("pg_ident.conf", plain(&backup.ident_file)),
        (
            "included files",
            backup.included_files.iter().flatten().map(|file| clean(file)).collect::<Vec<_>>().join("\n"),
        ),
        ("tablespaces", tablespaces.join("\n")),
        ("backup label", label.join("\n")),
    ];
    fields(0, &entries)
}

/// The status, and beside it what would otherwise be overlooked.
fn status(backup: &Backup) -> String {
    let damaged = if backup.damaged_pages().is_some() { ", damaged pages" } else { "" };
    format!("{}{damaged}", backup.status)
}

fn duration(backup: &Backup) -> Option<Duration> {
    (backup.end_time? - backup.begin_time?).to_std().ok()
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

/// A backup as JSON has it.
#[derive(Serialize)]
struct BackupView<'a> {
    id: &'a str,
    name: Option<&'a str>,
    status: String,
    restorable: bool,
    error: Option<&'a str>,
    /// Where, as text.
    damaged_pages: Option<&'a str>,
    begin_time: Option<String>,
    end_time: Option<String>,
    duration_s: Option<f64>,
    cluster_size_bytes: Option<u64>,
    timeline: Option<u32>,
    begin_lsn: Option<String>,
    end_lsn: Option<String>,
    begin_segment: Option<String>,
    end_segment: Option<String>,
    segment_size_bytes: u64,
    server_version: Option<String>,
    server_version_num: Option<u32>,
    system_identifier: Option<String>,
    data_checksums: Option<bool>,
    data_directory: Option<&'a str>,
    config_file: Option<&'a str>,
    hba_file: Option<&'a str>,
    ident_file: Option<&'a str>,
    included_files: Option<&'a [String]>,
    tablespaces: Vec<TablespaceView<'a>>,
    copy_stats: Option<CopyStatsView<'a>>,
    summarize_wal: Option<&'a str>,
    backup_label: Option<&'a str>,
}

#[derive(Serialize)]
struct TablespaceView<'a> {
    name: &'a str,
    oid: u32,
    location: &'a str,
}

#[derive(Serialize)]
struct CopyStatsView<'a> {
    total_time_s: f64,
    workers: u32,
    copy_time_s: f64,
    serialized_copy_time_s: f64,
    copy_time_per_item_s: &'a BTreeMap<String, f64>,
}

impl<'a> BackupView<'a> {
    fn of(backup: &'a Backup) -> Self {
        let time = |time: Option<DateTime<FixedOffset>>| time.map(|time| rfc3339(time.with_timezone(&Utc)));
        Self {
            id: backup.id.as_str(),
            name: backup.name.as_deref(),
            status: backup.status.to_string(),
            restorable: backup.is_restorable(),
            error: backup.error.as_deref(),
            damaged_pages: backup.damaged_pages(),
            begin_time: time(backup.begin_time),
            end_time: time(backup.end_time),
            duration_s: duration(backup).map(|duration| duration.as_secs_f64()),
            cluster_size_bytes: backup.cluster_size_bytes,
            timeline: backup.timeline.map(TimelineId::number),
            begin_lsn: backup.begin_lsn.map(|lsn| lsn.to_string()),
            end_lsn: backup.end_lsn.map(|lsn| lsn.to_string()),
            begin_segment: backup.begin_segment.map(|segment| segment.to_string()),
            end_segment: backup.end_segment.map(|segment| segment.to_string()),
            segment_size_bytes: backup.segment_size.bytes(),
            server_version: backup.version.map(|version| version.to_string()),
            server_version_num: backup.version.map(|version| version.0),
            system_identifier: backup.system_identifier.map(|identifier| identifier.to_string()),
            data_checksums: backup.data_checksums,
            data_directory: backup.pgdata.as_deref(),
            config_file: backup.config_file.as_deref(),
            hba_file: backup.hba_file.as_deref(),
            ident_file: backup.ident_file.as_deref(),
            included_files: backup.included_files.as_deref(),
            tablespaces: backup
                .tablespaces
                .iter()
                .map(|space| TablespaceView { name: &space.name, oid: space.oid, location: &space.location })
                .collect(),
            copy_stats: backup.copy_stats.as_ref().map(|stats| CopyStatsView {
                total_time_s: stats.total_time_s,
                workers: stats.number_of_workers,
                copy_time_s: stats.copy_time_s,
                serialized_copy_time_s: stats.serialized_copy_time_s,
                copy_time_per_item_s: &stats.copy_time_per_item_s,
            }),
            summarize_wal: backup.summarize_wal.as_deref(),
            backup_label: backup.backup_label.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::zone::Zone;
    use crate::domain::backup::{BackupStatus, Tablespace};
    use crate::domain::cluster::{ServerVersion, SystemIdentifier};

    fn backups() -> Vec<Backup> {
        let mut done = Backup::new("20260608T113200".parse().unwrap());
        done.name = Some("before-upgrade".to_owned());
        done.status = BackupStatus::Done;
        done.begin_time = "2026-06-08T13:32:00+02:00".parse().ok();
        done.end_time = "2026-06-08T13:36:05+02:00".parse().ok();
        done.cluster_size_bytes = Some(3 << 29);
        done.timeline = Some(TimelineId::FIRST);
        done.begin_lsn = "16/B374D848".parse().ok();
        done.end_lsn = "16/B4000000".parse().ok();
        done.begin_segment = "0000000100000016000000B3".parse().ok();
        done.end_segment = "0000000100000016000000B3".parse().ok();
        done.version = Some(ServerVersion(150_020));
        done.system_identifier = Some(SystemIdentifier(7_300_000_000_000_000_001));
        done.data_checksums = Some(true);
        done.tablespaces =
            vec![Tablespace { name: "fast".to_owned(), oid: 16_400, location: "/mnt/fast\x1b[2J".to_owned() }];
        done.backup_label = Some("START WAL LOCATION: 16/B374D848\nBACKUP FROM: primary\n".to_owned());
        let mut failed = Backup::new("20260609T020000".parse().unwrap());
        failed.status = BackupStatus::Failed;
        failed.begin_time = "2026-06-09T02:00:00Z".parse().ok();
        failed.error = Some("connection lost".to_owned());
        vec![done, failed]
    }

    fn style(format: OutputFormat, hours_east: i32) -> Style {
        let zone = Zone::Fixed(FixedOffset::east_opt(hours_east * 3600).unwrap());
        Style { format, zone, charts: false }
    }

    fn printed(print: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_list_lines_up() {
        let text = printed(|out| list(out, style(OutputFormat::Text, 0), "main", &backups()));
        assert_eq!(
            text,
            "\
ID               NAME            STATUS  ENDED (UTC)                TOOK     SIZE  TIMELINE        BEGIN          END
20260608T113200  before-upgrade  DONE    2026-06-08 11:36:05  4 min 05 s  1.5 GiB         1  16/B374D848  16/B4000000
20260609T020000                  FAILED
"
        );
        let local = printed(|out| list(out, style(OutputFormat::Text, 2), "main", &backups()));
        assert!(local.contains("ENDED (LOCAL)") && local.contains("2026-06-08 13:36:05 +02:00"), "{local}");
    }

    #[test]
    fn a_backup_of_damaged_pages_is_marked_wherever_it_is_shown() {
        let mut backups = backups();
        backups[0].mark_damaged_pages("\"base/5/16384\": block 7");
        let text = printed(|out| list(out, style(OutputFormat::Text, 0), "main", &backups));
        assert!(text.contains("  DONE, damaged pages  2026-06-08"), "{text}");
        let text = printed(|out| show(out, style(OutputFormat::Text, 0), &backups[0]));
        assert!(text.contains("status             DONE\ndamaged pages      \"base/5/16384\": block 7\n"), "{text}");
        let json = printed(|out| show(out, style(OutputFormat::Json, 0), &backups[0]));
        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(document["backup"]["damaged_pages"], "\"base/5/16384\": block 7");
    }

    #[test]
    fn an_empty_catalogue_says_so() {
        let text = printed(|out| list(out, style(OutputFormat::Text, 0), "main", &[]));
        assert_eq!(text, "No backups of server \"main\".\n");
        let json = printed(|out| list(out, style(OutputFormat::Json, 0), "main", &[]));
        assert_eq!(json, "{\n  \"schema\": 1,\n  \"server\": \"main\",\n  \"backups\": []\n}\n");
    }

    #[test]
    fn show_lines_up_and_moves_no_cursor() {
        let text = printed(|out| show(out, style(OutputFormat::Text, 2), &backups()[0]));
        for line in [
            "backup             20260608T113200\n",
            "end time           2026-06-08 11:36:05 UTC (13:36:05 +02:00)\n",
            "begin              16/B374D848 in 0000000100000016000000B3\n",
            "tablespaces        fast (OID 16400) in /mnt/fast\u{fffd}[2J\n",
            "backup label       START WAL LOCATION: 16/B374D848\n                   BACKUP FROM: primary\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("error"), "unknown things are left out");
    }

    #[test]
    fn json_has_every_field_even_when_it_is_not_known() {
        let document: serde_json::Value =
            serde_json::from_str(&printed(|out| list(out, style(OutputFormat::Json, 2), "main", &backups()))).unwrap();
        assert_eq!(document["schema"], 1);
        let (done, failed) = (&document["backups"][0], &document["backups"][1]);
        assert_eq!(done["id"], "20260608T113200");
        assert_eq!(done["end_time"], "2026-06-08T11:36:05Z");
        assert_eq!(done["duration_s"], 245.0);
        assert_eq!(done["system_identifier"], "7300000000000000001");
        assert_eq!(done["server_version"], "15.20");
        assert_eq!(done["tablespaces"][0]["oid"], 16_400);
        assert_eq!(done["restorable"], true);
        assert_eq!(failed["restorable"], false);
        assert!(failed["end_lsn"].is_null());
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(done), keys(failed));
        let one: serde_json::Value =
            serde_json::from_str(&printed(|out| show(out, style(OutputFormat::Json, 2), &backups()[0]))).unwrap();
        assert_eq!(&one["backup"], done);
    }
}
