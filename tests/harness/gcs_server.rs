//! Google Cloud Storage inside the test process: as much of its XML API as the store library speaks.
//!
//! There is no emulator of that API: those that exist speak the JSON API. What is here follows Google's reference of it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, SecondsFormat, Utc};
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder as Connections;
use s3s::Body;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::s3_server::{BUCKET, Seen};

/// Objects on a page of a listing: few, so that every longer one has several.
pub const GCS_PAGE: usize = 3;

/// Every part but the last must be as long.
const LEAST_PART: usize = 5 << 20;

const META: &str = "x-goog-meta-";

/// A server on a free loopback port with the bucket `bkt`; gone on drop. It lets in whoever is `anonymous`, as the libraries
/// say they are to an emulator.
#[derive(Debug)]
pub struct GcsServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<Seen>,
    buckets: BTreeSet<String>,
    /// By bucket and key.
    objects: BTreeMap<(String, String), Stored>,
    uploads: BTreeMap<String, Begun>,
    /// Grows with every write.
    generation: u64,
}

#[derive(Debug, Clone)]
struct Stored {
    content: Vec<u8>,
    metadata: Vec<(String, String)>,
    generation: u64,
    modified: DateTime<Utc>,
}

#[derive(Debug)]
struct Begun {
    object: (String, String),
    metadata: Vec<(String, String)>,
    parts: BTreeMap<usize, Vec<u8>>,
}

/// A request whose body has been read.
struct Asked {
    method: Method,
    bucket: String,
    key: Option<String>,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl GcsServer {
    /// A server with an empty bucket.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let state = State { buckets: BTreeSet::from([BUCKET.to_owned()]), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The variable that leads Google's libraries here.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![("STORAGE_EMULATOR_HOST".to_owned(), self.endpoint())]
    }

