//! The shim's one loop: callers, the container's output, its processes' reports, and their ends.
//!
//! ```text
//!             ┌────────── Token ──────────┐
//! epoll ────► │ Listener                  │ accept, who is it
//!             │ Connection(slot)          │ requests → call::* → answer now, or park the caller
//!             │ Output / Error            │ log
//!             │ Report(key)               │ Cloned, Ready, Failed, end → process
//!             │ Children                  │ waitid → process → answer who waits
//!             │ Client(key)               │ FIFOs of who is attached
//!             │ Bundle                    │ is it still there
//!             └───────────────────────────┘
//! ```
//!
//! There is nothing to lock and nobody else who reaps. A call that cannot be answered at once leaves its [`Caller`]
//! where the answer will come from.

mod abandon;
mod attach;
mod attend;
mod binary;
mod call;
mod connection;
mod container;
mod event;
mod family;
mod fifo;
mod foreign;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod lifecycle;
mod peer;
mod poll;
mod prepare;
mod process;
mod publish;
mod pump;
mod reap;
mod stdio;
mod tell;
mod traffic;
mod ttrpc;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::{Failure, Record};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::net::{SocketFlags, accept_with, sockopt::socket_peercred};
use sys::process::SingleThreaded;

use self::abandon::BundleWatch;
pub use self::binary::Binary;
use self::connection::{Connection, Connections};
use self::container::Container;
use self::poll::{Poll, Token};
pub use self::prepare::{serve, serve_for};
pub use self::publish::{Destination, Publisher, socket_path};
pub use self::reap::timestamp;
use self::ttrpc::Caller;
pub use self::ttrpc::{Answered, outcome, parse_answer, request};
use crate::log::{Log, Stream};

/// A shim that nobody has called and that has nothing to own ends after this time.
const FIRST_CALL: Duration = Duration::from_secs(30);
/// How long the last answers may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The shim.
#[derive(Debug)]
pub struct Server {
    thread: SingleThreaded,
    poll: Poll,
    listener: OwnedFd,
    children: SignalFd,
    connections: Connections,
    container: Option<Container>,
    record: Record,
    /// What containers get that ask for nothing.
    oom_score_adj: i32,
    /// Asked to end.
    ending: bool,
    /// There was a caller once.
    called: bool,
    bundle: BundleWatch,
    /// Who is told what happens.
    publisher: Option<Publisher>,
}

