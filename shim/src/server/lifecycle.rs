//! What becomes of processes in the making: their reports, and what follows.

use crate::{Exit, Failure, FailureKind, Started};
use prost::Message;
use proto::shim::task::v2 as wire;
use rustix::process::Pid;
use sys::process::{Wait, wait};

use super::Server;
use super::foreign::Maker;
use super::process::{Gate, INIT, Identity, Making, Phase, Process};
use super::reap::exit_now;
use crate::runtime::cgroup::Watch;
use crate::runtime::report::{Cloned, Event, Received, receive};
use crate::runtime::{HookKind, HookState, run_after, start_after};

/// What a container whose command could not be executed has as its exit code, as runtimes do it.
const START_FAILED: i32 = 128;

impl Server {
    /// Takes everything that a process in the making has said.
    pub(super) fn take_reports(&mut self, key: u32) {
        while let Some(process) = self.container.as_mut().and_then(|all| all.by_key(key)) {
            let Some(report) = process.report() else { return };
            match receive(report) {
                Ok(Received::Nothing) => return,
                Ok(Received::Event(Event::Cloned(cloned), _)) => {
                    self.cloned(key, &cloned);
                    self.created_when_ready(key);
                }
                Ok(Received::Event(Event::Ready(user), file)) => {
                    if let Phase::Building(making) = &mut process.phase {
                        making.ready = Some((user, file));
                        self.created_when_ready(key);
                    } else if let Err(failure) = self.attach_terminal(key, file) {
                        self.give_up(key, failure);
                    }
                }
                Ok(Received::Event(Event::Failed(failure), _)) => {
                    process.note(Failure::from_wire(failure));
                }
                Ok(Received::End) => return self.reported_all(key),
                Err(error) => {
                    process.note(Failure::os("read report of", process.name(), error));
                    return self.reported_all(key);
                }
            }
        }
    }

    fn cloned(&mut self, key: u32, cloned: &Cloned) {
        if key == INIT
            && self.is_foreign()
            && let Err(error) = crate::containerd::write_cgroups(cloned)
        {
            crate::runtime::warn(format_args!("write the list of cgroups: {error}"));
        }
        let Some(container) = &mut self.container else { return };
        let Some(pid) = i32::try_from(cloned.pid).ok().and_then(Pid::from_raw) else { return };
        if key == INIT {
            container.cgroups = Watch::new(cloned);
            container.own_pids = cloned.own_pids;
            container.later_hooks = cloned.later_hooks;
            self.listen_for_oom(cloned);
        }
        let Some(container) = &mut self.container else { return };
        let stray = container.strays.iter().position(|(stray, _)| *stray == pid);
        let reaped = stray.map(|at| container.strays.swap_remove(at).1);
        if let Some(process) = container.by_key(key) {
            process.identity = Some(match reaped {
                Some(_) => Identity { pid, handle: None },
                None => Identity::of_child(pid),
            });
            process.reaped = reaped;
        }
    }

    /// The process and its builder speak independently: both have to be heard.
    fn created_when_ready(&mut self, key: u32) {
        let Some(process) = self.container.as_mut().and_then(|all| all.by_key(key)) else { return };
        let known = process.identity.is_some();
        let Phase::Building(making) = &mut process.phase else { return };
        let Some((user, terminal)) = making.ready.take_if(|_| known) else { return };
        let attached = match terminal {
            Some(socket) if self.is_made_by_shim() => self.take_peer(socket),
            terminal => self.attach_terminal(key, terminal),
        };
        if let Err(failure) = attached {
            return self.give_up(key, failure);
        }
        let Some(container) = &mut self.container else { return };
        container.user = user;
        let found = container.processes.iter_mut().find(|process| process.key == key);
        let Some(process) = found else { return };
        match std::mem::replace(&mut process.phase, Phase::Running) {
            Phase::Building(Making { report, caller, .. }) => {
                process.phase = match container.maker {
                    Maker::Own => Phase::Created(Gate::Report(report)),
                    Maker::Command(_) | Maker::Shim(_) => Phase::Created(Gate::Foreign),
                };
                if !process.deleters.is_empty() {
                    process.kill();
                }
                let created = wire::CreateTaskResponse { pid: process.pid() };
                let describers = std::mem::take(&mut container.describers);
                self.answer(caller, Ok(created.encode_to_vec()));
                self.answer_describers(describers);
                self.tell_created();
            }
            other => process.phase = other,
        }
    }

    /// Runs the hooks that follow the start, if there are any; nobody waits for them.
    fn run_hooks_after_start(&self, key: u32, pid: u32) {
        let Some(container) = self.container.as_ref().filter(|all| all.later_hooks) else { return };
        if key != INIT {
            return;
        }
        let state = HookState::here(&container.id);
        if let Err(error) = start_after(&self.thread, HookKind::Poststart, &state, pid) {
            crate::runtime::warn(format_args!("run poststart hooks: {error}"));
        }
    }

