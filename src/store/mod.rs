//! Objects in a bucket or a directory, behind one small set of requests.
//!
//! The contract, whatever the store: a `put` that returned is durable; a create-only put never replaces an object;
//! *not there* (`NotFound`) is only said when the store said so, everything else is `Unreachable` or `Denied`.

mod create_only;
#[cfg(feature = "aws-profiles")]
mod credentials;
mod failure;
mod place;
mod s3;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload,
};

use crate::error::{Error, ErrorKind, Result};

pub use create_only::{CreateOnly, default_cache_dir};
pub use place::Place;
pub use s3::AddressingStyle;

/// How to reach a store. Secrets are not in here: they are read from `environment` and the files it names.
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
    /// A PEM file of certificate authorities to trust beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// How long one request may be tried again, in seconds.
    pub retry_timeout_s: u64,
    /// The largest body one request sends: the time its answer may take grows with it.
    pub largest_upload_bytes: u64,
    /// The largest body one answer brings: the time it may take grows with it.
    pub largest_download_bytes: u64,
    /// Whether a `file://` directory that is missing may be created (its last component only).
    pub may_create_directory: bool,
    /// Where facts about servers are remembered; a cache that may vanish. Without one, each call asks anew.
    pub cache_dir: Option<PathBuf>,
    /// The process's environment: `AWS_*`, `HOME`.
    pub environment: BTreeMap<String, String>,
}

/// The slowest link a request is sized for: below 128 KiB/s a request is given up and tried again.
const SLOWEST_BYTES_PER_S: u64 = 128 << 10;

/// What a request may take beside moving its body.
const REQUEST_OVERHEAD_S: u64 = 30;

/// The pause before a request whose answer was lost is repeated; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No pause between two tries is longer: the store may be back any moment.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

fn timeout_for(bytes: u64) -> Duration {
    Duration::from_secs(REQUEST_OVERHEAD_S + bytes / SLOWEST_BYTES_PER_S)
}

impl StoreOptions {
    /// How long one attempt of one request may take in all.
    fn request_timeout(&self) -> Duration {
        timeout_for(self.largest_upload_bytes.max(self.largest_download_bytes))
    }

    /// How long nothing at all may come back: a server answers only after it has taken what it was sent.
    fn silence_timeout(&self) -> Duration {
        timeout_for(self.largest_upload_bytes)
    }
}

/// An open store. Cloning is cheap; opening sends nothing.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    place: Place,
    create_only: CreateOnly,
    /// How long one request may be tried again.
    retry_timeout: Duration,
    /// Object metadata is an S3 notion: files have none.
    keeps_metadata: bool,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The full key.
    pub key: String,
    /// Its size in the store.
    pub bytes: u64,
    /// When it was last written, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// User metadata of an object: short ASCII names and values.
pub type Metadata = BTreeMap<String, String>;

/// An object's bytes and what was said about them.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The whole content.
    pub content: Bytes,
    /// Its user metadata; empty where the store keeps none.
    pub metadata: Metadata,
}

/// The answer to a create-only put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The store confirmed the new object.
    Created,
    /// An object was there already; it was left as it was.
    AlreadyThere,
}

impl Store {
    /// Opens a store.
    ///
    /// Errors: `Usage` for options that cannot be used; `Unreachable` for a directory that is not there.
    pub async fn open(options: &StoreOptions) -> Result<Self> {
        match &options.place {
            Place::S3 { bucket, .. } => Ok(Self {
                objects: Arc::new(s3::open(bucket, options).await?),
                place: options.place.clone(),
                create_only: CreateOnly::of_s3(bucket, options),
                retry_timeout: Duration::from_secs(options.retry_timeout_s),
                keeps_metadata: true,
            }),
            Place::Directory(root) => Ok(Self {
                objects: Arc::new(open_directory(root, options.may_create_directory)?),
                place: options.place.clone(),
                create_only: CreateOnly::Honoured,
                retry_timeout: Duration::from_secs(options.retry_timeout_s),
                keeps_metadata: false,
            }),
        }
    }

