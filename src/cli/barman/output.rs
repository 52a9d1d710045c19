//! What the `barman-cloud-*` commands print on stdout, byte for byte as Barman 3.19.1 prints it.

use std::fmt::Write as _;
use std::io::Write;

use super::call::Format;
use crate::cli::output::emit;
use crate::commands::delete::LeftOut;
use crate::domain::backup::BackupStatus;
use crate::domain::barman_retention::Keep;
use crate::error::Result;
use crate::layout::backup_record::BackupRecord;
use crate::layout::python_json;
use crate::layout::python_literal::Literal;

/// Prints the catalogue: each record with its keep annotation, in the order given.
pub fn list<'r>(
    out: &mut dyn Write,
    format: Format,
    backups: impl IntoIterator<Item = (&'r BackupRecord, Option<Keep>)>,
) -> Result<()> {
    let mut text = String::new();
    match format {
        Format::Json => {
            let objects: Vec<String> = backups.into_iter().map(|(record, _)| record.to_json()).collect();
            let _ = writeln!(text, "{{\"backups_list\": [{}]}}", objects.join(", "));
        }
        Format::Console => {
            list_row(&mut text, ["Backup ID", "End Time", "Begin Wal", "Archival Status", "Name"]);
            for (record, keep) in backups {
                let end = record.time("end_time").map(|time| time.format("%Y-%m-%d %H:%M:%S").to_string());
                let status = match (record.status(), keep) {
                    (BackupStatus::Done, None) => String::new(),
                    (BackupStatus::Done, Some(keep)) => format!("KEEP:{}", keep.word().to_uppercase()),
                    (status, _) => status.to_string(),
                };
                let text_of = |field| record.text(field).unwrap_or_default();
                let end = end.unwrap_or_default();
                list_row(&mut text, [record.id(), &end, text_of("begin_wal"), &status, text_of("backup_name")]);
            }
        }
    }
    emit(out, text.as_bytes())
}

fn list_row(text: &mut String, [id, end, begin_wal, status, name]: [&str; 5]) {
    let _ = writeln!(text, "{id:<20}{end:<25}{begin_wal:<30}{status:<17}{name:<20}");
}

/// Prints one backup. The only key of the JSON document is what the record says its server is called: `cloud`.
pub fn show(out: &mut dyn Write, format: Format, record: &BackupRecord) -> Result<()> {
    let mut text = String::new();
    match format {
        Format::Json => {
            text.push('{');
            python_json::write_str(&mut text, record.text("server_name").unwrap_or("null"));
            let _ = writeln!(text, ": {}}}", record.to_json());
        }
        Format::Console => show_page(&mut text, record),
    }
    emit(out, text.as_bytes())
}

/// Prints what `backup-keep --status` found.
pub fn keep_status(out: &mut dyn Write, keep: Option<Keep>) -> Result<()> {
    emit(out, format!("Keep: {}\n", keep.map_or("nokeep", Keep::word)).as_bytes())
}

/// Prints one step that a dry run of `backup-delete` left out.
pub fn not_deleted(out: &mut dyn Write, step: &LeftOut) -> Result<()> {
    let what = match step {
        LeftOut::Objects(keys) => {
            let keys = keys.iter().cloned().map(Literal::Str).collect();
            format!("objects {}", Literal::List(keys))
        }
        LeftOut::Prefix(prefix) => format!("all objects under prefix {prefix}"),
    };
    emit(out, format!("Skipping deletion of {what} due to --dry-run option\n").as_bytes())
}

fn show_page(text: &mut String, record: &BackupRecord) {
    let is_complete = match record.status() {
        BackupStatus::Done => true,
        BackupStatus::Other(word) => word == "WAITING_FOR_WALS",
        BackupStatus::Started | BackupStatus::Failed => false,
    };
    let known = |field| record.text(field).filter(|value| !value.is_empty());
    let _ = writeln!(text, "Backup {}:", record.id());
    line_if(text, HEAD, "Backup Name", known("backup_name"));
    line(text, HEAD, "Server Name", &record.shown("server_name"));
    line_if(text, HEAD, "System Id", known("systemid"));
    line(text, HEAD, "Status", &record.shown("status"));
    if is_complete {
        line(text, HEAD, "PostgreSQL Version", &record.shown("version"));
        line(text, HEAD, "PGDATA directory", &record.shown("pgdata"));
        line_if(text, HEAD, "Estimated Cluster Size", size(record.int("cluster_size")).as_deref());
    }
    text.push('\n');
    let (checksums, summarizer) = (known("data_checksums"), known("summarize_wal"));
    if checksums.is_some() || summarizer.is_some() {
        text.push_str("  Server information:\n");
        line_if(text, BODY, "Checksums", checksums);
        line_if(text, BODY, "WAL summarizer", summarizer);
        text.push('\n');
    }
    if is_complete {
        show_snapshots(text, record);
        show_tablespaces(text, record);
        show_copy(text, record);
        if known("mode") == Some("postgres") {
            line_if(text, BODY, "Children Backup(s)", known("children_backup_ids"));
        }
    } else {
        line_if(text, HEAD, "Error", known("error"));
    }
}

