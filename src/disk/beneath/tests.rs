//! What is made below an opened directory, with `openat2` and without.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

/// A directory `target`, opened, and one beside it that nothing may be written to.
struct Place {
    _dir: tempfile::TempDir,
    target: PathBuf,
    outside: PathBuf,
    beneath: Beneath,
}

impl Place {
    fn make(walks: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir_all(outside.join("inner")).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        let beneath = Beneath { walks: AtomicBool::new(walks), ..Beneath::make(&target).unwrap() };
        Self { _dir: dir, target, outside, beneath }
    }

    /// Nothing was written outside, not even permissions.
    fn expect_untouched(&self) {
        let names: Vec<_> = fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(fs::read_dir(self.outside.join("inner")).unwrap().count(), 0);
        assert_eq!(fs::read(self.outside.join("file")).unwrap(), b"kept");
        assert_eq!(fs::metadata(self.outside.join("inner")).unwrap().mode() & 0o777, 0o755 & !umask());
    }
}

fn umask() -> u32 {
    let probe = tempfile::tempdir().unwrap();
    fs::create_dir(probe.path().join("x")).unwrap();
    0o777 & !fs::metadata(probe.path().join("x")).unwrap().mode()
}

fn both_ways(test: impl Fn(&Place)) {
    for walks in [false, true] {
        let place = Place::make(walks);
        test(&place);
        assert!(!walks || place.beneath.walks.load(Ordering::Relaxed));
        place.expect_untouched();
    }
}

fn text(path: &str) -> &Path {
    Path::new(path)
}

#[test]
fn files_and_directories_are_made_with_what_is_above_them() {
    both_ways(|place| {
        let mut cursor = place.beneath.cursor();
        cursor.create(text("base/5/1259"), 0o640).unwrap().write_all(b"one").unwrap();
        cursor.create(text("base/5/1260"), 0o600).unwrap();
        cursor.create(text("PG_VERSION"), 0o600).unwrap();
        cursor.directory(text("base/5"), 0o750).unwrap();
        cursor.directory(text("."), 0o750).unwrap();
        cursor.directory_if_missing(text("base/5"), 0o700).unwrap();
        cursor.directory_if_missing(text("pg_wal/archive_status"), 0o700).unwrap();
        let mode = |path: &str| fs::metadata(place.target.join(path)).unwrap().mode() & 0o777;
        let modes = ["", "base", "base/5", "base/5/1259", "base/5/1260", "pg_wal"].map(mode);
        assert_eq!(modes, [0o750, 0o700, 0o750, 0o640, 0o600, 0o700]);
        assert_eq!(fs::read(place.target.join("base/5/1259")).unwrap(), b"one");
        let twice = cursor.create(text("base/5/1259"), 0o600).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
    });
}

#[test]
fn names_are_renamed_linked_removed_and_looked_at() {
    both_ways(|place| {
        let mut cursor = place.beneath.cursor();
        cursor.create(text("a/staged"), 0o600).unwrap().write_all(b"one").unwrap();
        cursor.symlink(&place.outside.join("file"), text("a/file")).unwrap();
        cursor.rename(OsStr::new("staged"), text("a/file")).unwrap();
        cursor.hard_link(text("a/file"), text("b/same")).unwrap();
        assert_eq!(fs::metadata(place.target.join("b/same")).unwrap().nlink(), 2);
        cursor.symlink(text("/nowhere"), text("b/link")).unwrap();
        let stands = ["a/file", "a", "b/link", "b/none", "none/none"].map(|path| cursor.standing(text(path)).unwrap());
        let expected = [Some(Standing::File), Some(Standing::Directory), Some(Standing::Link), None, None];
        assert_eq!(stands, expected);
        for path in ["a/file", "b/link", "b/none", "none/none"] {
            cursor.remove(text(path)).unwrap();
        }
        assert!(cursor.remove(text("a")).is_err());
        assert_eq!(cursor.read_at_most(text("b/same"), 3).unwrap(), b"one");
        assert!(cursor.read_at_most(text("b/same"), 2).is_err());
        assert_eq!(fs::read_dir(place.target.join("a")).unwrap().count(), 0);
    });
}

