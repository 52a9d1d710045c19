//! The parallel part of a base backup: walk, tar, compress, upload, with bounded memory and nothing on disk.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::DateTime;
use tokio::runtime::Handle;

use crate::codec::compression::{self, Encoder};
use crate::codec::local_failure;
use crate::codec::tar::{Attributes, TarWriter};
use crate::commands::archive::Archive;
use crate::commands::interrupt::{Interrupt, Interruptible};
use crate::commands::page_checks::PageChecks;
use crate::commands::part_upload::{PartUpload, UploadLimits};
use crate::commands::progress::Progress;
use crate::commands::rate_limit::RateLimit;
use crate::disk;
use crate::domain::backup::BackupId;
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::{BACKUP_MANIFEST_NAME, PartFamily, part_file_name};
use crate::layout::manifest::{ManifestFile, ManifestWriter, WalRange};
use crate::layout::part_index::{ManifestObject, Part};
use crate::postgres::data_directory::{WalkEntry, WalkKind, WalkRoot, walk};

/// Entries found but not yet taken by a worker: enough to keep every worker busy, independent of the cluster's size.
const ENTRIES_QUEUED: usize = 256;

/// From this size on it is worth telling the system how a file is read.
const LARGE_FILE_BYTES: u64 = 1 << 20;

/// The manifest is uploaded in S3's smallest parts: it is small, and its buffer comes on top of the workers'.
const MANIFEST_PART_BYTES: usize = 5 << 20;

/// It is written slowly: one of its parts on its way, and one being filled.
const MANIFEST_PARTS_IN_MEMORY: usize = 2;

/// How the manifest is compressed, whatever the parts are.
const MANIFEST_COMPRESSION: Compression = Compression::Zstd;

/// Barman's four digits of part number end at 9999. From this number on tars grow instead of becoming more; the workers
/// that are about to begin one, and the last tar, still find a number.
const NUMBERS_TO_SPLIT_UP_TO: u32 = 9000;

/// One family of parts: the data directory, or one tablespace.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) family: PartFamily,
    pub(crate) root: WalkRoot,
    /// What comes before an entry's path in the manifest: `pg_tblspc/<oid>/` for a tablespace.
    pub(crate) manifest_prefix: String,
}

/// Everything a copy needs to know; shared by its workers.
pub(crate) struct Copy {
    pub(crate) archive: Archive,
    pub(crate) id: BackupId,
    pub(crate) sources: Vec<Source>,
    pub(crate) jobs: usize,
    pub(crate) compression: Compression,
    pub(crate) level: Option<i32>,
    pub(crate) limits: UploadLimits,
    /// A tar that has taken this much content is closed, and the next one begun.
    pub(crate) tar_size_bytes: u64,
    /// So is one that has come to more than this in the store.
    pub(crate) max_tar_bytes: Option<u64>,
    pub(crate) interrupt: Interrupt,
    pub(crate) progress: Arc<Progress>,
    pub(crate) runtime: Handle,
    pub(crate) manifest: Mutex<Manifest>,
    /// What is done about data pages, where they carry checksums.
    pub(crate) pages: Option<PageChecks>,
    /// The next part number of each source.
    pub(crate) numbers: Vec<AtomicU32>,
    /// Bytes of the files archived so far.
    pub(crate) content_bytes: AtomicU64,
}

impl Copy {
    /// Copies every source and returns its parts. Blocking; call it off the runtime's own threads.
    ///
    /// Memory: `jobs` × ([`PARTS_IN_MEMORY`](crate::commands::part_upload::PARTS_IN_MEMORY) × part size + a codec),
    /// whatever the cluster's size and number of files. The first error stops every worker, and every open upload is
    /// aborted before this returns.
    pub(crate) fn run(&self) -> Result<Vec<Part>> {
        let (found, entries) = sync_channel(ENTRIES_QUEUED);
        let entries = Arc::new(Mutex::new(entries));
        let outcomes = std::thread::scope(|scope| {
            let walker = scope.spawn(move || self.walk(&found));
            let workers: Vec<_> = (0..self.jobs)
                .map(|_| {
                    let entries = Arc::clone(&entries);
                    scope.spawn(move || self.work(&entries))
                })
                .collect();
            // The workers hold the only receivers left: when they are gone, the walker's next send fails.
            drop(entries);
            let mut outcomes: Vec<Result<Vec<Part>>> = workers.into_iter().map(join).collect();
            outcomes.push(join(walker).map(|()| Vec::new()));
            outcomes
        });
        let mut parts = gather(outcomes)?;
        parts.extend(self.empty_tars()?);
        Ok(parts)
    }

    /// A tablespace whose directory went while we looked has no part yet; readers insist on one.
    fn empty_tars(&self) -> Result<Vec<Part>> {
        let without = (0..self.sources.len()).filter(|source| self.numbers[*source].load(Ordering::Relaxed) == 0);
        without.map(|source| self.open_tar(source)?.close()).collect()
    }

