//! Which cgroups a process is in, and where their folders are.

use std::path::{Path, PathBuf};

/// Where hierarchies are mounted by convention.
const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The folders of one cgroup, at most one in each hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Below the hierarchies' mount points, with a leading slash.
    path: PathBuf,
    /// The unified hierarchy's, which may be beside those of version 1.
    unified: Option<PathBuf>,
    /// Those of version 1: the controllers as `/proc/<pid>/cgroup` names them, and the folder.
    legacy: Vec<(String, PathBuf)>,
}

impl Places {
    /// Finds the cgroup with `name` in the last but any part of its path that a process is in, or below which it is.
    ///
    /// A process that has made cgroups of its own (systemd in a container) is in one below. `None` when the process is
    /// gone, or is another one by now, which is in no cgroup of this name.
    #[must_use]
    pub fn of_process(pid: u32, name: &str) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Self::parse(&text, name, is_unified_alone())
    }

    /// The cgroup of this path, whether it exists or not, in all hierarchies of the host.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut places = Self { path: path.to_owned(), ..Self::default() };
        for (controllers, _) in text.lines().filter_map(line) {
            places.add(controllers, path, is_unified_alone());
        }
        places
    }

    /// `/proc/<pid>/cgroup` (cgroups(7)): "5:cpu,cpuacct:/a/b", and "0::/a/b" for the unified hierarchy.
    fn parse(text: &str, name: &str, unified_alone: bool) -> Option<Self> {
        let mut places = Self::default();
        for (controllers, path) in text.lines().filter_map(line) {
            let Some(path) = upto(Path::new(path), name) else { continue };
            places.add(controllers, &path, unified_alone);
            places.path = path;
        }
        (places.unified.is_some() || !places.legacy.is_empty()).then_some(places)
    }

    fn add(&mut self, controllers: &str, path: &Path, unified_alone: bool) {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let point = Path::new(MOUNT_POINT);
        match controllers.strip_prefix("name=").unwrap_or(controllers) {
            "" if unified_alone => self.unified = Some(point.join(relative)),
            "" => self.unified = Some(point.join("unified").join(relative)),
            folder => self.legacy.push((folder.to_owned(), point.join(folder).join(relative))),
        }
    }

    /// The path below the hierarchies' mount points, as the kubelet and its tools name a cgroup.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder in the unified hierarchy.
    #[must_use]
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// The folder in the hierarchy of version 1 that has this controller.
    #[must_use]
    pub fn legacy(&self, controller: &str) -> Option<&Path> {
        let has = |names: &str| names.split(',').any(|own| own == controller);
        self.legacy.iter().find(|(names, _)| has(names)).map(|(_, path)| path.as_path())
    }

    /// A folder that every process of the cgroup is in.
    #[must_use]
    pub fn any(&self) -> Option<&Path> {
        let legacy = || self.legacy.first().map(|(_, path)| path.as_path());
        self.unified().or_else(legacy)
    }

    /// Whether it is below another cgroup in every hierarchy that it is in.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        let is_below = |own: &Path, other: Option<&PathBuf>| {
            other.is_some_and(|other| own != other && own.starts_with(other))
        };
        let legacy = |names: &str| {
            let same = other.legacy.iter().find(|(own, _)| own == names);
            same.map(|(_, path)| path)
        };
        self.unified.iter().all(|own| is_below(own, other.unified.as_ref()))
            && self.legacy.iter().all(|(names, own)| is_below(own, legacy(names)))
    }

    /// Whether the cgroup is there, in any hierarchy.
    #[must_use]
    pub fn exist(&self) -> bool {
        let all = self.unified.iter().chain(self.legacy.iter().map(|(_, path)| path));
        all.into_iter().any(|path| path.is_dir())
    }
}

/// Whether the host has nothing but version 2.
fn is_unified_alone() -> bool {
    Path::new(MOUNT_POINT).join("cgroup.controllers").exists()
}

/// The controllers and the path of a line.
fn line(line: &str) -> Option<(&str, &str)> {
    line.split_once(':')?.1.split_once(':')
}

/// The path up to the part that has `name` in it.
fn upto(path: &Path, name: &str) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in path.components() {
        found.push(part);
        if part.as_os_str().to_str().is_some_and(|part| part.contains(name)) {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_in_every_hierarchy_of_version_1_and_beside_them() {
        let text = "9:name=systemd:/pod1/abc\n5:cpu,cpuacct:/pod1/abc\n4:memory:/pod1/abc/own\n\
                    2:freezer:/\n0::/pod1/abc\n";
        let places = Places::parse(text, "abc", false).unwrap();
        assert_eq!(places.path(), Path::new("/pod1/abc"));
        assert_eq!(places.unified(), Some(Path::new("/sys/fs/cgroup/unified/pod1/abc")));
        let cpu = Path::new("/sys/fs/cgroup/cpu,cpuacct/pod1/abc");
        assert_eq!((places.legacy("cpu"), places.legacy("cpuacct")), (Some(cpu), Some(cpu)));
        assert_eq!(places.legacy("memory"), Some(Path::new("/sys/fs/cgroup/memory/pod1/abc")));
        assert_eq!(places.legacy("freezer"), None);
    }

    #[test]
    fn a_cgroup_is_below_another_if_it_is_so_in_all_hierarchies() {
        let parse = |text: &str| Places::parse(text, "c", false).unwrap();
        let pod = parse("5:cpu,cpuacct:/pod/c\n4:memory:/pod/c\n0::/pod/c\n");
        let container = |text: &str| Places::parse(text, "own", false).unwrap();
        assert!(container("5:cpu,cpuacct:/pod/c/own\n4:memory:/pod/c/own\n").is_below(&pod));
        assert!(container("4:memory:/pod/c/own\n0::/pod/c/own\n").is_below(&pod));
        assert!(!container("4:memory:/pod/own\n0::/pod/c/own\n").is_below(&pod));
        assert!(!container("4:memory:/pod/c/own\n3:pids:/pod/c/own\n").is_below(&pod));
        assert!(!pod.is_below(&pod));
        let alone = Places::parse("0::/pod/c\n", "c", true).unwrap();
        let inside = Places::parse("0::/pod/c/own.scope\n", "own", true).unwrap();
        let beside = Places::parse("0::/pod/cc/own.scope\n", "own", true).unwrap();
        assert!(inside.is_below(&alone) && !beside.is_below(&alone));
    }

    #[test]
    fn on_version_2_a_scope_is_found_also_by_a_process_below_it() {
        let text = "0::/kubepods.slice/kubepods-pod1.slice/cri-wherry-abc.scope/init.scope\n";
        let places = Places::parse(text, "abc", true).unwrap();
        let scope = "/kubepods.slice/kubepods-pod1.slice/cri-wherry-abc.scope";
        assert_eq!(places.path(), Path::new(scope));
        let dir = format!("/sys/fs/cgroup{scope}");
        assert_eq!(places.unified(), Some(Path::new(&dir)));
        assert_eq!(places.legacy("memory"), None);
    }

    #[test]
    fn a_process_of_somebody_else_is_in_no_such_cgroup() {
        assert_eq!(Places::parse("0::/user.slice/session-1.scope\n", "abc", true), None);
        assert_eq!(Places::parse("", "abc", true), None);
    }
}
