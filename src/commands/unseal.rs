//! A WAL object of the archive turned into the file that it holds, and held against all that is known of it.

use std::io::Read;
use std::path::Path;

use crate::codec::compression;
use crate::codec::digest::{Sha256, Sha256Builder};
use crate::codec::source_failure;
use crate::commands::archive::{ContentCheck, WAL_LIMIT_BYTES, most_bytes};
use crate::disk::{self, Publication};
use crate::domain::compression::Compression;
use crate::domain::segment::WalFileName;
use crate::error::{Error, Result};
use crate::layout::content_facts::ContentFacts;
use crate::store::Fetched;
use crate::wal::proof;

/// A segment is unpacked, digested and written in pieces of this size, which stay in the processor's cache between the three.
const PIECE_BYTES: usize = 256 << 10;

/// More than the header of a segment.
const BEGINNING_BYTES: usize = 512;

/// A WAL object as it came out of the store.
pub(crate) struct SealedObject {
    /// Where it lay.
    pub(crate) key: String,
    /// How it is compressed.
    pub(crate) codec: Compression,
    /// Its bytes and metadata.
    pub(crate) fetched: Fetched,
}

/// Decompresses the WAL object that was read from `key`, and checks it against the facts in its metadata, if any.
///
/// Errors: `Corrupt` for damage, for more than `most_bytes` and for what the facts do not say.
pub(crate) fn unseal(
    key: &str,
    codec: Compression,
    fetched: Fetched,
    most_bytes: u64,
) -> Result<(Vec<u8>, Option<ContentFacts>)> {
    let facts = ContentFacts::from_metadata(&fetched.metadata);
    let content = match codec {
        Compression::None => Vec::from(fetched.content),
        _ => compression::decompress(codec, &fetched.content, most_bytes)
            .map_err(|error| error.context(could_not_unpack(key)))?,
    };
    if let Some(facts) = &facts {
        compare(key, facts, content.len() as u64, Sha256::of(&content))?;
    }
    Ok((content, facts))
}

/// The WAL file called `name` out of `object` to `path`, whole and durable, once it is known to be what was archived and, unless
/// that is waived, what its name says; `path` is as it was before otherwise.
///
/// Memory: the object and a quarter of a MiB. Errors: `Corrupt` and `Mismatch` for other content; `Local`.
pub(crate) fn unseal_to(path: &Path, name: &WalFileName, object: SealedObject, check: ContentCheck) -> Result<()> {
    let unusable = |key: &str, error: Error| error.context(format!("object \"{key}\" cannot be used"));
    let (WalFileName::Segment(segment) | WalFileName::Partial(segment)) = name else {
        let SealedObject { key, codec, fetched } = object;
        let (content, _) = unseal(&key, codec, fetched, most_bytes(name, check))?;
        if check == ContentCheck::Checked {
            proof::check(name, &content, None).map_err(|error| unusable(&key, error))?;
        }
        return disk::publish(path, &content);
    };
    let mut file = Publication::begin(path)?;
    let (beginning, length) = object.unpack(&mut file)?;
    if check == ContentCheck::Checked {
        proof::check_segment(*segment, &beginning, length, None).map_err(|error| unusable(&object.key, error))?;
    }
    file.finish()
}

impl SealedObject {
    /// Writes the content out, and gives its beginning and length.
    fn unpack(&self, file: &mut Publication) -> Result<(Vec<u8>, u64)> {
        let Self { key, codec, fetched } = self;
        let facts = ContentFacts::from_metadata(&fetched.metadata);
        let unpacking = |error: Error| error.context(could_not_unpack(key));
        let mut content = compression::decoder(*codec, &fetched.content[..]).map_err(unpacking)?;
        let (mut digest, mut length) = (Sha256Builder::new(), 0);
        let (mut piece, mut beginning) = (vec![0; PIECE_BYTES], Vec::new());
        loop {
            let taken = fill(&mut content, &mut piece).map_err(|cause| unpacking(source_failure(cause)))?;
            let bytes = &piece[..taken];
            if length == 0 {
                beginning.extend_from_slice(&bytes[..taken.min(BEGINNING_BYTES)]);
            }
            length += taken as u64;
            if length > WAL_LIMIT_BYTES {
                let cause = format!("it holds more than the expected {WAL_LIMIT_BYTES} bytes");
                return Err(unpacking(Error::corrupt(format!("could not decompress {codec} data: {cause}"))));
            }
            if facts.is_some() {
                digest.update(bytes);
            }
            file.write(bytes)?;
            if taken < piece.len() {
                break;
            }
        }
        if let Some(facts) = &facts {
            compare(key, facts, length, digest.finish())?;
        }
        Ok((beginning, length))
    }
}

/// Fills `piece`, but for the end of the content.
fn fill(content: &mut impl Read, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match content.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(filled)
}

/// Holds what came back against what was archived.
fn compare(key: &str, facts: &ContentFacts, length: u64, sha256: Sha256) -> Result<()> {
    let digest = sha256.to_string();
    if facts.length == length && facts.sha256 == digest {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "object \"{key}\" is damaged: {} bytes with SHA-256 {} were archived, {length} bytes with {digest} came back",
        facts.length, facts.sha256
    )))
}

fn could_not_unpack(key: &str) -> String {
    format!("could not unpack object \"{key}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::archive::HISTORY_LIMIT_BYTES;
    use crate::error::ErrorKind;
    use crate::store::Metadata;

    fn packed(bytes: u64) -> Fetched {
        let content = vec![b'#'; usize::try_from(bytes).unwrap()];
        let packed = compression::compress(Compression::Zstd, None, &content).unwrap();
        Fetched { content: packed.into(), metadata: Metadata::new() }
    }

    #[test]
    fn a_little_that_expands_to_more_than_the_file_can_be_is_refused() {
        let history: WalFileName = "00000002.history".parse().unwrap();
        let backup: WalFileName = "000000010000000000000013.00000028.backup".parse().unwrap();
        for name in [history, backup] {
            let most = most_bytes(&name, ContentCheck::Checked);
            assert_eq!(most, HISTORY_LIMIT_BYTES);
            assert!(unseal("key", Compression::Zstd, packed(most), most).is_ok());
            let refused = unseal("key", Compression::Zstd, packed(most + 1), most).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt);
            assert!(refused.to_string().contains("more than the expected 1048576 bytes"), "{refused}");
        }
        let segment: WalFileName = "000000010000000000000001".parse().unwrap();
        assert_eq!(most_bytes(&segment, ContentCheck::Checked), WAL_LIMIT_BYTES);
        assert_eq!(most_bytes(&history, ContentCheck::Unchecked), WAL_LIMIT_BYTES, "any bytes will do");
    }
}
