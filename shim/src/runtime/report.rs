//! What the short-lived processes of the runtime tell the shim, over one `SOCK_SEQPACKET` pair per process.
//!
//! ```text
//! shim                     builder                      the container's (or exec's) process
//!  │ fork ──────────────────►│ spec, cgroup
//!  │                         │ clone3(CLONE_PARENT) ──────►│
//!  │◄──────────── Cloned{pid}│ exits                       │ mounts, pivot, user
//!  │◄──────────────────────────────────────── Ready{user} ─│ waits at the start barrier
//!  │ one byte ────────────────────────────────────────────►│ credentials, execve
//!  │◄──────────────────────────────── end of file: executed │
//!
//! Failed{..} instead of any of these; then the process ends. An exec has no barrier and says no Ready. The shim's
//! death is an end of file at the barrier: the process ends.
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::Failure;
use prost::Message;
use proto::shim::container as wire;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};

/// Supplementary groups that one process may have; a report with them fits into a datagram.
pub const MAX_GROUPS: usize = 4096;

/// Longest report.
const MAX_REPORT: usize = 64 << 10;

/// One report on the wire.
#[derive(Clone, PartialEq, Message)]
struct Report {
    #[prost(oneof = "Event", tags = "1, 2, 3")]
    event: Option<Event>,
}

/// What has happened.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Event {
    /// The process exists.
    #[prost(message, tag = "1")]
    Cloned(Cloned),
    /// It stands at the start barrier.
    #[prost(message, tag = "2")]
    Ready(wire::User),
    /// It, or its builder, gave up.
    #[prost(message, tag = "3")]
    Failed(wire::Failure),
}

/// What the builder made.
#[derive(Clone, PartialEq, Message)]
pub struct Cloned {
    /// The process, as the host sees it.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// The container's cgroup folders, one per hierarchy, the unified one first if there is one.
    #[prost(string, repeated, tag = "2")]
    pub cgroups: Vec<String>,
    /// The first of them is of the unified hierarchy.
    #[prost(bool, tag = "3")]
    pub unified: bool,
    /// The file that counts the kernel's out-of-memory kills.
    #[prost(string, tag = "4")]
    pub oom_file: String,
    /// The container has a PID namespace of its own, which its first process takes down with it.
    #[prost(bool, tag = "5")]
    pub own_pids: bool,
    /// The scope that systemd knows the cgroups by; empty without one.
    #[prost(string, tag = "6")]
    pub unit: String,
    /// The spec has hooks that follow the start or the end.
    #[prost(bool, tag = "7")]
    pub later_hooks: bool,
}

/// A pair for reports: who listens, and who tells.
///
/// # Errors
/// The kernel refuses.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| Failure::os("create", "socket pair", e))
}

/// Sends an event, with a file if one belongs to it.
///
/// # Errors
/// The shim is gone.
pub fn send(to: BorrowedFd<'_>, event: Event, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = Report { event: Some(event) }.encode_to_vec();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files: Vec<_> = file.into_iter().collect();
    if !files.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
    }
    sendmsg(to, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sends a failure; a shim that is gone does not need it.
pub fn send_failure(to: BorrowedFd<'_>, failure: &Failure) {
    drop(send(to, Event::Failed(failure.to_wire()), None));
}

/// What [`receive`] finds.
#[derive(Debug)]
pub enum Received {
    /// An event, perhaps with a file.
    Event(Event, Option<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// Every writer is gone: executed, or ended.
    End,
}

/// Takes the next event without waiting.
///
/// # Errors
/// The socket fails, or what came is no report.
pub fn receive(from: impl AsFd) -> io::Result<Received> {
    let mut bytes = match next_length(&from)? {
        Some(length) => vec![0; length.min(MAX_REPORT)],
        None => return Ok(Received::Nothing),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    if bytes.is_empty() {
        return Ok(Received::End);
    }
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    let length = received.bytes;
    let mut file = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            file = files.into_iter().next().or(file);
        }
    }
    match Report::decode(&bytes[..length]) {
        Ok(Report { event: Some(event) }) => Ok(Received::Event(event, file)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The length of the next report without taking it: zero at the end, `None` when nothing is there yet.
fn next_length(from: impl AsFd) -> io::Result<Option<usize>> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::TRUNC;
    match recv(from, &mut [0; 1], flags) {
        Ok((_, length)) => Ok(Some(length)),
        Err(Errno::AGAIN) => Ok(None),
        Err(Errno::CONNRESET) => Ok(Some(0)),
        Err(error) => Err(error.into()),
    }
}
