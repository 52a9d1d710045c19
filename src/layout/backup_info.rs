//! `backup.info`: what Barman and barback say about one backup, read and written.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveTime, TimeZone, Timelike};

use crate::domain::backup::{Backup, BackupId, BackupStatus, CopyStats, Tablespace};
use crate::domain::cluster::ServerVersion;
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentSize;
use crate::error::{Error, Result};
use crate::layout::python_literal::Literal;

/// How long a `backup.info` may be. Barman's are of some 2 kB; a thousand included files make 100 kB.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// How much of a value an error shows, in characters.
const SHOWN_CHARS: usize = 80;
/// Barman's word for "nothing known".
pub(super) const NULL: &str = "None";

/// Reads a `backup.info` as Barman 3.19.1 does (`infofile.py`): `name=value` lines, `#` comments, `None` for null,
/// the last of equal names.
///
/// Missing fields stay unknown, unknown ones are passed over; so are the fields a [`Backup`] has no place for:
/// `begin_offset` and `end_offset` (they follow from the LSNs), `server_name` (the constant `cloud`),
/// what `snapshots_info` says (but not that it is there) and those that Barman's cloud commands always leave `None`.
/// Times without a zone are read as UTC.
///
/// Errors: `Corrupt` for more than 1 MiB, for a line without `=`, and for a field whose value cannot be read; the
/// message names both.
pub fn parse(id: &BackupId, text: &str) -> Result<Backup> {
    let corrupt = |why: &str| Error::corrupt(format!("could not read backup.info of backup \"{id}\": {why}"));
    if text.len() > MAX_BYTES {
        return Err(corrupt(&format!("its {} bytes are more than {MAX_BYTES}", text.len())));
    }
    let mut backup = Backup::new(id.clone());
    let mut fields = BTreeMap::new();
    for line in text.split('\n') {
        if let Some(comment) = line.strip_prefix('#') {
            backup.comments.push(comment.strip_prefix(' ').unwrap_or(comment).trim_end().to_owned());
        } else if !line.trim().is_empty() {
            let (name, value) =
                line.split_once('=').ok_or_else(|| corrupt(&format!("line \"{}\" has no \"=\" in it", shown(line))))?;
            fields.insert(name.trim(), value.trim());
        }
    }
    for (name, value) in fields.into_iter().filter(|(_, value)| *value != NULL) {
        set_field(&mut backup, name, value)
            .map_err(|why| corrupt(&format!("value \"{}\" of field \"{name}\": {why}", shown(value))))?;
    }
    Ok(backup)
}

/// Writes a `backup.info` that Barman 3.19.1 reads, byte for byte as it would write it; comments come first.
///
/// Only fields Barman knows are written, for an unknown one would stop every Barman command. What would break a
/// line, a control character in a path, is written as `?`; of an error only the first line is kept, as Barman does.
#[must_use]
pub fn write(backup: &Backup) -> String {
    let mut text = String::new();
    for comment in backup.comments.iter().flat_map(|comment| comment.split('\n')) {
        text.push_str(format!("# {}", one_line(comment)).trim_end());
        text.push('\n');
    }
    for (name, value) in fields(backup) {
        let value = value.unwrap_or_else(|| NULL.to_owned());
        text.extend([name, "=", &value, "\n"]);
    }
    text
}

