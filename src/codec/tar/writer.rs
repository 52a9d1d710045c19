//! Writes a tar archive member by member, with the checksum of every file's content taken on the way.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::header::{Attributes, BLOCK_BYTES, Member, padding};
use crate::codec::local_failure;
use crate::error::{Error, ErrorKind, Result};

/// One read from a file; reused for all of them.
const COPY_BUFFER_BYTES: usize = 256 << 10;

/// Archives are padded to a multiple of this (twenty blocks, tar's habit since tapes).
const RECORD_BYTES: usize = 10_240;

/// Writes a pax archive into `W`.
///
/// Paths are relative, without `..`. Memory: a 256 KiB buffer. After an error the archive cannot be continued. Errors: the sink's
/// as `Local` with its text (an error of ours inside it comes out as it is); `Bug` for a path that no archive may hold.
pub struct TarWriter<W> {
    sink: W,
    bytes_written: u64,
    buffer: Box<[u8]>,
    header: Vec<u8>,
    broken: bool,
}

/// What [`TarWriter::file`] put into the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// Content bytes in the archive: the size that was asked for.
    pub size_bytes: u64,
    /// CRC-32C of exactly these bytes.
    pub crc32c: u32,
    /// How many of them are zeros of ours, because the file ended early.
    pub padded_bytes: u64,
}

impl<W: Write> TarWriter<W> {
    /// An empty archive.
    pub fn new(sink: W) -> Self {
        let buffer = vec![0; COPY_BUFFER_BYTES].into_boxed_slice();
        Self { sink, bytes_written: 0, buffer, header: Vec::new(), broken: false }
    }

    /// Adds a directory; `.` is the root.
    pub fn directory(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        let name = [path.as_os_str().as_bytes(), b"/"].concat();
        self.member(path, &Member { type_flag: b'5', name: &name, link: b"", attributes: *attributes, size_bytes: 0 })
    }

    /// Adds a regular file with exactly `size_bytes` of `content`: what it has grown by is left out, what it has shrunk by is
    /// filled with zeros (PostgreSQL replays WAL over both).
    ///
    /// Errors: besides the sink's, a failed read as `Local`, naming nothing: only the caller knows the file's real path.
    pub fn file(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        size_bytes: u64,
        content: &mut dyn Read,
    ) -> Result<Archived> {
        let name = path.as_os_str().as_bytes();
        self.member(path, &Member { type_flag: b'0', name, link: b"", attributes: *attributes, size_bytes })?;
        self.broken = true;
        let mut archived = Archived { size_bytes, crc32c: 0, padded_bytes: 0 };
        let mut left = size_bytes;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let (chunk, _) = self.buffer.split_at_mut(wanted);
            let length = match read_some(content, chunk)? {
                0 => {
                    chunk.fill(0);
                    archived.padded_bytes += wanted as u64;
                    wanted
                }
                length => length.min(wanted),
            };
            let (chunk, _) = chunk.split_at(length);
            archived.crc32c = crc32c::crc32c_append(archived.crc32c, chunk);
            self.sink.write_all(chunk).map_err(local_failure)?;
            left -= length as u64;
        }
        self.bytes_written += size_bytes;
        self.zeros(padding(size_bytes))?;
        self.broken = false;
        Ok(archived)
    }

    /// Adds a symbolic link; `target` is stored as it is.
    pub fn symlink(&mut self, path: &Path, target: &Path, attributes: &Attributes) -> Result<()> {
        let (name, link) = (path.as_os_str().as_bytes(), target.as_os_str().as_bytes());
        self.member(path, &Member { type_flag: b'2', name, link, attributes: *attributes, size_bytes: 0 })
    }

    /// Bytes handed to the sink so far.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// How long the archive will be when it ends here.
    pub fn bytes_when_finished(&self) -> u64 {
        (self.bytes_written + 2 * BLOCK_BYTES as u64).next_multiple_of(RECORD_BYTES as u64)
    }

    /// Ends the archive — two zero blocks, padded to 10240 bytes — and gives the sink back (not flushed).
    pub fn finish(mut self) -> Result<W> {
        self.refuse_if_broken()?;
        let missing = self.bytes_when_finished() - self.bytes_written;
        self.zeros(usize::try_from(missing).unwrap_or(0))?;
        Ok(self.sink)
    }

    fn member(&mut self, path: &Path, member: &Member<'_>) -> Result<()> {
        self.refuse_if_broken()?;
        let relative = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !relative || path.as_os_str().is_empty() || member.name.contains(&0) || member.link.contains(&0) {
            let message = format!("could not add \"{}\" to an archive: not a relative path below it", path.display());
            return Err(Error::new(ErrorKind::Bug, message));
        }
        self.header.clear();
        member.append_to(&mut self.header);
        self.broken = true;
        self.sink.write_all(&self.header).map_err(local_failure)?;
        self.bytes_written += self.header.len() as u64;
        self.broken = false;
        Ok(())
    }

    fn zeros(&mut self, count: usize) -> Result<()> {
        // A padding is shorter than a block, the end at most a record and a block.
        const ZEROS: [u8; RECORD_BYTES + BLOCK_BYTES] = [0; RECORD_BYTES + BLOCK_BYTES];
        let (zeros, _) = ZEROS.split_at(count.min(ZEROS.len()));
        self.sink.write_all(zeros).map_err(local_failure)?;
        self.bytes_written += zeros.len() as u64;
        Ok(())
    }

    fn refuse_if_broken(&self) -> Result<()> {
        if self.broken {
            return Err(Error::new(ErrorKind::Bug, "could not continue an archive after a failure inside a member"));
        }
        Ok(())
    }
}

impl<W> fmt::Debug for TarWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarWriter").field("bytes_written", &self.bytes_written).finish_non_exhaustive()
    }
}

fn read_some(content: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match content.read(buffer) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map_err(local_failure),
        }
    }
}
