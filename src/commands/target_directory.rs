//! What can be known about the place a restore goes to before anything is written there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::domain::backup::{Backup, Tablespace};
use crate::domain::cluster::ServerVersion;
use crate::domain::tablespace_place;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::private_server;

/// Space needed and free, in bytes, for the data directory's file system; unknown when the backup does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spaces {
    /// The size of the cluster when it was backed up.
    pub needed_bytes: Option<u64>,
    /// Free space where the data directory goes.
    pub free_bytes: Option<u64>,
}

/// The path from the root, without asking the disk what its parts are.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|cause| Error::local("resolve", path, cause))
}

/// The path without links in that part of it which is there.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    match there {
        // Part by part: joined with nothing, a path would end in a slash, and so would the link to it.
        Some((ancestor, real)) => path
            .strip_prefix(ancestor)
            .map_or_else(|_| path.to_owned(), |rest| real.components().chain(rest.components()).collect()),
        None => path.to_owned(),
    }
}

/// Where each tablespace goes: where `wanted` says, else into a directory of its own in `below`, else where it was.
///
/// Errors: `Usage` for a name the backup does not know, and for two that would share a directory; `Corrupt` for an OID that
/// two have; `Local` where a place that nobody but the backup names is no place for a tablespace.
pub(crate) fn map_tablespaces(
    tablespaces: &[Tablespace],
    wanted: &BTreeMap<String, PathBuf>,
    below: Option<&Path>,
) -> Result<Vec<(Tablespace, PathBuf)>> {
    if let Some(unknown) = wanted.keys().find(|name| !tablespaces.iter().any(|there| there.name == **name)) {
        let names = tablespaces.iter().map(|there| there.name.as_str()).collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "none".to_owned() } else { names };
        return Err(Error::usage(format!("the backup has no tablespace \"{unknown}\": its tablespaces are {names}")));
    }
    let mut mapped: Vec<(Tablespace, PathBuf)> = Vec::new();
    for tablespace in tablespaces {
        let target = match (wanted.get(&tablespace.name), below) {
            (Some(wanted), _) => absolute(wanted)?,
            (None, Some(below)) => below.join(tablespace.oid.to_string()),
            (None, None) => recorded_place(tablespace)?,
        };
        if mapped.iter().any(|(other, _)| other.oid == tablespace.oid) {
            return Err(Error::corrupt(format!("the backup has two tablespaces of OID {}", tablespace.oid)));
        }
        if let Some((other, _)) = mapped.iter().find(|(_, taken)| *taken == target) {
            let message = format!(
                "tablespaces \"{}\" and \"{}\" would share \"{}\"",
                other.name,
                tablespace.name,
                target.display()
            );
            return Err(Error::usage(message));
        }
        mapped.push((tablespace.clone(), target));
    }
    Ok(mapped)
}

/// Where a tablespace was. Whoever can write into the archive has written it: a place of the system it cannot be, neither as
/// it stands there nor with links resolved.
fn recorded_place(tablespace: &Tablespace) -> Result<PathBuf> {
    let place = Path::new(&tablespace.location);
    let refused = tablespace_place::refused(place).or_else(|| tablespace_place::refused(&resolved(place)));
    match refused {
        None => Ok(place.components().collect()),
        Some(why) => {
            let message = format!(
                "could not use directory \"{}\" for tablespace \"{}\", as the backup says: {why}",
                place.display(),
                tablespace.name
            );
            Err(Error::new(ErrorKind::Local, message).with_hint("Say where it goes with --tablespace."))
        }
    }
}

