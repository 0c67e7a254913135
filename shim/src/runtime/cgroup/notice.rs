//! How the kernel says that a cgroup is out of memory, at the moment when it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};

/// A file that becomes ready when a cgroup is out of memory.
#[derive(Debug)]
pub enum OomNotice {
    /// Of version 1: an eventfd (cgroup-v1/memory.rst, section 9), and what it was registered with. It says that there is no
    /// memory, before anybody is killed for it; and it is told of the cgroup's own end, too.
    Counter {
        /// Ready for reading.
        event: OwnedFd,
        /// The registration lasts as long as it is open.
        control: File,
    },
    /// Of version 2: the counters, which are urgent (`POLLPRI`) until they are read (cgroup-v2.rst, `memory.events`).
    Counters(File),
}

impl OomNotice {
    /// Asks to be told about the cgroup whose counters are in `file`, opened from `path`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(file: &File, path: &Path) -> io::Result<Self> {
        if path.ends_with("memory.events") {
            return Ok(Self::Counters(file.try_clone()?));
        }
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = fs::File::open(path)?;
        let door = path.with_file_name("cgroup.event_control");
        let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        OpenOptions::new().write(true).open(door)?.write_all(line.as_bytes())?;
        Ok(Self::Counter { event, control })
    }

    /// Whether it is urgent data that is waited for.
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Counters(_))
    }

    /// Takes what was told, so that the next one is heard. `true` if it says itself that somebody is about to be killed:
    /// otherwise the counters do.
    pub fn take(&self) -> bool {
        let Self::Counter { event, .. } = self else { return false };
        let mut count = [0; 8];
        rustix::io::read(event, &mut count).is_ok()
    }
}

impl AsFd for OomNotice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Counter { event, .. } => event.as_fd(),
            Self::Counters(file) => file.as_fd(),
        }
    }
}
