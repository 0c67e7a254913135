//! PID namespaces that a pod's containers share: made with a process to hold them, and released.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::launch::Launcher;
use crate::HOLDER_FILE;
use crate::error::ShimError;
use crate::identity::start_time;

/// A holder is made of two forks and a mount; only a node in trouble takes longer.
const DEADLINE: Duration = Duration::from_secs(10);

impl Launcher {
    /// Makes a PID namespace, held by a process that reaps, and pins it as `ns/pid` in the pod's folder.
    ///
    /// # Errors
    /// The kernel refuses; what there is of it, [`release_pids`] takes away.
    pub async fn hold_pids(&self, pod: &Path) -> Result<(), ShimError> {
        let failed = |source| ShimError::Launch {
            operation: "hold a PID namespace for",
            path: pod.to_owned(),
            source,
        };
        self.play("hold", pod, DEADLINE).await.map_err(failed)
    }
}

/// Ends the holder of a pod's PID namespace, and with it every process that is left in the namespace. Idempotent;
/// the pin is the caller's to take away.
///
/// # Errors
/// The kernel refuses.
pub fn release_pids(pod: &Path) -> Result<(), ShimError> {
    let path = pod.join(HOLDER_FILE);
    let failed = |source| ShimError::Launch {
        operation: "release the PID namespace of",
        path: pod.to_owned(),
        source,
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if let Some((pid, started)) = parse(&text) {
        kill(pid, started).map_err(failed)?;
    }
    fs::remove_file(&path).map_err(failed)
}

fn parse(text: &str) -> Option<(u32, u64)> {
    let (pid, started) = text.trim().split_once(' ')?;
    Some((pid.parse().ok()?, started.parse().ok()?))
}

/// Kills a process, unless its pid is another one's by now.
fn kill(pid: u32, started: u64) -> io::Result<()> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(number) = number else { return Ok(()) };
    let Ok(handle) = pidfd_open(number, PidfdFlags::empty()) else { return Ok(()) };
    // The handle is open: if the times agree now, it is the right process for good.
    if start_time(pid).ok() != Some(started) {
        return Ok(());
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_file_has_a_pid_and_a_start_time() {
        assert_eq!(parse("12 3456"), Some((12, 3456)));
        for text in ["", "12", "a b", "12 ", "-1 2", "99999999999 1"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_pid_of_another_process_is_left_alone() {
        kill(std::process::id(), 1).unwrap();
    }
}
