//! `start`: a socket, and a shim that listens on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};

use super::flags::Flags;
use super::params::Params;
use super::{ADDRESS_FILE, NAME, place};
use crate::{Bundle, Failure};

/// More than any parameters.
const MAX_INPUT: u64 = 1 << 20;

/// Starts a shim, and returns what its caller wants to read.
///
/// # Errors
/// What was said cannot be read, or the kernel refuses; then nothing runs.
pub fn start(flags: &Flags) -> Result<Vec<u8>, Failure> {
    let params = Params::read(flags, &said())?;
    Bundle::prepare(Path::new("."))
        .map_err(|e| Failure::os(e.operation, e.path.display().to_string(), e.source))?;
    let path = place::of(&params);
    let listener = place::listen(&path)?;
    let address = format!("unix://{}", path.display());
    let begun = write_address(&address)
        .map_err(|e| Failure::os("write", ADDRESS_FILE, e))
        .and_then(|()| launch(&params, listener.into()));
    if let Err(failure) = begun {
        drop(fs::remove_file(&path));
        return Err(failure);
    }
    params.answer(&address)
}

/// What there is on standard input, if it is not somebody's terminal.
fn said() -> Vec<u8> {
    let mut input = Vec::new();
    if !rustix::termios::isatty(io::stdin()) {
        drop(io::stdin().take(MAX_INPUT).read_to_end(&mut input));
    }
    input
}

/// Whole or not at all: containerd reads it when it was started anew.
fn write_address(address: &str) -> io::Result<()> {
    let new = format!(".{ADDRESS_FILE}");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(address.as_bytes())?;
    fs::rename(&new, ADDRESS_FILE)
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
