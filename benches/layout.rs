//! How fast keys are built and read and `backup.info` is parsed: what a catalogue of thousands of objects costs.

use std::hint::black_box;

use barback::domain::backup::BackupId;
use barback::domain::compression::Compression;
use barback::domain::segment::WalFileName;
use barback::layout::backup_info;
use barback::layout::keys::{PartFamily, ServerPrefix};
use criterion::{Criterion, criterion_group, criterion_main};

const BACKUP_INFO: &str = include_str!("../fixtures/barman-3.19.1/bucket/pfx/main/base/20261123T083817/backup.info");

fn keys(criterion: &mut Criterion) {
    let prefix = ServerPrefix::new("pfx", "main").expect("a valid prefix");
    let id: BackupId = "20261123T083817".parse().expect("a valid id");
    let name: WalFileName = "000000010000000000000015".parse().expect("a valid name");
    let wal_key = format!("{}.zst", prefix.wal(&name));
    let part_key = prefix.part(&id, &PartFamily::Data, 12, Compression::Zstd);
    criterion.bench_function("wal key: build", |bench| bench.iter(|| prefix.wal(black_box(&name))));
    criterion.bench_function("wal key: read", |bench| bench.iter(|| prefix.wal_from_key(black_box(&wal_key))));
    criterion.bench_function("part key: build", |bench| {
        bench.iter(|| prefix.part(black_box(&id), &PartFamily::Data, 12, Compression::Zstd));
    });
    criterion.bench_function("part key: read", |bench| bench.iter(|| prefix.part_from_key(&id, black_box(&part_key))));
}

fn metadata(criterion: &mut Criterion) {
    let id: BackupId = "20261123T083817".parse().expect("a valid id");
    let backup = backup_info::parse(&id, BACKUP_INFO).expect("a valid backup.info");
    criterion.bench_function("backup.info: parse", |bench| {
        bench.iter(|| backup_info::parse(&id, black_box(BACKUP_INFO)));
    });
    criterion.bench_function("backup.info: write", |bench| bench.iter(|| backup_info::write(black_box(&backup))));
}

criterion_group!(benches, keys, metadata);
criterion_main!(benches);
