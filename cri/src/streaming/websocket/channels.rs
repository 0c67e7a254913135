//! Commands in a WebSocket: the first byte of each message says which channel it belongs to.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use tokio_tungstenite::tungstenite::Message;

use super::WebSocket;
use super::writer::{CLOSE, Writer};
use crate::streaming::channel::Channel;
use crate::streaming::command::{Client, Intake, PARTING, Reading, carry_out, channels};
use crate::streaming::remote::{Backend, Outlet, Outlets, Remote};
use crate::streaming::spdy::frame::Malformed;
use crate::streaming::spdy::session::{Ended, Handler};
use crate::streaming::status::Version;
use crate::streaming::ticket::{Command, Order};
use crate::streaming::wire::Probe;

/// How often a client is looked after that waits for a command to take its input.
const LOOK: Duration = Duration::from_secs(1);

/// A channel's number.
fn number(channel: Channel) -> u8 {
    match channel {
        Channel::Stdin => 0,
        Channel::Stdout => 1,
        Channel::Stderr => 2,
        Channel::Error => 3,
        Channel::Resize => 4,
    }
}

/// What a client says in one message.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Data(u8, &'a [u8]),
    End(u8),
    Nothing,
}

fn parse(version: Version, message: &[u8]) -> Result<Said<'_>, Malformed> {
    match message {
        [] => Ok(Said::Nothing),
        [CLOSE, channel] if version >= Version::V5 => Ok(Said::End(*channel)),
        [CLOSE, ..] if version >= Version::V5 => {
            Err(Malformed("of WebSocket closes no channel though it says so"))
        }
        [channel, data @ ..] => Ok(Said::Data(*channel, data)),
    }
}

/// Serves exec or attach.
pub async fn serve(
    backend: &impl Backend,
    order: Order,
    command: &Command,
    version: Version,
    client: Client,
) {
    let Client { read, early, write, probe, idle } = client;
    let socket = super::accept(read, write, early).await;
    let (out, incoming) = socket.split();
    let writer = Arc::new(Writer::new(out, version, idle));
    let wanted = channels(command, version);
    let (mut intake, lines) = Intake::new(wanted.clone());
    for channel in &wanted {
        intake.assign(number(*channel).into(), *channel);
    }
    let reader = Reader { incoming, writer: Arc::clone(&writer), version, probe, idle };
    let mut reading = Reading(tokio::spawn(reader.run(intake)));
    let outlet = |channel| {
        let is_wanted = wanted.contains(&channel);
        is_wanted.then(|| Outlet::Socket(Arc::clone(&writer), number(channel)))
    };
    let outlets = Outlets { stdout: outlet(Channel::Stdout), stderr: outlet(Channel::Stderr) };
    // An empty message says that the connection stands; clients wait for it.
    let first =
        outlets.stdout.as_ref().or(outlets.stderr.as_ref()).map_or(3, |outlet| match outlet {
            Outlet::Socket(_, channel) => *channel,
            Outlet::Spdy(..) => number(Channel::Error),
        });
    if writer.data(first, &[]).await.is_err() {
        return;
    }
    let stdin = command.stdin.then_some(lines.stdin);
    let remote = Remote { stdin, outlets, size: lines.size, gone: writer.peer.gone() };
    let outcome = carry_out(backend, order, remote).await;
    let verdict = version.verdict(&outcome);
    let told = writer.data(number(Channel::Error), verdict.as_bytes()).await;
    if told.is_err() {
        return;
    }
    writer.close().await;
    if tokio::time::timeout(PARTING, &mut reading.0).await.is_err() {
        tracing::debug!("a client keeps its connection though everything has been said");
    }
}

/// The reading side.
struct Reader {
    incoming: SplitStream<WebSocket>,
    writer: Arc<Writer>,
    version: Version,
    probe: Option<Arc<Probe>>,
    idle: Duration,
}

impl Reader {
    async fn run(mut self, mut intake: Intake) -> Ended {
        let ended = loop {
            match self.next().await {
                Ok(message) => {
                    if let Err(ended) = self.take(&mut intake, &message).await {
                        break ended;
                    }
                }
                Err(ended) => break ended,
            }
        };
        tracing::debug!(%ended, "a WebSocket has ended");
        self.writer.peer.hang_up();
        ended
    }

    async fn take(&self, intake: &mut Intake, message: &[u8]) -> Result<(), Ended> {
        match parse(self.version, message)? {
            Said::Nothing => Ok(()),
            Said::End(channel) => {
                intake.end(channel.into());
                Ok(())
            }
            Said::Data(channel, bytes) => {
                let taken = intake.data(channel.into(), bytes);
                tokio::pin!(taken);
                while tokio::time::timeout(LOOK, &mut taken).await.is_err() {
                    if self.probe.as_ref().is_some_and(|probe| probe.is_hung_up()) {
                        return Err(Ended::Closed);
                    }
                }
                Ok(())
            }
        }
    }

    /// The next message with data. Pings are answered on the way.
    async fn next(&mut self) -> Result<bytes::Bytes, Ended> {
        loop {
            let next = self.writer.peer.hear(self.idle, self.incoming.next()).await;
            let next = next.ok_or(Ended::Idle(self.idle))?;
            self.writer.peer.count();
            match next {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                // Channels of the old text protocol are not served; nobody says text in the others.
                Some(Ok(Message::Text(_))) => {
                    return Err(Malformed("of WebSocket has text in it").into());
                }
                Some(Ok(Message::Close(_))) | None => return Err(Ended::Closed),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(std::io::Error::other(error).into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_is_the_channel_and_version_5_closes_one() {
        assert_eq!(parse(Version::V5, b"\0abc"), Ok(Said::Data(0, b"abc")));
        assert_eq!(parse(Version::V5, &[255, 0]), Ok(Said::End(0)));
        assert_eq!(parse(Version::V4, &[255, 0]), Ok(Said::Data(255, &[0])));
        assert_eq!(parse(Version::V5, b""), Ok(Said::Nothing));
        assert!(parse(Version::V5, &[255]).is_err() && parse(Version::V5, &[255, 0, 0]).is_err());
    }
}