impl Server {
    /// Sets up the loop; `listener` listens already.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(
        thread: SingleThreaded,
        listener: OwnedFd,
        record: Record,
        oom_score_adj: i32,
        publisher: Option<Publisher>,
    ) -> Result<Self, Failure> {
        let fail = |error: io::Error| Failure::os("set up event loop", "", error);
        let mut child = SigSet::empty();
        child.add(Signal::SIGCHLD);
        let mut blocked = child;
        // Who writes to a pipe nobody reads is told by the call.
        blocked.add(Signal::SIGPIPE);
        blocked.thread_block().map_err(|e| fail(e.into()))?;
        let children = SignalFd::with_flags(&child, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|e| fail(e.into()))?;
        rustix::io::ioctl_fionbio(&listener, true).map_err(|e| fail(e.into()))?;
        let poll = Poll::new().map_err(fail)?;
        poll.add(&listener, Token::Listener).map_err(fail)?;
        poll.add(&children, Token::Children).map_err(fail)?;
        let bundle = BundleWatch::new();
        if let Some(file) = bundle.file() {
            poll.add(file, Token::Bundle).map_err(fail)?;
        }
        Ok(Self {
            thread,
            poll,
            listener,
            children,
            connections: Connections::default(),
            container: None,
            record,
            oom_score_adj,
            ending: false,
            called: false,
            bundle,
            publisher,
        })
    }

    /// Serves until there is nothing left to own.
    ///
    /// # Errors
    /// The event loop itself fails.
    pub fn run(mut self) -> Result<(), Failure> {
        let start = Instant::now();
        while !self.is_done(start) {
            let events = self
                .poll
                .wait(self.patience(start))
                .map_err(|e| Failure::os("wait for events", "", e))?;
            for token in events {
                self.handle(token);
            }
            self.end_drain_when_due();
            self.let_go_when_due();
            self.rest_log_when_due();
            self.clean_up_when_abandoned();
            self.run_publisher();
        }
        self.connections.flush(Instant::now() + LAST_WORDS);
        if let Some(publisher) = &mut self.publisher {
            publisher.finish(Instant::now() + LAST_WORDS);
        }
        Ok(())
    }

    /// A shim without a container ends when it is told to or when its last caller is gone: nobody could find it again.
    fn is_done(&self, start: Instant) -> bool {
        self.container.is_none()
            && (self.ending
                || (self.called && self.connections.is_empty())
                || (!self.called && start.elapsed() >= FIRST_CALL))
    }

    fn patience(&self, start: Instant) -> Option<Duration> {
        let until = match &self.container {
            Some(container) => {
                let slow = container.clients.deadline();
                let quiet = container.log.as_ref().and_then(Log::quiet_at);
                container.drain_deadline().into_iter().chain(slow).chain(quiet).min()
            }
            None if self.called => None,
            None => Some(start + FIRST_CALL),
        };
        let told = self.publisher.as_ref().and_then(Publisher::deadline);
        let until = until.into_iter().chain(told).chain(self.next_look()).min()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Connection(slot) => self.serve(slot),
            Token::Children => self.reap(),
            Token::Output => self.read_log(Stream::Output),
            Token::Error => self.read_log(Stream::Error),
            Token::Report(key) => self.take_reports(key),
            Token::Bundle => self.bundle.look(),
            Token::Update => self.take_update(),
            Token::Errand(key) => self.take_errand(key),
            Token::Peer => self.take_answers(),
            Token::Publisher => self.run_publisher(),
            Token::Memory => self.hear_oom(),
            Token::Pump(key, line) => self.run_pump(key, line),
            Token::Client(key, line) => self.run_client(key, line),
        }
    }

    fn accept(&mut self) {
        while let Ok(socket) =
            accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            // The bundle is closed to others already; this is the second lock.
            let is_root = socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
            if !is_root {
                continue;
            }
            let Some(slot) = self.connections.add(Connection::new(socket)) else { continue };
            let added = match self.connections.get(slot) {
                Some(connection) => self.poll.add(connection.socket(), Token::Connection(slot)),
                None => continue,
            };
            match added {
                Ok(()) => self.called = true,
                Err(_) => self.connections.remove(slot),
            }
        }
    }

    fn serve(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let alive = connection.write_pending() && connection.read();
        // A request may come with the end of the connection; it is still done.
        while let Some(connection) = self.connections.get_mut(slot) {
            let Some(request) = connection.next_request() else { break };
            let caller = Caller {
                slot,
                generation: self.connections.generation(slot),
                stream: request.stream,
            };
            self.dispatch(caller, request);
        }
        let broken = self.connections.get(slot).is_some_and(Connection::is_broken);
        if !alive || broken {
            self.connections.remove(slot);
        }
        self.watch_writability(slot);
    }

    /// Sends what a call has come to.
    fn answer(&mut self, caller: Caller, result: Result<Vec<u8>, Failure>) {
        let slot = caller.slot;
        if !self.connections.is_current(slot, caller.generation) {
            return;
        }
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.send(&ttrpc::response(caller.stream, result));
            if connection.is_broken() {
                self.connections.remove(slot);
            }
        }
        self.watch_writability(slot);
    }

    fn watch_writability(&mut self, slot: u32) {
        let Some(connection) = self.connections.get(slot) else { return };
        let wanted = connection.has_pending();
        if self.poll.modify(connection.socket(), Token::Connection(slot), wanted).is_err() {
            self.connections.remove(slot);
        }
    }
}
