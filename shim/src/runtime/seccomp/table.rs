//! The numbers of the system calls.
//!
//! A text table, sorted by name: that is as small as anything that could be made of it, has no pointers that would be
//! relocated in every shim, and can be read. A `-` says that the architecture has no such call; a name that is not
//! there at all is one that no architecture here has. The numbers are the kernel's (`arch/*/entry/syscalls`,
//! `include/uapi/asm-generic/unistd.h`, Linux 7.1); the differential test holds them against libseccomp's.

use std::sync::OnceLock;

use super::arch::{Arch, X32_BIT};

/// `name`, and a number for each of [`Arch::ALL`].
const TABLE: &str = include_str!("syscalls.tsv");

/// Calls that x86 has also, or only, behind one number, with their own number as its first argument: name, that number,
/// and the argument (linux/net.h, linux/ipc.h).
const MULTIPLEXED: [(&str, u32, u32); 32] = [
    ("accept", SOCKETCALL, 5),
    ("accept4", SOCKETCALL, 18),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("getpeername", SOCKETCALL, 7),
    ("getsockname", SOCKETCALL, 6),
    ("getsockopt", SOCKETCALL, 15),
    ("listen", SOCKETCALL, 4),
    ("msgctl", IPC, 14),
    ("msgget", IPC, 13),
    ("msgrcv", IPC, 12),
    ("msgsnd", IPC, 11),
    ("recv", SOCKETCALL, 10),
    ("recvfrom", SOCKETCALL, 12),
    ("recvmmsg", SOCKETCALL, 19),
    ("recvmsg", SOCKETCALL, 17),
    ("semctl", IPC, 3),
    ("semget", IPC, 2),
    ("semop", IPC, 1),
    ("semtimedop", IPC, 4),
    ("send", SOCKETCALL, 9),
    ("sendmmsg", SOCKETCALL, 20),
    ("sendmsg", SOCKETCALL, 16),
    ("sendto", SOCKETCALL, 11),
    ("setsockopt", SOCKETCALL, 14),
    ("shmat", IPC, 21),
    ("shmctl", IPC, 24),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shutdown", SOCKETCALL, 13),
    ("socket", SOCKETCALL, 1),
    ("socketpair", SOCKETCALL, 8),
];

/// socketcall(2) on x86.
const SOCKETCALL: u32 = 102;
/// ipc(2) on x86.
const IPC: u32 = 117;

/// What is known of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    numbers: [Option<u32>; Arch::ALL.len()],
    multiplexed: Option<(u32, u32)>,
}

impl Syscall {
    /// All names, sorted.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.lines().filter_map(|line| line.split('\t').next())
    }

    /// Finds a call by its name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let fields = line_of(name)?.split('\t').skip(1);
        let mut numbers = [None; Arch::ALL.len()];
        for ((number, field), arch) in numbers.iter_mut().zip(fields).zip(Arch::ALL) {
            let own = field.parse().ok();
            *number = if arch == Arch::X32 { own.map(|own: u32| own | X32_BIT) } else { own };
        }
        let multiplexed = MULTIPLEXED.binary_search_by_key(&name, |(name, ..)| name).ok();
        let multiplexed = multiplexed.map(|at| (MULTIPLEXED[at].1, MULTIPLEXED[at].2));
        Some(Self { numbers, multiplexed })
    }

    /// Its own number.
    #[must_use]
    pub fn number(&self, arch: Arch) -> Option<u32> {
        self.numbers[arch.column()]
    }

    /// The number that it is behind, and the first argument that says that it is meant.
    #[must_use]
    pub fn multiplexed(&self, arch: Arch) -> Option<(u32, u32)> {
        self.multiplexed.filter(|_| arch == Arch::X86)
    }
}

/// Finds a line by its name. Where the lines begin is found out by who needs it first: a builder, which lives shortly.
fn line_of(name: &str) -> Option<&'static str> {
    static LINES: OnceLock<Vec<(&str, &str)>> = OnceLock::new();
    let lines = LINES.get_or_init(|| {
        let lines = TABLE.lines();
        lines.map(|line| (line.split_once('\t').map_or(line, |(name, _)| name), line)).collect()
    });
    let at = lines.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(lines[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_found_by_its_name_and_has_a_number() {
        let names: Vec<&str> = TABLE.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert!(names.len() > 450, "{}", names.len());
        assert!(names.is_sorted());
        for name in names {
            let call = Syscall::find(name).unwrap();
            assert!(call.numbers.iter().any(Option::is_some), "{name}");
        }
        for name in ["", "a", "zzz", "acceptx", "accep", "writev2", "-"] {
            assert_eq!(Syscall::find(name), None, "{name}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_architecture() {
        let of = |name| Arch::ALL.map(|arch| Syscall::find(name).unwrap().number(arch));
        assert_eq!(of("read"), [Some(0), Some(X32_BIT), Some(3), Some(63), Some(3)]);
        assert_eq!(of("rt_sigaction")[1], Some(X32_BIT + 512));
        assert_eq!(of("clone3"), [435, 435 | X32_BIT, 435, 435, 435].map(Some));
        assert_eq!(of("accept"), [Some(43), Some(X32_BIT + 43), None, Some(202), Some(285)]);
        assert_eq!(of("set_tls"), [None, None, None, None, Some(0xf_0005)]);
    }

    #[test]
    fn calls_behind_another_one_are_so_on_x86_only() {
        assert!(MULTIPLEXED.is_sorted_by_key(|(name, ..)| name));
        for (name, ..) in MULTIPLEXED {
            assert!(Syscall::find(name).is_some_and(|call| call.multiplexed.is_some()), "{name}");
        }
        let socket = Syscall::find("socket").unwrap();
        assert_eq!(socket.multiplexed(Arch::X86), Some((102, 1)));
        assert_eq!(socket.multiplexed(Arch::X86_64), None);
        assert_eq!(Syscall::find("socketcall").unwrap().number(Arch::X86), Some(102));
    }
}
