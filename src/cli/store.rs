//! From the settings of either face to an open archive.

use std::collections::BTreeMap;
use std::path::Path;

use super::invocation::{self, StoreSettings};
use crate::commands::archive::Archive;
use crate::commands::receipts::Receipts;
use crate::error::Result;
use crate::layout::keys::ServerPrefix;
use crate::store::{AddressingStyle, Place, Store, StoreOptions, default_cache_dir};

/// What a command will ask of the store: the largest bodies one request moves, and whether it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traffic {
    pub upload: u64,
    pub download: u64,
    pub writes: bool,
}

impl Traffic {
    /// Listings and small objects are read, nothing is written.
    pub const SMALL_READS: Self = Self { upload: 0, download: 0, writes: false };
    /// Small objects are written too.
    pub const SMALL_WRITES: Self = Self { upload: 0, download: 0, writes: true };
}

/// Opens the archive of a server. Sends nothing but what a credential chain needs.
///
/// Errors: `Usage` for a URL, a server name or options that cannot be used; `Unreachable` for a directory that is not
/// there.
pub(super) async fn open(
    settings: &StoreSettings,
    environment: &BTreeMap<String, String>,
    traffic: Traffic,
) -> Result<Archive> {
    let place: Place = settings.url.parse()?;
    // The native face has refused names of several directories already.
    let prefix = ServerPrefix::nested(place.prefix(), &settings.server)?;
    // A chain of credentials has many states, and every command would carry them with it.
    let store = Box::pin(Store::open(&options(settings, place, environment, traffic))).await?;
    Ok(Archive { store, prefix })
}

/// Where receipts of WAL that the store has confirmed are kept, for the `pg_wal` that `segment` lies in.
///
/// Errors: `Usage` for a URL or a server name that cannot be used.
pub(super) fn receipts(
    settings: &StoreSettings,
    environment: &BTreeMap<String, String>,
    segment: &Path,
) -> Result<Option<Receipts>> {
    let root = server_prefix(settings)?.root();
    let cache_dir = settings.cache_dir.clone().unwrap_or_else(default_cache_dir);
    Ok(Receipts::of(&cache_dir, &identity(settings, environment)?, &root, segment))
}

/// Where a server's objects lie in it.
pub(super) fn server_prefix(settings: &StoreSettings) -> Result<ServerPrefix> {
    let place: Place = settings.url.parse()?;
    ServerPrefix::nested(place.prefix(), &settings.server)
}

/// What tells the store from every other, to name local files after.
pub(super) fn identity(settings: &StoreSettings, environment: &BTreeMap<String, String>) -> Result<String> {
    Ok(options(settings, settings.url.parse()?, environment, Traffic::SMALL_READS).identity())
}

fn options(
    settings: &StoreSettings,
    place: Place,
    environment: &BTreeMap<String, String>,
    traffic: Traffic,
) -> StoreOptions {
    StoreOptions {
        place,
        endpoint_url: settings.endpoint_url.clone(),
        region: settings.region.clone(),
        addressing_style: match settings.addressing_style {
            invocation::AddressingStyle::Auto => AddressingStyle::Auto,
            invocation::AddressingStyle::Path => AddressingStyle::Path,
            invocation::AddressingStyle::Virtual => AddressingStyle::Virtual,
        },
        aws_profile: settings.aws_profile.clone(),
        ca_bundle: settings.ca_bundle.clone(),
        retry_timeout_s: settings.retry_timeout_s,
        largest_upload_bytes: traffic.upload,
        largest_download_bytes: traffic.download,
        may_create_directory: traffic.writes,
        cache_dir: Some(settings.cache_dir.clone().unwrap_or_else(default_cache_dir)),
        environment: environment.clone().into_iter().collect(),
        readable_credentials: settings.readable_credentials,
        tags: settings.tags.clone(),
        encryption: settings.encryption.clone(),
        read_timeout_s: settings.read_timeout_s,
        azure_credential: settings.azure_credential,
    }
}
