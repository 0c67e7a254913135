//! What is written down of a container between two calls of the command line (`state.json` in its folder), and what it
//! means by now.
//!
//! ```text
//!   folder without a record ─┐
//!   record without a process ┴ Creating ──► Created ──► Running ◄──► Paused
//!     somebody is at it, or was                 └───────────┴───────────┴──► Stopped
//! ```
//!
//! Only the kernel is asked for the status: whether the process of this number and start time lives, whether the
//! socket of its start is still there, whether its cgroup is frozen.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::runtime::cgroup::Watch;
use crate::runtime::report::Cloned;
use crate::{Failure, FailureKind};

/// Of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The spec's version.
    pub oci_version: String,
    /// The container's name.
    pub id: String,
    /// The folder of its spec, absolute.
    pub bundle: PathBuf,
    /// The folder that its root is, absolute.
    pub rootfs: PathBuf,
    /// When it was created: RFC 3339.
    pub created: String,
    /// The spec's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where its cgroups are to be, in every hierarchy: known before there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    /// The spec has hooks for after the start.
    #[serde(default)]
    pub poststart: bool,
    /// The spec has hooks for after the end.
    #[serde(default)]
    pub poststop: bool,
    /// Its process, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
}

/// A container's first process and its cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// Its number.
    pub pid: u32,
    /// When it began: a number alone may be another process's by now.
    pub start_time: u64,
    /// The cgroups' folders, the unified one first if there is one.
    pub cgroups: Vec<String>,
    /// The first of them is of the unified hierarchy.
    pub unified: bool,
    /// The file that counts kills for want of memory.
    pub oom_file: String,
    /// It has a PID namespace of its own, which it takes down with it.
    pub own_pids: bool,
    /// The scope that systemd knows the cgroups by; empty without one.
    #[serde(default)]
    pub unit: String,
}

impl Init {
    /// What was just made.
    pub fn new(cloned: Cloned, start_time: u64) -> Self {
        let Cloned { pid, cgroups, unified, oom_file, own_pids, unit, .. } = cloned;
        Self { pid, start_time, cgroups, unified, oom_file, own_pids, unit }
    }

    /// Its cgroups.
    pub fn watch(&self) -> Watch {
        Watch::new(&Cloned {
            pid: self.pid,
            cgroups: self.cgroups.clone(),
            unified: self.unified,
            oom_file: self.oom_file.clone(),
            own_pids: self.own_pids,
            unit: self.unit.clone(),
            ..Cloned::default()
        })
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.watch().is_frozen().unwrap_or(false)
    }

    /// Stops everybody in it where they stand.
    ///
    /// # Errors
    /// The kernel refuses, or somebody does not stand still in time.
    pub fn freeze(&self) -> Result<(), Failure> {
        self.watch().freeze()
    }

    /// Lets everybody in it go on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<(), Failure> {
        self.watch().thaw()
    }

    /// A handle of the process that was meant, if it lives.
    ///
    /// # Errors
    /// The kernel refuses a handle.
    pub fn open(&self) -> Result<Option<Process>, Failure> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            other => other.map_err(|e| Failure::os("open process", self.pid.to_string(), e))?,
        };
        // Whose number it is, is asked after it cannot change hands any more.
        Ok(self.lives().then_some(Process { pid, handle }))
    }

    /// Whether the process that was meant has not ended.
    pub fn lives(&self) -> bool {
        fs::read(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| parse_stat(&String::from_utf8_lossy(&stat)))
            .is_some_and(|(state, start)| start == self.start_time && !matches!(state, 'Z' | 'X'))
    }
}

/// A process that cannot be mistaken for another.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Its handle.
    pub handle: std::os::fd::OwnedFd,
}

impl Process {
    /// Sends a signal; a process that has ended does not mind.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Failure::os("signal process", self.pid.to_string(), error)),
        }
    }
}

/// State and start time of a line of `/proc/PID/stat`: fields 3 and 22. The name before them stands in parentheses and
/// may hold anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is being made, or its making was broken off.
    Creating,
    /// Its process waits for the start.
    Created,
    /// Its process runs.
    Running,
    /// It is frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl Status {
    /// The specification's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// Refuses what only makes sense in one of the `wanted` states.
    ///
    /// # Errors
    /// `FailedPrecondition`.
    pub fn require(
        self,
        wanted: &[Self],
        operation: &'static str,
        record: &Record,
    ) -> Result<(), Failure> {
        if wanted.contains(&self) {
            return Ok(());
        }
        // Callers of runc look for these words.
        let cause = match self {
            Self::Stopped => "container not running".to_owned(),
            state => format!("container is {}", state.as_str()),
        };
        let object = format!("container {}", record.id);
        Err(Failure::new(FailureKind::FailedPrecondition, operation, object, cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let pid = std::process::id();
        let mut init = Init { pid, start_time: crate::start_time(pid).unwrap(), ..Init::default() };
        assert!(init.lives() && init.open().unwrap().is_some());
        init.start_time += 1;
        assert!(!init.lives() && init.open().unwrap().is_none());
    }

    #[test]
    fn a_zombie_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let init = Init { pid, start_time: crate::start_time(pid).unwrap(), ..Init::default() };
        while init.lives() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(crate::start_time(pid).is_ok());
        child.wait().unwrap();
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let record = Record { id: "x".into(), init: Some(Init::default()), ..Record::default() };
        let text = serde_json::to_vec(&record).unwrap();
        assert_eq!(serde_json::from_slice::<Record>(&text).unwrap(), record);
    }
}
