//! Chooses the backup and the timeline that lead to a target, or refuses with both ends of what can be reached.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::backup::{Backup, BackupStatus};
use crate::domain::catalog::Catalog;
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::{RecoveryTarget, TargetRequest, TargetTimeline, postgresql_time};
use crate::domain::restorable::{Unreachable, bounds_of, reach_along};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::window::{Reach, RecoveryWindow, WalInventory};
use crate::error::{Error, ErrorKind, Result};

/// How far the clocks of server and store may differ before a time target counts as later than the archive.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(60);
/// How many unusable backups a refusal explains.
const EXPLAINED: usize = 10;

/// Everything a plan depends on.
#[derive(Debug, Clone)]
pub struct PlanInput {
    /// The backups there are.
    pub catalog: Catalog,
    /// The WAL there is.
    pub inventory: WalInventory,
    /// The content of every `.history` file there is.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// What the operator asked for.
    pub request: TargetRequest,
    /// The backup the operator named; none to have it chosen.
    pub backup: Option<String>,
    /// The time it is.
    pub now: DateTime<Utc>,
}

/// What a restore will do. Data only: every rule has been checked, as far as names can tell.
#[derive(Debug, Clone, PartialEq)]
pub struct RestorePlan {
    /// The backup to restore.
    pub backup: Backup,
    /// The timeline to follow: `latest` and `current` resolved to a number.
    pub timeline: TimelineId,
    /// The path to it.
    pub history: TimelineHistory,
    /// The WAL there is from this backup on.
    pub reach: Reach,
    /// The moments this backup can be brought to.
    pub window: RecoveryWindow,
    /// What the operator asked for.
    pub request: TargetRequest,
    /// What the operator should know before going on, one sentence each.
    pub warnings: Vec<String>,
}

impl RestorePlan {
    /// How many segments lie between the beginning of the backup and the end of the WAL in reach.
    #[must_use]
    pub fn wal_segments(&self) -> u64 {
        let size = self.backup.segment_size;
        let begin = self.backup.begin_lsn.map_or(0, |lsn| size.segment_of(lsn));
        size.segment_of(self.reach.lsn).saturating_sub(begin)
    }
}

/// Chooses the newest backup that leads to the target, or checks the one that was named by the same rules.
///
/// A backup leads to a target when it is `DONE`, lies on the path to the timeline, has all its WAL from begin to end,
/// ended at or before the target, and WAL without a hole goes on beyond the target.
///
/// Errors: `NotFound` when no (or not the named) backup leads there, the timeline's history is not in the archive or the
/// backup is not there; `Usage` for a target PostgreSQL could not take or a name of several backups.
pub fn plan(input: &PlanInput) -> Result<RestorePlan> {
    input.request.validate()?;
    let path = match input.request.timeline {
        TargetTimeline::Current => None,
        TargetTimeline::Number(timeline) => Some(input.path_to(timeline)?),
        TargetTimeline::Latest => Some(input.path_to(input.latest_timeline())?),
    };
    match &input.backup {
        None => choose(input, path.as_ref()),
        Some(word) => {
            let backup = input.catalog.find(word)?;
            serve(input, path.as_ref(), backup).map_err(|error| match choose(input, path.as_ref()) {
                Ok(other) => error.with_hint(format!("backup \"{}\" leads to this target", other.backup.id)),
                Err(_) => error,
            })
        }
    }
}

/// The plan for the one backup that was named.
fn serve(input: &PlanInput, path: Option<&TimelineHistory>, backup: &Backup) -> Result<RestorePlan> {
    let candidate = input.candidate(backup, path).map_err(|unfit| {
        let why = format!("backup \"{}\" cannot be used: {}", backup.id, unfit.why);
        let window = window_of(&input.candidates(path).0);
        input.refusal(&why, window, "leave out --backup to have one chosen that leads to the target")
    })?;
    match input.objection(&candidate) {
        None => Ok(input.accept(candidate, &[])),
        Some(objection) => Err(input.refusal(&objection.why, Some(candidate.window()), &objection.hint)),
    }
}

