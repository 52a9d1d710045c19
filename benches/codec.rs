//! How fast a WAL segment is sealed (digest and compression) and a backup's many small files go through tar.
#![allow(missing_docs, reason = "criterion's macros make public functions without documentation")]

use std::hint::black_box;
use std::io::Read;
use std::path::PathBuf;

use barback::codec::compression::{compress, decompress};
use barback::codec::digest::Sha256;
use barback::codec::tar::{Attributes, TarReader, TarWriter};
use barback::domain::compression::Compression;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const SEGMENT_BYTES: usize = 16 << 20;
const PAGE_BYTES: usize = 8192;

/// Pages with headers; records with a header, a few fields that count up, text, and values nobody can compress: about as
/// compressible as WAL of mixed inserts and updates (2.5 : 1 with zstd 1).
fn segment() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 11
    };
    let mut bytes = Vec::with_capacity(SEGMENT_BYTES + 256);
    while bytes.len() < SEGMENT_BYTES {
        if bytes.len() % PAGE_BYTES < 180 {
            bytes.extend_from_slice(&[0x10, 0xd1, 0x05, 0, 1, 0, 0, 0]);
        }
        let noise = next();
        bytes.extend_from_slice(&(80 + noise % 40).to_le_bytes()[..4]);
        bytes.extend_from_slice(&(700_000 + bytes.len() as u64 / 900).to_le_bytes()[..4]);
        bytes.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&noise.to_le_bytes()[..4]);
        bytes.extend_from_slice(&[0, 32, 0x7f, 0x06, 0, 0, 5, 0, 0, 0, 0x42, 0x40, 0, 0]);
        bytes.extend_from_slice(&next().to_le_bytes());
        bytes.extend_from_slice(&next().to_le_bytes());
        bytes.extend_from_slice(b"{\"customer\": \"order\", \"status\": \"open\"}");
    }
    bytes.truncate(SEGMENT_BYTES);
    bytes
}

fn seal_segment(criterion: &mut Criterion) {
    let content = segment();
    let mut sealing = criterion.benchmark_group("seal a 16 MiB segment");
    sealing.throughput(Throughput::Bytes(SEGMENT_BYTES as u64)).sample_size(10);
    for codec in Compression::ALL {
        sealing.bench_function(codec.to_string(), |bencher| {
            bencher.iter(|| (Sha256::of(black_box(&content)), compress(codec, None, &content)));
        });
    }
    sealing.finish();

    let mut opening = criterion.benchmark_group("open a 16 MiB segment");
    opening.throughput(Throughput::Bytes(SEGMENT_BYTES as u64)).sample_size(10);
    for codec in Compression::ALL {
        let sealed = compress(codec, None, &content).expect("memory is the only thing that can lack");
        opening.bench_function(codec.to_string(), |bencher| {
            bencher.iter(|| decompress(codec, black_box(&sealed), SEGMENT_BYTES as u64));
        });
    }
    opening.finish();
}

const FILES: usize = 5_000;
const ATTRIBUTES: Attributes = Attributes { mode: 0o600, uid: 26, gid: 26, mtime: 1_795_423_097 };

fn small_files() -> (Vec<PathBuf>, Vec<u8>) {
    (
        (0..FILES).map(|number| PathBuf::from(format!("base/5/{}", 16_384 + number))).collect(),
        segment()[..8192].to_vec(),
    )
}

fn write_archive(paths: &[PathBuf], content: &[u8]) -> barback::error::Result<Vec<u8>> {
    let mut writer = TarWriter::new(Vec::with_capacity(paths.len() * (content.len() + 512) + 20_480));
    for path in paths {
        writer.file(path, &ATTRIBUTES, content.len() as u64, &mut &content[..])?;
    }
    writer.finish()
}

fn read_archive(archive: &[u8]) -> barback::error::Result<u64> {
    let mut reader = TarReader::new(archive);
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    while reader.next_entry()?.is_some() {
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            total += length as u64;
        }
    }
    Ok(total)
}

fn walk_tar(criterion: &mut Criterion) {
    let (paths, content) = small_files();
    let archive = write_archive(&paths, &content).expect("a Vec takes everything");
    let mut group = criterion.benchmark_group("tar, 5000 files of 8 KiB in memory");
    group.throughput(Throughput::Elements(FILES as u64)).sample_size(20);
    group.bench_function("write", |bencher| {
        bencher.iter_batched(|| (), |()| write_archive(black_box(&paths), &content), BatchSize::PerIteration);
    });
    group.bench_function("read", |bencher| bencher.iter(|| read_archive(black_box(&archive))));
    group.finish();
}

criterion_group!(benches, seal_segment, walk_tar);
criterion_main!(benches);
