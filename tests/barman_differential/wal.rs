//! WAL archived by one and restored by the other, in every way to store it.

use std::fs;

use super::bucket;
use super::duel::{Duel, Seen, listing};
use crate::harness::{Face, Filling, Minio, S3Server, TestDir, segment};

const PLACE: [&str; 2] = ["s3://bkt/pfx", "main"];
const CODECS: [(&str, &str); 7] = [
    ("", ""),
    ("--gzip", ".gz"),
    ("--bzip2", ".bz2"),
    ("--xz", ".xz"),
    ("--snappy", ".snappy"),
    ("--zstd", ".zst"),
    ("--lz4", ".lz4"),
];

#[test]
fn what_one_archives_the_other_restores_in_every_codec() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    for (archiver, restorer) in both_ways(&duel) {
        bucket::empty(&server);
        for (at, (option, suffix)) in CODECS.into_iter().enumerate() {
            let name = format!("0000000100000000000000{at:02X}");
            let filling = if at % 2 == 0 { Filling::Compressible } else { Filling::Noise };
            let content = segment(&name, 1, filling, at as u64);
            duel.dir.write(&name, &content);
            let options = (!option.is_empty()).then_some(option);
            let archive = options.into_iter().chain(PLACE).chain([name.as_str()]).collect::<Vec<_>>();
            quiet(&duel.call(&archiver, &[], "wal-archive", &archive));
            let key = format!("pfx/main/wals/0000000100000000/{name}{suffix}");
            assert!(server.keys().contains(&key), "{key}: {:?}", server.keys());
            restore(&duel, &restorer, &[], &name, &content);
        }
    }
}

#[test]
fn every_level_of_a_codec_is_read_by_the_other() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(bucket::forgetful(server.env())) else { return };
    let levels: [(&str, &[&str]); 5] = [
        ("--gzip", &["low", "HIGH", "99"]),
        ("--bzip2", &["high"]),
        ("--xz", &["low", "9"]),
        ("--zstd", &["high", "-7", "22"]),
        ("--lz4", &["high", "16"]),
    ];
    let name = "000000010000000000000005";
    let content = segment(name, 1, Filling::Compressible, 1);
    duel.dir.write(name, &content);
    let theirs = Face::Theirs(duel.barman.clone());
    for (codec, levels) in levels {
        for level in levels {
            bucket::empty(&server);
            let options = [codec, "--compression-level", level];
            quiet(&duel.call(&Face::Ours, &[], "wal-archive", &[&options, &PLACE[..], &[name]].concat()));
            restore(&duel, &theirs, &[], name, &content);
        }
    }
}

#[test]
fn histories_labels_and_partial_segments_lie_at_the_same_keys() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(bucket::forgetful(server.env())) else { return };
    let mut duel = duel.prepared_by(|_| bucket::empty(&server)).looking_at(|_| bucket::keys(&server));
    let files = small_files(&duel.dir);
    for option in ["", "--gzip", "--zstd"] {
        for (name, _) in &files {
            let options = (!option.is_empty()).then_some(option);
            let archive = options.into_iter().chain(PLACE).chain([*name]).collect::<Vec<_>>();
            duel.same("wal-archive", &archive);
        }
    }
    duel.end();
}

#[test]
fn histories_and_partial_segments_are_restored_alike() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let files = small_files(&duel.dir);
    for (name, _) in &files {
        let theirs = Face::Theirs(duel.barman.clone());
        quiet(&duel.call(&theirs, &[], "wal-archive", &[&["--gzip"], &PLACE[..], &[name]].concat()));
    }
    let without = |dir: &TestDir| _ = fs::remove_file(dir.join("restored/to"));
    duel.dir.create_dir("restored");
    let mut duel = duel.prepared_by(without).looking_at(|dir| listing(&dir.join("restored")));
    for (name, content) in &files {
        let seen = duel.same("wal-restore", &[&PLACE[..], &[name, "restored/to"]].concat());
        assert_eq!(seen.left.is_empty(), seen.code != 0, "{name}: {seen:?}");
        assert!(seen.code != 0 || fs::read(duel.dir.join("restored/to")).unwrap() == *content, "{name}");
    }
    // Asked for the whole segment where only a part of it is archived: that part, unless forbidden.
    for options in [&[][..], &["--no-partial"]] {
        duel.same("wal-restore", &[options, &PLACE[..], &["000000010000000000000007", "restored/to"]].concat());
    }
    // A path is no name.
    duel.same("wal-restore", &[&PLACE[..], &["pg_wal/000000010000000000000006", "restored/to"]].concat());
    duel.end();
}

