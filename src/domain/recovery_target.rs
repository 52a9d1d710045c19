//! The moment a restore is to stop at, and what PostgreSQL must be told to stop there.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveDateTime, Offset, TimeZone, Utc};

use crate::domain::lsn::Lsn;
use crate::domain::timeline::TimelineId;
use crate::error::{Error, Result};

/// Where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// At the end of the WAL.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// At the last commit up to a moment.
    Time(DateTime<FixedOffset>),
    /// At a place in the WAL.
    Lsn(Lsn),
    /// At the commit of a transaction.
    Xid(u64),
    /// At a point named with `pg_create_restore_point`.
    Name(String),
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("the end of the WAL"),
            Self::Immediate => f.write_str("the end of the backup"),
            Self::Time(time) => f.write_str(&postgresql_time(&time.to_utc())),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point \"{}\"", name.escape_debug()),
        }
    }
}

/// Which timeline recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest the archive knows of, as PostgreSQL does by default from version 12 on.
    Latest,
    /// The one the backup was taken on.
    Current,
    /// This one.
    Number(TimelineId),
}

impl FromStr for TargetTimeline {
    type Err = Error;

    /// Reads `latest`, `current` or a decimal number (file names write timelines in hexadecimal).
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "latest" => Ok(Self::Latest),
            "current" => Ok(Self::Current),
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => number.parse().map(Self::Number),
            other => {
                Err(Error::usage(format!("\"{}\" is not latest, current or a timeline number", other.escape_debug())))
            }
        }
    }
}

/// What the server does once the target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    /// Stays read-only until told to go on.
    Pause,
    /// Ends recovery on a new timeline.
    Promote,
    /// Shuts down.
    Shutdown,
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        })
    }
}

impl FromStr for TargetAction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Pause, Self::Promote, Self::Shutdown]
            .into_iter()
            .find(|action| action.to_string() == text)
            .ok_or_else(|| Error::usage(format!("\"{}\" is not pause, promote or shutdown", text.escape_debug())))
    }
}

/// Everything the operator asked for about the end of recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRequest {
    /// Where to stop.
    pub target: RecoveryTarget,
    /// Whether what lies exactly at the target is still replayed; no matter for latest, immediate and names.
    pub inclusive: bool,
    /// Which timeline to follow.
    pub timeline: TargetTimeline,
    /// What to do once there; no matter for latest.
    pub action: TargetAction,
}

/// The longest name `recovery_target_name` takes, in bytes (PostgreSQL `MAXFNAMELEN` less one).
const MAX_NAME_BYTES: usize = 63;

impl TargetRequest {
    /// The `recovery_target*` settings for `postgresql.auto.conf`, the same for PostgreSQL 13 to 18; only those in use.
    ///
    /// `resolved` is the timeline the plan settled on, written as its decimal number so that WAL which arrives later
    /// cannot change it. Values are bare: quoting is up to whoever writes the file.
    #[must_use]
    pub fn settings(&self, resolved: TimelineId) -> Vec<(&'static str, String)> {
        let stop = match &self.target {
            RecoveryTarget::Latest => None,
            RecoveryTarget::Immediate => Some(("recovery_target", "immediate".to_owned())),
            RecoveryTarget::Time(time) => Some(("recovery_target_time", postgresql_time(&time.to_utc()))),
            RecoveryTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            RecoveryTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            RecoveryTarget::Name(name) => Some(("recovery_target_name", name.clone())),
        };
        let has_edge = matches!(self.target, RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) | RecoveryTarget::Xid(_));
        let inclusive = if self.inclusive { "on" } else { "off" };
        let inclusive = has_edge.then(|| ("recovery_target_inclusive", inclusive.to_owned()));
        let timeline = ("recovery_target_timeline", resolved.to_string());
        let action = stop.is_some().then(|| ("recovery_target_action", self.action.to_string()));
        stop.into_iter().chain(inclusive).chain([timeline]).chain(action).collect()
    }

    /// Refuses what PostgreSQL would refuse at its start, or take for something else.
    ///
    /// Errors: `Usage` for a name that is empty, longer than 63 bytes or has control characters, and for a
    /// transaction id that no transaction has.
    pub fn validate(&self) -> Result<()> {
        match &self.target {
            RecoveryTarget::Name(name) if name.is_empty() => Err(Error::usage("a restore point has no empty name")),
            RecoveryTarget::Name(name) if name.len() > MAX_NAME_BYTES => Err(Error::usage(format!(
                "the name of a restore point has at most {MAX_NAME_BYTES} bytes, \"{}\" has {}",
                name.escape_debug(),
                name.len()
            ))),
            RecoveryTarget::Name(name) if name.chars().any(char::is_control) => Err(Error::usage(format!(
                "the name of a restore point has no control characters: \"{}\"",
                name.escape_debug()
            ))),
            // 0 to 2 are PostgreSQL's special transaction ids; it looks at the lower 32 bits only.
            RecoveryTarget::Xid(xid) if xid & 0xFFFF_FFFF < 3 => {
                Err(Error::usage(format!("{xid} is not the id of a transaction")))
            }
            _ => Ok(()),
        }
    }
}

