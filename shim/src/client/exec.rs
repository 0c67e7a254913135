//! Further processes in a running container.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use oci_spec::runtime::Process;
use prost_types::Any;
use proto::shim::container as extra;
use proto::shim::task::v2 as wire;

use super::call::{Call, TASK};
use super::task::{Shim, exit_from};
use crate::error::{Failure, FailureKind, ShimError};
use crate::exit::Exit;
use crate::type_name;

/// A process to execute in a container.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    /// Its name among the container's execs.
    pub exec_id: String,
    /// What to execute, and as whom (numbers: a container's [`super::ResolvedUser`]). It says whether there is a
    /// terminal, and how large it is.
    pub process: Process,
    /// A FIFO that the caller made; it may write to it as soon as the exec is started. The input ends with
    /// [`Shim::close_exec_stdin`] once the caller has closed its end.
    pub stdin: Option<PathBuf>,
    /// FIFOs that the caller made and already reads; without one the output is dropped. A terminal's is all here.
    pub stdout: Option<PathBuf>,
    /// As `stdout`; a terminal has none.
    pub stderr: Option<PathBuf>,
}

/// A process to be run to its end.
#[derive(Debug)]
pub struct RunOptions {
    /// Its name among the container's execs, until it has ended.
    pub exec_id: String,
    /// What to execute, and as whom; it gets no terminal.
    pub process: Process,
    /// The writing end of a pipe, for the process alone.
    pub stdout: OwnedFd,
    /// As `stdout`.
    pub stderr: OwnedFd,
}

/// SIGKILL.
const KILL_SIGNAL: u32 = 9;

const EXEC: Call = Call::task("Exec", "register exec", 10);
const START: Call = Call::task("Start", "start exec", 60);
const KILL: Call = Call::task("Kill", "signal exec", 10);
const DELETE: Call = Call::task("Delete", "delete exec", 10);
const RESIZE: Call = Call::task("ResizePty", "resize terminal of exec", 10);
const CLOSE_IO: Call = Call::task("CloseIO", "close stdin of exec", 10);
const RUN: Call = Call { deadline: None, ..Call::container("Run", "run exec") };
const WAIT: Call =
    Call { service: TASK, method: "Wait", operation: "wait for exec", deadline: None };

impl Shim {
    /// Registers a process; [`Shim::start_exec`] starts it.
    ///
    /// # Errors
    /// `AlreadyExists` for a name in use, `FailedPrecondition` when the container does not run.
    pub async fn exec(&self, options: ExecOptions) -> Result<(), ShimError> {
        let spec = encode(&options.process, &options.exec_id)?;
        let path = |path: Option<PathBuf>| {
            path.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
        };
        let request = wire::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: options.exec_id,
            terminal: options.process.terminal().unwrap_or(false),
            stdin: path(options.stdin),
            stdout: path(options.stdout),
            stderr: path(options.stderr),
            spec: Some(Any { type_url: type_name::PROCESS.to_owned(), value: spec }),
        };
        self.call(EXEC, &request).await
    }

    /// Starts a registered process and returns its pid as the host sees it.
    ///
    /// # Errors
    /// `StartFailed` when the command cannot be executed.
    pub async fn start_exec(&self, exec_id: &str) -> Result<u32, ShimError> {
        let request = wire::StartRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        let started: wire::StartResponse = self.call(START, &request).await?;
        Ok(started.pid)
    }

    /// Waits until the process has ended, for as long as it takes.
    ///
    /// # Errors
    /// Unavailable when the shim went away.
    pub async fn wait_exec(&self, exec_id: &str) -> Result<Exit, ShimError> {
        let request = wire::WaitRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        let ended: wire::WaitResponse = self.call(WAIT, &request).await?;
        Ok(exit_from(ended.exit_status, ended.exited_at, false))
    }

    /// Sends a signal to the process and to what it started in its own process group.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn kill_exec(&self, exec_id: &str, signal: i32) -> Result<(), ShimError> {
        let request = wire::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            signal: signal.unsigned_abs(),
            all: false,
        };
        self.call(KILL, &request).await
    }

    /// Ends the process with everybody whom it has started and who has not become a daemon.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn kill_exec_tree(&self, exec_id: &str) -> Result<(), ShimError> {
        let request = wire::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            signal: KILL_SIGNAL,
            all: true,
        };
        self.call(KILL, &request).await
    }

    /// Runs a process to its end, for as long as that takes; nothing is left of it then. Its standard input is the null
    /// device. Dropped before, it goes on: [`Shim::kill_exec_tree`] ends it.
    ///
    /// # Errors
    /// `AlreadyExists` for a name in use, `FailedPrecondition` when the container does not run, `ResourceExhausted` when
    /// 64 run, `StartFailed` when the command cannot be executed.
    pub async fn run(&self, options: RunOptions) -> Result<Exit, ShimError> {
        let process = encode(&options.process, &options.exec_id)?;
        let request = extra::RunRequest { exec_id: options.exec_id, process };
        let files = vec![options.stdout, options.stderr];
        let ended: extra::RunResponse = self.call_with(RUN, &request, files).await?;
        let since = Duration::from_nanos(u64::try_from(ended.at).unwrap_or(0));
        Ok(Exit {
            code: i32::try_from(ended.code).unwrap_or(255),
            at: UNIX_EPOCH + since,
            oom_killed: false,
        })
    }

    /// Forgets an ended (or never started) process.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(), ShimError> {
        let request = wire::DeleteRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        let _deleted: wire::DeleteResponse = self.call(DELETE, &request).await?;
        Ok(())
    }

    /// Changes the size of the process's terminal, in characters.
    ///
    /// # Errors
    /// `FailedPrecondition` when it has none, or is not started.
    pub async fn resize_exec(
        &self,
        exec_id: &str,
        width: u16,
        height: u16,
    ) -> Result<(), ShimError> {
        let request = wire::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            width: width.into(),
            height: height.into(),
        };
        self.call(RESIZE, &request).await
    }

    /// Ends the process's standard input after what is in its FIFO, as soon as the caller has closed its own end of it.
    ///
    /// # Errors
    /// `NotFound` when there is no such exec.
    pub async fn close_exec_stdin(&self, exec_id: &str) -> Result<(), ShimError> {
        let request =
            wire::CloseIoRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), stdin: true };
        self.call(CLOSE_IO, &request).await
    }
}

fn encode(process: &Process, exec_id: &str) -> Result<Vec<u8>, ShimError> {
    serde_json::to_vec(process).map_err(|error| {
        let (kind, cause) = (FailureKind::InvalidArgument, error.to_string());
        ShimError::Refused(Failure::new(kind, "encode exec", exec_id, cause))
    })
}
