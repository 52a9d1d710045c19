//! What `check` prints: one line for each finding, the worst of each group first.

use std::io::Write;

use serde::Serialize;

use super::status_view::FindingView;
use super::{Style, clean, emit, emit_json};
use crate::cli::invocation::{OutputFormat, StoreSettings};
use crate::commands::check::CheckReport;
use crate::domain::finding::{Finding, Severity};
use crate::domain::measure::count_of;
use crate::error::Result;

/// A finding and what it is about.
#[derive(Serialize)]
struct Grouped {
    group: &'static str,
    #[serde(flatten)]
    finding: FindingView,
}

#[derive(Serialize)]
struct CheckView<'a> {
    store: &'a str,
    server: &'a str,
    /// The worst word of all.
    verdict: &'static str,
    problems: usize,
    warnings: usize,
    unknown: usize,
    findings: Vec<Grouped>,
}

#[derive(Serialize)]
struct Document<'a> {
    check: CheckView<'a>,
}

/// Prints the findings of a check.
pub fn check(out: &mut dyn Write, style: Style, store: &StoreSettings, report: &CheckReport) -> Result<()> {
    let groups = [("store", &report.store), ("server", &report.server), ("archive", &report.archive)];
    match style.format {
        OutputFormat::Json => emit_json(out, &Document { check: view(store, report, groups) }),
        OutputFormat::Text => {
            let mut text = format!("{}, server \"{}\"\n", clean(&store.url), clean(&store.server));
            for (group, findings) in groups.iter().filter(|(_, findings)| !findings.is_empty()) {
                text.extend(["\n", &group.to_uppercase(), "\n"]);
                for finding in *findings {
                    text += &line(finding);
                }
            }
            text.extend(["\n", &summary(report), "\n"]);
            emit(out, text.as_bytes())
        }
    }
}

fn view<'a>(
    store: &'a StoreSettings,
    report: &CheckReport,
    groups: [(&'static str, &'a Vec<Finding>); 3],
) -> CheckView<'a> {
    let findings = groups
        .into_iter()
        .flat_map(|(group, findings)| findings.iter().map(move |finding| Grouped { group, finding: finding.into() }));
    let worst = groups.iter().flat_map(|(_, findings)| findings.iter().map(|finding| finding.severity)).min();
    CheckView {
        store: &store.url,
        server: &store.server,
        verdict: worst.unwrap_or(Severity::Good).word(),
        problems: report.count(Severity::Problem),
        warnings: report.count(Severity::Warning),
        unknown: report.count(Severity::Unknown),
        findings: findings.collect(),
    }
}

/// `problem  what; why. Next: what to type`
fn line(finding: &Finding) -> String {
    /// The longest word of a severity.
    const WIDTH: usize = 7;
    let Finding { severity, what, why, next, .. } = finding;
    let mut text = format!("  {:WIDTH$}  {}", severity.word(), clean(what));
    if !why.is_empty() {
        text.extend(["; ", &clean(why)]);
    }
    if let Some(next) = next {
        text.extend([". Next: ", &clean(next)]);
    }
    text + "\n"
}

fn summary(report: &CheckReport) -> String {
    let count = |severity, noun| {
        Some(report.count(severity) as u64).filter(|count| *count > 0).map(|count| count_of(count, noun))
    };
    let unknown = report.count(Severity::Unknown);
    let parts = [
        count(Severity::Problem, "problem"),
        count(Severity::Warning, "warning"),
        (unknown > 0).then(|| format!("{unknown} unknown")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "All is well".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;
    use crate::cli::invocation::AddressingStyle;
    use crate::cli::zone::Zone;

    fn printed(format: OutputFormat, report: &CheckReport) -> String {
        let store = StoreSettings {
            url: "s3://bkt/pfx".to_owned(),
            server: "main".to_owned(),
            endpoint_url: None,
            addressing_style: AddressingStyle::Auto,
            aws_profile: None,
            region: None,
            ca_bundle: None,
            retry_timeout_s: 60,
            readable_credentials: crate::store::ReadableByOthers::Refuse,
            read_timeout_s: None,
            tags: Vec::new(),
            encryption: None,
            azure_credential: None,
            cache_dir: None,
        };
        let zone = Zone::Fixed(FixedOffset::east_opt(0).unwrap());
        let mut out = Vec::new();
        check(&mut out, Style { format, zone, charts: false }, &store, report).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn report() -> CheckReport {
        CheckReport {
            is_store_reached: true,
            store: vec![Finding::good("store-reachable", "s3://bkt/pfx answers")],
            server: vec![
                Finding::new(Severity::Problem, "archive-mode", "archive_mode is off", "no WAL is archived")
                    .with_next("ALTER SYSTEM SET archive_mode = 'on'"),
                Finding::new(Severity::Unknown, "host-unknown", "no \u{1b}[2Jdirectory", "it is not checked"),
            ],
            archive: Vec::new(),
        }
    }

    #[test]
    fn each_finding_is_one_line_with_the_word_first_and_what_to_type_last() {
        assert_eq!(
            printed(OutputFormat::Text, &report()),
            "\
s3://bkt/pfx, server \"main\"

STORE
  ok       s3://bkt/pfx answers

SERVER
  problem  archive_mode is off; no WAL is archived. Next: ALTER SYSTEM SET archive_mode = 'on'
  unknown  no \u{fffd}[2Jdirectory; it is not checked

1 problem, 1 unknown
"
        );
        let well = CheckReport { server: Vec::new(), ..report() };
        assert!(printed(OutputFormat::Text, &well).ends_with("\nAll is well\n"));
    }

    #[test]
    fn programs_get_every_field() {
        let document: serde_json::Value = serde_json::from_str(&printed(OutputFormat::Json, &report())).unwrap();
        assert_eq!(document["schema"], 1);
        let check = &document["check"];
        assert_eq!((&check["verdict"], &check["problems"]), (&"problem".into(), &1.into()));
        let finding = &check["findings"][1];
        assert_eq!(finding["group"], "server");
        assert_eq!(finding["severity"], "problem");
        assert_eq!(finding["code"], "archive-mode");
        assert_eq!(finding["what"], "archive_mode is off");
        assert_eq!(finding["why"], "no WAL is archived");
        assert_eq!(finding["next"], "ALTER SYSTEM SET archive_mode = 'on'");
        assert_eq!(check["findings"][0]["next"], serde_json::Value::Null);
    }
}
