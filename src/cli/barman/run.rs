//! From a typed call to its exit code: opens the store, calls the command, prints its answer.

use std::io::Write;
use std::sync::Arc;

use super::call::{self, Call, Format, Provider, Work};
use super::ending::{self, Stop};
use super::quirks::Quirks;
use super::requests::{self, retry};
use super::{hook, output};
use crate::cli::damage;
use crate::cli::invocation::StoreSettings;
use crate::cli::run::{Surroundings, as_libpq_sees_it, multi_threaded, single_threaded};
use crate::cli::store::{Traffic, identity, open};
use crate::commands::answer::Answer;
use crate::commands::archive::Archive;
use crate::commands::backup::{self, BackupFailure, Stage};
use crate::commands::backup_records::{Records, find_record};
use crate::commands::delete::delete;
use crate::commands::keep::{KeepAction, keep};
use crate::commands::lay_down::{LayDownFailure, lay_down};
use crate::commands::progress::Progress;
use crate::commands::restore::REQUEST_BYTES;
use crate::commands::wal_archive::wal_archive;
use crate::commands::wal_archive_check::wal_archive_check;
use crate::commands::wal_restore::wal_restore;
use crate::domain::barman_choice;
use crate::domain::segment::{SegmentSize, WalFileName};
use crate::error::{Error, ErrorKind};
use crate::store::Probe;

/// Carries `call` out, writes its answer to `out` and its last word to the log; returns the exit code.
pub(super) fn run(call: &Call, quirks: Quirks, around: &Surroundings<'_>, out: &mut dyn Write) -> u8 {
    let runtime = match call.work {
        Work::Backup(_) | Work::Restore(_) => multi_threaded(),
        _ => single_threaded(),
    };
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(Run { call, quirks, around }.carry_out(out)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ending::DONE,
        Err(Stop::Said { code, text }) => {
            tracing::error!("{text}");
            code
        }
        Err(Stop::Failed(error)) => {
            tracing::error!("{}", ending::failure_text(call.program, &error));
            ending::OTHER
        }
    }
}

/// One call and what surrounds it.
struct Run<'a> {
    call: &'a Call,
    quirks: Quirks,
    around: &'a Surroundings<'a>,
}

