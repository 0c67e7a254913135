//! Masked and read-only paths: what of the kernel's files a container does not get to see, or not to change.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::{Failure, FailureKind};
use rustix::fs::FileType;
use rustix::mount::{OpenTreeFlags, open_tree};
use sys::confined::Root;
use sys::mount::{Attributes, READ_ONLY, set_attributes};

use super::device;
use super::filesystem;
use super::mount::put;
use super::mount_option::Options;
use super::target;

/// Covers the `masked` paths (a file by the null device, a folder by an empty one) and makes the `read_only` ones so.
/// What is not there needs neither.
///
/// # Errors
/// `InvalidArgument` naming the path that cannot be covered.
pub fn apply(root: &Root, masked: &[String], read_only: &[String]) -> Result<(), Failure> {
    let mut cover = Cover { null: None, empty: None };
    for path in masked {
        if let Some(place) = target::open_existing(root, Path::new(path))? {
            cover.put(root, &place, path)?;
        }
    }
    for path in read_only {
        if let Some(place) = target::open_existing(root, Path::new(path))? {
            freeze(&place, path)?;
        }
    }
    Ok(())
}

/// What files and folders are covered with; made when first needed, and copied from then on.
struct Cover {
    null: Option<OwnedFd>,
    empty: Option<OwnedFd>,
}

impl Cover {
    fn put(&mut self, root: &Root, place: &OwnedFd, path: &str) -> Result<(), Failure> {
        if target::file_type(place, Path::new(path))? != FileType::Directory {
            let null = match self.null.take() {
                Some(null) => null,
                None => device::null(root)?,
            };
            let done = put(&copy(&null, false, path)?, place, path);
            self.null = Some(null);
            return done;
        }
        if let Some(empty) = &self.empty {
            return put(&copy(empty, false, path)?, place, path);
        }
        let options = Options::parse(&["ro".to_owned(), "nr_blocks=1".to_owned()], path)?;
        put(&filesystem::make("tmpfs", Some("tmpfs"), &options, path)?, place, path)?;
        self.empty = target::open_existing(root, Path::new(path))?;
        Ok(())
    }
}

fn freeze(place: &OwnedFd, path: &str) -> Result<(), Failure> {
    let tree = copy(place, true, path)?;
    let change = Attributes { set: READ_ONLY, ..Attributes::default() };
    set_attributes(&tree, change, true).map_err(|e| Failure::os("make read-only", path, e))?;
    put(&tree, place, path)
}

fn copy(source: &OwnedFd, recursive: bool, path: &str) -> Result<OwnedFd, Failure> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(source, c"", flags)
        .map_err(|e| Failure::os_kind(FailureKind::InvalidArgument, "cover", path, e))
}
