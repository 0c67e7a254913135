//! `ps`: the processes in a container.

use std::process::{Command, Stdio};

use crate::oci::args::{Flag, Order, Parsed, value, wrong};
use crate::oci::record::Status;
use crate::oci::{Context, Verb};
use crate::{Failure, FailureKind};

const FLAGS: &[Flag] = &[value(&["format", "f"])];

pub const VERB: Verb = Verb {
    name: "ps",
    usage: "[--format table|json] <container-id> [arguments of ps]",
    flags: FLAGS,
    order: Order::First,
    failed: 1,
    run,
};

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let Some((id, options)) = args.rest.split_first() else {
        return Err(wrong("container id".as_ref(), "it is missing"));
    };
    let (record, status) = context.open(id)?.known()?;
    let pids = match &record.init {
        Some(init) if status != Status::Stopped => init
            .watch()
            .processes()
            .map_err(|e| Failure::os("list processes of", format!("container {id:?}"), e))?,
        _ => Vec::new(),
    };
    match args.text("format")? {
        Some("json") => println!("{}", serde_json::json!(pids)),
        None | Some("table") => print!("{}", table(&pids, options)?),
        Some(other) => {
            let object = format!("format {other}");
            let kind = FailureKind::InvalidArgument;
            return Err(Failure::new(kind, "use", object, "table and json are known"));
        }
    }
    Ok(0)
}

/// What ps(1) says of these processes.
fn table(pids: &[u32], options: &[std::ffi::OsString]) -> Result<String, Failure> {
    let mut ps = Command::new("ps");
    if options.is_empty() {
        ps.arg("-ef");
    }
    let output = ps.args(options).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| Failure::os("execute", "ps", e))?;
    // A part of a table would look like all of it.
    if !output.status.success() {
        return Err(Failure::new(
            FailureKind::Internal,
            "execute",
            "ps",
            output.status.to_string(),
        ));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let head = text.lines().next().unwrap_or_default();
    let column = head.split_whitespace().position(|title| title == "PID").ok_or_else(|| {
        Failure::new(FailureKind::InvalidArgument, "find", "column PID", "ps does not print it")
    })?;
    let is_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: u32| pids.contains(&pid))
    };
    let lines = std::iter::once(head).chain(text.lines().skip(1).filter(is_ours));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}
