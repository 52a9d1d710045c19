//! The parallel part of a restore: fetch, verify, decompress, untar.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
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
use crate::disk::beneath::{Beneath, Cursor};
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

/// What the one directory is called that a server makes in a tablespace begins with this, and no backup holds anything
/// else of a tablespace. A tablespace lies where the backup says: no member may be a file that somebody else reads there.
const TABLESPACE_VERSION: &str = "PG_";

/// Everything an extraction needs to know; shared by its workers.
#[derive(Debug)]
pub(crate) struct Extraction {
    pub(crate) archive: Archive,
    pub(crate) parts: Vec<PartToFetch>,
    /// Where each family's members go.
    pub(crate) roots: BTreeMap<PartFamily, Arc<Beneath>>,
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
    place: Place,
}

/// A symbolic link that a member asks for.
#[derive(Debug)]
struct Link {
    family: PartFamily,
    path: PathBuf,
    place: Place,
    target: PathBuf,
}

/// What the parts held that is not on disk yet.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    /// `global/pg_control`.
    pub(crate) control: Option<Control>,
    /// Links, with their targets: made last, so that no member is ever written through one.
    links: Vec<Link>,
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
        for Link { family, path, place, target } in &leftover.links {
            let mut cursor = self.root(*family)?.cursor();
            claims.publish(&cursor.full(path), *place, || {
                cursor.remove(path).and_then(|()| cursor.symlink(target, path))
            })?;
        }
        Ok(leftover)
    }

    fn root(&self, family: PartFamily) -> Result<&Beneath> {
        let root = self.roots.get(&family).map(Arc::as_ref);
        root.ok_or_else(|| Error::corrupt("the backup lists no tablespace of this number"))
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
        let root = self.root(part.family)?;
        let object = VerifiedObject::open(&self.runtime, &self.archive, part, 2 * self.share() - 1);
        let (begun, waited) = (Instant::now(), AtomicU64::default());
        let content = Waiting { content: object.reader(), nanos: &waited };
        let paced = Paced { content, rate: &self.rate, interrupt: &self.interrupt, progress: None };
        let content = Declared::of(part, compression::decoder(part.codec, paced)?);
        let (buffer, place) = (vec![0; WRITE_BYTES], Place { part: part.number, member: 0 });
        let (family, cursor) = (part.family, root.cursor());
        let unpacking = Unpacking { extraction: self, cursor, family, leftover, claims, place, buffer };
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

/// What a part unpacks to, and not a byte more than its index says: a few kilobytes of zeros packed well fill any disk.
struct Declared<R> {
    content: R,
    /// Nobody knows of Barman's backups.
    most_bytes: Option<u64>,
    bytes: u64,
}

impl<R> Declared<R> {
    fn of(part: &PartToFetch, content: R) -> Self {
        Self { content, most_bytes: part.content_bytes, bytes: 0 }
    }
}

impl<R: Read> Read for Declared<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.bytes += read as u64;
        match self.most_bytes {
            Some(most) if self.bytes > most => {
                let why = format!("it unpacks to more than the {most} bytes that the backup's index says");
                Err(io::Error::new(io::ErrorKind::InvalidData, Error::corrupt(why)))
            }
            _ => Ok(read),
        }
    }
}

