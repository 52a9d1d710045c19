//! Which files of a data directory or tablespace belong into a base backup, found in one streaming walk.
//!
//! The rules are those of PostgreSQL's own `BASE_BACKUP` (`src/backend/backup/basebackup.c` of version 18); names that
//! older versions do not have do no harm there.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind as IoErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::relation_file::{self, RelationFile};
use crate::domain::cluster::ServerVersion;
use crate::error::{Error, Result};

/// How deep directories may nest: PostgreSQL's own go four deep, and a link to a directory may lead anywhere.
const MAX_DEPTH: usize = 64;

/// Directories kept empty wherever they are: the server clears or recreates what is in them when it starts.
const EMPTIED_DIRECTORIES: [&str; 7] =
    ["pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

/// Where servers keep their logs inside the data directory; kept empty on request.
const LOG_DIRECTORIES: [&str; 2] = ["log", "pg_log"];

/// Files left out wherever they are. Old copies (`backup_label.old`) are kept, as PostgreSQL does.
const LEFT_OUT: [&str; 8] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    ".DS_Store",
];

/// Names beginning so are left out wherever they are: relation caches and temporary files.
const LEFT_OUT_PREFIXES: [&str; 2] = ["pg_internal.init", "pgsql_tmp"];

/// Files left out of the data directory itself: leftovers of recovery would decide how a restored copy starts.
/// PostgreSQL copies these; a restore writes its own.
const RECOVERY_FILES: [&str; 4] = ["recovery.signal", "standby.signal", "recovery.conf", "recovery.done"];

/// The directory to walk: PGDATA or one tablespace.
#[derive(Debug, Clone)]
pub struct WalkRoot {
    /// An absolute path.
    source: PathBuf,
    family: Family,
    /// Tablespaces that lie inside PGDATA: walked on their own, not as data.
    excluded: Vec<PathBuf>,
    /// Paths in the archive that something else will take.
    replaced: Vec<PathBuf>,
    /// Whether directories of logs become empty ones.
    empties_logs: bool,
}

#[derive(Debug, Clone)]
enum Family {
    DataDirectory {
        /// From version 17 on there is `pg_wal/summaries`.
        has_summaries: bool,
    },
    Tablespace {
        /// `PG_<major>_<catalog version>`.
        directory: String,
    },
}

impl WalkRoot {
    /// The data directory `pgdata` of a server of `version`.
    ///
    /// `excluded` are the absolute locations of tablespaces: one that lies inside `pgdata` keeps its directory, but its
    /// content is left to its own walk.
    #[must_use]
    pub fn data_directory(pgdata: &Path, version: ServerVersion, excluded: Vec<PathBuf>) -> Self {
        let family = Family::DataDirectory { has_summaries: version.major() >= 17 };
        Self { source: pgdata.to_owned(), family, excluded, replaced: Vec::new(), empties_logs: false }
    }

    /// A tablespace at `location`; of it, only the `directory` of this server's version (`PG_15_202209061`).
    #[must_use]
    pub fn tablespace(location: &Path, directory: String) -> Self {
        let family = Family::Tablespace { directory };
        Self { source: location.to_owned(), family, excluded: Vec::new(), replaced: Vec::new(), empties_logs: false }
    }

    /// Leaves out what lies under these paths in the archive, because the caller puts something else there.
    #[must_use]
    pub fn without(mut self, replaced: Vec<PathBuf>) -> Self {
        self.replaced = replaced;
        self
    }

    /// Leaves out what is in `log` and `pg_log` of the data directory, as Barman 3.19.1 does.
    #[must_use]
    pub fn without_logs(mut self) -> Self {
        self.empties_logs = true;
        self
    }
}

/// One thing to archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkEntry {
    /// Its path in the archive, relative and without `.` in front; `.` for the data directory itself.
    pub path: PathBuf,
    /// Where to read it.
    pub source: PathBuf,
    /// What it is.
    pub kind: WalkKind,
    /// Permission bits, without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change, in seconds since 1970.
    pub mtime_s: i64,
    /// Bytes of a file when it was seen; it may have grown or shrunk since. 0 for the others.
    pub size: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkKind {
    /// A directory; its content follows.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link that leads to nothing, or to no file, and what it says.
    Symlink(PathBuf),
}

