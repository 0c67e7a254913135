//! `Kill`: a signal to the first process, to an exec with its process group, or to everybody: of the container, or, when
//! it is SIGKILL, whom an exec has started.

use crate::{Failure, FailureKind};
use proto::shim::task::v2::KillRequest;
use rustix::io::Errno;
use rustix::process::{Signal, kill_process_group, pidfd_send_signal};

use super::{Outcome, Server, done};
use crate::foreign::errand::Verb;
use crate::server::container::Container;
use crate::server::family;
use crate::server::foreign::Then;
use crate::server::process::{Phase, Process};
use crate::server::ttrpc::Caller;

impl Server {
    pub(super) fn kill(&mut self, request: &KillRequest, caller: Caller) -> Outcome {
        let Some(signal) = i32::try_from(request.signal).ok().and_then(sys::process::signal) else {
            let number = request.signal.to_string();
            let kind = FailureKind::InvalidArgument;
            return Err(Failure::new(kind, "send signal", number, "there is no such signal"));
        };
        let container = self.container(&request.id)?;
        if request.all && request.exec_id.is_empty() {
            container
                .cgroups
                .signal_all(signal)
                .map_err(|e| Failure::os("signal all of", request.id.as_str(), e))?;
        }
        let (own, by_shim) = (container.maker.is_own(), container.maker.is_shim());
        // An exec with all its family is found by their numbers, whoever has made it.
        let family = request.all && !request.exec_id.is_empty();
        if by_shim && !family {
            let verb = Verb::Kill {
                signal: request.signal,
                exec_id: request.exec_id.clone(),
                all: request.all,
            };
            return self.begin_errand(verb, Then::Answer(caller));
        }
        // To kill the kernel is enough; anything else is for the runtime to pass on.
        if !own && request.exec_id.is_empty() && signal != Signal::KILL {
            return self.signal_foreign(request.signal, caller);
        }
        let all = request.all;
        if all && signal == Signal::KILL && !request.exec_id.is_empty() {
            container.kill_family(&request.exec_id)?;
        }
        let process = container.by_id(&request.exec_id)?;
        match send(process, signal) {
            // Whoever was told to go with all the others has gone already.
            Err(failure) if all && failure.kind == FailureKind::NotFound => done(),
            Err(failure) => Err(failure),
            Ok(()) => done(),
        }
    }
}

impl Container {
    /// Ends an exec and everybody whom it has started.
    fn kill_family(&mut self, exec_id: &str) -> Result<(), Failure> {
        let process = self.by_id(exec_id)?;
        let running = matches!(process.phase, Phase::Running) && process.reaped.is_none();
        if matches!(process.phase, Phase::Starting(_)) {
            // It may not lead a process group yet.
            process.kill();
        }
        let pid = process.pid();
        if running && pid != 0 {
            family::kill(pid, || self.cgroups.processes().unwrap_or_default());
        }
        Ok(())
    }
}

fn send(process: &Process, signal: Signal) -> Result<(), Failure> {
    let gone = || Failure::new(FailureKind::NotFound, "signal", process.name(), "it has ended");
    let runs = match process.phase {
        Phase::Stopped(_) => return Err(gone()),
        Phase::Registered(_) => return Err(process.refuse("signal", "it was not started")),
        _ => process.reaped.is_none(),
    };
    let Some(identity) = process.identity.as_ref().filter(|_| runs) else { return Err(gone()) };
    let sent = if process.id.is_empty() {
        let handle = identity.handle.as_ref().ok_or_else(gone)?;
        pidfd_send_signal(handle, signal)
    } else {
        // It is our child and not yet reaped: neither its number nor its group's can be another's.
        kill_process_group(identity.pid, signal)
    };
    match sent {
        Err(Errno::SRCH) => Err(gone()),
        other => other.map_err(|e| Failure::os("signal", process.name(), e)),
    }
}
