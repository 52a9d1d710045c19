//! Archives that somebody forged: whatever their bytes say, a restore writes nothing outside its directories, does not die of
//! it, and leaves nothing that starts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use barback::codec::digest::Sha256;

use crate::harness::{Finished, Run, S3Server, TestStore, barback, files_below, give_away, snapshot};

/// The backup of the fixture whose record is kept and whose parts are forged.
const BACKUP: &str = "20261123T083832";

/// What a data directory needs at least, and what any of these backups has.
const ORDINARY: [(&str, &[u8]); 4] =
    [("PG_VERSION", b"15\n"), ("backup_label", b"x\n"), ("base/5/1259", b"table"), ("global/pg_control", b"control")];

#[test]
fn an_ordinary_backup_of_this_making_is_restored() {
    let forged = Forged::new();
    forged.part("data.tar", &ordinary(&[]));
    for (face, run) in forged.restores("copy", &[]) {
        run.success();
        let copy = forged.store.dir.join(format!("copy-{face}"));
        for (name, content) in ORDINARY {
            assert_eq!(std::fs::read(copy.join(name)).unwrap(), content, "{face}: {name}");
        }
    }
}

#[test]
fn members_that_climb_out_are_refused_and_nothing_is_written_outside() {
    let forged = Forged::new();
    let outside = forged.canary.display().to_string();
    let kept = format!("{outside}/kept");
    let door = || link(b'2', "door", &outside);
    let tricks: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("upwards", vec![file("../canary/x", b"x")], "leads upwards"),
        ("upwards from within", vec![file("base/../../canary/x", b"x")], "leads upwards"),
        ("upwards by a long name", vec![long_name(b'L', b"../canary/x\0"), file("short", b"x")], "leads upwards"),
        ("upwards by pax", vec![pax(b"path", b"../canary/x"), file("short", b"x")], "leads upwards"),
        ("a directory upwards", vec![member("../canary/", b'5', "", 0, b"")], "leads upwards"),
        ("absolute", vec![file(&format!("{outside}/x"), b"x")], "is absolute"),
        ("absolute by pax", vec![pax(b"path", kept.as_bytes()), file("short", b"x")], "is absolute"),
        ("a link upwards", vec![link(b'2', "../canary/x", "/etc/hostname")], "leads upwards"),
        ("through a link", vec![door(), file("door/x", b"x")], "could not write file"),
        ("a relation through a link", vec![door(), file("door/16384", b"x")], "could not write file"),
        ("a directory through a link", vec![door(), member("door/x/", b'5', "", 0, b"")], "could not write file"),
        ("a link through a link", vec![door(), link(b'2', "door/x", "/etc/hostname")], "is a symbolic link"),
        ("a hard link to the outside", vec![link(b'1', "x", &kept)], "is absolute"),
        ("a hard link upwards", vec![link(b'1', "x", "../canary/kept")], "leads upwards"),
        ("a hard link through a link", vec![door(), link(b'1', "x", "door/kept")], "could not write file"),
        ("a hard link to a link", vec![link(b'2', "l", &kept), link(b'1', "x", "l")], "could not write file"),
        ("a hard link to a directory", vec![link(b'1', "x", "base")], "no regular file"),
        ("pg_wal a link", vec![link(b'2', "pg_wal", &outside)], "is a symbolic link"),
        ("pg_tblspc a link", vec![link(b'2', "pg_tblspc", &outside)], "is a symbolic link"),
        ("backup_label a link", vec![link(b'2', "backup_label", &kept)], "is no regular file"),
        ("the control file a link", vec![link(b'2', "global/pg_control", &kept)], "the control file is no link"),
        ("the control file linked", vec![link(b'1', "global/pg_control", "PG_VERSION")], "the control file is no link"),
    ];
    for (what, members, why) in tricks {
        forged.part("data.tar", &ordinary(&members));
        forged.refused(what, &[], why);
    }
}

