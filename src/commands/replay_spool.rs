//! The spool of one recovery in its own `pg_wal`: segments that lie ready, and what its calls and their helper tell each other.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::commands::archive::ContentCheck;
use crate::commands::spool::{Spool, SpoolLayout, SpoolOptions};
use crate::disk::{self, FileMark};
use crate::domain::fetch_ahead::Course;
use crate::domain::segment::SegmentName;
use crate::error::{Error, Result};
use crate::layout::keys::ServerPrefix;

/// Held by the helper while it lives: the system lets go of it whatever it dies of.
const LOCK: &str = "lock";
/// Where recovery is.
const COURSE: &str = "course";
/// What the helper has to say: the next call says it for it.
const LOG: &str = "log";
/// What the name of a segment has after it while the helper fetches it.
const COMING: &str = ".coming";

/// More than a helper has to say between two calls; the rest is not read.
const LOG_LIMIT_BYTES: u64 = 4096;

/// A note of where recovery is has a name and a dozen numbers.
const COURSE_LIMIT_BYTES: u64 = 1024;

/// A spool in `pg_wal`, as a call or the helper sees it. Nothing is touched before it is used.
#[derive(Debug, Clone)]
pub(crate) struct ReplaySpool {
    spool: Spool,
    /// Of the running server, if there is one.
    postmaster: PathBuf,
}

impl ReplaySpool {
    /// The spool for segments that go to `destination`, `<data directory>/pg_wal/<name>`, from a server's archive in `store`.
    ///
    /// Errors: `Local` where the destination's directory cannot be found.
    pub(crate) fn of(destination: &Path, store: &str, server: &ServerPrefix) -> Result<Self> {
        let failed = |cause| Error::local("find directory of file", destination, cause);
        let destination = std::path::absolute(destination).map_err(failed)?;
        let pg_wal = destination.parent().unwrap_or(&destination);
        let data_directory = pg_wal.parent().unwrap_or(pg_wal);
        let options = SpoolOptions {
            directory: fs::canonicalize(pg_wal).map_err(failed)?,
            layout: SpoolLayout::InWal { store: store.to_owned() },
            segments: 1,
        };
        let spool = Spool::new(&options, server, ContentCheck::Checked);
        Ok(Self { spool, postmaster: data_directory.join("postmaster.pid") })
    }

    /// The segments in it.
    pub(crate) fn segments(&self) -> &Spool {
        &self.spool
    }

    pub(crate) fn directory(&self) -> &Path {
        self.spool.directory()
    }

    /// True while a server runs on the data directory, or was killed.
    pub(crate) fn has_server(&self) -> bool {
        self.postmaster.exists()
    }

    /// Where recovery is; none where there is no spool or it cannot be read.
    pub(crate) fn course(&self) -> Option<Course> {
        if !self.spool.is_trusted().unwrap_or(false) {
            return None;
        }
        String::from_utf8(disk::read_at_most(&self.file(COURSE), COURSE_LIMIT_BYTES).ok()?).ok()?.parse().ok()
    }

    /// Tells one note of where recovery is from the next; none where there is none.
    pub(crate) fn course_mark(&self) -> Option<FileMark> {
        FileMark::of(&self.file(COURSE)).ok()
    }

    /// Tells where recovery is. Not durable: after a crash of the host it begins anew. Errors: `Local`.
    pub(crate) fn note(&self, course: &Course) -> Result<()> {
        let (path, staged) = (self.file(COURSE), self.file(&format!("{COURSE}.{}", std::process::id())));
        let written = fs::write(&staged, course.to_string()).and_then(|()| fs::rename(&staged, &path));
        written.map_err(|cause| Error::local("write file", &path, cause))
    }

