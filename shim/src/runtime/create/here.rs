//! Creation by a process that stays in charge itself: the command line.

use std::os::fd::OwnedFd;

use crate::{Failure, FailureKind, start_time};
use oci_spec::runtime::Spec;
use proto::shim::container as wire;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use sys::process::{SingleThreaded, Wait, wait};

use super::CreateRequest;
use super::launch::Launch;
use super::plan::{Plan, read_spec};
use crate::runtime::cgroup::Watch;
use crate::runtime::report::{self, Cloned, Event, Received, receive};
use crate::runtime::stdio::Stdio;

/// A container whose process stands at the start barrier.
#[derive(Debug)]
pub struct Created {
    /// The process and its cgroups.
    pub cloned: Cloned,
    /// When the process began, in clock ticks since boot.
    pub start_time: u64,
    /// Whom it will run as.
    pub user: wire::User,
    /// The terminal's master, if it has a terminal and no console socket was given.
    pub terminal: Option<OwnedFd>,
}

/// Makes the container of the bundle that is this process's folder, without a process between: this process's
/// namespaces stay what they are. Returns when the container's process stands at the start barrier. Before anything is
/// done, `adapt` sees the spec and may complete it and the request.
///
/// # Errors
/// As `adapt`, the spec or the kernel has it; then nothing is left.
pub fn create_here(
    thread: &SingleThreaded,
    mut request: CreateRequest,
    stdio: Stdio,
    adapt: impl FnOnce(&mut Spec, &mut CreateRequest) -> Result<(), Failure>,
) -> Result<Created, Failure> {
    let mut spec = read_spec()?;
    adapt(&mut spec, &mut request)?;
    let plan = Plan::new(spec, &request)?;
    let (ours, theirs) = report::pair()?;
    let mut cloned = None;
    let launched = Launch { thread, plan, request, report: &theirs, stdio }.run(|made| {
        cloned = Some(made);
        Ok(())
    });
    // From here on its end is the process's end.
    drop(theirs);
    let ready = launched.and_then(|()| read_report(&ours));
    match (ready, cloned) {
        (Ok((user, terminal)), Some(cloned)) => match start_time(cloned.pid) {
            Ok(start_time) => Ok(Created { cloned, start_time, user, terminal }),
            Err(error) => {
                let failure = Failure::os("identify", "process", error);
                Err(abandon(&cloned).unwrap_or(failure))
            }
        },
        (Err(failure), Some(cloned)) => Err(abandon(&cloned).unwrap_or(failure)),
        (Err(failure), None) => Err(failure),
        (Ok(_), None) => Err(ended()),
    }
}

/// Reads until the process is ready.
fn read_report(from: &OwnedFd) -> Result<(wire::User, Option<OwnedFd>), Failure> {
    let fail = |error: std::io::Error| Failure::os("read report of", "process", error);
    loop {
        match poll(&mut [PollFd::new(from, PollFlags::IN)], None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(|e| fail(e.into()))?,
        };
        match receive(from).map_err(fail)? {
            Received::Event(Event::Ready(user), terminal) => return Ok((user, terminal)),
            Received::Event(Event::Failed(failure), _) => return Err(Failure::from_wire(failure)),
            Received::Event(Event::Cloned(_), _) | Received::Nothing => {}
            Received::End => return Err(ended()),
        }
    }
}

fn ended() -> Failure {
    let cause = "it ended before it was ready";
    Failure::new(FailureKind::Internal, "create", "process", cause)
}

/// Takes down what there is of a container that could not be made. The process is our child: its number is its own.
/// When the kernel has killed it for want of memory, that is the reason.
fn abandon(cloned: &Cloned) -> Option<Failure> {
    if let Some(pid) = i32::try_from(cloned.pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, Signal::KILL);
        let _ended = wait(Some(pid), Wait::Block);
    }
    let mut cgroups = Watch::new(cloned);
    let starved = cgroups.oom_kills() > 0;
    drop(cgroups.remove());
    starved.then(|| {
        let cause = "the memory limit is too low to prepare it";
        Failure::new(FailureKind::InvalidArgument, "create", "container", cause)
    })
}
