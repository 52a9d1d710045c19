//! Expiring by policy, deleting by name, removing debris: look, judge, say what goes; then announce it, look again, delete.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::StreamExt;

use crate::commands::archive::Archive;
use crate::commands::debris::Debris;
use crate::commands::deletion::{Deleted, Deletion, WalObjects};
use crate::commands::expiry_lock::{Announced, SeenLock, read_listed};
use crate::commands::interrupt::Interrupt;
use crate::commands::process_identity;
use crate::commands::survey::{Survey, Surveyed, survey_with};
use crate::domain::catalog::Catalog;
use crate::domain::expiry::{ExpiryPlan, Holdings, Orphan, plan};
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::postgresql_time;
use crate::domain::retention::{Bound, Held, Rules, Wish};
use crate::domain::timeline::TimelineId;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::expiry_lock::ExpiryLock;
use crate::store::{Listed, ObjectLock};

/// Backups asked about their locks at the same time; two requests each.
const LOOKS_IN_FLIGHT: usize = 8;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpireRequest {
    /// Which backups are to go; of a deletion the word for the backup: an id, a name, `latest` or `oldest`.
    pub wish: Wish,
    /// So many of the newest restorable backups stay; at least 1.
    pub minimum_redundancy: u64,
    /// Where a base backup begins that lies elsewhere.
    pub floor: Option<Lsn>,
    /// Remove debris too.
    pub debris: bool,
    /// Say what would go, and let everything be.
    pub dry_run: bool,
    /// The present.
    pub now: DateTime<Utc>,
}

/// What was judged, and what became of it.
#[derive(Debug)]
pub struct Expired {
    /// The verdicts: those that were carried out, or would be.
    pub plan: ExpiryPlan,
    /// When each backup ended.
    pub ended: BTreeMap<String, DateTime<Utc>>,
    /// What each backup's objects come to in the store.
    pub stored_bytes: BTreeMap<String, u64>,
    /// What the WAL of each timeline and log comes to, and how many objects that is.
    pub wal_bytes: BTreeMap<(TimelineId, u32), (u64, u64)>,
    /// The end of the oldest backup that can be restored.
    pub reaches_back_to: Option<DateTime<Utc>>,
    /// What is left over.
    pub debris: Debris,
    /// Backups that were to go and stay after all, and why.
    pub changed: Vec<(String, String)>,
    /// What was deleted; none in a dry run, and where nothing was to go.
    pub deleted: Option<Deleted>,
}

/// Judges, and deletes what goes; `show` sees the verdicts before anything is deleted.
///
/// Order: the verdicts; a lock with what is about to go; a second look, after which less may go and never more; the records of
/// backups, so that they are none for anybody; then what they recorded; then WAL. What is not understood is never deleted. An
/// object that could not be deleted does not keep the rest, and is told of in the answer.
///
/// Requests: two surveys, one or two for each backup that goes where objects can be locked, then one for each thousand
/// objects. Memory: that of a survey, and the keys of the WAL that goes, half a million at most.
///
/// Errors: `Conflict` for a deletion that is refused, or another expiry at work; `NotFound` for a backup that is not there;
/// `Interrupted`; the store's.
pub async fn expire(
    archive: &Archive,
    request: &ExpireRequest,
    show: &mut dyn FnMut(&Expired) -> Result<()>,
) -> Result<Expired> {
    let mut interrupt = Interrupt::listen()?;
    let mut first = tokio::select! {
        stock = Stock::take(archive, request, None) => stock?,
        stopped = interrupt.signalled() => return Err(stopped),
    };
    first.ask_for_locks(archive, request).await?;
    let plan = first.judge(request)?;
    let mut expired = first.answer(plan);
    show(&expired)?;
    let has_uploads = request.debris && expired.debris.uploads.as_ref().is_some_and(|uploads| !uploads.is_empty());
    let has_work = first.has_dead_locks
        || expired.plan.going().next().is_some()
        || expired.plan.segments_going() > 0
        || has_uploads;
    if request.dry_run {
        if let Some(cause) = &first.survey.hidden_keeps {
            tracing::warn!("some of these backups may be kept by annotations that could not be looked for: {cause}");
        }
        return Ok(expired);
    }
    if !has_work {
        return Ok(expired);
    }
    let lock = lock_of(&expired.plan, request);
    prove_right_to_delete(archive, &lock).await?;
    first.prove_keeps_were_seen()?;
    let announced = Announced::begin(archive, lock).await?;
    let outcome = carry_out(request, &first, &announced, &mut expired, &interrupt).await;
    let failures = expired.deleted.as_ref().map(|deleted| &deleted.failures);
    let is_unanswered = |error: &Error| error.kind() == ErrorKind::Unreachable;
    match &outcome {
        // A request without an answer may be carried out later: until then backups must see the lock.
        Err(error) if is_unanswered(error) => announced.leave(),
        Ok(()) if failures.is_some_and(|failures| failures.iter().any(|(_, error)| is_unanswered(error))) => {
            announced.leave();
        }
        Ok(()) if failures.is_some_and(Vec::is_empty) => announced.end().await,
        // A directory whose record is gone would else look like a backup that is just being taken.
        _ => announced.end_unfinished().await,
    }
    outcome.map(|()| expired)
}

