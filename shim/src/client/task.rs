//! The container itself: create, start, kill, wait, delete.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use prost_types::{Any, Timestamp};
use proto::shim::container as extra;
use proto::shim::task::v2 as wire;
use proto::shim::types;
use proto::shim::v1::types::Status as WireStatus;
use tokio::net::UnixStream;

use super::call::{Call, TASK};
use super::connection::Connection;
use super::foreign::ForeignRuntime;
use super::launch::with_short_path;
use crate::bundle::Bundle;
use crate::error::ShimError;
use crate::exit::Exit;
use crate::type_name;

/// A live shim. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Shim {
    pub(super) connection: Connection,
    pub(super) bundle: Bundle,
    pub(super) id: String,
}

/// What a container is made with beyond the spec in its bundle.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Mounted in this order to become the root file system; empty takes the spec's `root.path` as it is.
    pub rootfs: Vec<Mount>,
    /// The CRI log file, absolute; without one the output is dropped.
    pub log: Option<PathBuf>,
    /// Whom the process runs as: resolved in the image, in place of the spec's user.
    pub user: UserRequest,
    /// A terminal instead of pipes.
    pub terminal: bool,
    /// An open standard input instead of `/dev/null`.
    pub stdin: bool,
    /// Who makes the container in place of the shim's own runtime.
    pub runtime: Option<ForeignRuntime>,
}

/// One mount, in the form containerd's snapshotters give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system: `overlay`, `bind`, …
    pub kind: String,
    /// The device or folder.
    pub source: String,
    /// For overlay: `lowerdir=a:b` (top first), `upperdir=…`, `workdir=…`, and flags such as `ro`.
    pub options: Vec<String>,
}

/// Whom a process shall run as; names mean what the image's own files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRequest {
    /// `""`, `name`, `uid`, `name:group`, `uid:gid` and their mixtures.
    pub user: String,
    /// Replaces the group that `user` leads to.
    pub group: Option<u32>,
    /// Supplementary groups on top.
    pub supplemental: Vec<u32>,
    /// The image's own group memberships do not count.
    pub strict: bool,
}

/// The numbers that a [`UserRequest`] led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All supplementary groups, the primary one among them.
    pub groups: Vec<u32>,
}

/// A created container, waiting at its start barrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The process, as the host sees it.
    pub pid: u32,
    /// Whom it will run as.
    pub user: ResolvedUser,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Prepared, not started.
    Created,
    /// Started, not ended.
    Running,
    /// Ended.
    Stopped,
}

/// The state of a container's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskState {
    /// The process, as the host sees it.
    pub pid: u32,
    /// What it is doing.
    pub status: Status,
    /// Whom it runs as.
    pub user: ResolvedUser,
}

const CREATE: Call = Call::task("Create", "create container", 120);
const START: Call = Call::task("Start", "start container", 60);
const KILL: Call = Call::task("Kill", "signal container", 10);
const DELETE: Call = Call::task("Delete", "delete container", 30);
const STATE: Call = Call::task("State", "ask for state", 10);
const SHUTDOWN: Call = Call::task("Shutdown", "shut down", 10);
const RESIZE: Call = Call::task("ResizePty", "resize terminal", 10);
const CLOSE_IO: Call = Call::task("CloseIO", "close stdin", 10);
const WAIT: Call =
    Call { service: TASK, method: "Wait", operation: "wait for container", deadline: None };
const DESCRIBE: Call =
    Call { deadline: CREATE.deadline, ..Call::container("Describe", "describe container") };
const REOPEN_LOG: Call = Call::container("ReopenLog", "reopen log");

