//! Exec, attach and port-forward as the kubelet hands them on: with crictl, and with a client that misbehaves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use e2e::crictl::Crictl;
use e2e::node::Node;
use e2e::proc;
use e2e::runner::Test;
use e2e::spec::{script, sleeper};
use e2e::stream::{Frame, Spdy, Url, request, upgrade};
use e2e::tests;
use e2e::world::World;
use serde_json::Value;
use tokio::time::sleep;
use tonic::Code;

use crate::code;

pub(crate) const V4: &str = "v4.channel.k8s.io";
const FORWARD: &str = "portforward.k8s.io";

pub fn tests() -> Vec<Test> {
    tests![
        Crictl: crictl_executes_and_gives_the_exit_code,
        Crictl: crictl_hands_its_input_on_and_its_end,
        Crictl: crictl_attaches,
        Any: addresses_are_absolute_and_tokens_long,
        Any: a_token_is_good_once,
        Any: a_token_of_one_kind_opens_no_other,
        Any: what_nobody_issued_is_not_found,
        Any: what_is_no_upgrade_is_refused,
        Any: streams_that_cannot_be_are_refused,
        Any: a_stopped_container_has_no_streams,
        Any: output_and_error_are_apart_and_the_status_is_last,
        Any: a_command_that_cannot_be_executed_is_an_internal_error,
        Any: output_goes_on_after_the_end_of_the_input,
        Any: a_terminal_echoes_and_has_the_last_size,
        Wherry: old_protocols_say_a_sentence,
        Any: much_goes_through_in_both_directions,
        Any: pings_come_back,
        Wherry: a_slow_reader_holds_up_the_command_and_nobody_else,
        Wherry: a_client_that_goes_hangs_up_its_terminal,
        Wherry: a_command_without_a_terminal_survives_its_client,
        Wherry: a_command_survives_the_daemon_and_is_not_stuck,
        Wherry: a_broken_client_is_shown_out,
        Wherry: too_many_streams_are_refused,
        Wherry: too_large_a_request_is_refused,
        Wherry: a_thousand_tokens_may_wait,
    ]
}

/// A container to execute in.
pub(crate) async fn running(node: &Node) -> String {
    let pod = node.pod("streams").await;
    node.run(&pod, &sleeper("streams")).await
}

/// Executes a shell script over SPDY and opens its streams.
pub(crate) async fn sh(
    node: &Node,
    id: &str,
    text: &str,
    streams: &str,
) -> (Spdy, HashMap<String, u32>) {
    let url = node.cri.exec_url(id, &["sh", "-c", text], streams).await.unwrap();
    let mut client = Spdy::connect(&url, V4).await;
    let kinds = kinds(streams);
    let streams = client.command(&kinds).await;
    (client, streams)
}

pub(crate) fn kinds(streams: &str) -> Vec<&'static str> {
    let mut kinds = vec!["error"];
    for letter in streams.chars() {
        kinds.push(match letter {
            'i' => "stdin",
            'o' => "stdout",
            'e' => "stderr",
            _ => "resize",
        });
    }
    kinds
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The status on the error stream.
pub(crate) fn status(all: &HashMap<u32, Vec<u8>>, streams: &HashMap<String, u32>) -> Value {
    let bytes = all.get(&streams["error"]).expect("there is a status");
    serde_json::from_slice(bytes).unwrap_or_else(|_| panic!("{:?}", text(bytes)))
}

pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !check().await {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// The transports that the daemon under test can: containerd 1.6 knows no newer WebSocket protocol.
pub(crate) fn transports(node: &Node) -> &'static [&'static str] {
    if node.runtime == e2e::runtime::Runtime::Wherry { &TRANSPORTS } else { &TRANSPORTS[..1] }
}

async fn crictl_executes_and_gives_the_exit_code(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let crictl = Crictl::new(&node.folders.socket());
    for transport in transports(node) {
        let command = ["exec", "--transport", transport, &id, "sh", "-c"];
        let ok =
            crictl.with_input(&[&command[..], &["echo out; echo err >&2"]].concat(), b"").await;
        assert!(ok.status.success(), "{transport}: {ok:?}");
        assert_eq!((text(&ok.stdout), text(&ok.stderr)), ("out\n".into(), "err\n".into()));
        let failed = crictl.with_input(&[&command[..], &["exit 42"]].concat(), b"").await;
        assert!(text(&failed.stderr).contains("42"), "{transport}: {failed:?}");
        assert!(!failed.status.success());
    }
}

