//! The page of a drill in a real browser: it renders, asks nobody for anything, and looks as it should; pictures stay in `target/drill-report`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::{Path, PathBuf};

use barback::cli::output::drill::{html, junit, report_files};
use barback::commands::drill_records::DrillHistory;
use barback::domain::drill::{CheckOutcome, DrillLevel};
use barback::domain::verification::Verdict;
use barback::layout::drill_chain::{DrillChain, DrillLink};
use barback::layout::drill_record::{DrillRecord, RecoveryTime};
use chrono::Months;

use crate::drill_history::example;
use crate::harness::Chromium;

/// What its owner would rather not have in a page.
const HOSTILE: &str = "\"'><script>document.title='taken'</script><img src=http://192.0.2.1/x.png><style>@import 'http://192.0.2.1/x.css'";

/// Wide enough for everything beside each other, and a phone.
const DESKTOP: (u32, u32) = (1200, 2900);
const PHONE: (u32, u32) = (390, 4800);

fn failed() -> DrillRecord {
    let mut record = example();
    let check = record.checks.iter_mut().find(|check| check.kind == "sql").unwrap();
    check.outcome = CheckOutcome::Fail;
    check.found = Some("0".to_owned());
    DrillRecord {
        verdict: Verdict::Fail,
        reason: Some("check \"orders are there\" found 0, at least 48000000 were expected".to_owned()),
        hint: Some(
            "look whether the table was empty at that time in the source; else take a new base backup and drill that"
                .to_owned(),
        ),
        ..record
    }
}

fn inconclusive() -> DrillRecord {
    let mut record = example();
    record.phases.truncate(2);
    record.checks.clear();
    DrillRecord {
        verdict: Verdict::Inconclusive,
        reason: Some(
            "there was no room for the cluster: 120 GiB are needed in \"/srv/drill\", 38.2 GiB are free".to_owned(),
        ),
        hint: Some("give another directory with --workdir".to_owned()),
        proof: None,
        recovery: None,
        ..record
    }
}

/// One drill a quarter before this one, growing slower, with one that failed and one that proved nothing.
fn earlier() -> DrillHistory {
    let last = example();
    let own = last.sequence.unwrap();
    let records: Vec<DrillRecord> = (1..own)
        .map(|number| {
            let months = Months::new(u32::try_from(own - number).unwrap() * 3);
            let (started, ended) = (last.started - months, last.ended - months);
            let mut record = match number {
                4 => DrillRecord { started, ended, ..failed() },
                7 => DrillRecord { started, ended, ..inconclusive() },
                9 => DrillRecord { level: DrillLevel::Bytes, recovery: None, started, ended, ..example() },
                _ => DrillRecord { started, ended, ..example() },
            };
            record.sequence = Some(number);
            record.recovery = record.recovery.map(|time| RecoveryTime {
                total_ms: 480_000 + number * 88_000 + number % 3 * 40_000,
                objective_ms: Some(if number < 6 { 1_200_000 } else { 1_800_000 }),
                ..time
            });
            record
        })
        .collect();
    let mut links = Vec::new();
    for record in &records {
        let previous_sha256 = record.sequence.filter(|number| *number > 1).map(|number| format!("{}", number - 1));
        let record = DrillRecord { previous_sha256, ..record.clone() };
        let sequence = record.sequence.unwrap();
        links.push(DrillLink { sequence, sha256: Some(sequence.to_string()), record: Ok(record) });
    }
    DrillHistory { records, chain: DrillChain::of(&links) }
}

fn hostile() -> DrillRecord {
    let mut record = failed();
    HOSTILE.clone_into(&mut record.place.server);
    HOSTILE.clone_into(&mut record.place.store);
    record.reason = Some(HOSTILE.to_owned());
    record.hint = Some(HOSTILE.to_owned());
    HOSTILE.clone_into(&mut record.target.asked);
    record.notes.push(HOSTILE.to_owned());
    for phase in &mut record.phases {
        HOSTILE.clone_into(&mut phase.name);
        phase.shares.iter_mut().for_each(|share| HOSTILE.clone_into(&mut share.name));
    }
    for check in &mut record.checks {
        HOSTILE.clone_into(&mut check.name);
        check.found = Some(HOSTILE.to_owned());
        check.detail = Some(HOSTILE.to_owned());
    }
    record.proof.as_mut().unwrap().postgresql_said = Some(HOSTILE.to_owned());
    record
}

