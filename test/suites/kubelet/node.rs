//! What happens to a node: its kubelet and its runtime are restarted, its disk fills with images.

use std::time::Duration;

use e2e::alone;
use e2e::image::catalog;
use e2e::kubelet::manifest::{container, pod, ready, server};
use e2e::kubelet::suite::{Stage, Test};
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    alone![
        a_kubelet_that_is_restarted_restarts_no_pod,
        a_daemon_that_crashes_under_running_pods_restarts_no_pod,
        images_that_nobody_uses_are_removed_when_the_disk_fills,
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

async fn images_that_nobody_uses_are_removed_when_the_disk_fills(stage: &mut Stage) {
    stage.kubelet.apply(&marked("user"));
    stage.kubelet.until("user", "ready", ready).await;
    stage.node().pull(catalog::MIXED).await.unwrap();
    stage.node().pull(catalog::LAYERS).await.unwrap();
    stage.kubelet.down().await;
    // The disk is fuller than that: what nobody uses goes first, and the kubelet evicts no static pods.
    let settings = stage.kubelet.settings.clone();
    let full = json!({ "nodefs.available": "99%", "imagefs.available": "99%" });
    stage.kubelet.settings.config.push(("evictionHard".into(), full));
    stage.kubelet.up().await.unwrap();
    let mut there = Vec::new();
    for _ in 0..300 {
        there = names(stage).await;
        if !there.iter().any(|name| name == catalog::MIXED || name == catalog::LAYERS) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(there.contains(&catalog::BUSYBOX.to_owned()), "it is in use: {there:?}");
    let words = stage.kubelet.words("viction");
    assert!(!there.contains(&catalog::MIXED.to_owned()), "{there:?}\n{words}");
    assert!(!there.contains(&catalog::LAYERS.to_owned()), "{there:?}\n{words}");
    stage.kubelet.down().await;
    stage.kubelet.settings = settings;
    stage.kubelet.up().await.unwrap();
    stage.kubelet.until("user", "ready", ready).await;
}

async fn names(stage: &Stage) -> Vec<String> {
    let images = stage.node().cri.images().await.unwrap();
    images.into_iter().flat_map(|image| image.repo_tags).collect()
}
