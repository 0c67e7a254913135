//! A real kubelet on a node, as a user has it: pods go in as manifests, and everything is seen through its own API.
//!
//! The kubelet and the daemon see the same namespaces, but for a few mounts of the kubelet's own: what it would change of
//! the machine (kernel settings, `/var/log/containers`) it finds as it wants it, or to itself. Its cgroups are below the
//! run's.

mod api;
pub mod cluster;
mod config;
pub mod manifest;
pub mod suite;

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::cri::PodSandboxState;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub use api::Api;
pub use config::Settings;

use crate::cri::Cri;
use crate::node::Node;
use crate::tools;

/// The name that the node has; static pods have it in theirs.
pub const NODE_NAME: &str = "node";
/// The address that the node has, on loopback.
pub const NODE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 11, 0, 1));
/// Where the kubelet serves. The network namespace is the run's own.
const PORT: u16 = 10250;
/// How long a kubelet may take until it serves.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often pods are looked at.
const POLL: Duration = Duration::from_millis(200);

/// A kubelet with its folders. Dropping it kills the kubelet; pods stay, as on any node.
#[derive(Debug)]
pub struct Kubelet {
    /// Its API.
    pub api: Arc<Api>,
    /// What it was started with.
    pub settings: Settings,
    folders: Folders,
    cri: Cri,
    child: Option<Child>,
    pods: watch::Receiver<Vec<Value>>,
    poll: JoinHandle<()>,
}

/// Where a kubelet keeps its things.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Everything else is in it.
    pub base: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The cgroup of all, without the leading slash; nothing where they are at the top.
    pub cgroup: String,
}

impl Folders {
    /// Volumes and checkpoints (`--root-dir`).
    pub fn root(&self) -> PathBuf {
        self.base.join("root")
    }

    /// The manifests of static pods.
    pub fn manifests(&self) -> PathBuf {
        self.base.join("manifests")
    }

    /// The pods' logs.
    pub fn logs(&self) -> PathBuf {
        self.base.join("pods")
    }

    /// What the kubelet itself wrote.
    pub fn log(&self) -> PathBuf {
        self.base.join("kubelet.log")
    }
}

/// The kubelet's program, or why it is not there.
pub fn program() -> Result<PathBuf, String> {
    let why = "no kubelet: hack/setup builds it where there is Go".to_owned();
    tools::find("kubelet").ok_or(why)
}

impl Kubelet {
    /// Starts a kubelet on this node, with its things in this new folder.
    pub async fn start(node: &Node, base: &Path, settings: Settings) -> io::Result<Self> {
        let run = crate::isolate::cgroup_parent(node.folders.base.parent().unwrap());
        // The guest is the kubelet's, and systemd would want a name of its own for the run's.
        let cgroup = if crate::machine::is_guest() { String::new() } else { run };
        let folders = Folders { base: base.into(), socket: node.folders.socket(), cgroup };
        prepare(&folders).await?;
        let authority = &settings.authority;
        let address = SocketAddr::new(NODE_ADDRESS, PORT);
        let api = Arc::new(Api::new(address, authority.client_config()));
        let (sender, pods) = watch::channel(Vec::new());
        let poll = tokio::spawn(poll(api.clone(), sender));
        let credentials = authority.server(&[NODE_ADDRESS]);
        fs::write(base.join("kubelet.crt"), &credentials.certificate)?;
        fs::write(base.join("kubelet.key"), &credentials.key)?;
        let cri = Cri::new(&folders.socket);
        let mut kubelet = Self { api, settings, folders, cri, child: None, pods, poll };
        kubelet.up().await?;
        Ok(kubelet)
    }

