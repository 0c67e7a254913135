//! `/sys/fs/cgroup` of a container on a version 1 (or hybrid) host: a small tmpfs with one folder per hierarchy, each
//! showing the container's own cgroup and nothing above it.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::Failure;
use rustix::fs::{Mode, mkdirat, symlinkat};
use rustix::io::Errno;
use sys::confined::Root;
use sys::mount::{Attributes, Propagation, READ_ONLY, set_attributes};

use super::cgroup::Cgroup;
use super::filesystem;
use super::mount::{copy_tree, put};
use super::mount_option::Options;

/// The container's cgroups as detached bind mounts.
#[derive(Debug)]
pub struct CgroupTree {
    /// The hierarchies' folder names ("cpu,cpuacct") and the container's cgroup in each.
    members: Vec<(String, OwnedFd)>,
    read_only: bool,
}

impl CgroupTree {
    /// Opens the container's cgroups while the host's paths are there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open(cgroup: &Cgroup, options: &Options) -> Result<Self, Failure> {
        let change = Attributes {
            propagation: Propagation::Private.flag(),
            clear: options.attributes.clear,
            set: options.attributes.set,
        };
        let mut members = Vec::new();
        for (name, path) in cgroup.members() {
            let fail = |error: std::io::Error| {
                Failure::os("open cgroup", path.display().to_string(), error)
            };
            let tree = copy_tree(path, false).map_err(|e| fail(e.into()))?;
            set_attributes(&tree, change, false).map_err(fail)?;
            members.push((name.to_owned(), tree));
        }
        Ok(Self { members, read_only: options.attributes.set & READ_ONLY != 0 })
    }
}

/// Builds the tree at `target`, of which `place` is the handle.
///
/// # Errors
/// The kernel refuses.
pub fn attach(
    tree: CgroupTree,
    root: &Root,
    target: &Path,
    place: &OwnedFd,
) -> Result<(), Failure> {
    let name = target.display().to_string();
    let own = ["nosuid", "nodev", "noexec", "mode=755", "size=64k"].map(str::to_owned);
    let options = Options::parse(&own, &name)?;
    put(&filesystem::make("tmpfs", Some("tmpfs"), &options, &name)?, place, &name)?;
    let fail = |error: Errno| Failure::os("build cgroup tree at", name.as_str(), error);
    // The handle from before is what is below the tmpfs now.
    let base = root.handle(target).map_err(|e| super::target::invalid(target, e))?;
    for (hierarchy, mount) in tree.members {
        mkdirat(&base, hierarchy.as_str(), Mode::from_raw_mode(0o755)).map_err(fail)?;
        let path = target.join(&hierarchy);
        let place = root.handle(&path).map_err(|e| super::target::invalid(&path, e))?;
        put(&mount, &place, &name)?;
        if hierarchy.contains(',') {
            for controller in hierarchy.split(',') {
                symlinkat(hierarchy.as_str(), &base, controller).map_err(fail)?;
            }
        }
    }
    if tree.read_only {
        let change = Attributes { set: READ_ONLY, ..Attributes::default() };
        set_attributes(&base, change, false)
            .map_err(|e| Failure::os("make read-only", name.as_str(), e))?;
    }
    Ok(())
}
