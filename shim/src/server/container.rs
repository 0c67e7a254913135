//! The container: its processes and what belongs to all of them.

use std::time::Instant;

use crate::{Exit, Failure, FailureKind};
use proto::shim::container::User;
use proto::shim::types::Mount;
use rustix::process::Pid;

use super::attach::Clients;
use super::call::update::Update;
use super::foreign::{Errand, Maker};
use super::process::{INIT, Phase, Process};
use super::ttrpc::Caller;
use crate::log::Log;
use crate::runtime::cgroup::Watch;

/// The one container of this shim.
#[derive(Debug)]
pub struct Container {
    /// Its caller's name for it.
    pub id: String,
    /// The first one first.
    pub processes: Vec<Process>,
    /// Its cgroups.
    pub cgroups: Watch,
    /// Its first process takes all others down with it.
    pub own_pids: bool,
    /// Its spec has hooks that follow the start or the end.
    pub later_hooks: bool,
    /// Where its output goes.
    pub log: Option<Log>,
    /// Who hears it too.
    pub clients: Clients,
    /// Whom its first process runs as.
    pub user: User,
    /// Who wants to hear about it as soon as it is created.
    pub describers: Vec<Caller>,
    /// How its first process ended, while its last output is still on its way.
    pub drain: Option<Drain>,
    /// Children that were reaped before their builder could say who they are.
    pub strays: Vec<(Pid, Exit)>,
    /// Who has made it.
    pub maker: Maker,
    /// What a foreign runtime is being asked.
    pub errands: Vec<Errand>,
    /// It was frozen by its caller.
    pub paused: bool,
    /// Its limits are being changed.
    pub update: Option<Update>,
    /// Its caller knows that it was out of memory.
    pub oom_told: bool,
    /// What it was made from, until that was told.
    pub rootfs: Vec<Mount>,
    next_key: u32,
}

/// The time between the end of the first process and the end of its output.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// How it ended.
    pub exit: Exit,
    /// When to stop listening to whoever holds the output open.
    pub deadline: Instant,
}

impl Container {
    /// A container whose first process is being made.
    pub fn new(id: String, init: Process) -> Self {
        Self {
            id,
            processes: vec![init],
            cgroups: Watch::default(),
            own_pids: false,
            later_hooks: false,
            log: None,
            clients: Clients::default(),
            user: User::default(),
            describers: Vec::new(),
            drain: None,
            strays: Vec::new(),
            maker: Maker::Own,
            errands: Vec::new(),
            paused: false,
            update: None,
            oom_told: false,
            rootfs: Vec::new(),
            next_key: INIT + 1,
        }
    }

    /// A key that no process has had.
    pub fn new_key(&mut self) -> u32 {
        let key = self.next_key;
        self.next_key += 1;
        key
    }

    /// Whether its first process has.
    pub fn has_ended(&self) -> bool {
        let init = self.processes.iter().find(|process| process.key == INIT);
        init.is_some_and(|init| matches!(init.phase, Phase::Stopped(_)))
    }

    /// A process by its key.
    pub fn by_key(&mut self, key: u32) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.key == key)
    }

    /// A process by its caller's name for it; the first by the empty one.
    ///
    /// # Errors
    /// There is none.
    pub fn by_id(&mut self, id: &str) -> Result<&mut Process, Failure> {
        let found = self.processes.iter_mut().find(|process| process.id == id);
        found.ok_or_else(|| Failure::new(FailureKind::NotFound, "find exec", id, "there is none"))
    }

    /// Forgets a process.
    pub fn remove(&mut self, key: u32) {
        self.processes.retain(|process| process.key != key);
    }

    /// Whether a builder may still tell of a child.
    pub fn has_making(&self) -> bool {
        self.processes.iter().any(|process| process.report().is_some())
    }

    /// When to stop listening to the output, if the first process has ended.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.drain.map(|drain| drain.deadline)
    }
}
