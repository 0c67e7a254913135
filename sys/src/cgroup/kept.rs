//! The files of a cgroup, of which those that every sample reads are opened once.
//!
//! To open, read and close such a file takes some five microseconds more than to read it again. What keeping costs is
//! the kernel's buffer of a page for each file that has been read, which the others are not worth, and there is a bound
//! on how many this process keeps.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, getrlimit};

use super::{Files, Places};

/// Files kept open in this process.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// As many are kept at most, whatever the limit on open files is.
const MOST: u64 = 10_000;

/// What is read at each sample. Limits and histories are asked for every ten seconds at most.
const OFTEN: [&str; 10] = [
    "cpuacct.usage",
    "cpu.stat",
    "memory.usage_in_bytes",
    "memory.current",
    "memory.stat",
    "memory.swap.current",
    "pids.current",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
];

/// Longer than nearly every such file; a longer one is read in steps.
const STEP: usize = 4096;

/// No file of a cgroup is longer: what goes on after this is cut off.
const LONGEST: usize = 1 << 20;

/// A cgroup; what is often read of it is kept open from its first reading on.
///
/// A descriptor does not keep a cgroup from being removed; reading then says that there is nothing.
#[derive(Debug)]
pub struct Kept {
    places: Arc<Places>,
    files: Vec<Slot>,
    /// By controller: a cgroup gets no new files.
    names: Vec<(String, Vec<String>)>,
}

#[derive(Debug)]
struct Slot {
    controller: &'static str,
    name: Box<str>,
    /// `None` where there is no such file.
    file: Option<Descriptor>,
}

/// A file that is counted as kept.
#[derive(Debug)]
struct Descriptor(File);

impl Descriptor {
    /// Keeps a file, if it is not one too many.
    fn keep(file: File) -> Result<Self, File> {
        if KEPT.fetch_add(1, Ordering::Relaxed) < most() {
            return Ok(Self(file));
        }
        KEPT.fetch_sub(1, Ordering::Relaxed);
        Err(file)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Half of what this process may open: the rest is for what it is there for.
fn most() -> u64 {
    static MOST_HERE: OnceLock<u64> = OnceLock::new();
    *MOST_HERE.get_or_init(|| getrlimit(Resource::Nofile).current.map_or(MOST, |n| MOST.min(n / 2)))
}

impl Kept {
    /// A cgroup; nothing is opened yet.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self { places: Arc::new(places), files: Vec::new(), names: Vec::new() }
    }

    /// Where it is.
    #[must_use]
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// How many files are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.files.iter().filter(|slot| slot.file.is_some()).count()
    }

    fn text(&mut self, controller: &'static str, name: &str) -> Option<String> {
        let known = |slot: &&Slot| *slot.name == *name && slot.controller == controller;
        if let Some(slot) = self.files.iter().find(known) {
            return slot.file.as_ref().and_then(|kept| read(&kept.0).ok());
        }
        let dir = match controller {
            UNIFIED => self.places.unified()?,
            other => self.places.legacy(other)?,
        };
        let (text, file) = match open(dir, name) {
            Ok(file) if !OFTEN.contains(&name) => return read(&file).ok(),
            Ok(file) => (read(&file).ok(), Descriptor::keep(file).map(Some)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Ok(None)),
            // Too many open files, or a cgroup that is going away: asked again next time.
            Err(_) => return None,
        };
        if let Ok(file) = file {
            self.files.push(Slot { controller, name: name.into(), file });
        }
        text
    }
}

/// What stands for the unified hierarchy, in which every controller is.
const UNIFIED: &str = "";

/// The controllers that are read, so that a slot need not own its controller's name.
const CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb", "rdma"];

impl Files for Kept {
    fn is_legacy(&self, controller: &str) -> bool {
        self.places.legacy(controller).is_some()
    }

    fn is_unified(&self) -> bool {
        self.places.unified().is_some()
    }

    fn read(&mut self, controller: &str, [one, two]: [&str; 2]) -> Option<String> {
        let legacy = self.places.legacy(controller).is_some();
        let controller = CONTROLLERS.into_iter().find(|own| legacy && *own == controller);
        let (controller, name) = controller.map_or((UNIFIED, two), |own| (own, one));
        if name.is_empty() { None } else { self.text(controller, name) }
    }

    fn read_unified(&mut self, name: &str) -> Option<String> {
        self.text(UNIFIED, name)
    }

    fn names(&mut self, controller: &str) -> Vec<String> {
        if let Some((_, names)) = self.names.iter().find(|(own, _)| own == controller) {
            return names.clone();
        }
        let Some(dir) = self.places.legacy(controller).or_else(|| self.places.unified()) else {
            return Vec::new();
        };
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let own = |name: &String| name.split('.').next() == Some(controller);
        let names: Vec<String> = names.filter(own).collect();
        self.names.push((controller.to_owned(), names.clone()));
        names
    }
}

fn open(dir: &Path, name: &str) -> io::Result<File> {
    File::open(dir.join(name))
}

/// The whole text, from its beginning.
fn read(file: &File) -> io::Result<String> {
    let mut step = [0; STEP];
    let mut length = file.read_at(&mut step, 0)?;
    let mut bytes = step[..length].to_vec();
    // The kernel makes the text of these files in one piece: what is short is the end.
    while length == STEP && bytes.len() < LONGEST {
        length = file.read_at(&mut step, bytes.len() as u64)?;
        bytes.extend_from_slice(&step[..length]);
    }
    String::from_utf8(bytes).map_err(io::Error::other)
}
