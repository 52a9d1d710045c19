//! Object keys of the Barman layout: where in the bucket a server's WAL and backups lie.

use std::fmt;

use crate::domain::backup::BackupId;
use crate::domain::compression::Compression;
use crate::domain::segment::{SegmentName, WalFileName};
use crate::domain::timeline::TimelineId;
use crate::error::{Error, Result};

/// File name of the metadata that makes a backup exist (Barman 3.19.1).
pub const BACKUP_INFO_NAME: &str = "backup.info";
/// File name of PostgreSQL's `backup_manifest`, compressed; Barman ignores it.
pub const BACKUP_MANIFEST_NAME: &str = "backup_manifest.zst";
/// File name of the index of a backup's parts; Barman ignores it.
pub const PART_INDEX_NAME: &str = "barback.json";
/// File name of the snapshot of a cluster's tables; Barman ignores it.
pub const TABLE_SNAPSHOT_NAME: &str = "barback-tables.json.zst";

/// One server's place in the bucket, `<path>/<server>/`, from which every key is made.
///
/// Keys are those of Barman 3.19.1, byte for byte; see `fixtures/barman-3.19.1/keys.txt`. Keys are written with
/// upper-case digits; readers take either case, and the caller keeps the listed key to ask the store for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPrefix {
    /// `<path>/`, or nothing when the server lies at the top of the bucket.
    path: String,
    /// `<server>/`.
    server: String,
}

impl ServerPrefix {
    /// The place of `server` under `path` in the bucket; slashes around `path` do not count.
    ///
    /// Errors: `Usage` for a server name that is empty, `.`, `..` or has a `/` or control characters in it, and for
    /// a path with control characters or with `.` or `..` among its directories.
    pub fn new(path: &str, server: &str) -> Result<Self> {
        if server.contains('/') {
            return Err(refused("server name", server, "it has a \"/\" in it"));
        }
        Self::nested(path, server)
    }

    /// The same where `server` may be several directories, one in another: Barman 3.19.1 takes any text.
    pub fn nested(path: &str, server: &str) -> Result<Self> {
        let path = path.trim_matches('/');
        let refuse = |what: &str, name: &str, why: &str| Err(refused(what, name, why));
        if server.is_empty() {
            refuse("server name", server, "it is empty")
        } else if server.split('/').any(str::is_empty) {
            refuse("server name", server, "it has a directory without a name in it")
        } else if server.split('/').any(is_dots) {
            refuse("server name", server, "it names a directory relative to another")
        } else if server.chars().any(char::is_control) {
            refuse("server name", server, "it has control characters in it")
        } else if path.chars().any(char::is_control) {
            refuse("path", path, "it has control characters in it")
        } else if path.split('/').any(is_dots) {
            refuse("path", path, "\".\" and \"..\" mean nothing in a bucket")
        } else {
            let path = if path.is_empty() { String::new() } else { format!("{path}/") };
            Ok(Self { path, server: format!("{server}/") })
        }
    }

    /// The server's name.
    #[must_use]
    pub fn server(&self) -> &str {
        self.server.trim_end_matches('/')
    }

    /// The prefix of everything of this server: `P/S/`.
    #[must_use]
    pub fn root(&self) -> String {
        format!("{}{}", self.path, self.server)
    }

    /// The prefix of all WAL: `P/S/wals/`.
    #[must_use]
    pub fn wals(&self) -> String {
        format!("{self}wals/")
    }

    /// The prefix of all backups: `P/S/base/`.
    #[must_use]
    pub fn base(&self) -> String {
        format!("{self}base/")
    }

    /// A WAL file's key without a compression suffix: `P/S/wals/<hash directory>/<name>`.
    ///
    /// The hash directory is the first 16 digits of the name; timeline histories lie in none.
    #[must_use]
    pub fn wal(&self, name: &WalFileName) -> String {
        match name.segment() {
            Some(segment) => format!("{}{name}", self.wal_directory(&segment)),
            None => format!("{self}wals/{name}"),
        }
    }

