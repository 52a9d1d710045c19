//! Text inside HTML and XML, and lengths in a chart.

use std::fmt::{self, Display, Write as _};

/// Text that means nothing to a browser or an XML parser, whoever wrote it.
pub(super) struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                letter if is_hidden(letter) => f.write_char(char::REPLACEMENT_CHARACTER)?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// What XML does not take, and what turns the letters around it.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}

/// A part of a whole as a length in percent, `12.345%`; at most all of it.
pub(super) struct Percent(pub u64, pub u64);

impl Percent {
    /// The part that begins at 0, so that even the shortest can be seen.
    pub(super) fn visible(part: u64, whole: u64) -> Self {
        Self(part.max(whole / 300), whole)
    }
}

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thousandths = (u128::from(self.0.min(self.1)) * 100_000).checked_div(u128::from(self.1)).unwrap_or(0);
        write!(f, "{}.{:03}%", thousandths / 1000, thousandths % 1000)
    }
}

/// Milliseconds as seconds: `12.345`.
pub(super) struct Seconds(pub u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// The distance between marks on an axis of `length` milliseconds, so that there are at most `most` of them.
pub(super) fn tick_ms(length: u64, most: u64) -> u64 {
    const SECONDS: [u64; 20] = [
        1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
    ];
    let fits = |step: &u64| length / step <= most;
    let short = [10, 20, 50, 100, 200, 500].into_iter();
    let mut steps = short.chain(SECONDS.iter().map(|seconds| seconds * 1000));
    steps.find(fits).unwrap_or_else(|| (length / most.max(1)).max(1))
}

/// A mark on an axis: `20 min`, `1 h 30`, `500 ms`.
pub(super) fn tick_words(millis: u64) -> String {
    let (seconds, minutes) = (millis / 1000, millis / 60_000);
    match millis {
        0 => "0".to_owned(),
        _ if !millis.is_multiple_of(1000) => format!("{millis} ms"),
        _ if !seconds.is_multiple_of(60) && minutes > 0 => format!("{minutes}:{:02} min", seconds % 60),
        _ if !seconds.is_multiple_of(60) => format!("{seconds} s"),
        _ if minutes < 60 => format!("{minutes} min"),
        _ if !minutes.is_multiple_of(60) => format!("{} h {:02}", minutes / 60, minutes % 60),
        _ if minutes.is_multiple_of(1440) => format!("{} d", minutes / 1440),
        _ => format!("{} h", minutes / 60),
    }
}

/// Pieces of markup, one after the other.
pub(super) fn joined(pieces: impl Iterator<Item = String>) -> String {
    pieces.collect()
}

/// Terms and what they are; those without anything are left out.
pub(super) fn terms(entries: &[(&str, Option<String>)]) -> String {
    let known =
        entries.iter().filter_map(|(term, value)| Some((term, value.as_ref().filter(|text| !text.is_empty())?)));
    let rows = joined(known.map(|(term, value)| format!("<div><dt>{term}</dt><dd>{}</dd></div>\n", Escaped(value))));
    if rows.is_empty() { rows } else { format!("<dl>\n{rows}</dl>\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_written_by_others_is_markup() {
        let hostile = "<script>&\"'\u{0}\u{1b}\u{202e}\u{ffff}\n ü";
        assert_eq!(
            Escaped(hostile).to_string(),
            "&lt;script&gt;&amp;&quot;&#39;\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd} ü"
        );
    }

    #[test]
    fn lengths_are_shares_of_the_whole() {
        assert_eq!(Percent(1, 3).to_string(), "33.333%");
        assert_eq!(Percent(4, 3).to_string(), "100.000%");
        assert_eq!(Percent(1, 0).to_string(), "0.000%");
        assert_eq!(Percent(u64::MAX, u64::MAX).to_string(), "100.000%");
        assert_eq!(Seconds(61_005).to_string(), "61.005");
    }

    #[test]
    fn an_axis_has_few_marks_at_round_times() {
        for (length, most, step, words) in [
            (0, 6, 10, "10 ms"),
            (90, 6, 20, "20 ms"),
            (2_062_470, 6, 300_000, "5 min"),
            (5_400_000, 6, 900_000, "15 min"),
            (9_000, 6, 2_000, "2 s"),
            (36_000_000, 6, 7_200_000, "2 h"),
            (31_536_000_000, 6, 5_256_000_000, "60 d 20 h"),
        ] {
            let found = tick_ms(length, most);
            assert_eq!(found, step, "{length}");
            if length < 31_000_000_000 {
                assert_eq!(tick_words(found), words);
            }
        }
        assert_eq!(tick_words(5_400_000), "1 h 30");
        assert_eq!(tick_words(90_000), "1:30 min");
        assert_eq!(tick_words(172_800_000), "2 d");
    }
}
