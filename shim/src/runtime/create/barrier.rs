//! The start barrier: where a process stands between its creation and its start.

use std::os::fd::OwnedFd;

use crate::Failure;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

/// Takes the one connection that a start comes over.
///
/// # Errors
/// The socket fails.
pub fn accept(listener: &OwnedFd) -> Result<OwnedFd, Failure> {
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            other => return other.map_err(|e| Failure::os("wait for", "start", e)),
        }
    }
}

/// Waits for one byte, and whether it came: the other side's end is its refusal.
pub fn passed(line: &OwnedFd) -> bool {
    let mut byte = [0];
    loop {
        match rustix::io::read(line, &mut byte) {
            Err(Errno::INTR) => {}
            other => return other == Ok(1),
        }
    }
}

/// Lets the other side pass; one that is gone does not need it.
pub fn lift(line: &OwnedFd) {
    let _gone = rustix::net::send(line, &[1], rustix::net::SendFlags::NOSIGNAL);
}
