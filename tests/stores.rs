//! One kit for every store: what archiving and restoring WAL means does not depend on where the objects lie.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::path::{Path, PathBuf};

use crate::harness::{
    ClusterOptions, Filling, Object, Postgres, Run, SYSTEM_IDENTIFIER, TestDir, TestStore, check_pgbench,
    for_each_store, id_of, list_backups, restore_copy, running_cluster, segment, start_copy, take_backup,
};

/// Each codec with its suffix in Barman's layout and the first bytes of its container.
const CODECS: [(&str, &str, &[u8]); 7] = [
    ("none", "", b""),
    ("gzip", ".gz", b"\x1f\x8b"),
    ("bzip2", ".bz2", b"BZh"),
    ("xz", ".xz", b"\xfd7zXZ\0"),
    ("zstd", ".zst", b"\x28\xb5\x2f\xfd"),
    ("lz4", ".lz4", b"\x04\x22\x4d\x18"),
    ("snappy", ".snappy", b"\xff\x06\0\0sNaPpY"),
];

const SEGMENT: &str = "00000001000000A5000000FE";
/// Where Barman puts it.
const SEGMENT_KEY: &str = "main/wals/00000001000000A5/00000001000000A5000000FE";

#[test]
fn every_codec_brings_every_kind_of_file_back_from_its_barman_key() {
    let files: [(&str, &str, Vec<u8>); 4] = [
        (SEGMENT, "00000001000000A5/00000001000000A5000000FE", segment(SEGMENT, 1, Filling::Compressible, 1)),
        (
            "00000002000000A5000000FF.partial",
            "00000002000000A5/00000002000000A5000000FF.partial",
            segment("00000002000000A5000000FF", 1, Filling::Noise, 2),
        ),
        ("0000000C.history", "0000000C.history", b"1\tA5/FE000000\tno recovery target specified\n".to_vec()),
        (
            "00000001000000A5000000FE.00000028.backup",
            "00000001000000A5/00000001000000A5000000FE.00000028.backup",
            b"START WAL LOCATION: A5/FE000028 (file 00000001000000A5000000FE)\n".to_vec(),
        ),
    ];
    for_each_store(|store| {
        let mut expected = Vec::new();
        for (codec, suffix, magic) in CODECS {
            for (name, below, content) in &files {
                let file = local_file(store, name, content);
                store.run(&["wal-archive", "--server", codec, "--compression", codec]).arg(file).success();
                let key = format!("{codec}/wals/{below}{suffix}");
                let object = store.read(&key).unwrap_or_else(|| panic!("{key} is not in {:?}", store.keys()));
                assert!(object.content.starts_with(magic), "{key} begins with {:x?}", &object.content[..8]);
                assert!(codec != "none" || object.content == *content, "{key} is not the file itself");
                expected.push(key);
                // Both the right guess and a wrong one find it.
                for guess in [codec, "zstd"] {
                    let back = restore(store, name, &["--server", codec, "--compression", guess], 0);
                    assert!(std::fs::read(&back).unwrap() == *content, "{name} came back changed from {codec}");
                }
            }
        }
        expected.sort();
        assert_eq!(store.wal_keys(), expected);
    });
}

#[test]
fn segments_of_16_and_64_megabytes_come_back_byte_for_byte() {
    let codecs =
        |megabytes| CODECS.iter().filter(move |(codec, ..)| megabytes == 16 || matches!(*codec, "none" | "zstd"));
    for_each_store(|store| {
        for (megabytes, name) in [(16, SEGMENT), (64, "00000001000000A50000001E")] {
            let content = segment(name, megabytes, Filling::Compressible, 1);
            for (codec, ..) in codecs(megabytes) {
                let file = local_file(store, name, &content);
                store.run(&["wal-archive", "--server", codec, "--compression", codec]).arg(file).success();
                let back = restore(store, name, &["--server", codec, "--compression", codec], 0);
                assert!(std::fs::read(&back).unwrap() == content, "{name} came back changed from {codec}");
            }
        }
    });
}

