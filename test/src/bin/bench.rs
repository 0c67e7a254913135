//! The same pods through Wherry and through containerd with runc, in one run, turn by turn, for `hack/bench`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a measurement that fails shall say where")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use e2e::bench;
use e2e::image::big;
use e2e::image::catalog::BUSYBOX;
use e2e::node::Node;
use e2e::proc::{self, pss_kib};
use e2e::registry::debian::DebianRegistry;
use e2e::registry::{Registries, describe, push};
use e2e::runtime::Runtime;
use e2e::spec::{container, sleeper};
use e2e::stats::Timings;
use e2e::tools;

/// The image of `/usr`, on a registry of its own whose data outlives the run.
const BIG: &str = "big.test/big:1";
const PULLS: usize = 3;
const AT_ONCE: usize = 20;
/// Commands in a container after the first, as a probe has them executed.
const PROBES: usize = 4;
/// What a user waits for when a pod starts, and when it goes.
const SUMS: [(&str, &[&str]); 2] = [
    ("= start a pod", &["RunPodSandbox", "CreateContainer", "StartContainer"]),
    ("= end a pod", &["StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"]),
];

fn main() -> ExitCode {
    bench::run(50, async |folder, pods| compare(&folder, pods).await)
}

/// One of the two daemons and what was measured of it.
struct Side {
    node: Node,
    timings: Timings,
    idle_kib: u64,
}

async fn compare(folder: &Path, pods: usize) {
    let registries = Registries::start(folder).await.unwrap();
    let data = tools::cache().join("images/big");
    let registry = big_image(&data, registries.certs_dir()).await;
    let mut sides = Vec::new();
    for runtime in [Runtime::Wherry, Runtime::Containerd] {
        let node = bench::node(runtime, folder, &registries).await;
        let mut side = Side { node, timings: Timings::default(), idle_kib: 0 };
        // One that does not count: what is made once is made now.
        lifecycle(&mut side.node, &mut Timings::default(), 0).await;
        side.idle_kib = pss_kib(side.node.pid().unwrap()).unwrap();
        sides.push(side);
    }
    println!("{pods} pods one after another, turn by turn");
    for number in 0..pods {
        for side in &mut sides {
            lifecycle(&mut side.node, &mut side.timings, number).await;
        }
    }
    calls(&sides);
    println!("\nmemory in KiB (PSS), {AT_ONCE} pods of one container at once");
    for side in &sides {
        memory(side).await;
    }
    if registry.is_some() {
        println!("\npull and unpack of 6 layers from /usr, {PULLS} times, turn by turn");
        pulls(&mut sides).await;
    }
}

async fn lifecycle(node: &mut Node, timings: &mut Timings, number: usize) {
    let (cri, pod) = (node.cri.clone(), node.pod_config(&format!("bench{number}")));
    std::fs::create_dir_all(&pod.log_directory).unwrap();
    let container = sleeper("bench");
    let pod_id = timings.time("RunPodSandbox", cri.run_pod(&pod)).await.unwrap();
    let create = cri.create(&pod_id, &container, &pod);
    let id = timings.time("CreateContainer", create).await.unwrap();
    timings.time("StartContainer", cri.start(&id)).await.unwrap();
    // The shell shall have set its trap before it is asked to end.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    timings.time("ExecSync, the first", cri.exec(&id, &["true"], 10)).await.unwrap();
    for _ in 0..PROBES {
        timings.time("ExecSync", cri.exec(&id, &["true"], 10)).await.unwrap();
    }
    timings.time("ContainerStatus", cri.container(&id)).await.unwrap();
    timings.time("ListContainers", cri.containers(None)).await.unwrap();
    timings.time("ListPodSandbox", cri.pods(None)).await.unwrap();
    timings.time("StopContainer", cri.stop(&id, 10)).await.unwrap();
    timings.time("RemoveContainer", cri.remove(&id)).await.unwrap();
    timings.time("StopPodSandbox", cri.stop_pod(&pod_id)).await.unwrap();
    timings.time("RemovePodSandbox", cri.remove_pod(&pod_id)).await.unwrap();
    for (sum, parts) in SUMS {
        timings.add(sum, parts.iter().map(|part| timings.last(part)).sum());
    }
}

fn calls(sides: &[Side]) {
    println!("\n{:<18} {:>17} {:>17} {:>7}", "p50/p99 in ms", "wherry", "containerd", "ratio");
    for name in sides[0].timings.names() {
        let of = |side: &Side, percent| side.timings.percentile(name, percent);
        let both = |side: &Side| format!("{:.2} / {:.2}", of(side, 50), of(side, 99));
        let ratio = of(&sides[1], 50) / of(&sides[0], 50);
        println!("{name:<20} {:>17} {:>17} {ratio:>6.1}x", both(&sides[0]), both(&sides[1]));
    }
}

async fn memory(side: &Side) {
    let node = &side.node;
    for number in 0..AT_ONCE {
        let pod = node.pod(&format!("memory{number}")).await;
        node.run(&pod, &container("memory", BUSYBOX, &["sleep", "3600"])).await;
    }
    let shim = match node.runtime {
        Runtime::Wherry => "wherry-shim",
        Runtime::Containerd => "containerd-shim-runc-v2",
        Runtime::Hosted => "containerd-shim-wherry-v2",
    };
    let shims = proc::named(shim);
    let total: u64 = shims.iter().filter_map(|shim| pss_kib(shim.pid)).sum();
    println!(
        "{:<11} daemon idle {:>6}, with {AT_ONCE} pods {:>6}; {} shims, {:>5} each",
        node.runtime.name(),
        side.idle_kib,
        pss_kib(node.pid().unwrap()).unwrap(),
        shims.len(),
        total / shims.len() as u64,
    );
    node.clear().await.unwrap();
}

async fn pulls(sides: &mut [Side]) {
    for _ in 0..PULLS {
        for side in &mut *sides {
            let cri = side.node.cri.clone();
            let start = Instant::now();
            cri.pull(BIG, None).await.unwrap();
            side.timings.add("PullImage", start.elapsed());
            cri.remove_image(BIG).await.unwrap();
        }
    }
    let of = |side: &Side| side.timings.percentile("PullImage", 50) / 1e3;
    let (ours, theirs) = (of(&sides[0]), of(&sides[1]));
    println!("wherry {ours:.2} s, containerd {theirs:.2} s, ratio {:.1}x", theirs / ours);
}

/// Debian's registry with the big image, which is made once per machine.
async fn big_image(data: &Path, certs: &Path) -> Option<DebianRegistry> {
    let registry = DebianRegistry::start(data).await.unwrap()?;
    if !data.join("complete").exists() {
        println!("making the big image once, below {}", data.display());
        push::push(registry.address(), &big::store()).await.unwrap();
        std::fs::write(data.join("complete"), "").unwrap();
    }
    describe(certs, "big.test", &format!("http://{}", registry.address()), None).unwrap();
    Some(registry)
}
