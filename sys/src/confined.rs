//! Paths below a root that a tenant controls, resolved by the kernel and unable to leave that root.
//!
//! An image, a volume or a running container decides what the names below its root mean: a directory may be a
//! symbolic link, and it may become one between two calls. So a name is never joined to a host path and opened;
//! it is handed to openat2(2) with `RESOLVE_IN_ROOT`, which treats the root's fd as `/` for absolute links and
//! for `..`, and with `RESOLVE_NO_MAGICLINKS`, which refuses the jumping links of procfs. What comes back is an
//! fd, and the work is done on that fd.
//!
//! [`remove_tree`] is stricter still (`RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`): it neither follows a link nor
//! enters a mount, and its memory does not grow with the depth of the tree.

mod measure;
mod remove;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self as rfs, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub use measure::{Measure, measure_tree};
pub use remove::remove_tree;

/// Symbolic links expanded for one path before it is taken for a loop (path_resolution(7) uses the same number).
const MAX_LINKS: usize = 40;

/// The magic numbers of procfs and sysfs (statfs(2)).
const KERNELS_OWN: [i64; 2] = [0x9fa0, 0x6265_6572];

/// What was attempted below a root, on which path, and why it was refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path:?} below its root: {source}")]
pub struct PathError {
    /// The attempted operation, as a verb.
    pub operation: &'static str,
    /// The path below the root.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

impl PathError {
    fn new(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.to_owned(), source: source.into() }
    }

    /// The errno of the refusal, if the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// A directory that stands for `/` in everything done through it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// A directory reached by [`Root::make_dirs`].
#[derive(Debug)]
pub struct MadeDirs {
    /// `O_PATH` handle of the last directory.
    pub fd: OwnedFd,
    /// What had to be made, outermost first, relative to the root.
    pub made: Vec<PathBuf>,
}

/// A name in a directory: where something can be made without another resolution.
#[derive(Debug)]
pub struct Place {
    /// `O_PATH` handle of the directory.
    pub dir: OwnedFd,
    /// The last component.
    pub name: OsString,
    /// Directories that had to be made on the way, outermost first, relative to the root.
    pub made: Vec<PathBuf>,
}

impl Root {
    /// Opens `path` as a root; the path itself is the caller's and trusted, but its last component may not be a link.
    ///
    /// # Errors
    /// The path is missing, not a directory, or a symbolic link.
    pub fn open(path: &Path) -> Result<Self, PathError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rfs::open(path, flags, Mode::empty())
            .map(Self::from_fd)
            .map_err(|e| PathError::new("open root", path, e))
    }

    /// Takes a directory's fd (`O_PATH` is enough) as a root.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The root itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens `path` below the root with the given flags; links, also the last one, are followed inside the root.
    ///
    /// `O_CLOEXEC` is always set. With `O_CREAT` new files get `mode`.
    ///
    /// # Errors
    /// Whatever openat2(2) refuses.
    pub fn open_with(&self, path: &Path, flags: OFlags, mode: u32) -> Result<OwnedFd, PathError> {
        resolve(self.fd(), path, flags, mode).map_err(|e| PathError::new("open", path, e))
    }

    /// An `O_PATH` handle of whatever `path` leads to inside the root.
    ///
    /// # Errors
    /// As [`Root::open_with`].
    pub fn handle(&self, path: &Path) -> Result<OwnedFd, PathError> {
        self.open_with(path, OFlags::PATH, 0)
    }

    /// An `O_PATH` handle of `path` itself, also when it is a symbolic link.
    ///
    /// # Errors
    /// As [`Root::open_with`].
    pub fn handle_of_link(&self, path: &Path) -> Result<OwnedFd, PathError> {
        self.open_with(path, OFlags::PATH | OFlags::NOFOLLOW, 0)
    }

    /// A readable handle of the directory `path`.
    ///
    /// # Errors
    /// As [`Root::open_with`].
    pub fn open_dir(&self, path: &Path) -> Result<OwnedFd, PathError> {
        self.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
    }

