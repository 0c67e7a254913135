//! The process that a shared PID namespace needs: its first, which reaps, and with which the namespace ends.
//!
//! There is no pause image; this is a role of the shim's own binary, `wherry-shim hold POD-FOLDER`:
//!
//! ```text
//!   hold ── clone(NEWPID) ──► holder, waits for a word
//!     │  writes POD-FOLDER/holder (pid, start time), pins POD-FOLDER/ns/pid
//!     └─ says the word, ends          holder reaps until it is killed
//! ```
//!
//! A holder that hears nothing (its maker was killed) ends, so that none is left that nobody has written down.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::HOLDER_FILE;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::mount::mount_bind;
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};
use sys::process::{CloneRequest, NEW_PIDS, SingleThreaded};

/// Makes a holder for the pod whose folder is `folder`.
pub fn run(folder: &Path) -> ExitCode {
    match hold(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hold a process namespace in {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn hold(folder: &Path) -> io::Result<()> {
    let alone =
        SingleThreaded::prove().ok_or_else(|| io::Error::other("there are other threads"))?;
    let (hear, say) = rustix::pipe::pipe()?;
    let request = CloneRequest { flags: NEW_PIDS, ..Default::default() };
    let mut say = Some(say);
    let pid = alone.clone(&request, || {
        drop(say.take());
        holder(&hear)
    })?;
    let done = write_down(folder, pid).and_then(|()| pin(folder, pid));
    if done.is_ok()
        && let Some(say) = &say
    {
        rustix::io::write(say, b".")?;
    }
    done
}

fn write_down(folder: &Path, pid: Pid) -> io::Result<()> {
    let pid = pid.as_raw_nonzero().get().unsigned_abs();
    let start_time = crate::start_time(pid)?;
    sys::durable::write_volatile(
        &folder.join(HOLDER_FILE),
        format!("{pid} {start_time}").as_bytes(),
    )
}

fn pin(folder: &Path, pid: Pid) -> io::Result<()> {
    let target = folder.join("ns/pid");
    drop(File::create(&target)?);
    let source = PathBuf::from(format!("/proc/{}/ns/pid", pid.as_raw_nonzero()));
    mount_bind(&source, &target)?;
    Ok(())
}

/// The first process of the namespace: signals from inside do not reach it, only SIGKILL from outside does.
fn holder(hear: &OwnedFd) -> u8 {
    // The pod's containers can see this process, and what it has open and executes is the host's.
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        return 1;
    }
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    // Blocked before anybody can end, so that none is missed between a look and a sleep.
    if ended.thread_block().is_err() || nix::unistd::setsid().is_err() {
        return 1;
    }
    let mut word = [0; 1];
    if rustix::io::retry_on_intr(|| rustix::io::read(hear, &mut word)) != Ok(1) {
        return 1;
    }
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        if ended.wait().is_err() {
            return 1;
        }
    }
}