/// The plan for the newest backup that leads to the target.
fn choose(input: &PlanInput, path: Option<&TimelineHistory>) -> Result<RestorePlan> {
    let (mut candidates, unfit) = input.candidates(path);
    let mut objections: Vec<_> = candidates.iter().map(|candidate| input.objection(candidate)).collect();
    if let Some(at) = objections.iter().position(Option::is_none) {
        let candidate = candidates.swap_remove(at);
        objections.swap_remove(at);
        // With `current` each backup follows its own timeline, and the same LSN may lie on several.
        let others = candidates
            .iter()
            .zip(&objections)
            .filter(|(other, objection)| objection.is_none() && other.path.timeline != candidate.path.timeline);
        let others = others.map(|(other, _)| {
            format!("backup \"{}\" leads to the target too, on timeline {}", other.backup.id, other.path.timeline)
        });
        let others: Vec<String> = others.collect();
        let mut plan = input.accept(candidate, &unfit);
        plan.warnings.extend(others);
        return Ok(plan);
    }
    // Newest first: what stops the newest backup that is old enough says most; else all are too young.
    let telling = objections.iter().flatten().find(|objection| !objection.too_young);
    if let Some(objection) = telling.or(objections.last().and_then(Option::as_ref)) {
        return Err(input.refusal(&objection.why, window_of(&candidates), &objection.hint));
    }
    let reasons = unfit.iter().rev().take(EXPLAINED).map(|unfit| format!("\"{}\": {}", unfit.backup.id, unfit.why));
    let reasons = reasons.collect::<Vec<_>>().join("; ");
    let why = if unfit.is_empty() {
        "the catalogue has no backup".to_owned()
    } else {
        format!("none of {} backups can be used: {reasons}", unfit.len())
    };
    Err(input.refusal(&why, None, "see the backups there are with barback list"))
}

/// A backup that can be restored along a path, whatever the target.
struct Candidate<'a> {
    backup: &'a Backup,
    end_time: DateTime<Utc>,
    end_lsn: Lsn,
    path: TimelineHistory,
    reach: Reach,
}

impl Candidate<'_> {
    fn window(&self) -> RecoveryWindow {
        RecoveryWindow {
            from_time: self.end_time,
            from_lsn: self.end_lsn,
            to_time: self.reach.modified,
            to_lsn: self.reach.lsn,
        }
    }
}

/// A backup that cannot be restored, whatever the target.
struct Unfit<'a> {
    backup: &'a Backup,
    why: String,
    /// Worth a warning, unlike a backup that merely lies on another branch.
    damaged: bool,
}

/// Why a candidate does not lead to the target.
struct Objection {
    why: String,
    hint: String,
    /// The backup ended after the target: an older one may do.
    too_young: bool,
}

impl Objection {
    fn new(why: String, hint: &str) -> Self {
        Self { why, hint: hint.to_owned(), too_young: false }
    }
}

impl PlanInput {
    /// The highest timeline that has a history file, segments or a backup.
    fn latest_timeline(&self) -> TimelineId {
        let backups = self.catalog.backups().iter().filter_map(|backup| backup.timeline);
        let read = self.histories.keys().copied();
        let wal = self.inventory.timelines().into_iter().chain(self.inventory.history_files());
        backups.chain(read).chain(wal).max().unwrap_or(TimelineId::FIRST)
    }