    /// Writes the last data tar: the files that must come after all others.
    pub(crate) fn last_tar(&self, files: &[LastFile]) -> Result<Part> {
        let source = self
            .sources
            .iter()
            .position(|source| source.family == PartFamily::Data)
            .ok_or_else(|| Error::new(ErrorKind::Bug, "a backup without a data directory"))?;
        let mut tar = self.open_tar(source)?;
        for file in files {
            let size = file.content.len() as u64;
            let member = Member { path: Path::new(&file.path), attributes: file.attributes, size };
            tar.file(self, &member, &mut file.content.as_slice())?;
        }
        tar.close()
    }

    /// Finishes the manifest, with the WAL that the backup needs.
    pub(crate) fn finish_manifest(&self, ranges: &[WalRange]) -> Result<ManifestObject> {
        lock(&self.manifest).finish(ranges)
    }

    fn walk(&self, found: &SyncSender<(usize, WalkEntry)>) -> Result<()> {
        for (number, source) in self.sources.iter().enumerate() {
            walk(&source.root, &mut |entry| {
                self.interrupt.check()?;
                // The receivers are gone only when every worker has failed, and their errors are the ones to tell.
                let all_failed = |_| Error::new(ErrorKind::Interrupted, "every worker has stopped");
                found.send((number, entry)).map_err(all_failed)
            })?;
        }
        Ok(())
    }

    fn work(&self, entries: &Mutex<Receiver<(usize, WalkEntry)>>) -> Result<Vec<Part>> {
        let outcome = self.pack(entries);
        if outcome.is_err() {
            self.interrupt.stop();
        }
        outcome
    }

    fn pack(&self, entries: &Mutex<Receiver<(usize, WalkEntry)>>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut open: Option<OpenTar> = None;
        loop {
            // Bound to a name so that the lock is given back before the entry is worked on.
            let next = lock(entries).recv();
            let Ok((source, entry)) = next else { break };
            self.interrupt.check()?;
            if let Some(tar) = open.take_if(|tar| tar.source != source || self.is_full(tar)) {
                parts.push(tar.close()?);
            }
            let tar = match &mut open {
                Some(tar) => tar,
                None => open.insert(self.open_tar(source)?),
            };
            tar.entry(self, &entry)?;
        }
        self.interrupt.check()?;
        if let Some(tar) = open {
            parts.push(tar.close()?);
        }
        Ok(parts)
    }

    fn is_full(&self, tar: &OpenTar) -> bool {
        let stored_bytes = tar.stored_bytes.load(Ordering::Relaxed);
        let has_enough =
            tar.content_bytes >= self.tar_size_bytes || self.max_tar_bytes.is_some_and(|most| stored_bytes > most);
        has_enough && self.numbers[tar.source].load(Ordering::Relaxed) < NUMBERS_TO_SPLIT_UP_TO
    }

    fn open_tar(&self, source: usize) -> Result<OpenTar> {
        let family = self.sources[source].family;
        let number = self.numbers[source].fetch_add(1, Ordering::Relaxed);
        let key = self.archive.prefix.part(&self.id, &family, number, self.compression);
        let limits = UploadLimits { rate: self.limits.rate.of_another_object(), ..self.limits.clone() };
        let upload = PartUpload::begin(&self.runtime, &self.archive.store, key, limits);
        let stored_bytes = upload.counter();
        let encoder = compression::encoder(self.compression, self.level, upload)?;
        Ok(OpenTar {
            source,
            stored_bytes,
            name: part_file_name(family, number, self.compression),
            tar: TarWriter::new(encoder),
            content_bytes: 0,
            files: 0,
        })
    }
}

/// A file whose content is already in memory, for the last tar.
#[derive(Debug)]
pub(crate) struct LastFile {
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
    pub(crate) attributes: Attributes,
}

/// A regular file as it goes into a tar.
struct Member<'a> {
    path: &'a Path,
    attributes: Attributes,
    size: u64,
}

/// A tar being written by one worker.
struct OpenTar {
    source: usize,
    name: String,
    tar: TarWriter<Encoder<PartUpload>>,
    /// What has come out of the codec.
    stored_bytes: Arc<AtomicU64>,
    content_bytes: u64,
    files: u64,
}

impl OpenTar {
    fn entry(&mut self, copy: &Copy, entry: &WalkEntry) -> Result<()> {
        let attributes = Attributes { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime_s };
        match &entry.kind {
            WalkKind::Directory => self.tar.directory(&entry.path, &attributes),
            WalkKind::Symlink(target) => self.tar.symlink(&entry.path, target, &attributes),
            WalkKind::File => {
                let unreadable = |cause| Error::local("read file", &entry.source, cause);
                let mut file = match File::open(&entry.source) {
                    Ok(file) => file,
                    // A relation may be dropped under our feet; replay drops it again.
                    Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                    Err(cause) => return Err(unreadable(cause)),
                };
                // What grows from here on is WAL's to repeat; the size is that of the file we opened.
                let size = file.metadata().map_err(unreadable)?.len();
                if size >= LARGE_FILE_BYTES {
                    disk::read_once(&file);
                }
                let member = Member { path: &entry.path, attributes, size };
                self.checked_file(copy, &member, &mut file)
                    .map_err(|error| error.context(format!("could not back up \"{}\"", entry.source.display())))
            }
        }
    }

