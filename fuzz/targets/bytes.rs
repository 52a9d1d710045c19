//! Bytes that are no text: WAL, tar, compressed data, and the files of a cluster that are looked into.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path};

use barback::codec::compression::{compress, decoder, decompress};
use barback::codec::page_checksum::{PageChecker, page_state};
use barback::codec::tar::{Attributes, Entry, EntryKind, TarReader, TarWriter};
use barback::domain::compression::Compression;
use barback::domain::lsn::Lsn;
use barback::domain::segment::{SegmentName, SegmentSize, WalFileName};
use barback::domain::timeline::TimelineHistory;
use barback::postgres::base_backup::BackupLabel;
use barback::postgres::pg_control::ControlFile;
use barback::postgres::relation_file::relation_blocks;
use barback::wal::completeness::{Candidate, judge};
use barback::wal::page_header::SegmentHeader;
use barback::wal::proof;
use barback::wal::records::RecordReader;

use super::{line_and_rest, text};

/// A source that gives a byte at a time, as a slow connection might.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(1);
        (&mut self.0).read(&mut buffer[..length])
    }
}

/// The smallest segment PostgreSQL knows: as long as it takes, and no longer.
const SEGMENT_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 8192;
const LONG_HEADER_BYTES: usize = 40;
const SHORT_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 24;

/// The beginning of a segment, behind a byte that says whether headers and checksums are mended first, which no mutation hits
/// by itself, and whether a second segment follows.
pub fn wal(bytes: &[u8]) {
    let Some((flags, content)) = bytes.split_first() else { return };
    let size = SegmentSize::new(SEGMENT_BYTES as u64).expect("it is a size");
    let content = &content[..content.len().min(SEGMENT_BYTES)];
    let mut segment = vec![0; SEGMENT_BYTES];
    segment[..content.len()].copy_from_slice(content);
    if flags & 1 != 0 {
        mend_headers(&mut segment, content.len());
    }
    if flags & 2 != 0 {
        mend_records(&mut segment, content.len());
    }
    let header = SegmentHeader::parse(&segment);
    let _ = SegmentHeader::parse(content);
    let start = header.as_ref().map_or(Lsn(0), |header| header.start);
    let timeline = header.as_ref().map_or(barback::domain::timeline::TimelineId::FIRST, |header| header.timeline);
    let name = SegmentName::from_number(timeline, size.segment_of(start), size);
    let _ = proof::check(&WalFileName::Segment(name), &segment, Some(&TimelineHistory::root(timeline)));
    let length = segment.len() as u64;
    let candidates = [name, name.next(size)].map(|name| Candidate::new(name, false, &segment, length, None));
    assert_eq!(judge(&candidates, &BTreeMap::new()).len(), 2);

    let mut reader = RecordReader::new(size).looking_from(start);
    if flags & 4 != 0 {
        reader = reader.until(Lsn(start.bytes().saturating_add(PAGE_BYTES as u64)));
    }
    let first = reader.segment(name, &segment);
    if let Ok(found) = &first {
        assert!(found.records <= (SEGMENT_BYTES / RECORD_HEADER_BYTES) as u64, "a record has a header");
        assert!(found.first_commit.is_none() == found.last_commit.is_none(), "{found:?}");
        assert!(found.unused_from.is_none_or(|from| from >= name.start(size)), "{found:?}");
    }
    if flags & 8 != 0 {
        let _ = reader.segment(name.next(size), &segment);
        assert!(first.is_ok() || reader.segment(name, &segment).is_err(), "a reader that failed is of no use");
    }
}

