//! Runtimes of others, of which a shim has its container made.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use prost::Message;
use prost_types::Any;
use proto::shim::container as extra;
use proto::shim::runc;
use serde::Deserialize;
use tokio::process::Command;

use crate::error::ShimError;
use crate::type_name;

/// A runtime lists its features without doing anything.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// Longest list of features, in bytes.
const MAX_FEATURES: usize = 1 << 20;
/// Where a shim may be that is not in the search path.
const USUAL: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/usr/sbin"];

/// Who makes a container's processes in place of the runtime in Wherry's own shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForeignRuntime {
    /// A program with runc's command line.
    Command {
        /// The program.
        path: PathBuf,
        /// Arguments in front of those of every call.
        args: Vec<String>,
    },
    /// A shim with containerd's Task API.
    Shim {
        /// `io.containerd.NAME.VERSION`, which is the program `containerd-shim-NAME-VERSION`, or a program's path.
        runtime: String,
        /// What it is told.
        options: RuncOptions,
    },
}

/// What containerd's shim for runc can be told (`containerd.runc.v1.Options`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuncOptions {
    /// The OCI runtime that it calls; empty is its own choice.
    pub binary_name: String,
    /// That runtime's folder of states; empty is one in the container's bundle.
    pub root: String,
    /// cgroup paths are systemd's.
    pub systemd_cgroup: bool,
}

/// What `features` prints (features.md of the OCI runtime specification), as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Printed {
    mount_options: Vec<String>,
}

impl ForeignRuntime {
    /// The mount options that it knows; none when it does not say.
    pub async fn mount_options(&self) -> Vec<String> {
        let Self::Command { path, args } = self else { return Vec::new() };
        let mut command = Command::new(path);
        command.args(args).arg("features").stdin(Stdio::null()).stderr(Stdio::null());
        let output = tokio::time::timeout(PROBE_DEADLINE, command.kill_on_drop(true).output());
        let Ok(Ok(output)) = output.await else { return Vec::new() };
        if !output.status.success() || output.stdout.len() > MAX_FEATURES {
            return Vec::new();
        }
        serde_json::from_slice::<Printed>(&output.stdout).unwrap_or_default().mount_options
    }

    /// What travels in a create.
    ///
    /// # Errors
    /// The program is not there.
    pub(super) fn to_wire(&self) -> Result<extra::ForeignRuntime, ShimError> {
        use extra::foreign_runtime::Kind;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let kind = match self {
            Self::Command { path, args } => {
                let path = text(&existing(path)?);
                Kind::Command(extra::CommandRuntime { path, args: args.clone() })
            }
            Self::Shim { runtime, options } => {
                let binary = text(&find_shim(runtime)?);
                Kind::Shim(extra::ShimRuntime { binary, options: Some(options.to_any()) })
            }
        };
        Ok(extra::ForeignRuntime { kind: Some(kind) })
    }
}

impl RuncOptions {
    fn to_any(&self) -> Any {
        let options = runc::Options {
            binary_name: self.binary_name.clone(),
            root: self.root.clone(),
            systemd_cgroup: self.systemd_cgroup,
            ..runc::Options::default()
        };
        Any { type_url: type_name::RUNC_OPTIONS.to_owned(), value: options.encode_to_vec() }
    }
}

/// The program of a shim: a path as it is, a name by containerd's rule in the search path, beside this program, and
/// where programs usually are.
fn find_shim(runtime: &str) -> Result<PathBuf, ShimError> {
    if runtime.starts_with('/') {
        return existing(Path::new(runtime));
    }
    let missing = |path: PathBuf, source| ShimError::Launch { operation: "find", path, source };
    let name = shim_name(runtime).ok_or_else(|| {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "is not NAME.VERSION");
        missing(PathBuf::from(runtime), source)
    })?;
    let search = env::var_os("PATH").unwrap_or_default();
    let own = env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let folders = env::split_paths(&search).chain(own).chain(USUAL.map(PathBuf::from));
    let mut candidates = folders.map(|folder| folder.join(&name));
    candidates
        .find(|path| path.is_absolute() && path.is_file())
        .ok_or_else(|| missing(PathBuf::from(name), io::ErrorKind::NotFound.into()))
}

/// `io.containerd.runc.v2` is the program `containerd-shim-runc-v2`.
fn shim_name(runtime: &str) -> Option<String> {
    let mut parts = runtime.rsplit('.');
    let (version, name) = (parts.next()?, parts.next()?);
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    (plain(version) && plain(name)).then(|| format!("containerd-shim-{name}-{version}"))
}

fn existing(path: &Path) -> Result<PathBuf, ShimError> {
    let launch =
        |source| ShimError::Launch { operation: "find runtime", path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(launch)?;
    if found.is_file() {
        return Ok(path.to_owned());
    }
    Err(launch(io::Error::new(io::ErrorKind::InvalidInput, "is no program")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_name_leads_to_its_shim() {
        assert_eq!(shim_name("io.containerd.runc.v2").unwrap(), "containerd-shim-runc-v2");
        assert_eq!(shim_name("kata.v2").unwrap(), "containerd-shim-kata-v2");
        for name in ["", "runc", "io.containerd..v2", "a.b/../c.v2", "x.v 2"] {
            assert_eq!(shim_name(name), None, "{name}");
        }
    }
}