impl Shim {
    /// Connects to the shim of a bundle, for example after the daemon was started anew.
    ///
    /// # Errors
    /// Unavailable when nobody listens: then the bundle's record tells whether the container had ended.
    pub async fn connect(bundle: &Bundle) -> Result<Self, ShimError> {
        // Connecting to a unix socket does not wait for the peer: the backlog takes it.
        let connected = with_short_path(bundle, |path| {
            let stream = std::os::unix::net::UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        });
        let stream = connected.map_err(|source| ShimError::Unavailable {
            operation: "connection",
            bundle: bundle.dir().to_owned(),
            source,
        })?;
        let id = bundle.dir().file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { connection: Connection::new(stream), bundle: bundle.clone(), id })
    }

    /// Prepares the container up to its start barrier: everything but the command itself is in place.
    ///
    /// # Errors
    /// `InvalidArgument` when the spec cannot be met; then nothing is left but the shim.
    pub async fn create(&self, options: CreateOptions) -> Result<Created, ShimError> {
        let extras = extra::CreateOptions {
            log_path: options.log.map_or_else(String::new, |path| path.to_string_lossy().into()),
            user: Some(options.user.into_wire()),
            stdin: options.stdin,
            runtime: options.runtime.as_ref().map(ForeignRuntime::to_wire).transpose()?,
        };
        let request = wire::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.dir().to_string_lossy().into_owned(),
            rootfs: options.rootfs.into_iter().map(Mount::into_wire).collect(),
            terminal: options.terminal,
            options: Some(Any {
                type_url: type_name::CREATE_OPTIONS.to_owned(),
                value: extras.encode_to_vec(),
            }),
            ..Default::default()
        };
        // The shim answers the second with the first: one way instead of two.
        let (created, described) =
            tokio::join!(self.call::<wire::CreateTaskResponse>(CREATE, &request), self.describe());
        let (created, described) = (created?, described?);
        Ok(Created { pid: created.pid, user: ResolvedUser::from_wire(described.user) })
    }

    /// Releases the container's process.
    ///
    /// # Errors
    /// `StartFailed` when the command cannot be executed; the container has then ended.
    pub async fn start(&self) -> Result<(), ShimError> {
        let request = wire::StartRequest { id: self.id.clone(), exec_id: String::new() };
        let _started: wire::StartResponse = self.call(START, &request).await?;
        Ok(())
    }

    /// Sends a signal to the container's first process, or to all that are in it.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn kill(&self, signal: i32, all: bool) -> Result<(), ShimError> {
        let signal = signal.unsigned_abs();
        let request =
            wire::KillRequest { id: self.id.clone(), exec_id: String::new(), signal, all };
        self.call(KILL, &request).await
    }

    /// Waits until the container has ended, for as long as it takes.
    ///
    /// # Errors
    /// Unavailable when the shim went away without leaving a record.
    pub async fn wait(&self) -> Result<Exit, ShimError> {
        let request = wire::WaitRequest { id: self.id.clone(), exec_id: String::new() };
        match self.call::<wire::WaitResponse>(WAIT, &request).await {
            // The shim has written its record before it answered.
            Ok(ended) => {
                let oom_killed = self.bundle.exit().is_some_and(|exit| exit.oom_killed);
                Ok(exit_from(ended.exit_status, ended.exited_at, oom_killed))
            }
            Err(error @ ShimError::Unavailable { .. }) => self.bundle.exit().ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Frees what an ended container still holds; one that was never started is ended by it.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs.
    pub async fn delete(&self) -> Result<Exit, ShimError> {
        let request = wire::DeleteRequest { id: self.id.clone(), exec_id: String::new() };
        let deleted: wire::DeleteResponse = self.call(DELETE, &request).await?;
        let oom_killed = self.bundle.exit().is_some_and(|exit| exit.oom_killed);
        Ok(exit_from(deleted.exit_status, deleted.exited_at, oom_killed))
    }

    /// What the container's process is doing.
    ///
    /// # Errors
    /// `NotFound` before create and after delete.
    pub async fn state(&self) -> Result<TaskState, ShimError> {
        let request = wire::StateRequest { id: self.id.clone(), exec_id: String::new() };
        let state: wire::StateResponse = self.call(STATE, &request).await?;
        let described = self.describe().await?;
        Ok(TaskState {
            pid: state.pid,
            status: match state.status() {
                WireStatus::Created => Status::Created,
                WireStatus::Stopped => Status::Stopped,
                _ => Status::Running,
            },
            user: ResolvedUser::from_wire(described.user),
        })
    }

    /// Ends the shim once its container is deleted, or was never created.
    ///
    /// # Errors
    /// `FailedPrecondition` while there is a container.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        let request = wire::ShutdownRequest { id: self.id.clone(), now: false };
        self.call(SHUTDOWN, &request).await
    }

    /// Opens the log file anew after somebody renamed it.
    ///
    /// # Errors
    /// `FailedPrecondition` when the container does not run or has no log; the old file is kept on any error.
    pub async fn reopen_log(&self) -> Result<(), ShimError> {
        let _done: extra::ReopenLogResponse =
            self.call(REOPEN_LOG, &extra::ReopenLogRequest {}).await?;
        Ok(())
    }

    /// Changes the size of the container's terminal, in characters.
    ///
    /// # Errors
    /// `FailedPrecondition` when it has none.
    pub async fn resize(&self, width: u16, height: u16) -> Result<(), ShimError> {
        let request = wire::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: String::new(),
            width: width.into(),
            height: height.into(),
        };
        self.call(RESIZE, &request).await
    }

    /// Ends the container's standard input.
    ///
    /// # Errors
    /// `NotFound` when there is no container.
    pub async fn close_stdin(&self) -> Result<(), ShimError> {
        let request =
            wire::CloseIoRequest { id: self.id.clone(), exec_id: String::new(), stdin: true };
        self.call(CLOSE_IO, &request).await
    }

    async fn describe(&self) -> Result<extra::DescribeResponse, ShimError> {
        self.call(DESCRIBE, &extra::DescribeRequest {}).await
    }
}

impl Mount {
    fn into_wire(self) -> types::Mount {
        types::Mount {
            r#type: self.kind,
            source: self.source,
            target: String::new(),
            options: self.options,
        }
    }
}

impl UserRequest {
    fn into_wire(self) -> extra::UserRequest {
        extra::UserRequest {
            user: self.user,
            group: self.group,
            supplemental: self.supplemental,
            strict: self.strict,
        }
    }
}

impl ResolvedUser {
    fn from_wire(user: Option<extra::User>) -> Self {
        let user = user.unwrap_or_default();
        Self { uid: user.uid, gid: user.gid, groups: user.groups }
    }
}

pub(super) fn exit_from(status: u32, at: Option<Timestamp>, oom_killed: bool) -> Exit {
    let at = at.and_then(|at| {
        let nanos = u32::try_from(at.nanos).ok()?;
        UNIX_EPOCH.checked_add(Duration::new(u64::try_from(at.seconds).ok()?, nanos))
    });
    Exit {
        code: i32::try_from(status).unwrap_or(255),
        at: at.unwrap_or_else(SystemTime::now),
        oom_killed,
    }
}
