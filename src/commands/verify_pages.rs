//! Data pages of a backup's relation files: which are judged, and what a damaged one means.

use std::collections::BTreeMap;
use std::path::Path;

use crate::codec::page_checksum::{PageChecker, PageFindings};
use crate::domain::backup::Backup;
use crate::domain::lsn::Lsn;
use crate::domain::verification::Finding;
use crate::layout::part_index::{DamagedFile, PartIndex};
use crate::postgres::relation_file::relation_blocks;

/// A page of PostgreSQL's default size; an index says where it is another.
const DEFAULT_BLOCK_BYTES: u32 = 8192;

/// What PostgreSQL can be built with.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 1 << 10..=1 << 15;

/// What a file of a large relation holds, in every build that distributions make.
const FILE_BYTES: u32 = 1 << 30;

/// So many blocks are named.
const BLOCKS_NAMED: usize = 10;

/// How the pages of one backup are judged.
#[derive(Debug)]
pub(crate) struct PageRules {
    block_bytes: u32,
    /// Pages changed from here on are written anew by replay.
    begin: Lsn,
    /// Where the WAL had come to when all had been copied.
    end: Option<Lsn>,
    /// What the backup found when it read the pages; none when it did not look.
    seen: Option<Seen>,
}

/// Pages that fail, as the backup knew already, by the paths of their files.
#[derive(Debug, Default)]
struct Seen {
    /// They were damaged in the cluster.
    damaged: BTreeMap<String, DamagedFile>,
    /// They were caught while they were written: replay writes them anew.
    torn: BTreeMap<String, DamagedFile>,
}

impl PageRules {
    /// The rules for `backup`; none when its pages carry no checksums, as far as is known.
    pub(crate) fn of(backup: &Backup, index: Option<&PartIndex>) -> Option<Self> {
        let begin = backup.begin_lsn.filter(|_| backup.data_checksums == Some(true))?;
        let by_path = |files: &[DamagedFile]| files.iter().map(|file| (file.path.clone(), file.clone())).collect();
        let seen = index
            .and_then(|index| Some(Seen { damaged: by_path(index.damaged.as_ref()?), torn: by_path(&index.torn) }));
        let block_bytes = index
            .and_then(|index| index.block_bytes)
            .filter(|bytes| bytes.is_power_of_two() && BLOCK_SIZES.contains(bytes));
        Some(Self { block_bytes: block_bytes.unwrap_or(DEFAULT_BLOCK_BYTES), begin, end: backup.end_lsn, seen })
    }

    /// A checker for the file at `path`, as it stands in its tar, and how many of its `bytes` are whole pages: part of one at
    /// the end is that of a file that grew or shrank meanwhile. None for what does not consist of pages.
    pub(crate) fn checker(&self, path: &Path, bytes: u64) -> Option<(PageChecker, u64)> {
        let first_block = relation_blocks(path, FILE_BYTES / self.block_bytes)?;
        let block_bytes = usize::try_from(self.block_bytes).unwrap_or(usize::MAX);
        let checker = PageChecker::new(block_bytes, first_block, Some(self.begin));
        let checker = match self.end {
            Some(end) => checker.not_beyond(end),
            None => checker,
        };
        Some((checker, bytes - bytes % u64::from(self.block_bytes)))
    }

    /// What the damaged pages of the file at `path`, as it stands in the manifest, come to.
    pub(crate) fn judge(&self, path: &str, found: &PageFindings) -> Option<Finding> {
        if found.damaged == 0 {
            return None;
        }
        let Some(seen) = &self.seen else {
            // A page may have been caught while it was written: replay repairs that.
            let what = format!(
                "{}; they may have been torn when they were copied, which replay repairs",
                failing(found, &found.blocks)
            );
            return Some(Finding::notice(path, what));
        };
        let (damaged, torn) = (seen.damaged.get(path), seen.torn.get(path));
        let in_list = |list: Option<&DamagedFile>, block: &u32| list.is_some_and(|file| file.blocks.contains(block));
        let unseen: Vec<u32> =
            found.blocks.iter().copied().filter(|block| !in_list(damaged, block) && !in_list(torn, block)).collect();
        let names_all = |list: Option<&DamagedFile>| list.is_none_or(|file| file.blocks.len() as u64 == file.count);
        if !unseen.is_empty() && names_all(damaged) && names_all(torn) {
            return Some(Finding::damage(path, failing(found, &unseen)));
        }
        let what = format!(
            "{}; they were damaged in the cluster already when the backup was taken",
            failing(found, &found.blocks)
        );
        damaged.map(|_| Finding::notice(path, what))
    }
}

/// Which pages fail, in words.
fn failing(found: &PageFindings, blocks: &[u32]) -> String {
    let shown: Vec<String> = blocks.iter().take(BLOCKS_NAMED).map(u32::to_string).collect();
    let more = blocks.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} of {} pages fail their checksum: blocks {}{more}", found.damaged, found.pages, shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::verification::Degree;

    fn file(path: &str, blocks: &[u32], count: u64) -> BTreeMap<String, DamagedFile> {
        BTreeMap::from([(path.to_owned(), DamagedFile { path: path.to_owned(), blocks: blocks.to_vec(), count })])
    }

    fn judged(seen: Option<Seen>, blocks: &[u32], damaged: u64) -> Option<Degree> {
        let rules = PageRules { block_bytes: DEFAULT_BLOCK_BYTES, begin: Lsn(0), end: None, seen };
        let found = PageFindings { pages: 9, damaged, blocks: blocks.to_vec(), newer: Vec::new() };
        rules.judge("base/5/16384", &found).map(|finding| finding.degree)
    }

    #[test]
    fn damage_is_new_known_or_may_be_a_torn_page_of_a_copy_that_nobody_looked_at() {
        let damaged =
            |blocks: &[u32], count| Some(Seen { damaged: file("base/5/16384", blocks, count), ..Seen::default() });
        assert_eq!(judged(None, &[], 0), None);
        assert_eq!(judged(None, &[3], 1), Some(Degree::Notice));
        assert_eq!(judged(Some(Seen::default()), &[3], 1), Some(Degree::Damage));
        assert_eq!(judged(damaged(&[3], 1), &[3], 1), Some(Degree::Notice));
        assert_eq!(judged(damaged(&[3], 1), &[4], 1), Some(Degree::Damage));
        assert_eq!(judged(damaged(&[3], 1), &[3, 4], 2), Some(Degree::Damage));
        // More than a backup names.
        assert_eq!(judged(damaged(&[3], 2000), &[3, 4], 2000), Some(Degree::Notice));
    }

    #[test]
    fn a_page_that_the_backup_caught_while_it_was_written_is_nothing_to_tell() {
        let torn = |path: &str| Some(Seen { torn: file(path, &[3], 1), ..Seen::default() });
        assert_eq!(judged(torn("base/5/16384"), &[3], 1), None);
        assert_eq!(judged(torn("base/5/16384"), &[3, 4], 2), Some(Degree::Damage));
        assert_eq!(judged(torn("base/5/16385"), &[3], 1), Some(Degree::Damage));
    }
}
