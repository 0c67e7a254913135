//! Where in the root file system something goes: resolved by fd, confined, and never above the root.
//!
//! The kernel confines a path by treating the root as `/`. That makes `/a -> ../../etc` harmless, but whoever wrote
//! such a target meant another place than they get, so a path that climbs above the root is an error
//! rather than silently another one. Absolute links are resolved inside the root: images have many (`/var/run`).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use crate::{Failure, FailureKind};
use rustix::fs::{AtFlags, FileType, OFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use sys::confined::{PathError, Root};

const MAX_LINKS: usize = 40;

/// The magic number of procfs (statfs(2)).
const PROC_MAGIC: i64 = 0x9fa0;

/// What has to be at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A folder, made with its parents when missing.
    Dir,
    /// Anything that is no folder, made as an empty file when missing.
    File,
}

impl Wanted {
    /// What has to be where `tree` is to be mounted.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of(tree: &OwnedFd, path: &Path) -> Result<Self, Failure> {
        Ok(match file_type(tree, path)? {
            FileType::Directory => Self::Dir,
            _ => Self::File,
        })
    }
}

/// The object at a target, as an `O_PATH` handle.
///
/// # Errors
/// `InvalidArgument` naming `path`: it leads out of the rootfs or is of the wrong type.
pub fn open_or_make(root: &Root, path: &Path, wanted: Wanted) -> Result<OwnedFd, Failure> {
    refuse_climbing(root, path)?;
    let opened = match wanted {
        Wanted::Dir => root.make_dirs(path, 0o755).map(|made| made.fd),
        Wanted::File => root.make_file(path, 0o644),
    };
    let handle = opened.map_err(|error| invalid(path, error))?;
    let is_dir = file_type(&handle, path)? == FileType::Directory;
    if is_dir == (wanted == Wanted::Dir) {
        return Ok(handle);
    }
    let cause = if is_dir { "is a directory" } else { "not a directory" };
    Err(Failure::new(FailureKind::InvalidArgument, "resolve", path.display().to_string(), cause))
}

/// The object at `path`, or `None` when nothing is there.
///
/// # Errors
/// `InvalidArgument`: the path leads out of the rootfs, or cannot be walked.
pub fn open_existing(root: &Root, path: &Path) -> Result<Option<OwnedFd>, Failure> {
    match root.handle(path) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(invalid(path, error)),
    }
}

/// A folder that must not be reached through a link: `/proc`, `/sys` and `/dev` of an image, which decide what
/// everything below them is (CVE-2019-19921, CVE-2023-27561 and their kin).
///
/// # Errors
/// `InvalidArgument`: a link, or not a folder.
pub fn open_or_make_plain_dir(root: &Root, path: &Path) -> Result<OwnedFd, Failure> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match root.open_with(relative, flags, 0) {
        Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => {
            root.make_dirs(relative, 0o755).map(|made| made.fd)
        }
        other => other,
    }
    .map_err(|_| {
        let path = path.display().to_string();
        Failure::new(FailureKind::InvalidArgument, "resolve", path, "must be a real directory")
    })
}

/// Whether the object is part of a procfs.
pub fn is_proc(handle: &OwnedFd) -> bool {
    rustix::fs::fstatfs(handle).is_ok_and(|found| found.f_type == PROC_MAGIC)
}

/// What kind of file a handle is.
///
/// # Errors
/// The kernel refuses.
pub fn file_type(handle: &OwnedFd, path: &Path) -> Result<FileType, Failure> {
    let found = stat(handle).map_err(|e| Failure::os("look at", path.display().to_string(), e))?;
    Ok(FileType::from_raw_mode(found.stx_mode.into()))
}

/// Everything about the object behind a handle.
///
/// # Errors
/// The kernel refuses.
pub fn stat(handle: &OwnedFd) -> Result<Statx, Errno> {
    statx(handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// A path in an image that cannot be used, as an error that names it.
pub fn invalid(path: &Path, error: PathError) -> Failure {
    let kind = FailureKind::InvalidArgument;
    Failure::os_kind(kind, "resolve", path.display().to_string(), error.source)
}

fn is_absent(error: &PathError) -> bool {
    let errno = error.errno().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR))
}

/// Walks `path` as the kernel would, and fails where a `..` stands at the root.
fn refuse_climbing(root: &Root, path: &Path) -> Result<(), Failure> {
    let mut done = PathBuf::new();
    let mut ahead: VecDeque<OsString> = steps(path);
    let mut links = 0;
    while let Some(step) = ahead.pop_front() {
        if step == ".." {
            if !done.pop() {
                let path = path.display().to_string();
                let cause = "leads out of the root file system";
                return Err(Failure::new(FailureKind::InvalidArgument, "resolve", path, cause));
            }
            continue;
        }
        done.push(&step);
        let Some(target) = link_target(root, &done) else { continue };
        links += 1;
        if links > MAX_LINKS {
            let path = path.display().to_string();
            let kind = FailureKind::InvalidArgument;
            return Err(Failure::os_kind(kind, "resolve", path, Errno::LOOP));
        }
        if target.is_absolute() {
            done = PathBuf::new();
        } else {
            let _popped = done.pop();
        }
        for step in steps(&target).into_iter().rev() {
            ahead.push_front(step);
        }
    }
    Ok(())
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let step = |component| match component {
        Component::Normal(name) => Some(OsStr::to_owned(name)),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(step).collect()
}

fn link_target(root: &Root, path: &Path) -> Option<PathBuf> {
    let handle = root.handle_of_link(path).ok()?;
    let target = rustix::fs::readlinkat(&handle, c"", Vec::new()).ok()?;
    Some(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> (PathBuf, Root) {
        let dir = std::env::temp_dir().join(format!("target-{}-{}", std::process::id(), line!()));
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir_all(dir.join("var")).unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
        };
        link("/run", "var/run");
        link("../../outside", "relative");
        link("var/../../outside", "behind");
        link("loop", "loop");
        let root = Root::open(&dir).unwrap();
        (dir, root)
    }

    #[test]
    fn links_of_an_image_are_followed_inside_it_and_never_above_it() {
        let (dir, root) = image();
        let made = open_or_make(&root, Path::new("/var/run/secrets/x"), Wanted::Dir);
        made.unwrap();
        assert!(dir.join("run/secrets/x").is_dir());
        for out in ["/relative/x", "/behind", "/../etc", "/var/../../etc", "/loop/x"] {
            let refused = open_or_make(&root, Path::new(out), Wanted::File).unwrap_err();
            assert_eq!(refused.kind, FailureKind::InvalidArgument, "{out}");
            assert!(refused.object == out, "{refused}");
        }
        let refused = open_or_make(&root, Path::new("/var"), Wanted::File).unwrap_err();
        assert_eq!(refused.to_string(), "resolve /var: is a directory");
        let linked = open_or_make_plain_dir(&root, Path::new("/relative"));
        assert_eq!(linked.unwrap_err().kind, FailureKind::InvalidArgument);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