/// Every directory must be absent or empty, and none may lie in another.
pub(crate) fn check_empty(directory: &Path, tablespaces: &[(Tablespace, PathBuf)]) -> Result<()> {
    check_empty_directory(directory, "data directory", "Give another directory, or empty this one.")?;
    for (tablespace, target) in tablespaces {
        let what = format!("directory of tablespace \"{}\"", tablespace.name);
        let hint = format!("Give it another one with --tablespace {}=DIR.", tablespace.name);
        check_empty_directory(target, &what, &hint)?;
        if target.starts_with(directory) || directory.starts_with(target) {
            let message = format!(
                "could not use {what} \"{}\": it and the data directory \"{}\" lie in one another",
                target.display(),
                directory.display()
            );
            return Err(Error::usage(message).with_hint(hint));
        }
        let mut others = tablespaces.iter().filter(|(other, _)| other.oid != tablespace.oid);
        if let Some((other, _)) = others.find(|(_, above)| target.starts_with(above)) {
            let message = format!(
                "could not use {what} \"{}\": it lies in that of tablespace \"{}\"",
                target.display(),
                other.name
            );
            return Err(Error::usage(message).with_hint(hint));
        }
    }
    Ok(())
}

fn check_empty_directory(path: &Path, what: &str, hint: &str) -> Result<()> {
    let refuse = |cause: &str, hint: &str| {
        let message = format!("could not use {what} \"{}\": {cause}", path.display());
        Err(Error::new(ErrorKind::Local, message).with_hint(hint))
    };
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(Error::local("look into directory", path, cause)),
    };
    if path.join("postmaster.pid").exists() {
        return refuse("a server runs there, or was not shut down", "Never restore over a directory in use.");
    }
    if entries.next().is_some() {
        // A restore puts the control file in its place last.
        if path.join("base").is_dir() && !path.join("global/pg_control").exists() {
            let hint = "Empty it and restore again: it looks like what an interrupted restore left, and cannot start.";
            return refuse("it is not empty, and has no global/pg_control", hint);
        }
        return refuse("it is not empty", hint);
    }
    Ok(())
}

/// Compares the cluster's size with the free space of every file system it will lie on.
///
/// The catalogue knows only the sum of all tablespaces: it is held against the data directory's file system when
/// everything goes there, and only shown otherwise. So is what the parts unpack to, which nothing in the catalogue need fit.
pub(crate) fn check_space(
    directory: &Path,
    tablespaces: &[(Tablespace, PathBuf)],
    backup: &Backup,
    content_bytes: u64,
) -> Result<Spaces> {
    let free_bytes = free_space(directory)?;
    let spaces = Spaces { needed_bytes: backup.cluster_size_bytes, free_bytes: Some(free_bytes) };
    let needed = backup.cluster_size_bytes.unwrap_or(0).max(content_bytes);
    if tablespaces.is_empty() && needed > free_bytes {
        let message = format!(
            "could not restore into \"{}\": the backup needs {needed} bytes, {free_bytes} are free there",
            directory.display()
        );
        return Err(Error::new(ErrorKind::Local, message));
    }
    Ok(spaces)
}

