//! PostgreSQL's `backup_manifest`, written while files are copied.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use ring::digest::{Context, SHA256};

use crate::domain::cluster::{ServerVersion, SystemIdentifier};
use crate::domain::lsn::Lsn;
use crate::domain::timeline::TimelineId;

/// The first major version whose manifests carry the system identifier (manifest version 2).
const FIRST_MAJOR_WITH_IDENTIFIER: u32 = 17;

/// One file of the backup, as the manifest lists it.
#[derive(Debug, Clone, Copy)]
pub struct ManifestFile<'a> {
    /// Relative to the data directory, `/`-separated, any bytes; in a tablespace `pg_tblspc/<oid>/PG_…`.
    pub path: &'a [u8],
    /// Length of what was archived.
    pub size_bytes: u64,
    /// Last modification; written in whole seconds.
    pub modified: DateTime<Utc>,
    /// CRC-32C (Castagnoli) of what was archived.
    pub crc32c: u32,
}

/// WAL that a restore of the backup must replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline the WAL is on.
    pub timeline: TimelineId,
    /// Where the backup, or on a later timeline the timeline, begins.
    pub start: Lsn,
    /// Where the backup ends or the next timeline begins.
    pub end: Lsn,
}

/// Writes a `backup_manifest` piece by piece: take the bytes as they come, and memory does not grow with the files.
///
/// Byte for byte what PostgreSQL 13 to 18 write for `pg_basebackup --manifest-checksums=crc32c` (source: PostgreSQL
/// `backup_manifest.c`; see `fixtures/backup_manifest`): version 1, from PostgreSQL 17 on version 2.
pub struct ManifestWriter {
    bytes: Vec<u8>,
    /// How many of `bytes` are in `digest` already.
    digested: usize,
    digest: Context,
    first: bool,
}

impl ManifestWriter {
    /// Begins the manifest of a backup of this cluster.
    #[must_use]
    pub fn new(server: ServerVersion, system_identifier: SystemIdentifier) -> Self {
        let head = if server.major() >= FIRST_MAJOR_WITH_IDENTIFIER {
            format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n\"Files\": ["
            )
        } else {
            "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned()
        };
        Self { bytes: head.into_bytes(), digested: 0, digest: Context::new(&SHA256), first: true }
    }

    /// Lists one more file. The order is the caller's; a path may be listed once.
    pub fn file(&mut self, file: &ManifestFile<'_>) {
        let mut line = String::from(if self.first { "\n" } else { ",\n" });
        self.first = false;
        if let Ok(path) = std::str::from_utf8(file.path) {
            line.push_str("{ \"Path\": \"");
            push_json_escaped(&mut line, path);
        } else {
            line.push_str("{ \"Encoded-Path\": \"");
            push_hex(&mut line, file.path);
        }
        let modified = file.modified.format("%Y-%m-%d %H:%M:%S");
        push(&mut line, format_args!("\", \"Size\": {}, \"Last-Modified\": \"{modified} GMT\"", file.size_bytes));
        line.push_str(", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"");
        // PostgreSQL prints the bytes as they lie in memory, on all machines barback runs on the low byte first.
        push_hex(&mut line, &file.crc32c.to_le_bytes());
        line.push_str("\" }");
        self.bytes.extend_from_slice(line.as_bytes());
    }

    /// Takes out the bytes written since the last call.
    #[must_use]
    pub fn take_bytes(&mut self) -> Vec<u8> {
        self.digest_pending();
        self.digested = 0;
        std::mem::take(&mut self.bytes)
    }

    /// Ends the manifest and gives the bytes not taken yet. PostgreSQL lists the ranges newest timeline first.
    #[must_use]
    pub fn finish(mut self, ranges: &[WalRange]) -> Vec<u8> {
        let mut tail = String::from("\n],\n\"WAL-Ranges\": [\n");
        for (at, WalRange { timeline, start, end }) in ranges.iter().enumerate() {
            let comma = if at == 0 { "" } else { ",\n" };
            push(&mut tail, format_args!("{comma}{{ \"Timeline\": {timeline}, "));
            push(&mut tail, format_args!("\"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"));
        }
        tail.push_str("\n],\n");
        self.bytes.extend_from_slice(tail.as_bytes());
        self.digest_pending();
        let mut last = String::from("\"Manifest-Checksum\": \"");
        push_hex(&mut last, self.digest.finish().as_ref());
        last.push_str("\"}\n");
        self.bytes.extend_from_slice(last.as_bytes());
        self.bytes
    }

    fn digest_pending(&mut self) {
        if let Some(pending) = self.bytes.get(self.digested..) {
            self.digest.update(pending);
        }
        self.digested = self.bytes.len();
    }
}

impl std::fmt::Debug for ManifestWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManifestWriter").field("pending_bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Escapes as PostgreSQL's `escape_json` does; what it leaves alone, such as DEL, stays as it is.
fn push_json_escaped(line: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '\u{8}' => line.push_str("\\b"),
            '\u{C}' => line.push_str("\\f"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\0'..' ' => push(line, format_args!("\\u{:04x}", u32::from(letter))),
            _ => line.push(letter),
        }
    }
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        push(line, format_args!("{byte:02x}"));
    }
}

