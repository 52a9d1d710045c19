//! The file that says what a drill looks for in the recovered database, read with errors that name file, check and both values.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::quantity::{human_size, parse_duration};
use crate::domain::decimal::Decimal;
use crate::domain::drill_checks::{
    DEFAULT_AMCHECK_BUDGET, DEFAULT_DATABASE, DEFAULT_STATEMENT_TIMEOUT, DrillChecks, Expectation, NumberRange,
    QueryCheck,
};
use crate::domain::measure::human_duration;
use crate::error::{Error, Result};

/// More than any such file needs; a wrong path must not read a database into memory.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// So many checks may be in a file: each is a session.
const MOST_CHECKS: usize = 1000;

/// How long a name may be: it stands in every report.
const LONGEST_NAME: usize = 200;

/// PostgreSQL's names have at most 63 bytes (`NAMEDATALEN`).
const LONGEST_DATABASE: usize = 63;

/// The shortest time for `pg_amcheck` or a query, and the longest of either.
const LIMITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(7 * 24));

/// A row that may be older than this proves nothing.
const LONGEST_FRESHNESS: Duration = Duration::from_hours(366 * 24);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    amcheck: Option<bool>,
    amcheck_budget: Option<Spanned<String>>,
    statement_timeout: Option<Spanned<String>>,
    #[serde(default)]
    check: Vec<Spanned<Check>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    name: String,
    database: Option<String>,
    query: String,
    equal: Option<Value>,
    tolerance: Option<Value>,
    min: Option<Value>,
    max: Option<Value>,
    newest_within: Option<String>,
}

/// Reads the checks file at `path`.
///
/// Errors: `Usage` for a file that cannot be read or is larger than 1 MiB, and for anything in it that it should not say, with file,
/// line and check.
pub fn read(path: &Path) -> Result<DrillChecks> {
    use std::io::Read;

    let refuse = |cause: &str| Error::usage(format!("could not read checks file \"{}\": {cause}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| refuse(&error.to_string()))?;
    file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text).map_err(|error| refuse(&error.to_string()))?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(refuse(&format!("it is larger than {}", human_size(FILE_LIMIT_BYTES))));
    }
    parse(&text, path)
}

/// Reads the text of a checks file that was found at `path`.
pub fn parse(text: &str, path: &Path) -> Result<DrillChecks> {
    let place = |offset: usize| {
        let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        format!("\"{}\" line {line}", path.display())
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Error::usage(format!("could not read checks file {}: {}", place(offset), error.message()))
    })?;
    if file.check.len() > MOST_CHECKS {
        let message = format!("could not read checks file \"{}\": its {} checks", path.display(), file.check.len());
        return Err(Error::usage(format!("{message} are more than {MOST_CHECKS}")));
    }
    let duration = |key: &str, said: Option<Spanned<String>>, default: Duration| {
        let Some(said) = said else { return Ok(default) };
        limited(key, said.get_ref()).map_err(|error| error.context(place(said.span().start)))
    };
    let budget = duration("amcheck_budget", file.amcheck_budget, DEFAULT_AMCHECK_BUDGET)?;
    let statement_timeout = duration("statement_timeout", file.statement_timeout, DEFAULT_STATEMENT_TIMEOUT)?;
    let (mut names, mut queries) = (BTreeSet::new(), Vec::new());
    for check in file.check {
        let start = check.span().start;
        let check = check.into_inner();
        let called = format!("check \"{}\"", check.name.escape_debug());
        let refuse = |error: Error| error.context(format!("{}: {called}", place(start)));
        if !names.insert(check.name.clone()) {
            return Err(refuse(Error::usage("another check has the same name")));
        }
        queries.push(query_check(check).map_err(refuse)?);
    }
    Ok(DrillChecks { amcheck: file.amcheck.unwrap_or(true).then_some(budget), statement_timeout, queries })
}

fn limited(key: &str, text: &str) -> Result<Duration> {
    let duration = parse_duration(text).map_err(|error| error.context(format!("\"{key}\"")))?;
    let (least, most) = LIMITS;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(Error::usage(format!("\"{key}\" is \"{text}\"; it must be from {} to a week", human_duration(least))))
}

fn query_check(check: Check) -> Result<QueryCheck> {
    let refuse = |what: &str| Err(Error::usage(what));
    if check.name.trim().is_empty() || check.name.len() > LONGEST_NAME || check.name.chars().any(char::is_control) {
        return Err(Error::usage(format!("a name has from 1 to {LONGEST_NAME} bytes on one line")));
    }
    let database = check.database.clone().unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
    if database.is_empty() || database.len() > LONGEST_DATABASE || database.contains('\0') {
        return Err(Error::usage(format!("\"database\" must have from 1 to {LONGEST_DATABASE} bytes")));
    }
    if check.query.trim().is_empty() || check.query.contains('\0') {
        return refuse("\"query\" must be a statement");
    }
    let expected = expectation(&check)?;
    Ok(QueryCheck { name: check.name, database, query: check.query, expected })
}

