//! An S3 server inside the test process: s3s-fs, with every request counted and faults on demand.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder as Connections;
use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredential};
use object_store::client::{HttpConnector as _, HttpRequestBody, ReqwestConnector};
use s3s::access::S3Access;
use s3s::auth::SimpleAuth;
use s3s::dto::{CompleteMultipartUploadInput, ListObjectsV2Input, PutObjectInput};
use s3s::host::SingleDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpResponse, S3Request, S3Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::certificate::Certificate;

/// The one bucket of every test server.
pub const BUCKET: &str = "bkt";
/// MinIO wants at least 3 characters here,
pub const ACCESS_KEY: &str = "testkey";
/// and at least 8 here. No text of ours may hold it: see `secrets.rs`.
pub const SECRET_KEY: &str = "sk-that-nobody-may-print-8Wq3";

/// s3s-fs on a free loopback port with the bucket `bkt`; signatures and checksums are checked. Stopped and removed on drop.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    scheme: &'static str,
    root: tempfile::TempDir,
    shared: Arc<Mutex<Shared>>,
    runtime: Option<Runtime>,
}

/// One request as it came in, before any fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, `PUT`, ...
    pub method: String,
    /// Path and query as on the wire: `/bkt/pfx/main/wals/...?uploads`.
    pub target: String,
    /// Its `Host`, or the host of the whole URL that a proxy is given.
    pub host: String,
    /// The region it was signed for; empty when it was not signed.
    pub region: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// How many requests were being answered when it came, itself among them.
    pub at_once: usize,
}

impl Seen {
    /// What can be said of a request before it is answered.
    pub fn of<B>(request: &hyper::Request<B>) -> Self {
        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let headers = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let mut seen = Self {
            method: request.method().to_string(),
            target,
            host: String::new(),
            region: String::new(),
            headers: headers.collect(),
            at_once: 1,
        };
        seen.host = request.uri().host().or(seen.header("host")).unwrap_or_default().to_owned();
        // AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/s3/aws4_request, ...
        let signed = seen.header("authorization").unwrap_or_default();
        seen.region = signed.split('/').nth(2).unwrap_or_default().to_owned();
        seen
    }

    /// One of its headers.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What happens to a request instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this HTTP status and an S3 error body.
    Status(u16),
    /// It is answered properly, but that much later.
    Delay(Duration),
    /// The connection closes without an answer; nothing was stored.
    Disconnect,
    /// It is carried out, and then the connection closes without an answer.
    LoseAnswer,
}

/// How a server differs from one that follows the protocol over plain HTTP.
#[derive(Default)]
struct Kind {
    ignore_create_only: bool,
    domain: Option<String>,
    tls: Option<TlsAcceptor>,
    clock_ahead: Option<TimeDelta>,
    /// Further access keys, and their secrets.
    keys: Vec<(&'static str, &'static str)>,
}

type Rule = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;

#[derive(Default)]
struct Shared {
    connections: usize,
    /// Requests being answered.
    open: usize,
    seen: Vec<Seen>,
    rule: Option<Rule>,
    clock_ahead: Option<TimeDelta>,
    /// What it says of open uploads, which s3s-fs cannot list: key, id, when it was begun.
    uploads: Option<Vec<(String, String, String)>>,
}

impl S3Server {
    /// A server that follows the protocol.
    pub fn start() -> Self {
        Self::start_with(Kind::default())
    }

    /// A server of its own that begins with what is in `other`.
    pub fn copy_of(other: &Self) -> Self {
        let copy = Self::start();
        copy_files(other.root.path(), copy.root.path());
        copy
    }

    /// A server that silently ignores `If-None-Match`, and so overwrites, as Garage does.
    pub fn ignoring_create_only() -> Self {
        Self::start_with(Kind { ignore_create_only: true, ..Kind::default() })
    }