    /// The hash directory of a segment and its companions: `P/S/wals/<first 16 digits>/`.
    #[must_use]
    pub fn wal_directory(&self, segment: &SegmentName) -> String {
        format!("{self}wals/{:08X}{:08X}/", segment.timeline.number(), segment.log)
    }

    /// The timeline whose segments `key` (`P/S/wals/<16 digits>/`) is a hash directory of.
    #[must_use]
    pub fn timeline_of_wal_directory(&self, key: &str) -> Option<TimelineId> {
        let digits = self.below(key)?.strip_prefix("wals/")?.strip_suffix('/')?;
        let is_hash = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then(|| u32::from_str_radix(&digits[..8], 16).ok()).flatten().and_then(TimelineId::new)
    }

    /// The prefix of all objects of a backup: `P/S/base/<id>/`.
    #[must_use]
    pub fn backup_dir(&self, id: &BackupId) -> String {
        format!("{self}base/{id}/")
    }

    /// The key of a backup's metadata.
    #[must_use]
    pub fn backup_info(&self, id: &BackupId) -> String {
        format!("{self}base/{id}/{BACKUP_INFO_NAME}")
    }

    /// The key of the annotation that protects a backup from expiry; its content is `full` or `standalone`.
    #[must_use]
    pub fn keep_annotation(&self, id: &str) -> String {
        format!("{self}base/{id}/annotations/keep")
    }

    /// Where Barman 3.19.1 puts the keep annotation when its URL ends in `/`: `P//S/base/<id>/annotations/keep`.
    ///
    /// None when the path is empty, for then both places are the same. Readers look in both.
    #[must_use]
    pub fn keep_annotation_of_slashed_url(&self, id: &str) -> Option<String> {
        (!self.path.is_empty()).then(|| format!("{}/{}base/{id}/annotations/keep", self.path, self.server))
    }

    /// The key of a backup's `backup_manifest`, zstd-compressed.
    #[must_use]
    pub fn backup_manifest(&self, id: &BackupId) -> String {
        format!("{self}base/{id}/{BACKUP_MANIFEST_NAME}")
    }

    /// The key of a backup's index of parts.
    #[must_use]
    pub fn part_index(&self, id: &BackupId) -> String {
        format!("{self}base/{id}/{PART_INDEX_NAME}")
    }

    /// The key of a backup's snapshot of tables, zstd-compressed.
    #[must_use]
    pub fn table_snapshot(&self, id: &BackupId) -> String {
        format!("{self}base/{id}/{TABLE_SNAPSHOT_NAME}")
    }

    /// The key of one tar archive of a backup; see [`part_file_name`].
    #[must_use]
    pub fn part(&self, id: &BackupId, family: &PartFamily, number: u32, compression: Compression) -> String {
        format!("{self}base/{id}/{}", part_file_name(*family, number, compression))
    }

    /// The prefix of what running expiries say of themselves: `P/S/barback/expiry/`.
    #[must_use]
    pub fn expiries(&self) -> String {
        format!("{self}barback/expiry/")
    }

    /// The key of what one running expiry says of itself.
    #[must_use]
    pub fn expiry(&self, id: &str) -> String {
        format!("{self}barback/expiry/{id}.json")
    }

    /// The key by which a store is asked whether it honours create-only writes: `P/S/barback/create-only-probe`.
    #[must_use]
    pub fn dialect_probe(&self) -> String {
        format!("{self}barback/create-only-probe")
    }

    /// The prefix of everything that is barback's own, beside Barman's `base/` and `wals/`: `P/S/barback/`.
    pub fn ours(&self) -> String {
        format!("{self}barback/")
    }

    /// The key of the cache of the catalogue's small objects: `P/S/barback/catalogue.json.zst`.
    pub fn catalog_cache(&self) -> String {
        format!("{self}barback/catalogue.json.zst")
    }

