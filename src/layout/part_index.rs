//! `barback.json`: what a backup consists of, so that every byte can be checked and a restore needs nothing else.

use std::collections::HashSet;
use std::fmt::{self, Display};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::backup::BackupId;
use crate::domain::cluster::{ServerVersion, SystemIdentifier};
use crate::domain::compression::Compression;
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentName;
use crate::domain::timeline::TimelineId;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::{BACKUP_MANIFEST_NAME, parse_part_file_name};

/// The version of the format this crate writes and reads.
pub const SCHEMA: u32 = 1;
/// How long an index may be. A part takes some 200 bytes; a backup has at most some thousands of them.
const MAX_BYTES: usize = 16 << 20;

/// The objects of one backup with their lengths and digests, and the WAL it needs.
///
/// Stored beside the parts as pretty-printed JSON; numbers beyond 2^53 and everything that is not a count is text.
/// Unknown fields are passed over, so that fields can be added without a new schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartIndex {
    /// The version of the format, [`SCHEMA`].
    pub schema: u32,
    /// The backup the parts belong to.
    #[serde(with = "as_text")]
    pub backup_id: BackupId,
    /// The cluster it was taken of.
    #[serde(with = "as_text")]
    pub system_identifier: SystemIdentifier,
    /// The server's `server_version_num`.
    #[serde(with = "version_as_text")]
    pub server_version: ServerVersion,
    /// The timeline it was taken on.
    #[serde(with = "as_text")]
    pub timeline: TimelineId,
    /// Where replay must begin.
    #[serde(with = "as_text")]
    pub begin_lsn: Lsn,
    /// Where replay must at least come to.
    #[serde(with = "as_text")]
    pub end_lsn: Lsn,
    /// The first WAL segment a restore needs.
    #[serde(with = "as_text")]
    pub begin_segment: SegmentName,
    /// The last WAL segment a restore needs in any case.
    #[serde(with = "as_text")]
    pub end_segment: SegmentName,
    /// How the parts are compressed.
    #[serde(with = "as_text")]
    pub compression: Compression,
    /// The tar archives, each name once.
    pub parts: Vec<Part>,
    /// PostgreSQL's `backup_manifest`, when one was written.
    pub manifest: Option<ManifestObject>,
    /// Relation files with damaged pages: none found when empty, none looked for when not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<Vec<DamagedFile>>,
    /// Pages that fail in the parts though they were sound a moment later: they were caught while they were written, and
    /// replay writes them anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub torn: Vec<DamagedFile>,
    /// The size of a data page; not there in indexes of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_bytes: Option<u32>,
}

/// A relation file whose pages were damaged when the backup read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// Its path in the data directory, as in the manifest: `base/5/16384.1`, `pg_tblspc/16400/PG_15_202209061/5/16384`.
    pub path: String,
    /// The first damaged blocks, numbered within the relation; a backup keeps 1000 in all.
    pub blocks: Vec<u32>,
    /// How many blocks are damaged.
    pub count: u64,
}

/// How many blocks of a file are named in one line.
const BLOCKS_SHOWN: usize = 10;
/// How many files are.
const FILES_SHOWN: usize = 10;

impl Display for DamagedFile {
    /// `"base/5/16384": blocks 7, 9 and 3 more`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.blocks.iter().take(BLOCKS_SHOWN).map(u32::to_string).collect();
        let word = if self.count == 1 { "block" } else { "blocks" };
        let more = self.count.saturating_sub(shown.len() as u64);
        match (shown.is_empty(), more) {
            (true, _) => write!(f, "\"{}\": {more} {word}", self.path),
            (false, 0) => write!(f, "\"{}\": {word} {}", self.path, shown.join(", ")),
            (false, _) => write!(f, "\"{}\": {word} {} and {more} more", self.path, shown.join(", ")),
        }
    }
}

/// The damage of a backup in one line, of which its length does not depend.
#[must_use]
pub fn damage_line(files: &[DamagedFile]) -> String {
    let mut shown: Vec<String> = files.iter().take(FILES_SHOWN).map(ToString::to_string).collect();
    if files.len() > FILES_SHOWN {
        shown.push(format!("and in {} more files", files.len() - FILES_SHOWN));
    }
    shown.join("; ")
}

/// One tar archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// File name in the backup's directory: `data_0001.tar.zst`.
    pub name: String,
    /// Length of the object.
    pub bytes: u64,
    /// SHA-256 of the object, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Length of the tar archive, uncompressed.
    pub content_bytes: u64,
    /// Regular files in it.
    pub files: u64,
}

/// The stored `backup_manifest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestObject {
    /// File name in the backup's directory, [`BACKUP_MANIFEST_NAME`].
    pub name: String,
    /// Length of the object.
    pub bytes: u64,
    /// SHA-256 of the object, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Length of the manifest, uncompressed.
    pub content_bytes: u64,
}