/// A time in UTC as PostgreSQL writes it: `2026-06-08 11:32:00+00`, microseconds only when there are any.
#[must_use]
pub fn postgresql_time(time: &DateTime<Utc>) -> String {
    let micros = time.timestamp_subsec_micros();
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{}{}+00", time.format("%Y-%m-%d %H:%M:%S"), fraction.trim_end_matches('0'))
}

/// Reads RFC 3339 (`2026-06-08T11:32:00.5Z`) or PostgreSQL's form (`2026-06-08 11:32:00+00`).
///
/// The offset (`Z`, `UTC`, `+02`, `+0200`, `+02:00`) is required: `local`, this host's offset at a local time, only
/// serves to show what the time could have meant without. Seconds may be left out; fractions go down to microseconds, as PostgreSQL's do.
///
/// Errors: `Usage` for text of another form, for dates and times that do not exist, for a time without offset.
pub fn parse_target_time(
    text: &str,
    local: impl FnOnce(NaiveDateTime) -> FixedOffset,
) -> Result<DateTime<FixedOffset>> {
    match read_time(text)? {
        (_, Some(time)) => Ok(time),
        (naive, None) => Err(without_offset(text, naive, local(naive))),
    }
}

/// Reads the same forms; a time without offset is one of this host's zone, whose offset at that time `local` tells.
///
/// Errors: `Usage` for text of another form and for dates and times that do not exist.
pub fn parse_zoned_or_local_time(
    text: &str,
    local: impl FnOnce(NaiveDateTime) -> FixedOffset,
) -> Result<DateTime<FixedOffset>> {
    let (naive, zoned) = read_time(text)?;
    let in_local_zone = || local(naive).from_local_datetime(&naive).single();
    zoned.or_else(in_local_zone).ok_or_else(|| Error::usage(format!("\"{}\" is out of range", text.escape_debug())))
}

/// What the clock shows, and the moment that is when the text says so.
fn read_time(text: &str) -> Result<(NaiveDateTime, Option<DateTime<FixedOffset>>)> {
    let refuse = |why: &str| {
        Error::usage(format!("\"{}\" is not a time: {why}", text.escape_debug()))
            .with_hint("write it like 2026-06-08T11:32:00Z or \"2026-06-08 11:32:00+02\"")
    };
    let form = || refuse("it has another form");
    let (date, rest) = text.split_at_checked(10).ok_or_else(form)?;
    let rest = rest.strip_prefix(['T', 't', ' ']).ok_or_else(form)?;
    let clock_length = rest.bytes().take_while(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.')).count();
    let (clock, offset) = rest.split_at_checked(clock_length).ok_or_else(form)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2]).ok_or_else(form)?;
    let (hour, minute, second, micros) = clock_fields(clock).ok_or_else(form)?;
    let naive = i32::try_from(year)
        .ok()
        .filter(|year| *year > 0)
        .and_then(|year| NaiveDate::from_ymd_opt(year, month, day))
        .and_then(|date| date.and_hms_micro_opt(hour, minute, second, micros))
        .ok_or_else(|| refuse("there is no such date or time of day"))?;
    if offset.is_empty() {
        return Ok((naive, None));
    }
    let offset = parse_offset(offset).ok_or_else(|| refuse("its offset is none of Z, UTC, +00, +0000, +00:00"))?;
    offset
        .from_local_datetime(&naive)
        .single()
        .filter(|time| (1..=9999).contains(&time.to_utc().year()))
        .map(|time| (naive, Some(time)))
        .ok_or_else(|| refuse("it is out of range"))
}

/// The numbers of `text` between `separator`s, each of exactly so many digits.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u32; N]> {
    let mut words = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let word = words.next().filter(|word| word.len() == digits && word.bytes().all(|b| b.is_ascii_digit()))?;
        *number = word.parse().ok()?;
    }
    words.next().is_none().then_some(numbers)
}

