//! What runs, and how it is spoken to.

use std::fs;

use e2e::cgroups;
use e2e::image::catalog::BUSYBOX;
use e2e::spec::{Container, PodConfig, container, script, sleeper};
use e2e::world::World;
use proto::cri::{ContainerState, MountPropagation, NamespaceMode};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};

use super::{node, pod};

pub async fn streams_and_exit_code_are_known(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let config = script("streams", "echo one; sleep 0.1; echo two >&2; hostname; exit 7");
    let (status, _) = node.finish(&pod, &config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.started_at <= status.finished_at && status.started_at > 0, "{status:?}");
    let lines = node.log(&pod, &config);
    let lines: Vec<_> =
        lines.iter().map(|line| (line.stream.as_str(), line.text.as_str())).collect();
    assert_eq!(lines, [("stdout", "one"), ("stderr", "two"), ("stdout", handler)]);
    let shown = node.cri.pod_status(&pod.id).await.unwrap().runtime_handler;
    assert_eq!(shown, handler);
}

pub async fn names_of_users_are_the_images(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let config = script("user", "id -u; id -g; echo $HOME; sleep 1000")
        .security(|security| security.run_as_username = "www-data".into());
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "/").await;
    let user = node.cri.container(&id).await.unwrap().user.unwrap().linux.unwrap();
    assert!(user.uid > 0, "{user:?}");
    let expected = format!("{}\n{}\n", user.uid, user.gid);
    assert!(node.printed(&pod, &config).starts_with(&expected));
    assert_eq!(node.sh(&id, "id -u").await, user.uid.to_string());
    let unknown = script("stranger", "true")
        .security(|security| security.run_as_username = "stranger".into());
    let refused = node.create(&pod, &unknown).await.unwrap_err();
    assert!(refused.message().contains("stranger"), "{refused}");
}

pub async fn commands_are_executed_in_it(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let config = sleeper("exec").env("COLOUR", "red");
    let id = node.run(&pod, &config).await;
    let text = "echo out; echo err >&2; printf $COLOUR; exit 37";
    let answer = node.cri.exec(&id, &["sh", "-c", text], 20).await.unwrap();
    assert_eq!(answer.exit_code, 37);
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "out\nred");
    assert_eq!(String::from_utf8_lossy(&answer.stderr), "err\n");
    let same = "[ $(readlink /proc/self/ns/mnt) = $(readlink /proc/1/ns/mnt) ] && echo same";
    assert_eq!(node.sh(&id, same).await, "same");
    // As soon, or as late, as the container itself, and not as its shim.
    assert_eq!(
        node.sh(&id, "cat /proc/self/oom_score_adj").await,
        node.sh(&id, "cat /proc/1/oom_score_adj").await
    );
    let much = "head -c 3000000 /dev/zero | tr '\\0' x";
    let answer = node.cri.exec(&id, &["sh", "-c", much], 30).await.unwrap();
    assert_eq!(answer.stdout.len(), 3_000_000);
    let missing = node.cri.exec(&id, &["no-such-program"], 20).await.unwrap_err();
    assert!(missing.message().contains("no-such-program"), "{missing}");
    node.cri.exec(&id, &["sh", "-c", "sleep 4321 & sleep 4321"], 1).await.unwrap_err();
    assert_eq!(node.sh(&id, "ps | grep -c '[s]leep 4321' || true").await, "0");
}

pub async fn a_terminal_is_one(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let mut config = script("terminal", "tty; [ -t 2 ] && echo terminal; echo $TERM; exit 4");
    config.tty = true;
    let (status, printed) = node.finish(&pod, &config).await;
    assert_eq!(status.exit_code, 4);
    assert!(printed.starts_with("/dev/"), "{printed}");
    assert!(printed.ends_with("terminal\nxterm\n"), "{printed}");
}

