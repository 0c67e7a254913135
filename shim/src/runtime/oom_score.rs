//! How soon the kernel kills a container's processes when memory runs out, for those that run already
//! (proc_pid_oom_score_adj(5)).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use crate::Failure;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::cgroup::Watch;
use super::procfs::Procfs;

/// How often the members are looked at again: children of those that were changed inherit the change, so that only a
/// fork that was under way needs another look.
const ROUNDS: u32 = 16;

/// Gives every process of a container this value; one that is not permitted leaves the old one, as at the start.
///
/// # Errors
/// The members cannot be read, or the kernel refuses for another reason.
pub fn adjust(watch: &Watch, wanted: i32) -> Result<(), Failure> {
    let fail = |error: io::Error| Failure::os("set oom_score_adj", wanted.to_string(), error);
    let procfs = Procfs::open()?;
    let members = || watch.processes().map(BTreeSet::from_iter).map_err(fail);
    let mut done = BTreeSet::new();
    for _ in 0..ROUNDS {
        let opened = members()?.into_iter().filter(|pid| !done.contains(pid));
        let opened: Vec<_> = opened.filter_map(|pid| Some((pid, open(&procfs, pid)?))).collect();
        if opened.is_empty() {
            break;
        }
        // A handle means one process for good. Whoever is a member still was one when its handle was opened, or is
        // gone and cannot be written to: a number that others have by now reaches nobody.
        let members = members()?;
        for (pid, process) in opened.into_iter().filter(|(pid, _)| members.contains(pid)) {
            write(&process, wanted).map_err(fail)?;
            done.insert(pid);
        }
    }
    Ok(())
}

/// A process that has ended meanwhile needs nothing.
fn open(procfs: &Procfs, pid: u32) -> Option<OwnedFd> {
    procfs.open_file(pid.to_string(), OFlags::PATH | OFlags::DIRECTORY).ok()
}

fn write(process: &OwnedFd, wanted: i32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(process, "oom_score_adj", flags, Mode::empty());
    let written = file.and_then(|file| rustix::io::write(file, wanted.to_string().as_bytes()));
    match written {
        Ok(_) | Err(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