/// Every field with its value, in the order Barman writes them: by name.
fn fields(backup: &Backup) -> Vec<(&'static str, Option<String>)> {
    let text = |value: &Option<String>| value.as_deref().map(one_line);
    let offset = |lsn: Option<Lsn>| lsn.map(|lsn| (lsn.bytes() % backup.segment_size.bytes()).to_string());
    let mut fields = vec![
        ("backup_label", backup.backup_label.clone().map(|label| Literal::Str(label).to_string())),
        ("backup_name", text(&backup.name)),
        ("begin_offset", offset(backup.begin_lsn)),
        ("begin_time", backup.begin_time.map(write_time)),
        ("begin_wal", shown_by(backup.begin_segment)),
        ("begin_xlog", shown_by(backup.begin_lsn)),
        ("children_backup_ids", None),
        ("cluster_size", shown_by(backup.cluster_size_bytes)),
        ("compression", None),
        ("config_file", text(&backup.config_file)),
        ("copy_stats", backup.copy_stats.as_ref().map(|stats| write_copy_stats(stats).to_string())),
        ("data_checksums", backup.data_checksums.map(|on| if on { "on" } else { "off" }.to_owned())),
        ("deduplicated_size", None),
        ("encryption", None),
        ("end_offset", offset(backup.end_lsn)),
        ("end_time", backup.end_time.map(write_time)),
        ("end_wal", shown_by(backup.end_segment)),
        ("end_xlog", shown_by(backup.end_lsn)),
        ("error", backup.error.as_ref().map(|error| one_line(error.lines().next().unwrap_or("")))),
        ("hba_file", text(&backup.hba_file)),
        ("ident_file", text(&backup.ident_file)),
        ("included_files", backup.included_files.as_deref().and_then(write_list)),
        ("mode", None),
        ("parent_backup_id", None),
        ("pgdata", text(&backup.pgdata)),
        ("server_name", Some("cloud".to_owned())),
        ("size", None),
        ("status", Some(one_line(&backup.status.to_string()))),
        ("summarize_wal", text(&backup.summarize_wal)),
        ("systemid", shown_by(backup.system_identifier)),
        ("tablespaces", write_tablespaces(&backup.tablespaces)),
        ("timeline", shown_by(backup.timeline)),
        ("version", backup.version.map(|version| version.0.to_string())),
        ("xlog_segment_size", Some(backup.segment_size.bytes().to_string())),
    ];
    // The one field Barman leaves out when there is nothing to say (`_hide_if_null`).
    fields.retain(|(name, value)| *name != "backup_name" || value.is_some());
    fields
}

/// Puts one value in its place; the error is the reason alone.
fn set_field(backup: &mut Backup, name: &str, value: &str) -> Result<(), String> {
    let text = || Some(value.to_owned());
    match name {
        "backup_label" => backup.backup_label = Some(as_text(&literal(value)?)?),
        "backup_name" => backup.name = text(),
        "begin_time" => backup.begin_time = Some(read_time(value)?),
        "begin_wal" => backup.begin_segment = Some(read(value)?),
        "begin_xlog" => backup.begin_lsn = Some(read(value)?),
        "cluster_size" => backup.cluster_size_bytes = Some(read(value)?),
        "config_file" => backup.config_file = text(),
        "copy_stats" => backup.copy_stats = Some(read_copy_stats(&literal(value)?)?),
        "data_checksums" => backup.data_checksums = Some(read_switch(value)?),
        "end_time" => backup.end_time = Some(read_time(value)?),
        "end_wal" => backup.end_segment = Some(read(value)?),
        "end_xlog" => backup.end_lsn = Some(read(value)?),
        "error" => backup.error = text(),
        "hba_file" => backup.hba_file = text(),
        "ident_file" => backup.ident_file = text(),
        "included_files" => {
            backup.included_files = Some(items(&literal(value)?)?.iter().map(as_text).collect::<Result<_, _>>()?);
        }
        "pgdata" => backup.pgdata = text(),
        "snapshots_info" => backup.is_snapshot = true,
        "status" => backup.status = BackupStatus::from(value),
        "summarize_wal" => backup.summarize_wal = text(),
        "systemid" => backup.system_identifier = Some(read(value)?),
        "tablespaces" => {
            backup.tablespaces = items(&literal(value)?)?.iter().map(read_tablespace).collect::<Result<_, _>>()?;
        }
        "timeline" => backup.timeline = Some(read(value)?),
        "version" => backup.version = Some(ServerVersion(read(value)?)),
        "xlog_segment_size" => {
            backup.segment_size = SegmentSize::new(read(value)?).map_err(|error| error.to_string())?;
        }
        _ => {}
    }
    Ok(())
}

