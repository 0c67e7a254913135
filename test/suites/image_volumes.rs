//! Images as volumes, and the folders that a container's own image asks for.

use std::path::Path;

use e2e::image::catalog::{BUSYBOX, LAYERS, MIXED, VOLUMES};
use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::spec::{Container, PodConfig, script, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::{
    ContainerConfig, IdMapping, ImageSpec, Mount, MountPropagation, NamespaceMode, UserNamespace,
};
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: an_image_is_shown_as_its_layers_make_it,
        Wherry: nothing_is_written_to_an_image_and_its_programs_run,
        Wherry: a_part_of_an_image_is_a_folder_or_a_file,
        Wherry: a_part_cannot_leave_the_image,
        Wherry: an_image_of_one_layer_can_be_mounted_twice_and_in_a_volume,
        Wherry: the_status_names_the_image_that_is_mounted,
        Wherry: an_image_in_use_keeps_its_layers_over_its_removal_and_a_restart,
        Wherry: an_image_is_shown_with_the_ids_of_the_pods_users,
        Wherry: what_an_image_volume_cannot_be_is_refused,
        Wherry: an_images_own_volumes_begin_with_what_is_there_and_end_with_the_container,
    ]
}

/// Mounts `image`, or a part of it.
fn mounts(mut config: ContainerConfig, image: &str, part: &str, inside: &str) -> ContainerConfig {
    config.mounts.push(Mount {
        container_path: inside.into(),
        readonly: true,
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: part.into(),
        ..Default::default()
    });
    config
}

async fn ready(node: &Node, images: &[&str]) -> Pod {
    for image in images {
        node.pull(image).await.unwrap();
    }
    node.pod("images").await
}

async fn an_image_is_shown_as_its_layers_make_it(world: &mut World) {
    let node = world.node().await;
    let pod = ready(node, &[LAYERS]).await;
    let text = "cat /img/data/kept; ls /img/data/removed /img/hidden/below 2>/dev/null; ls /img/hidden; \
        stat -c '%u %g %a' /img/data/owned /img/data/setuid; readlink /img/data/absolute";
    let config = mounts(script("layers", text), LAYERS, "", "/img");
    let (status, said) = node.finish(&pod, &config).await;
    assert_eq!(said, "changed\nabove\n1000 50000 640\n0 0 4755\n/data/kept\n", "{status:?}");
}

async fn nothing_is_written_to_an_image_and_its_programs_run(world: &mut World) {
    let node = world.node().await;
    let pod = ready(node, &[BUSYBOX, MIXED]).await;
    let text = "touch /img/x 2>&1; rm /img/zstd 2>&1; mount -o remount,rw /img 2>/dev/null || echo no remount; \
        /img/bin/busybox echo runs; cat /img/zstd /img/plain";
    let config = mounts(script("read-only", text), MIXED, "", "/img");
    let said = node.finish(&pod, &config).await.1;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].ends_with("Read-only file system"), "{said}");
    assert!(lines[1].ends_with("Read-only file system"), "{said}");
    assert_eq!(lines[2..], ["no remount", "runs", "zstd", "plain"]);
}

async fn a_part_of_an_image_is_a_folder_or_a_file(world: &mut World) {
    let node = world.node().await;
    let pod = ready(node, &[LAYERS]).await;
    let text = "ls /folder; cat /file; cat /linked; touch /folder/x 2>/dev/null || echo ro";
    let config = mounts(script("part", text), LAYERS, "hidden", "/folder");
    let config = mounts(config, LAYERS, "data/kept", "/file");
    // The link says /data/kept: the image's, not the host's and not the container's.
    let config = mounts(config, LAYERS, "data/absolute", "/linked");
    assert_eq!(node.finish(&pod, &config).await.1, "above\nchanged\nchanged\nro\n");
}

