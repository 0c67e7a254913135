//! The mounts of a spec: prepared while the host's paths still mean something, attached when only the container's do.
//!
//! ```text
//! before pivot_root    bind sources become detached trees (host links resolve on the host), attributes are set
//! after it             file systems are made, and everything is attached to handles below the new root
//! ```
//!
//! Nothing is ever mounted by a path's name inside the image: move_mount(2) gets two fds.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind};
use oci_spec::runtime::Mount as SpecMount;
use rustix::fs::{CWD, FileType};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use sys::confined::Root;
use sys::mount::{Attributes, Propagation, set_attributes};

use super::cgroup::Cgroup;
use super::cgroup_mount::{self, CgroupTree};
use super::filesystem;
use super::mount_option::Options;
use super::target::{self, Wanted};

/// A mount whose source is at hand.
#[derive(Debug)]
pub struct Prepared {
    target: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// A bind mount, detached, with its attributes.
    Tree(OwnedFd, Wanted),
    /// A file system to be made.
    Filesystem { kind: String, source: Option<String>, options: Options },
    /// The container's own cgroups in the form that version 1 has.
    Cgroups(CgroupTree),
}

/// Files of procfs that a pod may cover (lxcfs does), and nothing else of it: what a runtime or a program believes
/// of `/proc/self` must be the kernel's word (CVE-2019-16884).
const MAY_COVER: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
];

impl Prepared {
    /// Opens the source of `mount` in this mount namespace. A bind mount whose spec does not say another one gets
    /// the propagation `inherited`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the mount: there is no such source, or an option cannot be met.
    pub fn new(
        mount: &SpecMount,
        inherited: Propagation,
        cgroup: &Cgroup,
    ) -> Result<Self, Failure> {
        let target = mount.destination().clone();
        let name = target.display().to_string();
        let options = Options::parse(mount.options().iter().flatten(), &name)?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        let has_maps = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
        if has_maps {
            return Err(super::namespace::unsupported("mount", name, "id mappings not supported"));
        }
        let source = if kind == "bind" || options.bind.is_some() {
            let path = mount.source().as_deref().unwrap_or(Path::new(""));
            bind(path, &options, inherited, &name)?
        } else if kind == "cgroup" && !cgroup.is_pure_unified() {
            Source::Cgroups(CgroupTree::open(cgroup, &options)?)
        } else {
            let kind = if kind == "cgroup" { "cgroup2" } else { kind };
            let source = mount.source().as_ref().map(|path| path.to_string_lossy().into_owned());
            Source::Filesystem { kind: kind.to_owned(), source, options }
        };
        Ok(Self { target, source })
    }

    /// Puts the mount in its place below `root`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the mount: its target leads out of the rootfs or is of the wrong kind.
    pub fn attach(self, root: &Root) -> Result<(), Failure> {
        let name = self.target.display().to_string();
        match self.source {
            Source::Tree(tree, wanted) => {
                let place = place(root, &self.target, wanted, Some(&tree))?;
                put(&tree, &place, &name)
            }
            Source::Filesystem { kind, source, options } => {
                let place = place(root, &self.target, Wanted::Dir, None)?;
                let made = filesystem::make(&kind, source.as_deref(), &options, &name)?;
                if let Some((propagation, recursive)) = options.propagation {
                    propagate(&made, propagation, recursive, &name)?;
                }
                put(&made, &place, &name)
            }
            Source::Cgroups(tree) => {
                let place = place(root, &self.target, Wanted::Dir, None)?;
                cgroup_mount::attach(tree, root, &self.target, &place)
            }
        }
    }
}

/// Attaches a detached mount to a handle.
///
/// # Errors
/// The kernel refuses.
pub fn put(mount: &OwnedFd, place: &OwnedFd, name: &str) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
        .map_err(|e| Failure::os_kind(FailureKind::InvalidArgument, "mount", name, e))
}

/// A detached copy of the mount at `source`.
///
/// # Errors
/// The kernel refuses.
pub fn copy_tree(source: &Path, recursive: bool) -> Result<OwnedFd, rustix::io::Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, source, flags)
}

fn bind(
    source: &Path,
    options: &Options,
    inherited: Propagation,
    name: &str,
) -> Result<Source, Failure> {
    let recursive = options.bind.unwrap_or(false);
    let invalid = |error: std::io::Error| {
        let object = format!("{name} from {}", source.display());
        Failure::os_kind(FailureKind::InvalidArgument, "mount", object, error)
    };
    let tree = copy_tree(source, recursive).map_err(|e| invalid(e.into()))?;
    if options.attributes != Attributes::default() {
        set_attributes(&tree, options.attributes, false).map_err(invalid)?;
    }
    if options.recursive != Attributes::default() {
        set_attributes(&tree, options.recursive, true).map_err(invalid)?;
    }
    let (propagation, deep) = options.propagation.unwrap_or((inherited, recursive));
    propagate(&tree, propagation, deep, name)?;
    let wanted = match target::file_type(&tree, source)? {
        FileType::Directory => Wanted::Dir,
        _ => Wanted::File,
    };
    Ok(Source::Tree(tree, wanted))
}

fn propagate(
    mount: impl AsFd,
    propagation: Propagation,
    recursive: bool,
    name: &str,
) -> Result<(), Failure> {
    let change = Attributes { propagation: propagation.flag(), ..Attributes::default() };
    set_attributes(mount, change, recursive)
        .map_err(|e| Failure::os("set propagation of mount", name, e))
}

fn place(
    root: &Root,
    path: &Path,
    wanted: Wanted,
    source: Option<&OwnedFd>,
) -> Result<OwnedFd, Failure> {
    let decides = [Path::new("/proc"), Path::new("/sys"), Path::new("/dev")].contains(&path);
    if !decides {
        let place = target::open_or_make(root, path, wanted)?;
        let may = !target::is_proc(&place) || MAY_COVER.iter().any(|file| Path::new(file) == path);
        return if may { Ok(place) } else { Err(covers_proc(path)) };
    }
    let foreign = path == Path::new("/proc") && source.is_some_and(|tree| !target::is_proc(tree));
    if foreign {
        return Err(covers_proc(path));
    }
    target::open_or_make_plain_dir(root, path)
}

fn covers_proc(path: &Path) -> Failure {
    let cause = "procfs may not be covered";
    Failure::new(FailureKind::InvalidArgument, "mount", path.display().to_string(), cause)
}