#[test]
fn a_link_that_another_part_makes_is_no_way_out() {
    let forged = Forged::new();
    let outside = forged.canary.display().to_string();
    for (first, second) in [
        (link(b'2', "door", &outside), file("door/x", b"x")),
        (file("door/x", b"x"), link(b'2', "door", &outside)),
        (link(b'2', "door", &outside), file("door/16384", b"x")),
    ] {
        forged.part("data.tar", &ordinary(&[first]));
        forged.part("data_0001.tar", &tar_of(&[second]));
        forged.refused("a link in another part", &["--jobs", "2"], "could not write file");
    }
    // The directory of the control file, of which no member is in our way.
    forged.part("data.tar", &tar_of(&[file("PG_VERSION", b"15\n"), link(b'2', "global", &outside)]));
    forged.part("data_0001.tar", &tar_of(&[file("backup_label", b"x\n"), file("global/pg_control", b"control")]));
    forged.refused("the control file's directory", &[], "is a symbolic link, and nothing is written through one");
}

#[test]
fn names_that_are_there_as_two_things_are_refused() {
    let forged = Forged::new();
    let directory = |name: &str| member(&format!("{name}/"), b'5', "", 0, b"");
    for (what, members, why) in [
        ("a file, then a directory", [file("conf", b"x"), directory("conf")], "is no directory"),
        ("a relation, then a directory", [file("base/7", b"x"), directory("base/7")], "is no directory"),
        ("a directory, then a file", [directory("conf"), file("conf", b"x")], "could not write file"),
        ("a directory, then a relation", [directory("base/7"), file("base/7", b"x")], "is no regular file"),
        ("a file below a file", [file("conf", b"x"), file("conf/x", b"x")], "is no directory"),
        ("a directory, then a link", [directory("conf"), link(b'2', "conf", "/etc")], "could not write file"),
    ] {
        forged.part("data.tar", &ordinary(&members));
        forged.refused(what, &[], why);
    }
}

#[test]
fn lengths_and_names_that_lie_are_refused() {
    let forged = Forged::new();
    let mut endless = ordinary(&[]);
    endless.truncate(endless.len() - 2 * 512);
    let smuggled = [pax(b"size", b"0"), member("innocent", b'0', "", 512, &file("../canary/x", b"")[..512])].concat();
    let deep = "a/".repeat(3000);
    let tricks: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a size beyond the end", sized("x", *b"77777777777\0"), "cut short"),
        ("a size beyond all", sized("x", *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), "cut short"),
        ("a relation beyond all", sized("base/9", *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), "cut short"),
        ("a size too large for a number", sized("x", *b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "size"),
        ("a negative size", sized("x", [0xff; 12]), "impossible size"),
        ("a size that is none", sized("x", *b"99999999999\0"), "size"),
        ("a negative size by pax", [pax(b"size", b"-1"), file("x", b"x")].concat(), "impossible size"),
        ("a huge size by pax", [pax(b"size", b"9223372036854775807"), file("x", b"x")].concat(), "cut short"),
        ("a member hidden by pax", smuggled, "leads upwards"),
        ("sparse, GNU's old way", member("x", b'S', "", 0, b""), "sparse"),
        ("sparse, by pax", [pax(b"GNU.sparse.realsize", b"99999999"), file("x", b"x")].concat(), "sparse"),
        ("a directory with content", member("d/", b'5', "", 512, &[b'x'; 512]), "has 512 bytes of content"),
        ("a link with content", member("l", b'2', "x", 512, &[b'x'; 512]), "has 512 bytes of content"),
        ("a name too long for a file", [long_name(b'L', &[b'n'; 300]), file("x", b"x")].concat(), "too long"),
        ("a name of megabytes", long_name(b'L', &vec![b'n'; 2 << 20]), "the limit is"),
        ("a path without end", [pax(b"path", format!("{deep}x").as_bytes()), file("x", b"x")].concat(), "too long"),
        ("a NUL in a name", [pax(b"path", b"a\0b"), file("x", b"x")].concat(), "NUL byte"),
        ("no name", member("", b'0', "", 0, b""), "is empty"),
        ("the root as a file", member(".", b'0', "", 0, b""), "root directory"),
        ("headers without a member", pax(b"path", b"x").repeat(20), "extended headers"),
        ("a kind that nobody knows", member("x", b'Z', "", 0, b""), "unknown type"),
        ("a large control file", member("global/pg_control", b'0', "", 100 << 10, &[0; 100 << 10]), "bytes"),
        ("what is no tar", vec![b'x'; 4096], "tar"),
    ];
    for (what, members, why) in tricks {
        forged.part("data.tar", &ordinary(&[members]));
        forged.refused(what, &[], why);
    }
    forged.part("data.tar", &endless);
    forged.refused("no end", &[], "its end mark is missing");
    forged.part("data.tar", &[ordinary(&[]), vec![b'x'; 512]].concat());
    forged.refused("more behind the end", &[], "followed by other data");
}

