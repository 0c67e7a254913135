//! Owner, mode, time and extended attributes, set on fds.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{self as rfs, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::LayerError;
use super::tarball::Entry;

/// What ext4 with small inodes and other file systems can hold, roughly: years 1901 to 2514.
const TIMES: std::ops::RangeInclusive<i64> = -0x8000_0000..=0x4_0000_0000;

/// Sets everything on a fresh file or a directory, in the order that keeps it: chown(2) clears setuid and capabilities.
pub(super) fn set(fd: impl AsFd, entry: &Entry, path: &Path) -> Result<(), LayerError> {
    let fd = fd.as_fd();
    let fail = |operation| move |e: Errno| LayerError::disk(operation, path, e);
    rfs::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
        .map_err(fail("chown"))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        set_xattr(fd, name, value).map_err(fail("set an attribute of"))?;
    }
    rfs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(fail("chmod"))?;
    rfs::futimens(fd, &times(entry.mtime)).map_err(fail("set the time of"))
}

/// Whether an attribute is the image's to set.
///
/// overlayfs's own would forge whiteouts and redirects, and security labels belong to the node; file capabilities are
/// part of the image as setuid bits are.
fn is_kept(name: &str) -> bool {
    let plain = name.starts_with("user.")
        && !name.starts_with("user.overlay.")
        && name.len() > "user.".len();
    (plain || name == "security.capability") && name.len() <= 255
}

fn set_xattr(fd: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<(), Errno> {
    match rfs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        // The file system has none of that kind: the file works without.
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// The modification time, also as access time, clamped to what file systems hold.
pub(super) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let tv_sec = seconds.clamp(*TIMES.start(), *TIMES.end());
    let time = Timespec { tv_sec, tv_nsec: i64::from(nanos.min(999_999_999)) };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_images_own_attributes_are_kept() {
        for kept in ["user.a", "security.capability"] {
            assert!(is_kept(kept), "{kept}");
        }
        for stripped in [
            "trusted.overlay.opaque",
            "trusted.x",
            "user.overlay.whiteout",
            "security.selinux",
            "security.ima",
            "system.posix_acl_access",
            "user.",
            "security.capability2",
        ] {
            assert!(!is_kept(stripped), "{stripped}");
        }
    }

    #[test]
    fn impossible_times_are_clamped() {
        let far = times((i64::MAX, u32::MAX)).last_modification;
        assert_eq!((far.tv_sec, far.tv_nsec), (*TIMES.end(), 999_999_999));
    }
}
