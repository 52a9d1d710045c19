//! How a store is reached: the options, and what follows from them for every HTTP client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

use super::credential_file::refuse_open;
use super::{AddressingStyle, Place, ReadableByOthers};
use crate::disk;
use crate::error::{Error, Result};
use crate::secret::Environment;

/// How to reach a store. Secrets are in `environment` alone, which does not print them, and in the files it names.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Which store.
    pub place: Place,
    /// An S3 server that is not AWS: `https://host:port`.
    pub endpoint_url: Option<String>,
    /// The S3 region.
    pub region: Option<String>,
    /// Whether the bucket is part of the host name.
    pub addressing_style: AddressingStyle,
    /// The profile of the AWS configuration files to use.
    pub aws_profile: Option<String>,
    /// Which Azure credentials to take, whatever else the environment offers.
    pub azure_credential: Option<AzureCredential>,
    /// A PEM file of certificate authorities to trust beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Put on every object written: tags on S3 and Azure, user metadata on Google Cloud Storage, nothing in a directory.
    pub tags: Vec<(String, String)>,
    /// How the store is asked to encrypt what is written.
    pub encryption: Option<Encryption>,
    /// What is done with files of credentials that others may read.
    pub readable_credentials: ReadableByOthers,
    /// How long one request may be tried again, in seconds.
    pub retry_timeout_s: u64,
    /// How long a server may be silent before an attempt is given up, beside the time that moving the bodies takes.
    pub read_timeout_s: Option<u64>,
    /// The largest body one request sends: the time its answer may take grows with it.
    pub largest_upload_bytes: u64,
    /// The largest body one answer brings: the time it may take grows with it.
    pub largest_download_bytes: u64,
    /// Whether a `file://` directory that is missing may be created (its last component only).
    pub may_create_directory: bool,
    /// Where facts about servers are remembered; a cache that may vanish. Without one, each call asks anew.
    pub cache_dir: Option<PathBuf>,
    /// The process's environment: `AWS_*`, `AZURE_*`, `GOOGLE_*`, `HOME` …
    pub environment: Environment,
}

/// How a store is asked to encrypt what it is given. One that belongs to another kind of store is a usage error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// S3: with the store's own keys (`AES256`) or with KMS (`aws:kms`), there with this key or the account's default.
    S3 {
        /// `aws:kms` instead of `AES256`.
        kms: bool,
        /// The KMS key; only with `kms`.
        kms_key_id: Option<String>,
    },
    /// Azure: the name of an encryption scope of the account.
    AzureScope(String),
    /// Google Cloud Storage: the resource name of a KMS key.
    GcsKey(String),
}

/// Azure credentials that were asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AzureCredential {
    /// The account that `az login` left.
    AzureCli,
    /// The identity of the machine or pod.
    ManagedIdentity,
    /// The first of: service principal in the environment, workload identity, managed identity, `az`.
    Default,
}

/// The slowest link a request is sized for: below 128 KiB/s a request is given up and tried again.
const SLOWEST_BYTES_PER_S: u64 = 128 << 10;

/// What a request may take beside moving its body.
const REQUEST_OVERHEAD_S: u64 = 30;

/// A dead host is noticed this fast; a slow one is given the request's own time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate bundle larger than this is not one.
const CA_BUNDLE_LIMIT_BYTES: u64 = 16 << 20;

/// The pause before a request whose answer was lost is repeated; it doubles up to the longest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No pause between two tries is longer: the store may be back any moment.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl StoreOptions {
    /// What tells this store from every other: its place and its server. To name local files after; not for people.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{:?} {}", self.place, super::s3::endpoint(self).unwrap_or_default())
    }

    /// A variable of the environment; an empty one says nothing.
    pub(super) fn variable(&self, name: &str) -> Option<&String> {
        self.environment.get(name)
    }

    /// Refuses the file that the variable `name` names, where others may write it, or read it.
    pub(super) fn refuse_open_file(&self, name: &str) -> Result<()> {
        self.variable(name).map_or(Ok(()), |path| refuse_open(Path::new(path), self.readable_credentials))
    }

    fn timeout_for(&self, bytes: u64) -> Duration {
        let overhead_s = self.read_timeout_s.unwrap_or(REQUEST_OVERHEAD_S).max(1);
        Duration::from_secs(overhead_s + bytes / SLOWEST_BYTES_PER_S)
    }

    /// How long one attempt of one request may take in all.
    fn request_timeout(&self) -> Duration {
        self.timeout_for(self.largest_upload_bytes.max(self.largest_download_bytes))
    }

    /// How long nothing at all may come back: a server answers only after it has taken what it was sent.
    fn silence_timeout(&self) -> Duration {
        self.timeout_for(self.largest_upload_bytes)
    }

    /// What every client of this store has in common. `trusts` is false where no request is ever made over TLS:
    /// reading the system's certificates costs 3 ms of every start.
    pub(super) fn client(&self, bundle_variable: &str, trusts: bool) -> Result<ClientOptions> {
        let mut client = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(self.request_timeout())
            .with_read_timeout(self.silence_timeout())
            .with_no_system_certificates(!trusts);
        let bundle = self.ca_bundle.clone().or_else(|| self.variable(bundle_variable).map(PathBuf::from));
        if let Some(path) = bundle.filter(|path| !path.as_os_str().is_empty() && trusts) {
            for certificate in authorities(&path)? {
                client = client.with_root_certificate(certificate);
            }
        }
        Ok(client)
    }

    pub(super) fn retry_timeout(&self) -> Duration {
        Duration::from_secs(self.retry_timeout_s)
    }

    pub(super) fn retry(&self) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, ..BackoffConfig::default() };
        // The time budget ends the retries, not their number.
        RetryConfig { backoff, max_retries: 1000, retry_timeout: self.retry_timeout() }
    }
}

fn authorities(path: &Path) -> Result<Vec<Certificate>> {
    let pem = disk::read_at_most(path, CA_BUNDLE_LIMIT_BYTES)?;
    let refuse = |cause: String| Error::usage(format!("could not use CA bundle \"{}\": {cause}", path.display()));
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| refuse(error.to_string()))?;
    if certificates.is_empty() {
        return Err(refuse("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}
