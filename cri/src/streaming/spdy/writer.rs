//! The writing side of a session, shared by whoever has something to send.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::super::buffer::Buffer;
use super::super::peer::Peer;
use super::super::remote::Gone;
use super::super::wire::WriteEnd;
use super::{frame, header};

/// What a new stream and the session may send before the peer makes room (draft 3.1, section 2.6.8).
const WINDOW: i64 = 64 << 10;
/// What is granted on top: the largest window of all.
const GRANT: u32 = 0x7fff_ffff - (64 << 10);
/// Answers that may wait; who pings faster than it reads, waits.
const MAX_POSTED: usize = 4096;

/// The streams of a session and its writing end.
pub struct Writer {
    out: tokio::sync::Mutex<Out>,
    table: Mutex<Table>,
    /// Told when a window grows.
    room: Notify,
    /// Short frames that the reading side wants sent, without waiting for it.
    posted: Mutex<Vec<u8>>,
    mail: Notify,
    mailed: Notify,
    /// Who is written to.
    pub peer: Peer,
}

struct Out {
    end: WriteEnd,
    headers: header::Writer,
    /// A frame was given up in its middle.
    torn: bool,
}

struct Table {
    streams: HashMap<u32, Sides>,
    /// The peer has shown that it counts what it is sent.
    counts: bool,
    initial: i64,
    session: i64,
}

struct Sides {
    ours_open: bool,
    theirs_open: bool,
    window: i64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Writes to `end`, which may take nothing for as long as `patience`.
    pub fn new(end: WriteEnd, patience: Duration) -> Self {
        let out = Out { end, headers: header::Writer::default(), torn: false };
        let streams = HashMap::new();
        let table = Table { streams, counts: false, initial: WINDOW, session: WINDOW };
        Self {
            out: tokio::sync::Mutex::new(out),
            table: Mutex::new(table),
            room: Notify::new(),
            posted: Mutex::default(),
            mail: Notify::new(),
            mailed: Notify::new(),
            peer: Peer::new(patience),
        }
    }

    /// Streams that are open on at least one side.
    pub fn streams(&self) -> usize {
        self.table().streams.len()
    }

    /// Whether there is such a stream, and the peer may send on it.
    pub fn is_open(&self, stream: u32) -> bool {
        self.table().streams.get(&stream).is_some_and(|sides| sides.theirs_open)
    }

