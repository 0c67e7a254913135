//! A caller that says what it likes over the shim's socket: what containerd's client says, and what it does not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use proto::shim::ttrpc::{Request, Response, Status};

/// Both names of the Task service.
pub const V2: &str = "containerd.task.v2.Task";
pub const V3: &str = "containerd.task.v3.Task";

/// A connection on which one call follows the other.
pub struct Wire {
    socket: UnixStream,
    stream: u32,
    service: &'static str,
}

impl Wire {
    pub fn connect(socket: &Path, service: &'static str) -> Self {
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, stream: 1, service }
    }

    /// Calls, and takes the answer or the refusal.
    pub fn call<A: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, Status> {
        self.send(method, message);
        self.receive()
    }

    /// Calls, and leaves the answer for later.
    pub fn send(&mut self, method: &str, message: &impl Message) {
        let request = Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            payload: message.encode_to_vec(),
            ..Request::default()
        };
        let body = request.encode_to_vec();
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(&self.stream.to_be_bytes());
        frame.extend_from_slice(&[1, 0]);
        frame.extend(body);
        self.socket.write_all(&frame).unwrap();
        self.stream += 2;
    }

    pub fn receive<A: Message + Default>(&mut self) -> Result<A, Status> {
        let mut header = [0; 10];
        self.socket.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(*header.first_chunk().unwrap()) as usize;
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).unwrap();
        let response = Response::decode(&*body).unwrap();
        match response.status {
            Some(status) if status.code != 0 => Err(status),
            _ => Ok(A::decode(&*response.payload).unwrap()),
        }
    }
}