    /// The path to `timeline`. Only the first needs no history file; PostgreSQL too refuses others without.
    fn path_to(&self, timeline: TimelineId) -> Result<TimelineHistory> {
        if timeline == TimelineId::FIRST {
            return Ok(TimelineHistory::root(timeline));
        }
        self.histories.get(&timeline).filter(|history| history.timeline == timeline).cloned().ok_or_else(|| {
            let file = format!("{:08X}.history", timeline.number());
            let older = (TimelineId::FIRST.number()..timeline.number()).rev().filter_map(TimelineId::new);
            let known = older.take(64).find(|older| *older == TimelineId::FIRST || self.histories.contains_key(older));
            let window = known
                .and_then(|older| self.path_to(older).ok())
                .and_then(|path| Some((path.timeline, window_of(&self.candidates(Some(&path)).0)?)));
            let reachable = window.map_or_else(String::new, |(older, window)| {
                format!("; on timeline {older} backups and WAL reach {window}")
            });
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "could not plan a restore to {} on timeline {timeline}: \"{file}\" is not in the archive{reachable}",
                    self.request.target
                ),
            )
            .with_hint(format!("archive {file} from a server's pg_wal, or choose another --target-timeline"))
        })
    }

    /// What can be restored along `path` (each backup's own when none), newest first; and what cannot, by id.
    fn candidates(&self, path: Option<&TimelineHistory>) -> (Vec<Candidate<'_>>, Vec<Unfit<'_>>) {
        let (mut candidates, mut unfit) = (Vec::new(), Vec::new());
        for backup in self.catalog.backups() {
            match self.candidate(backup, path) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => unfit.push(reason),
            }
        }
        // Along one path the WAL's own order decides; LSNs of different timelines say nothing about age.
        candidates.sort_by(|a, b| {
            let by_lsn = if path.is_some() { b.end_lsn.cmp(&a.end_lsn) } else { std::cmp::Ordering::Equal };
            by_lsn.then_with(|| (b.end_time, b.end_lsn, &b.backup.id).cmp(&(a.end_time, a.end_lsn, &a.backup.id)))
        });
        (candidates, unfit)
    }

    /// The checks that do not depend on the target.
    fn candidate<'a>(
        &self,
        backup: &'a Backup,
        path: Option<&TimelineHistory>,
    ) -> std::result::Result<Candidate<'a>, Unfit<'a>> {
        let unfit = |why: String| Unfit { backup, why, damaged: true };
        let bounds = bounds_of(backup).map_err(unfit)?;
        let path = match path {
            Some(path) => path.clone(),
            None => self.path_to(bounds.timeline).map_err(|error| unfit(error.to_string()))?,
        };
        let reach = reach_along(backup, &bounds, &path, &self.inventory).map_err(|objection| Unfit {
            backup,
            damaged: matches!(objection, Unreachable::Incomplete(_)),
            why: objection.into_words(),
        })?;
        Ok(Candidate { backup, end_time: bounds.end_time, end_lsn: bounds.end, path, reach })
    }

    /// What keeps `candidate` from leading to the target; none when nothing does.
    fn objection(&self, candidate: &Candidate) -> Option<Objection> {
        let (reach, backup) = (&candidate.reach, candidate.backup);
        let too_young = |target: String| Objection {
            why: format!(
                "backup \"{}\" ended at {} (LSN {}), after the target {target}",
                backup.id,
                postgresql_time(&candidate.end_time),
                candidate.end_lsn
            ),
            hint: "choose a target at or after the end of the oldest backup, or an older backup".to_owned(),
            too_young: true,
        };
        match &self.request.target {
            RecoveryTarget::Immediate => None,
            RecoveryTarget::Lsn(target) if *target < candidate.end_lsn => Some(too_young(target.to_string())),
            // PostgreSQL stops at the first record that starts at or after the target: WAL must go on beyond it.
            RecoveryTarget::Lsn(target) => (*target >= reach.lsn).then(|| beyond(candidate, &target.to_string())),
            RecoveryTarget::Time(time) => {
                let time = time.to_utc();
                let target = postgresql_time(&time);
                if time < candidate.end_time {
                    return Some(too_young(target));
                }
                if time > self.now {
                    let now = postgresql_time(&self.now);
                    return Some(Objection::new(
                        format!("the target {target} is in the future, it is {now}"),
                        "choose an earlier time, or no target to restore to the end of the WAL",
                    ));
                }
                // Behind a gap there are younger commits that cannot be reached: no tolerance there.
                let tolerance = if reach.missing.is_some() { TimeDelta::zero() } else { CLOCK_TOLERANCE };
                let late =
                    reach.modified.and_then(|last| last.checked_add_signed(tolerance)).is_none_or(|to| time > to);
                (late || reach.strays_onto.is_some()).then(|| beyond(candidate, &target))
            }
            RecoveryTarget::Latest | RecoveryTarget::Xid(_) | RecoveryTarget::Name(_) => {
                reach.strays_onto.map(|_| beyond(candidate, &self.request.target.to_string()))
            }
        }
    }

    fn refusal(&self, why: &str, window: Option<RecoveryWindow>, hint: &str) -> Error {
        let timeline = match self.request.timeline {
            TargetTimeline::Current => "the backup's timeline".to_owned(),
            TargetTimeline::Number(timeline) => format!("timeline {timeline}"),
            TargetTimeline::Latest => format!("timeline {}", self.latest_timeline()),
        };
        let window = window.map_or_else(
            || format!("nothing can be reached on {timeline}"),
            |window| format!("backups and WAL on {timeline} reach {window}"),
        );
        let message = format!("could not plan a restore to {}: {why}; {window}", self.request.target);
        Error::new(ErrorKind::NotFound, message).with_hint(hint)
    }

    fn accept(&self, candidate: Candidate, unfit: &[Unfit]) -> RestorePlan {
        let mut warnings = self.warnings(&candidate);
        let too_young = |backup: &Backup| match &self.request.target {
            RecoveryTarget::Lsn(target) => backup.end_lsn.is_some_and(|end| end > *target),
            RecoveryTarget::Time(target) => backup.end_time.is_some_and(|end| end > *target),
            _ => false,
        };
        let passed_over = unfit.iter().filter(|Unfit { backup, damaged, .. }| {
            let newer = backup.end_time.is_none_or(|end| end > candidate.end_time);
            *damaged && backup.status == BackupStatus::Done && newer && !too_young(backup)
        });
        warnings
            .extend(passed_over.map(|unfit| format!("backup \"{}\" was passed over: {}", unfit.backup.id, unfit.why)));
        let window = candidate.window();
        RestorePlan {
            backup: candidate.backup.clone(),
            timeline: candidate.path.timeline,
            history: candidate.path,
            reach: candidate.reach,
            window,
            request: self.request.clone(),
            warnings,
        }
    }

    /// What names alone cannot settle about an accepted plan.
    fn warnings(&self, candidate: &Candidate) -> Vec<String> {
        let Candidate { backup, reach, .. } = candidate;
        let mut warnings = Vec::new();
        let target = &self.request.target;
        if matches!(target, RecoveryTarget::Xid(_) | RecoveryTarget::Name(_)) {
            warnings.push(format!(
                "names alone cannot prove that {target} lies between the end of backup \"{}\" (LSN {}) and LSN {}: \
                 recovery fails if it does not",
                backup.id, candidate.end_lsn, reach.lsn
            ));
        }
        let to_the_end = matches!(target, RecoveryTarget::Latest | RecoveryTarget::Xid(_) | RecoveryTarget::Name(_));
        if let Some(missing) = reach.missing.filter(|_| to_the_end) {
            warnings.push(format!(
                "segment \"{missing}\" is missing while later ones are there: nothing committed after LSN {} can be restored",
                reach.lsn
            ));
        }
        if let (RecoveryTarget::Time(time), Some(last)) = (target, reach.modified)
            && time.to_utc() > last
        {
            warnings.push(format!(
                "the target is later than {}, when the last segment was stored: \
                 recovery fails if nothing was committed after the target",
                postgresql_time(&last)
            ));
        }
        warnings.extend(self.other_branches(candidate));
        warnings
    }

    /// A warning for each timeline off the path that may hold the target too, where nobody said which one is meant.
    fn other_branches(&self, candidate: &Candidate) -> Vec<String> {
        let size = candidate.backup.segment_size;
        let timelines = self.inventory.timelines().into_iter().filter(|other| *other != candidate.path.timeline);
        let branches = timelines.filter_map(|other| {
            let history = self.path_to(other).ok()?;
            let parts = candidate.path.parts_from(&history).filter(|parts| *parts >= candidate.end_lsn)?;
            // A switched segment may be stored whole without anything in it: only later ones prove a branch.
            let first = size.segment_before(parts) + 1;
            let may_hold = match &self.request.target {
                RecoveryTarget::Lsn(target) => {
                    *target >= parts
                        && self.inventory.any_between(other, first.max(size.segment_of(*target)), u64::MAX, size)
                }
                RecoveryTarget::Time(time) => {
                    let last =
                        self.inventory.newest_of(other).and_then(|last| last.checked_add_signed(CLOCK_TOLERANCE));
                    last.is_some_and(|last| time.to_utc() <= last)
                        && self.inventory.any_between(other, first, u64::MAX, size)
                }
                _ => false,
            };
            may_hold.then(|| {
                format!(
                    "timeline {other} parts from the path to timeline {} at LSN {parts} and may hold the target too: \
                     if that branch is meant, use --target-timeline {other}",
                    candidate.path.timeline
                )
            })
        });
        if self.request.timeline == TargetTimeline::Latest { branches.collect() } else { Vec::new() }
    }
}

