//! A container's first process: its builder, and then the process itself up to its start.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind, SPEC_FILE};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{Linux, Spec};
use proto::shim::container as wire;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid};
use sys::confined::Root;
use sys::mount::Propagation;
use sys::process::{CloneRequest, NEW_PIDS, NEW_UTS, SAME_PARENT, SingleThreaded};

use super::cgroup::Cgroup;
use super::device::{self, Node};
use super::mount::Prepared as PreparedMount;
use super::namespace::{Namespaces, unsupported};
use super::process::{Plan as ProcessPlan, Prepared as PreparedProcess, Stdio};
use super::report::{self, Cloned, Event};
use super::rootfs::{self, Layer};
use super::seccomp::{Container, Filter};
use super::sysctl::{self, Sysctl};
use super::terminal::Terminal;
use super::user::Request as UserRequest;
use super::{BuilderFiles, conclude, limit, mask};

/// Where the root file system is mounted, in the bundle.
const ROOTFS: &str = "rootfs";

/// What the shim was asked beyond the spec.
#[derive(Debug)]
pub struct CreateRequest {
    /// The container's name.
    pub id: String,
    /// The root file system.
    pub layers: Vec<Layer>,
    /// In place of the spec's user.
    pub user: Option<UserRequest>,
    /// A terminal.
    pub terminal: bool,
    /// How soon the kernel kills it when the spec does not say.
    pub oom_score_adj: i32,
}

/// What a container is to be, as its spec says.
struct Plan {
    namespaces: Namespaces,
    process: ProcessPlan,
    root: PathBuf,
    read_only: bool,
    propagation: Propagation,
    nodes: Option<Vec<Node>>,
    sysctls: Vec<Sysctl>,
    hostname: Option<String>,
    spec: Spec,
}

/// The builder: makes the container's process, whose parent is the shim, and returns the builder's exit code.
pub fn build(thread: &SingleThreaded, request: CreateRequest, files: BuilderFiles<'_>) -> u8 {
    let (report, stdio) = match files.keep() {
        Ok(kept) => kept,
        Err(code) => return code,
    };
    let result = Plan::read(&request).and_then(|plan| clone(thread, plan, request, &report, stdio));
    conclude(&report, result)
}

fn clone(
    thread: &SingleThreaded,
    plan: Plan,
    request: CreateRequest,
    report: &OwnedFd,
    stdio: Stdio,
) -> Result<(), Failure> {
    limit::set_oom_score_adj(plan.process.oom_score_adj.unwrap_or(request.oom_score_adj))?;
    let cgroup = Cgroup::create(&plan.spec)?;
    let own_pids = plan.namespaces.new & NEW_PIDS != 0;
    let (cgroups, unified, oom_file) = cgroup.describe();
    let cloned = plan.namespaces.join().and_then(|()| {
        let flags = plan.namespaces.new | SAME_PARENT;
        let how = CloneRequest { flags, cgroup: cgroup.doors.birthplace() };
        let child = || Init { plan, request, cgroup: &cgroup }.run(report, stdio);
        thread.clone(&how, child).map_err(|e| Failure::os("create", "process", e))
    });
    match cloned {
        Ok(pid) => {
            let pid = Pid::as_raw_nonzero(pid).get().unsigned_abs();
            let event = Event::Cloned(Cloned { pid, cgroups, unified, oom_file, own_pids });
            report::send(report.as_fd(), event, None).map_err(|e| Failure::os("report", "", e))
        }
        Err(failure) => {
            cgroup.remove();
            Err(failure)
        }
    }
}

impl Plan {
    fn read(request: &CreateRequest) -> Result<Self, Failure> {
        let spec = read_spec()?;
        refuse_unsupported(&spec)?;
        let missing =
            |what| Failure::new(FailureKind::InvalidArgument, "read spec", SPEC_FILE, what);
        let process = spec.process().as_ref().ok_or_else(|| missing("it has no process"))?;
        let mut process = ProcessPlan::new(process, request.user.clone())?;
        process.seccomp = seccomp(&spec, &request.id)?;
        let root = spec.root().as_ref().ok_or_else(|| missing("it has no root"))?;
        let namespaces = Namespaces::open(&spec)?;
        // A /dev that is a folder of the host's has what it has.
        let foreign_dev = spec.mounts().iter().flatten().any(|mount| {
            let bound = mount.typ().as_deref() == Some("bind")
                || mount.options().iter().flatten().any(|o| o == "bind" || o == "rbind");
            bound && mount.destination() == Path::new("/dev")
        });
        Ok(Self {
            process,
            root: root.path().clone(),
            read_only: root.readonly().unwrap_or(false),
            propagation: propagation(&spec)?,
            nodes: (!foreign_dev).then(|| device::nodes(&spec)).transpose()?,
            sysctls: sysctl::parse(&spec, &namespaces)?,
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            namespaces,
            spec,
        })
    }

    fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }
}

/// The container's process before it is what it is to be.
struct Init<'a> {
    plan: Plan,
    request: CreateRequest,
    cgroup: &'a Cgroup,
}

