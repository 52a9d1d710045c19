//! What the reports of a drill say, whatever came of it and whoever chose the names in it.

use super::*;
use crate::layout::drill_chain::{DrillChain, DrillLink};
use crate::layout::drill_record::{DrillCheck, example};

fn plainly() -> Style {
    Style { format: OutputFormat::Text, zone: universal(), charts: false }
}

fn failed() -> DrillRecord {
    let mut record = example();
    record.checks[4] =
        DrillCheck { outcome: CheckOutcome::Fail, found: Some("0".to_owned()), ..record.checks[4].clone() };
    DrillRecord {
        verdict: Verdict::Fail,
        reason: Some("check \"orders are there\" found 0, at least 48000000 were expected".to_owned()),
        hint: Some("look into the table \"orders\" of the source".to_owned()),
        ..record
    }
}

/// The download broke off.
fn inconclusive() -> DrillRecord {
    let mut record = example();
    record.phases.truncate(2);
    DrillRecord {
        verdict: Verdict::Inconclusive,
        reason: Some("the store did not answer for 60 s".to_owned()),
        hint: None,
        proof: None,
        recovery: None,
        checks: Vec::new(),
        ..record
    }
}

/// Every text in it is made of what somebody could do harm with.
fn hostile() -> DrillRecord {
    let mut json = serde_json::to_value(failed()).unwrap();
    spoil(&mut json);
    serde_json::from_value(json).unwrap()
}

/// Puts it in place of every text that may be any.
fn spoil(value: &mut serde_json::Value) {
    const BAD: &str = "</style></title><script>alert(1)</script><img/onerror=x>&\"'\u{1b}[2J\n\u{202e}";
    const KEPT: [&str; 7] = ["started", "verdict", "last_passed", "outcome", "time", "last_replayed", "next_commit"];
    match value {
        serde_json::Value::String(text) => BAD.clone_into(text),
        serde_json::Value::Array(values) => values.iter_mut().for_each(spoil),
        serde_json::Value::Object(fields) => {
            let others = fields.iter_mut().filter(|(name, _)| *name != "ended" && !KEPT.contains(&name.as_str()));
            others.for_each(|(_, value)| spoil(value));
        }
        _ => {}
    }
}

fn history_of(records: Vec<DrillRecord>) -> DrillHistory {
    let link = |record: &DrillRecord| DrillLink {
        sequence: record.sequence.unwrap(),
        sha256: record.previous_sha256.clone(),
        record: Ok(record.clone()),
    };
    let chain = DrillChain::of(&records.iter().map(link).collect::<Vec<_>>());
    DrillHistory { records, chain }
}

#[test]
fn the_summary_begins_with_the_verdict_why_and_what_to_do() {
    let pass = summary(plainly(), &example());
    assert!(
        pass.starts_with("PASSED  Backup 20261123T083817 was restored, and a server was recovered from it, and"),
        "{pass}"
    );
    for words in [
        "drill        number 12, level 3 (a recovered server), 2026-11-24 03:15:00 UTC, 34 min 22 s\n",
        "target       2026-11-23 17:03:11.500000 UTC (drawn at random, seed 8151623042)\n",
        "last commit  2026-11-23 17:03:11.094417 UTC\n",
        "recovery     25 min 46 s of the 30 min 00 s it may take; most of it: store\n",
        "fetch        18 min 12 s  41.3 GiB  38.7 MiB/s\n",
        "checks: 5 pass, 1 notice, 1 skipped\n",
        "note: pg_cron was left out",
        "To keep 30 min 00 s, take a base backup every 14 h 06 min.\n",
    ] {
        assert!(pass.contains(words), "{words:?} is not in\n{pass}");
    }
    let fail = summary(plainly(), &failed());
    assert!(
        fail.starts_with("FAILED  Check \"orders are there\" found 0, at least 48000000 were expected.\ndo: look into"),
        "{fail}"
    );
    let late = DrillRecord {
        recovery: example()
            .recovery
            .map(|time| crate::layout::drill_record::RecoveryTime { objective_ms: Some(60_000), ..time }),
        ..example()
    };
    assert!(summary(plainly(), &late).contains("25 min 46 s, LONGER than the 1 min 00 s it may take"));
}

