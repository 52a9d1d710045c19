//! The drill: a backup restored for real, recovered by a server of its own, held against what was asked for, and measured.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use crate::commands::archive::Archive;
use crate::commands::catalog;
use crate::commands::drill_log::{DrillLog, Stopped, unless_stopped};
use crate::commands::drill_recovery::{Recovered, Recovery};
use crate::commands::drill_scratch::Scratch;
use crate::commands::drill_server::configure;
use crate::commands::drill_target::{Resolved, Wanted, resolve};
use crate::commands::interrupt::Interrupt;
use crate::commands::progress::Progress;
use crate::commands::restore::{self, Chosen, RestoreRequest};
use crate::commands::table_snapshot;
use crate::commands::target_directory::{self, free_space};
use crate::commands::verify::{VerifyRequest, Which, verify};
use crate::domain::backup::Backup;
use crate::domain::cluster::ServerVersion;
use crate::domain::drill::DrillLevel;
use crate::domain::drill_checks::DrillChecks;
use crate::domain::drill_forecast::{Measured, longest_interval};
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::{TargetAction, TargetRequest};
use crate::domain::restore_plan::RestorePlan;
use crate::domain::verification::{Degree, Depth, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::drill_record::{DrillPlace, DrillRecord, DrilledBackup, RecoveryTime};
use crate::layout::table_snapshot::TableSnapshot;
use crate::postgres::private_server;
use crate::postgres::settings;

/// What a drill is asked for.
#[derive(Debug, Clone)]
pub struct DrillRequest {
    /// How far it goes.
    pub level: DrillLevel,
    /// What the backup is to be brought to.
    pub wanted: Wanted,
    /// The same as it was asked for, in words.
    pub asked: String,
    /// What becomes of the copy where it has stopped: it is promoted, or stays paused.
    pub action: TargetAction,
    /// Which backup, by id, name, `latest` or `oldest`; chosen for the target when none.
    pub backup: Option<String>,
    /// Where the copy is made.
    pub workdir: PathBuf,
    /// PostgreSQL's programs; looked for when none.
    pub pg_bindir: Option<PathBuf>,
    /// Where programs are looked for, `PATH`.
    pub path: Option<String>,
    /// A superuser of the cluster; the one that the backup names, or `postgres`, when none.
    pub role: Option<String>,
    /// What is looked for in the recovered database beside what always is.
    pub checks: DrillChecks,
    /// How long a recovery may take.
    pub objective: Option<Duration>,
    /// Whether the copy of a drill that did not pass stays.
    pub keep_on_failure: bool,
    /// Parts fetched at the same time.
    pub jobs: usize,
    /// What may be held in memory.
    pub max_memory_bytes: usize,
    /// The most to read from the store, in bytes per second.
    pub max_rate_bytes_per_s: Option<u64>,
    /// The words of `restore_command`, but for the journal and what PostgreSQL adds.
    pub restore_command: Vec<String>,
    /// This program.
    pub exe: PathBuf,
    /// Where and by whom it is done, but for the host.
    pub place: DrillPlace,
    /// Now.
    pub now: DateTime<Utc>,
}

/// A drill that is over.
#[derive(Debug)]
pub struct Drilled {
    /// What it has to say.
    pub record: DrillRecord,
    /// It was told to stop: that is no drill worth recording.
    pub is_interrupted: bool,
}

/// A drill needs this share of the cluster's size on top of it: for the WAL that is replayed and what it grows by.
const SPARE_SHARE: u64 = 8;
const SPARE_BYTES: u64 = 1 << 30;

/// The role that `initdb` makes for most.
const DEFAULT_ROLE: &str = "postgres";

/// Drills. Whatever goes wrong is in the record, whose verdict says whether it speaks against the backup.
///
/// Nothing is written to the store. When it returns no server runs and, unless it was to be kept, no directory is left.
/// Needs a multi-threaded runtime, and must be called on a thread that lives as long as the drill. Errors: `Local` where
/// signals cannot be caught; `Usage` for the name of a backup that there is not.
pub async fn drill(archive: &Archive, request: &DrillRequest, progress: Arc<Progress>) -> Result<Drilled> {
    let interrupt = Interrupt::listen()?;
    let mut drill = Drill { archive, request, progress, interrupt, log: DrillLog::begin(request) };
    let outcome = match request.level {
        DrillLevel::Recovery => drill.recover().await,
        level => drill.look(level).await,
    };
    if outcome.is_err() {
        drill.refuse_a_slip().await?;
    }
    let outcome = drill.or_gone(outcome).await;
    Ok(drill.log.conclude(outcome))
}

struct Drill<'a> {
    archive: &'a Archive,
    request: &'a DrillRequest,
    progress: Arc<Progress>,
    interrupt: Interrupt,
    log: DrillLog,
}

