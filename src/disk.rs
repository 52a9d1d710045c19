//! Local files that appear whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

pub mod beneath;

/// Puts `content` at `path`, durably: when this returns, the whole file is on disk under its name; when it fails or
/// the machine stops, `path` is as it was before.
///
/// Written beside `path`, fsynced, renamed over it, and the directory fsynced. What a killed process leaves beside `path` is
/// taken over by the next one that writes the same file.
/// Errors: `Local`, naming the path; among them a device or socket of that name, which must not become a file.
pub fn publish(path: &Path, content: &[u8]) -> Result<()> {
    let mut publication = Publication::begin(path)?;
    publication.write(content)?;
    publication.finish()
}

/// The same for content that comes in pieces. Dropped before [`Publication::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Publication {
    path: PathBuf,
    staged: PathBuf,
    file: File,
    is_finished: bool,
}

impl Publication {
    /// Begins a file. Errors: as [`publish`].
    pub fn begin(path: &Path) -> Result<Self> {
        let failed = |cause| Error::local("write file", path, cause);
        refuse_special(path).map_err(failed)?;
        let (staged, file) = stage(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), staged, file, is_finished: false })
    }

    /// Adds to it. Errors: as [`publish`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|cause| self.failed(cause))
    }

    /// Makes it durable and puts it in its place. Errors: as [`publish`].
    pub fn finish(mut self) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| self.expect_own())
            .and_then(|()| fs::rename(&self.staged, &self.path))
            .and_then(|()| {
                self.is_finished = true;
                sync_directory(parent_of(&self.path))
            })
            .map_err(|cause| self.failed(cause))
    }

    /// What has the staged file's name now may be another's, where somebody removed it or a file system's locks are none.
    fn expect_own(&self) -> std::io::Result<()> {
        if is_at(&self.file, &self.staged) {
            return Ok(());
        }
        Err(std::io::Error::other(format!("somebody took \"{}\" away meanwhile", self.staged.display())))
    }

    fn failed(&self, cause: std::io::Error) -> Error {
        Error::local("write file", &self.path, cause)
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        if !self.is_finished && is_at(&self.file, &self.staged) {
            // The staged file is ours alone; if even removing it fails, the first error is the one that matters.
            let _ = fs::remove_file(&self.staged);
        }
    }
}

/// Moves the whole and durable file `from` to `path`, durably; `path` is replaced at once, or is as it was before.
///
/// False, and nothing done, where the two lie on different file systems. Errors: `Local`, as [`publish`].
pub fn publish_by_rename(from: &Path, path: &Path) -> Result<bool> {
    let moved = hand_over(from, path)?;
    if moved {
        sync_directory(parent_of(path)).map_err(|cause| Error::local("write file", path, cause))?;
    }
    Ok(moved)
}

/// The same for somebody who makes the name durable himself: should the machine stop before, the file is at neither place,
/// at one, or at both, and whole.
pub fn hand_over(from: &Path, path: &Path) -> Result<bool> {
    let failed = |cause| Error::local("write file", path, cause);
    refuse_special(path).map_err(failed)?;
    match fs::rename(from, path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::CrossesDevices => Ok(false),
        outcome => outcome.map(|()| true).map_err(failed),
    }
}

/// True for the name of a file that [`publish`] had not finished: its writer is at work, or was killed.
pub fn is_staged(name: &str) -> bool {
    name.starts_with('.') && name.contains(STAGED)
}

/// Reads a whole file of at most `limit_bytes`.
///
/// Errors: `Local` when it cannot be read, `Corrupt` when it is longer.
pub fn read_at_most(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let local = |cause| Error::local("read file", path, cause);
    let file = File::open(path).map_err(local)?;
    let length = file.metadata().map_err(local)?.len();
    let mut content = Vec::with_capacity(usize::try_from(length.min(limit_bytes)).unwrap_or(0));
    file.take(limit_bytes + 1).read_to_end(&mut content).map_err(local)?;
    if content.len() as u64 > limit_bytes {
        return Err(Error::corrupt(format!("file \"{}\" is longer than {limit_bytes} bytes", path.display())));
    }
    Ok(content)
}

/// What tells one state of one file from every other: writing to it, renaming it or putting another in its place makes another
/// mark, as far as the file system's clock tells moments apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileMark {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileMark {
    /// The mark of the file at `path` as it is now. Errors: `Local`.
    pub fn of(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let facts = fs::metadata(path).map_err(|cause| Error::local("read file", path, cause))?;
        Ok(Self {
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }

    /// True when both are of one file, in whatever state. PostgreSQL renames WAL files it has no more use for.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// The first `limit_bytes` of a file, or all of it when it is shorter, and its length. Errors: `Local`.
pub fn read_beginning(path: &Path, limit_bytes: u64) -> Result<(Vec<u8>, u64)> {
    use std::io::Read;
    let local = |cause| Error::local("read file", path, cause);
    let file = File::open(path).map_err(local)?;
    let length = file.metadata().map_err(local)?.len();
    let mut content = Vec::new();
    file.take(limit_bytes).read_to_end(&mut content).map_err(local)?;
    Ok((content, length))
}

/// Has the system begin to write a piece of a file to the disk, without waiting for it. The pages stay in its cache.
///
/// Linux begins to write dirty pages of which it is told that they are not needed (`generic_fadvise` in `mm/fadvise.c`), and drops only
/// those that are clean by then. Elsewhere nothing may happen.
pub fn begin_writing(file: &File, offset: u64, bytes: u64) {
    let piece = std::num::NonZero::new(bytes);
    // Advice: a file system that does not take it does as well without.
    let _ = rustix::fs::fadvise(file, offset, piece, rustix::fs::Advice::DontNeed);
}

/// Tells the system that a file is read once, from its beginning to its end: it reads ahead, and does not let what others use of its
/// cache make way (the latter since Linux 6.3).
pub fn read_once(file: &File) {
    for advice in [rustix::fs::Advice::Sequential, rustix::fs::Advice::NoReuse] {
        let _ = rustix::fs::fadvise(file, 0, None, advice);
    }
}

/// Removes a file or link; one that is not there is no error. Errors: `Local`.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(Error::local("remove file", path, cause)),
        _ => Ok(()),
    }
}

