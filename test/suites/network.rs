//! The pod network: addresses, reachability, host ports, and networks of CNI plugins.

use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::runtime::{Network, Runtime, Settings, bridge_conflist};
use e2e::spec::{script, sleeper};
use e2e::tests;
use e2e::world::World;

pub fn tests() -> Vec<Test> {
    tests![
        Any: two_pods_ping_each_other_and_the_node,
        Any: a_pod_has_an_address_a_route_and_loopback,
        Any: the_node_reaches_a_server_in_a_pod,
        Any: addresses_are_used_again,
        Any: many_pods_start_at_once_with_addresses_of_their_own,
        Plugins: plugins_of_a_conflist_make_the_network,
        Plugins: what_plugins_made_is_undone_after_a_restart,
        Wherry: a_plugin_that_is_missing_is_named_and_leaves_nothing,
        Wherry: the_built_in_network_executes_no_program,
    ]
}

async fn two_pods(node: &Node) -> ((Pod, String), (Pod, String)) {
    let mut pods = Vec::new();
    for name in ["one", "two"] {
        let pod = node.pod(name).await;
        let id = node.run(&pod, &sleeper(name)).await;
        pods.push((pod, id));
    }
    (pods.remove(0), pods.remove(0))
}

async fn ping_each_other(node: &Node) {
    let ((one, in_one), (two, in_two)) = two_pods(node).await;
    let (to_one, to_two) = (node.address(&one).await, node.address(&two).await);
    assert_ne!(to_one, to_two);
    node.sh(&in_one, &format!("ping -c 2 -W 5 {to_two}")).await;
    node.sh(&in_two, &format!("ping -c 2 -W 5 {to_one}")).await;
    let gateway = node.sh(&in_one, "ip route | awk '/default/{print $3}'").await;
    node.sh(&in_one, &format!("ping -c 2 -W 5 {gateway}")).await;
}

async fn two_pods_ping_each_other_and_the_node(world: &mut World) {
    ping_each_other(world.node().await).await;
}

async fn a_pod_has_an_address_a_route_and_loopback(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("address").await;
    let id = node.run(&pod, &sleeper("address")).await;
    let address = node.address(&pod).await;
    let listed = node.sh(&id, "ip -4 addr show eth0").await;
    assert!(listed.contains(&format!("inet {address}/")), "{listed}");
    let route = node.sh(&id, "ip route").await;
    assert!(route.contains("default via") && route.contains("dev eth0"), "{route}");
    node.sh(&id, "ping -c 1 -W 2 127.0.0.1").await;
    assert_eq!(node.sh(&id, "ls /sys/class/net | wc -l").await, "2");
}

async fn the_node_reaches_a_server_in_a_pod(world: &mut World) {
    use tokio::io::AsyncReadExt;
    let node = world.node().await;
    let pod = node.pod("server").await;
    let config = script("server", "echo up; while :; do echo hello | nc -l -p 8080; done");
    node.run(&pod, &config).await;
    node.prints(&pod, &config, "up").await;
    let address = node.address(&pod).await;
    let mut text = String::new();
    for _ in 0..100 {
        if let Ok(mut stream) = tokio::net::TcpStream::connect((address.as_str(), 8080)).await {
            stream.read_to_string(&mut text).await.unwrap();
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(text, "hello\n");
}

async fn addresses_are_used_again(world: &mut World) {
    let node = world.node().await;
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..8 {
        let pod = node.pod(&format!("round{round}")).await;
        seen.insert(node.address(&pod).await);
        node.cri.stop_pod(&pod.id).await.unwrap();
        node.cri.remove_pod(&pod.id).await.unwrap();
    }
    // An allocator may go round its range; what it must not do is count removed pods as users.
    assert!(!seen.contains("") && seen.len() <= 8, "{seen:?}");
}

async fn many_pods_start_at_once_with_addresses_of_their_own(world: &mut World) {
    let node = &*world.node().await;
    let names: Vec<String> = (0..12).map(|number| format!("many{number}")).collect();
    let pods = futures_util::future::join_all(names.iter().map(|name| node.pod(name))).await;
    let addresses = futures_util::future::join_all(pods.iter().map(|pod| node.address(pod))).await;
    let different: std::collections::BTreeSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), 12, "{addresses:?}");
}

/// A node whose network is made by Debian's plugins.
fn plugins() -> Settings {
    let network = Network::Conflist(bridge_conflist("cni7", "10.77.0.0/16"));
    Settings { network, ..Settings::default() }
}

async fn plugins_of_a_conflist_make_the_network(world: &mut World) {
    let node = world.node_with(plugins()).await;
    ping_each_other(node).await;
    let pod = node.pod("from-the-list").await;
    let address = node.address(&pod).await;
    assert!(address.starts_with("10.77."), "{address}");
}

async fn what_plugins_made_is_undone_after_a_restart(world: &mut World) {
    let node = world.node_with(plugins()).await;
    let pod = node.pod("undone").await;
    let before = node.address(&pod).await;
    node.crash().await;
    // Even when the configuration is another one by then, which containerd 1.6 cannot cope with.
    if node.runtime == Runtime::Wherry {
        let list = bridge_conflist("cni8", "10.78.0.0/16").replace("test-net", "other");
        std::fs::write(node.folders.cni.join("10-test.conflist"), list).unwrap();
    }
    node.up().await.unwrap();
    assert_eq!(node.address(&pod).await, before);
    node.cri.stop_pod(&pod.id).await.unwrap();
    node.cri.remove_pod(&pod.id).await.unwrap();
    let leases = std::path::Path::new("/var/lib/cni/networks/test-net").join(before);
    assert!(!leases.exists(), "{}", leases.display());
    world.leftovers().await;
    world.drop_node();
}

async fn a_plugin_that_is_missing_is_named_and_leaves_nothing(world: &mut World) {
    let list = r#"{ "cniVersion": "1.0.0", "name": "broken", "plugins": [
        { "type": "bridge", "bridge": "cni9", "ipam": { "type": "host-local",
          "ranges": [[{ "subnet": "10.79.0.0/16" }]] } }, { "type": "no-such-plugin" } ] }"#;
    let network = Network::Conflist(list.into());
    let node = world.node_with(Settings { network, ..Settings::default() }).await;
    let error = node.run_pod(node.pod_config("broken")).await.unwrap_err();
    assert!(error.message().contains("no-such-plugin"), "{error}");
    node.clear().await.unwrap();
    let leases = std::fs::read_dir("/var/lib/cni/networks/broken").into_iter().flatten();
    let leases: Vec<_> = leases
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("10.79."))
        .collect();
    assert!(leases.is_empty(), "{leases:?}");
}

async fn the_built_in_network_executes_no_program(world: &mut World) {
    let node = world.node().await;
    let text = std::fs::read_to_string(node.folders.config()).unwrap();
    let plugins = e2e::tools::cni_plugins().unwrap_or_else(|| "/opt/cni/bin".into());
    let without = text.replace(plugins.to_str().unwrap(), "/no/such/folder");
    std::fs::write(node.folders.config(), without).unwrap();
    node.terminate().await.unwrap();
    node.up().await.unwrap();
    ping_each_other(node).await;
    let status = node.cri.status().await.unwrap().status.unwrap();
    let network = status.conditions.iter().find(|one| one.r#type == "NetworkReady").unwrap();
    assert!(network.status, "{network:?}");
    std::fs::write(node.folders.config(), text).unwrap();
}
