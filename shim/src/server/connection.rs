//! Connections of callers: what they have sent, and what they have not taken yet.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::ttrpc::{Parsed, Request, parse};

/// Connections at a time: a daemon and whoever looks over its shoulder.
const MAX_CONNECTIONS: usize = 64;
/// Answers that a caller may leave lying; one that leaves more is cut off.
const MAX_PENDING: usize = 1 << 20;
/// What is taken before it is looked at: more than the longest frame.
const MAX_INPUT: usize = 8 << 20;
/// One read.
const CHUNK: usize = 4096;
/// Files that may come with a call.
const MAX_FILES: usize = 4;
/// Calls with files that may wait to be looked at.
const MAX_CALLS_WITH_FILES: usize = 64;

/// One caller's connection.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    pending: Vec<u8>,
    broken: bool,
    /// What came with calls that were not looked at yet, each call's files together.
    files: VecDeque<Vec<OwnedFd>>,
}

impl Connection {
    /// Takes a socket that does not block.
    pub fn new(socket: OwnedFd) -> Self {
        let (input, pending, files) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { socket, input, pending, broken: false, files }
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether it cannot be used any longer.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether answers wait for the caller to read.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes what has arrived; `false` when nothing more will.
    pub fn read(&mut self) -> bool {
        // A caller that sends files and calls nothing with them has broken what was agreed.
        self.broken |= self.files.len() >= MAX_CALLS_WITH_FILES;
        let mut chunk = [0; CHUNK];
        while self.input.len() < MAX_INPUT && self.files.len() < MAX_CALLS_WITH_FILES {
            match self.receive(&mut chunk) {
                Ok(0) => return false,
                Ok(read) => self.input.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// One read, with the files that come with it: the kernel never gives those of two calls at once (unix(7)).
    fn receive(&mut self, chunk: &mut [u8]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(chunk)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.push_back(files.collect());
            }
        }
        Ok(received.bytes)
    }

    /// The files of the first call with some that has not had its own yet.
    pub fn take_files(&mut self) -> Vec<OwnedFd> {
        self.files.pop_front().unwrap_or_default()
    }

    /// The next whole call.
    pub fn next_request(&mut self) -> Option<Request> {
        loop {
            let (request, length) = match parse(&self.input) {
                Parsed::Request(request, length) => (Some(request), length),
                Parsed::Other(length) => (None, length),
                Parsed::Partial => return None,
                Parsed::Broken => {
                    self.broken = true;
                    return None;
                }
            };
            drop(self.input.drain(..length));
            if self.input.is_empty() {
                self.input = Vec::new();
            }
            if request.is_some() {
                return request;
            }
        }
    }

    /// Sends a frame, or as much of it as the caller takes now.
    pub fn send(&mut self, frame: &[u8]) {
        self.pending.extend_from_slice(frame);
        let sent = self.write_pending();
        self.broken |= !sent || self.pending.len() > MAX_PENDING;
    }

    /// Sends what waits; `false` when the caller is gone.
    pub fn write_pending(&mut self) -> bool {
        while !self.pending.is_empty() {
            match send(&self.socket, &self.pending, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(self.pending.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        self.pending = Vec::new();
        true
    }
}

/// All connections. A slot is used again, but not a slot's generation.
#[derive(Debug, Default)]
pub struct Connections {
    slots: Vec<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

impl Connections {
    /// Gives a connection a slot, if there is one.
    pub fn add(&mut self, connection: Connection) -> Option<u32> {
        let free = self.slots.iter().position(|slot| slot.connection.is_none());
        let at = match free {
            Some(at) => at,
            None if self.slots.len() < MAX_CONNECTIONS => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => return None,
        };
        let slot = self.slots.get_mut(at)?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.connection = Some(connection);
        u32::try_from(at).ok()
    }

    /// The connection of a slot.
    pub fn get(&self, slot: u32) -> Option<&Connection> {
        self.slots.get(slot as usize)?.connection.as_ref()
    }

    /// The connection of a slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_mut()
    }

    /// The files that came with a slot's call.
    pub fn take_files(&mut self, slot: u32) -> Vec<OwnedFd> {
        self.get_mut(slot).map(Connection::take_files).unwrap_or_default()
    }

    /// Which of its connections a slot has.
    pub fn generation(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |slot| slot.generation)
    }

    /// Whether a slot still has the same connection.
    pub fn is_current(&self, slot: u32, generation: u32) -> bool {
        self.get(slot).is_some() && self.generation(slot) == generation
    }

    /// Closes a connection.
    pub fn remove(&mut self, slot: u32) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.connection = None;
        }
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.connection.is_none())
    }

    /// Sends what still waits, until `deadline`.
    pub fn flush(&mut self, deadline: Instant) {
        for connection in self.slots.iter_mut().filter_map(|slot| slot.connection.as_mut()) {
            while connection.write_pending() && connection.has_pending() {
                let left = deadline.saturating_duration_since(Instant::now());
                let Ok(left) = Timespec::try_from(left.max(Duration::from_millis(1))) else {
                    return;
                };
                let mut fds = [PollFd::new(&connection.socket, PollFlags::OUT)];
                if poll(&mut fds, Some(&left)) != Ok(1) {
                    break;
                }
            }
        }
    }
}
