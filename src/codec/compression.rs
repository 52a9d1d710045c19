//! The six compression formats of the Barman layout, whole buffers and streams, written and read.
//!
//! Containers as Barman 3.19.1 writes them: one gzip member, one bzip2 stream, .xz, zstd frames, LZ4 frames, snappy's framing
//! format. Read are all of these and their concatenations. What is written is always a single member, stream or frame:
//! `barman-cloud-restore` 3.19.1 fails on several in one tar.
//!
//! **Truncation** is an error in every format but one: snappy's framing format has no end mark, so a stream cut exactly
//! between two chunks reads as a shorter, valid one. Readers of snappy must check the length (a WAL segment's size) or an end
//! mark of their own (tar's).

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};

use crate::codec::frames::{Lz4Frames, SnappyChunks};
use crate::codec::lz4_high::{self, Lz4High};
use crate::codec::{local_failure, source_failure};
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind, Result};

/// Largest zstd window read, log2: 128 MiB, what `zstd --long` writes and the format's advice for decoders.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What one xz decoder may allocate. Preset 9, the largest, needs 65 MiB.
const XZ_MEMORY_LIMIT_BYTES: u64 = 128 << 20;

/// How much is asked of the source at once.
const SOURCE_BUFFER_BYTES: usize = 128 << 10;

/// The most that `decompress` sets aside before it has seen content; pages not written to cost nothing.
const RESERVE_LIMIT_BYTES: u64 = 64 << 20;

/// An empty snappy stream (`framing_format.txt`, section 4.1). The crate writes none for empty content.
const SNAPPY_STREAM_IDENTIFIER: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// Compresses `input` whole: what `wal-archive` does to a segment.
///
/// zstd frames carry size and checksum, LZ4 frames the same, xz CRC64, gzip CRC-32, bzip2 and snappy their block checksums.
///
/// Memory beside `input` is the result plus the compressor's state, at default levels: zstd, gzip and snappy 1 MiB, lz4 3 MiB, bzip2
/// 4 MiB, xz 32 MiB (at level 1: 9 MiB) (measured: a 16 MiB segment of noise peaks at 39 MiB with all but xz, whole process). Address space for the
/// worst case is set aside first, but pages that stay unwritten are never resident and are given back.
///
/// Errors: `Usage` for a level out of range (see [`validate_level`]), `Local` when the compressor gets no memory.
pub fn compress(codec: Compression, level: Option<i32>, input: &[u8]) -> Result<Vec<u8>> {
    let level = chosen_level(codec, level)?;
    let mut output = match codec {
        Compression::None => input.to_vec(),
        Compression::Gzip => gzip_whole(level, input)?,
        Compression::Zstd => zstd_whole(level, input).map_err(local_failure)?,
        Compression::Lz4 if level >= lz4_high::LOWEST_LEVEL => lz4_high::compress_whole(level, input),
        _ => {
            let sink = Vec::with_capacity(input.len() / 4);
            let mut encoder = start_encoder(codec, level, Some(input.len() as u64), sink)?;
            encoder.write_all(input).map_err(local_failure)?;
            encoder.finish()?
        }
    };
    output.shrink_to_fit();
    Ok(output)
}

/// Decompresses `input` whole; several members, streams or frames give the concatenation of their contents.
///
/// Memory: the result, at most `limit_bytes` (twice that, briefly, beyond 64 MiB), plus the decoder's window: up to 128 MiB, but
/// only as much of it resident as there was output. A size declared inside `input` is never believed.
///
/// Errors: `Corrupt` when `input` is empty, damaged, cut short, followed by other bytes, or longer than `limit_bytes` inside.
/// See the module's text for the one cut that snappy cannot show. `Compression::None` has no form to check.
pub fn decompress(codec: Compression, input: &[u8], limit_bytes: u64) -> Result<Vec<u8>> {
    let mut decoder = decoder(codec, input)?;
    let reserve = usize::try_from(limit_bytes.min(RESERVE_LIMIT_BYTES)).unwrap_or(0);
    let mut output = Vec::with_capacity(reserve);
    decoder.by_ref().take(limit_bytes).read_to_end(&mut output).map_err(source_failure)?;
    if decoder.read(&mut [0]).map_err(source_failure)? != 0 {
        let cause = format!("it holds more than the expected {limit_bytes} bytes");
        return Err(Error::corrupt(format!("could not decompress {codec} data: {cause}")));
    }
    output.shrink_to_fit();
    Ok(output)
}

