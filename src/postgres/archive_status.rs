//! What lies in `pg_wal`: complete segments, and what PostgreSQL's archiver still has to archive.

use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;

use crate::domain::lsn::Lsn;
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::error::{Error, Result};

/// The segment files in `pg_wal` that end at or before `complete`, sorted.
///
/// `complete` is what the server says it has written: later files are empty ones made in advance or recycled, whose
/// names say nothing about their content. Files of another length than `size` are left out. The last segment of a
/// timeline that was left stays incomplete for ever; whoever asks for one timeline must know where it ended.
/// Blocking. Errors: `Local`.
pub fn complete_segments(pg_wal: &Path, size: SegmentSize, complete: Lsn) -> Result<Vec<SegmentName>> {
    let mut segments = Vec::new();
    for_each_name(pg_wal, |name| {
        let Ok(WalFileName::Segment(segment)) = name.parse() else { return Ok(()) };
        let end = segment.next(size).start(size);
        if end > complete || segment.to_string() != name {
            return Ok(());
        }
        let path = pg_wal.join(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() == size.bytes() => segments.push(segment),
            Ok(_) => {}
            // Recycled between the listing and now.
            Err(cause) if cause.kind() == IoErrorKind::NotFound => {}
            Err(cause) => return Err(Error::local("examine", &path, cause)),
        }
        Ok(())
    })?;
    segments.sort_unstable();
    Ok(segments)
}

/// The files PostgreSQL has marked as ready to be archived, sorted: timeline histories first, as its archiver does.
///
/// Blocking. Errors: `Local`.
pub fn ready(pg_wal: &Path) -> Result<Vec<WalFileName>> {
    let mut files = Vec::new();
    for_each_name(&pg_wal.join("archive_status"), |name| {
        let file: Option<WalFileName> = name.strip_suffix(".ready").and_then(|file| file.parse().ok());
        files.extend(file);
        Ok(())
    })?;
    files.sort_unstable_by_key(|file| (!matches!(file, WalFileName::TimelineHistory(_)), file.to_string()));
    Ok(files)
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

    fn pg_wal() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let segment = vec![0; 1 << 20];
        for (name, content) in [
            ("000000010000000000000003", &segment[..]),
            ("000000010000000000000001", &segment[..]),
            ("000000010000000000000002", &segment[..100]),
            ("000000010000000000000004", &segment[..]),
            ("000000010000000000000005", &segment[..]),
            ("000000010000000000000003.00000028.backup", &segment[..10]),
            ("00000002.history", &segment[..10]),
            ("xlogtemp.7", &segment[..]),
        ] {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let status = directory.path().join("archive_status");
        fs::create_dir(&status).unwrap();
        for name in
            ["000000010000000000000003.ready", "00000002.history.ready", "000000010000000000000001.done", "x.ready"]
        {
            fs::write(status.join(name), "").unwrap();
        }
        directory
    }

    #[test]
    fn segments_made_in_advance_and_short_ones_are_not_complete() {
        let directory = pg_wal();
        let size = SegmentSize::new(1 << 20).unwrap();
        let names = |complete| {
            let found = complete_segments(directory.path(), size, Lsn(complete)).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            names(0x50_0000),
            ["000000010000000000000001", "000000010000000000000003", "000000010000000000000004",]
        );
        assert_eq!(names(0x4F_FFFF).len(), 2);
        assert!(names(0).is_empty());
    }

    #[test]
    fn ready_files_begin_with_histories() {
        let directory = pg_wal();
        let names: Vec<_> = ready(directory.path()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["00000002.history", "000000010000000000000003"]);
        assert_eq!(history_files(directory.path()).unwrap(), [TimelineId::new(2).unwrap()]);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert!(ready(Path::new("/nonexistent")).is_err());
    }
}
