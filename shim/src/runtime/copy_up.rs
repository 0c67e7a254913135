//! `tmpcopyup`: a tmpfs that begins as a copy of the folder that it covers.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::{Failure, FailureKind};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fstat, mkdirat, mknodat,
    openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

/// Folders in folders that are copied; each takes two files of this process.
const MAX_DEPTH: usize = 64;

/// Copies what is in the folder `from` into the detached mount `to`. Content of an image: never followed, never waited
/// for, and what is written stays within the mount's own size.
///
/// # Errors
/// `InvalidArgument`: the mount is too small, or the folder too deep.
pub fn copy(from: &OwnedFd, to: &OwnedFd, target: &Path) -> Result<(), Failure> {
    let fail = |error: Errno| {
        let kind = FailureKind::InvalidArgument;
        Failure::os_kind(kind, "copy into the tmpfs at", target.display().to_string(), error)
    };
    let from = open_dir(from, c".").map_err(fail)?;
    let to = open_dir(to, c".").map_err(fail)?;
    let found = fstat(&from).map_err(fail)?;
    own(&to, &found).map_err(fail)?;
    copy_dir(&from, &to, MAX_DEPTH).map_err(fail)
}

fn copy_dir(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_one(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_one(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<(), Errno> {
    let found = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let made = open_dir(to, name)?;
            copy_dir(&open_dir(from, name)?, &made, depth)?;
            own(&made, &found)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = openat(from, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let made = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            let (mut source, mut sink) = (source.into(), std::fs::File::from(made));
            let copied = std::io::copy::<std::fs::File, _>(&mut source, &mut sink);
            copied.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            own(&sink, &found)
        }
        FileType::Symlink => {
            let link = readlinkat(from, name, Vec::new())?;
            symlinkat(link, to, name)?;
            give(to, name, &found)
        }
        kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
            mknodat(to, name, kind, Mode::from_raw_mode(found.st_mode & 0o7777), found.st_rdev)?;
            give(to, name, &found)
        }
        // A socket is nothing without who listens.
        FileType::Socket | FileType::Unknown => Ok(()),
    }
}

fn open_dir(dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn own(made: impl AsFd, as_of: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(as_of.st_uid), Gid::from_raw(as_of.st_gid));
    chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    fchmod(&made, Mode::from_raw_mode(as_of.st_mode & 0o7777))
}

fn give(dir: &OwnedFd, name: &CStr, as_of: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(as_of.st_uid), Gid::from_raw(as_of.st_gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}
