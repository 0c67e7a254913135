//! A container's cgroups: made, limited, joined; and, by the shim, watched, emptied and removed.
//!
//! A host has one unified hierarchy (version 2), several of version 1 with a controller or more each, or both (hybrid).
//! All are handled alike: a container has a folder of the same relative path in each hierarchy; a limit is written
//! where its controller is, in the form that this hierarchy's version has for it.
//!
//! Nobody moves a foreign process: that waits for all CPUs to pass a quiescent state (some milliseconds, per write).
//! The process is born in its unified cgroup (`CLONE_INTO_CGROUP`) and writes itself into the `tasks` files of version
//! 1, which for the writing thread itself takes no such wait.

mod device;
mod folder;
mod freeze;
mod hierarchy;
mod setting;
pub mod stats;
mod transaction;
mod update;
mod watch;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind};
use oci_spec::runtime::{Capability, LinuxResources, Spec};
use rustix::io::Errno;

use self::hierarchy::{Hierarchy, Version};
use self::transaction::Write as Change;
pub use self::watch::Watch;
use super::namespace::unsupported;

/// A container's cgroups, made by a builder.
#[derive(Debug)]
pub struct Cgroup {
    members: Vec<Member>,
    /// Where a process enters them.
    pub doors: Doors,
}

/// Its folder in one hierarchy.
#[derive(Debug)]
struct Member {
    hierarchy: Hierarchy,
    path: PathBuf,
}

/// Where a process enters a container's cgroups.
#[derive(Debug, Default)]
pub struct Doors {
    /// The unified folder, for clone3(2).
    birthplace: Option<File>,
    /// What a process writes itself into.
    tasks: Vec<File>,
}

impl Doors {
    fn open<'a>(paths: impl IntoIterator<Item = (Version, &'a Path)>) -> Result<Self, Failure> {
        let mut doors = Self::default();
        for (version, path) in paths {
            let fail = |error| Failure::os("open cgroup", path.display().to_string(), error);
            match version {
                Version::V2 => doors.birthplace = Some(File::open(path).map_err(fail)?),
                Version::V1 => {
                    let tasks = OpenOptions::new().write(true).open(path.join("tasks"));
                    doors.tasks.push(tasks.map_err(fail)?);
                }
            }
        }
        Ok(doors)
    }

    /// The folder that a process can be born in.
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.birthplace.as_ref().map(AsFd::as_fd)
    }

    /// Moves this process into the cgroups that it was not born in.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join(&self) -> Result<(), Failure> {
        for mut tasks in &self.tasks {
            tasks.write_all(b"0").map_err(|e| Failure::os("join", "cgroup", e))?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// Makes the cgroups of a spec and writes its limits. A spec without a path gets none: the process stays
    /// where the shim is.
    ///
    /// # Errors
    /// `InvalidArgument` for a limit the kernel does not take; nothing is left then.
    pub fn create(spec: &Spec) -> Result<Self, Failure> {
        let linux = spec.linux().as_ref();
        let Some(path) = linux.and_then(|linux| linux.cgroups_path().as_deref()) else {
            return Ok(Self { members: Vec::new(), doors: Doors::default() });
        };
        let relative = relative_path(path)?;
        let default = LinuxResources::default();
        let resources = linux.and_then(|linux| linux.resources().as_ref()).unwrap_or(&default);
        let hierarchies = Hierarchy::find()?;
        setting::check(resources, &hierarchies)?;
        let mut cgroup = Self { members: Vec::new(), doors: Doors::default() };
        let made = hierarchies.into_iter().try_for_each(|hierarchy| {
            cgroup.members.push(Member::create(hierarchy, &relative, resources)?);
            Ok(())
        });
        let made = made.and_then(|()| cgroup.fence(spec, resources));
        let paths = |member: &Member| (member.hierarchy.version, member.path.clone());
        let paths: Vec<_> = cgroup.members.iter().map(paths).collect();
        let doors = paths.iter().map(|(version, path)| (*version, path.as_path()));
        match made.and_then(|()| Doors::open(doors)) {
            Ok(doors) => Ok(Self { doors, ..cgroup }),
            Err(failure) => {
                cgroup.remove();
                Err(failure)
            }
        }
    }

    /// Denies all devices but those of the spec and the standard ones.
    fn fence(&self, spec: &Spec, resources: &LinuxResources) -> Result<(), Failure> {
        let rules = device::rules(resources.devices().as_deref().unwrap_or_default())?;
        if let Some(member) = self.members.iter().find(|m| m.hierarchy.has("devices")) {
            return device::write(&rules, &member.path);
        }
        let unified = |member: &&Member| member.hierarchy.version == Version::V2;
        let Some(member) = self.members.iter().find(unified) else { return Ok(()) };
        match device::attach(&rules, &member.path) {
            // Who cannot make a node has none but those that were made for it.
            Err(failure) if failure.kind == FailureKind::Unsupported && !makes_nodes(spec) => {
                super::warn(format_args!("{failure}"));
                Ok(())
            }
            other => other,
        }
    }

    /// Whether there is only the unified hierarchy.
    pub fn is_pure_unified(&self) -> bool {
        self.members.iter().all(|member| member.hierarchy.version == Version::V2)
    }

    /// The folders' hierarchies by name, and the folders.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.members.iter().map(|member| (member.hierarchy.name.as_str(), member.path.as_path()))
    }

    /// What the shim needs to know to look after the cgroups: the unified folder first.
    pub fn describe(&self) -> (Vec<String>, bool, String) {
        let is_unified = |member: &&Member| member.hierarchy.version == Version::V2;
        let unified = self.members.iter().filter(is_unified);
        let others = self.members.iter().filter(|member| !is_unified(member));
        let paths = unified.chain(others).map(|member| member.path.display().to_string());
        let oom = self.members.iter().find(|member| member.hierarchy.has("memory"));
        let oom_file = oom.map_or_else(String::new, |member| {
            let name = match member.hierarchy.version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            member.path.join(name).display().to_string()
        });
        (paths.collect(), self.members.iter().any(|m| is_unified(&m)), oom_file)
    }

    /// Removes the empty cgroups.
    pub fn remove(&self) {
        for member in &self.members {
            drop(fs::remove_dir(&member.path));
        }
    }
}

