//! All devices of the folders, in memory until something in a folder changes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::edit::Edits;
use super::file::{self, CdiFile};
use super::name::DeviceName;

/// More files than any node has.
const MAX_FILES: usize = 1024;

/// The devices of some folders.
#[derive(Debug)]
pub struct Registry {
    folders: Vec<PathBuf>,
    // Held for looks and for a read of the folders, which is a few files; callers are on threads that may block.
    known: Mutex<Option<Arc<Known>>>,
}

/// What tells whether a file is the one that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    folder: usize,
    identity: [u64; 2],
    times: [i64; 4],
    size: u64,
}

#[derive(Debug, Default)]
struct Known {
    stamps: Vec<Stamp>,
    files: Vec<CdiFile>,
    /// Of each device: the numbers of its file and of itself in it; or none, when two files of a folder have it.
    devices: BTreeMap<DeviceName, Option<(usize, usize)>>,
    /// Files that cannot be used, and why.
    broken: Vec<String>,
}

impl Registry {
    /// Of these folders, the later ones first in rank. Missing ones have no devices.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, known: Mutex::default() }
    }

    /// What a container needs that gets these devices. Blocks on the disk.
    ///
    /// # Errors
    /// Says which device is not there or in conflict, and which files could not be read.
    pub fn edits(&self, names: &[DeviceName]) -> Result<Edits, String> {
        let mut edits = Edits::default();
        if names.is_empty() {
            return Ok(edits);
        }
        let known = self.look();
        let mut seen = Vec::new();
        for name in names {
            let (file, device) = match known.devices.get(name) {
                Some(Some(place)) => *place,
                Some(None) => return Err(format!("CDI device {name} is in two files of a folder")),
                None => return Err(missing(name, &known)),
            };
            let found = &known.files[file];
            if !seen.contains(&file) {
                seen.push(file);
                edits.add(&found.container_edits)?;
            }
            edits.add(&found.devices[device].container_edits)?;
        }
        Ok(edits)
    }

    /// What is known, which is read again if a file is new, changed or gone.
    fn look(&self) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.stamps();
        match &*known {
            Some(known) if known.stamps == stamps => Arc::clone(known),
            _ => {
                let read = Arc::new(Known::read(stamps));
                for broken in &read.broken {
                    tracing::warn!(file = broken, "a CDI file cannot be used");
                }
                *known = Some(Arc::clone(&read));
                read
            }
        }
    }

    fn stamps(&self) -> Vec<Stamp> {
        let mut stamps = Vec::new();
        for (folder, path) in self.folders.iter().enumerate() {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(found) = std::fs::metadata(&path) else { continue };
                if !file::is_named_like_one(&path) {
                    continue;
                }
                stamps.push(Stamp {
                    path,
                    folder,
                    identity: [found.dev(), found.ino()],
                    times: [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()],
                    size: found.size(),
                });
            }
        }
        stamps.sort_by(|one, other| (one.folder, &one.path).cmp(&(other.folder, &other.path)));
        stamps.truncate(MAX_FILES);
        stamps
    }
}

fn missing(name: &DeviceName, known: &Known) -> String {
    let broken = match known.broken.as_slice() {
        [] => String::new(),
        broken => format!("; cannot be used: {}", broken.join(", ")),
    };
    format!("there is no CDI device {name}{broken}")
}

