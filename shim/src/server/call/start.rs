//! `Start`: opens the barrier, or makes a registered exec; the answer comes when the command is executed.

use std::os::fd::AsFd;

use crate::{Failure, FailureKind};
use proto::shim::task::v2::StartRequest;
use rustix::net::SendFlags;

use super::{Answer, Outcome, Server};
use crate::runtime::{BuilderFiles, ExecRequest, Inherit, report};
use crate::server::process::{INIT, Identity, Making, Phase};
use crate::server::stdio::{Opening, OurEnds, TheirEnds};
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn start(&mut self, request: &StartRequest, caller: Caller) -> Outcome {
        let process = self.container(&request.id)?.by_id(&request.exec_id)?;
        match &process.phase {
            Phase::Created(_) => self.release(caller),
            Phase::Registered(_) => {
                let key = process.key;
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
        let Some(process) = self.container.as_mut().and_then(|all| all.by_key(INIT)) else {
            return Err(Failure::new(FailureKind::NotFound, "start", "container", "there is none"));
        };
        process.files.open_input()?;
        let pid = process.pid();
        if let Phase::Created(report) = &process.phase
            && let Err(error) = rustix::net::send(report, &[1], SendFlags::NOSIGNAL)
        {
            return Err(Failure::os("release", "container", error));
        }
        process.phase = match std::mem::replace(&mut process.phase, Phase::Running) {
            Phase::Created(report) => Phase::Starting(Making::new(report, caller)),
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
        let request = ExecRequest {
            process: spec,
            terminal: process.has_terminal,
            init,
            cgroups: &container.cgroups,
            oom_score_adj,
            console: None,
            inherit: Inherit::Nothing,
        };
        let files_of = BuilderFiles { report: theirs.as_fd(), stdio: their_files.borrow() };
        let pid = crate::runtime::execute(&self.thread, &request, &files_of)?;
        process.identity = Some(Identity::of_child(pid));
        process.files = files;
        process.phase = Phase::Starting(making);
        if let Err(failure) = self.watch_report(key).and_then(|()| self.start_pumps(key)) {
            self.give_up(key, failure);
        }
        Ok(())
    }
}
