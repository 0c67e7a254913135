//! `resume`: lets everybody in a paused container go on.

use crate::Failure;
use crate::oci::args::{Order, Parsed};
use crate::oci::record::Status;
use crate::oci::{Context, Verb};

pub const VERB: Verb =
    Verb { name: "resume", usage: "<container-id>", flags: &[], order: Order::Any, failed: 1, run };

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let folder = context.folder(args)?.locked()?;
    let (record, status) = folder.known()?;
    // A created container that is paused still counts as created.
    status.require(&[Status::Paused, Status::Created], "resume", &record)?;
    record.init.as_ref().map_or(Ok(()), |init| init.thaw()).map(|()| 0)
}
