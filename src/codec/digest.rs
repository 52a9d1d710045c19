//! SHA-256 of bytes on their way: the digest that names content in object metadata and in the index of parts.

use std::fmt;
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::str::FromStr;

use ring::digest;
use twox_hash::XxHash3_64;

use crate::error::{Error, Result};

/// A SHA-256 digest (FIPS 180-4). Text form: 64 lower-case hexadecimal digits; upper case is read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_ring(digest::digest(&digest::SHA256, bytes))
    }

    fn from_ring(digest: digest::Digest) -> Self {
        let mut bytes = [0; 32];
        // Both sides are 32 bytes: that is SHA-256's output length.
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Sha256 {
    type Err = Error;

    /// Errors: `Corrupt` when `text` is not 64 hexadecimal digits (digests are read from stored metadata).
    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::corrupt(format!("\"{}\" is not a SHA-256 digest", text.escape_debug()));
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| refuse())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

/// How much of the content one piece of a [`Checksum`] covers.
pub const CHECKSUM_PIECE_BYTES: usize = 256 << 10;

/// A checksum of content that is much quicker than a digest, and that several threads can make at once: XXH3 over the XXH3 of
/// each [`CHECKSUM_PIECE_BYTES`] of it. It tells content from what it has become by accident, not from what somebody made up.
#[derive(Default)]
pub struct Checksum(XxHash3_64);

impl Checksum {
    /// What one piece adds.
    #[must_use]
    pub fn of_piece(piece: &[u8]) -> u64 {
        XxHash3_64::oneshot(piece)
    }

    /// Takes in the content from one piece's beginning to the end of that or a later one, or of it all.
    pub fn update(&mut self, content: &[u8]) {
        content.chunks(CHECKSUM_PIECE_BYTES).for_each(|piece| self.add(Self::of_piece(piece)));
    }

    /// Takes in what the next piece adds.
    pub fn add(&mut self, of_piece: u64) {
        self.0.write_u64(of_piece);
    }

    /// The checksum of everything taken in.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Checksum").finish_non_exhaustive()
    }
}

/// Computes a [`Sha256`] over bytes that come in pieces.
#[derive(Clone)]
pub struct Sha256Builder(digest::Context);

impl Sha256Builder {
    /// A digest of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything taken in.
    #[must_use]
    pub fn finish(self) -> Sha256 {
        Sha256::from_ring(self.0.finish())
    }
}

impl Default for Sha256Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256Builder")
    }
}

/// Passes bytes on to a writer, counting and digesting those the writer took.
#[derive(Debug)]
pub struct DigestWriter<W> {
    inner: W,
    sha256: Sha256Builder,
    bytes: u64,
}

impl<W> DigestWriter<W> {
    /// Wraps `inner`; nothing is counted yet.
    pub fn new(inner: W) -> Self {
        Self { inner, sha256: Sha256Builder::new(), bytes: 0 }
    }

    /// How many bytes have gone through.
    pub fn bytes_written(&self) -> u64 {
        self.bytes
    }

    /// The writer, the digest of what it took, and how many bytes that was.
    pub fn finish(self) -> (W, Sha256, u64) {
        (self.inner, self.sha256.finish(), self.bytes)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(buffer)?;
        self.sha256.update(buffer.get(..taken).unwrap_or(buffer));
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes bytes on from a reader, counting and digesting them.
#[derive(Debug)]
pub struct DigestReader<R> {
    inner: R,
    sha256: Sha256Builder,
    bytes: u64,
}

impl<R> DigestReader<R> {
    /// Wraps `inner`; nothing is counted yet.
    pub fn new(inner: R) -> Self {
        Self { inner, sha256: Sha256Builder::new(), bytes: 0 }
    }

    /// How many bytes have gone through.
    pub fn bytes_read(&self) -> u64 {
        self.bytes
    }

    /// The reader, the digest of what was read so far, and how many bytes that was.
    pub fn finish(self) -> (R, Sha256, u64) {
        (self.inner, self.sha256.finish(), self.bytes)
    }
}

impl<R: Read> Read for DigestReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let given = self.inner.read(buffer)?;
        self.sha256.update(buffer.get(..given).unwrap_or_default());
        self.bytes += given as u64;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_same_however_its_pieces_are_made() {
        let content: Vec<u8> = (0..=250).cycle().take(CHECKSUM_PIECE_BYTES * 3 + 17).collect();
        let (mut at_once, mut apart) = (Checksum::default(), Checksum::default());
        at_once.update(&content);
        content.chunks(CHECKSUM_PIECE_BYTES).for_each(|piece| apart.add(Checksum::of_piece(piece)));
        assert_eq!(at_once.finish(), apart.finish());
        for at in [0, CHECKSUM_PIECE_BYTES, content.len() - 1] {
            let mut other = content.clone();
            other[at] ^= 1;
            let mut checksum = Checksum::default();
            checksum.update(&other);
            assert_ne!(checksum.finish(), at_once.finish(), "{at}");
        }
    }
    use crate::error::ErrorKind;

    /// From FIPS 180-4's examples: the digest of "abc".
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_reads_and_prints_as_hex() {
        assert_eq!(Sha256::of(b"abc").to_string(), ABC);
        assert_eq!(ABC.parse::<Sha256>().unwrap(), Sha256::of(b"abc"));
        assert_eq!(ABC.to_uppercase().parse::<Sha256>().unwrap(), Sha256::of(b"abc"));
    }

    #[test]
    fn a_text_that_is_no_digest_is_refused() {
        for text in
            ["", "ba78", &ABC[1..], &format!("{ABC}0"), &ABC.replace('b', "g"), &"+1".repeat(32), &"é".repeat(32)]
        {
            assert_eq!(text.parse::<Sha256>().unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
        }
    }

    #[test]
    fn readers_and_writers_digest_and_count_what_passes() {
        let mut writer = DigestWriter::new(Vec::new());
        writer.write_all(b"a").unwrap();
        writer.write_all(b"bc").unwrap();
        assert_eq!(writer.bytes_written(), 3);
        assert_eq!(writer.finish(), (b"abc".to_vec(), Sha256::of(b"abc"), 3));

        let mut reader = DigestReader::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        let (_, sha256, bytes) = reader.finish();
        assert_eq!((sha256, bytes), (Sha256::of(b"abc"), 3));
    }

    #[test]
    fn only_bytes_the_writer_took_are_digested() {
        struct TakesTwo;
        impl Write for TakesTwo {
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                Ok(buffer.len().min(2))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = DigestWriter::new(TakesTwo);
        assert_eq!(writer.write(b"abc").unwrap(), 2);
        let (_, sha256, bytes) = writer.finish();
        assert_eq!((sha256, bytes), (Sha256::of(b"ab"), 2));
    }
}
