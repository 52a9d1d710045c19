//! A real MinIO server on loopback, as an independent witness beside s3s-fs.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpConnector as _, HttpRequestBody, ReqwestConnector};

use super::directory::TestDir;
use super::process::{Run, Running};
use super::s3_server::{ACCESS_KEY, BUCKET, SECRET_KEY, block_on, signed, signed_for};
use super::skip::skip;

/// From start to the first answer, on a machine busy with other tests.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// What a form's body is called.
const FORM: &str = "application/x-www-form-urlencoded";

/// MinIO on one drive with the bucket `bkt`; stopped and removed on drop.
#[derive(Debug)]
pub struct Minio {
    port: u16,
    /// Held so that they are stopped and removed on drop.
    _server: Running,
    dir: TestDir,
}

impl Minio {
    /// Starts a server; `None`, said aloud, when there is no MinIO (a panic where servers are required).
    pub fn start() -> Option<Self> {
        let Some(program) = find() else {
            skip("MinIO", "not installed; tools/get-minio.sh builds it");
            return None;
        };
        let dir = TestDir::new();
        let data = dir.create_dir("data");
        // On a single drive a directory of the drive is a bucket.
        dir.create_dir(&format!("data/{BUCKET}"));
        // Another process may take a free port before MinIO does, hence more than one try.
        for _ in 0..3 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut server = Run::new(&program)
                .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
                .args(["--console-address", "127.0.0.1:0"])
                .arg(&data)
                .env("MINIO_ROOT_USER", ACCESS_KEY)
                .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off")
                .env("MINIO_CALLHOME_ENABLE", "off")
                .env("MINIO_CI_CD", "on")
                .in_dir(dir.path())
                .start();
            if answers_in_time(port, &mut server) {
                let minio = Self { port, _server: server, dir };
                // It calls itself ready some time before it answers.
                signed(&minio.env(), "GET", &format!("/{BUCKET}?list-type=2&max-keys=1"), &[], "");
                return Some(minio);
            }
        }
        panic!("could not start MinIO \"{}\" in \"{}\"", program.display(), dir.path().display());
    }

    /// Gives the bucket these lifecycle rules: the document of `PutBucketLifecycleConfiguration`.
    pub fn set_lifecycle(&self, xml: &str) {
        let credential =
            AwsCredential { key_id: ACCESS_KEY.to_owned(), secret_key: SECRET_KEY.to_owned(), token: None };
        let digest = ring::digest::digest(&ring::digest::SHA256, xml.as_bytes());
        let mut request = http::Request::builder()
            .method("PUT")
            .uri(format!("http://127.0.0.1:{}/{BUCKET}?lifecycle", self.port))
            .header("x-amz-checksum-sha256", base64(digest.as_ref()))
            .body(HttpRequestBody::from(xml.to_owned()))
            .unwrap();
        AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).unwrap();
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let status = block_on(async { client.execute(request).await.unwrap().status() });
        assert!(status.is_success(), "MinIO did not take the rules: {status}");
    }

    /// The same variables for somebody who may do what `policy` says, an AWS policy of at most 2048 characters, and nothing else:
    /// a session of this server's owner that the server itself holds to it.
    pub fn env_of(&self, policy: &str) -> Vec<(String, String)> {
        let policy: serde_json::Value = serde_json::from_str(policy).unwrap();
        let body = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", "AssumeRole")
            .append_pair("Version", "2011-06-15")
            .append_pair("DurationSeconds", "3600")
            .append_pair("Policy", &policy.to_string())
            .finish();
        let answer = signed_for(("sts", &self.env()), "POST", "/", &[("content-type", FORM)], &body);
        let text = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name}: {answer}"));
            rest.split_once("</").unwrap().0.to_owned()
        };
        let mut env = self.env();
        for (variable, name) in [
            ("AWS_ACCESS_KEY_ID", "AccessKeyId"),
            ("AWS_SECRET_ACCESS_KEY", "SecretAccessKey"),
            ("AWS_SESSION_TOKEN", "SessionToken"),
        ] {
            env.retain(|(known, _)| known != variable);
            env.push((variable.to_owned(), text(name)));
        }
        env
    }

    /// How many uploads in parts are open, seen on the drive: `MinIO` lists them for one key at a time only.
    pub fn open_uploads(&self) -> usize {
        let below = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let objects = below(self.dir.join("data/.minio.sys/multipart"));
        objects.flat_map(below).filter(|upload| upload.is_dir()).count()
    }

    /// Makes a bucket whose objects are locked for so many days from when they are written.
    pub fn make_locked_bucket(&self, name: &str, days: u32) {
        let env = self.env();
        signed(&env, "PUT", &format!("/{name}"), &[("x-amz-bucket-object-lock-enabled", "true")], "");
        let rule = format!(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
             <Mode>GOVERNANCE</Mode><Days>{days}</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
        );
        let digest = base64(ring::digest::digest(&ring::digest::SHA256, rule.as_bytes()).as_ref());
        signed(&env, "PUT", &format!("/{name}?object-lock"), &[("x-amz-checksum-sha256", &digest)], &rule);
    }

    /// The variables that lead any S3 client to this server.
    pub fn env(&self) -> Vec<(String, String)> {
        super::s3_server::env_for(&format!("http://127.0.0.1:{}", self.port))
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let quads = bytes.chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().chain(&[0; 3]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        let digit = move |at: usize| if at <= chunk.len() { DIGITS[(bits >> (18 - 6 * at)) & 63] } else { b'=' };
        (0..4).map(digit).map(char::from).collect::<Vec<_>>()
    });
    quads.collect()
}

fn find() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("BARBACK_MINIO").map(PathBuf::from).into_iter().collect();
    places.extend(super::postgres::tools_dirs().map(|dir| dir.join("minio")));
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|dir| dir.join("minio")));
    places.into_iter().find(|path| path.is_file())
}

fn answers_in_time(port: u16, server: &mut Running) -> bool {
    let started = Instant::now();
    while started.elapsed() < START_TIMEOUT && server.is_running() {
        if is_ready(port).unwrap_or(false) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

fn is_ready(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /minio/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}