    /// A server that knows these access keys too, with their secrets.
    pub fn with_keys(keys: &[(&'static str, &'static str)]) -> Self {
        Self::start_with(Kind { keys: keys.to_vec(), ..Kind::default() })
    }

    /// A server whose answers say that it is so much later there.
    pub fn with_clock_ahead(ahead: TimeDelta) -> Self {
        Self::start_with(Kind { clock_ahead: Some(ahead), ..Kind::default() })
    }

    /// A server that takes the bucket from the host's name, `bkt.<domain>`; it can be reached as an HTTP proxy only.
    pub fn virtual_hosted(domain: &str) -> Self {
        Self::start_with(Kind { domain: Some(domain.to_owned()), ..Kind::default() })
    }

    /// A server that speaks TLS with this certificate.
    pub fn with_tls(certificate: &Certificate) -> Self {
        Self::start_with(Kind { tls: Some(certificate.acceptor()), ..Kind::default() })
    }

    fn start_with(kind: Kind) -> Self {
        let root = tempfile::Builder::new().prefix("bb-s3-").tempdir_in("/tmp").unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        let mut auth = SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY);
        for (key, secret) in kind.keys {
            auth.register(key.to_owned(), secret.into());
        }
        builder.set_auth(auth);
        builder.set_access(Access { ignore_create_only: kind.ignore_create_only });
        if let Some(domain) = &kind.domain {
            builder.set_host(SingleDomain::new(domain).unwrap());
        }
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shared = Arc::<Mutex<Shared>>::default();
        shared.lock().expect("nobody else has it yet").clock_ahead = kind.clock_ahead;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if kind.tls.is_some() { "https" } else { "http" };
        runtime.spawn(accept(listener, kind.tls, service, Arc::clone(&shared)));
        Self { address, scheme, root, shared, runtime: Some(runtime) }
    }

    /// The variables that lead any S3 client to this server.
    pub fn env(&self) -> Vec<(String, String)> {
        env_for(&self.endpoint())
    }

    /// `http://127.0.0.1:PORT`, or `https:`.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The directory with the objects as plain files, `bkt/` first; beside it s3s-fs keeps `.bucket-*` files of metadata.
    pub fn root(&self) -> PathBuf {
        self.root.path().to_owned()
    }

    /// The file that holds the object `key`, to be looked at, damaged or removed.
    pub fn object(&self, key: &str) -> PathBuf {
        self.root.path().join(BUCKET).join(key)
    }

    /// All keys in the bucket, sorted.
    pub fn keys(&self) -> Vec<String> {
        let bucket = self.root.path().join(BUCKET);
        let mut keys = Vec::new();
        collect_keys(&bucket, &bucket, &mut keys);
        keys.sort();
        keys
    }

    /// Every request since the start or the last `forget_requests`, in order of arrival, failed ones too.
    pub fn requests(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// How many of them had `method`.
    pub fn count(&self, method: &str) -> usize {
        self.lock().seen.iter().filter(|seen| seen.method == method).count()
    }

    /// Connections taken since the start or the last `forget_requests`.
    pub fn connections(&self) -> usize {
        self.lock().connections
    }

    /// Starts counting anew.
    pub fn forget_requests(&self) {
        let mut shared = self.lock();
        shared.seen.clear();
        shared.connections = 0;
    }

    /// The next `n` requests are answered with `status`.
    pub fn fail_next(&self, n: usize, status: u16) {
        let mut left = n;
        self.fault_when(move |_| {
            let fails = left > 0;
            left = left.saturating_sub(1);
            fails.then_some(Fault::Status(status))
        });
    }

    /// Every request is answered with `status`, until `heal`.
    pub fn refuse_all(&self, status: u16) {
        self.fault_when(move |_| Some(Fault::Status(status)));
    }

    /// `rule` is asked about every request from now on; it replaces any rule before it.
    pub fn fault_when(&self, rule: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        self.lock().rule = Some(Box::new(rule));
    }

    /// A question for open uploads is answered with these: key, id, when each was begun (RFC 3339).
    pub fn tell_of_uploads(&self, uploads: &[(&str, &str, &str)]) {
        let owned = |(key, id, begun): &(&str, &str, &str)| ((*key).to_owned(), (*id).to_owned(), (*begun).to_owned());
        self.lock().uploads = Some(uploads.iter().map(owned).collect());
    }

    /// No faults any more.
    pub fn heal(&self) {
        self.lock().rule = None;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no panic happens under this lock")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("seen", &self.seen.len()).finish_non_exhaustive()
    }
}