/// The objection that the WAL does not go on to the target.
fn beyond(candidate: &Candidate, target: &str) -> Objection {
    let Reach { lsn, modified, next, missing, strays_onto, .. } = &candidate.reach;
    let id = &candidate.backup.id;
    if let Some(branch) = strays_onto {
        return Objection::new(
            format!(
                "segment \"{next}\" is not in the archive; in its place PostgreSQL would replay timeline {branch} \
                 beyond LSN {lsn}, where the path to timeline {} has left it, before the target {target}",
                candidate.path.timeline
            ),
            &format!(
                "archive \"{next}\", or restore to just before the switch with \
                 --target-timeline {branch} --target-lsn {lsn} --exclusive"
            ),
        );
    }
    if missing.is_some() {
        return Objection::new(
            format!(
                "segment \"{next}\" is missing while later ones are there, \
                 so WAL from backup \"{id}\" ends at LSN {lsn}, before the target {target}"
            ),
            &format!("archive \"{next}\" if a server still has it, or choose a target before LSN {lsn}"),
        );
    }
    let stored = modified.map_or_else(String::new, |time| format!(" (stored at {})", postgresql_time(&time)));
    Objection::new(
        format!("the archive ends at LSN {lsn}{stored}, before the target {target}"),
        "choose an earlier target, no target to restore to the end of the WAL, \
         or have the server switch and archive its segment",
    )
}

