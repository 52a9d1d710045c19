//! Requests that the store library does not know, made and signed here: is the bucket there, make it, is an object locked.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::azure::{AzureAuthorizer, AzureCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, ReqwestConnector,
};
use object_store::gcp::GcpCredentialProvider;
use object_store::path::Path as ObjectPath;
use object_store::signer::Signer;

use super::retry::{self, Tries};
use super::{Place, Store, failure, path_of};
use crate::error::{Error, ErrorKind, Result};

/// Answers to these requests are short: what is longer is cut off.
const ANSWER_LIMIT_BYTES: usize = 64 << 10;

/// The region whose buckets must not be asked for by its name.
const UNNAMED_REGION: &str = "us-east-1";

/// Whether a store's bucket, container or directory is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It is.
    Present,
    /// The store says that it is not.
    Absent,
    /// No connection to the store could be made, and to which URL and why, in a sentence: its name is unknown, or nobody
    /// listens there. A server that answers nonsense, late or not at all is an error instead.
    NoConnection(String),
}

/// The service behind a store.
#[derive(Debug)]
pub(super) enum Service {
    S3 { bucket: Box<AmazonS3>, region: String, wire: Wire },
    Azure { credentials: AzureCredentialProvider, by_signature: bool, account: String, url: String, wire: Wire },
    Gcs { credentials: GcpCredentialProvider, url: String, project: Option<String>, wire: Wire },
    Directory(PathBuf),
}

/// The way to a service; made when it is first used, since most commands never do.
#[derive(Debug)]
pub(super) struct Wire {
    options: ClientOptions,
    client: OnceLock<HttpClient>,
}

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    Container,
    /// One of the container's settings.
    About(&'a str),
    /// One name at most of those that begin so.
    Listing(&'a str),
    Object(&'a str),
    /// Uploads that were begun and not ended, of keys that begin so, behind the key and the upload named.
    Uploads {
        prefix: &'a str,
        after: Option<(&'a str, &'a str)>,
        at_most: usize,
    },
    /// One of them: key and id.
    Upload(&'a str, &'a str),
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Store {
    /// Asks whether the bucket or container is there: one request, tried again for as long as any other, and on S3 a second
    /// where the first is refused. It takes the right to list what begins with `within`, and no other.
    ///
    /// Errors: `Denied` where the store refuses to say; `Unreachable` for whatever else is no answer.
    pub async fn probe(&self, within: &str) -> Result<Probe> {
        if let Service::Directory(root) = &*self.service {
            return Ok(if root.is_dir() { Probe::Present } else { Probe::Absent });
        }
        let few = Target::Listing(within);
        let (method, target) = match &*self.service {
            Service::S3 { .. } => (Method::HEAD, Target::Container),
            _ => (Method::GET, few),
        };
        let answer = match self.service.exchange(&method, target, Bytes::new(), self.retry_timeout).await? {
            Ok(answer) => answer,
            Err(error) if could_not_connect(&error) => {
                let url = self.service.request(&method, target, Bytes::new()).await?.uri().to_string();
                // What follows the path may be a signature.
                let url = url.split('?').next().unwrap_or_default();
                // Barman 3.19.1 says so on S3, up to the cause.
                let said = format!("Could not connect to the endpoint URL: \"{url}\": {}", failure::root_cause(&error));
                return Ok(Probe::NoConnection(said));
            }
            Err(error) => return Err(self.broken("look for", &error)),
        };
        match answer.status {
            status if status.is_success() => Ok(Probe::Present),
            StatusCode::NOT_FOUND => Ok(Probe::Absent),
            // The right to list a bucket is that to look at it; one to list a part of it is not.
            StatusCode::FORBIDDEN
                if method == Method::HEAD && self.ask(&Method::GET, few).await?.status.is_success() =>
            {
                Ok(Probe::Present)
            }
            _ => Err(self.refused("look for", &answer)),
        }
    }

    /// Makes the bucket or container, private and without further settings; one that is there already is as good.
    ///
    /// Errors: `Denied`, `Conflict` where the name is somebody else's, `Unreachable`.
    pub async fn create_container(&self, within: &str) -> Result<()> {
        let body = match &*self.service {
            // Opening it made it, or failed.
            Service::Directory(_) => return Ok(()),
            Service::S3 { region, .. } if region != UNNAMED_REGION => Bytes::from(format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{region}\
                 </LocationConstraint></CreateBucketConfiguration>"
            )),
            _ => Bytes::new(),
        };
        let answer = self.service.exchange(&Method::PUT, Target::Container, body, self.retry_timeout).await?;
        let answer = answer.map_err(|error| self.broken("create", &error))?;
        // Whoever may not make it, or comes second, may still use it.
        if answer.status.is_success() || matches!(self.probe(within).await, Ok(Probe::Present)) {
            return Ok(());
        }
        let error = self.refused("create", &answer);
        match &*self.service {
            Service::Gcs { project: None, .. } => {
                Err(error.with_hint("A new bucket belongs to a project: set GOOGLE_CLOUD_PROJECT."))
            }
            _ => Err(error),
        }
    }

    /// True where the store library must not delete: it sends Azure batches, even of one, which need rights that a signature
    /// for blobs does not give (and which Azurite 3.35 refuses to any signature).
    pub(super) fn deletes_one_by_one(&self) -> bool {
        matches!(&*self.service, Service::Azure { by_signature: true, .. })
    }

    /// Deletes one object without the store library.
    pub(super) async fn delete_one(&self, key: &str) -> Result<()> {
        let doing = format!("could not delete object \"{key}\"");
        let answer =
            self.service.exchange(&Method::DELETE, Target::Object(key), Bytes::new(), self.retry_timeout).await?;
        let answer = answer
            .map_err(|error| Error::new(ErrorKind::Unreachable, format!("{doing}: {}", failure::root_cause(&error))))?;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(answer.error(&doing))
    }

    /// One answer, whatever it says. Errors: `Unreachable` without one.
    pub(super) async fn ask(&self, method: &Method, target: Target<'_>) -> Result<Answer> {
        let answer = self.service.exchange(method, target, Bytes::new(), self.retry_timeout).await?;
        answer.map_err(|error| self.broken("look at", &error))
    }

    fn broken(&self, verb: &str, error: &HttpError) -> Error {
        let doing = self.doing(verb);
        Error::new(ErrorKind::Unreachable, format!("{doing}: {}", failure::root_cause(error)))
    }

    pub(super) fn refused(&self, verb: &str, answer: &Answer) -> Error {
        let error = answer.error(&self.doing(verb));
        let elsewhere = answer.headers.get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
        match (&*self.service, elsewhere) {
            (Service::S3 { region, .. }, Some(elsewhere)) if elsewhere != region => {
                error.with_hint(format!("The bucket is in region {elsewhere}, and was looked for in {region}."))
            }
            _ => error,
        }
    }

    fn doing(&self, verb: &str) -> String {
        let noun = if matches!(self.place, Place::Azure { .. }) { "container" } else { "bucket" };
        format!("could not {verb} {noun} \"{}\"", self.place.container())
    }
}

impl Answer {
    pub(super) fn error(&self, doing: &str) -> Error {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Denied,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => ErrorKind::Conflict,
            _ => ErrorKind::Unreachable,
        };
        let said = failure::one_line(&failure::brief(&String::from_utf8_lossy(&self.body)));
        let colon = if said.is_empty() { "" } else { ": " };
        let error = Error::new(kind, format!("{doing}: the server answered {}{colon}{said}", self.status));
        match retry::advice(&said) {
            Some(advice) => error.with_hint(advice),
            None => error,
        }
    }
}

impl Wire {
    pub(super) fn new(options: ClientOptions) -> Self {
        Self { options, client: OnceLock::new() }
    }

    fn client(&self) -> Result<&HttpClient> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let made = ReqwestConnector::default().connect(&self.options);
        let made = made.map_err(|error| failure::describe("reach", "the store", error))?;
        Ok(self.client.get_or_init(|| made))
    }
}

