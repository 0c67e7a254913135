//! One process of the container and what it is doing.
//!
//! ```text
//! first process:  Building ──Ready──► Created ──start──► Starting ──executed──► Running ──reaped──► Stopped
//! exec:           Registered ────────────start─────────► Starting ──executed──► Running ──reaped──► Stopped
//! ```
//!
//! A first process that fails while Building leaves no container; one that fails while Starting is Stopped.

use std::os::fd::{AsFd, OwnedFd};

use crate::runtime::Init;
use crate::{Exit, Failure, FailureKind};
use proto::shim::container::User;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::stdio::{OurEnds, Paths};
use super::ttrpc::Caller;

/// The key of the first process.
pub const INIT: u32 = 0;
/// Processes that a container may have through exec at a time.
pub const MAX_EXECS: usize = 64;

/// A process that the shim is the parent of.
#[derive(Debug)]
pub struct Process {
    /// Names it in this shim.
    pub key: u32,
    /// Its caller's name for it; empty for the first.
    pub id: String,
    /// What it is doing.
    pub phase: Phase,
    /// Once it exists.
    pub identity: Option<Identity>,
    /// Its standard files, as its caller names them; a shim of Wherry's daemon has a log instead.
    pub paths: Box<Paths>,
    /// It has a terminal.
    pub has_terminal: bool,
    /// The shim's ends of them.
    pub files: OurEnds,
    /// It was reaped before it was known what it has come to.
    pub reaped: Option<Exit>,
    /// Who waits for its end.
    pub waiters: Vec<Caller>,
    /// Whoever asked for it waits for its end and never asks again.
    pub runs: bool,
    /// Who that is, once it is executed.
    pub runner: Option<Caller>,
    /// Who waits for its end to have it deleted.
    pub deleters: Vec<Caller>,
}

/// A process's number, and a handle that never means another one.
#[derive(Debug)]
pub struct Identity {
    /// The number, as the host sees it.
    pub pid: Pid,
    /// The handle; none for a process that was reaped already.
    pub handle: Option<OwnedFd>,
}

/// What a process is doing.
#[derive(Debug)]
pub enum Phase {
    /// Known, not yet asked for: the process of an OCI spec, as JSON.
    Registered(Vec<u8>),
    /// Being made.
    Building(Making),
    /// At the start barrier.
    Created(Gate),
    /// Released, but not yet executed.
    Starting(Making),
    /// What it was asked to be.
    Running,
    /// Ended.
    Stopped(Exit),
}

/// A start barrier.
#[derive(Debug)]
pub enum Gate {
    /// It opens with a byte, and what goes wrong then is reported the other way.
    Report(OwnedFd),
    /// It is another runtime's to open.
    Foreign,
}

/// A process in the making.
#[derive(Debug)]
pub struct Making {
    /// Where it reports to.
    pub report: OwnedFd,
    /// Who is told how it went.
    pub caller: Caller,
    /// What it has said went wrong.
    pub failure: Option<Failure>,
    /// It has said that it is ready, perhaps with a terminal, before its builder could say who it is.
    pub ready: Option<(User, Option<OwnedFd>)>,
    /// Whom the process is made by. It reports until its end, so as long as nothing but reports is waited for, it is
    /// not reaped.
    pub builder: Option<Pid>,
}

impl Making {
    /// A process of which nothing was heard yet.
    pub fn new(report: OwnedFd, caller: Caller) -> Self {
        Self { report, caller, failure: None, ready: None, builder: None }
    }
}

impl Process {
    /// A process in its first phase.
    pub fn new(key: u32, id: String, phase: Phase) -> Self {
        Self {
            key,
            id,
            phase,
            identity: None,
            paths: Box::default(),
            has_terminal: false,
            files: OurEnds::default(),
            reaped: None,
            waiters: Vec::new(),
            runs: false,
            runner: None,
            deleters: Vec::new(),
        }
    }

    /// Where it reports to, as long as it does.
    pub fn report(&self) -> Option<&OwnedFd> {
        match &self.phase {
            Phase::Building(making) | Phase::Starting(making) => Some(&making.report),
            Phase::Created(Gate::Report(report)) => Some(report),
            _ => None,
        }
    }

    /// Its number, or zero.
    pub fn pid(&self) -> u32 {
        self.identity
            .as_ref()
            .map_or(0, |identity| identity.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Whom an exec joins: the first process, while it runs.
    pub fn running(&self) -> Option<Init<'_>> {
        let identity = self.identity.as_ref().filter(|_| matches!(self.phase, Phase::Running))?;
        Some(Init { pid: identity.pid, handle: identity.handle.as_ref()?.as_fd() })
    }

    /// Ends it, or whoever makes it; the end will be heard of.
    pub fn kill(&self) {
        match (&self.identity, &self.phase) {
            (Some(Identity { handle: Some(handle), .. }), _) => {
                let _gone = pidfd_send_signal(handle, Signal::KILL);
            }
            (None, Phase::Building(Making { builder: Some(builder), .. })) => {
                let _gone = kill_process(*builder, Signal::KILL);
            }
            _ => {}
        }
    }

    /// What an error calls it.
    pub fn name(&self) -> String {
        if self.id.is_empty() { "container".to_owned() } else { format!("exec {}", self.id) }
    }

    /// A refusal because of what it is doing.
    pub fn refuse(&self, operation: &'static str, cause: &'static str) -> Failure {
        Failure::new(FailureKind::FailedPrecondition, operation, self.name(), cause)
    }
}

impl Identity {
    /// Takes hold of a child that was not reaped yet: its number cannot be another's.
    pub fn of_child(pid: Pid) -> Self {
        Self { pid, handle: pidfd_open(pid, PidfdFlags::empty()).ok() }
    }
}
