//! One job in the words of both faces: the same requests, but for what is meant to differ.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::super::call::{Call, Program, Work};
use super::super::quirks::Quirks;
use super::super::requests;
use super::{ask, words};
use crate::cli::invocation::{Command, Invocation, Run, StoreSettings};
use crate::cli::zone::Zone;
use crate::cli::{native, native_requests};
use crate::commands::backup::BackupRequest;
use crate::commands::spool::{SpoolLayout, SpoolOptions};
use crate::commands::wal_restore::{BackupHistories, WalRestoreRequest};
use crate::store::ReadableByOthers;

const PLACE: &str = "s3://bucket/some/path cluster";

fn env() -> BTreeMap<String, String> {
    let pairs = [
        ("BARBACK_CACHE_DIR", "/scratch"),
        ("BARBACK_RETRY_TIMEOUT_S", "90"),
        ("PGHOST", "/run/pg"),
        ("USER", "postgres"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn native(line: &str) -> Run {
    let argv: Vec<OsString> = ["barback"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
    match native::parse(argv, &env(), Zone::Host) {
        Ok(Invocation::Run(run)) => *run,
        other => panic!("{line}: {other:?}"),
    }
}

/// The store of a call, but for the one thing in which all of them differ.
fn store_settings(call: &Call, retry_s: u64) -> StoreSettings {
    let settings = requests::store_settings(call, &env(), retry_s).unwrap();
    assert_eq!(settings.readable_credentials, ReadableByOthers::Warn);
    StoreSettings { readable_credentials: ReadableByOthers::Refuse, ..settings }
}

#[test]
fn archiving_is_the_same_in_both_faces() {
    let cases = [
        ("", "--compression none"),
        ("--zstd", "--compression zstd --compression-level 1"),
        ("--gzip --compression-level 7", "--compression gzip --compression-level 7"),
        ("-j --compression-level=high", "--compression bzip2 --compression-level 9"),
        ("--lz4 --compression-level low", "--compression lz4 --compression-level 0"),
        ("--snappy", "--compression snappy"),
    ];
    let stores = [
        ("", ""),
        (
            "--endpoint-url http://host:9000 --addressing-style path",
            "--endpoint-url http://host:9000 --s3-addressing-style path",
        ),
        ("-P backup", "--aws-profile backup"),
    ];
    let now = "2026-11-24T12:00:00Z".parse().unwrap();
    for (theirs, ours) in cases {
        for (their_store, our_store) in stores {
            let line = format!("{theirs} {their_store} {PLACE} pg_wal/000000010000000000000007");
            let call = ask(Program::WalArchive, &words(&line)).unwrap();
            let Work::WalArchive(typed) = &call.work else { panic!("{call:?}") };
            let path = Path::new("pg_wal/000000010000000000000007");
            let request = requests::wal_archive(typed, path, Quirks::default(), now);
            let run = native(&format!(
                "--store s3://bucket/some/path --server cluster {our_store} wal-archive {ours} {}",
                path.display()
            ));
            assert_eq!(store_settings(&call, 60), run.settings.store, "{line}");
            let Command::WalArchive(args) = run.command else { panic!("{line}") };
            assert_eq!(request, native_requests::wal_archive(args, &run.settings, now), "{line}");
        }
    }
}

#[test]
fn restoring_wal_differs_in_where_it_looks_first_in_the_spool_and_in_backup_histories() {
    let line = format!("{PLACE} 000000010000000000000007 pg_wal/RECOVERYXLOG");
    let call = ask(Program::WalRestore, &words(&line)).unwrap();
    let Work::WalRestore(typed) = &call.work else { panic!("{call:?}") };
    let name = "000000010000000000000007".parse().unwrap();
    let request = requests::wal_restore(typed, name, "a store".to_owned(), Quirks::default());
    let run = native(
        "--store s3://bucket/some/path --server cluster wal-restore 000000010000000000000007 pg_wal/RECOVERYXLOG",
    );
    assert_eq!(store_settings(&call, 180), run.settings.store);
    let Command::WalRestore(args) = run.command else { panic!("{line}") };
    let layout = SpoolLayout::Keyed { store: "a store".to_owned() };
    let spool = SpoolOptions { directory: "/var/tmp/walrestore".into(), layout, segments: 0 };
    let meant = WalRestoreRequest {
        expected: None,
        backup_histories: BackupHistories::Absent,
        spool: Some(spool),
        ..native_requests::wal_restore(args, &run.settings)
    };
    assert_eq!(request, meant);
}

#[test]
fn backups_differ_in_their_names_their_bounds_and_what_barman_leaves_out() {
    let now = "2026-11-24T12:00:00Z".parse().unwrap();
    let line = format!(
        "--gzip --jobs 3 --immediate-checkpoint --name weekly --max-bandwidth 5MB --min-chunk-size 20MB {PLACE}"
    );
    let call = ask(Program::Backup, &words(&line)).unwrap();
    let Work::Backup(typed) = &call.work else { panic!("{call:?}") };
    let request = requests::backup(typed, &env(), Quirks::default(), now).unwrap();
    let run = native(
        "--store s3://bucket/some/path --server cluster backup --compression gzip --compression-level 6 --jobs 3 --fast \
         --name weekly --max-rate 5MiB --part-size 20MiB --dbname application_name=barman_cloud_backup",
    );
    assert_eq!(store_settings(&call, 60), run.settings.store);
    let Command::Backup(args) = run.command else { panic!("{line}") };
    let ours = native_requests::backup(args, &run.settings, &env(), now).unwrap();
    assert_ne!((&request.naming, request.max_tar_bytes), (&ours.naming, ours.max_tar_bytes));
    let jobs_and_size = |request: &BackupRequest| (request.buffers.workers, request.buffers.part_size_bytes);
    assert_eq!(jobs_and_size(&request), jobs_and_size(&ours));
    let meant = BackupRequest {
        conninfo: ours.conninfo,
        naming: request.naming.clone(),
        wal_compression: request.wal_compression,
        buffers: request.buffers,
        max_tar_bytes: request.max_tar_bytes,
        configuration: request.configuration,
        with_logs: request.with_logs,
        tables: request.tables,
        ..ours
    };
    assert_eq!(request, meant);
}
