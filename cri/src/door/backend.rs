//! What the streaming server finds behind it.

use std::io;

use tokio::net::TcpStream;

use crate::container;
use crate::error::Error;
use crate::id::SandboxId;
use crate::runtime::Runtime;
use crate::sandbox;
use crate::streaming::{Backend, Command, Remote};

impl Backend for Runtime {
    async fn exec(&self, command: Command, remote: Remote) -> Result<i32, String> {
        container::exec::run(self, command, remote).await.map_err(tell)
    }

    async fn attach(&self, command: Command, remote: Remote) -> Result<(), String> {
        container::attach::run(self, command, remote).await.map_err(tell)
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> io::Result<TcpStream> {
        sandbox::port_forward::dial(self, sandbox, port).await
    }
}

/// The one place where a failure leaves over a stream: it is logged here and nowhere below.
fn tell(error: Error) -> String {
    let sentence = error.sentence();
    tracing::info!(error = sentence, "a stream has failed");
    sentence
}
