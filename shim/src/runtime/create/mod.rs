//! A container's first process: how it comes to be, step by step.
//!
//! ```text
//! plan      the spec, read and checked; nothing is done yet
//! launch    cgroups, namespaces and the process itself; what has to be done from outside: its early hooks
//! stage     in between for some: what has to be done with the host's rights (user and time namespaces, mapped mounts)
//! init      the process prepares itself: mounts, root, user
//! barrier   it waits for the start, and executes
//! ```

mod barrier;
mod here;
mod init;
mod launch;
mod plan;
mod stage;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::Failure;
use sys::process::SingleThreaded;

use super::hook::HookState;
use super::rootfs::Layer;
use super::user::Request as UserRequest;
use super::{BuilderFiles, conclude, report};

pub(super) use self::barrier::passed;
pub use self::here::{Created, create_here};
pub(super) use self::init::{become_root, separate};
use self::launch::Launch;
use self::plan::Plan;
pub use self::plan::read_spec;

/// What was asked beyond the spec. The spec is the file `config.json` of this process's folder.
#[derive(Debug)]
pub struct CreateRequest {
    /// The root file system; without any it is the spec's folder as it is.
    pub layers: Vec<Layer>,
    /// In place of the spec's user.
    pub user: Option<UserRequest>,
    /// A terminal.
    pub terminal: bool,
    /// How soon the kernel kills it when the spec does not say.
    pub oom_score_adj: i32,
    /// Whose child the process is.
    pub parent: Parent,
    /// Where it waits for its start.
    pub barrier: Barrier,
    /// A connected socket that gets the terminal's master in place of whoever reads the report.
    pub console: Option<OwnedFd>,
    /// How many files above standard error stay open: 3 and following.
    pub preserve_fds: u32,
    /// Moves the root in place of pivot_root(2), which an initial ramdisk as root does not permit.
    pub no_pivot: bool,
    /// A session keyring of its own; otherwise it keeps the caller's.
    pub new_keyring: bool,
    /// Finds the command before the container counts as created. Otherwise what cannot be executed is told at the start.
    pub check_command: bool,
    /// Added to the spec's environment.
    pub env: Vec<String>,
    /// What hooks are told.
    pub state: HookState,
    /// The folder of what execs need; empty for this process's own, the bundle.
    pub private: PathBuf,
}

impl Default for CreateRequest {
    fn default() -> Self {
        Self {
            layers: Vec::new(),
            user: None,
            terminal: false,
            oom_score_adj: 0,
            parent: Parent::Shim,
            barrier: Barrier::Report,
            console: None,
            preserve_fds: 0,
            no_pivot: false,
            new_keyring: true,
            check_command: false,
            env: Vec::new(),
            state: HookState::default(),
            private: PathBuf::new(),
        }
    }
}

/// Whose child a container's first process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The builder's parent: the shim.
    Shim,
    /// The builder's own, which leaves it behind when it ends.
    Caller,
}

/// Where a container's first process waits for its start.
#[derive(Debug)]
pub enum Barrier {
    /// One byte on the report's socket.
    Report,
    /// A listening `SOCK_SEQPACKET` socket: the process takes one connection, reads one byte, and reports over it when
    /// it cannot be executed; its end without a report means that it was.
    Socket(OwnedFd),
}

/// The builder: makes the container's process, whose parent is the shim, and returns the builder's exit code.
pub fn build(thread: &SingleThreaded, request: CreateRequest, files: BuilderFiles<'_>) -> u8 {
    let (report, stdio) = match files.keep() {
        Ok(kept) => kept,
        Err(code) => return code,
    };
    let result = Plan::read(&request).and_then(|plan| {
        Launch { thread, plan, request, report: &report, stdio }.run(|cloned| {
            let event = report::Event::Cloned(cloned);
            report::send(report.as_fd(), event, None).map_err(|e| Failure::os("report", "", e))
        })
    });
    conclude(&report, result)
}
