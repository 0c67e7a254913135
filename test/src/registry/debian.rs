//! Debian's `docker-registry`: the distribution project's own server.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::{machine, tools};

/// A running `docker-registry`; it ends when this is dropped.
#[derive(Debug)]
pub struct DebianRegistry {
    address: SocketAddr,
    child: Child,
}

impl DebianRegistry {
    /// Starts it on a free loopback port with its data in this folder; nothing when the program is missing, and in the
    /// guest, whose suites are not about registries: to push everything to it takes longer there than they do.
    pub async fn start(folder: &Path) -> io::Result<Option<Self>> {
        if machine::is_guest() {
            return Ok(None);
        }
        let Some(program) = tools::find("docker-registry") else { return Ok(None) };
        std::fs::create_dir_all(folder)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = folder.join("config.yml");
        std::fs::write(&config, settings(folder, address))?;
        let log = std::fs::File::create(folder.join("log"))?;
        let child = Command::new(program)
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(20), listens).await?;
        Ok(Some(Self { address, child }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

fn settings(folder: &Path, address: SocketAddr) -> String {
    format!(
        "version: 0.1\n\
         log: {{level: warn, accesslog: {{disabled: true}}}}\n\
         storage:\n  \
           cache: {{blobdescriptor: inmemory}}\n  \
           filesystem: {{rootdirectory: {}/data}}\n\
         http: {{addr: \"{address}\"}}\n",
        folder.display()
    )
}
