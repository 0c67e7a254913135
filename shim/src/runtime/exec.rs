//! A further process in a running container.
//!
//! One fork makes it: the caller points its children's PID namespace at the container's for the moment of the clone
//! (setns(2)), so the process is a child of the caller from its birth, and nobody has to make it on another's behalf.
//! It then joins the container's cgroups, and all other namespaces in one call.
//!
//! Between its birth and that call it has the host's root, and not being dumpable keeps nobody away who has CAP_SYS_PTRACE
//! (CVE-2016-9962 is about less). Where somebody in its PID namespace may have that, a process between goes first: it joins
//! everything else, and only its child is born where it can be seen.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::{Failure, FailureKind};
use oci_spec::runtime::Process as SpecProcess;
use proto::shim::container as wire;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open, set_dumpable_behavior};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use sys::confined::Root;
use sys::process::{CloneRequest, SAME_PARENT, SingleThreaded, Wait, keep_only, wait};

use super::cgroup::Watch;
use super::idmap::Maps;
use super::process::{Plan, Prepared};
use super::procfs::Procfs;
use super::report::{self, Cloned, Event, Received};
use super::seccomp::Filter;
use super::stdio::Stdio;
use super::terminal::Terminal;
use super::{BuilderFiles, create, limit};

/// What is to be executed, and where.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The process of an OCI spec, as JSON.
    pub process: &'a [u8],
    /// A terminal in place of the standard files.
    pub terminal: bool,
    /// The container's first process.
    pub init: Init<'a>,
    /// The container's cgroups.
    pub cgroups: &'a Watch,
    /// How soon the kernel kills it when neither its spec nor the first process says.
    pub oom_score_adj: i32,
    /// A connected socket that gets the terminal's master in place of whoever reads the report.
    pub console: Option<BorrowedFd<'a>>,
    /// What the caller has open.
    pub inherit: Inherit,
}

/// What a process gets of the caller's files beyond its standard ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherit {
    /// Nothing, not even for a moment: they are a shim's.
    Nothing,
    /// The files 3 and following, so many. The caller's others are closed when the command is executed.
    Files(u32),
}

/// A container's first process: its number means it for as long as the handle's owner does not reap it.
#[derive(Debug, Clone, Copy)]
pub struct Init<'a> {
    /// The number, as the caller sees it.
    pub pid: Pid,
    /// The handle.
    pub handle: BorrowedFd<'a>,
}

/// Its bit (linux/capability.h).
const CAP_SYS_PTRACE: u64 = 1 << 19;

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
    if is_watched(request.init.pid) {
        return execute_covered(thread, request, files);
    }
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(fail)?;
    join(request.init.handle, ThreadNameSpaceType::PROCESS_ID)?;
    let how = CloneRequest { flags: 0, cgroup: birthplace.as_ref().map(AsFd::as_fd) };
    let cloned = thread.clone(&how, || run(request, files));
    // Whom we make from now on is our own again. Nothing about this can be refused.
    let back = move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::PROCESS_ID);
    let pid = cloned.map_err(|e| Failure::os("create", "process", e))?;
    back.map(|()| pid).map_err(|e| Failure::os("leave", "the container's namespaces", e))
}

