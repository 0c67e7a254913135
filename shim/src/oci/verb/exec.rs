//! `exec`: a further process in a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use sys::process::{Wait, wait};

use crate::oci::args::{Flag, Order, Parsed, switch, value, wrong};
use crate::oci::attach::{Relay, Signals, attend, own_size};
use crate::oci::launch::{Stay, inherited_files, own_oom_score_adj, write_pid_file};
use crate::oci::record::{Init, Process, Status};
use crate::oci::verb::process_spec;
use crate::oci::{Context, Verb, console, seal};
use crate::runtime::report::{self, Event, Received, receive};
use crate::runtime::{BuilderFiles, ExecRequest, Inherit, Init as RuntimeInit, execute};
use crate::{Failure, FailureKind};

const FLAGS: &[Flag] = &[
    value(&["console-socket"]),
    value(&["pidfd-socket"]),
    value(&["cwd"]),
    value(&["env", "e"]),
    switch(&["tty", "t"]),
    value(&["user", "u"]),
    value(&["additional-gids", "g"]),
    value(&["process", "p"]),
    switch(&["detach", "d"]),
    value(&["pid-file"]),
    value(&["process-label"]),
    value(&["apparmor"]),
    switch(&["no-new-privs"]),
    value(&["cap", "c"]),
    value(&["preserve-fds"]),
    value(&["cgroup"]),
    switch(&["ignore-paused"]),
];

pub const VERB: Verb = Verb {
    name: "exec",
    usage: "[flags] <container-id> <command> [arguments] | -p process.json <container-id>",
    flags: FLAGS,
    order: Order::First,
    // Otherwise it could not be told from the command's own failure.
    failed: 255,
    run,
};

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    seal::seal()?;
    let Some((id, command)) = args.rest.split_first() else {
        return Err(wrong("container id".as_ref(), "it is missing"));
    };
    let folder = context.open(id)?;
    let (record, status) = folder.known()?;
    let object = || format!("container {}", record.id);
    let refuse = |cause| Failure::new(FailureKind::FailedPrecondition, "exec in", object(), cause);
    let init = match (status, &record.init) {
        (Status::Running | Status::Created, Some(init)) => init,
        (Status::Paused, Some(init)) if args.has("ignore-paused") => init,
        (Status::Paused, _) => {
            return Err(refuse("it is paused (use --ignore-paused to override)"));
        }
        _ => return Err(refuse("container not running")),
    };
    let stay = if args.has("detach") { Stay::Detached } else { Stay::Attached };
    let (preserve_fds, env) = inherited_files(args)?;
    let console = args.value("console-socket").map(Path::new).map(console::connect).transpose()?;
    let pidfd = args.value("pidfd-socket").map(Path::new).map(console::connect).transpose()?;
    let pid_file = args.value("pid-file").map(PathBuf::from);
    let mut spec = process_spec::read(args, &record, command, env)?;
    let terminal = spec["terminal"] == Value::Bool(true);
    if let (Stay::Attached, None, Some(size)) = (stay, &console, own_size()) {
        spec["consoleSize"] = json!({"height": size.ws_row, "width": size.ws_col});
    }
    console::check_exec(terminal, stay, console.is_some())?;
    let signals = (stay == Stay::Attached).then(Signals::catch).transpose()?;
    // Every path of the caller's has been used.
    let pid_file = pid_file.map(std::path::absolute).transpose();
    let pid_file = pid_file.map_err(|e| Failure::os("find", "pid file", e))?;
    folder.enter()?;
    let exec = Exec { context, init, spec: spec.to_string(), terminal, console, preserve_fds };
    let (process, master) = exec.start(args.text("cgroup")?)?;
    let told = (|| {
        if let Some(socket) = &pidfd {
            console::send_file(socket, b"pidfd", &process.handle)?;
        }
        pid_file.map_or(Ok(()), |path| {
            write_pid_file(&path, process.pid.as_raw_nonzero().get().unsigned_abs())
        })
    })();
    if let Err(failure) = told {
        process.signal(rustix::process::Signal::KILL)?;
        let _ended = wait(Some(process.pid), Wait::Block);
        return Err(failure);
    }
    let Some(signals) = signals else { return Ok(0) };
    attend(&process, &signals, master.map(Relay::new))
}

struct Exec<'a> {
    context: &'a Context,
    init: &'a Init,
    spec: String,
    terminal: bool,
    console: Option<OwnedFd>,
    preserve_fds: u32,
}

impl Exec<'_> {
    /// Makes the process and waits until it has executed its command: the process, and its terminal's master.
    fn start(&self, cgroup: Option<&str>) -> Result<(Process, Option<OwnedFd>), Failure> {
        let not_running = || {
            let cause = "container not running";
            Failure::new(FailureKind::FailedPrecondition, "exec in", "container", cause)
        };
        let first = self.init.open()?.ok_or_else(not_running)?;
        let watch = match cgroup {
            Some(below) => self.init.watch().below(below)?,
            None => self.init.watch(),
        };
        let (ours, theirs) = report::pair()?;
        let request = ExecRequest {
            process: self.spec.as_bytes(),
            terminal: self.terminal,
            init: RuntimeInit { pid: first.pid, handle: first.handle.as_fd() },
            cgroups: &watch,
            oom_score_adj: own_oom_score_adj(),
            console: self.console.as_ref().map(AsFd::as_fd),
            inherit: Inherit::Files(self.preserve_fds),
        };
        let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let files = BuilderFiles { report: theirs.as_fd(), stdio: stdio.map(Some) };
        let pid = execute(&self.context.thread, &request, &files)?;
        drop(theirs);
        let made = executed(&ours).and_then(|master| Ok((open(pid)?, master)));
        made.inspect_err(|_| {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let _ended = wait(Some(pid), Wait::Block);
        })
    }
}

/// A child of ours: its number is its own until it is reaped.
fn open(pid: Pid) -> Result<Process, Failure> {
    let handle = pidfd_open(pid, PidfdFlags::empty());
    let handle = handle.map_err(|e| Failure::os("open process", pid.to_string(), e))?;
    Ok(Process { pid, handle })
}

fn executed(report: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    let fail = |error: std::io::Error| Failure::os("read report of", "process", error);
    let mut master = None;
    loop {
        match poll(&mut [PollFd::new(report, PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(|e| fail(e.into()))?,
        };
        match receive(report).map_err(fail)? {
            Received::Event(Event::Failed(failure), _) => return Err(Failure::from_wire(failure)),
            Received::Event(_, file) => master = file.or(master),
            Received::Nothing => {}
            Received::End => return Ok(master),
        }
    }
}
