//! Other limits for containers that live, and other resources for pods.

use std::fs;
use std::path::PathBuf;

use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::spec::{Container, script, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::{
    LinuxContainerResources, PodSandboxStatusRequest, UpdateContainerResourcesRequest,
    UpdatePodSandboxResourcesRequest,
};
use tonic::{Code, Status};

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: limits_of_a_running_container_are_changed,
        Any: limits_of_a_created_container_are_changed_before_it_runs,
        Any: an_update_changes_what_it_mentions_and_nothing_else,
        Wherry: a_memory_limit_below_what_is_in_use_is_an_error_and_no_kill,
        Wherry: running_processes_get_another_oom_score,
        Wherry: an_ended_or_unknown_container_is_not_updated,
        Wherry: an_update_outlives_the_daemon,
        Wherry: an_update_that_was_cut_short_is_finished,
        Wherry: resources_of_a_pod_are_kept,
    ]
}

async fn update(
    node: &Node,
    id: &str,
    change: impl FnOnce(&mut LinuxContainerResources),
) -> Result<(), Status> {
    let mut linux = LinuxContainerResources::default();
    change(&mut linux);
    let request = UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(linux),
        ..Default::default()
    };
    node.cri.runtime.clone().update_container_resources(request).await.map(drop)
}

/// What the status says.
async fn limits(node: &Node, id: &str) -> LinuxContainerResources {
    node.cri.container(id).await.unwrap().resources.unwrap().linux.unwrap()
}

/// What the container's cgroup says: the first of these files that there is.
fn in_force(pod: &Pod, id: &str, files: &[&str]) -> String {
    let parent = &pod.config.linux.as_ref().unwrap().cgroup_parent;
    let below = format!("{}/{id}", parent.trim_start_matches('/'));
    let root = PathBuf::from("/sys/fs/cgroup");
    let folders = fs::read_dir(&root).unwrap().flatten().map(|entry| entry.path());
    for folder in folders.chain([root]) {
        for file in files {
            if let Ok(text) = fs::read_to_string(folder.join(&below).join(file)) {
                return text.trim().to_owned();
            }
        }
    }
    panic!("no {files:?} of {below}");
}

const MEMORY: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];

async fn limits_of_a_running_container_are_changed(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("running").await;
    let config = sleeper("running").limits(|limits| {
        limits.memory_limit_in_bytes = 64 << 20;
        limits.cpu_shares = 512;
    });
    let id = node.run(&pod, &config).await;
    // Up, and down again.
    for megabytes in [128_i64, 32] {
        update(node, &id, |limits| limits.memory_limit_in_bytes = megabytes << 20).await.unwrap();
        assert_eq!(in_force(&pod, &id, &MEMORY), (megabytes << 20).to_string());
        assert_eq!(limits(node, &id).await.memory_limit_in_bytes, megabytes << 20);
    }
    update(node, &id, |limits| {
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
        limits.cpuset_cpus = "0".into();
    })
    .await
    .unwrap();
    let quota = in_force(&pod, &id, &["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota.starts_with("50000"), "{quota}");
    assert_eq!(in_force(&pod, &id, &["cpuset.cpus"]), "0");
    let said = limits(node, &id).await;
    assert_eq!((said.cpu_quota, said.cpu_period, said.cpu_shares), (50_000, 100_000, 512));
    assert_eq!(said.cpuset_cpus, "0");
}

async fn limits_of_a_created_container_are_changed_before_it_runs(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("created").await;
    let config = sleeper("created").limits(|limits| limits.memory_limit_in_bytes = 64 << 20);
    let id = node.create(&pod, &config).await.unwrap();
    update(node, &id, |limits| limits.memory_limit_in_bytes = 96 << 20).await.unwrap();
    node.cri.start(&id).await.unwrap();
    assert_eq!(in_force(&pod, &id, &MEMORY), (96 << 20).to_string());
    assert_eq!(limits(node, &id).await.memory_limit_in_bytes, 96 << 20);
}

async fn an_update_changes_what_it_mentions_and_nothing_else(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("mentions").await;
    let config = sleeper("mentions").limits(|limits| {
        limits.memory_limit_in_bytes = 64 << 20;
        limits.cpu_shares = 300;
        limits.cpu_quota = 20_000;
        limits.cpu_period = 50_000;
    });
    let id = node.run(&pod, &config).await;
    update(node, &id, |limits| limits.cpuset_cpus = "0".into()).await.unwrap();
    let said = limits(node, &id).await;
    assert_eq!((said.cpu_shares, said.cpu_quota, said.cpu_period), (300, 20_000, 50_000));
    assert_eq!((said.memory_limit_in_bytes, said.cpuset_cpus.as_str()), (64 << 20, "0"));
    assert_eq!(in_force(&pod, &id, &MEMORY), (64 << 20).to_string());
}

async fn a_memory_limit_below_what_is_in_use_is_an_error_and_no_kill(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("below").await;
    // The shell keeps the text in its memory.
    let text = "x=0123456789abcdef; i=0; while [ $i -lt 20 ]; do x=$x$x; i=$((i+1)); done
        echo full; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
    let config = script("below", text).limits(|limits| limits.memory_limit_in_bytes = 256 << 20);
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "full").await;
    let error = update(node, &id, |limits| {
        limits.memory_limit_in_bytes = 4 << 20;
        limits.cpu_shares = 777;
    })
    .await
    .unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("in use"), "{error}");
    // All is what it was, and the container runs.
    assert_eq!(in_force(&pod, &id, &MEMORY), (256 << 20).to_string());
    let said = limits(node, &id).await;
    assert_eq!((said.memory_limit_in_bytes, said.cpu_shares), (256 << 20, 0));
    assert_eq!(node.sh(&id, "echo alive").await, "alive");
}