/// Makes the first pages those of one segment, wherever it says it starts.
fn mend_headers(segment: &mut [u8], length: usize) {
    let start = u64::from_le_bytes(segment[8..16].try_into().expect("it is eight bytes")) & !(SEGMENT_BYTES as u64 - 1);
    let timeline = segment[4..8].to_vec();
    for (at, page) in segment[..length.next_multiple_of(PAGE_BYTES)].chunks_exact_mut(PAGE_BYTES).enumerate() {
        page[..2].copy_from_slice(&0xD10D_u16.to_le_bytes());
        // Whether a record goes on here is left to the input, and to the mending of records.
        page[2] = page[2] & 0x09 | if at == 0 { 2 } else { 0 };
        page[3] = 0;
        page[4..8].copy_from_slice(&timeline);
        page[8..16].copy_from_slice(&start.wrapping_add((at * PAGE_BYTES) as u64).to_le_bytes());
    }
    segment[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    segment[36..40].copy_from_slice(&8192_u32.to_le_bytes());
}

/// Gives every record its checksum and the place of the one before it, and every page what is left of a record, for as long as
/// there are records of a possible length.
fn mend_records(segment: &mut [u8], length: usize) {
    let header = |at: usize| if at < PAGE_BYTES { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
    let places: Vec<usize> = (0..length).filter(|at| at % PAGE_BYTES >= header(*at)).collect();
    let base = u64::from_le_bytes(segment[8..16].try_into().expect("it is eight bytes"));
    segment[2] &= !9;
    segment[16..20].fill(0);
    let (mut at, mut previous) = (0, 0_u64);
    while let Some(head) = places.get(at..at + RECORD_HEADER_BYTES) {
        let byte = |index: usize| segment[head[index]];
        let total = u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]) as usize;
        let Some(record) = places.get(at..at + total).filter(|_| total >= RECORD_HEADER_BYTES) else { return };
        let start = record[0];
        for (done, place) in record.iter().enumerate() {
            if place % PAGE_BYTES == SHORT_HEADER_BYTES && done > 0 {
                let page = place - SHORT_HEADER_BYTES;
                segment[page + 2] = segment[page + 2] & !9 | 1;
                let left = u32::try_from(total - done).expect("it is part of a u32");
                segment[page + 16..page + 20].copy_from_slice(&left.to_le_bytes());
            }
        }
        for (index, byte) in previous.to_le_bytes().into_iter().enumerate() {
            segment[record[8 + index]] = byte;
        }
        let bytes: Vec<u8> = record.iter().map(|place| segment[*place]).collect();
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[RECORD_HEADER_BYTES..]), &bytes[..20]);
        for (index, byte) in checksum.to_le_bytes().into_iter().enumerate() {
            segment[record[20 + index]] = byte;
        }
        previous = base.wrapping_add(start as u64);
        at += total;
        while places.get(at).is_some_and(|place| place % 8 != 0) {
            at += 1;
        }
    }
}

/// A control file, made as long as one is and with a checksum that is right; a backup label; data pages.
pub fn cluster_files(bytes: &[u8]) {
    const FILE_BYTES: usize = 8192;
    let mut raw = bytes[..bytes.len().min(FILE_BYTES)].to_vec();
    let _ = ControlFile::parse(raw.clone());
    raw.resize(FILE_BYTES, 0);
    let crc_at = if raw[8..12] == 1800_u32.to_le_bytes() { 292 } else { 288 };
    let crc = crc32c::crc32c(&raw[..crc_at]);
    raw[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    if let Ok(control) = ControlFile::parse(raw.clone()) {
        assert_eq!(control.raw, raw, "what is published is what was read");
        let _ = relation_blocks(Path::new("base/5/16384.4294967295"), control.blocks_per_segment);
    }
    let text = text(bytes);
    if let Ok(label) = BackupLabel::parse(&text) {
        assert_eq!(label.start_timeline, label.start_segment.timeline);
    }
    if let Some(block) = relation_blocks(Path::new(line_and_rest(&text).0), 1 << 17) {
        assert_eq!(block % (1 << 17), 0);
    }
    for block_bytes in [1024, 8192] {
        let whole = pages(&[bytes], block_bytes);
        assert_eq!(whole.pages, bytes.len().div_ceil(block_bytes) as u64);
        assert_eq!(whole, pages(&bytes.chunks(777).collect::<Vec<_>>(), block_bytes), "pieces read like the whole");
    }
    let _ = page_state(bytes, u32::MAX, None);
}

fn pages(pieces: &[&[u8]], block_bytes: usize) -> barback::codec::page_checksum::PageFindings {
    let mut checker = PageChecker::new(block_bytes, u32::MAX - 1, Some(Lsn(1 << 40))).not_beyond(Lsn(1 << 41));
    for piece in pieces {
        checker.update(piece);
    }
    checker.finish()
}

/// A tar archive, as it is and with headers whose checksums are right.
pub fn tar(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        let (members, error) = members(TarReader::new(bytes), bytes.len());
        let (trickled, same_error) = self::members(TarReader::new(Trickle(bytes)), bytes.len());
        assert_eq!((&members, &error), (&trickled, &same_error), "a slow source reads like a fast one");
        if error.is_none() {
            written_anew(&members);
        }
    };
    read(bytes);
    let mut mended = bytes.to_vec();
    for block in mended.chunks_exact_mut(512).filter(|block| block.iter().any(|byte| *byte != 0)) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    read(&mended);
}

