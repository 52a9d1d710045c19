//! Whether a store honours create-only puts, found out once and remembered.

use std::path::{Path, PathBuf};

use object_store::PutMode;

use super::{Metadata, Put, Store, StoreOptions, remembered};
use crate::error::Result;

/// What an object holds that is made to try a store with.
pub const PROBE: &[u8] = b"barback\n";

/// The two answers, as they are remembered.
const HONOURED: &str = "honoured";
const IGNORED: &str = "ignored";

/// What is known about a store and `If-None-Match: *`.
///
/// AWS honours it; some S3 servers ignore it and overwrite (Garage 2.5 does). A server other than AWS is asked once
/// a day with an object made for that, which costs one or two requests; the answer is kept in the cache directory.
/// Without a cache directory it is asked on every call. Only a server that proved to honour the condition is trusted
/// with it alone; at any other, an object is looked for before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOnly {
    /// The condition alone is enough.
    Honoured,
    /// Ask the server; remember its answer in this file, if any.
    Unknown(Option<PathBuf>),
}

impl CreateOnly {
    pub(super) fn of_s3(bucket: &str, options: &StoreOptions) -> Self {
        let endpoint = super::s3::endpoint(options);
        if endpoint.as_deref().is_none_or(is_aws) {
            return Self::Honoured;
        }
        let identity = format!("{}\n{bucket}", endpoint.unwrap_or_default());
        Self::Unknown(remembered::place_of_day("create-only", &identity, options))
    }

    /// True when a create-only put of `store` never replaces an object.
    pub(super) async fn is_honoured(&self, store: &Store, probe_key: &str) -> Result<bool> {
        let Self::Unknown(remembered) = self else { return Ok(true) };
        if let Some(answer) = remembered.as_deref().and_then(recall) {
            return Ok(answer);
        }
        let answer = ask(store, probe_key).await?;
        if let Some(path) = remembered {
            remembered::remember(path, if answer { HONOURED } else { IGNORED });
        }
        Ok(answer)
    }
}

fn is_aws(endpoint: &str) -> bool {
    let host = url::Url::parse(endpoint).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
}

/// Creates the probe object twice: a server that lets the second one through ignores the condition. The object stays,
/// so that later probes cost one request and no right to delete is needed.
pub(super) async fn ask(store: &Store, probe_key: &str) -> Result<bool> {
    let metadata = Metadata::new();
    let create = || store.put_in_mode(probe_key, PROBE.to_vec(), &metadata, PutMode::Create);
    Ok(create().await? == Put::AlreadyThere || create().await? == Put::AlreadyThere)
}

fn recall(path: &Path) -> Option<bool> {
    match remembered::recall_of_day(path)?.as_str() {
        HONOURED => Some(true),
        IGNORED => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_aws_are_trusted_unasked() {
        assert!(is_aws("https://s3.eu-central-1.amazonaws.com"));
        assert!(is_aws("https://bucket.s3.amazonaws.com.cn"));
        assert!(!is_aws("https://amazonaws.com.evil.example"));
        assert!(!is_aws("http://127.0.0.1:9000"));
        assert!(!is_aws("not a url"));
    }
}