#[test]
fn bars_are_drawn_for_terminals_and_show_when_a_phase_ran() {
    assert!(!summary(plainly(), &example()).contains('█'));
    let drawn = summary(Style { charts: true, ..plainly() }, &example());
    let replay = drawn.lines().find(|line| line.starts_with("replay ")).unwrap();
    let before = replay.split("MiB/s").nth(1).unwrap().chars().take_while(|c| *c == ' ').count();
    assert!((20..30).contains(&before), "{replay}");
    assert!(drawn.lines().find(|line| line.starts_with("stop ")).unwrap().ends_with('▏'), "{drawn}");
}

#[test]
fn nothing_in_any_report_is_markup_that_somebody_else_wrote() {
    let record = hostile();
    let history = history_of(vec![DrillRecord { sequence: Some(1), ..record.clone() }]);
    for text in [html(&record, Some(&history)), junit(&record)] {
        for word in ["<script", "<img", "</style></title>", "\u{1b}", "\u{202e}"] {
            assert!(!text.contains(word), "{word:?} is in\n{text}");
        }
        assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    }
    let screen = summary(plainly(), &record);
    assert!(!screen.contains('\u{1b}'), "{screen}");
    for line in prometheus(&record).lines() {
        assert!(line.starts_with("# ") || line.starts_with("barback_drill_run_"), "{line}");
    }
}

