//! Opening an S3 bucket: endpoint, addressing, certificates, time-outs, and which credentials.

#[cfg(feature = "aws-profiles")]
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, resolve_bucket_region};

#[cfg(feature = "aws-profiles")]
use super::credential_file::{ReadableByOthers, refuse_open};
use super::service::{Service, Wire};
use super::throttle::ThrottledConnector;
use super::{Encryption, Opened, StoreOptions, failure, remembered};
use crate::error::{Error, Result};

/// Whether the bucket is part of the host name (`virtual`) or of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressingStyle {
    /// `virtual` at AWS, `path` anywhere else: few other servers have a host name for each bucket.
    #[default]
    Auto,
    /// `https://host/bucket/key`
    Path,
    /// `https://bucket.host/key`
    Virtual,
}

impl FromStr for AddressingStyle {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "path" => Ok(Self::Path),
            "virtual" => Ok(Self::Virtual),
            _ => Err(Error::usage(format!("\"{text}\" is not an addressing style: choose from auto, path, virtual"))),
        }
    }
}

impl std::fmt::Display for AddressingStyle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Path => "path",
            Self::Virtual => "virtual",
        })
    }
}

/// The region of servers that have none, which is what their signatures are made with.
const DEFAULT_REGION: &str = "us-east-1";

/// What the names of regions begin with whose hosts end in `.cn`.
const CHINA: &str = "cn-";

/// Environment variables that say "credentials are right here" or "ask this nearby service": the store library reads them
/// itself, so the AWS configuration files need not be looked at.
const DIRECT_CREDENTIALS: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Where profiles are, and whether there is a secret there for sure. Either may name a program that is run for one.
#[cfg(feature = "aws-profiles")]
const PROFILE_FILES: [(&str, &str, bool); 2] =
    [("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", true), ("AWS_CONFIG_FILE", ".aws/config", false)];

