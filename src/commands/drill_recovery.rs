//! The recovery of a drill: followed to its end, proved to be where it should be, and looked into.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::commands::archive::Archive;
use crate::commands::drill::DrillRequest;
use crate::commands::drill_checks;
use crate::commands::drill_log::{DrillLog, Stopped, unless_stopped};
use crate::commands::drill_pages::check_pages;
use crate::commands::drill_proof::{Reached, prove};
use crate::commands::drill_scratch::Scratch;
use crate::commands::drill_server::{DrillServer, PORT};
use crate::commands::interrupt::Interrupt;
use crate::commands::progress::Progress;
use crate::domain::cluster::ServerVersion;
use crate::domain::delivery::Deliveries;
use crate::domain::recovery_target::{RecoveryTarget, TargetAction, TargetRequest};
use crate::domain::restore_plan::RestorePlan;
use crate::domain::timeline::TimelineId;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::part_index::DamagedFile;
use crate::layout::table_snapshot::TableSnapshot;
use crate::postgres::connection::Session;
use crate::postgres::inspection::LocalServer;
use crate::postgres::recovery::{self, RecoveryState};

/// Between two looks at where recovery is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Recovery that comes no further for so long is given up.
const STALLED: Duration = Duration::from_mins(15);

/// A server that is consistent and lets nobody in for so long never will.
const REFUSED: Duration = Duration::from_mins(2);

/// A source whose settings were raised while it wrote this WAL makes the server start anew, so often.
const STARTS: u32 = 5;

/// The database that is connected to: every cluster has it, unless somebody dropped it.
const DATABASES: [&str; 2] = ["postgres", "template1"];

/// What is recovered, and with what.
pub(crate) struct Recovery<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) request: &'a DrillRequest,
    pub(crate) target: &'a TargetRequest,
    pub(crate) plan: &'a RestorePlan,
    pub(crate) bindir: &'a Path,
    pub(crate) scratch: &'a Scratch,
    pub(crate) preload: &'a [String],
    /// What tables there were when the backup was taken.
    pub(crate) tables: Option<&'a TableSnapshot>,
    /// Pages that were damaged in the source already.
    pub(crate) damaged: &'a [DamagedFile],
    /// A superuser.
    pub(crate) role: &'a str,
    pub(crate) progress: &'a Arc<Progress>,
    pub(crate) interrupt: &'a Interrupt,
}

/// A recovery that was finished.
pub(crate) struct Recovered {
    /// From the beginning of the drill to a server that takes connections, where the target was reached.
    pub(crate) ready_after: Duration,
    /// How long WAL was replayed, waiting for it included.
    pub(crate) replay: Duration,
    /// How much of it.
    pub(crate) replayed_bytes: u64,
    /// What its calls for WAL came to.
    pub(crate) deliveries: Deliveries,
}

/// A server that has stopped where it was told to.
struct Followed {
    server: DrillServer,
    session: Session,
    state: RecoveryState,
    /// How long it took to become consistent.
    consistent: Duration,
}

/// The same of one start of it.
struct Stop {
    session: Session,
    state: RecoveryState,
    consistent: Instant,
}

