//! `pause`: stops everybody in a container where they stand.

use crate::Failure;
use crate::oci::args::{Order, Parsed};
use crate::oci::record::Status;
use crate::oci::{Context, Verb};

pub const VERB: Verb =
    Verb { name: "pause", usage: "<container-id>", flags: &[], order: Order::Any, failed: 1, run };

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let folder = context.folder(args)?.locked()?;
    let (record, status) = folder.known()?;
    status.require(&[Status::Running, Status::Created], "pause", &record)?;
    record.init.as_ref().map_or(Ok(()), |init| init.freeze()).map(|()| 0)
}
