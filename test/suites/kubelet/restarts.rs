//! Containers that end although they should not.

use e2e::kubelet::manifest::{container, pod, ready, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    together![
        a_pod_that_crashes_is_restarted_with_back_off,
        the_log_of_the_container_before_can_be_read,
        a_container_that_comes_back_finds_the_pods_volumes_but_a_new_root,
        a_command_that_is_not_there_is_told_in_the_status,
    ]
}

async fn a_pod_that_crashes_is_restarted_with_back_off(stage: &Stage) {
    stage.kubelet.apply(&pod("crashing", &[shell("main", "sleep 0.2; exit 9")]));
    let waits = |pod: &Value| {
        let state = container(pod, "main");
        state["restartCount"] == 2 && state["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    let seen = stage.kubelet.until("crashing", "in its back-off", waits).await;
    let last = &container(&seen, "main")["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(9), &json!("Error")), "{seen}");
    let message = container(&seen, "main")["state"]["waiting"]["message"].to_string();
    assert!(message.contains("back-off 20s"), "{message}");
}

async fn the_log_of_the_container_before_can_be_read(stage: &Stage) {
    let mut main =
        server("main", "test -e /v/x && echo second && sleep 3600; touch /v/x; echo first; exit 1");
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let mut pod = pod("before", &[main]);
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    stage.kubelet.apply(&pod);
    let again = |pod: &Value| ready(pod) && container(pod, "main")["restartCount"] == 1;
    stage.kubelet.until("before", "up again", again).await;
    let path = "/containerLogs/default/before-node/main";
    assert_eq!(stage.kubelet.api.text(path).await, "second\n");
    assert_eq!(stage.kubelet.api.text(&format!("{path}?previous=true")).await, "first\n");
}

async fn a_container_that_comes_back_finds_the_pods_volumes_but_a_new_root(stage: &Stage) {
    let script = "cat /v/kept /tmp/lost; test -e /v/kept && sleep 3600; echo kept >/v/kept; \
         echo lost >/tmp/lost; exit 1";
    let mut main = server("main", script);
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let mut pod = pod("back", &[main]);
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    stage.kubelet.apply(&pod);
    let again = |pod: &Value| ready(pod) && container(pod, "main")["restartCount"] == 1;
    let seen = stage.kubelet.until("back", "up again", again).await;
    let log = stage.kubelet.api.text("/containerLogs/default/back-node/main").await;
    assert!(log.contains("kept\n") && !log.contains("lost\n"), "{log}");
    // The pod's namespaces and its address stay.
    assert!(seen["status"]["podIP"].is_string());
}

async fn a_command_that_is_not_there_is_told_in_the_status(stage: &Stage) {
    let mut main = shell("main", "");
    main["command"] = json!(["/no/such/program"]);
    let mut pod = pod("wrong", &[main]);
    pod["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&pod);
    let told = |pod: &Value| {
        let state = &container(pod, "main")["state"];
        let text = state.to_string();
        text.contains("/no/such/program") && !state["running"].is_object()
    };
    stage.kubelet.until("wrong", "told as wrong", told).await;
}
