//! Images in the store: ids, names, content, removal.

use std::time::{Duration, Instant};

use e2e::image::catalog::{BUSYBOX, LAYERS, MIXED, TAGGED, USER_NAMED, USER_NUMBERED};
use e2e::runner::Test;
use e2e::spec::{container, sleeper};
use e2e::tests;
use e2e::world::World;

pub fn tests() -> Vec<Test> {
    tests![
        Any: an_image_is_found_by_name_digest_and_id,
        Any: an_absent_image_is_no_error_and_nothing,
        Any: two_tags_of_one_image_are_one_image,
        Any: removing_an_image_removes_all_its_names_and_can_be_repeated,
        Any: an_image_pulled_by_digest_has_no_tag,
        Any: upper_layers_remove_and_hide_what_is_below,
        Any: owners_modes_and_long_names_are_kept,
        Any: layers_of_every_compression_are_unpacked,
        Any: the_image_says_who_will_run,
        Any: a_container_outlives_its_image,
        Any: the_file_system_of_the_images_is_told,
        Wherry: a_size_is_what_was_downloaded,
        Wherry: removed_images_leave_no_layers,
    ]
}

async fn an_image_is_found_by_name_digest_and_id(world: &mut World) {
    let digest = world.registries.content.digest_of("busybox", "1");
    let node = world.node().await;
    let id = node.cri.pull(BUSYBOX, None).await.unwrap();
    let hex = id.strip_prefix("sha256:").unwrap();
    assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let by_digest = format!("plain.test/busybox@{digest}");
    for name in [BUSYBOX, &by_digest, &id, hex, &hex[..12]] {
        let image = node.cri.image(name).await.unwrap();
        let image = image.unwrap_or_else(|| panic!("{name} is not found"));
        assert_eq!(image.id, id, "{name}");
        assert_eq!(image.repo_tags, [BUSYBOX]);
        assert_eq!(image.repo_digests, [by_digest.clone()]);
        assert!(image.size > 0);
    }
    let listed = node.cri.images().await.unwrap();
    assert_eq!(listed.iter().filter(|image| image.id == id).count(), 1);
}

async fn an_absent_image_is_no_error_and_nothing(world: &mut World) {
    let node = world.node().await;
    for name in ["plain.test/never-pulled:1", "never-pulled", &"0".repeat(64)] {
        assert_eq!(node.cri.image(name).await.unwrap(), None, "{name}");
        node.cri.remove_image(name).await.unwrap();
    }
}

async fn two_tags_of_one_image_are_one_image(world: &mut World) {
    let node = world.node().await;
    let first = node.cri.pull(TAGGED[0], None).await.unwrap();
    let second = node.cri.pull(TAGGED[1], None).await.unwrap();
    assert_eq!(first, second);
    let mut image = node.cri.image(TAGGED[0]).await.unwrap().unwrap();
    image.repo_tags.sort();
    assert_eq!(image.repo_tags, TAGGED);
    assert_eq!(image.repo_digests.len(), 1);
    node.cri.remove_image(TAGGED[0]).await.unwrap();
}

async fn removing_an_image_removes_all_its_names_and_can_be_repeated(world: &mut World) {
    let node = world.node().await;
    for name in TAGGED {
        node.cri.pull(name, None).await.unwrap();
    }
    let id = node.cri.image(TAGGED[0]).await.unwrap().unwrap().id;
    let remove = || node.cri.remove_image(&id);
    let (a, b) = tokio::join!(remove(), remove());
    a.and(b).unwrap();
    remove().await.unwrap();
    for name in [TAGGED[0], TAGGED[1], &id] {
        assert_eq!(node.cri.image(name).await.unwrap(), None, "{name}");
    }
}

async fn an_image_pulled_by_digest_has_no_tag(world: &mut World) {
    let digest = world.registries.content.digest_of("tagged", "1");
    let node = world.node().await;
    let by_digest = format!("plain.test/tagged@{digest}");
    for name in [by_digest.clone(), format!("plain.test/tagged:1@{digest}")] {
        let id = node.cri.pull(&name, None).await.unwrap();
        let image = node.cri.image(&by_digest).await.unwrap().unwrap();
        assert_eq!(image.id, id);
        assert_eq!(image.repo_tags, Vec::<String>::new(), "{name}");
        assert_eq!(image.repo_digests, [by_digest.clone()]);
        node.cri.remove_image(&id).await.unwrap();
    }
}

/// What a script prints in a container of this image.
async fn printed(world: &mut World, image: &str, script: &str) -> String {
    let node = world.node().await;
    let pod = node.pod("content").await;
    node.finish(&pod, &container("content", image, &["sh", "-c", script])).await.1
}

