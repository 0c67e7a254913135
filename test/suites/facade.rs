//! Agents that know containerd's API only: what cAdvisor asks when it finds a container's cgroup.

use std::path::Path;

use e2e::runner::Test;
use e2e::runtime::Settings;
use e2e::spec::{Container, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::containerd::containers::containers_client::ContainersClient;
use proto::containerd::containers::{
    Container as Known, GetContainerRequest, ListContainersRequest,
};
use proto::containerd::tasks::GetRequest;
use proto::containerd::tasks::tasks_client::TasksClient;
use proto::containerd::version::version_client::VersionClient;
use proto::shim::v1::types::Status as TaskStatus;
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: an_agent_that_knows_containerd_is_told_labels_image_environment_and_pid,
        Wherry: containers_are_in_the_namespace_of_kubernetes_only,
        Wherry: a_containerd_that_serves_keeps_its_socket,
    ]
}

fn settings(socket: &Path) -> Settings {
    let extra = format!("[facade]\ncontainerd_socket = {socket:?}\n");
    Settings { extra, ..Settings::default() }
}

fn connect(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect_lazy()
}

/// A request as containerd's clients make it.
fn within<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
    request
}

async fn get(channel: &Channel, namespace: &str, id: &str) -> Result<Known, Status> {
    let request = within(namespace, GetContainerRequest { id: id.into() });
    let answer = ContainersClient::new(channel.clone()).get(request).await?;
    Ok(answer.into_inner().container.unwrap())
}

async fn an_agent_that_knows_containerd_is_told_labels_image_environment_and_pid(
    world: &mut World,
) {
    let socket = world.folder.join("containerd.sock");
    let node = world.node_with(settings(&socket)).await;
    let channel = connect(&socket);
    let version = VersionClient::new(channel.clone()).version(()).await.unwrap().into_inner();
    assert!(!version.version.is_empty());
    let pod = node.pod("facade").await;
    let config = sleeper("agent")
        .label("io.kubernetes.pod.name", "facade")
        .label("io.kubernetes.container.name", "agent")
        .env("COLOUR", "blue");
    let id = node.run(&pod, &config).await;
    let known = get(&channel, "k8s.io", &id).await.unwrap();
    assert_eq!((known.id.as_str(), known.sandbox.as_str()), (id.as_str(), pod.id.as_str()));
    assert_eq!(known.labels["io.kubernetes.pod.name"], "facade");
    assert_eq!(known.labels["io.cri-containerd.kind"], "container");
    assert_eq!(known.image, config.image.as_ref().unwrap().image);
    assert!(known.created_at.unwrap().seconds > 1_600_000_000);
    let spec = known.spec.unwrap();
    assert_eq!(spec.type_url, "types.containerd.io/opencontainers/runtime-spec/1/Spec");
    let spec: Value = serde_json::from_slice(&spec.value).unwrap();
    let environment = spec["process"]["env"].as_array().unwrap();
    assert!(environment.contains(&"COLOUR=blue".into()), "{environment:?}");
    let annotations = &spec["annotations"];
    for (key, value) in [
        ("container-type", "container"),
        ("container-name", "agent"),
        ("sandbox-name", "facade"),
        ("sandbox-namespace", "default"),
        ("sandbox-id", pod.id.as_str()),
    ] {
        assert_eq!(annotations[format!("io.kubernetes.cri.{key}")], value, "{key}");
    }
    let request =
        || within("k8s.io", GetRequest { container_id: id.clone(), ..Default::default() });
    let mut tasks = TasksClient::new(channel.clone());
    let process = tasks.get(request()).await.unwrap().into_inner().process.unwrap();
    assert_eq!(process.status(), TaskStatus::Running);
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap();
    assert!(cgroup.contains(&id), "the pid is the container's: {cgroup}");
    node.sleeps(&id).await;
    node.cri.stop(&id, 5).await.unwrap();
    let process = tasks.get(request()).await.unwrap().into_inner().process.unwrap();
    assert_eq!((process.status(), process.exit_status), (TaskStatus::Stopped, 0));
    let all = ContainersClient::new(channel.clone());
    let request = within("k8s.io", ListContainersRequest::default());
    let all = all.clone().list(request).await.unwrap().into_inner().containers;
    assert!(all.iter().any(|known| known.id == id));
}

async fn containers_are_in_the_namespace_of_kubernetes_only(world: &mut World) {
    let socket = world.folder.join("containerd.sock");
    let node = world.node_with(settings(&socket)).await;
    let channel = connect(&socket);
    let pod = node.pod("namespace").await;
    let id = node.run(&pod, &sleeper("namespace")).await;
    assert_eq!(crate::code(get(&channel, "moby", &id).await), Code::NotFound);
    assert_eq!(crate::code(get(&channel, "k8s.io", &"f".repeat(64)).await), Code::NotFound);
    assert_eq!(crate::code(get(&channel, "k8s.io", &id[..12]).await), Code::NotFound);
    let request = within("moby", ListContainersRequest::default());
    let all = ContainersClient::new(channel).list(request).await.unwrap().into_inner();
    assert_eq!(all.containers, []);
}

async fn a_containerd_that_serves_keeps_its_socket(world: &mut World) {
    let socket = world.folder.join("taken.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let node = world.node_with(settings(&socket)).await;
    assert!(node.log_text().contains("somebody else serves on this socket"));
    assert!(node.cri.version().await.is_ok(), "the kubelet is served in any case");
    let _client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    drop(listener);
}