const ONE_OF: &str = "one of \"equal\", \"min\" and \"max\", or \"newest_within\"";

/// What is expected: `equal` with or without `tolerance`, `min` and `max` or one of them, or `newest_within`.
fn expectation(check: &Check) -> Result<Expectation> {
    let has_bounds = check.min.is_some() || check.max.is_some();
    let given = [check.equal.is_some(), has_bounds, check.newest_within.is_some()];
    match given.iter().filter(|given| **given).count() {
        0 => return Err(Error::usage(format!("it does not say what is expected: {ONE_OF}"))),
        1 => {}
        _ => return Err(Error::usage(format!("it says more than one thing that is expected; it takes {ONE_OF}"))),
    }
    if check.tolerance.is_some() && check.equal.is_none() {
        return Err(Error::usage("\"tolerance\" goes with \"equal\" alone"));
    }
    if let Some(text) = &check.newest_within {
        return newest_within(text);
    }
    if has_bounds {
        let bound = |key: &str, value: &Option<Value>| value.as_ref().map(|value| number(key, value)).transpose();
        let range = NumberRange { least: bound("min", &check.min)?, most: bound("max", &check.max)? };
        return match (&range.least, &range.most) {
            (Some(least), Some(most)) if least > most => {
                Err(Error::usage(format!("\"min\" is {least}, more than \"max\", which is {most}")))
            }
            _ => Ok(Expectation::Number(range)),
        };
    }
    equal(check)
}

fn newest_within(text: &str) -> Result<Expectation> {
    let within = parse_duration(text).map_err(|error| error.context("\"newest_within\""))?;
    if within.is_zero() || within > LONGEST_FRESHNESS {
        return Err(Error::usage(format!(
            "\"newest_within\" is \"{text}\"; it must be more than 0 and at most 366 days"
        )));
    }
    Ok(Expectation::NewestWithin(within))
}

fn equal(check: &Check) -> Result<Expectation> {
    let expected = match &check.equal {
        Some(Value::Boolean(value)) => Expectation::Boolean(*value),
        Some(Value::String(text)) => Expectation::Text(text.clone()),
        Some(value) => {
            let number = number("equal", value)?;
            let Some(tolerance) = &check.tolerance else {
                return Ok(Expectation::Number(NumberRange::exactly(number)));
            };
            return around(&number, tolerance);
        }
        None => return Err(Error::usage(format!("it does not say what is expected: {ONE_OF}"))),
    };
    if check.tolerance.is_some() {
        return Err(Error::usage("\"tolerance\" goes with numbers alone"));
    }
    Ok(expected)
}

fn around(number: &Decimal, tolerance: &Value) -> Result<Expectation> {
    let percent = tolerance.as_str().and_then(|text| text.strip_suffix('%'));
    let (width, range) = if let Some(percent) = percent {
        let percent: Decimal = percent.trim().parse().map_err(|error: Error| error.context("\"tolerance\""))?;
        (percent.clone(), NumberRange::around_percent(number, &percent))
    } else {
        let width = self::number("tolerance", tolerance)?;
        (width.clone(), NumberRange::around(number, &width))
    };
    if width.is_negative() {
        return Err(Error::usage(format!("\"tolerance\" is {width}; it must not be negative")));
    }
    let too_long =
        || Error::usage(format!("{number} with that tolerance has too many digits: write \"min\" and \"max\""));
    range.map(Expectation::Number).ok_or_else(too_long)
}

