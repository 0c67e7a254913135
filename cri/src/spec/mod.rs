//! From CRI's wishes to an OCI runtime specification: pure, nothing here touches the system.
//!
//! The result is what the shim carries out. It follows what containerd's users know where CRI leaves room: the
//! default mounts, devices and capabilities, the order of mounts, the annotations that other tools read.

mod device;
mod mounts;
mod process;
mod seccomp;

use std::collections::{BTreeMap, HashMap};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCpuBuilder, LinuxHugepageLimitBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxResources, LinuxResourcesBuilder, LinuxSeccomp, RootBuilder, Spec,
    SpecBuilder,
};

pub use device::HostDevice;

use snapshotter::View;

use crate::container::config::{ContainerConfig, Propagation};
use crate::container::volume::Folder;
use crate::error::Error;
use crate::handler::Defaults;
use crate::id::{ContainerId, SandboxId};
use crate::ids::IdRange;
use crate::limits::Resources;
use crate::sandbox::config::{PodScope, SandboxConfig};
use crate::sandbox::paths::PodPaths;
use crate::selinux::Selinux;

/// The version of the runtime specification that the result follows.
const OCI_VERSION: &str = "1.2.0";

/// The folder of the root file system inside the bundle.
const ROOTFS: &str = "rootfs";

/// Everything that a container's specification depends on.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The container.
    pub id: &'a ContainerId,
    /// What the kubelet wants of it.
    pub config: &'a ContainerConfig,
    /// Its image's defaults.
    pub image: &'a image::ImageConfig,
    /// Its pod.
    pub sandbox_id: &'a SandboxId,
    /// What the kubelet wants of the pod.
    pub sandbox: &'a SandboxConfig,
    /// Where the pod's namespaces and files are.
    pub pod: &'a PodPaths,
    /// The process namespace to join, where it is not a new one.
    pub pid_namespace: PidNamespace,
    /// The devices asked for, or all of the node's for a privileged container.
    pub devices: &'a [HostDevice],
    /// The images that it mounts, by the number of the mount.
    pub views: &'a BTreeMap<usize, View>,
    /// The folders that its image asks for.
    pub folders: &'a [Folder],
    /// The AppArmor profile to apply.
    pub apparmor: Option<&'a str>,
    /// Whether the node has SELinux.
    pub selinux: bool,
    /// What the file of a `Localhost` seccomp profile says.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// Whether a device cgroup keeps the container from other devices.
    pub devices_fenced: bool,
    /// What the pod's handler gives its containers.
    pub defaults: &'a Defaults,
}

/// Which process namespace the container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PidNamespace {
    /// A new one.
    New,
    /// The node's.
    Host,
    /// The one pinned or shown at this path.
    Join(std::path::PathBuf),
}

/// Builds the specification.
///
/// # Errors
/// `Invalid` when CRI's and the image's settings do not lead to a process.
pub fn build(inputs: &Inputs<'_>) -> Result<Spec, Error> {
    let process = process::build(inputs)?;
    assemble(inputs, process).map_err(|source| Error::Invalid {
        operation: format!("specify container {}", inputs.config.metadata.name),
        reason: source.to_string(),
    })
}

fn assemble(
    inputs: &Inputs<'_>,
    process: oci_spec::runtime::Process,
) -> Result<Spec, OciSpecError> {
    let security = &inputs.config.security;
    let root = RootBuilder::default().path(ROOTFS).readonly(security.readonly_rootfs).build()?;
    let capabilities = process.capabilities().as_ref();
    let bounding = capabilities.and_then(|sets| sets.bounding().clone()).unwrap_or_default();
    let mut linux = linux(inputs)?;
    linux.set_seccomp(seccomp::build(&security.seccomp, inputs.seccomp, &bounding)?);
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .process(process)
        .mounts(mounts::build(inputs)?)
        .annotations(annotations(inputs))
        .linux(linux)
        .build()?;
    // The pod's UTS namespace has its name already.
    spec.set_hostname(None);
    Ok(spec)
}

fn linux(inputs: &Inputs<'_>) -> Result<Linux, OciSpecError> {
    let security = &inputs.config.security;
    let texts = |paths: &[std::path::PathBuf]| {
        let paths = if security.privileged { &[] } else { paths };
        paths.iter().map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(inputs)?)
        .cgroups_path(inputs.sandbox.cgroup_parent.leaf(inputs.id.as_str()))
        .resources(resources(inputs)?)
        .devices(inputs.devices.iter().map(HostDevice::node).collect::<Result<Vec<_>, _>>()?)
        .masked_paths(texts(&security.masked_paths))
        .readonly_paths(texts(&security.readonly_paths))
        .build()?;
    linux.set_mount_label(label(inputs, Selinux::mount_label));
    if let Some(maps) = &inputs.sandbox.users {
        linux.set_uid_mappings(Some(mappings(&maps.users)?));
        linux.set_gid_mappings(Some(mappings(&maps.groups)?));
    }
    let propagations = inputs.config.mounts.iter().map(|mount| mount.propagation);
    linux.set_rootfs_propagation(match strongest(propagations) {
        Propagation::Private => None,
        Propagation::HostToContainer => Some("rslave".into()),
        Propagation::Bidirectional => Some("rshared".into()),
    });
    Ok(linux)
}

