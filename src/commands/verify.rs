//! Is everything there: every object of a backup against what the backup says, and all WAL from its begin to now.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use tokio::runtime::Handle;

use crate::commands::archive::Archive;
use crate::commands::interrupt::Interrupt;
use crate::commands::memory;
use crate::commands::progress::Progress;
use crate::commands::rate_limit::RateLimit;
use crate::commands::survey::{Survey, Surveyed, survey_with};
use crate::commands::verify_backup::{BackupLook, look_at};
use crate::commands::verify_history::{Recorder, VerifyHistory};
use crate::commands::verify_parts::{PartsRead, Reading, Work, read_parts};
use crate::commands::verify_report::{BackupReport, Recoverable, Share, Stop, Verification, WalReport};
use crate::commands::verify_wal::{Chain, WalReading, WalSeen, look_at_names};
use crate::commands::verify_watch::Watch;
use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::catalog::Catalog;
use crate::domain::needed_wal::{NeededWal, missing_of_backup, needed_wal};
use crate::domain::segment::SegmentSize;
use crate::domain::timeline::TimelineHistory;
use crate::domain::verification::{Degree, Depth, Finding, Findings, Verdict};
use crate::domain::verify_choice::{Limits, Sample, Stretch, Unit, by_age, choose};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::BACKUP_INFO_NAME;
use crate::layout::verify_record::{Subject, VerifyRecord};

/// Indexes read at the same time.
const READS_IN_FLIGHT: usize = 8;

/// What is to be verified, and how.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// Which backups.
    pub which: Which,
    /// How close to look.
    pub depth: Depth,
    /// What passed less than this ago is left out.
    pub max_age: Option<Duration>,
    /// How much is read, of a deep look.
    pub sample: Option<Sample>,
    /// When to stop, at whatever point it is.
    pub max_duration: Option<Duration>,
    /// Objects read at the same time, as far as memory allows.
    pub jobs: usize,
    /// All that may be in memory; one segment and its compressed form in any case.
    pub max_memory_bytes: usize,
    /// How fast objects may be read.
    pub max_rate_bytes_per_s: Option<u64>,
    /// Whether what was found is recorded in the store.
    pub record: bool,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Which backups are verified; the WAL is that which they need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Every one that is complete, and those that cannot be read.
    All,
    /// One: an id, a name, `latest` or `oldest`.
    One(String),
}

/// Looks at backups and at the WAL from their begins to now.
///
/// Quick: one listing, one small read for each `backup.info`, timeline history and index. Deep: that, and every byte of the
/// backups and of the WAL, `jobs` objects at a time; one listing for each 4 GiB of WAL. What was looked at is recorded
/// object by object, each as soon as it is through with, so that a run that was stopped has not been for nothing.
///
/// Damage is part of the answer; so is a store that stops answering in the middle. Needs a multi-threaded runtime. Errors:
/// the store's when nothing could be looked at at all; `NotFound` for a backup that is not there.
pub async fn verify(archive: &Archive, request: &VerifyRequest, progress: Arc<Progress>) -> Result<Verification> {
    let interrupt = Interrupt::listen()?;
    progress.phase("listing", 0);
    let mut seen = WalSeen::default();
    let mut watch = Watch::new(interrupt.clone(), request.max_duration);
    let mut take = |object: &_, name: &_, codec| seen.take(object, name, codec);
    let survey = watch.interruptible(survey_with(archive, &mut take)).await?;
    let history = VerifyHistory::of(&archive.prefix, &survey.ours);
    let reading = Reading {
        archive: archive.clone(),
        runtime: Handle::current(),
        jobs: memory::for_readers(request.max_memory_bytes, request.jobs),
        max_memory_bytes: request.max_memory_bytes,
        rate: RateLimit::new(request.max_rate_bytes_per_s),
        interrupt,
        progress,
    };
    let recorder = Recorder::new(archive, request.record);
    let mut run = Run { archive, request, survey: &survey, seen: &seen, history, reading, recorder, watch };
    let (chosen, skipped, findings) = run.choose()?;
    let mut looks = run.look_from_outside(&chosen).await;
    let backups: Vec<&Backup> = chosen.iter().map(|surveyed| &surveyed.backup).collect();
    let size =
        backups.iter().rev().find(|backup| backup.begin_lsn.is_some()).map_or(SegmentSize::DEFAULT, |b| b.segment_size);
    let needed = needed_wal(&backups, &survey.wal, &survey.histories, size);
    let names = run.look_at_wal(&needed, size).await;
    let mut wal = names_report(&needed, size);
    if request.depth == Depth::Deep {
        wal = run.read(&chosen, &mut looks, &needed, size).await;
    }
    run.record_quick(&mut looks).await;
    let recoverable = recoverable(&survey, &backups, &wal);
    let mut answer = Verification {
        depth: request.depth,
        backups: looks.into_iter().map(|looked| looked.report).chain(skipped).collect(),
        wal,
        findings,
        recoverable,
        stop: run.watch.stop,
        unrecorded: run.recorder.failure,
        took: run.watch.begun.elapsed(),
    };
    answer.findings.append(names);
    answer.backups.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(answer)
}