impl Run<'_> {
    async fn carry_out(&self, out: &mut dyn Write) -> Result<(), Stop> {
        match &self.call.work {
            Work::WalArchive(words) => self.archive_wal(words).await,
            Work::WalRestore(words) => self.restore_wal(words).await,
            Work::Backup(words) => self.back_up(words).await,
            Work::List { format } => {
                let Some(archive) = self.open(retry::OTHER_S, Traffic::SMALL_READS).await? else { return Ok(()) };
                // Only the table shows what is kept; looking costs two requests for each backup.
                let records = match format {
                    Format::Console => Records::load_with_visible_keeps(&archive).await?,
                    Format::Json => Records::load(&archive).await?,
                };
                output::list(out, *format, records.backups.iter().map(|backup| (&backup.record, backup.keep)))?;
                Ok(())
            }
            Work::Show { backup, format } => {
                let Some(archive) = self.open(retry::OTHER_S, Traffic::SMALL_READS).await? else { return Ok(()) };
                let record = given(find_record(&archive, backup).await?)?;
                Ok(output::show(out, *format, &record)?)
            }
            Work::Delete(words) => {
                let Some(archive) = self.open(retry::OTHER_S, Traffic::SMALL_WRITES).await? else { return Ok(()) };
                self.warn_of_locks(words);
                let request = requests::delete(words, self.around.now);
                given(delete(&archive, &request, &mut |step| output::not_deleted(out, &step)).await?).map(drop)
            }
            Work::Keep(words) => {
                let Some(archive) = self.open(retry::OTHER_S, Traffic::SMALL_WRITES).await? else { return Ok(()) };
                let request = requests::keep(words, &self.call.url);
                let found = given(keep(&archive, &request).await?)?;
                if request.action == KeepAction::Status {
                    output::keep_status(out, found)?;
                }
                Ok(())
            }
            Work::CheckWalArchive { timeline } => self.check_wal_archive(*timeline).await,
            Work::Restore(words) => self.restore(words).await,
        }
    }

    /// Barman 3.19.1 looks for locks on S3 alone, and says so.
    fn warn_of_locks(&self, words: &call::Delete) {
        let provider = match self.call.cloud.provider {
            Provider::Azure => "azure-blob-storage",
            Provider::Gcs => "google-cloud-storage",
            Provider::S3 => return,
        };
        if words.check_object_lock {
            tracing::warn!(
                "The --check-object-lock option is currently only supported for aws-s3. \
                 Object lock checks will not be performed for cloud provider: {provider}"
            );
        }
    }

    async fn archive_wal(&self, words: &call::WalArchive) -> Result<(), Stop> {
        let Some(path) = hook::wal_file(self.around.environment)?.or_else(|| words.path.clone()) else {
            return Err(Stop::failed("the following arguments are required: wal_path"));
        };
        let name = wal_name(&path.to_string_lossy())?;
        // The time a request may take is sized by what it moves; a file that cannot be looked at fails later.
        let bytes = std::fs::metadata(&path).map_or(SegmentSize::MAX.bytes(), |facts| facts.len());
        let traffic = Traffic { upload: bytes, download: bytes, writes: true };
        let tags = requests::wal_tags(words, &name);
        let Some(archive) = self.open_with(StoreSettings { tags, ..self.store(retry::OTHER_S)? }, traffic).await?
        else {
            return Ok(());
        };
        let request = requests::wal_archive(words, &path, self.quirks, self.around.now);
        Ok(wal_archive(&archive, &request).await.map(drop)?)
    }

    async fn restore_wal(&self, words: &call::WalRestore) -> Result<(), Stop> {
        let name = wal_name(&words.name)?;
        let traffic = Traffic { upload: 0, download: SegmentSize::MAX.bytes(), writes: false };
        let store = self.store(retry::RESTORE_S)?;
        let identity = identity(&store, self.around.environment)?;
        let Some(archive) = self.open_with(store, traffic).await? else { return Ok(()) };
        let absent = || Stop::failed(format!("WAL file {} for server {} does not exist", words.name, self.call.server));
        // A path passes as a name with Barman 3.19.1, but no object has one.
        if words.name.contains('/') {
            return Err(absent());
        }
        let request = requests::wal_restore(words, name, identity, self.quirks);
        wal_restore(&archive, &request).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => absent(),
            _ => error.into(),
        })
    }

    async fn back_up(&self, words: &call::Backup) -> Result<(), Stop> {
        hook::refuse_backup(self.around.environment)?;
        if let Some(option) = &words.snapshot_option {
            return Err(no_snapshots(option));
        }
        let request =
            requests::backup(words, &as_libpq_sees_it(self.around.environment), self.quirks, self.around.now)?;
        let traffic = Traffic { upload: request.buffers.part_size_bytes as u64, download: 0, writes: true };
        let store = StoreSettings {
            tags: requests::backup_tags(words, self.call.cloud.provider)?,
            ..self.store(retry::OTHER_S)?
        };
        let Some(archive) = self.open_with(store, traffic).await? else { return Ok(()) };
        let done = backup::backup(&archive, request, Arc::new(Progress::default())).await.map_err(failed_backup)?;
        // Barman does not look at pages: whoever counts on its exit codes has a backup that can be restored.
        if let Some(damage) = damage::of(&done) {
            tracing::error!("{}", ending::with_hint(&damage));
        }
        Ok(())
    }

    async fn check_wal_archive(&self, timeline: Option<u64>) -> Result<(), Stop> {
        let archive = open(&self.store(retry::OTHER_S)?, self.around.environment, Traffic::SMALL_WRITES).await?;
        if self.call.test {
            // Barman 3.19.1 does not look whether the bucket is there in this test, and only in this.
            return probe(&archive).await.map(drop);
        }
        let timeline = timeline.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        given(wal_archive_check(&archive, timeline).await?)
    }

    async fn restore(&self, words: &call::Restore) -> Result<(), Stop> {
        let traffic = Traffic { upload: 0, download: REQUEST_BYTES, writes: false };
        let Some(archive) = self.open(retry::RESTORE_S, traffic).await? else { return Ok(()) };
        let refused = |refusal: barman_choice::Refusal| match (&refusal, &words.snapshot_option) {
            // Barman 3.19.1 overlooks the option unless the backup is made of snapshots.
            (barman_choice::Refusal::Snapshot(_), Some(option)) => no_snapshots(option),
            _ if refusal.is_exception() => Stop::Failed(Error::usage(refusal.text(&self.call.server))),
            _ => Stop::failed(refusal.text(&self.call.server)),
        };
        let request = requests::restore(words, self.quirks).map_err(refused)?;
        match lay_down(&archive, &request, Arc::new(Progress::default())).await {
            Ok(_) => Ok(()),
            Err(LayDownFailure::Refused(refusal)) => Err(refused(refusal)),
            Err(LayDownFailure::Failed(error)) => Err(stopped_or(error)),
        }
    }

    fn store(&self, retry_s: u64) -> Result<StoreSettings, Stop> {
        let retry_s = if self.call.test { retry::TEST_S } else { retry_s };
        Ok(requests::store_settings(self.call, self.around.environment, retry_s)?)
    }

    async fn open(&self, retry_s: u64, traffic: Traffic) -> Result<Option<Archive>, Stop> {
        self.open_with(self.store(retry_s)?, traffic).await
    }

    /// The archive; `None` when only a test of the connection was asked for, and it was passed.
    async fn open_with(&self, settings: StoreSettings, traffic: Traffic) -> Result<Option<Archive>, Stop> {
        let archive = open(&settings, self.around.environment, traffic).await?;
        if !self.call.test {
            return Ok(Some(archive));
        }
        if probe(&archive).await? {
            return Ok(None);
        }
        Err(Stop::failed(format!("Bucket {} does not exist", archive.store.place().container())))
    }
}

