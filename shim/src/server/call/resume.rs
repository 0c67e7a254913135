//! `Resume`: lets a paused container go on.

use proto::shim::events as wire;
use proto::shim::task::v2::ResumeRequest;

use super::{Outcome, Server, done};
use crate::foreign::errand::Verb;
use crate::server::event::Event;
use crate::server::foreign::Then;
use crate::server::process::INIT;
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn resume(&mut self, request: &ResumeRequest, caller: Caller) -> Outcome {
        let container = self.container(&request.id)?;
        if !container.paused {
            return Err(container.by_id("")?.refuse("resume", "it is not paused"));
        }
        if !container.maker.is_own() {
            return self.begin_errand(Verb::Resume, Then::Resumed(caller));
        }
        container.cgroups.thaw()?;
        container.paused = false;
        let told = |id: &str| Event::Resumed(wire::TaskResumed { container_id: id.to_owned() });
        self.tell(|id, _| told(id), INIT);
        done()
    }
}