#[test]
fn links_devices_and_names_that_come_twice_do_no_harm() {
    let forged = Forged::new();
    let kept = forged.canary.join("kept").display().to_string();
    let secret = forged.store.dir.write("secret", "data_directory = '/secret'\n").display().to_string();
    forged.part(
        "data.tar",
        &ordinary(&[
            member("block", b'4', "", 0, b""),
            member("character", b'3', "", 0, b""),
            member("fifo", b'6', "", 0, b""),
            link(b'2', "own", &kept),
            file("own", b"a file\n"),
            file("twice", b"first\n"),
            file("twice", b"second\n"),
            link(b'2', "recovery.conf", &kept),
            link(b'2', "postgresql.conf", &secret),
            link(b'2', "postgresql.auto.conf", &secret),
            link(b'2', "recovery.signal", &kept),
            link(b'2', "elsewhere", &kept),
        ]),
    );
    let before = snapshot(&forged.canary);
    let copy = forged.store.dir.join("copy");
    let restored = forged.native(&copy).success();
    assert!(restored.stderr.contains("\"fifo\" is left out"), "{}", restored.stderr);
    let read = |name: &str| std::fs::read_to_string(copy.join(name)).unwrap();
    assert_eq!((read("own"), read("twice")), ("a file\n".to_owned(), "second\n".to_owned()));
    let stands = |name: &str| copy.join(name).symlink_metadata().ok().map(|facts| facts.file_type());
    for name in ["block", "character", "fifo", "recovery.conf", "recovery.signal"] {
        assert!(stands(name).is_none(), "{name}");
    }
    for name in ["own", "postgresql.auto.conf"] {
        assert!(stands(name).unwrap().is_file(), "{name}");
    }
    // What a link leads to is read by nobody but PostgreSQL, as its own user.
    assert!(stands("postgresql.conf").unwrap().is_symlink() && restored.stderr.contains("postgresql.conf"));
    assert!(!read("postgresql.auto.conf").contains("secret"));
    assert_eq!(snapshot(&forged.canary), before);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "data_directory = '/secret'\n");
    // For recovery, what may stand behind the link is overruled.
    let recovering = forged.store.dir.join("recovering");
    forged.store.run(&["restore", "--backup", BACKUP]).arg(&recovering).success();
    let settings = std::fs::read_to_string(recovering.join("postgresql.auto.conf")).unwrap();
    assert!(settings.contains("recovery_target_xid = ''"), "{settings}");
}

#[test]
fn a_tablespace_goes_to_no_place_of_the_system_on_the_word_of_a_backup() {
    let forged = Forged::new();
    forged.part("data.tar", &ordinary(&[]));
    forged.part("16389.tar", &tar_of(&[file("PG_15_202209061/5/16390", b"table")]));
    let way = forged.store.dir.join("way");
    symlink("/etc", &way).unwrap();
    let behind_a_link = format!("{}/new", way.display());
    for place in [
        "/",
        "/etc",
        "/etc/cron.d",
        "/usr/lib/x",
        "/proc/self",
        "/dev/shm/x",
        "/run/x",
        "/srv/../etc/x",
        "//etc",
        "",
        "relative",
        "../x",
        "/var/spool/cron/x",
        &behind_a_link,
    ] {
        forged.tablespaces(&format!("[('ts1', 16389, '{place}')]"));
        forged.refused(place, &[], "could not use directory");
        forged.refused(place, &["--plan"], "could not use directory");
        assert!(!Path::new(place).join("PG_15_202209061").exists(), "{place}");
    }
    // The operator's word counts; links in it are followed.
    std::fs::remove_file(&way).unwrap();
    symlink(forged.store.dir.create_dir("real"), &way).unwrap();
    for (face, run) in forged.restores("mapped", &[]) {
        let separator = if face == "native" { '=' } else { ':' };
        let target = way.join(face);
        run.args(["--tablespace", &format!("ts1{separator}{}", target.display())]).success();
        assert_eq!(std::fs::read(target.join("PG_15_202209061/5/16390")).unwrap(), b"table");
    }
}

