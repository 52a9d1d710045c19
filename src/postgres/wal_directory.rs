//! What lies in `pg_wal` and in its `archive_status`: what waits for the archiver, what was left behind, how much room there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::domain::segment::{SegmentName, WalFileName};
use crate::error::{Error, Result};

/// Said of a file that waits for the archiver.
const READY: &str = ".ready";

/// What waits to be archived.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Complete segments.
    pub segments: u64,
    /// Since when the first of all files waits, histories among them.
    pub since: Option<SystemTime>,
}

/// The room of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Free for a user without privileges.
    pub free_bytes: u64,
    /// That and what is in use, as `df` reckons: what is set aside for the system is in neither.
    pub total_bytes: u64,
}

/// Looks through `pg_wal/archive_status`. Blocking. Errors: `Local`.
pub fn waiting(pg_wal: &Path) -> Result<Waiting> {
    let directory = pg_wal.join("archive_status");
    let failed = |cause| Error::local("read directory", &directory, cause);
    let mut waiting = Waiting::default();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(file) = name.to_str().and_then(|name| name.strip_suffix(READY)) else { continue };
        let Ok(file) = file.parse::<WalFileName>() else { continue };
        let modified = match entry.metadata().and_then(|facts| facts.modified()) {
            Ok(modified) => modified,
            // Archived since the directory was read.
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(failed(cause)),
        };
        waiting.segments += u64::from(matches!(file, WalFileName::Segment(_)));
        waiting.since = Some(waiting.since.map_or(modified, |since| since.min(modified)));
    }
    Ok(waiting)
}

/// The segments in `pg_wal` that no `.ready` file holds for the archiver. Blocking. Errors: `Local`.
pub fn segments_nobody_waits_for(pg_wal: &Path) -> Result<BTreeSet<SegmentName>> {
    let failed = |cause| Error::local("read directory", pg_wal, cause);
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(pg_wal).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(Ok(WalFileName::Segment(segment))) = name.to_str().map(str::parse) {
            found.insert(segment);
        }
    }
    found.retain(|segment| !pg_wal.join("archive_status").join(format!("{segment}{READY}")).exists());
    Ok(found)
}

/// The room where `directory` lies. Blocking. Errors: `Local`.
pub fn room(directory: &Path) -> Result<Room> {
    let facts = rustix::fs::statvfs(directory)
        .map_err(|cause| Error::local("look at the file system of", directory, cause.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
    let in_use = facts.f_blocks.saturating_sub(facts.f_bfree);
    Ok(Room { free_bytes: bytes(facts.f_bavail), total_bytes: bytes(in_use.saturating_add(facts.f_bavail)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_wait_are_counted_and_others_are_left_behind() {
        let pg_wal = tempfile::tempdir().unwrap();
        fs::create_dir(pg_wal.path().join("archive_status")).unwrap();
        let segment = |number: u32| format!("0000000100000000{number:08X}");
        for number in 1..=3 {
            fs::write(pg_wal.path().join(segment(number)), "").unwrap();
        }
        for name in [
            format!("{}.ready", segment(1)),
            format!("{}.done", segment(2)),
            "00000002.history.ready".to_owned(),
            "x.ready".to_owned(),
        ] {
            fs::write(pg_wal.path().join("archive_status").join(name), "").unwrap();
        }
        let waiting = waiting(pg_wal.path()).unwrap();
        assert_eq!(waiting.segments, 1);
        assert!(waiting.since.is_some());
        let left: Vec<String> =
            segments_nobody_waits_for(pg_wal.path()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(left, [segment(2), segment(3)]);
        assert!(room(pg_wal.path()).unwrap().total_bytes > 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        assert!(waiting(Path::new("/nonexistent")).is_err());
        assert!(segments_nobody_waits_for(Path::new("/nonexistent")).is_err());
    }
}
