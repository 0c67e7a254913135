//! Namespaces: what containers share with their pod, with each other and with the node.

use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::spec::{Container, PodConfig, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::security_profile::ProfileType;
use proto::cri::{Capability, NamespaceMode, NamespaceOption, SecurityProfile};

pub fn tests() -> Vec<Test> {
    tests![
        Any: containers_of_a_pod_share_network_ipc_and_host_name_only,
        Any: pods_share_nothing_with_each_other_or_the_node,
        Any: a_pod_can_use_the_nodes_network,
        Any: a_pod_can_use_the_nodes_processes,
        Any: a_pod_can_use_the_nodes_ipc,
        Any: containers_can_share_one_process_namespace,
        Any: a_containers_first_process_shows_nothing_of_the_host_to_who_may_trace_it,
        Any: sysctls_hold_in_the_pod_and_nowhere_else,
    ]
}

const KINDS: [&str; 5] = ["net", "ipc", "uts", "pid", "mnt"];

/// The namespaces of a container, in the order of [`KINDS`].
async fn of_container(node: &Node, id: &str) -> Vec<String> {
    let text = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done";
    node.sh(id, text).await.lines().map(str::to_owned).collect()
}

fn own() -> Vec<String> {
    let of = |kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    KINDS.map(|kind| of(kind).display().to_string()).into()
}

/// Which kinds two processes share.
fn shared(one: &[String], two: &[String]) -> Vec<&'static str> {
    let same = |index: &usize| one[*index] == two[*index];
    (0..KINDS.len()).filter(same).map(|index| KINDS[index]).collect()
}

/// A pod with these namespaces and the namespaces of a container in it.
async fn pod_with(node: &Node, change: impl FnOnce(&mut NamespaceOption)) -> (Pod, Vec<String>) {
    let pod = node.run_pod(node.pod_config("special").namespaces(change)).await.unwrap();
    let id = node.run(&pod, &sleeper("special").namespaces_of(&pod.config)).await;
    let namespaces = of_container(node, &id).await;
    (pod, namespaces)
}

async fn containers_of_a_pod_share_network_ipc_and_host_name_only(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("shared").await;
    let one = node.run(&pod, &sleeper("one")).await;
    let two = node.run(&pod, &sleeper("two")).await;
    let (one, two) = (of_container(node, &one).await, of_container(node, &two).await);
    assert_eq!(shared(&one, &two), ["net", "ipc", "uts"]);
}

async fn pods_share_nothing_with_each_other_or_the_node(world: &mut World) {
    let node = world.node().await;
    let (pod, other) = (node.pod("one").await, node.pod("two").await);
    let one = node.run(&pod, &sleeper("one")).await;
    let two = node.run(&other, &sleeper("two")).await;
    let (one, two) = (of_container(node, &one).await, of_container(node, &two).await);
    assert_eq!(shared(&one, &two), Vec::<&str>::new());
    assert_eq!(shared(&one, &own()), Vec::<&str>::new());
}

async fn a_pod_can_use_the_nodes_network(world: &mut World) {
    let node = world.node().await;
    let (pod, namespaces) = pod_with(node, |options| {
        options.network = NamespaceMode::Node.into();
    })
    .await;
    let with_node = shared(&namespaces, &own());
    assert!(with_node.contains(&"net") && !with_node.contains(&"pid"), "{with_node:?}");
    let status = node.cri.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.network.unwrap_or_default().ip, "");
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.network(), NamespaceMode::Node);
}

async fn a_pod_can_use_the_nodes_processes(world: &mut World) {
    let node = world.node().await;
    let (_, namespaces) = pod_with(node, |options| {
        options.pid = NamespaceMode::Node.into();
    })
    .await;
    assert_eq!(shared(&namespaces, &own()), ["pid"]);
}

async fn a_pod_can_use_the_nodes_ipc(world: &mut World) {
    let node = world.node().await;
    let (_, namespaces) = pod_with(node, |options| {
        options.ipc = NamespaceMode::Node.into();
    })
    .await;
    assert_eq!(shared(&namespaces, &own()), ["ipc"]);
}

async fn containers_can_share_one_process_namespace(world: &mut World) {
    let node = world.node().await;
    let config = node.pod_config("one-tree").namespaces(|options| {
        options.pid = NamespaceMode::Pod.into();
    });
    let pod = node.run_pod(config).await.unwrap();
    let one = node.run(&pod, &sleeper("one").namespaces_of(&pod.config)).await;
    let two = node.run(&pod, &sleeper("two").namespaces_of(&pod.config)).await;
    let namespaces = (of_container(node, &one).await, of_container(node, &two).await);
    assert_eq!(shared(&namespaces.0, &namespaces.1), ["net", "ipc", "uts", "pid"]);
    // The end of one container is not the end of the namespace.
    node.cri.stop(&one, 5).await.unwrap();
    assert_eq!(node.sh(&two, "echo still here").await, "still here");
}

async fn a_containers_first_process_shows_nothing_of_the_host_to_who_may_trace_it(
    world: &mut World,
) {
    let node = world.node().await;
    let config = node.pod_config("traced").namespaces(|options| {
        options.pid = NamespaceMode::Pod.into();
    });
    let pod = node.run_pod(config).await.unwrap();
    let config = sleeper("traced").namespaces_of(&pod.config).security(|security| {
        let add_capabilities = vec!["SYS_PTRACE".to_owned()];
        security.capabilities = Some(Capability { add_capabilities, ..Default::default() });
        // The runtime's AppArmor profile lets it trace nobody outside the profile.
        security.apparmor = Some(SecurityProfile {
            profile_type: ProfileType::Unconfined.into(),
            localhost_ref: String::new(),
        });
    });
    let id = node.run(&pod, &config).await;
    // With this right the first process is an open book: its pages must be empty.
    let look = "ls -A /proc/1/root/ | wc -l; grep CapEff /proc/1/status | tr -d '\t'; ls /proc/1/fd | wc -l; \
        for ns in net ipc uts; do test $(readlink /proc/1/ns/$ns) = $(readlink /proc/self/ns/$ns) && echo same; done; \
        touch /proc/1/root/x 2>/dev/null || echo read-only";
    let said = node.sh(&id, look).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["0", "CapEff:0000000000000000"], "{said}");
    assert_eq!(lines[3..], ["same", "same", "same", "read-only"], "{said}");
}

async fn sysctls_hold_in_the_pod_and_nowhere_else(world: &mut World) {
    let node = world.node().await;
    let config = node
        .pod_config("sysctls")
        .sysctl("net.ipv4.ip_local_port_range", "12345 23456")
        .sysctl("kernel.shm_rmid_forced", "1");
    let pod = node.run_pod(config).await.unwrap();
    let id = node.run(&pod, &sleeper("sysctls")).await;
    let text = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(node.sh(&id, text).await, "12345\t23456\n1");
    let own = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    assert_ne!(own, "12345\t23456\n");
}
