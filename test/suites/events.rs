//! Events: what happens to containers and pods, told as it happens, in order, with the pod's statuses.

use std::time::{Duration, Instant};

use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::spec::{PodConfig, script, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};
use proto::cri::{
    ContainerEventResponse, ContainerEventType, ContainerState, GetEventsRequest, NamespaceMode,
    PodSandboxState, PodSandboxStatusRequest,
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: a_whole_life_is_told_in_order,
        Wherry: an_event_brings_the_statuses_of_its_pod,
        Wherry: a_container_that_ends_or_cannot_start_is_told_of,
        Wherry: every_reader_hears_everything_from_when_it_came,
        Wherry: a_reader_that_does_not_read_is_told_that_it_missed_something,
        Wherry: readers_do_not_keep_the_daemon_from_ending,
        Wherry: the_status_of_a_pod_has_its_containers_and_a_time,
    ]
}

/// One who listens to a node's events.
struct Reader(Streaming<ContainerEventResponse>);

impl Reader {
    async fn new(node: &Node) -> Self {
        let stream = node.cri.runtime.clone().get_container_events(GetEventsRequest {}).await;
        Self(stream.unwrap().into_inner())
    }

    async fn next(&mut self) -> Result<Option<ContainerEventResponse>, Status> {
        timeout(Duration::from_secs(20), self.0.message()).await.expect("an event in time")
    }

    async fn take(&mut self, number: usize) -> Vec<ContainerEventResponse> {
        let mut events = Vec::new();
        while events.len() < number {
            events.push(self.next().await.unwrap().unwrap());
        }
        events
    }
}

fn what(events: &[ContainerEventResponse]) -> Vec<(&str, ContainerEventType)> {
    let of = |event: &ContainerEventResponse| event.container_event_type();
    events.iter().map(|event| (event.container_id.as_str(), of(event))).collect()
}

/// A pod and a container of it, from the first call to the last.
async fn live(node: &Node) -> (Pod, String) {
    let pod = node.pod("life").await;
    let id = node.run(&pod, &sleeper("life")).await;
    node.cri.stop(&id, 10).await.unwrap();
    node.cri.remove(&id).await.unwrap();
    node.cri.stop_pod(&pod.id).await.unwrap();
    node.cri.remove_pod(&pod.id).await.unwrap();
    (pod, id)
}

async fn a_whole_life_is_told_in_order(world: &mut World) {
    let node = world.node().await;
    let mut reader = Reader::new(node).await;
    let (pod, id) = live(node).await;
    let events = reader.take(8).await;
    let (pod, id) = (pod.id.as_str(), id.as_str());
    let expected = [
        (pod, Created),
        (pod, Started),
        (id, Created),
        (id, Started),
        (id, Stopped),
        (id, Deleted),
        (pod, Stopped),
        (pod, Deleted),
    ];
    assert_eq!(what(&events), expected);
    assert!(events.is_sorted_by_key(|event| event.created_at), "{events:?}");
}

async fn an_event_brings_the_statuses_of_its_pod(world: &mut World) {
    let node = world.node().await;
    let mut reader = Reader::new(node).await;
    let (pod, id) = live(node).await;
    let mut states = Vec::new();
    for event in reader.take(8).await {
        let status = event.pod_sandbox_status.unwrap();
        assert_eq!((&status.id, &status.metadata), (&pod.id, &pod.config.metadata));
        let ready = status.state() == PodSandboxState::SandboxReady;
        assert!(event.containers_statuses.iter().all(|container| container.id == id));
        let inside = event.containers_statuses.first().map(proto::cri::ContainerStatus::state);
        states.push((ready, inside));
    }
    let inside = [
        ContainerState::ContainerCreated,
        ContainerState::ContainerRunning,
        ContainerState::ContainerExited,
    ];
    let [created, running, exited] = inside.map(Some);
    let expected = [
        (true, None),
        (true, None),
        (true, created),
        (true, running),
        (true, exited),
        (true, None),
        (false, None),
        (false, None),
    ];
    assert_eq!(states, expected);
}