    /// Where Barman 3.19.1 puts keep annotations when its URL ends in `/`: `P//S/base/`; none when the path is empty.
    pub fn base_of_slashed_url(&self) -> Option<String> {
        (!self.path.is_empty()).then(|| format!("{}/{}base/", self.path, self.server))
    }

    /// The key of the record of which cluster this place belongs to: `P/S/barback/identity.json`.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{self}barback/identity.json")
    }

    /// The prefix of what verifications left: `P/S/barback/verify/`.
    #[must_use]
    pub fn verifications(&self) -> String {
        format!("{self}barback/verify/")
    }

    /// The prefix of what drills left: `P/S/barback/drills/`.
    #[must_use]
    pub fn drills(&self) -> String {
        format!("{self}barback/drills/")
    }

    /// The key of one drill's record, by its place in the row: `P/S/barback/drills/00000001.json`.
    #[must_use]
    pub fn drill(&self, sequence: u64) -> String {
        format!("{self}barback/drills/{sequence:08}.json")
    }

    /// The place in the row of the drill whose record `key` is; none for any key that [`Self::drill`] does not make.
    #[must_use]
    pub fn drill_from_key(&self, key: &str) -> Option<u64> {
        let digits = key.strip_prefix(&self.drills())?.strip_suffix(".json")?;
        let sequence = digits.parse().ok().filter(|sequence| *sequence > 0)?;
        (self.drill(sequence) == key).then_some(sequence)
    }

    /// The WAL file `key` holds; none for anything that is no WAL file in its right directory.
    #[must_use]
    pub fn wal_from_key(&self, key: &str) -> Option<(WalFileName, Compression)> {
        let below = self.below(key)?.strip_prefix("wals/")?;
        let (directory, file) = match below.split_once('/') {
            Some((directory, file)) => (Some(directory), file),
            None => (None, below),
        };
        let (plain, compression) = Compression::split_suffix(file);
        let name: WalFileName = plain.parse().ok()?;
        let hash = name.segment().map(|segment| format!("{:08X}{:08X}", segment.timeline.number(), segment.log));
        let in_place = match (directory, hash) {
            (Some(directory), Some(hash)) => directory.eq_ignore_ascii_case(&hash),
            (None, None) => true,
            _ => false,
        };
        in_place.then_some((name, compression))
    }

    /// The backup whose directory `key` is: `P/S/base/<id>` with or without a `/` at the end.
    #[must_use]
    pub fn backup_from_dir_key(&self, key: &str) -> Option<BackupId> {
        let below = self.below(key)?.strip_prefix("base/")?;
        below.strip_suffix('/').unwrap_or(below).parse().ok()
    }

    /// The backup an object belongs to, and the object's name inside the backup's directory.
    #[must_use]
    pub fn backup_from_key<'k>(&self, key: &'k str) -> Option<(BackupId, &'k str)> {
        let (id, file) = self.below(key)?.strip_prefix("base/")?.split_once('/')?;
        (!file.is_empty()).then_some((id.parse().ok()?, file))
    }

    /// The part of backup `id` that `key` holds: its family, number and compression.
    #[must_use]
    pub fn part_from_key(&self, id: &BackupId, key: &str) -> Option<(PartFamily, u32, Compression)> {
        let (of, file) = self.backup_from_key(key)?;
        (of == *id).then(|| parse_part_file_name(file)).flatten()
    }

    fn below<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.path.as_str())?.strip_prefix(self.server.as_str())
    }
}

impl fmt::Display for ServerPrefix {
    /// The prefix of everything of this server, `P/S/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, self.server)
    }
}

/// What a tar archive holds: the data directory or one tablespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartFamily {
    /// The data directory: `data`.
    Data,
    /// The tablespace with this OID: `<oid>`.
    Tablespace(u32),
}

impl fmt::Display for PartFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.write_str("data"),
            Self::Tablespace(oid) => write!(f, "{oid}"),
        }
    }
}

