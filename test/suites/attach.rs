//! Attach as the kubelet hands it on, and what many streams leave behind.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use e2e::node::Node;
use e2e::proc;
use e2e::runner::Test;
use e2e::spec::script;
use e2e::stream::Spdy;
use e2e::tests;
use e2e::world::World;
use tokio::time::sleep;

use crate::streaming::{V4, eventually, kinds, sh, status, text};

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: a_terminal_can_be_attached_to,
        Wherry: the_end_of_the_first_clients_input_is_the_containers,
        Wherry: a_client_is_told_that_the_container_has_ended,
        Wherry: clients_go_with_the_daemon_and_the_container_stays,
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

/// What a process has open, its threads, and its resident memory in KiB.
fn weight(pid: u32) -> (usize, usize, u64) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("fd"), count("task"), proc::pss_kib(pid).unwrap())
}

async fn many_streams_leave_nothing_behind(world: &mut World) {
    world.drop_node();
    // `E2E_STREAMS=10000` is what a soak does.
    let rounds = std::env::var("E2E_STREAMS").map_or(200, |rounds| rounds.parse().unwrap());
    let node = world.node().await;
    let pod = node.pod("many").await;
    let mut config = script("many", "nc -ll -p 7000 -e echo served & while :; do sleep 1; done");
    config.stdin = true;
    let id = node.run(&pod, &config).await;
    crate::forwarding::listens(node, &id, 7000).await;
    let shim = proc::named("wherry-shim").first().unwrap().pid;
    let daemon = node.pid().unwrap();
    round(node, &pod.id, &id, 100).await;
    sleep(Duration::from_secs(2)).await;
    let before = [weight(daemon), weight(shim)];
    let deadline = Instant::now();
    for _ in 0..rounds / 100 {
        round(node, &pod.id, &id, 100).await;
    }
    println!("{rounds} rounds took {:?}", deadline.elapsed());
    let mut after = [weight(daemon), weight(shim)];
    for _ in 0..100 {
        if after[0].0 <= before[0].0 && after[0].1 <= before[0].1 && after[1].0 <= before[1].0 {
            break;
        }
        sleep(Duration::from_millis(200)).await;
        after = [weight(daemon), weight(shim)];
    }
    println!("daemon and shim before {before:?}, after {after:?} (fds, threads, KiB)");
    for (before, after) in before.into_iter().zip(after) {
        assert!(after.0 <= before.0 && after.1 <= before.1, "{before:?} {after:?}");
        assert!(after.2 <= before.2 + 2048, "{before:?} {after:?}");
    }
}

/// So many execs, attaches that break off, and connections of one port-forward.
async fn round(node: &Node, pod: &str, id: &str, times: u32) {
    let forward = node.cri.forward_url(pod).await.unwrap();
    let mut forward = Spdy::connect(&forward, crate::forwarding::FORWARD).await;
    for number in 0..times {
        let (mut client, streams) = sh(node, id, "echo x", "oe").await;
        assert_eq!(text(&client.rest().await[&streams["stdout"]]), "x\n");
        let (client, _) = attach(node, id, "io").await;
        drop(client);
        let (_, data) = crate::forwarding::dial(&mut forward, 7000, number).await;
        assert_eq!(crate::forwarding::to_end(&mut forward, data).await, "served\n");
        forward.data(data, b"", true).await.unwrap();
    }
}
