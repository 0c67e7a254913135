//! What happens to a node: its kubelet and its runtime are restarted, its disk fills with images.

use std::time::Duration;

use e2e::alone;
use e2e::kubelet::manifest::{container, pod, ready, server};
use e2e::kubelet::suite::{Stage, Test};
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    alone![
        a_kubelet_that_is_restarted_restarts_no_pod,
        a_daemon_that_crashes_under_running_pods_restarts_no_pod,
    ]
}

fn marked(name: &str) -> Value {
    let mut main = server("main", "echo began >>/out/began; echo up");
    main["readinessProbe"] = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    main["livenessProbe"] = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    main["volumeMounts"] = json!([{ "name": "out", "mountPath": "/out" }]);
    let mut pod = pod(name, &[main]);
    pod["spec"]["volumes"] = json!([{ "name": "out", "emptyDir": {} }]);
    pod
}

/// The pod is as it was, and stays so for a while.
async fn unchanged(stage: &Stage, name: &str, before: &Value) {
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // A kubelet that has just started may not have read the manifests yet.
        let Some(now) = stage.kubelet.pod(name) else { continue };
        for key in ["containerID", "restartCount"] {
            let [old, new] = [before, &now].map(|pod| container(pod, "main")[key].clone());
            assert_eq!(old, new, "{key} of {name}\n{}", stage.kubelet.words(name));
        }
    }
    let now = stage.kubelet.until(name, "ready", ready).await;
    assert_eq!(before["status"]["podIP"], now["status"]["podIP"]);
}

async fn a_kubelet_that_is_restarted_restarts_no_pod(stage: &mut Stage) {
    stage.kubelet.apply(&marked("steady"));
    let before = stage.kubelet.until("steady", "ready", ready).await;
    stage.kubelet.down().await;
    stage.kubelet.up().await.unwrap();
    unchanged(stage, "steady", &before).await;
    stage.kubelet.withdraw("steady");
    stage.kubelet.until_gone("steady").await;
}

async fn a_daemon_that_crashes_under_running_pods_restarts_no_pod(stage: &mut Stage) {
    stage.kubelet.apply(&marked("steadfast"));
    let before = stage.kubelet.until("steadfast", "ready", ready).await;
    let node = stage.world.node().await;
    node.crash().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.up().await.unwrap();
    unchanged(stage, "steadfast", &before).await;
    stage.kubelet.withdraw("steadfast");
    stage.kubelet.until_gone("steadfast").await;
}
