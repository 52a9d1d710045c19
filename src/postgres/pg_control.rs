//! `global/pg_control`: reading it, and proving that it was read whole.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::domain::cluster::SystemIdentifier;
use crate::domain::lsn::Lsn;
use crate::domain::private_settings::StandbyLimits;
use crate::domain::segment::SegmentSize;
use crate::domain::timeline::TimelineId;
use crate::error::{Error, ErrorKind, Result};

/// The file's size, of which less than 512 bytes are in use (PostgreSQL `PG_CONTROL_FILE_SIZE`).
pub const FILE_SIZE: usize = 8192;

/// A running server writes the file in place; these many looks, a moment apart, find it between two writes.
const ATTEMPTS: u32 = 20;
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

// Places of `ControlFileData` (PostgreSQL `catalog/pg_control.h`, versions 13 to 18, 64 bit).
const SYSTEM_IDENTIFIER: usize = 0;
const CONTROL_VERSION: usize = 8;
const CATALOG_VERSION: usize = 12;
const STATE: usize = 16;
const CHECKPOINT: usize = 32;
const TIMELINE: usize = 48;
const MIN_RECOVERY_POINT: usize = 136;
const MAX_CONNECTIONS: usize = 180;
const MAX_WORKER_PROCESSES: usize = 184;
const MAX_WAL_SENDERS: usize = 188;
const MAX_PREPARED_TRANSACTIONS: usize = 192;
const MAX_LOCKS_PER_TRANSACTION: usize = 196;
const BLOCK_BYTES: usize = 216;
const BLOCKS_PER_SEGMENT: usize = 220;
const SEGMENT_SIZE: usize = 228;
const CHECKSUM_VERSION: usize = 252;

/// What a cluster was doing when the file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Starting up for the first time.
    StartingUp,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down cleanly as a standby.
    ShutDownInRecovery,
    /// On its way down.
    ShuttingDown,
    /// Replaying after a crash.
    InCrashRecovery,
    /// Replaying from an archive or a primary.
    InArchiveRecovery,
    /// Running, or crashed while it ran.
    InProduction,
}

/// A control file that passed its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The file's format: 1300 (PostgreSQL 13 to 16), 1700 or 1800.
    pub control_version: u32,
    /// The format of the system catalogs.
    pub catalog_version: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// Where the latest checkpoint record lies.
    pub checkpoint_lsn: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// How far recovery must come before the data is consistent; 0/0 outside recovery.
    pub min_recovery_end_lsn: Lsn,
    /// What a server must have to be looked into while it replays this cluster's WAL.
    pub standby_limits: StandbyLimits,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// The size of data pages.
    pub block_bytes: u32,
    /// How many data pages one file of a large relation holds.
    pub blocks_per_segment: u32,
    /// The size of WAL segments.
    pub segment_size: SegmentSize,
    /// The file's bytes, all 8192 of them.
    pub raw: Vec<u8>,
}