/// One verification at work.
struct Run<'a> {
    archive: &'a Archive,
    request: &'a VerifyRequest,
    survey: &'a Survey,
    seen: &'a WalSeen,
    history: VerifyHistory,
    reading: Reading,
    recorder: Recorder<'a>,
    watch: Watch,
}

/// A backup that was looked at from outside.
struct Looked {
    report: BackupReport,
    /// What there is to read of it; none when it need not be looked at.
    look: Option<BackupLook>,
    begun: DateTime<Utc>,
    is_recorded: bool,
}

/// What a deep look reads as a whole.
#[derive(Debug, Clone, Copy)]
enum Piece {
    /// A backup, by its place among those chosen.
    Backup(usize),
    /// WAL of one directory.
    Wal(Stretch),
}

impl<'a> Run<'a> {
    /// The backups to look at, those that are passed over, and what is wrong with the catalogue.
    fn choose(&self) -> Result<(Vec<&'a Surveyed>, Vec<BackupReport>, Findings)> {
        let survey = self.survey;
        let unreadable = |id: &str, error: &Error| {
            Finding::damage(format!("{}{id}/{BACKUP_INFO_NAME}", self.archive.prefix.base()), error.to_string())
        };
        match &self.request.which {
            Which::All => {
                let (done, others): (Vec<&Surveyed>, Vec<&Surveyed>) =
                    survey.backups.iter().partition(|surveyed| surveyed.backup.status == BackupStatus::Done);
                if done.is_empty() && survey.unreadable.is_empty() {
                    return Err(Error::new(ErrorKind::NotFound, "there is no complete backup to verify"));
                }
                let skip = |surveyed: &&Surveyed| {
                    let why = format!("it is {}", surveyed.backup.status);
                    BackupReport { share: Share::Skipped(why), ..BackupReport::of(&surveyed.backup.id) }
                };
                let findings = survey.unreadable.iter().map(|(id, error)| unreadable(id, error)).collect();
                Ok((done, others.iter().map(skip).collect(), findings))
            }
            Which::One(word) => {
                if let Some((id, error)) = survey.unreadable.iter().find(|(id, _)| id == word) {
                    return Ok((Vec::new(), Vec::new(), [unreadable(id, error)].into_iter().collect()));
                }
                let catalog = Catalog::new(survey.catalog());
                let id = &catalog.find(word)?.id;
                let chosen = survey.backups.iter().filter(|surveyed| surveyed.backup.id == *id).collect();
                let notice =
                    |(id, error): &(String, Error)| Finding { degree: Degree::Notice, ..unreadable(id, error) };
                Ok((chosen, Vec::new(), survey.unreadable.iter().map(notice).collect()))
            }
        }
    }

    /// Looks at each backup's objects by names and sizes, but for those that passed not long ago.
    async fn look_from_outside(&mut self, chosen: &[&Surveyed]) -> Vec<Looked> {
        let mut looked: Vec<Looked> = Vec::new();
        let (archive, request, now) = (self.archive, self.request, self.request.now);
        let recent = |surveyed: &Surveyed| {
            let last = self.history.last_pass(&surveyed.backup.id, request.depth)?;
            let age = now.signed_duration_since(last).to_std().ok()?;
            request.max_age.is_some_and(|most| age < most).then_some(last)
        };
        let looks =
            chosen.iter().map(|surveyed| {
                let recent = recent(surveyed);
                async move {
                    (*surveyed, recent, if recent.is_none() { Some(look_at(archive, surveyed).await) } else { None })
                }
            });
        let looks: Vec<_> = looks.collect();
        let mut looks = futures::stream::iter(looks).buffered(READS_IN_FLIGHT);
        loop {
            let begun = self.watch.now(request.now);
            let next = if self.watch.stop.is_some() {
                None
            } else {
                self.watch.interruptible(async { Ok(looks.next().await) }).await.ok().flatten()
            };
            let Some((surveyed, recent, look)) = next else { break };
            let mut report = BackupReport::of(&surveyed.backup.id);
            if let Some(look) = &look {
                (report.objects, report.bytes) = (look.objects, look.bytes);
                report.share = Share::Looked(Depth::Quick);
                report.findings.append(look.findings.clone());
                for name in missing_of_backup(&surveyed.backup, &self.survey.wal, &self.survey.histories) {
                    report.findings.push(Finding::damage(
                        name.to_string(),
                        "it is not in the archive, and the backup is not consistent without it",
                    ));
                }
                if look.is_unreachable {
                    self.watch.stop = Some(Stop::Store);
                }
            }
            if let Some(last) = recent {
                report.share = Share::Recent(last);
            }
            looked.push(Looked { report, look, begun, is_recorded: recent.is_some() });
        }
        drop(looks);
        for surveyed in chosen.iter().skip(looked.len()) {
            let report = BackupReport { share: Share::Left, ..BackupReport::of(&surveyed.backup.id) };
            looked.push(Looked { report, look: None, begun: request.now, is_recorded: true });
        }
        looked
    }

