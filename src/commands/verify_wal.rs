//! WAL looked at by names, and read to its last byte: what every segment holds, and that each goes on where the one before ends.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::StreamExt;

use crate::commands::archive::Archive;
use crate::commands::memory;
use crate::commands::survey::Survey;
use crate::commands::unseal::unseal;
use crate::commands::verify_backup::judge;
use crate::commands::verify_parts::Reading;
use crate::domain::backup::BackupId;
use crate::domain::cluster::SystemIdentifier;
use crate::domain::compression::Compression;
use crate::domain::needed_wal::NeededWal;
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::domain::verification::{Degree, Finding, Findings};
use crate::domain::verify_choice::Stretch;
use crate::domain::window::WalInventory;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Listed;
use crate::wal::proof;
use crate::wal::records::RecordReader;

/// So many findings of one sort are named; the others are counted.
const NAMED: usize = 1000;

/// WAL as a listing shows it.
#[derive(Debug, Default)]
pub(crate) struct WalSeen {
    /// Bytes and objects in each directory, 4 GiB of WAL.
    directories: BTreeMap<(TimelineId, u32), (u64, u64)>,
    /// Uncompressed segments by their lengths, the first of each; lengths no segment can have are all 0.
    plain: BTreeMap<u64, Vec<(SegmentName, String, u64)>>,
}

impl WalSeen {
    /// Takes one object in.
    pub(crate) fn take(&mut self, object: &Listed, name: &WalFileName, codec: Compression) {
        let WalFileName::Segment(segment) = *name else { return };
        let (bytes, objects) = self.directories.entry((segment.timeline, segment.log)).or_default();
        *bytes += object.bytes;
        *objects += 1;
        if codec == Compression::None && object.bytes > 0 {
            let length = if SegmentSize::new(object.bytes).is_ok() { object.bytes } else { 0 };
            let same = self.plain.entry(length).or_default();
            if same.len() < NAMED {
                same.push((segment, object.key.clone(), object.bytes));
            }
        }
    }

    /// About how many bytes the objects of a stretch within one directory have.
    pub(crate) fn bytes_of(&self, stretch: Stretch, size: SegmentSize) -> u64 {
        let (first, _) = stretch.ends(size);
        let (bytes, objects) = self.directories.get(&(first.timeline, first.log)).copied().unwrap_or_default();
        let share = u128::from(bytes) * u128::from(stretch.segments()) / u128::from(objects.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// What names and sizes say about the WAL that backups need.
pub(crate) fn look_at_names(
    archive: &Archive,
    survey: &Survey,
    seen: &WalSeen,
    needed: &NeededWal,
    size: SegmentSize,
) -> Findings {
    let mut findings = Findings::default();
    let empty: BTreeSet<SegmentName> = survey
        .empty_wal
        .iter()
        .filter_map(|key| match archive.prefix.wal_from_key(key)?.0 {
            WalFileName::Segment(segment) => Some(segment),
            _ => None,
        })
        .collect();
    missing(&mut findings, Degree::Damage, &needed.missing, &empty, size);
    missing(&mut findings, Degree::Notice, &needed.missing_beside, &empty, size);
    for (timeline, error) in &survey.unreadable_histories {
        findings.push(Finding::damage(WalFileName::TimelineHistory(*timeline).to_string(), error.to_string()));
    }
    let is_unreadable = |timeline: &TimelineId| survey.unreadable_histories.iter().any(|(other, _)| other == timeline);
    for timeline in needed.without_history.iter().filter(|timeline| !is_unreadable(timeline)) {
        let name = WalFileName::TimelineHistory(*timeline).to_string();
        let what = format!("it is not in the archive, so that no recovery can follow timeline {timeline}");
        findings.push(Finding::damage(name, what));
    }
    let is_missing = |segment: SegmentName| {
        let number = segment.number(size);
        let mut all = needed.missing.iter().chain(&needed.missing_beside);
        all.any(|gap| gap.timeline == segment.timeline && (gap.first..=gap.last).contains(&number))
    };
    for key in &survey.empty_wal {
        let name = archive.prefix.wal_from_key(key).map(|(name, _)| name);
        let is_told = matches!(name, Some(WalFileName::Segment(segment)) if is_missing(segment));
        if !is_told {
            findings.push(Finding::notice(key, "it is empty: 0 bytes"));
        }
    }
    odd_lengths(&mut findings, seen, needed, size);
    findings
}

fn missing(
    findings: &mut Findings,
    degree: Degree,
    gaps: &[Stretch],
    empty: &BTreeSet<SegmentName>,
    size: SegmentSize,
) {
    let mut left = NAMED;
    for gap in gaps {
        let named = gap.segments().min(left as u64);
        for number in gap.first..gap.first + named {
            let name = SegmentName::from_number(gap.timeline, number, size);
            let mut what =
                if empty.contains(&name) { "its object is empty: 0 bytes" } else { "it is not in the archive" }
                    .to_owned();
            if degree == Degree::Notice {
                what += "; it belongs to a branch that was left";
            }
            findings.push(Finding { degree, object: name.to_string(), what });
        }
        left -= usize::try_from(named).unwrap_or(left);
        findings.count_unnamed(degree, gap.segments() - named);
    }
}

/// An uncompressed segment is as long as all segments of its cluster.
fn odd_lengths(findings: &mut Findings, seen: &WalSeen, needed: &NeededWal, size: SegmentSize) {
    let odd = seen.plain.iter().filter(|(length, _)| **length != size.bytes()).flat_map(|(_, segments)| segments);
    for (segment, key, bytes) in odd {
        let number = segment.number(size);
        let is_needed = needed
            .present
            .iter()
            .any(|there| there.timeline == segment.timeline && (there.first..=there.last).contains(&number));
        let what = format!("it is {bytes} bytes long, segments of this cluster have {}", size.bytes());
        findings.push(if is_needed { Finding::damage(key, what) } else { Finding::notice(key, what) });
    }
}

/// What reading WAL needs to know.
pub(crate) struct WalReading<'a> {
    pub(crate) reading: &'a Reading,
    pub(crate) size: SegmentSize,
    /// The cluster the backups are of.
    pub(crate) cluster: Option<SystemIdentifier>,
    pub(crate) histories: &'a BTreeMap<TimelineId, TimelineHistory>,
    pub(crate) wal: &'a WalInventory,
    /// The oldest backup that needs the WAL: when it goes, WAL may go with it.
    pub(crate) oldest: BackupId,
}

/// How far a chain of records was followed.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    records: Option<RecordReader>,
    last: Option<SegmentName>,
}

/// What reading a stretch found.
#[derive(Debug, Default)]
pub(crate) struct StretchRead {
    pub(crate) findings: Findings,
    /// Objects read.
    pub(crate) objects: u64,
    /// Bytes that came from the store.
    pub(crate) bytes: u64,
    pub(crate) last_commit: Option<DateTime<Utc>>,
    /// The store gave no answer any more.
    pub(crate) is_unreachable: bool,
}

/// An object that holds a segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    key: String,
    codec: Compression,
}

