//! What the kubelet wants of a pod sandbox: the wire's message, parsed once into values that cannot be wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::cri;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::grammar;
use crate::ids::IdMaps;
use crate::limits::{self, CgroupDriver, CgroupParent, Resources};
use crate::selinux::Selinux;

/// What names a sandbox for the kubelet; unique among all sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    /// The pod's name.
    pub name: String,
    /// The pod's namespace in Kubernetes.
    pub namespace: String,
    /// The pod's uid in Kubernetes.
    pub uid: String,
    /// Counts the sandboxes that the kubelet made for this pod.
    pub attempt: u32,
}

/// Whether a pod has a namespace for itself or uses the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PodScope {
    /// The pod's own.
    Pod,
    /// The node's.
    Node,
}

/// Whose processes a pod's containers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PidScope {
    /// All of the pod's.
    Pod,
    /// Each container its own.
    Container,
    /// All of the node's.
    Node,
}

/// What goes into resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// The resources of a pod as a whole: the kubelet makes its cgroup, the runtime keeps them for whoever asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodResources {
    /// What the pod costs beside its containers.
    pub overhead: Option<Resources>,
    /// What its containers have together.
    pub containers: Option<Resources>,
}

impl PodResources {
    /// Parses the wire's form.
    ///
    /// # Errors
    /// Says which limit is out of its range.
    pub fn parse(
        overhead: Option<cri::LinuxContainerResources>,
        containers: Option<cri::LinuxContainerResources>,
    ) -> Result<Self, String> {
        Ok(Self {
            overhead: overhead.map(Resources::parse).transpose()?,
            containers: containers.map(Resources::parse).transpose()?,
        })
    }
}

/// A port of the node that leads to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    /// The transport protocol, as CNI spells it: tcp, udp or sctp.
    pub protocol: String,
    /// The pod's port.
    pub container_port: u16,
    /// The node's port; zero publishes nothing.
    pub host_port: u16,
    /// The node's address, empty for all.
    pub host_ip: String,
}

/// Everything the kubelet says about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Its name for the kubelet.
    pub metadata: Metadata,
    /// The host name inside; empty on the node's network.
    pub hostname: String,
    /// The folder below which the containers' logs are; none keeps no logs.
    pub log_directory: Option<PathBuf>,
    /// The resolver's configuration; none copies the node's.
    pub dns: Option<Dns>,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Returned byte by byte as they came.
    pub labels: BTreeMap<String, String>,
    /// Returned byte by byte as they came.
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup, made by the kubelet.
    pub cgroup_parent: CgroupParent,
    /// The network namespace.
    pub network: PodScope,
    /// The IPC namespace and /dev/shm.
    pub ipc: PodScope,
    /// The process namespace.
    pub pid: PidScope,
    /// The mappings of the pod's own user namespace; none where it is the node's.
    #[serde(default)]
    pub users: Option<IdMaps>,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// What its containers have together, as far as the kubelet says.
    #[serde(default)]
    pub resources: PodResources,
    /// Whether privileged containers may be created in it.
    pub privileged: bool,
    /// The handler asked for; empty is the default one.
    pub runtime_handler: String,
}

impl SandboxConfig {
    /// Parses a request.
    ///
    /// # Errors
    /// `Invalid` names the field; `Unsupported` names what Wherry cannot do.
    pub fn parse(
        config: cri::PodSandboxConfig,
        handler: String,
        driver: CgroupDriver,
    ) -> Result<Self, Error> {
        let metadata = parse_metadata(config.metadata)?;
        let about = format!("run pod {}/{}", metadata.namespace, metadata.name);
        let linux = config.linux.unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let options = security.namespace_options.unwrap_or_default();
        let invalid = |reason: String| Error::Invalid { operation: about.clone(), reason };
        // Nothing of the pod itself is labelled; what is none is said here already.
        let _label = Selinux::parse(security.selinux_options.as_ref()).map_err(invalid)?;
        let network = pod_scope(options.network, "network").map_err(invalid)?;
        let ipc = pod_scope(options.ipc, "ipc").map_err(invalid)?;
        let pid = pid_scope(options.pid).map_err(invalid)?;
        let users = IdMaps::parse_pod(options.userns_options.as_ref()).map_err(invalid)?;
        if users.is_some() && (ipc == PodScope::Node || pid == PidScope::Node) {
            // Who has no rights over these namespaces could not even mount what they show.
            let reason = "a pod with its own user namespace has its own IPC and process namespaces";
            return Err(invalid(reason.into()));
        }
        limits::check_map("labels", &config.labels).map_err(invalid)?;
        limits::check_map("annotations", &config.annotations).map_err(invalid)?;
        for (key, value) in &linux.sysctls {
            check_sysctl(key, value, network, ipc).map_err(invalid)?;
        }
        Ok(Self {
            hostname: parse_hostname(config.hostname, network).map_err(invalid)?,
            log_directory: grammar::log_directory(&config.log_directory).map_err(invalid)?,
            dns: config.dns_config.map(parse_dns).transpose().map_err(invalid)?,
            ports: parse_ports(config.port_mappings).map_err(invalid)?,
            labels: config.labels.into_iter().collect(),
            annotations: config.annotations.into_iter().collect(),
            cgroup_parent: CgroupParent::parse(&linux.cgroup_parent, driver).map_err(invalid)?,
            network,
            ipc,
            pid,
            users,
            sysctls: linux.sysctls.into_iter().collect(),
            resources: PodResources::parse(linux.overhead, linux.resources).map_err(invalid)?,
            privileged: security.privileged,
            runtime_handler: handler,
            metadata,
        })
    }