impl Service {
    /// One answer of the server, good or bad, or why there is none; all of these requests can be repeated without harm.
    pub(super) async fn exchange(
        &self,
        method: &Method,
        target: Target<'_>,
        body: Bytes,
        budget: Duration,
    ) -> Result<Result<Answer, HttpError>> {
        let mut tries = Tries::within(budget);
        loop {
            // Signed anew each time: a signature is good for some minutes only.
            let request = self.request(method, target, body.clone()).await?;
            let outcome = self.send(request).await?;
            let may_pass = match &outcome {
                Ok(answer) => retry::may_pass(answer.status),
                Err(error) => error.kind() != HttpErrorKind::Decode,
            };
            if !may_pass || !tries.are_left() {
                return Ok(outcome);
            }
            tries.pause().await;
        }
    }

    async fn request(&self, method: &Method, target: Target<'_>, body: Bytes) -> Result<HttpRequest> {
        let failed = |error| failure::describe("prepare a request to", "the store", error);
        let build = |url: url::Url| {
            let request = http::Request::builder().method(method).uri(url.as_str()).body(HttpRequestBody::from(body));
            request.map_err(|error| Error::usage(format!("could not use URL \"{url}\": {error}")))
        };
        match self {
            Self::S3 { bucket, region, .. } => {
                let mut request = build(s3_url(bucket, target).await?)?;
                let credential = bucket.credentials().get_credential().await.map_err(failed)?;
                AwsAuthorizer::new(&credential, "s3", region).try_authorize(&mut request, None).map_err(failed)?;
                Ok(request)
            }
            Self::Azure { credentials, account, url, .. } => {
                let mut request = build(url_of(url, target, "restype=container", "comp=list&maxresults=1")?)?;
                let credential = credentials.get_credential().await.map_err(failed)?;
                AzureAuthorizer::new(&credential, account).try_authorize(&mut request).map_err(failed)?;
                Ok(request)
            }
            Self::Gcs { credentials, url, project, .. } => {
                let mut request = build(url_of(url, target, "", "list-type=2&max-keys=1")?)?;
                let credential = credentials.get_credential().await.map_err(failed)?;
                let header = |text: &str| {
                    HeaderValue::from_str(text).map_err(|_| Error::usage("could not use a credential: it is no header"))
                };
                let bearer = header(&format!("Bearer {}", credential.bearer))?;
                request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
                if let (Some(project), &Method::PUT) = (project, method) {
                    request.headers_mut().insert("x-goog-project-id", header(project)?);
                }
                Ok(request)
            }
            Self::Directory(_) => Err(Error::new(ErrorKind::Bug, "a directory was sent a request")),
        }
    }

