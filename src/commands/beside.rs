//! Reading on a thread of its own: what is unpacked is written while more of it is being unpacked.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::Result;

/// What passes from one thread to the other at once.
const PIECE_BYTES: usize = 256 << 10;

/// So many pieces may wait.
const PIECES: usize = 4;

/// Has `content` read on a thread of its own while `work` uses what was read; memory: 1.5 MiB.
///
/// The first error of either ends both: that of the reading comes out of the stream where it occurred.
pub(crate) fn read_beside<R: Read + Send, T>(content: R, work: impl FnOnce(Pieces) -> Result<T>) -> Result<T> {
    std::thread::scope(|scope| {
        let (full, filled) = sync_channel(PIECES);
        let (emptied, empty) = sync_channel(PIECES + 2);
        scope.spawn(move || read(content, &full, &empty));
        work(Pieces { filled, emptied, current: Vec::new(), position: 0 })
    })
}

/// What was read on the other thread.
pub(crate) struct Pieces {
    filled: Receiver<io::Result<Vec<u8>>>,
    /// Pieces that may be filled again: memory that was used once is quicker than new.
    emptied: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

/// Until the end, an error, or nobody who wants more.
fn read(mut content: impl Read, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE_BYTES, 0);
        let outcome = match content.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => {
                piece.truncate(read);
                Ok(piece)
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => Err(cause),
        };
        let is_last = outcome.is_err();
        if full.send(outcome).is_err() || is_last {
            return;
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.len() {
            // The other thread ends at the end of the content, and after an error.
            let Ok(next) = self.filled.recv() else { return Ok(0) };
            let used = std::mem::replace(&mut self.current, next?);
            self.position = 0;
            // Where there is no room for it, it is given back to the system.
            let _ = self.emptied.try_send(used);
        }
        let taken = buffer.len().min(self.current.len() - self.position);
        buffer[..taken].copy_from_slice(&self.current[self.position..self.position + taken]);
        self.position += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::source_failure;
    use crate::error::{Error, ErrorKind};

    fn all(mut pieces: Pieces) -> Result<Vec<u8>> {
        let mut read = Vec::new();
        pieces.read_to_end(&mut read).map_err(source_failure)?;
        Ok(read)
    }

    #[test]
    fn what_is_read_beside_comes_out_as_it_went_in() {
        let content: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
        assert_eq!(read_beside(&content[..], all).unwrap(), content);
        assert!(read_beside(&[][..], all).unwrap().is_empty());
    }

    /// Fails after some bytes, as a store or a decoder does.
    struct Broken(usize);

    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other(Error::new(ErrorKind::Unreachable, "the store went away")));
            }
            let taken = buffer.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }
    }

    #[test]
    fn an_error_of_the_reading_comes_out_as_it_was() {
        let error = read_beside(Broken(1 << 20), all).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Unreachable, "the store went away"));
    }

    #[test]
    fn who_stops_early_is_not_kept_waiting() {
        let refused = read_beside(io::repeat(1), |mut pieces| {
            pieces.read_exact(&mut [0; 1000]).unwrap();
            Err::<(), _>(Error::corrupt("no more of this"))
        });
        assert_eq!(refused.unwrap_err().to_string(), "no more of this");
    }
}