async fn upper_layers_remove_and_hide_what_is_below(world: &mut World) {
    let text = "cat /data/kept; ls /data/removed 2>&1; ls -A /hidden; readlink /data/absolute";
    let expected = "changed\nls: /data/removed: No such file or directory\nabove\n/data/kept\n";
    assert_eq!(printed(world, LAYERS, text).await, expected);
}

async fn owners_modes_and_long_names_are_kept(world: &mut World) {
    let long = format!("/long/{}/{}", "f".repeat(120), "n".repeat(180));
    let text = format!(
        "stat -c '%a %u %g' /data/owned /data/setuid /tmp; cat {long}; \
         stat -c %Y /data/owned; [ /bin/ls -ef /bin/cat ] && echo linked"
    );
    let expected = "640 1000 50000\n4755 0 0\n1777 0 0\nlong\n1700000000\nlinked\n";
    assert_eq!(printed(world, LAYERS, &text).await, expected);
}

async fn layers_of_every_compression_are_unpacked(world: &mut World) {
    assert_eq!(printed(world, MIXED, "cat /zstd /plain").await, "zstd\nplain\n");
}

async fn the_image_says_who_will_run(world: &mut World) {
    let node = world.node().await;
    for name in [BUSYBOX, USER_NAMED, USER_NUMBERED] {
        node.pull(name).await.unwrap();
    }
    let named = node.cri.image(USER_NAMED).await.unwrap().unwrap();
    assert_eq!((named.uid, named.username.as_str()), (None, "worker"));
    let numbered = node.cri.image(USER_NUMBERED).await.unwrap().unwrap();
    assert_eq!((numbered.uid.unwrap().value, numbered.username.as_str()), (1002, ""));
}

async fn a_container_outlives_its_image(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("outlives").await;
    let mut config = sleeper("outlives");
    config.image.as_mut().unwrap().image = TAGGED[0].into();
    let id = node.run(&pod, &config).await;
    node.cri.remove_image(TAGGED[0]).await.unwrap();
    assert_eq!(node.sh(&id, "echo alive; ls /etc/passwd").await, "alive\n/etc/passwd");
    assert_eq!(node.cri.container(&id).await.unwrap().image.unwrap().image, TAGGED[0]);
    assert_eq!(node.cri.image(TAGGED[0]).await.unwrap(), None);
}

async fn the_file_system_of_the_images_is_told(world: &mut World) {
    let node = world.node().await;
    node.pull(BUSYBOX).await.unwrap();
    // containerd counts every ten seconds.
    let deadline = Instant::now() + Duration::from_secs(25);
    while used_bytes(node).await < 100_000 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let info = node.cri.image_fs().await.unwrap().image_filesystems.remove(0);
    let mountpoint = info.fs_id.unwrap().mountpoint;
    assert!(std::path::Path::new(&mountpoint).starts_with(&node.folders.root), "{mountpoint}");
    assert!(info.used_bytes.unwrap().value > 100_000);
    assert!(info.inodes_used.unwrap().value > 10);
    assert!(info.timestamp > 0);
}

async fn a_size_is_what_was_downloaded(world: &mut World) {
    let store = world.registries.content.clone();
    let node = world.node().await;
    node.pull(BUSYBOX).await.unwrap();
    let image = node.cri.image(BUSYBOX).await.unwrap().unwrap();
    let config = store.blobs[&image.id].len();
    let config_text: serde_json::Value = serde_json::from_slice(&store.blobs[&image.id]).unwrap();
    assert_eq!(config_text["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
    let biggest = store.blobs.values().map(|blob| blob.len()).max().unwrap();
    assert_eq!(usize::try_from(image.size).unwrap(), config + biggest);
}

async fn removed_images_leave_no_layers(world: &mut World) {
    let node = world.node().await;
    for image in node.cri.images().await.unwrap() {
        node.cri.remove_image(&image.id).await.unwrap();
    }
    let empty = used_bytes(node).await;
    node.pull(LAYERS).await.unwrap();
    node.pull(MIXED).await.unwrap();
    assert!(used_bytes(node).await > empty);
    node.cri.remove_image(LAYERS).await.unwrap();
    assert!(used_bytes(node).await > empty, "the shared layer stays");
    node.cri.remove_image(MIXED).await.unwrap();
    assert_eq!(used_bytes(node).await, empty);
}

async fn used_bytes(node: &e2e::node::Node) -> u64 {
    let info = node.cri.image_fs().await.unwrap().image_filesystems.remove(0);
    info.used_bytes.unwrap().value
}
