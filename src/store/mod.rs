//! Objects in a bucket, a container or a directory, behind one small set of requests.
//!
//! The contract, whatever the store: a `put` that returned is durable; a create-only put never replaces an object;
//! *not there* (`NotFound`) is only said when the store said so, everything else is `Unreachable` or `Denied`.

mod azure;
mod azure_connection;
mod azure_credentials;
mod bounded;
mod bucket_rules;
mod create_only;
mod credential_file;
#[cfg(feature = "aws-profiles")]
mod credentials;
mod directory;
mod edge;
mod failure;
mod gcs;
mod inquiry;
mod labels;
mod listing;
mod locks;
mod options;
mod place;
mod remembered;
mod removal;
mod retry;
mod s3;
mod service;
mod throttle;
mod upload;
mod uploads;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use object_store::list::PaginatedListStore;
use object_store::path::{Path as ObjectPath, PathPart};
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, PutMode, PutOptions, PutPayload};

use crate::error::{Error, ErrorKind, Result};
use labels::Labels;
use retry::Tries;
use service::Service;

pub use bucket_rules::BucketRule;
pub use create_only::{CreateOnly, PROBE};
pub use credential_file::ReadableByOthers;
pub use inquiry::Greeting;
pub use locks::ObjectLock;
pub use options::{AzureCredential, Encryption, StoreOptions};
pub use place::Place;
pub use remembered::{Note, default_cache_dir};
pub use s3::AddressingStyle;
pub use service::Probe;
pub use upload::Upload;
pub use uploads::OpenUpload;

/// An open store. Cloning is cheap; opening sends nothing.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// The same where a listing may begin anywhere in a name.
    pages: Option<Arc<dyn PaginatedListStore>>,
    service: Arc<Service>,
    place: Place,
    create_only: CreateOnly,
    labels: Labels,
    memory: remembered::Memory,
    /// Seen of the server: see [`Store::lacks_batches`].
    lacks_batches: Arc<AtomicBool>,
    /// How long one request may be tried again.
    retry_timeout: Duration,
}

