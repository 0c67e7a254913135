//! Containers that another runtime makes: what that runtime is asked for, and what follows when it has answered.

use std::os::fd::{AsFd, OwnedFd};

use crate::foreign::Command;
use crate::foreign::errand::{self, Verb};
use crate::runtime::BuilderFiles;
use crate::runtime::report::{self, Event as Report, Received, receive};
use crate::{Failure, FailureKind};
use proto::shim::events as wire;

use super::Server;
use super::call::{Answer, Outcome};
use super::event::Event;
use super::peer::Foreign;
use super::poll::Token;
use super::process::{INIT, Making, Phase};
use super::ttrpc::Caller;

/// Who makes a container's processes.
#[derive(Debug)]
pub enum Maker {
    /// The runtime in this program.
    Own,
    /// A command line.
    Command(Command),
    /// A foreign shim.
    Shim(Box<Foreign>),
}

impl Maker {
    /// Whether it is the runtime in this program.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own)
    }

    /// Whether it is a foreign shim, whose child the container is.
    pub fn is_shim(&self) -> bool {
        matches!(self, Self::Shim(_))
    }
}

/// Something that a runtime is being asked.
#[derive(Debug)]
pub struct Errand {
    key: u32,
    report: OwnedFd,
    then: Then,
    failure: Option<Failure>,
}

/// What follows an errand.
#[derive(Debug)]
pub enum Then {
    /// The answer.
    Answer(Caller),
    /// The container stands still, and the answer.
    Paused(Caller),
    /// It goes on, and the answer.
    Resumed(Caller),
    /// It is no more, and the answers.
    Deleted(Vec<Caller>),
    /// An exec is forgotten, and the answer.
    Forgotten(u32, Caller),
}

impl Server {
    /// Whether a foreign shim has made the container, and its execs.
    pub(super) fn is_made_by_shim(&self) -> bool {
        self.container.as_ref().is_some_and(|all| all.maker.is_shim())
    }

    /// Whether a process is the first one of a container that another runtime has made.
    pub(super) fn is_foreign_made(&self, key: u32) -> bool {
        key == INIT && self.container.as_ref().is_some_and(|all| !all.maker.is_own())
    }

    /// Opens the barrier of a first process.
    pub(super) fn release_foreign(&mut self, caller: Caller) -> Outcome {
        let gone = || Failure::new(FailureKind::NotFound, "start", "container", "there is none");
        let (ours, theirs) = report::pair()?;
        self.hand_out(Verb::Start, theirs)?;
        let process = self.container.as_mut().and_then(|all| all.by_key(INIT)).ok_or_else(gone)?;
        let pid = process.pid();
        process.phase = Phase::Starting(Making::new(ours, caller));
        self.watch_report(INIT)?;
        self.start_pumps(INIT)?;
        if let Err(failure) = self.record_start(pid) {
            crate::runtime::warn(format_args!("{failure}"));
        }
        Ok(Answer::Later)
    }

    /// Has a signal sent to the first process, which has not ended.
    pub(super) fn signal_foreign(&mut self, signal: u32, caller: Caller) -> Outcome {
        let init = self.container.as_mut().and_then(|all| all.by_key(INIT));
        let runs = init.is_some_and(|init| {
            init.reaped.is_none() && !matches!(init.phase, Phase::Building(_) | Phase::Stopped(_))
        });
        if !runs {
            let (kind, cause) = (FailureKind::NotFound, "it does not run");
            return Err(Failure::new(kind, "signal", "container", cause));
        }
        let kill = Verb::Kill { signal, exec_id: String::new(), all: false };
        self.begin_errand(kill, Then::Answer(caller))
    }

