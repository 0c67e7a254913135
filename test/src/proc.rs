//! What `/proc` tells about processes and memory.

use std::fs;

/// A process of this PID namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// Its command line, or its name in brackets when it has none.
    pub command: String,
    /// When it started, in clock ticks since boot: with the id, its identity.
    pub start: u64,
}

/// The flag of a thread of the kernel's own (PF_KTHREAD, linux/sched.h): they come and go as it likes.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// All processes that are alive (zombies are not).
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// The process with this id, if it is alive.
pub fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // proc_pid_stat(5): state is field 3, the parent field 4, the flags field 9, the start time field 22.
    let (state, parent, start) = (fields[0], fields[1].parse().ok()?, fields[19].parse().ok()?);
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
    let name = name.split_once('(').map_or(name, |(_, name)| name);
    let command = if command.is_empty() { format!("[{name}]") } else { command };
    let kernels = fields[6].parse::<u32>().ok()? & KERNEL_THREAD != 0;
    (state != "Z" && !kernels).then_some(Process { pid, parent, command, start })
}

/// The processes whose program has this name.
///
/// By the command line: the link to the executable leads nowhere for a process that has left the file system it is in.
pub fn named(name: &str) -> Vec<Process> {
    let is = |process: &Process| {
        let program = process.command.split(' ').next().unwrap_or_default();
        program.rsplit('/').next() == Some(name)
    };
    processes().into_iter().filter(is).collect()
}

/// A process's proportional share of memory, in KiB (`smaps_rollup`, proc(5)).
pub fn pss_kib(pid: u32) -> Option<u64> {
    rollup(pid, "Pss:")
}

/// A process's own memory without its program's, which others may share, in KiB.
pub fn anonymous_kib(pid: u32) -> Option<u64> {
    rollup(pid, "Anonymous:")
}

fn rollup(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