type Member = (Entry, Vec<u8>);

/// The members up to the end or the first error.
fn members(mut reader: TarReader<impl Read>, length: usize) -> (Vec<Member>, Option<String>) {
    let mut members: Vec<Member> = Vec::new();
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return (members, None),
            Err(error) => return (members, Some(error.to_string())),
        };
        for path in [Some(&entry.path), link(&entry)].into_iter().flatten() {
            let stays = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
            assert!(!path.as_os_str().is_empty() && path.components().all(stays), "{entry:?} leaves its directory");
        }
        assert!(entry.mode <= 0o7777, "{entry:?}");
        let mut content = Vec::new();
        if let Err(error) = reader.read_to_end(&mut content) {
            return (members, Some(error.to_string()));
        }
        assert!(content.len() as u64 == entry.size && content.len() <= length, "{entry:?}");
        members.push((entry, content));
    }
}

fn link(entry: &Entry) -> Option<&std::path::PathBuf> {
    if let EntryKind::HardLink(target) = &entry.kind { Some(target) } else { None }
}

/// What was read of directories, files and links is read again after it was written.
fn written_anew(members: &[Member]) {
    let mut writer = TarWriter::new(Vec::new());
    let mut kept = Vec::new();
    for (entry, content) in members {
        let Entry { path, mode, uid, gid, mtime, .. } = entry;
        let attributes = Attributes { mode: *mode, uid: *uid, gid: *gid, mtime: *mtime };
        match &entry.kind {
            EntryKind::Directory => writer.directory(path, &attributes),
            EntryKind::File => writer.file(path, &attributes, entry.size, &mut &content[..]).map(drop),
            EntryKind::Symlink(target) => writer.symlink(path, target, &attributes),
            EntryKind::HardLink(_) | EntryKind::Other(_) => continue,
        }
        .expect("what was read can be written");
        kept.push((entry.clone(), content.clone()));
    }
    let archive = writer.finish().expect("memory takes all");
    assert_eq!(members_of(&archive), kept, "what is written is read back");
}

fn members_of(archive: &[u8]) -> Vec<Member> {
    let (members, error) = members(TarReader::new(archive), archive.len());
    assert_eq!(error, None);
    members
}

/// Compressed data of the format that the first byte names. However much it expands to, no more is made than is asked for.
pub fn decoders(bytes: &[u8]) {
    const LIMIT_BYTES: usize = 64 << 10;
    let Some((format, packed)) = bytes.split_first() else { return };
    let formats = [
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Zstd,
        Compression::Lz4,
        Compression::Snappy,
    ];
    let codec = formats[usize::from(*format) % formats.len()];
    let whole = decompress(codec, packed, LIMIT_BYTES as u64);
    let (begun, failed) = beginning(codec, packed, LIMIT_BYTES);
    match &whole {
        Ok(content) => {
            assert!(content.len() <= LIMIT_BYTES, "the limit holds");
            assert_eq!((&begun, failed), (content, false), "a stream gives the same");
            let again = compress(codec, None, content).expect("it can be compressed");
            assert_eq!(decompress(codec, &again, LIMIT_BYTES as u64).ok().as_ref(), Some(content));
        }
        Err(_) => {
            assert!(failed || begun.len() == LIMIT_BYTES, "what is refused whole is refused in a stream, or too long");
        }
    }
    let (trickled, same) = beginning(codec, Trickle(packed), LIMIT_BYTES);
    assert_eq!(same, failed, "a slow source reads like a fast one");
    // How much comes before damage is noticed is a matter of pieces.
    let common = trickled.len().min(begun.len());
    assert_eq!(trickled[..common], begun[..common]);
    assert!(failed || trickled.len() == begun.len());
}

/// At most `limit_bytes` of the content, and whether it broke off.
fn beginning<'a>(codec: Compression, source: impl Read + Send + 'a, limit_bytes: usize) -> (Vec<u8>, bool) {
    let Ok(decoder) = decoder(codec, source) else { return (Vec::new(), true) };
    let mut content = Vec::new();
    let failed = decoder.take(limit_bytes as u64).read_to_end(&mut content).is_err();
    (content, failed)
}
