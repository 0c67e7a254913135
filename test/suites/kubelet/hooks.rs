//! Hooks, and how containers are asked to end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::kubelet::manifest::{container, pod, ready, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    together![
        a_post_start_hook_runs_in_the_container_before_the_pod_is_ready,
        a_post_start_hook_that_fails_kills_the_container,
        a_pre_stop_hook_runs_before_the_container_is_asked_to_end,
        a_container_that_ignores_the_signal_is_killed_after_the_grace_period,
        a_container_has_all_of_its_grace_period_to_end,
        a_container_is_asked_with_its_images_stop_signal,
    ]
}

/// A folder of the host that a pod has at `/out`.
fn shared(stage: &Stage, pod: &mut Value) -> PathBuf {
    let name = pod["metadata"]["name"].as_str().unwrap();
    let folder = stage.world.folder.join(format!("out-{name}"));
    std::fs::create_dir(&folder).unwrap();
    pod["spec"]["volumes"] = json!([{ "name": "out", "hostPath": { "path": folder } }]);
    for one in pod["spec"]["containers"].as_array_mut().unwrap() {
        one["volumeMounts"] = json!([{ "name": "out", "mountPath": "/out" }]);
    }
    folder
}

async fn a_post_start_hook_runs_in_the_container_before_the_pod_is_ready(stage: &Stage) {
    let mut main = server("main", "");
    main["lifecycle"] = json!({
        "postStart": { "exec": { "command": ["sh", "-c", "sleep 1; hostname >/out/hook"] } },
    });
    let mut pod = pod("hooked", &[main]);
    let folder = shared(stage, &mut pod);
    stage.kubelet.apply(&pod);
    stage.kubelet.until("hooked", "ready", ready).await;
    assert_eq!(std::fs::read_to_string(folder.join("hook")).unwrap(), "hooked-node\n");
}

async fn a_post_start_hook_that_fails_kills_the_container(stage: &Stage) {
    let mut main = server("main", "");
    main["lifecycle"] = json!({ "postStart": { "exec": { "command": ["false"] } } });
    stage.kubelet.apply(&pod("hook-fails", &[main]));
    let killed = |pod: &Value| container(pod, "main").to_string().contains("PostStartHookError");
    stage.kubelet.until("hook-fails", "killed", killed).await;
    stage.kubelet.withdraw("hook-fails");
}

async fn a_pre_stop_hook_runs_before_the_container_is_asked_to_end(stage: &Stage) {
    let script = "trap 'echo asked >>/out/order; exit 0' TERM; while :; do sleep 3600 & wait; done";
    let mut main = shell("main", script);
    main["lifecycle"] = json!({
        "preStop": { "exec": { "command": ["sh", "-c", "sleep 1; echo hook >>/out/order"] } },
    });
    let mut pod = pod("orderly", &[main]);
    let folder = shared(stage, &mut pod);
    stage.kubelet.apply(&pod);
    stage.kubelet.until("orderly", "ready", ready).await;
    stage.kubelet.withdraw("orderly");
    stage.kubelet.until_gone("orderly").await;
    assert_eq!(std::fs::read_to_string(folder.join("order")).unwrap(), "hook\nasked\n");
}

async fn a_container_that_ignores_the_signal_is_killed_after_the_grace_period(stage: &Stage) {
    let script = "trap 'echo no >>/out/asked' TERM; echo up; while :; do sleep 0.1; done";
    let mut pod = pod("stubborn", &[shell("main", script)]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(3);
    let folder = shared(stage, &mut pod);
    stage.kubelet.apply(&pod);
    stage.kubelet.until("stubborn", "ready", ready).await;
    let start = Instant::now();
    stage.kubelet.withdraw("stubborn");
    stage.kubelet.until_gone("stubborn").await;
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(std::fs::read_to_string(folder.join("asked")).unwrap(), "no\n");
}

async fn a_container_has_all_of_its_grace_period_to_end(stage: &Stage) {
    let script = "trap 'sleep 4; echo done >/out/end; exit 0' TERM; while :; do sleep 0.1; done";
    let mut pod = pod("graceful", &[shell("main", script)]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    let folder = shared(stage, &mut pod);
    stage.kubelet.apply(&pod);
    stage.kubelet.until("graceful", "ready", ready).await;
    let start = Instant::now();
    stage.kubelet.withdraw("graceful");
    stage.kubelet.until_gone("graceful").await;
    assert_eq!(std::fs::read_to_string(folder.join("end")).unwrap(), "done\n");
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

async fn a_container_is_asked_with_its_images_stop_signal(stage: &Stage) {
    let script = "trap 'echo USR1 >/out/asked; exit 0' USR1; while :; do sleep 0.1; done";
    let mut main = shell("main", script);
    main["image"] = json!(e2e::image::catalog::SET_UP);
    let mut pod = pod("own-signal", &[main]);
    let folder = shared(stage, &mut pod);
    stage.kubelet.apply(&pod);
    stage.kubelet.until("own-signal", "ready", ready).await;
    stage.kubelet.withdraw("own-signal");
    stage.kubelet.until_gone("own-signal").await;
    assert_eq!(std::fs::read_to_string(folder.join("asked")).unwrap(), "USR1\n");
}
