//! The place of a drill: a directory of its own that goes when the drill does, whatever that ends of.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::commands::ownership::Owner;
use crate::disk;
use crate::disk::beneath::Beneath;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::os_user;
use crate::postgres::private_server::RunAs;

/// What its name begins with.
const NAME: &str = "barback-drill-";

/// Held while the drill lives: the system lets go of it whatever it dies of.
const LOCK: &str = "lock";

/// The path of a socket has 107 bytes at most (`sun_path` of `unix(7)`), of which `/.s.PGSQL.65535` takes 16.
const LONGEST_SOCKET_DIRECTORY: usize = 90;

/// So often is it tried to remove a directory that somebody still writes to, with a pause in between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Users that a server runs as where this process is root, the first that there is.
const SERVER_USERS: [&str; 2] = ["postgres", "nobody"];

/// The directory of one drill. Dropped, it is removed, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: PathBuf,
    beneath: Beneath,
    /// Elsewhere where the path to `root` is too long for a socket.
    sockets: PathBuf,
    run_as: Option<RunAs>,
    is_kept: bool,
    _lock: File,
}

impl Scratch {
    /// Makes one in `workdir`, and removes those of drills that were killed.
    ///
    /// Errors: `Usage` for a place inside a data directory; `Local`.
    pub(crate) fn make(workdir: &Path, number: u32) -> Result<Self> {
        let workdir = workdir.canonicalize().map_err(|cause| Error::local("use directory", workdir, cause))?;
        refuse_data_directory(&workdir)?;
        if workdir.as_os_str().as_encoded_bytes().contains(&b',') {
            let message = format!(
                "could not use directory \"{}\" for a drill: a comma ends the name of a socket's directory",
                workdir.display()
            );
            return Err(Error::usage(message));
        }
        sweep(&workdir);
        let root = workdir.join(format!("{NAME}{}-{number:08x}", std::process::id()));
        let run_as = server_user()?;
        make_directory(&root)?;
        let made = || -> Result<(Beneath, PathBuf, File)> {
            let beneath = Beneath::open(&root)?;
            let lock = lock(&root.join(LOCK), true)
                .ok_or_else(|| Error::new(ErrorKind::Local, format!("could not lock \"{}\"", root.display())))?;
            for name in ["data", "tablespaces", "configuration"] {
                make_directory(&root.join(name))?;
            }
            let near = root.join("sockets");
            let sockets = if near.as_os_str().len() <= LONGEST_SOCKET_DIRECTORY {
                near
            } else {
                std::env::temp_dir().join(format!("{NAME}{}-{number:08x}", std::process::id()))
            };
            make_directory(&sockets)?;
            Ok((beneath, sockets, lock))
        };
        let (beneath, sockets, lock) = made().inspect_err(|_| drop(fs::remove_dir_all(&root)))?;
        let scratch = Self { root, beneath, sockets, run_as, is_kept: false, _lock: lock };
        if let Some(owner) = scratch.owner() {
            // Nothing above them: while files are written for it, the server's user must not come near, and never may it
            // put a link where root writes.
            for place in [scratch.data(), scratch.tablespaces(), scratch.sockets.clone()] {
                owner.take(&place)?;
            }
        }
        Ok(scratch)
    }

    /// Lets the server's user in, when all that root writes below its directories is written. Errors: `Local`.
    pub(crate) fn open_up(&self) -> Result<()> {
        if self.run_as.is_none() {
            return Ok(());
        }
        for place in [self.root.clone(), self.root.join("configuration")] {
            fs::set_permissions(&place, Permissions::from_mode(0o711))
                .map_err(|cause| Error::local("open directory", &place, cause))?;
        }
        Ok(())
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Below it every tablespace has a directory.
    pub(crate) fn tablespaces(&self) -> PathBuf {
        self.root.join("tablespaces")
    }

    /// Where the server's socket lies.
    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// One of the server's configuration files.
    pub(crate) fn configuration(&self, name: &str) -> PathBuf {
        self.root.join("configuration").join(name)
    }

    /// What the server says.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// What its calls for WAL came to.
    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("wal.journal")
    }

    /// Where all of it lies.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Who its server runs as; this process's own user where none.
    pub(crate) fn run_as(&self) -> Option<RunAs> {
        self.run_as
    }

    /// Puts a file of the server's there. Errors: `Local`.
    pub(crate) fn write(&self, path: &Path, text: &str) -> Result<()> {
        let name = path.strip_prefix(&self.root).unwrap_or(path);
        // What was restored may have a link of this name.
        let mut cursor = self.beneath.cursor();
        let mut write = || -> std::io::Result<()> {
            cursor.remove(name)?;
            let mut file = cursor.create(name, 0o600)?;
            file.write_all(text.as_bytes())?;
            self.owner().map_or(Ok(()), |owner| owner.take_file(&file))
        };
        write().map_err(|cause| Error::local("write file", path, cause))
    }

