//! A certificate for 127.0.0.1 and the authority that signed it, made by OpenSSL's program for one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::directory::TestDir;
use super::process::Run;
use super::skip::skip;

/// PEM files in a test's directory.
#[derive(Debug)]
pub struct Certificate {
    /// The authority, for `--ca-bundle`.
    pub authority: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// A certificate of its own authority; `None`, said aloud, where there is no OpenSSL.
    pub fn make(dir: &TestDir) -> Option<Self> {
        let places = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
        let Some(openssl) = places.iter().map(|dir| dir.join("openssl")).find(|path| path.is_file()) else {
            skip("TLS to a store", "openssl, which makes the certificate, is not installed");
            return None;
        };
        let run = |words: &str| run(&openssl, dir, words);
        dir.write("extensions", "subjectAltName = IP:127.0.0.1\nbasicConstraints = CA:FALSE\n");
        run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout authority.key -out authority.pem");
        run("req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout server.key -out server.csr");
        run("x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 \
             -extfile extensions -out server.pem");
        Some(Self { authority: dir.join("authority.pem"), chain: dir.join("server.pem"), key: dir.join("server.key") })
    }

    /// What a server shows its clients.
    pub fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(&self.chain).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn run(openssl: &Path, dir: &TestDir, words: &str) {
    Run::new(openssl).args(words.split_whitespace()).in_dir(dir.path()).success();
}
