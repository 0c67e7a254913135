//! `Pause`: stops everybody in the container where they stand.

use proto::shim::events as wire;
use proto::shim::task::v2::PauseRequest;

use super::{Outcome, Server, done};
use crate::foreign::errand::Verb;
use crate::server::event::Event;
use crate::server::foreign::Then;
use crate::server::process::{INIT, Phase};
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn pause(&mut self, request: &PauseRequest, caller: Caller) -> Outcome {
        let container = self.container(&request.id)?;
        let init = container.by_id("")?;
        if !matches!(init.phase, Phase::Running) {
            return Err(init.refuse("pause", "it does not run"));
        }
        if !container.maker.is_own() {
            return self.begin_errand(Verb::Pause, Then::Paused(caller));
        }
        container.cgroups.freeze()?;
        container.paused = true;
        let told = |id: &str| Event::Paused(wire::TaskPaused { container_id: id.to_owned() });
        self.tell(|id, _| told(id), INIT);
        done()
    }
}
