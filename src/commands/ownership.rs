//! Whose the files of a restored directory are: PostgreSQL starts on none but its own user's.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::lchown;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Uid, chownat, fchown, openat};
use rustix::io::Errno;

use crate::disk::beneath::Beneath;
use crate::error::{Error, Result};

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Who is to own what a restore writes into `directory`, when the backup was `recorded`'s; none when it can only be
    /// us, because only root gives files away.
    ///
    /// Whoever made the directory for another user has said whose it is; user numbers differ between machines.
    pub(crate) fn wanted(directory: &Beneath, recorded: Option<Self>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let facts = rustix::fs::fstat(directory).ok()?;
        let there = Self { uid: facts.st_uid, gid: facts.st_gid };
        let wanted = if there.uid == 0 { recorded.filter(|recorded| recorded.uid != 0) } else { Some(there) };
        if wanted.is_none() {
            tracing::warn!(
                "\"{}\" belongs to root: give it to the user PostgreSQL runs as before you start it",
                directory.path().display()
            );
        }
        wanted
    }

    /// Gives the directory to the owner, and everything in it; links themselves, never what they lead to, even when the
    /// new owner puts one in our way meanwhile. Errors: `Local`.
    pub(crate) fn take_all(self, directory: &Beneath) -> Result<()> {
        self.take_opened(directory).map_err(|cause| Error::local("give away", directory.path(), cause.into()))
    }

    /// Gives an opened file to the owner.
    pub(crate) fn take_file(self, file: &File) -> std::io::Result<()> {
        fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid))).map_err(Into::into)
    }

    fn take_opened(self, directory: impl AsFd) -> rustix::io::Result<()> {
        let directory = directory.as_fd();
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(directory, name, flags, Mode::empty()) {
                Ok(inner) => self.take_opened(inner)?,
                Err(Errno::NOTDIR | Errno::LOOP) => chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?,
                Err(cause) => return Err(cause),
            }
        }
        fchown(directory, uid, gid)
    }

    /// Gives one file, directory or link to the owner. Errors: `Local`.
    pub(crate) fn take(self, path: &Path) -> Result<()> {
        lchown(path, Some(self.uid), Some(self.gid)).map_err(|cause| Error::local("give away", path, cause))
    }
}
