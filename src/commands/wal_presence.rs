//! Making sure that every WAL segment a backup needs is in the store before the backup says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::commands::archive::{Archive, ContentCheck, IfOther, Storing, WalCompression};
use crate::domain::compression::Compression;
use crate::domain::lsn::Lsn;
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::manifest::WalRange;
use crate::postgres::archive_status;
use crate::postgres::base_backup;
use crate::postgres::connection::Session;
use crate::postgres::server::ServerFacts;
use crate::wal::proof;

/// How long PostgreSQL's own archiver is left alone with the last segments before we ship them ourselves.
const ARCHIVER_GRACE: Duration = Duration::from_secs(5);

/// Between two looks at the store and at `pg_wal`.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// WAL that a backup needs, and where it may still be found.
#[derive(Debug)]
pub(crate) struct NeededWal<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) session: &'a Session,
    pub(crate) facts: &'a ServerFacts,
    pub(crate) pg_wal: PathBuf,
    /// From where replay begins to where the copy is consistent, on one timeline each.
    pub(crate) ranges: Vec<WalRange>,
    pub(crate) compression: WalCompression,
    pub(crate) timeout: Duration,
    pub(crate) now: DateTime<Utc>,
}

/// What was needed and how it came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalShipped {
    /// Segments the backup needs.
    pub needed: usize,
    /// Of these, segments that this backup put into the store itself.
    pub shipped: usize,
}