impl Known {
    fn read(stamps: Vec<Stamp>) -> Self {
        let mut known = Self::default();
        let mut folders: BTreeMap<DeviceName, usize> = BTreeMap::new();
        for stamp in &stamps {
            let read = match file::read(&stamp.path) {
                Ok(read) => read,
                Err(why) => {
                    known.broken.push(format!("{}: {why}", stamp.path.display()));
                    continue;
                }
            };
            for (number, device) in read.devices.iter().enumerate() {
                let name = DeviceName::new(&read.kind, &device.name);
                // The stamps are in the order of folders: what comes later outranks what was there.
                let twice = folders.insert(name.clone(), stamp.folder) == Some(stamp.folder);
                let place = (!twice).then_some((known.files.len(), number));
                known.devices.insert(name, place);
            }
            known.files.push(read);
        }
        known.stamps = stamps;
        known
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Folders(PathBuf);

    impl Drop for Folders {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    impl Folders {
        fn new(name: &str) -> (Self, Registry) {
            let dir = std::env::temp_dir().join(format!("cdi-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&dir));
            fs::create_dir_all(dir.join("low")).unwrap();
            fs::create_dir_all(dir.join("high")).unwrap();
            let registry = Registry::new(vec![dir.join("low"), dir.join("none"), dir.join("high")]);
            (Self(dir), registry)
        }

        fn write(&self, name: &str, device: &str, env: &str) {
            let text = format!(
                r#"{{"cdiVersion": "0.5.0", "kind": "v.com/c", "containerEdits": {{"env": ["FILE={name}"]}},
                "devices": [{{"name": "{device}", "containerEdits": {{"env": ["{env}"]}}}}]}}"#
            );
            fs::write(self.0.join(name), text).unwrap();
        }
    }

    fn env(registry: &Registry, names: &[&str]) -> Result<Vec<String>, String> {
        let names: Vec<_> = names.iter().map(|name| DeviceName::parse(name).unwrap()).collect();
        registry.edits(&names).map(|edits| edits.env)
    }

    #[test]
    fn the_later_folder_outranks_and_a_conflict_in_one_is_an_error() {
        let (folders, registry) = Folders::new("rank");
        folders.write("low/a.json", "one", "A=low");
        assert_eq!(env(&registry, &["v.com/c=one"]).unwrap(), ["FILE=low/a.json", "A=low"]);
        // Seen without being told, because the folder is looked at.
        folders.write("high/b.json", "one", "A=high");
        assert_eq!(env(&registry, &["v.com/c=one"]).unwrap(), ["FILE=high/b.json", "A=high"]);
        folders.write("high/c.json", "one", "A=other");
        assert!(env(&registry, &["v.com/c=one"]).unwrap_err().contains("two files"));
        fs::remove_file(folders.0.join("high/b.json")).unwrap();
        assert_eq!(env(&registry, &["v.com/c=one"]).unwrap(), ["FILE=high/c.json", "A=other"]);
    }

    #[test]
    fn a_broken_file_is_named_and_keeps_nobody_else_out() {
        let (folders, registry) = Folders::new("broken");
        folders.write("low/a.json", "one", "A=1");
        fs::write(folders.0.join("low/broken.yaml"), "cdiVersion: [").unwrap();
        fs::write(folders.0.join("low/ignored.txt"), "x").unwrap();
        fs::create_dir(folders.0.join("low/folder.json")).unwrap();
        let huge = fs::File::create(folders.0.join("low/huge.json")).unwrap();
        huge.set_len(1 << 40).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folders.0.join("low/fifo.json"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink("/nowhere", folders.0.join("low/dangling.json")).unwrap();
        assert_eq!(env(&registry, &["v.com/c=one"]).unwrap(), ["FILE=low/a.json", "A=1"]);
        let missing = env(&registry, &["v.com/c=two"]).unwrap_err();
        for name in
            ["no CDI device v.com/c=two", "broken.yaml", "huge.json", "fifo.json", "folder.json"]
        {
            assert!(missing.contains(name), "{missing}");
        }
        assert!(!missing.contains("ignored"));
    }

    #[test]
    fn what_is_for_all_devices_of_a_file_comes_once() {
        let (folders, registry) = Folders::new("once");
        let text = r#"{"cdiVersion": "0.5.0", "kind": "v.com/c", "containerEdits": {"env": ["ALL=1"]},
            "devices": [{"name": "a", "containerEdits": {"env": ["A=1"]}}, {"name": "b"}]}"#;
        fs::write(folders.0.join("low/a.json"), text).unwrap();
        assert_eq!(env(&registry, &["v.com/c=b", "v.com/c=a"]).unwrap(), ["ALL=1", "A=1"]);
        assert_eq!(env(&registry, &[]).unwrap(), Vec::<String>::new());
    }
}
