//! The builder's part: cgroups, namespaces, the process, and what hooks want to do to it from outside.

use std::os::fd::OwnedFd;

use crate::Failure;
use sys::process::{CloneRequest, NEW_PIDS, SAME_PARENT, SingleThreaded};

use super::init::Init;
use super::plan::Plan;
use super::{CreateRequest, Parent, barrier, stage};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::hook::{HookKind, Hooks};
use crate::runtime::net_device::NetDevices;
use crate::runtime::report::{self, Cloned};
use crate::runtime::stdio::Stdio;

/// Everything that a container is made of.
pub struct Launch<'a> {
    pub thread: &'a SingleThreaded,
    pub plan: Plan,
    pub request: CreateRequest,
    pub report: &'a OwnedFd,
    pub stdio: Stdio,
}

impl Launch<'_> {
    /// Makes the process, tells about it, and runs the hooks that want to be run from outside. A failure before the
    /// telling leaves nothing; after it, who was told has a process and cgroups to look after.
    ///
    /// # Errors
    /// What the spec asks for cannot be made, or a hook failed.
    pub fn run(mut self, tell: impl FnOnce(Cloned) -> Result<(), Failure>) -> Result<(), Failure> {
        let thread = self.thread;
        let later_hooks = self.plan.hooks.as_ref().is_some_and(|hooks| hooks.has_later());
        let hooks = self.plan.hooks.clone().filter(|hooks| hooks.has_runtime());
        let waits = hooks.is_some() || !self.plan.net_devices.is_empty();
        let (mut ours, theirs) = match waits.then(report::pair).transpose()? {
            Some((ours, theirs)) => (Some(ours), Some(theirs)),
            None => (None, None),
        };
        let cgroup = Cgroup::create(&self.plan.spec)?;
        let described = cgroup.describe();
        // The process needs to know only that there are some.
        let devices = self.plan.net_devices.take();
        let own_pids = self.plan.namespaces.new & NEW_PIDS != 0;
        match self.clone(&cgroup, &mut ours, theirs) {
            Ok(pid) => tell(Cloned { pid, own_pids, later_hooks, ..described }).and_then(|()| {
                act_from_outside(thread, hooks.as_deref(), devices, ours.as_ref(), pid)
            }),
            Err(failure) => {
                cgroup.remove();
                Err(failure)
            }
        }
    }

    fn clone(
        self,
        cgroup: &Cgroup,
        ours: &mut Option<OwnedFd>,
        sync: Option<OwnedFd>,
    ) -> Result<u32, Failure> {
        if self.plan.needs_stage() {
            return stage::clone(self, cgroup, ours, sync);
        }
        let Self { thread, plan, request, report, stdio } = self;
        let returning = plan.namespaces.join_pids()?;
        let parent = match request.parent {
            Parent::Shim => SAME_PARENT,
            Parent::Caller => 0,
        };
        let how =
            CloneRequest { flags: plan.namespaces.new | parent, cgroup: cgroup.doors.birthplace() };
        let child = || {
            // Otherwise the builder's end would never be noticed.
            drop(ours.take());
            Init { thread, plan, request, cgroup, sync, staged: None }.run(report, stdio)
        };
        let cloned = thread.clone(&how, child).map_err(|e| Failure::os("create", "process", e));
        returning.restore()?;
        cloned.map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }
}

/// What the builder does to the process from outside, once that has come so far: it gets its network devices, and the hooks
/// of the runtime's namespaces find something.
fn act_from_outside(
    thread: &SingleThreaded,
    hooks: Option<&Hooks>,
    devices: NetDevices,
    sync: Option<&OwnedFd>,
    pid: u32,
) -> Result<(), Failure> {
    let Some(sync) = sync else { return Ok(()) };
    // A process that does not come so far tells itself why.
    if barrier::passed(sync) {
        if !devices.is_empty() {
            devices.give(pid)?;
        }
        if let Some(hooks) = hooks {
            hooks.run(thread, HookKind::Prestart, pid)?;
            hooks.run(thread, HookKind::CreateRuntime, pid)?;
        }
        barrier::lift(sync);
    }
    Ok(())
}
