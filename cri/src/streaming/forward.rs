//! Port-forward: each connection of the client's is a pair of streams, one for the data, one for what went wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::buffer::Buffer;
use super::command::{Client, OPENING};
use super::remote::{Backend, Gone, Outlet};
use super::spdy::header::Headers;
use super::spdy::input::Input;
use super::spdy::session::{Handler, Limits, Session, reason};
use super::spdy::writer::Writer;
use crate::id::SandboxId;

/// Connections of one client.
const CONNECTIONS: usize = 256;
/// How long a connection may take to be made.
const DIAL: Duration = Duration::from_secs(10);
/// One read.
const CHUNK: usize = 64 << 10;
/// Reads that may wait to be written.
const QUEUE: usize = 4;
/// Longest name of a request.
const MAX_REQUEST: usize = 64;

/// What one of the two streams is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// A stream as its headers describe it.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    kind: Kind,
    port: u16,
    name: String,
}

impl Request {
    fn parse(stream: u32, headers: &Headers) -> Option<Self> {
        let find = |wanted: &str| {
            headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        let kind = match find("streamtype")? {
            "data" => Kind::Data,
            "error" => Kind::Error,
            _ => return None,
        };
        let digits = find("port")?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let port = digits.parse().ok().filter(|port| *port != 0 && plain)?;
        let name = match find("requestid") {
            Some(name) if !name.is_empty() => name.to_owned(),
            // Old clients open the error stream first, and the data stream right after it.
            _ if kind == Kind::Error => stream.to_string(),
            _ => stream.checked_sub(2)?.to_string(),
        };
        (name.len() <= MAX_REQUEST).then_some(Self { kind, port, name })
    }
}

/// One stream that waits for the other.
#[derive(Debug)]
struct Half {
    stream: u32,
    kind: Kind,
    port: u16,
    since: Instant,
}

/// A connection that is being made, or made.
#[derive(Debug)]
struct Line {
    input: mpsc::Sender<Vec<u8>>,
    cancel: Arc<Notify>,
}

/// Makes connections of streams.
struct Forwards<B> {
    backend: Arc<B>,
    sandbox: SandboxId,
    writer: Arc<Writer>,
    /// Of all clients.
    room: Arc<Semaphore>,
    /// Of this client.
    own_room: Arc<Semaphore>,
    /// What a stream that is not open yet will be.
    welcome: Option<Request>,
    halves: HashMap<String, Half>,
    lines: HashMap<u32, Line>,
    tasks: JoinSet<u32>,
}

impl<B: Backend> Forwards<B> {
    fn connect(&mut self, data: u32, error: u32, port: u16) {
        let permits = (
            Arc::clone(&self.own_room).try_acquire_owned(),
            Arc::clone(&self.room).try_acquire_owned(),
        );
        let (input, from_client) = mpsc::channel(QUEUE);
        let cancel = Arc::new(Notify::new());
        let writer = Arc::clone(&self.writer);
        let (Ok(own), Ok(all)) = permits else {
            self.tasks.spawn(async move {
                refuse(&writer, data, error, "there are too many connections").await;
                data
            });
            return;
        };
        let connection = Connection { writer, data, error, from_client, _permits: [own, all] };
        let (backend, sandbox) = (Arc::clone(&self.backend), self.sandbox.clone());
        let cancelled = Arc::clone(&cancel);
        self.lines.insert(data, Line { input, cancel });
        self.tasks.spawn(async move {
            connection.run(&*backend, &sandbox, port, &cancelled).await;
            data
        });
    }

    /// Forgets connections that have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok(stream) = ended {
                self.lines.remove(&stream);
            }
        }
    }

    /// Gives up streams whose other ones never came.
    fn expire(&mut self) {
        let (writer, now) = (&self.writer, Instant::now());
        let tasks = &mut self.tasks;
        self.halves.retain(|_, half| {
            let keep = now.saturating_duration_since(half.since) < OPENING;
            if !keep {
                let (writer, stream) = (Arc::clone(writer), half.stream);
                tasks.spawn(async move {
                    drop(writer.reset(stream, reason::CANCEL).await);
                    stream
                });
            }
            keep
        });
    }
}

impl<B: Backend> Handler for Forwards<B> {
    fn open(&mut self, stream: u32, headers: &Headers) -> bool {
        self.reap();
        self.expire();
        self.welcome = Request::parse(stream, headers).filter(|request| {
            self.halves.get(&request.name).is_none_or(|half| half.kind != request.kind)
        });
        self.welcome.is_some()
    }

    fn opened(&mut self, stream: u32) {
        let Some(Request { kind, port, name }) = self.welcome.take() else { return };
        match (self.halves.remove(&name), kind) {
            (None, _) => {
                let half = Half { stream, kind, port, since: Instant::now() };
                self.halves.insert(name, half);
            }
            (Some(half), Kind::Data) => self.connect(stream, half.stream, port),
            (Some(half), Kind::Error) => self.connect(half.stream, stream, half.port),
        }
    }

