//! The reading side of a session: frames to streams, streams to a handler.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::super::wire::Probe;
use super::frame::{self, Control, HEAD, Head, Malformed};
use super::header::{self, Headers};
use super::input::Input;
use super::writer::Writer;

/// How often a client is looked after that waits for a command to take its input.
const LOOK: Duration = Duration::from_secs(1);

/// Why a stream is given up (draft 3.1, section 2.6.3).
pub mod reason {
    /// It cannot be.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// Nothing has been done with it.
    pub const REFUSED_STREAM: u32 = 3;
    /// It is not wanted any more.
    pub const CANCEL: u32 = 5;
}

/// Who makes something of the streams.
pub trait Handler: Send {
    /// Whether a stream with these headers is welcome.
    fn open(&mut self, stream: u32, headers: &Headers) -> bool;

    /// A welcome stream is open on both sides.
    fn opened(&mut self, stream: u32);

    /// Takes what came on a stream. Until it has, nothing else is read.
    fn data(&mut self, stream: u32, bytes: &[u8]) -> impl Future<Output = ()> + Send;

    /// Nothing more comes on a stream.
    fn end(&mut self, stream: u32);

    /// The client has given a stream up.
    fn reset(&mut self, stream: u32) {
        self.end(stream);
    }
}

/// Why a session has ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The client has closed it.
    #[error("the client has closed the connection")]
    Closed,
    /// Nothing has moved for too long.
    #[error("nothing has moved for {0:?}")]
    Idle(Duration),
    /// The client breaks the protocol.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The connection is broken.
    #[error("the connection is broken: {0}")]
    Broken(#[from] std::io::Error),
}

/// The reading side.
pub struct Session {
    input: Input,
    writer: Arc<Writer>,
    headers: header::Reader,
    probe: Option<Arc<Probe>>,
    limits: Limits,
    /// The newest stream of the client's.
    last: u32,
}

/// What a session may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at a time.
    pub streams: usize,
    /// How long nothing may move.
    pub idle: Duration,
}

impl Session {
    /// A session on what was read.
    pub fn new(
        input: Input,
        writer: Arc<Writer>,
        probe: Option<Arc<Probe>>,
        limits: Limits,
    ) -> Self {
        Self { input, writer, headers: header::Reader::default(), probe, limits, last: 0 }
    }

    /// Reads until the session ends, and tells everybody then.
    pub async fn run(mut self, mut handler: impl Handler) -> Ended {
        let writer = Arc::clone(&self.writer);
        let ended = {
            let read = self.read(&mut handler);
            tokio::select! {
                ended = read => ended,
                _gone = writer.deliver() => Ended::Closed,
            }
        };
        if matches!(ended, Ended::Malformed(_) | Ended::Idle(_)) {
            let status = u32::from(matches!(ended, Ended::Malformed(_)));
            let told = writer.go_away(self.last, status);
            // A client that takes nothing need not know.
            drop(tokio::time::timeout(LOOK, told).await);
        }
        writer.peer.hang_up();
        ended
    }

    async fn read(&mut self, handler: &mut impl Handler) -> Ended {
        if self.writer.greet().await.is_err() {
            return Ended::Closed;
        }
        loop {
            if let Err(ended) = self.frame(handler).await {
                return ended;
            }
            self.writer.peer.count();
        }
    }

    async fn frame(&mut self, handler: &mut impl Handler) -> Result<(), Ended> {
        let head = loop {
            if let Some(head) = self.input.ready().first_chunk::<HEAD>() {
                break *head;
            }
            self.fill().await?;
        };
        self.input.consume(HEAD);
        match Head::parse(head)? {
            Head::Data { stream, fin, length } => self.data(handler, stream, fin, length).await,
            Head::Control { kind, flags, length } => {
                let length = length as usize;
                while self.input.ready().len() < length {
                    self.fill().await?;
                }
                self.control(handler, kind, flags, length).await?;
                self.input.consume(length);
                Ok(())
            }
        }
    }