impl Member {
    fn create(
        hierarchy: Hierarchy,
        relative: &Path,
        resources: &LinuxResources,
    ) -> Result<Self, Failure> {
        let path = hierarchy.mount_point.join(relative);
        let settings = setting::of(resources, &hierarchy)?;
        hierarchy.prepare_parents(relative, setting::needed(&settings, &hierarchy))?;
        make_leaf(&path)?;
        let writes = settings.iter().map(|setting| Change { folder: &path, setting }).collect();
        let filled = hierarchy.inherit_cpuset(&path).and_then(|()| transaction::fill(writes));
        match filled {
            Ok(()) => Ok(Self { hierarchy, path }),
            Err(failure) => {
                drop(fs::remove_dir(&path));
                Err(failure)
            }
        }
    }
}

/// Whether a spec's process may make device nodes.
fn makes_nodes(spec: &Spec) -> bool {
    let process = spec.process().as_ref();
    let capabilities = process.and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|sets| sets.bounding().as_ref());
    bounding.is_some_and(|set| set.contains(&Capability::Mknod))
}

/// Makes the container's own folder. One of an earlier attempt is used again only when nothing is in it: then it can
/// be removed first.
fn make_leaf(path: &Path) -> Result<(), Failure> {
    let made = match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_dir(path).and_then(|()| fs::create_dir(path))
        }
        other => other,
    };
    made.map_err(|e| Failure::os("create cgroup", path.display().to_string(), e))
}

/// The path below every hierarchy's mount point.
fn relative_path(path: &Path) -> Result<PathBuf, Failure> {
    let name = path.display().to_string();
    if !path.is_absolute() && name.matches(':').count() == 2 {
        return Err(unsupported("use cgroup", name, "systemd's form is not supported"));
    }
    let clean = path
        .components()
        .all(|c| matches!(c, std::path::Component::RootDir | std::path::Component::Normal(_)));
    let relative = path.strip_prefix("/").unwrap_or(path);
    if !clean || relative.as_os_str().is_empty() {
        let kind = FailureKind::InvalidArgument;
        return Err(Failure::new(kind, "use cgroup", name, "not a plain path"));
    }
    Ok(relative.to_owned())
}

/// What the fuzzers call: where a spec's cgroups would be and what would be written into them.
#[cfg(feature = "fuzz")]
pub fn fuzz(spec: &Spec) {
    let Some(linux) = spec.linux() else { return };
    if let Some(Ok(path)) = linux.cgroups_path().as_deref().map(relative_path) {
        let plain = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        assert!(plain && path.is_relative(), "{}", path.display());
    }
    if let Some(resources) = linux.resources() {
        setting::fuzz(resources);
    }
}

/// Writes a control file with one write(2), as the kernel wants it.
fn write_file(path: &Path, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// Whether an error says that the kernel has no such file.
fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOENT.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_name_a_cgroup() {
        assert_eq!(relative_path(Path::new("/a/b")).unwrap(), Path::new("a/b"));
        for path in ["/", "", "/a/../b", "../x"] {
            let refused = relative_path(Path::new(path)).unwrap_err();
            assert_eq!(refused.kind, FailureKind::InvalidArgument, "{path}");
        }
        let systemd = relative_path(Path::new("kubepods.slice:cri:abc")).unwrap_err();
        assert_eq!(systemd.kind, FailureKind::Unsupported);
    }
}
