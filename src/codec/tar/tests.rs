//! Writer and reader against each other, GNU tar, Python's tarfile, the `tar` crate, Barman's archives and damage.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::codec::compression::decoder;
use crate::codec::digest::DigestReader;
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind, Result};

const PLAIN: Attributes = Attributes { mode: 0o640, uid: 26, gid: 27, mtime: 1_795_423_097 };

/// Names that put every branch of the name fields to work.
fn names() -> Vec<PathBuf> {
    let long = |length: usize| "d/".repeat((length - 1) / 2) + &"f".repeat(1 + (length - 1) % 2);
    let mut names: Vec<PathBuf> = [99, 100, 101, 102, 255, 256, 700].map(|length| PathBuf::from(long(length))).into();
    names.extend(
        ["./PG_VERSION", "base/5/1259", "unié.txt", "with space", "new\nline", "-dash", "a=b"].map(PathBuf::from),
    );
    names.push(PathBuf::from(OsStr::from_bytes(b"latin1-\xe9")));
    names.push(PathBuf::from(OsStr::from_bytes(&[&b"x/".repeat(60)[..], b"\xff\xfe"].concat())));
    names
}

/// A directory, files of telling sizes under telling names, a link; with what went in.
fn archive() -> (Vec<u8>, Vec<(PathBuf, Vec<u8>)>) {
    let mut writer = TarWriter::new(Vec::new());
    writer.directory(Path::new("."), &Attributes { mode: 0o700, ..PLAIN }).unwrap();
    writer.directory(Path::new("base"), &Attributes { mode: 0o40_700, ..PLAIN }).unwrap();
    let sizes = [0, 1, 511, 512, 513, 8192, 300_000];
    let mut files = vec![];
    for (number, name) in names().into_iter().enumerate() {
        let content: Vec<u8> = (0..sizes[number % sizes.len()]).map(|at: u32| (at * 7 / 5).to_le_bytes()[0]).collect();
        let archived = writer.file(&name, &PLAIN, content.len() as u64, &mut &content[..]).unwrap();
        let size_bytes = content.len() as u64;
        assert_eq!(archived, Archived { size_bytes, crc32c: crc32c::crc32c(&content), padded_bytes: 0 });
        files.push((name, content));
    }
    writer.symlink(Path::new("mylink"), Path::new("/etc/hostname"), &Attributes { mode: 0o777, ..PLAIN }).unwrap();
    writer.symlink(Path::new("farlink"), Path::new(&"../é".repeat(40)), &PLAIN).unwrap();
    let length = writer.bytes_when_finished();
    let bytes = writer.finish().unwrap();
    assert_eq!(bytes.len() % 10_240, 0);
    assert_eq!(bytes.len() as u64, length);
    (bytes, files)
}

fn read_all<R: Read>(source: R) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = TarReader::new(source);
    let mut entries = vec![];
    while let Some(entry) = reader.next_entry()? {
        let mut content = vec![];
        reader.read_to_end(&mut content).map_err(crate::codec::source_failure)?;
        entries.push((entry, content));
    }
    assert!(reader.next_entry()?.is_none());
    Ok(entries)
}

#[test]
fn what_is_written_is_read() {
    let (bytes, files) = archive();
    let entries = read_all(&bytes[..]).unwrap();
    assert_eq!(entries[0].0.path, Path::new("."));
    assert_eq!((entries[0].0.kind.clone(), entries[0].0.mode), (EntryKind::Directory, 0o700));
    assert_eq!((entries[1].0.path.as_path(), entries[1].0.mode), (Path::new("base"), 0o700));
    for ((name, content), (entry, read)) in files.iter().zip(&entries[2..]) {
        assert_eq!(entry.path, name.strip_prefix("./").unwrap_or(name));
        assert_eq!((entry.kind.clone(), entry.size), (EntryKind::File, content.len() as u64));
        assert_eq!((entry.mode, entry.uid, entry.gid, entry.mtime), (0o640, 26, 27, 1_795_423_097));
        assert!(read == content);
    }
    let links: Vec<_> = entries[2 + files.len()..].iter().map(|(entry, _)| entry.kind.clone()).collect();
    let targets = ["/etc/hostname".to_owned(), "../é".repeat(40)];
    assert_eq!(links, targets.map(|target| EntryKind::Symlink(PathBuf::from(target))));
}

