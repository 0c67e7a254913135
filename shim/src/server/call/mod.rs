//! The calls, as a table: one verb per file.

mod connect;
mod create;
mod delete;
mod describe;
mod exec;
mod kill;
mod pids;
mod reopen_log;
mod shutdown;
mod start;
mod state;
mod terminal;
mod wait;

use crate::{Failure, FailureKind};
use prost::Message;

use super::Server;
use super::container::Container;
use super::ttrpc::{Caller, Request};

const TASK: &str = "containerd.task.v2.Task";
const CONTAINER: &str = "wherry.shim.v1.Container";

/// What a call comes to.
enum Answer {
    /// The answer's message.
    Now(Vec<u8>),
    /// The caller was left where the answer will come from.
    Later,
}

type Outcome = Result<Answer, Failure>;

impl Server {
    /// Does what a request asks.
    pub(super) fn dispatch(&mut self, caller: Caller, request: Request) {
        match self.call(caller, &request) {
            Ok(Answer::Now(payload)) => self.answer(caller, Ok(payload)),
            Ok(Answer::Later) => {}
            Err(failure) => self.answer(caller, Err(failure)),
        }
    }

    fn call(&mut self, caller: Caller, request: &Request) -> Outcome {
        let payload = request.payload.as_slice();
        match (request.service.as_str(), request.method.as_str()) {
            (TASK, "Create") => self.create(decode(payload)?, caller),
            (TASK, "Start") => self.start(&decode(payload)?, caller),
            (TASK, "Exec") => self.exec(decode(payload)?),
            (TASK, "Kill") => self.kill(&decode(payload)?),
            (TASK, "Wait") => self.wait(&decode(payload)?, caller),
            (TASK, "Delete") => self.delete(&decode(payload)?, caller),
            (TASK, "State") => self.state(&decode(payload)?),
            (TASK, "Pids") => self.pids(&decode(payload)?),
            (TASK, "Connect") => self.connect(),
            (TASK, "CloseIO") => self.close_io(&decode(payload)?),
            (TASK, "ResizePty") => self.resize_pty(&decode(payload)?),
            (TASK, "Shutdown") => self.shutdown(),
            (CONTAINER, "Describe") => self.describe(caller),
            (CONTAINER, "ReopenLog") => self.reopen_log(),
            (service, method) => {
                let name = format!("{service}/{method}");
                Err(Failure::new(FailureKind::Unsupported, "call", name, "not supported"))
            }
        }
    }

    /// The container, which a request may name.
    fn container(&mut self, id: &str) -> Result<&mut Container, Failure> {
        let found = self.container.as_mut().filter(|container| container.id == id);
        found.ok_or_else(|| {
            Failure::new(FailureKind::NotFound, "find container", id, "there is none")
        })
    }
}

fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Failure> {
    M::decode(payload).map_err(|error| {
        Failure::new(FailureKind::InvalidArgument, "read", "request", error.to_string())
    })
}

fn reply(message: &impl Message) -> Outcome {
    Ok(Answer::Now(message.encode_to_vec()))
}

/// `google.protobuf.Empty`.
fn done() -> Outcome {
    Ok(Answer::Now(Vec::new()))
}