    /// Every request since the start or the last `forget_requests`.
    pub fn requests(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// Starts counting anew.
    pub fn forget_requests(&self) {
        self.lock().seen.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic happens under this lock")
    }
}

impl Drop for GcsServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((socket, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            let answer = service_fn(move |request| serve(request, Arc::clone(&state)));
            // A client that goes away in the middle is everyday life, not a failure of the test.
            let _ = Connections::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

async fn serve(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Body>, Infallible> {
    let seen = Seen::of(&request);
    let (head, body) = request.into_parts();
    let (mut stream, mut body) = (Body::from(body), Vec::new());
    while let Some(Ok(chunk)) = stream.next().await {
        body.extend_from_slice(&chunk);
    }
    let path = head.uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let query = head.uri.query().unwrap_or_default();
    let asked = Asked {
        method: head.method,
        bucket: decoded(bucket),
        key: Some(decoded(key)).filter(|key| !key.is_empty()),
        query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers: head.headers,
        body,
    };
    let mut state = state.lock().expect("no panic happens under this lock");
    state.seen.push(seen);
    Ok(state.answer(asked))
}

impl State {
    fn answer(&mut self, asked: Asked) -> Response<Body> {
        if asked.header("authorization") != Some("Bearer anonymous") {
            return error(StatusCode::UNAUTHORIZED, "AuthenticationRequired");
        }
        let Some(key) = asked.key.clone() else { return self.answer_for_bucket(&asked) };
        if !self.buckets.contains(&asked.bucket) {
            return error(StatusCode::NOT_FOUND, "NoSuchBucket");
        }
        let object = (asked.bucket.clone(), key);
        match (asked.method.as_str(), asked.query.get("uploadId")) {
            ("POST", None) if asked.query.contains_key("uploads") => self.begin(object, &asked),
            ("PUT", Some(upload)) => self.take_part(upload, &asked),
            ("POST", Some(upload)) => self.complete(upload, &asked),
            ("DELETE", Some(upload)) => match self.uploads.remove(upload) {
                Some(_) => empty(StatusCode::NO_CONTENT),
                None => error(StatusCode::NOT_FOUND, "NoSuchUpload"),
            },
            ("PUT", None) => self.put(object, asked),
            ("GET" | "HEAD", None) => self.get(&object, &asked),
            ("DELETE", None) => match self.objects.remove(&object) {
                Some(_) => empty(StatusCode::NO_CONTENT),
                None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
            },
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn answer_for_bucket(&mut self, asked: &Asked) -> Response<Body> {
        let is_there = self.buckets.contains(&asked.bucket);
        match asked.method {
            Method::PUT if asked.header("x-goog-project-id").is_none() => {
                error(StatusCode::BAD_REQUEST, "UserProjectMissing")
            }
            Method::PUT if is_there => error(StatusCode::CONFLICT, "BucketAlreadyOwnedByYou"),
            Method::PUT => {
                self.buckets.insert(asked.bucket.clone());
                empty(StatusCode::OK)
            }
            _ if !is_there => error(StatusCode::NOT_FOUND, "NoSuchBucket"),
            Method::HEAD => empty(StatusCode::OK),
            Method::GET if asked.query.get("list-type").is_some_and(|kind| kind == "2") => self.list(asked),
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn put(&mut self, object: (String, String), asked: Asked) -> Response<Body> {
        let generation = self.objects.get(&object).map_or(0, |stored| stored.generation);
        if asked.header("x-goog-if-generation-match").is_some_and(|wanted| wanted != generation.to_string()) {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let metadata = asked.metadata();
        self.store(object, asked.body, metadata)
    }

    fn store(&mut self, object: (String, String), content: Vec<u8>, metadata: Vec<(String, String)>) -> Response<Body> {
        self.generation += 1;
        let stored = Stored { content, metadata, generation: self.generation, modified: Utc::now() };
        let answer = stored.answer(StatusCode::OK).body(Body::empty()).unwrap();
        self.objects.insert(object, stored);
        answer
    }

    fn get(&self, object: &(String, String), asked: &Asked) -> Response<Body> {
        let Some(stored) = self.objects.get(object) else { return error(StatusCode::NOT_FOUND, "NoSuchKey") };
        let length = stored.content.len();
        let range = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (status, range) = match range {
            None => (StatusCode::OK, 0..length),
            Some((first, last)) => {
                let first = first.parse().unwrap_or(0);
                let end = last.parse().map_or(length, |last: usize| (last + 1).min(length));
                if first >= length || first >= end {
                    return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
                }
                (StatusCode::PARTIAL_CONTENT, first..end)
            }
        };
        let mut answer = stored.answer(status).header("content-length", range.len());
        if status == StatusCode::PARTIAL_CONTENT {
            answer = answer.header("content-range", format!("bytes {}-{}/{length}", range.start, range.end - 1));
        }
        let body = if asked.method == Method::HEAD { Body::empty() } else { stored.content[range].to_vec().into() };
        answer.body(body).unwrap()
    }

    fn begin(&mut self, object: (String, String), asked: &Asked) -> Response<Body> {
        self.generation += 1;
        let id = format!("upload-{}", self.generation);
        let begun = Begun { object, metadata: asked.metadata(), parts: BTreeMap::new() };
        self.uploads.insert(id.clone(), begun);
        xml(&format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
    }

    fn take_part(&mut self, upload: &str, asked: &Asked) -> Response<Body> {
        let Some(begun) = self.uploads.get_mut(upload) else { return error(StatusCode::NOT_FOUND, "NoSuchUpload") };
        let Some(number) = asked.query.get("partNumber").and_then(|number| number.parse().ok()) else {
            return error(StatusCode::BAD_REQUEST, "InvalidArgument");
        };
        begun.parts.insert(number, asked.body.clone());
        Response::builder().header("etag", etag_of_part(number)).body(Body::empty()).unwrap()
    }

    fn complete(&mut self, upload: &str, asked: &Asked) -> Response<Body> {
        let Some(begun) = self.uploads.get(upload) else { return error(StatusCode::NOT_FOUND, "NoSuchUpload") };
        let named = String::from_utf8_lossy(&asked.body);
        let last = begun.parts.len();
        for (number, part) in &begun.parts {
            if *number < last && part.len() < LEAST_PART {
                return error(StatusCode::BAD_REQUEST, "EntityTooSmall");
            }
            if !named.contains(&etag_of_part(*number)) {
                return error(StatusCode::BAD_REQUEST, "InvalidPart");
            }
        }
        let begun = self.uploads.remove(upload).unwrap();
        let content = begun.parts.into_values().flatten().collect();
        self.store(begun.object, content, begun.metadata);
        xml("<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>")
    }

    fn list(&self, asked: &Asked) -> Response<Body> {
        let text = |name: &str| asked.query.get(name).map_or("", String::as_str);
        let (prefix, delimiter) = (text("prefix"), text("delimiter"));
        // A token is the last key or common prefix of the page before.
        let after = text("continuation-token").max(text("start-after"));
        let page = text("max-keys").parse().unwrap_or(GCS_PAGE).min(GCS_PAGE);
        let (mut entries, mut more) = (BTreeMap::new(), false);
        for ((bucket, key), stored) in &self.objects {
            if *bucket != asked.bucket || !key.starts_with(prefix) || key.as_str() <= after {
                continue;
            }
            let cut = (!delimiter.is_empty()).then(|| key[prefix.len()..].find(delimiter)).flatten();
            let entry = match cut {
                Some(at) => (key[..=prefix.len() + at].to_owned(), None),
                None => (key.clone(), Some(stored)),
            };
            if entries.contains_key(&entry.0) || (entry.1.is_none() && after.starts_with(&entry.0)) {
                continue;
            }
            more = entries.len() == page;
            if more {
                break;
            }
            entries.insert(entry.0, entry.1);
        }
        let listed = entries.iter().map(|(name, stored)| {
            let name = escaped(name);
            let Some(stored) = stored else {
                return format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>");
            };
            format!(
                "<Contents><Key>{name}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>{}</ETag></Contents>",
                stored.content.len(),
                stored.modified.to_rfc3339_opts(SecondsFormat::Millis, true),
                stored.etag(),
            )
        });
        let listed = listed.collect::<String>();
        let token = entries.last_key_value().filter(|_| more).map_or(String::new(), |(last, _)| {
            format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(last))
        });
        xml(&format!("<ListBucketResult>{listed}{token}</ListBucketResult>"))
    }
}

impl Stored {
    fn etag(&self) -> String {
        format!("\"generation-{}\"", self.generation)
    }

    fn answer(&self, status: StatusCode) -> http::response::Builder {
        let answer = Response::builder()
            .status(status)
            .header("etag", self.etag())
            .header("last-modified", self.modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
            .header("x-goog-generation", self.generation);
        self.metadata.iter().fold(answer, |answer, (name, value)| answer.header(format!("{META}{name}"), value))
    }
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let named = self.headers.iter().filter_map(|(name, value)| {
            Some((name.as_str().strip_prefix(META)?.to_owned(), value.to_str().ok()?.to_owned()))
        });
        named.collect()
    }
}

fn etag_of_part(number: usize) -> String {
    format!("\"part-{number}\"")
}

fn empty(status: StatusCode) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

fn xml(body: &str) -> Response<Body> {
    Response::new(Body::from(format!("<?xml version='1.0' encoding='UTF-8'?>{body}")))
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let mut answer = xml(&format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"));
    *answer.status_mut() = status;
    answer
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// `%2F` -> `/`
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits = if byte == b'%' { rest.next().zip(rest.next()) } else { None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let escaped = digits.and_then(|(high, low)| Some(digit(high)? << 4 | digit(low)?));
        bytes.push(escaped.unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
