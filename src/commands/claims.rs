//! Which member of a backup a path belongs to when several claim it, whatever the order in which they are unpacked.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Where a member stands in its backup: the number of its part, and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) part: u32,
    pub(crate) member: u32,
}

/// What the names of all members may take together; a million short ones fit. Without a limit a tar of nothing but names
/// would fill the memory.
const NAMES_BYTES_MAX: usize = 128 << 20;

/// What one name takes beside its letters: its place, the table's, the allocator's.
const NAME_BYTES: usize = 100;

/// The paths that members have taken so far, files with a number for a name left out: these are relations, which are
/// most of a cluster, while the rest is a few thousand names at most.
///
/// A Barman backup (3.19.1) may hold a path twice: configuration from outside the data directory comes under its base
/// name at the end, whatever lies there in the data directory. Barman restores its parts one after another, and the
/// last member wins; here the same one wins, though parts are unpacked side by side.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    places: HashMap<PathBuf, Place>,
    bytes: usize,
}

impl Claims {
    /// Puts something at `path` with `make`, which is to replace whatever an earlier member left there; false, and
    /// nothing done, when a later one was faster.
    ///
    /// Errors: `Local`; `Corrupt` for more names than any cluster has.
    pub(crate) fn publish(&self, path: &Path, place: Place, make: impl FnOnce() -> io::Result<()>) -> Result<bool> {
        // Held while the name changes hands, so that two members never do it at once.
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.places.get_mut(path) {
            Some(there) if *there > place => return Ok(false),
            Some(there) => *there = place,
            None => names.take(path, place)?,
        }
        make().map(|()| true).map_err(|cause| Error::local("write file", path, cause))
    }
}

impl Names {
    fn take(&mut self, path: &Path, place: Place) -> Result<()> {
        self.bytes += path.as_os_str().len() + NAME_BYTES;
        if self.bytes > NAMES_BYTES_MAX {
            let most = format!("their names take more than {NAMES_BYTES_MAX} bytes");
            return Err(Error::corrupt(format!("the backup holds more files than a cluster has: {most}")));
        }
        self.places.insert(path.to_owned(), place);
        Ok(())
    }
}

/// True for the names of relation files and of what else PostgreSQL numbers: `16384`, `16384_fsm.1`, `00A3`.
pub(crate) fn is_numbered(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name
        .split_once('.')
        .map_or(name, |(name, segment)| if segment.bytes().all(|byte| byte.is_ascii_digit()) { name } else { "" });
    let name = ["_fsm", "_vm", "_init"].iter().find_map(|fork| name.strip_suffix(fork)).unwrap_or(name);
    name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

/// A name beside `path` that no member of a data directory has; short, because `path` may have the longest there is.
pub(crate) fn staged_beside(path: &Path, place: Place) -> PathBuf {
    path.with_file_name(format!(".barback-{}-{}", place.part, place.member))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_member_stays_in_whatever_order_they_come() {
        let dir = tempfile::tempdir().unwrap();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let path = dir.path().join("postgresql.conf");
            let claims = Claims::default();
            for part in order {
                let place = Place { part, member: 9 - part };
                claims.publish(&path, place, || fs::write(&path, part.to_string())).unwrap();
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), "2", "{order:?}");
        }
    }

    #[test]
    fn what_postgresql_numbers_is_told_from_names_that_people_give() {
        for name in ["16384", "16384.1", "16384_fsm", "16384_vm.12", "0000", "00A3", "base/5/1259"] {
            assert!(is_numbered(Path::new(name)), "{name}");
        }
        for name in ["", "PG_VERSION", "postgresql.conf", "01-tuning.conf", "16384.old", "2026.log", "_fsm", "A"] {
            assert!(!is_numbered(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn the_longest_name_a_file_can_have_has_a_staged_one_beside_it() {
        let path = PathBuf::from("conf.d").join("x".repeat(255));
        let staged = staged_beside(&path, Place { part: u32::MAX, member: u32::MAX });
        assert_eq!(staged.parent(), path.parent());
        assert!(staged.file_name().is_some_and(|name| name.len() <= 255));
    }

    #[test]
    fn names_without_end_are_refused_before_they_fill_the_memory() {
        let claims = Claims::default();
        let long = "x".repeat(1 << 20);
        let place = Place { part: 0, member: 1 };
        let publish = |name: String| claims.publish(Path::new(&name), place, || Ok(()));
        let taken = (0..200).map_while(|number| publish(format!("{long}{number}")).ok()).count();
        assert_eq!(taken, 127);
        assert!(publish(format!("{long}0")).unwrap(), "a name that is known takes no more");
        assert_eq!(publish(long).unwrap_err().kind(), crate::error::ErrorKind::Corrupt);
    }
}
