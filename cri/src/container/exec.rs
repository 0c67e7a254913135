//! Exec: a command with the client's streams.
//!
//! The command writes straight into FIFOs that the daemon reads. It is the client's as long as the client is there:
//!
//! ```text
//!   client ends its input    the command's input ends, the output goes on
//!   client is gone           so does the input; a terminal hangs up (SIGHUP); without one the command goes on and
//!                            what it writes is dropped, so that it never waits for somebody who will not come back
//!   daemon is gone           as if the client were; the next daemon hangs up and drops (see [`adopt`])
//!   container ends           the command ends with it
//! ```
//!
//! containerd kills nothing either when a client goes, but does not hang up and reads no more: a shell without its
//! terminal stays until the container ends there, and so does a command that has more to say than a pipe holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::BoxBuilder;
use proto::cri;
use shim::{ExecOptions, Shim, ShimError};
use tokio::sync::{oneshot, watch};

use super::Container;
use super::lines::{Lines, Wanted, left_in, pump};
use super::process::process;
use crate::error::Error;
use crate::id::ContainerId;
use crate::runtime::Runtime;
use crate::signal::Signal;
use crate::streaming::{Command, Order, Outlets, Remote, Sink, Size};

/// Letters of an exec's name.
const NAME: usize = 32;

/// Says where the command's streams can be had.
///
/// # Errors
/// `Refused` when the container does not run, `Invalid` for streams that cannot be.
pub fn exec(runtime: &Runtime, request: cri::ExecRequest) -> Result<String, Error> {
    let container = runtime.containers.find(&request.container_id)?;
    let operation = format!("execute {:?} in {}", request.cmd.first(), container.name());
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(Error::Invalid { operation, reason: "there is no command".into() });
    }
    let command = Command {
        container: container.id().clone(),
        args: request.cmd,
        terminal: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    check(&command, &operation)?;
    container.running(&operation)?;
    runtime.streaming.issue(Order::Exec(command)).map_err(|source| Error::Io { operation, source })
}

/// Refuses streams that cannot be.
///
/// # Errors
/// `Invalid`: none at all, or a terminal with standard error.
pub fn check(command: &Command, operation: &str) -> Result<(), Error> {
    let reason = if command.terminal && command.stderr {
        "a terminal has no standard error of its own"
    } else if !(command.stdin || command.stdout || command.stderr) {
        "none of the input, the output and the error is wanted"
    } else {
        return Ok(());
    };
    Err(Error::Invalid { operation: operation.to_owned(), reason: reason.into() })
}

/// Runs the command to its end: its exit code.
///
/// # Errors
/// The container does not run any more, there are too many commands, or this one cannot be executed.
pub async fn run(runtime: &Runtime, command: Command, remote: Remote) -> Result<i32, Error> {
    let container = runtime.containers.find(command.container.as_str())?;
    let operation = format!("execute {:?} in {}", command.args.first(), container.name());
    let shim = container.running(&operation)?;
    let _place = runtime.session(&operation)?;
    let bundle = runtime.bundle_dir(container.id());
    let mut process = process(runtime, &container, command.args, command.terminal).await?;
    if let Some(Size { width, height }) = *remote.size.borrow() {
        let size = BoxBuilder::default().width(width).height(height).build();
        process.set_console_size(size.ok());
    }
    let wanted = Wanted {
        stdin: command.stdin,
        stdout: command.stdout,
        stderr: command.stderr,
        terminal: command.terminal,
    };
    let io = |source| Error::Io { operation: operation.clone(), source };
    let name = ContainerId::draw().map_err(io)?.as_str()[..NAME].to_owned();
    let lines = Lines::make(&execs(&bundle).join(&name), wanted).map_err(io)?;
    let options = ExecOptions {
        exec_id: name.clone(),
        process,
        stdin: lines.stdin.clone(),
        stdout: lines.stdout.as_ref().map(|line| line.path.clone()),
        stderr: lines.stderr.as_ref().map(|line| line.path.clone()),
    };
    let session = Session { shim, name };
    let ended = session.run(options, lines, remote).await;
    ended.map_err(|source| Error::Shim { operation, source })
}

/// The folder of all execs of a bundle.
fn execs(bundle: &Path) -> PathBuf {
    bundle.join("execs")
}

/// One exec of a shim.
struct Session<'a> {
    shim: &'a Shim,
    name: String,
}

