//! Pods: what they say about themselves, how they are found, that stop and remove can be repeated.

use e2e::runner::Test;
use e2e::spec::{PodConfig, script, selector, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::{NamespaceMode, PodSandboxFilter, PodSandboxState, PodSandboxStateValue};
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: a_new_pod_is_ready_and_says_what_it_was_asked_for,
        Any: ids_are_64_lowercase_hexadecimal_digits,
        Any: a_unique_prefix_names_a_pod,
        Any: stop_and_remove_can_be_repeated,
        Wherry: stop_and_remove_take_unknown_ids,
        Any: the_status_of_an_unknown_pod_is_not_found,
        Any: lists_are_filtered_by_id_state_and_labels,
        Any: stopping_a_pod_stops_its_containers,
        Any: removing_a_pod_removes_its_containers_even_when_they_run,
        Any: a_stopped_pod_takes_no_new_container,
        Wherry: the_same_request_again_gives_the_same_pod,
        Wherry: requests_at_the_same_time_share_one_pod,
        Wherry: another_attempt_is_another_pod,
        Any: a_pod_without_metadata_is_refused,
    ]
}

async fn a_new_pod_is_ready_and_says_what_it_was_asked_for(world: &mut World) {
    let node = world.node().await;
    let odd = "any text: \"quoted\", ünïcode, {\"json\": true}\n";
    let config = node.pod_config("asked").label("example.org/a", odd);
    let before = now_nanos();
    let pod = node.run_pod(config.clone()).await.unwrap();
    let status = node.cri.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.id, pod.id);
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, config.metadata);
    assert_eq!(status.labels, config.labels);
    assert_eq!(status.annotations, config.annotations);
    assert!((before..=now_nanos()).contains(&status.created_at), "{}", status.created_at);
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.network(), NamespaceMode::Pod);
    assert_eq!(options.pid(), NamespaceMode::Container);
    let listed = node.cri.pods(None).await.unwrap().remove(0);
    assert_eq!((listed.id, listed.metadata), (pod.id, config.metadata));
    assert_eq!((listed.labels, listed.annotations), (config.labels, config.annotations));
}

fn now_nanos() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

async fn ids_are_64_lowercase_hexadecimal_digits(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("hex").await;
    let container = node.create(&pod, &sleeper("hex")).await.unwrap();
    for id in [&pod.id, &container] {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(id.len() == 64 && id.bytes().all(hex), "{id}");
    }
}

async fn a_unique_prefix_names_a_pod(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("prefix").await;
    let id = node.create(&pod, &sleeper("prefix")).await.unwrap();
    assert_eq!(node.cri.pod_status(&pod.id[..12]).await.unwrap().id, pod.id);
    assert_eq!(node.cri.container(&id[..12]).await.unwrap().id, id);
    node.cri.start(&id[..12]).await.unwrap();
    node.cri.stop(&id[..12], 5).await.unwrap();
    node.cri.remove(&id[..12]).await.unwrap();
    node.cri.stop_pod(&pod.id[..12]).await.unwrap();
    node.cri.remove_pod(&pod.id[..12]).await.unwrap();
    assert_eq!(node.cri.pods(None).await.unwrap(), []);
}

async fn stop_and_remove_can_be_repeated(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("again").await;
    node.cri.stop_pod(&pod.id).await.unwrap();
    node.cri.stop_pod(&pod.id).await.unwrap();
    let state = node.cri.pod_status(&pod.id).await.unwrap().state();
    assert_eq!(state, PodSandboxState::SandboxNotready);
    node.cri.remove_pod(&pod.id).await.unwrap();
    node.cri.remove_pod(&pod.id).await.unwrap();
}

async fn stop_and_remove_take_unknown_ids(world: &mut World) {
    let node = world.node().await;
    let unknown = "0".repeat(64);
    node.cri.stop_pod(&unknown).await.unwrap();
    node.cri.remove_pod(&unknown).await.unwrap();
    let pod = node.pod("removed").await;
    node.cri.remove_pod(&pod.id).await.unwrap();
    node.cri.stop_pod(&pod.id).await.unwrap();
}

async fn the_status_of_an_unknown_pod_is_not_found(world: &mut World) {
    let node = world.node().await;
    assert_eq!(code(node.cri.pod_status(&"0".repeat(64)).await), Code::NotFound);
    let pod = node.pod("gone").await;
    node.cri.remove_pod(&pod.id).await.unwrap();
    assert_eq!(code(node.cri.pod_status(&pod.id).await), Code::NotFound);
}

