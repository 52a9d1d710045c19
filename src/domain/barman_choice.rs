//! Which backup `barman-cloud-restore` lays down, and the answers it gives when it lays down none.

use std::fmt;
use std::path::PathBuf;

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeZone};

use crate::domain::backup::{Backup, BackupId, BackupStatus};
use crate::domain::catalog::Catalog;
use crate::domain::lsn::Lsn;
use crate::domain::recovery_target::parse_zoned_or_local_time;
use crate::domain::timeline::TimelineId;

/// The word that has the backup chosen for a target.
const AUTO: &str = "auto";

/// The backup that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Id(BackupId),
    /// One called so: `first`, `oldest`, `last`, `latest`, `last-failed`, or the name it was given.
    Called(String),
    /// The newest that leads to a target.
    For(ChoiceTarget),
}

/// What a backup is to lead to; without anything, any backup does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChoiceTarget {
    /// On which timeline it was taken.
    pub timeline: Option<WantedTimeline>,
    /// Where it has ended by.
    pub moment: Option<Moment>,
}

/// A timeline by number, or the archive's newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedTimeline {
    /// That of the last WAL file by name.
    Latest,
    /// This one; none at all where no timeline has the number.
    Number(Option<TimelineId>),
}

/// A moment, by clock or by WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// By the server's clock.
    Time(DateTime<FixedOffset>),
    /// A place in the WAL.
    Lsn(Lsn),
}

/// The words that say what a backup is to lead to, as typed; they count only beside `auto`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TargetWords<'a> {
    /// `--target-time`.
    pub time: Option<&'a str>,
    /// `--target-lsn`.
    pub lsn: Option<&'a str>,
    /// `--target-tli`: `current`, `latest` or a positive number.
    pub timeline: Option<&'a str>,
}

impl Wanted {
    /// Reads the words of a command line; a time without offset is one of the zone whose offsets `local` tells.
    ///
    /// Errors: a timeline, time or LSN that cannot be used with `auto`.
    pub fn read(
        word: &str,
        target: TargetWords<'_>,
        local: impl Fn(NaiveDateTime) -> FixedOffset,
    ) -> Result<Self, Refusal> {
        if word != AUTO {
            return Ok(word.parse().map_or_else(|_| Self::Called(word.to_owned()), Self::Id));
        }
        let timeline = match target.timeline {
            None => None,
            Some("current") => return Err(Refusal::CurrentTimeline),
            Some("latest") => Some(WantedTimeline::Latest),
            Some(number) => Some(WantedTimeline::Number(number.parse().ok().and_then(TimelineId::new))),
        };
        let moment = match (target.time, target.lsn) {
            (Some(text), _) => {
                Some(Moment::Time(read_time(text, local).ok_or_else(|| Refusal::BadTime(text.to_owned()))?))
            }
            (None, Some(text)) => Some(Moment::Lsn(text.parse().map_err(|_| Refusal::BadLsn(text.to_owned()))?)),
            (None, None) => None,
        };
        Ok(Self::For(ChoiceTarget { timeline, moment }))
    }

    /// Whether the choice depends on which timeline is the archive's newest.
    #[must_use]
    pub fn asks_for_newest_timeline(&self) -> bool {
        matches!(self, Self::For(target) if target.timeline == Some(WantedTimeline::Latest))
    }
}

/// The forms of Barman's free-form reader that leave no doubt: RFC 3339 and PostgreSQL's, a date alone (its midnight), an
/// id's form, and that of C's `ctime`.
fn read_time(text: &str, local: impl Fn(NaiveDateTime) -> FixedOffset) -> Option<DateTime<FixedOffset>> {
    let text = text.trim();
    if let Ok(time) = parse_zoned_or_local_time(text, &local) {
        return Some(time);
    }
    let forms = ["%Y%m%dT%H%M%S", "%Y-%m-%d %H:%M:%S%.f", "%a %b %e %H:%M:%S %Y"];
    let naive = forms.into_iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let midnight = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|date| date.and_time(NaiveTime::MIN));
    let naive = naive.or_else(midnight)?;
    local(naive).from_local_datetime(&naive).single()
}