    /// It stays, for whoever wants to look into it: later drills take what has no lock for somebody else's.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
        if let Err(error) = disk::remove_if_there(&self.root.join(LOCK)) {
            tracing::warn!("{error}");
        }
    }

    /// Removes it. Errors: `Local` for what could not be removed.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.is_kept = true;
        self.remove_all()
    }

    fn remove_all(&self) -> Result<()> {
        for place in [&self.sockets, &self.root] {
            let mut attempt = 1;
            // The helper that fetched WAL ahead may be putting its last file there.
            while let Err(cause) = remove_tree(place) {
                if cause.kind() == std::io::ErrorKind::NotFound {
                    break;
                }
                if attempt == ATTEMPTS {
                    return Err(Error::local("remove directory", place, cause));
                }
                attempt += 1;
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    fn owner(&self) -> Option<Owner> {
        self.run_as.map(|RunAs { uid, gid }| Owner { uid, gid })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = self.remove_all()
        {
            tracing::error!("{error}");
        }
    }
}

fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|cause| Error::local("create directory", path, cause))
}

/// The lock on a file: of a new one, or of one that is there, and never of what is no plain file.
fn lock(path: &Path, is_new: bool) -> Option<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(is_new).mode(0o600);
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let file = options.open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// A drill must not be done inside of anything that a server runs on, or may run on.
fn refuse_data_directory(workdir: &Path) -> Result<()> {
    match workdir.ancestors().find(|above| above.join("PG_VERSION").exists()) {
        None => Ok(()),
        Some(above) => Err(Error::usage(format!(
            "could not use directory \"{}\" for a drill: it is inside the data directory \"{}\"",
            workdir.display(),
            above.display()
        ))
        .with_hint("Give another one with --workdir.")),
    }
}

/// PostgreSQL refuses to run as root.
fn server_user() -> Result<Option<RunAs>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let found = SERVER_USERS.iter().find_map(|name| os_user::numbers_of(name)).filter(|(uid, _)| *uid != 0);
    match found {
        Some((uid, gid)) => Ok(Some(RunAs { uid, gid })),
        None => {
            Err(Error::new(ErrorKind::Local, "could not find a user for the server: PostgreSQL does not run as root")
                .with_hint("Make a user called postgres, or run the drill as another user than root."))
        }
    }
}

/// Removes a directory, its lock last: what is killed on the way can still be told for a drill's.
fn remove_tree(root: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    fs::remove_dir_all(root)
}

/// Removes what drills left that were killed. Their servers are gone: the system ended them.
fn sweep(workdir: &Path) {
    for entry in fs::read_dir(workdir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME));
        // Others may use the same place, and any name in it.
        let is_ours = fs::symlink_metadata(&path)
            .is_ok_and(|facts| facts.is_dir() && facts.uid() == rustix::process::geteuid().as_raw());
        if !is_one || !is_ours {
            continue;
        }
        if let Some(_lock) = lock(&path.join(LOCK), false) {
            match remove_tree(&path) {
                Ok(()) => tracing::info!("removed \"{}\", which a drill that was killed had left", path.display()),
                Err(cause) => tracing::warn!("{}", Error::local("remove directory", &path, cause)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_goes_with_its_drill_unless_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(dir.path(), 7).unwrap();
        let root = scratch.root().to_owned();
        assert!(scratch.data().is_dir() && scratch.tablespaces().is_dir() && scratch.sockets().is_dir());
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
        let sockets = scratch.sockets().to_owned();
        drop(scratch);
        assert!(!root.exists() && !sockets.exists());
        let mut kept = Scratch::make(dir.path(), 8).unwrap();
        kept.keep();
        let root = kept.root().to_owned();
        drop(kept);
        drop(Scratch::make(dir.path(), 9).unwrap());
        assert!(root.exists(), "a later drill removed what an earlier one had kept");
    }

    #[test]
    fn what_a_killed_drill_left_is_removed_and_what_a_running_one_uses_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let running = Scratch::make(dir.path(), 1).unwrap();
        let left = dir.path().join(format!("{NAME}4711-00000001"));
        fs::create_dir_all(left.join("data")).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        let strange = dir.path().join(format!("{NAME}of-somebody"));
        fs::create_dir(&strange).unwrap();
        let other = Scratch::make(dir.path(), 2).unwrap();
        assert!(!left.exists() && strange.exists());
        assert!(running.root().exists() && other.root().exists());
    }

    #[test]
    fn a_drill_inside_a_data_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        let inside = dir.path().join("base");
        fs::create_dir(&inside).unwrap();
        for place in [dir.path(), &inside] {
            let error = Scratch::make(place, 1).unwrap_err();
            assert!(error.to_string().contains("inside the data directory"), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
