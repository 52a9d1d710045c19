//! What people, servers and other programs say: arguments, configuration, connection strings, answers of stores, local notes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use barback::cli::barman::call::{self, Asked, Program};
use barback::cli::quantity::{parse_duration, parse_size};
use barback::cli::zone::Zone;
use barback::cli::{config, drill_checks, native};
use barback::domain::archive_command;
use barback::domain::barman_choice::{TargetWords, Wanted};
use barback::domain::barman_retention::RetentionPolicy;
use barback::domain::decimal::Decimal;
use barback::domain::delivery::{Deliveries, Delivery};
use barback::domain::drill_checks::{Answer, AnswerKind, Expectation, NumberRange, judge};
use barback::domain::fetch_ahead::Course;
use barback::domain::recovery_target::{
    RecoveryTarget, TargetAction, TargetRequest, TargetTimeline, parse_target_time, parse_zoned_or_local_time,
};
use barback::domain::retention::Policy;
use barback::domain::timeline::TimelineId;
use barback::layout::content_facts::ContentFacts;
use barback::postgres::conninfo::{Conninfo, of_options};
use barback::postgres::passfile::{Login, PasswordFile};
use barback::postgres::recovery_log::RecoveryLog;
use barback::postgres::{private_server, settings};
use barback::store::{BucketRule, ObjectLock, OpenUpload, Place};
use chrono::{DateTime, FixedOffset, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{line_and_rest, text};

fn utc() -> FixedOffset {
    FixedOffset::east_opt(0).expect("it is an offset")
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).expect("it is a time")
}

/// Words of a command line, one to a line, for both faces; and each as a time, an amount, a target and a policy.
pub fn arguments(bytes: &[u8]) {
    let words: Vec<OsString> =
        bytes.split(|byte| *byte == b'\n').take(16).map(|word| OsString::from_vec(word.to_vec())).collect();
    let argv =
        [OsString::from("barback")].into_iter().chain(words.iter().filter(|word| !leads_elsewhere(word)).cloned());
    let _ = native::parse(argv.collect(), &BTreeMap::new(), Zone::Fixed(utc())).is_ok();
    let program = Program::ALL[bytes.len() % Program::ALL.len()];
    let _ = call::parse(Asked { program, name: program.name(), columns: Some(bytes.len() % 200) }, &words).is_ok();
    for word in &words {
        let word = word.to_string_lossy();
        times(&word);
        amounts(&word);
        let target = RecoveryTarget::Name(word.to_string());
        let (inclusive, timeline) = (true, word.parse().unwrap_or(TargetTimeline::Latest));
        let request =
            TargetRequest { target, inclusive, timeline, action: word.parse().unwrap_or(TargetAction::Pause) };
        if request.validate().is_ok() {
            assert!(request.settings(TimelineId::FIRST).iter().all(|(_, value)| !value.contains('\n')), "{word:?}");
        }
    }
}

/// A file that a mutation happens to name may be a terminal, which would be waited for.
fn leads_elsewhere(word: &OsString) -> bool {
    word.to_string_lossy().contains("/dev")
}

fn times(word: &str) {
    let zoned = parse_target_time(word, |_| utc());
    if let Ok(time) = &zoned {
        assert_eq!(parse_zoned_or_local_time(word, |_| utc()).ok().as_ref(), Some(time));
        let written = RecoveryTarget::Time(*time).to_string();
        let read = parse_target_time(&written, |_| utc()).expect("what PostgreSQL is told can be read");
        assert_eq!(read.timestamp_micros(), time.timestamp_micros(), "{word} became {written}");
    }
    for local in [utc(), FixedOffset::west_opt(86_399).expect("it is an offset")] {
        let _ = parse_zoned_or_local_time(word, |_| local);
        let words = TargetWords { time: Some(word), lsn: Some(word), timeline: Some(word) };
        let _ = Wanted::read("auto", words, |_| local).is_ok();
    }
}

fn amounts(word: &str) {
    let _ = (parse_size(word), parse_duration(word), RetentionPolicy::parse(word), RetentionPolicy::refusal(word));
    if let Ok(policy) = word.parse::<Policy>() {
        assert_eq!(policy.to_string().parse::<Policy>().ok(), Some(policy));
        let _ = policy.since(now());
    }
    let Ok(number) = word.parse::<Decimal>() else { return };
    assert_eq!(number.to_string().parse::<Decimal>().ok(), Some(number.clone()), "{word}");
    assert_eq!(number.negated().negated(), number);
    let ranges = [NumberRange::around(&number, &number), NumberRange::around_percent(&number, &number)];
    for range in ranges.into_iter().flatten().chain([NumberRange::exactly(number.clone())]) {
        let _ = range.to_string();
        let value = Answer::Value(AnswerKind::Number, Some(word.to_owned()));
        let _ = judge(&Expectation::Number(range), &value, None);
    }
}