    async fn data(
        &mut self,
        handler: &mut impl Handler,
        stream: u32,
        fin: bool,
        length: u32,
    ) -> Result<(), Ended> {
        let mut left = length as usize;
        while left > 0 {
            let ready = self.input.ready();
            if ready.is_empty() {
                self.fill().await?;
                continue;
            }
            let piece = ready.get(..left.min(ready.len())).unwrap_or_default();
            let count = piece.len();
            // What comes on a stream that is no more was on its way when it ended.
            if self.writer.is_open(stream) {
                let taken = handler.data(stream, piece);
                tokio::pin!(taken);
                while !is_done_within(LOOK, &mut taken).await {
                    if self.probe.as_ref().is_some_and(|probe| probe.is_hung_up()) {
                        return Err(Ended::Closed);
                    }
                }
            }
            self.input.consume(count);
            left -= count;
        }
        if fin && self.writer.is_open(stream) {
            self.writer.peer_finished(stream);
            handler.end(stream);
        }
        Ok(())
    }

    async fn control(
        &mut self,
        handler: &mut impl Handler,
        kind: u16,
        flags: u8,
        length: usize,
    ) -> Result<(), Ended> {
        let payload = self.input.ready().get(..length).unwrap_or_default();
        match Control::parse(kind, flags, payload)? {
            Control::SynStream { stream, fin, block } => {
                let headers = self.headers.read(block)?;
                return self.open(handler, stream, fin, &headers).await;
            }
            // We open no streams, but the block is part of the one compressed text.
            Control::SynReply { block, .. } => drop(self.headers.read(block)?),
            Control::Headers { stream, fin, block } => {
                drop(self.headers.read(block)?);
                if fin && self.writer.is_open(stream) {
                    self.writer.peer_finished(stream);
                    handler.end(stream);
                }
            }
            Control::RstStream { stream, .. } => {
                self.writer.peer_reset(stream);
                handler.reset(stream);
            }
            // Even numbers would be answers to pings of ours; there are none.
            Control::Ping { id } if id % 2 == 1 => self.writer.post(&frame::ping(id)).await,
            Control::Settings { window: Some(window) } => self.writer.peer_window(window),
            Control::WindowUpdate { stream, delta } => self.writer.peer_made_room(stream, delta),
            Control::GoAway => return Err(Ended::Closed),
            Control::Ping { .. } | Control::Settings { window: None } | Control::Unknown => {}
        }
        Ok(())
    }

    async fn open(
        &mut self,
        handler: &mut impl Handler,
        stream: u32,
        fin: bool,
        headers: &Headers,
    ) -> Result<(), Ended> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Malformed("opens a stream whose number cannot be").into());
        }
        self.last = stream;
        let full = self.writer.streams() >= self.limits.streams;
        let answered = if full {
            self.writer.refuse(stream, reason::REFUSED_STREAM).await
        } else if handler.open(stream, headers) {
            let accepted = self.writer.accept(stream, !fin).await;
            handler.opened(stream);
            if fin {
                handler.end(stream);
            }
            accepted
        } else {
            self.writer.refuse(stream, reason::PROTOCOL_ERROR).await
        };
        answered.map_err(|_gone| Ended::Closed)
    }

    /// Reads more; it may take a while, unless nothing moves in either direction.
    async fn fill(&mut self) -> Result<(), Ended> {
        let idle = self.limits.idle;
        match self.writer.peer.hear(idle, self.input.fill()).await {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(Ended::Closed),
            Some(Err(error)) => Err(error.into()),
            None => Err(Ended::Idle(idle)),
        }
    }
}

/// Waits for a while.
async fn is_done_within(
    patience: Duration,
    work: &mut std::pin::Pin<&mut impl Future<Output = ()>>,
) -> bool {
    tokio::time::timeout(patience, work).await.is_ok()
}
