//! Probes of all kinds. Those by gRPC reach a pod exactly as those by TCP do.

use e2e::kubelet::manifest::{container, pod, ready, server};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    together![
        a_container_whose_liveness_command_fails_is_restarted,
        a_container_whose_liveness_command_hangs_is_restarted,
        a_pod_is_ready_when_its_http_probe_says_so_and_not_before,
        a_pod_whose_readiness_goes_is_not_restarted,
        a_startup_probe_by_tcp_holds_the_others_back,
        a_container_whose_liveness_page_fails_is_restarted,
    ]
}

async fn a_container_whose_liveness_command_fails_is_restarted(stage: &Stage) {
    let mut main = server("main", "touch /tmp/well; (sleep 3; rm /tmp/well) &");
    main["livenessProbe"] = json!({
        "exec": { "command": ["cat", "/tmp/well"] }, "periodSeconds": 1, "failureThreshold": 1,
    });
    stage.kubelet.apply(&pod("unwell", &[main]));
    let restarted = |pod: &Value| container(pod, "main")["restartCount"].as_u64() >= Some(1);
    let seen = stage.kubelet.until("unwell", "restarted", restarted).await;
    let last = &container(&seen, "main")["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 0, "it was asked to end: {last}");
}

async fn a_container_whose_liveness_command_hangs_is_restarted(stage: &Stage) {
    let mut main = server("main", "");
    main["livenessProbe"] = json!({
        "exec": { "command": ["sleep", "1000"] },
        "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2,
    });
    stage.kubelet.apply(&pod("hanging", &[main]));
    let restarted = |pod: &Value| container(pod, "main")["restartCount"].as_u64() >= Some(1);
    stage.kubelet.until("hanging", "restarted", restarted).await;
    // What the probe left behind is gone.
    let script = |process: &e2e::proc::Process| process.command == "sleep 1000";
    let many = e2e::proc::processes().into_iter().filter(script).count();
    assert!(many <= 1, "{many} probes are still there");
    stage.kubelet.withdraw("hanging");
}

async fn a_pod_is_ready_when_its_http_probe_says_so_and_not_before(stage: &Stage) {
    let script = "mkdir /tmp/www; httpd -p 8080 -h /tmp/www; (sleep 4; echo ok >/tmp/www/ready) &";
    let mut main = server("main", script);
    main["readinessProbe"] =
        json!({ "httpGet": { "path": "/ready", "port": 8080 }, "periodSeconds": 1 });
    stage.kubelet.apply(&pod("page", &[main]));
    let up = |pod: &Value| container(pod, "main")["started"] == true;
    let seen = stage.kubelet.until("page", "started", up).await;
    assert!(!ready(&seen), "{seen}");
    let seen = stage.kubelet.until("page", "ready", ready).await;
    assert_eq!(container(&seen, "main")["restartCount"], 0);
}

async fn a_pod_whose_readiness_goes_is_not_restarted(stage: &Stage) {
    let mut main = server("main", "touch /tmp/ready; (sleep 5; rm /tmp/ready) &");
    main["readinessProbe"] = json!({
        "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1,
        "failureThreshold": 1,
    });
    stage.kubelet.apply(&pod("tired", &[main]));
    stage.kubelet.until("tired", "ready", ready).await;
    let seen = stage.kubelet.until("tired", "unready", |pod| !ready(pod)).await;
    assert_eq!(container(&seen, "main")["restartCount"], 0);
}

async fn a_startup_probe_by_tcp_holds_the_others_back(stage: &Stage) {
    // The liveness probe would fail from the start.
    let script = "(sleep 5; touch /tmp/alive; nc -ll -p 9000 -e true) &";
    let mut main = server("main", script);
    main["startupProbe"] =
        json!({ "tcpSocket": { "port": 9000 }, "periodSeconds": 1, "failureThreshold": 60 });
    main["livenessProbe"] = json!({
        "exec": { "command": ["test", "-e", "/tmp/alive"] }, "periodSeconds": 1,
        "failureThreshold": 1,
    });
    stage.kubelet.apply(&pod("slow", &[main]));
    let seen = stage.kubelet.until("slow", "ready", ready).await;
    assert_eq!(container(&seen, "main")["restartCount"], 0, "{seen}");
}

async fn a_container_whose_liveness_page_fails_is_restarted(stage: &Stage) {
    let script = "mkdir /tmp/www; echo ok >/tmp/www/well; httpd -p 8080 -h /tmp/www; \
         (sleep 3; rm /tmp/www/well) &";
    let mut main = server("main", script);
    main["livenessProbe"] = json!({
        "httpGet": { "path": "/well", "port": 8080 }, "periodSeconds": 1,
        "initialDelaySeconds": 1, "failureThreshold": 1,
    });
    stage.kubelet.apply(&pod("pageless", &[main]));
    let restarted = |pod: &Value| container(pod, "main")["restartCount"].as_u64() >= Some(1);
    stage.kubelet.until("pageless", "restarted", restarted).await;
}
