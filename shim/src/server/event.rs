//! What happens to a container, as its daemon hears it.

use prost::Message;
use prost_types::Any;
use proto::shim::events as wire;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The container stands at its start barrier.
    Create(wire::TaskCreate),
    /// Its process was started.
    Start(wire::TaskStart),
    /// A process has ended.
    Exit(wire::TaskExit),
    /// The container is no more.
    Delete(wire::TaskDelete),
    /// The kernel has killed for want of memory.
    Oom(wire::TaskOom),
    /// An exec was registered.
    ExecAdded(wire::TaskExecAdded),
    /// An exec was started.
    ExecStarted(wire::TaskExecStarted),
    /// The container was frozen.
    Paused(wire::TaskPaused),
    /// It goes on.
    Resumed(wire::TaskResumed),
}

impl Event {
    /// What listeners choose by.
    pub fn topic(&self) -> &'static str {
        match self {
            Self::Create(_) => "/tasks/create",
            Self::Start(_) => "/tasks/start",
            Self::Exit(_) => "/tasks/exit",
            Self::Delete(_) => "/tasks/delete",
            Self::Oom(_) => "/tasks/oom",
            Self::ExecAdded(_) => "/tasks/exec-added",
            Self::ExecStarted(_) => "/tasks/exec-started",
            Self::Paused(_) => "/tasks/paused",
            Self::Resumed(_) => "/tasks/resumed",
        }
    }

    /// What travels.
    pub fn to_any(&self) -> Any {
        let (name, value) = match self {
            Self::Create(event) => ("TaskCreate", event.encode_to_vec()),
            Self::Start(event) => ("TaskStart", event.encode_to_vec()),
            Self::Exit(event) => ("TaskExit", event.encode_to_vec()),
            Self::Delete(event) => ("TaskDelete", event.encode_to_vec()),
            Self::Oom(event) => ("TaskOOM", event.encode_to_vec()),
            Self::ExecAdded(event) => ("TaskExecAdded", event.encode_to_vec()),
            Self::ExecStarted(event) => ("TaskExecStarted", event.encode_to_vec()),
            Self::Paused(event) => ("TaskPaused", event.encode_to_vec()),
            Self::Resumed(event) => ("TaskResumed", event.encode_to_vec()),
        };
        Any { type_url: format!("containerd.events.{name}"), value }
    }
}
