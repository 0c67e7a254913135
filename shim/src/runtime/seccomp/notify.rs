//! Who is asked about the calls that a profile does not decide itself: an agent on a unix socket, which gets the file
//! that the kernel asks through, and a word on what container it is (the spec's `ContainerProcessState`).
//!
//! The agent's socket is the host's: it is connected to before the process loses sight of the host's files. The file
//! is there only when the filter is loaded, so it is the process itself that sends it.

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    ContainerProcessState, ContainerProcessStateBuilder, ContainerState, StateBuilder,
};
use rustix::fs::{Mode, OFlags, open, readlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use serde::{Deserialize, Serialize};

use crate::{Failure, FailureKind};

/// The name of the file in what the agent is told (runtime-spec, `SeccompFdName`).
const FILE_NAME: &str = "seccompFd";

/// Of which container a listener is told.
#[derive(Debug)]
pub struct Container<'a> {
    /// Where its filter is kept for execs.
    pub folder: &'a Path,
    /// Its id.
    pub id: &'a str,
    /// The version of its spec.
    pub version: &'a str,
    /// The annotations of its spec.
    pub annotations: Option<&'a HashMap<String, String>>,
}

/// An agent, and what it is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listener {
    path: PathBuf,
    state: ContainerProcessState,
    #[serde(skip)]
    connected: Option<Connected>,
}

#[derive(Debug)]
struct Connected {
    socket: OwnedFd,
    /// The host's process numbers.
    proc: OwnedFd,
}

impl Listener {
    pub(super) fn new(path: PathBuf, metadata: Option<String>, container: &Container<'_>) -> Self {
        let bundle = std::env::current_dir().unwrap_or_default();
        let mut state = StateBuilder::default()
            .version(container.version)
            .id(container.id)
            .status(ContainerState::Running)
            .bundle(bundle)
            .build()
            .unwrap_or_default();
        state.set_annotations(container.annotations.cloned());
        let mut told = ContainerProcessStateBuilder::default()
            .version(container.version)
            .fds(vec![FILE_NAME.to_owned()])
            .state(state)
            .build()
            .unwrap_or_default();
        told.set_metadata(metadata);
        Self { path, state: told, connected: None }
    }

    /// Says who the container's first process is, when it is not the one that is told of.
    pub(super) fn of_exec(&mut self, init: BorrowedFd<'_>) {
        let about = format!("/proc/self/fdinfo/{}", init.as_raw_fd());
        let about = std::fs::read_to_string(about).unwrap_or_default();
        let pid = about.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        self.state.state_mut().set_pid(pid);
    }

    pub(super) fn connect(&mut self) -> Result<(), Failure> {
        let fail = |error: Errno| {
            let kind = FailureKind::InvalidArgument;
            Failure::os_kind(
                kind,
                "connect to seccomp listener",
                self.path.to_string_lossy(),
                error,
            )
        };
        let address = SocketAddrUnix::new(&self.path).map_err(fail)?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(fail)?;
        connect(&socket, &address).map_err(fail)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = open("/proc", flags, Mode::empty()).map_err(fail)?;
        self.connected = Some(Connected { socket, proc });
        Ok(())
    }

    /// Sends the file through which the kernel asks.
    pub(super) fn send(&self, file: &OwnedFd) -> Result<(), Failure> {
        let fail = |error: std::io::Error| {
            Failure::os("tell seccomp listener", self.path.to_string_lossy(), error)
        };
        let Some(Connected { socket, proc }) = &self.connected else {
            return Err(fail(std::io::ErrorKind::NotConnected.into()));
        };
        let mut told = self.state.clone();
        let own = own_pid(proc).unwrap_or_default();
        told.set_pid(own);
        if told.state().pid().is_none() {
            told.state_mut().set_pid(Some(own));
        }
        let json = serde_json::to_vec(&told).map_err(|error| fail(error.into()))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        let sent = sendmsg(socket, &[IoSlice::new(&json)], &mut ancillary, SendFlags::NOSIGNAL);
        match sent {
            Ok(length) if length == json.len() => Ok(()),
            Ok(_) => Err(fail(std::io::ErrorKind::WriteZero.into())),
            Err(error) => Err(fail(error.into())),
        }
    }
}

/// This process's number as the host counts: procfs answers in its own namespace's numbers.
fn own_pid(proc: &OwnedFd) -> Option<i32> {
    readlinkat(proc, "self", Vec::new()).ok()?.to_str().ok()?.parse().ok()
}
