//! Buckets that a duel starts from: empty, the fixture's, or one that was set aside.

use std::fs;
use std::path::{Path, PathBuf};

use super::duel::listing;
use crate::harness::{BUCKET, S3Server};

/// Real Barman's bucket in the repository.
pub fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/barman-3.19.1/bucket")
}

/// Makes the server's bucket a copy of `source`, without any metadata, as Barman writes its objects.
pub fn fill(server: &S3Server, source: &Path) {
    empty(server);
    copy(source, &server.root().join(BUCKET));
}

/// Removes every object of the server's bucket.
pub fn empty(server: &S3Server) {
    for entry in fs::read_dir(server.root()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
    }
    fs::create_dir(server.root().join(BUCKET)).unwrap();
}

/// `env` for a host that remembers nothing of a bucket: it would say so when one that was filled is empty again.
pub fn forgetful(mut env: Vec<(String, String)>) -> Vec<(String, String)> {
    env.push(("BARBACK_CACHE_DIR".to_owned(), "/dev/null/none".to_owned()));
    env
}

/// The objects with their digests, without those that only barback writes.
pub fn objects(server: &S3Server) -> String {
    let all = listing(&server.root().join(BUCKET));
    all.lines().filter(|line| !line.contains("/barback/")).collect::<Vec<_>>().join("\n")
}

/// The keys of the same objects, one a line.
pub fn keys(server: &S3Server) -> String {
    let keys = server.keys();
    keys.iter().filter(|key| !key.contains("/barback/")).map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// Copies a directory with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
