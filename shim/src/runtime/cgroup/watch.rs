//! What the shim does with a container's cgroups: it counts the kernel's kills, ends everybody, and removes them.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sys::cgroup::Stats;

use crate::{Failure, FailureKind};
use oci_spec::runtime::LinuxResources;

use super::super::report::Cloned;
use super::folder::Folders;
use super::freeze::Freezer;
use super::hierarchy::{Hierarchy, Version};
use super::notice::OomNotice;
use super::{Doors, Place, scope, update, write_file};

/// How often and with which pause a cgroup that is still in use is tried to be removed. Its last processes are dead
/// by then, but the kernel lets go of them only bit by bit.
const ATTEMPTS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(1);

/// The cgroups of a container, as its shim or a command line knows them.
///
/// ```text
/// Watch::new(&Cloned)           what a builder made: the paths can be kept in a file and the Watch be made anew of them
///   doors()                     where an exec enters
///   freeze() thaw() is_frozen() pause and resume; both wait, ten seconds at most: in a forked process
///   signal_all(signal)          everybody, also those in cgroups below; a frozen one is thawed to die
///   processes()                 everybody's pid
///   update(&LinuxResources)     other limits, all or none; allocates: to be called in a forked builder
///   stats()                     what the kernel counts; `to_metrics` and `to_events` of `stats` say it for others
///   oom_kills()                 the kernel's kills so far
///   remove()                    ends whoever is left and removes the folders
/// ```
#[derive(Debug, Default)]
pub struct Watch {
    folders: Folders,
    /// Held open, so that no other cgroup of the same name is asked.
    oom: Option<fs::File>,
    /// The same of the slice that a scope is in, and what it said at the start.
    slice_oom: Option<(fs::File, u64)>,
    /// How many it was when it was asked last.
    kills: u64,
    /// Where the kernel says so by itself, if somebody wants to hear.
    notice: Option<OomNotice>,
}

/// What the kernel has said about a cgroup's memory.
#[derive(Debug)]
pub enum Heard {
    /// Nothing that matters.
    Nothing,
    /// There was no memory, and somebody is killed for it.
    Shortage,
    /// The cgroup is gone: what was watched is to be watched no longer.
    End(OomNotice),
}

impl Watch {
    /// Looks after what a builder made.
    pub fn new(made: &Cloned) -> Self {
        let oom =
            (!made.oom_file.is_empty()).then(|| fs::File::open(&made.oom_file).ok()).flatten();
        let folders = Folders::new(made.cgroups.clone(), made.unified, &made.unit);
        let slice = folders.unit().and(folders.unified()).and_then(Path::parent);
        let slice_oom = slice.and_then(|slice| {
            let mut file = fs::File::open(slice.join("memory.events")).ok()?;
            let before = count_kills(&mut file)?;
            Some((file, before))
        });
        Self { folders, oom, slice_oom, kills: 0, notice: None }
    }

    /// What there is of the cgroups that a spec names, for when nobody could report them.
    ///
    /// # Errors
    /// There are no cgroups on this host, or the path is none.
    pub fn find(path: &Path) -> Result<Self, Failure> {
        let place = Place::parse(path)?;
        let relative = place.relative();
        let mut hierarchies = Hierarchy::find()?;
        hierarchies.sort_by_key(|hierarchy| hierarchy.version == Version::V1);
        let unified = hierarchies.first().is_some_and(|first| first.version == Version::V2);
        let dirs = hierarchies.into_iter().map(|hierarchy| hierarchy.mount_point.join(&relative));
        let dirs = dirs.map(|dir| dir.display().to_string()).collect();
        Ok(Self { folders: Folders::new(dirs, unified, place.unit()), ..Self::default() })
    }

    /// The cgroups that the container itself has made below its own, by their path there.
    ///
    /// # Errors
    /// `InvalidArgument`: the path is none, or leads elsewhere.
    pub fn below(&self, path: &str) -> Result<Self, Failure> {
        if path.trim_matches('/').is_empty() {
            return Ok(Self { folders: self.folders.below(Path::new("")), ..Self::default() });
        }
        let relative = Place::parse(Path::new(path))?.relative();
        Ok(Self { folders: self.folders.below(&relative), ..Self::default() })
    }

    /// Where another process enters the cgroups.
    ///
    /// # Errors
    /// They are gone.
    pub fn doors(&self) -> Result<Doors, Failure> {
        Doors::open(self.folders.all())
    }

    /// The unified folder, for a process to be born in.
    ///
    /// # Errors
    /// It is gone.
    pub fn birthplace(&self) -> Result<Option<fs::File>, Failure> {
        let Some(dir) = self.folders.unified() else { return Ok(None) };
        let opened = fs::File::open(dir).map(Some);
        opened.map_err(|e| Failure::os("open cgroup", dir.display().to_string(), e))
    }

    /// How many processes the kernel has killed because the memory limit was reached.
    ///
    /// systemd removes a scope when its last process has ended, and may be faster than whoever asks. What the slice above
    /// has counted since the start is the answer then: in a pod it may be another container's.
    pub fn oom_kills(&mut self) -> u64 {
        if let Some(count) = self.oom.as_mut().and_then(count_kills) {
            self.kills = count;
        } else if let Some((slice, before)) = &mut self.slice_oom
            && let Some(count) = count_kills(slice)
        {
            self.kills = self.kills.max(count.saturating_sub(*before));
        }
        self.kills
    }

