//! One listener: connections, their request, and who serves them then.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::command::{self, Client};
use super::forward;
use super::http::{self, Grant, Refusal, Speech};
use super::remote::Backend;
use super::ticket::{Order, Tickets};
use super::tls::{self, TlsFiles};
use super::websocket::{self, channels, tunnel};
use super::wire::{Probe, Wire};

/// Connections at a time; who comes then waits until one ends.
const CONNECTIONS: usize = 1024;
/// Forwarded connections at a time, of all clients.
const FORWARDED: usize = 1024;
/// How long a client may take for its TLS handshake, and then for its request.
const REQUEST: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// Headers of a request.
const MAX_HEADERS: usize = 64;
/// After an accept that failed, most likely for want of file descriptors.
const BREATH: Duration = Duration::from_millis(100);
/// A client that is silent for so long is asked whether it is there, so often and so many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 6);

/// Why there is no streaming server.
#[derive(Debug, thiserror::Error)]
pub enum StreamingError {
    /// The address cannot be had.
    #[error("listen on {address} for streaming")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A certificate or its key is of no use.
    #[error("use {} for streaming: {why}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// How the server is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub address: IpAddr,
    /// Its port; 0 is any.
    pub port: u16,
    /// With TLS.
    pub tls: Option<TlsFiles>,
    /// How long nothing may move on a connection.
    pub idle: Duration,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    acceptor: Option<Tls>,
    tickets: Arc<Tickets>,
    idle: Duration,
}

struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// The address cannot be had, or the certificate is of no use.
    pub async fn bind(settings: &Settings) -> Result<Self, StreamingError> {
        let acceptor = settings.tls.as_ref().map(tls::acceptor).transpose()?.map(Tls);
        let wanted = SocketAddr::new(settings.address, settings.port);
        let failed = |source| StreamingError::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tickets = Arc::new(Tickets::new(address, acceptor.is_some()));
        Ok(Self { listener, acceptor, tickets, idle: settings.idle })
    }

    /// What it serves.
    #[must_use]
    pub fn tickets(&self) -> Arc<Tickets> {
        Arc::clone(&self.tickets)
    }

    /// Serves until it is dropped.
    pub async fn run<B: Backend>(self, backend: Arc<B>) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let desk = Arc::new(Desk {
            backend,
            tickets: self.tickets,
            forwarded: Arc::new(Semaphore::new(FORWARDED)),
            idle: self.idle,
        });
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let acceptor = self.acceptor.as_ref().map(|tls| tls.0.clone());
                    tokio::spawn(connection(Arc::clone(&desk), stream, acceptor, permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a streaming connection");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }
}

/// What all connections share.
pub(super) struct Desk<B> {
    /// What is behind the streams.
    pub(super) backend: Arc<B>,
    /// What may be fetched.
    pub(super) tickets: Arc<Tickets>,
    /// Room for forwarded connections.
    pub(super) forwarded: Arc<Semaphore>,
    /// How long nothing may move.
    pub(super) idle: Duration,
}

/// Serves a connection up to its upgrade.
async fn connection<B: Backend>(
    desk: Arc<Desk<B>>,
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    permit: OwnedSemaphorePermit,
) {
    let probe = match prepare(&stream) {
        Ok(probe) => Arc::new(probe),
        Err(error) => return tracing::debug!(%error, "prepare a streaming connection"),
    };
    let wire = match acceptor {
        None => Wire::Plain(stream),
        Some(acceptor) => match tokio::time::timeout(REQUEST, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Wire::Encrypted(Box::new(stream)),
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake of a client"),
            Err(_) => return tracing::debug!("a client does not finish its TLS handshake"),
        },
    };
    attend(desk, wire, Some(probe), permit).await;
}

/// Answers a connection's one request.
pub(super) async fn attend<B: Backend>(
    desk: Arc<Desk<B>>,
    wire: Wire,
    probe: Option<Arc<Probe>>,
    permit: OwnedSemaphorePermit,
) {
    let permit = Arc::new(permit);
    let service = service_fn(|request| {
        let visit =
            Visit { desk: Arc::clone(&desk), probe: probe.clone(), permit: Arc::clone(&permit) };
        async move { Ok::<_, Infallible>(visit.answer(request)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a request for streaming");
    }
}

/// Sets a connection up.
fn prepare(stream: &TcpStream) -> io::Result<Probe> {
    let (idle, interval, times) = KEEPALIVE;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, times)?;
    Probe::of(stream)
}

/// One request.
struct Visit<B> {
    desk: Arc<Desk<B>>,
    probe: Option<Arc<Probe>>,
    permit: Arc<OwnedSemaphorePermit>,
}

impl<B: Backend> Visit<B> {
    fn answer(self, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(order) = self.desk.tickets.fetch(request.uri().path()) else {
            // The token stays out of the log: it may be good still, for somebody else.
            tracing::info!("a streaming request has no ticket that is good");
            return refuse(Refusal {
                status: StatusCode::NOT_FOUND,
                text: "there is no such request, or it was fetched already, or too late".into(),
                accepted: Vec::new(),
            });
        };
        let grant = match http::negotiate(request.method(), request.headers(), &order) {
            Ok(grant) => grant,
            Err(refusal) => {
                tracing::info!(order = order.word(), reason = refusal.text, "refuse an upgrade");
                return refuse(refusal);
            }
        };
        let Grant { speech, headers } = grant;
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match tokio::time::timeout(REQUEST, upgrade).await {
                Ok(Ok(upgraded)) => self.serve(upgraded, order, speech).await,
                Ok(Err(error)) => tracing::debug!(%error, "upgrade a streaming connection"),
                Err(_) => tracing::debug!("a client does not take the answer to its request"),
            }
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        put(&mut response, headers);
        response
    }

    async fn serve(self, upgraded: hyper::upgrade::Upgraded, order: Order, speech: Speech) {
        let Self { desk, probe, permit } = self;
        let Ok(parts) = upgraded.downcast::<TokioIo<Wire>>() else { return };
        let early = parts.read_buf.to_vec();
        let (read, write) = parts.io.into_inner().split();
        let client = Client { read, early, write, probe, idle: desk.idle };
        tracing::debug!(order = order.word(), ?speech, "a client has come");
        match (speech, &order) {
            (Speech::Spdy(version), Order::Exec(of) | Order::Attach(of)) => {
                let of = of.clone();
                command::serve(&*desk.backend, order, &of, version, client).await;
            }
            (Speech::Socket(version), Order::Exec(of) | Order::Attach(of)) => {
                let of = of.clone();
                channels::serve(&*desk.backend, order, &of, version, client).await;
            }
            (Speech::Forward, Order::Forward(sandbox)) => {
                let (backend, room) = (Arc::clone(&desk.backend), Arc::clone(&desk.forwarded));
                forward::serve(backend, sandbox.clone(), client, room).await;
            }
            (Speech::TunnelledForward, Order::Forward(sandbox)) => {
                let (backend, room) = (Arc::clone(&desk.backend), Arc::clone(&desk.forwarded));
                let Client { read, early, write, probe, idle } = client;
                let socket = websocket::accept(read, write, early).await;
                let (read, write) = tunnel::ends(socket);
                let client = Client { read, early: Vec::new(), write, probe, idle };
                forward::serve(backend, sandbox.clone(), client, room).await;
            }
            // What is spoken was chosen by the order.
            _ => {}
        }
        drop(permit);
    }
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(refusal.text + "\n")));
    *response.status_mut() = refusal.status;
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    put(&mut response, refusal.accepted);
    response
}

fn put(response: &mut Response<Full<Bytes>>, headers: Vec<(hyper::header::HeaderName, String)>) {
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().append(name, value);
        }
    }
}
