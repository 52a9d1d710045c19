//! The catalogue commands beside Barman 3.19.1 on the same buckets: what they print, what they leave behind, what they ask for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use barback::cli::barman::call::Format;
use barback::cli::barman::output;
use barback::commands::answer::{Answer, RefusalKind};
use barback::commands::archive::Archive;
use barback::commands::backup_records::{Records, find_record, read_keep};
use barback::commands::delete::{DeleteRequest, LeftOut, Unwanted, delete};
use barback::commands::keep::{KeepAction, KeepRequest, keep};
use barback::commands::wal_archive_check::wal_archive_check;
use barback::domain::barman_retention::Keep;
use barback::error::{Error, ErrorKind, Result};
use barback::layout::backup_record::BackupRecord;
use barback::store::StoreOptions;
use chrono::Utc;

use crate::harness::{BUCKET, BarmanProcess, Fault, Minio, Random, S3Server, archive_of, block_on, store_options};

/// The bucket that Barman wrote.
fn fixture(server: &S3Server) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1/bucket"), &server.object(""));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() { copy(&from, &to) } else { std::fs::copy(from, to).map(drop).unwrap() }
    }
}

fn expected(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1/expected");
    std::fs::read_to_string(root.join(file)).unwrap()
}

fn put(server: &S3Server, key: &str, content: impl AsRef<[u8]>) {
    let path = server.object(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// The server "main" under `path` of the bucket behind `env`; a failing request is not repeated.
fn archive_at(env: &[(String, String)], path: &str) -> Archive {
    let options = store_options(&format!("s3://{BUCKET}/{path}"), env.iter().cloned());
    block_on(archive_of(StoreOptions { retry_timeout_s: 0, ..options }))
}

fn archive(server: &S3Server, path: &str) -> Archive {
    archive_at(&server.env(), path)
}

fn printed(print: impl FnOnce(&mut dyn std::io::Write) -> Result<()>) -> String {
    let mut out = Vec::new();
    print(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn listed(archive: &Archive, format: Format) -> Result<String> {
    let records = block_on(Records::load_with_keeps(archive))?;
    let backups = records.backups.iter().map(|backup| (&backup.record, backup.keep));
    Ok(printed(|out| output::list(out, format, backups)))
}

fn given<T: std::fmt::Debug>(answer: Result<Answer<T>>) -> T {
    match answer.unwrap() {
        Answer::Given(value) => value,
        Answer::Refused(refusal) => panic!("{refusal:?}"),
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<Answer<T>>) -> (RefusalKind, String) {
    match answer.unwrap() {
        Answer::Refused(refusal) => (refusal.kind, refusal.text),
        given @ Answer::Given(_) => panic!("{given:?}"),
    }
}

fn request(unwanted: Unwanted) -> DeleteRequest {
    DeleteRequest {
        unwanted,
        minimum_redundancy: 0,
        dry_run: false,
        batch_size: None,
        check_object_lock: false,
        now: Utc::now().fixed_offset(),
    }
}

fn by_id(id: &str) -> DeleteRequest {
    request(Unwanted::Backup(id.to_owned()))
}

fn by_policy(policy: &str) -> DeleteRequest {
    request(Unwanted::Policy(policy.to_owned()))
}

/// Deletes, and gives what a dry run says besides.
fn run(archive: &Archive, request: &DeleteRequest) -> (Result<Answer<Vec<String>>>, String) {
    let mut out = Vec::new();
    let answer = block_on(delete(archive, request, &mut |step: LeftOut| output::not_deleted(&mut out, &step)));
    (answer, String::from_utf8(out).unwrap())
}

const FX1: &str = "20261123T083817";
const FX2: &str = "20261123T083822";

#[test]
fn the_fixture_is_answered_for_as_barman_answered() {
    let server = S3Server::start();
    fixture(&server);
    let archive = archive(&server, "pfx");
    assert_eq!(listed(&archive, Format::Console).unwrap(), expected("backup-list.txt"));
    assert_eq!(listed(&archive, Format::Json).unwrap(), expected("backup-list.json"));
    for word in [FX1, "fx1", "first", "oldest"] {
        let record = given(block_on(find_record(&archive, word)));
        assert_eq!(
            printed(|out| output::show(out, Format::Console, &record)),
            expected("backup-show-fx1.txt"),
            "{word}"
        );
    }
    let status = |word: &str| {
        let request = KeepRequest { backup: word.to_owned(), action: KeepAction::Status, url_ends_in_slash: false };
        let keep = given(block_on(keep(&archive, &request)));
        printed(|out| output::keep_status(out, keep))
    };
    assert_eq!(status("fx2"), expected("backup-keep-status-fx2.txt"));
    assert_eq!(status("20200101T000000"), "Keep: nokeep\n");
    for (mut request, file) in [
        (by_id("fx1"), "backup-delete-fx1-dryrun.txt"),
        (by_policy("REDUNDANCY 1"), "backup-delete-redundancy1-dryrun.txt"),
    ] {
        request.dry_run = true;
        let keys = server.keys();
        let (answer, out) = run(&archive, &request);
        given(answer);
        assert_eq!(out, expected(file));
        assert_eq!(server.keys(), keys, "a dry run deletes nothing");
    }
}

#[test]
fn an_id_costs_one_request_and_a_list_three_for_each_backup() {
    let server = S3Server::start();
    fixture(&server);
    let archive = archive(&server, "pfx");
    server.forget_requests();
    given(block_on(find_record(&archive, FX1)));
    assert_eq!(server.requests().len(), 1);
    server.forget_requests();
    listed(&archive, Format::Json).unwrap();
    assert_eq!(server.requests().len(), 1 + 4 * 3);
}

#[test]
fn what_could_not_be_read_is_an_error_and_never_a_shorter_answer() {
    let server = S3Server::start();
    fixture(&server);
    let archive = archive(&server, "pfx");
    let keys = server.keys();
    for answered in 0..13 {
        for fault in [Fault::Status(503), Fault::Disconnect, Fault::Status(403)] {
            let fail_after = |answered: usize| {
                let mut requests = 0;
                server.fault_when(move |_| {
                    requests += 1;
                    (requests > answered).then_some(fault)
                });
            };
            fail_after(answered);
            let error = listed(&archive, Format::Json).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Denied),
                "{answered} {fault:?}: {error}"
            );
            fail_after(answered);
            let answer = run(&archive, &by_policy("REDUNDANCY 1")).0;
            assert!(answer.is_err(), "{answered} {fault:?}: {answer:?}");
        }
    }
    assert_eq!(server.keys(), keys);
}

#[test]
fn a_damaged_record_is_left_out_of_the_list_and_stops_every_deletion() {
    let server = S3Server::start();
    fixture(&server);
    let archive = archive(&server, "pfx");
    put(&server, "pfx/main/base/20261123T083826/backup.info", "rubbish\n");
    put(&server, "pfx/main/base/20261123T083832/backup.info", b"pgdata=\xff\n");
    let records = block_on(Records::load(&archive)).unwrap();
    assert_eq!(records.unreadable, ["20261123T083826", "20261123T083832"]);
    assert_eq!(listed(&archive, Format::Console).unwrap().lines().count(), 3);
    let keys = server.keys();
    for request in
        [by_id(FX1), by_id("20261123T083826"), by_id("nope"), by_policy("REDUNDANCY 1"), by_policy("nonsense")]
    {
        let (kind, text) = refused(run(&archive, &request).0);
        assert_eq!(
            (kind, text.as_str()),
            (
                RefusalKind::Operation,
                "Cannot read the following backups: ['20261123T083826', '20261123T083832']\n\
                 Unsafe to proceed with deletion due to failure reading backup catalog"
            )
        );
    }
    assert_eq!(server.keys(), keys);
    assert_eq!(block_on(find_record(&archive, "20261123T083826")).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn words_for_backups_are_barman_s() {
    let server = S3Server::start();
    let archive = archive(&server, "pfx");
    for (id, content) in [
        ("20260101T000000", "status=STARTED\nbackup_name=one\n"),
        ("20260102T000000", "status=DONE\nbackup_name=two\n"),
        ("20260103T000000", "status=FAILED\nbackup_name=two\n"),
        ("20260104T000000", "status=STARTED\nbackup_name=four\n"),
    ] {
        put(&server, &format!("pfx/main/base/{id}/backup.info"), content);
    }
    let id_of = |word: &str| given(block_on(find_record(&archive, word))).id().to_owned();
    assert_eq!((id_of("first").as_str(), id_of("oldest").as_str()), ("20260102T000000", "20260102T000000"));
    assert_eq!((id_of("last").as_str(), id_of("latest").as_str()), ("20260103T000000", "20260103T000000"));
    assert_eq!((id_of("last-failed").as_str(), id_of("four").as_str()), ("20260103T000000", "20260104T000000"));
    let error = |word: &str| block_on(find_record(&archive, word)).unwrap_err();
    assert_eq!(error("nope").to_string(), "Unknown backup 'nope' for server 'main'");
    assert_eq!(error("nope").kind(), ErrorKind::NotFound);
    assert_eq!(
        error("two").to_string(),
        "Multiple backups found matching name 'two' (try using backup ID instead): 20260102T000000 20260103T000000"
    );
    let absent = refused(block_on(find_record(&archive, "20260109T000000")));
    assert_eq!(absent, (RefusalKind::Operation, "Backup 20260109T000000 for server main does not exist".to_owned()));
    let nobody = archive_at(&server.env(), "elsewhere");
    assert_eq!(
        block_on(find_record(&nobody, "last")).unwrap_err().to_string(),
        "Unknown backup 'last' for server 'main'"
    );
}

#[test]
fn a_missing_bucket_is_no_absent_backup() {
    let server = S3Server::start();
    let archive = archive(&server, "pfx");
    std::fs::remove_dir(server.object("")).unwrap();
    let status = KeepRequest { backup: FX1.to_owned(), action: KeepAction::Status, url_ends_in_slash: false };
    let set = KeepRequest { action: KeepAction::Set(Keep::Full), ..status.clone() };
    let errors: Vec<Error> = vec![
        block_on(find_record(&archive, FX1)).unwrap_err(),
        block_on(keep(&archive, &status)).unwrap_err(),
        block_on(keep(&archive, &set)).unwrap_err(),
        run(&archive, &by_id(FX1)).0.unwrap_err(),
        listed(&archive, Format::Json).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    }
}

#[test]
fn a_keep_is_put_looked_at_and_taken_away() {
    let server = S3Server::start();
    fixture(&server);
    let archive = archive(&server, "pfx");
    let ask = |backup: &str, action| {
        let request = KeepRequest { backup: backup.to_owned(), action, url_ends_in_slash: false };
        block_on(keep(&archive, &request))
    };
    let annotation = format!("pfx/main/base/{FX1}/annotations/keep");
    assert_eq!(given(ask("fx1", KeepAction::Set(Keep::Full))), Some(Keep::Full));
    assert_eq!(std::fs::read_to_string(server.object(&annotation)).unwrap(), "full");
    assert_eq!(given(ask(FX1, KeepAction::Set(Keep::Standalone))), Some(Keep::Standalone));
    assert_eq!(given(ask(FX1, KeepAction::Status)), Some(Keep::Standalone));
    let (kind, text) = refused(run(&archive, &by_id("fx1")).0);
    assert!(kind == RefusalKind::Operation && text.contains("as it has a current keep request."), "{text}");
    assert_eq!(given(ask("first", KeepAction::Release)), None);
    assert_eq!(given(ask(FX1, KeepAction::Release)), None, "once more does no harm");
    assert!(!server.keys().contains(&annotation));
    assert_eq!(given(ask("20200101T000000", KeepAction::Release)), None);
    let error = ask("20200101T000000", KeepAction::Set(Keep::Full)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    put(&server, "pfx/main/base/20270101T000000/backup.info", "status=FAILED\n");
    assert_eq!(
        refused(ask("last", KeepAction::Set(Keep::Full))).1,
        "Cannot add keep to backup 20270101T000000 because it has status FAILED. Only backups with status DONE can be kept."
    );
}

/// MinIO has no objects with an empty directory name, and says so with an error.
#[test]
fn a_server_that_cannot_have_the_second_place_of_a_keep_has_none_there() {
    let Some(minio) = Minio::start() else { return };
    let archive = archive_at(&minio.env(), "pfx");
    let put = |key: &str, content: &str| {
        block_on(archive.store.put(&format!("pfx/main/base/{key}"), content.into(), &BTreeMap::new())).unwrap();
    };
    put(&format!("{FX1}/backup.info"), "status=DONE\n");
    assert_eq!(block_on(read_keep(&archive, FX1)).unwrap(), None);
    let ask = |action| {
        let request = KeepRequest { backup: FX1.to_owned(), action, url_ends_in_slash: false };
        given(block_on(keep(&archive, &request)))
    };
    assert_eq!(ask(KeepAction::Set(Keep::Full)), Some(Keep::Full));
    assert_eq!(ask(KeepAction::Status), Some(Keep::Full));
    assert_eq!(ask(KeepAction::Release), None);
    assert_eq!(ask(KeepAction::Status), None);
}

#[test]
fn archives_go_first_then_the_record_then_wal_and_what_is_ours() {
    let server = S3Server::start();
    fixture(&server);
    for name in ["barback.json", "barback-tables.json.zst", "backup_manifest.zst", "foreign"] {
        put(&server, &format!("pfx/main/base/{FX1}/{name}"), "x");
    }
    put(&server, "pfx/main/wals/0000000100000000/foreign", "x");
    let archive = archive(&server, "pfx");
    server.forget_requests();
    assert_eq!(given(run(&archive, &DeleteRequest { batch_size: Some(2), ..by_id("fx1") }).0), [FX1]);
    let left: Vec<String> = server.keys().into_iter().filter(|key| key.contains(FX1)).collect();
    assert_eq!(left, [format!("pfx/main/base/{FX1}/foreign")]);
    let wal = server.keys().into_iter().filter(|key| key.contains("/wals/")).collect::<Vec<_>>();
    assert_eq!(wal.first().map(String::as_str), Some("pfx/main/wals/0000000100000000/000000010000000000000017"));
    assert!(wal.contains(&"pfx/main/wals/0000000100000000/foreign".to_owned()));
    assert!(wal.contains(&"pfx/main/wals/00000002.history.gz".to_owned()));
    assert!(given(run(&archive, &by_id(FX1)).0).is_empty(), "once more there is no such backup");
}

#[test]
fn a_failed_deletion_ends_the_call_and_leaves_the_record_and_the_wal() {
    let server = S3Server::start();
    fixture(&server);
    let archive = archive(&server, "pfx");
    let keys = server.keys();
    for fault in [Fault::Status(403), Fault::Status(500), Fault::Disconnect] {
        server.fault_when(move |seen| (seen.method != "GET").then_some(fault));
        let (kind, text) = refused(run(&archive, &by_policy("REDUNDANCY 1")).0);
        assert_eq!(kind, RefusalKind::Operation);
        assert!(text.starts_with(&format!("Could not delete backup {FX1}: ")), "{text}");
        assert_eq!(server.keys(), keys);
    }
}

#[test]
fn wal_that_could_not_be_deleted_changes_nothing() {
    let server = S3Server::start();
    for fault in [Fault::Status(403), Fault::Disconnect] {
        fixture(&server);
        let archive = archive(&server, "pfx");
        let info = server.object(&format!("pfx/main/base/{FX1}/backup.info"));
        server.fault_when(move |seen| (seen.method != "GET" && !info.exists()).then_some(fault));
        assert_eq!(given(run(&archive, &by_id(FX1)).0), [FX1]);
        assert!(!server.keys().iter().any(|key| key.contains(FX1)));
        assert!(server.keys().contains(&"pfx/main/wals/0000000100000000/000000010000000000000008.gz".to_owned()));
        server.heal();
    }
}

#[test]
fn refusals_are_told_apart_by_their_kind() {
    let server = S3Server::start();
    fixture(&server);
    let archive = archive(&server, "pfx");
    let keys = server.keys();
    let (kind, text) = refused(run(&archive, &by_policy("once in a while")).0);
    assert_eq!(kind, RefusalKind::Usage);
    assert!(text.starts_with("Could not create retention policy once in a while: Cannot parse"), "{text}");
    let (kind, text) = refused(run(&archive, &DeleteRequest { minimum_redundancy: 4, ..by_id("fx1") }).0);
    assert_eq!(kind, RefusalKind::Operation);
    assert!(text.ends_with("(minimum redundancy = 4, current redundancy = 4)"), "{text}");
    assert_eq!(run(&archive, &by_id("nope")).0.unwrap_err().kind(), ErrorKind::NotFound);
    for nothing in [by_id(""), by_policy(""), by_id("20200101T000000")] {
        assert!(given(run(&archive, &nothing).0).is_empty());
    }
    put(
        &server,
        "pfx/main/base/20200101T000000/backup.info",
        "status=DONE\nsnapshots_info={'provider': 'gcp', 'provider_info': {}, 'snapshots': []}\n",
    );
    assert_eq!(run(&archive, &by_id("20200101T000000")).0.unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(server.keys().len(), keys.len() + 1);
}

#[test]
fn the_listing_of_wal_ends_where_nothing_more_can_go() {
    let server = S3Server::start();
    fixture(&server);
    for number in 0..1500 {
        put(&server, &format!("pfx/main/wals/0000000100000001/0000000100000001{number:08X}"), "");
    }
    let archive = archive(&server, "pfx");
    server.forget_requests();
    given(run(&archive, &by_id("fx1")).0);
    let pages = server.requests().iter().filter(|seen| seen.method == "GET" && seen.target.contains("wals")).count();
    assert_eq!(pages, 1);
    assert_eq!(server.keys().iter().filter(|key| key.contains("/wals/0000000100000001/")).count(), 1500);
}

#[test]
fn an_archive_that_is_not_empty_is_told_by_one_page_or_counted() {
    let server = S3Server::start();
    let archive = archive(&server, "pfx");
    let check = |timeline| block_on(wal_archive_check(&archive, timeline));
    put(&server, "pfx/main/wals/foreign", "x");
    put(&server, "pfx/main/wals/0000000100000000/000000010000000000000001.gz.gz", "x");
    given(check(None));
    for number in 0..1100 {
        put(&server, &format!("pfx/main/wals/0000000100000000/0000000100000000{number:08X}"), "");
    }
    server.forget_requests();
    assert_eq!(
        refused(check(None)),
        (RefusalKind::Operation, "WAL archive check failed for server main: Expected empty archive".to_owned())
    );
    assert_eq!(server.requests().iter().filter(|seen| seen.target.contains("wals")).count(), 1);
    put(&server, "pfx/main/wals/0000000100000000/000000010000000000000001.gz", "the same under another suffix");
    put(&server, "pfx/main/wals/00000003.history", "x");
    let found = |timeline| refused(check(Some(timeline))).1;
    assert!(found(1).ends_with("Found 1101 files in WAL archive equal to or newer than timeline 1"), "{}", found(1));
    assert!(found(2).ends_with("Found 1 file in WAL archive equal to or newer than timeline 2"), "{}", found(2));
    given(check(Some(4)));
    server.refuse_all(500);
    assert_eq!(check(None).unwrap_err().kind(), ErrorKind::Unreachable);
}

#[test]
fn an_archive_is_checked_as_barman_checks_it() {
    let server = S3Server::start();
    let Some(mut barman) = BarmanProcess::start(&server.env()) else { return };
    let mut random = Random(7);
    for at in 0..40 {
        let path = format!("c{at}");
        for _ in 0..random.below(5) {
            let name =
                *random.pick(&["00000002000000000000000A", "00000001000000010000000B", "0000000b00000001000000FF"]);
            let kind = *random.pick(&["", "", ".partial", ".00000028.backup", ".tmp", ".0028.backup"]);
            let suffix = *random.pick(&["", ".gz", ".zst", ".gz.gz", ".Z"]);
            let directory = *random.pick(&["0000000200000000/", "", "x/y/"]);
            put(&server, &format!("{path}/main/wals/{directory}{name}{kind}{suffix}"), "x");
        }
        if random.chance(40) {
            let history = *random.pick(&["00000002.history", "0000000c.history.lz4", "0000000G.history", "00000001"]);
            put(&server, &format!("{path}/main/wals/{history}"), "x");
        }
        let timeline = *random.pick(&["", "1", "2", "3", "11", "12"]);
        let url = format!("s3://{BUCKET}/{path}");
        let mut words = vec!["check-wal-archive", url.as_str(), "main"];
        if !timeline.is_empty() {
            words.extend(["--timeline", timeline]);
        }
        let theirs = barman.run(&words);
        match block_on(wal_archive_check(&archive(&server, &path), timeline.parse().ok())).unwrap() {
            Answer::Given(()) => assert_eq!(theirs.code, 0, "{theirs:?}"),
            Answer::Refused(refusal) => {
                assert!(
                    theirs.code == 1 && theirs.stderr.trim_end().ends_with(&refusal.text),
                    "{refusal:?} {theirs:?}"
                );
            }
        }
    }
}

#[test]
fn records_of_all_kinds_are_printed_as_barman_prints_them() {
    let server = S3Server::start();
    let Some(mut barman) = BarmanProcess::start(&server.env()) else { return };
    let mut random = Random(2026);
    for at in 0..40 {
        let path = format!("c{at}");
        let ids: BTreeSet<String> =
            (0..=random.below(3)).map(|_| format!("2026010{}T000000", random.below(9))).collect();
        let url = format!("s3://{BUCKET}/{path}");
        let infos: Vec<(String, String)> = ids.into_iter().map(|id| (id, random_info(&mut random))).collect();
        for (id, info) in &infos {
            put(&server, &format!("{path}/main/base/{id}/backup.info"), info);
            if random.chance(40) {
                put(&server, &format!("{path}/main/base/{id}/annotations/keep"), random.pick(&["full", "standalone"]));
            }
        }
        let archive = archive(&server, &path);
        let story = format!("{infos:#?}");
        let console = barman.run(&["backup-list", &url, "main"]);
        assert_eq!(listed(&archive, Format::Console).unwrap(), console.stdout, "{story}");
        let json = barman.run(&["backup-list", "--format", "json", &url, "main"]);
        assert_eq!(listed(&archive, Format::Json).unwrap(), without_end_times(&json.stdout, &infos), "{story}");
        for (id, info) in &infos {
            let record = given(block_on(find_record(&archive, id)));
            let console = barman.run(&["backup-show", &url, "main", id]);
            assert_eq!(printed(|out| output::show(out, Format::Console, &record)), console.stdout, "{story}");
            let json = barman.run(&["backup-show", "--format", "json", &url, "main", id]);
            let expected = without_end_times(&json.stdout, &[(id.clone(), info.clone())]);
            assert_eq!(printed(|out| output::show(out, Format::Json, &record)), expected, "{story}");
        }
    }
}

/// Barman's JSON with the one difference: backups that are not complete have no end time.
fn without_end_times(json: &str, infos: &[(String, String)]) -> String {
    let mut json = json.to_owned();
    for (id, info) in infos {
        let record = BackupRecord::parse(id, info).unwrap();
        if record.status().to_string() == "DONE" || record.time("end_time").is_none() {
            continue;
        }
        let marker = format!("\"backup_id\": \"{id}\"");
        let (before, after) = json.split_once(&marker).unwrap();
        let (head, tail) = before.rsplit_once("\"end_time\": \"").unwrap();
        let (_, tail) = tail.split_once('"').unwrap();
        let (iso, rest) = after.split_once(", \"end_time_iso\": \"").unwrap();
        let (_, rest) = rest.split_once('"').unwrap();
        json = format!("{head}\"end_time\": null{tail}{marker}{iso}{rest}");
    }
    json
}

const TEXTS: [&str; 8] = ["None", "", "x", "é\"\\ \u{1F600}", "none", "12", "a=b", "/srv/pg data"];
const NUMBERS: [&str; 9] = ["None", "0", "7", "007", "-3", "1_000", "1048575", "8714951", "4611686018427387904"];
const TIMES: [&str; 7] = [
    "None",
    "2026-11-23 08:37:43.237273+00:00",
    "2026-11-03 08:07:03-05:30",
    "2026-11-23 08:37:43.5+02:00",
    "2026-11-23T08:37:43Z",
    "2026-11-23 08:37:43+0200",
    "2026-11-23 08:37:43",
];
/// Barman's fields, each with values that Barman is known to read.
const FIELDS: [(&str, &[&str]); 35] = [
    ("backup_label", &["None", "'START WAL\\nx'", "\"it's\"", "''", "'é\\x01\"'", "5"]),
    ("backup_name", &TEXTS),
    ("begin_offset", &NUMBERS),
    ("begin_time", &TIMES),
    ("begin_wal", &["None", "000000010000000000000015", "x"]),
    ("begin_xlog", &["None", "0/1500028"]),
    ("children_backup_ids", &["None", "", "20260101T000000,20260102T000000"]),
    ("cluster_size", &NUMBERS),
    ("compression", &["None", "gzip", ""]),
    ("config_file", &TEXTS),
    (
        "copy_stats",
        &[
            "None",
            "{}",
            "{'copy_time': 0.4, 'total_time': 1e-05, 'b': True, 'n': None}",
            "{'copy_time': 90061.25, 'analysis_time': 61, 'x': {'16389': 1.5e+16, 'data': 0}}",
            "{'copy_time': 59, 'analysis_time': 0.25, 'a': 1, 'a': 2}",
        ],
    ),
    ("data_checksums", &["None", "on", "off", ""]),
    ("deduplicated_size", &NUMBERS),
    ("encryption", &["None", "gpg", ""]),
    ("end_offset", &NUMBERS),
    ("end_time", &TIMES),
    ("end_wal", &["None", "000000010000000000000015"]),
    ("end_xlog", &["None", "0/1500100"]),
    ("error", &["None", "", "failure uploading data (boo)"]),
    ("hba_file", &TEXTS),
    ("ident_file", &TEXTS),
    ("included_files", &["None", "[]", "()", "['/a', '/b\\'']", "('x',)", "5"]),
    ("mode", &["None", "concurrent", "postgres", ""]),
    ("parent_backup_id", &["None", "20250101T000000"]),
    ("pgdata", &TEXTS),
    ("server_name", &["None", "cloud", "", "é"]),
    ("size", &NUMBERS),
    (
        "snapshots_info",
        &[
            "None",
            "{'provider': 'gcp', 'z': 1, 'provider_info': {'project': 'p', 'z': 2}, 'snapshots': [{'mount': {'mount_point': \
             '/m'}, 'provider': {'snapshot_name': 's', 'device_name': 'd'}}, {}]}",
            "{'provider': 'aws', 'provider_info': {'region': 'r', 'account_id': '1'}, 'snapshots': [{'mount': \
             {'mount_options': 'rw', 'mount_point': '/m'}, 'provider': {'snapshot_lock_mode': 'm', 'snapshot_name': 's', \
             'device_name': 'd', 'snapshot_id': 'i'}}]}",
            "{'provider': 'azure', 'provider_info': {}, 'snapshots': [{'mount': {}, 'provider': {'lun': 10}}]}",
        ],
    ),
    ("status", &["DONE", "DONE", "DONE", "STARTED", "FAILED", "WAITING_FOR_WALS", "SYNCING", "EMPTY"]),
    ("summarize_wal", &["None", "on", "off", ""]),
    ("systemid", &["None", "7711281960404649938", ""]),
    (
        "tablespaces",
        &[
            "None",
            "[]",
            "[('ts1', 16389, '/srv/pg/ts1')]",
            "[('a', 1, '/x'), ('a_name_that_is_longer_than_its_column', 2, '/é')]",
            "[['a', '1', None]]",
        ],
    ),
    ("timeline", &NUMBERS),
    ("version", &NUMBERS),
    ("xlog_segment_size", &["16777216", "None", "1048576"]),
];

/// Some of the fields, each with one of its values.
fn random_info(random: &mut Random) -> String {
    let mut lines = Vec::new();
    for (name, values) in FIELDS {
        if random.chance(85) {
            lines.push(format!("{name}={}\n", random.pick(values)));
        }
    }
    lines.concat()
}

/// Barman deletes for good here, and so do we, each in a copy of the same bucket.
#[test]
fn the_same_objects_are_left_that_barman_leaves() {
    let theirs = S3Server::start();
    let Some(mut barman) = BarmanProcess::start(&theirs.env()) else { return };
    let ours = S3Server::start();
    for (option, word) in [("-b", "fx1"), ("-b", "last"), ("-r", "REDUNDANCY 2"), ("-r", "recovery window of 0 days")] {
        for server in [&theirs, &ours] {
            std::fs::remove_dir_all(server.object("")).unwrap();
            fixture(server);
        }
        let answer = barman.run(&["backup-delete", option, word, "s3://bkt/pfx", "main"]);
        assert_eq!((answer.code, answer.stdout.as_str()), (0, ""), "{answer:?}");
        let request = if option == "-b" { by_id(word) } else { by_policy(word) };
        let (answer, out) = run(&archive(&ours, "pfx"), &request);
        assert!(!given(answer).contains(&FX2.to_owned()) && out.is_empty());
        assert_eq!(ours.keys(), theirs.keys(), "{option} {word}");
        assert!(ours.keys().len() < 58);
    }
}
