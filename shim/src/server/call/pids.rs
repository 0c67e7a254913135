//! `Pids`: the container's processes.

use crate::Failure;
use proto::shim::task::v2::{PidsRequest, PidsResponse};
use proto::shim::v1::types::ProcessInfo;

use super::{Outcome, Server, reply};

impl Server {
    pub(super) fn pids(&mut self, request: &PidsRequest) -> Outcome {
        let container = self.container(&request.id)?;
        let pids = container
            .cgroups
            .processes()
            .map_err(|e| Failure::os("list processes of", request.id.as_str(), e))?;
        let processes = pids.into_iter().map(|pid| ProcessInfo { pid, info: None }).collect();
        reply(&PidsResponse { processes })
    }
}
