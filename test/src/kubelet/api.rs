//! The kubelet's own API, over HTTPS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;

/// No answer takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A client of one kubelet.
#[allow(missing_debug_implementations, reason = "a TLS connector has none")]
pub struct Api {
    address: SocketAddr,
    tls: TlsConnector,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Api").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Api {
    pub(super) fn new(address: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        Self { address, tls: tls.into() }
    }

    /// What is at this path; anything but success is an error that tells the answer.
    pub async fn get(&self, path: &str) -> io::Result<Bytes> {
        timeout(DEADLINE, self.ask(Method::GET, path)).await?
    }

    /// The same as text.
    pub async fn text(&self, path: &str) -> String {
        let body = self.get(path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        String::from_utf8_lossy(&body).into_owned()
    }

    /// The log at this path of a container that may have only just begun: once it says something, and no more for a moment.
    pub async fn said(&self, path: &str) -> String {
        let mut before = String::new();
        for _ in 0..50 {
            let now = self.text(path).await;
            if !now.is_empty() && now == before {
                break;
            }
            before = now;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        before
    }

    /// What a POST to this path answers.
    pub async fn post(&self, path: &str) -> io::Result<Bytes> {
        timeout(DEADLINE, self.ask(Method::POST, path)).await?
    }

    /// An encrypted connection, for protocols that begin as HTTP.
    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        self.tls.connect(self.address.ip().into(), stream).await
    }

    /// The name and port that requests are for.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    async fn ask(&self, method: Method, path: &str) -> io::Result<Bytes> {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = handshake(stream).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.host())
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        connection.abort();
        if status.is_success() {
            return Ok(body);
        }
        Err(io::Error::other(format!("{status}: {}", String::from_utf8_lossy(&body))))
    }
}
