//! An object of a backup as a blocking stream of bytes, measured and digested on its way.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::codec::digest::{DigestReader, Sha256};
use crate::commands::archive::Archive;
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::PartFamily;

/// One request reads this much; two of them at least are in memory for each worker.
pub(crate) const READ_BYTES: u64 = 8 << 20;

/// A part to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartToFetch {
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) codec: Compression,
    pub(crate) family: PartFamily,
    /// Its place among the family's parts.
    pub(crate) number: u32,
    /// What it unpacks to; nobody knows of Barman's backups.
    pub(crate) content_bytes: Option<u64>,
    /// The digest of the object's bytes; Barman's backups have none.
    pub(crate) sha256: Option<Sha256>,
}

/// An object as a blocking stream: read in ranges, some ahead, each retried on its own by the store.
#[derive(Debug)]
struct ObjectReader {
    runtime: Handle,
    archive: Archive,
    key: String,
    bytes: u64,
    requested: u64,
    ahead: VecDeque<JoinHandle<Result<Bytes>>>,
    current: Bytes,
}

impl ObjectReader {
    fn new(runtime: &Handle, archive: &Archive, part: &PartToFetch, ranges_ahead: usize) -> Self {
        let mut reader = Self {
            runtime: runtime.clone(),
            archive: archive.clone(),
            key: part.key.clone(),
            bytes: part.bytes,
            requested: 0,
            ahead: VecDeque::new(),
            current: Bytes::new(),
        };
        (0..ranges_ahead.max(1)).for_each(|_| reader.read_ahead());
        reader
    }

    fn read_ahead(&mut self) {
        let range = self.requested..(self.requested + READ_BYTES).min(self.bytes);
        if range.is_empty() {
            return;
        }
        self.requested = range.end;
        let (store, key) = (self.archive.store.clone(), self.key.clone());
        self.ahead.push_back(self.runtime.spawn(async move { store.get_range(&key, range).await }));
    }

    fn next_range(&mut self) -> Result<Bytes> {
        let Some(ahead) = self.ahead.pop_front() else { return Ok(Bytes::new()) };
        let died = |error| Error::new(ErrorKind::Bug, format!("a read failed: {error}"));
        let bytes = self.runtime.block_on(ahead).map_err(died)??;
        self.read_ahead();
        Ok(bytes)
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.current.has_remaining() {
            match self.next_range() {
                Ok(bytes) => self.current = bytes,
                // The store's own error travels inside and comes out as it went in.
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let taken = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        self.ahead.iter().for_each(JoinHandle::abort);
    }
}

/// An object being read, whose size and digest are compared at the end. The decoder owns its reader, so the two share.
pub(crate) struct VerifiedObject(Arc<Mutex<DigestReader<ObjectReader>>>);

impl VerifiedObject {
    /// Begins to read it: `ranges_ahead` of [`READ_BYTES`] each are on their way while one is being used.
    pub(crate) fn open(runtime: &Handle, archive: &Archive, part: &PartToFetch, ranges_ahead: usize) -> Self {
        let reader = ObjectReader::new(runtime, archive, part, ranges_ahead);
        Self(Arc::new(Mutex::new(DigestReader::new(reader))))
    }

    pub(crate) fn reader(&self) -> SharedReader {
        SharedReader(Arc::clone(&self.0))
    }

    /// Compares what was read to the end with what was stored.
    pub(crate) fn verify(self, part: &PartToFetch) -> Result<()> {
        let (digest, bytes) = self.finish()?;
        if bytes != part.bytes {
            return Err(Error::corrupt(format!("{} bytes are expected, {bytes} came", part.bytes)));
        }
        match part.sha256 {
            Some(expected) if expected != digest => {
                Err(Error::corrupt(format!("it is damaged: SHA-256 {expected} was stored, {digest} came back")))
            }
            _ => Ok(()),
        }
    }

    /// The digest and the length of what was read so far; nobody may read any more.
    pub(crate) fn finish(self) -> Result<(Sha256, u64)> {
        let still_read = || Error::new(ErrorKind::Bug, "a part is still being read");
        let reader = Arc::into_inner(self.0).ok_or_else(still_read)?;
        let (_, digest, bytes) = reader.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
        Ok((digest, bytes))
    }
}

/// One of the two who hold the object.
pub(crate) struct SharedReader(Arc<Mutex<DigestReader<ObjectReader>>>);

impl Read for SharedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(buffer)
    }
}
