//! The value grammars of Barman 3.19.1: sizes, counts, tags, levels, names, dates. Each refuses what Barman refuses, in
//! its words; `fixtures/barman-argv` has what it answered.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::argparse::Refusal;
use super::call::{Tag, TargetTimeline};
use super::python;
use crate::domain::compression::BarmanLevel;

/// The letters before `B` and `iB`, each one power more than the one before.
const SIZE_PREFIXES: &str = "KMGTPEZY";
/// What the pointer words of other commands mean cannot be a backup's name.
const RESERVED_NAMES: [&str; 8] =
    ["latest", "last", "oldest", "first", "last-failed", "latest-full", "last-full", "auto"];
const MAX_TAG_KEY_CHARS: usize = 128;
const MAX_TAG_VALUE_CHARS: usize = 256;

/// What a word was read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Path(OsString),
    Number(i64),
    Size(u64),
    /// None: an empty word, which names no tag.
    Tag(Option<Tag>),
    /// None: an empty word, which is no level.
    Level(Option<BarmanLevel>),
    Timeline(TargetTimeline),
}

/// Any text. Python also takes bytes that are no UTF-8, but no store and no server does.
pub(super) fn text(word: &OsStr) -> Result<Value, Refusal> {
    Ok(Value::Text(utf8(word)?.to_owned()))
}

/// A path: any bytes.
#[allow(clippy::unnecessary_wraps, reason = "stands in tables beside readers that can refuse")]
pub(super) fn path(word: &OsStr) -> Result<Value, Refusal> {
    Ok(Value::Path(word.to_owned()))
}

/// Python's `int`.
pub(super) fn int(word: &OsStr) -> Result<Value, Refusal> {
    whole(word).map(Value::Number).ok_or(Refusal::Invalid("int"))
}

/// A whole number of at least 1.
pub(super) fn positive_int(word: &OsStr) -> Result<Value, Refusal> {
    let number = whole(word).ok_or_else(|| said(word, "is not a valid input"))?;
    if number < 1 { Err(said(word, "is not a valid positive integer")) } else { Ok(Value::Number(number)) }
}

/// A whole number of at least 0.
pub(super) fn non_negative_int(word: &OsStr) -> Result<Value, Refusal> {
    let number = whole(word).filter(|number| *number >= 0);
    number.map(Value::Number).ok_or_else(|| said(word, "is not a valid non negative integer"))
}

/// Hours in which a snapshot's lock can still be changed.
pub(super) fn lock_cool_off_period(word: &OsStr) -> Result<Value, Refusal> {
    within(word, 1..=72, "check_aws_snapshot_lock_cool_off_period_range")
}

/// Days for which a snapshot is locked.
pub(super) fn lock_duration(word: &OsStr) -> Result<Value, Refusal> {
    within(word, 1..=36500, "check_aws_snapshot_lock_duration_range")
}

fn within(word: &OsStr, range: std::ops::RangeInclusive<i64>, kind: &'static str) -> Result<Value, Refusal> {
    let number = whole(word).ok_or_else(|| said(word, "is not a valid input"))?;
    if range.contains(&number) { Ok(Value::Number(number)) } else { Err(Refusal::Invalid(kind)) }
}

fn whole(word: &OsStr) -> Option<i64> {
    python::int(word.to_str()?)
}

/// `'<word>' <what>`: Barman's own texts do not escape what they quote.
fn said(word: &OsStr, what: &str) -> Refusal {
    Refusal::Said(format!("'{}' {what}", python::printed(word)))
}

fn utf8(word: &OsStr) -> Result<&str, Refusal> {
    word.to_str().ok_or_else(|| said(word, "is not UTF-8"))
}

