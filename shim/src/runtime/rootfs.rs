//! The root file system: made from the mounts that the caller names, and then the only one there is.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::{Failure, FailureKind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};
use sys::confined::Root;
use sys::mount::{Attributes, Propagation, READ_ONLY, map_ids, set_attributes};

use super::filesystem;
use super::idmap::Users;
use super::mount::{copy_tree, put};
use super::mount_option::Options;
use super::namespace::unsupported;
use super::{overlay, target};

/// One mount of the root file system.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `overlay`, `bind`, or any other file system.
    pub kind: String,
    /// What is mounted; for overlay only a name.
    pub source: String,
    /// In containerd's form.
    pub options: Vec<String>,
}

/// Mounts the root file system on `place` (in this process's own mount namespace): what is mounted there is what is
/// returned. `place` is a path of ours; without layers the folder `root_path` takes its place.
///
/// # Errors
/// `InvalidArgument` when a layer cannot be mounted.
pub fn mount(layers: &[Layer], root_path: &Path, place: &Path) -> Result<Root, Failure> {
    // Nothing that is mounted or unmounted from here on may travel to the host; what was opened before still can.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Failure::os("make mounts private", "", e))?;
    if layers.is_empty() {
        return Ok(Root::from_fd(mount_folder(root_path)?));
    }
    stack(layers, place)
}

/// Mounts the layers on `place`, a path of ours, one over the other.
///
/// # Errors
/// `InvalidArgument` when a layer cannot be mounted, or there is none.
pub fn stack(layers: &[Layer], place: &Path) -> Result<Root, Failure> {
    let mut root = None;
    for layer in layers {
        let made = match layer.kind.as_str() {
            "overlay" => overlay::mount(layer, place)?,
            "bind" => attach(mount_bind(&layer.source, &layer.options)?, place)?,
            kind => {
                let name = place.display().to_string();
                let options = Options::parse(&layer.options, &name)?;
                attach(filesystem::make(kind, Some(&layer.source), &options, &name)?, place)?
            }
        };
        root = Some(made);
    }
    root.map(Root::from_fd).ok_or_else(|| {
        let kind = FailureKind::InvalidArgument;
        Failure::new(kind, "mount", "the root file system", "there is none")
    })
}

/// The root file system as [`mount`] would mount it, but attached nowhere; with the ids of `users`, if a layer does not
/// have them already. Takes a mount namespace that ends with this process.
///
/// # Errors
/// `InvalidArgument` when a layer cannot be mounted.
pub fn make(
    layers: &[Layer],
    root_path: &Path,
    place: &Path,
    users: Option<&Users>,
) -> Result<OwnedFd, Failure> {
    let tree = match layers {
        [] => return map_tree(copy_folder(root_path)?.1, users, &root_path.display().to_string()),
        [layer] if layer.kind == "overlay" => return overlay::make(layer, place, users),
        [layer] if layer.kind == "bind" => mount_bind(&layer.source, &layer.options)?,
        _ => {
            let cause = "only one overlay or bind mount can be mapped";
            return Err(unsupported("use", "the root file system's mounts", cause));
        }
    };
    map_tree(tree, users, &layers[0].source)
}

/// Attaches a root file system that [`make`] has made, in this process's own mount namespace.
///
/// # Errors
/// The kernel refuses.
pub fn put_in_place(tree: OwnedFd, place: &Path) -> Result<Root, Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Failure::os("make mounts private", "", e))?;
    attach(tree, place).map(Root::from_fd)
}