fn push(line: &mut String, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDateTime;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Written by `pg_basebackup` 15 and 18; see the README beside them.
    const VERSION_1: &str = include_str!("../../fixtures/backup_manifest/postgresql-15.json");
    const VERSION_2: &str = include_str!("../../fixtures/backup_manifest/postgresql-18.json");

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// Writes anew what a manifest says, taking bytes out after every `stride` files.
    fn written_again(manifest: &str, server: u32, stride: usize) -> Vec<u8> {
        let json: Value = serde_json::from_str(manifest).unwrap();
        let identifier = json.get("System-Identifier").map_or(1, |value| value.as_u64().unwrap());
        let mut writer = ManifestWriter::new(ServerVersion(server), SystemIdentifier(identifier));
        let mut bytes = Vec::new();
        for (at, entry) in json["Files"].as_array().unwrap().iter().enumerate() {
            let text = |field: &str| entry[field].as_str().unwrap();
            let path = match entry.get("Encoded-Path") {
                Some(path) => unhex(path.as_str().unwrap()),
                None => text("Path").as_bytes().to_vec(),
            };
            let modified = NaiveDateTime::parse_from_str(text("Last-Modified"), "%Y-%m-%d %H:%M:%S GMT").unwrap();
            writer.file(&ManifestFile {
                path: &path,
                size_bytes: entry["Size"].as_u64().unwrap(),
                modified: modified.and_utc(),
                crc32c: u32::from_le_bytes(unhex(text("Checksum")).try_into().unwrap()),
            });
            if at % stride == 0 {
                bytes.extend(writer.take_bytes());
            }
        }
        let range = |range: &Value| WalRange {
            timeline: TimelineId::new(range["Timeline"].as_u64().unwrap().try_into().unwrap()).unwrap(),
            start: range["Start-LSN"].as_str().unwrap().parse().unwrap(),
            end: range["End-LSN"].as_str().unwrap().parse().unwrap(),
        };
        let ranges: Vec<WalRange> = json["WAL-Ranges"].as_array().unwrap().iter().map(range).collect();
        bytes.extend(writer.finish(&ranges));
        bytes
    }

    #[test]
    fn manifests_are_those_pg_basebackup_writes_byte_for_byte() {
        for stride in [1, 3, 1000] {
            assert_eq!(String::from_utf8(written_again(VERSION_1, 150_020, stride)).unwrap(), VERSION_1);
            assert_eq!(String::from_utf8(written_again(VERSION_2, 180_004, stride)).unwrap(), VERSION_2);
        }
    }

    #[test]
    fn checksums_are_those_postgresql_computes() {
        let entry = |name: &str| VERSION_1.lines().find(|line| line.contains(name)).unwrap();
        // These files of the fixture held one letter each.
        for (name, content) in [("quote", b"y"), ("6c6174e96e", b"z"), ("uni", b"x")] {
            let mut hex = String::new();
            push_hex(&mut hex, &crc32c::crc32c(content).to_le_bytes());
            assert!(entry(name).contains(&format!("\"Checksum\": \"{hex}\"")), "{}", entry(name));
        }
    }

    #[test]
    fn postgresql_17_is_the_first_with_a_system_identifier() {
        let head = |server| String::from_utf8(written_again(VERSION_1, server, 1)).unwrap();
        assert!(!head(160_099).contains("System-Identifier"));
        assert!(
            head(170_000).starts_with(
                "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 1,\n\"Files\": [\n{ "
            )
        );
    }

    #[test]
    fn several_wal_ranges_and_no_files_are_valid_json() {
        let range = |timeline, start, end| WalRange {
            timeline: TimelineId::new(timeline).unwrap(),
            start: Lsn(start),
            end: Lsn(end),
        };
        let writer = ManifestWriter::new(ServerVersion(170_000), SystemIdentifier(u64::MAX));
        let bytes = writer.finish(&[range(2, 0x1_0000_0020, 0x1_0000_00FF), range(1, 0x28, 0x1_0000_0020)]);
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["System-Identifier"].as_u64(), Some(u64::MAX));
        assert_eq!(json["WAL-Ranges"][1]["End-LSN"], "1/20");
        assert_eq!(json["Files"].as_array().unwrap().len(), 0);
    }

    #[test]
    fn bytes_taken_out_are_not_kept() {
        let mut writer = ManifestWriter::new(ServerVersion(150_020), SystemIdentifier(1));
        let file = ManifestFile { path: b"base/5/1259", size_bytes: 8192, modified: DateTime::UNIX_EPOCH, crc32c: 7 };
        for _ in 0..1000 {
            writer.file(&file);
            assert!(writer.take_bytes().len() < 300);
            assert_eq!(writer.bytes.capacity(), 0);
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_back_by_a_json_reader(path in prop_oneof![
            any::<String>().prop_map(String::into_bytes),
            "[\u{0}-\u{40}\\\\\u{7f}é]{0,20}".prop_map(String::into_bytes),
            any::<Vec<u8>>(),
        ]) {
            let mut writer = ManifestWriter::new(ServerVersion(150_020), SystemIdentifier(1));
            writer.file(&ManifestFile { path: &path, size_bytes: u64::MAX, modified: DateTime::UNIX_EPOCH, crc32c: 1 });
            let json: Value = serde_json::from_slice(&writer.finish(&[])).unwrap();
            let entry = &json["Files"][0];
            let read = match entry["Path"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => unhex(entry["Encoded-Path"].as_str().unwrap()),
            };
            prop_assert_eq!(read, path);
        }
    }
}
