//! `delete`: frees what a shim that is gone has left of its container, and tells how that ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::mount::{MntFlags, umount2};
use prost::Message;
use proto::shim::task::v2::DeleteResponse;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::flags::Flags;
use super::{ADDRESS_FILE, CGROUPS_FILE};
use crate::runtime::cgroup::Watch;
use crate::runtime::report::Cloned;
use crate::server::{socket_path, timestamp};
use crate::{Bundle, Failure, Started, start_time};
use sys::durable;

/// What a container that nobody saw end is said to have ended with: killed.
const KILLED: u32 = 137;

/// Frees, and returns the answer's message.
///
/// # Errors
/// The kernel does not let go of a cgroup.
pub fn delete(flags: &Flags) -> Result<Vec<u8>, Failure> {
    let dir = flags.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let bundle = Bundle::open(&dir).ok();
    let started = bundle.as_ref().and_then(Bundle::started);
    let exit = bundle.as_ref().and_then(Bundle::exit);
    if let Some(started) = started.filter(|_| exit.is_none()) {
        kill(started);
    }
    let cgroups = fs::read_to_string(dir.join(CGROUPS_FILE)).unwrap_or_default();
    let mut watch = Watch::new(&cgroups_of(&cgroups));
    watch.remove().map_err(|e| Failure::os("remove cgroups of", flags.id.as_str(), e))?;
    // Ours are in a namespace that went with the container; whatever else is there is not needed any more.
    let _nothing = umount2(&dir.join("rootfs"), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    remove_socket(&dir);
    let at = exit.map_or_else(SystemTime::now, |exit| exit.at);
    let response = DeleteResponse {
        pid: started.map_or(0, |started| started.pid),
        exit_status: exit.map_or(KILLED, |exit| exit.code.unsigned_abs()),
        exited_at: Some(timestamp(at)),
    };
    Ok(response.encode_to_vec())
}

/// Ends a process, if its number is still its own.
fn kill(started: Started) {
    let pid = i32::try_from(started.pid).ok().and_then(Pid::from_raw);
    let Some(handle) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    if start_time(started.pid).is_ok_and(|time| time == started.start_time) {
        let _gone = pidfd_send_signal(&handle, Signal::KILL);
    }
}

/// As the shim has written them.
fn cgroups_of(lines: &str) -> Cloned {
    let mut lines = lines.lines();
    let unified = lines.next() == Some("unified");
    let unit = lines.next().unwrap_or_default().to_owned();
    Cloned { unified, unit, cgroups: lines.map(str::to_owned).collect(), ..Cloned::default() }
}

/// What the shim writes for [`delete`].
pub fn write_cgroups(cloned: &Cloned) -> std::io::Result<()> {
    let first = if cloned.unified { "unified" } else { "legacy" };
    let text = format!("{first}\n{}\n{}\n", cloned.unit, cloned.cgroups.join("\n"));
    durable::write_volatile(Path::new(CGROUPS_FILE), text.as_bytes())
}

fn remove_socket(dir: &Path) {
    if let Ok(address) = fs::read_to_string(dir.join(ADDRESS_FILE)) {
        drop(fs::remove_file(socket_path(address.trim())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_read_as_they_were_written() {
        let read = cgroups_of("unified\na.scope\n/sys/fs/cgroup/unified/x\n/sys/fs/cgroup/cpu/x\n");
        assert!(read.unified && read.unit == "a.scope");
        assert_eq!(read.cgroups, ["/sys/fs/cgroup/unified/x", "/sys/fs/cgroup/cpu/x"]);
        assert!(cgroups_of("").cgroups.is_empty());
    }
}