/// Deletes the lock that is not there yet. Without the right to, it would stay once it is, and hinder expiries on other hosts.
async fn prove_right_to_delete(archive: &Archive, lock: &ExpiryLock) -> Result<()> {
    archive.store.delete(&archive.prefix.expiry(&lock.id)).await.map_err(|error| {
        if error.kind() != ErrorKind::Denied {
            return error;
        }
        let error = error.context("nothing was deleted: these credentials may not delete");
        error.with_hint("Use credentials that may; what they need is in docs/least-privilege.md.")
    })
}

async fn carry_out(
    request: &ExpireRequest,
    first: &Stock,
    announced: &Announced<'_>,
    expired: &mut Expired,
    interrupt: &Interrupt,
) -> Result<()> {
    let archive = announced.archive;
    let mut wal = WalObjects::up_to(announced.lock.wal_up_to.clone());
    // Whatever began before the lock was written is in this listing; what begins later sees the lock.
    let mut stock = Stock::take(archive, request, Some(&mut wal)).await?;
    stock.prove_keeps_were_seen()?;
    stock.bounds.clone_from(&first.bounds);
    let again = stock.judge(request)?;
    let is_announced = |id: &String| announced.lock.backups.contains(id);
    let others = again.going().map(|backup| backup.id.clone()).filter(|id| !is_announced(id));
    stock.bounds.extend(others.map(|id| (id, Bound::Unannounced)));
    let again = stock.judge(request)?;

    let mut deletion = Deletion::new(archive, announced, interrupt);
    let kept_on = deletion.records(&stock.survey, &again).await?;
    stock.bounds.extend(kept_on.into_iter().map(|(id, why)| (id, Bound::Failed(why))));
    // A refusal here says that a record could not be deleted, which is on record.
    if let Ok(last) = stock.judge(request) {
        deletion.directories(&stock.survey, &last).await?;
        deletion.wal(wal, &last.rules).await?;
        expired.changed = changes(&expired.plan, &last);
    }
    if let Some(uploads) = expired.debris.uploads.as_ref().filter(|_| request.debris) {
        let failed = expired.debris.abort_uploads(archive).await;
        deletion.deleted.uploads = uploads.len().saturating_sub(failed.len()) as u64;
        deletion.deleted.failures.extend(failed);
    }
    expired.deleted = Some(deletion.deleted);
    Ok(())
}

/// The backups that were to go and stay after all, and why.
fn changes(before: &ExpiryPlan, after: &ExpiryPlan) -> Vec<(String, String)> {
    let now = |id: &str| after.backups.iter().find(|backup| backup.id == id);
    let stays = before.going().filter_map(|backup| now(&backup.id)).filter(|backup| !backup.verdict.goes);
    stays.map(|backup| (backup.id.clone(), backup.verdict.why.clone())).collect()
}