async fn crictl_hands_its_input_on_and_its_end(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let crictl = Crictl::new(&node.folders.socket());
    let input: Vec<u8> = (0..1_000_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    for transport in transports(node) {
        let counted = crictl
            .with_input(&["exec", "-i", "--transport", transport, &id, "wc", "-c"], &input)
            .await;
        assert_eq!(text(&counted.stdout).trim(), "4000000", "{transport}: {counted:?}");
        let echoed =
            crictl.with_input(&["exec", "-i", "--transport", transport, &id, "cat"], &input).await;
        assert!(echoed.stdout == input, "{transport}: {} bytes came back", echoed.stdout.len());
    }
}

async fn crictl_attaches(world: &mut World) {
    let node = world.node().await;
    for transport in transports(node) {
        let pod = node.pod("attached").await;
        let mut config = script("attached", "read line; echo heard $line; exit 3");
        (config.stdin, config.stdin_once) = (true, true);
        let id = node.run(&pod, &config).await;
        let crictl = Crictl::new(&node.folders.socket());
        let arguments = ["attach", "-i", "--transport", transport, &id];
        let said = crictl.with_input(&arguments, b"hello\n").await;
        assert_eq!(text(&said.stdout), "heard hello\n", "{transport}: {said:?}");
        assert_eq!(node.exit(&id).await.exit_code, 3);
        assert_eq!(node.printed(&pod, &config), "heard hello\n");
    }
}

async fn addresses_are_absolute_and_tokens_long(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let one = Url::parse(&node.cri.exec_url(&id, &["true"], "o").await.unwrap());
    let other = Url::parse(&node.cri.attach_url(&id, "o").await.unwrap());
    assert!(one.path.starts_with("/exec/") && other.path.starts_with("/attach/"), "{one:?}");
    assert_ne!(one.path.rsplit('/').next(), other.path.rsplit('/').next());
    if node.runtime == e2e::runtime::Runtime::Wherry {
        assert_eq!(one.path.len(), "/exec/".len() + 22, "128 bits in base64: {one:?}");
        assert!(one.host.starts_with("127.0.0.1:"), "{one:?}");
    }
}

async fn a_token_is_good_once(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let url = Url::parse(&node.cri.exec_url(&id, &["true"], "o").await.unwrap());
    let first = request(&mut url.connect().await, &upgrade(&url.path, V4)).await.unwrap();
    assert_eq!(first.status, 101, "{}", first.head);
    let again = request(&mut url.connect().await, &upgrade(&url.path, V4)).await.unwrap();
    assert_eq!(again.status, 404, "{}", again.head);
}

async fn a_token_of_one_kind_opens_no_other(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let url = Url::parse(&node.cri.attach_url(&id, "o").await.unwrap());
    let path = url.path.replace("/attach/", "/portforward/");
    let answer = request(&mut url.connect().await, &upgrade(&path, FORWARD)).await.unwrap();
    if node.runtime == e2e::runtime::Runtime::Wherry {
        assert_eq!(answer.status, 404, "{}", answer.head);
    }
    assert_ne!(answer.status, 101, "{}", answer.head);
}

async fn what_nobody_issued_is_not_found(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let url = Url::parse(&node.cri.exec_url(&id, &["true"], "o").await.unwrap());
    for path in ["/", "/exec", "/exec/", "/exec/AAAAAAAAAAAAAAAAAAAAAA", "/metrics", "/exec/..%2f"]
    {
        let answer = request(&mut url.connect().await, &upgrade(path, V4)).await.unwrap();
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.head);
    }
    let answer = request(&mut url.connect().await, &upgrade(&url.path, V4)).await.unwrap();
    assert_eq!(answer.status, 101, "the real one is still good: {}", answer.head);
}

async fn what_is_no_upgrade_is_refused(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    for (lines, expected) in [
        ("", 400),
        ("Connection: Upgrade\r\nUpgrade: h2c\r\n", 400),
        ("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n", 400),
        ("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n", 403),
    ] {
        let url = Url::parse(&node.cri.exec_url(&id, &["true"], "o").await.unwrap());
        let text = format!("POST {} HTTP/1.1\r\nHost: x\r\n{lines}\r\n", url.path);
        let answer = request(&mut url.connect().await, &text).await.unwrap();
        assert_eq!(answer.status, expected, "{lines}: {}", answer.head);
    }
}

