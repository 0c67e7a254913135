//! Pods come and go.

use e2e::kubelet::manifest::{container, phase, pod, ready, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::json;

pub fn tests() -> Vec<Test> {
    together![
        a_pod_comes_up_with_an_address_and_its_log_is_served,
        a_pod_that_is_done_has_succeeded,
        a_pod_that_fails_for_good_has_failed_with_its_exit_code_and_message,
        a_pod_whose_manifest_is_taken_away_goes,
        a_pod_whose_manifest_changes_is_replaced,
        init_containers_run_one_after_another_before_the_others,
        an_init_container_that_fails_is_tried_again,
        a_sidecar_is_there_before_the_main_container_and_after_it,
        a_pod_finds_its_name_its_hosts_and_its_name_servers,
        a_pod_is_told_about_itself_in_its_environment,
        a_pod_on_the_hosts_network_serves_on_the_nodes_address,
        pods_reach_each_other_by_address,
        a_host_port_leads_to_the_pod,
        an_image_that_nobody_has_is_tried_again_with_back_off,
    ]
}

async fn a_pod_comes_up_with_an_address_and_its_log_is_served(stage: &Stage) {
    let kubelet = &stage.kubelet;
    kubelet.apply(&pod("plain", &[server("main", "echo hello from the pod")]));
    let seen = kubelet.until("plain", "ready", ready).await;
    assert_eq!(phase(&seen), "Running");
    let address: std::net::IpAddr = seen["status"]["podIP"].as_str().unwrap().parse().unwrap();
    assert!(!address.is_loopback());
    let status = container(&seen, "main");
    assert!(status["containerID"].as_str().unwrap().contains("://"), "{status}");
    assert!(status["imageID"].as_str().unwrap().contains("sha256:"), "{status}");
    assert_eq!((&status["restartCount"], &status["started"]), (&json!(0), &json!(true)));
    let log = kubelet.api.said("/containerLogs/default/plain-node/main").await;
    assert_eq!(log, "hello from the pod\n");
}

async fn a_pod_that_is_done_has_succeeded(stage: &Stage) {
    let mut done = pod("done", &[shell("main", "echo one"), shell("other", "echo two")]);
    done["spec"]["restartPolicy"] = json!("OnFailure");
    stage.kubelet.apply(&done);
    let seen = stage.kubelet.until("done", "done", |pod| phase(pod) == "Succeeded").await;
    for name in ["main", "other"] {
        let ended = &container(&seen, name)["state"]["terminated"];
        assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(0), &json!("Completed")));
    }
    let log = stage.kubelet.api.said("/containerLogs/default/done-node/other").await;
    assert_eq!(log, "two\n");
}

async fn a_pod_that_fails_for_good_has_failed_with_its_exit_code_and_message(stage: &Stage) {
    let script = "echo the reason is this >/dev/termination-log; exit 3";
    let mut last_words = shell("words", "echo and these were the last words; exit 4");
    last_words["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let mut failing = pod("failing", &[shell("main", script), last_words]);
    failing["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&failing);
    let seen = stage.kubelet.until("failing", "failed", |pod| phase(pod) == "Failed").await;
    for (name, code, message) in
        [("main", 3, "the reason is this\n"), ("words", 4, "and these were the last words\n")]
    {
        let ended = &container(&seen, name)["state"]["terminated"];
        assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(code), &json!("Error")));
        assert_eq!(ended["message"], message, "{ended}");
    }
}