#[test]
fn tablespaces_that_get_into_each_other_s_way_are_refused() {
    let forged = Forged::new();
    forged.part("data.tar", &ordinary(&[]));
    for oid in ["16389", "16390"] {
        forged.part(&format!("{oid}.tar"), &tar_of(&[file("PG_15_202209061/5/16390", b"table")]));
    }
    let at = |name: &str| forged.store.dir.join(name).display().to_string();
    let (one, inner, data) = (at("one"), at("one/inner"), at("copy"));
    for (what, places, why) in [
        ("one directory for two", [("a", 16389, &one), ("b", 16390, &one)], "would share"),
        ("one OID for two", [("a", 16389, &one), ("b", 16389, &inner)], "two tablespaces of OID 16389"),
        ("one in the other", [("a", 16389, &one), ("b", 16390, &inner)], "lies in that of"),
        ("one in the other, backwards", [("a", 16389, &inner), ("b", 16390, &one)], "lies in that of"),
        ("in the data directory", [("a", 16389, &at("copy/x")), ("b", 16390, &one)], "lie in one another"),
        ("the data directory", [("a", 16389, &data), ("b", 16390, &one)], "lie in one another"),
        ("above the data directory", [("a", 16389, &at("")), ("b", 16390, &one)], "it is not empty"),
    ] {
        let places = places.map(|(name, oid, place)| format!("('{name}', {oid}, '{place}')"));
        forged.tablespaces(&format!("[{}]", places.join(", ")));
        let refused = forged.native(Path::new(&data)).run();
        assert!(refused.code() != 0 && refused.stderr.contains(why), "{what}: {refused:?}");
        assert!(!Path::new(&one).exists() && !Path::new(&data).exists(), "{what}: something was made");
    }
    forged.tablespaces(&format!("[('a', 16389, '{}')]", forged.canary.display()));
    forged.refused("a directory with something in it", &[], "not empty");
}

#[test]
fn a_tablespace_holds_nothing_that_others_would_read_where_it_lies() {
    let forged = Forged::new();
    let place = forged.store.dir.join("place");
    forged.part("data.tar", &ordinary(&[]));
    forged.tablespaces(&format!("[('ts1', 16389, '{}')]", place.display()));
    for (what, bad) in [
        ("a file", file("authorized_keys", b"ssh-rsa")),
        ("a file below a directory", file("cron.d/x", b"* * * * *")),
        ("a directory", member("conf.d/", b'5', "", 0, b"")),
        ("a link", link(b'2', "PG_link", "/etc/hostname")),
        ("a file with the name", file("PG_15_202209061", b"x")),
    ] {
        let good = file("PG_15_202209061/5/16390", b"table");
        forged.part("16389.tar", &tar_of(&[member("./", b'5', "", 0, b""), good, bad]));
        forged.refused(what, &[], "nothing but PG_* directories");
    }
}

#[test]
fn a_part_that_unpacks_to_more_than_its_index_says_is_stopped_there() {
    let forged = Forged::new();
    let bomb = ordinary(&[member("base/5/16384", b'0', "", 256 << 20, &vec![0; 256 << 20])]);
    let packed = zstd::encode_all(&bomb[..], 1).unwrap();
    assert!(packed.len() < 100_000, "{}", packed.len());
    forged.part("data.tar.zst", &packed);
    forged.index(&packed, 1 << 20);
    let copy = forged.store.dir.join("copy");
    let refused = forged.native(&copy).run();
    assert!(refused.code() != 0 && refused.stderr.contains("unpacks to more than the 1048576 bytes"), "{refused:?}");
    assert!(std::fs::metadata(copy.join("base/5/16384")).unwrap().len() <= 1 << 20);
    assert!(!copy.join("global/pg_control").exists());
    // One that says so is held against the free space before anything is written.
    forged.index(&packed, 1 << 60);
    let refused = forged.native(&forged.store.dir.join("copy-2")).run();
    assert!(refused.code() != 0 && refused.stderr.contains("are free there"), "{refused:?}");
    assert!(!forged.store.dir.join("copy-2").exists());
}

