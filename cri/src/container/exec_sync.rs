//! ExecSync: runs a command to its end and returns what it wrote.
//!
//! The command writes straight into two pipes which the daemon reads and which travel to the shim with the call: nobody
//! copies in between. What exceeds the cap is read and dropped, so that the command is not blocked and the answer can be
//! delivered (CVE-2022-31030).

mod task;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use oci_spec::runtime::Process;
use proto::cri;
use shim::{ErrorKind, Exit, RunOptions, Shim, ShimError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;

use super::process::process;
use super::state::State;
use crate::error::Error;
use crate::id::ContainerId;
use crate::runtime::Runtime;

/// For both streams together: what fits into a message of 16 MiB with the message's own bytes.
const OUTPUT_CAP: usize = 16 * 1024 * 1024 - 4096;

/// For each stream, while a command runs.
const BUFFER: usize = 16 * 1024;

/// How long output may still come when the command has ended but somebody holds its streams.
const DRAIN: Duration = Duration::from_millis(500);

/// How long a command may run for which the client sets no limit. The kubelet sets one for probes, and none for hooks.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a killed command may take to end.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a command.
///
/// # Errors
/// `Refused` when the container does not run; `Exhausted` when too many run already; `Deadline` when the command does not
/// end in time, and is killed with everybody whom it has started.
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
    let Ok(_place) = runtime.execs.try_acquire() else {
        return Err(Error::Exhausted { operation, reason: "too many commands run".into() });
    };
    let patience = match u64::try_from(request.timeout) {
        Ok(0) | Err(_) => LONGEST,
        Ok(seconds) => Duration::from_secs(seconds),
    };
    let process = process(runtime, &container, request.cmd, false).await?;
    let id = ContainerId::draw()
        .map_err(|source| Error::Io { operation: operation.clone(), source })?
        .to_string();
    let exec = Exec { shim, operation, id };
    match exec.run(process.clone(), patience).await {
        Err(Error::Shim { source, .. }) if source.kind() == ErrorKind::Unsupported => {
            let bundle = runtime.bundle_dir(container.id());
            exec.run_as_task(&bundle, process, patience).await
        }
        outcome => outcome,
    }
}

/// A command that is being executed.
struct Exec<'a> {
    shim: &'a Shim,
    operation: String,
    id: String,
}

/// Kills a command whose caller has gone.
struct Leash<'a> {
    exec: &'a Exec<'a>,
    tight: bool,
}

impl Drop for Leash<'_> {
    fn drop(&mut self) {
        if self.tight {
            let (shim, id) = (self.exec.shim.clone(), self.exec.id.clone());
            drop(tokio::spawn(async move {
                if let Err(error) = shim.kill_exec_tree(&id).await {
                    tracing::debug!(exec = id, %error, "kill a command whose caller has gone");
                }
            }));
        }
    }
}

impl Exec<'_> {
    /// In one call, for a shim of ours.
    async fn run(
        &self,
        process: Process,
        patience: Duration,
    ) -> Result<cri::ExecSyncResponse, Error> {
        let (out, stdout) = self.pipe()?;
        let (err, stderr) = self.pipe()?;
        let options = RunOptions { exec_id: self.id.clone(), process, stdout, stderr };
        self.collect(self.shim.run(options), [out, err], patience).await
    }

    /// The end that is read here, and the one for the command.
    fn pipe(&self) -> Result<(pipe::Receiver, OwnedFd), Error> {
        let made = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let made = made.map_err(std::io::Error::from);
        let made =
            made.and_then(|(ours, theirs)| Ok((pipe::Receiver::from_owned_fd(ours)?, theirs)));
        made.map_err(|source| Error::Io { operation: self.operation.clone(), source })
    }

    /// Reads both streams until the command has ended, or kills it.
    async fn collect(
        &self,
        ended: impl Future<Output = Result<Exit, ShimError>>,
        [mut out, mut err]: [pipe::Receiver; 2],
        patience: Duration,
    ) -> Result<cri::ExecSyncResponse, Error> {
        let mut leash = Leash { exec: self, tight: true };
        let mut output = Output { out: Vec::new(), err: Vec::new(), room: OUTPUT_CAP };
        let mut ended = pin!(ended);
        let exit = {
            let mut drain = pin!(output.drain(&mut out, &mut err));
            let mut limited = pin!(tokio::time::timeout(patience, &mut ended));
            let mut drained = false;
            let exit = loop {
                tokio::select! {
                    () = &mut drain, if !drained => drained = true,
                    exit = &mut limited => break exit,
                }
            };
            let succeeded = matches!(exit, Ok(Ok(_)));
            if succeeded && !drained && tokio::time::timeout(DRAIN, drain).await.is_err() {
                tracing::debug!(exec = self.id, "the streams of an ended command are still held");
            }
            exit
        };
        if exit.is_err() {
            self.kill().await;
            if tokio::time::timeout(KILL_DEADLINE, ended).await.is_err() {
                tracing::warn!(exec = self.id, "a killed command does not end");
            }
        }
        leash.tight = false;
        let operation = self.operation.clone();
        let Ok(exit) = exit else { return Err(Error::Deadline { operation, after: patience }) };
        let exit = exit.map_err(|source| Error::Shim { operation, source })?;
        if output.room == 0 {
            tracing::warn!(operation = self.operation, "the output exceeds the cap and is cut");
        }
        Ok(cri::ExecSyncResponse { stdout: output.out, stderr: output.err, exit_code: exit.code })
    }

    async fn kill(&self) {
        if let Err(error) = self.shim.kill_exec_tree(&self.id).await {
            tracing::debug!(exec = self.id, %error, "kill a command that takes too long");
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
    async fn drain(
        &mut self,
        stdout: &mut (impl AsyncRead + Unpin),
        stderr: &mut (impl AsyncRead + Unpin),
    ) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_exceeds_the_cap_is_read_and_dropped() {
        let mut output = Output { out: Vec::new(), err: Vec::new(), room: 100_000 };
        let (mut out, mut err) = (&[1; 90_000][..], &[2; 90_000][..]);
        output.drain(&mut out, &mut err).await;
        assert!(out.is_empty() && err.is_empty());
        assert_eq!((output.out.len() + output.err.len(), output.room), (100_000, 0));
    }
}
