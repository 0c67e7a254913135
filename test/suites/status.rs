//! What the node says of itself: conditions that mean something, features, and what tools look for.

use std::fs;

use e2e::node::Node;
use e2e::runner::Test;
use e2e::runtime::{Network, Settings, bridge_conflist};
use e2e::spec::{PodConfig, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::{
    CheckpointContainerRequest, CheckpointPodRequest, ContainerStatusRequest, ImageSpec,
    ImageStatusRequest, NamespaceMode, PodSandboxStatusRequest, RestorePodRequest,
    RuntimeCondition,
};
use serde_json::Value;
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: a_healthy_node_is_ready,
        Wherry: a_node_without_its_folder_is_not_ready_and_says_why,
        Wherry: features_are_those_of_the_node,
        Any: verbose_status_has_what_tools_look_for,
        Plugins: verbose_status_shows_the_network_in_use,
        Any: verbose_answers_describe_containers_and_images,
        Wherry: a_pod_says_where_its_namespaces_are,
        Wherry: checkpoints_are_refused_in_a_sentence,
        Wherry: images_can_be_pinned_by_configuration,
        Any: a_container_made_from_an_image_id_says_the_image_s_name,
        Any: a_pod_on_the_nodes_network_has_no_address,
    ]
}

async fn condition(node: &Node, name: &str) -> RuntimeCondition {
    let status = node.cri.status().await.unwrap().status.unwrap();
    status.conditions.into_iter().find(|one| one.r#type == name).unwrap()
}

async fn a_healthy_node_is_ready(world: &mut World) {
    let node = world.node().await;
    for name in ["RuntimeReady", "NetworkReady"] {
        let found = condition(node, name).await;
        assert!(found.status && found.reason.is_empty(), "{found:?}");
    }
}

async fn a_node_without_its_folder_is_not_ready_and_says_why(world: &mut World) {
    let node = world.node().await;
    let folder = node.folders.state.join("containers");
    let aside = node.folders.state.join("aside");
    fs::rename(&folder, &aside).unwrap();
    let found = condition(node, "RuntimeReady").await;
    fs::rename(&aside, &folder).unwrap();
    assert!(!found.status, "{found:?}");
    assert_eq!(found.reason, "StateUnusable");
    assert!(found.message.contains(folder.to_str().unwrap()), "{found:?}");
    assert!(condition(node, "RuntimeReady").await.status);
}

async fn features_are_those_of_the_node(world: &mut World) {
    let node = world.node().await;
    let status = node.cri.status().await.unwrap();
    for name in ["", "wherry"] {
        let handler = status.runtime_handlers.iter().find(|one| one.name == name).unwrap();
        // The tests of mounts would fail on a machine without it.
        assert!(handler.features.unwrap().recursive_read_only_mounts, "{handler:?}");
    }
    assert!(status.features.unwrap().supplemental_groups_policy);
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect(text)
}

async fn verbose_status_has_what_tools_look_for(world: &mut World) {
    let node = world.node().await;
    let info = node.cri.status().await.unwrap().info;
    let config = json(&info["config"]);
    // kubeadm reads this one.
    assert!(config["sandboxImage"].is_string(), "{config}");
    assert!(config["containerd"]["snapshotter"].as_str().is_some(), "{config}");
    assert!(json(&info["cniconfig"])["PluginDirs"].is_array(), "{info:?}");
    assert_eq!(info["lastCNILoadStatus"], "OK");
}

async fn verbose_status_shows_the_network_in_use(world: &mut World) {
    let list = bridge_conflist("cni1", "10.77.0.0/24");
    let settings = Settings { network: Network::Conflist(list), ..Default::default() };
    let node = world.node_with(settings).await;
    let info = node.cri.status().await.unwrap().info;
    let text = &info["cniconfig"];
    assert!(text.contains("test-net") && text.contains("portmap"), "{text}");
}

async fn verbose_answers_describe_containers_and_images(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("told").await;
    let id = node.run(&pod, &sleeper("told")).await;
    let request = ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let answer = node.cri.runtime.clone().container_status(request).await.unwrap().into_inner();
    let info = json(&answer.info["info"]);
    assert_eq!(info["sandboxID"], pod.id.as_str());
    assert!(info["pid"].as_u64().unwrap() > 1, "{info}");
    assert_eq!(info["removing"], false);
    assert!(info["runtimeSpec"]["linux"]["namespaces"].is_array(), "{info}");
    for key in ["snapshotKey", "snapshotter", "runtimeType", "config"] {
        assert!(!info[key].is_null(), "{key}: {info}");
    }
    let image = ImageSpec { image: e2e::image::catalog::SET_UP.into(), ..Default::default() };
    node.pull(&image.image).await.unwrap();
    let request = ImageStatusRequest { image: Some(image), verbose: true };
    let answer = node.cri.images.clone().image_status(request).await.unwrap().into_inner();
    let info = json(&answer.info["info"]);
    let spec = &info["imageSpec"];
    assert!(spec["rootfs"]["diff_ids"].is_array() && spec["config"].is_object(), "{info}");
    assert!(info["chainID"].as_str().unwrap().starts_with("sha256:"), "{info}");
}

async fn a_pod_says_where_its_namespaces_are(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("where").await;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let answer = node.cri.runtime.clone().pod_sandbox_status(request).await.unwrap().into_inner();
    let info = json(&answer.info["info"]);
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
    let network = namespaces.iter().find(|one| one["type"] == "network").unwrap();
    assert!(fs::metadata(network["path"].as_str().unwrap()).is_ok(), "{info}");
    assert_eq!(info["netNamespaceClosed"], false);
    assert!(info["cniResult"]["ips"].is_array(), "{info}");
}

async fn checkpoints_are_refused_in_a_sentence(world: &mut World) {
    let node = world.node().await;
    let mut runtime = node.cri.runtime.clone();
    let request = CheckpointContainerRequest::default();
    let errors = [
        runtime.checkpoint_container(request).await.map(drop).unwrap_err(),
        runtime.checkpoint_pod(CheckpointPodRequest::default()).await.map(drop).unwrap_err(),
        runtime.restore_pod(RestorePodRequest::default()).await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert!(error.message().contains("does not support checkpoints"), "{error}");
        assert_eq!(code::<()>(Err(error)), Code::Unimplemented);
    }
}

async fn images_can_be_pinned_by_configuration(world: &mut World) {
    let extra = format!("[image]\npinned = [{:?}]\n", e2e::image::catalog::BUSYBOX);
    let node = world.node_with(Settings { extra, ..Default::default() }).await;
    node.pull(e2e::image::catalog::BUSYBOX).await.unwrap();
    node.pull(e2e::image::catalog::SET_UP).await.unwrap();
    assert!(node.cri.image(e2e::image::catalog::BUSYBOX).await.unwrap().unwrap().pinned);
    assert!(!node.cri.image(e2e::image::catalog::SET_UP).await.unwrap().unwrap().pinned);
    node.crash().await;
    node.up().await.unwrap();
    let pinned = node.cri.images().await.unwrap().into_iter().filter(|image| image.pinned);
    assert_eq!(pinned.count(), 1);
}

async fn a_container_made_from_an_image_id_says_the_image_s_name(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("by-id").await;
    let name = e2e::image::catalog::BUSYBOX;
    let mut config = sleeper("by-id");
    // As the kubelet does it.
    config.image = Some(ImageSpec {
        image: node.cri.pull(name, None).await.unwrap(),
        user_specified_image: name.into(),
        ..Default::default()
    });
    let id = node.create(&pod, &config).await.unwrap();
    let status = node.cri.container(&id).await.unwrap();
    assert_eq!(status.image.unwrap().image, name);
    let digest = status.image_ref;
    assert!(digest.starts_with("plain.test/busybox@sha256:"), "{digest}");
}

async fn a_pod_on_the_nodes_network_has_no_address(world: &mut World) {
    let node = world.node().await;
    let config = node.pod_config("host");
    let config = config.namespaces(|options| options.network = NamespaceMode::Node.into());
    let pod = node.run_pod(config).await.unwrap();
    let status = node.cri.pod_status(&pod.id).await.unwrap();
    let network = status.network.unwrap_or_default();
    assert_eq!((network.ip.as_str(), network.additional_ips.len()), ("", 0));
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.network(), NamespaceMode::Node);
}
