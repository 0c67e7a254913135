//! How fast exec, attach and port-forward are, with Kubernetes' own client (test/clients), through Wherry and through
//! containerd, turn by turn in one run, for `hack/bench stream`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a measurement that fails shall say where")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use e2e::bench;
use e2e::node::{Node, Pod};
use e2e::registry::Registries;
use e2e::runtime::Runtime;
use e2e::spec::{script, sleeper};
use e2e::tools;
use tokio::process::Command;

const TURNS: usize = 3;
const OUT: u16 = 7000;
const IN: u16 = 7001;

fn main() -> ExitCode {
    bench::run(500, async |folder, megabytes| compare(&folder, megabytes).await)
}

/// One of the two daemons, with a pod that serves.
struct Side {
    node: Node,
    pod: Pod,
    container: String,
    rates: BTreeMap<&'static str, Vec<f64>>,
}

async fn compare(folder: &Path, megabytes: usize) {
    let registries = Registries::start(folder).await.unwrap();
    let mut sides = Vec::new();
    for runtime in [Runtime::Wherry, Runtime::Containerd] {
        let node = bench::node(runtime, folder, &registries).await;
        sides.push(serve(node, megabytes).await);
    }
    println!("{megabytes} MB each, {TURNS} times, turn by turn; the best in MB/s");
    for _ in 0..TURNS {
        for side in &mut sides {
            side.measure(megabytes).await;
        }
    }
    println!("{:<22} {:>9} {:>11} {:>7}", "", "wherry", "containerd", "ratio");
    for name in sides[0].rates.keys() {
        let best = |side: &Side| {
            side.rates.get(name).into_iter().flatten().copied().fold(f64::NAN, f64::max)
        };
        let (ours, theirs) = (best(&sides[0]), best(&sides[1]));
        println!("{name:<22} {ours:>9.0} {theirs:>11.0} {:>6.1}x", ours / theirs);
    }
    for side in &sides {
        side.node.clear().await.unwrap();
    }
}

async fn serve(node: Node, megabytes: usize) -> Side {
    let pod = node.pod("stream").await;
    let text = format!(
        "nc -ll -p {OUT} -e dd if=/dev/zero bs=1M count={megabytes} & nc -ll -p {IN} -e dd of=/dev/null bs=1M & wait"
    );
    node.run(&pod, &script("server", &text)).await;
    let container = node.run(&pod, &sleeper("stream")).await;
    Side { node, pod, container, rates: BTreeMap::new() }
}

impl Side {
    async fn measure(&mut self, megabytes: usize) {
        let ours = self.node.runtime == Runtime::Wherry;
        let bytes = (megabytes << 20).to_string();
        let (cri, id) = (self.node.cri.clone(), self.container.clone());
        let count = format!("count={megabytes}");
        let out = ["dd", "if=/dev/zero", "bs=1M", &count];
        let url = cri.exec_url(&id, &out, "o").await.unwrap();
        self.client("exec, out", &["exec-out", &url]).await;
        let url = cri.exec_url(&id, &["dd", "of=/dev/null", "bs=1M"], "io").await.unwrap();
        self.client("exec, in", &["exec-in", &url, &bytes]).await;
        let url = cri.forward_url(&self.pod.id).await.unwrap();
        self.client("forward, out", &["forward-out", &url, &OUT.to_string()]).await;
        let url = cri.forward_url(&self.pod.id).await.unwrap();
        self.client("forward, in", &["forward-in", &url, &IN.to_string(), &bytes]).await;
        let text = format!("read go; dd if=/dev/zero bs=1M count={megabytes}; sleep 3600");
        let mut config = script("attached", &text);
        config.stdin = true;
        config.log_path.clear();
        let attached = self.node.run(&self.pod, &config).await;
        let url = cri.attach_url(&attached, "io").await.unwrap();
        self.client("attach, out", &["attach-out", &url, &bytes]).await;
        cri.stop(&attached, 0).await.unwrap();
        cri.remove(&attached).await.unwrap();
        if ours {
            let url = cri.exec_url(&id, &out, "o").await.unwrap();
            self.client("exec, out, WebSocket", &["-websocket", "exec-out", &url]).await;
        }
    }

    /// Runs the client, and notes the rate that it tells.
    async fn client(&mut self, name: &'static str, arguments: &[&str]) {
        let program = tools::cache().join("tools/bin/stream-client");
        let output = Command::new(program).args(arguments).kill_on_drop(true).output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(120), output).await;
        let output = output.expect("the client comes to its end").unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.split_whitespace().map(|word| word.parse::<f64>().unwrap());
        let (Some(bytes), Some(seconds)) = (words.next(), words.next()) else {
            println!("{name}: {}", String::from_utf8_lossy(&output.stderr));
            return;
        };
        self.rates.entry(name).or_default().push(bytes / seconds / 1e6);
    }
}
