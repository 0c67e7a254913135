//! ExecSync: runs a command to its end and returns what it wrote.
//!
//! The command writes straight into two FIFOs which the daemon reads: nobody copies in between. What exceeds the cap
//! is read and dropped, so that the command is not blocked and the answer can be delivered (CVE-2022-31030).

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::Process;
use proto::cri;
use rustix::fs::{CWD, FileType, Mode};
use shim::{ExecOptions, Shim};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::Container;
use super::process::process;
use super::state::State;
use crate::error::Error;
use crate::id::ContainerId;
use crate::runtime::Runtime;
use crate::signal::Signal;

/// For both streams together: what fits into a message of 16 MiB with the message's own bytes.
const OUTPUT_CAP: usize = 16 * 1024 * 1024 - 4096;

/// For each stream, while a command runs.
const BUFFER: usize = 16 * 1024;

/// How long output may still come when the command has ended but somebody holds its streams.
const DRAIN: Duration = Duration::from_millis(500);

/// How long a command may run for which the client sets no limit. The kubelet always sets one.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a killed command may take to end.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a command.
///
/// # Errors
/// `Refused` when the container does not run; `Deadline` when the command does not end in time, and is killed.
pub async fn exec_sync(
    runtime: &Runtime,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse, Error> {
    let container = runtime.containers.find(&request.container_id)?;
    let operation = format!("execute {:?} in {}", request.cmd.first(), container.name());
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(Error::Invalid { operation, reason: "there is no command".into() });
    }
    let running = matches!(*container.state.borrow(), State::Running { .. });
    let Some(shim) = container.shim.as_ref().filter(|_| running) else {
        return Err(Error::Refused { operation, reason: "the container does not run".into() });
    };
    let patience = match u64::try_from(request.timeout) {
        Ok(0) | Err(_) => LONGEST,
        Ok(seconds) => Duration::from_secs(seconds),
    };
    let exec = Exec::open(runtime, &container, shim, request.cmd, operation).await?;
    exec.run(patience).await
}

/// An exec with its FIFOs, which go when it does.
struct Exec<'a> {
    shim: &'a Shim,
    operation: String,
    id: String,
    stdout: Fifo,
    stderr: Fifo,
    process: Process,
}

/// A FIFO in the bundle, removed with the value.
struct Fifo {
    path: PathBuf,
    end: pipe::Receiver,
}

impl Drop for Fifo {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

impl Fifo {
    /// Makes the FIFO and opens its reading end, so that the writer never waits for a reader.
    fn make(path: PathBuf) -> std::io::Result<Self> {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0)?;
        let end = pipe::OpenOptions::new().open_receiver(&path)?;
        Ok(Self { path, end })
    }
}

impl<'a> Exec<'a> {
    async fn open(
        runtime: &Runtime,
        container: &Container,
        shim: &'a Shim,
        args: Vec<String>,
        operation: String,
    ) -> Result<Self, Error> {
        let bundle = runtime.bundle_dir(container.id());
        let process = process(runtime, container, args, false).await?;
        let io = |source| Error::Io { operation: operation.clone(), source };
        let id = ContainerId::draw().map_err(io)?.to_string();
        let fifo = |stream: &str| Fifo::make(bundle.join(format!("{}.{stream}", &id[..16])));
        let (stdout, stderr) = (fifo("out").map_err(io)?, fifo("err").map_err(io)?);
        Ok(Self { shim, operation, id, stdout, stderr, process })
    }

    async fn run(mut self, patience: Duration) -> Result<cri::ExecSyncResponse, Error> {
        let failed = |source| Error::Shim { operation: self.operation.clone(), source };
        let options = ExecOptions {
            exec_id: self.id.clone(),
            process: self.process.clone(),
            stdin: None,
            stdout: Some(self.stdout.path.clone()),
            stderr: Some(self.stderr.path.clone()),
        };
        self.shim.exec(options).await.map_err(failed)?;
        let started = self.shim.start_exec(&self.id).await.map_err(failed);
        let outcome = match started {
            Ok(_pid) => self.collect(patience).await,
            Err(error) => Err(error),
        };
        if let Err(error) = self.shim.delete_exec(&self.id).await {
            tracing::debug!(exec = self.id, %error, "forget an exec");
        }
        outcome
    }

    /// Reads both streams until the command has ended, or kills it.
    async fn collect(&mut self, patience: Duration) -> Result<cri::ExecSyncResponse, Error> {
        let mut output = Output { out: Vec::new(), err: Vec::new(), room: OUTPUT_CAP };
        let wait = tokio::time::timeout(patience, self.shim.wait_exec(&self.id));
        let ended = {
            let drain = output.drain(&mut self.stdout.end, &mut self.stderr.end);
            tokio::pin!(drain, wait);
            let mut drained = false;
            let ended = loop {
                tokio::select! {
                    () = &mut drain, if !drained => drained = true,
                    ended = &mut wait => break ended,
                }
            };
            if ended.is_ok() && !drained && tokio::time::timeout(DRAIN, drain).await.is_err() {
                tracing::debug!(exec = self.id, "the streams of an ended command are still held");
            }
            ended
        };
        let Ok(exit) = ended else {
            self.kill().await;
            return Err(Error::Deadline { operation: self.operation.clone(), after: patience });
        };
        let exit =
            exit.map_err(|source| Error::Shim { operation: self.operation.clone(), source })?;
        if output.room == 0 {
            tracing::warn!(operation = self.operation, "the output exceeds the cap and is cut");
        }
        Ok(cri::ExecSyncResponse { stdout: output.out, stderr: output.err, exit_code: exit.code })
    }

    async fn kill(&self) {
        if let Err(error) = self.shim.kill_exec(&self.id, Signal::KILL.number()).await {
            tracing::debug!(exec = self.id, %error, "kill a command that takes too long");
        }
        let ended = tokio::time::timeout(KILL_DEADLINE, self.shim.wait_exec(&self.id)).await;
        if ended.is_err() {
            tracing::warn!(exec = self.id, "a killed command does not end");
        }
    }
}

/// What a command has written, as far as there is room for it.
struct Output {
    out: Vec<u8>,
    err: Vec<u8>,
    room: usize,
}

impl Output {
    /// Reads both streams to their ends.
    async fn drain(&mut self, stdout: &mut pipe::Receiver, stderr: &mut pipe::Receiver) {
        let (mut from_out, mut from_err) = (vec![0; BUFFER], vec![0; BUFFER]);
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            let (bytes, kept, open) = tokio::select! {
                read = stdout.read(&mut from_out), if out_open => {
                    (from_out.get(..read.unwrap_or(0)), &mut self.out, &mut out_open)
                }
                read = stderr.read(&mut from_err), if err_open => {
                    (from_err.get(..read.unwrap_or(0)), &mut self.err, &mut err_open)
                }
            };
            let bytes = bytes.unwrap_or_default();
            *open = !bytes.is_empty();
            let fits = bytes.len().min(self.room);
            kept.extend_from_slice(&bytes[..fits]);
            self.room -= fits;
        }
    }
}
