//! seccomp(2): a filter of the process's system calls, loaded into the kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Its operand.
    pub operand: u32,
}

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Every action but ALLOW is logged (`SECCOMP_FILTER_FLAG_LOG`, since 4.14).
pub const LOG: u32 = 1 << 1;
/// No mitigation of speculative store bypass (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`, since 4.17).
pub const SPEC_ALLOW: u32 = 1 << 2;
/// The caller gets the file that NOTIFY tells of (`SECCOMP_FILTER_FLAG_NEW_LISTENER`, since 5.0).
pub const NEW_LISTENER: u32 = 1 << 3;
/// Only fatal signals interrupt who waits for a listener (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, since 5.19).
pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;

const SET_MODE_FILTER: libc::c_uint = 1;
const GET_ACTION_AVAIL: libc::c_uint = 2;

/// Loads a filter for the calling thread and all that it becomes or makes. With [`NEW_LISTENER`] the result is the
/// listener's file, closed by execve(2).
///
/// # Errors
/// `EACCES` without `CAP_SYS_ADMIN` or no_new_privs, `EINVAL` for a program or flags that the kernel does not take,
/// `EBUSY` for a second listener.
pub fn install(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let too_long = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let length = u16::try_from(program.len()).map_err(too_long)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads `len` instructions, which have the layout of its own structure, and keeps a copy.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const filter) };
    match libc::c_int::try_from(result) {
        Ok(fd) if fd >= 0 && flags & NEW_LISTENER != 0 => {
            // SAFETY: just made by the kernel for us alone.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        Ok(0) => Ok(None),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel knows all of these flags.
#[must_use]
pub fn knows_flags(flags: u32) -> bool {
    let nothing = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the kernel looks at the flags first, and then refuses to read a program from nowhere.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, nothing) };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Whether the kernel knows an action (`SECCOMP_RET_*`).
#[must_use]
pub fn knows_action(action: u32) -> bool {
    // SAFETY: the kernel reads one number.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_what_the_kernel_reads() {
        assert_eq!(size_of::<Instruction>(), size_of::<libc::sock_filter>());
        assert_eq!(align_of::<Instruction>(), align_of::<libc::sock_filter>());
        let one = Instruction { code: 0x1234, jump_true: 5, jump_false: 6, operand: 0x789a_bcde };
        // SAFETY: both are plain numbers of the same size.
        let theirs: libc::sock_filter = unsafe { std::mem::transmute(one) };
        assert_eq!((theirs.code, theirs.jt, theirs.jf, theirs.k), (0x1234, 5, 6, 0x789a_bcde));
    }

    #[test]
    fn the_kernel_tells_which_flags_and_actions_it_knows() {
        assert!(knows_flags(LOG | SPEC_ALLOW));
        assert!(!knows_flags(1 << 31));
        assert!(knows_action(0x7fff_0000));
        assert!(!knows_action(0x1234_0000));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let nonsense = [Instruction { code: 0xffff, jump_true: 0, jump_false: 0, operand: 0 }];
        assert_eq!(install(&nonsense, 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(install(&[], 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
