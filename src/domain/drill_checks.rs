//! What an operator expects of a recovered database, and whether an answer of it is that.
//!
//! Nothing here repeats the content of a row: numbers, booleans and times are told, of a text only whether it is the expected
//! one, and of what the server complains about only what cannot hold content.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};

use crate::domain::decimal::Decimal;
use crate::domain::drill::CheckOutcome;
use crate::domain::measure::human_duration;
use crate::domain::recovery_target::postgresql_time;

/// How long `pg_amcheck` may take where nothing is said.
pub const DEFAULT_AMCHECK_BUDGET: Duration = Duration::from_mins(10);

/// How long one query may take where nothing is said.
pub const DEFAULT_STATEMENT_TIMEOUT: Duration = Duration::from_mins(5);

/// The database of a query where nothing is said.
pub const DEFAULT_DATABASE: &str = "postgres";

/// By so much the clocks that wrote the newest row and the newest commit may differ.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(5);

/// What is to be looked at in a recovered server beside what always is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillChecks {
    /// How long `pg_amcheck` may take; none when it is not wanted.
    pub amcheck: Option<Duration>,
    /// How long one query may take.
    pub statement_timeout: Duration,
    /// Queries and what they must answer, in this order.
    pub queries: Vec<QueryCheck>,
}

impl Default for DrillChecks {
    fn default() -> Self {
        Self {
            amcheck: Some(DEFAULT_AMCHECK_BUDGET),
            statement_timeout: DEFAULT_STATEMENT_TIMEOUT,
            queries: Vec::new(),
        }
    }
}

/// A query and what it must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryCheck {
    /// What it is called in reports.
    pub name: String,
    /// Where it is asked.
    pub database: String,
    /// One statement that gives one row of one column.
    pub query: String,
    /// What the value must be.
    pub expected: Expectation,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// A number within these bounds, both included.
    Number(NumberRange),
    /// True, or false.
    Boolean(bool),
    /// This text; of a value that is no text, how PostgreSQL writes it.
    Text(String),
    /// A time no longer than this before the moment to which was recovered, and not after it.
    NewestWithin(Duration),
}

/// Bounds of a number; either may be open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberRange {
    /// The least.
    pub least: Option<Decimal>,
    /// The most.
    pub most: Option<Decimal>,
}

impl NumberRange {
    /// This number and no other.
    #[must_use]
    pub fn exactly(number: Decimal) -> Self {
        Self { least: Some(number.clone()), most: Some(number) }
    }

    /// What is at most `tolerance` away from `number`; none where that takes more than 38 digits.
    #[must_use]
    pub fn around(number: &Decimal, tolerance: &Decimal) -> Option<Self> {
        let tolerance = tolerance.magnitude();
        Some(Self { least: Some(number.plus(&tolerance.negated())?), most: Some(number.plus(&tolerance)?) })
    }

    /// The same, the tolerance being so many hundredths of the number.
    #[must_use]
    pub fn around_percent(number: &Decimal, percent: &Decimal) -> Option<Self> {
        Self::around(number, &number.percent(percent)?)
    }

    fn holds(&self, number: &Decimal) -> bool {
        self.least.as_ref().is_none_or(|least| number >= least) && self.most.as_ref().is_none_or(|most| number <= most)
    }
}

impl fmt::Display for NumberRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.least, &self.most) {
            (Some(least), Some(most)) if least == most => write!(f, "{least}"),
            (Some(least), Some(most)) => write!(f, "from {least} to {most}"),
            (Some(least), None) => write!(f, "at least {least}"),
            (None, Some(most)) => write!(f, "at most {most}"),
            (None, None) => f.write_str("any number"),
        }
    }
}

impl Expectation {
    /// The kind of its check in reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NewestWithin(_) => "freshness",
            _ => "sql",
        }
    }

    /// In words; `moment` is the one to which was recovered.
    #[must_use]
    pub fn in_words(&self, moment: Option<DateTime<Utc>>) -> String {
        match self {
            Self::Number(range) => range.to_string(),
            Self::Boolean(value) => value.to_string(),
            // The expected text is the content of a row when all is well.
            Self::Text(_) => "the text in the checks file".to_owned(),
            Self::NewestWithin(within) => {
                let moment = moment.map_or_else(|| "the target".to_owned(), |moment| postgresql_time(&moment));
                format!("at most {} before {moment}, and not after it", human_duration(*within))
            }
        }
    }
}