fn show_snapshots(text: &mut String, record: &BackupRecord) {
    let Some(info) = record.literal("snapshots_info") else { return };
    text.push_str("  Snapshot information:\n");
    line(text, BODY, "provider", &shown(info.get("provider")));
    for (name, value) in pairs(info.get("provider_info")) {
        line(text, BODY, &shown(Some(name)), &shown(Some(value)));
    }
    text.push('\n');
    let Some(Literal::List(snapshots)) = info.get("snapshots") else { return };
    for snapshot in snapshots {
        let mut facts: Vec<_> = pairs(snapshot.get("provider"))
            .iter()
            .map(|(name, value)| (shown(Some(name)), shown(Some(value))))
            .collect();
        facts.sort();
        for (name, value) in facts {
            line(text, BODY, &name, &value);
        }
        let mount = |what| shown(snapshot.get("mount").and_then(|mount| mount.get(what)));
        line(text, BODY, "Mount point", &mount("mount_point"));
        line(text, BODY, "Mount options", &mount("mount_options"));
        text.push('\n');
    }
}

fn show_tablespaces(text: &mut String, record: &BackupRecord) {
    let tablespaces = record.tablespaces();
    if tablespaces.is_empty() {
        return;
    }
    text.push_str("  Tablespaces:\n");
    for [name, oid, location] in tablespaces {
        let place = format!("{} (oid: {})", shown(Some(location)), shown(Some(oid)));
        line(text, BODY, &shown(Some(name)), &place);
    }
    text.push('\n');
}

fn show_copy(text: &mut String, record: &BackupRecord) {
    let known = |field| record.text(field).filter(|value| !value.is_empty());
    text.push_str("  Base backup information:\n");
    line_if(text, BODY, "Backup Method", known("mode"));
    line_if(text, BODY, "Encryption", known("encryption"));
    line_if(text, BODY, "Backup Size", size(record.int("deduplicated_size")).as_deref());
    line_if(text, BODY, "Backup Compression", known("compression"));
    line(text, BODY, "Timeline", &record.shown("timeline"));
    line(text, BODY, "Begin WAL", &record.shown("begin_wal"));
    line(text, BODY, "End WAL", &record.shown("end_wal"));
    line(text, BODY, "Begin time", &record.shown("begin_time"));
    line(text, BODY, "End time", &record.shown("end_time"));
    line_if(text, BODY, "Copy time", record.literal("copy_stats").and_then(copy_time).as_deref());
    line(text, BODY, "Begin Offset", &record.shown("begin_offset"));
    line(text, BODY, "End Offset", &record.shown("end_offset"));
    line(text, BODY, "Begin LSN", &record.shown("begin_xlog"));
    line(text, BODY, "End LSN", &record.shown("end_xlog"));
    text.push('\n');
}

/// Indentation and width of the labels of a page's first lines,
const HEAD: (usize, usize) = (2, 23);
/// and of those below a heading.
const BODY: (usize, usize) = (4, 21);

fn line(text: &mut String, (indent, width): (usize, usize), label: &str, value: &str) {
    let _ = writeln!(text, "{:indent$}{label:<width$}: {value}", "");
}

fn line_if(text: &mut String, shape: (usize, usize), label: &str, value: Option<&str>) {
    if let Some(value) = value {
        line(text, shape, label, value);
    }
}

