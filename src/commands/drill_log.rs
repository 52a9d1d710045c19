//! What a drill has to say so far: its record, filled in as it goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, Utc};

use crate::commands::drill::{DrillRequest, Drilled};
use crate::commands::interrupt::Interrupt;
use crate::commands::progress::{PHASES, Progress};
use crate::commands::restore::RestoreDone;
use crate::commands::store_access::host_name;
use crate::domain::backup::BackupId;
use crate::domain::measure::{human_duration, human_size};
use crate::domain::recovery_target::{RecoveryTarget, TargetAction, TargetRequest};
use crate::domain::restore_plan::RestorePlan;
use crate::domain::verification::Verdict;
use crate::error::{Error, ErrorKind};
use crate::layout::drill_record::{
    DrillCheck, DrillPhase, DrillPlace, DrillRecord, DrillTarget, DrilledBackup, PhaseShare, RecoveryTime, SCHEMA,
    TargetProof,
};

/// Why a drill did not go on, and whether that speaks against the backup.
#[derive(Debug)]
pub(crate) struct Stopped {
    verdict: Verdict,
    error: Error,
}

impl Stopped {
    /// The backup is at fault.
    pub(crate) fn fail(error: Error) -> Self {
        Self { verdict: Verdict::Fail, error }
    }

    /// True when the backup is at fault.
    pub(crate) fn is_fault(&self) -> bool {
        self.verdict == Verdict::Fail
    }

    /// Nothing was learned about the backup.
    pub(crate) fn inconclusive(error: Error) -> Self {
        Self { verdict: Verdict::Inconclusive, error }
    }
}

/// Bytes that are wrong and objects that are not there speak against the backup; answers that did not come, and this host, do not.
impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Mismatch | ErrorKind::NotFound | ErrorKind::Conflict => Self::fail(error),
            _ => Self::inconclusive(error),
        }
    }
}

/// Does `work` until it is done, or somebody says stop.
pub(crate) async fn unless_stopped<T>(
    interrupt: &Interrupt,
    work: impl Future<Output = Result<T, Stopped>>,
) -> Result<T, Stopped> {
    tokio::select! {
        done = work => done,
        () = interrupt.stopped() => {
            interrupt.check()?;
            Err(Stopped::inconclusive(Error::new(ErrorKind::Interrupted, "the drill was told to stop")))
        }
    }
}

/// A record that is being filled in.
#[derive(Debug)]
pub(crate) struct DrillLog {
    record: DrillRecord,
    begun: Instant,
}

impl DrillLog {
    pub(crate) fn begin(request: &DrillRequest) -> Self {
        let started = request.now.trunc_subsecs(6);
        let target = DrillTarget { asked: request.asked.clone(), ..DrillTarget::default() };
        let record = DrillRecord {
            schema: SCHEMA,
            sequence: None,
            previous_sha256: None,
            last_passed: None,
            started,
            ended: started,
            level: request.level,
            verdict: Verdict::Inconclusive,
            reason: None,
            hint: None,
            place: DrillPlace { host: host_name(), ..request.place.clone() },
            backup: None,
            target,
            proof: None,
            phases: Vec::new(),
            checks: Vec::new(),
            recovery: None,
            peak_memory_bytes: None,
            notes: Vec::new(),
        };
        Self { record, begun: Instant::now() }
    }