#[test]
fn objects_on_s3_carry_digest_length_and_system_identifier_of_their_content() {
    for_each_store(|store| {
        let file = local_file(store, SEGMENT, &segment(SEGMENT, 1, Filling::Compressible, 1));
        store.run(&["wal-archive"]).arg(&file).success();
        let history = local_file(store, "00000002.history", b"1\t0/5000000\twhy\n");
        store.run(&["wal-archive"]).arg(&history).success();
        if !store.is_s3() {
            return;
        }
        let expected = |path: &Path, length: u64| {
            vec![
                ("barback-length".to_owned(), length.to_string()),
                ("barback-sha256".to_owned(), sha256(path)),
                ("barback-system-identifier".to_owned(), SYSTEM_IDENTIFIER.to_string()),
            ]
        };
        assert_eq!(read(store, &format!("{SEGMENT_KEY}.zst")).metadata, expected(&file, 1 << 20));
        // A history does not tell its cluster.
        assert_eq!(read(store, "main/wals/00000002.history.zst").metadata, expected(&history, 16)[..2]);
    });
}

#[test]
fn the_same_content_again_is_a_success_and_other_content_an_error_and_the_object_stays() {
    for_each_store(|store| {
        let key = format!("{SEGMENT_KEY}.zst");
        let file = local_file(store, SEGMENT, &segment(SEGMENT, 1, Filling::Compressible, 1));
        let first = sha256(&file);
        store.run(&["wal-archive"]).arg(&file).success();
        let object = read(store, &key);

        store.run(&["wal-archive"]).arg(&file).success();
        // Other bytes of the same content: the level is nobody's business.
        store.run(&["wal-archive", "--compression-level", "9"]).arg(&file).success();
        assert_eq!(read(store, &key), object);

        let file = local_file(store, SEGMENT, &segment(SEGMENT, 1, Filling::Compressible, 2));
        let second = sha256(&file);
        let refused = store.run(&["wal-archive"]).arg(&file).run().expect_code(4);
        assert!(refused.stderr.contains(&first) && refused.stderr.contains(&second), "{}", refused.stderr);
        assert!(refused.stderr.contains("HINT: "), "{}", refused.stderr);
        assert_eq!(read(store, &key), object);
        assert_eq!(store.wal_keys(), [key]);
    });
}

