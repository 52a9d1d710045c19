//! Readers of LZ4 frames and snappy chunks, stricter than their libraries: what is cut short or passed over is an error.

use std::io::{self, BufRead, Read};

/// LZ4 frames one after another, each with a decoder of its own: `lz4_flex` 0.14 ends quietly where a block or header is missing,
/// and sizes its buffers for the first frame only. The legacy format, which has no end mark, is refused, and so are
/// skippable frames and blocks without content, which no encoder of ours or Barman's writes.
pub(super) struct Lz4Frames<R: Read>(Option<lz4_flex::frame::FrameDecoder<InsideFrame<R>>>);

impl<R: BufRead> Lz4Frames<R> {
    pub(super) fn new(source: R) -> Self {
        Self(Some(lz4_flex::frame::FrameDecoder::new(InsideFrame(source))))
    }
}

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(mut frame) = self.0.take() {
            let length = frame.read(buffer)?;
            if length > 0 {
                self.0 = Some(frame);
                return Ok(length);
            }
            let mut source = frame.into_inner();
            if !source.0.fill_buf()?.is_empty() {
                self.0 = Some(lz4_flex::frame::FrameDecoder::new(source));
            }
        }
        Ok(0)
    }
}

/// Inside a frame there is no end of input, only a missing rest.
struct InsideFrame<R>(R);

impl<R: Read> Read for InsideFrame<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::Error::new(io::ErrorKind::InvalidData, "it ends inside a frame")),
            length => Ok(length),
        }
    }
}

/// The most a snappy chunk expands to, and the most it may take up (`framing_format.txt`, section 4.2).
const SNAPPY_CONTENT_BYTES_MAX: usize = 65_536;
const SNAPPY_CHUNK_BYTES_MAX: usize = 4 + 76_490;

/// Snappy's framing format. A reserved chunk that the format lets readers pass over is refused: nobody writes one, and the type
/// byte has no checksum, so that a single flipped bit would make 64 KiB of content vanish.
pub(super) struct SnappyChunks<R> {
    source: R,
    decoder: snap::raw::Decoder,
    chunk: Vec<u8>,
    content: Vec<u8>,
    given: usize,
    begun: bool,
}

impl<R: BufRead> SnappyChunks<R> {
    pub(super) fn new(source: R) -> Self {
        let decoder = snap::raw::Decoder::new();
        Self { source, decoder, chunk: Vec::new(), content: Vec::new(), given: 0, begun: false }
    }

    /// False at the end of the source. A chunk without content leaves nothing to give.
    fn next_chunk(&mut self) -> io::Result<bool> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut header = [0; 4];
        self.source.read_exact(&mut header)?;
        let [kind, low, middle, high] = header;
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if length > SNAPPY_CHUNK_BYTES_MAX || (kind != 0xff && !self.begun) {
            return Err(bad("it has no stream identifier, or a chunk that is too long"));
        }
        self.chunk.resize(length, 0);
        self.source.read_exact(&mut self.chunk)?;
        self.content.clear();
        self.given = 0;
        match kind {
            0xff if self.chunk == b"sNaPpY" => self.begun = true,
            0x00 | 0x01 => self.expand(kind == 0x00)?,
            0xfe => {}
            _ => return Err(bad(&format!("it has a chunk of unknown type {kind:#04x}"))),
        }
        Ok(true)
    }

    fn expand(&mut self, compressed: bool) -> io::Result<()> {
        let Some((checksum, data)) = self.chunk.split_first_chunk::<4>() else {
            return Err(bad("it has a chunk without a checksum"));
        };
        let length = if compressed { snap::raw::decompress_len(data)? } else { data.len() };
        if length > SNAPPY_CONTENT_BYTES_MAX {
            return Err(bad("it has a chunk that expands to more than 64 KiB"));
        }
        self.content.resize(length, 0);
        if compressed {
            self.decoder.decompress(data, &mut self.content)?;
        } else {
            self.content.copy_from_slice(data);
        }
        // Masked as section 3 says.
        let found = crc32c::crc32c(&self.content).rotate_right(15).wrapping_add(0xa282_ead8);
        if found != u32::from_le_bytes(*checksum) {
            return Err(bad("a chunk's checksum does not match its content"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for SnappyChunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let length = self.content.get(self.given..).unwrap_or_default().read(buffer)?;
            self.given += length;
            if length > 0 || !self.next_chunk()? {
                return Ok(length);
            }
        }
    }
}

fn bad(cause: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}
