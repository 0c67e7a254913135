//! Readiness: epoll(7) with typed tokens.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::pump::Need;
use super::stdio::Line;

/// Events taken at once.
const BATCH: usize = 16;
/// The code of [`Token::Memory`].
const MEMORY: u64 = 15;

/// What is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Somebody wants to connect.
    Listener,
    /// A connection has something to read, or can be written again.
    Connection(u32),
    /// A child has ended.
    Children,
    /// The container's standard output.
    Output,
    /// Its standard error.
    Error,
    /// A process that is being made, by its key.
    Report(u32),
    /// Something was deleted in the bundle.
    Bundle,
    /// The builder of an update has something to say.
    Update,
    /// Who runs an errand has something to say, by the errand's key.
    Errand(u32),
    /// A foreign shim has answered.
    Peer,
    /// The daemon answers an event.
    Publisher,
    /// The container is out of memory.
    Memory,
    /// Something can be moved for a process, by its key.
    Pump(u32, Line),
    /// Something can be moved for a client, by its key.
    Client(u32, Line),
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    /// Makes one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches a file until it is closed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add(&self, file: impl AsFd, token: Token) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, file, data, EventFlags::IN)?)
    }

    /// Watches a file for reading and, if `writable`, for writing.
    ///
    /// # Errors
    /// It is not watched.
    pub fn modify(&self, file: impl AsFd, token: Token, writable: bool) -> io::Result<()> {
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::OUT, writable);
        Ok(epoll::modify(&self.epoll, file, EventData::new_u64(token.encode()), flags)?)
    }

    /// Watches a file for what a pump needs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_for(&self, file: impl AsFd, token: Token, need: Need) -> io::Result<()> {
        let flags = if need == Need::Sink { EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::add(&self.epoll, file, EventData::new_u64(token.encode()), flags)?)
    }

    /// Watches the writing end of a FIFO for the end of who reads it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_sink(&self, file: impl AsFd, token: Token) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, file, data, EventFlags::empty())?)
    }

    /// As [`Poll::add_sink`] for a file that is watched, and for `room` if there is none.
    ///
    /// # Errors
    /// It is not watched.
    pub fn modify_sink(&self, file: impl AsFd, token: Token, room: bool) -> io::Result<()> {
        let flags = if room { EventFlags::OUT } else { EventFlags::empty() };
        Ok(epoll::modify(&self.epoll, file, EventData::new_u64(token.encode()), flags)?)
    }

    /// Watches a file for urgent data.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_urgent(&self, file: impl AsFd, token: Token) -> io::Result<()> {
        let data = EventData::new_u64(token.encode());
        Ok(epoll::add(&self.epoll, file, data, EventFlags::PRI)?)
    }

    /// Watches a file no longer; one that is not watched is fine.
    pub fn remove(&self, file: impl AsFd) {
        let _unknown = epoll::delete(&self.epoll, file);
    }

    /// Waits for events, for at most `patience`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn wait(
        &self,
        patience: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = Token> + use<>> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; BATCH];
        let patience = patience.and_then(|duration| Timespec::try_from(duration).ok());
        let count = match epoll::wait(&self.epoll, &mut events, patience.as_ref()) {
            Err(Errno::INTR) => 0,
            other => other?,
        };
        Ok(events.into_iter().take(count).filter_map(|event| Token::decode(event.data.u64())))
    }
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Listener => (0, 0),
            Self::Connection(slot) => (1, slot),
            Self::Children => (2, 0),
            Self::Output => (3, 0),
            Self::Error => (4, 0),
            Self::Report(key) => (5, key),
            Self::Bundle => (6, 0),
            Self::Update => (10, 0),
            Self::Publisher => (11, 0),
            Self::Memory => (MEMORY, 0),
            Self::Errand(key) => (20, key),
            Self::Peer => (21, 0),
            Self::Pump(key, line) => (7 + line as u64, key),
            Self::Client(key, line) => (12 + line as u64, key),
        };
        kind << 32 | u64::from(number)
    }

    fn decode(data: u64) -> Option<Self> {
        let number = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        match data >> 32 {
            0 => Some(Self::Listener),
            1 => Some(Self::Connection(number)),
            2 => Some(Self::Children),
            3 => Some(Self::Output),
            4 => Some(Self::Error),
            5 => Some(Self::Report(number)),
            6 => Some(Self::Bundle),
            7 => Some(Self::Pump(number, Line::Input)),
            8 => Some(Self::Pump(number, Line::Output)),
            9 => Some(Self::Pump(number, Line::Error)),
            10 => Some(Self::Update),
            11 => Some(Self::Publisher),
            12 => Some(Self::Client(number, Line::Input)),
            13 => Some(Self::Client(number, Line::Output)),
            14 => Some(Self::Client(number, Line::Error)),
            MEMORY => Some(Self::Memory),
            20 => Some(Self::Errand(number)),
            21 => Some(Self::Peer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were() {
        let tokens = [
            Token::Listener,
            Token::Connection(7),
            Token::Children,
            Token::Output,
            Token::Error,
            Token::Report(u32::MAX),
            Token::Bundle,
            Token::Update,
            Token::Publisher,
            Token::Memory,
            Token::Errand(9),
            Token::Peer,
            Token::Pump(3, Line::Input),
            Token::Pump(4, Line::Output),
            Token::Pump(5, Line::Error),
            Token::Client(6, Line::Input),
            Token::Client(7, Line::Output),
            Token::Client(8, Line::Error),
        ];
        for token in tokens {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
    }
}
