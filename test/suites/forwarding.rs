//! Port-forward as the kubelet hands it on: with crictl, and with a client that misbehaves.

use std::process::Stdio;
use std::time::Duration;

use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::spec::{PodConfig, script};
use e2e::stream::{Frame, Spdy};
use e2e::tests;
use e2e::world::World;
use proto::cri::{ContainerConfig, NamespaceMode};
use tokio::io::AsyncWriteExt;

use crate::code;
use crate::streaming::{eventually, text, transports};

pub(crate) const FORWARD: &str = "portforward.k8s.io";

pub fn tests() -> Vec<Test> {
    tests![
        Crictl: crictl_forwards_ports,
        Any: connections_reach_the_pods_own_loopback,
        Any: a_refused_connection_is_told_and_others_go_on,
        Wherry: connections_half_close,
        Wherry: a_forward_has_no_more_than_256_connections,
        Wherry: a_pod_on_the_hosts_network_is_forwarded_to_the_host,
        Any: a_stopped_pod_forwards_nothing,
    ]
}

/// A container that serves a page on a port of its pod's loopback only.
fn server(port: u16) -> ContainerConfig {
    let serve = "echo from the pod > /tmp/index.html; exec httpd -f -h /tmp -p 127.0.0.1:";
    script("server", &format!("{serve}{port}"))
}

/// What is sent to such a server; it ends the connection after its answer.
const GET: &[u8] = b"GET /index.html HTTP/1.0\r\n\r\n";
const PAGE: &str = "from the pod\n";

async fn crictl_forwards_ports(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("forwarded").await;
    let id = node.run(&pod, &server(8080)).await;
    listens(node, &id, 8080).await;
    for (number, transport) in transports(node).iter().enumerate() {
        let local = 18080 + number;
        let endpoint = format!("unix://{}", node.folders.socket().display());
        let mut child = tokio::process::Command::new(e2e::crictl::program().unwrap())
            .args(["--config", "/dev/null", "--runtime-endpoint", &endpoint])
            .args(["port-forward", "--transport", transport, &pod.id, &format!("{local}:8080")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        for _ in 0..3 {
            eventually("the forwarded port answers", async || {
                let Ok(mut stream) =
                    tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(local).unwrap()))
                        .await
                else {
                    return false;
                };
                let mut all = Vec::new();
                stream.write_all(GET).await.ok();
                let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all);
                let read = tokio::time::timeout(Duration::from_secs(5), read).await;
                read.is_ok_and(|read| read.is_ok()) && text(&all).ends_with(PAGE)
            })
            .await;
        }
        child.kill().await.unwrap();
    }
}

/// Waits until somebody listens on a port inside.
pub(crate) async fn listens(node: &Node, id: &str, port: u16) {
    let wanted = format!(":{port:04X} ");
    eventually("the server listens", async || {
        node.sh(id, "cat /proc/net/tcp /proc/net/tcp6 2>&1 || true").await.contains(&wanted)
    })
    .await;
}

/// Opens a connection through a port-forward: its error and its data stream.
pub(crate) async fn dial(client: &mut Spdy, port: u16, request: u32) -> (u32, u32) {
    let (port, request) = (port.to_string(), request.to_string());
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", &*request)];
    let error = client.open(&headers("error")).await.unwrap();
    client.reply(error).await;
    client.data(error, b"", true).await.unwrap();
    let data = client.open(&headers("data")).await.unwrap();
    client.reply(data).await;
    (error, data)
}

/// Reads until a stream's end: what came on it.
pub(crate) async fn to_end(client: &mut Spdy, wanted: u32) -> String {
    let mut all = Vec::new();
    loop {
        match client.frame().await.unwrap() {
            Frame::Data { stream, fin, bytes } if stream == wanted => {
                all.extend(bytes);
                if fin {
                    return text(&all);
                }
            }
            Frame::Control { kind: 3, payload } if payload[..4] == wanted.to_be_bytes() => {
                return text(&all);
            }
            _ => {}
        }
    }
}

async fn forwarded(node: &Node, config: &ContainerConfig) -> (Pod, String, Spdy) {
    let pod = node.pod("forward").await;
    let id = node.run(&pod, config).await;
    let client = Spdy::connect(&node.cri.forward_url(&pod.id).await.unwrap(), FORWARD).await;
    (pod, id, client)
}

