//! Facts about stores that outlive a call: small files in a directory that may vanish.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::StoreOptions;
use crate::disk;

/// How long an answer is believed: servers are upgraded and replaced.
const BELIEVED_FOR: Duration = Duration::from_hours(24);

/// No fact is longer.
const FACT_LIMIT_BYTES: u64 = 64;

/// What is remembered about one store.
#[derive(Clone)]
pub(super) struct Memory {
    directory: Option<PathBuf>,
    store: String,
}

impl Memory {
    pub(super) fn of(options: &StoreOptions) -> Self {
        Self { directory: options.cache_dir.clone(), store: options.identity() }
    }

    pub(super) fn note(&self, kind: &str, subject: &str) -> Option<Note> {
        let about = format!("{}\n{subject}", self.store);
        self.directory.as_deref().map(|directory| Note { path: place(kind, &about, directory) })
    }
}

/// One fact that a host remembers about what lies in a store: reason enough to refuse something or to warn, never to
/// take something for granted. It has no age at which it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    path: PathBuf,
}

impl Note {
    /// The file it is kept in, for those who have to tell the host to forget it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fact, if it is remembered and the file is plain and our own.
    #[must_use]
    pub fn read(&self) -> Option<String> {
        recall(&self.path, Duration::MAX)
    }

    /// Remembers `fact`, of at most 63 bytes; a cache that cannot be written is no error.
    pub fn write(&self, fact: &str) {
        if self.read().as_deref() != Some(fact) {
            remember(&self.path, fact);
        }
    }
}

/// Where the fact `kind` about `subject` is remembered for a day; none without a cache directory.
pub(super) fn place_of_day(kind: &str, subject: &str, options: &StoreOptions) -> Option<PathBuf> {
    options.cache_dir.as_deref().map(|directory| place(kind, subject, directory))
}

fn place(kind: &str, subject: &str, directory: &Path) -> PathBuf {
    let digest = ring::digest::digest(&ring::digest::SHA256, subject.as_bytes());
    let name = digest.as_ref().iter().take(8).fold(0_u64, |name, byte| name << 8 | u64::from(*byte));
    directory.join(format!("{kind}-{name:016x}"))
}

/// A fact that was remembered within a day.
pub(super) fn recall_of_day(path: &Path) -> Option<String> {
    recall(path, BELIEVED_FOR)
}

/// A remembered fact, if it is young enough, plain and our own: the cache lies in a directory others may write to.
fn recall(path: &Path, at_most: Duration) -> Option<String> {
    let facts = std::fs::symlink_metadata(path).ok()?;
    let directory = std::fs::symlink_metadata(path.parent()?).ok()?;
    let ours =
        |facts: &std::fs::Metadata| facts.uid() == rustix::process::geteuid().as_raw() && facts.mode() & 0o022 == 0;
    let fresh = at_most == Duration::MAX || facts.modified().ok()?.elapsed().ok()? < at_most;
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
        assert_eq!(recall_of_day(&path), None);
        remember(&path, "one");
        assert_eq!(recall_of_day(&path).as_deref(), Some("one"));
        remember(&path, "two");
        assert_eq!(recall_of_day(&path).as_deref(), Some("two"));
        for broken in ["cut off", "\u{e9}", &"long".repeat(20)] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(recall_of_day(&path), None, "{broken}");
        }
        remember(&path, "one");
        let loose = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, loose).unwrap();
        assert_eq!(recall_of_day(&path), None);
    }

    #[test]
    fn a_note_is_read_however_old_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory { directory: Some(dir.path().join("cache")), store: "store".to_owned() };
        let note = memory.note("identity", "main/").unwrap();
        assert_eq!(note.read(), None);
        note.write("77");
        let old = std::time::SystemTime::now() - BELIEVED_FOR * 400;
        std::fs::File::options().write(true).open(note.path()).unwrap().set_modified(old).unwrap();
        assert_eq!(note.read().as_deref(), Some("77"));
        assert_eq!(recall_of_day(note.path()), None);
        assert_ne!(memory.note("identity", "other/"), Some(note.clone()));
        assert_ne!(Memory { store: "elsewhere".to_owned(), ..memory }.note("identity", "main/"), Some(note));
        assert_eq!(Memory { directory: None, store: String::new() }.note("identity", "main/"), None);
    }
}
