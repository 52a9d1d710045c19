//! Whether the pages of a relation file are as PostgreSQL wrote them, found while the file's bytes pass.

use crate::domain::lsn::Lsn;

/// Partial sums of one page, kept apart so that a processor can compute many at a time.
const SUMS: usize = 32;
/// Bytes that go into all sums once.
const ROW_BYTES: usize = SUMS * 4;
/// The prime of 32-bit FNV-1a.
const FNV_PRIME: u32 = 16_777_619;
/// Where each sum begins: arbitrary, but part of the format (PostgreSQL `storage/checksum_impl.h`, `checksumBaseOffsets`).
const SEEDS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

// Places of `PageHeaderData` (PostgreSQL `storage/bufpage.h`), in the byte order of every machine we run on.
const CHECKSUM_AT: usize = 8;
const UPPER_AT: usize = 14;
const HEADER_BYTES: usize = 24;

/// Numbers of damaged blocks that are kept; beyond, they are only counted.
pub const BLOCKS_KEPT: usize = 1000;

/// What a page proves about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// Its checksum is right, or it is all zeros: allocated and not used yet.
    Sound,
    /// Its checksum is wrong, but it was changed at this LSN, after the backup began: replay writes it anew.
    Newer(Lsn),
    /// Its checksum is wrong, or it claims to be unused and is not empty.
    Damaged,
}

/// Judges one whole page, which is block `block` of its relation's fork. Pages that fail and whose LSN is `newer_than` or
/// later are not judged; with none, all are.
#[must_use]
pub fn page_state(page: &[u8], block: u32, newer_than: Option<Lsn>) -> PageState {
    if page.len() < HEADER_BYTES {
        return PageState::Damaged;
    }
    let short = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let is_unused = short(UPPER_AT) == 0;
    let is_sound = if is_unused { is_all_zero(page) } else { page_checksum(page, block) == short(CHECKSUM_AT) };
    match newer_than {
        _ if is_sound => PageState::Sound,
        Some(limit) if page_lsn(page) >= limit => PageState::Newer(page_lsn(page)),
        _ => PageState::Damaged,
    }
}

/// PostgreSQL's checksum of a data page: 32 sums in the manner of FNV-1a over the page without its own checksum, folded,
/// with the block's number mixed in. Never 0.
#[must_use]
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = SEEDS;
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    if let Some((first, others)) = rows.split_first() {
        let mut first = *first;
        first[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
        mix(&mut sums, &first);
        for row in others {
            mix(&mut sums, row);
        }
    }
    // Twice nothing, so that the last bytes too are spread over all bits.
    mix(&mut sums, &[0; ROW_BYTES]);
    mix(&mut sums, &[0; ROW_BYTES]);
    let folded = sums.iter().fold(block, |folded, sum| folded ^ sum);
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

#[inline]
fn mix(sums: &mut [u32; SUMS], row: &[u8; ROW_BYTES]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// Two halves, the high one first, each in the machine's order.
fn page_lsn(page: &[u8]) -> Lsn {
    let word = |at: usize| u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]));
    Lsn(word(0) << 32 | word(4))
}

fn is_all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// What is wrong with the pages of a relation file, found while its bytes pass.
#[derive(Debug)]
pub struct PageChecker {
    block_bytes: usize,
    next_block: u32,
    newer_than: Option<Lsn>,
    not_beyond: Option<Lsn>,
    /// The beginning of a page whose end has not come yet.
    begun: Vec<u8>,
    findings: PageFindings,
}

/// What a [`PageChecker`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageFindings {
    /// Pages looked at, whole or not.
    pub pages: u64,
    /// How many of them are damaged.
    pub damaged: u64,
    /// The first 1000 damaged blocks, by their numbers within the relation.
    pub blocks: Vec<u32>,
    /// The first 1000 pages that fail but were not judged, with their LSNs, which may be as wrong as the rest.
    pub newer: Vec<(u32, Lsn)>,
}