async fn connections_reach_the_pods_own_loopback(world: &mut World) {
    let node = world.node().await;
    let (_, id, mut client) = forwarded(node, &server(8080)).await;
    listens(node, &id, 8080).await;
    for request in 0..5 {
        let (_, data) = dial(&mut client, 8080, request).await;
        client.data(data, GET, false).await.unwrap();
        assert!(to_end(&mut client, data).await.ends_with(PAGE));
        client.data(data, b"", true).await.unwrap();
    }
}

async fn a_refused_connection_is_told_and_others_go_on(world: &mut World) {
    let node = world.node().await;
    let (_, id, mut client) = forwarded(node, &server(8080)).await;
    listens(node, &id, 8080).await;
    let (error, data) = dial(&mut client, 9999, 1).await;
    let told = to_end(&mut client, error).await;
    assert!(told.contains("9999") && told.to_lowercase().contains("refused"), "{told}");
    client.data(data, b"", true).await.ok();
    let (_, data) = dial(&mut client, 8080, 2).await;
    client.data(data, GET, false).await.unwrap();
    assert!(to_end(&mut client, data).await.ends_with(PAGE));
}

async fn connections_half_close(world: &mut World) {
    let node = world.node().await;
    let counter = script("server", "exec nc -ll -p 7000 -e wc -c");
    let (_, id, mut client) = forwarded(node, &counter).await;
    listens(node, &id, 7000).await;
    let (_, data) = dial(&mut client, 7000, 1).await;
    let chunk = vec![b'z'; 1 << 20];
    for _ in 0..3 {
        client.data(data, &chunk, false).await.unwrap();
    }
    client.data(data, b"", true).await.unwrap();
    assert_eq!(to_end(&mut client, data).await.trim(), "3145728");
}

async fn a_forward_has_no_more_than_256_connections(world: &mut World) {
    let node = world.node().await;
    // One listener whose backlog takes all connections, and never accepts one.
    let (_, id, mut client) =
        forwarded(node, &script("server", "exec nc -l -p 7000 -e sleep 1000")).await;
    listens(node, &id, 7000).await;
    let mut refused = 0;
    for number in 0..300_u32 {
        let request = number.to_string();
        for kind in ["error", "data"] {
            client
                .open(&[("streamtype", kind), ("port", "7000"), ("requestid", &request)])
                .await
                .unwrap();
        }
    }
    // 512 streams are answered, and 88 are not welcome; some connections end meanwhile.
    let mut accepted = 0;
    while accepted + refused < 600 {
        match client.frame().await.unwrap() {
            Frame::Control { kind: 2, .. } => accepted += 1,
            Frame::Control { kind: 3, .. } => refused += 1,
            _ => {}
        }
    }
    assert!(refused >= 70, "{accepted} {refused}");
    assert_eq!(node.sh(&id, "echo fine").await, "fine");
}

async fn a_pod_on_the_hosts_network_is_forwarded_to_the_host(world: &mut World) {
    let node = world.node().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"from the host").await.unwrap();
    });
    let config = node.pod_config("hostnet");
    let config = config.namespaces(|options| options.network = NamespaceMode::Node.into());
    let pod = node.run_pod(config).await.unwrap();
    let mut client = Spdy::connect(&node.cri.forward_url(&pod.id).await.unwrap(), FORWARD).await;
    let (_, data) = dial(&mut client, port, 1).await;
    assert_eq!(to_end(&mut client, data).await, "from the host");
    serve.await.unwrap();
}

async fn a_stopped_pod_forwards_nothing(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("stopped").await;
    let early = node.cri.forward_url(&pod.id).await.unwrap();
    node.cri.stop_pod(&pod.id).await.unwrap();
    code(node.cri.forward_url(&pod.id).await);
    if node.runtime == e2e::runtime::Runtime::Wherry {
        let mut client = Spdy::connect(&early, FORWARD).await;
        let (error, _) = dial(&mut client, 80, 1).await;
        let told = to_end(&mut client, error).await;
        assert!(told.contains("not ready"), "{told}");
    }
}
