//! What this host can really do in the store, found out by doing it with objects made for that.

use crate::commands::archive::Archive;
use crate::domain::store_health::{Attempt, Lifecycle, LifecycleRule, Right, StoreFacts, StoreKind};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{BucketRule, PROBE, Place, Probe, Store};

/// What a probe's content may come to, with room for somebody else's object of that name.
const PROBE_LIMIT_BYTES: u64 = 64 << 10;

/// So much of a host's name is part of a key.
const HOST_NAME_CHARS: usize = 63;

/// Tries every kind of request below `P/S/barback/`, with objects named after this host, so that two hosts do not meet and none
/// is left behind twice. Some 15 small requests. Removes what it made; where it may not, it says what is left.
///
/// Errors: `Unreachable` for a store that does not answer, a bucket or directory that is not there, and a directory with nothing
/// in it, into which nothing is written either: that is how a mount point looks whose archive is not mounted.
pub(crate) async fn try_store(archive: &Archive) -> Result<StoreFacts> {
    let store = &archive.store;
    match store.probe(&archive.prefix.root()).await {
        Ok(Probe::Present) => {}
        Ok(Probe::Absent) => return Err(absent(store)),
        Ok(Probe::NoConnection(cause)) => return Err(Error::new(ErrorKind::Unreachable, cause)),
        // To be refused is to be answered: what is allowed is tried one by one.
        Err(error) if error.kind() == ErrorKind::Denied => {}
        Err(error) => return Err(error),
    }
    if matches!(store.place(), Place::Directory(_)) {
        store.list_names("", "").await?;
    }
    let key = format!("{}check-probe-{}", archive.prefix.ours(), host_name());
    let mut tries = Tries { archive, key, rights: Vec::new(), is_create_only_honoured: None, leftover: None };
    let (greeting, rules, locks, ()) =
        futures::join!(store.greeting(), store.bucket_rules(), store.can_lock(), tries.run());
    let greeting = greeting?;
    Ok(StoreFacts {
        kind: match store.place() {
            Place::S3 { .. } => StoreKind::S3,
            Place::Azure { .. } => StoreKind::Azure,
            Place::Gcs { .. } => StoreKind::Gcs,
            Place::Directory(_) => StoreKind::Directory,
        },
        place: store.place().to_string(),
        root: archive.prefix.root(),
        rights: tries.rights,
        is_create_only_honoured: tries.is_create_only_honoured,
        clock_ahead: greeting.clock_ahead,
        server: greeting.server,
        lacks_batches: store.lacks_batches(),
        can_lock: locks.ok().flatten(),
        lifecycle: match rules {
            Ok(None) => Lifecycle::None,
            Ok(Some(rules)) => Lifecycle::Known(rules.into_iter().map(lifecycle_rule).collect()),
            Err(error) => Lifecycle::Unknown(error.to_string()),
        },
        leftover: tries.leftover,
    })
}

fn absent(store: &Store) -> Error {
    let message = format!("could not use {}: the bucket is not there", store.place());
    Error::new(ErrorKind::Unreachable, message).with_hint("Create it, or correct the name, the region or the endpoint.")
}

fn lifecycle_rule(rule: BucketRule) -> LifecycleRule {
    let BucketRule { id, prefix, deletes, aborts_uploads, is_narrower } = rule;
    LifecycleRule { id, prefix, deletes, aborts_uploads, is_narrower }
}

/// What has been tried so far.
struct Tries<'a> {
    archive: &'a Archive,
    key: String,
    rights: Vec<(Right, Attempt)>,
    is_create_only_honoured: Option<bool>,
    leftover: Option<String>,
}

impl Tries<'_> {
    /// In this order; a store that stops answering is asked no further, since each question may take as long as a retry budget.
    async fn run(&mut self) {
        let store = &self.archive.store;
        let put = store.honours_create_only(&self.key).await;
        self.is_create_only_honoured = put.as_ref().ok().copied();
        let was_put = self.note(Right::Put, put.map(drop));
        if self.is_silent() {
            return;
        }
        let got = store.get(&self.key, PROBE_LIMIT_BYTES).await.and_then(|fetched| compare(&fetched.content));
        // Without an object there is nothing to read, and a refusal need not be about reading.
        if was_put {
            self.note(Right::Get, got.map(drop));
        }
        let listed = store.list_names(&self.archive.prefix.ours(), "check-probe-").await;
        let is_seen = listed.map(|found| found.iter().any(|object| object.key == self.key));
        self.note(Right::List, is_seen.and_then(|is_seen| if is_seen || !was_put { Ok(()) } else { Err(unseen()) }));
        if self.is_silent() {
            return;
        }
        let deleted = store.delete(&self.key).await;
        let may_delete = self.note(Right::Delete, deleted);
        if was_put && !may_delete {
            self.leftover = Some(self.key.clone());
        }
        if was_put && may_delete {
            let batch = self.delete_several().await;
            self.note(Right::DeleteBatch, batch);
        }
        if matches!(store.place(), Place::S3 { .. } | Place::Gcs { .. }) {
            let upload = self.begin_and_abort().await;
            self.note(Right::Multipart, upload);
        }
    }

    fn note(&mut self, right: Right, outcome: Result<()>) -> bool {
        let is_allowed = outcome.is_ok();
        let attempt = match outcome {
            Ok(()) => Attempt::Allowed,
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Local) => {
                Attempt::Refused(error.to_string())
            }
            Err(error) => Attempt::Unclear(error.to_string()),
        };
        self.rights.push((right, attempt));
        is_allowed
    }

    fn is_silent(&self) -> bool {
        matches!(self.rights.last(), Some((_, Attempt::Unclear(_))))
    }

    async fn delete_several(&self) -> Result<()> {
        let store = &self.archive.store;
        let keys = [self.key.clone(), format!("{}-2", self.key)];
        for key in &keys {
            store.put(key, PROBE.to_vec(), &crate::store::Metadata::new()).await?;
        }
        let failed = store.delete_batch(&keys).await;
        if !matches!(&failed, Ok(failed) if failed.is_empty()) {
            // One by one it worked a moment ago.
            for key in &keys {
                store.delete(key).await?;
            }
        }
        failed?.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    async fn begin_and_abort(&self) -> Result<()> {
        let mut upload = self.archive.store.begin_upload(&format!("{}-upload", self.key)).await?;
        upload.abort().await
    }
}

fn compare(content: &[u8]) -> Result<()> {
    if content == PROBE {
        return Ok(());
    }
    Err(Error::corrupt("what was read is not what was written"))
}

fn unseen() -> Error {
    Error::new(ErrorKind::Unreachable, "an object that was just written is not in the listing")
}

/// This host's name, as far as it can be part of a key.
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    name.chars().take(HOST_NAME_CHARS).map(plain).collect()
}
