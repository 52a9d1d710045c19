//! LZ4 frames at high compression, which `lz4_flex` does not have: blocks by the C library, the frame by us, two threads for whole files.

use std::hash::Hasher as _;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use lz4::block::{CompressionMode, compress_to_buffer};
use twox_hash::XxHash32;

/// From this level on the C library's `LZ4_compress_HC` is at work; Barman 3.19.1's below are the fast compressor's, and so are ours.
pub(super) const LOWEST_LEVEL: i32 = 3;

/// Blocks know nothing of one another, so that two can be made at once. At 1 MiB that costs 0.2 % of size against 4 MiB.
const BLOCK_BYTES: usize = 1 << 20;

/// A database server has other work for its cores.
const THREADS: usize = 2;

/// Magic, flags, block size, content size, header checksum.
const HEADER_BYTES_MAX: usize = 4 + 2 + 8 + 1;

/// A block's length stands before it; the highest bit says that it is not compressed.
const LENGTH_BYTES: usize = 4;
const STORED: u32 = 1 << 31;

/// An end mark and the checksum of the content.
const TRAILER_BYTES: usize = 4 + 4;

/// One frame of `input`, with its size and checksum: `lz4_Frame_format.md` 1.6.
///
/// Memory: the result, and at most as much address space as storing takes, of which only what is written becomes resident.
pub(super) fn compress_whole(level: i32, input: &[u8]) -> Vec<u8> {
    let header = frame_header(Some(input.len() as u64));
    let blocks = input.len().div_ceil(BLOCK_BYTES);
    let mut output = vec![0; HEADER_BYTES_MAX + blocks * LENGTH_BYTES + input.len() + TRAILER_BYTES];
    output[..header.len()].copy_from_slice(&header);
    let room = &mut output[header.len()..];
    let work = Mutex::new(input.chunks(BLOCK_BYTES).zip(room.chunks_mut(LENGTH_BYTES + BLOCK_BYTES)));
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let drain = || {
        while let Some((content, room)) = next() {
            write_block(level, content, room);
        }
    };
    let checksum = std::thread::scope(|scope| {
        for _ in 1..THREADS.min(blocks) {
            // Without a second thread the first does it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, drain);
        }
        let checksum = XxHash32::oneshot(0, input);
        drain();
        checksum
    });
    let mut end = header.len();
    for at in (0..blocks).map(|block| header.len() + block * (LENGTH_BYTES + BLOCK_BYTES)) {
        let length = LENGTH_BYTES + block_length(&output[at..]);
        output.copy_within(at..at + length, end);
        end += length;
    }
    output.truncate(end);
    output.extend(0_u32.to_le_bytes());
    output.extend(checksum.to_le_bytes());
    output
}

fn frame_header(content_bytes: Option<u64>) -> Vec<u8> {
    /// Version 01, blocks independent, content checksum.
    const FLAGS: u8 = 0b0110_0100;
    const HAS_CONTENT_SIZE: u8 = 0b0000_1000;
    /// At most 1 MiB.
    const BLOCK_SIZE: u8 = 6 << 4;
    let mut header = vec![0x04, 0x22, 0x4D, 0x18, FLAGS, BLOCK_SIZE];
    if let Some(bytes) = content_bytes {
        header[4] |= HAS_CONTENT_SIZE;
        header.extend(bytes.to_le_bytes());
    }
    let checksum = XxHash32::oneshot(0, &header[4..]).to_le_bytes();
    header.push(checksum[1]);
    header
}

/// Writes the block of `content`, with its length, to the beginning of `room`, which is `LENGTH_BYTES` longer than `content`.
fn write_block(level: i32, content: &[u8], room: &mut [u8]) {
    let (head, body) = room.split_at_mut(LENGTH_BYTES);
    // What does not become shorter does not fit, and is stored as it is; so is all when the compressor gets no memory.
    let room_if_shorter = &mut body[..content.len() - 1];
    let packed = compress_to_buffer(content, Some(CompressionMode::HIGHCOMPRESSION(level)), false, room_if_shorter);
    let length = if let Ok(length) = packed {
        low_bits(length)
    } else {
        body[..content.len()].copy_from_slice(content);
        low_bits(content.len()) | STORED
    };
    head.copy_from_slice(&length.to_le_bytes());
}

