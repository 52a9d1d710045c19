//! What killed and failed runs left behind: backups that are none, directories without a record, uploads nobody ends.

use chrono::{DateTime, TimeDelta, Utc};

use crate::commands::archive::Archive;
use crate::commands::survey::Survey;
use crate::domain::backup::BackupStatus;
use crate::domain::expiry::Orphan;
use crate::domain::recovery_target::postgresql_time;
use crate::domain::retention::LONGEST_BACKUP;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Listed, OpenUpload, Place};

/// What was written to within so long may still be written to.
const FRESH: TimeDelta = TimeDelta::days(1);

/// What is left over in a server's prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Debris {
    /// Backups that failed or were given up, by id, with the reason; and what they hold in the store.
    pub backups: Vec<(String, String, u64)>,
    /// Directories without a record, and what they hold in the store.
    pub directories: Vec<(Orphan, u64)>,
    /// Directories without a record that were written to of late: a backup of Barman's may be running.
    pub fresh_directories: Vec<String>,
    /// Uploads that were begun more than a day ago; none where the store does not tell, or was not asked.
    pub uploads: Option<Vec<OpenUpload>>,
    /// WAL objects of no bytes. They are told of, and stay.
    pub empty_wal: Vec<String>,
}

impl Debris {
    /// Finds it. `asks_for_uploads`: that costs requests of its own, and a right of its own.
    ///
    /// Errors: the store's.
    pub(crate) async fn find(
        archive: &Archive,
        survey: &Survey,
        asks_for_uploads: bool,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let open = if asks_for_uploads { archive.store.open_uploads(&archive.prefix.root()).await? } else { None };
        let mut debris = Self { empty_wal: survey.empty_wal.clone(), ..Self::default() };
        for surveyed in &survey.backups {
            let backup = &surveyed.backup;
            let touched = newest(&surveyed.objects).unwrap_or(now);
            let bytes = surveyed.stored_bytes();
            let age = now.signed_duration_since(touched);
            let why = match backup.status {
                BackupStatus::Failed if age >= FRESH => {
                    format!("it failed, and nothing was written to it since {}", postgresql_time(&touched))
                }
                BackupStatus::Started if age >= life_of_silence(archive, open.as_deref(), backup.id.as_str(), now) => {
                    format!("it was given up: nothing was written to it since {}", postgresql_time(&touched))
                }
                _ => continue,
            };
            debris.backups.push((backup.id.to_string(), why, bytes));
        }
        for leftover in &survey.leftovers {
            let bytes = leftover.objects.iter().map(|object| object.bytes).sum();
            match newest(&leftover.objects) {
                Some(touched) if now.signed_duration_since(touched) >= FRESH => {
                    let why = format!(
                        "debris: it has no backup.info, and nothing was written to it since {}",
                        postgresql_time(&touched)
                    );
                    debris.directories.push((Orphan { id: leftover.id.clone(), why }, bytes));
                }
                Some(_) => debris.fresh_directories.push(leftover.id.clone()),
                None => {}
            }
        }
        debris.uploads = open.map(|uploads| {
            let old = uploads.into_iter().filter(|upload| now.signed_duration_since(upload.begun) >= FRESH);
            // An upload of hours belongs to a backup that runs for days.
            old.filter(|upload| !debris.may_be_running(archive, survey, &upload.key)).collect()
        });
        Ok(debris)
    }

    /// True for an object of a backup that is not known to be over.
    fn may_be_running(&self, archive: &Archive, survey: &Survey, key: &str) -> bool {
        let below = key.strip_prefix(&archive.prefix.base()).and_then(|below| below.split_once('/'));
        let Some((id, _)) = below else { return false };
        let started = survey
            .backups
            .iter()
            .any(|surveyed| surveyed.backup.id.as_str() == id && surveyed.backup.status == BackupStatus::Started);
        let given_up = self.backups.iter().any(|(debris, ..)| debris == id);
        (started && !given_up) || self.fresh_directories.iter().any(|fresh| fresh == id)
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backups.is_empty() && self.directories.is_empty() && self.uploads.as_ref().is_none_or(Vec::is_empty)
    }

    /// What the backups and directories hold in the store.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let backups = self.backups.iter().map(|(.., bytes)| bytes);
        backups.chain(self.directories.iter().map(|(_, bytes)| bytes)).sum()
    }

    /// Ends the uploads; gives those that could not be ended, and why.
    pub(crate) async fn abort_uploads(&self, archive: &Archive) -> Vec<(String, Error)> {
        let mut failed = Vec::new();
        for upload in self.uploads.iter().flatten() {
            if let Err(error) = archive.store.abort_upload(upload).await {
                let is_store = error.kind() == ErrorKind::Unreachable;
                failed.push((upload.key.clone(), error));
                if is_store {
                    break;
                }
            }
        }
        failed
    }
}

/// How long a backup that is STARTED may be silent before it counts as given up. One upload may take longer than a day: where
/// the store tells of open uploads, none must be there; where it does not, the longest backup decides.
fn life_of_silence(archive: &Archive, open: Option<&[OpenUpload]>, id: &str, now: DateTime<Utc>) -> TimeDelta {
    let directory = format!("{}{id}/", archive.prefix.base());
    let is_directory = matches!(archive.store.place(), Place::Directory(_));
    // Of a file it is known when it was last written to, of an upload only when it was begun.
    let is_alive = |upload: &OpenUpload| !is_directory || now.signed_duration_since(upload.begun) < FRESH;
    match open {
        Some(uploads) if uploads.iter().any(|upload| upload.key.starts_with(&directory) && is_alive(upload)) => {
            LONGEST_BACKUP
        }
        Some(_) => FRESH,
        None => LONGEST_BACKUP,
    }
}

fn newest(objects: &[Listed]) -> Option<DateTime<Utc>> {
    objects.iter().map(|object| object.modified).max()
}
