//! What is changed in a running pod.

use e2e::kubelet::manifest::{container, pod, server};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};

use crate::kubectl;

pub fn tests() -> Vec<Test> {
    together![
        kubectl_debug_adds_a_container_that_sees_the_others_processes,
        a_pod_with_users_of_its_own_is_not_root_on_the_host,
    ]
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
