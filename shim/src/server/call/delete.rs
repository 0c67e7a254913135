//! `Delete`: frees what an ended process holds.

use crate::{Failure, FailureKind};
use prost::Message;
use proto::shim::task::v2::{DeleteRequest, DeleteResponse};

use super::{Answer, Outcome, Server};
use crate::foreign::errand::Verb;
use crate::server::foreign::Then;
use crate::server::process::{INIT, Phase};
use crate::server::reap::timestamp;
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn delete(&mut self, request: &DeleteRequest, caller: Caller) -> Outcome {
        let container = self.container(&request.id)?;
        let (foreign, by_shim) = (!container.maker.is_own(), container.maker.is_shim());
        let process = container.by_id(&request.exec_id)?;
        let key = process.key;
        match &process.phase {
            Phase::Stopped(_) if foreign && key == INIT => {
                self.begin_delete(vec![caller]);
                Ok(Answer::Later)
            }
            Phase::Stopped(_) if by_shim => {
                let verb = Verb::DeleteExec(process.id.clone());
                self.begin_errand(verb, Then::Forgotten(key, caller))
            }
            Phase::Stopped(_) => self.delete_stopped(key).map(Answer::Now),
            Phase::Registered(_) => {
                if let Some(container) = &mut self.container {
                    container.remove(key);
                }
                Ok(Answer::Now(DeleteResponse::default().encode_to_vec()))
            }
            // Never started: nobody misses it.
            Phase::Building(_) | Phase::Created(_) => {
                // Another runtime is let come to its end: half made, nobody knows what there is of it.
                if !(foreign && matches!(process.phase, Phase::Building(_))) {
                    process.kill();
                }
                process.deleters.push(caller);
                Ok(Answer::Later)
            }
            Phase::Starting(_) | Phase::Running => Err(process.refuse("delete", "it runs")),
        }
    }

    /// Forgets a process that has ended; with the first one goes the container, and whoever is left in its cgroups.
    pub(in crate::server) fn delete_stopped(&mut self, key: u32) -> Result<Vec<u8>, Failure> {
        let gone = || Failure::new(FailureKind::NotFound, "delete", "container", "there is none");
        let container = self.container.as_mut().ok_or_else(gone)?;
        let process = container.by_key(key).ok_or_else(gone)?;
        let Phase::Stopped(exit) = process.phase else {
            return Err(process.refuse("delete", "it runs"));
        };
        let response = DeleteResponse {
            pid: process.pid(),
            exit_status: exit.code.unsigned_abs(),
            exited_at: Some(timestamp(exit.at)),
        };
        if key == INIT {
            self.tell_deleted(exit);
            let Some(container) = &mut self.container else { return Err(gone()) };
            let id = container.id.clone();
            container.cgroups.remove().map_err(|e| Failure::os("remove cgroups of", id, e))?;
            self.run_hooks_after_end();
            self.container = None;
        } else {
            container.remove(key);
        }
        Ok(response.encode_to_vec())
    }
}
