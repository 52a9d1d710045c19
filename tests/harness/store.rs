//! One store of a test, whatever its kind: what the same kit of facts is run on.

use std::path::{Path, PathBuf};

use barback::commands::archive::Archive;
use barback::layout::keys::ServerPrefix;
use barback::store::{AddressingStyle, ReadableByOthers, Store, StoreOptions};
use futures::TryStreamExt as _;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::path::Path as Key;
use object_store::{Attribute, ObjectStore, ObjectStoreExt as _, PutPayload, StaticCredentialProvider};

use super::azurite::Azurite;
use super::directory::{TestDir, give_away};
use super::gcs_server::GcsServer;
use super::minio::Minio;
use super::process::{Run, barback};
use super::s3_server::{BUCKET, S3Server, block_on, s3_client};

/// A store and a directory for local files beside it. Keys are those below the store's URL: `main/wals/...`.
#[derive(Debug)]
pub struct TestStore {
    /// For local files; the store itself is in `archive` or elsewhere.
    pub dir: TestDir,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory,
    S3(S3Server),
    Minio(Minio),
    Azurite(Azurite),
    Gcs(GcsServer),
}

/// An object seen from outside barback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub content: Vec<u8>,
    /// User metadata, sorted; always empty in a directory.
    pub metadata: Vec<(String, String)>,
    /// Its `ETag`, or a file's inode and time: whatever changes when somebody writes it anew.
    pub identity: String,
}

type MakeStore = fn() -> Option<TestStore>;

/// Runs `test` on a directory, on s3s-fs, `MinIO` and Azurite, on our own Google Cloud Storage, and names the store on which it
/// fails.
pub fn for_each_store(mut test: impl FnMut(&TestStore)) {
    let kinds: [(&str, MakeStore); 5] = [
        ("file://", || Some(TestStore::directory())),
        ("s3s-fs", || Some(TestStore::s3(S3Server::start()))),
        ("MinIO", TestStore::minio),
        ("Azurite", TestStore::azurite),
        ("Google Cloud Storage", || Some(TestStore::gcs(GcsServer::start()))),
    ];
    for (name, make) in kinds {
        eprintln!("--- on {name}");
        if let Some(store) = make() {
            test(&store);
        }
    }
}

/// How the store at `url` is opened in this environment, with everything else left alone.
pub fn store_options(url: &str, env: impl IntoIterator<Item = (String, String)>) -> StoreOptions {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    StoreOptions {
        place: url.parse().unwrap(),
        endpoint_url: None,
        region: None,
        addressing_style: AddressingStyle::Auto,
        aws_profile: None,
        azure_credential: None,
        ca_bundle: None,
        tags: Vec::new(),
        encryption: None,
        readable_credentials: ReadableByOthers::Refuse,
        retry_timeout_s: 1,
        read_timeout_s: None,
        largest_upload_bytes: 0,
        largest_download_bytes: 0,
        may_create_directory: false,
        cache_dir: None,
        environment: env.into_iter().collect(),
    }
}

/// The archive of the server `main` in the store that `options` open.
pub async fn archive_of(options: StoreOptions) -> Archive {
    let prefix = ServerPrefix::new(options.place.prefix(), "main").unwrap();
    Archive { store: Box::pin(Store::open(&options)).await.unwrap(), prefix }
}

impl TestStore {
    /// A `file://` store.
    pub fn directory() -> Self {
        let dir = TestDir::new();
        dir.create_dir("archive");
        Self { dir, place: Place::Directory }
    }

    /// The bucket of a server of this test.
    pub fn s3(server: S3Server) -> Self {
        Self { dir: TestDir::new(), place: Place::S3(server) }
    }

    /// The bucket of a MinIO; `None`, said aloud, where there is none.
    pub fn minio() -> Option<Self> {
        Some(Self { dir: TestDir::new(), place: Place::Minio(Minio::start()?) })
    }

    /// The container of an Azurite; `None`, said aloud, where there is none.
    pub fn azurite() -> Option<Self> {
        Some(Self { dir: TestDir::new(), place: Place::Azurite(Azurite::start()?) })
    }

    /// The bucket of a server of this test.
    pub fn gcs(server: GcsServer) -> Self {
        Self { dir: TestDir::new(), place: Place::Gcs(server) }
    }

    /// The in-process server, to count its requests and to break it.
    pub fn server(&self) -> &S3Server {
        match &self.place {
            Place::S3(server) => server,
            _ => panic!("this store is not the in-process S3 server"),
        }
    }

    /// Where its server listens, as a URL; none for a directory.
    pub fn endpoint(&self) -> Option<String> {
        let from_env = |env: Vec<(String, String)>| {
            let found = env.into_iter().find(|(name, _)| name == "AWS_ENDPOINT_URL");
            found.map(|(_, url)| url).unwrap_or_default()
        };
        match &self.place {
            Place::Directory => None,
            Place::S3(server) => Some(server.endpoint()),
            Place::Minio(server) => Some(from_env(server.env())),
            Place::Azurite(server) => Some(server.endpoint()),
            Place::Gcs(server) => Some(server.endpoint()),
        }
    }

    /// True where each request carries a digest of its body, signed: S3.
    pub fn knows_what_was_sent(&self) -> bool {
        matches!(self.place, Place::S3(_) | Place::Minio(_))
    }

    /// True for buckets and containers of any kind, where objects carry metadata.
    pub fn is_s3(&self) -> bool {
        !matches!(self.place, Place::Directory)
    }