/// The variables that lead an S3 client to the server at `endpoint`.
pub fn env_for(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", endpoint),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// A plain client of the bucket `bkt` behind `env`, to check a server from outside barback.
pub fn s3_client(env: &[(String, String)]) -> AmazonS3 {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let get = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap();
    AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_access_key_id(get("AWS_ACCESS_KEY_ID"))
        .with_secret_access_key(get("AWS_SECRET_ACCESS_KEY"))
        .with_region(get("AWS_REGION"))
        .with_endpoint(get("AWS_ENDPOINT_URL"))
        .with_allow_http(true)
        .build()
        .unwrap()
}

/// Sends a request that no client of the library makes, signed; panics unless it succeeds.
pub fn signed(env: &[(String, String)], method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
    signed_for(("s3", env), method, path, headers, body);
}

/// The same for another service; gives what is answered.
pub fn signed_for(
    (service, env): (&str, &[(String, String)]),
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> String {
    // Ready for use: its client needs the same provider.
    let _ = s3_client(env).to_string();
    let get = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap();
    let credential =
        AwsCredential { key_id: get("AWS_ACCESS_KEY_ID"), secret_key: get("AWS_SECRET_ACCESS_KEY"), token: None };
    let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
    // MinIO says that it is ready some time before it makes buckets.
    for tries_left in (0..100).rev() {
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", get("AWS_ENDPOINT_URL")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(HttpRequestBody::from(body.to_owned())).unwrap();
        AwsAuthorizer::new(&credential, service, "us-east-1").try_authorize(&mut request, None).unwrap();
        let (status, said) = block_on(async {
            let answer = client.execute(request).await.unwrap();
            (answer.status(), answer.into_body().bytes().await.unwrap())
        });
        if status.is_success() {
            return String::from_utf8_lossy(&said).into_owned();
        }
        let is_early = status == http::StatusCode::SERVICE_UNAVAILABLE
            || String::from_utf8_lossy(&said).contains("Server not initialized");
        assert!(tries_left > 0 && is_early, "{method} {path}: {status} {said:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    unreachable!("the last try returns or panics")
}

/// Runs one future to its end, for tests that are not async themselves.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// s3s asks it after the signature is checked: the one place where a signed header can be ignored.
struct Access {
    ignore_create_only: bool,
}

#[async_trait]
impl S3Access for Access {
    async fn put_object(&self, request: &mut S3Request<PutObjectInput>) -> S3Result<()> {
        if self.ignore_create_only {
            request.input.if_none_match = None;
        }
        Ok(())
    }

    /// S3 takes an empty delimiter, as Barman sends it, for none; s3s-fs would find nothing.
    async fn list_objects_v2(&self, request: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        request.input.delimiter = request.input.delimiter.take().filter(|delimiter| !delimiter.is_empty());
        Ok(())
    }

    async fn complete_multipart_upload(&self, request: &mut S3Request<CompleteMultipartUploadInput>) -> S3Result<()> {
        if self.ignore_create_only {
            request.input.if_none_match = None;
        }
        Ok(())
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, service: S3Service, shared: Arc<Mutex<Shared>>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, service, shared) = (tls.clone(), service.clone(), Arc::clone(&shared));
        shared.lock().expect("no panic happens under this lock").connections += 1;
        tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            match tls {
                None => serve(socket, service, shared).await,
                Some(tls) => {
                    // A client that does not trust us goes away here.
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, service, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S3Service,
    shared: Arc<Mutex<Shared>>,
) {
    let answer = service_fn(move |request| answer(request, service.clone(), Arc::clone(&shared)));
    // A client that goes away in the middle is everyday life, not a failure of the test.
    let _ = Connections::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
}

async fn answer(
    request: hyper::Request<Incoming>,
    service: S3Service,
    shared: Arc<Mutex<Shared>>,
) -> Result<HttpResponse, HttpError> {
    let fault = judge(&request, &shared);
    let _open = Open(Arc::clone(&shared));
    let (clock_ahead, uploads) = {
        let shared = shared.lock().expect("no panic happens under this lock");
        (shared.clock_ahead, shared.uploads.clone())
    };
    let asks_for_uploads = request.method() == hyper::Method::GET
        && request.uri().query().is_some_and(|query| query.starts_with("uploads&"));
    if let Some(uploads) = uploads.filter(|_| asks_for_uploads && fault.is_none()) {
        return Ok(hyper::Response::new(Body::from(list_of_uploads(&uploads))));
    }
    let answered = answer_with(request.map(Body::from), service, fault).await;
    answered.map(|mut response| {
        if let Some(ahead) = clock_ahead {
            let date = (Utc::now() + ahead).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            response.headers_mut().insert("date", date.parse().expect("a date is a header"));
        }
        response
    })
}

/// A request that is being answered, until it is, or its client went away.
struct Open(Arc<Mutex<Shared>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().expect("no panic happens under this lock").open -= 1;
    }
}

async fn answer_with(
    request: hyper::Request<Body>,
    service: S3Service,
    fault: Option<Fault>,
) -> Result<HttpResponse, HttpError> {
    match fault {
        None => service.call(request).await,
        Some(Fault::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            service.call(request).await
        }
        Some(Fault::Disconnect) => Err(broken()),
        Some(Fault::LoseAnswer) => {
            service.call(request).await?;
            Err(broken())
        }
        Some(Fault::Status(status)) => Ok(refuse(request, status).await),
    }
}

/// One page, as S3 writes it.
fn list_of_uploads(uploads: &[(String, String, String)]) -> String {
    let each = uploads.iter().map(|(key, id, begun)| {
        format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{begun}</Initiated></Upload>")
    });
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListMultipartUploadsResult \
         xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>bkt</Bucket><IsTruncated>false</IsTruncated>{}\
         </ListMultipartUploadsResult>",
        each.collect::<String>()
    )
}

fn broken() -> HttpError {
    HttpError::new(Box::new(std::io::Error::other("a fault that was asked for")))
}

fn judge(request: &hyper::Request<Incoming>, shared: &Mutex<Shared>) -> Option<Fault> {
    let mut shared = shared.lock().expect("no panic happens under this lock");
    shared.open += 1;
    let seen = Seen { at_once: shared.open, ..Seen::of(request) };
    shared.seen.push(seen.clone());
    shared.rule.as_mut().and_then(|rule| rule(&seen))
}

/// Reads the whole body first: a client must see the status and not a broken pipe.
async fn refuse(request: hyper::Request<Body>, status: u16) -> HttpResponse {
    let mut body = request.into_body();
    while body.next().await.is_some() {}
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>TestFault{status}</Code><Message>asked for</Message></Error>"
    );
    let mut response = hyper::Response::new(Body::from(text));
    *response.status_mut() = hyper::StatusCode::from_u16(status).expect("tests ask for real statuses");
    response
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if path.is_dir() {
            std::fs::create_dir_all(&name).unwrap();
            copy_files(&path, &name);
        } else {
            std::fs::copy(&path, &name).unwrap();
        }
    }
}

fn collect_keys(bucket: &Path, dir: &Path, keys: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_keys(bucket, &path, keys);
        } else {
            let key = path.strip_prefix(bucket).expect("the walk began there");
            keys.push(key.to_str().unwrap().to_owned());
        }
    }
}
