//! Who barback says it is at Azure and Google Cloud Storage, and the ways there: keys, signatures, tokens, proxies.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::PermissionsExt as _;

use barback::error::{Error, ErrorKind};
use barback::store::{AzureCredential, Metadata, Probe, Store, StoreOptions};

use crate::harness::{
    AZURE_ACCOUNT, AZURE_KEY, BUCKET, Certificate, Run, S3Server, TestDir, TestStore, WebServer, barback, block_on,
};

const TOKEN: &str = "eyJ0eXAi.token";

#[test]
fn azure_takes_a_key_a_signature_and_connection_strings_of_either() {
    let Some(store) = TestStore::azurite() else { return };
    let endpoint = store.azure().endpoint();
    let (sas, narrow) = (account_sas(), container_sas());
    let with_key = format!("AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};BlobEndpoint={endpoint};");
    let with_sas = format!("BlobEndpoint={endpoint};SharedAccessSignature={sas}");
    let wrong_key = "d3Jvbmc=";
    let (url, short) = (format!("{endpoint}/{BUCKET}/pfx"), format!("az://{BUCKET}/pfx"));
    for (url, variables) in [
        (&url, vec![("AZURE_STORAGE_KEY", AZURE_KEY)]),
        (&url, vec![("AZURE_STORAGE_SAS_TOKEN", sas.as_str())]),
        (&url, vec![("AZURE_STORAGE_SAS_TOKEN", narrow.as_str())]),
        (&url, vec![("AZURE_STORAGE_CONNECTION_STRING", with_key.as_str())]),
        (&url, vec![("AZURE_STORAGE_CONNECTION_STRING", with_sas.as_str())]),
        // A connection string says where the account is.
        (&short, vec![("AZURE_STORAGE_CONNECTION_STRING", with_key.as_str())]),
        (&short, vec![("AZURE_STORAGE_CONNECTION_STRING", with_sas.as_str())]),
        // It comes before a signature, and that before a key.
        (
            &url,
            vec![
                ("AZURE_STORAGE_CONNECTION_STRING", with_key.as_str()),
                ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=wrong"),
                ("AZURE_STORAGE_KEY", wrong_key),
            ],
        ),
        (&url, vec![("AZURE_STORAGE_SAS_TOKEN", sas.as_str()), ("AZURE_STORAGE_KEY", wrong_key)]),
    ] {
        let options = on(&store, url, &variables);
        let opened = open(&options).unwrap();
        assert_eq!(block_on(opened.probe("pfx/")).unwrap(), Probe::Present, "{variables:?}");
        block_on(opened.put("pfx/one", b"1".to_vec(), &Metadata::new())).unwrap();
        block_on(opened.list("pfx/", None, drop)).unwrap();
        block_on(opened.put("pfx/a b/ä&+#%", b"1".to_vec(), &Metadata::new())).unwrap();
        let keys = ["pfx/one", "pfx/two", "pfx/a b/ä&+#%"].map(str::to_owned);
        assert!(block_on(opened.delete_batch(&keys)).unwrap().is_empty(), "{variables:?}");
        block_on(opened.delete("pfx/one")).unwrap();
        assert_eq!(store.keys(), [""; 0], "{variables:?}");
    }
    for variables in [("AZURE_STORAGE_KEY", wrong_key), ("AZURE_STORAGE_SAS_TOKEN", "sv=2021-10-04&sig=d3Jvbmc%3D")] {
        let opened = open(&on(&store, &url, &[variables])).unwrap();
        let refused = block_on(opened.probe("pfx/")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        let refused = block_on(opened.put("pfx/one", b"1".to_vec(), &Metadata::new())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        assert!(!refused.to_string().contains("d3Jvbmc"), "{refused}");
    }
}

#[test]
fn what_azure_cannot_work_with_is_said_before_anything_is_sent() {
    let store = TestStore::directory();
    for (url, variables, says) in [
        ("az://bkt", vec![("AZURE_STORAGE_KEY", "a2V5")], "which storage account"),
        ("az://bkt", vec![("AZURE_STORAGE_CONNECTION_STRING", "hunter2")], "AZURE_STORAGE_CONNECTION_STRING"),
        ("https://acc.blob.core.windows.net/bkt", vec![("AZURE_STORAGE_KEY", "hunter2!")], "not base64"),
        ("https://acc.blob.core.windows.net/bkt", vec![("AZURE_STORAGE_SAS_TOKEN", "hunter2")], "SAS token"),
    ] {
        let refused = open(&on(&store, url, &variables)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Usage, "{refused}");
        assert!(refused.to_string().contains(says) && !refused.to_string().contains("hunter2"), "{refused}");
    }
    let fine = [("AZURE_STORAGE_ACCOUNT", "acc"), ("AZURE_STORAGE_KEY", "a2V5")];
    assert!(open(&on(&store, "az://bkt", &fine)).is_ok());
}

#[test]
fn azure_identities_are_asked_for_in_the_order_of_azures_own_libraries() {
    let dir = TestDir::new();
    let token_file = dir.write_secret("federated", "assertion-of-the-pod").display().to_string();
    let azure = WebServer::start(azure);
    let (metadata, authority) = (format!("{}/metadata", azure.endpoint()), format!("{}/", azure.endpoint()));
    let application = [("AZURE_TENANT_ID", "tenant"), ("AZURE_CLIENT_ID", "me"), ("AZURE_AUTHORITY_HOST", &authority)];
    let secret = ("AZURE_CLIENT_SECRET", "s3cret");
    let pod = ("AZURE_FEDERATED_TOKEN_FILE", token_file.as_str());
    let machine = ("IDENTITY_ENDPOINT", metadata.as_str());
    let key = ("AZURE_STORAGE_KEY", AZURE_KEY);
    let (managed, default) = (Some(AzureCredential::ManagedIdentity), Some(AzureCredential::Default));
    for (which, variables, who) in [
        (None, vec![machine], "machine"),
        (None, [&application[..], &[secret, pod, machine]].concat(), "secret"),
        (None, [&application[..], &[pod, machine]].concat(), "pod"),
        // What is asked for by name wins over a key.
        (default, vec![machine, key], "machine"),
        (managed, vec![machine, key], "machine"),
        // To Azure's libraries the identity of a pod is a managed one.
        (managed, [&application[..], &[secret, pod, machine]].concat(), "pod"),
        (managed, [&application[..], &[secret, machine]].concat(), "machine"),
    ] {
        let url = format!("{}/acc/{BUCKET}", azure.endpoint());
        let options = StoreOptions { azure_credential: which, ..on(&TestStore::directory(), &url, &variables) };
        assert_eq!(block_on(open(&options).unwrap().probe("pfx/")).unwrap(), Probe::Present, "{variables:?}");
        let seen = azure.requests().pop().unwrap();
        assert_eq!(seen.header("authorization"), Some(format!("Bearer token-of-{who}").as_str()), "{variables:?}");
    }
}

#[test]
fn az_is_asked_where_the_machine_has_no_identity() {
    let dir = TestDir::new();
    dir.create_dir("bin");
    let answer = format!(
        "{{\"accessToken\": \"{TOKEN}\", \"tokenType\": \"Bearer\", \"expiresOn\": \"2999-01-01 00:00:00.000000\"}}"
    );
    let az = dir.write("bin/az", format!("#!/bin/sh\necho '{answer}'\n"));
    std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
    let azure = WebServer::start(azure);
    barback(&["list", "--store", &format!("{}/acc/{BUCKET}", azure.endpoint())])
        .env("IDENTITY_ENDPOINT", format!("{}/nothing", azure.endpoint()))
        .env("PATH", format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap()))
        .env("BARBACK_RETRY_TIMEOUT_S", "1")
        .run();
    let seen = azure.requests();
    let said = seen.iter().filter_map(|seen| seen.header("authorization")).collect::<Vec<_>>();
    assert!(seen[0].target.starts_with("/nothing"), "{seen:?}");
    assert!(!said.is_empty() && said.iter().all(|said| *said == format!("Bearer {TOKEN}")), "{seen:?}");
}

#[test]
fn google_credentials_that_cannot_be_used_are_named() {
    let dir = TestDir::new();
    let store = TestStore::directory();
    for (content, says) in [
        ("nonsense", "not JSON"),
        ("{}", "does not say its type"),
        ("{\"type\": \"external_account\"}", "its type is \"external_account\""),
    ] {
        let file = dir.write_secret("credentials.json", content).display().to_string();
        let refused = open(&on(&store, "gs://bkt", &[("GOOGLE_APPLICATION_CREDENTIALS", &file)])).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Usage, "{refused}");
        assert!(refused.to_string().contains(says), "{refused}");
    }
    let missing = open(&on(&store, "gs://bkt", &[("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")])).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Local, "{missing}");
}

