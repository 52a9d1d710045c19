//! The parallel part of a restore: fetch, verify, decompress, untar.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::codec::compression;
use crate::codec::source_failure;
use crate::codec::tar::{Entry, EntryKind, TarReader};
use crate::commands::archive::Archive;
use crate::commands::beside::read_beside;
use crate::commands::claims::{Claims, Place, is_numbered, staged_beside};
use crate::commands::interrupt::{Interrupt, Interruptible};
use crate::commands::object_stream::{PartToFetch, VerifiedObject};
use crate::commands::ownership::Owner;
use crate::commands::progress::Progress;
use crate::commands::rate_limit::{Paced, RateLimit};
use crate::disk;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::PartFamily;

/// Files are written through a buffer of this size.
const WRITE_BYTES: usize = 256 << 10;

/// So much of a file is sent to the disk at once, while more of it comes: the sync at the end then finds most of it done.
const BURST_BYTES: u64 = 8 << 20;

/// For less than this a system call costs more than it brings.
const SMALLEST_BURST_BYTES: u64 = 512 << 10;

/// Links in a data directory are few and made by hand; a tar with more of them is not one of a data directory.
const MOST_LINKS: usize = 10_000;

/// The member that makes a directory startable: it is kept back until everything else is durable.
const CONTROL_FILE: &str = "global/pg_control";

/// A control file is 8 KiB (PostgreSQL's `PG_CONTROL_FILE_SIZE`).
const CONTROL_FILE_LIMIT_BYTES: u64 = 64 << 10;

/// Everything an extraction needs to know; shared by its workers.
#[derive(Debug)]
pub(crate) struct Extraction {
    pub(crate) archive: Archive,
    pub(crate) parts: Vec<PartToFetch>,
    /// Where each family's members go.
    pub(crate) roots: BTreeMap<PartFamily, PathBuf>,
    pub(crate) jobs: usize,
    /// Which permissions the members get.
    pub(crate) modes: Modes,
    /// How fast parts may come.
    pub(crate) rate: RateLimit,
    pub(crate) interrupt: Interrupt,
    pub(crate) progress: Arc<Progress>,
    pub(crate) runtime: Handle,
}

/// Which permissions directories and files get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Modes {
    /// As PostgreSQL wants them: 0700 and 0600, with group reading where the source allowed it.
    ForPostgres,
    /// Those of the source; what the owner needs to go on is never taken away, nor are bits given that grant rights.
    OfSource,
}

impl Modes {
    fn directory(self, mode: u32) -> u32 {
        match self {
            Self::ForPostgres => 0o700 | (mode & 0o050),
            Self::OfSource => 0o700 | (mode & 0o077),
        }
    }

    fn file(self, mode: u32) -> u32 {
        match self {
            Self::ForPostgres => 0o600 | (mode & 0o140),
            Self::OfSource => 0o600 | (mode & 0o177),
        }
    }
}

/// The control file, content and permissions.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// What the parts held that is not on disk yet.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    /// `global/pg_control`.
    pub(crate) control: Option<Control>,
    /// Links, with their targets: made last, so that no member is ever written through one.
    links: Vec<(PathBuf, Place, PathBuf)>,
    /// Whose the data directory was.
    pub(crate) owner: Option<Owner>,
    pub(crate) files: u64,
    pub(crate) content_bytes: u64,
}