#[test]
fn content_may_be_skipped_wholly_or_in_part() {
    let (bytes, files) = archive();
    for taken in [0, 1, 600] {
        let mut reader = TarReader::new(&bytes[..]);
        let mut seen = 0;
        while let Some(entry) = reader.next_entry().unwrap() {
            seen += usize::from(entry.kind == EntryKind::File);
            io::copy(&mut reader.by_ref().take(taken), &mut io::sink()).unwrap();
        }
        assert_eq!(seen, files.len());
    }
}

#[test]
fn owners_times_and_ids_beyond_ustar_survive() {
    let far = Attributes { mode: 0o7777, uid: u32::MAX, gid: 2_097_152, mtime: -62_135_596_800 };
    let farther = Attributes { mtime: 1 << 40, ..far };
    let mut writer = TarWriter::new(Vec::new());
    writer.file(Path::new("a"), &far, 1, &mut &b"x"[..]).unwrap();
    writer.directory(Path::new("b"), &farther).unwrap();
    let entries = read_all(&writer.finish().unwrap()[..]).unwrap();
    for ((entry, _), expected) in entries.iter().zip([far, farther]) {
        let Entry { mode, uid, gid, mtime, .. } = *entry;
        assert_eq!(Attributes { mode, uid, gid, mtime }, expected);
    }
}

#[test]
fn a_file_that_grew_is_cut_and_one_that_shrank_is_filled_with_zeros() {
    let mut writer = TarWriter::new(Vec::new());
    let grown = writer.file(Path::new("grown"), &PLAIN, 3, &mut &b"abcdef"[..]).unwrap();
    assert_eq!(grown, Archived { size_bytes: 3, crc32c: crc32c::crc32c(b"abc"), padded_bytes: 0 });
    let filled = [&b"abc"[..], &vec![0; 700_000]].concat();
    let shrunk = writer.file(Path::new("shrunk"), &PLAIN, 700_003, &mut &b"abc"[..]).unwrap();
    assert_eq!(shrunk, Archived { size_bytes: 700_003, crc32c: crc32c::crc32c(&filled), padded_bytes: 700_000 });
    let entries = read_all(&writer.finish().unwrap()[..]).unwrap();
    assert_eq!(entries[0].1, b"abc");
    assert!(entries[1].1 == filled);
}

#[test]
fn a_failed_read_is_local_names_nothing_and_ends_the_archive() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk broke"))
        }
    }
    let mut writer = TarWriter::new(Vec::new());
    let error = writer.file(Path::new("a"), &PLAIN, 3, &mut Fails).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Local, "the disk broke".to_owned()));
    assert_eq!(writer.directory(Path::new("b"), &PLAIN).unwrap_err().kind(), ErrorKind::Bug);
    assert_eq!(writer.finish().unwrap_err().kind(), ErrorKind::Bug);
}

#[test]
fn a_failing_sink_keeps_its_text_and_our_own_errors_their_kind() {
    struct Full(bool);
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(if self.0 { io::Error::other(Error::new(ErrorKind::Denied, "no")) } else { io::Error::other("full") })
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for (own, kind, text) in [(false, ErrorKind::Local, "full"), (true, ErrorKind::Denied, "no")] {
        let error = TarWriter::new(Full(own)).directory(Path::new("a"), &PLAIN).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
    }
}

#[test]
fn the_writer_refuses_paths_that_the_reader_would() {
    let mut writer = TarWriter::new(Vec::new());
    for path in ["", "/etc/passwd", "a/../b", "..", "a\0b"] {
        assert_eq!(writer.directory(Path::new(path), &PLAIN).unwrap_err().kind(), ErrorKind::Bug, "{path}");
        assert_eq!(writer.file(Path::new(path), &PLAIN, 0, &mut io::empty()).unwrap_err().kind(), ErrorKind::Bug);
    }
    assert_eq!(writer.bytes_written(), 0);
}

