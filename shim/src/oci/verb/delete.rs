//! `delete`: removes what a container has left.

use crate::oci::args::{Flag, Order, Parsed, switch};
use crate::oci::record::{Record, Status};
use crate::oci::{Context, Verb, end};
use crate::{Failure, FailureKind};

const FLAGS: &[Flag] = &[switch(&["force", "f"])];

pub const VERB: Verb = Verb {
    name: "delete",
    usage: "[--force] <container-id>",
    flags: FLAGS,
    order: Order::Any,
    failed: 1,
    run,
};

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let force = args.has("force");
    let folder = match context.folder(args).and_then(|folder| folder.locked()) {
        // What is to be gone, is.
        Err(failure) if force && failure.kind == FailureKind::NotFound => return Ok(0),
        other => other?,
    };
    let record = match folder.record() {
        Ok(Some(record)) => record,
        // Nothing was begun yet when its creation was broken off.
        Ok(None) => Record { id: folder.id().to_string(), ..Record::default() },
        Err(failure) if !force => return Err(failure),
        Err(failure) => {
            context.warn(&failure);
            Record { id: folder.id().to_string(), ..Record::default() }
        }
    };
    match (folder.status(&record), &record.init) {
        (Status::Stopped, _) => {}
        (Status::Created, Some(init)) => end::kill(init)?,
        (_, Some(init)) if force => end::kill(init)?,
        (Status::Creating, _) if force => end::remove_unfinished(&record)?,
        (status, _) => {
            let state = status.as_str();
            let cause = format!("cannot delete a container that is not stopped: {state}");
            let object = format!("container {}", record.id);
            return Err(Failure::new(FailureKind::FailedPrecondition, "delete", object, cause));
        }
    }
    end::remove(&context.thread, folder, &record).map(|()| 0)
}