    /// Which store this is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Puts a new object and never replaces one. One request where the store is known to honour the condition;
    /// see [`CreateOnly`] for the others, which need `probe_key` once.
    ///
    /// Durable when it returns. A request that was confirmed but whose answer was lost is seen as `AlreadyThere` by
    /// its own retry: callers compare content, so that is no special case.
    pub async fn put_new(&self, key: &str, content: Vec<u8>, metadata: &Metadata, probe_key: &str) -> Result<Put> {
        let mode = if self.create_only.is_honoured(self, probe_key).await? {
            PutMode::Create
        } else {
            // The server would overwrite without a word: ask first. Two writers in the same instant can still
            // collide there, which is why `check` should tell people so.
            if self.head(key).await?.is_some() {
                return Ok(Put::AlreadyThere);
            }
            PutMode::Overwrite
        };
        self.put_in_mode(key, content, metadata, mode).await
    }

    /// Puts an object, replacing one that is there. Durable when it returns.
    pub async fn put(&self, key: &str, content: Vec<u8>, metadata: &Metadata) -> Result<()> {
        self.put_in_mode(key, content, metadata, PutMode::Overwrite).await.map(drop)
    }

    async fn put_in_mode(&self, key: &str, content: Vec<u8>, metadata: &Metadata, mode: PutMode) -> Result<Put> {
        let payload = PutPayload::from(content);
        let deadline = Instant::now() + self.retry_timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let options =
                PutOptions { mode: mode.clone(), attributes: self.attributes(metadata), ..PutOptions::default() };
            match self.objects.put_opts(&path_of(key)?, payload.clone(), options).await {
                Ok(_) => return Ok(Put::Created),
                Err(error) if mode == PutMode::Create && failure::condition_failed(&error) => {
                    if let Place::Directory(root) = &self.place {
                        make_durable(root, key)?;
                    }
                    return Ok(Put::AlreadyThere);
                }
                // What is busy may be there, whoever made it so.
                Err(error)
                    if mode == PutMode::Create && failure::is_busy(&error) && self.head(key).await?.is_some() =>
                {
                    return Ok(Put::AlreadyThere);
                }
                // The store library repeats a lost request only when a second one would do no harm. It takes a
                // create-only put for harmful; its callers compare, so that here it is not.
                Err(error)
                    if (failure::answer_was_lost(&error) || failure::is_busy(&error))
                        && Instant::now() + pause < deadline =>
                {
                    tracing::info!("{}; trying again", failure::describe("write object", key, error));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(self.not_absent(failure::describe("write object", key, error))),
            }
        }
    }

    /// Gets a whole object of at most `limit_bytes`.
    ///
    /// Errors: `NotFound` when the store says that it is not there (a bucket that is missing says the same: list to
    /// tell them apart); `Corrupt` beyond the limit.
    pub async fn get(&self, key: &str, limit_bytes: u64) -> Result<Fetched> {
        let describe = |error| failure::describe("read object", key, error);
        let answer = self.objects.get_opts(&path_of(key)?, GetOptions::default()).await.map_err(describe)?;
        if answer.meta.size > limit_bytes {
            let message = format!(
                "could not read object \"{key}\": it is {} bytes long, at most {limit_bytes} are expected",
                answer.meta.size
            );
            return Err(Error::corrupt(message));
        }
        let metadata = metadata_of(&answer.attributes);
        let content = answer.bytes().await.map_err(describe)?;
        Ok(Fetched { content, metadata })
    }

