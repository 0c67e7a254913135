//! The CRI socket.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use tokio::net::UnixListener;

use super::ServeError;

/// Makes a folder that only root can reach into.
///
/// # Errors
/// The system refuses.
pub fn make_folder(path: &Path) -> Result<(), ServeError> {
    let error = |source| ServeError::Io { operation: format!("make {}", path.display()), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(error)
}

/// Binds the socket, mode 0660; what a daemon that was killed left at its place is replaced.
///
/// # Errors
/// The system refuses.
pub fn bind(address: &Path) -> Result<UnixListener, ServeError> {
    let error =
        |source| ServeError::Io { operation: format!("bind {}", address.display()), source };
    if let Some(folder) = address.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(error)?;
    }
    // The root's lock is held: nobody serves on it any more.
    match fs::remove_file(address) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
        _ => {}
    }
    let listener = UnixListener::bind(address).map_err(error)?;
    fs::set_permissions(address, Permissions::from_mode(0o660)).map_err(error)?;
    Ok(listener)
}
