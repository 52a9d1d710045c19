//! A `backup.info` as Barman shows it: every field with the type it has in Barman's JSON, whatever wrote it.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset};

use crate::domain::backup::BackupStatus;
use crate::domain::barman_retention::{Keep, RetainedBackup};
use crate::error::{Error, Result};
use crate::layout::backup_info::{MAX_BYTES, NULL, read_time, shown, write_time};
use crate::layout::python_json;
use crate::layout::python_literal::Literal;

/// How a field's text is read and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A whole number.
    Int,
    /// The text itself.
    Text,
    /// The text itself; an empty one is null.
    TextOrNull,
    /// A time with a zone.
    Time,
    /// A Python literal, shown as the JSON for its value.
    Literal,
    /// A Python literal, shown as a text that holds the literal.
    Quoted,
    /// A list of (name, OID, location); an empty one is null.
    Tablespaces,
    /// Disk snapshots of a cloud provider.
    Snapshots,
}

/// The fields of Barman 3.19.1, in the order of its JSON: by name.
const FIELDS: [(&str, Kind); 35] = [
    ("backup_label", Kind::Quoted),
    ("backup_name", Kind::Text),
    ("begin_offset", Kind::Int),
    ("begin_time", Kind::Time),
    ("begin_wal", Kind::Text),
    ("begin_xlog", Kind::Text),
    ("children_backup_ids", Kind::TextOrNull),
    ("cluster_size", Kind::Int),
    ("compression", Kind::Text),
    ("config_file", Kind::Text),
    ("copy_stats", Kind::Literal),
    ("data_checksums", Kind::Text),
    ("deduplicated_size", Kind::Int),
    ("encryption", Kind::Text),
    ("end_offset", Kind::Int),
    ("end_time", Kind::Time),
    ("end_wal", Kind::Text),
    ("end_xlog", Kind::Text),
    ("error", Kind::Text),
    ("hba_file", Kind::Text),
    ("ident_file", Kind::Text),
    ("included_files", Kind::Literal),
    ("mode", Kind::Text),
    ("parent_backup_id", Kind::Text),
    ("pgdata", Kind::Text),
    ("server_name", Kind::Text),
    ("size", Kind::Int),
    ("snapshots_info", Kind::Snapshots),
    ("status", Kind::Text),
    ("summarize_wal", Kind::Text),
    ("systemid", Kind::Text),
    ("tablespaces", Kind::Tablespaces),
    ("timeline", Kind::Int),
    ("version", Kind::Int),
    ("xlog_segment_size", Kind::Int),
];

/// Fields that Barman leaves out of its JSON instead of showing null.
const HIDDEN_WHEN_NULL: [&str; 2] = ["backup_name", "snapshots_info"];

/// What a file that does not say so means by its segments.
const DEFAULT_SEGMENT_BYTES: i64 = 16 << 20;

/// A provider of disk snapshots: the fields of the whole, and of each snapshot, as Barman 3.19.1 knows them.
const PROVIDERS: [(&str, &[&str], &[&str]); 3] = [
    ("aws", &["account_id", "region"], &["device_name", "snapshot_id", "snapshot_name", "snapshot_lock_mode"]),
    ("azure", &["subscription_id", "resource_group"], &["location", "lun", "snapshot_name"]),
    ("gcp", &["project"], &["device_name", "snapshot_name", "snapshot_project"]),
];

/// A value that is not null.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Int(i64),
    Text(String),
    Time(DateTime<FixedOffset>),
    Literal(Literal),
}

/// What one `backup.info` says, without an opinion on it.
///
/// [`crate::domain::backup::Backup`] is what barback works with and knows less; this is what Barman prints.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupRecord {
    id: String,
    values: BTreeMap<&'static str, Value>,
}

