//! Id mappings: which of the host's users and groups a user namespace's are, and user namespaces made from them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{Failure, FailureKind};
use oci_spec::runtime::LinuxIdMapping;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sys::process::{CloneRequest, NEW_USERS, SingleThreaded, Wait, wait};

use super::create::passed;
use super::procfs::Procfs;
use super::report;

/// The kernel takes no more ranges (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// The mappings of users and groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maps {
    users: Vec<Range>,
    groups: Vec<Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    size: u32,
}

/// A user namespace and what it maps.
#[derive(Debug)]
pub struct Users {
    file: OwnedFd,
    maps: Maps,
}

impl Maps {
    /// Reads the mappings of a spec; `None` when it has none.
    ///
    /// # Errors
    /// `InvalidArgument`: only one of the two, or ranges that are empty, too long, or overlap.
    pub fn new(
        users: Option<&Vec<LinuxIdMapping>>,
        groups: Option<&Vec<LinuxIdMapping>>,
        name: &str,
    ) -> Result<Option<Self>, Failure> {
        let list = |list: Option<&Vec<LinuxIdMapping>>| -> Vec<Range> {
            let range = |one: &LinuxIdMapping| Range {
                inside: one.container_id(),
                outside: one.host_id(),
                size: one.size(),
            };
            list.into_iter().flatten().map(range).collect()
        };
        let maps = Self { users: list(users), groups: list(groups) };
        match (maps.users.is_empty(), maps.groups.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => {
                check(&maps.users, name)?;
                check(&maps.groups, name)?;
                Ok(Some(maps))
            }
            _ => Err(invalid(name, "users and groups have to be mapped together")),
        }
    }

    /// What the user namespace of a process maps, as this process sees it.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of(procfs: &Procfs, pid: u32) -> Result<Self, Failure> {
        let fail = |error| Failure::os("read id mappings of", pid.to_string(), error);
        let read = |file: &str| procfs.read(format!("{pid}/{file}")).map_err(fail);
        Self::parse(&read("uid_map")?, &read("gid_map")?)
            .ok_or_else(|| fail(std::io::ErrorKind::InvalidData.into()))
    }

    /// The host's ids of the namespace's root.
    ///
    /// # Errors
    /// `InvalidArgument`: it has none.
    pub fn root(&self) -> Result<(u32, u32), Failure> {
        let find = |ranges: &[Range]| {
            ranges.iter().find(|range| range.inside == 0).map(|range| range.outside)
        };
        find(&self.users)
            .zip(find(&self.groups))
            .ok_or_else(|| invalid("user namespace", "user or group 0 is not mapped"))
    }

    /// Whether a user of the host is one of the namespace's.
    pub fn has_user(&self, uid: u32) -> bool {
        let holds = |range: &Range| uid.checked_sub(range.outside).is_some_and(|n| n < range.size);
        self.users.iter().any(holds)
    }

    fn parse(users: &str, groups: &str) -> Option<Self> {
        let list = |text: &str| {
            let range = |line: &str| {
                let mut numbers = line.split_ascii_whitespace().map(str::parse);
                let mut next = || numbers.next()?.ok();
                Some(Range { inside: next()?, outside: next()?, size: next()? })
            };
            text.lines().map(range).collect::<Option<Vec<_>>>()
        };
        Some(Self { users: list(users)?, groups: list(groups)? })
    }
}

impl Users {
    /// Makes a user namespace with these mappings. Nobody is in it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make(thread: &SingleThreaded, procfs: &Procfs, maps: Maps) -> Result<Self, Failure> {
        let fail = |error: std::io::Error| Failure::os("create", "user namespace", error);
        let file = with_member(
            thread,
            NEW_USERS,
            || true,
            |member| {
                let write = |file: &str, ranges: &[Range]| {
                    procfs.write(format!("{member}/{file}"), text(ranges).as_bytes()).map_err(
                        |error| {
                            Failure::os_kind(
                                FailureKind::InvalidArgument,
                                "map ids with",
                                file,
                                error,
                            )
                        },
                    )
                };
                write("gid_map", &maps.groups)?;
                write("uid_map", &maps.users)?;
                procfs.follow(format!("{member}/ns/user")).map_err(|e| fail(e.into()))
            },
        )?;
        Ok(Self { file, maps })
    }

    /// Takes one that is there, and reads what it maps.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn open(thread: &SingleThreaded, procfs: &Procfs, file: OwnedFd) -> Result<Self, Failure> {
        let join =
            || move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::User)).is_ok();
        let maps = with_member(thread, 0, join, |member| Maps::of(procfs, member))?;
        Ok(Self { file, maps })
    }

    /// The namespace.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What it maps.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Moves this process into the namespace. Its ids stay what they are for the host.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join(&self) -> Result<(), Failure> {
        move_into_link_name_space(self.file(), Some(LinkNameSpaceType::User))
            .map_err(|e| Failure::os("join", "user namespace", e))
    }
}

