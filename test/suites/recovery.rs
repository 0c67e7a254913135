//! The daemon dies; containers do not, and nothing that happened meanwhile is lost.

use std::time::Duration;

use e2e::image::catalog::BUSYBOX;
use e2e::node::Node;
use e2e::proc;
use e2e::runner::Test;
use e2e::spec::{script, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::{ContainerState, PodSandboxState};
use tokio::time::sleep;

pub fn tests() -> Vec<Test> {
    tests![
        Any: a_container_outlives_a_crash_of_the_daemon,
        Wherry: the_log_goes_on_without_the_daemon,
        Any: an_exit_while_the_daemon_is_dead_is_known_afterwards,
        Any: pods_addresses_and_labels_are_known_afterwards,
        Any: a_created_container_can_be_started_afterwards,
        Any: everything_can_be_removed_afterwards,
        Any: images_are_known_afterwards,
        Any: a_request_to_end_leaves_containers_running,
        Wherry: damaged_records_are_set_aside,
        Wherry: a_killed_shim_takes_its_container_with_it,
        Wherry: a_shim_that_was_killed_with_the_daemon_is_cleaned_up_after,
        Wherry: after_a_reboot_pods_are_not_ready_and_their_addresses_are_free,
    ]
}

/// The host's process id of a container's first process, which is the only one that sleeps this long.
fn sleeper_pid(seconds: u32) -> proc::Process {
    let text = format!("sleep {seconds}");
    let mut found: Vec<_> =
        proc::processes().into_iter().filter(|process| process.command == text).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

async fn restart(node: &mut Node) {
    node.crash().await;
    node.up().await.unwrap();
}

async fn a_container_outlives_a_crash_of_the_daemon(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("outlives").await;
    let id = node.run(&pod, &e2e::spec::container("outlives", BUSYBOX, &["sleep", "98765"])).await;
    let (before, status) = (sleeper_pid(98765), node.cri.container(&id).await.unwrap());
    restart(node).await;
    let after = sleeper_pid(98765);
    assert_eq!((after.pid, after.start), (before.pid, before.start));
    assert_eq!(node.cri.container(&id).await.unwrap(), status);
    assert_eq!(node.sh(&id, "echo works").await, "works");
    node.cri.stop(&id, 1).await.unwrap();
    assert_eq!(node.exit(&id).await.exit_code, 137);
}

async fn the_log_goes_on_without_the_daemon(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("log").await;
    let text = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.05; done";
    let config = script("log", text);
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "line 5").await;
    node.crash().await;
    let before = node.log(&pod, &config).len();
    sleep(Duration::from_millis(700)).await;
    // How many depends on how busy the machine is.
    let meanwhile = node.log(&pod, &config).len();
    assert!(meanwhile > before + 2, "{before}, then {meanwhile}");
    node.up().await.unwrap();
    assert_eq!(node.exit(&id).await.exit_code, 0);
    let lines: Vec<String> = node.log(&pod, &config).into_iter().map(|line| line.text).collect();
    let expected: Vec<String> = (0..60).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
}

async fn an_exit_while_the_daemon_is_dead_is_known_afterwards(world: &mut World) {
    let node = world.node().await;
    if node.runtime == e2e::runtime::Runtime::Containerd {
        e2e::runner::skip("containerd answers 255 Unknown");
    }
    let pod = node.pod("ended").await;
    let id = node.run(&pod, &script("ended", "sleep 0.5; exit 7")).await;
    node.crash().await;
    sleep(Duration::from_millis(1500)).await;
    node.up().await.unwrap();
    let status = node.cri.container(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    let lived = Duration::from_nanos((status.finished_at - status.started_at).unsigned_abs());
    assert!((400..1200).contains(&lived.as_millis()), "{lived:?}");
}

async fn pods_addresses_and_labels_are_known_afterwards(world: &mut World) {
    use e2e::spec::PodConfig;
    let node = world.node().await;
    let pod = node.run_pod(node.pod_config("known").label("a", "b")).await.unwrap();
    let stopped = node.pod("stopped").await;
    node.cri.stop_pod(&stopped.id).await.unwrap();
    let before = node.cri.pod_status(&pod.id).await.unwrap();
    restart(node).await;
    assert_eq!(node.cri.pod_status(&pod.id).await.unwrap(), before);
    let state = node.cri.pod_status(&stopped.id).await.unwrap().state();
    assert_eq!(state, PodSandboxState::SandboxNotready);
    // And it is a working pod.
    let id = node.run(&pod, &sleeper("late")).await;
    let address = before.network.unwrap().ip;
    assert!(node.sh(&id, "ip -4 addr show eth0").await.contains(&address));
}

async fn a_created_container_can_be_started_afterwards(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("created").await;
    let config = script("created", "echo started; exit 9");
    let id = node.create(&pod, &config).await.unwrap();
    restart(node).await;
    assert_eq!(node.cri.container(&id).await.unwrap().state(), ContainerState::ContainerCreated);
    node.cri.start(&id).await.unwrap();
    assert_eq!(node.exit(&id).await.exit_code, 9);
    assert_eq!(node.printed(&pod, &config), "started\n");
}

async fn everything_can_be_removed_afterwards(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("removed").await;
    let running = node.run(&pod, &sleeper("running")).await;
    node.create(&pod, &sleeper("created")).await.unwrap();
    let ended = node.run(&pod, &script("ended", "true")).await;
    node.exit(&ended).await;
    restart(node).await;
    node.cri.stop(&running, 5).await.unwrap();
    node.cri.remove(&running).await.unwrap();
    node.cri.remove(&ended).await.unwrap();
    node.cri.stop_pod(&pod.id).await.unwrap();
    node.cri.remove_pod(&pod.id).await.unwrap();
    assert_eq!(node.cri.containers(None).await.unwrap(), []);
}

async fn images_are_known_afterwards(world: &mut World) {
    let node = world.node().await;
    node.pull(BUSYBOX).await.unwrap();
    let sorted = async |node: &Node| {
        let mut images = node.cri.images().await.unwrap();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        images
    };
    let before = sorted(node).await;
    restart(node).await;
    assert_eq!(sorted(node).await, before);
}

async fn a_request_to_end_leaves_containers_running(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("polite").await;
    node.run(&pod, &e2e::spec::container("polite", BUSYBOX, &["sleep", "98764"])).await;
    let before = sleeper_pid(98764);
    let status = node.terminate().await.unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(sleeper_pid(98764), before);
    assert!(!node.folders.socket().exists() || node.cri.version().await.is_err());
    node.up().await.unwrap();
    assert_eq!(sleeper_pid(98764).pid, before.pid);
}

async fn damaged_records_are_set_aside(world: &mut World) {
    let node = world.node().await;
    let (good, bad) = (node.pod("good").await, node.pod("bad").await);
    node.cri.stop_pod(&bad.id).await.unwrap();
    node.terminate().await.unwrap();
    let folder = node.folders.root.join("sandboxes").join(&bad.id);
    let damaged =
        std::fs::read_dir(&folder).unwrap().flatten().filter(|entry| entry.path().is_file());
    for entry in damaged {
        std::fs::write(entry.path(), "\0\0\0\0").unwrap();
    }
    node.up().await.unwrap();
    node.cri.pod_status(&good.id).await.unwrap();
    assert!(node.log_text().contains(&bad.id[..12]), "the log names what was set aside");
    // What was set aside is kept for whoever wants to look; this test does not.
    world.drop_node();
}

/// The shim that works in the bundle of this container.
fn shim_of(id: &str) -> proc::Process {
    let is = |process: &proc::Process| {
        std::fs::read_link(format!("/proc/{}/cwd", process.pid)).is_ok_and(|cwd| cwd.ends_with(id))
    };
    proc::named("wherry-shim").into_iter().find(is).unwrap()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn a_killed_shim_takes_its_container_with_it(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("orphan").await;
    let id = node.run(&pod, &e2e::spec::container("orphan", BUSYBOX, &["sleep", "87654"])).await;
    let process = sleeper_pid(87654);
    kill(shim_of(&id).pid);
    let status = node.exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    node.cri.remove(&id).await.unwrap();
    assert!(proc::processes().iter().all(|other| other.pid != process.pid));
}

async fn a_shim_that_was_killed_with_the_daemon_is_cleaned_up_after(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("orphan").await;
    let id = node.run(&pod, &e2e::spec::container("orphan", BUSYBOX, &["sleep", "76543"])).await;
    let process = sleeper_pid(76543);
    node.crash().await;
    kill(shim_of(&id).pid);
    node.up().await.unwrap();
    let status = node.cri.container(&id).await.unwrap();
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 255));
    assert!(proc::processes().iter().all(|other| other.pid != process.pid));
}

async fn after_a_reboot_pods_are_not_ready_and_their_addresses_are_free(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("reboot").await;
    let id = node.run(&pod, &sleeper("reboot")).await;
    for shim in proc::named("wherry-shim") {
        kill(shim.pid);
    }
    node.power_off().await;
    node.up().await.unwrap();
    assert_eq!(
        node.cri.pod_status(&pod.id).await.unwrap().state(),
        PodSandboxState::SandboxNotready
    );
    let status = node.cri.container(&id).await.unwrap();
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 255));
    assert_eq!(node.cri.image(BUSYBOX).await.unwrap().map(|image| image.id), Some(status.image_id));
    // What is not ready can be removed, and the same pod can be run again.
    node.cri.remove_pod(&pod.id).await.unwrap();
    node.pod("reboot").await;
}
