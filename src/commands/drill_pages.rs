//! A look at every data page of a recovered cluster whose server has been stopped.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::codec::page_checksum::{PageChecker, PageFindings};
use crate::commands::interrupt::Interrupt;
use crate::domain::drill::CheckOutcome;
use crate::domain::measure::human_size;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::drill_record::DrillCheck;
use crate::layout::part_index::{DamagedFile, damage_line};
use crate::postgres::pg_control::{self, ClusterState, ControlFile};
use crate::postgres::relation_file::relation_blocks;

/// How much of a file is read at once.
const READ_BYTES: usize = 1 << 20;

/// So many files wait for a reader.
const FILES_WAITING: usize = 256;

/// So many damaged files are remembered; the others are counted.
const FILES_KEPT: usize = 1000;

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    files: u64,
    pages: u64,
    bytes: u64,
    damaged_pages: u64,
    damaged_files: u64,
    damaged: Vec<DamagedFile>,
    failure: Option<Error>,
}

/// Reads every relation file of the cluster in `data_directory`, those of its tablespaces too, and proves the checksum of every
/// page, with `jobs` threads. Blocking; call it when the server has been stopped cleanly.
///
/// `known` are the damaged pages that the backup itself recorded: the copy is damaged all the same, and the check says since when.
/// Memory: 1 MiB for each job.
#[must_use]
pub fn check_pages(data_directory: &Path, known: &[DamagedFile], jobs: usize, interrupt: &Interrupt) -> DrillCheck {
    let began = Instant::now();
    let mut check = DrillCheck {
        name: "pages".to_owned(),
        kind: "pages".to_owned(),
        database: None,
        outcome: CheckOutcome::Inconclusive,
        expected: Some("no damaged page".to_owned()),
        found: None,
        detail: None,
        took_ms: 0,
    };
    match look(data_directory, jobs, interrupt) {
        Ok(Looked::NoChecksums) => {
            check.outcome = CheckOutcome::Skipped;
            check.detail = Some("pages of this cluster carry no checksums".to_owned());
        }
        Ok(Looked::All(found)) => judge(&mut check, found, known),
        Err(error) => check.detail = Some(error.to_string()),
    }
    check.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    check
}

fn judge(check: &mut DrillCheck, mut found: Found, known: &[DamagedFile]) {
    check.found = Some(format!("{} damaged of {} pages", found.damaged_pages, found.pages));
    if found.damaged_pages == 0 {
        check.outcome = CheckOutcome::Pass;
        check.detail = Some(format!("{} in {} files", human_size(found.bytes), found.files));
        return;
    }
    check.outcome = CheckOutcome::Fail;
    found.damaged.sort_by(|a, b| a.path.cmp(&b.path));
    let mut told = damage_line(&found.damaged);
    let is_known = |file: &DamagedFile| {
        let known = known.iter().find(|known| known.path == file.path);
        known.is_some_and(|known| {
            // A backup names its first thousand blocks and counts the others.
            known.count > known.blocks.len() as u64 || file.blocks.iter().all(|block| known.blocks.contains(block))
        })
    };
    if found.damaged_files == found.damaged.len() as u64 && found.damaged.iter().all(is_known) {
        told.push_str("; they were damaged in the cluster already when the backup was taken");
    }
    check.detail = Some(told);
}

enum Looked {
    NoChecksums,
    All(Found),
}

fn look(data_directory: &Path, jobs: usize, interrupt: &Interrupt) -> Result<Looked> {
    let control = pg_control::read_consistent(&data_directory.join("global/pg_control"))?;
    if !control.data_checksums {
        return Ok(Looked::NoChecksums);
    }
    if !matches!(control.state, ClusterState::ShutDown | ClusterState::ShutDownInRecovery) {
        let message = "the server was not shut down cleanly, so pages may be unfinished on disk";
        return Err(Error::new(ErrorKind::Local, message));
    }
    let (sender, receiver) = sync_channel(FILES_WAITING);
    let readers =
        Readers { control: &control, interrupt, files: Mutex::new(receiver), found: Mutex::new(Found::default()) };
    let walked = thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| readers.run());
        }
        let walked = walk(data_directory, &control, &mut |path, source| {
            interrupt.check()?;
            // Readers stay until there is nothing left to send, whatever fails.
            Ok(readers.found().failure.is_none() && sender.send((path, source)).is_ok())
        });
        drop(sender);
        walked
    });
    walked?;
    let mut found = readers.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    match found.failure.take() {
        Some(failure) => Err(failure),
        None => Ok(Looked::All(found)),
    }
}

