//! crictl, the kubelet's own debugging client.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::tools;

/// How long a command with an input may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// crictl, or why it is not there.
pub fn program() -> Result<PathBuf, String> {
    let why = "no crictl: hack/setup builds it where there is Go".to_owned();
    tools::find("crictl").ok_or(why)
}

/// crictl on one socket.
#[derive(Debug)]
pub struct Crictl {
    socket: PathBuf,
}

impl Crictl {
    /// crictl for the daemon at this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// Runs it with these arguments, separated by spaces; what it printed, without the end of the line.
    pub async fn run(&self, arguments: &str) -> String {
        let output = self.output(arguments).await;
        let stdout = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "crictl {arguments}: {stdout} {stderr}");
        stdout
    }

    /// Runs it with these arguments and this input.
    pub async fn with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let endpoint = format!("unix://{}", self.socket.display());
        let mut child = Command::new(program().unwrap())
            .args(["--config", "/dev/null", "--timeout", "60s"])
            .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let write = async {
            // A command need not read to the end.
            stdin.write_all(input).await.ok();
            drop(stdin);
        };
        let (output, ()) = tokio::join!(timeout(PATIENCE, child.wait_with_output()), write);
        output.expect("crictl comes to its end").unwrap()
    }

    /// Runs it with these arguments, separated by spaces.
    pub async fn output(&self, arguments: &str) -> Output {
        let endpoint = format!("unix://{}", self.socket.display());
        Command::new(program().unwrap())
            .args(["--config", "/dev/null", "--timeout", "60s"])
            .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args(arguments.split(' '))
            .output()
            .await
            .unwrap()
    }
}
