//! What twenty running containers cost. The exact figures are `hack/bench`'s; here a generous ceiling keeps watch.

use e2e::image::catalog::BUSYBOX;
use e2e::proc;
use e2e::runner::Test;
use e2e::spec::container;
use e2e::tests;
use e2e::world::World;

pub fn tests() -> Vec<Test> {
    tests![Wherry: twenty_containers_cost_little_memory]
}

const CONTAINERS: u64 = 20;
/// KiB.
const SHIM_CEILING: u64 = 250;
/// KiB.
const DAEMON_CEILING: u64 = 12 << 10;

async fn twenty_containers_cost_little_memory(world: &mut World) {
    let node = world.node().await;
    for number in 0..CONTAINERS {
        let pod = node.pod(&format!("memory{number}")).await;
        node.run(&pod, &container("memory", BUSYBOX, &["sleep", "3600"])).await;
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
