//! The process that a shared PID namespace needs: its first, which reaps, and with which the namespace ends.
//!
//! There is no pause image; this is a role of the shim's own binary, `wherry-shim hold POD-FOLDER`:
//!
//! ```text
//!   hold ── clone ──► door: leaves the host's files, joins the pod's namespaces
//!     │                └─ clone3(NEWPID | CLONE_PARENT) ──► holder, waits for a word
//!     │  writes POD-FOLDER/holder (pid, start time), pins POD-FOLDER/ns/pid
//!     └─ says the word, ends                               holder reaps until it is killed
//! ```
//!
//! A holder that hears nothing (its maker was killed) ends, so that none is left that nobody has written down.
//!
//! The pod's containers see the holder as their first process, and one with CAP_SYS_PTRACE can look at it and into
//! its files: it has nothing of the host's, neither files nor rights nor namespaces.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::HOLDER_FILE;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::fs::{Gid, Uid};
use rustix::mount::mount_bind;
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space};
use sys::process::{CloneRequest, NEW_PIDS, SAME_PARENT, SingleThreaded, Wait, wait};

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
    let (told, tell) = rustix::pipe::pipe()?;
    let namespaces = Namespaces::open(folder)?;
    let (mut say, mut tell) = (Some(say), Some(tell));
    let door = alone.clone(&CloneRequest::default(), || {
        drop(say.take());
        let passed = namespaces.enter().and_then(|()| {
            let request = CloneRequest { flags: NEW_PIDS | SAME_PARENT, ..Default::default() };
            alone.clone(&request, || {
                drop(tell.take());
                holder(&hear, namespaces.users.is_some())
            })
        });
        let pid = passed.map_or(0, |pid| pid.as_raw_nonzero().get());
        let heard = tell.as_ref().map(|tell| rustix::io::write(tell, &pid.to_ne_bytes()));
        u8::from(!matches!(heard, Some(Ok(_))))
    })?;
    drop(tell.take());
    let mut number = [0; 4];
    let whole = rustix::io::retry_on_intr(|| rustix::io::read(&told, &mut number)) == Ok(4);
    let _ended = wait(Some(door), Wait::Block);
    let pid = Pid::from_raw(i32::from_ne_bytes(number)).filter(|_| whole);
    let pid = pid.ok_or_else(|| io::Error::other("the pod's namespaces cannot be entered"))?;
    write_down(folder, pid)?;
    pin(folder, pid)?;
    if let Some(say) = &say {
        rustix::io::write(say, b".")?;
    }
    Ok(())
}

/// The pod's other namespaces, as far as it has them for itself.
struct Namespaces {
    users: Option<OwnedFd>,
    others: Vec<(OwnedFd, LinkNameSpaceType)>,
}

impl Namespaces {
    fn open(folder: &Path) -> io::Result<Self> {
        let open = |name: &str| match File::open(folder.join("ns").join(name)) {
            Ok(file) => Ok(Some(OwnedFd::from(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let kinds = [
            ("net", LinkNameSpaceType::Network),
            ("ipc", LinkNameSpaceType::InterProcessCommunication),
            ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
        ];
        let mut others = Vec::new();
        for (name, kind) in kinds {
            others.extend(open(name)?.map(|file| (file, kind)));
        }
        Ok(Self { users: open("user")?, others })
    }

    /// Moves this process into them, and away from the host's files.
    fn enter(&self) -> io::Result<()> {
        sys::jail::enter_void()?;
        for (file, kind) in &self.others {
            move_into_link_name_space(file.as_fd(), Some(*kind))?;
        }
        // The last one: afterwards the right to join the others is gone.
        let users = self.users.iter();
        users.map(AsFd::as_fd).try_for_each(|file| {
            Ok(move_into_link_name_space(file, Some(LinkNameSpaceType::User))?)
        })
    }
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
fn holder(hear: &OwnedFd, in_users: bool) -> u8 {
    if give_up_rights(in_users).is_err() {
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

/// Keeps nothing of the host's root but its number, and in a user namespace not even that.
fn give_up_rights(in_users: bool) -> io::Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_groups(&[])?;
    if in_users {
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::set_capabilities(None, none)?;
    // What it executes is the host's, too.
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
