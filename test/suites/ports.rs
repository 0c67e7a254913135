//! Ports of the node that lead to pods, by the built-in network and by plugins.

use std::time::Duration;

use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::runtime::{Network, Settings, bridge_conflist};
use e2e::spec::script;
use e2e::tests;
use e2e::world::World;
use proto::cri::{PodSandboxConfig, PortMapping, Protocol};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: a_port_of_the_node_leads_to_the_pod,
        Plugins: plugins_are_told_of_ports,
        Wherry: a_port_that_another_pod_has_is_refused,
        Wherry: ports_outlive_the_daemon_and_not_the_machine,
    ]
}

fn with_port(mut config: PodSandboxConfig, host_port: i32) -> PodSandboxConfig {
    config.port_mappings.push(PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: 80,
        host_port,
        host_ip: String::new(),
    });
    config
}

/// A pod whose server at port 80, which is the node's `host_port`, greets with the pod's name.
async fn serving(node: &Node, name: &str, host_port: i32) -> Pod {
    let pod = node.run_pod(with_port(node.pod_config(name), host_port)).await.unwrap();
    let config = script(name, &format!("while :; do echo {name} | nc -l -p 80; done"));
    node.run(&pod, &config).await;
    pod
}

/// What is answered at a port of the node, once the server is up.
async fn answer(host_port: u16) -> Option<String> {
    for _ in 0..200 {
        let mut text = String::new();
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", host_port)).await?;
            stream.read_to_string(&mut text).await
        };
        if matches!(timeout(Duration::from_secs(1), ask).await, Ok(Ok(_))) && !text.is_empty() {
            return Some(text.trim().to_owned());
        }
        sleep(Duration::from_millis(20)).await;
    }
    None
}

async fn refuses(host_port: u16) -> bool {
    let asked = TcpStream::connect(("127.0.0.1", host_port));
    !matches!(timeout(Duration::from_secs(1), asked).await, Ok(Ok(_)))
}

async fn publish(node: &Node) {
    let pod = serving(node, "published", 18080).await;
    assert_eq!(answer(18080).await.as_deref(), Some("published"));
    node.cri.stop_pod(&pod.id).await.unwrap();
    assert!(refuses(18080).await);
    serving(node, "again", 18080).await;
    assert_eq!(answer(18080).await.as_deref(), Some("again"));
}

async fn a_port_of_the_node_leads_to_the_pod(world: &mut World) {
    publish(world.node().await).await;
}

async fn plugins_are_told_of_ports(world: &mut World) {
    let list = bridge_conflist("cni1", "10.77.0.0/24");
    let settings = Settings { network: Network::Conflist(list), ..Default::default() };
    publish(world.node_with(settings).await).await;
}

async fn a_port_that_another_pod_has_is_refused(world: &mut World) {
    let node = world.node().await;
    let first = serving(node, "first", 18081).await;
    let second = with_port(node.pod_config("second"), 18081);
    let error = node.run_pod(second.clone()).await.unwrap_err();
    assert!(error.message().contains("host port 18081/tcp"), "{error}");
    assert_eq!(code::<()>(Err(error)), Code::FailedPrecondition);
    assert_eq!(node.cri.pods(None).await.unwrap().len(), 1);
    assert_eq!(answer(18081).await.as_deref(), Some("first"));
    node.cri.stop_pod(&first.id).await.unwrap();
    node.run_pod(second).await.unwrap();
}

async fn ports_outlive_the_daemon_and_not_the_machine(world: &mut World) {
    let node = world.node().await;
    serving(node, "outlives", 18082).await;
    node.crash().await;
    assert_eq!(answer(18082).await.as_deref(), Some("outlives"));
    node.up().await.unwrap();
    assert_eq!(answer(18082).await.as_deref(), Some("outlives"));
    let taken = node.run_pod(with_port(node.pod_config("late"), 18082)).await;
    assert_eq!(code(taken), Code::FailedPrecondition);
    node.power_off().await;
    node.up().await.unwrap();
    // What is given back of the pod is given back while requests are served.
    for attempt in 0.. {
        match node.run_pod(with_port(node.pod_config("next"), 18082)).await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 100, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}
