//! What the kernel counts for a container, whichever version of cgroups counts it.
//!
//! Times are nanoseconds and sizes bytes. A limit that there is not is `u64::MAX`, as the kernel's largest number, and
//! a file that a host does not have counts nothing.

mod events;
mod metrics;
mod read;

use std::collections::BTreeMap;

use super::folder::Folders;

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
    pub stat: BTreeMap<String, u64>,
    /// memory.events of version 2: how often each limit was reached.
    pub events: BTreeMap<String, u64>,
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

    /// The first of these fields of memory.stat that there is.
    fn first(&self, names: &[&str]) -> u64 {
        names.iter().find_map(|name| self.stat.get(*name)).copied().unwrap_or(0)
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
    /// Reads the files.
    pub(super) fn read(folders: &Folders) -> Self {
        read::all(folders)
    }
}
