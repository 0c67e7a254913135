//! `Run`: a process from its making to its end in one call.

use std::os::fd::OwnedFd;

use crate::{Failure, FailureKind};
use proto::shim::container::RunRequest;

use super::{Answer, Outcome, Server};
use crate::server::stdio::{OurEnds, TheirEnds};
use crate::server::ttrpc::Caller;

impl Server {
    /// The answer comes when the process has ended; then nothing is left of it. Its files are the caller's: nobody copies
    /// in between.
    pub(super) fn run_exec(
        &mut self,
        request: RunRequest,
        files: Vec<OwnedFd>,
        caller: Caller,
    ) -> Outcome {
        let Ok([output, error]) = <[OwnedFd; 2]>::try_from(files) else {
            let cause = "its output and error have to come with it";
            let id = request.exec_id;
            return Err(Failure::new(FailureKind::InvalidArgument, "run exec", id, cause));
        };
        let process = self.register(request.exec_id, request.process)?;
        process.runs = true;
        let key = process.key;
        let theirs = TheirEnds { input: None, output: Some(output), error: Some(error) };
        let begun = self.execute(key, caller, (OurEnds::default(), theirs));
        if begun.is_err()
            && let Some(container) = &mut self.container
        {
            container.remove(key);
        }
        begun.map(|()| Answer::Later)
    }
}