async fn lists_are_filtered_by_id_state_and_labels(world: &mut World) {
    let node = world.node().await;
    let red = node.run_pod(node.pod_config("red").label("colour", "red")).await.unwrap().id;
    let blue = node.run_pod(node.pod_config("blue").label("colour", "blue")).await.unwrap().id;
    node.cri.stop_pod(&blue).await.unwrap();
    let of = async |filter| -> Vec<String> {
        node.cri.pods(Some(filter)).await.unwrap().into_iter().map(|pod| pod.id).collect()
    };
    let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state.into() });
    let ready =
        PodSandboxFilter { state: state(PodSandboxState::SandboxReady), ..Default::default() };
    assert_eq!(of(ready).await, [red.clone()]);
    let by_id = PodSandboxFilter { id: blue[..16].into(), ..Default::default() };
    assert_eq!(of(by_id).await, [blue.clone()]);
    let label_selector = selector("colour", "red");
    let by_label = PodSandboxFilter { label_selector, ..Default::default() };
    assert_eq!(of(by_label).await, [red.clone()]);
    let label_selector = selector("colour", "red");
    let both = PodSandboxFilter { id: blue, label_selector, ..Default::default() };
    assert_eq!(of(both).await, Vec::<String>::new());
}

async fn stopping_a_pod_stops_its_containers(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("whole").await;
    let id = node.run(&pod, &sleeper("inside")).await;
    node.cri.stop_pod(&pod.id).await.unwrap();
    let status = node.exit(&id).await;
    assert_ne!(status.finished_at, 0);
    assert_eq!(node.cri.containers(None).await.unwrap().len(), 1);
}

async fn removing_a_pod_removes_its_containers_even_when_they_run(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("whole").await;
    let id = node.run(&pod, &sleeper("inside")).await;
    node.cri.remove_pod(&pod.id).await.unwrap();
    assert_eq!(code(node.cri.container(&id).await), Code::NotFound);
}

async fn a_stopped_pod_takes_no_new_container(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("stopped").await;
    node.pull(e2e::image::catalog::BUSYBOX).await.unwrap();
    node.cri.stop_pod(&pod.id).await.unwrap();
    code(node.create(&pod, &script("late", "true")).await);
    assert_eq!(node.cri.containers(None).await.unwrap(), []);
}

async fn the_same_request_again_gives_the_same_pod(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("retried").await;
    assert_eq!(node.cri.run_pod(&pod.config).await.unwrap(), pod.id);
    let first = node.create(&pod, &sleeper("retried")).await.unwrap();
    assert_eq!(node.create(&pod, &sleeper("retried")).await.unwrap(), first);
    assert_eq!(node.cri.pods(None).await.unwrap().len(), 1);
    assert_eq!(node.cri.containers(None).await.unwrap().len(), 1);
}

async fn requests_at_the_same_time_share_one_pod(world: &mut World) {
    let node = world.node().await;
    node.pull(e2e::image::catalog::BUSYBOX).await.unwrap();
    let config = node.pod_config("shared");
    std::fs::create_dir_all(&config.log_directory).unwrap();
    let run = || node.cri.run_pod(&config);
    let (a, b, c) = tokio::join!(run(), run(), run());
    let id = a.unwrap();
    node.ids.note(&id);
    assert_eq!([b.unwrap(), c.unwrap()], [id.clone(), id.clone()]);
    let container = sleeper("shared");
    let create = || node.cri.create(&id, &container, &config);
    let (a, b, c) = tokio::join!(create(), create(), create());
    let container = a.unwrap();
    node.ids.note(&container);
    assert_eq!([b.unwrap(), c.unwrap()], [container.clone(), container]);
    assert_eq!(node.cri.containers(None).await.unwrap().len(), 1);
}

async fn another_attempt_is_another_pod(world: &mut World) {
    let node = world.node().await;
    let first = node.pod("attempts").await;
    node.cri.stop_pod(&first.id).await.unwrap();
    let mut config = first.config.clone();
    config.metadata.as_mut().unwrap().attempt = 1;
    let second = node.run_pod(config).await.unwrap();
    assert_ne!(first.id, second.id);
}

async fn a_pod_without_metadata_is_refused(world: &mut World) {
    let node = world.node().await;
    let mut config = node.pod_config("nameless");
    config.metadata = None;
    code(node.cri.run_pod(&config).await);
    assert_eq!(node.cri.pods(None).await.unwrap(), []);
}
