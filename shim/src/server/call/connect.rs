//! `Connect`: who is who.

use proto::shim::task::v2::ConnectResponse;

use super::{Outcome, Server, reply};
use crate::server::process::INIT;

impl Server {
    pub(super) fn connect(&mut self) -> Outcome {
        let init = self.container.as_mut().and_then(|container| container.by_key(INIT));
        reply(&ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: init.map_or(0, |init| init.pid()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
