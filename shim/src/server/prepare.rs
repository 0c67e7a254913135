//! The shim's first steps, from a process of its launcher's to one that owns a container.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, set_child_subreaper, set_dumpable_behavior, setsid};
use sys::process::{
    SingleThreaded, StandardFile, close_inherited_from, reset_signals, set_standard,
};

use super::{Publisher, Server};
use crate::{Bundle, Failure, runtime};

/// Serves the container of the bundle that is this process's folder, until there is nothing left to own. The
/// listening socket is standard input.
#[must_use]
pub fn serve() -> ExitCode {
    serve_for(None)
}

/// As [`serve`], and tells another daemon than Wherry's what happens.
#[must_use]
pub fn serve_for(publisher: Option<Publisher>) -> ExitCode {
    match prepare(publisher).and_then(Server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            runtime::warn(format_args!("{failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Leaves the daemon's session and whatever it had open, and becomes the parent of its container's orphans.
fn prepare(publisher: Option<Publisher>) -> Result<Server, Failure> {
    let fail = |what: &'static str| move |error: io::Error| Failure::os(what, "", error);
    close_inherited_from(3).map_err(fail("close inherited files"))?;
    let listener = take_over_listener().map_err(fail("take over socket"))?;
    reset_signals();
    // The launcher executes it by a number.
    rustix::thread::set_name(c"wherry-shim").map_err(|e| fail("set name")(e.into()))?;
    // Who leads a process group already has no session to leave.
    let _own = setsid();
    let _old = rustix::process::umask(Mode::from_raw_mode(0o022));
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| fail("adopt orphans")(e.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| fail("hide process")(e.into()))?;
    let oom_score_adj = runtime::protect_from_oom();
    let thread = SingleThreaded::prove()
        .ok_or_else(|| fail("start")(io::Error::other("more than one thread")))?;
    let record = Bundle::open(Path::new("."))
        .and_then(|bundle| bundle.record())
        .map_err(|error| fail("open record")(error.source))?;
    Server::new(thread, listener, record, oom_score_adj, publisher)
}

/// The listening socket, away from the standard input that our children inherit.
fn take_over_listener() -> io::Result<OwnedFd> {
    let listener = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    set_standard(null, StandardFile::Input)?;
    Ok(listener)
}