    /// Grants the session's window.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn greet(&self) -> Result<(), Gone> {
        self.write(&frame::window_update(0, GRANT)).await
    }

    /// Accepts a stream of the peer's.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn accept(&self, stream: u32, theirs_open: bool) -> Result<(), Gone> {
        {
            let mut table = self.table();
            let window = table.initial;
            table.streams.insert(stream, Sides { ours_open: true, theirs_open, window });
        }
        self.while_there(async {
            let mut out = self.out.lock().await;
            let block = out.headers.write(&[]);
            let mut frames = frame::syn_reply(stream, &block);
            frames.extend_from_slice(&frame::window_update(stream, GRANT));
            out.write(&frames).await
        })
        .await
    }

    /// Sends data; the buffer is of no use afterwards.
    ///
    /// # Errors
    /// The client is gone, or has given the stream up.
    pub async fn data(&self, stream: u32, buffer: &mut Buffer, length: usize) -> Result<(), Gone> {
        let mut sent = 0;
        while sent < length {
            let piece = self.reserve(stream, length - sent).await?;
            let head = frame::data(stream, false, piece);
            self.write(buffer.framed(&head, sent, sent + piece)).await?;
            sent += piece;
        }
        Ok(())
    }

    /// Ends our side of a stream.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn finish(&self, stream: u32) -> Result<(), Gone> {
        let open = self
            .table()
            .streams
            .get_mut(&stream)
            .is_some_and(|sides| std::mem::replace(&mut sides.ours_open, false));
        if open {
            self.write(&frame::data(stream, true, 0)).await?;
            self.sweep(stream);
        }
        Ok(())
    }

    /// Gives a stream up, if it is there.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn reset(&self, stream: u32, status: u32) -> Result<(), Gone> {
        let removed = self.table().streams.remove(&stream);
        self.room.notify_waiters();
        match removed {
            Some(_) => self.refuse(stream, status).await,
            None => Ok(()),
        }
    }

    /// Refuses a stream that was not accepted.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn refuse(&self, stream: u32, status: u32) -> Result<(), Gone> {
        self.write(&frame::rst_stream(stream, status)).await
    }

    /// Notes that the peer sends no more on a stream.
    pub fn peer_finished(&self, stream: u32) {
        if let Some(sides) = self.table().streams.get_mut(&stream) {
            sides.theirs_open = false;
        }
        self.sweep(stream);
    }

    /// Notes that the peer has given a stream up.
    pub fn peer_reset(&self, stream: u32) {
        self.table().streams.remove(&stream);
        self.room.notify_waiters();
    }

    /// Notes how much the peer takes on a stream before it makes room.
    pub fn peer_window(&self, window: u32) {
        let mut table = self.table();
        let change = i64::from(window) - table.initial;
        table.counts = true;
        table.initial = i64::from(window);
        for sides in table.streams.values_mut() {
            sides.window = sides.window.saturating_add(change);
        }
        drop(table);
        self.room.notify_waiters();
    }

    /// Notes that the peer has made room on a stream; zero is the session.
    pub fn peer_made_room(&self, stream: u32, delta: u32) {
        let mut table = self.table();
        table.counts = true;
        let window = match table.streams.get_mut(&stream) {
            _ if stream == 0 => Some(&mut table.session),
            Some(sides) => Some(&mut sides.window),
            None => None,
        };
        if let Some(window) = window {
            *window = window.saturating_add(i64::from(delta));
        }
        drop(table);
        self.room.notify_waiters();
    }

    /// Has a short frame sent by [`Writer::deliver`].
    pub async fn post(&self, frame: &[u8]) {
        loop {
            let mailed = self.mailed.notified();
            {
                let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
                if posted.len() + frame.len() <= MAX_POSTED {
                    posted.extend_from_slice(frame);
                    self.mail.notify_one();
                    return;
                }
            }
            mailed.await;
        }
    }

    /// Sends what is posted, until the session ends.
    pub async fn deliver(&self) -> Gone {
        loop {
            self.mail.notified().await;
            let frames = {
                let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *posted)
            };
            if let Err(gone) = self.write(&frames).await {
                return gone;
            }
            self.mailed.notify_waiters();
        }
    }

    /// Says that this is all, and closes our side of the connection.
    pub async fn go_away(&self, last_stream: u32, status: u32) {
        let frame = frame::go_away(last_stream, status);
        let told = self.while_there(async {
            let mut out = self.out.lock().await;
            out.write(&frame).await?;
            out.end.shutdown().await
        });
        if told.await.is_err() {
            tracing::debug!("a client is gone before the end of its session");
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a stream that has ended on both sides.
    fn sweep(&self, stream: u32) {
        let mut table = self.table();
        if table.streams.get(&stream).is_some_and(|sides| !sides.ours_open && !sides.theirs_open) {
            table.streams.remove(&stream);
        }
    }

    /// How much of `wanted` may be sent now; waits for room if the peer counts.
    async fn reserve(&self, stream: u32, wanted: usize) -> Result<usize, Gone> {
        self.while_there(async {
            loop {
                let room = self.room.notified();
                tokio::pin!(room);
                // From here on no change is missed.
                room.as_mut().enable();
                let piece = self.table().take(stream, wanted);
                match piece {
                    Some(0) => room.await,
                    Some(piece) => return Ok(piece),
                    None => return Err(std::io::ErrorKind::NotConnected.into()),
                }
            }
        })
        .await
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), Gone> {
        self.while_there(async { self.out.lock().await.write(bytes).await }).await?;
        self.peer.count();
        Ok(())
    }

    /// Waits for something as long as the client is there, and no longer than it may take nothing.
    async fn while_there<T>(
        &self,
        work: impl Future<Output = std::io::Result<T>>,
    ) -> Result<T, Gone> {
        match self.peer.while_there(work).await? {
            Ok(value) => Ok(value),
            // The stream's end is not the session's.
            Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Err(Gone),
            Err(_) => {
                self.peer.hang_up();
                Err(Gone)
            }
        }
    }
}

impl Out {
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if std::mem::replace(&mut self.torn, true) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.end.write_all(bytes).await?;
        self.end.flush().await?;
        self.torn = false;
        Ok(())
    }
}

