//! The state of an archive as Prometheus text; the names are promised in `docs/metrics.md`.

use std::io::Write;

use chrono::{DateTime, Utc};

use super::emit;
use super::status_view::StatusView;
use crate::domain::finding::Severity;
use crate::error::Result;

/// Prints `view` as metrics, every one a gauge with the label `server`.
///
/// Times are seconds since 1970, 0 for "never", as `CloudNativePG` has them; beside each stands its age, for evaluators that
/// have no clock. What is not known is left out.
pub fn metrics(out: &mut dyn Write, view: &StatusView) -> Result<()> {
    let mut page = Page::of(&view.server);
    recovery(&mut page, view);
    backups(&mut page, view);
    verifications(&mut page, view);
    drill(&mut page, view);
    wal(&mut page, view);
    page.family("stored_bytes", "Bytes below the server's prefix in the store");
    let other = view.stored.total_bytes - view.stored.backup_bytes - view.stored.wal_bytes;
    for (kind, bytes) in [("backup", view.stored.backup_bytes), ("wal", view.stored.wal_bytes), ("other", other)] {
        page.sample(&[("kind", kind)], bytes);
    }
    host(&mut page, view);
    page.family("findings", "What status has to say, by severity");
    for severity in [Severity::Problem, Severity::Warning, Severity::Unknown] {
        let of_it = view.findings.iter().filter(|finding| finding.severity == severity.word()).count();
        page.sample(&[("severity", severity.word())], of_it);
    }
    emit(out, page.into_text().as_bytes())
}

fn recovery(page: &mut Page, view: &StatusView) {
    let recovery = view.recovery.as_ref();
    page.single(
        "first_recoverability_point_timestamp_seconds",
        "The first moment that can be recovered to along the latest timeline without a gap to its end; 0 when there is none",
        seconds(recovery.map(|recovery| recovery.from_time.as_str())),
    );
    page.single(
        "last_recoverability_point_timestamp_seconds",
        "When the last WAL segment in reach was stored; 0 when there is none",
        seconds(recovery.and_then(|recovery| recovery.to_time.as_deref())),
    );
    if let Some(window) = recovery.and_then(|recovery| recovery.window_s) {
        page.single("recovery_window_seconds", "From the first moment that can be recovered to, to the last", window);
    }
    if let Some(rpo) = recovery.and_then(|recovery| recovery.rpo_s) {
        page.single("rpo_seconds", "Age of the last WAL segment in reach: work lost with the server is no older", rpo);
    }
}

fn backups(page: &mut Page, view: &StatusView) {
    let backups = &view.backups;
    let last = backups.last.as_ref();
    page.single(
        "last_available_backup_timestamp_seconds",
        "When the last restorable backup ended; 0 when there is none",
        seconds(last.and_then(|last| last.end_time.as_deref())),
    );
    if let Some(age) = last.and_then(|last| last.age_s) {
        page.single("backup_since_last_completion_seconds", "Age of the last restorable backup", age);
    }
    if let Some(took) = last.and_then(|last| last.duration_s) {
        page.single("backup_last_duration_seconds", "How long the last restorable backup took", took);
    }
    if let Some(last) = last {
        page.single(
            "backup_last_stored_bytes",
            "What the last restorable backup comes to in the store",
            last.stored_bytes,
        );
    }
    page.single(
        "last_failed_backup_timestamp_seconds",
        "When the last failed backup was begun; 0 when there is none",
        seconds(backups.last_failed.as_deref()),
    );
    page.family("backups", "Base backups by what they are good for");
    for (state, count) in [
        ("restorable", backups.restorable),
        ("unusable", backups.unusable),
        ("failed", backups.failed),
        ("running", backups.running),
        ("kept", backups.kept),
    ] {
        page.sample(&[("state", state)], count);
    }
}

fn verifications(page: &mut Page, view: &StatusView) {
    for (name, help) in [
        ("verify_last_pass_timestamp_seconds", "When a backup last passed verification; 0 when none did"),
        ("verify_last_fail_timestamp_seconds", "When verification last found damage in a backup; 0 when it did not"),
    ] {
        let verdict = if name.contains("pass") { "pass" } else { "fail" };
        page.family(name, help);
        for depth in ["quick", "deep"] {
            let seen = view.verifications.iter().filter(|seen| {
                seen.subject != "wal" && seen.verdict == verdict && (seen.depth == depth || seen.depth == "deep")
            });
            let last = seen.max_by(|a, b| a.at.cmp(&b.at));
            page.sample(&[("depth", depth)], seconds(last.map(|seen| seen.at.as_str())));
        }
    }
}