async fn a_part_cannot_leave_the_image(world: &mut World) {
    let node = world.node().await;
    let pod = ready(node, &[LAYERS, e2e::image::hostile::DEMANDING]).await;
    for part in ["..", "../etc", "data/../../etc", "/etc", "a\0b"] {
        let config = mounts(script("climb", "true"), LAYERS, part, "/img");
        assert_eq!(code(node.create(&pod, &config).await), Code::InvalidArgument, "{part:?}");
    }
    let missing = mounts(script("missing", "true"), LAYERS, "not/there", "/img");
    assert_eq!(code(node.create(&pod, &missing).await), Code::InvalidArgument);
    // An image whose links lead to the host's /etc shows its own.
    let config = mounts(
        script("link", "ls /img; cat /img/shadow 2>/dev/null"),
        e2e::image::hostile::DEMANDING,
        "away",
        "/img",
    );
    assert_eq!(node.finish(&pod, &config).await.1, "group\npasswd\n");
}

async fn an_image_of_one_layer_can_be_mounted_twice_and_in_a_volume(world: &mut World) {
    let folder = world.new_folder();
    let node = world.node().await;
    let pod = ready(node, &[BUSYBOX]).await;
    let config = script("twice", "ls /data/a/etc /data/b; echo $?").mount(&folder, "/data", false);
    let config = mounts(config, BUSYBOX, "etc", "/data/b");
    let config = mounts(config, BUSYBOX, "", "/data/a");
    let said = node.finish(&pod, &config).await.1;
    assert_eq!(said, "/data/a/etc:\ngroup\npasswd\n\n/data/b:\ngroup\npasswd\n0\n");
    // The places were made in the volume; what was mounted there is not.
    assert_eq!(std::fs::read_dir(folder.join("a")).unwrap().count(), 0);
}

async fn the_status_names_the_image_that_is_mounted(world: &mut World) {
    let node = world.node().await;
    let pod = ready(node, &[LAYERS]).await;
    let id = node.cri.pull(LAYERS, None).await.unwrap();
    let container = node.run(&pod, &mounts(sleeper("status"), &id, "data", "/img")).await;
    for _ in 0..2 {
        let mount = node.cri.container(&container).await.unwrap().mounts.remove(0);
        let image = mount.image.unwrap();
        assert_eq!((image.image.as_str(), image.image_ref.as_str()), (id.as_str(), id.as_str()));
        assert_eq!((mount.image_sub_path.as_str(), mount.host_path.as_str()), ("data", ""));
        assert!(mount.readonly);
        node.crash().await;
        node.up().await.unwrap();
    }
}

async fn an_image_in_use_keeps_its_layers_over_its_removal_and_a_restart(world: &mut World) {
    let node = world.node().await;
    let pod = ready(node, &[MIXED]).await;
    let held = || std::fs::read_dir(node.folders.root.join("snapshots/rootfs")).unwrap().count();
    assert_eq!(held(), 0);
    let container = node.run(&pod, &mounts(sleeper("held"), MIXED, "", "/img")).await;
    assert_eq!(held(), 2);
    node.cri.remove_image(MIXED).await.unwrap();
    assert!(node.cri.image(MIXED).await.unwrap().is_none());
    node.crash().await;
    node.up().await.unwrap();
    assert_eq!(node.sh(&container, "cat /img/zstd").await, "zstd");
    // Pulled anew while it is in use, and removed with the container.
    node.cri.stop(&container, 0).await.unwrap();
    node.cri.remove(&container).await.unwrap();
    let held = std::fs::read_dir(node.folders.root.join("snapshots/rootfs")).unwrap().count();
    assert_eq!(held, 0);
}

