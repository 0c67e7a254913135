//! The container's process before it is what it is to be.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::{Failure, FailureKind};
use nix::sched::{CloneFlags, unshare};
use proto::shim::container as wire;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use sys::confined::Root;
use sys::process::{NEW_UTS, SingleThreaded};

use super::plan::Plan;
use super::stage::Staged;
use super::{Barrier, CreateRequest, barrier};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::hook::HookKind;
use crate::runtime::mount::{Mapper, Prepared as PreparedMount};
use crate::runtime::process::Prepared as PreparedProcess;
use crate::runtime::procfs::Procfs;
use crate::runtime::report::{self, Event};
use crate::runtime::stdio::Stdio;
use crate::runtime::terminal::Terminal;
use crate::runtime::{device, limit, mask, rootfs};

/// Where the root file system is mounted, in the bundle.
pub const ROOTFS: &str = "rootfs";

pub struct Init<'a> {
    pub thread: &'a SingleThreaded,
    pub plan: Plan,
    pub request: CreateRequest,
    pub cgroup: &'a Cgroup,
    /// Where the builder waits to run the hooks that are its part.
    pub sync: Option<OwnedFd>,
    /// What a stage has done already.
    pub staged: Option<Staged>,
}

impl Init<'_> {
    /// Becomes the container's process; returns, with an exit code, only when that was not possible.
    pub fn run(mut self, report: &OwnedFd, stdio: Stdio) -> u8 {
        let thread = self.thread;
        let barrier = std::mem::replace(&mut self.request.barrier, Barrier::Report);
        let hooks = self.plan.hooks.clone().filter(|hooks| hooks.has_start());
        let prepared = match self.prepare(report, stdio) {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return 1,
            Err(failure) => {
                report::send_failure(report.as_fd(), &failure);
                return 1;
            }
        };
        let accepted = match &barrier {
            Barrier::Report => None,
            Barrier::Socket(listener) => match barrier::accept(listener) {
                Ok(line) => Some(line),
                Err(_) => return 1,
            },
        };
        let line = accepted.as_ref().unwrap_or(report);
        // Whoever could give the start is gone, and nobody is left to be told.
        if !barrier::passed(line) {
            return 1;
        }
        let (process, stdio) = prepared;
        let failure = process.execute(stdio, || {
            let pid = std::process::id();
            hooks.map_or(Ok(()), |hooks| hooks.run(thread, HookKind::StartContainer, pid))
        });
        report::send_failure(line.as_fd(), &failure);
        1
    }

    /// `None`: the builder gave up, and has told why.
    fn prepare(
        mut self,
        report: &OwnedFd,
        stdio: Stdio,
    ) -> Result<Option<(PreparedProcess, Stdio)>, Failure> {
        let procfs = self.enter()?;
        let _umask = rustix::process::umask(rustix::fs::Mode::empty());
        let Some(root) = self.build_root()? else { return Ok(None) };
        let (stdio, terminal) = self.standard_files(&root, stdio)?;
        let masks = self.masks();
        let Self { request, plan: Plan { process, read_only, propagation, .. }, .. } = self;
        // The image's users are looked up before a mask can be on them.
        let process = process.prepare(&root)?;
        mask::apply(&root, &masks.0, &masks.1)?;
        process.enter(&root)?;
        if request.check_command {
            process.find_command()?;
        }
        process.dress(&procfs)?;
        // The last change of the root: from here on it may be read-only.
        rootfs::finish(&root, read_only, propagation)?;
        let identity = process.identity.clone();
        let user = wire::User { uid: identity.uid, gid: identity.gid, groups: identity.groups };
        let mut master = terminal.as_ref().map(|terminal| terminal.master.as_fd());
        if let (Some(console), Some(terminal)) = (&request.console, &terminal) {
            terminal.hand_over(console)?;
            master = None;
        }
        report::send(report.as_fd(), Event::Ready(user), master)
            .map_err(|e| Failure::os("report", "", e))?;
        Ok(Some((process, stdio)))
    }

    /// The container's cgroups and namespaces, and what is set in them.
    fn enter(&self) -> Result<Procfs, Failure> {
        let plan = &self.plan;
        let procfs = Procfs::open()?;
        self.cgroup.doors.join()?;
        if self.staged.is_none() {
            let adjustment = plan.process.oom_score_adj.unwrap_or(self.request.oom_score_adj);
            limit::set_oom_score_adj(&procfs, adjustment)?;
            plan.namespaces.join()?;
        }
        if plan.namespaces.new_cgroup {
            unshare(CloneFlags::CLONE_NEWCGROUP)
                .map_err(|e| Failure::os("create", "cgroup namespace", e))?;
        }
        if self.request.new_keyring {
            plan.process.labels.label_keys(&procfs)?;
        }
        separate(self.request.new_keyring)?;
        if let (Some(name), true) = (&plan.hostname, plan.namespaces.new & NEW_UTS != 0) {
            nix::unistd::sethostname(name)
                .map_err(|e| Failure::os("set host name", name.as_str(), e))?;
        }
        if let (Some(name), true) = (&plan.domainname, plan.namespaces.new & NEW_UTS != 0) {
            procfs.write("sys/kernel/domainname", name.as_bytes()).map_err(|error| {
                let kind = FailureKind::InvalidArgument;
                Failure::os_kind(kind, "set domain name", name.as_str(), error)
            })?;
        }
        if !plan.sysctls.is_empty() {
            plan.sysctls.iter().try_for_each(|sysctl| sysctl.set(&procfs))?;
        }
        Ok(procfs)
    }

    /// Everything the process will see of files, in order: what is the host's is opened before the root changes, and
    /// everything else is done when nothing of the host is left. Only where hooks want to see both, the root changes
    /// last.
    fn build_root(&mut self) -> Result<Option<Root>, Failure> {
        let plan = &self.plan;
        let (root, last) = match self.staged.take() {
            None => {
                let mut mapper = Mapper::none(plan.mount_label());
                let mounts: Vec<PreparedMount> = plan
                    .spec
                    .mounts()
                    .iter()
                    .flatten()
                    .map(|mount| {
                        PreparedMount::new(mount, plan.propagation, self.cgroup, &mut mapper)
                    })
                    .collect::<Result<_, _>>()?;
                let layers = &self.request.layers;
                let root = rootfs::mount(layers, &plan.root, Path::new(ROOTFS))?;
                let place = if layers.is_empty() { plan.root.as_path() } else { Path::new(ROOTFS) };
                let assemble = |mount: PreparedMount| mount.assemble(place, None);
                let mounts = mounts.into_iter().map(assemble).collect::<Result<Vec<_>, _>>()?;
                if !plan.has_early_hooks() {
                    rootfs::change(&root, self.request.no_pivot)?;
                    furnish(&root, mounts, plan, Vec::new())?;
                    return Ok(Some(root));
                }
                (root, (mounts, Vec::new()))
            }
            Some(staged) => {
                let Staged { root, place, mounts, devices, in_users } = staged;
                plan.namespaces.join_mounts()?;
                let root = rootfs::put_in_place(root, &place)?;
                if in_users {
                    become_root()?;
                }
                (root, (mounts, devices))
            }
        };
        // In a user namespace, too: a procfs can be made there only where another one is seen.
        furnish(&root, last.0, plan, last.1)?;
        if let Some(sync) = self.sync.take() {
            barrier::lift(&sync);
            if !barrier::passed(&sync) {
                return Ok(None);
            }
        }
        if let Some(hooks) = &plan.hooks {
            hooks.run(self.thread, HookKind::CreateContainer, std::process::id())?;
        }
        rootfs::change(&root, self.request.no_pivot)?;
        Ok(Some(root))
    }

    /// The masked and the read-only paths.
    fn masks(&self) -> (Vec<String>, Vec<String>) {
        let paths = |paths: Option<&Vec<String>>| paths.cloned().unwrap_or_default();
        let masked = paths(self.plan.linux().and_then(|linux| linux.masked_paths().as_ref()));
        let read_only = paths(self.plan.linux().and_then(|linux| linux.readonly_paths().as_ref()));
        (masked, read_only)
    }

    fn standard_files(
        &self,
        root: &Root,
        mut stdio: Stdio,
    ) -> Result<(Stdio, Option<Terminal>), Failure> {
        if !self.request.terminal {
            stdio.complete(root)?;
            return Ok((stdio, None));
        }
        let terminal = Terminal::open(root)?;
        if let Some(size) = self.plan.process.console_size {
            terminal.resize(size)?;
        }
        terminal.show_as_console(root)?;
        terminal.control()?;
        Ok((Stdio::terminal(&terminal.slave)?, Some(terminal)))
    }
}

