//! The connection to a foreign shim, which has made the container: calls go out, and an answer becomes a report such as
//! this program's own processes send, so that whoever waits for either is served alike.
//!
//! ```text
//!   Start, Kill, Delete … ──► foreign shim          answer ──► end of the report, or a failure on it
//!   Exec, then Start ───────► foreign shim          answer ──► Cloned{pid} on the report, and its end
//!   Wait, once it runs ─────► foreign shim          answer ──► the end of that process
//! ```
//!
//! When the connection ends before the container has, nobody knows how that ends: whoever is left is killed, and this
//! shim goes without a word on it, as if it had been killed itself. Its daemon frees what is left then.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use prost::Message;
use prost_types::Any;
use proto::shim::task::v2 as task;
use proto::shim::ttrpc::Response;
use rustix::io::Errno;
use rustix::process::Signal;

use super::Server;
use super::foreign::Maker;
use super::poll::Token;
use super::process::{INIT, Phase};
use super::reap::{exit_now, time_of};
use super::stdio::TheirEnds;
use super::ttrpc::{Answered, outcome, parse_answer, request};
use crate::foreign::errand::Verb;
use crate::foreign::start::Fifos;
use crate::foreign::{Shim, wire};
use crate::runtime::report::{self, Cloned, Event as Report};
use crate::{Exit, Failure, type_name};

/// The first call that is this program's own; those before were the builder's.
const FIRST: u32 = 101;
/// What waits to be sent; a peer that lets more lie is as good as gone.
const MAX_OUTPUT: usize = 1 << 20;
const CHUNK: usize = 4096;
/// What a process whose end nobody can tell is said to have ended with.
const UNKNOWN: i32 = 255;

/// A container that a foreign shim makes.
#[derive(Debug)]
pub struct Foreign {
    /// Who makes it.
    pub shim: Shim,
    /// Its standard files.
    pub fifos: Fifos,
    /// Ends of them that are held until the foreign shim has opened its own.
    pub held: Vec<OwnedFd>,
    /// The connection, once the container is created.
    pub peer: Option<Peer>,
}

/// A connection.
#[derive(Debug)]
pub struct Peer {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    next: u32,
    pending: Vec<(u32, Pending)>,
}