/// Calls `visit` for everything below `root` that belongs into a base backup, directories before their content.
///
/// The order is the file system's. Memory depends on the depth only. `global/pg_control` is not visited: the caller
/// archives it last. What vanishes meanwhile is passed over. Links to files are followed, for a copy must stand on its own; those to directories too, with a warning,
/// except `pg_wal` and the like, which become empty directories, and links in `pg_tblspc`, which are left out.
/// Blocking. Errors: `Local` naming the path, or whatever `visit` returns.
pub fn walk(root: &WalkRoot, visit: &mut dyn FnMut(WalkEntry) -> Result<()>) -> Result<()> {
    let identity = |path: &PathBuf| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let excluded = root.excluded.iter().filter_map(identity).collect();
    let mut walk = Walk { root, visit, excluded, parents: Vec::new(), last_relation: None };
    match &root.family {
        Family::DataDirectory { .. } => {
            let metadata =
                fs::metadata(&root.source).map_err(|cause| Error::local("read directory", &root.source, cause))?;
            walk.emit(Path::new("."), &root.source, WalkKind::Directory, &metadata)?;
            walk.content(Path::new(""), &root.source, &metadata)
        }
        Family::Tablespace { directory } => {
            let source = root.source.join(directory);
            match present(fs::metadata(&source)).map_err(|cause| Error::local("read directory", &source, cause))? {
                Some(metadata) => walk.directory(Path::new(directory), &source, &metadata),
                // No object was ever made in it, or it was dropped a moment ago.
                None => Ok(()),
            }
        }
    }
}

struct Walk<'a> {
    root: &'a WalkRoot,
    visit: &'a mut dyn FnMut(WalkEntry) -> Result<()>,
    /// Device and inode of excluded directories: paths may be spelled in more than one way.
    excluded: Vec<(u64, u64)>,
    /// Device and inode of the directories we are in, to see when a link leads back.
    parents: Vec<(u64, u64)>,
    /// The last relation looked at and whether it is unlogged: files of one often come together.
    last_relation: Option<(PathBuf, u32, bool)>,
}