    /// The pod as messages name it.
    #[must_use]
    pub fn pod(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }
}

fn parse_metadata(metadata: Option<cri::PodSandboxMetadata>) -> Result<Metadata, Error> {
    let invalid = |reason: &str| Error::Invalid {
        operation: "run a pod sandbox".into(),
        reason: reason.into(),
    };
    let metadata = metadata.ok_or_else(|| invalid("its configuration has no metadata"))?;
    let fields =
        [("name", &metadata.name), ("namespace", &metadata.namespace), ("uid", &metadata.uid)];
    for (field, value) in fields {
        if value.is_empty() {
            return Err(invalid(&format!("its metadata has no {field}")));
        }
        if !grammar::is_plain(value, limits::NAME_BYTES) {
            return Err(invalid(&format!("its metadata's {field} {value:?} is not a name")));
        }
    }
    let cri::PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    Ok(Metadata { name, namespace, uid, attempt })
}

fn pod_scope(mode: i32, which: &str) -> Result<PodScope, String> {
    match cri::NamespaceMode::try_from(mode) {
        Ok(cri::NamespaceMode::Pod) => Ok(PodScope::Pod),
        Ok(cri::NamespaceMode::Node) => Ok(PodScope::Node),
        _ => Err(format!("{which} namespace mode {mode} is neither POD nor NODE")),
    }
}

fn pid_scope(mode: i32) -> Result<PidScope, String> {
    match cri::NamespaceMode::try_from(mode) {
        Ok(cri::NamespaceMode::Pod) => Ok(PidScope::Pod),
        Ok(cri::NamespaceMode::Container) => Ok(PidScope::Container),
        Ok(cri::NamespaceMode::Node) => Ok(PidScope::Node),
        _ => Err(format!("pid namespace mode {mode} is not one of POD, CONTAINER and NODE")),
    }
}

fn parse_hostname(hostname: String, network: PodScope) -> Result<String, String> {
    if network == PodScope::Node || hostname.is_empty() || grammar::is_hostname(&hostname) {
        Ok(if network == PodScope::Node { String::new() } else { hostname })
    } else {
        Err(format!("{hostname:?} is not a host name"))
    }
}

fn parse_dns(dns: cri::DnsConfig) -> Result<Dns, String> {
    for value in dns.servers.iter().chain(&dns.searches).chain(&dns.options) {
        // One line of resolv.conf each: a line break in a value would be a line of the tenant's own.
        if value.is_empty() || !grammar::is_plain(value, limits::NAME_BYTES) || value.contains(' ')
        {
            return Err(format!("{value:?} cannot stand in resolv.conf"));
        }
    }
    let cri::DnsConfig { servers, searches, options } = dns;
    Ok(Dns { servers, searches, options })
}

fn parse_ports(ports: Vec<cri::PortMapping>) -> Result<Vec<Port>, String> {
    ports
        .into_iter()
        .map(|port| {
            let number = |value: i32| {
                u16::try_from(value).map_err(|_| format!("{value} is not a port number"))
            };
            let protocol = match port.protocol() {
                cri::Protocol::Tcp => "tcp",
                cri::Protocol::Udp => "udp",
                cri::Protocol::Sctp => "sctp",
            };
            if !port.host_ip.is_empty() && port.host_ip.parse::<std::net::IpAddr>().is_err() {
                return Err(format!("host address {:?} is not an IP address", port.host_ip));
            }
            Ok(Port {
                protocol: protocol.into(),
                container_port: number(port.container_port)?,
                // Kubernetes publishes nothing for zero and below.
                host_port: number(port.host_port.max(0))?,
                host_ip: port.host_ip,
            })
        })
        .collect()
}