/// A value as Python's `str` shows it.
fn shown(value: Option<&Literal>) -> String {
    match value {
        None => Literal::None.to_string(),
        Some(Literal::Str(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn pairs(value: Option<&Literal>) -> &[(Literal, Literal)] {
    match value {
        Some(Literal::Dict(pairs)) => pairs,
        _ => &[],
    }
}

/// How long copying took, and before it the analysis when that took a second.
fn copy_time(stats: &Literal) -> Option<String> {
    let seconds = |field| match stats.get(field)? {
        Literal::Float(seconds) => Some(*seconds),
        #[expect(clippy::cast_precision_loss, reason = "shown in whole seconds")]
        Literal::Int(seconds) => Some(*seconds as f64),
        Literal::Bool(one) => Some(f64::from(u8::from(*one))),
        _ => None,
    };
    let copy = seconds("copy_time").filter(|copy| *copy != 0.0)?;
    Some(match seconds("analysis_time").filter(|analysis| *analysis >= 1.0) {
        Some(analysis) => format!("{} + {} startup", duration(copy), duration(analysis)),
        None => duration(copy),
    })
}

/// `1 day, 2 hours, 1 minute, 3 seconds`; what is left of a second does not count.
fn duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds; the cast saturates")]
    let whole = seconds.abs() as u64;
    let units =
        [(whole / 86400, "day"), (whole / 3600 % 24, "hour"), (whole / 60 % 60, "minute"), (whole % 60, "second")];
    let words: Vec<String> = units
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}{}", if count == 1 { "" } else { "s" }))
        .collect();
    let words = if words.is_empty() { "less than one second".to_owned() } else { words.join(", ") };
    if seconds < 0.0 { format!("{words} ago") } else { words }
}

/// `8.3 MiB`; nothing is not shown.
fn size(bytes: Option<i64>) -> Option<String> {
    let bytes = bytes.filter(|bytes| *bytes != 0)?;
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = bytes as f64;
    if value.abs() < 1024.0 {
        return Some(format!("{bytes} B"));
    }
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value.abs() < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    Some(format!("{value:.1} {unit}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn fixture(path: &str) -> String {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1");
        fs::read_to_string(root.join(path)).unwrap()
    }

    fn expected(file: &str) -> String {
        fixture(&format!("expected/{file}"))
    }

    fn backup(id: &str) -> BackupRecord {
        BackupRecord::parse(id, &fixture(&format!("bucket/pfx/main/base/{id}/backup.info"))).unwrap()
    }

    fn catalogue() -> Vec<(BackupRecord, Option<Keep>)> {
        let keep = |id| (id == "20261123T083822").then_some(Keep::Standalone);
        let ids = ["20261123T083817", "20261123T083822", "20261123T083826", "20261123T083832"];
        ids.map(|id| (backup(id), keep(id))).into()
    }

    fn printed(print: impl FnOnce(&mut dyn Write) -> Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn listed(format: Format, backups: &[(BackupRecord, Option<Keep>)]) -> String {
        printed(|out| list(out, format, backups.iter().map(|(record, keep)| (record, *keep))))
    }

    /// fx1 with other values for some of its fields.
    fn shown_with(changes: &str) -> String {
        let text = fixture("bucket/pfx/main/base/20261123T083817/backup.info") + changes;
        let record = BackupRecord::parse("20261123T083817", &text).unwrap();
        printed(|out| show(out, Format::Console, &record))
    }

    #[test]
    fn the_fixture_s_catalogue_is_printed_as_barman_printed_it() {
        assert_eq!(listed(Format::Console, &catalogue()), expected("backup-list.txt"));
        assert_eq!(listed(Format::Json, &catalogue()), expected("backup-list.json"));
        assert_eq!(listed(Format::Json, &[]), "{\"backups_list\": []}\n");
    }

    #[test]
    fn the_fixture_s_backup_is_printed_as_barman_printed_it() {
        let record = backup("20261123T083817");
        assert_eq!(printed(|out| show(out, Format::Console, &record)), expected("backup-show-fx1.txt"));
        assert_eq!(printed(|out| show(out, Format::Json, &record)), expected("backup-show-fx1.json"));
    }

    #[test]
    fn a_keep_is_told_in_one_line() {
        assert_eq!(printed(|out| keep_status(out, Some(Keep::Standalone))), expected("backup-keep-status-fx2.txt"));
        assert_eq!(printed(|out| keep_status(out, None)), "Keep: nokeep\n");
    }

    #[test]
    fn what_is_not_deleted_is_told_as_python_tells_a_list() {
        let keys = vec!["a/it's".to_owned(), "a/b".to_owned()];
        assert_eq!(
            printed(|out| not_deleted(out, &LeftOut::Objects(keys))),
            "Skipping deletion of objects [\"a/it's\", 'a/b'] due to --dry-run option\n"
        );
        assert_eq!(
            printed(|out| not_deleted(out, &LeftOut::Prefix("a/wals/0000000100000000/".to_owned()))),
            "Skipping deletion of all objects under prefix a/wals/0000000100000000/ due to --dry-run option\n"
        );
    }

    #[test]
    fn a_status_other_than_done_stands_in_the_list_and_a_keep_only_beside_done() {
        let row = |changes: &str, keep| {
            let record = BackupRecord::parse("20260102T000000", changes).unwrap();
            listed(Format::Console, &[(record, keep)]).lines().nth(1).unwrap().to_owned()
        };
        let done = row("status=DONE\n", Some(Keep::Full));
        assert_eq!(done, format!("{:75}{:37}", "20260102T000000", "KEEP:FULL"));
        let failed = row("status=FAILED\nend_time=2026-01-02 03:04:05.6+02:00\nbackup_name=é\n", Some(Keep::Full));
        assert_eq!(failed, format!("{:20}{:55}{:17}{:20}", "20260102T000000", "2026-01-02 03:04:05", "FAILED", "é"));
    }

    #[test]
    fn an_unfinished_backup_is_shown_without_what_it_has_not() {
        assert_eq!(
            shown_with("status=FAILED\nerror=failure uploading data (boo)\n"),
            "Backup 20261123T083817:\n  Backup Name            : fx1\n  Server Name            : cloud\n  \
             System Id              : 7711281960404649938\n  Status                 : FAILED\n\n  Server information:\n    \
             Checksums            : on\n\n  Error                  : failure uploading data (boo)\n"
        );
        let bare = BackupRecord::parse("20260101T000000", "").unwrap();
        assert_eq!(
            printed(|out| show(out, Format::Console, &bare)),
            "Backup 20260101T000000:\n  Server Name            : None\n  Status                 : EMPTY\n\n"
        );
    }

    #[test]
    fn durations_and_sizes_read_as_barman_writes_them() {
        for (seconds, expected) in [
            ("0", None),
            ("None", None),
            ("0.99999", Some("less than one second")),
            ("1.5", Some("1 second")),
            ("119.999", Some("1 minute, 59 seconds")),
            ("90061.5", Some("1 day, 1 hour, 1 minute, 1 second")),
            ("172800", Some("2 days")),
            ("-0.5", Some("less than one second ago")),
            ("5, 'analysis_time': 3", Some("5 seconds + 3 seconds startup")),
            ("5, 'analysis_time': 0.3", Some("5 seconds")),
        ] {
            let page = shown_with(&format!("copy_stats={{'copy_time': {seconds}}}\n"));
            let line = page.lines().find_map(|line| line.strip_prefix("    Copy time            : "));
            assert_eq!(line, expected, "{seconds}");
        }
        for (bytes, expected) in [
            (0, None),
            (1, Some("1 B")),
            (1023, Some("1023 B")),
            (1075, Some("1.0 KiB")),
            (1280, Some("1.2 KiB")),
            (1_048_575, Some("1024.0 KiB")),
            (1_610_612_736, Some("1.5 GiB")),
            (i64::MAX, Some("8.0 EiB")),
            (-5, Some("-5 B")),
            (-2048, Some("-2.0 KiB")),
        ] {
            assert_eq!(size(Some(bytes)).as_deref(), expected, "{bytes}");
        }
    }

    #[test]
    fn snapshots_are_shown_with_the_fields_barman_knows() {
        let page = shown_with(
            "tablespaces=None\nsnapshots_info={'provider': 'aws', 'other': 1, 'provider_info': {'region': 'eu', 'account_id': \
             '123'}, 'snapshots': [{'mount': {'mount_options': 'rw', 'mount_point': '/d'}, 'provider': {'snapshot_name': \
             's', 'device_name': '/dev/sdf', 'snapshot_id': 'i'}}]}\n",
        );
        let block = page.split("on\n\n").nth(1).unwrap().split("  Base backup").next().unwrap();
        assert_eq!(
            block,
            "  Snapshot information:\n    provider             : aws\n    account_id           : 123\n    \
             region               : eu\n\n    device_name          : /dev/sdf\n    snapshot_id          : i\n    \
             snapshot_lock_mode   : None\n    snapshot_name        : s\n    Mount point          : /d\n    \
             Mount options        : rw\n\n"
        );
    }
}