impl PartIndex {
    /// The index as JSON that people can read, with a line feed at the end.
    ///
    /// Errors: `Bug` when it is none that [`PartIndex::from_json`] would take.
    pub fn to_json(&self) -> Result<String> {
        let fail = |why: String| {
            Error::new(ErrorKind::Bug, format!("could not write part index of backup \"{}\": {why}", self.backup_id))
        };
        self.check().map_err(fail)?;
        let mut json =
            serde_json::to_string_pretty(self).map_err(|error| fail(error.to_string()).with_source(error))?;
        json.push('\n');
        Ok(json)
    }

    /// Reads an index.
    ///
    /// Errors: `Corrupt` for more than 16 MiB, for what is no such JSON, for a name that is no part's or is there
    /// twice, and for a digest that is none; `Mismatch` for another schema.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let corrupt = |why: String| Error::corrupt(format!("could not read part index: {why}"));
        if json.len() > MAX_BYTES {
            return Err(corrupt(format!("its {} bytes are more than {MAX_BYTES}", json.len())));
        }
        let read = |error: serde_json::Error| corrupt(error.to_string()).with_source(error);
        let Version { schema } = serde_json::from_slice(json).map_err(read)?;
        if schema != SCHEMA {
            let message = format!("could not read part index: its schema is {schema}, this program reads {SCHEMA}");
            return Err(Error::new(ErrorKind::Mismatch, message).with_hint("Use a newer version of barback."));
        }
        let index: Self = serde_json::from_slice(json).map_err(read)?;
        index.check().map_err(corrupt)?;
        Ok(index)
    }

    /// What types alone do not promise; the error is the reason.
    fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("its schema is {}, not {SCHEMA}", self.schema));
        }
        let mut names = HashSet::new();
        for Part { name, sha256, .. } in &self.parts {
            match parse_part_file_name(name) {
                None => return Err(format!("\"{}\" is not the name of a part", name.escape_debug())),
                Some((.., compression)) if compression != self.compression => {
                    return Err(format!("part \"{name}\" is not compressed with {}", self.compression));
                }
                Some(_) if !names.insert(name) => return Err(format!("part \"{name}\" is there twice")),
                Some(_) => check_digest(name, sha256)?,
            }
        }
        match &self.manifest {
            Some(manifest) if manifest.name != BACKUP_MANIFEST_NAME => {
                Err(format!("the manifest is called \"{}\", not {BACKUP_MANIFEST_NAME}", manifest.name.escape_debug()))
            }
            Some(manifest) => check_digest(&manifest.name, &manifest.sha256),
            None => Ok(()),
        }
    }
}

/// What is read first, so that another schema is told from damage.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

fn check_digest(name: &str, sha256: &str) -> Result<(), String> {
    let valid = sha256.len() == 64 && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if valid { Ok(()) } else { Err(format!("\"{}\" of \"{name}\" is no SHA-256", sha256.escape_debug())) }
}

/// Any type of the domain as the text it is written as everywhere else.
pub(super) mod as_text {
    use std::str::FromStr;