/// A part's file name: `data.tar.zst` for number 0, `data_0001.tar.zst` for 1, five digits from 10000 on.
///
/// Barman 3.19.1 reads parts in the order of their names, which is that of their numbers up to 9999.
#[must_use]
pub fn part_file_name(family: PartFamily, number: u32, compression: Compression) -> String {
    let suffix = compression.suffix();
    match number {
        0 => format!("{family}.tar{suffix}"),
        _ => format!("{family}_{number:04}.tar{suffix}"),
    }
}

/// Reads a part's file name; none for any name that [`part_file_name`] does not make.
#[must_use]
pub fn parse_part_file_name(name: &str) -> Option<(PartFamily, u32, Compression)> {
    let (plain, compression) = Compression::split_suffix(name);
    let stem = plain.strip_suffix(".tar")?;
    let (family, digits) = stem.split_once('_').unwrap_or((stem, "0"));
    let family = match family {
        "data" => PartFamily::Data,
        oid => PartFamily::Tablespace(oid.parse().ok()?),
    };
    let number = digits.parse().ok()?;
    // Signs, missing or superfluous zeros: whatever is not written so is not ours.
    (part_file_name(family, number, compression) == name).then_some((family, number, compression))
}

fn refused(what: &str, name: &str, why: &str) -> Error {
    Error::usage(format!("could not use {what} \"{}\": {why}", name.escape_debug()))
}

