//! `verify` passes what is whole, names what is missing or damaged, and never takes silence for damage.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Cluster, ClusterOptions, Fault, Filling, PgVersion, Postgres, S3Server, Site, TestStore, barback_binary,
    files_below, for_each_version, segment,
};

/// Where the site's objects lie on an S3 server.
const ROOT: &str = "pfx/main/";

/// A cluster with archived WAL and a backup in a directory that is a store, to be damaged and mended.
struct Archive {
    site: Site,
    cluster: Cluster,
    id: String,
}

impl Archive {
    /// One backup in uncompressed parts, some WAL before and behind it, segments of a megabyte.
    fn of(version: &PgVersion) -> Self {
        let site = Site::on_files(version);
        let options = ClusterOptions::default().wal_segment_mb(1).env("BARBACK_WAL_COMPRESSION", "none");
        let cluster = site.primary(options);
        cluster.psql("CREATE TABLE big AS SELECT n, repeat('x', 100) AS text FROM generate_series(1, 20000) AS n");
        let backup = ["backup", "--fast", "--compression", "none", "-d", &cluster.connect_string()];
        let id = site.barback(&backup).success().stdout.trim().to_owned();
        for round in 0..3 {
            cluster.psql(&format!("UPDATE big SET text = repeat('{round}', 100) WHERE n % 9 = 0"));
            cluster.archive_everything();
        }
        Self { site, cluster, id }
    }

    fn verify(&self, args: &[&str]) -> (i32, Value) {
        verify(self.site.barback(&["verify", "-o", "json"]).args(args))
    }

    /// The file of the store that holds the backup's object `name`.
    fn object(&self, name: &str) -> PathBuf {
        self.site.dir.join(format!("store/main/base/{}/{name}", self.id))
    }

    /// The names of the archived segments, ascending.
    fn segments(&self) -> Vec<String> {
        let names = files_below(&self.site.dir.join("store/main/wals"));
        let mut names: Vec<String> =
            names.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        names.retain(|name| name.len() == 24);
        names.sort();
        names
    }

    fn segment(&self, name: &str) -> PathBuf {
        self.site.dir.join(format!("store/main/wals/{}/{name}", &name[..16]))
    }

    /// The segment in which the backup begins.
    fn begin(&self) -> String {
        let index: Value = serde_json::from_slice(&std::fs::read(self.object("barback.json")).unwrap()).unwrap();
        index["begin_segment"].as_str().unwrap().to_owned()
    }

    /// Damages the file at `path` for as long as it takes to verify; expects `degree`s with `parts` in one of them.
    fn damaged(&self, path: &Path, damage: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>, args: &[&str], parts: &[&str]) {
        let whole = std::fs::read(path).unwrap();
        match damage(whole.clone()) {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let (code, answer) = self.verify(&[args, &["--no-record"]].concat());
        std::fs::write(path, whole).unwrap();
        assert_eq!((code, &answer["verdict"]), (1, &json!("fail")), "{}: {answer:#}", path.display());
        let found = findings(&answer, "damage");
        let named = found.iter().any(|finding| parts.iter().all(|part| finding.contains(part)));
        assert!(named, "no finding about {} has {parts:?}: {found:#?}", path.display());
    }
}

/// The exit code and the document of a `verify` that answered.
fn verify(run: crate::harness::Run) -> (i32, Value) {
    let finished = run.run();
    let answer = serde_json::from_str(&finished.stdout);
    (finished.code(), answer.unwrap_or_else(|error| panic!("{error}: {}{}", finished.stdout, finished.stderr)))
}

/// All findings of a degree, `object: what`.
fn findings(answer: &Value, degree: &str) -> Vec<String> {
    let of = |value: &Value| value["findings"].as_array().unwrap().clone();
    let mut all = of(answer);
    for section in ["backups", "wal"] {
        answer[section].as_array().unwrap().iter().for_each(|report| all.extend(of(report)));
    }
    all.retain(|finding| finding["degree"] == degree);
    let line =
        |finding: &Value| format!("{}: {}", finding["object"].as_str().unwrap(), finding["what"].as_str().unwrap());
    all.iter().map(line).collect()
}

fn assert_passed((code, answer): &(i32, Value)) {
    assert_eq!((*code, &answer["verdict"]), (0, &json!("pass")), "{answer:#}");
    assert_eq!(findings(answer, "damage"), [""; 0]);
    assert_eq!(findings(answer, "unknown"), [""; 0]);
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 0x20;
    bytes
}

#[test]
fn a_whole_archive_passes_and_says_how_far_it_leads() {
    for_each_version(|version| {
        let archive = Archive::of(version);
        let last_commit = archive.cluster.psql("SELECT timestamp FROM pg_last_committed_xact()");
        let quick = archive.verify(&[]);
        assert_passed(&quick);
        assert_eq!(quick.1["backups"][0]["depth"], "quick");
        let deep = archive.verify(&["--all", "--deep"]);
        assert_passed(&deep);
        let answer = deep.1;
        assert_eq!(answer["schema"], 1);
        assert_eq!(answer["backups"][0]["id"], json!(archive.id));
        assert_eq!((&answer["backups"][0]["depth"], &answer["wal"][0]["depth"]), (&json!("deep"), &json!("deep")));
        assert_eq!(findings(&answer, "notice"), [""; 0]);
        let (first, last) = (archive.begin(), archive.segments().pop().unwrap());
        assert_eq!((&answer["wal"][0]["first"], &answer["wal"][0]["last"]), (&json!(first), &json!(last)));
        let said = answer["recoverable"]["last_commit"].as_str().unwrap();
        // One writes microseconds as 457260, the other as 45726.
        let bare = |time: &str| time.replace('T', " ").trim_end_matches("+00").trim_end_matches(['Z', '0']).to_owned();
        assert_eq!(bare(said), bare(&last_commit), "{answer:#}");

        let names: Vec<String> = files_below(&archive.site.dir.join("store/main/barback/verify"))
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap()[22..].to_owned())
            .collect();
        let expected = [
            format!("-{}-quick-pass.json", archive.id),
            format!("-{}-deep-pass.json", archive.id),
            "-wal-quick-pass.json".to_owned(),
            format!("-wal.{first}.{last}-deep-pass.json"),
        ];
        assert_eq!(names.iter().collect::<BTreeSet<_>>(), expected.iter().collect::<BTreeSet<_>>());
        assert_passed(&archive.verify(&["--no-record"]));
        assert_eq!(files_below(&archive.site.dir.join("store/main/barback/verify")).len(), 4);
        // status shows it, from the names of the records alone.
        let status: Value =
            serde_json::from_str(&archive.site.barback(&["status", "-o", "json"]).run().stdout).unwrap();
        let seen = status["verifications"].as_array().unwrap();
        let is_deep =
            |seen: &Value| seen["subject"] == json!(archive.id) && seen["depth"] == "deep" && seen["verdict"] == "pass";
        assert!(seen.iter().any(is_deep) && seen.len() == 4, "{status:#}");
        // For people: a table, and one last line.
        let text = archive.site.barback(&["verify", "--deep", "--no-record"]).success().stdout;
        assert!(text.starts_with("BACKUP ") && text.lines().last().unwrap().starts_with("Passed; "), "{text}");
    });
}