#[test]
fn nothing_goes_through_a_link_that_somebody_puts_in_the_way() {
    both_ways(|place| {
        symlink(&place.outside, place.target.join("base")).unwrap();
        fs::create_dir(place.target.join("global")).unwrap();
        symlink(&place.outside, place.target.join("global/deeper")).unwrap();
        fs::write(place.target.join("own"), "own").unwrap();
        for directory in ["base", "base/inner", "global/deeper", "global/deeper/inner"] {
            let mut cursor = place.beneath.cursor();
            let path = Path::new(directory).join("file");
            let refusals = [
                cursor.directory(text(directory), 0o777).unwrap_err(),
                cursor.directory_if_missing(text(directory), 0o777).unwrap_err(),
                cursor.create(&path, 0o600).map(drop).unwrap_err(),
                cursor.rename(OsStr::new("file"), &path).unwrap_err(),
                cursor.hard_link(text("own"), &path).unwrap_err(),
                cursor.hard_link(&path, text("mine")).unwrap_err(),
                cursor.symlink(text("x"), &path).unwrap_err(),
                cursor.remove(&path).unwrap_err(),
                cursor.standing(&path).map(drop).unwrap_err(),
            ];
            let link = place.target.join(directory.trim_end_matches("/inner"));
            let expected = format!("\"{}\" is a symbolic link, and nothing is written through one", link.display());
            for refusal in refusals {
                assert_eq!(refusal.to_string(), expected);
            }
            let errors = [
                cursor.publish(&path, b"x", |_| Ok(())).unwrap_err(),
                cursor.read_at_most(&path, 100).map(drop).unwrap_err(),
            ];
            for error in errors {
                assert!(
                    error.to_string().ends_with(&expected) && error.to_string().starts_with("could not "),
                    "{error}"
                );
            }
        }
    });
}

#[test]
fn a_link_that_comes_while_we_are_at_work_is_not_followed() {
    both_ways(|place| {
        let mut ours = place.beneath.cursor();
        ours.create(text("base/5/1"), 0o600).unwrap();
        // The directory that is open is moved away, and a link put where it was.
        fs::rename(place.target.join("base"), place.target.join("moved")).unwrap();
        symlink(&place.outside, place.target.join("base")).unwrap();
        ours.create(text("base/5/2"), 0o600).unwrap();
        assert!(place.target.join("moved/5/2").is_file());
        assert!(ours.create(text("base/inner/3"), 0o600).is_err());
        assert!(place.beneath.cursor().create(text("base/5/4"), 0o600).is_err());
    });
}

#[test]
fn a_link_at_the_last_place_is_replaced_or_refused_and_never_followed() {
    both_ways(|place| {
        let mut cursor = place.beneath.cursor();
        symlink(place.outside.join("file"), place.target.join("link")).unwrap();
        symlink(place.outside.join("new"), place.target.join("dangling")).unwrap();
        for name in ["link", "dangling"] {
            let refused = cursor.create(text(name), 0o600).unwrap_err();
            assert!(refused.to_string().contains("is a symbolic link"), "{refused}");
            assert!(cursor.directory(text(name), 0o777).unwrap_err().to_string().contains("is a symbolic link"));
            assert!(
                cursor.hard_link(text(name), text("other")).unwrap_err().to_string().contains("is a symbolic link")
            );
            assert!(cursor.read_at_most(text(name), 100).unwrap_err().to_string().contains("is a symbolic link"));
            cursor
                .publish(text(name), b"ours", |file| file.set_permissions(fs::Permissions::from_mode(0o640)))
                .unwrap();
            let facts = fs::symlink_metadata(place.target.join(name)).unwrap();
            assert!(facts.is_file() && facts.mode() & 0o777 == 0o640);
        }
        assert_eq!(fs::read_dir(&place.target).unwrap().count(), 2);
    });
}

