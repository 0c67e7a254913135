//! What should be gone: processes, mounts, namespaces, links, cgroups, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::node::Node;
use crate::proc::{self, Process};

/// The kernel takes namespaces and links down after the last user is gone, in its own time.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was there before a node's first pod.
#[derive(Clone, Debug)]
pub struct Baseline {
    processes: BTreeSet<u32>,
    mounts: BTreeSet<PathBuf>,
    links: BTreeSet<String>,
}

impl Baseline {
    /// What is there now.
    pub fn now() -> Self {
        Self {
            processes: proc::processes().into_iter().map(|process| process.pid).collect(),
            mounts: mounts().into_iter().collect(),
            links: links().into_iter().collect(),
        }
    }

    /// What is there beyond the baseline although the node has no pods, after a moment's patience.
    pub async fn leftovers(&self, node: &Node) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.look(node).await;
            if found.is_empty() || Instant::now() > deadline {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills the processes and detaches the mounts beyond the baseline.
    pub fn kill_rest(&self) {
        for process in proc::processes() {
            let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|_| !self.processes.contains(&process.pid)) {
                // It may have ended meanwhile.
                kill_process(pid, Signal::KILL).ok();
            }
        }
        for path in mounts().into_iter().rev().filter(|path| !self.mounts.contains(path)) {
            unmount(&path, UnmountFlags::DETACH).ok();
        }
    }

    async fn look(&self, node: &Node) -> Vec<String> {
        let mut found = Vec::new();
        match (node.cri.pods(None).await, node.cri.containers(None).await) {
            (Ok(pods), Ok(containers)) => {
                found.extend(pods.into_iter().map(|pod| format!("pod {}", pod.id)));
                found.extend(containers.into_iter().map(|one| format!("container {}", one.id)));
            }
            (pods, containers) => {
                found.push(format!("no lists: {:?} {:?}", pods.err(), containers.err()))
            }
        }
        let own = node.pid();
        let foreign =
            |process: &Process| Some(process.pid) != own && !self.processes.contains(&process.pid);
        let processes = proc::processes().into_iter().filter(foreign);
        found.extend(processes.map(|one| format!("process {} {}", one.pid, one.command)));
        let mounts = mounts().into_iter().filter(|path| !self.mounts.contains(path));
        found.extend(mounts.map(|path| format!("mount {}", path.display())));
        // The bridge stays: the next pod uses it.
        let links = links().into_iter().filter(|link| !self.links.contains(link));
        let links = links.filter(|link| link != "wherry0" && !link.starts_with("cni"));
        found.extend(links.map(|link| format!("link {link}")));
        let ids = node.ids.all();
        for place in [Path::new("/sys/fs/cgroup"), &node.folders.root, &node.folders.state] {
            named_after(place, &ids, &mut found);
        }
        for leases in [node.folders.root.join("cni"), "/var/lib/cni".into()] {
            mentioning(&leases, &ids, &mut found);
        }
        found
    }
}

/// Kills the processes in cgroups of these ids, and removes these cgroups and the volatile folder with its mounts.
pub fn void(ids: &BTreeSet<String>, state: &Path) {
    let mine = |process: &Process| {
        let cgroup =
            fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
        ids.iter().any(|id| cgroup.contains(id.as_str()))
    };
    for process in proc::processes().into_iter().filter(mine) {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        pid.map(|pid| kill_process(pid, Signal::KILL).ok());
    }
    for path in mounts().into_iter().rev().filter(|path| path.starts_with(state)) {
        unmount(&path, UnmountFlags::DETACH).ok();
    }
    fs::remove_dir_all(state).ok();
    let mut cgroups = Vec::new();
    named_after(Path::new("/sys/fs/cgroup"), ids, &mut cgroups);
    for cgroup in cgroups.iter().filter_map(|text| text.strip_prefix("file ")) {
        remove_cgroup(Path::new(cgroup));
    }
}

fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): field 5 is the mount point.
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

fn links() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// Files and folders whose names contain an id. Does not look into the files of images.
fn named_after(folder: &Path, ids: &BTreeSet<String>, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ids.iter().any(|id| name.contains(id.as_str())) {
            found.push(format!("file {}", entry.path().display()));
        } else if name != "fs" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            named_after(&entry.path(), ids, found);
        }
    }
}

/// Small files that mention an id, such as leases of addresses.
fn mentioning(folder: &Path, ids: &BTreeSet<String>, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            mentioning(&path, ids, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ids.iter().any(|id| text.contains(id.as_str()) || name.contains(id.as_str())) {
                found.push(format!("lease {}", path.display()));
            }
        }
    }
}

/// Whether there is a cgroup of this name at the top of any hierarchy.
pub fn has_cgroups(name: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    hierarchies.map(|entry| entry.path()).chain([root.into()]).any(|path| path.join(name).exists())
}

/// The cgroups of this name at the top of every hierarchy, with what is below them.
pub fn remove_cgroups(name: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        remove_cgroup(&hierarchy.path().join(name));
    }
    remove_cgroup(&Path::new("/sys/fs/cgroup").join(name));
}

fn remove_cgroup(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // The kernel keeps a cgroup for a moment after its last process; what stays is reported by the leftover check.
    for _ in 0..50 {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}
