//! Sizes, durations and counts in words.

use std::time::Duration;

/// A size for reading: `512 B`, `1.5 GiB`, `16 MiB`. Three digits at most before a unit change, 1024-based.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded; integers, so that 1 EiB is as exact as 1 KiB.
    let mut unit = 0;
    let mut tenths = tenths_of(bytes, 1);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        unit += 1;
        tenths = tenths_of(bytes, unit + 1);
    }
    let decimals = if tenths.is_multiple_of(10) || tenths >= 1_000 {
        format!("{}", (tenths + 5) / 10)
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    format!("{decimals} {}", UNITS[unit])
}

fn tenths_of(bytes: u64, power: usize) -> u128 {
    let unit = 1024_u128.pow(u32::try_from(power).unwrap_or(6));
    (u128::from(bytes) * 10 + unit / 2) / unit
}

/// A duration for reading: `85 ms`, `3.2 s`, `4 min 05 s`, `2 h 03 min`, `3 d 04 h`.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = (millis + 500) / 1000;
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..59_950 => format!("{}.{} s", (millis + 50) / 1000, (millis + 50) % 1000 / 100),
        59_950..3_599_500 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_599_500..86_370_000 => {
            let minutes = (seconds + 30) / 60;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
        _ => {
            let hours = (seconds + 1800) / 3600;
            format!("{} d {:02} h", hours / 24, hours % 24)
        }
    }
}

/// A number and its noun: `1 segment`, `3 segments`.
#[must_use]
pub fn count_of(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (16 << 20, "16 MiB"),
            (3 << 29, "1.5 GiB"),
            ((1 << 30) - 1, "1 GiB"),
            (123 << 20, "123 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn durations_read_well() {
        for (millis, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (3_240, "3.2 s"),
            (59_940, "59.9 s"),
            (59_960, "1 min 00 s"),
            (245_000, "4 min 05 s"),
            (3_599_600, "1 h 00 min"),
            (7_380_000, "2 h 03 min"),
            (273_600_000, "3 d 04 h"),
        ] {
            assert_eq!(human_duration(Duration::from_millis(millis)), text);
        }
    }
}
