//! What the fuzzers call: a client's bytes, up to commands and connections that are not there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

use super::command::{self, Client};
use super::forward;
use super::remote::{Backend, Remote, Sink};
use super::server::{Desk, attend};
use super::status::Version;
use super::ticket::{Command, Order, Tickets};
use super::websocket::{self, channels, tunnel};
use super::wire::{ReadEnd, Wire};
use crate::id::SandboxId;

/// How long a client may be silent; at the end of its bytes it goes.
const IDLE: Duration = Duration::from_millis(200);

/// A node on which every command reads its input to the end and says nothing, and nobody listens.
struct Silence;

impl Backend for Silence {
    async fn exec(&self, _: Command, mut remote: Remote) -> Result<i32, String> {
        let (ended, has_ended) = oneshot::channel();
        if let Some(stdin) = remote.stdin.take() {
            drop(stdin.send(Sink { pipe: None, ended }));
            drop(has_ended.await);
        }
        Ok(remote.size.borrow().map_or(0, |size| size.width.into()))
    }

    async fn attach(&self, command: Command, remote: Remote) -> Result<(), String> {
        self.exec(command, remote).await.map(drop)
    }

    async fn dial(&self, _: &SandboxId, _: u16) -> io::Result<TcpStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// Gives the bytes in pieces whose sizes the bytes themselves decide, and ends then.
struct Pieces(Vec<u8>, usize);

impl tokio::io::AsyncRead for Pieces {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let rest = self.0.get(self.1..).unwrap_or_default();
        let wanted = rest.first().map_or(0, |first| 1 + usize::from(*first));
        let count = wanted.min(rest.len()).min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.1 += count;
        std::task::Poll::Ready(Ok(()))
    }
}

fn command() -> Command {
    Command {
        container: crate::id::ContainerId::draw().expect("the kernel gives random numbers"),
        args: vec!["sh".to_owned()],
        terminal: true,
        stdin: true,
        stdout: true,
        stderr: false,
    }
}

fn client(bytes: &[u8]) -> Client {
    let read: ReadEnd = Box::new(Pieces(bytes.to_vec(), 0));
    let write = Box::new(tokio::io::sink());
    Client { read, early: Vec::new(), write, probe: None, idle: IDLE }
}

/// Everything is in memory, so a time that nothing but timers wait for need not pass.
fn run(work: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().expect("there is a runtime").block_on(work);
}

/// A session of SPDY: a command's, or a port-forward's.
pub fn spdy(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    run(async {
        if kind % 2 == 0 {
            let order = Order::Exec(command());
            command::serve(&Silence, order, &command(), Version::V4, client(bytes)).await;
        } else {
            let sandbox = SandboxId::draw().expect("the kernel gives random numbers");
            let room = Arc::new(Semaphore::new(4));
            forward::serve(Arc::new(Silence), sandbox, client(bytes), room).await;
        }
    });
}

/// A WebSocket: a command's channels, or a tunnel.
pub fn websocket(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    run(async {
        if kind % 4 == 0 {
            let Client { read, write, .. } = client(bytes);
            let socket = websocket::accept(read, write, Vec::new()).await;
            let (read, write) = tunnel::ends(socket);
            let client = Client { read, early: Vec::new(), write, probe: None, idle: IDLE };
            let sandbox = SandboxId::draw().expect("the kernel gives random numbers");
            let room = Arc::new(Semaphore::new(4));
            forward::serve(Arc::new(Silence), sandbox, client, room).await;
        } else {
            let version = if kind % 2 == 0 { Version::V4 } else { Version::V5 };
            let order = Order::Exec(command());
            channels::serve(&Silence, order, &command(), version, client(bytes)).await;
        }
    });
}

/// A whole connection. `TOKEN` in it is a token that is good.
pub fn http(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    run(async {
        let tickets = Tickets::new(SocketAddr::from(([127, 0, 0, 1], 80)), false);
        let order = match kind % 3 {
            0 => Order::Exec(command()),
            1 => Order::Attach(command()),
            _ => Order::Forward(SandboxId::draw().expect("the kernel gives random numbers")),
        };
        let url = tickets.issue(order).expect("there is room for a ticket");
        let token = url.rsplit('/').next().unwrap_or_default().as_bytes();
        let text = match bytes.windows(5).position(|word| word == b"TOKEN") {
            Some(at) => [&bytes[..at], token, &bytes[at + 5..]].concat(),
            None => bytes.to_vec(),
        };
        let desk = Desk {
            backend: Arc::new(Silence),
            tickets: Arc::new(tickets),
            forwarded: Arc::new(Semaphore::new(4)),
            idle: IDLE,
        };
        let (mut near, far) = tokio::io::duplex(64 << 10);
        let connections = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&connections).try_acquire_owned().expect("it is the only one");
        let served = attend(Arc::new(desk), Wire::Memory(far), None, permit);
        let speak = async {
            // Who is refused early need not have read everything.
            drop(near.write_all(&text).await);
            drop(near.shutdown().await);
            let mut answer = Vec::new();
            drop(near.read_to_end(&mut answer).await);
        };
        tokio::join!(served, speak);
        // The permit goes with the last who serves it.
        drop(tokio::time::timeout(IDLE, connections.acquire()).await);
    });
}