    /// Has a runtime free what it knows of an ended container. What there is in the kernel this shim frees then.
    pub(super) fn begin_delete(&mut self, callers: Vec<Caller>) {
        let errands = self.container.iter_mut().flat_map(|all| &mut all.errands);
        for errand in errands {
            if let Then::Deleted(others) = &mut errand.then {
                return others.extend(callers);
            }
        }
        let begun = self.begin_errand(Verb::Delete, Then::Deleted(Vec::new()));
        match begun {
            Ok(_) => {
                let last = self.container.as_mut().and_then(|all| all.errands.last_mut());
                if let Some(errand) = last {
                    errand.then = Then::Deleted(callers);
                }
            }
            Err(failure) => {
                for caller in callers {
                    self.answer(caller, Err(failure.clone()));
                }
            }
        }
    }

    /// Asks a runtime for something.
    pub(super) fn begin_errand(&mut self, verb: Verb, then: Then) -> Outcome {
        let (ours, theirs) = report::pair()?;
        self.hand_out(verb, theirs)?;
        let Some(container) = &mut self.container else { return Ok(Answer::Later) };
        let key = container.new_key();
        let watched = self.poll.add(&ours, Token::Errand(key));
        watched.map_err(|e| Failure::os("watch", "errand", e))?;
        container.errands.push(Errand { key, report: ours, then, failure: None });
        Ok(Answer::Later)
    }

    /// Sends somebody, or a call, with it.
    fn hand_out(&mut self, verb: Verb, report: OwnedFd) -> Result<(), Failure> {
        let runtime = match self.container.as_ref().map(|all| &all.maker) {
            Some(Maker::Command(runtime)) => runtime,
            Some(Maker::Shim(_)) => {
                self.ask_peer(verb, report);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let files = BuilderFiles { report: report.as_fd(), stdio: [None; 3] };
        let forked = self.thread.fork(|| errand::run(runtime, &verb, files));
        forked.map(drop).map_err(|e| Failure::os("create", "errand", e))
    }

    /// Takes what the process that runs an errand has said.
    pub(super) fn take_errand(&mut self, key: u32) {
        let Some(container) = &mut self.container else { return };
        let Some(at) = container.errands.iter().position(|errand| errand.key == key) else {
            return;
        };
        while let Some(errand) = container.errands.get_mut(at) {
            match receive(&errand.report) {
                Ok(Received::Nothing) => return,
                Ok(Received::Event(Report::Failed(failure), _)) => {
                    errand.failure = Some(Failure::from_wire(failure));
                }
                Ok(Received::Event(..)) => {}
                Ok(Received::End) | Err(_) => {
                    let errand = container.errands.swap_remove(at);
                    let done = errand.failure.map_or(Ok(()), Err);
                    return self.follow(errand.then, done);
                }
            }
        }
    }

    fn follow(&mut self, then: Then, done: Result<(), Failure>) {
        let empty = done.clone().map(|()| Vec::new());
        match then {
            Then::Answer(caller) => self.answer(caller, empty),
            Then::Paused(caller) => {
                self.set_paused(done.is_ok(), true);
                self.answer(caller, empty);
            }
            Then::Resumed(caller) => {
                self.set_paused(done.is_ok(), false);
                self.answer(caller, empty);
            }
            Then::Forgotten(key, caller) => {
                let deleted = done.and_then(|()| self.delete_stopped(key));
                self.answer(caller, deleted);
            }
            Then::Deleted(callers) => {
                // What the runtime did not free, its cgroups at least are freed here.
                if let Err(failure) = done {
                    crate::runtime::warn(format_args!("{failure}"));
                }
                let deleted = self.delete_stopped(INIT);
                for caller in callers {
                    self.answer(caller, deleted.clone());
                }
            }
        }
    }

    fn set_paused(&mut self, changed: bool, paused: bool) {
        let Some(container) = self.container.as_mut().filter(|_| changed) else { return };
        container.paused = paused;
        let told = |id: &str, _: &mut super::process::Process| {
            let container_id = id.to_owned();
            if paused {
                return Event::Paused(wire::TaskPaused { container_id });
            }
            Event::Resumed(wire::TaskResumed { container_id })
        };
        self.tell(told, INIT);
    }
}
