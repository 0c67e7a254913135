//! What the kubelet tells about what pods use.

use std::time::{Duration, Instant};

use e2e::kubelet::manifest::{pod, ready, server};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};
use tokio::time::sleep;

pub fn tests() -> Vec<Test> {
    together![
        the_summary_tells_what_a_pod_and_its_containers_use,
        the_metrics_of_cadvisor_have_the_labels_of_pods_and_containers,
        the_metrics_of_resources_tell_what_autoscalers_ask_for,
    ]
}

/// A pod that uses a little of everything.
fn busy(name: &str) -> Value {
    let script = "dd if=/dev/zero of=/tmp/written bs=1M count=4 2>/dev/null; \
         dd if=/dev/zero of=/v/written bs=1M count=2 2>/dev/null; \
         x=$(head -c 3000000 /dev/zero | tr '\\0' x); ping -c 3 10.88.0.1 >/dev/null; \
         (i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done) &";
    let mut main = server("main", script);
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    main["resources"] = json!({ "limits": { "memory": "64Mi" } });
    let mut pod = pod(name, &[main]);
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    pod
}

async fn the_summary_tells_what_a_pod_and_its_containers_use(stage: &Stage) {
    stage.kubelet.apply(&busy("used"));
    stage.kubelet.until("used", "ready", ready).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let summary = stage.kubelet.api.text("/stats/summary").await;
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let used = pods.into_iter().find(|pod| pod["podRef"]["name"] == "used-node");
        let lacking = used.as_ref().map_or_else(|| vec!["the pod"], lacking);
        if lacking.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{lacking:?} in {used:?}");
        sleep(Duration::from_secs(1)).await;
    }
}

/// What a summary of the busy pod lacks.
fn lacking(pod: &Value) -> Vec<&'static str> {
    let main = &pod["containers"][0];
    let at_least = |value: &Value, least: u64| value.as_u64() >= Some(least);
    let volume = pod["volume"].as_array().into_iter().flatten().find(|one| one["name"] == "v");
    [
        ("the container's name", main["name"] == "main"),
        ("its processor time", at_least(&main["cpu"]["usageCoreNanoSeconds"], 1_000_000)),
        ("its processor rate", main["cpu"]["usageNanoCores"].is_u64()),
        ("its memory", at_least(&main["memory"]["workingSetBytes"], 100_000)),
        ("its free memory", at_least(&main["memory"]["availableBytes"], 1)),
        ("its files", at_least(&main["rootfs"]["usedBytes"], 4 << 20)),
        ("the pod's processor time", at_least(&pod["cpu"]["usageCoreNanoSeconds"], 1_000_000)),
        ("the pod's memory", at_least(&pod["memory"]["workingSetBytes"], 100_000)),
        ("the pod's network", at_least(&pod["network"]["txBytes"], 100)),
        ("the pod's processes", at_least(&pod["process_stats"]["process_count"], 1)),
        ("the volume", volume.is_some_and(|one| at_least(&one["usedBytes"], 2 << 20))),
    ]
    .into_iter()
    .filter_map(|(what, there)| (!there).then_some(what))
    .collect()
}

async fn the_metrics_of_cadvisor_have_the_labels_of_pods_and_containers(stage: &Stage) {
    stage.kubelet.apply(&busy("measured"));
    stage.kubelet.until("measured", "ready", ready).await;
    let of_container = ["container=\"main\"", "namespace=\"default\"", "pod=\"measured-node\""];
    let of_pod = &of_container[1..];
    let wanted: [(&str, &[&str]); 7] = [
        ("container_cpu_usage_seconds_total", &of_container),
        ("container_memory_working_set_bytes", &of_container),
        ("container_memory_usage_bytes", &of_container),
        ("container_start_time_seconds", &of_container),
        ("container_spec_memory_limit_bytes", &of_container),
        ("container_network_receive_bytes_total", of_pod),
        ("container_network_transmit_packets_total", of_pod),
    ];
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let metrics = stage.kubelet.api.text("/metrics/cadvisor").await;
        let there = |(name, labels): &(&str, &[&str])| {
            let mut lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
            lines.any(|line| labels.iter().all(|label| line.contains(label)))
        };
        let lacking: Vec<_> = wanted.iter().filter(|one| !there(one)).collect();
        if lacking.is_empty() {
            return;
        }
        let about = metrics.lines().filter(|line| line.contains("measured"));
        let about: Vec<_> = about.collect();
        assert!(Instant::now() < deadline, "{lacking:?} in {about:#?}");
        sleep(Duration::from_secs(1)).await;
    }
}

async fn the_metrics_of_resources_tell_what_autoscalers_ask_for(stage: &Stage) {
    stage.kubelet.apply(&busy("scaled"));
    stage.kubelet.until("scaled", "ready", ready).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let wanted = ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes"];
    loop {
        let metrics = stage.kubelet.api.text("/metrics/resource").await;
        let line = |name: &&&str| {
            let mut lines = metrics.lines().filter(|line| line.starts_with(**name));
            !lines.any(|line| line.contains("container=\"main\"") && line.contains("scaled-node"))
        };
        let lacking: Vec<_> = wanted.iter().filter(line).collect();
        if lacking.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{lacking:?}");
        sleep(Duration::from_secs(1)).await;
    }
}