/// A number, or text that is one: TOML's own have at most 19 digits.
fn number(key: &str, value: &Value) -> Result<Decimal> {
    let text = match value {
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::String(text) => text.clone(),
        other => return Err(Error::usage(format!("\"{key}\" is of type {}; it must be a number", other.type_str()))),
    };
    text.parse().map_err(|error: Error| error.context(format!("\"{key}\"")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<DrillChecks> {
        parse(text, Path::new("/etc/checks.toml"))
    }

    fn refusal(text: &str) -> String {
        let error = parsed(text).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
        error.to_string()
    }

    /// A check of one query with these lines.
    fn with(lines: &str) -> String {
        format!("[[check]]\nname = \"it\"\nquery = \"select 1\"\n{lines}\n")
    }

    fn expected(lines: &str) -> String {
        parsed(&with(lines)).unwrap().queries[0].expected.in_words(None)
    }

    #[test]
    fn the_documented_file_is_read() {
        let page = include_str!("../../docs/drill-checks.md");
        let (_, example) = page.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let checks = parsed(example).unwrap();
        assert_eq!(checks.amcheck, Some(Duration::from_mins(20)));
        assert_eq!(checks.statement_timeout, Duration::from_mins(2));
        let words: Vec<(String, String)> =
            checks.queries.iter().map(|check| (check.database.clone(), check.expected.in_words(None))).collect();
        let expected = [
            ("shop", "at least 1000"),
            ("shop", "from 12221.55 to 12468.45"),
            ("shop", "at most 5 min 00 s before the target, and not after it"),
            ("shop", "0"),
            ("shop", "true"),
            ("postgres", "the text in the checks file"),
        ];
        assert_eq!(words, expected.map(|(database, words)| (database.to_owned(), words.to_owned())));
        for key in ["`amcheck`", "`amcheck_budget`", "`statement_timeout`", "`tolerance`", "`newest_within`"] {
            assert!(page.contains(key), "{key} is not explained");
        }
    }

    #[test]
    fn an_empty_file_asks_for_what_is_always_looked_at() {
        assert_eq!(parsed("").unwrap(), DrillChecks::default());
        assert_eq!(parsed("amcheck = false\n").unwrap().amcheck, None);
    }

    #[test]
    fn what_is_expected_is_read_in_every_form() {
        for (lines, words) in [
            ("min = 10", "at least 10"),
            ("max = 1.5", "at most 1.5"),
            ("min = 10\nmax = 20", "from 10 to 20"),
            ("equal = 5", "5"),
            ("equal = 200\ntolerance = \"1.5 %\"", "from 197 to 203"),
            ("equal = 200\ntolerance = 10", "from 190 to 210"),
            ("min = \"123456789012345678901234567890\"", "at least 123456789012345678901234567890"),
            ("equal = true", "true"),
            ("equal = \"5\"", "the text in the checks file"),
        ] {
            assert_eq!(expected(lines), words, "{lines}");
        }
    }

    #[test]
    fn an_error_names_file_line_check_and_both_values() {
        assert_eq!(
            refusal(&format!("{}{}", with("min = 1").replace("it", "other"), with("min = 5\nmax = 3"))),
            "\"/etc/checks.toml\" line 5: check \"it\": \"min\" is 5, more than \"max\", which is 3"
        );
        for (text, told) in [
            (with("minimum = 5"), "line 4: unknown field `minimum`"),
            ("amchek = true\n".to_owned(), "line 1: unknown field `amchek`"),
            (with(""), "it does not say what is expected"),
            (with("equal = 1\nmin = 2"), "it says more than one thing"),
            (with("min = 1\nnewest_within = \"5m\""), "it says more than one thing"),
            (with("min = 1\ntolerance = 2"), "\"tolerance\" goes with \"equal\" alone"),
            (with("equal = \"x\"\ntolerance = 2"), "\"tolerance\" goes with numbers alone"),
            (with("equal = 1\ntolerance = -2"), "\"tolerance\" is -2; it must not be negative"),
            (with("equal = 1\ntolerance = \"1 percent\""), "\"tolerance\": \"1 percent\" is not a number"),
            (with("min = nan"), "\"min\": \"NaN\" is not a number"),
            (with("min = [1]"), "\"min\" is of type array; it must be a number"),
            (with("newest_within = \"0\""), "\"newest_within\" is \"0\""),
            (with("newest_within = \"soon\""), "\"newest_within\": \"soon\" is not a duration"),
            (with("min = 1").replace("select 1", " "), "\"query\" must be a statement"),
            (with("database = \"\"\nmin = 1"), "\"database\" must have from 1 to 63 bytes"),
            (with("min = 1").replace("\"it\"", "\"\""), "a name has from 1 to 200 bytes"),
            (with("min = 1").repeat(2), "line 5: check \"it\": another check has the same name"),
            (
                "statement_timeout = \"0\"\n".to_owned(),
                "line 1: \"statement_timeout\" is \"0\"; it must be from 1.0 s to a week",
            ),
            ("amcheck_budget = 5\n".to_owned(), "line 1: invalid type"),
            ("[[check]]\nname = \"it\"\n".to_owned(), "missing field `query`"),
        ] {
            let said = refusal(&text);
            assert!(said.contains(told) && said.contains("/etc/checks.toml"), "{said}\nnot {told}");
        }
    }

    #[test]
    fn files_and_lists_that_are_too_long_are_refused() {
        let many: String = (0..=MOST_CHECKS).map(|number| with("min = 1").replace("it", &number.to_string())).collect();
        assert!(refusal(&many).contains("its 1001 checks are more than 1000"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " ".repeat((1 << 20) + 1)).unwrap();
        assert!(read(file.path()).unwrap_err().to_string().ends_with("it is larger than 1 MiB"));
        assert!(read(Path::new("/nonexistent/checks.toml")).unwrap_err().to_string().contains("No such file"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}", value in "[-+0-9a-z.\"%\\[\\] ]{0,12}") {
            let _ = parsed(&text);
            let _ = parsed(&with(&format!("equal = {value}\ntolerance = {value}")));
            let _ = parsed(&with(&format!("min = {value}\nmax = {value}")));
        }
    }
}
