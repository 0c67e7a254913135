//! How a process is scheduled: CPU policy, I/O priority, CPU affinity, memory policy; and its execution domain.

use std::io;
use std::path::Path;

use crate::{Failure, FailureKind};
use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy,
    LinuxPersonalityDomain, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy,
    MemoryPolicyFlagType as MemoryFlag, MemoryPolicyModeType as Mode, Process as SpecProcess,
    Scheduler,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};
use sys::attribute::{Schedule, set_io_priority, set_memory_policy, set_personality, set_schedule};

/// CPUs and memory nodes are numbered below this.
const MAX_NUMBER: usize = 1024;

/// Where a container's bundle says what its execs are, too.
pub const KEPT_FILE: &str = "attributes.json";

/// The part of [`Attributes`] that is the container's.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    memory: Option<(i32, Vec<u64>)>,
    personality: Option<u64>,
}

/// What a process is to the kernel's schedulers. Nothing is set that the spec does not ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    schedule: Option<Schedule>,
    io_priority: Option<(u8, u8)>,
    memory: Option<(i32, Vec<u64>)>,
    personality: Option<u64>,
}

impl Attributes {
    /// Reads what a process's spec asks for.
    ///
    /// # Errors
    /// `InvalidArgument`: values that the kernel cannot have.
    pub fn of_process(spec: &SpecProcess) -> Result<Self, Failure> {
        Ok(Self {
            schedule: spec.scheduler().as_ref().map(schedule).transpose()?,
            io_priority: spec.io_priority().as_ref().map(io_priority).transpose()?,
            ..Self::default()
        })
    }

    /// Adds what the container's spec asks for.
    ///
    /// # Errors
    /// As [`Self::of_process`].
    pub fn add_container(&mut self, linux: &Linux) -> Result<(), Failure> {
        self.memory = linux.memory_policy().as_ref().map(memory).transpose()?;
        let Some(personality) = linux.personality() else { return Ok(()) };
        if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
            return Err(invalid("set", "personality", "its flags are not supported"));
        }
        self.personality = Some(match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        });
        Ok(())
    }

    /// Keeps what the container's spec asks for in a folder, where [`Self::add_kept`] finds it for execs.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep(&self, folder: &Path) -> Result<(), Failure> {
        let kept = Kept { memory: self.memory.clone(), personality: self.personality };
        if kept == Kept::default() {
            return Ok(());
        }
        let fail = |error: io::Error| Failure::os("write", KEPT_FILE, error);
        let bytes = serde_json::to_vec(&kept).map_err(|error| fail(error.into()))?;
        sys::durable::write_volatile(&folder.join(KEPT_FILE), &bytes).map_err(fail)
    }

    /// Adds what [`Self::keep`] has kept in this process's folder: an exec is what the container's first process is.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn add_kept(&mut self) -> Result<(), Failure> {
        let fail = |error: io::Error| Failure::os("read", KEPT_FILE, error);
        let bytes = match std::fs::read(KEPT_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(fail)?,
        };
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| fail(error.into()))?;
        (self.memory, self.personality) = (kept.memory, kept.personality);
        Ok(())
    }

    /// Applies all of it to this process: while it still has the rights to.
    ///
    /// # Errors
    /// `InvalidArgument`: the kernel refuses.
    pub fn apply(&self) -> Result<(), Failure> {
        let fail = |what: &'static str| {
            move |error| Failure::os_kind(FailureKind::InvalidArgument, "set", what, error)
        };
        if let Some(schedule) = self.schedule {
            set_schedule(schedule).map_err(fail("scheduler"))?;
        }
        if let Some((class, level)) = self.io_priority {
            set_io_priority(class, level).map_err(fail("I/O priority"))?;
        }
        if let Some((mode, nodes)) = &self.memory {
            set_memory_policy(*mode, nodes).map_err(fail("memory policy"))?;
        }
        if let Some(domain) = self.personality {
            set_personality(domain).map_err(fail("personality"))?;
        }
        Ok(())
    }
}

/// On which CPUs an exec runs: before it is in the container's cgroup, and from then on.
#[derive(Debug, Default)]
pub struct Affinity {
    before: Option<CpuSet>,
    after: Option<CpuSet>,
}

impl Affinity {
    /// Reads an exec's affinity.
    ///
    /// # Errors
    /// `InvalidArgument`: not a list of CPUs.
    pub fn new(spec: Option<&ExecCPUAffinity>) -> Result<Self, Failure> {
        let set = |list: &Option<String>| {
            let list = list.as_deref().filter(|list| !list.is_empty());
            list.map(|list| {
                let mut set = CpuSet::new();
                numbers(list, "CPU affinity")?.for_each(|cpu| set.set(cpu));
                Ok(set)
            })
            .transpose()
        };
        let Some(spec) = spec else { return Ok(Self::default()) };
        Ok(Self { before: set(spec.initial())?, after: set(spec.cpu_affinity_final())? })
    }

