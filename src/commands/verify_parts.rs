//! One backup read to its last byte: digests, compression, tars, every file against the manifest, the control file, the label.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use crate::codec::compression;
use crate::codec::file_set::{FileFacts, FileSet};
use crate::codec::source_failure;
use crate::codec::tar::{Entry, EntryKind, TarReader};
use crate::commands::archive::Archive;
use crate::commands::interrupt::Interrupt;
use crate::commands::object_stream::{PartToFetch, SharedReader, VerifiedObject};
use crate::commands::progress::Progress;
use crate::commands::rate_limit::{Paced, RateLimit};
use crate::commands::verify_backup::{BackupLook, judge};
use crate::commands::verify_manifest;
use crate::commands::verify_pages::PageRules;
use crate::domain::backup::Backup;
use crate::domain::verification::{Degree, Finding, Findings};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::PartFamily;
use crate::postgres::base_backup::BackupLabel;
use crate::postgres::pg_control::ControlFile;

/// Files are read through a buffer of this size.
const READ_BYTES: usize = 256 << 10;

/// Files that say what the others are, and of which a copy is kept while the parts are read.
const CONTROL_FILE: &str = "global/pg_control";
const LABEL_FILE: &str = "backup_label";

/// Neither is longer: a control file has 8 KiB, a label some 300 bytes.
const SMALL_FILE_LIMIT_BYTES: u64 = 64 << 10;

/// What reading needs to know beside what is read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) archive: Archive,
    pub(crate) runtime: Handle,
    /// Parts read at the same time.
    pub(crate) jobs: usize,
    /// All that may be in memory.
    pub(crate) max_memory_bytes: usize,
    pub(crate) rate: RateLimit,
    pub(crate) interrupt: Interrupt,
    pub(crate) progress: Arc<Progress>,
}

impl Reading {
    /// The object as it may be read: no faster than asked for, counted, until somebody says stop.
    pub(crate) fn paced(&self, object: &VerifiedObject) -> Paced<'_, SharedReader> {
        let Self { rate, interrupt, progress, .. } = self;
        Paced { content: object.reader(), rate, interrupt, progress: Some(progress) }
    }
}

/// Which backup is read, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) reading: &'a Reading,
    pub(crate) backup: &'a Backup,
    pub(crate) look: &'a BackupLook,
}

/// What reading a backup found.
#[derive(Debug, Default)]
pub(crate) struct PartsRead {
    pub(crate) findings: Findings,
    /// Bytes that came from the store.
    pub(crate) bytes: u64,
    /// The store gave no answer any more.
    pub(crate) is_unreachable: bool,
}

/// A file of a part, as it passes.
pub(crate) struct FileSeen<'a> {
    pub(crate) part: &'a PartToFetch,
    pub(crate) facts: FileFacts<'a>,
}

/// What the parts hold, beside their files' sums.
#[derive(Debug, Default)]
struct Contents {
    findings: Findings,
    files: FileSet,
    bytes: u64,
    control: Option<Vec<u8>>,
    label: Option<Vec<u8>>,
    /// Parts that could not be read to their end.
    unread: u64,
    is_unreachable: bool,
}

/// Reads every part of `look` that is there, and its manifest. Blocking; call it off the runtime's own threads.
///
/// Memory: `jobs` × (2 × 8 MiB, a codec, 320 KiB), however many files there are; more only to name files that differ from
/// the manifest, for which the parts are read once more.
pub(crate) fn read_parts(work: Work<'_>) -> PartsRead {
    let contents = read_all(work, &|_| ());
    let look = work.look;
    let is_whole = contents.unread == 0 && look.findings.count(Degree::Damage) == 0;
    let mut read =
        PartsRead { findings: contents.findings, bytes: contents.bytes, is_unreachable: contents.is_unreachable };
    if read.is_unreachable {
        return read;
    }
    if let Some(manifest) = &look.manifest {
        let compared = verify_manifest::compare(work, manifest, &contents.files, is_whole);
        read.bytes += compared.bytes;
        read.is_unreachable = compared.is_unreachable;
        read.findings.append(compared.findings);
    }
    if is_whole {
        read.findings.append(small_files(work, contents.control, contents.label.as_deref()));
    }
    read
}

