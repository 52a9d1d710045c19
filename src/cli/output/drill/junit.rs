//! A drill as `JUnit`'s XML, which every continuous integration shows.

use super::markup::{Escaped, Seconds, joined};
use super::utc;
use crate::domain::drill::{CheckOutcome, DrillLevel};
use crate::domain::verification::Verdict;
use crate::layout::drill_record::{DrillCheck, DrillRecord};

/// What a test case came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    /// What `JUnit` calls an error: nobody knows.
    Inconclusive(String),
    Skipped(String),
}

/// A test case.
struct Case {
    class: &'static str,
    name: String,
    took_ms: u64,
    outcome: Outcome,
    /// What there is to say beside that.
    said: String,
}

/// What every drill does before it looks into a server, and which of its phases belong to it.
const STAGES: [(&str, &[&str]); 3] = [
    ("plan", &["plan"]),
    ("restore", &["verify", "fetch", "sync"]),
    ("target is reached", &["consistency", "replay", "prove", "promote"]),
];

/// The text of `drill.xml`: one suite; a case for the plan, the restore, the proof of the target, and each check.
#[must_use]
pub fn junit(record: &DrillRecord) -> String {
    let cases = cases(record);
    let count = |is: fn(&Outcome) -> bool| cases.iter().filter(|case| is(&case.outcome)).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
        cases.len(),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Inconclusive(_))),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
    );
    let took = u64::try_from((record.ended - record.started).num_milliseconds()).unwrap_or(0);
    let suite = format!(
        "name=\"{}\" {counts} time=\"{}\" timestamp=\"{}\" hostname=\"{}\"",
        Escaped(&format!("drill of {}", record.place.server)),
        Seconds(took),
        record.started.format("%Y-%m-%dT%H:%M:%S"),
        Escaped(&record.place.host),
    );
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"barback drill\" {counts} time=\"{}\">\n  \
         <testsuite {suite}>\n{}{}  </testsuite>\n</testsuites>\n",
        Seconds(took),
        properties(record),
        joined(cases.iter().map(case_xml)),
    )
}

fn properties(record: &DrillRecord) -> String {
    let place = &record.place;
    let known = [
        ("verdict", Some(record.verdict.to_string())),
        ("level", Some(record.level.to_string())),
        ("number", record.sequence.map(|number| number.to_string())),
        ("store", Some(place.store.clone())),
        ("server", Some(place.server.clone())),
        ("backup", record.backup.as_ref().map(|backup| backup.id.clone())),
        ("target", Some(record.target.asked.clone())),
        ("recovery_s", record.recovery.as_ref().map(|recovery| Seconds(recovery.total_ms).to_string())),
        ("barback", Some(place.barback.clone())),
        ("postgresql", place.postgresql.clone()),
    ];
    let lines = known.iter().filter_map(|(name, value)| {
        Some(format!("      <property name=\"{name}\" value=\"{}\"/>\n", Escaped(value.as_ref()?)))
    });
    format!("    <properties>\n{}    </properties>\n", lines.collect::<String>())
}

fn cases(record: &DrillRecord) -> Vec<Case> {
    let mut cases: Vec<Case> = STAGES.iter().map(|(name, phases)| stage(record, name, phases)).collect();
    cases.extend(record.checks.iter().map(check_case));
    // A verdict that no case explains is a case of its own, so that the suite is never better than the drill.
    let has = |is: fn(&Outcome) -> bool| cases.iter().any(|case| is(&case.outcome));
    let is_told = match record.verdict {
        Verdict::Pass => true,
        Verdict::Fail => has(|outcome| matches!(outcome, Outcome::Failed(_))),
        Verdict::Inconclusive => has(|outcome| matches!(outcome, Outcome::Inconclusive(_))),
    };
    if !is_told {
        let outcome = judged(record.verdict, reason(record));
        cases.push(Case { class: "drill", name: "drill".to_owned(), took_ms: 0, outcome, said: String::new() });
    }
    cases
}

