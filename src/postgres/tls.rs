//! TLS towards PostgreSQL: libpq's `sslmode` in terms of rustls.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{ClientCertificate, RootCertificates, SslMode, TlsOptions};
use crate::error::{Error, ErrorKind, Result};

/// A connector for `options`; reads the certificate files.
///
/// Errors: `Usage` for `verify-ca`/`verify-full` without root certificates, or a key others may read; `Local` for
/// files that cannot be read or hold no certificate.
pub(super) fn connector(options: &TlsOptions) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = root_certificates(options)?;
    let verifier = Verifier {
        trusted: roots.as_ref().map(|(_, certificates)| certificates.clone()).unwrap_or_default(),
        roots: roots.map(|(store, _)| store),
        check_name: options.mode == SslMode::VerifyFull,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|cause| unusable(&cause))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match client_certificate(options.client.as_ref())? {
        Some((chain, key)) => {
            let key = provider.key_provider.load_private_key(key).map_err(|cause| unusable(&cause))?;
            // Not `with_client_auth_cert`: it refuses certificates of X.509 version 1, which the server may like.
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
        }
        None => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn unusable(cause: &rustls::Error) -> Error {
    Error::new(ErrorKind::Local, format!("could not set up TLS: {cause}"))
}

/// The roots to check against and the certificates themselves; `None` when nothing is to be checked.
///
/// As in libpq, roots that are there are used in every mode: `require` with a root file is `verify-ca`.
fn root_certificates(options: &TlsOptions) -> Result<Option<(RootCertStore, Vec<CertificateDer<'static>>)>> {
    let demanded = matches!(options.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let certificates = match &options.roots {
        RootCertificates::System => rustls_native_certs::load_native_certs().certs,
        RootCertificates::File(path) if path.exists() || demanded => read_certificates(path)?,
        RootCertificates::IfExists(path) if path.exists() => read_certificates(path)?,
        RootCertificates::File(path) | RootCertificates::IfExists(path) if demanded => {
            return Err(Error::usage(format!("root certificate file \"{}\" does not exist", path.display()))
                .with_hint("provide the file, use sslrootcert=system, or change sslmode to not verify the server"));
        }
        RootCertificates::None if demanded => {
            return Err(Error::usage("no root certificates to verify the server with")
                .with_hint("give a file with sslrootcert=…, or use sslrootcert=system"));
        }
        _ => return Ok(None),
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates.iter().cloned());
    if added == 0 {
        return Err(Error::new(ErrorKind::Local, "could not find a usable root certificate"));
    }
    Ok(Some((store, certificates)))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(not_pem(path, "there is none in it")),
        Err(cause) => Err(not_pem(path, &cause.to_string())),
    }
}

fn not_pem(path: &Path, cause: &str) -> Error {
    Error::new(ErrorKind::Local, format!("could not read certificates from \"{}\": {cause}", path.display()))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(client: Option<&ClientCertificate>) -> Result<Option<Identity>> {
    let Some(client) = client.filter(|client| client.required || client.certificate.exists()) else {
        return Ok(None);
    };
    let chain = read_certificates(&client.certificate)?;
    let metadata = fs::metadata(&client.key).map_err(|cause| Error::local("read private key", &client.key, cause))?;
    // libpq's rule: 0600, or 0640 when root owns it.
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        let message = format!("private key file \"{}\" has group or world access", client.key.display());
        return Err(Error::usage(message).with_hint("set its permissions to u=rw (0600) or less"));
    }
    let key = PrivateKeyDer::from_pem_file(&client.key).map_err(|cause| {
        Error::new(ErrorKind::Local, format!("could not read private key \"{}\": {cause}", client.key.display()))
    })?;
    Ok(Some((chain, key)))
}

/// Checks as much of a server's certificate as libpq would.
///
/// Differences to OpenSSL: host names are looked for in subject alternative names only, never in the common name; a
/// certificate that is itself listed as a root is trusted without a look at its dates; server certificates of X.509
/// version 1 are refused. The handshake's signature is checked in every mode: without that, channel binding would
/// prove nothing.
#[derive(Debug)]
struct Verifier {
    roots: Option<RootCertStore>,
    /// The roots as they were read. A self-signed server certificate listed here is trusted, as with OpenSSL.
    trusted: Vec<CertificateDer<'static>>,
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            if !self.trusted.iter().any(|trusted| trusted == end_entity) {
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
            }
            if self.check_name {
                verify_server_name(&certificate, server_name)?;
            }
        } else if self.check_name {
            return Err(CertificateError::UnknownIssuer.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
