//! Deleting a tree that a tenant has made.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::PathError;

/// Directories held open at once; what lies deeper is moved up first.
const MAX_OPEN_LEVELS: usize = 48;

/// Deletes `name` in `parent` with all that is below it; what is not there is no error.
///
/// Never follows a link and never enters a mount: a mount point inside makes it fail with `EXDEV` or `EBUSY`, with
/// the mounted tree untouched. A tree of any depth is deleted with a bounded number of open directories: what lies
/// deeper than that is first renamed to the top.
///
/// # Errors
/// The first refusal of the kernel; what is deleted by then stays deleted.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), PathError> {
    match rfs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(PathError::new("remove", Path::new(name), e)),
    }
    let mut sweep = Sweep { parent, levels: Vec::new(), moved: 0 };
    sweep
        .enter(parent, name.to_owned())
        .map_err(|e| PathError::new("remove", Path::new(name), e))?;
    while !sweep.levels.is_empty() {
        if let Err(e) = sweep.step() {
            return Err(PathError::new("remove below", &sweep.path(), e));
        }
    }
    Ok(())
}

/// One directory being emptied.
struct Level {
    dir: Dir,
    name: OsString,
    /// Whether anything went away since the last rewind; a pass that removes nothing would repeat for ever.
    progress: bool,
}

struct Sweep<'a> {
    parent: BorrowedFd<'a>,
    levels: Vec<Level>,
    moved: u64,
}

impl Sweep<'_> {
    fn path(&self) -> PathBuf {
        self.levels.iter().map(|l| l.name.as_os_str()).collect()
    }

    fn enter(&mut self, dir: BorrowedFd<'_>, name: OsString) -> Result<(), Errno> {
        let how = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat2(dir, &name, flags, Mode::empty(), how)?;
        self.levels.push(Level { dir: Dir::new(fd)?, name, progress: true });
        Ok(())
    }

    /// Removes one entry of the innermost open directory, or that directory itself when it is empty.
    fn step(&mut self) -> Result<(), Errno> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let Some(entry) = level.dir.next() else { return self.leave() };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return Ok(());
        }
        if entry.file_type() != FileType::Directory {
            match rfs::unlinkat(level.dir.fd()?, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {
                    level.progress = true;
                    return Ok(());
                }
                // The file system told no type, and it is a directory.
                Err(Errno::ISDIR) => {}
                Err(e) => return Err(e),
            }
        }
        level.progress = true;
        let name = name.to_owned();
        self.descend(&name)
    }

    fn descend(&mut self, name: &CStr) -> Result<(), Errno> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        if self.levels.len() >= MAX_OPEN_LEVELS {
            return self.raise(name);
        }
        let dir = level.dir.fd()?.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        self.enter(dir.as_fd(), OsStr::from_bytes(name.to_bytes()).to_owned())
    }

    /// Moves a directory that lies too deep into the outermost one, under a name that is free there.
    fn raise(&mut self, name: &CStr) -> Result<(), Errno> {
        let (Some(top), Some(level)) = (self.levels.first(), self.levels.last()) else {
            return Ok(());
        };
        loop {
            let free = format!("\u{1}{}", self.moved);
            self.moved += 1;
            let (from, to) = (level.dir.fd()?, top.dir.fd()?);
            match rfs::renameat_with(from, name, to, &free, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => return other,
            }
        }
    }

    fn leave(&mut self) -> Result<(), Errno> {
        let above = match self.levels.len() {
            0 => return Ok(()),
            1 => self.parent,
            n => self.levels[n - 2].dir.fd()?,
        };
        let level = &self.levels[self.levels.len() - 1];
        match rfs::unlinkat(above, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                self.levels.pop();
                Ok(())
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.progress => {
                // Entries came after the reading position: what was moved here, or what the directory's order hid.
                let last = self.levels.len() - 1;
                self.levels[last].dir.rewind();
                self.levels[last].progress = false;
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}
