//! A client's connection, whatever it is made of: TCP, TLS, or a tunnel through either.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The reading end of a connection.
pub type ReadEnd = Box<dyn AsyncRead + Send + Unpin>;
/// The writing end of a connection.
pub type WriteEnd = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection as it was accepted.
#[derive(Debug)]
pub enum Wire {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted.
    Encrypted(Box<TlsStream<TcpStream>>),
    /// A fuzzer's.
    #[cfg(feature = "fuzz")]
    Memory(tokio::io::DuplexStream),
}

impl Wire {
    /// Its two ends, to be used at the same time.
    pub fn split(self) -> (ReadEnd, WriteEnd) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Encrypted(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (Box::new(read), Box::new(write))
            }
            #[cfg(feature = "fuzz")]
            Self::Memory(stream) => {
                let (read, write) = tokio::io::split(stream);
                (Box::new(read), Box::new(write))
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(feature = "fuzz")]
            Self::Memory(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(feature = "fuzz")]
            Self::Memory(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(feature = "fuzz")]
            Self::Memory(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(feature = "fuzz")]
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Tells whether the client is still there while nobody reads from it: who waits for a command to take its input
/// would not notice otherwise.
#[derive(Debug)]
pub struct Probe(OwnedFd);

impl Probe {
    /// A probe of a connection.
    ///
    /// # Errors
    /// There are no file descriptors left.
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(stream, 3)?))
    }

    /// Whether the client has closed its side, or is known to be gone.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut fds = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(1..)) && fds[0].revents().intersects(gone)
    }
}
