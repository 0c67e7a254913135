//! What a layer needs of the layers below it, done once those are complete.
//!
//! Layers of one image are unpacked side by side, so while an archive is read the layers below may not be there yet.
//! Two things have to wait: a directory that the archive only implies takes the attributes it has below, and a hard
//! link to a file below becomes a copy of that file with two names, as overlayfs itself copies up.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use snapshotter::{Found, Lower, Usage};
use sys::confined::Root;

use super::LayerError;

/// The open questions of one layer.
#[derive(Debug, Default)]
pub(crate) struct Fixups {
    /// Directories made on the way to an entry.
    pub(super) implied: BTreeSet<PathBuf>,
    /// Hard links whose target is not in this layer: the link, then its target.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
}

impl Fixups {
    /// Answers them for the layer in `fs`, over the layers below. Blocks on the disk. Returns what it added.
    pub(crate) fn apply(&self, fs: &Path, below: &Lower) -> Result<Usage, LayerError> {
        let mut added = Usage::default();
        if self.implied.is_empty() && self.links.is_empty() {
            return Ok(added);
        }
        let root = Root::open(fs)?;
        for path in &self.implied {
            take_attributes(&root, path, below)?;
        }
        for (link, target) in &self.links {
            added = added + self.link_up(&root, link, target, below)?;
        }
        Ok(added)
    }

    fn link_up(
        &self,
        root: &Root,
        link: &Path,
        target: &Path,
        below: &Lower,
    ) -> Result<Usage, LayerError> {
        let missing = || {
            let why = format!("its hard link {link:?} leads to {target:?}, which is in no layer");
            LayerError::malformed(why)
        };
        let mut added = Usage::default();
        if here(root, target)?.is_none() {
            let found = below.find(target)?.ok_or_else(missing)?;
            added = copy_up(root, target, &found, below)?;
        }
        let source = here(root, target)?.ok_or_else(missing)?;
        let place = root.make_parent(link, 0o755)?;
        for made in &place.made {
            take_attributes(root, made, below)?;
        }
        match rfs::linkat(&source.0, &source.1, &place.dir, &place.name, AtFlags::empty()) {
            // A later entry of the archive has the name.
            Ok(()) | Err(Errno::EXIST) => Ok(added),
            Err(e) => Err(LayerError::disk("link", link, e)),
        }
    }
}

/// The directory and name of something in this layer that can be linked to; a whiteout is nothing.
fn here(root: &Root, path: &Path) -> Result<Option<(OwnedFd, PathBuf)>, LayerError> {
    let (Some(name), parent) = (path.file_name(), path.parent().unwrap_or(Path::new(""))) else {
        return Ok(None);
    };
    let dir = match root.open_with(parent, OFlags::PATH | OFlags::DIRECTORY, 0) {
        Ok(dir) => dir,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rfs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_whiteout(&stat) => Ok(None),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            Err(LayerError::malformed(format!("a hard link to the directory {path:?}")))
        }
        Ok(_) => Ok(Some((dir, PathBuf::from(name)))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(LayerError::disk("stat", path, e)),
    }
}

fn is_absence(error: &sys::confined::PathError) -> bool {
    [Errno::NOENT, Errno::NOTDIR].iter().any(|e| error.errno() == Some(e.raw_os_error()))
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Gives an implied directory the owner, mode and time of the one it merges with.
fn take_attributes(root: &Root, path: &Path, below: &Lower) -> Result<(), LayerError> {
    let Some(found) = below.find(path)? else { return Ok(()) };
    if FileType::from_raw_mode(found.stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    match root.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, 0) {
        Ok(dir) => {
            dress(&dir, &found.stat).map_err(|e| LayerError::disk("set the attributes of", path, e))
        }
        // A later entry replaced it.
        Err(_) => Ok(()),
    }
}

fn dress(fd: impl AsFd, stat: &Stat) -> Result<(), Errno> {
    let fd = fd.as_fd();
    rfs::fchown(fd, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rfs::fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rfs::futimens(fd, &stat_times(stat))
}

fn stat_times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanos: u64| Timespec { tv_sec, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies a file, a link or a node of a lower layer into this one, under its own path.
fn copy_up(root: &Root, path: &Path, found: &Found, below: &Lower) -> Result<Usage, LayerError> {
    let fail = |e: Errno| LayerError::disk("copy up", path, e);
    let place = root.make_parent(path, 0o755)?;
    for made in &place.made {
        take_attributes(root, made, below)?;
    }
    let (dir, name) = (place.dir.as_fd(), &place.name);
    // A whiteout of this name hides what is below, and the link wants it back.
    match rfs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(fail(e)),
    }
    let stat = &found.stat;
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let bytes = copy_file(found, dir, name, path)?;
            return Ok(Usage { bytes, inodes: 1 });
        }
        FileType::Symlink => {
            let target = rfs::readlinkat(&found.dir, &found.name, Vec::new()).map_err(fail)?;
            rfs::symlinkat(target, dir, name).map_err(fail)?;
        }
        kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rfs::mknodat(dir, name, kind, mode, stat.st_rdev).map_err(fail)?;
        }
        _ => {
            return Err(LayerError::malformed(format!(
                "a hard link to {path:?}, which is no file"
            )));
        }
    }
    rfs::chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    rfs::utimensat(dir, name, &stat_times(stat), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    Ok(Usage { bytes: 0, inodes: 1 })
}

fn copy_file(
    found: &Found,
    dir: std::os::fd::BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    path: &Path,
) -> Result<u64, LayerError> {
    let fail = |e: io::Error| LayerError::disk("copy up", path, e);
    let errno = |e: Errno| fail(e.into());
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut from =
        File::from(rfs::openat(&found.dir, &found.name, read, Mode::empty()).map_err(errno)?);
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut to = File::from(rfs::openat(dir, name, write, Mode::RUSR | Mode::WUSR).map_err(errno)?);
    // std copies inside the kernel (copy_file_range(2)), which shares the blocks where the file system can.
    let length = from.metadata().map_err(fail)?.len();
    let copied = io::copy(&mut (&mut from).take(length), &mut to).map_err(fail)?;
    if copied != length {
        return Err(fail(io::ErrorKind::UnexpectedEof.into()));
    }
    dress(&to, &found.stat).map_err(errno)?;
    let mut value = [0_u8; 64];
    // After the owner, whose change would clear it.
    if let Ok(length) = rfs::fgetxattr(&from, "security.capability", &mut value[..]) {
        rfs::fsetxattr(&to, "security.capability", &value[..length], XattrFlags::empty())
            .map_err(errno)?;
    }
    Ok(copied)
}
