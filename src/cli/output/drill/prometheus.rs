//! The last drill as metrics, in a file of its own; `docs/drill-reports.md` lists them.

use super::super::metrics::Page;
use super::markup::Seconds;
use crate::domain::drill::CheckOutcome;
use crate::layout::drill_record::DrillRecord;

/// The text of `drill.prom`, every metric a gauge with the label `server`.
///
/// Their names are not those of `status --metrics`, which knows of drills of other hosts too: the node exporter takes no metric from
/// two files.
#[must_use]
pub fn prometheus(record: &DrillRecord) -> String {
    let mut page = Page::of(&record.place.server);
    page.single("drill_run_timestamp_seconds", "When this drill ended", record.ended.timestamp());
    page.family("drill_run_verdict", "What it came to: 1 for its verdict, 0 for the others");
    for verdict in ["pass", "fail", "inconclusive"] {
        page.sample(&[("verdict", verdict)], u8::from(record.verdict.to_string() == verdict));
    }
    page.single("drill_run_level", "How far it went, 1 to 3", record.level);
    let duration = (record.ended - record.started).num_milliseconds();
    page.single("drill_run_duration_seconds", "How long it took", Seconds(u64::try_from(duration).unwrap_or(0)));
    phases(&mut page, record);
    recovery(&mut page, record);
    page.family("drill_run_checks", "Checks by what they came to");
    for outcome in [
        CheckOutcome::Pass,
        CheckOutcome::Fail,
        CheckOutcome::Inconclusive,
        CheckOutcome::Notice,
        CheckOutcome::Skipped,
    ] {
        let count = record.checks.iter().filter(|check| check.outcome == outcome).count();
        page.sample(&[("outcome", &outcome.to_string())], count);
    }
    if let Some(peak) = record.peak_memory_bytes {
        page.single("drill_run_peak_memory_bytes", "The most memory that barback took", peak);
    }
    page.into_text()
}

fn phases(page: &mut Page, record: &DrillRecord) {
    // A phase of one name is one sample, however often it was gone through.
    let mut names: Vec<&str> = Vec::new();
    for phase in &record.phases {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    let of = |name: &str| record.phases.iter().filter(move |phase| phase.name == name).collect::<Vec<_>>();
    if !names.is_empty() {
        page.family("drill_run_phase_seconds", "How long each phase took");
    }
    for name in &names {
        page.sample(&[("phase", name)], Seconds(of(name).iter().map(|phase| phase.took_ms).sum()));
    }
    let moving: Vec<_> = names
        .iter()
        .filter_map(|name| Some((name, of(name).iter().filter_map(|phase| phase.bytes).reduce(u64::saturating_add)?)))
        .collect();
    if !moving.is_empty() {
        page.family("drill_run_phase_bytes", "What went through each phase");
    }
    for (name, bytes) in moving {
        page.sample(&[("phase", name)], bytes);
    }
}

fn recovery(page: &mut Page, record: &DrillRecord) {
    let Some(recovery) = &record.recovery else { return };
    let help = "From the beginning to a server that takes connections";
    page.single("drill_run_recovery_seconds", help, Seconds(recovery.total_ms));
    for (name, help, millis) in [
        ("drill_run_objective_seconds", "How long recovery may take", recovery.objective_ms),
        (
            "drill_run_worst_case_seconds",
            "How long recovery would take just before the next base backup",
            recovery.worst_case_ms,
        ),
        ("drill_run_starved_seconds", "How long replay waited for WAL", Some(recovery.starved_ms)),
    ] {
        if let Some(millis) = millis {
            page.single(name, help, Seconds(millis));
        }
    }
    page.single("drill_run_replayed_bytes", "WAL that was replayed", recovery.replayed_bytes);
    if let Some(rate) = recovery.replay_bytes_per_s {
        page.single("drill_run_replay_bytes_per_second", "How fast it was replayed", rate);
    }
}
