//! Objects of the cluster, as they arrive in pods and as pods are told to users.

use std::time::{Duration, Instant};

use e2e::kubelet::manifest::{pod, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::json;
use tokio::time::sleep;

use crate::kubectl;

pub fn tests() -> Vec<Test> {
    together![
        kubectl_get_nodes_shows_a_ready_node_and_its_runtime,
        kubectl_describe_tells_what_happened_to_a_pod,
        configuration_and_secrets_arrive_as_files_and_variables,
        a_changed_configuration_arrives_in_the_running_pod,
        kubectl_delete_gives_a_pod_its_grace_period,
        kubectl_logs_follows_a_pod_to_its_end,
    ]
}

async fn kubectl_get_nodes_shows_a_ready_node_and_its_runtime(stage: &Stage) {
    let kubectl = kubectl(stage);
    let target = ["wait", "--for=condition=Ready", "--timeout=90s", "node/node"];
    kubectl.run(&target).await;
    let wide = kubectl.run(&["get", "nodes", "-o", "wide"]).await;
    assert!(wide.contains(&format!("{}://", stage.world.runtime.name())), "{wide}");
    assert!(wide.contains(" Ready "), "{wide}");
}

async fn kubectl_describe_tells_what_happened_to_a_pod(stage: &Stage) {
    let kubectl = kubectl(stage);
    kubectl.apply(&pod("told", &[server("main", "")])).await;
    kubectl.ready("told").await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = kubectl.run(&["describe", "pod", "told"]).await;
        if ["Created", "Started", "Running"].iter().all(|word| text.contains(word)) {
            return;
        }
        assert!(Instant::now() < deadline, "{text}");
        sleep(Duration::from_millis(500)).await;
    }
}

async fn configuration_and_secrets_arrive_as_files_and_variables(stage: &Stage) {
    let kubectl = kubectl(stage);
    kubectl.run(&["create", "configmap", "colours", "--from-literal=sky=blue"]).await;
    kubectl.run(&["create", "secret", "generic", "hidden", "--from-literal=word=sesame"]).await;
    let mut main =
        server("main", "cat /colours/sky; echo; cat /hidden/word; echo; echo $SKY $WORD");
    main["env"] = json!([
        { "name": "SKY", "valueFrom": { "configMapKeyRef": { "name": "colours", "key": "sky" } } },
        { "name": "WORD", "valueFrom": { "secretKeyRef": { "name": "hidden", "key": "word" } } },
    ]);
    main["volumeMounts"] = json!([
        { "name": "colours", "mountPath": "/colours" },
        { "name": "hidden", "mountPath": "/hidden", "readOnly": true },
    ]);
    let mut pod = pod("configured", &[main]);
    pod["spec"]["volumes"] = json!([
        { "name": "colours", "configMap": { "name": "colours" } },
        { "name": "hidden", "secret": { "secretName": "hidden" } },
    ]);
    kubectl.apply(&pod).await;
    kubectl.ready("configured").await;
    assert_eq!(kubectl.run(&["logs", "configured"]).await, "blue\nsesame\nblue sesame\n");
}

async fn a_changed_configuration_arrives_in_the_running_pod(stage: &Stage) {
    let kubectl = kubectl(stage);
    kubectl.run(&["create", "configmap", "moving", "--from-literal=key=old"]).await;
    let script =
        "f=/moving/key; echo $(cat $f); until grep -q new $f; do sleep 0.5; done; echo $(cat $f)";
    let mut main = server("main", script);
    main["volumeMounts"] = json!([{ "name": "moving", "mountPath": "/moving" }]);
    let mut pod = pod("moving", &[main]);
    pod["spec"]["volumes"] = json!([{ "name": "moving", "configMap": { "name": "moving" } }]);
    kubectl.apply(&pod).await;
    kubectl.ready("moving").await;
    let patch = r#"{"data":{"key":"new"}}"#;
    kubectl.run(&["patch", "configmap", "moving", "-p", patch]).await;
    let deadline = Instant::now() + Duration::from_secs(90);
    while kubectl.run(&["logs", "moving"]).await != "old\nnew\n" {
        assert!(Instant::now() < deadline, "the change does not arrive");
        sleep(Duration::from_secs(1)).await;
    }
}

async fn kubectl_delete_gives_a_pod_its_grace_period(stage: &Stage) {
    let kubectl = kubectl(stage);
    let folder = stage.world.folder.join("deleted");
    std::fs::create_dir(&folder).unwrap();
    let script = "trap 'sleep 2; echo done >/out/end; exit 0' TERM; while :; do sleep 0.1; done";
    let mut main = shell("main", script);
    main["volumeMounts"] = json!([{ "name": "out", "mountPath": "/out" }]);
    let mut pod = pod("deleted", &[main]);
    pod["spec"]["volumes"] = json!([{ "name": "out", "hostPath": { "path": folder } }]);
    kubectl.apply(&pod).await;
    kubectl.ready("deleted").await;
    kubectl.run(&["delete", "pod", "deleted", "--grace-period=20"]).await;
    assert_eq!(std::fs::read_to_string(folder.join("end")).unwrap(), "done\n");
}

async fn kubectl_logs_follows_a_pod_to_its_end(stage: &Stage) {
    let kubectl = kubectl(stage);
    let mut pod =
        pod("followed", &[shell("main", "for i in 1 2 3 4; do echo step $i; sleep 1; done")]);
    pod["spec"]["restartPolicy"] = json!("Never");
    kubectl.apply(&pod).await;
    kubectl.until("followed", "there", |pod| pod["status"]["phase"] != "Pending").await;
    let log = kubectl.run(&["logs", "-f", "followed"]).await;
    assert_eq!(log, "step 1\nstep 2\nstep 3\nstep 4\n");
}