#[test]
fn an_empty_credentials_file_means_the_metadata_service_and_a_proxy_is_used_on_the_way() {
    let dir = TestDir::new();
    let metadata = WebServer::start(|_, _| (200, format!("{{\"access_token\": \"{TOKEN}\", \"expires_in\": 3600}}")));
    let proxy = WebServer::start(|_, _| (502, "no further".to_owned()));
    let empty = dir.write("credentials.json", "").display().to_string();
    let list = || {
        barback(&["list", "--store", "gs://bkt/pfx"])
            .env("GCE_METADATA_HOST", metadata.address())
            .env("HTTPS_PROXY", proxy.endpoint())
            .env("BARBACK_RETRY_TIMEOUT_S", "0")
    };
    for (variables, host) in [
        (vec![("GOOGLE_APPLICATION_CREDENTIALS", empty.as_str())], "storage.googleapis.com:443"),
        (vec![("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "example.test")], "storage.example.test:443"),
    ] {
        let before = (metadata.requests().len(), proxy.requests().len());
        list().envs(&owned(&variables)).run().expect_code(2);
        let asked = &metadata.requests()[before.0];
        assert!(asked.target.starts_with("/computeMetadata/v1/instance/service-accounts/default/token"), "{asked:?}");
        assert_eq!(asked.header("metadata-flavor"), Some("Google"));
        let through = &proxy.requests()[before.1];
        assert_eq!((through.method.as_str(), through.header("host")), ("CONNECT", Some(host)), "{through:?}");
    }
}

#[test]
fn a_proxy_is_used_except_for_hosts_that_are_excluded() {
    let (dir, server) = (TestDir::new(), S3Server::start());
    let proxy = WebServer::start(|_, _| (502, "no further".to_owned()));
    let list = |variables: &[(&str, &str)]| {
        barback(&["list", "--store", "s3://bkt/pfx"])
            .envs(&server.env())
            .envs(&owned(variables))
            .env("BARBACK_RETRY_TIMEOUT_S", "0")
            .env("BARBACK_CACHE_DIR", dir.join("cache").display().to_string())
            .run()
    };
    let there = proxy.endpoint();
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let before = proxy.requests().len();
        list(&[(name, &there)]).expect_code(2);
        assert!(proxy.requests().len() > before, "{name}");
    }
    assert_eq!(server.requests(), []);
    let before = proxy.requests().len();
    for excluded in ["127.0.0.1", "s3.test, 127.0.0.0/8"] {
        for name in ["NO_PROXY", "no_proxy"] {
            list(&[("HTTP_PROXY", &there), (name, excluded)]).expect_code(0);
        }
    }
    assert_eq!(proxy.requests().len(), before);
    let secure = [("AWS_ENDPOINT_URL", "https://s3.test"), ("HTTPS_PROXY", there.as_str())];
    list(&secure).expect_code(2);
    let through = proxy.requests().pop().unwrap();
    assert_eq!((through.method.as_str(), through.header("host")), ("CONNECT", Some("s3.test:443")));
}

#[test]
fn aws_is_asked_for_the_region_of_a_bucket_unless_it_is_known() {
    let dir = TestDir::new();
    let proxy = WebServer::start(|_, _| (502, "no further".to_owned()));
    let hosts = |bucket: &str, variables: &[(&str, &str)]| {
        let before = proxy.requests().len();
        barback(&["list", "--store", &format!("s3://{bucket}/pfx")])
            .envs(&owned(&[("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")]))
            .envs(&owned(variables))
            .env("HTTPS_PROXY", proxy.endpoint())
            .env("BARBACK_RETRY_TIMEOUT_S", "0")
            .env("BARBACK_CACHE_DIR", dir.join("cache").display().to_string())
            .run()
            .expect_code(2);
        let requests = proxy.requests();
        requests[before..].iter().map(|seen| seen.header("host").unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Nobody answers there: the default is as good as any.
    assert_eq!(hosts("bkt", &[]), ["bkt.s3.amazonaws.com:443", "bkt.s3.us-east-1.amazonaws.com:443"]);
    assert_eq!(hosts("bkt", &[("AWS_REGION", "eu-west-1")]), ["bkt.s3.eu-west-1.amazonaws.com:443"]);
    assert_eq!(hosts("bkt", &[("AWS_REGION", "cn-north-1")]), ["bkt.s3.cn-north-1.amazonaws.com.cn:443"]);
    // A dot in a bucket's name would be one too many for the certificate.
    assert_eq!(hosts("my.bkt", &[("AWS_REGION", "eu-west-1")]), ["s3.eu-west-1.amazonaws.com:443"]);
}

#[test]
fn no_secret_of_azure_is_ever_said() {
    let (dir, server) = (TestDir::new(), WebServer::start(|_, _| (500, "out of order".to_owned())));
    let secret = "aHVudGVyMg==";
    let sas = format!("sv=2021-10-04&sp=rwdl&sig={secret}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let name = "000000010000000000000005";
    dir.create_dir("pg_wal");
    let file = dir
        .write(&format!("pg_wal/{name}"), crate::harness::segment(name, 1, crate::harness::Filling::Compressible, 1));
    for endpoint in [format!("{}/acc", server.endpoint()), format!("http://{closed}/acc")] {
        let connection = format!("BlobEndpoint={endpoint};SharedAccessSignature={sas}");
        let keyed = format!("AccountName=acc;AccountKey={secret};BlobEndpoint={endpoint}");
        for (variable, value) in [
            ("AZURE_STORAGE_SAS_TOKEN", sas.as_str()),
            ("AZURE_STORAGE_KEY", secret),
            ("AZURE_STORAGE_CONNECTION_STRING", &connection),
            ("AZURE_STORAGE_CONNECTION_STRING", &keyed),
        ] {
            let said = barback(&["wal-archive", "-vvv", "--store", &format!("{endpoint}/{BUCKET}")])
                .arg(&file)
                .env(variable, value)
                .env("BARBACK_RETRY_TIMEOUT_S", "1")
                .run()
                .expect_code(2);
            assert!(!said.stderr.contains("aHVudGVyMg") && !said.stdout.contains("aHVudGVyMg"), "{}", said.stderr);
        }
    }
}

#[test]
fn azure_behind_tls_is_trusted_with_the_bundle_that_its_own_libraries_read() {
    let dir = TestDir::new();
    let Some(certificate) = Certificate::make(&dir) else { return };
    let server = S3Server::with_tls(&certificate);
    let store = TestStore::directory();
    let authority = certificate.authority.display().to_string();
    let probe = |variables: &[(&str, &str)]| {
        let options = on(&store, &format!("{}/acc/{BUCKET}", server.endpoint()), variables);
        block_on(open(&options).unwrap().probe("pfx/"))
    };
    let key = ("AZURE_STORAGE_KEY", "a2V5");
    assert!(probe(&[key]).unwrap_err().to_string().contains("certificate"));
    assert_eq!(server.requests(), []);
    // An S3 server does not know what it is asked: it is asked, which is all that counts here.
    let _ = probe(&[key, ("REQUESTS_CA_BUNDLE", &authority)]);
    assert_eq!(server.requests().len(), 1);
}

/// A token service, a metadata service and a container, as far as an identity gets to see them.
fn azure(seen: &crate::harness::Seen, body: &str) -> (u16, String) {
    let token = |who: &str, end: &str| (200, format!("{{\"access_token\": \"token-of-{who}\", {end}}}"));
    match seen.target.split(['/', '?']).nth(1) {
        Some("metadata") => token("machine", "\"expires_on\": \"32503680000\""),
        Some("tenant") if body.contains("client_assertion=assertion-of-the-pod") => {
            token("pod", "\"expires_in\": 3600")
        }
        Some("tenant") if body.contains("client_secret=s3cret") => token("secret", "\"expires_in\": 3600"),
        Some("acc") => (200, String::new()),
        _ => (404, String::new()),
    }
}

/// A store at `url` in an environment of `variables` alone.
fn on(store: &TestStore, url: &str, variables: &[(&str, &str)]) -> StoreOptions {
    let environment = owned(variables).into_iter().collect();
    StoreOptions { place: url.parse().unwrap(), environment, ..store.options() }
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn open(options: &StoreOptions) -> Result<Store, Error> {
    block_on(Store::open(options))
}

/// A signature over everything in the emulator's account, as Azure's portal makes them.
fn account_sas() -> String {
    let (version, services, kinds, rights, end) = ("2021-10-04", "b", "sco", "rwdlactx", "2999-01-01T00:00:00Z");
    let text = format!("{AZURE_ACCOUNT}\n{rights}\n{services}\n{kinds}\n\n{end}\n\nhttps,http\n{version}\n\n");
    let signature = hmac(&text);
    format!("?sv={version}&ss={services}&srt={kinds}&sp={rights}&se={end}&spr=https,http&sig={signature}")
}

/// A signature over the blobs of one container, which tells nothing about the container itself.
fn container_sas() -> String {
    let (version, rights, end) = ("2021-10-04", "racwdl", "2999-01-01T00:00:00Z");
    let resource = format!("/blob/{AZURE_ACCOUNT}/{BUCKET}");
    // Rights, start, end, resource; identifier, address, protocol; version, kind; snapshot, scope, five answer headers.
    let text = format!("{rights}\n\n{end}\n{resource}\n\n\n\n{version}\nc\n\n\n\n\n\n\n");
    let signature = hmac(&text);
    format!("sv={version}&sr=c&sp={rights}&se={end}&sig={signature}")
}

/// HMAC-SHA256 with the emulator's key, in base64 as a URL wants it.
fn hmac(text: &str) -> String {
    let openssl = "printf %s \"$0\" | openssl dgst -sha256 -mac HMAC -macopt hexkey:\"$(printf %s \"$1\" | base64 -d | od -An -vtx1 | tr -d ' \\n')\" -binary | base64 -w0";
    let signature = Run::new("/bin/sh").args(["-c", openssl, text, AZURE_KEY]).success().stdout;
    url::form_urlencoded::byte_serialize(signature.as_bytes()).collect()
}