fn stage(record: &DrillRecord, name: &str, phases: &[&str]) -> Case {
    let of_it = |phase: &str| phases.contains(&phase);
    let took_ms = record.phases.iter().filter(|phase| of_it(&phase.name)).map(|phase| phase.took_ms).sum();
    let is_begun = record.phases.iter().any(|phase| of_it(&phase.name));
    let outcome = if culprit(record).is_some_and(of_it) {
        judged(record.verdict, reason(record))
    } else if is_begun {
        Outcome::Passed
    } else if record.verdict == Verdict::Pass || (phases.contains(&"replay") && record.level < DrillLevel::Recovery) {
        Outcome::Skipped(format!("a drill of level {} does not do this", record.level))
    } else {
        Outcome::Skipped("the drill did not get so far".to_owned())
    };
    let said = if phases.contains(&"replay") { proof(record) } else { String::new() };
    Case { class: "drill", name: name.to_owned(), took_ms, outcome, said }
}

/// The phase in which a drill ended that did not pass, where no check is the reason: the last one that was begun, but for putting
/// things away.
fn culprit(record: &DrillRecord) -> Option<&str> {
    let is_of_check = record.checks.iter().any(|check| check.outcome.verdict() == record.verdict);
    if record.verdict == Verdict::Pass || is_of_check {
        return None;
    }
    let work = record.phases.iter().filter(|phase| !matches!(phase.name.as_str(), "stop" | "clean up"));
    work.max_by_key(|phase| phase.began_ms).map(|phase| phase.name.as_str())
}

fn judged(verdict: Verdict, why: String) -> Outcome {
    match verdict {
        Verdict::Pass => Outcome::Passed,
        Verdict::Fail => Outcome::Failed(why),
        Verdict::Inconclusive => Outcome::Inconclusive(why),
    }
}

fn reason(record: &DrillRecord) -> String {
    let hint = record.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
    format!("{}{hint}", record.reason.as_deref().unwrap_or("no reason is on record"))
}

fn proof(record: &DrillRecord) -> String {
    let Some(proof) = &record.proof else { return String::new() };
    let lines = [
        proof.postgresql_said.clone(),
        proof.replay_lsn.as_ref().map(|lsn| format!("replayed to LSN {lsn}")),
        proof.last_replayed.map(|time| format!("last commit replayed: {}", utc(time))),
        proof.next_commit.map(|time| format!("next commit in the archive: {}", utc(time))),
    ];
    lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn check_case(check: &DrillCheck) -> Case {
    let part = |label: &str, text: &Option<String>| text.as_ref().map(|text| format!("{label}{text}"));
    let parts = [part("expected: ", &check.expected), part("found: ", &check.found), part("", &check.detail)];
    let said = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    let outcome = match check.outcome {
        CheckOutcome::Pass | CheckOutcome::Notice => Outcome::Passed,
        CheckOutcome::Fail => Outcome::Failed(said.clone()),
        CheckOutcome::Inconclusive => Outcome::Inconclusive(said.clone()),
        CheckOutcome::Skipped => Outcome::Skipped(said.clone()),
    };
    let said = if outcome == Outcome::Passed { said } else { String::new() };
    let name = check.database.as_ref().map_or(check.name.clone(), |database| format!("{} ({database})", check.name));
    Case { class: "checks", name, took_ms: check.took_ms, outcome, said }
}

fn case_xml(case: &Case) -> String {
    let head = format!(
        "    <testcase classname=\"barback.{}\" name=\"{}\" time=\"{}\"",
        case.class,
        Escaped(&case.name),
        Seconds(case.took_ms)
    );
    let inside = match &case.outcome {
        Outcome::Passed => String::new(),
        Outcome::Failed(why) => format!("      <failure message=\"{}\"/>\n", Escaped(why)),
        Outcome::Inconclusive(why) => format!("      <error message=\"{}\"/>\n", Escaped(why)),
        Outcome::Skipped(why) => format!("      <skipped message=\"{}\"/>\n", Escaped(why)),
    };
    let said: Vec<String> = case.said.lines().map(|line| Escaped(line).to_string()).collect();
    let said =
        if said.is_empty() { String::new() } else { format!("      <system-out>{}</system-out>\n", said.join("\n")) };
    match format!("{inside}{said}") {
        nothing if nothing.is_empty() => format!("{head}/>\n"),
        inside => format!("{head}>\n{inside}    </testcase>\n"),
    }
}
