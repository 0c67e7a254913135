//! The heart of the daemon: Kubernetes' Container Runtime Interface over images, snapshots, networks and shims.
//!
//! # Layout
//!
//! - [`door`]: the two gRPC services as a table of contents. Wire types stop here and in the `config` modules.
//! - `sandbox/` and `container/`: one verb a file; `state` is an enum that is moved in one place and drawn there;
//!   `run` and `create` are chains of steps, each of which registers its undo.
//! - `facade`: a little of containerd's API, for agents that know nothing else.
//! - `picture/`: the ImageService's verbs.
//! - `stats/`: what containers and pods use, and its form as metrics.
//! - [`spec`]: from CRI's wishes to an OCI specification, pure.
//! - [`recover`]: what the last daemon left: adopted, finished, or taken back.
//! - [`events`]: what happens to containers and sandboxes, for those who would rather be told than ask.
//! - `encode`: the wire form of long lists, written without the messages.
//! - `joinable`, `undo`, `index`, `record`: the few mechanisms that the verbs share.
//!
//! # What is true where
//!
//! The kernel and the shims know what runs; records in the durable folder say what was promised to the kubelet;
//! the index in memory is built from both at start and answers every list and status.
#![forbid(unsafe_code)]

mod apparmor;
mod cdi;
mod clock;
pub mod container;
pub mod door;
mod encode;
mod error;
pub mod events;
mod facade;
mod features;
mod grammar;
mod handler;
mod id;
mod ids;
mod index;
mod joinable;
mod limits;
mod node;
mod picture;
mod record;
pub mod recover;
mod runtime;
pub mod sandbox;
mod selinux;
mod signal;
pub mod spec;
mod stats;
pub mod streaming;
mod undo;

pub use door::Door;
pub use error::Error;
pub use facade::Facade;
pub use handler::{BUILT_IN, Defaults, Handler, Handlers};
pub use id::{ContainerId, SandboxId};
pub use limits::CgroupDriver;
pub use recover::recover;
pub use runtime::{Parts, Runtime};
