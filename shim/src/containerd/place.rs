//! Where a shim listens: a socket of a name that only this container has, closed to everybody but root.

use std::fmt::Write;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::params::Params;
use crate::Failure;

/// Where containerd's shims have their sockets.
const SOCKETS: &str = "/run/containerd/s";

/// The socket's path: the same for the same container of the same daemon.
pub fn of(params: &Params) -> PathBuf {
    let flags = &params.flags;
    let named = [&flags.address, &flags.namespace, &flags.id].map(|part| part.as_str()).join("/");
    let mut name = String::new();
    for byte in Sha256::digest(named) {
        let _never = write!(name, "{byte:02x}");
    }
    Path::new(params.socket_dir.as_deref().unwrap_or(SOCKETS)).join(name)
}

/// Listens there. What a dead shim has left is replaced.
///
/// # Errors
/// A live shim listens there, or the kernel refuses.
pub fn listen(path: &Path) -> Result<UnixListener, Failure> {
    let fail = |error: io::Error| Failure::os("listen on", path.display().to_string(), error);
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(fail)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(fail(error));
            }
            fs::remove_file(path).and_then(|()| UnixListener::bind(path))
        }
        other => other,
    };
    // Whoever comes before the mode is right is asked who it is by the shim.
    let listener = listener.map_err(fail)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}
