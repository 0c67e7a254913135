//! `/dev`: the device nodes and links that every container has, and those its spec adds.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, readlinkat, statat,
    symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use sys::confined::Root;

use super::mount::put;
use super::target::{self, Wanted};

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    path: PathBuf,
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    owner: (u32, u32),
}

/// The devices that a container gets unasked (OCI runtime-spec, config-linux.md, default devices).
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// And the links.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// All nodes of a container.
///
/// # Errors
/// A device of the spec that cannot be one.
pub fn nodes(spec: &Spec) -> Result<Vec<Node>, Failure> {
    let own = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let own = own.into_iter().flatten().map(Node::parse);
    let mut own: Vec<Node> = own.collect::<Result<_, _>>()?;
    // It is the link to the container's own instance, whatever the host has there.
    own.retain(|node| node.path != Path::new("/dev/ptmx"));
    let mut all: Vec<Node> = DEFAULT.iter().map(Node::standard).collect();
    all.retain(|node| own.iter().all(|other| other.path != node.path));
    all.extend(own);
    Ok(all)
}

/// The host's nodes of the same names, as detached mounts: what a user namespace gets, which can make none.
///
/// # Errors
/// `InvalidArgument`: the host has no such device there.
pub fn borrow(nodes: &[Node]) -> Result<Vec<Option<OwnedFd>>, Failure> {
    let borrow = |node: &Node| {
        // A FIFO can be made by anybody.
        if node.kind == FileType::Fifo {
            return Ok(None);
        }
        let invalid = |error: Errno| {
            let kind = FailureKind::InvalidArgument;
            Failure::os_kind(kind, "use device", node.path.display().to_string(), error)
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let tree = open_tree(CWD, &node.path, flags).map_err(invalid)?;
        let found = target::stat(&tree).map_err(invalid)?;
        let same = FileType::from_raw_mode(found.stx_mode.into()) == node.kind
            && (found.stx_rdev_major, found.stx_rdev_minor) == (node.major, node.minor);
        if same { Ok(Some(tree)) } else { Err(invalid(Errno::NODEV)) }
    };
    nodes.iter().map(borrow).collect()
}

/// Makes the nodes and links below `root`; in place of nodes, those that are `lent` are mounted.
///
/// # Errors
/// Something else is in a node's place.
pub fn make(root: &Root, nodes: &[Node], lent: Vec<Option<OwnedFd>>) -> Result<(), Failure> {
    let dev = target::open_or_make_plain_dir(root, Path::new("/dev"))?;
    let mut lent = lent.into_iter();
    for node in nodes {
        if let Some(tree) = lent.next().flatten() {
            let place = target::open_or_make(root, &node.path, Wanted::File)?;
            put(&tree, &place, &node.path.display().to_string())?;
            continue;
        }
        let name =
            node.path.strip_prefix("/dev").ok().filter(|name| name.components().count() == 1);
        match name {
            Some(name) => node.make(&dev, name)?,
            None => {
                let place = root
                    .make_parent(&node.path, 0o755)
                    .map_err(|e| target::invalid(&node.path, e))?;
                node.make(&place.dir, Path::new(&place.name))?;
            }
        }
    }
    LINKS.iter().try_for_each(|(name, to)| link(&dev, name, to))
}

/// The container's own `/dev/null`, known to be the real one: a handle.
///
/// # Errors
/// `InvalidArgument`: it is something else (CVE-2025-31133).
pub fn null(root: &Root) -> Result<OwnedFd, Failure> {
    let path = Path::new("/dev/null");
    let fail = |cause| Failure::new(FailureKind::InvalidArgument, "use", "/dev/null", cause);
    let handle = root.handle_of_link(path).map_err(|e| target::invalid(path, e))?;
    let found = target::stat(&handle).map_err(|e| Failure::os("look at", "/dev/null", e))?;
    let is_device = FileType::from_raw_mode(found.stx_mode.into()) == FileType::CharacterDevice;
    if is_device && (found.stx_rdev_major, found.stx_rdev_minor) == (1, 3) {
        return Ok(handle);
    }
    Err(fail("is not the null device"))
}

impl Node {
    fn standard((name, major, minor): &(&str, u32, u32)) -> Self {
        Self {
            path: Path::new("/dev").join(name),
            kind: FileType::CharacterDevice,
            major: *major,
            minor: *minor,
            mode: 0o666,
            owner: (0, 0),
        }
    }

    fn parse(device: &LinuxDevice) -> Result<Self, Failure> {
        let path = device.path().clone();
        let name = path.display().to_string();
        let invalid =
            |cause| Failure::new(FailureKind::InvalidArgument, "make device", name, cause);
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => return Err(invalid("type a is none of a device")),
        };
        let number = |number: i64| match kind {
            FileType::Fifo => Some(0),
            _ => u32::try_from(number).ok(),
        };
        let (Some(major), Some(minor)) = (number(device.major()), number(device.minor())) else {
            return Err(invalid("its number is out of range"));
        };
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        // The other bits mean nothing on a device, and to set them after the owner takes a name that may lead elsewhere.
        let mode = device.file_mode().unwrap_or(0o666) & 0o777;
        Ok(Self { path, kind, major, minor, mode, owner })
    }

    fn make(&self, dir: impl AsFd, name: &Path) -> Result<(), Failure> {
        let object = || self.path.display().to_string();
        let fail = |error: Errno| Failure::os("make device", object(), error);
        let mode = Mode::from_raw_mode(self.mode);
        let number = makedev(self.major, self.minor);
        match mknodat(&dir, name, self.kind, mode, number) {
            Err(Errno::EXIST) => {
                let found = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
                let same = FileType::from_raw_mode(found.st_mode) == self.kind
                    && (self.kind == FileType::Fifo || found.st_rdev == number);
                if same {
                    return Ok(());
                }
                let cause = "something else is in its place";
                Err(Failure::new(FailureKind::InvalidArgument, "make device", object(), cause))
            }
            other => {
                other.map_err(fail)?;
                if self.owner != (0, 0) {
                    let owner = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
                    let (uid, gid) = (Some(owner.0), Some(owner.1));
                    chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
                }
                Ok(())
            }
        }
    }
}

fn link(dev: &OwnedFd, name: &str, to: &str) -> Result<(), Failure> {
    match symlinkat(to, dev, name) {
        // An image's own link or file is left alone unless it is ptmx of another instance.
        Err(Errno::EXIST) if name != "ptmx" || readlinkat(dev, name, Vec::new()).is_ok() => Ok(()),
        other => other.map_err(|error| {
            let kind = match error {
                Errno::EXIST => FailureKind::InvalidArgument,
                _ => FailureKind::Internal,
            };
            Failure::os_kind(kind, "make link", format!("/dev/{name}"), error)
        }),
    }
}
