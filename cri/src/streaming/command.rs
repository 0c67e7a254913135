//! Exec and attach: a client's streams, gathered, and joined to a command.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::channel::{Channel, Size, Sizes};
use super::remote::{Backend, Outlet, Outlets, Remote, Sink};
use super::spdy::header::Headers;
use super::spdy::input::Input;
use super::spdy::session::{Ended, Handler, Limits, Session};
use super::spdy::writer::Writer;
use super::status::Version;
use super::ticket::{Command, Order};
use super::wire::{Probe, ReadEnd, WriteEnd};

/// How long a client may take to open its streams.
pub const OPENING: Duration = Duration::from_secs(30);
/// How long a client may take to close the connection when everything has been said.
pub const PARTING: Duration = Duration::from_secs(10);
/// A command has five streams.
const STREAMS: usize = 8;

/// A client's connection at the moment of its upgrade.
pub struct Client {
    /// Where it is read from.
    pub read: ReadEnd,
    /// What was read with the request.
    pub early: Vec<u8>,
    /// Where it is written to.
    pub write: WriteEnd,
    /// Watches the connection.
    pub probe: Option<Arc<Probe>>,
    /// How long nothing may move.
    pub idle: Duration,
}

/// Takes what comes from a client for a command.
#[derive(Debug)]
pub struct Intake {
    wanted: Vec<Channel>,
    streams: HashMap<u32, Channel>,
    ready: Option<oneshot::Sender<HashMap<Channel, u32>>>,
    stdin: Stdin,
    sizes: Sizes,
    size: watch::Sender<Option<Size>>,
}

/// Where the input goes.
#[derive(Debug)]
enum Stdin {
    /// It will be said.
    Waiting(oneshot::Receiver<Sink>),
    /// There.
    Open(Sink),
    /// Nowhere.
    Closed,
}

/// What a command gets of a client's streams, with their other ends in an [`Intake`].
pub struct Lines {
    /// Gives the input somewhere to go.
    pub stdin: oneshot::Sender<Sink>,
    /// The terminal's size.
    pub size: watch::Receiver<Option<Size>>,
    /// Which stream is which, once all are open.
    pub ready: oneshot::Receiver<HashMap<Channel, u32>>,
}

impl Intake {
    /// Takes what a command needs, by these channels.
    pub fn new(wanted: Vec<Channel>) -> (Self, Lines) {
        let (ready, when_ready) = oneshot::channel();
        let (stdin, sink) = oneshot::channel();
        let (size, sizes) = watch::channel(None);
        let intake = Self {
            wanted,
            streams: HashMap::new(),
            ready: Some(ready),
            stdin: Stdin::Waiting(sink),
            sizes: Sizes::default(),
            size,
        };
        (intake, Lines { stdin, size: sizes, ready: when_ready })
    }

    /// Makes a stream a channel.
    pub fn assign(&mut self, stream: u32, channel: Channel) {
        self.streams.insert(stream, channel);
    }

    async fn input(&mut self, mut bytes: &[u8]) {
        if let Stdin::Waiting(sink) = &mut self.stdin {
            self.stdin = sink.await.map_or(Stdin::Closed, Stdin::Open);
        }
        let Stdin::Open(Sink { pipe: Some(pipe), .. }) = &mut self.stdin else { return };
        // Whoever waits here can be given up with nothing written twice: what was taken is not offered again.
        while !bytes.is_empty() {
            match pipe.write(bytes).await {
                Ok(count) if count > 0 => bytes = bytes.get(count..).unwrap_or_default(),
                // The command does not read any more; it need not be told that there is more.
                _ => {
                    if let Stdin::Open(sink) = &mut self.stdin {
                        sink.pipe = None;
                    }
                    return;
                }
            }
        }
    }
}

impl Handler for Intake {
    fn open(&mut self, stream: u32, headers: &Headers) -> bool {
        let name = headers.iter().find(|(name, _)| name == "streamtype");
        let Some(channel) = name.and_then(|(_, value)| Channel::parse(value)) else { return false };
        let known = self.streams.values().any(|other| *other == channel);
        let welcome = !known && self.wanted.contains(&channel);
        if welcome {
            self.assign(stream, channel);
        }
        welcome
    }

    fn opened(&mut self, _: u32) {
        if self.streams.len() == self.wanted.len()
            && let Some(ready) = self.ready.take()
        {
            let by_channel = self.streams.iter().map(|(stream, channel)| (*channel, *stream));
            // Nobody waits any more if it took too long.
            drop(ready.send(by_channel.collect()));
        }
    }

    async fn data(&mut self, stream: u32, bytes: &[u8]) {
        match self.streams.get(&stream) {
            Some(Channel::Stdin) => self.input(bytes).await,
            Some(Channel::Resize) => {
                if let Some(size) = self.sizes.feed(bytes) {
                    self.size.send_replace(Some(size));
                }
            }
            // Nothing is expected on the others.
            _ => {}
        }
    }

    fn end(&mut self, stream: u32) {
        if self.streams.get(&stream) == Some(&Channel::Stdin) {
            // Even one that is not there yet gets its end: by the drop of what it would be sent to.
            self.stdin = match std::mem::replace(&mut self.stdin, Stdin::Closed) {
                Stdin::Waiting(mut sink) => {
                    sink.close();
                    Stdin::Closed
                }
                _ => Stdin::Closed,
            };
        }
    }
}