/// Who hears an answer.
#[derive(Debug)]
enum Pending {
    /// A report that ends well, or with the failure.
    Report(&'static str, OwnedFd),
    /// An exec that is started next, with the files that it is to open.
    Registered(OwnedFd, task::StartRequest, TheirEnds),
    /// An exec whose process is reported, with the files that it has opened by then.
    Started(OwnedFd, TheirEnds),
    /// The container was deleted; the foreign shim is to end.
    Deleted(OwnedFd, String),
    /// A process that has ended, by its key.
    Ended(u32),
    /// Nobody.
    Nobody,
}

impl Peer {
    /// Takes a connection over.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(socket: OwnedFd) -> Result<Self, Failure> {
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(|e| Failure::os("use connection of", "foreign shim", e))?;
        let (input, output, pending) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { socket, input, output, next: FIRST, pending })
    }

    fn call(&mut self, method: &'static str, message: &impl Message, then: Pending) {
        let frame = request(self.next, wire::TASK, method, message.encode_to_vec());
        self.output.extend_from_slice(&frame);
        self.pending.push((self.next, then));
        self.next += 2;
        self.flush();
    }

    /// Sends what it takes now; what does not fit goes with the next answer.
    fn flush(&mut self) {
        while !self.output.is_empty() {
            match rustix::io::write(&self.socket, &self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
        self.output = Vec::new();
    }

    /// Takes what has arrived; `false` when nothing more will.
    fn read(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        loop {
            match rustix::io::read(&self.socket, &mut chunk) {
                Ok(0) => return false,
                Ok(read) => self.input.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.output.len() < MAX_OUTPUT,
                Err(_) => return false,
            }
        }
    }

    /// The next whole answer and who hears it; an error ends the connection.
    fn next(&mut self) -> Result<Option<(Pending, Response)>, ()> {
        loop {
            let (stream, response, length) = match parse_answer(&self.input) {
                Answered::Whole(stream, response, length) => (stream, response, length),
                Answered::Partial => return Ok(None),
                Answered::Broken => return Err(()),
            };
            drop(self.input.drain(..length));
            let found = self.pending.iter().position(|(number, _)| *number == stream);
            if let Some(at) = found {
                return Ok(Some((self.pending.swap_remove(at).1, response)));
            }
        }
    }
}

impl Server {
    fn peer(&mut self) -> Option<(&mut Peer, &str)> {
        match self.container.as_mut().map(|all| &mut all.maker)? {
            Maker::Shim(foreign) => Some((foreign.peer.as_mut()?, &foreign.shim.id)),
            _ => None,
        }
    }

    /// The foreign shim has created the container: from here on it is asked, and tells, over this connection.
    pub(super) fn take_peer(&mut self, socket: OwnedFd) -> Result<(), Failure> {
        let peer = Peer::new(socket)?;
        self.poll
            .add(&peer.socket, Token::Peer)
            .map_err(|e| Failure::os("watch", "foreign shim", e))?;
        if let Some(Maker::Shim(foreign)) = self.container.as_mut().map(|all| &mut all.maker) {
            foreign.peer = Some(peer);
            foreign.held = Vec::new();
        }
        self.wait_for(INIT, String::new());
        Ok(())
    }

    fn wait_for(&mut self, key: u32, exec_id: String) {
        let Some((peer, id)) = self.peer() else { return };
        let wait = task::WaitRequest { id: id.to_owned(), exec_id };
        peer.call("Wait", &wait, Pending::Ended(key));
    }

    /// Asks the foreign shim for something; the answer ends `report`.
    pub(super) fn ask_peer(&mut self, verb: Verb, report: OwnedFd) {
        let Some((peer, id)) = self.peer() else { return };
        let id = id.to_owned();
        let exec_id = String::new();
        let (heard, deleted) = match &verb {
            Verb::Delete => (None, Some(report)),
            _ => (Some(report), None),
        };
        let heard =
            |method| heard.map_or(Pending::Nobody, |report| Pending::Report(method, report));
        match verb {
            Verb::Start => peer.call("Start", &task::StartRequest { id, exec_id }, heard("start")),
            Verb::Kill { signal, exec_id, all } => {
                peer.call("Kill", &task::KillRequest { id, exec_id, signal, all }, heard("signal"));
            }
            Verb::Pause => peer.call("Pause", &task::PauseRequest { id }, heard("pause")),
            Verb::Resume => peer.call("Resume", &task::ResumeRequest { id }, heard("resume")),
            Verb::Update(value) => {
                let resources = Some(Any { type_url: type_name::RESOURCES.to_owned(), value });
                let update = task::UpdateTaskRequest { id, resources, ..Default::default() };
                peer.call("Update", &update, heard("update"));
            }
            Verb::Resize { exec_id, width, height } => {
                let resize = task::ResizePtyRequest { id, exec_id, width, height };
                peer.call("ResizePty", &resize, heard("resize terminal of"));
            }
            Verb::CloseInput(exec_id) => {
                let close = task::CloseIoRequest { id, exec_id, stdin: true };
                peer.call("CloseIO", &close, heard("close input of"));
            }
            Verb::Delete => {
                let delete = task::DeleteRequest { id: id.clone(), exec_id };
                let then = deleted.map_or(Pending::Nobody, |report| Pending::Deleted(report, id));
                peer.call("Delete", &delete, then);
            }
            Verb::DeleteExec(exec_id) => {
                let delete = task::DeleteRequest { id, exec_id };
                peer.call("Delete", &delete, heard("delete"));
            }
        }
    }

    /// Has the foreign shim make an exec; its process is told over `report`. It opens the exec's files by their names; those
    /// that came without are files of this process to others (proc_pid_fd(5)).
    pub(super) fn execute_by_peer(
        &mut self,
        key: u32,
        spec: Vec<u8>,
        files: TheirEnds,
        report: OwnedFd,
    ) {
        let process = self.container.as_mut().and_then(|all| all.by_key(key));
        let Some(process) = process else { return };
        let (exec_id, terminal, mut paths) =
            (process.id.clone(), process.has_terminal, process.paths.clone());
        for (path, file) in [(&mut paths.output, &files.output), (&mut paths.error, &files.error)] {
            if let Some(file) = file {
                *path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            }
        }
        let Some((peer, id)) = self.peer() else { return };
        let start = task::StartRequest { id: id.to_owned(), exec_id: exec_id.clone() };
        let exec = task::ExecProcessRequest {
            id: id.to_owned(),
            exec_id,
            terminal,
            stdin: paths.input,
            stdout: paths.output,
            stderr: paths.error,
            spec: Some(Any { type_url: type_name::PROCESS.to_owned(), value: spec }),
        };
        peer.call("Exec", &exec, Pending::Registered(report, start, files));
    }

    /// Takes what the foreign shim has answered.
    pub(super) fn take_answers(&mut self) {
        let Some((peer, _)) = self.peer() else { return };
        let alive = peer.read();
        loop {
            let Some((peer, _)) = self.peer() else { return };
            match peer.next() {
                Ok(Some((pending, response))) => self.hear(pending, response),
                Ok(None) if alive => {
                    peer.flush();
                    return;
                }
                Ok(None) | Err(()) => return self.lose_peer(),
            }
        }
    }

    fn hear(&mut self, pending: Pending, response: Response) {
        match pending {
            Pending::Report(operation, report) => {
                if let Err(failure) = outcome(operation, "container", response) {
                    report::send_failure(report.as_fd(), &failure);
                }
            }
            Pending::Registered(report, start, files) => {
                match outcome("register", "exec", response) {
                    Ok(_) => {
                        let Some((peer, _)) = self.peer() else { return };
                        peer.call("Start", &start, Pending::Started(report, files));
                    }
                    Err(failure) => report::send_failure(report.as_fd(), &start_failed(failure)),
                }
            }
            Pending::Started(report, _opened) => {
                let started = outcome("execute", "command", response);
                let pid = started.map(|bytes| task::StartResponse::decode(&*bytes));
                match pid {
                    Ok(answer) => {
                        let pid = answer.map_or(0, |answer| answer.pid);
                        let cloned = Report::Cloned(Cloned { pid, ..Cloned::default() });
                        drop(report::send(report.as_fd(), cloned, None));
                    }
                    Err(failure) => report::send_failure(report.as_fd(), &start_failed(failure)),
                }
            }
            Pending::Deleted(report, id) => {
                if let Err(failure) = outcome("delete", "container", response) {
                    report::send_failure(report.as_fd(), &failure);
                }
                let Some((peer, _)) = self.peer() else { return };
                let shutdown = task::ShutdownRequest { id, now: false };
                peer.call("Shutdown", &shutdown, Pending::Nobody);
            }
            Pending::Ended(key) => {
                let ended = outcome("wait for", "process", response);
                let ended = ended.ok().and_then(|bytes| task::WaitResponse::decode(&*bytes).ok());
                let exit = ended.map_or_else(
                    || exit_now(UNKNOWN),
                    |ended| Exit {
                        code: i32::try_from(ended.exit_status).unwrap_or(UNKNOWN),
                        at: time_of(ended.exited_at),
                        oom_killed: false,
                    },
                );
                self.heard_of_end(key, exit);
            }
            Pending::Nobody => {}
        }
    }

    /// Waits for an exec that the foreign shim has started, once it is known who it is.
    pub(super) fn watch_exec_of_peer(&mut self, key: u32) {
        let process = self.container.as_mut().and_then(|all| all.by_key(key));
        let Some(exec_id) = process.map(|process| process.id.clone()) else { return };
        self.wait_for(key, exec_id);
    }

    /// Has the foreign shim forget an exec that has ended.
    pub(super) fn forget_exec_of_peer(&mut self, exec_id: String) {
        let Some((peer, id)) = self.peer() else { return };
        let delete = task::DeleteRequest { id: id.to_owned(), exec_id };
        peer.call("Delete", &delete, Pending::Nobody);
    }

    fn heard_of_end(&mut self, key: u32, exit: Exit) {
        let process = self.container.as_mut().and_then(|all| all.by_key(key));
        let Some(process) = process else { return };
        match process.phase {
            Phase::Stopped(_) => {}
            _ if process.report().is_some() => process.reaped = Some(exit),
            _ => self.ended(key, exit),
        }
    }

    /// Nobody answers any more.
    fn lose_peer(&mut self) {
        let Some(container) = &mut self.container else { return };
        if let Maker::Shim(foreign) = &mut container.maker {
            foreign.peer = None;
        }
        let stopped = |phase: &Phase| matches!(phase, Phase::Stopped(_));
        if container.by_key(INIT).is_some_and(|init| stopped(&init.phase)) {
            // What was still asked is answered by nobody: the reports end, and what is left is freed here.
            return;
        }
        crate::runtime::warn(format_args!("the foreign shim is gone"));
        drop(container.cgroups.signal_all(Signal::KILL));
        self.container = None;
        self.ending = true;
    }
}

fn start_failed(failure: Failure) -> Failure {
    Failure { kind: crate::FailureKind::StartFailed, ..failure }
}
