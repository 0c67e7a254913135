//! The mounts of a spec: prepared while the host's paths still mean something, attached when only the container's do.
//!
//! ```text
//! before pivot_root    bind sources become detached trees (host links resolve on the host), attributes are set;
//!                      overlays are combined from the host's folders once the mounts are private
//! after it             file systems are made, and everything is attached to handles below the new root
//! ```
//!
//! Nothing is ever mounted by a path's name inside the image: move_mount(2) gets two fds.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind};
use oci_spec::runtime::Mount as SpecMount;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use sys::confined::Root;
use sys::mount::{Attributes, Propagation, map_ids, set_attributes};
use sys::process::SingleThreaded;

use super::cgroup::Cgroup;
use super::cgroup_mount::{self, CgroupTree};
use super::copy_up;
use super::filesystem;
use super::idmap::{Maps, Users};
use super::mount_option::Options;
use super::overlay;
use super::procfs::Procfs;
use super::rootfs::{Layer, attach};
use super::target::{self, Wanted};

/// A mount whose source is at hand.
#[derive(Debug)]
pub struct Prepared {
    target: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// A bind mount, detached, with its attributes, and whether it begins with what it covers.
    Tree(OwnedFd, Wanted, bool),
    /// An overlay of the host's folders, and what of it is meant.
    Overlay(Layer, Option<PathBuf>),
    /// A file system to be made.
    Filesystem { kind: String, source: Option<String>, options: Options },
    /// Another look of what is mounted there already.
    Change(Options),
    /// The container's own cgroups in the form that version 1 has.
    Cgroups(CgroupTree),
}

/// Names the file or folder in an overlay that is meant, as mount(8) has it.
const PART: &str = "X-mount.subdir=";

/// File systems whose files have labels of their own.
const UNLABELLED: [&str; 5] = ["proc", "sysfs", "mqueue", "cgroup", "cgroup2"];

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
        mapper: &mut Mapper<'_>,
    ) -> Result<Self, Failure> {
        let target = mount.destination().clone();
        let name = target.display().to_string();
        let mut options = Options::parse(mount.options().iter().flatten(), &name)?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        let source = if options.remount {
            Source::Change(options)
        } else if kind == "bind" || options.bind.is_some() {
            let path = mount.source().as_deref().unwrap_or(Path::new(""));
            let tree = copy_tree(path, options.bind.unwrap_or(false)).map_err(|error| {
                let object = format!("{name} from {}", path.display());
                Failure::os_kind(FailureKind::InvalidArgument, "mount", object, error)
            })?;
            mapper.map(&tree, mount, &options)?;
            bind(tree, path, &options, inherited, &name)?
        } else if is_mapped(mount) || options.mapped.is_some() {
            let cause = "only bind mounts can have id mappings";
            return Err(Failure::new(FailureKind::InvalidArgument, "mount", name, cause));
        } else if kind == "overlay" {
            let mut words = mount.options().clone().unwrap_or_default();
            let part = words.iter().find_map(|word| word.strip_prefix(PART)).map(PathBuf::from);
            words.retain(|word| !word.starts_with(PART));
            let source = "overlay".to_owned();
            Source::Overlay(Layer { kind: source.clone(), source, options: words }, part)
        } else if kind == "cgroup" && !cgroup.is_pure_unified() {
            Source::Cgroups(CgroupTree::open(cgroup, &options)?)
        } else {
            let kind = if kind == "cgroup" { "cgroup2" } else { kind };
            let source = mount.source().as_ref().map(|path| path.to_string_lossy().into_owned());
            if let (Some(label), false) = (mapper.label, UNLABELLED.contains(&kind)) {
                options.data.push(("context".to_owned(), Some(label.to_owned())));
            }
            Source::Filesystem { kind: kind.to_owned(), source, options }
        };
        Ok(Self { target, source })
    }

    /// Combines an overlay's folders, with the container's ids where it has its own. Whatever is mounted for it at
    /// `place`, a path of ours, is in this process's mount namespace only: its mounts have to be private.
    ///
    /// # Errors
    /// `InvalidArgument` naming the mount: the kernel refuses, or there is no such part.
    pub fn assemble(mut self, place: &Path, users: Option<&Users>) -> Result<Self, Failure> {
        let Source::Overlay(layer, part) = &self.source else { return Ok(self) };
        let mut tree = overlay::make(layer, place, users)?;
        if let Some(part) = part {
            let name = format!("{} from {}", self.target.display(), part.display());
            tree = part_of(tree, part, place).map_err(|error| {
                Failure::os_kind(FailureKind::InvalidArgument, "mount", name, error)
            })?;
        }
        let wanted = Wanted::of(&tree, &self.target)?;
        self.source = Source::Tree(tree, wanted, false);
        Ok(self)
    }

    /// Puts the mount in its place below `root`.
    ///
    /// # Errors
    /// `InvalidArgument` naming the mount: its target leads out of the rootfs or is of the wrong kind.
    pub fn attach(self, root: &Root) -> Result<(), Failure> {
        let name = self.target.display().to_string();
        match self.source {
            Source::Tree(tree, wanted, copies) => {
                let place = place(root, &self.target, wanted, Some(&tree))?;
                if copies && wanted == Wanted::Dir {
                    copy_up::copy(&place, &tree, &self.target)?;
                }
                put(&tree, &place, &name)
            }
            Source::Overlay(..) => {
                let cause = "it was not assembled";
                Err(Failure::new(FailureKind::Internal, "mount", name, cause))
            }
            Source::Filesystem { kind, source, options } => {
                let place = place(root, &self.target, Wanted::Dir, None)?;
                let made = filesystem::make(&kind, source.as_deref(), &options, &name)?;
                if options.copy_up && kind == "tmpfs" {
                    copy_up::copy(&place, &made, &self.target)?;
                }
                if let Some((propagation, recursive)) = options.propagation {
                    propagate(&made, propagation, recursive, &name)?;
                }
                put(&made, &place, &name)
            }
            Source::Change(options) => change(root, &self.target, &options, &name),
            Source::Cgroups(tree) => {
                let place = place(root, &self.target, Wanted::Dir, None)?;
                cgroup_mount::attach(tree, root, &self.target, &place)
            }
        }
    }
}

