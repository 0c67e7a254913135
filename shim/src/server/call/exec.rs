//! `Exec`: registers a process; `Start` makes it.

use crate::{Failure, FailureKind};
use proto::shim::events as wire;
use proto::shim::task::v2::ExecProcessRequest;

use super::{Outcome, Server, done};
use crate::server::event::Event;
use crate::server::process::{MAX_EXECS, Phase, Process};
use crate::server::stdio::Paths;

impl Server {
    pub(super) fn exec(&mut self, request: ExecProcessRequest) -> Outcome {
        let container = self.container(&request.id)?;
        let refuse =
            |kind, cause| Err(Failure::new(kind, "register exec", request.exec_id.as_str(), cause));
        if request.exec_id.is_empty() {
            return refuse(FailureKind::InvalidArgument, "it has no name");
        }
        let Some(spec) = request.spec else {
            return refuse(FailureKind::InvalidArgument, "it has no process");
        };
        if container.by_id(&request.exec_id).is_ok() {
            return refuse(FailureKind::AlreadyExists, "there is one of this name");
        }
        if container.processes.len() > MAX_EXECS {
            return refuse(FailureKind::ResourceExhausted, "there are too many");
        }
        let init = container.by_id("")?;
        if !matches!(init.phase, Phase::Running) {
            return refuse(FailureKind::FailedPrecondition, "the container does not run");
        }
        let key = container.new_key();
        let mut process = Process::new(key, request.exec_id, Phase::Registered(spec.value));
        let (input, output, error) = (request.stdin, request.stdout, request.stderr);
        *process.paths = Paths { input, output, error };
        process.has_terminal = request.terminal;
        container.processes.push(process);
        let told = |id: &str, process: &mut Process| {
            let (container_id, exec_id) = (id.to_owned(), process.id.clone());
            Event::ExecAdded(wire::TaskExecAdded { container_id, exec_id })
        };
        self.tell(told, key);
        done()
    }
}
