//! The host's procfs as a private handle: what this runtime writes there reaches the file that it means.
//!
//! A handle of the root of a procfs, taken before a container's mounts are there and verified to be that. What is opened
//! through it may not leave it: no link out of it is followed, and nothing that is mounted in it is entered
//! (CVE-2025-52881, CVE-2019-16884).
//!
//! A mount of our own would be no safer, and giving it back costs one of the kernel's grace periods (0.6 ms). It is made
//! where the host's `/proc` is not one.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::Failure;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::target;

/// The inode number of the root of every procfs.
const ROOT_INODE: u64 = 1;

/// A procfs that nobody else has touched.
#[derive(Debug)]
pub struct Procfs {
    root: OwnedFd,
}

impl Procfs {
    /// Takes the handle.
    ///
    /// # Errors
    /// There is no procfs and none can be made.
    pub fn open() -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(root) = rustix::fs::openat(CWD, "/proc", flags, Mode::empty())
            && is_root(&root)
        {
            return Ok(Self { root });
        }
        let root = make().map_err(|e| Failure::os("open", "procfs", e))?;
        Ok(Self { root })
    }

    /// Opens a file of it.
    ///
    /// # Errors
    /// As openat2(2); `EXDEV` when something is mounted over it.
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(&self.root, path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty(), how)
    }

    /// Opens what a link of procfs means: a namespace.
    ///
    /// # Errors
    /// As openat(2).
    pub fn follow(&self, path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
        let path = path.as_ref();
        let parent = self.open_file(path.parent().unwrap_or(path), OFlags::PATH)?;
        let name = path.file_name().ok_or(Errno::INVAL)?;
        rustix::fs::openat(parent, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Writes a file of it with one write(2).
    ///
    /// # Errors
    /// As openat2(2) and write(2).
    pub fn write(&self, path: impl AsRef<Path>, value: &[u8]) -> io::Result<()> {
        let file = self.open_file(path, OFlags::WRONLY)?;
        let written = rustix::io::write(&file, value)?;
        if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Reads a file of it, at most 64 KiB.
    ///
    /// # Errors
    /// As openat2(2) and read(2).
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        use std::io::Read;
        const MAX: u64 = 64 << 10;
        let mut text = String::new();
        let file = std::fs::File::from(self.open_file(path, OFlags::RDONLY)?);
        let _length = file.take(MAX).read_to_string(&mut text)?;
        Ok(text)
    }
}

fn is_root(dir: &OwnedFd) -> bool {
    target::is_proc(dir) && target::stat(dir).is_ok_and(|found| found.stx_ino == ROOT_INODE)
}

fn make() -> Result<OwnedFd, Errno> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