async fn running_processes_get_another_oom_score(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("score").await;
    let config = script("score", "sleep 1000 & sleep 1001 & wait")
        .limits(|limits| limits.oom_score_adj = 100);
    let id = node.run(&pod, &config).await;
    let scores = "for p in 1 $(pidof sleep); do cat /proc/$p/oom_score_adj; done | sort -u";
    assert_eq!(node.sh(&id, scores).await, "100");
    update(node, &id, |limits| limits.oom_score_adj = 700).await.unwrap();
    assert_eq!(node.sh(&id, scores).await, "700");
    assert_eq!(limits(node, &id).await.oom_score_adj, 700);
    // One that says nothing of it leaves it.
    update(node, &id, |limits| limits.cpu_shares = 128).await.unwrap();
    assert_eq!(node.sh(&id, scores).await, "700");
    let error = update(node, &id, |limits| limits.oom_score_adj = 1001).await;
    assert_eq!(code(error), Code::InvalidArgument);
}

/// containerd says yes to an ended one, and does nothing.
async fn an_ended_or_unknown_container_is_not_updated(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("ended").await;
    let id = node.run(&pod, &script("ended", "true")).await;
    node.exit(&id).await;
    code(update(node, &id, |limits| limits.cpu_shares = 100).await);
    let unknown = update(node, &"0".repeat(64), |limits| limits.cpu_shares = 100).await;
    assert_eq!(code(unknown), Code::NotFound);
}

async fn an_update_outlives_the_daemon(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("outlives").await;
    let id = node.run(&pod, &sleeper("outlives")).await;
    update(node, &id, |limits| limits.memory_limit_in_bytes = 48 << 20).await.unwrap();
    let before = node.cri.container(&id).await.unwrap();
    node.crash().await;
    node.up().await.unwrap();
    assert_eq!(node.cri.container(&id).await.unwrap(), before);
    update(node, &id, |limits| limits.cpu_shares = 99).await.unwrap();
    let said = limits(node, &id).await;
    assert_eq!((said.memory_limit_in_bytes, said.cpu_shares), (48 << 20, 99));
    node.cri.stop(&id, 5).await.unwrap();
    node.crash().await;
    node.up().await.unwrap();
    assert_eq!(limits(node, &id).await, said);
}

async fn an_update_that_was_cut_short_is_finished(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("cut").await;
    let config = sleeper("cut").limits(|limits| limits.memory_limit_in_bytes = 64 << 20);
    let id = node.run(&pod, &config).await;
    update(node, &id, |limits| limits.cpu_shares = 200).await.unwrap();
    node.crash().await;
    // What a daemon leaves that died after it had written what it was about to do.
    let path = node.folders.root.join("containers").join(&id).join("limits.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut begun = record["in_force"].clone();
    for key in begun.as_object_mut().unwrap().values_mut() {
        if key.is_number() {
            *key = if key == 0 { 0.into() } else { serde_json::Value::Null };
        }
    }
    begun["oom_score_adj"] = 0.into();
    begun["memory_limit"] = (96 << 20).into();
    record["begun"] = begun;
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    node.up().await.unwrap();
    assert_eq!(in_force(&pod, &id, &MEMORY), (96 << 20).to_string());
    let said = limits(node, &id).await;
    assert_eq!((said.memory_limit_in_bytes, said.cpu_shares), (96 << 20, 200));
}

async fn resources_of_a_pod_are_kept(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("whole").await;
    let resources =
        |shares| Some(LinuxContainerResources { cpu_shares: shares, ..Default::default() });
    let request = |id: &str| UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.into(),
        overhead: resources(10),
        resources: resources(600),
    };
    let update = async |node: &Node, id: &str| {
        node.cri.runtime.clone().update_pod_sandbox_resources(request(id)).await.map(drop)
    };
    update(node, &pod.id).await.unwrap();
    assert_eq!(code(update(node, &"0".repeat(64)).await), Code::NotFound);
    node.crash().await;
    node.up().await.unwrap();
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let answer = node.cri.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    assert_eq!(info["resources"]["containers"]["cpu_shares"], 600);
    assert_eq!(info["resources"]["overhead"]["cpu_shares"], 10);
}
