//! Root tests in a network and a mount namespace of their own: the test runs itself again under unshare(1), so
//! that every thread of it, those of the runtime too, is isolated, and nothing outlives it.

// Each test program uses its own part of this.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::{Dns, Network, NetworkConfig, PodNetwork};
use sys::netns::{PinRequest, pin, unpin};

const INSIDE: &str = "WHERRY_TEST_INSIDE";
/// What the tests look at the network with: none of it is used by what is tested.
const TOOLS: [&str; 6] = ["unshare", "mount", "ip", "ping", "nft", "iptables-save"];

/// A scratch folder in isolated namespaces.
pub struct Node {
    pub dir: PathBuf,
}

/// Runs the body of the test called `name` isolated, or says why it is skipped.
pub fn isolated<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Node) -> F) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED {name}: needs root");
        return;
    }
    if let Some(missing) = TOOLS.into_iter().find(|tool| !is_installed(tool)) {
        println!("SKIPPED {name}: needs the program {missing}");
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--include-ignored"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare(1) of util-linux");
        assert!(status.success(), "{name} failed in its namespaces");
        return;
    }
    // The iptables lock and whatever else programs leave in /run.
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    let dir = std::env::temp_dir().join(format!("cni-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Also when the body fails: nothing in the folder is of use after its namespaces are gone.
    let _scratch = Scratch(dir.clone());
    runtime.block_on(body(Node { dir }));
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).exists())
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // A namespace that is still pinned is a mount, which is in the way.
        for pod in fs::read_dir(self.0.join("ns")).into_iter().flatten().flatten() {
            drop(unpin(&pod.path()));
        }
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Node {
    pub fn config(&self) -> NetworkConfig {
        let mut config = NetworkConfig::new(self.dir.join("state"));
        config.conf_dir = self.dir.join("conf");
        config.bin_dirs = vec![self.dir.join("bin"), real_plugins()];
        config.timeout = Duration::from_secs(20);
        config
    }

    pub fn open(&self) -> Arc<Network> {
        Network::open(self.config()).unwrap()
    }

    /// A pod with a namespace of its own, pinned.
    pub fn pod(&self, id: &str) -> PodNetwork {
        let dir = self.dir.join("ns").join(id);
        fs::create_dir_all(&dir).unwrap();
        let request = PinRequest {
            users: None,
            dir: &dir,
            net: true,
            ipc: true,
            uts: true,
            hostname: Some(id),
            sysctls: &[],
        };
        PodNetwork { netns: pin(&request).unwrap().net.unwrap(), ..self.bare(id) }
    }

    /// A pod without a namespace.
    pub fn bare(&self, id: &str) -> PodNetwork {
        PodNetwork {
            id: id.to_owned(),
            name: format!("pod-{id}"),
            namespace: "tests".to_owned(),
            uid: format!("uid-{id}"),
            netns: self.dir.join("ns").join(id).join("net"),
            annotations: BTreeMap::new(),
            port_mappings: Vec::new(),
            dns: Dns::default(),
            cgroup_parent: String::new(),
        }
    }

    pub fn unpin(&self, id: &str) {
        unpin(&self.dir.join("ns").join(id)).unwrap();
    }

    pub fn write_conf(&self, name: &str, text: &str) {
        fs::create_dir_all(self.dir.join("conf")).unwrap();
        fs::write(self.dir.join("conf").join(name), text).unwrap();
    }

    /// Puts a shell script into the folder for plugins.
    pub fn write_plugin(&self, name: &str, body: &str) {
        let bin = self.dir.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let mut options = fs::OpenOptions::new();
        let path = bin.join(name);
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o755).open(path).unwrap();
        std::io::Write::write_all(&mut file, format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
    }
}

/// Runs a program and returns its standard output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{program} {arguments:?}: {status} {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// Pings an address from inside a namespace.
pub fn ping(netns: &Path, address: &str) -> bool {
    sys::netns::inside(netns, || {
        let ping = Command::new("ping").args(["-c1", "-W2", address]).output().unwrap();
        ping.status.success()
    })
    .unwrap()
}

/// The names of the host's links.
pub fn links() -> Vec<String> {
    run("ip", &["-o", "link"])
        .lines()
        .filter_map(|line| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned()))
        .collect()
}

/// Waits for what the kernel does in its own time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: never");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Debian's plugins, wherever they are (package containernetworking-plugins).
pub fn real_plugins() -> PathBuf {
    std::env::var_os("WHERRY_TEST_CNI").map_or_else(|| "/usr/lib/cni".into(), PathBuf::from)
}