#[test]
fn the_fixture_is_restored_alike_whatever_it_holds() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    bucket::fill(&server, &bucket::fixture());
    let names =
        ["12", "13", "14", "15", "16", "17", "18", "1D", "20"].map(|end| format!("0000000100000000000000{end}"));
    let others =
        ["00000002.history", "000000020000000000000020", "000000010000000000000020.partial", "00000003.history"];
    for name in names.iter().map(String::as_str).chain(others) {
        let [theirs, ours] = duel.barman.both().map(|face| {
            let _ = fs::remove_file(duel.dir.join("to"));
            // One of them is a copy of another timeline's segment, made by hand.
            let env = [("BARBACK_BARMAN_QUIRKS", "unchecked-wal")];
            let seen = duel.call(&face, &env, "wal-restore", &[&PLACE[..], &[name, "to"]].concat());
            (seen, fs::read(duel.dir.join("to")).ok())
        });
        assert_eq!(theirs.0, ours.0, "{name}");
        assert!(theirs.1 == ours.1, "{name}");
    }
}

#[test]
fn a_spool_is_filled_and_emptied_by_both() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let theirs = Face::Theirs(duel.barman.clone());
    let names: Vec<String> = (5..9).map(|at| format!("0000000100000000000000{at:02X}")).collect();
    for name in &names {
        duel.dir.write(name, segment(name, 1, Filling::Compressible, 7));
        quiet(&duel.call(&theirs, &[], "wal-archive", &[&["--lz4"], &PLACE[..], &[name]].concat()));
    }
    for face in duel.barman.both() {
        let spool = duel.dir.join("spool");
        let _ = fs::remove_dir_all(&spool);
        let options = ["-p", "3", "--spool-dir", "spool"];
        server.forget_requests();
        for name in &names {
            restore(&duel, &face, &options, name, &fs::read(duel.dir.join(name)).unwrap());
        }
        // Each object is fetched once, and none is left behind.
        let fetched =
            server.requests().iter().filter(|seen| seen.method == "GET" && seen.target.contains(".lz4")).count();
        assert_eq!((fetched, listing(&spool)), (names.len(), String::new()), "{}", face.name());
    }
}

#[test]
fn a_spool_that_cannot_be_used_keeps_barman_from_delivering_and_not_us() {
    let server = S3Server::start();
    let Some(mut duel) = Duel::new(server.env()) else { return };
    let theirs = Face::Theirs(duel.barman.clone());
    for name in ["000000010000000000000005", "000000010000000000000006"] {
        duel.dir.write(name, segment(name, 1, Filling::Compressible, 7));
        quiet(&duel.call(&theirs, &[], "wal-archive", &[&PLACE[..], &[name]].concat()));
    }
    duel.dir.write("file", "where a directory should be");
    let words = ["--spool-dir", "file/spool", PLACE[0], PLACE[1], "000000010000000000000005", "to"];
    for parallel in ["0", "1"] {
        duel.same("wal-restore", &[&["-p", parallel], &words[..]].concat());
    }
    let fetching_ahead = [&["-p", "2"], &words[..]].concat();
    for (face, code) in duel.barman.both().into_iter().zip([2, 0]) {
        let _ = fs::remove_file(duel.dir.join("to"));
        let seen = duel.call(&face, &[], "wal-restore", &fetching_ahead);
        assert_eq!((seen.code, duel.dir.join("to").exists()), (code, code == 0), "{}: {seen:?}", face.name());
    }
    duel.end();
}

#[test]
fn an_archive_call_may_be_repeated_and_other_content_replaces_only_where_asked() {
    let server = S3Server::start();
    // s3s-fs hangs up after it refused an object, at times under the request that follows on the same connection.
    let patient = [("BARBACK_RETRY_TIMEOUT_S".to_owned(), "5".to_owned())];
    let Some(duel) = Duel::new(server.env().into_iter().chain(patient).collect()) else { return };
    let name = "000000010000000000000005";
    let archive = [&["--gzip"], &PLACE[..], &[name]].concat();
    let write = |seed| duel.dir.write(name, segment(name, 1, Filling::Compressible, seed));
    let object = || fs::read(server.object(&format!("pfx/main/wals/0000000100000000/{name}.gz"))).unwrap();
    for face in duel.barman.both() {
        bucket::empty(&server);
        write(1);
        quiet(&duel.call(&face, &[], "wal-archive", &archive));
        quiet(&duel.call(&face, &[], "wal-archive", &archive));
        let first = object();
        write(2);
        let seen = duel.call(&face, &[], "wal-archive", &archive);
        match face {
            // Barman 3.19.1 replaces it and says nothing.
            Face::Theirs(_) => assert!(seen.code == 0 && object() != first, "{seen:?}"),
            Face::Ours => {
                assert!(seen.code == 4 && object() == first, "{seen:?}");
                quiet(&duel.call(&face, &[("BARBACK_BARMAN_QUIRKS", "overwrite-wal")], "wal-archive", &archive));
                assert!(object() != first);
            }
        }
    }
    // Not even a whole segment is asked for.
    duel.dir.write(name, "not WAL");
    for face in duel.barman.both() {
        bucket::empty(&server);
        let quirk = [("BARBACK_BARMAN_QUIRKS", "unchecked-wal")];
        quiet(&duel.call(&face, &quirk, "wal-archive", &archive));
        let plain = duel.call(&face, &[], "wal-archive", &archive);
        assert_eq!(plain.code, if matches!(face, Face::Ours) { 4 } else { 0 }, "{plain:?}");
    }
}