#[test]
fn gnu_tar_extracts_and_lists_what_is_written() {
    let (bytes, files) = archive();
    let scratch = tempfile::tempdir().unwrap();
    let (file, target) = (scratch.path().join("a.tar"), scratch.path().join("out"));
    std::fs::write(&file, &bytes).unwrap();
    std::fs::create_dir(&target).unwrap();
    let tar = |arguments: &[&str]| {
        let mut tar = Command::new("tar");
        let output = tar.args(arguments).arg("-f").arg(&file).current_dir(&target).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listing = tar(&["-tv", "--numeric-owner", "--utc"]);
    let root: Vec<&str> = listing.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(root, ["drwx------", "26/27", "0", "2026-11-23", "08:38", "./"]);
    assert!(listing.contains("-rw-r----- 26/27"), "{listing}");
    assert!(listing.contains("mylink -> /etc/hostname\n"), "{listing}");
    assert_eq!(listing.lines().count(), files.len() + 4);
    tar(&["-x", "--no-same-owner"]);
    for (name, content) in &files {
        assert!(std::fs::read(target.join(name)).unwrap() == *content, "{}", name.display());
    }
    assert_eq!(std::fs::read_link(target.join("mylink")).unwrap(), Path::new("/etc/hostname"));
}

#[test]
fn python_reads_what_is_written() {
    const SCRIPT: &str = "import os, sys, tarfile, zlib
for m in tarfile.open(sys.argv[1], 'r:'):
    data = tarfile.open(sys.argv[1], 'r:').extractfile(m).read() if m.isreg() else b''
    print(m.type.decode(), oct(m.mode), m.uid, m.gid, m.mtime, m.size, os.fsencode(m.name).hex(), zlib.crc32(data))";
    let (bytes, files) = archive();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("a.tar");
    std::fs::write(&file, &bytes).unwrap();
    let mut python = Command::new("python3");
    let Ok(output) = python.args(["-c", SCRIPT]).arg(&file).env("PYTHONUTF8", "1").output() else {
        eprintln!("no python3 here: not compared with tarfile");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).unwrap();
    for (name, content) in &files {
        let bytes = name.as_os_str().as_bytes();
        let name = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let crc = libdeflater::crc32(content);
        let line = format!("0 0o640 26 27 1795423097 {} {name} {crc}\n", content.len());
        assert!(listing.contains(&line), "{line}{listing}");
    }
}

#[test]
fn the_tar_crate_reads_what_is_written_and_its_archives_are_read() {
    let (bytes, files) = archive();
    let mut theirs = tar::Archive::new(&bytes[..]);
    let read: Vec<(Vec<u8>, u64)> = theirs
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.path_bytes().into_owned(), entry.size()))
        .collect();
    for (name, content) in &files {
        assert!(read.contains(&(name.as_os_str().as_bytes().to_vec(), content.len() as u64)));
    }

    // The crate writes GNU headers with `L` and `K` members for long names.
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in &files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "x".repeat(150), "y".repeat(150)).unwrap();
    let entries = read_all(&builder.into_inner().unwrap()[..]).unwrap();
    for ((name, content), (entry, read)) in files.iter().zip(&entries) {
        assert_eq!(entry.path, name.strip_prefix("./").unwrap_or(name));
        assert!(read == content);
    }
    let (last, _) = entries.last().unwrap();
    assert_eq!(last.path, Path::new(&"x".repeat(150)));
    assert_eq!(last.kind, EntryKind::Symlink(PathBuf::from("y".repeat(150))));
}

#[test]
fn every_format_of_gnu_tar_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let long = "l".repeat(90) + "/" + &"m".repeat(60);
    std::fs::create_dir(scratch.path().join("l".repeat(90))).unwrap();
    std::fs::write(scratch.path().join(&long), "content").unwrap();
    for (format, name) in
        [("v7", "short"), ("ustar", long.as_str()), ("oldgnu", &long), ("gnu", &long), ("posix", &long)]
    {
        std::fs::write(scratch.path().join("short"), "content").unwrap();
        let mut tar = Command::new("tar");
        let output = tar.args(["-c", "--format", format, name]).current_dir(scratch.path()).output().unwrap();
        assert!(output.status.success());
        let entries = read_all(&output.stdout[..]).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].0.path.as_path(), &entries[0].1[..]), (Path::new(name), &b"content"[..]), "{format}");
    }
}

/// One line of a fixture's member list, without the names of the owners.
fn described(entry: &Entry) -> String {
    let Entry { mode, uid, gid, size, .. } = entry;
    let name = entry.path.display();
    match &entry.kind {
        EntryKind::Directory => format!("5 {mode:04o} {uid}:{gid} {size} {name}"),
        EntryKind::File => format!("0 {mode:04o} {uid}:{gid} {size} {name}"),
        EntryKind::Symlink(target) => format!("2 {mode:04o} {uid}:{gid} {size} {name} -> {}", target.display()),
        EntryKind::HardLink(target) => format!("1 {mode:04o} {uid}:{gid} {size} {name} -> {}", target.display()),
        EntryKind::Other(flag) => format!("{flag} {mode:04o} {uid}:{gid} {size} {name}"),
    }
}

