//! What the fuzzers call: the bytes of a caller, up to the point where a request would be done.

use std::os::fd::OwnedFd;

use prost::Message;
use proto::shim::container::CreateOptions;
use proto::shim::task::v2 as task;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use super::connection::Connection;
use super::ttrpc::{Parsed, Request, parse};

/// Sends `bytes` in pieces, whose sizes the bytes themselves decide, over a socket, and reads them as a shim does. What
/// comes out must be what the bytes are in one piece.
pub fn requests(bytes: &[u8]) {
    let whole = in_one_piece(bytes);
    let Ok((ours, theirs)) = pair() else { return };
    let mut connection = Connection::new(ours);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let (piece, after) = rest.split_at(rest.len().min(1 + usize::from(*first)));
        rest = after;
        if send(&theirs, piece, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) != Ok(piece.len()) {
            return;
        }
        let _more = connection.read();
        while let Some(request) = connection.next_request() {
            pieces.push(request);
        }
        if connection.is_broken() {
            break;
        }
    }
    assert_eq!(pieces, whole);
    whole.iter().for_each(decode);
}

fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn in_one_piece(mut bytes: &[u8]) -> Vec<Request> {
    let mut requests = Vec::new();
    loop {
        let length = match parse(bytes) {
            Parsed::Request(request, length) => {
                requests.push(request);
                length
            }
            Parsed::Other(length) => length,
            Parsed::Partial | Parsed::Broken => return requests,
        };
        bytes = bytes.get(length..).unwrap_or_default();
    }
}

/// Every message that a payload could be.
fn decode(request: &Request) {
    let payload = request.payload.as_slice();
    if let Ok(create) = task::CreateTaskRequest::decode(payload)
        && let Some(options) = create.options
    {
        drop(CreateOptions::decode(options.value.as_slice()));
    }
    drop(task::ExecProcessRequest::decode(payload));
    drop(task::StartRequest::decode(payload));
    drop(task::KillRequest::decode(payload));
    drop(task::DeleteRequest::decode(payload));
    drop(task::WaitRequest::decode(payload));
    drop(task::ResizePtyRequest::decode(payload));
    drop(task::UpdateTaskRequest::decode(payload));
}
