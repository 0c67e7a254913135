//! Attach: a client hears what a container says from now on, and may speak to it.
//!
//! The shim copies the output into FIFOs of this client's, and lets a client go that takes nothing for 5 s: neither
//! the container nor its log waits for clients. A daemon that ends takes its clients with it, and nothing else: the log
//! has every byte, and the next daemon tells the shims to forget them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::cri;
use shim::{AttachOptions, Shim};
use tokio::sync::{oneshot, watch};

use super::exec::{check, note};
use super::lines::{Lines, Wanted, left_in, pump};
use super::state::State;
use super::{Container, config::ContainerConfig};
use crate::error::Error;
use crate::id::ContainerId;
use crate::runtime::Runtime;
use crate::streaming::{Command, Order, Outlets, Remote, Sink, Size};

/// Letters of a client's name.
const NAME: usize = 32;
/// How long after its last output a container may take to be known as ended.
const KNOWN: Duration = Duration::from_secs(2);

/// Says where the container's streams can be had.
///
/// # Errors
/// `Refused` when the container does not run, `Invalid` for streams that cannot be.
pub fn attach(runtime: &Runtime, request: &cri::AttachRequest) -> Result<String, Error> {
    let container = runtime.containers.find(&request.container_id)?;
    let operation = format!("attach to {}", container.name());
    let command = Command {
        container: container.id().clone(),
        args: Vec::new(),
        terminal: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    check(&command, &operation)?;
    container.running(&operation)?;
    let order = Order::Attach(command);
    runtime.streaming.issue(order).map_err(|source| Error::Io { operation, source })
}

/// Attaches until the container has ended or the client is gone.
///
/// # Errors
/// The container does not run any more, has too many clients, or has let this one go.
pub async fn run(runtime: &Runtime, command: Command, remote: Remote) -> Result<(), Error> {
    let container = runtime.containers.find(command.container.as_str())?;
    let operation = format!("attach to {}", container.name());
    let shim = container.running(&operation)?;
    let config = &container.record.config;
    let wanted = Wanted {
        stdin: command.stdin && config.stdin,
        stdout: command.stdout,
        stderr: command.stderr,
        // What the container has counts, not what the client believes.
        terminal: config.tty,
    };
    let io = |source| Error::Io { operation: operation.clone(), source };
    let name = ContainerId::draw().map_err(io)?.as_str()[..NAME].to_owned();
    let folder = clients(&runtime.bundle_dir(container.id())).join(&name);
    let lines = Lines::make(&folder, wanted).map_err(io)?;
    let options = AttachOptions {
        attach_id: name.clone(),
        stdin: lines.stdin.clone(),
        stdout: lines.stdout.as_ref().map(|line| line.path.clone()),
        stderr: lines.stderr.as_ref().map(|line| line.path.clone()),
    };
    if let Err(source) = shim.attach(options).await {
        lines.remove();
        return Err(Error::Shim { operation, source });
    }
    let client = Client { shim, name, container: &container };
    let ended = client.follow(lines, remote).await;
    if ended || client.has_ended().await {
        return Ok(());
    }
    let reason = "the client took nothing for too long and was let go".into();
    Err(Error::Refused { operation, reason })
}

/// The folder of all clients of a bundle.
fn clients(bundle: &Path) -> PathBuf {
    bundle.join("clients")
}

/// Whether the first client's end of the input is the container's. A terminal has no end of input: that is a letter
/// which the client types.
fn closes_input(config: &ContainerConfig) -> bool {
    config.stdin && config.stdin_once && !config.tty
}

/// One client of a shim.
struct Client<'a> {
    shim: &'a Shim,
    name: String,
    container: &'a Container,
}

impl Client<'_> {
    /// Moves what there is to move; whether the client has gone by itself.
    async fn follow(&self, mut lines: Lines, remote: Remote) -> bool {
        let Remote { stdin, outlets: Outlets { stdout, stderr }, size, mut gone } = remote;
        let (sink, input_ended) = oneshot::channel();
        let speaks = lines.stdin.is_some();
        if let Some(stdin) = stdin {
            drop(stdin.send(Sink { pipe: lines.open_input(), ended: sink }));
        } else {
            drop(sink);
        }
        // Nobody says that it has ended: the shim closes the FIFOs then.
        let (_never, ended) = watch::channel(false);
        let hears = lines.stdout.is_some() || lines.stderr.is_some();
        let output = pump(lines.stdout.take(), stdout, ended.clone());
        let error = pump(lines.stderr.take(), stderr, ended);
        let heard = async {
            tokio::join!(output, error);
            if !hears {
                self.end().await;
            }
        };
        let input = async {
            drop(input_ended.await);
            self.end_input(speaks).await;
            // Who hears nothing and has nothing more to say has no business here.
            if hears {
                std::future::pending::<()>().await;
            }
        };
        let is_gone = tokio::select! {
            () = heard => false,
            () = input => true,
            () = self.resize(size) => false,
            _ = gone.wait_for(|gone| *gone) => true,
        };
        if is_gone {
            self.end_input(speaks).await;
        }
        // A client that the shim has let go, or whose container has ended, is not there any more.
        note("detach a client", self.shim.detach(&self.name).await);
        lines.remove();
        is_gone
    }

    /// Ends the container's input, if this client's was the one that it has.
    async fn end_input(&self, speaks: bool) {
        if speaks && closes_input(&self.container.record.config) {
            note("end the input for a client", self.shim.close_stdin().await);
        }
    }

    /// Keeps the terminal as large as the client's; comes to no end.
    async fn resize(&self, mut size: watch::Receiver<Option<Size>>) {
        size.mark_changed();
        while size.changed().await.is_ok() {
            let Some(Size { width, height }) = *size.borrow_and_update() else { continue };
            if self.container.record.config.tty {
                note("resize the terminal for a client", self.shim.resize(width, height).await);
            }
        }
        std::future::pending().await
    }

    /// Comes when the container has ended.
    async fn end(&self) {
        let mut state = self.container.state.subscribe();
        drop(state.wait_for(|state| matches!(state, State::Exited(_))).await);
    }

    async fn has_ended(&self) -> bool {
        tokio::time::timeout(KNOWN, self.end()).await.is_ok()
    }
}

/// Lets the clients go that went with the last daemon.
pub fn forget(runtime: &Arc<Runtime>, container: &Arc<Container>) {
    for (name, folder) in left_in(&clients(&runtime.bundle_dir(container.id()))) {
        let container = Arc::clone(container);
        tokio::spawn(async move {
            let Some(shim) = &container.shim else { return };
            let speaks = folder.join("stdin").exists();
            let client = Client { shim, name, container: &container };
            client.end_input(speaks).await;
            note("detach a client", shim.detach(&client.name).await);
            if let Err(error) = std::fs::remove_dir_all(&folder) {
                tracing::debug!(folder = %folder.display(), %error, "remove FIFOs");
            }
        });
    }
}
