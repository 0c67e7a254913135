//! `Stats`: what the kernel counts for the container.

use proto::shim::task::v2::{StatsRequest, StatsResponse};

use super::{Outcome, Server, reply};

impl Server {
    pub(super) fn stats(&mut self, request: &StatsRequest) -> Outcome {
        let container = self.container(&request.id)?;
        reply(&StatsResponse { stats: Some(container.cgroups.stats().to_metrics()) })
    }
}