    /// True while a helper lives.
    pub(crate) fn has_helper(&self) -> bool {
        let Ok(lock) = File::open(self.file(LOCK)) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// Makes this process the helper, until the file is dropped; none where there is another one, or no spool.
    pub(crate) fn become_helper(&self) -> Option<File> {
        let path = self.file(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).ok()?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        // A helper that ended just now has removed the file it had locked, which is perhaps the one that was opened.
        let (ours, there) = (lock.metadata().ok()?, fs::metadata(&path).ok()?);
        ((ours.dev(), ours.ino()) == (there.dev(), there.ino())).then_some(lock)
    }

    /// Says that the helper fetches `segment` now. Errors: `Local`.
    pub(crate) fn announce(&self, segment: SegmentName) -> Result<()> {
        let path = self.file(&format!("{segment}{COMING}"));
        File::create(&path).map(drop).map_err(|cause| Error::local("write file", &path, cause))
    }

    /// Takes that back.
    pub(crate) fn withdraw(&self, segment: SegmentName) {
        if let Err(error) = disk::remove_if_there(&self.file(&format!("{segment}{COMING}"))) {
            tracing::debug!("{error}");
        }
    }

    /// True when a helper said so and has not taken it back; it may be dead.
    pub(crate) fn is_announced(&self, segment: SegmentName) -> bool {
        self.file(&format!("{segment}{COMING}")).exists()
    }

    /// True where something of that segment's name lies ready.
    pub(crate) fn has(&self, segment: SegmentName) -> bool {
        self.file(&segment.to_string()).exists()
    }

    /// Removes every segment that `is_wanted` does not want.
    pub(crate) fn retain(&self, is_wanted: impl Fn(SegmentName) -> bool) {
        self.remove(|name| name.parse().is_ok_and(|segment| !is_wanted(segment)));
    }

    /// Removes what a helper left that was killed: nothing is on its way any more.
    pub(crate) fn sweep(&self) {
        self.remove(|name| name.ends_with(COMING) || disk::is_staged(name));
    }

    /// Removes the spool. What somebody puts into it at the same time stays.
    pub(crate) fn clear(&self) {
        self.remove(|name| name != LOCK);
        self.remove(|_| true);
        if let Err(cause) = fs::remove_dir(self.directory()) {
            tracing::debug!("{}", Error::local("remove directory", self.directory(), cause));
        }
    }

    fn remove(&self, is_over: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(self.directory()).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(&is_over)
                && let Err(error) = disk::remove_if_there(&entry.path())
            {
                tracing::debug!("{error}");
            }
        }
    }

    /// Where a helper may talk: it must not hold on to the server's log. Errors: `Local`.
    pub(crate) fn open_log(&self) -> Result<File> {
        let path = self.file(LOG);
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        opened.map_err(|cause| Error::local("write file", &path, cause))
    }

    /// What a helper has said since the last look.
    pub(crate) fn take_log(&self) -> Vec<String> {
        let taken = || -> std::io::Result<String> {
            let mut log = OpenOptions::new().read(true).write(true).open(self.file(LOG))?;
            let mut text = Vec::new();
            if log.seek(SeekFrom::End(0))? > 0 {
                log.rewind()?;
                (&log).take(LOG_LIMIT_BYTES).read_to_end(&mut text)?;
                log.set_len(0)?;
            }
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        taken().unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::segment::SegmentSize;

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    fn spool() -> (tempfile::TempDir, ReplaySpool) {
        let dir = tempfile::tempdir().unwrap();
        let spool = at(dir.path());
        spool.segments().prepare(name("000000010000000000000001")).unwrap();
        (dir, spool)
    }

    fn at(dir: &Path) -> ReplaySpool {
        ReplaySpool::of(&dir.join("RECOVERYXLOG"), "a store", &ServerPrefix::new("", "main").unwrap()).unwrap()
    }

    #[test]
    fn there_is_one_helper_and_it_is_known_while_it_lives() {
        let (_dir, spool) = spool();
        assert!(!spool.has_helper());
        let lock = spool.become_helper().unwrap();
        assert!(spool.has_helper() && spool.become_helper().is_none());
        drop(lock);
        assert!(!spool.has_helper() && spool.become_helper().is_some());
    }

    #[test]
    fn a_spool_that_is_cleared_leaves_nothing() {
        let (dir, spool) = spool();
        let lock = spool.become_helper();
        let segment = name("000000010000000000000002");
        spool.announce(segment).unwrap();
        spool.note(&Course::begin(segment, SegmentSize::DEFAULT, 1)).unwrap();
        assert_eq!(spool.course().unwrap().requested, segment);
        assert!(spool.is_announced(segment) && !spool.has(segment));
        spool.clear();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(lock);
        assert_eq!(spool.course(), None);
        assert!(spool.become_helper().is_none());
    }

    #[test]
    fn each_store_and_server_and_directory_has_its_own() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let destination = one.path().join("RECOVERYXLOG");
        let with = |store: &str, server: &str| {
            let prefix = ServerPrefix::new("", server).unwrap();
            ReplaySpool::of(&destination, store, &prefix).unwrap().directory().file_name().unwrap().to_owned()
        };
        assert_eq!(with("a", "main"), with("a", "main"));
        assert_ne!(with("a", "main"), with("b", "main"));
        assert_ne!(with("a", "main"), with("a", "second"));
        assert_ne!(at(one.path()).directory().file_name(), at(other.path()).directory().file_name());
    }

    #[test]
    fn what_a_helper_said_is_read_once() {
        use std::io::Write;
        let (_dir, spool) = spool();
        let mut log = spool.open_log().unwrap();
        writeln!(log, "one\ntwo").unwrap();
        assert_eq!(spool.take_log(), ["one", "two"]);
        assert_eq!(spool.take_log(), [""; 0]);
        writeln!(log, "three").unwrap();
        assert_eq!(spool.take_log(), ["three"]);
    }
}
