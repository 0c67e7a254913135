//! Events by way of a program of the daemon's (`containerd publish`): for daemons without a ttrpc socket.

use std::io::{Seek, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use prost::Message;
use prost_types::Any;
use rustix::fs::{MemfdFlags, memfd_create};

/// The program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Where it is.
    pub path: PathBuf,
    /// The daemon's socket.
    pub address: String,
}

impl Binary {
    /// Starts it with an event; whoever reaps takes it, too.
    pub fn publish(&self, namespace: &str, topic: &str, event: &Any) {
        let started =
            memfd_create(c"event", MemfdFlags::CLOEXEC).map_err(Into::into).and_then(|memory| {
                let mut memory = std::fs::File::from(memory);
                memory.write_all(&event.encode_to_vec())?;
                memory.rewind()?;
                Command::new(&self.path)
                    .args(["--address", &self.address, "publish", "--topic", topic])
                    .args(["--namespace", namespace])
                    .stdin(Stdio::from(memory))
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            });
        if let Err(error) = started {
            crate::runtime::warn(format_args!("publish with {}: {error}", self.path.display()));
        }
    }
}
