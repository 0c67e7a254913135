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
        let _known = self.container(&request.id)?;
        let Some(spec) = request.spec else {
            let (kind, cause) = (FailureKind::InvalidArgument, "it has no process");
            return Err(Failure::new(kind, "register exec", request.exec_id.as_str(), cause));
        };
        let process = self.register(request.exec_id, spec.value)?;
        let (input, output, error) = (request.stdin, request.stdout, request.stderr);
        *process.paths = Paths { input, output, error };
        process.has_terminal = request.terminal;
        let key = process.key;
        let told = |id: &str, process: &mut Process| {
            let (container_id, exec_id) = (id.to_owned(), process.id.clone());
            Event::ExecAdded(wire::TaskExecAdded { container_id, exec_id })
        };
        self.tell(told, key);
        done()
    }

    /// Makes a process known under its caller's name for it.
    pub(super) fn register(&mut self, id: String, spec: Vec<u8>) -> Result<&mut Process, Failure> {
        let refuse = |kind, cause| Failure::new(kind, "register exec", id.as_str(), cause);
        let Some(container) = &mut self.container else {
            return Err(refuse(FailureKind::NotFound, "there is no container"));
        };
        if id.is_empty() {
            return Err(refuse(FailureKind::InvalidArgument, "it has no name"));
        }
        if container.by_id(&id).is_ok() {
            return Err(refuse(FailureKind::AlreadyExists, "there is one of this name"));
        }
        if container.processes.len() > MAX_EXECS {
            return Err(refuse(FailureKind::ResourceExhausted, "there are too many"));
        }
        let init = container.by_id("")?;
        if !matches!(init.phase, Phase::Running) {
            return Err(refuse(FailureKind::FailedPrecondition, "the container does not run"));
        }
        let key = container.new_key();
        container.processes.push(Process::new(key, id, Phase::Registered(spec)));
        let gone = || Failure::new(FailureKind::Internal, "register exec", "", "it is gone");
        container.by_key(key).ok_or_else(gone)
    }
}
