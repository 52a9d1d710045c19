//! A directory below which files are made without going through a link, whoever else writes there meanwhile.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::disk;
use crate::error::{Error, Result};

/// An opened directory. Links in its own path were followed once, when it was opened: that path is its user's word.
///
/// Everything below is reached from the opened directory on, through directories alone: a symbolic link anywhere in a
/// path is an error that names it, also when somebody puts it there while we are at work. `openat2` sees to that
/// (Linux 5.6); where it is missing, or a container's filter keeps it from us, each directory is opened from the one
/// above it with `O_NOFOLLOW`, which comes to the same.
#[derive(Debug)]
pub struct Beneath {
    path: PathBuf,
    root: OwnedFd,
    /// There is no `openat2` for us.
    walks: AtomicBool,
}

/// One user's way into a [`Beneath`]; paths are relative to it, without `..`.
///
/// The directory of the last path stays open: paths of one directory come one after another, and cost one call each.
#[derive(Debug)]
pub struct Cursor<'a> {
    beneath: &'a Beneath,
    last: Option<(PathBuf, OwnedFd)>,
}

/// What stands at a path, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, wherever it leads.
    Link,
    /// A device, a socket, a FIFO.
    Other,
}

/// Directories are opened for reading, since those opened as mere paths cannot be given permissions.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A file that nobody has made before.
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A file to read; a FIFO must not make us wait for its writer.
const OLD_FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Linux takes no longer path (`PATH_MAX`). Step by step one could go as deep as one likes, and nobody could remove it.
const PATH_BYTES_MAX: usize = 4096;

impl Beneath {
    /// Opens the directory at `path`, which must be there. Errors: `Local`.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|cause| Error::local("open directory", path, cause.into()))?;
        Ok(Self { path: path.to_owned(), root, walks: AtomicBool::new(false) })
    }

    /// Makes the directory at `path`, and those above it, where they are not there, for its owner alone; opens it.
    /// Errors: `Local`.
    pub fn make(path: &Path) -> Result<Self> {
        let failed = |cause| Error::local("create directory", path, cause);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        Self::open(path)
    }

    /// Gives the directory itself these permissions. Errors: `Local`.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        rustix::fs::fchmod(&self.root, Mode::from_raw_mode(mode))
            .map_err(|cause| Error::local("set permissions of directory", &self.path, cause.into()))
    }

    /// What it was called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A way into it.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { beneath: self, last: None }
    }

    /// True when nothing is in it. Errors: `Local`.
    pub fn is_empty(&self) -> Result<bool> {
        let look = || -> rustix::io::Result<bool> {
            for entry in Dir::read_from(&self.root)? {
                if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        look().map_err(|cause| Error::local("look into directory", &self.path, cause.into()))
    }

    /// Brings everything that was written to its file system onto the disk: one call for thousands of files. Linux
    /// reports write-back errors from it since 5.8. Errors: `Local`.
    pub fn sync_file_system(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root)
            .map_err(|cause| Error::local("sync the file system of", &self.path, cause.into()))
    }

    fn directory(&self, directory: &Path, is_made: bool) -> io::Result<OwnedFd> {
        if !leads_down(directory) {
            return Err(leads_out());
        }
        if directory.as_os_str().len() >= PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        if !self.walks.load(Ordering::Relaxed) {
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.root, directory, DIRECTORY, Mode::empty(), how) {
                Ok(opened) => return Ok(opened),
                Err(Errno::NOSYS | Errno::PERM) => self.walks.store(true, Ordering::Relaxed),
                // The walk makes what is missing, and finds out what is in the way.
                Err(_) => {}
            }
        }
        self.walk(directory, is_made)
    }

    fn walk(&self, directory: &Path, is_made: bool) -> io::Result<OwnedFd> {
        let mut here = self.root.try_clone()?;
        let mut path = self.path.clone();
        for name in directory {
            path.push(name);
            let step = || rustix::fs::openat(&here, name, DIRECTORY, Mode::empty());
            let next = match step() {
                // Another worker may be faster.
                Err(Errno::NOENT) if is_made => match rustix::fs::mkdirat(&here, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => step(),
                    Err(cause) => Err(cause),
                },
                opened => opened,
            };
            here = next.map_err(|cause| in_the_way(here.as_fd(), name, &path, Standing::Directory, cause))?;
        }
        Ok(here)
    }
}

