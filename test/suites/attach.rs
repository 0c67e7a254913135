//! Attach as the kubelet hands it on, streams over TLS, and what many streams leave behind.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use e2e::authority::Authority;
use e2e::crictl::{self, Crictl};
use e2e::node::Node;
use e2e::proc;
use e2e::runner::Test;
use e2e::runtime::Settings;
use e2e::spec::script;
use e2e::stream::{Spdy, Url, request, upgrade};
use e2e::tests;
use e2e::world::World;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::streaming::{V4, eventually, kinds, running, sh, status, text, transports};

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: a_slow_client_is_let_go_and_the_container_is_not_stalled,
        Wherry: a_terminal_can_be_attached_to,
        Wherry: the_end_of_the_first_clients_input_is_the_containers,
        Wherry: a_client_is_told_that_the_container_has_ended,
        Wherry: clients_go_with_the_daemon_and_the_container_stays,
        Wherry: over_tls_it_is_the_same,
        Wherry: many_streams_leave_nothing_behind,
    ]
}

/// Attaches over SPDY and opens the streams.
async fn attach(node: &Node, id: &str, streams: &str) -> (Spdy, HashMap<String, u32>) {
    let url = node.cri.attach_url(id, streams).await.unwrap();
    let mut client = Spdy::connect(&url, V4).await;
    let streams = client.command(&kinds(streams)).await;
    (client, streams)
}

async fn a_slow_client_is_let_go_and_the_container_is_not_stalled(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("stalled").await;
    let text =
        "read go; yes | tr -d '\\n' | head -c 30000000; touch /tmp/came-to-its-end; sleep 3600";
    let mut config = script("stalled", text);
    config.stdin = true;
    let id = node.run(&pod, &config).await;
    let (mut client, streams) = attach(node, &id, "io").await;
    client.data(streams["stdin"], b"go\n", false).await.unwrap();
    // It reads nothing from here on.
    eventually("the container comes to its end", async || {
        node.sh(&id, "ls /tmp").await.contains("came-to-its-end")
    })
    .await;
    let all = client.rest().await;
    let status = status(&all, &streams);
    assert!(status["message"].as_str().unwrap_or_default().contains("let go"), "{status}");
}

