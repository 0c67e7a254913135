//! What the shim does with a container's cgroups: it counts the kernel's kills, ends everybody, and removes them.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Failure;

use super::super::report::Cloned;
use super::hierarchy::Version;
use super::{Doors, write_file};

/// How often and with which pause a cgroup that is still in use is tried to be removed. Its last processes are dead
/// by then, but the kernel lets go of them only bit by bit.
const ATTEMPTS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(1);

/// The cgroups of a container, as its shim knows them.
#[derive(Debug, Default)]
pub struct Watch {
    /// One folder per hierarchy, the unified one first if there is one.
    dirs: Box<[String]>,
    unified: bool,
    /// Held open, so that no other cgroup of the same name is asked.
    oom: Option<fs::File>,
}

impl Watch {
    /// Looks after what a builder made.
    pub fn new(made: &Cloned) -> Self {
        let oom =
            (!made.oom_file.is_empty()).then(|| fs::File::open(&made.oom_file).ok()).flatten();
        Self { dirs: made.cgroups.clone().into(), unified: made.unified, oom }
    }

    /// Where another process enters the cgroups.
    ///
    /// # Errors
    /// They are gone.
    pub fn doors(&self) -> Result<Doors, Failure> {
        let version = |at: usize| if self.unified && at == 0 { Version::V2 } else { Version::V1 };
        let dirs = self.dirs.iter().enumerate();
        Doors::open(dirs.map(|(at, dir)| (version(at), Path::new(dir))))
    }

    /// The unified folder, for a process to be born in.
    ///
    /// # Errors
    /// It is gone.
    pub fn birthplace(&self) -> Result<Option<fs::File>, Failure> {
        let Some(dir) = self.dirs.first().filter(|_| self.unified) else { return Ok(None) };
        fs::File::open(dir).map(Some).map_err(|e| Failure::os("open cgroup", dir.as_str(), e))
    }

    /// How many processes the kernel has killed because the memory limit was reached.
    pub fn oom_kills(&mut self) -> u64 {
        let mut text = [0; 512];
        let Some(file) = &mut self.oom else { return 0 };
        let read = file.rewind().and_then(|()| file.read(&mut text)).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]);
        // Both versions have a line of this name (memory.events, memory.oom_control).
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.unwrap_or(0)
    }

    /// Sends a signal to everybody in the cgroups.
    ///
    /// # Errors
    /// The members cannot be read.
    pub fn signal_all(&self, signal: Signal) -> io::Result<()> {
        let Some(dir) = self.dirs.first() else { return Ok(()) };
        let dir = Path::new(dir);
        if signal == Signal::KILL
            && self.unified
            && write_file(&dir.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        let list = dir.join("cgroup.procs");
        let members: Vec<(Pid, OwnedFd)> = pids(&list)?
            .filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)))
            .collect();
        // A number may have become another process's before it was opened: whoever is still listed is the right one.
        let still: Vec<Pid> = pids(&list)?.collect();
        for (pid, process) in members {
            if still.contains(&pid) {
                let _gone = pidfd_send_signal(process, signal);
            }
        }
        Ok(())
    }

    /// All processes in the cgroups.
    ///
    /// # Errors
    /// The members cannot be read.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let Some(dir) = self.dirs.first() else { return Ok(Vec::new()) };
        let pids = pids(&Path::new(dir).join("cgroup.procs"))?;
        Ok(pids.map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect())
    }

    /// Ends whoever is left and removes the cgroups, within half a second.
    ///
    /// # Errors
    /// A cgroup is still in use then.
    pub fn remove(&mut self) -> io::Result<()> {
        self.oom = None;
        let mut attempt = 0;
        while let Some(busy) = self.dirs.iter().find_map(|dir| remove_tree(Path::new(dir)).err()) {
            attempt += 1;
            if attempt > ATTEMPTS {
                return Err(busy);
            }
            self.signal_all(Signal::KILL).or_else(ignore_missing)?;
            std::thread::sleep(PAUSE);
        }
        self.dirs = Box::default();
        Ok(())
    }
}

/// Removes a cgroup with those that the container made below it: depth first, and without counting on the names.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
        other => return other.or_else(ignore_missing),
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn pids(list: &Path) -> io::Result<impl Iterator<Item = Pid> + use<>> {
    let text = fs::read_to_string(list)?;
    let pids: Vec<Pid> =
        text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
    Ok(pids.into_iter())
}
