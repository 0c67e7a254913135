//! Security contexts.

use e2e::kubelet::manifest::{container, pod, ready, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    together![
        a_container_of_root_does_not_start_where_root_is_forbidden,
        a_locked_down_container_can_do_little,
        a_privileged_container_sees_the_hosts_devices,
        containers_of_a_pod_see_each_others_processes_when_told_to,
        a_pod_sets_its_own_kernel_settings,
    ]
}

async fn a_container_of_root_does_not_start_where_root_is_forbidden(stage: &Stage) {
    let mut forbidden = pod("no-root", &[shell("main", "id -u")]);
    forbidden["spec"]["securityContext"] = json!({ "runAsNonRoot": true });
    stage.kubelet.apply(&forbidden);
    let refused = |pod: &Value| {
        container(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    };
    stage.kubelet.until("no-root", "refused", refused).await;
    let mut numbered = shell("main", "id -u");
    numbered["image"] = json!(e2e::image::catalog::USER_NUMBERED);
    let mut allowed = pod("numbered", &[numbered]);
    allowed["spec"]["securityContext"] = json!({ "runAsNonRoot": true });
    assert_eq!(stage.printed(allowed).await, "1002\n");
}

async fn a_locked_down_container_can_do_little(stage: &Stage) {
    let script = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t '; \
         touch /file 2>&1; unshare -U true 2>&1 | grep -o 'not permitted'";
    let mut main = shell("main", script);
    main["securityContext"] = json!({
        "runAsUser": 1000, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let log = stage.printed(pod("locked", &[main])).await;
    let nothing = "CapEff:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n";
    let refused = "touch: /file: Read-only file system\nnot permitted\n";
    assert_eq!(log, format!("{nothing}{refused}"));
}

async fn a_privileged_container_sees_the_hosts_devices(stage: &Stage) {
    let mut main = shell("main", "test -e /dev/kmsg && mount -t tmpfs x /tmp && echo may");
    main["securityContext"] = json!({ "privileged": true });
    assert_eq!(stage.printed(pod("privileged", &[main])).await, "may\n");
}

async fn containers_of_a_pod_see_each_others_processes_when_told_to(stage: &Stage) {
    let script = "until ps | grep -q '[s]leep 4321'; do sleep 0.1; done; echo seen";
    let mut pod = pod("seeing", &[shell("main", script), shell("other", "sleep 4321")]);
    pod["spec"]["shareProcessNamespace"] = json!(true);
    pod["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&pod);
    let done = |pod: &Value| container(pod, "main")["state"]["terminated"]["exitCode"] == 0;
    stage.kubelet.until("seeing", "seen", done).await;
    stage.kubelet.withdraw("seeing");
}

async fn a_pod_sets_its_own_kernel_settings(stage: &Stage) {
    let mut set = pod("set", &[server("main", "cat /proc/sys/net/ipv4/ping_group_range")]);
    set["spec"]["securityContext"] =
        json!({ "sysctls": [{ "name": "net.ipv4.ping_group_range", "value": "5 50" }] });
    stage.kubelet.apply(&set);
    stage.kubelet.until("set", "ready", ready).await;
    let log = stage.kubelet.api.said("/containerLogs/default/set-node/main").await;
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["5", "50"]);
}
