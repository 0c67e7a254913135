//! How it ends.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::image::catalog::BUSYBOX;
use e2e::proc;
use e2e::spec::{Container, container, script, sleeper};
use e2e::world::World;
use proto::cri::ReopenContainerLogRequest;

use super::{node, pod};

pub async fn a_container_is_asked_to_end_and_then_killed(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let id = node.run(&pod, &sleeper("polite")).await;
    node.sleeps(&id).await;
    node.cri.stop(&id, 20).await.unwrap();
    assert_eq!(node.exit(&id).await.exit_code, 0);
    let config = script("stubborn", "trap '' TERM; echo ready; while :; do sleep 1; done");
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "ready").await;
    let start = Instant::now();
    node.cri.stop(&id, 1).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(node.exit(&id).await.exit_code, 137);
}

pub async fn a_kill_for_want_of_memory_is_known(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let config = script("oom", "x=0123456789; while :; do x=$x$x; done")
        .limits(|limits| limits.memory_limit_in_bytes = 32 << 20);
    let (status, _) = node.finish(&pod, &config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

pub async fn a_command_that_is_not_there_is_an_error_that_names_it(
    world: &mut World,
    handler: &str,
) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let config = container("missing", BUSYBOX, &["no-such-program"]);
    // Some runtimes look for it when the container is created, others when it is started.
    let error = match node.create(&pod, &config).await {
        Ok(id) => node.cri.start(&id).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.message().contains("no-such-program"), "{error}");
}

pub async fn a_created_container_is_removed_without_a_trace(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let id = node.create(&pod, &sleeper("created")).await.unwrap();
    node.cri.remove(&id).await.unwrap();
    assert!(!mounts().contains(&id));
    // A foreign shim says that it will end, and does so in its own time.
    let named = || proc::processes().into_iter().filter(|process| process.command.contains(&id));
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(left) = named().next() {
        assert!(Instant::now() < deadline, "{left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn a_log_is_rotated_without_a_lost_line(world: &mut World, handler: &str) {
    let node = node(world, handler).await;
    let pod = pod(node, handler).await;
    let text =
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 0.3; echo last";
    let config = script("rotated", text);
    let id = node.run(&pod, &config).await;
    let path = Path::new(&pod.config.log_directory).join(&config.log_path);
    let mut all = String::new();
    for number in 0..4 {
        let old = path.with_extension(number.to_string());
        std::fs::rename(&path, &old).unwrap();
        let request = ReopenContainerLogRequest { container_id: id.clone() };
        // It may have ended.
        let reopened = node.cri.runtime.clone().reopen_container_log(request).await;
        all += &std::fs::read_to_string(&old).unwrap();
        if reopened.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.exit(&id).await.exit_code, 0);
    all += &std::fs::read_to_string(&path).unwrap_or_default();
    let said: Vec<_> = all.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let expected: Vec<_> = (0..3000).map(|number| format!("line {number}")).collect();
    assert_eq!(said[..said.len() - 1], expected);
    assert_eq!(said.last(), Some(&"last"));
}
