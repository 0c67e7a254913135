//! What fifty running containers cost. The exact figures are `hack/bench`'s; here a ceiling keeps watch.

use e2e::image::catalog::BUSYBOX;
use e2e::proc;
use e2e::runner::Test;
use e2e::spec::{Container, container};
use e2e::tests;
use e2e::world::World;
use proto::cri::SecurityProfile;

pub fn tests() -> Vec<Test> {
    tests![Wherry: fifty_filtered_containers_with_logs_and_terminals_cost_little_memory]
}

const CONTAINERS: u64 = 50;
/// KiB.
const SHIM_CEILING: u64 = 200;
/// KiB.
const DAEMON_CEILING: u64 = 12 << 10;

async fn fifty_filtered_containers_with_logs_and_terminals_cost_little_memory(world: &mut World) {
    let node = world.node().await;
    for number in 0..CONTAINERS {
        let pod = node.pod(&format!("memory{number}")).await;
        let command = ["sh", "-c", "echo started; exec sleep 3600"];
        // The default profile, which is what an empty one means; every other container has a terminal.
        let mut config = container("memory", BUSYBOX, &command)
            .security(|security| security.seccomp = Some(SecurityProfile::default()));
        config.tty = number % 2 == 0;
        let id = node.run(&pod, &config).await;
        assert_eq!(node.sh(&id, "grep -c 'Seccomp:.2' /proc/1/status").await.trim_end(), "1");
    }
    let shims = proc::named("wherry-shim");
    assert!(shims.len() as u64 >= CONTAINERS, "{}", shims.len());
    let total: u64 = shims.iter().filter_map(|shim| proc::pss_kib(shim.pid)).sum();
    let daemon = proc::pss_kib(node.pid().unwrap()).unwrap();
    let each = total / CONTAINERS;
    println!("    shim {each} KiB each ({} processes), daemon {daemon} KiB", shims.len());
    assert!(each <= SHIM_CEILING, "{each} KiB for each shim");
    assert!(daemon <= DAEMON_CEILING, "{daemon} KiB for the daemon");
}
