//! `start`: lets the process of a created container pass.

use crate::oci::args::{Order, Parsed};
use crate::oci::record::Status;
use crate::oci::{Context, Verb, end, start};
use crate::runtime::HookKind;
use crate::{Failure, FailureKind};

pub const VERB: Verb =
    Verb { name: "start", usage: "<container-id>", flags: &[], order: Order::Any, failed: 1, run };

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let folder = context.folder(args)?.locked()?;
    let (record, status) = folder.known()?;
    let refuse = |cause| {
        let object = format!("container {}", record.id);
        Err(Failure::new(FailureKind::FailedPrecondition, "start", object, cause))
    };
    match status {
        Status::Created => {}
        Status::Stopped => return refuse("cannot start a container that has stopped"),
        Status::Creating => return refuse("its creation was broken off"),
        Status::Running | Status::Paused => {
            return refuse("cannot start an already running container");
        }
    }
    start::start(&folder)?;
    if record.poststart {
        let pid = record.init.as_ref().map_or(0, |init| init.pid);
        end::run_hooks(&context.thread, HookKind::Poststart, &record, pid);
    }
    Ok(0)
}