impl Walk<'_> {
    /// Archives a directory and what is in it.
    fn directory(&mut self, path: &Path, source: &Path, metadata: &Metadata) -> Result<()> {
        self.emit(path, source, WalkKind::Directory, metadata)?;
        if self.excluded.contains(&(metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        self.content(path, source, metadata)
    }

    fn content(&mut self, path: &Path, source: &Path, metadata: &Metadata) -> Result<()> {
        if self.parents.len() >= MAX_DEPTH {
            let cause = io::Error::other(format!("it lies more than {MAX_DEPTH} directories deep"));
            return Err(Error::local("archive directory", source, cause));
        }
        let failed = |cause| Error::local("read directory", source, cause);
        let Some(entries) = present(fs::read_dir(source)).map_err(failed)? else { return Ok(()) };
        self.parents.push((metadata.dev(), metadata.ino()));
        let holds_relations = self.holds_relations(path);
        for entry in entries {
            let Some(entry) = present(entry).map_err(failed)? else { continue };
            let name = entry.file_name();
            if self.is_left_out(path, source, &name, holds_relations)? {
                continue;
            }
            self.entry(&path.join(&name), &entry.path(), &name)?;
        }
        self.parents.pop();
        Ok(())
    }

    /// Archives one name of a directory, whatever it is.
    fn entry(&mut self, path: &Path, source: &Path, name: &OsStr) -> Result<()> {
        let failed = |cause| Error::local("examine", source, cause);
        let Some(link) = present(fs::symlink_metadata(source)).map_err(failed)? else { return Ok(()) };
        let is_link = link.file_type().is_symlink();
        let target = if is_link { present(fs::metadata(source)).map_err(failed)? } else { None };
        let metadata = target.as_ref().unwrap_or(&link);
        if metadata.is_dir() || is_link {
            if self.is_pg_wal(path) {
                return self.pg_wal(path, source, metadata);
            }
            let is_logs = self.root.empties_logs
                && path.parent() == Some(Path::new(""))
                && LOG_DIRECTORIES.iter().any(|logs| name == *logs);
            if metadata.is_dir() && (is_logs || EMPTIED_DIRECTORIES.iter().any(|emptied| name == *emptied)) {
                return self.emit(path, source, WalkKind::Directory, metadata);
            }
            // Links to tablespaces: these are walked on their own, and a restore makes the links anew.
            if is_link && self.is_data_directory() && path.parent() == Some(Path::new("pg_tblspc")) {
                return Ok(());
            }
        }
        if metadata.is_dir() {
            if is_link {
                return self.linked_directory(path, source, metadata);
            }
            return self.directory(path, source, metadata);
        }
        if metadata.is_file() {
            if is_link {
                tracing::debug!("\"{}\" is a link; the file it leads to is archived in its place", source.display());
            }
            return self.emit(path, source, WalkKind::File, metadata);
        }
        if is_link {
            let Some(target) = present(fs::read_link(source)).map_err(failed)? else { return Ok(()) };
            return self.emit(path, source, WalkKind::Symlink(target), &link);
        }
        let kind = if metadata.file_type().is_socket() { "socket" } else { "special file" };
        tracing::debug!("{kind} \"{}\" is left out of the backup", source.display());
        Ok(())
    }

    fn linked_directory(&mut self, path: &Path, source: &Path, metadata: &Metadata) -> Result<()> {
        if self.parents.contains(&(metadata.dev(), metadata.ino())) {
            tracing::warn!(
                "\"{}\" is a link to a directory it lies in; it is left out of the backup",
                source.display()
            );
            return Ok(());
        }
        tracing::warn!("\"{}\" is a link to a directory; its content is archived as a directory", source.display());
        self.directory(path, source, metadata)
    }

    /// `pg_wal` is kept empty, with the directories the server wants to find in it.
    fn pg_wal(&mut self, path: &Path, source: &Path, metadata: &Metadata) -> Result<()> {
        self.emit(path, source, WalkKind::Directory, metadata)?;
        self.emit(&path.join("archive_status"), &source.join("archive_status"), WalkKind::Directory, metadata)?;
        if let Family::DataDirectory { has_summaries: true } = self.root.family {
            self.emit(&path.join("summaries"), &source.join("summaries"), WalkKind::Directory, metadata)?;
        }
        Ok(())
    }

    fn is_data_directory(&self) -> bool {
        matches!(self.root.family, Family::DataDirectory { .. })
    }

    fn is_pg_wal(&self, path: &Path) -> bool {
        self.is_data_directory() && path == Path::new("pg_wal")
    }

    fn is_left_out(&mut self, parent: &Path, source: &Path, name: &OsStr, relations: Relations) -> Result<bool> {
        if self
            .root
            .replaced
            .iter()
            .any(|replaced| replaced.parent() == Some(parent) && replaced.file_name() == Some(name))
        {
            return Ok(true);
        }
        // Names PostgreSQL gives are ASCII; another name is none of those to leave out.
        let Some(name) = name.to_str() else { return Ok(false) };
        if LEFT_OUT.contains(&name) || LEFT_OUT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Ok(true);
        }
        if self.is_data_directory() && parent == Path::new("") && RECOVERY_FILES.contains(&name) {
            return Ok(true);
        }
        if self.is_data_directory() && parent == Path::new("global") && name == "pg_control" {
            return Ok(true);
        }
        match relations {
            Relations::None => Ok(false),
            Relations::OfDatabase if relation_file::is_temporary(name) => Ok(true),
            Relations::OfDatabase | Relations::Shared => match RelationFile::parse(name) {
                Some(file) if !file.is_init_fork => self.is_unlogged(source, file.number),
                _ => Ok(false),
            },
        }
    }

    /// An unlogged relation has an init fork, and is emptied from it when recovery ends: the rest need not be kept.
    fn is_unlogged(&mut self, directory: &Path, number: u32) -> Result<bool> {
        if let Some((last_directory, last, unlogged)) = &self.last_relation
            && *last == number
            && last_directory == directory
        {
            return Ok(*unlogged);
        }
        let init_fork = directory.join(format!("{number}_init"));
        let found = present(fs::symlink_metadata(&init_fork));
        let unlogged = found.map_err(|cause| Error::local("examine", &init_fork, cause))?.is_some();
        self.last_relation = Some((directory.to_owned(), number, unlogged));
        Ok(unlogged)
    }

    /// Which relations lie directly in the directory with this path in the archive.
    fn holds_relations(&self, path: &Path) -> Relations {
        let names: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
        let names = names.unwrap_or_default();
        match (&self.root.family, names.as_slice()) {
            (Family::DataDirectory { .. }, ["global"]) => Relations::Shared,
            (Family::DataDirectory { .. }, ["base", database]) if relation_file::is_oid(database) => {
                Relations::OfDatabase
            }
            // An in-place tablespace.
            (Family::DataDirectory { .. }, ["pg_tblspc", _, version, database])
                if version.starts_with("PG_") && relation_file::is_oid(database) =>
            {
                Relations::OfDatabase
            }
            (Family::Tablespace { .. }, [_, database]) if relation_file::is_oid(database) => Relations::OfDatabase,
            _ => Relations::None,
        }
    }

    fn emit(&mut self, path: &Path, source: &Path, kind: WalkKind, metadata: &Metadata) -> Result<()> {
        let size = if kind == WalkKind::File { metadata.len() } else { 0 };
        (self.visit)(WalkEntry {
            path: path.to_owned(),
            source: source.to_owned(),
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime_s: metadata.mtime(),
            size,
        })
    }
}