    async fn send(&self, request: HttpRequest) -> Result<Result<Answer, HttpError>> {
        let (Self::S3 { wire, .. } | Self::Azure { wire, .. } | Self::Gcs { wire, .. }) = self else {
            return Err(Error::new(ErrorKind::Bug, "a directory was sent a request"));
        };
        let response = match wire.client()?.execute(request).await {
            Ok(response) => response,
            Err(error) => return Ok(Err(error)),
        };
        let (head, body) = response.into_parts();
        let (mut stream, mut body) = (body.bytes_stream(), Vec::new());
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_LIMIT_BYTES - body.len())]),
                Err(error) => return Ok(Err(error)),
            }
            if body.len() == ANSWER_LIMIT_BYTES {
                break;
            }
        }
        Ok(Ok(Answer { status: head.status, headers: head.headers, body: body.into() }))
    }
}

/// The library knows the URL of everything in the bucket, and tells it signed only.
async fn s3_url(bucket: &AmazonS3, target: Target<'_>) -> Result<url::Url> {
    let path = match target {
        Target::Container | Target::About(_) | Target::Listing(_) | Target::Uploads { .. } => ObjectPath::default(),
        Target::Object(key) | Target::Upload(key, _) => path_of(key)?,
    };
    let signed = bucket.signed_url(Method::GET, &path, Duration::from_mins(1)).await;
    let mut url = signed.map_err(|error| failure::describe("prepare a request to", "the store", error))?;
    url.set_query(None);
    if path.as_ref().is_empty() {
        let plain = url.path().trim_end_matches('/').to_owned();
        url.set_path(&plain);
    }
    match target {
        Target::Container | Target::Object(_) => {}
        Target::Listing(prefix) => {
            url.set_query(Some("list-type=2&max-keys=1"));
            url.query_pairs_mut().append_pair("prefix", prefix);
        }
        Target::About(setting) => url.set_query(Some(setting)),
        Target::Uploads { prefix, after, at_most } => {
            url.set_query(Some("uploads"));
            let mut query = url.query_pairs_mut();
            query.append_pair("max-uploads", &at_most.to_string()).append_pair("prefix", prefix);
            if let Some((key, id)) = after {
                query.append_pair("key-marker", key).append_pair("upload-id-marker", id);
            }
        }
        Target::Upload(_, id) => {
            url.query_pairs_mut().append_pair("uploadId", id);
        }
    }
    Ok(url)
}

/// What stands behind a container's URL; `about` is said of the container in each request on it, `few` in a listing.
fn url_of(container: &str, target: Target<'_>, about: &str, few: &str) -> Result<url::Url> {
    let refuse = |cause: &str| Error::usage(format!("could not use URL \"{container}\": {cause}"));
    let mut url = url::Url::parse(container).map_err(|error| refuse(&error.to_string()))?;
    match target {
        // Google tells it in its JSON API alone, which has the bucket at another place.
        Target::About(setting) => {
            let bucket = url.path().rsplit('/').next().unwrap_or_default().to_owned();
            let base = url.path().trim_end_matches(bucket.as_str()).to_owned();
            url.set_path(&format!("{base}storage/v1/b/{bucket}"));
            url.set_query(Some(&format!("fields={setting}")));
        }
        Target::Container => url.set_query(Some(about).filter(|about| !about.is_empty())),
        Target::Listing(prefix) => {
            let all = [about, few].join("&");
            url.set_query(Some(all.trim_start_matches('&')));
            url.query_pairs_mut().append_pair("prefix", prefix);
        }
        Target::Uploads { .. } | Target::Upload(..) => {
            return Err(Error::new(ErrorKind::Bug, "a question for S3 was put to another service"));
        }
        Target::Object(key) => {
            url.path_segments_mut().map_err(|()| refuse("it has no path"))?.extend(key.split('/'));
        }
    }
    Ok(url)
}

/// True when no server was reached at all. One that shows a certificate nobody trusts was reached.
fn could_not_connect(error: &HttpError) -> bool {
    error.kind() == HttpErrorKind::Connect && !failure::is_about_tls(error)
}
