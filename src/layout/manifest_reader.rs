//! Reads a `backup_manifest` line by line, so that memory does not grow with the number of files.

use std::fmt;

use ring::digest::{Context, SHA256};
use serde::Deserialize;

use crate::domain::cluster::SystemIdentifier;
use crate::error::{Error, Result};

/// The longest line taken. A path ends at 4 KiB, which escapes make six times as long.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A file as a manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Relative to the data directory; any bytes.
    pub path: Vec<u8>,
    /// Its length.
    pub size_bytes: u64,
    /// CRC-32C of its content.
    pub crc32c: u32,
}

/// Reads the manifests that [`ManifestWriter`](crate::layout::manifest::ManifestWriter) writes, which are those of
/// `pg_basebackup --manifest-checksums=crc32c`: each file stands on a line of its own.
///
/// Give it the bytes as they come, then [`finish`](Self::finish) it.
pub struct ManifestReader {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    place: Place,
    digest: Context,
    system_identifier: Option<SystemIdentifier>,
    files: u64,
}

/// Where in the manifest the next line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before `"Files": [`.
    Head,
    /// Among the files.
    Files,
    /// Behind them, before the checksum.
    Tail,
    /// Behind the checksum.
    End,
}

/// What a manifest that was read to its end says beside its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestEnd {
    /// The cluster, from version 2 on.
    pub system_identifier: Option<SystemIdentifier>,
    /// Files it lists.
    pub files: u64,
}

#[derive(Deserialize)]
struct FileLine {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

impl Default for ManifestReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ManifestReader {
    /// A reader at the start of a manifest.
    #[must_use]
    pub fn new() -> Self {
        Self { line: Vec::new(), place: Place::Head, digest: Context::new(&SHA256), system_identifier: None, files: 0 }
    }

    /// Takes the next bytes; `each` sees every file whose line is complete.
    ///
    /// Errors: `Corrupt` for what is no such manifest, and what `each` returns.
    pub fn update(&mut self, bytes: &[u8], mut each: impl FnMut(ListedFile) -> Result<()>) -> Result<()> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            if self.line.is_empty() {
                self.take(line, &mut each)?;
            } else {
                self.keep(line)?;
                let line = std::mem::take(&mut self.line);
                self.take(&line, &mut each)?;
            }
        }
        self.keep(rest)
    }

    /// Ends the manifest.
    ///
    /// Errors: `Corrupt` when its end is missing or its own checksum was not right.
    pub fn finish(self) -> Result<ManifestEnd> {
        if self.place != Place::End || !self.line.is_empty() {
            return Err(refused("it is cut short"));
        }
        Ok(ManifestEnd { system_identifier: self.system_identifier, files: self.files })
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        if self.line.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(refused("one of its lines is too long"));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes one line, with its line feed.
    fn take(&mut self, line: &[u8], each: &mut impl FnMut(ListedFile) -> Result<()>) -> Result<()> {
        let text = std::str::from_utf8(line).map_err(|_| refused("it is not UTF-8 text"))?.trim_end_matches('\n');
        if let (Place::Tail, Some(rest)) = (self.place, text.strip_prefix("\"Manifest-Checksum\": \"")) {
            self.place = Place::End;
            return self.check(rest.strip_suffix("\"}").unwrap_or(rest));
        }
        self.digest.update(line);
        match self.place {
            Place::Head => self.head(text),
            Place::Files => match text {
                "" => Ok(()),
                "]," => {
                    self.place = Place::Tail;
                    Ok(())
                }
                _ => {
                    self.files += 1;
                    each(file(text.strip_suffix(',').unwrap_or(text))?)
                }
            },
            Place::Tail => Ok(()),
            Place::End => Err(refused("something follows its checksum")),
        }
    }

    fn head(&mut self, text: &str) -> Result<()> {
        if let Some(number) = text.strip_prefix("\"System-Identifier\": ") {
            let number = number.trim_end_matches(',');
            self.system_identifier = Some(number.parse().map_err(|_| refused("its system identifier is no number"))?);
        } else if text == "\"Files\": [" || text.ends_with(" \"Files\": [") {
            self.place = Place::Files;
        } else if !text.starts_with("{ \"PostgreSQL-Backup-Manifest-Version\": ") {
            return Err(refused(&format!("its beginning holds the line \"{}\"", shown(text))));
        }
        Ok(())
    }

    fn check(&mut self, said: &str) -> Result<()> {
        let digest = std::mem::replace(&mut self.digest, Context::new(&SHA256)).finish();
        let computed = digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        if said.eq_ignore_ascii_case(&computed) {
            return Ok(());
        }
        Err(refused(&format!("its own checksum is wrong: it says {}, its lines have {computed}", shown(said))))
    }
}

impl fmt::Debug for ManifestReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestReader").field("place", &self.place).field("files", &self.files).finish_non_exhaustive()
    }
}

