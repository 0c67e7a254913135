//! `Resume`: lets a paused container go on.

use proto::shim::events as wire;
use proto::shim::task::v2::ResumeRequest;

use super::{Outcome, Server, done};
use crate::server::event::Event;
use crate::server::process::INIT;

impl Server {
    pub(super) fn resume(&mut self, request: &ResumeRequest) -> Outcome {
        let container = self.container(&request.id)?;
        if !container.paused {
            return Err(container.by_id("")?.refuse("resume", "it is not paused"));
        }
        container.cgroups.thaw()?;
        container.paused = false;
        let told = |id: &str| Event::Resumed(wire::TaskResumed { container_id: id.to_owned() });
        self.tell(|id, _| told(id), INIT);
        done()
    }
}