/// Chooses among the backups of a catalogue, of which only complete ones count.
///
/// With `any_status` failed ones count too, as they do for Barman 3.19.1, where they can be `last` and be chosen for a
/// target. `newest` is the archive's newest timeline. A name that several backups bear is that of the only complete one
/// among them, if there is just one. Errors: that there is none, or more than one.
pub fn choose<'c>(
    wanted: &Wanted,
    catalog: &'c Catalog,
    newest: Option<TimelineId>,
    any_status: bool,
) -> Result<&'c Backup, Refusal> {
    let counts = |backup: &&Backup| {
        if any_status { backup.status != BackupStatus::Started } else { backup.status == BackupStatus::Done }
    };
    let mut usable = catalog.backups().iter().filter(counts);
    match wanted {
        Wanted::Id(id) => {
            catalog.backups().iter().find(|backup| backup.id == *id).ok_or_else(|| Refusal::NoSuchBackup(id.clone()))
        }
        Wanted::Called(word) => match word.as_str() {
            "first" | "oldest" => usable.next().ok_or_else(|| Refusal::UnknownName(word.clone())),
            "last" | "latest" => usable.next_back().ok_or_else(|| Refusal::UnknownName(word.clone())),
            "last-failed" => catalog
                .backups()
                .iter()
                .rfind(|backup| backup.status == BackupStatus::Failed)
                .ok_or_else(|| Refusal::UnknownName(word.clone())),
            name => named(catalog, name),
        },
        Wanted::For(target) => {
            let leads_there = |backup: &&Backup| target.is_served_by(backup, newest);
            usable.rfind(leads_there).ok_or(Refusal::NoCandidate)
        }
    }
}

fn named<'c>(catalog: &'c Catalog, name: &str) -> Result<&'c Backup, Refusal> {
    let bear_it: Vec<&Backup> =
        catalog.backups().iter().filter(|backup| backup.name.as_deref() == Some(name)).collect();
    let done: Vec<&Backup> = bear_it.iter().copied().filter(|backup| backup.status == BackupStatus::Done).collect();
    match (&done[..], &bear_it[..]) {
        ([backup], _) | ([], [backup]) => Ok(backup),
        ([], []) => Err(Refusal::UnknownName(name.to_owned())),
        _ => Err(Refusal::Ambiguous(name.to_owned(), bear_it.iter().map(|backup| backup.id.clone()).collect())),
    }
}

impl ChoiceTarget {
    fn is_served_by(&self, backup: &Backup, newest: Option<TimelineId>) -> bool {
        let timeline = match self.timeline {
            None => true,
            Some(WantedTimeline::Latest) => newest.is_some() && backup.timeline == newest,
            Some(WantedTimeline::Number(number)) => number.is_some() && backup.timeline == number,
        };
        timeline
            && match &self.moment {
                None => true,
                Some(Moment::Time(time)) => backup.end_time.is_some_and(|end| end <= *time),
                Some(Moment::Lsn(lsn)) => backup.end_lsn.is_some_and(|end| end <= *lsn),
            }
    }
}

/// Why nothing was laid down although nothing went wrong on the way: an answer, in Barman 3.19.1's words where it has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No backup leads to the target.
    NoCandidate,
    /// There is no backup with this id.
    NoSuchBackup(BackupId),
    /// The backup is not complete. Barman lays down whatever there is of it.
    NotDone(BackupId, BackupStatus),
    /// The backup is a set of disk snapshots.
    Snapshot(BackupId),
    /// Something is there already.
    NotEmpty(PathBuf),
    /// The data directory's first tar is not there, or that of a tablespace, by its OID.
    MissingFile(String),
    /// `current` has no meaning before a backup is chosen.
    CurrentTimeline,
    /// A time that cannot be read.
    BadTime(String),
    /// An LSN that cannot be read.
    BadLsn(String),
    /// No backup is called so.
    UnknownName(String),
    /// Several are.
    Ambiguous(String, Vec<BackupId>),
}

