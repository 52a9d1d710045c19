//! Where a store is: the URL a user writes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A parsed `--store` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `s3://bucket[/prefix]`: `prefix` without slashes at its ends.
    S3 {
        /// The bucket.
        bucket: String,
        /// What every key begins with; may be empty.
        prefix: String,
    },
    /// `az://container[/prefix]`, `https://ACCOUNT.blob.core.windows.net/container[/prefix]`, or that of another cloud or an
    /// emulator: `http://host:port/ACCOUNT/container[/prefix]`.
    Azure {
        /// The storage account; none: the environment says.
        account: Option<String>,
        /// The container.
        container: String,
        /// What every key begins with; may be empty.
        prefix: String,
        /// The URL that the container's name follows; none: that of the account in the public cloud, or what the environment
        /// says.
        endpoint: Option<String>,
    },
    /// `gs://bucket[/prefix]`, or the address of the bucket's page in Google's console.
    Gcs {
        /// The bucket.
        bucket: String,
        /// What every key begins with; may be empty.
        prefix: String,
    },
    /// `file:///dir`: an absolute directory.
    Directory(PathBuf),
}

/// What follows an account's name in the host of its blobs, in the public cloud.
const AZURE_PUBLIC_CLOUD: &str = ".blob.core.windows.net";

/// What the part of an account's host behind its name begins with, in any cloud.
const AZURE_ANY_CLOUD: &str = ".blob.";

/// A bucket's page in Google's console.
const GCS_CONSOLE: &str = "https://console.cloud.google.com/storage/browser/";

impl Place {
    /// What every key in the store begins with, without slashes at its ends; empty for none.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::S3 { prefix, .. } | Self::Azure { prefix, .. } | Self::Gcs { prefix, .. } => prefix,
            Self::Directory(_) => "",
        }
    }

    /// The name of the bucket, container or directory: what must be there before anything can be put in it.
    #[must_use]
    pub fn container(&self) -> String {
        match self {
            Self::S3 { bucket, .. } | Self::Gcs { bucket, .. } => bucket.clone(),
            Self::Azure { container, .. } => container.clone(),
            Self::Directory(path) => path.display().to_string(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, .. } => write!(f, "s3://{bucket}")?,
            Self::Gcs { bucket, .. } => write!(f, "gs://{bucket}")?,
            Self::Azure { endpoint: Some(endpoint), container, .. } => write!(f, "{endpoint}/{container}")?,
            Self::Azure { account: Some(account), container, .. } => {
                write!(f, "https://{account}{AZURE_PUBLIC_CLOUD}/{container}")?;
            }
            Self::Azure { container, .. } => write!(f, "az://{container}")?,
            Self::Directory(path) => write!(f, "file://{}", path.display())?,
        }
        match self.prefix() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::usage(format!("could not use store \"{text}\": {why}")).with_hint(
                "Write s3://bucket/prefix, https://account.blob.core.windows.net/container/prefix, gs://bucket/prefix or \
                 file:///directory.",
            )
        };
        if let Some(path) = text.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(refuse("a file URL needs an absolute path, with three slashes"));
            }
            return Ok(Self::Directory(PathBuf::from(path)));
        }
        let (scheme, rest) = match text.strip_prefix(GCS_CONSOLE) {
            Some(rest) => ("gs", rest),
            None => text.split_once("://").unwrap_or(("", "")),
        };
        if rest.contains(['?', '#']) || rest.split('/').next().is_some_and(|host| host.contains('@')) {
            return Err(refuse("a bucket URL takes no user, query or fragment"));
        }
        let place = match scheme {
            "s3" => in_bucket(rest).map(|(bucket, prefix)| Self::S3 { bucket, prefix }),
            "gs" => in_bucket(rest).map(|(bucket, prefix)| Self::Gcs { bucket, prefix }),
            "az" => in_bucket(rest).map(|(container, prefix)| Self::Azure {
                account: None,
                container,
                prefix,
                endpoint: None,
            }),
            "http" | "https" => azure(scheme, rest),
            _ => Err("its scheme is not one this version can use"),
        };
        place.map_err(refuse)
    }
}

