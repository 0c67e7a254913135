//! What the kubelet asks about the node's runtime as a whole: Version, Status, RuntimeConfig.

use std::collections::HashMap;

use proto::cri;
use serde_json::json;

use crate::limits::CgroupDriver;
use crate::runtime::{HANDLER, Runtime};

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
pub async fn status(runtime: &Runtime, request: &cri::StatusRequest) -> cri::StatusResponse {
    let network = runtime.network.status().await;
    let condition = |kind: &str, status, reason: String, message: String| cri::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason,
        message,
    };
    let conditions = vec![
        condition("RuntimeReady", true, String::new(), String::new()),
        condition("NetworkReady", network.ready, network.reason, network.message),
    ];
    let info = json!({
        "root": runtime.root(),
        "shim": runtime.launcher.path(),
        "network": network.plugin,
    });
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus { conditions }),
        info: if request.verbose {
            HashMap::from([("config".to_owned(), info.to_string())])
        } else {
            HashMap::new()
        },
        runtime_handlers: ["", HANDLER].map(|name| handler(runtime, name)).into(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: runtime.maps_users,
            mount_options: false,
        }),
    }
}

fn handler(runtime: &Runtime, name: &str) -> cri::RuntimeHandler {
    cri::RuntimeHandler {
        name: name.to_owned(),
        features: Some(cri::RuntimeHandlerFeatures {
            // mount_setattr(2) has been there since Linux 5.12, the oldest kernel that Wherry runs on.
            recursive_read_only_mounts: true,
            user_namespaces: runtime.maps_users,
        }),
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