impl Table {
    /// Takes room on a stream: none at the moment, or never again.
    fn take(&mut self, stream: u32, wanted: usize) -> Option<usize> {
        let wanted = i64::try_from(wanted.min(frame::MAX_DATA)).ok()?;
        let sides = self.streams.get_mut(&stream).filter(|sides| sides.ours_open)?;
        let piece =
            if self.counts { wanted.min(sides.window).min(self.session).max(0) } else { wanted };
        // What was sent before the peer showed that it counts is counted, too.
        sides.window -= piece;
        self.session -= piece;
        usize::try_from(piece).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(counts: bool) -> Table {
        let sides = Sides { ours_open: true, theirs_open: true, window: WINDOW };
        Table { streams: HashMap::from([(1, sides)]), counts, initial: WINDOW, session: WINDOW }
    }

    #[test]
    fn a_peer_that_does_not_count_is_not_waited_for() {
        let mut table = table(false);
        for _ in 0..100 {
            assert_eq!(table.take(1, 50_000), Some(50_000));
        }
        assert_eq!(table.take(3, 1), None);
    }

    #[test]
    fn a_peer_that_counts_gets_no_more_than_its_window() {
        let mut table = table(true);
        assert_eq!(table.take(1, 50_000), Some(50_000));
        assert_eq!(table.take(1, 50_000), Some(15_536));
        assert_eq!(table.take(1, 50_000), Some(0));
    }

    #[tokio::test]
    async fn room_that_the_peer_makes_is_used() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let writer = std::sync::Arc::new(Writer::new(Box::new(near), Duration::from_secs(5)));
        writer.accept(1, true).await.unwrap();
        writer.peer_window(10);
        let sending = tokio::spawn({
            let writer = std::sync::Arc::clone(&writer);
            async move {
                let mut buffer = Buffer::new(25);
                buffer.room().copy_from_slice(b"abcdefghijklmnopqrstuvwxy");
                writer.data(1, &mut buffer, 25).await
            }
        });
        tokio::task::yield_now().await;
        assert!(!sending.is_finished());
        writer.peer_made_room(1, 100);
        sending.await.unwrap().unwrap();
        writer.go_away(1, 0).await;
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut all).await.unwrap();
        let text = String::from_utf8_lossy(&all);
        assert!(text.contains("abcdefghij") && text.contains("klmnopqrstuvwxy"), "{text:?}");
    }

    #[tokio::test]
    async fn a_stream_that_the_peer_has_given_up_takes_no_more() {
        let (near, _far) = tokio::io::duplex(1 << 20);
        let writer = Writer::new(Box::new(near), Duration::from_secs(5));
        writer.accept(1, true).await.unwrap();
        writer.peer_reset(1);
        assert_eq!(writer.data(1, &mut Buffer::new(4), 4).await, Err(Gone));
        assert!(!*writer.peer.gone().borrow());
        assert_eq!(writer.streams(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_given_up_after_a_while() {
        let (near, _far) = tokio::io::duplex(64);
        let writer = Writer::new(Box::new(near), Duration::from_millis(20));
        writer.accept(1, true).await.unwrap();
        assert_eq!(writer.data(1, &mut Buffer::new(4096), 4096).await, Err(Gone));
        assert!(*writer.peer.gone().borrow());
    }
}
