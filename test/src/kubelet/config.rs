//! The kubelet's configuration: a node's usual one, but for what would reach beyond the run.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Folders;
use crate::authority::Authority;

/// What differs between kubelets.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// More keys of the configuration.
    pub config: Vec<(String, Value)>,
    /// More arguments.
    pub flags: Vec<String>,
    /// Who signs its certificate.
    pub authority: Arc<Authority>,
}

/// The configuration file's content.
pub(super) fn configuration(folders: &Folders, port: u16, settings: &Settings) -> Value {
    let endpoint = format!("unix://{}", folders.socket.display());
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "port": port,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "tlsCertFile": folders.base.join("kubelet.crt"),
        "tlsPrivateKeyFile": folders.base.join("kubelet.key"),
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "containerRuntimeEndpoint": endpoint,
        "staticPodPath": folders.manifests(),
        "fileCheckFrequency": "2s",
        "syncFrequency": "10s",
        "podLogsDir": folders.logs(),
        "volumePluginDir": folders.base.join("plugins"),
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "resolvConf": folders.base.join("resolv.conf"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "cgroupRoot": format!("/{}", folders.cgroup),
        "cgroupsPerQOS": true,
        "protectKernelDefaults": true,
        "makeIPTablesUtilChains": false,
        "serializeImagePulls": false,
        "enableControllerAttachDetach": false,
        // How full this machine's disk is must not matter.
        "evictionHard": {
            "memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "containerLogMaxSize": "200Ki",
        "containerLogMaxFiles": 100,
        "containerLogMonitorInterval": "3s",
        "volumeStatsAggPeriod": "5s",
        "featureGates": { "PodAndContainerStatsFromCRI": true },
    });
    for (key, value) in &settings.config {
        config[key] = value.clone();
    }
    config
}
