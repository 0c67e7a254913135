//! The builder of an exec in a container that a command line has made: `RUNTIME exec --detach`.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use proto::shim::container as wire;

use super::build::{pid_name, read_pid, with_console};
use super::call::Call;
use super::{Command, place};
use crate::runtime::procfs::Procfs;
use crate::runtime::report::{self, Cloned, Event};
use crate::runtime::stdio::Stdio;
use crate::runtime::{BuilderFiles, conclude, limit};
use crate::{Failure, FailureKind};

/// As long as a daemon waits for a start, less what it takes to tell.
const START: Duration = Duration::from_secs(55);

/// What is to be executed.
#[derive(Debug)]
pub struct Request<'a> {
    /// Names it in this shim.
    pub key: u32,
    /// The process of an OCI spec, as JSON.
    pub process: &'a [u8],
    /// A terminal in place of the standard files.
    pub terminal: bool,
    /// The container's first process.
    pub init: u32,
    /// How soon the kernel kills it when the first process does not say.
    pub oom_score_adj: i32,
}

/// Makes the process and reports it; the builder's exit code. The end of the report without a failure means that the
/// command was executed.
pub fn build(runtime: &Command, request: &Request<'_>, files: BuilderFiles<'_>) -> u8 {
    let (report, stdio) = match files.keep() {
        Ok(kept) => kept,
        Err(code) => return code,
    };
    let result = execute(runtime, request, stdio, &report);
    conclude(&report, result)
}

fn execute(
    runtime: &Command,
    request: &Request<'_>,
    stdio: Stdio,
    report: &OwnedFd,
) -> Result<(), Failure> {
    let fail = |error| Failure::os("report", "", error);
    // What the runtime has, the process will have: as the first one, and not as this shim.
    let text = fs::read_to_string(format!("/proc/{}/oom_score_adj", request.init)).ok();
    let adjustment = text.and_then(|text| text.trim().parse().ok());
    let adjustment = adjustment.unwrap_or(request.oom_score_adj);
    limit::set_oom_score_adj(&Procfs::open()?, adjustment)?;
    let name = format!("exec-{}", request.key);
    let file = place(&format!("{name}.json"))?;
    fs::write(&file, request.process).map_err(|e| Failure::os("write", "process of exec", e))?;
    let call = Call::new(runtime, "exec", START)
        .failing_as(FailureKind::StartFailed)
        .arg("--process")
        .arg(&file)
        .arg("--detach")
        .arg("--pid-file")
        .arg(place(&pid_name(&name))?);
    let made = if request.terminal {
        with_console(call, &name).map(Some)
    } else {
        call.files(stdio).run().map(|()| None)
    };
    drop(fs::remove_file(&file));
    let terminal = made?;
    let cloned = Event::Cloned(Cloned { pid: read_pid(&name)?, ..Cloned::default() });
    report::send(report.as_fd(), cloned, None).map_err(fail)?;
    if let Some(terminal) = terminal {
        let ready = Event::Ready(wire::User::default());
        report::send(report.as_fd(), ready, Some(terminal.as_fd())).map_err(fail)?;
    }
    Ok(())
}