/// What a value is by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// Any of the number types.
    Number,
    /// `boolean`.
    Boolean,
    /// A timestamp or a date.
    Time,
    /// Anything else.
    Other,
}

/// What a query gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// One row of one column: the value as PostgreSQL writes it, in UTC and ISO style; none for null.
    Value(AnswerKind, Option<String>),
    /// So many columns.
    Columns(usize),
    /// No row.
    NoRow,
    /// More than one row.
    ManyRows,
}

/// Why a query gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The server's SQLSTATE; none when it did not answer.
    pub state: Option<String>,
    /// What was said.
    pub message: String,
    /// True when it was said of the query's text alone, before any row was read.
    pub is_of_the_text: bool,
    /// True when PostgreSQL's storage manager said it: a data file is missing or cannot be read.
    pub is_storage: bool,
}

/// What a check comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The outcome.
    pub outcome: CheckOutcome,
    /// What was found; nothing of a row's content.
    pub found: Option<String>,
    /// What there is to say beside that.
    pub detail: Option<String>,
}

impl Judged {
    fn of(outcome: CheckOutcome, found: impl Into<String>) -> Self {
        Self { outcome, found: Some(found.into()), detail: None }
    }

    fn with(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// What could not be carried out, and why.
    #[must_use]
    pub fn inconclusive(why: impl Into<String>) -> Self {
        Self { outcome: CheckOutcome::Inconclusive, found: None, detail: Some(why.into()) }
    }

    fn pass_if(passes: bool, found: impl Into<String>) -> Self {
        Self::of(if passes { CheckOutcome::Pass } else { CheckOutcome::Fail }, found)
    }
}

/// Judges what a query gave. `moment` is the one to which was recovered: the target, or the last commit that was replayed.
///
/// A value that is not the expected one is a failure, null among them; a query that does not give one value of the right kind is
/// the operator's to mend, and inconclusive.
#[must_use]
pub fn judge(expected: &Expectation, answer: &Answer, moment: Option<DateTime<Utc>>) -> Judged {
    let (kind, text) = match answer {
        Answer::Columns(columns) => {
            return Judged::inconclusive(format!("the query gives {columns} columns; it must give one"));
        }
        Answer::NoRow => return Judged::inconclusive("the query gives no row; it must give exactly one"),
        Answer::ManyRows => return Judged::inconclusive("the query gives more than one row; it must give exactly one"),
        Answer::Value(_, None) => return Judged::of(CheckOutcome::Fail, "null"),
        Answer::Value(kind, Some(text)) => (*kind, text.as_str()),
    };
    match (expected, kind) {
        (Expectation::Number(range), AnswerKind::Number) => judge_number(range, text),
        (Expectation::Boolean(wanted), AnswerKind::Boolean) => {
            let found = text == "t";
            Judged::pass_if(found == *wanted, found.to_string())
        }
        (Expectation::Text(wanted), kind) => judge_text(wanted, kind, text),
        (Expectation::NewestWithin(within), AnswerKind::Time) => judge_time(*within, text, moment),
        (Expectation::Number(_), kind) => other_kind("a number", kind),
        (Expectation::Boolean(_), kind) => other_kind("true or false", kind),
        (Expectation::NewestWithin(_), kind) => other_kind("a time", kind),
    }
}

fn other_kind(wanted: &str, kind: AnswerKind) -> Judged {
    let given = match kind {
        AnswerKind::Number => "a number",
        AnswerKind::Boolean => "true or false",
        AnswerKind::Time => "a time",
        AnswerKind::Other => "another type",
    };
    Judged::inconclusive(format!("the query gives {given}; what is expected is {wanted}"))
}

fn judge_number(range: &NumberRange, text: &str) -> Judged {
    // Of the floats and numerics; larger and smaller than every bound, and NaN within none.
    match text {
        "NaN" => return Judged::of(CheckOutcome::Fail, "NaN"),
        "Infinity" => return Judged::pass_if(range.most.is_none(), text),
        "-Infinity" => return Judged::pass_if(range.least.is_none(), text),
        _ => {}
    }
    match text.parse::<Decimal>() {
        Ok(number) => Judged::pass_if(range.holds(&number), number.to_string()),
        Err(_) => Judged::inconclusive("the query gives a number that is not understood"),
    }
}

fn judge_text(wanted: &str, kind: AnswerKind, text: &str) -> Judged {
    if wanted == text {
        return Judged::of(CheckOutcome::Pass, "that text");
    }
    match kind {
        AnswerKind::Other => {
            let letters = text.chars().count();
            let noun = if letters == 1 { "letter" } else { "letters" };
            Judged::of(CheckOutcome::Fail, format!("another text, {letters} {noun} long"))
        }
        AnswerKind::Boolean => Judged::of(CheckOutcome::Fail, if text == "t" { "true" } else { "false" })
            .with("booleans are compared with true or false without quotes, or with \"t\" or \"f\""),
        AnswerKind::Number | AnswerKind::Time => Judged::of(CheckOutcome::Fail, text),
    }
}

fn judge_time(within: Duration, text: &str, moment: Option<DateTime<Utc>>) -> Judged {
    let Some(moment) = moment else {
        return Judged::inconclusive("neither a target time nor a replayed commit is known to compare with");
    };
    match text {
        "infinity" => {
            return Judged::of(CheckOutcome::Fail, text).with("it is after the moment to which was recovered");
        }
        "-infinity" => return Judged::of(CheckOutcome::Fail, text),
        _ if text.ends_with(" BC") => return Judged::of(CheckOutcome::Fail, text),
        _ => {}
    }
    let Some(time) = parse_time(text) else {
        return Judged::inconclusive("the query gives a time that is not understood");
    };
    let age = moment.signed_duration_since(time);
    let found = postgresql_time(&time);
    let in_words = |delta: TimeDelta| human_duration(delta.abs().to_std().unwrap_or_default());
    if age < -CLOCK_SLACK {
        return Judged::of(CheckOutcome::Fail, found)
            .with(format!("it is {} after the moment to which was recovered", in_words(age)));
    }
    let limit = TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX);
    let when = if age < TimeDelta::zero() { "after" } else { "before" };
    Judged::pass_if(age <= limit, found).with(format!("{} {when} the moment to which was recovered", in_words(age)))
}

