//! What the kubelet asks about the node's runtime as a whole: Version, Status, RuntimeConfig.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use proto::cri;
use serde_json::{Value, json};

use crate::error::Error;
use crate::features::Features;
use crate::limits::CgroupDriver;
use crate::record;
use crate::runtime::Runtime;

/// The version of the kubelet's own API, which has stayed the same since the first CRI.
const KUBELET_API_VERSION: &str = "0.1.0";

/// Names the runtime.
#[must_use]
pub fn version() -> cri::VersionResponse {
    cri::VersionResponse {
        version: KUBELET_API_VERSION.into(),
        runtime_name: "wherry".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    }
}

/// Tells whether pods can be run now.
///
/// # Errors
/// The look at the node cannot be taken.
pub async fn status(
    runtime: &Arc<Runtime>,
    request: &cri::StatusRequest,
) -> Result<cri::StatusResponse, Error> {
    let network = runtime.network.status().await;
    let fault = fault(runtime).await?;
    let condition = |kind: &str, status, reason: String, message: String| cri::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason,
        message,
    };
    let ready = fault.is_none();
    let (reason, message) =
        fault.map(|fault| (fault.reason.to_owned(), fault.message)).unwrap_or_default();
    let conditions = vec![
        condition("RuntimeReady", ready, reason, message),
        condition("NetworkReady", network.ready, network.reason.clone(), network.message.clone()),
    ];
    let info = if request.verbose { info(runtime, &network).await? } else { HashMap::new() };
    Ok(cri::StatusResponse {
        status: Some(cri::RuntimeStatus { conditions }),
        info,
        runtime_handlers: runtime
            .handlers
            .all()
            .map(|(name, one)| handler(one.features(runtime.features), name))
            .collect(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: runtime.features.user_namespaces,
            mount_options: true,
        }),
    })
}

fn handler(features: Features, name: &str) -> cri::RuntimeHandler {
    cri::RuntimeHandler {
        name: name.to_owned(),
        features: Some(cri::RuntimeHandlerFeatures {
            recursive_read_only_mounts: features.recursive_read_only,
            user_namespaces: features.user_namespaces,
        }),
    }
}

/// Why no container could be started now.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    /// A word for machines.
    reason: &'static str,
    /// A sentence for the operator.
    message: String,
}

async fn fault(runtime: &Runtime) -> Result<Option<Fault>, Error> {
    let folders = [
        ("RootUnusable", runtime.root().to_owned()),
        ("StateUnusable", runtime.state.join("sandboxes")),
        ("StateUnusable", runtime.state.join("containers")),
    ];
    let shim = runtime.launcher.path().to_owned();
    record::blocking("look at the node", move || {
        let folders = folders.iter().find_map(|(reason, path)| {
            let error = check_folder(path).err()?;
            Some(Fault { reason, message: format!("folder {}: {error}", path.display()) })
        });
        Ok(folders.or_else(|| {
            let error = check_program(&shim).err()?;
            let message = format!("shim {}: {error}", shim.display());
            Some(Fault { reason: "ShimUnusable", message })
        }))
    })
    .await
}

/// Whether files can be made in a folder.
fn check_folder(path: &Path) -> io::Result<()> {
    use rustix::fs::StatVfsMountFlags;
    if rustix::fs::statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(io::ErrorKind::ReadOnlyFilesystem.into());
    }
    if !fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(())
}

fn check_program(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// What `crictl info` shows beyond the status, under the keys that containerd's users know.
/// The handlers by name, with what makes their containers.
fn runtimes(runtime: &Runtime) -> Value {
    let named = runtime.handlers.all().filter(|(name, _)| !name.is_empty());
    let kinds =
        named.map(|(name, handler)| (name.to_owned(), json!({ "runtimeType": handler.kind() })));
    Value::Object(kinds.collect())
}

async fn info(
    runtime: &Arc<Runtime>,
    network: &cni::NetworkStatus,
) -> Result<HashMap<String, String>, Error> {
    let report = runtime.network.report().await.map_err(|source| Error::Network {
        operation: "describe the node's network".into(),
        source,
    })?;
    let driver = match runtime.cgroup_driver {
        CgroupDriver::Cgroupfs => "cgroupfs",
        CgroupDriver::Systemd => "systemd",
    };
    let config = json!({
        "containerd": {
            "snapshotter": "overlay",
            "defaultRuntimeName": runtime.handlers.default_name(),
            "runtimes": runtimes(runtime),
        },
        "cni": { "binDirs": &report.bin_dirs, "confDir": &report.conf_dir },
        // kubeadm asks for it. A pod needs no image of its own here.
        "sandboxImage": "",
        "rootDir": runtime.root(),
        "stateDir": runtime.state,
        "systemdCgroup": runtime.cgroup_driver == CgroupDriver::Systemd,
        "cgroupDriver": driver,
        "shim": runtime.launcher.path(),
        "network": network.plugin,
    });
    let load = report.fault.clone().unwrap_or_else(|| "OK".to_owned());
    let entries = [
        ("config", config.to_string()),
        ("cniconfig", cni_config(&report).to_string()),
        ("lastCNILoadStatus", load.clone()),
        ("lastCNILoadStatus.default", load),
    ];
    Ok(entries.map(|(key, value)| (key.to_owned(), value)).into())
}

/// The network's configuration in the form that containerd's users know.
fn cni_config(report: &cni::Report) -> Value {
    let networks = report.network.iter().map(|list| {
        let plugins = list["plugins"].as_array().into_iter().flatten();
        let plugins: Vec<_> = plugins
            .map(|plugin| json!({ "Network": plugin, "Source": plugin.to_string() }))
            .collect();
        json!({
            "Config": {
                "Name": list["name"],
                "CNIVersion": list["cniVersion"],
                "Plugins": plugins,
                "Source": list.to_string(),
            },
            "IFName": "eth0",
        })
    });
    json!({
        "PluginDirs": report.bin_dirs,
        "PluginConfDir": report.conf_dir,
        "PluginMaxConfNum": 1,
        "Prefix": "eth",
        "Networks": networks.collect::<Vec<_>>(),
    })
}

/// Takes what the kubelet knows of the cluster: the range for this node's pods, which is for the built-in network.
///
/// Best effort, as everywhere: an error would keep the kubelet from saying that the node is there, and the network that
/// is in use works.
pub async fn update_runtime_config(runtime: &Runtime, request: cri::UpdateRuntimeConfigRequest) {
    let network = request.runtime_config.unwrap_or_default().network_config.unwrap_or_default();
    let cidr = network.pod_cidr;
    if cidr.is_empty() {
        return;
    }
    // One of each family, for pods that have both.
    let Some(subnet) = cidr.split(',').find_map(|one| one.trim().parse::<cni::Subnet>().ok())
    else {
        tracing::warn!(cidr, "the pod CIDR has no IPv4 range that the built-in network could use");
        return;
    };
    match runtime.network.set_pod_cidr(subnet).await {
        Ok(outcome) => tracing::info!(cidr, ?outcome, "pod CIDR"),
        Err(error) => tracing::warn!(cidr, %error, "the built-in network cannot take the pod CIDR"),
    }
}

/// Tells the kubelet how cgroups are made.
#[must_use]
pub fn runtime_config(runtime: &Runtime) -> cri::RuntimeConfigResponse {
    let driver = match runtime.cgroup_driver {
        CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
    };
    cri::RuntimeConfigResponse {
        linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver: driver.into() }),
    }
}