    /// Gets the bytes of `range` of an object; fewer when the object ends before.
    pub async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        let describe = |error| failure::describe("read object", key, error);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let answer = self.objects.get_opts(&path_of(key)?, options).await.map_err(describe)?;
        answer.bytes().await.map_err(describe)
    }

    /// An object's size and metadata; `None` when the store says that it is not there.
    pub async fn head(&self, key: &str) -> Result<Option<(u64, Metadata)>> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.objects.get_opts(&path_of(key)?, options).await {
            Ok(answer) => Ok(Some((answer.meta.size, metadata_of(&answer.attributes)))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure::describe("look for object", key, error)),
        }
    }

    /// Calls `each` with every object whose key begins with `directory` (which ends in `/`), in any order, a page of
    /// a thousand at a time; keys after `after` only, when given.
    ///
    /// Errors: never a shorter list than the truth: a listing that breaks off is an error.
    pub async fn list(&self, directory: &str, after: Option<&str>, mut each: impl FnMut(Listed)) -> Result<()> {
        let prefix = path_of(directory)?;
        let mut objects = match after {
            Some(after) => self.objects.list_with_offset(Some(&prefix), &path_of(after)?),
            None => self.objects.list(Some(&prefix)),
        };
        let describe = |error| self.not_absent(failure::describe("list objects in", directory, error));
        while let Some(object) = objects.try_next().await.map_err(describe)? {
            each(listed(object));
        }
        Ok(())
    }

    /// The objects directly in `directory` (which ends in `/`) whose names begin with `name`. One request.
    ///
    /// Errors: `Unreachable` where nothing is found in a `file://` store that is altogether empty: that is how the
    /// mount point of an archive looks that is not mounted.
    pub async fn list_names(&self, directory: &str, name: &str) -> Result<Vec<Listed>> {
        let begins = format!("{directory}{name}");
        let describe = |error| self.not_absent(failure::describe("list objects in", directory, error));
        let prefix = path_of(directory)?;
        if let Place::Directory(root) = &self.place {
            // A directory is read as it lies, without an order to stop at.
            let objects = self.objects.list_with_delimiter(Some(&prefix)).await.map_err(describe)?.objects;
            let found: Vec<_> =
                objects.into_iter().map(listed).filter(|object| object.key.starts_with(&begins)).collect();
            if found.is_empty() {
                refuse_empty(root)?;
            }
            return Ok(found);
        }
        // S3 lists in byte order: begin just before the name and stop behind it.
        let before = &begins[..begins.len() - 1];
        let objects = self.objects.list_with_offset(Some(&prefix), &path_of(before)?);
        let upto = |object: &object_store::ObjectMeta| {
            let key = object.location.as_ref();
            key < begins.as_str() || key.starts_with(&begins)
        };
        let found: Vec<_> = objects
            .try_take_while(|object| futures::future::ready(Ok(upto(object))))
            .map_ok(listed)
            .try_collect()
            .await
            .map_err(describe)?;
        Ok(found.into_iter().filter(|object| object.key.starts_with(&begins)).collect())
    }

    /// The "directories" directly in `directory` (which ends in `/`), each ending in `/`.
    pub async fn list_directories(&self, directory: &str) -> Result<Vec<String>> {
        let describe = |error| self.not_absent(failure::describe("list objects in", directory, error));
        let answer = self.objects.list_with_delimiter(Some(&path_of(directory)?)).await.map_err(describe)?;
        Ok(answer.common_prefixes.iter().map(|prefix| format!("{prefix}/")).collect())
    }

    /// Begins an upload in parts. Nothing is visible under `key` before [`Upload::complete`].
    pub async fn begin_upload(&self, key: &str) -> Result<Upload> {
        let inner = self
            .objects
            .put_multipart_opts(&path_of(key)?, PutMultipartOptions::default())
            .await
            .map_err(|error| self.not_absent(failure::describe("begin upload of object", key, error)))?;
        Ok(Upload { key: key.to_owned(), inner })
    }

    /// Deletes one object; one that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.objects.delete(&path_of(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure::describe("delete object", key, error)),
        }
    }

    fn attributes(&self, metadata: &Metadata) -> Attributes {
        if !self.keeps_metadata {
            return Attributes::new();
        }
        metadata.iter().map(|(name, value)| (Attribute::Metadata(name.clone().into()), value.clone())).collect()
    }

    /// A "not found" for a request that cannot miss an object means that the bucket itself is not there.
    fn not_absent(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        let hint = format!("Does the bucket of {} exist, and may these credentials see it?", self.place);
        error.as_kind(ErrorKind::Unreachable).with_hint(hint)
    }
}

/// An upload in parts, open until completed or aborted.
#[derive(Debug)]
pub struct Upload {
    key: String,
    inner: Box<dyn MultipartUpload>,
}