/// Runs `work` while a child, for which it gets the pid, is in the namespaces of `flags` and has done `begin`.
fn with_member<T>(
    thread: &SingleThreaded,
    flags: u64,
    begin: impl FnOnce() -> bool,
    work: impl FnOnce(u32) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (ours, theirs) = report::pair()?;
    let mut ours = Some(ours);
    let how = CloneRequest { flags, cgroup: None };
    let child = thread
        .clone(&how, || {
            drop(ours.take());
            if begin() && rustix::io::write(&theirs, &[1]).is_ok() {
                // The end comes when nobody needs it any longer, whatever becomes of whoever made it.
                let _ended = passed(&theirs);
            }
            0
        })
        .map_err(|e| Failure::os("create", "user namespace", e))?;
    drop(theirs);
    let begun = ours.as_ref().is_some_and(passed);
    let done = if begun {
        work(child.as_raw_nonzero().get().unsigned_abs())
    } else {
        Err(invalid("user namespace", "it cannot be entered"))
    };
    drop(ours);
    let _ended = wait(Some(child), Wait::Block);
    done
}

fn check(ranges: &[Range], name: &str) -> Result<(), Failure> {
    if ranges.len() > MAX_RANGES {
        return Err(invalid(name, "too many ranges of ids"));
    }
    let fits = |first: u32, size: u32| {
        size > 0 && first.checked_add(size - 1).is_some_and(|last| last < u32::MAX)
    };
    let overlap = |one: u32, size: u32, other: u32, others: u32| {
        u64::from(one) < u64::from(other) + u64::from(others)
            && u64::from(other) < u64::from(one) + u64::from(size)
    };
    for (at, one) in ranges.iter().enumerate() {
        if !(fits(one.inside, one.size) && fits(one.outside, one.size)) {
            return Err(invalid(name, "a range of ids is empty or too long"));
        }
        let clash = ranges.iter().skip(at + 1).any(|other| {
            overlap(one.inside, one.size, other.inside, other.size)
                || overlap(one.outside, one.size, other.outside, other.size)
        });
        if clash {
            return Err(invalid(name, "ranges of ids overlap"));
        }
    }
    Ok(())
}

fn text(ranges: &[Range]) -> String {
    use std::fmt::Write;
    ranges.iter().fold(String::new(), |mut text, range| {
        let _infallible = writeln!(text, "{} {} {}", range.inside, range.outside, range.size);
        text
    })
}

fn invalid(name: &str, cause: &'static str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, "map ids of", name, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, size: u32) -> Range {
        Range { inside, outside, size }
    }

    #[test]
    fn ranges_that_are_empty_too_long_or_overlap_are_refused() {
        assert!(check(&[range(0, 100_000, 65_536), range(65_536, 0, 1)], "x").is_ok());
        let wrong: [&[Range]; 5] = [
            &[range(0, 1, 0)],
            &[range(u32::MAX, 0, 1)],
            &[range(0, 4_294_967_000, 4000)],
            &[range(0, 1000, 10), range(9, 5000, 1)],
            &[range(0, 1000, 10), range(50, 1009, 1)],
        ];
        for ranges in wrong {
            assert!(check(ranges, "x").is_err(), "{ranges:?}");
        }
    }

    #[test]
    fn what_the_kernel_says_of_its_mappings_is_read_back() {
        let maps = Maps::parse("         0     100000      65536\n", "0 5 1\n").unwrap();
        assert_eq!(maps.users, [range(0, 100_000, 65_536)]);
        assert_eq!(text(&maps.groups), "0 5 1\n");
        assert_eq!(Maps::parse("0 x 1", ""), None);
    }
}
