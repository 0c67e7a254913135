//! `Start`: opens the barrier, or makes a registered exec; the answer comes when the command is executed.

use std::os::fd::AsFd;

use crate::{Failure, FailureKind};
use proto::shim::task::v2::StartRequest;
use rustix::net::SendFlags;

use super::{Answer, Outcome, Server};
use crate::foreign::exec;
use crate::runtime::{BuilderFiles, ExecRequest, Inherit, report};
use crate::server::foreign::Maker;
use crate::server::process::{Gate, INIT, Identity, Making, Phase};
use crate::server::stdio::{Opening, OurEnds, TheirEnds};
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn start(&mut self, request: &StartRequest, caller: Caller) -> Outcome {
        let process = self.container(&request.id)?.by_id(&request.exec_id)?;
        match &process.phase {
            Phase::Created(_) => self.release(caller),
            Phase::Registered(_) => {
                let key = process.key;
                if self.is_made_by_shim() {
                    // It is the foreign shim that opens them.
                    let files = (OurEnds::default(), TheirEnds::default());
                    return self.execute(key, caller, files).map(|()| Answer::Later);
                }
                let process = self.container(&request.id)?.by_id(&request.exec_id)?;
                let mut files = OurEnds::open(&process.paths, process.has_terminal, Opening::Now)?;
                if !self.is_foreign() {
                    // Wherry's daemon does not come again for an exec: without it a writer shall not wait for ever.
                    files.0.forget_readers();
                }
                self.execute(key, caller, files).map(|()| Answer::Later)
            }
            Phase::Building(_) => Err(process.refuse("start", "it is still being created")),
            Phase::Starting(_) | Phase::Running => Err(process.refuse("start", "it runs already")),
            Phase::Stopped(_) => Err(process.refuse("start", "it has ended")),
        }
    }

    fn release(&mut self, caller: Caller) -> Outcome {
        if self.container.as_ref().is_some_and(|all| !all.maker.is_own()) {
            return self.release_foreign(caller);
        }
        let Some(process) = self.container.as_mut().and_then(|all| all.by_key(INIT)) else {
            return Err(Failure::new(FailureKind::NotFound, "start", "container", "there is none"));
        };
        process.files.open_input()?;
        let pid = process.pid();
        if let Phase::Created(Gate::Report(report)) = &process.phase
            && let Err(error) = rustix::net::send(report, &[1], SendFlags::NOSIGNAL)
        {
            return Err(Failure::os("release", "container", error));
        }
        process.phase = match std::mem::replace(&mut process.phase, Phase::Running) {
            Phase::Created(Gate::Report(report)) => Phase::Starting(Making::new(report, caller)),
            other => other,
        };
        if let Err(failure) = self.start_pumps(INIT) {
            crate::runtime::warn(format_args!("{failure}"));
        }
        // While the process is on its way: before the answer, which is what counts.
        if let Err(failure) = self.record_start(pid) {
            crate::runtime::warn(format_args!("{failure}"));
        }
        Ok(Answer::Later)
    }

    /// Makes a registered process. Its caller hears of it when it is executed, or at its end if it runs for that.
    pub(super) fn execute(
        &mut self,
        key: u32,
        caller: Caller,
        (files, their_files): (OurEnds, TheirEnds),
    ) -> Result<(), Failure> {
        let (ours, theirs) = report::pair()?;
        let making = Making::new(ours, caller);
        let oom_score_adj = self.oom_score_adj;
        let Some(container) = &mut self.container else { return Ok(()) };
        let mut processes = container.processes.iter_mut();
        let found = (processes.next(), processes.find(|all| all.key == key));
        let (Some(init), Some(process)) = found else { return Ok(()) };
        let Some(init) = init.running() else {
            return Err(process.refuse("start", "the container does not run"));
        };
        let Phase::Registered(spec) = &process.phase else { return Ok(()) };
        let files_of = BuilderFiles { report: theirs.as_fd(), stdio: their_files.borrow() };
        if let Maker::Command(runtime) = &container.maker {
            let init = init.pid.as_raw_nonzero().get().unsigned_abs();
            let (key, terminal) = (process.key, process.has_terminal);
            let request = exec::Request { key, process: spec, terminal, init, oom_score_adj };
            let forked = self.thread.fork(|| exec::build(runtime, &request, files_of));
            forked.map_err(|e| Failure::os("create", "builder", e))?;
            self.executing(key, files, making);
            return Ok(());
        }
        if container.maker.is_shim() {
            let (spec, key) = (spec.clone(), process.key);
            self.execute_by_peer(key, spec, their_files, theirs);
            self.executing(key, files, making);
            return Ok(());
        }
        let request = ExecRequest {
            process: spec,
            terminal: process.has_terminal,
            init,
            cgroups: &container.cgroups,
            oom_score_adj,
            console: None,
            inherit: Inherit::Nothing,
        };
        let pid = crate::runtime::execute(&self.thread, &request, &files_of)?;
        process.identity = Some(Identity::of_child(pid));
        self.executing(key, files, making);
        Ok(())
    }

    /// An exec is on its way.
    fn executing(&mut self, key: u32, files: OurEnds, making: Making) {
        let Some(process) = self.container.as_mut().and_then(|all| all.by_key(key)) else { return };
        process.files = files;
        process.phase = Phase::Starting(making);
        if let Err(failure) = self.watch_report(key).and_then(|()| self.start_pumps(key)) {
            self.give_up(key, failure);
        }
    }
}
