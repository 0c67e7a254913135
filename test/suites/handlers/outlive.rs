//! Who dies, and who goes on.

use std::time::{Duration, Instant};

use e2e::proc;
use e2e::spec::{container, script, sleeper};
use e2e::world::World;
use proto::cri::ContainerState;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::{node, pod};

pub async fn a_container_outlives_its_daemon(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let talker = script(
        "talker",
        "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 9",
    );
    let talking = node.run(&pod, &talker).await;
    let ending = node.run(&pod, &script("ending", "sleep 1; exit 6")).await;
    let running = node.run(&pod, &sleeper("running")).await;
    let created = node.create(&pod, &script("created", "echo started; exit 8")).await.unwrap();
    node.crash().await;
    sleep(Duration::from_millis(1500)).await;
    node.up().await.unwrap();
    let ended = node.exit(&ending).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (6, "Error"));
    assert_eq!(node.exit(&talking).await.exit_code, 9);
    let lines: Vec<String> = node.log(&pod, &talker).into_iter().map(|line| line.text).collect();
    let expected: Vec<String> = (0..60).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
    assert_eq!(node.sh(&running, "echo works").await, "works");
    node.cri.start(&created).await.unwrap();
    assert_eq!(node.exit(&created).await.exit_code, 8);
    node.cri.stop(&running, 20).await.unwrap();
    assert_eq!(node.exit(&running).await.exit_code, 0);
}

/// Kills the processes of this name that are about this container, or are its shim.
fn kill_shims(name: &str, before: &[u32]) {
    for process in proc::named(name) {
        if !before.contains(&process.pid) {
            let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
}

fn pids(name: &str) -> Vec<u32> {
    proc::named(name).into_iter().map(|process| process.pid).collect()
}

pub async fn a_killed_shim_takes_its_container_with_it(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let names: &[&str] = match handler {
        "containerd-runc" => &["wherry-shim", "containerd-shim-runc-v2"],
        _ => &["wherry-shim"],
    };
    for (number, name) in names.iter().enumerate() {
        let before = pids(name);
        let command = format!("{}", 87650 + number);
        let config = container(
            &format!("killed{number}"),
            e2e::image::catalog::BUSYBOX,
            &["sleep", &command],
        );
        let id = node.run(&pod, &config).await;
        kill_shims(name, &before);
        let status = node.exit(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"), "{name}");
        let deadline = Instant::now() + Duration::from_secs(10);
        let text = format!("sleep {command}");
        while proc::processes().iter().any(|process| process.command == text) {
            assert!(Instant::now() < deadline, "{text} runs on");
            sleep(Duration::from_millis(20)).await;
        }
        node.cri.remove(&id).await.unwrap();
    }
}

pub async fn a_handler_that_is_gone_keeps_nobody(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let id = node.run(&pod, &sleeper("orphan")).await;
    node.crash().await;
    let config = node.folders.config();
    let text = std::fs::read_to_string(&config).unwrap();
    let renamed = text.replace(&format!("[handlers.{handler}]"), "[handlers.renamed]");
    std::fs::write(&config, renamed).unwrap();
    node.up().await.unwrap();
    let state = node.cri.container(&id).await.unwrap().state();
    assert_eq!(state, ContainerState::ContainerRunning);
    assert_eq!(node.cri.pod_status(&pod.id).await.unwrap().runtime_handler, handler);
    assert_eq!(node.sh(&id, "echo works").await, "works");
    let refused = node.create(&pod, &sleeper("another")).await.unwrap_err();
    assert!(refused.message().contains(handler), "{refused}");
    node.cri.stop(&id, 20).await.unwrap();
    assert_eq!(node.exit(&id).await.exit_code, 0);
    node.cri.remove(&id).await.unwrap();
    node.cri.remove_pod(&pod.id).await.unwrap();
    node.crash().await;
    std::fs::write(&config, text).unwrap();
    node.up().await.unwrap();
}
