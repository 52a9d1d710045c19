//! Opening a Google Cloud Storage bucket: where the service is, and which credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderValue;
use object_store::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};

use super::credential_file::refuse_open;
use super::edge::{Edge, Rule};
use super::service::{Service, Wire};
use super::throttle::ThrottledConnector;
use super::{Encryption, Opened, StoreOptions, failure};
use crate::disk;
use crate::error::{Error, Result};

/// A credentials file larger than this is not one.
const CREDENTIALS_LIMIT_BYTES: u64 = 1 << 20;

/// The kinds of credentials files that the store library can use.
const KNOWN_CREDENTIALS: [&str; 2] = ["service_account", "authorized_user"];

/// A file of credentials, and the project it names.
struct Credentials {
    path: PathBuf,
    project: Option<String>,
}

/// Builds a client for the bucket of `options.place`; sends nothing.
pub(super) fn open(options: &StoreOptions) -> Result<Opened> {
    let bucket = options.place.container();
    let emulator = options.variable("STORAGE_EMULATOR_HOST").map(|host| with_scheme(host));
    let base = emulator.clone().unwrap_or_else(|| {
        let universe = options.variable("GOOGLE_CLOUD_UNIVERSE_DOMAIN").map_or("googleapis.com", String::as_str);
        format!("https://storage.{universe}")
    });
    let plain = base.starts_with("http://");
    // The metadata service speaks plain HTTP; the library allows it for that one alone.
    let client = options.client("REQUESTS_CA_BUNDLE", !plain || emulator.is_none())?.with_allow_http(plain);
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&bucket)
        .with_base_url(&base)
        .with_client_options(client.clone())
        .with_http_connector(ThrottledConnector::default())
        .with_retry(options.retry());
    let mut project =
        ["GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"].iter().find_map(|name| options.variable(name)).cloned();
    if emulator.is_some() {
        // As in Google's libraries: an emulator knows nobody.
        let anonymous = GcpCredential { bearer: "anonymous".to_owned() };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(anonymous)));
    } else if let Some(credentials) = credentials(options)? {
        project = project.or(credentials.project);
        builder = builder.with_application_credentials(credentials.path.display().to_string());
    }
    if let Some(rule) = encryption(options)? {
        builder = builder.with_http_connector(Edge { base: base.clone(), rule });
    }
    let objects = builder.build().map_err(|error| failure::describe("open bucket", &bucket, error))?;
    let service = Service::Gcs {
        credentials: Arc::clone(objects.credentials()),
        url: format!("{base}/{bucket}"),
        project,
        wire: Wire::new(client),
    };
    let objects = Arc::new(objects);
    Ok(Opened { pages: Some(objects.clone()), objects, service })
}

/// The file that `GOOGLE_APPLICATION_CREDENTIALS` names, else the one that `gcloud auth application-default login` left; none:
/// the metadata service knows who we are. An empty file says the same: `CloudNativePG` writes one for pods with
/// an identity.
fn credentials(options: &StoreOptions) -> Result<Option<Credentials>> {
    let path = match options.variable("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) => PathBuf::from(path),
        None => match well_known(options) {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    refuse_open(&path, options.readable_credentials)?;
    let content = disk::read_at_most(&path, CREDENTIALS_LIMIT_BYTES)?;
    if content.trim_ascii().is_empty() {
        return Ok(None);
    }
    let refuse = |why: &str| Error::usage(format!("could not use credentials file \"{}\": {why}", path.display()));
    let read: serde_json::Value = serde_json::from_slice(&content).map_err(|_| refuse("it is not JSON"))?;
    let text = |name: &str| read.get(name).and_then(serde_json::Value::as_str);
    match text("type") {
        Some(kind) if KNOWN_CREDENTIALS.contains(&kind) => {
            let project = text("project_id").or_else(|| text("quota_project_id")).map(str::to_owned);
            Ok(Some(Credentials { path, project }))
        }
        Some(kind) => {
            let known = KNOWN_CREDENTIALS.join(" or ");
            Err(refuse(&format!("its type is \"{}\", and only {known} can be used", kind.escape_debug())))
        }
        None => Err(refuse("it does not say its type")),
    }
}

fn well_known(options: &StoreOptions) -> Option<PathBuf> {
    let directory = match options.variable("CLOUDSDK_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(options.variable("HOME")?).join(".config/gcloud"),
    };
    Some(directory.join("application_default_credentials.json")).filter(|path| path.is_file())
}

fn with_scheme(host: &str) -> String {
    let host = host.trim_end_matches('/');
    if host.contains("://") { host.to_owned() } else { format!("http://{host}") }
}

fn encryption(options: &StoreOptions) -> Result<Option<Rule>> {
    match &options.encryption {
        None => Ok(None),
        Some(Encryption::GcsKey(name)) => {
            let refuse = |_| Error::usage(format!("\"{}\" is not the name of a KMS key", name.escape_debug()));
            Ok(Some(Rule::GcsKey(HeaderValue::from_str(name).map_err(refuse)?)))
        }
        Some(_) => Err(failure::foreign_encryption(&options.place)),
    }
}
