//! A node: one daemon on folders of its own, and what a kubelet would do with it.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::cri::{ContainerConfig, ContainerState, ContainerStatus, PodSandboxConfig};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::cri::{Answer, Cri};
use crate::runtime::{Folders, Runtime, Settings};

/// How long a daemon may take until it serves.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often something that takes a moment is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A daemon with its folders. Dropping it kills the daemon.
#[derive(Debug)]
pub struct Node {
    /// Which daemon it is.
    pub runtime: Runtime,
    /// Where its things are.
    pub folders: Folders,
    /// What it was configured with.
    pub settings: Settings,
    /// The CRI calls.
    pub cri: Cri,
    /// What was made through this node.
    pub ids: Ids,
    child: Option<Child>,
}

/// The ids of every pod and container made on a node, so that what is left of them will be found.
#[derive(Clone, Debug, Default)]
pub struct Ids(Arc<Mutex<BTreeSet<String>>>);

impl Ids {
    /// Notes an id.
    pub fn note(&self, id: &str) {
        self.0.lock().unwrap().insert(id.into());
    }

    /// All ids noted so far.
    pub fn all(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A pod that runs on a node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// The configuration it was made from.
    pub config: PodSandboxConfig,
}

/// One line of a container's log, in the kubelet's format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the line goes on in the next entry (tag `P`).
    pub partial: bool,
    /// What was written, without the line's end.
    pub text: String,
}

impl Node {
    /// Configures and starts a node in this folder, which exists.
    pub async fn start(
        runtime: Runtime,
        base: &Path,
        certs: &Path,
        settings: Settings,
    ) -> io::Result<Self> {
        let name = base.file_name().unwrap();
        let folders = Folders {
            base: base.into(),
            root: base.join("root"),
            state: Path::new("/run").join(name),
            cni: base.join("cni"),
            certs: certs.into(),
        };
        runtime.configure(&folders, &settings)?;
        let cri = Cri::new(&folders.socket());
        let mut node = Self { runtime, folders, settings, cri, ids: Ids::default(), child: None };
        node.up().await?;
        Ok(node)
    }