impl Init<'_> {
    fn run(self, report: &OwnedFd, stdio: Stdio) -> u8 {
        let failure = match self.prepare(report, stdio) {
            Ok((process, stdio)) => match wait_for_start(report) {
                true => process.execute(stdio),
                // The shim is gone, and nobody is left to be told.
                false => return 1,
            },
            Err(failure) => failure,
        };
        report::send_failure(report.as_fd(), &failure);
        1
    }

    fn prepare(self, report: &OwnedFd, stdio: Stdio) -> Result<(PreparedProcess, Stdio), Failure> {
        self.cgroup.doors.join()?;
        if self.plan.namespaces.new_cgroup {
            unshare(CloneFlags::CLONE_NEWCGROUP)
                .map_err(|e| Failure::os("create", "cgroup namespace", e))?;
        }
        separate()?;
        if let (Some(name), true) = (&self.plan.hostname, self.plan.namespaces.new & NEW_UTS != 0) {
            nix::unistd::sethostname(name)
                .map_err(|e| Failure::os("set host name", name.as_str(), e))?;
        }
        if !self.plan.sysctls.is_empty() {
            let proc_sys = sysctl::open()?;
            self.plan.sysctls.iter().try_for_each(|sysctl| sysctl.set(&proc_sys))?;
        }
        let _umask = rustix::process::umask(rustix::fs::Mode::empty());
        let root = self.build_root()?;
        let (stdio, terminal) = self.standard_files(&root, stdio)?;
        let masks = self.masks();
        let Plan { process, read_only, propagation, .. } = self.plan;
        // The image's users are looked up before a mask can be on them.
        let process = process.prepare(&root)?;
        mask::apply(&root, &masks.0, &masks.1)?;
        process.enter(&root)?;
        // The last change of the root: from here on it may be read-only.
        rootfs::finish(&root, read_only, propagation)?;
        let identity = process.identity.clone();
        let user = wire::User { uid: identity.uid, gid: identity.gid, groups: identity.groups };
        let master = terminal.as_ref().map(|terminal| terminal.master.as_fd());
        report::send(report.as_fd(), Event::Ready(user), master)
            .map_err(|e| Failure::os("report", "", e))?;
        Ok((process, stdio))
    }

    /// Everything the process will see of files, in order: what is the host's is opened before the root changes, and
    /// everything else is done when nothing of the host is left.
    fn build_root(&self) -> Result<Root, Failure> {
        let plan = &self.plan;
        let inherited = plan.propagation;
        let mounts: Vec<PreparedMount> = plan
            .spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| PreparedMount::new(mount, inherited, self.cgroup))
            .collect::<Result<_, _>>()?;
        let root = rootfs::enter(&self.request.layers, &plan.root, Path::new(ROOTFS))?;
        mounts.into_iter().try_for_each(|mount| mount.attach(&root))?;
        if let Some(nodes) = &plan.nodes {
            device::make(&root, nodes)?;
        }
        Ok(root)
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
        terminal.show_as_console(root)?;
        terminal.control()?;
        Ok((Stdio::terminal(&terminal.slave)?, Some(terminal)))
    }
}

/// Leaves what the shim and its caller share with this process: session, keys, and the right to be looked at
/// (CVE-2016-9962: who can trace this process has the host's files).
pub(super) fn separate() -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::os("hide process", "", e))?;
    rustix::process::setsid().map_err(|e| Failure::os("create session", "", e))?;
    match sys::process::new_session_keyring() {
        Err(error) if error.raw_os_error() != Some(Errno::NOSYS.raw_os_error()) => {
            Err(Failure::os("create session keyring", "", error))
        }
        _ => Ok(()),
    }
}

/// Whether the start was given; the shim's end is its refusal.
fn wait_for_start(report: &OwnedFd) -> bool {
    let mut byte = [0];
    loop {
        match rustix::io::read(report, &mut byte) {
            Err(Errno::INTR) => {}
            other => return other == Ok(1),
        }
    }
}

pub(super) fn read_spec() -> Result<Spec, Failure> {
    let file = File::open(SPEC_FILE).map_err(|e| Failure::os("open spec", SPEC_FILE, e))?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| {
        let kind = FailureKind::InvalidArgument;
        Failure::new(kind, "read spec", SPEC_FILE, error.to_string())
    })
}

fn refuse_unsupported(spec: &Spec) -> Result<(), Failure> {
    let Some(linux) = spec.linux() else {
        let kind = FailureKind::InvalidArgument;
        return Err(Failure::new(kind, "read spec", SPEC_FILE, "it is not for Linux"));
    };
    let mappings = [linux.uid_mappings(), linux.gid_mappings()];
    let mapped = mappings.iter().any(|map| map.as_ref().is_some_and(|map| !map.is_empty()));
    let asked = [
        ("id mappings", mapped),
        ("hooks", spec.hooks().is_some()),
        ("a mount label", linux.mount_label().as_ref().is_some_and(|label| !label.is_empty())),
        ("Intel RDT", linux.intel_rdt().is_some()),
        ("a memory policy", linux.memory_policy().is_some()),
        ("personality", linux.personality().is_some()),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(unsupported("use", *what, "not supported")),
        None => Ok(()),
    }
}

fn seccomp(spec: &Spec, id: &str) -> Result<Option<Filter>, Failure> {
    let container =
        Container { id, version: spec.version(), annotations: spec.annotations().as_ref() };
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.map(|profile| Filter::create(profile, &container)).transpose()
}

fn propagation(spec: &Spec) -> Result<Propagation, Failure> {
    let word = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    match word {
        None | Some("" | "slave" | "rslave") => Ok(Propagation::Slave),
        Some("private" | "rprivate") => Ok(Propagation::Private),
        Some("shared" | "rshared") => Ok(Propagation::Shared),
        Some("unbindable" | "runbindable") => Ok(Propagation::Unbindable),
        Some(word) => {
            let kind = FailureKind::InvalidArgument;
            Err(Failure::new(kind, "use rootfs propagation", word, "no such propagation"))
        }
    }
}