#[test]
fn members_without_end_and_without_content_take_no_memory() {
    let forged = Forged::new();
    let mut members = vec![member("base/5/", b'5', "", 0, b"").repeat(20_000)];
    members.extend((0..5_000).map(|number| file(&format!("log/{number}.log"), b"")));
    members.push(file("same", b"").repeat(5_000));
    let archive = zstd::encode_all(&ordinary(&members)[..], 1).unwrap();
    forged.part("data.tar.zst", &archive);
    let copy = forged.store.dir.join("copy");
    let restored = forged.native(&copy).success();
    let peak_mib = restored.peak_rss_kib >> 10;
    assert!(peak_mib < 150, "{peak_mib} MiB");
    assert_eq!(std::fs::read_dir(copy.join("log")).unwrap().count(), 5_000);
    // Links are kept in memory until all else is there, so there is a limit.
    forged.part("data.tar.zst", &zstd::encode_all(&ordinary(&[link(b'2', "x", "y").repeat(10_001)])[..], 1).unwrap());
    forged.refused("links without end", &[], "more than 10000 links");
}

#[test]
fn a_hostile_record_is_an_error_and_no_crash() {
    let forged = Forged::new();
    forged.part("data.tar", &ordinary(&[]));
    let text = |value: &str| format!("status=DONE\ntablespaces={value}\n").into_bytes();
    for (what, record) in [
        ("nothing", Vec::new()),
        ("zeros", vec![0; 4096]),
        ("no text", vec![0xff; 4096]),
        ("a megabyte too many", vec![b'#'; (1 << 20) + 1]),
        ("brackets without end", text(&"[".repeat(100_000))),
        ("parentheses without end", text(&"(".repeat(100_000))),
        ("a number without end", text(&format!("[('a', {}, '/x')]", "9".repeat(10_000)))),
        ("a negative OID", text("[('a', -1, '/srv/x')]")),
        ("no tablespace", text("[('a', 16389)]")),
        ("a string without end", text("[('a")),
        ("numbers for names", text("[(1, 2, 3)]")),
    ] {
        forged.record(&record);
        forged.refused(what, &[], "");
        let shown = forged.store.run(&["show", BACKUP]).run();
        assert!(shown.code() < 100, "{what}: {shown:?}");
    }
}

/// A bucket with the fixture's WAL and one backup, whose record and parts a test forges, and a directory that must stay as it is.
struct Forged {
    store: TestStore,
    canary: PathBuf,
    info: String,
}

impl Forged {
    fn new() -> Self {
        let store = TestStore::s3(S3Server::start());
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1/bucket/pfx");
        for path in files_below(&root.join("main/wals")) {
            store.write(path.strip_prefix(&root).unwrap().to_str().unwrap(), &std::fs::read(&path).unwrap());
        }
        let info = std::fs::read_to_string(root.join(format!("main/base/{BACKUP}/backup.info"))).unwrap();
        let canary = store.dir.create_dir("canary");
        std::fs::write(canary.join("kept"), "kept").unwrap();
        give_away(&canary.join("kept"));
        let forged = Self { store, canary, info };
        forged.tablespaces("[]");
        forged
    }

    fn object(&self, name: &str, content: &[u8]) {
        self.store.write(&format!("main/base/{BACKUP}/{name}"), content);
    }

    fn part(&self, name: &str, content: &[u8]) {
        self.object(name, content);
    }

    fn record(&self, content: &[u8]) {
        self.object("backup.info", content);
    }

    fn tablespaces(&self, literal: &str) {
        let lines = self.info.lines().map(|line| match line.split_once('=') {
            Some(("tablespaces", _)) => format!("tablespaces={literal}\n"),
            _ => format!("{line}\n"),
        });
        self.record(lines.collect::<String>().as_bytes());
    }