/// A writer that compresses into `sink`: what a tar part goes through. Call [`Encoder::finish`], or the end is missing.
///
/// One gzip member, bzip2 stream, zstd frame (with checksum), LZ4 frame (1 MiB independent blocks, content checksum).
///
/// Errors: `Usage` for a level out of range, `Local` when the compressor gets no memory.
pub fn encoder<W: Write + Send>(codec: Compression, level: Option<i32>, sink: W) -> Result<Encoder<W>> {
    start_encoder(codec, chosen_level(codec, level)?, None, sink)
}

/// The same for content of `size_bytes`, which zstd and LZ4 frames then declare; other content is an error at the end.
pub fn sized_encoder<W: Write + Send>(
    codec: Compression,
    level: Option<i32>,
    size_bytes: u64,
    sink: W,
) -> Result<Encoder<W>> {
    start_encoder(codec, chosen_level(codec, level)?, Some(size_bytes), sink)
}

/// A reader of what `source` holds compressed, to its very end; members, streams and frames follow one another seamlessly.
///
/// Its `read` fails with `InvalidData` when the bytes are at fault (empty, damaged, cut short, followed by other bytes), and keeps
/// failing; the source's own errors come through unchanged. Buffers `source`, except for `Compression::None`.
///
/// Errors: `Local` when the decoder gets no memory.
pub fn decoder<'a, R: Read + Send + 'a>(codec: Compression, source: R) -> Result<Box<dyn Read + Send + 'a>> {
    let source = match codec {
        Compression::None => return Ok(Box::new(source)),
        _ => Source { inner: BufReader::with_capacity(SOURCE_BUFFER_BYTES, source), begun: false },
    };
    Ok(match codec {
        Compression::None | Compression::Gzip => checked(codec, flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Bzip2 => checked(codec, bzip2::bufread::MultiBzDecoder::new(source)),
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED | liblzma::stream::TELL_UNSUPPORTED_CHECK;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_LIMIT_BYTES, flags)
                .map_err(|cause| local_failure(cause.into()))?;
            checked(codec, liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        Compression::Zstd => {
            let mut zstd = zstd::stream::read::Decoder::with_buffer(source).map_err(local_failure)?;
            zstd.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(local_failure)?;
            checked(codec, zstd)
        }
        Compression::Lz4 => checked(codec, Lz4Frames::new(source)),
        Compression::Snappy => checked(codec, SnappyChunks::new(source)),
    })
}

/// The levels a format knows, and the one used when none is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// The lowest level taken.
    pub lowest: i32,
    /// The highest level taken.
    pub highest: i32,
    /// The level when none is asked for.
    pub default: i32,
}

/// The levels of `codec`; `None` where there are none (no compression, snappy).
///
/// Ranges are those of Barman 3.19.1. Defaults are Barman's where that costs nothing (bzip2 5, xz 3), else the level that gives
/// nearly the same size for a fraction of the time: zstd 1 (Barman 4), gzip 3 (Barman 6: half the speed for 3 % fewer bytes).
/// lz4's levels below 3 give the same bytes in little time; from 3 on it is another compressor, six times slower, 16 % smaller.
#[must_use]
pub fn levels(codec: Compression) -> Option<Levels> {
    match codec {
        Compression::None | Compression::Snappy => None,
        Compression::Gzip | Compression::Xz => Some(Levels { lowest: 1, highest: 9, default: 3 }),
        Compression::Bzip2 => Some(Levels { lowest: 1, highest: 9, default: 5 }),
        Compression::Zstd => Some(Levels { lowest: -22, highest: 22, default: 1 }),
        Compression::Lz4 => Some(Levels { lowest: 0, highest: 16, default: 0 }),
    }
}

