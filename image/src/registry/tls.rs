//! TLS as a host's configuration wants it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Which files say whom to trust and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    /// PEM files with certificate authorities, beside the system's.
    pub(super) authorities: Vec<PathBuf>,
    /// Our certificate, and its key if that is in another file. The first pair is shown.
    pub(super) identities: Vec<(PathBuf, Option<PathBuf>)>,
    /// The operator does not want the server's certificate verified.
    pub(super) skip_verify: bool,
}

/// Reads the files and the system's roots. Blocks on the disk. The error is a whole sentence part.
pub(super) fn client_config(files: &TlsFiles) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("set up TLS: {e}"))?;
    let builder = if files.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    } else {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(files)?), provider)
                .build()
                .map_err(|e| format!("set up TLS: {e}"))?;
        builder.dangerous().with_custom_certificate_verifier(verifier)
    };
    let Some((certificate, key)) = files.identities.first() else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let key = key.as_ref().unwrap_or(certificate);
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|e| format!("read the key {key:?}: {e}"))?;
    builder
        .with_client_auth_cert(chain, secret)
        .map_err(|e| format!("use the client certificate {certificate:?}: {e}"))
}

fn roots(files: &TlsFiles) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // A damaged file among the system's is the system's affair; without any root the handshake says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in &files.authorities {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|e| format!("trust {path:?}: {e}"))?;
        }
    }
    if roots.is_empty() {
        return Err("no certificate authority is installed on this node".to_owned());
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| format!("read the certificates of {path:?}: {e}"))
}

/// Accepts any certificate, as `skip_verify` asks; signatures are still checked, so a broken peer is noticed.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
