//! What is left of a container whose creation or whose shim came to a sudden end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::launch::Launcher;
use super::task::Shim;
use crate::bundle::{Bundle, SPEC_FILE};
use crate::error::ShimError;
use crate::slice::ScopeName;

/// How long killed processes may take to leave their cgroup.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long another runtime may take to free what it has made.
const FREE_DEADLINE: Duration = Duration::from_secs(30);

/// What another runtime has of a container, in the bundle.
const FOREIGN_FOLDER: &str = "foreign";

/// Between two looks at a cgroup that is being emptied.
const PAUSE: Duration = Duration::from_millis(5);

/// Kills and frees whatever a bundle stands for, whether its shim lives or not, and removes the folder.
///
/// # Errors
/// The kernel refuses to let go of something; the folder is kept then.
pub async fn dissolve(launcher: &Launcher, bundle: Bundle) -> Result<(), ShimError> {
    if let Ok(shim) = Shim::connect(&bundle).await {
        // Each may fail because it was done before, or because the shim goes away: what counts is what is left.
        drop(shim.kill(Signal::KILL.as_raw(), true).await);
        drop(shim.delete().await);
        drop(shim.shutdown().await);
    }
    let path = bundle.dir().to_owned();
    if path.join(FOREIGN_FOLDER).exists() {
        // What another runtime has made, its own ways free best. If it is not on the node any more, or fails, what it
        // leaves is freed below: who would be right to keep the container for that?
        drop(launcher.play("free", &path, FREE_DEADLINE).await);
    }
    let freed = tokio::task::spawn_blocking(move || {
        free_cgroups(&bundle)?;
        bundle.remove().map_err(io::Error::other)
    });
    let freed = freed.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    freed.map_err(|source| ShimError::Launch { operation: "free what is left of", path, source })
}

/// Empties and removes the container's cgroup in every hierarchy.
fn free_cgroups(bundle: &Bundle) -> io::Result<()> {
    let Ok(text) = fs::read(bundle.dir().join(SPEC_FILE)) else { return Ok(()) };
    let Ok(spec) = serde_json::from_slice::<Spec>(&text) else { return Ok(()) };
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let Some(path) = path.as_deref().and_then(below_mount_point) else { return Ok(()) };
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for hierarchy in hierarchies(&mounts) {
        free(&hierarchy.join(&path))?;
    }
    Ok(())
}

/// A spec's cgroup path, also in systemd's form: a scope without processes is gone by itself.
fn below_mount_point(path: &Path) -> Option<PathBuf> {
    let scope = path.to_str().filter(|text| ScopeName::is_meant(text));
    match scope {
        Some(text) => ScopeName::parse(text).ok().map(|name| name.path()),
        None => path.strip_prefix("/").ok().map(Path::to_owned),
    }
}

/// Where cgroup file systems are mounted (proc_pid_mountinfo(5)).
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let kind = file_system.split(' ').next()?;
            let cgroup = kind == "cgroup" || kind == "cgroup2";
            cgroup.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
        })
        .collect()
}

fn free(cgroup: &Path) -> io::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match fs::remove_dir(cgroup) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => kill_all(cgroup),
        }
        sleep(PAUSE);
    }
}

fn kill_all(cgroup: &Path) {
    // cgroup v2 does it in one step, forks included (cgroup-v2.rst, cgroup.kill).
    if fs::write(cgroup.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for pid in members(cgroup) {
        let Some(handle) =
            Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        else {
            continue;
        };
        // With the handle open, a pid that is still a member is the member's.
        if members(cgroup).contains(&pid) {
            // It may have ended since.
            let _ended = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}

fn members(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cgroup_hierarchy_is_found_and_nothing_else() {
        let mountinfo = "\
            30 23 0:26 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory\n\
            31 23 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
            32 23 0:28 / /tmp rw - tmpfs cgroup rw\n";
        let expected = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(hierarchies(mountinfo), expected);
    }
}