fn furnish(
    root: &Root,
    mounts: Vec<PreparedMount>,
    plan: &Plan,
    devices: Vec<Option<OwnedFd>>,
) -> Result<(), Failure> {
    mounts.into_iter().try_for_each(|mount| mount.attach(root))?;
    plan.nodes.as_ref().map_or(Ok(()), |nodes| device::make(root, nodes, devices))
}

/// Becomes the root of the user namespace that this process is in: what it makes has to have an owner there.
///
/// # Errors
/// `InvalidArgument`: the namespace has no user or group 0.
pub fn become_root() -> Result<(), Failure> {
    let fail = |error: Errno| {
        let kind = FailureKind::InvalidArgument;
        Failure::os_kind(kind, "become root of", "the user namespace", error)
    };
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).map_err(fail)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail)
}

/// Leaves what the shim and its caller share with this process: session, keys (when asked), and the right to be looked
/// at (CVE-2016-9962: who can trace this process has the host's files).
pub fn separate(new_keyring: bool) -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::os("hide process", "", e))?;
    rustix::process::setsid().map_err(|e| Failure::os("create session", "", e))?;
    if !new_keyring {
        return Ok(());
    }
    match sys::process::new_session_keyring() {
        Err(error) if error.raw_os_error() != Some(Errno::NOSYS.raw_os_error()) => {
            Err(Failure::os("create session keyring", "", error))
        }
        _ => Ok(()),
    }
}