#[test]
fn barmans_archives_hold_the_members_that_barman_listed() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1");
    let mut archives = 0;
    for id in ["20261123T083817", "20261123T083822", "20261123T083826", "20261123T083832"] {
        let listing = std::fs::read_to_string(fixture.join(format!("members-{id}.txt"))).unwrap();
        for section in listing.split("== ").filter(|section| !section.is_empty()) {
            let (heading, lines) = section.split_once('\n').unwrap();
            let (name, size) = heading.split_once(" (").unwrap();
            let expected: Vec<String> = lines
                .lines()
                .filter(|line| !line.is_empty())
                .map(|line| {
                    let (numbers, names_and_rest) = line.split_at(line.find(' ').unwrap());
                    let words: Vec<&str> = names_and_rest.split_whitespace().collect();
                    let name = words[4..].join(" ");
                    let name = name.strip_prefix("./").unwrap_or(&name);
                    format!("{numbers} {} {} {} {name}", words[0], words[1], words[3])
                })
                .collect();
            let (_, codec) = Compression::split_suffix(name);
            let path = fixture.join(format!("bucket/pfx/main/base/{id}/{name}"));
            let mut counted = DigestReader::new(decoder(codec, std::fs::File::open(path).unwrap()).unwrap());
            let entries = read_all(&mut counted).unwrap();
            let found: Vec<String> = entries.iter().map(|(entry, _)| described(entry)).collect();
            assert_eq!(found, expected, "{id}/{name}");
            assert!(
                size.starts_with(&format!("{} bytes", counted.bytes_read())),
                "{heading}: {}",
                counted.bytes_read()
            );
            archives += 1;
        }
    }
    assert_eq!(archives, 20);
}

#[test]
fn an_archive_cut_short_is_corrupt_wherever_it_is_cut() {
    let (bytes, _) = archive();
    let content_end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let end_mark = content_end.next_multiple_of(512) + 1024;
    for length in (0..end_mark).filter(|at| *at < 2000 || at % 509 < 2 || at % 512 == 0 || at + 1100 > end_mark) {
        assert_eq!(read_all(&bytes[..length]).unwrap_err().kind(), ErrorKind::Corrupt, "cut at {length}");
    }
    read_all(&bytes[..end_mark]).unwrap();
}

