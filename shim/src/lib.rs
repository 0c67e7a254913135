//! What the daemon may see of a shim: the bundle it leaves behind, and a client for the one that lives.
//!
//! A shim owns exactly one container. Its daemon prepares a [`Bundle`] (a folder with the OCI spec and a
//! preallocated exit record), launches `wherry-shim` in it and talks to it over the bundle's socket. The shim
//! survives the daemon; a later one finds the bundle again, connects to the same socket, and when nobody answers
//! reads from the record how the container ended.
//!
//! The shim itself is the feature `runtime`: the OCI runtime ([`runtime`]), and what drives it, a container's own
//! [`server`]. This package's binary only chooses between them; the daemon is built without any of it.
#![forbid(unsafe_code)]

mod bundle;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "runtime")]
pub mod containerd;
mod error;
mod exit;
#[cfg(feature = "runtime")]
pub mod foreign;
#[cfg(feature = "runtime")]
pub mod hold;
mod identity;
#[cfg(feature = "runtime")]
mod log;
#[cfg(feature = "runtime")]
pub mod oci;
#[cfg(feature = "runtime")]
pub mod runtime;
#[cfg(feature = "runtime")]
pub mod server;
pub mod slice;
pub mod type_name;

pub use bundle::{Bundle, BundleError, LOG_FILE, RECORD_FILE, SOCKET_FILE, SPEC_FILE};
#[cfg(feature = "client")]
pub use client::{
    AttachOptions, CreateOptions, Created, ExecOptions, ForeignRuntime, Launcher, Mount,
    ResolvedUser, RunOptions, RuncOptions, Shim, Status, TaskState, UserRequest, dissolve,
    release_pids,
};
pub use error::{ErrorKind, Failure, FailureKind, ShimError};
pub use exit::{Exit, Record, Started};
pub use identity::start_time;

/// Who holds a pod's PID namespace: pid and start time, in the pod's folder.
pub const HOLDER_FILE: &str = "holder";
