//! The attributes of mounts: mount_setattr(2), which neither nix nor rustix has.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;

/// A change of a mount's attributes (`MOUNT_ATTR_*` of mount_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Turned on.
    pub set: u64,
    /// Turned off, before `set`.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`; zero keeps it.
    pub propagation: u64,
}

/// No writes through this mount.
pub const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Set-user-id bits and file capabilities count for nothing.
pub const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// Device nodes cannot be opened.
pub const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
/// Nothing can be executed.
pub const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
/// Symbolic links are not followed.
pub const NO_SYMLINK_FOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
/// Reading a directory does not update its access time.
pub const NO_DIR_ATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
/// The three ways of updating access times are one field: this clears it.
pub const ATIME_FIELD: u64 = libc::MOUNT_ATTR__ATIME;
/// No access time is updated.
pub const NO_ATIME: u64 = libc::MOUNT_ATTR_NOATIME;
/// Every access time is updated.
pub const STRICT_ATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;

/// Which propagation a mount gets (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing comes in, nothing goes out.
    Private,
    /// The master's mounts come in.
    Slave,
    /// Both ways.
    Shared,
    /// Private, and cannot be bound.
    Unbindable,
}

impl Propagation {
    /// The value for [`Attributes::propagation`].
    #[must_use]
    pub const fn flag(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Changes the attributes of the mount that `mount` is the root of.
///
/// # Errors
/// `EINVAL` when `mount` is not the root of a mount; `EPERM` for a locked attribute.
pub fn set_attributes(mount: impl AsFd, change: Attributes, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    set(mount, &attr, recursive)
}

/// Shows the files of a detached mount with the ids that a user namespace makes of theirs.
///
/// # Errors
/// `EINVAL` when the file system cannot be mapped or the mount is mapped already; `EPERM` for a foreign mount.
pub fn map_ids(mount: impl AsFd, users: impl AsFd, recursive: bool) -> io::Result<()> {
    let users = u64::try_from(users.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users,
    };
    set(mount, &attr, recursive)
}

fn set(mount: impl AsFd, attr: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static C string, `attr` outlives the call and its size is the one passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A private read-only bind mount of `path` that is attached nowhere and lives as long as the fd.
///
/// # Errors
/// The caller lacks `CAP_SYS_ADMIN`, or the kernel is older than 5.12.
pub fn read_only_copy(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    let change = Attributes {
        set: READ_ONLY | NO_SUID | NO_DEV,
        propagation: Propagation::Private.flag(),
        ..Attributes::default()
    };
    set_attributes(&tree, change, false)?;
    Ok(tree)
}
