//! Tells the daemon that owns the container what happens to it: events over ttrpc, one after the other.
//!
//! ```text
//! Down ──due──► connect ──► Idle ──event──► Sent ──answer──► Idle
//!   ▲ the daemon is away, or does not answer │
//!   └────────────────────────────────────────┘  the event stays the first in the queue
//! ```
//!
//! Nobody waits for the daemon: events queue up to a bound, and then the oldest is dropped.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use prost::Message;
use prost_types::Any;
use proto::shim::services::events::ttrpc::v1::ForwardRequest;
use proto::shim::types::Envelope;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};

use super::binary::Binary;
use super::event::Event;
use super::reap::timestamp;
use super::ttrpc;

/// Events that may wait.
const MAX_QUEUE: usize = 256;
/// How long the daemon may take to answer, and how long it is left alone when it is away.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The daemon's ttrpc socket.
    Socket(PathBuf),
    /// A program that passes them on.
    Binary(Binary),
}

/// The way to the daemon.
#[derive(Debug)]
pub struct Publisher {
    to: Destination,
    namespace: String,
    queue: VecDeque<Vec<u8>>,
    line: Line,
    /// Of calls; odd, and never used twice.
    stream: u32,
}

#[derive(Debug)]
enum Line {
    Down { due: Instant },
    Idle(OwnedFd),
    Sent { socket: OwnedFd, until: Instant, answer: Vec<u8> },
}

impl Publisher {
    /// Publishes in a namespace of the daemon's.
    pub fn new(to: Destination, namespace: String) -> Self {
        let line = Line::Down { due: Instant::now() };
        Self { to, namespace, queue: VecDeque::new(), line, stream: 1 }
    }

    /// Takes an event.
    pub fn push(&mut self, event: &Event) {
        let body = event.to_any();
        let path = match &self.to {
            Destination::Binary(binary) => {
                return binary.publish(&self.namespace, event.topic(), &body);
            }
            Destination::Socket(path) => path,
        };
        if self.queue.len() >= MAX_QUEUE {
            let _oldest = self.queue.pop_front();
            crate::runtime::warn(format_args!("an event was dropped: {} is away", path.display()));
        }
        self.queue.push_back(envelope(&self.namespace, event.topic(), body).encode_to_vec());
    }

    /// Whether all events have arrived.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// When there is something to do though nobody says so.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.line {
            _ if self.queue.is_empty() => None,
            Line::Down { due } => Some(*due),
            Line::Idle(_) => Some(Instant::now()),
            Line::Sent { until, .. } => Some(*until),
        }
    }

    /// The socket, to be watched for answers.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.line {
            Line::Down { .. } => None,
            Line::Idle(socket) | Line::Sent { socket, .. } => Some(socket.as_fd()),
        }
    }

    /// Does what can be done now. `true`: there is another socket to be watched.
    pub fn run(&mut self) -> bool {
        let mut connected = false;
        loop {
            let line =
                std::mem::replace(&mut self.line, Line::Down { due: Instant::now() + PAUSE });
            self.line = match line {
                Line::Down { due } if self.queue.is_empty() || due > Instant::now() => {
                    Line::Down { due }
                }
                Line::Down { .. } => match self.connect() {
                    Ok(socket) => {
                        connected = true;
                        Line::Idle(socket)
                    }
                    Err(_) => Line::Down { due: Instant::now() + PAUSE },
                },
                Line::Idle(socket) => self.send(socket),
                Line::Sent { socket, until, answer } => self.take_answer(socket, until, answer),
            };
            match &self.line {
                Line::Idle(_) if !self.queue.is_empty() => {}
                _ => return connected,
            }
        }
    }

    /// Works until all has arrived, or time is up.
    pub fn finish(&mut self, deadline: Instant) {
        while !self.is_done() && Instant::now() < deadline {
            let _new = self.run();
            let until = self.deadline().map_or(deadline, |due| due.min(deadline));
            let left = until.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else { return };
            let waited = match self.socket() {
                Some(socket) => poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&left)),
                None => poll(&mut [], Some(&left)),
            };
            if waited.is_err_and(|error| error != Errno::INTR) {
                return;
            }
        }
    }

    fn connect(&self) -> Result<OwnedFd, Errno> {
        let Destination::Socket(path) = &self.to else { return Err(Errno::NOENT) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address(path)?)?;
        Ok(socket)
    }

    fn send(&mut self, socket: OwnedFd) -> Line {
        let Some(event) = self.queue.front() else {
            return if is_closed(&socket) { self.down() } else { Line::Idle(socket) };
        };
        let frame = ttrpc::request(self.stream, SERVICE, "Forward", event.clone());
        self.stream = self.stream.wrapping_add(2);
        match send(&socket, &frame, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) if sent == frame.len() => {
                Line::Sent { socket, until: Instant::now() + PATIENCE, answer: Vec::new() }
            }
            _ => self.down(),
        }
    }

    fn take_answer(&mut self, socket: OwnedFd, until: Instant, mut answer: Vec<u8>) -> Line {
        let mut chunk = [0; 1024];
        loop {
            match rustix::io::read(&socket, &mut chunk) {
                Ok(count) if count > 0 => answer.extend_from_slice(&chunk[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok(_) | Err(_) => return self.down(),
            }
        }
        if ttrpc::is_whole(&answer) {
            // Refused or not: there is nobody else to tell.
            let _arrived = self.queue.pop_front();
            return Line::Idle(socket);
        }
        if until <= Instant::now() {
            return self.down();
        }
        Line::Sent { socket, until, answer }
    }

    fn down(&self) -> Line {
        Line::Down { due: Instant::now() + PAUSE }
    }
}

/// The path of a socket's address as callers write it.
pub fn socket_path(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix://").unwrap_or(address))
}

fn address(path: &Path) -> Result<SocketAddrUnix, Errno> {
    // An abstract one, as old daemons have them.
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        None => SocketAddrUnix::new(path),
    }
}

fn is_closed(socket: &OwnedFd) -> bool {
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    !matches!(rustix::net::recv(socket, &mut [0; 1], flags), Err(Errno::AGAIN) | Ok((_, 1..)))
}

fn envelope(namespace: &str, topic: &str, event: Any) -> ForwardRequest {
    let envelope = Envelope {
        timestamp: Some(timestamp(SystemTime::now())),
        namespace: namespace.to_owned(),
        topic: topic.to_owned(),
        event: Some(event),
    };
    ForwardRequest { envelope: Some(envelope) }
}
