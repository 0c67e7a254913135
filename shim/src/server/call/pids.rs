//! `Pids`: the container's processes.

use crate::Failure;
use proto::shim::task::v2::{PidsRequest, PidsResponse};
use proto::shim::v1::types::ProcessInfo;

use crate::server::tell::details;

use super::{Outcome, Server, reply};

impl Server {
    pub(super) fn pids(&mut self, request: &PidsRequest) -> Outcome {
        let container = self.container(&request.id)?;
        let pids = container
            .cgroups
            .processes()
            .map_err(|e| Failure::os("list processes of", request.id.as_str(), e))?;
        let which = |pid: &u32| {
            let process = container.processes.iter().find(|process| process.pid() == *pid);
            process.and_then(details)
        };
        let info = pids.iter().map(|pid| ProcessInfo { pid: *pid, info: which(pid) });
        let processes = info.collect();
        reply(&PidsResponse { processes })
    }
}
