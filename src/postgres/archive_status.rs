//! What lies in `pg_wal`: WAL files, timeline histories, and what PostgreSQL has noted about their archiving.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::disk;
use crate::domain::segment::WalFileName;
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::error::{Error, Result};

/// The directory in `pg_wal` with a file `<name>.ready` or `<name>.done` for each that is to be archived, or was.
const STATUS_DIRECTORY: &str = "archive_status";

/// A timeline history longer than this is none.
const HISTORY_LIMIT_BYTES: u64 = 1 << 20;

/// True for a directory that is a cluster's `pg_wal`, as far as what lies in it tells.
#[must_use]
pub fn is_pg_wal(directory: &Path) -> bool {
    directory.join(STATUS_DIRECTORY).is_dir()
}

/// The names of all WAL files in `pg_wal`, in the order of time: those of a timeline after its history. Blocking.
///
/// Errors: `Local`.
pub fn wal_files(pg_wal: &Path) -> Result<Vec<WalFileName>> {
    let mut files = Vec::new();
    for_each_name(pg_wal, |name| {
        files.extend(name.parse::<WalFileName>());
        Ok(())
    })?;
    files.sort_unstable_by_key(|file| match *file {
        WalFileName::TimelineHistory(timeline) => (timeline, None, *file),
        WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
            (segment.timeline, Some(segment), *file)
        }
    });
    Ok(files)
}

/// What PostgreSQL has noted about the archiving of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `.ready`: the archiver is asked for it.
    Ready,
    /// `.done`: the archiver is not to be asked for it, whether it has been archived or not.
    Done,
}

/// What PostgreSQL has noted about each file of `pg_wal`. Blocking. Errors: `Local`.
pub fn statuses(pg_wal: &Path) -> Result<BTreeMap<WalFileName, Status>> {
    let mut statuses = BTreeMap::new();
    for_each_name(&pg_wal.join(STATUS_DIRECTORY), |name| {
        let noted = [(".ready", Status::Ready), (".done", Status::Done)];
        for (end, status) in noted {
            if let Some(Ok(name)) = name.strip_suffix(end).map(str::parse::<WalFileName>) {
                statuses.insert(name, status);
            }
        }
        Ok(())
    })?;
    Ok(statuses)
}

/// The timelines whose history files lie in `pg_wal`, ascending. Blocking. Errors: `Local`.
pub fn history_files(pg_wal: &Path) -> Result<Vec<TimelineId>> {
    let mut timelines = Vec::new();
    for_each_name(pg_wal, |name| {
        if let Ok(WalFileName::TimelineHistory(timeline)) = name.parse() {
            timelines.push(timeline);
        }
        Ok(())
    })?;
    timelines.sort_unstable();
    Ok(timelines)
}

/// The ancestry of `timeline` from its history file in `pg_wal`; a timeline without one stands alone.
///
/// PostgreSQL does the same (`readTimeLineHistory`): timeline 1 never has a file. Blocking. Errors: `Local`, `Corrupt`.
pub fn read_history(pg_wal: &Path, timeline: TimelineId) -> Result<TimelineHistory> {
    let path = pg_wal.join(WalFileName::TimelineHistory(timeline).to_string());
    if matches!(fs::exists(&path), Ok(false)) {
        return Ok(TimelineHistory::root(timeline));
    }
    let unreadable = || Error::corrupt(format!("could not read \"{}\": it is not UTF-8 text", path.display()));
    let text = String::from_utf8(disk::read_at_most(&path, HISTORY_LIMIT_BYTES)?).map_err(|_| unreadable())?;
    TimelineHistory::parse(timeline, &text)
}

fn for_each_name(directory: &Path, mut take: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let failed = |cause| Error::local("read directory", directory, cause);
    for entry in fs::read_dir(directory).map_err(failed)? {
        // A name that is not UTF-8 is none of PostgreSQL's.
        if let Some(name) = entry.map_err(failed)?.file_name().to_str() {
            take(name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_history_that_is_too_long_to_be_one_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let timeline = TimelineId::new(2).unwrap();
        let path = directory.path().join("00000002.history");
        assert_eq!(read_history(directory.path(), timeline).unwrap(), TimelineHistory::root(timeline));
        let file = fs::File::create(&path).unwrap();
        file.set_len(HISTORY_LIMIT_BYTES + 1).unwrap();
        assert_eq!(read_history(directory.path(), timeline).unwrap_err().kind(), ErrorKind::Corrupt);
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_history(directory.path(), timeline).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn only_histories_count_and_the_first_timeline_needs_none() {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("0000000A.history", "2\t0/3000000\twhy\n"),
            ("00000002.history", "1\t0/2000000\twhy\n"),
            ("000000010000000000000003.00000028.backup", ""),
            ("000000010000000000000001", ""),
            ("x.history", ""),
        ] {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let timeline = |number| TimelineId::new(number).unwrap();
        assert_eq!(history_files(directory.path()).unwrap(), [timeline(2), timeline(10)]);
        assert_eq!(read_history(directory.path(), timeline(2)).unwrap().ancestors.len(), 1);
        assert_eq!(read_history(directory.path(), timeline(1)).unwrap(), TimelineHistory::root(timeline(1)));
    }

    #[test]
    fn wal_files_come_in_the_order_of_time_with_what_is_noted_of_them() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_pg_wal(directory.path()));
        fs::create_dir(directory.path().join("archive_status")).unwrap();
        assert!(is_pg_wal(directory.path()));
        let in_order = [
            "000000010000000000000009",
            "00000001000000000000000A",
            "00000001000000000000000A.partial",
            "00000001000000000000000A.00000028.backup",
            "00000002.history",
            "00000002000000000000000A",
        ];
        for name in in_order.iter().rev().chain(&["xlogtemp.123", ".000000010000000000000009.barback-1"]) {
            fs::write(directory.path().join(name), "").unwrap();
        }
        for name in ["00000002.history.ready", "000000010000000000000009.done", "x.ready", "000000010000000000000009"] {
            fs::write(directory.path().join("archive_status").join(name), "").unwrap();
        }
        let names: Vec<String> = wal_files(directory.path()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, in_order);
        let statuses = statuses(directory.path()).unwrap();
        let noted: Vec<(String, Status)> =
            statuses.into_iter().map(|(name, status)| (name.to_string(), status)).collect();
        let wanted = [("000000010000000000000009", Status::Done), ("00000002.history", Status::Ready)];
        assert_eq!(noted, wanted.map(|(name, status)| (name.to_owned(), status)));
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert!(history_files(Path::new("/nonexistent")).is_err());
    }
}
