//! What a backup does about the data pages it reads: proves their checksums on the way, and rules out false alarms.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::codec::page_checksum::{BLOCKS_KEPT, PageChecker, PageState, page_state};
use crate::domain::lsn::Lsn;
use crate::layout::part_index::DamagedFile;
use crate::postgres::pg_control::ControlFile;
use crate::postgres::relation_file::relation_blocks;

/// A page that is being written while it is read looks damaged; so often is it read again.
const LOOKS: u32 = 4;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The checks of one backup, shared by its workers. Memory: 1000 damaged blocks and as many that nobody can judge yet.
#[derive(Debug)]
pub(crate) struct PageChecks {
    pub(crate) block_bytes: u32,
    blocks_per_segment: u32,
    /// Where the backup began: pages changed later are written anew by replay, whatever was read.
    begin: Lsn,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    files: Vec<DamagedFile>,
    /// Pages that fail as they were read, and did not a moment later.
    torn: Vec<DamagedFile>,
    torn_blocks: usize,
    blocks: usize,
    /// Pages that fail and say they are newer than the backup's begin. By its end it is known whether that can be true.
    newer: Vec<(String, u32, Lsn)>,
}

/// One relation file being read.
pub(crate) struct FileCheck<'a> {
    checks: &'a PageChecks,
    first_block: u32,
    checker: PageChecker,
}

impl PageChecks {
    /// The checks for the cluster of `control`, backed up from `begin` on; none when its pages carry no checksums.
    pub(crate) fn of(control: &ControlFile, begin: Lsn) -> Option<Self> {
        if !control.data_checksums {
            tracing::info!("pages are not checksummed: whether any is damaged is not looked at");
            return None;
        }
        let (block_bytes, blocks_per_segment) = (control.block_bytes, control.blocks_per_segment);
        Some(Self { block_bytes, blocks_per_segment, begin, found: Mutex::default() })
    }

    /// The check of the file with this path in its tar; none for one without pages.
    pub(crate) fn of_file(&self, path: &Path) -> Option<FileCheck<'_>> {
        let first_block = relation_blocks(path, self.blocks_per_segment)?;
        let checker = PageChecker::new(self.block_bytes as usize, first_block, Some(self.begin));
        Some(FileCheck { checks: self, first_block, checker })
    }

    /// Pages of which the parts hold what a moment later was not so any more, by path: whoever reads the parts should know.
    pub(crate) fn torn(&self) -> Vec<DamagedFile> {
        let mut torn = self.found.lock().unwrap_or_else(PoisonError::into_inner).torn.clone();
        torn.sort_by(|a, b| a.path.cmp(&b.path));
        torn
    }

    /// Everything found by the end of the backup, at `end`, by path.
    pub(crate) fn finish(&self, end: Lsn) -> Vec<DamagedFile> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        // Pages reach the disk after their WAL: this one lies about its age.
        let lying: Vec<_> = std::mem::take(&mut found.newer).into_iter().filter(|(.., lsn)| *lsn > end).collect();
        for (path, block, _) in lying {
            found.add(&path, &[block], 1);
        }
        let mut files = std::mem::take(&mut found.files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        for file in &mut files {
            file.blocks.sort_unstable();
            tracing::warn!("damaged page(s) in {file}");
        }
        files
    }
}

impl Found {
    fn add_torn(&mut self, path: &str, blocks: &[u32]) {
        let kept = &blocks[..blocks.len().min(BLOCKS_KEPT - self.torn_blocks)];
        if !blocks.is_empty() && self.torn.len() < BLOCKS_KEPT {
            self.torn_blocks += kept.len();
            let count = blocks.len() as u64;
            self.torn.push(DamagedFile { path: path.to_owned(), blocks: kept.to_vec(), count });
        }
    }

    fn add(&mut self, path: &str, blocks: &[u32], count: u64) {
        let kept = &blocks[..blocks.len().min(BLOCKS_KEPT - self.blocks)];
        self.blocks += kept.len();
        if let Some(file) = self.files.iter_mut().find(|file| file.path == path) {
            file.blocks.extend_from_slice(kept);
            file.count += count;
        } else if self.files.len() < BLOCKS_KEPT {
            self.files.push(DamagedFile { path: path.to_owned(), blocks: kept.to_vec(), count });
        } else {
            tracing::warn!("{count} damaged page(s) in \"{path}\" too; no more files are recorded");
        }
    }
}

impl<'a> FileCheck<'a> {
    /// `content`, whose pages are looked at as they are read.
    pub(crate) fn watch<'b, R: Read>(&'b mut self, content: &'b mut R) -> Watched<'b, 'a, R> {
        Watched { content, check: self }
    }

    /// Reads again what looks damaged, and remembers what stays so. `path` is that of the manifest.
    pub(crate) fn finish(self, path: &str, file: &File) {
        let Self { checks, first_block, checker } = self;
        let findings = checker.finish();
        if findings.damaged == 0 && findings.newer.is_empty() {
            return;
        }
        let again = Again { file, first_block, block_bytes: checks.block_bytes as usize, begin: checks.begin };
        let (newer, not_newer): (Vec<_>, Vec<_>) =
            findings.newer.into_iter().partition(|(block, lsn)| again.look(*block) == PageState::Newer(*lsn));
        let mut torn: Vec<u32> = not_newer.into_iter().map(|(block, _)| block).collect();
        torn.extend_from_slice(&findings.blocks);
        let uncounted = findings.damaged - findings.blocks.len() as u64;
        let is_full = checks.found.lock().unwrap_or_else(PoisonError::into_inner).blocks >= BLOCKS_KEPT;
        let blocks = again.still_damaged(findings.blocks, if is_full { 1 } else { LOOKS });
        torn.retain(|block| !blocks.contains(block));
        let mut found = checks.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.add_torn(path, &torn);
        let room = BLOCKS_KEPT - found.newer.len();
        found.newer.extend(newer.into_iter().take(room).map(|(block, lsn)| (path.to_owned(), block, lsn)));
        let count = blocks.len() as u64 + uncounted;
        if count > 0 {
            found.add(path, &blocks, count);
        }
    }
}

