//! The calls, as a table: one verb per file.

mod attach;
mod checkpoint;
mod connect;
mod create;
mod delete;
mod describe;
mod exec;
mod kill;
mod pause;
mod pids;
mod reopen_log;
mod resume;
mod run;
mod shutdown;
mod start;
mod state;
mod stats;
mod terminal;
pub mod update;
mod wait;

use crate::{Failure, FailureKind};
use prost::Message;

use super::Server;
use super::container::Container;
use super::ttrpc::{Caller, Request};

/// The messages are the same in both versions.
const TASK: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];
const CONTAINER: &str = "wherry.shim.v1.Container";
const EVENTS: &str = "containerd.services.events.ttrpc.v1.Events";

/// What a call comes to.
pub(super) enum Answer {
    /// The answer's message.
    Now(Vec<u8>),
    /// The caller was left where the answer will come from.
    Later,
}

/// A service of this socket.
enum Service {
    /// containerd's.
    Task,
    /// What CRI needs beyond it.
    Container,
    /// Where a foreign shim sends its events to.
    Events,
    Unknown,
}

pub(super) type Outcome = Result<Answer, Failure>;

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
        let service = match request.service.as_str() {
            service if TASK.contains(&service) => Service::Task,
            CONTAINER => Service::Container,
            EVENTS => Service::Events,
            _ => Service::Unknown,
        };
        match (service, request.method.as_str()) {
            (Service::Task, "Create") => self.create(decode(payload)?, caller),
            (Service::Task, "Start") => self.start(&decode(payload)?, caller),
            (Service::Task, "Exec") => self.exec(decode(payload)?),
            (Service::Task, "Kill") => self.kill(&decode(payload)?, caller),
            (Service::Task, "Wait") => self.wait(&decode(payload)?, caller),
            (Service::Task, "Delete") => self.delete(&decode(payload)?, caller),
            (Service::Task, "State") => self.state(&decode(payload)?),
            (Service::Task, "Pids") => self.pids(&decode(payload)?),
            (Service::Task, "Connect") => self.connect(),
            (Service::Task, "CloseIO") => self.close_io(&decode(payload)?, caller),
            (Service::Task, "ResizePty") => self.resize_pty(&decode(payload)?, caller),
            (Service::Task, "Pause") => self.pause(&decode(payload)?, caller),
            (Service::Task, "Resume") => self.resume(&decode(payload)?, caller),
            (Service::Task, "Update") => self.update(&decode(payload)?, caller),
            (Service::Task, "Stats") => self.stats(&decode(payload)?),
            (Service::Task, "Checkpoint") => self.checkpoint(&decode(payload)?),
            (Service::Task, "Shutdown") => self.shutdown(),
            (Service::Container, "Describe") => self.describe(caller),
            (Service::Container, "ReopenLog") => self.reopen_log(),
            (Service::Container, "Run") => {
                let files = self.connections.take_files(caller.slot);
                self.run_exec(decode(payload)?, files, caller)
            }
            (Service::Container, "Attach") => self.attach(decode(payload)?),
            (Service::Container, "Detach") => self.detach(&decode(payload)?),
            // A foreign shim tells what happens; all of it is known, or heard otherwise.
            (Service::Events, "Forward") => done(),
            (_, method) => {
                let name = format!("{}/{method}", request.service);
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
