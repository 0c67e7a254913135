//! Ports of the node that lead to pods of the built-in network, as everybody around reaches them.

#![allow(clippy::unwrap_used)]

mod isolation;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::{NetworkError, PodNetwork, PortMapping, Protocol};
use isolation::{Node, eventually, isolated, ping, run};

/// How long somebody waits who gets no answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A host beside the node, which has 192.0.2.1 for it.
fn outside(node: &Node) -> PathBuf {
    let outside = node.pod("outside").netns;
    let path = outside.to_str().unwrap();
    run("ip", &["link", "set", "lo", "up"]);
    fs::create_dir_all("/run/netns").unwrap();
    fs::write("/run/netns/outside", "").unwrap();
    run("mount", &["--bind", path, "/run/netns/outside"]);
    run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "wan"]);
    run("ip", &["link", "set", "wan", "netns", "outside"]);
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "uplink"]);
    run("ip", &["addr", "add", "192.0.2.3/24", "dev", "uplink"]);
    run("ip", &["link", "set", "uplink", "up"]);
    run("ip", &["-n", "outside", "addr", "add", "192.0.2.2/24", "dev", "wan"]);
    run("ip", &["-n", "outside", "link", "set", "wan", "up"]);
    outside
}

fn port(protocol: Protocol, host_port: u16) -> PortMapping {
    PortMapping { protocol, container_port: 80, host_port, host_ip: None }
}

/// A pod with these ports of the node; its servers at port 80 answer with its name and who asked.
fn serving(node: &Node, id: &str, ports: &[PortMapping]) -> PodNetwork {
    let pod = PodNetwork { port_mappings: ports.to_vec(), ..node.pod(id) };
    let name = id.to_owned();
    let all = ("0.0.0.0", 80);
    let listener = sys::netns::inside(&pod.netns, || TcpListener::bind(all)).unwrap().unwrap();
    let socket = sys::netns::inside(&pod.netns, || UdpSocket::bind(all)).unwrap().unwrap();
    let tcp = name.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            drop(stream.write_all(format!("{tcp} {peer}").as_bytes()));
        }
    });
    std::thread::spawn(move || {
        let mut text = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut text) {
            drop(socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer));
        }
    });
    pod
}

