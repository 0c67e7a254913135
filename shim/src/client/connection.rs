//! One connection to a shim, multiplexed by a task of its own.
//!
//! ttrpc (github.com/containerd/ttrpc, PROTOCOL.md): a frame is ten bytes of header (length and stream id as
//! big-endian u32, type, flags) and a message; a client's stream ids are odd and never used twice.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use prost::Message;
use proto::shim::ttrpc::{Request, Response};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

const HEADER: usize = 10;
const MAX_MESSAGE: usize = 4 << 20;
const TYPE_REQUEST: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
/// Calls that may queue before a caller has to wait.
const QUEUE: usize = 16;
const READ_CHUNK: usize = 4096;
/// Files that may travel with a call.
const MAX_FILES: usize = 4;

type Answer = oneshot::Sender<Response>;

/// A call on its way.
struct Outgoing {
    frame: Vec<u8>,
    /// They travel with the frame's first byte, and are closed here then.
    files: Vec<OwnedFd>,
    answer: Answer,
}

/// The sending end of a connection; it closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    calls: mpsc::Sender<Outgoing>,
}

impl Connection {
    /// Hands `stream` to a task that ends with it or with the last handle.
    pub(super) fn new(stream: UnixStream) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE);
        drop(tokio::spawn(
            Multiplexer { stream, pending: HashMap::new(), input: Vec::new() }.run(queue),
        ));
        Self { calls }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The message is too large, or the connection is gone.
    pub(super) async fn call(
        &self,
        request: &Request,
        files: Vec<OwnedFd>,
    ) -> io::Result<Response> {
        let length = request.encoded_len();
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "request over 4 MiB"));
        }
        let mut frame = Vec::with_capacity(HEADER + length);
        frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 0, TYPE_REQUEST, 0]);
        request.encode_raw(&mut frame);
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.calls.send(Outgoing { frame, files, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

struct Multiplexer {
    stream: UnixStream,
    pending: HashMap<u32, Answer>,
    input: Vec<u8>,
}

impl Multiplexer {
    /// Ends when the peer closes, breaks the protocol, or nobody is left to ask; whoever waits then is told by
    /// the drop of `pending`.
    async fn run(mut self, mut queue: mpsc::Receiver<Outgoing>) {
        let mut stream_id = 1_u32;
        loop {
            tokio::select! {
                call = queue.recv() => {
                    let Some(Outgoing { mut frame, files, answer }) = call else { return };
                    frame[4..8].copy_from_slice(&stream_id.to_be_bytes());
                    self.pending.retain(|_, answer| !answer.is_closed());
                    self.pending.insert(stream_id, answer);
                    stream_id = stream_id.wrapping_add(2);
                    // A shim reads whenever there is something to read and never waits for its clients, so this
                    // write cannot wait for a read of ours.
                    let Ok(sent) = self.send_first(&frame, &files).await else { return };
                    drop(files);
                    if self.stream.write_all(&frame[sent..]).await.is_err() {
                        return;
                    }
                }
                ready = self.stream.readable() => {
                    if ready.is_err() || !self.receive() {
                        return;
                    }
                }
            }
        }
    }

    /// Sends a frame's beginning with its files, if it has some.
    async fn send_first(&self, frame: &[u8], files: &[OwnedFd]) -> io::Result<usize> {
        if files.is_empty() {
            return Ok(0);
        }
        let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let bytes = [IoSlice::new(frame)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            Ok(sendmsg(&self.stream, &bytes, &mut ancillary, flags)?)
        };
        self.stream.async_io(tokio::io::Interest::WRITABLE, send).await
    }

    /// Takes what has arrived; `false` when the connection is of no more use.
    fn receive(&mut self) -> bool {
        let mut chunk = [0; READ_CHUNK];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => return false,
            Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
        loop {
            match split_frame(&self.input) {
                Split::Partial => return true,
                Split::Broken => return false,
                Split::Frame { stream_id, kind, length } => {
                    let body = &self.input[HEADER..HEADER + length];
                    if kind == TYPE_RESPONSE
                        && let Some(answer) = self.pending.remove(&stream_id)
                    {
                        let Ok(response) = Response::decode(body) else { return false };
                        drop(answer.send(response));
                    }
                    drop(self.input.drain(..HEADER + length));
                    if self.input.is_empty() {
                        self.input = Vec::new();
                    }
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Split {
    /// The rest has not arrived yet.
    Partial,
    /// Longer than any message may be.
    Broken,
    Frame {
        stream_id: u32,
        kind: u8,
        length: usize,
    },
}

fn split_frame(input: &[u8]) -> Split {
    let Some(&[l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags]) = input.first_chunk::<HEADER>()
    else {
        return Split::Partial;
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_MESSAGE {
        return Split::Broken;
    }
    if input.len() < HEADER + length {
        return Split::Partial;
    }
    Split::Frame { stream_id: u32::from_be_bytes([s0, s1, s2, s3]), kind, length }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_only_with_its_last_byte() {
        let frame = [0, 0, 0, 2, 0, 0, 0, 7, 2, 0, 9, 9];
        for cut in 0..frame.len() {
            assert_eq!(split_frame(&frame[..cut]), Split::Partial, "{cut}");
        }
        assert_eq!(split_frame(&frame), Split::Frame { stream_id: 7, kind: 2, length: 2 });
    }

    #[test]
    fn a_frame_over_four_mebibytes_is_refused_from_its_header() {
        assert_eq!(split_frame(&[0, 64, 0, 1, 0, 0, 0, 1, 2, 0]), Split::Broken);
    }
}
