//! `create`: a container whose process waits for its start.

use crate::Failure;
use crate::oci::args::{Order, Parsed};
use crate::oci::launch::{FLAGS, Stay, launch};
use crate::oci::{Context, Verb, seal};

pub const VERB: Verb = Verb {
    name: "create",
    usage: "[flags] <container-id>",
    flags: &FLAGS,
    order: Order::Any,
    failed: 1,
    run,
};

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    seal::seal()?;
    launch(&context.thread, &context.global, args, Stay::Detached).map(|_| 0)
}