/// Reads the parts and tells `each` of every file. What is wrong with them is in the answer.
fn read_all(work: Work<'_>, each: &(dyn Fn(&FileSeen<'_>) + Sync)) -> Contents {
    let Work { reading, backup, look } = work;
    let mut parts: Vec<&PartToFetch> = look.parts.iter().collect();
    // The longest first, so that no worker is left alone with one at the end.
    parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.key.cmp(&b.key)));
    let next = Mutex::new(parts.iter());
    let all = Mutex::new(Contents::default());
    let pages = PageRules::of(backup, look.index.as_ref());
    let worker = PartWorker { work, pages, each };
    std::thread::scope(|scope| {
        for _ in 0..reading.jobs.min(parts.len()).max(1) {
            scope.spawn(|| {
                let mut mine = Contents::default();
                loop {
                    let part = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(part) = part else { break };
                    worker.part(part, &mut mine);
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).append(mine);
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the parts once more, for whoever asks about single files.
pub(crate) fn read_again(work: Work<'_>, each: &(dyn Fn(&FileSeen<'_>) + Sync)) -> PartsRead {
    let contents = read_all(work, each);
    let unknown = |finding: &&Finding| finding.degree == Degree::Unknown;
    PartsRead {
        // What is wrong with the parts is known already.
        findings: contents.findings.named().into_iter().filter(unknown).cloned().collect(),
        bytes: contents.bytes,
        is_unreachable: contents.is_unreachable,
    }
}

impl Contents {
    fn append(&mut self, other: Self) {
        self.findings.append(other.findings);
        self.files.append(&other.files);
        self.bytes += other.bytes;
        self.control = self.control.take().or(other.control);
        self.label = self.label.take().or(other.label);
        self.unread += other.unread;
        self.is_unreachable |= other.is_unreachable;
    }
}

struct PartWorker<'a> {
    work: Work<'a>,
    pages: Option<PageRules>,
    each: &'a (dyn Fn(&FileSeen<'_>) + Sync),
}

impl PartWorker<'_> {
    fn part(&self, part: &PartToFetch, contents: &mut Contents) {
        let object = VerifiedObject::open(&self.work.reading.runtime, &self.work.reading.archive, part, 1);
        let read = match self.walk(part, &object, contents) {
            Ok(()) => Ok(None),
            // Also of a part whose content is unreadable it is worth knowing whether it is what was stored.
            Err(error) if is_about_bytes(&error) => self.drain(&object).map(|()| Some(error)),
            Err(error) => Err(error),
        };
        let unreadable = match read {
            Ok(unreadable) => unreadable,
            Err(error) => return self.failed(part, &error, contents),
        };
        let (digest, bytes) = match object.finish() {
            Ok(measured) => measured,
            Err(error) => return self.failed(part, &error, contents),
        };
        contents.bytes += bytes;
        let mut why = Vec::new();
        if bytes != part.bytes {
            why.push(format!("it is {bytes} bytes long, {} are expected", part.bytes));
        }
        if let Some(expected) = part.sha256.filter(|expected| *expected != digest) {
            why.push(format!("its SHA-256 is {digest}, the index says {expected}"));
        }
        if let Some(error) = unreadable {
            contents.unread += 1;
            why.push(error.to_string());
        }
        if !why.is_empty() {
            contents.findings.push(Finding::damage(&part.key, why.join("; ")));
        }
    }

    fn failed(&self, part: &PartToFetch, error: &Error, contents: &mut Contents) {
        contents.unread += 1;
        contents.is_unreachable |= error.kind() == ErrorKind::Unreachable;
        if error.kind() == ErrorKind::Unreachable {
            // The other workers would only wait for the same store.
            self.work.reading.interrupt.stop();
        }
        let judging = judge(&self.work.reading.archive, &self.work.backup.id, &part.key, error);
        contents.findings.push(self.work.reading.runtime.block_on(judging));
    }

    /// Reads the tar to its end. The error is why that could not be done.
    fn walk(&self, part: &PartToFetch, object: &VerifiedObject, contents: &mut Contents) -> Result<()> {
        let source = self.work.reading.paced(object);
        let decoder = Counted { content: compression::decoder(part.codec, source)?, bytes: 0 };
        let mut tar = TarReader::new(decoder);
        let mut files = 0;
        let mut walk = PartWalk { worker: self, part, contents, buffer: vec![0; READ_BYTES] };
        while let Some(entry) = tar.next_entry()? {
            match &entry.kind {
                EntryKind::File => {
                    files += 1;
                    walk.file(&entry, &mut tar)?;
                }
                EntryKind::Other(kind) if !"346".contains(*kind) => {
                    let kind = kind.escape_debug();
                    let path = entry.path.display();
                    return Err(Error::corrupt(format!("member \"{path}\" is of unknown type '{kind}'")));
                }
                _ => {}
            }
        }
        let bytes = tar.into_source().bytes;
        let name = part.key.rsplit('/').next();
        let said =
            self.work.look.index.iter().flat_map(|index| &index.parts).find(|said| name == Some(said.name.as_str()));
        if let Some(said) = said.filter(|said| (said.content_bytes, said.files) != (bytes, files)) {
            let what = format!(
                "it holds {bytes} bytes and {files} files, the index says {} and {}",
                said.content_bytes, said.files
            );
            contents.findings.push(Finding::damage(&part.key, what));
        }
        Ok(())
    }

    fn drain(&self, object: &VerifiedObject) -> Result<()> {
        let mut rest = self.work.reading.paced(object);
        io::copy(&mut rest, &mut io::sink()).map(drop).map_err(source_failure)
    }
}

/// One part on its way past a worker.
struct PartWalk<'a> {
    worker: &'a PartWorker<'a>,
    part: &'a PartToFetch,
    contents: &'a mut Contents,
    buffer: Vec<u8>,
}

