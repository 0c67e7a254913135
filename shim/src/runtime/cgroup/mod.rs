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
mod notice;
mod scope;
mod setting;
pub mod stats;
mod transaction;
mod update;
mod watch;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::slice::ScopeName;
use crate::{Failure, FailureKind};
use oci_spec::runtime::{Capability, LinuxResources, Spec};
use rustix::io::Errno;

use self::hierarchy::{Hierarchy, Version};
pub use self::notice::OomNotice;
use self::scope::Scope;
use self::transaction::Write as Change;
pub use self::watch::{Heard, Watch};
use super::report::Cloned;

/// A container's cgroups, made by a builder.
#[derive(Debug, Default)]
pub struct Cgroup {
    members: Vec<Member>,
    /// What holds the place of the first process until there is one.
    scope: Option<Scope>,
    unit: String,
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
            return Ok(Self::default());
        };
        let place = Place::parse(path)?;
        let default = LinuxResources::default();
        let resources = linux.and_then(|linux| linux.resources().as_ref()).unwrap_or(&default);
        let hierarchies = Hierarchy::find()?;
        setting::check(resources, &hierarchies)?;
        let mut cgroup = Self::default();
        if let Place::Scope(name) = &place {
            cgroup.scope = Some(start_scope(name, resources, &hierarchies)?);
            cgroup.unit.clone_from(&name.unit);
        }
        let made = hierarchies.into_iter().try_for_each(|hierarchy| {
            cgroup.members.push(Member::create(hierarchy, &place, resources)?);
            Ok(())
        });
        let made = made.and_then(|()| cgroup.fence(spec, resources));
        let paths = |member: &Member| (member.hierarchy.version, member.path.clone());
        let paths: Vec<_> = cgroup.members.iter().map(paths).collect();
        let doors = paths.iter().map(|(version, path)| (*version, path.as_path()));
        match made.and_then(|()| Doors::open(doors)) {
            Ok(doors) => {
                cgroup.doors = doors;
                Ok(cgroup)
            }
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
    pub fn describe(&self) -> Cloned {
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
        Cloned {
            cgroups: paths.collect(),
            unified: self.members.iter().any(|member| is_unified(&member)),
            oom_file,
            unit: self.unit.clone(),
            ..Cloned::default()
        }
    }

    /// What another runtime has made of a spec's cgroups.
    ///
    /// # Errors
    /// The spec's path is none, or the host has no cgroups.
    pub fn found(spec: &Spec) -> Result<Self, Failure> {
        let Some(path) = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref())
        else {
            return Ok(Self::default());
        };
        let place = Place::parse(path)?;
        let relative = place.relative();
        let member = |hierarchy: Hierarchy| {
            let path = hierarchy.mount_point.join(&relative);
            path.is_dir().then_some(Member { hierarchy, path })
        };
        let members = Hierarchy::find()?.into_iter().filter_map(member).collect();
        Ok(Self { members, unit: place.unit().to_owned(), ..Self::default() })
    }

    /// Removes the empty cgroups.
    pub fn remove(mut self) {
        if let Some(scope) = self.scope.take() {
            scope.remove();
        }
        for member in &self.members {
            drop(fs::remove_dir(&member.path));
        }
    }
}

fn start_scope(
    name: &ScopeName,
    resources: &LinuxResources,
    hierarchies: &[Hierarchy],
) -> Result<Scope, Failure> {
    let rules = device::rules(resources.devices().as_deref().unwrap_or_default())?;
    Scope::start(name, scope_properties(resources, Some(&rules), hierarchies)?)
}

/// What systemd has to know of limits.
fn scope_properties(
    resources: &LinuxResources,
    rules: Option<&[device::Rule]>,
    hierarchies: &[Hierarchy],
) -> Result<Vec<(&'static str, serde_json::Value)>, Failure> {
    let legacy = hierarchies.iter().any(|hierarchy| hierarchy.has("devices"));
    let version = if legacy { Version::V1 } else { Version::V2 };
    let mut settings = Vec::new();
    for hierarchy in hierarchies {
        settings.extend(setting::of(resources, hierarchy)?);
    }
    let mut all = scope::properties(&settings, rules, version);
    all.extend(scope::bandwidth(resources));
    Ok(all)
}