    /// Starts the daemon and waits until it answers.
    pub async fn up(&mut self) -> io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.folders.log())?;
        let mut command = self.runtime.command(&self.folders);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = self.child.insert(command.spawn()?);
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("the daemon ended at once: {status}")));
            }
            match timeout(Duration::from_secs(1), self.cri.version()).await {
                Ok(Ok(_)) if self.cri.status().await.is_ok() => return Ok(()),
                _ if Instant::now() > deadline => {
                    return Err(io::Error::other("the daemon does not serve in time"));
                }
                _ => sleep(POLL).await,
            }
        }
    }

    /// The daemon's process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Kills the daemon as a crash would.
    pub async fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Takes away what a power cut takes: every process, and all that lived in memory only.
    pub async fn power_off(&mut self) {
        self.crash().await;
        crate::leftovers::void(&self.ids.all(), &self.folders.state);
    }

    /// Asks the daemon to end, and waits for it.
    pub async fn terminate(&mut self) -> io::Result<ExitStatus> {
        let mut child = self.child.take().unwrap();
        let pid = i32::try_from(child.id().unwrap()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::TERM)?;
        timeout(Duration::from_secs(30), child.wait()).await?
    }

    /// What the daemon has written so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.folders.log()).unwrap_or_default()
    }

    /// A usual pod's configuration.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        crate::spec::pod(name, self.folders.base.parent().unwrap())
    }

    /// Runs a usual pod.
    pub async fn pod(&self, name: &str) -> Pod {
        self.run_pod(self.pod_config(name)).await.unwrap()
    }

    /// Runs a pod. Its log folder is made first, as the kubelet does.
    pub async fn run_pod(&self, config: PodSandboxConfig) -> Answer<Pod> {
        std::fs::create_dir_all(&config.log_directory).unwrap();
        let id = self.cri.run_pod(&config).await?;
        self.ids.note(&id);
        Ok(Pod { id, config })
    }

    /// Runs a pod whose containers this handler makes.
    pub async fn run_pod_by(&self, config: PodSandboxConfig, handler: &str) -> Answer<Pod> {
        std::fs::create_dir_all(&config.log_directory).unwrap();
        let id = self.cri.run_pod_by(&config, handler).await?;
        self.ids.note(&id);
        Ok(Pod { id, config })
    }

    /// The pod's address.
    pub async fn address(&self, pod: &Pod) -> String {
        self.cri.pod_status(&pod.id).await.unwrap().network.unwrap_or_default().ip
    }

    /// Pulls an image unless it is there.
    pub async fn pull(&self, name: &str) -> Answer<()> {
        if self.cri.image(name).await?.is_none() {
            self.cri.pull(name, None).await?;
        }
        Ok(())
    }

    /// Creates a container, pulling its image when that is missing.
    pub async fn create(&self, pod: &Pod, config: &ContainerConfig) -> Answer<String> {
        self.pull(&config.image.as_ref().unwrap().image).await?;
        let id = self.cri.create(&pod.id, config, &pod.config).await?;
        self.ids.note(&id);
        Ok(id)
    }

    /// Creates and starts a container.
    pub async fn run(&self, pod: &Pod, config: &ContainerConfig) -> String {
        let id = self.create(pod, config).await.unwrap();
        self.cri.start(&id).await.unwrap();
        id
    }

    /// Runs a container to its end: its status and what it printed.
    pub async fn finish(&self, pod: &Pod, config: &ContainerConfig) -> (ContainerStatus, String) {
        let id = self.run(pod, config).await;
        let status = self.exit(&id).await;
        (status, self.printed(pod, config))
    }

    /// Waits for the end of a container.
    pub async fn exit(&self, id: &str) -> ContainerStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.cri.container(id).await.unwrap();
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < deadline, "container {id} does not end: {status:?}");
            sleep(POLL).await;
        }
    }

    /// The lines of a container's log so far.
    pub fn log(&self, pod: &Pod, config: &ContainerConfig) -> Vec<LogLine> {
        let path = Path::new(&pod.config.log_directory).join(&config.log_path);
        let bytes = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(|line| LogLine::parse(line).expect(line)).collect()
    }

    /// What a container has printed so far, both streams together.
    pub fn printed(&self, pod: &Pod, config: &ContainerConfig) -> String {
        let join = |line: LogLine| if line.partial { line.text } else { line.text + "\n" };
        self.log(pod, config).into_iter().map(join).collect()
    }

    /// Waits until a container has printed this.
    pub async fn prints(&self, pod: &Pod, config: &ContainerConfig, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.printed(pod, config).contains(text) {
            let printed = self.printed(pod, config);
            assert!(Instant::now() < deadline, "no {text:?} in what was printed: {printed}");
            sleep(POLL).await;
        }
    }

    /// Runs a shell script in a container and gives what it wrote; it must succeed.
    pub async fn sh(&self, id: &str, script: &str) -> String {
        let answer = self.cri.exec(id, &["sh", "-c", script], 20).await.unwrap();
        let stderr = String::from_utf8_lossy(&answer.stderr);
        assert_eq!(answer.exit_code, 0, "{script}: {stderr}");
        String::from_utf8_lossy(&answer.stdout).trim_end().to_owned()
    }

    /// Waits until a [`sleeper`](crate::spec::sleeper) has its trap, without which a first process has no signal: it has
    /// when it waits.
    pub async fn sleeps(&self, id: &str) {
        let waits = "grep -q wait /proc/1/wchan || ps | grep -q '[s]leep 3600'";
        self.sh(id, &format!("until {waits}; do :; done")).await;
    }

    /// Stops and removes all pods.
    pub async fn clear(&self) -> Answer<()> {
        for pod in self.cri.pods(None).await? {
            self.ids.note(&pod.id);
            self.cri.stop_pod(&pod.id).await?;
            self.cri.remove_pod(&pod.id).await?;
        }
        Ok(())
    }
}

impl LogLine {
    /// Parses one entry: `<time> <stream> <P|F>[:tags] <text>`.
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(4, ' ');
        let (time, stream) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let partial = match parts.next()? {
            "P" => true,
            "F" => false,
            _ => return None,
        };
        let known = stream == "stdout" || stream == "stderr";
        let text = parts.next().unwrap_or_default().to_owned();
        known.then_some(Self { time, stream, partial, text })
    }
}