/// What one compressor of `codec` takes at `level`, beside what goes in and comes out; an upper bound in round numbers.
///
/// xz: its manual's table of presets. zstd: measured with the program's version 1.5.4 on a stream of 40 MB (level 1: 5 MiB, 9: 20,
/// 15: 72, 19: 92, 20: 196, 22: 691), and a little more. The others' are fixed.
#[must_use]
pub fn encoder_memory_bytes(codec: Compression, level: Option<i32>) -> usize {
    let level = level.or_else(|| levels(codec).map(|levels| levels.default)).unwrap_or_default();
    let mib = match codec {
        Compression::None => 0,
        Compression::Gzip | Compression::Snappy => 1,
        Compression::Lz4 => 4,
        Compression::Bzip2 => 8,
        Compression::Zstd => match level {
            ..=4 => 8,
            5..=9 => 24,
            10..=15 => 80,
            16..=19 => 104,
            20 => 224,
            _ => 768,
        },
        Compression::Xz => match level {
            ..=1 => 9,
            2 => 17,
            3 => 32,
            4 => 48,
            5..=6 => 94,
            7 => 186,
            8 => 370,
            _ => 674,
        },
    };
    mib << 20
}

/// Says whether `codec` can be asked for `level`. Without levels (see [`levels`]) any is taken and ignored, as Barman does.
///
/// Errors: `Usage`, naming the range.
pub fn validate_level(codec: Compression, level: i32) -> Result<()> {
    match levels(codec) {
        Some(Levels { lowest, highest, .. }) if !(lowest..=highest).contains(&level) => {
            let range = format!("choose from {lowest} to {highest}");
            Err(Error::usage(format!("compression level {level} is out of range for {codec}: {range}")))
        }
        _ => Ok(()),
    }
}

fn chosen_level(codec: Compression, level: Option<i32>) -> Result<i32> {
    if let Some(level) = level {
        validate_level(codec, level)?;
    }
    Ok(level.or_else(|| levels(codec).map(|levels| levels.default)).unwrap_or_default())
}

/// For levels that are not negative by their range.
fn unsigned(level: i32) -> u32 {
    level.unsigned_abs()
}

fn gzip_whole(level: i32, input: &[u8]) -> Result<Vec<u8>> {
    let level = libdeflater::CompressionLvl::new(level)
        .map_err(|_| Error::new(ErrorKind::Bug, format!("gzip level {level} was not refused earlier")))?;
    let mut compressor = libdeflater::Compressor::new(level);
    // Zeroed pages from the system: only those written to become resident.
    let mut output = vec![0; compressor.gzip_compress_bound(input.len())];
    let length = compressor
        .gzip_compress(input, &mut output)
        .map_err(|cause| Error::new(ErrorKind::Bug, format!("could not compress gzip data: {cause}")))?;
    output.truncate(length);
    Ok(output)
}

fn zstd_whole(level: i32, input: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    compressor.compress(input)
}

/// Compresses what is written to it; see [`encoder`]. Dropped without [`finish`](Self::finish), the end is missing.
pub struct Encoder<W: Write>(Format<W>);

enum Format<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Bzip2(bzip2::write::BzEncoder<W>),
    Xz(liblzma::write::XzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<W>>),
    Lz4High(Box<Lz4High<W>>),
    Snappy { encoder: Box<snap::write::FrameEncoder<W>>, begun: bool },
}

