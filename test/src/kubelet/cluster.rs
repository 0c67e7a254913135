//! A cluster of one node, as small as it can be: etcd, one API server, a kubelet, and kubectl for the user. There is no
//! scheduler and no controller: a pod names its node, and comes without a service account.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{NODE_ADDRESS, NODE_NAME, Settings};
use crate::authority::Authority;
use crate::tools;

/// The token of the only user, who may do everything.
const TOKEN: &str = "the-token-of-the-administrator";
/// Where etcd listens.
const ETCD: &str = "http://127.0.0.1:2379";
/// Where the API server listens. The network namespace is the run's own.
const PORT: u16 = 6443;
/// How long the API server may take until it is ready.
const START_DEADLINE: Duration = Duration::from_secs(300);
/// How long a user waits for kubectl.
const PATIENCE: Duration = Duration::from_secs(100);

/// etcd and an API server; they end when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Its user's kubectl.
    pub kubectl: Kubectl,
    children: Vec<Child>,
}

/// Why there can be no cluster here.
pub fn missing() -> Option<String> {
    let programs = ["etcd", "kube-apiserver", "kubectl"];
    let missing = programs.into_iter().find(|name| tools::find(name).is_none())?;
    Some(format!("no {missing}: WHERRY_CLUSTER=1 hack/test builds the programs of a cluster"))
}

impl Cluster {
    /// Starts them with their things in this new folder. The kubelet of these settings joins the cluster.
    pub async fn start(folder: &Path) -> io::Result<(Settings, Self)> {
        fs::create_dir_all(folder)?;
        let authority = Arc::new(Authority::new());
        write_files(folder, &authority)?;
        let kubectl = Kubectl::new(folder);
        let mut cluster = Self { kubectl: kubectl.clone(), children: Vec::new() };
        cluster.children.push(etcd(folder).spawn()?);
        cluster.children.push(api_server(folder).spawn()?);
        let deadline = Instant::now() + START_DEADLINE;
        while !kubectl.output(&["get", "--raw", "/readyz"]).await.status.success() {
            for child in &mut cluster.children {
                if let Some(status) = child.try_wait()? {
                    return Err(io::Error::other(format!("{status}: {}", words(folder))));
                }
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("not ready in time: {}", words(folder))));
            }
            sleep(Duration::from_millis(300)).await;
        }
        let flags = vec![format!("--kubeconfig={}", kubectl.kubeconfig.display())];
        Ok((Settings { flags, authority, ..Settings::default() }, cluster))
    }
}

/// Certificates, keys, the user's token and configuration.
fn write_files(folder: &Path, authority: &Authority) -> io::Result<()> {
    let server = authority.server(&[NODE_ADDRESS]);
    let accounts = authority.server(&[]);
    fs::write(folder.join("ca.crt"), authority.pem())?;
    fs::write(folder.join("server.crt"), server.certificate)?;
    fs::write(folder.join("server.key"), server.key)?;
    fs::write(folder.join("accounts.crt"), accounts.certificate)?;
    fs::write(folder.join("accounts.key"), accounts.key)?;
    fs::write(folder.join("tokens"), format!("{TOKEN},admin,admin,system:masters\n"))?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{PORT}"),
            "certificate-authority": folder.join("ca.crt"),
        } }],
        "users": [{ "name": "admin", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
    });
    fs::write(folder.join("kubeconfig"), config.to_string())
}

fn etcd(folder: &Path) -> Command {
    let mut command = program("etcd", folder);
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
        .args(["--name", "test", "--initial-cluster", "test=http://127.0.0.1:2380"])
        .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn"]);
    command
}