#[test]
fn branches_of_timelines_pass_and_a_hole_in_one_that_was_left_is_a_notice() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let primary = site.primary(ClusterOptions::default().wal_segment_mb(1));
    primary.psql("CREATE TABLE history (row int)");
    let old = site.backup(&primary);
    primary.psql("INSERT INTO history SELECT generate_series(1, 1000)");
    let fork = primary.psql("SELECT pg_current_wal_insert_lsn()");
    let mut names = Vec::new();
    for _ in 0..4 {
        primary.psql("INSERT INTO history SELECT generate_series(1, 1000)");
        names.push(primary.archive_everything());
    }
    let args = ["--target-lsn", &fork, "--keep-archiving", "--target-action", "promote"];
    let mut second = site.restore("second", &args).cluster;
    second.start();
    second.wait_until("SELECT pg_is_in_recovery()", "f", Duration::from_mins(1));
    second.psql("INSERT INTO history SELECT generate_series(1, 1000)");
    second.archive_everything();
    let new = site.backup(&second);
    second.psql("INSERT INTO history SELECT generate_series(1, 1000)");
    second.archive_everything();

    let run = |args: &[&str]| verify(site.barback(&["verify", "-o", "json", "--no-record"]).args(args));
    let all = run(&["--all", "--deep"]);
    assert_passed(&all);
    assert_eq!(
        all.1["backups"].as_array().unwrap().iter().map(|b| &b["id"]).collect::<Vec<_>>(),
        [&json!(old), &json!(new)]
    );
    assert_eq!(all.1["recoverable"]["timeline"], 2);
    let timelines: BTreeSet<_> =
        all.1["wal"].as_array().unwrap().iter().map(|report| report["timeline"].as_u64().unwrap()).collect();
    assert_eq!(timelines, [1, 2].into());

    // The branch that was left: odd, but nothing that recovery to now would miss.
    let left = site.stored_file(&names[2]);
    let content = std::fs::read(&left).unwrap();
    std::fs::remove_file(&left).unwrap();
    let beside = run(&["--all"]);
    assert_passed(&beside);
    let notices = findings(&beside.1, "notice");
    assert_eq!(notices, [format!("{}: it is not in the archive; it belongs to a branch that was left", names[2])]);
    std::fs::write(&left, content).unwrap();

    // Without its history nobody gets onto the timeline.
    std::fs::remove_file(site.stored_file("wals/00000002.history")).unwrap();
    let (code, answer) = run(&["--all"]);
    assert_eq!(code, 1, "{answer:#}");
    let damage = findings(&answer, "damage");
    assert!(damage.iter().any(|line| line.starts_with("00000002.history: it is not in the archive")), "{damage:?}");
}