fn start_encoder<W: Write>(codec: Compression, level: i32, size_bytes: Option<u64>, sink: W) -> Result<Encoder<W>> {
    Ok(Encoder(match codec {
        Compression::None => Format::None(sink),
        Compression::Gzip => {
            Format::Gzip(flate2::write::GzEncoder::new(sink, flate2::Compression::new(unsigned(level))))
        }
        Compression::Bzip2 => {
            Format::Bzip2(bzip2::write::BzEncoder::new(sink, bzip2::Compression::new(unsigned(level))))
        }
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_easy_encoder(unsigned(level), liblzma::stream::Check::Crc64)
                .map_err(|cause| local_failure(cause.into()))?;
            Format::Xz(liblzma::write::XzEncoder::new_stream(sink, stream))
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(sink, level).map_err(local_failure)?;
            encoder.include_checksum(true).map_err(local_failure)?;
            encoder.set_pledged_src_size(size_bytes).map_err(local_failure)?;
            Format::Zstd(encoder)
        }
        Compression::Lz4 if level >= lz4_high::LOWEST_LEVEL => Format::Lz4High(Box::new(Lz4High::new(level, sink))),
        Compression::Lz4 => {
            let frame = lz4_flex::frame::FrameInfo::new()
                .content_size(size_bytes)
                .content_checksum(true)
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max1MB);
            Format::Lz4(Box::new(lz4_flex::frame::FrameEncoder::with_frame_info(frame, sink)))
        }
        Compression::Snappy => Format::Snappy { encoder: Box::new(snap::write::FrameEncoder::new(sink)), begun: false },
    }))
}

impl<W: Write> Encoder<W> {
    /// Writes what is still held back and the trailer, and gives the sink back (not flushed).
    ///
    /// Errors: the sink's, as `Local` with its text; an error of ours inside the sink's error comes out as it is.
    pub fn finish(self) -> Result<W> {
        match self.0 {
            Format::None(sink) => Ok(sink),
            Format::Gzip(encoder) => encoder.finish(),
            Format::Bzip2(encoder) => encoder.finish(),
            Format::Xz(encoder) => encoder.finish(),
            Format::Zstd(encoder) => encoder.finish(),
            Format::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Format::Lz4High(encoder) => encoder.finish(),
            Format::Snappy { encoder, begun } => finish_snappy(*encoder, begun),
        }
        .map_err(local_failure)
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.0 {
            Format::None(sink) => sink,
            Format::Gzip(encoder) => encoder,
            Format::Bzip2(encoder) => encoder,
            Format::Xz(encoder) => encoder,
            Format::Zstd(encoder) => encoder,
            Format::Lz4(encoder) => encoder.as_mut(),
            Format::Lz4High(encoder) => encoder.as_mut(),
            Format::Snappy { encoder, .. } => encoder.as_mut(),
        }
    }
}

fn finish_snappy<W: Write>(encoder: snap::write::FrameEncoder<W>, begun: bool) -> io::Result<W> {
    let mut sink = encoder.into_inner().map_err(snap::write::IntoInnerError::into_error)?;
    if !begun {
        sink.write_all(SNAPPY_STREAM_IDENTIFIER)?;
    }
    Ok(sink)
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if let Format::Snappy { begun, .. } = &mut self.0 {
            *begun |= !buffer.is_empty();
        }
        self.writer().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Format::None(_) => "Encoder(none)",
            Format::Gzip(_) => "Encoder(gzip)",
            Format::Bzip2(_) => "Encoder(bzip2)",
            Format::Xz(_) => "Encoder(xz)",
            Format::Zstd(_) => "Encoder(zstd)",
            Format::Lz4(_) | Format::Lz4High(_) => "Encoder(lz4)",
            Format::Snappy { .. } => "Encoder(snappy)",
        })
    }
}

fn checked<'a, D: Read + Send + 'a>(codec: Compression, inner: D) -> Box<dyn Read + Send + 'a> {
    Box::new(Checked { codec, inner, failed: false })
}