    use super::{Deserialize, Deserializer, Display, Serializer};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `server_version_num` as text: `"150020"`.
mod version_as_text {
    use super::{Deserializer, Serializer, ServerVersion, as_text};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub fn serialize<S: Serializer>(version: &ServerVersion, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&version.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ServerVersion, D::Error> {
        as_text::deserialize(deserializer).map(ServerVersion)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index() -> PartIndex {
        let part = |name: &str| Part {
            name: name.to_owned(),
            bytes: 1000,
            sha256: "0123456789abcdef".repeat(4),
            content_bytes: 10240,
            files: 3,
        };
        PartIndex {
            schema: SCHEMA,
            backup_id: "20261123T083817".parse().unwrap(),
            system_identifier: SystemIdentifier(u64::MAX),
            server_version: ServerVersion(150_020),
            timeline: TimelineId::FIRST,
            begin_lsn: Lsn(0x150_0028),
            end_lsn: Lsn(0x150_0100),
            begin_segment: "000000010000000000000015".parse().unwrap(),
            end_segment: "000000010000000000000015".parse().unwrap(),
            compression: Compression::Zstd,
            parts: vec![part("data.tar.zst"), part("data_0001.tar.zst"), part("16389.tar.zst")],
            manifest: Some(ManifestObject {
                name: BACKUP_MANIFEST_NAME.to_owned(),
                bytes: 5,
                sha256: "f".repeat(64),
                content_bytes: 50,
            }),
            damaged: Some(vec![DamagedFile { path: "base/5/16384".to_owned(), blocks: vec![7, 9], count: 5 }]),
            torn: vec![DamagedFile { path: "base/5/1259".to_owned(), blocks: vec![3], count: 1 }],
            block_bytes: Some(8192),
        }
    }

    #[test]
    fn an_index_is_written_for_people_and_read_back() {
        let json = index().to_json().unwrap();
        assert_eq!(PartIndex::from_json(json.as_bytes()).unwrap(), index());
        assert!(
            json.starts_with(
                "{\n  \"schema\": 1,\n  \"backup_id\": \"20261123T083817\",\n  \"system_identifier\": \
                 \"18446744073709551615\",\n  \"server_version\": \"150020\",\n  \"timeline\": \"1\",\n  \
                 \"begin_lsn\": \"0/1500028\",\n  \"end_lsn\": \"0/1500100\",\n  \"begin_segment\": \
                 \"000000010000000000000015\",\n  \"end_segment\": \"000000010000000000000015\",\n  \
                 \"compression\": \"zstd\",\n  \"parts\": [\n    {\n      \"name\": \"data.tar.zst\",\n      \
                 \"bytes\": 1000,\n"
            ),
            "{json}"
        );
        assert!(json.ends_with("}\n"));
    }

    #[test]
    fn fields_added_later_are_passed_over() {
        let json = index().to_json().unwrap().replacen('{', "{ \"later\": [1],", 1);
        assert_eq!(PartIndex::from_json(json.as_bytes()).unwrap(), index());
    }

    #[test]
    fn an_index_without_a_manifest_is_valid() {
        let without = PartIndex { manifest: None, ..index() };
        assert_eq!(PartIndex::from_json(without.to_json().unwrap().as_bytes()).unwrap(), without);
    }

    #[test]
    fn an_index_of_an_older_version_says_nothing_of_damage_and_is_valid() {
        let without = PartIndex { damaged: None, torn: Vec::new(), block_bytes: None, ..index() };
        let json = without.to_json().unwrap();
        assert!(!json.contains("damaged") && !json.contains("torn") && !json.contains("block_bytes"), "{json}");
        assert_eq!(PartIndex::from_json(json.as_bytes()).unwrap(), without);
    }

    #[test]
    fn damage_is_told_in_one_line_however_much_there_is() {
        let file = |path: &str, blocks: std::ops::Range<u32>, count| DamagedFile {
            path: path.to_owned(),
            blocks: blocks.collect(),
            count,
        };
        let files = [file("base/5/1", 7..8, 1), file("base/5/2", 0..2, 5), file("base/5/3", 0..0, 2)];
        assert_eq!(
            damage_line(&files),
            "\"base/5/1\": block 7; \"base/5/2\": blocks 0, 1 and 3 more; \"base/5/3\": 2 blocks"
        );
        let many = vec![file("base/5/16384", 0..1000, 131_072); 500];
        let line = damage_line(&many);
        assert!(line.ends_with("; and in 490 more files") && line.len() < 1000, "{line}");
    }

    #[test]
    fn names_that_are_no_parts_and_wrong_values_are_corrupt() {
        for (from, to) in [
            ("data_0001.tar.zst", "data.tar.zst"),
            ("data_0001.tar.zst", "../data.tar.zst"),
            ("data_0001.tar.zst", "x/data.tar.zst"),
            ("data_0001.tar.zst", "backup.info"),
            ("data_0001.tar.zst", "data_0001.tar.gz"),
            ("backup_manifest.zst", "backup_manifest"),
            ("ffffffff\"", "ffffffF0\""),
            ("ffffffff\"", "\""),
            ("\"zstd\"", "\"zip\""),
            ("\"zstd\"", "\"gzip\""),
            ("0/1500028", "1500028"),
            ("20261123T083817", "../../other"),
            ("\"150020\"", "150020"),
            ("\"timeline\": \"1\"", "\"timeline\": \"0\""),
            ("\"bytes\": 1000", "\"bytes\": -1"),
            ("}\n", "\n"),
        ] {
            let json = index().to_json().unwrap();
            let wrong = json.replacen(from, to, 1);
            assert_ne!(json, wrong, "{from}");
            assert_eq!(PartIndex::from_json(wrong.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{to}");
        }
    }

    #[test]
    fn another_schema_is_a_mismatch_whatever_else_it_holds() {
        let refused = PartIndex::from_json(b"{\"schema\": 2}").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch);
        assert!(refused.to_string().contains("its schema is 2, this program reads 1"), "{refused}");
    }

    #[test]
    fn an_index_nobody_could_read_is_not_written() {
        let mut twice = index();
        twice.parts.extend(index().parts);
        assert_eq!(twice.to_json().unwrap_err().kind(), ErrorKind::Bug);
    }

    #[test]
    fn a_huge_index_is_refused_before_it_is_read() {
        assert_eq!(PartIndex::from_json(&vec![b' '; MAX_BYTES + 1]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn damaged_indexes_do_no_harm(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let _ = PartIndex::from_json(&bytes);
            let mut json = index().to_json().unwrap().into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            if let Ok(read) = PartIndex::from_json(&json) {
                prop_assert!(read.to_json().is_ok());
            }
        }
    }
}
