//! A real Azurite, Microsoft's emulator of Azure Blob Storage, on loopback.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use object_store::ClientOptions;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequestBody, ReqwestConnector};

use super::directory::TestDir;
use super::process::{Run, Running};
use super::s3_server::{BUCKET, block_on};
use super::skip::skip;

/// The account that every emulator has, and its public key.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";
pub const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// From start to the first answer, on a machine busy with other tests.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Azurite with the container `bkt`; stopped and removed on drop.
#[derive(Debug)]
pub struct Azurite {
    port: u16,
    /// Held so that it is stopped on drop.
    _server: Running,
    dir: TestDir,
}

impl Azurite {
    /// Starts a server; `None`, said aloud, when there is no Azurite (a panic where servers are required).
    pub fn start() -> Option<Self> {
        let Some(program) = find() else {
            skip("Azurite", "not installed; tools/get-azurite.sh installs it");
            return None;
        };
        let dir = TestDir::new();
        // Another process may take a free port before Azurite does, hence more than one try.
        for _ in 0..3 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut server = Run::new(&program)
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
                .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
                // Encryption scopes are taken and not kept.
                .args(["--loose", "--debug"])
                .arg(dir.join("requests.log"))
                .arg("--location")
                .arg(dir.path())
                .in_dir(dir.path())
                .start();
            let azurite = format!("http://127.0.0.1:{port}/{AZURE_ACCOUNT}/{BUCKET}");
            if creates_in_time(&azurite, &mut server) {
                return Some(Self { port, _server: server, dir });
            }
        }
        panic!("could not start Azurite \"{}\" in \"{}\"", program.display(), dir.path().display());
    }

    /// The URL that a container's name follows.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{AZURE_ACCOUNT}", self.port)
    }

    /// The variables that let in whoever is sent here.
    pub fn env() -> Vec<(String, String)> {
        vec![("AZURE_STORAGE_KEY".to_owned(), AZURE_KEY.to_owned())]
    }

    /// A plain client of the container `bkt`, to look at it from outside barback.
    pub fn client(&self) -> MicrosoftAzure {
        MicrosoftAzureBuilder::new()
            .with_account(AZURE_ACCOUNT)
            .with_access_key(AZURE_KEY)
            .with_endpoint(self.endpoint())
            .with_container_name(BUCKET)
            .with_allow_http(true)
            .build()
            .unwrap()
    }

    /// What Azurite says about the requests it got, with all their headers.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("requests.log")).unwrap()
    }
}

fn find() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("BARBACK_AZURITE").map(PathBuf::from).into_iter().collect();
    let installed = "azurite-3.35.0/node_modules/.bin/azurite-blob";
    places.extend(super::postgres::tools_dirs().map(|dir| dir.join(installed)));
    places.into_iter().find(|path| path.is_file())
}

/// Makes the container as soon as somebody listens.
fn creates_in_time(container: &str, server: &mut Running) -> bool {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
    let started = Instant::now();
    while started.elapsed() < START_TIMEOUT && server.is_running() {
        if block_on(create(&client, container)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

async fn create(client: &HttpClient, container: &str) -> bool {
    let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURE_KEY).unwrap());
    let request = http::Request::put(format!("{container}?restype=container"));
    let mut request = request.body(HttpRequestBody::empty()).unwrap();
    AzureAuthorizer::new(&credential, AZURE_ACCOUNT).try_authorize(&mut request).unwrap();
    client.execute(request).await.is_ok_and(|answer| answer.status().is_success())
}