    /// An index of the one part `packed`, which says that it unpacks to `content_bytes`.
    fn index(&self, packed: &[u8], content_bytes: u64) {
        let part = serde_json::json!({
            "name": "data.tar.zst", "bytes": packed.len(), "sha256": Sha256::of(packed).to_string(),
            "content_bytes": content_bytes, "files": 5,
        });
        let index = serde_json::json!({
            "schema": 1, "backup_id": BACKUP, "system_identifier": "7711281960404649938", "server_version": "150020",
            "timeline": "1", "begin_lsn": "0/1B00028", "end_lsn": "0/1B00100", "compression": "zstd",
            "begin_segment": "00000001000000000000001B", "end_segment": "00000001000000000000001B",
            "parts": [part], "manifest": null,
        });
        self.object("barback.json", index.to_string().as_bytes());
    }

    fn native(&self, directory: &Path) -> Run {
        self.store.run(&["restore", "--backup", BACKUP, "--no-recovery"]).arg(directory)
    }

    /// Through both faces, each into a directory of its own.
    fn restores(&self, name: &str, native_only: &[&str]) -> [(&'static str, Run); 2] {
        let directory = |face: &str| self.store.dir.join(format!("{name}-{face}"));
        let barman = barback(&["barman-cloud-restore", "s3://bkt/pfx", "main", BACKUP]).envs(&self.store.env());
        [("native", self.native(&directory("native")).args(native_only)), ("barman", barman.arg(directory("barman")))]
    }

    /// Refused through both faces with a text that holds `why`: nothing is outside that was not, and nothing starts.
    fn refused(&self, what: &str, native_only: &[&str], why: &str) {
        let before = snapshot(&self.canary);
        for (face, run) in self.restores("copy", native_only) {
            let refused: Finished = run.run();
            let copy = self.store.dir.join(format!("copy-{face}"));
            let text = &refused.stderr;
            // A signal ends above 128; of panics the harness knows.
            assert!((1..100).contains(&refused.code()), "{face}, {what}: {refused:?}");
            assert!(text.contains(why), "{face}, {what}: \"{why}\" is not said: {text}");
            assert!(!copy.join("global/pg_control").is_file(), "{face}, {what}: the copy can start");
            assert_eq!(snapshot(&self.canary), before, "{face}, {what}: something was written outside");
            let place = self.store.dir.join("place");
            let strange = |path: &PathBuf| !path.to_string_lossy().contains("/PG_15_202209061/");
            assert!(
                !place.exists() || !files_below(&place).iter().any(strange),
                "{face}, {what}: a file lies in the tablespace"
            );
            let _ = std::fs::remove_dir_all(&copy);
            let _ = std::fs::remove_dir_all(&place);
        }
    }
}

/// What every data directory has, and then `members`.
fn ordinary(members: &[Vec<u8>]) -> Vec<u8> {
    let ordinary = ORDINARY.iter().map(|(name, content)| file(name, content));
    // A control file of the test's own takes the place of the ordinary one.
    let all: Vec<Vec<u8>> = ordinary.chain(members.iter().cloned()).collect();
    tar_of(&all)
}

fn tar_of(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    member(name, b'0', "", content.len() as u64, content)
}

fn link(kind: u8, name: &str, target: &str) -> Vec<u8> {
    member(name, kind, target, 0, b"")
}

/// A GNU long name, or link, for the member that follows.
fn long_name(kind: u8, name: &[u8]) -> Vec<u8> {
    member("././@LongLink", kind, "", name.len() as u64, name)
}

/// One pax record for the member that follows.
fn pax(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [b" ", key, b"=", value, b"\n"].concat();
    let length = (body.len()..body.len() + 20).find(|length| length.to_string().len() + body.len() == *length).unwrap();
    let record = [length.to_string().as_bytes(), &body].concat();
    member("pax", b'x', "", record.len() as u64, &record)
}

/// A file whose header has these bytes for a size, and no content.
fn sized(name: &str, size: [u8; 12]) -> Vec<u8> {
    with_header(name, b'0', "", size, b"")
}

fn member(name: &str, kind: u8, target: &str, size: u64, content: &[u8]) -> Vec<u8> {
    let size: [u8; 12] = format!("{size:011o}\0").into_bytes().try_into().unwrap();
    with_header(name, kind, target, size, content)
}

/// A header as bytes, whatever they say: the libraries that write tars refuse most of this.
fn with_header(name: &str, kind: u8, target: &str, size: [u8; 12], content: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(124, &size);
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}
