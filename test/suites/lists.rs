//! Lists: the same in one answer or in many, whole, filtered, and in messages that every client takes.

use std::time::Duration;

use e2e::image::catalog::BUSYBOX;
use e2e::node::Node;
use e2e::runner::Test;
use e2e::spec::{Container, PodConfig, selector, sleeper};
use e2e::tests;
use e2e::world::World;
use prost::Message;
use proto::cri::{
    ContainerFilter, ImageFilter, ImageSpec, NamespaceMode, PodSandboxConfig, PodSandboxFilter,
    StreamContainersRequest, StreamImagesRequest, StreamPodSandboxesRequest,
};
use tonic::Streaming;

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: a_streamed_list_is_the_list,
        Wherry: a_streamed_list_is_filtered_like_the_list,
        Wherry: a_long_list_comes_in_messages_below_a_mebibyte,
    ]
}

/// Every message of a stream.
async fn collect<T>(mut stream: Streaming<T>) -> Vec<T> {
    let mut messages = Vec::new();
    let next = async |stream: &mut Streaming<T>| {
        tokio::time::timeout(Duration::from_secs(20), stream.message()).await.unwrap().unwrap()
    };
    while let Some(message) = next(&mut stream).await {
        messages.push(message);
    }
    messages
}

async fn streamed_pods(
    node: &Node,
    filter: Option<PodSandboxFilter>,
) -> Vec<proto::cri::StreamPodSandboxesResponse> {
    let request = StreamPodSandboxesRequest { filter };
    collect(node.cri.runtime.clone().stream_pod_sandboxes(request).await.unwrap().into_inner())
        .await
}

async fn streamed_containers(
    node: &Node,
    filter: Option<ContainerFilter>,
) -> Vec<proto::cri::Container> {
    let request = StreamContainersRequest { filter };
    let stream = node.cri.runtime.clone().stream_containers(request).await.unwrap().into_inner();
    collect(stream).await.into_iter().flat_map(|message| message.containers).collect()
}

async fn streamed_images(node: &Node, filter: Option<ImageFilter>) -> Vec<proto::cri::Image> {
    let request = StreamImagesRequest { filter };
    let stream = node.cri.images.clone().stream_images(request).await.unwrap().into_inner();
    collect(stream).await.into_iter().flat_map(|message| message.images).collect()
}

fn on_the_node(config: PodSandboxConfig) -> PodSandboxConfig {
    config.namespaces(|options| options.network = NamespaceMode::Node.into())
}

async fn a_streamed_list_is_the_list(world: &mut World) {
    let node = world.node().await;
    assert!(streamed_pods(node, None).await.is_empty());
    let pod = node.pod("listed").await;
    node.run(&pod, &sleeper("one").label("a", "b")).await;
    node.create(&pod, &sleeper("two")).await.unwrap();
    let pods: Vec<_> =
        streamed_pods(node, None).await.into_iter().flat_map(|one| one.pod_sandboxes).collect();
    assert_eq!(pods, node.cri.pods(None).await.unwrap());
    assert_eq!(streamed_containers(node, None).await, node.cri.containers(None).await.unwrap());
    let images = streamed_images(node, None).await;
    assert!(!images.is_empty());
    assert_eq!(images, node.cri.images().await.unwrap());
}

async fn a_streamed_list_is_filtered_like_the_list(world: &mut World) {
    let node = world.node().await;
    let red = node.run_pod(node.pod_config("red").label("colour", "red")).await.unwrap();
    node.pod("blue").await;
    let id = node.create(&red, &sleeper("red").label("colour", "red")).await.unwrap();
    node.create(&red, &sleeper("blue")).await.unwrap();
    let label_selector = selector("colour", "red");
    let filter = PodSandboxFilter { label_selector, ..Default::default() };
    let pods = streamed_pods(node, Some(filter)).await;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].pod_sandboxes.len(), 1);
    assert_eq!(pods[0].pod_sandboxes[0].id, red.id);
    let label_selector = selector("colour", "red");
    let filter = ContainerFilter { label_selector, ..Default::default() };
    let containers = streamed_containers(node, Some(filter)).await;
    assert_eq!(containers.iter().map(|one| &one.id).collect::<Vec<_>>(), [&id]);
    let named = |image: &str| {
        let image = ImageSpec { image: image.into(), ..Default::default() };
        Some(ImageFilter { image: Some(image) })
    };
    assert_eq!(streamed_images(node, named(BUSYBOX)).await.len(), 1);
    assert!(streamed_images(node, named("plain.test/no-such-image")).await.is_empty());
}

async fn a_long_list_comes_in_messages_below_a_mebibyte(world: &mut World) {
    let node = world.node().await;
    let much = "x".repeat(200 << 10);
    for number in 0..16 {
        let config = on_the_node(node.pod_config(&format!("long{number}")));
        node.run_pod(config.label("much", &much)).await.unwrap();
    }
    let messages = streamed_pods(node, None).await;
    let sizes: Vec<_> = messages.iter().map(Message::encoded_len).collect();
    assert!(sizes.len() > 5 && sizes.iter().all(|size| *size < 1 << 20), "{sizes:?}");
    let pods: Vec<_> = messages.into_iter().flat_map(|message| message.pod_sandboxes).collect();
    assert_eq!(pods, node.cri.pods(None).await.unwrap());
}