impl BackupRecord {
    /// Reads the `backup.info` in the directory `id` as Barman 3.19.1 reads it: `name=value` lines, comments that begin
    /// with `#` in the first column, `None` for null, the last of equal names, every value of a known field checked.
    ///
    /// Unknown fields are passed over, where every command of Barman ends with an error for the whole catalogue. Times need
    /// the form that Barman writes; without a zone they are UTC. Whole numbers have at most 64 bits.
    ///
    /// Errors: `Corrupt` for more than 1 MiB, a line without `=`, and a value of the wrong type. The message is the cause
    /// alone: Barman's own text puts what could not be read in front.
    pub fn parse(id: &str, text: &str) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(Error::corrupt(format!("{} bytes are more than {MAX_BYTES}", text.len())));
        }
        let status = ("status", Value::Text("EMPTY".to_owned()));
        let mut values = BTreeMap::from([status, ("xlog_segment_size", Value::Int(DEFAULT_SEGMENT_BYTES))]);
        for line in text.split('\n').filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let (name, text) = line
                .split_once('=')
                .ok_or_else(|| Error::corrupt(format!("invalid line {} in file <UNKNOWN>", shown(line.trim()))))?;
            let (name, text) = (name.trim(), text.trim());
            let Some((name, kind)) = FIELDS.iter().find(|(known, _)| *known == name) else { continue };
            let value = if text == NULL { Ok(None) } else { read(*kind, text) };
            match value
                .map_err(|why| Error::corrupt(format!("value \"{}\" of field \"{name}\": {why}", shown(text))))?
            {
                Some(value) => values.insert(name, value),
                None => values.remove(name),
            };
        }
        Ok(Self { id: id.to_owned(), values })
    }

    /// The backup's directory, which is its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How far the backup came; `EMPTY` where the file does not say, and `None` where it says `None`.
    #[must_use]
    pub fn status(&self) -> BackupStatus {
        BackupStatus::from(self.text("status").unwrap_or(NULL))
    }

    /// A field that is text; none where it is null, or is no text.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        match self.get(field) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A field that is a whole number; none as in [`Self::text`].
    #[must_use]
    pub fn int(&self, field: &str) -> Option<i64> {
        match self.get(field) {
            Some(Value::Int(number)) => Some(*number),
            _ => None,
        }
    }

    /// A field that is a time; none as in [`Self::text`].
    #[must_use]
    pub fn time(&self, field: &str) -> Option<DateTime<FixedOffset>> {
        match self.get(field) {
            Some(Value::Time(time)) => Some(*time),
            _ => None,
        }
    }

    /// A field that is a Python value; none as in [`Self::text`].
    #[must_use]
    pub fn literal(&self, field: &str) -> Option<&Literal> {
        match self.get(field) {
            Some(Value::Literal(literal)) => Some(literal),
            _ => None,
        }
    }

    /// A field as Python's `str` shows it: `None` for null.
    #[must_use]
    pub fn shown(&self, field: &str) -> String {
        match self.get(field) {
            None => NULL.to_owned(),
            Some(Value::Int(number)) => number.to_string(),
            Some(Value::Text(text)) => text.clone(),
            Some(Value::Time(time)) => write_time(*time),
            Some(Value::Literal(literal)) => literal.to_string(),
        }
    }

    /// Name, OID and location of each tablespace, as far as they have one.
    #[must_use]
    pub fn tablespaces(&self) -> Vec<[&Literal; 3]> {
        let Some(Literal::List(tablespaces)) = self.literal("tablespaces") else { return Vec::new() };
        let parts = |item| match item {
            &Literal::List(ref parts) | &Literal::Tuple(ref parts) => parts.iter().collect::<Vec<_>>().try_into().ok(),
            _ => None,
        };
        tablespaces.iter().filter_map(parts).collect()
    }

    /// The record as one JSON object, byte for byte as Barman 3.19.1 shows it (`fixtures/barman-3.19.1/expected`): all
    /// fields by name, then `backup_id` and the times once more in ISO 8601.
    ///
    /// One difference, on purpose: a backup that is not `DONE` has no `end_time`. Barman's FAILED ones have, and callers
    /// such as `CloudNativePG` take every backup with both times for one to restore from.
    #[must_use]
    pub fn to_json(&self) -> String {
        let times = [("begin_time", self.time("begin_time")), ("end_time", self.shown_end_time())];
        let mut json = String::from("{");
        let mut pair = |name: &str, write: &dyn Fn(&mut String)| {
            json.push_str(if json.len() > 1 { ", " } else { "" });
            python_json::write_str(&mut json, name);
            json.push_str(": ");
            write(&mut json);
        };
        for (name, kind) in FIELDS {
            if self.values.contains_key(name) || !HIDDEN_WHEN_NULL.contains(&name) {
                pair(name, &|json| self.write_value(json, name, kind));
            }
        }
        pair("backup_id", &|json| python_json::write_str(json, &self.id));
        for (name, time) in times {
            if let Some(time) = time {
                let iso = write_time(time).replacen(' ', "T", 1);
                pair(&format!("{name}_iso"), &|json| python_json::write_str(json, &iso));
            }
        }
        json.push('}');
        json
    }

    /// What the retention rules must know of this backup.
    #[must_use]
    pub fn retained(&self, keep: Option<Keep>) -> RetainedBackup {
        let text = |field| self.text(field).map(str::to_owned);
        RetainedBackup {
            id: self.id.clone(),
            status: self.status(),
            timeline: self.int("timeline"),
            begin_wal: text("begin_wal"),
            end_wal: text("end_wal"),
            begin_time: self.time("begin_time"),
            end_time: self.time("end_time"),
            parent: text("parent_backup_id"),
            children: text("children_backup_ids"),
            keep,
        }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        debug_assert!(FIELDS.iter().any(|(known, _)| *known == field), "{field} is no field");
        self.values.get(field)
    }

    fn shown_end_time(&self) -> Option<DateTime<FixedOffset>> {
        self.time("end_time").filter(|_| self.status() == BackupStatus::Done)
    }

    fn write_value(&self, json: &mut String, name: &str, kind: Kind) {
        match self.get(name) {
            Some(Value::Time(_)) if name == "end_time" && self.shown_end_time().is_none() => json.push_str("null"),
            Some(Value::Time(time)) => python_json::write_str(json, &time.format("%a %b %e %H:%M:%S %Y").to_string()),
            Some(Value::Literal(literal)) if kind == Kind::Quoted => python_json::write_str(json, &literal.to_string()),
            Some(Value::Literal(literal)) => python_json::write_literal(json, literal),
            Some(Value::Text(text)) => python_json::write_str(json, text),
            Some(Value::Int(number)) => json.push_str(&number.to_string()),
            None => json.push_str("null"),
        }
    }
}

