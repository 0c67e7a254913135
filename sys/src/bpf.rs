//! eBPF programs that decide which devices the processes of a cgroup may use (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! An attached program lives as long as its cgroup: nothing has to be pinned, and no fd has to stay open.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// One instruction, as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// The register that is changed or compared (low half) and the one that is read (high half).
    pub registers: u8,
    /// How many instructions further a jump goes, or where in memory a load reads.
    pub offset: i16,
    /// The constant.
    pub immediate: i32,
}

/// Longest name of a program that the kernel keeps, in bytes.
pub const NAME_BYTES: usize = 15;

/// Programs that one cgroup may have, ours and others' (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

// bpf(2): commands, the type of program, where it is attached, how.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const AT_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// What `PROG_LOAD` reads (`union bpf_attr`).
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_BYTES + 1],
}

/// What `PROG_ATTACH` and `PROG_DETACH` read.
#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    place: u32,
    flags: u32,
    replaced: u32,
}

/// What `PROG_QUERY` reads and writes.
#[repr(C)]
struct Query {
    cgroup: u32,
    place: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    /// Flags of each program, links, and the revision, which newer kernels write unasked.
    rest: [u64; 4],
}

/// What `PROG_GET_FD_BY_ID` reads.
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// What `OBJ_GET_INFO_BY_FD` reads; the information itself is elsewhere.
#[repr(C)]
struct Ask {
    program: u32,
    length: u32,
    information: u64,
}

/// The beginning of what the kernel knows of a program (`struct bpf_prog_info`), up to its name.
#[repr(C)]
struct Information {
    before: [u64; 8],
    name: [u8; NAME_BYTES + 1],
}

/// Loads a device program. The kernel verifies it first.
///
/// # Errors
/// `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN`, `ENOSYS` or `EINVAL` when the kernel has no such programs, `EINVAL` or
/// `EACCES` for a program that the verifier does not take.
pub fn load_device_program(name: &CStr, program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut bytes = [0; NAME_BYTES + 1];
    let name = name.to_bytes();
    let room = bytes.get_mut(..name.len()).filter(|room| room.len() <= NAME_BYTES);
    room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name);
    let mut attr = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: bytes,
    };
    // SAFETY: `program` and the static licence text outlive the call, and the kernel only reads them.
    let fd = unsafe { bpf(PROG_LOAD, &mut attr) }?;
    // SAFETY: just made, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this process may load device programs, and the kernel has them.
#[must_use]
pub fn can_filter_devices() -> bool {
    // Zero into the result, and the end: everything is denied.
    let [deny, end] =
        [0xb7, 0x95].map(|code| Instruction { code, registers: 0, offset: 0, immediate: 0 });
    load_device_program(c"probe", &[deny, end]).is_ok()
}

/// Attaches a device program to a cgroup, beside those of others: what one of them denies is denied. With `replaced`
/// it takes that one's place, without a moment between.
///
/// # Errors
/// `EPERM`, or `EINVAL` when the kernel is older than 4.15 (5.6 with `replaced`) or `cgroup` is no folder of the
/// unified hierarchy; `ENOENT` when `replaced` is not attached.
pub fn attach_device_program(
    cgroup: impl AsFd,
    program: impl AsFd,
    replaced: Option<&OwnedFd>,
) -> io::Result<()> {
    let mut attr = Attach {
        cgroup: number(&cgroup)?,
        program: number(&program)?,
        place: AT_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map(number).transpose()?.unwrap_or(0),
    };
    // SAFETY: `attr` is all that the kernel reads.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
}

/// Takes a device program off a cgroup.
///
/// # Errors
/// `ENOENT` when it is not attached.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = Attach {
        cgroup: number(&cgroup)?,
        program: number(&program)?,
        place: AT_CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    // SAFETY: `attr` is all that the kernel reads.
    unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
}

/// The device programs of this name that are attached to the cgroup itself.
///
/// # Errors
/// `EPERM`, or the kernel is older than 4.15.
pub fn attached_device_programs(cgroup: impl AsFd, name: &CStr) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attr = Query {
        cgroup: number(&cgroup)?,
        place: AT_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(MAX_PROGRAMS).map_err(io::Error::other)?,
        padding: 0,
        rest: [0; 4],
    };
    // SAFETY: the kernel writes at most `count` numbers to `ids`, which has room for them and outlives the call.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    let count = usize::try_from(attr.count).map_err(io::Error::other)?.min(MAX_PROGRAMS);
    let mut found = Vec::new();
    for id in &ids[..count] {
        let mut attr = ById { id: *id, next: 0, flags: 0 };
        // SAFETY: `attr` is all that the kernel reads.
        let program = match unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) } {
            // Detached in between.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            // SAFETY: just made, and owned by nobody else.
            other => unsafe { OwnedFd::from_raw_fd(other?) },
        };
        if has_name(&program, name)? {
            found.push(program);
        }
    }
    Ok(found)
}

fn has_name(program: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let mut information = Information { before: [0; 8], name: [0; NAME_BYTES + 1] };
    let mut attr = Ask {
        program: number(program)?,
        length: u32::try_from(size_of::<Information>()).map_err(io::Error::other)?,
        information: (&raw mut information) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `information`, which has that size and outlives the call; the
    // lengths in it are zero, so that no pointer in it is followed.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(CStr::from_bytes_until_nul(&information.name).is_ok_and(|own| own == name))
}

fn number(file: impl AsFd) -> io::Result<u32> {
    u32::try_from(file.as_fd().as_raw_fd()).map_err(io::Error::other)
}

/// # Safety
/// `attr` must be what `command` expects, and what it points to must be as the command wants it.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` outlives the call and its size is the one passed; the rest is the caller's word.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        i32::try_from(done).map_err(io::Error::other)
    }
}