async fn a_pod_whose_manifest_is_taken_away_goes(stage: &Stage) {
    let kubelet = &stage.kubelet;
    kubelet.apply(&pod("leaving", &[server("main", "echo here")]));
    let seen = kubelet.until("leaving", "ready", ready).await;
    let uid = seen["metadata"]["uid"].as_str().unwrap().to_owned();
    kubelet.withdraw("leaving");
    kubelet.until_gone("leaving").await;
    let folders = [kubelet.folders().root().join("pods").join(&uid), kubelet.logs(&seen)];
    for _ in 0..300 {
        let pods = stage.node().cri.pods(None).await.unwrap();
        let listed = pods.iter().any(|pod| pod.metadata.as_ref().unwrap().uid == uid);
        if !listed && folders.iter().all(|folder| !folder.exists()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let left: Vec<_> = folders.iter().filter(|folder| folder.exists()).collect();
    panic!("still there: {left:?}\n{}", kubelet.words(&uid));
}

async fn a_pod_whose_manifest_changes_is_replaced(stage: &Stage) {
    let kubelet = &stage.kubelet;
    kubelet.apply(&pod("changing", &[server("main", "echo first")]));
    let first = kubelet.until("changing", "ready", ready).await;
    kubelet.apply(&pod("changing", &[server("main", "echo second")]));
    let id = &first["metadata"]["uid"];
    let other = |pod: &serde_json::Value| ready(pod) && pod["metadata"]["uid"] != *id;
    kubelet.until("changing", "replaced", other).await;
    let log = kubelet.api.said("/containerLogs/default/changing-node/main").await;
    assert_eq!(log, "second\n");
}

async fn init_containers_run_one_after_another_before_the_others(stage: &Stage) {
    let mount = json!([{ "name": "shared", "mountPath": "/shared" }]);
    let step = |name: &str| {
        let mut step = shell(name, &format!("sleep 0.3; echo {name} >>/shared/steps"));
        step["volumeMounts"] = mount.clone();
        step
    };
    let mut main = server("main", "cat /shared/steps");
    main["volumeMounts"] = mount.clone();
    let mut pod = pod("init", &[main]);
    pod["spec"]["initContainers"] = json!([step("first"), step("second"), step("third")]);
    pod["spec"]["volumes"] = json!([{ "name": "shared", "emptyDir": {} }]);
    stage.kubelet.apply(&pod);
    let seen = stage.kubelet.until("init", "ready", ready).await;
    for name in ["first", "second", "third"] {
        assert_eq!(container(&seen, name)["state"]["terminated"]["exitCode"], 0, "{seen}");
    }
    let log = stage.kubelet.api.said("/containerLogs/default/init-node/main").await;
    assert_eq!(log, "first\nsecond\nthird\n");
}

async fn an_init_container_that_fails_is_tried_again(stage: &Stage) {
    let mut step = shell("step", "test -e /shared/tried || { touch /shared/tried; exit 1; }");
    step["volumeMounts"] = json!([{ "name": "shared", "mountPath": "/shared" }]);
    let mut pod = pod("again", &[server("main", "echo up")]);
    pod["spec"]["initContainers"] = json!([step]);
    pod["spec"]["volumes"] = json!([{ "name": "shared", "emptyDir": {} }]);
    stage.kubelet.apply(&pod);
    let seen = stage.kubelet.until("again", "ready", ready).await;
    assert_eq!(container(&seen, "step")["restartCount"], 1, "{seen}");
}

async fn a_sidecar_is_there_before_the_main_container_and_after_it(stage: &Stage) {
    let kubelet = &stage.kubelet;
    let note = |name: &str, script: &str| {
        let mut one = shell(name, script);
        one["volumeMounts"] = json!([{ "name": "shared", "mountPath": "/shared" }]);
        one
    };
    let script = "echo sidecar up >>/shared/order; trap 'echo sidecar down >>/shared/order; exit 0' \
         TERM; while :; do sleep 3600 & wait; done";
    let mut sidecar = note("sidecar", script);
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({ "exec": { "command": ["test", "-e", "/shared/order"] }, "periodSeconds": 1 });
    let script = "echo main up >>/shared/order; trap 'echo main down >>/shared/order; exit 0' TERM; \
         while :; do sleep 3600 & wait; done";
    let folder = stage.world.folder.join("sidecar");
    std::fs::create_dir(&folder).unwrap();
    let mut pod = pod("sidecar", &[note("main", script)]);
    pod["spec"]["initContainers"] = json!([sidecar]);
    pod["spec"]["volumes"] = json!([{ "name": "shared", "hostPath": { "path": folder } }]);
    kubelet.apply(&pod);
    let seen = kubelet.until("sidecar", "ready", ready).await;
    assert!(container(&seen, "sidecar")["state"]["running"].is_object(), "{seen}");
    kubelet.withdraw("sidecar");
    kubelet.until_gone("sidecar").await;
    let order = std::fs::read_to_string(folder.join("order")).unwrap();
    assert_eq!(order, "sidecar up\nmain up\nmain down\nsidecar down\n");
}

async fn a_pod_finds_its_name_its_hosts_and_its_name_servers(stage: &Stage) {
    let script = "hostname; cat /etc/hostname; cat /etc/hosts; cat /etc/resolv.conf";
    let mut named = pod("named", &[server("main", script)]);
    named["spec"]["hostname"] = json!("known-as");
    named["spec"]["hostAliases"] = json!([{ "ip": "10.1.2.3", "hostnames": ["a.friend"] }]);
    named["spec"]["dnsPolicy"] = json!("None");
    named["spec"]["dnsConfig"] = json!({
        "nameservers": ["10.96.0.99"], "searches": ["edge.test"],
        "options": [{ "name": "ndots", "value": "3" }],
    });
    stage.kubelet.apply(&named);
    stage.kubelet.until("named", "ready", ready).await;
    let log = stage.kubelet.api.said("/containerLogs/default/named-node/main").await;
    assert!(log.starts_with("known-as\nknown-as\n"), "{log}");
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split_whitespace().collect()).collect();
    for line in [
        &["10.1.2.3", "a.friend"],
        &["nameserver", "10.96.0.99"],
        &["search", "edge.test"],
        &["options", "ndots:3"],
    ] {
        assert!(lines.contains(&line.to_vec()), "no {line:?} in {log}");
    }
}

async fn a_pod_is_told_about_itself_in_its_environment(stage: &Stage) {
    let mut main = server("main", "echo $NAME $LABEL $LIMIT $ADDRESS $EXPANDED");
    main["resources"] = json!({ "limits": { "memory": "64Mi", "cpu": "500m" } });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    main["env"] = json!([
        field("NAME", "metadata.name"),
        field("LABEL", "metadata.labels['app']"),
        field("ADDRESS", "status.podIP"),
        { "name": "LIMIT", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory" } } },
        { "name": "EXPANDED", "value": "<$(LABEL)>" },
    ]);
    stage.kubelet.apply(&pod("told", &[main]));
    let seen = stage.kubelet.until("told", "ready", ready).await;
    let log = stage.kubelet.api.said("/containerLogs/default/told-node/main").await;
    let address = seen["status"]["podIP"].as_str().unwrap();
    assert_eq!(log, format!("told-node told 67108864 {address} <told>\n"));
}

async fn a_pod_on_the_hosts_network_serves_on_the_nodes_address(stage: &Stage) {
    let script =
        "mkdir /tmp/www; echo from the host >/tmp/www/index.html; httpd -p 8123 -h /tmp/www";
    let mut on_host = pod("on-host", &[server("main", script)]);
    on_host["spec"]["hostNetwork"] = json!(true);
    stage.kubelet.apply(&on_host);
    stage.kubelet.until("on-host", "ready", ready).await;
    let address = format!("{}:8123", e2e::kubelet::NODE_ADDRESS);
    assert_eq!(fetch(&address).await, "from the host\n");
}

async fn pods_reach_each_other_by_address(stage: &Stage) {
    let script = "mkdir /tmp/www; echo from a pod >/tmp/www/index.html; httpd -p 80 -h /tmp/www";
    stage.kubelet.apply(&pod("serving", &[server("main", script)]));
    let seen = stage.kubelet.until("serving", "ready", ready).await;
    let address = seen["status"]["podIP"].as_str().unwrap();
    let script = format!("until wget -q -O - http://{address}/; do sleep 0.2; done");
    let mut client = pod("client", &[shell("main", &script)]);
    client["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&client);
    stage.kubelet.until("client", "done", |pod| phase(pod) == "Succeeded").await;
    let log = stage.kubelet.api.said("/containerLogs/default/client-node/main").await;
    assert_eq!(log, "from a pod\n");
}

async fn a_host_port_leads_to_the_pod(stage: &Stage) {
    let script = "mkdir /tmp/www; echo published >/tmp/www/index.html; httpd -p 80 -h /tmp/www";
    let mut main = server("main", script);
    main["ports"] = json!([{ "containerPort": 80, "hostPort": 8124 }]);
    stage.kubelet.apply(&pod("published", &[main]));
    stage.kubelet.until("published", "ready", ready).await;
    assert_eq!(fetch(&format!("{}:8124", e2e::kubelet::NODE_ADDRESS)).await, "published\n");
}

async fn an_image_that_nobody_has_is_tried_again_with_back_off(stage: &Stage) {
    let mut main = shell("main", "true");
    main["image"] = json!("plain.test/nobody-has-this:1");
    stage.kubelet.apply(&pod("imageless", &[main]));
    let reason = |pod: &serde_json::Value, reason: &str| {
        container(pod, "main")["state"]["waiting"]["reason"] == reason
    };
    stage.kubelet.until("imageless", "refused", |pod| reason(pod, "ErrImagePull")).await;
    stage.kubelet.until("imageless", "waiting", |pod| reason(pod, "ImagePullBackOff")).await;
}

/// The page at the root of an HTTP server, once it answers.
async fn fetch(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let once = async || {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    for _ in 0..50 {
        if let Ok(answer) = tokio::time::timeout(std::time::Duration::from_secs(2), once()).await
            && let Ok(answer) = answer
            && let Some((_, body)) = answer.split_once("\r\n\r\n")
        {
            return body.into();
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("nothing answers at {address}");
}
