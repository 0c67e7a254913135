//! The daemon's side: launching a shim and talking to it.
//!
//! ```text
//! Launcher::find ── launch(bundle) ──► Shim ── create, start, wait, exec, … ──► delete, shutdown
//!                    Shim::connect(bundle) after the daemon was started anew ─┘
//! ```
//!
//! A [`Shim`] is a cheap handle on one connection, which a task of its own multiplexes; every call has a deadline
//! but [`Shim::wait`] and [`Shim::wait_exec`], which end with the process or with the shim.

mod attach;
mod call;
mod connection;
mod dissolve;
mod exec;
mod foreign;
mod launch;
mod pids;
mod task;
mod update;

pub use attach::AttachOptions;
pub use dissolve::dissolve;
pub use exec::{ExecOptions, RunOptions};
pub use foreign::{ForeignRuntime, RuncOptions};
pub use launch::Launcher;
pub use pids::release_pids;
pub use task::{CreateOptions, Created, Mount, ResolvedUser, Shim, Status, TaskState, UserRequest};
