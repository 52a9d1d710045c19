//! Making sure that every WAL segment a backup needs is in the store before the backup says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::commands::archive::{Archive, WalCompression};
use crate::domain::lsn::Lsn;
use crate::domain::segment::{SegmentName, WalFileName};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::manifest::WalRange;
use crate::postgres::archive_status;
use crate::postgres::base_backup;
use crate::postgres::connection::Session;
use crate::postgres::server::ServerFacts;

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
        let needed = self.segments();
        let mut missing = needed.clone();
        let mut shipped = 0;
        let mut nudged = false;
        self.ship_histories().await?;
        loop {
            self.forget_present(&mut missing).await?;
            if missing.is_empty() {
                return Ok(WalShipped { needed: needed.len(), shipped });
            }
            let alone = !self.facts.archives_wal() || begun.elapsed() >= ARCHIVER_GRACE;
            if alone {
                let complete_before = base_backup::last_complete_position(self.session, self.facts).await?.complete;
                for segment in self.shippable(&missing, complete_before) {
                    self.ship(WalFileName::Segment(segment)).await?;
                    missing.remove(&segment);
                    shipped += 1;
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

    fn segments(&self) -> BTreeSet<SegmentName> {
        let size = self.facts.segment_size;
        let names = self.ranges.iter().flat_map(|range| {
            let numbers = size.segment_of(range.start)..=size.segment_before(range.end);
            numbers.map(|number| SegmentName::from_number(range.timeline, number, size))
        });
        names.collect()
    }

    /// Drops from `missing` what the store holds under any suffix: one listing for each directory of segments.
    async fn forget_present(&self, missing: &mut BTreeSet<SegmentName>) -> Result<()> {
        let directories: BTreeSet<String> = missing.iter().map(|segment| self.directory_of(*segment)).collect();
        for directory in directories {
            let mut present = Vec::new();
            self.archive
                .store
                .list(&directory, None, |object| {
                    if let Some((WalFileName::Segment(segment), _)) = self.archive.prefix.wal_from_key(&object.key) {
                        present.push(segment);
                    }
                })
                .await?;
            for segment in present {
                missing.remove(&segment);
            }
        }
        Ok(())
    }

    fn directory_of(&self, segment: SegmentName) -> String {
        let key = self.archive.prefix.wal(&WalFileName::Segment(segment));
        let (directory, _) = key.rsplit_once('/').expect("a WAL key lies in a directory");
        format!("{directory}/")
    }

    fn shippable(&self, missing: &BTreeSet<SegmentName>, complete_before: Lsn) -> Vec<SegmentName> {
        let size = self.facts.segment_size;
        let is_complete = |segment: &&SegmentName| {
            segment.next(size).start(size) <= complete_before && self.pg_wal.join(segment.to_string()).is_file()
        };
        missing.iter().filter(is_complete).copied().collect()
    }

    async fn ship(&self, name: WalFileName) -> Result<()> {
        let path = self.pg_wal.join(name.to_string());
        self.archive
            .archive_file(&name, &path, self.compression)
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

/// Where a data directory keeps its WAL.
pub(crate) fn pg_wal_of(pgdata: &Path) -> PathBuf {
    pgdata.join("pg_wal")
}
