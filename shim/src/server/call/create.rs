//! `Create`: a builder makes the container's process; the answer comes when it stands at the start barrier.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::{Failure, FailureKind, type_name};
use proto::shim::container::CreateOptions;
use proto::shim::runc;
use proto::shim::task::v2::CreateTaskRequest;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::{Answer, Outcome, Server};
use crate::foreign::{Runtime, build, start};
use crate::log::{Log, Stream};
use crate::runtime::{
    BuilderFiles, CreateRequest, HookState, Layer, Named, UserRequest, build_container, report,
};
use crate::server::container::Container;
use crate::server::foreign::Maker;
use crate::server::peer::Foreign;
use crate::server::poll::Token;
use crate::server::process::{INIT, Making, Phase, Process};
use crate::server::stdio::{Opening, OurEnds, Paths, TheirEnds};
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn create(&mut self, request: CreateTaskRequest, caller: Caller) -> Outcome {
        if let Some(container) = &self.container {
            let kind = FailureKind::AlreadyExists;
            let id = container.id.clone();
            return Err(Failure::new(kind, "create container", id, "this shim has one"));
        }
        let mut options = Options::read(&request)?;
        let (ours, theirs) = report::pair()?;
        let making = Making::new(ours, caller);
        let mut init = Process::new(INIT, String::new(), Phase::Building(making));
        let (input, output, error) = (request.stdin, request.stdout, request.stderr);
        *init.paths = Paths { input, output, error };
        init.has_terminal = request.terminal;
        let runtime = options.take_runtime(&request.id)?;
        let (files, stdio, log, maker) = options.open_files(&init, runtime)?;
        init.files = files;
        let told = if self.is_foreign() { request.rootfs.clone() } else { Vec::new() };
        let request = CreateRequest {
            layers: request.rootfs.into_iter().map(layer).collect(),
            terminal: request.terminal,
            oom_score_adj: self.oom_score_adj,
            state: HookState::here(&request.id),
            ..options.into_request()
        };
        let mut container = Container::new(request.state.id.clone(), init);
        container.rootfs = told;
        container.maker = maker;
        self.container = Some(container);
        let begun = self.begin(request, log, theirs.as_fd(), &stdio);
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

    fn begin(
        &mut self,
        request: CreateRequest,
        log: Option<Log>,
        report: BorrowedFd<'_>,
        stdio: &TheirEnds,
    ) -> Result<Pid, Failure> {
        if let Some(log) = log {
            self.set_log(log)?;
        }
        self.start_pumps(INIT)?;
        self.watch_report(INIT)?;
        let files = BuilderFiles { report, stdio: stdio.borrow() };
        let thread = &self.thread;
        let maker = self.container.as_ref().map(|all| &all.maker);
        let builder = thread.fork(|| match maker {
            Some(Maker::Command(runtime)) => build::build(runtime.clone(), &request, files),
            Some(Maker::Shim(foreign)) => {
                start::build(foreign.shim.clone(), &request, &foreign.fifos, files)
            }
            _ => build_container(thread, request, files),
        });
        builder.map_err(|e| Failure::os("create", "builder", e))
    }

    /// Takes a process's reports from now on.
    pub(in crate::server) fn watch_report(&mut self, key: u32) -> Result<(), Failure> {
        let process = self.container.as_mut().and_then(|container| container.by_key(key));
        let Some(report) = process.as_ref().and_then(|process| process.report()) else {
            return Ok(());
        };
        self.poll.add(report, Token::Report(key)).map_err(|e| Failure::os("watch", "reports", e))
    }
}

/// The shim's ends of the standard files, the process's, the log, and who makes the process.
type Files = (OurEnds, TheirEnds, Option<Log>, Maker);

/// What a caller wants beyond the spec, by who it is.
enum Options {
    /// Wherry's daemon: a log.
    Own(CreateOptions),
    /// Another daemon: FIFOs and files.
    Foreign(runc::Options),
}

impl Options {
    fn read(request: &CreateTaskRequest) -> Result<Self, Failure> {
        if !request.checkpoint.is_empty() {
            let (kind, cause) = (FailureKind::Unsupported, "checkpoints are not supported");
            return Err(Failure::new(kind, "create container", request.id.as_str(), cause));
        }
        let named = [&request.stdin, &request.stdout, &request.stderr];
        let foreign = named.iter().any(|path| !path.is_empty());
        match &request.options {
            Some(options) if options.type_url.ends_with(type_name::CREATE_OPTIONS) => {
                super::decode(options.value.as_slice()).map(Self::Own)
            }
            Some(options) if options.type_url.ends_with(type_name::RUNC_OPTIONS) => {
                super::decode(options.value.as_slice()).map(Self::Foreign)
            }
            // Options of another runtime mean nothing here.
            _ if foreign || request.options.is_some() => {
                Ok(Self::Foreign(runc::Options::default()))
            }
            _ => Ok(Self::Own(CreateOptions::default())),
        }
    }

    /// Who is to make it: asked for only once.
    fn take_runtime(&mut self, id: &str) -> Result<Option<Runtime>, Failure> {
        match self {
            Self::Own(CreateOptions { runtime, .. }) => {
                runtime.take().map(|wire| Runtime::from_wire(wire, id)).transpose()
            }
            Self::Foreign(_) => Ok(None),
        }
    }

    fn open_files(&self, init: &Process, runtime: Option<Runtime>) -> Result<Files, Failure> {
        let Self::Own(options) = self else {
            let (ours, theirs) = OurEnds::open(&init.paths, init.has_terminal, Opening::Later)?;
            return Ok((ours, theirs, None, Maker::Own));
        };
        let (mut ours, mut theirs) = (OurEnds::default(), TheirEnds::default());
        let maker = match runtime {
            None => Maker::Own,
            Some(Runtime::Command(command)) => Maker::Command(command),
            Some(Runtime::Shim(shim)) => {
                let wanted = (init.has_terminal, options.stdin);
                // No pipes of ours: they come with the FIFOs.
                let mut log = open_log(&options.log_path, true, &mut theirs)?;
                let foreign = Foreign::open(shim, wanted, &mut log, &mut ours)?;
                return Ok((ours, theirs, Some(log), Maker::Shim(Box::new(foreign))));
            }
        };
        if options.stdin && !init.has_terminal {
            let (input, end) = pipe("stdin")?;
            (theirs.input, ours.input) = (Some(input), Some(end));
        }
        let log = open_log(&options.log_path, init.has_terminal, &mut theirs)?;
        Ok((ours, theirs, Some(log), maker))
    }

    fn into_request(self) -> CreateRequest {
        match self {
            Self::Own(options) => {
                CreateRequest { user: options.user.map(user), ..CreateRequest::default() }
            }
            Self::Foreign(options) => CreateRequest {
                no_pivot: options.no_pivot_root,
                new_keyring: !options.no_new_keyring,
                ..CreateRequest::default()
            },
        }
    }
}

fn open_log(path: &str, terminal: bool, stdio: &mut TheirEnds) -> Result<Log, Failure> {
    // Without a file too: there may be clients who want to hear.
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
    Ok(log)
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