impl Drill<'_> {
    /// Levels 1 and 2: a backup is chosen for the target, and it and its WAL are verified.
    async fn look(&mut self, level: DrillLevel) -> Result<(), Stopped> {
        self.progress.phase("plan", 0);
        let began = self.log.mark();
        let request = self.restore_request(PathBuf::new()).await?;
        let chosen = self.choose(&request).await?;
        self.planned(&chosen);
        self.log.phase("plan", began, None);
        let began = self.log.mark();
        let depth = if level == DrillLevel::Names { Depth::Quick } else { Depth::Deep };
        let request = self.verify_request(&chosen.plan.backup, depth);
        let verification = verify(self.archive, &request, Arc::clone(&self.progress)).await?;
        self.interrupt.check()?;
        let read = verification.backups.iter().map(|report| report.bytes).sum::<u64>()
            + verification.wal.iter().map(|report| report.bytes).sum::<u64>();
        self.log.phase("verify", began, Some(read));
        let findings = verification.all_findings();
        let worst = |degree| findings.iter().find(|finding| finding.degree == degree).map(ToString::to_string);
        match verification.verdict() {
            Verdict::Pass => Ok(()),
            Verdict::Fail => {
                let what = worst(Degree::Damage).unwrap_or_else(|| "verification found damage".to_owned());
                Err(Stopped::fail(Error::corrupt(what)))
            }
            Verdict::Inconclusive => {
                let what = worst(Degree::Unknown).unwrap_or_else(|| "not everything could be looked at".to_owned());
                Err(Stopped::inconclusive(Error::new(ErrorKind::Unreachable, what)))
            }
        }
    }

    fn verify_request(&self, backup: &Backup, depth: Depth) -> VerifyRequest {
        VerifyRequest {
            which: Which::One(backup.id.to_string()),
            depth,
            max_age: None,
            sample: None,
            max_duration: None,
            jobs: self.request.jobs,
            max_memory_bytes: self.request.max_memory_bytes,
            max_rate_bytes_per_s: self.request.max_rate_bytes_per_s,
            record: false,
            now: self.request.now,
        }
    }

    /// A name that no backup has is a slip of whoever wrote it, and says nothing about backups.
    async fn refuse_a_slip(&self) -> Result<()> {
        let (Some(word), None) = (&self.request.backup, self.log.backup_id()) else { return Ok(()) };
        let Ok(mut loaded) = catalog::load(self.archive).await else { return Ok(()) };
        match loaded.find(word) {
            Err(error) if error.kind() == ErrorKind::NotFound && !is_relative(word) => {
                Err(error.as_kind(ErrorKind::Usage))
            }
            _ => Ok(()),
        }
    }

    /// A backup that was deleted while the drill was at it has not failed.
    async fn or_gone(&self, outcome: Result<(), Stopped>) -> Result<(), Stopped> {
        let (Err(stopped), Some(id)) = (&outcome, self.log.backup_id()) else { return outcome };
        if stopped.is_fault() && matches!(catalog::read(self.archive, &id).await, Ok(None)) {
            let message =
                format!("backup \"{id}\" is gone: it was deleted during the drill, or the store is not what it was");
            return Err(Stopped::inconclusive(Error::new(ErrorKind::Unreachable, message)));
        }
        outcome
    }

    /// Level 3: everything that a recovery does.
    async fn recover(&mut self) -> Result<(), Stopped> {
        let mut scratch = Scratch::make(&self.request.workdir, self.request.now.timestamp_subsec_nanos())?;
        // On the heap: it goes through everything that this program does.
        let outcome = Box::pin(self.recover_in(&scratch)).await;
        self.progress.phase("clean up", 0);
        let began = self.log.mark();
        if (outcome.is_err() || self.log.has_bad_checks()) && self.request.keep_on_failure {
            scratch.keep();
            self.log.note(format!("the copy is kept in \"{}\"", scratch.root().display()));
            return outcome;
        }
        let removed = tokio::task::block_in_place(|| scratch.remove());
        self.log.phase("clean up", began, None);
        match (outcome, removed) {
            (Ok(()), Err(error)) => Err(Stopped::inconclusive(error)),
            (outcome, Err(error)) => {
                self.log.note(error.to_string());
                outcome
            }
            (outcome, Ok(())) => outcome,
        }
    }

    async fn recover_in(&mut self, scratch: &Scratch) -> Result<(), Stopped> {
        self.progress.phase("plan", 0);
        let began = self.log.mark();
        let mut request = self.restore_request(scratch.data()).await?;
        request.tablespaces_below = Some(scratch.tablespaces());
        request.restore_command = self.restore_command(scratch);
        let chosen = self.choose(&request).await?;
        self.planned(&chosen);
        let bindir = self.find_programs(&chosen.plan.backup)?;
        check_room(scratch, &chosen.plan.backup)?;
        let (plan, backup_times, damaged) =
            (chosen.plan.clone(), chosen.backup_times.clone(), chosen.damaged().to_vec());
        let prepared = restore::place(chosen, &request)?;
        self.log.phase("plan", began, None);

        let settings = prepared.settings.clone();
        let began = self.log.mark();
        self.interrupt.check()?;
        let restored = restore::restore(self.archive, &request, prepared, Arc::clone(&self.progress)).await;
        let restored = restored.map_err(|error| match error.kind() {
            // The plan has seen it: that it is gone now proves nothing about the backup.
            ErrorKind::NotFound => Stopped::inconclusive(error),
            _ => error.into(),
        })?;
        self.log.fetched(began, &restored, &self.progress);
        self.interrupt.check()?;

        let preload = configure(scratch, &bindir, &settings, &mut self.log)?;
        let tables = self.tables_of(&plan.backup).await;
        let role = self.request.role.clone().or(tables.as_ref().map(|tables| tables.superuser.clone()));
        let recovery = Recovery {
            archive: self.archive,
            request: self.request,
            target: &request.target,
            plan: &plan,
            bindir: &bindir,
            scratch,
            preload: &preload,
            tables: tables.as_ref(),
            damaged: &damaged,
            role: role.as_deref().unwrap_or(DEFAULT_ROLE),
            progress: &self.progress,
            interrupt: &self.interrupt,
        };
        let recovered = recovery.run(&mut self.log).await?;
        self.log.recovered(self.forecast(&plan, &recovered, &backup_times));
        if let Some(reason) = self.log.missed_objective() {
            self.log.note(reason);
        }
        Ok(())
    }

    /// The tables that there were when the backup was taken. Without them the drill says less, and is none the worse.
    async fn tables_of(&mut self, backup: &Backup) -> Option<TableSnapshot> {
        match table_snapshot::load(self.archive, &backup.id).await {
            Ok(tables) => tables,
            Err(error) => {
                self.log.note(error.to_string());
                None
            }
        }
    }

    async fn choose(&self, request: &RestoreRequest) -> Result<Chosen, Stopped> {
        unless_stopped(&self.interrupt, async { Ok(restore::choose(self.archive, request).await?) }).await
    }

    /// What a restore is asked for; the target is drawn first where it is to be random.
    async fn restore_request(&mut self, directory: PathBuf) -> Result<RestoreRequest, Stopped> {
        let request = self.request;
        let Resolved { target, seed, note } = unless_stopped(&self.interrupt, resolve(self.archive, request)).await?;
        self.log.target(&target, request.action, seed);
        if let Some(note) = note {
            self.log.note(note);
        }
        // Where it has stopped is looked at before it goes on, whatever is to become of it then.
        let target = TargetRequest { action: TargetAction::Pause, ..target };
        Ok(RestoreRequest {
            directory,
            backup: request.backup.clone(),
            target,
            tablespaces: BTreeMap::new(),
            tablespaces_below: None,
            jobs: request.jobs,
            max_rate_bytes_per_s: request.max_rate_bytes_per_s,
            with_recovery: true,
            keep_archiving: false,
            restore_command: String::new(),
            pg_bindir: None,
            now: request.now,
        })
    }

    fn restore_command(&self, scratch: &Scratch) -> String {
        let mut words = self.request.restore_command.clone();
        words.extend(["--journal".to_owned(), scratch.journal().display().to_string()]);
        settings::restore_command(&words, " %f \"%p\"")
    }

    fn planned(&mut self, chosen: &Chosen) {
        let backup = &chosen.plan.backup;
        self.log.planned(
            DrilledBackup {
                id: backup.id.to_string(),
                name: backup.name.clone(),
                major_version: backup.version.map(ServerVersion::major),
                ended: backup.end_time.map(|time| time.to_utc().trunc_subsecs(6)),
                end_lsn: backup.end_lsn.map(|lsn| lsn.to_string()),
                bytes: backup.cluster_size_bytes,
                stored_bytes: Some(chosen.stored_bytes()),
            },
            &chosen.plan,
        );
    }

    /// A server of another major version does not start on the copy.
    fn find_programs(&mut self, backup: &Backup) -> Result<PathBuf, Stopped> {
        let Some(version) = backup.version else {
            let message = "the backup does not say which version of PostgreSQL it is of";
            return Err(Stopped::inconclusive(Error::corrupt(message)));
        };
        let missing =
            |error: Error| Stopped::inconclusive(error.with_hint("Install it, or say where it is with --pg-bindir."));
        let bindir = if let Some(bindir) = &self.request.pg_bindir {
            target_directory::check_binaries(bindir, version).map_err(missing)?;
            bindir.clone()
        } else {
            let major = version.major();
            let found = private_server::find_bindir(major, self.request.path.as_deref());
            let nowhere = || Error::new(ErrorKind::Local, format!("there is no PostgreSQL {major} on this host"));
            found.ok_or_else(|| missing(nowhere()))?
        };
        self.log.programs(private_server::version_text(&bindir));
        Ok(bindir)
    }

    /// How long a recovery takes when it is needed at the worst moment.
    fn forecast(&self, plan: &RestorePlan, recovered: &Recovered, backup_times: &[DateTime<Utc>]) -> RecoveryTime {
        let total = recovered.ready_after;
        let wal = plan.reach.lsn.bytes().saturating_sub(plan.backup.end_lsn.map_or(0, Lsn::bytes));
        let since =
            plan.reach.modified.map(|modified| modified.signed_duration_since(plan.window.from_time).num_seconds());
        // In less than that, a single segment would say too much.
        let since = since.and_then(|since| u64::try_from(since).ok()).filter(|since| *since >= 600);
        let wal_bytes_per_hour = since.map(|since| wal.saturating_mul(3600) / since);
        let measured = Measured {
            fixed: total.saturating_sub(recovered.replay),
            replayed_bytes: recovered.replayed_bytes,
            replay: recovered.replay,
            wal_bytes_per_hour,
            base_interval: longest_interval(backup_times),
            objective: self.request.objective,
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let forecast = measured.forecast();
        RecoveryTime {
            total_ms: millis(total),
            objective_ms: self.request.objective.map(millis),
            bottleneck: self.log.bottleneck(),
            replayed_bytes: recovered.replayed_bytes,
            segments: recovered.deliveries.segments,
            late_segments: recovered.deliveries.late,
            starved_ms: millis(recovered.deliveries.starved),
            replay_bytes_per_s: forecast.as_ref().map(|forecast| forecast.replay_bytes_per_s),
            wal_bytes_per_hour,
            base_interval_ms: measured.base_interval.map(millis),
            worst_case_ms: forecast.as_ref().map(|forecast| millis(forecast.worst_case)),
            needed_interval_ms: forecast.as_ref().and_then(|forecast| forecast.needed_interval).map(millis),
            sentence: forecast.map(|forecast| forecast.sentence),
        }
    }
}

/// A word that means a backup wherever there is one.
fn is_relative(word: &str) -> bool {
    matches!(word, "latest" | "oldest")
}

/// Everything goes onto one file system.
fn check_room(scratch: &Scratch, backup: &Backup) -> Result<(), Stopped> {
    let Some(cluster) = backup.cluster_size_bytes else { return Ok(()) };
    let needed = cluster.saturating_add(cluster / SPARE_SHARE).saturating_add(SPARE_BYTES);
    let free = free_space(scratch.root())?;
    if free >= needed {
        return Ok(());
    }
    let message = format!(
        "there is no room for the copy in \"{}\": {needed} bytes are needed, {free} are free",
        scratch.root().display()
    );
    Err(Stopped::inconclusive(Error::new(ErrorKind::Local, message).with_hint("Give another place with --workdir.")))
}
