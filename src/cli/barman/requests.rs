//! From what was typed to what is asked of the commands: pure, and the same requests the native face makes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::call::{self, Call, Cloud, KeepAction, Provider, S3Encryption, TargetTimeline, Which};
use super::quirks::Quirks;
use crate::cli::config::Layer;
use crate::cli::invocation::StoreSettings;
use crate::cli::native_requests::say_what_gave_way;
use crate::cli::zone::Zone;
use crate::commands::archive::{ContentCheck, IfOther, WalCompression};
use crate::commands::backup::{BackupRequest, FRUGAL_MEMORY_PER_JOB_BYTES, Naming, Tables, WalWait};
use crate::commands::delete::{DeleteRequest, Unwanted};
use crate::commands::keep::{self, KeepRequest};
use crate::commands::lay_down::LayDownRequest;
use crate::commands::memory::Buffers;
use crate::commands::spool::{SpoolLayout, SpoolOptions};
use crate::commands::wal_archive::WalArchiveRequest;
use crate::commands::wal_restore::{BackupHistories, PartialPolicy, WalRestoreRequest};
use crate::domain::barman_choice::{Refusal, TargetWords, Wanted};
use crate::domain::compression::{Compression, barman_level};
use crate::domain::segment::WalFileName;
use crate::error::{Error, Result};
use crate::postgres::configuration::Form;
use crate::postgres::conninfo::{self, Conninfo};
use crate::store::{AzureCredential, Encryption, Place, ReadableByOthers};

/// How long requests are repeated that fail for a passing reason, where `BARBACK_RETRY_TIMEOUT_S` says nothing.
///
/// A restore waits longest: PostgreSQL takes any failure of it for the end of the WAL, so that a store which is away
/// for a minute must not be the end of recovery.
pub(super) mod retry {
    /// `wal-restore` and `restore`.
    pub const RESTORE_S: u64 = 180;
    /// Everything else.
    pub const OTHER_S: u64 = 60;
    /// A test of the connection is an answer in itself.
    pub const TEST_S: u64 = 5;
}

/// Where a call's objects are and how to get at them.
///
/// Errors: `Usage` with Barman's words for a URL that is none of its provider's, and for encryption options that do not
/// go together.
pub(super) fn store_settings(
    call: &Call,
    env: &BTreeMap<String, String>,
    default_retry_s: u64,
) -> Result<StoreSettings> {
    check_url(call.cloud.provider, &call.url)?;
    let said = Layer::from_env(env)?;
    Ok(StoreSettings {
        url: call.url.clone(),
        server: call.server.clone(),
        endpoint_url: call.cloud.endpoint_url.clone(),
        addressing_style: call.cloud.addressing_style.unwrap_or_default(),
        aws_profile: call.cloud.aws_profile.clone(),
        region: None,
        ca_bundle: None,
        retry_timeout_s: said.retry_timeout_s.unwrap_or(default_retry_s),
        readable_credentials: ReadableByOthers::Warn,
        read_timeout_s: call.cloud.read_timeout_s.and_then(|seconds| u64::try_from(seconds).ok()),
        tags: Vec::new(),
        encryption: encryption(&call.cloud)?,
        azure_credential: call.cloud.azure_credential.map(|credential| match credential {
            call::AzureCredential::AzureCli => AzureCredential::AzureCli,
            call::AzureCredential::ManagedIdentity => AzureCredential::ManagedIdentity,
            call::AzureCredential::Default => AzureCredential::Default,
        }),
        cache_dir: Some(said.cache_dir.unwrap_or_else(|| temporary_dir(env))),
    })
}

/// Barman's provider decides how a URL is read: one of another kind is refused in its words, exit 4.
fn check_url(provider: Provider, url: &str) -> Result<()> {
    let place = url.parse::<Place>();
    match (provider, &place) {
        (Provider::S3, Ok(Place::S3 { .. }))
        | (Provider::Azure, Ok(Place::Azure { .. }))
        | (Provider::Gcs, Ok(Place::Gcs { .. })) => Ok(()),
        (Provider::S3, _) => Err(Error::usage(format!("Invalid s3 URL address: {url}"))),
        (Provider::Azure, _) => Err(Error::usage(format!("Invalid azure URL address: {url}"))),
        (Provider::Gcs, _) => Err(Error::usage(format!("Invalid google cloud storage URL address: {url}"))),
    }
}

