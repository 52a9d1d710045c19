//! Every record of a stretch of WAL, read segment by segment: whether it is whole, and when transactions ended.

use chrono::{DateTime, Utc};

use crate::domain::lsn::Lsn;
use crate::domain::segment::{SegmentName, SegmentSize};
use crate::error::{Error, Result};
use crate::wal::page::{self, Page, PageFormat, PageFound};
use crate::wal::record::{Meaning, PartialRecord, Record};

/// Records begin at multiples of this (`MAXALIGN` of every 64-bit machine).
const ALIGNMENT: usize = 8;

/// What the records of one segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentFindings {
    /// Whole records that end in it.
    pub records: u64,
    /// The time of the first commit among them.
    pub first_commit: Option<DateTime<Utc>>,
    /// The time of the last commit.
    pub last_commit: Option<DateTime<Utc>>,
    /// Where that commit's record begins.
    pub last_commit_lsn: Option<Lsn>,
    /// The latest time at which a transaction was committed or rolled back: recovery to a time stops only there. Not always
    /// that of the last record, for records are written in another order than clocks are read.
    pub latest_end: Option<DateTime<Utc>>,
    /// End of the last whole record when the rest of the segment is unused (after a switch, or the end of WAL).
    pub unused_from: Option<Lsn>,
}

/// Reads the records of PostgreSQL's WAL, versions 13 to 18.
///
/// Proves the chain of pages (magic, address, timeline, what is left of a record), the chain of records (each names the one
/// before it) and every record's CRC-32C. Memory: some hundred bytes, for a record is not kept.
#[derive(Debug)]
pub struct RecordReader {
    size: SegmentSize,
    until: Option<Lsn>,
    format: Option<PageFormat>,
    /// The segment read before.
    before: Option<SegmentName>,
    /// The timeline of the page read before.
    timeline: u32,
    place: Place,
    /// Where the last whole record begins, once there was one.
    previous: Option<Lsn>,
    /// The record that was given up, until the one that says so has come.
    given_up: Option<Lsn>,
    /// From where on the end of a transaction is looked for, and the first one.
    looked_for: Option<Lsn>,
    first_from: Option<(Lsn, DateTime<Utc>)>,
    /// Behind the last whole record.
    records_end: Option<Lsn>,
}

/// What comes next.
#[derive(Debug)]
enum Place {
    /// Nothing has been read: the rest of a record may come, of which nothing is known.
    Beginning,
    /// That many bytes of a record of which nothing is known.
    Skipping(u32),
    /// A record.
    Between,
    /// More of this record.
    Inside(PartialRecord),
    /// Nothing more in this segment.
    Switched,
    /// Nothing more at all: the records end here.
    Ended(Lsn),
    /// Nothing that was asked for.
    Done,
    /// Nobody knows: there was damage.
    Lost,
}

impl RecordReader {
    /// Reads segments of one path in order, beginning with any segment.
    #[must_use]
    pub fn new(size: SegmentSize) -> Self {
        Self {
            size,
            until: None,
            format: None,
            before: None,
            timeline: 0,
            place: Place::Beginning,
            previous: None,
            given_up: None,
            looked_for: None,
            first_from: None,
            records_end: None,
        }
    }

    /// Stops before the first record that begins at `end` or later: where the path leaves a timeline, its last segment holds
    /// records that are none of the path's.
    #[must_use]
    pub fn until(mut self, end: Lsn) -> Self {
        self.until = Some(end);
        self
    }

    /// Looks for the first commit or rollback whose record begins at `from` or later.
    #[must_use]
    pub fn looking_from(mut self, from: Lsn) -> Self {
        self.looked_for = Some(from);
        self
    }

    /// Behind the last whole record that was read.
    #[must_use]
    pub fn records_end(&self) -> Option<Lsn> {
        self.records_end
    }

    /// That end of a transaction, once it was read: where its record begins, and its time.
    #[must_use]
    pub fn transaction_found(&self) -> Option<(Lsn, DateTime<Utc>)> {
        self.first_from
    }

    /// Takes the next segment's bytes. The first segment may begin inside a record (its continuation is skipped); each later
    /// one must continue the one before.
    ///
    /// A segment in which WAL ends without a switch must be the last. Errors: `Corrupt` with the LSN and both values; the
    /// reader is of no use afterwards.
    pub fn segment(&mut self, name: SegmentName, content: &[u8]) -> Result<SegmentFindings> {
        let outcome = self.read(name, content);
        if outcome.is_err() {
            self.place = Place::Lost;
        }
        outcome.map_err(|error| error.context(format!("could not read records of segment \"{name}\"")))
    }