/// Whether a mount of a spec has mapped ids.
pub fn is_mapped(mount: &SpecMount) -> bool {
    let has = |maps: &Option<Vec<_>>| maps.as_ref().is_some_and(|maps| !maps.is_empty());
    has(mount.uid_mappings())
        || has(mount.gid_mappings())
        || mount.options().iter().flatten().any(|word| word == "idmap" || word == "ridmap")
}

/// Gives mounts their id mappings: the container's own, or those of the mount.
#[derive(Debug)]
pub struct Mapper<'a> {
    maker: Option<(&'a SingleThreaded, &'a Procfs)>,
    container: Option<&'a Users>,
    made: Vec<Users>,
    /// What the container's own file systems are labelled with.
    label: Option<&'a str>,
}

impl<'a> Mapper<'a> {
    /// Of a container that has none.
    #[must_use]
    pub const fn none(label: Option<&'a str>) -> Self {
        Self { maker: None, container: None, made: Vec::new(), label }
    }

    /// Of a container that may be in a user namespace.
    #[must_use]
    pub const fn new(
        thread: &'a SingleThreaded,
        procfs: &'a Procfs,
        container: Option<&'a Users>,
        label: Option<&'a str>,
    ) -> Self {
        Self { maker: Some((thread, procfs)), container, made: Vec::new(), label }
    }

    fn map(&mut self, tree: &OwnedFd, mount: &SpecMount, options: &Options) -> Result<(), Failure> {
        if !is_mapped(mount) {
            return Ok(());
        }
        let name = mount.destination().display().to_string();
        let fail = |error: std::io::Error| {
            Failure::os_kind(FailureKind::InvalidArgument, "map ids of", name.as_str(), error)
        };
        let own = Maps::new(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref(), &name)?;
        let file = match (own, self.container) {
            (Some(maps), Some(users)) if *users.maps() == maps => users.file(),
            (Some(maps), _) => self.users(maps)?.file(),
            (None, Some(users)) => users.file(),
            (None, None) => {
                let cause = "neither it nor the container has id mappings";
                let kind = FailureKind::InvalidArgument;
                return Err(Failure::new(kind, "map ids of", name, cause));
            }
        };
        map_ids(tree, file, options.mapped.unwrap_or(false)).map_err(fail)
    }

    /// A user namespace for these mappings alone.
    fn users(&mut self, maps: Maps) -> Result<&Users, Failure> {
        if let Some(at) = self.made.iter().position(|users| *users.maps() == maps) {
            return Ok(&self.made[at]);
        }
        let (thread, procfs) = self.maker.ok_or_else(|| {
            Failure::new(FailureKind::Internal, "map ids of", "mount", "there was no stage")
        })?;
        self.made.push(Users::make(thread, procfs, maps)?);
        Ok(&self.made[self.made.len() - 1])
    }
}

fn change(root: &Root, target: &Path, options: &Options, name: &str) -> Result<(), Failure> {
    let invalid = |cause| Failure::new(FailureKind::InvalidArgument, "remount", name, cause);
    if !options.data.is_empty() {
        return Err(invalid("only its flags can be changed"));
    }
    let place = target::open_existing(root, target)?;
    let place = place.ok_or_else(|| invalid("nothing is there"))?;
    let fail = |error: std::io::Error| {
        Failure::os_kind(FailureKind::InvalidArgument, "remount", name, error)
    };
    for (change, recursive) in [(options.attributes, false), (options.recursive, true)] {
        if change != Attributes::default() {
            set_attributes(&place, change, recursive).map_err(fail)?;
        }
    }
    Ok(())
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
    tree: OwnedFd,
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
    if options.attributes != Attributes::default() {
        set_attributes(&tree, options.attributes, false).map_err(invalid)?;
    }
    if options.recursive != Attributes::default() {
        set_attributes(&tree, options.recursive, true).map_err(invalid)?;
    }
    let (propagation, deep) = options.propagation.unwrap_or((inherited, recursive));
    propagate(&tree, propagation, deep, name)?;
    let wanted = Wanted::of(&tree, source)?;
    Ok(Source::Tree(tree, wanted, options.copy_up))
}

/// A part of a mount that is attached nowhere: a file or folder inside it, whatever its links say.
fn part_of(tree: OwnedFd, part: &Path, place: &Path) -> std::io::Result<OwnedFd> {
    // Only a mount that is attached can be copied (kernels before 6.15).
    let tree = attach(tree, place).map_err(|failure| match failure.errno {
        Some(errno) => std::io::Error::from_raw_os_error(errno),
        None => std::io::Error::other(failure.to_string()),
    })?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let root = Root::from_fd(tree);
    let copied = root
        .handle(part)
        .map_err(|error| error.source)
        .and_then(|found| Ok(open_tree(found, c"", flags)?));
    unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    copied
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
