//! Facts about servers that are worth a request once a day: small files in a directory that may vanish.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::StoreOptions;
use crate::disk;

/// How long an answer is believed: servers are upgraded and replaced.
const BELIEVED_FOR: Duration = Duration::from_hours(24);

/// No fact is longer.
const FACT_LIMIT_BYTES: u64 = 64;

/// Where the fact `kind` about `subject` is remembered; none without a cache directory.
pub(super) fn place(kind: &str, subject: &str, options: &StoreOptions) -> Option<PathBuf> {
    let digest = ring::digest::digest(&ring::digest::SHA256, subject.as_bytes());
    let name = digest.as_ref().iter().take(8).fold(0_u64, |name, byte| name << 8 | u64::from(*byte));
    options.cache_dir.as_ref().map(|dir| dir.join(format!("{kind}-{name:016x}")))
}

/// A remembered fact, if it is fresh, plain and our own: the cache lies in a directory others may write to.
pub(super) fn recall(path: &Path) -> Option<String> {
    let facts = std::fs::symlink_metadata(path).ok()?;
    let directory = std::fs::symlink_metadata(path.parent()?).ok()?;
    let ours =
        |facts: &std::fs::Metadata| facts.uid() == rustix::process::geteuid().as_raw() && facts.mode() & 0o022 == 0;
    let fresh = facts.modified().ok()?.elapsed().ok()? < BELIEVED_FOR;
    if !(facts.is_file() && directory.is_dir() && ours(&facts) && ours(&directory) && fresh) {
        return None;
    }
    let content = String::from_utf8(disk::read_at_most(path, FACT_LIMIT_BYTES).ok()?).ok()?;
    content.strip_suffix('\n').map(str::to_owned)
}

/// Losing the answer costs a request on the next call, so a cache that cannot be written is no error.
pub(super) fn remember(path: &Path, fact: &str) {
    let Some(directory) = path.parent() else { return };
    let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let outcome = created
        .map_err(|cause| crate::error::Error::local("create directory", directory, cause))
        .and_then(|()| disk::publish(path, format!("{fact}\n").as_bytes()));
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
    fn an_answer_is_remembered_and_a_stranger_s_file_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache/create-only-x");
        assert_eq!(recall(&path), None);
        remember(&path, "one");
        assert_eq!(recall(&path).as_deref(), Some("one"));
        remember(&path, "two");
        assert_eq!(recall(&path).as_deref(), Some("two"));
        for broken in ["cut off", "\u{e9}", &"long".repeat(20)] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(recall(&path), None, "{broken}");
        }
        remember(&path, "one");
        let loose = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, loose).unwrap();
        assert_eq!(recall(&path), None);
    }
}