impl AsFd for Beneath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Cursor<'_> {
    /// Where `path` is, for people.
    pub fn full(&self, path: &Path) -> PathBuf {
        self.beneath.path.join(path)
    }

    /// Makes the directory, and those above it, where they are not there, and gives it `mode`; `.` is the root.
    pub fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        let path = if path == Path::new(".") { Path::new("") } else { path };
        rustix::fs::fchmod(self.enter(path, true)?, Mode::from_raw_mode(mode)).map_err(Into::into)
    }

    /// The same, where it is not there; one that is there stays as it is.
    pub fn directory_if_missing(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        match self.enter(path, false) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => self.directory(path, mode),
            entered => entered.map(drop),
        }
    }

    /// A new file; directories above it are made where they are not there. `AlreadyExists` only where a regular file is
    /// there: anything else is in the way, and is named.
    pub fn create(&mut self, path: &Path, mode: u32) -> io::Result<File> {
        let (directory, name) = self.parent(path, true)?;
        let created = rustix::fs::openat(directory, name, NEW_FILE, Mode::from_raw_mode(mode));
        let file = match created {
            Ok(file) => File::from(file),
            Err(cause) => {
                let full = self.full(path);
                let (directory, name) = self.parent(path, true)?;
                return Err(in_the_way(directory, name, &full, Standing::File, cause));
            }
        };
        if mode != 0o600 {
            // Our umask, which keeps what we write to ourselves, would take away what is given to a group.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        }
        Ok(file)
    }

    /// Renames the file `staged`, which lies in the same directory, to `path`, in place of any file or link there.
    pub fn rename(&mut self, staged: &OsStr, path: &Path) -> io::Result<()> {
        let (directory, name) = self.parent(path, false)?;
        rustix::fs::renameat(directory, staged, directory, name).map_err(Into::into)
    }

    /// Gives the regular file at `source` the name `path` too; where a file system has no hard links, a copy holds the same.
    pub fn hard_link(&mut self, source: &Path, path: &Path) -> io::Result<()> {
        let full = self.full(source);
        let (above, source_name) = split(source)?;
        let from = self.beneath.directory(above, false)?;
        require_file(from.as_fd(), source_name, &full)?;
        let (to, name) = self.parent(path, true)?;
        match rustix::fs::linkat(&from, source_name, to, name, AtFlags::empty()) {
            // What was linked is what now has the name, whatever it was a moment ago.
            Ok(()) => require_file(to, name, &full).inspect_err(|_| drop(unlink(to, name))),
            Err(Errno::EXIST) => Err(Errno::EXIST.into()),
            Err(_) => {
                let mut source = open_file(from.as_fd(), source_name, &full)?;
                let mode = rustix::fs::fstat(&source)?.st_mode & 0o777;
                io::copy(&mut source, &mut self.create(path, mode)?).map(drop)
            }
        }
    }

    /// Makes a symbolic link to `target`, whatever that is.
    pub fn symlink(&mut self, target: &Path, path: &Path) -> io::Result<()> {
        let (directory, name) = self.parent(path, true)?;
        rustix::fs::symlinkat(target, directory, name).map_err(Into::into)
    }

    /// Removes a file or a link; one that is not there is no error.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.parent(path, false).and_then(|(directory, name)| unlink(directory, name)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// What stands at `path`, if anything.
    pub fn standing(&mut self, path: &Path) -> io::Result<Option<Standing>> {
        match self.parent(path, false).and_then(|(directory, name)| Ok(standing(directory, name)?)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            stands => stands.map(Some),
        }
    }

    /// Reads a regular file of at most `limit_bytes`. Errors: `Local` when it cannot be read, `Corrupt` when it is longer.
    pub fn read_at_most(&mut self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
        let full = self.full(path);
        let mut content = Vec::new();
        self.parent(path, false)
            .and_then(|(directory, name)| open_file(directory, name, &full))
            .and_then(|file| file.take(limit_bytes.saturating_add(1)).read_to_end(&mut content))
            .map_err(|cause| Error::local("read file", &full, cause))?;
        if content.len() as u64 > limit_bytes {
            return Err(Error::corrupt(format!("file \"{}\" is longer than {limit_bytes} bytes", full.display())));
        }
        Ok(content)
    }

    /// Puts `content` at `path`, durably, as [`disk::publish`] does: whole or not at all, in place of a file or a link.
    ///
    /// `prepare` sees the file before it has its name: what it changes of owner and permissions (0600) nobody sees half
    /// done. Errors: `Local`, naming the path.
    pub fn publish(
        &mut self,
        path: &Path,
        content: &[u8],
        prepare: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<()> {
        let full = self.full(path);
        let staged_name = disk::staged_name(path, disk::COMMON);
        let staged = path.with_file_name(&staged_name);
        let put = || -> io::Result<()> {
            if matches!(self.standing(path)?, Some(Standing::Directory | Standing::Other)) {
                return Err(no_file(&full));
            }
            self.remove(&staged)?;
            let mut file = self.create(&staged, 0o600)?;
            let written = file
                .write_all(content)
                .and_then(|()| prepare(&file))
                .and_then(|()| file.sync_all())
                .and_then(|()| self.rename(OsStr::new(&staged_name), path));
            if let Err(cause) = written {
                // The staged file is ours alone; if even removing it fails, the first error is the one that matters.
                let _ = self.remove(&staged);
                return Err(cause);
            }
            let (directory, _) = self.parent(path, false)?;
            rustix::fs::fsync(directory).map_err(Into::into)
        };
        put().map_err(|cause| Error::local("write file", &full, cause))
    }

    /// The opened directory that `path` lies in, and its name there.
    fn parent<'p>(&mut self, path: &'p Path, is_made: bool) -> io::Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (above, name) = split(path)?;
        Ok((self.enter(above, is_made)?, name))
    }

    fn enter(&mut self, directory: &Path, is_made: bool) -> io::Result<BorrowedFd<'_>> {
        if directory.as_os_str().is_empty() {
            return Ok(self.beneath.root.as_fd());
        }
        let opened = match self.last.take() {
            Some((path, opened)) if path == directory => (path, opened),
            _ => (directory.to_owned(), self.beneath.directory(directory, is_made)?),
        };
        Ok(self.last.insert(opened).1.as_fd())
    }
}