/// A segment as it came from the store.
#[derive(Debug)]
struct SegmentRead {
    name: SegmentName,
    /// Its bytes, if they can be its.
    content: Option<Vec<u8>>,
    findings: Findings,
    objects: u64,
    bytes: u64,
    is_unreachable: bool,
}

impl WalReading<'_> {
    /// Reads a stretch within one directory: one listing, one request for each object. Several segments come at a time,
    /// their records are read in order. Memory: 256 MiB at most, or two segments.
    pub(crate) async fn read(&self, chain: &mut Chain, stretch: Stretch) -> StretchRead {
        let (first, last) = stretch.ends(self.size);
        let mut read = StretchRead::default();
        let before = self.before(first);
        if chain.last.is_none() || chain.last != before {
            self.begin_chain(chain, before).await;
        }
        let copies = match self.list(first, last).await {
            Ok(copies) => copies,
            Err(error) => {
                read.is_unreachable = error.kind() == ErrorKind::Unreachable;
                read.findings.push(Finding::of_error(format!("{first} to {last}"), &error));
                *chain = Chain::default();
                return read;
            }
        };
        let names =
            (stretch.first..=stretch.last).map(|number| SegmentName::from_number(stretch.timeline, number, self.size));
        let fetches = names.map(|name| self.fetch(name, copies.get(&name).cloned().unwrap_or_default()));
        let mut fetches = futures::stream::iter(fetches).buffered(self.in_flight());
        while let Some(segment) = fetches.next().await {
            read.objects += segment.objects;
            read.bytes += segment.bytes;
            read.is_unreachable |= segment.is_unreachable;
            read.findings.append(segment.findings);
            match segment.content {
                Some(content) => self.records(chain, segment.name, &content, &mut read),
                None => *chain = Chain::default(),
            }
            if read.is_unreachable || self.reading.interrupt.check().is_err() {
                break;
            }
        }
        read
    }

    fn in_flight(&self) -> usize {
        memory::for_segments(self.reading.max_memory_bytes, self.reading.jobs, self.size)
    }

    /// Follows the records through one segment more.
    fn records(&self, chain: &mut Chain, name: SegmentName, content: &[u8], read: &mut StretchRead) {
        let records = chain.records.get_or_insert_with(|| RecordReader::new(self.size));
        match tokio::task::block_in_place(|| records.segment(name, content)) {
            Ok(found) => {
                chain.last = Some(name);
                read.last_commit = read.last_commit.max(found.last_commit);
            }
            Err(error) => {
                read.findings.push(Finding::of_error(name.to_string(), &error));
                *chain = Chain::default();
            }
        }
    }

    /// The segment whose records go on in `first`, under the name it has on the way there.
    fn before(&self, first: SegmentName) -> Option<SegmentName> {
        let number = first.number(self.size).checked_sub(1)?;
        let own = SegmentName::from_number(first.timeline, number, self.size);
        if self.wal.contains(own) {
            return Some(own);
        }
        let history = self.histories.get(&first.timeline)?;
        let timeline = history.timeline_at(own.start(self.size));
        let parents = SegmentName { timeline, ..own };
        self.wal.contains(parents).then_some(parents)
    }

    /// Reads the segment before, so that a record that crosses into the next is seen whole. What is wrong with it is for its
    /// own stretch to say.
    async fn begin_chain(&self, chain: &mut Chain, before: Option<SegmentName>) {
        *chain = Chain::default();
        let Some(name) = before else { return };
        let Ok(copies) = self.list(name, name).await else { return };
        let segment = self.fetch(name, copies.get(&name).cloned().unwrap_or_default()).await;
        if let Some(content) = segment.content {
            self.records(chain, name, &content, &mut StretchRead::default());
        }
    }

    /// The objects that hold the segments from `first` to `last`, which lie in one directory.
    async fn list(&self, first: SegmentName, last: SegmentName) -> Result<BTreeMap<SegmentName, Vec<Copy>>> {
        let archive = &self.reading.archive;
        let key = archive.prefix.wal(&WalFileName::Segment(first));
        let directory = key.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
        let mut copies: BTreeMap<SegmentName, Vec<Copy>> = BTreeMap::new();
        archive
            .store
            .list(&directory, None, |object| {
                if let Some((WalFileName::Segment(name), codec)) = archive.prefix.wal_from_key(&object.key)
                    && (first..=last).contains(&name)
                    && object.bytes > 0
                {
                    copies.entry(name).or_default().push(Copy { key: object.key, codec });
                }
            })
            .await?;
        for copies in copies.values_mut() {
            copies.sort();
        }
        Ok(copies)
    }

    async fn fetch(&self, name: SegmentName, copies: Vec<Copy>) -> SegmentRead {
        let mut read = SegmentRead {
            name,
            content: None,
            findings: Findings::default(),
            objects: 0,
            bytes: 0,
            is_unreachable: false,
        };
        if copies.is_empty() {
            let gone = Error::new(ErrorKind::NotFound, "it is not there");
            read.findings.push(judge(&self.reading.archive, &self.oldest, &name.to_string(), &gone).await);
            return read;
        }
        for copy in copies {
            let checked = match self.get(name, &copy, &mut read.bytes).await {
                Ok(content) => content,
                Err(error) => {
                    read.is_unreachable |= error.kind() == ErrorKind::Unreachable;
                    read.findings.push(judge(&self.reading.archive, &self.oldest, &copy.key, &error).await);
                    continue;
                }
            };
            read.objects += 1;
            match &read.content {
                None => read.content = Some(checked),
                Some(first) if *first == checked => {}
                Some(_) => {
                    let what = format!("it holds other content than another object of segment {name}");
                    read.findings.push(Finding::damage(&copy.key, what));
                }
            }
        }
        read
    }

    /// Gets one object and proves that it holds the segment.
    async fn get(&self, name: SegmentName, copy: &Copy, bytes: &mut u64) -> Result<Vec<u8>> {
        let Reading { archive, interrupt, rate, progress, .. } = self.reading;
        interrupt.check()?;
        let fetched = tokio::select! {
            fetched = archive.get_sealed(&copy.key, self.size.bytes()) => fetched?,
            () = interrupt.stopped() => return Err(Error::new(ErrorKind::Interrupted, "it was not read any more")),
        };
        let length = fetched.content.len();
        *bytes += length as u64;
        let (key, codec, size, cluster) = (copy.key.clone(), copy.codec, self.size, self.cluster);
        let history = match self.histories.get(&name.timeline) {
            None if name.timeline == TimelineId::FIRST => Some(TimelineHistory::root(name.timeline)),
            history => history.cloned(),
        };
        let (rate, interrupt) = (rate.clone(), interrupt.clone());
        let checking = tokio::task::spawn_blocking(move || {
            rate.wait_for(length, &interrupt)?;
            let (content, _) = unseal(&key, codec, fetched, size.bytes())?;
            if content.len() as u64 != size.bytes() {
                let what = format!("it holds {} bytes, segments of this cluster have {}", content.len(), size.bytes());
                return Err(Error::corrupt(what));
            }
            let theirs = proof::check_segment(name, &content, content.len() as u64, history.as_ref())?;
            match cluster {
                Some(ours) if ours != theirs => {
                    let what = format!("it is of cluster {theirs}, the backups are of cluster {ours}");
                    Err(Error::new(ErrorKind::Mismatch, what))
                }
                _ => Ok(content),
            }
        });
        let died = |error| Error::new(ErrorKind::Bug, format!("a check failed: {error}"));
        let content = checking.await.map_err(died)??;
        progress.add_bytes(length as u64);
        progress.add_files(1);
        Ok(content)
    }
}
