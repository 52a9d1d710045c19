//! Whether a store honours create-only puts, found out once and remembered.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::PutMode;

use super::{Metadata, Put, Store, StoreOptions};
use crate::disk;
use crate::error::Result;

/// How long a server's answer is believed: servers are upgraded and replaced.
const BELIEVED_FOR: Duration = Duration::from_hours(24);

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
        let digest = ring::digest::digest(&ring::digest::SHA256, identity.as_bytes());
        let name = digest.as_ref().iter().take(8).fold(0_u64, |name, byte| name << 8 | u64::from(*byte));
        Self::Unknown(options.cache_dir.as_ref().map(|dir| dir.join(format!("create-only-{name:016x}"))))
    }

    /// True when a create-only put of `store` never replaces an object.
    pub(super) async fn is_honoured(&self, store: &Store, probe_key: &str) -> Result<bool> {
        let Self::Unknown(remembered) = self else { return Ok(true) };
        if let Some(answer) = remembered.as_deref().and_then(recall) {
            return Ok(answer);
        }
        let answer = ask(store, probe_key).await?;
        if let Some(path) = remembered {
            remember(path, answer);
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
async fn ask(store: &Store, probe_key: &str) -> Result<bool> {
    let metadata = Metadata::new();
    let create = || store.put_in_mode(probe_key, b"barback\n".to_vec(), &metadata, PutMode::Create);
    Ok(create().await? == Put::AlreadyThere || create().await? == Put::AlreadyThere)
}

/// A remembered answer, if it is fresh, plain and our own: the cache lies in a directory others may write to.
fn recall(path: &Path) -> Option<bool> {
    let facts = std::fs::symlink_metadata(path).ok()?;
    let directory = std::fs::symlink_metadata(path.parent()?).ok()?;
    let ours =
        |facts: &std::fs::Metadata| facts.uid() == rustix::process::geteuid().as_raw() && facts.mode() & 0o022 == 0;
    let fresh = facts.modified().ok()?.elapsed().ok()? < BELIEVED_FOR;
    if !(facts.is_file() && directory.is_dir() && ours(&facts) && ours(&directory) && fresh) {
        return None;
    }
    match disk::read_at_most(path, 16).ok()?.as_slice() {
        b"honoured\n" => Some(true),
        b"ignored\n" => Some(false),
        _ => None,
    }
}

/// Losing the answer costs a request on the next call, so a cache that cannot be written is no error.
fn remember(path: &Path, honoured: bool) {
    let Some(directory) = path.parent() else { return };
    let content: &[u8] = if honoured { b"honoured\n" } else { b"ignored\n" };
    let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let outcome = created
        .map_err(|cause| crate::error::Error::local("create directory", directory, cause))
        .and_then(|()| disk::publish(path, content));
    if let Err(error) = outcome {
        tracing::debug!("the server's answer is not remembered: {error}");
    }
}

/// Where facts are remembered when nothing else is said: private to the user, survives a reboot, may vanish.
#[must_use]
pub fn default_cache_dir() -> PathBuf {
    PathBuf::from(format!("/var/tmp/barback-{}", rustix::process::geteuid().as_raw()))
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

    #[test]
    fn an_answer_is_remembered_and_a_stranger_s_file_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache/create-only-x");
        assert_eq!(recall(&path), None);
        remember(&path, true);
        assert_eq!(recall(&path), Some(true));
        remember(&path, false);
        assert_eq!(recall(&path), Some(false));
        std::fs::write(&path, "perhaps\n").unwrap();
        assert_eq!(recall(&path), None);
        remember(&path, true);
        let loose = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, loose).unwrap();
        assert_eq!(recall(&path), None);
    }
}
