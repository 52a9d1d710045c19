//! How many workers a budget of memory leaves room for: memory is kept by construction, not watched.

use crate::codec::compression;
use crate::commands::object_stream::READ_BYTES;
pub use crate::commands::part_upload::Buffers;
use crate::commands::part_upload::{FEWEST_PARTS_IN_MEMORY, SMALLEST_PART_BYTES};
use crate::domain::compression::Compression;
use crate::domain::segment::SegmentSize;
use crate::error::{Error, Result};

/// What a command may hold when nothing else is said.
pub const DEFAULT_BYTES: usize = 256 << 20;

/// Less than this is too little for one worker of any command.
pub const LEAST_BYTES: usize = 80 << 20;

/// The program itself, its sockets, what it knows of the backup, and a backup's manifest on its way. Commands that hold nothing
/// else were seen to take up to 31 MiB.
const OWN_BYTES: usize = 50 << 20;

/// What a worker has beside parts and codec: its stack, and the buffers it reads and writes through.
const WORKER_BYTES: usize = 2 << 20;

/// What decompressing takes: zstd's window at the levels that are usual, xz at its default preset takes no more.
const DECODER_BYTES: usize = 10 << 20;

/// What a base backup gets out of `budget_bytes`: as many of `jobs` workers as there is room for, and smaller parts only where
/// there is no room for one.
///
/// Errors: `Usage` when the compressor of one worker alone takes more.
pub fn for_backup(
    budget_bytes: usize,
    jobs: usize,
    part_size_bytes: usize,
    codec: Compression,
    level: Option<i32>,
) -> Result<Buffers> {
    let worker_bytes = compression::encoder_memory_bytes(codec, level) + WORKER_BYTES;
    let room = budget_bytes.saturating_sub(OWN_BYTES);
    let least = worker_bytes + FEWEST_PARTS_IN_MEMORY * SMALLEST_PART_BYTES;
    if least > room {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let message = format!(
            "one worker that compresses with {codec} at this level needs {} MiB of memory, more than the {} MiB allowed",
            mib(OWN_BYTES + least),
            mib(budget_bytes)
        );
        return Err(
            Error::usage(message).with_hint("Choose a lower --compression-level, or allow more with --max-memory.")
        );
    }
    let workers = (room / (worker_bytes + FEWEST_PARTS_IN_MEMORY * part_size_bytes)).clamp(1, jobs.max(1));
    Ok(Buffers::within(room - workers * worker_bytes, workers, part_size_bytes))
}

/// As many of `jobs` workers that read objects and decompress them as `budget_bytes` leaves room for; one at least.
///
/// Nothing says beforehand how large a decoder's window is. Levels of zstd above 19 and presets of xz above 6 have windows of 32
/// to 128 MiB, which every worker takes on top.
#[must_use]
pub fn for_readers(budget_bytes: usize, jobs: usize) -> usize {
    let ahead = 2 * usize::try_from(READ_BYTES).unwrap_or(usize::MAX);
    let worker_bytes = ahead + WORKER_BYTES + DECODER_BYTES;
    (budget_bytes.saturating_sub(OWN_BYTES) / worker_bytes).clamp(1, jobs.max(1))
}

/// As many of `jobs` WAL segments of `size`, each with its compressed form, as `budget_bytes` leaves room for; one at least.
#[must_use]
pub fn for_segments(budget_bytes: usize, jobs: usize, size: SegmentSize) -> usize {
    let segment_bytes = usize::try_from(2 * size.bytes()).unwrap_or(usize::MAX);
    (budget_bytes.saturating_sub(OWN_BYTES) / segment_bytes).clamp(1, jobs.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn backup(budget: usize, jobs: usize, part: usize, codec: Compression, level: Option<i32>) -> Result<Buffers> {
        for_backup(budget * MIB, jobs, part * MIB, codec, level)
    }

    #[test]
    fn what_is_asked_for_by_default_fits_into_what_is_allowed_by_default() {
        let found = for_backup(DEFAULT_BYTES, 2, 8 * MIB, Compression::Zstd, None).unwrap();
        assert_eq!(found, Buffers { workers: 2, part_size_bytes: 8 * MIB, parts_in_memory: 4 });
        assert_eq!(for_readers(DEFAULT_BYTES, 7), 7);
    }

    #[test]
    fn no_more_is_held_than_is_allowed_whatever_is_asked_for() {
        for budget in [64, 96, 128, 256, 1024] {
            for jobs in [1, 2, 5, 64] {
                for part in [5, 8, 64, 512] {
                    for codec in Compression::ALL {
                        let Ok(found) = backup(budget, jobs, part, codec, None) else { continue };
                        let of_codec = compression::encoder_memory_bytes(codec, None) + WORKER_BYTES;
                        let parts = found.part_size_bytes * found.parts_in_memory;
                        let held = OWN_BYTES + found.workers * (of_codec + parts);
                        assert!(held <= budget * MIB, "{budget} {jobs} {part} {codec}: {held}");
                        assert!((1..=jobs).contains(&found.workers));
                    }
                }
            }
        }
        assert!(backup(LEAST_BYTES / MIB, 64, 512, Compression::Zstd, None).is_ok());
    }

    #[test]
    fn a_compressor_that_does_not_fit_is_refused_with_both_numbers() {
        let error = backup(256, 2, 8, Compression::Xz, Some(9)).unwrap_err();
        assert!(error.to_string().contains("MiB of memory, more than the 256 MiB"), "{error}");
        assert!(backup(1024, 2, 8, Compression::Xz, Some(9)).is_ok());
    }

    #[test]
    fn readers_become_fewer_before_there_are_none() {
        assert_eq!(for_readers(LEAST_BYTES, 64), 1);
        assert_eq!(for_readers(0, 64), 1);
        assert_eq!(for_readers(1 << 40, 64), 64);
        let segments = |budget, megabytes: u64| for_segments(budget, 8, SegmentSize::new(megabytes << 20).unwrap());
        assert_eq!((segments(DEFAULT_BYTES, 16), segments(DEFAULT_BYTES, 1024), segments(LEAST_BYTES, 16)), (6, 1, 1));
        assert_eq!(segments(DEFAULT_BYTES, 1), 8);
    }
}
