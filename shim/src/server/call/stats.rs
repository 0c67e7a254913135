//! `Stats`: what the kernel counts for the container.

use proto::shim::task::v2::{StatsRequest, StatsResponse};

use super::{Outcome, Server, reply};
use crate::runtime::cgroup::stats::to_metrics;

impl Server {
    pub(super) fn stats(&mut self, request: &StatsRequest) -> Outcome {
        let container = self.container(&request.id)?;
        reply(&StatsResponse { stats: Some(to_metrics(&container.cgroups.stats())) })
    }
}
