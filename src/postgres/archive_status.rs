//! The timeline histories that lie in `pg_wal`.

use std::fs;
use std::path::Path;

use crate::domain::segment::WalFileName;
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::error::{Error, Result};

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
    match fs::read_to_string(&path) {
        Ok(text) => TimelineHistory::parse(timeline, &text),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(TimelineHistory::root(timeline)),
        Err(cause) => Err(Error::local("read timeline history", &path, cause)),
    }
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
    fn a_missing_directory_is_an_error() {
        assert!(history_files(Path::new("/nonexistent")).is_err());
    }
}
