//! Bad input: the right code, one sentence that names operation and object, nothing partial left, the daemon up.

use std::time::{Duration, Instant};

use e2e::image::catalog::{BUSYBOX, FOREIGN, LAYERS};
use e2e::node::Node;
use e2e::runner::Test;
use e2e::runtime::{Runtime, Settings};
use e2e::spec::{Container, container, script};
use e2e::tests;
use e2e::world::World;
use tonic::{Code, Status};

pub fn tests() -> Vec<Test> {
    tests![
        Any: references_that_do_not_parse_are_refused,
        Any: a_registry_that_is_down_is_unavailable,
        Any: an_image_that_does_not_exist_is_not_found,
        Any: a_layer_with_other_bytes_is_refused,
        Any: a_manifest_with_other_bytes_is_refused,
        Any: a_truncated_layer_is_refused,
        Wherry: a_manifest_without_an_end_is_refused,
        Any: a_registry_that_fails_is_an_error,
        Wherry: a_download_that_stands_still_is_given_up,
        Any: an_image_for_another_machine_is_refused,
        Wherry: a_missing_command_is_the_callers_mistake,
        Wherry: a_mount_target_that_leads_out_of_the_root_is_refused,
        Any: a_link_that_leads_out_of_the_root_stays_inside,
        Any: a_container_of_an_absent_image_is_not_found,
        Any: a_container_without_metadata_is_refused,
        Wherry: ids_that_are_paths_are_refused,
    ]
}

/// One sentence, without a line break, that names the object.
#[track_caller]
fn says(error: &Status, object: &str) {
    let message = error.message();
    assert!(message.contains(object), "{message:?} does not name {object}");
    assert!(!message.contains('\n') && message.len() < 600, "{message:?} is no sentence");
}

/// The code must be one of these; the reference has codes of its own.
#[track_caller]
fn is(node: &Node, error: &Status, codes: &[Code]) {
    if node.runtime == Runtime::Wherry {
        assert!(codes.contains(&error.code()), "{:?} for {error}", error.code());
    }
}

/// A pull that must fail and leave nothing.
async fn refused(world: &mut World, name: &str, codes: &[Code]) -> Status {
    let node = world.node().await;
    let before = (node.cri.images().await.unwrap(), used(node).await);
    let error = node.cri.pull(name, None).await.expect_err("this pull must fail");
    is(node, &error, codes);
    assert_eq!(node.cri.image(name).await.ok().flatten(), None);
    let after = (node.cri.images().await.unwrap(), used(node).await);
    if node.runtime == Runtime::Wherry {
        assert_eq!(before, after, "something partial was left behind");
        assert_eq!(drafts(node), Vec::<String>::new());
    }
    node.cri.version().await.expect("the daemon stays up");
    error
}

async fn used(node: &Node) -> u64 {
    let info = node.cri.image_fs().await.unwrap().image_filesystems.remove(0);
    info.used_bytes.unwrap_or_default().value
}

