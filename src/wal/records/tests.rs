//! Records as a small writer of our own and as real servers wrote them.

use proptest::prelude::*;

use super::*;
use crate::domain::timeline::TimelineId;
use crate::error::ErrorKind;

const SIZE: u64 = 1 << 20;
const PAGE: u64 = 8192;

/// Writes WAL as PostgreSQL lays it out, from segment 5 on.
struct Writer {
    bytes: Vec<u8>,
    timeline: u32,
    previous: u64,
}

impl Writer {
    const START: u64 = 5 * SIZE;

    fn new() -> Self {
        Self { bytes: Vec::new(), timeline: 1, previous: 0x0012_3456 }
    }

    fn at(&self) -> u64 {
        Self::START + self.bytes.len() as u64
    }

    fn page_header(&mut self, flags: u16, remaining: u32) {
        let address = self.at();
        let is_first = address.is_multiple_of(SIZE);
        self.bytes.extend(0xD110_u16.to_le_bytes());
        self.bytes.extend((flags | u16::from(is_first) << 1).to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(77_u64.to_le_bytes());
            self.bytes.extend(u32::try_from(SIZE).unwrap().to_le_bytes());
            self.bytes.extend(u32::try_from(PAGE).unwrap().to_le_bytes());
        }
    }

    /// Writes a record's bytes, with the headers of the pages they come to. Where it begins.
    fn lay(&mut self, record: &[u8]) -> u64 {
        if self.at().is_multiple_of(PAGE) {
            self.page_header(0, 0);
        }
        let start = self.at();
        let mut left = record;
        loop {
            let room = usize::try_from(PAGE - self.at() % PAGE).unwrap();
            let (now, later) = left.split_at(room.min(left.len()));
            self.bytes.extend(now);
            left = later;
            if left.is_empty() {
                break;
            }
            self.page_header(1, u32::try_from(left.len()).unwrap());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        start
    }

    fn record(&mut self, manager: u8, info: u8, data: &[u8]) -> u64 {
        let record = self.sealed(manager, info, data);
        self.previous = self.lay(&record);
        self.previous
    }

    fn sealed(&self, manager: u8, info: u8, data: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        if manager == 1 {
            // An origin and a top transaction stand before the data.
            body.extend([253, 9, 9, 252, 1, 2, 3, 4]);
        }
        if let Ok(length) = u8::try_from(data.len()) {
            body.extend([255, length]);
        } else {
            body.push(254);
            body.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        }
        body.extend(data);
        let mut header = u32::try_from(24 + body.len()).unwrap().to_le_bytes().to_vec();
        header.extend(700_u32.to_le_bytes());
        header.extend(self.previous.to_le_bytes());
        header.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &header);
        header.extend(crc.to_le_bytes());
        [header, body].concat()
    }

    fn commit(&mut self, seconds: i64) -> u64 {
        // With a flag in the low half and `XLOG_XACT_HAS_INFO`, as real ones have.
        self.record(1, 0x81, &(seconds * 1_000_000).to_le_bytes())
    }

    fn fill_segment(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(usize::try_from(SIZE).unwrap()), 0);
    }

    fn switch(&mut self) -> u64 {
        self.record(0, 0x40, &[]);
        let end = self.at();
        self.fill_segment();
        end
    }

    /// Begins a record that a crash ends at the page's end, and what the server writes afterwards about the one `beside` it.
    fn give_up(&mut self, beside: u64) {
        let record = self.sealed(10, 0, &vec![5; 30_000]);
        let mut crashed = Self { bytes: self.bytes.clone(), ..*self };
        let start = crashed.lay(&record);
        let page_end = (start / PAGE + 1) * PAGE - Self::START;
        self.bytes = crashed.bytes[..usize::try_from(page_end).unwrap()].to_vec();
        self.page_header(8, 0);
        self.record(0, 0xD0, &[(start + beside).to_le_bytes(), 0_u64.to_le_bytes()].concat());
    }

    fn commits(&mut self, number: usize, seconds: i64) {
        for _ in 0..number {
            self.commit(seconds);
        }
    }

    fn segments(&self) -> Vec<(SegmentName, &[u8])> {
        let name = |index: usize| {
            let timeline = TimelineId::new(self.timeline).unwrap();
            SegmentName::from_number(timeline, 5 + index as u64, size())
        };
        let size = usize::try_from(SIZE).unwrap();
        self.bytes.chunks_exact(size).enumerate().map(|(index, bytes)| (name(index), bytes)).collect()
    }

    fn read(&self) -> Result<Vec<SegmentFindings>> {
        read(RecordReader::new(size()), &self.segments())
    }
}