/// Builds a client for the bucket of `options.place`; sends nothing but what finding a region takes that nobody named.
pub(super) async fn open(options: &StoreOptions) -> Result<Opened> {
    let bucket = &options.place.container();
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
    for (name, value) in options.environment.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        // Names object_store does not know (AWS_PROFILE, AWS_CA_BUNDLE …) are read below or mean nothing to it.
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = endpoint(options);
    let virtual_hosted = match options.addressing_style {
        // The certificates of AWS are for one label before their own names.
        AddressingStyle::Auto => endpoint.is_none() && is_host_label(bucket),
        AddressingStyle::Path => false,
        AddressingStyle::Virtual => true,
    };
    if let Some(endpoint) = &endpoint {
        builder = builder.with_endpoint(endpoint_for(bucket, endpoint, virtual_hosted)?);
    }
    let client = client(options, endpoint.as_deref())?;
    builder = builder
        .with_virtual_hosted_style_request(virtual_hosted)
        .with_client_options(client.clone())
        .with_http_connector(ThrottledConnector::default())
        .with_retry(options.retry());
    // Barman's library adds a checksum when this variable says so, or nothing; older servers refuse it, so that we wait to be
    // asked. The signature needs the same digest.
    if options
        .variable("AWS_REQUEST_CHECKSUM_CALCULATION")
        .is_some_and(|when| when.eq_ignore_ascii_case("when_supported"))
    {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    builder = with_encryption(builder, options)?;
    let (mut builder, region) = with_credentials(builder, options).await?;
    let region = match region {
        Some(region) => region,
        None if endpoint.is_some() => DEFAULT_REGION.to_owned(),
        None => region_at_aws(bucket, options, &client).await,
    };
    if endpoint.is_none() && region.starts_with(CHINA) {
        let china = format!("https://s3.{region}.amazonaws.com.cn");
        builder = builder.with_endpoint(endpoint_for(bucket, &china, virtual_hosted)?);
    }
    builder = builder.with_region(&region);
    let objects = builder.build().map_err(|error| failure::describe("open bucket", bucket, error))?;
    let service = Service::S3 { bucket: Box::new(objects.clone()), region, wire: Wire::new(client) };
    let objects = Arc::new(objects);
    Ok(Opened { pages: Some(objects.clone()), objects, service })
}

/// The endpoint in force: the option, else `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`; none means AWS.
pub(super) fn endpoint(options: &StoreOptions) -> Option<String> {
    let variable = |name: &str| options.variable(name).cloned();
    let endpoint = options
        .endpoint_url
        .clone()
        .or_else(|| variable("AWS_ENDPOINT_URL_S3"))
        .or_else(|| variable("AWS_ENDPOINT_URL"))?;
    Some(endpoint.trim_end_matches('/').to_owned())
}

/// The store library wants the bucket inside the endpoint's host name when virtual hosting is asked of another server.
fn endpoint_for(bucket: &str, endpoint: &str, virtual_hosted: bool) -> Result<String> {
    let refuse = || {
        Error::usage(format!("could not use endpoint \"{endpoint}\": it is not an http:// or https:// URL of a host"))
    };
    let mut url = url::Url::parse(endpoint).map_err(|_| refuse())?;
    let host = url.host_str().map(str::to_owned).ok_or_else(refuse)?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err(refuse());
    }
    if virtual_hosted && !host.starts_with(&format!("{bucket}.")) {
        url.set_host(Some(&format!("{bucket}.{host}"))).map_err(|_| refuse())?;
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn client(options: &StoreOptions, endpoint: Option<&str>) -> Result<ClientOptions> {
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    // Credentials may come over TLS for a server that has none.
    let trusts = !plain || options.variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some();
    Ok(options.client("AWS_CA_BUNDLE", trusts)?.with_allow_http(plain))
}

fn with_encryption(builder: AmazonS3Builder, options: &StoreOptions) -> Result<AmazonS3Builder> {
    let set = |builder: AmazonS3Builder, name: &str, value: &str| {
        let key: AmazonS3ConfigKey = name
            .parse()
            .map_err(|error| failure::describe("set", name, error).as_kind(crate::error::ErrorKind::Bug))?;
        Ok(builder.with_config(key, value))
    };
    match &options.encryption {
        None => Ok(builder),
        Some(Encryption::S3 { kms: false, kms_key_id: Some(_) }) => {
            Err(Error::usage("could not use a KMS key: the encryption must be \"aws:kms\" for that"))
        }
        Some(Encryption::S3 { kms, kms_key_id }) => {
            let builder = set(builder, "aws_server_side_encryption", if *kms { "aws:kms" } else { "AES256" })?;
            match kms_key_id {
                Some(id) => set(builder, "aws_sse_kms_key_id", id),
                None => Ok(builder),
            }
        }
        Some(_) => Err(failure::foreign_encryption(&options.place)),
    }
}

/// And the region that was asked for, by option, variable or profile.
async fn with_credentials(
    builder: AmazonS3Builder,
    options: &StoreOptions,
) -> Result<(AmazonS3Builder, Option<String>)> {
    let variable = |name: &str| options.variable(name);
    let profile = options.aws_profile.as_ref().or_else(|| variable("AWS_PROFILE"));
    // With `AWS_PROFILE` beside keys the keys count, but the region is the profile's: the chain knows.
    let direct = profile.is_none() && DIRECT_CREDENTIALS.iter().any(|name| variable(name).is_some());
    let region =
        options.region.as_ref().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION")).cloned();
    if direct {
        options.refuse_open_file("AWS_WEB_IDENTITY_TOKEN_FILE")?;
        options.refuse_open_file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")?;
        return Ok((builder, region));
    }
    #[cfg(feature = "aws-profiles")]
    {
        for (name, place, is_secret) in PROFILE_FILES {
            let in_home = || Some(Path::new(variable("HOME")?).join(place));
            if let Some(path) = variable(name).map(PathBuf::from).or_else(in_home) {
                let readable = if is_secret { options.readable_credentials } else { ReadableByOthers::Allow };
                refuse_open(&path, readable)?;
            }
        }
        // `AWS_PROFILE` is known to the chain itself.
        let chain =
            super::credentials::Chain::load(options.aws_profile.clone(), region.clone(), profile.is_some()).await;
        let region = region.or_else(|| chain.region());
        Ok((builder.with_credentials(Arc::new(chain)), region))
    }
    #[cfg(not(feature = "aws-profiles"))]
    {
        if let Some(profile) = profile {
            let message = format!("could not use profile \"{profile}\": this barback is built without aws-profiles");
            return Err(Error::usage(message));
        }
        Ok((builder, region))
    }
}

/// The region of a bucket at AWS, which tells it to anybody; Barman's library finds it by the redirect it is sent. Where it is
/// not told, the first request fails with the better reason.
async fn region_at_aws(bucket: &str, options: &StoreOptions, client: &ClientOptions) -> String {
    let known = remembered::place_of_day("region", bucket, options);
    if let Some(region) = known.as_deref().and_then(remembered::recall_of_day).filter(|region| is_host_label(region)) {
        return region;
    }
    match resolve_bucket_region(bucket, client).await {
        Ok(region) if is_host_label(&region) => {
            if let Some(path) = known {
                remembered::remember(&path, &region);
            }
            region
        }
        Ok(_) => DEFAULT_REGION.to_owned(),
        Err(error) => {
            tracing::info!("{}", failure::describe("find the region of bucket", bucket, error));
            DEFAULT_REGION.to_owned()
        }
    }
}

/// True for what can stand before a dot in a host's name; a dot is not in it.
fn is_host_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_hosting_puts_the_bucket_into_the_host() {
        assert_eq!(endpoint_for("b", "http://h:9000", false).unwrap(), "http://h:9000");
        assert_eq!(endpoint_for("b", "http://h:9000/", true).unwrap(), "http://b.h:9000");
        assert_eq!(endpoint_for("b", "https://b.h", true).unwrap(), "https://b.h");
    }

    #[test]
    fn an_endpoint_that_is_no_url_or_carries_a_password_is_refused() {
        for text in ["localhost:9000", "ftp://h", "https://", "http://user:secret@h"] {
            assert!(endpoint_for("b", text, false).is_err(), "{text}");
        }
    }
}
