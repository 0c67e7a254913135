//! Volumes: what is bound where, read-only or not, and what moves between host and container.

use std::path::Path;

use e2e::runner::Test;
use e2e::spec::{Container, script};
use e2e::tests;
use e2e::world::World;
use proto::cri::{ContainerConfig, MountPropagation};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};

pub fn tests() -> Vec<Test> {
    tests![
        Any: a_folder_is_shared_with_the_host,
        Any: a_read_only_volume_takes_no_writes,
        Any: a_single_file_can_be_bound,
        Any: a_missing_folder_of_the_host_is_made,
        Any: a_link_of_the_host_is_followed_on_the_host,
        Any: a_link_of_the_image_is_followed_inside_the_image,
        Any: volumes_inside_volumes_are_bound_in_order,
        Any: the_status_lists_the_volumes,
        Any: later_mounts_of_the_host_stay_out_of_a_private_volume,
        Any: later_mounts_of_the_host_appear_where_that_was_asked_for,
    ]
}

async fn a_folder_is_shared_with_the_host(world: &mut World) {
    let folder = world.new_folder();
    std::fs::write(folder.join("from-host"), "host\n").unwrap();
    let node = world.node().await;
    let pod = node.pod("volume").await;
    let text = "cat /data/from-host; echo container > /data/from-container";
    let config = script("volume", text).mount(&folder, "/data", false);
    assert_eq!(node.finish(&pod, &config).await.1, "host\n");
    let written = std::fs::read_to_string(folder.join("from-container")).unwrap();
    assert_eq!(written, "container\n");
}

async fn a_read_only_volume_takes_no_writes(world: &mut World) {
    let folder = world.new_folder();
    let node = world.node().await;
    let pod = node.pod("read-only").await;
    let config = script("read-only", "touch /data/x 2>&1; true").mount(&folder, "/data", true);
    let (_, printed) = node.finish(&pod, &config).await;
    assert_eq!(printed, "touch: /data/x: Read-only file system\n");
    assert!(!folder.join("x").exists());
}

async fn a_single_file_can_be_bound(world: &mut World) {
    let folder = world.new_folder();
    std::fs::write(folder.join("file"), "one file\n").unwrap();
    let node = world.node().await;
    let pod = node.pod("file").await;
    let config = script("file", "cat /etc/passwd /new/place")
        .mount(&folder.join("file"), "/etc/passwd", true)
        .mount(&folder.join("file"), "/new/place", false);
    assert_eq!(node.finish(&pod, &config).await.1, "one file\none file\n");
}

async fn a_missing_folder_of_the_host_is_made(world: &mut World) {
    let folder = world.new_folder().join("not/yet");
    let node = world.node().await;
    let pod = node.pod("missing").await;
    let config = script("missing", "touch /data/made").mount(&folder, "/data", false);
    assert_eq!(node.finish(&pod, &config).await.0.exit_code, 0);
    assert!(folder.join("made").exists());
}

async fn a_link_of_the_host_is_followed_on_the_host(world: &mut World) {
    let folder = world.new_folder();
    std::fs::create_dir(folder.join("real")).unwrap();
    std::fs::write(folder.join("real/file"), "real\n").unwrap();
    std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
    let node = world.node().await;
    let pod = node.pod("link").await;
    let config = script("link", "cat /data/file").mount(&folder.join("link"), "/data", true);
    assert_eq!(node.finish(&pod, &config).await.1, "real\n");
}

async fn a_link_of_the_image_is_followed_inside_the_image(world: &mut World) {
    let folder = world.new_folder();
    std::fs::write(folder.join("kept"), "volume\n").unwrap();
    let node = world.node().await;
    let pod = node.pod("inside").await;
    // `/data/absolute` is a link to `/data/kept`: the image's, not the host's.
    let mut config =
        script("inside", "cat /data/kept").mount(&folder.join("kept"), "/data/absolute", false);
    config.image.as_mut().unwrap().image = e2e::image::catalog::LAYERS.into();
    assert_eq!(node.finish(&pod, &config).await.1, "volume\n");
    assert!(!Path::new("/data").exists());
}

async fn volumes_inside_volumes_are_bound_in_order(world: &mut World) {
    let (outer, inner) = (world.new_folder(), world.new_folder());
    std::fs::write(outer.join("o"), "").unwrap();
    std::fs::write(inner.join("i"), "").unwrap();
    let node = world.node().await;
    let pod = node.pod("nested").await;
    let config = script("nested", "ls /data; ls /data/inner")
        .mount(&inner, "/data/inner", false)
        .mount(&outer, "/data", false);
    assert_eq!(node.finish(&pod, &config).await.1, "inner\no\ni\n");
}

async fn the_status_lists_the_volumes(world: &mut World) {
    let folder = world.new_folder();
    let node = world.node().await;
    let pod = node.pod("listed").await;
    let config = script("listed", "true").mount(&folder, "/data", true);
    let id = node.run(&pod, &config).await;
    let mounts = node.cri.container(&id).await.unwrap().mounts;
    assert_eq!(mounts.len(), 1);
    let (host, inside) = (&mounts[0].host_path, &mounts[0].container_path);
    assert_eq!((host.as_str(), inside.as_str()), (folder.to_str().unwrap(), "/data"));
    assert!(mounts[0].readonly);
}

/// A folder that is a mount of its own, shared with whoever wants to hear of mounts in it.
fn shared(folder: &Path) {
    mount_bind(folder, folder).unwrap();
    mount_change(folder, MountPropagationFlags::SHARED).unwrap();
    std::fs::create_dir(folder.join("later")).unwrap();
}

/// What a container sees of a mount that the host makes in a volume after it was started.
async fn sees_later_mount(world: &mut World, propagation: MountPropagation) -> String {
    let folder = world.new_folder();
    let node = world.node().await;
    // After the node, so that it counts as left behind if it stays.
    shared(&folder);
    let pod = node.pod("later").await;
    let mut config: ContainerConfig = e2e::spec::sleeper("later").mount(&folder, "/data", false);
    config.mounts[0].propagation = propagation.into();
    let id = node.run(&pod, &config).await;
    let later = folder.join("later");
    mount("tmpfs", &later, "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write(later.join("file"), "").unwrap();
    let seen = node.sh(&id, "ls /data/later").await;
    unmount(&later, UnmountFlags::DETACH).unwrap();
    unmount(&folder, UnmountFlags::DETACH).unwrap();
    seen
}

async fn later_mounts_of_the_host_stay_out_of_a_private_volume(world: &mut World) {
    assert_eq!(sees_later_mount(world, MountPropagation::PropagationPrivate).await, "");
}

async fn later_mounts_of_the_host_appear_where_that_was_asked_for(world: &mut World) {
    let asked = MountPropagation::PropagationHostToContainer;
    assert_eq!(sees_later_mount(world, asked).await, "file");
}