    /// Looks at the names of the WAL that the backups need.
    async fn look_at_wal(&mut self, needed: &NeededWal, size: SegmentSize) -> Findings {
        let findings = look_at_names(self.archive, self.survey, self.seen, needed, size);
        if self.request.which == Which::All && self.watch.stop.is_none() {
            let times = (self.request.now, self.watch.now(self.request.now));
            let record = VerifyRecord {
                checked_objects: needed.present.iter().map(Stretch::segments).sum(),
                checked_bytes: self.survey.wal_bytes,
                segment_bytes: Some(size.bytes()),
                ..VerifyRecord::new(Subject::Wal, Depth::Quick, times, &findings)
            };
            self.recorder.put(&record).await;
        }
        findings
    }

    /// Reads backups and WAL, what was read longest ago first, until the sample is used up or the time is.
    async fn read(
        &mut self,
        chosen: &[&Surveyed],
        looks: &mut [Looked],
        needed: &NeededWal,
        size: SegmentSize,
    ) -> Vec<WalReport> {
        let limits = Limits { now: self.request.now, max_age: self.request.max_age, sample: self.request.sample };
        let choice = choose(self.pieces(looks, needed, size), &limits);
        let mut wal: Vec<WalReport> = Vec::new();
        for unit in &choice.recent {
            if let (Piece::Wal(stretch), Some(last)) = (unit.key, unit.last) {
                wal.push(WalReport { share: Share::Recent(last), ..WalReport::of(stretch, unit.bytes, size) });
            }
        }
        for unit in &choice.left {
            if let Piece::Wal(stretch) = unit.key {
                wal.push(WalReport { share: Share::Left, ..WalReport::of(stretch, unit.bytes, size) });
            }
        }
        let survey = self.survey;
        let reading = self.reading.clone();
        let cluster = chosen.iter().rev().find_map(|surveyed| surveyed.backup.system_identifier);
        let oldest = chosen.first().map(|surveyed| surveyed.backup.id.clone());
        let by_wal = oldest.map(|oldest| WalReading {
            reading: &reading,
            size,
            cluster,
            histories: &survey.histories,
            wal: &survey.wal,
            oldest,
        });
        self.reading.progress.phase("reading", choice.chosen.iter().map(|unit| unit.bytes).sum());
        let mut chain = Chain::default();
        for unit in choice.chosen {
            match (unit.key, &by_wal) {
                (Piece::Backup(at), _) => {
                    if let Some(looked) = looks.get_mut(at) {
                        self.read_backup(&chosen[at].backup, looked).await;
                    }
                }
                (Piece::Wal(stretch), Some(by_wal)) => {
                    let report = WalReport::of(stretch, unit.bytes, size);
                    wal.push(self.read_wal(by_wal, &mut chain, report, stretch).await);
                }
                (Piece::Wal(_), None) => {}
            }
        }
        wal.sort_by_key(|report| (report.first.timeline, report.first));
        wal
    }

    fn pieces(&self, looks: &[Looked], needed: &NeededWal, size: SegmentSize) -> Vec<Unit<Piece>> {
        let backups = looks.iter().enumerate().filter_map(|(at, looked)| {
            let look = looked.look.as_ref().filter(|look| !look.parts.is_empty())?;
            let id = &looked.report.id;
            let bytes = look.parts.iter().map(|part| part.bytes).sum();
            Some(Unit { key: Piece::Backup(at), bytes, last: self.history.last_pass(id, Depth::Deep) })
        });
        let passed = self.history.looks(size);
        let stretches = needed.present.iter().flat_map(|stretch| stretch.by_directory(size));
        let pieces = stretches.flat_map(|stretch| by_age(stretch, &passed));
        let wal = pieces.map(|(stretch, last)| Unit {
            key: Piece::Wal(stretch),
            bytes: self.seen.bytes_of(stretch, size),
            last,
        });
        backups.chain(wal).collect()
    }

