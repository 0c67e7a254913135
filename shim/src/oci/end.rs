//! The end of a container: its processes, its cgroups, its folder, and who is told of it.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use sys::process::{SingleThreaded, Wait, wait};

use super::record::{Init, Record};
use super::store::Folder;
use crate::runtime::cgroup::Watch;
use crate::runtime::{HookKind, HookState, hook};
use crate::{Failure, FailureKind};

/// How long a killed process may take to end: who waits for a dead disk does not end at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills a container's process and waits for its end.
///
/// # Errors
/// It does not end in time.
pub fn kill(init: &Init) -> Result<(), Failure> {
    let Some(process) = init.open()? else { return Ok(()) };
    process.signal(Signal::KILL)?;
    // Who is frozen cannot die.
    let _thawed = init.thaw();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&process.handle, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::os("wait for", "container's end", error)),
            Ok(0) => {
                let object = format!("process {}", process.pid);
                return Err(Failure::new(FailureKind::Internal, "kill", object, "it does not end"));
            }
            Ok(_) => break,
        }
    }
    // A child of ours would stay as a zombie.
    let _others = wait(Some(process.pid), Wait::Take);
    Ok(())
}

/// Ends a container that was made just now and removes its cgroups; what cannot be is for `delete --force`.
pub fn clear(init: &Init) {
    let _alive = kill(init);
    let _busy = init.watch().remove();
}

/// Removes what there is of a container that has ended: its cgroups with whoever is still in them, its folder, and
/// then the hooks hear of it.
///
/// # Errors
/// A cgroup is still in use, or the folder cannot be removed.
pub fn remove(thread: &SingleThreaded, folder: Folder, record: &Record) -> Result<(), Failure> {
    let object = || format!("container {}", record.id);
    if let Some(init) = &record.init {
        init.watch().remove().map_err(|e| Failure::os("remove cgroups of", object(), e))?;
    }
    folder.remove()?;
    if record.poststop {
        run_hooks(thread, HookKind::Poststop, record, 0);
    }
    Ok(())
}

/// Runs the hooks that follow a start or an end. A container does not fail by them; they say themselves what was wrong.
pub fn run_hooks(thread: &SingleThreaded, kind: HookKind, record: &Record, pid: u32) {
    if rustix::process::chdir(&record.bundle).is_err() {
        let bundle = record.bundle.display();
        crate::runtime::warn(format_args!("run hooks of {}: {bundle} is gone", record.id));
        return;
    }
    let state = HookState { id: record.id.clone(), bundle: record.bundle.clone() };
    if let Err(error) = hook::run_after(thread, kind, &state, pid) {
        crate::runtime::warn(format_args!("run hooks of {}: {error}", record.id));
    }
}

/// What a creation left that was broken off: nobody wrote down its process, but its cgroup was known before.
///
/// # Errors
/// A cgroup is still in use.
pub fn remove_unfinished(record: &Record) -> Result<(), Failure> {
    let Some(path) = &record.cgroup_path else { return Ok(()) };
    let object = || format!("container {}", record.id);
    let removed = Watch::find(Path::new(path))?.remove();
    removed.map_err(|e| Failure::os("remove cgroups of", object(), e))
}
