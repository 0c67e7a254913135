//! Serves those who are attached to the container.

use std::time::Instant;

use super::Server;
use super::container::Container;
use super::poll::Token;
use super::pump::Need;
use super::stdio::Line;
use super::traffic::watch_pump;
use crate::Failure;
use crate::log::Stream;

const STREAMS: [(Stream, Line); 2] = [(Stream::Output, Line::Output), (Stream::Error, Line::Error)];

impl Server {
    /// Serves a new client from now on.
    pub(super) fn watch_client(&mut self, key: u32) -> Result<(), Failure> {
        let Self { container: Some(Container { clients, .. }), poll, .. } = self else {
            return Ok(());
        };
        let Some(client) = clients.by_key(key) else { return Ok(()) };
        let fail = |error| Failure::os("watch", "a client's files", error);
        for (stream, line) in STREAMS {
            let Some(sink) = &client.sinks[stream as usize] else { continue };
            poll.add_sink(sink.file(), Token::Client(key, line)).map_err(fail)?;
        }
        let Some(input) = client.input.as_deref_mut() else { return Ok(()) };
        watch_pump(poll, input, Token::Client(key, Line::Input), Need::Source)
    }

    /// Something can be moved for a client, or it has gone.
    pub(super) fn run_client(&mut self, key: u32, line: Line) {
        if line == Line::Input {
            return self.run_client_input(key);
        }
        let clients = self.container.as_mut().map(|container| &mut container.clients);
        let Some(client) = clients.and_then(|clients| clients.by_key(key)) else { return };
        client.flush();
        self.attend();
    }

    fn run_client_input(&mut self, key: u32) {
        let Self { container: Some(Container { clients, .. }), poll, .. } = self else { return };
        let closing = clients.is_closing();
        let Some(client) = clients.by_key(key) else { return };
        let Some(input) = client.input.as_deref_mut() else { return };
        let need = match input.run() {
            Need::Source if closing => Need::Nothing,
            need => need,
        };
        let token = Token::Client(key, Line::Input);
        if let Err(failure) = watch_pump(poll, input, token, need) {
            crate::runtime::warn(format_args!("{failure}"));
        }
        if need == Need::Nothing {
            client.input = None;
            self.attend();
        }
    }

    /// The container's input ends after what its clients have said until now.
    pub(super) fn close_client_inputs(&mut self) {
        let Some(container) = &mut self.container else { return };
        container.clients.close_input();
        let keys: Vec<u32> = container.clients.all().iter().map(|client| client.key).collect();
        for key in keys {
            self.run_client_input(key);
        }
    }

    /// After something was said, taken, or is overdue: who is watched for what, who goes, and which stream is read.
    pub(super) fn attend(&mut self) {
        let Some(container) = &mut self.container else { return };
        for client in container.clients.all() {
            client.settle();
            for (stream, line) in STREAMS {
                let Some(sink) = &mut client.sinks[stream as usize] else { continue };
                if let Some(room) = sink.new_watch() {
                    let token = Token::Client(client.key, line);
                    if let Err(error) = self.poll.modify_sink(sink.file(), token, room) {
                        crate::runtime::warn(format_args!("watch a client: {error}"));
                    }
                }
            }
        }
        for key in container.clients.finished(Instant::now()) {
            self.let_go(key);
        }
        self.hold_streams();
    }

    /// Closes a client's files.
    pub(super) fn let_go(&mut self, key: u32) {
        let Self { container: Some(Container { clients, .. }), poll, .. } = self else { return };
        let Some(mut client) = clients.remove(key) else { return };
        for sink in client.sinks.iter_mut().flatten() {
            sink.end();
        }
        if let Some(input) = client.input.as_deref_mut() {
            let token = Token::Client(key, Line::Input);
            let _unwatched = watch_pump(poll, input, token, Need::Nothing);
        }
        self.hold_streams();
    }

    /// Reads what everybody has room for, and nothing else.
    fn hold_streams(&mut self) {
        for (stream, _) in STREAMS {
            let Some(container) = &mut self.container else { return };
            let full = container.clients.is_full_for(stream);
            let held = container.clients.hold(stream, full);
            if held == full {
                continue;
            }
            let pipe = container.log.as_ref().and_then(|log| log.pipe(stream));
            if let Some(pipe) = pipe.filter(|_| full) {
                self.poll.remove(pipe);
            } else if let Err(failure) = self.watch_log(stream) {
                crate::runtime::warn(format_args!("{failure}"));
            }
        }
    }

    /// The container has ended: those who have all they will get go now, the others have some time to take it.
    pub(super) fn dismiss_clients(&mut self) {
        let Self { container: Some(Container { clients, .. }), poll, .. } = self else { return };
        for client in clients.all() {
            if let Some(mut input) = client.input.take() {
                let token = Token::Client(client.key, Line::Input);
                let _unwatched = watch_pump(poll, &mut input, token, Need::Nothing);
            }
        }
        self.attend();
    }

    /// Lets those go who take nothing.
    pub(super) fn let_go_when_due(&mut self) {
        let deadline = self.container.as_ref().and_then(|all| all.clients.deadline());
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.attend();
        }
    }
}
