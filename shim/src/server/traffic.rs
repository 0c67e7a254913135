//! What flows between processes and their callers: the log, terminals, and files.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::Server;
use super::poll::{Poll, Token};
use super::process::INIT;
use super::pump::{Need, Pump};
use super::stdio::{LINES, Line};
use crate::Failure;
use crate::log::{Log, Stream};

impl Server {
    /// Gives a container that is being made its log.
    pub(super) fn set_log(&mut self, log: Log) -> Result<(), Failure> {
        if let Some(container) = &mut self.container {
            container.log = Some(log);
        }
        self.watch_log(Stream::Output)?;
        self.watch_log(Stream::Error)
    }

    pub(super) fn read_log(&mut self, stream: Stream) {
        let Some(container) = &mut self.container else { return };
        let Some(log) = &mut container.log else { return };
        log.read(stream, &mut |bytes| container.clients.hear(stream, bytes));
        let ended = log.has_ended();
        if log.pipe(stream).is_none() {
            container.clients.end(stream);
        }
        self.attend();
        if ended {
            self.finish_drain();
        }
    }

    /// Gives back what a log does not need while nobody says much.
    pub(super) fn rest_log_when_due(&mut self) {
        let Some(log) = self.container.as_mut().and_then(|all| all.log.as_mut()) else { return };
        if log.quiet_at().is_some_and(|at| at <= Instant::now()) {
            log.rest();
        }
    }

    /// Reads a log's stream from now on, if there is one.
    pub(super) fn watch_log(&self, stream: Stream) -> Result<(), Failure> {
        let log = self.container.as_ref().and_then(|container| container.log.as_ref());
        let Some(pipe) = log.and_then(|log| log.pipe(stream)) else { return Ok(()) };
        let token = match stream {
            Stream::Output => Token::Output,
            Stream::Error => Token::Error,
        };
        self.poll.add(pipe.as_fd(), token).map_err(|e| Failure::os("watch", "output", e))
    }

    /// Serves a process's terminal, if it has one, from now on.
    pub(super) fn attach_terminal(
        &mut self,
        key: u32,
        terminal: Option<OwnedFd>,
    ) -> Result<(), Failure> {
        let Some(terminal) = terminal else { return Ok(()) };
        let Some(container) = &mut self.container else { return Ok(()) };
        if let Some(log) = container.log.as_mut().filter(|_| key == INIT) {
            let fail = |error: std::io::Error| Failure::os("use", "terminal", error);
            let reading = terminal.try_clone().map_err(fail)?;
            rustix::io::ioctl_fionbio(&reading, true).map_err(|e| fail(e.into()))?;
            log.attach(Stream::Output, reading);
        }
        if let Some(process) = container.by_key(key) {
            process.files.attach(terminal)?;
        }
        if key == INIT {
            self.watch_log(Stream::Output)?;
        }
        self.start_pumps(key)
    }

    /// Moves what a process's files have, from now on.
    pub(super) fn start_pumps(&mut self, key: u32) -> Result<(), Failure> {
        LINES.into_iter().try_for_each(|line| self.watch_pump(key, line, Need::Source))
    }

    pub(super) fn run_pump(&mut self, key: u32, line: Line) {
        let process = self.container.as_mut().and_then(|all| all.by_key(key));
        let Some(pump) = process.and_then(|process| process.files.pump(line)) else { return };
        let need = pump.run();
        if let Err(failure) = self.watch_pump(key, line, need) {
            crate::runtime::warn(format_args!("{failure}"));
        }
    }

    /// Takes what an ended process has left. What others still hold open goes on.
    pub(super) fn finish_files(&mut self, key: u32) {
        for line in LINES {
            self.forget_pump(key, line);
        }
        let process = self.container.as_mut().and_then(|all| all.by_key(key));
        let Some(process) = process else { return };
        process.files.finish();
        for line in [Line::Output, Line::Error] {
            self.run_pump(key, line);
        }
    }

    fn watch_pump(&mut self, key: u32, line: Line, need: Need) -> Result<(), Failure> {
        let process = self.container.as_mut().and_then(|all| all.by_key(key));
        let Some(files) = process.map(|process| &mut process.files) else { return Ok(()) };
        let Some(pump) = files.pump(line) else { return Ok(()) };
        watch_pump(&self.poll, pump, Token::Pump(key, line), need)?;
        if need == Need::Nothing {
            files.stop(line);
        }
        Ok(())
    }

    fn forget_pump(&mut self, key: u32, line: Line) {
        let process = self.container.as_mut().and_then(|all| all.by_key(key));
        let Some(pump) = process.and_then(|process| process.files.pump(line)) else { return };
        if let Some(file) = pump.exchange_watched(None).and_then(|before| pump.file(before)) {
            self.poll.remove(file);
        }
    }
}

/// Watches for what a pump needs, and for nothing else: a file that hangs up would wake us for ever.
pub(super) fn watch_pump(
    poll: &Poll,
    pump: &mut Pump,
    token: Token,
    need: Need,
) -> Result<(), Failure> {
    let before = pump.exchange_watched(Some(need));
    if before == Some(need) {
        return Ok(());
    }
    if let Some(file) = before.and_then(|before| pump.file(before)) {
        poll.remove(file);
    }
    let Some(file) = pump.file(need) else { return Ok(()) };
    let added = poll.add_for(file, token, need);
    added.map_err(|e| Failure::os("watch", "standard files", e))
}