fn low_bits(length: usize) -> u32 {
    u32::try_from(length).expect("a block is at most 1 MiB long")
}

/// How long the block is whose length `bytes` begin with.
fn block_length(bytes: &[u8]) -> usize {
    let head = bytes.first_chunk().expect("a block begins with its length");
    (u32::from_le_bytes(*head) & !STORED) as usize
}

/// Compresses what is written to it into one frame, without its size, which is not known. Memory: two blocks.
pub(super) struct Lz4High<W> {
    sink: W,
    level: i32,
    begun: bool,
    content: Vec<u8>,
    block: Vec<u8>,
    checksum: XxHash32,
}

impl<W: Write> Lz4High<W> {
    pub(super) fn new(level: i32, sink: W) -> Self {
        let block = vec![0; LENGTH_BYTES + BLOCK_BYTES];
        Self {
            sink,
            level,
            begun: false,
            content: Vec::with_capacity(BLOCK_BYTES),
            block,
            checksum: XxHash32::with_seed(0),
        }
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_out()?;
        self.sink.write_all(&0_u32.to_le_bytes())?;
        self.sink.write_all(&self.checksum.finish_32().to_le_bytes())?;
        Ok(self.sink)
    }

    /// Writes the header if that was not done, and a block of the content there is, if any.
    fn write_out(&mut self) -> io::Result<()> {
        if !self.begun {
            self.sink.write_all(&frame_header(None))?;
            self.begun = true;
        }
        if !self.content.is_empty() {
            self.checksum.write(&self.content);
            write_block(self.level, &self.content, &mut self.block);
            self.sink.write_all(&self.block[..LENGTH_BYTES + block_length(&self.block)])?;
            self.content.clear();
        }
        Ok(())
    }
}

impl<W: Write> Write for Lz4High<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.content.len() == BLOCK_BYTES {
            self.write_out()?;
        }
        let taken = buffer.len().min(BLOCK_BYTES - self.content.len());
        self.content.extend_from_slice(&buffer[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    /// Text, noise that stays as it is, text again, over several blocks.
    fn content(length: usize) -> Vec<u8> {
        let text = b"INSERT INTO pgbench_history VALUES (17, 4, 0)".repeat(1 + length / 90);
        let mut bytes = [&text[..], &noise(length), &text[..]].concat();
        bytes.truncate(length);
        bytes
    }

    /// What the C library reads, to the end.
    fn read_by_c(frame: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        let mut decoder = lz4::Decoder::new(frame).unwrap();
        decoder.read_to_end(&mut content).unwrap();
        let (rest, outcome) = decoder.finish();
        outcome.unwrap();
        assert_eq!(rest, b"");
        content
    }

    #[test]
    fn the_c_library_reads_frames_of_any_length_whole_and_streamed() {
        for length in [0, 1, 2, 1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7] {
            for content in [content(length), noise(length), vec![0; length]] {
                let whole = compress_whole(3, &content);
                assert!(read_by_c(&whole) == content, "{length}");
                let mut writer = Lz4High::new(3, Vec::new());
                content.chunks(100_003).for_each(|chunk| writer.write_all(chunk).unwrap());
                assert!(read_by_c(&writer.finish().unwrap()) == content, "{length}");
            }
        }
    }

    #[test]
    fn what_was_flushed_is_with_the_sink() {
        let mut writer = Lz4High::new(3, Vec::new());
        writer.write_all(&content(5000)).unwrap();
        assert_eq!(writer.sink.len(), 0);
        writer.flush().unwrap();
        let there = writer.sink.len();
        assert!(there > 100);
        writer.write_all(b"more").unwrap();
        let all = writer.finish().unwrap();
        assert!(read_by_c(&all) == [content(5000), b"more".to_vec()].concat());
    }

    #[test]
    fn noise_is_stored_and_takes_no_more_than_its_lengths() {
        let frame = compress_whole(3, &noise(2 * BLOCK_BYTES + 5));
        assert_eq!(frame.len(), HEADER_BYTES_MAX + 3 * LENGTH_BYTES + 2 * BLOCK_BYTES + 5 + TRAILER_BYTES);
    }
}