/// Reads `YYYY-MM-DD HH:MM:SS[.ffffff][±HH[:MM[:SS]]]`, what Python's `str(datetime)` writes; also with a `T`, a `Z`
/// and without colons in the offset. Without a zone it is UTC.
pub(super) fn read_time(text: &str) -> Result<DateTime<FixedOffset>, String> {
    let wrong = || "it is no time such as 2026-06-08 11:32:00.123456+00:00".to_owned();
    let (date, rest) = text.split_once([' ', 'T']).ok_or_else(wrong)?;
    let zone_at = rest.find(['+', '-', 'Z']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at_checked(zone_at).ok_or_else(wrong)?;
    let date = match numbers(date, '-', &[4, 2, 2]).ok_or_else(wrong)?[..] {
        [year, month, day] => NaiveDate::from_ymd_opt(i32::try_from(year).map_err(|_| wrong())?, month, day),
        _ => None,
    };
    let (clock, fraction) = clock.trim_end().split_once('.').unwrap_or((clock.trim_end(), "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let time = match numbers(clock, ':', &[2, 2, 2]).ok_or_else(wrong)?[..] {
        [hour, minute, second] => NaiveTime::from_hms_nano_opt(hour, minute, second, nanos),
        _ => None,
    };
    let local = date.and_then(|date| Some(date.and_time(time?))).ok_or_else(wrong)?;
    let offset = read_offset(zone).ok_or_else(wrong)?;
    offset.from_local_datetime(&local).single().ok_or_else(wrong)
}

/// Reads nothing or `Z` for UTC, `±HH`, `±HHMM`, `±HH:MM`, `±HHMMSS` or `±HH:MM:SS`.
fn read_offset(zone: &str) -> Option<FixedOffset> {
    if zone.is_empty() || zone == "Z" {
        return FixedOffset::east_opt(0);
    }
    let (sign, digits) = match zone.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, zone.strip_prefix('+')?),
    };
    let compact: String = digits.split(':').collect();
    let valid = matches!(compact.len(), 2 | 4 | 6)
        && compact.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == compact || digits.split(':').all(|part| part.len() == 2));
    let number: i32 = valid.then(|| format!("{compact:0<6}").parse().ok()).flatten()?;
    let (hours, minutes, seconds) = (number / 10_000, number / 100 % 100, number % 100);
    let sane = minutes < 60 && seconds < 60;
    sane.then(|| FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60 + seconds))).flatten()
}

/// Digits of exactly these widths with a separator between them.
fn numbers(text: &str, separator: char, widths: &[usize]) -> Option<Vec<u32>> {
    let words: Vec<&str> = text.split(separator).collect();
    let fits = words.len() == widths.len()
        && words
            .iter()
            .zip(widths)
            .all(|(word, width)| word.len() == *width && word.bytes().all(|b| b.is_ascii_digit()));
    if !fits {
        return None;
    }
    words.iter().map(|word| word.parse().ok()).collect()
}

/// Writes what Python's `str(datetime)` writes: microseconds only when there are any.
///
/// An offset with seconds (local mean time) becomes UTC: Barman 3.19.1 writes such a time but cannot read it again.
pub(super) fn write_time(time: DateTime<FixedOffset>) -> String {
    let whole_minutes = time.offset().local_minus_utc() % 60 == 0;
    let time = if whole_minutes { time } else { time.to_utc().fixed_offset() };
    // chrono counts a leap second's nanoseconds on from 1e9.
    let fraction = match (time.nanosecond() / 1000).min(999_999) {
        0 => String::new(),
        micros => format!(".{micros:06}"),
    };
    format!("{}{fraction}{}", time.format("%Y-%m-%d %H:%M:%S"), time.format("%:z"))
}

fn read_tablespace(item: &Literal) -> Result<Tablespace, String> {
    match items(item)? {
        [name, Literal::Int(oid), location] => Ok(Tablespace {
            name: as_text(name)?,
            oid: u32::try_from(*oid).map_err(|_| format!("{oid} is no OID"))?,
            location: as_text(location)?,
        }),
        _ => Err("a tablespace is not (name, OID, location)".to_owned()),
    }
}

fn write_tablespaces(tablespaces: &[Tablespace]) -> Option<String> {
    let tuple = |Tablespace { name, oid, location }: &Tablespace| {
        Literal::Tuple(vec![Literal::Str(name.clone()), Literal::Int((*oid).into()), Literal::Str(location.clone())])
    };
    (!tablespaces.is_empty()).then(|| Literal::List(tablespaces.iter().map(tuple).collect()).to_string())
}

/// Barman writes an empty list as `None` (`null_repr`).
fn write_list(texts: &[String]) -> Option<String> {
    let list = || Literal::List(texts.iter().cloned().map(Literal::Str).collect());
    (!texts.is_empty()).then(|| list().to_string())
}