/// The channels that a client opens for a command.
#[must_use]
pub fn channels(command: &Command, version: Version) -> Vec<Channel> {
    let mut channels = vec![Channel::Error];
    let mut add = |wanted, channel| {
        if wanted {
            channels.push(channel);
        }
    };
    add(command.stdin, Channel::Stdin);
    add(command.stdout, Channel::Stdout);
    add(command.stderr && !command.terminal, Channel::Stderr);
    add(command.terminal && version >= Version::V3, Channel::Resize);
    channels
}

/// Runs an order on a client's streams; the outcome is for the client.
pub async fn carry_out(
    backend: &impl Backend,
    order: Order,
    remote: Remote,
) -> Result<i32, String> {
    match order {
        Order::Exec(command) => backend.exec(command, remote).await,
        Order::Attach(command) => backend.attach(command, remote).await.map(|()| 0),
        Order::Forward(_) => Err("this is not a command".into()),
    }
}

/// A task that ends with its owner.
pub struct Reading(pub JoinHandle<Ended>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves exec or attach over SPDY.
pub async fn serve(
    backend: &impl Backend,
    order: Order,
    command: &Command,
    version: Version,
    client: Client,
) {
    let writer = Arc::new(Writer::new(client.write, client.idle));
    let (intake, lines) = Intake::new(channels(command, version));
    let limits = Limits { streams: STREAMS, idle: client.idle };
    let input = Input::new(client.read, &client.early);
    let session = Session::new(input, Arc::clone(&writer), client.probe, limits);
    let mut reading = Reading(tokio::spawn(session.run(intake)));
    let Ok(Ok(streams)) = tokio::time::timeout(OPENING, lines.ready).await else {
        tracing::info!(order = order.word(), "a client has not opened its streams in time");
        return writer.go_away(0, 0).await;
    };
    let outlet = |channel| {
        let stream = streams.get(&channel)?;
        Some(Outlet::Spdy(Arc::clone(&writer), *stream))
    };
    let remote = Remote {
        stdin: command.stdin.then_some(lines.stdin),
        outlets: Outlets { stdout: outlet(Channel::Stdout), stderr: outlet(Channel::Stderr) },
        size: lines.size,
        gone: writer.peer.gone(),
    };
    let outcome = carry_out(backend, order, remote).await;
    let verdict = version.verdict(&outcome);
    let mut told = Ok(());
    for channel in [Channel::Stdout, Channel::Stderr, Channel::Stdin, Channel::Resize] {
        if let Some(outlet) = outlet(channel) {
            told = told.and(outlet.finish().await);
        }
    }
    if let Some(outlet) = outlet(Channel::Error) {
        told = told.and(outlet.conclude(&verdict).await);
    }
    if told.is_err() {
        return;
    }
    let last = streams.values().max().copied().unwrap_or_default();
    writer.go_away(last, 0).await;
    // Closing a connection on which something is left to read would take back what the client has not read yet.
    if tokio::time::timeout(PARTING, &mut reading.0).await.is_err() {
        tracing::debug!("a client keeps its connection though everything has been said");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(terminal: bool) -> Command {
        Command {
            container: "a".repeat(64).parse().unwrap(),
            args: vec!["sh".into()],
            terminal,
            stdin: true,
            stdout: true,
            stderr: !terminal,
        }
    }

    fn headers(name: &str) -> Headers {
        vec![("streamtype".into(), name.into())]
    }

    #[test]
    fn a_terminal_has_a_size_and_no_standard_error() {
        let plain = channels(&command(false), Version::V4);
        assert_eq!(plain, [Channel::Error, Channel::Stdin, Channel::Stdout, Channel::Stderr]);
        let terminal = channels(&command(true), Version::V4);
        assert_eq!(terminal, [Channel::Error, Channel::Stdin, Channel::Stdout, Channel::Resize]);
        assert!(!channels(&command(true), Version::V2).contains(&Channel::Resize));
    }

    #[tokio::test]
    async fn only_the_streams_of_the_order_are_welcome_and_each_once() {
        let (mut intake, lines) = Intake::new(vec![Channel::Error, Channel::Stdout]);
        assert!(!intake.open(1, &headers("stdin")) && !intake.open(1, &headers("nonsense")));
        assert!(!intake.open(1, &Headers::new()));
        assert!(intake.open(1, &headers("error")));
        intake.opened(1);
        assert!(!intake.open(3, &headers("error")));
        assert!(intake.open(5, &headers("stdout")));
        intake.opened(5);
        let streams = lines.ready.await.unwrap();
        assert_eq!(streams, HashMap::from([(Channel::Error, 1), (Channel::Stdout, 5)]));
    }

    #[tokio::test]
    async fn of_many_sizes_a_command_sees_the_last() {
        let (mut intake, lines) = Intake::new(vec![Channel::Resize]);
        assert!(intake.open(1, &headers("resize")));
        for width in 1..=500 {
            let text = format!("{{\"Width\":{width},\"Height\":9}}");
            intake.data(1, text.as_bytes()).await;
        }
        assert_eq!(*lines.size.borrow(), Some(Size { width: 500, height: 9 }));
    }

    #[tokio::test]
    async fn the_end_of_the_input_is_told_even_before_there_is_somewhere_to_send_it() {
        let (mut intake, lines) = Intake::new(vec![Channel::Stdin]);
        assert!(intake.open(1, &headers("stdin")));
        intake.end(1);
        assert!(lines.stdin.is_closed());
    }
}