/// Makes what is mounted at `root` this process's root. Nothing of the host is left below it.
///
/// # Errors
/// The kernel refuses.
pub fn change(root: &Root, no_pivot: bool) -> Result<(), Failure> {
    let fail = |error: Errno| Failure::os("change root to", "the container's", error);
    rustix::process::fchdir(root.fd()).map_err(fail)?;
    if no_pivot {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        let top = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        move_mount(root.fd(), c"", top.map_err(fail)?, c"", flags).map_err(fail)?;
        rustix::process::chroot(".").map_err(fail)?;
    } else {
        // The old root ends up on top of the new one, at the same place (pivot_root(2), NOTES), and is taken off.
        rustix::process::pivot_root(".", ".").map_err(fail)?;
        unmount(".", UnmountFlags::DETACH).map_err(fail)?;
    }
    rustix::process::chdir("/").map_err(fail)
}

/// Whether writes through the root are possible, and what travels through it, once everything is in place.
///
/// # Errors
/// The kernel refuses.
pub fn finish(root: &Root, read_only: bool, propagation: Propagation) -> Result<(), Failure> {
    let change = Attributes {
        set: if read_only { READ_ONLY } else { 0 },
        propagation: if propagation == Propagation::Private { 0 } else { propagation.flag() },
        clear: 0,
    };
    if change == Attributes::default() {
        return Ok(());
    }
    set_attributes(root.fd(), change, false).map_err(|e| Failure::os("finish root of", "/", e))
}

/// Attaches a detached mount to a path of ours.
///
/// # Errors
/// The kernel refuses.
pub fn attach(mount: OwnedFd, place: &Path) -> Result<OwnedFd, Failure> {
    let name = place.display().to_string();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(place, flags, Mode::empty())
        .map_err(|e| Failure::os("open", name.as_str(), e))?;
    put(&mount, &handle, &name)?;
    Ok(mount)
}

/// A folder as it is, mounted on itself: only a mount can become the root.
fn mount_folder(path: &Path) -> Result<OwnedFd, Failure> {
    let (folder, tree) = copy_folder(path)?;
    put(&tree, &folder, &path.display().to_string())?;
    Ok(tree)
}

/// A folder and a detached copy of what is mounted there.
fn copy_folder(path: &Path) -> Result<(OwnedFd, OwnedFd), Failure> {
    let name = path.display().to_string();
    let kind = FailureKind::InvalidArgument;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => {
            Failure::new(kind, "use rootfs", name.as_str(), "must be a real directory")
        }
        error => Failure::os_kind(kind, "use rootfs", name.as_str(), error),
    })?;
    let invalid = |error: std::io::Error| Failure::os_kind(kind, "mount rootfs from", &name, error);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&folder, c"", flags).map_err(|e| invalid(e.into()))?;
    let change = Attributes { propagation: Propagation::Private.flag(), ..Attributes::default() };
    set_attributes(&tree, change, false).map_err(invalid)?;
    Ok((folder, tree))
}

/// Maps the ids of a detached mount unless its files are the container's already: an engine may have given them to it.
///
/// # Errors
/// `InvalidArgument`: its file system cannot be mapped.
pub fn map_tree(tree: OwnedFd, users: Option<&Users>, name: &str) -> Result<OwnedFd, Failure> {
    let Some(users) = users else { return Ok(tree) };
    let found = target::stat(&tree).map_err(|e| Failure::os("look at", name, e))?;
    if !users.maps().has_user(found.stx_uid) {
        map_ids(&tree, users.file(), false).map_err(|error| {
            Failure::os_kind(FailureKind::InvalidArgument, "map ids of", name, error)
        })?;
    }
    Ok(tree)
}

fn mount_bind(source: &str, options: &[String]) -> Result<OwnedFd, Failure> {
    let options = Options::parse(options, "rootfs")?;
    let invalid = |error: std::io::Error| {
        Failure::os_kind(FailureKind::InvalidArgument, "mount rootfs from", source, error)
    };
    let recursive = options.bind.unwrap_or(false);
    let tree = copy_tree(Path::new(source), recursive).map_err(|e| invalid(e.into()))?;
    let change = Attributes { propagation: Propagation::Private.flag(), ..options.attributes };
    set_attributes(&tree, change, false).map_err(invalid)?;
    Ok(tree)
}
