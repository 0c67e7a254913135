//! `start`: a socket, and a shim that listens on it.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use sys::durable;

use super::flags::Flags;
use super::params::Params;
use super::{ADDRESS_FILE, NAME, place, said};
use crate::{Bundle, Failure};

/// Starts a shim, and returns what its caller wants to read.
///
/// # Errors
/// What was said cannot be read, or the kernel refuses; then nothing runs.
pub fn start(flags: &Flags) -> Result<Vec<u8>, Failure> {
    let params = Params::read(flags, &said()?)?;
    Bundle::prepare(Path::new("."))
        .map_err(|e| Failure::os(e.operation, e.path.display().to_string(), e.source))?;
    let path = place::of(&params);
    let listener = place::listen(&path)?;
    let address = format!("unix://{}", path.display());
    // Whole or not at all: containerd reads it when it was started anew.
    let begun = durable::write_volatile(Path::new(ADDRESS_FILE), address.as_bytes())
        .map_err(|e| Failure::os("write", ADDRESS_FILE, e))
        .and_then(|()| launch(&params, listener.into()));
    if let Err(failure) = begun {
        drop(fs::remove_file(&path));
        return Err(failure);
    }
    params.answer(&address)
}

fn launch(params: &Params, listener: OwnedFd) -> Result<(), Failure> {
    let flags = &params.flags;
    let own = std::env::current_exe().map_err(|e| Failure::os("find", "this program", e))?;
    // As the daemon does it: nobody can open what is executed for writing.
    let sealed = sys::mount::read_only_copy(&own).ok();
    let program = match &sealed {
        Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        None => own,
    };
    let mut command = Command::new(program);
    command.arg0(NAME).env_clear().args([
        "-namespace",
        &flags.namespace,
        "-id",
        &flags.id,
        "-address",
        &flags.address,
    ]);
    if let Some(address) = &flags.ttrpc_address {
        command.args(["-ttrpc-address", address]);
    }
    if let Some(binary) = &flags.publish_binary {
        command.arg("-publish-binary").arg(binary);
    }
    let child = command
        .arg("serve")
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(log().map_or_else(Stdio::null, Stdio::from))
        .spawn()
        .map_err(|e| Failure::os("start", "shim", e))?;
    if !params.options.shim_cgroup.is_empty() {
        let moved = crate::runtime::cgroup::put(&params.options.shim_cgroup, child.id());
        moved.map_err(|e| Failure::os("use shim cgroup", &params.options.shim_cgroup, e))?;
    }
    Ok(())
}

/// The FIFO that containerd reads what shims have to say from. Open for both, so that it never has a missing end; and
/// nobody waits for it.
fn log() -> Option<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open("log", flags, Mode::empty()).ok()?;
    Some(File::from(file))
}
