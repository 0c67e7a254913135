//! The configurations a kubelet sends, short to write: a base that works, and methods for what a test is about.

use std::collections::HashMap;
use std::path::Path;

use proto::cri::{
    ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata,
};

/// `bytes` random bytes as lowercase hexadecimal digits.
pub fn random_hex(bytes: usize) -> String {
    let mut raw = vec![0; bytes];
    getrandom::fill(&mut raw).unwrap();
    raw.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A pod as the kubelet describes it: PID per container, the rest per pod.
pub fn pod(name: &str, folder: &Path) -> PodSandboxConfig {
    let uid = random_hex(8);
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: uid.clone(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: folder.join("logs").join(&uid).to_string_lossy().into_owned(),
        dns_config: Some(DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
        }),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}/pod{uid}", crate::isolate::cgroup_parent(folder)),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The kubelet's usual namespaces with this one for the network.
fn namespaces(network: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

/// What tests change in a [`pod`].
pub trait PodConfig: Sized {
    /// Lets `change` set the namespaces.
    fn namespaces(self, change: impl FnOnce(&mut NamespaceOption)) -> Self;
    /// Adds a label and an annotation.
    fn label(self, key: &str, value: &str) -> Self;
    /// Adds a sysctl.
    fn sysctl(self, key: &str, value: &str) -> Self;
}

impl PodConfig for PodSandboxConfig {
    fn namespaces(mut self, change: impl FnOnce(&mut NamespaceOption)) -> Self {
        let context = self.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        let options = context.namespace_options.as_mut().unwrap();
        change(options);
        // The kubelet leaves the host's name alone in a pod on the host's network.
        if options.network() == NamespaceMode::Node {
            self.hostname.clear();
        }
        self
    }
    fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self.annotations.insert(key.into(), value.into());
        self
    }
    fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.linux.as_mut().unwrap().sysctls.insert(key.into(), value.into());
        self
    }
}

/// A container of `image` that runs `command`; its log is `<name>.log` in the pod's log folder.
pub fn container(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        command: command.iter().map(ToString::to_string).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources::default()),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod)),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A container of the busybox image that runs a shell script.
pub fn script(name: &str, script: &str) -> ContainerConfig {
    container(name, crate::image::catalog::BUSYBOX, &["sh", "-c", script])
}

/// A container of the busybox image that runs until it is stopped, at once when asked to.
pub fn sleeper(name: &str) -> ContainerConfig {
    script(name, "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done")
}

/// What tests change in a [`container`].
pub trait Container: Sized {
    /// Lets `change` set the security context.
    fn security(self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self;
    /// Lets `change` set the limits.
    fn limits(self, change: impl FnOnce(&mut LinuxContainerResources)) -> Self;
    /// Uses the namespaces of this pod.
    fn namespaces_of(self, pod: &PodSandboxConfig) -> Self;
    /// Adds an environment variable.
    fn env(self, key: &str, value: &str) -> Self;
    /// Binds a path of the host.
    fn mount(self, host: &Path, inside: &str, readonly: bool) -> Self;
    /// Adds a label and an annotation.
    fn label(self, key: &str, value: &str) -> Self;
    /// Sets the attempt, which is part of the name.
    fn attempt(self, attempt: u32) -> Self;
}

impl Container for ContainerConfig {
    fn security(mut self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self {
        change(self.linux.as_mut().unwrap().security_context.as_mut().unwrap());
        self
    }
    fn limits(mut self, change: impl FnOnce(&mut LinuxContainerResources)) -> Self {
        change(self.linux.as_mut().unwrap().resources.as_mut().unwrap());
        self
    }
    fn namespaces_of(self, pod: &PodSandboxConfig) -> Self {
        let context = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref()).unwrap();
        let options = context.namespace_options.clone();
        self.security(|security| security.namespace_options = options)
    }
    fn env(mut self, key: &str, value: &str) -> Self {
        self.envs.push(KeyValue { key: key.into(), value: value.into() });
        self
    }
    fn mount(mut self, host: &Path, inside: &str, readonly: bool) -> Self {
        self.mounts.push(Mount {
            container_path: inside.into(),
            host_path: host.to_string_lossy().into_owned(),
            readonly,
            ..Default::default()
        });
        self
    }
    fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self.annotations.insert(key.into(), value.into());
        self
    }
    fn attempt(mut self, attempt: u32) -> Self {
        self.metadata.as_mut().unwrap().attempt = attempt;
        self
    }
}

/// A label selector of one label.
pub fn selector(key: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(key.into(), value.into())])
}
