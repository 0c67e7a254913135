//! The ends of processes: this is the only place that reaps, and the order in which an end becomes known.
//!
//! A status is looked at, reports are taken, and only then is it consumed: so a process that fails and ends at once
//! is never mistaken for one that ran. When the first process has ended: its out-of-memory kills are read, its output
//! is taken to the end, the record is written, and then whoever waits is told.

use std::time::{Duration, Instant, SystemTime};

use crate::Exit;
use prost::Message;
use prost_types::Timestamp;
use proto::shim::container::RunResponse;
use proto::shim::task::v2 as wire;
use rustix::process::{Pid, Signal};
use sys::process::{Ended, Wait, wait};

use super::Server;
use super::container::Drain;
use super::process::{INIT, Phase};
use crate::log::Stream;

/// How long somebody else may hold the output open after the first process has ended.
const DRAIN: Duration = Duration::from_millis(100);
/// The same when a foreign shim is in between, which ends the output itself when its own has ended.
const FOREIGN_DRAIN: Duration = Duration::from_secs(2);

impl Server {
    /// Takes the status of every child that has ended.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        loop {
            let Some(Ended { pid, .. }) = wait(None, Wait::Look) else { return };
            self.take_all_reports();
            if let Some(Ended { pid, code }) = wait(Some(pid), Wait::Take) {
                self.reaped(pid, exit_now(code));
            }
        }
    }

    fn take_all_reports(&mut self) {
        let making = self.container.iter().flat_map(|all| &all.processes);
        let keys: Vec<u32> = making
            .filter(|process| process.report().is_some())
            .map(|process| process.key)
            .collect();
        for key in keys {
            self.take_reports(key);
        }
    }

    fn reaped(&mut self, pid: Pid, exit: Exit) {
        let Some(container) = &mut self.container else { return };
        let is_it = |identity: &super::process::Identity| identity.pid == pid;
        let making = container.has_making();
        let found = container
            .processes
            .iter_mut()
            .find(|process| process.identity.as_ref().is_some_and(is_it));
        match found {
            Some(process) if process.report().is_some() => process.reaped = Some(exit),
            Some(process) if matches!(process.phase, Phase::Stopped(_)) => {}
            Some(process) => {
                let key = process.key;
                self.ended(key, exit);
            }
            // A builder, an orphan that was left to us, or a child whose builder has not spoken yet.
            None if making => container.strays.push((pid, exit)),
            None => container.strays.clear(),
        }
    }

    /// A process that was started, or could not be, has ended.
    pub(super) fn ended(&mut self, key: u32, exit: Exit) {
        self.finish_files(key);
        if key != INIT {
            return self.stopped(key, exit);
        }
        let Some(container) = &mut self.container else { return };
        let exit = Exit { oom_killed: container.cgroups.oom_kills() > 0, ..exit };
        if !container.own_pids {
            drop(container.cgroups.signal_all(Signal::KILL));
        }
        // Another shim has to read what is written before it can pass it on.
        let patience = if container.maker.is_shim() { FOREIGN_DRAIN } else { DRAIN };
        container.drain = Some(Drain { exit, deadline: Instant::now() + patience });
        let Some(log) = &mut container.log else { return self.finish_drain() };
        // Nobody is waited for any longer.
        for stream in [Stream::Output, Stream::Error] {
            log.take_all(stream, &mut |bytes| container.clients.hear(stream, bytes));
        }
        if log.has_ended() {
            self.finish_drain();
        }
    }

    /// Whether or not all its output has come: time is up.
    pub(super) fn end_drain_when_due(&mut self) {
        let deadline = self.container.as_ref().and_then(|container| container.drain_deadline());
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.finish_drain();
        }
    }

    /// Ends the first process's life for everybody who asks: on disk first.
    pub(super) fn finish_drain(&mut self) {
        let Some(container) = &mut self.container else { return };
        let Some(Drain { exit, .. }) = container.drain.take() else { return };
        if let Some(mut log) = container.log.take() {
            for stream in [Stream::Output, Stream::Error] {
                log.finish(stream, &mut |bytes| container.clients.hear(stream, bytes));
                container.clients.end(stream);
            }
        }
        if let Err(error) = self.record.write_exit(exit) {
            crate::runtime::warn(format_args!("write exit record: {error}"));
        }
        self.dismiss_clients();
        self.stopped(INIT, exit);
    }

    fn stopped(&mut self, key: u32, exit: Exit) {
        let Some(process) = self.container.as_mut().and_then(|all| all.by_key(key)) else { return };
        process.phase = Phase::Stopped(exit);
        // The number is somebody else's from now on.
        if let Some(identity) = &mut process.identity {
            identity.handle = None;
        }
        let waiters = std::mem::take(&mut process.waiters);
        let deleters = std::mem::take(&mut process.deleters);
        let runner = process.runner.take();
        self.tell_exit(key, exit);
        for caller in waiters {
            self.answer(caller, Ok(wait_response(exit)));
        }
        if self.is_foreign_made(key) && !deleters.is_empty() {
            return self.begin_delete(deleters);
        }
        for caller in deleters {
            let deleted = self.delete_stopped(key);
            self.answer(caller, deleted);
        }
        if let Some(caller) = runner {
            if self.is_made_by_shim()
                && let Some(process) = self.container.as_mut().and_then(|all| all.by_key(key))
            {
                let id = process.id.clone();
                self.forget_exec_of_peer(id);
            }
            let _freed = self.delete_stopped(key);
            self.answer(caller, Ok(run_response(exit)));
        }
    }
}

/// The answer to whoever waits.
pub(super) fn wait_response(exit: Exit) -> Vec<u8> {
    let exited_at = Some(timestamp(exit.at));
    wire::WaitResponse { exit_status: exit.code.unsigned_abs(), exited_at }.encode_to_vec()
}

fn run_response(exit: Exit) -> Vec<u8> {
    let since = exit.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    RunResponse { code: exit.code.unsigned_abs(), at }.encode_to_vec()
}

/// A time on the wire.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// A time on the wire, as another shim tells it.
pub(super) fn time_of(at: Option<Timestamp>) -> SystemTime {
    let since = at.and_then(|at| {
        let (seconds, nanos) = (u64::try_from(at.seconds).ok()?, u32::try_from(at.nanos).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
    });
    since.unwrap_or_else(SystemTime::now)
}

/// An exit as the shim sees it: just now.
pub(super) fn exit_now(code: i32) -> Exit {
    Exit { code, at: SystemTime::now(), oom_killed: false }
}
