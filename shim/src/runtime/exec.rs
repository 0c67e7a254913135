//! A further process in a running container.
//!
//! One fork makes it: the caller points its children's PID namespace at the container's for the moment of the clone
//! (setns(2)), so the process is a child of the caller from its birth, and nobody has to make it on another's behalf.
//! It then joins the container's cgroups, and all other namespaces in one call.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::{Failure, FailureKind};
use oci_spec::runtime::Process as SpecProcess;
use proto::shim::container as wire;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open, set_dumpable_behavior};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use sys::confined::Root;
use sys::process::{CloneRequest, SingleThreaded, keep_only};

use super::cgroup::Watch;
use super::process::{Plan, Prepared, Stdio};
use super::procfs::Procfs;
use super::report::{self, Event};
use super::seccomp::Filter;
use super::terminal::Terminal;
use super::{BuilderFiles, create, limit};

/// What is to be executed, and where.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The process of an OCI spec, as JSON.
    pub process: &'a [u8],
    /// A terminal, whether the spec asks for one or not.
    pub terminal: bool,
    /// The container's first process.
    pub init: Init<'a>,
    /// The container's cgroups.
    pub cgroups: &'a Watch,
    /// How soon the kernel kills it when neither its spec nor the first process says.
    pub oom_score_adj: i32,
    /// How many files above standard error stay open: 3 and following.
    pub preserve_fds: u32,
}

/// A container's first process: its number means it for as long as the handle's owner does not reap it.
#[derive(Debug, Clone, Copy)]
pub struct Init<'a> {
    /// The number, as the caller sees it.
    pub pid: Pid,
    /// The handle.
    pub handle: BorrowedFd<'a>,
}

/// Those that a container always has been given, its own or its pod's or the host's.
const ALWAYS: ThreadNameSpaceType = ThreadNameSpaceType::MOUNT
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME)
    .union(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION)
    .union(ThreadNameSpaceType::CONTROL_GROUP)
    .union(ThreadNameSpaceType::NETWORK);

/// Makes the process, a child of the caller, and returns its number. What becomes of it is told over `files.report`:
/// a failure, a terminal's master (with `Ready`), and by its end that the command was executed.
///
/// # Errors
/// The container has ended, or the kernel refuses another process.
pub fn execute(
    thread: &SingleThreaded,
    request: &ExecRequest<'_>,
    files: &BuilderFiles<'_>,
) -> Result<Pid, Failure> {
    let fail = |error: Errno| Failure::os("create", "process", error);
    let birthplace = request.cgroups.birthplace()?;
    // From the first moment on it can be seen from inside the container.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(fail)?;
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(fail)?;
    join(request.init.handle, ThreadNameSpaceType::PROCESS_ID)?;
    let how = CloneRequest { flags: 0, cgroup: birthplace.as_ref().map(AsFd::as_fd) };
    let cloned = thread.clone(&how, || run(request, files));
    // Whom we make from now on is our own again. Nothing about this can be refused.
    let back = move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::PROCESS_ID);
    let pid = cloned.map_err(|e| Failure::os("create", "process", e))?;
    back.map(|()| pid).map_err(|e| Failure::os("leave", "the container's namespaces", e))
}

/// The process itself, in the container's PID namespace and otherwise still the caller's copy.
fn run(request: &ExecRequest<'_>, files: &BuilderFiles<'_>) -> u8 {
    let [input, output, error] = files.stdio;
    let wanted = [Some(files.report), Some(request.init.handle), input, output, error];
    // Files to be passed on have numbers that may not be anybody else's.
    let kept = if request.preserve_fds == 0 { keep_only(wanted) } else { copy(wanted) };
    let Ok([Some(report), Some(init), input, output, error]) = kept else { return 1 };
    let stdio = Stdio { input, output, error };
    let failure = match prepare(request, &init, &report, stdio) {
        Ok((process, stdio)) => process.execute(stdio, || Ok(())),
        Err(failure) => failure,
    };
    report::send_failure(report.as_fd(), &failure);
    1
}

