//! `Checkpoint`: known, and not supported.

use crate::{Failure, FailureKind};
use proto::shim::task::v2::CheckpointTaskRequest;

use super::{Outcome, Server};

impl Server {
    pub(super) fn checkpoint(&mut self, request: &CheckpointTaskRequest) -> Outcome {
        let _known = self.container(&request.id)?;
        let cause = "checkpoints are not supported";
        Err(Failure::new(FailureKind::Unsupported, "checkpoint", request.id.as_str(), cause))
    }
}
