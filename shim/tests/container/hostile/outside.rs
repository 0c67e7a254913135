//! What must never change, whatever a container tries: a tree of the host's, its mounts, and what a kernel parameter
//! that runs programs says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::harness::base;

/// Folders and files of the host beside the container's, and what they and the host looked like.
pub struct Outside {
    pub dir: PathBuf,
    tree: Vec<String>,
    host: Vec<(&'static str, String)>,
}

/// What of the host is compared. A mount that leaked would be in the mount namespace of this process.
const HOST: [&str; 3] =
    ["/proc/self/mountinfo", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe"];

impl Outside {
    /// Makes the tree: a file and a folder, each with the names that a runtime looks for.
    pub fn new(name: &str) -> Self {
        let dir = base().join(name);
        drop(fs::remove_dir_all(&dir));
        for folder in ["folder/x", "folder/pts", "folder/self/fd", "folder/cgroup"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        for file in ["file", "folder/null", "folder/passwd", "folder/token", "folder/x/file"] {
            fs::write(dir.join(file), file).unwrap();
        }
        let (tree, host) = (tree(&dir), host());
        Self { dir, tree, host }
    }

    /// What is no longer byte for byte and inode for inode as it was, once.
    pub fn changes(&mut self) -> Vec<String> {
        let (tree, host) = (tree(&self.dir), host());
        let is = |now: &[String], before: &[String], word: &str| {
            let new = now.iter().filter(|entry| !before.contains(entry));
            new.map(|entry| format!("{word} {entry}")).collect::<Vec<_>>()
        };
        let mut changes = is(&tree, &self.tree, "now");
        changes.extend(is(&self.tree, &tree, "before"));
        for ((path, before), (_, now)) in self.host.iter().zip(&host) {
            if now != before {
                changes.push(format!("{path} is now {now}"));
            }
        }
        (self.tree, self.host) = (tree, host);
        changes
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
        drop(fs::remove_dir(base()));
    }
}

fn host() -> Vec<(&'static str, String)> {
    HOST.iter().map(|path| (*path, fs::read_to_string(path).unwrap_or_default())).collect()
}

/// Every entry with its type, mode, owner, links, time of change, and content.
fn tree(dir: &Path) -> Vec<String> {
    let mut entries = Vec::new();
    let mut ahead = vec![dir.to_owned()];
    while let Some(path) = ahead.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        entries.push(format!(
            "{} {:o} {}:{} {} {}.{} {:?}",
            path.display(),
            found.mode(),
            found.uid(),
            found.gid(),
            found.nlink(),
            found.ctime(),
            found.ctime_nsec(),
            String::from_utf8_lossy(&content),
        ));
        if found.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    entries.sort();
    entries
}
