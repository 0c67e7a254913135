//! A byte stream in a WebSocket's binary messages: SPDY in a tunnel, as `kubectl port-forward` speaks it to a proxy.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;

use super::WebSocket;
use crate::streaming::wire::{ReadEnd, WriteEnd};

/// The longest message that is written.
const MESSAGE: usize = 64 << 10;

/// The two ends of a tunnel.
pub fn ends(socket: WebSocket) -> (ReadEnd, WriteEnd) {
    let (out, incoming) = socket.split();
    (Box::new(Reading { incoming, rest: Bytes::new() }), Box::new(Writing { out }))
}

struct Reading {
    incoming: SplitStream<WebSocket>,
    rest: Bytes,
}

struct Writing {
    out: SplitSink<WebSocket, Message>,
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(MESSAGE);
        ready!(Pin::new(&mut self.out).poll_ready(context)).map_err(io::Error::other)?;
        let message = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        let sent = Pin::new(&mut self.out).start_send(Message::Binary(message));
        Poll::Ready(sent.map(|()| count).map_err(io::Error::other))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.out).poll_flush(context).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.out).poll_close(context).map_err(io::Error::other)
    }
}