    /// Archives a file, and looks at its pages where it has any.
    fn checked_file(&mut self, copy: &Copy, member: &Member<'_>, file: &mut File) -> Result<()> {
        let check = copy.pages.as_ref().and_then(|pages| pages.of_file(member.path));
        let mut content = Interruptible { content: file, interrupt: &copy.interrupt };
        let Some(mut check) = check else { return self.file(copy, member, &mut content) };
        self.file(copy, member, &mut check.watch(&mut content))?;
        let prefix = &copy.sources[self.source].manifest_prefix;
        check.finish(&format!("{prefix}{}", member.path.display()), file);
        Ok(())
    }

    fn file(&mut self, copy: &Copy, member: &Member<'_>, content: &mut dyn Read) -> Result<()> {
        let Member { path, attributes, size } = member;
        let archived = self.tar.file(path, attributes, *size, content)?;
        if archived.padded_bytes > 0 {
            tracing::debug!("\"{}\" shrank by {} bytes while it was read", path.display(), archived.padded_bytes);
        }
        self.content_bytes += archived.size_bytes;
        self.files += 1;
        copy.content_bytes.fetch_add(archived.size_bytes, Ordering::Relaxed);
        copy.progress.add_bytes(archived.size_bytes);
        copy.progress.add_files(1);
        let mut full_path = copy.sources[self.source].manifest_prefix.clone().into_bytes();
        full_path.extend_from_slice(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
        lock(&copy.manifest).file(&ManifestFile {
            path: &full_path,
            size_bytes: archived.size_bytes,
            modified: DateTime::from_timestamp(attributes.mtime, 0).unwrap_or_default(),
            crc32c: archived.crc32c,
        })
    }

    fn close(self) -> Result<Part> {
        let content_bytes = self.tar.bytes_when_finished();
        let uploaded = self.tar.finish()?.finish()?.finish()?;
        Ok(Part {
            name: self.name,
            bytes: uploaded.bytes,
            sha256: uploaded.sha256.to_string(),
            content_bytes,
            files: self.files,
        })
    }
}

/// The `backup_manifest`, uploaded while files are still being copied: it grows with their number, memory does not.
pub(crate) struct Manifest {
    writer: Option<ManifestWriter>,
    encoder: Option<Encoder<PartUpload>>,
    content_bytes: u64,
}

impl Manifest {
    pub(crate) fn begin(
        writer: ManifestWriter,
        runtime: &Handle,
        archive: &Archive,
        id: &BackupId,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let key = archive.prefix.backup_manifest(id);
        let limits = UploadLimits {
            part_size_bytes: MANIFEST_PART_BYTES,
            parts_in_memory: MANIFEST_PARTS_IN_MEMORY,
            rate: RateLimit::default(),
            interrupt: interrupt.clone(),
        };
        let upload = PartUpload::begin(runtime, &archive.store, key, limits);
        let encoder = compression::encoder(MANIFEST_COMPRESSION, None, upload)?;
        Ok(Self { writer: Some(writer), encoder: Some(encoder), content_bytes: 0 })
    }

    fn file(&mut self, file: &ManifestFile<'_>) -> Result<()> {
        let writer = self.writer.as_mut().ok_or_else(finished_twice)?;
        writer.file(file);
        let bytes = writer.take_bytes();
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.content_bytes += bytes.len() as u64;
        self.encoder.as_mut().ok_or_else(finished_twice)?.write_all(bytes).map_err(local_failure)
    }

    fn finish(&mut self, ranges: &[WalRange]) -> Result<ManifestObject> {
        let bytes = self.writer.take().ok_or_else(finished_twice)?.finish(ranges);
        self.write(&bytes)?;
        let uploaded = self.encoder.take().ok_or_else(finished_twice)?.finish()?.finish()?;
        Ok(ManifestObject {
            name: BACKUP_MANIFEST_NAME.to_owned(),
            bytes: uploaded.bytes,
            sha256: uploaded.sha256.to_string(),
            content_bytes: self.content_bytes,
        })
    }
}

fn finished_twice() -> Error {
    Error::new(ErrorKind::Bug, "the backup manifest was finished twice")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Bug, "a worker of the backup panicked")))
}

/// All parts, or the error that began the trouble: the others only heard that they should stop.
fn gather(outcomes: Vec<Result<Vec<Part>>>) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut stopped = None;
    for outcome in outcomes {
        match outcome {
            Ok(more) => parts.extend(more),
            Err(error) if error.kind() == ErrorKind::Interrupted => stopped = stopped.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    stopped.map_or(Ok(parts), Err)
}