#[test]
fn an_object_that_barman_wrote_is_compared_by_its_content() {
    for_each_store(|store| {
        let content = segment(SEGMENT, 1, Filling::Compressible, 1);
        store.write(SEGMENT_KEY, &content);
        let object = read(store, SEGMENT_KEY);
        let archive = |content: &[u8]| {
            store.run(&["wal-archive", "--compression", "none"]).arg(local_file(store, SEGMENT, content)).run()
        };
        archive(&content).expect_code(0);
        archive(&segment(SEGMENT, 1, Filling::Compressible, 2)).expect_code(4);
        assert_eq!(read(store, SEGMENT_KEY), object);
    });
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_refused_and_nothing_is_stored() {
    let good = segment(SEGMENT, 1, Filling::Compressible, 1);
    let other = segment("00000001000000A5000000FD", 1, Filling::Compressible, 1);
    let timeline = segment("00000002000000A5000000FE", 1, Filling::Compressible, 1);
    let zeroes = vec![0; 1 << 20];
    let longer = [good.as_slice(), &[0; 8192]].concat();
    let cases: [(&str, &[u8], i32, &str); 12] = [
        (SEGMENT, &good[..good.len() / 2], 4, "524288 bytes long, its header says 1048576"),
        (SEGMENT, &longer, 4, "its header says 1048576"),
        (SEGMENT, b"", 4, "header"),
        (SEGMENT, &zeroes, 4, "magic"),
        (SEGMENT, &other, 4, "00000001000000A5000000FD"),
        (SEGMENT, &timeline, 4, "00000002000000A5000000FE"),
        ("00000001000000A5000000FE.partial", &other, 4, "00000001000000A5000000FD"),
        ("00000002.history", b"nonsense\n", 4, "nonsense"),
        ("00000001000000A5000000FE.00000028.backup", b"nonsense\n", 4, "backup history"),
        ("archive_status", &good, 3, "does not end in the name of a WAL file"),
        ("00000001000000A5000000FE.done", &good, 3, "does not end in the name of a WAL file"),
        ("00000001000000A5000000FG", &good, 3, "does not end in the name of a WAL file"),
    ];
    for_each_store(|store| {
        for (name, content, code, says) in cases {
            let file = local_file(store, name, content);
            let refused = store.run(&["wal-archive"]).arg(file).run().expect_code(code);
            assert!(refused.stderr.contains(says), "{name}: {}", refused.stderr);
            assert!(refused.stdout.is_empty());
        }
        store.run(&["wal-archive", &format!("/nowhere/{SEGMENT}")]).run().expect_code(4);
        assert_eq!(store.keys(), Vec::<String>::new());
    });
}

#[test]
fn a_segment_that_is_not_there_is_absent_and_its_partial_stands_in_only_then() {
    let whole = segment(SEGMENT, 1, Filling::Compressible, 1);
    let partial = segment(SEGMENT, 1, Filling::Compressible, 2);
    for_each_store(|store| {
        // An empty directory may be the mount point of an archive that is not mounted.
        let absent = restore(store, SEGMENT, &[], if store.is_s3() { 1 } else { 255 });
        assert!(!absent.exists());
        // A neighbour whose name begins alike is not it.
        store.write("main/wals/00000001000000A5/00000001000000A5000000FE.00000028.backup", b"START WAL LOCATION: ");
        store.write(&format!("{SEGMENT_KEY}.tmp"), &whole);
        assert!(!restore(store, SEGMENT, &[], 1).exists());

        store.write(&format!("{SEGMENT_KEY}.partial"), &partial);
        assert!(std::fs::read(restore(store, SEGMENT, &[], 0)).unwrap() == partial);
        assert!(std::fs::read(restore(store, &format!("{SEGMENT}.partial"), &[], 0)).unwrap() == partial);

        // In the order of keys `.partial` comes before `.snappy`, `.xz` and `.zst`, and after the others.
        for (codec, suffix, _) in CODECS {
            let file = local_file(store, SEGMENT, &whole);
            store.run(&["wal-archive", "--compression", codec]).arg(file).success();
            for (guess, ..) in CODECS {
                let back = restore(store, SEGMENT, &["--compression", guess], 0);
                assert!(std::fs::read(back).unwrap() == whole, "the .partial won over {codec} when {guess} was tried");
            }
            store.remove(&format!("{SEGMENT_KEY}{suffix}"));
        }
        assert!(!restore(store, "00000003.history", &[], 1).exists());
    });
}

#[test]
fn a_damaged_object_is_unknown_and_never_reaches_the_destination() {
    for_each_store(|store| {
        for (codec, suffix, _) in CODECS {
            let key = format!("{SEGMENT_KEY}{suffix}");
            // In content that repeats itself a flipped bit may still name the same bytes, which is then no damage.
            let file = local_file(store, SEGMENT, &segment(SEGMENT, 1, Filling::Noise, 1));
            store.run(&["wal-archive", "--compression", codec]).arg(file).success();
            let Object { content, .. } = read(store, &key);
            let flipped = |at: usize| {
                let mut content = content.clone();
                content[at] ^= 0x10;
                content
            };
            let mut damages = vec![("half of it", content[..content.len() / 2].to_vec()), ("nothing", Vec::new())];
            if codec != "none" {
                // Without metadata and without a codec nothing but the header protects a byte in the middle.
                damages.push(("a flipped bit in the middle", flipped(content.len() / 2)));
                damages.push(("a flipped bit at the end", flipped(content.len() - 2)));
            }
            damages.push(("a flipped bit in its header", flipped(if codec == "none" { 8 } else { 1 })));
            for (what, damaged) in damages {
                store.write(&key, &damaged);
                let back = restore(store, SEGMENT, &["--compression", codec], 255);
                assert!(!back.exists(), "{codec}, {what}: it was delivered");
            }
            store.write(&key, &content);
            restore(store, SEGMENT, &["--compression", codec], 0);
            store.remove(&key);
        }
        // Whole, but another segment's.
        store.write(SEGMENT_KEY, &segment("00000001000000A5000000FD", 1, Filling::Compressible, 1));
        assert!(!restore(store, SEGMENT, &[], 255).exists());
    });
}

#[test]
fn a_destination_that_cannot_be_written_is_unknown_and_not_absent() {
    for_each_store(|store| {
        let file = local_file(store, SEGMENT, &segment(SEGMENT, 1, Filling::Compressible, 1));
        store.run(&["wal-archive"]).arg(file).success();
        let closed = store.dir.create_dir("closed");
        std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
        let into = |path: PathBuf| store.run(&["wal-restore", SEGMENT]).arg(path).run().expect_code(255);
        let refused = into(closed.join("RECOVERYXLOG"));
        assert!(refused.stderr.contains("could not write file"), "{}", refused.stderr);
        into(store.dir.join("not/there"));
        assert_eq!(std::fs::read_dir(&closed).unwrap().count(), 0);
        // What restore_command cannot mean is not the end of WAL either.
        store.run(&["wal-restore", "nonsense"]).arg(store.dir.join("x")).run().expect_code(255);
        store.run(&["wal-restore", SEGMENT]).run().expect_code(255);
    });
}

#[test]
fn a_directory_that_is_missing_is_unreachable_and_only_its_last_part_is_ever_made() {
    let store = TestStore::directory();
    let file = local_file(&store, SEGMENT, &segment(SEGMENT, 1, Filling::Compressible, 1));
    let at = |below: &str| format!("file://{}", store.dir.join(below).display());
    let archive = |url: &str| store.run(&["wal-archive", "--store", url]).arg(&file).run();

    for command in [vec!["wal-restore", SEGMENT, "/nowhere"], vec!["wal-restore", "00000002.history", "/nowhere"]] {
        let refused = store.run(&command).args(["--store", &at("unmounted")]).run().expect_code(255);
        assert!(refused.stderr.contains("unmounted"), "{}", refused.stderr);
    }
    store.run(&["list", "--store", &at("unmounted")]).run().expect_code(2);
    store.run(&["show", "latest", "--store", &at("unmounted")]).run().expect_code(2);
    assert!(!store.dir.join("unmounted").exists(), "reading creates nothing");

    archive(&at("unmounted/archive")).expect_code(2);
    assert!(!store.dir.join("unmounted").exists());
    archive(&at("fresh")).expect_code(0);
    let back = restore(&store, SEGMENT, &["--store", &at("fresh")], 0);
    assert!(std::fs::read(back).unwrap() == std::fs::read(&file).unwrap());
    // A file in the directory's place, and a directory that lets nobody in, are no archives.
    let taken = format!("file://{}", store.dir.write("taken", "").display());
    archive(&taken).expect_code(2);
    restore(&store, SEGMENT, &["--store", &taken], 255);
    let closed = store.dir.create_dir("closed");
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    restore(&store, SEGMENT, &["--store", &at("closed")], 255);
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn a_backup_is_taken_listed_and_restored_in_parts_and_in_one_piece() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 1);
    for_each_store(|store| {
        let env = store.env();
        // Without compression the data is several parts of the smallest size long.
        let backup = take_backup(&cluster, &env, &["--compression", "none", "--part-size", "5MiB", "--jobs", "2"]);
        assert_eq!(list_backups(&env).len(), 1);
        let mut copy = restore_copy(&store.dir, "copy", &version, &env, &["--backup", &id_of(&backup)]);
        start_copy(&mut copy);
        check_pgbench(&copy);
        copy.stop("immediate");
    });
}

/// A file of that name for barback to archive.
fn local_file(store: &TestStore, name: &str, content: &[u8]) -> PathBuf {
    store.dir.create_dir("pg_wal");
    store.dir.write(&format!("pg_wal/{name}"), content)
}

/// Restores `name` to a path that did not exist; the path.
fn restore(store: &TestStore, name: &str, options: &[&str], code: i32) -> PathBuf {
    let destination = store.dir.create_dir("restored").join("RECOVERYXLOG");
    let _ = std::fs::remove_file(&destination);
    store.run(&["wal-restore", name]).arg(&destination).args(options).run().expect_code(code);
    let beside = std::fs::read_dir(destination.parent().unwrap()).unwrap().count();
    assert_eq!(beside, usize::from(code == 0), "nothing is left beside the destination");
    destination
}

fn read(store: &TestStore, key: &str) -> Object {
    store.read(key).unwrap_or_else(|| panic!("{key} is not in {:?}", store.keys()))
}

/// By another program than ours.
fn sha256(path: &Path) -> String {
    let said = Run::new("/usr/bin/sha256sum").arg(path).success().stdout;
    said.split_whitespace().next().unwrap().to_owned()
}
