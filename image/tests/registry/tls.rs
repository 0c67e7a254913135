//! Registries over TLS, with an authority of their own.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::sample::*;
use crate::server::{Reply, Server};
use crate::{ErrorKind, Node, run};

/// A certificate authority that exists for one test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name, and its key.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server for this host's loopback address; with `clients` it wants a certificate of this authority.
    fn server(&self, name: &str, clients: bool) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(name);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions();
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(self.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            builder.unwrap().with_client_cert_verifier(verifier)
        } else {
            builder.unwrap().with_no_client_auth()
        };
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Arc::new(builder.with_single_cert(vec![certificate.der().clone()], secret).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

#[test]
fn a_configured_authority_is_trusted_and_an_unknown_one_is_not() {
    run(async {
        let authority = Authority::new();
        let sample = Sample::named("x");
        let server =
            Server::over(Some(authority.server("127.0.0.1", false)), move |a| sample.serve(a))
                .await;
        let (name, url) = (server.name("app"), format!("https://{}", server.address));
        let stranger = Node::new("tls-stranger");
        stranger.hosts(&server.address.to_string(), &format!("server = \"{url}\""));
        assert_eq!(stranger.failure(&name).await, ErrorKind::Unavailable);
        assert!(server.log().is_empty());
        let careless = Node::new("tls-careless");
        careless
            .hosts(&server.address.to_string(), &format!("server = \"{url}\"\nskip_verify = true"));
        careless.pull(&name).await.unwrap();
        let friend = Node::new("tls-friend");
        friend.hosts(&server.address.to_string(), &format!("server = \"{url}\"\nca = \"ca.pem\""));
        let directory = friend.dir.join("certs.d").join(server.address.to_string());
        std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
        friend.pull(&name).await.unwrap();
    });
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    run(async {
        let authority = Authority::new();
        let server =
            Server::over(Some(authority.server("other.example", false)), |_| Reply::new(500, ""))
                .await;
        let node = Node::new("tls-name");
        let registry = server.address.to_string();
        node.hosts(&registry, &format!("server = \"https://{registry}\"\nca = [\"ca.pem\"]"));
        std::fs::write(node.dir.join("certs.d").join(&registry).join("ca.pem"), authority.pem())
            .unwrap();
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Unavailable);
        assert!(server.log().is_empty());
    });
}

#[test]
fn a_client_certificate_is_shown() {
    run(async {
        let authority = Authority::new();
        let sample = Sample::named("x");
        let server =
            Server::over(Some(authority.server("127.0.0.1", true)), move |a| sample.serve(a)).await;
        let node = Node::new("tls-client");
        let registry = server.address.to_string();
        let hosts = format!("server = \"https://{registry}\"\nca = \"ca.pem\"\n");
        node.hosts(&registry, &hosts);
        let directory = node.dir.join("certs.d").join(&registry);
        std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Unavailable);
        let (certificate, key) = authority.issue("node");
        std::fs::write(directory.join("client.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("client.key"), key.serialize_pem()).unwrap();
        node.hosts(&registry, &format!("{hosts}client = [[\"client.pem\", \"client.key\"]]"));
        node.pull(&server.name("app")).await.unwrap();
    });
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    run(async {
        let authority = Authority::new();
        let (sample, stored) = (Sample::named("x"), Sample::named("x"));
        let plain = Server::start(move |asked| stored.serve(asked)).await;
        let target = plain.address;
        let server = Server::over(Some(authority.server("127.0.0.1", false)), move |asked| {
            match asked.path.contains("/blobs/") {
                true => {
                    Reply::new(307, "").header("Location", format!("http://{target}{}", asked.path))
                }
                false => sample.serve(asked),
            }
        })
        .await;
        let node = Node::new("tls-downgrade");
        let registry = server.address.to_string();
        node.hosts(&registry, &format!("server = \"https://{registry}\"\nskip_verify = true"));
        assert_eq!(node.failure(&server.name("app")).await, ErrorKind::Unavailable);
        assert!(plain.log().is_empty());
    });
}