#[test]
fn a_directory_a_fifo_and_a_file_in_the_way_are_named() {
    both_ways(|place| {
        let mut cursor = place.beneath.cursor();
        cursor.directory(text("directory"), 0o700).unwrap();
        cursor.create(text("file"), 0o600).unwrap();
        let fifo = place.target.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for (name, refused) in [
            ("directory", cursor.create(text("directory"), 0o600).map(drop).unwrap_err()),
            ("fifo", cursor.create(text("fifo"), 0o600).map(drop).unwrap_err()),
            ("directory", cursor.hard_link(text("directory"), text("x")).unwrap_err()),
            ("fifo", cursor.hard_link(text("fifo"), text("x")).unwrap_err()),
        ] {
            let expected = format!("\"{}\" is there, and is no regular file", place.target.join(name).display());
            assert_eq!(refused.to_string(), expected);
        }
        assert!(cursor.read_at_most(text("fifo"), 1).is_err(), "and nobody waits for a writer");
        assert!(cursor.publish(text("directory"), b"", |_| Ok(())).is_err());
        assert!(cursor.publish(text("fifo"), b"", |_| Ok(())).is_err());
        let refused = cursor.create(text("file/below"), 0o600).unwrap_err();
        assert_eq!(refused.to_string(), format!("\"{}\" is no directory", place.target.join("file").display()));
        assert_eq!(fs::read_dir(&place.target).unwrap().count(), 3);
    });
}

#[test]
fn paths_that_lead_out_or_never_end_are_refused() {
    both_ways(|place| {
        let mut cursor = place.beneath.cursor();
        let absolute = place.outside.join("x");
        for path in [text("../outside/x"), text("a/../../outside/x"), text(".."), text(""), &absolute] {
            assert!(cursor.create(path, 0o600).is_err(), "{}", path.display());
            assert!(cursor.symlink(text("x"), path).is_err(), "{}", path.display());
            assert!(cursor.hard_link(path, text("x")).is_err(), "{}", path.display());
        }
        assert!(cursor.directory(text("../outside/inner"), 0o777).is_err());
        assert!(cursor.directory(&absolute, 0o777).is_err());
        let deep = PathBuf::from("a/".repeat(3000));
        assert!(cursor.directory(&deep, 0o700).is_err());
        assert!(cursor.create(Path::new(&"n".repeat(256)), 0o600).is_err());
        assert_eq!(fs::read_dir(&place.target).unwrap().count(), 0);
    });
}

#[test]
fn the_root_is_reached_through_links_once_and_then_it_is_that_directory() {
    let place = Place::make(false);
    let way = place.target.with_file_name("way");
    symlink(&place.target, &way).unwrap();
    let beneath = Beneath::make(&way).unwrap();
    beneath.set_mode(0o750).unwrap();
    assert!(beneath.is_empty().unwrap());
    fs::remove_file(&way).unwrap();
    symlink(&place.outside, &way).unwrap();
    beneath.cursor().create(text("x"), 0o600).unwrap();
    assert!(!beneath.is_empty().unwrap() && place.target.join("x").is_file());
    assert_eq!(fs::metadata(&place.target).unwrap().mode() & 0o777, 0o750);
    beneath.sync_file_system().unwrap();
    place.expect_untouched();
}

#[test]
fn what_cannot_be_published_leaves_what_was_there_and_nothing_beside_it() {
    both_ways(|place| {
        let mut cursor = place.beneath.cursor();
        cursor.publish(text("global/pg_control"), b"one", |_| Ok(())).unwrap();
        // A killed process with our number left its staged file, or somebody put a link of that name there.
        let staged = place.target.join("global").join(disk::staged_name(text("pg_control"), disk::COMMON));
        symlink(place.outside.join("file"), &staged).unwrap();
        let failed = cursor.publish(text("global/pg_control"), b"two", |_| Err(io::Error::other("no")));
        assert!(failed.unwrap_err().to_string().contains("global/pg_control\": no"));
        assert_eq!(fs::read(place.target.join("global/pg_control")).unwrap(), b"one");
        cursor.publish(text("global/pg_control"), b"three", |_| Ok(())).unwrap();
        assert_eq!(fs::read(place.target.join("global/pg_control")).unwrap(), b"three");
        assert_eq!(fs::read_dir(place.target.join("global")).unwrap().count(), 1);
    });
}
