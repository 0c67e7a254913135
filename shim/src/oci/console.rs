//! Sockets of callers who want to have a terminal's master, or a process's handle.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect as connect_socket, sendmsg, socket_with,
};

use super::launch::Stay;
use crate::{Failure, FailureKind};

/// Connects to a caller's socket.
///
/// # Errors
/// Nobody listens there.
pub fn connect(path: &Path) -> Result<OwnedFd, Failure> {
    let fail = |error: rustix::io::Errno| {
        Failure::os("connect to socket", path.display().to_string(), error)
    };
    let kind = SocketType::STREAM;
    let socket =
        socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(fail)?;
    let address = SocketAddrUnix::new(path).map_err(fail)?;
    connect_socket(&socket, &address).map_err(fail)?;
    Ok(socket)
}

/// Sends a file with a message.
///
/// # Errors
/// Nobody takes it.
pub fn send_file(socket: &OwnedFd, message: &[u8], file: &OwnedFd) -> Result<(), Failure> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    let sent = sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL);
    sent.map(drop).map_err(|e| Failure::os("send file over", "socket", e))
}

/// Whether terminal, console socket and staying go together.
///
/// # Errors
/// `InvalidArgument`: a terminal that nobody would have, or a socket for none.
pub fn check(terminal: bool, stay: Stay, socket: bool) -> Result<(), Failure> {
    let cause = match (terminal, stay, socket) {
        (true, Stay::Detached, false) => "it takes a console socket when the caller does not stay",
        (false, _, true) => "a console socket is for a terminal, and there is none",
        (true, Stay::Attached, true) => "a console socket is for when the caller does not stay",
        _ => return Ok(()),
    };
    Err(Failure::new(FailureKind::InvalidArgument, "allocate", "terminal", cause))
}

/// As [`check`], for an exec: with a console socket somebody else has the terminal, whether the caller stays or not.
///
/// # Errors
/// As `check`.
pub fn check_exec(terminal: bool, stay: Stay, socket: bool) -> Result<(), Failure> {
    check(terminal, if terminal && socket { Stay::Detached } else { stay }, socket)
}