/// Our configuration file, a file of checks, and what a query answered.
pub fn configuration(bytes: &[u8]) {
    let text = text(bytes);
    let _ = config::check(&text, Path::new("barback.toml"));
    if let Ok(checks) = drill_checks::parse(&text, Path::new("checks.toml")) {
        let (value, _) = line_and_rest(&text);
        for query in &checks.queries {
            let kinds = [AnswerKind::Number, AnswerKind::Boolean, AnswerKind::Time, AnswerKind::Other];
            for kind in kinds {
                let _ = judge(&query.expected, &Answer::Value(kind, Some(value.to_owned())), Some(now()));
            }
            let _ = query.expected.in_words(Some(now()));
        }
    }
    let newest = Expectation::NewestWithin(Duration::MAX);
    let _ = judge(&newest, &Answer::Value(AnswerKind::Time, Some(text.clone())), Some(DateTime::<Utc>::MIN_UTC));
}

/// A connection string, behind it a password file; the same as `postgresql.conf`, as a store's URL and as an `archive_command`.
pub fn connection_settings(bytes: &[u8]) {
    let text = text(bytes);
    let (line, rest) = line_and_rest(&text);
    let environment = BTreeMap::from([("USER".to_owned(), "postgres".to_owned())]);
    for conninfo in [line, &text] {
        if let Ok(conninfo) = Conninfo::resolve(Some(conninfo), &environment) {
            assert!(!conninfo.endpoints.is_empty() && !conninfo.user.is_empty());
        }
        let _ = Conninfo::resolve_named(conninfo, &environment, "fuzz");
    }
    let built = of_options(Some(line), Some("5432"), None, "postgres");
    let _ = Conninfo::resolve(Some(&built), &environment);
    let passwords = PasswordFile::of_bytes(bytes);
    let login = Login { host: "localhost", port: 5432, dbname: "postgres", user: "postgres" };
    if let Some(password) = passwords.password(login) {
        assert!(!password.reveal().contains('\n'), "a password ends with its line");
    }
    let _ = PasswordFile::of_bytes(rest.as_bytes()).password(login);
    server_settings(&text);
    let command = archive_command::read(&text);
    assert!(!command.names_the_file || text.contains("%p"));
    if let Ok(place) = line.parse::<Place>() {
        assert_eq!(place.to_string().parse::<Place>().ok(), Some(place), "{line}");
    }
    let _ = private_server::major_of(&text);
}

fn server_settings(text: &str) {
    let (neutral, removed) = settings::neutralise(text, &["data_directory", "hba_file"]);
    assert_eq!(neutral.lines().count(), text.lines().count(), "lines are switched off, not taken away");
    let (again, still) = settings::neutralise(&neutral, &["data_directory", "hba_file"]);
    assert!(again == neutral && still.is_empty(), "what is switched off stays so: {removed:?}");
    let (name, _) = line_and_rest(text);
    let ours = [("restore_command".to_owned(), text.to_owned()), ("port".to_owned(), name.to_owned())];
    // A carriage return at the very end becomes one of a line's end, and goes the next time.
    let written = settings::auto_conf(&text.replace('\r', " "), &ours);
    assert_eq!(settings::auto_conf(&written, &ours), written, "writing is stable");
    let _ = (settings::includes_others(text), settings::restore_command(&[text.to_owned()], " wal-restore %f %p"));
}

/// What a store answers: rules, uploads, headers, metadata.
pub fn store_answers(bytes: &[u8]) {
    let rules = [BucketRule::of_s3(bytes), BucketRule::of_google(bytes)];
    for rule in rules.into_iter().flatten().flatten() {
        assert!(rule.deletes.is_none_or(|when| !when.is_empty()));
    }
    if let Ok((uploads, _)) = OpenUpload::of_page(bytes) {
        assert!(uploads.len() <= bytes.len() / "<Upload/>".len(), "each upload has an element");
    }
    let text = text(bytes);
    let (mut headers, mut metadata) = (HeaderMap::new(), BTreeMap::new());
    for (name, value) in text.lines().take(32).filter_map(|line| line.split_once(": ")) {
        if let (Ok(header), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            headers.insert(header, value);
        }
        metadata.insert(name.to_owned(), value.to_owned());
    }
    if let Ok(Some(ObjectLock::Until(until))) = ObjectLock::of_headers(&headers, now()) {
        assert!(until > now(), "a lock that has ended is none");
    }
    if let Some(facts) = ContentFacts::from_metadata(&metadata) {
        assert_eq!(ContentFacts::from_metadata(&facts.to_metadata()), Some(facts));
    }
}

/// What we and a recovering server leave on the disk: where recovery is, what was delivered, the server's log.
pub fn local_notes(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(course) = text.parse::<Course>() {
        assert_eq!(course.to_string().parse::<Course>().ok().as_ref(), Some(&course));
        let _ = (course.pace.to_string(), course.total.to_string(), course.pace.is_starved(u64::MAX));
    }
    for line in text.lines() {
        if let Ok(delivery) = line.parse::<Delivery>() {
            assert_eq!(delivery.to_string().parse::<Delivery>().ok(), Some(delivery));
        }
    }
    let mut deliveries = Deliveries::default();
    deliveries.add_lines(&text);
    assert!(deliveries.absent.len() <= 100, "what is kept of a journal is bounded");
    let mut log = RecoveryLog::default();
    log.add(&text);
    let _ = (log.is_fault_of_the_backup(), log.last_of("barback: "), log.last_line());
}
