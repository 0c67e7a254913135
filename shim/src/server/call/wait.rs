//! `Wait`: answers when a process has ended.

use crate::Failure;
use proto::shim::task::v2::WaitRequest;

use super::{Answer, Outcome, Server};
use crate::server::process::Phase;
use crate::server::reap::wait_response;
use crate::server::ttrpc::Caller;

/// Callers that may wait for one process: many more than there are connections.
const MAX_WAITERS: usize = 256;

impl Server {
    pub(super) fn wait(&mut self, request: &WaitRequest, caller: Caller) -> Outcome {
        let current = |caller: &Caller| self.connections.is_current(caller.slot, caller.generation);
        let Some(container) = self.container.as_mut().filter(|all| all.id == request.id) else {
            let kind = crate::FailureKind::NotFound;
            return Err(Failure::new(kind, "find container", request.id.as_str(), "there is none"));
        };
        let process = container.by_id(&request.exec_id)?;
        if let Phase::Stopped(exit) = process.phase {
            return Ok(Answer::Now(wait_response(exit)));
        }
        process.waiters.retain(current);
        if process.waiters.len() >= MAX_WAITERS {
            return Err(process.refuse("wait for", "too many wait already"));
        }
        process.waiters.push(caller);
        Ok(Answer::Later)
    }
}