    /// What `--store` takes.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Directory => format!("file://{}", self.root().display()),
            Place::Azurite(server) => format!("{}/{BUCKET}/pfx", server.endpoint()),
            Place::Gcs(_) => format!("gs://{BUCKET}/pfx"),
            Place::S3(_) | Place::Minio(_) => format!("s3://{BUCKET}/pfx"),
        }
    }

    /// All variables that lead barback here.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = self.service_env();
        env.push(("BARBACK_STORE".to_owned(), self.url()));
        env.push(("BARBACK_CACHE_DIR".to_owned(), self.dir.join("cache").display().to_string()));
        env
    }

    /// How our own store is opened here, with everything else left alone.
    pub fn options(&self) -> StoreOptions {
        store_options(&self.url(), self.service_env())
    }

    /// The Azurite behind it.
    pub fn azure(&self) -> &Azurite {
        match &self.place {
            Place::Azurite(server) => server,
            _ => panic!("this store is no Azurite"),
        }
    }

    /// The in-process Google Cloud Storage.
    pub fn google(&self) -> &GcsServer {
        match &self.place {
            Place::Gcs(server) => server,
            _ => panic!("this store is not the in-process Google Cloud Storage"),
        }
    }

    /// barback, about to be run on this store.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Run {
        barback(args).envs(&self.env())
    }

    /// The object at `key`; `None` when there is none.
    pub fn read(&self, key: &str) -> Option<Object> {
        if let Place::Directory = self.place {
            return read_file(&self.root().join(key));
        }
        block_on(async {
            let answer = self.client().get(&full_key(key)).await;
            let answer = match answer {
                Err(object_store::Error::NotFound { .. }) => return None,
                answer => answer.unwrap(),
            };
            let metadata = answer.attributes.iter().filter_map(|(name, value)| match name {
                // Azure's names have no `-`.
                Attribute::Metadata(name) => Some((name.replace('_', "-"), value.as_ref().to_owned())),
                _ => None,
            });
            let mut metadata: Vec<_> = metadata.collect();
            metadata.sort();
            let identity = format!("{:?} {}", answer.meta.e_tag, answer.meta.last_modified);
            Some(Object { content: answer.bytes().await.unwrap().to_vec(), metadata, identity })
        })
    }

    /// Puts an object without metadata, as Barman does, replacing one that is there.
    pub fn write(&self, key: &str, content: &[u8]) {
        if let Place::Directory = self.place {
            let path = self.root().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            path.ancestors().take_while(|path| *path != self.root()).for_each(give_away);
            return;
        }
        let payload = PutPayload::from(content.to_vec());
        block_on(async { self.client().put(&full_key(key), payload).await }).unwrap();
    }

    /// Removes an object that is there.
    pub fn remove(&self, key: &str) {
        match self.place {
            Place::Directory => std::fs::remove_file(self.root().join(key)).unwrap(),
            _ => block_on(async { self.client().delete(&full_key(key)).await }).unwrap(),
        }
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = if let Place::Directory = self.place {
            let mut keys = Vec::new();
            collect_files(&self.root(), &self.root(), &mut keys);
            keys
        } else {
            let objects: Vec<_> = block_on(async { self.client().list(None).try_collect().await }).unwrap();
            let keys = objects.into_iter().map(|object: object_store::ObjectMeta| object.location.to_string());
            keys.map(|key| key.strip_prefix("pfx/").unwrap_or_else(|| panic!("stray key {key}")).to_owned()).collect()
        };
        keys.sort();
        keys
    }

    /// All keys of WAL, sorted.
    pub fn wal_keys(&self) -> Vec<String> {
        self.keys().into_iter().filter(|key| key.contains("/wals/")).collect()
    }

    fn root(&self) -> PathBuf {
        self.dir.join("archive")
    }

    /// A client that is not ours.
    fn client(&self) -> Box<dyn ObjectStore> {
        match &self.place {
            Place::Directory => panic!("a directory has no client"),
            Place::S3(server) => Box::new(s3_client(&server.env())),
            Place::Minio(server) => Box::new(s3_client(&server.env())),
            Place::Azurite(server) => Box::new(server.client()),
            Place::Gcs(server) => {
                let _ = rustls::crypto::ring::default_provider().install_default();
                let anonymous = StaticCredentialProvider::new(GcpCredential { bearer: "anonymous".to_owned() });
                let builder = GoogleCloudStorageBuilder::new()
                    .with_bucket_name(BUCKET)
                    .with_base_url(&server.endpoint())
                    .with_credentials(std::sync::Arc::new(anonymous));
                Box::new(builder.build().unwrap())
            }
        }
    }

    fn service_env(&self) -> Vec<(String, String)> {
        match &self.place {
            Place::Directory => Vec::new(),
            Place::S3(server) => server.env(),
            Place::Minio(server) => server.env(),
            Place::Azurite(_) => Azurite::env(),
            Place::Gcs(server) => server.env(),
        }
    }
}

fn full_key(key: &str) -> Key {
    Key::parse(format!("pfx/{key}")).unwrap()
}

fn read_file(path: &Path) -> Option<Object> {
    use std::os::unix::fs::MetadataExt as _;
    let content = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        content => content.unwrap(),
    };
    let facts = std::fs::metadata(path).unwrap();
    let identity = format!("{} {} {}", facts.ino(), facts.mtime(), facts.mtime_nsec());
    Some(Object { content, metadata: Vec::new(), identity })
}

fn collect_files(root: &Path, dir: &Path, keys: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_files(root, &path, keys);
        } else {
            keys.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}
