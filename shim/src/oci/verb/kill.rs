//! `kill`: a signal to a container's process, or to all of them.

use std::ffi::OsStr;

use rustix::process::Signal;

use crate::oci::args::{Flag, Order, Parsed, switch, text, wrong};
use crate::oci::record::Status;
use crate::oci::{Context, Verb};
use crate::{Failure, FailureKind};

const FLAGS: &[Flag] = &[switch(&["all", "a"])];

pub const VERB: Verb = Verb {
    name: "kill",
    usage: "[--all] <container-id> [signal]",
    flags: FLAGS,
    order: Order::Any,
    failed: 1,
    run,
};

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let (id, name) = match args.rest.as_slice() {
        [id] => (id, OsStr::new("TERM")),
        [id, signal] => (id, signal.as_os_str()),
        [] => return Err(wrong(OsStr::new("container id"), "it is missing")),
        [_, _, more, ..] => return Err(wrong(more, "one argument too many")),
    };
    let signal = parse(text(name)?)?;
    let (record, status) = context.open(id)?.known()?;
    let all = args.has("all");
    let object = || format!("container {}", record.id);
    let Some(init) = &record.init else {
        return status.require(&[Status::Running], "signal", &record).map(|()| 0);
    };
    let everybody =
        || init.watch().signal_all(signal).map_err(|e| Failure::os("signal", object(), e));
    let process = init.open()?;
    match &process {
        Some(process) => process.signal(signal)?,
        // The first process is gone, but with the host's PID namespace it did not take the others along.
        None if all && !init.own_pids => return everybody().map(|()| 0),
        None => {
            let kind = FailureKind::FailedPrecondition;
            return Err(Failure::new(kind, "signal", object(), "container not running"));
        }
    }
    if all || (signal == Signal::KILL && !init.own_pids) {
        everybody()?;
    }
    if signal == Signal::KILL && status == Status::Paused {
        init.thaw()?;
    }
    Ok(0)
}

/// A signal by its number or its name, with or without SIG.
fn parse(text: &str) -> Result<Signal, Failure> {
    let number = text.parse().ok().or_else(|| {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        real_time(name).or_else(|| {
            let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().ok()?;
            Some(signal as i32)
        })
    });
    number.and_then(sys::process::signal).ok_or_else(|| {
        let object = format!("signal {text}");
        Failure::new(FailureKind::InvalidArgument, "use", object, "unknown signal")
    })
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`, as C libraries count them.
fn real_time(name: &str) -> Option<i32> {
    const MIN: i32 = 34;
    const MAX: i32 = 64;
    let number = match name.split_at_checked(5)? {
        ("RTMIN", "") => MIN,
        ("RTMIN", more) => MIN.checked_add(more.strip_prefix('+')?.parse().ok()?)?,
        ("RTMAX", "") => MAX,
        ("RTMAX", less) => MAX.checked_sub(less.strip_prefix('-')?.parse().ok()?)?,
        _ => return None,
    };
    (MIN..=MAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_many_names() {
        for name in ["9", "KILL", "SIGKILL", "kill", "sigkill"] {
            assert_eq!(parse(name).unwrap(), Signal::KILL, "{name}");
        }
        assert_eq!(parse("RTMIN+3").unwrap().as_raw(), 37);
        assert_eq!(parse("SIGRTMAX").unwrap().as_raw(), 64);
        for name in ["", "0", "65", "-9", "NOTHING", "RTMIN+99", "RTMIN-1"] {
            assert!(parse(name).is_err(), "{name}");
        }
    }
}