/// A timestamp or date in ISO style; one without a zone is taken for UTC.
fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let plain = text.strip_suffix("+00").unwrap_or(text);
    let time = NaiveDateTime::parse_from_str(plain, "%Y-%m-%d %H:%M:%S%.f").ok();
    time.or_else(|| NaiveDate::parse_from_str(plain, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0)).map(|time| time.and_utc())
}

/// What is not in the database: tables, columns, schemas, databases (`errcodes.txt`).
const MISSING: [&str; 4] = ["42P01", "42703", "3F000", "3D000"];

/// Damage that PostgreSQL found by itself: `data_corrupted` and `index_corrupted`.
const DAMAGED: [&str; 2] = ["XX001", "XX002"];

/// Beside these, messages of these classes name objects and conditions: limits, interventions, prerequisites, rights, the system. Not
/// class 42 while a query runs: a function may have made a statement of a row's content.
const TOLD: [&str; 6] = ["53", "55", "57", "58", "0A", "42501"];

/// Judges a query that the server refused, or did not answer.
///
/// What the recovered database lacks and damage that PostgreSQL itself found are failures. Everything else says nothing about the
/// data: a mistake in the query, a time-out, a lack of memory.
#[must_use]
pub fn judge_refusal(refused: &Refused) -> Judged {
    let Some(state) = &refused.state else { return Judged::inconclusive(&refused.message) };
    let is = |states: &[&str]| states.contains(&state.as_str());
    let is_told =
        refused.is_of_the_text || is(&MISSING) || is(&DAMAGED) || TOLD.iter().any(|class| state.starts_with(class));
    let why = if is_told {
        format!("{} (SQLSTATE {state})", refused.message)
    } else {
        format!(
            "the query failed with SQLSTATE {state}; what was said may hold the content of a row and is not repeated"
        )
    };
    // A disk that does not answer, or too many open files, are this host's matter.
    let is_fault = is(&MISSING) || is(&DAMAGED) || (refused.is_storage && is(&["58P01"]));
    let outcome = if is_fault { CheckOutcome::Fail } else { CheckOutcome::Inconclusive };
    Judged { outcome, found: None, detail: Some(why) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn range(least: Option<&str>, most: Option<&str>) -> Expectation {
        Expectation::Number(NumberRange { least: least.map(decimal), most: most.map(decimal) })
    }

    fn value(kind: AnswerKind, text: &str) -> Answer {
        Answer::Value(kind, Some(text.to_owned()))
    }

    fn outcome(expected: &Expectation, answer: &Answer) -> CheckOutcome {
        judge(expected, answer, "2026-06-08T12:00:00Z".parse().ok()).outcome
    }

    #[test]
    fn a_number_is_held_against_its_bounds() {
        use CheckOutcome::{Fail, Inconclusive, Pass};
        for (expected, found, wanted) in [
            (range(Some("1000"), None), "1000", Pass),
            (range(Some("1000"), None), "999", Fail),
            (range(None, Some("1000")), "1000.0", Pass),
            (range(None, Some("1000")), "1000.00001", Fail),
            (range(Some("10"), Some("20")), "1.5e1", Pass),
            (range(Some("10"), Some("20")), "NaN", Fail),
            (range(Some("10"), None), "Infinity", Pass),
            (range(Some("10"), None), "-Infinity", Fail),
            (range(Some("9007199254740993"), None), "9007199254740992", Fail),
            (range(Some("1"), None), "what is this", Inconclusive),
        ] {
            assert_eq!(outcome(&expected, &value(AnswerKind::Number, found)), wanted, "{found} {expected:?}");
        }
        let failed = judge(&range(Some("10"), None), &value(AnswerKind::Number, "9"), None);
        assert_eq!((failed.found.as_deref(), failed.detail), (Some("9"), None));
    }

    #[test]
    fn a_tolerance_is_symmetric_whatever_the_signs() {
        let shown = |number: &str, percent: &str| {
            NumberRange::around_percent(&decimal(number), &decimal(percent)).unwrap().to_string()
        };
        assert_eq!(shown("12345", "1"), "from 12221.55 to 12468.45");
        assert_eq!(shown("-200", "1"), "from -202 to -198");
        assert_eq!(NumberRange::around(&decimal("5"), &decimal("0")).unwrap().to_string(), "5");
        assert_eq!(NumberRange::around(&decimal("5"), &decimal("10")).unwrap().to_string(), "from -5 to 15");
    }

    #[test]
    fn null_is_never_what_is_expected() {
        for expected in [
            range(None, None),
            Expectation::Boolean(false),
            Expectation::Text(String::new()),
            Expectation::NewestWithin(Duration::from_secs(1)),
        ] {
            let judged = judge(&expected, &Answer::Value(AnswerKind::Other, None), None);
            assert_eq!((judged.outcome, judged.found.as_deref()), (CheckOutcome::Fail, Some("null")));
        }
    }

    #[test]
    fn what_is_not_one_value_of_the_right_kind_is_the_operator_s_to_mend() {
        for answer in [
            Answer::NoRow,
            Answer::ManyRows,
            Answer::Columns(2),
            Answer::Columns(0),
            value(AnswerKind::Other, "secret"),
        ] {
            let judged = judge(&range(None, None), &answer, None);
            assert_eq!(judged.outcome, CheckOutcome::Inconclusive);
            assert_eq!(judged.found, None);
            assert!(!judged.detail.unwrap().contains("secret"));
        }
    }

    #[test]
    fn of_a_text_only_whether_it_is_the_one_and_its_length_are_told() {
        let expected = Expectation::Text("Smith".to_owned());
        assert_eq!(expected.in_words(None), "the text in the checks file");
        let same = judge(&expected, &value(AnswerKind::Other, "Smith"), None);
        assert_eq!((same.outcome, same.found.as_deref()), (CheckOutcome::Pass, Some("that text")));
        let other = judge(&expected, &value(AnswerKind::Other, "Ångström"), None);
        assert_eq!((other.outcome, other.found.as_deref()), (CheckOutcome::Fail, Some("another text, 8 letters long")));
        let number = judge(&Expectation::Text("1.50".to_owned()), &value(AnswerKind::Number, "1.50"), None);
        assert_eq!(number.outcome, CheckOutcome::Pass);
    }

    #[test]
    fn booleans_are_compared_with_booleans() {
        let found = |wanted, text: &str| judge(&Expectation::Boolean(wanted), &value(AnswerKind::Boolean, text), None);
        assert_eq!(found(true, "t").outcome, CheckOutcome::Pass);
        assert_eq!(found(true, "f").found.as_deref(), Some("false"));
        assert_eq!(outcome(&Expectation::Boolean(true), &value(AnswerKind::Number, "1")), CheckOutcome::Inconclusive);
    }

    #[test]
    fn the_newest_row_is_neither_too_old_nor_from_the_future() {
        use CheckOutcome::{Fail, Inconclusive, Pass};
        let expected = Expectation::NewestWithin(Duration::from_mins(5));
        for (text, wanted) in [
            ("2026-06-08 12:00:00+00", Pass),
            ("2026-06-08 11:55:00+00", Pass),
            ("2026-06-08 11:54:59.999+00", Fail),
            ("2026-06-08 12:00:04+00", Pass),
            ("2026-06-08 12:00:06+00", Fail),
            ("2026-06-08 11:58:00", Pass),
            ("2026-06-08", Fail),
            ("infinity", Fail),
            ("-infinity", Fail),
            ("0044-03-15 00:00:00 BC", Fail),
            ("yesterday", Inconclusive),
        ] {
            assert_eq!(outcome(&expected, &value(AnswerKind::Time, text)), wanted, "{text}");
        }
        let nothing = judge(&expected, &value(AnswerKind::Time, "2026-06-08 12:00:00+00"), None);
        assert_eq!(nothing.outcome, Inconclusive);
        assert_eq!(
            expected.in_words("2026-06-08T12:00:00Z".parse().ok()),
            "at most 5 min 00 s before 2026-06-08 12:00:00+00, and not after it"
        );
    }

    #[test]
    fn what_the_data_lacks_is_a_failure_and_what_the_query_lacks_is_not() {
        let refused = |state: &str, is_storage| Refused {
            state: Some(state.to_owned()),
            message: "the message".to_owned(),
            is_of_the_text: false,
            is_storage,
        };
        for (state, is_storage, wanted) in [
            ("42P01", false, CheckOutcome::Fail),
            ("42703", false, CheckOutcome::Fail),
            ("3D000", false, CheckOutcome::Fail),
            ("XX001", false, CheckOutcome::Fail),
            ("XX002", false, CheckOutcome::Fail),
            ("58P01", true, CheckOutcome::Fail),
            ("58P01", false, CheckOutcome::Inconclusive),
            ("42601", false, CheckOutcome::Inconclusive),
            ("57014", false, CheckOutcome::Inconclusive),
            ("53200", false, CheckOutcome::Inconclusive),
            ("22P02", false, CheckOutcome::Inconclusive),
        ] {
            assert_eq!(judge_refusal(&refused(state, is_storage)).outcome, wanted, "{state}");
        }
    }

    #[test]
    fn a_message_that_may_hold_content_is_not_repeated() {
        let mut refused = Refused {
            state: Some("22P02".to_owned()),
            message: "invalid input syntax for type integer: \"Smith\"".to_owned(),
            is_of_the_text: false,
            is_storage: false,
        };
        let told = judge_refusal(&refused).detail.unwrap();
        assert!(told.contains("SQLSTATE 22P02") && !told.contains("Smith"), "{told}");
        // Before a row was read it can only be of the query's own text.
        refused.is_of_the_text = true;
        assert!(judge_refusal(&refused).detail.unwrap().contains("Smith"));
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_judge_panic_or_leaks(text in "[a-z]{12,40}", other in ".{0,60}") {
            let kinds = [AnswerKind::Number, AnswerKind::Boolean, AnswerKind::Time, AnswerKind::Other];
            let expectations = [
                range(Some("1"), None),
                Expectation::Boolean(true),
                Expectation::Text("x".to_owned()),
                Expectation::NewestWithin(Duration::from_secs(1)),
            ];
            let moment = "2026-06-08T12:00:00Z".parse().ok();
            for expected in &expectations {
                for kind in kinds {
                    let _ = judge(expected, &value(kind, &other), moment);
                }
                let judged = judge(expected, &value(AnswerKind::Other, &text), moment);
                let said = format!("{:?}{:?}", judged.found, judged.detail);
                prop_assert!(!said.contains(&text), "{}", said);
            }
        }
    }
}
