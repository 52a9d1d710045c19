//! The state of an archive, computed from the store: what can be recovered, what is missing, what was verified.

use chrono::{DateTime, Utc};

use crate::commands::archive::Archive;
use crate::commands::survey::{Survey, survey};
use crate::commands::verify_history::newest_verifications;
use crate::domain::archive_health::{self, ArchiveFacts, Verification};
use crate::domain::backup::Backup;
use crate::domain::finding::Finding;
use crate::domain::recoverability::{Holdings, Recoverability};
use crate::domain::segment::SegmentSize;
use crate::domain::timeline::TimelineId;

/// What a look at the whole archive has shown, and what follows from it.
#[derive(Debug)]
pub struct ArchiveState {
    /// What is there.
    pub survey: Survey,
    /// The catalogue.
    pub backups: Vec<Backup>,
    /// What it is good for.
    pub recoverability: Recoverability,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// The newest verifications on record.
    pub verifications: Vec<Verification>,
    /// When it was looked at.
    pub now: DateTime<Utc>,
}

impl ArchiveState {
    /// Looks at the whole archive. Requests, memory and errors: see [`survey`].
    pub async fn read(archive: &Archive, now: DateTime<Utc>) -> crate::error::Result<Self> {
        let survey = survey(archive).await?;
        survey.remember(archive).await;
        let backups = survey.catalog();
        let holdings = Holdings { backups: &backups, wal: &survey.wal, histories: &survey.histories };
        let recoverability = Recoverability::of(holdings);
        let segment_size = holdings.segment_size();
        let verifications = newest_verifications(&archive.prefix, &survey.ours);
        Ok(Self { survey, backups, recoverability, segment_size, verifications, now })
    }

    /// What somebody should know about it, the worst first.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let unreadable = self.survey.unreadable.iter().map(|(id, error)| (id.clone(), error.to_string()));
        let unreadable: Vec<(String, String)> = unreadable.collect();
        let histories = self.survey.unreadable_histories.iter().map(|(timeline, error)| (*timeline, error.to_string()));
        let unreadable_histories: Vec<(TimelineId, String)> = histories.collect();
        archive_health::findings(&ArchiveFacts {
            backups: &self.backups,
            recoverability: &self.recoverability,
            unreadable: &unreadable,
            unreadable_histories: &unreadable_histories,
            leftovers: self.survey.leftovers.len(),
            empty_wal: &self.survey.empty_wal,
            strangers: (self.survey.stranger_count, self.survey.strangers.first().map(String::as_str)),
            verifications: &self.verifications,
            now: self.now,
        })
    }
}
