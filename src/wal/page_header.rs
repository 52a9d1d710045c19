//! The header of a WAL segment's first page.

use crate::domain::cluster::SystemIdentifier;
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentSize;
use crate::domain::timeline::TimelineId;
use crate::error::{Error, Result};

/// `SizeOfXLogLongPHD` (PostgreSQL `access/xlog_internal.h`): the short header's 24 bytes and 16 more.
pub(super) const LONG_HEADER_BYTES: usize = 40;

/// `XLP_LONG_HEADER`: set on the first page of every segment.
pub(super) const LONG_HEADER_FLAG: u16 = 0x0002;

/// `XLOG_PAGE_MAGIC` of every major version we take WAL from, and a little beyond: the high byte has been 0xD1
/// since PostgreSQL 12, the low byte grows with each version.
const MAGIC_HIGH_BYTE: u16 = 0xD1;

/// What the first page of a segment says about the segment.
///
/// Source: `XLogLongPageHeaderData` in PostgreSQL's `access/xlog_internal.h`. The fields are in the server's byte
/// order; both orders are read, so that an archive can be looked at from another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The timeline of the first page: lower than the file's own in the segment a promotion copied.
    pub timeline: TimelineId,
    /// The LSN of the segment's first byte.
    pub start: Lsn,
    /// The cluster that wrote it.
    pub system_identifier: SystemIdentifier,
    /// How long the file must be.
    pub segment_size: SegmentSize,
}

impl SegmentHeader {
    /// Reads the header from the beginning of a segment.
    ///
    /// Errors: `Corrupt` when fewer than 40 bytes are given, the magic is not PostgreSQL's, the page has no long
    /// header, or a field cannot be.
    pub fn parse(first_page: &[u8]) -> Result<Self> {
        let header = first_page
            .get(..LONG_HEADER_BYTES)
            .ok_or_else(|| Error::corrupt(format!("{} bytes are too few for a WAL page header", first_page.len())))?;
        let order = ByteOrder::of(header)?;
        if order.u16(header, 2) & LONG_HEADER_FLAG == 0 {
            return Err(Error::corrupt("the first page has no segment header"));
        }
        let timeline =
            TimelineId::new(order.u32(header, 4)).ok_or_else(|| Error::corrupt("the first page claims timeline 0"))?;
        Ok(Self {
            timeline,
            start: Lsn(order.u64(header, 8)),
            system_identifier: SystemIdentifier(order.u64(header, 24)),
            segment_size: SegmentSize::new(u64::from(order.u32(header, 32)))?,
        })
    }
}

/// The byte order of the machine that wrote a page, told by its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// Of a page that has two bytes at least.
    pub(super) fn of(header: &[u8]) -> Result<Self> {
        let magic = u16::from_le_bytes([header[0], header[1]]);
        if magic >> 8 == MAGIC_HIGH_BYTE {
            Ok(Self::Little)
        } else if magic & 0xFF == MAGIC_HIGH_BYTE {
            Ok(Self::Big)
        } else {
            Err(Error::corrupt(format!("page magic {magic:04X} is not that of PostgreSQL's WAL")))
        }
    }

    /// The bytes of one field; the caller has checked that the header is whole.
    fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
        header[at..at + N].try_into().expect("the slice is N bytes long")
    }

    pub(super) fn u16(self, header: &[u8], at: usize) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(Self::field(header, at)),
            Self::Big => u16::from_be_bytes(Self::field(header, at)),
        }
    }

    pub(super) fn u32(self, header: &[u8], at: usize) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(Self::field(header, at)),
            Self::Big => u32::from_be_bytes(Self::field(header, at)),
        }
    }

    pub(super) fn u64(self, header: &[u8], at: usize) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(Self::field(header, at)),
            Self::Big => u64::from_be_bytes(Self::field(header, at)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first 40 bytes of a segment as PostgreSQL 15 writes them on a little-endian machine.
    pub(crate) fn header_bytes(timeline: u32, start: u64, system_identifier: u64, size: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xD110_u16.to_le_bytes());
        bytes.extend(LONG_HEADER_FLAG.to_le_bytes());
        bytes.extend(timeline.to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(system_identifier.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(8192_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn a_segment_tells_its_timeline_address_cluster_and_size() {
        let header = SegmentHeader::parse(&header_bytes(3, 0x0500_0000, 77, 1 << 24)).unwrap();
        assert_eq!(header.timeline.number(), 3);
        assert_eq!(header.start, Lsn(0x0500_0000));
        assert_eq!(header.system_identifier, SystemIdentifier(77));
        assert_eq!(header.segment_size, SegmentSize::DEFAULT);
    }

    #[test]
    fn zeroes_and_short_files_are_no_segments() {
        assert!(SegmentHeader::parse(&[0; 8192]).is_err());
        assert!(SegmentHeader::parse(&header_bytes(1, 0, 1, 1 << 24)[..39]).is_err());
        assert!(SegmentHeader::parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = SegmentHeader::parse(&bytes);
        }
    }
}