/// Only what belongs to a namespace that the pod has for itself (CVE-2022-0811, CVE-2022-0532).
fn check_sysctl(key: &str, value: &str, network: PodScope, ipc: PodScope) -> Result<(), String> {
    if !grammar::is_sysctl(key) || !grammar::is_plain(value, limits::NAME_BYTES) {
        return Err(format!("sysctl {key:?} = {value:?} is not of a sysctl's form"));
    }
    let key = key.replace('/', ".");
    let of_ipc = key.starts_with("kernel.shm")
        || key.starts_with("kernel.msg")
        || key == "kernel.sem"
        || key.starts_with("fs.mqueue.");
    match (key.starts_with("net."), of_ipc) {
        (true, _) if network == PodScope::Pod => Ok(()),
        (_, true) if ipc == PodScope::Pod => Ok(()),
        (false, false) => Err(format!("sysctl {key} is not one of the pod's namespaces")),
        _ => Err(format!("sysctl {key} would change the node's own namespace")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> cri::PodSandboxMetadata {
        cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 2,
        }
    }

    fn parse(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Result<SandboxConfig, Error> {
        let mut config = cri::PodSandboxConfig { metadata: Some(metadata()), ..Default::default() };
        change(&mut config);
        SandboxConfig::parse(config, String::new(), CgroupDriver::Cgroupfs)
    }

    fn with_sysctl(key: &str, value: &str, host_network: bool) -> Result<SandboxConfig, Error> {
        parse(|config| {
            let mut linux = cri::LinuxPodSandboxConfig::default();
            linux.sysctls.insert(key.into(), value.into());
            if host_network {
                let options = cri::NamespaceOption {
                    network: cri::NamespaceMode::Node.into(),
                    ..Default::default()
                };
                linux.security_context = Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                });
            }
            config.linux = Some(linux);
        })
    }

    #[test]
    fn a_config_without_metadata_or_name_is_invalid() {
        assert!(matches!(parse(|config| config.metadata = None), Err(Error::Invalid { .. })));
        let nameless = cri::PodSandboxMetadata { name: String::new(), ..metadata() };
        assert!(parse(|config| config.metadata = Some(nameless)).is_err());
        assert_eq!(parse(|_| ()).unwrap().pod(), "default/web");
    }

    #[test]
    fn a_user_namespace_goes_with_ipc_and_process_namespaces_of_the_pods_own() {
        let range = cri::IdMapping { host_id: 100_000, container_id: 0, length: 65_536 };
        let users = |change: fn(&mut cri::NamespaceOption)| {
            let mut options = cri::NamespaceOption {
                userns_options: Some(cri::UserNamespace {
                    mode: cri::NamespaceMode::Pod.into(),
                    uids: vec![range],
                    gids: vec![range],
                }),
                ..Default::default()
            };
            change(&mut options);
            parse(|config| {
                let security_context = Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                });
                config.linux =
                    Some(cri::LinuxPodSandboxConfig { security_context, ..Default::default() });
            })
        };
        const NODE: i32 = cri::NamespaceMode::Node as i32;
        assert!(users(|_| ()).unwrap().users.is_some());
        assert!(users(|options| options.network = NODE).is_ok());
        assert!(users(|options| options.ipc = NODE).is_err());
        assert!(users(|options| options.pid = NODE).is_err());
    }

    #[test]
    fn a_line_break_never_reaches_resolv_conf_or_the_host_name() {
        assert!(parse(|config| config.hostname = "a\nb".into()).is_err());
        let dns = cri::DnsConfig {
            servers: vec!["1.1.1.1\nnameserver 6.6.6.6".into()],
            ..Default::default()
        };
        assert!(parse(|config| config.dns_config = Some(dns)).is_err());
    }

    #[test]
    fn only_sysctls_of_the_pods_own_namespaces_are_taken() {
        assert!(with_sysctl("net.ipv4.ip_forward", "1", false).is_ok());
        assert!(with_sysctl("kernel.shm_rmid_forced", "1", false).is_ok());
        assert!(with_sysctl("net.ipv4.ip_forward", "1", true).is_err());
        assert!(with_sysctl("kernel.core_pattern", "|/x", false).is_err());
        assert!(with_sysctl("net.ipv4/../../kernel.core_pattern", "x", false).is_err());
        assert!(with_sysctl("net.ipv4.ip_forward", "1\n2", false).is_err());
    }
}