impl PageChecker {
    /// A checker of one file with pages of `block_bytes`. `first_block` is the number of the file among its relation's
    /// segments × blocks per segment. Pages with an LSN of `newer_than` or later are not judged; with none, all are.
    #[must_use]
    pub fn new(block_bytes: usize, first_block: u32, newer_than: Option<Lsn>) -> Self {
        Self {
            block_bytes: block_bytes.max(HEADER_BYTES),
            next_block: first_block,
            newer_than,
            not_beyond: None,
            begun: Vec::new(),
            findings: PageFindings::default(),
        }
    }

    /// Where the WAL had come to when the file had been read: a page that fails and says it is newer than that lies, and is
    /// damaged.
    #[must_use]
    pub fn not_beyond(mut self, end: Lsn) -> Self {
        self.not_beyond = Some(end);
        self
    }

    /// Takes the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.begun.is_empty() {
            let missing = self.block_bytes - self.begun.len();
            let (rest, others) = bytes.split_at(missing.min(bytes.len()));
            self.begun.extend_from_slice(rest);
            bytes = others;
            if self.begun.len() < self.block_bytes {
                return;
            }
            let page = std::mem::take(&mut self.begun);
            self.page(&page);
            self.begun = page;
            self.begun.clear();
        }
        let pages = bytes.chunks_exact(self.block_bytes);
        self.begun.extend_from_slice(pages.remainder());
        for page in pages {
            self.page(page);
        }
    }

    /// What was found. A trailing part of a page is damage too.
    #[must_use]
    pub fn finish(mut self) -> PageFindings {
        if !self.begun.is_empty() {
            self.findings.pages += 1;
            self.damaged(self.next_block);
        }
        self.findings
    }

    fn page(&mut self, page: &[u8]) {
        let block = self.next_block;
        self.next_block = block.wrapping_add(1);
        self.findings.pages += 1;
        match page_state(page, block, self.newer_than) {
            PageState::Sound => {}
            PageState::Newer(lsn) if self.not_beyond.is_none_or(|end| lsn <= end) => {
                if self.findings.newer.len() < BLOCKS_KEPT {
                    self.findings.newer.push((block, lsn));
                }
            }
            PageState::Newer(_) | PageState::Damaged => self.damaged(block),
        }
    }

    fn damaged(&mut self, block: u32) {
        self.findings.damaged += 1;
        if self.findings.blocks.len() < BLOCKS_KEPT {
            self.findings.blocks.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: usize = 8192;

    /// A page as PostgreSQL would write it, with `filling` in it.
    fn page(block: u32, lsn: u64, filling: u8) -> Vec<u8> {
        let mut page = vec![filling; PAGE];
        page[..4].copy_from_slice(&u32::try_from(lsn >> 32).unwrap().to_le_bytes());
        page[4..8].copy_from_slice(&u32::try_from(lsn & 0xFFFF_FFFF).unwrap().to_le_bytes());
        page[UPPER_AT..UPPER_AT + 2].copy_from_slice(&8000_u16.to_le_bytes());
        seal(&mut page, block);
        page
    }

    fn seal(page: &mut [u8], block: u32) {
        let checksum = page_checksum(page, block).to_le_bytes();
        page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum);
    }

    fn check(file: &[u8], first_block: u32, newer_than: Option<Lsn>) -> PageFindings {
        let mut checker = PageChecker::new(PAGE, first_block, newer_than);
        checker.update(file);
        checker.finish()
    }

    /// The sums one after the other, as plainly as the format can be told.
    fn plain_checksum(page: &[u8], block: u32) -> u16 {
        let mut page = page.to_vec();
        page[8] = 0;
        page[9] = 0;
        let mut all = block;
        for (column, seed) in SEEDS.into_iter().enumerate() {
            let mut sum = seed;
            let words =
                page.chunks(4).skip(column).step_by(SUMS).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
            for word in words.chain([0, 0]) {
                sum ^= word;
                sum = (sum.wrapping_mul(FNV_PRIME)) ^ (sum >> 17);
            }
            all ^= sum;
        }
        u16::try_from(all % 65_535).unwrap() + 1
    }

    #[test]
    fn a_page_is_sound_only_in_its_own_place() {
        assert_eq!(page_state(&page(7, 100, 3), 7, None), PageState::Sound);
        assert_eq!(page_state(&page(7, 100, 3), 8, None), PageState::Damaged);
    }

    #[test]
    fn a_page_of_zeros_is_new_and_one_that_claims_to_be_is_damaged() {
        assert_eq!(page_state(&[0; PAGE], 3, None), PageState::Sound);
        let mut claims = [0; PAGE];
        claims[PAGE - 1] = 1;
        assert_eq!(page_state(&claims, 3, None), PageState::Damaged);
        assert_eq!(page_state(&[0; HEADER_BYTES - 1], 3, None), PageState::Damaged);
    }

    #[test]
    fn a_page_changed_since_is_not_judged_unless_it_claims_to_come_from_the_future() {
        let mut file = [page(0, 99, 1), page(1, 100, 1), page(2, 101, 1), page(3, 5000, 1)].concat();
        for at in 0..4 {
            file[at * PAGE + 300] ^= 1;
        }
        let findings = check(&file, 0, Some(Lsn(100)));
        assert_eq!((findings.pages, findings.damaged, findings.blocks), (4, 1, vec![0]));
        assert_eq!(findings.newer, [(1, Lsn(100)), (2, Lsn(101)), (3, Lsn(5000))]);
        let mut checker = PageChecker::new(PAGE, 0, Some(Lsn(100))).not_beyond(Lsn(4999));
        checker.update(&file);
        assert_eq!(checker.finish().blocks, [0, 3]);
        assert_eq!(check(&file, 0, None).blocks, [0, 1, 2, 3]);
    }

    #[test]
    fn part_of_a_page_at_the_end_is_damage() {
        let file = [page(131_072, 1, 1), page(131_073, 1, 1)].concat();
        assert_eq!(check(&file, 131_072, None), PageFindings { pages: 2, ..PageFindings::default() });
        let findings = check(&file[..=PAGE], 131_072, None);
        assert_eq!((findings.pages, findings.damaged, findings.blocks), (2, 1, vec![131_073]));
        assert_eq!(check(&[], 0, None), PageFindings::default());
    }

    #[test]
    fn no_more_blocks_are_kept_than_anybody_reads() {
        let findings = check(&vec![1; PAGE * (BLOCKS_KEPT + 5)], 10, None);
        assert_eq!(findings.damaged, BLOCKS_KEPT as u64 + 5);
        assert_eq!(findings.blocks.len(), BLOCKS_KEPT);
        assert_eq!(findings.blocks[0], 10);
    }

    /// Not every bit: the checksum is one of 65,535, so that one change in so many goes unseen.
    #[test]
    fn a_changed_bit_is_found_in_every_part_of_a_page() {
        for at in (0..PAGE).step_by(7) {
            let mut changed = page(7, 1, 9);
            changed[at] ^= 1 << (at % 8);
            assert_eq!(page_state(&changed, 7, None), PageState::Damaged, "at {at}");
        }
    }

    proptest! {
        #[test]
        fn the_sums_are_those_of_the_plain_description(seed: u64, block: u32) {
            let mut state = seed | 1;
            let page: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                u8::try_from(state >> 56).unwrap()
            }).take(PAGE).collect();
            prop_assert_eq!(page_checksum(&page, block), plain_checksum(&page, block));
        }

        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(cuts in proptest::collection::vec(1..20_000_usize, 1..20), damage in 0..5 * PAGE) {
            let mut file: Vec<u8> = (0..5).flat_map(|block| page(block, 1, 9)).collect();
            file[damage] ^= 1;
            let mut checker = PageChecker::new(PAGE, 0, None);
            let mut rest = file.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, others) = rest.split_at((*cut).min(rest.len()));
                checker.update(piece);
                rest = others;
            }
            prop_assert_eq!(checker.finish(), check(&file, 0, None));
        }

        #[test]
        fn any_bytes_are_judged_without_panic(bytes: Vec<u8>, block: u32, limit: Option<u64>) {
            let _ = page_state(&bytes, block, limit.map(Lsn));
            let mut checker = PageChecker::new(0, block, limit.map(Lsn));
            checker.update(&bytes);
            let _ = checker.finish();
        }
    }
}
