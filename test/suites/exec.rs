//! ExecSync: exit codes, both streams, deadlines, what runs around the command.

use std::time::{Duration, Instant};

use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::spec::{Container, script, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::Int64Value;
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: streams_and_exit_code_come_back,
        Any: a_command_runs_as_the_container_does,
        Any: a_deadline_that_passes_is_deadline_exceeded,
        Wherry: after_a_deadline_no_process_is_left,
        Any: a_missing_command_is_an_error,
        Any: a_command_needs_a_running_container,
        Any: much_output_comes_back_whole,
        Any: commands_run_at_the_same_time,
        Any: a_child_that_keeps_the_output_open_does_not_hold_the_answer,
        Any: an_empty_command_is_refused,
    ]
}

async fn running(node: &Node) -> (Pod, String) {
    let pod = node.pod("exec").await;
    let id = node.run(&pod, &sleeper("exec")).await;
    (pod, id)
}

async fn streams_and_exit_code_come_back(world: &mut World) {
    let node = world.node().await;
    let (_, id) = running(node).await;
    let text = "echo to stdout; echo to stderr >&2; printf 'no newline'; exit 37";
    let answer = node.cri.exec(&id, &["sh", "-c", text], 10).await.unwrap();
    assert_eq!(answer.exit_code, 37);
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), "to stdout\nno newline");
    assert_eq!(String::from_utf8(answer.stderr).unwrap(), "to stderr\n");
    let without_deadline = node.cri.exec(&id, &["true"], 0).await.unwrap();
    assert_eq!(without_deadline.exit_code, 0);
}

async fn a_command_runs_as_the_container_does(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("alike").await;
    let mut config = sleeper("alike").env("COLOUR", "red").security(|security| {
        security.run_as_user = Some(Int64Value { value: 1000 });
        security.no_new_privs = true;
    });
    config.working_dir = "/tmp".into();
    let id = node.run(&pod, &config).await;
    let text = "id -u; id -G; pwd; echo $COLOUR; hostname; grep NoNewPrivs /proc/self/status | tr -d '\\t'";
    let expected = "1000\n1000 50000\n/tmp\nred\nalike\nNoNewPrivs:1";
    assert_eq!(node.sh(&id, text).await, expected);
    let mounts = "[ $(readlink /proc/self/ns/mnt) = $(readlink /proc/1/ns/mnt) ] && echo same";
    assert_eq!(node.sh(&id, mounts).await, "same");
}

async fn a_deadline_that_passes_is_deadline_exceeded(world: &mut World) {
    let node = world.node().await;
    let (_, id) = running(node).await;
    let start = Instant::now();
    let answer = node.cri.exec(&id, &["sleep", "1000"], 1).await;
    assert_eq!(code(answer), Code::DeadlineExceeded);
    let took = start.elapsed();
    assert!((900..5000).contains(&took.as_millis()), "{took:?}");
}

async fn after_a_deadline_no_process_is_left(world: &mut World) {
    let node = world.node().await;
    let (_, id) = running(node).await;
    let text = "sleep 4321 & sleep 4321";
    let answer = node.cri.exec(&id, &["sh", "-c", text], 1).await;
    assert_eq!(code(answer), Code::DeadlineExceeded);
    assert_eq!(node.sh(&id, "ps | grep -c '[s]leep 4321' || true").await, "0");
}

async fn a_missing_command_is_an_error(world: &mut World) {
    let node = world.node().await;
    let (_, id) = running(node).await;
    let error = node.cri.exec(&id, &["no-such-program"], 5).await.unwrap_err();
    assert!(error.message().contains("no-such-program"), "{error}");
    assert_eq!(node.sh(&id, "echo fine").await, "fine");
}

async fn a_command_needs_a_running_container(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("not-running").await;
    let id = node.create(&pod, &script("not-running", "true")).await.unwrap();
    code(node.cri.exec(&id, &["true"], 5).await);
    node.cri.start(&id).await.unwrap();
    node.exit(&id).await;
    code(node.cri.exec(&id, &["true"], 5).await);
}

async fn much_output_comes_back_whole(world: &mut World) {
    let node = world.node().await;
    let (_, id) = running(node).await;
    let text = "head -c 4000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero | tr '\\0' y >&2";
    let answer = node.cri.exec(&id, &["sh", "-c", text], 30).await.unwrap();
    assert_eq!((answer.stdout.len(), answer.stderr.len()), (4_000_000, 1_000_000));
    assert!(answer.stdout.iter().all(|byte| *byte == b'x'));
    assert!(answer.stderr.iter().all(|byte| *byte == b'y'));
}

async fn commands_run_at_the_same_time(world: &mut World) {
    let node = world.node().await;
    let (_, id) = running(node).await;
    let (node, id) = (&*node, id.as_str());
    let one = |number: usize| async move {
        let text = format!("sleep 0.5; echo {number}");
        assert_eq!(node.sh(id, &text).await, number.to_string());
    };
    let start = Instant::now();
    futures_util::future::join_all((0..10).map(one)).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

async fn a_child_that_keeps_the_output_open_does_not_hold_the_answer(world: &mut World) {
    let node = world.node().await;
    if node.runtime == e2e::runtime::Runtime::Containerd {
        e2e::runner::skip("containerd 1.6 waits for the child for ever");
    }
    let (_, id) = running(node).await;
    let start = Instant::now();
    let answer = node.cri.exec(&id, &["sh", "-c", "sleep 60 & echo done"], 30).await.unwrap();
    assert_eq!((answer.stdout, answer.exit_code), (b"done\n".to_vec(), 0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

async fn an_empty_command_is_refused(world: &mut World) {
    let node = world.node().await;
    let (_, id) = running(node).await;
    code(node.cri.exec(&id, &[], 5).await);
}
