//! One WAL record: its header, its checksum, and the time it says when it ends a transaction.

use chrono::{DateTime, Utc};

use crate::domain::lsn::Lsn;
use crate::error::{Error, Result};
use crate::wal::page_header::ByteOrder;

/// `SizeOfXLogRecord` (PostgreSQL `access/xlogrecord.h`).
pub(super) const HEADER_BYTES: usize = 24;
/// Where the checksum is; what lies before it is part of it.
const CRC_AT: usize = 20;
/// PostgreSQL writes none longer than 1020 MiB (`XLogRecordMaxSize`), but long knew no limit.
const MAX_BYTES: u32 = 1 << 30;
/// As much of a record's beginning as is looked into: the header, what may stand before the time, and the time.
const HEAD_BYTES: usize = 64;

/// `RM_XLOG_ID`, `RM_XACT_ID` (PostgreSQL `access/rmgrlist.h`).
const XLOG_MANAGER: u8 = 0;
const TRANSACTION_MANAGER: u8 = 1;
/// `XLOG_SWITCH`, `XLOG_OVERWRITE_CONTRECORD` (PostgreSQL `catalog/pg_control.h`); the low half of the byte is not theirs.
const SWITCH: u8 = 0x40;
const OVERWRITE: u8 = 0xD0;

/// `1970-01-01` to `2000-01-01`, PostgreSQL's own beginning of time.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A record of which the bytes are still coming. Memory: its first bytes only, however long it is.
#[derive(Debug)]
pub(super) struct PartialRecord {
    pub(super) start: Lsn,
    total: u32,
    taken: u32,
    head: Vec<u8>,
    /// Over what has come after the header.
    data_crc: u32,
}

/// A whole record whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) start: Lsn,
    /// Where the record before it starts, as it says.
    pub(super) previous: Lsn,
    pub(super) meaning: Meaning,
}

/// What a record means, as far as anybody here asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The rest of the segment is not used.
    Switch,
    /// It stands in the place of the rest of the record at this LSN, which was given up.
    Overwrites(Lsn),
    /// A transaction was committed at this time; None for a time that is none.
    Commit(Option<DateTime<Utc>>),
    /// A transaction was rolled back.
    Abort(Option<DateTime<Utc>>),
    Other,
}

impl PartialRecord {
    /// A record at `start` that says it is `total` bytes long.
    ///
    /// Errors: `Corrupt` for a length that no record has.
    pub(super) fn begin(start: Lsn, total: u32) -> Result<Self> {
        if (total as usize) < HEADER_BYTES || total > MAX_BYTES {
            let message = format!("record at {start}: its length is {total}, not from {HEADER_BYTES} to {MAX_BYTES}");
            return Err(Error::corrupt(message));
        }
        Ok(Self { start, total, taken: 0, head: Vec::new(), data_crc: 0 })
    }

    /// Bytes that have not come yet.
    pub(super) fn missing(&self) -> u32 {
        self.total - self.taken
    }

    /// Takes what belongs to the record from the front of `bytes`; how much that was.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len().min(self.missing() as usize);
        let mine = &bytes[..length];
        let room = HEAD_BYTES - self.head.len();
        self.head.extend_from_slice(&mine[..room.min(length)]);
        let of_header = HEADER_BYTES.saturating_sub(self.taken as usize).min(length);
        self.data_crc = crc32c::crc32c_append(self.data_crc, &mine[of_header..]);
        // It is not longer than what was missing, which is a u32.
        self.taken += u32::try_from(length).unwrap_or(u32::MAX);
        length
    }

    /// The record, all of whose bytes have been taken.
    ///
    /// Errors: `Corrupt` with both checksums.
    pub(super) fn finish(&self, order: ByteOrder) -> Result<Record> {
        let header = self.head.get(..HEADER_BYTES).unwrap_or(&[0; HEADER_BYTES]);
        let (said, is) = (order.u32(header, CRC_AT), crc32c::crc32c_append(self.data_crc, &header[..CRC_AT]));
        if said != is {
            let start = self.start;
            return Err(Error::corrupt(format!("record at {start}: its CRC-32C is {is:08X}, it says {said:08X}")));
        }
        Ok(Record { start: self.start, previous: Lsn(order.u64(header, 8)), meaning: self.meaning(order) })
    }

    fn meaning(&self, order: ByteOrder) -> Meaning {
        let (info, manager) = (self.head[16], self.head[17]);
        let first = || {
            let data = main_data(&self.head[HEADER_BYTES..], order)?;
            (data.len() >= 8).then(|| order.u64(data, 0))
        };
        let time = || {
            first().and_then(|micros| DateTime::from_timestamp_micros(micros.cast_signed().checked_add(EPOCH_MICROS)?))
        };
        match (manager, info & 0xF0, info & 0x70) {
            (XLOG_MANAGER, SWITCH, _) => Meaning::Switch,
            (XLOG_MANAGER, OVERWRITE, _) => Meaning::Overwrites(Lsn(first().unwrap_or_default())),
            // `XLOG_XACT_COMMIT` and `_COMMIT_PREPARED`, `_ABORT` and `_ABORT_PREPARED` (PostgreSQL `access/xact.h`).
            (TRANSACTION_MANAGER, _, 0x00 | 0x30) => Meaning::Commit(time()),
            (TRANSACTION_MANAGER, _, 0x20 | 0x40) => Meaning::Abort(time()),
            _ => Meaning::Other,
        }
    }
}

/// What a record without blocks says: its data, after the headers that tell what comes (`DecodeXLogRecord`).
fn main_data(mut after_header: &[u8], order: ByteOrder) -> Option<&[u8]> {
    /// `XLR_BLOCK_ID_TOPLEVEL_XID`, `_ORIGIN`, `_DATA_LONG`, `_DATA_SHORT`.
    const TOP_TRANSACTION: u8 = 252;
    const ORIGIN: u8 = 253;
    const LONG_DATA: u8 = 254;
    const SHORT_DATA: u8 = 255;
    loop {
        match *after_header.first()? {
            TOP_TRANSACTION => after_header = after_header.get(5..)?,
            ORIGIN => after_header = after_header.get(3..)?,
            LONG_DATA => {
                let length = order.u32(after_header.get(..5)?, 1) as usize;
                let data = after_header.get(5..)?;
                return Some(&data[..length.min(data.len())]);
            }
            SHORT_DATA => {
                let length = usize::from(*after_header.get(1)?);
                let data = after_header.get(2..)?;
                return Some(&data[..length.min(data.len())]);
            }
            // Transactions' records have no blocks.
            _ => return None,
        }
    }
}
