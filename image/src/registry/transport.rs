//! HTTP over TCP and TLS, with a deadline on every wait and a cap on every body.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::uri::Scheme;
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::Patience;
use super::failure::Failure;
use super::tls::{self, TlsFiles};
use crate::error::causes;

/// What a connection may take if the host's configuration says nothing else.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a body one connection buffers.
const MAX_BUFFER: usize = 128 << 10;
const MAX_HEADERS: u32 = 64 << 10;

pub(super) type Body = Full<Bytes>;

/// A request body.
pub(super) fn full(text: String) -> Body {
    Full::new(Bytes::from(text))
}

/// Connections to one configured host and to where it redirects.
#[derive(Debug)]
pub(super) struct Transport {
    plain: Client<HttpConnector, Body>,
    /// Built at the first https request: loading the system's roots takes time and memory.
    secure: OnceCell<Client<HttpsConnector<HttpConnector>, Body>>,
    tls: TlsFiles,
    connect_timeout: Duration,
    patience: Patience,
}

impl Transport {
    pub(super) fn new(
        tls: TlsFiles,
        connect_timeout: Option<Duration>,
        patience: Patience,
    ) -> Self {
        let connect_timeout = connect_timeout.unwrap_or(CONNECT_TIMEOUT).min(patience.no_progress);
        let plain = builder().build(connector(connect_timeout));
        Self { plain, secure: OnceCell::new(), tls, connect_timeout, patience }
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let sent = if request.uri().scheme() == Some(&Scheme::HTTPS) {
            self.secure().await?.request(request)
        } else {
            self.plain.request(request)
        };
        match timeout(self.patience.no_progress, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Failure::Connect { why: causes(&error) }),
            Ok(Err(error)) => Err(Failure::Broken { why: causes(&error) }),
            Err(_) => Err(self.stalled()),
        }
    }

    /// The next piece of a body; `None` at its end.
    pub(super) async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            return match timeout(self.patience.no_progress, body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Ok(Some(data)),
                    // Trailers.
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => Err(Failure::Broken { why: causes(&error) }),
                Ok(None) => Ok(None),
                Err(_) => Err(self.stalled()),
            };
        }
    }

    /// A whole body of at most `cap` bytes.
    pub(super) async fn collect(&self, mut body: Incoming, cap: u64) -> Result<Vec<u8>, Failure> {
        let collected = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = self.chunk(&mut body).await? {
                bytes.extend_from_slice(&chunk);
                if u64::try_from(bytes.len()).is_ok_and(|n| n > cap) {
                    return Err(Failure::Wrong { why: format!("it is longer than {cap} bytes") });
                }
            }
            Ok(bytes)
        };
        // The whole of it is small: a body that drips is as dead as one that stands still.
        timeout(self.patience.no_progress, collected).await.unwrap_or_else(|_| Err(self.stalled()))
    }

    fn stalled(&self) -> Failure {
        Failure::Broken { why: format!("no progress for {:?}", self.patience.no_progress) }
    }

    async fn secure(&self) -> Result<&Client<HttpsConnector<HttpConnector>, Body>, Failure> {
        let make = || async {
            let tls = self.tls.clone();
            let config = tokio::task::spawn_blocking(move || tls::client_config(&tls))
                .await
                .map_err(|e| Failure::Connect { why: causes(&e) })?
                .map_err(|why| Failure::Connect { why })?;
            let mut connector = connector(self.connect_timeout);
            connector.enforce_http(false);
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(config)
                .https_only()
                .enable_all_versions()
                .wrap_connector(connector);
            Ok(builder().build(connector))
        };
        self.secure.get_or_try_init(make).await
    }
}

fn connector(timeout: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(timeout));
    connector.set_keepalive(Some(Duration::from_secs(15)));
    connector.set_nodelay(true);
    connector
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(10))
        .http1_max_buf_size(MAX_BUFFER)
        .http2_initial_stream_window_size(1 << 20)
        .http2_initial_connection_window_size(4 << 20)
        .http2_max_header_list_size(MAX_HEADERS);
    builder
}
