//! Whether the row of drill records is whole: none is missing, and each holds the digest of the one before it.

use serde::Serialize;

use crate::layout::drill_record::DrillRecord;

/// One record as it lies in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct DrillLink {
    /// Its number, by its name.
    pub sequence: u64,
    /// SHA-256 of its bytes; none where they could not be read.
    pub sha256: Option<String>,
    /// What it says, or why nobody knows.
    pub record: Result<DrillRecord, String>,
}

/// What a look at a row of records has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DrillChain {
    /// How many records there are, readable or not.
    pub records: u64,
    /// True when nothing is wrong with it.
    pub whole: bool,
    /// The number of the last record.
    pub last: Option<u64>,
    /// SHA-256 of that record's bytes: whoever has noted it down sees later whether records were taken away at the end.
    pub last_sha256: Option<String>,
    /// What is wrong, in order.
    pub faults: Vec<ChainFault>,
}

/// Something that is wrong with a row of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainFault {
    /// The number of the record it shows in; of missing ones, of the first.
    pub record: u64,
    /// `missing`, `unreadable`, `number` or `digest`.
    pub code: &'static str,
    /// What is wrong, in words.
    pub what: String,
}

impl DrillChain {
    /// Follows `links`, which are in the order of their numbers, from 1 on.
    #[must_use]
    pub fn of(links: &[DrillLink]) -> Self {
        let mut faults = Vec::new();
        let mut before: Option<&DrillLink> = None;
        for link in links {
            faults.extend(missing(before.map_or(0, |before| before.sequence), link.sequence));
            faults.extend(own_fault(link));
            faults.extend(digest_fault(
                link,
                before.filter(|before| link.sequence.checked_sub(1) == Some(before.sequence)),
            ));
            before = Some(link);
        }
        Self {
            records: links.len() as u64,
            whole: faults.is_empty(),
            last: before.map(|last| last.sequence),
            last_sha256: before.and_then(|last| last.sha256.clone()),
            faults,
        }
    }
}

fn missing(before: u64, next: u64) -> Option<ChainFault> {
    let (first, last) = (before.checked_add(1)?, next.checked_sub(1)?);
    let what = match last.checked_sub(first)? {
        0 => format!("record {first} is missing"),
        _ => format!("records {first} to {last} are missing"),
    };
    Some(ChainFault { record: first, code: "missing", what })
}

fn own_fault(link: &DrillLink) -> Option<ChainFault> {
    let number = link.sequence;
    match &link.record {
        Err(why) => Some(ChainFault {
            record: number,
            code: "unreadable",
            what: format!("record {number} cannot be read: {why}"),
        }),
        Ok(record) if record.sequence != Some(number) => {
            let says = record.sequence.map_or_else(|| "has no number".to_owned(), |says| format!("is number {says}"));
            Some(ChainFault { record: number, code: "number", what: format!("record {number} says that it {says}") })
        }
        Ok(_) => None,
    }
}

fn digest_fault(link: &DrillLink, before: Option<&DrillLink>) -> Option<ChainFault> {
    let number = link.sequence;
    let held = link.record.as_ref().ok()?.previous_sha256.as_deref();
    let what = match (held, before.and_then(|before| before.sha256.as_deref())) {
        (Some(_), None) if number == 1 => "record 1 holds the digest of a record before it".to_owned(),
        (None, _) if number > 1 => format!("record {number} does not hold the digest of record {}", number - 1),
        (Some(held), Some(is)) if held != is => {
            format!("record {} is not what it was: its SHA-256 is {is}, and record {number} holds {held}", number - 1)
        }
        _ => return None,
    };
    Some(ChainFault { record: number, code: "digest", what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::drill_record::example;

    fn link(sequence: u64, previous: Option<&str>) -> DrillLink {
        let record =
            DrillRecord { sequence: Some(sequence), previous_sha256: previous.map(str::to_owned), ..example() };
        DrillLink { sequence, sha256: Some(format!("d{sequence}")), record: Ok(record) }
    }

    fn whole() -> Vec<DrillLink> {
        vec![link(1, None), link(2, Some("d1")), link(3, Some("d2")), link(4, Some("d3"))]
    }

    fn faults(links: &[DrillLink]) -> Vec<(u64, &'static str)> {
        DrillChain::of(links).faults.iter().map(|fault| (fault.record, fault.code)).collect()
    }

    #[test]
    fn a_whole_row_has_no_fault_and_tells_its_end() {
        let chain = DrillChain::of(&whole());
        assert!(chain.whole && chain.faults.is_empty(), "{chain:?}");
        assert_eq!((chain.records, chain.last, chain.last_sha256.as_deref()), (4, Some(4), Some("d4")));
        assert!(DrillChain::of(&[]).whole);
        assert_eq!(faults(&[link(u64::MAX, None), link(u64::MAX, None)]).len(), 3, "numbers end somewhere");
    }

    #[test]
    fn whatever_is_taken_away_but_at_the_end_shows() {
        let without = |gone: &[u64]| -> Vec<DrillLink> {
            whole().into_iter().filter(|link| !gone.contains(&link.sequence)).collect()
        };
        assert_eq!(faults(&without(&[1])), [(1, "missing")]);
        assert_eq!(faults(&without(&[2])), [(2, "missing")]);
        assert_eq!(faults(&without(&[1, 2, 3])), [(1, "missing")]);
        assert_eq!(faults(&without(&[4])), []);
        assert_eq!(DrillChain::of(&without(&[2, 3])).faults[0].what, "records 2 to 3 are missing");
    }

    #[test]
    fn a_changed_record_shows_in_the_one_after_it() {
        let mut links = whole();
        links[1].sha256 = Some("other".to_owned());
        assert_eq!(faults(&links), [(3, "digest")]);
        let what = &DrillChain::of(&links).faults[0].what;
        assert_eq!(what, "record 2 is not what it was: its SHA-256 is other, and record 3 holds d2");
    }

    #[test]
    fn records_out_of_place_without_a_digest_or_not_to_be_read_show() {
        let mut links = whole();
        links[0] = link(1, Some("d0"));
        links[2] = link(3, None);
        assert_eq!(faults(&links), [(1, "digest"), (3, "digest")]);
        let mut links = whole();
        links[2] = DrillLink { sequence: 3, ..link(7, Some("d2")) };
        assert_eq!(faults(&links), [(3, "number"), (4, "digest")]);
        let mut links = whole();
        links[1] = DrillLink { sha256: None, record: Err("it is too long".to_owned()), ..links[1].clone() };
        assert_eq!(faults(&links), [(2, "unreadable")]);
    }
}