    /// Starts the kubelet and waits until it serves.
    pub async fn up(&mut self) -> io::Result<()> {
        let config = config::configuration(&self.folders, PORT, &self.settings);
        fs::write(self.folders.base.join("config.json"), config.to_string())?;
        let log = OpenOptions::new().create(true).append(true).open(self.folders.log())?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = self.child.insert(command.spawn()?);
        let deadline = Instant::now() + START_DEADLINE;
        while self.api.get("/healthz").await.is_err() {
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let message = format!("the kubelet does not serve ({ended:?})");
                return Err(io::Error::other(format!("{message}\n{}", self.words(""))));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Ends the kubelet as a service manager would; its pods go on.
    pub async fn down(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        pid.map(|pid| kill_process(pid, Signal::TERM).ok());
        if timeout(Duration::from_secs(20), child.wait()).await.is_err() {
            child.kill().await.ok();
        }
    }

    /// Gives up the kubelet's folder of volumes; an error when something is still mounted in it.
    pub fn leave(&self) -> io::Result<()> {
        Ok(unmount(self.folders.root(), UnmountFlags::empty())?)
    }

    /// Its folders.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Gives the kubelet a static pod, or another manifest for one.
    pub fn apply(&self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().expect("a pod has a name");
        // Renamed into place: the kubelet must not see half of it.
        let half = self.folders.base.join(format!("{name}.json"));
        fs::write(&half, pod.to_string()).unwrap();
        fs::rename(half, self.manifest(name)).unwrap();
    }

    /// Takes the manifest of a static pod away.
    pub fn withdraw(&self, name: &str) {
        fs::remove_file(self.manifest(name)).unwrap();
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.folders.manifests().join(format!("{name}.json"))
    }

    /// The folder of a static pod's logs, once the kubelet knows it.
    pub fn logs(&self, pod: &Value) -> PathBuf {
        let meta = &pod["metadata"];
        let [name, uid] = ["name", "uid"].map(|key| meta[key].as_str().unwrap_or_default());
        self.folders.logs().join(format!("default_{name}_{uid}"))
    }

    /// A static pod as the kubelet tells it, status included.
    pub fn pod(&self, name: &str) -> Option<Value> {
        let full = format!("{name}-{NODE_NAME}");
        let pods = self.pods.borrow();
        pods.iter().find(|pod| pod["metadata"]["name"] == *full).cloned()
    }

    /// Waits until a static pod is as `is` wants it, for as many seconds as a patient user would.
    pub async fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut pods = self.pods.clone();
        loop {
            let pod = self.pod(name);
            if let Some(pod) = pod.as_ref().filter(|pod| is(pod)) {
                return pod.clone();
            }
            let status = pod.map(|pod| pod["status"].to_string()).unwrap_or_default();
            let late = Instant::now() > deadline;
            assert!(!late, "{name} is not {what}: {status}\n{}", self.words(name));
            timeout(Duration::from_secs(5), pods.changed()).await.ok();
        }
    }

    /// Waits until a static pod has ended: the kubelet does not know it any more, and its sandbox is stopped, which the
    /// kubelet does last. What remains is removed by the kubelet's garbage collection, once a minute.
    pub async fn until_gone(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.pod(name).is_some() || self.runs(name).await {
            assert!(Instant::now() < deadline, "{name} stays\n{}", self.words(name));
            sleep(POLL).await;
        }
    }

    async fn runs(&self, name: &str) -> bool {
        let full = format!("{name}-{NODE_NAME}");
        // A daemon that is down is asked again.
        let Ok(pods) = self.cri.pods(None).await else { return true };
        pods.iter().any(|pod| {
            let named = pod.metadata.as_ref().is_some_and(|metadata| metadata.name == full);
            named && pod.state() == PodSandboxState::SandboxReady
        })
    }

    /// The last of the kubelet's own words about something.
    pub fn words(&self, about: &str) -> String {
        let text = fs::read_to_string(self.folders.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(about)).collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn command(&self) -> Command {
        let script = "for file in overcommit_memory:1:vm panic_on_oom:0:vm panic:10:kernel \
             panic_on_oops:1:kernel root_maxkeys:1000000:kernel/keys \
             root_maxbytes:25000000:kernel/keys; do\n\
               IFS=: read -r name value folder <<<\"$file\"\n\
               echo \"$value\" >\"$1/sysctl.$name\"\n\
               mount --bind \"$1/sysctl.$name\" \"/proc/sys/$folder/$name\"\n\
             done\n\
             mount -t tmpfs kubelet /var/log\n\
             shift; exec \"$@\"";
        let base = &self.folders.base;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "unchanged", "--", "bash", "-ec", script, "kubelet"])
            .arg(base)
            .arg(program().expect("the kubelet was built"))
            .arg("--config")
            .arg(base.join("config.json"))
            .arg("--root-dir")
            .arg(self.folders.root())
            .arg("--cert-dir")
            .arg(base.join("pki"))
            .args(["--hostname-override", NODE_NAME, "--v", "2"])
            .arg(format!("--node-ip={NODE_ADDRESS}"))
            .args(&self.settings.flags);
        command
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

/// Folders, cgroups and an address for a kubelet.
async fn prepare(folders: &Folders) -> io::Result<()> {
    for folder in [folders.root(), folders.manifests(), folders.logs()] {
        fs::create_dir_all(folder)?;
    }
    fs::write(folders.base.join("resolv.conf"), "nameserver 10.96.0.10\n")?;
    // Volumes that the kubelet mounts in its namespace must be there in the daemon's.
    let root = folders.root();
    mount_bind(&root, &root)?;
    mount_change(&root, MountPropagationFlags::SHARED)?;
    make_cgroups(&folders.cgroup)?;
    let ip = format!("{NODE_ADDRESS}/32");
    let added = Command::new("ip").args(["address", "replace", &ip, "dev", "lo"]).status().await?;
    if added.success() { Ok(()) } else { Err(io::Error::other("no address for the node")) }
}

/// The kubelet wants the cgroup that it is to stay below to exist, in every hierarchy.
fn make_cgroups(name: &str) -> io::Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return fs::create_dir_all(top.join(name));
    }
    for hierarchy in fs::read_dir(top)?.flatten() {
        let folder = hierarchy.path();
        if folder.join("cgroup.procs").exists() {
            fs::create_dir_all(folder.join(name))?;
            // Version 1 starts without processors and memory of its parent.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read_to_string(folder.join(file)) {
                    fs::write(folder.join(name).join(file), value)?;
                }
            }
        }
    }
    Ok(())
}

/// Asks the kubelet for its pods, for everyone who waits.
async fn poll(api: Arc<Api>, sender: watch::Sender<Vec<Value>>) {
    loop {
        // A kubelet that is down has no word about its pods.
        if let Ok(body) = api.get("/pods").await
            && let Ok(mut list) = serde_json::from_slice::<Value>(&body)
        {
            let pods = list["items"].as_array_mut().map(std::mem::take);
            sender.send(pods.unwrap_or_default()).ok();
        }
        sleep(POLL).await;
    }
}