fn read_copy_stats(stats: &Literal) -> Result<CopyStats, String> {
    if !matches!(stats, Literal::Dict(_)) {
        return Err("it is no dict".to_owned());
    }
    let number_of_workers = match stats.get("number_of_workers") {
        None | Some(Literal::None) => 0,
        Some(workers) => read(&workers.to_string())?,
    };
    Ok(CopyStats {
        total_time_s: seconds(stats.get("total_time"))?,
        number_of_workers,
        copy_time_s: seconds(stats.get("copy_time"))?,
        serialized_copy_time_s: seconds(stats.get("serialized_copy_time"))?,
        copy_time_per_item_s: seconds_per_item(stats.get("copy_time_per_item"))?,
        serialized_copy_time_per_item_s: seconds_per_item(stats.get("serialized_copy_time_per_item"))?,
    })
}

/// Barman's analysis phase does not exist here: its times are 0, as they are in Barman's own cloud backups.
fn write_copy_stats(stats: &CopyStats) -> Literal {
    let per_item = |times: &BTreeMap<String, f64>, value: &dyn Fn(f64) -> Literal| {
        Literal::Dict(times.iter().map(|(item, time)| (Literal::Str(item.clone()), value(*time))).collect())
    };
    let pairs = [
        ("total_time", Literal::Float(stats.total_time_s)),
        ("number_of_workers", Literal::Int(stats.number_of_workers.into())),
        ("analysis_time", Literal::Int(0)),
        ("analysis_time_per_item", per_item(&stats.copy_time_per_item_s, &|_| Literal::Int(0))),
        ("copy_time_per_item", per_item(&stats.copy_time_per_item_s, &Literal::Float)),
        ("serialized_copy_time_per_item", per_item(&stats.serialized_copy_time_per_item_s, &Literal::Float)),
        ("copy_time", Literal::Float(stats.copy_time_s)),
        ("serialized_copy_time", Literal::Float(stats.serialized_copy_time_s)),
    ];
    Literal::Dict(pairs.into_iter().map(|(name, value)| (Literal::Str(name.to_owned()), value)).collect())
}

/// A number of seconds; 0 when nothing is known (a snapshot backup has no times by item).
fn seconds(value: Option<&Literal>) -> Result<f64, String> {
    match value {
        None | Some(Literal::None) => Ok(0.0),
        Some(Literal::Float(number)) => Ok(*number),
        #[expect(clippy::cast_precision_loss, reason = "seconds beyond 2^53 are no time any copy took")]
        Some(Literal::Int(number)) => Ok(*number as f64),
        Some(other) => Err(format!("{} is no number", shown(&other.to_string()))),
    }
}

fn seconds_per_item(value: Option<&Literal>) -> Result<BTreeMap<String, f64>, String> {
    match value {
        None | Some(Literal::None) => Ok(BTreeMap::new()),
        Some(Literal::Dict(pairs)) => {
            pairs.iter().map(|(item, time)| Ok((as_text(item)?, seconds(Some(time))?))).collect()
        }
        Some(other) => Err(format!("{} is no dict", shown(&other.to_string()))),
    }
}

fn literal(value: &str) -> Result<Literal, String> {
    Literal::parse(value).map_err(|error| error.to_string())
}

fn as_text(value: &Literal) -> Result<String, String> {
    match value {
        Literal::Str(text) => Ok(text.clone()),
        other => Err(format!("{} is no string", shown(&other.to_string()))),
    }
}

fn items(value: &Literal) -> Result<&[Literal], String> {
    match value {
        Literal::List(items) | Literal::Tuple(items) => Ok(items),
        other => Err(format!("{} is no list", shown(&other.to_string()))),
    }
}

fn read<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

fn read_switch(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is neither \"on\" nor \"off\"".to_owned()),
    }
}

fn shown_by<T: Display>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// The beginning of a text as it can stand in a message: control characters escaped, quotes as they are.
pub(super) fn shown(text: &str) -> String {
    let visible =
        |letter: char| if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() };
    text.chars().take(SHOWN_CHARS).map(visible).collect()
}

#[cfg(test)]
mod tests;