    async fn read_backup(&mut self, backup: &Backup, looked: &mut Looked) {
        let Some(look) = looked.look.take() else { return };
        if self.watch.is_over() {
            looked.report.is_left = true;
            return;
        }
        let begun = self.watch.now(self.request.now);
        let (reading, of) = (self.reading.clone(), backup.clone());
        let working =
            tokio::task::spawn_blocking(move || read_parts(Work { reading: &reading, backup: &of, look: &look }));
        let read = self.watch.watch(working).await.unwrap_or_else(|error| {
            let error = Error::new(ErrorKind::Bug, format!("reading a backup failed: {error}"));
            let findings = [Finding::of_error(backup.id.to_string(), &error)].into_iter().collect();
            PartsRead { findings, ..PartsRead::default() }
        });
        if self.ran_out(read.is_unreachable, &read.findings) {
            looked.report.is_left = true;
            return;
        }
        looked.report.share = Share::Looked(Depth::Deep);
        looked.report.bytes = read.bytes;
        looked.report.findings.append(read.findings);
        looked.begun = begun;
        self.record_backup(looked, Depth::Deep).await;
    }

    async fn read_wal(
        &mut self,
        by_wal: &WalReading<'_>,
        chain: &mut Chain,
        mut report: WalReport,
        stretch: Stretch,
    ) -> WalReport {
        if self.watch.is_over() {
            report.share = Share::Left;
            return report;
        }
        let begun = self.watch.now(self.request.now);
        let read = self.watch.watch(by_wal.read(chain, stretch)).await;
        if self.ran_out(read.is_unreachable, &read.findings) {
            report.share = Share::Left;
            return report;
        }
        report.share = Share::Looked(Depth::Deep);
        (report.bytes, report.findings, report.last_commit) = (read.bytes, read.findings, read.last_commit);
        if report.findings.verdict() != Verdict::Inconclusive {
            let times = (begun, self.watch.now(self.request.now));
            let subject = Subject::of_stretch(stretch, by_wal.size);
            let record = VerifyRecord {
                checked_objects: read.objects,
                checked_bytes: read.bytes,
                segment_bytes: Some(by_wal.size.bytes()),
                last_commit: read.last_commit,
                ..VerifyRecord::new(subject, Depth::Deep, times, &report.findings)
            };
            self.recorder.put(&record).await;
        }
        report
    }

    /// Notes why a piece was not read to its end. True when it was the time alone, and nothing is wrong with what was read.
    fn ran_out(&mut self, is_unreachable: bool, findings: &Findings) -> bool {
        if is_unreachable && self.watch.stop.is_none() {
            self.watch.stop = Some(Stop::Store);
        }
        matches!(self.watch.stop, Some(Stop::Time)) && findings.verdict() == Verdict::Inconclusive
    }

    /// Records those that were looked at from outside only.
    async fn record_quick(&mut self, looks: &mut [Looked]) {
        for looked in looks {
            let is_looked = looked.report.share == Share::Looked(Depth::Quick);
            if is_looked && !looked.is_recorded && self.watch.stop != Some(Stop::Store) {
                self.record_backup(looked, Depth::Quick).await;
            }
        }
    }

    async fn record_backup(&mut self, looked: &mut Looked, depth: Depth) {
        let report = &looked.report;
        looked.is_recorded = true;
        if report.findings.verdict() == Verdict::Inconclusive && self.watch.stop == Some(Stop::Store) {
            return;
        }
        let times = (looked.begun, self.watch.now(self.request.now));
        let record = VerifyRecord {
            checked_objects: report.objects,
            checked_bytes: report.bytes,
            ..VerifyRecord::new(Subject::Backup(report.id.clone()), depth, times, &report.findings)
        };
        self.recorder.put(&record).await;
    }
}

/// How far the newest backup leads along the newest timeline that leads on from it.
fn recoverable(survey: &Survey, backups: &[&Backup], wal: &[WalReport]) -> Option<Recoverable> {
    let newest = backups.iter().max_by_key(|backup| (backup.end_time, &backup.id))?;
    let (own, begin) = (newest.timeline?, newest.begin_lsn?);
    let paths = survey.histories.values().rev().cloned().chain([TimelineHistory::root(own)]);
    let mut paths = paths.filter(|path| path.timeline_at(begin) == own);
    let reach = paths.find_map(|path| survey.wal.recoverable_from(newest, &path))?;
    let last = reach.last?;
    let read = || wal.iter().filter(|report| report.share == Share::Looked(Depth::Deep) && report.first <= last);
    // Where the last segment was not read, younger commits may be in it.
    let is_read = read().any(|report| report.first.timeline == last.timeline && report.last >= last);
    let last_commit = read().filter_map(|report| report.last_commit).max().filter(|_| is_read);
    Some(Recoverable { timeline: last.timeline, lsn: reach.lsn, stored: reach.modified, last_commit })
}

/// What the names say about the WAL, when its bytes are not read.
fn names_report(needed: &NeededWal, size: SegmentSize) -> Vec<WalReport> {
    let report =
        |stretch: &Stretch| WalReport { share: Share::Looked(Depth::Quick), ..WalReport::of(*stretch, 0, size) };
    needed.present.iter().map(report).collect()
}
