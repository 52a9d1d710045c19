//! How fast bytes are proved while they pass: data pages by their checksums, WAL record by record.
#![allow(missing_docs, reason = "criterion's macros make public functions without documentation")]

use std::hint::black_box;

use barback::codec::compression::decompress;
use barback::codec::page_checksum::{PageChecker, page_checksum};
use barback::domain::compression::Compression;
use barback::domain::segment::SegmentSize;
use barback::wal::records::RecordReader;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PAGE_BYTES: usize = 8192;
const PAGES: usize = 2048;
const SEGMENT_BYTES: u64 = 1 << 20;
const SEGMENT: &[u8] = include_bytes!("../fixtures/wal/000000010000000000000009.zst");

/// Pages as a server writes them, filled with something.
fn pages() -> Vec<u8> {
    let mut file: Vec<u8> = (0..PAGES * PAGE_BYTES).map(|at| u8::try_from(at * 7 % 251).unwrap_or(0)).collect();
    for (block, page) in file.chunks_exact_mut(PAGE_BYTES).enumerate() {
        let checksum = page_checksum(page, u32::try_from(block).unwrap_or(0));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
    }
    file
}

fn data_pages(criterion: &mut Criterion) {
    let file = pages();
    let mut group = criterion.benchmark_group("data pages");
    group.throughput(Throughput::Bytes(PAGE_BYTES as u64));
    group.bench_function("checksum of one", |bench| bench.iter(|| page_checksum(black_box(&file[..PAGE_BYTES]), 7)));
    group.throughput(Throughput::Bytes(file.len() as u64));
    group.bench_function("16 MiB checked", |bench| {
        bench.iter(|| {
            let mut checker = PageChecker::new(PAGE_BYTES, 0, None);
            checker.update(black_box(&file));
            checker.finish()
        });
    });
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let segment = decompress(Compression::Zstd, SEGMENT, SEGMENT_BYTES).expect("a fixture");
    let size = SegmentSize::new(SEGMENT_BYTES).expect("a valid size");
    let name = "000000010000000000000009".parse().expect("a valid name");
    let mut group = criterion.benchmark_group("WAL records");
    group.throughput(Throughput::Bytes(SEGMENT_BYTES));
    group.bench_function("a segment of 1 MiB with 4709", |bench| {
        bench.iter(|| RecordReader::new(size).segment(name, black_box(&segment)));
    });
    group.finish();
}

criterion_group!(benches, data_pages, records);
criterion_main!(benches);
