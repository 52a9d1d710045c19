//! `barback drill history`: its words, and what a row of records that is not whole means for the exit code.

use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, TimeZone, Utc};
use clap::Args;

use super::invocation::Settings;
use super::quantity::parse_duration;
use super::run::Surroundings;
use super::store::{Traffic, open};
use super::zone::Zone;
use super::{exit_code, output};
use crate::commands::drill_records;
use crate::domain::recovery_target::parse_zoned_or_local_time;
use crate::error::{Error, Result};

/// The words behind `drill history`.
#[derive(Debug, Args)]
pub(super) struct HistoryOptions {
    /// Only drills that ended since then: 90d, 2026-01-01, or a time
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Since>,
}

/// `drill history`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryArgs {
    since: Option<Since>,
    zone: Zone,
    /// Rows for a spreadsheet, whatever the settings say.
    pub(super) is_csv: bool,
}

/// From when on drills are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Since {
    /// So long ago.
    Ago(Duration),
    /// The beginning of a day where the reader lives.
    Day(NaiveDate),
    /// A time as it was written; it is one.
    Time(String),
}

impl HistoryOptions {
    /// What they ask for, where the reader's clock shows `zone`.
    pub(super) fn args(self, zone: Zone) -> HistoryArgs {
        HistoryArgs { since: self.since, zone, is_csv: false }
    }
}

impl HistoryArgs {
    /// From when on drills are listed; from the first on where nothing is said.
    fn since(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        match &self.since {
            None => Ok(DateTime::<Utc>::MIN_UTC),
            // Longer ago than there are times is before all drills.
            Some(Since::Ago(age)) => Ok(TimeDelta::from_std(*age)
                .ok()
                .and_then(|age| now.checked_sub_signed(age))
                .unwrap_or(DateTime::<Utc>::MIN_UTC)),
            Some(Since::Day(day)) => {
                let midnight = day.and_time(chrono::NaiveTime::MIN);
                let there = self.zone.offset_at(midnight).from_local_datetime(&midnight).single();
                there.map(|time| time.to_utc()).ok_or_else(|| Error::usage(format!("{day} is out of range")))
            }
            Some(Since::Time(text)) => {
                Ok(parse_zoned_or_local_time(text, |written| self.zone.offset_at(written))?.to_utc())
            }
        }
    }
}

/// Prints the drills on record and whether the row is whole, and gives the exit code: 0 when it is, 1 when it is not.
pub(super) async fn run(
    args: HistoryArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<u8> {
    let since = args.since(around.now)?;
    let archive = open(&settings.store, around.environment, Traffic::SMALL_READS).await?;
    let history = drill_records::history(&archive).await?;
    // What was done to a record shows wherever it is, also before `since`.
    let code = if history.chain.whole { exit_code::DONE } else { exit_code::ABSENT };
    let shown: Vec<_> = history.records.iter().filter(|record| record.ended >= since).collect();
    if args.is_csv {
        output::drill::history_csv(out, &shown)?;
        for fault in &history.chain.faults {
            tracing::error!("{}", fault.what);
        }
        return Ok(code);
    }
    output::drill::history(out, around.stdout(settings), &settings.store.server, &shown, &history.chain)?;
    Ok(code)
}

/// Reads `90d`, `2026-01-01`, or a time.
fn since(text: &str) -> Result<Since> {
    if let Ok(age) = parse_duration(text) {
        return Ok(Since::Ago(age));
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(Since::Day(day));
    }
    let zone = |_| chrono::FixedOffset::east_opt(0).expect("no offset is one");
    parse_zoned_or_local_time(text, zone).map(|_| Since::Time(text.to_owned())).map_err(|_| {
        Error::usage(format!("\"{}\" is not when", text.escape_debug()))
            .with_hint("Write 90d, 2026-01-01 or 2026-01-01T08:00:00Z.")
    })
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;

    #[test]
    fn ages_days_and_times_are_read() {
        let zone = Zone::Fixed(FixedOffset::east_opt(2 * 3600).unwrap());
        let now: DateTime<Utc> = "2026-11-25T03:00:00Z".parse().unwrap();
        for (text, time) in [
            ("90d", "2026-08-27T03:00:00Z"),
            ("1w", "2026-11-18T03:00:00Z"),
            ("2026-11-01", "2026-10-31T22:00:00Z"),
            ("2026-11-01 08:00:00", "2026-11-01T06:00:00Z"),
            ("2026-11-01T08:00:00Z", "2026-11-01T08:00:00Z"),
        ] {
            let args = HistoryOptions { since: Some(since(text).unwrap()) }.args(zone);
            assert_eq!(args.since(now).unwrap(), time.parse::<DateTime<Utc>>().unwrap(), "{text}");
        }
        for text in ["", "soon", "2026-13-01", "-5d", "2026-11-01T25:00:00Z"] {
            assert!(since(text).is_err(), "{text}");
        }
        let long_ago = HistoryOptions { since: Some(since("99999999w").unwrap()) }.args(zone);
        assert_eq!(long_ago.since(now).unwrap(), DateTime::<Utc>::MIN_UTC);
        let args = HistoryOptions { since: None }.args(zone);
        assert_eq!(args.since(now).unwrap(), DateTime::<Utc>::MIN_UTC);
    }
}