impl Extraction {
    /// Fetches and unpacks every part. Blocking; call it off the runtime's own threads.
    ///
    /// Every part is read to its end and its size and digest are compared with the index; a mismatch is `Corrupt` and
    /// names both. The control file is held back. Memory: `jobs` × (2 × 8 MiB + 1.5 MiB + a codec).
    pub(crate) fn run(&self) -> Result<Leftover> {
        let next = Mutex::new(self.parts.iter());
        let leftover = Mutex::new(Leftover::default());
        let claims = Claims::default();
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.min(self.parts.len()).max(1))
                .map(|_| scope.spawn(|| self.work(&next, &leftover, &claims)))
                .collect();
            let died = |_| Err(Error::new(ErrorKind::Bug, "a worker of the restore panicked"));
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(died)).collect()
        });
        let (stopped, failed): (Vec<_>, Vec<_>) =
            outcomes.into_iter().filter_map(Result::err).partition(|error| error.kind() == ErrorKind::Interrupted);
        if let Some(error) = failed.into_iter().next().or_else(|| stopped.into_iter().next()) {
            return Err(error);
        }
        let leftover = leftover.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (path, place, target) in &leftover.links {
            claims
                .publish(path, *place, || make_parent(path).and_then(|()| std::os::unix::fs::symlink(target, path)))?;
        }
        Ok(leftover)
    }

    fn work(
        &self,
        next: &Mutex<std::slice::Iter<'_, PartToFetch>>,
        leftover: &Mutex<Leftover>,
        claims: &Claims,
    ) -> Result<()> {
        loop {
            let part = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(part) = part else { return Ok(()) };
            let outcome = self.interrupt.check().and_then(|()| self.part(part, leftover, claims));
            if let Err(error) = outcome {
                self.interrupt.stop();
                return Err(error.context(format!("could not restore part \"{}\"", part.key)));
            }
        }
    }

    /// How many of the jobs there are for each part: where there are fewer parts than jobs, one part gets the share of several.
    fn share(&self) -> usize {
        let jobs = self.jobs.max(1);
        jobs / self.parts.len().clamp(1, jobs)
    }

    fn part(&self, part: &PartToFetch, leftover: &Mutex<Leftover>, claims: &Claims) -> Result<()> {
        let root = self
            .roots
            .get(&part.family)
            .ok_or_else(|| Error::corrupt("the backup lists no tablespace of this number"))?;
        let object = VerifiedObject::open(&self.runtime, &self.archive, part, 2 * self.share() - 1);
        let (begun, waited) = (Instant::now(), AtomicU64::default());
        let content = Waiting { content: object.reader(), nanos: &waited };
        let paced = Paced { content, rate: &self.rate, interrupt: &self.interrupt, progress: None };
        let content = compression::decoder(part.codec, paced)?;
        let is_data = part.family == PartFamily::Data;
        let (buffer, place) = (vec![0; WRITE_BYTES], Place { part: part.number, member: 0 });
        let unpacking = Unpacking { extraction: self, root, is_data, leftover, claims, place, buffer };
        if self.share() > 1 {
            read_beside(content, |content| unpacking.members(content))?;
        } else {
            unpacking.members(content)?;
        }
        self.progress.add_time(Duration::from_nanos(waited.load(Ordering::Relaxed)), begun.elapsed());
        object.verify(part)
    }
}

/// Adds up how long a reader of the store keeps its user waiting.
struct Waiting<'a, R> {
    content: R,
    nanos: &'a AtomicU64,
}

impl<R: Read> Read for Waiting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let outcome = self.content.read(buffer);
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        outcome
    }
}

/// One worker's part on its way to disk.
struct Unpacking<'a> {
    extraction: &'a Extraction,
    root: &'a Path,
    is_data: bool,
    leftover: &'a Mutex<Leftover>,
    claims: &'a Claims,
    /// Of the member at hand.
    place: Place,
    buffer: Vec<u8>,
}