/// Names the place alone: what is behind it holds secrets.
impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What opening a place gives.
struct Opened {
    objects: Arc<dyn ObjectStore>,
    pages: Option<Arc<dyn PaginatedListStore>>,
    service: Service,
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
    /// What the store calls this content; another content has another, where the store says one at all.
    pub e_tag: Option<String>,
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
        let labels = Labels::new(&options.place, &options.tags)?;
        let create_only = match &options.place {
            Place::S3 { bucket, .. } => CreateOnly::of_s3(bucket, options),
            // A promise of these services; a file system keeps it by linking.
            Place::Azure { .. } | Place::Gcs { .. } | Place::Directory(_) => CreateOnly::Honoured,
        };
        let Opened { objects, pages, service } = match &options.place {
            Place::S3 { .. } => s3::open(options).await?,
            Place::Azure { .. } => azure::open(options)?,
            Place::Gcs { .. } => gcs::open(options)?,
            Place::Directory(_) if options.encryption.is_some() => {
                return Err(failure::foreign_encryption(&options.place));
            }
            Place::Directory(root) => Opened {
                objects: Arc::new(directory::open(root, options.may_create_directory)?),
                pages: None,
                service: Service::Directory(root.clone()),
            },
        };
        Ok(Self {
            objects,
            pages,
            service: Arc::new(service),
            place: options.place.clone(),
            create_only,
            labels,
            memory: remembered::Memory::of(options),
            lacks_batches: Arc::default(),
            retry_timeout: options.retry_timeout(),
        })
    }

    /// Which store this is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What this host remembers as `kind` about `subject` in this store; none without a cache directory.
    #[must_use]
    pub fn note(&self, kind: &str, subject: &str) -> Option<Note> {
        self.memory.note(kind, subject)
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
        let mut tries = Tries::within(self.retry_timeout);
        loop {
            let options = PutOptions {
                mode: mode.clone(),
                tags: self.labels.tags(),
                attributes: self.labels.attributes(metadata),
                ..PutOptions::default()
            };
            match self.objects.put_opts(&path_of(key)?, payload.clone(), options).await {
                Ok(_) => return Ok(Put::Created),
                Err(error) if mode == PutMode::Create && failure::condition_failed(&error) => {
                    if let Place::Directory(root) = &self.place {
                        directory::make_durable(root, key)?;
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
                Err(error) if (failure::answer_was_lost(&error) || failure::is_busy(&error)) && tries.are_left() => {
                    tracing::info!("{}; trying again", failure::describe("write object", key, error));
                    tries.pause().await;
                }
                Err(error) => return Err(self.not_absent(failure::describe("write object", key, error))),
            }
        }
    }

    /// Gets a whole object of at most `limit_bytes`.
    ///
    /// Errors: `NotFound` when the store says that it is not there (a bucket that is missing says the same: list to
    /// tell them apart), or that none of its objects can be called so; `Corrupt` beyond the limit.
    pub async fn get(&self, key: &str, limit_bytes: u64) -> Result<Fetched> {
        let describe = |error| failure::describe("read object", key, error);
        let answer = match self.objects.get_opts(&path_of(key)?, GetOptions::default()).await {
            Ok(answer) => answer,
            Err(error) if failure::no_such_name(&error) => return Err(describe(error).as_kind(ErrorKind::NotFound)),
            Err(error) => {
                let error = describe(error);
                if self.is_absent_though_denied(key, &error).await {
                    let message = format!("could not read object \"{key}\": it is not there");
                    return Err(Error::new(ErrorKind::NotFound, message));
                }
                return Err(error);
            }
        };
        if answer.meta.size > limit_bytes {
            let message = format!(
                "could not read object \"{key}\": it is {} bytes long, at most {limit_bytes} are expected",
                answer.meta.size
            );
            return Err(Error::corrupt(message));
        }
        let metadata = self.labels.metadata(&answer.attributes);
        let content = body(key, answer).await?;
        Ok(Fetched { content, metadata })
    }

    /// Gets the bytes of `range` of an object; fewer when the object ends before.
    pub async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        let describe = |error| failure::describe("read object", key, error);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let answer = self.objects.get_opts(&path_of(key)?, options).await.map_err(describe)?;
        body(key, answer).await
    }

    /// An object's size and metadata; `None` when the store says that it is not there.
    pub async fn head(&self, key: &str) -> Result<Option<(u64, Metadata)>> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.objects.get_opts(&path_of(key)?, options).await {
            Ok(answer) => Ok(Some((answer.meta.size, self.labels.metadata(&answer.attributes)))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => {
                let error = failure::describe("look for object", key, error);
                if self.is_absent_though_denied(key, &error).await { Ok(None) } else { Err(error) }
            }
        }
    }

    /// S3 refuses to say that an object is not there to those who may list a part of the bucket only. They may ask the listing
    /// of that part, which is never behind.
    async fn is_absent_though_denied(&self, key: &str, error: &Error) -> bool {
        if error.kind() != ErrorKind::Denied || !matches!(self.place, Place::S3 { .. }) {
            return false;
        }
        let (directory, name) = key.rsplit_once('/').map_or(("", key), |(directory, name)| (directory, name));
        let directory = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let listed = self.list_names(&directory, name).await;
        listed.is_ok_and(|listed| listed.iter().all(|object| object.key != key))
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

/// The body of an answer. Errors: `Corrupt` for more bytes than the server has announced: it may send without end.
async fn body(key: &str, answer: GetResult) -> Result<Bytes> {
    let describe = |error| failure::describe("read object", key, error);
    if matches!(answer.payload, GetResultPayload::File(..)) {
        return answer.bytes().await.map_err(describe);
    }
    let announced = answer.range.end.saturating_sub(answer.range.start);
    let mut content = Vec::with_capacity(usize::try_from(announced).unwrap_or_default());
    let mut pieces = answer.into_stream();
    while let Some(piece) = pieces.try_next().await.map_err(describe)? {
        if (content.len() + piece.len()) as u64 > announced {
            let message = format!("could not read object \"{key}\": more came than the {announced} bytes it is long");
            return Err(Error::corrupt(message));
        }
        content.extend_from_slice(&piece);
    }
    Ok(content.into())
}

/// Keys are used byte for byte: `Path::from` would percent-encode characters that Barman writes as they are.
fn path_of(key: &str) -> Result<ObjectPath> {
    let refuse = |error: &dyn std::fmt::Display| Error::usage(format!("could not use object key \"{key}\": {error}"));
    if !key.contains("//") {
        return ObjectPath::parse(key).map_err(|error| refuse(&error));
    }
    // Barman 3.19.1 writes such keys when its URL ends in a slash. `parse` takes an empty part for a mistake.
    key.split('/').try_fold(ObjectPath::ROOT, |path, part| {
        PathPart::parse(part).map(|part| path.join(part)).map_err(|error| refuse(&error))
    })
}

fn listed(object: object_store::ObjectMeta) -> Listed {
    Listed { key: object.location.into(), bytes: object.size, modified: object.last_modified, e_tag: object.e_tag }
}
