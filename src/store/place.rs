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
    /// `file:///dir`: an absolute directory.
    Directory(PathBuf),
}

impl Place {
    /// What every key in the store begins with, without slashes at its ends; empty for none.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::S3 { prefix, .. } => prefix,
            Self::Directory(_) => "",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Directory(path) => write!(f, "file://{}", path.display()),
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::usage(format!("could not use store \"{text}\": {why}"))
                .with_hint("Write s3://bucket/prefix or file:///directory.")
        };
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(refuse("it names no bucket"));
            }
            if bucket.contains(['@', '?', '#']) || prefix.contains(['?', '#']) {
                return Err(refuse("a bucket URL takes no user, query or fragment"));
            }
            let prefix = prefix.trim_matches('/');
            if prefix.split('/').any(|part| part == "." || part == "..") || prefix.contains("//") {
                return Err(refuse("its prefix has an empty, \".\" or \"..\" part"));
            }
            return Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        if let Some(path) = text.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(refuse("a file URL needs an absolute path, with three slashes"));
            }
            return Ok(Self::Directory(PathBuf::from(path)));
        }
        Err(refuse("its scheme is not one this version can use"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written_back() {
        for text in ["s3://bucket", "s3://bucket/some/prefix", "file:///srv/archive"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("s3://b/p/".parse::<Place>().unwrap().prefix(), "p");
    }

    #[test]
    fn what_is_no_store_is_refused() {
        for text in
            ["", "/srv", "file://srv", "s3://", "s3:///p", "http://x/y", "s3://k:s@b/p", "s3://b/../x", "s3://b/a//c"]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