/// A number of bytes, at least 1. Barman 3.19.1 has it the other way round than everybody: `MB` counts by 1024 and `MiB`
/// by 1000. Sizes beyond 64 bits become the greatest number of 64 bits. Barman dies with a traceback (exit 1) of an
/// empty word, `B` and infinity; here they are refused like every other bad size.
pub(super) fn size(word: &OsStr) -> Result<Value, Refusal> {
    let word = python::upper(word);
    let bytes = word.to_str().and_then(bytes_of).filter(|bytes| *bytes >= 1);
    bytes.map(Value::Size).ok_or_else(|| said(&word, "is not a valid size string"))
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as Python")]
fn bytes_of(upper: &str) -> Option<u64> {
    let Some(with_unit) = upper.strip_suffix('B') else { return whole_bytes(upper) };
    let (with_prefix, base) = with_unit.strip_suffix('I').map_or((with_unit, 1024_u128), |rest| (rest, 1000));
    let prefix = with_prefix.chars().next_back().and_then(|letter| SIZE_PREFIXES.find(letter));
    let Some(power) = prefix else { return whole_bytes(with_prefix) };
    let power = u32::try_from(power + 1).ok()?;
    let bytes = python::float(&with_prefix[..with_prefix.len() - 1])? * base.pow(power) as f64;
    bytes.is_finite().then_some(bytes as u64)
}

fn whole_bytes(text: &str) -> Option<u64> {
    u64::try_from(python::int(text)?).ok()
}

/// `--tag`: `key,value`, both trimmed, in the letters and lengths that every provider takes.
pub(super) fn tag(word: &OsStr) -> Result<Value, Refusal> {
    if word.is_empty() {
        return Ok(Value::Tag(None));
    }
    let tag = word.to_str().and_then(checked_tag);
    tag.map(|tag| Value::Tag(Some(tag))).ok_or(Refusal::Invalid("check_tag"))
}

fn checked_tag(text: &str) -> Option<Tag> {
    let (key, value) = text.split_once(',')?;
    let (key, value) = (key.trim_matches(python::is_space), value.trim_matches(python::is_space));
    let allowed = |c: char| c.is_ascii_alphanumeric() || python::is_space(c) || "_.:/=+-@".contains(c);
    let key_fits = (1..=MAX_TAG_KEY_CHARS).contains(&key.chars().count());
    let value_fits = value.chars().count() <= MAX_TAG_VALUE_CHARS;
    let reserved = key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
    let fits = key_fits && value_fits && !reserved && key.chars().chain(value.chars()).all(allowed);
    fits.then(|| (key.to_owned(), value.to_owned()))
}

/// `--tags`: one CSV record of two fields, unchecked.
///
/// Barman 3.19.1 reads these before its log is set up, so that its complaint stands alone, without usage text.
pub(super) fn csv_tag(word: &OsStr) -> Result<Value, Refusal> {
    let shown = python::printed(word);
    let invalid = || Refusal::Bare(format!("Invalid tag format: {shown}"));
    let record = csv_record(word.to_str().ok_or_else(invalid)?).ok_or_else(|| {
        let cause =
            "new-line character seen in unquoted field - do you need to open the file in universal-newline mode?";
        Refusal::Bare(format!("Error parsing tag {shown}: {cause}"))
    })?;
    let [key, value] = <[String; 2]>::try_from(record).map_err(|_| invalid())?;
    Ok(Value::Tag(Some((key, value))))
}

/// Where a CSV reader stands: Python's, which forgives an open quote at the end and text behind a closed one.
#[derive(Clone, Copy)]
enum Csv {
    FieldBegins,
    Unquoted,
    Quoted,
    QuoteInQuoted,
    RecordEnded,
}

/// The fields of one record; an empty line has none. None when something follows the end of the line.
fn csv_record(text: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut at) = (Vec::new(), String::new(), Csv::FieldBegins);
    for c in text.chars() {
        at = match (at, c) {
            (Csv::RecordEnded, '\n' | '\r') => Csv::RecordEnded,
            (Csv::RecordEnded, _) => return None,
            (Csv::Quoted, '"') => Csv::QuoteInQuoted,
            (Csv::FieldBegins, '"') => Csv::Quoted,
            (Csv::FieldBegins, '\n' | '\r') if fields.is_empty() => Csv::RecordEnded,
            (Csv::FieldBegins | Csv::Unquoted | Csv::QuoteInQuoted, ',' | '\n' | '\r') => {
                fields.push(std::mem::take(&mut field));
                if c == ',' { Csv::FieldBegins } else { Csv::RecordEnded }
            }
            (Csv::Quoted, _) | (Csv::QuoteInQuoted, '"') => {
                field.push(c);
                Csv::Quoted
            }
            (Csv::FieldBegins | Csv::Unquoted | Csv::QuoteInQuoted, _) => {
                field.push(c);
                Csv::Unquoted
            }
        };
    }
    let open = match at {
        Csv::RecordEnded => false,
        Csv::FieldBegins => !fields.is_empty(),
        Csv::Unquoted | Csv::Quoted | Csv::QuoteInQuoted => true,
    };
    if open {
        fields.push(field);
    }
    Some(fields)
}