    /// Makes the directories of `path` that are missing, with `mode` whatever the umask says.
    ///
    /// A dangling link on the way is followed inside the root and its target is made.
    ///
    /// # Errors
    /// Something on the way is not a directory, links form a loop, or the kernel refuses.
    pub fn make_dirs(&self, path: &Path, mode: u32) -> Result<MadeDirs, PathError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match resolve(self.fd(), path, flags, 0) {
            Ok(fd) => Ok(MadeDirs { fd, made: Vec::new() }),
            Err(Errno::NOENT) => Walk::new(self, path)
                .make_all(mode)
                .map_err(|e| PathError::new("make directory", path, e)),
            Err(e) => Err(PathError::new("make directory", path, e)),
        }
    }

    /// Makes the missing directories above the last component of `path`, and names the place of that component.
    ///
    /// The last component itself is neither looked at nor followed.
    ///
    /// # Errors
    /// The path has no last component (empty, `/`, ends in `..`), or as [`Root::make_dirs`].
    pub fn make_parent(&self, path: &Path, mode: u32) -> Result<Place, PathError> {
        let Some(name) = path.file_name() else {
            return Err(PathError::new("make parent of", path, Errno::INVAL));
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let MadeDirs { fd: dir, made } = self.make_dirs(parent, mode)?;
        Ok(Place { dir, name: name.to_owned(), made })
    }

    /// An `O_PATH` handle of the file `path`, made empty with `mode` (and its directories with 0755) if it is missing.
    ///
    /// A dangling link as last component is followed inside the root. What is there already is left as it is,
    /// of whatever type: the caller looks at the handle.
    ///
    /// # Errors
    /// As [`Root::make_dirs`]; `ELOOP` if a running tenant keeps swapping the name.
    pub fn make_file(&self, path: &Path, mode: u32) -> Result<OwnedFd, PathError> {
        let fail = |e: Errno| PathError::new("make file", path, e);
        let mut wanted = path.to_owned();
        for _ in 0..MAX_LINKS {
            match resolve(self.fd(), &wanted, OFlags::PATH, 0) {
                Ok(fd) => return Ok(fd),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(fail(e)),
            }
            let place = self.make_parent(&wanted, 0o755)?;
            if let Ok(target) = link_target(place.dir.as_fd(), &place.name) {
                wanted = wanted.parent().unwrap_or(Path::new("")).join(target);
                continue;
            }
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rfs::openat(&place.dir, &place.name, flags, Mode::from_raw_mode(mode)) {
                Ok(fd) => {
                    rfs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(fail)?;
                    return resolve_one(place.dir.as_fd(), &place.name, OFlags::PATH).map_err(fail);
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Err(fail(Errno::LOOP))
    }

    /// Reads the regular file `path`, at most `cap` bytes.
    ///
    /// A FIFO or a device in the file's place is refused without waiting for it (`O_NONBLOCK`, then fstat(2)), and so is
    /// a file of procfs or sysfs: they are regular, but to read `/proc/kmsg` takes its lines away from the host.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a regular file that somebody wrote, `FileTooLarge` if it is longer than `cap`, or the kernel's refusal.
    pub fn read_file(&self, path: &Path, cap: usize) -> Result<Vec<u8>, PathError> {
        let fail = |e: io::Error| PathError::new("read", path, e);
        let fd = self.open_with(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0)?;
        let stat = rfs::fstat(&fd).map_err(|e| fail(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let file_system = rfs::fstatfs(&fd).map_err(|e| fail(e.into()))?.f_type;
        if KERNELS_OWN.contains(&file_system) {
            return Err(fail(io::Error::new(
                io::ErrorKind::InvalidInput,
                "is a file of the kernel's",
            )));
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
        File::from(fd).take(limit).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() > cap {
            let why = format!("longer than {cap} bytes");
            return Err(fail(io::Error::new(io::ErrorKind::FileTooLarge, why)));
        }
        Ok(bytes)
    }
}

/// openat2(2) with the root as `/`; an empty path and `/` are the root.
fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mode = Mode::from_raw_mode(mode);
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        // EAGAIN: a rename or mount elsewhere raced with `..`, and the kernel asks for another try (openat2(2)).
        match rfs::openat2(root, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens one name of a directory without following it.
fn resolve_one(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rfs::openat2(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), how)
}

fn link_target(dir: BorrowedFd<'_>, name: &OsStr) -> Result<PathBuf, Errno> {
    let target = rfs::readlinkat(dir, name, Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

/// The way to a directory of which a part is missing: `done` exists, `ahead` is still to go.
struct Walk<'a> {
    root: &'a Root,
    done: PathBuf,
    ahead: VecDeque<OsString>,
    made: Vec<PathBuf>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Root, path: &Path) -> Self {
        let ahead = steps(path).collect();
        Self { root, done: PathBuf::new(), ahead, made: Vec::new(), links: 0 }
    }

    fn make_all(mut self, mode: u32) -> Result<MadeDirs, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut dir = resolve(self.root.fd(), Path::new("."), flags, 0)?;
        while let Some(step) = self.ahead.pop_front() {
            let next = self.done.join(&step);
            match resolve(self.root.fd(), &next, flags, 0) {
                Ok(fd) => {
                    dir = fd;
                    self.done = next;
                }
                Err(Errno::NOENT) => match link_target(dir.as_fd(), &step) {
                    Ok(target) => dir = self.turn(&target)?,
                    Err(_) => {
                        if self.make(dir.as_fd(), &step, mode)? {
                            self.made.push(next);
                        }
                        self.ahead.push_front(step);
                    }
                },
                Err(e) => return Err(e),
            }
        }
        Ok(MadeDirs { fd: dir, made: self.made })
    }

    /// Puts a dangling link's target in front of what is still to go.
    fn turn(&mut self, target: &Path) -> Result<OwnedFd, Errno> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        if target.is_absolute() {
            self.done = PathBuf::new();
        }
        for step in steps(target).collect::<Vec<_>>().into_iter().rev() {
            self.ahead.push_front(step);
        }
        resolve(self.root.fd(), &self.done, OFlags::PATH | OFlags::DIRECTORY, 0)
    }

    /// Makes one directory; false if another one was faster, so that the next look at the name decides.
    fn make(&mut self, dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<bool, Errno> {
        match rfs::mkdirat(dir, name, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) => {
                // A tenant who keeps swapping the name gets no more turns than one who chains links.
                self.links += 1;
                return if self.links > MAX_LINKS { Err(Errno::LOOP) } else { Ok(false) };
            }
            other => other?,
        }
        // The umask is the process's; the mode is set on the fd, because the name may be somebody else's by now.
        let made = resolve_one(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rfs::fchmod(made, Mode::from_raw_mode(mode))?;
        Ok(true)
    }
}

fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests;