async fn a_container_that_ends_or_cannot_start_is_told_of(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("ends").await;
    let mut reader = Reader::new(node).await;
    let ended = node.run(&pod, &script("ended", "exit 3")).await;
    let events = reader.take(3).await;
    assert_eq!(what(&events), [(&*ended, Created), (&*ended, Started), (&*ended, Stopped)]);
    let status = &events[2].containers_statuses[0];
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.finished_at <= events[2].created_at);
    let missing = e2e::spec::container("missing", e2e::image::catalog::BUSYBOX, &["/missing"]);
    let missing = node.create(&pod, &missing).await.unwrap();
    node.cri.start(&missing).await.unwrap_err();
    assert_eq!(what(&reader.take(2).await), [(&*missing, Created), (&*missing, Stopped)]);
}

async fn every_reader_hears_everything_from_when_it_came(world: &mut World) {
    let node = world.node().await;
    let mut first = Reader::new(node).await;
    let one = node.pod("one").await;
    let mut second = Reader::new(node).await;
    let two = node.pod("two").await;
    let (one, two) = (one.id.as_str(), two.id.as_str());
    let all = [(one, Created), (one, Started), (two, Created), (two, Started)];
    assert_eq!(what(&first.take(4).await), all);
    assert_eq!(what(&second.take(2).await), all[2..]);
    // One that goes away takes nothing with it.
    drop(first);
    node.cri.stop_pod(two).await.unwrap();
    assert_eq!(what(&second.take(1).await), [(two, Stopped)]);
}

async fn a_reader_that_does_not_read_is_told_that_it_missed_something(world: &mut World) {
    let node = world.node().await;
    let (mut slow, mut quick) = (Reader::new(node).await, Reader::new(node).await);
    // More than the daemon keeps for a reader and the connection holds.
    let (pods, events) = (400, 1600);
    let much = "x".repeat(8 << 10);
    let counted = tokio::spawn(async move { quick.take(events).await.len() });
    for number in 0..pods {
        let config = node.pod_config(&format!("many{number}")).label("much", &much);
        let config = config.namespaces(|options| {
            options.network = NamespaceMode::Node.into();
            options.ipc = NamespaceMode::Node.into();
        });
        let pod = node.run_pod(config).await.unwrap();
        node.cri.remove_pod(&pod.id).await.unwrap();
    }
    assert_eq!(counted.await.unwrap(), events);
    let mut heard = 0;
    let end = loop {
        match slow.next().await {
            Ok(event) => heard += usize::from(event.is_some()),
            Err(status) => break status,
        }
    };
    assert!(heard < events, "{heard}");
    assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
    assert!(end.message().contains("missed"), "{end}");
    // The stream has ended, and a new one works.
    assert!(slow.next().await.unwrap().is_none());
    let mut again = Reader::new(node).await;
    let pod = node.pod("again").await;
    assert_eq!(what(&again.take(1).await), [(&*pod.id, Created)]);
}

async fn readers_do_not_keep_the_daemon_from_ending(world: &mut World) {
    let node = world.node().await;
    let mut reader = Reader::new(node).await;
    let start = Instant::now();
    assert!(node.terminate().await.unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let end = reader.next().await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    node.up().await.unwrap();
}

async fn the_status_of_a_pod_has_its_containers_and_a_time(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("whole").await;
    let other = node.pod("other").await;
    node.run(&other, &sleeper("other")).await;
    let mut ids = [
        node.run(&pod, &sleeper("runs")).await,
        node.create(&pod, &sleeper("waits")).await.unwrap(),
    ];
    ids.sort();
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let answer = node.cri.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner();
    let mut inside: Vec<_> = answer.containers_statuses.iter().map(|one| one.id.clone()).collect();
    inside.sort();
    assert_eq!(inside, ids);
    assert!(answer.timestamp > answer.status.unwrap().created_at);
    for status in answer.containers_statuses {
        assert_eq!(node.cri.container(&status.id).await.unwrap(), status);
    }
}
