//! What the kernel counts for a cgroup, whichever version of cgroups counts it.
//!
//! Times are nanoseconds and sizes bytes. A limit that there is not is `u64::MAX`, as the kernel's largest number, and
//! a file that a host does not have counts nothing.
//!
//! The shim reads everything once in a while, by path; the daemon reads a little very often, from descriptors that it
//! keeps. Both use the functions here, over [`Files`]; `place` finds a process's cgroups, `kept` keeps their files.

mod descriptors;
mod fields;
mod kept;
mod place;
mod read;

pub use descriptors::{Descriptors, count_descriptors};
pub use fields::Fields;
pub use kept::Kept;
pub use place::Places;
pub use read::{
    cpu_throttling, cpu_time, cpu_times, huge_pages_used, io_done, memory_history, memory_limits,
    memory_now, memory_usage, pids, pids_current, pressure,
};

/// Where the files of one cgroup are.
///
/// Files are named in the words of both versions; an empty name says that this version has none.
pub trait Files {
    /// Whether version 1 has this controller here.
    fn is_legacy(&self, controller: &str) -> bool;

    /// Whether the unified hierarchy has this cgroup, with or without controllers.
    fn is_unified(&self) -> bool;

    /// The text of a file of a controller, in the words of the version that has it; `None` where there is none.
    fn read(&mut self, controller: &str, names: [&str; 2]) -> Option<String>;

    /// The text of a file that only the unified hierarchy has, also where its controllers are elsewhere.
    fn read_unified(&mut self, name: &str) -> Option<String>;

    /// The names of all files of a controller: those that begin with its name.
    fn names(&mut self, controller: &str) -> Vec<String>;
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// The memory controller is version 1's: readers expect its names then.
    pub legacy: bool,
    /// CPU time.
    pub cpu: Cpu,
    /// Memory and swap.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block devices.
    pub io: Io,
    /// Huge pages, a row for each size.
    pub hugetlb: Vec<HugePages>,
    /// RDMA objects in use, a row for each device.
    pub rdma: Vec<Rdma>,
    /// RDMA limits, a row for each device.
    pub rdma_limit: Vec<Rdma>,
}

/// CPU time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// All of it.
    pub usage: u64,
    /// In programs.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// By CPU; version 1 only.
    pub per_cpu: Vec<u64>,
    /// Periods with a quota.
    pub periods: u64,
    /// Periods in which it was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled: u64,
    /// Periods in which saved quota was used.
    pub bursts: u64,
    /// Time above the quota.
    pub burst: u64,
    /// Who waited for a CPU.
    pub pressure: Option<Pressure>,
}

/// A counter with its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Now.
    pub usage: u64,
    /// The highest so far; zero where the kernel does not keep it.
    pub peak: u64,
    /// At most.
    pub limit: u64,
    /// How often the limit was reached.
    pub failures: u64,
}

/// Memory and swap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Memory.
    pub memory: Counter,
    /// Memory and swap together, as version 1 counts.
    pub with_swap: Counter,
    /// Swap alone, as version 2 counts.
    pub swap: Counter,
    /// The kernel's own, for the container; version 1 only.
    pub kernel: Counter,
    /// Its network buffers; version 1 only.
    pub kernel_tcp: Counter,
    /// memory.stat, as it is.
    pub stat: Fields,
    /// memory.events of version 2: how often each limit was reached.
    pub events: Fields,
    /// How many processes the kernel has killed.
    pub oom_kills: u64,
    /// Version 1: the kernel does not kill.
    pub oom_kill_disabled: bool,
    /// Version 1: everybody waits for memory.
    pub under_oom: bool,
    /// Who waited for memory.
    pub pressure: Option<Pressure>,
}

impl Memory {
    /// Pages of files.
    #[must_use]
    pub fn cache(&self) -> u64 {
        self.first(&["total_cache", "cache", "file"])
    }

    /// What is used and cannot be given back at once: usage without the pages of files that nobody has used lately.
    #[must_use]
    pub fn working_set(&self) -> u64 {
        let idle = self.first(&["total_inactive_file", "inactive_file"]);
        self.memory.usage.saturating_sub(idle)
    }

    /// Memory of the processes themselves, as version 1 names it; version 2 has "anon".
    #[must_use]
    pub fn rss(&self) -> u64 {
        self.first(&["total_rss", "rss", "anon"])
    }

    /// The first of these fields of memory.stat that there is.
    #[must_use]
    pub fn first(&self, names: &[&str]) -> u64 {
        names.iter().find_map(|name| self.stat.get(name)).unwrap_or(0)
    }
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// At most.
    pub limit: u64,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Io {
    /// Bytes, by device and operation.
    pub bytes: Vec<IoEntry>,
    /// Operations, by device and operation.
    pub operations: Vec<IoEntry>,
    /// Waiting operations; version 1 with BFQ only, as the following.
    pub queued: Vec<IoEntry>,
    /// Nanoseconds in the device.
    pub service_time: Vec<IoEntry>,
    /// Nanoseconds in the queue.
    pub wait_time: Vec<IoEntry>,
    /// Merged operations.
    pub merged: Vec<IoEntry>,
    /// Milliseconds of the device's time.
    pub time: Vec<IoEntry>,
    /// Sectors.
    pub sectors: Vec<IoEntry>,
    /// Who waited for a device.
    pub pressure: Option<Pressure>,
}

/// One device and one kind of operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoEntry {
    /// The device's major number.
    pub major: u64,
    /// Its minor number.
    pub minor: u64,
    /// "Read", "Write", "Discard", or empty where they are not told apart.
    pub operation: String,
    /// How much.
    pub value: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The size, as in the files' names ("2MB").
    pub size: String,
    /// Bytes.
    pub counter: Counter,
}

/// RDMA of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rdma {
    /// The device.
    pub device: String,
    /// Handles.
    pub handles: u32,
    /// Objects.
    pub objects: u32,
}

/// How much time was lost for want of something (PSI).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// By somebody.
    pub some: Stall,
    /// By everybody at once.
    pub full: Stall,
}

/// One line of PSI.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last 60 seconds.
    pub avg60: f64,
    /// Percent of the last 300 seconds.
    pub avg300: f64,
    /// Microseconds in all.
    pub total: u64,
}

impl Stats {
    /// Reads everything.
    pub fn read(files: &mut impl Files) -> Self {
        read::all(files)
    }
}
