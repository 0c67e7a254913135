//! The start of a container whose process waits for it.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{connect, send, socket_with};

use super::store::Folder;
use crate::runtime::report::{Event, Received, receive};
use crate::{Failure, FailureKind};

/// Lets the process pass, and waits until it has executed its command.
///
/// # Errors
/// It cannot be executed, or its process has ended.
pub fn start(folder: &Folder) -> Result<(), Failure> {
    let fail = |error: rustix::io::Errno| {
        Failure::os("start", format!("container {}", folder.id()), error)
    };
    let kind = SocketType::SEQPACKET;
    let line = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(fail)?;
    let address = SocketAddrUnix::new(folder.start_socket()).map_err(fail)?;
    connect(&line, &address).map_err(fail)?;
    // From here on it is started or it ends: a process whose connection breaks does not execute anything.
    folder.forget_start_socket()?;
    send(&line, &[1], SendFlags::NOSIGNAL).map_err(fail)?;
    loop {
        match poll(&mut [PollFd::new(&line, PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(fail)?,
        };
        let received = receive(&line).map_err(|error| {
            let cause = error.to_string();
            Failure::new(FailureKind::Internal, "read report of", "process", cause)
        })?;
        match received {
            Received::Event(Event::Failed(failure), _) => return Err(Failure::from_wire(failure)),
            Received::End => return Ok(()),
            Received::Event(..) | Received::Nothing => {}
        }
    }
}
