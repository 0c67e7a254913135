//! Containers: their states, exit codes and reasons, stop signals, lists.

use std::time::{Duration, Instant};

use e2e::image::catalog::{BUSYBOX, SET_UP};
use e2e::runner::Test;
use e2e::spec::{Container, container, script, selector, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::{ContainerFilter, ContainerState, ContainerStateValue};
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: a_container_goes_from_created_to_running_to_exited,
        Any: the_status_says_what_was_asked_for,
        Any: exit_codes_and_reasons_are_kept,
        Any: a_process_killed_by_a_signal_counts_128_more,
        Any: a_missing_program_is_a_start_error_with_128,
        Any: a_file_that_is_not_executable_is_a_start_error,
        Any: too_much_memory_is_out_of_memory_and_says_so,
        Any: stop_gives_a_grace_period_and_then_kills,
        Any: stop_sends_the_signal_the_image_asks_for,
        Any: stop_kills_at_once_without_a_grace_period,
        Any: a_later_stop_with_less_patience_shortens_the_wait,
        Any: stop_and_remove_can_be_repeated,
        Wherry: stop_and_remove_take_unknown_ids,
        Any: a_running_container_can_be_removed,
        Any: unknown_containers_are_not_found,
        Any: lists_are_filtered_by_id_state_pod_and_labels,
        Any: a_container_starts_once,
        Any: another_attempt_is_another_container,
        Wherry: the_image_id_is_the_same_everywhere,
    ]
}

async fn a_container_goes_from_created_to_running_to_exited(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("states").await;
    let id = node.create(&pod, &sleeper("states")).await.unwrap();
    let created = node.cri.container(&id).await.unwrap();
    assert_eq!(created.state(), ContainerState::ContainerCreated);
    assert!(created.created_at > 0);
    assert_eq!((created.started_at, created.finished_at), (0, 0));
    node.cri.start(&id).await.unwrap();
    let running = node.cri.container(&id).await.unwrap();
    assert_eq!(running.state(), ContainerState::ContainerRunning);
    assert!(running.started_at >= created.created_at && running.finished_at == 0);
    node.cri.stop(&id, 10).await.unwrap();
    let exited = node.cri.container(&id).await.unwrap();
    assert_eq!(exited.state(), ContainerState::ContainerExited);
    assert!(exited.finished_at >= running.started_at);
    assert_eq!((exited.created_at, exited.started_at), (created.created_at, running.started_at));
}

async fn the_status_says_what_was_asked_for(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("asked").await;
    let config = sleeper("asked").label("example.org/a", "any \"text\"\nwith ünïcode").attempt(3);
    let id = node.create(&pod, &config).await.unwrap();
    let status = node.cri.container(&id).await.unwrap();
    assert_eq!(status.metadata, config.metadata);
    assert_eq!((status.labels, status.annotations), (config.labels, config.annotations));
    assert_eq!(status.log_path, format!("{}/asked.log", pod.config.log_directory));
    assert_eq!(status.image.unwrap().image, BUSYBOX);
    let digest = status.image_ref;
    assert!(digest.starts_with("plain.test/busybox@sha256:"), "{digest}");
    assert_eq!(status.mounts, []);
}

async fn exit_codes_and_reasons_are_kept(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("ends").await;
    for (code, reason) in [(0, "Completed"), (1, "Error"), (42, "Error"), (255, "Error")] {
        let config = script(&format!("ends{code}"), &format!("exit {code}"));
        let (status, _) = node.finish(&pod, &config).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
    }
}

async fn a_process_killed_by_a_signal_counts_128_more(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("killed").await;
    // The first process of a PID namespace ignores what it has no handler for; a child can end it.
    let config = script("killed", "sh -c 'kill -9 $$'; exit $?");
    assert_eq!(node.finish(&pod, &config).await.0.exit_code, 137);
    let id = node.run(&pod, &script("from-outside", "sleep 1000")).await;
    node.cri.stop(&id, 1).await.unwrap();
    let status = node.exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
}

async fn a_missing_program_is_a_start_error_with_128(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("missing").await;
    let id = node.create(&pod, &container("missing", BUSYBOX, &["no-such-program"])).await.unwrap();
    let error = node.cri.start(&id).await.unwrap_err();
    assert!(error.message().contains("no-such-program"), "{error}");
    let status = node.cri.container(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("no-such-program"), "{}", status.message);
}

