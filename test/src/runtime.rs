//! The daemon under test: Wherry, or containerd as the reference that proves the tests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::tools;

/// Which daemon a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Ours.
    Wherry,
    /// Debian's containerd with runc.
    Containerd,
    /// Debian's containerd with Wherry's shim.
    Hosted,
}

/// The network of a node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// What the runtime brings itself; for containerd, which brings nothing, the standard plugins.
    #[default]
    BuiltIn,
    /// This list of CNI plugins, as JSON.
    Conflist(String),
}

/// What differs between nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The pods' network.
    pub network: Network,
    /// More lines for the end of Wherry's configuration file.
    pub extra: String,
    /// Wherry's log is what it is without configuration; tests want all of it.
    pub usual_log: bool,
}

/// Where a node keeps its things.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Everything, on disk.
    pub base: PathBuf,
    /// What survives a reboot.
    pub root: PathBuf,
    /// What does not; short, because socket paths are limited to 107 bytes.
    pub state: PathBuf,
    /// The CNI configuration.
    pub cni: PathBuf,
    /// The tree of `hosts.toml` files.
    pub certs: PathBuf,
}

impl Folders {
    /// The socket that speaks CRI.
    pub fn socket(&self) -> PathBuf {
        self.state.join("cri.sock")
    }

    /// The daemon's configuration file.
    pub fn config(&self) -> PathBuf {
        self.base.join("config.toml")
    }

    /// The daemon's output.
    pub fn log(&self) -> PathBuf {
        self.base.join("daemon.log")
    }
}

impl Runtime {
    /// The runtime that `E2E_RUNTIME` names; Wherry without it.
    pub fn from_env() -> Self {
        match std::env::var("E2E_RUNTIME").as_deref() {
            Ok("containerd") => Self::Containerd,
            Ok("hosted") => Self::Hosted,
            _ => Self::Wherry,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wherry => "wherry",
            Self::Containerd | Self::Hosted => "containerd",
        }
    }

    /// Its program.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Wherry => Some(bin_dir().join("wherry")).filter(|path| path.is_file()),
            Self::Containerd | Self::Hosted => tools::find("containerd"),
        }
    }

    /// Writes the configuration of a node.
    pub fn configure(self, folders: &Folders, settings: &Settings) -> io::Result<()> {
        for folder in [&folders.root, &folders.state, &folders.cni] {
            fs::create_dir_all(folder)?;
        }
        let plugins = tools::cni_plugins().unwrap_or_else(|| "/opt/cni/bin".into());
        let conflist = match (&settings.network, self) {
            (Network::Conflist(list), _) => Some(list.clone()),
            (Network::BuiltIn, Self::Containerd | Self::Hosted) => {
                Some(bridge_conflist("cni0", "10.99.0.0/16"))
            }
            (Network::BuiltIn, Self::Wherry) => None,
        };
        if let Some(list) = conflist {
            fs::write(folders.cni.join("10-test.conflist"), list)?;
        }
        let config = match self {
            Self::Wherry => wherry_config(folders, &plugins, settings),
            Self::Containerd => containerd_config(folders, &plugins, "runc"),
            Self::Hosted => containerd_config(folders, &plugins, "wherry"),
        };
        fs::write(folders.config(), config)
    }

    /// The command that starts the daemon of a configured node.
    pub fn command(self, folders: &Folders) -> Command {
        let mut command = Command::new(self.program().expect("the daemon's program was built"));
        match self {
            Self::Wherry => command
                .arg("serve")
                .arg("--config")
                .arg(folders.config())
                .arg("--root")
                .arg(&folders.root)
                .arg("--state")
                .arg(&folders.state)
                .arg("--address")
                .arg(folders.socket()),
            Self::Containerd | Self::Hosted => {
                let own = std::env::var("PATH").unwrap_or_default();
                let deb = tools::cache().join("tools/deb/usr");
                let ours = bin_dir();
                let path =
                    format!("{own}:/usr/sbin:{0}/bin:{0}/sbin:{1}", deb.display(), ours.display());
                command.env("PATH", path).arg("--config").arg(folders.config())
            }
        };
        command
    }
}

/// The folder with the built binaries: `WHERRY_BIN_DIR`, or `target/dist` of this checkout.
pub fn bin_dir() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    std::env::var_os("WHERRY_BIN_DIR").map_or_else(default, PathBuf::from)
}

/// Debian's plugins as a kubelet's node has them: a bridge, addresses from a range, host ports.
///
/// The leftover check lets bridges be whose names begin with `cni`.
pub fn bridge_conflist(bridge: &str, subnet: &str) -> String {
    format!(
        r#"{{ "cniVersion": "1.0.0", "name": "test-net", "plugins": [
  {{ "type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": {{ "type": "host-local", "ranges": [[{{ "subnet": "{subnet}" }}]],
              "routes": [{{ "dst": "0.0.0.0/0" }}] }} }},
  {{ "type": "portmap", "capabilities": {{ "portMappings": true }} }} ] }}"#
    )
}

fn wherry_config(folders: &Folders, plugins: &Path, settings: &Settings) -> String {
    let log =
        if settings.usual_log { "" } else { "[log]\nlevel = \"debug\"\nformat = \"plain\"\n" };
    format!(
        "[registry]\nconfig_path = {:?}\n\
         [cni]\nconf_dir = {:?}\nbin_dirs = [{:?}]\n{log}{}\n",
        folders.certs, folders.cni, plugins, settings.extra
    )
}

fn containerd_config(folders: &Folders, plugins: &Path, shim: &str) -> String {
    let cri = r#"plugins."io.containerd.grpc.v1.cri""#;
    format!(
        r#"version = 2
root = {root:?}
state = {state:?}
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = {socket:?}
[{cri}]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = {plugins:?}
conf_dir = {cni:?}
[{cri}.registry]
config_path = {certs:?}
[{cri}.containerd]
default_runtime_name = "{shim}"
[{cri}.containerd.runtimes.{shim}]
runtime_type = "io.containerd.{shim}.v2"
"#,
        root = folders.root,
        state = folders.state,
        socket = folders.socket(),
        pause = crate::image::catalog::PAUSE,
        cni = folders.cni,
        certs = folders.certs,
    )
}
