//! `Start`: opens the barrier, or makes a registered exec; the answer comes when the command is executed.

use std::os::fd::AsFd;

use crate::{Failure, FailureKind};
use proto::shim::task::v2::StartRequest;
use rustix::net::SendFlags;

use super::create::report_pair;
use super::{Answer, Outcome, Server};
use crate::runtime::{BuilderFiles, ExecRequest, build_exec};
use crate::server::process::{INIT, Making, Phase};
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn start(&mut self, request: &StartRequest, caller: Caller) -> Outcome {
        let process = self.container(&request.id)?.by_id(&request.exec_id)?;
        match &process.phase {
            Phase::Created(_) => self.release(caller),
            Phase::Registered(_) => {
                let key = process.key;
                self.execute(key, caller)
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
        // While the process is on its way: before the answer, which is what counts.
        if let Err(failure) = self.record_start(pid) {
            crate::runtime::warn(format_args!("{failure}"));
        }
        Ok(Answer::Later)
    }

    fn execute(&mut self, key: u32, caller: Caller) -> Outcome {
        let inherited = self.inherited_oom_score_adj();
        let (ours, theirs) = report_pair()?;
        let Some(container) = &mut self.container else { return Ok(Answer::Later) };
        let init = container.by_key(INIT).and_then(|init| {
            let handle = init.identity.as_ref()?.handle.as_ref()?;
            handle.try_clone().ok().filter(|_| matches!(init.phase, Phase::Running))
        });
        let Some(process) = container.processes.iter_mut().find(|process| process.key == key)
        else {
            return Ok(Answer::Later);
        };
        let Some(init) = init else {
            return Err(process.refuse("start", "the container does not run"));
        };
        let making = Making::new(ours, caller);
        let registered = std::mem::replace(&mut process.phase, Phase::Starting(making));
        let Phase::Registered(exec) = registered else { return Ok(Answer::Later) };
        let request = ExecRequest {
            process: &exec.process,
            stdout: &exec.stdout,
            stderr: &exec.stderr,
            init: init.as_fd(),
            cgroups: &container.cgroups,
            oom_score_adj: inherited,
        };
        let files = BuilderFiles { report: theirs.as_fd(), stdio: [None; 3] };
        let thread = &self.thread;
        let builder = thread
            .fork(|| build_exec(thread, &request, files))
            .map_err(|e| Failure::os("create", "builder", e));
        let begun = builder.and_then(|_| self.watch_report(key));
        match begun {
            Ok(()) => Ok(Answer::Later),
            Err(failure) => {
                if let Some(container) = &mut self.container {
                    container.remove(key);
                }
                Err(failure)
            }
        }
    }

    /// What the container's first process has, for execs that do not say.
    fn inherited_oom_score_adj(&mut self) -> i32 {
        let init = self.container.as_mut().and_then(|container| container.by_key(INIT));
        let pid = init.map_or(0, |init| init.pid());
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok();
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(self.oom_score_adj)
    }
}
