//! `ReopenLog`: after the kubelet has renamed the log file.

use crate::{Failure, FailureKind};
use proto::shim::container::ReopenLogResponse;

use super::{Outcome, Server, reply};

impl Server {
    pub(super) fn reopen_log(&mut self) -> Outcome {
        let Some(log) = self.container.as_mut().and_then(|container| container.log.as_mut()) else {
            let (kind, cause) = (FailureKind::FailedPrecondition, "there is no open log");
            return Err(Failure::new(kind, "reopen log", "", cause));
        };
        log.reopen()
            .map_err(|e| Failure::os_kind(FailureKind::FailedPrecondition, "reopen log", "", e))?;
        reply(&ReopenLogResponse {})
    }
}
