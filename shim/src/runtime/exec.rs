//! A further process in a running container: its builder, and then the process itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::{Failure, FailureKind};
use oci_spec::runtime::Process as SpecProcess;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use sys::confined::Root;
use sys::process::{CloneRequest, SAME_PARENT, SingleThreaded};

use super::cgroup::{Doors, Watch};
use super::namespace::unsupported;
use super::process::{Plan, Stdio};
use super::procfs::Procfs;
use super::report::{self, Cloned, Event};
use super::{BuilderFiles, conclude, create, limit};

/// What the shim was asked.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The process of an OCI spec, as JSON.
    pub process: &'a [u8],
    /// FIFOs that the caller made; empty ones become the null device.
    pub stdout: &'a str,
    /// As `stdout`.
    pub stderr: &'a str,
    /// The container's first process.
    pub init: BorrowedFd<'a>,
    /// The container's cgroups.
    pub cgroups: &'a Watch,
    /// How soon the kernel kills it when its spec does not say.
    pub oom_score_adj: i32,
}

/// The namespaces that the builder enters, for the process to be born in. The cgroup namespace is not among them: who
/// is in it may not put a process into a cgroup from outside (cgroup v2, `nsdelegate`).
const OF_BUILDER: ThreadNameSpaceType = ThreadNameSpaceType::MOUNT
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME)
    .union(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION)
    .union(ThreadNameSpaceType::PROCESS_ID)
    .union(ThreadNameSpaceType::NETWORK);

/// The builder: makes the process, whose parent is the shim, and returns the builder's exit code.
pub fn build(thread: &SingleThreaded, request: &ExecRequest<'_>, files: BuilderFiles<'_>) -> u8 {
    let BuilderFiles { report, stdio: [input, ..] } = files;
    // The handle of the first process takes the place of a standard file on the way through.
    let files = BuilderFiles { report, stdio: [input, Some(request.init), None] };
    let (report, Stdio { input, output, .. }) = match files.keep() {
        Ok(kept) => kept,
        Err(code) => return code,
    };
    let Some(init) = output else { return 1 };
    let result = clone(thread, request, &report, input, &init);
    conclude(&report, result)
}

fn clone(
    thread: &SingleThreaded,
    request: &ExecRequest<'_>,
    report: &OwnedFd,
    input: Option<OwnedFd>,
    init: &OwnedFd,
) -> Result<(), Failure> {
    let spec: SpecProcess = serde_json::from_slice(request.process).map_err(|error| {
        Failure::new(FailureKind::InvalidArgument, "read process", "of exec", error.to_string())
    })?;
    if spec.terminal().unwrap_or(false) {
        return Err(unsupported("execute", "with a terminal", "not supported"));
    }
    let plan = Plan::new(&spec, None)?;
    let stdio =
        Stdio { input, output: open_fifo(request.stdout)?, error: open_fifo(request.stderr)? };
    let doors = request.cgroups.doors()?;
    let procfs = Procfs::open()?;
    plan.affinity.apply_before()?;
    limit::set_oom_score_adj(&procfs, plan.oom_score_adj.unwrap_or(request.oom_score_adj))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::os("hide process", "", e))?;
    join(init, OF_BUILDER)?;
    let how = CloneRequest { flags: SAME_PARENT, cgroup: doors.birthplace() };
    let pid = thread
        .clone(&how, || run(plan, &procfs, &doors, (report, init), stdio))
        .map_err(|e| Failure::os("create", "process", e))?;
    let pid = pid.as_raw_nonzero().get().unsigned_abs();
    let event = Event::Cloned(Cloned { pid, ..Cloned::default() });
    report::send(report.as_fd(), event, None).map_err(|e| Failure::os("report", "", e))
}

fn run(
    plan: Plan,
    procfs: &Procfs,
    doors: &Doors,
    (report, init): (&OwnedFd, &OwnedFd),
    mut stdio: Stdio,
) -> u8 {
    let failure = (|| {
        doors.join()?;
        plan.affinity.apply_after()?;
        join(init, ThreadNameSpaceType::CONTROL_GROUP)?;
        create::separate(true)?;
        let root = Root::open(Path::new("/"))
            .map_err(|e| Failure::os("open", "the container's root", e.source))?;
        let process = plan.prepare(&root)?;
        process.enter(&root)?;
        stdio.complete(&root)?;
        process.dress(procfs)?;
        Ok(process.execute(stdio, || Ok(())))
    })()
    .unwrap_or_else(|failure: Failure| failure);
    report::send_failure(report.as_fd(), &failure);
    1
}

/// Enters some of the container's namespaces, all at once and by the process itself: no path that could mean another
/// one.
fn join(init: &OwnedFd, kinds: ThreadNameSpaceType) -> Result<(), Failure> {
    move_into_thread_name_spaces(init.as_fd(), kinds).map_err(|error| match error {
        Errno::SRCH => {
            let cause = "the container has ended";
            Failure::new(FailureKind::FailedPrecondition, "join", "container", cause)
        }
        error => Failure::os("join", "the container's namespaces", error),
    })
}

/// Opens a FIFO for writing. Its reader is there already, so this does not wait; a reader that is gone is an error.
fn open_fifo(path: &str) -> Result<Option<OwnedFd>, Failure> {
    if path.is_empty() {
        return Ok(None);
    }
    let fail = |error: Errno| Failure::os_kind(FailureKind::InvalidArgument, "open", path, error);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
    let found = rustix::fs::fstat(&file).map_err(fail)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Fifo {
        let cause = "is not a FIFO";
        return Err(Failure::new(FailureKind::InvalidArgument, "open", path, cause));
    }
    // The process gets a file that waits, as everybody expects of a standard output.
    let flags = rustix::fs::fcntl_getfl(&file).map_err(fail)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(fail)?;
    Ok(Some(file))
}