/// One worker's part on its way to disk.
struct Unpacking<'a> {
    extraction: &'a Extraction,
    cursor: Cursor<'a>,
    family: PartFamily,
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
        let lock = || self.leftover.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &entry.path;
        self.place.member += 1;
        self.check_name(entry)?;
        match &entry.kind {
            EntryKind::Directory => {
                if self.family == PartFamily::Data && path == Path::new(".") {
                    lock().owner = Some(Owner { uid: entry.uid, gid: entry.gid });
                }
                let made = self.cursor.directory(path, self.extraction.modes.directory(entry.mode));
                made.map_err(|cause| Error::local("create directory", &self.cursor.full(path), cause))
            }
            EntryKind::File if self.is_control_file(path) => {
                let control = self.control(entry, content)?;
                let mut leftover = lock();
                if leftover.control.as_ref().is_none_or(|there| there.place < control.place) {
                    leftover.control = Some(control);
                }
                Ok(())
            }
            EntryKind::File => {
                self.file(path, entry.mode, content)?;
                self.extraction.progress.add_bytes(entry.size);
                self.extraction.progress.add_files(1);
                let mut leftover = lock();
                leftover.files += 1;
                leftover.content_bytes += entry.size;
                Ok(())
            }
            EntryKind::HardLink(source) => {
                let (full, cursor) = (self.cursor.full(path), &mut self.cursor);
                let link = || cursor.remove(path).and_then(|()| cursor.hard_link(source, path));
                self.claims.publish(&full, self.place, link).map(drop)
            }
            EntryKind::Symlink(target) => {
                let mut leftover = lock();
                if leftover.links.len() >= MOST_LINKS {
                    return Err(Error::corrupt(format!("it holds more than {MOST_LINKS} links")));
                }
                let (family, place) = (self.family, self.place);
                leftover.links.push(Link { family, path: path.clone(), place, target: target.clone() });
                Ok(())
            }
            // Devices and FIFOs: nothing of PostgreSQL's.
            EntryKind::Other(kind @ ('3' | '4' | '6')) => {
                tracing::warn!("\"{}\" is left out: it is of type '{kind}'", path.display());
                Ok(())
            }
            EntryKind::Other(kind) => {
                let kind = kind.escape_debug();
                Err(Error::corrupt(format!("member \"{}\" is of unknown type '{kind}'", path.display())))
            }
        }
    }

    fn is_control_file(&self, path: &Path) -> bool {
        self.family == PartFamily::Data && path == Path::new(CONTROL_FILE)
    }

    /// What no backup holds, and would harm: a control file in disguise, and files of others where a tablespace lies.
    fn check_name(&self, entry: &Entry) -> Result<()> {
        let refuse = |why: &str| Err(Error::corrupt(format!("member \"{}\" is refused: {why}", entry.path.display())));
        let is_link = matches!(entry.kind, EntryKind::HardLink(_) | EntryKind::Symlink(_));
        if is_link && self.is_control_file(&entry.path) {
            return refuse("the control file is no link");
        }
        let first = entry.path.iter().next().unwrap_or_default().to_string_lossy();
        let is_below = entry.path.iter().nth(1).is_some() || entry.kind == EntryKind::Directory;
        let is_tablespaces = first == "." || (first.starts_with(TABLESPACE_VERSION) && is_below);
        if self.family != PartFamily::Data && !is_tablespaces {
            return refuse("a tablespace holds nothing but PG_* directories");
        }
        Ok(())
    }

    fn control(&self, entry: &Entry, content: &mut impl Read) -> Result<Control> {
        if entry.size > CONTROL_FILE_LIMIT_BYTES {
            return Err(Error::corrupt(format!("its {CONTROL_FILE} has {} bytes", entry.size)));
        }
        let (mode, place) = (self.extraction.modes.file(entry.mode), self.place);
        let mut control = Control { content: Vec::new(), mode, place };
        content.read_to_end(&mut control.content).map_err(source_failure)?;
        Ok(control)
    }

    /// Relations go straight to their place; of two copies of one, either is right, because replay brings both to the
    /// same state. Other files appear whole, and the last of several stays.
    fn file(&mut self, path: &Path, mode: u32, content: &mut impl Read) -> Result<()> {
        let mut content = Interruptible { content, interrupt: &self.extraction.interrupt };
        let full = self.cursor.full(path);
        let failed = |cause| Error::local("write file", &full, cause);
        let mode = self.extraction.modes.file(mode);
        if is_numbered(path) {
            return match self.cursor.create(path, mode) {
                Ok(mut file) => copy(&mut content, &mut file, &mut self.buffer, &full),
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                    tracing::debug!("\"{}\" is in the backup twice", full.display());
                    Ok(())
                }
                Err(cause) => Err(failed(cause)),
            };
        }
        let staged = staged_beside(path, self.place);
        let mut file = self.cursor.create(&staged, mode).map_err(failed)?;
        copy(&mut content, &mut file, &mut self.buffer, &full)?;
        let cursor = &mut self.cursor;
        let is_put =
            self.claims.publish(&full, self.place, || cursor.rename(staged.file_name().unwrap_or_default(), path))?;
        if is_put { Ok(()) } else { self.cursor.remove(&staged).map_err(failed) }
    }
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
pub(crate) fn fetch_file(
    runtime: &Handle,
    archive: &Archive,
    part: &PartToFetch,
    (root, name): (&Beneath, &Path),
) -> Result<()> {
    let object = VerifiedObject::open(runtime, archive, part, 1);
    let mut content = Declared::of(part, compression::decoder(part.codec, object.reader())?);
    let mut cursor = root.cursor();
    let full = cursor.full(name);
    let outcome = cursor
        .create(name, 0o600)
        .map_err(|cause| Error::local("write file", &full, cause))
        .and_then(|mut file| copy(&mut content, &mut file, &mut vec![0; WRITE_BYTES], &full));
    drop(content);
    outcome
        .and_then(|()| object.verify(part))
        .map_err(|error| error.context(format!("could not restore \"{}\"", part.key)))
}
