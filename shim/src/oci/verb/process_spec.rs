//! What an exec's process is to be: a file of the caller's, or the container's own process with another command.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::oci::args::{Parsed, text, wrong};
use crate::oci::record::Record;
use crate::{Failure, FailureKind, SPEC_FILE};

/// Reads it, and changes what the flags say.
///
/// # Errors
/// `InvalidArgument`: it is none; or the file cannot be read.
pub fn read(
    args: &Parsed,
    record: &Record,
    command: &[OsString],
    env: Vec<String>,
) -> Result<Value, Failure> {
    let mut process = match args.value("process") {
        Some(path) => file(Path::new(path))?,
        None => {
            if command.is_empty() {
                return Err(wrong(OsStr::new("command"), "it is missing"));
            }
            let mut spec = file(&record.bundle.join(SPEC_FILE))?;
            let mut process = spec["process"].take();
            let command = command.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
            process["args"] = json!(command);
            change(&mut process, args)?;
            process
        }
    };
    if !process.is_object() {
        let kind = FailureKind::InvalidArgument;
        return Err(Failure::new(kind, "read process", "of exec", "it is no object"));
    }
    extend(&mut process["env"], env);
    Ok(process)
}

fn file(path: &Path) -> Result<Value, Failure> {
    let name = || path.display().to_string();
    let bytes = fs::read(path).map_err(|e| Failure::os("open", name(), e))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(FailureKind::InvalidArgument, "read", name(), error.to_string())
    })
}

fn change(process: &mut Value, args: &Parsed) -> Result<(), Failure> {
    process["terminal"] = json!(args.has("tty"));
    // Of the container's own terminal.
    process["consoleSize"] = Value::Null;
    let texts =
        [("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")];
    for (flag, field) in texts {
        if let Some(text) = args.text(flag)? {
            process[field] = json!(text);
        }
    }
    if args.has("no-new-privs") {
        process["noNewPrivileges"] = json!(true);
    }
    let env = args.all("env").map(text).collect::<Result<Vec<_>, _>>()?;
    extend(&mut process["env"], env.into_iter().map(str::to_owned).collect());
    for capability in args.all("cap").map(text).collect::<Result<Vec<_>, _>>()? {
        for set in ["bounding", "effective", "permitted"] {
            extend(&mut process["capabilities"][set], vec![capability.to_owned()]);
        }
    }
    if let Some(user) = args.text("user")? {
        let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
        process["user"]["uid"] = json!(number("user", uid)?);
        if let Some(gid) = gid {
            process["user"]["gid"] = json!(number("user", gid)?);
        }
    }
    let groups: Vec<u32> = args
        .all("additional-gids")
        .map(|group| number("additional-gids", text(group)?))
        .collect::<Result<_, _>>()?;
    if !groups.is_empty() {
        let all = &mut process["user"]["additionalGids"];
        match all.as_array_mut() {
            Some(all) => all.extend(groups.into_iter().map(Value::from)),
            None => *all = json!(groups),
        }
    }
    Ok(())
}

fn number(flag: &str, text: &str) -> Result<u32, Failure> {
    text.parse().map_err(|_| {
        let object = format!("--{flag} {text}");
        Failure::new(FailureKind::InvalidArgument, "read", object, "not a number in range")
    })
}

/// Adds to a list that may not be there yet.
fn extend(list: &mut Value, more: Vec<String>) {
    if more.is_empty() {
        return;
    }
    match list.as_array_mut() {
        Some(list) => list.extend(more.into_iter().map(Value::from)),
        None => *list = json!(more),
    }
}
