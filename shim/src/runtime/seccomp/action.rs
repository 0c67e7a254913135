//! Actions, from the spec's names to what a filter returns.

use oci_spec::runtime::LinuxSeccompAction as SpecAction;
use rustix::io::Errno;

use super::invalid;
use crate::Failure;

/// Kills the thread (`SECCOMP_RET_KILL_THREAD`).
pub const KILL_THREAD: u32 = 0;
/// Returns an error; the number is in the lower half.
pub const ERRNO: u32 = 0x0005_0000;
/// Asks a listener.
pub const NOTIFY: u32 = 0x7fc0_0000;
/// Tells a tracer.
const TRACE: u32 = 0x7ff0_0000;
/// Allows, and logs.
const LOG: u32 = 0x7ffc_0000;
/// Allows.
pub const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;

/// The largest error number that the kernel returns (`MAX_ERRNO`); it cuts what is larger.
const MAX_ERRNO: u32 = 4095;

/// What a filter returns for the spec's action.
///
/// # Errors
/// The action has no such number.
pub fn value(action: SpecAction, number: Option<u32>) -> Result<u32, Failure> {
    let (base, largest) = match action {
        SpecAction::ScmpActErrno => (ERRNO, MAX_ERRNO),
        SpecAction::ScmpActTrace => (TRACE, u32::from(u16::MAX)),
        _ if number.is_some() => return Err(invalid(action, "it takes no errno")),
        SpecAction::ScmpActKill | SpecAction::ScmpActKillThread => return Ok(KILL_THREAD),
        SpecAction::ScmpActKillProcess => return Ok(KILL_PROCESS),
        SpecAction::ScmpActTrap => return Ok(TRAP),
        SpecAction::ScmpActNotify => return Ok(NOTIFY),
        SpecAction::ScmpActLog => return Ok(LOG),
        SpecAction::ScmpActAllow => return Ok(ALLOW),
    };
    let number = number.unwrap_or(Errno::PERM.raw_os_error().unsigned_abs());
    if number > largest {
        return Err(invalid(action, format!("errno {number} is larger than {largest}")));
    }
    Ok(base | number)
}

/// Whether what the profile does not name is let through, so that a call it cannot know is not its business.
#[must_use]
pub fn lets_through(default: u32) -> bool {
    matches!(default & 0xffff_0000, ALLOW | LOG | TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_actions_are_checked_and_never_cut() {
        let errno = |number| value(SpecAction::ScmpActErrno, number).ok();
        assert_eq!(errno(None), Some(0x0005_0001));
        assert_eq!(errno(Some(0)), Some(0x0005_0000));
        assert_eq!(errno(Some(4095)), Some(0x0005_0fff));
        assert_eq!(errno(Some(4096)), None);
        assert_eq!(errno(Some(0x1_0001)), None);
        assert_eq!(value(SpecAction::ScmpActTrace, Some(65535)).ok(), Some(0x7ff0_ffff));
        assert!(value(SpecAction::ScmpActTrace, Some(65536)).is_err());
        assert!(value(SpecAction::ScmpActAllow, Some(1)).is_err());
    }
}
