//! What is changed in a running pod.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::kubelet::manifest::{container, id, pod, server};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::kubectl;

pub fn tests() -> Vec<Test> {
    together![
        limits_are_changed_while_the_container_runs,
        kubectl_debug_adds_a_container_that_sees_the_others_processes,
        a_pod_with_users_of_its_own_is_not_root_on_the_host,
    ]
}

async fn limits_are_changed_while_the_container_runs(stage: &Stage) {
    let kubectl = kubectl(stage);
    let mut main = server("main", "");
    main["resources"] = json!({ "limits": { "memory": "64Mi", "cpu": "200m" } });
    kubectl.apply(&pod("resized", &[main])).await;
    let before = kubectl.ready("resized").await;
    let limits = json!({ "memory": "96Mi", "cpu": "300m" });
    let resources = json!({ "limits": limits, "requests": limits });
    let patch = json!({ "spec": { "containers": [{ "name": "main", "resources": resources }] } });
    let patch = patch.to_string();
    kubectl.run(&["patch", "pod", "resized", "--subresource", "resize", "-p", &patch]).await;
    let done = |pod: &Value| container(pod, "main")["resources"]["limits"] == limits;
    let after = kubectl.until("resized", "resized", done).await;
    for key in ["containerID", "restartCount"] {
        assert_eq!(container(&before, "main")[key], container(&after, "main")[key]);
    }
    let name = id(container(&after, "main"));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let memory = value(stage, "memory", &name, ["memory.limit_in_bytes", "memory.max"]);
        let quota = value(stage, "cpu", &name, ["cpu.cfs_quota_us", "cpu.max"]);
        if memory == (96 << 20).to_string() && quota.starts_with("30000") {
            return;
        }
        assert!(Instant::now() < deadline, "{memory} {quota}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// A value of a container's cgroup: its name in version 1, and in version 2.
fn value(stage: &Stage, controller: &str, name: &str, files: [&str; 2]) -> String {
    let v1 = Path::new("/sys/fs/cgroup").join(controller);
    let base = if v1.is_dir() { v1 } else { PathBuf::from("/sys/fs/cgroup") };
    let mut folders = vec![base.join(&stage.kubelet.folders().cgroup)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().contains(name) {
                let read = |file: &&str| std::fs::read_to_string(path.join(file)).ok();
                return files.iter().find_map(read).unwrap().trim().to_owned();
            }
            folders.extend(path.is_dir().then_some(path));
        }
    }
    panic!("no cgroup {name} of {controller}");
}

async fn kubectl_debug_adds_a_container_that_sees_the_others_processes(stage: &Stage) {
    let kubectl = kubectl(stage);
    kubectl.apply(&pod("debugged", &[server("main", "sleep 5432 &")])).await;
    kubectl.ready("debugged").await;
    let script = "ps | grep '[s]leep 5432' && echo seen";
    let image = format!("--image={}", e2e::image::catalog::BUSYBOX);
    kubectl
        .run(&[
            "debug",
            "debugged",
            "-c",
            "looker",
            &image,
            "--target=main",
            "--",
            "sh",
            "-c",
            script,
        ])
        .await;
    let ended = |pod: &Value| container(pod, "looker")["state"]["terminated"].is_object();
    kubectl.until("debugged", "debugged", ended).await;
    let log = kubectl.run(&["logs", "debugged", "-c", "looker"]).await;
    assert!(log.ends_with("seen\n"), "{log}");
}

async fn a_pod_with_users_of_its_own_is_not_root_on_the_host(stage: &Stage) {
    let kubectl = kubectl(stage);
    let script = "id -u; cat /proc/self/uid_map; echo x >/v/file && cat /v/file";
    let mut main = server("main", script);
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let mut pod = pod("own-users", &[main]);
    pod["spec"]["hostUsers"] = json!(false);
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    kubectl.apply(&pod).await;
    kubectl.ready("own-users").await;
    let log = kubectl.run(&["logs", "own-users"]).await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!((lines[0], lines[2]), ("0", "x"), "{log}");
    let map: Vec<u64> = lines[1].split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(map[0] == 0 && map[1] >= 65536 && map[2] == 65536, "{log}");
}