/// What an expiry says of itself before it begins.
fn lock_of(plan: &ExpiryPlan, request: &ExpireRequest) -> ExpiryLock {
    let (host, pid) = (process_identity::host(), std::process::id());
    let now = Utc::now();
    let plain: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    // Nothing in it is secret or need be random: one process writes one lock in a microsecond.
    let id = format!("{}-{plain}-{pid}", now.format("%Y%m%dT%H%M%S%.6f"));
    tracing::debug!("expiry {id} of {:?}", request.wish);
    ExpiryLock {
        id,
        host,
        pid,
        process: process_identity::own(),
        started: now,
        wal_up_to: plan.last_going(),
        backups: plan.going().map(|backup| backup.id.clone()).collect(),
        is_over: false,
    }
}

/// What the archive holds, and what else was found out about it.
struct Stock {
    survey: Survey,
    debris: Debris,
    orphans: Vec<Orphan>,
    /// Locks of expiries that were killed: they go too.
    has_dead_locks: bool,
    bounds: BTreeMap<String, Bound>,
    wal_bytes: BTreeMap<(TimelineId, u32), (u64, u64)>,
    wish: Wish,
}

impl Stock {
    async fn take(archive: &Archive, request: &ExpireRequest, mut wal: Option<&mut WalObjects>) -> Result<Self> {
        let mut wal_bytes: BTreeMap<(TimelineId, u32), (u64, u64)> = BTreeMap::new();
        let survey = survey_with(archive, &mut |object, name, _| {
            if let Some(segment) = name.segment() {
                let log = wal_bytes.entry((segment.timeline, segment.log)).or_default();
                *log = (log.0 + object.bytes, log.1 + 1);
                if let Some(wal) = &mut wal {
                    wal.add(segment, object);
                }
            }
        })
        .await?;
        let debris = Debris::find(archive, &survey, request.debris, request.now).await?;
        let (mut orphans, has_dead_locks) = unfinished(archive, &survey).await?;
        if request.debris {
            let known: BTreeSet<String> = orphans.iter().map(|orphan| orphan.id.clone()).collect();
            let more = debris.directories.iter().map(|(orphan, _)| orphan);
            orphans.extend(more.filter(|orphan| !known.contains(&orphan.id)).cloned());
        }
        let wish = match &request.wish {
            Wish::Delete(word) => Wish::Delete(resolve(&survey, word)?),
            wish => wish.clone(),
        };
        if !request.dry_run {
            survey.remember(archive).await;
        }
        Ok(Self { survey, debris, orphans, has_dead_locks, bounds: BTreeMap::new(), wal_bytes, wish })
    }

    /// Errors: `Denied` where a backup may be kept by an annotation that these credentials may not see.
    fn prove_keeps_were_seen(&self) -> Result<()> {
        let Some(cause) = &self.survey.hidden_keeps else { return Ok(()) };
        let message = format!("nothing was deleted: annotations that keep backups could not be looked for: {cause}");
        Err(Error::new(ErrorKind::Denied, message)
            .with_hint("Barman writes them there for a URL that ends in a slash: allow to list and to read them."))
    }