/// What is answered at an address, if anything.
fn tcp(at: &str) -> Option<String> {
    let at: SocketAddr = at.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn ask(socket: &UdpSocket, at: &str) -> Option<String> {
    socket.send_to(b"?", at).ok()?;
    let mut text = [0; 64];
    let (length, _) = socket.recv_from(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text[..length]).into_owned())
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn udp(at: &str) -> Option<String> {
    ask(&client(), at)
}

fn from<T: Send>(netns: &Path, look: impl FnOnce() -> T + Send) -> T {
    sys::netns::inside(netns, look).unwrap()
}

fn answer(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn everybody_reaches_a_pod_by_a_port_of_the_node() {
    isolated("everybody_reaches_a_pod_by_a_port_of_the_node", |node| async move {
        let outside = outside(&node);
        let network = node.open();
        let ports = [port(Protocol::Tcp, 8080), port(Protocol::Udp, 8080)];
        let pod = serving(&node, "aa", &ports);
        let other = node.pod("bb");
        network.attach(&pod).await.unwrap();
        network.attach(&other).await.unwrap();
        // The kernel takes a moment to let a new port of the bridge forward.
        eventually("the neighbour is connected", || ping(&other.netns, "10.88.0.1"));
        for ask in [tcp, udp] {
            // Who comes from outside is seen as who it is.
            assert_eq!(from(&outside, || ask("192.0.2.1:8080")), answer("aa 192.0.2.2"));
            // The node itself, by any of its addresses.
            assert_eq!(ask("192.0.2.1:8080"), answer("aa 192.0.2.1"));
            assert_eq!(ask("127.0.0.1:8080"), answer("aa 10.88.0.1"));
            assert_eq!(ask("10.88.0.1:8080"), answer("aa 10.88.0.1"));
            // A neighbour, and the pod itself.
            for netns in [&other.netns, &pod.netns] {
                let at = netns.display();
                for address in ["192.0.2.1:8080", "10.88.0.1:8080"] {
                    let heard = from(netns, || ask(address));
                    assert_eq!(heard, answer("aa 10.88.0.1"), "{address} from {at}");
                }
            }
            // Only that port, and nobody else's.
            assert_eq!(ask("127.0.0.1:8081"), None);
            assert_eq!(from(&other.netns, || ask("192.0.2.2:8080")), None);
        }
        network.detach("aa", None).await.unwrap();
        for ask in [tcp, udp] {
            assert_eq!(from(&outside, || ask("192.0.2.1:8080")), None);
            assert_eq!(ask("127.0.0.1:8080"), None);
        }
        network.detach("aa", None).await.unwrap();
    });
}

#[test]
fn a_port_can_be_one_of_a_single_address() {
    isolated("a_port_can_be_one_of_a_single_address", |node| async move {
        let outside = outside(&node);
        let network = node.open();
        let at = |ip: &str| PortMapping {
            host_ip: Some(ip.parse().unwrap()),
            ..port(Protocol::Tcp, 8080)
        };
        let (a, b) =
            (serving(&node, "aa", &[at("192.0.2.1")]), serving(&node, "bb", &[at("127.0.0.1")]));
        network.attach(&a).await.unwrap();
        network.attach(&b).await.unwrap();
        assert_eq!(from(&outside, || tcp("192.0.2.1:8080")), answer("aa 192.0.2.2"));
        assert_eq!(from(&outside, || tcp("192.0.2.3:8080")), None);
        assert_eq!(tcp("127.0.0.1:8080"), answer("bb 10.88.0.1"));
        assert_eq!(tcp("192.0.2.3:8080"), None);
    });
}

#[test]
fn two_pods_cannot_have_the_same_port() {
    isolated("two_pods_cannot_have_the_same_port", |node| async move {
        outside(&node);
        let network = node.open();
        let ports = [port(Protocol::Tcp, 8080)];
        let (a, b) = (serving(&node, "aa", &ports), serving(&node, "bb", &ports));
        network.attach(&a).await.unwrap();
        let error = network.attach(&b).await.unwrap_err();
        assert!(matches!(error, NetworkError::PortTaken { .. }), "{error}");
        assert_eq!(error.to_string(), "host port 8080/tcp of pod bb is pod aa's already");
        assert_eq!(network.attached(), ["aa"]);
        assert_eq!(tcp("127.0.0.1:8080"), answer("aa 10.88.0.1"));
        // A daemon that is started anew knows as much.
        drop(network);
        let network = node.open();
        assert!(matches!(network.attach(&b).await, Err(NetworkError::PortTaken { .. })));
        network.detach("aa", None).await.unwrap();
        network.attach(&b).await.unwrap();
        assert_eq!(tcp("127.0.0.1:8080"), answer("bb 10.88.0.1"));
        let text = run("nft", &["list", "map", "ip", "wherry", "host_ports"]);
        assert_eq!(text.matches("8080").count(), 1, "{text}");
    });
}

#[test]
fn who_sends_without_a_pause_reaches_the_pod_that_has_the_port_now() {
    isolated(
        "who_sends_without_a_pause_reaches_the_pod_that_has_the_port_now",
        |node| async move {
            let outside = outside(&node);
            let network = node.open();
            let ports = [port(Protocol::Udp, 5353)];
            let (a, b) = (serving(&node, "aa", &ports), serving(&node, "bb", &ports));
            let talker = from(&outside, client);
            // The node forwards, and remembers that this flow was its own.
            assert_eq!(ask(&talker, "192.0.2.1:5353"), None);
            network.attach(&a).await.unwrap();
            assert_eq!(ask(&talker, "192.0.2.1:5353"), answer("aa 192.0.2.2"));
            network.detach("aa", None).await.unwrap();
            network.attach(&b).await.unwrap();
            assert_eq!(ask(&talker, "192.0.2.1:5353"), answer("bb 192.0.2.2"));
        },
    );
}

#[test]
fn ports_outlive_the_daemon_and_come_back_after_the_rules_were_lost() {
    isolated(
        "ports_outlive_the_daemon_and_come_back_after_the_rules_were_lost",
        |node| async move {
            outside(&node);
            let network = node.open();
            let ports = [port(Protocol::Tcp, 8080), port(Protocol::Sctp, 8080)];
            network.attach(&serving(&node, "aa", &ports)).await.unwrap();
            let text = run("nft", &["list", "map", "ip", "wherry", "host_ports"]);
            assert!(text.contains("sctp . 8080 : 10.88.0.2 . 80"), "{text}");
            drop(network);
            assert_eq!(tcp("127.0.0.1:8080"), answer("aa 10.88.0.1"));
            let network = node.open();
            run("nft", &["flush", "ruleset"]);
            assert_eq!(tcp("127.0.0.1:8080"), None);
            network.attach(&serving(&node, "bb", &[port(Protocol::Tcp, 8081)])).await.unwrap();
            assert_eq!(tcp("127.0.0.1:8080"), answer("aa 10.88.0.1"));
            assert_eq!(tcp("127.0.0.1:8081"), answer("bb 10.88.0.1"));
            // After a reboot there are records, and neither bridge nor rules.
            drop(network);
            run("nft", &["flush", "ruleset"]);
            run("ip", &["link", "del", "wherry0"]);
            let network = node.open();
            network.retain(&[]).await.unwrap();
            assert!(network.attached().is_empty());
            network.teardown_node().await.unwrap();
            assert_eq!(run("nft", &["list", "ruleset"]), "");
        },
    );
}

#[test]
fn a_pod_does_not_reach_what_listens_on_the_nodes_loopback() {
    isolated("a_pod_does_not_reach_what_listens_on_the_nodes_loopback", |node| async move {
        outside(&node);
        let network = node.open();
        let pod = serving(&node, "aa", &[port(Protocol::Tcp, 8080)]);
        network.attach(&pod).await.unwrap();
        let secret = TcpListener::bind("127.0.0.1:9999").unwrap();
        std::thread::spawn(move || {
            for stream in secret.incoming() {
                drop(stream.unwrap().write_all(b"secret"));
            }
        });
        assert_eq!(tcp("127.0.0.1:9999"), answer("secret"));
        // What a pod with the rights to do it would do.
        let netns = format!("--net={}", pod.netns.display());
        let inside = "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip addr flush dev lo
            ip route flush table local 127.0.0.0/8; ip route add 127.0.0.0/8 via 10.88.0.1";
        run("nsenter", &[&netns, "sh", "-c", inside]);
        assert_eq!(from(&pod.netns, || tcp("127.0.0.1:9999")), None);
        // It is the guard that keeps it from that.
        run("nft", &["flush", "chain", "ip", "wherry", "guard"]);
        assert_eq!(from(&pod.netns, || tcp("127.0.0.1:9999")), answer("secret"));
    });
}