#[test]
fn every_kind_of_damage_to_a_backup_is_found_and_named() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::of(&version);
    let (data, manifest, index) =
        (archive.object("data.tar"), archive.object("backup_manifest.zst"), archive.object("barback.json"));
    archive.damaged(&data, |_| None, &[], &["data.tar: it is not there", "the index says"]);
    archive.damaged(
        &data,
        |mut bytes| {
            bytes.truncate(1 << 20);
            Some(bytes)
        },
        &[],
        &["data.tar: it is 1048576 bytes long", "the index says"],
    );
    archive.damaged(&manifest, |_| None, &[], &["backup_manifest.zst: it is not there"]);
    archive.damaged(&index, |bytes| Some(bytes[..500].to_vec()), &[], &["barback.json: could not read part index"]);
    archive.damaged(&index, |_| None, &[], &["barback.json: it is not there, though backup_manifest.zst is"]);
    let other = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        Some(text.replace("\"timeline\": \"1\"", "\"timeline\": \"3\"").into_bytes())
    };
    archive.damaged(&index, other, &[], &["barback.json: its timeline is 3, that of backup.info is 1"]);
    let info = archive.object("backup.info");
    archive.damaged(
        &info,
        |bytes| Some(bytes[..100].to_vec()),
        &["--all"],
        &["backup.info: could not read backup.info of backup"],
    );
    archive.damaged(&info, |bytes| Some(bytes[..100].to_vec()), &[&archive.id], &["backup.info: "]);

    // From here on only who reads the bytes can know.
    let length = std::fs::metadata(&data).unwrap().len();
    let middle = usize::try_from(length / 2).unwrap();
    let unseen = |path: &Path, damage: &dyn Fn(Vec<u8>) -> Vec<u8>, parts: &[&str]| {
        let whole = std::fs::read(path).unwrap();
        std::fs::write(path, damage(whole.clone())).unwrap();
        assert_passed(&archive.verify(&["--no-record"]));
        std::fs::write(path, whole).unwrap();
        archive.damaged(path, |bytes| Some(damage(bytes)), &["--deep"], parts);
    };
    unseen(&data, &|bytes| flipped(bytes, middle), &["data.tar: its SHA-256 is ", "the index says"]);
    unseen(&manifest, &|bytes| flipped(bytes, 300), &["backup_manifest.zst: ", "its SHA-256 is ", "the index says"]);

    // A foreign object is odd and no more.
    std::fs::write(archive.object("notes.txt"), "x").unwrap();
    crate::harness::give_away(&archive.object("notes.txt"));
    let quick = archive.verify(&["--no-record"]);
    assert_passed(&quick);
    assert!(findings(&quick.1, "notice")[0].contains("notes.txt: the index does not name it"));
}

/// Where the content of the file `path` begins in a tar, and how long it is.
fn member(tar: &[u8], path: &str) -> (usize, usize) {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let mut found = entries.filter(|entry| entry.path().unwrap().to_str() == Some(path));
    let entry = found.next().unwrap_or_else(|| panic!("no {path} in the tar"));
    (usize::try_from(entry.raw_file_position()).unwrap(), usize::try_from(entry.size()).unwrap())
}

/// The part that holds the member `path`.
fn part_with(archive: &Archive, path: &str) -> PathBuf {
    let parts = files_below(archive.object("").parent().unwrap());
    let mut parts = parts.into_iter().filter(|part| part.extension().is_some_and(|ending| ending == "tar"));
    let holds = |part: &PathBuf| {
        let content = std::fs::read(part).unwrap();
        let mut tar = tar::Archive::new(content.as_slice());
        tar.entries().unwrap().any(|entry| entry.unwrap().path().unwrap().to_str() == Some(path))
    };
    parts.find(holds).unwrap()
}

impl Archive {
    /// Makes the index say what the objects now are, as a faulty program or a forger would.
    fn renew_index(&self) {
        let path = self.object("barback.json");
        let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut renew = |object: &mut Value| {
            let content = std::fs::read(self.object(object["name"].as_str().unwrap())).unwrap();
            object["bytes"] = json!(content.len());
            object["sha256"] = json!(sha256(&content));
        };
        index["parts"].as_array_mut().unwrap().iter_mut().for_each(&mut renew);
        renew(&mut index["manifest"]);
        std::fs::write(path, serde_json::to_string(&index).unwrap()).unwrap();
    }