/// From the oldest candidate's end to as far as any reaches.
fn window_of(candidates: &[Candidate]) -> Option<RecoveryWindow> {
    let oldest = candidates.last()?;
    let furthest = candidates.iter().max_by_key(|candidate| (candidate.reach.lsn, candidate.reach.modified))?;
    let to = furthest.window();
    Some(RecoveryWindow { to_time: to.to_time, to_lsn: to.to_lsn, ..oldest.window() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::recovery_target::TargetAction;
    use crate::domain::segment::{SegmentName, WalFileName};

    const MIB: u64 = 1 << 20;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn at(minute: i64) -> DateTime<Utc> {
        "2026-06-08T11:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minute)
    }

    /// A complete backup `20260608T11MM00` that ended in that minute; LSNs in MiB.
    fn backup(minute: i64, number: u32, begin: u64, end: u64) -> Backup {
        let (begin, end) = (Lsn(begin * MIB), Lsn(end * MIB));
        let mut backup = Backup::new(format!("20260608T11{minute:02}00").parse().unwrap());
        backup.status = BackupStatus::Done;
        backup.timeline = Some(timeline(number));
        (backup.begin_lsn, backup.end_lsn) = (Some(begin), Some(end));
        backup.begin_segment = Some(segment(number, backup.segment_size.segment_of(begin)));
        backup.end_time = Some(at(minute).fixed_offset());
        backup
    }

    fn segment(number: u32, index: u64) -> SegmentName {
        SegmentName::from_number(timeline(number), index, crate::domain::segment::SegmentSize::DEFAULT)
    }

    /// Two backups on timeline 1 (ends at 11:02 in segment 2, 11:06 in segment 6) and segments 1 to 9, segment n stored at 11:0n.
    fn input(target: RecoveryTarget) -> PlanInput {
        let mut inventory = WalInventory::new();
        for index in 1..10 {
            inventory.add(&WalFileName::Segment(segment(1, index)), at(i64::try_from(index).unwrap()));
        }
        PlanInput {
            catalog: Catalog::new(vec![backup(2, 1, 17, 40), backup(6, 1, 97, 100)]),
            inventory,
            histories: BTreeMap::new(),
            request: TargetRequest {
                target,
                inclusive: true,
                timeline: TargetTimeline::Latest,
                action: TargetAction::Promote,
            },
            backup: None,
            now: at(30),
        }
    }

    fn time(minute: i64) -> RecoveryTarget {
        RecoveryTarget::Time(at(minute).fixed_offset())
    }

    fn lsn(mib: u64) -> RecoveryTarget {
        RecoveryTarget::Lsn(Lsn(mib * MIB))
    }

    fn chosen(input: &PlanInput) -> String {
        plan(input).map_or_else(|error| panic!("{error}"), |plan| plan.backup.id.to_string())
    }

    fn refused(input: &PlanInput) -> String {
        let error = plan(input).expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    }

    #[test]
    fn the_newest_backup_that_ended_by_the_target_is_chosen() {
        for (target, id) in [
            (time(2), "20260608T110200"),
            (time(5), "20260608T110200"),
            (time(6), "20260608T110600"),
            (lsn(40), "20260608T110200"),
            (lsn(99), "20260608T110200"),
            (lsn(100), "20260608T110600"),
            (lsn(159), "20260608T110600"),
            (RecoveryTarget::Latest, "20260608T110600"),
            (RecoveryTarget::Immediate, "20260608T110600"),
            (RecoveryTarget::Xid(800), "20260608T110600"),
        ] {
            let text = target.to_string();
            assert_eq!(chosen(&input(target)), id, "{text}");
        }
    }

    #[test]
    fn a_refusal_names_both_ends_of_the_window_as_times_and_lsns() {
        for target in [time(1), time(11), time(31), lsn(39), lsn(160), lsn(1000)] {
            let text = refused(&input(target));
            let window = "reach from 2026-06-08 11:02:00+00 (LSN 0/2800000) to 2026-06-08 11:09:00+00 (LSN 0/A000000)";
            assert!(text.contains(window), "{text}");
        }
        let text = refused(&input(lsn(39)));
        assert!(text.contains("ended at 2026-06-08 11:02:00+00 (LSN 0/2800000), after the target 0/2700000"), "{text}");
        assert!(refused(&input(time(31))).contains("in the future"));
    }

    #[test]
    fn a_named_backup_is_held_to_the_same_rules_and_a_better_one_is_named() {
        let mut named = input(time(5));
        named.backup = Some("20260608T110600".to_owned());
        let error = plan(&named).unwrap_err();
        assert!(error.to_string().contains("after the target 2026-06-08 11:05:00+00"), "{error}");
        assert_eq!(error.hint(), Some("Backup \"20260608T110200\" leads to this target"));
        named.backup = Some("oldest".to_owned());
        assert_eq!(chosen(&named), "20260608T110200");
        named.backup = Some("nothing".to_owned());
        assert_eq!(plan(&named).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_time_within_a_minute_of_the_last_segment_is_allowed_with_a_warning_unless_there_is_a_gap() {
        let late = RecoveryTarget::Time((at(9) + TimeDelta::seconds(60)).fixed_offset());
        let mut input = input(late);
        assert!(plan(&input).unwrap().warnings[0].contains("later than 2026-06-08 11:09:00+00"));
        input.inventory.add(&WalFileName::Segment(segment(1, 11)), at(12));
        let text = refused(&input);
        assert!(text.contains("segment \"00000001000000000000000A\" is missing"), "{text}");
        input.request.target = time(9);
        assert_eq!(chosen(&input), "20260608T110600");
        input.request.target = lsn(176);
        assert!(refused(&input).contains("00000001000000000000000A"));
        input.request.target = RecoveryTarget::Latest;
        assert!(plan(&input).unwrap().warnings[0].contains("nothing committed after LSN 0/A000000"));
    }

    #[test]
    fn a_backup_that_is_not_done_or_lacks_wal_is_passed_over() {
        let mut input = input(time(9));
        let mut failed = backup(7, 1, 113, 114);
        failed.status = BackupStatus::Failed;
        let needs_more = backup(8, 1, 150, 170);
        let mut lying = backup(8, 1, 150, 151);
        lying.id = "20260608T110801".parse().unwrap();
        lying.begin_segment = Some(segment(1, 3));
        input.catalog = Catalog::new(vec![failed, needs_more, lying, backup(6, 1, 97, 100)]);
        let plan = plan(&input).unwrap();
        assert_eq!(plan.backup.id.as_str(), "20260608T110600");
        let text = plan.warnings.join("\n");
        assert!(text.contains("\"20260608T110800\" was passed over: segment \"00000001000000000000000A\""), "{text}");
        assert!(text.contains("\"20260608T110801\" was passed over: it contradicts itself"), "{text}");
        input.backup = Some("20260608T110700".to_owned());
        assert!(refused(&input).contains("it is FAILED, not DONE"));
    }

    #[test]
    fn current_without_a_named_backup_says_when_the_target_lies_on_two_timelines() {
        let mut input = input(lsn(130));
        let ancestors = vec![(timeline(1), Lsn(104 * MIB))];
        input.histories.insert(timeline(2), TimelineHistory { timeline: timeline(2), ancestors });
        for index in 6..9 {
            input.inventory.add(&WalFileName::Segment(segment(2, index)), at(20));
        }
        input.catalog = Catalog::new(vec![backup(6, 1, 97, 100), backup(15, 2, 120, 121)]);
        input.request.timeline = TargetTimeline::Current;
        let plan = plan(&input).unwrap();
        assert_eq!((plan.backup.id.as_str(), plan.timeline), ("20260608T111500", timeline(2)));
        assert_eq!(plan.warnings, ["backup \"20260608T110600\" leads to the target too, on timeline 1"]);
    }

    /// The history a real PostgreSQL 15 wrote after two recoveries, the second towards timeline 2 but stopped before it began.
    const AIMED_AT_BUT_NEVER_REACHED: &str = "1\t0/BC24A8\tafter LSN 0/BC2468\n\n\n2\t0/94F6C8\tafter LSN 0/94F688\n";

    #[test]
    fn a_backup_taken_after_the_real_fork_is_not_on_the_path() {
        let mut input = input(RecoveryTarget::Latest);
        let history = TimelineHistory::parse(timeline(3), AIMED_AT_BUT_NEVER_REACHED).unwrap();
        input.histories.insert(timeline(3), history);
        let mut after = backup(6, 1, 10, 11);
        after.begin_segment = Some(segment(1, 0));
        input.catalog = Catalog::new(vec![after]);
        input.inventory.add(&WalFileName::Segment(segment(1, 0)), at(0));
        input.inventory.add(&WalFileName::Segment(segment(3, 0)), at(20));
        assert!(refused(&input).contains("leaves timeline 1 at LSN 0/94F6C8"), "{}", refused(&input));
        input.request.timeline = TargetTimeline::Number(timeline(1));
        assert_eq!(chosen(&input), "20260608T110600");
        input.request.timeline = TargetTimeline::Current;
        assert_eq!(plan(&input).unwrap().timeline, timeline(1));
    }

    #[test]
    fn an_abandoned_branch_is_never_replayed_in_place_of_a_new_timeline_not_archived_yet() {
        let mut input = input(RecoveryTarget::Latest);
        let left = Lsn(120 * MIB);
        input
            .histories
            .insert(timeline(2), TimelineHistory { timeline: timeline(2), ancestors: vec![(timeline(1), left)] });
        let text = refused(&input);
        assert!(text.contains("replay timeline 1 beyond LSN 0/7800000"), "{text}");
        for target in [time(8), lsn(120), RecoveryTarget::Xid(900), RecoveryTarget::Name("x".into())] {
            input.request.target = target;
            refused(&input);
        }
        for target in [lsn(119), RecoveryTarget::Immediate] {
            input.request.target = target;
            assert_eq!(chosen(&input), "20260608T110600");
        }
        input.inventory.add(&WalFileName::Segment(segment(2, 7)), at(20));
        input.request.target = time(8);
        let plan = plan(&input).unwrap();
        assert_eq!(plan.timeline, timeline(2));
        assert!(
            plan.warnings[0].contains("timeline 1 parts from the path to timeline 2 at LSN 0/7800000"),
            "{:?}",
            plan.warnings
        );
    }

    #[test]
    fn a_timeline_without_its_history_file_is_refused() {
        let mut input = input(RecoveryTarget::Latest);
        input.inventory.add(&WalFileName::Segment(segment(2, 7)), at(20));
        let text = refused(&input);
        assert!(text.contains("\"00000002.history\" is not in the archive; on timeline 1"), "{text}");
    }
}
