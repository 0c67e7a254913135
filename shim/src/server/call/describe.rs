//! `Describe`: whom the container runs as, which process it is and how it ended.

use std::time::SystemTime;

use proto::shim::container::{DescribeResponse, Exit};
use shim::{Failure, FailureKind};

use super::{Outcome, Server, reply};
use crate::server::process::{INIT, Phase};

impl Server {
    pub(super) fn describe(&mut self) -> Outcome {
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
        reply(&DescribeResponse {
            pid: init.map_or(0, |init| init.pid()),
            start_time: started.map_or(0, |started| started.start_time),
            user: Some(user),
            exit: exit.map(|exit| Exit {
                code: exit.code.unsigned_abs(),
                at: nanoseconds(exit.at),
                oom_killed: exit.oom_killed,
            }),
        })
    }
}
