//! One daemon per root: a lock that the kernel drops with the process, and a note of who holds it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::ServeError;

/// Takes the lock of `root`, making the folder if need be.
///
/// # Errors
/// `Locked` when another daemon has it.
pub fn take(root: &Path) -> Result<File, ServeError> {
    let error = |operation: &'static str| {
        move |source| ServeError::Io {
            operation: format!("{operation} {}", root.display()),
            source,
        }
    };
    // Images hold setuid programs: nobody but root may reach into the folder (CVE-2021-41103).
    DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(error("make"))?;
    close_to_others(root).map_err(error("close to others"))?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(root.join("lock"))
        .map_err(error("open the lock of"))?;
    // The process's own lock (F_SETLK), not the open file's: a child that was being started when the daemon was killed
    // has the file open, too, for a moment, and must not keep the next daemon out.
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::ACCESS | Errno::AGAIN) => {
            let mut holder = String::new();
            drop(file.read_to_string(&mut holder));
            let holder = if holder.is_empty() { "another process".to_owned() } else { holder };
            return Err(ServeError::Locked { root: root.to_owned(), holder });
        }
        Err(source) => return Err(error("lock")(source.into())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "the wherry daemon with process id {}", std::process::id()))
        .map_err(error("note who locks"))?;
    Ok(file)
}

fn close_to_others(root: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root, fs::Permissions::from_mode(0o700))
}