/// Temporary files and folders below the root.
fn drafts(node: &Node) -> Vec<String> {
    fn walk(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(".tmp") {
                found.push(entry.path().display().to_string());
            } else if name != "fs" && entry.path().is_dir() {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&node.folders.root, &mut found);
    found
}

async fn references_that_do_not_parse_are_refused(world: &mut World) {
    let long = "a".repeat(5000);
    for name in ["", "Upper/Case:1", "plain.test/x:a b", "plain.test/x@sha256:1234", &long] {
        let error = refused(world, name, &[Code::InvalidArgument]).await;
        if name.len() > 1 && name.len() < 100 {
            says(&error, name);
        }
    }
}

async fn a_registry_that_is_down_is_unavailable(world: &mut World) {
    let start = Instant::now();
    let error = refused(world, "down.test/busybox:1", &[Code::Unavailable]).await;
    says(&error, "down.test/busybox:1");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

async fn an_image_that_does_not_exist_is_not_found(world: &mut World) {
    for name in ["plain.test/no-such-image:1", "plain.test/busybox:no-such-tag"] {
        says(&refused(world, name, &[Code::NotFound]).await, name);
    }
}

/// What the data is worth, not what the caller did, is wrong.
const CORRUPT: &[Code] = &[Code::DataLoss, Code::Internal];

async fn a_layer_with_other_bytes_is_refused(world: &mut World) {
    let error = refused(world, "evil.test/wrong-layer:1", CORRUPT).await;
    says(&error, "evil.test/wrong-layer:1");
}

async fn a_manifest_with_other_bytes_is_refused(world: &mut World) {
    let error = refused(world, "evil.test/wrong-manifest:1", CORRUPT).await;
    says(&error, "evil.test/wrong-manifest:1");
}

async fn a_truncated_layer_is_refused(world: &mut World) {
    let codes = [CORRUPT, &[Code::Unavailable]].concat();
    let error = refused(world, "evil.test/truncated:1", &codes).await;
    says(&error, "evil.test/truncated:1");
}

async fn a_manifest_without_an_end_is_refused(world: &mut World) {
    let codes = [CORRUPT, &[Code::InvalidArgument, Code::ResourceExhausted]].concat();
    let error = refused(world, "evil.test/endless:1", &codes).await;
    says(&error, "evil.test/endless:1");
}

async fn a_registry_that_fails_is_an_error(world: &mut World) {
    let error = refused(world, "evil.test/failing:1", &[Code::Unavailable]).await;
    says(&error, "evil.test/failing:1");
}

async fn a_download_that_stands_still_is_given_up(world: &mut World) {
    let node = world.node_with(quick()).await;
    let start = Instant::now();
    let error = node.cri.pull("evil.test/stalled:1", None).await.unwrap_err();
    is(node, &error, &[Code::Unavailable, Code::DeadlineExceeded]);
    says(&error, "evil.test/stalled:1");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(drafts(node), Vec::<String>::new());
}

/// A node that gives up downloads after two seconds without progress.
fn quick() -> Settings {
    let extra = "[image]\nno_progress_timeout = 2\n".into();
    Settings { extra, ..Settings::default() }
}

async fn an_image_for_another_machine_is_refused(world: &mut World) {
    let codes =
        [Code::NotFound, Code::FailedPrecondition, Code::InvalidArgument, Code::Unimplemented];
    says(&refused(world, FOREIGN, &codes).await, FOREIGN);
}

async fn a_missing_command_is_the_callers_mistake(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("missing").await;
    let id = node.create(&pod, &container("missing", BUSYBOX, &["no-such-program"])).await.unwrap();
    let error = node.cri.start(&id).await.unwrap_err();
    is(node, &error, &[Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition]);
    says(&error, "no-such-program");
}

async fn a_mount_target_that_leads_out_of_the_root_is_refused(world: &mut World) {
    let folder = world.new_folder();
    let node = world.node().await;
    let pod = node.pod("outside").await;
    for target in ["/tmp/../../../outside", "../outside"] {
        let config = script("outside", "true").mount(&folder, target, false);
        let error = node.create(&pod, &config).await.expect_err(target);
        is(node, &error, &[Code::InvalidArgument]);
        says(&error, "outside");
    }
    assert_eq!(node.cri.containers(None).await.unwrap(), []);
    assert!(!std::path::Path::new("/outside").exists());
}

async fn a_link_that_leads_out_of_the_root_stays_inside(world: &mut World) {
    let folder = world.new_folder();
    let node = world.node().await;
    let pod = node.pod("link").await;
    // A target below a link to a file: there is nothing to bind on, on this side or the other.
    let mut config = script("link", "true").mount(&folder, "/data/absolute/below", false);
    config.image.as_mut().unwrap().image = LAYERS.into();
    let error = match node.create(&pod, &config).await {
        Ok(id) => node.cri.start(&id).await.expect_err("nothing can be bound there"),
        Err(error) => error,
    };
    is(node, &error, &[Code::InvalidArgument, Code::FailedPrecondition]);
    assert!(!std::path::Path::new("/data").exists());
}

async fn a_container_of_an_absent_image_is_not_found(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("absent").await;
    let config = container("absent", "plain.test/never-pulled:1", &["true"]);
    let error = node.cri.create(&pod.id, &config, &pod.config).await.unwrap_err();
    is(node, &error, &[Code::NotFound]);
    says(&error, "never-pulled");
    assert_eq!(node.cri.containers(None).await.unwrap(), []);
}

async fn a_container_without_metadata_is_refused(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("nameless").await;
    node.pull(BUSYBOX).await.unwrap();
    let mut config = script("nameless", "true");
    config.metadata = None;
    let error = node.cri.create(&pod.id, &config, &pod.config).await.unwrap_err();
    is(node, &error, &[Code::InvalidArgument]);
}

async fn ids_that_are_paths_are_refused(world: &mut World) {
    let node = world.node().await;
    for id in ["../../etc", "/", "..", "a/b"] {
        let error = node.cri.container(id).await.unwrap_err();
        assert!(matches!(error.code(), Code::NotFound | Code::InvalidArgument), "{error}");
        let error = node.cri.pod_status(id).await.unwrap_err();
        assert!(matches!(error.code(), Code::NotFound | Code::InvalidArgument), "{error}");
    }
}
