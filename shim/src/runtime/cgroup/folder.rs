//! A container's cgroups as they are found again: by the paths that its builder reported.

use std::fs;
use std::path::Path;

use sys::cgroup::Files;

use super::hierarchy::{MOUNT_POINT, Version};

/// The folders of a container, one per hierarchy.
#[derive(Debug, Default)]
pub struct Folders {
    /// The unified one first if there is one.
    dirs: Box<[String]>,
    unified: bool,
    unit: Option<String>,
}

impl Folders {
    /// As a builder reported them.
    pub fn new(dirs: Vec<String>, unified: bool, unit: &str) -> Self {
        let unit = (!unit.is_empty()).then(|| unit.to_owned());
        Self { dirs: dirs.into(), unified, unit }
    }

    /// The scope that systemd knows them by.
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// Every folder and its version.
    pub fn all(&self) -> impl Iterator<Item = (Version, &Path)> {
        let version = |at: usize| if self.unified && at == 0 { Version::V2 } else { Version::V1 };
        self.dirs.iter().enumerate().map(move |(at, dir)| (version(at), Path::new(dir)))
    }

    /// The one that every process of the container is in: any will do.
    pub fn first(&self) -> Option<&Path> {
        self.dirs.first().map(Path::new)
    }

    /// The unified one.
    pub fn unified(&self) -> Option<&Path> {
        self.first().filter(|_| self.unified)
    }

    /// The one of version 1 that has a controller.
    pub fn legacy(&self, controller: &str) -> Option<&Path> {
        let has = |dir: &&Path| {
            let below = dir.strip_prefix(MOUNT_POINT).ok().and_then(|path| path.iter().next());
            let name = below.and_then(|name| name.to_str()).unwrap_or_default();
            name.split(',').any(|own| own == controller)
        };
        let own = self.all().filter(|(version, _)| *version == Version::V1);
        own.map(|(_, dir)| dir).find(has)
    }

    /// The text of a file of a controller, in the words of the version that has it; `None` where there is none.
    pub fn read(&self, controller: &str, [one, two]: [&str; 2]) -> Option<String> {
        let (dir, file) = match self.legacy(controller) {
            Some(dir) => (dir, one),
            None => (self.unified()?, two),
        };
        if file.is_empty() {
            return None;
        }
        fs::read_to_string(dir.join(file)).ok()
    }

    /// The folders of one name below these.
    pub fn below(&self, name: &Path) -> Self {
        let dirs = self.dirs.iter().map(|dir| Path::new(dir).join(name).display().to_string());
        Self { dirs: dirs.collect(), unified: self.unified, unit: None }
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.dirs = Box::default();
    }
}

/// Everything is read once in a while here: nothing is kept open.
impl Files for &Folders {
    fn is_legacy(&self, controller: &str) -> bool {
        self.legacy(controller).is_some()
    }

    fn is_unified(&self) -> bool {
        self.unified().is_some()
    }

    fn read(&mut self, controller: &str, names: [&str; 2]) -> Option<String> {
        Folders::read(self, controller, names)
    }

    fn read_unified(&mut self, name: &str) -> Option<String> {
        fs::read_to_string(self.unified()?.join(name)).ok()
    }

    fn names(&mut self, controller: &str) -> Vec<String> {
        let Some(dir) = self.legacy(controller).or_else(|| self.unified()) else {
            return Vec::new();
        };
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}
