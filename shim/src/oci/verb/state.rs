//! `state`: what is known of a container, as JSON.

use serde_json::{Value, json};

use crate::Failure;
use crate::oci::args::{Order, Parsed};
use crate::oci::record::{Record, Status};
use crate::oci::{Context, Verb};

pub const VERB: Verb =
    Verb { name: "state", usage: "<container-id>", flags: &[], order: Order::Any, failed: 1, run };

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let (record, status) = context.folder(args)?.known()?;
    println!("{:#}", describe(&record, status, ""));
    Ok(0)
}

/// A container as the specification and, beyond it, runc has it.
pub fn describe(record: &Record, status: Status, owner: &str) -> Value {
    let pid = match (status, &record.init) {
        (Status::Stopped, _) | (_, None) => 0,
        (_, Some(init)) => init.pid,
    };
    let mut state = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": pid,
        "status": status.as_str(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": owner,
    });
    if !record.annotations.is_empty() {
        state["annotations"] = json!(record.annotations);
    }
    state
}
