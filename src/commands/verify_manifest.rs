//! The files of a backup against its manifest: first as sums, and by name only where the sums differ.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use crate::codec::compression;
use crate::codec::file_set::{FileFacts, FileSet};
use crate::codec::source_failure;
use crate::commands::object_stream::{PartToFetch, VerifiedObject};
use crate::commands::verify_backup::judge;
use crate::commands::verify_parts::{FileSeen, PartsRead, Reading, Work, read_again};
use crate::domain::verification::{Degree, Finding, Findings};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::manifest_reader::{ListedFile, ManifestEnd, ManifestReader};

/// A manifest is read in pieces of this size.
const READ_BYTES: usize = 64 << 10;

/// So many files may be held while those that differ are named; some 150 bytes each.
const FILES_HELD: usize = 200_000;

/// Reads the manifest and compares it with `files`, the files of all parts; `is_whole` says whether all parts were read to
/// their end, without which there is nothing to compare. Blocking.
pub(crate) fn compare(work: Work<'_>, manifest: &PartToFetch, files: &FileSet, is_whole: bool) -> PartsRead {
    let Work { reading, backup, .. } = work;
    let mut listed = FileSet::default();
    let add = |file: &ListedFile| {
        listed.add(&FileFacts { path: &file.path, size_bytes: file.size_bytes, crc32c: file.crc32c });
    };
    let mut compared = PartsRead::default();
    let end = match read(reading, manifest, add) {
        Ok((end, bytes)) => {
            compared.bytes = bytes;
            end
        }
        Err(error) => {
            compared.is_unreachable = error.kind() == ErrorKind::Unreachable;
            let judging = judge(&reading.archive, &backup.id, &manifest.key, &error);
            compared.findings.push(reading.runtime.block_on(judging));
            return compared;
        }
    };
    if let (Some(says), Some(known)) = (end.system_identifier, backup.system_identifier)
        && says != known
    {
        let what = format!("it is of cluster {says}, backup.info of cluster {known}");
        compared.findings.push(Finding::damage(&manifest.key, what));
    }
    if !is_whole {
        // Which files are lost with a damaged part is for who repairs it; that they differ is no news.
        return compared;
    }
    let groups = files.differing_groups(&listed);
    if !groups.is_empty() {
        let named = name_differences(work, manifest, &groups);
        compared.bytes += named.bytes;
        compared.is_unreachable = named.is_unreachable;
        let names_nothing = named.findings.total() == 0;
        compared.findings.append(named.findings);
        if names_nothing {
            let what = format!(
                "its {} files are not the {} of the parts, and which differ is not known",
                end.files,
                files.files()
            );
            compared.findings.push(Finding::damage(&manifest.key, what));
        }
    }
    compared
}

/// Reads the manifest to its end and tells `each` of every file; what else it says, and how many bytes came.
fn read(reading: &Reading, manifest: &PartToFetch, mut each: impl FnMut(&ListedFile)) -> Result<(ManifestEnd, u64)> {
    let object = VerifiedObject::open(&reading.runtime, &reading.archive, manifest, 1);
    let outcome = parse(reading, manifest, &object, &mut each);
    let about_bytes = |error: &Error| error.kind() == ErrorKind::Corrupt;
    if outcome.as_ref().err().is_some_and(about_bytes) {
        let mut rest = reading.paced(&object);
        std::io::copy(&mut rest, &mut std::io::sink()).map_err(source_failure)?;
    } else if let Err(error) = outcome {
        return Err(error);
    }
    let (digest, bytes) = object.finish()?;
    if let Some(expected) = manifest.sha256.filter(|expected| *expected != digest) {
        let why = outcome.err().map(|error| format!("; {error}")).unwrap_or_default();
        return Err(Error::corrupt(format!("its SHA-256 is {digest}, the index says {expected}{why}")));
    }
    outcome.map(|end| (end, bytes))
}

fn parse(
    reading: &Reading,
    manifest: &PartToFetch,
    object: &VerifiedObject,
    each: &mut impl FnMut(&ListedFile),
) -> Result<ManifestEnd> {
    let source = reading.paced(object);
    let mut content = compression::decoder(manifest.codec, source)?;
    let mut reader = ManifestReader::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = content.read(&mut buffer).map_err(source_failure)?;
        if length == 0 {
            return reader.finish();
        }
        reader.update(buffer.get(..length).unwrap_or_default(), |file| {
            each(&file);
            Ok(())
        })?;
    }
}

/// Files of the manifest by path: those for which no equal file has been seen in a part.
#[derive(Debug, Default)]
struct Waiting {
    files: BTreeMap<Vec<u8>, (u64, u32)>,
    findings: Findings,
}

/// Reads both sides once more, and names the files that differ among those of `groups`.
fn name_differences(work: Work<'_>, manifest: &PartToFetch, groups: &[usize]) -> PartsRead {
    let mut waiting = Waiting::default();
    let mut left_out = 0_u64;
    let differs = |path: &[u8]| groups.binary_search(&FileSet::group_of(path)).is_ok();
    let hold = |file: &ListedFile| {
        if differs(&file.path) {
            if waiting.files.len() < FILES_HELD {
                waiting.files.insert(file.path.clone(), (file.size_bytes, file.crc32c));
            } else {
                left_out += 1;
            }
        }
    };
    if let Err(error) = read(work.reading, manifest, hold) {
        let findings = [Finding::of_error(&manifest.key, &error)].into_iter().collect();
        return PartsRead { findings, is_unreachable: error.kind() == ErrorKind::Unreachable, bytes: 0 };
    }
    let waiting = Mutex::new(waiting);
    let mut read = read_again(work, &|seen: &FileSeen<'_>| {
        if differs(seen.facts.path) {
            waiting.lock().unwrap_or_else(PoisonError::into_inner).take(seen, left_out > 0);
        }
    });
    let Waiting { files, findings } = waiting.into_inner().unwrap_or_else(PoisonError::into_inner);
    read.findings.append(findings);
    if read.findings.count(Degree::Unknown) == 0 {
        for (path, (size, _)) in files {
            let what = format!("the manifest lists it with {size} bytes, no part holds it");
            read.findings.push(Finding::damage(shown(&path), what));
        }
    }
    read.findings.count_unnamed(Degree::Damage, left_out);
    read
}

impl Waiting {
    fn take(&mut self, seen: &FileSeen<'_>, knows_some_only: bool) {
        let FileFacts { path, size_bytes, crc32c } = seen.facts;
        match self.files.remove(path) {
            Some(listed) if listed == (size_bytes, crc32c) => {}
            Some((size, crc)) => {
                let part = &seen.part.key;
                let what = format!(
                    "in part \"{part}\" it has {size_bytes} bytes and CRC-32C {crc32c:08X}, the manifest says {size} bytes and {crc:08X}"
                );
                self.findings.push(Finding::damage(shown(path), what));
            }
            None if knows_some_only => {}
            None => {
                let what = format!("part \"{}\" holds it, the manifest does not list it", seen.part.key);
                self.findings.push(Finding::damage(shown(path), what));
            }
        }
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
