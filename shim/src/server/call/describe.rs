//! `Describe`: whom the container runs as, which process it is and how it ended.

use std::time::SystemTime;

use crate::{Failure, FailureKind};
use prost::Message;
use proto::shim::container::{DescribeResponse, Exit};

use super::{Answer, Outcome, Server};
use crate::server::process::{INIT, Phase};
use crate::server::ttrpc::Caller;

/// Callers that may wait for a container to be created.
const MAX_DESCRIBERS: usize = 16;

impl Server {
    /// Asked while the container is being made, it answers with the create: so a caller can send both at once.
    pub(super) fn describe(&mut self, caller: Caller) -> Outcome {
        if let Some(container) = &mut self.container
            && container.describers.len() < MAX_DESCRIBERS
            && let Some(init) = container.by_key(INIT)
            && matches!(init.phase, Phase::Building(_))
        {
            container.describers.push(caller);
            return Ok(Answer::Later);
        }
        self.description().map(Answer::Now)
    }

    /// Tells everybody who has asked too early.
    pub(in crate::server) fn answer_describers(&mut self, describers: Vec<Caller>) {
        for caller in describers {
            let description = self.description();
            self.answer(caller, description);
        }
    }

    fn description(&mut self) -> Result<Vec<u8>, Failure> {
        let started = self.record.started();
        let Some(container) = &mut self.container else {
            let cause = "there is none";
            return Err(Failure::new(FailureKind::NotFound, "describe", "container", cause));
        };
        let user = container.user.clone();
        let init = container.by_key(INIT);
        let exit = init.as_ref().and_then(|init| match init.phase {
            Phase::Stopped(exit) => Some(exit),
            _ => None,
        });
        let nanoseconds = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        };
        let description = DescribeResponse {
            pid: init.map_or(0, |init| init.pid()),
            start_time: started.map_or(0, |started| started.start_time),
            user: Some(user),
            exit: exit.map(|exit| Exit {
                code: exit.code.unsigned_abs(),
                at: nanoseconds(exit.at),
                oom_killed: exit.oom_killed,
            }),
        };
        Ok(description.encode_to_vec())
    }
}