    fn manifest(&self) -> String {
        let stored = std::fs::read(self.object("backup_manifest.zst")).unwrap();
        let mut text = String::new();
        zstd::Decoder::new(stored.as_slice()).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Stores a manifest with its own checksum made anew.
    fn put_manifest(&self, text: &str) {
        let (lines, _) = text.split_once("\"Manifest-Checksum\"").unwrap();
        let text = format!("{lines}\"Manifest-Checksum\": \"{}\"}}\n", sha256(lines.as_bytes()));
        std::fs::write(self.object("backup_manifest.zst"), zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    }
}

/// An archive whose parts and manifest are changed together with everything that vouches for them.
struct Forgery {
    archive: Archive,
    /// The path of a table, and the part it is in.
    file: String,
    part: PathBuf,
    /// That part as it was, and where in it the table lies.
    whole: Vec<u8>,
    at: usize,
    length: usize,
    /// The manifest and the index as they were.
    listed: String,
    index: Vec<u8>,
}

impl Forgery {
    fn new(version: &PgVersion) -> Self {
        let archive = Archive::of(version);
        let file = archive.cluster.psql("SELECT pg_relation_filepath('big')");
        let part = part_with(&archive, &file);
        let whole = std::fs::read(&part).unwrap();
        let (at, length) = member(&whole, &file);
        let (listed, index) = (archive.manifest(), std::fs::read(archive.object("barback.json")).unwrap());
        let forgery = Self { archive, file, part, whole, at, length, listed, index };
        forgery.mend();
        forgery
    }

    /// Everything as it was; the manifest is sealed anew.
    fn mend(&self) {
        std::fs::write(&self.part, &self.whole).unwrap();
        self.archive.put_manifest(&self.listed);
        std::fs::write(self.archive.object("barback.json"), &self.index).unwrap();
        self.archive.renew_index();
        assert_passed(&self.archive.verify(&["--deep", "--no-record"]));
    }

    /// What a deep look finds once the index says what the objects now are.
    fn damage(&self) -> Vec<String> {
        self.archive.renew_index();
        let (code, answer) = self.archive.verify(&["--deep", "--no-record"]);
        assert_eq!(code, 1, "{answer:#}");
        findings(&answer, "damage")
    }

    /// Flips a byte in the table's fourth page.
    fn flip_page(&self) -> Vec<u8> {
        let content = flipped(self.whole.clone(), self.at + 3 * 8192 + 5000);
        std::fs::write(&self.part, &content).unwrap();
        content
    }
}

#[test]
fn a_file_that_is_not_the_manifests_is_named_whatever_the_index_says() {
    let Some(version) = Postgres::newest() else { return };
    let forgery = Forgery::new(&version);
    let Forgery { archive, file, whole, at, length, listed, .. } = &forgery;
    // A byte of one table: the manifest knows better, and so does the page.
    let content = forgery.flip_page();
    let damage = forgery.damage();
    let is_named = |line: &String| line.starts_with(&format!("{file}: in part ")) && line.contains("the manifest says");
    assert_eq!((damage.len(), damage.iter().filter(|line| is_named(line)).count()), (2, 1), "{damage:#?}");
    forgery.mend();

    // The same with the manifest made anew too: the page's own checksum knows better.
    forgery.flip_page();
    let crc = |bytes: &[u8]| format!("{:08x}", crc32c::crc32c(&bytes[*at..*at + *length]).swap_bytes());
    assert!(listed.contains(&crc(whole)));
    archive.put_manifest(&listed.replace(&crc(whole), &crc(&content)));
    let damage = forgery.damage();
    let page = format!("{file}: 1 of ");
    assert!(damage.len() == 1 && damage[0].starts_with(&page), "{damage:?}");
    assert!(damage[0].ends_with("pages fail their checksum: blocks 3"), "{damage:?}");
    forgery.mend();

    // The manifest lists a file that is in no part, and misses one that is in one.
    archive.put_manifest(&listed.replace("\"Path\": \"PG_VERSION\"", "\"Path\": \"PG_REVISION\""));
    let damage = forgery.damage();
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert!(damage.iter().any(|line| line.starts_with("PG_REVISION: the manifest lists it")), "{damage:?}");
    let unlisted = |line: &String| line.starts_with("PG_VERSION: part ") && line.contains("does not list it");
    assert!(damage.iter().any(unlisted), "{damage:?}");
    forgery.mend();

    // Its own checksum.
    let changed = listed.replacen("\"Size\": ", "\"Size\": 1", 1);
    let sealed = zstd::encode_all(changed.as_bytes(), 1).unwrap();
    std::fs::write(archive.object("backup_manifest.zst"), sealed).unwrap();
    let damage = forgery.damage();
    assert!(damage[0].contains("its own checksum is wrong"), "{damage:?}");
}

#[test]
fn a_damaged_control_file_and_bytes_behind_a_tar_are_found_whatever_the_index_says() {
    let Some(version) = Postgres::newest() else { return };
    let forgery = Forgery::new(&version);
    let part = part_with(&forgery.archive, "global/pg_control");
    let content = std::fs::read(&part).unwrap();
    let (at, _) = member(&content, "global/pg_control");
    std::fs::write(&part, flipped(content.clone(), at + 40)).unwrap();
    let damage = forgery.damage();
    let control = |line: &String| line.contains("global/pg_control: the control file's CRC is ");
    assert!(damage.iter().any(control), "{damage:?}");
    std::fs::write(&part, content).unwrap();
    forgery.mend();

    std::fs::write(&forgery.part, [forgery.whole.clone(), vec![1; 512]].concat()).unwrap();
    let damage = forgery.damage();
    assert!(damage.iter().any(|line| line.contains("tar archive is followed by other data")), "{damage:?}");
}

#[test]
fn every_kind_of_damage_to_wal_is_found_and_named() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::of(&version);
    let names = archive.segments();
    let (begin, last) = (archive.begin(), names.last().unwrap());
    let middle = &names[names.len() - 2];
    let path = archive.segment(middle);
    archive.damaged(&path, |_| None, &[], &[&format!("{middle}: it is not in the archive")]);
    archive.damaged(&path, |_| Some(Vec::new()), &[], &[&format!("{middle}: its object is empty: 0 bytes")]);
    archive.damaged(&path, |bytes| Some(bytes[..1 << 19].to_vec()), &[], &[middle, "it is 524288 bytes long"]);
    archive.damaged(&archive.segment(&begin), |_| None, &[], &[&begin, "the backup is not consistent without it"]);
    let before = names.iter().position(|name| *name == begin).unwrap().checked_sub(1).map(|at| names[at].clone());
    if let Some(before) = before {
        let content = std::fs::read(archive.segment(&before)).unwrap();
        std::fs::remove_file(archive.segment(&before)).unwrap();
        assert_passed(&archive.verify(&["--no-record"]));
        std::fs::write(archive.segment(&before), content).unwrap();
    }
    let deep = ["--deep"];
    archive.damaged(&path, |bytes| Some(flipped(bytes, 8192 + 200)), &deep, &[middle, "records of segment"]);
    archive.damaged(&path, |bytes| Some(bytes[..1 << 19].to_vec()), &deep, &[middle, "holds 524288 bytes"]);
    let foreign = segment(middle, 1, Filling::Compressible, 1);
    archive.damaged(
        &path,
        |_| Some(foreign),
        &deep,
        &[middle, "it is of cluster 7711281960404649938, the backups are of cluster"],
    );
    let other = std::fs::read(archive.segment(last)).unwrap();
    archive.damaged(&path, |_| Some(other), &deep, &[middle, "the file's name says segment", last]);
    let of_timeline_7 = |mut bytes: Vec<u8>| {
        bytes[4..8].copy_from_slice(&7_u32.to_le_bytes());
        Some(bytes)
    };
    archive.damaged(&path, of_timeline_7, &deep, &[middle, "the file's name says segment", "00000007"]);

    // Two objects of one segment, of which either may serve a restore.
    let second = path.with_file_name(format!("{middle}.zst"));
    std::fs::write(&second, zstd::encode_all(flipped(std::fs::read(&path).unwrap(), 9000).as_slice(), 1).unwrap())
        .unwrap();
    crate::harness::give_away(&second);
    let (code, answer) = archive.verify(&["--deep", "--no-record"]);
    assert_eq!(code, 1, "{answer:#}");
    assert!(findings(&answer, "damage")[0].contains("it holds other content than another object"), "{answer:#}");
    std::fs::remove_file(second).unwrap();
    assert_passed(&archive.verify(&["--all", "--deep"]));
}

#[test]
fn damage_within_compressed_objects_is_told_by_digests_before_anything_else() {
    let Some(version) = Postgres::newest() else { return };
    let server = S3Server::start();
    let site = Site::on_s3(&version, &server);
    let cluster = site.primary(ClusterOptions::default().wal_segment_mb(1));
    let id = site.backup(&cluster);
    let name = cluster.archive_everything();
    let run = || verify(site.barback(&["verify", "-o", "json", "--deep", "--no-record"]));
    assert_passed(&run());
    let objects = [format!("base/{id}/data.tar.zst"), format!("wals/{}/{name}.zst", &name[..16])];
    for key in objects {
        let path = server.object(&format!("{ROOT}{key}"));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, flipped(whole.clone(), whole.len() / 2)).unwrap();
        let (code, answer) = run();
        std::fs::write(&path, whole).unwrap();
        assert_eq!(code, 1, "{answer:#}");
        let damage = findings(&answer, "damage");
        let of_it: Vec<_> = damage.iter().filter(|line| line.contains(&key)).collect();
        assert_eq!(of_it.len(), 1, "{key}: {damage:#?}");
        if key.starts_with("base/") {
            assert!(of_it[0].contains("its SHA-256 is ") && of_it[0].contains("could not decompress"), "{damage:?}");
        } else {
            assert_eq!(damage.len(), 1, "{damage:#?}");
        }
    }
}