/// Whether the bucket is there.
async fn probe(archive: &Archive) -> Result<bool, Stop> {
    match archive.store.probe(&archive.prefix.root()).await? {
        Probe::Present => Ok(true),
        Probe::Absent => Ok(false),
        Probe::NoConnection(cause) => Err(Stop::no_connection(&cause)),
    }
}

/// The name behind the last slash of `path`, as Python's basename has it: none where a slash is the last.
fn wal_name(path: &str) -> Result<WalFileName, Stop> {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.parse().map_err(|_| Stop::usage(format!("{path} is an invalid name for a WAL file")))
}

fn given<T>(answer: Answer<T>) -> Result<T, Stop> {
    match answer {
        Answer::Given(given) => Ok(given),
        Answer::Refused(refusal) => Err(refusal.into()),
    }
}

fn no_snapshots(option: &str) -> Stop {
    Stop::usage(format!("snapshot backups are not supported by barback: {option} cannot be used"))
}

/// Barman's words and codes for a backup that failed: 1 for a server that cannot be reached and for whatever happens
/// once the backup has begun.
fn failed_backup(BackupFailure { stage, cause }: BackupFailure) -> Stop {
    match stage {
        Stage::Connecting => Stop::failed(format!("Cannot connect to postgres: {}", ending::with_hint(&cause))),
        Stage::Running(_) if cause.kind() == ErrorKind::Interrupted => {
            Stop::failed(format!("Barman cloud backup was interrupted by the user: {cause}"))
        }
        Stage::Running(_) => Stop::failed(format!("Backup failed uploading data ({})", ending::with_hint(&cause))),
        Stage::Preparing => stopped_or(cause),
    }
}

/// Barman 3.19.1 ends with 1 when a backup or restore is interrupted.
fn stopped_or(error: Error) -> Stop {
    match error.kind() {
        ErrorKind::Interrupted => Stop::failed(error.to_string()),
        _ => error.into(),
    }
}
