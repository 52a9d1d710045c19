//! Reads a tar archive without trusting it: every name is checked, every length is bounded, a missing rest is an error.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::header::{BLOCK_BYTES, Block, Extended, Header, padding, shown};
use crate::codec::source_failure;
use crate::error::{Error, Result};

/// The longest extended header or GNU long name taken. Linux paths end at 4 KiB.
const EXTENDED_BYTES_MAX: u64 = 1 << 20;

/// How many extended headers may precede one member; writers use one or two.
const EXTENDED_COUNT_MAX: usize = 8;

/// How many bytes of zeros may follow the end of the archive; tar's largest usual record is 1 MiB.
const TAIL_BYTES_MAX: u64 = 16 << 20;

const SOURCE_BUFFER_BYTES: usize = 128 << 10;

/// Reads members in order; between two calls of [`next_entry`](Self::next_entry) it is a [`Read`] of the current file's content.
///
/// Reads pax, ustar, GNU and v7 archives. Memory: a 128 KiB buffer, and at most 1 MiB for a long name.
///
/// Errors: `Corrupt` for damaged headers, forbidden names, an archive that is cut short or followed by other bytes; the source's
/// own failures are `Local`, or what they carry. After an error the rest of the archive means nothing.
pub struct TarReader<R> {
    source: BufReader<R>,
    content_bytes: u64,
    padding_bytes: u64,
    finished: bool,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without `.` and `..` components, never empty; the root directory is `.`.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last modification, whole seconds since 1970-01-01 UTC; fractions are dropped towards the past.
    pub mtime: i64,
    /// Bytes of content to read; 0 unless it is a file or of an unknown kind.
    pub size: u64,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link and its target, which may point anywhere: it is the restorer's to judge.
    Symlink(PathBuf),
    /// Another name for an earlier member of the same archive, whose path this is: relative, as [`Entry::path`].
    HardLink(PathBuf),
    /// Anything else, by its type flag: `3` and `4` devices, `6` FIFO, …
    Other(char),
}

impl<R: Read> TarReader<R> {
    /// A reader at the start of an archive. `source` is buffered here.
    pub fn new(source: R) -> Self {
        let source = BufReader::with_capacity(SOURCE_BUFFER_BYTES, source);
        Self { source, content_bytes: 0, padding_bytes: 0, finished: false }
    }