/// Whether somebody who could trace the process sees it from its birth on: the container may have CAP_SYS_PTRACE, or it
/// shares its PID namespace with others.
fn is_watched(init: Pid) -> bool {
    // Not on the heap: a shim's is made of few pages, and stays so.
    let mut buffer = [0; 4096];
    let read =
        File::open(format!("/proc/{init}/status")).and_then(|mut file| file.read(&mut buffer));
    let text = std::str::from_utf8(&buffer[..read.unwrap_or(0)]).unwrap_or_default();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let rights = field("CapBnd:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let is_first = field("NSpid:").is_some_and(|pids| pids.split_whitespace().last() == Some("1"));
    !is_first || rights.is_none_or(|mask| mask & CAP_SYS_PTRACE != 0)
}

/// As [`execute`], by way of a process that the container does not see. It is waited for: it does nothing that takes long.
fn execute_covered(
    thread: &SingleThreaded,
    request: &ExecRequest<'_>,
    files: &BuilderFiles<'_>,
) -> Result<Pid, Failure> {
    let (ours, theirs) = report::pair()?;
    let how = CloneRequest { flags: 0, cgroup: None };
    let between = thread.clone(&how, || cover(thread, request, files, &theirs));
    let between = between.map_err(|e| Failure::os("create", "process", e))?;
    drop(theirs);
    let _ended = wait(Some(between), Wait::Block);
    match report::receive(&ours).map_err(|e| Failure::os("read report of", "process", e))? {
        Received::Event(Event::Cloned(cloned), _) => i32::try_from(cloned.pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| silent("its number is none")),
        Received::Event(Event::Failed(failure), _) => Err(Failure::from_wire(failure)),
        _ => Err(silent("it ended before it was made")),
    }
}

fn silent(cause: &'static str) -> Failure {
    Failure::new(FailureKind::Internal, "create", "process", cause)
}

/// The process between: joins all but the PID namespace, and has a child there, whose parent is the caller.
fn cover(
    thread: &SingleThreaded,
    request: &ExecRequest<'_>,
    files: &BuilderFiles<'_>,
    told: &OwnedFd,
) -> u8 {
    let Ok([Some(report), Some(init), console, input, output, error, Some(told)]) =
        take(request, files, Some(told.as_fd()))
    else {
        return 1;
    };
    let lines = Lines { report: &report, console };
    let stdio = Stdio { input, output, error };
    let event = match clone_covered(thread, request, (init, stdio), &lines) {
        Ok(pid) => {
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            Event::Cloned(Cloned { pid, ..Cloned::default() })
        }
        Err(failure) => Event::Failed(failure.to_wire()),
    };
    u8::from(report::send(told.as_fd(), event, None).is_err())
}

fn clone_covered(
    thread: &SingleThreaded,
    request: &ExecRequest<'_>,
    (init, stdio): (OwnedFd, Stdio),
    lines: &Lines<'_>,
) -> Result<Pid, Failure> {
    let (plan, stdio) = approach(request, &init, stdio)?;
    join(init.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
    // What leads back to the host is closed before anybody can look.
    drop(init);
    let how = CloneRequest { flags: SAME_PARENT, cgroup: None };
    let child = || conclude(lines.report, arrive(request, plan, stdio, lines));
    thread.clone(&how, child).map_err(|e| Failure::os("create", "process", e))
}

/// The process itself, in the container's PID namespace and otherwise still the caller's copy.
fn run(request: &ExecRequest<'_>, files: &BuilderFiles<'_>) -> u8 {
    let Ok([Some(report), Some(init), console, input, output, error, _]) =
        take(request, files, None)
    else {
        return 1;
    };
    let lines = Lines { report: &report, console };
    let made = approach(request, &init, Stdio { input, output, error });
    conclude(&report, made.and_then(|(plan, stdio)| arrive(request, plan, stdio, &lines)))
}

/// Becomes the command; what goes wrong is told.
fn conclude(report: &OwnedFd, made: Result<(Prepared, Stdio), Failure>) -> u8 {
    let failure = match made {
        Ok((process, stdio)) => process.execute(stdio, || Ok(())),
        Err(failure) => failure,
    };
    report::send_failure(report.as_fd(), &failure);
    1
}

/// The files that are used on the way, away from those that are inherited.
fn take(
    request: &ExecRequest<'_>,
    files: &BuilderFiles<'_>,
    told: Option<BorrowedFd<'_>>,
) -> io::Result<[Option<OwnedFd>; 7]> {
    let [input, output, error] = files.stdio;
    let (report, init) = (Some(files.report), Some(request.init.handle));
    let wanted = [report, init, request.console, input, output, error, told];
    let Inherit::Files(count) = request.inherit else { return keep_only(wanted) };
    let first = i32::try_from(count.saturating_add(3)).unwrap_or(i32::MAX);
    let mut taken = [const { None }; 7];
    for (taken, file) in taken.iter_mut().zip(wanted) {
        *taken = file.map(|file| rustix::io::fcntl_dupfd_cloexec(file, first)).transpose()?;
    }
    Ok(taken)
}

/// Whom a process in the making talks to.
struct Lines<'a> {
    report: &'a OwnedFd,
    console: Option<OwnedFd>,
}

/// Everything that takes the host's files: the process is in the container's cgroups and namespaces afterwards.
fn approach(
    request: &ExecRequest<'_>,
    init: &OwnedFd,
    stdio: Stdio,
) -> Result<(Plan, Stdio), Failure> {
    let spec: SpecProcess = serde_json::from_slice(request.process).map_err(|error| {
        Failure::new(FailureKind::InvalidArgument, "read process", "of exec", error.to_string())
    })?;
    let mut plan = Plan::new(&spec, None)?;
    plan.seccomp = Filter::open(init.as_fd())?;
    plan.attributes.add_kept()?;
    if let Inherit::Files(count) = request.inherit {
        plan.preserve_fds = count;
        plan.quiet = true;
    }
    let oom_score_adj = plan.oom_score_adj.unwrap_or_else(|| inherited_oom_score_adj(request));
    // The host's, for what is still to be told to the kernel when the container's is the only one.
    let procfs = Procfs::open()?;
    limit::set_oom_score_adj(&procfs, oom_score_adj)?;
    plan.affinity.apply_before()?;
    // From outside: who is in a cgroup namespace may not put a process into a cgroup (cgroup v2, `nsdelegate`).
    request.cgroups.doors()?.join()?;
    plan.affinity.apply_after()?;
    let kinds = namespaces(request.init.pid);
    if kinds.contains(ThreadNameSpaceType::USER) {
        let pid = request.init.pid.as_raw_nonzero().get().unsigned_abs();
        stdio.give(&Maps::of(&procfs, pid)?)?;
    }
    join(init.as_fd(), kinds)?;
    if kinds.contains(ThreadNameSpaceType::USER) {
        create::become_root()?;
    }
    plan.label(&procfs)?;
    Ok((plan, stdio))
}

/// The rest, with nothing but the container's files.
fn arrive(
    request: &ExecRequest<'_>,
    plan: Plan,
    mut stdio: Stdio,
    lines: &Lines<'_>,
) -> Result<(Prepared, Stdio), Failure> {
    let size = plan.console_size;
    create::separate(true)?;
    let root = Root::open(Path::new("/"))
        .map_err(|e| Failure::os("open", "the container's root", e.source))?;
    let process = plan.prepare(&root)?;
    process.enter(&root)?;
    if request.terminal {
        let terminal = Terminal::open(&root)?;
        if let Some(size) = size {
            terminal.resize(size)?;
        }
        terminal.control()?;
        give_master(&terminal, lines)?;
        stdio = Stdio::terminal(&terminal.slave)?;
    }
    stdio.complete(&root)?;
    process.schedule()?;
    Ok((process, stdio))
}

fn give_master(terminal: &Terminal, lines: &Lines<'_>) -> Result<(), Failure> {
    if let Some(console) = &lines.console {
        return terminal.hand_over(console);
    }
    let ready = Event::Ready(wire::User::default());
    report::send(lines.report.as_fd(), ready, Some(terminal.master.as_fd()))
        .map_err(|e| Failure::os("report", "", e))
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
