//! Processes: made with fork(2) and clone3(2), and brought into a known state.
//!
//! A child that is not going to execute at once runs Rust code on a copy of its parent's memory. That is sound only
//! when no other thread of the parent could hold a lock at that moment, so it takes a [`SingleThreaded`] to do it.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::process::abort;

use rustix::fd::AsFd;
use rustix::process::{Pid, Signal};

/// Proof that this process has one thread. It cannot leave that thread.
#[derive(Debug)]
pub struct SingleThreaded {
    not_send: PhantomData<*const ()>,
}

/// What clone3(2) is asked beyond an ordinary fork.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneRequest<'a> {
    /// `CLONE_NEW*` and `CLONE_PARENT`; memory and files are never shared.
    pub flags: u64,
    /// A folder of the unified cgroup hierarchy that the child is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// New mount namespace.
pub const NEW_MOUNTS: u64 = libc::CLONE_NEWNS as u64;
/// New PID namespace: the child is its first process.
pub const NEW_PIDS: u64 = libc::CLONE_NEWPID as u64;
/// New network namespace.
pub const NEW_NETWORK: u64 = libc::CLONE_NEWNET as u64;
/// New System V IPC and POSIX message queue namespace.
pub const NEW_IPC: u64 = libc::CLONE_NEWIPC as u64;
/// New host name namespace.
pub const NEW_UTS: u64 = libc::CLONE_NEWUTS as u64;
/// New user namespace: the child has all rights in it, and none outside.
pub const NEW_USERS: u64 = libc::CLONE_NEWUSER as u64;
/// New cgroup namespace.
pub const NEW_CGROUPS: u64 = libc::CLONE_NEWCGROUP as u64;
/// New time namespace, which clone3(2) cannot make: only unshare(2) can.
pub const NEW_TIME: u64 = 0x80;
/// The child's parent is the caller's parent.
pub const SAME_PARENT: u64 = libc::CLONE_PARENT as u64;

/// `CLONE_INTO_CGROUP`: libc's constant has a type that cannot hold it.
const INTO_CGROUP: u64 = 0x2_0000_0000;

impl SingleThreaded {
    /// Looks whether this process has one thread; `None` when it has more or `/proc` is not there.
    #[must_use]
    pub fn prove() -> Option<Self> {
        // A folder has a link for each folder in it, its own "." and its name.
        let threads = rustix::fs::stat("/proc/self/task").ok()?.st_nlink;
        (threads == 3).then_some(Self { not_send: PhantomData })
    }

    /// Runs `child` in a copy of this process, which ends with what it returns.
    ///
    /// # Errors
    /// The kernel refuses another process (`EAGAIN`, `ENOMEM`).
    pub fn fork(&self, child: impl FnOnce() -> u8) -> io::Result<Pid> {
        // SAFETY: there is no other thread that could hold a lock, so the child may run any code.
        let pid = unsafe { libc::fork() };
        self.part(pid.into(), child)
    }

    /// As [`Self::fork`], with new namespaces, another parent, or in another cgroup.
    ///
    /// # Errors
    /// As clone3(2).
    pub fn clone(&self, request: &CloneRequest, child: impl FnOnce() -> u8) -> io::Result<Pid> {
        let same_parent = request.flags & SAME_PARENT != 0;
        // SAFETY: zero is a valid value for every field of this plain structure.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = request.flags;
        // With CLONE_PARENT the new parent is told by the signal it chose for the caller.
        args.exit_signal = if same_parent { 0 } else { libc::SIGCHLD as u64 };
        if let Some(cgroup) = request.cgroup {
            args.flags |= INTO_CGROUP;
            args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
        }
        // SAFETY: without CLONE_VM and with no stack given the child continues here on a copy of the memory, and
        // there is no other thread that could hold a lock, so it may run any code.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
        };
        self.part(pid, child)
    }

    fn part(&self, pid: libc::c_long, child: impl FnOnce() -> u8) -> io::Result<Pid> {
        match pid {
            0 => {
                // A panic must not unwind into the parent's frames, whose values are the parent's.
                let guard = AbortOnUnwind;
                let code = child();
                std::mem::forget(guard);
                // SAFETY: ends the process without running the parent's exit handlers in its copy.
                unsafe { libc::_exit(code.into()) }
            }
            pid if pid > 0 => i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .ok_or_else(|| io::ErrorKind::Other.into()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        abort();
    }
}

/// How a child has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub pid: Pid,
    /// 0 to 255, or 128 + n for signal n.
    pub code: i32,
}

/// What to do about a child's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// See whether there is one, and leave it: its number stays taken.
    Look,
    /// Take it if there is one.
    Take,
    /// Wait for it and take it.
    Block,
}