/// `low`, `medium`, `high` in any case, or a number, which may be below zero. Whether a codec has such a level is for
/// the codec: Barman takes the nearest it has.
pub(super) fn level(word: &OsStr) -> Result<Value, Refusal> {
    let level = word.to_str().and_then(|text| match text.to_lowercase().as_str() {
        "" => Some(None),
        "low" => Some(Some(BarmanLevel::Low)),
        "medium" => Some(Some(BarmanLevel::Medium)),
        "high" => Some(Some(BarmanLevel::High)),
        number => plain_int(number).map(|number| Some(BarmanLevel::Number(number))),
    });
    level.map(Value::Level).ok_or(Refusal::Invalid("parse_compression_level"))
}

/// Digits, perhaps behind a minus sign, and nothing else.
fn plain_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.chars().all(|c| python::decimal(c).is_some()).then(|| python::int(text)).flatten()
}

/// A name under which a backup can be found, told apart from an ID and from the words that choose a backup.
pub(super) fn backup_name(word: &OsStr) -> Result<Value, Refusal> {
    let name = utf8(word)?;
    if name.is_empty() {
        return Err(Refusal::Said("Backup name cannot be empty".to_owned()));
    }
    let refuse = |why: &str| Err(Refusal::Said(format!("Backup name '{name}' is not allowed: {why}")));
    match name {
        _ if is_backup_id(name) => refuse("backup ID"),
        _ if RESERVED_NAMES.contains(&name) => refuse("reserved word"),
        _ => text(word),
    }
}

/// `20261123T083817`, in digits of any script and with a newline at the end or not, as Barman 3.19.1 sees it.
fn is_backup_id(name: &str) -> bool {
    let name = name.strip_suffix('\n').unwrap_or(name);
    let are_digits =
        |text: &str, many: usize| text.chars().count() == many && text.chars().all(|c| python::decimal(c).is_some());
    name.split_once('T').is_some_and(|(date, time)| are_digits(date, 8) && are_digits(time, 6))
}

/// `current`, `latest` or a timeline's number.
pub(super) fn target_timeline(word: &OsStr) -> Result<Value, Refusal> {
    let timeline = match word.as_bytes() {
        b"current" => TargetTimeline::Current,
        b"latest" => TargetTimeline::Latest,
        _ => match positive_int(word)? {
            Value::Number(number) => TargetTimeline::Id(number.unsigned_abs()),
            _ => return Err(said(word, "is not a valid input")),
        },
    };
    Ok(Value::Timeline(timeline))
}

/// `2026-01-07T21:53:00.606Z`: what `strptime` reads with `%Y-%m-%dT%H:%M:%S.%fZ`, in ASCII digits.
pub(super) fn lock_expiration_date(word: &OsStr) -> Result<Value, Refusal> {
    let is_date = word.to_str().is_some_and(is_lock_date);
    if is_date {
        return text(word);
    }
    let shown = python::printed(word);
    Err(Refusal::Said(format!("Invalid date: '{shown}'. Expected format is '%Y-%m-%dT%H:%M:%S.%fZ'.")))
}

fn is_lock_date(text: &str) -> bool {
    let mut rest = text;
    // Digits, at least and at most how many, up to one of the characters that end them.
    let mut number = |least: usize, most: usize, ends: &[char]| -> Option<u32> {
        let (digits, after) = rest.split_once(ends)?;
        rest = after;
        let padded_day = most == 2 && ends == ['T', 't'] && digits.len() == 2;
        let digits = if padded_day { digits.strip_prefix(' ').unwrap_or(digits) } else { digits };
        let fits = (least..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| digits.parse().ok()).flatten()
    };
    let mut fields = || {
        let (year, month, day) = (number(4, 4, &['-'])?, number(1, 2, &['-'])?, number(1, 2, &['T', 't'])?);
        let (hour, minute, second) = (number(1, 2, &[':'])?, number(1, 2, &[':'])?, number(1, 2, &['.'])?);
        number(1, 6, &['Z', 'z'])?;
        let date = chrono::NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
        (year >= 1).then(|| date.and_hms_opt(hour, minute, second)).flatten()
    };
    fields().is_some() && rest.is_empty()
}

/// A rule of `--tablespace`: the name and the location, split at the first colon. None without one.
pub(super) fn tablespace_rule(rule: &OsStr) -> Option<(OsString, PathBuf)> {
    let bytes = rule.as_bytes();
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let (name, location) = (OsStr::from_bytes(&bytes[..colon]), OsStr::from_bytes(&bytes[colon + 1..]));
    Some((name.to_owned(), PathBuf::from(location)))
}
