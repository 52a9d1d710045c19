//! Sizes and durations as people write and read them.

use std::time::Duration;

pub use crate::domain::measure::{count_of, human_duration, human_size};
use crate::error::{Error, Result};

/// Units of size; the longer names stand first so that a suffix match finds the right one.
///
/// `MiB` counts in 1024s and `MB` in 1000s, as in most tools (PostgreSQL's own settings mean 1024 by `MB`; an example
/// that must be exact should say `MiB`).
const SIZE_UNITS: [(&str, u64); 14] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("B", 1),
];

/// Units of time; `ms` before `s`, which it ends with.
const TIME_UNITS: [(&str, u64); 9] = [
    ("ms", 1),
    ("min", 60_000),
    ("sec", 1_000),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
    ("", 1_000),
];

/// Reads a size: `16MiB`, `1GiB`, `100MB`, `1.5 GiB`, plain bytes. Gives bytes; `Usage` for anything else.
pub fn parse_size(text: &str) -> Result<u64> {
    let refuse = || Error::usage(format!("\"{text}\" is not a size such as 16MiB, 1GiB, 100MB or a number of bytes"));
    let trimmed = text.trim();
    let (digits, unit) = SIZE_UNITS
        .iter()
        .find_map(|(suffix, bytes)| Some((trimmed.strip_suffix(suffix)?, *bytes)))
        .unwrap_or((trimmed, 1));
    scaled(digits, unit).ok_or_else(refuse)
}

/// Reads a duration: `30s`, `5m`, `2h`, `1d`, `250ms`, plain seconds. `Usage` for anything else.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let refuse = || Error::usage(format!("\"{text}\" is not a duration such as 30s, 5m, 2h or a number of seconds"));
    let trimmed = text.trim();
    let (digits, unit) = TIME_UNITS
        .iter()
        .find_map(|(suffix, millis)| Some((trimmed.strip_suffix(suffix)?, *millis)))
        .unwrap_or((trimmed, 1_000));
    scaled(digits, unit).map(Duration::from_millis).ok_or_else(refuse)
}

/// `digits` times `unit`, where digits may have up to three decimals; whole units of result, exact arithmetic.
fn scaled(digits: &str, unit: u64) -> Option<u64> {
    let digits = digits.trim_end();
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(decimals) || decimals.len() > 3 || (digits.contains('.') && unit == 1) {
        return None;
    }
    let thousandths = format!("{decimals:0<3}").parse::<u64>().ok()?;
    let fraction = u128::from(thousandths) * u128::from(unit) / 1000;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(u64::try_from(fraction).ok()?)
}

/// Bytes per second for reading: `212 MiB/s`; a dash when no time passed.
#[must_use]
pub fn human_rate(bytes: u64, duration: Duration) -> String {
    match duration.as_millis() {
        0 => "-".to_owned(),
        millis => {
            let per_second = u128::from(bytes) * 1000 / millis;
            format!("{}/s", human_size(u64::try_from(per_second).unwrap_or(u64::MAX)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_families_of_units() {
        for (text, bytes) in [
            ("0", 0),
            ("8388608", 8 << 20),
            ("512B", 512),
            ("16MiB", 16 << 20),
            ("16 MiB", 16 << 20),
            ("16Mi", 16 << 20),
            ("1GiB", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("100MB", 100_000_000),
            ("64kB", 64_000),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_size_is_refused() {
        for text in
            ["", "MiB", "-1", "+1", "1.5", "1.5B", "1e3", "0x10", "1 2MiB", "16mib", "16m", "1..5GiB", "99999999999TiB"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_with_and_without_a_unit() {
        for (text, millis) in [
            ("30", 30_000),
            ("30s", 30_000),
            ("250ms", 250),
            ("5m", 300_000),
            ("5min", 300_000),
            ("2h", 7_200_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "s", "-5", "5 x", "1h30m", "five"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_needs_time() {
        assert_eq!(human_rate(100 << 20, Duration::from_millis(500)), "200 MiB/s");
        assert_eq!(human_rate(100, Duration::ZERO), "-");
    }
}