/// An SELinux label that was asked for, where there are labels.
fn label(inputs: &Inputs<'_>, which: fn(&Selinux) -> String) -> Option<String> {
    inputs.config.security.selinux.as_ref().filter(|_| inputs.selinux).map(which)
}

fn mappings(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>, OciSpecError> {
    let mapping = |range: &IdRange| {
        LinuxIdMappingBuilder::default()
            .container_id(range.container)
            .host_id(range.host)
            .size(range.length)
            .build()
    };
    ranges.iter().map(mapping).collect()
}

fn strongest(propagations: impl Iterator<Item = Propagation>) -> Propagation {
    propagations.fold(Propagation::Private, |strongest, next| match (strongest, next) {
        (Propagation::Bidirectional, _) | (_, Propagation::Bidirectional) => {
            Propagation::Bidirectional
        }
        (Propagation::Private, other) | (other, Propagation::Private) => other,
        _ => Propagation::HostToContainer,
    })
}

fn namespaces(inputs: &Inputs<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let new = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let join =
        |typ, path: &std::path::Path| LinuxNamespaceBuilder::default().typ(typ).path(path).build();
    let mut namespaces = vec![new(LinuxNamespaceType::Mount)?];
    if inputs.sandbox.users.is_some() {
        namespaces.push(join(LinuxNamespaceType::User, &inputs.pod.user())?);
    }
    if inputs.sandbox.network == PodScope::Pod {
        namespaces.push(join(LinuxNamespaceType::Network, &inputs.pod.net())?);
        namespaces.push(join(LinuxNamespaceType::Uts, &inputs.pod.uts())?);
    }
    if inputs.sandbox.ipc == PodScope::Pod {
        namespaces.push(join(LinuxNamespaceType::Ipc, &inputs.pod.ipc())?);
    }
    match &inputs.pid_namespace {
        PidNamespace::New => namespaces.push(new(LinuxNamespaceType::Pid)?),
        PidNamespace::Join(path) => namespaces.push(join(LinuxNamespaceType::Pid, path)?),
        PidNamespace::Host => {}
    }
    if !inputs.config.security.privileged {
        namespaces.push(new(LinuxNamespaceType::Cgroup)?);
    }
    Ok(namespaces)
}

fn resources(inputs: &Inputs<'_>) -> Result<LinuxResources, OciSpecError> {
    let mut resources = limits(&inputs.config.resources)?;
    let all_devices =
        inputs.config.security.privileged && !inputs.defaults.privileged_without_host_devices;
    resources.set_devices(Some(device::rules(inputs.devices, all_devices)?));
    Ok(resources)
}

/// Limits in the specification's form; they say nothing of devices.
///
/// # Errors
/// None in practice: nothing that is wanted can be missing.
pub fn limits(limits: &Resources) -> Result<LinuxResources, OciSpecError> {
    let mut resources = LinuxResourcesBuilder::default().build()?;
    resources.set_devices(None);
    resources.set_memory(memory(limits)?);
    let mut cpu = LinuxCpuBuilder::default().build()?;
    cpu.set_shares(limits.cpu_shares).set_quota(limits.cpu_quota).set_period(limits.cpu_period);
    cpu.set_cpus(limits.cpuset_cpus.clone()).set_mems(limits.cpuset_mems.clone());
    resources.set_cpu(Some(cpu));
    if !limits.hugepages.is_empty() {
        let pages = limits.hugepages.iter().map(|(size, limit)| {
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            LinuxHugepageLimitBuilder::default().page_size(size).limit(limit).build()
        });
        resources.set_hugepage_limits(Some(pages.collect::<Result<_, _>>()?));
    }
    if !limits.unified.is_empty() {
        resources.set_unified(Some(limits.unified.clone().into_iter().collect()));
    }
    Ok(resources)
}

fn memory(limits: &Resources) -> Result<Option<oci_spec::runtime::LinuxMemory>, OciSpecError> {
    let (Some(limit), Some(swap)) = (limits.memory_limit, limits.memory_and_swap()) else {
        return Ok(None);
    };
    LinuxMemoryBuilder::default().limit(limit).swap(swap).build().map(Some)
}

/// What shims, hooks and tools of the field read.
fn annotations(inputs: &Inputs<'_>) -> HashMap<String, String> {
    let metadata = &inputs.sandbox.metadata;
    let pairs = [
        ("container-type", "container"),
        ("sandbox-id", inputs.sandbox_id.as_str()),
        ("sandbox-name", &metadata.name),
        ("sandbox-namespace", &metadata.namespace),
        ("sandbox-uid", &metadata.uid),
        ("container-name", &inputs.config.metadata.name),
        ("image-name", &inputs.config.image.image),
    ];
    let known = pairs
        .into_iter()
        .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()));
    let passed = inputs.defaults.passed_on(&inputs.sandbox.annotations, &inputs.config.annotations);
    // What others read of us is not for a tenant to change.
    passed.into_iter().chain(known).collect()
}

#[cfg(test)]
mod tests;
