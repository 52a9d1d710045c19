//! What a store is asked beside reading and writing objects, and what goes with an object: on every kind of store.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use barback::error::ErrorKind;
use barback::store::{Encryption, Metadata, Place, Probe, Store, StoreOptions};
use bytes::Bytes;

use crate::harness::{
    BUCKET, Certificate, Fault, GCS_PAGE, GcsServer, Minio, S3Server, Seen, TestDir, TestStore, block_on,
    for_each_store, signed,
};

const MB: usize = 1 << 20;

#[test]
fn a_container_is_there_or_not_and_can_be_made_twice() {
    for_each_store(|store| {
        let mut options = store.options();
        assert_eq!(probe(&options), Probe::Present);
        if !store.is_s3() {
            return;
        }
        options.place = sibling(&options.place);
        options.environment.insert("GOOGLE_CLOUD_PROJECT".to_owned(), "some-project".to_owned());
        assert_eq!(probe(&options), Probe::Absent);
        let missing = open(&options);
        // Nothing else takes a missing container for an empty one.
        let error = block_on(missing.list("pfx/", None, drop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        block_on(missing.create_container("pfx/")).unwrap();
        assert_eq!(probe(&options), Probe::Present);
        block_on(missing.create_container("pfx/")).unwrap();
        block_on(missing.put("pfx/one", b"1".to_vec(), &Metadata::new())).unwrap();
        assert_eq!(names(&missing, None), ["pfx/one"]);
    });
}

#[test]
fn a_bucket_on_google_cloud_storage_belongs_to_a_project() {
    let store = TestStore::gcs(GcsServer::start());
    let mut options = store.options();
    options.place = sibling(&options.place);
    let refused = block_on(open(&options).create_container("pfx/")).unwrap_err();
    assert!(refused.hint().unwrap().contains("GOOGLE_CLOUD_PROJECT"), "{refused}");
}

#[test]
fn nobody_listening_and_an_unknown_name_are_no_connection_and_everything_else_is_an_error() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("http://127.0.0.1:{port}");
    let s3 = TestStore::s3(S3Server::start());
    let mut options = StoreOptions { retry_timeout_s: 0, read_timeout_s: Some(1), ..s3.options() };
    for (endpoint, cause) in [(dead.as_str(), "refused"), ("http://bucket.invalid", "")] {
        options.endpoint_url = Some(endpoint.to_owned());
        let Probe::NoConnection(said) = probe(&options) else { panic!("{endpoint} was reached") };
        let begins = format!("Could not connect to the endpoint URL: \"{endpoint}/bkt\": ");
        assert!(said.starts_with(&begins) && said.contains(cause), "{said}");
    }
    // It takes connections, and says nothing.
    options.endpoint_url = Some(format!("http://{}", silent.local_addr().unwrap()));
    let error = block_on(open(&options).probe("pfx/")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");

    options.endpoint_url = None;
    for (status, kind) in [(403, ErrorKind::Denied), (401, ErrorKind::Denied), (500, ErrorKind::Unreachable)] {
        s3.server().refuse_all(status);
        let error = block_on(open(&options).probe("pfx/")).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().starts_with("could not look for bucket \"bkt\": "), "{error}");
    }
    s3.server().fail_next(2, 503);
    options.retry_timeout_s = 5;
    assert_eq!(probe(&options), Probe::Present, "a server that is busy is asked again");

    let gone = StoreOptions { place: "s3://bkt".parse().unwrap(), retry_timeout_s: 0, ..s3.options() };
    for (url, variable, value) in [
        (format!("{dead}/acc/bkt"), "AZURE_STORAGE_KEY", "a2V5".to_owned()),
        (format!("{dead}/acc/bkt"), "AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=hunter2".to_owned()),
        ("gs://bkt".to_owned(), "STORAGE_EMULATOR_HOST", format!("127.0.0.1:{port}")),
    ] {
        let mut gone = gone.clone();
        gone.place = url.parse().unwrap();
        gone.environment.insert(variable.to_owned(), value);
        let Probe::NoConnection(said) = probe(&gone) else { panic!("{url} was reached") };
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn an_answer_without_end_is_given_up_before_it_fills_the_memory() {
    let (endpoint, sent) = endless_server();
    let s3 = TestStore::s3(S3Server::start());
    let options = StoreOptions { endpoint_url: Some(endpoint), retry_timeout_s: 0, ..s3.options() };
    let store = open(&options);
    let refused = |error: barback::error::Error, kind: ErrorKind| {
        assert_eq!(error.kind(), kind, "{error}");
        let sent = sent.swap(0, Ordering::Relaxed);
        assert!(sent < 64 * MB, "{sent} bytes were taken: {error}");
    };
    refused(block_on(store.get("pfx/one", 1000)).unwrap_err(), ErrorKind::Corrupt);
    refused(block_on(store.get_range("pfx/one", 0..3)).unwrap_err(), ErrorKind::Unreachable);
    refused(block_on(store.list("pfx/", None, drop)).unwrap_err(), ErrorKind::Unreachable);
    refused(block_on(store.list_names("pfx/", "one")).unwrap_err(), ErrorKind::Unreachable);
}

#[test]
fn a_certificate_nobody_trusts_is_an_error_and_not_a_missing_connection() {
    let dir = TestDir::new();
    let Some(certificate) = Certificate::make(&dir) else { return };
    let store = TestStore::s3(S3Server::with_tls(&certificate));
    let mut options = StoreOptions { retry_timeout_s: 0, ..store.options() };
    let error = block_on(open(&options).probe("pfx/")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    options.ca_bundle = Some(certificate.authority);
    assert_eq!(probe(&options), Probe::Present);
}

#[test]
fn a_listing_begins_behind_a_key_and_ends_when_it_is_told_to() {
    for_each_store(|store| {
        let keys: Vec<String> = (0..10).map(|number| format!("d/{number}")).collect();
        write_all(store, &keys);
        store.write("e/0", b"x");
        let opened = open(&store.options());
        let prefix = if store.is_s3() { "pfx/" } else { "" };
        let full = |key: &str| format!("{prefix}{key}");
        let all: Vec<String> = keys.iter().map(|key| full(key)).collect();
        assert_eq!(listed(&opened, &full("d/"), None, usize::MAX), all);
        assert_eq!(listed(&opened, &full("d/"), Some(&full("d/4")), usize::MAX), all[5..]);
        // A key that is not there is as good to begin behind.
        assert_eq!(listed(&opened, &full("d/"), Some(&full("d/45")), usize::MAX), all[5..]);
        assert_eq!(listed(&opened, &full("d/"), Some(&full("d/9")), usize::MAX), [""; 0]);
        assert_eq!(listed(&opened, &full("d/"), None, 4).len(), 4);
        let named = block_on(opened.list_names(&full("d/"), "4")).unwrap();
        assert_eq!(named.into_iter().map(|object| object.key).collect::<Vec<_>>(), [full("d/4")]);
        assert_eq!(block_on(opened.list_directories(prefix)).unwrap(), [full("d/"), full("e/")]);
    });
}

#[test]
fn no_page_is_asked_for_after_the_listing_was_told_to_end() {
    let store = TestStore::gcs(GcsServer::start());
    (0..10).for_each(|number| store.write(&format!("d/{number}"), b"x"));
    let opened = open(&store.options());
    store.google().forget_requests();
    assert_eq!(listed(&opened, "pfx/d/", None, GCS_PAGE + 1).len(), GCS_PAGE + 1);
    assert_eq!(store.google().requests().len(), 2);
}

#[test]
fn many_objects_are_deleted_at_once_and_absent_ones_are_no_failure() {
    for_each_store(|store| {
        let opened = open(&store.options());
        let prefix = if store.is_s3() { "pfx/" } else { "" };
        let written: Vec<String> = (0..20).map(|number| format!("d/{number} & <more>+é")).collect();
        write_all(store, &written);
        store.write("kept", b"x");
        let mut keys: Vec<String> = written.iter().map(|key| format!("{prefix}{key}")).collect();
        keys.push(format!("{prefix}never/was"));
        let failed = block_on(opened.delete_batch(&keys)).unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(store.keys(), ["kept"]);
        assert!(block_on(opened.delete_batch(&keys[..1])).unwrap().is_empty());
        assert!(block_on(opened.delete_batch(&[])).unwrap().is_empty());
    });
}

#[test]
fn a_bulk_deletion_is_one_request_that_is_repeated_when_its_answer_is_lost() {
    let store = TestStore::s3(S3Server::start());
    let keys: Vec<String> = (0..20).map(|number| format!("d/{number}")).collect();
    write_all(&store, &keys);
    let keys: Vec<String> = keys.iter().map(|key| format!("pfx/{key}")).collect();
    let opened = open(&StoreOptions { retry_timeout_s: 10, ..store.options() });
    let mut lost = false;
    store.server().fault_when(move |seen| {
        let loses = seen.method == "POST" && !lost;
        lost |= loses;
        loses.then_some(Fault::LoseAnswer)
    });
    store.server().forget_requests();
    assert!(block_on(opened.delete_batch(&keys)).unwrap().is_empty());
    assert_eq!(store.server().requests().len(), 2);
    assert_eq!(store.keys(), Vec::<String>::new());

    store.server().refuse_all(403);
    assert!(block_on(opened.delete_batch(&keys)).is_err());
    // One at a time it can be told which.
    let failed = block_on(opened.delete_batch(&keys[..1])).unwrap();
    assert_eq!((failed.len(), failed[0].0.as_str(), failed[0].1.kind()), (1, "pfx/d/0", ErrorKind::Denied));
}

#[test]
fn an_upload_that_was_completed_without_an_answer_is_complete_and_one_that_is_gone_is_not_absent() {
    let test = TestStore::s3(S3Server::start());
    let mut lost = false;
    test.server().fault_when(move |seen| {
        let completes = seen.method == "POST" && seen.target.contains("uploadId=");
        // S3 says so of an upload that is no more; s3s-fs says that it is denied.
        let fault = if lost { Fault::Status(404) } else { Fault::LoseAnswer };
        lost |= completes;
        completes.then_some(fault)
    });
    block_on(async {
        let store = Box::pin(Store::open(&StoreOptions { retry_timeout_s: 10, ..test.options() })).await.unwrap();
        let mut upload = store.begin_upload("pfx/whole").await.unwrap();
        upload.send_part(Bytes::from(vec![7; 5 << 20])).await.unwrap();
        upload.send_part(Bytes::from_static(b"end")).await.unwrap();
        upload.complete().await.unwrap();
        let mut gone = store.begin_upload("pfx/gone").await.unwrap();
        gone.send_part(Bytes::from_static(b"part")).await.unwrap();
        gone.abort().await.unwrap();
        let error = gone.complete().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    });
    assert_eq!(test.read("whole").unwrap().content.len(), (5 << 20) + 3);
    assert_eq!(test.read("gone"), None);
}

#[test]
fn tags_and_encryption_are_asked_for_with_every_object_and_with_nothing_else() {
    let kms = |id: Option<&str>| Encryption::S3 { kms: true, kms_key_id: id.map(str::to_owned) };
    let (sse, key) = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id");
    for (encryption, expected, expected_key) in [
        (None, None, None),
        (Some(Encryption::S3 { kms: false, kms_key_id: None }), Some("AES256"), None),
        (Some(kms(None)), Some("aws:kms"), None),
        (Some(kms(Some("key-1"))), Some("aws:kms"), Some("key-1")),
    ] {
        let store = TestStore::s3(S3Server::start());
        let options = StoreOptions { tags: tags(), encryption, ..store.options() };
        write_both_ways(&open(&options));
        for seen in store.server().requests() {
            let makes = makes_an_object(&seen);
            assert_eq!(seen.header("x-amz-tagging"), makes.then_some("team=dba&cost=a%2Bb+c"), "{seen:?}");
            assert_eq!(seen.header(sse), expected.filter(|_| makes), "{seen:?}");
            assert_eq!(seen.header(key), expected_key.filter(|_| makes), "{seen:?}");
        }
    }
}

#[test]
fn google_cloud_storage_keeps_tags_as_metadata_and_is_told_the_key() {
    let store = TestStore::gcs(GcsServer::start());
    let name = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let tags = vec![("team".to_owned(), "dba".to_owned())];
    let options = StoreOptions { tags, encryption: Some(Encryption::GcsKey(name.to_owned())), ..store.options() };
    write_both_ways(&open(&options));
    for seen in store.google().requests() {
        let makes = makes_an_object(&seen);
        assert_eq!(seen.header("x-goog-encryption-kms-key-name"), makes.then_some(name), "{seen:?}");
        assert_eq!(seen.header("x-goog-meta-team"), makes.then_some("dba"), "{seen:?}");
    }
    for key in ["whole", "parts"] {
        let metadata = store.read(key).unwrap().metadata;
        assert!(metadata.contains(&("team".to_owned(), "dba".to_owned())), "{key}: {metadata:?}");
    }
}

#[test]
fn azure_is_told_tags_and_encryption_scope_in_requests_that_are_still_signed() {
    let Some(store) = TestStore::azurite() else { return };
    let encryption = Some(Encryption::AzureScope("my-scope".to_owned()));
    write_both_ways(&open(&StoreOptions { tags: tags(), encryption, ..store.options() }));
    assert_eq!(store.read("parts").unwrap().content.len(), 6 * MB);
    // Azurite writes down each request with its headers.
    let log = store.azure().log();
    let requests: Vec<&str> =
        log.lines().filter(|line| line.contains("RequestMethod=PUT") && line.contains("/pfx/")).collect();
    let told = |text: &str| requests.iter().filter(|line| line.contains(text)).count();
    // One put; two blocks and their list.
    assert_eq!(requests.len(), 4, "{requests:#?}");
    assert_eq!(told("\"x-ms-encryption-scope\":\"my-scope\""), 4, "{requests:#?}");
    assert_eq!(told("\"x-ms-tags\":\"team=dba&cost=a%2Bb+c\""), 2, "{requests:#?}");
}

#[test]
fn encryption_for_another_kind_of_store_is_refused() {
    for_each_store(|store| {
        let foreign = match store.options().place {
            Place::S3 { .. } => Encryption::AzureScope("scope".to_owned()),
            _ => Encryption::S3 { kms: false, kms_key_id: None },
        };
        let options = StoreOptions { encryption: Some(foreign), ..store.options() };
        assert_eq!(block_on(Store::open(&options)).unwrap_err().kind(), ErrorKind::Usage);
    });
}

#[test]
fn a_checksum_is_sent_to_s3_where_the_environment_asks_for_one() {
    for (value, sent) in [(None, false), (Some("when_required"), false), (Some("when_supported"), true)] {
        let store = TestStore::s3(S3Server::start());
        let mut options = store.options();
        if let Some(value) = value {
            options.environment.insert("AWS_REQUEST_CHECKSUM_CALCULATION".to_owned(), value.to_owned());
        }
        // Known to the AWS libraries, and no reason to stumble here.
        for (name, value) in [
            ("AWS_MAX_ATTEMPTS", "3"),
            ("AWS_RETRY_MODE", "standard"),
            ("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
        ] {
            options.environment.insert(name.to_owned(), value.to_owned());
        }
        write_both_ways(&open(&options));
        let requests = store.server().requests();
        let carries_data = |seen: &&Seen| seen.method == "PUT";
        for seen in requests.iter().filter(carries_data) {
            assert_eq!(seen.header("x-amz-checksum-sha256").is_some(), sent, "{seen:?}");
        }
        assert_eq!(store.read("parts").unwrap().content.len(), 6 * MB);
    }
}

#[test]
fn a_silent_server_is_given_as_long_as_asked() {
    let store = TestStore::s3(S3Server::start());
    store.write("one", b"1");
    store.server().fault_when(|_| Some(Fault::Delay(Duration::from_secs(3))));
    let options = StoreOptions { retry_timeout_s: 0, ..store.options() };
    let hasty = open(&StoreOptions { read_timeout_s: Some(1), ..options.clone() });
    let error = block_on(hasty.get("pfx/one", 10)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let patient = open(&StoreOptions { read_timeout_s: Some(20), ..options });
    assert_eq!(block_on(patient.get("pfx/one", 10)).unwrap().content, b"1".as_slice());
}

#[test]
fn a_retention_or_a_legal_hold_is_seen_on_s3() {
    let Some(minio) = Minio::start() else { return };
    let env = minio.env();
    let bucket = "locked";
    let request = |method: &str, key: &str, headers: &[(&str, &str)], body: &str| {
        signed(&env, method, &format!("/{bucket}{key}"), headers, body);
    };
    request("PUT", "", &[("x-amz-bucket-object-lock-enabled", "true")], "");
    let later = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let retained = [("x-amz-object-lock-mode", "GOVERNANCE"), ("x-amz-object-lock-retain-until-date", &later)];
    // Object lock wants a digest: that of "x" in MD5.
    let md5 = ("content-md5", "ndTkYSaMgDT1yFZOFVxnpg==");
    request("PUT", "/plain", &[md5], "x");
    request("PUT", "/retained", &[retained[0], retained[1], md5], "x");
    request("PUT", "/held", &[("x-amz-object-lock-legal-hold", "ON"), md5], "x");

    let base = TestStore::directory().options();
    let environment = env.iter().cloned().collect();
    let opened = open(&StoreOptions { place: format!("s3://{bucket}").parse().unwrap(), environment, ..base });
    for (key, expected) in [("plain", false), ("retained", true), ("held", true), ("never-was", false)] {
        assert_eq!(block_on(opened.is_locked(key)).unwrap(), expected, "{key}");
    }
}

#[test]
fn objects_outside_of_s3_are_not_locked_and_a_refusal_is_no_answer() {
    for_each_store(|store| {
        store.write("one", b"1");
        let key = if store.is_s3() { "pfx/one" } else { "one" };
        assert!(!block_on(open(&store.options()).is_locked(key)).unwrap());
    });
    let store = TestStore::s3(S3Server::start());
    store.server().refuse_all(403);
    let error = block_on(open(&store.options()).is_locked("pfx/one")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

/// A server that announces three bytes and sends for as long as somebody listens; and how many bytes it got rid of.
fn endless_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let sent = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&sent);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let asked = socket.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nLast-Modified: Mon, 23 Nov 2026 08:38:17 GMT\r\n\
                        Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = (asked, socket.write_all(head.as_bytes()));
            let chunk = [b"10000\r\n", &vec![b'x'; 1 << 16][..], b"\r\n"].concat();
            while socket.write_all(&chunk).is_ok() {
                counted.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        }
    });
    (endpoint, sent)
}

fn open(options: &StoreOptions) -> Store {
    block_on(Store::open(options)).unwrap()
}

fn probe(options: &StoreOptions) -> Probe {
    block_on(open(options).probe("pfx/")).unwrap()
}

fn write_all(store: &TestStore, keys: &[String]) {
    for key in keys {
        store.write(key, b"x");
    }
}

/// Another container of the same server, which is not there.
fn sibling(place: &Place) -> Place {
    place.to_string().replace(&format!("/{BUCKET}/"), "/other-one/").parse().unwrap()
}

fn names(store: &Store, after: Option<&str>) -> Vec<String> {
    listed(store, "pfx/", after, usize::MAX)
}

/// At most `most` keys, sorted.
fn listed(store: &Store, directory: &str, after: Option<&str>, most: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let each = |object: barback::store::Listed| {
        keys.push(object.key);
        keys.len() < most
    };
    block_on(store.list_while(directory, after, each)).unwrap();
    keys.sort();
    keys
}

fn tags() -> Vec<(String, String)> {
    [("team", "dba"), ("cost", "a+b c")].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// An object in one request, and one in two parts.
fn write_both_ways(store: &Store) {
    block_on(async {
        store.put("pfx/whole", b"1".to_vec(), &Metadata::new()).await.unwrap();
        let mut upload = store.begin_upload("pfx/parts").await.unwrap();
        upload.send_part(vec![1; 5 * MB].into()).await.unwrap();
        upload.send_part(vec![2; MB].into()).await.unwrap();
        upload.complete().await.unwrap();
    });
}

/// Of a whole object, or of an upload's beginning.
fn makes_an_object(seen: &Seen) -> bool {
    (seen.method == "PUT" && !seen.target.contains('?')) || seen.target.contains("?uploads")
}

#[test]
fn a_store_that_says_slow_down_is_asked_less_at_once_and_everything_arrives() {
    const MOST: usize = 2;
    let s3 = TestStore::s3(S3Server::start());
    let store = open(&StoreOptions { retry_timeout_s: 60, ..s3.options() });
    block_on(store.put("pfx/one", b"1".to_vec(), &Metadata::new())).unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&refused);
    s3.server().fault_when(move |seen| {
        if seen.at_once <= MOST {
            return Some(Fault::Delay(Duration::from_millis(5)));
        }
        counter.fetch_add(1, Ordering::Relaxed);
        Some(Fault::Status(503))
    });
    // One runtime for both: connections belong to it.
    let refusals: Vec<usize> = block_on(async {
        let mut refusals = Vec::new();
        for _ in 0..2 {
            let reads = (0..40).map(|_| store.get("pfx/one", 10));
            for read in futures::future::join_all(reads).await {
                assert_eq!(read.unwrap().content.as_ref(), b"1");
            }
            refusals.push(refused.swap(0, Ordering::Relaxed));
        }
        refusals
    });
    assert!(refusals[0] > 0, "the store never had to refuse");
    // Unthrottled, all but two of the forty are refused at once, and most of them a second time.
    assert!(refusals[1] < 20, "the store had to refuse {refusals:?}");
}
