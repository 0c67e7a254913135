//! crictl, the kubelet's own debugging client.

use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;

use crate::tools;

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