impl Unpacking<'_> {
    fn members(mut self, content: impl Read) -> Result<()> {
        let mut tar = TarReader::new(content);
        while let Some(entry) = tar.next_entry()? {
            self.extraction.interrupt.check()?;
            self.member(&entry, &mut tar)?;
        }
        Ok(())
    }

    fn member(&mut self, entry: &Entry, content: &mut impl Read) -> Result<()> {
        let path = self.root.join(&entry.path);
        let lock = || self.leftover.lock().unwrap_or_else(PoisonError::into_inner);
        self.place.member += 1;
        match &entry.kind {
            EntryKind::Directory => {
                if self.is_data && entry.path == Path::new(".") {
                    lock().owner = Some(Owner { uid: entry.uid, gid: entry.gid });
                }
                create_directory(&path, self.extraction.modes.directory(entry.mode))
            }
            EntryKind::File if self.is_data && entry.path == Path::new(CONTROL_FILE) => {
                let mut control = Control { content: Vec::new(), mode: self.extraction.modes.file(entry.mode) };
                let mut content = content.take(CONTROL_FILE_LIMIT_BYTES);
                content.read_to_end(&mut control.content).map_err(source_failure)?;
                lock().control = Some(control);
                Ok(())
            }
            EntryKind::File => {
                self.file(&path, entry.mode, content)?;
                self.extraction.progress.add_bytes(entry.size);
                self.extraction.progress.add_files(1);
                let mut leftover = lock();
                leftover.files += 1;
                leftover.content_bytes += entry.size;
                Ok(())
            }
            EntryKind::HardLink(target) => {
                let target = self.root.join(target);
                self.claims.publish(&path, self.place, || {
                    make_parent(&path)?;
                    // Where a file system has no hard links, a copy holds the same.
                    fs::hard_link(&target, &path).or_else(|_| fs::copy(&target, &path).map(drop))
                })
            }
            EntryKind::Symlink(target) => {
                let mut leftover = lock();
                if leftover.links.len() >= MOST_LINKS {
                    return Err(Error::corrupt(format!("it holds more than {MOST_LINKS} links")));
                }
                leftover.links.push((path, self.place, target.clone()));
                Ok(())
            }
            // Devices and FIFOs: nothing of PostgreSQL's.
            EntryKind::Other(kind @ ('3' | '4' | '6')) => {
                tracing::warn!("\"{}\" is left out: it is of type '{kind}'", entry.path.display());
                Ok(())
            }
            EntryKind::Other(kind) => {
                let kind = kind.escape_debug();
                Err(Error::corrupt(format!("member \"{}\" is of unknown type '{kind}'", entry.path.display())))
            }
        }
    }

    /// Relations go straight to their place; of two copies of one, either is right, because replay brings both to the
    /// same state. Other files appear whole, and the last of several stays.
    fn file(&mut self, path: &Path, mode: u32, content: &mut impl Read) -> Result<()> {
        let mut content = Interruptible { content, interrupt: &self.extraction.interrupt };
        let failed = |cause| Error::local("write file", path, cause);
        let mode = self.extraction.modes.file(mode);
        if is_numbered(path) {
            return match create_file(path, mode) {
                Ok(mut file) => copy(&mut content, &mut file, &mut self.buffer, path),
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                    tracing::debug!("\"{}\" is in the backup twice", path.display());
                    Ok(())
                }
                Err(cause) => Err(failed(cause)),
            };
        }
        let staged = staged_beside(path, self.place);
        let mut file = create_file(&staged, mode).map_err(failed)?;
        copy(&mut content, &mut file, &mut self.buffer, path)?;
        self.claims.publish(path, self.place, || fs::rename(&staged, path))?;
        disk::remove_if_there(&staged)
    }
}

pub(crate) fn create_directory(path: &Path, mode: u32) -> Result<()> {
    let failed = |cause| Error::local("create directory", path, cause);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Workers unpack in any order, so a file may come before its directory; nothing is ever written over or through a
/// link, because none exists yet and files are created anew.
fn create_file(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let file = match options.open(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => make_parent(path).and_then(|()| options.open(path))?,
        opened => opened?,
    };
    if mode != 0o600 {
        // Our umask, which keeps what we write to ourselves, would take away what the source gave its group.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(file)
}

fn make_parent(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(Path::new("/")))
}

fn copy(content: &mut impl Read, file: &mut File, buffer: &mut [u8], path: &Path) -> Result<()> {
    use std::io::Write;
    let (mut written, mut on_its_way) = (0, 0);
    loop {
        let read = match content.read(buffer) {
            Ok(read) => read,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(source_failure(cause)),
        };
        file.write_all(&buffer[..read]).map_err(|cause| Error::local("write file", path, cause))?;
        written += read as u64;
        if written - on_its_way >= if read == 0 { SMALLEST_BURST_BYTES } else { BURST_BYTES } {
            disk::begin_writing(file, on_its_way, written - on_its_way);
            on_its_way = written;
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// Fetches, verifies and unpacks one object that is a single file, such as the manifest. Blocking; memory as a worker's.
pub(crate) fn fetch_file(runtime: &Handle, archive: &Archive, part: &PartToFetch, path: &Path) -> Result<()> {
    let object = VerifiedObject::open(runtime, archive, part, 1);
    let mut content = compression::decoder(part.codec, object.reader())?;
    let outcome = create_file(path, 0o600)
        .map_err(|cause| Error::local("write file", path, cause))
        .and_then(|mut file| copy(&mut content, &mut file, &mut vec![0; WRITE_BYTES], path));
    drop(content);
    outcome
        .and_then(|()| object.verify(part))
        .map_err(|error| error.context(format!("could not restore \"{}\"", part.key)))
}
