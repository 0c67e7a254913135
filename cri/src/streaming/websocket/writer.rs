//! The writing side of a WebSocket with channels.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::WebSocket;
use crate::streaming::peer::Peer;
use crate::streaming::remote::Gone;
use crate::streaming::status::Version;

/// The channel on which version 5 tells the end of another.
pub const CLOSE: u8 = 255;

/// The writing end and what both sides share.
pub struct Writer {
    out: tokio::sync::Mutex<SplitSink<WebSocket, Message>>,
    version: Version,
    /// Who is written to.
    pub peer: Peer,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Writer {
    /// Writes to a client that may take nothing for as long as `patience`.
    pub fn new(out: SplitSink<WebSocket, Message>, version: Version, patience: Duration) -> Self {
        Self { out: tokio::sync::Mutex::new(out), version, peer: Peer::new(patience) }
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
        let sent = async { self.out.lock().await.send(message).await };
        if self.peer.while_there(sent).await?.is_ok() {
            self.peer.count();
            return Ok(());
        }
        self.peer.hang_up();
        Err(Gone)
    }
}
