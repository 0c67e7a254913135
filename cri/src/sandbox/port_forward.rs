//! PortForward: connections to the pod's own loopback, made inside its network namespace.
//!
//! Only the socket is made inside, on a thread of its own; connecting, and everything after it, needs no thread: a
//! socket stays in the namespace that it was made in.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proto::cri;
use tokio::net::{TcpSocket, TcpStream};

use super::config::PodScope;
use crate::error::Error;
use crate::id::SandboxId;
use crate::record;
use crate::runtime::Runtime;
use crate::streaming::Order;

/// Says where the connections can be had. The ports are named with each connection.
///
/// # Errors
/// `Refused` when the pod is not ready.
pub fn port_forward(runtime: &Runtime, request: &cri::PortForwardRequest) -> Result<String, Error> {
    let sandbox = runtime.sandboxes.find(&request.pod_sandbox_id)?;
    let operation = format!("forward ports of sandbox {}", sandbox.id());
    if !sandbox.state().is_ready() {
        return Err(Error::Refused { operation, reason: "the pod is not ready".into() });
    }
    let order = Order::Forward(sandbox.id().clone());
    runtime.streaming.issue(order).map_err(|source| Error::Io { operation, source })
}

/// Connects to a port of the pod: by IPv4, and if nobody listens there, by IPv6.
///
/// # Errors
/// The pod is not ready any more, or nobody listens.
pub async fn dial(runtime: &Runtime, id: &SandboxId, port: u16) -> io::Result<TcpStream> {
    let sandbox = runtime.sandboxes.find(id.as_str()).map_err(refused)?;
    if !sandbox.state().is_ready() {
        return Err(io::Error::other("the pod is not ready"));
    }
    let namespace = (sandbox.record.config.network == PodScope::Pod)
        .then(|| runtime.pod_paths(sandbox.id()).net());
    let (v4, v6) = match namespace {
        None => sockets()?,
        Some(path) => {
            let work = move || {
                sys::netns::inside(&path, sockets).map_err(|source| Error::Namespace {
                    operation: "make a socket in a pod".into(),
                    source,
                })
            };
            record::blocking("make a socket in a pod", work).await.map_err(refused)??
        }
    };
    let first = match v4.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    // A node without IPv6 has no such socket; what IPv4 said is the answer then.
    let Some(v6) = v6 else { return Err(first) };
    v6.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.map_err(|_| first)
}

/// A socket of either family in the namespace of this thread.
fn sockets() -> io::Result<(TcpSocket, Option<TcpSocket>)> {
    Ok((TcpSocket::new_v4()?, TcpSocket::new_v6().ok()))
}

fn refused(error: Error) -> io::Error {
    io::Error::other(error.sentence())
}
