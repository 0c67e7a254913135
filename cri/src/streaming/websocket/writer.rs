//! The writing side of a WebSocket with channels.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::WebSocket;
use crate::streaming::remote::Gone;
use crate::streaming::status::Version;

/// The channel on which version 5 tells the end of another.
pub const CLOSE: u8 = 255;

/// The writing end and what both sides share.
pub struct Writer {
    out: tokio::sync::Mutex<SplitSink<WebSocket, Message>>,
    version: Version,
    moved: AtomicU64,
    patience: Duration,
    gone: watch::Sender<bool>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Writer {
    /// Writes to a client that may take nothing for as long as `patience`.
    pub fn new(out: SplitSink<WebSocket, Message>, version: Version, patience: Duration) -> Self {
        Self {
            out: tokio::sync::Mutex::new(out),
            version,
            moved: AtomicU64::new(0),
            patience,
            gone: watch::Sender::new(false),
        }
    }

    /// Becomes true when the connection has ended.
    pub fn gone(&self) -> watch::Receiver<bool> {
        self.gone.subscribe()
    }

    /// Ends the connection for everybody who waits to write.
    pub fn hang_up(&self) {
        self.gone.send_replace(true);
    }

    /// How many messages have been moved, in either direction.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Counts a message that was read.
    pub fn count(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends data on a channel.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn data(&self, channel: u8, bytes: &[u8]) -> Result<(), Gone> {
        let mut message = Vec::with_capacity(1 + bytes.len());
        message.push(channel);
        message.extend_from_slice(bytes);
        self.send(Message::Binary(Bytes::from(message))).await
    }

    /// Says that this is all.
    pub async fn close(&self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
        if self.send(Message::Close(Some(frame))).await.is_err() {
            tracing::debug!("a client is gone before the end of its connection");
        }
    }

    async fn send(&self, message: Message) -> Result<(), Gone> {
        let mut gone = self.gone.subscribe();
        let sent = async { self.out.lock().await.send(message).await };
        let sent = tokio::select! {
            biased;
            sent = tokio::time::timeout(self.patience, sent) => sent,
            _ = gone.wait_for(|gone| *gone) => return Err(Gone),
        };
        if matches!(sent, Ok(Ok(()))) {
            self.count();
            return Ok(());
        }
        self.hang_up();
        Err(Gone)
    }
}