/// `bucket[/prefix]`
fn in_bucket(rest: &str) -> Result<(String, String), &'static str> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("it names no bucket");
    }
    let prefix = prefix.trim_matches('/');
    if prefix.split('/').any(|part| part == "." || part == "..") || prefix.contains("//") {
        return Err("its prefix has an empty, \".\" or \"..\" part");
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

/// `account.blob.…/container[/prefix]`, or any other host with the account in the path, as emulators have it.
fn azure(scheme: &str, rest: &str) -> Result<Place, &'static str> {
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() {
        return Err("it names no host");
    }
    let (account, endpoint, path) = if let Some((account, _)) = host.split_once(AZURE_ANY_CLOUD) {
        let public = scheme == "https" && host.strip_prefix(account) == Some(AZURE_PUBLIC_CLOUD);
        (account, (!public).then(|| format!("{scheme}://{host}")), path)
    } else {
        let (account, path) = path.split_once('/').unwrap_or((path, ""));
        (account, Some(format!("{scheme}://{host}/{account}")), path)
    };
    if account.is_empty() {
        return Err("it names no storage account");
    }
    let (container, prefix) = in_bucket(path).map_err(|why| match why {
        "it names no bucket" => "it names no container",
        why => why,
    })?;
    Ok(Place::Azure { account: Some(account.to_owned()), container, prefix, endpoint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn azure(account: Option<&str>, prefix: &str, endpoint: Option<&str>) -> Place {
        Place::Azure {
            account: account.map(str::to_owned),
            container: "box".to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.map(str::to_owned),
        }
    }

    #[test]
    fn urls_are_read_and_written_back() {
        for text in [
            "s3://bucket",
            "s3://bucket/some/prefix",
            "gs://bucket",
            "gs://bucket/some/prefix",
            "az://box",
            "az://box/some/prefix",
            "https://acc.blob.core.windows.net/box/some/prefix",
            "https://acc.blob.core.chinacloudapi.cn/box",
            "http://127.0.0.1:10000/devstoreaccount1/box/p",
            "file:///srv/archive",
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("s3://b/p/".parse::<Place>().unwrap().prefix(), "p");
        assert_eq!("gs://b/p/".parse::<Place>().unwrap().container(), "b");
    }

    #[test]
    fn an_azure_account_is_in_the_host_or_in_the_path_or_left_to_the_environment() {
        for (text, expected) in [
            ("az://box/p", azure(None, "p", None)),
            ("https://acc.blob.core.windows.net/box/p/", azure(Some("acc"), "p", None)),
            (
                "https://acc.blob.core.usgovcloudapi.net/box",
                azure(Some("acc"), "", Some("https://acc.blob.core.usgovcloudapi.net")),
            ),
            ("http://acc.blob.core.windows.net/box", azure(Some("acc"), "", Some("http://acc.blob.core.windows.net"))),
            ("http://azurite:10000/dev/box/a/b", azure(Some("dev"), "a/b", Some("http://azurite:10000/dev"))),
        ] {
            assert_eq!(text.parse::<Place>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_bucket_of_the_google_console_is_the_bucket() {
        let place: Place = "https://console.cloud.google.com/storage/browser/bucket/some/prefix/".parse().unwrap();
        assert_eq!(place.to_string(), "gs://bucket/some/prefix");
    }

    #[test]
    fn what_is_no_store_is_refused() {
        for text in [
            "",
            "/srv",
            "file://srv",
            "s3://",
            "s3:///p",
            "ftp://x/y",
            "s3://k:s@b/p",
            "s3://b/../x",
            "s3://b/a//c",
            "gs://",
            "gs://b/a//c",
            "az://",
            "http://x/y",
            "https://",
            "https://acc.blob.core.windows.net",
            "https://acc.blob.core.windows.net/",
            "https://acc.blob.core.windows.net/box?sv=1",
            "https://.blob.core.windows.net/box",
            "https://u:p@acc.blob.core.windows.net/box",
            "https://acc.blob.core.windows.net/box/../x",
            "https://console.cloud.google.com/storage/browser/",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