/// Reads one value that is not the word `None`; none where it means null all the same.
fn read(kind: Kind, text: &str) -> Result<Option<Value>, String> {
    let literal = || Literal::parse(text).map_err(|error| error.to_string());
    Ok(match kind {
        Kind::Int => Some(Value::Int(read_int(text).ok_or("it is no whole number of at most 64 bits")?)),
        Kind::TextOrNull if text.is_empty() => None,
        Kind::Text | Kind::TextOrNull => Some(Value::Text(text.to_owned())),
        Kind::Time => Some(Value::Time(read_time(text)?)),
        Kind::Literal => Some(literal()?).filter(|literal| *literal != Literal::None).map(Value::Literal),
        Kind::Quoted => match literal()? {
            Literal::None => None,
            Literal::Str(text) if text.is_empty() => None,
            other => Some(Value::Literal(other)),
        },
        Kind::Tablespaces => read_tablespaces(literal()?)?.map(Value::Literal),
        Kind::Snapshots => Some(Value::Literal(read_snapshots(&literal()?)?)),
    })
}

/// A number as Python's `int` reads it: a sign, leading zeros, single underscores between digits.
fn read_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let valid = digits.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    valid.then(|| text.replace('_', "").parse().ok()).flatten()
}

fn read_tablespaces(value: Literal) -> Result<Option<Literal>, String> {
    let (Literal::List(items) | Literal::Tuple(items)) = value else { return Err("it is no list".to_owned()) };
    let is_whole = |item: &Literal| matches!(item, Literal::List(parts) | Literal::Tuple(parts) if parts.len() == 3);
    if !items.iter().all(is_whole) {
        return Err("a tablespace is not (name, OID, location)".to_owned());
    }
    Ok((!items.is_empty()).then_some(Literal::List(items)))
}

