//! Namespaces of our own around a whole program, so that nothing it makes can stay on the machine.
//!
//! One executable plays three parts, told apart by an environment variable:
//!
//! ```text
//!  outside   what the user started    makes the folder, runs itself under unshare(1), removes the folder
//!  init      PID 1 of the namespaces  private /run, /var/lib, loopback up; starts `run`, reaps what daemons orphan
//!  run       the program proper       when it ends init ends, and the kernel kills whatever is left
//! ```
//!
//! In the throw-away machine of `hack/guest` there are no namespaces and no init of ours.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, WaitStatus, geteuid, wait};

use crate::{machine, tools};

const PART: &str = "WHERRY_E2E_PART";
const FOLDER: &str = "WHERRY_E2E_FOLDER";

/// What [`enter`] leaves to its caller.
#[derive(Debug)]
pub enum Entered {
    /// This process is the program proper, in namespaces of its own; the folder is empty and goes away afterwards.
    Inside(PathBuf),
    /// The program ran in another process; this one only has to end with its exit code.
    Done(ExitCode),
}

/// Runs the current program in PID, mount, network, IPC and UTS namespaces of its own.
///
/// To be called first in `main`, before there are threads. Needs root.
pub fn enter() -> Entered {
    let part = std::env::var(PART).unwrap_or_default();
    let outcome = match part.as_str() {
        "run" => return Entered::Inside(std::env::var_os(FOLDER).unwrap().into()),
        "init" => init(),
        _ => outside(),
    };
    Entered::Done(outcome.unwrap_or_else(|error| {
        eprintln!("cannot set up namespaces for this run: {error}");
        ExitCode::FAILURE
    }))
}

fn outside() -> io::Result<ExitCode> {
    if !geteuid().is_root() {
        return Err(io::Error::other("this needs root: namespaces, mounts and cgroups are made"));
    }
    let folder = std::env::temp_dir().join(format!("wherry-{}", crate::spec::random_hex(4)));
    std::fs::create_dir(&folder)?;
    let mut command = if machine::is_guest() { plain()? } else { unshared()? };
    let status = command.args(arguments()).env(FOLDER, &folder).status();
    crate::leftovers::remove_cgroups(&cgroup_parent(&folder));
    std::fs::remove_dir_all(&folder)?;
    Ok(status?.code().map_or(ExitCode::FAILURE, code))
}

/// In namespaces of its own.
fn unshared() -> io::Result<Command> {
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .args(["--mount", "--net", "--ipc", "--uts", "--"])
        .arg(std::env::current_exe()?)
        .env(PART, "init");
    Ok(command)
}

/// In the guest: the machine is thrown away as it is, and systemd must see the processes by the pids that they know.
fn plain() -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(PART, "run");
    Ok(command)
}

fn init() -> io::Result<ExitCode> {
    for volatile in ["/run", "/var/lib"] {
        mount("tmpfs", volatile, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")?;
    }
    let up = Command::new(tools::busybox().ok_or(io::Error::other("no busybox found"))?)
        .args(["ip", "link", "set", "lo", "up"])
        .stdin(Stdio::null())
        .status()?;
    if !up.success() {
        return Err(io::Error::other("the loopback interface did not come up"));
    }
    let run = Command::new(std::env::current_exe()?).args(arguments()).env(PART, "run").spawn()?;
    let run = Pid::from_child(&run);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == run => return Ok(exit_code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1)
}

fn exit_code(status: WaitStatus) -> ExitCode {
    status.exit_status().map_or(ExitCode::FAILURE, code)
}

fn code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The cgroup below which the pods of the run with this folder live, as a cgroup path without the leading slash.
pub fn cgroup_parent(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}
