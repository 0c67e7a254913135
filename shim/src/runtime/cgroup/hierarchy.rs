//! The cgroup hierarchies of this host, as they are mounted by convention below `/sys/fs/cgroup`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::Failure;

use super::{is_missing, write_file};

/// Where hierarchies are mounted by convention.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";
/// Magic numbers of statfs(2).
const CGROUP_MAGIC: i64 = 0x27_e0eb;
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The version of a hierarchy's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller or group of controllers.
    V1,
    /// The unified one.
    V2,
}

/// One hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    /// Its folder's name ("cpu,cpuacct", "systemd", "unified").
    pub name: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its version.
    pub version: Version,
    controllers: Vec<String>,
}

impl Hierarchy {
    /// Finds all hierarchies: the one unified, or those of version 1 with, perhaps, a unified one beside them.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Vec<Self>, Failure> {
        let point = Path::new(MOUNT_POINT);
        let fail = |error: std::io::Error| Failure::os("find cgroups at", MOUNT_POINT, error);
        if magic(point) == Some(CGROUP2_MAGIC) {
            return Ok(vec![Self::unified("unified", point)?]);
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(point).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // The links ("cpu" to "cpu,cpuacct") are second names.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            match magic(&path) {
                Some(CGROUP2_MAGIC) => found.push(Self::unified(&name, &path)?),
                Some(CGROUP_MAGIC) => {
                    let controllers = name.split(',').map(str::to_owned).collect();
                    found.push(Self { name, mount_point: path, version: Version::V1, controllers });
                }
                _ => {}
            }
        }
        if found.is_empty() {
            return Err(fail(ErrorKind::NotFound.into()));
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Whether it has a controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    /// Its controllers.
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Makes the folders above the container's own and lets them pass on the `needed` controllers.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn prepare_parents(&self, relative: &Path, needed: Vec<&str>) -> Result<(), Failure> {
        let mut path = self.mount_point.clone();
        let parents = relative.parent().into_iter().flat_map(Path::components);
        self.enable(&path, &needed)?;
        for step in parents {
            path.push(step);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(Failure::os("create cgroup", path.display().to_string(), error));
                }
                // Also where it was there: another container's may have been made just now.
                _ => self.inherit_cpuset(&path)?,
            }
            self.enable(&path, &needed)?;
        }
        Ok(())
    }

    /// Version 1: a cpuset without CPUs takes no process, and a new one has none. What it has is left as it is.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn inherit_cpuset(&self, path: &Path) -> Result<(), Failure> {
        if self.version == Version::V2 || !self.has("cpuset") {
            return Ok(());
        }
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let file = path.join(name);
            let fail =
                |error: std::io::Error| Failure::os("write", file.display().to_string(), error);
            if !fs::read_to_string(&file).map_err(fail)?.trim_end().is_empty() {
                continue;
            }
            let above = path.parent().unwrap_or(path).join(name);
            let inherited = fs::read_to_string(above).map_err(fail)?;
            write_file(&file, inherited.trim_end()).map_err(fail)?;
        }
        Ok(())
    }

    fn unified(name: &str, path: &Path) -> Result<Self, Failure> {
        let file = path.join("cgroup.controllers");
        let words = fs::read_to_string(&file)
            .map_err(|e| Failure::os("read", file.display().to_string(), e))?;
        Ok(Self {
            name: name.to_owned(),
            mount_point: path.to_owned(),
            version: Version::V2,
            controllers: words.split_whitespace().map(str::to_owned).collect(),
        })
    }

    fn enable(&self, path: &Path, needed: &[&str]) -> Result<(), Failure> {
        if self.version == Version::V1 || needed.is_empty() {
            return Ok(());
        }
        let file = path.join("cgroup.subtree_control");
        let fail = |error: std::io::Error| {
            Failure::os("enable controllers in", file.display().to_string(), error)
        };
        let enabled = match fs::read_to_string(&file) {
            Err(error) if is_missing(&error) => return Ok(()),
            other => other.map_err(fail)?,
        };
        let missing = |name: &&&str| !enabled.split_whitespace().any(|own| own == **name);
        for controller in needed.iter().filter(missing) {
            // One that is not passed on here has no files below; a limit that needs them is then refused by name.
            drop(write_file(&file, &format!("+{controller}")));
        }
        Ok(())
    }
}

fn magic(path: &Path) -> Option<i64> {
    rustix::fs::statfs(path).ok().map(|found| found.f_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_that_somebody_else_has_just_made_gets_its_cpus_and_one_that_has_some_keeps_them() {
        let folder = std::env::temp_dir().join(format!("wherry-cpuset-{}", std::process::id()));
        let cpuset = Hierarchy {
            name: "cpuset".into(),
            mount_point: folder.clone(),
            version: Version::V1,
            controllers: vec!["cpuset".into()],
        };
        let file = |path: &str, name: &str| folder.join(path).join(name);
        for (path, cpus, mems) in
            [("", "0-3\n", "0\n"), ("kept", "1\n", "\n"), ("kept/new", "\n", "\n")]
        {
            fs::create_dir_all(folder.join(path)).unwrap();
            fs::write(file(path, "cpuset.cpus"), cpus).unwrap();
            fs::write(file(path, "cpuset.mems"), mems).unwrap();
        }
        cpuset.prepare_parents(Path::new("kept/new/container"), Vec::new()).unwrap();
        let read = |path: &str, name: &str| fs::read_to_string(file(path, name)).unwrap();
        for path in ["kept", "kept/new"] {
            assert_eq!(read(path, "cpuset.cpus").trim_end(), "1", "{path}");
            assert_eq!(read(path, "cpuset.mems").trim_end(), "0", "{path}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
