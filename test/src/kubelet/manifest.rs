//! Manifests as a user writes them, short.

use serde_json::{Value, json};

use crate::image::catalog::BUSYBOX;

/// A pod of these containers, which ends as fast as they do.
pub fn pod(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
        "spec": { "containers": containers, "terminationGracePeriodSeconds": 5 },
    })
}

/// A container that runs a shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": BUSYBOX, "command": ["sh", "-c", script] })
}

/// A container that runs until it is stopped, at once when asked to, after this script.
pub fn server(name: &str, script: &str) -> Value {
    shell(name, &format!("trap 'exit 0' TERM; {script}\nwhile :; do sleep 3600 & wait; done"))
}

/// The status of a container, restartable init containers included.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

/// Whether a pod is ready.
pub fn ready(pod: &Value) -> bool {
    condition(pod, "Ready")
}

/// Whether a condition of a pod holds.
pub fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == kind && one["status"] == "True")
}

/// The phase of a pod.
pub fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// The id of a container as the daemon has it.
pub fn id(status: &Value) -> String {
    let id = status["containerID"].as_str().unwrap_or_default();
    id.split_once("://").map_or(id, |(_, id)| id).to_owned()
}