/// Gives all decoders the same manners: bad bytes are `InvalidData`, the source's errors stay themselves, and an
/// error is never followed by what looks like a clean end.
struct Checked<D> {
    codec: Compression,
    inner: D,
    failed: bool,
}

impl<D: Read> Read for Checked<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let damaged = |cause: &dyn fmt::Display| {
            let text = format!("could not decompress {} data: {cause}", self.codec);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        if self.failed {
            return Err(damaged(&"an earlier read failed"));
        }
        self.inner.read(buffer).map_err(|cause| {
            self.failed = true;
            match cause.downcast::<SourceError>() {
                Ok(SourceError(original)) => original,
                Err(cause) => damaged(&cause),
            }
        })
    }
}

/// The compressed bytes: buffered, never empty as a whole, and with the reader's own errors marked as such, because decoders
/// read meaning into kinds (`lz4_flex` takes any `UnexpectedEof` for the end).
struct Source<R> {
    inner: BufReader<R>,
    begun: bool,
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.inner.buffer().is_empty() {
            match self.inner.fill_buf() {
                Ok([]) if self.begun => break,
                Ok([]) => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
                Ok(_) => self.begun = true,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(io::Error::other(SourceError(cause))),
            }
        }
        Ok(self.inner.buffer())
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

/// An error of the reader below a decoder, on its way up through the decoder.
#[derive(Debug)]
struct SourceError(io::Error);

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SourceError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const LIMIT: u64 = 8 << 20;

    fn compressed() -> impl Iterator<Item = Compression> {
        Compression::ALL.into_iter().filter(|codec| *codec != Compression::None)
    }

