//! Whether a file's bytes are what its name says.

use crate::domain::cluster::SystemIdentifier;
use crate::domain::segment::{SegmentName, WalFileName};
use crate::domain::timeline::TimelineHistory;
use crate::error::{Error, ErrorKind, Result};
use crate::wal::page_header::SegmentHeader;

/// A timeline history longer than this is not one: each promotion adds a line of under 200 bytes.
const HISTORY_LIMIT_BYTES: usize = 1 << 20;

/// Checks that `content` is the WAL file called `name`, as far as the bytes themselves tell.
///
/// A segment must be as long as its header says, start at the address and lie on the timeline its name says, and may
/// be on an older timeline only if `history` (the name's timeline's, where known) says that a promotion copied this
/// very segment. A timeline history must parse. Returns the cluster, which only segments tell.
///
/// Errors: `Corrupt` for bytes that are no such file, `Mismatch` for those of another one, with both values.
pub fn check(
    name: &WalFileName,
    content: &[u8],
    history: Option<&TimelineHistory>,
) -> Result<Option<SystemIdentifier>> {
    match name {
        WalFileName::Segment(segment) | WalFileName::Partial(segment) => {
            check_segment(*segment, content, content.len() as u64, history).map(Some)
        }
        WalFileName::TimelineHistory(timeline) => {
            let text = std::str::from_utf8(content)
                .ok()
                .filter(|text| text.len() <= HISTORY_LIMIT_BYTES)
                .ok_or_else(|| Error::corrupt("it is not the text of a timeline history"))?;
            TimelineHistory::parse(*timeline, text).map(|_| None)
        }
        WalFileName::BackupHistory(..) if content.starts_with(b"START WAL LOCATION: ") => Ok(None),
        WalFileName::BackupHistory(..) => Err(Error::corrupt("it is not the text of a backup history file")),
    }
}

/// Checks that a file of `length_bytes` that begins with `first_page` is the segment called `name`, as far as that much tells.
///
/// Errors: as [`check`].
pub fn check_segment(
    name: SegmentName,
    first_page: &[u8],
    length_bytes: u64,
    history: Option<&TimelineHistory>,
) -> Result<SystemIdentifier> {
    let header = SegmentHeader::parse(first_page)?;
    if length_bytes != header.segment_size.bytes() {
        let said = header.segment_size.bytes();
        return Err(Error::corrupt(format!("it is {length_bytes} bytes long, its header says {said}")));
    }
    let says =
        SegmentName::from_number(header.timeline, header.segment_size.segment_of(header.start), header.segment_size);
    let same_place =
        header.start == name.start(header.segment_size) && (says.log, says.segment) == (name.log, name.segment);
    if !same_place || !timeline_fits(name, &header, history) {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("the file's name says segment {name}, its first page says {says}"),
        ));
    }
    Ok(header.system_identifier)
}

/// A promotion copies the segment it happens in under the new timeline's name; the copied pages keep the old
/// timeline. PostgreSQL does so in `XLogInitNewTimeline`, and only for that one segment.
fn timeline_fits(name: SegmentName, header: &SegmentHeader, history: Option<&TimelineHistory>) -> bool {
    if header.timeline >= name.timeline {
        return header.timeline == name.timeline;
    }
    let Some(history) = history else { return true };
    let is_ancestor = history.end_of(header.timeline).is_some();
    let copied = history
        .ancestors
        .last()
        .is_some_and(|(_, switch)| header.segment_size.segment_before(*switch) == name.number(header.segment_size));
    is_ancestor && copied
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::timeline::TimelineId;
    use crate::wal::page_header::tests::header_bytes;

    const SIZE: usize = 1 << 20;

    fn segment(timeline: u32, number: u64) -> Vec<u8> {
        let mut bytes = header_bytes(timeline, number << 20, 77, 1 << 20);
        bytes.resize(SIZE, 0);
        bytes
    }

    fn name(text: &str) -> WalFileName {
        text.parse().unwrap()
    }

    #[test]
    fn a_segment_under_its_own_name_passes_and_tells_its_cluster() {
        let proof = check(&name("000000010000000000000005"), &segment(1, 5), None).unwrap();
        assert_eq!(proof, Some(SystemIdentifier(77)));
        assert!(check(&name("000000010000000000000005.partial"), &segment(1, 5), None).is_ok());
    }

    #[test]
    fn a_recycled_segment_with_old_content_is_refused_with_both_names() {
        let error = check(&name("000000010000000000000007"), &segment(1, 5), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("000000010000000000000007"), "{error}");
        assert!(error.to_string().contains("000000010000000000000005"), "{error}");
    }

    #[test]
    fn a_truncated_or_overlong_segment_is_refused() {
        let mut bytes = segment(1, 5);
        bytes.truncate(SIZE / 2);
        assert_eq!(check(&name("000000010000000000000005"), &bytes, None).unwrap_err().kind(), ErrorKind::Corrupt);
        bytes.resize(SIZE + 1, 0);
        assert_eq!(check(&name("000000010000000000000005"), &bytes, None).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn only_the_segment_a_promotion_copied_may_carry_the_older_timeline() {
        let two = TimelineId::new(2).unwrap();
        let history = TimelineHistory::parse(two, "1\t0/580000\tno recovery target specified\n").unwrap();
        assert!(check(&name("000000020000000000000005"), &segment(1, 5), Some(&history)).is_ok());
        assert!(check(&name("000000020000000000000006"), &segment(1, 6), Some(&history)).is_err());
        assert!(check(&name("000000020000000000000006"), &segment(2, 6), Some(&history)).is_ok());
        assert!(check(&name("000000010000000000000005"), &segment(2, 5), None).is_err());
    }

    #[test]
    fn a_history_must_parse_and_a_backup_history_must_begin_like_one() {
        assert!(check(&name("00000002.history"), b"1\t0/580000\twhy\n", None).is_ok());
        assert!(check(&name("00000002.history"), b"nonsense\n", None).is_err());
        assert!(check(&name("00000002.history"), &[0xFF, 0xFE], None).is_err());
        let backup = name("000000010000000000000005.00000028.backup");
        assert!(check(&backup, b"START WAL LOCATION: 0/5000028\n", None).is_ok());
        assert!(check(&backup, b"", None).is_err());
    }
}
