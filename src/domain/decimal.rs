//! Decimal numbers compared exactly: what a query answers must not pass through a float.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// PostgreSQL writes at most 131072 digits before the point of a `numeric` and 16383 behind it.
const MOST_CHARS: usize = 200_000;

/// A `double precision` has no larger one.
const LARGEST_EXPONENT: i32 = 400;

/// A decimal number of any length: `-12.50`, `1e+20`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// Never of zero.
    is_negative: bool,
    /// Digits before the point, the first of them not 0.
    whole: String,
    /// Digits behind the point, the last of them not 0.
    fraction: String,
}

impl Decimal {
    fn new(is_negative: bool, whole: &str, fraction: &str) -> Self {
        let whole = whole.trim_start_matches('0').to_owned();
        let fraction = fraction.trim_end_matches('0').to_owned();
        let is_zero = whole.is_empty() && fraction.is_empty();
        Self { is_negative: is_negative && !is_zero, whole, fraction }
    }

    /// True below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.is_negative
    }

    /// The number with its sign turned.
    #[must_use]
    pub fn negated(&self) -> Self {
        Self::new(!self.is_negative, &self.whole, &self.fraction)
    }

    /// The number without its sign.
    #[must_use]
    pub fn magnitude(&self) -> Self {
        Self::new(false, &self.whole, &self.fraction)
    }

    /// The exact sum; none where it would take more than 38 digits.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Option<Self> {
        let places = self.fraction.len().max(other.fraction.len());
        Some(Self::of_scaled(self.scaled(places)?.checked_add(other.scaled(places)?)?, places))
    }

    /// So many hundredths of it, exactly; none where that would take more than 38 digits.
    #[must_use]
    pub fn percent(&self, percent: &Self) -> Option<Self> {
        let product = self.scaled(self.fraction.len())?.checked_mul(percent.scaled(percent.fraction.len())?)?;
        Some(Self::of_scaled(product, self.fraction.len() + percent.fraction.len() + 2))
    }

    /// The number times ten to the power of `places`, which must be at least as many as it has.
    fn scaled(&self, places: usize) -> Option<i128> {
        let digits = format!("{}{:0<places$}", self.whole, self.fraction);
        let number: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        Some(if self.is_negative { -number } else { number })
    }

    fn of_scaled(scaled: i128, places: usize) -> Self {
        let digits = format!("{:0>width$}", scaled.unsigned_abs(), width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        Self::new(scaled < 0, whole, fraction)
    }
}

impl FromStr for Decimal {
    type Err = Error;

    /// Errors: `Usage` for text that is no number, and for one that is longer than any of PostgreSQL's.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let shown: String = text.chars().take(60).collect();
            Error::usage(format!("\"{}\" is not a number", shown.escape_debug()))
        };
        if text.len() > MOST_CHARS {
            return Err(refuse());
        }
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, exponent.parse::<i32>().map_err(|_| refuse())?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_plain = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
        if !is_plain || whole.len() + fraction.len() == 0 || exponent.unsigned_abs() > LARGEST_EXPONENT.unsigned_abs() {
            return Err(refuse());
        }
        // The point is moved by as many digits as the exponent says.
        let moved = exponent.unsigned_abs() as usize;
        let (whole, fraction) = if exponent < 0 {
            let padded = format!("{whole:0>moved$}");
            let (before, behind) = padded.split_at(padded.len() - moved);
            (before.to_owned(), format!("{behind}{fraction}"))
        } else {
            let padded = format!("{fraction:0<moved$}");
            let (before, behind) = padded.split_at(moved);
            (format!("{whole}{before}"), behind.to_owned())
        };
        Ok(Self::new(is_negative, &whole, &fraction))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_negative { "-" } else { "" };
        let whole = if self.whole.is_empty() { "0" } else { &self.whole };
        let point = if self.fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{}", self.fraction)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        // Without zeros in front, more digits are a larger number; digits behind the point compare as text.
        let magnitude = |one: &Self, two: &Self| {
            let whole = one.whole.len().cmp(&two.whole.len()).then_with(|| one.whole.cmp(&two.whole));
            whole.then_with(|| one.fraction.cmp(&two.fraction))
        };
        match (self.is_negative, other.is_negative) {
            (false, false) => magnitude(self, other),
            (true, true) => magnitude(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_are_read_as_postgresql_writes_them() {
        for (text, shown) in [
            ("0", "0"),
            ("-0.00", "0"),
            ("007.50", "7.5"),
            ("+1", "1"),
            (".5", "0.5"),
            ("5.", "5"),
            ("1e+20", "100000000000000000000"),
            ("1.5e-07", "0.00000015"),
            ("-12.5E2", "-1250"),
            (
                "12345678901234567890123456789012345678901234567890.1",
                "12345678901234567890123456789012345678901234567890.1",
            ),
        ] {
            assert_eq!(decimal(text).to_string(), shown, "{text}");
        }
        for text in ["", "-", ".", "1,5", "NaN", "Infinity", "0x1", "1e", "1e999", "1 ", "--1", "1.2.3", "１"] {
            assert!(text.parse::<Decimal>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_too_close_for_a_float_are_told_apart() {
        let sorted = ["-10", "-9.5", "-9.49", "0", "0.09", "0.1", "9", "10", "9007199254740992", "9007199254740993"];
        for pair in sorted.windows(2) {
            assert!(decimal(pair[0]) < decimal(pair[1]), "{pair:?}");
        }
        assert_eq!(decimal("1.50"), decimal("1.5"));
    }

    #[test]
    fn sums_and_percentages_are_exact_or_none() {
        assert_eq!(decimal("0.1").plus(&decimal("0.2")).unwrap().to_string(), "0.3");
        assert_eq!(decimal("1").plus(&decimal("1").negated()).unwrap().to_string(), "0");
        assert_eq!(decimal("12345").percent(&decimal("1.5")).unwrap().to_string(), "185.175");
        assert_eq!(decimal("-3").percent(&decimal("1")).unwrap().to_string(), "-0.03");
        let long = "9".repeat(40);
        assert_eq!(decimal(&long).plus(&decimal("1")), None);
        assert_eq!(decimal(&long[..30]).percent(&decimal(&long[..30])), None);
    }

    proptest! {
        #[test]
        fn order_is_that_of_integers(one: i64, two: i64) {
            prop_assert_eq!(decimal(&one.to_string()).cmp(&decimal(&two.to_string())), one.cmp(&two));
        }

        #[test]
        fn a_number_is_written_as_it_is_read(whole: i64, fraction in "[0-9]{0,9}") {
            let number = decimal(&format!("{whole}.{fraction}0"));
            prop_assert_eq!(decimal(&number.to_string()), number);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,40}", digits in "[-+0-9.eE]{0,12}") {
            let _ = text.parse::<Decimal>();
            if let Ok(number) = digits.parse::<Decimal>() {
                let _ = number.plus(&number);
                let _ = number.percent(&number);
            }
        }
    }
}
