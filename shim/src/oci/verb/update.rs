//! `update`: other limits for a running container.

use std::fs;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use crate::oci::args::{Flag, Order, Parsed, value};
use crate::oci::record::Status;
use crate::oci::{Context, Verb};
use crate::{Failure, FailureKind};

const FLAGS: &[Flag] = &[
    value(&["resources", "r"]),
    value(&["blkio-weight"]),
    value(&["cpu-period"]),
    value(&["cpu-quota"]),
    value(&["cpu-burst"]),
    value(&["cpu-share"]),
    value(&["cpu-rt-period"]),
    value(&["cpu-rt-runtime"]),
    value(&["cpu-idle"]),
    value(&["cpuset-cpus"]),
    value(&["cpuset-mems"]),
    value(&["memory"]),
    value(&["memory-reservation"]),
    value(&["memory-swap"]),
    value(&["pids-limit"]),
    value(&["kernel-memory"]),
    value(&["kernel-memory-tcp"]),
    value(&["l3-cache-schema"]),
    value(&["mem-bw-schema"]),
];

/// Flags with numbers, and where the specification has them.
const NUMBERS: &[(&str, &str, &str)] = &[
    ("blkio-weight", "blockIO", "weight"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-burst", "cpu", "burst"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-idle", "cpu", "idle"),
    ("memory", "memory", "limit"),
    ("memory-reservation", "memory", "reservation"),
    ("memory-swap", "memory", "swap"),
    ("pids-limit", "pids", "limit"),
];

pub const VERB: Verb = Verb {
    name: "update",
    usage: "[flags] <container-id>",
    flags: FLAGS,
    order: Order::Any,
    failed: 1,
    run,
};

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let folder = context.folder(args)?.locked()?;
    let (record, status) = folder.known()?;
    status.require(&[Status::Created, Status::Running, Status::Paused], "update", &record)?;
    let resources = match args.value("resources") {
        Some(path) => file(Path::new(path))?,
        None => from_flags(args)?,
    };
    let resources: LinuxResources = serde_json::from_value(resources).map_err(|error| {
        Failure::new(FailureKind::InvalidArgument, "read", "resources", error.to_string())
    })?;
    record.init.as_ref().map_or(Ok(()), |init| init.watch().update(&resources)).map(|()| 0)
}

fn file(path: &Path) -> Result<Value, Failure> {
    let mut text = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut text).map(drop),
        _ => fs::read(path).map(|bytes| text = bytes),
    };
    read.map_err(|e| Failure::os("read", path.display().to_string(), e))?;
    serde_json::from_slice(&text).map_err(|error| {
        let object = path.display().to_string();
        Failure::new(FailureKind::InvalidArgument, "read", object, error.to_string())
    })
}

fn from_flags(args: &Parsed) -> Result<Value, Failure> {
    for flag in ["l3-cache-schema", "mem-bw-schema", "kernel-memory", "kernel-memory-tcp"] {
        if args.value(flag).is_some() {
            let kind = FailureKind::Unsupported;
            return Err(Failure::new(kind, "use", format!("--{flag}"), "not supported"));
        }
    }
    let mut resources = json!({});
    for (flag, group, field) in NUMBERS {
        if let Some(number) = args.number::<i64>(flag)? {
            resources[group][field] = json!(number);
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(list) = args.text(flag)? {
            resources["cpu"][field] = json!(list);
        }
    }
    Ok(resources)
}
