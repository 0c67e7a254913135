//! User namespaces made by a process that has threads, for which neither unshare(2) nor `setns(2)` does it.
//!
//! ```text
//!  caller                          member
//!   │ clone3(NEWUSER | others) ─────► waits, and can do nothing else
//!   │ writes its id maps, binds or uses /proc/MEMBER/ns/*
//!   └ drops it ─────────────────────► ends
//! ```
//!
//! Namespaces made in the same clone belong to the new user namespace (user_namespaces(7)).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::mount::map_ids;
use crate::process::{NEW_USERS, Wait, wait};

/// Ids of a user namespace and the host's that stand behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// What a user namespace maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMaps<'a> {
    /// Users.
    pub users: &'a [IdRange],
    /// Groups.
    pub groups: &'a [IdRange],
}

impl IdMaps<'_> {
    /// The host's user behind the namespace's root, if it has one.
    #[must_use]
    pub fn root(&self) -> Option<u32> {
        self.users.iter().find(|range| range.inside == 0).map(|range| range.outside)
    }
}

/// A process in a new user namespace that waits for its end, which comes when this value is dropped.
#[derive(Debug)]
pub struct Member {
    pid: Pid,
    /// Its other end is what the member waits on: it ends with this process, too.
    line: Option<OwnedFd>,
}

impl Member {
    /// Makes a user namespace with these mappings, and in it the other namespaces of `flags` (`CLONE_NEW*`).
    ///
    /// # Errors
    /// As clone3(2), or the kernel does not take the mappings (`EINVAL`, `EPERM`).
    pub fn make(flags: u64, maps: &IdMaps<'_>) -> io::Result<Self> {
        let (hear, say) = pipe_with(PipeFlags::CLOEXEC)?;
        let pid = clone_waiting(flags | NEW_USERS, hear.as_raw_fd(), say.as_raw_fd())?;
        let member = Self { pid, line: Some(say) };
        fs::write(member.file("gid_map"), text(maps.groups))?;
        fs::write(member.file("uid_map"), text(maps.users))?;
        Ok(member)
    }

    /// A file of its folder in procfs, such as `ns/user`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        // It is not reaped before it is dropped: the number is its own until then.
        Path::new("/proc").join(self.pid.as_raw_nonzero().to_string()).join(name)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.line.take());
        let _ended = wait(Some(self.pid), Wait::Block);
    }
}

/// Whether files below `folder` can be shown with mapped ids: what containers in user namespaces need of its file
/// system.
#[must_use]
pub fn can_map(folder: &Path) -> bool {
    let range = [IdRange { inside: 0, outside: 65_536, size: 65_536 }];
    let mapped = || -> io::Result<()> {
        let member = Member::make(0, &IdMaps { users: &range, groups: &range })?;
        let users = fs::File::open(member.file("ns/user"))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        map_ids(rustix::mount::open_tree(CWD, folder, flags)?, users, false)
    };
    mapped().is_ok()
}

fn text(ranges: &[IdRange]) -> String {
    let line = |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.size);
    ranges.iter().map(line).collect()
}

/// Makes a process that does nothing but wait until nobody has `say` any longer.
fn clone_waiting(flags: u64, hear: i32, say: i32) -> io::Result<Pid> {
    // SAFETY: zero is a valid value for every field of this plain structure.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and with no stack given the child continues here on a copy of the memory. Other threads
    // of the parent may have held locks at that moment, so the child makes system calls only, and returns nowhere.
    unsafe {
        match libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) {
            0 => {
                libc::syscall(libc::SYS_close, say);
                let mut byte = 0_u8;
                while libc::syscall(libc::SYS_read, hear, &raw mut byte, 1) < 0
                    && *libc::__errno_location() == libc::EINTR
                {}
                libc::syscall(libc::SYS_exit_group, 0);
                std::hint::unreachable_unchecked()
            }
            pid => i32::try_from(pid)
                .ok()
                .and_then(|pid| Pid::from_raw(pid).filter(|_| pid > 0))
                .ok_or_else(io::Error::last_os_error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_member_is_in_namespaces_of_its_own_and_ends_when_it_is_dropped() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: takes root");
            return;
        }
        let range = [IdRange { inside: 0, outside: 100_000, size: 1000 }];
        let maps = IdMaps { users: &range, groups: &range };
        let member = Member::make(crate::process::NEW_NETWORK, &maps).unwrap();
        let read = |name: &str| fs::read_to_string(member.file(name)).unwrap();
        let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(read("uid_map")), ["0", "100000", "1000"]);
        assert_eq!(words(read("gid_map")), ["0", "100000", "1000"]);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        for name in ["ns/user", "ns/net"] {
            assert_ne!(inode(&member.file(name)), inode(&Path::new("/proc/self").join(name)));
        }
        let folder = member.file("");
        drop(member);
        assert!(!folder.exists());
        assert_eq!(maps.root(), Some(100_000));
    }

    #[test]
    fn mappings_that_the_kernel_does_not_take_are_an_error_and_leave_no_process() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: takes root");
            return;
        }
        let zero = [IdRange { inside: 0, outside: 100_000, size: 0 }];
        assert!(Member::make(0, &IdMaps { users: &zero, groups: &zero }).is_err());
        let one = IdRange { inside: 0, outside: 100_000, size: 10 };
        let overlap = [one, IdRange { inside: 5, outside: 200_000, size: 10 }];
        assert!(Member::make(0, &IdMaps { users: &overlap, groups: &overlap }).is_err());
    }

    #[test]
    fn a_file_system_is_asked_whether_it_can_map() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: takes root");
            return;
        }
        assert!(!can_map(Path::new("/proc")));
        assert!(!can_map(Path::new("/nowhere")));
    }
}