/// Hour, minute, second, microseconds of `11:32`, `11:32:05` or `11:32:05.123456`; digits beyond must be zeros.
fn clock_fields(text: &str) -> Option<(u32, u32, u32, u32)> {
    let Some((whole, fraction)) = text.split_once('.') else {
        return if let Some([hour, minute]) = numbers(text, ':', [2, 2]) {
            Some((hour, minute, 0, 0))
        } else {
            numbers(text, ':', [2, 2, 2]).map(|[hour, minute, second]| (hour, minute, second, 0))
        };
    };
    let [hour, minute, second] = numbers(whole, ':', [2, 2, 2])?;
    let significant = fraction.trim_end_matches('0');
    let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit()) && significant.len() <= 6;
    let micros = digits.then(|| format!("{significant:0<6}").parse().ok()).flatten()?;
    Some((hour, minute, second, micros))
}

fn parse_offset(text: &str) -> Option<FixedOffset> {
    let text = text.strip_prefix(' ').unwrap_or(text);
    if text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return Some(Utc.fix());
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let [hours, minutes] = match digits.len() {
        2 => numbers(digits, ':', [2]).map(|[hours]| [hours, 0])?,
        4 => {
            let (hours, minutes) = digits.split_at_checked(2)?;
            [numbers(hours, ':', [2])?[0], numbers(minutes, ':', [2])?[0]]
        }
        _ => numbers(digits, ':', [2, 2])?,
    };
    // PostgreSQL's own limit is 15:59:59 (MAX_TZDISP_HOUR).
    let seconds = (hours <= 15 && minutes <= 59).then_some(hours * 3600 + minutes * 60)?;
    FixedOffset::east_opt(sign * i32::try_from(seconds).ok()?)
}

