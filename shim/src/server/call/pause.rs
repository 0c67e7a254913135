//! `Pause`: stops everybody in the container where they stand.

use proto::shim::events as wire;
use proto::shim::task::v2::PauseRequest;

use super::{Outcome, Server, done};
use crate::server::event::Event;
use crate::server::process::{INIT, Phase};

impl Server {
    pub(super) fn pause(&mut self, request: &PauseRequest) -> Outcome {
        let container = self.container(&request.id)?;
        let init = container.by_id("")?;
        if !matches!(init.phase, Phase::Running) {
            return Err(init.refuse("pause", "it does not run"));
        }
        container.cgroups.freeze()?;
        container.paused = true;
        let told = |id: &str| Event::Paused(wire::TaskPaused { container_id: id.to_owned() });
        self.tell(|id, _| told(id), INIT);
        done()
    }
}