/// What kind of relations a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relations {
    None,
    /// `global`: no temporary ones.
    Shared,
    OfDatabase,
}

/// Files come and go under a running server: one that is gone is no error.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(cause) if cause.kind() == IoErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn data_directory(source: &Path, major: u32, excluded: &[&Path]) -> WalkRoot {
        let excluded = excluded.iter().map(|path| (*path).to_owned()).collect();
        WalkRoot::data_directory(source, ServerVersion(major * 10_000), excluded)
    }

    fn files(root: &Path, paths: &[&str]) {
        for path in paths {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if path.to_str().unwrap().ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::write(path, "x").unwrap();
            }
        }
    }

    /// Directories with a slash at the end, links with their target.
    fn names(root: &WalkRoot) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        walk(root, &mut |entry| {
            let path = entry.path.display();
            let name = match entry.kind {
                WalkKind::Directory => format!("{path}/"),
                WalkKind::File => path.to_string(),
                WalkKind::Symlink(target) => format!("{path} -> {}", target.display()),
            };
            assert!(seen.insert(name), "visited twice: {path}");
            Ok(())
        })
        .unwrap();
        seen
    }

    fn expect(root: &WalkRoot, expected: &[&str]) {
        assert_eq!(names(root), expected.iter().map(|name| (*name).to_owned()).collect());
    }

    #[test]
    fn what_the_server_recreates_is_left_out() {
        let pgdata = tempfile::tempdir().unwrap();
        files(
            pgdata.path(),
            &["PG_VERSION", "backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old"],
        );
        files(pgdata.path(), &["backup_manifest", "postmaster.pid", "postmaster.opts", "postgresql.auto.conf"]);
        files(pgdata.path(), &["postgresql.auto.conf.tmp", "current_logfiles", "current_logfiles.tmp"]);
        files(pgdata.path(), &["recovery.signal", "standby.signal", "recovery.conf", "recovery.done", "log/a.log"]);
        files(pgdata.path(), &["pg_replslot/s/state", "pg_stat_tmp/x", "pg_notify/0000", "pg_subtrans/0000"]);
        files(pgdata.path(), &["pg_wal/000000010000000000000001", "pg_wal/archive_status/x.ready", "pg_xact/0000"]);
        files(pgdata.path(), &["global/pg_control", "global/pg_internal.init", "global/1262", "base/pgsql_tmp/t/x"]);
        files(pgdata.path(), &["base/5/pg_internal.init.123", "base/5/recovery.signal"]);
        let expected = [
            "./",
            "PG_VERSION",
            "backup_label.old",
            "base/",
            "base/5/",
            "base/5/recovery.signal",
            "current_logfiles",
            "global/",
            "global/1262",
            "log/",
            "log/a.log",
            "pg_notify/",
            "pg_replslot/",
            "pg_stat_tmp/",
            "pg_subtrans/",
            "pg_wal/",
            "pg_wal/archive_status/",
            "pg_xact/",
            "pg_xact/0000",
            "postgresql.auto.conf",
            "tablespace_map.old",
        ];
        expect(&data_directory(pgdata.path(), 16, &[]), &expected);
        let with_summaries = names(&data_directory(pgdata.path(), 17, &[]));
        assert!(with_summaries.contains("pg_wal/summaries/") && with_summaries.len() == expected.len() + 1);
    }

    #[test]
    fn unlogged_relations_keep_their_init_fork_and_temporary_ones_nothing() {
        let pgdata = tempfile::tempdir().unwrap();
        files(
            pgdata.path(),
            &["base/5/10", "base/5/10.1", "base/5/10_fsm", "base/5/10_init", "base/5/11", "base/5/11_vm"],
        );
        files(pgdata.path(), &["base/5/t3_10", "base/5/t3_10_fsm", "global/20", "global/20_init", "global/t3_10"]);
        files(pgdata.path(), &["elsewhere/10", "elsewhere/10_init", "elsewhere/t3_10", "base/x5/t3_10"]);
        let expected = [
            "./",
            "base/",
            "base/5/",
            "base/5/10_init",
            "base/5/11",
            "base/5/11_vm",
            "base/x5/",
            "base/x5/t3_10",
            "elsewhere/",
            "elsewhere/10",
            "elsewhere/10_init",
            "elsewhere/t3_10",
            "global/",
            "global/20_init",
            "global/t3_10",
        ];
        expect(&data_directory(pgdata.path(), 15, &[]), &expected);
    }

    #[test]
    fn links_are_followed_kept_or_emptied() {
        let pgdata = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        files(outside.path(), &["wal/000000010000000000000001", "log/a.log", "stat/x", "ts/PG_15_1/5/10", "my.conf"]);
        for (name, target) in [("pg_wal", "wal"), ("log", "log"), ("pg_stat_tmp", "stat"), ("my.conf", "my.conf")] {
            symlink(outside.path().join(target), pgdata.path().join(name)).unwrap();
        }
        symlink("nowhere", pgdata.path().join("dangling")).unwrap();
        symlink(".", pgdata.path().join("loop")).unwrap();
        fs::create_dir(pgdata.path().join("pg_tblspc")).unwrap();
        symlink(outside.path().join("ts"), pgdata.path().join("pg_tblspc/16385")).unwrap();
        files(pgdata.path(), &["pg_tblspc/16386/PG_15_1/5/10", "pg_tblspc/16386/PG_15_1/5/t1_2"]);
        let _socket = UnixListener::bind(pgdata.path().join("socket")).unwrap();
        let expected = [
            "./",
            "dangling -> nowhere",
            "log/",
            "log/a.log",
            "my.conf",
            "pg_stat_tmp/",
            "pg_tblspc/",
            "pg_tblspc/16386/",
            "pg_tblspc/16386/PG_15_1/",
            "pg_tblspc/16386/PG_15_1/5/",
            "pg_tblspc/16386/PG_15_1/5/10",
            "pg_wal/",
            "pg_wal/archive_status/",
        ];
        expect(&data_directory(pgdata.path(), 15, &[]), &expected);
    }

    #[test]
    fn a_tablespace_inside_the_data_directory_is_not_archived_twice() {
        let pgdata = tempfile::tempdir().unwrap();
        files(pgdata.path(), &["ts/PG_15_1/5/10", "PG_VERSION"]);
        let spelled_otherwise = pgdata.path().join("ts/../ts");
        expect(&data_directory(pgdata.path(), 15, &[&spelled_otherwise]), &["./", "PG_VERSION", "ts/"]);
    }

    #[test]
    fn of_a_tablespace_only_our_version_is_archived() {
        let location = tempfile::tempdir().unwrap();
        files(location.path(), &["PG_15_1/5/10", "PG_15_1/5/10_init", "PG_15_1/pgsql_tmp/x", "PG_14_1/5/10", "x"]);
        let root = |directory: &str| WalkRoot::tablespace(location.path(), directory.to_owned());
        expect(&root("PG_15_1"), &["PG_15_1/", "PG_15_1/5/", "PG_15_1/5/10_init"]);
        expect(&root("PG_16_1"), &[]);
    }

    #[test]
    fn a_missing_data_directory_is_an_error_and_so_is_a_visitor_s() {
        let root = data_directory(Path::new("/nonexistent/data"), 15, &[]);
        let error = walk(&root, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/data"), "{error}");
        let pgdata = tempfile::tempdir().unwrap();
        let root = data_directory(pgdata.path(), 15, &[]);
        assert!(walk(&root, &mut |_| Err(Error::usage("stop"))).is_err());
    }

    #[test]
    fn what_vanishes_meanwhile_is_passed_over() {
        let pgdata = tempfile::tempdir().unwrap();
        files(pgdata.path(), &["base/5/10", "base/6/10"]);
        let mut seen = 0;
        walk(&data_directory(pgdata.path(), 15, &[]), &mut |entry| {
            seen += 1;
            if entry.path == Path::new("base") {
                fs::remove_dir_all(&entry.source).unwrap();
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 2);
    }
}