/// Story 10: a part was lost in a race of uploads, and the backup was reported complete.
#[test]
fn a_backup_that_was_called_complete_without_one_of_its_parts_is_not_called_good() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::of(&version);
    assert!(archive.site.barback(&["list"]).success().stdout.contains("DONE"));
    let parts = files_below(archive.object("").parent().unwrap());
    for part in parts.iter().filter(|part| part.extension().is_some_and(|ending| ending == "tar")) {
        let name = part.file_name().unwrap().to_str().unwrap();
        archive.damaged(part, |_| None, &[], &[&format!("/{name}: it is not there")]);
    }
}

/// Story 11: a copy of the bucket in another region lost single objects.
#[test]
fn a_copy_of_an_archive_that_lost_one_object_is_told_from_a_whole_one() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::of(&version);
    let copy = TestStore::directory();
    let root = archive.site.dir.join("store");
    for path in files_below(&root) {
        copy.write(path.strip_prefix(&root).unwrap().to_str().unwrap(), &std::fs::read(&path).unwrap());
    }
    let run = |store: &TestStore| verify(store.run(&["verify", "--all", "-o", "json", "--no-record"]));
    assert_passed(&run(&copy));
    let begin = archive.begin();
    let needed = copy.keys().into_iter().filter(|key| {
        let name = key.rsplit('/').next().unwrap();
        let is_wal = key.contains("/wals/") && name.len() == 24 && name >= begin.as_str();
        // Without backup.info there is no backup, and the last segment's absence is that of a younger archive. What only drills
        // compare with may be missing, as it is beside backups whose server was slow to answer.
        let is_needed = !["backup.info", "barback-tables.json.zst"].contains(&name);
        (is_wal && name != archive.segments().last().unwrap()) || (key.contains("/base/") && is_needed)
    });
    let needed: Vec<String> = needed.collect();
    assert!(needed.len() > 5, "{needed:?}");
    for key in needed {
        let content = copy.read(&key).unwrap().content;
        copy.remove(&key);
        let (code, answer) = run(&copy);
        let damage = findings(&answer, "damage");
        assert!(
            code == 1 && damage.iter().any(|line| line.contains(key.rsplit('/').next().unwrap())),
            "{key}: {answer:#}"
        );
        copy.write(&key, &content);
    }
    assert_passed(&verify(archive.site.barback(&["verify", "--all", "-o", "json"])));
}