    /// How long the drill has been going on.
    pub(crate) fn mark(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Ends a phase that began at `began`.
    pub(crate) fn phase(&mut self, name: &str, began: Duration, bytes: Option<u64>) {
        self.phase_of(name, began, bytes, Vec::new());
    }

    /// The same with what its time was spent on.
    pub(crate) fn phase_of(&mut self, name: &str, began: Duration, bytes: Option<u64>, shares: Vec<(&str, Duration)>) {
        let took = self.mark().saturating_sub(began);
        self.phase_between(name, (began, took), bytes, shares);
    }

    /// The same for one that took `times.1`.
    pub(crate) fn phase_between(
        &mut self,
        name: &str,
        times: (Duration, Duration),
        bytes: Option<u64>,
        shares: Vec<(&str, Duration)>,
    ) {
        let share = |(name, took): (&str, Duration)| PhaseShare { name: name.to_owned(), took_ms: millis(took) };
        let size = bytes.map_or_else(String::new, |bytes| format!(", {}", human_size(bytes)));
        tracing::info!(target: PHASES, "{name} took {}{size}", human_duration(times.1));
        self.record.phases.push(DrillPhase {
            name: name.to_owned(),
            began_ms: millis(times.0),
            took_ms: millis(times.1),
            bytes,
            shares: shares.into_iter().map(share).collect(),
        });
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.record.notes.push(note.into());
    }

    pub(crate) fn programs(&mut self, version: Option<String>) {
        self.record.place.postgresql = version;
    }

    pub(crate) fn target(&mut self, request: &TargetRequest, action: TargetAction, seed: Option<u64>) {
        let target = &mut self.record.target;
        target.seed = seed;
        match &request.target {
            RecoveryTarget::Time(time) => target.time = Some(time.to_utc()),
            RecoveryTarget::Lsn(lsn) => target.lsn = Some(lsn.to_string()),
            _ => {}
        }
        target.action = Some(action.to_string());
    }

    pub(crate) fn planned(&mut self, backup: DrilledBackup, plan: &RestorePlan) {
        self.record.place.system_identifier = plan.backup.system_identifier.map(|number| number.to_string());
        self.record.target.timeline = Some(plan.timeline.number());
        self.record.backup = Some(backup);
        plan.warnings.iter().for_each(|warning| self.note(warning));
    }

    /// The phases of a restore that began at `began`.
    pub(crate) fn fetched(&mut self, began: Duration, restored: &RestoreDone, progress: &Arc<Progress>) {
        let mut at = began;
        for (name, took) in &restored.phases {
            if *name == "fetch" {
                let (waited, worked) = progress.waited_and_worked();
                let shares = vec![("download", waited), ("unpack and write", worked.saturating_sub(waited))];
                self.phase_between("fetch", (at, *took), Some(restored.content_bytes), shares);
            } else {
                self.phase_between("sync", (at, *took), None, Vec::new());
            }
            at += *took;
        }
    }

    pub(crate) fn proved(&mut self, proof: TargetProof) {
        self.record.proof = Some(proof);
    }

    pub(crate) fn checked(&mut self, checks: Vec<DrillCheck>) {
        self.record.checks.extend(checks);
    }

    pub(crate) fn recovered(&mut self, recovery: RecoveryTime) {
        self.record.recovery = Some(recovery);
    }

    /// That the recovery took longer than it may, or would at the worst moment.
    pub(crate) fn missed_objective(&self) -> Option<String> {
        let recovery = self.record.recovery.as_ref()?;
        let objective = recovery.objective_ms?;
        let said = |ms: u64| human_duration(Duration::from_millis(ms));
        if recovery.total_ms > objective {
            return Some(format!(
                "the recovery took {}, more than the {} it may",
                said(recovery.total_ms),
                said(objective)
            ));
        }
        let worst = recovery.worst_case_ms.filter(|worst| *worst > objective)?;
        Some(format!(
            "at the worst moment a recovery would take {}, more than the {} it may",
            said(worst),
            said(objective)
        ))
    }

    /// Which backup was chosen.
    pub(crate) fn backup_id(&self) -> Option<BackupId> {
        self.record.backup.as_ref()?.id.parse().ok()
    }

    /// True when something that was looked at is not as it should be.
    pub(crate) fn has_bad_checks(&self) -> bool {
        self.record.checks.iter().any(|check| check.outcome.verdict() != Verdict::Pass)
    }

    /// What took most of the time.
    pub(crate) fn bottleneck(&self) -> Option<String> {
        let share = |phase: &str, name: &str| -> u64 {
            let phases = self.record.phases.iter().filter(|one| one.name == phase);
            phases.flat_map(|one| &one.shares).filter(|one| one.name == name).map(|one| one.took_ms).sum()
        };
        let whole = |phase: &str| -> u64 {
            self.record.phases.iter().filter(|one| one.name == phase).map(|one| one.took_ms).sum()
        };
        // Workers side by side: their shares are of the time that all of them took.
        let (download, unpack, fetch) =
            (share("fetch", "download"), share("fetch", "unpack and write"), whole("fetch"));
        let store = fetch * download / (download + unpack).max(1);
        let candidates = [
            ("store", store),
            ("processor or disk", fetch - store + whole("sync")),
            ("replay", share("replay", "replaying")),
            ("waiting for WAL", share("replay", "waiting for WAL")),
        ];
        candidates
            .into_iter()
            .filter(|(_, took)| *took > 0)
            .max_by_key(|(_, took)| *took)
            .map(|(name, _)| name.to_owned())
    }

    /// The finished record.
    pub(crate) fn conclude(mut self, outcome: Result<(), Stopped>) -> Drilled {
        let is_interrupted = matches!(&outcome, Err(Stopped { error, .. }) if error.kind() == ErrorKind::Interrupted);
        let record = &mut self.record;
        let of_checks = record.checks.iter().map(|check| check.outcome.verdict()).max().unwrap_or(Verdict::Pass);
        match outcome {
            Ok(()) => record.verdict = of_checks,
            // What decides the verdict is the reason.
            Err(Stopped { verdict, error }) if verdict < of_checks => {
                record.verdict = of_checks;
                record.notes.push(error.to_string());
            }
            Err(Stopped { verdict, error }) => {
                record.verdict = verdict;
                record.reason = Some(error.to_string());
                record.hint = error.hint().map(str::to_owned);
            }
        }
        if record.reason.is_none() {
            let speaks = |check: &&DrillCheck| check.outcome.verdict() == record.verdict;
            let against = record.checks.iter().filter(|_| record.verdict != Verdict::Pass).filter(speaks);
            let said = against.map(|check| match &check.detail {
                Some(detail) => format!("{}: {detail}", check.name),
                None => check.name.clone(),
            });
            let said: Vec<String> = said.collect();
            record.reason = (!said.is_empty()).then(|| format!("checks: {}", said.join("; ")));
        }
        let took = chrono::TimeDelta::from_std(self.begun.elapsed()).unwrap_or_default();
        record.ended = (record.started + took).trunc_subsecs(6);
        record.peak_memory_bytes = peak_memory();
        Drilled { record: self.record, is_interrupted }
    }
}

/// The most memory that this process took, as the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time as records hold it.
pub(crate) fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}
