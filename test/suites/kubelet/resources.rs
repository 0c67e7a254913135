//! Requests and limits.

use std::path::{Path, PathBuf};

use e2e::kubelet::manifest::{container, id, pod, ready, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    together![
        limits_become_those_of_the_containers_and_the_pods_cgroups,
        a_pods_class_decides_where_its_cgroup_is,
        a_container_that_uses_too_much_memory_is_told_to_be_out_of_memory,
        a_child_that_uses_too_much_memory_does_not_end_the_container,
    ]
}

/// Takes all the memory that there is.
const HUNGRY: &str = "x=0123456789; while :; do x=$x$x; done";

/// The cgroup of this name below the run's, in the hierarchy of `controller`.
fn cgroup(stage: &Stage, controller: &str, name: &str) -> PathBuf {
    let top = Path::new("/sys/fs/cgroup");
    let v1 = top.join(controller);
    let base = if v1.is_dir() { v1 } else { top.into() };
    let mut folders = vec![base.join(&stage.kubelet.folders().cgroup)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.path().is_dir() {
                continue;
            }
            if entry.file_name().to_string_lossy().contains(name) {
                return entry.path();
            }
            folders.push(entry.path());
        }
    }
    panic!("no cgroup {name} of {controller}");
}

/// The first of these files that is there: the name of version 1, and that of version 2.
fn value(cgroup: &Path, names: [&str; 2]) -> String {
    let read = |name: &&str| std::fs::read_to_string(cgroup.join(name)).ok();
    let text = names.iter().find_map(read).unwrap_or_else(|| panic!("{cgroup:?}: {names:?}"));
    text.trim().to_owned()
}

async fn limits_become_those_of_the_containers_and_the_pods_cgroups(stage: &Stage) {
    let mut main = server("main", "");
    main["resources"] = json!({
        "requests": { "memory": "32Mi", "cpu": "100m" },
        "limits": { "memory": "64Mi", "cpu": "500m" },
    });
    stage.kubelet.apply(&pod("limited", &[main]));
    let seen = stage.kubelet.until("limited", "ready", ready).await;
    let uid = seen["metadata"]["uid"].as_str().unwrap();
    for name in [format!("pod{uid}"), id(container(&seen, "main"))] {
        let memory = cgroup(stage, "memory", &name);
        assert_eq!(value(&memory, ["memory.limit_in_bytes", "memory.max"]), "67108864");
        let cpu = cgroup(stage, "cpu", &name);
        let quota = value(&cpu, ["cpu.cfs_quota_us", "cpu.max"]);
        assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    }
    let resources = &container(&seen, "main")["resources"];
    assert_eq!(resources["limits"], json!({ "memory": "64Mi", "cpu": "500m" }), "{seen}");
}

async fn a_pods_class_decides_where_its_cgroup_is(stage: &Stage) {
    let limits = json!({ "limits": { "memory": "16Mi", "cpu": "100m" } });
    let requests = json!({ "requests": { "memory": "16Mi" } });
    for (name, resources, class, place) in [
        ("guaranteed", limits, "Guaranteed", "kubepods"),
        ("burstable", requests, "Burstable", "burstable"),
        ("best-effort", json!({}), "BestEffort", "besteffort"),
    ] {
        let mut main = server("main", "");
        main["resources"] = resources;
        stage.kubelet.apply(&pod(name, &[main]));
        let seen = stage.kubelet.until(name, "ready", ready).await;
        assert_eq!(seen["status"]["qosClass"], class);
        let pod = cgroup(stage, "memory", seen["metadata"]["uid"].as_str().unwrap());
        // By systemd's name, or by the plain one.
        let parent = pod.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        assert!(parent.trim_end_matches(".slice").ends_with(place), "{pod:?}");
        let inside = cgroup(stage, "memory", &id(container(&seen, "main")));
        assert!(inside.starts_with(&pod), "{inside:?}");
    }
}

async fn a_container_that_uses_too_much_memory_is_told_to_be_out_of_memory(stage: &Stage) {
    let mut main = shell("main", &format!("sleep 0.5; {HUNGRY}"));
    main["resources"] = json!({ "limits": { "memory": "16Mi" } });
    let mut pod = pod("hungry", &[main]);
    pod["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&pod);
    let ended = |pod: &Value| container(pod, "main")["state"]["terminated"].is_object();
    let seen = stage.kubelet.until("hungry", "ended", ended).await;
    let ended = &container(&seen, "main")["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("OOMKilled"), &json!(137)));
}

async fn a_child_that_uses_too_much_memory_does_not_end_the_container(stage: &Stage) {
    // On cgroup v2 the kubelet asks for the whole container to end.
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        return;
    }
    let mut main = shell("main", &format!("sh -c '{HUNGRY}'; echo the child ended with $?"));
    main["resources"] = json!({ "limits": { "memory": "16Mi" } });
    let mut pod = pod("hungry-child", &[main]);
    pod["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&pod);
    let ended = |pod: &Value| container(pod, "main")["state"]["terminated"].is_object();
    let seen = stage.kubelet.until("hungry-child", "ended", ended).await;
    let ended = &container(&seen, "main")["state"]["terminated"];
    assert_eq!(ended["exitCode"], 0, "{seen}");
}