    async fn data(&mut self, stream: u32, bytes: &[u8]) {
        for piece in bytes.chunks(CHUNK) {
            let Some(line) = self.lines.get(&stream) else { return };
            if line.input.send(piece.to_vec()).await.is_err() {
                return;
            }
        }
    }

    fn end(&mut self, stream: u32) {
        self.lines.remove(&stream);
    }

    fn reset(&mut self, stream: u32) {
        self.halves.retain(|_, half| half.stream != stream);
        if let Some(line) = self.lines.remove(&stream) {
            line.cancel.notify_one();
        }
    }
}

/// Tells a client why there is no connection.
async fn refuse(writer: &Arc<Writer>, data: u32, error: u32, why: &str) {
    let outlet = Outlet::Spdy(Arc::clone(writer), error);
    let told = outlet.conclude(why).await.is_ok();
    if !told || writer.finish(data).await.is_err() {
        tracing::debug!("a client is gone before it is told why it has no connection");
    }
}

/// One connection.
struct Connection {
    writer: Arc<Writer>,
    data: u32,
    error: u32,
    from_client: mpsc::Receiver<Vec<u8>>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Connection {
    async fn run(
        mut self,
        backend: &impl Backend,
        sandbox: &SandboxId,
        port: u16,
        cancelled: &Notify,
    ) {
        let dialled = tokio::time::timeout(DIAL, backend.dial(sandbox, port)).await;
        let why = match dialled {
            Ok(Ok(stream)) => {
                tokio::select! {
                    () = self.pass(stream) => {}
                    () = cancelled.notified() => {}
                }
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no connection after {DIAL:?}")),
        };
        if let Some(why) = why {
            let why = format!("forward port {port} of sandbox {sandbox}: {why}");
            tracing::debug!("{why}");
            return refuse(&self.writer, self.data, self.error, &why).await;
        }
        // What has ended on both sides is not there to be given up.
        let parted = async {
            self.writer.finish(self.error).await?;
            self.writer.reset(self.data, reason::CANCEL).await
        };
        if parted.await.is_err() {
            tracing::debug!("a client is gone before the end of its connection");
        }
    }

    /// Moves bytes until both directions have ended, or one is broken.
    async fn pass(&mut self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "send without delay");
        }
        let (mut from_pod, mut to_pod) = stream.into_split();
        let up = async {
            while let Some(bytes) = self.from_client.recv().await {
                to_pod.write_all(&bytes).await?;
            }
            to_pod.shutdown().await
        };
        let down = async {
            let mut buffer = Buffer::new(CHUNK);
            loop {
                let count = from_pod.read(buffer.room()).await?;
                let gone = |_: Gone| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                if count == 0 {
                    return self.writer.finish(self.data).await.map_err(gone);
                }
                self.writer.data(self.data, &mut buffer, count).await.map_err(gone)?;
            }
        };
        // A broken direction breaks the other: that is what a reset means.
        if let Err(error) = tokio::try_join!(up, down) {
            tracing::debug!(%error, "a forwarded connection is broken");
        }
    }
}

/// Serves port-forward over SPDY.
pub async fn serve<B: Backend>(
    backend: Arc<B>,
    sandbox: SandboxId,
    client: Client,
    room: Arc<Semaphore>,
) {
    let writer = Arc::new(Writer::new(client.write, client.idle));
    let forwards = Forwards {
        backend,
        sandbox: sandbox.clone(),
        writer: Arc::clone(&writer),
        room,
        own_room: Arc::new(Semaphore::new(CONNECTIONS)),
        welcome: None,
        halves: HashMap::new(),
        lines: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let limits = Limits { streams: 2 * CONNECTIONS, idle: client.idle };
    let input = Input::new(client.read, &client.early);
    let ended = Session::new(input, writer, client.probe, limits).run(forwards).await;
    tracing::debug!(%sandbox, %ended, "a port-forward has ended");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str, port: &str, request: Option<&str>) -> Headers {
        let mut headers = vec![("streamtype", kind), ("port", port)];
        headers.extend(request.map(|name| ("requestid", name)));
        headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_stream_says_what_it_is_and_to_which_port() {
        let request = Request::parse(5, &headers("data", "80", Some("7"))).unwrap();
        assert_eq!(request, Request { kind: Kind::Data, port: 80, name: "7".into() });
        let long = "x".repeat(65);
        for headers in [
            headers("stdin", "80", Some("7")),
            headers("data", "0", Some("7")),
            headers("data", "65536", Some("7")),
            headers("data", "+80", Some("7")),
            headers("data", "80", Some(&long)),
            Headers::new(),
        ] {
            assert_eq!(Request::parse(5, &headers), None, "{headers:?}");
        }
    }

    #[test]
    fn streams_of_old_clients_are_paired_by_their_numbers() {
        let error = Request::parse(5, &headers("error", "80", None)).unwrap();
        let data = Request::parse(7, &headers("data", "80", None)).unwrap();
        assert_eq!(error.name, data.name);
    }
}