/// A file whose pages are looked at again.
struct Again<'a> {
    file: &'a File,
    first_block: u32,
    block_bytes: usize,
    begin: Lsn,
}

impl Again<'_> {
    /// Those of `blocks` that fail at each of so many looks.
    fn still_damaged(&self, mut blocks: Vec<u32>, looks: u32) -> Vec<u32> {
        for look in 0..looks {
            if look > 0 && !blocks.is_empty() {
                thread::sleep(PAUSE);
            }
            blocks.retain(|block| self.look(*block) == PageState::Damaged);
        }
        blocks
    }

    /// A page that cannot be read whole is not judged: files grow and shrink under our feet, and a disk that fails has
    /// failed the copy already.
    fn look(&self, block: u32) -> PageState {
        let mut page = vec![0; self.block_bytes];
        let offset = u64::from(block.wrapping_sub(self.first_block)) * self.block_bytes as u64;
        match self.file.read_exact_at(&mut page, offset) {
            Ok(()) => page_state(&page, block, Some(self.begin)),
            Err(_) => PageState::Sound,
        }
    }
}

/// Content on its way into a tar.
pub(crate) struct Watched<'b, 'a, R> {
    content: &'b mut R,
    check: &'b mut FileCheck<'a>,
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.content.read(buffer)?;
        if let Some(read) = buffer.get(..length) {
            self.check.checker.update(read);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::page_checksum::page_checksum;

    const PAGE: usize = 8192;

    fn checks() -> PageChecks {
        PageChecks { block_bytes: 8192, blocks_per_segment: 131_072, begin: Lsn(1000), found: Mutex::default() }
    }

    fn page(block: u32, lsn: u32) -> Vec<u8> {
        let mut page = vec![9; PAGE];
        page[..4].fill(0);
        page[4..8].copy_from_slice(&lsn.to_le_bytes());
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Lets `read` pass as the content of `path`, while `there` is what the file holds by then.
    fn pass(checks: &PageChecks, path: &str, read: &[u8], there: &[u8]) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(there, 0).unwrap();
        let mut check = checks.of_file(Path::new(path)).unwrap();
        let mut content = read;
        let watched = io::copy(&mut check.watch(&mut content), &mut io::sink()).unwrap();
        assert_eq!(watched, read.len() as u64);
        check.finish(path, &file);
    }

    fn torn(block: u32, lsn: u32) -> Vec<u8> {
        let mut page = page(block, lsn);
        page[PAGE - 1] ^= 1;
        page
    }

    #[test]
    fn a_page_that_was_being_written_is_read_again_before_it_is_called_damaged() {
        for there in [page(1, 5), torn(1, 1000), page(1, 2000)] {
            let checks = checks();
            let file = [page(0, 5), there].concat();
            pass(&checks, "base/5/16384", &[page(0, 5), torn(1, 5)].concat(), &file);
            assert_eq!(checks.finish(Lsn(3000)), []);
            // What is in the part fails all the same, which whoever reads it should know.
            let torn = DamagedFile { path: "base/5/16384".to_owned(), blocks: vec![1], count: 1 };
            assert_eq!(checks.torn(), [torn]);
        }
    }

    #[test]
    fn what_stays_damaged_is_told_by_the_relation_s_own_block_numbers() {
        let checks = checks();
        let file = [page(131_072, 5), torn(131_073, 5)].concat();
        pass(&checks, "base/5/16384.1", &file, &file);
        pass(&checks, "base/5/1", &torn(0, 5), &torn(0, 5));
        let file = |path: &str, block| DamagedFile { path: path.to_owned(), blocks: vec![block], count: 1 };
        assert_eq!(checks.finish(Lsn(3000)), [file("base/5/1", 0), file("base/5/16384.1", 131_073)]);
    }

    #[test]
    fn files_that_grow_shrink_or_end_within_a_page_are_not_damaged() {
        let checks = checks();
        let whole = [page(0, 5), page(1, 5)].concat();
        pass(&checks, "base/5/1", &whole[..PAGE + 100], &whole);
        pass(&checks, "base/5/2", &whole[..PAGE + 100], &whole[..PAGE + 100]);
        pass(&checks, "base/5/3", &[page(0, 5), torn(1, 5)].concat(), &page(0, 5));
        assert_eq!(checks.finish(Lsn(3000)), []);
    }

    #[test]
    fn a_page_newer_than_the_end_of_the_backup_is_damaged_however_it_is_read() {
        let checks = checks();
        let file = [torn(0, 1000), torn(1, 3000), torn(2, 3001)].concat();
        pass(&checks, "base/5/16384", &file, &file);
        let expected = DamagedFile { path: "base/5/16384".to_owned(), blocks: vec![2], count: 1 };
        assert_eq!(checks.finish(Lsn(3000)), [expected]);
    }

    #[test]
    fn no_more_than_a_thousand_blocks_are_kept_of_any_number_of_files() {
        let checks = checks();
        let file: Vec<u8> = (0..600).flat_map(|block| torn(block, 5)).collect();
        for path in ["base/5/1", "base/5/2", "base/5/3"] {
            pass(&checks, path, &file, &file);
        }
        let found = checks.finish(Lsn(3000));
        assert_eq!(
            found.iter().map(|file| (file.blocks.len(), file.count)).collect::<Vec<_>>(),
            [(600, 600), (400, 600), (0, 600)]
        );
    }
}