    /// Runs the hooks that follow the end, if there are any. They are waited for: the spec goes with the bundle.
    pub(super) fn run_hooks_after_end(&self) {
        let Some(container) = self.container.as_ref().filter(|all| all.later_hooks) else { return };
        let state = HookState::here(&container.id);
        if let Err(error) = run_after(&self.thread, HookKind::Poststop, &state, 0) {
            crate::runtime::warn(format_args!("run poststop hooks: {error}"));
        }
    }

    /// Ends a process in the making; its end tells why.
    pub(super) fn give_up(&mut self, key: u32, failure: Failure) {
        if let Some(process) = self.container.as_mut().and_then(|all| all.by_key(key)) {
            process.note(failure);
            process.kill();
        }
    }

    /// Nobody is left who could report: the process was executed, or it is no more.
    fn reported_all(&mut self, key: u32) {
        let Some(process) = self.container.as_mut().and_then(|all| all.by_key(key)) else { return };
        match std::mem::replace(&mut process.phase, Phase::Running) {
            Phase::Building(making) => self.creation_failed(making),
            Phase::Starting(Making { caller, failure: None, .. }) if process.identity.is_some() => {
                let pid = process.pid();
                let reaped = process.reaped.take();
                if process.runs {
                    process.runner = Some(caller);
                } else {
                    self.answer(caller, Ok(wire::StartResponse { pid }.encode_to_vec()));
                }
                if key != INIT && self.is_made_by_shim() {
                    self.watch_exec_of_peer(key);
                }
                self.tell_started(key);
                self.run_hooks_after_start(key, pid);
                if let Some(exit) = reaped {
                    self.ended(key, exit);
                }
            }
            Phase::Starting(making) => self.start_failed(key, making),
            // Killed at the barrier: its end follows.
            Phase::Created(_) => {
                if let Some(exit) = process.reaped.take() {
                    self.ended(key, exit);
                }
            }
            other => process.phase = other,
        }
    }

    /// Takes down what there is of a container that could not be made, and only then tells.
    fn creation_failed(&mut self, making: Making) {
        let Some(mut container) = self.container.take() else { return };
        let mut killed = None;
        let mut deleters = Vec::new();
        for process in &mut container.processes {
            let status = process.reap_now();
            killed = killed.or(status);
            deleters.append(&mut process.deleters);
        }
        let oom = container.cgroups.oom_kills() > 0;
        if let Err(error) = container.cgroups.remove() {
            crate::runtime::warn(format_args!("remove cgroups: {error}"));
        }
        let failure = making.failure.unwrap_or_else(|| {
            let (kind, cause) = if oom {
                (
                    FailureKind::InvalidArgument,
                    "the memory limit is too low to prepare it".to_owned(),
                )
            } else {
                let code =
                    killed.map_or_else(|| "unknown".to_owned(), |exit: Exit| exit.code.to_string());
                (
                    FailureKind::Internal,
                    format!("its process ended before it was ready, code {code}"),
                )
            };
            Failure::new(kind, "create", "container", cause)
        });
        self.answer(making.caller, Err(failure));
        self.answer_describers(container.describers);
        for caller in deleters {
            self.answer(caller, Ok(wire::DeleteResponse::default().encode_to_vec()));
        }
    }

    fn start_failed(&mut self, key: u32, making: Making) {
        let Some(process) = self.container.as_mut().and_then(|all| all.by_key(key)) else { return };
        let failure = making.failure.unwrap_or_else(|| {
            let cause = "its builder ended without a word";
            Failure::new(FailureKind::Internal, "start", process.name(), cause)
        });
        let exit = process.reap_now().unwrap_or_else(|| exit_now(START_FAILED));
        let runs = process.runs;
        self.ended(key, Exit { code: START_FAILED, ..exit });
        self.answer(making.caller, Err(failure));
        if let Some(container) = self.container.as_mut().filter(|_| runs) {
            container.remove(key);
        }
    }

    /// Tells on disk which process the container is: before it can do anything.
    pub(super) fn record_start(&self, pid: u32) -> Result<(), Failure> {
        let start_time = crate::start_time(pid)
            .map_err(|e| Failure::os("look at", format!("process {pid}"), e))?;
        self.record
            .write_started(Started { pid, start_time })
            .map_err(|e| Failure::os("write", "record", e))
    }
}

impl Process {
    /// Keeps the first thing that went wrong.
    fn note(&mut self, failure: Failure) {
        if let Phase::Building(making) | Phase::Starting(making) = &mut self.phase {
            let _first = making.failure.get_or_insert(failure);
        }
    }

    /// Ends a process that has given up, and takes its status.
    fn reap_now(&mut self) -> Option<Exit> {
        if let Some(exit) = self.reaped.take() {
            return Some(exit);
        }
        self.kill();
        let identity = self.identity.take()?;
        wait(Some(identity.pid), Wait::Block).map(|ended| exit_now(ended.code))
    }
}
