//! `Create`: a builder makes the container's process; the answer comes when it stands at the start barrier.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::{Failure, FailureKind, type_name};
use proto::shim::container::CreateOptions;
use proto::shim::task::v2::CreateTaskRequest;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Answer, Outcome, Server};
use crate::log::{Log, Stream};
use crate::runtime::{
    BuilderFiles, CreateRequest, HookState, Layer, Named, UserRequest, build_container,
};
use crate::server::container::Container;
use crate::server::poll::Token;
use crate::server::process::{INIT, Making, Phase, Process};
use crate::server::ttrpc::Caller;

/// The ends of the standard files that the process gets.
#[derive(Default)]
struct TheirEnds {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    error: Option<OwnedFd>,
}

impl Server {
    pub(super) fn create(&mut self, request: CreateTaskRequest, caller: Caller) -> Outcome {
        if let Some(container) = &self.container {
            let kind = FailureKind::AlreadyExists;
            let id = container.id.clone();
            return Err(Failure::new(kind, "create container", id, "this shim has one"));
        }
        let options = read_options(&request)?;
        let (ours, theirs) = report_pair()?;
        let making = Making::new(ours, caller);
        let init = Process::new(INIT, String::new(), Phase::Building(making));
        let mut container = Container::new(request.id, init);
        let mut stdio = TheirEnds::default();
        if options.stdin && !request.terminal {
            let (input, ours) = pipe("stdin")?;
            (stdio.input, container.stdin) = (Some(input), Some(ours));
        }
        let log = open_log(&options.log_path, request.terminal, &mut stdio)?;
        let request = CreateRequest {
            layers: request.rootfs.into_iter().map(layer).collect(),
            user: options.user.map(user),
            terminal: request.terminal,
            oom_score_adj: self.oom_score_adj,
            state: HookState::here(&container.id),
            ..CreateRequest::default()
        };
        self.container = Some(container);
        let begun = log.map_or(Ok(()), |log| self.set_log(log)).and_then(|()| {
            let files = BuilderFiles {
                report: theirs.as_fd(),
                stdio: [&stdio.input, &stdio.output, &stdio.error]
                    .map(|file| file.as_ref().map(AsFd::as_fd)),
            };
            self.watch_report(INIT)?;
            let thread = &self.thread;
            let builder = thread.fork(|| build_container(thread, request, files));
            builder.map_err(|e| Failure::os("create", "builder", e))
        });
        match begun {
            Ok(builder) => {
                if let Some(init) = self.container.as_mut().and_then(|all| all.by_key(INIT))
                    && let Phase::Building(making) = &mut init.phase
                {
                    making.builder = Some(builder);
                }
                Ok(Answer::Later)
            }
            Err(failure) => {
                self.container = None;
                Err(failure)
            }
        }
    }

    /// Takes a process's reports from now on.
    pub(super) fn watch_report(&mut self, key: u32) -> Result<(), Failure> {
        let process = self.container.as_mut().and_then(|container| container.by_key(key));
        let Some(report) = process.as_ref().and_then(|process| process.report()) else {
            return Ok(());
        };
        self.poll.add(report, Token::Report(key)).map_err(|e| Failure::os("watch", "reports", e))
    }
}

/// A pair for reports: our end and theirs.
pub(super) fn report_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| Failure::os("create", "socket pair", e))
}

fn read_options(request: &CreateTaskRequest) -> Result<CreateOptions, Failure> {
    let foreign = [&request.stdin, &request.stdout, &request.stderr, &request.checkpoint];
    if foreign.iter().any(|path| !path.is_empty()) {
        let (kind, cause) = (FailureKind::Unsupported, "FIFOs and checkpoints are not supported");
        return Err(Failure::new(kind, "create container", request.id.as_str(), cause));
    }
    let Some(options) = &request.options else { return Ok(CreateOptions::default()) };
    if !options.type_url.ends_with(type_name::CREATE_OPTIONS) {
        let (kind, cause) = (FailureKind::InvalidArgument, "not options of this shim");
        return Err(Failure::new(kind, "read", options.type_url.as_str(), cause));
    }
    super::decode(options.value.as_slice())
}

fn open_log(path: &str, terminal: bool, stdio: &mut TheirEnds) -> Result<Option<Log>, Failure> {
    // The output of a terminal has to be taken in any case: somebody who writes must not wait for ever.
    if path.is_empty() && !terminal {
        return Ok(None);
    }
    let mut log = Log::open((!path.is_empty()).then(|| PathBuf::from(path)))
        .map_err(|e| Failure::os_kind(FailureKind::InvalidArgument, "open log", path, e))?;
    if !terminal {
        for (stream, theirs) in
            [(Stream::Output, &mut stdio.output), (Stream::Error, &mut stdio.error)]
        {
            let (ours, writing) = pipe("output")?;
            rustix::io::ioctl_fionbio(&ours, true)
                .map_err(|e| Failure::os("create", "output pipe", e))?;
            log.attach(stream, ours);
            *theirs = Some(writing);
        }
    }
    Ok(Some(log))
}

/// The reading and the writing end.
fn pipe(what: &'static str) -> Result<(OwnedFd, OwnedFd), Failure> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|e| Failure::os("create pipe for", what, e))
}

fn layer(mount: proto::shim::types::Mount) -> Layer {
    Layer { kind: mount.r#type, source: mount.source, options: mount.options }
}

fn user(user: proto::shim::container::UserRequest) -> UserRequest {
    UserRequest::Named(Named {
        user: user.user,
        group: user.group,
        supplemental: user.supplemental,
        strict: user.strict,
    })
}