fn size() -> SegmentSize {
    SegmentSize::new(SIZE).unwrap()
}

fn read(mut reader: RecordReader, segments: &[(SegmentName, &[u8])]) -> Result<Vec<SegmentFindings>> {
    segments.iter().map(|(name, bytes)| reader.segment(*name, bytes)).collect()
}

fn at(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(946_684_800 + seconds, 0)
}

fn why(outcome: Result<Vec<SegmentFindings>>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    error.to_string()
}

/// One with records of every kind over three segments, and its end within the third.
fn ordinary() -> Writer {
    let mut wal = Writer::new();
    wal.commit(1);
    wal.record(10, 0, &[1; 100]);
    wal.record(10, 0, &vec![2; 1_200_000]);
    wal.commit(2);
    wal.switch();
    wal.commit(3);
    wal.record(10, 0, &[3; 8100]);
    wal
}

#[test]
fn records_are_counted_and_commits_told_across_pages_and_segments() {
    let mut wal = ordinary();
    wal.record(1, 0x20, &9_000_000_i64.to_le_bytes());
    let last = wal.record(1, 0x30, &5_000_000_i64.to_le_bytes());
    let end = wal.at();
    wal.fill_segment();
    let findings = wal.read().unwrap();
    assert_eq!(findings.iter().map(|found| found.records).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!((findings[0].first_commit, findings[0].last_commit), (at(1), at(1)));
    assert_eq!((findings[1].first_commit, findings[1].last_commit), (at(2), at(2)));
    assert_eq!((findings[2].first_commit, findings[2].last_commit), (at(3), at(5)));
    assert_eq!(findings[2].latest_end, at(9), "of the transaction that was rolled back");
    assert_eq!(findings[2].last_commit_lsn, Some(Lsn(last)));
    assert_eq!(findings[0].unused_from, None);
    assert!(findings[1].unused_from.is_some(), "after the switch");
    assert_eq!(findings[2].unused_from, Some(Lsn(end)));
}

#[test]
fn reading_begins_with_any_segment_and_inside_a_record() {
    let mut wal = ordinary();
    wal.fill_segment();
    let segments = wal.segments();
    let findings = read(RecordReader::new(size()), &segments[1..]).unwrap();
    assert_eq!(findings.iter().map(|found| found.records).collect::<Vec<_>>(), [2, 2], "one is known by its end only");
}

#[test]
fn reading_ends_where_the_path_leaves_the_timeline() {
    let mut wal = Writer::new();
    wal.commit(1);
    let leave = wal.commit(2);
    wal.commits(5000, 3);
    wal.fill_segment();
    let findings = read(RecordReader::new(size()).until(Lsn(leave)), &wal.segments()).unwrap();
    assert_eq!((findings[0].records, findings[0].last_commit, findings[0].unused_from), (1, at(1), None));
}

#[test]
fn a_segment_of_a_promotion_begins_on_the_older_timeline() {
    let mut wal = Writer::new();
    wal.commits(500, 1);
    wal.timeline = 2;
    wal.commits(500, 2);
    wal.fill_segment();
    assert_eq!(wal.read().unwrap()[0].records, 1000);
    // Under the older timeline's name it is no segment, nor may a timeline come back.
    let (name, bytes) = wal.segments()[0];
    let older = SegmentName { timeline: TimelineId::FIRST, ..name };
    assert!(why(read(RecordReader::new(size()), &[(older, bytes)])).contains("its timeline is 2, that of its file 1"));
    let mut back = Writer::new();
    back.timeline = 2;
    back.commits(500, 2);
    back.timeline = 1;
    back.commits(500, 3);
    back.timeline = 2;
    back.fill_segment();
    assert!(why(back.read()).contains("its timeline is 1, that before it 2"));
}

#[test]
fn a_record_that_a_crash_cut_off_may_be_given_up() {
    let mut wal = Writer::new();
    wal.commit(1);
    wal.give_up(0);
    wal.commit(2);
    wal.fill_segment();
    let findings = wal.read().unwrap();
    assert_eq!((findings[0].records, findings[0].last_commit), (3, at(2)));

    // The record that says so must name the one that was begun.
    let mut other = Writer::new();
    other.commit(1);
    other.give_up(8);
    other.fill_segment();
    assert!(why(other.read()).contains("does not say that the one at"));

    // Without the mark on the page it is a hole.
    let mut unmarked = Writer::new();
    unmarked.commit(1);
    unmarked.give_up(0);
    unmarked.bytes[usize::try_from(PAGE).unwrap() + 2] = 0;
    unmarked.fill_segment();
    assert!(why(unmarked.read()).contains("it says that 0 bytes are left of a record, not"));
}

#[test]
fn an_end_without_a_switch_must_be_the_last() {
    let mut wal = Writer::new();
    wal.commit(1);
    let end = wal.at();
    wal.fill_segment();
    wal.commit(2);
    wal.fill_segment();
    let segments = wal.segments();
    let mut reader = RecordReader::new(size());
    assert_eq!(reader.segment(segments[0].0, segments[0].1).unwrap().unused_from, Some(Lsn(end)));
    let error = reader.segment(segments[1].0, segments[1].1).unwrap_err().to_string();
    assert!(error.contains(&format!("WAL ends at {} and goes on at 0/600000", Lsn(end))), "{error}");
    assert!(reader.segment(segments[1].0, segments[1].1).is_err(), "after damage nothing is known");
}

#[test]
fn old_pages_of_a_file_used_again_are_the_end_only_when_nothing_follows() {
    let mut wal = Writer::new();
    for _ in 0..100 {
        wal.record(10, 0, &[7; 1000]);
    }
    let end = wal.at();
    wal.fill_segment();
    let page = usize::try_from(PAGE).unwrap();
    let stale = |wal: &mut Writer, index: usize| {
        let old = wal.bytes[page..2 * page].to_vec();
        wal.bytes[index * page..(index + 1) * page].copy_from_slice(&old);
    };
    (20..120).for_each(|index| stale(&mut wal, index));
    assert_eq!(wal.read().unwrap()[0].unused_from, Some(Lsn(end)));
    stale(&mut wal, 5);
    assert!(why(wal.read()).contains("goes on at"));
}

#[test]
fn segments_of_another_place_cluster_or_size_do_not_continue() {
    let mut wal = ordinary();
    wal.fill_segment();
    let segments = wal.segments();
    let mut reader = RecordReader::new(size());
    reader.segment(segments[0].0, segments[0].1).unwrap();
    let refused = reader.segment(segments[2].0, segments[2].1).unwrap_err().to_string();
    assert!(refused.contains("it does not follow segment"), "{refused}");

    let mut foreign = segments[1].1.to_vec();
    foreign[24] ^= 1;
    let mixed = [segments[0], (segments[1].0, foreign.as_slice())];
    assert!(why(read(RecordReader::new(size()), &mixed)).contains("its header says cluster 76"));
    let short = [(segments[0].0, &segments[0].1[..8192])];
    assert!(why(read(RecordReader::new(size()), &short)).contains("it is 8192 bytes long, not 1048576"));
    assert!(why(read(RecordReader::new(SegmentSize::DEFAULT), &segments)).contains("long, not 16777216"));
}

#[test]
fn a_record_of_a_length_that_none_has_is_refused_before_it_is_read() {
    for (length, told) in [(23_u32, "its length is 23"), ((1 << 30) + 1, "its length is 1073741825")] {
        let mut wal = ordinary();
        wal.fill_segment();
        wal.bytes[40..44].copy_from_slice(&length.to_le_bytes());
        let why = why(wal.read());
        assert!(why.contains(told) && why.contains("0/500028"), "{why}");
    }
}

/// Two consecutive segments of a real server.
fn real() -> Vec<(SegmentName, Vec<u8>)> {
    [
        ("000000010000000000000009", include_bytes!("../../../fixtures/wal/000000010000000000000009.zst").as_slice()),
        ("00000001000000000000000A", include_bytes!("../../../fixtures/wal/00000001000000000000000A.zst").as_slice()),
    ]
    .into_iter()
    .map(|(name, compressed)| (name.parse().unwrap(), zstd::decode_all(compressed).unwrap()))
    .collect()
}

fn read_real(segments: &[(SegmentName, Vec<u8>)]) -> Result<Vec<SegmentFindings>> {
    let segments: Vec<_> = segments.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    read(RecordReader::new(size()), &segments)
}

#[test]
fn a_real_server_s_segments_are_read_as_pg_waldump_reads_them() {
    let time = |text: &str| text.parse::<DateTime<Utc>>().ok();
    let last = time("2026-11-25T03:30:39.881169Z");
    let second = SegmentFindings {
        records: 6842 - 4709,
        first_commit: time("2026-11-25T03:30:39.696025Z"),
        last_commit: last,
        last_commit_lsn: Some(Lsn(0xA5_0280)),
        latest_end: last,
        unused_from: Some(Lsn(0xA5_02C0)),
    };
    let first = SegmentFindings { records: 4709, ..SegmentFindings::default() };
    assert_eq!(read_real(&real()).unwrap(), [first, second]);
}

/// True for a byte that may be anything: what a page's header and a record end with to align the next, and the flag of a page
/// that says whether a backup was running.
fn is_free(segments: &[(SegmentName, Vec<u8>)], place: usize, change: u8) -> bool {
    let (page, size) = (usize::try_from(PAGE).unwrap(), usize::try_from(SIZE).unwrap());
    let in_page = place % page;
    if (20..24).contains(&in_page) || (in_page == 2 && change == 4) {
        return true;
    }
    // Lengths of records are looked up one after the other, from the page's first.
    let bytes = &segments[place / size].1[place % size - in_page..][..page];
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = if place % size < page { 40 } else { 24 };
    let mut length = word(16);
    while at + length <= in_page {
        let next = (at + length).next_multiple_of(8);
        if in_page < next {
            return true;
        }
        at = next;
        length = word(at);
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_lengths_records_have_they_are_read_back(lengths in proptest::collection::vec(0..40_000_usize, 1..150), switch: prop::sample::Index) {
        let mut wal = Writer::new();
        let switch = switch.index(lengths.len());
        for (index, length) in lengths.iter().enumerate() {
            wal.record(10, 0x10, &vec![0xAB; *length]);
            if index == switch {
                wal.switch();
            }
        }
        wal.fill_segment();
        let records: u64 = wal.read().unwrap().iter().map(|found| found.records).sum();
        prop_assert_eq!(records, lengths.len() as u64 + 1);
    }

    #[test]
    fn a_changed_byte_of_real_wal_is_found_unless_nothing_says_what_it_should_be(place: prop::sample::Index, change in 1..=255_u8) {
        let whole = read_real(&real()).unwrap();
        let end = whole[1].unused_from.unwrap().bytes() - 0xA * SIZE;
        let place = place.index(usize::try_from(SIZE + end).unwrap());
        let mut changed = real();
        let size = usize::try_from(SIZE).unwrap();
        changed[place / size].1[place % size] ^= change;
        if let Ok(found) = read_real(&changed) {
            prop_assert!(found != whole || is_free(&real(), place, change), "{place:#X} ^ {change:#X}");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_panic(noise in proptest::collection::vec(any::<u8>(), 1..300), place: prop::sample::Index) {
        let mut changed = real();
        let at = place.index(changed[0].1.len() - noise.len());
        changed[0].1[at..at + noise.len()].copy_from_slice(&noise);
        let _ = read_real(&changed);
        let mut wal: Vec<u8> = noise.iter().copied().cycle().take(usize::try_from(SIZE).unwrap()).collect();
        let name = changed[0].0;
        let _ = RecordReader::new(size()).segment(name, &wal);
        // Past the headers too.
        wal[..40].copy_from_slice(&changed[0].1[..40]);
        let _ = RecordReader::new(size()).segment(name, &wal);
    }
}