#[test]
fn the_page_asks_nothing_of_anybody() {
    let page = html(&example(), Some(&history_of(vec![example()])));
    for word in ["http:", "https:", "src=", "href=", "@import", "url(", "<script", "<link", "<img", "<iframe"] {
        assert!(!page.contains(word), "{word:?} is in the page");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(!page.contains("How a drill's report looks"), "the style sheet's first comment is for us");
}

#[test]
fn the_page_says_the_verdict_in_words_and_what_follows_from_it() {
    let page = html(&example(), None);
    for words in [
        "<title>Passed: recovery drill of main, 2026-11-24</title>",
        "25 min 46 s",
        "within the objective",
        "<svg class=\"plot\"",
    ] {
        assert!(page.contains(words), "{words:?} is not in\n{page}");
    }
    let page = html(&failed(), None);
    assert!(
        page.contains("The backup or the archive is at fault.")
            && page.contains("<b>What to do</b> Look into the table")
    );
    let page = html(&inconclusive(), None);
    assert!(page.contains("which says nothing about the backup.") && page.contains("was not reached in this drill"));
}

#[test]
fn the_page_shows_earlier_drills_and_a_broken_chain() {
    let number = |sequence, verdict| DrillRecord {
        sequence: Some(sequence),
        verdict,
        previous_sha256: None,
        reason: Some("why".to_owned()),
        ..example()
    };
    let record = example();
    let history = history_of(vec![
        number(10, Verdict::Pass),
        number(11, Verdict::Fail),
        record.clone(),
        number(13, Verdict::Pass),
    ]);
    let page = html(&record, Some(&history));
    assert!(page.contains("Recovery time of 3 drills"), "later ones are none of its business");
    assert!(page.contains("The chain is broken") && page.contains("records 1 to 9 are missing"));
    let first =
        html(&DrillRecord { sequence: Some(1), previous_sha256: None, ..record }, Some(&history_of(Vec::new())));
    assert!(first.contains("This is the first drill on record."));
    let unrecorded = html(&DrillRecord { sequence: None, ..example() }, None);
    assert!(unrecorded.contains("not recorded in the store") && unrecorded.contains("could not be read"));
}

#[test]
fn a_drill_of_which_little_is_known_has_all_reports() {
    let bare = DrillRecord {
        sequence: None,
        backup: None,
        proof: None,
        phases: Vec::new(),
        checks: Vec::new(),
        recovery: None,
        notes: Vec::new(),
        peak_memory_bytes: None,
        level: DrillLevel::Names,
        verdict: Verdict::Inconclusive,
        reason: None,
        target: crate::layout::drill_record::DrillTarget::default(),
        ..example()
    };
    let [json, page, xml, metrics] = report_files(&bare, None).unwrap();
    assert_eq!(json.1, bare.to_json().unwrap());
    assert!(page.1.contains("Inconclusive") && !page.1.contains("<svg"));
    assert!(xml.1.contains("errors=\"1\"") && xml.1.contains("name=\"drill\""), "{}", xml.1);
    assert!(metrics.1.contains("barback_drill_run_verdict{server=\"main\",verdict=\"inconclusive\"} 1\n"));
}

#[test]
fn junit_names_what_failed_what_nobody_knows_and_what_was_not_done() {
    let pass = junit(&example());
    assert!(
        pass.contains("<testsuite name=\"drill of main\" tests=\"10\" failures=\"0\" errors=\"0\" skipped=\"1\""),
        "{pass}"
    );
    assert!(pass.contains("<testcase classname=\"barback.drill\" name=\"restore\" time=\"1129.470\"/>"), "{pass}");
    assert!(pass.contains("recovery stopping before commit of transaction 8214377"));
    let fail = junit(&failed());
    assert!(fail.contains("failures=\"1\" errors=\"0\""), "{fail}");
    assert!(fail.contains("<failure message=\"expected: at least 48000000; found: 0\"/>"), "{fail}");
    let unsure = junit(&inconclusive());
    assert!(unsure.contains("tests=\"3\" failures=\"0\" errors=\"1\" skipped=\"1\""), "{unsure}");
    let restore = unsure.split("name=\"restore\"").nth(1).unwrap();
    assert!(restore.contains("<error message=\"the store did not answer for 60 s\"/>"), "{unsure}");
    assert!(unsure.contains("the drill did not get so far"));
}

#[test]
fn every_metric_of_a_drill_is_on_its_page_and_none_is_of_status() {
    let text = prometheus(&example());
    let page = include_str!("../../../../docs/drill-reports.md");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 10, "{text}");
    for name in &names {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not documented");
    }
    let documented = page.lines().filter_map(|line| line.strip_prefix("| `barback_")?.split('`').next());
    for name in documented {
        assert!(names.contains(&format!("barback_{name}").as_str()), "{name} is not printed");
    }
    assert!(!include_str!("../../../../docs/metrics.md").contains("drill_run_"));
    assert!(text.contains("barback_drill_run_phase_seconds{server=\"main\",phase=\"fetch\"} 1092.160\n"), "{text}");
    assert!(text.contains("barback_drill_run_checks{server=\"main\",outcome=\"pass\"} 5\n"), "{text}");
    assert!(text.contains("barback_drill_run_recovery_seconds{server=\"main\"} 1546.440\n"), "{text}");
}

#[test]
fn a_target_in_the_wal_is_proved_by_its_place_and_one_that_was_passed_is_no_proof() {
    let mut record = example();
    record.target.asked = "lsn 1E/71A4E7F0".to_owned();
    (record.target.time, record.target.seed, record.target.lsn) = (None, None, Some("1E/71A4E7F0".to_owned()));
    let page = html(&record, None);
    assert!(page.contains("<b>Replayed up to</b>") && !page.contains("Last commit replayed"), "{page}");
    assert!(page.contains("the proof that it was met"));
    let mut record = example();
    record.proof.as_mut().unwrap().last_replayed = record.target.time.map(|time| time + chrono::TimeDelta::seconds(2));
    let page = html(&record, None);
    assert!(page.contains("what was reached") && page.contains("2.0 s after the target"), "{page}");
    let mut record = example();
    let proof = record.proof.as_mut().unwrap();
    (proof.next_commit, proof.next_commit_lsn) = (None, None);
    assert!(html(&record, None).contains("there is none"));
}