/// Story 13: a WAL object of 8 MB instead of 16, found years later.
#[test]
fn a_segment_that_was_cut_in_the_store_is_found_years_before_it_is_needed() {
    let Some(version) = Postgres::newest() else { return };
    let archive = Archive::of(&version);
    let name = archive.segments().pop().unwrap();
    let path = archive.segment(&name);
    let whole = std::fs::read(&path).unwrap();
    archive.damaged(
        &path,
        |_| Some(whole[..whole.len() / 2].to_vec()),
        &[],
        &[&name, "bytes long, segments of this cluster have"],
    );
    // Compressed, the length tells nothing: the bytes do.
    std::fs::remove_file(&path).unwrap();
    let sealed = path.with_file_name(format!("{name}.zst"));
    std::fs::write(&sealed, zstd::encode_all(&whole[..whole.len() / 2], 1).unwrap()).unwrap();
    crate::harness::give_away(&sealed);
    assert_passed(&archive.verify(&["--no-record"]));
    let (code, answer) = archive.verify(&["--deep", "--no-record"]);
    let damage = findings(&answer, "damage");
    assert!(code == 1 && damage.len() == 1 && damage[0].contains("it holds 524288 bytes"), "{answer:#}");
}

#[test]
fn a_store_that_stops_answering_proves_nothing() {
    let Some(version) = Postgres::newest() else { return };
    let server = S3Server::start();
    let site = Site::on_s3(&version, &server);
    let cluster = site.primary(ClusterOptions::default().wal_segment_mb(1));
    let id = site.backup(&cluster);
    cluster.archive_everything();
    let run = |args: &[&str]| verify(site.barback(&["verify", "-o", "json", "--retry-timeout", "1"]).args(args));
    let part = format!("{ROOT}base/{id}/data.tar.zst");
    // In the middle: everything is listed, then nothing is read any more.
    let gone = part.clone();
    server.fault_when(move |seen| (seen.method == "GET" && seen.target.contains(&gone)).then_some(Fault::Status(503)));
    let (code, answer) = run(&["--deep"]);
    assert_eq!(
        (code, &answer["verdict"], &answer["stopped_by"]),
        (5, &json!("inconclusive"), &json!("store")),
        "{answer:#}"
    );
    assert_eq!(findings(&answer, "damage"), [""; 0]);
    assert!(findings(&answer, "unknown").iter().any(|line| line.contains("data.tar.zst")), "{answer:#}");
    server.heal();

    // One object that may not be read is not known; the others are.
    let denied = part.clone();
    server
        .fault_when(move |seen| (seen.method == "GET" && seen.target.contains(&denied)).then_some(Fault::Status(403)));
    let (code, answer) = run(&["--deep"]);
    assert_eq!((code, &answer["stopped_by"]), (5, &Value::Null), "{answer:#}");
    assert_eq!(findings(&answer, "unknown").len(), 1, "{answer:#}");
    assert_eq!(answer["wal"][0]["verdict"], "pass");
    // Damage that is proved outweighs it.
    let manifest = server.object(&format!("{ROOT}base/{id}/backup_manifest.zst"));
    let content = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    let (code, answer) = run(&["--deep"]);
    assert_eq!((code, findings(&answer, "damage").len(), findings(&answer, "unknown").len()), (1, 1, 1), "{answer:#}");
    std::fs::write(&manifest, content).unwrap();
    server.heal();

    // Who cannot list has learned nothing and says so as every command does.
    server.refuse_all(503);
    let finished = site.barback(&["verify", "--retry-timeout", "1"]).run();
    assert_eq!(finished.code(), 2, "{}", finished.stderr);
    server.heal();

    // A backup that somebody deletes meanwhile was not damaged.
    let (root, of) = (server.root(), format!("{ROOT}base/{id}/"));
    let part_key = part.clone();
    server.fault_when(move |seen| {
        if seen.method == "GET" && seen.target.contains(&part_key) {
            let _ = std::fs::remove_dir_all(root.join("bkt").join(&of));
        }
        None
    });
    let (code, answer) = run(&["--deep"]);
    assert_eq!(code, 5, "{answer:#}");
    assert!(findings(&answer, "unknown")[0].contains("the backup was deleted while it was looked at"), "{answer:#}");
}