/// Threads that read files side by side.
struct Readers<'a> {
    control: &'a ControlFile,
    interrupt: &'a Interrupt,
    files: Mutex<Receiver<(PathBuf, PathBuf)>>,
    found: Mutex<Found>,
}

impl Readers<'_> {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes files until there are no more. After a failure they are passed over, so that the walk never waits.
    fn run(&self) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let next = self.files.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((path, source)) = next else { return };
            if self.found().failure.is_some() {
                continue;
            }
            if let Err(failure) = self.read(&path, &source, &mut buffer) {
                self.found().failure.get_or_insert(failure);
            }
        }
    }

    fn read(&self, path: &Path, source: &Path, buffer: &mut [u8]) -> Result<()> {
        let Some(first_block) = relation_blocks(path, self.control.blocks_per_segment) else { return Ok(()) };
        let failed = |cause: io::Error| Error::local("read", source, cause);
        let mut checker = PageChecker::new(self.control.block_bytes as usize, first_block, None);
        let mut file = File::open(source).map_err(failed)?;
        let mut bytes = 0;
        loop {
            self.interrupt.check()?;
            let length = file.read(buffer).map_err(failed)?;
            if length == 0 {
                break;
            }
            bytes += length as u64;
            checker.update(buffer.get(..length).unwrap_or_default());
        }
        self.found().add(path, bytes, checker.finish());
        Ok(())
    }
}

impl Found {
    fn add(&mut self, path: &Path, bytes: u64, findings: PageFindings) {
        self.files += 1;
        self.bytes += bytes;
        self.pages += findings.pages;
        if findings.damaged > 0 {
            self.damaged_pages += findings.damaged;
            self.damaged_files += 1;
            if self.damaged.len() < FILES_KEPT {
                let path = path.display().to_string();
                self.damaged.push(DamagedFile { path, blocks: findings.blocks, count: findings.damaged });
            }
        }
    }
}

/// Where a file lies in the manifest, and where it is; false ends the walk.
type Visit<'a> = dyn FnMut(PathBuf, PathBuf) -> Result<bool> + 'a;

/// Visits what may be relation files: those of `global`, of every database, and of the databases in every tablespace.
fn walk(data_directory: &Path, control: &ControlFile, visit: &mut Visit<'_>) -> Result<()> {
    let at = |path: &str| (PathBuf::from(path), data_directory.join(path));
    let (global, source) = at("global");
    if !files(&global, &source, visit)? {
        return Ok(());
    }
    let (base, source) = at("base");
    if !databases(&base, &source, visit)? {
        return Ok(());
    }
    // A tablespace may hold directories of other versions: `PG_<major>_<catalog version>`.
    let version = format!("_{}", control.catalog_version);
    let (links, source) = at("pg_tblspc");
    for name in names(&source)? {
        let (space, source) = (links.join(&name), source.join(&name));
        for directory in names(&source)? {
            let is_ours = directory.starts_with("PG_") && directory.ends_with(&version);
            if is_ours && !databases(&space.join(&directory), &source.join(&directory), visit)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn databases(path: &Path, source: &Path, visit: &mut Visit<'_>) -> Result<bool> {
    for name in names(source)? {
        let is_database = name.bytes().all(|byte| byte.is_ascii_digit());
        if is_database && !files(&path.join(&name), &source.join(&name), visit)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn files(path: &Path, source: &Path, visit: &mut Visit<'_>) -> Result<bool> {
    for name in names(source)? {
        if !visit(path.join(&name), source.join(&name))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The names in a directory, followed when it is a link; PostgreSQL makes none that are not ASCII. Of one database they are held
/// at once.
fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = |cause: io::Error| Error::local("read directory", directory, cause);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}