/// Waits for a child (any child with `None`), as waitid(2). `None`: there is no such child, or it has not ended.
#[must_use]
pub fn wait(child: Option<Pid>, what: Wait) -> Option<Ended> {
    let (kind, id) = match child {
        Some(pid) => (libc::P_PID, pid.as_raw_nonzero().get().unsigned_abs()),
        None => (libc::P_ALL, 0),
    };
    let flags = match what {
        Wait::Look => libc::WNOHANG | libc::WNOWAIT,
        Wait::Take => libc::WNOHANG,
        Wait::Block => 0,
    };
    loop {
        // SAFETY: zero is a valid value for this plain structure, which outlives the call.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let done = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | flags) };
        if done != 0 {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return None;
        }
        // SAFETY: waitid fills these fields, or leaves the zeros that say that nobody has ended.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let code = if info.si_code == libc::CLD_EXITED { status } else { 128 + status };
        return Pid::from_raw(pid).map(|pid| Ended { pid, code });
    }
}

/// Closes every file from `first` on: right after the start of a program, before it has opened any itself.
///
/// # Errors
/// The kernel is older than 5.9.
pub fn close_inherited_from(first: u32) -> io::Result<()> {
    close_range(first, 0)
}

/// Marks every file from `first` on to be closed by execve(2).
///
/// # Errors
/// The kernel is older than 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

/// In a fresh child: keeps standard input, output and error and the given files, and closes all others, those that
/// the parent's values own among them. The child must not use these values again, nor drop them.
///
/// # Errors
/// The kernel refuses a step; what is open then is not defined.
pub fn keep_only<const N: usize>(
    files: [Option<BorrowedFd<'_>>; N],
) -> io::Result<[Option<OwnedFd>; N]> {
    let first = 3 + i32::try_from(N).map_err(io::Error::other)?;
    let mut parked = [-1; N];
    for (parked, file) in parked.iter_mut().zip(files) {
        if let Some(file) = file {
            *parked = rustix::io::fcntl_dupfd_cloexec(file, first)?.into_raw_fd();
        }
    }
    let mut kept = [const { None }; N];
    for (number, (kept, parked)) in (3..).zip(kept.iter_mut().zip(parked)) {
        if parked >= 0 {
            // SAFETY: whatever `number` was belongs to values that, by contract, nobody uses in this child again.
            let placed = unsafe { libc::dup3(parked, number, libc::O_CLOEXEC) };
            if placed < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: just made, and owned by nobody else.
            *kept = Some(unsafe { OwnedFd::from_raw_fd(placed) });
        } else {
            // SAFETY: as for dup3 above; closing a number that is not open only fails.
            unsafe { libc::close(number) };
        }
    }
    close_range(u32::try_from(first).map_err(io::Error::other)?, 0)?;
    Ok(kept)
}

/// Makes `file` the standard input (0), output (1) or error (2), kept over execve(2).
///
/// # Errors
/// The kernel refuses.
pub fn set_standard(file: impl AsFd, number: StandardFile) -> io::Result<()> {
    let number = number as RawFd;
    let raw = file.as_fd().as_raw_fd();
    // SAFETY: the three standard files have no owner in Rust; replacing what they stand for is what dup2 is for.
    let placed = unsafe { libc::dup2(raw, number) };
    if placed == number { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The standard files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandardFile {
    /// Standard input.
    Input = 0,
    /// Standard output.
    Output = 1,
    /// Standard error.
    Error = 2,
}

fn close_range(first: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: callers of the functions above own every number from `first` on, or are about to execute.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A signal by its number, the real-time ones included.
#[must_use]
pub fn signal(number: i32) -> Option<Signal> {
    // SAFETY: the number is in the kernel's range, and the value is only ever handed to the kernel, which minds
    // nothing that a C library keeps for itself.
    (1..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

/// Gives every signal its default action and unblocks all: what a program expects to be started with.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: no handler of ours is replaced by the default one while it could run; the kernel refuses KILL
        // and STOP, and that is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    unblock_signals();
}

/// Gives SIGPIPE its default action, which Rust's runtime took, and unblocks all signals.
pub fn restore_signals() {
    // SAFETY: sets a default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    unblock_signals();
}

fn unblock_signals() {
    // SAFETY: an all-zero set is a valid set, made the empty one before its use.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Joins a new session keyring, so that the keys of whoever started this process cannot be read (keyctl(2)).
///
/// # Errors
/// The kernel has no keyrings (`ENOSYS`), or the quota is used up.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let serial = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>())
    };
    if serial >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_two_threads_is_not_single_threaded() {
        // The test harness runs this in a thread of its own beside the main one.
        assert!(SingleThreaded::prove().is_none());
    }
}