impl PartWalk<'_> {
    fn file(&mut self, entry: &Entry, content: &mut impl Read) -> Result<()> {
        let is_data = self.part.family == PartFamily::Data;
        let mut small = match entry.path.to_str() {
            Some(CONTROL_FILE | LABEL_FILE) if is_data && entry.size <= SMALL_FILE_LIMIT_BYTES => Some(Vec::new()),
            _ => None,
        };
        let mut crc32c = 0;
        let mut pages = self.worker.pages.as_ref().and_then(|rules| rules.checker(&entry.path, entry.size));
        loop {
            let length = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(source_failure(cause)),
            };
            let bytes = self.buffer.get(..length).unwrap_or_default();
            crc32c = crc32c::crc32c_append(crc32c, bytes);
            if let Some((pages, left)) = &mut pages {
                let whole = bytes.get(..usize::try_from(*left).unwrap_or(usize::MAX).min(length)).unwrap_or_default();
                *left -= whole.len() as u64;
                pages.update(whole);
            }
            if let Some(small) = &mut small {
                small.extend_from_slice(bytes);
            }
        }
        let path = manifest_path(self.part.family, &entry.path);
        if let (Some(rules), Some((pages, _))) = (&self.worker.pages, pages) {
            let finding = rules.judge(&String::from_utf8_lossy(&path), &pages.finish());
            if let Some(finding) = finding {
                self.contents.findings.push(finding);
            }
        }
        let facts = FileFacts { path: &path, size_bytes: entry.size, crc32c };
        self.contents.files.add(&facts);
        (self.worker.each)(&FileSeen { part: self.part, facts });
        match (entry.path.to_str(), small) {
            (Some(CONTROL_FILE), Some(small)) => self.contents.control = Some(small),
            (Some(LABEL_FILE), Some(small)) => self.contents.label = Some(small),
            _ => {}
        }
        self.worker.work.reading.progress.add_files(1);
        Ok(())
    }
}

/// True when an error says something about bytes that came, and not about their coming.
fn is_about_bytes(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Mismatch)
}

/// A file's path in the manifest.
fn manifest_path(family: PartFamily, path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    match family {
        PartFamily::Data => bytes.to_vec(),
        PartFamily::Tablespace(oid) => [format!("pg_tblspc/{oid}/").as_bytes(), bytes].concat(),
    }
}

/// The control file and the label are there, whole, and of this very backup.
fn small_files(work: Work<'_>, control: Option<Vec<u8>>, label: Option<&[u8]>) -> Findings {
    let mut findings = Findings::default();
    let backup = work.backup;
    let directory = work.reading.archive.prefix.backup_dir(&backup.id);
    let object = |name: &str| format!("{directory}: {name}");
    match control.map(ControlFile::parse) {
        None => {
            findings.push(Finding::damage(object(CONTROL_FILE), "no part holds it: a server cannot start without it"));
        }
        Some(Err(error)) if error.kind() == ErrorKind::Mismatch => {
            findings.push(Finding::notice(object(CONTROL_FILE), format!("{error}; it is not looked into")));
        }
        Some(Err(error)) => findings.push(Finding::damage(object(CONTROL_FILE), error.to_string())),
        Some(Ok(control)) => {
            let facts = [
                (
                    "system identifier",
                    control.system_identifier.to_string(),
                    backup.system_identifier.map(|value| value.to_string()),
                ),
                (
                    "segment size",
                    control.segment_size.bytes().to_string(),
                    Some(backup.segment_size.bytes().to_string()),
                ),
            ];
            for (what, held, said) in facts {
                if let Some(said) = said.filter(|said| *said != held) {
                    let what = format!("its {what} is {held}, that of backup.info is {said}");
                    findings.push(Finding::damage(object(CONTROL_FILE), what));
                }
            }
        }
    }
    let text = label.map(|label| String::from_utf8_lossy(label).into_owned()).or_else(|| backup.backup_label.clone());
    match text.as_deref().map(BackupLabel::parse) {
        None => findings.push(Finding::damage(object(LABEL_FILE), "neither the parts nor backup.info hold it")),
        Some(Err(error)) => findings.push(Finding::damage(object(LABEL_FILE), error.to_string())),
        Some(Ok(label)) => {
            if let Some(begin) = backup.begin_lsn.filter(|begin| *begin != label.start_lsn) {
                let what = format!("it begins at {}, backup.info says {begin}", label.start_lsn);
                findings.push(Finding::damage(object(LABEL_FILE), what));
            }
            if let Some(timeline) = backup.timeline.filter(|timeline| *timeline != label.start_timeline) {
                let what = format!("it is of timeline {}, backup.info says {timeline}", label.start_timeline);
                findings.push(Finding::damage(object(LABEL_FILE), what));
            }
        }
    }
    findings
}

struct Counted<R> {
    content: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.content.read(buffer)?;
        self.bytes += length as u64;
        Ok(length)
    }
}
