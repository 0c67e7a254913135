//! WebSocket (RFC 6455): commands in channels, and SPDY in a tunnel.
//!
//! The handshake is HTTP's, see [`super::http`]; frames are tungstenite's, with limits of ours.

pub mod channels;
pub mod tunnel;
pub mod writer;

use tokio::io::Join;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::wire::{ReadEnd, WriteEnd};

/// The longest message of a client's, and the longest frame.
const MAX_MESSAGE: usize = 1 << 20;
/// What is gathered before it is written.
const WRITE_BUFFER: usize = 64 << 10;

/// A WebSocket of ours.
pub type WebSocket = WebSocketStream<Join<ReadEnd, WriteEnd>>;

/// Takes a connection after its handshake, on which some bytes have been read already.
pub async fn accept(read: ReadEnd, write: WriteEnd, early: Vec<u8>) -> WebSocket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(WRITE_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(4 * MAX_MESSAGE);
    let wire = tokio::io::join(read, write);
    WebSocketStream::from_partially_read(wire, early, Role::Server, Some(config)).await
}
