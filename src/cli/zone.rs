//! Times as people read them: in UTC, and in the local zone where it differs.

use chrono::{DateTime, FixedOffset, Local, NaiveDateTime, Offset, TimeZone, Timelike, Utc};

/// The zone a reader lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// This host's, with its summer times.
    Host,
    /// A fixed distance from UTC.
    Fixed(FixedOffset),
}

impl Zone {
    /// `time` in this zone.
    #[must_use]
    pub fn at(self, time: DateTime<Utc>) -> DateTime<FixedOffset> {
        match self {
            Self::Host => time.with_timezone(&Local).fixed_offset(),
            Self::Fixed(offset) => offset.from_utc_datetime(&time.naive_utc()),
        }
    }

    /// The offset that a clock on the wall showing `written` has, in summer and in winter; the earlier one in the hour
    /// that comes twice.
    #[must_use]
    pub fn offset_at(self, written: NaiveDateTime) -> FixedOffset {
        match self {
            // The hour that is left out in spring has none: what held in UTC's hour of that name is as good a guess.
            Self::Host => Local
                .offset_from_local_datetime(&written)
                .earliest()
                .map_or_else(|| Local.offset_from_utc_datetime(&written).fix(), |offset| offset.fix()),
            Self::Fixed(offset) => offset,
        }
    }

    /// Both readings: `2026-06-08 11:32:00 UTC (13:32:00 +02:00)`; only the first where the zone is UTC itself.
    ///
    /// Fractions of a second are shown when there are any; the local date when it is another one.
    #[must_use]
    pub fn both(self, time: DateTime<Utc>) -> String {
        let local = self.at(time);
        let fraction = fraction(time);
        let utc = format!("{}{fraction} UTC", time.format("%Y-%m-%d %H:%M:%S"));
        if local.offset().local_minus_utc() == 0 {
            return utc;
        }
        let same_day = local.date_naive() == time.date_naive();
        let clock = local.format(if same_day { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" });
        format!("{utc} ({clock}{fraction} {})", local.offset())
    }
}

/// RFC 3339 in UTC, for programs: `2026-06-08T11:32:00Z`, with microseconds when there are any.
#[must_use]
pub fn rfc3339(time: DateTime<Utc>) -> String {
    format!("{}{}Z", time.format("%Y-%m-%dT%H:%M:%S"), fraction(time))
}

/// PostgreSQL keeps microseconds: six digits or none.
fn fraction(time: DateTime<Utc>) -> String {
    match time.nanosecond() / 1000 % 1_000_000 {
        0 => String::new(),
        micros => format!(".{micros:06}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn east(hours: i32) -> Zone {
        Zone::Fixed(FixedOffset::east_opt(hours * 3600).unwrap())
    }

    #[test]
    fn both_zones_are_shown_where_they_differ() {
        for (zone, text, shown) in [
            (east(0), "2026-06-08T11:32:00Z", "2026-06-08 11:32:00 UTC"),
            (east(2), "2026-06-08T11:32:00Z", "2026-06-08 11:32:00 UTC (13:32:00 +02:00)"),
            (east(2), "2026-06-08T11:32:00.25Z", "2026-06-08 11:32:00.250000 UTC (13:32:00.250000 +02:00)"),
            (east(2), "2026-06-08T23:32:00Z", "2026-06-08 23:32:00 UTC (2026-06-09 01:32:00 +02:00)"),
            (east(-5), "2026-06-08T01:00:00Z", "2026-06-08 01:00:00 UTC (2026-06-07 20:00:00 -05:00)"),
        ] {
            assert_eq!(zone.both(time(text)), shown);
        }
    }

    #[test]
    fn programs_get_utc_with_microseconds_when_there_are_any() {
        assert_eq!(rfc3339(time("2026-06-08T13:32:00+02:00")), "2026-06-08T11:32:00Z");
        assert_eq!(rfc3339(time("2026-06-08T11:32:00.000001999Z")), "2026-06-08T11:32:00.000001Z");
    }
}
