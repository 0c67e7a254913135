//! `Update`: other limits for a running container; the answer comes when all of them are in force, or none.

use std::os::fd::{AsFd, OwnedFd};

use crate::{Failure, FailureKind};
use proto::shim::task::v2::UpdateTaskRequest;

use super::{Answer, Outcome, Server};
use crate::foreign::errand::Verb;
use crate::runtime::report::{self, Event, Received, receive};
use crate::runtime::{BuilderFiles, build_update};
use crate::server::foreign::Then;
use crate::server::poll::Token;
use crate::server::ttrpc::Caller;
use crate::type_name;

/// An update on its way.
#[derive(Debug)]
pub struct Update {
    report: OwnedFd,
    caller: Caller,
    failure: Option<Failure>,
}

impl Server {
    pub(super) fn update(&mut self, request: &UpdateTaskRequest, caller: Caller) -> Outcome {
        let refuse = |kind, cause| Err(Failure::new(kind, "update", request.id.as_str(), cause));
        let (ours, theirs) = report::pair()?;
        let container = self.container(&request.id)?;
        if container.update.is_some() {
            return refuse(FailureKind::FailedPrecondition, "another update is not done yet");
        }
        let Some(resources) = &request.resources else {
            return refuse(FailureKind::InvalidArgument, "it says no resources");
        };
        let score = request.annotations.get(type_name::OOM_SCORE_ADJ).map(|text| text.parse());
        let score = match score.transpose() {
            Ok(score) if score.is_none_or(|score| (-1000..=1000).contains(&score)) => score,
            _ => return refuse(FailureKind::InvalidArgument, "its oom_score_adj is none"),
        };
        if !container.maker.is_own() {
            let resources = resources.value.clone();
            return self.begin_errand(Verb::Update(resources), Then::Answer(caller));
        }
        container.update = Some(Update { report: ours, caller, failure: None });
        let files = BuilderFiles { report: theirs.as_fd(), stdio: [None; 3] };
        let begun = self.container.as_ref().map_or(Ok(()), |container| {
            let watch = &container.cgroups;
            let forked = self.thread.fork(|| build_update(watch, &resources.value, score, files));
            forked.map_err(|e| Failure::os("create", "builder", e))?;
            let report = container.update.as_ref().map(|update| &update.report);
            report.map_or(Ok(()), |report| {
                let watched = self.poll.add(report, Token::Update);
                watched.map_err(|e| Failure::os("watch", "update", e))
            })
        });
        if begun.is_err()
            && let Some(container) = &mut self.container
        {
            container.update = None;
        }
        begun.map(|()| Answer::Later)
    }

    /// Takes what the builder of an update has said.
    pub(in crate::server) fn take_update(&mut self) {
        let Some(container) = &mut self.container else { return };
        while let Some(update) = &mut container.update {
            match receive(&update.report) {
                Ok(Received::Nothing) => return,
                Ok(Received::Event(Event::Failed(failure), _)) => {
                    update.failure = Some(Failure::from_wire(failure));
                }
                Ok(Received::Event(..)) => {}
                Ok(Received::End) | Err(_) => {
                    let Some(update) = container.update.take() else { return };
                    let done = update.failure.map_or(Ok(Vec::new()), Err);
                    return self.answer(update.caller, done);
                }
            }
        }
    }
}