    /// Asks the kernel to tell when memory runs out: the file to be watched, if there is a memory controller.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn listen_for_oom(&mut self, made: &Cloned) -> io::Result<Option<&OomNotice>> {
        let Some(file) = &self.oom else { return Ok(None) };
        let notice = OomNotice::new(file, Path::new(&made.oom_file))?;
        Ok(Some(self.notice.insert(notice)))
    }

    /// What [`Self::listen_for_oom`] has heard.
    pub fn hear_oom(&mut self) -> Heard {
        let Some(notice) = &self.notice else { return Heard::Nothing };
        if !self.folders.first().is_some_and(Path::exists) {
            return self.notice.take().map_or(Heard::Nothing, Heard::End);
        }
        if notice.take() {
            return Heard::Shortage;
        }
        let before = self.kills;
        if self.oom_kills() > before { Heard::Shortage } else { Heard::Nothing }
    }

    /// Stops everybody where they stand, and returns when all do.
    ///
    /// # Errors
    /// Somebody does not within ten seconds: everybody goes on then.
    pub fn freeze(&self) -> Result<(), Failure> {
        self.freezer("freeze")?.freeze()
    }

    /// Lets everybody go on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<(), Failure> {
        self.freezer("thaw")?.thaw()
    }

    /// Whether everybody stands still.
    ///
    /// # Errors
    /// There is no such cgroup any more.
    pub fn is_frozen(&self) -> io::Result<bool> {
        Freezer::of(&self.folders).map_or(Ok(false), |freezer| freezer.is_frozen())
    }

    fn freezer(&self, operation: &'static str) -> Result<Freezer<'_>, Failure> {
        Freezer::of(&self.folders).ok_or_else(|| {
            let cause = "it has no cgroup with a freezer";
            Failure::new(FailureKind::FailedPrecondition, operation, "container", cause)
        })
    }

    /// Changes the limits to `resources`; what these do not mention stays. All of them, or none.
    ///
    /// Parses and allocates: a shim calls it in a forked process (`runtime::build_update`).
    ///
    /// # Errors
    /// `InvalidArgument` naming what the kernel does not take, `FailedPrecondition` for a memory limit below what is in
    /// use. Everything is what it was then.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Failure> {
        if self.folders.first().is_none() {
            let cause = "it has no cgroup";
            let kind = FailureKind::FailedPrecondition;
            return Err(Failure::new(kind, "update", "container", cause));
        }
        update::update(&self.folders, resources)
    }

    /// Everything that the kernel counts for the cgroups.
    pub fn stats(&self) -> Stats {
        Stats::read(&mut &self.folders)
    }

    /// Sends a signal to everybody in the cgroups, and in those below them.
    ///
    /// # Errors
    /// The members cannot be read.
    pub fn signal_all(&self, signal: Signal) -> io::Result<()> {
        let Some(dir) = self.folders.first() else { return Ok(()) };
        let kill = signal == Signal::KILL;
        let all_at_once = kill
            && self
                .folders
                .unified()
                .is_some_and(|dir| write_file(&dir.join("cgroup.kill"), "1").is_ok());
        if !all_at_once {
            send(dir, signal)?;
        }
        // Who is frozen the old way cannot even die.
        match Freezer::of(&self.folders).filter(|freezer| kill && freezer.holds_the_killed()) {
            Some(freezer) => freezer.ask_to_thaw(),
            None => Ok(()),
        }
    }

    /// All processes in the cgroups, and in those below them.
    ///
    /// # Errors
    /// The members cannot be read.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let Some(dir) = self.folders.first() else { return Ok(Vec::new()) };
        let pids = members(dir)?;
        Ok(pids.into_iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect())
    }

    /// Ends whoever is left and removes the cgroups, within half a second.
    ///
    /// # Errors
    /// A cgroup is still in use then.
    pub fn remove(&mut self) -> io::Result<()> {
        (self.oom, self.notice) = (None, None);
        self.leave_to_systemd()?;
        let mut attempt = 0;
        while let Some(busy) = self.folders.all().find_map(|(_, dir)| remove_tree(dir).err()) {
            attempt += 1;
            if attempt > ATTEMPTS {
                return Err(busy);
            }
            self.signal_all(Signal::KILL).or_else(ignore_missing)?;
            std::thread::sleep(PAUSE);
        }
        self.folders.clear();
        Ok(())
    }

    /// A scope's folder is systemd's to remove, which it does with the scope as soon as nobody is in it; it would not
    /// notice if somebody else were faster. Only when it does not is it told to.
    fn leave_to_systemd(&self) -> io::Result<()> {
        let Some(unit) = self.folders.unit() else { return Ok(()) };
        let Some(dir) = self.folders.unified() else {
            scope::stop(unit);
            return Ok(());
        };
        if members(dir).is_ok_and(|members| !members.is_empty()) {
            self.signal_all(Signal::KILL).or_else(ignore_missing)?;
        }
        for _ in 0..ATTEMPTS {
            if !dir.exists() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        scope::stop(unit);
        Ok(())
    }
}

/// Both versions have a line of this name (memory.events, memory.oom_control).
fn count_kills(file: &mut fs::File) -> Option<u64> {
    let mut text = [0; 512];
    file.rewind().ok()?;
    let read = file.read(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text[..read]);
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

fn send(dir: &Path, signal: Signal) -> io::Result<()> {
    let open = |pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?));
    let found: Vec<(Pid, OwnedFd)> = members(dir)?.into_iter().filter_map(open).collect();
    // A number may have become another process's before it was opened: whoever is still listed is the right one.
    let still = members(dir)?;
    for (pid, process) in found {
        if still.contains(&pid) {
            let _gone = pidfd_send_signal(process, signal);
        }
    }
    Ok(())
}

/// Who is in a cgroup and in those that the container made below it.
fn members(dir: &Path) -> io::Result<Vec<Pid>> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        // A threaded cgroup tells its members only as a whole, at its top.
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
            String::new()
        }
        other => other?,
    };
    let mut pids: Vec<Pid> =
        text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(members(&entry.path()).unwrap_or_default());
        }
    }
    Ok(pids)
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
