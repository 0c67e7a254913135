//! Starting `wherry-shim` in a bundle.

use std::env;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::task::Shim;
use crate::bundle::{Bundle, LOG_FILE, SOCKET_FILE};
use crate::error::ShimError;

pub(super) const BINARY: &str = "wherry-shim";

/// The daemon's binary.
const DAEMON: &str = "wherry";

/// Names the program that speaks to systemd for the shim: the daemon's own (`wherry scope`).
const SCOPE_VARIABLE: &str = "WHERRY_SCOPE";

/// Longest path that a socket address can hold, without its final zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Knows the shim's binary.
#[derive(Debug)]
pub struct Launcher {
    path: PathBuf,
    /// A read-only mount of the binary that no namespace has: what is executed from it cannot be opened for
    /// writing through `/proc/PID/exe`, whoever holds that link. `None` where the kernel refuses such a mount.
    sealed: Option<OwnedFd>,
}

impl Launcher {
    /// Finds the binary: `explicit`, or beside this process's executable, `../libexec/wherry/` or
    /// `/usr/libexec/wherry/`.
    ///
    /// # Errors
    /// There is none.
    pub fn find(explicit: Option<&Path>) -> Result<Self, ShimError> {
        let path = match explicit {
            Some(path) => path.to_owned(),
            None => candidates()
                .into_iter()
                .find(|path| path.is_file())
                .unwrap_or_else(|| PathBuf::from("/usr/libexec/wherry").join(BINARY)),
        };
        let found = fs::metadata(&path).and_then(|metadata| {
            let runs = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
            if runs { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
        });
        match found {
            Ok(()) => Ok(Self { sealed: sys::mount::read_only_copy(&path).ok(), path }),
            Err(source) => Err(ShimError::Launch { operation: "find shim", path, source }),
        }
    }

    /// The binary's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The daemon's binary, which is this process or lies beside it or the shim.
    fn daemon(&self) -> Option<PathBuf> {
        let own = env::current_exe().ok();
        let folders = own.as_deref().into_iter().chain([self.path.as_path()]);
        let beside = folders.filter_map(|path| Some(path.parent()?.join(DAEMON)));
        beside.into_iter().find(|path| path.is_file())
    }

    /// What to execute.
    pub(super) fn program(&self) -> PathBuf {
        match &self.sealed {
            Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            None => self.path.clone(),
        }
    }

    /// Runs the binary in another of its roles, which is about a folder, to its end.
    ///
    /// # Errors
    /// It cannot be started, takes too long, or does not succeed.
    pub(super) async fn play(
        &self,
        role: &str,
        folder: &Path,
        patience: Duration,
    ) -> io::Result<()> {
        let status = Command::new(self.program())
            .arg0(BINARY)
            .arg(role)
            .arg(folder)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        // Only its end is waited for: what it leaves behind may live for ever.
        let status = tokio::time::timeout(patience, status).await??;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("{role}: {status}"))) }
    }

    /// Starts a shim in `bundle` and connects to it. The shim outlives the daemon.
    ///
    /// Must be called in a tokio runtime, which also reaps the shim should it end first.
    ///
    /// # Errors
    /// The socket cannot be made or the binary cannot be started; then nothing runs.
    pub async fn launch(&self, bundle: &Bundle) -> Result<Shim, ShimError> {
        let listener = listen(bundle).map_err(|source| ShimError::Launch {
            operation: "listen on",
            path: bundle.socket(),
            source,
        })?;
        let launch =
            |source| ShimError::Launch { operation: "start shim", path: self.path.clone(), source };
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(bundle.dir().join(LOG_FILE))
            .map_err(launch)?;
        let mut child = Command::new(self.program())
            .arg0(BINARY)
            .env_clear()
            .envs(self.daemon().map(|path| (SCOPE_VARIABLE, path)))
            .current_dir(bundle.dir())
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(launch)?;
        drop(tokio::spawn(async move { child.wait().await }));
        Shim::connect(bundle).await
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Ok(own) = env::current_exe()
        && let Some(dir) = own.parent()
    {
        paths.push(dir.join(BINARY));
        if let Some(prefix) = dir.parent() {
            paths.push(prefix.join("libexec/wherry").join(BINARY));
        }
    }
    paths.push(PathBuf::from("/usr/libexec/wherry").join(BINARY));
    paths
}

/// Binds the bundle's socket; the folder is closed to others, so it is never reachable with a wider mode.
fn listen(bundle: &Bundle) -> io::Result<UnixListener> {
    let listener = with_short_path(bundle, |path| UnixListener::bind(path))?;
    fs::set_permissions(bundle.socket(), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Calls `run` with a name of the bundle's socket that fits into a socket address.
pub(super) fn with_short_path<T>(
    bundle: &Bundle,
    run: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let path = bundle.socket();
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return run(&path);
    }
    let dir = File::open(bundle.dir())?;
    run(&PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd())))
}
