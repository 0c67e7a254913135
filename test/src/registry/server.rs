//! A small registry: the reading half of the OCI distribution specification, from a [`Store`] in memory.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::access::{self, Access};
use super::fault::Fault;
use crate::image::Store;

/// An answer whose body may break off.
pub(super) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// How a registry behaves.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Who may read.
    pub access: Access,
    /// HTTPS with this certificate.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether repositories with the names of [`Fault`]s misbehave.
    pub faults: bool,
}

/// A registry that serves until it is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    served: Arc<Served>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Served {
    store: Arc<Store>,
    settings: Settings,
    url: String,
    blobs: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Registry {
    /// Serves this content on a free loopback port.
    pub async fn start(store: Arc<Store>, settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let (blobs, requests) = (AtomicUsize::new(0), Mutex::default());
        let served = Arc::new(Served { store, settings, url, blobs, requests });
        let task = tokio::spawn(accept(listener, served.clone()));
        Ok(Self { address, served, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many blobs were asked for so far.
    pub fn blobs_served(&self) -> usize {
        self.served.blobs.load(Ordering::Relaxed)
    }

    /// The requests so far, as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        self.served.requests.lock().unwrap().clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, served: Arc<Served>) {
    let tls = served.settings.tls.clone().map(TlsAcceptor::from);
    while let Ok((stream, _)) = listener.accept().await {
        let (served, tls) = (served.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, served).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, served).await;
                    }
                }
            }
        });
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, served: Arc<Served>) {
    let service = service_fn(move |request| {
        let served = served.clone();
        async move { Ok::<_, Infallible>(served.answer(request).await) }
    });
    let http = hyper::server::conn::http1::Builder::new();
    // A client that goes away in the middle is its own business.
    http.serve_connection(TokioIo::new(stream), service).await.ok();
}

impl Served {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let line = format!("{} {}", parts.method, parts.uri.path());
        self.requests.lock().unwrap().push(line);
        if parts.uri.path() == "/token" {
            let body = body.collect().await.map(http_body_util::Collected::to_bytes);
            return access::token(&parts, &body.unwrap_or_default());
        }
        if let Some(refusal) = self.settings.access.refuse(&parts, &self.url) {
            return refusal;
        }
        self.read(&parts).unwrap_or_else(|| {
            let body = r#"{"errors":[{"code":"NOT_FOUND","message":"not found"}]}"#;
            respond(StatusCode::NOT_FOUND, "application/json", body.into())
        })
    }

    fn read(&self, parts: &Parts) -> Option<Answer> {
        let path = parts.uri.path().strip_prefix("/v2/")?;
        if path.is_empty() {
            return Some(respond(StatusCode::OK, "application/json", "{}".into()));
        }
        let head = parts.method == Method::HEAD;
        if let Some((repository, reference)) = path.split_once("/manifests/") {
            return self.manifest(repository, reference, head);
        }
        let (repository, digest) = path.split_once("/blobs/")?;
        self.blob(repository, digest, head)
    }

    /// What goes wrong in this repository.
    fn fault(&self, repository: &str) -> Option<Fault> {
        Fault::of(repository).filter(|_| self.settings.faults)
    }

    fn manifest(&self, repository: &str, reference: &str, head: bool) -> Option<Answer> {
        let fault = self.fault(repository);
        let manifest = self.store.manifests.get(repository)?.get(reference)?;
        let mut bytes = manifest.bytes.clone();
        match fault {
            Some(Fault::Missing) => return None,
            Some(Fault::Failing) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Some(respond(status, "text/plain", "out of order".into()));
            }
            Some(Fault::Endless) if !head => return Some(endless(&manifest.media_type)),
            Some(Fault::WrongManifest) if reference.starts_with("sha256:") => bytes.push(b' '),
            _ => {}
        }
        let length = bytes.len();
        let body = if head { Bytes::new() } else { bytes.into() };
        let mut answer = respond(StatusCode::OK, &manifest.media_type, body);
        answer.headers_mut().insert(CONTENT_LENGTH, length.into());
        let digest = manifest.digest().parse().unwrap();
        answer.headers_mut().insert("docker-content-digest", digest);
        Some(answer)
    }

    fn blob(&self, repository: &str, digest: &str, head: bool) -> Option<Answer> {
        let fault = self.fault(repository);
        let blob = self.store.blobs.get(digest)?;
        if !head {
            self.blobs.fetch_add(1, Ordering::Relaxed);
        }
        let whole = Bytes::from(blob.as_ref().clone());
        // Configurations are small: what breaks is a layer.
        let layer = whole.len() > 10_000;
        let body = match fault.filter(|_| layer) {
            _ if head => Bytes::new(),
            Some(Fault::WrongLayer) => whole.iter().rev().copied().collect(),
            Some(Fault::Truncated) => return Some(half(&whole, false)),
            Some(Fault::Stalled) => return Some(half(&whole, true)),
            _ => whole.clone(),
        };
        let mut answer = respond(StatusCode::OK, "application/octet-stream", body);
        answer.headers_mut().insert(CONTENT_LENGTH, whole.len().into());
        Some(answer)
    }
}

/// A complete answer.
pub(super) fn respond(status: StatusCode, media_type: &str, body: Bytes) -> Answer {
    let body = Full::new(body).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, media_type.parse().unwrap());
    answer
}

/// The first half of a blob, announced as a whole; then silence, or the end of the connection.
fn half(whole: &Bytes, silence: bool) -> Answer {
    let first = Frame::data(whole.slice(..whole.len() / 2));
    let body = stream::unfold(Some(first), move |next| async move {
        match next {
            Some(frame) => Some((Ok(frame), None)),
            None if silence => std::future::pending().await,
            None => Some((Err(io::Error::other("broken off")), None)),
        }
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(body)));
    answer.headers_mut().insert(CONTENT_LENGTH, whole.len().into());
    answer
}

/// A manifest without an end, in chunks.
fn endless(media_type: &str) -> Answer {
    let body = stream::unfold((), |()| async {
        tokio::task::yield_now().await;
        Some((Ok(Frame::data(Bytes::from_static(&[b' '; 65536]))), ()))
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(body)));
    answer.headers_mut().insert(CONTENT_TYPE, media_type.parse().unwrap());
    answer
}
