//! The builder of a container that a command line makes: `RUNTIME create`, and what it has come to.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use proto::shim::container as wire;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::call::Call;
use super::prepare::{self, Prepared, has_own_pids};
use super::{Command, RUNTIME_FILE, Runtime, errand, place, write};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::report::{self, Cloned, Event};
use crate::runtime::stdio::Stdio;
use crate::runtime::{BuilderFiles, CreateRequest, conclude};
use crate::slice::ScopeName;
use crate::{Failure, FailureKind};

/// As long as a daemon waits for a create, less what it takes to tell.
const CREATE: Duration = Duration::from_secs(110);

/// Makes the container and reports as the builder of a container of our own does; the builder's exit code.
pub fn build(mut runtime: Command, request: &CreateRequest, files: BuilderFiles<'_>) -> u8 {
    let (report, stdio) = match files.keep() {
        Ok(kept) => kept,
        Err(code) => return code,
    };
    let result = create(&mut runtime, request, stdio, &report);
    conclude(&report, result)
}

fn create(
    runtime: &mut Command,
    request: &CreateRequest,
    stdio: Stdio,
    report: &OwnedFd,
) -> Result<(), Failure> {
    let spec = crate::runtime::read_spec()?;
    let cgroup = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    runtime.systemd = cgroup.and_then(Path::to_str).is_some_and(ScopeName::is_meant);
    prepare::make_folder()?;
    write(&place(RUNTIME_FILE)?, &Runtime::Command(runtime.clone()))?;
    let prepared = prepare::prepare(request, spec, &request.layers)?;
    let made = ask(runtime, request, stdio);
    let told = made.and_then(|terminal| {
        let pid = read_pid("init")?;
        tell(report, &prepared, pid, terminal.as_ref())
    });
    if told.is_err() {
        // Of some failures a runtime leaves something. The first one is what counts.
        drop(errand::delete(runtime));
    }
    told
}

/// Has the container made; its terminal's master, if it has one.
fn ask(
    runtime: &Command,
    request: &CreateRequest,
    stdio: Stdio,
) -> Result<Option<OwnedFd>, Failure> {
    let pid_file = place(&pid_name("init"))?;
    let call = Call::new(runtime, "create", CREATE)
        .failing_as(FailureKind::StartFailed)
        .arg("--bundle")
        .arg(place("")?)
        .arg("--pid-file")
        .arg(pid_file);
    if request.terminal {
        return with_console(call, "init").map(Some);
    }
    call.files(stdio).run().map(|()| None)
}

/// Reports as the builder of a container of our own does; with a file, which is a terminal's master, or a line to who has
/// made the container.
///
/// # Errors
/// The shim is gone.
pub fn tell(
    report: &OwnedFd,
    prepared: &Prepared,
    pid: u32,
    file: Option<&OwnedFd>,
) -> Result<(), Failure> {
    let fail = |error| Failure::os("report", "", error);
    let described = Cgroup::found(&prepared.spec)?.describe();
    let own_pids = has_own_pids(&prepared.spec);
    let cloned = Event::Cloned(Cloned { pid, own_pids, ..described });
    report::send(report.as_fd(), cloned, None).map_err(fail)?;
    let identity = &prepared.identity;
    let (uid, gid, groups) = (identity.uid, identity.gid, identity.groups.clone());
    let ready = Event::Ready(wire::User { uid, gid, groups });
    report::send(report.as_fd(), ready, file.map(AsFd::as_fd)).map_err(fail)
}

/// Makes a call whose process gets a terminal, and takes the terminal's master (runc's docs/terminals.md).
///
/// # Errors
/// As the call's; or the runtime gives none.
pub fn with_console(call: Call<'_>, name: &str) -> Result<OwnedFd, Failure> {
    let fail = |error| Failure::os("make", "console socket", error);
    // By a name in the runtime's own folder: a longer one might not fit into a socket's address.
    let file = format!("{name}.sock");
    let path = place(&file)?;
    let listener = OwnedFd::from(listen(&path).map_err(fail)?);
    let called = call.arg("--console-socket").arg(&file).start();
    let master = called.and_then(|mut running| {
        let master = if running.wait_for(Some(&listener))? { Some(take(&listener)?) } else { None };
        running.finish()?;
        let kind = FailureKind::Internal;
        master.ok_or_else(|| Failure::new(kind, "take", "terminal", "the runtime gives none"))
    });
    drop(fs::remove_file(&path));
    master
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let folder = fs::File::open(path.parent().unwrap_or(path))?;
    let name = path.file_name().unwrap_or_default();
    let short = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder));
    UnixListener::bind(Path::new(&short).join(name))
}

fn take(listener: &OwnedFd) -> Result<OwnedFd, Failure> {
    let fail = |error: rustix::io::Errno| Failure::os("take", "terminal", error);
    let line =
        rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC).map_err(fail)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 4096];
    let mut parts = [std::io::IoSliceMut::new(&mut text)];
    let _said =
        recvmsg(&line, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).map_err(fail)?;
    let master = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.into_iter().next(),
        _ => None,
    });
    let kind = FailureKind::Internal;
    master.ok_or_else(|| Failure::new(kind, "take", "terminal", "the message has no file"))
}

/// Where a runtime writes the number of a process that it has made.
pub fn pid_name(process: &str) -> String {
    format!("{process}.pid")
}

/// That number. It is a child of the shim's by now, and the shim has not taken its end.
///
/// # Errors
/// There is none.
pub fn read_pid(process: &str) -> Result<u32, Failure> {
    let path = place(&pid_name(process))?;
    let fail = |error| Failure::os("read", path.display().to_string(), error);
    let text = fs::read_to_string(&path).map_err(fail)?;
    drop(fs::remove_file(&path));
    text.trim().parse().map_err(|_| fail(std::io::ErrorKind::InvalidData.into()))
}
