//! PodSandboxStatus: from memory.

use std::collections::HashMap;
use std::sync::Arc;

use proto::cri;
use serde_json::json;

use super::Sandbox;
use super::config::{PidScope, PodScope};
use super::list::metadata;
use super::state::State;
use crate::container::{self, Container};
use crate::error::Error;
use crate::runtime::Runtime;

/// Tells about one sandbox.
///
/// # Errors
/// `NotFound` when there is none.
pub fn status(
    runtime: &Runtime,
    request: &cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse, Error> {
    let sandbox = runtime.sandboxes.find(&request.pod_sandbox_id)?;
    let info = if request.verbose { info(runtime, &sandbox) } else { HashMap::new() };
    let moment = runtime.moment(&sandbox);
    Ok(cri::PodSandboxStatusResponse {
        status: moment.sandbox.map(|(sandbox, state)| to_wire(&sandbox, &state)),
        info,
        // Set together or not at all: with a timestamp the kubelet takes an empty list for the truth.
        containers_statuses: containers(moment.containers),
        timestamp: moment.at.get(),
    })
}

/// The wire's form of a pod's containers.
#[must_use]
pub fn containers(
    containers: Vec<(Arc<Container>, container::state::State)>,
) -> Vec<cri::ContainerStatus> {
    let statuses = containers.into_iter();
    statuses.map(|(container, state)| container::status::to_wire(&container, state)).collect()
}

/// The wire's form of a sandbox in a state.
#[must_use]
pub fn to_wire(sandbox: &Sandbox, state: &State) -> cri::PodSandboxStatus {
    let config = &sandbox.record.config;
    cri::PodSandboxStatus {
        id: sandbox.id().to_string(),
        metadata: Some(metadata(&config.metadata)),
        state: state.to_wire().into(),
        created_at: sandbox.record.created_at.get(),
        network: Some(network(state)),
        linux: Some(namespaces(sandbox)),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: config.runtime_handler.clone(),
    }
}

fn network(state: &State) -> cri::PodSandboxNetworkStatus {
    let State::Ready { ips } = state else { return cri::PodSandboxNetworkStatus::default() };
    let mut texts = ips.iter().map(ToString::to_string);
    cri::PodSandboxNetworkStatus {
        ip: texts.next().unwrap_or_default(),
        additional_ips: texts.map(|ip| cri::PodIp { ip }).collect(),
    }
}

fn namespaces(sandbox: &Sandbox) -> cri::LinuxPodSandboxStatus {
    let config = &sandbox.record.config;
    let scope = |scope| match scope {
        PodScope::Pod => cri::NamespaceMode::Pod,
        PodScope::Node => cri::NamespaceMode::Node,
    };
    let pid = match config.pid {
        PidScope::Pod => cri::NamespaceMode::Pod,
        PidScope::Container => cri::NamespaceMode::Container,
        PidScope::Node => cri::NamespaceMode::Node,
    };
    let options = cri::NamespaceOption {
        network: scope(config.network).into(),
        pid: pid.into(),
        ipc: scope(config.ipc).into(),
        target_id: String::new(),
        userns_options: config.users.as_ref().map(|maps| {
            let (uids, gids) = maps.to_wire();
            cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids, gids }
        }),
    };
    cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options: Some(options) }) }
}

/// What `crictl inspectp` shows beyond the status.
fn info(runtime: &Runtime, sandbox: &Sandbox) -> HashMap<String, String> {
    let paths = runtime.pod_paths(sandbox.id());
    let attachment = runtime.network.attachment(sandbox.id().as_str());
    let pinned = |kind: &str, path: std::path::PathBuf| {
        sys::netns::is_pinned(&path).then(|| json!({ "type": kind, "path": path }))
    };
    let namespaces = [
        pinned("network", paths.net()),
        pinned("ipc", paths.ipc()),
        pinned("uts", paths.uts()),
        pinned("pid", paths.pid()),
    ];
    let info = json!({
        // A pod is namespaces: scripts find them where a pause container's would be.
        "pid": 0,
        "processStatus": if sandbox.state().is_ready() { "running" } else { "deleted" },
        "netNamespaceClosed": namespaces[0].is_none(),
        "image": "",
        "runtimeType": runtime.handlers.kind(&sandbox.record.config.runtime_handler),
        "runtimeOptions": null,
        "runtimeSpec": {
            "hostname": sandbox.record.config.hostname,
            "linux": {
                "namespaces": namespaces.iter().flatten().collect::<Vec<_>>(),
                "cgroupsPath": sandbox.record.config.cgroup_parent.as_str(),
                "sysctl": sandbox.record.config.sysctls,
            },
        },
        "resources": sandbox.resources(),
        "netns": paths.net(),
        "runtimeHandler": sandbox.record.config.runtime_handler,
        "cniResult": attachment.map(|attachment| attachment.result),
        "config": sandbox.record.config,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