    fn read(&mut self, name: SegmentName, content: &[u8]) -> Result<SegmentFindings> {
        self.check_order(name)?;
        if content.len() as u64 != self.size.bytes() {
            return Err(Error::corrupt(format!("it is {} bytes long, not {}", content.len(), self.size.bytes())));
        }
        let format = PageFormat::of_segment(content, self.size)?;
        if let Some(before) = &self.format {
            before.expect(&format)?;
        }
        self.format = Some(format);
        self.before = Some(name);
        let mut segment = Segment { name, format, end: name.start(self.size), findings: SegmentFindings::default() };
        let mut address = name.start(self.size);
        for (index, bytes) in content.chunks_exact(format.page_bytes).enumerate() {
            let found = page::read(&format, bytes, address, index == 0)?;
            match (found, &self.place) {
                (_, Place::Switched | Place::Done) => break,
                (PageFound::Used(_), Place::Ended(end)) => return Err(hole(*end, address)),
                (PageFound::Used(page), _) => self.page(&mut segment, &page, bytes, address)?,
                (PageFound::Unused, Place::Ended(_)) => {}
                (PageFound::Unused, _) => self.place = Place::Ended(segment.end),
            }
            address = behind(address, bytes.len());
        }
        match self.place {
            Place::Switched => {
                self.place = Place::Between;
                segment.findings.unused_from = (segment.end < address).then_some(segment.end);
            }
            Place::Ended(_) => segment.findings.unused_from = Some(segment.end),
            _ => {}
        }
        Ok(segment.findings)
    }

    fn check_order(&self, name: SegmentName) -> Result<()> {
        match self.place {
            Place::Lost => return Err(Error::corrupt("what comes before it is damaged")),
            Place::Ended(end) => return Err(hole(end, name.start(self.size))),
            _ => {}
        }
        match self.before {
            Some(before)
                if before.number(self.size) + 1 != name.number(self.size) || name.timeline < before.timeline =>
            {
                Err(Error::corrupt(format!("it does not follow segment \"{before}\"")))
            }
            _ => Ok(()),
        }
    }

    /// Reads a page in use.
    fn page(&mut self, segment: &mut Segment, page: &Page, bytes: &[u8], address: Lsn) -> Result<()> {
        self.check_timeline(segment.name, page, address)?;
        let Some(mut at) = self.continuation(segment, page, bytes, address)? else { return Ok(()) };
        while at < bytes.len() && matches!(self.place, Place::Between) {
            let start = behind(address, at);
            if self.until.is_some_and(|until| start >= until) {
                self.place = Place::Done;
                return Ok(());
            }
            let rest = &bytes[at..];
            let total = segment.format.order.u32(rest, 0);
            if total == 0 {
                return self.end(start, rest);
            }
            let mut record = PartialRecord::begin(start, total)?;
            at += record.take(rest);
            if record.missing() > 0 {
                self.place = Place::Inside(record);
                return Ok(());
            }
            at = at.next_multiple_of(ALIGNMENT);
            self.record(segment, &record, behind(address, at))?;
        }
        Ok(())
    }

    /// What a page begins with: the rest of a record, or nothing. Where the next record begins; none when not on this page.
    fn continuation(
        &mut self,
        segment: &mut Segment,
        page: &Page,
        bytes: &[u8],
        address: Lsn,
    ) -> Result<Option<usize>> {
        let content = &bytes[page.content_at..];
        let after = |length: usize| (page.content_at + length).next_multiple_of(ALIGNMENT);
        let expected = match &self.place {
            Place::Beginning => page.remaining,
            Place::Skipping(left) => *left,
            Place::Inside(record) => record.missing(),
            _ => 0,
        };
        if page.overwrites {
            // A crash cut the record off; the server goes on behind it, and says so in the next record.
            self.given_up = match &self.place {
                Place::Inside(record) => Some(record.start),
                Place::Between => {
                    let message = format!("page at {address}: it says that a record was given up, but none was begun");
                    return Err(Error::corrupt(message));
                }
                _ => None,
            };
            self.place = Place::Between;
            return Ok(Some(after(0)));
        }
        if page.remaining != expected {
            let says = page.remaining;
            let message = format!("page at {address}: it says that {says} bytes are left of a record, not {expected}");
            return Err(Error::corrupt(message));
        }
        match &mut self.place {
            Place::Inside(record) => {
                let length = record.take(content);
                if record.missing() > 0 {
                    return Ok(None);
                }
                let at = after(length);
                if let Place::Inside(record) = std::mem::replace(&mut self.place, Place::Between) {
                    self.record(segment, &record, behind(address, at))?;
                }
                Ok(Some(at))
            }
            _ if expected as usize > content.len() => {
                // A page is far shorter than 4 GiB.
                self.place = Place::Skipping(expected - u32::try_from(content.len()).unwrap_or(u32::MAX));
                Ok(None)
            }
            _ => {
                let at = after(expected as usize);
                self.place = Place::Between;
                segment.end = behind(address, at);
                Ok(Some(at))
            }
        }
    }