impl Upload {
    /// Starts sending the next part; the future must be awaited for it to be sent. Every part but the last must be
    /// as long as the first (some S3 servers insist) and at least 5 MiB.
    pub fn send_part(&mut self, part: Bytes) -> impl Future<Output = Result<()>> + Send + 'static {
        let key = self.key.clone();
        let sending = self.inner.put_part(PutPayload::from(part));
        async move { sending.await.map_err(|error| failure::describe("upload a part of object", &key, error)) }
    }

    /// Makes the object visible, whole. Durable when it returns.
    pub async fn complete(&mut self) -> Result<()> {
        let outcome = self.inner.complete().await;
        outcome.map(drop).map_err(|error| failure::describe("complete upload of object", &self.key, error))
    }

    /// Throws the parts away.
    pub async fn abort(&mut self) -> Result<()> {
        let outcome = self.inner.abort().await;
        outcome.map_err(|error| failure::describe("abort upload of object", &self.key, error))
    }
}

/// A directory that is missing is an unreachable store, not an empty one: an unmounted archive must not read as
/// "the WAL ends here". Only its last component is ever created.
fn open_directory(root: &std::path::Path, may_create: bool) -> Result<LocalFileSystem> {
    if may_create && !root.exists() {
        std::fs::create_dir(root)
            .or_else(|cause| if root.is_dir() { Ok(()) } else { Err(cause) })
            .map_err(|cause| Error::local("create store directory", root, cause).as_kind(ErrorKind::Unreachable))?;
        if let Some(parent) = root.parent() {
            crate::disk::sync_directory(parent).map_err(|cause| Error::local("sync directory", parent, cause))?;
        }
    }
    if !root.is_dir() {
        let message = format!("could not open store \"file://{}\": there is no such directory", root.display());
        return Err(Error::new(ErrorKind::Unreachable, message)
            .with_hint("Is the archive mounted? The first wal-archive or backup creates the last path component."));
    }
    let files = LocalFileSystem::new_with_prefix(root)
        .map_err(|error| failure::describe("open store", &root.display().to_string(), error))?;
    Ok(files.with_fsync(true))
}

/// A file that is there need not be on disk: whoever wrote it may have been killed before the last fsync, or never
/// calls it. Callers say "archived" on the strength of it.
fn make_durable(root: &std::path::Path, key: &str) -> Result<()> {
    let path = root.join(key);
    let synced = std::fs::File::open(&path).and_then(|file| file.sync_all());
    synced.map_err(|cause| Error::local("sync file", &path, cause))?;
    for directory in path.ancestors().skip(1).take_while(|directory| directory.starts_with(root)) {
        crate::disk::sync_directory(directory).map_err(|cause| Error::local("sync directory", directory, cause))?;
    }
    Ok(())
}

/// An archive has something in it from its first `wal-archive` on.
fn refuse_empty(root: &std::path::Path) -> Result<()> {
    let failed = |cause| Error::local("read store directory", root, cause).as_kind(ErrorKind::Unreachable);
    if std::fs::read_dir(root).map_err(failed)?.next().is_some() {
        return Ok(());
    }
    let message = format!("could not use store \"file://{}\": there is nothing in the directory", root.display());
    Err(Error::new(ErrorKind::Unreachable, message)
        .with_hint("Is the archive mounted? An empty directory proves no absence; wal-archive puts the first file in."))
}

/// Keys are used byte for byte: `Path::from` would percent-encode characters that Barman writes as they are.
fn path_of(key: &str) -> Result<ObjectPath> {
    ObjectPath::parse(key).map_err(|error| Error::usage(format!("could not use object key \"{key}\": {error}")))
}

fn listed(object: object_store::ObjectMeta) -> Listed {
    Listed { key: object.location.into(), bytes: object.size, modified: object.last_modified }
}

fn metadata_of(attributes: &Attributes) -> Metadata {
    attributes
        .iter()
        .filter_map(|(name, value)| match name {
            Attribute::Metadata(name) => Some((name.to_string(), value.as_ref().to_owned())),
            _ => None,
        })
        .collect()
}