/// Makes the names in `directory` durable.
pub fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What the name of a staged file has after that of the file it is to become.
const STAGED: &str = ".barback-";

/// How many names this process has taken that nobody else takes.
static STAGED_OF_OUR_OWN: AtomicU64 = AtomicU64::new(0);

/// Behind that, in the name that everybody takes first.
const COMMON: &str = "staged";

/// An empty file that is to become the one at `path`, and that nobody else writes to.
///
/// Everybody takes the same name, so that what a killed process left is found again: its lock ended with it. Whoever finds the
/// name in use, or cannot have it (another user's, a link, a file system without locks), takes one of his own.
fn stage(path: &Path) -> std::io::Result<(PathBuf, File)> {
    use rustix::fs::{FlockOperation, flock};
    let common = staged_beside(path, COMMON);
    if let Ok(file) = open_staged(&common, false) {
        let lock = flock(&file, FlockOperation::NonBlockingLockExclusive);
        // Before it was locked here, it may have been put in its place by another process, or removed.
        if lock.is_ok() && is_at(&file, &common) {
            file.set_len(0)?;
            return Ok((common, file));
        }
    }
    let number = STAGED_OF_OUR_OWN.fetch_add(1, Ordering::Relaxed);
    let own = staged_beside(path, &format!("{}-{number}", std::process::id()));
    // One of an earlier process of this number, which is gone.
    let _ = fs::remove_file(&own);
    let file = open_staged(&own, true)?;
    Ok((own, file))
}

fn open_staged(path: &Path, is_new: bool) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // A link there is not ours.
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = File::options();
    options.write(true).create(true).create_new(is_new).truncate(false).custom_flags(no_follow);
    options.open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |facts: fs::Metadata| (facts.dev(), facts.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => identity(file) == identity(there),
        _ => false,
    }
}

/// PostgreSQL ignores files in `pg_wal` whose names are not WAL's.
fn staged_beside(path: &Path, whose: &str) -> PathBuf {
    parent_of(path).join(staged_name(path, whose))
}

fn staged_name(path: &Path, whose: &str) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}{STAGED}{whose}")
}

/// A device or socket must not become a file.
fn refuse_special(path: &Path) -> std::io::Result<()> {
    let is_special = |facts: fs::Metadata| !facts.is_file() && !facts.is_symlink();
    if fs::symlink_metadata(path).is_ok_and(is_special) {
        return Err(std::io::Error::other("it is there, and is no regular file"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_file_replaces_the_old_one_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        publish(&path, b"one").unwrap();
        publish(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_published_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        let error = publish(&path, b"one").unwrap_err();
        assert!(error.to_string().starts_with("could not write file"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_comes_in_pieces_is_not_seen_before_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut publication = Publication::begin(&path).unwrap();
        publication.write(b"on").unwrap();
        publication.write(b"e").unwrap();
        assert!(!path.exists());
        publication.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        Publication::begin(&path).unwrap().write(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_writer_left_is_taken_over_and_what_a_living_one_writes_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(staged_beside(&path, COMMON), "half of something longer").unwrap();
        let mut living = Publication::begin(&path).unwrap();
        living.write(b"on").unwrap();
        publish(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        living.write(b"e").unwrap();
        living.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_written_through_a_link_beside_the_file_and_it_hinders_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("file"), dir.path().join("elsewhere"));
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, staged_beside(&path, COMMON)).unwrap();
        publish(&path, b"one").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&elsewhere).unwrap()), (b"one".to_vec(), b"mine".to_vec()));
    }

    #[test]
    fn what_another_put_under_the_staged_name_is_never_published_as_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut publication = Publication::begin(&path).unwrap();
        publication.write(b"one").unwrap();
        fs::remove_file(staged_beside(&path, COMMON)).unwrap();
        fs::write(staged_beside(&path, COMMON), "half of another's").unwrap();
        let error = publication.finish().unwrap_err();
        assert!(error.to_string().contains("away meanwhile"), "{error}");
        assert!(!path.exists() && staged_beside(&path, COMMON).exists());
    }

    #[test]
    fn a_renamed_file_replaces_the_old_one_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (from, path) = (dir.path().join("from"), dir.path().join("file"));
        fs::write(&from, "new").unwrap();
        fs::write(&path, "old").unwrap();
        assert!(publish_by_rename(&from, &path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = publish_by_rename(&from, &path).unwrap_err();
        assert!(error.to_string().starts_with("could not write file"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_staged_file_is_told_by_its_name() {
        let staged = staged_beside(Path::new("somewhere/000000010000000000000005"), COMMON);
        assert!(is_staged(staged.file_name().unwrap().to_str().unwrap()));
        assert!(!is_staged("000000010000000000000005"));
    }

    #[test]
    fn a_device_or_socket_is_never_replaced_by_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = publish(&path, b"one").unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        assert!(!fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn a_file_longer_than_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        assert!(read_at_most(&path, 4).is_err());
        assert_eq!(read_beginning(&path, 4).unwrap(), (b"1234".to_vec(), 5));
        assert_eq!(read_beginning(&path, 40).unwrap(), (b"12345".to_vec(), 5));
    }
}