    /// A whole record that ends, with what aligns the next, at `end`.
    fn record(&mut self, segment: &mut Segment, record: &PartialRecord, end: Lsn) -> Result<()> {
        let record = record.finish(segment.format.order)?;
        let Record { start, previous, meaning } = record;
        if let Some(before) = self.previous.filter(|before| *before != previous) {
            let message = format!("record at {start}: it says the one before it is at {previous}, not {before}");
            return Err(Error::corrupt(message));
        }
        match (self.given_up.take(), meaning) {
            (Some(given_up), Meaning::Overwrites(lsn)) if lsn == given_up => {}
            (Some(given_up), _) => {
                let message = format!("record at {start}: it does not say that the one at {given_up} was given up");
                return Err(Error::corrupt(message));
            }
            (None, _) => {}
        }
        self.previous = Some(start);
        if meaning == Meaning::Switch {
            self.place = Place::Switched;
        }
        segment.end = end;
        segment.findings.record(&record);
        self.records_end = Some(end);
        if let (Meaning::Commit(Some(time)) | Meaning::Abort(Some(time)), Some(from)) = (meaning, self.looked_for)
            && start >= from
        {
            self.first_from = self.first_from.or(Some((start, time)));
        }
        Ok(())
    }

    /// A record of no length at `at`: nothing has been written from here on.
    fn end(&mut self, at: Lsn, rest: &[u8]) -> Result<()> {
        // A page is written whole, with zeros for what is still to come.
        if rest.iter().any(|byte| *byte != 0) {
            return Err(Error::corrupt(format!("record at {at}: its length is 0, but something follows")));
        }
        self.place = Place::Ended(at);
        Ok(())
    }

    /// A path goes to higher timelines only, and to none above that of the segment's name.
    fn check_timeline(&mut self, name: SegmentName, page: &Page, address: Lsn) -> Result<()> {
        let says = page.timeline;
        if says < self.timeline || says == 0 {
            let before = self.timeline;
            return Err(Error::corrupt(format!("page at {address}: its timeline is {says}, that before it {before}")));
        }
        if says > name.timeline.number() {
            let named = name.timeline;
            return Err(Error::corrupt(format!("page at {address}: its timeline is {says}, that of its file {named}")));
        }
        self.timeline = says;
        Ok(())
    }
}

/// A segment being read.
struct Segment {
    name: SegmentName,
    format: PageFormat,
    /// Behind the last whole record.
    end: Lsn,
    findings: SegmentFindings,
}

impl SegmentFindings {
    fn record(&mut self, record: &Record) {
        self.records += 1;
        let (Meaning::Commit(Some(time)) | Meaning::Abort(Some(time))) = record.meaning else { return };
        self.latest_end = self.latest_end.max(Some(time));
        if let Meaning::Commit(_) = record.meaning {
            self.first_commit = self.first_commit.or(Some(time));
            self.last_commit = Some(time);
            self.last_commit_lsn = Some(record.start);
        }
    }
}

/// The place `bytes` behind `address`. The last segment there is ends where addresses do.
fn behind(address: Lsn, bytes: usize) -> Lsn {
    Lsn(address.bytes().saturating_add(bytes as u64))
}

fn hole(end: Lsn, goes_on: Lsn) -> Error {
    Error::corrupt(format!("WAL ends at {end} and goes on at {goes_on}: what lies between is missing"))
}

#[cfg(test)]
mod tests;
