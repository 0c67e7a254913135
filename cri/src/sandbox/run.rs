//! RunPodSandbox: a chain of steps, each consuming the last, each registering its own undo.
//!
//! ```text
//!   Draft ──house──► Housed ──attach──► Attached ──commit──► READY
//!     │ id, config     │ files,           │ addresses         record, ready mark, index
//!     │                │ namespaces
//! ```
//!
//! The record in the durable folder is the intent; the ready mark in the volatile folder is the commit. Recovery
//! takes a record without a mark for a sandbox that was never finished, and takes it back by the same steps.

use std::net::IpAddr;
use std::sync::Arc;

use proto::cri;
use sys::netns::{self, PinRequest};

use super::config::{PidScope, PodScope, SandboxConfig};
use super::paths::PodPaths;
use super::state::State;
use super::{Record, Sandbox, files, folder};
use crate::clock::Nanos;
use crate::error::Error;
use crate::id::SandboxId;
use crate::ids::IdRange;
use crate::record;
use crate::runtime::{Runtime, fingerprint};
use crate::undo::Undo;

/// Runs a sandbox, or joins the call that is running it.
///
/// # Errors
/// Everything that was made is taken back.
pub async fn run(
    runtime: &Arc<Runtime>,
    request: cri::RunPodSandboxRequest,
) -> Result<SandboxId, Error> {
    let config = SandboxConfig::parse(
        request.config.unwrap_or_default(),
        request.runtime_handler,
        runtime.cgroup_driver,
    )?;
    let operation = format!("run pod {}", config.pod());
    let handler = runtime.handlers.find(&config.runtime_handler, &operation)?;
    if config.users.is_some() && !handler.features(runtime.features).user_namespaces {
        let what = match handler.runtime {
            None => "a user namespace on this kernel and file system",
            Some(_) => "a user namespace with this runtime handler",
        };
        return Err(Error::Unsupported { operation, what: what.into() });
    }
    let key = config.metadata.clone();
    let work = make(Arc::clone(runtime), config.clone());
    runtime.runs.join(key, fingerprint(&config), work).await
}

async fn make(runtime: Arc<Runtime>, config: SandboxConfig) -> Result<SandboxId, Error> {
    if let Some(sandbox) = runtime.sandbox_named(&config.metadata) {
        return repeated(&sandbox, &config);
    }
    let mut undo = Undo::default();
    let result = chain(&runtime, config, &mut undo).await;
    undo.settle(result).await
}

/// The answer to a retry whose first call has succeeded meanwhile.
fn repeated(sandbox: &Sandbox, config: &SandboxConfig) -> Result<SandboxId, Error> {
    if sandbox.record.config == *config && sandbox.state().is_ready() {
        return Ok(sandbox.id().clone());
    }
    Err(Error::Conflict {
        operation: format!("run pod {}", config.pod()),
        reason: format!(
            "sandbox {} has its metadata and is not ready or was asked for differently; remove it first",
            sandbox.id()
        ),
    })
}

async fn chain(
    runtime: &Arc<Runtime>,
    config: SandboxConfig,
    undo: &mut Undo,
) -> Result<SandboxId, Error> {
    let draft = Draft::new(runtime, config)?;
    let housed = draft.house(undo).await?;
    let attached = housed.attach(undo).await?;
    attached.commit().await
}

/// A sandbox with a name and nothing else.
struct Draft {
    runtime: Arc<Runtime>,
    record: Record,
    paths: PodPaths,
}

/// A sandbox with files and namespaces.
struct Housed(Draft);

/// A sandbox with a network.
struct Attached {
    draft: Draft,
    ips: Vec<IpAddr>,
}

impl Draft {
    fn new(runtime: &Arc<Runtime>, config: SandboxConfig) -> Result<Self, Error> {
        let id = SandboxId::draw().map_err(|source| Error::Io {
            operation: format!("draw an id for pod {}", config.pod()),
            source,
        })?;
        let paths = runtime.pod_paths(&id);
        let record = Record { id, config, created_at: Nanos::now() };
        Ok(Self { runtime: Arc::clone(runtime), record, paths })
    }

    /// Makes the pod's files and pins its namespaces.
    async fn house(self, undo: &mut Undo) -> Result<Housed, Error> {
        let paths = self.paths.clone();
        undo.push("remove the pod's files and namespaces", async move {
            record::blocking("remove the pod's files", move || files::remove(&paths))
                .await
                .map_err(|error| error.sentence())
        });
        let (paths, config) = (self.paths.clone(), self.record.config.clone());
        record::blocking("house a pod", move || {
            files::make(&paths, &config)?;
            pin(&paths, &config)
        })
        .await?;
        self.hold_pids().await?;
        Ok(Housed(self))
    }

    /// A process namespace lives as long as its first process: pods that share one have a process to hold it.
    async fn hold_pids(&self) -> Result<(), Error> {
        if self.record.config.pid != PidScope::Pod {
            return Ok(());
        }
        let operation =
            || format!("hold the process namespace of pod {}", self.record.config.pod());
        self.runtime
            .launcher
            .hold_pids(self.paths.dir())
            .await
            .map_err(|source| Error::Shim { operation: operation(), source })
    }
}

