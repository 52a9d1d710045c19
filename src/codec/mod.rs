//! Bytes to bytes in one pass: compression, digests, tar, page checksums; no files, no network.

use std::io;

use crate::error::{Error, ErrorKind};

pub mod compression;
pub mod digest;
pub mod file_set;
mod frames;
mod lz4_high;
pub mod page_checksum;
pub mod tar;

/// What a failed write into a sink, or a failed read of local content, means: `Local`, with the cause's text.
///
/// A sink may carry one of our own errors inside its `io::Error` (an upload that was refused, say); that error comes
/// out as it went in, so that its kind still decides about retries and the exit code.
pub(crate) fn local_failure(cause: io::Error) -> Error {
    match cause.downcast::<Error>() {
        Ok(own) => own,
        Err(cause) => Error::new(ErrorKind::Local, cause.to_string()).with_source(cause),
    }
}

/// What a failed read of stored bytes means: `Corrupt` when the bytes are at fault, else as [`local_failure`].
pub(crate) fn source_failure(cause: io::Error) -> Error {
    match cause.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => match cause.downcast::<Error>() {
            Ok(own) => own,
            Err(cause) => Error::corrupt(cause.to_string()).with_source(cause),
        },
        _ => local_failure(cause),
    }
}