/// The refusal of a time without offset, with the three moments it could mean.
fn without_offset(text: &str, naive: NaiveDateTime, local: FixedOffset) -> Error {
    let written = naive.format("%Y-%m-%d %H:%M:%S%.f");
    let here = local.from_local_datetime(&naive).single();
    let here = here.map_or_else(String::new, |time| format!(", that is {}", postgresql_time(&time.to_utc())));
    Error::usage(format!(
        "\"{text}\" has no offset and could be {written}+00 in UTC, {written}{local} in this host's local zone{here}, \
         or what the server would read it as, by its timezone setting"
    ))
    .with_hint(format!("give the offset: \"{written}+00\" or \"{written}{local}\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn local(_: NaiveDateTime) -> FixedOffset {
        FixedOffset::east_opt(2 * 3600).unwrap()
    }

    fn utc(text: &str) -> String {
        postgresql_time(&parse_target_time(text, local).unwrap_or_else(|error| panic!("{text}: {error}")).to_utc())
    }

    fn request(target: RecoveryTarget, inclusive: bool) -> TargetRequest {
        TargetRequest { target, inclusive, timeline: TargetTimeline::Latest, action: TargetAction::Promote }
    }

    #[test]
    fn both_forms_and_every_offset_form_name_the_same_moment() {
        for text in [
            "2026-06-08T11:32:00Z",
            "2026-06-08t11:32:00z",
            "2026-06-08 11:32:00+00",
            "2026-06-08 11:32+00",
            "2026-06-08 11:32:00 UTC",
            "2026-06-08 11:32:00 +00",
            "2026-06-08T11:32:00-00:00",
            "2026-06-08 13:32:00.000000000+0200",
            "2026-06-08T13:32:00+02:00",
            "2026-06-08 06:02:00-05:30",
            "2026-06-09 01:32:00+14",
        ] {
            assert_eq!(utc(text), "2026-06-08 11:32:00+00", "{text}");
        }
        assert_eq!(utc("2026-06-08T11:32:00.5Z"), "2026-06-08 11:32:00.5+00");
        assert_eq!(
            utc("2026-06-08 11:32:00.123456789000+00".replace("789", "").as_str()),
            "2026-06-08 11:32:00.123456+00"
        );
        assert_eq!(utc("2024-02-29T00:00:00Z"), "2024-02-29 00:00:00+00");
    }

    #[test]
    fn times_that_do_not_exist_or_have_another_form_are_refused() {
        for text in [
            "",
            "now",
            "yesterday",
            "2026-06-08",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+05",
            "2026-06-31 11:32:00+00",
            "2026-06-08 24:00:00+00",
            "2026-06-08 11:60:00+00",
            "2026-06-08 11:32:60+00",
            "2026-06-08  11:32:00+00",
            " 2026-06-08 11:32:00+00",
            "2026-06-08 11:32:00+00 ",
            "2026-06-08 11:32:00+0",
            "2026-06-08 11:32:00+16",
            "2026-06-08 11:32:00+00:60",
            "2026-06-08 11:32:00+00:00:00",
            "2026-06-08 11:32:00 CET",
            "2026-06-08 11:32:00.+00",
            "2026-06-08 11:32:00.1234567+00",
            "2026-06-08 11:32.5+00",
            "2026-6-8 11:32:00+00",
            "26-06-08 11:32:00+00",
            "2026/06/08 11:32:00+00",
            "2026-06-08 11:32:00\u{2212}02",
            "2026-06-0é 11:32:00+00",
        ] {
            let error = parse_target_time(text, local).expect_err(text);
            assert_eq!(error.kind(), crate::error::ErrorKind::Usage, "{text}");
            assert!(!error.to_string().contains("could be"), "{text}: {error}");
        }
    }

    #[test]
    fn a_time_without_offset_is_refused_with_its_three_readings() {
        let error = parse_target_time("2026-06-08 11:32:00", local).unwrap_err();
        let text = error.to_string();
        for reading in
            ["2026-06-08 11:32:00+00 in UTC", "11:32:00+02:00 in this host's", "09:32:00+00", "timezone setting"]
        {
            assert!(text.contains(reading), "{text}");
        }
        assert!(error.hint().unwrap().contains("+02:00"));
    }

    #[test]
    fn only_the_settings_in_use_are_written() {
        let timeline = TimelineId::new(10).unwrap();
        let time = parse_target_time("2026-06-08T13:32:00.25+02:00", local).unwrap();
        let lines = |target, inclusive| {
            let settings = request(target, inclusive).settings(timeline);
            settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let (line, action) = ("recovery_target_timeline=10", "recovery_target_action=promote");
        let (on, off) = ("recovery_target_inclusive=on", "recovery_target_inclusive=off");
        assert_eq!(lines(RecoveryTarget::Latest, true), line);
        assert_eq!(lines(RecoveryTarget::Immediate, true), format!("recovery_target=immediate {line} {action}"));
        assert_eq!(
            lines(RecoveryTarget::Time(time), true),
            format!("recovery_target_time=2026-06-08 11:32:00.25+00 {on} {line} {action}")
        );
        assert_eq!(
            lines(RecoveryTarget::Lsn(Lsn(0x16_B374_D848)), false),
            format!("recovery_target_lsn=16/B374D848 {off} {line} {action}")
        );
        assert_eq!(lines(RecoveryTarget::Xid(731), false), format!("recovery_target_xid=731 {off} {line} {action}"));
        assert_eq!(
            lines(RecoveryTarget::Name("before it".into()), false),
            format!("recovery_target_name=before it {line} {action}")
        );
    }

    #[test]
    fn targets_postgresql_cannot_take_are_refused() {
        for name in [String::new(), "x".repeat(64), "a\nb".to_owned()] {
            assert!(request(RecoveryTarget::Name(name), true).validate().is_err());
        }
        assert!(request(RecoveryTarget::Name("x".repeat(63)), true).validate().is_ok());
        assert!(request(RecoveryTarget::Xid(2), true).validate().is_err());
        assert!(request(RecoveryTarget::Xid(1 << 32), true).validate().is_err());
        assert!(request(RecoveryTarget::Xid((1 << 32) + 3), true).validate().is_ok());
    }

    #[test]
    fn words_for_timelines_and_actions_are_read() {
        assert_eq!("latest".parse::<TargetTimeline>().unwrap(), TargetTimeline::Latest);
        assert_eq!("current".parse::<TargetTimeline>().unwrap(), TargetTimeline::Current);
        assert_eq!("7".parse::<TargetTimeline>().unwrap(), TargetTimeline::Number(TimelineId::new(7).unwrap()));
        for text in ["", "0", "+1", "-1", "0x1", "Latest", "4294967296"] {
            assert!(text.parse::<TargetTimeline>().is_err(), "{text}");
        }
        assert_eq!("shutdown".parse::<TargetAction>().unwrap(), TargetAction::Shutdown);
        assert!("stop".parse::<TargetAction>().is_err());
    }

    proptest! {
        #[test]
        fn every_microsecond_round_trips_in_every_zone(micros in -30_000_000_000_000_000..250_000_000_000_000_000_i64, minutes in -959..=959_i32) {
            let time = DateTime::from_timestamp_micros(micros).unwrap();
            let there = time.with_timezone(&FixedOffset::east_opt(minutes * 60).unwrap());
            prop_assert_eq!(parse_target_time(&postgresql_time(&time), local).unwrap().to_utc(), time);
            prop_assert_eq!(parse_target_time(&there.to_rfc3339(), local).unwrap().to_utc(), time);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,40}", tail in "[-0-9T:.+Z ]{0,40}") {
            let _ = parse_target_time(&text, local);
            let _ = parse_target_time(&tail, local);
            let _ = parse_target_time(&format!("2026-06-08 {tail}"), local);
        }
    }
}