fn is_dots(name: &str) -> bool {
    name == "." || name == ".."
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::segment::SegmentName;
    use crate::domain::timeline::TimelineId;
    use crate::error::ErrorKind;

    fn id() -> BackupId {
        "20261123T083817".parse().unwrap()
    }

    fn prefix() -> ServerPrefix {
        ServerPrefix::new("pfx", "main").unwrap()
    }

    /// Takes a key apart and builds it anew from what was found.
    fn rebuilt(prefix: &ServerPrefix, key: &str) -> Option<String> {
        if let Some((name, compression)) = prefix.wal_from_key(key) {
            return Some(format!("{}{}", prefix.wal(&name), compression.suffix()));
        }
        let (id, file) = prefix.backup_from_key(key)?;
        match file {
            "backup.info" => Some(prefix.backup_info(&id)),
            "annotations/keep" => Some(prefix.keep_annotation(id.as_str())),
            _ => {
                let (family, number, compression) = prefix.part_from_key(&id, key)?;
                Some(prefix.part(&id, &family, number, compression))
            }
        }
    }

    #[test]
    fn every_key_barman_wrote_is_read_and_built_again() {
        let listing = include_str!("../../fixtures/barman-3.19.1/keys.txt");
        let keys: Vec<&str> = listing.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
        assert_eq!(keys.len(), 58);
        for key in keys {
            assert_eq!(rebuilt(&prefix(), key).as_deref(), Some(key));
        }
    }

    #[test]
    fn a_hash_directory_tells_its_timeline_and_nothing_else_does() {
        let timeline = |key: &str| prefix().timeline_of_wal_directory(key).map(TimelineId::number);
        assert_eq!(timeline("pfx/main/wals/0000000a00000001/"), Some(10));
        for other in
            ["0000000000000001/", "0000000a00000001", "0000000a0000000/", "éééééééé/", "x000000a00000001/", "/"]
        {
            assert_eq!(timeline(&format!("pfx/main/wals/{other}")), None, "{other}");
        }
        assert_eq!(timeline("pfx/other/wals/0000000a00000001/"), None);
    }

    #[test]
    fn a_drill_s_number_is_read_from_its_key_and_from_no_other() {
        for sequence in [1, 12, 99_999_999, 100_000_000, u64::MAX] {
            assert_eq!(prefix().drill_from_key(&prefix().drill(sequence)), Some(sequence));
        }
        for other in [
            "00000000.json",
            "1.json",
            "000000001.json",
            "+0000001.json",
            "00000001.JSON",
            "00000001",
            "sub/00000001.json",
        ] {
            assert_eq!(prefix().drill_from_key(&format!("pfx/main/barback/drills/{other}")), None, "{other}");
        }
        assert_eq!(prefix().drill_from_key("pfx/other/barback/drills/00000001.json"), None);
    }

    #[test]
    fn keys_are_those_of_the_layout() {
        let segment: WalFileName = "00000002000000010000000a".parse().unwrap();
        let table = [
            (prefix().root(), "pfx/main/"),
            (prefix().wals(), "pfx/main/wals/"),
            (prefix().base(), "pfx/main/base/"),
            (prefix().backup_dir(&id()), "pfx/main/base/20261123T083817/"),
            (prefix().backup_info(&id()), "pfx/main/base/20261123T083817/backup.info"),
            (prefix().keep_annotation(id().as_str()), "pfx/main/base/20261123T083817/annotations/keep"),
            (prefix().backup_manifest(&id()), "pfx/main/base/20261123T083817/backup_manifest.zst"),
            (prefix().part_index(&id()), "pfx/main/base/20261123T083817/barback.json"),
            (prefix().table_snapshot(&id()), "pfx/main/base/20261123T083817/barback-tables.json.zst"),
            (prefix().dialect_probe(), "pfx/main/barback/create-only-probe"),
            (prefix().identity(), "pfx/main/barback/identity.json"),
            (prefix().wal_directory(&segment.segment().unwrap()), "pfx/main/wals/0000000200000001/"),
            (prefix().wal(&segment), "pfx/main/wals/0000000200000001/00000002000000010000000A"),
            (
                prefix().part(&id(), &PartFamily::Data, 0, Compression::Zstd),
                "pfx/main/base/20261123T083817/data.tar.zst",
            ),
            (
                prefix().part(&id(), &PartFamily::Tablespace(16389), 12345, Compression::None),
                "pfx/main/base/20261123T083817/16389_12345.tar",
            ),
        ];
        for (built, expected) in table {
            assert_eq!(built, expected);
        }
    }

    #[test]
    fn slashes_around_the_path_do_not_count_and_it_may_be_empty() {
        assert_eq!(ServerPrefix::new("//a/b//", "main").unwrap().root(), "a/b/main/");
        assert_eq!(ServerPrefix::new("/", "main").unwrap().root(), "main/");
        assert_eq!(ServerPrefix::new("", "main").unwrap().keep_annotation_of_slashed_url(id().as_str()), None);
        assert_eq!(
            prefix().keep_annotation_of_slashed_url(id().as_str()).unwrap(),
            "pfx//main/base/20261123T083817/annotations/keep"
        );
    }

    #[test]
    fn a_server_of_barman_s_may_lie_deeper() {
        let nested = ServerPrefix::nested("", "pfx/main").unwrap();
        assert_eq!((nested.root(), nested.server()), ("pfx/main/".to_owned(), "pfx/main"));
        for server in ["/main", "main/", "a//b", "a/../b", "."] {
            assert!(ServerPrefix::nested("pfx", server).is_err(), "{server}");
        }
    }

    #[test]
    fn names_that_could_leave_the_prefix_are_usage_errors() {
        for (path, server) in
            [("", ""), ("", "."), ("p", ".."), ("p", "a/b"), ("p", "a\n"), ("a/../b", "m"), (".", "m"), ("a\0", "m")]
        {
            let refused = ServerPrefix::new(path, server).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Usage, "{path:?} {server:?}");
        }
    }

    #[test]
    fn wal_keys_of_either_case_are_read() {
        let expected: WalFileName = "0000000A000000010000000B".parse().unwrap();
        for key in [
            "pfx/main/wals/0000000a00000001/0000000a000000010000000b.gz",
            "pfx/main/wals/0000000A00000001/0000000a000000010000000B.gz",
        ] {
            assert_eq!(prefix().wal_from_key(key), Some((expected, Compression::Gzip)));
        }
    }

    #[test]
    fn objects_that_are_no_wal_in_its_place_are_passed_over() {
        for key in [
            "pfx/main/wals/0000000100000001/000000010000000000000008",
            "pfx/main/wals/000000010000000000000008",
            "pfx/main/wals/0000000100000000/00000001.history",
            "pfx/main/wals/0000000100000000/000000010000000000000008.gz.gz",
            "pfx/main/wals/0000000100000000/x/000000010000000000000008",
            "pfx/main/wals/0000000000000000/000000000000000000000008",
            "pfx/other/wals/00000002.history",
            "pfx/main/wals/",
            "pfx/mainwals/00000002.history",
            "",
        ] {
            assert_eq!(prefix().wal_from_key(key), None, "{key}");
        }
    }

    #[test]
    fn part_names_nobody_writes_are_passed_over() {
        for name in [
            "data_0000.tar",
            "data_001.tar",
            "data_00001.tar",
            "data_+001.tar",
            "data.tar.tar",
            "data.tgz",
            "016389.tar",
            "+1.tar",
            "4294967296.tar",
            "data_4294967296.tar",
            "Data.tar",
            "_0001.tar",
            "../data.tar",
            "é.tar",
            "",
        ] {
            assert_eq!(parse_part_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn directories_are_read_with_and_without_their_slash() {
        assert_eq!(prefix().backup_from_dir_key("pfx/main/base/20261123T083817/"), Some(id()));
        assert_eq!(prefix().backup_from_dir_key("pfx/main/base/20261123T083817"), Some(id()));
        assert_eq!(prefix().backup_from_dir_key("pfx/main/base/20261123T083817/backup.info"), None);
        assert_eq!(prefix().backup_from_dir_key("pfx/main/base/20261123T08381"), None);
        assert_eq!(prefix().backup_from_key("pfx/main/base/20261123T083817/"), None);
    }

    fn any_wal_name() -> impl Strategy<Value = WalFileName> {
        (1u32.., any::<u32>(), any::<u32>(), any::<u32>(), 0..4).prop_map(|(timeline, log, segment, offset, kind)| {
            let timeline = TimelineId::new(timeline).unwrap();
            let name = SegmentName { timeline, log, segment };
            match kind {
                0 => WalFileName::Segment(name),
                1 => WalFileName::Partial(name),
                2 => WalFileName::BackupHistory(name, offset),
                _ => WalFileName::TimelineHistory(timeline),
            }
        })
    }

    fn any_compression() -> impl Strategy<Value = Compression> {
        prop::sample::select(Compression::ALL.to_vec())
    }

    fn any_family() -> impl Strategy<Value = PartFamily> {
        prop_oneof![Just(PartFamily::Data), any::<u32>().prop_map(PartFamily::Tablespace)]
    }

    proptest! {
        #[test]
        fn a_wal_key_is_read_back(path in "[a-zé/ _.]{0,9}x", server in "[a-zé _.-]{1,9}x",
            name in any_wal_name(), compression in any_compression()) {
            let Ok(prefix) = ServerPrefix::new(&path, &server) else { return Ok(()) };
            let key = format!("{}{}", prefix.wal(&name), compression.suffix());
            prop_assert_eq!(prefix.wal_from_key(&key), Some((name, compression)));
        }

        #[test]
        fn a_part_key_is_read_back(family in any_family(), number: u32, compression in any_compression()) {
            let key = prefix().part(&id(), &family, number, compression);
            prop_assert_eq!(prefix().part_from_key(&id(), &key), Some((family, number, compression)));
        }

        #[test]
        fn hostile_keys_do_no_harm(key: String, below in "(wals|base)/[0-9A-Fa-fT._/é\u{0}]{0,60}") {
            for key in [key, format!("pfx/main/{below}")] {
                let _ = prefix().wal_from_key(&key);
                let _ = prefix().backup_from_dir_key(&key);
                let _ = prefix().backup_from_key(&key);
                let _ = prefix().part_from_key(&id(), &key);
                let _ = ServerPrefix::new(&key, &key);
            }
        }
    }
}
