//! The OCI runtime: from a bundle to a process, one file per kernel subject.
//!
//! The shim never reads a spec itself, so that its own memory stays what it is: for every create and exec it forks a
//! *builder*, which reads the spec, makes the cgroups, clones the process with the shim as its parent, and ends. From
//! then on the process prepares itself ([`create`], [`exec`]); what they tell the shim is drawn in [`report`].

pub mod cgroup;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod report;
pub mod seccomp;

pub(crate) mod capability;
mod cgroup_mount;
mod copy_up;
mod create;
mod device;
mod exec;
mod filesystem;
pub mod hook;
mod idmap;
mod label;
pub(crate) mod limit;
mod mask;
pub(crate) mod mount;
mod mount_option;
mod namespace;
mod net_device;
mod oom_score;
mod overlay;
mod process;
pub(crate) mod procfs;
pub(crate) mod rootfs;
mod schedule;
pub(crate) mod stdio;
mod sysctl;
mod target;
mod terminal;
pub(crate) mod user;

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::Failure;
use sys::process::keep_only;

pub use self::create::{
    Barrier, CreateRequest, Created, Parent, build as build_container, create_here, read_spec,
};
pub use self::exec::{ExecRequest, Inherit, Init, execute};
pub use self::hook::{HookKind, HookState, run_after, start_after};
pub use self::limit::{protect_from_oom, warn};
pub use self::rootfs::Layer;
pub use self::stdio::Stdio;
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
    pub(crate) fn keep(self) -> Result<(OwnedFd, Stdio), u8> {
        let [input, output, error] = self.stdio;
        match keep_only([Some(self.report), input, output, error]) {
            Ok([Some(report), input, output, error]) => {
                Ok((report, Stdio { input, output, error }))
            }
            _ => Err(1),
        }
    }
}

/// The builder of an update: gives a running container other limits, and returns the builder's exit code. `resources` is
/// an OCI spec's `linux.resources` as JSON, as it travels in `UpdateTaskRequest.resources`. What goes wrong is told over
/// the report; the report's end with nothing in it means that all is done.
pub fn build_update(
    watch: &cgroup::Watch,
    resources: &[u8],
    oom_score_adj: Option<i32>,
    files: BuilderFiles<'_>,
) -> u8 {
    let (report, _) = match files.keep() {
        Ok(kept) => kept,
        Err(code) => return code,
    };
    let result = serde_json::from_slice(resources)
        .map_err(|error| {
            let kind = crate::FailureKind::InvalidArgument;
            Failure::new(kind, "read resources", "of update", error.to_string())
        })
        .and_then(|resources| watch.update(&resources))
        .and_then(|()| oom_score_adj.map_or(Ok(()), |wanted| oom_score::adjust(watch, wanted)));
    conclude(&report, result)
}

/// Tells the shim how a builder's work ended, if it did not end well, and gives the builder's exit code.
pub(crate) fn conclude(report: &OwnedFd, result: Result<(), Failure>) -> u8 {
    use std::os::fd::AsFd;
    match result {
        Ok(()) => 0,
        Err(failure) => {
            report::send_failure(report.as_fd(), &failure);
            1
        }
    }
}
