//! What the two services share: the stores, the parts below, and where things are.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cni::Network;
use image::Images;
use shim::Launcher;
use snapshotter::Snapshotter;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::cdi;
use crate::container::{self, Container};
use crate::error::Error;
use crate::events::Events;
use crate::features::Features;
use crate::handler::Handlers;
use crate::id::{ContainerId, SandboxId};
use crate::index::Index;
use crate::joinable::Joinable;
use crate::limits::CgroupDriver;
use crate::sandbox::Sandbox;
use crate::sandbox::config::Metadata;
use crate::sandbox::paths::PodPaths;
use crate::stats::layer::Surveyor;
use crate::streaming::Tickets;

/// Commands of ExecSync that may run at a time, on the whole node.
const MAX_EXECS: usize = 512;

/// Commands with a client that may run at a time, on the whole node: however many, the kubelet's probes have places.
const MAX_SESSIONS: usize = 512;

/// The parts that a runtime is made of.
#[derive(Debug)]
pub struct Parts {
    /// Survives a reboot.
    pub root: PathBuf,
    /// Gone after a reboot, on purpose.
    pub state: PathBuf,
    /// The image store.
    pub images: Arc<Images>,
    /// The root file systems.
    pub snapshots: Arc<dyn Snapshotter>,
    /// The pods' network.
    pub network: Arc<Network>,
    /// The shims.
    pub launcher: Launcher,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The streaming server's tickets.
    pub streaming: Arc<Tickets>,
    /// Folders of CDI files, the last one first in rank.
    pub cdi_dirs: Vec<PathBuf>,
    /// Who makes containers.
    pub handlers: Handlers,
}

/// The runtime behind both services.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) images: Arc<Images>,
    pub(crate) snapshots: Arc<dyn Snapshotter>,
    pub(crate) network: Arc<Network>,
    pub(crate) launcher: Launcher,
    pub(crate) cgroup_driver: CgroupDriver,
    pub(crate) cdi: cdi::Registry,
    pub(crate) handlers: Arc<Handlers>,
    /// Whether containers are kept from devices by their cgroup: by v1's controller, or by a program of the shim's.
    pub(crate) devices_fenced: bool,
    /// What the kernel can do for pods.
    pub(crate) features: Features,
    pub(crate) sandboxes: Index<Sandbox>,
    pub(crate) containers: Index<Container>,
    pub(crate) events: Events,
    pub(crate) runs: Joinable<Metadata, SandboxId>,
    pub(crate) creates: Joinable<(SandboxId, container::config::Metadata), ContainerId>,
    /// Places for commands whose output is kept here; each container has a limit of its own besides.
    pub(crate) execs: tokio::sync::Semaphore,
    pub(crate) streaming: Arc<Tickets>,
    sessions: Semaphore,
    pub(crate) surveyor: Surveyor,
}

impl Runtime {
    /// A runtime that knows of nothing yet; `recover` tells it what is there.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            features: Features::probe(&parts.root),
            root: parts.root,
            state: parts.state,
            images: parts.images,
            snapshots: parts.snapshots,
            network: parts.network,
            launcher: parts.launcher,
            cgroup_driver: parts.cgroup_driver,
            cdi: cdi::Registry::new(parts.cdi_dirs),
            handlers: Arc::new(parts.handlers),
            devices_fenced: has_device_cgroup() || sys::bpf::can_filter_devices(),
            sandboxes: Index::new("pod sandbox"),
            containers: Index::new("container"),
            events: Events::default(),
            runs: Joinable::default(),
            creates: Joinable::default(),
            execs: tokio::sync::Semaphore::new(MAX_EXECS),
            streaming: parts.streaming,
            sessions: Semaphore::new(MAX_SESSIONS),
            surveyor: Surveyor::default(),
        }
    }

    /// Finds out, beside everything else, what the handlers can do.
    pub fn probe_handlers(&self) {
        let handlers = Arc::clone(&self.handlers);
        drop(tokio::spawn(async move { handlers.probe().await }));
    }

    /// The sandbox that the kubelet knows by `metadata`.
    pub(crate) fn sandbox_named(&self, metadata: &Metadata) -> Option<Arc<Sandbox>> {
        self.sandboxes.all().into_iter().find(|sandbox| &sandbox.record.config.metadata == metadata)
    }

    /// The containers of a sandbox.
    pub(crate) fn containers_of(&self, sandbox: &SandboxId) -> Vec<Arc<Container>> {
        let mut containers = self.containers.all();
        containers.retain(|container| &container.record.sandbox == sandbox);
        containers
    }

    /// A place for one more command with a client; a shim has a limit for its own container.
    ///
    /// # Errors
    /// `Exhausted` when there are too many on this node.
    pub(crate) fn session(&self, operation: &str) -> Result<SemaphorePermit<'_>, Error> {
        self.sessions.try_acquire().map_err(|_| Error::Exhausted {
            operation: operation.to_owned(),
            reason: "too many commands run".into(),
        })
    }

    pub(crate) fn pod_paths(&self, id: &SandboxId) -> PodPaths {
        PodPaths::of(&self.state, id)
    }

    pub(crate) fn bundle_dir(&self, id: &ContainerId) -> PathBuf {
        container::bundle_dir(&self.state, id.as_str())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// A number that is the same for the same request.
pub(crate) fn fingerprint<T: Hash>(request: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.hash(&mut hasher);
    hasher.finish()
}

/// Takes something off the disk that may be gone already. A tenant may have filled it: no link is followed, no mount
/// is entered, and no depth is too much.
pub(crate) fn remove_folder(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { operation: format!("remove {}", path.display()), source };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(std::io::ErrorKind::InvalidInput.into()));
    };
    let parent = match std::fs::File::open(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    sys::confined::remove_tree(parent.as_fd(), name).map_err(|error| failed(error.source))
}

/// Whether the device controller of cgroup v1 is mounted (proc_pid_mountinfo(5): super options stand last).
fn has_device_cgroup() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split_once(" - cgroup ")).any(|(_, rest)| {
        rest.rsplit(' ')
            .next()
            .is_some_and(|options| options.split(',').any(|one| one == "devices"))
    })
}