    /// Half text, half noise: compresses to something with literals and matches of every kind.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut bytes = Vec::with_capacity(length + 64);
        while bytes.len() < length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&state.to_be_bytes()[..(state >> 60) as usize % 8]);
            bytes.extend_from_slice(&b"INSERT INTO pgbench_history VALUES (17, 4, 0)"[..(state >> 40) as usize % 45]);
        }
        bytes.truncate(length);
        bytes
    }

    fn streamed(codec: Compression, content: &[u8]) -> Vec<u8> {
        let mut encoder = encoder(codec, None, Vec::new()).unwrap();
        content.chunks(10_007).for_each(|chunk| encoder.write_all(chunk).unwrap());
        encoder.finish().unwrap()
    }

    fn read_streamed(codec: Compression, input: &[u8]) -> io::Result<Vec<u8>> {
        /// Gives a few bytes at a time, as a network does.
        struct Trickle<'a>(&'a [u8]);
        impl Read for Trickle<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = buffer.len().min(1 + self.0.len() % 777);
                self.0.read(&mut buffer[..length])
            }
        }
        let mut output = Vec::new();
        decoder(codec, Trickle(input)).unwrap().take(LIMIT).read_to_end(&mut output)?;
        Ok(output)
    }

    #[test]
    fn every_format_gives_back_what_went_in() {
        for codec in Compression::ALL {
            for length in [0, 1, 511, 65_536, 65_537, (1 << 20) + 3] {
                let content = sample(length);
                for packed in [compress(codec, None, &content).unwrap(), streamed(codec, &content)] {
                    assert!(codec == Compression::None || !packed.is_empty());
                    assert!(decompress(codec, &packed, length as u64).unwrap() == content, "{codec} {length}");
                    assert!(read_streamed(codec, &packed).unwrap() == content, "{codec} {length}");
                }
            }
        }
    }

    #[test]
    fn members_streams_and_frames_are_read_as_one() {
        let (first, second) = (sample(200_000), sample(70_000));
        for codec in compressed() {
            let parts = [&first, &Vec::new(), &second].map(|part| compress(codec, None, part).unwrap());
            let packed = parts.concat();
            let content = [&first[..], &second].concat();
            assert!(decompress(codec, &packed, LIMIT).unwrap() == content, "{codec}");
            assert!(read_streamed(codec, &packed).unwrap() == content, "{codec}");
        }
    }

    #[test]
    fn lz4_frames_with_differing_blocks_and_modes_are_read_as_one() {
        use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
        let content = sample(300_000);
        let mut packed = Vec::new();
        for (mode, size) in [(BlockMode::Linked, BlockSize::Max4MB), (BlockMode::Linked, BlockSize::Max64KB)] {
            let frame = FrameInfo::new().block_mode(mode).block_size(size);
            let mut encoder = FrameEncoder::with_frame_info(frame, &mut packed);
            encoder.write_all(&content).unwrap();
            encoder.finish().unwrap();
        }
        assert!(decompress(Compression::Lz4, &packed, LIMIT).unwrap() == content.repeat(2));
        for length in (0..packed.len()).step_by(499) {
            let whole_first = length > 0 && decompress(Compression::Lz4, &packed[..length], LIMIT).is_ok();
            assert!(!whole_first || length > packed.len() / 3, "cut at {length}");
        }
    }

    #[test]
    fn input_cut_short_is_an_error_wherever_it_is_cut() {
        let content = sample(150_000);
        for codec in compressed() {
            for packed in [compress(codec, None, &content).unwrap(), streamed(codec, &content)] {
                let borders = if codec == Compression::Snappy { snappy_chunk_borders(&packed) } else { vec![] };
                let dense = (0..packed.len()).filter(|at| *at < 100 || at % 1999 == 0 || at + 300 > packed.len());
                for length in dense.chain(borders.iter().copied().filter(|at| *at < packed.len())) {
                    let cut = &packed[..length];
                    match decompress(codec, cut, LIMIT) {
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{codec} {length}"),
                        Ok(_) => assert!(borders.contains(&length), "{codec} {length}"),
                    }
                    match read_streamed(codec, cut) {
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{codec} {length}"),
                        Ok(_) => assert!(borders.contains(&length), "{codec} {length}"),
                    }
                }
            }
        }
    }

    /// Where the one undetectable cut of the module's text may lie.
    fn snappy_chunk_borders(packed: &[u8]) -> Vec<usize> {
        let mut borders = vec![];
        let mut at = 0;
        while let Some([_, low, middle, high]) = packed.get(at..at + 4) {
            at += 4 + u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
            borders.push(at);
        }
        borders
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_changes_nothing() {
        let content = sample(20_000);
        for codec in compressed() {
            for packed in [compress(codec, None, &content).unwrap(), streamed(codec, &content)] {
                let positions = (0..packed.len()).filter(|at| *at < 40 || at % 61 == 0 || at + 40 > packed.len());
                for (at, bit) in positions.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                    let mut flipped = packed.clone();
                    flipped[at] ^= 1 << bit;
                    match decompress(codec, &flipped, LIMIT) {
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
                        Ok(output) => assert!(output == content, "{codec}: byte {at} bit {bit} changed the content"),
                    }
                }
            }
        }
    }

    #[test]
    fn noise_never_panics() {
        for codec in compressed() {
            let valid = compress(codec, None, &sample(5_000)).unwrap();
            for seed in 0..300_usize {
                let noise = sample(9_000);
                let from = seed * 17;
                let kept = seed % valid.len().min(40);
                let input = [&valid[..kept], &noise[from..from + 600]].concat();
                if let Ok(output) = decompress(codec, &input, 1 << 20) {
                    assert!(output.len() <= 1 << 20);
                }
            }
        }
    }

    #[test]
    fn trailing_bytes_are_corrupt() {
        for codec in compressed() {
            for garbage in [&b"x"[..], b"trailing garbage", &[0; 3]] {
                let packed = [&compress(codec, None, b"content").unwrap(), garbage].concat();
                assert_eq!(decompress(codec, &packed, LIMIT).unwrap_err().kind(), ErrorKind::Corrupt, "{codec}");
                assert_eq!(read_streamed(codec, &packed).unwrap_err().kind(), io::ErrorKind::InvalidData, "{codec}");
            }
        }
    }

    #[test]
    fn empty_input_is_corrupt_unless_plain() {
        assert_eq!(decompress(Compression::None, b"", LIMIT).unwrap(), b"");
        for codec in compressed() {
            assert_eq!(decompress(codec, b"", LIMIT).unwrap_err().kind(), ErrorKind::Corrupt, "{codec}");
            assert!(read_streamed(codec, b"").is_err(), "{codec}");
        }
    }

    #[test]
    fn more_than_the_limit_is_corrupt() {
        let zeros = vec![0; 3 << 20];
        for codec in Compression::ALL {
            let packed = compress(codec, None, &zeros).unwrap();
            let error = decompress(codec, &packed, (3 << 20) - 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("more than the expected 3145727 bytes"), "{error}");
            assert_eq!(decompress(codec, &packed, 3 << 20).unwrap().len(), 3 << 20);
            assert_eq!(decompress(codec, &compress(codec, None, b"").unwrap(), 0).unwrap(), b"");
        }
    }

    /// RFC 8878: magic, frame header descriptor without size and checksum, window descriptor, one raw last block "abc".
    fn zstd_frame(window_log: u8) -> Vec<u8> {
        let window = (window_log - 10) << 3;
        [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, window][..], &[0x19, 0, 0], b"abc"].concat()
    }

    #[test]
    fn zstd_windows_up_to_27_bits_are_read_without_a_declared_size() {
        assert_eq!(decompress(Compression::Zstd, &zstd_frame(27), LIMIT).unwrap(), b"abc");
        assert_eq!(decompress(Compression::Zstd, &zstd_frame(28), LIMIT).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn whole_zstd_frames_declare_their_size_and_a_checksum() {
        let packed = compress(Compression::Zstd, None, &sample(100_000)).unwrap();
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&packed).unwrap(), Some(100_000));
        assert_eq!(packed[4] & 4, 4, "content checksum flag of RFC 8878");
        assert_eq!(streamed(Compression::Zstd, b"abc")[4] & 4, 4);
    }

    #[test]
    fn a_declared_zstd_size_is_not_believed() {
        let mut packed = compress(Compression::Zstd, None, &sample(100_000)).unwrap();
        // Single segment with a 4-byte size: let it claim 2 GiB.
        assert_eq!(packed[4] >> 5, 0b101);
        packed[5..9].copy_from_slice(&(2_u32 << 30).to_le_bytes());
        assert_eq!(decompress(Compression::Zstd, &packed, LIMIT).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn levels_out_of_range_are_refused_with_the_range() {
        let cases = [
            (Compression::Gzip, 0, "1 to 9"),
            (Compression::Bzip2, 10, "1 to 9"),
            (Compression::Xz, 10, "1 to 9"),
            (Compression::Zstd, 23, "-22 to 22"),
            (Compression::Lz4, -1, "0 to 16"),
        ];
        for (codec, level, range) in cases {
            for error in [
                validate_level(codec, level).unwrap_err(),
                compress(codec, Some(level), b"x").unwrap_err(),
                encoder(codec, Some(level), Vec::new()).unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::Usage);
                assert!(error.to_string().contains(range), "{error}");
            }
        }
        validate_level(Compression::Snappy, 99).unwrap();
    }

    #[test]
    fn what_lz4_packs_at_high_levels_is_as_strict_about_cuts_and_flipped_bits() {
        let content = sample(4_000);
        for level in [lz4_high::LOWEST_LEVEL, 16] {
            let mut encoder = encoder(Compression::Lz4, Some(level), Vec::new()).unwrap();
            encoder.write_all(&content).unwrap();
            for packed in [compress(Compression::Lz4, Some(level), &content).unwrap(), encoder.finish().unwrap()] {
                let positions = || (0..packed.len()).filter(|at| *at < 25 || at % 61 == 0 || at + 25 > packed.len());
                for length in positions() {
                    assert!(decompress(Compression::Lz4, &packed[..length], LIMIT).is_err(), "{level} {length}");
                }
                for (at, bit) in positions().flat_map(|at| [(at, 0), (at, 3), (at, 7)]) {
                    let mut flipped = packed.clone();
                    flipped[at] ^= 1 << bit;
                    let output = decompress(Compression::Lz4, &flipped, LIMIT);
                    assert!(output.is_err() || output.unwrap() == content, "{level}: byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn every_level_of_barman_leads_to_one_of_ours() {
        use crate::domain::compression::{BarmanLevel, barman_level};
        for codec in compressed() {
            for number in -30..30 {
                if let Some(level) = barman_level(codec, BarmanLevel::Number(number)) {
                    validate_level(codec, level).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_ends_of_every_range_work() {
        let content = sample(3_000);
        for codec in compressed() {
            let Some(Levels { lowest, highest, default }) = levels(codec) else { continue };
            // zstd 22 would take half a gigabyte.
            for level in [lowest, default, highest.min(19)] {
                let mut encoder = encoder(codec, Some(level), Vec::new()).unwrap();
                encoder.write_all(&content).unwrap();
                for packed in [compress(codec, Some(level), &content).unwrap(), encoder.finish().unwrap()] {
                    assert!(decompress(codec, &packed, LIMIT).unwrap() == content, "{codec} {level}");
                }
            }
        }
    }

    #[test]
    fn a_failing_sink_keeps_its_text_and_our_own_errors_their_kind() {
        struct Fails(fn() -> io::Error);
        impl Write for Fails {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err((self.0)())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let fail = |codec, cause| {
            let mut encoder = encoder(codec, None, Fails(cause)).unwrap();
            encoder.write_all(b"x").map_err(local_failure).and_then(|()| encoder.finish()).err().unwrap()
        };
        for codec in Compression::ALL {
            let error = fail(codec, || io::Error::other("the pipe burst"));
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::Local, "the pipe burst".to_owned()), "{codec}");
            let error = fail(codec, || io::Error::other(Error::new(ErrorKind::Unreachable, "no route")));
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unreachable, "no route".to_owned()), "{codec}");
        }
    }

    #[test]
    fn a_failing_source_is_not_taken_for_bad_bytes_or_the_end() {
        struct Fails<'a>(&'a [u8]);
        impl Read for Fails<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, Error::new(ErrorKind::Unreachable, "reset"))),
                    length => Ok(length),
                }
            }
        }
        for codec in compressed() {
            let packed = compress(codec, None, &sample(100_000)).unwrap();
            for length in [0, 4, 7, packed.len() / 2, packed.len()] {
                let mut decoder = decoder(codec, Fails(&packed[..length])).unwrap();
                let error = source_failure(decoder.read_to_end(&mut Vec::new()).unwrap_err());
                assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unreachable, "reset".to_owned()), "{codec}");
                assert!(decoder.read(&mut [0; 8]).is_err(), "{codec}: an error turned into an end");
            }
        }
    }

    #[test]
    fn wal_that_barman_archived_is_read_in_every_format() {
        let wals =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1/bucket/pfx/main/wals/0000000100000000");
        let mut seen = std::collections::HashSet::new();
        for file in std::fs::read_dir(wals).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let (segment, codec) = Compression::split_suffix(&name);
            if segment.len() != 24 {
                continue;
            }
            let content = decompress(codec, &std::fs::read(file.path()).unwrap(), 1 << 20).unwrap();
            // XLOG_PAGE_MAGIC of PostgreSQL 15 (xlog_internal.h).
            assert_eq!((content.len(), &content[..2]), (1 << 20, &0xd110_u16.to_le_bytes()[..]), "{name}");
            seen.insert(codec);
        }
        assert_eq!(seen.len(), Compression::ALL.len());
    }
}