/// Keeps what was seen, to be looked at by eye.
fn keep(name: &str, content: impl AsRef<[u8]>) {
    let dir: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("drill-report");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), content).unwrap();
}

/// PNG's width and height, and how many bytes the picture has: a blank one has few.
fn measure(png: &[u8]) -> (u32, u32, usize) {
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20), png.len())
}

#[test]
fn the_page_renders_and_asks_nobody_for_anything() {
    let Some(browser) = Chromium::start() else { return };
    // What the proxy would see of a page that asks for something.
    browser.dom("<!DOCTYPE html><p><img src=\"http://192.0.2.1/x.png\"><img src=\"http://127.0.0.1:9/x.png\">");
    let control = browser.asked();
    assert!(control > 0, "the proxy sees nothing, so that it proves nothing");

    let history = earlier();
    for (name, record, verdict) in [
        ("pass", example(), "Passed"),
        ("fail", failed(), "Failed"),
        ("inconclusive", inconclusive(), "Inconclusive"),
        ("hostile", hostile(), "Failed"),
    ] {
        let page = html(&record, Some(&history));
        keep(&format!("{name}.html"), &page);
        let dom = browser.dom(&page);
        assert!(dom.contains(&format!("<title>{verdict}: recovery drill of ")), "{name}: {dom}");
        assert!(dom.contains("</span>Passed</h1>") == (verdict == "Passed"), "{name}");
        assert!(dom.contains("aria-label=\"Timeline: "), "{name}: the chart of the phases is missing");
        assert!(
            dom.contains("aria-label=\"Recovery time of 12 drills\""),
            "{name}: the chart of earlier drills is missing"
        );
        for element in ["<script", "<img", "<link", "<iframe", "<object"] {
            assert!(!dom.contains(element), "{name}: {element}");
        }
        let picture = browser.screenshot(&page, DESKTOP, &[]);
        let (width, height, bytes) = measure(&picture);
        assert_eq!((width, height), DESKTOP, "{name}");
        assert!(bytes > 50_000, "{name}: the picture has {bytes} bytes, as if nothing were on it");
        keep(&format!("{name}.png"), picture);
    }
    assert_eq!(browser.asked(), control, "a page asked for something");
}

#[test]
fn the_page_fits_a_phone_the_dark_and_paper() {
    let Some(browser) = Chromium::start() else { return };
    let page = html(&example(), Some(&earlier()));
    keep("phone.png", browser.screenshot(&page, PHONE, &[]));
    keep("dark.png", browser.screenshot(&page, DESKTOP, &["--blink-settings=preferredColorScheme=0"]));
    let paper = browser.pdf(&page);
    assert!(paper.starts_with(b"%PDF-"));
    keep("pass.pdf", &paper);
    let sheets = paper.windows(12).filter(|bytes| bytes.starts_with(b"/Type /Page\n")).count();
    assert!(sheets <= 4, "{sheets} sheets of paper");
    keep("fail.pdf", browser.pdf(&html(&failed(), Some(&earlier()))));
}

#[test]
fn the_test_results_are_xml_whatever_the_names_are() {
    for record in [example(), failed(), inconclusive(), hostile()] {
        let xml = junit(&record);
        let mut reader = quick_xml::Reader::from_str(&xml);
        let mut seen = std::collections::BTreeMap::<String, usize>::new();
        let mut promised = Vec::new();
        loop {
            match reader.read_event().unwrap_or_else(|error| panic!("{error} in\n{xml}")) {
                quick_xml::events::Event::Eof => break,
                quick_xml::events::Event::Start(tag) | quick_xml::events::Event::Empty(tag) => {
                    let name = String::from_utf8(tag.name().as_ref().to_vec()).unwrap();
                    for attribute in tag.attributes() {
                        let attribute = attribute.unwrap_or_else(|error| panic!("{error} in\n{xml}"));
                        let key = String::from_utf8(attribute.key.as_ref().to_vec()).unwrap();
                        if name == "testsuite" {
                            promised.push((key, String::from_utf8(attribute.value.to_vec()).unwrap()));
                        }
                    }
                    *seen.entry(name).or_default() += 1;
                }
                _ => {}
            }
        }
        for (count, element) in
            [("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")]
        {
            let promised = &promised.iter().find(|(key, _)| key == count).unwrap().1;
            assert_eq!(*promised, seen.get(element).copied().unwrap_or(0).to_string(), "{element} in\n{xml}");
        }
    }
    let [json, ..] = report_files(&example(), None).unwrap();
    assert_eq!(json, ("drill.json", example().to_json().unwrap()));
}