    /// The next member, whatever was left of the current one skipped; `None` after the last.
    ///
    /// `None` is given only when the end mark was there and the source was read to its end (so that a decoder below has checked
    /// its trailer).
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_rest()?;
        if self.finished {
            return Ok(None);
        }
        let mut extended = Extended::default();
        for _ in 0..=EXTENDED_COUNT_MAX {
            let block = self.block()?;
            if block.iter().all(|byte| *byte == 0) {
                if !extended.is_empty() {
                    return Err(Error::corrupt("tar archive ends after an extended header, before its member"));
                }
                self.finish()?;
                return Ok(None);
            }
            let header = Header::parse(&block)?;
            match header.type_flag {
                b'x' => extended.take_records(&self.extended_content(&header)?)?,
                b'g' => self.refuse_global_changes(&header)?,
                b'L' => extended.name = Some(until_nul(self.extended_content(&header)?)),
                b'K' => extended.link = Some(until_nul(self.extended_content(&header)?)),
                _ => return self.entry(header, extended).map(Some),
            }
        }
        Err(Error::corrupt(format!("tar member has more than {EXTENDED_COUNT_MAX} extended headers")))
    }

    /// The source, for what it has counted; what was buffered of it is lost.
    pub fn into_source(self) -> R {
        self.source.into_inner()
    }

    fn entry(&mut self, header: Header, extended: Extended) -> Result<Entry> {
        let name = extended.name.unwrap_or(header.name);
        let size = within(extended.size.unwrap_or(header.size), "size", &name)?;
        let type_flag = header.type_flag;
        let kind = match type_flag {
            b'5' => EntryKind::Directory,
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' => EntryKind::File,
            b'1' => EntryKind::HardLink(relative_path(&extended.link.unwrap_or(header.link), false)?),
            b'2' => EntryKind::Symlink(link_target(&name, &extended.link.unwrap_or(header.link))?),
            // Its map of holes may be continued in blocks that are not counted in the size.
            b'S' => return Err(Error::corrupt(format!("tar member {} is stored as a sparse file", shown(&name)))),
            flag => EntryKind::Other(char::from(flag)),
        };
        let has_content = kind == EntryKind::File || matches!(kind, EntryKind::Other(flag) if !"346".contains(flag));
        if size > 0 && !has_content {
            // Readers disagree on whether content follows: what one skips, another takes for headers.
            let kind = char::from(type_flag).escape_debug();
            return Err(Error::corrupt(format!(
                "tar member {} of type {kind} has {size} bytes of content",
                shown(&name)
            )));
        }
        let entry = Entry {
            path: relative_path(&name, kind == EntryKind::Directory)?,
            kind,
            mode: within::<u32>(header.mode, "mode", &name)? & 0o7777,
            uid: within(extended.uid.unwrap_or(header.uid), "owner", &name)?,
            gid: within(extended.gid.unwrap_or(header.gid), "group", &name)?,
            mtime: extended.mtime.unwrap_or(header.mtime),
            size,
        };
        self.content_bytes = size;
        self.padding_bytes = padding(size) as u64;
        Ok(entry)
    }

    /// The content of an extended header: pax records or a long name.
    fn extended_content(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size: u64 = within(header.size, "size", &header.name)?;
        if size > EXTENDED_BYTES_MAX {
            let limit = format!("the limit is {EXTENDED_BYTES_MAX}");
            return Err(Error::corrupt(format!("tar extended header has {size} bytes: {limit}")));
        }
        self.content_bytes = size;
        self.padding_bytes = padding(size) as u64;
        let mut content = Vec::new();
        self.read_to_end(&mut content).map_err(source_failure)?;
        self.skip_rest()?;
        Ok(content)
    }

    /// A header for all members to come may say what it likes (`git archive` leaves a comment), but not rename or resize them.
    fn refuse_global_changes(&mut self, header: &Header) -> Result<()> {
        let mut global = Extended::default();
        global.take_records(&self.extended_content(header)?)?;
        if global.is_empty() {
            return Ok(());
        }
        Err(Error::corrupt("tar archive has a global header that changes its members, which backups do not use"))
    }

    /// After the first zero block: one more, then nothing but zeros until the source ends.
    fn finish(&mut self) -> Result<()> {
        let trailing = || Error::corrupt("tar archive is followed by other data");
        if self.block()?.iter().any(|byte| *byte != 0) {
            return Err(trailing());
        }
        let mut tail_bytes = 0;
        loop {
            let tail = fill(&mut self.source).map_err(source_failure)?;
            let length = tail.len();
            if length == 0 {
                self.finished = true;
                return Ok(());
            }
            tail_bytes += length as u64;
            if tail.iter().any(|byte| *byte != 0) || tail_bytes > TAIL_BYTES_MAX {
                return Err(trailing());
            }
            self.source.consume(length);
        }
    }

    fn block(&mut self) -> Result<Block> {
        let mut block = [0; BLOCK_BYTES];
        self.source.read_exact(&mut block).map_err(|cause| match cause.kind() {
            // read_exact's own; a decoder's carries a text and is InvalidData.
            io::ErrorKind::UnexpectedEof if cause.get_ref().is_none() => {
                Error::corrupt("tar archive is cut short: its end mark is missing")
            }
            _ => source_failure(cause),
        })?;
        Ok(block)
    }

    fn skip_rest(&mut self) -> Result<()> {
        while self.content_bytes + self.padding_bytes > 0 {
            let available = fill(&mut self.source).map_err(source_failure)?.len() as u64;
            if available == 0 {
                return Err(source_failure(cut_short(self.content_bytes)));
            }
            let content = available.min(self.content_bytes);
            let padding = (available - content).min(self.padding_bytes);
            self.content_bytes -= content;
            self.padding_bytes -= padding;
            self.source.consume(usize::try_from(content + padding).unwrap_or(0));
        }
        Ok(())
    }
}

impl<R: Read> Read for TarReader<R> {
    /// Content of the current entry; `Ok(0)` at its end. A missing rest is `InvalidData`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.content_bytes).unwrap_or(usize::MAX).min(buffer.len());
        let (buffer, _) = buffer.split_at_mut(wanted);
        let length = self.source.read(buffer)?;
        if length == 0 && wanted > 0 {
            return Err(cut_short(self.content_bytes));
        }
        self.content_bytes -= length as u64;
        Ok(length)
    }
}

impl<R> fmt::Debug for TarReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarReader").field("content_bytes", &self.content_bytes).finish_non_exhaustive()
    }
}

fn cut_short(missing_bytes: u64) -> io::Error {
    let text = format!("tar archive is cut short: {missing_bytes} bytes of a member's content are missing");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn fill<R: Read>(source: &mut BufReader<R>) -> io::Result<&[u8]> {
    while source.buffer().is_empty() {
        match source.fill_buf() {
            Ok([]) => break,
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(source.buffer())
}

fn within<T: TryFrom<i64>>(value: i64, what: &str, name: &[u8]) -> Result<T> {
    T::try_from(value)
        .map_err(|_| Error::corrupt(format!("tar member {} has an impossible {what}: {value}", shown(name))))
}

/// GNU long names end in a NUL.
fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

fn link_target(name: &[u8], target: &[u8]) -> Result<PathBuf> {
    if target.is_empty() || target.contains(&0) {
        return Err(Error::corrupt(format!("tar member {} is a link to {}", shown(name), shown(target))));
    }
    Ok(PathBuf::from(OsStr::from_bytes(target)))
}

/// The one gate that names pass: what comes out can be joined to a directory and stays below it (links aside).
fn relative_path(name: &[u8], directory: bool) -> Result<PathBuf> {
    let refuse = |cause| Err(Error::corrupt(format!("tar member {} is refused: its name {cause}", shown(name))));
    if name.is_empty() {
        return refuse("is empty");
    }
    if name.starts_with(b"/") {
        return refuse("is absolute");
    }
    if name.contains(&0) {
        return refuse("has a NUL byte");
    }
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("leads upwards"),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    if path.as_os_str().is_empty() {
        if !directory {
            return refuse("is that of the root directory");
        }
        path.push(".");
    }
    Ok(path)
}
