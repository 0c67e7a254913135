//! The bounded way from the network's task to the decompressing thread.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Pieces in flight; each is at most what one connection buffers.
const DEPTH: usize = 8;

/// The network's end.
#[derive(Debug)]
pub(crate) struct Feed {
    sender: mpsc::Sender<Piece>,
}

/// The thread's end: reads like a file, and ends with an error if the sender went away without saying "end".
#[derive(Debug)]
pub(crate) struct Intake {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
    received: u64,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

/// Marks an error of [`Intake`]: the download ended early.
#[derive(Debug, thiserror::Error)]
#[error("the download ended early")]
pub(super) struct CutOff;

/// A connected pair.
pub(crate) fn feed() -> (Feed, Intake) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (Feed { sender }, Intake { receiver, current: Bytes::new(), ended: false, received: 0 })
}

impl Feed {
    /// Hands a piece over, waiting for room; false if the other end has gone, which knows why.
    pub(crate) async fn data(&self, bytes: Bytes) -> bool {
        self.sender.send(Piece::Data(bytes)).await.is_ok()
    }

    /// Says that all of it has come and was verified.
    pub(crate) async fn end(self) -> bool {
        self.sender.send(Piece::End).await.is_ok()
    }
}

impl Intake {
    /// Compressed bytes taken so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Makes at least one byte available, unless it has ended.
    fn fill(&mut self) -> io::Result<()> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Data(bytes)) => {
                    self.received += bytes.len() as u64;
                    self.current = bytes;
                }
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, CutOff)),
            }
        }
        Ok(())
    }
}

impl Read for Intake {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let length = out.len().min(self.current.len());
        out[..length].copy_from_slice(&self.current[..length]);
        self.current.advance(length);
        Ok(length)
    }
}

impl io::BufRead for Intake {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill()?;
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount.min(self.current.len()));
    }
}