impl NeededWal<'_> {
    /// Returns when every needed segment and timeline history is in the store.
    ///
    /// PostgreSQL's archiver gets a few seconds where there is one; what it has not archived by then is shipped from
    /// `pg_wal` as soon as it is complete, which is harmless when the archiver comes later: content is compared, never
    /// replaced. A standby cannot complete its last segment; its primary is asked to switch, and waited for.
    ///
    /// Errors: `Local` when the time is up, naming the first missing segment and why it cannot be shipped.
    pub(crate) async fn ensure(&self) -> Result<WalShipped> {
        let begun = Instant::now();
        let needed = needed_segments(&self.ranges, self.facts.segment_size);
        // The ends stand for the rest: an archive that another cluster filled holds its WAL in one stretch.
        let mut to_prove: BTreeSet<SegmentName> = needed.first().into_iter().chain(needed.last()).copied().collect();
        let mut missing = needed.clone();
        let mut shipped = 0;
        let mut nudged = false;
        self.ship_histories().await?;
        loop {
            let present = self.forget_present(&mut missing).await?;
            for (segment, (key, codec)) in &present {
                if to_prove.remove(segment) {
                    self.prove_ours(*segment, key, *codec).await?;
                }
            }
            if missing.is_empty() {
                return Ok(WalShipped { needed: needed.len(), shipped });
            }
            let alone = !self.facts.archives_wal() || begun.elapsed() >= ARCHIVER_GRACE;
            if alone {
                let complete_before = base_backup::last_complete_position(self.session, self.facts).await?.complete;
                for segment in self.shippable(&missing, complete_before) {
                    match self.ship(WalFileName::Segment(segment)).await {
                        Ok(()) => {
                            missing.remove(&segment);
                            to_prove.remove(&segment);
                            shipped += 1;
                        }
                        // Archived by somebody else and recycled since we looked: the next listing will tell.
                        Err(error) if !self.is_in_pg_wal(segment) => tracing::debug!("{error}"),
                        Err(error) => return Err(error),
                    }
                }
                if self.facts.in_recovery && !missing.is_empty() && !nudged {
                    nudged = true;
                    self.nudge_primary().await;
                }
            }
            if begun.elapsed() >= self.timeout {
                return Err(self.out_of_time(&missing));
            }
            if !missing.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Drops from `missing` what the store holds under any suffix, and says where: one listing for each directory of
    /// segments.
    async fn forget_present(
        &self,
        missing: &mut BTreeSet<SegmentName>,
    ) -> Result<BTreeMap<SegmentName, (String, Compression)>> {
        let directories: BTreeSet<String> =
            missing.iter().map(|segment| self.archive.prefix.wal_directory(segment)).collect();
        let mut present = BTreeMap::new();
        for directory in directories {
            self.archive
                .store
                .list(&directory, None, |object| {
                    if let Some((WalFileName::Segment(segment), codec)) = self.archive.prefix.wal_from_key(&object.key)
                        && missing.remove(&segment)
                    {
                        present.insert(segment, (object.key, codec));
                    }
                })
                .await?;
        }
        Ok(present)
    }

    /// Reads a segment that the archive already held: its name alone does not say that it is this cluster's.
    async fn prove_ours(&self, segment: SegmentName, key: &str, codec: Compression) -> Result<()> {
        let unusable = || format!("could not use WAL object \"{key}\", which the backup needs");
        let read = self.archive.read_sealed(key, codec, self.facts.segment_size.bytes()).await;
        let (content, _) = read.map_err(|error| error.context(unusable()))?;
        let origin =
            proof::check(&WalFileName::Segment(segment), &content, None).map_err(|error| error.context(unusable()))?;
        let ours = self.facts.system_identifier;
        match origin {
            Some(theirs) if theirs != ours => {
                let message = format!("{}: it is of cluster {theirs}, the backup of cluster {ours}", unusable());
                Err(Error::new(ErrorKind::Mismatch, message)
                    .with_hint("Two clusters share this archive: give one of them another --server name."))
            }
            _ => Ok(()),
        }
    }

    fn shippable(&self, missing: &BTreeSet<SegmentName>, complete_before: Lsn) -> Vec<SegmentName> {
        let size = self.facts.segment_size;
        let is_complete =
            |segment: &&SegmentName| segment.next(size).start(size) <= complete_before && self.is_in_pg_wal(**segment);
        missing.iter().filter(is_complete).copied().collect()
    }

    fn is_in_pg_wal(&self, segment: SegmentName) -> bool {
        self.pg_wal.join(segment.to_string()).is_file()
    }

    async fn ship(&self, name: WalFileName) -> Result<()> {
        let path = self.pg_wal.join(name.to_string());
        let how = Storing {
            compression: self.compression,
            if_other: IfOther::Refuse,
            check: ContentCheck::Checked,
            now: self.now,
        };
        self.archive
            .archive_file(&name, &path, how)
            .await
            .map(drop)
            .map_err(|error| error.context(format!("could not ship WAL file \"{name}\"")))
    }

    /// A restore onto a timeline above 1 asks for its history.
    async fn ship_histories(&self) -> Result<()> {
        for timeline in archive_status::history_files(&self.pg_wal)? {
            let wanted = self.ranges.iter().any(|range| timeline <= range.timeline);
            let name = WalFileName::TimelineHistory(timeline);
            if wanted && !self.is_present(&name).await? {
                self.ship(name).await?;
            }
        }
        Ok(())
    }

    async fn is_present(&self, name: &WalFileName) -> Result<bool> {
        let key = self.archive.prefix.wal(name);
        let (directory, begins) = key.rsplit_once('/').expect("a WAL key lies in a directory");
        Ok(!self.archive.store.list_names(&format!("{directory}/"), begins).await?.is_empty())
    }

    /// An idle primary never completes the segment a standby's backup ends in. Being refused is no failure of the
    /// backup: somebody else may write on the primary, or switch by hand.
    async fn nudge_primary(&self) {
        match base_backup::switch_wal_on_primary(self.session).await {
            Ok(()) => tracing::info!("asked the primary to switch to a new WAL segment"),
            Err(error) => tracing::warn!(
                "{error}; the backup waits until the primary completes the segment: \
                 run SELECT pg_switch_wal() there if it is idle"
            ),
        }
    }

    fn out_of_time(&self, missing: &BTreeSet<SegmentName>) -> Error {
        let first = missing.first().map(ToString::to_string).unwrap_or_default();
        let why = if self.pg_wal.join(&first).is_file() {
            "it is in pg_wal, but not complete"
        } else {
            "it is neither in the store nor in pg_wal"
        };
        let message = format!(
            "{} of the WAL segments the backup needs are not in the store after {} s; the first is \"{first}\": {why}",
            missing.len(),
            self.timeout.as_secs()
        );
        let hint = if self.facts.in_recovery {
            "Run SELECT pg_switch_wal() on the primary, or give --wal-timeout more time."
        } else {
            "Look at archive_command in the server's log and at pg_stat_archiver."
        };
        Error::new(ErrorKind::Local, message).with_hint(hint)
    }
}

/// The segments that replay asks for along `ranges`, each under the name it has in the archive.
///
/// The segment in which one range passes over to the next is asked for under the newer timeline, whose copy holds all
/// that came before; the older timeline's own never becomes complete.
fn needed_segments(ranges: &[WalRange], size: SegmentSize) -> BTreeSet<SegmentName> {
    let last = ranges.len().saturating_sub(1);
    let names = ranges.iter().enumerate().flat_map(|(at, range)| {
        let end = if at == last { size.segment_before(range.end) + 1 } else { size.segment_of(range.end) };
        (size.segment_of(range.start)..end).map(|number| SegmentName::from_number(range.timeline, number, size))
    });
    names.collect()
}

/// Where a data directory keeps its WAL.
pub(crate) fn pg_wal_of(pgdata: &Path) -> PathBuf {
    pgdata.join("pg_wal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::timeline::TimelineId;

    fn needed(ranges: &[(u32, u64, u64)]) -> Vec<String> {
        let range = |&(timeline, start, end): &(u32, u64, u64)| WalRange {
            timeline: TimelineId::new(timeline).unwrap(),
            start: Lsn(start),
            end: Lsn(end),
        };
        let ranges: Vec<WalRange> = ranges.iter().map(range).collect();
        let size = SegmentSize::new(1 << 20).unwrap();
        needed_segments(&ranges, size).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_end_on_a_boundary_needs_no_further_segment() {
        assert_eq!(needed(&[(1, 0x20_0028, 0x30_0000)]), ["000000010000000000000002"]);
        assert_eq!(needed(&[(1, 0x20_0028, 0x30_0001)]), ["000000010000000000000002", "000000010000000000000003"]);
    }

    #[test]
    fn the_segment_of_a_timeline_switch_is_needed_under_the_newer_timeline_only() {
        let (two, four) = ("000000010000000000000002", "000000020000000000000004");
        let before = [two, "000000010000000000000003"];
        assert_eq!(
            needed(&[(1, 0x20_0028, 0x38_0000), (2, 0x38_0000, 0x48_0000)]),
            [two, "000000020000000000000003", four]
        );
        assert_eq!(needed(&[(1, 0x20_0028, 0x40_0000), (2, 0x40_0000, 0x48_0000)]), [before[0], before[1], four]);
    }
}