/// Pins the namespaces that the pod has for itself.
fn pin(paths: &PodPaths, config: &SandboxConfig) -> Result<(), Error> {
    let sysctls = sysctls(config);
    let own_network = config.network == PodScope::Pod;
    let ranges = |ranges: &[IdRange]| -> Vec<sys::users::IdRange> {
        let range = |range: &IdRange| sys::users::IdRange {
            inside: range.container,
            outside: range.host,
            size: range.length,
        };
        ranges.iter().map(range).collect()
    };
    let maps = config.users.as_ref().map(|maps| (ranges(&maps.users), ranges(&maps.groups)));
    let request = PinRequest {
        users: maps.as_ref().map(|(users, groups)| sys::users::IdMaps { users, groups }),
        dir: &paths.namespaces(),
        net: own_network,
        ipc: config.ipc == PodScope::Pod,
        uts: own_network,
        hostname: Some(config.hostname.as_str()).filter(|name| own_network && !name.is_empty()),
        sysctls: &sysctls,
    };
    netns::pin(&request).map(drop).map_err(|source| Error::Namespace {
        operation: format!("pin the namespaces of pod {}", config.pod()),
        source,
    })
}

/// The kernel parameters of the pod's namespaces: those asked for, and the two with which nobody has to be root to have
/// a low port or to ping, as containerd has them since version 2. Who names one of them decides about it.
fn sysctls(config: &SandboxConfig) -> Vec<(String, String)> {
    let mut sysctls: Vec<_> = config.sysctls.clone().into_iter().collect();
    if config.network == PodScope::Node {
        return sysctls;
    }
    // The kernel takes groups of the writer's namespace, which is the node's: those that are the pod's.
    let groups = config.users.as_ref().and_then(|maps| maps.groups.first());
    let (first, last) = groups.map_or((0, i32::MAX.unsigned_abs()), |range| {
        (range.host, range.host.saturating_add(range.length - 1))
    });
    let usual = [
        ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
        ("net.ipv4.ping_group_range", format!("{first} {last}")),
    ];
    for (key, value) in usual {
        if !sysctls.iter().any(|(named, _)| named.replace('/', ".") == key) {
            sysctls.push((key.to_owned(), value));
        }
    }
    sysctls
}

impl Housed {
    /// Attaches the network while the record settles on the disk.
    async fn attach(self, undo: &mut Undo) -> Result<Attached, Error> {
        let draft = self.0;
        let folder = folder(draft.runtime.root(), &draft.record.id);
        undo.push_folder("remove the pod's record", folder.clone());
        let written = record::create(folder, draft.record.clone());
        if draft.record.config.network == PodScope::Node {
            written.await?;
            return Ok(Attached { draft, ips: Vec::new() });
        }
        let (network, id) = (Arc::clone(&draft.runtime.network), draft.record.id.clone());
        undo.push("detach the pod from its network", async move {
            network.detach(id.as_str(), None).await.map_err(|error| error.to_string())
        });
        let pod = pod_network(&draft);
        let (written, attached) = tokio::join!(written, draft.runtime.network.attach(&pod));
        let attachment = attached.map_err(|source| Error::Network {
            operation: format!("attach pod {} to its network", draft.record.config.pod()),
            source,
        });
        written?;
        Ok(Attached { ips: attachment?.ips, draft })
    }
}

fn pod_network(draft: &Draft) -> cni::PodNetwork {
    let config = &draft.record.config;
    let dns = config.dns.clone().unwrap_or_default();
    cni::PodNetwork {
        id: draft.record.id.to_string(),
        name: config.metadata.name.clone(),
        namespace: config.metadata.namespace.clone(),
        uid: config.metadata.uid.clone(),
        netns: draft.paths.net(),
        annotations: config.annotations.clone(),
        port_mappings: config.ports.iter().map(port_mapping).collect(),
        dns: cni::Dns { servers: dns.servers, searches: dns.searches, options: dns.options },
        cgroup_parent: config.cgroup_parent.as_str().to_owned(),
    }
}

fn port_mapping(port: &super::config::Port) -> cni::PortMapping {
    cni::PortMapping {
        protocol: match port.protocol.as_str() {
            "udp" => cni::Protocol::Udp,
            "sctp" => cni::Protocol::Sctp,
            _ => cni::Protocol::Tcp,
        },
        container_port: port.container_port,
        host_port: port.host_port,
        host_ip: port.host_ip.parse().ok(),
    }
}

impl Attached {
    /// Makes the sandbox known.
    async fn commit(self) -> Result<SandboxId, Error> {
        let Self { draft, ips } = self;
        let (paths, config, addresses) = (draft.paths, draft.record.config.clone(), ips.clone());
        record::blocking("commit a pod", move || {
            make_log_directory(&config)?;
            files::make_hosts(&paths, &config, &addresses)?;
            files::mark_ready(&paths, &addresses)
        })
        .await?;
        let id = draft.record.id.clone();
        let sandbox = Sandbox::new(draft.record, State::Ready { ips });
        draft.runtime.admit_sandbox(&Arc::new(sandbox));
        Ok(id)
    }
}

/// The kubelet makes the folder itself; other clients rely on the runtime.
fn make_log_directory(config: &SandboxConfig) -> Result<(), Error> {
    let Some(directory) = &config.log_directory else { return Ok(()) };
    std::fs::create_dir_all(directory).map_err(|source| Error::Io {
        operation: format!(
            "make the log directory {} of pod {}",
            directory.display(),
            config.pod()
        ),
        source,
    })
}