fn api_server(folder: &Path) -> Command {
    let file = |name: &str| folder.join(name).display().to_string();
    let mut command = program("kube-apiserver", folder);
    command
        .arg(format!("--etcd-servers={ETCD}"))
        .arg(format!("--secure-port={PORT}"))
        .arg(format!("--advertise-address={NODE_ADDRESS}"))
        .arg(format!("--tls-cert-file={}", file("server.crt")))
        .arg(format!("--tls-private-key-file={}", file("server.key")))
        .arg(format!("--token-auth-file={}", file("tokens")))
        .arg(format!("--kubelet-certificate-authority={}", file("ca.crt")))
        .arg(format!("--service-account-key-file={}", file("accounts.crt")))
        .arg(format!("--service-account-signing-key-file={}", file("accounts.key")))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg("--service-cluster-ip-range=10.96.0.0/16")
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg("--authorization-mode=AlwaysAllow")
        .arg("--disable-admission-plugins=ServiceAccount")
        .arg("--allow-privileged=true")
        .arg("--endpoint-reconciler-type=none");
    command
}

fn program(name: &str, folder: &Path) -> Command {
    let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(tools::find(name).expect("the cluster's programs were built"));
    let output = log.try_clone().unwrap();
    command.stdin(Stdio::null()).stdout(output).stderr(log).kill_on_drop(true);
    command
}

fn words(folder: &Path) -> String {
    let last = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    };
    format!("{}\n{}", last("etcd.log"), last("kube-apiserver.log"))
}

/// kubectl, as a user types it.
#[derive(Clone, Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    /// Streams over SPDY, as an old kubectl does, and not over WebSocket.
    spdy: bool,
}

impl Kubectl {
    /// kubectl for the cluster whose things are in this folder.
    pub fn new(folder: &Path) -> Self {
        Self { kubeconfig: folder.join("kubeconfig"), spdy: false }
    }

    /// The same, streaming over SPDY.
    #[must_use]
    pub fn spdy(&self) -> Self {
        Self { spdy: true, ..self.clone() }
    }

    /// The command with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools::find("kubectl").expect("kubectl was built"));
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.kubeconfig.parent().unwrap());
        if self.spdy {
            for what in ["REMOTE_COMMAND", "PORT_FORWARD"] {
                command.env(format!("KUBECTL_{what}_WEBSOCKETS"), "false");
            }
        }
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    pub async fn output(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        timeout(PATIENCE, output).await.unwrap_or_else(|_| panic!("{arguments:?} hangs")).unwrap()
    }

    /// What it printed; it must succeed.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        succeeded(arguments, &output)
    }

    /// What it printed after it got this input; it must succeed.
    pub async fn feed(&self, arguments: &[&str], input: &[u8]) -> String {
        succeeded(arguments, &self.fed(arguments, input).await)
    }

    /// Runs it to its end with this input.
    pub async fn fed(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let write = async {
            // It may end before it has read everything; what it answers then is looked at.
            stdin.write_all(input).await.ok();
            drop(stdin);
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1.unwrap() };
        timeout(PATIENCE, both).await.unwrap_or_else(|_| panic!("{arguments:?} hangs"))
    }

    /// Gives the cluster a pod that runs on the node.
    pub async fn apply(&self, pod: &Value) {
        let mut pod = pod.clone();
        if pod["kind"] == "Pod" {
            pod["spec"]["nodeName"] = json!(NODE_NAME);
        }
        self.feed(&["apply", "-f", "-"], pod.to_string().as_bytes()).await;
    }

    /// Waits until a pod is ready.
    pub async fn ready(&self, pod: &str) -> Value {
        let target = format!("pod/{pod}");
        let waited =
            self.output(&["wait", "--for=condition=Ready", "--timeout=90s", &target]).await;
        if !waited.status.success() {
            panic!("{pod} is not ready: {}", self.run(&["describe", "pod", pod]).await);
        }
        self.get(pod).await
    }

    /// A pod as the cluster tells it.
    pub async fn get(&self, pod: &str) -> Value {
        serde_json::from_str(&self.run(&["get", "pod", pod, "-o", "json"]).await).unwrap()
    }

    /// Waits until a pod is as `is` wants it.
    pub async fn until(&self, pod: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(pod).await;
            if is(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{pod} is not {what}: {}", seen["status"]);
            sleep(Duration::from_millis(500)).await;
        }
    }
}

fn succeeded(arguments: &[&str], output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "kubectl {arguments:?}: {stdout} {stderr}");
    stdout
}

/// A free port of loopback.
pub fn free_port() -> u16 {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    std::net::TcpListener::bind(any).unwrap().local_addr().unwrap().port()
}
