//! A terminal of the container's own devpts: the master goes to the shim, the slave to the process.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::{Failure, FailureKind};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use sys::confined::Root;

use super::mount::put;
use super::target::{self, Wanted};

/// The magic number of devpts (statfs(2)).
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The end that the shim reads and writes.
    pub master: OwnedFd,
    /// The end that the process has.
    pub slave: OwnedFd,
}

impl Terminal {
    /// Makes one in the devpts at `/dev/pts`.
    ///
    /// # Errors
    /// There is no devpts of the container's own.
    pub fn open(root: &Root) -> Result<Self, Failure> {
        let path = Path::new("/dev/pts");
        let dir = root.open_dir(path).map_err(|e| target::invalid(path, e))?;
        // What only looks like it must not even be opened: a device can act on that.
        if !rustix::fs::fstatfs(&dir).is_ok_and(|found| found.f_type == DEVPTS_MAGIC) {
            let cause = "is not a devpts";
            return Err(Failure::new(FailureKind::InvalidArgument, "use", "/dev/pts", cause));
        }
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let master = openat(&dir, "ptmx", flags, Mode::empty())
            .map_err(|e| Failure::os("open", "/dev/pts/ptmx", e))?;
        let fail = |error: Errno| Failure::os("open terminal", "", error);
        unlockpt(&master).map_err(fail)?;
        // The slave by its master, not by a name that somebody could have changed (CVE-2025-52565).
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).map_err(fail)?;
        Ok(Self { master, slave })
    }

    /// Shows it as `/dev/console`.
    ///
    /// # Errors
    /// `InvalidArgument`: something is in its place that leads elsewhere.
    pub fn show_as_console(&self, root: &Root) -> Result<(), Failure> {
        const CONSOLE: &str = "/dev/console";
        let place = target::open_or_make(root, Path::new(CONSOLE), Wanted::File)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree =
            open_tree(&self.slave, c"", flags).map_err(|e| Failure::os("mount", CONSOLE, e))?;
        put(&tree, &place, CONSOLE)
    }

    /// Gives it a size.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&self, size: Winsize) -> Result<(), Failure> {
        tcsetwinsize(&self.master, size).map_err(|e| Failure::os("resize", "terminal", e))
    }

    /// Gives the master to whoever is at the other end of `console`: one message, which is the slave's path, with the
    /// file (runc's protocol, docs/terminals.md there).
    ///
    /// # Errors
    /// Nobody takes it.
    pub fn hand_over(&self, console: &OwnedFd) -> Result<(), Failure> {
        let fail = |error: Errno| Failure::os("hand over", "terminal", error);
        let name = ptsname(&self.master, Vec::new()).map_err(fail)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [self.master.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        let bytes = [IoSlice::new(name.as_bytes())];
        let sent = sendmsg(console, &bytes, &mut ancillary, SendFlags::NOSIGNAL);
        sent.map(drop).map_err(fail)
    }

    /// Makes it this process's controlling terminal; the process leads its session already.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn control(&self) -> Result<(), Failure> {
        rustix::process::ioctl_tiocsctty(&self.slave)
            .map_err(|e| Failure::os("take terminal", "", e))
    }
}
