//! The header at the beginning of every WAL page, and what must be true of it in its place.

use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentSize;
use crate::error::{Error, Result};
use crate::wal::page_header::{ByteOrder, LONG_HEADER_BYTES, LONG_HEADER_FLAG};

/// `SizeOfXLogShortPHD` (PostgreSQL `access/xlog_internal.h`): magic, flags, timeline, address, remaining bytes, padding.
const SHORT_HEADER_BYTES: usize = 24;
/// `XLP_FIRST_IS_CONTRECORD`.
const CONTINUES_FLAG: u16 = 0x0001;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`.
const OVERWRITES_FLAG: u16 = 0x0008;
/// `XLP_ALL_FLAGS`.
const ALL_FLAGS: u16 = 0x000F;

/// What all pages of one cluster have in common, as the first page of a segment tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageFormat {
    pub(super) order: ByteOrder,
    magic: u16,
    system_identifier: u64,
    pub(super) page_bytes: usize,
}

impl PageFormat {
    /// Reads the first page of a segment.
    ///
    /// Errors: `Corrupt` for a page without a segment header, and for sizes of segments or pages that are not those of a
    /// cluster with segments of `size`.
    pub(super) fn of_segment(content: &[u8], size: SegmentSize) -> Result<Self> {
        let header = content.get(..LONG_HEADER_BYTES).ok_or_else(|| Error::corrupt("it has no page header"))?;
        let order = ByteOrder::of(header)?;
        if order.u16(header, 2) & LONG_HEADER_FLAG == 0 {
            return Err(Error::corrupt("its first page has no segment header"));
        }
        let says = u64::from(order.u32(header, 32));
        if says != size.bytes() {
            return Err(Error::corrupt(format!("its header says segments of {says} bytes, not of {}", size.bytes())));
        }
        let page_bytes = order.u32(header, 36);
        if !page_bytes.is_power_of_two() || !(1 << 10..=1 << 16).contains(&page_bytes) {
            return Err(Error::corrupt(format!("its header says pages of {page_bytes} bytes")));
        }
        Ok(Self {
            order,
            magic: order.u16(header, 0),
            system_identifier: order.u64(header, 24),
            page_bytes: page_bytes as usize,
        })
    }

    /// Errors: `Corrupt` when `other` is the format of another cluster's segments.
    pub(super) fn expect(&self, other: &Self) -> Result<()> {
        if self.system_identifier != other.system_identifier {
            let (ours, says) = (self.system_identifier, other.system_identifier);
            return Err(Error::corrupt(format!("its header says cluster {says}, the segment before it is of {ours}")));
        }
        if self != other {
            return Err(Error::corrupt("its pages have another format than those of the segment before it"));
        }
        Ok(())
    }
}

/// What the header of a page says about the page's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// Where content begins.
    pub(super) content_at: usize,
    pub(super) timeline: u32,
    /// Bytes that are left of a record begun before; 0 for none.
    pub(super) remaining: u32,
    /// Whether the record begun before was given up in a crash, and the server went on with another.
    pub(super) overwrites: bool,
}

/// What lies where a page should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageFound {
    Used(Page),
    /// Nothing, or what the file held before it was given a new name: the WAL has not come this far.
    Unused,
}

/// Reads the header of the page at `address`; `page` is a whole page.
///
/// Errors: `Corrupt` with both values for a header that no server writes there.
pub(super) fn read(format: &PageFormat, page: &[u8], address: Lsn, is_first: bool) -> Result<PageFound> {
    let order = format.order;
    let damaged = |what: String| Err(Error::corrupt(format!("page at {address}: {what}")));
    let (magic, flags) = (order.u16(page, 0), order.u16(page, 2));
    let says = Lsn(order.u64(page, 8));
    if page.iter().take(SHORT_HEADER_BYTES).all(|byte| *byte == 0) {
        return Ok(PageFound::Unused);
    }
    if magic != format.magic {
        return damaged(format!("its magic is {magic:04X}, not {:04X}", format.magic));
    }
    if says != address {
        // A file that is used again keeps its old pages, which lie below the new ones.
        return if says < address {
            Ok(PageFound::Unused)
        } else {
            damaged(format!("it says it is the page at {says}"))
        };
    }
    let is_long = flags & LONG_HEADER_FLAG != 0;
    if flags & !ALL_FLAGS != 0 || is_long != is_first {
        return damaged(format!("its flags are {flags:04X}"));
    }
    let (continues, overwrites) = (flags & CONTINUES_FLAG != 0, flags & OVERWRITES_FLAG != 0);
    let remaining = order.u32(page, 16);
    if continues != (remaining != 0) || (continues && overwrites) {
        return damaged(format!("its flags are {flags:04X}, and {remaining} bytes are left of a record begun before"));
    }
    let content_at = if is_long { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
    Ok(PageFound::Used(Page { content_at, timeline: order.u32(page, 4), remaining, overwrites }))
}