impl Session<'_> {
    async fn run(
        &self,
        options: ExecOptions,
        lines: Lines,
        remote: Remote,
    ) -> Result<i32, ShimError> {
        let started = match self.shim.exec(options).await {
            Ok(()) => self.shim.start_exec(&self.name).await.map(drop),
            Err(error) => {
                lines.remove();
                return Err(error);
            }
        };
        let outcome = match started {
            Ok(()) => self.follow(lines, remote).await,
            Err(error) => {
                lines.remove();
                Err(error)
            }
        };
        if let Err(error) = self.shim.delete_exec(&self.name).await {
            tracing::debug!(exec = self.name, %error, "forget an exec");
        }
        outcome
    }

    /// Moves what there is to move until the command has ended.
    async fn follow(&self, mut lines: Lines, remote: Remote) -> Result<i32, ShimError> {
        let Remote { stdin, outlets: Outlets { stdout, stderr }, size, gone } = remote;
        let (ended, has_ended) = watch::channel(false);
        let (sink, input_ended) = oneshot::channel();
        if let Some(stdin) = stdin {
            // Nobody takes it when the client has ended its input already: then it is dropped, and that is its end.
            drop(stdin.send(Sink { pipe: lines.open_input(), ended: sink }));
        } else {
            drop(sink);
        }
        let output = pump(lines.stdout.take(), stdout, has_ended.clone());
        let error = pump(lines.stderr.take(), stderr, has_ended);
        let life = async {
            let exit = self.shim.wait_exec(&self.name).await;
            ended.send_replace(true);
            exit
        };
        let watching = self.tend(lines.terminal, lines.stdin.is_some(), input_ended, size, gone);
        let exit = tokio::select! {
            (exit, (), ()) = async { tokio::join!(life, output, error) } => exit,
            () = watching => std::future::pending().await,
        };
        lines.remove();
        exit.map(|exit| exit.code)
    }

    /// Tells the shim what the client does; never comes to an end by itself.
    async fn tend(
        &self,
        terminal: bool,
        has_input: bool,
        input_ended: oneshot::Receiver<()>,
        mut size: watch::Receiver<Option<Size>>,
        mut gone: watch::Receiver<bool>,
    ) {
        let sizes = async {
            while size.changed().await.is_ok() {
                let Some(Size { width, height }) = *size.borrow_and_update() else { continue };
                note("resize a command", self.shim.resize_exec(&self.name, width, height).await);
            }
        };
        let input = async {
            // It is never sent: what is waited for is its drop.
            drop(input_ended.await);
            if has_input {
                note("end the input of a command", self.shim.close_exec_stdin(&self.name).await);
            }
        };
        let presence = async {
            let is_gone = gone.wait_for(|gone| *gone).await.is_ok();
            if is_gone && terminal {
                let signal = Signal::HUP.number();
                note("hang up on a command", self.shim.kill_exec(&self.name, signal).await);
            }
        };
        tokio::join!(sizes, input, presence);
        std::future::pending().await
    }
}

/// Notes what could not be done for a client or to its command, which may have ended just now.
pub(super) fn note(what: &str, done: Result<(), ShimError>) {
    if let Err(error) = done {
        tracing::debug!(%error, "{what}");
    }
}

/// Takes over the commands whose clients went with the last daemon.
pub fn adopt(runtime: &Arc<Runtime>, container: &Arc<Container>) {
    for (name, folder) in left_in(&execs(&runtime.bundle_dir(container.id()))) {
        let container = Arc::clone(container);
        tokio::spawn(async move {
            let Some(shim) = &container.shim else { return };
            tracing::info!(container = %container.id(), exec = name, "a command has lost its client");
            abandon(shim, name, &folder).await;
        });
    }
}

/// Lets a command without a client come to its end.
async fn abandon(shim: &Shim, name: String, folder: &Path) {
    let session = Session { shim, name };
    // One that has ended, or was never started, goes at once.
    let runs = shim.delete_exec(&session.name).await.is_err_and(|error| {
        !matches!(error.kind(), shim::ErrorKind::NotFound | shim::ErrorKind::Unavailable)
    });
    let lines = match Lines::found(folder) {
        Ok(lines) => lines,
        Err(error) => return tracing::warn!(%error, "open the FIFOs of a command"),
    };
    if !runs {
        return lines.remove();
    }
    let (_size, size) = watch::channel(None);
    let (_gone, gone) = watch::channel(true);
    let outlets = Outlets { stdout: None, stderr: None };
    let followed = session.follow(lines, Remote { stdin: None, outlets, size, gone }).await;
    note("follow a command", followed.map(drop));
    note("forget a command", shim.delete_exec(&session.name).await);
}