async fn streams_that_cannot_be_are_refused(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    for streams in ["", "toe"] {
        let answer = node.cri.exec_url(&id, &["true"], streams).await;
        assert_eq!(code(answer), Code::InvalidArgument, "{streams:?}");
        let answer = node.cri.attach_url(&id, streams).await;
        assert_eq!(code(answer), Code::InvalidArgument, "{streams:?}");
    }
    assert_eq!(code(node.cri.exec_url(&"0".repeat(64), &["true"], "o").await), Code::NotFound);
    assert_eq!(code(node.cri.forward_url(&"0".repeat(64)).await), Code::NotFound);
}

async fn a_stopped_container_has_no_streams(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let early = node.cri.exec_url(&id, &["true"], "o").await.unwrap();
    node.cri.stop(&id, 5).await.unwrap();
    code(node.cri.exec_url(&id, &["true"], "o").await);
    code(node.cri.attach_url(&id, "o").await);
    // One that was issued before says so on its error stream.
    let mut client = Spdy::connect(&early, V4).await;
    let streams = client.command(&["error", "stdout"]).await;
    let status = status(&client.rest().await, &streams);
    assert_eq!(status["status"], "Failure", "{status}");
}

async fn output_and_error_are_apart_and_the_status_is_last(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let (mut client, streams) = sh(node, &id, "echo out; echo err >&2; exit 7", "oe").await;
    let all = client.rest().await;
    assert_eq!(text(&all[&streams["stdout"]]), "out\n");
    assert_eq!(text(&all[&streams["stderr"]]), "err\n");
    let failed = status(&all, &streams);
    assert_eq!(failed["reason"], "NonZeroExitCode", "{failed}");
    assert_eq!(failed["details"]["causes"][0]["reason"], "ExitCode", "{failed}");
    assert_eq!(failed["details"]["causes"][0]["message"], "7", "{failed}");
    let (mut client, streams) = sh(node, &id, "true", "oe").await;
    assert_eq!(status(&client.rest().await, &streams)["status"], "Success");
}

async fn a_command_that_cannot_be_executed_is_an_internal_error(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let url = node.cri.exec_url(&id, &["no-such-program"], "o").await.unwrap();
    let mut client = Spdy::connect(&url, V4).await;
    let streams = client.command(&["error", "stdout"]).await;
    let status = status(&client.rest().await, &streams);
    assert_eq!(status["reason"], "InternalError", "{status}");
    assert!(status["message"].as_str().unwrap().contains("no-such-program"), "{status}");
    assert_eq!(node.sh(&id, "echo fine").await, "fine");
}

async fn output_goes_on_after_the_end_of_the_input(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let text_of = "cat; for i in 1 2 3; do sleep 0.2; echo $i; done";
    let (mut client, streams) = sh(node, &id, text_of, "io").await;
    client.data(streams["stdin"], b"abc\n", false).await.unwrap();
    client.until(streams["stdout"], "abc\n").await;
    client.data(streams["stdin"], b"def\n", true).await.unwrap();
    let all = client.rest().await;
    assert_eq!(text(&all[&streams["stdout"]]), "def\n1\n2\n3\n");
    assert_eq!(status(&all, &streams)["status"], "Success");
}