fn encryption(cloud: &Cloud) -> Result<Option<Encryption>> {
    let kms = matches!(cloud.encryption, Some(S3Encryption::Kms));
    match cloud.provider {
        Provider::S3 if cloud.sse_kms_key_id.is_some() && !kms => {
            Err(Error::usage("Encryption type must be \"aws:kms\" if SSE KMS Key ID is specified"))
        }
        Provider::S3 => Ok(cloud.encryption.map(|_| Encryption::S3 { kms, kms_key_id: cloud.sse_kms_key_id.clone() })),
        Provider::Azure => Ok(cloud.encryption_scope.clone().map(Encryption::AzureScope)),
        Provider::Gcs => Ok(cloud.kms_key_name.clone().map(Encryption::GcsKey)),
    }
}

/// What is remembered about a server goes where temporary files go, unless `BARBACK_CACHE_DIR` says where: on a read-only root file system there may be no
/// other place to write to.
fn temporary_dir(env: &BTreeMap<String, String>) -> PathBuf {
    let temporary = env.get("TMPDIR").filter(|path| !path.is_empty()).map_or("/tmp", String::as_str);
    PathBuf::from(temporary).join(format!("barback-{}", rustix::process::geteuid().as_raw()))
}

/// The tags of a WAL file: a timeline history's own where there are any.
pub(super) fn wal_tags(words: &call::WalArchive, name: &WalFileName) -> Vec<call::Tag> {
    match (&words.history_tags, name) {
        (Some(tags), WalFileName::TimelineHistory(_)) => tags.clone(),
        _ => words.tags.clone(),
    }
}

/// S3 takes no more tags on an object.
const MOST_TAGS: usize = 10;

/// The tags of a backup's objects. Only for backups on S3 does Barman 3.19.1 check them first.
///
/// Errors: `Usage` in its words.
pub(super) fn backup_tags(words: &call::Backup, provider: Provider) -> Result<Vec<call::Tag>> {
    if provider == Provider::S3 {
        if words.tags.len() > MOST_TAGS {
            return Err(Error::usage(
                "Maximum number of tags per object exceeded. S3 allows no more than 10 tags per object.",
            ));
        }
        let twice =
            words.tags.iter().enumerate().find(|(at, (key, _))| words.tags[..*at].iter().any(|(k, _)| k == key));
        if let Some((_, (key, _))) = twice {
            return Err(Error::usage(format!("Duplicate tag keys found: {key}. Tag keys must be unique.")));
        }
    }
    Ok(words.tags.clone())
}

/// What `wal-archive` asks for.
pub(super) fn wal_archive(
    words: &call::WalArchive,
    path: &Path,
    quirks: Quirks,
    now: DateTime<Utc>,
) -> WalArchiveRequest {
    let codec = words.compression.unwrap_or(Compression::None);
    WalArchiveRequest {
        path: path.to_owned(),
        compression: WalCompression { codec, level: barman_level(codec, words.level.unwrap_or_default()) },
        if_other: if quirks.overwrite_wal { IfOther::Replace } else { IfOther::Refuse },
        check: content_check(quirks),
        ride_along: None,
        now,
    }
}

/// What `wal-restore` asks for; `store` tells the store from every other.
pub(super) fn wal_restore(
    words: &call::WalRestore,
    name: WalFileName,
    store: String,
    quirks: Quirks,
) -> WalRestoreRequest {
    let layout = if quirks.shared_spool { SpoolLayout::Shared } else { SpoolLayout::Keyed { store } };
    WalRestoreRequest {
        name,
        destination: words.destination.clone(),
        expected: None,
        partial: match (words.no_partial, quirks.partial_order) {
            (true, _) => PartialPolicy::Never,
            (false, true) => PartialPolicy::BarmanOrder,
            (false, false) => PartialPolicy::LastResort,
        },
        backup_histories: BackupHistories::Absent,
        check: content_check(quirks),
        spool: Some(SpoolOptions {
            directory: words.spool_dir.clone(),
            layout,
            segments: usize::try_from(words.parallel).unwrap_or(usize::MAX),
        }),
    }
}

fn content_check(quirks: Quirks) -> ContentCheck {
    if quirks.unchecked_wal { ContentCheck::Unchecked } else { ContentCheck::Checked }
}

/// Barman 3.19.1 takes 21 MB where nothing is said: four of them for each job would be more memory than the whole
/// process may take.
const PART_SIZE_BYTES: usize = 10 << 20;

/// More workers than this only wait for each other.
const MOST_JOBS: usize = 64;

/// One job alone needs the memory of two: the last tar and the manifest are on their way beside it.
const LEAST_SHARES: usize = 2;

/// How long a backup waits for the WAL it needs: as long as the native face.
const WAL_TIMEOUT: Duration = Duration::from_mins(10);