async fn an_image_is_shown_with_the_ids_of_the_pods_users(world: &mut World) {
    let node = world.node().await;
    ready(node, &[LAYERS]).await;
    let range = vec![IdMapping { host_id: 400_000, container_id: 0, length: 65_536 }];
    let config = node.pod_config("users").namespaces(|options| {
        options.userns_options = Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: range.clone(),
            gids: range.clone(),
        });
    });
    let pod = node.run_pod(config).await.unwrap();
    let text = "stat -c '%u %g' /img/data/owned /img; cat /img/data/owned; stat -c '%u %g' /part";
    let config = mounts(script("users", text).namespaces_of(&pod.config), LAYERS, "", "/img");
    let mut config = mounts(config, LAYERS, "data/owned", "/part");
    for mount in &mut config.mounts {
        // As the kubelet has it on every mount of such a pod.
        (mount.uid_mappings, mount.gid_mappings) = (range.clone(), range.clone());
    }
    let (status, said) = node.finish(&pod, &config).await;
    assert_eq!(said, "1000 50000\n0 0\nowned\n1000 50000\n", "{status:?}");
}

async fn what_an_image_volume_cannot_be_is_refused(world: &mut World) {
    let node = world.node().await;
    let pod = ready(node, &[LAYERS]).await;
    let with = |change: fn(&mut Mount)| {
        let mut config = mounts(script("wrong", "true"), LAYERS, "", "/img");
        change(&mut config.mounts[0]);
        config
    };
    let invalid = [
        with(|mount| mount.readonly = false),
        with(|mount| mount.host_path = "/etc".into()),
        with(|mount| mount.propagation = MountPropagation::PropagationBidirectional.into()),
    ];
    for (at, config) in invalid.iter().enumerate() {
        assert_eq!(code(node.create(&pod, config).await), Code::InvalidArgument, "{at}");
    }
    let absent = with(|mount| mount.image.as_mut().unwrap().image = "plain.test/absent:1".into());
    assert_eq!(code(node.create(&pod, &absent).await), Code::NotFound);
    let held = std::fs::read_dir(node.folders.root.join("snapshots/rootfs")).unwrap().count();
    assert_eq!(held, 0);
}

async fn an_images_own_volumes_begin_with_what_is_there_and_end_with_the_container(
    world: &mut World,
) {
    let node = world.node().await;
    let pod = ready(node, &[VOLUMES]).await;
    let range = vec![IdMapping { host_id: 400_000, container_id: 0, length: 65_536 }];
    let users = node.pod_config("users").namespaces(|options| {
        options.userns_options = Some(UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: range.clone(),
            gids: range.clone(),
        });
    });
    let in_users = node.run_pod(users).await.unwrap();
    let folder = |id: &str| node.folders.root.join("containers").join(id).join("volumes");
    for (name, pod) in [("volumes", &pod), ("users", &in_users)] {
        // VOLUME /home/worker and /new; the first has a file of uid 1000 in the image.
        let text = "cat /home/worker/.profile; stat -c '%u %a' /home/worker /home/worker/.profile; \
            echo mine > /home/worker/made; ls -A /new; touch /new/x && echo new; \
            grep -c -e ' /home/worker ' -e ' /new ' /proc/mounts; touch /ro 2>/dev/null || echo ro; sleep 3600";
        let mut config = script(name, text)
            .namespaces_of(&pod.config)
            .security(|security| security.readonly_rootfs = true);
        config.image.as_mut().unwrap().image = VOLUMES.into();
        let id = node.run(pod, &config).await;
        node.prints(pod, &config, "ro\n").await;
        let said = node.printed(pod, &config);
        assert_eq!(said, "profile\n1000 750\n1000 600\nnew\n2\nro\n", "{name}");
        let made = walk(&folder(&id));
        assert!(made.contains(&"mine\n".to_owned()), "{made:?}");
        assert!(node.cri.container(&id).await.unwrap().mounts.is_empty());
        node.cri.stop(&id, 0).await.unwrap();
        assert!(folder(&id).exists());
        node.cri.remove(&id).await.unwrap();
        assert!(!folder(&id).exists());
    }
}

/// The content of all files below.
fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(std::fs::read_to_string(entry.path()).unwrap());
        }
    }
    found
}
