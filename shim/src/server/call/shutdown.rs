//! `Shutdown`: ends a shim that owns nothing any longer.

use crate::{Failure, FailureKind};

use super::{Outcome, Server, done};

impl Server {
    pub(super) fn shutdown(&mut self) -> Outcome {
        if let Some(container) = &self.container {
            let (kind, cause) = (FailureKind::FailedPrecondition, "there is a container");
            return Err(Failure::new(kind, "shut down", container.id.as_str(), cause));
        }
        self.ending = true;
        done()
    }
}