#[test]
fn what_may_not_be_recorded_is_said_and_what_could_not_be_is_an_error() {
    let store = TestStore::s3(S3Server::start());
    put_fixture(&store);
    let refuse = |status| {
        move |seen: &crate::harness::Seen| {
            (seen.method == "PUT" && seen.target.contains("/barback/verify/")).then_some(Fault::Status(status))
        }
    };
    store.server().fault_when(refuse(403));
    let finished = store.run(&["verify", "--retry-timeout", "1"]).run();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert!(finished.stderr.contains("the verification is not recorded"), "{}", finished.stderr);
    store.server().fault_when(refuse(503));
    let finished = store.run(&["verify", "--retry-timeout", "1"]).run();
    assert_eq!(finished.code(), 2, "{}", finished.stderr);
    assert!(finished.stdout.contains("Passed; "), "{}", finished.stdout);
    store.server().forget_requests();
    store.run(&["verify", "--no-record"]).success();
    assert_eq!(store.server().count("PUT"), 0);
}

#[test]
fn a_run_that_was_interrupted_is_gone_on_with() {
    let store = TestStore::s3(S3Server::start());
    put_fixture(&store);
    // Slow enough to be caught in the middle; the records of what is through tell how far it is.
    let run = ["verify", "--all", "--deep", "--max-age", "30d", "--max-rate", "400KiB", "-o", "json"];
    let running = store.run(&run).start();
    let done = || store.keys().into_iter().filter(|key| key.contains("-deep-pass.json")).count();
    let begun = Instant::now();
    while done() < 2 {
        assert!(begun.elapsed() < Duration::from_mins(1), "nothing was recorded");
        std::thread::sleep(Duration::from_millis(20));
    }
    running.signal(Signal::TERM);
    let finished = running.wait();
    assert_eq!(finished.code(), 5, "{}", finished.stderr);
    let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&answer["verdict"], &answer["stopped_by"]), (&json!("inconclusive"), &json!("signal")), "{answer:#}");
    let before = done();
    let rest = verify(store.run(&["verify", "--all", "--deep", "--max-age", "30d", "-o", "json"]));
    assert_passed(&rest);
    let passed = rest.1["backups"].as_array().unwrap().iter().filter(|backup| backup["passed_at"].is_string()).count();
    assert!((1..4).contains(&passed), "{rest:#?}");
    assert!(done() > before);
    // All of it passed by now: nothing is read again.
    store.server().forget_requests();
    let again = verify(store.run(&["verify", "--all", "--deep", "--max-age", "30d", "-o", "json"]));
    assert_passed(&again);
    let read: Vec<_> = store
        .server()
        .requests()
        .into_iter()
        .filter(|seen| seen.method == "GET" && seen.target.contains(".tar"))
        .collect();
    assert!(read.is_empty(), "{read:?}");
}

#[test]
fn a_run_whose_time_is_up_says_what_is_left() {
    let store = TestStore::s3(S3Server::start());
    put_fixture(&store);
    let words = ["verify", "--all", "--deep", "--max-duration", "2s", "--max-rate", "400KiB", "-o", "json"];
    let (code, answer) = verify(store.run(&words));
    assert_eq!(answer["stopped_by"], "time", "{answer:#}");
    assert!(answer["left"].as_u64().unwrap() >= 1);
    assert_eq!(findings(&answer, "unknown"), [""; 0], "{answer:#}");
    let got_anywhere = store.keys().iter().any(|key| key.contains("-deep-pass"));
    assert_eq!(code, if got_anywhere { 0 } else { 5 }, "{answer:#}");
}