impl Refusal {
    /// Whether Barman treats it as an exception (code 4, text behind a prefix) and not as an answer (code 1).
    #[must_use]
    pub fn is_exception(&self) -> bool {
        matches!(
            self,
            Self::CurrentTimeline | Self::BadTime(_) | Self::BadLsn(_) | Self::UnknownName(_) | Self::Ambiguous(..)
        )
    }

    /// The text, of the backups of `server`.
    #[must_use]
    pub fn text(&self, server: &str) -> String {
        match self {
            Self::NoCandidate => "Cannot find any candidate backup for recovery.".to_owned(),
            // Spelled so by Barman.
            Self::NoSuchBackup(id) => format!("Backup {id} for server {server} does not exists"),
            Self::NotDone(id, status) => {
                format!(
                    "Backup {id} for server {server} has status {status}: only a backup with status DONE is restored"
                )
            }
            Self::Snapshot(id) => {
                format!("Backup {id} for server {server} is a snapshot backup: its disks are not restored here")
            }
            Self::NotEmpty(path) => format!("Destination {} already exists and it is not empty", path.display()),
            Self::MissingFile(base) => format!("Missing file {base}.* for server {server}"),
            Self::CurrentTimeline => {
                "'current' is not a valid timeline keyword when recovering without a backup_id".to_owned()
            }
            Self::BadTime(text) => {
                format!("Unable to parse the target time parameter '{text}': Unknown string format: {text}")
            }
            Self::BadLsn(text) => format!("('Invalid LSN: %s', '{text}')"),
            Self::UnknownName(name) => format!("Unknown backup '{name}' for server '{server}'"),
            Self::Ambiguous(name, ids) => {
                let ids = ids.iter().map(BackupId::as_str).collect::<Vec<_>>().join(" ");
                format!("Multiple backups found matching name '{name}' (try using backup ID instead): {ids}")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text("?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKUPS: [(&str, &str, &str, u32, &str, &str); 6] = [
        ("20260101T000000", "DONE", "a", 1, "2026-01-01 00:10:00+00:00", "0/1000"),
        ("20260102T000000", "DONE", "b", 1, "2026-01-02 00:10:00+00:00", "0/2000"),
        ("20260103T000000", "DONE", "b", 2, "2026-01-03 00:10:00+00:00", "0/3000"),
        ("20260104T000000", "FAILED", "c", 2, "", ""),
        ("20260105T000000", "DONE", "c", 3, "2026-01-05 00:10:00+00:00", "0/5000"),
        ("20260106T000000", "STARTED", "d", 3, "", ""),
    ];

    fn catalog() -> Catalog {
        let backup = |(id, status, name, timeline, end, lsn): (&str, &str, &str, u32, &str, &str)| Backup {
            status: BackupStatus::from(status),
            name: Some(name.to_owned()),
            timeline: TimelineId::new(timeline),
            end_time: DateTime::parse_from_str(end, "%Y-%m-%d %H:%M:%S%:z").ok(),
            end_lsn: lsn.parse().ok(),
            ..Backup::new(id.parse().unwrap())
        };
        Catalog::new(BACKUPS.map(backup).to_vec())
    }

    fn utc(_: NaiveDateTime) -> FixedOffset {
        FixedOffset::east_opt(0).unwrap()
    }

    /// The day of January of the backup that is chosen, or what is said instead.
    fn chosen(word: &str, target: TargetWords<'_>, any_status: bool) -> String {
        let catalog = catalog();
        let backup = Wanted::read(word, target, utc).and_then(|wanted| {
            choose(&wanted, &catalog, TimelineId::new(2), any_status).map(|backup| backup.id.clone())
        });
        backup.map_or_else(|refusal| refusal.text("main"), |id| id.as_str()[6..8].to_owned())
    }

    fn by(
        time: Option<&'static str>,
        lsn: Option<&'static str>,
        timeline: Option<&'static str>,
    ) -> TargetWords<'static> {
        TargetWords { time, lsn, timeline }
    }

    #[test]
    fn a_backup_is_chosen_for_its_target_by_the_newest_id_that_had_ended() {
        let none = "Cannot find any candidate backup for recovery.";
        let auto = |time, lsn, timeline| chosen("auto", by(time, lsn, timeline), false);
        for (time, lsn, timeline, expected) in [
            (None, None, None, "05"),
            (None, None, Some("1"), "02"),
            (None, None, Some("latest"), "03"),
            (None, None, Some("9"), none),
            (None, None, Some("99999999999999999999"), none),
            (Some("2026-01-03 00:10:00"), None, None, "03"),
            (Some("2026-01-03 00:09:59.9999999"), None, None, "02"),
            (Some("2026-01-03"), None, None, "02"),
            (Some("20260103T001000"), None, None, "03"),
            (Some("Sat Jan  3 00:10:00 2026"), None, None, "03"),
            (Some("2026-01-03 00:10:00+05"), None, None, "02"),
            (Some("2025-01-03T00:10:00Z"), None, None, none),
            (Some("2026-02-01 00:00:00"), None, Some("1"), "02"),
            (None, Some("0/3000"), None, "03"),
            (None, Some("0/2FFF"), None, "02"),
            (None, Some("0/FFF"), None, none),
            (None, Some("1/0"), Some("2"), "03"),
        ] {
            assert_eq!(auto(time, lsn, timeline), expected, "{time:?} {lsn:?} {timeline:?}");
        }
    }

    #[test]
    fn a_time_without_offset_is_of_the_zone_that_is_handed_in() {
        let east = |_: NaiveDateTime| FixedOffset::east_opt(7200).unwrap();
        let read = |text: &str| read_time(text, east).unwrap().to_rfc3339();
        assert_eq!(read("2026-01-03 00:10:00"), "2026-01-03T00:10:00+02:00");
        assert_eq!(read("2026-01-03"), "2026-01-03T00:00:00+02:00");
        assert_eq!(read("2026-01-03 00:10:00Z"), "2026-01-03T00:10:00+00:00");
    }

    #[test]
    fn words_and_names_mean_complete_backups_unless_any_will_do() {
        let plain = TargetWords::default();
        for (word, complete, any) in [
            ("first", "01", "01"),
            ("oldest", "01", "01"),
            ("last", "05", "05"),
            ("latest", "05", "05"),
            ("last-failed", "04", "04"),
            ("20260104T000000", "04", "04"),
            ("a", "01", "01"),
            ("c", "05", "05"),
            ("d", "06", "06"),
        ] {
            assert_eq!(
                (chosen(word, plain, false), chosen(word, plain, true)),
                (complete.into(), any.into()),
                "{word}"
            );
        }
        // A failed backup leads nowhere, but Barman takes it for one.
        let on_two = by(None, None, Some("2"));
        assert_eq!((chosen("auto", on_two, false), chosen("auto", on_two, true)), ("03".into(), "04".into()));
    }

    #[test]
    fn what_cannot_be_chosen_is_refused_in_barman_s_words() {
        let plain = TargetWords::default();
        for (word, target, text, is_exception) in [
            ("20260109T000000", plain, "Backup 20260109T000000 for server main does not exists", false),
            ("nope", plain, "Unknown backup 'nope' for server 'main'", true),
            (
                "b",
                plain,
                "Multiple backups found matching name 'b' (try using backup ID instead): 20260102T000000 20260103T000000",
                true,
            ),
            (
                "auto",
                by(None, None, Some("current")),
                "'current' is not a valid timeline keyword when recovering without a backup_id",
                true,
            ),
            (
                "auto",
                by(Some("foo"), None, None),
                "Unable to parse the target time parameter 'foo': Unknown string format: foo",
                true,
            ),
            ("auto", by(None, Some("foo"), None), "('Invalid LSN: %s', 'foo')", true),
            ("auto", by(None, None, Some("8")), "Cannot find any candidate backup for recovery.", false),
        ] {
            let catalog = catalog();
            let refusal = Wanted::read(word, target, utc)
                .and_then(|wanted| choose(&wanted, &catalog, None, false).map(|backup| backup.id.clone()))
                .unwrap_err();
            assert_eq!((refusal.text("main").as_str(), refusal.is_exception()), (text, is_exception));
        }
        // Beside an id or a name the target is not even looked at.
        assert_eq!(chosen("a", by(Some("foo"), None, Some("current")), false), "01");
    }
}
