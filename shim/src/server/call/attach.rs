//! `Attach` and `Detach`: clients of the container's standard files.

use std::os::fd::{AsFd, OwnedFd};

use crate::{Failure, FailureKind};
use proto::shim::container::{AttachRequest, AttachResponse, DetachRequest, DetachResponse};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;

use super::{Outcome, Server, reply};
use crate::log::Stream;
use crate::server::attach::{Clients, Sink};
use crate::server::container::Container;
use crate::server::process::{INIT, Phase};
use crate::server::pump::Pump;

impl Server {
    pub(super) fn attach(&mut self, request: AttachRequest) -> Outcome {
        let id = request.attach_id.as_str();
        let refuse = |kind, cause| Err(Failure::new(kind, "attach", id, cause));
        let Some(container) = &mut self.container else {
            return refuse(FailureKind::NotFound, "there is no container");
        };
        if id.is_empty() {
            return refuse(FailureKind::InvalidArgument, "it has no name");
        }
        if container.clients.by_id(id).is_some() {
            return refuse(FailureKind::AlreadyExists, "there is one of this name");
        }
        if container.clients.is_full() {
            return refuse(FailureKind::ResourceExhausted, "there are too many");
        }
        let init = container.processes.iter().find(|process| process.key == INIT);
        let alive = init.is_some_and(|init| {
            matches!(init.phase, Phase::Created(_) | Phase::Running | Phase::Starting(_))
        });
        if !alive || container.drain.is_some() {
            return refuse(FailureKind::FailedPrecondition, "the container does not run");
        }
        let Some(log) = &container.log else {
            return refuse(FailureKind::FailedPrecondition, "its files are somebody else's");
        };
        // A stream that has ended has nothing to tell; its FIFO is opened and closed, which is how its end looks.
        let sink = |path: &str, stream: Stream| {
            let file = open_output(path)?;
            Ok(file.filter(|_| log.pipe(stream).is_some()).map(Sink::new))
        };
        let sinks = [sink(&request.stdout, Stream::Output)?, sink(&request.stderr, Stream::Error)?];
        let input = open_input(&request.stdin)?;
        let input = input.map(|source| container.pump_to_input(source)).transpose()?;
        let key = container.clients.add(request.attach_id, sinks, input);
        self.watch_client(key)?;
        reply(&AttachResponse {})
    }

    pub(super) fn detach(&mut self, request: &DetachRequest) -> Outcome {
        let id = request.attach_id.as_str();
        let clients = self.container.as_mut().map(|container| &mut container.clients);
        let Some(key) =
            clients.and_then(|clients: &mut Clients| clients.by_id(id).map(|client| client.key))
        else {
            return Err(Failure::new(FailureKind::NotFound, "detach", id, "there is none"));
        };
        self.let_go(key);
        reply(&DetachResponse {})
    }
}

impl Container {
    /// Moves what a client says to where the first process reads; to nowhere when that is closed.
    fn pump_to_input(&mut self, source: OwnedFd) -> Result<Box<Pump>, Failure> {
        let closing = self.clients.is_closing();
        let files = self.by_key(INIT).map(|init| &init.files);
        let sink = files.and_then(|files| files.input.as_ref().or(files.terminal.as_ref()));
        let fail = |error: Errno| Failure::os("use", "standard input", error);
        let copy = |sink: &OwnedFd| {
            let copy = rustix::io::fcntl_dupfd_cloexec(sink.as_fd(), 3)?;
            rustix::io::ioctl_fionbio(&copy, true).map(|()| copy)
        };
        let sink = sink.filter(|_| !closing).map(copy).transpose().map_err(fail)?;
        Ok(Box::new(Pump::new(source, sink)))
    }
}

/// A FIFO that somebody reads already.
fn open_output(path: &str) -> Result<Option<OwnedFd>, Failure> {
    open_fifo(path, OFlags::WRONLY)
}

/// A FIFO that need not have a writer yet: as long as there was none, there is nothing to read and no end.
fn open_input(path: &str) -> Result<Option<OwnedFd>, Failure> {
    open_fifo(path, OFlags::RDONLY)
}

fn open_fifo(path: &str, how: OFlags) -> Result<Option<OwnedFd>, Failure> {
    if path.is_empty() {
        return Ok(None);
    }
    let fail = |error: Errno| Failure::os_kind(FailureKind::InvalidArgument, "open", path, error);
    let refuse = |cause| Failure::new(FailureKind::InvalidArgument, "open", path, cause);
    if !path.starts_with('/') {
        return Err(refuse("is no absolute path"));
    }
    let flags = how | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(|error| match error {
        // fifo(7): nobody has it open for reading.
        Errno::NXIO => refuse("nobody reads it"),
        error => fail(error),
    })?;
    if FileType::from_raw_mode(fstat(&file).map_err(fail)?.st_mode) != FileType::Fifo {
        return Err(refuse("is not a FIFO"));
    }
    Ok(Some(file))
}
