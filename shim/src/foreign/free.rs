//! `wherry-shim free BUNDLE`: what a shim that is gone has left in somebody else's hands.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use proto::shim::task::v2 as task;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::wire::Wire;
use super::{FOLDER, RUNTIME_FILE, Runtime, Shim, errand};
use crate::Failure;

/// For each call of a foreign shim that may be in any state.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the shim's own way of cleaning up may take.
const DELETE: Duration = Duration::from_secs(15);

/// Frees it. A bundle that no foreign runtime has anything to do with is freed already.
#[must_use]
pub fn run(bundle: &Path) -> ExitCode {
    match free(bundle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn free(bundle: &Path) -> Result<(), Failure> {
    let name = bundle.display().to_string();
    let file = match fs::read(bundle.join(FOLDER).join(RUNTIME_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| Failure::os("read runtime of", name.as_str(), e))?,
    };
    rustix::process::chdir(bundle).map_err(|e| Failure::os("enter", name.as_str(), e))?;
    let runtime: Runtime = serde_json::from_slice(&file)
        .map_err(|e| Failure::os("read runtime of", name.as_str(), io::Error::from(e)))?;
    match runtime {
        Runtime::Command(command) => errand::delete(&command),
        Runtime::Shim(foreign) => shim(&foreign),
    }
}

/// Ends a foreign shim with what it has: as it offers it, then by the way that containerd takes when it does not answer.
///
/// # Errors
/// The latter fails.
pub fn shim(foreign: &Shim) -> Result<(), Failure> {
    if !foreign.address.is_empty()
        && let Ok(mut wire) = Wire::connect(&foreign.address)
    {
        end(foreign, &mut wire);
    }
    let freed = foreign.run(&["delete"], None, DELETE);
    // A shim that was killed has left its socket, by a name that only this container has.
    if let Some(path) = foreign.address.strip_prefix("unix://").filter(|path| is_socket(path)) {
        drop(fs::remove_file(path));
    }
    freed.map(drop)
}

fn is_socket(path: &str) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Each may fail because it was done before: what counts is what is left.
fn end(foreign: &Shim, wire: &mut Wire) {
    let id = || foreign.id.clone();
    let connect = task::ConnectRequest { id: id() };
    let connected = wire.call::<task::ConnectResponse>("Connect", &connect, PATIENCE);
    let pid = connected.ok().and_then(|answer| i32::try_from(answer.shim_pid).ok());
    let handle = pid.and_then(Pid::from_raw);
    let handle = handle.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let kill = task::KillRequest {
        id: id(),
        exec_id: String::new(),
        signal: Signal::KILL.as_raw().unsigned_abs(),
        all: true,
    };
    drop(wire.call::<()>("Kill", &kill, PATIENCE));
    let wait = task::WaitRequest { id: id(), exec_id: String::new() };
    drop(wire.call::<task::WaitResponse>("Wait", &wait, PATIENCE));
    let delete = task::DeleteRequest { id: id(), exec_id: String::new() };
    drop(wire.call::<task::DeleteResponse>("Delete", &delete, PATIENCE));
    drop(wire.call::<()>("Shutdown", &task::ShutdownRequest { id: id(), now: true }, PATIENCE));
    if let Some(handle) = handle {
        // Whoever has ended by itself meanwhile is not hit.
        let _gone = pidfd_send_signal(&handle, Signal::KILL);
    }
}
