//! Whether two lists of files are the same, whatever their order, without holding either.

use crate::codec::digest::Sha256Builder;

/// Into so many groups files are put, by their paths: where two lists differ, only the files of some groups need be looked at
/// again. A set takes 64 KiB.
const GROUPS: usize = 4096;

/// One file, as far as lists are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts<'a> {
    /// Its path, relative to the data directory.
    pub path: &'a [u8],
    /// Its length.
    pub size_bytes: u64,
    /// CRC-32C of its content.
    pub crc32c: u32,
}

/// A multiset of files, of which only sums are kept: 128 bits of each file's SHA-256, added up in groups.
///
/// Equal lists have equal sums. That different lists have equal sums does not happen by accident: one chance in 2^128.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSet {
    groups: Vec<u128>,
    files: u64,
}

impl Default for FileSet {
    fn default() -> Self {
        Self { groups: vec![0; GROUPS], files: 0 }
    }
}

impl FileSet {
    /// Takes one file in; the same one counts as often as it comes.
    pub fn add(&mut self, file: &FileFacts<'_>) {
        let group = Self::group_of(file.path);
        if let Some(sum) = self.groups.get_mut(group) {
            *sum =
                sum.wrapping_add(first_half(&[file.path, &file.size_bytes.to_le_bytes(), &file.crc32c.to_le_bytes()]));
        }
        self.files += 1;
    }

    /// Takes all files of `other` in.
    pub fn append(&mut self, other: &Self) {
        for (sum, more) in self.groups.iter_mut().zip(&other.groups) {
            *sum = sum.wrapping_add(*more);
        }
        self.files += other.files;
    }

    /// How many files there are.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files
    }

    /// The groups in which the two differ; none when they are the same.
    #[must_use]
    pub fn differing_groups(&self, other: &Self) -> Vec<usize> {
        let pairs = self.groups.iter().zip(&other.groups).enumerate();
        pairs.filter_map(|(group, (ours, theirs))| (ours != theirs).then_some(group)).collect()
    }

    /// The group of the file at `path`.
    #[must_use]
    pub fn group_of(path: &[u8]) -> usize {
        usize::try_from(first_half(&[path]) % GROUPS as u128).unwrap_or(0)
    }
}

/// The first 128 bits of the pieces' SHA-256; a length before each keeps them apart.
fn first_half(pieces: &[&[u8]]) -> u128 {
    let mut digest = Sha256Builder::new();
    for piece in pieces {
        digest.update(&(piece.len() as u64).to_le_bytes());
        digest.update(piece);
    }
    digest.finish().0.first_chunk().map_or(0, |half| u128::from_le_bytes(*half))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type File = (Vec<u8>, u64, u32);

    fn set(files: &[File]) -> FileSet {
        let mut set = FileSet::default();
        for (path, size_bytes, crc32c) in files {
            set.add(&FileFacts { path, size_bytes: *size_bytes, crc32c: *crc32c });
        }
        set
    }

    fn file() -> impl Strategy<Value = File> {
        (prop::collection::vec(0..4_u8, 0..3), 0..3_u64, 0..3_u32)
    }

    proptest! {
        #[test]
        fn sets_are_the_same_just_when_the_lists_are_but_for_their_order(
            ours in prop::collection::vec(file(), 0..12),
            theirs in prop::collection::vec(file(), 0..12),
            reversed: bool,
        ) {
            let sorted = |mut files: Vec<File>| { files.sort(); files };
            let same = sorted(ours.clone()) == sorted(theirs.clone());
            prop_assert_eq!(set(&ours).differing_groups(&set(&theirs)).is_empty(), same);
            let mut turned = ours.clone();
            if reversed { turned.reverse(); }
            prop_assert_eq!(set(&turned), set(&ours));
        }

        #[test]
        fn a_file_that_differs_is_in_a_group_that_differs(
            files in prop::collection::vec(file(), 1..12),
            at in any::<prop::sample::Index>(),
        ) {
            let mut changed = files.clone();
            let at = at.index(files.len());
            changed[at].2 ^= 1;
            let groups = set(&files).differing_groups(&set(&changed));
            prop_assert_eq!(groups, vec![FileSet::group_of(&files[at].0)]);
        }

        #[test]
        fn parts_of_a_set_add_up(files in prop::collection::vec(file(), 0..12), cut in any::<prop::sample::Index>()) {
            let (first, second) = files.split_at(cut.index(files.len() + 1));
            let mut sum = set(first);
            sum.append(&set(second));
            prop_assert_eq!(sum.files(), files.len() as u64);
            prop_assert_eq!(sum, set(&files));
        }
    }

    #[test]
    fn neighbouring_fields_do_not_run_together() {
        assert_ne!(set(&[(vec![1], 0, 0)]), set(&[(vec![1, 0], 0, 0)]));
        assert_ne!(set(&[(b"a".to_vec(), 1, 2)]), set(&[(b"a".to_vec(), 2, 1)]));
        assert_ne!(set(&[]), set(&[(Vec::new(), 0, 0)]));
    }
}
