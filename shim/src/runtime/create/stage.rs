//! The way of containers with foreign ids or a clock of their own: what takes the host's rights is done before the
//! process exists, by a process between that gives itself up.
//!
//! ```text
//! builder        stage                                              init
//!  │ clone ───────►│ unshares its mounts, opens and maps all of the
//!  │               │ container's, joins, enters the user namespace
//!  │               │ clone3(CLONE_PARENT) ─────────────────────────►│ born with all its new namespaces
//!  │◄── Cloned{pid}│ ends                                           │ owned by its user namespace
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::Failure;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use sys::attribute::unshare;
use sys::process::{CloneRequest, NEW_MOUNTS, NEW_TIME, SAME_PARENT, SingleThreaded, Wait, wait};

use super::init::{Init, ROOTFS};
use super::launch::Launch;
use super::plan::Plan;
use super::{CreateRequest, Parent};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::device;
use crate::runtime::idmap::Users;
use crate::runtime::mount::{Mapper, Prepared as PreparedMount};
use crate::runtime::procfs::Procfs;
use crate::runtime::report::{self, Cloned, Event, Received, receive};
use crate::runtime::stdio::Stdio;
use crate::runtime::{limit, rootfs};

/// What the container's process finds prepared.
pub struct Staged {
    /// The root file system, attached nowhere.
    pub root: OwnedFd,
    /// Where it is to be attached.
    pub place: PathBuf,
    pub mounts: Vec<PreparedMount>,
    /// Device nodes of the host's in place of own ones, which a user namespace cannot make.
    pub devices: Vec<Option<OwnedFd>>,
    /// The process is in a user namespace, whose root it has to become.
    pub in_users: bool,
}

/// Makes the container's process by way of a stage. Its pid.
pub fn clone(
    launch: Launch<'_>,
    cgroup: &Cgroup,
    ours: &mut Option<OwnedFd>,
    sync: Option<OwnedFd>,
) -> Result<u32, Failure> {
    let Launch { thread, plan, request, report, stdio } = launch;
    let parent = request.parent;
    let flags = if parent == Parent::Shim { SAME_PARENT } else { 0 };
    let (told, telling) = report::pair()?;
    let mut told = Some(told);
    let child = || {
        drop((told.take(), ours.take()));
        let stage = Stage { thread, plan, request, cgroup, report };
        let event = match stage.run(stdio, sync) {
            Ok(pid) => Event::Cloned(Cloned { pid, ..Cloned::default() }),
            Err(failure) => Event::Failed(failure.to_wire()),
        };
        u8::from(report::send(telling.as_fd(), event, None).is_err())
    };
    let how = CloneRequest { flags, cgroup: None };
    let stage = thread.clone(&how, child).map_err(|e| Failure::os("create", "stage", e))?;
    let heard = told.as_ref().map_or_else(|| Err(silent()), hear);
    if parent == Parent::Caller {
        let _ended = wait(Some(stage), Wait::Block);
    }
    heard
}

fn hear(from: &OwnedFd) -> Result<u32, Failure> {
    loop {
        match poll(&mut [PollFd::new(from, PollFlags::IN)], None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(|e| Failure::os("wait for", "stage", e))?,
        };
        match receive(from).map_err(|e| Failure::os("wait for", "stage", e))? {
            Received::Event(Event::Cloned(cloned), _) => return Ok(cloned.pid),
            Received::Event(Event::Failed(failure), _) => return Err(Failure::from_wire(failure)),
            Received::Event(Event::Ready(_), _) | Received::Nothing => {}
            Received::End => return Err(silent()),
        }
    }
}

fn silent() -> Failure {
    Failure::os("create", "stage", std::io::Error::other("it ended without a word"))
}

struct Stage<'a> {
    thread: &'a SingleThreaded,
    plan: Plan,
    request: CreateRequest,
    cgroup: &'a Cgroup,
    report: &'a OwnedFd,
}

impl Stage<'_> {
    fn run(self, stdio: Stdio, sync: Option<OwnedFd>) -> Result<u32, Failure> {
        let plan = &self.plan;
        let procfs = Procfs::open()?;
        let adjustment = plan.process.oom_score_adj.unwrap_or(self.request.oom_score_adj);
        limit::set_oom_score_adj(&procfs, adjustment)?;
        let users = self.users(&procfs)?;
        if let Some(users) = &users {
            // Only here they can be raised.
            limit::raise(plan.process.limits())?;
            stdio.give(users.maps())?;
        }
        let staged = self.prepare(&procfs, users.as_ref())?;
        plan.namespaces.join()?;
        if let Some(users) = &users {
            users.join()?;
        }
        if plan.namespaces.new_time {
            unshare(NEW_TIME).map_err(|e| Failure::os("create", "time namespace", e))?;
            plan.set_clocks(&procfs)?;
        }
        let _return = plan.namespaces.join_pids()?;
        let how = CloneRequest {
            flags: plan.namespaces.new | SAME_PARENT,
            cgroup: self.cgroup.doors.birthplace(),
        };
        let Self { thread, plan, request, cgroup, report } = self;
        let staged = Some(staged);
        let child = || Init { thread, plan, request, cgroup, sync, staged }.run(report, stdio);
        let pid = thread.clone(&how, child).map_err(|e| Failure::os("create", "process", e))?;
        Ok(pid.as_raw_nonzero().get().unsigned_abs())
    }

    fn users(&self, procfs: &Procfs) -> Result<Option<Users>, Failure> {
        let namespaces = &self.plan.namespaces;
        if let Some(file) = &namespaces.users {
            let file = file.try_clone().map_err(|e| Failure::os("join", "user namespace", e))?;
            return Users::open(self.thread, procfs, file).map(Some);
        }
        match &self.plan.maps {
            Some(maps) => Users::make(self.thread, procfs, maps.clone()).map(Some),
            None => Ok(None),
        }
    }

    /// Everything of the host that the container gets to see, in a mount namespace that ends with this process.
    fn prepare(&self, procfs: &Procfs, users: Option<&Users>) -> Result<Staged, Failure> {
        let plan = &self.plan;
        unshare(NEW_MOUNTS).map_err(|e| Failure::os("create", "mount namespace", e))?;
        let mut mapper = Mapper::new(self.thread, procfs, users, plan.mount_label());
        let mounts: Vec<PreparedMount> = plan
            .spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| PreparedMount::new(mount, plan.propagation, self.cgroup, &mut mapper))
            .collect::<Result<_, _>>()?;
        let devices = match (&plan.nodes, users) {
            (Some(nodes), Some(_)) => device::borrow(nodes)?,
            _ => Vec::new(),
        };
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|e| Failure::os("make mounts private", "", e))?;
        let layers = &self.request.layers;
        let place = if layers.is_empty() { plan.root.clone() } else { PathBuf::from(ROOTFS) };
        let assemble = |mount: PreparedMount| mount.assemble(&place, users);
        let mounts = mounts.into_iter().map(assemble).collect::<Result<_, _>>()?;
        let root = rootfs::make(layers, &plan.root, Path::new(ROOTFS), users)?;
        Ok(Staged { root, place, mounts, devices, in_users: users.is_some() })
    }
}
