//! The OCI runtime: from a bundle to a process, one file per kernel subject.
//!
//! The shim never reads a spec itself, so that its own memory stays what it is: for every create and exec it forks a
//! *builder*, which reads the spec, makes the cgroups, clones the process with the shim as its parent, and ends. From
//! then on the process prepares itself ([`create`], [`exec`]); what they tell the shim is drawn in [`report`].

pub mod cgroup;
pub mod report;

mod capability;
mod cgroup_mount;
mod copy_up;
mod create;
mod device;
mod exec;
mod filesystem;
pub mod hook;
mod idmap;
mod label;
mod limit;
mod mask;
mod mount;
mod mount_option;
mod namespace;
mod process;
mod procfs;
mod rootfs;
mod schedule;
mod sysctl;
mod target;
mod terminal;
mod user;

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::Failure;
use sys::process::keep_only;

pub use self::create::{
    Barrier, CreateRequest, Created, Parent, build as build_container, create_here,
};
pub use self::exec::{ExecRequest, build as build_exec};
pub use self::hook::{HookKind, HookState};
pub use self::limit::{protect_from_oom, warn};
pub use self::process::Stdio;
pub use self::rootfs::Layer;
pub use self::user::{Named, Request as UserRequest};

/// The files that a builder keeps of the shim's: where it reports to, and what the process's standard files are to be.
#[derive(Debug)]
pub struct BuilderFiles<'a> {
    /// The builder's end of the pair.
    pub report: BorrowedFd<'a>,
    /// Standard input, output and error; absent ones become the null device.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
}

impl BuilderFiles<'_> {
    /// In the fresh child: closes everything else that the shim has open.
    fn keep(self) -> Result<(OwnedFd, Stdio), u8> {
        let [input, output, error] = self.stdio;
        match keep_only([Some(self.report), input, output, error]) {
            Ok([Some(report), input, output, error]) => {
                Ok((report, Stdio { input, output, error }))
            }
            _ => Err(1),
        }
    }
}

/// Tells the shim how a builder's work ended, if it did not end well, and gives the builder's exit code.
fn conclude(report: &OwnedFd, result: Result<(), Failure>) -> u8 {
    use std::os::fd::AsFd;
    match result {
        Ok(()) => 0,
        Err(failure) => {
            report::send_failure(report.as_fd(), &failure);
            1
        }
    }
}
