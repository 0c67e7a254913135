//! A call to a foreign shim by somebody who may wait for its answer: a builder, or who cleans up.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use prost::Message;

use crate::server::{Answered, outcome, parse_answer, request};
use crate::{Failure, FailureKind};

/// containerd's Task service in the version that all shims speak.
pub const TASK: &str = "containerd.task.v2.Task";

/// A connection. Its calls have the odd numbers from 1 on; who takes it over goes on from 101.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    next: u32,
}

impl Wire {
    /// Connects to an address as shims give it (`unix:///path`).
    ///
    /// # Errors
    /// Nobody listens there, or it is no such address.
    pub fn connect(address: &str) -> Result<Self, Failure> {
        let fail = |error: io::Error| Failure::os("connect to shim at", address, error);
        let path = address.strip_prefix("unix://").unwrap_or(address);
        if !path.starts_with('/') {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "no socket's path")));
        }
        Ok(Self { stream: UnixStream::connect(path).map_err(fail)?, next: 1 })
    }

    /// Calls, and waits for the answer.
    ///
    /// # Errors
    /// The refusal; or none comes in time.
    pub fn call<A: Message + Default>(
        &mut self,
        method: &'static str,
        message: &impl Message,
        patience: Duration,
    ) -> Result<A, Failure> {
        let fail = |error: io::Error| Failure::os("call", method, error);
        let stream = self.next;
        self.next += 2;
        self.stream.set_read_timeout(Some(patience)).map_err(fail)?;
        self.stream.set_write_timeout(Some(patience)).map_err(fail)?;
        let frame = request(stream, TASK, method, message.encode_to_vec());
        self.stream.write_all(&frame).map_err(fail)?;
        let mut input = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match parse_answer(&input) {
                Answered::Whole(number, response, _) if number == stream => {
                    let payload = outcome(method, "container", response)?;
                    return A::decode(&*payload).map_err(|error| fail(io::Error::other(error)));
                }
                Answered::Whole(_, _, length) => drop(input.drain(..length)),
                Answered::Broken => return Err(fail(io::ErrorKind::InvalidData.into())),
                Answered::Partial => match self.stream.read(&mut chunk) {
                    Ok(0) => {
                        let (kind, cause) = (FailureKind::Internal, "the shim has gone");
                        return Err(Failure::new(kind, "call", method, cause));
                    }
                    Ok(read) => input.extend_from_slice(&chunk[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(fail(error)),
                },
            }
        }
    }

    /// The connection.
    pub fn into_socket(self) -> OwnedFd {
        self.stream.into()
    }
}
