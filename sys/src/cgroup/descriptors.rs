//! The files that the processes of a cgroup have open.

use std::fs;

use super::Places;

/// More are not looked at in one go: a tenant may open as many as its limits let it.
const MOST: u64 = 20_000;

/// What the processes of a cgroup have open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Processes.
    pub processes: u64,
    /// Open files of any kind.
    pub open: u64,
    /// Sockets among them.
    pub sockets: u64,
    /// How many files the first process may open; `u64::MAX` is no limit.
    pub limit: u64,
}

/// Counts the open files of all processes of a cgroup, at most some thousands of them.
///
/// That is a look at every file of every process: some ten microseconds for a small one. A process that ends meanwhile
/// has none.
#[must_use]
pub fn count_descriptors(places: &Places) -> Descriptors {
    let mut count = Descriptors { limit: u64::MAX, ..Descriptors::default() };
    let Some(dir) = places.any() else { return count };
    let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for (at, pid) in members.lines().enumerate() {
        if at == 0 {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
            count.limit = open_files(&limits).unwrap_or(u64::MAX);
        }
        count.processes += 1;
        if count.open >= MOST {
            continue;
        }
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            count.open += 1;
            let target = fs::read_link(entry.path()).unwrap_or_default();
            count.sockets +=
                u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    count
}

/// The soft limit in `/proc/<pid>/limits`; `None` is unlimited.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(open_files("Max open files            unlimited  unlimited files\n"), None);
    }
}
