//! Looking a path up in a stack of layers as overlayfs would, without mounting it.
//!
//! A layer unpacked by itself sometimes needs what is below it: the attributes of a directory that it only implies,
//! or the file that a hard link names. The rules are overlayfs's own (kernel, filesystems/overlayfs.rst): the
//! topmost entry counts, a 0:0 character device hides what is below, directories merge until one is opaque.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::SnapshotError;

const OPAQUE: &str = "trusted.overlay.opaque";

/// A stack of layer directories, top first.
#[derive(Debug)]
pub struct Lower {
    layers: Vec<OwnedFd>,
}

/// Where the merged view has an entry.
#[derive(Debug)]
pub struct Found {
    /// The directory that holds it, in the layer whose entry counts.
    pub dir: OwnedFd,
    /// Its name there; it is not a whiteout.
    pub name: OsString,
    /// The entry itself, a link not followed.
    pub stat: Stat,
}

impl Lower {
    /// Opens the layers' directories (see [`Snapshotter::layer_dirs`](crate::Snapshotter::layer_dirs)).
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub fn open(dirs: &[PathBuf]) -> Result<Self, SnapshotError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dir: &PathBuf| {
            rfs::open(dir, flags, Mode::empty())
                .map_err(|e| SnapshotError::io("open layer", dir, e))
        };
        Ok(Self { layers: dirs.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// Finds `path` in the merged view; links on the way are not followed, and a path through one finds nothing.
    ///
    /// # Errors
    /// The kernel refuses for another reason than the path not being there.
    pub fn find(&self, path: &Path) -> Result<Option<Found>, SnapshotError> {
        self.lookup(path).map_err(|e| SnapshotError::io("look up in the lower layers", path, e))
    }

    fn lookup(&self, path: &Path) -> Result<Option<Found>, Errno> {
        let names: Vec<&OsStr> = path
            .components()
            .filter_map(|c| if let Component::Normal(name) = c { Some(name) } else { None })
            .collect();
        let Some((last, parents)) = names.split_last() else { return Ok(None) };
        let mut merged: Vec<OwnedFd> = Vec::new();
        for layer in &self.layers {
            merged.push(layer.try_clone().map_err(|_| Errno::MFILE)?);
        }
        for name in parents {
            merged = descend(&merged, name)?;
        }
        for dir in merged {
            match rfs::statat(&dir, *last, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) => return Ok(None),
                Ok(stat) => return Ok(Some(Found { dir, name: (*last).to_owned(), stat })),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}

/// The directories called `name` that merge in the next step.
fn descend(merged: &[OwnedFd], name: &OsStr) -> Result<Vec<OwnedFd>, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut next = Vec::new();
    for dir in merged {
        match rfs::openat2(dir, name, flags, Mode::empty(), how) {
            Ok(fd) => {
                let opaque = is_opaque(&fd);
                next.push(fd);
                if opaque {
                    break;
                }
            }
            Err(Errno::NOENT) => {}
            // A file, a link or a whiteout: it hides the directories below.
            Err(Errno::NOTDIR | Errno::LOOP) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(next)
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(rfs::fgetxattr(dir.as_fd(), OPAQUE, &mut value[..]), Ok(1)) && value == *b"y"
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