    fn judge(&self, request: &ExpireRequest) -> Result<ExpiryPlan> {
        let debris = |id: &str| {
            let found = self.debris.backups.iter().filter(|_| request.debris).find(|(debris, ..)| debris == id);
            found.map(|(_, why, _)| why.clone())
        };
        let held = |surveyed: &'_ Surveyed| {
            let id = surveyed.backup.id.as_str();
            (self.bounds.get(id).cloned(), debris(id))
        };
        let backups = self.survey.backups.iter().map(|surveyed| {
            let (bound, debris) = held(surveyed);
            Held { backup: &surveyed.backup, keep: surveyed.keep, bound, debris }
        });
        let begun: BTreeSet<&String> = self.orphans.iter().map(|orphan| &orphan.id).collect();
        let holdings = Holdings {
            backups: backups.collect(),
            unreadable: self.survey.unreadable.iter().map(|(id, _)| id.clone()).collect(),
            unrecorded: self.debris.fresh_directories.iter().filter(|id| !begun.contains(id)).cloned().collect(),
            orphans: self.orphans.clone(),
            wal: &self.survey.wal,
            histories: &self.survey.histories,
            floor: request.floor,
        };
        plan(
            &holdings,
            &Rules { wish: self.wish.clone(), minimum_redundancy: request.minimum_redundancy, now: request.now },
        )
    }

    /// Asks of each backup that would go whether a lock keeps it.
    async fn ask_for_locks(&mut self, archive: &Archive, request: &ExpireRequest) -> Result<()> {
        let plan = self.judge(request)?;
        let going: BTreeSet<&str> = plan.going().map(|backup| backup.id.as_str()).collect();
        let asked = self.survey.backups.iter().filter(|surveyed| going.contains(surveyed.backup.id.as_str()));
        let asked: Vec<&Surveyed> = asked.collect();
        // Where we may not ask, they may be.
        if asked.is_empty() || archive.store.can_lock().await? == Some(false) {
            return Ok(());
        }
        let looks = asked.into_iter().map(async |surveyed| {
            let info = archive.prefix.backup_info(&surveyed.backup.id);
            // What was written at the beginning, and at the end: a retention counts from there.
            let part = surveyed.objects.iter().map(|object| &object.key).find(|key| **key != info);
            let mut lock = archive.store.lock_of(&info).await?;
            if let (None, Some(part)) = (&lock, part) {
                lock = archive.store.lock_of(part).await?;
            }
            Ok::<_, Error>((surveyed.backup.id.to_string(), lock))
        });
        let mut looks = futures::stream::iter(looks).buffered(LOOKS_IN_FLIGHT);
        while let Some(look) = looks.next().await {
            if let (id, Some(lock)) = look? {
                let why = match lock {
                    ObjectLock::Hold => "locked by the store: a legal hold".to_owned(),
                    ObjectLock::Until(until) => format!("locked by the store until {}", postgresql_time(&until)),
                };
                self.bounds.insert(id, Bound::Locked(why));
            }
        }
        Ok(())
    }

    fn answer(&self, plan: ExpiryPlan) -> Expired {
        let backups = || self.survey.backups.iter().map(|surveyed| (surveyed.backup.id.to_string(), surveyed));
        let ended: BTreeMap<String, DateTime<Utc>> =
            backups().filter_map(|(id, surveyed)| Some((id, surveyed.backup.end_time?.to_utc()))).collect();
        let leftovers = self
            .survey
            .leftovers
            .iter()
            .map(|leftover| (leftover.id.clone(), leftover.objects.iter().map(|object| object.bytes).sum()));
        let restorable = plan.backups.iter().filter(|backup| backup.restorable && !backup.verdict.goes);
        let reaches_back_to = restorable.filter_map(|backup| ended.get(&backup.id)).min().copied();
        Expired {
            stored_bytes: backups().map(|(id, surveyed)| (id, surveyed.stored_bytes())).chain(leftovers).collect(),
            wal_bytes: self.wal_bytes.clone(),
            reaches_back_to,
            ended,
            debris: self.debris.clone(),
            deleted: None,
            changed: Vec::new(),
            plan,
        }
    }
}

/// Directories without a record whose deletion an expiry announced that is dead; and whether there is such an expiry.
async fn unfinished(archive: &Archive, survey: &Survey) -> Result<(Vec<Orphan>, bool)> {
    let expiries = archive.prefix.expiries();
    let listed: Vec<Listed> = survey.ours.iter().filter(|object| object.key.starts_with(&expiries)).cloned().collect();
    let now = Utc::now();
    let locks = read_listed(archive, listed).await?;
    let dead: Vec<&SeenLock> = locks.iter().filter(|seen| seen.is_dead(now)).collect();
    let said = dead.iter().filter_map(|seen| seen.lock.as_ref());
    let begun: BTreeSet<&String> = said.flat_map(|lock| &lock.backups).collect();
    let orphans = survey.leftovers.iter().filter(|leftover| begun.contains(&leftover.id)).map(|leftover| Orphan {
        id: leftover.id.clone(),
        why: "its deletion was begun by an expire that did not finish it".to_owned(),
    });
    Ok((orphans.collect(), !dead.is_empty()))
}

/// The id of the backup called `word`; of one that cannot be read, why.
fn resolve(survey: &Survey, word: &str) -> Result<String> {
    if let Some((_, error)) = survey.unreadable.iter().find(|(id, _)| id == word) {
        return Err(Error::corrupt(error.to_string()));
    }
    Catalog::new(survey.catalog()).find(word).map(|backup| backup.id.to_string())
}