/// What `backup` asks for.
///
/// Errors: `Usage` for connection options that cannot be used.
pub(super) fn backup(
    words: &call::Backup,
    env: &BTreeMap<String, String>,
    quirks: Quirks,
    now: DateTime<Utc>,
) -> Result<BackupRequest> {
    let options = [&words.host, &words.port, &words.user].map(Option::as_deref);
    let conninfo = conninfo::of_options(options[0], options[1], options[2], &words.dbname);
    let jobs = words.jobs.clamp(1, MOST_JOBS);
    let part_memory = FRUGAL_MEMORY_PER_JOB_BYTES * jobs.max(LEAST_SHARES);
    let wanted = PART_SIZE_BYTES.max(usize::try_from(words.min_chunk_size.unwrap_or(0)).unwrap_or(usize::MAX));
    let buffers = Buffers::within(part_memory, jobs, wanted);
    say_what_gave_way(&buffers, jobs, wanted);
    Ok(BackupRequest {
        conninfo: Conninfo::resolve_named(&conninfo, env, APPLICATION_NAME)?,
        pgdata: None,
        name: words.name.as_deref().map(str::parse).transpose()?,
        naming: Naming::as_barman(Zone::Host.at(now).naive_local()),
        buffers,
        compression: words.compression,
        level: backup_level(words.compression),
        // WAL that the backup must ship itself is compressed as its tars are.
        wal_compression: WalCompression { codec: words.compression, level: None },
        fast: words.immediate_checkpoint,
        max_rate_bytes_per_s: words.max_bandwidth,
        has_loose_rate: quirks.loose_bandwidth,
        max_tar_bytes: Some(words.max_archive_size),
        configuration: Form::AsItIs,
        with_logs: false,
        // Barman 3.19.1 would see an object more, and its server sessions more.
        tables: Tables::PassedOver,
        check: content_check(quirks),
        wal: if quirks.no_wal_wait { WalWait::Server } else { WalWait::Store },
        wal_timeout: WAL_TIMEOUT,
        now,
    })
}

/// What the server sees of `barman-cloud-backup` 3.19.1.
const APPLICATION_NAME: &str = "barman_cloud_backup";

/// Barman 3.19.1 compresses tars at gzip's and bzip2's level 9. For gzip the last percent costs half the time.
fn backup_level(codec: Compression) -> Option<i32> {
    match codec {
        Compression::Gzip => Some(6),
        Compression::Bzip2 => Some(9),
        _ => None,
    }
}

/// What `backup-delete` asks for.
pub(super) fn delete(words: &call::Delete, now: DateTime<Utc>) -> DeleteRequest {
    DeleteRequest {
        unwanted: match &words.what {
            Which::Id(word) => Unwanted::Backup(word.clone()),
            Which::Policy(text) => Unwanted::Policy(text.clone()),
        },
        minimum_redundancy: words.minimum_redundancy,
        dry_run: words.dry_run,
        batch_size: words.batch_size.map(|size| usize::try_from(size).unwrap_or(1)),
        check_object_lock: words.check_object_lock,
        now: Zone::Host.at(now),
    }
}

/// What `backup-keep` asks for.
pub(super) fn keep(words: &call::Keep, url: &str) -> KeepRequest {
    KeepRequest {
        backup: words.backup.clone(),
        action: match words.what {
            KeepAction::Status => keep::KeepAction::Status,
            KeepAction::Release => keep::KeepAction::Release,
            KeepAction::Target(keep) => keep::KeepAction::Set(keep),
        },
        url_ends_in_slash: url.ends_with('/'),
    }
}

/// Workers of a restore: Barman has one and no option for more.
const RESTORE_JOBS: usize = 4;

/// What `restore` asks for. Errors: a target that cannot be read.
pub(super) fn restore(words: &call::Restore, quirks: Quirks) -> Result<LayDownRequest, Refusal> {
    let timeline = words.target_tli.map(|timeline| match timeline {
        TargetTimeline::Current => "current".to_owned(),
        TargetTimeline::Latest => "latest".to_owned(),
        TargetTimeline::Id(number) => number.to_string(),
    });
    let target = TargetWords {
        time: words.target_time.as_deref(),
        lsn: words.target_lsn.as_deref(),
        timeline: timeline.as_deref(),
    };
    let name = |(name, place): &(std::ffi::OsString, PathBuf)| Some((name.to_str()?.to_owned(), place.clone()));
    Ok(LayDownRequest {
        wanted: Wanted::read(&words.backup, target, |written| Zone::Host.offset_at(written))?,
        directory: words.directory.clone(),
        // A name that is not UTF-8 is none of the backup's, and those are passed over.
        tablespaces: words.tablespaces.iter().filter_map(name).collect(),
        jobs: RESTORE_JOBS,
        any_status: quirks.any_status,
    })
}