fn file(text: &str) -> Result<ListedFile> {
    let wrong = |why: &str| refused(&format!("its line \"{}\" {why}", shown(text)));
    let line: FileLine = serde_json::from_str(text).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let path = match (line.path, line.encoded_path) {
        (Some(path), None) => path.into_bytes(),
        (None, Some(hex)) => unhex(&hex).ok_or_else(|| wrong("has a path that is not hexadecimal"))?,
        _ => return Err(wrong("names no file")),
    };
    if line.algorithm.as_deref() != Some("CRC32C") {
        return Err(wrong("has no CRC-32C"));
    }
    let bytes = line.checksum.as_deref().and_then(unhex).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    // PostgreSQL prints the bytes as they lie in memory, on all machines barback runs on the low byte first.
    let crc32c = u32::from_le_bytes(bytes.ok_or_else(|| wrong("has no CRC-32C"))?);
    Ok(ListedFile { path, size_bytes: line.size, crc32c })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    pairs.collect()
}

fn shown(text: &str) -> String {
    text.chars().take(120).collect::<String>().escape_debug().to_string()
}

fn refused(why: &str) -> Error {
    Error::corrupt(format!("the backup manifest is damaged: {why}"))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::cluster::ServerVersion;
    use crate::layout::manifest::{ManifestFile, ManifestWriter};

    const VERSION_1: &str = include_str!("../../fixtures/backup_manifest/postgresql-15.json");
    const VERSION_2: &str = include_str!("../../fixtures/backup_manifest/postgresql-18.json");

    fn read(bytes: &[u8], stride: usize) -> Result<(Vec<ListedFile>, ManifestEnd)> {
        let mut reader = ManifestReader::new();
        let mut files = Vec::new();
        for piece in bytes.chunks(stride) {
            reader.update(piece, |file| {
                files.push(file);
                Ok(())
            })?;
        }
        Ok((files, reader.finish()?))
    }

    #[test]
    fn manifests_of_pg_basebackup_are_read_in_pieces_of_any_size() {
        for (manifest, identifier) in [(VERSION_1, false), (VERSION_2, true)] {
            let (whole, end) = read(manifest.as_bytes(), usize::MAX).unwrap();
            assert_eq!(end.system_identifier.is_some(), identifier);
            assert_eq!(end.files, whole.len() as u64);
            let expected = manifest.lines().filter(|line| line.contains("\"Size\"")).count();
            assert_eq!(whole.len(), expected);
            assert!(whole.iter().any(|file| file.path == b"backup_label" && file.size_bytes > 100));
            assert!(whole.iter().any(|file| file.path.contains(&0xE9) || file.path.starts_with(b"flat")));
            for stride in [1, 7, 1000] {
                assert_eq!(read(manifest.as_bytes(), stride).unwrap(), (whole.clone(), end));
            }
        }
    }

    #[test]
    fn any_changed_letter_is_damage() {
        let at = VERSION_2.find("\"Size\": ").unwrap() + 9;
        for at in [at, 60, VERSION_2.len() - 20, VERSION_2.len() / 2] {
            let mut bytes = VERSION_2.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
            let error = read(&bytes, 999).unwrap_err();
            assert!(error.to_string().starts_with("the backup manifest is damaged: "), "{error}");
        }
        for end in [0, 1, 500, VERSION_2.len() - 1] {
            assert!(read(&VERSION_2.as_bytes()[..end], 999).is_err(), "cut at {end}");
        }
        assert!(read(format!("{VERSION_2}x\n").as_bytes(), 999).is_err());
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut reader = ManifestReader::new();
        let piece = [b'x'; 4096];
        let refused = (0..100).find(|_| reader.update(&piece, |_| Ok(())).is_err());
        assert!(refused.is_some_and(|times| times <= LINE_BYTES_MAX / 4096));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            files in prop::collection::vec((any::<Vec<u8>>(), any::<u64>(), any::<u32>()), 0..20),
            stride in 1..300_usize,
            server in prop::sample::select(vec![150_020_u32, 180_004]),
        ) {
            let mut writer = ManifestWriter::new(ServerVersion(server), SystemIdentifier(7));
            for (path, size_bytes, crc32c) in &files {
                let modified = DateTime::UNIX_EPOCH;
                writer.file(&ManifestFile { path, size_bytes: *size_bytes, modified, crc32c: *crc32c });
            }
            let (read, end) = read(&writer.finish(&[]), stride).unwrap();
            let expected: Vec<_> = files
                .into_iter()
                .map(|(path, size_bytes, crc32c)| ListedFile { path, size_bytes, crc32c })
                .collect();
            prop_assert_eq!(end.files, expected.len() as u64);
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, 50);
            let head = b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n".to_vec();
            let _ = read(&[head, bytes].concat(), 50);
        }
    }
}
