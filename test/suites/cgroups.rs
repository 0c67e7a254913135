//! Limits, as the kernel's files show them, on both versions of cgroups.

use e2e::cgroups;
use e2e::runner::Test;
use e2e::spec::{Container, sleeper};
use e2e::tests;
use e2e::world::World;

pub fn tests() -> Vec<Test> {
    tests![
        Any: limits_are_written_to_the_containers_cgroup,
        Any: the_cgroup_is_below_the_one_the_pod_asked_for,
        Any: the_containers_processes_are_in_its_cgroup,
    ]
}

async fn limits_are_written_to_the_containers_cgroup(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("limits").await;
    let config = sleeper("limits").limits(|limits| {
        limits.memory_limit_in_bytes = 64 << 20;
        limits.cpu_shares = 512;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
        limits.cpuset_cpus = "0".into();
    });
    let id = node.run(&pod, &config).await;
    // By cgroup v1's name and value, and v2's.
    for (old, old_value, new, new_value) in [
        ("memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
        ("cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"),
        ("cpu.cfs_period_us", "100000", "cpu.max", "50000 100000"),
        ("cpuset.cpus", "0", "cpuset.cpus", "0"),
    ] {
        match cgroups::file(&id, old) {
            Some(value) => assert_eq!(value, old_value, "{old}"),
            None => assert_eq!(cgroups::file(&id, new).as_deref(), Some(new_value), "{new}"),
        }
    }
    match cgroups::file(&id, "cpu.shares") {
        Some(value) => assert_eq!(value, "512"),
        // Both conversions of shares to weights are in use: the linear one and runc's newer one.
        None => assert!(["20", "59"].contains(&cgroups::file(&id, "cpu.weight").unwrap().as_str())),
    }
}

async fn the_cgroup_is_below_the_one_the_pod_asked_for(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("parent").await;
    let id = node.run(&pod, &sleeper("parent")).await;
    let parent = pod.config.linux.as_ref().unwrap().cgroup_parent.clone();
    let found = cgroups::folders(&id);
    assert!(!found.is_empty());
    for folder in found {
        assert!(folder.parent().unwrap().ends_with(&parent[1..]), "{}", folder.display());
    }
}

async fn the_containers_processes_are_in_its_cgroup(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("members").await;
    let id = node.run(&pod, &sleeper("members")).await;
    // The shell and, as soon as it has come so far, its sleep.
    let mut members = String::new();
    for _ in 0..100 {
        members = cgroups::file(&id, "cgroup.procs").unwrap();
        if members.lines().count() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(members.lines().count(), 2, "{members}");
    let answer = node.cri.exec(&id, &["cat", "/proc/self/cgroup"], 5).await.unwrap();
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let memory = text.lines().find(|line| line.contains(":memory:") || line.starts_with("0::/"));
    assert!(memory.is_some(), "{text}");
    // Neither the shim nor the daemon counts against the container.
    let daemon = node.pid().unwrap().to_string();
    assert!(!members.lines().any(|pid| pid == daemon));
}