pub async fn an_input_that_is_not_wanted_is_empty(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let (status, printed) = node.finish(&pod, &script("empty", "cat; echo end")).await;
    assert_eq!((status.exit_code, printed.as_str()), (0, "end\n"));
    let mut config = script("open", "cat; echo end");
    config.stdin = true;
    let id = node.run(&pod, &config).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let state = node.cri.container(&id).await.unwrap().state();
    assert_eq!(state, ContainerState::ContainerRunning);
    assert_eq!(node.printed(&pod, &config), "");
    node.cri.stop(&id, 0).await.unwrap();
}

pub async fn limits_are_in_force(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let config = sleeper("limits").limits(|limits| {
        limits.memory_limit_in_bytes = 64 << 20;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
    });
    let id = node.run(&pod, &config).await;
    let file = |old: &str, new: &str| cgroups::file(&id, old).or_else(|| cgroups::file(&id, new));
    assert_eq!(file("memory.limit_in_bytes", "memory.max").unwrap(), "67108864");
    assert!(file("cpu.cfs_quota_us", "cpu.max").unwrap().starts_with("50000"));
    // Devices are fenced by the cgroup; what else runs is in it, too.
    assert_eq!(node.sh(&id, "head -c 1 /dev/zero | wc -c").await, "1");
    let processes = cgroups::file(&id, "cgroup.procs").unwrap();
    assert!(!processes.is_empty());
}

pub async fn a_pod_can_share_its_processes(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let config =
        node.pod_config("shared").namespaces(|options| options.pid = NamespaceMode::Pod.into());
    let pod = node.run_pod_by(config, handler).await.unwrap();
    let one = container("one", BUSYBOX, &["sleep", "7654"]).namespaces_of(&pod.config);
    let id = node.run(&pod, &one).await;
    let other = sleeper("other").namespaces_of(&pod.config);
    let other = node.run(&pod, &other).await;
    assert_eq!(node.sh(&other, "ps | grep -c '[s]leep 7654'").await, "1");
    node.cri.stop(&id, 0).await.unwrap();
    assert_eq!(node.sh(&other, "ps | grep -c '[s]leep 7654' || true").await, "0");
}

pub async fn mounts_travel_as_far_as_they_are_asked_to(world: &mut World, handler: &str) {
    let folder = world.new_folder();
    let [slave, shared] = ["slave", "shared"].map(|name| folder.join(name));
    for place in [&slave, &shared] {
        fs::create_dir_all(place.join("in")).unwrap();
        mount_bind(place, place).unwrap();
        mount_change(place, MountPropagationFlags::SHARED).unwrap();
    }
    let node = node(world, handler).await;
    let pod = node
        .run_pod_by(
            {
                let mut config = node.pod_config("travel");
                let linux = config.linux.as_mut().unwrap();
                linux.security_context.as_mut().unwrap().privileged = true;
                config
            },
            handler,
        )
        .await
        .unwrap();
    let mut config = sleeper("travel")
        .security(|security| security.privileged = true)
        .mount(&slave, "/slave", false)
        .mount(&shared, "/shared", false);
    config.mounts[0].propagation = MountPropagation::PropagationHostToContainer.into();
    config.mounts[1].propagation = MountPropagation::PropagationBidirectional.into();
    let id = node.run(&pod, &config).await;
    let flags = MountFlags::empty();
    mount("tmpfs", slave.join("in"), "tmpfs", flags, None).unwrap();
    fs::write(slave.join("in/late"), "").unwrap();
    assert_eq!(node.sh(&id, "ls /slave/in").await, "late");
    node.sh(&id, "mount -t tmpfs t /shared/in && touch /shared/in/back").await;
    assert!(shared.join("in/back").exists());
    node.sh(&id, "umount /shared/in").await;
    node.cri.stop(&id, 0).await.unwrap();
    node.cri.remove(&id).await.unwrap();
    for place in [&slave.join("in"), &slave, &shared] {
        unmount(place, UnmountFlags::DETACH).unwrap();
    }
}