async fn a_file_that_is_not_executable_is_a_start_error(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("plain-file").await;
    let id = node.create(&pod, &container("plain-file", BUSYBOX, &["/etc/passwd"])).await.unwrap();
    let error = node.cri.start(&id).await.unwrap_err();
    assert!(error.message().contains("/etc/passwd"), "{error}");
    let status = node.cri.container(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
}

async fn too_much_memory_is_out_of_memory_and_says_so(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("oom").await;
    let config = script("oom", "x=0123456789; while :; do x=$x$x; done")
        .limits(|limits| limits.memory_limit_in_bytes = 20 << 20);
    let (status, _) = node.finish(&pod, &config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

async fn stop_gives_a_grace_period_and_then_kills(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("grace").await;
    let polite =
        script("polite", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done");
    let id = node.run(&pod, &polite).await;
    node.prints(&pod, &polite, "up").await;
    let start = Instant::now();
    node.cri.stop(&id, 20).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(node.exit(&id).await.exit_code, 5);
    node.prints(&pod, &polite, "bye").await;

    let deaf = script("deaf", "trap 'echo no' TERM; echo up; while :; do sleep 0.1; done");
    let id = node.run(&pod, &deaf).await;
    node.prints(&pod, &deaf, "up").await;
    let start = Instant::now();
    node.cri.stop(&id, 2).await.unwrap();
    let took = start.elapsed();
    assert!((1900..4000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(node.exit(&id).await.exit_code, 137);
    node.prints(&pod, &deaf, "no").await;
}

async fn stop_sends_the_signal_the_image_asks_for(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("signal").await;
    let config = container("signal", SET_UP, &[]);
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "entrypoint").await;
    node.cri.stop(&id, 10).await.unwrap();
    assert_eq!(node.exit(&id).await.exit_code, 7);
    node.prints(&pod, &config, "got USR1").await;
}

async fn stop_kills_at_once_without_a_grace_period(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("forced").await;
    let config = script("forced", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done");
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "up").await;
    node.cri.stop(&id, 0).await.unwrap();
    assert_eq!(node.exit(&id).await.exit_code, 137);
}

async fn a_later_stop_with_less_patience_shortens_the_wait(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("hurry").await;
    let deaf = script("hurry", "trap 'echo no' TERM; echo up; while :; do sleep 0.1; done");
    let id = node.run(&pod, &deaf).await;
    node.prints(&pod, &deaf, "up").await;
    let start = Instant::now();
    let second = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.cri.stop(&id, 1).await
    };
    let (first, second) = tokio::join!(node.cri.stop(&id, 60), second);
    first.unwrap();
    second.unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(node.exit(&id).await.exit_code, 137);
    if node.runtime == e2e::runtime::Runtime::Wherry {
        // It was asked once, however often the kubelet asks.
        assert_eq!(node.printed(&pod, &deaf).matches("no").count(), 1);
    }
}

async fn stop_and_remove_can_be_repeated(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("again").await;
    let id = node.run(&pod, &sleeper("again")).await;
    node.cri.stop(&id, 5).await.unwrap();
    node.cri.stop(&id, 5).await.unwrap();
    node.cri.remove(&id).await.unwrap();
    node.cri.remove(&id).await.unwrap();
    let never_started = node.create(&pod, &sleeper("never")).await.unwrap();
    node.cri.stop(&never_started, 5).await.unwrap();
    node.cri.remove(&never_started).await.unwrap();
}

async fn stop_and_remove_take_unknown_ids(world: &mut World) {
    let node = world.node().await;
    let unknown = "0".repeat(64);
    node.cri.stop(&unknown, 5).await.unwrap();
    node.cri.remove(&unknown).await.unwrap();
}

async fn a_running_container_can_be_removed(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("removed").await;
    let id = node.run(&pod, &sleeper("removed")).await;
    node.cri.remove(&id).await.unwrap();
    assert_eq!(code(node.cri.container(&id).await), Code::NotFound);
}

async fn unknown_containers_are_not_found(world: &mut World) {
    let node = world.node().await;
    let unknown = "0".repeat(64);
    assert_eq!(code(node.cri.container(&unknown).await), Code::NotFound);
    assert_eq!(code(node.cri.start(&unknown).await), Code::NotFound);
    assert_eq!(code(node.cri.exec(&unknown, &["true"], 5).await), Code::NotFound);
    node.pull(BUSYBOX).await.unwrap();
    let config = node.pod_config("unknown");
    let answer = node.cri.create(&unknown, &sleeper("orphan"), &config).await;
    assert_eq!(code(answer), Code::NotFound);
}

async fn lists_are_filtered_by_id_state_pod_and_labels(world: &mut World) {
    let node = world.node().await;
    let (one, two) = (node.pod("one").await, node.pod("two").await);
    let red = node.run(&one, &sleeper("red").label("colour", "red")).await;
    let blue = node.create(&two, &sleeper("blue").label("colour", "blue")).await.unwrap();
    let of = async |filter| -> Vec<String> {
        let listed = node.cri.containers(Some(filter)).await.unwrap();
        listed.into_iter().map(|container| container.id).collect()
    };
    let state = ContainerStateValue { state: ContainerState::ContainerRunning.into() };
    let running = ContainerFilter { state: Some(state), ..Default::default() };
    assert_eq!(of(running).await, [red.clone()]);
    let by_id = ContainerFilter { id: blue[..16].into(), ..Default::default() };
    assert_eq!(of(by_id).await, [blue.clone()]);
    let by_pod = ContainerFilter { pod_sandbox_id: two.id[..16].into(), ..Default::default() };
    assert_eq!(of(by_pod).await, [blue]);
    let label_selector = selector("colour", "red");
    let by_label = ContainerFilter { label_selector, ..Default::default() };
    assert_eq!(of(by_label).await, [red]);
}

async fn a_container_starts_once(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("once").await;
    let id = node.run(&pod, &script("once", "exit 4")).await;
    node.exit(&id).await;
    code(node.cri.start(&id).await);
    assert_eq!(node.cri.container(&id).await.unwrap().exit_code, 4);
}

async fn another_attempt_is_another_container(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("attempts").await;
    let first = node.create(&pod, &sleeper("same")).await.unwrap();
    let second = node.create(&pod, &sleeper("same").attempt(1)).await.unwrap();
    assert_ne!(first, second);
}

async fn the_image_id_is_the_same_everywhere(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("one-id").await;
    let pulled = node.cri.pull(BUSYBOX, None).await.unwrap();
    let id = node.create(&pod, &sleeper("one-id")).await.unwrap();
    let image = node.cri.image(BUSYBOX).await.unwrap().unwrap();
    let listed = node.cri.containers(None).await.unwrap().remove(0);
    let status = node.cri.container(&id).await.unwrap();
    let ids = [&image.id, &listed.image_id, &listed.image_ref, &status.image_id];
    assert_eq!(ids, [&pulled; 4]);
}
