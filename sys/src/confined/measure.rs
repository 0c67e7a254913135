//! What a tree that a tenant has made takes on the disk.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::PathError;

/// Directories held open at once. Those above are opened again, where they were, when the walk comes back to them.
const MAX_OPEN: usize = 48;

/// No deeper; such trees can be made only step by step, and nobody needs them.
const MAX_DEPTH: usize = 4096;

/// Files with several names that are remembered, so as to count each once; what is beyond is counted for each name.
const MAX_LINKED: usize = 100_000;

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    /// Bytes of blocks: a hole takes none.
    pub bytes: u64,
    /// Files, directories, links and nodes, the tree's own directory among them.
    pub inodes: u64,
    /// Whether there is more: it is too much for the one who asks, or lies too deep to be looked into.
    pub partial: bool,
}

/// Measures the directory `name` in `parent` with all that is below it; what is not there takes nothing.
///
/// Never follows a link and never enters a mount. The tree may change meanwhile. Takes memory for the names on the way
/// down and nothing for the width of the tree, and about two microseconds for each file that the kernel knows already.
/// Stops after `most` inodes.
///
/// # Errors
/// The kernel refuses the tree's own directory.
pub fn measure_tree(parent: BorrowedFd<'_>, name: &OsStr, most: u64) -> Result<Measure, PathError> {
    let fail = |error| PathError::new("measure", Path::new(name), error);
    let name = CString::new(name.as_bytes()).map_err(|_| fail(Errno::INVAL))?;
    let mut walk =
        Walk { parent, levels: Vec::new(), linked: HashSet::new(), found: Measure::default() };
    match enter(parent, &name) {
        Err(Errno::NOENT) => return Ok(Measure::default()),
        Err(error) => return Err(fail(error)),
        Ok(top) => {
            walk.count(&rfs::fstat(&top).map_err(fail)?);
            walk.push(name, top).map_err(fail)?;
        }
    }
    while !walk.levels.is_empty() {
        if walk.found.inodes >= most {
            walk.found.partial = true;
            break;
        }
        // A directory that cannot be read (any more) has nothing that could be counted.
        if walk.step().is_err() {
            walk.levels.pop();
        }
    }
    Ok(walk.found)
}

/// A directory on the way down.
struct Level {
    name: CString,
    /// None while it is closed for those below.
    dir: Option<Dir>,
    /// Where reading goes on (`d_off` of readdir(3)).
    offset: i64,
}

struct Walk<'a> {
    parent: BorrowedFd<'a>,
    levels: Vec<Level>,
    linked: HashSet<(u64, u64)>,
    found: Measure,
}

impl Walk<'_> {
    fn push(&mut self, name: CString, dir: OwnedFd) -> Result<(), Errno> {
        self.levels.push(Level { name, dir: Some(Dir::new(dir)?), offset: 0 });
        if let Some(above) = self.levels.len().checked_sub(MAX_OPEN + 1) {
            self.levels[above].dir = None;
        }
        Ok(())
    }

    /// Counts one entry of the innermost directory, or leaves that.
    fn step(&mut self) -> Result<(), Errno> {
        if self.levels.last().is_some_and(|level| level.dir.is_none()) {
            self.reopen()?;
        }
        let depth = self.levels.len();
        let Some(Level { dir: Some(dir), offset, .. }) = self.levels.last_mut() else {
            return Ok(());
        };
        let Some(entry) = dir.next().transpose()? else {
            self.levels.pop();
            return Ok(());
        };
        *offset = entry.offset();
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return Ok(());
        }
        let here = dir.fd()?;
        let Ok(stat) = rfs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
        let below = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => enter(here, name).ok(),
            _ => None,
        };
        let name = name.to_owned();
        self.count(&stat);
        match below {
            Some(_) if depth >= MAX_DEPTH => self.found.partial = true,
            Some(below) => self.push(name, below)?,
            None => {}
        }
        Ok(())
    }

    /// Opens the innermost directories again, from the top.
    fn reopen(&mut self) -> Result<(), Errno> {
        let first = self.levels.len().saturating_sub(MAX_OPEN);
        let mut dir: Option<OwnedFd> = None;
        for (at, level) in self.levels.iter_mut().enumerate() {
            let above = dir.as_ref().map_or(self.parent, AsFd::as_fd);
            let next = enter(above, &level.name)?;
            if at >= first {
                let mut again = Dir::read_from(&next)?;
                again.seek(level.offset)?;
                level.dir = Some(again);
            }
            dir = Some(next);
        }
        Ok(())
    }

    #[allow(
        clippy::cast_sign_loss,
        clippy::useless_conversion,
        reason = "it differs between architectures"
    )]
    fn count(&mut self, stat: &rfs::Stat) {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if u64::from(stat.st_nlink) > 1 && !directory && self.linked.len() < MAX_LINKED {
            let file = (u64::from(stat.st_dev), u64::from(stat.st_ino));
            if !self.linked.insert(file) {
                return;
            }
        }
        // Blocks are of 512 bytes, whatever the file system's own are (stat(2)).
        let bytes = (stat.st_blocks as u64).saturating_mul(512);
        self.found.bytes = self.found.bytes.saturating_add(bytes);
        self.found.inodes += 1;
    }
}

fn enter(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::openat2(dir, name, flags, Mode::empty(), how)
}
