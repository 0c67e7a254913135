//! What a client has opened for a command, without a word of the protocol that it came by.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::buffer::Buffer;
use super::channel::Size;
use super::spdy::writer::Writer as Spdy;
use super::ticket::Command;
use super::websocket::writer::Writer as Socket;
use crate::id::SandboxId;

/// The client is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// What is behind the streams.
pub trait Backend: Send + Sync + 'static {
    /// Executes a command to its end: its exit code, or why there is none.
    fn exec(
        &self,
        command: Command,
        remote: Remote,
    ) -> impl Future<Output = Result<i32, String>> + Send;

    /// Attaches to a container until it ends or the client is gone.
    fn attach(
        &self,
        command: Command,
        remote: Remote,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Connects to a port of a pod's own loopback.
    fn dial(
        &self,
        sandbox: &SandboxId,
        port: u16,
    ) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

/// A command's client.
#[derive(Debug)]
pub struct Remote {
    /// Takes where the client's input shall go; absent when the client sends none. Until it is given, the client waits.
    pub stdin: Option<oneshot::Sender<Sink>>,
    /// Where the output goes.
    pub outlets: Outlets,
    /// The size of the client's terminal: the last one that it told.
    pub size: watch::Receiver<Option<Size>>,
    /// Becomes true when the client is gone.
    pub gone: watch::Receiver<bool>,
}

/// Where a command's output goes; what is absent the client does not take.
#[derive(Debug)]
pub struct Outlets {
    /// Standard output, or the terminal.
    pub stdout: Option<Outlet>,
    /// Standard error.
    pub stderr: Option<Outlet>,
}

/// Where a client's input goes.
#[derive(Debug)]
pub struct Sink {
    /// The writing end of a FIFO; without it what comes is dropped.
    pub pipe: Option<pipe::Sender>,
    /// Dropped when the client will send no more, or is gone.
    pub ended: oneshot::Sender<()>,
}

/// One stream to the client.
#[derive(Clone, Debug)]
pub enum Outlet {
    /// A stream of a SPDY session.
    Spdy(Arc<Spdy>, u32),
    /// A channel in a WebSocket.
    Socket(Arc<Socket>, u8),
}

impl Outlet {
    /// Sends the first `length` bytes of the buffer; waits until they are on their way.
    ///
    /// # Errors
    /// The client is gone, or takes nothing.
    pub async fn send(&self, buffer: &mut Buffer, length: usize) -> Result<(), Gone> {
        match self {
            Self::Spdy(writer, stream) => writer.data(*stream, buffer, length).await,
            Self::Socket(writer, channel) => writer.data(*channel, buffer.filled(length)).await,
        }
    }

    /// Sends a text and ends the stream.
    ///
    /// # Errors
    /// As [`Outlet::send`].
    pub async fn conclude(&self, text: &str) -> Result<(), Gone> {
        let mut buffer = Buffer::new(text.len());
        buffer.room().copy_from_slice(text.as_bytes());
        if !text.is_empty() {
            self.send(&mut buffer, text.len()).await?;
        }
        self.finish().await
    }

    /// Tells the client that nothing more comes on this stream.
    ///
    /// # Errors
    /// As [`Outlet::send`].
    pub async fn finish(&self) -> Result<(), Gone> {
        match self {
            Self::Spdy(writer, stream) => writer.finish(*stream).await,
            // No version has a word for it in this direction: all channels end with the connection.
            Self::Socket(..) => Ok(()),
        }
    }
}