async fn a_terminal_can_be_attached_to(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("terminal").await;
    let mut config = script("terminal", "exec sh");
    (config.stdin, config.tty) = (true, true);
    let id = node.run(&pod, &config).await;
    let (mut client, streams) = attach(node, &id, "iot").await;
    client.data(streams["resize"], b"{\"Width\":99,\"Height\":22}", false).await.unwrap();
    let mut seen = String::new();
    for _ in 0..50 {
        client.data(streams["stdin"], b"stty size; echo do''ne\n", false).await.unwrap();
        seen = client.until(streams["stdout"], "done\r\n").await;
        if seen.contains("22 99") {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert!(seen.contains("22 99"), "{seen}");
    drop(client);
    let (mut again, streams) = attach(node, &id, "iot").await;
    again.data(streams["stdin"], b"exit 6\n", false).await.unwrap();
    assert_eq!(status(&again.rest().await, &streams)["status"], "Success");
    assert_eq!(node.exit(&id).await.exit_code, 6);
}

async fn the_end_of_the_first_clients_input_is_the_containers(world: &mut World) {
    let node = world.node().await;
    for vanishes in [false, true] {
        let pod = node.pod("once").await;
        let mut config = script("once", "wc -c");
        (config.stdin, config.stdin_once) = (true, true);
        let id = node.run(&pod, &config).await;
        let (mut client, streams) = attach(node, &id, "io").await;
        client.data(streams["stdin"], b"12345", !vanishes).await.unwrap();
        if vanishes {
            // What was sent may be on its way still.
            sleep(Duration::from_millis(300)).await;
            drop(client);
        } else {
            assert_eq!(text(&client.rest().await[&streams["stdout"]]).trim(), "5");
        }
        node.exit(&id).await;
        assert_eq!(node.printed(&pod, &config).trim(), "5");
    }
}

async fn a_client_is_told_that_the_container_has_ended(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("ended").await;
    let mut config = script("ended", "read go; echo last words; exit 4");
    config.stdin = true;
    let id = node.run(&pod, &config).await;
    let (mut client, streams) = attach(node, &id, "ioe").await;
    client.data(streams["stdin"], b"go\n", false).await.unwrap();
    let all = client.rest().await;
    assert_eq!(text(&all[&streams["stdout"]]), "last words\n");
    assert_eq!(status(&all, &streams)["status"], "Success");
}

async fn clients_go_with_the_daemon_and_the_container_stays(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("stays").await;
    let mut config = script("stays", "while read line; do echo heard $line; done");
    config.stdin = true;
    let id = node.run(&pod, &config).await;
    let (mut client, streams) = attach(node, &id, "io").await;
    client.data(streams["stdin"], b"one\n", false).await.unwrap();
    client.until(streams["stdout"], "heard one\n").await;
    node.crash().await;
    assert!(client.is_ended().await);
    node.up().await.unwrap();
    let (mut client, streams) = attach(node, &id, "io").await;
    client.data(streams["stdin"], b"two\n", false).await.unwrap();
    assert_eq!(client.until(streams["stdout"], "\n").await, "heard two\n");
    node.prints(&pod, &config, "heard one\nheard two\n").await;
    let clients = node.folders.state.join("containers").join(&id).join("clients");
    eventually("the old client is forgotten", async || {
        std::fs::read_dir(&clients).is_ok_and(|entries| entries.count() == 1)
    })
    .await;
}

async fn over_tls_it_is_the_same(world: &mut World) {
    let authority = Authority::new();
    let folder = world.new_folder();
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let server = authority.server(&[]);
    let (certificate, key) = (put("cert.pem", &server.certificate), put("key.pem", &server.key));
    let extra = format!("[streaming]\ntls_certificate = {certificate:?}\ntls_key = {key:?}\n");
    let node = world.node_with(Settings { extra, ..Settings::default() }).await;
    let id = running(node).await;
    let input: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();

    let url = node.cri.exec_url(&id, &["cat"], "io").await.unwrap();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let url = Url::parse(&url);
    let name = std::net::IpAddr::from([127, 0, 0, 1]).into();
    let tls = TlsConnector::from(authority.client_config());
    let wire = tls.connect(name, url.connect().await).await.unwrap();
    let mut client = Spdy::over(Box::new(wire), &url.path, V4).await;
    let streams = client.command(&kinds("io")).await;
    for chunk in input[..200_000].chunks(10_000) {
        client.data(streams["stdin"], chunk, false).await.unwrap();
    }
    client.data(streams["stdin"], b"", true).await.unwrap();
    let all = client.rest().await;
    assert!(all[&streams["stdout"]] == input[..200_000]);
    assert_eq!(status(&all, &streams)["status"], "Success");

    if crictl::program().is_ok() {
        // It sends a certificate of its own whenever it checks the server's.
        let own = authority.client("crictl", "nobody");
        let files = [put("ca.pem", authority.pem()), put("own.pem", &own.certificate)];
        let key = put("own.key", &own.key);
        let crictl = Crictl::new(&node.folders.socket());
        let tls = ["--tls-ca", &files[0], "--tls-cert", &files[1], "--tls-key", &key];
        for transport in transports(node) {
            let command = ["-i", "--transport", transport, &id, "cat"];
            let said = crictl.with_input(&[&["exec"][..], &tls, &command].concat(), &input).await;
            assert!(said.stdout == input, "{transport}: {}", text(&said.stderr));
        }
    }
    // Somebody who does not speak TLS is shown out.
    let url = Url::parse(&node.cri.exec_url(&id, &["true"], "o").await.unwrap());
    let answer = request(&mut url.connect().await, &upgrade(&url.path, V4)).await;
    assert!(answer.is_err(), "{answer:?}");
    world.drop_node();
}

/// What a process has open, its threads, and its own memory in KiB.
type Weight = (usize, usize, u64);

/// How many KiB more than before are the heap's own ups and downs; a soak waits until free memory is given back.
const SLACK: u64 = 2048;
const SOAKS_SLACK: u64 = 512;

fn weight(pid: u32) -> Weight {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("fd"), count("task"), proc::anonymous_kib(pid).unwrap())
}

async fn many_streams_leave_nothing_behind(world: &mut World) {
    world.drop_node();
    // `E2E_STREAMS=10000` is what a soak does; `E2E_KINDS` has it do only execs (e), attaches (a) or forwards (f).
    let rounds: u32 = std::env::var("E2E_STREAMS").map_or(400, |rounds| rounds.parse().unwrap());
    let kinds = std::env::var("E2E_KINDS").unwrap_or_else(|_| "eaf".into());
    // The log that tests want would be a good part of what is done.
    let settings = Settings { usual_log: true, ..Settings::default() };
    let node = world.node_with(settings).await;
    let pod = node.pod("many").await;
    let mut config = script("many", "nc -ll -p 7000 -e echo served & while :; do sleep 1; done");
    config.stdin = true;
    let id = node.run(&pod, &config).await;
    crate::forwarding::listens(node, &id, 7000).await;
    let shim = proc::named("wherry-shim").first().unwrap().pid;
    let daemon = node.pid().unwrap();
    // Until the heap is as large as it gets.
    for _ in 0..(rounds / 1000).max(1) {
        round(node, &pod.id, &id, &kinds).await;
    }
    // A soak looks for less than what the daemon gives back every half a minute.
    let (pause, slack) = if rounds < 1000 { (2, SLACK) } else { (35, SOAKS_SLACK) };
    sleep(Duration::from_secs(pause)).await;
    let before = [weight(daemon), weight(shim)];
    let start = Instant::now();
    for hundreds in 1..=rounds / 100 {
        round(node, &pod.id, &id, &kinds).await;
        if hundreds % 10 == 0 {
            println!("after {hundreds}00: {:?}", weight(daemon));
        }
    }
    println!("{rounds} rounds took {:?}", start.elapsed());
    let flat = |after: &[Weight; 2]| {
        let mut pairs = before.iter().zip(after);
        pairs.all(|(before, after)| {
            after.0 <= before.0 && after.1 <= before.1 && after.2 <= before.2 + slack
        })
    };
    let mut after = [weight(daemon), weight(shim)];
    // The daemon gives back what is free in its heap.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !flat(&after) && Instant::now() < deadline {
        sleep(Duration::from_millis(200)).await;
        after = [weight(daemon), weight(shim)];
    }
    println!("daemon and shim before {before:?}, after {after:?} (fds, threads, KiB)");
    assert!(flat(&after), "{before:?} {after:?}");
}

/// A hundred execs, attaches that break off, and connections of one port-forward.
async fn round(node: &Node, pod: &str, id: &str, kinds: &str) {
    let forward = node.cri.forward_url(pod).await.unwrap();
    let mut forward = Spdy::connect(&forward, crate::forwarding::FORWARD).await;
    for number in 0..100 {
        if kinds.contains('e') {
            let (mut client, streams) = sh(node, id, "echo x", "oe").await;
            assert_eq!(text(&client.rest().await[&streams["stdout"]]), "x\n");
        }
        if kinds.contains('a') {
            let (client, _) = attach(node, id, "io").await;
            drop(client);
        }
        if kinds.contains('f') {
            let (_, data) = crate::forwarding::dial(&mut forward, 7000, number).await;
            assert_eq!(crate::forwarding::to_end(&mut forward, data).await, "served\n");
            forward.data(data, b"", true).await.unwrap();
        }
    }
}