#[test]
fn data_after_the_end_is_corrupt_and_zeros_are_not() {
    let (bytes, _) = archive();
    read_all(&[&bytes[..], &vec![0; 20_480]].concat()[..]).unwrap();
    for tail in [&b"x"[..], &[&[0; 700][..], b"x"].concat(), &bytes] {
        assert_eq!(read_all(&[&bytes[..], tail].concat()[..]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let endless = io::Cursor::new(bytes).chain(io::repeat(0));
    assert_eq!(read_all(endless).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A header with a valid checksum, whatever it says.
fn header(type_flag: u8, name: &[u8], link: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = vec![];
    header::Member { type_flag, name, link, attributes: PLAIN, size_bytes: size }.append_to(&mut bytes);
    bytes
}

/// `content` under `type_flag`, then the member "f", then the end mark.
fn with_extension(type_flag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(type_flag, b"ext", b"", content.len() as u64);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(header(b'0', b"f", b"", 0));
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    let names: [&[u8]; 12] =
        [b"", b"/", b"/etc/passwd", b"..", b"../x", b"a/..", b"a/../b", b"./..", b"./../x", b".", b"./", b"a//..//b"];
    for name in names {
        let mut bytes = header(b'0', name, b"", 0);
        bytes.resize(bytes.len() + 1024, 0);
        assert_eq!(read_all(&bytes[..]).unwrap_err().kind(), ErrorKind::Corrupt, "{}", header::shown(name));
    }
    for record in [&b"11 path=/x\n"[..], b"12 path=../x"] {
        let record = if record.ends_with(b"\n") { record.to_vec() } else { [record, b"\n"].concat() };
        assert!(read_all(&with_extension(b'x', &record)[..]).is_err());
    }
    assert!(read_all(&with_extension(b'x', b"12 path=a\0b\n")[..]).is_err());
    assert!(read_all(&with_extension(b'L', b"../../x\0")[..]).is_err());
    assert!(read_all(&with_extension(b'L', b"\0")[..]).is_err());
    assert_eq!(read_all(&with_extension(b'x', b"13 path=./a/\n")[..]).unwrap()[0].0.path, Path::new("a"));
}

#[test]
fn other_kinds_are_reported_and_hostile_ones_refused() {
    for flag in b"346VXN" {
        let mut bytes = header(*flag, b"odd", b"/etc/passwd", 0);
        bytes.resize(bytes.len() + 1024, 0);
        assert_eq!(read_all(&bytes[..]).unwrap()[0].0.kind, EntryKind::Other(char::from(*flag)));
    }
    let mut bytes = header(b'1', b"odd", b"./base/5/10", 0);
    bytes.resize(bytes.len() + 1024, 0);
    assert_eq!(read_all(&bytes[..]).unwrap()[0].0.kind, EntryKind::HardLink("base/5/10".into()));
    for (flag, link, size) in [
        (b'5', "", 5),
        (b'2', "x", 5),
        (b'1', "x", 5),
        (b'1', "/etc/passwd", 0),
        (b'1', "a/../../x", 0),
        (b'1', "", 0),
        (b'3', "", 5),
        (b'S', "", 0),
        (b'2', "", 0),
    ] {
        let mut bytes = header(flag, b"odd", link.as_bytes(), size);
        bytes.resize(bytes.len() + 4096, 0);
        assert_eq!(read_all(&bytes[..]).unwrap_err().kind(), ErrorKind::Corrupt, "{}", char::from(flag));
    }
}

#[test]
fn extended_headers_are_bounded_in_size_and_number() {
    for flag in *b"xgLK" {
        let over = [&header(flag, b"ext", b"", (1 << 20) + 1)[..], &vec![b'a'; 2 << 20]].concat();
        let error = read_all(&over[..]).unwrap_err();
        assert!(error.to_string().contains("1048577 bytes: the limit is 1048576"), "{error}");
    }
    let many = [&header(b'L', b"ext", b"", 2)[..], &[b'a'; 2], &[0; 510]].concat().repeat(9);
    assert!(read_all(&many[..]).unwrap_err().to_string().contains("more than 8 extended headers"));
    let long = vec![b'n'; 1 << 20];
    assert_eq!(read_all(&with_extension(b'L', &long)[..]).unwrap()[0].0.path.as_os_str().len(), 1 << 20);
}

#[test]
fn global_headers_may_comment_but_not_rename() {
    assert_eq!(read_all(&with_extension(b'g', b"16 comment=abcd\n")[..]).unwrap().len(), 1);
    assert!(read_all(&with_extension(b'g', b"10 path=x\n")[..]).is_err());
    assert!(read_all(&with_extension(b'x', b"10 path=x\n")[..1024]).is_err(), "nothing follows the extended header");
}

#[test]
fn a_size_that_lies_ends_in_an_error() {
    for size in [1, 513, 1 << 33, i64::MAX as u64] {
        let bytes = header(b'0', b"liar", b"", size);
        assert_eq!(read_all(&bytes[..]).unwrap_err().kind(), ErrorKind::Corrupt, "{size}");
        let mut skipping = TarReader::new(&bytes[..]);
        assert_eq!(skipping.next_entry().unwrap().unwrap().size, size);
        assert_eq!(skipping.next_entry().unwrap_err().kind(), ErrorKind::Corrupt);
    }
    for record in [&b"11 size=-1\n"[..], b"28 size=9999999999999999999\n"] {
        assert_eq!(read_all(&with_extension(b'x', record)[..]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn mutated_headers_never_panic_and_never_lead_outside() {
    let (bytes, _) = archive();
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 8).unwrap()
    };
    // Headers and records only: the first blocks, and those at the end with the links.
    let prefix = &bytes[..bytes.len().min(30_000)];
    for round in 0..4_000 {
        let mut mutated = prefix.to_vec();
        let block = next() % (prefix.len() / 512) * 512;
        for _ in 0..=next() % 4 {
            mutated[block + next() % 512] =
                if next() % 2 == 0 { b"0123457xgLK2\0/. \xff"[next() % 17] } else { next().to_le_bytes()[0] };
        }
        if round % 4 != 0 {
            let sum: u32 = mutated[block..block + 512]
                .iter()
                .enumerate()
                .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
                .sum();
            mutated[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let mut reader = TarReader::new(&mutated[..]);
        while let Ok(Some(entry)) = reader.next_entry() {
            let inside = entry.path.is_relative() && !entry.path.components().any(|part| part.as_os_str() == "..");
            assert!(inside && !entry.path.as_os_str().is_empty(), "{entry:?}");
            if io::copy(&mut reader, &mut io::sink()).is_err() {
                break;
            }
        }
    }
}
