//! Who is attached to the container: clients that hear what it says from then on, and may speak to it.
//!
//! ```text
//!                  ┌► log
//! output, error ───┼► a client's FIFO   full: its stream is not read until there is room, or the client is let go
//!                  └► another's
//! client's FIFO ─────► input, or terminal
//! ```
//!
//! A client that takes nothing for [`PATIENCE`] while something waits for it is let go, and the container goes on. At
//! the container's end nobody is waited for: what is left goes into the FIFOs, which are made larger for it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use super::pump::Pump;
use crate::log::Stream;

/// Clients at a time.
pub const MAX_CLIENTS: usize = 16;
/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a FIFO may be made to hold at the end: what every process may ask for (pipe(7), pipe-max-size).
const ROOM_AT_END: usize = 1 << 20;

/// All clients. Without one it holds no memory.
#[derive(Debug, Default)]
pub struct Clients {
    clients: Vec<Client>,
    last_key: u32,
    /// What is not read while somebody has no room for it, by [`Stream`].
    held: [bool; 2],
    /// The input is to end with what the clients have said already.
    closing: bool,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Names it in this shim.
    pub key: u32,
    /// Its caller's name for it.
    pub id: String,
    /// Where it hears, by [`Stream`].
    pub sinks: [Option<Sink>; 2],
    /// What moves what it says.
    pub input: Option<Box<Pump>>,
}

/// A FIFO that somebody reads.
#[derive(Debug)]
pub struct Sink {
    file: OwnedFd,
    /// What there was no room for.
    pending: Vec<u8>,
    /// Since when nothing of it was taken.
    since: Option<Instant>,
    /// It is watched for room, and not only for its reader's end.
    watched: bool,
    /// There is no more to come.
    ending: bool,
}

impl Clients {
    /// Gives a new client its key.
    pub fn add(&mut self, id: String, sinks: [Option<Sink>; 2], input: Option<Box<Pump>>) -> u32 {
        self.last_key = self.last_key.wrapping_add(1);
        self.clients.push(Client { key: self.last_key, id, sinks, input });
        self.last_key
    }

    /// Whether there are as many as there may be.
    pub fn is_full(&self) -> bool {
        self.clients.len() >= MAX_CLIENTS
    }

    /// A client by its caller's name for it.
    pub fn by_id(&self, id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.id == id)
    }

    /// A client by its key.
    pub fn by_key(&mut self, key: u32) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.key == key)
    }

    /// All of them.
    pub fn all(&mut self) -> &mut [Client] {
        &mut self.clients
    }

    /// Takes out a client.
    pub fn remove(&mut self, key: u32) -> Option<Client> {
        let at = self.clients.iter().position(|client| client.key == key)?;
        let client = self.clients.swap_remove(at);
        if self.clients.is_empty() {
            self.clients = Vec::new();
        }
        Some(client)
    }

    /// Tells everybody who listens to `stream`; `false` when somebody has no room for more.
    pub fn hear(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let mut room = true;
        for sink in self.clients.iter_mut().filter_map(|client| client.sink(stream)) {
            room &= sink.put(bytes);
        }
        room
    }

    /// Nothing more comes on a stream.
    pub fn end(&mut self, stream: Stream) {
        for client in &mut self.clients {
            if let Some(sink) = client.sink(stream) {
                sink.end();
            }
        }
    }

    /// Whether somebody has no room for what comes on a stream.
    pub fn is_full_for(&self, stream: Stream) -> bool {
        let mut sinks = self.clients.iter().filter_map(|all| all.sinks[stream as usize].as_ref());
        sinks.any(|sink| !sink.pending.is_empty() && !sink.ending)
    }

    /// Remembers whether a stream is read; returns whether it was not.
    pub fn hold(&mut self, stream: Stream, held: bool) -> bool {
        std::mem::replace(&mut self.held[stream as usize], held)
    }

    /// The input is to end; whoever has nothing to say at the moment is not waited for.
    pub fn close_input(&mut self) {
        self.closing = true;
    }

    /// Whether what a client says after this goes nowhere.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Until when somebody has to take something.
    pub fn deadline(&self) -> Option<Instant> {
        let sinks = self.clients.iter().flat_map(|client| client.sinks.iter().flatten());
        sinks.filter_map(|sink| sink.since).min().map(|since| since + PATIENCE)
    }

    /// Those who are done with, or too slow.
    pub fn finished(&self, now: Instant) -> Vec<u32> {
        let finished = self.clients.iter().filter(|client| client.is_finished(now));
        finished.map(|client| client.key).collect()
    }
}

impl Client {
    fn sink(&mut self, stream: Stream) -> Option<&mut Sink> {
        self.sinks[stream as usize].as_mut()
    }

    /// Closes FIFOs that have all they will get.
    pub fn settle(&mut self) {
        self.keep(|sink| !sink.ending || !sink.pending.is_empty());
    }