fn copy<const N: usize>(
    files: [Option<BorrowedFd<'_>>; N],
) -> std::io::Result<[Option<OwnedFd>; N]> {
    let mut copies = [const { None }; N];
    for (copy, file) in copies.iter_mut().zip(files) {
        *copy = file.map(|file| file.try_clone_to_owned()).transpose()?;
    }
    Ok(copies)
}

fn prepare(
    request: &ExecRequest<'_>,
    init: &OwnedFd,
    report: &OwnedFd,
    mut stdio: Stdio,
) -> Result<(Prepared, Stdio), Failure> {
    let spec: SpecProcess = serde_json::from_slice(request.process).map_err(|error| {
        Failure::new(FailureKind::InvalidArgument, "read process", "of exec", error.to_string())
    })?;
    let mut plan = Plan::new(&spec, None)?;
    plan.preserve_fds = request.preserve_fds;
    plan.seccomp = Filter::open(init.as_fd())?;
    let oom_score_adj = plan.oom_score_adj.unwrap_or_else(|| inherited_oom_score_adj(request));
    limit::set_oom_score_adj(&Procfs::open()?, oom_score_adj)?;
    // From outside: who is in a cgroup namespace may not put a process into a cgroup (cgroup v2, `nsdelegate`).
    request.cgroups.doors()?.join()?;
    join(init.as_fd(), namespaces(request.init.pid))?;
    create::separate(true)?;
    let root = Root::open(Path::new("/"))
        .map_err(|e| Failure::os("open", "the container's root", e.source))?;
    let process = plan.prepare(&root)?;
    process.enter(&root)?;
    if request.terminal || spec.terminal().unwrap_or(false) {
        stdio = open_terminal(&root, &spec, report)?;
    }
    stdio.complete(&root)?;
    Ok((process, stdio))
}

/// A terminal of the container's own: its master goes to whoever takes the reports.
fn open_terminal(root: &Root, spec: &SpecProcess, report: &OwnedFd) -> Result<Stdio, Failure> {
    let terminal = Terminal::open(root)?;
    terminal.control()?;
    if let Some(size) = spec.console_size() {
        let characters = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
        let (ws_row, ws_col) = (characters(size.height()), characters(size.width()));
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal.slave, size).map_err(|e| Failure::os("resize", "terminal", e))?;
    }
    let master = Some(terminal.master.as_fd());
    report::send(report.as_fd(), Event::Ready(wire::User::default()), master)
        .map_err(|e| Failure::os("report", "", e))?;
    Stdio::terminal(&terminal.slave)
}

/// Which namespaces to join: the caller's own user namespace cannot be joined again.
fn namespaces(init: Pid) -> ThreadNameSpaceType {
    let differs = |kind: &str| {
        let own = rustix::fs::stat(format!("/proc/self/ns/{kind}"));
        let theirs = rustix::fs::stat(format!("/proc/{init}/ns/{kind}"));
        matches!((own, theirs), (Ok(own), Ok(theirs)) if own.st_ino != theirs.st_ino)
    };
    let mut kinds = ALWAYS;
    kinds.set(ThreadNameSpaceType::USER, differs("user"));
    kinds.set(ThreadNameSpaceType::TIME, differs("time"));
    kinds
}

/// Enters some of the container's namespaces, all at once and by the process itself: no path that could mean another
/// one.
fn join(init: BorrowedFd<'_>, kinds: ThreadNameSpaceType) -> Result<(), Failure> {
    move_into_thread_name_spaces(init, kinds).map_err(|error| match error {
        Errno::SRCH => {
            let cause = "the container has ended";
            Failure::new(FailureKind::FailedPrecondition, "join", "container", cause)
        }
        error => Failure::os("join", "the container's namespaces", error),
    })
}

/// What the container's first process has, for processes that do not say.
fn inherited_oom_score_adj(request: &ExecRequest<'_>) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", request.init.pid)).ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(request.oom_score_adj)
}