impl Member {
    fn create(
        hierarchy: Hierarchy,
        place: &Place,
        resources: &LinuxResources,
    ) -> Result<Self, Failure> {
        let relative = &place.relative();
        let path = hierarchy.mount_point.join(relative);
        let settings = setting::of(resources, &hierarchy)?;
        hierarchy.prepare_parents(relative, setting::needed(&settings, &hierarchy))?;
        match place {
            Place::Path(_) => make_leaf(&path)?,
            Place::Scope(_) => adopt_leaf(&path)?,
        }
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

/// The folder that systemd made, or would have made if it used this hierarchy.
fn adopt_leaf(path: &Path) -> Result<(), Failure> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| Failure::os("create cgroup", path.display().to_string(), e)),
    }
}

/// Where a spec wants its cgroups.
enum Place {
    /// Below every hierarchy's mount point.
    Path(PathBuf),
    /// Where systemd puts a scope.
    Scope(ScopeName),
}

impl Place {
    fn parse(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let invalid = |cause: &'static str| {
            Failure::new(FailureKind::InvalidArgument, "use cgroup", name.as_str(), cause)
        };
        if ScopeName::is_meant(&name) {
            return ScopeName::parse(&name).map(Self::Scope).map_err(invalid);
        }
        let clean = path
            .components()
            .all(|c| matches!(c, std::path::Component::RootDir | std::path::Component::Normal(_)));
        let relative = path.strip_prefix("/").unwrap_or(path);
        if !clean || relative.as_os_str().is_empty() {
            return Err(invalid("not a plain path"));
        }
        Ok(Self::Path(relative.to_owned()))
    }

    fn relative(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Scope(name) => name.path(),
        }
    }

    /// The scope that systemd knows it by; empty without one.
    fn unit(&self) -> &str {
        match self {
            Self::Path(_) => "",
            Self::Scope(name) => &name.unit,
        }
    }
}

/// What the fuzzers call: where a spec's cgroups would be and what would be written into them.
#[cfg(feature = "fuzz")]
pub fn fuzz(spec: &Spec) {
    let Some(linux) = spec.linux() else { return };
    let place = linux.cgroups_path().as_deref().map(Place::parse);
    if let Some(Ok(path)) = place.map(|place| place.map(|place| place.relative())) {
        let plain = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        assert!(plain && path.is_relative(), "{}", path.display());
    }
    if let Some(resources) = linux.resources() {
        setting::fuzz(resources);
    }
}

/// Puts a process into the cgroup of this path in every hierarchy; the cgroup is made where it is missing.
///
/// # Errors
/// The path is not a plain one, or the kernel refuses.
pub fn put(path: &str, pid: u32) -> io::Result<()> {
    let failed = |failure: Failure| io::Error::other(failure.to_string());
    let relative = Place::parse(Path::new(path)).map_err(failed)?.relative();
    for hierarchy in Hierarchy::find().map_err(failed)? {
        hierarchy.prepare_parents(&relative, Vec::new()).map_err(failed)?;
        let folder = hierarchy.mount_point.join(&relative);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => hierarchy.inherit_cpuset(&folder).map_err(failed)?,
        }
        write_file(&folder.join("cgroup.procs"), &pid.to_string())?;
    }
    Ok(())
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
    fn only_plain_paths_and_scopes_name_a_cgroup() {
        let parse = |path: &str| Place::parse(Path::new(path));
        assert_eq!(parse("/a/b").unwrap().relative(), Path::new("a/b"));
        let scope = parse("kubepods.slice:cri:abc").unwrap().relative();
        assert_eq!(scope, Path::new("kubepods.slice/cri-abc.scope"));
        for path in ["/", "", "/a/../b", "../x", "a:b:c"] {
            let refused = parse(path).map(drop).unwrap_err();
            assert_eq!(refused.kind, FailureKind::InvalidArgument, "{path}");
        }
    }
}