fn drill(page: &mut Page, view: &StatusView) {
    let last = view.drill.as_ref();
    page.single(
        "drill_last_timestamp_seconds",
        "When the last drill ended; 0 when none is on record",
        seconds(last.and_then(|drill| drill.ended.as_deref())),
    );
    page.single(
        "drill_last_passed_timestamp_seconds",
        "When a drill last passed at level 3; 0 when none did",
        seconds(last.and_then(|drill| drill.last_passed.as_deref())),
    );
    page.family("drill_last_verdict", "What the last drill came to: 1 for its verdict, 0 for the others");
    for verdict in ["pass", "fail", "inconclusive"] {
        let is_it = last.and_then(|drill| drill.verdict.as_deref()) == Some(verdict);
        page.sample(&[("verdict", verdict)], u8::from(is_it));
    }
    let Some(last) = last else { return };
    if let Some(level) = last.level {
        page.single("drill_last_level", "How far the last drill went, 1 to 3", level);
    }
    for (name, help, value) in [
        ("drill_last_recovery_seconds", "How long recovery took in the last drill", last.recovery_s),
        ("drill_last_objective_seconds", "How long it may take", last.objective_s),
        ("drill_last_worst_case_seconds", "How long it would take just before the next base backup", last.worst_case_s),
    ] {
        if let Some(value) = value {
            page.single(name, help, value);
        }
    }
}

fn wal(page: &mut Page, view: &StatusView) {
    page.single("wal_gaps", "Stretches of missing WAL between segments that are there", view.gaps.len());
    let missing: u64 = view.gaps.iter().map(|gap| gap.segments).sum();
    page.single("wal_missing_segments", "Segments missing in those stretches", missing);
    page.family("wal_segments", "Complete WAL segments in the store");
    for timeline in &view.timelines {
        page.sample(&[("timeline", &timeline.timeline.to_string())], timeline.segments);
    }
    page.family("wal_last_stored_timestamp_seconds", "When the last segment of a timeline was stored");
    for timeline in &view.timelines {
        page.sample(&[("timeline", &timeline.timeline.to_string())], seconds(timeline.last_stored.as_deref()));
    }
}

fn host(page: &mut Page, view: &StatusView) {
    let Some(host) = &view.host else { return };
    page.single("host_up", "Whether the server on this host answered", u8::from(host.error.is_none()));
    for (name, help, value) in [
        ("archive_lag_bytes", "WAL on the server that no recovery reaches yet", host.lag_bytes),
        ("archive_lag_segments", "Complete segments of that WAL", host.lag_segments),
        ("archiver_ready_segments", "Segments that PostgreSQL waits to archive", host.ready_segments),
        ("archiver_failed_count", "How often archive_command failed", host.failed_count),
        ("wal_volume_free_bytes", "Free bytes where pg_wal lies", host.wal_free_bytes),
    ] {
        if let Some(value) = value {
            page.single(name, help, value);
        }
    }
}

/// Metrics as they are written down.
pub(super) struct Page {
    server: String,
    /// The metric begun last.
    name: String,
    text: String,
}

impl Page {
    /// An empty page of `server`'s metrics.
    pub(super) fn of(server: &str) -> Self {
        Self { server: label_value(server), name: String::new(), text: String::new() }
    }

    /// All that was written.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// A metric with one sample.
    pub(super) fn single(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, help);
        self.sample(&[], value);
    }

    /// Begins a metric; its samples follow.
    pub(super) fn family(&mut self, name: &str, help: &str) {
        name.clone_into(&mut self.name);
        for line in ["# HELP barback_", name, " ", help, "\n# TYPE barback_", name, " gauge\n"] {
            self.text.push_str(line);
        }
    }

    /// One sample of the metric begun last.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!(",{name}=\"{}\"", label_value(value))).collect();
        let labels = labels.concat();
        let line = format!("barback_{}{{server=\"{}\"{labels}}} {value}\n", self.name, self.server);
        self.text.push_str(&line);
    }
}

/// Escapes as the text format asks for.
fn label_value(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Seconds since 1970; 0 for no time.
fn seconds(time: Option<&str>) -> i64 {
    time.and_then(|time| time.parse::<DateTime<Utc>>().ok()).map_or(0, |time| time.timestamp())
}