/// Free bytes for a user without privileges on the file system `path` is, or would be, on.
pub(crate) fn free_space(path: &Path) -> Result<u64> {
    let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let facts =
        rustix::fs::statvfs(there).map_err(|cause| Error::local("look at the file system of", there, cause.into()))?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// A data directory starts only under its own major version.
pub(crate) fn check_binaries(bindir: &Path, version: ServerVersion) -> Result<()> {
    let program = bindir.join("postgres");
    let answer =
        Command::new(&program).arg("--version").output().map_err(|cause| Error::local("run", &program, cause))?;
    let text = String::from_utf8_lossy(&answer.stdout);
    match private_server::major_of(&text) {
        Some(major) if major == version.major() => Ok(()),
        Some(major) => {
            let message =
                format!("the backup is of PostgreSQL {}, \"{}\" is {major}", version.major(), program.display());
            Err(Error::new(ErrorKind::Mismatch, message))
        }
        None => {
            Err(Error::new(ErrorKind::Local, format!("\"{}\" does not tell its version: {text}", program.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tablespace(name: &str, location: &str) -> Tablespace {
        let oid = name.bytes().map(u32::from).sum();
        Tablespace { name: name.to_owned(), oid, location: location.to_owned() }
    }

    #[test]
    fn a_tablespace_goes_where_it_was_unless_it_is_mapped() {
        let there = [tablespace("a", "/srv/a"), tablespace("b", "/srv/b")];
        let wanted = BTreeMap::from([("b".to_owned(), PathBuf::from("/new/b"))]);
        let mapped = map_tablespaces(&there, &wanted, None).unwrap();
        assert_eq!(mapped[0].1, Path::new("/srv/a"));
        assert_eq!(mapped[1].1, Path::new("/new/b"));
    }

    #[test]
    fn an_unknown_tablespace_and_a_shared_directory_are_refused() {
        let there = [tablespace("a", "/srv/a"), tablespace("b", "/srv/b")];
        let unknown = BTreeMap::from([("c".to_owned(), PathBuf::from("/x"))]);
        assert!(map_tablespaces(&there, &unknown, None).unwrap_err().to_string().contains("a, b"));
        let shared = BTreeMap::from([("a".to_owned(), PathBuf::from("/srv/b"))]);
        assert!(map_tablespaces(&there, &shared, None).is_err());
    }

    #[test]
    fn a_place_that_only_the_backup_names_is_no_place_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let way = dir.path().join("way");
        std::os::unix::fs::symlink("/etc", &way).unwrap();
        let behind_a_link = way.join("new");
        for place in ["/", "/etc", "/srv/../etc/x", "relative", behind_a_link.to_str().unwrap()] {
            let there = [tablespace("a", place)];
            let error = map_tablespaces(&there, &BTreeMap::new(), None).unwrap_err();
            assert!(error.to_string().starts_with("could not use directory"), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("--tablespace")), "{error:?}");
            // The operator's word counts, and a drill's own directory.
            let wanted = BTreeMap::from([("a".to_owned(), PathBuf::from("/etc/x"))]);
            assert_eq!(map_tablespaces(&there, &wanted, None).unwrap()[0].1, Path::new("/etc/x"));
            assert_eq!(
                map_tablespaces(&there, &BTreeMap::new(), Some(Path::new("/d"))).unwrap()[0].1,
                Path::new("/d/97")
            );
        }
    }

    #[test]
    fn tablespaces_of_one_oid_or_within_one_another_are_refused() {
        let twice = [tablespace("ab", "/srv/a"), tablespace("ba", "/srv/b")];
        assert!(
            map_tablespaces(&twice, &BTreeMap::new(), None).unwrap_err().to_string().contains("two tablespaces of OID")
        );
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, place: &str| (tablespace(name, ""), dir.path().join(place));
        let nested = [at("a", "ts/inner"), at("b", "ts")];
        let error = check_empty(&dir.path().join("data"), &nested).unwrap_err();
        assert!(error.to_string().contains("lies in that of tablespace \"b\""), "{error}");
        assert!(check_empty(&dir.path().join("data"), &[at("a", "ts/inner"), at("b", "ts2")]).is_ok());
    }

    #[test]
    fn a_directory_with_anything_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_empty(dir.path(), &[]).is_ok());
        assert!(check_empty(&dir.path().join("absent"), &[]).is_ok());
        std::fs::write(dir.path().join("postmaster.pid"), "1").unwrap();
        assert!(check_empty(dir.path(), &[]).unwrap_err().to_string().contains("a server runs there"));
        std::fs::remove_file(dir.path().join("postmaster.pid")).unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert!(check_empty(dir.path(), &[]).unwrap_err().to_string().contains("not empty"));
    }

    #[test]
    fn a_tablespace_inside_the_data_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inside = (tablespace("a", ""), dir.path().join("data/ts"));
        assert!(check_empty(&dir.path().join("data"), &[inside]).is_err());
    }
}