    /// Takes what can be taken now, and closes FIFOs that nobody reads any longer.
    pub fn flush(&mut self) {
        self.sinks.iter_mut().flatten().for_each(Sink::flush);
        self.keep(Sink::has_reader);
    }

    fn keep(&mut self, is_needed: impl Fn(&Sink) -> bool) {
        for sink in &mut self.sinks {
            sink.take_if(|sink| !is_needed(sink));
        }
    }

    fn is_finished(&self, now: Instant) -> bool {
        let mut sinks = self.sinks.iter().flatten();
        let slow = |sink: &Sink| sink.since.is_some_and(|since| now >= since + PATIENCE);
        (self.sinks.iter().all(Option::is_none) && self.input.is_none()) || sinks.any(slow)
    }
}

impl Sink {
    /// A FIFO's writing end, which does not block.
    pub fn new(file: OwnedFd) -> Self {
        Self { file, pending: Vec::new(), since: None, watched: false, ending: false }
    }

    /// The FIFO.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// What it is to be watched for, if that is another thing than before: room (`true`), or its reader's end.
    pub fn new_watch(&mut self) -> Option<bool> {
        let wanted = !self.pending.is_empty();
        (std::mem::replace(&mut self.watched, wanted) != wanted).then_some(wanted)
    }

    /// Writes what waits.
    fn flush(&mut self) {
        if !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            let _room = self.put(&pending);
        }
    }

    /// Writes what waits, and makes room for it: the FIFO is closed as soon as it has it.
    pub fn end(&mut self) {
        self.ending = true;
        if self.pending.is_empty() {
            return;
        }
        let held = fcntl_getpipe_size(&self.file).unwrap_or(0);
        let wanted = (held + self.pending.len()).next_power_of_two().min(ROOM_AT_END);
        let _refused = fcntl_setpipe_size(&self.file, wanted);
        self.flush();
    }

    fn has_reader(&self) -> bool {
        let mut files = [PollFd::new(&self.file, PollFlags::empty())];
        let polled = poll(&mut files, Some(&Timespec::default()));
        polled.is_err() || !files[0].revents().contains(PollFlags::ERR)
    }

    /// `false`: there is no room for more.
    fn put(&mut self, bytes: &[u8]) -> bool {
        let written = if self.pending.is_empty() { self.write(bytes) } else { 0 };
        let rest = bytes.get(written..).unwrap_or_default();
        if rest.is_empty() {
            self.since = None;
            return true;
        }
        if written > 0 || self.since.is_none() {
            self.since = Some(Instant::now());
        }
        self.pending.extend_from_slice(rest);
        false
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match write(&self.file, rest) {
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return done,
                // Whoever has gone is noticed by its end.
                Err(_) => return bytes.len(),
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::read;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn client() -> (OwnedFd, Clients, u32) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut clients = Clients::default();
        let key = clients.add("a".to_owned(), [Some(Sink::new(writer)), None], None);
        (reader, clients, key)
    }

    fn taken(reader: &OwnedFd) -> usize {
        let mut chunk = vec![0; 2 << 20];
        let mut all = 0;
        while let Ok(count @ 1..) = read(reader, &mut chunk) {
            all += count;
        }
        all
    }

    #[test]
    fn a_client_without_room_holds_its_stream_and_is_let_go_when_it_takes_nothing() {
        let (reader, mut clients, key) = client();
        let mut said = 0;
        while clients.hear(Stream::Output, &[0; 4096]) {
            said += 4096;
        }
        said += 4096;
        assert!(clients.is_full_for(Stream::Output) && !clients.is_full_for(Stream::Error));
        let deadline = clients.deadline().unwrap();
        assert!(clients.finished(deadline - Duration::from_millis(1)).is_empty());
        assert_eq!(clients.finished(deadline), [key]);
        assert_eq!(taken(&reader), said - 4096);
        clients.all()[0].flush();
        assert_eq!((taken(&reader), clients.deadline()), (4096, None));
        assert!(!clients.is_full_for(Stream::Output));
    }

    #[test]
    fn at_the_end_everything_is_in_the_fifo_before_it_is_closed() {
        let (reader, mut clients, key) = client();
        let mut said = 0;
        while said < 600_000 {
            clients.hear(Stream::Output, &[0; 5000]);
            said += 5000;
        }
        clients.end(Stream::Output);
        let client = clients.by_key(key).unwrap();
        client.settle();
        assert!(client.sinks[0].is_none() && client.is_finished(Instant::now()));
        assert_eq!(taken(&reader), said);
    }

    #[test]
    fn a_client_that_has_gone_is_noticed_and_costs_nothing() {
        let (reader, mut clients, key) = client();
        drop(reader);
        assert!(clients.hear(Stream::Output, b"lost"));
        clients.by_key(key).unwrap().flush();
        assert_eq!(clients.finished(Instant::now()), [key]);
        assert!(clients.remove(key).is_some() && clients.clients.capacity() == 0);
    }
}
