//! `State`: what a process is doing.

use proto::shim::task::v2::{StateRequest, StateResponse};
use proto::shim::v1::types::Status;

use super::{Outcome, Server, reply};
use crate::server::process::Phase;
use crate::server::reap::timestamp;

impl Server {
    pub(super) fn state(&mut self, request: &StateRequest) -> Outcome {
        let container = self.container(&request.id)?;
        let paused = container.paused;
        let process = container.by_id(&request.exec_id)?;
        let (status, exit) = match &process.phase {
            Phase::Registered(_) | Phase::Building(_) | Phase::Created(_) => {
                (Status::Created, None)
            }
            Phase::Running if paused => (Status::Paused, None),
            Phase::Starting(_) | Phase::Running => (Status::Running, None),
            Phase::Stopped(exit) => (Status::Stopped, Some(*exit)),
        };
        reply(&StateResponse {
            id: request.id.clone(),
            bundle: std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned(),
            exec_id: request.exec_id.clone(),
            pid: process.pid(),
            status: status.into(),
            terminal: process.has_terminal,
            stdin: process.paths.input.clone(),
            stdout: process.paths.output.clone(),
            stderr: process.paths.error.clone(),
            exit_status: exit.map_or(0, |exit| exit.code.unsigned_abs()),
            exited_at: exit.map(|exit| timestamp(exit.at)),
        })
    }
}
