//! Measures what a pod's namespaces and its built-in network cost: `cargo run -p cni --example measure [PODS]`.
//!
//! Runs isolated in namespaces of its own (unshare(1)), as root, and prints p50 and p99 of each step in
//! microseconds: once with all pods up before the first goes down, once with each pod coming and going, where the
//! kernel is still clearing away the pods before.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use cni::{Dns, Network, NetworkConfig, PodNetwork};
use sys::netns::{PinRequest, pin, unpin};

const INSIDE: &str = "WHERRY_MEASURE_INSIDE";
const STEPS: [&str; 6] = ["pin", "attach", "pin+attach", "detach", "unpin", "detach+unpin"];

fn main() -> ExitCode {
    let pods = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(50);
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .arg(pods.to_string())
            .env(INSIDE, "1")
            .status()
            .unwrap();
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let dir = std::env::temp_dir().join(format!("cni-measure-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = NetworkConfig::new(dir.join("state"));
        config.conf_dir = dir.join("none");
        let network = Network::open(config).unwrap();
        // The first pod also makes the bridge and the rules.
        let mut first = Times::default();
        up(&network, &dir, "first", &mut first).await;
        down(&network, &dir, "first", &mut first).await;
        first.print("the first pod");
        settle().await;

        let ids: Vec<_> = (0..pods).map(|n| format!("pod{n}")).collect();
        let mut times = Times::default();
        for id in &ids {
            up(&network, &dir, id, &mut times).await;
        }
        for id in &ids {
            down(&network, &dir, id, &mut times).await;
        }
        times.print(&format!("{pods} pods up, then down"));
        settle().await;
        let mut times = Times::default();
        for id in &ids {
            up(&network, &dir, id, &mut times).await;
            down(&network, &dir, id, &mut times).await;
        }
        times.print(&format!("{pods} pods coming and going"));
        network.teardown_node().await.unwrap();
    });
    std::fs::remove_dir_all(&dir).unwrap();
    ExitCode::SUCCESS
}

/// Lets the kernel clear away the namespaces that are gone.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
}

/// Microseconds per step.
#[derive(Default)]
struct Times([Vec<u128>; 6]);

impl Times {
    fn print(&mut self, what: &str) {
        println!("{what}:");
        for (step, times) in STEPS.iter().zip(&mut self.0) {
            times.sort_unstable();
            let at = |percent: usize| times[(times.len() - 1) * percent / 100];
            println!("  {step:<14} p50 {:>6} us   p99 {:>6} us", at(50), at(99));
        }
    }
}

async fn up(network: &Arc<Network>, dir: &Path, id: &str, times: &mut Times) {
    let dir = dir.join(id);
    std::fs::create_dir_all(&dir).unwrap();
    let begun = Instant::now();
    let at = dir.clone();
    let hostname = id.to_owned();
    // As the daemon does it: pin blocks, so that it is not for the executor's threads.
    let pinned = tokio::task::spawn_blocking(move || {
        let hostname = Some(hostname.as_str());
        pin(&PinRequest {
            dir: &at,
            users: None,
            net: true,
            ipc: true,
            uts: true,
            hostname,
            sysctls: &[],
        })
    });
    let netns = pinned.await.unwrap().unwrap().net.unwrap();
    times.0[0].push(begun.elapsed().as_micros());
    let pod = PodNetwork {
        id: id.to_owned(),
        name: id.to_owned(),
        namespace: "measure".to_owned(),
        uid: id.to_owned(),
        netns,
        annotations: BTreeMap::new(),
        port_mappings: Vec::new(),
        dns: Dns::default(),
        cgroup_parent: String::new(),
    };
    let attached = Instant::now();
    network.attach(&pod).await.unwrap();
    times.0[1].push(attached.elapsed().as_micros());
    times.0[2].push(begun.elapsed().as_micros());
}

async fn down(network: &Arc<Network>, dir: &Path, id: &str, times: &mut Times) {
    let dir = dir.join(id);
    let begun = Instant::now();
    network.detach(id, Some(&dir.join("net"))).await.unwrap();
    times.0[3].push(begun.elapsed().as_micros());
    let unpinned = Instant::now();
    tokio::task::spawn_blocking(move || unpin(&dir)).await.unwrap().unwrap();
    times.0[4].push(unpinned.elapsed().as_micros());
    times.0[5].push(begun.elapsed().as_micros());
}
