//! One look at what a server's prefix holds: nothing is missed, nothing is guessed, and not every small object is read each time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use barback::commands::survey::{Survey, survey};
use barback::domain::barman_retention::Keep;
use barback::error::ErrorKind;

use crate::harness::{TestDir, TestStore, archive_of, block_on, for_each_store, store_options};

const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n";

fn look(store: &TestStore) -> Survey {
    block_on(async { survey(&archive_of(store.options()).await).await }).unwrap()
}

/// Looks, and lets the next look profit from it.
fn look_and_remember(store: &TestStore) -> Survey {
    block_on(async {
        let archive = archive_of(store.options()).await;
        let seen = survey(&archive).await.unwrap();
        seen.remember(&archive).await;
        seen
    })
}

fn info(status: &str, begin: &str) -> String {
    format!("status={status}\ntimeline=1\nbegin_xlog=0/{begin}\nsystemid=7\n")
}

fn write_backups(store: &TestStore, count: usize) {
    for day in 0..count {
        store.write(&format!("main/base/202601{:02}T000000/backup.info", day + 1), info("DONE", "2000028").as_bytes());
    }
}

#[test]
fn everything_below_the_prefix_is_seen_once_and_sorted_by_what_it_is() {
    for_each_store(|store| {
        store.write("main/base/20260101T000000/backup.info", info("DONE", "2000028").as_bytes());
        store.write("main/base/20260101T000000/data.tar.zst", b"12345");
        store.write("main/base/20260101T000000/annotations/keep", b"standalone");
        store.write("main/base/20260102T000000/backup.info", b"no backup at all");
        store.write("main/base/20260103T000000/data.tar", b"left behind");
        store.write("main/wals/0000000100000000/000000010000000000000002.gz", b"wal");
        store.write("main/wals/0000000100000000/000000010000000000000003", b"");
        store.write("main/wals/0000000100000000/000000010000000000000004.partial", b"wal");
        store.write("main/wals/00000002.history", HISTORY.as_bytes());
        store.write("main/wals/00000003.history", b"nonsense");
        store.write("main/wals/notes.txt", b"a stranger");
        store.write("main/barback/identity.json", b"{}");
        store.write("main/other/thing", b"a stranger");
        store.write("mainly/wals/0000000100000000/000000010000000000000009", b"of another server");

        let seen = look(store);
        let [backup] = &seen.backups[..] else { panic!("{:?}", seen.backups) };
        assert_eq!(backup.backup.id.as_str(), "20260101T000000");
        assert_eq!(backup.keep, Some(Keep::Standalone));
        assert_eq!(backup.objects.len(), 3);
        assert_eq!(backup.stored_bytes(), info("DONE", "2000028").len() as u64 + 5 + 10);
        let [(id, error)] = &seen.unreadable[..] else { panic!("{:?}", seen.unreadable) };
        assert_eq!((id.as_str(), error.kind()), ("20260102T000000", ErrorKind::Corrupt));
        let [leftover] = &seen.leftovers[..] else { panic!("{:?}", seen.leftovers) };
        assert_eq!((leftover.id.as_str(), leftover.objects.len()), ("20260103T000000", 1));
        assert!(seen.wal.contains("000000010000000000000002".parse().unwrap()));
        assert!(!seen.wal.contains("000000010000000000000003".parse().unwrap()), "an empty object is no segment");
        assert!(!seen.wal.contains("000000010000000000000009".parse().unwrap()), "it is another server's");
        assert_eq!(
            seen.empty_wal,
            [format!("{}main/wals/0000000100000000/000000010000000000000003", if store.is_s3() { "pfx/" } else { "" })]
        );
        assert_eq!(seen.histories.keys().map(|timeline| timeline.number()).collect::<Vec<_>>(), [2]);
        assert_eq!(seen.unreadable_histories.len(), 1);
        assert_eq!(seen.ours.len(), 1);
        assert_eq!(seen.stranger_count, 2, "{:?}", seen.strangers);
        assert_eq!(seen.wal_objects, 5);
    });
}

#[test]
fn an_archive_that_is_not_mounted_is_not_an_empty_one() {
    let dir = TestDir::new();
    let root = dir.create_dir("archive");
    let options = store_options(&format!("file://{}", root.display()), []);
    let error = block_on(async { survey(&archive_of(options).await).await }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[test]
fn what_was_read_once_is_not_read_again_until_it_changes() {
    for_each_store(|store| {
        write_backups(store, 28);
        store.write("main/base/20260107T000000/annotations/keep", b"full");
        let seen = look_and_remember(store);
        assert_eq!((seen.backups.len(), seen.texts_read()), (28, 29));
        let seen = look_and_remember(store);
        // s3s-fs does not say in a listing which content it lists: there nothing is believed to be the same.
        let lists_e_tags = seen.backups[0].objects[0].e_tag.is_some();
        let read = |few: usize, all: usize| if lists_e_tags { few } else { all };
        assert_eq!((seen.backups.len(), seen.texts_read()), (28, read(0, 29)));
        assert_eq!(seen.backups[6].keep, Some(Keep::Full));

        store.write("main/base/20260107T000000/annotations/keep", b"standalone");
        store.write("main/base/20260105T000000/backup.info", info("FAILED", "2000028").as_bytes());
        store.remove("main/base/20260102T000000/backup.info");
        let seen = look_and_remember(store);
        assert_eq!((seen.backups.len(), seen.texts_read()), (27, read(2, 28)));
        assert_eq!(seen.backups[3].backup.status.to_string(), "FAILED");
        assert_eq!(seen.backups[5].keep, Some(Keep::Standalone));

        store.write("main/barback/catalogue.json.zst", b"no cache");
        let seen = look(store);
        assert_eq!((seen.backups.len(), seen.texts_read()), (27, 28), "a damaged cache is none");
    });
}

#[test]
fn many_directories_of_wal_are_listed_side_by_side_and_each_object_once() {
    for_each_store(listed_once);
}

fn listed_once(store: &TestStore) {
    let name = |log: u32, number: u32| format!("{:08X}{log:08X}{number:08X}", 1);
    for log in 0..70 {
        for number in [0, 7, 0xFF] {
            store.write(&format!("main/wals/{:08X}{log:08X}/{}.gz", 1, name(log, number)), b"wal");
        }
    }
    store.write("main/wals/00000002.history", HISTORY.as_bytes());
    // Fifteen digits are how a log's directory begins, and neither one nor a part of one.
    for stranger in ["000000010000000/x", "000000010000000Z", "notes/x", "0000000100000001/sub/x"] {
        store.write(&format!("main/wals/{stranger}"), b"a stranger");
    }
    let seen = look(store);
    assert_eq!(seen.stranger_count, 4, "{:?}", seen.strangers);
    assert_eq!(seen.wal_objects, 70 * 3 + 1);
    assert_eq!(seen.wal_bytes, 70 * 3 * 3 + HISTORY.len() as u64);
    for log in 0..70 {
        assert!([0, 7, 0xFF].iter().all(|number| seen.wal.contains(name(log, *number).parse().unwrap())), "{log}");
    }
}