#[test]
fn a_whole_segment_wins_over_a_part_of_it_unless_barman_s_order_is_asked_for() {
    let server = S3Server::start();
    let Some(duel) = Duel::new(server.env()) else { return };
    let theirs = Face::Theirs(duel.barman.clone());
    let name = "000000010000000000000005";
    let (whole, part) = (segment(name, 1, Filling::Compressible, 1), segment(name, 1, Filling::Compressible, 2));
    for (file, content) in [(name.to_owned(), &whole), (format!("{name}.partial"), &part)] {
        duel.dir.write(&file, content);
        quiet(&duel.call(&theirs, &[], "wal-archive", &[&["--zstd"], &PLACE[..], &[&file]].concat()));
    }
    let spool = ["--spool-dir", "spool"];
    let delivered = |face: &Face, env: &[(&str, &str)]| {
        let _ = fs::remove_dir_all(duel.dir.join("spool"));
        quiet(&duel.call(face, env, "wal-restore", &[&spool, &PLACE[..], &[name, "to"]].concat()));
        fs::read(duel.dir.join("to")).unwrap()
    };
    assert!(delivered(&theirs, &[]) == part);
    assert!(delivered(&Face::Ours, &[]) == whole);
    assert!(delivered(&Face::Ours, &[("BARBACK_BARMAN_QUIRKS", "partial-order")]) == part);
}

#[test]
fn tags_are_put_on_objects_alike() {
    // s3s-fs has no tags.
    let Some(minio) = Minio::start() else { return };
    let Some(duel) = Duel::new(minio.env()) else { return };
    duel.dir.write("00000002.history", "1\t0/5000000\tno recovery target specified\n");
    let name = "000000010000000000000005";
    duel.dir.write(name, segment(name, 1, Filling::Compressible, 1));
    let cases: [(&[&str], &str); 5] = [
        (&["--tags", "team,dba", "a b,\"c d\""], name),
        (&["--tag", "team,dba", "--tag", " key , value "], name),
        (&["--tags", "team,dba", "--history-tags", "kind,history"], "00000002.history"),
        (&["--tags", "team,dba", "--history-tags", "kind,history"], name),
        (&["--history-tag", "kind,history"], "00000002.history"),
    ];
    for (at, (tags, file)) in cases.into_iter().enumerate() {
        let [theirs, ours] = duel.barman.both().map(|face| {
            let server = format!("{}{at}", face.name());
            quiet(&duel.call(&face, &[], "wal-archive", &[tags, &["--", "s3://bkt/pfx", &server, file]].concat()));
            let directory = if file == name { "0000000100000000/" } else { "" };
            tags_of(&duel, &minio, &format!("pfx/{server}/wals/{directory}{file}"))
        });
        assert_eq!(theirs, ours, "{tags:?} {file}");
        assert_ne!(theirs, "[]", "{tags:?} {file}");
    }
}

/// The tags of an object as Barman's own SDK reads them.
fn tags_of(duel: &Duel<'_>, minio: &Minio, key: &str) -> String {
    let script = "import boto3, sys; print(sorted((tag['Key'], tag['Value']) for tag in \
                  boto3.client('s3').get_object_tagging(Bucket='bkt', Key=sys.argv[1])['TagSet']))";
    let python = crate::harness::Run::new(duel.barman.bindir().join("python3"));
    python.args(["-c", script, key]).envs(&minio.env()).success().stdout.trim_end().to_owned()
}

fn both_ways(duel: &Duel<'_>) -> [(Face, Face); 2] {
    let [theirs, ours] = duel.barman.both();
    [(theirs.clone(), ours.clone()), (ours, theirs)]
}

fn quiet(seen: &Seen) {
    assert_eq!((seen.code, seen.out.as_str(), &seen.said), (0, "", &Vec::new()));
}

/// Restores `name` to `to`, which must be `content`.
fn restore(duel: &Duel<'_>, face: &Face, options: &[&str], name: &str, content: &[u8]) {
    let to = duel.dir.join("to");
    let _ = fs::remove_file(&to);
    quiet(&duel.call(face, &[], "wal-restore", &[options, &PLACE[..], &[name, "to"]].concat()));
    assert!(fs::read(&to).unwrap() == content, "{name} by {}", face.name());
}

/// All that PostgreSQL archives beside segments, and one segment.
fn small_files(dir: &TestDir) -> Vec<(&'static str, Vec<u8>)> {
    let segment_bytes = |name: &str| segment(&name[..24], 1, Filling::Compressible, 3);
    let label = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n";
    let files = vec![
        ("00000002.history", b"1\t0/5000000\tno recovery target specified\n".to_vec()),
        ("0000000A.history", b"1\t0/5000000\tno recovery target specified\n".to_vec()),
        ("000000010000000000000006.00000028.backup", label.as_bytes().to_vec()),
        ("000000010000000000000007.partial", segment_bytes("000000010000000000000007")),
        ("00000001000000000000000A", segment_bytes("00000001000000000000000A")),
    ];
    for (name, content) in &files {
        dir.write(name, content);
    }
    files
}
