//! The streaming server: what `kubectl exec`, `attach` and `port-forward` flow through.
//!
//! ```text
//!  Exec, Attach, PortForward ──► tickets ──► http://host:port/exec/TOKEN
//!                                               │ one request, once, within a minute
//!              HTTP/1.1 upgrade (http) ◄────────┘
//!                │                │                   │
//!        SPDY/3.1 (spdy)   WebSocket channels   SPDY in WebSocket (tunnel)
//!                │                │                   │
//!                └── command: exec, attach ──┐        │
//!                └── forward: port-forward ◄─┼────────┘
//!                                         Backend: containers and pods
//! ```
//!
//! Nothing here knows of containers: what a command or a port is, [`Backend`] says. Whoever comes with a token is a
//! tenant: every number, name and length is checked, and nothing is buffered without a cap. What does not fit is not
//! taken: the client's TCP connection fills up, and the client waits.

mod buffer;
mod channel;
mod command;
mod forward;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod http;
mod peer;
mod remote;
mod server;
pub mod spdy;
mod status;
mod ticket;
mod tls;
mod websocket;
mod wire;

pub use buffer::Buffer;
pub use channel::Size;
pub use remote::{Backend, Gone, Outlet, Outlets, Remote, Sink};
pub use server::{Server, Settings, StreamingError};
pub use ticket::{Command, Full, Order, Tickets};
pub use tls::TlsFiles;