    /// For a process that is about to enter the cgroup.
    ///
    /// # Errors
    /// `InvalidArgument`: none of the CPUs can be used.
    pub fn apply_before(&self) -> Result<(), Failure> {
        self.before.as_ref().map_or(Ok(()), set_affinity)
    }

    /// For a process that has entered it.
    ///
    /// # Errors
    /// As [`Self::apply_before`].
    pub fn apply_after(&self) -> Result<(), Failure> {
        self.after.as_ref().map_or(Ok(()), set_affinity)
    }
}

fn set_affinity(cpus: &CpuSet) -> Result<(), Failure> {
    sched_setaffinity(None, cpus)
        .map_err(|e| Failure::os_kind(FailureKind::InvalidArgument, "set", "CPU affinity", e))
}

fn schedule(spec: &Scheduler) -> Result<Schedule, Failure> {
    let policy = match spec.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flag = |flag: &Flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    };
    let nice = spec.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(invalid("set", "scheduler", "nice is out of range"));
    }
    let priority = u32::try_from(spec.priority().unwrap_or(0))
        .map_err(|_| invalid("set", "scheduler", "priority is negative"))?;
    Ok(Schedule {
        policy,
        flags: spec.flags().iter().flatten().map(flag).fold(0, |all, one| all | one),
        nice,
        priority,
        runtime: spec.runtime().unwrap_or(0),
        deadline: spec.deadline().unwrap_or(0),
        period: spec.period().unwrap_or(0),
    })
}

fn io_priority(spec: &LinuxIOPriority) -> Result<(u8, u8), Failure> {
    let class = match spec.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u8::try_from(spec.priority()) {
        Ok(level) if level < 8 => Ok((class, level)),
        _ => Err(invalid("set", "I/O priority", "not one of 0 to 7")),
    }
}

fn memory(spec: &LinuxMemoryPolicy) -> Result<(i32, Vec<u64>), Failure> {
    let mode = match spec.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryFlag| match flag {
        MemoryFlag::MpolFNumaBalancing => 1 << 13,
        MemoryFlag::MpolFRelativeNodes => 1 << 14,
        MemoryFlag::MpolFStaticNodes => 1 << 15,
    };
    let flags = spec.flags().iter().flatten().map(flag).fold(0, |all, one| all | one);
    let mut nodes = Vec::new();
    if let Some(list) = spec.nodes().as_deref().filter(|list| !list.is_empty()) {
        nodes.resize(MAX_NUMBER / 64, 0);
        numbers(list, "memory policy")?.for_each(|node| nodes[node / 64] |= 1 << (node % 64));
    }
    Ok((mode | flags, nodes))
}

/// The numbers of a list as the kernel writes them: "0-3,7".
fn numbers(list: &str, what: &'static str) -> Result<impl Iterator<Item = usize>, Failure> {
    let wrong = || invalid("set", what, "not a list of numbers");
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && *number < MAX_NUMBER);
        number.ok_or_else(wrong)
    };
    let mut ranges = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        ranges.push(first..=last);
    }
    Ok(ranges.into_iter().flatten())
}

fn invalid(operation: &'static str, object: &str, cause: &'static str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, operation, object, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_read_as_the_kernel_writes_them() {
        let list = |text| numbers(text, "x").map(Iterator::collect::<Vec<_>>);
        assert_eq!(list("0-3, 7").unwrap(), [0, 1, 2, 3, 7]);
        for wrong in ["", "a", "3-1", "1024", "1-", "-1", "1,,2", "+1"] {
            assert_eq!(list(wrong).unwrap_err().kind, FailureKind::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn what_the_kernel_cannot_have_is_refused() {
        let process = |json: serde_json::Value| {
            Attributes::of_process(&serde_json::from_value(json).unwrap())
        };
        let base = |name: &str, value: serde_json::Value| {
            let mut process = serde_json::json!({"cwd": "/", "user": {"uid": 0, "gid": 0}});
            process[name] = value;
            process
        };
        let all = process(base(
            "scheduler",
            serde_json::json!({"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_RESET_ON_FORK"]}),
        ));
        let schedule = all.unwrap().schedule.unwrap();
        assert_eq!((schedule.policy, schedule.nice, schedule.flags), (3, 5, 1));
        let wrong = serde_json::json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
        assert!(process(base("ioPriority", wrong)).is_err());
        let wrong = serde_json::json!({"policy": "SCHED_OTHER", "nice": 40});
        assert!(process(base("scheduler", wrong)).is_err());
    }
}