/// Keeps of a description of snapshots what Barman 3.19.1 keeps: the fields it knows of this provider, null where missing.
fn read_snapshots(value: &Literal) -> Result<Literal, String> {
    let Some(Literal::Str(provider)) = value.get("provider") else { return Err("it names no provider".to_owned()) };
    let (_, common, own) = PROVIDERS
        .iter()
        .find(|(name, ..)| name == provider)
        .ok_or_else(|| format!("Unsupported snapshot provider in backup info: {}", shown(provider)))?;
    let Some(Literal::List(snapshots) | Literal::Tuple(snapshots)) = value.get("snapshots") else {
        return Err("it has no list of snapshots".to_owned());
    };
    let dict = |pairs: Vec<(&str, Literal)>| {
        Literal::Dict(pairs.into_iter().map(|(name, value)| (Literal::Str(name.to_owned()), value)).collect())
    };
    let pick = |from: Option<&Literal>, names: &[&'static str]| {
        let value = |name: &str| from.and_then(|from| from.get(name)).cloned().unwrap_or(Literal::None);
        dict(names.iter().map(|name| (*name, value(name))).collect())
    };
    let snapshot = |one: &Literal| {
        let mount = pick(one.get("mount"), &["mount_options", "mount_point"]);
        dict(vec![("mount", mount), ("provider", pick(one.get("provider"), own))])
    };
    Ok(dict(vec![
        ("provider", Literal::Str(provider.clone())),
        ("provider_info", pick(value.get("provider_info"), common)),
        ("snapshots", Literal::List(snapshots.iter().map(snapshot).collect())),
    ]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn json(text: &str) -> String {
        BackupRecord::parse("20260101T000000", text).unwrap().to_json()
    }

    /// What stands behind a field's name in the JSON of a record with that one field.
    fn field(name: &str, value: &str) -> String {
        let json = json(&format!("{name}={value}\n"));
        let key = format!("\"{name}\": ");
        let rest = json.split_once(&key).map_or("", |(_, rest)| rest);
        rest.find(", \"").map_or(rest, |end| &rest[..end]).to_owned()
    }

    #[test]
    fn fields_are_sorted_and_none_is_twice() {
        assert!(FIELDS.is_sorted_by(|(one, _), (other, _)| one < other));
    }

    /// Values and what `backup-list --format json` of Barman 3.19.1 shows for them.
    #[test]
    fn values_have_the_types_they_have_in_barman_s_json() {
        for (name, value, expected) in [
            ("timeline", "07", "7"),
            ("timeline", "+1_000", "1000"),
            ("cluster_size", "-0", "0"),
            ("systemid", "12", "\"12\""),
            ("systemid", "none", "\"none\""),
            ("systemid", "None", "null"),
            ("systemid", "", "\"\""),
            ("children_backup_ids", "", "null"),
            ("pgdata", "#x = é\u{7f}", "\"#x = \\u00e9\\u007f\""),
            ("begin_time", "2026-11-03 08:07:43.5-05:30", "\"Tue Nov  3 08:07:43 2026\""),
            ("begin_time", "2026-11-03T08:07:43Z", "\"Tue Nov  3 08:07:43 2026\""),
            ("tablespaces", "[]", "null"),
            ("tablespaces", "[['a', '1', None]]", "[[\"a\""),
            ("included_files", "()", "[]"),
            ("copy_stats", "{}", "{}"),
            ("copy_stats", "5", "5"),
            ("backup_label", "\"it's\"", "\"\\\"it's\\\"\""),
            ("backup_label", "''", "null"),
            ("backup_label", "'a\\nb'", "\"'a\\\\nb'\""),
        ] {
            assert_eq!(field(name, value), expected, "{name}={value}");
        }
    }

    #[test]
    fn times_come_again_in_iso_8601_with_their_zone() {
        let json =
            json("status=DONE\nbegin_time=2026-11-23 08:37:43.123456789+00:00\nend_time=2026-11-23 08:37:44-05:30\n");
        assert!(
            json.ends_with(
                "\"backup_id\": \"20260101T000000\", \"begin_time_iso\": \"2026-11-23T08:37:43.123456+00:00\", \
                 \"end_time_iso\": \"2026-11-23T08:37:44-05:30\"}"
            ),
            "{json}"
        );
    }

    #[test]
    fn what_is_not_done_has_no_end_time() {
        for status in ["FAILED", "STARTED", "WAITING_FOR_WALS"] {
            let json = json(&format!("status={status}\nend_time=2026-11-23 08:37:44+00:00\n"));
            assert!(json.contains("\"end_time\": null,") && !json.contains("end_time_iso"), "{json}");
        }
    }

    #[test]
    fn names_and_snapshots_are_left_out_when_there_are_none() {
        let json = json("backup_name=None\nsnapshots_info=None\n");
        assert!(!json.contains("backup_name") && !json.contains("snapshots_info"), "{json}");
    }

    #[test]
    fn unknown_fields_and_comments_are_passed_over() {
        let record = BackupRecord::parse("x", "# a comment\nshiny=1\n\n\x0cpgdata = /d \r\npgdata=/e\n").unwrap();
        assert_eq!(record.text("pgdata"), Some("/e"));
        assert_eq!((record.id(), record.status()), ("x", BackupStatus::Other("EMPTY".to_owned())));
    }

    #[test]
    fn what_barman_cannot_read_is_corrupt_even_when_a_later_line_says_better() {
        for text in [
            "foo",
            " # indented",
            "timeline=x\ntimeline=3",
            "timeline=1__0",
            "timeline=99999999999999999999",
            "begin_time=rubbish",
            "begin_time=2026-02-30 00:00:00+00:00",
            "backup_label=plain",
            "copy_stats=",
            "tablespaces=[('a', 1)]",
            "tablespaces=5",
            "snapshots_info={}",
            "snapshots_info={'provider': 'foo', 'provider_info': {}, 'snapshots': []}",
        ] {
            assert_eq!(BackupRecord::parse("x", text).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
        }
        let error = BackupRecord::parse("x", "rubbish\n").unwrap_err();
        assert_eq!(error.to_string(), "invalid line rubbish in file <UNKNOWN>");
    }

    proptest! {
        #[test]
        fn hostile_text_does_no_harm(text: String, syntax in r#"[a-z_]{0,12}=[\[\](){}'",:\\0-9 -]{0,40}\n"#) {
            for text in [&text, &syntax] {
                if let Ok(record) = BackupRecord::parse("x", text) {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&record.to_json()).is_ok());
                }
            }
        }

        #[test]
        fn every_known_field_of_any_text_makes_json(at in 0..FIELDS.len(), value in ".{0,30}") {
            let (name, _) = FIELDS[at];
            if let Ok(record) = BackupRecord::parse("x", &format!("{name}={value}\n")) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&record.to_json()).is_ok());
            }
        }
    }
}