impl Recovery<'_> {
    /// Starts the server, follows it, proves where it stopped, and looks into it. No server runs when it returns.
    pub(crate) async fn run(&self, log: &mut DrillLog) -> Result<Recovered, Stopped> {
        let began = log.mark();
        self.progress.phase("replay", 0);
        let Followed { mut server, session, state, consistent } = self.follow().await?;
        let deliveries = std::mem::take(&mut server.deliveries);
        // Replay goes on meanwhile.
        log.phase_between("consistency", (began, consistent), None, Vec::new());
        let took = log.mark().saturating_sub(began);
        let replayed_bytes = match (server.log.redo_starts, state.replayed) {
            (Some(from), Some(to)) => to.bytes().saturating_sub(from.bytes()),
            _ => 0,
        };
        let waited = deliveries.waited.min(took);
        let shares = vec![("waiting for WAL", waited), ("replaying", took.saturating_sub(waited))];
        log.phase_between("replay", (began, took), Some(replayed_bytes), shares);

        let began = log.mark();
        let reached = Reached { state, said: server.log.stopped.clone(), deliveries: &deliveries };
        let mut proof = unless_stopped(self.interrupt, prove(self.archive, self.plan, self.target, &reached)).await?;
        log.phase("prove", began, None);
        if state.is_in_recovery && self.request.action == TargetAction::Promote {
            let began = log.mark();
            self.progress.phase("promote", 0);
            unless_stopped(self.interrupt, async { Ok(recovery::promote(&session).await?) }).await?;
            log.phase("promote", began, None);
        }
        let ready_after = log.mark();
        let is_promoted = !state.is_in_recovery || self.request.action == TargetAction::Promote;
        if is_promoted {
            proof.timeline = recovery::timeline(&session).await?.map(TimelineId::number);
        }
        proof.ended_as = Some(if is_promoted { "promoted" } else { "paused" }.to_owned());
        log.proved(proof);
        session.close().await?;
        self.look(log, &reached.state, is_promoted).await?;

        let began = log.mark();
        self.progress.phase("stop", 0);
        let is_clean = tokio::task::block_in_place(|| server.running.stop())?;
        log.phase("stop", began, None);
        if !is_clean {
            log.note("the server of the drill did not stop cleanly");
        }
        self.look_at_pages(log, is_promoted)?;
        Ok(Recovered { ready_after, replay: took, replayed_bytes, deliveries })
    }

    /// Looks into the running server.
    async fn look(&self, log: &mut DrillLog, state: &RecoveryState, is_promoted: bool) -> Result<(), Stopped> {
        let began = log.mark();
        self.progress.phase("checks", 0);
        let target_time = match &self.target.target {
            RecoveryTarget::Time(time) => Some(time.to_utc()),
            _ => None,
        };
        let server = drill_checks::Recovered {
            server: LocalServer { sockets: self.scratch.sockets(), port: PORT, role: self.role },
            bindir: self.bindir,
            is_promoted,
            run_as: self.scratch.run_as(),
            target_time,
            last_replayed: state.last_transaction,
            ends_with_backup: self.target.target == RecoveryTarget::Immediate,
        };
        log.checked(drill_checks::look_into(&server, &self.request.checks, self.tables, self.interrupt).await);
        log.phase("checks", began, None);
        Ok(self.interrupt.check()?)
    }

    /// Looks at every page of the stopped server.
    ///
    /// A server that is stopped in recovery need not have written every page: those that the base backup caught half written are
    /// repaired in memory alone.
    fn look_at_pages(&self, log: &mut DrillLog, is_promoted: bool) -> Result<(), Stopped> {
        if !is_promoted {
            log.note("pages are not looked at in a copy that stays in recovery: not all of them are on its disk");
            return Ok(());
        }
        let began = log.mark();
        self.progress.phase("pages", 0);
        let data = self.scratch.data();
        let look = || check_pages(&data, self.damaged, self.request.jobs, self.interrupt);
        log.checked(vec![tokio::task::block_in_place(look)]);
        log.phase("pages", began, None);
        Ok(self.interrupt.check()?)
    }

    /// Starts the server and waits until it has stopped where it was told to.
    async fn follow(&self) -> Result<Followed, Stopped> {
        let begun = Instant::now();
        let major = self.plan.backup.version.map_or(0, ServerVersion::major);
        for _ in 0..STARTS {
            let mut server = DrillServer::start(self.scratch, self.bindir, &self.request.exe, self.preload, major)?;
            if let Some(Stop { session, state, consistent }) = self.watch(&mut server).await? {
                let consistent = consistent.saturating_duration_since(begun);
                return Ok(Followed { server, session, state, consistent });
            }
            // Its control file knows by now what it needs.
            tracing::info!("the server of the drill is started anew: its source had more connections, or the like");
            tokio::task::block_in_place(|| server.running.stop())?;
        }
        let message = format!("the server of the drill lacked settings of its source {STARTS} times");
        Err(Stopped::inconclusive(Error::new(ErrorKind::Local, message)))
    }

    /// None when it must be started anew.
    async fn watch(&self, server: &mut DrillServer) -> Result<Option<Stop>, Stopped> {
        let (mut session, mut consistent): (Option<Session>, Option<Instant>) = (None, None);
        let (mut moved, mut mark) = (Instant::now(), (None, 0));
        let mut refused = None;
        let mut reported = None;
        loop {
            self.interrupt.check()?;
            server.look()?;
            if server.log.lacks_settings {
                return Ok(None);
            }
            if server.running.ended()?.is_some() {
                return Err(server.why_it_ended());
            }
            if server.log.consistent.is_some() {
                consistent = consistent.or_else(|| Some(Instant::now()));
                if session.is_none() {
                    session = match self.connect(server).await? {
                        Ok(session) => Some(session),
                        Err(error) => {
                            let since = refused.get_or_insert_with(Instant::now);
                            if since.elapsed() > REFUSED {
                                return Err(Stopped::inconclusive(error));
                            }
                            None
                        }
                    };
                }
            }
            let state = match &session {
                Some(session) => {
                    RecoveryState::read(session).await.inspect_err(|error| tracing::debug!("{error}")).ok()
                }
                None => None,
            };
            if state.is_none() {
                // It does not answer, and may be on its way down: the next look tells.
                session = None;
            }
            if let Some(state) = state {
                let has_stopped = state.is_paused && server.log.stopped.is_some();
                if let Some(session) = session.take_if(|_| has_stopped || !state.is_in_recovery) {
                    server.look()?;
                    let consistent = consistent.unwrap_or_else(Instant::now);
                    return Ok(Some(Stop { session, state, consistent }));
                }
            }
            let (replayed, calls) = (state.and_then(|state| state.replayed), server.deliveries.segments);
            if let (Some(now), Some(from)) = (replayed, server.log.redo_starts) {
                let done = now.bytes().saturating_sub(from.bytes());
                self.progress.add_bytes(done.saturating_sub(reported.unwrap_or(0)));
                reported = Some(done);
            }
            // Before it replays, PostgreSQL syncs the whole directory.
            if mark != (replayed, calls) || server.log.redo_starts.is_none() {
                (mark, moved) = ((replayed, calls), Instant::now());
            }
            if moved.elapsed() > STALLED {
                let message = format!("recovery came no further for {} min", STALLED.as_secs() / 60);
                return Err(Stopped::inconclusive(Error::new(ErrorKind::Local, message)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A session, once the server lets anybody in, or why not yet. A role that is not there will not come.
    async fn connect(&self, server: &DrillServer) -> Result<Result<Session>, Stopped> {
        let mut refusal = Error::new(ErrorKind::Bug, "there is no database to connect to");
        for database in DATABASES {
            match server.running.connect(self.role, database).await {
                Ok(session) => return Ok(Ok(session)),
                Err(error) if error.to_string().contains("role \"") => {
                    return Err(Stopped::inconclusive(error.with_hint("Name a superuser of the cluster with --role.")));
                }
                Err(error) => refusal = error,
            }
        }
        Ok(Err(refusal))
    }
}