async fn a_terminal_echoes_and_has_the_last_size(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    // A shell at a terminal edits its line, and echoes it by itself.
    let text = "test -t 0 && echo ready; while read -r line; do eval \"$line\"; done";
    let (mut client, streams) = sh(node, &id, text, "iot").await;
    client.until(streams["stdout"], "ready").await;
    for width in 1..=300 {
        let size = format!("{{\"Width\":{width},\"Height\":33}}");
        client.data(streams["resize"], size.as_bytes(), false).await.unwrap();
    }
    let mut seen = String::new();
    for _ in 0..50 {
        client
            .data(streams["stdin"], b"stty size; echo $TERM; echo do''ne\n", false)
            .await
            .unwrap();
        seen = client.until(streams["stdout"], "done").await;
        if seen.contains("33 300") {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert!(seen.contains("33 300") && seen.contains("xterm"), "{seen}");
    assert!(seen.contains("stty size"), "a terminal echoes: {seen}");
    client.data(streams["stdin"], b"exit 5\n", false).await.unwrap();
    let status = status(&client.rest().await, &streams);
    assert_eq!(status["details"]["causes"][0]["message"], "5", "{status}");
}

async fn old_protocols_say_a_sentence(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    for protocol in ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"] {
        let url = node.cri.exec_url(&id, &["sh", "-c", "echo x; exit 9"], "o").await.unwrap();
        let mut client = Spdy::connect(&url, protocol).await;
        let streams = client.command(&["error", "stdout"]).await;
        let all = client.rest().await;
        assert_eq!(text(&all[&streams["stdout"]]), "x\n");
        assert!(text(&all[&streams["error"]]).ends_with("exit code: 9"), "{protocol}");
    }
}

async fn much_goes_through_in_both_directions(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let (mut client, streams) = sh(node, &id, "head -c 30000000 /dev/zero | tr '\\0' x", "o").await;
    let all = client.rest().await;
    let output = &all[&streams["stdout"]];
    assert_eq!(output.len(), 30_000_000);
    assert!(output.iter().all(|byte| *byte == b'x'));
    let (mut client, streams) = sh(node, &id, "wc -c", "io").await;
    let chunk = vec![b'y'; 1 << 20];
    for _ in 0..20 {
        client.data(streams["stdin"], &chunk, false).await.unwrap();
    }
    client.data(streams["stdin"], b"", true).await.unwrap();
    let all = client.rest().await;
    assert!(text(&all[&streams["stdout"]]).starts_with("20971520"), "{all:?}");
}

async fn pings_come_back(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let (mut client, _) = sh(node, &id, "sleep 10", "o").await;
    for id in [1_u32, 3, 5] {
        client.control(6, 0, &id.to_be_bytes()).await.unwrap();
        loop {
            if let Frame::Control { kind: 6, payload } = client.frame().await.unwrap() {
                assert_eq!(payload, id.to_be_bytes());
                break;
            }
        }
    }
}

async fn a_slow_reader_holds_up_the_command_and_nobody_else(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let script = "yes | tr -d '\\n' | head -c 100000000; echo end >&2";
    let (mut slow, streams) = sh(node, &id, script, "oe").await;
    let before = proc::pss_kib(node.pid().unwrap()).unwrap();
    sleep(Duration::from_secs(1)).await;
    let after = proc::pss_kib(node.pid().unwrap()).unwrap();
    assert!(
        after < before + 4096,
        "the daemon keeps what the client does not take: {before} {after}"
    );
    // It has not come to its end, and everybody else is served.
    assert!(node.sh(&id, "ps | grep -c '[h]ead -c 1000'").await != "0");
    let (mut other, others) = sh(node, &id, "echo quick", "o").await;
    assert_eq!(text(&other.rest().await[&others["stdout"]]), "quick\n");
    let all = slow.rest().await;
    assert_eq!(all[&streams["stdout"]].len(), 100_000_000);
    assert_eq!(text(&all[&streams["stderr"]]), "end\n");
}

/// How many of these run in the container.
async fn count(node: &Node, id: &str, command: &str) -> String {
    node.sh(id, &format!("ps | grep -c '[{}]{}' || true", &command[..1], &command[1..])).await
}

async fn a_client_that_goes_hangs_up_its_terminal(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let (mut client, streams) = sh(node, &id, "echo ready; sleep 4242", "iot").await;
    client.until(streams["stdout"], "ready").await;
    assert_ne!(count(node, &id, "sleep 4242").await, "0");
    drop(client);
    eventually("the shell is hung up", async || count(node, &id, "sleep 4242").await == "0").await;
    eventually("nothing is left of the exec", async || {
        let bundle = node.folders.state.join("containers").join(&id).join("execs");
        std::fs::read_dir(bundle).is_ok_and(|mut entries| entries.next().is_none())
    })
    .await;
}

async fn a_command_without_a_terminal_survives_its_client(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    // It says more than any pipe holds, and then leaves a mark.
    let text = "echo ready; cat; head -c 5000000 /dev/zero; touch /tmp/came-to-its-end";
    let (mut client, streams) = sh(node, &id, text, "io").await;
    client.until(streams["stdout"], "ready").await;
    drop(client);
    eventually("the command comes to its end", async || {
        node.sh(&id, "ls /tmp").await.contains("came-to-its-end")
    })
    .await;
}

async fn a_command_survives_the_daemon_and_is_not_stuck(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let text = "echo ready; sleep 1; head -c 5000000 /dev/zero; touch /tmp/came-to-its-end";
    let (mut client, streams) = sh(node, &id, text, "io").await;
    client.until(streams["stdout"], "ready").await;
    let (mut shell, others) = sh(node, &id, "echo ready; sleep 4343", "iot").await;
    shell.until(others["stdout"], "ready").await;
    node.crash().await;
    assert!(client.is_ended().await);
    sleep(Duration::from_secs(1)).await;
    node.up().await.unwrap();
    eventually("the command comes to its end", async || {
        node.sh(&id, "ls /tmp").await.contains("came-to-its-end")
    })
    .await;
    eventually("the shell is hung up", async || count(node, &id, "sleep 4343").await == "0").await;
}

async fn a_broken_client_is_shown_out(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let block_of_another_kind = [&1_u32.to_be_bytes()[..], &[0; 6], b"not compressed"].concat();
    let even = [&2_u32.to_be_bytes()[..], &[0; 6]].concat();
    let frame = |kind: u16, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0x80, 3][..], &kind.to_be_bytes(), &[0], &length[1..], payload].concat()
    };
    for (what, bytes) in [
        ("another version", vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
        ("a control frame of 16 MiB", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
        ("headers that are not compressed", frame(1, &block_of_another_kind)),
        ("a stream number of the server's", frame(1, &even)),
        ("settings without end", frame(4, &u32::MAX.to_be_bytes())),
        ("a frame that is cut", frame(1, &[0])),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".repeat(4)),
    ] {
        let url = node.cri.exec_url(&id, &["sleep", "5"], "io").await.unwrap();
        let mut client = Spdy::connect(&url, V4).await;
        client.raw(&bytes).await.unwrap();
        let length = bytes.len();
        // What begins like a data frame of a stream that is none is read to its end.
        let ended = if what == "HTTP" { true } else { client.is_ended().await };
        assert!(ended, "{what} ({length} bytes)");
    }
    // A bomb: 64 MiB of one letter.
    let url = node.cri.exec_url(&id, &["sleep", "5"], "io").await.unwrap();
    let mut client = Spdy::connect(&url, V4).await;
    let huge = "x".repeat(32 << 20);
    let block = client.block(&[("streamtype", &huge)]);
    let payload = [&1_u32.to_be_bytes()[..], &[0; 6], &block[..block.len().min(60_000)]].concat();
    client.control(1, 0, &payload).await.unwrap();
    assert!(client.is_ended().await, "a bomb");
    assert_eq!(node.sh(&id, "echo fine").await, "fine");
}

async fn too_many_streams_are_refused(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let (mut client, streams) = sh(node, &id, "sleep 2; echo still here", "o").await;
    for number in 0..50 {
        let name = format!("nonsense{number}");
        client.open(&[("streamtype", &name)]).await.unwrap();
        client.open(&[("streamtype", "stdout")]).await.unwrap();
    }
    let mut refused = 0;
    while refused < 100 {
        match client.frame().await.unwrap() {
            Frame::Control { kind: 3, .. } => refused += 1,
            Frame::Control { kind: 2, .. } => panic!("a stream that nobody ordered is accepted"),
            _ => {}
        }
    }
    let all = client.rest().await;
    assert_eq!(text(&all[&streams["stdout"]]), "still here\n");
}

async fn too_large_a_request_is_refused(world: &mut World) {
    let node = world.node().await;
    let id = running(node).await;
    let url = Url::parse(&node.cri.exec_url(&id, &["true"], "o").await.unwrap());
    let many = (0..200).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    let long = format!("X: {}\r\n", "y".repeat(100_000));
    for lines in [many, long] {
        let text = format!("POST {} HTTP/1.1\r\nHost: x\r\n{lines}\r\n", url.path);
        // The answer may be lost when the rest of the request is not read.
        if let Ok(answer) = request(&mut url.connect().await, &text).await {
            assert!((400..500).contains(&answer.status), "{}", answer.head);
        }
    }
    // Somebody who sends no request at all is shown out after a while.
    let mut silent = url.connect().await;
    let closed = tokio::io::AsyncReadExt::read_u8(&mut silent);
    assert!(tokio::time::timeout(Duration::from_secs(15), closed).await.is_ok());
    let answer = request(&mut url.connect().await, &upgrade(&url.path, V4)).await.unwrap();
    assert_eq!(answer.status, 101, "{}", answer.head);
}

async fn a_thousand_tokens_may_wait(world: &mut World) {
    world.drop_node();
    let node = world.node().await;
    let id = running(node).await;
    for _ in 0..1000 {
        node.cri.exec_url(&id, &["true"], "o").await.unwrap();
    }
    let answer = node.cri.exec_url(&id, &["true"], "o").await;
    assert_eq!(code(answer), Code::ResourceExhausted);
    world.drop_node();
}