impl ControlFile {
    /// Reads the file's content and proves its CRC.
    ///
    /// Errors: `Corrupt` for another size or a CRC that does not match, `Mismatch` for a format we do not know.
    pub fn parse(raw: Vec<u8>) -> Result<Self> {
        if raw.len() != FILE_SIZE {
            return Err(Error::corrupt(format!("a control file has {FILE_SIZE} bytes, not {}", raw.len())));
        }
        let word = |at: usize| {
            let bytes = raw.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let long = |at: usize| u64::from(word(at + 4)) << 32 | u64::from(word(at));
        let control_version = word(CONTROL_VERSION);
        // Version 18 inserted a byte before the authentication nonce.
        let crc_at = match control_version {
            1300 | 1700 => 288,
            1800 => 292,
            other => {
                let message = format!("control file format {other} is not one of 1300, 1700 and 1800");
                return Err(Error::new(ErrorKind::Mismatch, message).with_hint("PostgreSQL 13 to 18 can be used"));
            }
        };
        let computed = crc32c::crc32c(raw.get(..crc_at).unwrap_or_default());
        if computed != word(crc_at) {
            let stored = word(crc_at);
            return Err(Error::corrupt(format!("the control file's CRC is {computed:08X}, it says {stored:08X}")));
        }
        Ok(Self {
            system_identifier: SystemIdentifier(long(SYSTEM_IDENTIFIER)),
            control_version,
            catalog_version: word(CATALOG_VERSION),
            state: state(word(STATE))?,
            checkpoint_lsn: Lsn(long(CHECKPOINT)),
            timeline: TimelineId::new(word(TIMELINE)).ok_or_else(|| Error::corrupt("the timeline is 0"))?,
            min_recovery_end_lsn: Lsn(long(MIN_RECOVERY_POINT)),
            standby_limits: StandbyLimits {
                connections: word(MAX_CONNECTIONS),
                worker_processes: word(MAX_WORKER_PROCESSES),
                wal_senders: word(MAX_WAL_SENDERS),
                prepared_transactions: word(MAX_PREPARED_TRANSACTIONS),
                locks_per_transaction: word(MAX_LOCKS_PER_TRANSACTION),
            },
            data_checksums: word(CHECKSUM_VERSION) != 0,
            block_bytes: block_bytes(word(BLOCK_BYTES))?,
            blocks_per_segment: word(BLOCKS_PER_SEGMENT),
            segment_size: SegmentSize::new(u64::from(word(SEGMENT_SIZE)))?,
            raw,
        })
    }
}

/// One of the sizes PostgreSQL can be built with.
fn block_bytes(bytes: u32) -> Result<u32> {
    if bytes.is_power_of_two() && (1 << 10..=1 << 15).contains(&bytes) {
        return Ok(bytes);
    }
    Err(Error::corrupt(format!("{bytes} bytes is not the size of a data page")))
}

/// PostgreSQL's `DBState`.
fn state(number: u32) -> Result<ClusterState> {
    Ok(match number {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        other => return Err(Error::corrupt(format!("there is no cluster state {other}"))),
    })
}

/// Reads the control file at `path`, again and again (20 times) while a running server is writing it. Blocking.
///
/// Errors: `Local` when it cannot be read, otherwise as [`ControlFile::parse`].
pub fn read_consistent(path: &Path) -> Result<ControlFile> {
    let mut attempt = 1;
    loop {
        let raw = fs::read(path).map_err(|cause| Error::local("read control file", path, cause))?;
        match ControlFile::parse(raw) {
            Err(error) if error.kind() == ErrorKind::Corrupt && attempt < ATTEMPTS => thread::sleep(PAUSE),
            parsed => {
                return parsed
                    .map_err(|error| error.context(format!("could not read control file \"{}\"", path.display())));
            }
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts in use of control files made by `initdb` of the given versions; the rest is zeros.
    fn real(version: u32) -> Vec<u8> {
        let hex: String = match version {
            13 => include_str!("../../fixtures/pg_control/13.hex"),
            15 => include_str!("../../fixtures/pg_control/15.hex"),
            17 => include_str!("../../fixtures/pg_control/17.hex"),
            _ => include_str!("../../fixtures/pg_control/18.hex"),
        }
        .split_whitespace()
        .collect();
        let mut raw: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        raw.resize(FILE_SIZE, 0);
        raw
    }

    /// Version, then control and catalog version, system identifier, checkpoint, checksums as `pg_controldata` says.
    const EXPECTED: [(u32, u32, u32, u64, &str, bool); 4] = [
        (13, 1300, 202_007_201, 7_711_452_736_553_798_083, "0/15C4A30", false),
        (15, 1300, 202_209_061, 7_711_452_472_350_570_143, "0/178C870", true),
        (17, 1700, 202_406_281, 7_711_452_740_273_527_265, "0/151C1D8", false),
        (18, 1800, 202_506_291, 7_711_452_479_569_180_412, "0/173AF98", true),
    ];

    #[test]
    fn real_files_are_read() {
        for (version, control, catalog, identifier, checkpoint, checksums) in EXPECTED {
            let file = ControlFile::parse(real(version)).unwrap();
            assert_eq!(file.control_version, control);
            assert_eq!(file.catalog_version, catalog);
            assert_eq!(file.system_identifier, SystemIdentifier(identifier));
            assert_eq!(file.checkpoint_lsn.to_string(), checkpoint);
            assert_eq!(file.data_checksums, checksums);
            assert_eq!(file.state, ClusterState::InProduction);
            assert_eq!(file.timeline, TimelineId::FIRST);
            assert_eq!(file.min_recovery_end_lsn, Lsn(0));
            assert_eq!(file.segment_size, SegmentSize::DEFAULT);
            assert_eq!((file.block_bytes, file.blocks_per_segment), (8192, 131_072));
            let limits = file.standby_limits;
            assert_eq!((limits.connections, limits.worker_processes, limits.wal_senders), (100, 8, 10));
            assert_eq!((limits.prepared_transactions, limits.locks_per_transaction), (0, 64));
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        for version in [15, 18] {
            for at in [0, 16, 40, 200, 287, 288] {
                let mut raw = real(version);
                raw[at] ^= 1;
                assert_eq!(ControlFile::parse(raw).unwrap_err().kind(), ErrorKind::Corrupt, "{version} at {at}");
            }
        }
    }

    #[test]
    fn other_formats_and_sizes_are_refused() {
        let mut raw = real(15);
        raw[8] ^= 1;
        assert_eq!(ControlFile::parse(raw).unwrap_err().kind(), ErrorKind::Mismatch);
        assert_eq!(ControlFile::parse(vec![0; 512]).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(ControlFile::parse(Vec::new()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_file_being_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pg_control");
        fs::write(&path, vec![0xFF; 100]).unwrap();
        let late = path.clone();
        let writer = thread::spawn(move || {
            thread::sleep(PAUSE * 3);
            fs::write(late, real(15)).unwrap();
        });
        assert_eq!(read_consistent(&path).unwrap().raw, real(15));
        writer.join().unwrap();
        let error = read_consistent(&directory.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Local);
    }
}