/// The directory and the name of a relative path that leads downwards only.
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) if leads_down(path) => Ok((above, name)),
        _ => Err(leads_out()),
    }
}

fn leads_down(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn leads_out() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "its name leads out of the directory")
}

fn unlink(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    rustix::fs::unlinkat(directory, name, AtFlags::empty()).map_err(Into::into)
}

fn standing(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Standing> {
    let facts = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(match FileType::from_raw_mode(facts.st_mode) {
        FileType::RegularFile => Standing::File,
        FileType::Directory => Standing::Directory,
        FileType::Symlink => Standing::Link,
        _ => Standing::Other,
    })
}

/// Why `name` could not be opened as what it was wanted to be: what is in the way says more than the system's error.
fn in_the_way(directory: BorrowedFd<'_>, name: &OsStr, path: &Path, wanted: Standing, cause: Errno) -> io::Error {
    match (standing(directory, name), wanted) {
        (Ok(Standing::Link), _) => is_link(path),
        (Ok(Standing::File | Standing::Other), Standing::Directory) => {
            io::Error::new(io::ErrorKind::NotADirectory, format!("\"{}\" is no directory", path.display()))
        }
        (Ok(Standing::Directory | Standing::Other), Standing::File) => no_file(path),
        _ => cause.into(),
    }
}

fn is_link(path: &Path) -> io::Error {
    io::Error::other(format!("\"{}\" is a symbolic link, and nothing is written through one", path.display()))
}

fn no_file(path: &Path) -> io::Error {
    io::Error::other(format!("\"{}\" is there, and is no regular file", path.display()))
}

fn require_file(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> io::Result<()> {
    match standing(directory, name)? {
        Standing::File => Ok(()),
        Standing::Link => Err(is_link(path)),
        Standing::Directory | Standing::Other => Err(no_file(path)),
    }
}

fn open_file(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> io::Result<File> {
    let opened = rustix::fs::openat(directory, name, OLD_FILE, Mode::empty());
    let file = File::from(opened.map_err(|cause| in_the_way(directory, name, path, Standing::File, cause))?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file(path)) }
}

#[cfg(test)]
mod tests;