#[test]
fn a_daily_share_goes_round_everything() {
    let store = TestStore::directory();
    put_fixture(&store);
    let passed = |store: &TestStore| {
        let names = store.keys().into_iter().filter_map(|key| {
            Some(key.rsplit('/').next()?.strip_suffix("-deep-pass.json")?.split_once('-')?.1.to_owned())
        });
        names.collect::<BTreeSet<String>>()
    };
    let mut rounds = 0;
    loop {
        let before = passed(&store).len();
        let (code, answer) =
            verify(store.run(&["verify", "--all", "--deep", "--sample", "25%", "--max-age", "1d", "-o", "json"]));
        assert_eq!(code, 0, "{answer:#}");
        if answer["left"] == 0 {
            break;
        }
        rounds += 1;
        assert!(passed(&store).len() > before && rounds < 5, "{answer:#}");
    }
    let seen = passed(&store);
    for id in ["20261123T083817", "20261123T083822", "20261123T083826", "20261123T083832"] {
        assert!(seen.contains(id), "{seen:?}");
    }
    assert!(seen.iter().filter(|name| name.starts_with("wal.")).count() >= 2, "{seen:?}");
}

#[test]
fn a_bucket_that_barman_wrote_passes_and_its_holes_are_seen() {
    let store = TestStore::directory();
    put_fixture(&store);
    let run = |args: &[&str]| verify(store.run(&["verify", "-o", "json", "--no-record"]).args(args));
    let deep = run(&["--all", "--deep"]);
    assert_passed(&deep);
    assert_eq!(deep.1["backups"].as_array().unwrap().len(), 4);
    assert_eq!(deep.1["recoverable"]["timeline"], 2);
    assert_passed(&run(&["fx3"]));
    for (key, expected) in [
        ("data_0002.tar.gz", "data: part 2 is not there, though part 5 is"),
        ("data.tar.gz", "data: part 0 is not there"),
        ("16389.tar.gz", "16389: no part of tablespace 16389 is there"),
    ] {
        let key = format!("main/base/20261123T083817/{key}");
        let content = store.read(&key).unwrap().content;
        store.remove(&key);
        let (code, answer) = run(&["fx1"]);
        let damage = findings(&answer, "damage");
        assert!(code == 1 && damage.iter().any(|line| line.contains(expected)), "{key}: {answer:#}");
        store.write(&key, &content);
    }
    // The last part is missed by who reads: it holds the control file.
    store.remove("main/base/20261123T083817/data_0005.tar.gz");
    assert_passed(&run(&["fx1"]));
    let (code, answer) = run(&["fx1", "--deep"]);
    let damage = findings(&answer, "damage");
    assert!(code == 1 && damage[0].contains("global/pg_control: no part holds it"), "{answer:#}");
}

#[test]
fn names_that_lead_nowhere_and_words_that_do_not_fit_are_refused() {
    let store = TestStore::directory();
    put_fixture(&store);
    for (words, code) in [
        (vec!["verify", "20200101T000000"], 1),
        (vec!["verify", "fx1", "--all"], 3),
        (vec!["verify", "--sample", "5%"], 3),
        (vec!["verify", "--deep", "--sample", "0%"], 3),
        (vec!["verify", "--jobs", "0"], 3),
    ] {
        let finished = store.run(&words).run();
        assert_eq!(finished.code(), code, "{words:?}: {}", finished.stderr);
    }
    let empty = TestStore::directory();
    empty.write("main/wals/x", b"x");
    assert_eq!(empty.run(&["verify", "--all"]).run().code(), 1);
}

#[test]
fn reading_takes_little_memory_and_a_stranger_does_no_harm() {
    assert!(barback_binary().is_file());
    let store = TestStore::directory();
    put_fixture(&store);
    store.write("main/wals/00000001FFFFFFFF/00000001FFFFFFFF000000FF", b"x");
    store.write("main/barback/verify/not a record", b"x");
    let finished = store.run(&["verify", "--all", "--deep", "--no-record", "--jobs", "2", "-o", "json"]).run();
    let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(finished.code(), 1, "{answer:#}");
    assert!(
        answer["finding_counts"]["notice"].as_u64().unwrap() + answer["finding_counts"]["damage"].as_u64().unwrap()
            > 1_000_000
    );
    assert!(findings(&answer, "damage").len() + findings(&answer, "notice").len() < 3000);
    assert!(finished.peak_rss_kib < 150 << 10, "{} KiB", finished.peak_rss_kib);
}

/// What barman-cloud 3.19.1 wrote.
fn put_fixture(store: &TestStore) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1/bucket/pfx");
    for path in files_below(&root) {
        store.write(path.strip_prefix(&root).unwrap().to_str().unwrap(), &std::fs::read(&path).unwrap());
    }
}
