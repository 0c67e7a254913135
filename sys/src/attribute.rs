//! What a process is to the scheduler, to memory and to the file system: calls that neither nix nor rustix has.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// A thread's scheduling, as sched_setattr(2) takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schedule {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the ordinary policies.
    pub nice: i32,
    /// For the real-time ones.
    pub priority: u32,
    /// Nanoseconds, for deadline scheduling.
    pub runtime: u64,
    /// As `runtime`.
    pub deadline: u64,
    /// As `runtime`.
    pub period: u64,
}

/// The kernel's first form of it, which every kernel since 3.14 takes.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Changes how this thread is scheduled.
///
/// # Errors
/// As sched_setattr(2).
pub fn set_schedule(schedule: Schedule) -> io::Result<()> {
    let Schedule { policy, flags, nice, priority, runtime, deadline, period } = schedule;
    let size = u32::try_from(size_of::<SchedAttr>()).map_err(io::Error::other)?;
    let attr = SchedAttr { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: the structure is of the size that it says and outlives the call, which only reads it.
    result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
}

/// Changes this thread's I/O priority: a class (1 real time, 2 best effort, 3 idle) and a level in it, 0 to 7.
///
/// # Errors
/// As ioprio_set(2).
pub fn set_io_priority(class: u8, level: u8) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(level);
    // SAFETY: the call takes numbers only.
    result(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) })
}

/// Changes the memory policy of this thread: `MPOL_*` with its flags, and the nodes as a bit mask.
///
/// # Errors
/// As set_mempolicy(2); `ENOSYS` on a kernel without NUMA.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    let bits = nodes.len() * 64;
    // The kernel reads one bit less than it is told.
    let count = if nodes.is_empty() { 0 } else { bits + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the mask is as long as it says and outlives the call, which only reads it.
    result(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, count) })
}

/// Changes this process's execution domain (`PER_*`).
///
/// # Errors
/// As personality(2).
pub fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: the call takes a number only.
    result(unsafe { libc::syscall(libc::SYS_personality, domain) })
}

/// The kind (`CLONE_NEW*`) of the namespace behind a file of nsfs.
///
/// # Errors
/// `ENOTTY`: it is no namespace.
pub fn namespace_kind(file: impl AsFd) -> io::Result<u64> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    u64::try_from(kind).map_err(|_| io::Error::last_os_error())
}

/// The user namespace that the namespace behind a file of nsfs belongs to (ioctl_ns(2)).
///
/// # Errors
/// `EPERM`: it is outside of the caller's own.
pub fn owning_users(file: impl AsFd) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: the request takes no argument.
    let owner = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by the kernel, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}

/// Does something with another owner's ids towards file systems (fsuid and fsgid), but with all capabilities kept.
///
/// # Errors
/// What `work` returns, or the kernel refuses the change.
pub fn as_filesystem_owner<T, E: From<io::Error>>(
    uid: u32,
    gid: u32,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: takes a number only.
    let before = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    let before = libc::c_ulong::try_from(before).map_err(|_| io::Error::last_os_error())?;
    set_secure_bits(before | NO_SETUID_FIXUP)?;
    // SAFETY: both take a number only, and affect this thread alone.
    let (old_uid, old_gid) = unsafe { (libc::setfsuid(uid), libc::setfsgid(gid)) };
    let done = work();
    let ids = (u32::try_from(old_uid).unwrap_or(0), u32::try_from(old_gid).unwrap_or(0));
    // SAFETY: as above.
    let _ids = unsafe { (libc::setfsuid(ids.0), libc::setfsgid(ids.1)) };
    set_secure_bits(before)?;
    done
}

fn set_secure_bits(bits: libc::c_ulong) -> io::Result<()> {
    // SAFETY: takes a number only.
    result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits) }.into())
}

fn result(returned: libc::c_long) -> io::Result<()> {
    if returned >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves what this process shares with others, or makes new namespaces (unshare(2)): never its files or its memory.
///
/// # Errors
/// `EINVAL` for other flags than `CLONE_NEW*`, or as unshare(2).
pub fn unshare(namespaces: u64) -> io::Result<()> {
    const ALL: u64 = 0x7e02_0080;
    let flags = libc::c_int::try_from(namespaces & ALL).map_err(io::Error::other)?;
    if namespaces & !ALL != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: new namespaces change nothing that Rust's values stand for.
    result(unsafe { libc::unshare(flags) }.into())
}
